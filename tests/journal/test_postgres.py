"""A journal in Postgres keeps every promise of a journal, and lets one process at a time have a batch."""

import asyncio
import math
import sys
from decimal import Decimal
from functools import partial
from types import SimpleNamespace

import asyncpg
import pytest
from asyncpg import (
    CheckViolationError,
    DeadlockDetectedError,
    DiskFullError,
    LockNotAvailableError,
    PostgresIOError,
    TransactionTimeoutError,
)
from attrs import define

from novita_async import Polling
from novita_async._journal.postgres import upgrading
from novita_async._journal.postgres.journal import upgrade, want_place
from novita_async._journal.postgres.schema.versions import MIGRATIONS, VERSION
from novita_async._journal.postgres.texts import escaped, unescaped
from novita_async._policy.sharing import SharedWindow
from novita_async._purchase.machine import (
    Announced,
    Bought,
    Lost,
    NotBought,
    State,
    advance,
)
from novita_async._util.clock import loop_time
from novita_async.errors import (
    BudgetExhausted,
    ConfigurationError,
    JournalError,
    RateLimited,
    SubmissionUncertain,
)
from novita_async.journal import Deferred, LeaseLost, PostgresJournal
from novita_async.testing.conformance import CHECKS
from tests.helpers.journals import asked, usual_way
from tests.helpers.postgres import cut_after_next_write, forget_others, new_batch, run_sql
from tests.helpers.purchases import ENDPOINT, fact, task
from tests.helpers.service import client_of, requests, service

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]
LONG = 3600.0
"""Seconds: a lease or a window that runs out only where a test says so."""


async def fall_silent(journal):
    """Leave a journal as a process does that is killed."""
    journal._closed = True
    left = [task for task in (journal._living, journal._carrying) if task]
    for each in left:
        each.cancel()
    await asyncio.wait(left)
    journal._store.link.hang_up()


async def run_out(journal):
    """Let the lease of a journal's process run out."""
    sql = "UPDATE novita.worker SET alive_until = '-infinity', lease = '0' WHERE id = $1"
    await run_sql(journal._store.link.url, sql, journal._store.member.me)


async def die(journal):
    """Be killed, and let the lease run out."""
    await fall_silent(journal)
    await run_out(journal)


@define
class InPostgres:
    url: str

    async def open(self):
        return await PostgresJournal.open(self.url)

    async def crash(self, journal):
        await die(journal)


@pytest.fixture
async def url(database):
    """A batch that nobody has used; accounts are well, and windows are empty."""
    return new_batch(database)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_postgres_keeps_a_promise(check, url):
    await check(InPostgres(url))


# --- Whose a batch is ---------------------------------------------------------------------------------------


@pytest.fixture
def waits(monkeypatch):
    """What happens while a journal waits for a lease to run out, instead of seconds."""
    asked_for = []

    async def wait(seconds):
        asked_for.append(seconds)
        await waits.meanwhile()

    async def nothing():
        pass

    waits = SimpleNamespace(asked_for=asked_for, meanwhile=nothing)
    monkeypatch.setattr("novita_async._journal.postgres.journal.sleep", wait)
    return waits


async def test_a_batch_that_a_living_process_has_open_is_refused(url, waits):
    async with await PostgresJournal.open(url, lease=LONG) as journal:
        waits.meanwhile = journal.beat
        with pytest.raises(JournalError, match=r"another process has it open: nothing was sent"):
            await PostgresJournal.open(url)
    assert LONG / 2 < waits.asked_for[0] <= LONG + 0.01


async def test_a_batch_is_taken_over_once_the_lease_of_a_dead_process_runs_out(url, waits):
    journal = await PostgresJournal.open(url, lease=LONG)
    (purchase,) = await journal.plan([asked(1)])
    await journal.admit(purchase, Announced(loop_time(), "a"), None)
    await fall_silent(journal)
    waits.meanwhile = lambda: run_out(journal)
    async with await PostgresJournal.open(url) as heir:
        assert (heir.run, heir.uncertain_at_opening, len(waits.asked_for)) == (2, 1, 1)


async def taken_over(url):
    """A process that was taken for dead, with a purchase on its way; and its heir."""
    old = await PostgresJournal.open(url)
    (purchase,) = await old.plan([asked(1)])
    announced = Announced(loop_time(), "a")
    await old.admit(purchase, announced, None)
    advance(purchase, announced)
    await run_out(old)
    return old, purchase, await PostgresJournal.open(url)


async def test_the_id_of_a_paid_task_counts_although_its_process_was_taken_for_dead(url):
    old, purchase, heir = await taken_over(url)
    with pytest.raises(LeaseLost, match="another process has this batch") as lost:
        await old.settle(purchase, Bought(loop_time(), task("paid")))
    assert lost.value.task_id == "paid"
    (found,) = [each async for each in heir.where()]
    assert (found.state, found.task.task_id) == (State.SUBMITTED, "paid")
    await old.aclose()
    await heir.aclose()


async def test_a_process_that_was_taken_for_dead_can_neither_announce_nor_record_nor_plan(url):
    old, purchase, heir = await taken_over(url)
    (other,) = await heir.plan([asked(2)])
    lost = SubmissionUncertain(cause="a reset", endpoint=ENDPOINT)
    for tell in (
        lambda: old.settle(purchase, Lost(loop_time(), lost)),
        lambda: old.admit(other, Announced(loop_time(), "a"), None),
        lambda: old.plan([asked(3)]),
        old.new_run,
        old.beat,
    ):
        with pytest.raises(LeaseLost):
            await tell()
    assert [each.state async for each in heir.where()] == [State.UNCERTAIN, State.PLANNED]
    await old.aclose()
    await heir.aclose()


