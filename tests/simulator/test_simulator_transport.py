"""The simulator in memory, in virtual time: deliveries, faults, latency, webhooks."""

import asyncio
import math
from itertools import pairwise

import anyio
import msgspec
import pytest

from novita_async import Img2Img
from novita_async._http import Delivery, DeliveryFailed, FormPart, HTTPRequest, HTTPResponse
from novita_async._transport.pictures import PictureAnswer, PictureIntake
from novita_async.models.accounts import ApiKey
from novita_async.models.images import ImageSource
from novita_async.testing import (
    Fault,
    FaultPlan,
    SimulatedTransport,
    Simulation,
    Simulator,
    SimulatorConfig,
    run_virtually,
    sample_picture,
)
from tests.helpers.forms import fields_of
from tests.helpers.picture_answers import images_answer, picture
from tests.helpers.simulator_bodies import IMG2IMG, KEY, b64, img2img, png

pytestmark = pytest.mark.anyio
API_KEY = ApiKey(KEY)
BODY = msgspec.json.encode(img2img())
SUBMIT = HTTPRequest(method="POST", path=IMG2IMG, body=(BODY,))
HALF = len(BODY) // 2


def faulty(fault: Fault, on: str = "submit", **config) -> SimulatedTransport:
    return SimulatedTransport(
        Simulator(SimulatorConfig(**config), faults=FaultPlan.listed(on, {1: fault})), timeout=30.0
    )


def poll_of(task_id: str) -> HTTPRequest:
    return HTTPRequest(method="GET", path="/v3/async/task-result", query=(("task_id", task_id),))


def json(response: HTTPResponse):
    return msgspec.json.decode(response.body)


async def result_of(transport: SimulatedTransport, task_id: str):
    while True:
        found = json(await transport.send(poll_of(task_id), API_KEY))
        if found["images"]:
            return found
        await anyio.sleep(1)


NO_ANSWER = [
    (Fault.refuse(), Delivery.NOT_SENT, None, False),
    (Fault.reset_before(), Delivery.NOT_SENT, None, False),
    (Fault.reset_during(HALF), Delivery.NOT_SENT, None, False),
    (Fault.reset_during(10_000), Delivery.UNKNOWN, None, False),
    (Fault.reset_after(acted=False), Delivery.UNKNOWN, None, False),
    (Fault.reset_after(), Delivery.UNKNOWN, None, True),
    (Fault.stall(), Delivery.UNKNOWN, None, True),
    (Fault.stall(acted=False), Delivery.UNKNOWN, None, False),
    (Fault.truncate(5), Delivery.UNKNOWN, 200, True),
    (Fault.slow(1000.0), Delivery.UNKNOWN, None, True),
]


@pytest.mark.parametrize(("fault", "delivery", "status", "accepted"), NO_ANSWER)
async def test_without_an_answer_the_delivery_tells_how_far_it_got(fault, delivery, status, accepted):
    transport, handed_over = faulty(fault), []
    with pytest.raises(DeliveryFailed) as caught:
        await transport.send(SUBMIT, API_KEY, on_handover=lambda: handed_over.append(True))
    assert (caught.value.delivery, caught.value.status) == (delivery, status)
    assert len(handed_over) == (delivery is not Delivery.NOT_SENT)
    assert len(transport.simulator.ledger.accepted) == accepted
    (entry,) = transport.simulator.ledger.entries
    assert entry.fault is fault
    assert (await transport.send(SUBMIT, API_KEY)).status == 200
    assert repr(transport) == "<SimulatedTransport 2 exchanges, 1 faults>"


ANSWERS = [
    (Fault.garbage(), 200, "text/html", True),
    (Fault.answer(429, retry_after=7), 429, "application/json", False),
    (Fault.answer(502, b"bad gateway", content_type="text/plain", acted=True), 502, "text/plain", True),
    (Fault.slow(20.0), 200, "application/json", True),
]


@pytest.mark.parametrize(("fault", "status", "kind", "accepted"), ANSWERS)
async def test_an_answer_comes_as_the_fault_says(fault, status, kind, accepted):
    transport = faulty(fault)
    response = await transport.send(SUBMIT, API_KEY)
    assert (response.status, response.headers["content-type"]) == (status, kind)
    assert len(transport.simulator.ledger.accepted) == accepted
    assert transport.statistics().faults == 1


async def test_retry_after_is_a_header():
    response = await faulty(Fault.answer(503, retry_after=7)).send(SUBMIT, API_KEY)
    assert response.headers["retry-after"] == "7"


async def test_a_stalled_answer_is_given_up_after_the_timeout():
    with pytest.raises(DeliveryFailed):
        await faulty(Fault.stall(), latency=0.0).send(SUBMIT, API_KEY)
    assert anyio.current_time() == 30


async def test_a_slow_answer_takes_longer():
    await faulty(Fault.slow(20.0), latency=0.0).send(SUBMIT, API_KEY)
    assert anyio.current_time() == 20


