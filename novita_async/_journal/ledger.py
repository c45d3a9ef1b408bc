"""What a batch has done with money: the meaning of a journal, without the journal.

**One row a request.** A request is known by its content: the fields that are sent, with each picture
replaced by the SHA-256 of its bytes. Where its callback goes is left out, because a new address asks for no
other picture; so is what signs a presigned URL, because that changes by the hour. Equal requests are told
apart by an occurrence number, in the order in which one run asks for them. Inserting, removing and
reordering lines of the input therefore never makes a bought request look like a new one.

**A row's way.** Everything that can happen is one table, `TRANSITIONS`; what it lacks cannot be recorded.

    planned    -> announced, about to be sent
               -> failed, refused here
               -> uncertain, given up, and an attempt before may have bought it
    announced  -> submitted, bought
               -> planned, not bought and to be tried again
               -> failed, not bought and not to be tried again
               -> uncertain, perhaps bought
    uncertain  -> submitted, its task was found
               -> planned, only when asked
    submitted  -> succeeded | failed
    succeeded  -> saved
    saved      -> succeeded, its files are gone
    failed     -> planned, only when asked, and when it can help

A row is announced, durably, before the first byte is sent. So a crash leaves one that is announced and has
no task id: perhaps it was bought. It becomes uncertain, is listed, and is bought again only when somebody
says so. Telling the same thing twice changes nothing.

**The quota.** An announcement is also a slot of the account's window, until a minute after the answer.
Attempts that the service saw, and that were followed by another, stay in the row (`earlier`): as slots for
that minute, and for ever where they may have cost something. `slots` reads the windows back, so a restart
cannot overspend a quota.

**Secrets.** A row never holds a key, a picture's bytes or a presigned query. What had to be left out of a
request cannot be made again from the row alone (`request_of` says so); the caller's own input still has it.

Times are unix seconds. Nothing here waits, reads a clock or touches a file.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NoReturn, Required, TypedDict, Unpack, cast

import attrs
from attrs import evolve, field, frozen

from novita_async._api.codec import body_parts, request_from_wire
from novita_async._policy.pacing import HOLD
from novita_async.errors import Fault, InvalidRequest, JournalError, NovitaError, TaskFailed, redacted
from novita_async.models.images import ImageSource
from novita_async.models.requests import AnyTask, Request
from novita_async.models.results import Artifact, Image, ImageResult, Timings, without_query


class State(StrEnum):
    """How far a request has come."""

    PLANNED = "planned"
    """To be sent."""
    ANNOUNCED = "announced"
    """About to be sent, or on its way."""
    SUBMITTED = "submitted"
    """Bought: its task id is known."""
    SUCCEEDED = "succeeded"
    """Done, and not saved (yet)."""
    FAILED = "failed"
    """Refused, or its task failed."""
    UNCERTAIN = "uncertain"
    """Perhaps bought, task id unknown."""
    SAVED = "saved"
    """Its files are on disk."""


class Duty(StrEnum):
    """What a row asks of who resumes a batch."""

    SEND = "send"
    """Buy it."""
    WATCH = "watch"
    """It is paid: ask for its task until the end is seen. Never buy it again."""
    SAVE = "save"
    """It is paid and done: ask for its task once, for fresh URLs, and save the files."""
    LIST = "list"
    """Show it; buy it again only when asked."""
    NOTHING = "nothing"
    """It is complete."""


ON_RESUME: Final[Mapping[State, Duty]] = MappingProxyType(
    {
        State.PLANNED: Duty.SEND,
        State.ANNOUNCED: Duty.LIST,
        State.SUBMITTED: Duty.WATCH,
        State.SUCCEEDED: Duty.SAVE,
        State.FAILED: Duty.LIST,
        State.UNCERTAIN: Duty.LIST,
        State.SAVED: Duty.NOTHING,
    }
)
"""What to do with the rows of each state."""


@frozen(kw_only=True)
class RowError:
    """Why a row failed, or did not get further."""

    kind: str
    """Name of the error's class."""
    text: str
    """The error's message, without secrets."""
    reason: str | None = None
    """The service's reason in capitals, where it gave one."""
    retryable: bool = False
    """Whether buying the same again, once something was done about it, can help."""

    @classmethod
    def of(cls, error: NovitaError) -> "RowError":
        """Note down an error.

        Buying again can help where the cause passes by itself, lies with the account or the endpoint, or was
        an accident of the task's. What the service will never accept is not worth another try.
        """
        passes = error.retryable or error.scope != "request" or isinstance(error, TaskFailed)
        text = redacted(str(error)).encode("utf-8", "replace").decode()
        return cls(kind=type(error).__name__, text=text, reason=error.reason, retryable=passes)


