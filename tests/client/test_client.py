"""Single calls: run, submit, poll, watch, save, fetch, models, balance, and what they raise."""

import asyncio
import json
import logging
from decimal import Decimal

import aiohttp
import anyio
import pytest

from novita_async import (
    Account,
    ApiKey,
    AuthenticationFailed,
    BadRequest,
    ConfigurationError,
    DownloadFailed,
    EndpointNotFound,
    Endpoints,
    Extra,
    Failed,
    GeneratedImage,
    ImageSource,
    InvalidRequest,
    NovitaClient,
    Polling,
    RetryPolicy,
    SubmissionUncertain,
    Succeeded,
    Task,
    TaskFailed,
    TaskNotFound,
    TaskTimeout,
    Txt2Img,
    Unfinished,
    events,
)
from novita_async._http import NotAURLError
from novita_async.models.routes import route_called
from novita_async.testing import Fault, FaultPlan, FaultRule
from tests.helpers.routed import request_for
from tests.helpers.service import client_of, of_kind, picture, request, requests, service

pytestmark = pytest.mark.anyio


async def test_run_gives_the_result_of_one_request():
    simulation = service()
    async with client_of(simulation) as (client, _):
        result = await client.run(request(seed=7, extra=Extra(enable_nsfw_detection=True)))
    assert result.seed == 7
    assert result.task_type == "IMG_TO_IMG"
    assert result.images[0].nsfw.checked
    assert result.task.account == f"key-{ApiKey(simulation.api_key).fingerprint}"
    assert client.unfinished == ()


async def test_events_tell_the_whole_way_of_a_request():
    async with client_of(service()) as (client, seen):
        await client.run(request())
    kinds = [type(event.fact if isinstance(event, events.Transition) else event) for event in seen]
    assert kinds[:2] == [events.Announced, events.Bought]
    assert kinds[-2:] == [events.Finished, events.Completed]
    assert set(kinds[2:-2]) == {events.Polled}


async def test_events_are_made_only_where_somebody_takes_them(monkeypatch):
    made = []
    monkeypatch.setattr(events, "Transition", lambda **facts: made.append(facts))
    simulation = service()
    transport = simulation.transport(timeout=120.0)
    for observers in ([], [lambda _: None]):
        async with NovitaClient(simulation.api_key, transport=transport, observers=observers) as client:
            await client.submit(request())
        assert len(made) == 2 * len(observers)


async def test_submit_gives_the_task_at_once_and_another_client_can_watch_its_id():
    simulation = service()
    async with client_of(simulation) as (client, _):
        task = await client.submit(request())
        assert client.unfinished == (task,)
    async with client_of(simulation) as (other, _), other.watch([task.task_id]) as outcomes:
        (outcome,) = [outcome async for outcome in outcomes]
    assert isinstance(outcome, Succeeded)
    assert outcome.task_id == task.task_id
    assert outcome.request is None


async def test_poll_looks_once():
    async with client_of(service(workers=1)) as (client, _):
        first, second = [await client.submit(request(steps=100, seed=seed)) for seed in range(2)]
        await anyio.sleep(0.5)
        assert (await client.poll(first)).state == "running"
        assert (await client.poll(second)).status == "TASK_STATUS_QUEUED"
        await anyio.sleep(60)
        snapshot = await client.poll(first.task_id)
        assert snapshot.result.images
        assert client.unfinished == (second,)


async def test_a_timeout_holds_the_task_and_names_the_command_that_goes_on():
    async with client_of(service(speed=0.01)) as (client, _):
        with pytest.raises(TaskTimeout) as caught:
            await client.run(request(), timeout=10)
        assert caught.value.task == client.unfinished[0]
        assert anyio.current_time() < 20
        async with client.watch([caught.value.task]) as outcomes:
            assert isinstance(await anext(outcomes), Succeeded)


