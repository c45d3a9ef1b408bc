"""Whether a failed exchange is tried again: tables of facts and verdicts."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novita_async._policy.retrying import (
    Failure,
    Retry,
    RetryPolicy,
    Stop,
    StopReason,
    decide,
    parse_retry_after,
)
from novita_async.errors import ConfigurationError

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
POLICY = RetryPolicy()
REFUSED, UNCERTAIN = StopReason.REFUSED, StopReason.UNCERTAIN
AGAIN = "again"


def verdict(policy, failed, *, attempt=1, elapsed=0.0, jitter=0.5):
    decision = decide(policy, failed, attempt=attempt, elapsed=elapsed, jitter=jitter)
    return decision.reason if isinstance(decision, Stop) else AGAIN


@pytest.mark.parametrize(
    ("perhaps_bought", "passes", "expected", "with_resubmit_uncertain"),
    [
        (False, True, AGAIN, AGAIN),
        (False, False, REFUSED, REFUSED),
        (True, True, UNCERTAIN, AGAIN),
        (True, False, UNCERTAIN, REFUSED),
    ],
)
def test_verdicts(perhaps_bought, passes, expected, with_resubmit_uncertain):
    """What may be paid is sent again only where the caller opts in, what cannot pass never."""
    failed = Failure(perhaps_bought=perhaps_bought, passes=passes)
    assert verdict(POLICY, failed) == expected
    assert verdict(RetryPolicy(resubmit_uncertain=True), failed) == with_resubmit_uncertain


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
    """Full jitter under a doubling bound, or what the service asked for, within caps and `max_elapsed`."""
    failed = Failure(retry_after=retry_after)
    decision = decide(POLICY, failed, attempt=attempt, elapsed=elapsed, jitter=jitter)
    assert decision == Retry(after=pytest.approx(pause))


@given(
    attempt=st.integers(1, 10**6),
    elapsed=st.floats(0, 299.99),
    jitter=st.floats(0, 1, exclude_max=True),
    retry_after=st.none() | st.floats(0, 1e9),
)
def test_a_pause_fits_the_remaining_time(attempt, elapsed, jitter, retry_after):
    """Whatever the service asks for, a pause is finite, not negative, and ends within `max_elapsed`."""
    failed = Failure(retry_after=retry_after)
    decision = decide(POLICY, failed, attempt=attempt, elapsed=elapsed, jitter=jitter)
    assert isinstance(decision, Retry)
    assert 0 <= decision.after <= min(60.0, 300.0 - elapsed)


def test_time_and_attempts_end():
    """The last attempt and the last second are the last."""
    lost = Failure()
    assert verdict(POLICY, lost, elapsed=299.9) == AGAIN
    assert verdict(POLICY, lost, elapsed=300.0) is StopReason.OUT_OF_TIME
    assert verdict(RetryPolicy(attempts=3), lost, attempt=2) == AGAIN
    assert verdict(RetryPolicy(attempts=3), lost, attempt=3) is StopReason.OUT_OF_ATTEMPTS
    assert verdict(RetryPolicy(max_elapsed=0), lost) is StopReason.OUT_OF_TIME


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


def test_a_policy_may_never_give_up():
    """Infinity is a `max_elapsed`; 1 is a number of attempts."""
    endless = RetryPolicy(max_elapsed=math.inf, attempts=1)
    assert endless.max_elapsed == math.inf
    lost = Failure()
    assert decide(RetryPolicy(max_elapsed=math.inf), lost, attempt=2, elapsed=1e9, jitter=0.5) == Retry(
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