@pytest.mark.parametrize("verdicts", [0, 1])
async def test_announcements_wait_for_a_verdict_to_go_with_and_go_alone_where_none_comes(
    url, verdicts, monkeypatch
):
    monkeypatch.setattr("novita_async._journal.postgres.journal._COMPANY", 60.0 if verdicts else 0.01)
    async with await PostgresJournal.open(url, quotas={"a": 9}) as journal:
        first, *others = await journal.plan([asked(n, n) for n in range(3)])
        await journal.admit(first, Announced(loop_time(), "a"), None)
        journal._company, journal._wrote_at = 9.0, loop_time()  # many have told something of late
        before = journal._store.member.commits
        announcing = [
            asyncio.create_task(journal.admit(p, Announced(loop_time(), "a"), None)) for p in others
        ]
        if verdicts:
            await asyncio.sleep(0.01)
            assert journal._store.member.commits == before
            await journal.settle(first, Bought(loop_time(), task("paid")))
        await asyncio.gather(*announcing)
        assert journal._store.member.commits == before + 1
        assert (await journal.summary()).rows[State.ANNOUNCED] == 3 - verdicts


async def test_a_task_id_counts_also_where_its_row_moves_meanwhile(url):
    old, purchase, heir = await taken_over(url)
    await old._store.link.once(lambda connection: old._store.rows.by_serial(connection, [1]))
    (row,) = old._store.rows.known.values()
    row.moves -= 1
    with pytest.raises(LeaseLost):
        await old.settle(purchase, Bought(loop_time(), task("paid")))
    assert [each.task.task_id async for each in heir.where()] == ["paid"]
    with pytest.raises(LeaseLost):  # another fact that cannot be
        await old.record(purchase, Announced(loop_time(), "a"))
    await old.aclose()
    await heir.aclose()


async def test_a_process_that_has_ended_for_the_others_announces_nothing(url):
    async with await PostgresJournal.open(url) as journal:
        (purchase,) = await journal.plan([asked(1)])
        await run_sql(
            url, "UPDATE novita.worker SET ended = clock_timestamp() WHERE id = $1", journal._store.member.me
        )
        with pytest.raises(LeaseLost):
            await journal.admit(purchase, Announced(loop_time(), "a"), None)


async def test_a_process_that_was_taken_for_dead_and_lost_its_connection_leaves_without_an_error(url):
    async with await PostgresJournal.join(url) as journal:
        await run_sql(url, "UPDATE novita.worker SET ended = now() WHERE id = $1", journal._store.member.me)
        await journal._store.link._connection.close()
    assert "closed" in repr(journal)


async def test_a_row_that_has_moved_is_read_again(url):
    async with await PostgresJournal.open(url) as journal:
        (purchase,) = await journal.plan([asked(1)])
        for each in usual_way(loop_time()):
            await run_sql(
                url,
                "UPDATE novita.course SET moves = moves + 1 WHERE batch = $1",
                journal._store.member.batch,
            )
            await (
                journal.admit(purchase, each, None)
                if type(each) is Announced
                else journal.record(purchase, each)
            )
        assert (await journal.summary()).rows[State.SAVED] == 1


async def test_a_row_that_moves_while_places_are_given_is_looked_at_again_and_counts_once(url):
    """A trigger stands for the other process, which is first once."""
    async with await PostgresJournal.open(url, quotas={"a": 10}) as journal:
        purchases = await journal.plan([asked(number, number, images=1) for number in range(3)])
        await run_sql(url, "CREATE SEQUENCE tries")
        await run_sql(
            url,
            "CREATE FUNCTION first_once() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN IF nextval('tries') = 2 THEN RETURN NULL; END IF; RETURN new; END $$",
        )
        await run_sql(
            url,
            "CREATE TRIGGER other BEFORE UPDATE ON novita.course FOR EACH ROW EXECUTE FUNCTION first_once()",
        )
        try:
            await asyncio.gather(
                *(journal.admit(each, Announced(loop_time(), "a"), None) for each in purchases)
            )
        finally:
            await run_sql(url, "DROP TRIGGER other ON novita.course")
            await run_sql(url, "DROP FUNCTION first_once")
            await run_sql(url, "DROP SEQUENCE tries")
        assert [each.state async for each in journal.where()] == [State.ANNOUNCED] * 3
        assert (await run_sql(url, 'SELECT held FROM novita."window"'))[0]["held"] == 3


async def test_only_so_many_rows_are_remembered(url, monkeypatch):
    monkeypatch.setattr("novita_async._journal.postgres.fenced_rows._REMEMBERED", 2)
    async with await PostgresJournal.open(url) as journal:
        purchases = await journal.plan([asked(number) for number in range(5)])
        assert len(journal._store.rows.known) == 2
        for each in purchases:
            await journal.record(each, *usual_way(loop_time()))
        assert (await journal.summary()).rows[State.SAVED] == 5