LOST: Final = RowError(
    kind="SubmissionUncertain",
    text="the program ended while this was on its way: perhaps paid; look at the account's bill, then decide",
    retryable=True,
)
"""Why a row became uncertain that was announced when its process died."""

GONE: Final = RowError(
    kind="FileNotFoundError",
    text="its files are no longer where they were saved; its task is asked for them again",
    retryable=True,
)
"""Why a row that was saved is to be saved again."""

_UNSEEN: Final = frozenset({"NotSent", "RateLimited", "InvalidRequest"})
"""After these errors an attempt holds no slot: the service has not counted it."""


@frozen(kw_only=True)
class Attempt:
    """An earlier attempt to buy a row, which the service saw or may have seen."""

    account: str
    """Label of the account."""
    announced_time: float
    """When it was about to be sent."""
    answered_time: float | None = None
    """When it was known how it ended."""
    task_id: str | None = None
    """The task that was bought."""
    perhaps: bool = False
    """Whether it may have been bought, task id unknown."""

    @property
    def lasting(self) -> bool:
        """Whether it may have cost something."""
        return self.perhaps or self.task_id is not None


@frozen(kw_only=True)
class Wanted:
    """What one place of the input asks for."""

    key: str
    """Identity of its content: 32 hex digits."""
    position: int
    """Its place in the input, from 0."""
    kind: str
    """`img2img`, `txt2img`, or `task` for any other endpoint."""
    endpoint: str
    """Path that it is submitted to."""
    image_num: int
    """How many images it asks for."""
    request: str
    """JSON text to make the request again with; pictures as their digest and path."""


@frozen(kw_only=True)
class Row(Wanted):
    """One request, and what has become of it."""

    occurrence: int = 0
    """Its number among equal requests, from 0."""
    serial: int = 0
    """Its number in the journal, from 1, in the order of planning; pages go by it."""
    run: int = 0
    """The run of the batch that asked for it last, from 1."""
    state: State = State.PLANNED
    """How far it has come."""
    account: str | None = None
    """Label of the account that it was sent with last."""
    task_id: str | None = None
    """The service's id, once bought."""
    attempts: int = 0
    """How often it was announced."""
    announced_time: float | None = None
    """When it was about to be sent. None also where that attempt was not seen by the service."""
    answered_time: float | None = None
    """When it was known how the submission ended."""
    finished_time: float | None = None
    """When the end was seen."""
    saved_time: float | None = None
    """When its files were whole."""
    seed: int | None = None
    """The seed that the service reports."""
    error: RowError | None = None
    """What went wrong last."""
    paths: tuple[str, ...] = ()
    """Its files, in the result's order."""
    result: Mapping[str, Any] | None = field(default=None, hash=False)
    """What else is worth telling of the result (see `result_facts`)."""
    earlier: tuple[Attempt, ...] = ()
    """Attempts before the present one that still count."""

    @property
    def bought(self) -> int:
        """Images that were certainly bought, by all attempts."""
        tasks = sum(attempt.task_id is not None for attempt in self.earlier) + (self.task_id is not None)
        return self.image_num * tasks

    @property
    def perhaps(self) -> int:
        """Images that were perhaps bought, by all attempts."""
        unknown = self.state in (State.ANNOUNCED, State.UNCERTAIN)
        return self.image_num * (unknown + sum(attempt.perhaps for attempt in self.earlier))

    @property
    def tries(self) -> tuple[Attempt, ...]:
        """All attempts that still count, the present one last."""
        return (*self.earlier, *_present(self))

    @property
    def slot_time(self) -> float | None:
        """When the service may have seen an attempt last; no slot is held a minute later."""
        times = [_latest(attempt) for attempt in self.tries]
        return max(times) if times else None


