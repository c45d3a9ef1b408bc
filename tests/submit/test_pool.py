"""Quotas, lines, priorities and health, as the server and the users see them."""

import anyio
import pytest

from novita_async import (
    Account,
    BalanceExhausted,
    ConfigurationError,
    NovitaClient,
    Succeeded,
    events,
)
from novita_async.testing import Fault, FaultPlan, FaultRule
from tests.helpers.service import client_of, of_kind, request, requests, service

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
    paid = {task.task_id: task.account for task in (event.task for event in of_kind(seen, events.Submitted))}
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
    announced = [event.account for event in of_kind(seen, events.Announced)]
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


async def test_the_pool_tells_how_it_is_doing():
    async with client_of(service(), accounts=[Account(api_key="sk_simulator", label="mine")]) as (client, _):
        await client.run(request())
        pool = client.statistics().pool
        assert (pool.waiting, pool.sending, pool.retired) == (0, 0, ())
        assert repr(client._sender) == f"<Buyer {client._pool!r}, <Purchases: 0 open>>"
        assert pool.accounts[0].label == "mine"
        assert (
            repr(client)
            == "<NovitaClient <SessionPool 1 accounts, 0 out, 0 waiting, 0 sending>, 0 unfinished>"
        )
