"""Facts about a purchase, and the meaning of each for its slot, its money and the account's breaker.

Every request is one `Purchase`, from the input to its outcome, with or without a journal. A purchase moves
only by `advance(purchase, fact)`; `next_action(purchase)` says how to go on. A fact that `TRANSITIONS` lacks
cannot happen.

| state     | what is known                          | next action                                |
|-----------|----------------------------------------|--------------------------------------------|
| planned   | nothing is bought by this attempt      | SEND                                       |
| announced | about to be sent, or on the way        | AWAIT the answer; after a crash: uncertain |
| uncertain | perhaps bought, task id unknown        | LIST; buy again only when asked            |
| submitted | bought, task id known                  | WATCH the task                             |
| succeeded | done                                   | SAVE the files, where they are wanted      |
| failed    | refused, or the task failed            | LIST                                       |
| saved     | the files are on disk                  | NOTHING                                    |

| fact               | from                        | to        | window slot     | budget    | breaker |
|--------------------|-----------------------------|-----------|-----------------|-----------|---------|
| Announced          | planned                     | announced | taken           | reserved  |         |
| Bought             | announced                   | submitted | held a minute   | spent     | success |
| Bought (an event)  | uncertain, planned in doubt | submitted | as it was       | as it was |         |
| Bought (told again)| submitted and later         | unchanged | as it was       | as it was |         |
| Bought (another id)| submitted and later         | unchanged | held a minute   | spent     |         |
| Completed at once  | announced, uncertain        | succeeded | held a minute   | spent     | success |
| NotBought, seen    | announced                   | planned   | held a minute   | refunded  |         |
| NotBought, limited | announced                   | planned   | back            | refunded  | trips   |
| NotBought, unseen  | announced                   | planned   | back            | refunded  |         |
| NotBought, unreached | announced                 | planned   | back            | refunded  | trips   |
| Lost               | announced                   | uncertain | held a minute   | spent     | trips   |
| Lost               | planned, with a doubt       | uncertain |                 |           |         |
| NotBought, Lost    | submitted and later         | unchanged | as above        | as above  | as above|
| Reopened (asked)   | uncertain, failed, succeeded | planned  | as it was       | as it was |         |
| Rewatched          | failed, with a task         | submitted |                 |           |         |
| FailedForGood      | planned without a doubt, submitted | failed |             |           |         |
| FailedForGood      | succeeded at once, without a file  | failed |             |           |         |
| Completed          | submitted, succeeded        | succeeded |                 |           |         |
| Saved              | succeeded                   | saved     |                 |           |         |
| NotSaved           | succeeded, saved            | succeeded |                 |           |         |

`Announced` is a promise: durable, or nothing is sent. Every other fact *happened*, whether or not a journal
can write it. "Submitted and later": an event told the task of an earlier attempt while another was under way;
its answer then settles that attempt alone, and a second task id is kept beside the first.

Times are seconds on the loop's clock; a durable journal adds the offset to unix time at its border. Nothing
here waits or reads a clock.
"""

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum, StrEnum
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NoReturn, Protocol, assert_never, cast

from attrs import define, field

from novita_async._purchase.packing import packed_once, unpacked
from novita_async._util.values import frozen
from novita_async.errors import (
    FailedEarlier,
    JournalError,
    NovitaError,
    RateLimited,
    SubmissionUncertain,
    TaskFailed,
    TaskNotFound,
)
from novita_async.models.requests import NovitaRequest
from novita_async.models.results import TaskResult, with_files
from novita_async.tasks import Task


class State(StrEnum):
    """Stages of a purchase."""

    PLANNED = "planned"
    """To be sent."""
    ANNOUNCED = "announced"
    """About to be sent, or on the way."""
    SUBMITTED = "submitted"
    """Bought: the task id is known."""
    SUCCEEDED = "succeeded"
    """Done, and not saved (yet)."""
    FAILED = "failed"
    """Refused, or the task failed."""
    UNCERTAIN = "uncertain"
    """Perhaps bought, task id unknown."""
    SAVED = "saved"
    """The files are on disk."""


