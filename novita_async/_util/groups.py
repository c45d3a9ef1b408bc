"""Work in a thread that is cheaper for many at once, such as an fsync."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from attrs import define, field

from novita_async._util.scopes import run_in_thread

T = TypeVar("T")


@define(eq=False, repr=False)
class Groups(Generic[T]):
    """Does pieces of work in a thread, one group at a time: whatever comes meanwhile goes together.

    A piece whose caller is cancelled may be done all the same, with the others.
    """

    do: Callable[[list[T]], None]
    """Does a group. Blocks. Raises nothing: each piece takes its own error."""
    _next: list[T] = field(factory=list, init=False)
    """The group that has not begun."""
    _one: asyncio.Lock = field(factory=asyncio.Lock, init=False)

    async def join(self, piece: T) -> None:
        """Return when a piece was done."""
        group = self._next
        group.append(piece)
        async with self._one:
            if group is self._next:  # else another has done it
                self._next = []
                await run_in_thread(self.do, group)
