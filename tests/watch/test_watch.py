"""The poll loop: faults are ridden out, ends are recognised, deadlines kept, slow consumers waited for."""

import asyncio
import json
import math
import tracemalloc
from collections import defaultdict

import anyio
import pytest
from attrs import define, field

from novita_async import (
    Account,
    AuthenticationFailed,
    BadRequest,
    EndpointNotFound,
    Failed,
    NoImages,
    NovitaClient,
    PermissionDenied,
    Polling,
    Processing,
    Queued,
    ServerError,
    Succeeded,
    Task,
    TaskFailed,
    TaskNotFound,
    TaskTimeout,
    Unfinished,
    events,
)
from novita_async._http import Delivery, DeliveryFailed, HTTPResponse
from novita_async._policy.hinting import GRACE
from novita_async._policy.polling.memory import PollMemory
from novita_async._policy.polling.planner import ScheduledTask, TaskFacts
from novita_async._policy.polling.schedule import PollSchedule
from novita_async._purchase.machine import Purchase, State
from novita_async._watch.watcher import Watcher
from novita_async.testing import Fault, FaultPlan, FaultRule
from tests.helpers.service import client_of, of_kind, request, requests, service

pytestmark = pytest.mark.anyio

NETWORK = DeliveryFailed(Delivery.UNKNOWN, "the line is dead")


def seen(status: str, **more) -> HTTPResponse:
    return HTTPResponse(status=200, body=json.dumps({"task": {"status": status}} | more).encode())


def refused(status: int, reason: str, **headers: str) -> HTTPResponse:
    return HTTPResponse(status=status, headers=headers, body=json.dumps({"reason": reason}).encode())


IMAGES = [{"image_url": "https://results.example/1.png", "image_type": "png"}]
RUNNING, DONE = seen("TASK_STATUS_PROCESSING"), seen("TASK_STATUS_SUCCEED", images=IMAGES)
EMPTY = seen("TASK_STATUS_SUCCEED", images=[])
DENIED = refused(404, "TASK_NOT_FOUND")


@define(eq=False)
class Scripted:
    """A service that answers polls by task with what it was told, the last answer for ever."""

    answers: dict[str, list]
    latency: float = 0.0
    asked: dict[str, list[float]] = field(factory=lambda: defaultdict(list))
    at_once: int = 0
    most_at_once: int = 0

    async def send(self, asked, _api_key, /, **_):
        task_id = dict(asked.query)["task_id"]
        self.asked[task_id].append(anyio.current_time())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await anyio.sleep(self.latency)
        self.at_once -= 1
        script = self.answers[task_id]
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def aclose(self):
        """Nothing is open."""


def client_for(answers, *, polling=None, latency=0.0, **options):
    transport = Scripted(answers if isinstance(answers, dict) else {"t": answers}, latency)
    options.setdefault("api_key", "key")
    return NovitaClient(transport=transport, polling=polling or Polling.fixed(1.0), **options), transport


async def outcomes_of(client, tasks, **options):
    async with client, client.watch(tasks, **options) as outcomes:
        return [outcome async for outcome in outcomes]


async def outcome_of(answers, **options):
    client, _ = client_for(answers, **options)
    (outcome,) = await outcomes_of(client, ["t"])
    return outcome


# --- Ends ---------------------------------------------------------------------------------------------------


async def test_a_task_is_watched_until_it_has_succeeded():
    outcome = await outcome_of([seen("TASK_STATUS_QUEUED"), RUNNING, DONE])
    assert isinstance(outcome, Succeeded)
    assert outcome.task_id == "t"


@pytest.mark.parametrize("status", ["TASK_STATUS_FAILED", "TASK_STATUS_CANCELED", "TASK_STATUS_EXPIRED"])
async def test_a_failed_task_fails_with_the_service_s_words(status):
    answer = seen(status, task={"status": status, "reason": "out of memory"})
    outcome = await outcome_of([RUNNING, answer])
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TaskFailed)
    assert outcome.error.explanation == "out of memory"
    assert outcome.error.reason == status


async def test_a_failed_task_that_is_told_as_an_http_error_fails_at_once():
    outcome = await outcome_of([refused(500, "TASK_FAILED")])
    assert isinstance(outcome.error, TaskFailed)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refused(401, "FAILED_TO_AUTH"), AuthenticationFailed),
        (refused(403, "INVALID_API_KEY"), AuthenticationFailed),
        (refused(403, "API_NOT_ALLOWED"), PermissionDenied),
        (refused(404, "TASK_NOT_FOUND"), TaskNotFound),
        (refused(404, "API_NOT_FOUND"), EndpointNotFound),
        (refused(400, "VALIDATOR"), BadRequest),
    ],
)
async def test_a_refusal_that_cannot_pass_ends_the_watch_of_its_task_at_once(answer, error):
    client, transport = client_for([answer])
    (outcome,) = await outcomes_of(client, ["t"])
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, error)
    assert outcome.task_id == outcome.error.task_id == "t"
    assert len(transport.asked["t"]) == 1


