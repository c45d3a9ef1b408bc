"""When to look at a task again.

`Polling` is what the user chooses. It makes a `PollMemory`, which is what has been learned and may outlive
the process, and for each watch a `PollSchedule`, which knows the tasks that are waited for and says which of
them to ask about now.

Rules of the schedule:

* An entry is *waiting* or *under way* (taken, not yet answered). It is never taken twice at once.
* `take` marks entries as under way. Each must come back through `saw`, `missed` or `drop`.
* A waiting entry has a time at which it is due, or, where it stands in a queue, one before it has.
* What has finished or was dropped is forgotten, and answers that arrive for it later are ignored.
* A missed look says nothing about the task: it is tried again soon, with a backoff of its own.

How long things take is learned in `durations`, what stands in a queue is known in `queue`, and `learner`
plans with both. Nothing here reads a clock or rolls dice: `now` is in seconds on any clock that does not go
back, and `jitter` is a number in [0, 1).
"""

import heapq
import math
from collections.abc import Iterable
from typing import Any, Final

from attrs import Attribute, asdict, define, field, fields, frozen

from novita_async._policy.polling.durations import GOLDEN
from novita_async._policy.polling.learner import Learner
from novita_async._policy.polling.memory import KindStatistics, MemoryStatistics, PollMemory
from novita_async._policy.polling.planner import (
    Backoff,
    Entry,
    Planner,
    Sighting,
    State,
    TaskFacts,
    raise_for,
)

__all__ = [
    "Backoff",
    "KindStatistics",
    "MemoryStatistics",
    "PollMemory",
    "PollSchedule",
    "PollStatistics",
    "Polling",
    "Sighting",
    "State",
    "TaskFacts",
]

MISS_FIRST: Final = 0.5
"""Seconds: the longest pause after a first missed look. It doubles with each."""
MISS_CAP: Final = 15.0
"""Seconds: the longest pause between missed looks that is chosen here."""
_MAX_DOUBLINGS: Final = 64
_AT_ONCE: Final = -math.inf
"""When a woken task is due: before all that are only late, whatever is learned meanwhile."""


