"""Rows that a process takes to work on them, and lets go of."""

from collections.abc import Sequence
from typing import Any, Final

from attrs import define

from novita_async._journal.postgres.fenced_rows import FencedRows
from novita_async._journal.postgres.member import Member
from novita_async._journal.postgres.upgrading import outdated
from novita_async._journal.postgres.works import Connection
from novita_async._journal.rows import entry_of
from novita_async._purchase.machine import LIST, NOTHING, Purchase, next_action

_TAKE: Final = (
    "SELECT novita.lease_1($1, $2, least($3::int, greatest($6::int, (SELECT count(*)::int FROM ("
    "SELECT FROM novita.course WHERE batch = $2 AND free AND serial > $4 LIMIT $7::int * $3::int) free)"
    " / $7::int)), $4, $5)"
)
"""Takes at most `$3` rows: `$6`, or one of `$7` parts of those that are free, where that is more."""
_UNANSWERED: Final = (
    "SELECT serial FROM novita.course WHERE owner = $1 AND batch = $2 AND serial > $3 AND serial <> ALL($4)"
    " AND state IN ('planned', 'submitted', 'succeeded') ORDER BY serial"
)
_CLAIMED: Final = (
    "SELECT c.serial FROM novita.course c JOIN unnest($3::bigint[], $4::text[]) u(serial, state)"
    " USING (serial, state) WHERE c.batch = $2 AND c.owner = $1 AND c.serial <> ALL($5)"
)


@define(eq=False)
class Leases:
    """Rows that this process has to itself.

    Where a connection breaks before the answer comes, this process has rows that it does not know of. Those
    are asked for first, because others wait for them.
    """

    member: Member
    rows: FencedRows

    async def take(
        self,
        connection: Connection,
        most: int,
        after: int,
        last: int | None = None,
        *,
        least: int,
        again: bool = False,
    ) -> list[Purchase]:
        """Lease rows for which something is to be done, up to a serial number.

        Beyond `least`, no more are taken than half of this process's share of the rows that are left: so the
        last ones are worked on by all.

        Args:
            connection: The connection.
            most: How many at most.
            after: The serial number that they come after.
            last: The last serial number. None: there is no end.
            least: How many at least, where there are so many.
            again: Whether this was asked before, and not answered.
        """
        member, had = self.member, self.rows.had
        if member.is_outdated:
            raise outdated(member.label)
        found: Sequence[Any] = ()
        if again and had is not None:
            found = await connection.fetch(_UNANSWERED, member.me, member.batch, after, list(had))
        if not found:
            found = await connection.fetch(
                _TAKE, member.me, member.batch, most, after, last, least, 2 * max(1, member.processes)
            )
        return await self._taken(connection, found)

    async def claim(
        self, connection: Connection, purchases: Sequence[Purchase], *, again: bool = False
    ) -> list[Purchase] | None:
        """Lease rows that have ended, of those that nobody else has and that still stand where they stood.

        Args:
            connection: The connection.
            purchases: The rows.
            again: Whether this was asked before, and not answered.

        Returns:
            The rows. None: not now, because after a failover all say again what they know.
        """
        asked = (
            self.member.me,
            self.member.batch,
            [entry_of(each).serial for each in purchases],
            [each.state.value for each in purchases],
        )
        found = await connection.fetch("SELECT novita.claim_1($1, $2, $3, $4)", *asked)
        if found and found[0][0] is None:
            return None
        if again and self.rows.had is not None:
            had = [*self.rows.had, *(each[0] for each in found)]
            found = [*found, *await connection.fetch(_CLAIMED, *asked, had)]
        return await self._taken(connection, found)

    async def _taken(self, connection: Connection, serials: Sequence[Any]) -> list[Purchase]:
        leased = await self.rows.by_serial(connection, sorted(each[0] for each in serials))
        if self.rows.had is not None:
            self.rows.had.update(leased)
        return [purchase for _, purchase in sorted(leased.items())]

    async def put_back(self, connection: Connection, purchases: Sequence[Purchase]) -> None:
        """Let go of rows, which later workers may take."""
        await connection.execute(
            "SELECT novita.put_back_1($1, $2, $3, $4)",
            self.member.me,
            self.member.batch,
            [entry_of(each).serial for each in purchases],
            [next_action(each) not in (LIST, NOTHING) for each in purchases],
        )
        for each in purchases:
            self.rows.forget(entry_of(each).name)
            self.rows.has_not(entry_of(each).serial)

    async def give_back(self, connection: Connection) -> int:
        """Let go of all rows that this process has and of which nothing is on its way. Returns how many."""
        return int(await connection.fetchval("SELECT novita.free_1($1)", self.member.me))

    async def complete(self, connection: Connection) -> bool:
        """Whether no row is free for this worker, and none is another's."""
        member = self.member
        return bool(await connection.fetchval("SELECT novita.complete_1($1, $2)", member.me, member.batch))
