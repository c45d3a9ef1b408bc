"""Who works on what: rows of a batch in Postgres, taken by some workers and put back, claimed, given back."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from novita_async import Endpoints, Succeeded
from novita_async._journal.postgres import member
from novita_async._journal.postgres.living import pause_of
from novita_async._journal.shared_memory import SharedMemoryJournal
from novita_async._purchase.machine import (
    Announced,
    Bought,
    Completed,
    FailedForGood,
    IllegalTransition,
    Lost,
    Reopened,
    Saved,
    State,
    advance,
    next_action,
)
from novita_async._stream.planning import BatchPlanner
from novita_async._util.clock import loop_time
from novita_async.errors import JournalError
from novita_async.journal import LeaseLost, PostgresJournal
from tests.helpers.journals import asked
from tests.helpers.postgres import cut_after_next_write, forget_others, new_batch, run_sql
from tests.helpers.purchases import fact, result, task
from tests.helpers.service import client_of, picture, requests, service

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]


class InPostgres:
    def __init__(self, url):
        self.url = url

    async def plan(self, count):
        async with await PostgresJournal.open(self.url) as journal:
            await journal.plan([asked(number, number) for number in range(count)])

    async def join(self):
        return await PostgresJournal.join(self.url)


class InMemory:
    """The twin that tests of workers use: the same answers."""

    def __init__(self):
        self.journal = SharedMemoryJournal()

    async def plan(self, count):
        await self.journal.plan([asked(number, number) for number in range(count)])

    async def join(self):
        return self.journal.join()


@pytest.fixture(params=["memory", "postgres"])
def batch(request):
    return (
        InMemory()
        if request.param == "memory"
        else InPostgres(new_batch(request.getfixturevalue("database")))
    )


def places(purchases):
    return [each.position for each in purchases]


async def tell(purchase, *facts):
    for each in facts:
        await purchase.journal.record(purchase, each)
        advance(purchase, each)


async def test_each_row_is_one_workers_and_comes_back_when_that_leaves(batch):
    await batch.plan(4)
    first, second = await batch.join(), await batch.join()
    assert places(await first.take(2)) == [0, 1]
    assert places(await second.take(5)) == [2, 3]
    assert await second.take() == []
    assert not await second.complete()
    await first.aclose()
    assert places(await second.take()) == [0, 1]
    assert await second.complete()
    await second.aclose()


async def test_who_takes_ahead_leaves_the_others_their_share_and_takes_all_that_it_can_serve_now(batch):
    await batch.plan(40)
    if isinstance(batch, InPostgres):
        await forget_others(batch.url)
    other, worker = await batch.join(), await batch.join()
    assert len(await worker.take(40, least=4)) == 10, "a quarter: half of the share of one of two"
    assert len(await worker.take(40, least=20)) == 20
    assert len(await worker.take(40, least=4)) == 4
    assert len(await worker.take(40)) == 6
    await worker.aclose()
    await other.aclose()


async def test_a_row_that_was_put_back_is_taken_by_who_joined_later_and_by_each_once(batch):
    await batch.plan(1)
    early, first, later = await batch.join(), await batch.join(), await batch.join()
    taken = await first.take()
    await early.put_back(taken)
    assert await later.take() == []
    await first.put_back(taken)
    for worker in (early, first):
        assert await worker.take() == []
        assert await worker.complete()
    assert not await later.complete()
    await later.put_back(await later.take())
    assert await later.complete()
    for worker in (early, first, later):
        await worker.aclose()


async def test_what_has_ended_is_claimed_once_and_given_back_as_it_stands(batch):
    await batch.plan(2)
    first, second = await batch.join(), await batch.join()
    for purchase in await first.take():
        failed = fact(FailedForGood, loop_time())
        await tell(purchase, failed)
    ended = [each async for each in second.where(State.FAILED)]
    assert places(await second.claim(ended)) == [0, 1]
    assert await first.claim(ended) == []
    assert await second.give_back() == 2
    assert await second.take() == []
    (again, _) = await first.claim(ended)
    await tell(again, Reopened(loop_time()))
    assert await second.claim([again]) == []
    await first.aclose()
    assert places(await second.take()) == [0]
    await second.aclose()


async def test_what_a_worker_had_reopened_or_paid_after_a_doubt_goes_to_others_when_it_leaves(batch):
    """Its earlier attempt may have been bought: that is no reason to keep the row for the dead."""
    await batch.plan(2)
    first, second = await batch.join(), await batch.join()
    for purchase in await first.take():
        await tell(purchase, Announced(loop_time(), "a"), fact(Lost, loop_time()))
    for purchase in await first.claim([each async for each in first.where(State.UNCERTAIN)]):
        await tell(purchase, Reopened(loop_time()))
        if purchase.position:
            await tell(purchase, Announced(loop_time(), "a"), Bought(loop_time(), task("paid"), 2))
    await first.aclose()
    taken = await second.take()
    assert [str(next_action(each)) for each in taken] == ["send", "watch"]
    await second.aclose()


async def test_a_worker_at_rest_wakes_when_it_has_given_away_what_a_dead_one_had(database):
    url = new_batch(database)
    await InPostgres(url).plan(1)
    dead = await PostgresJournal.join(url, lease=60.0)
    await dead.take()
    async with await PostgresJournal.join(url, lease=0.3) as alive:
        resting = asyncio.create_task(alive.rest(120.0))
        await asyncio.sleep(0)
        await run_sql(
            url,
            "UPDATE novita.worker SET alive_until = '-infinity', lease = '0' WHERE id = $1",
            dead._store.member.me,
        )
        await resting
        assert places(await alive.take()) == [0]
    await dead.aclose()


@pytest.mark.parametrize(("age", "is_dead"), [(1.0, False), (3.0, True)])
async def test_a_short_lease_that_is_over_counts_for_others_once_theirs_would_be_too(database, age, is_dead):
    """An outage that is a gap for its holder may be none for them: nobody is dead by that."""
    async with (
        await PostgresJournal.join(new_batch(database), lease=3600.0) as judge,
        await PostgresJournal.join(new_batch(database), lease=3600.0) as other,
    ):
        me, late = judge._store.member.me, other._store.member.me
        await run_sql(
            database, "SELECT pg_sleep(extract(epoch FROM pg_postmaster_start_time() + '3 s' - now()))"
        )
        await run_sql(  # in one go: a slow machine must not age them
            database,
            f"DO $$ BEGIN UPDATE novita.worker SET alive_since = alive_since - interval '1 h'"  # noqa: S608
            f" WHERE id = {me};"
            " UPDATE novita.worker SET lease = '1 s',"
            f" alive_until = clock_timestamp() - interval '{age} s' WHERE id = {late};"
            f" PERFORM novita.beat_1({me}, 2.0); END $$",
        )
        (found,) = await run_sql(database, "SELECT ended FROM novita.worker WHERE id = $1", late)
        assert (found["ended"] is not None) is is_dead


# --- Planning while others work -----------------------------------------------------------------------------


async def test_what_a_killed_planner_has_asked_for_is_forgotten_with_it(database):
    url = new_batch(database)
    dead = await PostgresJournal.join(url, lease=3600.0)
    await dead.enqueue([asked(1), asked(1)])
    me = dead._store.member.me
    counted = (
        "SELECT sum(n) n FROM novita.asked JOIN novita.planning USING (batch, session) WHERE worker = $1"
    )
    assert [each["n"] for each in await run_sql(url, counted, me)] == [2]
    async with await PostgresJournal.join(url) as alive:
        await alive._store.link.once(lambda connection: alive._store.living.bury(me, connection))
    assert [each["n"] for each in await run_sql(url, counted, me)] == [None]
    kept = "SELECT FROM novita.asked JOIN novita.batch ON id = batch WHERE name = $1"
    assert await run_sql(url, kept, url.partition("#")[2]) == []
    dead._store.link.hang_up()


async def test_three_who_plan_the_same_at_once_make_no_row_twice(database):
    """Equal requests in one input are as many rows as there are of them."""
    url = new_batch(database)
    orders = [asked(number // 2, number) for number in range(60)]

    async def plan():
        async with await PostgresJournal.join(url) as journal:
            return sum([await journal.enqueue(orders[start : start + 7]) for start in range(0, 60, 7)])

    async with asyncio.TaskGroup() as group:
        planning = [group.create_task(plan()) for _ in range(3)]
    assert sum(each.result() for each in planning) == 60
    async with await PostgresJournal.open(url) as journal:
        rows = [each async for each in journal.where()]
    assert len({each.entry.name for each in rows}) == len({each.position for each in rows}) == len(rows) == 60
    kept = "SELECT FROM novita.asked JOIN novita.batch ON id = batch WHERE name = $1"
    assert await run_sql(url, kept, url.partition("#")[2]) == []


async def test_a_plan_whose_answer_was_lost_makes_no_row_twice(database):
    for alone in (True, False):
        url = new_batch(database)
        journal = await (PostgresJournal.open if alone else PostgresJournal.join)(url)
        async with journal:
            for piece in ([asked(1), asked(1)], [asked(1), asked(2)]):
                with cut_after_next_write(journal._store, "plan"):
                    planned = await journal.plan(piece)
                assert [each.entry.serial for each in planned][1] == (2 if piece[1] == asked(1) else 4)
            rows = [(each.entry.key[-1], each.entry.occurrence) async for each in journal.where()]
        assert rows == [("1", 0), ("1", 1), ("1", 2), ("2", 0)]


async def test_rows_that_were_taken_or_claimed_without_an_answer_are_handed_out_when_asked_again(database):
    url = new_batch(database)
    await InPostgres(url).plan(5)
    async with await PostgresJournal.join(url) as worker:
        held, ended = await worker.take(2)
        await tell(ended, fact(FailedForGood, loop_time()))
        worker._taken_to = 0  # so that what it holds comes after
        with cut_after_next_write(worker._store, "lease"):
            assert places(await worker.take(2)) == [2, 3]
        with cut_after_next_write(worker._store, "claim"):
            assert places(await worker.claim([ended])) == [1]
        assert places(await worker.take()) == [4]
        assert await worker.take() == []
        await tell(held, fact(FailedForGood, loop_time()))


async def test_a_plan_that_the_database_has_forgotten_is_refused_with_what_to_do(database):
    url = new_batch(database)
    async with await PostgresJournal.join(url) as journal:
        await journal.enqueue([asked(1)])
        await run_sql(url, "DELETE FROM novita.planning")  # unlogged: empty after a crash
        with pytest.raises(JournalError, match="plan the same input again, which finds what is planned"):
            await journal.enqueue([asked(1)])


async def test_a_row_that_is_planned_again_keeps_its_worker(database):
    url = new_batch(database)
    await InPostgres(url).plan(1)
    async with await PostgresJournal.join(url) as worker, await PostgresJournal.join(url) as planner:
        (taken,) = await worker.take()
        assert await planner.enqueue([asked(0), asked(5)]) == 1
        await worker.admit(taken, Announced(loop_time(), "a"), None)
        assert places(await worker.take()) == [1]


async def test_workers_of_one_url_share_its_batch_and_one_that_was_taken_for_dead_goes_on(database, tmp_path):
    url, simulation, ended = new_batch(database), service(workers=64, speed=100.0, latency=0.001), []
    (tmp_path / "dog.png").write_bytes(picture())
    async with await PostgresJournal.open(url) as journal:
        planner = BatchPlanner(endpoints=Endpoints())
        await journal.plan(await planner.orders(requests(20, image=tmp_path / "dog.png")))

    async def worker(*, dies):
        async with client_of(simulation) as (client, _):
            async with client.work(journal=url, save_to=tmp_path, in_flight=4, stall=1.5) as outcomes:
                async for outcome in outcomes:
                    ended.append(outcome)
                    if dies:
                        dies = False
                        await run_sql(
                            url,
                            "UPDATE novita.worker w SET ended = clock_timestamp() FROM novita.batch b"
                            " WHERE b.id = w.batch AND b.name = $1",
                            url.partition("#")[2],
                        )

    async with asyncio.TaskGroup() as group:
        group.create_task(worker(dies=True))
        group.create_task(worker(dies=False))
    async with await PostgresJournal.open(url) as journal:
        states = [each.state async for each in journal.where()]
    assert len(simulation.ledger.accepted) <= 20
    assert set(states) <= {State.SAVED, State.UNCERTAIN}
    assert sum(isinstance(each, Succeeded) for each in ended) == states.count(State.SAVED)


async def test_a_process_whose_computer_has_slept_sends_nothing_before_it_has_said_that_it_lives(
    database, monkeypatch
):
    """The loop's clock stood still meanwhile: others may have taken it for dead, and let go of its places."""
    async with await PostgresJournal.join(new_batch(database), lease=3600.0) as journal:
        assert journal.sends_until > loop_time()
        awake = member.asleep
        for name in ("member", "living"):
            monkeypatch.setattr(f"novita_async._journal.postgres.{name}.asleep", lambda: awake() + 3600.0)
        assert journal.sends_until <= loop_time()
        await journal.beat()
        assert journal.sends_until > loop_time()


