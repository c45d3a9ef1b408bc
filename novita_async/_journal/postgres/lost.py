"""The end of a process's right to its rows."""

from novita_async.errors import JournalError


class LeaseLost(JournalError):
    """A request is another process's by now: this one was taken for dead, or a later run has begun."""


def lease_lost(label: str) -> LeaseLost:
    """The error of a process whose rows are another's."""
    return LeaseLost(
        problem=f"journal {label}: another process has this batch or this request by now",
        advice="what was under way is known or uncertain, and is not bought again; "
        "run the same again where no other process works on it",
    )
