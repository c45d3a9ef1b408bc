"""What a schedule and the ways of planning its looks tell each other."""

import math
from collections.abc import Iterable
from typing import Any, Final, Literal, Protocol

from attrs import define, field, frozen

from novita_async.errors import ConfigurationError

State = Literal["queued", "running", "unknown", "finished"]

JITTER: Final = 0.2
"""By how much of a pause chance may move a look that nothing was learned for."""
_MOST_FACTORS: Final = 64


@frozen(kw_only=True)
class TaskFacts:
    """What is known of a task before anyone has looked at it."""

    endpoint: str | None = None
    """Path it was submitted to."""
    work: float | None = None
    """How much was asked for: steps x pixels x images. None: not known."""
    submitted_at: float | None = None
    """When the service took it, on the clock of `now`. None: not known, as for an id of yesterday."""
    account: str | None = None
    """Label of the account that paid."""


@frozen(kw_only=True)
class Sighting:
    """What a look has found. Its times are on the server's own clock, which may be off by any amount."""

    state: State
    """What the status means. `unknown` counts as running."""
    progress: float | None = None
    """Range 0 to 100."""
    eta: float | None = None
    """Seconds to go, as the service guesses."""
    submit_ms: float | None = None
    """When the server took the task, in milliseconds."""
    execute_ms: float | None = None
    """When it began to work."""
    complete_ms: float | None = None
    """When it was done."""


@define(eq=False, kw_only=True, weakref_slot=False)
class Entry:
    """One task of a schedule. There may be a hundred thousand: every field is paid for that often."""

    key: str
    submitted_at: float
    """Where that is not known: when it was added."""
    known: bool
    """Whether the time of submission is known."""
    due: float = math.inf
    """When to look. While under way: when the look was sent. Infinite: something else must happen first."""
    under_way: bool = False
    looks: int = 0
    """Answers so far."""
    misses: int = 0
    """Looks that were not answered, in a row."""

    @property
    def overdue(self) -> bool:
        """Whether nobody has looked, and nobody knows how long ago one should have."""
        return not self.known and self.looks == 0


class Planner(Protocol):
    """Decides when to look. Each method that takes something in returns what must be planned anew."""

    def admit(self, key: str, facts: TaskFacts, now: float, /) -> tuple[Any, Iterable[Any]]:
        """Take in a new task; also returns its entry."""
        ...

    def saw(self, entry: Any, sighting: Sighting, taken_at: float, now: float, /) -> Iterable[Any]:
        """Take in what a look has found that was sent at `taken_at`."""
        ...

    def dropped(self, entry: Any, now: float, /) -> Iterable[Any]:
        """Take in that nothing more will be heard of a task."""
        ...

    def due(self, entry: Any, now: float, jitter: float, /) -> float:
        """When to look; infinite where that depends on others."""
        ...

    def stale(self, entry: Any, /) -> bool:
        """Whether more is known now than when the look was planned."""
        ...


def _positive(instance: object, attribute: Any, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise_for(instance, attribute.name, value, "a number above 0")


def _at_least_one(instance: object, attribute: Any, value: float) -> None:
    if not (value >= 1 and math.isfinite(value)):
        raise_for(instance, attribute.name, value, "1 or above")


def raise_for(instance: object, name: str, value: float, what: str) -> None:
    """Refuse a wrong value of the configuration."""
    raise ConfigurationError(problem=f"{type(instance).__name__}.{name}: {value!r} is not {what}")


@frozen(kw_only=True)
class Backoff:
    """Pauses that depend on nothing but their number."""

    first: float = field(default=0.5, validator=_positive)
    """Seconds before the first look."""
    factor: float = field(default=1.5, validator=_at_least_one)
    """What each pause is multiplied with to make the next."""
    cap: float = field(default=10.0, validator=_positive)
    """Seconds: the longest pause."""

    def pause(self, looks: int) -> float:
        """Seconds from the look with this number to the next; from the submission to the look 0."""
        return min(self.cap, self.first * self.factor ** min(looks, _MOST_FACTORS))

    def admit(self, key: str, facts: TaskFacts, now: float) -> tuple[Entry, list[Entry]]:
        at = facts.submitted_at
        entry = Entry(key=key, submitted_at=now if at is None else at, known=at is not None)
        return entry, [entry]

    def saw(self, entry: Entry, sighting: Sighting, taken_at: float, now: float) -> list[Entry]:  # noqa: ARG002
        return [entry]

    def dropped(self, entry: Entry, now: float) -> list[Entry]:  # noqa: ARG002
        return []

    def due(self, entry: Entry, now: float, jitter: float) -> float:
        if entry.overdue:
            return now
        if entry.looks == 0:
            return entry.submitted_at + self.pause(0)
        return now + self.pause(entry.looks) * (1.0 + JITTER * (jitter - 0.5))

    def stale(self, entry: Entry) -> bool:  # noqa: ARG002
        return False
