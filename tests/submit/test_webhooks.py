"""Webhooks: events wake, are never believed, and find lost purchases again; receivers take in anything."""

import gzip
import io
import json
import math
import re
import socket
import threading
from collections import Counter
from contextlib import asynccontextmanager
from itertools import pairwise

import aiohttp
import anyio
import anyio.to_thread
import pytest
from aiohttp import web
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from novita_async import (
    Account,
    AnyTask,
    Budget,
    BudgetExhausted,
    ConfigurationError,
    ContentRejected,
    Failed,
    JournalError,
    NovitaClient,
    Outcomes,
    Polling,
    RetryPolicy,
    SubmissionUncertain,
    Succeeded,
    Task,
    TaskFailed,
    Txt2Img,
    Uncertain,
    events,
)
from novita_async._api import protocol
from novita_async._policy.hinting import GRACE, DeliveryHealth, ExpectedEvents, TokenBucket
from novita_async._purchase.machine import Attempt, Purchase
from novita_async._submit import callbacks
from novita_async._submit.callbacks import Callbacks
from novita_async.journal import LeaseLost
from novita_async.models.requests import Extra, Webhook
from novita_async.testing import Fault, FaultPlan, FaultRule, SimulatorConfig, SimulatorServer, run_virtually
from novita_async.webhooks import MOST_BYTES, aiohttp_receiver, asgi_receiver
from tests.helpers.hooks import URL, event, hooked, polls, token_of
from tests.helpers.service import client_of, facts_of, picture, request, requests, service

pytestmark = pytest.mark.anyio

SELDOM = Polling.fixed(3000, deadline=1e6)
"""Finds nothing in time by itself."""
LOST_ANSWER = FaultPlan.listed("submit", {1: Fault.reset_after()})


def losing(chance: float, *more: FaultRule) -> FaultPlan:
    return FaultPlan.of(FaultRule(fault=Fault.lose_webhook(), on="webhook", chance=chance), *more)


async def gathered(client, stream_of, **options):
    """Outcomes, and when each came."""
    got = []
    async with client.stream(stream_of, **options) as outcomes:
        async for outcome in outcomes:
            got.append((outcome, anyio.current_time()))  # noqa: PERF401 - the time counts
    return got, outcomes


def delays(simulation, got):
    return [at - simulation.simulator.span(outcome.task_id).ended_at for outcome, at in got]


# --- Events wake --------------------------------------------------------------------------------------------


async def test_a_task_is_looked_at_as_soon_as_its_event_comes():
    simulation = service()
    async with hooked(simulation, polling=SELDOM) as (client, _, _):
        got, _ = await gathered(client, requests(5))
    assert max(delays(simulation, got)) < 0.5
    assert polls(simulation) == 5


async def test_run_and_watch_are_woken_as_well():
    simulation = service()
    async with hooked(simulation, polling=SELDOM) as (client, _, _):
        await client.run(request())
        task = await client.submit(request())
        async with client.watch([task, await client.submit(request())]) as outcomes:
            assert [type(outcome) async for outcome in outcomes] == [Succeeded, Succeeded]
    assert anyio.current_time() < 60
    assert polls(simulation) == 3


async def test_an_event_that_came_before_its_task_was_watched_is_not_forgotten():
    simulation = service()
    async with hooked(simulation, polling=SELDOM) as (client, _, mail):
        task = await client.submit(request())
        await anyio.sleep(100)
        assert len(mail.events) == 1
        async with client.watch([task]) as outcomes:
            assert isinstance(await anext(outcomes), Succeeded)
    assert anyio.current_time() == pytest.approx(100, abs=1)


async def test_an_event_that_comes_between_opening_and_running_a_watch_is_not_forgotten():
    simulation = service()
    async with hooked(simulation, polling=SELDOM) as (client, _, mail):
        mail.forwarded = False
        task = await client.submit(request())
        await anyio.sleep(100)
        pipeline = client._watch()
        pipeline.watch_task(task)
        mail.waker(mail.events[0][2], mail.events[0][1])
        async with pipeline.run({}, Outcomes) as outcomes:
            assert isinstance(await anext(outcomes), Succeeded)
    assert anyio.current_time() == pytest.approx(100, abs=1)


async def test_an_event_that_comes_before_the_answer_to_its_submission_is_kept():
    plan = FaultPlan.listed("submit", {1: Fault.slow(60)})
    simulation = service(faults=plan)
    async with hooked(simulation, polling=SELDOM) as (client, _, mail):
        got, _ = await gathered(client, [request()])
    assert mail.events[0][0] < 60
    assert isinstance(got[0][0], Succeeded)
    assert got[0][1] == pytest.approx(60, abs=1)
    assert polls(simulation) == 1


async def test_an_event_that_comes_while_its_task_is_polled_leads_to_another_poll():
    simulation = service(faults=FaultPlan.listed("poll", {1: Fault.slow(20)}))
    async with hooked(simulation, polling=SELDOM) as (client, _, mail):
        task = await client.submit(request())
        of_yesterday = Task(task_id=task.task_id)  # of unknown age, and polled at once
        async with client.watch([of_yesterday]) as outcomes:
            assert isinstance(await anext(outcomes), Succeeded)
        assert mail.events[0][0] < 20
    assert anyio.current_time() == pytest.approx(20, abs=1)
    assert polls(simulation) == 2


async def test_two_hundred_tasks_take_little_more_than_one_poll_each():
    simulation = service(workers=8, plain_pictures=True)
    async with hooked(simulation, polling=Polling()) as (client, _, _):
        got, _ = await gathered(client, requests(200))
        assert client.statistics().webhooks.relied_on
    assert polls(simulation) <= 1.15 * 200
    assert sum(delays(simulation, got)) / 200 < 0.25


async def test_tasks_that_are_left_to_their_events_are_counted():
    simulation = service(workers=8, plain_pictures=True)
    async with hooked(simulation) as (client, _, _), client.stream(requests(300)) as outcomes:
        left = []
        async for _ in outcomes:
            left.append(outcomes.statistics().watching.left_to_events)  # noqa: PERF401
    assert left[0] == 0
    assert max(left) > 10
    assert left[-1] == 0


# --- Events get lost ----------------------------------------------------------------------------------------


async def waits_of(simulation, **options):
    """How long each outcome of a hundred came after its task's end."""
    async with hooked(simulation, polling=Polling.fixed(1.0, polls_per_second=1000), **options) as (
        client,
        _,
        _,
    ):
        got, _ = await gathered(client, requests(100))
    assert all(isinstance(outcome, Succeeded) for outcome, _ in got)
    return delays(simulation, got)