async def test_a_timeout_of_asyncio_loses_no_purchase():
    simulation = service(latency=2.0, latency_jitter=0.0)
    async with client_of(simulation) as (client, _):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3.0):
                await client.run(request())
        assert [task.task_id for task in client.unfinished] == [simulation.ledger.accepted[0].task_id]
    assert anyio.current_time() == pytest.approx(4.0)


async def test_a_cancelled_task_of_asyncio_aborts_what_was_not_handed_over():
    simulation = service(latency=2.0, latency_jitter=0.0)
    async with client_of(simulation) as (client, _):
        task = asyncio.ensure_future(client.submit(request()))
        await anyio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.unfinished == ()
    assert simulation.ledger.accepted == []


async def test_a_hundred_runs_at_once_all_come_back():
    simulation = service(workers=8)
    async with client_of(simulation) as (client, _):
        results = await asyncio.gather(*(client.run(request(seed=seed)) for seed in range(100)))
    assert sorted(result.seed for result in results) == list(range(100))


async def test_a_failed_task_raises_with_its_id_and_the_reason():
    async with client_of(service(failure_rate=1.0)) as (client, _):
        with pytest.raises(TaskFailed, match=r"failed to exec task|fail") as caught:
            await client.run(request())
    assert caught.value.task_id in str(caught.value)


async def test_a_failed_task_that_comes_as_an_http_error_is_the_same_failure():
    async with client_of(service(failure_rate=1.0, failure_as_error=True)) as (client, _):
        with pytest.raises(TaskFailed):
            await client.run(request())


async def test_a_wrong_key_raises_at_once_and_the_key_is_nowhere_in_it():
    async with client_of(service(), api_key="sk_wrong_secret") as (client, seen):
        with pytest.raises(AuthenticationFailed) as caught:
            await client.run(request())
        shown = f"{caught.value!r} {caught.value} {client!r} {client.statistics()!r} {seen!r}"
    assert "sk_wrong_secret" not in shown
    assert caught.value.scope == "account"
    assert not caught.value.retryable


async def test_an_account_that_was_taken_out_may_try_again_after_a_minute():
    simulation = service(balance=10, price=20)
    async with client_of(simulation) as (client, seen):
        for _ in range(3):
            with pytest.raises(Exception, match="NOT_ENOUGH_BALANCE"):
                await client.run(request())
        assert len(simulation.ledger.entries) == 1
        await anyio.sleep(61)
        with pytest.raises(Exception, match="NOT_ENOUGH_BALANCE"):
            await client.run(request())
        assert len(simulation.ledger.entries) == 2
    assert len(of_kind(seen, events.AccountDisabled)) == 1


@pytest.mark.parametrize(("fault", "known"), [(Fault.stall(), True), (Fault.refuse(), False)])
async def test_a_purchase_that_its_caller_left_without_an_end_is_kept_if_it_may_be_paid(fault, known):
    simulation = service(faults=FaultPlan.of(FaultRule(fault=fault, on="submit")))
    async with client_of(simulation, drain=3) as (client, _):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await client.submit(request(image_num=2))
        assert client.unfinished == ()
        assert [error.images for error in client.uncertain] == [2] * known


@pytest.mark.parametrize("row", ["openai-images-edits", "seedream-4.5", "remove-background"])
async def test_results_that_came_to_a_caller_who_was_cancelled_are_kept_with_their_request(row, tmp_path):
    wanted = request_for(route_called(row)).tagged("dog-1")
    async with client_of(service(plain_pictures=True, speed=0.5), drain=60) as (client, seen):
        with anyio.move_on_after(0.5):
            await client.run(wanted)
        (kept,) = client.unreported
        assert (kept.request, kept.tag) == (wanted, "dog-1")
        assert (client.unfinished, client.uncertain) == ((), ())
        (path,) = await client.save(kept.result, tmp_path)
        assert path.stat().st_size
    assert of_kind(seen, events.Finished) == []


