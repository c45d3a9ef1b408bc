"""Streams: lazy input, bounded flight, completion order, isolation, the fuse, leaving early."""

import itertools

import anyio
import pytest

from novita_async import (
    Account,
    AnyTask,
    AuthenticationFailed,
    BalanceExhausted,
    ConfigurationError,
    DownloadFailed,
    EndpointNotFound,
    Failed,
    InvalidRequest,
    NovitaClient,
    Polling,
    RetryPolicy,
    SubmissionUncertain,
    Succeeded,
    TaskFailed,
    Txt2Img,
    Uncertain,
    Unfinished,
    events,
)
from novita_async._http import HTTPResponse
from novita_async.testing import Fault, FaultPlan, FaultRule
from tests.helpers.service import client_of, of_kind, request, requests, service

pytestmark = pytest.mark.anyio


async def gathered(client, stream_of, **options):
    async with client.stream(stream_of, **options) as outcomes:
        return [outcome async for outcome in outcomes], outcomes


async def test_every_request_has_exactly_one_outcome_and_is_bought_once():
    simulation = service(workers=8)
    async with client_of(simulation) as (client, _):
        got, outcomes = await gathered(client, requests(200))
    assert all(isinstance(outcome, Succeeded) for outcome in got)
    assert sorted(outcome.request.seed for outcome in got) == list(range(200))
    assert len(simulation.ledger.accepted) == 200
    assert outcomes.unfinished == ()
    assert client.unfinished == ()


async def test_hundreds_of_requests_take_a_second_of_real_time_and_minutes_of_virtual_time():
    simulation = service(workers=2)
    async with client_of(simulation) as (client, _):
        got, _ = await gathered(client, requests(250))
    assert len(got) == 250
    assert anyio.current_time() > 60


async def test_outcomes_come_in_the_order_in_which_tasks_end():
    simulation = service(workers=4, spread=0.0)
    slow, quick = request(steps=100, width=1024, height=1024), request(steps=1)
    async with client_of(simulation) as (client, _):
        got, _ = await gathered(client, [slow, quick])
    assert [outcome.request for outcome in got] == [quick, slow]


async def test_an_endless_input_is_read_no_further_than_there_are_slots():
    taken = []

    def endless():
        for seed in itertools.count():
            taken.append(seed)
            yield request(seed=seed)

    simulation = service()
    async with client_of(simulation) as (client, _), client.stream(endless(), in_flight=5) as outcomes:
        await anyio.sleep(600)
        assert len(taken) == 5
        await anext(outcomes)
        await anyio.sleep(600)
        assert len(taken) == 6


async def test_an_async_input_is_taken_as_well_and_closed_when_the_stream_is_left():
    async def numbered():
        for seed in range(100):
            yield request(seed=seed)

    source = numbered()
    async with client_of(service()) as (client, _):
        async with client.stream(source, in_flight=3) as outcomes:
            assert isinstance(await anext(outcomes), Succeeded)
        assert 1 < outcomes.statistics().taken_in < 100
        assert [left async for left in source] == []


async def test_a_request_that_is_refused_is_one_outcome_and_the_others_go_on():
    simulation = service(illegal_words="forbidden")
    mixed = [request(prompt="fine", seed=1), request(prompt="forbidden"), request(prompt="fine", seed=2)]
    async with client_of(simulation) as (client, _):
        got, _ = await gathered(client, mixed)
    failed = [outcome for outcome in got if isinstance(outcome, Failed)]
    assert [outcome.request.prompt for outcome in failed] == ["forbidden"]
    assert failed[0].error.reason == "ILLEGAL_PROMPT"
    assert failed[0].task is None
    assert len(got) == 3


async def test_something_that_is_no_request_is_one_failed_outcome():
    async with client_of(service()) as (client, _):
        got, _ = await gathered(client, [request(), "not a request"])
    (failed,) = [outcome for outcome in got if isinstance(outcome, Failed)]
    assert isinstance(failed.error, InvalidRequest)
    assert "'not a request'" in str(failed.error)


