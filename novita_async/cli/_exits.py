"""Exit codes, and what of a session makes which."""

from enum import IntEnum
from typing import Final, assert_never

from cyclopts import CycloptsError

from novita_async.errors import (
    ConfigurationError,
    InvalidRequest,
    SubmissionUncertain,
    TaskTimeout,
)
from novita_async.models.results import Failed, Outcome, Succeeded, Uncertain, Unfinished


class Exit(IntEnum):
    """How a command ended."""

    SUCCEEDED = 0
    SOME_FAILED = 1
    BAD_INPUT = 2
    ACCOUNT = 3
    UNCERTAIN = 4
    UNFINISHED = 5
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


EXPLAINED: Final = (
    (Exit.SUCCEEDED, "everything succeeded"),
    (Exit.SOME_FAILED, "some requests failed, the others are done"),
    (Exit.BAD_INPUT, "bad usage, input or configuration; nothing was bought"),
    (Exit.ACCOUNT, "the account, endpoint or journal cannot be used; what was not sent is not bought"),
    (Exit.UNCERTAIN, "at least one purchase has no known end"),
    (Exit.UNFINISHED, "paid tasks were not seen finished; watch them again"),
    (Exit.INTERRUPTED, "interrupted (143: terminated); what is paid and not here is listed"),
)
"""Texts of the help. Of several that apply, the gravest counts: 130, 4, 3, 5, 1."""

_BY_ERROR: Final[tuple[tuple[type[Exception], Exit], ...]] = (
    (CycloptsError, Exit.BAD_INPUT),
    (ConfigurationError, Exit.BAD_INPUT),
    (InvalidRequest, Exit.BAD_INPUT),
    (SubmissionUncertain, Exit.UNCERTAIN),
    (TaskTimeout, Exit.UNFINISHED),
)
_GRAVEST_FIRST: Final = (
    Exit.TERMINATED,
    Exit.INTERRUPTED,
    Exit.BAD_INPUT,
    Exit.UNCERTAIN,
    Exit.ACCOUNT,
    Exit.UNFINISHED,
    Exit.SOME_FAILED,
)


def of_outcome(outcome: Outcome) -> Exit:
    """Find the exit code for an outcome."""
    match outcome:
        case Succeeded():
            return Exit.SUCCEEDED
        case Failed():
            return Exit.SOME_FAILED
        case Uncertain():
            return Exit.UNCERTAIN
        case Unfinished():
            return Exit.UNFINISHED
        case _:
            assert_never(outcome)


def of_error(error: Exception) -> Exit:
    """Find the exit code for an error that ended the command."""
    for kind, code in _BY_ERROR:
        if isinstance(error, kind):
            return code
    return Exit.ACCOUNT if getattr(error, "scope", "request") != "request" else Exit.SOME_FAILED


def gravest(codes: set[Exit]) -> Exit:
    """The one code for all that happened."""
    return next((code for code in _GRAVEST_FIRST if code in codes), Exit.SUCCEEDED)