class Action(StrEnum):
    """The next step of a purchase."""

    SEND = "send"
    """Buy it."""
    AWAIT = "await"
    """An attempt is under way."""
    WATCH = "watch"
    """Paid: poll the task until its end is seen. Never buy it again."""
    SAVE = "save"
    """Paid and done: save the files, with fresh URLs where the old ones are gone."""
    LIST = "list"
    """Show it; buy it again only when asked."""
    NOTHING = "nothing"
    """Complete."""


PLANNED: Final = State.PLANNED
ANNOUNCED: Final = State.ANNOUNCED
SUBMITTED: Final = State.SUBMITTED
SUCCEEDED: Final = State.SUCCEEDED
FAILED: Final = State.FAILED
UNCERTAIN: Final = State.UNCERTAIN
SAVED: Final = State.SAVED
SEND, AWAIT, WATCH, SAVE, LIST, NOTHING = Action


# --- The record ---------------------------------------------------------------------------------------------


@define
class Attempt:
    """An exchange that the service saw, or may have seen: a slot in a window, and perhaps money.

    Args:
        account: Label of the account that pays.
        announced_at: When the promise to send was made.
        answered_at: When its end was known. None: under way.
        task_id: The task that was bought.
        perhaps: Whether a task may have been bought whose id nobody knows.
        at_once: Whether pictures were bought without a task: they came in the answer.
        number: Of this purchase, from 1. 0: not known.
    """

    account: str
    """Label of the account that pays."""
    announced_at: float
    """When the promise to send was made."""
    answered_at: float | None = None
    """When its end was known. None: under way."""
    task_id: str | None = None
    """The task that was bought."""
    perhaps: bool = False
    """Whether a task may have been bought whose id nobody knows."""
    at_once: bool = False
    """Whether pictures were bought without a task: they came in the answer."""
    number: int = 0
    """Of this purchase, from 1. 0: not known."""

    @property
    def bought(self) -> bool:
        """Whether this attempt certainly bought something."""
        return self.task_id is not None or self.at_once


@frozen(kw_only=True)
class _Described:
    """All that a journal says of a request, but for its text."""

    key: str
    """Identity of the content: 32 hex digits."""
    position: int
    """Place in the input, from 0."""
    kind: str
    """`img2img`, `txt2img`, or `task` for any other endpoint."""
    endpoint: str
    """Path of the submission."""
    images: int
    """Number of images asked for."""
    tag: str | None = None
    """The user's own id."""
    metadata: str | None = None
    """JSON text of the user's own metadata. None: there are none."""


@frozen(kw_only=True)
class Order(_Described):
    """The request at a place of the input, as a journal describes it.

    Args:
        request: JSON text to make the request again with; pictures as their digest and path.
        key: Identity of the content: 32 hex digits.
        position: Place in the input, from 0.
        kind: `img2img`, `txt2img`, or `task` for any other endpoint.
        endpoint: Path of the submission.
        images: Number of images asked for.
        tag: The user's own id.
        metadata: JSON text of the user's own metadata. None: there are none.
    """

    request: str
    """JSON text to make the request again with; pictures as their digest and path."""


@frozen(kw_only=True)
class JournalEntry(_Described):
    """Place of a purchase in a journal.

    The text of the request is kept packed, because thousands of purchases may be in flight.

    Args:
        request: JSON text to make the request again with; given as text or packed, and kept packed.
        occurrence: Number among requests of equal content, from 0.
        serial: Number in the journal, from 1, in the order of planning; pages go by it.
        run: The latest run that asked for this request, from 1.
        key: Identity of the content: 32 hex digits.
        position: Place in the input, from 0.
        kind: `img2img`, `txt2img`, or `task` for any other endpoint.
        endpoint: Path of the submission.
        images: Number of images asked for.
        tag: The user's own id.
        metadata: JSON text of the user's own metadata. None: there are none.
    """

    packed: bytes = field(alias="request", converter=packed_once, eq=unpacked, repr=False)
    """JSON text to make the request again with; given as text or packed, and kept packed."""
    occurrence: int
    """Number among requests of equal content, from 0."""
    serial: int
    """Number in the journal, from 1, in the order of planning; pages go by it."""
    run: int
    """The latest run that asked for this request, from 1."""

    @property
    def request(self) -> str:
        """JSON text to make the request again with; pictures as their digest and path."""
        return unpacked(self.packed)

    @property
    def name(self) -> tuple[str, int]:
        """Name of a purchase within its journal."""
        return self.key, self.occurrence