def test_a_process_looks_after_the_others_when_a_lease_runs_out_and_not_much_more_often_than_that():
    assert pause_of(12.0, None) == 4.0
    assert pause_of(12.0, 8.0) == 4.0, "the other speaks again before that"
    assert pause_of(12.0, 1.0) == pytest.approx(1.01)
    assert pause_of(12.0, -3.0) == 0.5, "it cannot be called dead yet"


async def test_after_a_failover_nothing_is_complete_and_what_has_ended_is_claimed_once_all_have_spoken(
    database, monkeypatch
):
    """Until then a row that is missing may be one that was forgotten, and none is skipped."""
    url, resting = new_batch(database), "UPDATE novita.meta SET quiet_until = "
    async with await PostgresJournal.join(url, lease=3600.0) as journal:
        await journal.enqueue([asked(1)])
        for purchase in await journal.take():
            await tell(purchase, fact(FailedForGood, loop_time()))
        ended = [each async for each in journal.where(State.FAILED)]
        assert await journal.complete()
        await run_sql(url, f"{resting}'infinity'")
        over = partial(run_sql, url, f"{resting}'-infinity'")
        monkeypatch.setattr(PostgresJournal, "rest", lambda *_: over())
        try:
            assert not await journal.complete()
            assert places(await journal.claim(ended)) == [0]
        finally:
            await over()


