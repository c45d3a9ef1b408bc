"""Figures made from the public events alone, read by OpenTelemetry's own reader and by prometheus_client."""

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from novita_async import Budget, NotSent, Polling, RetryPolicy, SubmissionUncertain, TaskFailed
from novita_async.telemetry.otel import MeterEvents
from novita_async.telemetry.prometheus import PrometheusEvents
from novita_async.testing import DEFAULT_API_KEY, Fault, FaultPlan
from tests.helpers.service import request, requests, service

pytestmark = pytest.mark.anyio

BUDGET = Budget(limit=100, price="0.5")
TROUBLE = FaultPlan.listed(
    "submit", {1: Fault.answer(429), 2: Fault.reset_after(), 4: Fault.reset_before(), 5: Fault.reset_before()}
)


class Both:
    """A client that is observed by both, and what they have read."""

    def __init__(self, simulation, **options):
        self.reader, self.registry = InMemoryMetricReader(), CollectorRegistry()
        figures = PrometheusEvents(budget=BUDGET)
        self.registry.register(figures)
        meters = MeterEvents(MeterProvider([self.reader]), BUDGET)
        self.client = simulation.client(
            observers=[figures, meters], budget=BUDGET, polling=Polling.exponential(), **options
        )

    @property
    def text(self):
        return generate_latest(self.registry).decode()

    def prometheus(self):
        """Sums by name; of a spread its count and its sum."""
        found = {}
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                if not sample.name.endswith(("_bucket", "_created")):
                    found[sample.name] = found.get(sample.name, 0) + sample.value
        return found

    def otel(self):
        (resource,) = self.reader.get_metrics_data().resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric.data.data_points for metric in scope.metrics}


async def ended(both):
    async with both.client as client:
        for expected in (SubmissionUncertain, None, NotSent):
            try:
                await client.run(request())
            except Exception as error:  # noqa: BLE001 - compared
                assert type(error) is expected
            else:
                assert expected is None


async def test_purchases_images_money_and_trouble_are_counted():
    both = Both(service(faults=TROUBLE), retry=RetryPolicy(max_elapsed=3, attempts=2))
    await ended(both)
    found = both.prometheus()
    assert found["novita_purchases_total"] == found["novita_duration_seconds_count"] == 3
    assert found["novita_images_total"] == 2
    assert found["novita_spend_dollars_total"] == 1.0
    assert found["novita_rate_limited_total"] == found["novita_uncertain_total"] == 1
    assert found["novita_breaker_trips_total"] >= 2
    assert found["novita_polls_total"] >= 1
    assert 'novita_purchases_total{endpoint="/v3/async/img2img",outcome="uncertain"} 1.0' in both.text
    assert DEFAULT_API_KEY not in both.text


async def test_both_systems_tell_the_same():
    both = Both(service(faults=TROUBLE), retry=RetryPolicy(max_elapsed=3, attempts=2))
    await ended(both)
    ours, theirs = both.prometheus(), both.otel()
    for name, points in theirs.items():
        bare = name.replace(".", "_")
        if hasattr(points[0], "count"):
            assert sum(point.count for point in points) == ours[f"{bare}_seconds_count"]
            assert sum(point.sum for point in points) == pytest.approx(ours[f"{bare}_seconds_sum"])
        else:
            unit = "_dollars" if name.endswith("spend") else ""
            assert sum(point.value for point in points) == ours[f"{bare}{unit}_total"]
    assert set(theirs) >= {"novita.purchases", "novita.spend", "novita.duration", "novita.quota_wait"}
    (point,) = (p for p in theirs["novita.purchases"] if p.attributes["novita.outcome"] == "succeeded")
    assert point.value == 1


async def test_the_wait_of_the_first_in_line_is_measured_and_those_behind_wait_for_the_first():
    both = Both(service(images_per_minute=2), images_per_minute=2)
    async with both.client as client, client.stream(requests(4), in_flight=4) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 4
    found = both.prometheus()
    assert found["novita_quota_wait_seconds_count"] == 4
    assert 55 < found["novita_quota_wait_seconds_sum"] < 65


async def test_failed_tasks_count_as_failed_and_money_only_where_it_has_a_price():
    registry, figures = CollectorRegistry(), PrometheusEvents()
    registry.register(figures)
    async with service(failure_rate=1.0).client(observers=[figures]) as client:
        with pytest.raises(TaskFailed):
            await client.run(request())
        with anyio.move_on_after(1):
            await anyio.sleep_forever()
    text = generate_latest(registry).decode()
    assert 'outcome="failed"} 1.0' in text
    assert "spend_dollars_total{" not in text
    assert figures._figures._courses == {}
