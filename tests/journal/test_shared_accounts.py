"""Processes that share a database share what they know of accounts, and the money of a batch."""

import asyncio
import json
from decimal import Decimal

import pytest

from novita_async import Budget, Polling
from novita_async._policy.pacing import Phase
from novita_async._policy.sharing import SharedWindow
from novita_async._purchase.machine import Announced, Bought, Lost, NotBought, State, advance
from novita_async._util.clock import loop_time
from novita_async.errors import (
    AuthenticationFailed,
    BudgetExhausted,
    ConfigurationError,
    RateLimited,
    SubmissionUncertain,
)
from novita_async.journal import Deferred, PostgresJournal
from tests.helpers.journals import asked
from tests.helpers.postgres import new_batch, run_sql
from tests.helpers.purchases import ENDPOINT, fact, task
from tests.helpers.service import client_of, requests, service

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]


@pytest.fixture
async def pair(database):
    """Two processes, each with a batch of its own; nothing is known of the account."""
    async with (
        await PostgresJournal.open(new_batch(database), lease=3600.0) as first,
        await PostgresJournal.open(new_batch(database), lease=3600.0) as second,
    ):
        yield first, second


async def places(journal, count, *, images=1, first=0, cost=None):
    """Purchases that got a place, of so many that ask at once."""
    orders = [asked(first + number, first + number, images=images) for number in range(count)]
    purchases = await journal.plan(orders)
    return [each for each in purchases if await admitted(journal, each, cost)]


async def admitted(journal, purchase, cost=None):
    announced = Announced(loop_time(), "a")
    try:
        await journal.admit(purchase, announced, cost)
    except Deferred:
        return False
    advance(purchase, announced)
    return True


async def learned(journal):
    (found,) = await run_sql(journal._store.link.url, 'SELECT state, held FROM novita."window"')
    shared = SharedWindow.read(ENDPOINT, found["state"])
    assert shared.window.taken == found["held"]
    return shared.window


# --- A quota that is not known ------------------------------------------------------------------------------


async def test_a_quota_that_is_not_known_is_searched_by_all_together(pair):
    """The first burst is that of one process, however many there are; each answer lets any of them go on."""
    first, second = pair
    bought = await places(first, 6) + await places(second, 6)
    assert len(bought) == 10
    for each in bought:
        await each.journal.settle(each, Bought(loop_time(), task(str(each.id))))
    assert len(await places(second, 12, first=50)) == 12
    window = await learned(first)
    assert (window.taken, window.unanswered) == (22, 12)


async def test_a_refusal_teaches_all(pair):
    first, second = pair
    bought = await places(first, 9)
    for each in bought[1:]:
        await first.settle(each, Bought(loop_time(), task(str(each.id))))
    error = RateLimited(status=429, reason="", message="")
    await first.settle(bought[0], NotBought(loop_time(), error))
    window = await learned(second)
    assert (window.phase, window.limit, window.taken) == (Phase.GUESSED, 8, 8)
    window.look_at += 3600  # beyond what is known to fit, however long all this has taken
    await run_sql(
        first._store.link.url, 'UPDATE novita."window" SET state = $1', SharedWindow(ENDPOINT, window).text()
    )
    await run_sql(first._store.link.url, "UPDATE novita.account SET gate_until = 0")
    assert not await places(second, 1)


async def test_places_are_exact_where_processes_ask_at_the_same_time(pair):
    first, _ = pair
    rows = [await journal.plan([asked(n, n, images=1) for n in range(20)]) for journal in pair]
    answers = await asyncio.gather(*(admitted(each.journal, each) for batch in rows for each in batch))
    assert sum(answers) == 10
    assert (await learned(first)).unanswered == 10


async def test_what_the_dead_had_on_its_way_counts_for_a_minute_and_teaches_nothing(pair, database):
    url = new_batch(database)
    dead = await PostgresJournal.open(url, lease=3600.0)
    await places(dead, 3)
    dead._closed = True
    dead._living.cancel()
    dead._store.link.hang_up()
    await run_sql(
        url,
        "UPDATE novita.worker SET alive_until = '-infinity', lease = '0' WHERE id = $1",
        dead._store.member.me,
    )
    async with await PostgresJournal.open(url) as heir:
        window = await learned(heir)
        assert (heir.uncertain_at_opening, window.taken, window.unanswered) == (3, 3, 0)