@pytest.mark.parametrize(
    ("answer", "unfinished"),
    [
        (refused(401, "FAILED_TO_AUTH"), ["t"]),
        (refused(403, "API_NOT_ALLOWED"), ["t"]),
        (HTTPResponse(status=404, body=b"route not found"), ["t"]),
        (EMPTY, ["t"]),
        (refused(404, "TASK_NOT_FOUND"), []),
        (seen("TASK_STATUS_FAILED"), []),
        (DONE, []),
    ],
)
async def test_a_paid_task_that_could_not_be_asked_for_stays_unfinished(answer, unfinished):
    client, _ = client_for([answer])
    paid = Purchase(None, "", 1, task=Task(task_id="t"), state=State.SUBMITTED)
    client._purchases.add(paid)
    await outcomes_of(client, ["t"])
    assert [task.task_id for task in client.unfinished] == unfinished


@pytest.mark.parametrize(
    "unknown",
    [
        refused(404, "TASK_NOT_FOUND"),
        refused(404, "NOT_FOUND"),
        HTTPResponse(status=404),
        HTTPResponse(status=404, body=b"404 page not found"),
        refused(400, "TASK_NOT_FOUND"),
    ],
)
async def test_a_task_just_submitted_may_be_unknown_for_a_few_seconds(unknown):
    """However the service tells: no real answer about an unknown task was ever seen."""
    client, transport = client_for([unknown] * 3 + [DONE])
    (outcome,) = await outcomes_of(client, [Task(task_id="t", submitted_at=anyio.current_time())])
    assert isinstance(outcome, Succeeded)
    assert len(transport.asked["t"]) == 4


async def test_a_task_that_stays_unknown_is_not_found_after_half_a_minute():
    client, _ = client_for([DENIED], polling=Polling.fixed(1.0, not_found_grace=5.0))
    (outcome,) = await outcomes_of(client, [Task(task_id="t", submitted_at=anyio.current_time())])
    assert isinstance(outcome.error, TaskNotFound)
    assert 30 <= anyio.current_time() < 60


async def test_a_task_that_was_seen_does_not_end_by_a_single_denial():
    """One replica that is behind says "no such task"; the paid result comes all the same."""
    assert isinstance(await outcome_of([RUNNING, DENIED, RUNNING, DENIED, DENIED, DONE]), Succeeded)


async def test_denials_count_as_repeated_only_in_one_unbroken_row():
    answers = [RUNNING, *[DENIED, RUNNING] * 60, DONE]
    assert isinstance(await outcome_of(answers), Succeeded)
    assert anyio.current_time() > 60


async def test_a_task_that_was_seen_is_not_found_when_that_is_repeated_over_half_a_minute():
    outcome = await outcome_of([RUNNING, DENIED])
    assert isinstance(outcome.error, TaskNotFound)
    assert 30 <= anyio.current_time() < 60


async def test_files_that_are_listed_a_little_late_are_waited_for():
    assert isinstance(await outcome_of([RUNNING, EMPTY, EMPTY, DONE]), Succeeded)


async def test_a_success_that_stays_without_files_has_no_images():
    answer = seen("TASK_STATUS_SUCCEED", images=[], extra={"text": "a dog"})
    client, transport = client_for([RUNNING, answer])
    (outcome,) = await outcomes_of(client, ["t"])
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, NoImages)
    assert outcome.error.extra == {"text": "a dog"}
    assert str(outcome.error).endswith("to ask again: novita-async watch t")
    assert 10 <= anyio.current_time() < 30
    assert len(transport.asked["t"]) > 3


async def test_an_unknown_status_is_running_until_the_deadline():
    outcome = await outcome_of([seen("TASK_STATUS_PONDERING")], polling=Polling.fixed(5, deadline=60))
    assert isinstance(outcome, Unfinished)
    assert outcome.error.last_status == "TASK_STATUS_PONDERING"
    assert anyio.current_time() == pytest.approx(60, abs=0.1)


# --- Faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        NETWORK,
        refused(500, "UNKNOWN"),
        refused(503, "SERVICE_NOT_AVAILABLE"),
        refused(429, "RATE_LIMIT_EXCEEDED"),
        HTTPResponse(status=502, body=b"<html>bad gateway</html>"),
        HTTPResponse(status=400),
        HTTPResponse(status=401, body=b"<html>sign in</html>"),
        HTTPResponse(status=403, body=b"<html>Attention Required! | Cloudflare</html>"),
        HTTPResponse(status=404, body=b"route not found"),
        HTTPResponse(status=404, body=b'{"message": "not found"}'),
        HTTPResponse(status=410, body=b"gone"),
        HTTPResponse(status=418, body=b"{}"),
        HTTPResponse(status=200, body=b"<html>welcome</html>"),
        HTTPResponse(status=200, body=b"{}"),
        HTTPResponse(status=200),
    ],
)
async def test_a_fault_that_can_pass_is_ridden_out_and_told(fault):
    told = []
    client, _ = client_for([RUNNING, fault, fault, fault, DONE], observers=[told.append])
    (outcome,) = await outcomes_of(client, ["t"])
    assert isinstance(outcome, Succeeded)
    polls = of_kind(told, events.Polled)
    assert [poll.status for poll in polls] == [
        "TASK_STATUS_PROCESSING",
        None,
        None,
        None,
        "TASK_STATUS_SUCCEED",
    ]
    assert [poll.error is None for poll in polls] == [True, False, False, False, True]


