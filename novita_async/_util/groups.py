"""Work in a thread that is cheaper for many at once, such as an fsync."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, Generic, TypeVar

import anyio
from attrs import define, field

T = TypeVar("T")

_SLOW: Final = 0.05
"""Seconds after which a group is slow: the next one need not wait for its end, where several may run."""


@define(eq=False)
class Groups(Generic[T]):
    """Does pieces of work in a thread, one group at a time: whatever comes meanwhile goes together.

    A slow disk would let everything wait for one file: there, some groups may run beside each other.
    """

    do: Callable[[list[T]], object]
    """Does a group. Blocks. Raises nothing: each piece takes its own error."""
    at_once: int = 1
    """How many groups may run, where they are slow."""
    _next: list[T] = field(factory=list, init=False)
    """The group that has not begun."""
    _done: "asyncio.Future[None] | None" = field(default=None, init=False)
    """Resolved once that group was done."""
    _running: int = field(default=0, init=False)

    async def join(self, piece: T) -> None:
        """Return when a piece was done. A cancellation that comes meanwhile goes on then."""
        loop = asyncio.get_running_loop()
        self._next.append(piece)
        if self._done is None:
            self._done = loop.create_future()
            if not self._running:
                loop.call_soon(self._begin, loop)  # not at once: who else is ready now goes along
            elif self._running < self.at_once:
                loop.call_later(_SLOW, self._begin_beside, loop, self._done)
        done = self._done
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                while not done.done():
                    try:
                        await asyncio.wait({done})
                    except asyncio.CancelledError:
                        continue  # told again; it is known
            raise

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        group, done = self._next, self._done
        if done is None:
            return
        self._next, self._done = [], None
        self._running += 1
        loop.run_in_executor(None, self.do, group).add_done_callback(partial(self._ended, loop, done))

    def _begin_beside(self, loop: asyncio.AbstractEventLoop, waiting: "asyncio.Future[None]") -> None:
        if self._done is waiting:
            self._begin(loop)

    def _ended(
        self, loop: asyncio.AbstractEventLoop, done: "asyncio.Future[None]", ended: "asyncio.Future[object]"
    ) -> None:
        self._running -= 1
        error = ended.exception()
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
        self._begin(loop)
