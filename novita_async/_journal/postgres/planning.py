"""Orders that become rows of a batch, by one process alone or by several at once.

Orders that many tell at the same time are planned by one call, or, where that is refused, each by its own.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from attrs import define, field

from novita_async._journal.groups import own_copy
from novita_async._journal.postgres.connection import Link, is_outage
from novita_async._journal.postgres.fenced_rows import FencedRows, marks
from novita_async._journal.postgres.member import Member
from novita_async._journal.postgres.texts import escaped
from novita_async._journal.postgres.works import PIECE, Connection, ToPlan
from novita_async._purchase.machine import Order, Purchase
from novita_async._purchase.packing import packed

_PLAN: Final = f"SELECT serial, is_new FROM novita.plan_1({marks(1, 14)})"  # noqa: S608


@define(eq=False)
class Plans:
    """The plan of this process."""

    member: Member
    rows: FencedRows
    _session: int | None = field(default=None, init=False)
    """Number of the plan among those of all who plan while others work."""
    _pieces: int = field(default=0, init=False)
    """Pieces of orders that were planned or looked for."""

    async def carry_out(self, link: Link, works: Sequence[Any]) -> dict[int, Any]:
        """Plan; give each result by the work's identity, or the error in its place."""
        done: dict[int, Any] = {}
        for group in _together([work for work in works if isinstance(work, ToPlan)]):
            self._pieces += 1
            orders = [order for work in group for order in work.orders]
            found = await link.attempt(
                partial(self._plan, orders=orders, piece=self._pieces, make=group[0].make, read=group[0].read)
            )
            if isinstance(found, Exception):
                if len(group) > 1 and not is_outage(found):  # of one of them: each by itself
                    for work in group:
                        done |= await self.carry_out(link, [work])
                else:
                    done |= {id(work): own_copy(found) for work in group}
                continue
            each = iter(found)
            done |= {id(work): [next(each) for _ in work.orders] for work in group}
        return done

    async def _plan(
        self, connection: Connection, orders: Sequence[Order], piece: int, *, make: bool, read: bool
    ) -> Sequence[Purchase | bool | None]:
        """Find the purchases of these orders, or say of each whether it is new; make those that are missing.

        The piece is a number that grows, and stays the same where a broken connection lets ask again.
        """
        found = await self._serials(connection, orders, piece, make=make)
        if not read:
            return [is_new for _, is_new in found]
        serials = [serial for serial, _ in found]
        planned = await self.rows.by_serial(connection, [each for each in serials if each is not None])
        return [None if serial is None else planned[serial] for serial in serials]

    async def _serials(
        self, connection: Connection, orders: Sequence[Order], piece: int, *, make: bool
    ) -> list[tuple[int | None, bool]]:
        """Find the serial numbers of these orders, and whether each is new; make those that are missing."""
        if self.member.is_shared and self._session is None:
            self._session = await connection.fetchval(
                "SELECT novita.session_1($1, $2)", self.member.batch, self.member.me
            )
        seen: dict[str, int] = {}
        nth: list[int] = []
        for order in orders:
            nth.append(seen.get(order.key, 0))
            seen[order.key] = nth[-1] + 1
        found: list[tuple[int | None, bool]] = await connection.fetch(
            _PLAN,
            self.member.me,
            self.member.batch,
            self._session,
            piece,
            make,
            [bytes.fromhex(order.key) for order in orders],
            nth,
            [order.position for order in orders],
            [escaped(order.kind) for order in orders],
            [escaped(order.endpoint) for order in orders],
            [order.images for order in orders],
            [packed(order.request) for order in orders],
            [None if order.tag is None else escaped(order.tag) for order in orders],
            [None if order.metadata is None else escaped(order.metadata) for order in orders],
        )
        return found

    async def note(self, connection: Connection, text: str) -> None:
        """Keep a text about the batch."""
        await connection.execute(
            "UPDATE novita.batch SET note = $2 WHERE id = $1", self.member.batch, escaped(text)
        )

    async def put(self, connection: Connection, order: Order) -> bool:
        """Put in one request, whoever works on the batch. False: another stands there under this key."""
        return bool(
            await connection.fetchval(
                "SELECT novita.put_1($1, $2, $3, $4, $5, $6, $7, $8)",
                self.member.name,
                bytes.fromhex(order.key),
                escaped(order.kind),
                escaped(order.endpoint),
                order.images,
                packed(order.request),
                None if order.tag is None else escaped(order.tag),
                None if order.metadata is None else escaped(order.metadata),
            )
        )


def _together(works: Sequence[ToPlan]) -> Iterator[Sequence[ToPlan]]:
    """Groups of works of one kind, in their order, of no more orders than are planned in one go."""
    group: list[ToPlan] = []
    size = 0
    for work in works:
        alike = group and (group[0].make, group[0].read) == (work.make, work.read)
        if group and (not alike or size + len(work.orders) > PIECE):
            yield group
            group, size = [], 0
        group.append(work)
        size += len(work.orders)
    if group:
        yield group