async def test_faults_that_stay_end_as_unfinished_after_the_error_timeout():
    broken = refused(500, "UNKNOWN")
    outcome = await outcome_of([RUNNING, broken], polling=Polling.fixed(1.0, error_timeout=100))
    assert isinstance(outcome, Unfinished)
    assert isinstance(outcome.error.last_error, ServerError)
    assert outcome.error.last_status == "TASK_STATUS_PROCESSING"
    assert 100 < anyio.current_time() < 120


async def test_the_error_timeout_begins_anew_after_each_poll_that_went_well():
    answers = [NETWORK, NETWORK, RUNNING] * 40 + [DONE]
    assert isinstance(await outcome_of(answers, polling=Polling.fixed(1.0, error_timeout=10)), Succeeded)
    assert anyio.current_time() > 60


async def test_a_wait_that_the_service_asks_for_is_kept():
    client, transport = client_for([refused(503, "UNKNOWN", **{"retry-after": "20"}), DONE])
    await outcomes_of(client, ["t"])
    first, second = transport.asked["t"]
    assert second - first >= 20


async def test_a_refused_poll_holds_up_all_polls_of_the_account():
    answers = {
        "a": [refused(429, "RATE_LIMIT_EXCEEDED", **{"retry-after": "20"}), DONE],
        "b": [RUNNING, DONE],
    }
    client, transport = client_for(answers)
    await outcomes_of(client, ["a", "b"])
    assert transport.asked["b"][1] >= 20


@pytest.mark.parametrize("status", [429, 503])
async def test_polls_that_wait_for_their_turn_are_held_up_too(status):
    """Once the service has asked for a pause, none goes out before it is over."""
    ids = [f"t{i}" for i in range(40)]
    answers = {key: [DONE] for key in ids} | {
        "t0": [refused(status, "UNKNOWN", **{"retry-after": "20"}), DONE]
    }
    polling = Polling.fixed(1.0, polls_per_second=1000)
    client, transport = client_for(answers, polling=polling, latency=0.0015)
    await outcomes_of(client, ids)
    asked = sorted(at for polls in transport.asked.values() for at in polls)
    pause = [at for at in asked if at > 0.0015]
    assert len(pause) > 30
    assert min(pause) >= 20


def two_accounts():
    return {"api_key": None, "accounts": [Account(api_key=key, label=key) for key in ("one", "two")]}


async def test_an_account_that_must_pause_does_not_hold_up_the_others():
    ones, twos = ([Task(task_id=f"{key}{i}", account=key) for i in range(40)] for key in ("one", "two"))
    answers = {task.task_id: [DONE] for task in twos}
    answers |= {task.task_id: [refused(429, "UNKNOWN", **{"retry-after": "30"}), DONE] for task in ones}
    client, transport = client_for(answers, **two_accounts())
    await outcomes_of(client, ones + twos)
    assert max(polls[0] for key, polls in transport.asked.items() if key.startswith("two")) < 5


async def test_an_account_with_many_tasks_does_not_hold_up_one_with_few():
    """Each has its own cap, though all share the polls that may be under way."""
    many = [Task(task_id=f"many{i}", account="one") for i in range(400)]
    few = [Task(task_id=f"few{i}", account="two") for i in range(5)]
    answers = {task.task_id: [RUNNING, DONE] for task in many + few}
    client, _ = client_for(answers, latency=0.1, **two_accounts())
    async with client, client.watch(many + few) as outcomes:
        while not (await anext(outcomes)).task_id.startswith("few"):
            pass
        assert anyio.current_time() < 3
        assert outcomes.statistics().watching.polls.waiting > 300


async def test_a_deadline_is_kept_while_polls_are_held_up():
    answers = {key: [refused(429, "UNKNOWN", **{"retry-after": "60"})] for key in "abcdef"}
    client, _ = client_for(answers)
    got = await outcomes_of(client, list(answers), timeout=10)
    assert {type(outcome) for outcome in got} == {Unfinished}
    assert anyio.current_time() == pytest.approx(10)


async def test_every_task_comes_to_its_true_end_when_a_fifth_of_the_polls_fail():
    faults = (Fault.refuse(), Fault.reset_after(), Fault.truncate(10), Fault.garbage(), Fault.answer(503))
    rules = [FaultRule(fault=fault, on="poll", chance=0.05) for fault in faults]
    simulation = service(faults=FaultPlan.of(*rules), failure_rate=0.3, workers=8, plain_pictures=True)
    async with client_of(simulation) as (client, _), client.stream(requests(300)) as outcomes:
        got = {outcome.task_id: type(outcome) async for outcome in outcomes}
    expected = {key: Failed if task.fails else Succeeded for key, task in simulation.simulator.tasks.items()}
    assert got == expected


# --- Deadlines ----------------------------------------------------------------------------------------------


async def test_a_timeout_is_for_each_task_and_carries_it():
    client, _ = client_for({"a": [RUNNING], "b": [RUNNING] * 3 + [DONE], "c": [RUNNING]})
    got = await outcomes_of(client, ["a", Task(task_id="b"), "c"], timeout=10)
    assert (got[0].task_id, type(got[0])) == ("b", Succeeded)
    assert {outcome.task_id for outcome in got[1:]} == {"a", "c"}
    assert all(outcome.error.waited == pytest.approx(10) for outcome in got[1:])
    assert anyio.current_time() == pytest.approx(10)