async def test_faults_of_polls_and_downloads_leave_submissions_alone():
    transport = faulty(Fault.reset_after(), "poll")
    task = json(await transport.send(SUBMIT, API_KEY))["task_id"]
    with pytest.raises(DeliveryFailed):
        await transport.send(poll_of(task), API_KEY)
    assert (await result_of(transport, task))["task"]["status"] == "TASK_STATUS_SUCCEED"


async def test_every_way_takes_its_latency_with_jitter():
    transport = Simulation.of(SimulatorConfig(latency=1.0, latency_jitter=0.5)).transport()
    durations = []
    for _ in range(30):
        begin = anyio.current_time()
        await transport.send(SUBMIT, API_KEY)
        durations.append(anyio.current_time() - begin)
    assert all(1.0 <= seconds <= 3.0 for seconds in durations)
    assert max(durations) - min(durations) > 0.5


async def test_what_is_cancelled_on_its_way_there_buys_nothing_and_on_its_way_back_it_has():
    for seconds, accepted in ((0.9, 0), (1.1, 1)):
        transport = Simulation.of(SimulatorConfig(latency=1.0, latency_jitter=0.0)).transport()
        with anyio.move_on_after(seconds) as scope:
            await transport.send(SUBMIT, API_KEY)
        assert scope.cancelled_caught
        assert len(transport.simulator.ledger.accepted) == accepted


async def test_pictures_in_the_body_arrive_in_base64(tmp_path):
    data = sample_picture("x", (300, 300)) + bytes(600_000)
    path = tmp_path / "x.png"
    path.write_bytes(data)
    front, back = BODY.split(b64(png()).encode())
    request = HTTPRequest(method="POST", path=IMG2IMG, body=(front, ImageSource.from_path(path), back))
    transport = Simulation().transport()
    task = json(await transport.send(request, API_KEY))["task_id"]
    length = transport.simulator.ledger.entries[0].request["request"]["image_base64"]
    assert length == f"<{math.ceil(len(data) / 3) * 4} characters>"
    url = (await result_of(transport, task))["images"][0]["image_url"]
    async with transport.open(url) as download:
        assert (download.status, download.headers["content-type"]) == (200, "image/png")
        received = b"".join([chunk async for chunk in download.chunks()])
    assert len(received) == int(download.headers["content-length"])
    assert received.startswith(b"\x89PNG")
    assert transport.simulator.ledger.downloads == {task: 1}


async def test_a_cut_download_fails_after_its_bytes():
    transport = faulty(Fault.truncate(100), "download")
    task = json(await transport.send(SUBMIT, API_KEY))["task_id"]
    url = (await result_of(transport, task))["images"][0]["image_url"]
    async with transport.open(url) as download:
        chunks = download.chunks()
        assert len(await anext(chunks)) == 100
        with pytest.raises(DeliveryFailed, match="after 100 bytes"):
            await anext(chunks)


async def test_only_the_simulator_s_own_host_is_found():
    with pytest.raises(DeliveryFailed) as caught:
        async with Simulation().transport().open("https://elsewhere.invalid/x.png"):
            pass
    assert caught.value.delivery is Delivery.NOT_SENT


def test_a_simulator_outlives_its_loop():
    simulation = Simulation()

    async def submit() -> str:
        await anyio.sleep(500)
        return json(await simulation.transport().send(SUBMIT, API_KEY))["task_id"]

    async def watch(task: str) -> str:
        return json(await simulation.transport().send(poll_of(task), API_KEY))["task"]["status"]

    task = run_virtually(submit)
    assert run_virtually(watch, task) == "TASK_STATUS_PROCESSING"
    assert simulation.simulator.now > 500


# --- webhooks

HOOK = HTTPRequest(
    method="POST",
    path=IMG2IMG,
    body=(msgspec.json.encode(img2img({"webhook": {"url": "https://hooks.invalid/x"}})),),
)


async def events(transport: SimulatedTransport, statuses: list[int], submissions: int = 1):
    """Submit, take events until time is long past, and tell when each came, about what."""
    seen: list[tuple[float, str]] = []

    async def receive(url: str, body: bytes) -> int:
        seen.append((anyio.current_time(), msgspec.json.decode(body)["payload"]["task"]["task_id"]))
        status = statuses.pop(0) if statuses else 200
        if status == 0:
            raise ConnectionError
        await anyio.sleep(10 if status == 1 else 0)
        return status

    async with anyio.create_task_group() as group:
        group.start_soon(transport.deliver_webhooks, receive)
        for _ in range(submissions):
            await anyio.sleep(5)
            await transport.send(HOOK, API_KEY)
        await anyio.sleep(300)
        group.cancel_scope.cancel()
    assert transport.simulator._listeners == []
    return seen


async def test_an_event_comes_at_the_end_of_its_task():
    transport = Simulation().transport()
    seen = await events(transport, [], submissions=2)
    spans = {task: transport.simulator.span(task) for task in transport.simulator.tasks}
    assert seen == [(pytest.approx(span.ended_at), task) for task, span in spans.items()]
    assert transport.simulator.statistics().webhooks == 2


