"""Figures for Prometheus. Needs the extra `prometheus`.

```python
from prometheus_client import REGISTRY, start_http_server

figures = PrometheusEvents(budget=budget)
REGISTRY.register(figures)
client = NovitaClient(budget=budget, observers=[figures])
start_http_server(9000)
```

All names begin with `novita_`: `purchases_total`, `images_total`, `spend_dollars_total`,
`rate_limited_total`, `uncertain_total`, `breaker_trips_total`, `polls_total`, `quota_wait_seconds` and
`duration_seconds`. Clients may share one collector.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping

from attrs import define, field
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from novita_async._policy.spending import Budget
from novita_async.events import Event
from novita_async.telemetry._figures import BUCKETS, MEANINGS, Figure, Figures


@define(eq=False)
class _Spread:
    """Values so far: how many in each bucket, the last of which has no bound; and their sum."""

    counts: list[int] = field(factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def cumulated(self) -> list[tuple[str, float]]:
        bounds = [*map(str, BUCKETS), "+Inf"]
        return [(bound, sum(self.counts[: place + 1])) for place, bound in enumerate(bounds)]


class PrometheusEvents(Collector):
    """An observer that keeps figures, and a collector that hands them to a registry, in any thread."""

    def __init__(self, *, budget: Budget | None = None) -> None:
        """Begin at nothing.

        Args:
            budget: The client's, whose price for an image counts the money. None: money is not counted.
        """
        self._figures = Figures(self, budget)
        self._lock = threading.Lock()
        self._counters: dict[tuple[Figure, tuple[str, ...]], float] = {}
        self._spreads: dict[tuple[Figure, tuple[str, ...]], _Spread] = {}

    def __call__(self, event: Event) -> None:
        self._figures(event)

    def keep(self, figure: Figure, amount: float, labels: Mapping[str, str], /) -> None:
        """Count an amount, or take in a value of a spread."""
        meaning = MEANINGS[figure]
        key = figure, tuple(labels[name] for name in meaning.labels)
        with self._lock:
            if meaning.is_spread:
                spread = self._spreads.setdefault(key, _Spread())
                spread.counts[bisect_left(BUCKETS, amount)] += 1
                spread.total += amount
            else:
                self._counters[key] = self._counters.get(key, 0.0) + amount

    def collect(self) -> Iterator[Metric]:
        """Hand out all figures as they are now."""
        with self._lock:
            counters = dict(self._counters)
            spreads = {key: (spread.cumulated(), spread.total) for key, spread in self._spreads.items()}
        for figure, meaning in MEANINGS.items():
            name = "_".join(filter(None, ("novita", figure, meaning.unit)))
            if meaning.is_spread:
                histogram = HistogramMetricFamily(name, meaning.words, labels=meaning.labels)
                for (kind, values), (buckets, total) in spreads.items():
                    if kind is figure:
                        histogram.add_metric(values, buckets, total)
                yield histogram
            else:
                counter = CounterMetricFamily(name, meaning.words, labels=meaning.labels)
                for (kind, values), amount in counters.items():
                    if kind is figure:
                        counter.add_metric(values, amount)
                yield counter
