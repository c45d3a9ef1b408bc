"""A batch in memory that many clients of one program work on together: for tests of what processes do.

Leases end only where a test says so (`die`): in one program nobody can fall silent by accident.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Self

from attrs import define, field

from novita_async._journal.memory import MemoryJournal, Name
from novita_async._journal.postgres.lost import LeaseLost
from novita_async._journal.rows import entry_of, left_behind
from novita_async._purchase.machine import (
    ANNOUNCED,
    LIST,
    NOTHING,
    UNCERTAIN,
    Bought,
    Completed,
    Fact,
    Purchase,
    advance,
    next_action,
)
from novita_async._util.clock import loop_time, wall_offset

_DONE: Final = (LIST, NOTHING)


@define(eq=False)
class _BatchInMemory:
    """A batch, as all who have joined it know it."""

    owners: dict[Name, int] = field(factory=dict[Name, int])
    """Member that has a purchase, by purchase."""
    aside: dict[Name, int] = field(factory=dict[Name, int])
    """Member that could not bring a purchase to its end: the latest, by purchase."""
    joined: int = 0
    """How many have ever joined."""
    dead: set[int] = field(factory=set[int])
    """Members that have left, or were taken for dead."""
    stirred: asyncio.Event = field(factory=asyncio.Event)
    """Set when purchases have become free."""


@define(eq=False, repr=False)
class SharedMemoryJournal(MemoryJournal):
    """Keeps purchases in memory, with the promises of `SharedJournal`.

    Plan a batch with it, then let each worker `join`.

    Args:
        name: Tells journals apart.
        run: The number of this run of the batch, from 1.
    """

    _batch: _BatchInMemory = field(factory=_BatchInMemory, init=False)
    _me: int = field(default=0, init=False)

    def join(self) -> Self:
        """The same batch as another worker sees it."""
        other = type(self)(self.name, self.run)
        self._batch.joined += 1
        other._kept, other._batch, other._me = self._kept, self._batch, self._batch.joined  # noqa: SLF001
        return other

    def die(self) -> None:
        """Be taken for dead: purchases on their way are uncertain, and others may take the rest."""
        now = loop_time() + wall_offset()
        for name in self._mine():
            left = left_behind(self._kept[name], now)
            if left is not None:
                advance(self._kept[name], left)
            self._kept[name].wants_files = True  # whoever comes next says whether that is so
        self._leave()

    def _leave(self) -> None:
        self._batch.dead.add(self._me)
        for name in self._mine():
            del self._batch.owners[name]
        self._batch.stirred.set()

    def _mine(self) -> list[Name]:
        return [name for name, owner in self._batch.owners.items() if owner == self._me]

    def _check_alive(self, name: Name | None = None) -> None:
        owner = None if name is None else self._batch.owners.get(name)
        if self._me in self._batch.dead or owner not in (None, self._me):
            raise LeaseLost(problem=f"journal {self.name}: another worker has it by now")

    async def take(self, most: int = 100, *, least: int | None = None) -> list[Purchase]:
        """Take purchases for which something is to be done and that nobody has."""
        self._check_alive()
        free = [name for name in self._kept if self._is_free(name)]
        share = len(free) // (2 * (self._batch.joined - len(self._batch.dead)))
        return self._owned(free[: most if least is None else min(most, max(least, share))])

    def _owned(self, names: Sequence[Name]) -> list[Purchase]:
        self._batch.owners.update(dict.fromkeys(names, self._me))
        return [self._handed_out(self._kept[name]) for name in names]

    def _is_free(self, name: Name) -> bool:
        action = next_action(self._kept[name])
        is_mine_to_try = self._batch.aside.get(name, 0) < self._me
        return action not in _DONE and name not in self._batch.owners and is_mine_to_try

    async def claim(self, purchases: Sequence[Purchase]) -> list[Purchase]:
        """Take purchases that have ended, to go on with them; those that nobody else has."""
        self._check_alive()
        names = [entry_of(each).name for each in purchases]
        return self._owned([name for name in names if name not in self._batch.owners])

    async def put_back(self, purchases: Sequence[Purchase]) -> None:
        """Let go of purchases that could not be brought to their end."""
        for name in (entry_of(each).name for each in purchases):
            if self._batch.owners.get(name) == self._me:
                del self._batch.owners[name]
                self._batch.aside[name] = self._me

    async def give_back(self) -> int:
        """Let go of all that this worker has."""
        mine = self._mine()
        for name in mine:
            del self._batch.owners[name]
        return len(mine)

    async def complete(self) -> bool:
        """Whether nothing is left that this worker could take, now or when another gives it back."""
        others = any(owner != self._me for owner in self._batch.owners.values())
        return not others and not any(map(self._is_free, self._kept))

    async def rest(self, seconds: float) -> None:
        """Wait for so long, or until purchases have become free."""
        self._batch.stirred.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._batch.stirred.wait()

    async def record(self, purchase: Purchase, *facts: Fact) -> None:
        """Record facts, all or none. Raises `LeaseLost`: the purchase is another's."""
        name = entry_of(purchase).name
        try:
            self._check_alive(name)
        except LeaseLost:  # what was paid is kept all the same
            kinds = Bought | Completed if self._kept[name].state in (ANNOUNCED, UNCERTAIN) else Bought
            paid = [fact for fact in facts if isinstance(fact, kinds)]
            await MemoryJournal.record(self, purchase, *paid)
            raise
        await MemoryJournal.record(self, purchase, *facts)
        self._kept[name].wants_files = purchase.wants_files
        if next_action(self._kept[name]) in _DONE:
            self._batch.owners.pop(name, None)

    async def aclose(self) -> None:
        """Let others have what this worker had."""
        self._leave()
        await MemoryJournal.aclose(self)
