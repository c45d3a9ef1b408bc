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


@frozen(kw_only=True)
class KindDiffers:
    """A result file is of another kind than the service says. It is paid, so it is kept as what it is."""

    task: Task
    """The task that made it."""
    stated: str
    """The service's word for it, such as `png`."""
    found: str
    """What it is, such as `jpeg`; the suffix of its file."""
    path: Path | None = None
    """Where it is. None: fetched into memory."""


@frozen(kw_only=True)
class CutFileKept:
    """A result file ends too early, as often as it was fetched. It is paid, so what there is was kept."""

    task: Task
    """The task that made it."""
    path: Path | None = None
    """Where it is. None: fetched into memory."""


Event = (
    Planned
    | Paced
    | Announced
    | Retrying
    | Submitted
    | Polled
    | AccountDisabled
    | Finished
    | Saved
    | KindDiffers
    | CutFileKept
)


class Observer(Protocol):
    """Anything that can be called with an event."""

    def __call__(self, event: Event, /) -> object: ...
