"""The queue: k workers, tasks that wait for one, and time that is told and never asked."""

import heapq
from collections import deque

from attrs import define, field

from novita_async._util.values import frozen
from novita_async.testing._dice import whole


@frozen(kw_only=True)
class Span:
    """When a task is worked on."""

    started_at: float
    """Service time at which a worker took it."""
    ended_at: float
    """Service time at which it is done."""


@frozen(kw_only=True)
class QueueStatistics:
    """The queue at a moment."""

    waiting: int
    """Tasks that no worker has taken yet."""
    running: int
    """Tasks that are worked on."""
    done: int
    """Tasks that have ended."""


@define(eq=False)
class WorkerQueue:
    """Tasks on their way through k workers. Ends are computed when `advance` is told the time."""

    workers: int
    fifo: bool = True
    seed: int = 0
    _waiting: deque[tuple[str, float]] = field(factory=deque, init=False)
    _running: list[tuple[float, str]] = field(factory=list, init=False)
    _spans: dict[str, Span] = field(factory=dict, init=False)
    _done: int = field(default=0, init=False)

    def add(self, task_id: str, seconds: float, now: float) -> None:
        """Let a task of this many seconds of work wait. `advance(now)` must have been called."""
        self._waiting.append((task_id, seconds))
        self._fill(now)

    def advance(self, now: float) -> list[tuple[str, float]]:
        """Work until `now`; tell which tasks have ended since the last time, and when."""
        ended: list[tuple[str, float]] = []
        while self._running and self._running[0][0] <= now:
            at, task_id = heapq.heappop(self._running)
            ended.append((task_id, at))
            self._fill(at)
        self._done += len(ended)
        return ended

    def _fill(self, now: float) -> None:
        while self._waiting and len(self._running) < self.workers:
            task_id, seconds = self._next()
            span = Span(started_at=now, ended_at=now + seconds)
            self._spans[task_id] = span
            heapq.heappush(self._running, (span.ended_at, task_id))

    def _next(self) -> tuple[str, float]:
        if self.fifo:
            return self._waiting.popleft()
        index = whole(len(self._waiting), self.seed, "order", len(self._spans))
        chosen = self._waiting[index]
        del self._waiting[index]
        return chosen

    def span(self, task_id: str) -> Span | None:
        """When the task is worked on; None while it waits."""
        return self._spans.get(task_id)

    def next_end_at(self) -> float | None:
        """When the next task ends."""
        return self._running[0][0] if self._running else None

    def statistics(self) -> QueueStatistics:
        return QueueStatistics(waiting=len(self._waiting), running=len(self._running), done=self._done)

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<WorkerQueue {now.waiting} waiting, {now.running}/{self.workers} running, {now.done} done>"