async def test_when_all_events_get_lost_outcomes_come_as_without_webhooks():
    lost, never = service(faults=losing(1.0), workers=8), service(workers=8)
    with_losses, without = await waits_of(lost), await waits_of(never, webhook_url=None)
    assert sum(with_losses) / 100 == pytest.approx(sum(without) / 100, abs=0.1)
    assert max(with_losses) == pytest.approx(max(without), abs=0.3)
    assert polls(lost) == pytest.approx(polls(never), rel=0.1)


async def test_half_the_events_lost_and_the_others_doubled_make_the_same_results():
    doubled = FaultRule(fault=Fault.duplicate_webhook(), on="webhook")
    simulation = service(faults=losing(0.5, doubled), workers=8, plain_pictures=True)
    async with hooked(simulation, polling=Polling()) as (client, _, _):
        got, outcomes = await gathered(client, requests(150))
        webhooks = client.statistics().webhooks
    assert sorted(outcome.request.seed for outcome, _ in got) == list(range(150))
    assert all(isinstance(outcome, Succeeded) for outcome, _ in got)
    assert not webhooks.relied_on
    assert sum(delays(simulation, got)) / 150 < 0.6
    assert outcomes.unfinished == client.unfinished == ()


async def test_when_events_stop_coming_tasks_are_soon_looked_at_as_ever():
    plan = FaultPlan.of(FaultRule(fault=Fault.lose_webhook(), on="webhook", numbers=range(151, 10_000)))
    simulation = service(faults=plan, workers=8, plain_pictures=True)
    async with hooked(simulation) as (client, _, _):
        got, _ = await gathered(client, requests(300), in_flight=32)
        assert not client.statistics().webhooks.relied_on
    assert len(got) == 300
    waits = delays(simulation, got)
    assert max(waits) < 40
    assert sum(wait > 5 for wait in waits) <= 32
    assert sum(waits[-64:]) / 64 < 4


async def test_overdue_events_make_polls_ever_rarer_of_a_task_that_takes_longer_than_all_others():
    simulation = service(workers=8, plain_pictures=True, spread=0.0)
    async with hooked(simulation) as (client, _, mail):
        await gathered(client, requests(200))
        mail.forwarded = False
        slow = await client.submit(request(steps=100, width=2048, height=2048))
        start = anyio.current_time()
        async with client.watch([slow]) as outcomes:
            assert isinstance(await anext(outcomes), Succeeded)
    looks = [at - start for at in simulation.ledger.polls[slow.task_id]]
    pauses = [later - earlier for earlier, later in pairwise(looks)]
    assert looks[0] >= GRACE
    assert 2 <= len(looks) <= 14
    assert pauses[0] < 10 < pauses[-1]


async def test_few_lost_events_among_hundreds_that_stand_in_a_queue_are_found_out_by_the_order():
    simulation = service(faults=losing(0.02), workers=8, speed=0.1, plain_pictures=True)
    async with hooked(simulation, polling=Polling()) as (client, _, _):
        got, _ = await gathered(client, requests(200), in_flight=200)
        assert client.statistics().webhooks.lost >= 2
    waits = delays(simulation, got)
    assert max(waits) < 60
    assert sum(waits) / 200 < 1


async def test_events_that_come_long_after_the_end_are_not_relied_on():
    simulation = service(workers=8, plain_pictures=True)
    async with hooked(simulation) as (client, _, mail):
        mail.late = 4.0
        got, _ = await gathered(client, requests(100))
        assert not client.statistics().webhooks.relied_on
        mail.late = 0.0
        await gathered(client, requests(100))
        assert client.statistics().webhooks.relied_on
        mail.late = 4.0
        await gathered(client, requests(100))
        assert not client.statistics().webhooks.relied_on
    assert len(got) == 100


# --- Events are not believed --------------------------------------------------------------------------------


async def test_forged_events_cost_nothing_without_the_task_s_own_token():
    simulation = service(speed=0.001)
    async with (
        hooked(simulation, polling=SELDOM) as (client, _, mail),
        client.stream(requests(2)) as outcomes,
    ):
        await anyio.sleep(10)
        first, second = [entry.task_id for entry in simulation.ledger.accepted]
        tokens = [token_of(entry.request["extra"]["webhook"]["url"]) for entry in simulation.ledger.accepted]
        assert len(outcomes.unfinished) == 2
        for _ in range(100):
            mail.waker(event(first))
            mail.waker(event(first), "no such token")
            mail.waker(event(second), tokens[0])
            mail.waker(event("no such task"))
            mail.waker(event("no such task"), tokens[0])
        await anyio.sleep(10)
        assert client.statistics().webhooks.ignored == 500
    assert polls(simulation) == 0


async def test_a_flood_of_events_costs_a_few_looks_a_second():
    """Repeated with the right token, and without one for a task that was bought without."""
    simulation = service(speed=0.001)
    async with hooked(simulation, polling=SELDOM) as (client, _, mail):
        own = request().with_extra(webhook=Webhook(url="https://mine.invalid/hook"))
        async with client.stream([request(), own]) as outcomes:
            await anyio.sleep(10)
            by_path = {}
            for entry in simulation.ledger.accepted:
                by_path[entry.request["extra"]["webhook"]["url"].startswith(URL)] = entry
            token = token_of(by_path[True].request["extra"]["webhook"]["url"])
            for _ in range(500):
                mail.waker(event(by_path[True].task_id), token)
                mail.waker(event(by_path[False].task_id))
                await anyio.sleep(0.02)
            assert outcomes.statistics().watching.waiting == 2
    assert 10 <= polls(simulation) <= 1 + 4 + 2 * 10


async def test_a_flood_of_events_without_a_token_costs_a_few_looks_a_second():
    simulation = service(speed=0.001)
    async with client_of(simulation, polling=SELDOM) as (client, _), client.stream(requests(1)):
        await anyio.sleep(10)
        for _ in range(500):
            client.webhook_waker()(event(simulation.ledger.accepted[0].task_id))
            await anyio.sleep(0.02)
        assert client.statistics().webhooks.ignored >= 500 - 24
    assert 10 <= polls(simulation) <= 4 + 2 * 10


async def test_an_event_wakes_a_task_with_a_webhook_of_its_own_once_it_is_handed_over_without_a_token():
    simulation = service()
    async with client_of(simulation, polling=SELDOM) as (client, _):
        waker = client.webhook_waker()
        async with client.stream(requests(1)) as outcomes:
            await anyio.sleep(60)
            waker(event(simulation.ledger.accepted[0].task_id))
            assert isinstance(await anext(outcomes), Succeeded)
    assert anyio.current_time() == pytest.approx(60, abs=1)