async def test_a_task_that_is_polled_when_its_time_is_up_is_given_that_poll():
    client, _ = client_for({"slow": [RUNNING, DONE], "never": [RUNNING]}, latency=4.0)
    got = await outcomes_of(client, ["slow", "never"], timeout=6)
    assert {outcome.task_id: type(outcome) for outcome in got} == {"slow": Succeeded, "never": Unfinished}
    assert client._buyer.callbacks._listeners == {}
    assert anyio.current_time() == pytest.approx(9, abs=0.5)


async def test_a_task_that_has_ended_has_no_deadline_any_more():
    client, _ = client_for({"quick": [DONE], "slow": [RUNNING] * 30 + [DONE]})
    async with client, client.watch(["slow"]) as outcomes:
        outcomes._source._outlet.expect()
        outcomes._source._watcher.add(Task(task_id="quick"), timeout=5)
        got = [outcome async for outcome in outcomes]
    assert [(outcome.task_id, type(outcome)) for outcome in got] == [
        ("quick", Succeeded),
        ("slow", Succeeded),
    ]


async def test_a_task_that_was_given_up_is_not_polled_any_more():
    client, transport = client_for({"late": [RUNNING], "slow": [RUNNING] * 30 + [DONE]})
    async with client, client.watch(["slow"]) as outcomes:
        outcomes._source._outlet.expect()
        outcomes._source._watcher.add(Task(task_id="late"), timeout=5)
        got = [outcome async for outcome in outcomes]
    assert [(outcome.task_id, type(outcome)) for outcome in got] == [
        ("late", Unfinished),
        ("slow", Succeeded),
    ]
    assert max(transport.asked["late"]) < 6


async def test_all_together_are_waited_for_no_longer_than_the_total():
    """Tasks that are added while it runs included, and each for no longer than its own time."""
    client, _ = client_for({key: [RUNNING] for key in "abc"})
    async with client, client.watch(["a"], timeout=20, total=30) as outcomes:
        await anyio.sleep(5)
        outcomes.watch("b")
        await anyio.sleep(10)
        outcomes.watch("c")
        got = [(outcome.task_id, round(outcome.error.waited, 3)) async for outcome in outcomes]
        assert anyio.current_time() == pytest.approx(30)
    assert got == [("a", 20), ("b", 20), ("c", 15)]


async def test_a_task_added_after_the_total_is_unfinished_at_once():
    client, transport = client_for({"a": [DONE]})
    async with client, client.watch([], total=10) as outcomes:
        await anyio.sleep(15)
        outcomes.watch("a")
        (outcome,) = [outcome async for outcome in outcomes]
    assert isinstance(outcome, Unfinished)
    assert transport.asked == {}


async def test_a_timeout_is_resumed_with_one_call():
    client, _ = client_for([RUNNING] * 15 + [DONE])
    async with client:
        with pytest.raises(TaskTimeout) as caught:
            await client.wait("t", timeout=5)
        result = await client.wait(caught.value.task)
        assert client.unfinished == ()
    assert result.task.task_id == "t"


async def test_waiting_for_one_task_raises_what_it_failed_of():
    client, _ = client_for([RUNNING, seen("TASK_STATUS_FAILED")])
    async with client:
        with pytest.raises(TaskFailed):
            await client.wait(Task(task_id="t"))


async def test_watching_again_after_a_timeout_finds_the_end():
    client, _ = client_for([RUNNING] * 15 + [DONE])
    async with client:
        async with client.watch(["t"], timeout=5) as outcomes:
            (first,) = [outcome async for outcome in outcomes]
        async with client.watch([first.task]) as outcomes:
            (second,) = [outcome async for outcome in outcomes]
    assert (type(first), type(second)) == (Unfinished, Succeeded)


# --- Many tasks ---------------------------------------------------------------------------------------------


async def test_a_task_that_is_watched_twice_has_one_outcome():
    client, transport = client_for([RUNNING, DONE])
    async with client, client.watch(["t", Task(task_id="t", account="key")]) as outcomes:
        outcomes.watch("t")
        got = [outcome async for outcome in outcomes]
    assert len(got) == 1
    assert len(transport.asked["t"]) == 2


async def test_tasks_are_added_while_it_runs():
    client, _ = client_for({"a": [RUNNING] * 5 + [DONE], "b": [DONE]})
    async with client, client.watch(["a"]) as outcomes:
        await anyio.sleep(2)
        outcomes.watch("b")
        assert [outcome.task_id async for outcome in outcomes] == ["b", "a"]


async def test_a_task_added_when_the_last_outcome_was_taken_is_waited_for():
    """Each asks for the next: nothing is left in between, and yet the watch goes on."""
    chain = {"a": "b", "b": "c"}
    client, _ = client_for({key: [RUNNING, DONE] for key in "abc"})
    got = []
    async with client, client.watch(["a"]) as outcomes:
        async for outcome in outcomes:
            got.append(outcome.task_id)
            await anyio.sleep(30)
            if outcome.task_id in chain:
                outcomes.watch(chain[outcome.task_id])
    assert got == ["a", "b", "c"]
    assert outcomes.unfinished == ()