class Keeper(Protocol):
    """Keeps purchases beyond this process. `novita_async.journal.Journal` says what else a store can do."""

    async def admit(self, purchase: "Purchase", announced: "Announced", cost: Decimal | None) -> None:
        """Promise an attempt, durably."""
        ...

    async def settle(self, purchase: "Purchase", fact: "Fact") -> None:
        """Keep how an attempt ended."""
        ...

    async def record(self, purchase: "Purchase", *facts: "Fact") -> None:
        """Keep any other facts, in one commit."""
        ...


class Leased(Protocol):
    """Lease of a process on windows that others share; valid while the process says that it lives."""

    @property
    def sends_until(self) -> float:
        """Until when this process may send: others take it for dead once its lease has run out."""
        ...


class SharedQuota(Leased, Protocol):
    """Windows that processes share, for purchases that no journal with windows of its own keeps."""

    async def take(self, purchase: "Purchase", announced: "Announced") -> Leased:
        """Take a place. Returns a handle for `settle`, with the lease that the place was taken under.

        Raises:
            Deferred: there is none before then.
            JournalError: the database cannot be reached. Nothing may be sent.
        """
        ...

    def settle(self, place: object, fact: "Fact") -> None:
        """Say how an attempt ended. Told as soon as the database can be reached."""
        ...


@define(eq=False)
class Purchase:
    """A request and its money. All who deal with a purchase hold this one object: there is one truth.

    Times (`…_at`, here and in attempts) are seconds on the loop's clock. In purchases that were only read
    from a journal (`Journal.where`) they are unix seconds.

    Args:
        request: The request. None where only the task is known, or where the request is no longer needed.
        endpoint: Path of the submission.
        images: Number of images asked for.
        position: Place in the input, from 0.
        tag: The user's own id.
        wants_files: Whether success is not the end: files are to be saved.
        id: Unique in this process; events about money carry it.
        journal: The store that keeps this purchase. None: memory alone.
        entry: The place in that store.
        token: Secret of the latest attempt's callback.
        host: Name of the host that the latest attempt went to.
        state: How far the purchase has come.
        account: Label of the account that pays: of the attempt that bought the task, else of the latest.
        task: The bought task. None also where pictures came in the answer itself.
        attempt: Number of the latest attempt, from 1.
        attempts: Attempts that may count: in a window, or as money. Those that the service never saw are left
            out.
        doubt: Why some attempt may have been bought under an id that nobody knows.
        reported: Whether the caller knows of the doubt.
        error: The latest error.
        result: Pictures of the task.
        paths: The saved files, in the result's order.
        objects: Addresses of the saved files, where they are in a storage that is no folder.
        finished_at: When the end was seen.
        saved_at: When the files were whole.
    """

    request: NovitaRequest | None
    """The request. None where only the task is known, or where the request is no longer needed."""
    endpoint: str = ""
    """Path of the submission."""
    images: int = 1
    """Number of images asked for."""
    position: int = 0
    """Place in the input, from 0."""
    tag: str | None = None
    """The user's own id."""
    wants_files: bool = False
    """Whether success is not the end: files are to be saved."""
    id: int = field(factory=count(1).__next__)
    """Unique in this process; events about money carry it."""
    journal: Keeper | None = None
    """The store that keeps this purchase. None: memory alone."""
    entry: JournalEntry | None = None
    """The place in that store."""
    token: str | None = None
    """Secret of the latest attempt's callback."""
    host: str | None = None
    """Name of the host that the latest attempt went to."""
    state: State = PLANNED
    """How far the purchase has come."""
    account: str | None = None
    """Label of the account that pays: of the attempt that bought the task, else of the latest."""
    task: Task | None = None
    """The bought task. None also where pictures came in the answer itself."""
    attempt: int = 0
    """Number of the latest attempt, from 1."""
    attempts: tuple[Attempt, ...] = ()
    """Attempts that may count: in a window, or as money. Those that the service never saw are left out."""
    doubt: SubmissionUncertain | None = None
    """Why some attempt may have been bought under an id that nobody knows."""
    reported: bool = False
    """Whether the caller knows of the doubt."""
    error: NovitaError | None = None
    """The latest error."""
    result: TaskResult | None = None
    """Pictures of the task."""
    paths: tuple[Path, ...] = ()
    """The saved files, in the result's order."""
    objects: tuple[str, ...] = ()
    """Addresses of the saved files, where they are in a storage that is no folder."""
    finished_at: float | None = None
    """When the end was seen."""
    saved_at: float | None = None
    """When the files were whole."""

    @property
    def wish(self) -> NovitaRequest:
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
    def metadata(self) -> Mapping[str, Any]:
        """The user's own metadata, as far as the request or a journal tells them."""
        if self.request is not None:
            return self.request.metadata
        text = self.entry.metadata if self.entry else None
        return json.loads(text) if text else {}

    @property
    def in_doubt(self) -> bool:
        """Whether the purchase may have been bought under an id that nobody knows."""
        return self.doubt is not None and self.task is None

    @property
    def bought(self) -> int:
        """Images that were certainly bought, by all attempts."""
        return self.images * sum([each.bought for each in self.attempts])

    @property
    def perhaps(self) -> int:
        """Images that were perhaps bought, by all attempts, one under way included."""
        return self.images * sum([each.perhaps or each.answered_at is None for each in self.attempts])

    def __repr__(self) -> str:
        task = f", task {self.task.task_id}" if self.task else ""
        return f"<Purchase {self.id} {self.state}{task}>"


