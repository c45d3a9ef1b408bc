"""Rows in a SQLite file: read, planned, moved. Synchronous; one thread at a time.

What happens to a row is decided by `_ledger`; here it is only kept. Every row has a checksum over all that is
read back, which is compared whenever it is.
"""

import json
import os
import sqlite3
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import copy
from functools import cache
from typing import Any, Final, TypeVar, Unpack

from attrs import asdict, define, field

from novita_async._journal import _file
from novita_async._journal.ledger import (
    Attempt,
    Facts,
    Ledger,
    Row,
    RowError,
    State,
    Tally,
    Wanted,
    advance,
    asked_again,
    found_at_opening,
)
from novita_async.errors import JournalError, NovitaError

T = TypeVar("T")

PAGE: Final = 500
"""Rows that are read in one go: a few milliseconds."""
PIECE: Final = 1000
"""Rows that are planned in one go."""
_REMEMBERED: Final = 1024

_KEPT: Final = (
    "key", "occurrence", "run", "position", "kind", "endpoint", "image_num", "request", "state", "account",
    "task_id", "attempts", "announced_time", "answered_time", "finished_time", "saved_time", "seed", "error",
    "paths", "result", "earlier",
)  # fmt: skip
"""Columns that the checksum is over. New ones come last; while they are NULL, the checksum is the old one."""
_REQUEST: Final = _KEPT.index("request")
_DERIVED: Final = ("bought", "perhaps", "slot_time", "checksum")
_COLUMNS: Final = (*_KEPT, *_DERIVED)

_SELECT: Final = f"SELECT serial, {', '.join(_COLUMNS)} FROM requests"  # noqa: S608 names of columns
_FRESH: Final = ("serial", *_KEPT[:9], "attempts", "bought", "perhaps", "checksum")
"""Columns of a row to which nothing has happened; the others are NULL."""
_INSERT: Final = f"INSERT INTO requests ({', '.join(_FRESH)}) VALUES ({', '.join('?' * len(_FRESH))})"  # noqa: S608
BY_KEY: Final = f"{_SELECT} WHERE key = ? AND occurrence = ?"
BY_TASK: Final = f"{_SELECT} WHERE task_id = ?"
BY_SLOT: Final = f"{_SELECT} WHERE slot_time > ? ORDER BY slot_time"
PAGE_OF_STATE: Final = f"{_SELECT} WHERE state = ? AND serial > ? ORDER BY serial LIMIT ?"
PAGE_OF_ALL: Final = f"{_SELECT} WHERE serial > ? ORDER BY serial LIMIT ?"
CLAIMED: Final = "SELECT run FROM requests WHERE key = ? AND occurrence = ?"
TALLIES: Final = (
    "SELECT state, count(*), sum(image_num), sum(bought), sum(perhaps) FROM requests GROUP BY state"
)


def known_keys(count: int) -> str:
    """The question which of so many keys the journal has."""
    return f"SELECT DISTINCT key FROM requests WHERE key IN ({', '.join('?' * count)})"  # noqa: S608 only marks


@cache
def updating(columns: tuple[str, ...]) -> str:
    """The order to change these columns of a row. What is not named costs nothing, indexes included."""
    changes = ", ".join(f"{column} = ?" for column in columns)
    return f"UPDATE requests SET {changes} WHERE serial = ?"  # noqa: S608 names of columns


# --- Requests, packed -------------------------------------------------------------------------------------

_USUAL: Final = (
    b'{"extra":{"enable_nsfw_detection":true,"nsfw_detection_level":0,"response_image_type":"webp","jpeg"},'
    b'"request":{"clip_skip":2,"controlnet":{"units":[{"guidance_end":1,"guidance_start":0,"image_base64":'
    b'{"$picture":"","path":"/home/"},"model_name":"control_v11p_sd15_canny","preprocessor":"canny",'
    b'"strength":1}]},"embeddings":[{"model_name":""}],"guidance_scale":7.5,"height":512,"image_base64":'
    b'{"$picture":"0123456789abcdef","path":"images/input/.jpg.png"},"image_num":1,"ip_adapters":['
    b'{"image_base64":{"$picture":""},"model_name":"ip-adapter_sdxl.bin","strength":1}],"loras":['
    b'{"model_name":"","strength":0.7}],"model_name":"sd_xl_base_1.0.safetensors","negative_prompt":'
    b'"blurry, low quality","prompt":"a photo of the, detailed","sampler_name":"DPM++ 2M Karras","sd_vae":"",'
    b'"seed":-1,"steps":20,"strength":0.5,"width":1024}}"sampler_name":"Euler a","seed":1'
)
"""What requests have in common, most usual last. Journals are packed with it, so it must never change."""
_WINDOW: Final = -12
_SQUEEZE: Final = zlib.compressobj(1, zlib.DEFLATED, _WINDOW, 3, zlib.Z_DEFAULT_STRATEGY, _USUAL)
"""With small tables, because setting them up is most of the work."""


