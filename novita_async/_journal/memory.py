"""A journal that lives as long as the process: for tests, and for whoever writes a store of their own."""

from collections.abc import AsyncGenerator, Sequence
from decimal import Decimal

from attrs import define, field

from novita_async._journal import rows
from novita_async._journal.rows import copy_of, entry_of
from novita_async._purchase.journal import Summary, summed, tally_of
from novita_async._purchase.machine import (
    Announced,
    Fact,
    Order,
    Purchase,
    State,
    advance,
    told_before,
)
from novita_async._util.clock import loop_time, wall_offset, wall_time
from novita_async.errors import JournalError

Name = tuple[str, int]


@define(eq=False, repr=False)
class MemoryJournal:
    """Keeps purchases in memory, with the promises of `Journal`.

    A purchase that a process leaves announced when it dies is uncertain to the next process: `new_run` plays
    that death.

    Args:
        name: Tells journals apart.
        run: The number of this run of the batch, from 1.
    """

    name: str = "memory"
    """Tells journals apart."""
    run: int = 1
    """The number of this run of the batch, from 1."""
    _kept: dict[Name, Purchase] = field(factory=dict[Name, Purchase], init=False)
    _closed: bool = field(default=False, init=False)

    def __repr__(self) -> str:
        return f"<MemoryJournal {self.name}, run {self.run}: {len(self._kept)} purchases>"

    async def plan(self, orders: Sequence[Order]) -> list[Purchase]:
        """Find the purchases of these orders, in this order, and make those that are missing."""
        self._check()
        return [self._handed_out(self._find(order) or self._made(order)) for order in orders]

    async def find(self, orders: Sequence[Order]) -> list[Purchase | None]:
        """Find the purchases of these orders, in this order; None where there is none."""
        self._check()
        found = (self._find(order) for order in orders)
        return [None if kept is None else self._handed_out(kept) for kept in found]

    def _find(self, order: Order) -> Purchase | None:
        kept = self._kept.get((order.key, self._first_unclaimed(order.key)))
        if kept is not None:
            rows.asked_again(kept, order, self.run)
        return kept

    def _made(self, order: Order) -> Purchase:
        occurrence = self._first_unclaimed(order.key)
        kept = rows.fresh(order, occurrence, len(self._kept) + 1, self.run)
        self._kept[order.key, occurrence] = kept
        return kept

    def _first_unclaimed(self, key: str) -> int:
        occurrence = 0
        while (kept := self._kept.get((key, occurrence))) and entry_of(kept).run == self.run:
            occurrence += 1
        return occurrence

    def _handed_out(self, kept: Purchase) -> Purchase:
        found = copy_of(kept, -wall_offset())
        found.journal = self
        return found

    async def admit(self, purchase: Purchase, announced: Announced, cost: Decimal | None) -> None:  # noqa: ARG002
        """Promise an attempt. The window and the budget are this process's own."""
        await self.record(purchase, announced)

    async def settle(self, purchase: Purchase, fact: Fact) -> None:
        """Record the verdict on an attempt."""
        await self.record(purchase, fact)

    async def record(self, purchase: Purchase, *facts: Fact) -> None:
        """Record facts, all or none."""
        self._check()
        entry, offset = entry_of(purchase), wall_offset()
        kept = self._kept.get((entry.key, entry.occurrence))
        if kept is None:
            raise JournalError(scope="request", problem=f"{purchase!r} was never planned in {self!r}")
        moved = copy_of(kept)
        for fact in facts:
            told = rows.shifted(fact, offset)
            if not told_before(moved, told):
                advance(moved, told)
        self._kept[entry.key, entry.occurrence] = moved

    async def by_token(self, token: str) -> Purchase | None:
        """Read the purchase whose latest attempt has this callback token."""
        self._check()
        return next((copy_of(each) for each in self._kept.values() if each.token == token), None)

    async def where(self, *states: State, after: int = 0) -> AsyncGenerator[Purchase]:
        """Read the purchases of these states, or all, that come after a serial number; times are unix."""
        self._check()
        for state in states or (None,):
            for kept in tuple(self._kept.values()):
                if entry_of(kept).serial > after and state in (None, kept.state):
                    yield copy_of(kept)

    async def seen_since(self, seconds: float) -> list[Purchase]:
        """Read what the service may have seen within so many seconds, with times of the loop."""
        self._check()
        since = wall_time() - seconds
        seen = (each for each in self._kept.values() if (rows.slot_time(each) or -1.0) > since)
        return [copy_of(each, -wall_offset()) for each in seen]

    async def summary(self) -> Summary:
        """Add up all purchases."""
        self._check()
        return summed(map(tally_of, self._kept.values()))

    async def new_run(self) -> int:
        """Begin to read the input anew, as a process does that opens the journal of another that died."""
        self._closed = False
        self.run += 1
        now = loop_time() + wall_offset()
        for kept in self._kept.values():
            left = rows.left_behind(kept, now)
            if left is not None:
                advance(kept, left)
        return self.run

    async def aclose(self) -> None:
        """Refuse everything from now on, until a new run."""
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise JournalError(problem=f"journal {self.name}: it is closed")
