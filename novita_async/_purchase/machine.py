"""What can happen to a purchase, and what that means for money.

Every request is one `Purchase`, from the input to its outcome, with or without a journal. It moves only by
`advance(purchase, fact)`, and whoever wants to go on asks `next_action(purchase)`. What `TRANSITIONS` lacks
cannot happen.

| state     | what is known                          | next action                               |
|-----------|----------------------------------------|-------------------------------------------|
| planned   | nothing of it is bought                | SEND it                                   |
| announced | about to be sent, or on its way        | AWAIT the answer; after a crash: uncertain |
| uncertain | perhaps bought, task id unknown        | LIST it; buy again only when asked        |
| submitted | bought, task id known                  | WATCH the task                            |
| succeeded | done                                   | SAVE its files, where they are wanted     |
| failed    | refused, or its task failed            | LIST it                                   |
| saved     | its files are on disk                  | NOTHING                                   |

| fact          | from                  | to        | window slot                  | budget    |
|---------------|-----------------------|-----------|------------------------------|-----------|
| Announced     | planned               | announced | taken                        | reserved  |
| Bought        | announced             | submitted | held a minute from now       | spent     |
| Bought        | uncertain             | submitted | (as it was)                  | (spent)   |
| NotBought     | announced             | planned   | back, or held if it was seen | refunded  |
| Lost          | announced             | uncertain | held a minute from now       | spent     |
| Lost          | planned, with a doubt | uncertain | -                            | (spent)   |
| Reopened      | uncertain, failed     | planned   | (as it was)                  | (spent)   |
| FailedForGood | planned, submitted    | failed    | -                            | -         |
| Completed     | submitted, succeeded  | succeeded | -                            | -         |
| Saved         | succeeded             | saved     | -                            | -         |
| NotSaved      | succeeded, saved      | succeeded | -                            | -         |

A fact *happened*, whether or not it can be written down. Only `Announced` is a promise: it is durable before
the first byte is sent, or nothing is sent. Times are seconds on the loop's clock; a durable journal turns
them into unix time. Nothing here waits or reads a clock.
"""

from collections.abc import Callable, Mapping
from enum import Enum, StrEnum
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from attrs import define, field

from novita_async.errors import JournalError, NovitaError, RateLimited, SubmissionUncertain
from novita_async.models.requests import Request
from novita_async.models.results import ImageResult
from novita_async.tasks import Task

if TYPE_CHECKING:
    from novita_async._purchase.journal import Journal


class State(StrEnum):
    """How far a purchase has come."""

    PLANNED = "planned"
    ANNOUNCED = "announced"
    SUBMITTED = "submitted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNCERTAIN = "uncertain"
    SAVED = "saved"


class Action(StrEnum):
    """What a purchase asks of whoever deals with it next."""

    SEND = "send"
    AWAIT = "await"
    WATCH = "watch"
    SAVE = "save"
    LIST = "list"
    NOTHING = "nothing"


_NEXT: Final = {
    State.PLANNED: Action.SEND,
    State.ANNOUNCED: Action.AWAIT,
    State.UNCERTAIN: Action.LIST,
    State.SUBMITTED: Action.WATCH,
    State.SUCCEEDED: Action.SAVE,
    State.FAILED: Action.LIST,
    State.SAVED: Action.NOTHING,
}


