"""A connection to a shared journal, and all that is done with it: the only module that knows asyncpg.

Facts that come together are written together, by one call for all that takes places in a window, and one for
the rest. A row is read once and then known by its number of moves; where a write finds that it has moved, or
a connection has broken, it is read again: either this very write was done, or the facts are let happen anew,
or the row is another's by now.
"""

import asyncio
import json
import logging
import math
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from decimal import Decimal
from functools import partial
from typing import Any, Final, TypeVar, cast

import asyncpg
from asyncpg import exceptions as pg
from attrs import define, field

from novita_async._journal import rows
from novita_async._journal.postgres.at_work import AtWork
from novita_async._journal.postgres.lost import LeaseLost
from novita_async._journal.postgres.migrations import MIGRATIONS, VERSION
from novita_async._journal.postgres.schema import MOVED
from novita_async._journal.rows import COLUMNS, Known, Record, entry_of
from novita_async._policy.breaker import Trip
from novita_async._policy.pacing import LATE
from novita_async._policy.sharing import SharedWindow
from novita_async._purchase.journal import Deferred, Summary, Tally, summed
from novita_async._purchase.machine import (
    ANNOUNCED,
    LIST,
    LOST,
    NOTHING,
    REJECTED,
    SEEN,
    SPENT,
    UNCERTAIN,
    UNREACHED,
    Bought,
    Completed,
    Fact,
    NotBought,
    Order,
    Purchase,
    Settlement,
    State,
    advance,
    next_action,
    settlement,
    told_before,
)
from novita_async._util.clock import loop_time, wall_time
from novita_async._version import __version__
from novita_async.errors import (
    APIError,
    BudgetExhausted,
    ConfigurationError,
    JournalError,
    NovitaError,
    RateLimited,
)

T = TypeVar("T")
Name = tuple[str, int]
Connection = Any  # of asyncpg, whose stubs know no record types
_log: Final = logging.getLogger(__name__)

PAGE: Final = 500
"""Rows that are read in one go."""
PIECE: Final = 1000
"""Rows that are planned in one go."""
_CACHED: Final = 100
"""Statements that stay prepared."""
_REMEMBERED: Final = 8192
_GATE: Final = 1.0
"""Seconds for which nobody announces after a 429 that says no time."""
_BELIEVED: Final = 0.002
"""Seconds: a difference of clocks that the round trip and this explain is none."""

_OF_REQUEST: Final = frozenset(
    {"key", "occurrence", "kind", "endpoint", "image_num", "request", "tag", "metadata"}
)
_READ: Final = COLUMNS[:-1]
_SELECT: Final = (
    "SELECT c.serial, "  # noqa: S608 - names of columns
    + ", ".join(f"{'r' if name in _OF_REQUEST else 'c'}.{name}" for name in _READ)
    + ', c.moves, novita.is_mine(c.owner, $2, c.batch), c."window", c.slot, c.cost, c.paid'
    + " FROM novita.course c JOIN novita.request r USING (batch, serial) WHERE c.batch = $1"
)
_TEXTS: Final = tuple(
    _READ.index(name)
    for name in (
        *("kind", "endpoint", "account", "task_id", "error", "paths", "result", "earlier", "token", "tag"),
        *("host", "metadata"),
    )
)
_SEED: Final = _READ.index("seed")
_PLACES: Final = tuple(_READ.index(name) for name, _ in MOVED)
_ACCOUNT: Final = _READ.index("account")
_PATIENCE: Final = 4.0
"""Seconds for which a place in line is kept for a process that does not ask again."""
_ANSWER: Final = 0.25
"""Seconds after which a window is asked again that waits for an answer of any process."""


def _marks(first: int, count: int) -> str:
    return ", ".join(f"${number}" for number in range(first, first + count))


_MOVE: Final = f"SELECT novita.move_2({_marks(1, 14 + len(MOVED))})"
_ADMIT: Final = f"SELECT * FROM novita.admit_2({_marks(1, 13 + len(MOVED))})"  # noqa: S608
_SETTLE: Final = f"SELECT novita.settle_2({_marks(1, 13)})"
_REASSERT: Final = f"SELECT novita.reassert_1({_marks(1, 9 + len(MOVED))})"
_PLAN: Final = f"SELECT serial, is_new FROM novita.plan_2({_marks(1, 14)})"  # noqa: S608
_TRY_AGAIN: Final = (  # whoever begins asks the service once: a key or a balance may be mended by now
    "UPDATE novita.account SET out_until = novita.now()"
    " WHERE error IS NOT NULL AND out_until > novita.now() AND label = ANY($1)"
)
_TALLIES: Final = (
    "SELECT c.state, count(*), sum(r.image_num), sum(c.bought), sum(c.perhaps) FROM novita.course c"
    " JOIN novita.request r USING (batch, serial) WHERE c.batch = $1 GROUP BY 1"
)

_TOLD_OF_WORKERS: Final = ("name", "version", "started", "is_alive", "had", "sending", "watching")

ADVICE: Final = "nothing more is bought; look after the database, then run the same again"


# --- Texts --------------------------------------------------------------------------------------------------

_ODD: Final = re.compile("[\x00\ue000\ud800-\udfff]")
_ODD_AGAIN: Final = re.compile("\ue000([0-9a-f]{4})")


def escaped(text: str) -> str:
    """A text that Postgres can keep: NUL and halves of characters are told by their numbers."""
    return _ODD.sub(lambda odd: f"\ue000{ord(odd[0]):04x}", text) if _ODD.search(text) else text


def unescaped(text: str) -> str:
    """The text that was escaped."""
    return _ODD_AGAIN.sub(lambda odd: chr(int(odd[1], 16)), text) if "\ue000" in text else text


def _to_keep(record: Record, place: int) -> Any:
    value = record[place]
    if value is None or place not in _ESCAPED:
        return value
    return str(value) if place == _SEED else escaped(value)


_ESCAPED: Final = frozenset((*_TEXTS, _SEED))


# --- What is told -------------------------------------------------------------------------------------------


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


@define(eq=False)
class _Row:
    """A row as it was read or written last."""

    known: Known
    moves: int
    mine: bool
    window: int | None = None
    """Window that has a place for it which is not settled."""
    slot: str | None = None
    """Note of the pacer about that place, where the quota is not known."""
    cost: Decimal | None = None
    """Money that is reserved for it."""
    paid: Decimal | None = None
    """Money that it has cost. None: nobody told."""

    @property
    def serial(self) -> int:
        return entry_of(self.known.purchase).serial


