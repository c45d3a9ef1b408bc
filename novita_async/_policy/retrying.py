"""Whether a failed exchange is tried again, and when.

A POST is a purchase and the API has no idempotency key, so two questions are kept apart:

* `fate(failure)`: can it have bought anything? It cannot if the request never went out whole, if the service
  answered with a 4xx, or if the answer is JSON whose reason says that no task was made. Everything else
  (another 5xx, a 2xx without a readable task id, silence) leaves it open, and what is open is not sent
  again unless the caller opts in.
* `RetryPolicy.decide(failure, ...)`: can trying again help, and is there time left?

Reasons come before statuses: the service answers an empty balance with 400 and with 403.
"""

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING, Final

from attrs import Attribute, field, frozen

from novita_async._http import Delivery
from novita_async.errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import datetime

NO_TASK_REASONS: Final = frozenset({"BILLING_FAILED", "CREATE_TASK_FAILED", "SERVICE_NOT_AVAILABLE"})
"""The service broke before it made a task: nothing was bought, and trying again can help."""

FINAL_REASONS: Final = frozenset({
    "ACCESS_DENY",
    "ANONYMOUS_ACCESS_QUOTA_EXCEEDS",
    "API_NOT_ALLOWED",
    "API_NOT_FOUND",
    "BILLING_AUTH_FAILED",
    "BILLING_BALANCE_NOT_ENOUGH",
    "FAILED_TO_AUTH",
    "FEATURE_NOT_ALLOWED",
    "FUSION_MODEL_NOT_FOUND",
    "INVALID_API_KEY",
    "MEMBER_BUDGET_NOT_ENOUGH",
    "MISSING_API_KEY",
    "NEED_REAL_NAME_VERIFY",
    "NOT_ENOUGH_BALANCE",
    "NOT_ENOUGH_BUDGET",
    "TASK_FAILED",
})  # fmt: skip
"""The same again would get the same answer, whatever the status says."""

_TRANSIENT_4XX: Final[Mapping[bool, frozenset[int]]] = {
    True: frozenset({429}),
    False: frozenset({408, 425, 429}),
}
"""The 4xx that pass by themselves, for a purchase and for a read."""

_MAX_DOUBLINGS: Final = 64
_SECONDS: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)", re.ASCII)


class Fate(Enum):
    """Whether a failed exchange can have cost anything."""

    NOT_BOUGHT = "not bought"
    """Certainly nothing was bought."""
    UNCERTAIN = "uncertain"
    """Perhaps a task runs and is paid, under an id that nobody here knows."""


class StopReason(Enum):
    """Why there is no further attempt."""

    REFUSED = "the answer is final"
    """The same again would be refused again."""
    UNCERTAIN = "it may have been bought"
    """Sending it again may pay twice."""
    OUT_OF_ATTEMPTS = "attempts used up"
    """It was tried as often as allowed."""
    OUT_OF_TIME = "time used up"
    """It was tried for as long as allowed."""


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

    delivery: Delivery
    """How far it got."""
    purchase: bool
    """True for a POST, which may buy; False for a GET, which may be repeated freely."""
    passes: bool = True
    """Whether waiting can help."""
    status: int | None = None
    """HTTP status, where a status line came back, even if the body was cut."""
    reason: str | None = None
    """The service's reason, where the body was JSON and had one."""
    retry_after: float | None = None
    """Seconds that the service asked to wait, from `parse_retry_after`."""


def fate(failure: Failure) -> Fate:
    """Tell whether a failed exchange can have bought something."""
    nothing_bought = (
        not failure.purchase
        or failure.delivery is Delivery.NOT_SENT
        or _is_4xx(failure)
        or failure.reason in NO_TASK_REASONS
    )
    return Fate.NOT_BOUGHT if nothing_bought else Fate.UNCERTAIN


def _is_4xx(failure: Failure) -> bool:
    return failure.status is not None and 400 <= failure.status < 500  # noqa: PLR2004 (the class of 4xx)


def _is_early_redirect(failure: Failure) -> bool:
    status = failure.status or 0
    return failure.delivery is Delivery.NOT_SENT and 300 <= status < 400  # noqa: PLR2004 (the class of 3xx)


def _is_final(failure: Failure) -> bool:
    if not failure.passes:
        return True
    if failure.reason in NO_TASK_REASONS:
        return False
    if failure.reason in FINAL_REASONS:
        return True
    if _is_early_redirect(failure):  # it is not followed, and would come again
        return True
    return _is_4xx(failure) and failure.status not in _TRANSIENT_4XX[failure.purchase]


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
    """For how long to try what failed again, and whether to risk paying twice."""

    max_elapsed: float = field(default=300.0, validator=_not_negative)
    """Seconds of trying and pausing for one exchange; waiting for the account's quota does not count.
    `stream` and `batch` wait longer while the account's circuit breaker is open: until the outage is over."""
    attempts: int | None = field(default=None, validator=_at_least_one)
    """How often at most, the first one included. None: as often as time allows."""
    base: float = field(default=0.5, validator=_positive)
    """Seconds: the longest first pause. It doubles with each attempt."""
    cap: float = field(default=30.0, validator=_positive)
    """Seconds: the longest pause that is chosen here."""
    retry_after_cap: float = field(default=60.0, validator=_positive)
    """Seconds: the longest pause that the service may ask for."""
    resubmit_uncertain: bool = False
    """Whether a purchase with an unknown end is sent again. It may then be paid twice."""

    def decide(self, failure: Failure, *, attempt: int, elapsed: float, jitter: float) -> Retry | Stop:
        """Decide about one failed attempt.

        Args:
            failure: What went wrong.
            attempt: Which attempt it was, from 1.
            elapsed: Seconds spent on this exchange so far, without the wait for the account's quota.
            jitter: A fresh random number in [0, 1).
        """
        if fate(failure) is Fate.UNCERTAIN and not self.resubmit_uncertain:
            return Stop(reason=StopReason.UNCERTAIN)
        if _is_final(failure):
            return Stop(reason=StopReason.REFUSED)
        if self.attempts is not None and attempt >= self.attempts:
            return Stop(reason=StopReason.OUT_OF_ATTEMPTS)
        if elapsed >= self.max_elapsed:
            return Stop(reason=StopReason.OUT_OF_TIME)
        pause = self._pause(failure, attempt, jitter)
        return Retry(after=min(pause, self.max_elapsed - elapsed))

    def capped(self, retry_after: float | None) -> float | None:
        """Cut what the service asked for to what is granted."""
        return None if retry_after is None else min(retry_after, self.retry_after_cap)

    def _pause(self, failure: Failure, attempt: int, jitter: float) -> float:
        backoff = jitter * min(self.cap, self.base * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))
        hint = self.capped(failure.retry_after)
        if hint is None:
            return backoff
        # A hint of next to nothing, taken at its word each time, would be a busy loop.
        return hint if hint >= self.base else max(hint, backoff)