async def test_a_failed_task_is_an_outcome_with_its_task():
    async with client_of(service(failure_rate=1.0)) as (client, _):
        got, _ = await gathered(client, [request()])
    (failed,) = got
    assert isinstance(failed.error, TaskFailed)
    assert failed.task_id == failed.error.task_id == failed.task.task_id
    with pytest.raises(TaskFailed):
        failed.unwrap()


async def test_a_lost_answer_is_uncertain_and_is_not_sent_again():
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.reset_after()}))
    async with client_of(simulation) as (client, _):
        got, outcomes = await gathered(client, [request()])
    (uncertain,) = got
    assert isinstance(uncertain, Uncertain)
    assert isinstance(uncertain.error, SubmissionUncertain)
    assert uncertain.task_id is None
    assert len(simulation.ledger.entries) == 1
    assert outcomes.uncertain == ()


async def test_a_lost_answer_is_sent_again_only_where_the_caller_opts_in():
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.reset_after()}))
    async with client_of(simulation, retry=RetryPolicy(resubmit_uncertain=True)) as (client, _):
        got, _ = await gathered(client, [request()])
    assert isinstance(got[0], Succeeded)
    assert len(simulation.ledger.accepted) == 2


async def test_a_refusal_does_not_undo_an_earlier_attempt_that_was_perhaps_bought():
    plan = FaultPlan.listed("submit", {1: Fault.reset_after(), 2: Fault.answer(400, b"{}")})
    async with client_of(service(faults=plan), retry=RetryPolicy(resubmit_uncertain=True)) as (client, _):
        got, _ = await gathered(client, [request()])
    assert isinstance(got[0], Uncertain)
    assert got[0].error.__cause__.status == 400


async def test_a_refused_connection_is_tried_again_and_costs_nothing():
    plan = FaultPlan.listed("submit", {1: Fault.refuse(), 2: Fault.reset_during(10)})
    simulation = service(faults=plan)
    async with client_of(simulation) as (client, seen):
        got, _ = await gathered(client, [request()])
    assert isinstance(got[0], Succeeded)
    assert len(simulation.ledger.accepted) == 1
    assert [event.attempt for event in of_kind(seen, events.Retrying)] == [1, 2]


async def test_a_wrong_key_ends_the_stream_once_and_counts_what_was_not_sent():
    async with client_of(service(), api_key="wrong") as (client, seen):
        with pytest.raises(AuthenticationFailed) as caught:
            await gathered(client, requests(1000))
    assert caught.value.unsent == len(of_kind(seen, events.Planned)) <= 65
    assert len(of_kind(seen, events.AccountDisabled)) == 1


async def test_an_empty_balance_lets_paid_outcomes_out_first_and_is_raised_then():
    simulation = service(balance=200, price=20)
    got = []
    async with client_of(simulation) as (client, seen), client.stream(requests(1000)) as outcomes:
        with pytest.raises(BalanceExhausted) as caught:
            async for outcome in outcomes:
                got.append(outcome)  # noqa: PERF401 - what came before the error counts
    assert len(got) == len(simulation.ledger.accepted) == 10
    assert all(isinstance(outcome, Succeeded) for outcome in got)
    assert caught.value.unsent + len(got) == len(of_kind(seen, events.Planned))


async def test_a_stream_goes_on_with_the_other_account_when_one_is_refused():
    simulation = service(api_keys=("good",))
    accounts = [Account(api_key="bad", label="bad"), Account(api_key="good", label="good")]
    async with client_of(simulation, accounts=accounts) as (client, seen):
        got, _ = await gathered(client, requests(50))
    assert all(isinstance(outcome, Succeeded) for outcome in got)
    assert {outcome.task.account for outcome in got} == {"good"}
    assert [event.account for event in of_kind(seen, events.AccountDisabled)] == ["bad"]


async def test_a_retired_route_ends_a_stream_that_uses_no_other():
    simulation = service(retired="/v3/async/img2img")
    async with client_of(simulation) as (client, _):
        with pytest.raises(EndpointNotFound, match="/v3/async/img2img") as caught:
            await gathered(client, requests(500))
    assert caught.value.unsent > 0
    assert simulation.ledger.accepted == []