async def test_nothing_is_kept_of_results_that_were_handed_over(tmp_path):
    async with client_of(service(plain_pictures=True)) as (client, _):
        await client.run(request_for(route_called("gemini-generate")))
        async with client.stream([request_for(route_called("gemini-generate"))] * 2) as outcomes:
            await anext(outcomes)
            await anyio.sleep(600)
            assert len(client.unreported) == 1
            await anext(outcomes)
        assert client.unreported == ()


async def test_a_retired_route_has_an_error_of_its_own():
    async with client_of(service(retired="/v3/async/img2img")) as (client, _):
        with pytest.raises(EndpointNotFound, match="may be retired") as caught:
            await client.run(request())
    assert caught.value.scope == "endpoint"


async def test_routes_can_be_set():
    simulation = service(retired="/v3/async/img2img")
    async with client_of(simulation, endpoints=Endpoints(img2img="/v3/async/inpainting")) as (client, _):
        assert (await client.run(request())).task.endpoint == "/v3/async/inpainting"


async def test_an_unknown_task_fails_at_once():
    async with client_of(service()) as (client, _):
        with pytest.raises(TaskNotFound):
            await client.poll("no-such-task")
        async with client.watch(["no-such-task"]) as outcomes:
            outcome = await anext(outcomes)
    assert isinstance(outcome, Failed)
    assert outcome.task_id == "no-such-task"
    assert anyio.current_time() < 5


async def test_a_task_that_is_not_found_right_after_its_submission_is_looked_for_again():
    async with client_of(service(visible_after=2.0)) as (client, seen):
        await client.run(request())
    assert any(isinstance(event.error, TaskNotFound) for event in of_kind(seen, events.Polled))


async def test_a_task_of_yesterday_is_found_with_the_key_that_paid():
    simulation = service(api_keys=("one", "two"))
    accounts = [Account(api_key="one", label="one"), Account(api_key="two", label="two")]
    async with client_of(simulation, accounts=accounts[1:]) as (client, _):
        task = await client.submit(request())
    async with (
        client_of(simulation, accounts=accounts) as (client, _),
        client.watch([task.task_id]) as outcomes,
    ):
        outcome = await anext(outcomes)
    assert isinstance(outcome, Succeeded)
    assert outcome.task.account == "two"


@pytest.mark.parametrize(
    "fault",
    [
        Fault.refuse(),
        Fault.reset_after(),
        Fault.stall(),
        Fault.truncate(5),
        Fault.garbage(),
        Fault.answer(429, retry_after=3),
        Fault.answer(500),
        Fault.answer(502, b"<html>", content_type="text/html"),
    ],
    ids=lambda fault: fault.kind.value,
)
async def test_faults_of_polls_are_ridden_out(fault):
    plan = FaultPlan.of(FaultRule(fault=fault, on="poll", numbers=range(1, 6)))
    simulation = service(faults=plan)
    async with client_of(simulation) as (client, seen):
        result = await client.run(request())
    assert result.images
    assert len([event for event in of_kind(seen, events.Polled) if event.error]) == 5


async def test_polls_that_fail_for_longer_than_the_error_timeout_leave_the_task_unfinished_and_say_why():
    plan = FaultPlan.of(FaultRule(fault=Fault.answer(500), on="poll"))
    async with client_of(service(faults=plan), polling=Polling.exponential(error_timeout=30)) as (client, _):
        async with client.watch([await client.submit(request())]) as outcomes:
            outcome = await anext(outcomes)
    assert isinstance(outcome, Unfinished)
    assert outcome.error.last_error.status == 500
    assert client.unfinished == (outcome.task,)


@pytest.mark.parametrize(
    ("status", "reason"), [(400, "VALIDATOR"), (401, "FAILED_TO_AUTH"), (403, "API_NOT_ALLOWED")]
)
async def test_polls_that_the_service_refuses_fail_at_once(status, reason):
    plan = FaultPlan.of(
        FaultRule(fault=Fault.answer(status, json.dumps({"reason": reason}).encode()), on="poll")
    )
    simulation = service(faults=plan)
    async with client_of(simulation) as (client, _):
        async with client.watch([await client.submit(request())]) as outcomes:
            outcome = await anext(outcomes)
    assert isinstance(outcome, Failed)
    assert outcome.error.status == status
    assert sum(map(len, simulation.ledger.polls.values())) <= 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418])