async def test_what_a_process_had_leased_is_given_away_by_another_that_lives(database, url):
    """Opening a batch alone buries its dead."""
    journal = await PostgresJournal.open(url)
    one, two = await journal.plan([asked(1), asked(2)])
    await run_sql(
        url,
        "UPDATE novita.course SET owner = $1 WHERE batch = $2",
        journal._store.member.me,
        journal._store.member.batch,
    )
    journal._store.rows.known.clear()
    await journal.admit(one, Announced(loop_time(), "a"), None)
    await die(journal)
    async with await PostgresJournal.open(url) as heir:
        assert heir.uncertain_at_opening == 1
        assert [each.state async for each in heir.where()] == [State.UNCERTAIN, State.PLANNED]
        owners = await run_sql(
            url, "SELECT owner, free FROM novita.course WHERE batch = $1", heir._store.member.batch
        )
        assert [tuple(each) for each in owners] == [(None, False), (None, True)]
    assert repr(heir).startswith("<PostgresJournal postgresql://postgres@/postgres?host=")
    assert "closed" in repr(heir)
    assert two.state is State.PLANNED


# --- Together with others -----------------------------------------------------------------------------------


async def planned(url, count):
    async with await PostgresJournal.open(url) as journal:
        await journal.plan([asked(number, number) for number in range(count)])


def serials(purchases):
    return [each.entry.serial for each in purchases]


async def test_no_row_is_taken_by_two_and_what_is_given_back_is_taken_again(url):
    await planned(url, 10)
    first, second = await PostgresJournal.join(url), await PostgresJournal.join(url)
    assert serials(await first.take(4)) == [1, 2, 3, 4]
    assert serials(await second.take(4)) == [5, 6, 7, 8]
    assert serials(await second.take(4)) == [9, 10]
    assert await first.take() == []
    assert not await first.complete()
    await second.aclose()
    assert serials(await first.take(6)) == [5, 6, 7, 8, 9, 10]
    assert await first.take() == []
    assert await first.complete()
    await first.aclose()


async def test_what_has_ended_is_nobodys(url):
    await planned(url, 2)
    async with await PostgresJournal.join(url) as journal:
        done, _ = await journal.take()
        done.wants_files = True
        for each in usual_way(loop_time()):
            await (journal.admit(done, each, None) if type(each) is Announced else journal.record(done, each))
        rows = await run_sql(
            url,
            "SELECT owner, free FROM novita.course WHERE batch = $1 ORDER BY serial",
            journal._store.member.batch,
        )
        assert [tuple(each) for each in rows] == [(None, False), (journal._store.member.me, False)]


async def test_the_dead_are_buried_by_those_who_have_lived_for_a_whole_lease(url):
    await planned(url, 3)
    dead = await PostgresJournal.join(url, lease=LONG)
    announced, *_ = await dead.take(2)
    await dead.admit(announced, Announced(loop_time(), "a"), None)
    await die(dead)
    async with await PostgresJournal.join(url, lease=LONG) as alive:
        await alive.beat()
        assert serials(await alive.take()) == [3]
        alive._store.member.lease = 0.0  # the server of the tests has not run for hours
        await alive.beat()
        assert serials(await alive.take()) == [2]
        assert [each.state async for each in alive.where()] == [State.UNCERTAIN, *[State.PLANNED] * 2]


async def test_a_batch_that_a_process_has_to_itself_cannot_be_joined_nor_the_other_way(url, waits):
    async with await PostgresJournal.open(url, lease=LONG):
        with pytest.raises(JournalError, match="another process has it open"):
            await PostgresJournal.join(url)
    async with await PostgresJournal.join(url, lease=LONG):
        with pytest.raises(JournalError, match="another process has it open"):
            await PostgresJournal.open(url)


async def test_a_process_that_was_taken_for_dead_takes_nothing(url):
    await planned(url, 1)
    async with await PostgresJournal.join(url) as journal:
        await run_sql(
            url, "UPDATE novita.worker SET ended = clock_timestamp() WHERE id = $1", journal._store.member.me
        )
        with pytest.raises(LeaseLost):
            await journal.take()


# --- Windows ------------------------------------------------------------------------------------------------


async def places(journal, count, *, images=1, first=0):
    """Ask for places for so many requests at once: those that got one, and those that must wait."""
    orders = [asked(first + number, first + number, images=images) for number in range(count)]
    purchases = await journal.plan(orders)
    answers = await asyncio.gather(
        *(journal.admit(each, Announced(loop_time(), "a"), None) for each in purchases),
        return_exceptions=True,
    )
    deferred = [each for each in answers if isinstance(each, Deferred)]
    assert all(each is None or isinstance(each, Deferred) for each in answers), answers
    return [each for each, answer in zip(purchases, answers, strict=True) if answer is None], deferred


async def test_two_batches_share_the_window_of_their_account(database, url):
    first = await PostgresJournal.open(new_batch(database), quotas={"a": 10})
    second = await PostgresJournal.open(new_batch(database), quotas={"a": 10})
    async with first, second:
        granted = [*(await places(first, 6))[0], *(await places(second, 6))[0]]
        assert len(granted) == 10


