"""Quotas, lines, priorities and health, as the server and the users see them."""

import asyncio

import anyio
import pytest

from novita_async import (
    Account,
    BalanceExhausted,
    ConfigurationError,
    NoAnswer,
    NotSent,
    NovitaClient,
    ServerError,
    Succeeded,
    TaskNotFound,
    events,
)
from novita_async._policy.breaker import BreakerState
from novita_async._purchase.machine import LOST, REJECTED, SEEN, SPENT, UNREACHED, UNSEEN
from novita_async._submit.pool import SessionPool
from novita_async.testing import Fault, FaultPlan, FaultRule
from tests.helpers.service import client_of, facts_of, of_kind, request, requests, service

pytestmark = pytest.mark.anyio


async def drain(client, many, **options):
    async with client.stream(many, **options) as outcomes:
        return [outcome async for outcome in outcomes]


@pytest.mark.parametrize("quota", ["sliding", "fixed"])
async def test_a_known_quota_is_never_exceeded_and_never_refused(quota):
    simulation = service(images_per_minute=10, quota=quota, workers=20, latency=0.3, latency_jitter=1.0)
    async with client_of(simulation, images_per_minute=10) as (client, _):
        got = await drain(client, requests(60))
    assert all(isinstance(outcome, Succeeded) for outcome in got)
    assert simulation.ledger.refused == []
    assert simulation.ledger.most_images_in(60) <= 10


async def test_the_quota_counts_images_and_a_heavy_request_is_not_starved():
    simulation = service(images_per_minute=10, workers=20)
    many = [*requests(20), request(image_num=8, seed=99), *requests(20)]
    async with client_of(simulation, images_per_minute=10) as (client, _):
        await drain(client, many)
    assert simulation.ledger.refused == []
    order = [entry.images for entry in simulation.ledger.accepted]
    assert 18 <= order.index(8) <= 22


async def test_an_unknown_quota_is_found_and_nothing_is_lost():
    simulation = service(images_per_minute=10, workers=20)
    async with client_of(simulation) as (client, _):
        got = await drain(client, requests(120))
        (account,) = client.statistics().pool.accounts
    assert all(isinstance(outcome, Succeeded) for outcome in got)
    assert len(simulation.ledger.accepted) == 120
    assert len(simulation.ledger.refused) <= 40
    assert account.pacing.windows[0].images_per_minute == 10


async def test_waiting_for_the_quota_is_told():
    async with client_of(service(images_per_minute=10), images_per_minute=10) as (client, seen):
        await drain(client, requests(12))
    waits = of_kind(seen, events.Paced)
    assert waits
    assert all(0 < wait.delay <= 61 for wait in waits)


async def test_one_429_makes_the_whole_account_wait():
    plan = FaultPlan.listed("submit", {1: Fault.answer(429, retry_after=30)})
    simulation = service(faults=plan, latency=0.0)
    async with client_of(simulation, images_per_minute=100) as (client, _):
        await drain(client, requests(1))
        await drain(client, requests(20))
    at = [entry.at for entry in simulation.ledger.entries]
    assert at[1] - at[0] == pytest.approx(30)


async def test_a_request_that_asks_again_after_a_429_has_one_task_in_the_end():
    plan = FaultPlan.of(FaultRule(fault=Fault.answer(429), on="submit", chance=0.3))
    simulation = service(faults=plan)
    async with client_of(simulation) as (client, _):
        got = await drain(client, requests(100))
    assert all(isinstance(outcome, Succeeded) for outcome in got)
    assert len(simulation.ledger.accepted) == 100


async def test_two_accounts_have_two_quotas_and_polls_stick_to_the_one_that_paid():
    simulation = service(api_keys=("one", "two"), images_per_minute=10, workers=50)
    accounts = [Account(api_key=key, label=key, images_per_minute=10) for key in ("one", "two")]
    async with client_of(simulation, accounts=accounts) as (client, seen):
        got = await drain(client, requests(40))
    paid = {task.task_id: task.account for task in (event.task for event in facts_of(seen, events.Bought))}
    assert anyio.current_time() < 2 * 60 + 30
    assert {label: list(paid.values()).count(label) for label in ("one", "two")} == {"one": 20, "two": 20}
    assert all(
        isinstance(outcome, Succeeded) and outcome.task.account == paid[outcome.task_id] for outcome in got
    )
    assert simulation.ledger.refused == []


