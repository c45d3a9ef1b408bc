"""Clients that share a quota in a database, and keep no journal."""

import asyncio

import anyio
import pytest

from novita_async import Polling
from novita_async._journal.postgres.quota import PostgresQuota
from novita_async._purchase.machine import Announced, Bought, Lost, NotBought, Purchase
from novita_async._util.clock import loop_time
from novita_async.errors import ConfigurationError, JournalError, SubmissionUncertain
from novita_async.journal import Deferred, LeaseLost, PostgresJournal, SqliteJournal
from tests.helpers.journals import asked
from tests.helpers.postgres import new_batch, run_sql
from tests.helpers.purchases import ENDPOINT, fact, task
from tests.helpers.service import client_of, request, requests, service

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]
LONG = 3600.0


@pytest.fixture
async def url(database):
    await run_sql(database, "TRUNCATE novita.course")
    return database


def quota(url, images=None, told=None):
    return PostgresQuota(
        url, {"a": images}, lambda *news: told.append(news) if told is not None else None, lease=LONG
    )


def wanted(images=1):
    return Purchase(None, ENDPOINT, images)


async def places(shared, count, images=1):
    """So many ask at once; the places of those that got one."""
    asked = (shared.take(wanted(images), Announced(loop_time(), "a")) for _ in range(count))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(not isinstance(each, Exception) or isinstance(each, Deferred) for each in answers), answers
    return [each for each in answers if not isinstance(each, Exception)]


async def held(url):
    ((images,),) = await run_sql(url, 'SELECT held FROM novita."window"')
    return images


@pytest.mark.parametrize("images", [10, None])
async def test_two_processes_share_one_quota_whether_it_is_known_or_not(url, images):
    """Of an unknown one the first burst is ten."""
    first, second = quota(url, images), quota(url, images)
    taken = await places(first, 4), await places(second, 3), await places(first, 7)
    assert list(map(len, taken)) == [4, 3, 3]
    assert await places(first, 1) == []
    second.settle(taken[1][0], fact(NotBought, loop_time(), seen=False))
    second.settle(taken[1][1], Bought(loop_time(), task("paid")))
    await second._journal.beat()
    assert len(await places(first, 1)) == 1
    assert await held(url) == 10
    await first.aclose()
    await second.aclose()
    assert await held(url) == 10
    (left,) = await run_sql(url, "SELECT sum(images) images FROM novita.place")
    assert left["images"] == 0


async def test_a_call_whose_answer_was_lost_counts_once(url):
    shared = quota(url, 10)
    (one,) = await places(shared, 1)
    store = shared._journal._store
    for step in ("take", "settle"):
        connection, whole = store.link._connection, store.link._connection.fetchrow
        value = connection.fetchval

        async def cut(sql, *values, ask):
            answer = await ask(sql, *values)
            if "admit_1" in sql or "settle_1" in sql:
                raise ConnectionResetError
            return answer

        store.link._connection = _Cut(
            connection,
            lambda sql, *v, ask=whole: cut(sql, *v, ask=ask),
            lambda sql, *v, ask=value: cut(sql, *v, ask=ask),
        )
        if step == "take":
            assert len(await places(shared, 2)) == 2
            assert await held(url) == 3
        else:
            shared.settle(one, fact(NotBought, loop_time(), seen=False))
            await shared._journal.beat()
            assert await held(url) == 2
    await shared.aclose()


class _Cut:
    """A connection whose answers may be lost."""

    def __init__(self, whole, fetchrow, fetchval):
        self.fetchrow, self.fetchval = fetchrow, fetchval
        for name in ("fetch", "execute", "is_closed", "terminate"):
            setattr(self, name, getattr(whole, name))


async def test_what_a_dead_process_had_on_its_way_counts_for_a_window(url):
    dead, alive = quota(url, 10), quota(url, 10)
    await places(dead, 4)
    await places(alive, 1)
    journal = dead._journal
    journal._living.cancel()
    journal._store.link.hang_up()
    await run_sql(
        url,
        "UPDATE novita.worker SET alive_until = '-infinity', lease = '0' WHERE id = $1",
        journal._store.member.me,
    )
    alive._journal._store.member.lease = 0.0
    await alive._journal.beat()
    ((images,),) = await run_sql(url, "SELECT images FROM novita.slot")
    assert (images, await held(url)) == (4, 5)
    await alive.aclose()


@pytest.mark.parametrize("images", [10, None])
@pytest.mark.parametrize(
    "late",
    [lambda: Bought(loop_time(), task("late")), lambda: fact(NotBought, loop_time(), seen=False)],
    ids=["bought", "not sent"],
)
async def test_a_process_that_was_taken_for_dead_begins_anew(url, images, late):
    """Places of before count for a window, whatever is heard of them later, and beside those of now."""
    shared = quota(url, images)
    (one,) = await places(shared, 1)
    first = shared._journal
    await run_sql(url, "UPDATE novita.worker SET ended = now() WHERE id = $1", first._store.member.me)
    assert len(await places(shared, 2)) == 2
    anew = shared._journal
    first._store.member._alive_until = loop_time()
    assert one.sends_until <= loop_time() < shared.sends_until  # what is not sent by now never is
    await shared._leave(first)  # of one whose answer comes late
    assert shared._journal is anew is not first
    shared.settle(one, late())
    await shared._journal.beat()
    assert await held(url) == 3
    (on_way,) = await run_sql(url, "SELECT sum(images)::int images FROM novita.place")
    assert on_way["images"] == 2
    await shared.aclose()
    assert await held(url) == 3