async def test_a_fact_that_the_database_refuses_is_refused_alone(database):
    """Those that were told together with it are kept."""
    async with await PostgresJournal.open(new_batch(database), lease=3600.0) as journal:
        early, good, bad, last = await journal.plan([asked(number, number) for number in range(4)])
        announced, odd = Announced(loop_time(), "a"), Announced(loop_time(), "a", token=5)
        told = await asyncio.gather(
            journal.record(early, Saved(loop_time(), ())),
            journal.record(good, announced),
            journal.record(bad, odd),
            journal.record(last, announced),
            return_exceptions=True,
        )
        assert isinstance(told[0], IllegalTransition)
        assert [isinstance(each, Exception) for each in told] == [True, False, True, False]
        states = [each.state async for each in journal.where()]
        assert states == [State.PLANNED, State.ANNOUNCED, State.PLANNED, State.ANNOUNCED]


async def test_times_of_purchases_that_are_read_are_by_the_clock_of_whoever_reads(database):
    async with await PostgresJournal.open(new_batch(database), lease=3600.0) as journal:
        (purchase,) = await journal.plan([asked(1)])
        await journal.record(purchase, Announced(loop_time(), "a"))
        (there,) = [each async for each in journal.where()]
        journal._store.member.skew += 100.0
        (shifted,) = [each async for each in journal.where()]
        assert there.attempts[0].announced_at - shifted.attempts[0].announced_at == pytest.approx(100.0)