async def test_a_retired_route_is_one_outcome_where_the_stream_uses_another_that_is_served():
    simulation = service(retired="/v3/async/img2img")
    drawn = Txt2Img(model_name="m", prompt="p", width=512, height=512)
    async with client_of(simulation) as (client, _):
        got, _ = await gathered(client, [drawn, request()])
    assert {type(outcome.request): type(outcome) for outcome in got} == {
        Txt2Img: Succeeded,
        type(request()): Failed,
    }


async def test_an_error_of_the_input_comes_after_the_outcomes_of_what_was_paid():
    def broken():
        yield request()
        raise KeyError("the user's own")

    got = []
    async with client_of(service()) as (client, _), client.stream(broken()) as outcomes:
        with pytest.raises(KeyError, match="the user's own"):
            async for outcome in outcomes:
                got.append(outcome)  # noqa: PERF401
    assert len(got) == 1


async def test_an_error_in_the_block_reaches_the_user_as_it_is():
    async with client_of(service()) as (client, _):
        with pytest.raises(ZeroDivisionError):
            async with client.stream(requests(100)) as outcomes:
                await anext(outcomes)
                raise ZeroDivisionError


async def test_a_group_of_errors_that_the_user_raises_stays_a_group():
    async with client_of(service()) as (client, _):
        with pytest.raises(ExceptionGroup, match="mine"):
            async with client.stream(requests(10)):
                raise ExceptionGroup("mine", [ValueError(1), KeyError(2)])


async def test_leaving_early_sends_nothing_more_and_hands_back_what_is_paid():
    simulation = service(workers=2)
    async with client_of(simulation) as (client, _):
        async with client.stream(requests(1000), in_flight=10) as outcomes:
            first = await anext(outcomes)
        bought = {entry.task_id for entry in simulation.ledger.accepted}
        await anyio.sleep(1000)
        assert {entry.task_id for entry in simulation.ledger.accepted} == bought
        left = {task.task_id for task in outcomes.unfinished}
        assert left == bought - {first.task_id}
        assert {task.task_id for task in client.unfinished} == left
        async with client.watch(outcomes.unfinished) as again:
            found = {outcome.task_id async for outcome in again}
        assert found == left
        assert client.unfinished == ()


async def test_a_purchase_that_was_handed_over_is_known_even_when_the_stream_is_left_meanwhile():
    simulation = service(latency=2.0, latency_jitter=0.0)
    async with client_of(simulation) as (client, _):
        async with client.stream(requests(1)) as outcomes:
            await anyio.sleep(3.0)  # arrived, not yet answered
        assert [task.task_id for task in outcomes.unfinished] == [simulation.ledger.accepted[0].task_id]
    assert anyio.current_time() == pytest.approx(4.0)


async def test_a_purchase_whose_answer_does_not_come_within_the_drain_is_kept_as_uncertain():
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.stall()}), latency=0.0)
    async with client_of(simulation, drain=5.0) as (client, _):
        async with client.stream(requests(1)) as outcomes:
            await anyio.sleep(1.0)
        assert len(outcomes.uncertain) == 1
        assert outcomes.unfinished == ()
    assert anyio.current_time() == pytest.approx(6.0)


async def test_a_purchase_that_was_not_handed_over_is_aborted_at_once():
    simulation = service(latency=10.0, latency_jitter=0.0)
    async with client_of(simulation) as (client, _):
        async with client.stream(requests(1)) as outcomes:
            await anyio.sleep(5.0)
        assert outcomes.unfinished == outcomes.uncertain == ()
    assert anyio.current_time() == pytest.approx(5.0)
    assert simulation.ledger.accepted == []


async def test_a_task_that_does_not_end_in_time_is_unfinished_and_not_failed():
    simulation = service(speed=0.0001)
    async with client_of(simulation, polling=Polling.fixed(5, deadline=60)) as (client, _):
        got, outcomes = await gathered(client, [request()])
    (unfinished,) = got
    assert isinstance(unfinished, Unfinished)
    assert unfinished.error.task == unfinished.task
    assert str(unfinished.error).endswith(f"novita-async watch {unfinished.task_id}")
    assert outcomes.unfinished == (unfinished.task,)