def _latest(attempt: Attempt) -> float:
    return attempt.announced_time if attempt.answered_time is None else attempt.answered_time


def _present(row: Row) -> Iterator[Attempt]:
    """The present attempt, where the service saw it or may have."""
    if row.announced_time is not None:
        yield Attempt(
            account=row.account or "",
            announced_time=row.announced_time,
            answered_time=row.answered_time,
            task_id=row.task_id,
            perhaps=row.state in (State.ANNOUNCED, State.UNCERTAIN),
        )


# --- Identity -----------------------------------------------------------------------------------------------

_PICTURE: Final = "$picture"
_WITHHELD: Final = "$withheld"
_RESERVED: Final = tuple(f'"{name}":'.encode() for name in (_PICTURE, _WITHHELD))
_LONG: Final = 200
"""Characters from which a text without spaces may be a picture in base64."""
_BASE64: Final = re.compile(r"(?:data:[^,]{0,100},)?[A-Za-z0-9+/_\r\n-]{100,}={0,2}")
_PRESIGNED: Final = re.compile(
    r"(https?://[^?]*)\?(?:.*&)?(?:x-(?:amz|goog)-signature|signature|sig)=.*", re.IGNORECASE
)


def wanted(request: Request, *, endpoint: str, position: int, digest: Callable[[ImageSource], str]) -> Wanted:
    """Describe a request for the journal.

    Args:
        request: What is asked for.
        endpoint: Path that it is submitted to.
        position: Its place in the input, from 0.
        digest: Gives the SHA-256 of a picture, in hex. It may read a file, so call this off the event loop.

    Raises:
        InvalidRequest: it cannot be written as JSON, or a picture cannot be read.
    """
    wire = _tidy(json.loads(_referring(request, digest)))
    return Wanted(
        key=_key(request, wire),
        position=position,
        kind=request.kind,
        endpoint=endpoint,
        image_num=request.image_num,
        request=_text(wire),
    )


def _referring(request: Request, digest: Callable[[ImageSource], str]) -> bytes:
    """The body with a reference in the place of each picture, whose quotes stand in the text around it."""
    parts = body_parts(request)
    texts = [part for part in parts if isinstance(part, bytes)]
    if any(name in text for text in texts for name in _RESERVED):
        raise InvalidRequest(
            faults=(Fault("body", f"{_PICTURE} and {_WITHHELD} are names that a journal uses"),)
        )
    references = (_reference(part, digest) for part in parts if not isinstance(part, bytes))
    body = texts[0]
    for reference, text in zip(references, texts[1:], strict=True):
        body = body[:-1] + reference + text[1:]
    return body


def _reference(picture: ImageSource, digest: Callable[[ImageSource], str]) -> bytes:
    place = {"path": str(picture.path)} if picture.path else {}
    return json.dumps({_PICTURE: digest(picture), **place}).encode()


def _tidy(value: Any) -> Any:
    """JSON in which equal numbers look equal, and what must not be kept is withheld."""
    if isinstance(value, dict):
        return {name: _tidy(item) for name, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_tidy(item) for item in cast("Iterable[Any]", value)]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return _discreet(value) if isinstance(value, str) else value


def _discreet(text: str) -> Any:
    if len(text) >= _LONG and _BASE64.fullmatch(text):
        return {_WITHHELD: hashlib.sha256(text.encode()).hexdigest()}
    if "?" in text and (presigned := _PRESIGNED.fullmatch(text)):
        return {_WITHHELD: presigned[1]}
    return text