async def test_a_gateway_s_page_instead_of_an_answer_never_ends_a_paid_task(status):
    """The outage is ridden out for the timeout; then the task is unfinished, and known."""
    plan = FaultPlan.of(FaultRule(fault=Fault.answer(status, b"<html>blocked</html>"), on="poll"))
    async with client_of(service(faults=plan)) as (client, _):
        async with client.watch([await client.submit(request())]) as outcomes:
            outcome = await anext(outcomes)
        assert isinstance(outcome, Unfinished)
        assert outcome.error.last_error.status == status
        assert client.unfinished == (outcome.task,)


async def test_a_status_that_nobody_knows_is_still_running_until_the_deadline():
    odd = b'{"task": {"status": "TASK_STATUS_DREAMING"}}'
    plan = FaultPlan.of(FaultRule(fault=Fault.garbage(odd), on="poll"))
    async with client_of(service(faults=plan)) as (client, _):
        with pytest.raises(TaskTimeout) as caught:
            await client.run(request(), timeout=50)
    assert caught.value.last_status == "TASK_STATUS_DREAMING"


@pytest.mark.parametrize("fault", [Fault.truncate(3), Fault.garbage(), Fault.answer(502, acted=True)])
async def test_an_unusable_answer_to_a_submission_raises_uncertain_with_what_is_known(fault):
    simulation = service(faults=FaultPlan.listed("submit", {1: fault}))
    async with client_of(simulation) as (client, _):
        with pytest.raises(SubmissionUncertain) as caught:
            await client.submit(request(image_num=3))
    assert caught.value.images == 3
    assert caught.value.endpoint == "/v3/async/img2img"
    assert len(simulation.ledger.entries) == 1


async def test_a_service_that_says_no_task_was_made_is_asked_again():
    body = b'{"code": 500, "reason": "CREATE_TASK_FAILED", "message": "no", "metadata": {}}'
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.answer(500, body)}))
    async with client_of(simulation) as (client, _):
        await client.run(request())
    assert len(simulation.ledger.accepted) == 1


async def test_both_forms_of_the_submit_answer_are_understood():
    for envelope in (True, False):
        async with client_of(service(envelope=envelope)) as (client, _):
            assert (await client.submit(request())).task_id


async def test_a_refusal_carries_the_reason_and_costs_nothing():
    simulation = service(illegal_words="forbidden")
    async with client_of(simulation) as (client, _):
        with pytest.raises(BadRequest, match="ILLEGAL_PROMPT") as caught:
            await client.run(request(prompt="forbidden"))
    assert caught.value.status == 400
    assert simulation.ledger.billed == 0


async def test_a_picture_that_changed_since_it_was_measured_is_refused_before_anything_is_bought(tmp_path):
    path = tmp_path / "dog.png"
    path.write_bytes(picture())
    asked = request(image=path)
    path.write_bytes(picture() + b"more")
    simulation = service()
    async with client_of(simulation) as (client, _):
        with pytest.raises(InvalidRequest, match="changed"):
            await client.run(asked)
    assert simulation.ledger.accepted == []


async def test_save_never_writes_over_a_file_and_leaves_no_partial_one(tmp_path):
    async with client_of(service()) as (client, _):
        result = await client.run(request(image_num=2))
        first = await client.save(result, tmp_path, name="../dog: 1")
        second = await client.save(result, tmp_path, name="../dog: 1")
    assert len({*first, *second}) == 4
    assert {path.parent for path in (*first, *second)} == {tmp_path}
    assert [path.name for path in first] == ["dog_1-1.png", "dog_1-2.png"]
    assert set(tmp_path.iterdir()) == {*first, *second}
    assert first[0].read_bytes() == second[0].read_bytes()


