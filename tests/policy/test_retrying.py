"""Whether a failed exchange is tried again: tables of facts and verdicts."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novita_async._http import Delivery
from novita_async._policy.retrying import (
    FINAL_REASONS,
    NO_TASK_REASONS,
    Failure,
    Fate,
    Retry,
    RetryPolicy,
    Stop,
    StopReason,
    fate,
    parse_retry_after,
)
from novita_async.errors import ConfigurationError

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
POLICY = RetryPolicy()
REFUSED, UNCERTAIN = StopReason.REFUSED, StopReason.UNCERTAIN
AGAIN = "again"


def failure(delivery=Delivery.ANSWERED, *, purchase=True, **facts):
    return Failure(delivery=delivery, purchase=purchase, **facts)


def verdict(policy, failed, *, attempt=1, elapsed=0.0, jitter=0.5):
    decision = policy.decide(failed, attempt=attempt, elapsed=elapsed, jitter=jitter)
    return decision.reason if isinstance(decision, Stop) else AGAIN


FACTS = [
    # delivery, status, reason, of a purchase: (fate, verdict, with resubmit_uncertain), of a read: verdict
    (Delivery.NOT_SENT, None, None, (Fate.NOT_BOUGHT, AGAIN, AGAIN), AGAIN),
    (Delivery.NOT_SENT, 307, None, (Fate.NOT_BOUGHT, REFUSED, REFUSED), REFUSED),
    (Delivery.NOT_SENT, 413, None, (Fate.NOT_BOUGHT, REFUSED, REFUSED), REFUSED),
    (Delivery.NOT_SENT, 502, None, (Fate.NOT_BOUGHT, AGAIN, AGAIN), AGAIN),
    (Delivery.UNKNOWN, None, None, (Fate.UNCERTAIN, UNCERTAIN, AGAIN), AGAIN),
    (Delivery.UNKNOWN, 200, None, (Fate.UNCERTAIN, UNCERTAIN, AGAIN), AGAIN),
    (Delivery.UNKNOWN, 400, None, (Fate.NOT_BOUGHT, REFUSED, REFUSED), REFUSED),
    (Delivery.UNKNOWN, 429, None, (Fate.NOT_BOUGHT, AGAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, None, None, (Fate.UNCERTAIN, UNCERTAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 200, None, (Fate.UNCERTAIN, UNCERTAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 201, "WHATEVER", (Fate.UNCERTAIN, UNCERTAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 302, None, (Fate.UNCERTAIN, UNCERTAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 399, None, (Fate.UNCERTAIN, UNCERTAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 400, None, (Fate.NOT_BOUGHT, REFUSED, REFUSED), REFUSED),
    (Delivery.ANSWERED, 400, "VALIDATOR", (Fate.NOT_BOUGHT, REFUSED, REFUSED), REFUSED),
    (Delivery.ANSWERED, 401, None, (Fate.NOT_BOUGHT, REFUSED, REFUSED), REFUSED),
    (Delivery.ANSWERED, 403, "NOT_ENOUGH_BALANCE", (Fate.NOT_BOUGHT, REFUSED, REFUSED), REFUSED),
    (Delivery.ANSWERED, 404, None, (Fate.NOT_BOUGHT, REFUSED, REFUSED), REFUSED),
    (Delivery.ANSWERED, 408, None, (Fate.NOT_BOUGHT, REFUSED, REFUSED), AGAIN),
    (Delivery.ANSWERED, 425, None, (Fate.NOT_BOUGHT, REFUSED, REFUSED), AGAIN),
    (Delivery.ANSWERED, 429, None, (Fate.NOT_BOUGHT, AGAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 429, "RATE_LIMIT_EXCEEDED", (Fate.NOT_BOUGHT, AGAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 429, "ANONYMOUS_ACCESS_QUOTA_EXCEEDS", (Fate.NOT_BOUGHT, REFUSED, REFUSED), REFUSED),
    (Delivery.ANSWERED, 429, "NOT_ENOUGH_BALANCE", (Fate.NOT_BOUGHT, REFUSED, REFUSED), REFUSED),
    (Delivery.ANSWERED, 499, None, (Fate.NOT_BOUGHT, REFUSED, REFUSED), REFUSED),
    (Delivery.ANSWERED, 500, None, (Fate.UNCERTAIN, UNCERTAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 500, "UNKNOWN", (Fate.UNCERTAIN, UNCERTAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 500, "GET_RESULT_FAILED", (Fate.UNCERTAIN, UNCERTAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 500, "TASK_FAILED", (Fate.UNCERTAIN, UNCERTAIN, REFUSED), REFUSED),
    (Delivery.ANSWERED, 500, "INVALID_API_KEY", (Fate.UNCERTAIN, UNCERTAIN, REFUSED), REFUSED),
    (Delivery.ANSWERED, 500, "CREATE_TASK_FAILED", (Fate.NOT_BOUGHT, AGAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 500, "BILLING_FAILED", (Fate.NOT_BOUGHT, AGAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 503, "SERVICE_NOT_AVAILABLE", (Fate.NOT_BOUGHT, AGAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 200, "CREATE_TASK_FAILED", (Fate.NOT_BOUGHT, AGAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 400, "CREATE_TASK_FAILED", (Fate.NOT_BOUGHT, AGAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 502, None, (Fate.UNCERTAIN, UNCERTAIN, AGAIN), AGAIN),
    (Delivery.ANSWERED, 504, None, (Fate.UNCERTAIN, UNCERTAIN, AGAIN), AGAIN),
]


@pytest.mark.parametrize(("delivery", "status", "reason", "purchase", "read"), FACTS)
def test_verdicts(delivery, status, reason, purchase, read):
    """Each fact has one fate and one verdict, for a purchase, an opted-in purchase and a read."""
    bought = failure(delivery, status=status, reason=reason)
    assert fate(bought) is purchase[0]
    assert verdict(POLICY, bought) == purchase[1]
    assert verdict(RetryPolicy(resubmit_uncertain=True), bought) == purchase[2]
    asked = failure(delivery, status=status, reason=reason, purchase=False)
    assert fate(asked) is Fate.NOT_BOUGHT
    assert verdict(POLICY, asked) == read


@given(
    st.sampled_from(Delivery),
    st.none() | st.integers(100, 599),
    st.none() | st.sampled_from(sorted(NO_TASK_REASONS | FINAL_REASONS)) | st.text(max_size=5),
    st.floats(0, 1, exclude_max=True),
)
def test_what_may_be_paid_is_not_sent_again(delivery, status, reason, jitter):
    """Unless the caller opts in, a purchase is repeated only when it cannot have bought anything."""
    failed = failure(delivery, status=status, reason=reason)
    decision = POLICY.decide(failed, attempt=1, elapsed=0.0, jitter=jitter)
    if fate(failed) is Fate.UNCERTAIN:
        assert decision == Stop(reason=UNCERTAIN)
    said_no = status is not None and status // 100 == 4
    assert (fate(failed) is Fate.NOT_BOUGHT) == (
        delivery is Delivery.NOT_SENT or said_no or reason in NO_TASK_REASONS
    )


PAUSES = [
    # attempt, jitter, retry_after, elapsed, pause
    (1, 0.5, None, 0.0, 0.25),
    (2, 0.5, None, 0.0, 0.5),
    (3, 0.5, None, 0.0, 1.0),
    (6, 0.5, None, 0.0, 8.0),
    (7, 0.5, None, 0.0, 15.0),  # 32 s, cut to 30 s
    (5000, 0.5, None, 0.0, 15.0),
    (3, 0.0, None, 0.0, 0.0),
    (1, 0.5, 7.0, 0.0, 7.0),
    (9, 0.9, 7.0, 0.0, 7.0),
    (1, 0.5, 3600.0, 0.0, 60.0),
    (1, 0.5, 0.5, 0.0, 0.5),
    (3, 0.5, 0.25, 0.0, 1.0),  # next to nothing: the backoff counts
    (1, 0.25, 0.25, 0.0, 0.25),
    (5, 0.5, 0.0, 0.0, 4.0),
    (1, 0.5, 7.0, 295.0, 5.0),  # never longer than what time is left
    (1, 0.5, None, 299.9, 0.1),
]


@pytest.mark.parametrize(("attempt", "jitter", "retry_after", "elapsed", "pause"), PAUSES)
def test_pauses(attempt, jitter, retry_after, elapsed, pause):
    """Full jitter under a doubling bound, or what the service asked for, within caps and the time left."""
    failed = failure(status=429, retry_after=retry_after)
    decision = POLICY.decide(failed, attempt=attempt, elapsed=elapsed, jitter=jitter)
    assert decision == Retry(after=pytest.approx(pause))


@given(
    attempt=st.integers(1, 10**6),
    elapsed=st.floats(0, 299.99),
    jitter=st.floats(0, 1, exclude_max=True),
    retry_after=st.none() | st.floats(0, 1e9),
)
def test_a_pause_fits_the_remaining_time(attempt, elapsed, jitter, retry_after):
    """Whatever the service asks for, a pause is finite, not negative, and ends within the time left."""
    failed = failure(Delivery.NOT_SENT, retry_after=retry_after)
    decision = POLICY.decide(failed, attempt=attempt, elapsed=elapsed, jitter=jitter)
    assert isinstance(decision, Retry)
    assert 0 <= decision.after <= min(60.0, 300.0 - elapsed)


def test_time_and_attempts_end():
    """The last attempt and the last second are the last."""
    lost = failure(Delivery.NOT_SENT)
    assert verdict(POLICY, lost, elapsed=299.9) == AGAIN
    assert verdict(POLICY, lost, elapsed=300.0) is StopReason.OUT_OF_TIME
    assert verdict(RetryPolicy(attempts=3), lost, attempt=2) == AGAIN
    assert verdict(RetryPolicy(attempts=3), lost, attempt=3) is StopReason.OUT_OF_ATTEMPTS
    assert verdict(RetryPolicy(max_elapsed=0), lost) is StopReason.OUT_OF_TIME


@pytest.mark.parametrize("status", [429, 500, 503])
def test_any_retried_answer_may_ask_for_time(status):
    """Retry-After counts for every status that is tried again."""
    failed = failure(status=status, reason="CREATE_TASK_FAILED", retry_after=9.0)
    assert POLICY.decide(failed, attempt=1, elapsed=0.0, jitter=0.1) == Retry(after=9.0)


def test_what_the_service_asks_for_is_capped():
    """The cap is the caller's to use for the account's breaker too."""
    assert POLICY.capped(None) is None
    assert POLICY.capped(59.0) == 59.0
    assert POLICY.capped(61.0) == 60.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_elapsed": -1.0},
        {"max_elapsed": math.nan},
        {"attempts": 0},
        {"base": 0.0},
        {"base": math.inf},
        {"cap": -1.0},
        {"retry_after_cap": math.nan},
    ],
)
def test_impossible_policies_are_refused(wrong):
    """A wrong setting is named with its value."""
    with pytest.raises(ConfigurationError, match=f"RetryPolicy.{next(iter(wrong))}: .* is not"):
        RetryPolicy(**wrong)


def test_endless_trying_is_possible():
    """Infinity is a time; 1 is a number of attempts."""
    endless = RetryPolicy(max_elapsed=math.inf, attempts=1)
    assert endless.max_elapsed == math.inf
    lost = failure(Delivery.NOT_SENT)
    assert RetryPolicy(max_elapsed=math.inf).decide(lost, attempt=2, elapsed=1e9, jitter=0.5) == Retry(
        after=0.5
    )


HEADERS = [
    (None, None),
    ("", None),
    ("120", 120.0),
    (" 7 ", 7.0),
    ("1.5", 1.5),
    (".5", 0.5),
    ("5.", 5.0),
    ("0", 0.0),
    ("+3", 3.0),
    ("-3", 0.0),
    ("9" * 400, None),
    ("nan", None),
    ("inf", None),
    ("-inf", None),
    ("1e3", None),
    ("1_000", None),
    ("\u0663", None),
    ("soon", None),
    ("5 s", None),
    ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
    ("Sun, 22 Nov 2026 13:00:30 +0100", 30.0),
    ("Sun, 22 Nov 2026 12:00:30 -0000", 30.0),
    ("Sunday, 22-Nov-26 12:00:30 GMT", 30.0),
    ("Sun Nov 22 12:00:30 2026", 30.0),
    ("Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
    ("Sun, 32 Nov 2026 12:00:30 GMT", None),
    ("Sun, 22 Nov 99999999999999999999 12:00:30 GMT", None),
]


@pytest.mark.parametrize(("value", "seconds"), HEADERS)
def test_retry_after_headers(value, seconds):
    """Seconds and HTTP dates are understood, the past is now, and everything else is nothing."""
    assert parse_retry_after(value, NOW) == seconds


@given(
    st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,2} [A-Z][a-z]{2} \d{2,6} [\d:]{1,9} \S{0,6}")
)
def test_no_header_breaks_the_parser(value):
    """Any text gives None or a finite number of seconds that is not negative."""
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))


@given(st.integers(0, 10**6))
def test_dates_round_trip(ahead):
    """A date so many seconds ahead means so many seconds."""
    text = (NOW + timedelta(seconds=ahead)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert parse_retry_after(text, NOW) == ahead
