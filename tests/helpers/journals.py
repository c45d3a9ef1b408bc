"""Journals to be broken: rows to plan, a process to be killed, and what must hold afterwards."""

import json
import os
import random
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import anyio
from novita_async._journal.ledger import Row, RowError, State, Wanted, advance, asked_again

from novita_async import SqliteJournal
from novita_async._journal import _file, _store

ENDPOINT = "/v3/async/img2img"


def asked(name: int, position: int = 0) -> Wanted:
    return Wanted(
        key=f"{name:032x}",
        position=position,
        kind="img2img",
        endpoint=ENDPOINT,
        image_num=1 + name % 3,
        request=json.dumps({"request": {"seed": name}}),
    )


def note(text: str = "no") -> RowError:
    return RowError(kind="ServerError", text=text, retryable=True)


FACTS = {
    State.PLANNED: {"error": note()},
    State.ANNOUNCED: {"account": "a"},
    State.SUBMITTED: {"task_id": "t"},
    State.UNCERTAIN: {"error": note("gone")},
    State.FAILED: {"error": note("refused")},
    State.SUCCEEDED: {"seed": 1 << 70, "result": {"files": []}},
    State.SAVED: {"paths": ("out/ä.png",)},
}
WAY = (State.ANNOUNCED, State.SUBMITTED, State.SUCCEEDED, State.SAVED)


def open_store(path: Path, now: float | None = None, **options) -> _store.Store:
    """A store as the journal opens it."""
    store = _store.Store(_file.open_to_write(path, **options))
    if now is not None:
        do(store, lambda store: store.recover(now))
    return store


def do(store: _store.Store, work):
    """One piece of writing, or the error that it ends with."""
    (result,) = store.carry_out([_store.Work(work)])
    if isinstance(result, BaseException):
        raise result
    return result


def look(store: _store.Store) -> dict[tuple[str, int], Row]:
    """All that a store has, by every way to read it."""
    rows: list[Row] = []
    while page := store.page(None, rows[-1].serial if rows else 0):
        rows += page
    by_state = [row for state in State for row in store.page(state, 0)]
    assert len(rows) > _store.PAGE or sorted(by_state, key=lambda row: row.serial) == rows
    assert [store.row(row.key, row.occurrence) for row in rows] == rows
    assert sum(store.summary().rows.values()) == len(rows)
    return {(row.key, row.occurrence): row for row in rows}


class Model:
    """What a journal must be, kept in a dict."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], Row] = {}
        self.run = 1

    def plan(self, wanted: Iterable[Wanted]) -> tuple[Row, ...]:
        planned = []
        for each in wanted:
            occurrence = sum(row.key == each.key and row.run == self.run for row in self.rows.values())
            name = (each.key, occurrence)
            row = self.rows.get(name)
            if row is None:
                fields = {slot: getattr(each, slot) for slot in ("key", "position", "kind", "endpoint")}
                row = Row(
                    **fields,
                    image_num=each.image_num,
                    request=each.request,
                    occurrence=occurrence,
                    serial=len(self.rows) + 1,
                )
            self.rows[name] = asked_again(row, each, self.run)
            planned.append(self.rows[name])
        return tuple(planned)

    def move(self, name: tuple[str, int], to: State, **facts) -> Row:
        self.rows[name] = advance(self.rows[name], to, **facts)
        return self.rows[name]


def copied(path: Path, to: Path, *, main: int | None = None, wal: int | None = None) -> Path:
    """The files of a journal as a killed process leaves them, perhaps cut."""
    for suffix, length in (("", main), ("-wal", wal)):
        source, target = Path(f"{path}{suffix}"), Path(f"{to}{suffix}")
        for leftover in (target, Path(f"{to}-shm"), Path(f"{to}-journal")):
            leftover.unlink(missing_ok=True)
        if source.exists():
            shutil.copyfile(source, target)
            if length is not None:
                os.truncate(target, length)
    return to


# --- A process to be killed -------------------------------------------------------------------------------


async def live(path: str, requests: int, seed: int, under_way: int) -> None:
    """Bring requests on their way as fast as possible, and say what was recorded, once it was."""
    dice = random.Random(seed)
    async with await SqliteJournal.open(path) as journal:
        rows = list(await journal.plan([asked(n // 2, n) for n in range(requests)]))
        tell("run", journal.run, journal.uncertain_at_opening)
        dice.shuffle(rows)
        todo = iter(rows)

        async def work() -> None:
            for row in todo:
                await bring_on(journal, row)

        async with anyio.create_task_group() as group:
            for _ in range(under_way):
                group.start_soon(work)
    tell("end")


async def bring_on(journal: SqliteJournal, row: Row) -> None:
    states = (State.PLANNED, *WAY)
    if row.state not in states:
        return
    for to in states[states.index(row.state) + 1 :]:
        facts = FACTS[to] | ({"task_id": f"{row.key}/{row.occurrence}"} if to is State.SUBMITTED else {})
        tell("try", row.key, row.occurrence, to)
        await journal.move(row.key, row.occurrence, to, at=float(journal.run), **facts)
        tell("did", row.key, row.occurrence, to)


def tell(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Witness:
    """What processes said that they had recorded, and what they were just trying to."""

    def __init__(self) -> None:
        self.did: dict[tuple[str, int], State] = {}
        self.trying: dict[tuple[str, int], State] = {}

    def hear(self, said: Iterable[list[str]]) -> None:
        for line in said:
            if line[0] in ("try", "did"):
                name, state = (line[1], int(line[2])), State(line[3])
                self.trying[name] = state
                if line[0] == "did":
                    self.did[name] = state
                    del self.trying[name]

    def compare(self, rows: Mapping[tuple[str, int], Row]) -> int:
        """Every row is where it was said to be, or was just being brought. Tells how many are uncertain."""
        uncertain = 0
        for name, row in rows.items():
            said = self.did.get(name, State.PLANNED)
            may = {said, self.trying.pop(name, said)}
            if State.ANNOUNCED in may:
                may = may - {State.ANNOUNCED} | {State.UNCERTAIN}
            assert row.state in may, (row, said)
            if row.state is State.UNCERTAIN:
                uncertain += 1
            self.did[name] = row.state
        assert self.did.keys() <= rows.keys()
        assert not self.trying
        return uncertain