async def test_an_outage_is_told_to_all_who_told_something_together(database):
    """Nobody waits for the database once more."""
    async with await PostgresJournal.open(new_batch(database), lease=3600.0) as journal:
        purchases = await journal.plan([asked(number, number) for number in range(2)])
        link, url = journal._store.link, journal._store.link.url
        link.hang_up()
        link.url, link.outage_timeout = "postgresql://127.0.0.1:1/none", 0.0
        announced = Announced(loop_time(), "a")
        told = [
            *(journal.record(each, announced) for each in purchases),
            *(journal.plan([asked(n)]) for n in (7, 8)),
        ]
        found = await asyncio.gather(*told, return_exceptions=True)
        link.url = url
        assert ["cannot be reached" in str(each) for each in found] == [True] * 4


async def test_a_row_that_has_ended_is_nobodys_for_a_second_purchase_of_the_same_process_too(database):
    """A lost purchase that is found again is free: its process may take the row while it watches the task."""
    async with await PostgresJournal.join(new_batch(database)) as journal:
        await journal.plan([asked(1)])
        (purchase,) = await journal.take()
        purchase.wants_files = True
        await journal.admit(purchase, Announced(loop_time(), "a"), None)
        await journal.settle(purchase, Bought(loop_time(), task("t")))
        ends = Completed(loop_time(), result("t")), Saved(loop_time(), (Path("a.png"),))
        await journal.record(purchase, *ends)
        with pytest.raises(LeaseLost):
            await journal.record(purchase, ends[0])
        assert [each.state async for each in journal.where()] == [State.SAVED]