def _key(request: Request, wire: dict[str, Any]) -> str:
    """The identity: 128 bits of a hash over what is bought, and where."""
    content = _text([request.route, _without_callback(_bare(wire))])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _bare(value: Any) -> Any:
    """References without paths: a picture is the same wherever it lies."""
    if isinstance(value, dict):
        named = cast("dict[str, Any]", value)
        if _PICTURE in named:
            return {_PICTURE: named[_PICTURE]}
        return {name: _bare(item) for name, item in named.items()}
    return [_bare(item) for item in cast("Iterable[Any]", value)] if isinstance(value, list) else value


def _without_callback(wire: dict[str, Any]) -> dict[str, Any]:
    """Without the address of a webhook. Its test mode stays, because with it nothing is made."""
    extra = wire.get("extra")
    if not isinstance(extra, dict) or "webhook" not in extra:
        return wire
    extra = dict(cast("dict[str, Any]", extra))
    webhook = extra.pop("webhook")
    if isinstance(webhook, dict) and "test_mode" in webhook:
        extra["webhook"] = webhook["test_mode"]
    return {name: item for name, item in {**wire, "extra": extra}.items() if item != {}}


def _text(value: Any) -> str:
    text = _encode(value)
    return text if text.isascii() or _is_utf8(text) else json.dumps(value, sort_keys=True)


_encode: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _is_utf8(text: str) -> bool:
    """Whether a text has no lone surrogates, which the name of a file can have."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_withheld(what: str) -> NoReturn:
    message = f"a part of it is not kept in a journal ({what}); give the original input"
    raise InvalidRequest(faults=(Fault("request", message),))


def request_of(
    row: Wanted,
    picture: Callable[[str, Path | None], ImageSource],
    withheld: Callable[[str], Any] = _refuse_withheld,
) -> Request:
    """Make a row's request again.

    Args:
        row: What the journal knows of it.
        picture: Gives the picture with this SHA-256, which was at this path (None: in memory).
        withheld: Gives a stand-in for what the journal was not allowed to keep, where that will do.

    Raises:
        InvalidRequest: it will not do.
    """
    wire = with_pictures(json.loads(row.request), picture, withheld)
    if row.kind == "task":
        return AnyTask(path=row.endpoint, body=wire, image_num=row.image_num)
    return request_from_wire(wire, row.kind, allow_unknown=True)


def with_pictures(
    value: Any,
    picture: Callable[[str, Path | None], Any],
    withheld: Callable[[str], Any] = _refuse_withheld,
) -> Any:
    """Put pictures, or what is to stand for them, into the text of a row's request; see `request_of`."""
    if isinstance(value, list):
        return [with_pictures(item, picture, withheld) for item in cast("Iterable[Any]", value)]
    if not isinstance(value, dict):
        return value
    named = cast("dict[str, Any]", value)
    if _PICTURE in named:
        return picture(named[_PICTURE], Path(named["path"]) if "path" in named else None)
    if _WITHHELD in named:
        return withheld(named[_WITHHELD])
    return {name: with_pictures(item, picture, withheld) for name, item in named.items()}


# --- Transitions --------------------------------------------------------------------------------------------


class Facts(TypedDict, total=False):
    """What is told along with a transition. `TRANSITIONS` says which goes with which."""

    at: Required[float]
    """When it happened."""
    account: str
    """Label of the account that is about to be charged."""
    task_id: str
    """The id of the task that was bought."""
    error: RowError
    """What went wrong."""
    seed: int | None
    """The seed that the service reports."""
    result: Mapping[str, Any]
    """What is worth telling of the result (see `result_facts`)."""
    paths: tuple[str, ...]
    """Where the files are."""
    asked: bool
    """True: somebody wants it bought again, knowing that this may pay twice."""


class IllegalTransition(JournalError):
    """A transition that cannot be: a fault of the program, which is not recorded."""


def _never(row: Row, to: State, why: str) -> NoReturn:
    name = f"request {row.position} ({row.key[:8]}…/{row.occurrence})"
    raise IllegalTransition(
        scope="request", problem=f"{name} cannot go from {row.state} to {to}: {why}", task_id=row.task_id
    )


