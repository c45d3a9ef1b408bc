"""What the journal has acknowledged is there, whatever ends the process; nothing is ever misread."""

import asyncio
import errno
import itertools
import math
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import anyio.to_thread
import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from novita_async import JournalError, NovitaWarning, SqliteJournal
from novita_async._journal import groups
from novita_async._journal import rows as journal_rows
from novita_async._journal.rows import copy_of, entry_of
from novita_async._journal.sqlite import file as _file
from novita_async._journal.sqlite import journal as sqlite_journal
from novita_async._journal.sqlite import store as _store
from novita_async._journal.sqlite.store import Work
from novita_async._purchase.journal import summed, tally_of
from novita_async._purchase.machine import (
    Announced,
    Bought,
    Completed,
    IllegalTransition,
    Lost,
    NotBought,
    Purchase,
    Reopened,
    Saved,
    State,
)
from novita_async._util import clock
from novita_async._util.clock import loop_time
from tests.helpers.journal_processes import ROOT, kill_after, process
from tests.helpers.journals import (
    Model,
    Name,
    Witness,
    asked,
    copied,
    do,
    look,
    looked_at,
    open_store,
    plan,
    record,
    usual_way,
)
from tests.helpers.programs import python, run
from tests.helpers.purchases import KINDS, WAYS, fact, task, told

pytestmark = pytest.mark.anyio


def read(path: Path) -> dict[Name, dict]:
    store = open_store(path)
    try:
        return looked_at(store)
    finally:
        store.close()


def failing(path: Path, **options) -> str:
    """What opening and reading says."""
    with pytest.raises(JournalError) as caught:
        store = open_store(path, **options)
        try:
            look(store)
        finally:
            store.close()
    assert caught.value.advice
    return str(caught.value)


async def brought(journal: SqliteJournal, purchase: Purchase, *kinds: type) -> None:
    """Record facts one after the other, as time goes by."""
    for kind in kinds:
        await journal.record(purchase, fact(kind, anyio.current_time()))


async def now_in(journal: SqliteJournal, purchase: Purchase) -> Purchase:
    """The same purchase as the journal has it."""
    serial = entry_of(purchase).serial
    return next(p for p in [p async for p in journal.where(after=serial - 1)] if entry_of(p).serial == serial)


ALL_THE_WAY = (Announced, Bought, Completed, Saved)


# --- The store against a dict -----------------------------------------------------------------------------

names = st.integers(0, 3)


@settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
class StoreAndModel(RuleBasedStateMachine):
    """Whatever is planned, recorded, closed and killed: the file has what the dict has."""

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "run.db"
        self.store = open_store(self.path)
        self.model = Model()
        self.now = 0.0

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    @rule(wanted=st.lists(names, max_size=6), position=st.integers(0, 99), tag=st.sampled_from((None, "süß")))
    def plan(self, wanted, position, tag):
        orders = [asked(name, position + n, tag=tag) for n, name in enumerate(wanted)]
        found = plan(self.store, orders)
        assert [told(each, self.now) for each in found] == [
            told(each, self.now) for each in self.model.plan(orders)
        ]

    @rule()
    def begin_a_run(self):
        self.model.run += 1
        assert do(self.store, lambda store: store.new_run(self.now)) == self.model.run
        self.model.lose(self.now)

    @precondition(lambda self: self.model.kept)
    @rule(
        choice=st.integers(0, 99),
        kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
        name=st.sampled_from(("t0", "t1")),
        unseen=st.booleans(),
        again=st.booleans(),
    )
    def record(self, choice, kinds, name, unseen, again):
        key = list(self.model.kept)[choice % len(self.model.kept)]
        facts = []
        for kind in kinds:
            self.now += 7
            more = {Bought: {"task": task(name)}, NotBought: {"seen": not unseen}, Announced: {"token": name}}
            facts.append(fact(kind, self.now, **more.get(kind, {})))
        before = copy_of(self.model.kept[key])
        try:
            self.model.record(key, *facts)
        except IllegalTransition as refusal:
            self.model.kept[key] = before
            with pytest.raises(IllegalTransition) as caught:
                record(self.store, key, *facts)
            assert (
                str(caught.value).partition(" ")[2].partition(" ")[2]
                == (str(refusal).partition(" ")[2].partition(" ")[2])
            )
        else:
            record(self.store, key, *facts)
            if again and kinds[-1] in (Announced, Saved):
                record(self.store, key, facts[-1])

    @rule(killed=st.booleans())
    def open_anew(self, killed):
        if killed:
            before, self.path = self.path, self.path.with_name(self.path.name + "x")
            copied(before, self.path)
        self.store.close()
        self.now += 100
        self.store = open_store(self.path, self.now)
        self.model.run += 1
        self.model.lose(self.now)

    @invariant()
    def the_file_has_what_the_dict_has(self):
        if hasattr(self, "store"):
            found = look(self.store)
            assert {name: told(each, self.now) for name, each in found.items()} == self.model.told(self.now)
            assert self.store.summary() == summed(map(tally_of, self.model.kept.values()))
            recent = {entry_of(each).serial for each in self.store.seen_since(self.now - 60)}
            latest = {
                entry_of(each).serial: max(
                    (
                        one.announced_at if one.answered_at is None else one.answered_at
                        for one in each.attempts
                    ),
                    default=-math.inf,
                )
                for each in self.model.kept.values()
            }
            assert recent == {serial for serial, time in latest.items() if time > self.now - 60}


TestStoreAndModel = StoreAndModel.TestCase


def test_equal_requests_are_counted_in_pieces_as_in_one(tmp_path):
    store = open_store(tmp_path / "run.db")
    for _ in range(3):
        counted = []
        for size in (1, 1, 2, 5, 1, 17, 3):
            found = map(entry_of, plan(store, [asked(0)] * size + [asked(1)]))
            counted += [entry.occurrence for entry in found if entry.key == asked(0).key]
        assert counted == list(range(30))
        do(store, lambda store: store.new_run(0.0))
    assert store.summary().total == 37
    store.close()


def serials(purchases) -> list[int]:
    return [entry_of(each).serial for each in purchases]


def test_inserting_removing_and_reordering_lines_finds_every_purchase_again(tmp_path):
    store = open_store(tmp_path / "run.db")
    first = serials(plan(store, [asked(n, n) for n in (1, 2, 2, 3)]))
    do(store, lambda store: store.new_run(0.0))
    again = plan(store, [asked(n, i) for i, n in enumerate((9, 2, 3, 2))])
    assert serials(again) == [5, first[1], first[3], first[2]]
    assert [each.position for each in again] == [0, 1, 2, 3]
    left = [each for each in store.page(None, 0) if entry_of(each).run < store.run]
    assert serials(left) == [first[0]]
    store.close()


