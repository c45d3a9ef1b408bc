"""Two databases, of which one follows the other and takes over when that dies.

What follows gets the log over a wire of ours, which can be slow, or held: what was confirmed from then on is
forgotten by the failover. (A delay of its own would not do: what it has received is applied before.)
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from subprocess import Popen

from attrs import define, field

from novita_async._journal.postgres.journal import upgrade
from tests.helpers.postgres import PROGRAMS, as_nobody, make_home, run_sql, serving, url_of


@define(eq=False)
class Wire:
    """Carries the log to the server that follows."""

    delay: float
    """Seconds that it takes."""
    held: bool = False
    """Whether nothing comes through any more."""
    carrying: set["asyncio.Task[None]"] = field(factory=set["asyncio.Task[None]"], init=False)

    async def carry(self, reader, writer, to: Path) -> None:
        """Carry one connection to a socket."""
        self.carrying.add(asyncio.current_task())
        there, back = await asyncio.open_unix_connection(to)
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        ways = (self._pass(reader, back), self._receive(there, late), self._deliver(late, writer))
        try:
            with suppress(OSError):
                await asyncio.gather(*ways)
        finally:
            for each in (back, writer):
                each.close()

    async def _pass(self, come, go) -> None:
        while data := await come.read(1 << 16):
            go.write(data)
        raise ConnectionResetError  # ends the other two

    async def _receive(self, come, late) -> None:
        while data := await come.read(1 << 16):
            late.put_nowait((asyncio.get_running_loop().time() + self.delay, data))

    async def _deliver(self, late, go) -> None:
        while True:
            due, data = await late.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            if not self.held:
                go.write(data)


@define(eq=False)
class Pair:
    """A server that is at work, and one that follows it."""

    url: str
    """Of both, as who uses them writes it."""
    first: "Popen[bytes]"
    wire: Wire
    second: Path
    """Where the one that follows is."""

    async def fail_over(self) -> None:
        """Let the server die, and the other one take its place with what it has."""
        self.wire.held = True
        self.first.kill()
        await asyncio.to_thread(self.first.wait)
        await run_sql(url_of(self.second), "SELECT pg_promote()")

    async def catch_up(self) -> None:
        """Wait until what follows has all that there is."""
        behind = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) > 0 FROM pg_stat_replication"
        while any(each[0] for each in await run_sql(self.url, behind) or [[True]]):
            await asyncio.sleep(0.05)


@asynccontextmanager
async def pair(*, delay: float = 0.0, synchronous: bool = False) -> AsyncIterator[Pair]:
    """A server with the tables of journals, and one that follows it so late."""
    home = Path(tempfile.mkdtemp(prefix="novita-pair-"))
    one, two, between = home / "one", home / "two", home / "wire"
    wire = Wire(delay)
    try:
        for each in (home, one, two, between):
            each.mkdir(exist_ok=True)
            make_home(each)
        with ExitStack() as running:
            initdb = [PROGRAMS / "initdb", "-D", one / "data", "--no-sync", "--no-locale", "--auth=trust"]
            await asyncio.to_thread(as_nobody, *initdb, "-U", "postgres", "-E", "utf8")
            first = running.enter_context(serving(one))
            while not await _is_up(url_of(one)):
                await asyncio.sleep(0.05)
            await upgrade(url_of(one))
            socket = one / ".s.PGSQL.5432"
            listening = await asyncio.start_unix_server(
                lambda reader, writer: wire.carry(reader, writer, socket), between / ".s.PGSQL.5432"
            )
            (between / ".s.PGSQL.5432").chmod(0o777)
            backup = [
                PROGRAMS / "pg_basebackup",
                "-D",
                two / "data",
                "-h",
                one,
                "-U",
                "postgres",
                "--no-sync",
            ]
            await asyncio.to_thread(as_nobody, *backup, "--checkpoint=fast", "--wal-method=stream")
            (two / "data" / "standby.signal").touch()
            make_home(two / "data" / "standby.signal")
            follows = f"primary_conninfo=host={between} user=postgres application_name=second"
            running.enter_context(serving(two, follows, "wal_receiver_status_interval=1s"))
            pair = Pair(f"{url_of(one, two)}&target_session_attrs=read-write", first, wire, two)
            while not await _is_up(url_of(two)):
                await asyncio.sleep(0.05)
            await pair.catch_up()
            if synchronous:
                await run_sql(url_of(one), "ALTER SYSTEM SET synchronous_standby_names = 'second'")
                await run_sql(url_of(one), "SELECT pg_reload_conf()")
            try:
                yield pair
            finally:
                listening.close()
                for each in wire.carrying:
                    each.cancel()
                await asyncio.gather(*wire.carrying, return_exceptions=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def _is_up(url: str) -> bool:
    with suppress(Exception):
        return bool(await run_sql(url, "SELECT 1"))
    return False
