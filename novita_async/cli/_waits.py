"""Waits: for the quota, a server that does not answer, tasks. Taken from events, told at any moment.

An observer alone: nothing here decides when anything is sent. `now` is the loop's clock.
"""

import math
import os
from typing import Final
from urllib.parse import urlsplit

from attrs import define, field

from novita_async._util.values import frozen
from novita_async.cli._report_timeline import elapsed
from novita_async.cli._terminal import LinePart, cut, visible
from novita_async.errors import NoAnswer, NotSent
from novita_async.events import (
    Announced,
    Bought,
    BreakerClosed,
    BreakerOpened,
    Event,
    FailedForGood,
    Finished,
    Lost,
    Paced,
    Polled,
    Retrying,
    Transition,
)
from novita_async.models.choices import TaskStatus
from novita_async.models.endpoints import DEFAULT_BASE_URL

_WORTH_TELLING: Final = 1.0
"""Seconds: shorter waits are not mentioned."""
_SILENCE: Final = 2.0
"""Seconds without an answer that are not mentioned."""
LIMITED: Final = "rate limited"
"""Cause of a breaker that opens because the service has asked to slow down."""


def host_of_environment() -> str:
    """The host and port that requests go to, without the credentials that a URL should not have."""
    base_url = os.environ.get("NOVITA_BASE_URL", "").strip() or DEFAULT_BASE_URL
    try:
        return urlsplit(base_url).netloc.rpartition("@")[2] or base_url
    except ValueError:
        return "the server"


@define
class _Outage:
    """A server that an account does not reach, or that does not want more of it for now."""

    since: float
    limited: bool = False
    """Whether the service has asked to slow down."""
    until: float = -math.inf
    """When the next request finds out."""
    is_over: bool = False
    """Whether polls are answered again, though nothing was bought since."""

    def is_told(self, now: float) -> bool:
        """Whether there is still something to say of it."""
        if self.limited or self.is_over:
            return self.until > now
        return now - self.since >= _SILENCE


@frozen
class _LastPoll:
    """Findings of the last poll of a task."""

    status: str | None = None
    percent: float | None = None