def test_what_is_planned_ahead_for_an_earlier_run_is_asked_for_by_this_one(tmp_path):
    store = open_store(tmp_path / "run.db")
    plan(store, [asked(7), asked(1, 1), asked(1, 2)])
    do(store, lambda store: store.new_run(0.0))
    run = store.run
    do(store, lambda store: store.new_run(0.0))
    orders = [asked(n, i) for i, n in enumerate((1, 2, 1, 2, 1))]
    found = []
    for piece in (orders[:2], orders[2:4], orders[4:]):
        ahead = do(store, lambda store, piece=piece: store.plan(piece, 0.0, run))
        assert [entry_of(each).run for each in ahead] == [run] * len(piece)
        found += do(store, lambda store, piece=piece: store.find(piece, 0.0))
    known = [(int(entry_of(each).key, 16), entry_of(each).occurrence, each.position) for each in found]
    assert known == [(1, 0, 0), (2, 0, 1), (1, 1, 2), (2, 1, 3), (1, 2, 4)]
    assert do(store, lambda store: store.find([asked(1), asked(2)], 0.0)) == [None, None]
    assert store.planned_before(run) == (1, asked(7).images)  # what the input no longer has
    store.close()


def test_counting_many_equal_requests_takes_few_questions(tmp_path):
    store = open_store(tmp_path / "run.db")
    plan(store, [asked(0)] * 1000)
    questions: list[str] = []
    store.file.connection.set_trace_callback(questions.append)
    (found,) = plan(store, [asked(0)])
    assert entry_of(found).occurrence == 1000
    assert len(questions) < 35
    store.close()


class Place(StrEnum):
    HERE = "/here"


def test_odd_values_come_back_as_they_were(tmp_path):
    store = open_store(tmp_path / "run.db")
    odd = asked(1, endpoint=Place.HERE, request='{"prompt":"\\u0000 süß 🐕"}', tag="' \x00 --")
    plan(store, [odd])
    record(store, (odd.key, 0), *usual_way(5.0, "7f' \x00 --"))
    expected = looked_at(store)[odd.key, 0]
    store.close()
    assert read(tmp_path / "run.db")[odd.key, 0] == expected
    assert expected["result"]["seed"] == 1 << 70
    assert (expected["task"], expected["endpoint"], expected["tag"]) == ("7f' \x00 --", "/here", "' \x00 --")
    assert (expected["entry"].request, expected["paths"][0]) == (odd.request, Path("out/ä.png"))


# --- Telling it from a loop -------------------------------------------------------------------------------


async def test_what_is_told_together_is_written_together_and_visible_when_it_returns(tmp_path):
    path = tmp_path / "run.db"
    async with await SqliteJournal.open(path) as journal:
        purchases = await journal.plan([asked(n, n) for n in range(64)])
        before = journal.statistics().commits
        seen: list[bool] = []
        async with await SqliteJournal.open(path, read_only=True) as reader:

            async def announce(purchase: Purchase) -> None:
                await journal.record(purchase, fact(Announced, token=entry_of(purchase).key))
                there = await reader.by_token(entry_of(purchase).key)
                seen.append(there is not None and there.state is State.ANNOUNCED)

            async with anyio.create_task_group() as group:
                for purchase in purchases:
                    group.start_soon(announce, purchase)
        assert seen == [True] * 64
        numbers = journal.statistics()
        assert numbers.commits - before <= 3
        assert numbers.largest_group >= 32
        assert (numbers.told, numbers.waiting) == (65, 0)
        assert (
            repr(journal) == f"<SqliteJournal run.db, run 1: 65 told, 0 waiting, {numbers.commits} commits>"
        )
    assert "closed" in repr(journal)


async def test_virtual_time_stands_still_while_the_journal_works(tmp_path):
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        for n in range(50):
            (purchase,) = await journal.plan([asked(n)])
            await brought(journal, purchase, *ALL_THE_WAY)
            assert anyio.current_time() == 0


async def test_after_a_group_of_several_a_promise_waits_for_company_and_a_verdict_takes_all_along(tmp_path):
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        purchases = await journal.plan([asked(n) for n in range(12)])

        async def all_announced(some: list[Purchase]) -> None:
            async with anyio.create_task_group() as group:
                for purchase in some:
                    group.start_soon(brought, journal, purchase, Announced)

        await all_announced(purchases[:5])
        assert anyio.current_time() == 0
        await all_announced(purchases[5:6])
        assert anyio.current_time() == sqlite_journal._COMPANY
        await all_announced(purchases[6:11])  # after one alone
        assert anyio.current_time() == sqlite_journal._COMPANY
        before = journal.statistics().commits
        async with anyio.create_task_group() as group:
            group.start_soon(brought, journal, purchases[11], Announced)
            await anyio.wait_all_tasks_blocked()
            await journal.settle(purchases[0], fact(Bought, 1.0))
        assert anyio.current_time() == sqlite_journal._COMPANY
        assert journal.statistics().commits == before + 1


async def test_one_illegal_transition_among_many_stops_no_other(tmp_path):
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        purchases = await journal.plan([asked(n) for n in range(6)])
        ends: list[str] = []

        async def attempt(purchase: Purchase) -> None:
            try:
                await brought(journal, purchase, Saved if entry_of(purchase).serial % 2 else Announced)
                ends.append("done")
            except IllegalTransition:
                ends.append("refused")

        async with anyio.create_task_group() as group:
            for purchase in purchases:
                group.start_soon(attempt, purchase)
        assert sorted(ends) == ["done"] * 3 + ["refused"] * 3
        assert (await journal.summary()).rows[State.ANNOUNCED] == 3


async def test_an_error_about_a_purchase_names_its_task(tmp_path):
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        (purchase,) = await journal.plan([asked(1)])
        purchase.entry = entry_of((await journal.plan([asked(1)]))[0])
        strange = Purchase(None, entry=attrs.evolve(purchase.entry, key="ab" * 16))
        with pytest.raises(JournalError, match="was never planned") as caught:
            await journal.record(strange, fact(Bought, task=task("t")))
        assert (caught.value.scope, caught.value.task_id) == ("request", "t")
        with pytest.raises(IllegalTransition) as refused:
            await journal.record(purchase, fact(Saved))
        assert refused.value.task_id is None