@define(eq=False)
class _Step:
    """A row, and what facts make of it."""

    told: Told
    row: _Row
    moved: Purchase
    record: Record

    @property
    def is_todo(self) -> bool:
        """Whether something is still to be done for the purchase afterwards."""
        return next_action(self.moved) not in (LIST, NOTHING)


@define(eq=False)
class _WindowRow:
    """A shared window, as it was seen last."""

    id: int
    endpoint: str
    quota: int | None
    version: int
    state: str | None
    """State of the pacer, while the quota is not known."""

    def pacer(self) -> SharedWindow:
        return SharedWindow.read(self.endpoint, self.state)

    def keep(self, version: int, state: str | None) -> None:
        self.version, self.state = version, state


# --- The store ----------------------------------------------------------------------------------------------


@define(eq=False, kw_only=True)
class SharedStore:
    """Access of a process to the rows of one batch."""

    url: str
    """Where the database is; may hold a password."""
    label: str
    """The same without it."""
    name: str
    """Name of the batch."""
    worker: str
    """Name of this process, for those who look."""
    quotas: Mapping[str, int | None] = field(factory=dict[str, int | None])
    """Images in a window, by account."""
    window: float
    """Seconds for which a place counts after the answer."""
    lease: float
    """Seconds after which a silent process is taken for dead."""
    patience: float
    """Seconds for which a database that cannot be reached is waited for."""
    batch: int = 0
    me: int = 0
    """Number of this process among all that ever worked. 0: it only reads."""
    run: int = 0
    is_shared: bool = False
    """Whether others may work on the batch, too."""
    session: int | None = None
    """Number of this process's plan among those of all who plan while others work."""
    commits: int = 0
    skew: float = 0.0
    """Seconds by which the database's clock is before this computer's."""
    pooled: bool | None = None
    """Whether a pooler such as PgBouncer gives each transaction another server. None: not asked yet."""
    listeners: dict[str, Callable[[str], None]] = field(factory=dict[str, Callable[[str], None]], init=False)
    """Told what the database tells, by channel."""
    _connection: Connection = None
    _rows: dict[Name, _Row] = field(factory=dict[Name, _Row], init=False)
    _calls: int = field(default=0, init=False)
    """Number of the latest call about places without rows."""
    processes: int = field(default=1, init=False)
    """Processes at work with this database."""
    unwell: Sequence[Mapping[str, Any]] = field(default=(), init=False)
    """Accounts that are closed or taken out, as was told last."""
    alive_until: float = field(default=-math.inf, init=False)
    """Until when, on the loop's clock, no other process takes this one for dead."""
    heed: Callable[[Sequence[Mapping[str, Any]], int], None] = field(default=lambda _, __: None, init=False)
    """Told which accounts are not well, and how many processes are at work."""
    _windows: dict[tuple[str, str], _WindowRow] = field(factory=dict[tuple[str, str], _WindowRow], init=False)
    _in_doubt: bool = field(default=False, init=False)
    """Whether a connection broke, so that a commit may not be where it should be."""

    # --- The connection -------------------------------------------------------------------------------------

    async def once(self, do: Callable[[Connection], Awaitable[T]]) -> T:
        """Do something, again where the connection breaks. What is done must bear being done twice."""
        began, pause = loop_time(), 0.05
        while True:
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connect()
                if self._in_doubt and self.me:
                    await self.beat(
                        self._connection
                    )  # it may be another server, which has forgotten something
                    self._rows.clear()
                done = await do(self._connection)
                if self._in_doubt and self.me:  # what is confirmed later confirms what was before it
                    await self.beat(self._connection)
            except _PASSES as error:
                self._drop()
                if loop_time() - began > self.patience:
                    raise self._unreachable(error) from error
                await asyncio.sleep(pause * (0.5 + random.random()))
                pause = min(2 * pause, 2.0)
            except pg.PostgresError as error:
                if isinstance(error, _AGAIN):
                    continue
                raise self._refused(error) from error
            else:
                self._in_doubt = False
                return done

    async def _connect(self) -> Connection:
        """Connect. Behind a pooler in transaction mode nothing stays prepared."""
        if self.pooled is None:
            first = await self._connected(0)
            try:
                there = await first.fetchval("SELECT pg_backend_pid()")
                self.pooled = bool(there != first.get_server_pid())
            finally:
                first.terminate()
        connection = await self._connected(0 if self.pooled else _CACHED)
        if not self.pooled:
            for channel, heard in self.listeners.items():
                await connection.add_listener(channel, partial(_heard, heard))
        return connection

    async def _connected(self, cached: int) -> Connection:
        options: Any = {"timeout": 10, "command_timeout": 60.0, "statement_cache_size": cached}
        return cast("Any", await asyncpg.connect(self.url, **options))

    async def listen(self, connection: Connection, channel: str, heard: Callable[[str], None]) -> None:
        """Hear what the database tells on a channel. Behind a pooler that cannot be."""
        self.listeners[channel] = heard
        if not self.pooled:
            await connection.add_listener(channel, partial(_heard, heard))

    def _drop(self) -> None:
        self._in_doubt = True
        self.hang_up()

    def hang_up(self) -> None:
        """Leave the connection as a process does that ends."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def _unreachable(self, error: BaseException) -> JournalError:
        why = str(error) or type(error).__name__
        return JournalError(problem=f"journal {self.label}: it cannot be reached ({why})", advice=ADVICE)

    def _refused(self, error: "pg.PostgresError") -> JournalError:
        if getattr(error, "sqlstate", None) in ("NV001", "NV002"):
            return self.lost()
        if getattr(error, "sqlstate", None) == "NV003":
            return JournalError(
                problem=f"journal {self.label}: the database was restarted while the batch was planned",
                advice="nothing is lost; plan the same input again, which finds what is planned already",
            )
        if isinstance(error, pg.UndefinedTableError | pg.UndefinedFunctionError | pg.InvalidSchemaNameError):
            return JournalError(
                problem=f"journal {self.label}: the database has no tables for journals, or older ones",
                advice=f"nothing was bought; run: novita-async db upgrade {self.label}",
            )
        return JournalError(problem=f"journal {self.label}: {error}", advice=ADVICE)

    def lost(self) -> LeaseLost:
        """The error of a process whose rows are another's."""
        return LeaseLost(
            problem=f"journal {self.label}: another process has this batch or this request by now",
            advice="what was under way is known or uncertain, and is not bought again; "
            "run the same again where no other process works on it",
        )

    # --- Beginning and living -------------------------------------------------------------------------------

    async def begin(self, connection: Connection, *, alone: bool) -> float | None:
        """Become a worker of a batch. Returns seconds until another's lease runs out that is in the way."""
        await check_version(connection, self.label)
        await self.read_clock(connection)
        began = loop_time()
        found = await connection.fetchrow(
            "SELECT * FROM novita.begin_1($1, $2, $3, $4, $5)",
            self.name,
            self.worker,
            __version__,
            self.lease,
            alone,
        )
        self.batch, self.run, self.is_shared = found["batch"], found["run"], not alone
        if found["in_use"] is not None:
            return float(found["in_use"])
        self.me = found["me"]
        self.alive_until = began + self.lease
        await connection.execute(_TRY_AGAIN, [escaped(label) for label in self.quotas])
        await self._warn_of_standby(connection)
        return None

    async def look(self, connection: Connection) -> None:
        """Find the batch, without working on it. Raises `JournalError`: there is none."""
        await check_version(connection, self.label)
        await self.read_clock(connection)
        found = await connection.fetchrow("SELECT id, run FROM novita.batch WHERE name = $1", self.name)
        if found is None:
            names = await connection.fetch("SELECT name FROM novita.batch ORDER BY id DESC LIMIT 5")
            there = ", ".join(each["name"] for each in names) or "none"
            raise JournalError(
                problem=f"journal {self.label}: there is no batch of this name",
                advice=f"the latest there: {there}; plan one with: novita-async enqueue",
            )
        self.batch, self.run = found["id"], found["run"]

    async def note(self, connection: Connection, text: str) -> None:
        """Keep a text about the batch."""
        await connection.execute("UPDATE novita.batch SET note = $2 WHERE id = $1", self.batch, escaped(text))

    async def noted(self, connection: Connection) -> str | None:
        """Read the text about the batch."""
        text = await connection.fetchval("SELECT note FROM novita.batch WHERE id = $1", self.batch)
        return None if text is None else unescaped(text)

    async def at_work(self, connection: Connection) -> list[AtWork]:
        """Tell who works on the batch, the oldest first."""
        found = await connection.fetch("SELECT * FROM novita.at_work WHERE batch = $1 ORDER BY id", self.name)
        return [
            AtWork(
                number=each["id"],
                silent_since=None if each["is_alive"] else each["alive_until"],
                **{name: each[name] for name in _TOLD_OF_WORKERS},
            )
            for each in found
        ]

    async def payers(self, connection: Connection, states: Sequence[State]) -> list[str]:
        """Labels of accounts that have bought what is in these states: the first few."""
        found = await connection.fetch(
            "SELECT DISTINCT account FROM novita.course WHERE batch = $1 AND state = ANY($2)"
            " AND account IS NOT NULL LIMIT 8",
            self.batch,
            [state.value for state in states],
        )
        return [unescaped(each["account"]) for each in found]

    async def records(self, connection: Connection, after: int) -> list[tuple[int, Record]]:
        """Read serial numbers and records of the rows after one, as a file keeps them."""
        found = await connection.fetch(
            f"{_SELECT} AND c.serial > $3 ORDER BY c.serial LIMIT {PAGE}", self.batch, self.me, after
        )
        kept = [
            (row.serial, row.known.record[: len(rows.KEPT)], row.known.record)
            for row in map(self._row, found)
        ]
        return [(serial, (*record[:-1], rows.checksum(told))) for serial, told, record in kept]

    async def read_clock(self, connection: Connection) -> None:
        """Learn how far the database's clock is from ours."""
        before = wall_time()
        there = await connection.fetchval("SELECT novita.now()")
        self._compare(before, there, wall_time())

    def _compare(self, before: float, there: float, after: float) -> None:
        explained = before - _BELIEVED <= there <= after + _BELIEVED
        self.skew = 0.0 if explained else there - (before + after) / 2

    async def _warn_of_standby(self, connection: Connection) -> None:
        standby = await connection.fetchval(
            "SELECT current_setting('synchronous_standby_names') = '' AND EXISTS"
            " (SELECT FROM pg_stat_replication WHERE application_name NOT LIKE 'pg_%backup%')"
        )
        if standby:
            _log.warning(
                "journal %s: its standby is not synchronous; after a failover the same may be bought twice; "
                "set synchronous_standby_names",
                self.label,
            )

    async def beat(self, connection: Connection) -> list[int]:
        """Say that this process lives. Returns those whose rows are to be given away.

        Raises:
            LeaseLost: this process was taken for dead.
        """
        before, began = wall_time(), loop_time()
        found = await connection.fetchrow("SELECT * FROM novita.beat_2($1, $2)", self.me, self.lease)
        self._compare(before, found["at"], wall_time())
        if not found["alive"]:
            raise self.lost()
        self.alive_until, self.processes = began + self.lease, found["workers"]
        self._tell_health(found["accounts"])
        if not found["steady"]:
            await self._reassert(connection)
            return []
        return list(found["dead"] or ())

    def _tell_health(self, accounts: str | None) -> None:
        self.unwell = json.loads(accounts) if accounts else []
        self.heed(self.unwell, self.processes)

    async def _reassert(self, connection: Connection) -> None:
        """Say again what was confirmed to this process: the database may have forgotten it in a failover."""
        kept = [row for row in self._rows.values() if row.mine]
        await connection.fetch(
            _REASSERT,
            self.me,
            self.batch,
            [row.serial for row in kept],
            [row.moves for row in kept],
            [next_action(row.known.purchase) not in (LIST, NOTHING) for row in kept],
            [row.window for row in kept],
            [row.cost for row in kept],
            [row.paid for row in kept],
            [row.slot for row in kept],
            *([_to_keep(row.known.record, place) for row in kept] for place in _PLACES),
        )
        await connection.execute("SELECT novita.rebuild_1($1)", self.window)

    async def leave(self, connection: Connection) -> None:
        """End, and give everything back at once."""
        await connection.execute(
            "UPDATE novita.worker SET ended = coalesce(ended, clock_timestamp()) WHERE id = $1", self.me
        )
        if self.session is not None:
            await connection.execute("SELECT novita.end_session_1($1, $2)", self.batch, self.session)
        await self.bury(self.me, connection)
        await connection.execute("UPDATE novita.batch SET holder = NULL WHERE holder = $1", self.me)

    async def bury(self, dead: int, connection: Connection) -> int:
        """Give away what a process had. What was on its way is uncertain; place and money stay taken."""
        uncertain = await self._recover(connection, "c.owner = $3", dead)
        await self._bury_places(connection, dead)
        await connection.fetchval("SELECT novita.free_2($1)", dead)
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
            "SELECT id FROM novita.worker WHERE batch = $1 AND ended IS NOT NULL AND NOT buried", self.batch
        )
        for found in dead:
            uncertain += await self.bury(found["id"], connection)
        return uncertain + await self._recover(connection, "c.owner IS NULL")

    async def _recover(self, connection: Connection, which: str, *values: Any) -> int:
        after = uncertain = 0
        number = len(values) + 3
        sql = (
            f'{_SELECT} AND {which} AND (c.perhaps > 0 OR c."window" IS NOT NULL)'
            f" AND c.serial > ${number} ORDER BY c.serial LIMIT {PAGE}"
        )
        while found := await connection.fetch(sql, self.batch, self.me, *values, after):
            page = [self._row(each) for each in found]
            after = page[-1].serial
            steps = [self._left(row) for row in page]
            await self._move(connection, [each for each in steps if each is not None], fenced=False)
            uncertain += sum(row.known.purchase.state is State.ANNOUNCED for row in page)
        return uncertain

    def _left(self, row: _Row) -> _Step | None:
        """Find what to write of a purchase whose process has ended. None: nothing."""
        moved, now = rows.copy_of(row.known.purchase), wall_time() + self.skew
        left = rows.left_behind(moved, now)
        moved.wants_files = True  # whoever comes next says whether that is so
        if left is not None:
            advance(moved, left)
        elif moved.perhaps and moved.state in (State.PLANNED, State.UNCERTAIN):
            return None
        told = Told(entry_of(moved).name, (), settled=LOST, cause="nothing", at=loop_time())
        return _Step(told, row, moved, rows.record_of(moved, row.known, now))

    async def new_run(self, connection: Connection) -> int:
        """Begin another run, to which what is under way is lost."""
        self._rows.clear()
        await self.recover(connection)
        run: int | None = await connection.fetchval(
            "UPDATE novita.batch SET run = run + 1 WHERE id = $1 AND holder = $2 RETURNING run",
            self.batch,
            self.me,
        )
        if run is None:
            raise self.lost()
        self.run = run
        return run

    # --- Reading --------------------------------------------------------------------------------------------

    def _row(self, found: Sequence[Any]) -> _Row:
        serial, *told, moves, mine, window, slot, cost, paid = found
        for place in _TEXTS:
            if told[place] is not None:
                told[place] = unescaped(told[place])
        if told[_SEED] is not None:
            seed = int(told[_SEED])
            told[_SEED] = seed if abs(seed) < 1 << 63 else told[_SEED]
        return _Row(rows.known_of(serial, (*told, 0)), moves, bool(mine), window, slot, cost, paid)

    async def select(self, connection: Connection, rest: str, *values: Any) -> list[Purchase]:
        """Read purchases. `$3` is the first value."""
        found = await connection.fetch(f"{_SELECT} {rest}", self.batch, self.me, *values)
        return [self._row(each).known.purchase for each in found]

    async def summary(self, connection: Connection) -> Summary:
        return summed(
            Tally(state=State(state), rows=count, images=images, bought=bought, perhaps=perhaps)
            for state, count, images, bought, perhaps in await connection.fetch(_TALLIES, self.batch)
        )

    async def plan(
        self, connection: Connection, orders: Sequence[Order], piece: int, *, make: bool
    ) -> list[Purchase | None]:
        """Find the purchases of these orders; make those that are missing."""
        serials = [serial for serial, _ in await self.enqueue(connection, orders, piece, make=make)]
        planned = await self._by_serial(connection, [each for each in serials if each is not None])
        return [
            None if serial is None else rows.copy_of(planned[serial].known.purchase) for serial in serials
        ]

    async def enqueue(
        self, connection: Connection, orders: Sequence[Order], piece: int, *, make: bool = True
    ) -> list[tuple[int | None, bool]]:
        """Find the serial numbers of these orders, and whether each is new; make those that are missing.

        The piece is a number that grows, and stays the same where a broken connection lets ask again.
        """
        if self.is_shared and self.session is None:
            self.session = await connection.fetchval("SELECT novita.session_1($1)", self.batch)
        seen: dict[str, int] = {}
        nth: list[int] = []
        for order in orders:
            nth.append(seen.get(order.key, 0))
            seen[order.key] = nth[-1] + 1
        found: list[tuple[int | None, bool]] = await connection.fetch(
            _PLAN,
            self.me,
            self.batch,
            self.session,
            piece,
            make,
            [bytes.fromhex(order.key) for order in orders],
            nth,
            [order.position for order in orders],
            [escaped(order.kind) for order in orders],
            [escaped(order.endpoint) for order in orders],
            [order.images for order in orders],
            [rows.packed(order.request) for order in orders],
            [None if order.tag is None else escaped(order.tag) for order in orders],
            [None if order.metadata is None else escaped(order.metadata) for order in orders],
        )
        return found

    async def _by_serial(self, connection: Connection, serials: Sequence[int]) -> dict[int, _Row]:
        found = await connection.fetch(f"{_SELECT} AND c.serial = ANY($3)", self.batch, self.me, serials)
        read = {row.serial: row for row in map(self._row, found)}
        for row in read.values():
            self._remember(row)
        return read

    def _remember(self, row: _Row) -> None:
        entry = entry_of(row.known.purchase)
        self._rows[entry.name] = row
        if len(self._rows) > _REMEMBERED:
            del self._rows[next(iter(self._rows))]

    async def find_batch(self, connection: Connection) -> None:
        """Look for the batch, for who works on none."""
        if not self.batch:
            await check_version(connection, self.label)
            self.batch = (
                await connection.fetchval("SELECT id FROM novita.batch WHERE name = $1", self.name) or 0
            )

    async def stand(self, connection: Connection, keys: Sequence[str]) -> list[tuple[Purchase, bool]]:
        """Read first purchases of keys, and whether nothing more is to be done for them."""
        found = await connection.fetch(
            f"{_SELECT} AND r.key = ANY($3) AND r.occurrence = 0",
            self.batch,
            self.me,
            [bytes.fromhex(key) for key in keys],
        )
        read = [self._row(each).known.purchase for each in found]
        ended = await connection.fetch(
            "SELECT serial FROM novita.course WHERE batch = $1 AND serial = ANY($2)"
            " AND NOT free AND owner IS NULL AND state <> 'planned'",
            self.batch,
            [entry_of(each).serial for each in read],
        )
        serials = {each["serial"] for each in ended}
        return [(each, entry_of(each).serial in serials) for each in read]

    async def doubtful(self, connection: Connection, token: str) -> tuple[int, Purchase] | None:
        """Find the purchase of unknown end whose callback has this token, and the number of its batch."""
        batch = await connection.fetchval(
            "SELECT c.batch FROM novita.batch b, LATERAL (SELECT batch FROM novita.course"
            " WHERE batch = b.id AND token = $1 AND state = 'uncertain' AND owner IS NULL) c",
            escaped(token),
        )
        if batch is None:
            return None
        found = await connection.fetch(f"{_SELECT} AND c.token = $3", batch, self.me, escaped(token))
        return batch, self._row(found[0]).known.purchase

    async def found(self, connection: Connection, batch: int, name: Name, bought: Bought) -> None:
        """Keep the id of a paid task that an event has told."""
        before, self.batch = self.batch, batch
        try:
            self._rows.clear()  # names are those of a batch
            await self._read(connection, [name])
            await self._keep_paid(connection, Told(name, (bought,), wants_files=True), self._rows[name])
        finally:
            self.batch = before

    async def put(self, connection: Connection, order: Order) -> bool:
        """Put in one request. False: another stands there under this key."""
        return bool(
            await connection.fetchval(
                "SELECT novita.put_1($1, $2, $3, $4, $5, $6, $7, $8)",
                self.name,
                bytes.fromhex(order.key),
                escaped(order.kind),
                escaped(order.endpoint),
                order.images,
                rows.packed(order.request),
                None if order.tag is None else escaped(order.tag),
                None if order.metadata is None else escaped(order.metadata),
            )
        )

    # --- Writing --------------------------------------------------------------------------------------------

    async def carry_out(self, works: Sequence[Told | Ask | Wanted | PlaceEnded]) -> list[Any]:
        """Do all of it; give each result, or the error in its place."""
        done: dict[int, Any] = {}
        pending: list[Told] = [work for work in works if isinstance(work, Told)]
        while pending:
            first = {each.name: each for each in reversed(pending)}
            now = [each for each in pending if first[each.name] is each]
            later = [each for each in pending if first[each.name] is not each]
            try:
                pending = await self.once(partial(self._round, works=now, done=done)) + later
            except Exception as error:  # noqa: BLE001 - told to each who waits
                for each in pending:
                    done.setdefault(id(each), _copy(error))
                break
        done |= await self._carry_out_places(works)
        return [await self._attempt(work) if isinstance(work, Ask) else done[id(work)] for work in works]

    async def _carry_out_places(self, works: Sequence[Told | Ask | Wanted | PlaceEnded]) -> dict[int, Any]:
        """Settle and take places without rows, those of a window together."""
        done: dict[int, Any] = {}
        groups: dict[tuple[type, str, str], list[Any]] = {}
        for work in works:
            if isinstance(work, PlaceEnded):
                groups.setdefault((PlaceEnded, work.place.account, work.place.endpoint), []).append(work)
            elif isinstance(work, Wanted):
                groups.setdefault((Wanted, work.account, work.endpoint), []).append(work)
        for (kind, *key), group in sorted(groups.items(), key=lambda each: each[0][0] is Wanted):
            self._calls += 1
            if kind is PlaceEnded:
                do = partial(self._leave_places, call=self._calls, key=(key[0], key[1]), group=group)
            else:
                do = partial(self._take_places, _PlacesCall(self._calls, (key[0], key[1]), group))
            try:
                results: list[Any] = await self.once(do)
            except Exception as error:  # noqa: BLE001 - told to each who waits
                results = [_copy(error) for _ in group]
            done |= {id(each): result for each, result in zip(group, results, strict=True)}
        return done

    async def _take_places(self, call: "_PlacesCall", connection: Connection) -> list[Any]:
        """Take places without rows; a `Place`, or an error, for each."""
        window = await self._window(connection, *call.key)
        while True:
            offer = call.offer = call.offer or await self._offer(
                connection, window, [each.images for each in call.group]
            )
            offered = call.group[: len(offer.slots)]
            if not offered:
                return [Deferred(offer.until) for _ in call.group]
            found = await connection.fetchrow(
                _ADMIT,
                self.me,
                None,
                window.id,
                None,
                None,
                [each.images for each in offered],
                [None for _ in offered],
                _PATIENCE,
                offer.slots,
                window.version,
                offer.state,
                offer.taken,
                call.number,
                *(None for _ in _PLACES),
            )
            self.commits += 1
            if found["why"] not in ("moved", "fewer"):
                break
            await self._refresh(connection, window)
            call.offer = None
            if found["why"] == "fewer":  # a probe: one at a time
                call.offer = await self._offer(connection, window, [each.images for each in call.group[:1]])
        if window.quota is None:
            window.keep(found["latest"], found["known"])
        if found["why"] == "buried":
            return [self.lost() for _ in call.group]
        if found["why"] in ("gate", "out", "probe"):
            self._tell_health(await connection.fetchval("SELECT novita.health_1()"))
        granted, now, until = set(found["granted"]), self.now(), loop_time() + found["delay"]
        if len(offered) < len(call.group) and not found["delay"]:
            until = offer.until
        return [
            Place(*call.key, each.images, offer.slots[n], now) if n + 1 in granted else Deferred(until)
            for n, each in enumerate(call.group)
        ]

    async def _leave_places(
        self, connection: Connection, call: int, key: tuple[str, str], group: Sequence[PlaceEnded]
    ) -> list[None]:
        """Tell how attempts without rows have ended."""
        window = await self._window(connection, *key)
        now = loop_time()
        while not await self._settle_places(
            connection,
            self.me,
            window,
            [(each.settled, each.place.slot, each.place.images) for each in group],
            [self.held_for(each.settled, now - each.at) for each in group],
            [each.gate for each in group],
            [each.cause for each in group],
            [each.error for each in group],
            [each.place.announced_at for each in group],
            call,
        ):
            await self._refresh(connection, window)
        return [None for _ in group]

    async def _settle_places(
        self,
        connection: Connection,
        worker: int,
        window: _WindowRow,
        ended: Sequence[tuple[Settlement, str | None, int]],
        *more: Any,
    ) -> bool:
        """Settle places. Returns whether that counts: else another process was first to teach the window."""
        holds, gates, causes, errors, announced, call = more
        state, taken = None, 0
        if window.quota is None:
            pacer, now = window.pacer(), self.now()
            taught_gates = [taught(pacer, *each, now) for each in ended]
            gates = [max(pair) for pair in zip(gates, taught_gates, strict=True)]
            state, taken = pacer.text(), pacer.window.taken
        done: bool = await connection.fetchval(
            _SETTLE,
            worker,
            window.id,
            [images for _, _, images in ended],
            [fate_of(settled) for settled, _, _ in ended],
            holds,
            gates,
            causes,
            errors,
            announced,
            window.version,
            state,
            taken,
            call,
        )
        self.commits += 1
        if done and window.quota is None:
            await self._refresh(connection, window)
        return done

    async def _bury_places(self, connection: Connection, dead: int) -> None:
        """Hold the places without rows of a process that has ended for a whole window more."""
        for found in await connection.fetch("SELECT * FROM novita.places_1($1)", dead):
            window = await self._window(connection, unescaped(found["account"]), unescaped(found["endpoint"]))
            ended = [(LOST, None, found["images"])]
            hold = [self.window + LATE]
            while not await self._settle_places(
                connection, dead, window, ended, hold, [0.0], ["nothing"], [None], [0.0], None
            ):
                await self._refresh(connection, window)

    async def _attempt(self, ask: Ask) -> Any:
        try:
            return await self.once(ask.do)
        except Exception as error:  # noqa: BLE001 - told to who waits
            return error

    async def _round(self, connection: Connection, works: Sequence[Told], done: dict[int, Any]) -> list[Told]:
        """Write facts about different purchases. Returns those that must be told again."""
        works = [each for each in works if id(each) not in done]
        await self._read(connection, [each.name for each in works if each.name not in self._rows])
        steps: list[_Step] = []
        for each in works:
            try:
                step = await self._prepared(connection, each)
            except NovitaError as refusal:
                done[id(each)] = refusal
                continue
            if step is None:
                done[id(each)] = None
            else:
                each.tried = step.row.moves, step.record[:-1]
                steps.append(step)
        again = await self._promise([each for each in steps if each.told.promise], connection, done)
        plain = [each for each in steps if not each.told.promise]
        written = await self._move(connection, plain)
        for step in plain:
            if step.row.serial in written:
                done[id(step.told)] = None
                self._remember(_written(step))
            else:
                again.append(step)
        for step in again:
            self._rows.pop(step.told.name, None)
        return [step.told for step in again]

    async def _prepared(self, connection: Connection, told: Told) -> _Step | None:
        """Prepare what is to be written. None: nothing, or a connection broke and it was written before."""
        row = self._rows.get(told.name)
        if row is None:
            problem = f"journal {self.label}: request {told.name[0]}/{told.name[1]} was never planned"
            raise JournalError(scope="request", problem=problem)
        if told.tried == (row.moves - 1, row.known.record[:-1]):
            return None
        if not row.mine:
            await self._keep_paid(connection, told, row)
            raise self.lost()
        step = _step_of(told, row)
        return None if told.settled is None and step.record[:-1] == row.known.record[:-1] else step

    async def _read(self, connection: Connection, names: Sequence[Name]) -> None:
        if not names:
            return
        keys, occurrences = [bytes.fromhex(key) for key, _ in names], [number for _, number in names]
        found = await connection.fetch(
            f"{_SELECT} AND (r.key, r.occurrence) IN (SELECT * FROM unnest($3::bytea[], $4::int[]))",  # noqa: S608 - constant
            self.batch,
            self.me,
            keys,
            occurrences,
        )
        for each in found:
            self._remember(self._row(each))

    async def _move(self, connection: Connection, steps: Sequence[_Step], *, fenced: bool = True) -> set[int]:
        """Write what has become of purchases. Returns the serial numbers of those that were written."""
        plain: list[_Step] = []
        learning: dict[int, tuple[_WindowRow, list[_Step]]] = {}
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

    async def _left_window(self, connection: Connection, step: _Step) -> _WindowRow | None:
        """The window whose place a verdict settles, where its quota is learned."""
        if step.told.settled is None or step.row.window is None:
            return None
        account = step.row.known.record[_ACCOUNT] or ""
        window = await self._window(connection, account, step.moved.endpoint)
        return window if window.quota is None else None

    async def _write_learning(
        self, connection: Connection, window: _WindowRow, steps: Sequence[_Step], *, fenced: bool
    ) -> set[int]:
        """Write verdicts with what the window learns from them; again where another process was first."""
        while True:
            pacer, now = window.pacer(), self.now()
            gates = [
                taught(pacer, each.told.settled, each.row.slot, each.moved.images, now) for each in steps
            ]
            state = pacer.text()
            written = await self._write(
                connection,
                steps,
                fenced=fenced,
                gates=gates,
                window=(window.id, window.version, state, pacer.window.taken),
            )
            if written:
                window.keep(window.version + 1, state)
                return written
            if not await self._refresh(connection, window):
                return written

    async def _refresh(self, connection: Connection, window: _WindowRow) -> bool:
        """Read a window again. Returns whether it has changed: perhaps its quota is known now."""
        found = await connection.fetchrow(
            'SELECT quota, version, state FROM novita."window" WHERE id = $1', window.id
        )
        if (found["quota"], found["version"]) == (window.quota, window.version):
            return False
        window.quota = found["quota"]
        window.keep(found["version"], found["state"])
        return True

    async def _write(
        self,
        connection: Connection,
        steps: Sequence[_Step],
        *,
        fenced: bool,
        gates: Sequence[float] | None = None,
        window: tuple[int, int, str, int] | tuple[None, None, None, None] = (None, None, None, None),
    ) -> set[int]:
        now = loop_time()
        settled = [each.told.settled for each in steps]
        found = await connection.fetch(
            _MOVE,
            self.me if fenced else None,
            self.batch,
            [each.row.serial for each in steps],
            [each.row.moves for each in steps],
            [each.is_todo for each in steps],
            [fate_of(each) for each in settled],
            [each in (SPENT, LOST) for each in settled],
            [self.held_for(each.told.settled, now - each.told.at) for each in steps],
            [
                max(each.told.gate, gate)
                for each, gate in zip(steps, gates or [0.0] * len(steps), strict=True)
            ],
            [each.told.cause for each in steps],
            *window,
            *([_to_keep(each.record, place) for each in steps] for place in _PLACES),
        )
        self.commits += 1
        return {each[0] for each in found}

    def held_for(self, settled: Settlement | None, age: float) -> float:
        """Seconds for which a place still counts after a verdict of this age."""
        return self.window + (LATE if settled is LOST else 0.0) - max(0.0, age)

    def now(self) -> float:
        """The database's time, about."""
        return wall_time() + self.skew

    async def _promise(
        self, steps: Sequence[_Step], connection: Connection, done: dict[int, Any]
    ) -> list[_Step]:
        """Take places and money for announcements, and write them. Returns those that have moved."""
        again: list[_Step] = []
        groups: dict[tuple[str, str], list[_Step]] = {}
        for step in steps:
            groups.setdefault((step.moved.account or "", step.moved.endpoint), []).append(step)
        for (account, endpoint), group in groups.items():
            window = await self._window(connection, account, endpoint)
            again += await self._admit(connection, window, group, done)
        return again

    async def _admit(
        self, connection: Connection, window: _WindowRow, group: Sequence[_Step], done: dict[int, Any]
    ) -> list[_Step]:
        """Let a window and the budget have their say about announcements. Returns those that have moved."""
        again: list[_Step] = []
        while True:
            offer = await self._offer(connection, window, [each.moved.images for each in group])
            for step in group[len(offer.slots) :]:
                done[id(step.told)] = Deferred(offer.until)
            group = group[: len(offer.slots)]
            if not group:
                return again
            found = await connection.fetchrow(
                _ADMIT,
                self.me,
                self.batch,
                window.id,
                [each.row.serial for each in group],
                [each.row.moves for each in group],
                [each.moved.images for each in group],
                [each.told.cost for each in group],
                _PATIENCE,
                offer.slots,
                window.version,
                offer.state,
                offer.taken,
                None,
                *([_to_keep(each.record, place) for each in group] for place in _PLACES),
            )
            self.commits += 1
            if found["why"] in ("moved", "fewer"):
                await self._refresh(connection, window)
                refused = set(found["refused"]) if found["why"] == "fewer" else ()
                again += [each for n, each in enumerate(group, 1) if n in refused]
                group = [each for n, each in enumerate(group, 1) if n not in refused]
                continue
            if window.quota is None and found["granted"]:
                window.keep(found["latest"], found["known"])
            return again + await self._granted(connection, window, (group, offer), found, done)

    async def _offer(self, connection: Connection, window: _WindowRow, images: Sequence[int]) -> "Offer":
        """Choose what to offer to a window: all where its quota is known; else what its pacer lets go."""
        while window.quota is None:
            pacer, now, slots = window.pacer(), self.now(), list[str | None]()
            at = now
            for count in images:
                slot = pacer.take(count, now)
                if not isinstance(slot, str):
                    at = slot
                    break
                slots.append(slot)
            if slots or not await self._refresh(connection, window):
                delay = min(at - now, _PATIENCE / 2) if at < math.inf else _ANSWER
                return Offer(slots, loop_time() + delay, pacer.text(), pacer.window.taken)
        return Offer([None] * len(images), loop_time())

    async def _granted(
        self,
        connection: Connection,
        window: _WindowRow,
        offered: tuple[Sequence[_Step], "Offer"],
        found: Mapping[str, Any],
        done: dict[int, Any],
    ) -> list[_Step]:
        """Tell each what the database has said. Returns those that have moved."""
        group, offer = offered
        granted, refused, why = set(found["granted"]), set(found["refused"]), found["why"]
        until, spent, again = loop_time() + found["delay"], why == "spent", list[_Step]()
        if why in ("gate", "out", "probe"):
            self._tell_health(await connection.fetchval("SELECT novita.health_1()"))
        for n, step in enumerate(group, 1):
            if n in granted:
                done[id(step.told)] = None
                row = _written(step)
                row.window, row.slot, row.cost = window.id, offer.slots[n - 1], step.told.cost
                self._remember(row)
            elif why == "buried":
                done[id(step.told)] = self.lost()
            elif n in refused:
                again.append(step)
            elif spent:
                spent = False
                done[id(step.told)] = await self._exhausted(connection, step.told.cost)
            else:
                done[id(step.told)] = Deferred(until)
        return again

    async def _exhausted(self, connection: Connection, cost: Decimal | None) -> BudgetExhausted:
        found = await connection.fetchrow(
            'SELECT "limit", spent FROM novita.budget WHERE batch = $1', self.batch
        )
        return BudgetExhausted(limit=str(found["limit"]), spent=str(found["spent"]), cost=str(cost))

    async def set_budget(self, connection: Connection, limit: Decimal, price: Decimal | None) -> None:
        """Say how much the batch may cost. Raises `ConfigurationError`: others were told otherwise."""
        there = await connection.fetchval(
            "SELECT novita.budget_1($1, $2, $3, $4)", self.me, self.batch, limit, price
        )
        if there != limit:
            raise ConfigurationError(
                problem=f"{self.label}: the budget is {limit} here, and {there} in a process that is at work",
                advice="nothing was bought; give all the same budget",
            )

    async def price(self, connection: Connection, costs: Mapping[int, Decimal]) -> None:
        """Note what purchases have cost, where nobody told before."""
        await connection.execute(
            "UPDATE novita.course c SET paid = u.cost"
            " FROM unnest($2::bigint[], $3::numeric[]) u(serial, cost)"
            " WHERE c.batch = $1 AND c.serial = u.serial AND c.paid IS NULL AND c.cost IS NULL",
            self.batch,
            list(costs),
            list(costs.values()),
        )

    async def _window(self, connection: Connection, account: str, endpoint: str) -> _WindowRow:
        """Know a window. Raises `ConfigurationError`: others at work were told another quota."""
        known = self._windows.get((account, endpoint))
        if known is None:
            quota = self.quotas.get(account)
            found = await connection.fetchrow(
                "SELECT * FROM novita.window_2($1, $2, $3, $4)",
                self.me,
                escaped(account),
                escaped(endpoint),
                quota,
            )
            if quota is not None and found["quota"] != quota:
                raise ConfigurationError(
                    problem=f"account {account}: images_per_minute is {quota} here, and {found['quota']} "
                    "in a process that is at work",
                    advice="nothing was bought; give all the same quota",
                )
            known = _WindowRow(found["id"], endpoint, found["quota"], found["version"], found["state"])
            self._windows[account, endpoint] = known
        return known

    async def _keep_paid(self, connection: Connection, told: Told, row: _Row) -> None:
        """Keep what was paid, by a task or at once, although the row is another's. Nothing else counts."""
        kinds = Bought | Completed if row.known.purchase.state in (ANNOUNCED, UNCERTAIN) else Bought
        paid = tuple(fact for fact in told.facts if isinstance(fact, kinds))
        while paid and not await self._move(
            connection, [_step_of(Told(told.name, paid, told.wants_files), row)], fenced=False
        ):
            self._rows.pop(told.name)
            await self._read(connection, [told.name])
            row = self._rows[told.name]
        self._rows.pop(told.name)

    # --- Shared work ----------------------------------------------------------------------------------------

    async def take(
        self, connection: Connection, most: int, after: int, last: int | None = None
    ) -> list[Purchase]:
        """Lease rows for which something is to be done, up to a serial number."""
        found = await connection.fetch(
            "SELECT novita.lease_2($1, $2, $3, $4, $5)", self.me, self.batch, most, after, last
        )
        return await self._taken(connection, found)

    async def claim(self, connection: Connection, purchases: Sequence[Purchase]) -> list[Purchase]:
        """Lease rows that have ended, of those that nobody else has and that still stand where they stood."""
        found = await connection.fetch(
            "SELECT novita.claim_1($1, $2, $3, $4)",
            self.me,
            self.batch,
            [entry_of(each).serial for each in purchases],
            [each.state.value for each in purchases],
        )
        return await self._taken(connection, found)

    async def _taken(self, connection: Connection, serials: Sequence[Any]) -> list[Purchase]:
        leased = await self._by_serial(connection, sorted(each[0] for each in serials))
        return [rows.copy_of(row.known.purchase) for _, row in sorted(leased.items())]

    async def put_back(self, connection: Connection, purchases: Sequence[Purchase]) -> None:
        """Let go of rows, which later workers may take."""
        await connection.execute(
            "SELECT novita.put_back_1($1, $2, $3, $4)",
            self.me,
            self.batch,
            [entry_of(each).serial for each in purchases],
            [next_action(each) not in (LIST, NOTHING) for each in purchases],
        )
        for each in purchases:
            self._rows.pop(entry_of(each).name, None)

    async def give_back(self, connection: Connection) -> int:
        """Let go of all rows that this process has and of which nothing is on its way. Returns how many."""
        return int(await connection.fetchval("SELECT novita.free_2($1)", self.me))

    async def complete(self, connection: Connection) -> bool:
        """Whether no row is free for this worker, and none is another's."""
        return bool(await connection.fetchval("SELECT novita.complete_1($1, $2)", self.me, self.batch))


