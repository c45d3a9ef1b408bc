"""Figures for dashboards, made from the public events alone: one table for every system that keeps them.

Each figure is a counter or a spread of seconds, with few labels of few values: no id, no tag, no model. Money
is counted where the budget has a price for an image.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Protocol

from attrs import define, field

from novita_async._policy.spending import Budget
from novita_async._util.clock import loop_time
from novita_async._util.values import frozen
from novita_async.errors import RateLimited
from novita_async.events import (
    Announced,
    Bought,
    BreakerOpened,
    Completed,
    Event,
    FailedForGood,
    Lost,
    NotBought,
    Paced,
    Polled,
    State,
    Transition,
)


class Figure(StrEnum):
    """Names of what is counted, or measured."""

    PURCHASES = "purchases"
    IMAGES = "images"
    SPEND = "spend"
    RATE_LIMITED = "rate_limited"
    UNCERTAIN = "uncertain"
    BREAKER_TRIPS = "breaker_trips"
    POLLS = "polls"
    QUOTA_WAIT = "quota_wait"
    DURATION = "duration"


@frozen
class FigureMeaning:
    """A figure, for those who read it."""

    words: str
    """Meaning of the figure."""
    labels: tuple[str, ...]
    """Names of its labels."""
    unit: str = ""
    """Its unit, where it has one."""
    is_spread: bool = False
    """Whether single values matter: a histogram."""


MEANINGS: Final[Mapping[Figure, FigureMeaning]] = {
    Figure.PURCHASES: FigureMeaning("Purchases that came to their end.", ("endpoint", "outcome")),
    Figure.IMAGES: FigureMeaning("Images that were bought, or perhaps bought.", ("endpoint", "account")),
    Figure.SPEND: FigureMeaning(
        "Dollars for images that were bought, or perhaps bought.", ("endpoint", "account"), "dollars"
    ),
    Figure.RATE_LIMITED: FigureMeaning("Submissions that were answered with 429.", ("endpoint", "account")),
    Figure.UNCERTAIN: FigureMeaning("Submissions that may have been bought.", ("endpoint", "account")),
    Figure.BREAKER_TRIPS: FigureMeaning("Trips of an account's circuit breaker.", ("account", "cause")),
    Figure.POLLS: FigureMeaning("Polls of tasks.", ("result",)),
    Figure.QUOTA_WAIT: FigureMeaning(
        "Seconds for which the first in line waited for the quota or the breaker.", ("endpoint", "account"),
        "seconds", is_spread=True,
    ),
    Figure.DURATION: FigureMeaning(
        "Seconds from a purchase's first step to its end.", ("endpoint", "outcome"), "seconds", is_spread=True
    ),
}  # fmt: skip

BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Bounds of the spreads, in seconds: from an answer at once to a quota that is used up."""


class FigureKeeper(Protocol):
    """A system that keeps figures."""

    def keep(self, figure: Figure, amount: float, labels: Mapping[str, str], /) -> None:
        """Count an amount, or take in a value of a spread."""
        ...


@define(eq=False)
class _PurchaseSpan:
    """A purchase under way."""

    began_at: float
    waits_since: float | None = None


@define(eq=False)
class Figures:
    """Turns the events of a client into figures."""

    keeper: FigureKeeper
    budget: Budget | None = None
    _courses: dict[int, _PurchaseSpan] = field(factory=dict[int, _PurchaseSpan], init=False)

    def __call__(self, event: Event) -> None:
        match event:
            case Transition():
                self._move(event)
            case Paced(purchase=int(number)):
                now = loop_time()
                course = self._courses.setdefault(number, _PurchaseSpan(now))
                course.waits_since = now if course.waits_since is None else course.waits_since
            case Polled():
                self.keeper.keep(Figure.POLLS, 1, {"result": "seen" if event.error is None else "failed"})
            case BreakerOpened():
                labels = {"account": event.account, "cause": event.cause}
                self.keeper.keep(Figure.BREAKER_TRIPS, 1, labels)
            case _:
                pass

    def _move(self, event: Transition) -> None:
        fact, endpoint = event.fact, event.endpoint
        course = self._courses.setdefault(event.purchase, _PurchaseSpan(fact.at))
        if isinstance(fact, Announced):
            waited = 0.0 if course.waits_since is None else max(0.0, fact.at - course.waits_since)
            course.waits_since = None
            self.keeper.keep(Figure.QUOTA_WAIT, waited, {"endpoint": endpoint, "account": fact.account})
        elif isinstance(fact, NotBought | Lost):
            labels = {"endpoint": endpoint, "account": fact.error.account or ""}
            if isinstance(fact, Lost) and event.before is State.ANNOUNCED:
                self.keeper.keep(Figure.UNCERTAIN, 1, labels)
                self._pay(event, labels)
            elif isinstance(fact.error, RateLimited):
                self.keeper.keep(Figure.RATE_LIMITED, 1, labels)
        elif isinstance(fact, Bought | Completed) and event.before is State.ANNOUNCED:
            account = fact.task.account if isinstance(fact, Bought) else None
            self._pay(event, {"endpoint": endpoint, "account": account or ""})
        self._end(event, course)

    def _pay(self, event: Transition, labels: Mapping[str, str]) -> None:
        self.keeper.keep(Figure.IMAGES, event.images, labels)
        each = self.budget.per_image if self.budget else None
        if each is not None:
            self.keeper.keep(Figure.SPEND, float(each * event.images), labels)

    def _end(self, event: Transition, course: _PurchaseSpan) -> None:
        """Count a purchase that has come to its end, once."""
        fact, after = event.fact, event.after
        if isinstance(fact, Completed) and event.before is not after:
            outcome = "succeeded"
        elif isinstance(fact, FailedForGood):
            outcome = "failed"
        elif after is State.UNCERTAIN and isinstance(fact, Lost):
            outcome = "uncertain"
        else:
            return
        self._courses.pop(event.purchase, None)
        labels = {"endpoint": event.endpoint, "outcome": outcome}
        self.keeper.keep(Figure.PURCHASES, 1, labels)
        self.keeper.keep(Figure.DURATION, max(0.0, fact.at - course.began_at), labels)