async def test_a_quota_that_one_was_told_counts_for_all(pair, database):
    first, _ = pair
    bought, *_ = await places(first, 4)
    await first.settle(bought, Bought(loop_time(), task("x")))
    # While they are at work they could not be told otherwise.
    await run_sql(database, "UPDATE novita.worker SET alive_until = '-infinity'")
    async with await PostgresJournal.open(new_batch(database), quotas={"a": 5}) as told:
        assert len(await places(told, 3)) == 1
        (found,) = await run_sql(database, 'SELECT held, state FROM novita."window"')
        assert tuple(found) == (5, None)
    assert len(await places(first, 2, first=90)) == 0


# --- A quota that is known ----------------------------------------------------------------------------------


@pytest.fixture
async def knowing(database):
    """Two processes that know the quota of the account: eight images."""
    options = {"lease": 3600.0, "quotas": {"a": 8}}
    async with (
        await PostgresJournal.open(new_batch(database), **options) as first,
        await PostgresJournal.open(new_batch(database), **options) as second,
    ):
        for each in await places(first, 8):
            await first.settle(each, Bought(loop_time(), task(str(each.id))))
        yield first, second


async def test_who_stands_in_line_keeps_its_place_and_holds_nobody_back_who_needs_another(knowing, database):
    """Until it asks again, which may be a while."""
    first, second = knowing
    (heavy,) = await second.plan([asked(0, 0, images=5)])
    assert not await admitted(second, heavy)
    await run_sql(database, "UPDATE novita.waiting SET expires = 'infinity'")
    await run_sql(database, "UPDATE novita.slot SET until = until - 3600")
    assert len(await places(first, 5, first=50)) == 3
    assert await admitted(second, heavy)


async def test_a_refusal_tells_each_in_line_its_part_of_the_places_that_there_will_be(
    knowing, database, monkeypatch
):
    monkeypatch.setattr("novita_async._journal.postgres.admitting.LINE", 7200.0)
    await run_sql(database, "DELETE FROM novita.slot")
    await run_sql(database, 'INSERT INTO novita.slot SELECT id, novita.now() + 600, 8 FROM novita."window"')
    told = []
    for journal in knowing:
        (light,) = await journal.plan([asked(90, 90, images=1)])
        with pytest.raises(Deferred) as refused:
            await journal.admit(light, Announced(loop_time(), "a"), None)
        told.append(refused.value.places)
    assert told == [8, 3]  # the second leaves the first in line its place, and half of the rest


# --- Health -------------------------------------------------------------------------------------------------


def lost(at):
    return Lost(at, SubmissionUncertain(cause="a reset", endpoint=ENDPOINT))


async def test_an_outage_closes_an_account_to_all_and_one_probe_opens_it(pair):
    first, second = pair
    told = []
    second.on_health(lambda accounts, processes: told.append((accounts, processes)))
    one, two, late = await places(first, 3)
    await first.settle(one, lost(loop_time()))
    ((pause,),) = await run_sql(first._store.link.url, "SELECT gate_until - tripped_at FROM novita.account")
    assert 0.37 < pause <= 0.5
    await run_sql(first._store.link.url, "UPDATE novita.account SET gate_until = novita.now() + 3600")
    assert not await places(second, 1)
    ((account,), processes) = told[-1]
    assert (account["label"], account["cause"]) == ("a", "uncertain")
    assert 0 < account["gate"] <= 3600
    assert processes >= 2
    await first.settle(two, lost(loop_time()))  # sent before that trip: no news
    ((trips,),) = await run_sql(first._store.link.url, "SELECT trips FROM novita.account")
    assert trips == 1
    await run_sql(first._store.link.url, "UPDATE novita.account SET gate_until = 0")
    (probe,) = await places(second, 3, first=20)
    assert not await places(first, 1, first=30)
    await second.settle(probe, Bought(loop_time(), task("probe")))
    assert len(await places(first, 1, first=40)) == len(await places(second, 1, first=40)) == 1
    await first.settle(late, fact(NotBought, loop_time(), seen=False))
    await second.beat()
    assert told[-1][0] == []