# --- Facts --------------------------------------------------------------------------------------------------


@frozen
class Announced:
    """About to be sent; this account will pay.

    Args:
        at: When.
        account: Label of the account.
        token: Secret of this attempt's callback.
        host: Name of the host that the attempt goes to.
    """

    at: float
    """When."""
    account: str
    """Label of the account."""
    token: str | None = None
    """Secret of this attempt's callback."""
    host: str | None = None
    """Name of the host that the attempt goes to."""


@frozen
class Bought:
    """The service took the request: paid.

    Args:
        at: When that was known.
        task: The new task.
        attempt: Which attempt bought it. None: the one under way, else the latest in doubt.
    """

    at: float
    """When that was known."""
    task: Task
    """The new task."""
    attempt: int | None = None
    """Which attempt bought it. None: the one under way, else the latest in doubt."""


@frozen
class NotBought:
    """Fact: this attempt certainly bought nothing.

    Args:
        at: When that was known.
        error: Why.
        seen: Whether the service saw the request, and may have counted it.
        reached: Whether the service could be reached at all.
    """

    at: float
    """When that was known."""
    error: NovitaError
    """Why."""
    seen: bool = True
    """Whether the service saw the request, and may have counted it."""
    reached: bool = True
    """Whether the service could be reached at all."""


@frozen
class Lost:
    """The end of the attempt is unknown: perhaps a task was bought.

    Args:
        at: When it was given up.
        error: Why.
    """

    at: float
    """When it was given up."""
    error: SubmissionUncertain
    """Why."""


@frozen
class Reopened:
    """The caller wants it bought again, knowing that this may pay twice.

    Args:
        at: When.
    """

    at: float
    """When."""


@frozen
class Rewatched:
    """The task of a failed purchase is watched again: its end may have been told wrongly.

    Args:
        at: When.
    """

    at: float
    """When."""


@frozen
class FailedForGood:
    """There will be no result.

    Args:
        at: When that was known.
        error: Why.
    """

    at: float
    """When that was known."""
    error: NovitaError
    """Why."""


@frozen
class Completed:
    """The task has succeeded, or the pictures came at once.

    Args:
        at: When that was seen.
        result: The pictures.
    """

    at: float
    """When that was seen."""
    result: TaskResult
    """The pictures."""


@frozen
class Saved:
    """The files are whole, on disk or in a storage.

    Args:
        at: When.
        paths: Where, in the result's order.
        objects: Their addresses, where they are in a storage that is no folder.
    """

    at: float
    """When."""
    paths: tuple[Path, ...]
    """Where, in the result's order."""
    objects: tuple[str, ...] = ()
    """Their addresses, where they are in a storage that is no folder."""


@frozen
class NotSaved:
    """The files could not be had this time, or are gone.

    Args:
        at: When that was seen.
        error: Why.
    """

    at: float
    """When that was seen."""
    error: NovitaError
    """Why."""


Verdict = Bought | NotBought | Lost | Completed
"""How an attempt ended."""
Fact = Verdict | Announced | Reopened | Rewatched | FailedForGood | Saved | NotSaved