async def test_an_account_that_stays_refused_is_told_of_once_and_costs_one_request_a_minute():
    simulation = service(api_keys=("good",), images_per_minute=10, workers=50)
    accounts = [Account(api_key=key, label=key, images_per_minute=10) for key in ("bad", "good")]
    async with client_of(simulation, accounts=accounts) as (client, seen):
        got = await drain(client, requests(60))
    announced = [event.account for event in facts_of(seen, events.Announced)]
    assert all(isinstance(outcome, Succeeded) for outcome in got)
    assert [event.account for event in of_kind(seen, events.AccountDisabled)] == ["bad"]
    assert announced.count("bad") <= 10 + anyio.current_time() // 60


async def test_an_account_that_was_topped_up_is_found_well_by_one_request_for_all():
    empty = b'{"reason": "NOT_ENOUGH_BALANCE"}'
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.answer(403, empty)}), latency=1.0)
    async with client_of(simulation, images_per_minute=100) as (client, seen):
        with pytest.raises(BalanceExhausted):
            await client.submit(request())
        await anyio.sleep(61)
        async with anyio.create_task_group() as tasks:
            for seed in range(5):
                tasks.start_soon(client.submit, request(seed=seed))
    at = sorted(entry.at for entry in simulation.ledger.accepted)
    assert len(at) == 5
    assert at[1] - at[0] >= 1.0  # the others wait for its answer
    assert len(of_kind(seen, events.AccountDisabled)) == 1


async def test_a_purchase_from_before_an_account_was_taken_out_does_not_bring_it_back():
    empty = b'{"reason": "NOT_ENOUGH_BALANCE"}'
    plan = FaultPlan.listed("submit", {1: Fault.slow(5.0), 2: Fault.answer(403, empty)})
    accounts = [Account(api_key="sk_simulator", label="a"), Account(api_key="sk_other", label="b")]
    simulation = service(api_keys=("sk_simulator", "sk_other"), faults=plan, latency=0.1, latency_jitter=0)
    async with client_of(simulation, accounts=accounts) as (client, _), anyio.create_task_group() as tasks:
        tasks.start_soon(client.submit, request(seed=1))
        tasks.start_soon(client.submit, request(seed=2))
        await anyio.sleep(10)
        errors = [account.error for account in client.statistics().pool.accounts]
    assert [type(error) for error in errors] == [BalanceExhausted, type(None)]
    assert len(simulation.ledger.accepted) == 2


async def test_a_key_that_is_given_twice_has_one_quota_and_is_refused():
    accounts = [Account(api_key="sk_one", label="a"), Account(api_key="Bearer sk_one", label="b")]
    with pytest.raises(ConfigurationError, match="the key of 'b' was given before") as caught:
        NovitaClient(accounts=accounts)
    assert "sk_one" not in str(caught.value)


async def test_an_interactive_request_goes_before_a_running_batch():
    simulation = service(images_per_minute=10, workers=50)
    async with (
        client_of(simulation, images_per_minute=10) as (client, _),
        client.stream(requests(200)) as batch,
    ):
        for _ in range(10):
            await anext(batch)
        await client.run(request(prompt="now", seed=1))
        before = [entry.request["request"]["prompt"] for entry in simulation.ledger.accepted]
    assert before.index("now") <= 12


async def test_a_batch_request_of_its_own_waits_in_line():
    simulation = service(images_per_minute=10, workers=50)
    async with (
        client_of(simulation, images_per_minute=10) as (client, _),
        client.stream(requests(40), in_flight=40) as batch,
        anyio.create_task_group() as tasks,
    ):
        await anext(batch)
        tasks.start_soon(lambda: client.submit(request(prompt="later"), priority="batch"))
        async for _ in batch:
            pass
    prompts = [entry.request["request"]["prompt"] for entry in simulation.ledger.accepted]
    assert prompts.index("later") == 40


async def test_a_request_that_is_cancelled_in_line_leaves_the_line_to_others():
    simulation = service(images_per_minute=10, workers=50)
    async with client_of(simulation, images_per_minute=10) as (client, _):
        await drain(client, requests(10))
        with anyio.move_on_after(5):
            await client.submit(request(image_num=8))
        await client.submit(request(seed=1))
        assert client.statistics().pool.waiting == 0
    assert [entry.images for entry in simulation.ledger.accepted] == [1] * 11