async def test_a_probe_that_was_not_sent_leaves_its_turn_to_another(pair):
    first, second = pair
    (one,) = await places(first, 1)
    await first.settle(one, lost(loop_time()))
    await run_sql(first._store.link.url, "UPDATE novita.account SET gate_until = 0")
    (probe,) = await places(second, 1)
    await second.settle(probe, fact(NotBought, loop_time(), seen=False))
    assert len(await places(first, 1, first=5)) == 1


@pytest.mark.parametrize("left", [True, False])
async def test_a_probe_of_a_process_that_has_died_leaves_its_turn_to_another(pair, database, left):
    first, second = pair
    (one,) = await places(first, 1)
    await first.settle(one, lost(loop_time()))
    await run_sql(database, "UPDATE novita.account SET gate_until = 0")
    assert len(await places(second, 1)) == 1
    assert not await places(first, 1, first=5)
    await run_sql(
        database,
        "UPDATE novita.worker SET ended = CASE WHEN $1 THEN now() END, alive_until = '-infinity'"
        " WHERE id = (SELECT prober FROM novita.account)",
        left,
    )
    assert len(await places(first, 1, first=6)) == 1


async def test_an_account_that_was_taken_out_is_out_for_all(pair):
    first, second = pair
    told = []
    second.on_health(lambda accounts, _: told.extend(accounts))
    (one,) = await places(first, 1)
    await first.settle(one, NotBought(loop_time(), AuthenticationFailed(status=401, reason="", message="")))
    assert not await places(second, 1)
    assert (told[-1]["label"], json.loads(told[-1]["error"])["kind"]) == ("a", "AuthenticationFailed")
    assert 30 < told[-1]["out"] <= 60
    await run_sql(first._store.link.url, "UPDATE novita.account SET out_until = 0")
    (trial,) = await places(second, 2, first=10)
    await second.settle(trial, Bought(loop_time(), task("trial")))
    assert len(await places(first, 1, first=20)) == 1


async def test_a_process_that_begins_tries_an_account_that_is_out_itself(pair, database):
    """A key or a balance that was mended a moment ago is not refused for what another was told before."""
    first, _ = pair
    (one,) = await places(first, 1)
    await first.settle(one, NotBought(loop_time(), AuthenticationFailed(status=401, reason="", message="")))
    async with await PostgresJournal.open(new_batch(database), quotas={"a": None}) as begun:
        told = []
        begun.on_health(lambda accounts, _: told.extend(accounts))
        await begun.beat()
        assert told[-1]["out"] <= 0
        (trial,) = await places(begun, 2, first=10)
        await begun.settle(trial, Bought(loop_time(), task("trial")))
    assert len(await places(first, 1, first=20)) == 1


# --- Money --------------------------------------------------------------------------------------------------


async def test_a_budget_is_exact_however_many_buy(database, pair):
    url = new_batch(database)
    async with await PostgresJournal.open(url) as planner:
        await planner.plan([asked(number, number, images=1 + number % 8) for number in range(40)])
    joined = [await PostgresJournal.join(url, quotas={"b": None}) for _ in range(3)]
    await joined[0].set_budget(Decimal(30), Decimal(1))
    spent = []

    async def buy(journal, purchase):
        announced = Announced(loop_time(), f"account {purchase.position % 7}")
        try:
            await journal.admit(purchase, announced, Decimal(purchase.images))
        except (Deferred, BudgetExhausted):
            return
        advance(purchase, announced)
        await journal.settle(purchase, Bought(loop_time(), task(str(purchase.id))))
        spent.append(purchase.images)

    taken = [(journal, each) for journal in joined for each in await journal.take(14)]
    await asyncio.gather(*(buy(journal, each) for journal, each in taken))
    (row,) = await run_sql(
        url, "SELECT spent, reserved FROM novita.budget WHERE batch = $1", joined[0]._store.member.batch
    )
    assert tuple(row) == (sum(spent), 0)
    assert 22 < sum(spent) <= 30
    with pytest.raises(ConfigurationError, match="the budget is 99 here, and 30 in a process"):
        await joined[1].set_budget(Decimal(99))
    await run_sql(url, "UPDATE novita.budget SET spent = 0 WHERE batch = $1", joined[0]._store.member.batch)
    await joined[1].set_budget(Decimal(30))
    (row,) = await run_sql(
        url, "SELECT spent FROM novita.budget WHERE batch = $1", joined[0]._store.member.batch
    )
    assert row["spent"] == sum(spent)
    for each in joined:
        await each.aclose()