# --- Transitions --------------------------------------------------------------------------------------------


class IllegalTransition(JournalError):
    """A transition that cannot be: a fault of the program. Nothing has changed."""


def _illegal(purchase: Purchase, fact: Fact, why: str = "there is no such transition") -> NoReturn:
    raise IllegalTransition(
        scope="request",
        problem=f"{purchase!r} cannot take {type(fact).__name__}: {why}",
        task_id=purchase.task.task_id if purchase.task else None,
    )


def _announce(purchase: Purchase, fact: Announced) -> None:
    purchase.account, purchase.token, purchase.host = fact.account, fact.token, fact.host
    purchase.attempt += 1
    mine = Attempt(fact.account, fact.at, number=purchase.attempt)
    purchase.attempts = (*purchase.attempts, mine) if purchase.attempts else (mine,)
    purchase.error = None


def _buy(purchase: Purchase, fact: Bought) -> None:
    mine = _attempt_of(purchase, fact)
    if mine is not None:
        mine.task_id, mine.perhaps = fact.task.task_id, False
        if mine.answered_at is None:
            mine.answered_at = fact.at
        purchase.account = mine.account
    purchase.task, purchase.error = fact.task, None
    purchase.host = fact.task.host or purchase.host
    _settle_doubt(purchase)


def _settle_doubt(purchase: Purchase) -> None:
    """Forget the doubt, unless another attempt may have been bought besides."""
    if purchase.doubt is not None and not any(each.perhaps for each in purchase.attempts):
        purchase.doubt = None


def _attempt_of(purchase: Purchase, fact: Bought) -> Attempt | None:
    """The attempt that bought a task. None: this purchase was never announced."""
    if fact.attempt is not None:
        for each in purchase.attempts:
            if each.number == fact.attempt:
                return each
    return open_attempt(purchase)


def open_attempt(purchase: Purchase) -> Attempt | None:
    """The attempt under way, else the latest in doubt."""
    doubtful = (each for each in reversed(purchase.attempts) if each.perhaps)
    return under_way_in(purchase) or next(doubtful, None)


def _buy_in_doubt(purchase: Purchase, fact: Bought) -> None:
    if purchase.doubt is None:
        _illegal(purchase, fact, "nothing of it was sent")
    _buy(purchase, fact)


def _buy_more(purchase: Purchase, fact: Bought) -> None:
    """Told again; or bought twice, and then both ids are kept."""
    under_way = under_way_in(purchase)
    known = any(each.task_id == fact.task.task_id for each in purchase.attempts)
    if known or (purchase.task is not None and purchase.task.task_id == fact.task.task_id):
        if under_way is not None and fact.attempt == under_way.number:
            purchase.attempts = _without(purchase, under_way)
        return
    mine = _attempt_of(purchase, fact)
    if mine is None or mine.bought:
        mine = Attempt(fact.task.account or "", fact.at, number=fact.attempt or 0)
        purchase.attempts = (*purchase.attempts, mine)
    mine.task_id, mine.perhaps = fact.task.task_id, False
    mine.answered_at = fact.at if mine.answered_at is None else mine.answered_at
    _settle_doubt(purchase)


def _come_back(purchase: Purchase, fact: NotBought) -> None:
    purchase.error = fact.error
    _end_attempt(purchase, fact)


def _end_attempt(purchase: Purchase, fact: NotBought) -> None:
    mine = under_way_in(purchase)
    if mine is None:
        return
    if fact.seen and not isinstance(fact.error, RateLimited):
        mine.answered_at = fact.at
    else:
        purchase.attempts = _without(purchase, mine)


def _lose(purchase: Purchase, fact: Lost) -> None:
    purchase.error = fact.error
    _lose_attempt(purchase, fact)


def _lose_attempt(purchase: Purchase, fact: Lost) -> None:
    mine = under_way_in(purchase)
    if mine is not None:
        mine.answered_at, mine.perhaps = fact.at, True
        purchase.doubt = fact.error


def _keep_doubt(purchase: Purchase, fact: Lost) -> None:
    if purchase.doubt is None:
        _illegal(purchase, fact, "nothing of it was sent")
    purchase.error = fact.error


def _reopen(purchase: Purchase, _: Reopened) -> None:
    purchase.task = purchase.result = purchase.finished_at = None


