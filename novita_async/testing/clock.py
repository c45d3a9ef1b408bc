"""An event loop whose time jumps: a wait of 100 minutes takes no time, and still lasts 100 minutes.

Rules:

1. Time begins at 0 and moves only when nothing else can happen: no callback is ready, no socket is, and
   no worker thread is busy. Then it jumps to the next timer.
2. Threads work in real time, in which virtual time stands still. Counted are anyio's worker threads,
   everything given to `run_in_executor` (a thread pool of one's own included), and whatever holds the
   time with `hold()`. A thread counts until the loop has taken in its result, so none can slip through
   between its last line and that. A thread must therefore never wait for something that virtual time
   would bring.
3. Sockets work. While one is open (the loop's own pipe and listening sockets aside), a jump is preceded
   by `socket_timeout` real seconds in which data may come: enough here, but for nothing that
   computes for long. Keep sockets out of tests with thousands of waits.
4. When nothing is ready, no timer is set, no thread is busy and no socket is open, nothing can ever
   happen: after `deadlock_timeout` real seconds (a thread that does not count might still call) the loop
   raises `NothingCanHappenError`. A real loop would hang.
"""

import asyncio
import os
import selectors
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, Final, TypeVar, TypeVarTuple, cast

from novita_async._util.clock import keep_offset

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_Events = list[tuple[selectors.SelectorKey, int]]
_ANYIO: Final = "anyio._backends._asyncio"


class NothingCanHappenError(RuntimeError):
    """Everything waits for something that nothing is going to bring."""


class _JumpingSelector(selectors.BaseSelector):
    """A selector that asks the loop what to do instead of waiting."""

    def __init__(self, loop: "VirtualTimeLoop") -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.get_key(fileobj)

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> _Events:
        ready = self._real.select(0)
        if ready or timeout == 0:
            return ready
        return self._loop.wait(timeout, self._real)


def _busy_anyio_threads(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a worker thread of anyio has work of this loop.

    An idle worker stands in `idle_workers`, to which it returns on the loop's own thread when its result
    is taken in; one that is `stopping` has nothing to do and tells nobody when it ends. anyio has no
    public way to ask.
    """
    if _ANYIO not in sys.modules:
        return False
    workers = (thread for thread in threading.enumerate() if getattr(thread, "loop", None) is loop)
    return any(not worker.stopping and worker not in worker.idle_workers for worker in cast("Any", workers))


def _listens(fd: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:  # a pipe, or gone
        return False


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time.

    Choose it in a test suite by the fixture `anyio_backend`, which returns
    `("asyncio", {"loop_factory": VirtualTimeLoop})`, or run one function with `run_virtually`.
    """

    socket_timeout: float = 0.002
    """Real seconds to wait for open sockets before time jumps."""
    deadlock_timeout: float = 5.0
    """Real seconds to wait before a deadlock is taken for one."""

    def __init__(self) -> None:
        self._now = 0.0
        self._holds = 0
        self._holds_lock = threading.Lock()
        self._jumps = 0
        super().__init__(_JumpingSelector(self))
        keep_offset(self)

    def time(self) -> float:
        return self._now

    @property
    def jumps(self) -> int:
        """Jumps of time so far."""
        return self._jumps

    @contextmanager
    def hold(self) -> Generator[None]:
        """Let time stand still for the length of the block, from any thread."""
        self._hold()
        try:
            yield
        finally:
            self._release()

    def _hold(self) -> None:
        with self._holds_lock:
            self._holds += 1

    def _release(self) -> None:
        with self._holds_lock:
            self._holds -= 1
        if not self.is_closed():
            self.call_soon_threadsafe(lambda: None)  # wakes the loop, which may wait for this

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._hold()
        future.add_done_callback(lambda _: self._release())
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109
        """Let time stand still until its threads have ended. From Python 3.12 on it would be given a time."""
        with self.hold():
            await super().shutdown_default_executor()

    def wait(self, timeout: float | None, real: selectors.BaseSelector) -> _Events:
        """Wait really, or jump. Called by the selector when nothing is ready."""
        if self._holds or _busy_anyio_threads(self):
            return real.select(None)
        own = self._ssock.fileno()
        sockets = any(key.fd != own and not _listens(key.fd) for key in real.get_map().values())
        if timeout is None:
            listening = len(real.get_map()) > 1
            ready = real.select(None if sockets or listening else self.deadlock_timeout)
            if not ready and not self._ready:
                raise NothingCanHappenError(
                    f"at {self._now:.3f} s: no timer, no socket, no busy thread, and tasks that wait"
                )
            return ready
        ready = real.select(self.socket_timeout) if sockets else []
        if not ready and not self._ready:
            self._now += timeout
            self._jumps += 1
        return ready

    # Both are BaseEventLoop's own, for as long as asyncio has existed, and declared nowhere.
    _ready: Any
    _ssock: socket.socket

    def __repr__(self) -> str:
        return f"<VirtualTimeLoop at {self._now:.3f} s after {self._jumps} jumps>"


def run_virtually(func: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Run an async function in virtual time, to its end."""

    async def main() -> T:
        return await func(*args)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())
