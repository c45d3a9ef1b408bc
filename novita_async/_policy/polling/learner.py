"""Plans looks by what has been learned: durations, the queue, and how far the service's own forecasts hold.

A forecast (progress, or the service's guess in seconds) is not believed. It is a unit of time: what is
learned is how many of these units tasks really take from a forecast on. Where that turns out to be sharper
than the age of a task, and only there, the next look follows it. Every forecast counts, not only the last
one before an end, which would always have been right by being the last.
"""

import math
from typing import Final

from attrs import define, field

from novita_async._policy.polling.memory import Kind, PollMemory
from novita_async._policy.polling.planner import Sighting, TaskFacts
from novita_async._policy.polling.polls import cell_of
from novita_async._policy.polling.queue import Lane, Record

GAP_OF_MEAN: Final = 1.5
GAP_OF_AGE: Final = 1 / 3
"""The longest gap between looks is the greater of these shares of the mean duration and of the task's own
age: what takes longer than everything before it is not left alone."""
JITTER: Final = 0.06
"""By how much of a gap chance may move a look."""
UNIT: Final = 10.0
"""Outcomes of forecasts are learned in this part of what was forecast, to lie amid the cells of durations."""
PROVEN_FORECASTS: Final = 8
"""Ends seen before forecasts are used."""
SEEING: Final = 0.9
"""What is left of the suspicion that a server's words mean nothing, for each time that it says "running"."""
WORTH: Final = 0.9
"""A forecast must promise at most this much of the cost to be followed."""


@define(eq=False, kw_only=True)
class Learner:
    """The planner of one schedule."""

    memory: PollMemory
    cost: float
    """Seconds of delay that a look is worth."""
    _lanes: dict[tuple[str | None, str | None], Lane] = field(factory=dict, init=False)

    def admit(self, key: str, facts: TaskFacts, now: float) -> tuple[Record, list[Record]]:
        """Take in a new task; also returns its record."""
        kind = self.memory.kind(facts.endpoint, facts.work)
        lane = self._lanes.get((facts.account, facts.endpoint))
        if lane is None:
            lane = self._lanes[facts.account, facts.endpoint] = Lane(kind.service)
        at = facts.submitted_at
        record = Record(
            key=key, lane=lane, kind=kind, submitted_at=now if at is None else at, known=at is not None
        )
        return record, lane.admit(record, now)

    def saw(self, record: Record, sighting: Sighting, taken_at: float, now: float) -> list[Record]:
        if sighting.state == "finished":
            return self._finished(record, sighting, now)
        _judge(record, taken_at, math.inf)
        lane = record.lane
        if record.started and record.known and sighting.state != "queued":
            _test(record, taken_at, ended=False)
        if sighting.state == "queued" and lane.sighted:
            return lane.saw_queued(record, taken_at, now)
        if sighting.state == "running":
            lane.blindness *= SEEING
        changed = lane.saw_running(record, taken_at, now)
        record.forecast = _forecast(record, sighting)
        return changed

    def dropped(self, record: Record, now: float) -> list[Record]:
        if record.alive_at > record.start and record.known:
            record.durations.observe(record.alive_at - record.start, math.inf)
        return record.lane.dropped(record, now)

    def due(self, record: Record, now: float, jitter: float) -> float:
        if not record.started:
            return record.lane.due(record, now, jitter)
        if record.overdue:
            return now
        durations, (origin, width) = record.durations, record.origin
        table = durations.table(self.cost, width)
        record.version = durations.version
        origin += (width - durations.rounded(width)) / 2
        since = record.alive_at
        if since <= origin:
            return origin + table.first
        age = since - origin
        record.count_alive(cell_of(age))
        gap = self._forecast_gap(record, table.cost_from(age)) or table.after(age) - age
        gap = min(gap, max(GAP_OF_MEAN * durations.mean, GAP_OF_AGE * age))
        return since + gap * (1.0 + JITTER * (jitter - 0.5))

    def stale(self, record: Record) -> bool:
        return record.started and record.version != record.durations.version

    def _forecast_gap(self, record: Record, rival: float) -> float | None:
        """Seconds to the next look by the forecast, if that promises to cost less than what else is known."""
        if record.forecast is None or record.forecast[1] != record.alive_at:
            return None
        source, _, to_go = record.forecast
        outcomes = record.kind.forecast(source)
        if outcomes.ends < PROVEN_FORECASTS:
            return None
        scale = to_go / UNIT
        table = outcomes.table(math.ldexp(1.0, round(math.log2(self.cost / scale))), 0.0)
        return table.first * scale if table.first_cost * scale < WORTH * rival else None

    def _finished(self, record: Record, sighting: Sighting, now: float) -> list[Record]:
        lo = max(record.alive_at, record.start_lo, record.submitted_at)
        hi = max(lo, now)
        if record.started and record.known:
            _test(record, now, ended=True)
        end = _end(record, sighting)
        if end is not None:
            lo = hi = min(max(end, lo), hi)
        _judge(record, lo, hi)
        served = _served(sighting)
        _learn(record, served, lo, hi)
        if served is not None and end is not None and record.started and not record.fresh:
            record.lane.census.learn_start(record, end - served, record.kind.service.mean, now)
        return record.lane.finished(record, lo, hi, now)


def _test(record: Record, at: float, *, ended: bool) -> None:
    record.durations.tested(record.alive_at - record.start, at - record.start, ended=ended)


def _learn(record: Record, served: float | None, lo: float, hi: float) -> None:
    """Learn from a task that ended between two times."""
    kind: Kind = record.kind
    if served is not None:
        kind.service.observe(served, served)
    if not record.known:
        return
    if record.fresh:
        kind.age.observe(lo - record.submitted_at, hi - record.submitted_at)
        if served is None:
            kind.service.observe(lo - record.submitted_at, hi - record.submitted_at)
    elif served is None and record.started:
        # Both ends of the duration are uncertain; spans add up as independent errors do.
        middle = (lo + hi) / 2 - record.start
        half = math.hypot(hi - lo, record.start_hi - record.start_lo) / 2
        kind.service.observe(middle - half, middle + half)
    elif served is None:
        kind.service.observe(0.0, hi - record.start_lo)


def _end(record: Record, sighting: Sighting) -> float | None:
    """When a task ended, from the server's clock; how far that is off does not matter."""
    if sighting.submit_ms is None or sighting.complete_ms is None or not record.known:
        return None
    return record.submitted_at + (sighting.complete_ms - sighting.submit_ms) / 1000.0


def _served(sighting: Sighting) -> float | None:
    if sighting.execute_ms is None or sighting.complete_ms is None:
        return None
    return max(0.0, (sighting.complete_ms - sighting.execute_ms) / 1000.0)


def _judge(record: Record, lo: float, hi: float) -> None:
    """Learn what became of the latest forecast: the task ends between two times."""
    if record.forecast:
        source, made_at, to_go = record.forecast
        record.forecast = None
        record.kind.forecast(source).observe((lo - made_at) / to_go * UNIT, (hi - made_at) / to_go * UNIT)


def _forecast(record: Record, sighting: Sighting) -> tuple[str, float, float] | None:
    """Seconds to go as the service sees it: by its progress, or else by its own guess."""
    progress, eta, age = sighting.progress, sighting.eta, record.alive_at - record.start
    if progress is not None and 0 < progress < 100 and age > 0:  # noqa: PLR2004 (percent)
        return "progress", record.alive_at, age * (100 - progress) / progress
    if eta is not None and 0 < eta < math.inf:
        return "eta", record.alive_at, eta
    return None
