"""Facts and notices, told to observers as values.

A `Transition` is a fact about one purchase, with the state before and after: every step that can cost money,
told with the purchase's id, the request's position and the user's tag. All other events are notices, which
move nothing; those about a task or its files name the task, as the `Transition` that bought it does. No event
holds a key or a picture.

An observer is called synchronously on the event loop and must return at once. Its exceptions are logged and
dropped: watching must never break the work.
"""

from pathlib import Path
from typing import Protocol

from novita_async._purchase.machine import (
    Action,
    Announced,
    Bought,
    Completed,
    Fact,
    FailedForGood,
    Lost,
    NotBought,
    NotSaved,
    Reopened,
    Rewatched,
    Saved,
    State,
)
from novita_async._util.values import frozen
from novita_async.errors import NovitaError
from novita_async.models.results import Outcome
from novita_async.tasks import Task


@frozen(kw_only=True)
class Transition:
    """A fact has moved a purchase: announced, bought, not bought, lost, completed, saved and so on.

    Args:
        purchase: Id of the purchase: unique in this process, the same in every event about it.
        position: Place of the request in its input, from 0.
        tag: The user's own id of the request.
        endpoint: Path of the submission.
        images: Number of images asked for.
        attempt: Number of the latest attempt, from 1. 0: nothing was sent yet.
        task: The bought task, once that is known.
        before: State before the fact.
        after: State after the fact.
        next: The next step. `nothing` and `list`: the purchase has come to its end.
        fact: The fact.
    """

    purchase: int
    """Id of the purchase: unique in this process, the same in every event about it."""
    position: int
    """Place of the request in its input, from 0."""
    tag: str | None
    """The user's own id of the request."""
    endpoint: str
    """Path of the submission."""
    images: int
    """Number of images asked for."""
    attempt: int
    """Number of the latest attempt, from 1. 0: nothing was sent yet."""
    task: Task | None
    """The bought task, once that is known."""
    before: State
    """State before the fact."""
    after: State
    """State after the fact."""
    next: Action
    """The next step. `nothing` and `list`: the purchase has come to its end."""
    fact: Fact
    """The fact."""


@frozen(kw_only=True)
class Planned:
    """A request was taken in.

    Args:
        position: Place of the request in its input, from 0.
        images: Number of images asked for.
    """

    position: int
    """Place of the request in its input, from 0."""
    images: int
    """Number of images asked for."""


@frozen(kw_only=True)
class Paced:
    """A submission waits for the account's quota.

    Args:
        purchase: Id of the purchase. None: a question, which costs nothing.
        account: Label of the account.
        endpoint: Path of the submission.
        delay: Seconds until it may go.
    """

    purchase: int | None = None
    """Id of the purchase. None: a question, which costs nothing."""
    account: str
    """Label of the account."""
    endpoint: str
    """Path of the submission."""
    delay: float
    """Seconds until it may go."""


@frozen(kw_only=True)
class Retrying:
    """An exchange failed and will be tried again.

    Args:
        purchase: Id of the purchase. None: a question, which costs nothing.
        account: Label of the account.
        endpoint: Path of the exchange.
        attempt: The attempt that failed, from 1.
        after: Seconds until the next one.
        error: Why.
    """

    purchase: int | None = None
    """Id of the purchase. None: a question, which costs nothing."""
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
class Polled:
    """A task was asked for.

    Args:
        task: The task.
        status: The status that was seen; None where the poll failed.
        progress_percent: Range 0 to 100, where the service said so.
        error: Why nothing was seen.
    """

    task: Task
    """The task."""
    status: str | None
    """The status that was seen; None where the poll failed."""
    progress_percent: float | None = None
    """Range 0 to 100, where the service said so."""
    error: NovitaError | None = None
    """Why nothing was seen."""


@frozen(kw_only=True)
class AccountDisabled:
    """An account cannot send any more. Its paid tasks are still watched.

    Args:
        account: Label of the account.
        error: Why.
    """

    account: str
    """Label of the account."""
    error: NovitaError
    """Why."""