@define(eq=False)
class Purchase:
    """One request and its money. Everyone who deals with it holds this one object, so there is one truth."""

    request: Request | None
    """What is asked for. None where only the task is known, or where it is no longer needed."""
    endpoint: str = ""
    images: int = 1
    position: int = 0
    """Its place in the input, from 0."""
    id: int = field(factory=count(1).__next__)
    """Unique in this process; every event carries it."""
    journal: "Journal | None" = None
    """Who keeps it durably. None: nobody."""
    name: tuple[str, int] | None = None
    """What the journal calls it: the key of its content, and its number among equal ones."""
    state: State = State.PLANNED
    attempts: int = 0
    account: str | None = None
    """Label of the account that pays."""
    task: Task | None = None
    doubt: SubmissionUncertain | None = None
    """Why an attempt, the last or an earlier one, may have been bought under an unknown id."""
    told: bool = False
    """Whether whoever asked for it knows of the doubt."""
    error: NovitaError | None = None
    """What went wrong last."""
    result: ImageResult | None = None
    paths: tuple[Path, ...] = ()

    @property
    def wish(self) -> Request:
        """The request, which must be there."""
        if self.request is None:
            raise ValueError(f"{self!r} has no request")
        return self.request

    @property
    def paid_task(self) -> Task:
        """The task, which must be there."""
        if self.task is None:
            raise ValueError(f"{self!r} has no task")
        return self.task

    @property
    def in_doubt(self) -> bool:
        """Whether it may have been bought under an id that nobody knows."""
        return self.doubt is not None and self.task is None

    def __repr__(self) -> str:
        task = f", task {self.task.task_id}" if self.task else ""
        return f"<Purchase {self.id} {self.state}{task}>"


# --- Facts --------------------------------------------------------------------------------------------------


@define
class Announced:
    """It is about to be sent, and this account will pay."""

    at: float
    account: str


@define
class Bought:
    """The service took it."""

    at: float
    task: Task


@define
class NotBought:
    """This attempt certainly bought nothing."""

    at: float
    error: NovitaError
    seen: bool = True
    """Whether the service saw it, and may have counted it."""
    reached: bool = True
    """Whether the service could be reached at all."""


@define
class Lost:
    """Nobody knows whether this attempt bought something."""

    at: float
    error: SubmissionUncertain


@define
class Reopened:
    """Somebody who knows that this may pay twice wants it bought again."""

    at: float


@define
class FailedForGood:
    """There will be no result."""

    at: float
    error: NovitaError


@define
class Completed:
    """Its task has succeeded."""

    at: float
    result: ImageResult


@define
class Saved:
    """Its files are whole, on disk."""

    at: float
    paths: tuple[Path, ...]


@define
class NotSaved:
    """Its files could not be had this time, or are gone."""

    at: float
    error: NovitaError


Fact = Announced | Bought | NotBought | Lost | Reopened | FailedForGood | Completed | Saved | NotSaved


# --- Transitions --------------------------------------------------------------------------------------------


class IllegalTransition(JournalError):
    """A transition that cannot be: a fault of the program, which is not recorded."""


def _illegal(purchase: Purchase, fact: Fact, why: str = "there is no such way") -> NoReturn:
    problem = f"{purchase!r} cannot take {type(fact).__name__}: {why}"
    raise IllegalTransition(
        scope="request", problem=problem, task_id=purchase.task.task_id if purchase.task else None
    )


def _announce(purchase: Purchase, fact: Announced) -> None:
    purchase.account = fact.account
    purchase.attempts += 1
    purchase.error = None


def _buy(purchase: Purchase, fact: Bought) -> None:
    purchase.task = fact.task
    purchase.error = purchase.doubt = None


def _come_back(purchase: Purchase, fact: NotBought) -> None:
    purchase.error = fact.error


def _lose(purchase: Purchase, fact: Lost) -> None:
    purchase.error = purchase.doubt = fact.error


def _keep_doubt(purchase: Purchase, fact: Lost) -> None:
    if purchase.doubt is None:
        _illegal(purchase, fact, "nothing of it was sent")
    purchase.error = fact.error


def _reopen(purchase: Purchase, _: Reopened) -> None:
    purchase.task = purchase.result = None


def _refuse(purchase: Purchase, fact: FailedForGood) -> None:
    if purchase.doubt is not None:
        _illegal(purchase, fact, "an earlier attempt may have been bought")
    purchase.error = fact.error


def _fail(purchase: Purchase, fact: FailedForGood) -> None:
    purchase.error = fact.error


