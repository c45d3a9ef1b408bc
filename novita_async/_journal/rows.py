"""Purchases as records of a table, and back: the one place that knows the columns.

Of the attempts of a purchase, the present one has columns of its own; the others stand, as JSON, in
`earlier`. Times are unix seconds. An error is kept as its class, its text, its reason and whether buying
again can help; a result as its files (URLs without their query), its times and its type.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, cast

import attrs
from attrs import define

from novita_async._policy.pacing import WINDOW
from novita_async._purchase.journal import LEFT_BEHIND
from novita_async._purchase.machine import (
    ANNOUNCED,
    FAILED,
    PLANNED,
    SAVED,
    SUBMITTED,
    SUCCEEDED,
    TRANSITIONS,
    UNCERTAIN,
    Attempt,
    Fact,
    JournalEntry,
    Lost,
    Order,
    Purchase,
    State,
    helps_to_buy_again,
    under_way_in,
)
from novita_async.errors import FailedEarlier, NovitaError, SubmissionUncertain, redacted, without_query
from novita_async.models.results import Artifact, GeneratedImage, NsfwDetection, TaskResult, Timings
from novita_async.tasks import Task

KEPT: Final = (
    "key", "occurrence", "run", "position", "kind", "endpoint", "image_num", "request", "state", "account",
    "task_id", "attempts", "announced_time", "answered_time", "finished_time", "saved_time", "seed", "error",
    "paths", "result", "earlier", "token", "tag",
    "number", "host", "metadata",
)  # fmt: skip
"""Columns that the checksum is over. New ones come last; while they are NULL, the checksum is the old one."""
COLUMNS: Final = (*KEPT, "bought", "perhaps", "slot_time", "checksum")
FRESH: Final = ("serial", *KEPT[:9], "attempts", "tag", "metadata", "bought", "perhaps", "checksum")
"""Columns of a purchase to which nothing has happened; the others are NULL."""

_NOTHING: Final = (None,) * (KEPT.index("tag") - KEPT.index("announced_time"))
"""Columns between that tell what has happened."""
_KEY: Final = KEPT.index("key")
_REQUEST: Final = KEPT.index("request")
_ERROR: Final = KEPT.index("error")
_RESULT: Final = KEPT.index("result")
_PICTURES: Final = frozenset({"png", "jpeg", "jpg", "webp"})
_ADDRESS: Final = "://"
"""Part of the address of a file that is in no folder. Paths hold no two slashes in a row."""

Record = tuple[Any, ...]
"""The values of `COLUMNS`."""


@define(eq=False)
class Known:
    """A purchase as the file has it, with the record and what was read from it."""

    purchase: Purchase
    record: Record
    error: NovitaError | None = None
    """The error that the record's text stands for."""
    result: TaskResult | None = None
    """The result that the record's JSON stands for."""

    @classmethod
    def of(cls, purchase: Purchase, record: Record) -> "Known":
        """Take note that this record is what the file has of this purchase now."""
        return cls(purchase, record, purchase.error, purchase.result)


def entry_of(purchase: Purchase) -> JournalEntry:
    """The place of a purchase that a journal keeps."""
    if purchase.entry is None:
        raise ValueError(f"{purchase!r} is in no journal")
    return purchase.entry


# --- To records ---------------------------------------------------------------------------------------------


