"""Journals to be broken: orders to plan, a process to be killed, and what must hold afterwards."""

import json
import os
import random
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anyio
from attrs import asdict, evolve

from novita_async import SqliteJournal
from novita_async._journal.rows import entry_of, left_behind
from novita_async._journal.sqlite import file as journal_file
from novita_async._journal.sqlite import store as journal_store
from novita_async._journal.sqlite.store import Store, Work
from novita_async._purchase.machine import (
    Announced,
    Bought,
    Completed,
    Fact,
    JournalEntry,
    Order,
    Purchase,
    Saved,
    State,
    advance,
    told_before,
)
from novita_async._util.clock import loop_time
from tests.helpers.purchases import ENDPOINT, WAY, attempts_in, fact, result, task, told

Name = tuple[str, int]


def asked(name: int, position: int = 0, **changes: Any) -> Order:
    """What one line of an input asks for."""
    fields = {
        "key": f"{name:032x}",
        "position": position,
        "kind": "img2img",
        "endpoint": ENDPOINT,
        "images": 1 + name % 3,
        "request": json.dumps({"request": {"seed": name}}),
    }
    return Order(**(fields | changes))


def usual_way(at: float = 1.0, name: str = "t") -> list[Fact]:
    """From the announcement to the saved files."""
    return [
        fact(Announced, at),
        fact(Bought, at, task=task(name)),
        fact(Completed, at, result=result(name)),
        fact(Saved, at),
    ]


# --- Stores ---------------------------------------------------------------------------------------------


def open_store(path: Path, now: float | None = None, **options: Any) -> Store:
    """A store as the journal opens it."""
    store = Store(journal_file.open_to_write(path, **options))
    if now is not None:
        do(store, lambda store: store.recover(now))
    return store


def do(store: Store, work: Any) -> Any:
    """One piece of writing, or the error that it ends with."""
    (result,) = store.carry_out([Work(work)])
    if isinstance(result, BaseException):
        raise result
    return result


def plan(store: Store, orders: Iterable[Order]) -> list[Purchase]:
    return do(store, lambda store: store.plan(list(orders), 0.0))


def record(store: Store, name: Name, *facts: Fact) -> None:
    do(store, lambda store: store.record(*name, facts))


def look(store: Store) -> dict[Name, Purchase]:
    """All that a store has, by every way to read it."""
    found: list[Purchase] = []
    while page := store.page(None, entry_of(found[-1]).serial if found else 0):
        found += page
    by_state = [each for state in State for each in store.page(state, 0)]
    if len(found) <= journal_store.PAGE:
        by_serial = sorted(by_state, key=lambda each: entry_of(each).serial)
        assert list(map(told, by_serial)) == list(map(told, found))
    for each in found:
        if each.token is not None:
            assert store.by_token(each.token).token == each.token
    summary = store.summary()
    assert sum(summary.rows.values()) == len(found)
    assert (summary.bought, summary.perhaps) == (sum(p.bought for p in found), sum(p.perhaps for p in found))
    return {entry_of(each).name: each for each in found}


def looked_at(store: Store) -> dict[Name, dict[str, Any]]:
    """All that a store has, to be compared."""
    return {name: told(each) for name, each in look(store).items()}


class Model:
    """What a journal must be, kept in a dict."""

    def __init__(self) -> None:
        self.kept: dict[Name, Purchase] = {}
        self.run = 1

    def plan(self, orders: Iterable[Order]) -> list[Purchase]:
        planned = []
        for order in orders:
            occurrence = sum(
                entry_of(each).key == order.key and entry_of(each).run == self.run
                for each in self.kept.values()
            )
            found = self.kept.get((order.key, occurrence))
            if found is None:
                serial = len(self.kept) + 1
                entry = JournalEntry(**asdict(order), occurrence=occurrence, serial=serial, run=self.run)
                found = Purchase(None, order.endpoint, order.images, entry=entry)
                self.kept[entry.name] = found
            elif not found.attempts:
                found.endpoint, found.images = order.endpoint, order.images
            found.position, found.tag = order.position, order.tag
            found.entry = evolve(
                entry_of(found),
                **(asdict(order) | {"endpoint": found.endpoint, "images": found.images}),
                run=self.run,
            )
            planned.append(found)
        return planned

    def record(self, name: Name, *facts: Fact) -> None:
        for each in facts:
            if not told_before(self.kept[name], each):
                advance(self.kept[name], each)

    def lose(self, now: float) -> None:
        """Begin another run: what is under way is lost."""
        for name, each in self.kept.items():
            left = left_behind(each, now)
            if left is not None:
                self.record(name, left)

    def told(self, now: float = 0.0) -> dict[Name, dict[str, Any]]:
        return {name: told(each, now) for name, each in self.kept.items()}


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
        purchases = list(await journal.plan([asked(n // 2, n) for n in range(requests)]))
        say("run", journal.run, journal.uncertain_at_opening)
        dice.shuffle(purchases)
        todo = iter(purchases)

        async def work() -> None:
            for purchase in todo:
                await bring_on(journal, purchase)

        async with anyio.create_task_group() as group:
            for _ in range(under_way):
                group.start_soon(work)
    say("end")


async def bring_on(journal: SqliteJournal, purchase: Purchase) -> None:
    """Bring a purchase along the usual way, from where it stands. What is off that way stays there."""
    states = (State.PLANNED, *WAY)
    if purchase.state not in states:
        return
    name, occurrence = entry_of(purchase).name
    facts = usual_way(loop_time(), f"{name}/{occurrence}")
    for to, each in list(zip(WAY, facts, strict=True))[states.index(purchase.state) :]:
        say("try", name, occurrence, to)
        await journal.record(purchase, each)
        say("did", name, occurrence, to)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Witness:
    """What processes said that they had recorded, and what they were just trying to."""

    def __init__(self) -> None:
        self.did: dict[Name, State] = {}
        self.trying: dict[Name, State] = {}

    def hear(self, said: Iterable[list[str]]) -> None:
        for line in said:
            if line[0] in ("try", "did"):
                name, state = (line[1], int(line[2])), State(line[3])
                self.trying[name] = state
                if line[0] == "did":
                    self.did[name] = state
                    del self.trying[name]

    def compare(self, found: Mapping[Name, Purchase]) -> int:
        """Every purchase is where it was said to be, or was just being brought. Counts the doubts."""
        uncertain = 0
        for name, each in found.items():
            said = self.did.get(name, State.PLANNED)
            may = {said, self.trying.pop(name, said)}
            if State.ANNOUNCED in may:
                may = may - {State.ANNOUNCED} | {State.UNCERTAIN}
            assert each.state in may, (each, said)
            assert len(attempts_in(each.attempts)) == (each.state is not State.PLANNED)
            if each.state is State.UNCERTAIN:
                uncertain += 1
            self.did[name] = each.state
        assert self.did.keys() <= found.keys()
        assert not self.trying
        return uncertain