async def test_a_place_is_held_for_a_window_after_the_answer(url):
    async with await PostgresJournal.open(url, quotas={"a": 2}, window=LONG) as journal:
        (one, two), _ = await places(journal, 2)
        ((began,),) = await run_sql(url, "SELECT novita.now()")
        await journal.settle(one, Bought(loop_time(), task("one")))
        (late,) = await journal.plan([asked(9)])
        with pytest.raises(Deferred):
            await journal.admit(late, Announced(loop_time(), "a"), None)
        ((until, now),) = await run_sql(url, "SELECT until, novita.now() FROM novita.slot")
        assert began + LONG <= until <= now + LONG + 0.05
        await run_sql(url, "UPDATE novita.slot SET until = novita.now()")
        await journal.admit(late, Announced(loop_time(), "a"), None)
        assert (await run_sql(url, 'SELECT held FROM novita."window"'))[0]["held"] == 2
        assert two.state is State.PLANNED


async def test_a_place_that_the_service_never_saw_comes_back_at_once(url):
    async with await PostgresJournal.open(url, quotas={"a": 1}) as journal:
        (one,), _ = await places(journal, 1)
        await journal.settle(one, fact(NotBought, loop_time(), seen=False))
        assert len((await places(journal, 1, first=5))[0]) == 1


async def bought_beside(journal, paid, wanted, account="a"):
    """Tell at the same time that one was bought and another is to be announced; the second answer."""
    announced = Announced(loop_time(), account)
    verdict = Bought(loop_time(), task(str(paid.id)))
    _, answer = await asyncio.gather(
        journal.settle(paid, verdict), journal.admit(wanted, announced, None), return_exceptions=True
    )
    return answer


@pytest.mark.parametrize("quota", [9, None])
async def test_a_verdict_goes_along_in_the_commit_of_the_next_announcement(url, quota):
    async with await PostgresJournal.open(url, quotas={"a": quota}, window=LONG) as journal:
        paid, wanted = await journal.plan([asked(0, 0), asked(1, 1)])
        await journal.admit(paid, Announced(loop_time(), "a"), None)
        before = journal._store.member.commits
        assert await bought_beside(journal, paid, wanted) is None
        assert journal._store.member.commits == before + 1
        assert [each.state async for each in journal.where()] == [State.SUBMITTED, State.ANNOUNCED]
        assert (await run_sql(url, 'SELECT held FROM novita."window"'))[0][
            "held"
        ] == paid.images + wanted.images


@pytest.mark.parametrize("quota", [9, None])
async def test_a_verdict_whose_slot_is_settled_already_is_written_beside_others(url, quota):
    async with await PostgresJournal.open(url, quotas={"a": quota}, window=LONG) as journal:
        one, two, wanted = await journal.plan([asked(number, number) for number in range(3)])
        await journal.admit(one, Announced(loop_time(), "a"), None)
        await journal.new_run()  # which settles the slot of what was under way
        await journal.admit(two, Announced(loop_time(), "a"), None)
        await asyncio.gather(
            journal.settle(one, Bought(loop_time(), task("1"))),
            journal.settle(two, Bought(loop_time(), task("2"))),
            journal.admit(wanted, Announced(loop_time(), "a"), None),
        )
        states = [each.state async for each in journal.where()]
        assert states == [State.SUBMITTED, State.SUBMITTED, State.ANNOUNCED]


async def test_the_dead_are_buried_also_where_a_row_that_has_moved_was_heard_of_first(url):
    other = await PostgresJournal.join(url, lease=LONG)
    async with await PostgresJournal.join(url, lease=LONG) as journal:
        await journal.plan([asked(number, number) for number in range(3)])
        (mine,) = await journal.take(1)
        (theirs,) = await other.take(1)
        await journal.admit(mine, Announced(loop_time(), "a"), None)
        await die(other)
        journal._store.member.lease = 0.0  # the server of the tests has not run for hours
        await run_sql(url, "UPDATE novita.course SET moves = moves + 1 WHERE serial = $1", mine.entry.serial)
        await journal.settle(mine, Bought(loop_time(), task("1")))
        await journal.beat()
        sql = "SELECT owner, free FROM novita.course WHERE serial = $1 AND batch = $2"
        (row,) = await run_sql(url, sql, theirs.entry.serial, journal._store.member.batch)
        assert (row["owner"], row["free"]) == (None, True)


async def test_what_touches_two_windows_goes_in_two_commits(url):
    async with await PostgresJournal.open(url, quotas={"a": 1, "b": 1}, window=LONG) as journal:
        paid, wanted = await journal.plan([asked(0, 0), asked(1, 1)])
        await journal.admit(paid, Announced(loop_time(), "a"), None)
        assert await bought_beside(journal, paid, wanted, "b") is None
        assert [each.state async for each in journal.where()] == [State.SUBMITTED, State.ANNOUNCED]


async def test_a_verdict_is_written_where_its_window_has_no_place_for_another(url, monkeypatch):
    async with await PostgresJournal.open(url, quotas={"a": None}, window=LONG) as journal:
        paid, wanted = await journal.plan([asked(0, 0), asked(1, 1)])
        await journal.admit(paid, Announced(loop_time(), "a"), None)
        monkeypatch.setattr(SharedWindow, "take", lambda *_: math.inf)
        assert isinstance(await bought_beside(journal, paid, wanted), Deferred)
        assert [each.state async for each in journal.where()] == [State.SUBMITTED, State.PLANNED]