async def test_a_watch_of_nothing_ends_at_once_unless_something_is_added():
    client, _ = client_for({"a": [DONE]})
    async with client:
        async with client.watch([]) as outcomes:
            assert [outcome async for outcome in outcomes] == []
        async with client.watch([]) as outcomes:
            await anyio.sleep(100)
            outcomes.watch("a")
            assert [outcome.task_id async for outcome in outcomes] == ["a"]


async def test_asking_in_vain_for_a_while_does_not_end_the_watch():
    client, _ = client_for({"a": [RUNNING] * 10 + [DONE], "b": [DONE]})
    async with client, client.watch(["a"]) as outcomes:
        with anyio.move_on_after(3):
            await anext(outcomes)
        assert (await anext(outcomes)).task_id == "a"
        await anyio.sleep(1)
        outcomes.watch("b")
        assert [outcome.task_id async for outcome in outcomes] == ["b"]


async def test_two_may_take_outcomes_and_both_see_the_end():
    client, _ = client_for({key: [DONE] for key in "abc"})
    got = []

    async def take(outcomes):
        got.extend([outcome.task_id async for outcome in outcomes])

    async with client, client.watch("abc") as outcomes, anyio.create_task_group() as takers:
        takers.start_soon(take, outcomes)
        takers.start_soon(take, outcomes)
    assert sorted(got) == ["a", "b", "c"]


async def test_no_more_polls_are_under_way_at_once_than_allowed():
    ids = [f"t{i}" for i in range(40)]
    polling = Polling.fixed(1.0, concurrency=5, polls_per_second=1000)
    client, transport = client_for({key: [RUNNING, DONE] for key in ids}, polling=polling, latency=1.0)
    got = await outcomes_of(client, ids)
    assert len(got) == 40
    assert transport.most_at_once == 5


async def test_a_slow_consumer_slows_polling():
    ids = [f"t{i}" for i in range(40)]
    polling = Polling.fixed(1.0, concurrency=4, polls_per_second=1000)
    client, transport = client_for({key: [DONE] for key in ids}, polling=polling)
    async with client, client.watch(ids) as outcomes:
        await anyio.sleep(100)
        assert len(transport.asked) == 4
        await anext(outcomes)
        await anyio.sleep(100)
        assert len(transport.asked) == 5
        watcher = outcomes._source._watcher
        assert repr(watcher) == "<Watcher 35 tasks, 4 polls under way>"
        assert watcher.statistics().waiting == 35
        assert watcher.statistics().left_to_events == 0
        assert watcher.statistics().polls.finished == 5


async def test_watching_many_tasks_takes_little_memory_for_each():
    """Over the task itself, and before any poll, which adds less than 0.1 KB."""
    many = 5_000
    client, _ = client_for([RUNNING])
    label = client._pool.accounts(None)[0].label
    tasks = [Task(task_id=f"t{i}", account=label, submitted_at=i * 0.004) for i in range(many)]
    tracemalloc.start()
    try:
        async with client, client.watch(tasks) as outcomes:
            held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(outcomes.unfinished) == many
    assert held / many < 0.5 * 1024


async def test_what_was_asked_for_is_let_go_when_its_task_has_ended():
    """It may hold a picture, and the time until which its task was waited for is long."""
    async with client_of(service()) as (client, _), client.stream(requests(30), in_flight=2) as outcomes:
        async for _ in outcomes:
            deadlines = outcomes._source._watcher._deadlines
            assert sum(record.request is not None for record in deadlines) <= 2
    assert len(deadlines) == 30


async def test_a_task_of_an_unknown_account_is_looked_for_with_every_key():
    simulation = service(api_keys=("one", "two"))
    async with client_of(simulation, api_key="two") as (client, _):
        task = await client.submit(request())
    accounts = [Account(api_key=key, label=key) for key in ("one", "two")]
    async with (
        client_of(simulation, accounts=accounts) as (client, _),
        client.watch([task.task_id]) as outcomes,
    ):
        outcome = await anext(outcomes)
    assert outcome.task.account == "two"


async def test_an_id_that_this_client_has_bought_is_watched_as_what_it_is():
    """A "no such task" at first is not believed of it, and it is asked for with the key that paid."""
    accounts = [Account(api_key=key, label=key) for key in ("one", "two")]
    simulation = service(api_keys=("one", "two"), visible_after=3.0)
    async with client_of(simulation, accounts=accounts) as (client, _):
        ids = [(await client.submit(request())).task_id for _ in range(2)]
        async with client.watch(ids) as outcomes:
            ends = [outcome async for outcome in outcomes]
    assert [type(end) for end in ends] == [Succeeded] * 2
    assert {end.task.account for end in ends} == {"one"}


async def test_the_consumer_may_leave_while_polls_are_under_way():
    client, transport = client_for({"a": [RUNNING], "b": [RUNNING]}, latency=5.0)
    async with client:
        async with client.watch(["a", "b"]) as outcomes:
            await anyio.sleep(2)
        assert {task.task_id for task in outcomes.unfinished} == {"a", "b"}
        await anyio.sleep(60)
    assert len(transport.asked["a"]) == 1


# --- Several that wait for one task -------------------------------------------------------------------------


