"""Spans and metrics for OpenTelemetry, made from the public events alone. Needs the extra `otel`: its API.

```python
client = NovitaClient(budget=budget, observers=[TraceEvents(), MeterEvents(budget=budget)])
```

A purchase is one span, a child of the span in which the request was made, with a child for each of its steps:
`wait for quota`, `submit` (one an attempt), `wait for task`, `save`. Polls, pauses and trips of the breaker
are events of the step in which they come. Names and attributes follow the conventions for generative AI where
these have words for it.

Metrics are `novita.purchases`, `.images`, `.spend`, `.rate_limited`, `.uncertain`, `.breaker_trips`, `.polls`
(counters), `.quota_wait` and `.duration` (histograms, in seconds).
"""

from collections.abc import Mapping
from typing import Any, Final

from attrs import define, field
from opentelemetry import metrics, trace
from opentelemetry.metrics import Counter, Histogram, MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from novita_async._policy.spending import Budget
from novita_async._version import __version__
from novita_async.errors import NovitaError
from novita_async.events import (
    Action,
    Announced,
    Bought,
    Completed,
    Event,
    Finished,
    Paced,
    Polled,
    Retrying,
    State,
    Transition,
)
from novita_async.models.results import Succeeded
from novita_async.telemetry._figures import BUCKETS, MEANINGS, Figure, Figures

_SUCCESS: Final = (State.SUCCEEDED, State.SAVED)
_ENDS: Final = (Action.NOTHING, Action.LIST)


@define(eq=False)
class _Trace:
    """The span of a purchase, and the step that it is at."""

    root: Span
    step: Span | None = None
    task_id: str | None = None


@define(eq=False)
class TraceEvents:
    """An observer that makes a span of each purchase. Use one for each client."""

    provider: TracerProvider | None = None
    """Where the spans go. None: to the global provider."""
    _tracer: trace.Tracer = field(init=False)
    _traces: dict[int, _Trace] = field(factory=dict[int, _Trace], init=False)
    """Traces of open purchases, by the purchase's id."""
    _by_task: dict[str, int] = field(factory=dict[str, int], init=False)

    def __attrs_post_init__(self) -> None:
        self._tracer = trace.get_tracer("novita_async", __version__, self.provider)

    def __call__(self, event: Event) -> None:
        match event:
            case Transition():
                self._move(event)
            case Paced(purchase=int(number)):
                self._begin(
                    self._of(number, event.endpoint), "wait for quota", {"novita.account": event.account}
                )
            case Retrying(purchase=int(number)) if number in self._traces:
                told: dict[str, Any] = {
                    "attempt": event.attempt,
                    "after": event.after,
                    "error": str(event.error),
                }
                self._traces[number].root.add_event("retrying", told)
            case Polled():
                self._poll(event)
            case Finished():
                self._finish(event)
            case _:
                pass

    def _of(self, purchase: int, endpoint: str) -> _Trace:
        """The trace of a purchase; begun where there is none, in the span that is current now."""
        if purchase not in self._traces:
            root = self._tracer.start_span(
                f"generate_content {endpoint}",
                kind=SpanKind.CLIENT,
                attributes={
                    "gen_ai.operation.name": "generate_content",
                    "gen_ai.provider.name": "novita",
                    "gen_ai.output.type": "image",
                    "novita.purchase": purchase,
                    "novita.endpoint": endpoint,
                },
            )
            self._traces[purchase] = _Trace(root)
        return self._traces[purchase]

    def _begin(self, traced: _Trace, name: str, attributes: dict[str, Any]) -> None:
        """Begin a step. A step of the same name goes on."""
        if traced.step is not None and getattr(traced.step, "name", None) == name:
            return
        _end(traced.step)
        inside = trace.set_span_in_context(traced.root)
        traced.step = self._tracer.start_span(name, inside, kind=SpanKind.CLIENT, attributes=attributes)

    def _move(self, event: Transition) -> None:
        traced = self._of(event.purchase, event.endpoint)
        error = getattr(event.fact, "error", None)
        if isinstance(event.fact, Announced):
            _note(traced.root, event)
            told = {"novita.attempt": event.attempt, "novita.account": event.fact.account}
            self._begin(traced, "submit", told)
            return
        _end(traced.step, error)
        traced.step = None
        if event.task is not None and traced.task_id is None:
            traced.task_id = event.task.task_id
            self._by_task[traced.task_id] = event.purchase
            traced.root.set_attribute("gen_ai.response.id", traced.task_id)
        if event.next is Action.WATCH and isinstance(event.fact, Bought):
            self._begin(traced, "wait for task", {})
        elif event.next is Action.SAVE and isinstance(event.fact, Completed):
            self._begin(traced, "save", {})
        elif event.next in _ENDS:
            self._close(event.purchase, None if event.after in _SUCCESS else error)

    def _poll(self, event: Polled) -> None:
        traced = self._traces.get(self._by_task.get(event.task.task_id, -1))
        if traced is not None and traced.step is not None:
            error = None if event.error is None else str(event.error)
            told = {"status": event.status, "progress": event.progress_percent, "error": error}
            traced.step.add_event("polled", {name: each for name, each in told.items() if each is not None})

    def _finish(self, event: Finished) -> None:
        """Take what the end tells of the request."""
        outcome = event.outcome
        traced = None if event.purchase is None else self._traces.get(event.purchase)
        if traced is None:
            return
        model = getattr(outcome.request, "model_name", None) or getattr(outcome.request, "model", None)
        if model is not None:
            traced.root.set_attribute("gen_ai.request.model", model)
        if isinstance(outcome, Succeeded) and outcome.result.seed is not None:
            traced.root.set_attribute("gen_ai.request.seed", outcome.result.seed)

    def _close(self, purchase: int, error: NovitaError | None) -> None:
        traced = self._traces.pop(purchase)
        if traced.task_id is not None:
            self._by_task.pop(traced.task_id, None)
        _end(traced.root, error)


