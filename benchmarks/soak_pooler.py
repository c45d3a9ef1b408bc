"""Workers behind a real PgBouncer in transaction mode. Needs its program (Debian: `apt install pgbouncer`).

    python -m benchmarks.soak_pooler

Every statement may get another server: nothing may stay prepared, nothing may be listened for. Workers are killed and
stopped as in other campaigns, PgBouncer itself is started anew on the way, and one process waits for the end of a
request that another buys.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from novita_async import NovitaClient, Polling, Succeeded
from novita_async.journal import PostgresJournal
from tests.helpers.postgres import NOBODY, make_home, new_batch, postgres
from tests.helpers.served import served
from tests.helpers.service import request
from tests.helpers.worker_campaigns import Campaign, fight

SETTINGS = """
[databases]
postgres = host={host} port=5432 user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
logfile = {folder}/log
pidfile = {folder}/pid
ignore_startup_parameters = extra_float_digits
"""


class Pooler:
    """PgBouncer, which can be started anew."""

    def __init__(self, program: str, database: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        host = parse_qs(urlsplit(database).query)["host"][0]
        self.settings = folder / "pgbouncer.ini"
        self.settings.write_text(SETTINGS.format(host=host, port=self.port, folder=folder))
        self.program = program
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres?sslmode=disable"
        self.start()

    def start(self) -> None:
        as_whom: Any = {"user": NOBODY, "group": NOBODY, "extra_groups": ()} if os.geteuid() == 0 else {}
        command = [self.program, "-q", str(self.settings)]
        self.running = subprocess.Popen(command, stderr=subprocess.DEVNULL, **as_whom)  # noqa: S603

    def end(self) -> None:
        self.running.kill()
        self.running.wait()


@contextmanager
def pooled(database: str) -> Iterator[Pooler]:
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        sys.exit("PgBouncer is needed: apt install pgbouncer")
    folder = Path(tempfile.mkdtemp(prefix="novita-pooler-"))
    make_home(folder)
    pooler = Pooler(program, database, folder)
    try:
        yield pooler
    finally:
        pooler.end()
        shutil.rmtree(folder)


async def is_seen(url: str) -> None:
    """See that the pooler is noticed for what it is."""
    async with await PostgresJournal.join(f"{url}#seen") as journal:
        assert journal._store.link.pooled  # noqa: SLF001


async def single(url: str) -> None:
    """A request that one process enqueues, another buys and a third waits for; a quota without a journal."""
    with served(workers=4) as server, tempfile.TemporaryDirectory() as folder:
        known = {"api_key": "sk_simulator", "base_url": server.url, "polling": Polling.fixed(0.1)}
        async with (
            NovitaClient(**known) as web,
            NovitaClient(**known, quota=url, images_per_minute=60) as worker,
            NovitaClient(**known) as other,
        ):
            journal = f"{url}#web"
            order = await web.enqueue(request(), journal=journal, save_to=folder)
            async with worker.work(journal=journal, save_to=folder, forever=True):
                outcome = await other.outcome(order, journal=journal)
            assert isinstance(outcome, Succeeded), outcome
            await worker.run(request())
        assert server.ledger.images == 2


async def campaign(pooler: Pooler) -> dict[str, int]:
    """Kills, and a pooler that is started anew."""

    async def restart() -> None:
        for _ in range(3):
            await asyncio.sleep(6.0)
            pooler.end()
            await asyncio.sleep(0.5)
            pooler.start()

    restarting = asyncio.create_task(restart())
    with tempfile.TemporaryDirectory() as folder:
        found = await fight(
            Campaign(requests=200, workers=4, kills=8, quota=48, slow=(5, 60, 120)),
            new_batch(pooler.url),
            Path(folder),
        )
    restarting.cancel()
    return found


def main() -> None:
    with postgres() as database, pooled(database) as pooler:
        time.sleep(0.5)
        asyncio.run(is_seen(pooler.url))
        asyncio.run(single(pooler.url))
        print("pooler: single requests and a quota without a journal", flush=True)
        print(f"pooler: 8 kills, PgBouncer started anew 3 times: {asyncio.run(campaign(pooler))}", flush=True)


if __name__ == "__main__":
    main()