async def test_the_payload_is_never_the_result():
    simulation = service(speed=0.01, workers=1)
    async with (
        hooked(simulation, polling=SELDOM) as (client, _, mail),
        client.stream([request()]) as outcomes,
    ):
        await anyio.sleep(10)
        (entry,) = simulation.ledger.accepted
        token = token_of(entry.request["extra"]["webhook"]["url"])
        images = [{"image_url": "https://evil.invalid/x.png"}]
        payload = {"task": {"task_id": entry.task_id, "status": "TASK_STATUS_SUCCEED"}, "images": images}
        mail.waker(event(payload=payload), token)
        await anyio.sleep(5)
        assert outcomes.statistics().delivered == 0
        mail.waker(
            event(payload=payload | {"task": {"task_id": entry.task_id, "status": "TASK_STATUS_FAILED"}}),
            token,
        )
        outcome = await anext(outcomes)
    assert isinstance(outcome, Succeeded)
    assert "evil" not in outcome.result.images[0].url


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["payload", "task", "task_id", "event_type", "x"]), inner)
    ),
    max_leaves=8,
)
BODIES = st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 100_000)


@given(BODIES)
def test_any_body_is_read_as_an_event_or_as_none(body):
    task_id = protocol.read_event(body)
    assert task_id is None or 0 < len(task_id) <= 256


@settings(max_examples=25, deadline=None)
@given(
    bodies=st.lists(BODIES | st.none() | st.text(), max_size=8),
    token=st.text() | st.none() | st.integers() | st.lists(st.text()),
)
def test_the_waker_raises_at_nothing(bodies, token):
    async def main():
        async with (
            hooked(service(speed=0.001), polling=SELDOM) as (client, _, mail),
            client.stream(requests(2)),
        ):
            await anyio.sleep(1)
            right = next(iter(client._buyer.callbacks._by_token))
            for body in bodies:
                mail.waker(body, token)
                mail.waker(body, right)
                mail.waker(body)
            assert client.unfinished

    run_virtually(main)


@pytest.mark.parametrize(
    ("body", "task_id"),
    [
        (event("x"), "x"),
        (event(123), "123"),
        (event("x", event_type="SOMETHING_ELSE"), None),
        (json.dumps({"payload": {"task": {"task_id": "x"}}}).encode(), "x"),
        (b"\xef\xbb\xbf" + event("x"), "x"),
        (event(""), None),
        (event(None), None),
        (event("x" * 257), None),
        (b"", None),
        (b"null", None),
        (b"\xff\xfe\x00", None),
    ],
)
def test_an_event_names_a_task(body, task_id):
    assert protocol.read_event(body) == task_id


async def test_a_body_above_a_mebibyte_is_not_read():
    simulation = service()
    async with client_of(simulation, polling=SELDOM) as (client, _), client.stream(requests(1)):
        await anyio.sleep(60)
        task_id = simulation.ledger.accepted[0].task_id
        client.webhook_waker()(event(task_id, padding="x" * MOST_BYTES))
        await anyio.sleep(60)
        assert polls(simulation) == 0


# --- Lost purchases -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [Fault.reset_after(), Fault.stall(), Fault.garbage(), Fault.answer(502, acted=True)],
    ids=lambda f: f.kind,
)
async def test_a_purchase_whose_answer_was_lost_is_found_again_by_its_event(fault):
    """Whether the event comes after the submission failed, or, where that stalls, before."""
    simulation = service(faults=FaultPlan.listed("submit", {1: fault}))
    async with hooked(simulation) as (client, seen, _):
        got, outcomes = await gathered(client, [request()])
        assert client.statistics().webhooks.found == 1
        assert client.unfinished == outcomes.unfinished == outcomes.uncertain == ()
    (outcome, _), (entry,) = got[0], simulation.ledger.accepted
    assert isinstance(outcome, Succeeded)
    assert outcome.task_id == entry.task_id
    (submitted,) = facts_of(seen, events.Bought)
    assert submitted.task == outcome.task
    assert submitted.task.endpoint == "/v3/async/img2img"
    assert outcomes.statistics().submitted == 1


async def test_a_lost_purchase_stands_in_unfinished_once_it_is_found():
    simulation = service(faults=LOST_ANSWER, speed=0.01)
    async with (
        hooked(simulation, polling=SELDOM) as (client, _, mail),
        client.stream([request()]) as outcomes,
    ):
        await anyio.sleep(5)
        assert len(outcomes.uncertain) == 1
        (entry,) = simulation.ledger.accepted
        mail.waker(event(entry.task_id), token_of(entry.request["extra"]["webhook"]["url"]))
        await anyio.sleep(5)
        assert outcomes.uncertain == ()
        assert [task.task_id for task in outcomes.unfinished] == [entry.task_id]
        assert client.unfinished == outcomes.unfinished


async def test_a_lost_purchase_whose_task_failed_comes_out_as_failed():
    simulation = service(faults=LOST_ANSWER, failure_rate=1.0, failure_as_error=True)
    async with hooked(simulation) as (client, _, _):
        got, _ = await gathered(client, [request()])
    assert isinstance(got[0][0], Failed)
    assert isinstance(got[0][0].error, TaskFailed)


async def test_the_key_that_paid_asks_for_a_lost_purchase():
    simulation = service(faults=FaultPlan.listed("submit", {2: Fault.reset_after()}), api_keys=("one", "two"))
    accounts = [Account(api_key=key, label=key, images_per_minute=1) for key in ("one", "two")]
    async with hooked(simulation, accounts=accounts) as (client, _, _):
        got, _ = await gathered(client, requests(2))
    assert {outcome.task.account for outcome, _ in got} == {"one", "two"}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_wrong_id_leaves_a_purchase_uncertain(when):
    """An id that the service does not know, and one that belongs to another purchase."""
    fault = Fault.stall() if when == "before" else Fault.reset_after()
    simulation = service(faults=FaultPlan.listed("submit", {3: fault}))
    async with hooked(simulation, recovery_timeout=300) as (client, seen, mail):
        other = await client.submit(request())
        done = (await client.run(request())).task
        mail.forwarded = False
        async with client.stream([request()]) as outcomes:
            await anyio.sleep(5)
            token = token_of(simulation.ledger.accepted[2].request["extra"]["webhook"]["url"])
            for _ in range(50):
                for wrong in (
                    done.task_id,
                    other.task_id,
                    "unknown-1",
                    "unknown-2",
                    "unknown-3",
                    "unknown-4",
                ):
                    mail.waker(event(wrong), token)
                await anyio.sleep(1)
            outcome = await anext(outcomes)
    assert isinstance(outcome, Uncertain)
    assert len(facts_of(seen, events.Bought)) == 2
    asked = {task_id: len(at) for task_id, at in simulation.ledger.polls.items()}
    assert asked == {done.task_id: asked[done.task_id], "unknown-1": 1, "unknown-2": 1, "unknown-3": 1}


