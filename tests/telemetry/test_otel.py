"""Spans made from the public events alone, taken in by OpenTelemetry's own exporter."""

from collections import Counter

import anyio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from novita_async import BadRequest, NovitaClient, Polling, SubmissionUncertain, TaskFailed
from novita_async.telemetry.otel import TraceEvents
from novita_async.testing import Fault, FaultPlan
from tests.helpers.service import request, requests, service

pytestmark = pytest.mark.anyio

EXPORTER = InMemorySpanExporter()
PROVIDER = TracerProvider()
PROVIDER.add_span_processor(SimpleSpanProcessor(EXPORTER))


@pytest.fixture
def spans():
    EXPORTER.clear()
    return lambda: [span for span in EXPORTER.get_finished_spans() if span.name != "mine"]


def client_of(simulation, **options):
    transport = simulation.transport()
    observer = TraceEvents(PROVIDER)
    return NovitaClient(
        simulation.api_key,
        transport=transport,
        downloader=transport,
        observers=[observer],
        polling=Polling.exponential(),
        **options,
    )


def tree(spans):
    """Names of the children of each purchase's span, in their order; there must be one root a purchase."""
    roots = {span.context.span_id: span for span in spans if "novita.purchase" in span.attributes}
    children = {key: [] for key in roots}
    for span in sorted(spans, key=lambda span: span.start_time):
        if span.context.span_id not in roots:
            children[span.parent.span_id].append(span.name)
    return [(roots[key], names) for key, names in children.items()]


async def test_a_purchase_is_one_span_with_its_steps_inside_that_of_the_caller(spans):
    with PROVIDER.get_tracer("mine").start_as_current_span("mine") as mine:
        async with client_of(service()) as client:
            result = await client.run(request(seed=7))
    ((root, steps),) = tree(spans())
    assert steps == ["submit", "wait for task"]
    assert root.parent.span_id == mine.get_span_context().span_id
    assert (
        root.attributes.items()
        >= {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.output.type": "image",
            "gen_ai.request.model": "model.safetensors",
            "gen_ai.request.seed": 7,
            "gen_ai.response.id": result.task.task_id,
        }.items()
    )
    assert root.status.status_code is StatusCode.UNSET


async def test_each_attempt_is_a_step_and_the_trouble_is_told(spans):
    faults = FaultPlan.listed("submit", {1: Fault.answer(429), 2: Fault.reset_after()})
    async with client_of(service(faults=faults)) as client:
        with pytest.raises(SubmissionUncertain):
            await client.run(request())
    ((root, steps),) = tree(spans())
    assert steps.count("submit") == 2
    assert root.status.status_code is StatusCode.ERROR
    assert root.attributes["error.type"] == "SubmissionUncertain"
    kinds = [span.attributes.get("error.type") for span in spans() if span.name == "submit"]
    assert kinds == ["RateLimited", "SubmissionUncertain"]


async def test_the_steps_of_a_stream_end_with_its_files(spans, tmp_path):
    async with client_of(service()) as client:
        async with client.stream(requests(4), save_to=tmp_path) as outcomes:
            assert len([outcome async for outcome in outcomes]) == 4
    found = tree(spans())
    assert [steps for _, steps in found] == [["submit", "wait for task", "save"]] * 4
    assert sorted(root.attributes["novita.position"] for root, _ in found) == [0, 1, 2, 3]


async def test_waits_for_the_quota_are_steps(spans):
    async with client_of(service(images_per_minute=2), images_per_minute=2) as client:
        async with client.stream(requests(4), in_flight=4) as outcomes:
            assert len([outcome async for outcome in outcomes]) == 4
    steps = Counter(span.name for span in spans())
    assert steps["wait for quota"] == 2
    assert steps["submit"] == steps["wait for task"] == 4


async def test_a_refusal_and_a_failed_task_end_their_spans_as_errors(spans):
    refused = FaultPlan.listed(
        "submit", {1: Fault.answer(400, b'{"code": 400, "reason": "INVALID_REQUEST_BODY"}')}
    )
    async with client_of(service(faults=refused)) as client:
        with pytest.raises(BadRequest):
            await client.run(request())
    async with client_of(service(failure_rate=1.0)) as client:
        with pytest.raises(TaskFailed):
            await client.run(request())
    (first, before), (second, after) = tree(spans())
    assert (before, after) == (["submit"], ["submit", "wait for task"])
    assert [root.attributes["error.type"] for root in (first, second)] == ["BadRequest", "TaskFailed"]


async def test_a_task_that_is_waited_for_later_ends_its_span_then(spans):
    async with client_of(service()) as client:
        task = await client.submit(request())
        assert not [span for span in spans() if "novita.purchase" in span.attributes]
        await client.wait(task)
    ((_, steps),) = tree(spans())
    assert steps == ["submit", "wait for task"]
    polls = [event for span in spans() if span.name == "wait for task" for event in span.events]
    assert polls[-1].attributes["status"] == "TASK_STATUS_SUCCEED"


async def test_a_purchase_that_is_cancelled_before_it_is_sent_ends_its_span(spans):
    async with client_of(service(images_per_minute=1), images_per_minute=1) as client:
        await client.run(request())
        with anyio.move_on_after(5):
            await client.run(request())
    (_, (root, steps)) = tree(spans())
    assert steps == ["wait for quota"]
    assert root.attributes["error.type"] == "NotSent"
