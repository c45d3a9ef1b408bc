"""Questions about a batch that anybody may ask, whoever works on it."""

from collections.abc import Sequence
from typing import Final

from attrs import define

from novita_async._journal import rows
from novita_async._journal.postgres.at_work import AtWork
from novita_async._journal.postgres.fenced_rows import PAGE, SELECT, FencedRows, row_of
from novita_async._journal.postgres.member import Member
from novita_async._journal.postgres.texts import escaped, unescaped
from novita_async._journal.postgres.upgrading import check_version
from novita_async._journal.postgres.works import Connection
from novita_async._journal.rows import Record, entry_of
from novita_async._purchase.journal import Summary, Tally, summed
from novita_async._purchase.machine import Purchase, State
from novita_async._util.clock import wall_time
from novita_async.errors import JournalError

_TALLIES: Final = (
    "SELECT c.state, count(*), sum(r.image_num), sum(c.bought), sum(c.perhaps) FROM novita.course c"
    " JOIN novita.request r USING (batch, serial) WHERE c.batch = $1 GROUP BY 1"
)
_ENDED: Final = "AND NOT c.free AND c.owner IS NULL AND c.state <> 'planned'"
_DOUBTFUL: Final = (
    "SELECT c.batch, extract(epoch FROM w.alive_until - clock_timestamp())"
    " FROM novita.batch b, LATERAL (SELECT batch, state, coalesce(owner, b.holder) sender FROM novita.course"
    " WHERE batch = b.id AND token = $1 AND (state = 'uncertain' AND owner IS NULL OR state = 'announced')"
    ") c LEFT JOIN novita.worker w ON w.id = c.sender AND w.ended IS NULL AND c.state = 'announced'"
)
"""Finds the batch of an attempt of unknown end, and for how long its sender may still wait for an answer."""
_TOLD_OF_WORKERS: Final = ("name", "version", "started", "is_alive", "had", "sending", "watching")


@define(eq=False)
class Reading:
    """Questions that change nothing."""

    member: Member
    rows: FencedRows

    async def look(self, connection: Connection) -> None:
        """Find the batch, without working on it. Raises `JournalError`: there is none."""
        await check_version(connection, self.member.label)
        await self.read_clock(connection)
        found = await connection.fetchrow(
            "SELECT id, run FROM novita.batch WHERE name = $1", self.member.name
        )
        if found is None:
            names = await connection.fetch("SELECT name FROM novita.batch ORDER BY id DESC LIMIT 5")
            there = ", ".join(each["name"] for each in names) or "none"
            raise JournalError(
                problem=f"journal {self.member.label}: there is no batch of this name",
                advice=f"the latest there: {there}; plan one with: novita-async enqueue",
            )
        self.member.batch, self.member.run = found["id"], found["run"]

    async def find_batch(self, connection: Connection) -> None:
        """Look for the batch, for who works on none."""
        if not self.member.batch:
            await check_version(connection, self.member.label)
            found = await connection.fetchval("SELECT id FROM novita.batch WHERE name = $1", self.member.name)
            self.member.batch = found or 0

    async def read_clock(self, connection: Connection) -> None:
        """Learn how far the database's clock is from ours."""
        before = wall_time()
        there = await connection.fetchval("SELECT novita.now()")
        self.member.compare_clocks(before, there, wall_time())

    async def noted(self, connection: Connection) -> str | None:
        """Read the text about the batch."""
        text = await connection.fetchval("SELECT note FROM novita.batch WHERE id = $1", self.member.batch)
        return None if text is None else unescaped(text)

    async def at_work(self, connection: Connection) -> list[AtWork]:
        """Tell who works on the batch, the oldest first."""
        found = await connection.fetch(
            "SELECT * FROM novita.at_work WHERE batch = $1 ORDER BY id", self.member.name
        )
        return [
            AtWork(
                number=each["id"],
                silent_since=None if each["is_alive"] else each["alive_until"],
                **{name: each[name] for name in _TOLD_OF_WORKERS},
            )
            for each in found
        ]

    async def summary(self, connection: Connection) -> Summary:
        """Add up all purchases."""
        return summed(
            Tally(state=State(state), rows=count, images=images, bought=bought, perhaps=perhaps)
            for state, count, images, bought, perhaps in await connection.fetch(_TALLIES, self.member.batch)
        )

    async def payers(self, connection: Connection, states: Sequence[State]) -> list[str]:
        """Labels of accounts that have bought what is in these states: the first few."""
        found = await connection.fetch(
            "SELECT DISTINCT account FROM novita.course WHERE batch = $1 AND state = ANY($2)"
            " AND account IS NOT NULL LIMIT 8",
            self.member.batch,
            [state.value for state in states],
        )
        return [unescaped(each["account"]) for each in found]

    async def records(self, connection: Connection, after: int) -> list[tuple[int, Record]]:
        """Read serial numbers and records of the rows after one, as a file keeps them."""
        page = await self.rows.fetch(connection, f"AND c.serial > $3 ORDER BY c.serial LIMIT {PAGE}", after)
        kept = [(row.serial, row.record[: len(rows.KEPT)], row.record) for row in page]
        return [(serial, (*record[:-1], rows.checksum(told))) for serial, told, record in kept]

    async def stand(self, connection: Connection, keys: Sequence[str]) -> list[tuple[Purchase, bool]]:
        """Read first purchases of keys, and whether nothing more is to be done for them."""
        which, values = "AND r.key = ANY($3) AND r.occurrence = 0", [bytes.fromhex(key) for key in keys]
        there = await self.rows.select(connection, which, values)
        ended = await self.rows.select(connection, f"{which} {_ENDED}", values)
        found = {entry_of(each).serial: each for each in ended}
        return [(found.get(entry_of(each).serial, each), entry_of(each).serial in found) for each in there]

    async def doubtful(self, connection: Connection, token: str) -> tuple[int, Purchase] | float | None:
        """Find the purchase of unknown end whose callback has this token, and the number of its batch.

        Seconds: an answer is still waited for by a process that may live for so long.
        """
        found = await connection.fetchrow(_DOUBTFUL, escaped(token))
        if found is None:
            return None
        batch, may_live = found
        if may_live is not None and may_live > 0:
            return float(may_live)
        rows = await connection.fetch(f"{SELECT} AND c.token = $3", batch, self.member.me, escaped(token))
        return batch, row_of(rows[0]).purchase()
