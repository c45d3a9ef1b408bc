"""Plans polls by what has been learned: durations, the queue, and how far the service's own forecasts hold.

A forecast (progress, or the service's guess in seconds) is not believed. Such a forecast is a unit of time:
what is learned is how many of these units tasks really take from a forecast on. Where that turns out to be
sharper than the age of a task, and only there, the next poll follows it. Every forecast counts, not only the
last one before an end, which would always have been right by being the last.
"""

import math
from typing import Final

from attrs import define, field

from novita_async._policy.polling.memory import PollMemory
from novita_async._policy.polling.planner import PollResult, TaskFacts
from novita_async._policy.polling.polls import cell_of
from novita_async._policy.polling.queue import QueueModel, TrackedTask

# The longest gap between polls is the greater of these shares of the mean duration and of the task's own age:
# a task that takes longer than everything before it is not left alone.
GAP_OF_MEAN: Final = 1.5
GAP_OF_AGE: Final = 1 / 3

JITTER: Final = 0.06
"""Part of a gap by which chance may move a poll."""
UNIT: Final = 10.0
"""Outcomes of forecasts are learned in this part of what was forecast, to lie amid the cells of durations."""
PROVEN_FORECASTS: Final = 8
"""Ends seen before forecasts are used."""
UNSEEN_DECAY: Final = 0.9
"""Decay of the suspicion that a server's words mean nothing, for each time that it says "running"."""
WORTH: Final = 0.9
"""A forecast must promise at most this part of the cost to be followed."""


@define(eq=False, kw_only=True, repr=False)
class Learner:
    """The planner of one schedule."""

    memory: PollMemory
    cost: float
    """Seconds of delay that a poll is worth."""
    _queues: dict[tuple[str | None, str | None], QueueModel] = field(factory=dict, init=False)
    """Queues by account and endpoint."""

    def admit(self, key: str, facts: TaskFacts, now: float) -> tuple[TrackedTask, list[TrackedTask]]:
        kind = self.memory.kind(facts.endpoint, facts.work)
        queue = self._queues.get((facts.account, facts.endpoint))
        if queue is None:
            queue = self._queues[facts.account, facts.endpoint] = QueueModel(kind.service)
        at = facts.submitted_at
        task = TrackedTask(
            key=key, queue=queue, kind=kind, submitted_at=now if at is None else at, known=at is not None
        )
        return task, queue.admit(task, now)

    def polled(self, task: TrackedTask, result: PollResult, sent_at: float, now: float) -> list[TrackedTask]:
        if result.state == "finished":
            return self._finished(task, result, now)
        _judge_forecast(task, sent_at, math.inf)
        queue = task.queue
        if task.started and task.known and result.state != "queued":
            _compare(task, sent_at, ended=False)
        if result.state == "queued" and queue.believes_queued:
            return queue.polled_queued(task, sent_at, now)
        if result.state == "running":
            queue.unseen_share *= UNSEEN_DECAY
        changed = queue.polled_running(task, sent_at, now)
        task.forecast = _forecast(task, result)
        return changed

    def dropped(self, task: TrackedTask, now: float) -> list[TrackedTask]:
        if task.alive_at > task.start and task.known:
            task.durations.observe(task.alive_at - task.start, math.inf)
        return task.queue.dropped(task, now)

    def due(self, task: TrackedTask, now: float, jitter: float) -> float:
        if not task.started:
            return task.queue.due(task, now, jitter)
        if task.never_polled:
            return now
        durations, start, since = task.durations, task.start, task.alive_at
        table = durations.table(self.cost)
        task.version = durations.version
        task.by_forecast = False
        if since <= start:
            return start + table.first
        age = since - start
        task.count_running(cell_of(age))
        forecast = self._forecast_gap(task, table.cost_from(age))
        task.by_forecast = forecast is not None
        gap = table.after(age) - age if forecast is None else forecast
        gap = min(gap, max(GAP_OF_MEAN * durations.mean, GAP_OF_AGE * age))
        return since + gap * (1.0 + JITTER * (jitter - 0.5))

    def stale(self, task: TrackedTask) -> bool:
        return task.started and task.version != task.durations.version

    def _forecast_gap(self, task: TrackedTask, rival: float) -> float | None:
        """Seconds to the next poll by the forecast, if that promises to cost less than the age does."""
        if task.forecast is None or task.forecast[1] != task.alive_at:
            return None
        source, _, to_go = task.forecast
        outcomes = task.kind.forecast(source)
        if outcomes.ends < PROVEN_FORECASTS:
            return None
        scale = to_go / UNIT
        table = outcomes.table(math.ldexp(1.0, round(math.log2(self.cost / scale))))
        return table.first * scale if table.first_cost * scale < WORTH * rival else None

    def _finished(self, task: TrackedTask, result: PollResult, now: float) -> list[TrackedTask]:
        lo = max(task.alive_at, task.start_lo, task.submitted_at)
        hi = max(lo, now)
        if task.started and task.known:
            _compare(task, now, ended=True)
        end = None
        if result.submit_ms is not None and result.complete_ms is not None and task.known:
            # By the server's clock alone: how far that is off does not matter.
            end = task.submitted_at + (result.complete_ms - result.submit_ms) / 1000.0
            lo = hi = min(max(end, lo), hi)
        _judge_forecast(task, lo, hi)
        served = None
        if result.execute_ms is not None and result.complete_ms is not None:
            served = max(0.0, (result.complete_ms - result.execute_ms) / 1000.0)
        _learn(task, served, lo, hi)
        if served is not None and end is not None and task.started and not task.fresh:
            task.queue.workers.learn_start(task, end - served, task.kind.service.mean, now)
        return task.queue.finished(task, lo, hi, now)


def _compare(task: TrackedTask, at: float, *, ended: bool) -> None:
    """Let durations compare with a poll; one that a forecast has timed says nothing of them."""
    if not task.by_forecast:
        task.durations.compare(task.alive_at - task.start, at - task.start, ended=ended)


def _learn(task: TrackedTask, served: float | None, lo: float, hi: float) -> None:
    """Learn from a task that ended between two times."""
    kind = task.kind
    if served is not None:
        kind.service.observe(served, served)
    if not task.known:
        return
    if task.fresh:
        kind.age.observe(lo - task.submitted_at, hi - task.submitted_at)
        if served is None:
            kind.service.observe(lo - task.submitted_at, hi - task.submitted_at)
    elif served is None and task.started:
        # Both ends of the duration are uncertain; spans add up as independent errors do.
        middle = (lo + hi) / 2 - task.start
        half = math.hypot(hi - lo, task.start_hi - task.start_lo) / 2
        kind.service.observe(middle - half, middle + half)
    elif served is None:
        kind.service.observe(0.0, hi - task.start_lo)


def _judge_forecast(task: TrackedTask, lo: float, hi: float) -> None:
    """Learn from the latest forecast: the task ends between two times."""
    if task.forecast:
        source, made_at, to_go = task.forecast
        task.forecast = None
        task.kind.forecast(source).observe((lo - made_at) / to_go * UNIT, (hi - made_at) / to_go * UNIT)


def _forecast(task: TrackedTask, result: PollResult) -> tuple[str, float, float] | None:
    """Seconds to go as the service sees it: by its progress, or else by its own guess."""
    progress, eta, age = result.progress, result.eta, task.alive_at - task.start
    if progress is not None and 0 < progress < 100 and age > 0:  # noqa: PLR2004 (percent)
        return "progress", task.alive_at, age * (100 - progress) / progress
    if eta is not None and 0 < eta < math.inf:
        return "eta", task.alive_at, eta
    return None
