"""A service that is away: what an outage costs, how it is waited out, and who is told."""

from collections import Counter

import anyio
import pytest

from novita_async import (
    Account,
    NoAnswer,
    NotSent,
    Polling,
    RetryPolicy,
    SubmissionUncertain,
    events,
)
from novita_async._http import Delivery, DeliveryFailed, HTTPResponse
from novita_async._policy.breaker import BreakerState
from tests.helpers.outages import REFUSED, RESET, Outage, client_in
from tests.helpers.service import client_of, of_kind, request, requests, service

pytestmark = pytest.mark.anyio

NEVER = 1e9


async def never(*_, **__):
    """Answer nothing."""
    await anyio.sleep_forever()


async def ends_of(client, many, **options):
    """How many outcomes of each kind came out."""
    async with client.stream(many, **options) as outcomes:
        return Counter([type(outcome).__name__ async for outcome in outcomes])


async def makespan(count, begins, ends, **outage):
    """Requests of a service that is away from then to then: seconds, outcomes, what met the outage."""
    began_at = anyio.current_time()
    simulation = service(workers=64, plain_pictures=True)
    polling = Polling(polls_per_second=200.0)
    async with client_in(simulation, began_at + begins, began_at + ends, outage=outage, polling=polling) as (
        client,
        transport,
        _,
    ):
        ends = await ends_of(client, requests(count), in_flight=64)
    assert len(simulation.ledger.accepted) == ends["Succeeded"]
    return anyio.current_time() - began_at, ends, transport


async def test_a_minute_of_a_gateway_s_pages_costs_a_handful():
    """What was under way when it began and twelve, and hardly more time than the minute."""
    usual, ends, _ = await makespan(300, NEVER, NEVER)
    assert ends == {"Succeeded": 300}
    taken, ends, transport = await makespan(300, usual / 3, usual / 3 + 60)
    assert set(ends) == {"Succeeded", "Uncertain"}
    assert ends["Uncertain"] == transport.met["POST"] <= transport.at_once + 12
    assert taken <= 1.15 * (usual + 60)


async def test_a_minute_in_which_only_submissions_are_away_costs_no_more():
    """Polls are answered, and cannot probe for purchases."""
    taken, ends, transport = await makespan(250, 2.0, 62.0, methods=("POST",))
    assert ends["Uncertain"] == transport.met["POST"] <= transport.at_once + 12
    assert ends["Succeeded"] == 250 - ends["Uncertain"]
    assert taken <= 85


@pytest.mark.parametrize("begins", [0.0, 5.0])
@pytest.mark.parametrize("with_journal", [False, True], ids=["stream", "batch"])
async def test_half_an_hour_without_a_network_fails_nothing(begins, with_journal, tmp_path):
    """One probe a minute; paid tasks are watched again when it is over."""
    simulation = service(workers=16, plain_pictures=True)
    outage = {"answer": REFUSED}
    async with client_in(simulation, begins, begins + 1800, outage=outage) as (client, transport, seen):
        if with_journal:
            async with client.batch(requests(150), journal=tmp_path / "run.db") as outcomes:
                ends = Counter([type(outcome).__name__ async for outcome in outcomes])
        else:
            ends = await ends_of(client, requests(150))
    assert ends == {"Succeeded": 150}
    assert len(simulation.ledger.accepted) == 150
    assert transport.met.total() <= 100
    assert anyio.current_time() <= begins + 1800 + 120
    opened = of_kind(seen, events.BreakerOpened)
    assert {event.cause for event in opened} == {"unreachable"}
    assert [event.trips for event in opened] == list(range(1, len(opened) + 1))
    (closed,) = of_kind(seen, events.BreakerClosed)
    assert 1700 < closed.after < 2000


async def test_an_hour_that_begins_while_tasks_are_watched_costs_a_dozen():
    """Polls are most of the probes, so one purchase in four of them is risked."""
    simulation = service(workers=64, plain_pictures=True)
    polling = Polling(deadline=9000)
    async with client_in(simulation, 5.0, 3605.0, polling=polling) as (client, transport, _):
        ends = await ends_of(client, requests(300))
    assert ends["Succeeded"] + ends["Uncertain"] == 300
    assert ends["Uncertain"] == transport.met["POST"] <= transport.at_once + 12
    assert transport.met.total() <= 150


