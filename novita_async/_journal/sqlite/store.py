"""Purchases in a SQLite file: read, planned, recorded. Synchronous; one thread at a time.

The machine decides what may happen to a purchase; the store only keeps it. Every record has a checksum
over all that is read back, which is compared whenever it is. Times are unix seconds.
"""

import os
import sqlite3
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Final, TypeVar

from attrs import define, field

from novita_async._journal import rows
from novita_async._journal.groups import own_copy
from novita_async._journal.rows import COLUMNS, FRESH, KEPT, Known, Record
from novita_async._journal.sqlite import file as _file
from novita_async._purchase.journal import Summary, Tally, summed
from novita_async._purchase.machine import ANNOUNCED, Fact, Order, Purchase, State, advance, told_before
from novita_async._purchase.packing import unpacked
from novita_async.errors import JournalError, NovitaError

T = TypeVar("T")

PAGE: Final = 500
"""Rows that are read in one go: a few milliseconds."""
PIECE: Final = 1000
"""Rows that are planned in one go."""
_REMEMBERED: Final = 1024
_SOON: Final = 100
"""New rows that are planned together and sent soon; those of larger pieces may wait for hours."""

_SELECT: Final = f"SELECT serial, {', '.join(COLUMNS)} FROM requests"  # noqa: S608 names of columns
_INSERT: Final = f"INSERT INTO requests ({', '.join(FRESH)}) VALUES ({', '.join('?' * len(FRESH))})"  # noqa: S608
BY_KEY: Final = f"{_SELECT} WHERE key = ? AND occurrence = ?"
BY_TOKEN: Final = f"{_SELECT} WHERE token = ?"
BY_SLOT: Final = f"{_SELECT} WHERE slot_time > ? ORDER BY slot_time"
PAGE_OF_STATE: Final = f"{_SELECT} WHERE state = ? AND serial > ? ORDER BY serial LIMIT ?"
PERHAPS_OF_STATE: Final = f"{_SELECT} WHERE state = ? AND serial > ? AND perhaps > 0 ORDER BY serial LIMIT ?"
PAGE_OF_ALL: Final = f"{_SELECT} WHERE serial > ? ORDER BY serial LIMIT ?"
STATE_BY_KEY: Final = "SELECT state FROM requests WHERE key = ? AND occurrence = ?"
PLANNED_BEFORE: Final = "SELECT count(*), sum(image_num) FROM requests WHERE state = 'planned' AND run < ?"
PAYERS: Final = "SELECT DISTINCT account FROM requests WHERE state = ? AND account IS NOT NULL LIMIT 8"
CLAIMED: Final = "SELECT run, serial FROM requests WHERE key = ? AND occurrence = ?"
TALLIES: Final = (
    "SELECT state, count(*), sum(image_num), sum(bought), sum(perhaps) FROM requests GROUP BY state"
)


@cache
def known_keys(count: int) -> str:
    """The question which of so many keys the journal has."""
    return f"SELECT DISTINCT key FROM requests WHERE key IN ({', '.join('?' * count)})"  # noqa: S608 only marks


LAST_SERIAL: Final = "SELECT coalesce(max(serial), 0) FROM requests"
MOMENTS: Final = (
    "SELECT state, image_num, announced_time, answered_time, finished_time, earlier, error FROM requests"
)
MARKS: Final = "SELECT (serial - 1) / ?, count(*), sum(checksum) FROM requests GROUP BY 1"
_AS_JSON: Final = (
    "serial", "position", "state", "endpoint", "image_num", "account", "task_id", "attempts",
    "announced_time", "answered_time", "finished_time", "saved_time", "seed", "tag", "json(metadata)",
    "json(error)", "json(earlier)", "json(paths)", "json_extract(result, '$.times')",
)  # fmt: skip
AS_JSON: Final = (
    f"SELECT json_array({', '.join(_AS_JSON)}), request, iif(instr(result, '\"nsfw\"'), result, NULL)"  # noqa: S608 names
    " FROM requests WHERE serial BETWEEN ? AND ? ORDER BY serial"
)