async def test_a_window_that_another_has_taught_meanwhile_is_taught_again_with_the_announcement(
    database, url
):
    first = await PostgresJournal.open(url, quotas={"a": None}, window=LONG)
    second = await PostgresJournal.open(new_batch(database), quotas={"a": None}, window=LONG)
    async with first, second:
        paid, wanted = await first.plan([asked(0, 0), asked(1, 1)])
        await first.admit(paid, Announced(loop_time(), "a"), None)
        (other,) = await second.plan([asked(2)])
        await second.admit(other, Announced(loop_time(), "a"), None)
        assert await bought_beside(first, paid, wanted) is None
        assert [each.state async for each in first.where()] == [State.SUBMITTED, State.ANNOUNCED]
        ((held,),) = await run_sql(url, 'SELECT held FROM novita."window"')
        assert held == paid.images + wanted.images + other.images


async def test_a_row_that_has_moved_holds_up_what_a_window_learns_and_is_read_again(url):
    async with await PostgresJournal.open(url, quotas={"a": None}, window=LONG) as journal:
        paid, wanted = await journal.plan([asked(0, 0), asked(1, 1)])
        await journal.admit(paid, Announced(loop_time(), "a"), None)
        await run_sql(url, "UPDATE novita.course SET moves = moves + 1 WHERE serial = $1", paid.entry.serial)
        assert await bought_beside(journal, paid, wanted) is None
        assert [each.state async for each in journal.where()] == [State.SUBMITTED, State.ANNOUNCED]


async def test_plans_and_questions_that_are_told_together_are_answered_each(url):
    async with await PostgresJournal.open(url) as journal:
        many = [asked(number, number) for number in range(1000)]
        (one,), found, (again,), rest = await asyncio.gather(
            journal.plan([asked(1, 1)]),
            journal.find([asked(5000)]),
            journal.plan([asked(1, 2)]),
            journal.plan(many),
        )
        assert found == [None]
        assert (one.entry.serial, again.entry.serial) == (1, 2)
        assert [each.entry.position for each in rest] == list(range(1000))


async def test_of_plans_told_together_those_refused_raise_an_error_each_and_the_others_are_made(
    url,
):
    async with await PostgresJournal.open(url) as journal:
        far, near, farther = await asyncio.gather(
            journal.plan([asked(1, 2**31)]),
            journal.plan([asked(2, 2)]),
            journal.plan([asked(3, 2**31)]),
            return_exceptions=True,
        )
        assert isinstance(far, Exception)
        assert isinstance(farther, Exception)
        assert far is not farther
        assert [each.entry.position async for each in journal.where()] == [2]
        assert [each.entry.position for each in near] == [2]


async def test_a_429_closes_the_window_to_all(database, url):
    first = await PostgresJournal.open(new_batch(database), quotas={"a": 10})
    second = await PostgresJournal.open(new_batch(database), quotas={"a": 10})
    async with first, second:
        (one,), _ = await places(first, 1)
        error = RateLimited(status=429, reason="", message="", retry_after=LONG)
        await first.settle(one, NotBought(loop_time(), error))
        granted, (deferred,) = await places(second, 1)
        assert granted == []
        assert LONG / 2 < deferred.until - loop_time() <= LONG


async def test_a_heavy_request_is_not_overtaken_by_light_ones_of_another_process(database, url):
    first = await PostgresJournal.open(new_batch(database), quotas={"a": 8})
    second = await PostgresJournal.open(new_batch(database), quotas={"a": 8})
    async with first, second:
        (one,), _ = await places(first, 1)
        assert await places(second, 1, images=8) != ([], [])
        await run_sql(database, "UPDATE novita.waiting SET expires = 'infinity'")
        assert (await places(first, 1, first=5))[0] == []
        await first.settle(one, fact(NotBought, loop_time(), seen=False))
        (heavy,) = await second.plan([asked(50, images=8)])
        await second.admit(heavy, Announced(loop_time(), "a"), None)


async def test_two_processes_that_were_told_different_quotas_are_refused(database, url):
    first = await PostgresJournal.open(new_batch(database), quotas={"a": 10})
    second = await PostgresJournal.open(new_batch(database), quotas={"a": 20})
    async with first, second:
        await places(first, 1)
        (one,) = await second.plan([asked(1)])
        with pytest.raises(ConfigurationError, match="images_per_minute is 20 here, and 10 in a process"):
            await second.admit(one, Announced(loop_time(), "a"), None)
        await first.aclose()
        assert await second.admit(one, Announced(loop_time(), "a"), None) is None


async def test_processes_that_begin_together_with_another_quota_than_those_before_them_may_buy(database):
    """Each finds the others at work; none of them uses the window with the old quota."""
    before = await PostgresJournal.open(new_batch(database), quotas={"a": 10})
    async with before:
        await places(before, 1)
    first = await PostgresJournal.open(new_batch(database), quotas={"a": 20})
    second = await PostgresJournal.open(new_batch(database), quotas={"a": 20})
    async with first, second:
        assert len((await places(first, 15))[0]) == 15
        assert len((await places(second, 6))[0]) == 4


async def test_what_a_dead_process_had_on_its_way_keeps_its_place(url):
    journal = await PostgresJournal.open(url, quotas={"a": 3})
    await places(journal, 2)
    await die(journal)
    async with await PostgresJournal.open(url, quotas={"a": 3}) as heir:
        granted, deferred = await places(heir, 3, first=10)
        assert (len(granted), len(deferred)) == (1, 2)
        assert (await run_sql(url, "SELECT sum(images)::int n FROM novita.slot"))[0]["n"] == 2


# --- Money --------------------------------------------------------------------------------------------------