@define(eq=False)
class Waits:
    """All that is waited for."""

    host: str = field(factory=host_of_environment)
    """Whom requests are sent to."""
    _paced: dict[int, float] = field(factory=dict[int, float], init=False)
    """Until when purchases wait for the quota."""
    _retries: dict[int, tuple[float, str]] = field(factory=dict[int, tuple[float, str]], init=False)
    """When purchases are tried again, and why."""
    _outages: dict[str | None, _Outage] = field(factory=dict[str | None, _Outage], init=False)
    _running: dict[str, _LastPoll] = field(factory=dict[str, _LastPoll], init=False)
    """Tasks that are paid and not seen finished."""

    @property
    def running(self) -> int:
        """Tasks that are paid and not seen finished."""
        return len(self._running)

    def take(self, event: Event, now: float) -> None:
        """Take in an event."""
        match event:
            case Paced(purchase=int(purchase)):
                outage = self._outages.get(event.account)
                if outage is None:
                    self._paced[purchase] = now + event.delay
                else:
                    outage.until = now + event.delay
            case Retrying(purchase=int(purchase)):
                self._retries[purchase] = now + event.after, event.error.sentence()
                if isinstance(event.error, NotSent):
                    self._silent(event.account, now)
            case Transition():
                self._take_fact(event)
            case Polled():
                self._take_poll(event, now)
            case BreakerOpened():
                outage = self._silent(event.account, now)
                outage.limited, outage.until = event.cause == LIMITED, now + event.after
            case BreakerClosed():
                self._outages.pop(event.account, None)
            case Finished():
                self._running.pop(event.outcome.task_id or "", None)
            case _:
                pass

    def _take_fact(self, event: Transition) -> None:
        if isinstance(event.fact, Announced | FailedForGood | Lost):
            self._paced.pop(event.purchase, None)
            self._retries.pop(event.purchase, None)
        elif isinstance(event.fact, Bought):
            self._outages.pop(event.fact.task.account, None)
            self._running.setdefault(event.fact.task.task_id, _LastPoll())

    def _take_poll(self, event: Polled, now: float) -> None:
        account, task_id = event.task.account, event.task.task_id
        if isinstance(event.error, NoAnswer):
            self._silent(account, now)
            self._running.setdefault(task_id, _LastPoll())
        elif event.error is None:
            if account in self._outages:
                self._outages[account].is_over = True
            self._running[task_id] = _LastPoll(event.status, event.progress_percent)

    def _silent(self, account: str | None, now: float) -> _Outage:
        outage = self._outages.get(account)
        if outage is None or outage.is_over:
            outage = self._outages[account] = _Outage(now)
        return outage

    # --- Told -----------------------------------------------------------------------------------------------

    def parts(self, now: float) -> list[LinePart]:
        """Make the parts of the line about what is waited for; empty where that is nothing worth telling."""
        return self._outage(now) or self._quota(now) or self._retry(now)

    def sentence(self, now: float) -> str:
        """Say in full what is waited for; empty where that is nothing worth telling."""
        return "; ".join(part.texts[0] for part in self.parts(now))

    def tasks(self) -> str:
        """How far the paid tasks are: `8 queued, 4 at 35 %`; empty where nothing is known."""
        queued = sum(seen.status == TaskStatus.QUEUED for seen in self._running.values())
        percents = [seen.percent for seen in self._running.values() if seen.percent]
        told = [f"{queued:,} queued"] if queued else []
        if percents:
            told.append(f"{len(percents):,} at {sum(percents) / len(percents):.0f} %")
        return ", ".join(told)

    def is_silent(self, now: float) -> bool:
        """Whether the server does not answer."""
        outage = self._told_outage(now)
        return outage is not None and not outage.limited and not outage.is_over

    def _told_outage(self, now: float) -> _Outage | None:
        """The oldest outage that is worth telling, and not over if any is not."""
        told = [each for each in self._outages.values() if each.is_told(now)]
        return min(told, key=lambda each: (each.is_over, each.since), default=None)

    def _outage(self, now: float) -> list[LinePart]:
        outage = self._told_outage(now)
        if outage is None:
            return []
        again = _again(outage.until, now)
        if outage.limited:
            return [LinePart(("the service asks to slow down", "slow down"), (7,)), *again]
        if outage.is_over:
            return [LinePart((f"{self.host} answers again", "answers again"), (7,)), *again]
        span, paid = elapsed(now - outage.since), self.running
        whom = f"no answer from {self.host} for {span}"
        silence = LinePart((whom, f"no answer for {span}", f"no answer {span}"), (7, 1))
        tasks = "task is" if paid == 1 else "tasks are"
        safe = LinePart((f"{paid:,} paid {tasks} safe", f"{paid:,} paid, safe", ""), (5, 4), "; ")
        return [silence, *([safe] if paid else []), *again]

    def _quota(self, now: float) -> list[LinePart]:
        self._paced = {purchase: until for purchase, until in self._paced.items() if until > now}
        until = min(self._paced.values(), default=-math.inf)
        if until - now < _WORTH_TELLING:
            return []
        span = elapsed(math.ceil(until - now))
        words = f"the quota is used up: the next goes in {span}"
        return [LinePart((words, f"quota used up: next in {span}", f"next in {span}"), (7, 5))]

    def _retry(self, now: float) -> list[LinePart]:
        self._retries = {purchase: told for purchase, told in self._retries.items() if told[0] > now}
        until, why = min(self._retries.values(), default=(-math.inf, ""))
        if until - now < _WORTH_TELLING:
            return []
        return [LinePart((visible(why), f"{cut(visible(why), 30)}", ""), (7, 5)), *_again(until, now)]


def _again(until: float, now: float) -> list[LinePart]:
    span = elapsed(math.ceil(until - now)) if until > now else ""
    return [LinePart((f"again in {span}", f"↻ {span}", ""), (9, 8), "; ")] if span else []