def _note(root: Span, event: Transition) -> None:
    """Tell of the request what the purchase knows of it."""
    root.set_attributes({"novita.images": event.images, "novita.position": event.position})
    if event.tag is not None:
        root.set_attribute("novita.tag", event.tag)


def _end(span: Span | None, error: NovitaError | None = None) -> None:
    if span is None:
        return
    if error is not None:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(Status(StatusCode.ERROR, str(error)))
    span.end()


_UNITS: Final = {"dollars": "{USD}", "seconds": "s"}


@define(eq=False)
class MeterEvents:
    """An observer that counts and measures. Clients may share one."""

    provider: MeterProvider | None = None
    """Where the figures go. None: to the global provider."""
    budget: Budget | None = None
    """The client's, whose price for an image counts the money. None: money is not counted."""
    _figures: Figures = field(init=False)
    _counters: dict[Figure, Counter] = field(factory=dict[Figure, Counter], init=False)
    _spreads: dict[Figure, Histogram] = field(factory=dict[Figure, Histogram], init=False)

    def __attrs_post_init__(self) -> None:
        self._figures = Figures(self, self.budget)
        meter = metrics.get_meter("novita_async", __version__, self.provider)
        for figure, meaning in MEANINGS.items():
            name, unit, words = f"novita.{figure}", _UNITS.get(meaning.unit, ""), meaning.words
            if meaning.is_spread:
                self._spreads[figure] = meter.create_histogram(
                    name, unit, words, explicit_bucket_boundaries_advisory=BUCKETS
                )
            else:
                self._counters[figure] = meter.create_counter(name, unit, words)

    def __call__(self, event: Event) -> None:
        self._figures(event)

    def keep(self, figure: Figure, amount: float, labels: Mapping[str, str], /) -> None:
        """Count an amount, or take in a value of a spread."""
        named = {f"novita.{name}": value for name, value in labels.items()}
        if figure in self._spreads:
            self._spreads[figure].record(amount, named)
        else:
            self._counters[figure].add(amount, named)