async def test_a_budget_is_spent_to_the_image_and_reserved_money_comes_back(url):
    async with await PostgresJournal.open(url) as journal:
        await run_sql(
            url, 'INSERT INTO novita.budget (batch, "limit") VALUES ($1, 3)', journal._store.member.batch
        )
        purchases = await journal.plan([asked(number, images=1) for number in range(4)])

        async def admit(purchase):
            await journal.admit(purchase, Announced(loop_time(), "a"), Decimal(1))

        for each in purchases[:3]:
            await admit(each)
        with pytest.raises(Deferred):
            await admit(purchases[3])
        await journal.settle(purchases[0], fact(NotBought, loop_time()))
        await admit(purchases[3])
        for each in purchases[1:]:
            await journal.settle(each, Bought(loop_time(), task(str(each.position))))
        with pytest.raises(BudgetExhausted, match="1 more would exceed the budget of 3, of which 3 is spent"):
            await admit(purchases[0])


# --- Batches ------------------------------------------------------------------------------------------------


async def test_a_batch_with_a_url_buys_saves_and_resumes(url, tmp_path):
    """Nothing is bought again, and the quota is the database's."""
    simulation = service(speed=1000.0, latency=0.001, workers=64)
    for _ in range(2):
        async with client_of(simulation, polling=Polling.fixed(0.01), images_per_minute=50) as (
            client,
            _events,
        ):
            async with client.batch(requests(6), journal=url, save_to=tmp_path) as outcomes:
                done = [each async for each in outcomes]
        assert [len(each.paths) for each in done] == [1] * 6
    assert len(simulation.ledger.accepted) == 6
    (found,) = await run_sql(url, 'SELECT quota, held FROM novita."window"')
    assert tuple(found) == (50, 6)


# --- Connections that break ---------------------------------------------------------------------------------


async def test_a_commit_whose_answer_was_lost_is_read_back_and_not_written_again(url):
    async with await PostgresJournal.open(url) as journal:
        (purchase,) = await journal.plan([asked(1)])
        for each in usual_way(loop_time()):
            with cut_after_next_write(journal._store):
                if isinstance(each, Announced):
                    await journal.admit(purchase, each, None)
                else:
                    await journal.record(purchase, each)
            advance(purchase, each)
        (found,) = [each async for each in journal.where()]
        assert (found.state, found.attempt) == (State.SAVED, 1)
        ((moves,),) = await run_sql(
            url, "SELECT moves FROM novita.course WHERE batch = $1", journal._store.member.batch
        )
        assert moves == 4


@pytest.mark.parametrize("meanwhile", ["full", "quiet"])
async def test_an_announcement_whose_answer_was_lost_is_found_where_there_would_be_no_place_for_it_now(
    url, meanwhile
):
    """It has taken the last place of a window that is learned; or a failover keeps all from buying."""
    await forget_others(url)
    async with await PostgresJournal.open(url) as journal:
        (purchase,) = await journal.plan([asked(1, images=10)])
        with cut_after_next_write(journal._store, "admit"):
            if meanwhile == "quiet":
                journal._store.link.come_back = partial(make_quiet, url)
            await journal.admit(purchase, Announced(loop_time(), "a"), None)
        await run_sql(url, "UPDATE novita.meta SET quiet_until = '-infinity'")
        await journal.settle(purchase, Bought(loop_time(), task("one")))
        assert [each.task.task_id async for each in journal.where()] == ["one"]


async def make_quiet(url, _):
    """Let nobody buy, as after a failover."""
    await run_sql(url, "UPDATE novita.meta SET quiet_until = 'infinity'")


async def test_who_only_looks_goes_on_looking_after_a_connection_broke_and_counts_as_nobody(url):
    await (await PostgresJournal.open(url)).aclose()
    async with await PostgresJournal.look(url) as journal:
        link = journal._store.link
        whole = link._connection

        async def broken(*_):
            raise ConnectionResetError

        link._connection = SimpleNamespace(fetch=broken, is_closed=whole.is_closed, terminate=whole.terminate)
        assert (await journal.summary()).total == 0
        assert await journal.at_work() == []


async def test_a_refusal_whose_answer_was_lost_is_read_back(url):
    """Told again it would be illegal: the purchase is planned again."""
    async with await PostgresJournal.open(url) as journal:
        (purchase,) = await journal.plan([asked(1)])
        await journal.admit(purchase, Announced(loop_time(), "a"), None)
        with cut_after_next_write(journal._store):
            await journal.settle(purchase, fact(NotBought, loop_time()))
        assert [each.state async for each in journal.where()] == [State.PLANNED]
        await journal.admit(purchase, Announced(loop_time(), "a"), None)
        assert [each.attempt async for each in journal.where()] == [2]


async def test_what_was_answered_before_a_connection_broke_is_not_done_again(url):
    async with await PostgresJournal.open(url) as journal:
        one, two = await journal.plan([asked(1), asked(2)])
        await journal.admit(one, Announced(loop_time(), "a"), None)
        with cut_after_next_write(journal._store, "move"):
            await asyncio.gather(
                journal.admit(two, Announced(loop_time(), "a"), None),
                journal.settle(one, Bought(loop_time(), task("one"))),
            )
        assert [each.state async for each in journal.where()] == [State.SUBMITTED, State.ANNOUNCED]
        assert [each.attempt async for each in journal.where()] == [1, 1]


