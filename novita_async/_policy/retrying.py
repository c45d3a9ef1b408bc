"""Whether a failed exchange is tried again, and when.

A POST is a purchase and the API has no idempotency key, so two facts about a failure are kept apart: whether
it may have bought something, and whether the cause passes by itself. A purchase that may have been bought is
not sent again unless the caller opts in. Which reason, status or broken connection has which facts is for
those to say who read answers; this policy knows no words of the service.
"""

import math
import re
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING, Final

from attrs import Attribute, field

from novita_async._util.values import frozen
from novita_async.errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import datetime

_MAX_DOUBLINGS: Final = 64
_SECONDS: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)", re.ASCII)


class StopReason(Enum):
    """Why there is no further attempt."""

    REFUSED = "the answer is final"
    """The same again would be refused again."""
    UNCERTAIN = "it may have been bought"
    """Sending it again may pay twice."""
    OUT_OF_ATTEMPTS = "attempts used up"
    """No attempt is left."""
    OUT_OF_TIME = "time used up"
    """No time is left."""


@frozen(kw_only=True)
class Retry:
    """Try again."""

    after: float
    """Seconds to wait first."""


@frozen(kw_only=True)
class Stop:
    """Do not try again."""

    reason: StopReason
    """Why not."""


@frozen(kw_only=True)
class Failure:
    """An exchange without a usable answer, as far as it matters here."""

    perhaps_bought: bool = False
    """Whether it may have bought something, under an id that nobody here knows."""
    passes: bool = True
    """Whether the same attempt, made later, can succeed by itself."""
    retry_after: float | None = None
    """Seconds that the service asked to wait, from `parse_retry_after`."""


def parse_retry_after(value: str | None, now_time: "datetime") -> float | None:
    """Turn a Retry-After header, seconds or an HTTP date, into seconds from now.

    Args:
        value: The header, or None where there was none.
        now_time: The time now, aware, UTC.

    Returns:
        Seconds, never negative and not capped; None for what is absent or cannot be understood.
    """
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        seconds = float(text)
    else:
        try:
            moment = parsedate_to_datetime(text)
            aware = moment if moment.tzinfo else moment.replace(tzinfo=now_time.tzinfo)
            seconds = (aware - now_time).total_seconds()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _positive(_: object, attribute: "Attribute[float]", value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ConfigurationError(problem=f"RetryPolicy.{attribute.name}: {value!r} is not a number above 0")


def _not_negative(_: object, attribute: "Attribute[float]", value: float) -> None:
    if not value >= 0:
        raise ConfigurationError(problem=f"RetryPolicy.{attribute.name}: {value!r} is not 0 or above")


def _at_least_one(_: object, attribute: "Attribute[int | None]", value: int | None) -> None:
    if value is not None and value < 1:
        raise ConfigurationError(problem=f"RetryPolicy.{attribute.name}: {value!r} is not 1 or above")


@frozen(kw_only=True)
class RetryPolicy:
    """Policy of new tries: how long they last, and whether paying twice is risked.

    Args:
        max_elapsed: Seconds of trying and pausing for one exchange; waiting for the account's quota does not
            count. `stream` and `batch` wait longer while the account's circuit breaker is open: until the
            outage is over.
        attempts: How often at most, the first one included. None: as often as time allows.
        base: Seconds: the longest first pause, doubled with each attempt.
        cap: Seconds: the longest pause that is chosen here.
        retry_after_cap: Seconds: the longest pause that the service may ask for.
        resubmit_uncertain: Whether a purchase with an unknown end is sent again, which may pay for it twice.
    """

    max_elapsed: float = field(default=300.0, validator=_not_negative)
    """Seconds of trying and pausing for one exchange; waiting for the account's quota does not count.
    `stream` and `batch` wait longer while the account's circuit breaker is open: until the outage is over."""
    attempts: int | None = field(default=None, validator=_at_least_one)
    """How often at most, the first one included. None: as often as time allows."""
    base: float = field(default=0.5, validator=_positive)
    """Seconds: the longest first pause, doubled with each attempt."""
    cap: float = field(default=30.0, validator=_positive)
    """Seconds: the longest pause that is chosen here."""
    retry_after_cap: float = field(default=60.0, validator=_positive)
    """Seconds: the longest pause that the service may ask for."""
    resubmit_uncertain: bool = False
    """Whether a purchase with an unknown end is sent again, which may pay for it twice."""

    def capped(self, retry_after: float | None) -> float | None:
        """Cut what the service asked for to what is granted."""
        return None if retry_after is None else min(retry_after, self.retry_after_cap)


def decide(
    policy: RetryPolicy, failure: Failure, *, attempt: int, elapsed: float, jitter: float
) -> Retry | Stop:
    """Decide about one failed attempt.

    Args:
        policy: How patient to be.
        failure: The failure of the attempt.
        attempt: Which attempt it was, from 1.
        elapsed: Seconds spent on this exchange so far, without the wait for the account's quota.
        jitter: A fresh random number in [0, 1).
    """
    if failure.perhaps_bought and not policy.resubmit_uncertain:
        return Stop(reason=StopReason.UNCERTAIN)
    if not failure.passes:
        return Stop(reason=StopReason.REFUSED)
    if policy.attempts is not None and attempt >= policy.attempts:
        return Stop(reason=StopReason.OUT_OF_ATTEMPTS)
    if elapsed >= policy.max_elapsed:
        return Stop(reason=StopReason.OUT_OF_TIME)
    pause = jitter * min(policy.cap, policy.base * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))
    hint = policy.capped(failure.retry_after)
    if hint is not None:  # next to nothing, taken at its word each time, would be a busy loop
        pause = hint if hint >= policy.base else max(hint, pause)
    return Retry(after=min(pause, policy.max_elapsed - elapsed))
