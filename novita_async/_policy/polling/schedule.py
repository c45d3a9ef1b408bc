"""When to poll which task.

`Polling` is what the user chooses. `PollMemory` is what has been learned and may outlive the process. For
each watch they make a `PollSchedule`, which knows the tasks that are waited for and says which of them to
poll now.

Rules of the schedule:

* A task is *waiting* or *under way* (taken, not yet answered), never taken twice at once.
* `take` marks tasks as under way. Each must come back through `polled`, `failed` or `drop`.
* A waiting task has a time at which it is due, or, where it stands in a queue, a task before it has.
* A task that has finished or was dropped is forgotten, and answers that arrive for it later are ignored.
* A failed poll says nothing about the task: it is repeated soon, with a backoff of its own.

How long things take is learned in `durations`, what stands in a queue is known in `queue`, and `learner`
plans with both. Nothing here reads a clock or rolls dice: `now` is in seconds on any clock that does not go
back, and `jitter` is a number in [0, 1).
"""

import heapq
import math
from collections.abc import Iterable
from typing import Any, Final

from attrs import asdict, define, field, fields

from novita_async._policy.polling.durations import GOLDEN
from novita_async._policy.polling.learner import Learner
from novita_async._policy.polling.memory import PollMemory
from novita_async._policy.polling.planner import (
    Backoff,
    BackoffPlanner,
    Planner,
    PollResult,
    ScheduledTask,
    TaskFacts,
    at_least_one,
    not_negative,
    positive,
)
from novita_async._util.values import frozen

FAILED_FIRST: Final = 0.5
"""Seconds: the longest pause after a first failed poll, doubled with each."""
FAILED_CAP: Final = 15.0
"""Seconds: the longest pause between failed polls that is chosen here."""
_MAX_DOUBLINGS: Final = 64
_AT_ONCE: Final = -math.inf
"""When a woken task is due: before all that are only late, whatever is learned meanwhile."""


@frozen(kw_only=True)
class PollStatistics:
    """A schedule at a moment.

    Args:
        waiting: Tasks that will be polled.
        under_way: Tasks that are polled now.
        finished: Tasks polled finished so far.
        polls: Polls that were answered or failed so far.
        failed: Polls that failed so far.
    """

    waiting: int
    """Tasks that will be polled."""
    under_way: int
    """Tasks that are polled now."""
    finished: int
    """Tasks polled finished so far."""
    polls: int
    """Polls that were answered or failed so far."""
    failed: int
    """Polls that failed so far."""

    @classmethod
    def together(cls, several: "Iterable[PollStatistics]") -> "PollStatistics":
        """Add up those of several schedules."""
        rows = [asdict(each) for each in several]
        return cls(**{each.name: sum(row[each.name] for row in rows) for each in fields(cls)})


@frozen(kw_only=True)
class Polling:
    """Policy of polls. Immutable, and its own configuration.

    Args:
        cost: Worth of a poll, in seconds of delay: 0.07 means that one poll more is right if it makes a
            result known 0.07 s sooner. A lower cost polls more and sees ends sooner.
        polls_per_second: The most polls in a second, per account.
        deadline: Seconds of waiting for one task, and then, in a stream, for one of its files.
        error_timeout: Seconds during which polls of one task may fail in passing ways.
        not_found_grace: Seconds after the submission during which the service's "no such task" is not
            believed.
        concurrency: The most polls under way at once.
        backoff: Pauses to use instead of learning. None: learn.
    """

    cost: float = field(default=0.07, validator=positive)
    """Worth of a poll, in seconds of delay: 0.07 means that one poll more is right if it makes a result known
    0.07 s sooner. A lower cost polls more and sees ends sooner."""
    polls_per_second: float = field(default=20.0, validator=positive)
    """The most polls in a second, per account."""
    deadline: float = field(default=3600.0, validator=positive)
    """Seconds of waiting for one task, and then, in a stream, for one of its files."""
    error_timeout: float = field(default=300.0, validator=not_negative)
    """Seconds during which polls of one task may fail in passing ways."""
    not_found_grace: float = field(default=5.0, validator=not_negative)
    """Seconds after the submission during which the service's "no such task" is not believed."""
    concurrency: int = field(default=16, validator=at_least_one)
    """The most polls under way at once."""
    backoff: Backoff | None = None
    """Pauses to use instead of learning. None: learn."""

    @classmethod
    def fixed(cls, seconds: float, **others: Any) -> "Polling":
        """Poll every so many seconds."""
        return cls(backoff=Backoff(first=seconds, factor=1.0, cap=seconds), **others)

    @classmethod
    def exponential(
        cls, first: float = 0.5, factor: float = 1.5, cap: float = 10.0, **others: Any
    ) -> "Polling":
        """Poll ever more rarely."""
        return cls(backoff=Backoff(first=first, factor=factor, cap=cap), **others)