async def test_an_outage_without_paid_tasks_is_probed_by_questions():
    """The balance costs nothing, so one purchase in four probes is risked."""
    simulation = service(workers=64, plain_pictures=True)
    async with client_in(simulation, 0.0, 600.0) as (client, transport, _):
        ends = await ends_of(client, requests(40), in_flight=2)
    assert ends["Uncertain"] == transport.met["POST"] <= transport.at_once + 8
    assert ends["Succeeded"] == 40 - ends["Uncertain"]
    assert transport.met["GET"] > 2 * transport.met["POST"]
    assert anyio.current_time() < 750


async def test_a_call_that_is_cancelled_while_it_asks_whether_the_outage_is_over_lets_the_next_ask(
    monkeypatch,
):
    simulation = service(plain_pictures=True)
    async with client_in(simulation, 0.0, 60.0) as (client, *_):
        with pytest.raises(SubmissionUncertain):
            await client.run(request())
        with monkeypatch.context() as away, anyio.move_on_after(5):
            away.setattr(Outage, "send", never)
            await client.run(request())
        assert client.statistics().pool.accounts[0].pacing.breaker is BreakerState.OPEN
        ends = await ends_of(client, requests(20), in_flight=2)
    assert ends["Succeeded"] >= 15


@pytest.mark.parametrize("answer", [RESET, REFUSED, None], ids=["reset", "refused", "page"])
async def test_an_outage_is_noticed_by_polls_alone_and_costs_no_task_its_outcome(answer):
    """All requests are paid, and no poll is answered for longer than polls of one task may fail."""
    simulation = service(workers=64, speed=0.05, plain_pictures=True)
    polling = Polling.exponential(error_timeout=60)
    outage = {"answer": answer} if answer else {}
    async with client_in(simulation, 10.0, 1810.0, outage=outage, polling=polling) as (
        client,
        transport,
        seen,
    ):
        ends = await ends_of(client, requests(20))
    assert ends == {"Succeeded": 20}
    assert transport.met["GET"] <= 120
    assert {event.endpoint for event in of_kind(seen, events.BreakerOpened)} == {None}


async def test_polls_go_on_while_only_submissions_are_away():
    """After one poll was answered they do not wait for the purchases."""
    simulation = service(workers=64, speed=0.05, plain_pictures=True)
    async with client_in(simulation, 1.0, 300.0, outage={"methods": ("POST",)}) as (client, _, seen):
        ends = await ends_of(client, requests(40), in_flight=30)
    assert ends.total() == 40
    in_time = [entry for entry in simulation.ledger.accepted if entry.at < 1.0]
    polled_at = [at for polls in simulation.ledger.polls.values() for at in polls if 10 < at < 60]
    assert len(polled_at) > len(in_time) > 0
    assert not any(event.error for event in of_kind(seen, events.Polled))


async def test_what_retry_after_asks_for_is_kept_by_all():
    """A gateway's 503 may say when to come back."""
    page = HTTPResponse(status=503, headers={"retry-after": "25"}, body=b"<html>")
    simulation = service(plain_pictures=True)
    async with client_in(simulation, 0.0, 1.0, outage={"answer": page}) as (client, _, seen):
        ends = await ends_of(client, requests(30))
    assert ends["Uncertain"] <= 10
    assert [event.after for event in of_kind(seen, events.BreakerOpened)] == [25.0]
    assert min(entry.at for entry in simulation.ledger.accepted) >= 25.0


# --- accounts


async def test_requests_go_to_the_account_whose_breaker_is_closed():
    """One account's server is away; the other sends nearly everything meanwhile."""
    simulation = service(api_keys=("one", "two"), workers=64, plain_pictures=True)
    accounts = [Account(api_key=key, label=key) for key in ("one", "two")]
    outage = {"answer": REFUSED, "keys": frozenset({"one"})}
    async with client_in(simulation, 0.0, 600.0, outage=outage, accounts=accounts) as (
        client,
        transport,
        seen,
    ):
        ends = await ends_of(client, requests(200))
    assert ends == {"Succeeded": 200}
    assert anyio.current_time() < 60
    assert {event.account for event in of_kind(seen, events.BreakerOpened)} == {"one"}
    bought = [event for event in of_kind(seen, events.Transition) if isinstance(event.fact, events.Bought)]
    assert {event.task.account for event in bought} == {"two"}
    assert transport.met["POST"] <= 25


# --- who does not wait


@pytest.mark.parametrize("how", ["run", "submit"])
async def test_a_single_call_gives_up_after_max_elapsed(how):
    """Nothing was bought, and the error says how often it was tried."""
    simulation = service()
    retry = RetryPolicy(max_elapsed=30)
    async with client_in(simulation, 0.0, NEVER, outage={"answer": REFUSED}, retry=retry) as (
        client,
        transport,
        _,
    ):
        with pytest.raises(NotSent) as caught:
            await getattr(client, how)(request())
    assert anyio.current_time() == pytest.approx(30, abs=1)
    assert caught.value.attempts == transport.met["POST"] > 3