async def test_wrong_ids_for_many_lost_purchases_take_from_the_token_bucket():
    simulation = service(faults=FaultPlan.of(FaultRule(fault=Fault.reset_after(), on="submit")), speed=0.001)
    async with hooked(simulation) as (client, _, mail), client.stream(requests(20)):
        await anyio.sleep(5)
        tokens = tuple(client._buyer.callbacks._by_token)
        for token in tokens:
            for i in range(5):
                mail.waker(event(f"wrong-{token}-{i}"), token)
        await anyio.sleep(5)
    assert len(tokens) > 4
    assert polls(simulation) == len(tokens) + 4


async def test_the_right_id_after_a_wrong_one_still_finds_the_purchase():
    simulation = service(faults=LOST_ANSWER)
    async with hooked(simulation) as (client, _, mail):
        mail.forwarded = False
        async with client.stream([request()]) as outcomes:
            await anyio.sleep(30)
            ((_, token, body),) = mail.events
            mail.waker(event("unknown-1"), token)
            await anyio.sleep(5)
            mail.waker(event("unknown-2"), token)
            mail.waker(body, token)
            assert isinstance(await anext(outcomes), Succeeded)
    assert anyio.current_time() < 40


async def test_a_lost_purchase_is_found_once_however_many_tasks_are_named():
    simulation = service(faults=FaultPlan.listed("submit", {3: Fault.reset_after()}))
    async with client_of(simulation) as (another, _):
        tasks = [await another.submit(request()) for _ in range(2)]
    async with hooked(simulation) as (client, seen, mail):
        mail.forwarded = False
        with pytest.raises(SubmissionUncertain):
            await client.submit(request())
        (token,) = client._buyer.callbacks._by_token
        for task in tasks:
            mail.waker(event(task.task_id), token)
        await anyio.sleep(5)
        assert len(client.unfinished) == 1
        assert len(facts_of(seen, events.Bought)) == 1


async def test_a_wrong_id_that_is_repeated_leaves_room_for_the_right_one():
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.stall()}))
    async with hooked(simulation) as (client, _, mail), client.stream([request()]) as outcomes:
        await anyio.sleep(0.5)
        (token,) = client._buyer.callbacks._by_token
        for _ in range(5):
            mail.waker(event("unknown"), token)
        assert isinstance(await anext(outcomes), Succeeded)


async def test_a_wrong_id_before_the_answer_does_no_harm():
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.slow(5)}), speed=0.5)
    async with hooked(simulation) as (client, _, mail), client.stream([request()]) as outcomes:
        await anyio.sleep(1)
        (token,) = client._buyer.callbacks._by_token
        mail.waker(event("unknown"), token)
        mail.waker(event("unknown"), token)
        assert isinstance(await anext(outcomes), Succeeded)
    assert "unknown" not in simulation.ledger.polls


async def test_a_poll_that_fails_in_passing_does_not_lose_the_purchase_again():
    rules = [
        FaultRule(fault=Fault.reset_after(), on="submit"),
        FaultRule(fault=Fault.answer(503), on="poll", numbers=(1, 2)),
    ]
    simulation = service(faults=FaultPlan.of(*rules))
    async with hooked(simulation) as (client, _, _):
        got, _ = await gathered(client, [request()])
    assert isinstance(got[0][0], Succeeded)


async def test_without_an_event_a_purchase_is_uncertain_after_the_timeout():
    simulation = service(faults=losing(1.0, FaultRule(fault=Fault.reset_after(), on="submit")))
    async with hooked(simulation, recovery_timeout=90) as (client, _, _):
        got, outcomes = await gathered(client, [request()])
    assert isinstance(got[0][0], Uncertain)
    assert got[0][1] == pytest.approx(90, abs=1)
    assert outcomes.uncertain == ()


async def test_a_stream_without_webhooks_does_not_wait():
    async with client_of(service(faults=LOST_ANSWER)) as (client, _):
        got, _ = await gathered(client, [request()])
    assert isinstance(got[0][0], Uncertain)
    assert anyio.current_time() < 1


async def test_an_event_after_the_timeout_still_finds_the_purchase():
    simulation = service(faults=LOST_ANSWER)
    async with hooked(simulation, recovery_timeout=0) as (client, seen, mail):
        mail.forwarded = False
        async with client.stream([request()]) as outcomes:
            assert isinstance(await anext(outcomes), Uncertain)
            await anyio.sleep(30)
            ((_, token, body),) = mail.events
            mail.waker(body, token)
            await anyio.sleep(1)
            (task,) = outcomes.unfinished
            outcomes.watch(task)
            assert client.unfinished == (task,)
        assert [submitted.task for submitted in facts_of(seen, events.Bought)] == [task]


async def test_a_purchase_found_while_its_uncertain_outcome_waits_for_the_consumer_is_both():
    simulation = service(faults=LOST_ANSWER)
    async with (
        hooked(simulation, recovery_timeout=0) as (client, _, _),
        client.stream([request()]) as outcomes,
    ):
        await anyio.sleep(60)
        assert outcomes.uncertain == ()
        assert isinstance(await anext(outcomes), Uncertain)
        assert len(outcomes.unfinished) == 1


async def test_leaving_a_stream_that_waits_for_an_event_keeps_the_purchase_findable():
    simulation = service(faults=LOST_ANSWER)
    async with hooked(simulation) as (client, _, _):
        async with client.stream([request()]) as outcomes:
            await anyio.sleep(0.5)
        assert len(outcomes.uncertain) == 1
        await anyio.sleep(60)
        assert outcomes.uncertain == ()
        assert outcomes.unfinished == client.unfinished != ()


async def test_submit_raises_at_once_and_the_event_finds_the_task():
    simulation = service(faults=LOST_ANSWER)
    async with hooked(simulation) as (client, _, _):
        with pytest.raises(SubmissionUncertain):
            await client.submit(request())
        assert anyio.current_time() < 1
        await anyio.sleep(60)
        (task,) = client.unfinished
        assert task.task_id == simulation.ledger.accepted[0].task_id
        assert (await client.poll(task)).state == "succeeded"
        assert client.statistics().webhooks.expected == 1
        await anyio.sleep(10)
        await client.submit(request())
        assert client.statistics().webhooks.expected == 1


async def test_run_waits_for_the_event_of_a_lost_answer():
    async with hooked(service(faults=LOST_ANSWER)) as (client, _, _):
        assert (await client.run(request())).images