def _rewatch(purchase: Purchase, fact: Rewatched) -> None:
    if purchase.task is None:
        _illegal(purchase, fact, "it has no task")
    purchase.error = purchase.finished_at = None


def _refuse(purchase: Purchase, fact: FailedForGood) -> None:
    if purchase.doubt is not None:
        _illegal(purchase, fact, "an earlier attempt may have been bought")
    _fail(purchase, fact)


def _fail_empty(purchase: Purchase, fact: FailedForGood) -> None:
    if purchase.task is not None or (purchase.result is not None and purchase.result.artifacts):
        _illegal(purchase, fact, "it has a task, or files")
    _fail(purchase, fact)


def _fail(purchase: Purchase, fact: FailedForGood) -> None:
    purchase.error, purchase.finished_at = fact.error, fact.at


def _complete(purchase: Purchase, fact: Completed) -> None:
    purchase.result, purchase.error = fact.result, None
    if fact.result.task is not None:
        purchase.task = fact.result.task
    if purchase.finished_at is None:
        purchase.finished_at = fact.at


def _complete_at_once(purchase: Purchase, fact: Completed) -> None:
    mine = open_attempt(purchase)
    if mine is None:
        _illegal(purchase, fact, "nothing of it was sent")
    task = fact.result.task
    if task is not None:  # the answer names it too, or a store that could not record hears of the end
        purchase.task, mine.task_id = task, task.task_id
    else:
        mine.at_once = True
    mine.perhaps = False
    mine.answered_at = fact.at if mine.answered_at is None else mine.answered_at
    purchase.result, purchase.error, purchase.finished_at = fact.result, None, fact.at
    _settle_doubt(purchase)


def _save(purchase: Purchase, fact: Saved) -> None:
    purchase.paths, purchase.objects = fact.paths, fact.objects
    purchase.error, purchase.saved_at = None, fact.at
    places = fact.paths or fact.objects
    files = purchase.result.artifacts if purchase.result is not None and places else ()
    came = [place for place, each in enumerate(files) if each.came_at_once or each.file is not None]
    if came:  # what came in the answer lay elsewhere until now
        moved = {place: places[place] for place in came}
        purchase.result = with_files(cast("TaskResult", purchase.result), moved)


def _miss(purchase: Purchase, fact: NotSaved) -> None:
    purchase.paths, purchase.objects = (), ()
    purchase.error, purchase.saved_at = fact.error, None


def under_way_in(purchase: Purchase) -> Attempt | None:
    """The attempt whose end is not known yet."""
    for attempt in reversed(purchase.attempts):
        if attempt.answered_at is None:
            return attempt
    return None


def _without(purchase: Purchase, attempt: Attempt) -> tuple[Attempt, ...]:
    return tuple(each for each in purchase.attempts if each is not attempt)


Change = Callable[[Purchase, Any], None]

TRANSITIONS: Final[Mapping[tuple[State, type], tuple[State, Change]]] = MappingProxyType(
    {
        (PLANNED, Announced): (ANNOUNCED, _announce),
        (PLANNED, Bought): (SUBMITTED, _buy_in_doubt),
        (PLANNED, FailedForGood): (FAILED, _refuse),
        (PLANNED, Lost): (UNCERTAIN, _keep_doubt),
        (ANNOUNCED, Bought): (SUBMITTED, _buy),
        (ANNOUNCED, Completed): (SUCCEEDED, _complete_at_once),
        (ANNOUNCED, NotBought): (PLANNED, _come_back),
        (ANNOUNCED, Lost): (UNCERTAIN, _lose),
        (UNCERTAIN, Bought): (SUBMITTED, _buy),
        (UNCERTAIN, Completed): (SUCCEEDED, _complete_at_once),
        (UNCERTAIN, Reopened): (PLANNED, _reopen),
        (FAILED, Reopened): (PLANNED, _reopen),
        (SUCCEEDED, Reopened): (PLANNED, _reopen),
        (FAILED, Rewatched): (SUBMITTED, _rewatch),
        (SUBMITTED, Completed): (SUCCEEDED, _complete),
        (SUBMITTED, FailedForGood): (FAILED, _fail),
        (SUCCEEDED, Completed): (SUCCEEDED, _complete),
        (SUCCEEDED, FailedForGood): (FAILED, _fail_empty),
        (SUCCEEDED, Saved): (SAVED, _save),
        (SUCCEEDED, NotSaved): (SUCCEEDED, _miss),
        (SAVED, NotSaved): (SUCCEEDED, _miss),
        **{(state, Bought): (state, _buy_more) for state in (SUBMITTED, SUCCEEDED, FAILED, SAVED)},
        **{(state, NotBought): (state, _end_attempt) for state in (SUBMITTED, SUCCEEDED, FAILED, SAVED)},
        **{(state, Lost): (state, _lose_attempt) for state in (SUBMITTED, SUCCEEDED, FAILED, SAVED)},
    }
)
"""Everything that can happen."""