_PASSES: Final = (
    OSError,
    asyncio.TimeoutError,
    pg.PostgresConnectionError,
    pg.OperatorInterventionError,
    pg.InterfaceError,
    pg.TooManyConnectionsError,
)
"""Errors of a connection, which another may do without."""
_AGAIN: Final = (pg.SerializationError, pg.DeadlockDetectedError)


def _step_of(told: Told, row: _Row) -> _Step:
    """Let facts happen to a copy. Raises `IllegalTransition`."""
    moved = rows.copy_of(row.known.purchase)
    moved.wants_files = told.wants_files
    for fact in told.facts:
        if not told_before(moved, fact):
            advance(moved, fact)
    now = told.facts[-1].at if told.facts else 0.0
    return _Step(told, row, moved, rows.record_of(moved, row.known, now))


def _written(step: _Step) -> _Row:
    row = _Row(Known.of(step.moved, step.record), step.row.moves + 1, step.row.mine)
    if step.told.settled is None:
        row.window, row.slot, row.cost = step.row.window, step.row.slot, step.row.cost
    row.paid = step.row.paid
    if step.told.settled in (SPENT, LOST) and step.row.cost is not None:
        row.paid = (row.paid or Decimal(0)) + step.row.cost
    return row


def _heard(heard: Callable[[str], None], *told: Any) -> None:
    heard(told[-1])