@define(eq=False)
class Bare:
    """A watcher without a stream, and the outcomes that it has delivered by itself."""

    client: NovitaClient
    watcher: Watcher = field(init=False)
    delivered: list = field(factory=list)
    takes: float = 0.0
    """Seconds until an outcome is taken. 0: it is at once."""

    def __attrs_post_init__(self):
        asker = self.client._buyer
        self.watcher = Watcher.of(asker, self.client._polling, PollMemory(), self.deliver)

    def deliver(self, outcome, purchase):
        self.delivered.append((outcome, purchase))
        return anyio.sleep(self.takes) if self.takes else None

    async def run(self):
        self.watcher.close()
        await self.watcher.run()


async def test_two_purchases_with_one_task_id_wait_for_one_watch():
    """Each gets an outcome with its own request, for the price of one watch."""
    purchases = [Purchase(request()), Purchase(request()), Purchase(None)]
    client, transport = client_for([RUNNING, DONE])
    async with client:
        bare = Bare(client)
        new = [bare.watcher.add(Task(task_id="t"), purchase=each) for each in purchases]
        assert new == [True, False, False]
        purchases[2].request = late = request()  # its line came while it waited
        await bare.run()
    ends = [end for end, _ in bare.delivered]
    assert [purchase for _, purchase in bare.delivered] == purchases
    assert [end.request for end in ends] == [purchases[0].request, purchases[1].request, late]
    assert len({id(end.result) for end in ends}) == 1
    assert len(transport.asked["t"]) == 2


async def test_several_that_wait_for_one_task_are_all_told_when_its_time_is_up():
    client, _ = client_for([RUNNING])
    async with client:
        bare = Bare(client)
        for _ in range(3):
            bare.watcher.add(Task(task_id="t"), timeout=10, purchase=Purchase(None))
        await bare.run()
    assert [type(end) for end, _ in bare.delivered] == [Unfinished] * 3
    assert list(bare.watcher.tasks()) == []


async def test_a_task_that_is_added_twice_without_a_purchase_has_one_outcome():
    client, _ = client_for([DONE])
    async with client:
        bare = Bare(client)
        assert bare.watcher.add(Task(task_id="t"))
        assert not bare.watcher.add(Task(task_id="t"))
        await bare.run()
    assert len(bare.delivered) == 1


@pytest.mark.parametrize("takes", [0.0, 50.0])
async def test_polls_go_on_beside_an_outcome_only_where_its_taker_lets_them(takes):
    """A taker that returns at once holds up no poll; one that is awaited keeps its place among the polls."""
    polling = Polling.fixed(1.0, concurrency=1)
    client, transport = client_for({key: [DONE] for key in "ab"}, polling=polling)
    async with client:
        bare = Bare(client, takes=takes)
        bare.watcher.add(Task(task_id="a"))
        bare.watcher.add(Task(task_id="b"))
        await bare.run()
    first, second = sorted(at for polls in transport.asked.values() for at in polls)
    assert takes <= second - first < takes + 1


async def test_many_paid_tasks_of_an_earlier_run_are_records_and_not_tasks():
    """At most 0.6 KB each, over the task itself, and no asyncio task."""
    many = 5_000
    client, _ = client_for([RUNNING])
    label = client._pool.accounts(None)[0].label
    tasks = [Task(task_id=f"t{i}", account=label, submitted_at=i * 0.004) for i in range(many)]
    purchase = Purchase(None)
    async with client:
        tracemalloc.start()
        try:
            bare = Bare(client)
            for task in tasks:
                bare.watcher.add(task, purchase=purchase)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(asyncio.all_tasks()) < 10
    assert held / many < 0.6 * 1024


# --- Updates ------------------------------------------------------------------------------------------------

WAITS = seen("TASK_STATUS_QUEUED")


def at(percent):
    return seen("", task={"status": "TASK_STATUS_PROCESSING", "progress_percent": percent})


async def told(client, tasks, pause=0.0, **options):
    """What a watch tells: of which task, what, and how far it is."""
    got = []
    async with client, client.watch(tasks, updates=True, **options) as updates:
        async for update in updates:
            percent = update.progress_percent if isinstance(update, Processing) else None
            got.append((update.task_id, type(update), percent))
            await anyio.sleep(pause)
    return got


async def test_what_is_seen_on_the_way_can_be_followed_and_only_what_is_new_is_told():
    client, _ = client_for([WAITS, WAITS, at(10), at(10), NETWORK, at(60), DONE])
    assert await told(client, ["t"]) == [
        ("t", Queued, None),
        ("t", Processing, 10),
        ("t", Processing, 60),
        ("t", Succeeded, None),
    ]


async def test_an_unknown_status_is_told_as_it_is():
    client, _ = client_for([seen("TASK_STATUS_PONDERING"), DONE])
    async with client, client.watch(["t"], updates=True) as updates:
        first = await anext(updates)
    assert (type(first), first.status) == (Processing, "TASK_STATUS_PONDERING")


