"""Durations learned, by endpoint and size of work; they may outlive the process."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from attrs import define, field

from novita_async._policy.polling.durations import Durations
from novita_async._util.values import frozen

VERSION: Final = 1
"""Version of `to_dict`; saved rows mean nothing under another one."""
STEPS_PER_OCTAVE: Final = 2
"""Steps into which each doubling of the work is cut, to tell sizes apart."""
FORECASTS: Final = ("progress", "eta")
"""Sources of forecasts."""
MOST_KINDS: Final = 256
"""Kinds from which on the oldest is forgotten for a new one."""


@frozen(kw_only=True)
class KindStatistics:
    """Knowledge of a kind of task."""

    endpoint: str
    """Path the kind is submitted to; empty where that is not known."""
    work: float | None
    """About how much work a task is, in steps x pixels x images."""
    observed: int
    """Tasks learned from."""
    median: float
    """Seconds from start to end that half of them stay below."""
    mean: float
    """Mean seconds from start to end."""


@frozen(kw_only=True)
class MemoryStatistics:
    """Knowledge of all kinds of tasks."""

    kinds: tuple[KindStatistics, ...]
    """Kinds, by endpoint and size of work."""


@define(eq=False, repr=False)
class TaskKind:
    """Tasks that should take about the same time."""

    age: Durations = field(factory=Durations)
    """From submission to end, of tasks that found no queue."""
    service: Durations = field(factory=Durations)
    """From start to end."""
    forecasts: dict[str, Durations] = field(factory=dict)
    """From a forecast of the service to the end, by source; in tenths of what was forecast, not seconds."""

    def forecast(self, source: str) -> Durations:
        """Outcomes of the forecasts of one source."""
        found = self.forecasts.get(source)
        if found is None:
            found = self.forecasts[source] = Durations(mostly_open=True)
        return found

    def saved(self) -> dict[str, Any]:
        """Observations worth saving, for `load`."""
        forecasts = {source: outcomes.saved() for source, outcomes in self.forecasts.items()}
        return {"age": self.age.saved(), "service": self.service.saved(), "forecasts": forecasts}

    def load(self, row: Mapping[str, Any]) -> None:
        """Learn from what `saved` gave. Parts that cannot be understood are left out."""
        self.age.load(_list(row.get("age")))
        self.service.load(_list(row.get("service")))
        for source, outcomes in _mapping(row.get("forecasts")).items():
            if source in FORECASTS:
                self.forecast(source).load(_list(outcomes))


def size_of(work: float | None) -> int | None:
    """Put an amount of work into one of a few sizes."""
    if work is None or not 0 < work < math.inf:
        return None
    return round(STEPS_PER_OCTAVE * math.log2(work))


@define(eq=False, repr=False)
class PollMemory:
    """Durations learned, for all schedules of a client."""

    _kinds: dict[tuple[str, int | None], TaskKind] = field(factory=dict, init=False)

    def kind(self, endpoint: str | None, work: float | None) -> TaskKind:
        """Find or make the kind of a task."""
        return self._kind(endpoint or "", size_of(work))

    def to_dict(self) -> dict[str, Any]:
        """Everything worth saving, as JSON can hold it."""
        kinds = [
            {"endpoint": endpoint, "size": size, **kind.saved()}
            for (endpoint, size), kind in self._kinds.items()
            if kind.age.observed or kind.service.observed
        ]
        return {"version": VERSION, "kinds": kinds}

    @classmethod
    def from_dict(cls, saved: object) -> "PollMemory":
        """Load what `to_dict` gave. Parts that cannot be understood are left out."""
        memory = cls()
        whole = _mapping(saved)
        if whole.get("version") == VERSION:
            for row in map(_mapping, _list(whole.get("kinds"))[:MOST_KINDS]):
                endpoint, size = row.get("endpoint"), row.get("size")
                if isinstance(endpoint, str) and (size is None or type(size) is int):
                    memory._kind(endpoint, size).load(row)
        return memory

    def statistics(self) -> MemoryStatistics:
        """Tell all that is known now."""
        return MemoryStatistics(
            kinds=tuple(
                KindStatistics(
                    endpoint=endpoint,
                    work=None if size is None else 2.0 ** (size / STEPS_PER_OCTAVE),
                    observed=kind.service.observed,
                    median=kind.service.median,
                    mean=kind.service.mean,
                )
                for (endpoint, size), kind in self._kinds.items()
            )
        )

    def __repr__(self) -> str:
        observed = sum(kind.service.observed for kind in self._kinds.values())
        return f"<PollMemory of {observed} tasks of {len(self._kinds)} kinds>"

    def _kind(self, endpoint: str, size: int | None) -> TaskKind:
        found = self._kinds.get((endpoint, size))
        if found is None:
            while len(self._kinds) >= MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
            found = self._kinds[endpoint, size] = TaskKind()
        return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list) else ()