def _complete(purchase: Purchase, fact: Completed) -> None:
    purchase.result, purchase.error = fact.result, None
    purchase.task = fact.result.task


def _save(purchase: Purchase, fact: Saved) -> None:
    purchase.paths, purchase.error = fact.paths, None


def _miss(purchase: Purchase, fact: NotSaved) -> None:
    purchase.paths, purchase.error = (), fact.error


Change = Callable[[Purchase, Any], None]
_S = State
UNCERTAIN: Final = State.UNCERTAIN
SUBMITTED: Final = State.SUBMITTED
SEND: Final = Action.SEND

TRANSITIONS: Final[Mapping[tuple[State, type], tuple[State, Change]]] = MappingProxyType(
    {
        (_S.PLANNED, Announced): (_S.ANNOUNCED, _announce),
        (_S.PLANNED, FailedForGood): (_S.FAILED, _refuse),
        (_S.PLANNED, Lost): (_S.UNCERTAIN, _keep_doubt),
        (_S.ANNOUNCED, Bought): (_S.SUBMITTED, _buy),
        (_S.ANNOUNCED, NotBought): (_S.PLANNED, _come_back),
        (_S.ANNOUNCED, Lost): (_S.UNCERTAIN, _lose),
        (_S.UNCERTAIN, Bought): (_S.SUBMITTED, _buy),
        (_S.UNCERTAIN, Reopened): (_S.PLANNED, _reopen),
        (_S.FAILED, Reopened): (_S.PLANNED, _reopen),
        (_S.SUBMITTED, Completed): (_S.SUCCEEDED, _complete),
        (_S.SUBMITTED, FailedForGood): (_S.FAILED, _fail),
        (_S.SUCCEEDED, Completed): (_S.SUCCEEDED, _complete),
        (_S.SUCCEEDED, Saved): (_S.SAVED, _save),
        (_S.SUCCEEDED, NotSaved): (_S.SUCCEEDED, _miss),
        (_S.SAVED, NotSaved): (_S.SUCCEEDED, _miss),
    }
)
"""Everything that can happen."""

_WAYS: Final[Mapping[type, tuple[tuple[State, State, Change], ...]]] = {
    kind: tuple((source, *step) for (source, other), step in TRANSITIONS.items() if other is kind)
    for _, kind in TRANSITIONS
}
"""The same by fact: comparing two or three states is cheaper than the hash of an enum's member."""


def advance(purchase: Purchase, fact: Fact) -> None:
    """Let a fact happen to a purchase.

    Raises:
        IllegalTransition: it cannot happen to this one, which stays as it was.
    """
    state = purchase.state
    for source, to, change in _WAYS[type(fact)]:
        if source is state:
            change(purchase, fact)
            purchase.state = to
            return
    _illegal(purchase, fact)


def next_action(purchase: Purchase) -> Action:
    """What to do with a purchase now."""
    return _NEXT[purchase.state]


# --- Money --------------------------------------------------------------------------------------------------


class Settlement(Enum):
    """What becomes of the slot and the money that an attempt held."""

    SPENT = "bought: the money is gone, the slot is held for a minute"
    LOST = "perhaps bought: as if it were, and the account's gate closes"
    SEEN = "refused: the money comes back, the slot is held for a minute"
    REJECTED = "too much at once: both come back, and the account's gate closes"
    UNSEEN = "never sent: both come back"
    UNREACHED = "could not be sent: both come back, and the account's gate closes"


SPENT, LOST, SEEN, REJECTED, UNSEEN, UNREACHED = Settlement


def settlement(fact: Fact) -> Settlement:
    """What a fact about an attempt means for its slot and its money."""
    if type(fact) is not NotBought:
        return LOST if type(fact) is Lost else SPENT
    if isinstance(fact.error, RateLimited):
        return REJECTED
    if not fact.reached:
        return UNREACHED
    return SEEN if fact.seen else UNSEEN
