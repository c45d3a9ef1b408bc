"""What has been learned of durations, by endpoint and size of work; it may outlive the process."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from attrs import define, field, frozen

from novita_async._policy.polling.durations import Durations
from novita_async._policy.polling.polls import PER_CELL

VERSION: Final = 1
"""Of `to_dict`; what is kept means nothing under another one."""
GROWTH: Final = 0.8
"""Durations are expected to grow as this power of the work, until more is known."""
STEPS_PER_OCTAVE: Final = 2
"""Sizes of work are told apart by steps of this kind."""
FORECASTS: Final = ("progress", "eta")
"""Where forecasts come from."""
MOST_KINDS: Final = 256
"""Then the oldest kind is forgotten."""


@frozen(kw_only=True)
class KindStatistics:
    """What is known of one kind of task."""

    endpoint: str
    """Path it is submitted to; empty where that is not known."""
    work: float | None
    """About how much work it is, in steps x pixels x images."""
    observed: int
    """Tasks learned from."""
    median: float
    """Seconds from start to end that half of them stay below."""
    mean: float
    """Mean seconds from start to end."""


@frozen(kw_only=True)
class MemoryStatistics:
    """What is known."""

    kinds: tuple[KindStatistics, ...]
    """One for each endpoint and size of work."""


@define(eq=False)
class Kind:
    """Tasks that should take about the same time."""

    age: Durations
    """From submission to end, of tasks that found no queue."""
    service: Durations
    """From start to end."""
    forecasts: dict[str, Durations] = field(factory=dict)
    """From a forecast of the service to the end, by source; in tenths of what was forecast, not seconds."""

    def forecast(self, source: str) -> Durations:
        """What became of the forecasts of one source."""
        found = self.forecasts.get(source)
        if found is None:
            found = self.forecasts[source] = Durations(often_open=True)
        return found


def size_of(work: float | None) -> int | None:
    """Put an amount of work into one of a few sizes."""
    if work is None or not 0 < work < math.inf:
        return None
    return round(STEPS_PER_OCTAVE * math.log2(work))


@define(eq=False, repr=False)
class PollMemory:
    """What has been learned of durations. One serves all schedules of a client."""

    _kinds: dict[tuple[str, int | None], Kind] = field(factory=dict, init=False)

    def kind(self, endpoint: str | None, work: float | None) -> Kind:
        """Find or make the kind of a task."""
        return self._kind(endpoint or "", size_of(work))

    def to_dict(self) -> dict[str, Any]:
        """Everything worth keeping, as JSON can hold it."""
        kinds = [
            {
                "endpoint": endpoint,
                "size": size,
                "age": kind.age.kept(),
                "service": kind.service.kept(),
                "forecasts": {source: outcomes.kept() for source, outcomes in kind.forecasts.items()},
            }
            for (endpoint, size), kind in self._kinds.items()
            if kind.age.seen or kind.service.seen
        ]
        return {"version": VERSION, "kinds": kinds}

    @classmethod
    def from_dict(cls, kept: object) -> "PollMemory":
        """Remember what `to_dict` gave. What cannot be understood is left out."""
        memory = cls()
        whole = _mapping(kept)
        if whole.get("version") == VERSION:
            for row in _list(whole.get("kinds"))[:MOST_KINDS]:
                memory._recall(_mapping(row))
        return memory

    def statistics(self) -> MemoryStatistics:
        """What is known now."""
        return MemoryStatistics(
            kinds=tuple(
                KindStatistics(
                    endpoint=endpoint,
                    work=None if size is None else 2.0 ** (size / STEPS_PER_OCTAVE),
                    observed=kind.service.seen,
                    median=kind.service.median,
                    mean=kind.service.mean,
                )
                for (endpoint, size), kind in self._kinds.items()
            )
        )

    def __repr__(self) -> str:
        observed = sum(kind.service.seen for kind in self._kinds.values())
        return f"<PollMemory of {observed} tasks of {len(self._kinds)} kinds>"

    def _kind(self, endpoint: str, size: int | None) -> Kind:
        found = self._kinds.get((endpoint, size))
        if found is None:
            while len(self._kinds) >= MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
            found = self._kinds[endpoint, size] = self._new(endpoint, size)
        return found

    def _new(self, endpoint: str, size: int | None) -> Kind:
        """Make a kind that begins with what is known of the size next to it."""
        service = Durations()
        near = [x for name, x in self._kinds if name == endpoint and x is not None]
        if size is not None and near:
            other = min(near, key=lambda x: abs(x - size))
            longer = (size - other) / STEPS_PER_OCTAVE * math.log(2) * GROWTH
            service = Durations(self._kinds[endpoint, other].service, round(longer * PER_CELL))
        return Kind(Durations(service), service)

    def _recall(self, row: Mapping[str, Any]) -> None:
        endpoint, size = row.get("endpoint"), row.get("size")
        if not isinstance(endpoint, str) or not (size is None or type(size) is int):
            return
        kind = self._kind(endpoint, size)
        kind.age.recall(_list(row.get("age")))
        kind.service.recall(_list(row.get("service")))
        for source, outcomes in _mapping(row.get("forecasts")).items():
            if source in FORECASTS:
                kind.forecast(source).recall(_list(outcomes))


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list) else ()