_BY_FACT: Final[Mapping[type, tuple[tuple[State, State, Change], ...]]] = {
    kind: tuple((source, *step) for (source, other), step in TRANSITIONS.items() if other is kind)
    for _, kind in TRANSITIONS
}
"""The same by fact: comparing a few states is cheaper than the hash of an enum's member."""


def advance(purchase: Purchase, fact: Fact) -> None:
    """Let a fact happen to a purchase.

    Raises:
        IllegalTransition: the fact cannot happen to this purchase, which stays as it was.
    """
    state = purchase.state
    for source, to, change in _BY_FACT[type(fact)]:
        if source is state:
            change(purchase, fact)
            purchase.state = to
            return
    _illegal(purchase, fact)


def told_before(purchase: Purchase, fact: Fact) -> bool:
    """Whether exactly this has happened already: a store that is told twice writes once."""
    if type(fact) is Announced:
        last = under_way_in(purchase)
        return last is not None and (last.account, last.announced_at) == (fact.account, fact.at)
    if type(fact) is Saved:
        same = purchase.paths == fact.paths and purchase.objects == fact.objects
        return purchase.state is SAVED and same
    if type(fact) is Lost:
        return purchase.state is UNCERTAIN and purchase.error is fact.error
    return False


def next_action(purchase: Purchase) -> Action:
    """The next step of a purchase."""
    state = purchase.state
    if state is PLANNED:
        return SEND
    if state is SUBMITTED:
        return WATCH
    if state is SUCCEEDED:
        return SAVE if purchase.wants_files else NOTHING
    if state is ANNOUNCED:
        return AWAIT
    if state is SAVED:
        return NOTHING
    if state is FAILED or state is UNCERTAIN:
        return LIST
    assert_never(state)


def helps_to_buy_again(error: NovitaError) -> bool:
    """Whether buying the same again can help, once something was done about the error.

    That is so where the cause passes by itself, lies with the account or the endpoint, or was an accident of
    the task's. A request that the service will never accept is not worth another attempt.
    """
    if isinstance(error, FailedEarlier):
        return error.retryable
    return error.retryable or error.scope != "request" or isinstance(error, TaskFailed)


def is_gone(purchase: Purchase) -> bool:
    """Whether a paid result can no longer be had: the service has forgotten its task, or there was none."""
    if purchase.state is not SUCCEEDED or purchase.error is None:
        return False
    kind = purchase.error.kind if isinstance(purchase.error, FailedEarlier) else type(purchase.error).__name__
    return purchase.task is None or kind == TaskNotFound.__name__


# --- Slot, money, breaker -----------------------------------------------------------------------------------


class Settlement(Enum):
    """The end of the slot and the money that an attempt was given."""

    SPENT = "bought: the money is spent, the slot is held for a minute"
    LOST = "perhaps bought: as if it were, and the account's breaker trips"
    SEEN = "refused: the money is refunded, the slot is held for a minute"
    REJECTED = "too much at once: both come back, and the account's breaker trips"
    UNSEEN = "never sent: both come back"
    UNREACHED = "could not be sent: both come back, and the account's breaker trips"


SPENT, LOST, SEEN, REJECTED, UNSEEN, UNREACHED = Settlement


def settlement(fact: Fact) -> Settlement:
    """Meaning of a fact about an attempt for its slot, its money and the breaker."""
    if type(fact) is not NotBought:
        return LOST if type(fact) is Lost else SPENT
    if isinstance(fact.error, RateLimited):
        return REJECTED
    if not fact.reached:
        return UNREACHED
    return SEEN if fact.seen else UNSEEN