async def test_connections_that_fail_hold_no_quota():
    plan = FaultPlan.of(FaultRule(fault=Fault.refuse(), on="submit", numbers=range(1, 30)))
    simulation = service(images_per_minute=10, faults=plan)
    async with client_of(simulation, images_per_minute=10) as (client, _):
        got = await drain(client, requests(10))
    assert all(isinstance(outcome, Succeeded) for outcome in got)
    spread = [entry.at for entry in simulation.ledger.accepted]
    assert spread[-1] - spread[0] < 60


# --- what attempts and polls end in

IMG2IMG = "/v3/async/img2img"


def pool_of(*labels, polls_per_second=100.0):
    return SessionPool.of([Account(api_key=f"sk-{label}", label=label) for label in labels], polls_per_second)


def window_of(pool, index=0):
    return pool.statistics().accounts[index].pacing.windows[0]


@pytest.mark.parametrize(
    ("settlement", "taken", "cause"),
    [
        (SPENT, 1, None),
        (SEEN, 1, None),
        (UNSEEN, 0, None),
        (REJECTED, 0, "rate limited"),
        (LOST, 1, "uncertain"),
        (UNREACHED, 0, "unreachable"),
    ],
)
async def test_slot_and_breaker_follow_from_what_an_attempt_ended_in(settlement, taken, cause):
    pool = pool_of("a")
    permit = await pool.acquire(IMG2IMG, 1)
    notice = pool.settle(permit, settlement, anyio.current_time(), jitter=0.5)
    assert window_of(pool).taken == taken
    assert window_of(pool).unanswered == 0
    assert pool.statistics().sending == 0
    if cause is None:
        assert notice is None
    else:
        assert (notice.account, notice.endpoint, notice.cause, notice.trips) == ("a", IMG2IMG, cause, 1)
        assert 0.25 < notice.after < 0.5


async def test_a_permit_is_settled_once():
    pool = pool_of("a")
    permit = await pool.acquire(IMG2IMG, 1)
    pool.settle(permit, SPENT, 0.0)
    with pytest.raises(ValueError, match="settled before"):
        pool.settle(permit, SPENT, 0.0)


async def test_what_an_account_of_another_client_sent_takes_no_slot_here():
    pool, now = pool_of("a"), anyio.current_time()
    pool.restore("of another client", IMG2IMG, [(now, now, 5)])
    pool.restore("a", IMG2IMG, [(now, now, 3)])
    assert window_of(pool).taken == 3


async def test_those_in_line_who_do_not_wait_for_ever_are_told_of_an_outage_that_begins_later():
    pool = pool_of("a")
    slots = [await pool.acquire(IMG2IMG, 1) for _ in range(10)]
    gave_up = []

    async def wait(max_outage):
        with pytest.raises(NotSent):
            await pool.acquire(IMG2IMG, 1, max_outage=max_outage)
        gave_up.append((max_outage, anyio.current_time()))

    async with anyio.create_task_group() as tasks:
        for max_outage in (20.0, 10.0):
            tasks.start_soon(wait, max_outage)
        await anyio.sleep(100)
        pool.settle(slots[0], UNREACHED, anyio.current_time(), retry_after=600.0)
    assert [(most, pytest.approx(at)) for most, at in gave_up] == [(10.0, 110.0), (20.0, 120.0)]


async def test_a_probe_that_is_answered_closes_the_breaker_and_says_so():
    pool = pool_of("a")
    began_at = anyio.current_time()
    pool.settle(await pool.acquire(IMG2IMG, 1), UNREACHED, began_at, retry_after=7.0)
    permit = await pool.acquire(IMG2IMG, 1)
    assert anyio.current_time() == pytest.approx(began_at + 7)
    assert pool.settle(permit, SPENT, began_at + 8) == events.BreakerClosed(account="a", after=8.0)


async def test_a_submission_goes_to_the_account_whose_breaker_is_closed():
    pool = pool_of("a", "b")
    first = await pool.acquire(IMG2IMG, 1)
    pool.settle(first, LOST, anyio.current_time(), jitter=0.5)
    others = [await pool.acquire(IMG2IMG, 1) for _ in range(5)]
    assert first.account.label == "a"
    assert {permit.account.label for permit in others} == {"b"}