@pytest.mark.parametrize("bad", [0, 1, 404, 500, 302])
async def test_an_event_is_sent_again_when_its_receiver_raises_sleeps_or_refuses(bad):
    transport = Simulation().transport()
    seen = await events(transport, [bad, bad])
    assert len(seen) == 3
    assert len({task for _, task in seen}) == 1
    waits = [later[0] - earlier[0] for earlier, later in pairwise(seen)]
    slow = 5 if bad == 1 else 0
    assert waits == [pytest.approx(1 + slow), pytest.approx(2 + slow)]


async def test_after_five_retries_an_event_is_given_up():
    assert len(await events(Simulation().transport(), [500] * 10)) == 6


@pytest.mark.parametrize(("fault", "times"), [(Fault.lose_webhook(), 0), (Fault.duplicate_webhook(), 2)])
async def test_events_get_lost_and_come_twice(fault, times):
    assert len(await events(faulty(fault, "webhook"), [])) == times


async def test_the_library_s_own_client_reaches_it_in_memory():
    simulation = Simulation()
    async with simulation.client() as client:
        result = await client.run(Img2Img(model_name="any", image=png(512, 384), prompt="x", strength=0.0))
        assert (await client.fetch(result.images[0])).startswith(b"\x89PNG")
    assert simulation.ledger.images == 1


async def test_thousands_of_tasks_run_in_virtual_time():
    transport = Simulation.of(SimulatorConfig(workers=8)).transport()
    found: list[float] = []

    async def one() -> None:
        task = json(await transport.send(SUBMIT, API_KEY))["task_id"]
        await result_of(transport, task)
        found.append(anyio.current_time())

    async with anyio.create_task_group() as group:
        for _ in range(300):
            group.start_soon(one)
    assert len(found) == transport.simulator.statistics().done == 300


def edit(folder=None):
    return HTTPRequest(method="POST", path=IMG2IMG, body=(BODY,), answer="pictures", folder=folder)


async def test_pictures_in_an_answer_become_files_as_on_a_real_wire(tmp_path):
    transport = faulty(Fault.garbage(images_answer(picture(900), picture(70_000))))
    response = await transport.send(edit(tmp_path), API_KEY)
    assert [part.path.read_bytes() for part in response.parts] == [picture(900), picture(70_000)]
    assert [item["b64_json"] for item in json(response)["data"]] == [part.mark for part in response.parts]
    await transport.aclose()


async def test_pictures_without_a_folder_are_gone_when_the_transport_is_closed():
    transport = faulty(Fault.garbage(images_answer(picture(900), picture(70_000))))
    small, large = (await transport.send(edit(), API_KEY)).parts
    assert (small.data, large.path.read_bytes()) == (picture(900), picture(70_000))
    await transport.aclose()
    assert not large.path.exists()


async def test_an_answer_that_was_cut_is_one_where_a_picture_had_come_whole(tmp_path):
    body = images_answer(picture(900), picture(900))
    intake = PictureIntake()
    for cut in range(0, len(body), 50):
        response = HTTPResponse(status=200, body=body[:cut])
        try:
            kept = await intake.read(edit(tmp_path / str(cut)), response, "it was cut")
        except DeliveryFailed as failed:
            assert (failed.delivery, failed.status, failed.cause) == (Delivery.UNKNOWN, 200, "it was cut")
            assert cut < body.index(b'", "revised')
        else:
            assert cut > body.index(b'", "revised')
            assert (kept.cut, kept.parts[0].path.read_bytes()) == ("it was cut", picture(900))
    assert intake.under_way == 0


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_cancellation_keeps_what_has_come_whole_and_nothing_else(is_whole, tmp_path, monkeypatch):
    task = None
    usual = PictureAnswer._carry_out

    def carried_out(answer, piece):
        usual(answer, piece)
        task.get_loop().call_soon_threadsafe(task.cancel)

    monkeypatch.setattr(PictureAnswer, "_carry_out", carried_out)
    body = images_answer(picture(90_000))
    response = HTTPResponse(status=200, body=body if is_whole else body[:-100])
    task = asyncio.ensure_future(PictureIntake().read(edit(tmp_path), response))
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    assert task.cancelling() == 1
    if is_whole:
        assert outcome.parts[0].path.read_bytes() == picture(90_000)
    else:
        assert isinstance(outcome, asyncio.CancelledError)
        assert not list(tmp_path.iterdir())


async def test_a_form_reaches_the_service_with_its_boundary():
    seen = []

    class Noting(Simulator):
        def receive(self, exchange, *rest):
            seen.append(exchange)
            return super().receive(exchange, *rest)

    part = FormPart(name="image", content=ImageSource.from_bytes(png()), filename="a.png")
    request = HTTPRequest(method="POST", path="/no/such/route", parts=(part,))
    await SimulatedTransport(Noting(SimulatorConfig())).send(request, API_KEY)
    kind, _, boundary = seen[0].headers["content-type"].partition("; boundary=")
    assert kind == "multipart/form-data"
    assert fields_of(seen[0].body, boundary) == [("image", "a.png", None, png())]