@frozen(kw_only=True)
class BreakerOpened:
    """Nothing is sent for an account for a while: the service refused, did not answer, or was not reached.

    A failed probe opens the breaker again: `trips` counts.

    Args:
        account: Label of the account.
        endpoint: Path of the submission that tripped the breaker; None where polls did.
        cause: `rate limited`, `uncertain` or `unreachable`.
        after: Seconds until one request finds out whether the service is well again.
        trips: How often the breaker opened in a row, from 1.
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
    """An account sends again as its quota allows.

    Args:
        account: Label of the account.
        after: Seconds since the breaker opened.
    """

    account: str
    """Label of the account."""
    after: float
    """Seconds since the breaker opened."""


@frozen(kw_only=True)
class Finished:
    """A request came to one of its four ends, which its journal may know a moment later.

    Args:
        purchase: Id of the purchase, as in `Transition`. None: a task that this client has not bought is
            waited for.
        outcome: The end.
    """

    purchase: int | None = None
    """Id of the purchase, as in `Transition`. None: a task that this client has not bought is waited for."""
    outcome: Outcome
    """The end."""


@frozen(kw_only=True)
class FileSaved:
    """A result file is in its folder or storage, whole.

    Args:
        task: The task that made it.
        path: Where it is. None: in a storage that is no folder.
        address: Its address there, such as `s3://bucket/spring/00000-42-1.png`.
        size: Its length in bytes.
    """

    task: Task
    """The task that made it."""
    path: Path | None = None
    """Where it is. None: in a storage that is no folder."""
    address: str | None = None
    """Its address there, such as `s3://bucket/spring/00000-42-1.png`."""
    size: int
    """Its length in bytes."""


@frozen(kw_only=True)
class KindDiffers:
    """A result file is of another kind than the service says; kept all the same, because it is paid.

    Args:
        task: The task that made it.
        stated: The service's word for it, such as `png`.
        found: The kind that was found, such as `jpeg`; the suffix of its file.
        path: Where it is. None: fetched into memory, or put into a storage that is no folder.
        address: Its address there.
    """

    task: Task
    """The task that made it."""
    stated: str
    """The service's word for it, such as `png`."""
    found: str
    """The kind that was found, such as `jpeg`; the suffix of its file."""
    path: Path | None = None
    """Where it is. None: fetched into memory, or put into a storage that is no folder."""
    address: str | None = None
    """Its address there."""


@frozen(kw_only=True)
class CutFileKept:
    """A result file ends too early, as often as it was fetched; kept all the same, because it is paid.

    Args:
        task: The task that made it.
        path: Where it is. None: fetched into memory, or put into a storage that is no folder.
        address: Its address there.
    """

    task: Task
    """The task that made it."""
    path: Path | None = None
    """Where it is. None: fetched into memory, or put into a storage that is no folder."""
    address: str | None = None
    """Its address there."""


Event = (
    Transition
    | Planned
    | Paced
    | Retrying
    | Polled
    | AccountDisabled
    | BreakerOpened
    | BreakerClosed
    | Finished
    | FileSaved
    | KindDiffers
    | CutFileKept
)


class Observer(Protocol):
    """Anything that can be called with an event."""

    def __call__(self, event: Event, /) -> object: ...


__all__ = [
    "AccountDisabled",
    "Action",
    "Announced",
    "Bought",
    "BreakerClosed",
    "BreakerOpened",
    "Completed",
    "CutFileKept",
    "Event",
    "Fact",
    "FailedForGood",
    "FileSaved",
    "Finished",
    "KindDiffers",
    "Lost",
    "NotBought",
    "NotSaved",
    "Observer",
    "Paced",
    "Planned",
    "Polled",
    "Reopened",
    "Retrying",
    "Rewatched",
    "Saved",
    "State",
    "Transition",
]