async def test_many_orders_are_planned_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_journal, "PIECE", 3)
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        before = journal.statistics().commits
        found = await journal.plan([asked(n % 2, n) for n in range(10)])
        assert journal.statistics().commits - before == 4
    assert serials(found) == list(range(1, 11))
    assert [entry_of(each).occurrence for each in found] == [n // 2 for n in range(10)]


async def test_purchases_are_read_in_pages_by_state_and_from_a_serial_on(tmp_path, monkeypatch):
    monkeypatch.setattr(_store, "PAGE", 7)
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        purchases = await journal.plan([asked(n, n) for n in range(40)])
        for purchase in purchases[::3]:
            await brought(journal, purchase, Announced)
        everything = [entry_of(each).serial async for each in journal.where()]
        announced = [entry_of(each).serial async for each in journal.where(State.ANNOUNCED)]
        both = [
            entry_of(each).serial async for each in journal.where(State.PLANNED, State.ANNOUNCED, after=20)
        ]
    assert everything == list(range(1, 41))
    assert announced == list(range(1, 41, 3))
    assert both == [n for n in range(21, 41) if n % 3 != 1] + [n for n in range(21, 41) if n % 3 == 1]


async def test_a_cancelled_promise_is_kept_and_the_cancellation_comes_next(tmp_path):
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        (purchase,) = await journal.plan([asked(1)])
        promised = False
        with anyio.CancelScope() as scope:
            scope.cancel()
            await journal.admit(purchase, Announced(0.0, "a"), None)
            promised = True
            await anyio.lowlevel.checkpoint()
            pytest.fail("the cancellation was lost")
        assert scope.cancelled_caught
        assert promised
        assert (await now_in(journal, purchase)).state is State.ANNOUNCED


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_task_ends_after_what_it_told_is_recorded(tmp_path, times):
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        (purchase,) = await journal.plan([asked(1)])
        recorded: list[bool] = []

        async def announce() -> None:
            await journal.admit(purchase, Announced(0.0, "a"), None)
            recorded.append(True)
            await asyncio.sleep(0)
            pytest.fail("the cancellation was lost")

        task = asyncio.create_task(announce())
        for _ in range(times):
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert recorded == [True]
        assert (await now_in(journal, purchase)).state is State.ANNOUNCED


USES = {
    "plan": lambda journal, _: journal.plan([asked(2)]),
    "record": lambda journal, purchase: brought(journal, purchase, Announced),
    "refused": lambda journal, purchase: brought(journal, purchase, Saved),
    "refused admit": lambda journal, purchase: journal.admit(purchase, Announced(0.0, "a"), None),
    "aclose": lambda journal, _: journal.aclose(),
}


@pytest.mark.parametrize("kind", ["scope", "timeout"])
@pytest.mark.parametrize("use", USES)
async def test_a_cancellation_stays_within_its_own_block(tmp_path, use, kind):
    journal = await SqliteJournal.open(tmp_path / "run.db")
    (purchase,) = await journal.plan([asked(1)])
    if use == "refused admit":
        await brought(journal, purchase, Announced, Bought)
    if kind == "scope":
        with anyio.CancelScope() as scope:
            scope.cancel()
            await USES[use](journal, purchase)
        assert scope.cancelled_caught
    else:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await USES[use](journal, purchase)
    await asyncio.sleep(0)  # where it would come otherwise
    current = asyncio.current_task()
    assert current
    assert current.cancelling() == 0
    await journal.aclose()
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:  # nobody else has it any more
        rows = (await journal.summary()).rows
    assert rows[State.PLANNED] == {"plan": 2, "refused": 1, "aclose": 1}.get(use, 0)  # it was seen through


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_an_answer_that_comes_together_with_a_cancellation_is_not_lost(cancelled_first):
    job = groups.Job(_store.Work(len), asyncio.get_running_loop().create_future())
    answers: list[object] = []

    async def wait() -> None:
        answers.append(await groups.known(job))
        await asyncio.sleep(0)
        pytest.fail("the cancellation was lost")

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    job.result, job.done = "recorded", True
    for step in (task.cancel, job.give) if cancelled_first else (job.give, task.cancel):
        step()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert answers == ["recorded"]


async def test_a_refusal_is_the_cause_of_the_cancellation_that_it_meets(tmp_path):
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        (purchase,) = await journal.plan([asked(1)])
        with anyio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await brought(journal, purchase, Saved)
        assert isinstance(cancelled.value.__cause__, IllegalTransition)


async def test_reading_can_be_given_up(tmp_path):
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        await journal.plan([asked(1)])
        with anyio.CancelScope() as scope:
            scope.cancel()
            await journal.summary()
            pytest.fail("was not given up")
        assert (await journal.summary()).total == 1


async def test_an_opening_that_nobody_waits_for_any_more_is_closed_again(tmp_path, monkeypatch):
    really, opened = sqlite_journal._open, threading.Event()

    def open_and_tell(path, **options):
        try:
            return really(path, **options)
        finally:
            opened.set()

    monkeypatch.setattr(sqlite_journal, "_open", open_and_tell)
    for path in (tmp_path / "run.db", tmp_path / "nowhere" / "run.db"):
        opened.clear()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await SqliteJournal.open(path)
        await anyio.to_thread.run_sync(opened.wait)
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        assert journal.run == 2


async def test_a_closed_journal_says_so_and_closing_twice_does_nothing(tmp_path):
    journal = await SqliteJournal.open(tmp_path / "run.db")
    (purchase,) = await journal.plan([asked(1)])
    async with anyio.create_task_group() as group:
        group.start_soon(brought, journal, purchase, Announced)
        await anyio.lowlevel.checkpoint()
        await journal.aclose()
    await journal.aclose()
    with pytest.raises(JournalError, match="it is closed"):
        await journal.summary()
    found = await anyio.to_thread.run_sync(read, tmp_path / "run.db")
    assert found[entry_of(purchase).name]["state"] is State.ANNOUNCED
    assert [file.name for file in tmp_path.iterdir()] == ["run.db"]


async def test_what_was_under_way_in_a_killed_process_is_uncertain_and_told(tmp_path):
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        first, second, third, _ = await journal.plan([asked(n) for n in range(4)])
        await brought(journal, first, Announced)
        await brought(journal, second, Announced, Bought)
        await brought(journal, third, Announced, Lost, Reopened, Announced)
        await journal.record(third, fact(Bought, task=task("t9"), attempt=1))  # an event tells the first one
        copied(tmp_path / "run.db", tmp_path / "killed.db")
    async with await SqliteJournal.open(tmp_path / "killed.db") as journal:
        assert journal.uncertain_at_opening == 1
        assert [entry_of(each).serial async for each in journal.where(State.UNCERTAIN)] == [1]
        paid = [each async for each in journal.where(State.SUBMITTED)]
        assert [(entry_of(each).serial, each.bought, each.perhaps) for each in paid] == [(2, 2, 0), (3, 3, 3)]
        assert [each.perhaps for each in paid[1].attempts] == [True, False]
        assert set(serials(await journal.seen_since(60.0))) == {1, 2, 3}


def test_many_more_than_a_page_are_recovered(tmp_path, monkeypatch):
    monkeypatch.setattr(_store, "PAGE", 3)
    store = open_store(tmp_path / "run.db")
    plan(store, [asked(n) for n in range(10)])
    for n in range(10):
        record(store, (asked(n).key, 0), fact(Announced))
    assert do(store, lambda store: store.recover(2.0)) == 10
    assert do(store, lambda store: store.recover(3.0)) == 0
    assert store.summary().rows[State.UNCERTAIN] == 10
    store.close()


@pytest.mark.real_loop
async def test_a_journal_knows_after_a_laptop_has_slept_when_the_service_has_seen_an_attempt(
    tmp_path, monkeypatch
):
    """What was announced before is long ago, what is announced now is not."""
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        before, after = await journal.plan([asked(1), asked(2)])
        await journal.record(before, Announced(loop_time(), "a"))
        late = SimpleNamespace(time=lambda: time.time() + 8 * 3600)
        monkeypatch.setattr(clock, "time", late)
        await journal.record(after, Announced(loop_time(), "a"))
        seen = await journal.seen_since(60)
    assert [entry_of(each).serial for each in seen] == [entry_of(after).serial]
    assert abs(seen[0].attempts[0].announced_at - loop_time()) < 60


# --- What lies beside it ----------------------------------------------------------------------------------


async def test_after_a_clean_end_only_the_journal_itself_is_left(tmp_path):
    path = tmp_path / "run.db"
    async with await SqliteJournal.open(path) as journal:
        await journal.plan([asked(1)])
        assert len(list(tmp_path.iterdir())) == 5
    assert list(tmp_path.iterdir()) == [path]
    async with await SqliteJournal.open(path, read_only=True) as reader:
        assert (await reader.summary()).total == 1
    assert list(tmp_path.iterdir()) == [path]


async def test_a_reader_takes_nothing_away_that_another_uses(tmp_path):
    path = tmp_path / "run.db"
    async with await SqliteJournal.open(path):
        pass
    async with await SqliteJournal.open(path, read_only=True) as last:
        async with await SqliteJournal.open(path, read_only=True):
            pass
        async with await SqliteJournal.open(path) as journal:
            await journal.plan([asked(1)])
            async with await SqliteJournal.open(path, read_only=True) as reader:
                assert (await reader.summary()).total == 1
            await journal.plan([asked(2)])
        assert (await last.summary()).total == 2
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_whose_file_was_taken_away_meanwhile_does_not_count(tmp_path, monkeypatch):
    told = iter([(1, 1), (2, 2), (2, 2), (2, 2)])
    monkeypatch.setattr(_file, "_identity", lambda _: next(told))
    lock = _file._locked(tmp_path / "run.db")
    assert next(told, None) is None
    lock.close()


def test_never_do_two_have_the_lock_while_its_file_comes_and_goes(tmp_path):
    holders, most, turns = [], [], []

    def take_turns():
        for _ in range(25):
            try:
                lock = _file._locked(tmp_path / "run.db", 5.0)
            except sqlite3.OperationalError:
                continue
            holders.append(lock)
            most.append(len(holders))
            turns.append(holders.pop())
            _file._unlock(tmp_path / "run.db", lock)

    threads = [threading.Thread(target=take_turns) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert len(turns) > 25
    assert not list(tmp_path.iterdir())


# --- One process ------------------------------------------------------------------------------------------


async def test_a_second_journal_in_the_same_process_is_refused(tmp_path):
    async with await SqliteJournal.open(tmp_path / "run.db"):
        with pytest.raises(JournalError, match="another process, or another journal") as caught:
            await SqliteJournal.open(tmp_path / "." / "run.db")
        assert caught.value.scope == "account"
        (tmp_path / "other name.db").symlink_to(tmp_path / "run.db")
        with pytest.raises(JournalError, match="has it open"):
            await SqliteJournal.open(tmp_path / "other name.db")
        (tmp_path / "run.db").read_bytes()  # reading the file elsewhere does not lose the lock
        with pytest.raises(JournalError, match="has it open"):
            await SqliteJournal.open(tmp_path / "run.db")
    async with await SqliteJournal.open(tmp_path / "other name.db") as journal:
        assert journal.run == 2


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    path = tmp_path / "run.db"
    first = process(path, requests=20_000, seed=1)
    try:
        assert first.line().startswith("run 1")
        assert "has it open" in failing(path)
        reader = _store.Store(_file.open_to_read(path))
        assert reader.summary().total == 20_000
        reader.close()
        assert "has it open" in failing(path)
    finally:
        first.kill()
    store = open_store(path)
    assert store.run == 2
    store.close()


async def test_a_reader_sees_what_is_written_and_changes_nothing(tmp_path):
    path = tmp_path / "run.db"
    with pytest.raises(JournalError, match="No such file"):
        await SqliteJournal.open(path, read_only=True)
    async with await SqliteJournal.open(path) as journal:
        (purchase,) = await journal.plan([asked(1)])
        await brought(journal, purchase, Announced)
        async with await SqliteJournal.open(path, read_only=True) as reader:
            assert (await reader.summary()).rows[State.ANNOUNCED] == 1
            await brought(journal, purchase, Bought)
            assert (await reader.summary()).rows[State.SUBMITTED] == 1
            with pytest.raises(JournalError, match="it can only be read"):
                await reader.plan([asked(2)])
            copied(path, tmp_path / "killed.db")
    async with await SqliteJournal.open(tmp_path / "killed.db", read_only=True) as reader:
        assert (await reader.summary()).rows[State.SUBMITTED] == 1
    found = await anyio.to_thread.run_sync(read, tmp_path / "killed.db")
    assert found[entry_of(purchase).name]["state"] is State.SUBMITTED


def test_acknowledged_transitions_survive_kills(tmp_path):
    """Eight processes in a row on one journal; `python -m benchmarks.soak_journal` kills many more."""
    path = tmp_path / "run.db"
    witness = Witness()
    for seed in range(8):
        said = kill_after(path, 5 + seed * 37 % 60, requests=60, seed=seed)
        witness.hear(said)
        store = open_store(path, 99.0)
        witness.compare(look(store))
        store.close()
    assert store.run >= 8
    states = {each["state"] for each in read(path).values()}
    assert State.UNCERTAIN in states or State.SAVED in states


# --- Damage -----------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path) -> Path:
    """A small journal, closed, with purchases of every state."""
    path = tmp_path / "saved.db"
    store = open_store(path)
    plan(store, [asked(n, n) for n in range(16)])
    for n, state in enumerate((*State, *State)):
        record(store, (asked(n).key, 0), *(fact(kind, float(n)) for kind in WAYS[state]))
    store.close()
    return path


def boundaries(size: int, unit: int, head: int = 0) -> list[int]:
    """Lengths around the ends of pages, and some between."""
    ends = range(head, size, unit)
    near = {end + n for end in ends for n in (-1, 0, 1, 24, 100, unit // 2)}
    return sorted(n for n in near | {0, 1, 15, 16, 17, 99, 100} if 0 <= n < size)


def test_a_closed_journal_that_is_cut_anywhere_is_refused(saved, tmp_path):
    size = saved.stat().st_size
    for length in boundaries(size, 4096):
        failing(copied(saved, tmp_path / "cut.db", main=length))
    assert len(read(copied(saved, tmp_path / "cut.db", main=size))) == 16


@pytest.fixture(scope="module")
def history(tmp_path_factory) -> tuple[Path, list[dict]]:
    """A journal as a killed process leaves it, and what it had after each commit."""
    folder = tmp_path_factory.mktemp("history")
    store = open_store(folder / "run.db")
    snapshots = [looked_at(store)]
    plan(store, [asked(n, n) for n in range(4)])
    snapshots.append(looked_at(store))
    for n, kind in itertools.product(range(3), ALL_THE_WAY):
        record(store, (asked(n).key, 0), fact(kind, float(n)))
        snapshots.append(looked_at(store))
    copied(folder / "run.db", folder / "killed.db")
    store.close()
    return folder / "killed.db", snapshots


def test_a_cut_log_gives_what_was_there_after_one_of_the_commits(history, tmp_path):
    path, snapshots = history
    size = Path(f"{path}-wal").stat().st_size
    last = 0
    for length in boundaries(size, 4120, head=32):
        cut = copied(path, tmp_path / "cut.db", wal=length)
        if length < 32:
            assert "what was written last is missing" in failing(cut)
            continue
        index = snapshots.index(read(cut))
        assert index >= last
        last = index
    assert read(copied(path, tmp_path / "cut.db")) == snapshots[-1]
    assert last >= len(snapshots) - 2


def test_a_cut_file_with_a_whole_log_is_refused_or_whole(history, tmp_path):
    path, snapshots = history
    for length in boundaries(path.stat().st_size, 4096):
        cut = copied(path, tmp_path / "cut.db", main=length)
        try:
            rows = read(cut)
        except JournalError:
            continue
        assert rows == snapshots[-1]


@pytest.mark.parametrize("where", range(0, 40_960, 1733))
def test_a_changed_byte_is_never_misread(saved, tmp_path, where):
    """Free room in a page may change and say nothing; whatever is read is as it was written."""
    data = bytearray(saved.read_bytes())
    where %= len(data)
    data[where] ^= 0x5A
    broken = tmp_path / "broken.db"
    broken.write_bytes(data)
    expected = read(saved)
    try:
        found = read(broken)
    except JournalError:
        return
    assert found == expected


def test_a_changed_row_is_noticed(saved, tmp_path):
    with closing(sqlite3.connect(saved, isolation_level=None)) as connection:
        connection.execute("UPDATE requests SET task_id = 'other' WHERE serial = 3")
    assert "row 3 is not as it was written" in failing(saved)


async def test_damage_that_is_met_while_reading_is_told(saved):
    async with await SqliteJournal.open(saved) as journal:
        journal._store.file.connection.execute("UPDATE requests SET attempts = 7 WHERE serial = 3")
        with pytest.raises(JournalError, match="row 3 is not as it was written"):
            [each async for each in journal.where()]
        with pytest.raises(JournalError, match="row 3 is not as it was written"):
            await journal.plan([asked(2)])
        assert [entry_of(each).serial async for each in journal.where(after=3)] == list(range(4, 17))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty, as no journal ever is"),
        (b"SQLite", "it is damaged (cut short)"),
        (b'{"model": "m"}\n' * 50, "it is no journal"),
        (b"SQLite format 3\x00" + b"\xff" * 4080, "it is damaged"),
        (os.urandom(8192), "it is no journal"),
    ],
)
def test_what_is_no_journal_is_refused_and_stays_as_it_is(tmp_path, content, says):
    path = tmp_path / "run.db"
    path.write_bytes(content)
    assert says in failing(path)
    assert path.read_bytes() == content


def test_another_sqlite_file_is_refused_and_stays_as_it_is(tmp_path):
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE meta (name, value)")
        connection.commit()
    before = path.read_bytes()
    assert "it is no journal (some other SQLite file)" in failing(path)
    assert path.read_bytes() == before


def test_a_journal_of_a_newer_release_is_refused_and_stays_as_it_is(saved):
    with closing(sqlite3.connect(saved, isolation_level=None)) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE name = 'version'")
    before = saved.read_bytes()
    assert "a newer release wrote it (its version 99, here 4): update novita-async" in failing(saved)
    with pytest.raises(JournalError, match="a newer release"):
        _file.open_to_read(saved)
    assert saved.read_bytes() == before


@pytest.mark.parametrize("name", ["version", "open", "run"])
def test_a_journal_that_knows_nothing_of_itself_is_damaged(saved, name):
    with closing(sqlite3.connect(saved, isolation_level=None)) as connection:
        connection.execute("DELETE FROM meta WHERE name = ?", (name,))
    assert "it is damaged" in failing(saved)


def test_a_journal_that_was_moved_without_its_log_is_refused_unless_told(history, tmp_path):
    path, snapshots = history
    moved = tmp_path / "moved.db"
    shutil.copyfile(path, moved)
    for _ in range(2):
        assert "moved.db-wal, which lay beside it: bring that file along" in failing(moved)
    assert read_with(moved, without_wal=True) == snapshots[0]
    assert read(moved) == snapshots[0]


def read_with(path: Path, **options) -> dict:
    store = open_store(path, **options)
    found = looked_at(store)
    store.close()
    return found


def test_a_log_without_its_journal_is_not_taken_for_a_new_one(history, tmp_path):
    path, _ = history
    shutil.copyfile(f"{path}-wal", tmp_path / "run.db-wal")
    assert "it is gone, but run.db-wal, which belongs to it, is there" in failing(tmp_path / "run.db")
    assert not (tmp_path / "run.db").exists()


def test_a_creation_that_was_broken_off_is_begun_anew(tmp_path):
    (tmp_path / "run.db-new").write_bytes(b"half of it")
    assert read(tmp_path / "run.db") == {}
    assert not (tmp_path / "run.db-new").exists()


@pytest.mark.parametrize("name", ["no such folder/run.db", "."])
def test_a_place_that_cannot_be_is_told(tmp_path, name):
    assert "it cannot be opened" in failing(tmp_path / name)


def test_a_broken_page_of_a_journal_that_was_not_closed_is_found_at_once(history, tmp_path):
    path, _ = history
    killed = copied(path, tmp_path / "killed.db")
    with closing(sqlite3.connect(killed, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_schema SET rootpage = 2 WHERE name = 'requests_by_slot'")
        copied(killed, tmp_path / "broken.db")
    with pytest.raises(JournalError, match="it is damaged"):
        _file.open_to_write(tmp_path / "broken.db")


# --- Writes that fail -------------------------------------------------------------------------------------


class Failing(sqlite3.Connection):
    """Fails at one statement that writes."""

    countdown = 0
    code = sqlite3.SQLITE_IOERR
    forever = False

    def _count(self, sql: str) -> None:
        if sql.lstrip().upper().startswith(("SELECT", "PRAGMA", "ROLLBACK")):
            return
        cls = type(self)
        cls.countdown -= 1
        if cls.countdown == 0 or (cls.forever and cls.countdown < 0):
            error = sqlite3.OperationalError("made to fail")
            error.sqlite_errorcode = cls.code
            raise error

    def execute(self, sql, *values):
        self._count(sql)
        return super().execute(sql, *values)

    def executemany(self, sql, values):
        self._count(sql)
        return super().executemany(sql, values)


def connect_failing(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, factory=Failing)


def script(path: Path, model: Model) -> None:
    """A whole small batch, whatever fails; the model does what was acknowledged."""
    try:
        store = open_store(path, connect=connect_failing)
    except JournalError:
        return
    wanted = [asked(n // 2, n) for n in range(4)]
    for piece in (wanted[:2], wanted[2:]):
        try:
            found = plan(store, piece)
        except JournalError:
            continue
        assert list(map(told, found)) == list(map(told, model.plan(piece)))
    for name, (before, kind) in itertools.product(list(model.kept), STEPS):
        if model.kept[name].state is before:
            try:
                record(store, name, fact(kind))
            except JournalError as error:
                assert error.scope == "account"
                continue
            model.record(name, fact(kind))
    assert looked_at(store) == model.told()
    store.close()


STEPS = tuple(
    zip((State.PLANNED, State.ANNOUNCED, State.SUBMITTED, State.SUCCEEDED), ALL_THE_WAY, strict=True)
)
"""Each state of the usual way, and the fact that leads on from there."""


@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL])
def test_every_write_that_fails_is_told_and_loses_nothing_else(tmp_path, code, forever):
    for count in itertools.count(
        1, 3 if forever else 1
    ):  # a disk that stays broken fails at the next one, too
        path = tmp_path / f"{count}.db"
        Failing.countdown, Failing.code, Failing.forever = count, code, forever
        model = Model()
        script(path, model)
        if Failing.countdown > 0:
            break
        if path.exists():
            assert read(path) == model.told()
        else:
            assert not model.kept
    assert count > 40
    assert model.kept[asked(0).key, 0].state is State.SAVED


async def test_a_full_disk_is_told_to_each_and_what_comes_after_it_is_recorded(tmp_path):
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        (first,) = await journal.plan([asked(0)])
        connection = journal._store.file.connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages + 1}").fetchall()
        errors: list[JournalError] = []

        async def plan(n: int) -> None:
            try:
                await journal.plan([asked(n * 100 + m) for m in range(30)])
            except JournalError as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            for n in range(1, 4):
                group.start_soon(plan, n)
        assert len({id(error) for error in errors}) == 3
        assert {"the disk is full" in str(error) for error in errors} == {True}
        assert (await journal.summary()).total == 1
        connection.execute("PRAGMA max_page_count=100000").fetchall()
        await brought(journal, first, *ALL_THE_WAY)
        await plan(1)
    assert len(await anyio.to_thread.run_sync(read, tmp_path / "run.db")) == 31


def test_a_file_that_cannot_grow_refuses_what_it_cannot_hold(tmp_path):
    """The operating system itself fails the writes: a limit on the size of files."""
    code = """
import resource, signal, sys
from pathlib import Path
from novita_async import JournalError
from tests.helpers.journals import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = open_store(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
done = 0
for n in range(0, 4000, 20):
    try:
        plan(store, [asked(m) for m in range(n, n + 20)])
    except JournalError as error:
        print(done, error)
        break
    done += 20
store.close()
"""
    path = tmp_path / "run.db"
    done = run(python("-c", code, path, flags=()), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    count, _, error = done.stdout.partition(" ")
    assert "the disk" in error
    assert len(read(path)) == int(count) > 100


def test_what_could_not_be_recorded_can_be_recorded_later(tmp_path):
    Failing.countdown, Failing.code, Failing.forever = 0, sqlite3.SQLITE_IOERR, False
    store = open_store(tmp_path / "run.db", connect=connect_failing)
    plan(store, [asked(1)])
    name = (asked(1).key, 0)
    record(store, name, fact(Announced, 1.0))
    Failing.countdown = 3  # BEGIN, UPDATE, COMMIT
    with pytest.raises(JournalError, match="made to fail"):
        record(store, name, fact(Bought, 2.0, task=task("lost")))
    record(store, name, fact(Bought, 3.0, task=task("kept")))
    Failing.countdown = 3
    with pytest.raises(JournalError, match="made to fail"):
        do(store, lambda store: store.new_run(0.0))
    assert store.run == 1
    assert do(store, lambda store: store.new_run(0.0)) == 2
    store.close()
    (found,) = read(tmp_path / "run.db").values()
    assert (found["task"], found["bought"], found["perhaps"]) == ("kept", 2, 0)


class Cramped(sqlite3.Connection):
    """Finds no room while some is kept."""

    spare: Path | None = None

    def execute(self, sql, *values):
        if self.spare and self.spare.exists() and sql.startswith(("INSERT", "UPDATE")):
            error = sqlite3.OperationalError("no room")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return super().execute(sql, *values)

    executemany = execute


class Narrow(sqlite3.Connection):
    """Finds no room for more than so many writes, before the log is used again."""

    room = 100
    spare: Path | None = None
    """Where it is there, the log cannot be moved."""

    def execute(self, sql, *values):
        self._count(sql)
        return super().execute(sql, *values)

    def executemany(self, sql, *values):
        self._count(sql)
        return super().executemany(sql, *values)

    def _count(self, sql):
        if "wal_checkpoint(RESTART)" in sql:
            if self.spare is not None and self.spare.exists():
                raise sqlite3.OperationalError("no room to move it")
            Narrow.room = 100
        elif sql.startswith(("INSERT", "UPDATE")):
            Narrow.room -= 1
            if Narrow.room < 0:
                error = sqlite3.OperationalError("no room")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error


def test_where_only_the_log_has_filled_the_disk_its_room_is_used_again(tmp_path):
    path, log = tmp_path / "run.db", tmp_path / "run.db-wal"
    store = open_store(path, connect=narrow)
    plan(store, [asked(1)])
    name, lengths = (asked(1).key, 0), []
    for n in range(200):
        record(store, name, fact(Announced, float(n)))
        record(store, name, fact(NotBought, n + 0.5))
        lengths.append(_file._size(log))
    assert lengths[100] == lengths[-1] > _file._WAL_HEADER
    assert (tmp_path / "run.db-spare").exists()
    copied(path, tmp_path / "killed.db")
    store.close()
    assert read(tmp_path / "killed.db") == read(path)


def test_moving_the_log_may_take_the_room_that_was_kept_which_is_kept_again_then(tmp_path, monkeypatch):
    monkeypatch.setattr(Narrow, "spare", tmp_path / "run.db-spare")
    store = open_store(tmp_path / "run.db", connect=narrow)
    plan(store, [asked(1)])
    Narrow.room = 0
    plan(store, [asked(2)])
    assert Narrow.spare.exists()
    with monkeypatch.context() as patch:
        patch.setattr(type(store.file), "keep_room", no_room)
        Narrow.room = 0
        plan(store, [asked(3)])
        beginning = Work(lambda store: store.plan([asked(4)], 0.0), begins=True)
        (refusal,) = store.carry_out([beginning])
        assert "the disk is full" in str(refusal)
        record(store, (asked(3).key, 0), fact(Announced))
        store.close()
    assert len(read(tmp_path / "run.db")) == 3


def no_room(_):
    raise OSError(errno.ENOSPC, "no room")


def test_a_log_that_cannot_be_moved_makes_no_room(tmp_path):
    store = open_store(tmp_path / "run.db")
    plan(store, [asked(1)])
    with closing(sqlite3.connect(tmp_path / "run.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM requests").fetchone()
        plan(store, [asked(2)])
        assert not store.file.reuse_log()
    assert store.file.reuse_log()
    store.file.connection.close()
    assert not store.file.reuse_log()


def narrow(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        factory=Narrow,
    )


async def test_on_a_full_disk_what_is_paid_is_recorded_and_nothing_is_begun(tmp_path, monkeypatch):
    path = tmp_path / "run.db"
    async with await SqliteJournal.open(path) as journal:
        paid, planned = await journal.plan([asked(1), asked(2)])
        await brought(journal, paid, Announced)
        monkeypatch.setattr(Cramped, "spare", tmp_path / "run.db-spare")
        room = Cramped(path, isolation_level=None, check_same_thread=False)
        monkeypatch.setattr(type(journal._store), "_connection", room)
        await brought(journal, paid, Bought, Completed, Saved)
        for _ in range(2):
            with pytest.raises(JournalError, match="the disk is full"):
                await brought(journal, planned, Announced)
            with pytest.raises(JournalError, match="the disk is full"):
                await journal.plan([asked(3)])
        monkeypatch.setattr(Cramped, "spare", None)
        await brought(journal, planned, *ALL_THE_WAY)
        room.close()
    monkeypatch.undo()
    found = await anyio.to_thread.run_sync(read, path)
    assert [each["state"] for each in found.values()] == [State.SAVED] * 2
    assert not (tmp_path / "run.db-spare").exists()


def test_a_closed_journal_is_read_where_nothing_can_be_written(saved):
    """On a read-only medium, or in a folder of somebody else."""

    def sealed(path, mode):
        if mode == "ro":
            error = sqlite3.OperationalError("attempt to write a readonly database")
            error.sqlite_errorcode = sqlite3.SQLITE_READONLY_DIRECTORY
            raise error
        return _file.connect(path, mode)

    store = _store.Store(_file.open_to_read(saved, connect=sealed))
    assert looked_at(store) == read(saved)
    store.close()


@pytest.mark.parametrize(
    ("code", "log", "says"),
    [
        (sqlite3.SQLITE_BUSY, b"", "has it open"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, b"what was written last", "it can only be read"),
    ],
)
def test_a_journal_is_not_read_past_what_another_writes_or_has_left(saved, code, log, says):
    Path(f"{saved}-wal").write_bytes(log)

    def failing_to_open(path, mode):
        error = sqlite3.OperationalError("made to fail")
        error.sqlite_errorcode = code
        raise error

    with pytest.raises(JournalError, match=says):
        _file.open_to_read(saved, connect=failing_to_open)


async def test_a_journal_on_a_disk_without_room_is_not_opened(saved, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(_file.OpenFile, "keep_room", raising(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(JournalError, match="the disk is full"):
            await SqliteJournal.open(saved)
    async with await SqliteJournal.open(saved) as journal:
        assert journal.run > 1


def raising(error):
    def fail(*_):
        raise error

    return fail


def test_room_that_cannot_be_had_is_not_kept_in_part(saved, monkeypatch):
    store = open_store(saved)
    store.file.give_room()
    monkeypatch.setattr(_file, "bytes", raising(OSError(errno.ENOSPC, "full")), raising=False)
    with pytest.raises(OSError, match="full"):
        store.file.keep_room()
    assert not store.file.give_room()
    store.close()


def test_a_process_that_just_ends_leaves_a_journal_that_can_be_opened(tmp_path):
    """SQLite merges and removes the `-wal` then, as if it had been lost."""
    code = """
import asyncio, sys
from novita_async import SqliteJournal
from tests.helpers.journals import *

async def main():
    kept.append(await SqliteJournal.open(sys.argv[1]))
    await kept[0].plan([asked(1)])

kept = []
asyncio.run(main())
if os.fork() == 0:
    sys.exit()  # a child closes nothing that is its parent's
os.wait()
"""
    path = tmp_path / "run.db"
    done = run(python("-c", code, path, flags=()), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(read(path)) == 1


def test_a_child_that_has_inherited_a_journal_does_not_close_it(tmp_path, monkeypatch):
    store, parent = open_store(tmp_path / "run.db"), os.getpid()
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: parent + 1)
        store.close()
    assert store.file.connection.execute("SELECT 1").fetchone() == (1,)
    store.file.close()


async def test_a_fault_of_the_program_is_told_and_nothing_is_written(tmp_path, monkeypatch):
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        (purchase,) = await journal.plan([asked(1)])
        with monkeypatch.context() as faulty:
            faulty.setattr(journal_rows, "record_of", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await brought(journal, purchase, Announced)
        assert told(await now_in(journal, purchase)) == told(purchase)
        await brought(journal, purchase, Announced)
        assert (await now_in(journal, purchase)).attempt == 1


async def test_a_journal_that_cannot_be_recovered_is_not_opened(saved, monkeypatch):
    monkeypatch.setattr(journal_rows, "left_behind", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await SqliteJournal.open(saved)
    monkeypatch.undo()
    async with await SqliteJournal.open(saved) as journal:
        assert journal.uncertain_at_opening == 2


# --- Form and speed ---------------------------------------------------------------------------------------


def test_a_journal_of_version_0_is_brought_up_to_date(tmp_path):
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript((ROOT / "tests/data/journal_version_0.sql").read_text())
    with pytest.raises(JournalError, match="an older release wrote it"):
        _file.open_to_read(path)
    store = open_store(path)
    found = list(look(store).values())
    assert [each.state for each in found] == [State.PLANNED, State.SUBMITTED, State.SAVED]
    assert found[2].paths == (Path("out/00002.png"),)
    assert found[1].task
    assert found[1].task.task_id == "73fab7c0"
    assert store.summary() == summed(map(tally_of, found))
    record(store, entry_of(found[0]).name, fact(Announced, 1.0), fact(NotBought, 2.0))
    assert _file.meta(store.file.connection, "version") == _file.VERSION == 4
    store.close()
    assert read(path)[entry_of(found[0]).name]["attempts"] == [(1.0, 1, "a", 2.0, None, False, False)]


def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript((ROOT / "tests/data/journal_version_0.sql").read_text())
    *earlier, last = _file.MIGRATIONS
    monkeypatch.setattr(_file, "MIGRATIONS", (*earlier, (*last, "no SQL at all")))
    with pytest.raises(JournalError):
        _file.open_to_write(path)
    monkeypatch.undo()
    assert len(read(path)) == 3


@pytest.mark.parametrize(
    ("sql", "values", "plan"),
    [
        (_store.BY_KEY, (b"", 0), "SEARCH requests USING INDEX requests_by_key (key=? AND occurrence=?)"),
        (_store.CLAIMED, (b"", 0), "SEARCH requests USING INDEX requests_by_key (key=? AND occurrence=?)"),
        (_store.known_keys(2), (b"", b"a"), "SEARCH requests USING COVERING INDEX requests_by_key (key=?)"),
        (_store.BY_TOKEN, ("t",), "SEARCH requests USING INDEX requests_by_token (token=?)"),
        (_store.BY_SLOT, (1.0,), "SEARCH requests USING INDEX requests_by_slot (slot_time>?)"),
        (
            _store.PAGE_OF_STATE,
            ("planned", 0, 9),
            "SEARCH requests USING INDEX requests_by_state (state=? AND serial>?)",
        ),
        (
            _store.PERHAPS_OF_STATE,
            ("saved", 0, 9),
            "SEARCH requests USING INDEX requests_by_state (state=? AND serial>?)",
        ),
        (_store.PAGE_OF_ALL, (0, 9), "SEARCH requests USING INTEGER PRIMARY KEY (rowid>?)"),
        (_store.TALLIES, (), "SCAN requests USING COVERING INDEX requests_by_state"),
        (
            _store.saved_first(2),
            (b"a", b"b"),
            "SEARCH requests USING INDEX requests_by_key (key=? AND occurrence=?)",
        ),
        (_store.known_keys(2), (b"a", b"b"), "SEARCH requests USING COVERING INDEX requests_by_key (key=?)"),
        (_store.AS_JSON, (1, 9), "SEARCH requests USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        (_store.updating(("state",)), ("saved", 1), "SEARCH requests USING INTEGER PRIMARY KEY (rowid=?)"),
    ],
)
def test_every_question_uses_its_index_and_sorts_nothing(saved, sql, values, plan):
    with closing(sqlite3.connect(saved)) as connection:
        steps = [step[3] for step in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    assert steps == [plan]


def test_a_commit_is_on_the_disk_when_it_is_done(tmp_path):
    store = open_store(tmp_path / "run.db")
    settings_of = [
        store.file.connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "fullfsync")
    ]
    assert settings_of == ["wal", 2, 1]
    store.close()


def test_the_memory_of_purchases_that_were_written_last_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(_store, "_REMEMBERED", 3)
    store = open_store(tmp_path / "run.db")
    plan(store, [asked(n) for n in range(9)])
    for kind in (Announced, Bought):
        for n in range(9):
            record(store, (asked(n).key, 0), fact(kind))
            assert len(store._fresh) <= 3
    assert store.summary().rows[State.SUBMITTED] == 9
    assert repr(store).startswith("<Store ")
    store.close()


async def test_the_name_of_a_journal_is_made_durable_by_all_who_open_it(tmp_path, monkeypatch):
    """Its maker may have got no further than the rename."""
    synced, fsync = [], os.fsync

    def fails_at_first(handle):
        synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        if len(synced) == 1:
            raise OSError(errno.EIO, "Input/output error")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fails_at_first)
    with pytest.raises(JournalError, match="Input/output error"):
        await SqliteJournal.open(tmp_path / "run.db")
    async with await SqliteJournal.open(tmp_path / "run.db"):
        assert synced == [tmp_path.resolve()] * 2


async def test_a_journal_on_a_network_share_warns_those_who_write_it_and_is_given_back(tmp_path, monkeypatch):
    path = tmp_path / "run.db"
    monkeypatch.setattr(_file, "share_of", lambda _: "nfs4")
    with pytest.raises(NovitaWarning, match=r"run\.db lies on a network share \(nfs4\)"):
        await SqliteJournal.open(path)
    with pytest.warns(NovitaWarning):
        journal = await SqliteJournal.open(path)
    await journal.aclose()
    async with await SqliteJournal.open(path, read_only=True) as reader:
        assert (await reader.summary()).total == 0
