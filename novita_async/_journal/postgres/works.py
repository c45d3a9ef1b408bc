"""Facts and questions that a process tells its shared journal, to be carried out together."""

from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any, Final

from attrs import define

from novita_async._journal.rows import Record
from novita_async._purchase.machine import Fact, Order, Settlement

PIECE: Final = 1000
"""Orders that are planned in one go."""

Name = tuple[str, int]
Connection = Any  # of asyncpg, whose stubs know no record types


@define(eq=False)
class Told:
    """Facts about one purchase, to be written."""

    name: Name
    """Name of the purchase in its journal."""
    facts: tuple[Fact, ...]
    """The facts, in unix time."""
    wants_files: bool = False
    """Whether success is not the end."""
    promise: bool = False
    """Whether an attempt is to be announced that needs a place and money."""
    cost: Decimal | None = None
    """Money that the promise reserves."""
    settled: Settlement | None = None
    """Fate of an attempt's place and its money. None: the facts say no verdict."""
    gate: float = 0.0
    """Seconds for which nobody announces: the service said that it was too much."""
    cause: str | None = None
    """Why the account is closed to all; None: it was served; `nothing`: nothing is known."""
    at: float = 0.0
    """When that was known, on the loop's clock."""
    tried: tuple[int, Record] | None = None
    """The number of moves that was read, and the record that was to be written, when that was tried last."""


@define(eq=False)
class Ask:
    """Something else to be done with a connection."""

    do: Callable[[Connection], Awaitable[Any]]


@define(eq=False)
class Planned:
    """Orders whose purchases are to be found."""

    orders: Sequence[Order]
    make: bool
    """Whether those that are missing are made."""
    read: bool
    """Whether the purchases are wanted. Else only the number of new ones is."""


@define(eq=False)
class Wanted:
    """A place for a purchase without a row."""

    account: str
    endpoint: str
    images: int


@define(eq=False)
class Place:
    """A place that was taken for a purchase without a row."""

    account: str
    endpoint: str
    images: int
    slot: str | None
    """Note of the pacer about it, where the quota is learned."""
    announced_at: float
    """When, in unix time of the database."""


@define(eq=False)
class PlaceEnded:
    """How an attempt without a row has ended."""

    place: Place
    settled: Settlement
    cause: str | None
    gate: float
    error: str | None
    """Words of the service, where the account is out."""
    at: float
    """When that was known, on the loop's clock."""