@define(eq=False, kw_only=True, repr=False)
class PollSchedule:
    """The tasks of one watch and when to poll each."""

    planner: Planner
    """How polls are planned."""
    _tasks: dict[str, ScheduledTask] = field(factory=dict, init=False)
    _heap: list[tuple[float, str]] = field(factory=list, init=False)
    """Every finite due time; those that do not match their task's any more are skipped."""
    _now: float = field(default=-math.inf, init=False)
    _under_way: int = field(default=0, init=False)
    _finished: int = field(default=0, init=False)
    _polls: int = field(default=0, init=False)
    _failed: int = field(default=0, init=False)

    @classmethod
    def of(cls, polling: Polling, memory: PollMemory) -> "PollSchedule":
        """Make the schedule of one watch."""
        if polling.backoff is not None:
            return cls(planner=BackoffPlanner(polling.backoff))
        return cls(planner=Learner(memory=memory, cost=polling.cost))

    def add(self, key: str, facts: TaskFacts, now: float) -> None:
        """Wait for a task. A key that is waited for already stays as it is."""
        if key in self._tasks:
            return
        self._now = now
        task, changed = self.planner.admit(key, facts, now)
        self._tasks[key] = task
        self._plan(changed, now, (len(self._tasks) * GOLDEN) % 1.0)

    def take(self, now: float, most: int) -> list[str]:
        """Return the keys to be polled now, the longest due first, and mark them as under way."""
        self._now = now
        taken: list[str] = []
        while len(taken) < most and self.next_at(now) <= now:
            task = self._tasks[heapq.heappop(self._heap)[1]]
            if not self._put_off(task, now):
                task.due = now
                task.under_way = True
                taken.append(task.key)
        self._under_way += len(taken)
        return taken

    def next_at(self, now: float) -> float:
        """When `take` will have something to return; never before `now`. Infinite: nothing is waiting."""
        heap = self._heap
        while heap:
            due, key = heap[0]
            task = self._tasks.get(key)
            if task is not None and task.due == due and not task.under_way:
                return max(now, due)
            heapq.heappop(heap)
        return math.inf

    def polled(self, key: str, result: PollResult, now: float, jitter: float) -> None:
        """Process the answer to a poll."""
        task = self._back(key, now)
        if task is None:
            return
        task.polls += 1
        task.failures = 0
        if result.state == "finished":
            self._finished += 1
            del self._tasks[key]
        self._plan(self.planner.polled(task, result, task.due, now), now, jitter)

    def failed(self, key: str, now: float, jitter: float, retry_after: float | None = None) -> None:
        """Note that a poll failed.

        Args:
            key: The task that was polled.
            now: The time now.
            jitter: A fresh random number in [0, 1).
            retry_after: Seconds that the service asked to wait, capped by the caller.
        """
        task = self._back(key, now)
        if task is None:
            return
        pause = min(FAILED_CAP, FAILED_FIRST * 2.0 ** min(task.failures, _MAX_DOUBLINGS))
        task.failures += 1
        self._failed += 1
        self._put(task, now + max(retry_after or 0.0, pause * (0.5 + 0.5 * jitter)))

    def wake(self, key: str, now: float) -> None:
        """Make a waiting task due before all others. A task under way or unknown stays as it is."""
        self._now = now
        task = self._tasks.get(key)
        if task is not None and not task.under_way:
            self._put(task, _AT_ONCE)

    def drop(self, key: str) -> None:
        """Wait for a task no longer."""
        task = self._tasks.pop(key, None)
        if task is None:
            return
        self._under_way -= task.under_way
        self._plan(self.planner.dropped(task, self._now), self._now, 0.5)

    def statistics(self) -> PollStatistics:
        """Count."""
        return PollStatistics(
            waiting=len(self._tasks) - self._under_way,
            under_way=self._under_way,
            finished=self._finished,
            polls=self._polls,
            failed=self._failed,
        )

    def __repr__(self) -> str:
        now = self.statistics()
        return (
            f"<PollSchedule {now.waiting} waiting, {now.under_way} under way, {now.finished} finished, "
            f"{now.polls} polls>"
        )

    def _back(self, key: str, now: float) -> ScheduledTask | None:
        """Take a task back from under way. None: not under way, or no longer waited for."""
        self._now = now
        task = self._tasks.get(key)
        if task is None or not task.under_way:
            return None
        task.under_way = False
        self._under_way -= 1
        self._polls += 1
        return task

    def _put_off(self, task: ScheduledTask, now: float) -> bool:
        """Plan a poll that is due once more, where more has been learned since it was planned."""
        if task.failures or task.due == _AT_ONCE or not self.planner.stale(task):
            return False
        due = self.planner.due(task, now, 0.5)
        if due > now:
            self._put(task, due)
        return due > now

    def _plan(self, tasks: Iterable[ScheduledTask], now: float, jitter: float) -> None:
        for task in tasks:
            settled = task.under_way or task.failures or task.due == _AT_ONCE
            if not settled and task.key in self._tasks:
                self._put(task, max(now, self.planner.due(task, now, jitter)))
                jitter = (jitter + GOLDEN) % 1.0

    def _put(self, task: ScheduledTask, due: float) -> None:
        task.due = due
        if due < math.inf:
            heapq.heappush(self._heap, (due, task.key))