async def test_a_lost_purchase_whose_caller_has_left_is_kept_until_its_event_comes():
    simulation = service(faults=LOST_ANSWER, speed=0.01)
    async with hooked(simulation, polling=SELDOM) as (client, _, mail):
        with anyio.move_on_after(5):
            await client.run(request())
        assert [error.images for error in client.uncertain] == [1]
        (entry,) = simulation.ledger.accepted
        mail.waker(event(entry.task_id), token_of(entry.request["extra"]["webhook"]["url"]))
        await anyio.sleep(5)
        assert client.uncertain == ()
        assert [task.task_id for task in client.unfinished] == [entry.task_id]


async def test_run_waits_for_an_event_no_longer_than_its_timeout():
    async with hooked(service(faults=LOST_ANSWER, speed=0.001)) as (client, _, _):
        with pytest.raises(SubmissionUncertain):
            await client.run(request(), timeout=20)
    assert anyio.current_time() == pytest.approx(20, abs=1)


async def test_a_purchase_that_was_sent_again_and_found_again_is_unfinished_and_no_outcome():
    simulation = service(faults=LOST_ANSWER)
    async with hooked(simulation, retry=RetryPolicy(resubmit_uncertain=True)) as (client, _, _):
        got, outcomes = await gathered(client, [request()])
        await anyio.sleep(60)
        first, second = [entry.task_id for entry in simulation.ledger.accepted]
        assert [outcome.task_id for outcome, _ in got] == [second]
        assert [task.task_id for task in client.unfinished] == [first]
        assert outcomes.unfinished == ()


async def test_a_purchase_whose_second_attempt_was_refused_is_found_again_all_the_same():
    plan = FaultPlan.listed("submit", {1: Fault.reset_after(), 2: Fault.answer(400, b"{}")})
    simulation = service(faults=plan)
    async with hooked(simulation, retry=RetryPolicy(resubmit_uncertain=True)) as (client, _, _):
        got, outcomes = await gathered(client, [request()])
    assert [outcome.task_id for outcome, _ in got] == [entry.task_id for entry in simulation.ledger.accepted]
    assert outcomes.uncertain == ()


async def test_of_attempts_that_were_all_lost_the_first_found_is_the_outcome_and_others_are_unfinished():
    plan = FaultPlan.listed(
        "submit", {n: Fault.reset_after() for n in (1, 2)} | {3: Fault.answer(400, b"{}")}
    )
    simulation = service(faults=plan)
    async with hooked(simulation, retry=RetryPolicy(resubmit_uncertain=True)) as (client, _, _):
        got, outcomes = await gathered(client, [request()])
        await anyio.sleep(60)
        first, second = [entry.task_id for entry in simulation.ledger.accepted]
        assert [outcome.task_id for outcome, _ in got] == [first]
        assert [task.task_id for task in client.unfinished] == [second]
        assert outcomes.statistics().submitted == 1


@pytest.mark.parametrize(
    ("refusal", "is_failure"),
    [(OSError("disk full"), True), (LeaseLost(problem="the row is nobody's"), False)],
)
async def test_a_recorder_that_cannot_take_note_is_logged_and_holds_nobody_up(caplog, refusal, is_failure):
    """A row that this process has no more is no failure: its journal has kept the task's id all the same."""

    class Broken:
        async def admit(self, *_): ...

        async def settle(self, *_): ...

        async def record(self, *_):
            raise refusal

    simulation = service(faults=LOST_ANSWER)
    async with hooked(simulation) as (client, seen, _):
        purchase = Purchase(request(), "/v3/async/img2img")
        purchase.journal = Broken()
        task = await client._buyer.buy(purchase, recovery_timeout=600)
    assert (task.task_id in caplog.text) is is_failure
    assert len(facts_of(seen, events.Bought)) == 1


async def test_closing_the_client_ends_a_search():
    plan = FaultPlan.of(
        FaultRule(fault=Fault.reset_after(), on="submit"), FaultRule(fault=Fault.stall(), on="poll")
    )
    simulation = service(faults=plan)
    async with hooked(simulation) as (client, _, _):
        with pytest.raises(SubmissionUncertain):
            await client.submit(request())
        await anyio.sleep(25)
        assert repr(client._recovery) == "<Recovery: 1 claims under way>"
    assert repr(client._recovery) == "<Recovery: 0 claims under way>"
    assert anyio.current_time() == pytest.approx(25, abs=1)


# --- Events about purchases of other processes --------------------------------------------------------------


@define(eq=False)
class Others:
    """A database that knows no lost purchase, and may be away."""

    told: list[tuple[str, str]] = field(factory=list)
    is_away: bool = False

    async def tell(self, token, task_id):
        if self.is_away:
            raise JournalError(problem="the database cannot be reached")
        self.told.append((token, task_id))

    async def lost(self, _):
        return None


async def test_an_event_that_cannot_be_passed_on_is_logged_and_the_next_one_is_passed_on(caplog):
    others = Others(is_away=True)
    async with client_of(service()) as (client, _):
        client._recovery.pass_on(others)
        for task_id in ("first", "second"):
            client.webhook_waker()(event(task_id), "theirs")
            await anyio.sleep(1)
            others.is_away = False
        assert repr(client._recovery) == "<Recovery: 0 claims under way>"
    assert others.told == [("theirs", "second")]
    assert "an event about task first could not be passed on" in caplog.text


async def test_a_flood_of_events_about_others_purchases_costs_a_bounded_number_of_questions_a_second():
    """A service's own events pass: with four processes three in four come to one that has not bought."""
    others = Others()
    async with client_of(service()) as (client, _):
        client._recovery.pass_on(others)
        waker = client.webhook_waker()
        for number in range(200):
            waker(event(f"task {number}"), f"token {number}")
            await anyio.sleep(1 / callbacks.MOST_PASSED_ON)
        assert len(others.told) == 200
        for number in range(1000):
            waker(event(f"task {number}"), f"another token {number}")
            await anyio.sleep(0.001)
        assert client.statistics().webhooks.ignored == 1200 - len(others.told)
    assert len(others.told) <= 200 + 2 * callbacks.MOST_PASSED_ON + 1


async def test_an_event_that_another_process_was_sent_wakes_its_task_here():
    simulation = service()
    async with hooked(simulation, polling=SELDOM) as (client, _, mail):
        mail.forwarded = False
        async with client.stream(requests(1)) as outcomes:
            await anyio.sleep(60)
            ((_, token, _),) = mail.events
            (entry,) = simulation.ledger.accepted
            hear = client._buyer.callbacks.take_over
            hear("a third process's", entry.task_id)
            assert client.statistics().webhooks.ignored == 0, "another will know it"
            hear(token, "a forged one")
            assert client.statistics().webhooks.ignored == 1
            assert polls(simulation) == 0
            hear(token, entry.task_id)
            assert isinstance(await anext(outcomes), Succeeded)
    assert anyio.current_time() == pytest.approx(60, abs=1)