def record_of(purchase: Purchase, before: Known, now: float, *, summed: bool = True) -> Record:
    """Make the record of a purchase, taking over all that has not changed since `before`.

    Args:
        purchase: The purchase.
        before: The purchase as the store has it.
        now: The time, in unix seconds.
        summed: Whether the store keeps a checksum. Else the sum is 0.
    """
    entry, old = entry_of(purchase), before.record
    same_error, same_result = purchase.error is before.error, purchase.result is before.result
    present = _present(purchase)
    earlier = [_earlier(each) for each in purchase.attempts if each is not present and _counts(each, now)]
    kept = (
        old[_KEY],
        entry.occurrence,
        entry.run,
        entry.position,
        _text(entry.kind),
        _text(purchase.endpoint),
        purchase.images,
        entry.packed,
        purchase.state.value,
        _text(purchase.account if present is None else present.account),
        _text(purchase.task.task_id if purchase.task else None),
        purchase.attempt,
        None if present is None else float(present.announced_at),
        None if present is None else _real(present.answered_at),
        _real(purchase.finished_at),
        _real(purchase.saved_at),
        _seed(purchase.result),
        old[_ERROR] if same_error else error_text(purchase.error),
        _paths(purchase),
        old[_RESULT] if same_result else _result(purchase.result),
        _json(earlier) if earlier else None,
        _text(purchase.token),
        _text(entry.tag),
        None if present is None or present.number == purchase.attempt else present.number,
        _text(purchase.host),
        entry.metadata,
    )
    check = checksum(kept) if summed else 0
    return (*kept, purchase.bought, purchase.perhaps, _real(slot_time(purchase)), check)


def fresh_known(entry: JournalEntry, values: Record) -> Known:
    """Take note of a new row, from its values of `FRESH`."""
    purchase = Purchase(None, entry.endpoint, entry.images, entry.position, entry.tag, entry=entry)
    _, *told, attempts, tag, metadata, bought, perhaps, check = values
    kept = (*told, None, None, attempts, *_NOTHING, tag, None, None, metadata)
    return Known.of(purchase, (*kept, bought, perhaps, None, check))


def fresh_record(entry: JournalEntry) -> Record:
    """Make the values of `FRESH`: the same as a whole record, at half the cost."""
    told = (
        bytes.fromhex(entry.key),
        entry.occurrence,
        entry.run,
        entry.position,
        _text(entry.kind),
        _text(entry.endpoint),
        entry.images,
        entry.packed,
        PLANNED.value,
    )
    tag, metadata = _text(entry.tag), entry.metadata
    kept: Record = (*told, None, None, 0)
    if tag is not None or metadata is not None:
        kept += (*_NOTHING, tag, None, None, metadata)
    return (entry.serial, *told, 0, tag, metadata, 0, 0, checksum(kept))


def checksum(kept: Record) -> int:
    """Sum over all that is read back, up to the last column that is not NULL."""
    last = len(kept)
    while kept[last - 1] is None:
        last -= 1
    rest = repr((kept[:_REQUEST], kept[_REQUEST + 1 : last]))
    return zlib.crc32(kept[_REQUEST], zlib.crc32(rest.encode("ascii", "backslashreplace")))


def _present(purchase: Purchase) -> Attempt | None:
    """The attempt that has columns of its own: the one that stands for the state."""
    wanted = purchase.task.task_id if purchase.task else None
    for attempt in reversed(purchase.attempts):
        if wanted is not None:
            stands = attempt.task_id == wanted
        elif purchase.state is UNCERTAIN:
            stands = attempt.perhaps
        else:
            stands = attempt.answered_at is None or attempt.at_once
        if stands:
            return attempt
    return None


def _counts(attempt: Attempt, now: float) -> bool:
    """Whether an attempt still matters: in a window, or as money."""
    if attempt.bought or attempt.perhaps or attempt.answered_at is None:
        return True
    return attempt.answered_at + WINDOW > now


def slot_time(purchase: Purchase) -> float | None:
    """When the service may have seen an attempt last; no slot is held a minute later."""
    times = [
        each.announced_at if each.answered_at is None else each.answered_at for each in purchase.attempts
    ]
    return max(times) if times else None


def _earlier(attempt: Attempt) -> dict[str, Any]:
    told: dict[str, Any] = {
        "account": attempt.account,
        "announced_time": attempt.announced_at,
        "answered_time": attempt.answered_at,
        "task_id": attempt.task_id,
        "perhaps": attempt.perhaps,
    }
    if attempt.at_once:
        told["at_once"] = True
    if attempt.number:
        told["number"] = attempt.number
    return told