async def test_a_single_call_behind_others_gives_up_as_well():
    """Also where it joins later, and never had its turn."""
    retry = RetryPolicy(max_elapsed=30)
    gave_up = []

    async def submit(client, seed):
        with pytest.raises(NotSent, match="not sent") as caught:
            await client.submit(request(seed=seed), priority="batch")
        gave_up.append((anyio.current_time(), caught.value.attempts))

    async with client_in(service(), 0.0, NEVER, outage={"answer": REFUSED}, retry=retry) as (client, *_):
        async with client.stream(requests(3)), anyio.create_task_group() as tasks:
            for seed in range(30):
                tasks.start_soon(submit, client, seed)
            await anyio.sleep(100)
            tasks.start_soon(submit, client, 99)
    assert len(gave_up) == 31
    assert [at for at, _ in gave_up] == pytest.approx([30] * 30 + [130], abs=0.5)
    assert min(attempts for _, attempts in gave_up) == 0


async def test_a_call_that_waits_for_the_quota_does_not_give_up():
    """An open breaker is no outage where a 429 opened it."""
    simulation = service(images_per_minute=10)
    async with client_of(simulation, images_per_minute=10, retry=RetryPolicy(max_elapsed=5)) as (client, _):
        for seed in range(12):
            await client.submit(request(seed=seed))
    assert anyio.current_time() > 60


async def test_lasting_trouble_is_told_at_once():
    """No waiting mends a certificate: a stream ends with the error, and nothing is tried again."""
    lasting = DeliveryFailed(Delivery.NOT_SENT, "the server's certificate is not valid", passes=False)
    async with client_in(service(), 0.0, NEVER, outage={"answer": lasting}) as (client, transport, seen):
        with pytest.raises(NotSent, match="certificate") as caught:
            await ends_of(client, requests(200))
        assert caught.value.unsent > 0
        assert not caught.value.retryable
        with pytest.raises(NotSent, match="certificate"):
            await client.submit(request())
    assert transport.met["POST"] <= 10
    assert anyio.current_time() < 1
    assert not of_kind(seen, events.BreakerOpened)
    assert len(of_kind(seen, events.AccountDisabled)) == 1


async def test_lasting_trouble_in_the_middle_lets_out_what_is_known_of_paid_tasks():
    """The consumer has the task of each, and the error at the end."""
    lasting = DeliveryFailed(Delivery.NOT_SENT, "the server's certificate is not valid", passes=False)
    simulation = service(plain_pictures=True)
    got = []
    async with client_in(simulation, 1.0, NEVER, outage={"answer": lasting}) as (client, *_):
        with pytest.raises(NotSent, match="certificate"):
            async with client.stream(requests(200)) as outcomes:
                async for outcome in outcomes:
                    got.append(outcome)  # noqa: PERF401 (what came before the error counts)
    assert len(got) == len(simulation.ledger.accepted) > 0
    assert all(outcome.task is not None for outcome in got)
    assert anyio.current_time() < 10


# --- what is told


async def test_the_state_of_the_breaker_stands_in_the_statistics():
    """Open with a time, half-open, closed again."""
    simulation = service(latency=1.0, latency_jitter=0)
    async with client_in(simulation, 0.0, 1.0, outage={"answer": REFUSED}) as (client, *_):

        def state():
            (account,) = client.statistics().pool.accounts
            return account.pacing.breaker, account.pacing.open_until

        assert state() == (BreakerState.CLOSED, None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.submit, request())
            await anyio.sleep(0.1)
            assert state()[0] is BreakerState.OPEN
            assert 0.1 < state()[1] < 1
            await anyio.sleep(2)
            assert state() == (BreakerState.HALF_OPEN, None)
        assert state() == (BreakerState.CLOSED, None)


async def test_questions_are_told_of_lasting_trouble_at_once():
    """A poll, a watch and a balance do not wait for a certificate to become valid."""
    lasting = DeliveryFailed(Delivery.NOT_SENT, "the server's certificate is not valid", passes=False)
    async with client_in(service(), 0.0, NEVER, outage={"answer": lasting}) as (client, *_):
        for ask in (lambda: client.wait("a-task"), lambda: client.poll("a-task"), client.balance):
            with pytest.raises(NoAnswer, match="certificate"):
                await ask()
        assert client.statistics().pool.accounts[0].pacing.breaker is BreakerState.CLOSED
    assert anyio.current_time() < 2
