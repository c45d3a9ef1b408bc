"""How much may be spent.

Money is reserved before a purchase is sent. When the purchase's end is known, the reservation is spent or
refunded, so no concurrency can overspend the limit: reserved and spent money never exceed it together. A
purchase with an uncertain end counts as spent. Money that is only reserved may come back: a request that
finds no money but reserved money waits, and only spent money ends a stream.

The API tells no prices; the caller does. Money is `Decimal`, in dollars or whatever the price is in.
"""

from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from attrs import define, field

from novita_async._util.values import frozen
from novita_async.errors import BudgetExhausted, ConfigurationError
from novita_async.models.requests import NovitaRequest

Price = Callable[[NovitaRequest], Decimal]
"""Price of a request."""


def _money(value: Decimal | float | str) -> Decimal:
    try:
        money = Decimal(str(value))
    except InvalidOperation:
        money = Decimal("NaN")
    if not money.is_finite() or money < 0:
        raise ConfigurationError(problem=f"Budget: {value!r} is not an amount of money")
    return money


@frozen
class _PerImage:
    """A price that depends on nothing but the number of images."""

    each: Decimal

    def __call__(self, request: NovitaRequest) -> Decimal:
        return self.each * request.image_num


def _price(value: Decimal | float | str | Price) -> Price:
    return value if callable(value) else _PerImage(_money(value))


@frozen(kw_only=True)
class Budget:
    """Money that may be spent, and prices.

    Args:
        limit: The most that may be spent, in dollars.
        price: Dollars an image, or a function that tells what a request costs.
    """

    limit: Decimal = field(converter=_money)
    """The most that may be spent, in dollars."""
    price: Price = field(converter=_price)
    """Dollars an image, or a function that tells what a request costs."""

    def price_of(self, request: NovitaRequest) -> Decimal:
        """Dollars that a request costs."""
        return _money(self.price(request))

    @property
    def per_image(self) -> Decimal | None:
        """Dollars an image. None: that depends on the request."""
        return self.price.each if isinstance(self.price, _PerImage) else None


@frozen(kw_only=True)
class SpendingStatistics:
    """Sums of a budget.

    Args:
        limit: The most that may be spent.
        spent: Money for purchases that are bought, or perhaps bought.
        reserved: Money for purchases under way, some of which may be refunded.
    """

    limit: Decimal
    """The most that may be spent."""
    spent: Decimal
    """Money for purchases that are bought, or perhaps bought."""
    reserved: Decimal
    """Money for purchases under way, some of which may be refunded."""

    @property
    def left(self) -> Decimal:
        """Money that may still be reserved."""
        return self.limit - self.spent - self.reserved


@define(eq=False)
class Spending:
    """Use of a budget's money."""

    budget: Budget
    _spent: Decimal = Decimal(0)
    _reserved: Decimal = Decimal(0)
    _remembered: set[str] = field(factory=set[str])

    def __repr__(self) -> str:
        s = self.statistics()
        return f"<Spending {s.spent} of {s.limit}, {s.reserved} reserved>"

    def statistics(self) -> SpendingStatistics:
        """Tell what is spent and reserved now."""
        return SpendingStatistics(limit=self.budget.limit, spent=self._spent, reserved=self._reserved)

    def take(self, request: NovitaRequest) -> Decimal | None:
        """Reserve what a request costs. None: reserved money may come back; ask again when some is settled.

        Raises:
            BudgetExhausted: that much is not left, whatever comes back.
        """
        cost = self.budget.price_of(request)
        if self._spent + cost > self.budget.limit:
            raise BudgetExhausted(limit=str(self.budget.limit), spent=str(self._spent), cost=str(cost))
        if self._spent + self._reserved + cost > self.budget.limit:
            return None
        self._reserved += cost
        return cost

    def settle(self, cost: Decimal, *, bought: bool) -> None:
        """Spend what was reserved, or refund it."""
        self._reserved -= cost
        if bought:
            self._spent += cost

    def remembers(self, journal: str) -> bool:
        """Whether the journal's purchases were counted; later ones are counted as they are bought."""
        return journal in self._remembered

    def remember(self, journal: str, cost: Decimal) -> None:
        """Count what earlier runs have bought, or perhaps bought, as their journal tells."""
        self._remembered.add(journal)
        self._spent += cost