async def test_whoever_is_slow_is_told_the_newest_of_each_task_and_nothing_after_its_end():
    """A display that takes ten seconds a line misses steps, not ends, and slows no poll down."""
    client, transport = client_for({key: [WAITS, *(at(i) for i in range(1, 100)), DONE] for key in "ab"})
    got = await told(client, ["a", "b"], pause=10.0)
    assert len(got) < 30
    for key in "ab":
        mine = [(kind, percent) for task_id, kind, percent in got if task_id == key]
        assert mine[-1] == (Succeeded, None)
        steps = [percent for _, percent in mine[:-1] if percent is not None]
        assert steps == sorted(set(steps))
        assert len(transport.asked[key]) == 101
        assert max(transport.asked[key]) < 115


async def test_without_asking_for_updates_only_outcomes_come():
    client, _ = client_for([WAITS, at(10), DONE])
    assert [type(outcome) for outcome in await outcomes_of(client, ["t"])] == [Succeeded]


@pytest.mark.parametrize("answer", [RUNNING, DONE])
async def test_what_was_not_taken_is_unfinished_when_the_consumer_leaves(answer):
    """Its time may be up and its end may be known: nobody was told."""
    client, _ = client_for([answer])
    async with client:
        async with client.watch(["t"], timeout=5) as outcomes:
            await anyio.sleep(10)
            assert [task.task_id for task in outcomes.unfinished] == ["t"]
        assert [task.task_id for task in outcomes.unfinished] == ["t"]


async def test_the_follower_may_leave_early_and_be_told_of_deadlines():
    client, _ = client_for([at(10)])
    assert await told(client, ["t"], timeout=5) == [("t", Processing, 10), ("t", Unfinished, None)]
    client, _ = client_for([at(10)])
    async with client, client.watch(["t"], updates=True) as updates:
        await anyio.sleep(5)
    assert [task.task_id for task in updates.unfinished] == ["t"]
    assert repr(updates) == "<Updates: 0 taken in, 0 submitted, 0 delivered, 0 unsent>"


# --- Hints --------------------------------------------------------------------------------------------------


async def woken(answers, at, **options):
    """Watch a task that is woken at some time, and tell when it was polled."""
    client, transport = client_for(answers, polling=Polling.fixed(100.0), **options)
    async with client, client.watch([Task(task_id="t", submitted_at=anyio.current_time())]) as outcomes:
        await anyio.sleep(at)
        watcher = outcomes._source._watcher
        assert watcher.wake("t", anyio.current_time())
        assert not watcher.wake("another", anyio.current_time())
        async for _ in outcomes:
            pass
    return transport.asked["t"]


async def test_a_woken_task_is_polled_at_once():
    assert await woken([DONE], 10) == [10]


async def test_a_task_that_is_woken_while_a_poll_fails_is_polled_again_at_once():
    assert await woken([NETWORK, DONE], 102, latency=5.0) == [pytest.approx(100), pytest.approx(105)]


async def test_a_hint_that_was_too_early_is_followed_by_the_common_schedule():
    assert await woken([RUNNING, DONE], 10) == [10, pytest.approx(110, rel=0.15)]


async def test_a_woken_task_goes_before_many_that_are_late():
    ids = [f"t{i}" for i in range(100)]
    polling = Polling.fixed(1.0, concurrency=1, polls_per_second=1000)
    client, transport = client_for({key: [RUNNING] for key in ids}, polling=polling, latency=1.0)
    async with client, client.watch(ids) as outcomes:
        await anyio.sleep(20.5)
        outcomes._source._watcher.wake("t99", anyio.current_time())
        await anyio.sleep(2)
        assert transport.asked["t99"] == [pytest.approx(21)]


class Restless:
    """Plans everything anew whenever anything happens, and puts it off."""

    def __init__(self):
        self.entries = []

    def admit(self, key, _facts, now):
        entry = ScheduledTask(key=key, submitted_at=now, known=True)
        self.entries.append(entry)
        return entry, self.entries

    def due(self, _entry, now, _jitter):
        return now + 100.0

    def stale(self, _entry):
        return True

    def pressed(self, _entry, _late):
        pass


def test_nothing_that_is_learned_puts_a_woken_task_off():
    schedule = PollSchedule(planner=Restless())
    schedule.add("a", TaskFacts(), 0.0)
    schedule.wake("a", 1.0)
    schedule.add("b", TaskFacts(), 2.0)
    assert schedule.next_at(3.0) == 3.0
    assert schedule.take(3.0, 9) == ["a"]
    assert schedule.take(50.0, 9) == []


@define(eq=False)
class Relied:
    """Callbacks of which a test says what is known."""

    relied_on: bool = True
    until: float | None = 50.0
    ends: list = field(factory=list)
    silent_at: float = math.inf
    silences: list = field(factory=list)

    def check_silence(self, now):
        if now >= self.silent_at:
            self.silences.append(now)
            self.silent_at = math.inf

    def heard(self, _):
        return False

    def event_deadline(self, _):
        return self.until if self.relied_on else None

    def ended(self, task_id, _now, *, overdue, ran_for):
        self.ends.append((task_id, overdue, ran_for))

    def listen(self, listener):
        pass

    unlisten = listen