def packed(text: str) -> bytes:
    """A request's text in well under half the room."""
    squeeze = _SQUEEZE.copy()
    return squeeze.compress(text.encode()) + squeeze.flush()


def unpacked(data: bytes) -> str:
    """What was packed."""
    return zlib.decompressobj(_WINDOW, _USUAL).decompress(data).decode()


# --- Rows and records -------------------------------------------------------------------------------------

Record = tuple[Any, ...]
"""A row's columns, without its serial."""


def _record(row: Row, request: bytes) -> Record:
    kept = (
        bytes.fromhex(row.key),
        row.occurrence,
        row.run,
        row.position,
        _text(row.kind),
        _text(row.endpoint),
        row.image_num,
        request,
        row.state.value,
        _text(row.account),
        _text(row.task_id),
        row.attempts,
        _real(row.announced_time),
        _real(row.answered_time),
        _real(row.finished_time),
        _real(row.saved_time),
        row.seed if row.seed is None or abs(row.seed) < 1 << 63 else str(row.seed),
        row.error and _json(asdict(row.error)),
        _json(row.paths) if row.paths else None,
        None if row.result is None else _json(row.result),
        _json([asdict(attempt) for attempt in row.earlier]) if row.earlier else None,
    )
    return (*kept, row.bought, row.perhaps, _real(row.slot_time), _checksum(kept))


_json: Final = json.JSONEncoder(separators=(",", ":")).encode


def _fresh_record(row: Row) -> Record:
    """What `_FRESH` says of a row: the same as its whole record, at half the cost."""
    told = (
        bytes.fromhex(row.key),
        row.occurrence,
        row.run,
        row.position,
        _text(row.kind),
        _text(row.endpoint),
        row.image_num,
        packed(row.request),
        State.PLANNED.value,
    )
    return (row.serial, *told, 0, 0, 0, _checksum((*told, None, None, 0)))


def _text(value: str | None) -> str | None:
    """The text itself, of which an enum's member is more."""
    return value if value is None else str.__str__(value)


def _real(value: float | None) -> float | None:
    return value if value is None else float(value)


def _checksum(kept: Record) -> int:
    last = len(kept)
    while kept[last - 1] is None:
        last -= 1
    rest = repr((kept[:_REQUEST], kept[_REQUEST + 1 : last]))
    return zlib.crc32(kept[_REQUEST], zlib.crc32(rest.encode("ascii", "backslashreplace")))


def _row(serial: int, record: Record) -> Row:
    (
        key, occurrence, run, position, kind, endpoint, image_num, request, state, account, task_id, attempts,
        announced_time, answered_time, finished_time, saved_time, seed, error, paths, result, earlier, *_,
    ) = record  # fmt: skip
    return Row(
        serial=serial,
        key=key.hex(),
        occurrence=occurrence,
        run=run,
        position=position,
        kind=kind,
        endpoint=endpoint,
        image_num=image_num,
        request=unpacked(request),
        state=State(state),
        account=account,
        task_id=task_id,
        attempts=attempts,
        announced_time=announced_time,
        answered_time=answered_time,
        finished_time=finished_time,
        saved_time=saved_time,
        seed=None if seed is None else int(seed),
        error=RowError(**json.loads(error)) if error else None,
        paths=tuple(json.loads(paths)) if paths else (),
        result=json.loads(result) if result else None,
        earlier=tuple(Attempt(**attempt) for attempt in json.loads(earlier)) if earlier else (),
    )