async def test_those_who_do_not_wait_for_ever_count_from_when_the_last_breaker_opened():
    pool = pool_of("a", "b")
    one, two = await pool.acquire(IMG2IMG, 1), await pool.acquire(IMG2IMG, 1)
    assert one.account is two.account
    pool.settle(one, UNREACHED, anyio.current_time(), retry_after=600.0)
    other = await pool.acquire(IMG2IMG, 1)
    assert other.account is not one.account
    await anyio.sleep(50)
    pool.settle(other, UNREACHED, anyio.current_time(), retry_after=600.0)
    with pytest.raises(NotSent, match="unreachable for 10 s"):
        await pool.acquire(IMG2IMG, 1, max_outage=10.0)
    assert anyio.current_time() == pytest.approx(60, abs=0.1)


NO_ANSWER = NoAnswer(cause="the connection broke")


@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (None, False),
        (NO_ANSWER, True),
        (NoAnswer(cause="the server's certificate is not valid", retryable=False), False),
        (ServerError(status=503), True),
        (ServerError(status=503, reason="UNKNOWN"), False),
        (TaskNotFound(status=404), False),
        (asyncio.CancelledError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_polls_without_an_answer_of_the_service_open_the_breaker(error, opens):
    pool = pool_of("a")
    (account,) = pool.accounts("a")
    notices = [
        pool.poll_ended(account, f"t{n % 2}", await pool.poll_turn(account), error, 0.5) for n in range(6)
    ]
    opened = [notice for notice in notices if notice is not None]
    assert [notice.trips for notice in opened] == [1, 2] * opens
    assert all((notice.cause, notice.endpoint) == ("unreachable", None) for notice in opened)


async def test_a_gateway_s_pages_about_one_task_alone_are_no_outage():
    pool = pool_of("a")
    (account,) = pool.accounts("a")
    page = ServerError(status=502)
    for _ in range(20):
        assert pool.poll_ended(account, "t", await pool.poll_turn(account), page, 0.5) is None


async def test_an_account_that_is_out_does_not_keep_anyone_waiting_for_another_in_an_outage():
    pool = pool_of("a", "b")
    pool.disable("a", BalanceExhausted(status=403))
    pool.settle(await pool.acquire(IMG2IMG, 1), UNREACHED, anyio.current_time(), retry_after=50.0)
    with pytest.raises(NotSent, match="unreachable for 10 s"):
        await pool.acquire(IMG2IMG, 1, max_outage=10.0)


async def test_a_poll_that_is_left_while_it_probes_lets_the_next_one_go():
    pool = pool_of("a")
    (account,) = pool.accounts("a")
    pool.settle(await pool.acquire(IMG2IMG, 1), LOST, anyio.current_time(), jitter=0.5)
    generation = await pool.poll_turn(account)
    now = anyio.current_time()
    assert now > 0.1
    assert pool.statistics().accounts[0].pacing.breaker is BreakerState.HALF_OPEN
    assert pool.polls_free("a", now) == 0
    pool.poll_ended(account, "t", generation, asyncio.CancelledError(), 0.5)
    await pool.poll_turn(account)
    assert anyio.current_time() == pytest.approx(now, abs=0.02)


async def test_polls_that_wait_for_their_turn_wait_for_the_breaker_too():
    pool = pool_of("a", polls_per_second=10.0)
    (account,) = pool.accounts("a")
    gone = []

    async def poll():
        generation = await pool.poll_turn(account)
        gone.append(anyio.current_time())
        await anyio.sleep(0.01)
        pool.poll_ended(account, "t", generation, None, 0.5)

    permit = await pool.acquire(IMG2IMG, 1)
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(poll)
        await anyio.sleep(0.55)
        pool.settle(permit, UNREACHED, anyio.current_time(), retry_after=30.0)
    before, after = [at for at in gone if at < 1], [at for at in gone if at > 1]
    assert len(before) == 6
    assert min(after) == pytest.approx(30.05, abs=0.2)
    assert len(after) == 14
    assert max(after) - min(after) < 4


async def test_the_pool_tells_how_it_is_doing():
    async with client_of(service(), accounts=[Account(api_key="sk_simulator", label="mine")]) as (client, _):
        await client.run(request())
        pool = client.statistics().pool
        assert (pool.waiting, pool.sending, pool.retired) == (0, 0, ())
        assert repr(client._buyer) == f"<Buyer {client._pool!r}, <Purchases: 0 open>>"
        assert pool.accounts[0].label == "mine"
        assert (
            repr(client)
            == "<NovitaClient <SessionPool 1 accounts, 0 out, 0 waiting, 0 sending>, 0 unfinished>"
        )