async def relying(answers, callbacks, act=lambda _: None, **options):
    """Watch a task that may be left to its event, and tell when it was polled."""
    client, transport = client_for(answers, **options)
    client._buyer.callbacks = callbacks
    got = []

    async def deliver(outcome, _):
        got.append(outcome)

    async with client:
        watcher = Watcher.of(client._buyer, client._polling, PollMemory(), deliver)
        watcher.add(Task(task_id="t", submitted_at=anyio.current_time()))
        watcher.close()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watcher.run)
            await anyio.sleep(10)
            act(watcher)
    assert watcher.statistics().left_to_events == 0
    return transport.asked["t"]


async def test_a_task_that_is_left_to_its_event_is_polled_late_and_ever_later():
    callbacks = Relied()
    polls = await relying([RUNNING, RUNNING, DONE], callbacks)
    assert polls == [50, 75, 112.5]
    assert callbacks.ends == [("t", True, None)]


async def test_a_task_that_is_left_to_its_event_is_polled_when_that_comes():
    callbacks = Relied()
    assert await relying([DONE], callbacks, lambda watcher: watcher.wake("t", 10.0)) == [10]
    assert callbacks.ends == [("t", False, None)]


async def test_a_task_that_was_overdue_and_runs_may_still_be_told_by_its_event():
    callbacks = Relied(until=8.0)
    assert await relying([RUNNING, DONE], callbacks, lambda watcher: watcher.wake("t", 10.0)) == [8, 10]
    assert callbacks.ends == [("t", False, None)]


async def test_a_task_whose_event_should_have_come_is_checked():
    callbacks = Relied()

    def check(watcher):
        assert not watcher.check("another", 10.0)
        assert watcher.check("t", 10.0)
        assert not watcher.check("t", 10.0)

    assert await relying([DONE], callbacks, check) == [10]
    assert callbacks.ends == [("t", True, None)]


async def test_a_silence_is_checked_while_tasks_are_left_to_their_events():
    callbacks = Relied(silent_at=20.0)
    assert await relying([DONE], callbacks) == [50]
    assert callbacks.silences == [20]


async def test_the_wait_for_an_event_is_longer_when_tasks_are_seen_to_take_longer():
    callbacks = Relied()

    def slower(_):
        callbacks.until = 80.0

    assert await relying([DONE], callbacks, slower) == [80]


def rely(callbacks, *, now=True):
    """Let events be relied on from some time on, or no longer."""

    def act(watcher):
        callbacks.relied_on = now
        watcher.reconsider()

    return act


async def test_when_events_are_no_longer_relied_on_the_common_schedule_takes_over():
    callbacks = Relied()
    polls = await relying([RUNNING, DONE], callbacks, rely(callbacks, now=False), polling=Polling.fixed(20.0))
    assert polls == [pytest.approx(20), pytest.approx(40, rel=0.15)]
    assert callbacks.ends == [("t", False, None)]


async def test_when_events_are_relied_on_from_now_on_tasks_are_left_to_them():
    callbacks = Relied(relied_on=False)
    polls = await relying([RUNNING, DONE], callbacks, rely(callbacks), polling=Polling.fixed(30.0))
    assert polls == [50, 75]


async def test_a_task_whose_event_should_have_come_by_now_stays_in_the_schedule():
    callbacks = Relied(relied_on=False, until=5.0)
    assert await relying([DONE], callbacks, rely(callbacks), polling=Polling.fixed(30.0)) == [30]


async def test_a_task_in_doubt_stays_in_the_schedule_until_the_doubt_is_over():
    callbacks = Relied(relied_on=False)
    polls = await relying([RUNNING, *[NETWORK] * 6, DONE], callbacks, rely(callbacks))
    assert len(polls) == 8
    assert polls[-1] < 40
    assert callbacks.ends == [("t", False, None)]


async def test_a_task_that_is_polled_when_events_begin_to_be_relied_on_is_left_to_its_own_afterwards():
    callbacks = Relied(relied_on=False, until=500.0)
    watched = []

    def act(watcher):
        watched.append(watcher)
        rely(callbacks)(watcher)

    polls = await relying([RUNNING, DONE], callbacks, act, latency=15.0)
    assert polls == [1, 500]
    assert watched[0].statistics().polls.polls == 2  # both were learned from


async def test_the_deadline_holds_for_tasks_that_are_left_to_their_events_too():
    polls = await relying([RUNNING], Relied(until=1e6), polling=Polling.fixed(1.0, deadline=60))
    assert polls == []
    assert anyio.current_time() == pytest.approx(60)


async def test_a_task_that_failed_tells_too_whether_its_event_came():
    callbacks = Relied()
    await relying([seen("TASK_STATUS_FAILED")], callbacks)
    await relying([refused(403, "INVALID_API_KEY")], callbacks)
    assert callbacks.ends == [("t", True, None)]


async def test_the_service_s_own_times_tell_how_long_a_task_took():
    callbacks = Relied()
    debug = {"submit_time_ms": "1700000000000", "complete_time_ms": "1700000007500"}
    await relying([seen("TASK_STATUS_SUCCEED", images=IMAGES, extra={"debug_info": debug})], callbacks)
    assert callbacks.ends == [("t", True, 7.5)]


async def test_the_pauses_of_overdue_tasks_are_never_shorter_than_the_grace():
    callbacks = Relied(until=11.0)
    first, second, *_ = await relying([RUNNING, RUNNING, DONE], callbacks)
    assert second - first >= GRACE