async def test_files_are_on_disk_when_their_outcome_comes(tmp_path):
    async with client_of(service()) as (client, seen):
        got, _ = await gathered(client, requests(3, image_num=2), save_to=tmp_path / "out")
    assert all(len(outcome.paths) == 2 for outcome in got)
    assert all(path.read_bytes().startswith(b"\x89PNG") for outcome in got for path in outcome.paths)
    assert len(of_kind(seen, events.FileSaved)) == 6
    assert {path for outcome in got for path in outcome.paths} == set((tmp_path / "out").glob("*.png"))
    others = {path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".png"}
    assert others == {"novita-index.jsonl", "inputs"}


async def test_a_result_that_cannot_be_fetched_is_a_failed_outcome_whose_task_is_not_forgotten(tmp_path):
    simulation = service(faults=FaultPlan.of(FaultRule(fault=Fault.reset_before(), on="download")))
    async with client_of(simulation, retry=RetryPolicy(max_elapsed=10)) as (client, _):
        got, _ = await gathered(client, [request()], save_to=tmp_path)
    assert isinstance(got[0].error, DownloadFailed)
    assert got[0].task_id in str(got[0].error)
    assert {path.name for path in tmp_path.iterdir()} == {"novita-index.jsonl", "inputs"}


async def test_no_slot_at_all_is_refused():
    async with client_of(service()) as (client, _):
        with pytest.raises(ConfigurationError, match="in_flight: 0"):
            client.stream([request()], in_flight=0)


async def test_any_other_endpoint_that_answers_with_a_task_id_is_served():
    task = AnyTask(path="/v3/async/upscale", body={"request": {"image_base64": "eHl6"}})
    async with client_of(service()) as (client, _):
        got, _ = await gathered(client, [task])
    assert isinstance(got[0], Succeeded)


async def test_statistics_add_up_while_a_stream_runs():
    async with client_of(service()) as (client, _), client.stream(requests(40), in_flight=8) as outcomes:
        await anext(outcomes)
        await anyio.sleep(100)
        s = outcomes.statistics()
        assert s.delivered == 1
        assert s.taken_in == 9
        assert repr(outcomes) == "<Outcomes: 9 taken in, 9 submitted, 1 delivered, 0 unsent>"


class OneTask:
    """A service that answers every submission with the same task id, as canned answers and caches do."""

    async def send(self, http, _, /, *, on_handover=None):
        await anyio.sleep(0.1)
        if http.method == "POST":
            on_handover()
            return HTTPResponse(status=200, body=b'{"task_id": "one"}')
        status = "TASK_STATUS_SUCCEED" if anyio.current_time() > 30 else "TASK_STATUS_QUEUED"
        return HTTPResponse(status=200, body=f'{{"task": {{"status": "{status}"}}}}'.encode())

    async def aclose(self):
        pass


async def test_requests_that_are_answered_with_one_task_id_have_an_outcome_each():
    seen = []
    async with NovitaClient("invented", transport=OneTask(), observers=[seen.append]) as client:
        got, outcomes = await gathered(client, requests(20), in_flight=5)
    assert sorted(outcome.request.seed for outcome in got) == list(range(20))
    assert {outcome.task_id for outcome in got} == {"one"}
    assert len(of_kind(seen, events.Finished)) == 20
    assert outcomes.unfinished == ()


async def test_a_batch_keeps_requests_apart_that_are_answered_with_one_task_id(tmp_path):
    for _ in range(2):
        async with (
            NovitaClient("invented", transport=OneTask()) as client,
            client.batch(requests(6), journal=tmp_path / "run.db", in_flight=3) as outcomes,
        ):
            got = [outcome async for outcome in outcomes]
        assert sorted(outcome.request.seed for outcome in got) == list(range(6))


async def test_a_stream_that_is_left_sends_nothing_while_its_input_is_being_closed():
    simulation = service()

    async def slow_to_close():
        try:
            for each in requests(9):
                yield each
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(120)

    async with client_of(simulation, images_per_minute=1) as (client, _):
        async with client.stream(slow_to_close(), in_flight=3) as outcomes:
            await anext(outcomes)
    assert len(simulation.ledger.entries) == 1