def fate_of(settled: Settlement | None) -> int:
    """Give the fate of a place as a number: 0 nothing, 1 it is held, 2 it comes back."""
    return 0 if settled is None else 1 if settled in (SPENT, LOST, SEEN) else 2


def taught(
    pacer: SharedWindow, settled: Settlement | None, slot: str | None, images: int, now: float
) -> float:
    """Let a window learn from a verdict. Returns seconds for which nobody should announce."""
    if settled in (SPENT, SEEN):
        pacer.answered(slot, images, now)
    elif settled is LOST:
        pacer.lost(slot, images, now)
    elif settled is REJECTED:
        return pacer.rejected(slot, images, now, random.random())
    else:
        pacer.released(slot, images)
    return 0.0


def gate_of(verdict: Fact) -> float:
    """Seconds for which nobody announces after a verdict, as far as the service has said."""
    if not isinstance(verdict, NotBought) or not isinstance(verdict.error, RateLimited):
        return 0.0
    return max(_GATE, verdict.error.retry_after or 0.0)


def cause_of(verdict: Fact) -> str | None:
    """Why a verdict closes its account to all processes. None: it does not."""
    if isinstance(verdict, NotBought) and verdict.error.scope == "account":
        return "out" if isinstance(verdict.error, APIError) else "nothing"
    return _CAUSES.get(settlement(verdict))


