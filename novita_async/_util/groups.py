"""Work in a thread that is cheaper for many at once, such as an fsync."""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Generic, TypeVar

import anyio
from attrs import define, field

T = TypeVar("T")

_SLOW: Final = 0.05
"""Seconds after which a group is slow: the next one need not wait for its end, where several may run."""
MOST: Final = 64
"""Pieces of one group: whoever is cancelled waits for a group that has begun, and no longer."""


@define(eq=False)
class _Group(Generic[T]):
    """Pieces that are done together."""

    ended: "asyncio.Future[None]"
    """Resolved once they were done."""
    begun: bool = False
    pieces: list[T] = field(factory=list)
    waiting: "list[asyncio.Future[None]]" = field(factory=list)
    """Futures of those who wait for them; cancelled with their tasks."""

    def withdraw(self, done: "asyncio.Future[None]") -> None:
        """Take a piece back before the group has begun."""
        place = self.waiting.index(done)
        del self.waiting[place], self.pieces[place]


@define(eq=False, repr=False)
class Groups(Generic[T]):
    """Does pieces of work in a thread, in groups: whatever comes while a group runs goes together.

    A slow disk would let everything wait for one file: there, some groups may run beside each other.
    """

    do: Callable[[list[T]], object]
    """Does a group. Blocks. Raises nothing: each piece takes its own error."""
    at_once: int = 1
    """How many groups may run, where they are slow."""
    _next: "deque[_Group[T]]" = field(factory=deque, init=False)
    """Groups that have not begun: all but the last are full."""
    _running: int = field(default=0, init=False)

    async def join(self, piece: T) -> None:
        """Return when a piece was done.

        A cancellation goes on at once where its group has not begun, and else when that has ended.
        """
        loop = asyncio.get_running_loop()
        group, done = self._joined(loop), loop.create_future()
        group.pieces.append(piece)
        group.waiting.append(done)
        try:
            await done
        except asyncio.CancelledError:
            if not group.begun:
                group.withdraw(done)
                raise
            with anyio.CancelScope(shield=True):
                while not group.ended.done():
                    try:
                        await asyncio.wait({group.ended})
                    except asyncio.CancelledError:
                        continue  # told again; it is known
            raise

    def _joined(self, loop: asyncio.AbstractEventLoop) -> "_Group[T]":
        """Find the group that the next piece belongs to."""
        if self._next and len(self._next[-1].pieces) < MOST:
            return self._next[-1]
        group = _Group[T](loop.create_future())
        self._next.append(group)
        if not self._running and len(self._next) == 1:
            loop.call_soon(self._begin, loop)  # not at once: who else is ready now goes along
        elif self._running < self.at_once:
            loop.call_later(_SLOW, self._begin, loop)
        return group

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._next or self._running >= self.at_once:
            return
        group = self._next.popleft()
        group.begun = True
        self._running += 1
        try:
            doing = loop.run_in_executor(None, self.do, group.pieces)
        except RuntimeError as error:  # the program ends: no thread begins any more
            doing = loop.create_future()
            doing.set_exception(error)
        doing.add_done_callback(partial(self._ended, loop, group))

    def _ended(
        self, loop: asyncio.AbstractEventLoop, group: "_Group[T]", doing: "asyncio.Future[object]"
    ) -> None:
        self._running -= 1
        self._begin(loop)
        error = RuntimeError("the executor was shut down") if doing.cancelled() else doing.exception()
        group.ended.set_result(None)
        for done in group.waiting:
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
