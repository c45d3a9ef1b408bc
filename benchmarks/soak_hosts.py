"""Workers on four hosts of their own (network namespaces), of which two are cut off for a while. Needs root and `ip`.

    python -m benchmarks.soak_hosts

Each cut lasts two and a half times the stall time: the host reaches neither database nor service, others take it for
dead, and it comes back. At the end one worker is killed. The books of service and database must agree.
"""

import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio

from novita_async.testing import Fault, FaultPlan
from tests.helpers import worker_campaigns
from tests.helpers.postgres import new_batch, postgres
from tests.helpers.programs import Program, python
from tests.helpers.served import served
from tests.helpers.worker_campaigns import Campaign

HOSTS = 4
HERE, DATABASE, SERVICE = "10.77.0.1", 5999, 5998


def ip(words: str, *, check: bool = True) -> None:
    subprocess.run(["ip", *words.split()], check=check, capture_output=not check)  # noqa: S603, S607


@contextmanager
def hosts() -> Iterator[None]:
    """Namespaces `nv0` and so on, each with a cable to a bridge that has this process's address."""
    try:
        ip("link add nvbridge type bridge")
        ip(f"addr add {HERE}/24 dev nvbridge")
        ip("link set nvbridge up")
        for n in range(HOSTS):
            ip(f"netns add nv{n}")
            ip(f"link add nvcable{n} type veth peer name nvport{n}")
            ip(f"link set nvport{n} netns nv{n}")
            ip(f"link set nvcable{n} master nvbridge up")
            ip(f"-n nv{n} addr add 10.77.0.{10 + n}/24 dev nvport{n}")
            ip(f"-n nv{n} link set nvport{n} up")
        yield
    finally:
        for n in range(HOSTS):
            ip(f"link del nvcable{n}", check=False)
            ip(f"netns del nv{n}", check=False)
        ip("link del nvbridge", check=False)


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, unix: str, port: int
) -> None:
    """Pass a connection of a host on to the database's socket, or to a port of this machine."""
    opening = asyncio.open_unix_connection(unix) if unix else asyncio.open_connection("127.0.0.1", port)
    other_reader, other_writer = await opening

    async def pump(come: asyncio.StreamReader, go: asyncio.StreamWriter) -> None:
        try:
            while data := await come.read(65536):
                go.write(data)
                await go.drain()
        except OSError:
            pass
        finally:
            go.close()

    await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))


def start(campaign: Campaign, batch: str, folder: Path, n: int) -> Program:
    told = {
        "skew": campaign.skews[n % len(campaign.skews)],
        **{name: getattr(campaign, name) for name in ("window", "quota", "stall", "in_flight")},
    }
    url, service = f"postgresql://postgres@{HERE}:{DATABASE}/postgres#{batch}", f"http://{HERE}:{SERVICE}"
    arguments = ", ".join(map(repr, (url, service, str(folder), json.dumps(told))))
    code = f"import tests.helpers.worker_campaigns as c; c.run_worker({arguments})"
    command = ["ip", "netns", "exec", f"nv{n}", *python("-c", code, flags=())]
    return Program.start(command, cwd=worker_campaigns.ROOT)


async def fight(campaign: Campaign, url: str, folder: Path) -> dict[str, int]:
    slow = {number: Fault.slow(3 * campaign.stall) for number in campaign.slow}
    faults = FaultPlan.listed("submit", slow)
    with served(faults=faults, images_per_minute=100_000) as server:
        async with AsyncExitStack() as passing:
            socket = f"{parse_qs(urlsplit(url).query)['host'][0]}/.s.PGSQL.5432"
            port = urlsplit(server.url).port or 0
            for listening, to in ((DATABASE, socket), (SERVICE, "")):
                carry = partial(_pass_on, unix=to, port=port)
                await passing.enter_async_context(await asyncio.start_server(carry, HERE, listening))
            await worker_campaigns._plan(campaign, url, folder)  # noqa: SLF001
            running = [start(campaign, url.partition("#")[2], folder, n) for n in range(HOSTS)]
            try:
                on_its_way = await _cut_and_kill(campaign, url, server, running)
                for each in running[:-1]:
                    await anyio.to_thread.run_sync(each.wait)
            finally:
                for each in running:
                    each.kill()
        return await worker_campaigns._compared(campaign, url, server, on_its_way)  # noqa: SLF001


async def _cut_and_kill(campaign: Campaign, url: str, server: object, running: list[Program]) -> set[int]:
    """Cut two hosts off in turn, kill the worker of the last; what was on its way meanwhile."""
    on_its_way: set[int] = set()
    for n in range(2):
        await worker_campaigns._progress(server, campaign.requests * (n + 1) // 4, running)  # noqa: SLF001
        on_its_way |= await worker_campaigns._doubtful(url)  # noqa: SLF001
        ip(f"link set nvcable{n} down")
        until = time.monotonic() + 2.5 * campaign.stall
        while time.monotonic() < until:
            on_its_way |= await worker_campaigns._doubtful(url)  # noqa: SLF001
            await asyncio.sleep(0.05)
        ip(f"link set nvcable{n} up")
    await worker_campaigns._progress(server, campaign.requests * 3 // 4, running)  # noqa: SLF001
    running[-1].kill()
    return on_its_way | await worker_campaigns._doubtful(url)  # noqa: SLF001


def main() -> None:
    campaign = Campaign(requests=240, quota=48, slow=(5, 50, 100))
    with hosts(), postgres() as url, tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(fight(campaign, new_batch(url), Path(folder)))
    print(f"hosts: {HOSTS} hosts, 2 cuts, 1 kill: {found}, quota {campaign.quota}")


if __name__ == "__main__":
    main()