# --- What is sent -------------------------------------------------------------------------------------------


async def test_every_purchase_has_a_token_of_its_own_that_nobody_can_guess():
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.answer(503), 2: Fault.refuse()}))
    async with hooked(simulation, webhook_url=URL + "/") as (client, _, _):
        wishes = [*requests(20), Txt2Img(model_name="m", prompt="p", width=512, height=512)]
        got, _ = await gathered(client, wishes)
        assert all(outcome.request in wishes for outcome, _ in got)
        assert len(client._buyer.callbacks._by_token) <= 21
    urls = [entry.request["extra"]["webhook"]["url"] for entry in simulation.ledger.entries if entry.request]
    assert len(set(urls)) == len(urls) >= 21
    assert all(re.fullmatch(re.escape(URL) + "/[0-9a-f]{32}", url) for url in urls)


async def test_a_webhook_of_the_request_s_own_and_any_task_are_sent_as_they_are():
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.refuse()}))
    own = Extra(response_image_type="webp", webhook=Webhook(url="https://mine.invalid/hook"))
    wishes = [
        request(extra=own),
        AnyTask(path="/v3/async/upscale", body={"request": {"image_base64": "eHl6"}}),
    ]
    async with hooked(simulation) as (client, _, _):
        await gathered(client, wishes)
        assert client.statistics().webhooks.expected == 0
    bodies = {entry.endpoint: entry.request for entry in simulation.ledger.accepted}
    assert bodies["/v3/async/img2img"]["extra"]["webhook"] == {"url": "https://mine.invalid/hook"}
    assert "extra" not in bodies["/v3/async/upscale"]


async def test_the_rest_of_extra_is_sent_along():
    simulation = service()
    async with hooked(simulation) as (client, _, _):
        await gathered(client, [request().with_extra(response_image_type="webp")])
    assert simulation.ledger.accepted[0].request["extra"]["response_image_type"] == "webp"


async def test_a_purchase_that_is_refused_or_over_the_budget_is_forgotten():
    simulation = service(illegal_words="forbidden")
    async with hooked(simulation, budget=Budget(limit=1, price=1)) as (client, _, _):
        with pytest.raises(ContentRejected):
            await client.submit(request(prompt="forbidden"))
        assert client.statistics().webhooks.expected == 0
        await client.submit(request())
        with pytest.raises(BudgetExhausted):
            await client.submit(request())
        assert client.statistics().webhooks.expected == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "me.example",
        "ftp://me.example/x",
        "https://",
        "https://me.example/?q=1",
        "https://me.example/#x",
        "https://me.example/a b",
        "http://[",
        7,
    ],
)
def test_a_url_that_no_token_can_be_added_to_is_refused(url):
    with pytest.raises(ConfigurationError, match="webhook_url"):
        NovitaClient("key", webhook_url=url)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_an_impossible_timeout_is_refused(timeout):
    with pytest.raises(ConfigurationError, match="recovery_timeout"):
        NovitaClient("key", recovery_timeout=timeout)


async def test_no_token_is_shown():
    async with hooked(service(faults=losing(1.0))) as (client, _, mail):
        task = await client.submit(request())
        (callback,) = client._buyer.callbacks._by_token.values()
        shown = [repr(x) for x in (callback, client._buyer.callbacks, mail.waker, client, task)]
        assert not [text for text in shown if callback.token in text]
        assert (
            shown[1]
            == "<Callbacks: 1 expected, 0 events ignored, <DeliveryHealth: 0 arrived, 0 lost, not relied on>>"
        )


async def test_the_oldest_purchase_is_forgotten_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr(callbacks, "MOST_KEPT", 3)
    async with hooked(service(speed=0.001)) as (client, _, _):
        tasks = [await client.submit(request()) for _ in range(5)]
        known = client._buyer.callbacks
        assert known.statistics().expected == 3
        assert list(known._by_task) == list(known._taken) == [task.task_id for task in tasks[2:]]


# --- Threads ------------------------------------------------------------------------------------------------


async def test_an_event_may_come_in_another_thread():
    simulation = service()
    async with hooked(simulation, polling=SELDOM) as (client, _, mail):
        mail.forwarded = False
        async with client.stream([request()]) as outcomes:
            await anyio.sleep(60)
            ((_, token, body),) = mail.events
            await anyio.to_thread.run_sync(mail.waker, body, token)
            assert isinstance(await anext(outcomes), Succeeded)
    assert anyio.current_time() == pytest.approx(60, abs=1)


def test_an_event_for_a_client_that_has_done_nothing_or_whose_loop_is_closed_is_ignored():
    idle = NovitaClient("key")
    idle.webhook_waker()(event())
    assert idle.statistics().webhooks.ignored == 1

    async def main():
        async with client_of(service(), webhook_url=URL) as (client, _):
            await client.submit(request())
            return client.webhook_waker()

    waker = run_virtually(main)
    waker(event())
    thread = threading.Thread(target=waker, args=(event(),))
    thread.start()
    thread.join()


# --- Decisions ----------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 2), max_size=200))
def test_a_token_bucket_gives_a_few_at_once_and_a_few_a_second(gaps):
    bucket, now, taken = TokenBucket(), 0.0, []
    for gap in gaps:
        now += gap
        left = bucket.has_token(now)
        assert bucket.take(now) == left
        if left:
            taken.append(now)
    for i, start in enumerate(taken):
        inside = [at for at in taken[i:] if at <= start + 10]
        assert len(inside) <= 4 + 2 * 10 + 1e-6


def test_a_token_bucket_fills_up_again():
    bucket = TokenBucket()
    assert [bucket.take(0.0) for _ in range(6)] == [True] * 4 + [False] * 2
    assert repr(bucket) == "<TokenBucket of 2 a second, 0.0 left>"
    assert [bucket.take(1.0) for _ in range(3)] == [True, True, False]
    assert sum(bucket.take(1000.0) for _ in range(9)) == 4


def test_events_are_relied_on_after_seven_and_no_longer_when_more_than_a_tenth_get_lost():
    health = DeliveryHealth()
    relied_on = []
    for _ in range(8):
        health.count_arrival(3.0)
        relied_on.append(health.relied_on)
    assert relied_on == [False] * 6 + [True] * 2
    assert health.timeout == 2 * 3.0 + GRACE
    health.count_loss()
    assert not health.relied_on
    assert repr(health) == "<DeliveryHealth: 8 arrived, 1 lost, not relied on>"