async def test_a_process_that_is_taken_for_dead_as_often_as_it_begins_buys_nothing(url, monkeypatch):
    join, begun = PostgresJournal.join, []

    async def buried(*args, **options):
        begun.append(await join(*args, **options))
        await run_sql(url, "UPDATE novita.worker SET ended = now() WHERE id = $1", begun[-1]._store.member.me)
        return begun[-1]

    monkeypatch.setattr(PostgresJournal, "join", buried)
    shared = quota(url, 10)
    with pytest.raises(LeaseLost):
        await shared.take(wanted(), Announced(loop_time(), "a"))
    assert (len(begun), await held(url)) == (2, 0)
    await shared.aclose()


async def test_a_process_that_was_told_another_quota_buys_nothing(url):
    first, second = quota(url, 10), quota(url, 20)
    await places(first, 1)
    with pytest.raises(ConfigurationError, match="images_per_minute is 20 here, and 10 in a process"):
        await second.take(wanted(), Announced(loop_time(), "a"))
    assert await held(url) == 1
    await first.aclose()
    await second.aclose()


async def test_an_outage_reaches_the_others(url):
    told = []
    first, second = quota(url, 10), quota(url, 10, told)
    (one,) = await places(first, 1)
    await places(second, 1)
    first.settle(one, Lost(loop_time(), SubmissionUncertain(cause="a reset", endpoint=ENDPOINT)))
    await first._journal.beat()
    await second._journal.beat()
    ((account,), processes) = told[-1]
    assert account["cause"] == "uncertain"
    assert processes == 2
    await first.aclose()
    await second.aclose()


async def test_clients_with_a_quota_buy_through_its_windows_with_a_journal_or_without(url, tmp_path):
    simulation = service(speed=1000.0, latency=0.001, workers=64)
    options = {"polling": Polling.fixed(0.01), "images_per_minute": 9, "quota": url}
    async with client_of(simulation, **options) as (one, _), client_of(simulation, **options) as (two, _):
        each = request()
        await asyncio.gather(one.run(each), one.run(each), two.run(each), two.run(each))
        async with (
            await SqliteJournal.open(tmp_path / "run.db") as journal,
            one.batch(requests(3), journal=journal) as outcomes,
        ):
            assert len([each async for each in outcomes]) == 3
        assert await held(url) == 7
        with anyio.move_on_after(0.5):
            await two.submit(request())
            await two.submit(request())
            await two.submit(request())
    assert len(simulation.ledger.accepted) == 9


async def test_without_the_database_nothing_is_bought():
    simulation = service()
    async with client_of(simulation, quota="postgresql://127.0.0.1:9/x") as (client, _):
        client._quota._opening = asyncio.Lock()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("novita_async._journal.postgres.journal.BRIEFLY", 0.0)
            with pytest.raises(JournalError, match="cannot be reached"):
                await client.run(request())
    assert simulation.ledger.entries == []
    with pytest.raises(ConfigurationError, match="is no URL of a Postgres database"):
        async with client_of(simulation, quota="sqlite://x"):
            pass


async def test_a_quota_that_was_not_used_yet_or_whose_loop_was_left_holds_nothing_back(url):
    shared = quota(url, 10)
    assert shared.sends_until == float("inf")
    (one,) = await places(shared, 1)
    journal = shared._journal
    assert shared.sends_until == journal.sends_until > loop_time()
    shared.leave_loop()
    shared.settle(one, Bought(loop_time(), task("of another loop")))
    await shared.aclose()
    await journal.aclose()
    assert await held(url) == 1
    assert "None" in repr(shared)


@pytest.mark.parametrize("images", [10, None])
async def test_after_an_outage_one_of_many_is_the_probe(url, images):
    first, second = quota(url, images), quota(url, images)
    (one,) = await places(first, 1)
    first.settle(one, Lost(loop_time(), SubmissionUncertain(cause="a reset", endpoint=ENDPOINT)))
    await first._journal.beat()
    await run_sql(url, "UPDATE novita.account SET gate_until = 0")
    (probe,) = await places(second, 5)
    assert await places(first, 5) == []
    second.settle(probe, Bought(loop_time(), task("probe")))
    await second._journal.beat()
    assert len(await places(second, 5)) == 5
    await first.aclose()
    await second.aclose()


@pytest.mark.parametrize("alone", [True, False])
async def test_what_a_dead_process_of_another_batch_had_on_its_way_counts_for_a_window_and_no_longer(
    url, alone
):
    """Nobody comes back to that batch; whoever lives gives its rows away."""
    batch = new_batch(url)
    journal = await PostgresJournal.open(batch, quotas={"a": 10}, lease=LONG)
    if not alone:
        await journal.plan([asked(number, number, images=1) for number in range(3)])
        await journal.aclose()
        journal = await PostgresJournal.join(batch, quotas={"a": 10}, lease=LONG)
    rows = await (journal.plan([asked(n, n, images=1) for n in range(3)]) if alone else journal.take())
    for each in rows[:2]:
        await journal.admit(each, Announced(loop_time(), "a"), None)
    journal._living.cancel()
    journal._store.link.hang_up()
    alive = quota(url, 10)
    await places(alive, 1)
    sql = "UPDATE novita.worker SET alive_until = '-infinity', lease = '0' WHERE id = $1"
    await run_sql(url, sql, journal._store.member.me)
    alive._journal._store.member.lease = 0.0
    await alive._journal.beat()
    ((images,),) = await run_sql(url, "SELECT sum(images)::int FROM novita.slot")
    assert (images, await held(url)) == (2, 3)
    async with await PostgresJournal.join(batch, quotas={"a": 10}) as heir:
        assert [each.state.value async for each in heir.where()] == ["uncertain", "uncertain", "planned"]
        assert len(await heir.take()) == 1
    await alive.aclose()
