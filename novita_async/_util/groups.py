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
class _Group(Generic[T]):
    """Pieces that are done together."""

    ended: "asyncio.Future[None]"
    """Resolved once they were done."""
    pieces: list[T] = field(factory=list)
    waiting: "list[asyncio.Future[None]]" = field(factory=list)
    """Futures of those who wait for them; cancelled with their tasks."""


@define(eq=False, repr=False)
class Groups(Generic[T]):
    """Does pieces of work in a thread, in groups: whatever comes while a group runs goes together.

    A slow disk would let everything wait for one file: there, some groups may run beside each other.
    """

    do: Callable[[list[T]], object]
    """Does a group. Blocks. Raises nothing: each piece takes its own error."""
    at_once: int = 1
    """How many groups may run, where they are slow."""
    _next: "_Group[T] | None" = field(default=None, init=False)
    """The group that has not begun."""
    _running: int = field(default=0, init=False)

    async def join(self, piece: T) -> None:
        """Return when a piece was done. A cancellation that comes meanwhile goes on then."""
        loop = asyncio.get_running_loop()
        group = self._next
        if group is None:
            self._next = group = _Group[T](loop.create_future())
            if not self._running:
                loop.call_soon(self._begin, loop, group)  # not at once: who else is ready now goes along
            elif self._running < self.at_once:
                loop.call_later(_SLOW, self._begin, loop, group)
        done = loop.create_future()
        group.pieces.append(piece)
        group.waiting.append(done)
        try:
            await done
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                while not group.ended.done():
                    try:
                        await asyncio.wait({group.ended})
                    except asyncio.CancelledError:
                        continue  # told again; it is known
            raise

    def _begin(self, loop: asyncio.AbstractEventLoop, group: "_Group[T] | None") -> None:
        if group is not None and group is self._next:
            self._next = None
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
        self._begin(loop, self._next)
        error = RuntimeError("the executor was shut down") if doing.cancelled() else doing.exception()
        group.ended.set_result(None)
        for done in group.waiting:
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
