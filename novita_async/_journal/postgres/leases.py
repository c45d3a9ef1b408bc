"""Rows that a process takes to work on them, and lets go of."""

from collections.abc import Sequence
from typing import Any

from attrs import define

from novita_async._journal.postgres.fenced_rows import FencedRows
from novita_async._journal.postgres.member import Member
from novita_async._journal.postgres.upgrading import outdated
from novita_async._journal.postgres.works import Connection
from novita_async._journal.rows import entry_of
from novita_async._purchase.machine import LIST, NOTHING, Purchase, next_action


@define(eq=False)
class Leases:
    """Rows that this process has to itself."""

    member: Member
    rows: FencedRows

    async def take(
        self, connection: Connection, most: int, after: int, last: int | None = None
    ) -> list[Purchase]:
        """Lease rows for which something is to be done, up to a serial number."""
        member = self.member
        if member.is_outdated:
            raise outdated(member.label)
        found = await connection.fetch(
            "SELECT novita.lease_1($1, $2, $3, $4, $5)", member.me, member.batch, most, after, last
        )
        return await self._taken(connection, found)

    async def claim(self, connection: Connection, purchases: Sequence[Purchase]) -> list[Purchase] | None:
        """Lease rows that have ended, of those that nobody else has and that still stand where they stood.

        Returns:
            The rows. None: not now, because after a failover all say again what they know.
        """
        found = await connection.fetch(
            "SELECT novita.claim_1($1, $2, $3, $4)",
            self.member.me,
            self.member.batch,
            [entry_of(each).serial for each in purchases],
            [each.state.value for each in purchases],
        )
        return None if found and found[0][0] is None else await self._taken(connection, found)

    async def _taken(self, connection: Connection, serials: Sequence[Any]) -> list[Purchase]:
        leased = await self.rows.by_serial(connection, sorted(each[0] for each in serials))
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

    async def give_back(self, connection: Connection) -> int:
        """Let go of all rows that this process has and of which nothing is on its way. Returns how many."""
        return int(await connection.fetchval("SELECT novita.free_1($1)", self.member.me))

    async def complete(self, connection: Connection) -> bool:
        """Whether no row is free for this worker, and none is another's."""
        member = self.member
        return bool(await connection.fetchval("SELECT novita.complete_1($1, $2)", member.me, member.batch))
