"""The budget of a batch, and what its purchases have cost."""

from collections.abc import Mapping
from decimal import Decimal

from attrs import define, field

from novita_async._journal.postgres.member import Member
from novita_async._journal.postgres.works import Connection
from novita_async.errors import BudgetExhausted, ConfigurationError


@define(eq=False)
class Money:
    """Money of a batch that all processes spend together."""

    member: Member
    _told: tuple[Decimal, Decimal | None] | None = field(default=None, init=False)
    """The limit and the price that were told here."""

    async def set_budget(self, connection: Connection, limit: Decimal, price: Decimal | None) -> None:
        """Say how much the batch may cost. Raises `ConfigurationError`: others were told otherwise."""
        there = await connection.fetchval(
            "SELECT novita.budget_1($1, $2, $3, $4)", self.member.me, self.member.batch, limit, price
        )
        if there != limit:
            raise ConfigurationError(
                problem=f"{self.member.label}: the budget is {limit} here, "
                f"and {there} in a process that is at work",
                advice="nothing was bought; give all the same budget",
            )
        self._told = limit, price

    async def say_again(self, connection: Connection) -> None:
        """Tell the budget to a database that may have forgotten it in a failover."""
        if self._told is not None:
            await self.set_budget(connection, *self._told)

    async def price(self, connection: Connection, costs: Mapping[int, Decimal]) -> None:
        """Note what purchases have cost, where nobody told before."""
        await connection.execute(
            "UPDATE novita.course c SET paid = u.cost"
            " FROM unnest($2::bigint[], $3::numeric[]) u(serial, cost)"
            " WHERE c.batch = $1 AND c.serial = u.serial AND c.paid IS NULL AND c.cost IS NULL",
            self.member.batch,
            list(costs),
            list(costs.values()),
        )

    async def exhausted(self, connection: Connection, cost: Decimal | None) -> BudgetExhausted:
        """The error of a purchase that the budget has no money for."""
        found = await connection.fetchrow(
            'SELECT "limit", spent FROM novita.budget WHERE batch = $1', self.member.batch
        )
        return BudgetExhausted(limit=str(found["limit"]), spent=str(found["spent"]), cost=str(cost))
