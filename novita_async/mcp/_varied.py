"""A journal in which a request is known by its content and by the key of the call that wants it."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal

from attrs import define, evolve

from novita_async._journal.sqlite.journal import SqliteJournal
from novita_async._purchase.machine import Announced, Fact, Order, Purchase, State
from novita_async.journal import Summary


@define(eq=False)
class VariedJournal:
    """A journal in a file, in which the tag of a request makes another request of it."""

    file: SqliteJournal

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def run(self) -> int:
        return self.file.run

    async def plan(self, orders: Sequence[Order]) -> Sequence[Purchase]:
        return await self.file.plan([_varied(order) for order in orders])

    async def find(self, orders: Sequence[Order]) -> Sequence[Purchase | None]:
        return await self.file.find([_varied(order) for order in orders])

    async def admit(self, purchase: Purchase, announced: Announced, cost: Decimal | None) -> None:
        await self.file.admit(purchase, announced, cost)

    async def settle(self, purchase: Purchase, fact: Fact) -> None:
        await self.file.settle(purchase, fact)

    async def record(self, purchase: Purchase, *facts: Fact) -> None:
        await self.file.record(purchase, *facts)

    async def by_token(self, token: str) -> Purchase | None:
        return await self.file.by_token(token)

    def where(self, *states: State, after: int = 0) -> AsyncIterator[Purchase]:
        return self.file.where(*states, after=after)

    async def seen_since(self, seconds: float) -> Sequence[Purchase]:
        return await self.file.seen_since(seconds)

    async def summary(self) -> Summary:
        return await self.file.summary()

    async def new_run(self) -> int:
        return await self.file.new_run()

    async def aclose(self) -> None:
        await self.file.aclose()


def _varied(order: Order) -> Order:
    both = hashlib.sha256(f"{order.key}/{order.tag}".encode()).hexdigest()
    return evolve(order, key=both[: len(order.key)])