def test_one_lost_event_among_many_is_borne_and_two_in_a_row_are_not():
    health = DeliveryHealth()
    for _ in range(60):
        health.count_arrival(1.0)
    health.count_loss()
    assert health.relied_on
    health.count_loss()
    assert not health.relied_on


class Listening:
    """Counts how often it was told that events are relied on, or no longer."""

    told = 0

    def __init__(self):
        self.checked = []

    def wake(self, _task_id, _now):
        return False

    def check(self, task_id, _now):
        self.checked.append(task_id)
        return task_id != "nobody's"

    def reconsider(self):
        self.told += 1


async def test_everyone_who_waits_is_told_at_once_when_overdue_polls_find_that_events_got_lost():
    known, listener = Callbacks(URL), Listening()
    known.listen(listener)
    for i in range(20):
        expect(known, str(i), now=float(i))
        known.take_in(event(str(i)), f"token-{i}")
        known.ended(str(i), now=float(i))
    assert known.relied_on
    assert listener.told == 1
    expect(known, "t", now=50.0)
    assert known.event_deadline("t") >= 50 + GRACE
    known.take_in(event("t"), "token-t")
    assert known.event_deadline("t") is None
    assert known.event_deadline("another") is None
    for i in range(100, 103):
        expect(known, str(i), now=float(i))
        known.ended(str(i), now=float(i), overdue=True)
        known.ended(str(i), now=float(i), overdue=True)
    assert known.statistics().lost == 3
    assert not known.relied_on
    assert listener.told == 2
    known.unlisten(listener)
    known.unlisten(listener)


def relied_on(listener):
    """Callbacks whose events were seen to come, every second."""
    known = Callbacks(URL)
    known.listen(listener)
    for i in range(20):
        expect(known, str(i), now=float(i))
        known._with_token(event(str(i)), f"token-{i}", i + 1.0)
        known.ended(str(i), i + 1.0)
    assert known.relied_on
    return known


def expect(known, *names, now):
    """Purchases that were bought now, whose events will name these tasks."""
    for name in names:
        attempt = Attempt("account", now, now, task_id=name)
        known.settle(known.expect(f"token-{name}", Purchase(None, "/path"), attempt, now), now)


async def test_after_a_silence_the_oldest_is_looked_at_and_after_a_loss_the_next_at_once():
    known = relied_on(listener := Listening())
    expect(known, "nobody's", "a", "b", "c", now=20.0)
    assert known.silent_at == pytest.approx(20 + 1 + GRACE)
    known.check_silence(25.0)
    assert listener.checked == []
    known.check_silence(26.5)
    assert listener.checked == ["nobody's", "a"]
    known.ended("a", 27.0, overdue=True)
    assert listener.checked == ["nobody's", "a", "nobody's", "b"]
    known.ended("b", 27.5)
    assert len(listener.checked) == 4


async def test_silence_means_nothing_before_events_were_seen_to_come():
    known = Callbacks(URL)
    known.listen(listener := Listening())
    expect(known, "a", now=0.0)
    assert known.silent_at == math.inf
    known.check_silence(1e6)
    assert listener.checked == []


async def test_one_that_was_overtaken_by_many_is_looked_at():
    known = relied_on(listener := Listening())
    expect(known, "slow", *"abcdefghijklmnop", now=20.0)
    for name in "abcdefghijklmnop":
        known._with_token(event(name), f"token-{name}", 21.0)
    assert listener.checked == ["slow", "slow"]


def test_in_a_queue_that_keeps_its_order_nobody_is_overtaken():
    expected = ExpectedEvents()
    assert expected.silent_at == math.inf
    for i in range(50):
        expected.expect(str(i), 0.0)
    for i in range(50):
        expected.arrived(str(i), float(i))
        assert expected.overtaken() == []
    assert repr(expected) == "<ExpectedEvents of 0, may be overtaken by 5>"


def test_one_that_is_overtaken_is_looked_at_ever_more_seldom():
    expected = ExpectedEvents()
    expected.expect("lost", 0.0)
    looks = []
    for i in range(100):
        expected.expect(str(i), 0.0)
        expected.forget(str(i))
        looks += [i + 1] * len(expected.overtaken())
    assert looks == [4, 8, 16, 32, 64]


@given(st.permutations(range(20)))
def test_by_how_much_others_were_overtaken_is_learned(order):
    expected = ExpectedEvents()
    for i in range(20):
        expected.expect(str(i), 0.0)
    before = 0.0
    for at, i in enumerate(order):
        expected.arrived(str(i), 0.0)
        assert expected.margin >= at + 1 - i + 4
        assert expected.margin >= 0.98 * before
        before = expected.margin - 4


def test_a_silence_is_too_long_when_it_is_longer_than_others_and_then_doubles():
    expected = ExpectedEvents()
    expected.expect("a", 100.0)
    expected.expect("b", 101.0)
    assert expected.silent_at == 100 + GRACE
    expected.arrived("a", 130.0)
    expected.arrived("a", 140.0)
    assert expected.silent_at == 130 + 30 + GRACE
    assert list(expected.break_silence()) == ["b"]
    assert expected.silent_at == 130 + 2 * (30 + GRACE)
    assert expected.forget("b") == 1
    assert expected.forget("b") is None
    assert expected.silent_at == math.inf


def test_a_slow_task_is_remembered_for_a_while():
    health = DeliveryHealth()
    health.count_arrival(100.0)
    slow = health.timeout
    health.count_arrival(1.0)
    assert slow > health.timeout > 0.9 * slow
    for _ in range(300):
        health.count_arrival(1.0)
    assert health.timeout == 2 * 1.0 + GRACE


# --- The ASGI receiver --------------------------------------------------------------------------------------


class Inbox:
    """A waker that only takes note."""

    def __init__(self):
        self.events = []

    def __call__(self, body, token=None):
        self.events.append((body, token))


async def asgi(inbox, messages, *, broken_after=99, **scope):
    """Call the app as a server would. Returns what it sent."""
    incoming, sent = list(messages), []

    async def receive():
        return incoming.pop(0)

    async def send(message):
        if len(sent) >= broken_after:
            raise OSError("hung up")
        sent.append(message)

    await asgi_receiver(inbox)(
        {"type": "http", "method": "POST", "path": "/novita/abc"} | scope, receive, send
    )
    return sent