_json: Final = json.JSONEncoder(separators=(",", ":")).encode


def _text(value: str | None) -> str | None:
    """The text itself, of which an enum's member is more."""
    return value if value is None else str.__str__(value)


def _real(value: float | None) -> float | None:
    return value if value is None else float(value)


def _paths(purchase: Purchase) -> str | None:
    """Where the files are: paths, and addresses, which paths can never look like."""
    places = [*map(str, purchase.paths), *purchase.objects]
    return f"[{','.join(map(_json, places))}]" if places else None


def _seed(result: TaskResult | None) -> int | str | None:
    seed = None if result is None else result.seed
    return seed if seed is None or abs(seed) < 1 << 63 else str(seed)


def error_text(error: NovitaError | None) -> str | None:
    """Turn an error into the text that is kept of it."""
    if error is None:
        return None
    if isinstance(error, FailedEarlier):
        kind, text = error.kind, error.text
    else:
        kind, text = type(error).__name__, redacted(str(error)).encode("utf-8", "replace").decode()
    told = {"kind": kind, "text": text, "reason": error.reason, "retryable": helps_to_buy_again(error)}
    if isinstance(error, SubmissionUncertain):
        told["cause"] = redacted(error.cause).encode("utf-8", "replace").decode()
    return _json(told)


def _result(result: TaskResult | None) -> str | None:
    if result is None:
        return None
    kinds = ("images", result.images), ("videos", result.videos), ("audios", result.audios)
    files = [_file(artifact, kind) for kind, artifacts in kinds for artifact in artifacts]
    # Unix seconds by the service's clock, where it said so.
    timings = vars(result.timings)
    times = {name: ms / 1000 for name, each in _TIMES.items() if (ms := timings[each]) is not None}
    told: dict[str, Any] = {"files": files, "times": times}
    if result.task_type:
        told["task_type"] = result.task_type
    if result.cut:
        told["cut"] = redacted(result.cut)
    return _json(told)


def _usual_kind(file_type: str | None) -> str:
    return "images" if file_type in _PICTURES else "videos"


_TIMES: Final = {"submit_time": "submit_ms", "execute_time": "execute_ms", "complete_time": "complete_ms"}


def _file(artifact: Artifact, kind: str) -> dict[str, Any]:
    nsfw = artifact.nsfw if isinstance(artifact, GeneratedImage) else None
    told: dict[str, Any] = {
        "url": without_query(artifact.url),
        "type": artifact.type,
        "ttl": artifact.url_ttl,
    }
    if nsfw and nsfw.checked:
        told["nsfw"] = nsfw.confidence
    if artifact.file is not None:
        told["file"] = str(artifact.file)
    if artifact.lost is not None:
        told["lost"] = redacted(artifact.lost)
    if _usual_kind(artifact.type) != kind:
        told["kind"] = kind
    return told


# --- From records -------------------------------------------------------------------------------------------


def known_of(serial: int, record: Record) -> Known:
    """Read a purchase back."""
    (
        key, occurrence, run, position, kind, endpoint, images, request, state, account, task_id, attempt,
        announced, answered, finished, saved, seed, error, paths, result, earlier, token, tag, number, host,
        metadata, *_,
    ) = record  # fmt: skip
    entry = JournalEntry(
        key=key.hex(),
        position=position,
        kind=kind,
        endpoint=endpoint,
        images=images,
        request=request,
        tag=tag,
        metadata=metadata,
        occurrence=occurrence,
        serial=serial,
        run=run,
    )
    task = task_id and Task(task_id=task_id, account=account, endpoint=endpoint, image_num=images, host=host)
    places: list[str] = _parsed(paths) if paths else []
    purchase = Purchase(
        None,
        endpoint,
        images,
        position,
        tag,
        host=host,
        entry=entry,
        token=token,
        state=_STATES[state],
        account=account,
        task=task or None,
        attempt=attempt,
        paths=tuple([Path(place) for place in places if _ADDRESS not in place]),
        objects=tuple([place for place in places if _ADDRESS in place]),
        finished_at=finished,
        saved_at=saved,
    )
    purchase.attempts = tuple(_read_attempt(each) for each in _parsed(earlier)) if earlier else ()
    if announced is not None:
        present = _read_present(purchase, account or "", announced, answered, came=result is not None)
        purchase.attempts += (present,)
        purchase.attempts[-1].number = attempt if number is None else number
        if earlier:
            purchase.attempts = tuple(sorted(purchase.attempts, key=lambda each: each.announced_at))
    noted = _parsed(error) if error else None
    if noted:
        purchase.error = _read_error(noted, purchase)
    if result or seed is not None:
        facts: dict[str, Any] = _parsed(result) if result else {}
        purchase.result = _read_result(facts, None if seed is None else int(seed), purchase.task)
    if any(each.perhaps for each in purchase.attempts):
        purchase.doubt = _doubt(purchase, noted or {})
    return Known.of(purchase, record)


