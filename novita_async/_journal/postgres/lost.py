"""The end of a process's right to its rows."""

from novita_async.errors import JournalError


class LeaseLost(JournalError):
    """A request is another process's by now: this one was taken for dead, or a later run has begun."""
