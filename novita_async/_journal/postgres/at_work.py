"""Processes at work, as they are told to whoever looks."""

from datetime import datetime

from novita_async._util.values import frozen


@frozen(kw_only=True)
class AtWork:
    """A process that works on a batch, or has died and whose requests were not given away yet.

    Args:
        number: Number among all that ever worked in the database; never used twice.
        name: Name for those who look.
        version: Its release of novita-async.
        started: When it began.
        is_alive: Whether its last sign of life is recent.
        silent_since: When it was taken for dead. None: alive.
        had: Requests that it has taken.
        sending: Of these, on their way to the service.
        watching: Of these, paid and not seen finished.
    """

    number: int
    """Number among all that ever worked in the database; never used twice."""
    name: str
    """Name for those who look."""
    version: str
    """Its release of novita-async."""
    started: datetime
    """When it began."""
    is_alive: bool
    """Whether its last sign of life is recent."""
    silent_since: datetime | None
    """When it was taken for dead. None: alive."""
    had: int
    """Requests that it has taken."""
    sending: int
    """Of these, on their way to the service."""
    watching: int
    """Of these, paid and not seen finished."""