def part(body=b"", *, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


async def test_asgi_hands_over_the_body_and_the_last_part_of_the_path():
    inbox = Inbox()
    sent = await asgi(
        inbox, [part(b"12", more=True), {"type": "http.request", "more_body": True}, part(b"3")]
    )
    assert inbox.events == [(b"123", "abc")]
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 204


@pytest.mark.parametrize(
    ("path", "root", "token"),
    [
        ("/abc", "", "abc"),
        ("/novita/abc", "/novita", "abc"),
        ("/abc", "/novita", "abc"),
        ("/novita", "/novita", None),
        ("/novita/", "/novita", None),
        ("/", "", None),
    ],
)
async def test_asgi_finds_the_token_wherever_it_is_mounted(path, root, token):
    inbox = Inbox()
    await asgi(inbox, [part(b"x")], path=path, root_path=root)
    assert inbox.events == [(b"x", token)]


async def test_asgi_takes_a_mebibyte_and_refuses_more():
    inbox = Inbox()
    whole = [part(b"x" * (MOST_BYTES // 2), more=True), part(b"x" * (MOST_BYTES // 2))]
    assert (await asgi(inbox, whole))[0]["status"] == 204
    more = [part(b"x" * MOST_BYTES, more=True), part(b"x", more=True)]
    assert (await asgi(inbox, more))[0]["status"] == 413
    assert len(inbox.events) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_asgi_takes_only_post(method):
    inbox = Inbox()
    sent = await asgi(inbox, [], method=method)
    assert sent[0]["status"] == 405
    assert (b"allow", b"POST") in sent[0]["headers"]
    assert inbox.events == []


async def test_asgi_bears_senders_that_hang_up():
    inbox = Inbox()
    assert await asgi(inbox, [part(b"x", more=True), {"type": "http.disconnect"}]) == []
    assert await asgi(inbox, [part(b"x")], broken_after=0) == []
    assert inbox.events == [(b"x", "abc")]


async def test_asgi_serves_the_other_kinds_of_scope_too():
    inbox = Inbox()
    lifespan = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = await asgi(inbox, lifespan, type="lifespan")
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    (close,) = await asgi(inbox, [{"type": "websocket.connect"}], type="websocket")
    assert close["type"] == "websocket.close"
    assert await asgi(inbox, [], type="something.new") == []


async def test_asgi_wakes_a_client():
    simulation = service()
    async with (
        hooked(simulation, polling=SELDOM) as (client, _, mail),
        client.stream([request()]) as outcomes,
    ):
        mail.forwarded = False
        await anyio.sleep(60)
        ((_, token, body),) = mail.events
        await asgi(mail.waker, [part(body)], path=f"/{token}")
        assert isinstance(await anext(outcomes), Succeeded)


# --- The aiohttp receiver, over sockets ---------------------------------------------------------------------


@pytest.mark.real_loop
class TestSockets:
    @pytest.fixture
    async def inbox(self):
        return Inbox()

    @pytest.fixture
    async def url(self, inbox):
        async with receiving(inbox) as url:
            yield url

    async def test_an_event_is_taken_with_its_token(self, inbox, url):
        async with aiohttp.ClientSession() as session, session.post(f"{url}/novita/abc", data=b"x") as answer:
            assert (answer.status, await answer.read()) == (204, b"")
        assert inbox.events == [(b"x", "abc")]

    async def test_a_route_without_a_token_has_none(self, inbox, url):
        async with aiohttp.ClientSession() as session, session.post(f"{url}/bare", data=b"x") as answer:
            assert answer.status == 204
        assert inbox.events == [(b"x", None)]

    async def test_only_post_is_taken(self, inbox, url):
        async with aiohttp.ClientSession() as session:
            for path in ("novita/abc", "bare"):
                async with session.put(f"{url}/{path}", data=b"x") as answer:
                    assert answer.status == 405
                    assert answer.headers["Allow"] == "POST"
        assert inbox.events == []

    async def test_a_mebibyte_is_taken_and_more_is_not(self, inbox, url):
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{url}/novita/abc", data=b"x" * MOST_BYTES) as answer:
                assert answer.status == 204
            async with session.post(f"{url}/novita/abc", data=io.BytesIO(b"x" * (MOST_BYTES + 1))) as answer:
                assert answer.status == 413
        assert [len(body) for body, _ in inbox.events] == [MOST_BYTES]

    async def test_a_bomb_is_not_unpacked(self, inbox, url):
        bomb = gzip.compress(b"0" * (64 * MOST_BYTES))
        headers = {"Content-Encoding": "gzip"}
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{url}/novita/abc", data=bomb, headers=headers) as answer:
                assert answer.status == 413
        assert inbox.events == []

    async def test_a_broken_body_is_refused(self, inbox, url):
        headers = {"Content-Encoding": "gzip"}
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{url}/novita/abc", data=b"no gzip", headers=headers) as answer:
                assert answer.status == 400
        assert inbox.events == []

    async def test_a_client_is_woken_and_a_lost_purchase_found_again(self):
        plan = FaultPlan.listed("submit", {1: Fault.reset_after()})
        app_of = {}

        def waker(body, token=None, /):
            app_of["waker"](body, token)

        config = SimulatorConfig(speed=20, latency=0.0, plain_pictures=True)
        async with receiving(waker) as url, SimulatorServer(config, faults=plan) as server:
            async with NovitaClient(
                config.api_keys[0],
                base_url=server.url,
                webhook_url=f"{url}/novita",
                polling=Polling.fixed(50),
            ) as client:
                app_of["waker"] = client.webhook_waker()
                with anyio.fail_after(30):
                    got, _ = await gathered(client, request(image=picture()).sweep(seed=range(6)))
                found = client.statistics().webhooks.found
        assert Counter(type(outcome) for outcome, _ in got) == {Succeeded: 6}
        assert found == 1
        assert len(server.ledger.accepted) == 6


@asynccontextmanager
async def receiving(waker):
    app = web.Application()
    handler = aiohttp_receiver(waker)
    app.router.add_post("/novita/{token}", handler)
    app.router.add_route("*", "/bare", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        await web.SockSite(runner, listening).start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            await runner.cleanup()


async def test_an_event_that_comes_while_the_next_attempt_waits_for_its_slot_ends_the_buying():
    """The slot and the money of the attempt that is not made go back."""
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.reset_after()}), images_per_minute=1)
    retry = RetryPolicy(resubmit_uncertain=True)
    budget = Budget(limit=5, price=1)
    async with hooked(simulation, retry=retry, images_per_minute=1, budget=budget) as (client, _, _):
        got, _ = await gathered(client, [request()])
        assert client.statistics().spending.spent == 1
        assert client.statistics().spending.reserved == 0
    (entry,) = simulation.ledger.accepted
    assert [outcome.task_id for outcome, _ in got] == [entry.task_id]
