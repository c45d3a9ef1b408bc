"""Rows of a batch: read with their number of moves, written where they have not moved.

A row is read once and then known by its number of moves. Where a write finds that it has moved, it is read
again: the facts are let happen anew, or the row is another's by now.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from sys import intern
from typing import Any, Final

from attrs import define, field

from novita_async._journal import rows
from novita_async._journal.postgres.member import Member
from novita_async._journal.postgres.schema.columns import MOVED
from novita_async._journal.postgres.texts import escaped, unescaped
from novita_async._journal.postgres.verdicts import fate_of
from novita_async._journal.postgres.windows import WindowRow, Windows, taught
from novita_async._journal.postgres.works import Connection, Name, Told
from novita_async._journal.rows import COLUMNS, Known, Record, entry_of
from novita_async._policy.sharing import SharedWindow
from novita_async._purchase.journal import action_of
from novita_async._purchase.machine import (
    LIST,
    LOST,
    NOTHING,
    SPENT,
    Bought,
    Completed,
    Purchase,
    State,
    advance,
    next_action,
    told_before,
)
from novita_async._util.clock import loop_time
from novita_async.errors import NovitaError

LearningWindow = tuple[int, int, str, int]
"""A window whose quota is learned: its number and version, what it knows then, images that count then."""
PAGE: Final = 500
"""Rows that are read in one go."""
_REMEMBERED: Final = 8192

_OF_REQUEST: Final = frozenset(
    {"key", "occurrence", "kind", "endpoint", "image_num", "request", "tag", "metadata"}
)
_READ: Final = COLUMNS[:-1]
SELECT: Final = (
    "SELECT c.serial, "  # noqa: S608 - names of columns
    + ", ".join(f"{'r' if name in _OF_REQUEST else 'c'}.{name}" for name in _READ)
    + ', c.moves, novita.is_mine(c.owner, $2, c.batch), c."window", c.slot, c.cost, c.paid'
    + " FROM novita.course c JOIN novita.request r USING (batch, serial) WHERE c.batch = $1"
)
"""Reads rows of batch `$1` for process `$2`."""
_TEXTS: Final = tuple(
    _READ.index(name)
    for name in (
        *("kind", "endpoint", "account", "task_id", "error", "paths", "result", "earlier", "token", "tag"),
        *("host", "metadata"),
    )
)
_COMMON: Final = tuple(_READ.index(name) for name in ("kind", "endpoint", "state", "account", "host"))
"""Texts of which a batch has few: one object for all of its rows."""
_SEED: Final = _READ.index("seed")
_KEY: Final = _READ.index("key")
_OCCURRENCE: Final = _READ.index("occurrence")
_ENDPOINT: Final = _READ.index("endpoint")
_STATE: Final = _READ.index("state")
_ACCOUNT: Final = _READ.index("account")
_IS_TODO: Final = {state.value: action_of(state) not in (LIST, NOTHING) for state in State}
_ESCAPED: Final = frozenset(_TEXTS)
_PLACES: Final = tuple(_READ.index(name) for name, _ in MOVED)


def marks(first: int, count: int) -> str:
    """Marks of so many parameters."""
    return ", ".join(f"${number}" for number in range(first, first + count))


MOVE_VALUES: Final = 14 + len(MOVED)
MOVE: Final = f"SELECT novita.move_1({marks(1, MOVE_VALUES)})"
_TEACH: Final = (
    "SELECT moved.written, w.quota, w.version, w.state FROM"  # noqa: S608
    f" (SELECT array_agg(serial) AS written FROM novita.move_1({marks(1, MOVE_VALUES)}) serial) moved"
    ' LEFT JOIN novita."window" w ON w.id = $11'
)
"""Writes verdicts with what a window learns, and reads the window as it stood before."""
_PLAN: Final = (
    "key", "occurrence", "position", "run", "kind", "endpoint", "image_num", "request", "tag", "metadata"
)  # fmt: skip
_OF_PLAN: Final = tuple(map(_READ.index, _PLAN))
_RESTORE: Final = f"SELECT novita.restore_1({marks(1, 1 + len(_OF_PLAN))})"
_REASSERT: Final = f"SELECT novita.reassert_1({marks(1, 10 + len(MOVED))})"


def columns(records: Iterable[Record], places: Sequence[int] = _PLACES) -> list[Sequence[Any] | None]:
    """Columns as the database keeps them, of those that facts change or of others: one list for each.

    None: all are NULL.
    """
    by_place = tuple(zip(*records, strict=True)) or ((),) * len(_READ)
    return [_to_keep(place, by_place[place]) for place in places]


def _to_keep(place: int, values: Sequence[Any]) -> Sequence[Any] | None:
    if values.count(None) == len(values):
        return None
    if place == _SEED:
        return [None if value is None else str(value) for value in values]
    return [None if value is None else escaped(value) for value in values] if place in _ESCAPED else values


@define(eq=False)
class Row:
    """A row as it was read or written last. Thousands are known, so each is kept as its record alone."""

    serial: int
    """Number of the row in its batch."""
    record: Record
    """The row as a table has it."""
    moves: int
    mine: bool
    is_todo: bool
    """Whether something is still to be done for the purchase."""
    window: int | None = None
    """Window that has a place for it which is not settled."""
    slot: str | None = None
    """Note of the pacer about that place, where the quota is not known."""
    cost: Decimal | None = None
    """Money that is reserved for it."""
    paid: Decimal | None = None
    """Money that it has cost. None: nobody told."""
    error: NovitaError | None = None
    """The error that was told last: told again, that counts once."""

    @property
    def name(self) -> Name:
        """Name of the purchase in its journal."""
        return self.record[_KEY].hex(), self.record[_OCCURRENCE]

    @property
    def state(self) -> str:
        """State of the purchase."""
        return str(self.record[_STATE])

    @property
    def account(self) -> str:
        """Label of the account that pays."""
        return self.record[_ACCOUNT] or ""

    def known(self) -> Known:
        """Make the purchase of the row, a new one each time."""
        known = rows.known_of(self.serial, self.record)
        if self.error is not None:
            known.error = known.purchase.error = self.error
        return known

    def purchase(self) -> Purchase:
        """Make the purchase of the row, a new one each time."""
        return self.known().purchase


@define(eq=False)
class Step:
    """A row, and what facts make of it."""

    told: Told
    row: Row
    moved: Purchase
    record: Record

    @classmethod
    def of(cls, told: Told, row: Row) -> "Step":
        """Let facts happen to the purchase of a row. Raises `IllegalTransition`."""
        known = row.known()
        moved = known.purchase
        moved.wants_files = told.wants_files
        for fact in told.facts:
            if not told_before(moved, fact):
                advance(moved, fact)
        now = told.facts[-1].at if told.facts else 0.0
        return cls(told, row, moved, rows.record_of(moved, known, now, summed=False))

    @property
    def is_todo(self) -> bool:
        """Whether something is still to be done for the purchase afterwards."""
        return next_action(self.moved) not in (LIST, NOTHING)

    def written(self) -> Row:
        """The row once this is written."""
        before, settled = self.row, self.told.settled
        row = Row(before.serial, self.record, before.moves + 1, before.mine, self.is_todo)
        if settled is None:
            row.window, row.slot, row.cost = before.window, before.slot, before.cost
        row.paid, row.error = before.paid, self.moved.error
        if settled in (SPENT, LOST) and before.cost is not None:
            row.paid = (before.paid or Decimal(0)) + before.cost
        return row


def teach(
    window: WindowRow, pacer: SharedWindow, steps: Sequence[Step], now: float
) -> tuple[list[float], LearningWindow | None]:
    """Let a window whose quota is not known learn from the verdicts among some steps.

    Returns:
        Seconds for which nobody should announce, by step; and the window to be written. None: nothing was
        settled.
    """
    settling = [each.told.settled is not None and each.row.window is not None for each in steps]
    gates = [
        taught(pacer, each.told.settled, each.row.slot, each.moved.images, now) if settles else 0.0
        for each, settles in zip(steps, settling, strict=True)
    ]
    return gates, (window.id, window.version, pacer.text(), pacer.window.taken) if any(settling) else None


def row_of(found: Sequence[Any]) -> Row:
    """Read what `SELECT` has found."""
    serial, *told, moves, mine, window, slot, cost, paid = found
    for place in _TEXTS:
        if told[place] is not None:
            told[place] = unescaped(told[place])
    for place in _COMMON:
        if told[place] is not None:
            told[place] = intern(told[place])
    if told[_SEED] is not None:
        seed = int(told[_SEED])
        told[_SEED] = seed if abs(seed) < 1 << 63 else told[_SEED]
    is_todo = _IS_TODO[told[_STATE]]
    return Row(serial, (*told, 0), moves, bool(mine), is_todo, window, slot, cost, paid)


@define(eq=False)
class FencedRows:
    """Rows that this process has read or written."""

    member: Member
    windows: Windows
    known: dict[Name, Row] = field(factory=dict[Name, Row], init=False)
    """Rows by the names of their purchases: the latest few thousand."""
    had: set[int] | None = field(factory=set[int], init=False)
    """Serial numbers of rows that were taken and have not ended. None: a failover has changed them."""

    def of(self, batch: int) -> "FencedRows":
        """Rows of another batch."""
        return FencedRows(self.member.elsewhere(batch), self.windows)

    def remember(self, name: Name, row: Row) -> None:
        """Know the row of a purchase from now on."""
        self.known[name] = row
        if len(self.known) > _REMEMBERED:
            del self.known[next(iter(self.known))]

    def forget(self, name: Name) -> None:
        """Read a row again where it is needed."""
        self.known.pop(name, None)

    def has_not(self, serial: int) -> None:
        """Take note that this process has done with a row."""
        if self.had:
            self.had.discard(serial)

    # --- Reading --------------------------------------------------------------------------------------------

    async def select(self, connection: Connection, rest: str, *values: Any) -> list[Purchase]:
        """Read purchases. `$3` is the first value."""
        return [row.purchase() for row in await self.fetch(connection, rest, *values)]

    async def fetch(self, connection: Connection, rest: str, *values: Any) -> list[Row]:
        """Read rows. `$3` is the first value."""
        found = await connection.fetch(f"{SELECT} {rest}", self.member.batch, self.member.me, *values)
        return [row_of(each) for each in found]

    async def read(self, connection: Connection, names: Sequence[Name]) -> None:
        """Know the rows of these purchases, as far as there are any."""
        if not names:
            return
        keys, occurrences = [bytes.fromhex(key) for key, _ in names], [number for _, number in names]
        which = "AND (r.key, r.occurrence) IN (SELECT * FROM unnest($3::bytea[], $4::int[]))"
        for row in await self.fetch(connection, which, keys, occurrences):
            self.remember(row.name, row)

    async def by_serial(self, connection: Connection, serials: Sequence[int]) -> dict[int, Purchase]:
        """Read purchases by the serial numbers of their rows, which are known from then on."""
        read: dict[int, Purchase] = {}
        for row in await self.fetch(connection, "AND c.serial = ANY($3)", serials):
            read[row.serial] = purchase = row.purchase()
            self.remember(entry_of(purchase).name, row)
        return read

    # --- Writing --------------------------------------------------------------------------------------------

    async def move(self, connection: Connection, steps: Sequence[Step], *, fenced: bool = True) -> set[int]:
        """Write what has become of purchases. Returns the serial numbers of those that were written."""
        plain: list[Step] = []
        learning: dict[int, tuple[WindowRow, list[Step]]] = {}
        for step in steps:
            window = await self._left_window(connection, step)
            if window is None:
                plain.append(step)
            else:
                learning.setdefault(window.id, (window, []))[1].append(step)
        written = await self._write(connection, plain, fenced=fenced) if plain else set[int]()
        for window, group in learning.values():
            written |= await self._write_learning(connection, window, group, fenced=fenced)
        return written

    async def _left_window(self, connection: Connection, step: Step) -> WindowRow | None:
        """The window whose place a verdict settles, where its quota is learned."""
        if step.told.settled is None or step.row.window is None:
            return None
        window = await self.windows.of(connection, step.row.account, step.moved.endpoint)
        return window if window.quota is None else None

    async def _write_learning(
        self, connection: Connection, window: WindowRow, steps: Sequence[Step], *, fenced: bool
    ) -> set[int]:
        """Write verdicts with what the window learns from them; again where another process was first."""
        while True:
            pacer = window.pacer()
            gates, lesson = teach(window, pacer, steps, self.member.now())
            values = self.move_values(steps, fenced=fenced, gates=gates, window=lesson)
            found = await connection.fetchrow(_TEACH, *values)
            self.member.commits += 1
            written = set[int](found["written"] or ())
            if written:
                window.keep(window.version + 1, pacer.text())
                return written
            if not window.follow(found) and not await self.windows.refresh(connection, window):
                return written

    async def _write(
        self,
        connection: Connection,
        steps: Sequence[Step],
        *,
        fenced: bool,
    ) -> set[int]:
        found = await connection.fetch(MOVE, *self.move_values(steps, fenced=fenced))
        self.member.commits += 1
        return {each[0] for each in found}

    def move_values(
        self,
        steps: Sequence[Step],
        *,
        fenced: bool = True,
        gates: Sequence[float] | None = None,
        window: LearningWindow | None = None,
    ) -> list[Any]:
        """Parameters of the function that writes steps.

        Args:
            steps: The steps.
            fenced: Whether rows must be this process's.
            gates: Seconds for which nobody announces, by what a window has learned from each.
            window: The window that learns from them. None: its quota is known, or nothing is settled.
        """
        now = loop_time()
        settled = [each.told.settled for each in steps]
        return [
            self.member.me if fenced else None,
            self.member.batch,
            [each.row.serial for each in steps],
            [each.row.moves for each in steps],
            [each.is_todo for each in steps],
            [fate_of(each) for each in settled],
            [each in (SPENT, LOST) for each in settled],
            [self.member.held_for(each.told.settled, now - each.told.at) for each in steps],
            [
                max(each.told.gate, gate)
                for each, gate in zip(steps, gates or [0.0] * len(steps), strict=True)
            ],
            [each.told.cause for each in steps],
            *(window or (None, None, None, None)),
            *columns(each.record for each in steps),
        ]

    async def keep_paid(self, connection: Connection, told: Told, row: Row) -> None:
        """Keep what was paid, by a task or at once, although the row is another's. Nothing else counts."""
        kinds = Bought | Completed if row.state in (State.ANNOUNCED, State.UNCERTAIN) else Bought
        paid = tuple(fact for fact in told.facts if isinstance(fact, kinds))
        while paid and not await self.move(
            connection, [Step.of(Told(told.name, paid, told.wants_files), row)], fenced=False
        ):
            self.forget(told.name)
            await self.read(connection, [told.name])
            row = self.known[told.name]
        self.forget(told.name)

    async def found(self, connection: Connection, batch: int, name: Name, bought: Bought) -> None:
        """Keep the id of a paid task that an event has told, in whichever batch."""
        there = self.of(batch)
        await there.read(connection, [name])
        await there.keep_paid(connection, Told(name, (bought,), wants_files=True), there.known[name])

    async def reassert(self, connection: Connection) -> None:
        """Say again what was confirmed to this process: the database may have forgotten it in a failover."""
        kept = [row for row in self.known.values() if row.mine]
        for row in kept:
            if row.window is not None:  # it may have another number now
                row.window = (await self.windows.of(connection, row.account, row.record[_ENDPOINT])).id
        records = [row.record for row in kept]
        planned = columns(records, _OF_PLAN)
        await connection.execute(_RESTORE, self.member.batch, *planned)
        await connection.execute(
            _REASSERT,
            self.member.me,
            self.member.batch,
            *planned[:2],
            [row.moves for row in kept],
            [row.is_todo for row in kept],
            [row.window for row in kept],
            [row.cost for row in kept],
            [row.paid for row in kept],
            [row.slot for row in kept],
            *columns(records),
        )
