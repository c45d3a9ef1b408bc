"""The contract between a schedule and the planners of its polls, and the planner that learns nothing."""

import math
from collections.abc import Iterable
from typing import Any, Final, Literal, Protocol

from attrs import define, field

from novita_async._util.values import frozen
from novita_async.errors import ConfigurationError

PolledState = Literal["queued", "running", "unknown", "finished"]

JITTER: Final = 0.2
"""Part of a pause by which chance may move a poll that nothing was learned for."""
_MOST_FACTORS: Final = 64


@frozen(kw_only=True)
class TaskFacts:
    """Facts of a task before its first poll."""

    endpoint: str | None = None
    """Path the task was submitted to."""
    work: float | None = None
    """Amount of work: steps x pixels x images. None: not known."""
    submitted_at: float | None = None
    """When the service took the task, on the clock of `now`. None: not known, as for an id of yesterday."""
    account: str | None = None
    """Label of the account that paid."""


@frozen(kw_only=True)
class PollResult:
    """Answer of one poll. Its times are on the server's own clock, which may be off by any amount."""

    state: PolledState
    """Meaning of the status. `unknown` counts as running."""
    progress: float | None = None
    """Range 0 to 100."""
    eta: float | None = None
    """Seconds to go, as the service guesses."""
    submit_ms: float | None = None
    """When the server took the task, in milliseconds."""
    execute_ms: float | None = None
    """When the server began to work on the task."""
    complete_ms: float | None = None
    """When the task was done."""


@define(eq=False, kw_only=True, weakref_slot=False, repr=False)
class ScheduledTask:
    """A task of a schedule. There may be a hundred thousand: every field is paid for that often."""

    key: str
    submitted_at: float
    """When the task was submitted; where that is not known, when it was added."""
    known: bool
    """Whether the time of submission is known."""
    due: float = math.inf
    """When to poll. While a poll is under way: when it was sent. Infinite: after something else."""
    under_way: bool = False
    polls: int = 0
    """Answered polls so far."""
    failures: int = 0
    """Failed polls in a row."""

    @property
    def never_polled(self) -> bool:
        """Whether the task is of unknown age and has no poll yet, so that the first is due at once."""
        return not self.known and self.polls == 0


class Planner(Protocol):
    """Decides when to poll. Each method that learns something returns the tasks to be planned anew."""

    def admit(self, key: str, facts: TaskFacts, now: float, /) -> tuple[Any, Iterable[Any]]:
        """Add a task; returns the task, too."""
        ...

    def polled(self, task: Any, result: PollResult, sent_at: float, now: float, /) -> Iterable[Any]:
        """Learn from the answer to a poll that was sent at `sent_at`."""
        ...

    def dropped(self, task: Any, now: float, /) -> Iterable[Any]:
        """Learn that no more will be known of a task."""
        ...

    def due(self, task: Any, now: float, jitter: float, /) -> float:
        """When to poll; infinite where that depends on other tasks."""
        ...

    def stale(self, task: Any, /) -> bool:
        """Whether more is known now than when the poll was planned."""
        ...


def positive(instance: object, attribute: Any, value: float) -> None:
    """Refuse a configuration value that is not a number above 0."""
    if not (value > 0 and math.isfinite(value)):
        _refuse(instance, attribute.name, value, "a number above 0")


def at_least_one(instance: object, attribute: Any, value: float) -> None:
    """Refuse a configuration value below 1."""
    if not (value >= 1 and math.isfinite(value)):
        _refuse(instance, attribute.name, value, "1 or above")


def not_negative(instance: object, attribute: Any, value: float) -> None:
    """Refuse a configuration value below 0."""
    if not value >= 0:
        _refuse(instance, attribute.name, value, "0 or above")


def _refuse(instance: object, name: str, value: float, expected: str) -> None:
    raise ConfigurationError(problem=f"{type(instance).__name__}.{name}: {value!r} is not {expected}")


@frozen(kw_only=True)
class Backoff:
    """Pauses that depend on nothing but their number.

    Args:
        first: Seconds before the first poll.
        factor: Ratio of each pause to the one before.
        cap: Seconds: the longest pause.
    """

    first: float = field(default=0.5, validator=positive)
    """Seconds before the first poll."""
    factor: float = field(default=1.5, validator=at_least_one)
    """Ratio of each pause to the one before."""
    cap: float = field(default=10.0, validator=positive)
    """Seconds: the longest pause."""

    def pause(self, polls: int) -> float:
        """Seconds from the poll with this number to the next; from the submission to the poll 0."""
        return min(self.cap, self.first * self.factor ** min(polls, _MOST_FACTORS))


@define(eq=False, repr=False)
class BackoffPlanner:
    """The planner that learns nothing."""

    backoff: Backoff

    def admit(self, key: str, facts: TaskFacts, now: float) -> tuple[ScheduledTask, list[ScheduledTask]]:
        at = facts.submitted_at
        task = ScheduledTask(key=key, submitted_at=now if at is None else at, known=at is not None)
        return task, [task]

    def polled(self, task: ScheduledTask, *_: object) -> list[ScheduledTask]:
        return [task]

    def dropped(self, *_: object) -> list[ScheduledTask]:
        return []

    def due(self, task: ScheduledTask, now: float, jitter: float) -> float:
        if task.never_polled:
            return now
        if task.polls == 0:
            return task.submitted_at + self.backoff.pause(0)
        return now + self.backoff.pause(task.polls) * (1.0 + JITTER * (jitter - 0.5))

    def stale(self, *_: object) -> bool:
        return False
