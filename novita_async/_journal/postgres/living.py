"""How a process begins, shows that it lives, ends, and gives away what the dead have left."""

import logging
from typing import Any, Final

from attrs import define, field

from novita_async._journal import rows
from novita_async._journal.postgres.address import OVER
from novita_async._journal.postgres.fenced_rows import PAGE, FencedRows, Row, Step
from novita_async._journal.postgres.health import Health
from novita_async._journal.postgres.member import Member
from novita_async._journal.postgres.money import Money
from novita_async._journal.postgres.places import Places
from novita_async._journal.postgres.reading import Reading
from novita_async._journal.postgres.schema.versions import VERSION
from novita_async._journal.postgres.upgrading import check_version
from novita_async._journal.postgres.works import Connection, Told
from novita_async._journal.rows import entry_of
from novita_async._purchase.machine import LOST, State, advance
from novita_async._util.clock import asleep, loop_time, wall_time
from novita_async._version import __version__

_log: Final = logging.getLogger(__name__)


@define(eq=False)
class Living:
    """The life of this process among the others."""

    member: Member
    rows: FencedRows
    places: Places
    money: Money
    health: Health
    reading: Reading
    _dead: set[int] = field(factory=set[int], init=False)
    """Processes that were called dead beside something else; the next sign of life buries them."""

    async def begin(self, connection: Connection, *, alone: bool) -> float | None:
        """Become a worker of a batch. Returns seconds until another's lease runs out that is in the way."""
        member = self.member
        await check_version(connection, member.label)
        await self.reading.read_clock(connection)
        began, slept = loop_time(), asleep()
        found = await connection.fetchrow(
            "SELECT * FROM novita.begin_1($1, $2, $3, $4, $5)",
            member.name,
            member.worker,
            __version__,
            member.lease,
            alone,
        )
        member.batch, member.run, member.is_shared = found["batch"], found["run"], not alone
        if found["in_use"] is not None:
            return float(found["in_use"])
        member.me = found["me"]
        member.lives(began, slept)
        await self.health.try_again(connection)
        await self.warn_of_standby(connection)
        return None

    async def warn_of_standby(self, connection: Connection) -> None:
        """Warn where a standby may take over that has not confirmed what was confirmed here."""
        standby = await connection.fetchval(
            "SELECT current_setting('synchronous_standby_names') = '' AND EXISTS"
            " (SELECT FROM pg_stat_replication"
            " WHERE application_name IS NULL OR application_name NOT LIKE 'pg_%backup%')"  # null: not told
        )
        if standby:
            _log.warning(
                "journal %s: its standby is not synchronous; after a failover the same may be bought twice; "
                "set synchronous_standby_names",
                self.member.label,
            )

    async def beat(self, connection: Connection) -> list[int]:
        """Say that this process lives. Returns those whose rows are to be given away.

        Raises:
            LeaseLost: this process was taken for dead.
        """
        member = self.member
        before, began, slept = wall_time(), loop_time(), asleep()
        found = await connection.fetchrow("SELECT * FROM novita.beat_1($1, $2)", member.me, member.lease)
        member.compare_clocks(before, found["at"], wall_time())
        if not found["alive"]:
            if found["steady"] or not await self._be_again(connection):
                raise member.lost()
            return await self.beat(connection)
        member.lives(began, slept)
        member.processes = found["workers"]
        member.next_beat = pause_of(member.lease, found["due"])
        member.is_outdated = found["oldest"] > VERSION
        self.health.tell(found["accounts"])
        self.rows.windows.heed(found["quotas"])
        if not found["steady"]:
            await self._say_again(connection)
            return []
        dead, self._dead = self._dead.union(found["dead"] or ()), set()
        return list(dead)

    async def _say_again(self, connection: Connection) -> None:
        """Tell what was confirmed to this process to a database that has taken another's place."""
        self.rows.windows.forget()
        await self.rows.windows.say_again(connection)
        await self.rows.reassert(connection)
        await self.places.say_again(connection)
        await self.money.say_again(connection)
        await connection.execute("SELECT novita.rebuild_1($1)", self.member.window)
        self.rows.known.clear()  # serial numbers may be others
        self.rows.had = None

    async def _be_again(self, connection: Connection) -> bool:
        """Be the worker that this process was, where a failover has forgotten it. Returns whether it is."""
        member = self.member
        batch: int | None = await connection.fetchval(
            "SELECT novita.be_again_1($1, $2, $3, $4, $5, $6, $7)",
            *(member.me, member.name, member.run, member.worker, __version__, member.lease),
            not member.is_shared,
        )
        member.batch = batch or member.batch
        return batch is not None

    async def come_back(self, connection: Connection) -> None:
        """Say that this process lives, to a server that may have forgotten something."""
        if self.member.me:
            self._dead |= set(await self.beat(connection))

    async def confirm(self, connection: Connection) -> None:
        """Commit once more, after all that may not be where it should be."""
        if self.member.me:
            self._dead |= set(await self.beat(connection))

    async def leave(self, connection: Connection) -> None:
        """End, and give everything back at once."""
        me = self.member.me
        await connection.execute(
            "UPDATE novita.worker SET ended = coalesce(ended, clock_timestamp()) WHERE id = $1", me
        )
        await self.bury(me, connection)
        await connection.execute("UPDATE novita.batch SET holder = NULL WHERE holder = $1", me)

    async def new_run(self, connection: Connection) -> int:
        """Begin another run, to which what is under way is lost."""
        self.rows.known.clear()
        await self.recover(connection)
        run: int | None = await connection.fetchval(
            "UPDATE novita.batch SET run = run + 1 WHERE id = $1 AND holder = $2 RETURNING run",
            self.member.batch,
            self.member.me,
        )
        if run is None:
            raise self.member.lost()
        self.member.run = run
        return run

    # --- What the dead have left ----------------------------------------------------------------------------

    async def bury(self, dead: int, connection: Connection) -> int:
        """Give away the rows of a process. Rows on their way are uncertain; place and money stay taken.

        Also in a batch that is none of ours: nobody may ever come back to it, and its places are everybody's.
        """
        batch = await connection.fetchval("SELECT novita.inherit_1($1)", dead)
        uncertain = await self._recover(connection, self.rows.of(batch), "c.owner = $3", dead)
        await self.places.bury(connection, dead)
        await connection.fetchval("SELECT novita.free_1($1)", dead)
        await connection.execute(  # else once more, at the next sign of life
            "UPDATE novita.worker SET buried = true WHERE id = $1"
            " AND NOT EXISTS (SELECT FROM novita.course WHERE owner = $1)",
            dead,
        )
        return uncertain

    async def recover(self, connection: Connection) -> int:
        """Note what earlier processes left under way; tell how many purchases are uncertain now."""
        uncertain = 0
        dead = await connection.fetch(
            "SELECT id FROM novita.worker WHERE batch = $1 AND ended IS NOT NULL AND NOT buried",
            self.member.batch,
        )
        for found in dead:
            uncertain += await self.bury(found["id"], connection)
        return uncertain + await self._recover(connection, self.rows, "c.owner IS NULL")

    async def _recover(self, connection: Connection, left: FencedRows, which: str, *values: Any) -> int:
        after = uncertain = 0
        number = len(values) + 3
        rest = (
            f'AND {which} AND (c.perhaps > 0 OR c."window" IS NOT NULL)'
            f" AND c.serial > ${number} ORDER BY c.serial LIMIT {PAGE}"
        )
        while page := await left.fetch(connection, rest, *values, after):
            after = page[-1].serial
            steps = [self._left(row) for row in page]
            await left.move(connection, [each for each in steps if each is not None], fenced=False)
            uncertain += sum(row.state == State.ANNOUNCED for row in page)
        return uncertain

    def _left(self, row: Row) -> Step | None:
        """Find what to write of a purchase whose process has ended. None: nothing."""
        known, now = row.known(), self.member.now()
        moved = known.purchase
        left = rows.left_behind(moved, now)
        moved.wants_files = True  # whoever comes next says whether that is so
        if left is not None:
            advance(moved, left)
        elif moved.perhaps and moved.state in (State.PLANNED, State.UNCERTAIN):
            return None
        told = Told(entry_of(moved).name, (), settled=LOST, cause="nothing", at=loop_time())
        return Step(told, row, moved, rows.record_of(moved, known, now, summed=False))


def pause_of(lease: float, due: float | None) -> float:
    """Seconds until the next sign of life: a third of the lease, or when that of another runs out.

    Of one that lives, it never does: two thirds are left where it speaks again.
    """
    pause = lease / 3
    return pause if due is None else min(pause, max(due + OVER, pause / 8))
