"""What happens, told to observers as values. None holds a key, a picture or a presigned query.

An observer is called synchronously on the event loop and must return at once. What it raises is logged and
dropped: watching must never break the work.
"""

from pathlib import Path
from typing import Protocol

from attrs import frozen

from novita_async.errors import NovitaError
from novita_async.models.results import Outcome
from novita_async.tasks import Task


@frozen(kw_only=True)
class Planned:
    """A request was taken in."""

    index: int
    """Its place in the input, from 0."""
    image_num: int
    """How many images it asks for."""


@frozen(kw_only=True)
class Paced:
    """A submission waits for the account's quota."""

    account: str
    """Label of the account."""
    endpoint: str
    """Path of the submission."""
    delay: float
    """Seconds until it may go."""


@frozen(kw_only=True)
class Announced:
    """A submission is about to be sent."""

    purchase: int | None = None
    """Number of the purchase in this client: the same in every event about it."""
    account: str
    """Label of the account that will pay."""
    endpoint: str
    """Path of the submission."""
    image_num: int
    """How many images it asks for."""
    attempt: int
    """From 1."""


@frozen(kw_only=True)
class Retrying:
    """An exchange failed and will be tried again."""

    account: str
    """Label of the account."""
    endpoint: str
    """Path of the exchange."""
    attempt: int
    """The attempt that failed, from 1."""
    after: float
    """Seconds until the next one."""
    error: NovitaError
    """Why."""


@frozen(kw_only=True)
class Submitted:
    """The service took a request: it is paid for."""

    purchase: int | None = None
    """Number of the purchase in this client: the same in every event about it."""
    task: Task
    """The new task."""


@frozen(kw_only=True)
class Polled:
    """A task was asked for."""

    task: Task
    """The task."""
    status: str | None
    """What was seen; None where the poll failed."""
    progress_percent: float | None = None
    """Range 0 to 100, where the service said so."""
    error: NovitaError | None = None
    """Why nothing was seen."""


@frozen(kw_only=True)
class AccountDisabled:
    """An account cannot send any more. Its paid tasks are still watched."""

    account: str
    """Label of the account."""
    error: NovitaError
    """Why."""


@frozen(kw_only=True)
class BreakerOpened:
    """Nothing is sent for an account for a while: the service refused, did not answer, or was not reached.

    A failed probe opens the breaker again: `trips` counts.
    """

    account: str
    """Label of the account."""
    endpoint: str | None
    """Path of the submission that tripped the breaker; None where polls did."""
    cause: str
    """`rate limited`, `uncertain` or `unreachable`."""
    after: float
    """Seconds until one request finds out whether the service is well again."""
    trips: int
    """How often the breaker opened in a row, from 1."""


@frozen(kw_only=True)
class BreakerClosed:
    """An account sends again as its quota allows."""

    account: str
    """Label of the account."""
    after: float
    """Seconds since the breaker opened."""


@frozen(kw_only=True)
class Finished:
    """A request came to one of its four ends."""

    outcome: Outcome
    """Which one."""


@frozen(kw_only=True)
class Saved:
    """A result file is on disk, whole."""

    task: Task
    """The task that made it."""
    path: Path
    """Where it is."""
    size: int
    """Its length in bytes."""


Event = (
    Planned
    | Paced
    | Announced
    | Retrying
    | Submitted
    | Polled
    | AccountDisabled
    | BreakerOpened
    | BreakerClosed
    | Finished
    | Saved
)


class Observer(Protocol):
    """Anything that can be called with an event."""

    def __call__(self, event: Event, /) -> object: ...