async def test_fetch_gives_the_picture_itself():
    async with client_of(service()) as (client, _):
        result = await client.run(request(width=320, height=200))
        data = await client.fetch(result.images[0])
    source = ImageSource.from_bytes(data)
    assert (source.format, source.width, source.height) == ("png", 320, 200)


async def test_an_expired_url_is_signed_anew(tmp_path):
    async with client_of(service(url_ttl=60)) as (client, _):
        result = await client.run(request())
        await anyio.sleep(3600)
        (path,) = await client.save(result, tmp_path)
        assert path.stat().st_size > 0
        assert client.statistics().saver.refreshed == 1


class NoAddress:
    """A downloader to whom this many first addresses are no URLs."""

    def __init__(self, real, times):
        self.real, self.left = real, times

    def open(self, url, /):
        self.left -= 1
        if self.left >= 0:
            raise NotAURLError
        return self.real.open(url)

    async def aclose(self):
        pass


async def test_an_address_that_is_no_url_is_asked_for_anew_and_not_waited_for(tmp_path):
    simulation = service()
    transport = simulation.transport()
    for times in (1, 10):
        downloader = NoAddress(transport, times)
        async with NovitaClient(simulation.api_key, transport=transport, downloader=downloader) as client:
            result = await client.run(request())
            began_at = anyio.current_time()
            if times == 1:
                assert len(await client.save(result, tmp_path)) == 1
            else:
                with pytest.raises(DownloadFailed, match="not an http or https URL") as caught:
                    await client.save(result, tmp_path)
                assert caught.value.task_id == result.task.task_id
            assert anyio.current_time() - began_at < 5


async def test_an_expired_url_is_signed_anew_for_a_single_file_as_well():
    async with client_of(service(url_ttl=60)) as (client, _):
        result = await client.run(request(image_num=3))
        fresh = [await client.fetch(image) for image in result.images]
        await anyio.sleep(3600)
        assert [await client.fetch(image) for image in result.images] == fresh
        assert client.statistics().saver.refreshed == 3


async def test_a_file_that_cannot_be_had_names_its_task():
    plan = FaultPlan.of(FaultRule(fault=Fault.answer(403), on="download"))
    async with client_of(service(faults=plan)) as (client, _):
        result = await client.run(request())
        with pytest.raises(DownloadFailed, match=f"novita-async watch {result.task.task_id}") as caught:
            await client.fetch(result.images[0])
        assert caught.value.task_id == result.task.task_id
        alone = GeneratedImage(url=result.images[0].url)  # put together by hand: no task is known
        with pytest.raises(DownloadFailed, match="poll the task for a fresh URL"):
            await client.fetch(alone)


@pytest.mark.parametrize(
    "fault", [Fault.reset_before(), Fault.truncate(100), Fault.answer(500), Fault.stall()]
)
async def test_a_download_that_breaks_off_is_tried_again(tmp_path, fault):
    simulation = service(faults=FaultPlan.listed("download", {1: fault}))
    async with client_of(simulation) as (client, _):
        (path,) = await client.save(await client.run(request()), tmp_path)
        assert ImageSource.from_path(path).format == "png"
        assert list(tmp_path.iterdir()) == [path]


