"""When what a poll says of a paid task is believed.

Between the service and us stand caches, balancers and replicas, any of which can be behind or wrong for a
moment, and a paid task must not end by that moment:

* A fault that passes by itself is ridden out for the error timeout; then the task is unfinished, not failed.
* "No such task" about a task that is known to exist (bought here, or seen by a poll before) is believed only
  when repeated over `CONFIRMED_AFTER` seconds. About any other id the first word counts.
* "The task has failed" in an answer that names no task may be about another: believed when the next poll that
  is answered says the same.
* Success without a single file is polled again for `FILES_WITHIN` seconds: files may be listed later.
* Any other refusal is the service's own word, and final.
"""

from enum import Enum
from typing import Final

from novita_async._util.values import frozen

CONFIRMED_AFTER: Final = 30.0
"""Seconds over which "no such task" must be repeated."""
FILES_WITHIN: Final = 10.0
"""Seconds within which the files of a finished task must be listed."""


class PollVerdict(Enum):
    """Meaning of a failed poll for its task."""

    RIDE_OUT = "poll again"
    GIVE_UP = "unfinished: it was not seen for too long"
    END = "failed: the answer is final"


@frozen(kw_only=True)
class FailedPoll:
    """A poll that failed, and what is known of its task. Times are on one clock, in seconds."""

    passes: bool
    """Whether the fault passes by itself."""
    no_such_task: bool
    """Whether the service said that there is no such task."""
    names_no_task: bool
    """Whether the service said that the task has failed, and not which."""
    repeated: bool
    """Whether the poll before said the same of it."""
    failing_since: float
    """When the first poll of this unbroken row of failures ended."""
    denied_since: float | None
    """When the first "no such task" of that row came; None: there was none before this poll."""
    submitted_at: float | None
    """When the task was bought; None: not by this process."""
    seen: bool
    """Whether an earlier poll saw the task."""


def verdict(poll: FailedPoll, now: float, *, error_timeout: float, grace: float) -> PollVerdict:
    """Decide what a failed poll means.

    Args:
        poll: The failed poll.
        now: The time now.
        error_timeout: Seconds for which failing polls are ridden out.
        grace: Seconds after its submission in which a task may be unknown.
    """
    may_be_of_another = poll.names_no_task and not poll.repeated
    may_be_early = poll.no_such_task and _may_be_wrong(poll, now, grace)
    if not (poll.passes or may_be_of_another or may_be_early):
        return PollVerdict.END
    return PollVerdict.GIVE_UP if now - poll.failing_since > error_timeout else PollVerdict.RIDE_OUT


def _may_be_wrong(poll: FailedPoll, now: float, grace: float) -> bool:
    """Whether "no such task" may only be the word of a part of the service that has not heard of it yet."""
    if poll.submitted_at is not None and now - poll.submitted_at < grace:
        return True
    exists = poll.seen or poll.submitted_at is not None
    return exists and (poll.denied_since is None or now - poll.denied_since < CONFIRMED_AFTER)


def files_may_come(now: float, empty_since: float) -> bool:
    """Whether a task that is finished without files, first seen so at `empty_since`, is polled again."""
    return now - empty_since < FILES_WITHIN
