"""When the word of a poll about a paid task counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novita_async._policy.believing import (
    CONFIRMED_AFTER,
    FILES_WITHIN,
    FailedPoll,
    PollVerdict,
    files_may_come,
    verdict,
)

RIDE_OUT, GIVE_UP, END = PollVerdict


def judged(now: float, *, error_timeout=300.0, grace=5.0, **known) -> PollVerdict:
    facts = {
        "passes": False, "no_such_task": False, "names_no_task": False, "repeated": False,
        "failing_since": 100.0, "denied_since": None,
        "submitted_at": None, "seen": False,
    }  # fmt: skip
    return verdict(FailedPoll(**(facts | known)), now, error_timeout=error_timeout, grace=grace)


@pytest.mark.parametrize(
    ("now", "known", "expected"),
    [
        (100.0, {"passes": True}, RIDE_OUT),
        (400.0, {"passes": True}, RIDE_OUT),
        (400.1, {"passes": True}, GIVE_UP),
        (100.0, {}, END),
        (100.0, {"seen": True, "submitted_at": 99.0}, END),  # another refusal is the service's own word
        (100.0, {"names_no_task": True}, RIDE_OUT),
        (100.0, {"names_no_task": True, "seen": True, "submitted_at": 0.0}, RIDE_OUT),
        (400.1, {"names_no_task": True}, GIVE_UP),
        (101.0, {"names_no_task": True, "repeated": True}, END),
        (100.0, {"no_such_task": True}, END),  # an id of which nothing is known
        (100.0, {"no_such_task": True, "seen": True}, RIDE_OUT),
        (129.9, {"no_such_task": True, "seen": True, "denied_since": 100.0}, RIDE_OUT),
        (130.0, {"no_such_task": True, "seen": True, "denied_since": 100.0}, END),
        (130.0, {"no_such_task": True, "submitted_at": 0.0, "denied_since": 100.0}, END),
        (129.0, {"no_such_task": True, "submitted_at": 0.0, "denied_since": 100.0}, RIDE_OUT),
        (150.0, {"no_such_task": True, "seen": True, "denied_since": 140.0}, RIDE_OUT),
    ],
)
def test_verdicts(now, known, expected):
    """Facts about one failed poll have one verdict."""
    assert judged(now, **known) is expected


def test_a_task_may_be_unknown_for_as_long_as_the_grace_says():
    """A long grace is kept even where the denial has been repeated for half a minute."""
    known = {"no_such_task": True, "submitted_at": 100.0, "denied_since": 100.0}
    assert judged(159.9, grace=60.0, **known) is RIDE_OUT
    assert judged(160.0, grace=60.0, **known) is END


def test_a_denial_is_ridden_out_no_longer_than_any_other_fault():
    known = {"no_such_task": True, "seen": True, "failing_since": 0.0, "denied_since": 99.0}
    assert judged(100.0, error_timeout=50.0, **known) is GIVE_UP


@given(
    now=st.floats(0, 1e6),
    denied_since=st.none() | st.floats(0, 1e6),
    seen=st.booleans(),
    submitted_at=st.none() | st.floats(0, 1e6),
)
def test_one_denial_alone_never_ends_a_task_that_is_known_to_exist(now, denied_since, seen, submitted_at):
    """Only a second denial, half a minute after the first, ends it."""
    known = {"no_such_task": True, "seen": seen, "submitted_at": submitted_at, "denied_since": denied_since}
    if judged(now, failing_since=now, **known) is END and (seen or submitted_at is not None):
        assert denied_since is not None
        assert now - denied_since >= CONFIRMED_AFTER


def test_files_may_come_for_some_seconds():
    assert files_may_come(100.0, 100.0)
    assert files_may_come(99.9 + FILES_WITHIN, 100.0)
    assert not files_may_come(100.0 + FILES_WITHIN, 100.0)