_CAUSES: Final = {
    LOST: Trip.UNCERTAIN.value,
    REJECTED: Trip.RATE_LIMITED.value,
    UNREACHED: Trip.UNREACHABLE.value,
}


@define(eq=False)
class _PlacesCall:
    """A call for places without rows, which counts once however often it is told."""

    number: int
    key: tuple[str, str]
    group: Sequence[Wanted]
    offer: "Offer | None" = None


@define
class Offer:
    """Announcements that a window is offered."""

    slots: list[str | None]
    """Notes of the pacer, one for each announcement, where the quota is learned."""
    until: float
    """When to offer the others, on the loop's clock."""
    state: str | None = None
    """State of the pacer once these are announced."""
    taken: int = 0
    """Images that count then."""


def _copy(error: Exception) -> Exception:
    """An error of each one's own, because where it is raised is added to it."""
    again = copy(error)
    again.__cause__ = error.__cause__ or error
    return again


# --- The schema ---------------------------------------------------------------------------------------------


async def check_version(connection: Connection, label: str) -> None:
    """See whether this release can work with the database's tables. Raises `JournalError`."""
    found = await connection.fetchrow("SELECT version, oldest_reader FROM novita.meta")
    if found["version"] < VERSION:
        raise JournalError(
            problem=f"journal {label}: the database's tables are of an older release",
            advice=f"nothing was bought; run: novita-async db upgrade {label}",
        )
    if found["oldest_reader"] > VERSION:
        raise JournalError(
            problem=f"journal {label}: the database's tables are of a newer release",
            advice="nothing was bought; install a newer novita-async here",
        )


async def upgrade(connection: Connection) -> tuple[int, int]:
    """Bring the tables to this release's form, or make them. Returns the version before and now."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(5653042)")
        there = await connection.fetchval("SELECT to_regclass('novita.meta') IS NOT NULL")
        before = int(await connection.fetchval("SELECT version FROM novita.meta")) if there else 0
        for statements in MIGRATIONS[before:]:
            await connection.execute(statements)
        if before < VERSION:
            await connection.execute("UPDATE novita.meta SET version = $1", VERSION)
    return before, max(before, VERSION)