Told = Mapping[str, Any]
Change = Callable[[Row, Told], dict[str, Any]]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


@frozen
class Step:
    """One legal transition."""

    change: Change
    """The fields that change, state aside."""
    needs: frozenset[str] = frozenset()
    """Facts that must be told, besides `at`."""
    takes: frozenset[str] = frozenset()
    """Facts that may be told."""


def _announce(row: Row, facts: Told) -> dict[str, Any]:
    return {
        "account": facts["account"],
        "attempts": row.attempts + 1,
        "announced_time": facts["at"],
        "error": None,
        "earlier": _counting(row.earlier, facts["at"]),
    }


def _counting(attempts: tuple[Attempt, ...], now: float) -> tuple[Attempt, ...]:
    """Those that still count: in the window, or as money."""
    return tuple(attempt for attempt in attempts if attempt.lasting or _latest(attempt) + HOLD > now)


def _come_back(row: Row, facts: Told) -> dict[str, Any]:
    """Rejected, to be tried again: what the service saw keeps its slot."""
    return {"error": facts["error"], **_set_aside(row, facts)}


def _set_aside(row: Row, facts: Told) -> dict[str, Any]:
    """Make room for the next attempt."""
    unseen = row.state is State.ANNOUNCED and facts["error"].kind in _UNSEEN
    ended = () if unseen else tuple(_ended(attempt, facts["at"]) for attempt in _present(row))
    return {
        "earlier": _counting((*row.earlier, *ended), facts["at"]),
        "announced_time": None,
        "answered_time": None,
        "finished_time": None,
        "task_id": None,
        "seed": None,
        "result": None,
    }


def _ended(attempt: Attempt, now: float) -> Attempt:
    return attempt if attempt.answered_time is not None else evolve(attempt, answered_time=now, perhaps=False)


def _refuse(row: Row, facts: Told) -> dict[str, Any]:
    """Rejected for good."""
    unseen = facts["error"].kind in _UNSEEN
    return {
        "error": facts["error"],
        "announced_time": None if unseen else row.announced_time,
        "answered_time": None if unseen else facts["at"],
        "finished_time": facts["at"],
    }


def _lose(_: Row, facts: Told) -> dict[str, Any]:
    return {"error": facts["error"], "answered_time": facts["at"]}


def _back_in_doubt(row: Row, facts: Told) -> dict[str, Any]:
    """A later attempt bought nothing; one before it may have."""
    doubtful = [attempt for attempt in row.earlier if attempt.perhaps]
    if not doubtful:
        _never(row, State.UNCERTAIN, "nothing of it was sent")
    last = doubtful[-1]
    return {
        "error": facts["error"],
        "account": last.account,
        "announced_time": last.announced_time,
        "answered_time": last.answered_time,
        "earlier": tuple(attempt for attempt in row.earlier if attempt is not last),
    }


def _buy(_: Row, facts: Told) -> dict[str, Any]:
    return {"task_id": facts["task_id"], "answered_time": facts["at"], "error": None}


def _find(_: Row, facts: Told) -> dict[str, Any]:
    return {"task_id": facts["task_id"], "error": None}


def _fail(_: Row, facts: Told) -> dict[str, Any]:
    return {"error": facts["error"], "finished_time": facts["at"]}


def _succeed(_: Row, facts: Told) -> dict[str, Any]:
    return {
        "finished_time": facts["at"],
        "seed": facts.get("seed"),
        "result": facts.get("result"),
        "error": None,
    }


def _miss(_: Row, facts: Told) -> dict[str, Any]:
    return {"error": facts["error"]}


def _save(_: Row, facts: Told) -> dict[str, Any]:
    return {"paths": tuple(facts["paths"]), "saved_time": facts["at"], "error": None}


def _lose_files(_: Row, facts: Told) -> dict[str, Any]:
    return {"error": facts["error"], "paths": (), "saved_time": None}