async def test_what_was_bought_while_nobody_told_a_price_is_priced_once_and_counts(pair):
    first, _ = pair
    one, two = await places(first, 2)
    await first.settle(one, Bought(loop_time(), task("one")))
    await first.settle(two, Bought(loop_time(), task("two")))
    unpriced = [each.entry.serial for each in await first.unpriced()]
    assert len(unpriced) == 2
    await first.price({unpriced[0]: Decimal("0.25")})
    assert [each.entry.serial for each in await first.unpriced()] == unpriced[1:]
    await first.price(dict.fromkeys(unpriced, Decimal(1)))
    await first.set_budget(Decimal(9))
    sql = "SELECT spent FROM novita.budget WHERE batch = $1"
    assert [
        each["spent"] for each in await run_sql(first._store.link.url, sql, first._store.member.batch)
    ] == [Decimal("1.25")]


@pytest.mark.parametrize("price", [1, lambda each: Decimal(each.image_num)], ids=["per image", "per request"])
async def test_a_budget_counts_what_the_batch_has_bought_before_anyone_told_a_price(pair, price):
    simulation = service(speed=1000.0, latency=0.001, workers=64)
    quick, (journal, _) = {"polling": Polling.fixed(0.01)}, pair
    async with (
        client_of(simulation, **quick) as (client, _),
        client.batch(requests(2), journal=journal) as all_,
    ):
        assert len([each async for each in all_]) == 2
    async with client_of(simulation, budget=Budget(limit=3, price=price), **quick) as (client, _):
        with pytest.raises(BudgetExhausted):
            async with client.batch(requests(5), journal=journal) as outcomes:
                async for _ in outcomes:
                    pass
    assert len(simulation.ledger.accepted) == 3


# --- A failover ---------------------------------------------------------------------------------------------


async def test_what_a_failover_has_forgotten_is_said_again_before_anyone_buys(database, pair):
    """The database goes back to what it was: an announcement and an answer are missing."""
    url, account = new_batch(database), f"of {new_batch(database)}"
    async with await PostgresJournal.open(url, quotas={account: 9}, lease=3600.0) as journal:
        one, two, three = await journal.plan([asked(number, number, images=2) for number in range(3)])
        await journal.set_budget(Decimal(100))
        before = await run_sql(
            url, "SELECT * FROM novita.course WHERE batch = $1", journal._store.member.batch
        )
        for each in (one, two):
            await journal.admit(each, Announced(loop_time(), account), Decimal(2))
        await journal.settle(one, Bought(loop_time(), task("one")))
        columns = list(before[0].keys())
        await run_sql(url, "DELETE FROM novita.course WHERE batch = $1", journal._store.member.batch)
        for row in before:
            marks = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
            names = ", ".join(f'"{name}"' for name in columns)
            await run_sql(url, f"INSERT INTO novita.course ({names}) VALUES ({marks})", *row.values())  # noqa: S608
        await run_sql(url, 'UPDATE novita."window" SET held = 0 WHERE account = $1', account)
        await run_sql(url, "UPDATE novita.budget SET spent = 0, reserved = 0")
        await run_sql(url, "UPDATE novita.meta SET timeline = 'another', quiet_until = '-infinity'")
        with pytest.raises(Deferred):  # nobody buys now
            await journal.admit(three, Announced(loop_time(), account), Decimal(2))
        await journal.beat()
        assert [each.state async for each in journal.where()] == [
            State.SUBMITTED,
            State.ANNOUNCED,
            State.PLANNED,
        ]
        (held,) = await run_sql(url, 'SELECT held FROM novita."window" WHERE account = $1', account)
        (money,) = await run_sql(
            url, "SELECT spent, reserved FROM novita.budget WHERE batch = $1", journal._store.member.batch
        )
        assert (held["held"], *money) == (4, 2, 2)
        await run_sql(url, "UPDATE novita.meta SET quiet_until = '-infinity'")
        await journal.settle(two, Bought(loop_time(), task("two")))
        await journal.admit(three, Announced(loop_time(), account), Decimal(2))