_STATES: Final = {state.value: state for state in State}
_json_in: Final = json.JSONDecoder().raw_decode


def _parsed(text: str) -> Any:
    """Read JSON that was written here, with nothing around it, at half the cost of `json.loads`."""
    return _json_in(text)[0]


def _read_present(
    purchase: Purchase, account: str, announced: float, answered: float | None, *, came: bool
) -> Attempt:
    state = purchase.state
    is_bought = came if state is FAILED else state not in (ANNOUNCED, UNCERTAIN)
    return Attempt(
        account,
        announced,
        announced if answered is None and state is not ANNOUNCED else answered,
        task_id=purchase.task.task_id if purchase.task else None,
        perhaps=state is UNCERTAIN,
        at_once=is_bought and purchase.task is None,
    )


def _read_attempt(told: Mapping[str, Any]) -> Attempt:
    return Attempt(
        told["account"],
        told["announced_time"],
        told["answered_time"],
        told["task_id"],
        told["perhaps"],
        told.get("at_once", False),
        told.get("number", 0),
    )


def _read_error(told: Mapping[str, Any], purchase: Purchase) -> FailedEarlier:
    return FailedEarlier(
        kind=told["kind"],
        text=told["text"],
        reason=told["reason"],
        retryable=told["retryable"],
        paid=purchase.bought > 0,
        task_id=purchase.task.task_id if purchase.task else None,
        account=purchase.account,
    )


def _doubt(purchase: Purchase, noted: Mapping[str, Any]) -> SubmissionUncertain:
    own = noted.get("kind") == SubmissionUncertain.__name__
    cause = noted.get("cause", noted["text"]) if own else "the answer to an earlier attempt was lost"
    return SubmissionUncertain(
        cause=cause, endpoint=purchase.endpoint, images=purchase.images, account=purchase.account
    )


def _read_result(told: Mapping[str, Any], seed: int | None, task: Task | None) -> TaskResult:
    """A result as far as a journal knows it: its URLs have no signatures."""
    files: dict[str, list[Any]] = {"images": [], "videos": [], "audios": []}
    for facts in told.get("files", ()):
        kind = facts.get("kind") or _usual_kind(facts.get("type"))
        files[kind].append(_read_file(facts, kind, task))
    return TaskResult(
        task=task,
        images=tuple(files["images"]),
        videos=tuple(files["videos"]),
        audios=tuple(files["audios"]),
        seed=seed,
        task_type=told.get("task_type"),
        cut=told.get("cut"),
        timings=Timings(**{_TIMES[name]: round(at * 1000, 3) for name, at in told.get("times", {}).items()}),
    )


def _read_file(told: Mapping[str, Any], kind: str, task: Task | None) -> Artifact:
    facts: dict[str, Any] = {
        "url": told.get("url") or "",
        "url_ttl": told.get("ttl"),
        "type": told.get("type"),
        "task": task,
        "file": Path(told["file"]) if "file" in told else None,
        "lost": told.get("lost"),
    }
    if kind != "images":
        return Artifact(**facts)
    nsfw = NsfwDetection(checked=True, confidence=told["nsfw"]) if "nsfw" in told else None
    return GeneratedImage(**facts, nsfw=nsfw)