def _buy_again(row: Row, facts: Told) -> dict[str, Any]:
    if not facts["asked"]:
        _never(row, State.PLANNED, "that may pay twice, and nobody asked for it")
    if row.state is State.FAILED and not (row.error and row.error.retryable):
        _never(row, State.PLANNED, f"the same would fail again ({row.error and row.error.text})")
    return _set_aside(row, facts)


TRANSITIONS: Final[Mapping[tuple[State, State], Step]] = MappingProxyType(
    {
        (State.PLANNED, State.ANNOUNCED): Step(_announce, needs=_names("account")),
        (State.PLANNED, State.FAILED): Step(_fail, needs=_names("error")),
        (State.PLANNED, State.UNCERTAIN): Step(_back_in_doubt, needs=_names("error")),
        (State.ANNOUNCED, State.PLANNED): Step(_come_back, needs=_names("error")),
        (State.ANNOUNCED, State.FAILED): Step(_refuse, needs=_names("error")),
        (State.ANNOUNCED, State.UNCERTAIN): Step(_lose, needs=_names("error")),
        (State.ANNOUNCED, State.SUBMITTED): Step(_buy, needs=_names("task_id")),
        (State.UNCERTAIN, State.SUBMITTED): Step(_find, needs=_names("task_id")),
        (State.UNCERTAIN, State.PLANNED): Step(_buy_again, needs=_names("asked")),
        (State.SUBMITTED, State.SUCCEEDED): Step(_succeed, takes=_names("seed result")),
        (State.SUBMITTED, State.FAILED): Step(_fail, needs=_names("error")),
        (State.FAILED, State.PLANNED): Step(_buy_again, needs=_names("asked")),
        (State.SUCCEEDED, State.SUCCEEDED): Step(_miss, needs=_names("error")),
        (State.SUCCEEDED, State.SAVED): Step(_save, needs=_names("paths")),
        (State.SAVED, State.SUCCEEDED): Step(_lose_files, needs=_names("error")),
    }
)
"""Everything that can happen to a row. From succeeded to succeeded: the files could not be had this time."""

_TOLD_BEFORE: Final[Mapping[State, Mapping[str, str]]] = {
    State.ANNOUNCED: {"account": "account", "at": "announced_time"},
    State.SUBMITTED: {"task_id": "task_id"},
    State.SAVED: {"paths": "paths"},
}
"""By which facts, kept in which fields, the same transition told twice is known from another one."""


def advance(row: Row, to: State, **facts: Unpack[Facts]) -> Row:
    """Let something happen to a row. Told twice, it happens once.

    Raises:
        IllegalTransition: it cannot happen to this row.
    """
    told = cast("Told", facts)
    step = TRANSITIONS.get((row.state, to))
    if step is None or (row.state is to and "error" not in told):
        return _same_again(row, to, told)
    _check(row, to, step, told)
    return evolve(row, state=to, **step.change(row, told))


def _same_again(row: Row, to: State, facts: Told) -> Row:
    if row.state is not to:
        _never(row, to, "there is no such way")
    for fact, name in _TOLD_BEFORE.get(to, {}).items():
        if facts.get(fact) != getattr(row, name):
            _never(row, to, f"it is there already, with another {fact}")
    return row


def _check(row: Row, to: State, step: Step, facts: Told) -> None:
    told = facts.keys() - {"at"}
    if missing := step.needs - told:
        _never(row, to, f"{', '.join(sorted(missing))} must be told")
    if strange := told - step.needs - step.takes:
        _never(row, to, f"{', '.join(sorted(strange))} cannot be told")
    if not math.isfinite(facts["at"]):
        _never(row, to, f"{facts['at']} is no time")


def asked_again(row: Row, wanted: Wanted, run: int) -> Row:
    """What a row is when another run asks for the same request; where it was sent before, that stays."""
    moved: dict[str, Any] = {}
    if not row.tries:
        moved = {"endpoint": wanted.endpoint, "image_num": wanted.image_num}
    return evolve(row, run=run, position=wanted.position, request=wanted.request, **moved)