async def test_a_deadlock_is_tried_again_and_another_refusal_is_told(url):
    async with await PostgresJournal.open(url) as journal:
        raised = [DeadlockDetectedError("deadlock"), CheckViolationError("no such thing")]

        async def refused(connection):
            raise raised.pop(0)

        with pytest.raises(JournalError, match="no such thing"):
            await journal._store.link.once(refused)


@pytest.mark.parametrize(
    "trouble", [DiskFullError, PostgresIOError, LockNotAvailableError, TransactionTimeoutError]
)
async def test_an_answer_waits_for_a_database_that_has_no_room_or_a_lock_that_lasts(url, trouble):
    async with await PostgresJournal.open(url) as journal:
        (purchase,) = await journal.plan([asked(1)])
        await journal.admit(purchase, Announced(loop_time(), "a"), None)
        connection = journal._store.link._connection

        async def refused(sql, *values):
            raise trouble("not now")

        journal._store.link._connection = SimpleNamespace(
            fetch=refused, fetchrow=refused, is_closed=lambda: False, terminate=connection.terminate
        )
        await journal.settle(purchase, Bought(loop_time(), task("one")))
        assert [each.task.task_id async for each in journal.where()] == ["one"]


async def test_an_outage_of_the_database_is_told_to_the_log_when_it_lasts_and_when_it_is_over(
    url, caplog, monkeypatch
):
    monkeypatch.setattr("novita_async._journal.postgres.connection.TELL_AFTER", -1.0)
    async with await PostgresJournal.open(url) as journal:
        raised = [ConnectionResetError("gone"), ConnectionResetError("still gone")]

        async def outage(connection):
            if raised:
                raise raised.pop(0)

        await journal._store.link.once(outage)
    told = [each.message.partition(f"#{url.partition('#')[2]}: ")[2] for each in caplog.records]
    assert told == ["it cannot be reached (gone); nothing is bought until it is back", "it is back"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "postgresql://me:se#cret@127.0.0.1:9/x",
            "this is no URL of a database: nothing was bought; give post",
        ),
        ("postgresql://127.0.0.1:9/x?sslmode=odd", "`sslmode` parameter must be one of"),
    ],
)
async def test_a_url_that_cannot_be_used_is_told_without_a_wait_and_without_its_password(url, words):
    with pytest.raises(ConfigurationError, match=words) as refused:
        await PostgresJournal.open(url)
    assert "cret" not in str(refused.value)


async def test_what_a_database_refuses_is_told_with_what_to_do(database):
    with pytest.raises(JournalError, match=r'"nowhere" does not exist.* make the database'):
        await PostgresJournal.open(database.replace("/postgres?", "/nowhere?"))
    await run_sql(database, "DROP ROLE IF EXISTS stranger")
    await run_sql(database, "CREATE ROLE stranger LOGIN")
    with pytest.raises(JournalError, match=r"permission denied.* grants USAGE ON SCHEMA novita"):
        await PostgresJournal.open(database.replace("postgres@", "stranger@"))


async def test_of_several_servers_the_one_that_may_be_written_is_used(url):
    both = url.replace("?host=", "?host=/nowhere,") + "#several"
    async with await PostgresJournal.open(both) as journal:
        assert await journal.plan([asked(1)])


async def test_what_is_confirmed_outlives_a_crash_also_where_the_database_is_set_to_forget_it(url):
    async with await PostgresJournal.open(url) as journal:
        connection = journal._store.link._connection
        await connection.execute("BEGIN")

        (purchase,) = await journal.plan([asked(1)])
        for step in (
            lambda: journal.plan([asked(2)]),
            lambda: journal.admit(purchase, Announced(loop_time(), "a"), None),
            lambda: journal.settle(purchase, Bought(loop_time(), task("one"))),
        ):
            await connection.execute("SET LOCAL synchronous_commit = off")
            await step()
            assert await connection.fetchval("SHOW synchronous_commit") == "on", step
        await connection.execute("COMMIT")


async def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "novita_async._journal.postgres.store", None)
    with pytest.raises(ConfigurationError, match=r'pip install "novita-async\[postgres\]"'):
        await PostgresJournal.open("postgresql://x")


async def test_a_database_that_stays_away_is_told_with_advice_and_no_password():
    with pytest.raises(
        JournalError, match=r"journal postgresql://me@127.0.0.1:9/x#b: it cannot be reached"
    ) as e:
        await PostgresJournal.open("postgresql://me:secret@127.0.0.1:9/x#b", outage_timeout=0.1)
    assert "secret" not in str(e.value)


async def test_a_database_without_tables_says_how_they_are_made(database):
    await run_sql(database, "DROP DATABASE IF EXISTS bare")
    await run_sql(database, "CREATE DATABASE bare")
    bare = database.replace("/postgres?", "/bare?")
    with pytest.raises(JournalError, match="novita-async db upgrade 'postgresql:"):
        await PostgresJournal.open(bare)
    assert await upgrade(bare) == (0, VERSION)
    assert await upgrade(bare) == (VERSION, VERSION)
    await (await PostgresJournal.open(bare)).aclose()