def _positive(instance: object, attribute: "Attribute[float]", value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise_for(instance, attribute.name, value, "a number above 0")


def _not_negative(instance: object, attribute: "Attribute[float]", value: float) -> None:
    if not value >= 0:
        raise_for(instance, attribute.name, value, "0 or above")


def _at_least_one(instance: object, attribute: "Attribute[int]", value: int) -> None:
    if value < 1:
        raise_for(instance, attribute.name, value, "1 or above")


@frozen(kw_only=True)
class PollStatistics:
    """A schedule at a moment."""

    waiting: int
    """Tasks that will be looked at."""
    under_way: int
    """Tasks that are looked at now."""
    finished: int
    """Tasks seen finished so far."""
    polls: int
    """Looks that were answered or missed so far."""
    missed: int
    """Looks that were missed so far."""

    @classmethod
    def together(cls, several: "Iterable[PollStatistics]") -> "PollStatistics":
        """Add up those of several schedules."""
        rows = [asdict(one) for one in several]
        return cls(**{each.name: sum(row[each.name] for row in rows) for each in fields(cls)})


@frozen(kw_only=True)
class Polling:
    """When to look. Immutable, and its own configuration."""

    cost: float = field(default=0.07, validator=_positive)
    """What a poll is worth, in seconds of delay: 0.07 means that one poll more is right if it makes a result
    known 0.07 s sooner. A lower cost polls more and sees ends sooner."""
    polls_per_second: float = field(default=20.0, validator=_positive)
    """The most polls in a second, per account."""
    deadline: float = field(default=3600.0, validator=_positive)
    """Seconds of waiting for one task, and then, in a stream, for one of its files."""
    patience: float = field(default=300.0, validator=_not_negative)
    """Seconds during which polls of one task may fail in passing ways."""
    not_found_grace: float = field(default=5.0, validator=_not_negative)
    """Seconds after the submission during which the service's "no such task" is not believed."""
    concurrency: int = field(default=16, validator=_at_least_one)
    """The most polls under way at once."""
    backoff: Backoff | None = None
    """Pauses to use instead of learning. None: learn."""

    @classmethod
    def fixed(cls, seconds: float, **others: Any) -> "Polling":
        """Look every so many seconds."""
        return cls(backoff=Backoff(first=seconds, factor=1.0, cap=seconds), **others)

    @classmethod
    def exponential(
        cls, first: float = 0.5, factor: float = 1.5, cap: float = 10.0, **others: Any
    ) -> "Polling":
        """Look ever more rarely."""
        return cls(backoff=Backoff(first=first, factor=factor, cap=cap), **others)

    def memory(self) -> PollMemory:
        """Make an empty memory; one serves all schedules of a client."""
        return PollMemory()

    def schedule(self, memory: PollMemory) -> "PollSchedule":
        """Make the schedule of one watch."""
        return PollSchedule(planner=self.backoff or Learner(memory=memory, cost=self.cost))


@define(eq=False, kw_only=True, repr=False)
class PollSchedule:
    """The tasks of one watch and when to look at each."""

    planner: Planner
    """How looks are planned."""
    _entries: dict[str, Entry] = field(factory=dict, init=False)
    _heap: list[tuple[float, str]] = field(factory=list, init=False)
    """Holds every finite due time; what does not match its entry any more is skipped."""
    _now: float = field(default=-math.inf, init=False)
    _under_way: int = field(default=0, init=False)
    _finished: int = field(default=0, init=False)
    _polls: int = field(default=0, init=False)
    _missed: int = field(default=0, init=False)

    def add(self, key: str, facts: TaskFacts, now: float) -> None:
        """Wait for a task. A key that is waited for already stays as it is."""
        if key in self._entries:
            return
        self._now = now
        entry, changed = self.planner.admit(key, facts, now)
        self._entries[key] = entry
        self._plan(changed, now, (len(self._entries) * GOLDEN) % 1.0)

    def take(self, now: float, most: int) -> list[str]:
        """Give the keys to be polled now, the longest due first, and mark them as under way."""
        self._now = now
        taken: list[str] = []
        while len(taken) < most and self.next_at(now) <= now:
            entry = self._entries[heapq.heappop(self._heap)[1]]
            if not self._put_off(entry, now):
                entry.due = now
                entry.under_way = True
                taken.append(entry.key)
        self._under_way += len(taken)
        return taken

    def next_at(self, now: float) -> float:
        """When `take` will have something to give; never before `now`. Infinite: nothing is waiting."""
        heap = self._heap
        while heap:
            due, key = heap[0]
            entry = self._entries.get(key)
            if entry is not None and entry.due == due and not entry.under_way:
                return max(now, due)
            heapq.heappop(heap)
        return math.inf

    def saw(self, key: str, sighting: Sighting, now: float, jitter: float) -> None:
        """Take in the answer of a look."""
        entry = self._back(key, now)
        if entry is None:
            return
        entry.looks += 1
        entry.misses = 0
        if sighting.state == "finished":
            self._finished += 1
            del self._entries[key]
        self._plan(self.planner.saw(entry, sighting, entry.due, now), now, jitter)

    def missed(self, key: str, now: float, jitter: float, retry_after: float | None = None) -> None:
        """Note that a look was not answered.

        Args:
            key: What was looked at.
            now: The time now.
            jitter: A fresh random number in [0, 1).
            retry_after: Seconds that the service asked to wait, capped by the caller.
        """
        entry = self._back(key, now)
        if entry is None:
            return
        pause = min(MISS_CAP, MISS_FIRST * 2.0 ** min(entry.misses, _MAX_DOUBLINGS))
        entry.misses += 1
        self._missed += 1
        self._put(entry, now + max(retry_after or 0.0, pause * (0.5 + 0.5 * jitter)))

    def wake(self, key: str, now: float) -> None:
        """Make a waiting task due before all others. One that is under way or unknown stays as it is."""
        self._now = now
        entry = self._entries.get(key)
        if entry is not None and not entry.under_way:
            self._put(entry, _AT_ONCE)

    def drop(self, key: str) -> None:
        """Wait for a task no longer."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._under_way -= entry.under_way
        self._plan(self.planner.dropped(entry, self._now), self._now, 0.5)

    def statistics(self) -> PollStatistics:
        """Count."""
        return PollStatistics(
            waiting=len(self._entries) - self._under_way,
            under_way=self._under_way,
            finished=self._finished,
            polls=self._polls,
            missed=self._missed,
        )

    def __repr__(self) -> str:
        now = self.statistics()
        return (
            f"<PollSchedule {now.waiting} waiting, {now.under_way} under way, {now.finished} finished, "
            f"{now.polls} polls>"
        )

    def _back(self, key: str, now: float) -> Entry | None:
        self._now = now
        entry = self._entries.get(key)
        if entry is None or not entry.under_way:
            return None
        entry.under_way = False
        self._under_way -= 1
        self._polls += 1
        return entry

    def _put_off(self, entry: Entry, now: float) -> bool:
        """Plan a look that is due once more, where more has been learned since it was planned."""
        if entry.misses or entry.due == _AT_ONCE or not self.planner.stale(entry):
            return False
        due = self.planner.due(entry, now, 0.5)
        if due > now:
            self._put(entry, due)
        return due > now

    def _plan(self, entries: Iterable[Entry], now: float, jitter: float) -> None:
        for entry in entries:
            settled = entry.under_way or entry.misses or entry.due == _AT_ONCE
            if not settled and entry.key in self._entries:
                self._put(entry, max(now, self.planner.due(entry, now, jitter)))
                jitter = (jitter + GOLDEN) % 1.0

    def _put(self, entry: Entry, due: float) -> None:
        entry.due = due
        if due < math.inf:
            heapq.heappush(self._heap, (due, entry.key))