def found_at_opening(row: Row, now: float) -> Row:
    """What a row means to a process that has just opened the journal, when no other has it open."""
    if row.state is not State.ANNOUNCED:
        return row
    return advance(row, State.UNCERTAIN, at=now, error=LOST)


# --- Reading it all -----------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Tally:
    """Rows of one state, added up."""

    state: State
    """Their state."""
    rows: int
    """How many."""
    images: int
    """How many images they ask for."""
    bought: int
    """How many images were certainly bought, by all attempts."""
    perhaps: int
    """How many images were perhaps bought, by all attempts."""


@frozen(kw_only=True)
class Ledger:
    """What a journal says of a whole batch."""

    rows: Mapping[State, int]
    """Requests of each state; every state has a number."""
    images: Mapping[State, int]
    """The images that they ask for."""
    bought: int
    """Images that were certainly bought, including those of tasks that failed and of attempts before."""
    perhaps: int
    """Images that were perhaps bought: count them as spent."""

    @classmethod
    def of(cls, tallies: Iterable[Tally]) -> "Ledger":
        """Add up what a store has added up by state."""
        rows, images = Counter[State](), Counter[State]()
        bought = perhaps = 0
        for tally in tallies:
            rows[tally.state] += tally.rows
            images[tally.state] += tally.images
            bought += tally.bought
            perhaps += tally.perhaps
        return cls(
            rows={state: rows[state] for state in State},
            images={state: images[state] for state in State},
            bought=bought,
            perhaps=perhaps,
        )

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.rows.values())

    @property
    def spent(self) -> int:
        """Images to count as paid."""
        return self.bought + self.perhaps

    def due(self, duty: Duty) -> int:
        """How many requests ask for this when the batch is resumed."""
        return sum(count for state, count in self.rows.items() if ON_RESUME[state] is duty)


def fold(rows: Iterable[Row]) -> Ledger:
    """Read a journal's meaning."""
    return Ledger.of(
        Tally(state=row.state, rows=1, images=row.image_num, bought=row.bought, perhaps=row.perhaps)
        for row in rows
    )


def states_for(duty: Duty) -> tuple[State, ...]:
    """The states whose rows ask for this when the batch is resumed."""
    return tuple(state for state, asked in ON_RESUME.items() if asked is duty)


def slots(
    rows: Iterable[Row], *, endpoint: str, account: str, offset: float = 0.0
) -> Iterator[tuple[float, float | None, int]]:
    """Read the slots of one account's window, for `AccountPacer.restore`.

    Args:
        rows: Rows of the journal; those whose `slot_time` is more than a minute ago add nothing.
        endpoint: Path of the submissions.
        account: Label of the account.
        offset: What to add to unix time to get the pacer's.

    Returns:
        Announced, answered (None: perhaps still on its way) and images of each.
    """
    for row in rows:
        for attempt in row.tries if row.endpoint == endpoint else ():
            if attempt.account == account:
                answered = None if attempt.answered_time is None else attempt.answered_time + offset
                yield attempt.announced_time + offset, answered, row.image_num


# --- Results ------------------------------------------------------------------------------------------------


def result_facts(result: ImageResult) -> dict[str, Any]:
    """What a report tells of a result: its files (URLs without their query), its times, its type."""
    return {
        "files": [_file_facts(artifact) for artifact in result.artifacts],
        "times": _times(result.timings),
        **({"task_type": result.task_type} if result.task_type else {}),
    }


def _file_facts(artifact: Artifact) -> dict[str, Any]:
    nsfw = artifact.nsfw if isinstance(artifact, Image) else None
    checked = {"nsfw": nsfw.confidence} if nsfw and nsfw.checked else {}
    return {"url": without_query(artifact.url), "type": artifact.type, "ttl": artifact.url_ttl, **checked}


def _times(timings: Timings) -> dict[str, float]:
    """Unix seconds by the service's clock, where it said so."""
    told = attrs.asdict(timings)
    return {name: told[name].timestamp() for name in told if told[name] is not None}
