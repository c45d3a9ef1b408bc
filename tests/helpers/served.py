"""A simulated service in a thread of its own, for what talks to it over real sockets from elsewhere."""

import asyncio
import threading
import traceback
from contextlib import contextmanager, suppress

import anyio
from attrs import define, field, frozen

from novita_async.testing import ExchangeKind, Fault, FaultPlan, SimulatorConfig, SimulatorServer

LONGEST_END = 20.0


class ServerDiedError(AssertionError):
    """A server ended though nobody had told it to. The message holds its traceback."""


@define(eq=False)
class Life:
    """A server's thread, from its start to its end."""

    server: SimulatorServer
    thread: threading.Thread = field(init=False)
    error: BaseException | None = None
    _begun: threading.Event = field(factory=threading.Event)
    _loop: asyncio.AbstractEventLoop | None = None
    _stop: asyncio.Event = field(factory=asyncio.Event)

    def start(self) -> None:
        self.thread = threading.Thread(target=self._run, name=f"the server of {self.server!r}", daemon=True)
        self.thread.start()
        self._begun.wait()
        self.check()

    def _run(self) -> None:
        try:
            anyio.run(self._serve)
        except BaseException as error:  # noqa: BLE001 - told by `check`, in the thread of the test
            self.error = error
        finally:
            self._begun.set()

    async def _serve(self) -> None:
        async with self.server:
            self._loop = asyncio.get_running_loop()
            self._begun.set()
            await self._stop.wait()

    def check(self) -> None:
        """Raise the error that the server died of."""
        if self.error is not None:
            trace = "".join(traceback.format_exception(self.error))
            raise ServerDiedError(f"the simulated service has died:\n{trace}") from self.error

    def end(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._stop.set)
        self.thread.join(LONGEST_END)
        assert not self.thread.is_alive(), "the simulated service does not end"


@frozen(kw_only=True)
class Withheld(FaultPlan):
    """No poll is answered until the test says so, and no task ends before, however slow the machine."""

    released: threading.Event = field(factory=threading.Event)

    def fault_for(self, kind: ExchangeKind, _: int) -> Fault | None:
        if kind is not ExchangeKind.POLL or self.released.is_set():
            return None
        return Fault.answer(429, retry_after=1)


_lives: list[Life] = []


def check_servers() -> None:
    """Raise the error of a server that has died. Called by everything that waits for a client of one."""
    for life in _lives:
        life.check()


@contextmanager
def served(*, faults: FaultPlan | None = None, **config):
    """The running server: `server.url`, `server.ledger`."""
    settings = {"speed": 50.0, "latency": 0.002, "plain_pictures": True, **config}
    life = Life(SimulatorServer(SimulatorConfig(**settings), faults=faults))
    life.start()
    _lives.append(life)
    try:
        yield life.server
    finally:
        _lives.remove(life)
        life.end()
    life.check()