async def test_an_upgrade_that_falls_silent_does_not_hold_up_the_next(database, monkeypatch):
    silent, holds = await asyncpg.connect(database), asyncio.Event()

    async def never(_):
        holds.set()
        await asyncio.Event().wait()

    stopped = SimpleNamespace(transaction=silent.transaction, execute=silent.execute, fetchval=never)
    with monkeypatch.context() as briefly:
        briefly.setattr(upgrading, "_SILENCE", "50ms")
        upgrade_of_it = asyncio.create_task(upgrading.upgrade(stopped, "it"))
        await holds.wait()
    async with asyncio.timeout(60):
        assert await upgrade(database) == (VERSION, VERSION)
    upgrade_of_it.cancel()
    await asyncio.gather(upgrade_of_it, return_exceptions=True)


async def test_a_version_that_adds_to_the_one_before_leaves_its_workers_at_work(database, monkeypatch):
    await run_sql(database, "DROP DATABASE IF EXISTS rolled")
    await run_sql(database, "CREATE DATABASE rolled")
    url = database.replace("/postgres?", "/rolled?")
    await upgrade(url)
    journal = await PostgresJournal.open(url)
    (purchase,) = await journal.plan([asked(1)])
    with monkeypatch.context() as newer:
        added = (*MIGRATIONS, "alter table novita.course add column mood text")
        newer.setattr("novita_async._journal.postgres.upgrading.MIGRATIONS", added)
        newer.setattr("novita_async._journal.postgres.upgrading.VERSION", len(added))
        with pytest.raises(JournalError, match="older release: nothing was bought; run: novita-async db upg"):
            await PostgresJournal.open(f"{url}#other")
        assert await upgrade(url) == (VERSION, VERSION + 1)
        await (await PostgresJournal.open(f"{url}#other")).aclose()
    await journal.admit(purchase, Announced(loop_time(), "a"), None)
    await journal.aclose()
    (row,) = await run_sql(url, "SELECT state, mood FROM novita.course")
    assert tuple(row) == ("uncertain", None)
    assert await upgrade(url) == (VERSION + 1, VERSION + 1)


async def test_tables_that_shut_a_release_out_stop_its_buying_and_keep_what_it_has_bought(database):
    """At its next sign of life; an upgrade by the older release says so, too."""
    await run_sql(database, "DROP DATABASE IF EXISTS shut")
    await run_sql(database, "CREATE DATABASE shut")
    url = database.replace("/postgres?", "/shut?")
    await upgrade(url)
    async with await PostgresJournal.join(url, quotas={"a": 9}) as journal:
        await journal.plan([asked(1), asked(2), asked(3)])
        one, two = await journal.take(2)
        announced = Announced(loop_time(), "a")
        await journal.admit(one, announced, None)
        advance(one, announced)
        await run_sql(url, "UPDATE novita.meta SET version = $1, oldest_reader = $1", VERSION + 1)
        await journal.beat()
        refused = "newer release: nothing more is bought; install a newer novita-async"
        with pytest.raises(JournalError, match=refused):
            await journal.admit(two, announced, None)
        with pytest.raises(JournalError, match=refused):
            await journal.take(1)
        with pytest.raises(JournalError, match=refused):
            await want_place(journal, "a", ENDPOINT, 1).answer
        with pytest.raises(JournalError, match=refused):
            await upgrade(url)
        await journal.settle(one, Bought(loop_time(), task("one")))
    found = await run_sql(url, "SELECT state FROM novita.course ORDER BY serial")
    assert [each["state"] for each in found] == ["submitted", "planned", "planned"]


async def _rows_read(url):
    """Rows of all batches that were read by the way of an index, or without one."""
    await run_sql(url, "SELECT pg_stat_force_next_flush()")
    (found,) = await run_sql(
        url,
        "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int AS n FROM pg_stat_user_tables"
        " WHERE relname IN ('request', 'course')",
    )
    return found["n"]


async def test_no_step_reads_the_other_rows_of_a_batch_that_statistics_do_not_know(database, url):
    async with await PostgresJournal.open(new_batch(database)) as earlier:
        await earlier.enqueue([asked(n, n) for n in range(300)])
    await run_sql(database, "ANALYZE novita.request, novita.course")
    async with await PostgresJournal.open(url) as journal:
        await journal.enqueue([asked(n, n) for n in range(300)])
    async with await PostgresJournal.join(url) as journal:
        before = await _rows_read(database)
        taken = await journal.take(20)
        for purchase in taken:
            await journal.admit(purchase, Announced(loop_time(), "a"), None)
            await journal.settle(purchase, Bought(loop_time(), task(str(purchase.id))))
        await journal._ask(lambda connection: connection.fetchval("SELECT pg_stat_force_next_flush()"))
        assert await _rows_read(database) - before < 40 * len(taken)


@pytest.mark.parametrize(("version", "oldest", "word"), [(0, 1, "older release"), (9, 9, "newer release")])
async def test_tables_of_another_release_are_refused(database, version, oldest, word):
    there = await run_sql(database, "SELECT version, oldest_reader FROM novita.meta")
    change = "UPDATE novita.meta SET version = $1, oldest_reader = $2"
    await run_sql(database, change, version, oldest)
    try:
        with pytest.raises(JournalError, match=word):
            await PostgresJournal.open(new_batch(database))
    finally:
        await run_sql(database, change, *there[0])


def test_texts_that_postgres_cannot_keep_come_back():
    odd = "a\x00b\ue000c\ud800 \U0001f415 plain"
    assert unescaped(escaped(odd)) == odd
    assert escaped("plain 🐕") == "plain 🐕"
    escaped(odd).encode()