@cache
def saved_first(count: int) -> str:
    """The question which of so many keys were saved, each as the first of its equals."""
    marks = ", ".join("?" * count)
    chosen = f"key IN ({marks}) AND occurrence = 0 AND state = 'saved'"
    return f"{_SELECT} INDEXED BY requests_by_key WHERE {chosen}"


@cache
def updating(columns: tuple[str, ...]) -> str:
    """The order to change these columns of a row. Other columns cost nothing, indexes included."""
    changes = ", ".join(f"{column} = ?" for column in columns)
    return f"UPDATE requests SET {changes} WHERE serial = ?"  # noqa: S608 names of columns


# --- The store --------------------------------------------------------------------------------------------


@define(eq=False)
class Work:
    """Something to be done with a store."""

    do: "Callable[[Store], Any]"
    writes: bool = True
    begins: bool = False
    """Whether more will come of it, for which there must be room."""
    waits: bool = False
    """Whether it may wait some milliseconds for company."""


@define(eq=False, repr=False)
class Store:
    """The rows of one open file."""

    file: _file.OpenFile
    run: int = field(init=False)
    commits: int = field(default=0, init=False)
    _closing: "weakref.finalize[[_file.OpenFile, int], Store]" = field(init=False)
    """Closes the file also where nobody else does and the process just ends."""
    _full: Exception | None = field(default=None, init=False)
    """Why nothing new is begun: the disk is full, and the room that was kept is for what is under way."""
    _asked_for: bytearray = field(factory=bytearray, init=False)
    """Finished rows that this run has asked for: a bit for each serial number, and no write."""
    _last_serial: int | None = field(default=None, init=False)
    """The largest serial number. None: the file knows."""
    _fresh: dict[tuple[str, int], Known] = field(factory=dict, init=False)
    """Rows that were written last, as they stand in the file: most of them are changed again soon."""

    def __attrs_post_init__(self) -> None:
        self.run = self.file.run
        self._closing = weakref.finalize(self, _close, self.file, os.getpid())

    def __repr__(self) -> str:
        return f"<Store {self.file.path}, run {self.run}, {self.commits} commits>"

    # --- Groups of work -----------------------------------------------------------------------------------

    def carry_out(self, works: Sequence[Work]) -> list[Any]:
        """Do all of it, with one commit for what writes; give each result, or the error in its place.

        A refusal by a piece of work itself concerns no other piece. A refusal by the file concerns all that
        writes: none of it was done.
        """
        if self._full is not None and any(work.begins for work in works):
            with suppress(OSError):
                self.file.keep_room()
                self._full = None
        done = self._write([work for work in works if work.writes])
        return [done[id(work)] if work.writes else self._attempt(work) for work in works]

    def _write(self, works: Sequence[Work], *, may_reuse: bool = True) -> dict[int, Any]:
        """Do all that there is room for; give each result by the work's identity."""
        able = [work for work in works if self._full is None or not work.begins]
        done = dict(zip(map(id, able), self._transact(able) if able else (), strict=True))
        errors = (each for each in done.values() if isinstance(each, JournalError))
        full = next(filter(_file.is_full, errors), None)
        if full is not None and may_reuse and self.file.reuse_log():
            return self._write(works, may_reuse=False)
        if full is not None and self.file.give_room():
            if not (may_reuse and self.file.reuse_log()):  # which takes a little room itself
                self._full = full
            done = self._write(works, may_reuse=False)
            self._keep_room_again(full)
            return done
        return {id(work): own_copy(self._full) for work in works if self._full is not None} | done

    def _keep_room_again(self, full: Exception) -> None:
        """Keep room again, now that the log was cut; where there is none, begin nothing new."""
        if self._full is None:
            try:
                self.file.keep_room()
            except OSError:
                self._full = full

    def _transact(self, works: Sequence[Work]) -> list[Any]:
        run = self.run
        try:
            with _file.translated(self.file.path), _file.transaction(self._connection):
                outcomes = [self._refusing(work) for work in works]
            self.commits += 1
        except Exception as error:  # noqa: BLE001 - told to each who waits
            self.run, self._last_serial = run, None
            self._fresh.clear()
            return [own_copy(error) for _ in works]
        return outcomes

    def _refusing(self, work: Work) -> Any:
        """Do one piece of work, which refuses before it has written anything."""
        try:
            return work.do(self)
        except NovitaError as refusal:
            return refusal

    def _attempt(self, work: Work) -> Any:
        try:
            with _file.translated(self.file.path):
                return work.do(self)
        except Exception as error:  # noqa: BLE001 - told to who waits
            return error

    @property
    def _connection(self) -> sqlite3.Connection:
        return self.file.connection

    # --- Reading ------------------------------------------------------------------------------------------

    def _select(self, sql: str, *values: Any) -> list[Purchase]:
        return [self._known(found).purchase for found in self._connection.execute(sql, values)]

    def _known(self, found: Record) -> Known:
        serial, record = found[0], found[1:]
        if rows.checksum(record[: len(KEPT)]) != record[-1]:
            raise _file.damaged(self.file.path, f"row {serial} is not as it was written")
        return rows.known_of(serial, record)

    def _found(self, key: str, occurrence: int) -> Known | None:
        """A purchase as it stands in the file."""
        found = self._connection.execute(BY_KEY, (bytes.fromhex(key), occurrence)).fetchone()
        return None if found is None else self._known(found)

    def by_token(self, token: str) -> Purchase | None:
        return next(iter(self._select(BY_TOKEN, token)), None)

    def page(self, state: State | None, after: int, most: int = PAGE) -> list[Purchase]:
        if state is None:
            return self._select(PAGE_OF_ALL, after, most)
        return self._select(PAGE_OF_STATE, state.value, after, most)

    def marks(self, size: int) -> list[tuple[int, int, int]]:
        """For each so many serial numbers, with its number: the rows, and a sum that changes with them."""
        return self._connection.execute(MARKS, (size,)).fetchall()

    def as_json(self, first: int, last: int) -> Iterator[tuple[str, str, str | None]]:
        """Rows between two serial numbers, for showing: no checksum is compared.

        Yields:
            Some columns as a JSON array, the request, and the result where files in it were checked.
        """
        for told, request, result in self._connection.execute(AS_JSON, (first, last)):
            yield told, unpacked(request), result

    def moments(self) -> Iterator[Record]:
        """State, images, times, earlier attempts and error of every row, for showing, as `as_json`."""
        return self._connection.execute(MOMENTS)

    def seen_since(self, time: float) -> list[Purchase]:
        return self._select(BY_SLOT, time)

    def summary(self) -> Summary:
        return summed(
            Tally(state=State(state), rows=count, images=images, bought=bought, perhaps=perhaps)
            for state, count, images, bought, perhaps in self._connection.execute(TALLIES)
        )

    def state_of(self, key: str, occurrence: int) -> State | None:
        """The state of a purchase. None: not there."""
        found = self._connection.execute(STATE_BY_KEY, (bytes.fromhex(key), occurrence)).fetchone()
        return None if found is None else State(found[0])

    def planned_before(self, run: int) -> tuple[int, int]:
        """Planned purchases that no run since then has asked for, and their images."""
        rows, images = self._connection.execute(PLANNED_BEFORE, (run,)).fetchone()
        return rows, images or 0

    def payers(self, state: State) -> list[str]:
        """Labels of the accounts that have bought what is in this state: the first few."""
        return [label for (label,) in self._connection.execute(PAYERS, (state.value,))]

    # --- Writing ------------------------------------------------------------------------------------------

    def new_run(self, now: float) -> int:
        """Begin another run, to which what is under way is lost."""
        self.recover(now)
        self.run += 1
        self._asked_for.clear()
        _file.set_meta(self._connection, "run", self.run)
        return self.run

    def recover(self, now: float) -> int:
        """Take note of what a process that died left under way; tell how many purchases are uncertain now."""
        return sum(self._recover(state, now) for state in rows.PERHAPS_UNDER_WAY)

    def _recover(self, state: State, now: float) -> int:
        after = uncertain = 0
        while page := self._select(PERHAPS_OF_STATE, state.value, after, PAGE):
            for purchase in page:
                after, left = rows.entry_of(purchase).serial, rows.left_behind(purchase, now)
                if left is not None:
                    self.record(*rows.entry_of(purchase).name, (left,))
                    uncertain += state is ANNOUNCED
        return uncertain

    def record(self, key: str, occurrence: int, facts: Sequence[Fact]) -> None:
        """Let facts happen to a purchase, and write what has become of it."""
        now = facts[-1].at if facts else 0.0
        known = self._change(key, occurrence, lambda purchase: _let_happen(purchase, facts), now)
        if known is None:
            problem = f"journal {self.file.path}: request {key}/{occurrence} was never planned"
            raise JournalError(scope="request", problem=problem)

    def _change(
        self, key: str, occurrence: int, change: Callable[[Purchase], object], now: float = 0.0
    ) -> Known | None:
        """Read a purchase, and write what the change makes of it."""
        known = self._fresh.pop((key, occurrence), None) or self._found(key, occurrence)
        if known is None:
            return None
        change(known.purchase)
        fresh = self._write_row(known, now)
        self._remember(fresh)
        return fresh

    def _write_row(self, known: Known, now: float = 0.0) -> Known:
        """Write what a purchase, as it was known, has become."""
        after = rows.record_of(known.purchase, known, now)
        columns = zip(COLUMNS, known.record, after, strict=True)
        new = {name: value for name, old, value in columns if value is not old and value != old}
        if new:
            serial = rows.entry_of(known.purchase).serial
            self._connection.execute(updating(tuple(new)), (*new.values(), serial))
        return Known.of(known.purchase, after)

    def _remember(self, known: Known) -> None:
        self._fresh[rows.entry_of(known.purchase).name] = known
        if len(self._fresh) > _REMEMBERED:
            del self._fresh[next(iter(self._fresh))]

    def plan(self, orders: Sequence[Order], offset: float, run: int | None = None) -> list[Purchase]:
        """Find each purchase, or make it; give copies, whose times have this offset to unix time.

        With an earlier run, they are planned for that, and this one has not asked for them yet.
        """
        run = self.run if run is None else run
        found: list[Purchase] = []
        new: list[Purchase] = []
        last = self._last_serial
        if last is None:
            (last,) = self._connection.execute(LAST_SERIAL).fetchone()
        for order, occurrence, purchase in self._claimed(orders, offset, run):
            if purchase is None:
                purchase = rows.fresh(order, occurrence, last + len(new) + 1, run)  # noqa: PLW2901
                new.append(purchase)
            found.append(purchase)
        entries = list(map(rows.entry_of, new))
        records = list(map(rows.fresh_record, entries))
        self._connection.executemany(_INSERT, records)
        if len(new) <= _SOON:
            for known in map(rows.fresh_known, entries, records):
                self._remember(known)
        self._last_serial = last + len(new)
        return found

    def find(self, orders: Sequence[Order], offset: float) -> list[Purchase | None]:
        """Find each purchase; give copies, whose times have this offset to unix time. None: not there."""
        return [purchase for _, _, purchase in self._claimed(orders, offset, self.run)]

    def _claimed(
        self, orders: Sequence[Order], offset: float, run: int
    ) -> Iterator[tuple[Order, int, Purchase | None]]:
        """Let a run ask for these orders: each with its number among its equals, and its purchase."""
        firsts = self._first_unclaimed(orders, run)
        seen: Counter[str] = Counter()
        for order in orders:
            occurrence = firsts.get(order.key, 0) + seen[order.key]
            seen[order.key] += 1
            there = order.key in firsts
            yield order, occurrence, self._claim(order, occurrence, offset, run) if there else None

    def _claim(self, order: Order, occurrence: int, offset: float, run: int) -> Purchase | None:
        """Let a run ask for a purchase that is there."""
        known = self._change(order.key, occurrence, lambda each: rows.asked_again(each, order, run))
        return None if known is None else rows.copy_of(known.purchase, offset)

    def _first_unclaimed(self, orders: Sequence[Order], run: int) -> dict[str, int]:
        """For each key that the journal has: the first of its rows that no run since then has asked for."""
        keys = list({bytes.fromhex(order.key) for order in orders})
        known = self._connection.execute(known_keys(len(keys)), keys).fetchall()
        return {key.hex(): self._count_claimed(key, run) for (key,) in known}

    def _count_claimed(self, key: bytes, run: int) -> int:
        """How many rows of a key were asked for: the first ones, so that halving finds the last."""
        beyond = 1
        while self._is_claimed(key, beyond - 1, run):
            beyond *= 2
        low, high = beyond // 2, beyond - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._is_claimed(key, middle, run) else (low, middle)
        return low

    def _is_claimed(self, key: bytes, occurrence: int, run: int) -> bool:
        found = self._connection.execute(CLAIMED, (key, occurrence)).fetchone()
        return found is not None and (found[0] >= run or self._is_asked_for(found[1]))

    def finished(
        self, orders: Sequence[Order], offset: float, is_here: Callable[[Purchase], bool]
    ) -> tuple[list[Purchase | None], list[Known]]:
        """Let this run ask for what is saved; nothing is written.

        None: `plan` must say. Give as many orders as one question may have keys.

        Returns:
            For each order its purchase; and those rows that an order tells otherwise, for `tell_again`.
        """
        keys = list({bytes.fromhex(order.key) for order in orders})
        records = self._connection.execute(saved_first(len(keys)), keys)
        known = {record[1]: self._known(record) for record in records}
        found: list[Purchase | None] = []
        changed: list[Known] = []
        for order in orders:
            row = known.pop(bytes.fromhex(order.key), None)
            if row is None or not self._takes(row.purchase, is_here):
                found.append(None)
            elif rows.asks_the_same(rows.entry_of(row.purchase), order):
                rows.shift(row.purchase, offset)
                found.append(row.purchase)
            else:  # its picture has moved, say
                rows.asked_again(row.purchase, order, self.run)
                changed.append(row)
                found.append(rows.copy_of(row.purchase, offset))
        return found, changed

    def _takes(self, purchase: Purchase, is_here: Callable[[Purchase], bool]) -> bool:
        """Let this run ask for a purchase, unless it has, or something is to be done for that."""
        entry = rows.entry_of(purchase)
        if entry.run == self.run or self._is_asked_for(entry.serial) or not is_here(purchase):
            return False
        self._note_asked_for(entry.serial)
        return True

    def tell_again(self, changed: Sequence[Known]) -> None:
        """Write what orders tell otherwise about rows that this run has asked for."""
        for known in changed:
            self._fresh.pop(rows.entry_of(known.purchase).name, None)
            self._write_row(known)

    def _note_asked_for(self, serial: int) -> None:
        place, bit = divmod(serial, 8)
        if place >= len(self._asked_for):
            self._asked_for.extend(bytes(place + 1024 - len(self._asked_for)))
        self._asked_for[place] |= 1 << bit

    def _is_asked_for(self, serial: int) -> bool:
        place, bit = divmod(serial, 8)
        return place < len(self._asked_for) and bool(self._asked_for[place] >> bit & 1)

    def close(self) -> None:
        self._closing()


def _close(file: _file.OpenFile, owner: int) -> None:
    """Close a file, in the process that has opened it.

    Left to itself, SQLite merges the `-wal` at the end of the process and takes it away, and the journal,
    which still says that it is open, looks like one whose `-wal` was lost.
    """
    if os.getpid() == owner:
        with suppress(JournalError), _file.translated(file.path):
            file.close()


def _let_happen(purchase: Purchase, facts: Iterable[Fact]) -> None:
    for fact in facts:
        if not told_before(purchase, fact):
            advance(purchase, fact)