async def test_a_page_of_html_is_never_saved_as_a_picture(tmp_path):
    plan = FaultPlan.of(FaultRule(fault=Fault.garbage(), on="download"))
    async with client_of(service(faults=plan)) as (client, _):
        result = await client.run(request())
        with pytest.raises(DownloadFailed, match="no picture") as caught:
            await client.save(result, tmp_path)
        assert "X-Amz" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_cannot_be_made_is_a_failed_download_that_names_the_task(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    async with client_of(service()) as (client, _):
        result = await client.run(request())
        with pytest.raises(DownloadFailed, match="cannot be written") as caught:
            await client.save(result, tmp_path / "file")
    assert caught.value.task_id == result.task.task_id


async def test_a_stream_names_files_as_it_is_told(tmp_path):
    async with client_of(service()) as (client, _):
        name = lambda outcome: f"dog-{outcome.request.seed}"  # noqa: E731
        async with client.stream(requests(3), save_to=tmp_path, save_as=name) as outcomes:
            paths = [outcome.paths[0].name async for outcome in outcomes]
    assert sorted(paths) == ["dog-0-1.png", "dog-1-1.png", "dog-2-1.png"]


async def test_models_come_page_by_page():
    async with client_of(service()) as (client, _):
        everything = [record async for record in client.models()]
        loras = [record async for record in client.models(types="lora", is_sdxl=False)]
    assert len({record.id for record in everything}) == len(everything) > len(loras) > 0
    assert all(record.type == "lora" and not record.is_sdxl and record.api_name for record in loras)


async def test_balance_is_in_dollars():
    async with client_of(service(balance=12_345)) as (client, _):
        assert (await client.balance()).available == Decimal("1.2345")


async def test_questions_are_asked_again_when_the_network_fails():
    plan = FaultPlan.of(FaultRule(fault=Fault.reset_after(), on="other", numbers=range(1, 4)))
    async with client_of(service(faults=plan)) as (client, _):
        assert (await client.balance()).available > 0


async def test_questions_give_up_after_the_timeout():
    plan = FaultPlan.of(FaultRule(fault=Fault.refuse(), on="other"))
    async with client_of(service(faults=plan), retry=RetryPolicy(max_elapsed=5)) as (client, _):
        with pytest.raises(Exception, match="no answer"):
            await client.balance()


async def test_a_question_that_cannot_be_asked_is_asked_once():
    session = aiohttp.ClientSession()
    await session.close()
    async with NovitaClient("a-key", session=session) as client:
        with pytest.raises(ConfigurationError, match="closed"):
            await client.balance()
    assert anyio.current_time() < 1


@pytest.mark.parametrize("kind", ["submit", "other"])
async def test_a_key_that_the_service_quotes_is_not_passed_on(kind):
    key = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
    says = b'{"reason": "INVALID_API_KEY", "message": "%s is no key"}' % key.encode()
    plan = FaultPlan.of(FaultRule(fault=Fault.answer(403, says), on=kind))
    async with client_of(service(faults=plan), api_key=key) as (client, seen):
        with pytest.raises(AuthenticationFailed, match="… is no key") as caught:
            await (client.submit(request()) if kind == "submit" else client.balance())
    assert key not in f"{caught.value} {vars(caught.value)} {seen}"


async def test_an_observer_that_fails_breaks_nothing(caplog):
    def broken(event):
        raise RuntimeError("observer")

    simulation = service()
    transport = simulation.transport()
    async with NovitaClient(
        simulation.api_key, transport=transport, downloader=transport, observers=[broken]
    ) as client:
        with caplog.at_level(logging.ERROR):
            await client.run(request())
    assert "an observer failed on Transition" in caplog.text


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "the API key is empty"),
        ({"api_key": " Bearer  "}, "the API key is empty"),
        ({"api_key": "two words"}, "no HTTP header can carry"),
        ({"accounts": []}, "no account"),
        ({"api_key": "a", "accounts": [Account(api_key="b")]}, "together with accounts"),
        ({"accounts": [Account(api_key="a"), Account(api_key="a")]}, "two accounts are called"),
        ({"api_key": "a", "base_url": "api.novita.ai"}, "api.novita.ai"),
    ],
)
async def test_a_client_that_cannot_work_is_refused(options, problem):
    with pytest.raises(ConfigurationError, match=problem):
        NovitaClient(**options)


