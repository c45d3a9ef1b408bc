"""Places and money for announcements, in the commit that writes them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import define

from novita_async._journal.postgres.fenced_rows import FencedRows, Step, columns, marks
from novita_async._journal.postgres.health import Health
from novita_async._journal.postgres.member import Member
from novita_async._journal.postgres.money import Money
from novita_async._journal.postgres.schema.columns import MOVED
from novita_async._journal.postgres.windows import LINE, Offer, WindowRow, Windows
from novita_async._journal.postgres.works import Connection
from novita_async._purchase.journal import Deferred
from novita_async._util.clock import loop_time

ADMIT: Final = f"SELECT * FROM novita.admit_1({marks(1, 13 + len(MOVED))})"  # noqa: S608


@define(eq=False)
class Admitting:
    """Lets windows and the budget have their say about announcements."""

    member: Member
    rows: FencedRows
    windows: Windows
    money: Money
    health: Health

    async def promise(
        self, steps: Sequence[Step], connection: Connection, done: dict[int, Any]
    ) -> list[Step]:
        """Take places and money for announcements, and write them. Returns those that have moved."""
        again: list[Step] = []
        groups: dict[tuple[str, str], list[Step]] = {}
        for step in steps:
            groups.setdefault((step.moved.account or "", step.moved.endpoint), []).append(step)
        for (account, endpoint), group in groups.items():
            window = await self.windows.of(connection, account, endpoint)
            again += await self._admit(connection, window, group, done)
        return again

    async def _admit(
        self, connection: Connection, window: WindowRow, group: Sequence[Step], done: dict[int, Any]
    ) -> list[Step]:
        """Admit what goes to one window. Returns what has moved."""
        again: list[Step] = []
        while True:
            offer = await self.windows.offer(connection, window, [each.moved.images for each in group])
            for step in group[len(offer.slots) :]:
                done[id(step.told)] = Deferred(offer.until)
            group = group[: len(offer.slots)]
            if not group:
                return again
            found = await connection.fetchrow(
                ADMIT,
                self.member.me,
                self.member.batch,
                window.id,
                [each.row.serial for each in group],
                [each.row.moves for each in group],
                [each.moved.images for each in group],
                [each.told.cost for each in group],
                LINE,
                offer.slots,
                window.version,
                offer.state,
                offer.taken,
                None,
                *columns(each.record for each in group),
            )
            self.member.commits += 1
            if found["why"] in ("moved", "fewer"):
                await self.windows.refresh(connection, window)
                refused = set(found["refused"]) if found["why"] == "fewer" else ()
                again += [each for n, each in enumerate(group, 1) if n in refused]
                group = [each for n, each in enumerate(group, 1) if n not in refused]
                continue
            if window.quota is None and found["granted"]:
                window.keep(found["latest"], found["known"])
            return again + await self._granted(connection, window, (group, offer), found, done)

    async def _granted(
        self,
        connection: Connection,
        window: WindowRow,
        offered: tuple[Sequence[Step], Offer],
        found: Mapping[str, Any],
        done: dict[int, Any],
    ) -> list[Step]:
        """Tell each what the database has said. Returns those that have moved."""
        group, offer = offered
        granted, refused, why = set(found["granted"]), set(found["refused"]), found["why"]
        until, spent, again = loop_time() + found["delay"], why == "spent", list[Step]()
        if why in ("gate", "out", "probe"):
            await self.health.ask(connection)
        for n, step in enumerate(group, 1):
            if n in granted:
                done[id(step.told)] = None
                row = step.written()
                row.window, row.slot, row.cost = window.id, offer.slots[n - 1], step.told.cost
                self.rows.remember(row)
            elif why == "buried":
                done[id(step.told)] = self.member.lost()
            elif n in refused:
                again.append(step)
            elif spent:
                spent = False
                done[id(step.told)] = await self.money.exhausted(connection, step.told.cost)
            else:
                done[id(step.told)] = Deferred(until)
        return again
