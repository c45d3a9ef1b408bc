"""Places and money for announcements, in the commit that writes them.

What else is told at the same time goes along in that commit, where no other window is touched: locks are
taken in one order (budget, account, window, rows), and a second window would be a second round of that.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import define

from novita_async._journal.postgres.fenced_rows import (
    MOVE_VALUES,
    FencedRows,
    LearningWindow,
    Step,
    columns,
    marks,
    teach,
)
from novita_async._journal.postgres.health import Health
from novita_async._journal.postgres.member import Member
from novita_async._journal.postgres.money import Money
from novita_async._journal.postgres.schema.columns import MOVED
from novita_async._journal.postgres.windows import LINE, Offer, WindowRow, Windows, offered
from novita_async._journal.postgres.works import Connection
from novita_async._purchase.journal import Deferred
from novita_async._util.clock import loop_time

_ADMIT_VALUES: Final = 13 + len(MOVED)
ADMIT: Final = f"SELECT * FROM novita.admit_1({marks(1, _ADMIT_VALUES)})"  # noqa: S608
_VERSION: Final = MOVE_VALUES + 10
_ALONG: Final = (
    "WITH moved AS MATERIALIZED (SELECT array_agg(serial) AS written"  # noqa: S608
    f" FROM novita.move_1({marks(1, MOVE_VALUES)}) serial)"
    " SELECT moved.written, admitted.* FROM moved CROSS JOIN LATERAL novita.admit_1("
    f"{marks(MOVE_VALUES + 1, 9)}, CASE WHEN moved.written IS NULL THEN -1 ELSE ${_VERSION} END,"
    f" {marks(_VERSION + 1, _ADMIT_VALUES - 10)}) admitted"
)
"""Writes steps, then announcements: of these none where a window should learn from the steps, and did not."""


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
        for (account, endpoint), group in _by_window(steps).items():
            window = await self.windows.of(connection, account, endpoint)
            again += await self._admit(connection, window, group, done)
        return again

    async def promise_with(
        self, steps: Sequence[Step], others: Sequence[Step], connection: Connection, done: dict[int, Any]
    ) -> tuple[set[int], list[Step]] | None:
        """Do as `promise`, and write other steps before, in the same commit.

        Returns:
            The serial numbers of the other steps that were written, and announcements that have moved. None:
            they cannot go together.
        """
        groups = _by_window(steps)
        if len(groups) != 1 or not others:
            return None
        ((account, endpoint), group), *_ = groups.items()
        window = await self.windows.of(connection, account, endpoint)
        if not all(_touches_only(each, window, account) for each in others):
            return None
        while True:
            learning = window.quota is None
            gates, lesson, offer = self._lesson(window, others, [each.moved.images for each in group])
            if not offer.slots:
                return None
            moves = self.rows.move_values(others, gates=gates, window=lesson)
            version = window.version + (lesson is not None)
            admits = self._values(window, group[: len(offer.slots)], offer, version)
            found = await connection.fetchrow(_ALONG, *moves, *admits)
            self.member.commits += 1
            written = set[int](found["written"] or ())
            taught = learning and found["latest"] not in (None, window.version)  # by others, who were first
            if not written and taught:
                window.keep(found["latest"], found["known"])
                continue
            if not written:
                return written, list(group)
            if lesson is not None:
                window.keep(version, lesson[2])
            again, rest = await self._heard(connection, window, (group, offer), found, done)
            return written, again + await self._admit(connection, window, rest, done)

    def _lesson(
        self, window: WindowRow, steps: Sequence[Step], images: Sequence[int]
    ) -> tuple[list[float] | None, LearningWindow | None, Offer]:
        """Lesson of verdicts for a window whose quota is not known, and the offer that follows."""
        if window.quota is not None:
            return None, None, Offer([None] * len(images), loop_time())
        pacer, now = window.pacer(), self.member.now()
        gates, lesson = teach(window, pacer, steps, now)
        return gates, lesson, offered(pacer, images, now)

    async def _admit(
        self, connection: Connection, window: WindowRow, group: Sequence[Step], done: dict[int, Any]
    ) -> list[Step]:
        """Admit what goes to one window. Returns what has moved."""
        again: list[Step] = []
        while group:
            offer = await self.windows.offer(connection, window, [each.moved.images for each in group])
            if offer.slots:
                admits = self._values(window, group[: len(offer.slots)], offer, window.version)
                found = await connection.fetchrow(ADMIT, *admits)
                self.member.commits += 1
                moved, group = await self._heard(connection, window, (group, offer), found, done)
                again += moved
            else:
                _defer(group, offer, done)
                break
        return again

    def _values(self, window: WindowRow, group: Sequence[Step], offer: Offer, version: int) -> list[Any]:
        """Parameters of the function that admits announcements to a window of this version."""
        costs = [each.told.cost for each in group]
        return [
            self.member.me,
            self.member.batch,
            window.id,
            [each.row.serial for each in group],
            [each.row.moves for each in group],
            [each.moved.images for each in group],
            costs if any(cost is not None for cost in costs) else None,
            LINE,
            offer.slots if window.quota is None else None,
            version,
            offer.state,
            offer.taken,
            None,
            *columns(each.record for each in group),
        ]

    async def _heard(
        self,
        connection: Connection,
        window: WindowRow,
        offered: tuple[Sequence[Step], Offer],
        found: Mapping[str, Any],
        done: dict[int, Any],
    ) -> tuple[list[Step], Sequence[Step]]:
        """Tell each what the database has said. Returns those that have moved, and those to offer again."""
        group, offer = offered
        _defer(group[len(offer.slots) :], offer, done)
        group = group[: len(offer.slots)]
        if found["why"] in ("moved", "fewer"):
            window.keep(found["latest"], found["known"])
            refused = set(found["refused"]) if found["why"] == "fewer" else ()
            moved = [each for n, each in enumerate(group, 1) if n in refused]
            return moved, [each for n, each in enumerate(group, 1) if n not in refused]
        if window.quota is None and found["granted"]:
            window.keep(found["latest"], found["known"])
        return await self._granted(connection, window, (group, offer), found, done), ()

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
                self.rows.remember(step.told.name, row)
            elif why == "buried":
                done[id(step.told)] = self.member.lost()
            elif n in refused:
                again.append(step)
            elif spent:
                spent = False
                done[id(step.told)] = await self.money.exhausted(connection, step.told.cost)
            else:
                done[id(step.told)] = Deferred(until, found["share"] // step.moved.images)
        return again


def _by_window(steps: Sequence[Step]) -> dict[tuple[str, str], list[Step]]:
    """Announcements by account and endpoint."""
    groups: dict[tuple[str, str], list[Step]] = {}
    for step in steps:
        groups.setdefault((step.moved.account or "", step.moved.endpoint), []).append(step)
    return groups


def _touches_only(step: Step, window: WindowRow, account: str) -> bool:
    """Whether a step is of this account, and settles no place of another window."""
    of_account = step.row.account == account
    return of_account and (step.told.settled is None or step.row.window == window.id)


def _defer(steps: Sequence[Step], offer: Offer, done: dict[int, Any]) -> None:
    """Put off announcements for which there is no place now."""
    for step in steps:
        done[id(step.told)] = Deferred(offer.until)