async def test_the_environment_has_the_key_and_the_address_of_a_client_that_is_given_none(monkeypatch):
    monkeypatch.setenv("NOVITA_API_KEY", " Bearer k\n")
    monkeypatch.setenv("NOVITA_BASE_URL", "http://127.0.0.1:1/x")
    async with NovitaClient() as client:
        assert client.statistics().pool.accounts[0].label == f"key-{ApiKey('k').fingerprint}"
    async with NovitaClient("another") as client:
        assert client.statistics().pool.accounts[0].label == f"key-{ApiKey('another').fingerprint}"
    monkeypatch.setenv("NOVITA_BASE_URL", "no-address.example")
    with pytest.raises(ConfigurationError, match="the base URL"):
        NovitaClient()
    monkeypatch.delenv("NOVITA_API_KEY")
    monkeypatch.delenv("NOVITA_BASE_URL")
    with pytest.raises(ConfigurationError, match="NOVITA_API_KEY"):
        NovitaClient()


async def test_txt2img_shares_the_way():
    asked = Txt2Img(model_name="m", prompt="p", width=512, height=384)
    async with client_of(service()) as (client, _):
        result = await client.run(asked)
        source = ImageSource.from_bytes(await client.fetch(result.images[0]))
    assert (source.width, source.height) == (512, 384)


async def test_tasks_can_be_added_to_a_watch_that_runs():
    async with client_of(service()) as (client, _):
        first, second = [await client.submit(request(seed=seed)) for seed in range(2)]
        async with client.watch([first]) as outcomes:
            outcomes.watch(second)
            found = {outcome.task_id async for outcome in outcomes}
    assert found == {first.task_id, second.task_id}


async def test_watching_the_same_task_twice_gives_one_outcome():
    async with client_of(service()) as (client, _):
        task = await client.submit(request())
        async with client.watch([task, task.task_id, Task(task_id=task.task_id)]) as outcomes:
            found = [outcome async for outcome in outcomes]
    assert len(found) == 1


async def test_what_was_learned_of_durations_is_kept_from_one_client_to_the_next(tmp_path):
    simulation = service(spread=0.0, workers=50)
    took = []
    for _ in range(2):
        learned = tmp_path / "cache" / "durations.json"
        began_at = anyio.current_time()
        async with client_of(simulation, polling=Polling(), learned=learned) as (client, _):
            await asyncio.gather(*(client.run(request(seed=seed)) for seed in range(30)))
        took.append(anyio.current_time() - began_at)
    assert took[1] < took[0]
    assert learned.read_bytes()


async def test_a_file_of_learned_durations_that_is_damaged_or_cannot_be_written_is_passed_over(tmp_path):
    (tmp_path / "damaged").write_bytes(b"\xff{")
    (tmp_path / "file").write_text("")
    for learned in (tmp_path / "damaged", tmp_path / "file" / "below", tmp_path):
        async with client_of(service(), learned=learned) as (client, _):
            await client.run(request())


async def test_a_slow_consumer_slows_polling_instead_of_filling_memory():
    simulation = service(workers=100)
    async with client_of(simulation, polling=Polling.fixed(1, concurrency=4)) as (client, _):
        tasks = [await client.submit(request(seed=seed)) for seed in range(50)]
        async with client.watch(tasks) as outcomes:
            await anyio.sleep(1000)
            assert sum(map(len, simulation.ledger.polls.values())) <= 8
            assert len([outcome async for outcome in outcomes]) == 50


async def test_polls_keep_to_their_rate():
    simulation = service(workers=1000, latency=0.0, speed=0.01)
    async with client_of(simulation, polling=Polling.fixed(0.1, polls_per_second=5, concurrency=50)) as (
        client,
        _,
    ):
        tasks = [await client.submit(request(seed=seed)) for seed in range(50)]
        before = anyio.current_time()
        async with client.watch(tasks, timeout=20) as outcomes:
            assert len([outcome async for outcome in outcomes]) == 50
        took = anyio.current_time() - before
    assert sum(map(len, simulation.ledger.polls.values())) <= 5 * took + 1