# --- Between runs -------------------------------------------------------------------------------------------


def fresh(order: Order, occurrence: int, serial: int, run: int) -> Purchase:
    """Make the purchase of an order that a journal does not have."""
    entry = JournalEntry(
        key=order.key,
        position=order.position,
        kind=order.kind,
        endpoint=order.endpoint,
        images=order.images,
        request=order.request,
        tag=order.tag,
        metadata=order.metadata,
        occurrence=occurrence,
        serial=serial,
        run=run,
    )
    return Purchase(None, order.endpoint, order.images, order.position, order.tag, entry=entry)


_fields_of: Final = attrgetter(*[each.name for each in attrs.fields(Purchase)])


def copy_of(purchase: Purchase, offset: float = 0.0) -> Purchase:
    """A copy that moves on its own, its times shifted by so many seconds."""
    copied = Purchase(*_fields_of(purchase))
    shift(copied, offset)
    return copied


def shift(purchase: Purchase, offset: float) -> None:
    """Shift the times of a purchase by so many seconds, in attempts of its own."""
    purchase.attempts = tuple(
        Attempt(
            each.account,
            each.announced_at + offset,
            None if each.answered_at is None else each.answered_at + offset,
            each.task_id,
            each.perhaps,
            each.at_once,
            each.number,
        )
        for each in purchase.attempts
    )
    purchase.finished_at = None if purchase.finished_at is None else purchase.finished_at + offset
    purchase.saved_at = None if purchase.saved_at is None else purchase.saved_at + offset


def shifted(fact: Fact, offset: float) -> Fact:
    """The same fact, its time shifted by so many seconds. At a third of what `evolve` costs."""
    make = cast("Callable[..., Fact]", type(fact))
    fields = _FIELDS_OF.get(make)
    if fields is None:
        return make(fact.at + offset)
    at, *rest = fields(fact)
    return make(at + offset, *rest)


_FIELDS_OF: Final[Mapping[Callable[..., Fact], Callable[[Fact], tuple[Any, ...]]]] = {
    kind: attrgetter(*names)
    for _, kind in TRANSITIONS
    if len(names := [each.name for each in attrs.fields(kind)]) > 1
}
"""Getters of all fields, for facts that have more of them than their time, which is the first."""


def asked_again(purchase: Purchase, order: Order, run: int) -> None:
    """Let another run ask for the same content; where it was sent before, endpoint and images stay."""
    entry = entry_of(purchase)
    if not purchase.attempts:
        purchase.endpoint, purchase.images = order.endpoint, order.images
        entry = attrs.evolve(entry, endpoint=order.endpoint, images=order.images)
    purchase.position, purchase.tag = order.position, order.tag
    purchase.entry = attrs.evolve(
        entry,
        run=run,
        position=order.position,
        request=entry.packed if entry.request == order.request else order.request,
        tag=order.tag,
        metadata=order.metadata,
    )


_words_of: Final = attrgetter(*[each.name for each in attrs.fields(Order)])


def asks_the_same(entry: JournalEntry, order: Order) -> bool:
    """Whether an order says exactly what the journal has, its place included."""
    return bool(_words_of(entry) == _words_of(order))


PERHAPS_UNDER_WAY: Final = (ANNOUNCED, SUBMITTED, SUCCEEDED, FAILED, SAVED)
"""States of purchases that may have an attempt under way."""


def left_behind(purchase: Purchase, now: float) -> Lost | None:
    """The fact of an attempt that a dead process has left under way. None: no attempt is under way."""
    if under_way_in(purchase) is None:
        return None
    return Lost(
        now, SubmissionUncertain(cause=LEFT_BEHIND, endpoint=purchase.endpoint, images=purchase.images)
    )