# --- The store --------------------------------------------------------------------------------------------


@define(eq=False)
class Work:
    """Something to be done with a store."""

    do: "Callable[[Store], Any]"
    writes: bool = True
    begins: bool = False
    """Whether more will come of it, for which there must be room."""


@define
class _Known:
    """A row, and what the file has of it."""

    row: Row
    record: Record


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
    _fresh: dict[tuple[str, int], "_Known"] = field(factory=dict, init=False)
    """Rows that were written last, as they stand in the file: most of them are changed again soon."""

    def __attrs_post_init__(self) -> None:
        self.run = self.file.run
        self._closing = weakref.finalize(self, _close, self.file, os.getpid())

    def __repr__(self) -> str:
        return f"<Store {self.file.path}, run {self.run}, {self.commits} commits>"

    # --- Groups of work -----------------------------------------------------------------------------------

    def carry_out(self, works: Sequence[Work]) -> list[Any]:
        """Do all of it, with one commit for what writes; give each result, or the error in its place.

        What one piece of work refuses by itself concerns no other. What the file refuses concerns all that
        writes: none of it was done.
        """
        if self._full is not None and any(work.begins for work in works):
            with suppress(OSError):
                self.file.keep_room()
                self._full = None
        done = self._write([work for work in works if work.writes])
        return [done[id(work)] if work.writes else self._attempt(work) for work in works]

    def _write(self, works: Sequence[Work]) -> dict[int, Any]:
        """Do all that there is room for; give each result by the work's identity."""
        able = [work for work in works if self._full is None or not work.begins]
        done = dict(zip(map(id, able), self._transact(able) if able else (), strict=True))
        full = next(filter(_is_full, done.values()), None)
        if full is not None and self.file.give_room():
            self._full = full
            return self._write(works)
        return {id(work): _copy(self._full) for work in works if self._full is not None} | done

    def _transact(self, works: Sequence[Work]) -> list[Any]:
        run = self.run
        try:
            with _file.translated(self.file.path), _file.transaction(self._connection):
                outcomes = [self._refusing(work) for work in works]
            self.commits += 1
        except Exception as error:  # noqa: BLE001 - told to each who waits
            self.run = run
            self._fresh.clear()
            return [_copy(error) for _ in works]
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

    def _select(self, sql: str, *values: Any) -> list[Row]:
        return [self._read(record) for record in self._connection.execute(sql, values)]

    def _read(self, found: Record) -> Row:
        return self._known(found).row

    def _known(self, found: Record) -> "_Known":
        serial, record = found[0], found[1:]
        if _checksum(record[: len(_KEPT)]) != record[-1]:
            raise _file.damaged(self.file.path, f"row {serial} is not as it was written")
        return _Known(_row(serial, record), record)

    def _found(self, key: str, occurrence: int) -> "_Known | None":
        """A row as it stands in the file."""
        found = self._connection.execute(BY_KEY, (bytes.fromhex(key), occurrence)).fetchone()
        return None if found is None else self._known(found)

    def row(self, key: str, occurrence: int) -> Row | None:
        known = self._found(key, occurrence)
        return None if known is None else known.row

    def find(self, task_id: str) -> Row | None:
        return _first(self._select(BY_TASK, task_id))

    def page(self, state: State | None, after: int) -> list[Row]:
        if state is None:
            return self._select(PAGE_OF_ALL, after, PAGE)
        return self._select(PAGE_OF_STATE, state.value, after, PAGE)

    def seen_since(self, time: float) -> tuple[Row, ...]:
        return tuple(self._select(BY_SLOT, time))

    def summary(self) -> Ledger:
        return Ledger.of(
            Tally(state=State(state), rows=rows, images=images, bought=bought, perhaps=perhaps)
            for state, rows, images, bought, perhaps in self._connection.execute(TALLIES)
        )

    # --- Writing ------------------------------------------------------------------------------------------

    def new_run(self) -> int:
        self.run += 1
        _file.set_meta(self._connection, "run", self.run)
        return self.run

    def recover(self, now: float) -> int:
        """Take note of what a process that died left under way; tell how many purchases that were."""
        found = 0
        while page := self.page(State.ANNOUNCED, 0):
            found += len(page)
            for row in page:
                self._change(row.key, row.occurrence, lambda row: found_at_opening(row, now))
        return found

    def move(self, key: str, occurrence: int, to: State, **facts: Unpack[Facts]) -> Row:
        moved = self._change(key, occurrence, lambda row: advance(row, to, **facts))
        if moved is None:
            problem = f"journal {self.file.path}: request {key}/{occurrence} was never planned"
            raise JournalError(scope="request", problem=problem)
        return moved

    def _change(self, key: str, occurrence: int, change: Callable[[Row], Row]) -> Row | None:
        """Read a row, and write what the change makes of it."""
        known = self._fresh.get((key, occurrence)) or self._found(key, occurrence)
        if known is None:
            return None
        changed = change(known.row)
        if changed is not known.row:
            same = changed.request == known.row.request
            after = _record(changed, known.record[_REQUEST] if same else packed(changed.request))
            self._rewrite(changed.serial, known.record, after)
            self._remember(_Known(changed, after))
        return changed

    def _remember(self, known: "_Known") -> None:
        name = (known.row.key, known.row.occurrence)
        self._fresh.pop(name, None)
        self._fresh[name] = known
        if len(self._fresh) > _REMEMBERED:
            del self._fresh[next(iter(self._fresh))]

    def _rewrite(self, serial: int, before: Record, after: Record) -> None:
        new = {name: value for name, old, value in zip(_COLUMNS, before, after, strict=True) if value != old}
        if new:
            self._connection.execute(updating(tuple(new)), (*new.values(), serial))

    def plan(self, wanted: Sequence[Wanted]) -> tuple[Row, ...]:
        """Find each row, or make it."""
        firsts = self._first_unclaimed(wanted)
        seen: Counter[str] = Counter()
        rows: list[Row] = []
        new: list[Row] = []
        serial = self._last_serial()
        for asked in wanted:
            occurrence = firsts.get(asked.key, 0) + seen[asked.key]
            seen[asked.key] += 1
            row = self._claim(asked, occurrence) if asked.key in firsts else None
            if row is None:
                row = self._new(asked, occurrence, serial + len(new) + 1)
                new.append(row)
            rows.append(row)
        self._connection.executemany(_INSERT, map(_fresh_record, new))
        return tuple(rows)

    def _last_serial(self) -> int:
        return int(self._connection.execute("SELECT coalesce(max(serial), 0) FROM requests").fetchone()[0])

    def _new(self, asked: Wanted, occurrence: int, serial: int) -> Row:
        return Row(
            key=asked.key,
            position=asked.position,
            kind=asked.kind,
            endpoint=asked.endpoint,
            image_num=asked.image_num,
            request=asked.request,
            occurrence=occurrence,
            serial=serial,
            run=self.run,
        )

    def _claim(self, asked: Wanted, occurrence: int) -> Row | None:
        """Let this run ask for a row that is there."""
        return self._change(asked.key, occurrence, lambda row: asked_again(row, asked, self.run))

    def _first_unclaimed(self, wanted: Sequence[Wanted]) -> dict[str, int]:
        """For each key that the journal has: the first of its rows that this run has not asked for."""
        keys = list({bytes.fromhex(asked.key) for asked in wanted})
        known = self._connection.execute(known_keys(len(keys)), keys).fetchall()
        return {key.hex(): self._count_claimed(key) for (key,) in known}

    def _count_claimed(self, key: bytes) -> int:
        """How many rows of a key this run has asked for: the first ones, so that halving finds the last."""
        beyond = 1
        while self._is_claimed(key, beyond - 1):
            beyond *= 2
        low, high = beyond // 2, beyond - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._is_claimed(key, middle) else (low, middle)
        return low

    def _is_claimed(self, key: bytes, occurrence: int) -> bool:
        return bool(self._connection.execute(CLAIMED, (key, occurrence)).fetchone() == (self.run,))

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


def _copy(error: Exception) -> Exception:
    """An error of each one's own, because where it is raised is added to it."""
    again = copy(error)
    again.__cause__ = error.__cause__ or error
    return again


def _is_full(result: object) -> bool:
    return isinstance(result, JournalError) and _file.is_full(result)


def _first(rows: Iterable[T]) -> T | None:
    return next(iter(rows), None)
