"""A batch's rows as the report's script reads them, and what is known once all have gone by.

An entry is one line of JSON: a file where it is first mentioned, or a row. Rows name files by their number.
Values that are None are left out. Requests are made fit for being passed on: pictures become names, and
secrets are cut out, though a journal should hold none of them.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, cast
from urllib.parse import urlsplit

import attrs
from attrs import Factory, define, field

from novita_async._journal.rows import entry_of
from novita_async._purchase.journal import Summary, summed, tally_of
from novita_async._purchase.machine import Attempt, Purchase, State, helps_to_buy_again
from novita_async.cli._report_files import Picture, ReportFiles, elsewhere
from novita_async.cli._report_timeline import Happenings
from novita_async.cli._terminal import visible
from novita_async.errors import FailedEarlier, NovitaError, redacted
from novita_async.models.results import GeneratedImage, Timings

_PICTURE: Final = "$picture"
_WITHHELD: Final = "$withheld"
_MAIN: Final = ("image_base64", "image", "image_file", "init_image")
"""Fields that hold the picture which is changed; other pictures guide."""
_DIGITS: Final = 12

_redacted: Final = lru_cache(1024)(redacted)
"""Most texts of a batch are those of many rows."""

Entry = dict[str, Any]


@define(eq=False)
class Gathering:
    """Sums after the rows seen so far."""

    found: ReportFiles
    """Where files are looked for."""
    ledger: Summary = Factory(lambda: summed(()))
    """The sums."""
    happened: Happenings = field(factory=Happenings)
    """The times."""
    failures: Counter[tuple[str, bool]] = field(factory=Counter[tuple[str, bool]])
    """How often which reason ended a request, and whether buying again can help."""
    _inputs: dict[tuple[str, str | None], int] = field(factory=dict[tuple[str, str | None], int])
    _pictures: int = 0

    def take(self, row: Purchase) -> Iterator[Entry]:
        """Take note of a row. Returns the entries that tell it."""
        self.ledger = _sum(self.ledger, summed((tally_of(row),)))
        attempts = [(attempt.announced_at, attempt.answered_at) for attempt in row.attempts]
        self.happened.note(row.state, row.images, attempts, row.finished_at)
        if row.state is State.FAILED and row.error:
            self.failures[cause(row.error), helps_to_buy_again(row.error)] += 1
        return self.tell(row)

    def tell(self, row: Purchase) -> Iterator[Entry]:
        """The entries that tell one row: its files where they are new, then itself."""
        wire = _readable(entry_of(row).request)
        inputs: list[tuple[str, int]] = []
        outputs: list[int] = []
        for label, digest, path in _pictures_in(wire):
            if (digest, path) not in self._inputs:  # a sweep sends one picture often
                yield _file(self.found.input(digest, path))
                self._inputs[digest, path] = self._numbered()
            inputs.append((label, self._inputs[digest, path]))
        for file in row.paths:
            yield _file(self.found.output(str(file)))
            outputs.append(self._numbered())
        for address in row.objects:
            yield _file(elsewhere(address))
            outputs.append(self._numbered())
        yield _told(row, wire) | {"inputs": inputs, "outputs": outputs}

    def _numbered(self) -> int:
        self._pictures += 1
        return self._pictures - 1


def _sum(one: Summary, other: Summary) -> Summary:
    return Summary(
        rows={state: one.rows[state] + other.rows[state] for state in State},
        images={state: one.images[state] + other.images[state] for state in State},
        bought=one.bought + other.bought,
        perhaps=one.perhaps + other.perhaps,
    )


def cause(error: NovitaError) -> str:
    """An error in a word or two."""
    kind = error.kind if isinstance(error, FailedEarlier) else type(error).__name__
    return f"{kind} {error.reason}" if error.reason else kind


# --- One row ------------------------------------------------------------------------------------------------


def _told(row: Purchase, wire: Entry) -> Entry:
    """All of a row but its files."""
    inner = wire.get("request")  # where some endpoints want the fields
    body = cast("Entry", inner) if isinstance(inner, dict) else wire
    return _without_none(
        {
            "serial": entry_of(row).serial,
            "no": row.position + 1,
            "id": None if row.tag is None else visible(redacted(row.tag)),
            "metadata": discreet(dict(row.metadata), _picture_words) or None,
            "state": row.state,
            "endpoint": row.endpoint,
            "model": _word(body, "model_name", "model"),
            "prompt": _word(body, "prompt"),
            "request": discreet(wire, _picture_words),
            "images": row.images,
            "seed": body.get("seed") if row.result is None or row.result.seed is None else row.result.seed,
            "task": row.task and row.task.task_id,
            "account": row.account,
            "attempts": row.attempt,
            "tries": [_attempt(attempt) for attempt in row.attempts] or None,
            "sent": row.attempts[-1].announced_at if row.attempts else None,
            "finished": row.finished_at,
            "spans": spans(row) or None,
            "nsfw": _nsfw(row) or None,
            "error": _error(row.error) if row.error else None,
        }
    )


def _without_none(values: Mapping[str, Any]) -> Entry:
    return {name: value for name, value in values.items() if value is not None}


def _file(picture: Picture) -> Entry:
    """A file, with a name that can be shown."""
    shown = attrs.evolve(picture, name=visible(picture.name), lack=visible(picture.lack))
    return _without_none(attrs.asdict(shown))


def _attempt(attempt: Attempt) -> Entry:
    return _without_none(
        {
            "account": attempt.account,
            "announced_time": attempt.announced_at,
            "answered_time": attempt.answered_at,
            "task_id": attempt.task_id,
            "perhaps": attempt.perhaps or attempt.answered_at is None,
        }
    )


def _error(error: NovitaError) -> Entry:
    told = error if isinstance(error, FailedEarlier) else None
    return {
        "kind": told.kind if told else type(error).__name__,
        "text": visible(reason_first(told.text if told else str(error))),
        "reason": error.reason,
        "retryable": helps_to_buy_again(error),
    }


_SUBJECT: Final = re.compile(
    r"(?P<about>task \S+ |download of \S+ |submission of .*? )(?:failed|has no known end): (?P<why>.+)"
    r"|no answer (?P<question>about task \S+): (?P<silence>.+)",
    re.DOTALL,
)


def reason_first(text: str) -> str:
    """An error's text with the reason before the ids: in a narrow place the end is what is cut off."""
    found = _SUBJECT.fullmatch(text)
    if found is None:
        return text
    why, about = found["why"] or f"no answer: {found['silence']}", found["about"] or found["question"]
    return f"{why} ({about.strip()})"


def _word(body: Entry, *names: str) -> str | None:
    found = (body.get(name) for name in names)
    return next((_redacted(value) for value in found if isinstance(value, str)), None)


def spans(row: Purchase) -> dict[str, float]:
    """How long a row took, in seconds, as far as is known.

    Returns:
        `queued` and `worked` by the service's clock; by ours, `saved` from the end seen to whole files, and
        `whole` from being sent to the end of it all.
    """
    timings = row.result.timings if row.result else Timings()
    submitted, begun, done = (ms and ms / 1000 for ms in attrs.astuple(timings))
    announced_at = row.attempts[-1].announced_at if row.attempts else None
    known = {
        "queued": (submitted, begun),
        "worked": (begun, done),
        "saved": (row.finished_at, row.saved_at),
        "whole": (announced_at, row.saved_at or row.finished_at),
    }
    return {
        name: round(max(0.0, end - begin), 3)
        for name, (begin, end) in known.items()
        if isinstance(begin, int | float) and isinstance(end, int | float)
    }


def _nsfw(row: Purchase) -> list[float | None]:
    """List the findings of the check, file by file. Empty: none was checked."""
    artifacts = row.result.artifacts if row.result else ()
    checks = [each.nsfw if isinstance(each, GeneratedImage) else None for each in artifacts]
    found = [check.confidence if check else None for check in checks]
    return found if any(each is not None for each in found) else []


# --- Its request --------------------------------------------------------------------------------------------


def _readable(text: str) -> Entry:
    """A row's request. A page with a gap tells more than no page."""
    try:
        wire = json.loads(text, parse_constant=lambda _: None)
    except ValueError:
        return {}
    return cast("Entry", wire) if isinstance(wire, dict) else {}


def _pictures_in(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, str, str | None]]:
    """Every picture of a request: its place in words, its digest, and its path."""
    if isinstance(value, list):
        for number, item in enumerate(cast("list[object]", value)):
            yield from _pictures_in(item, (*place, str(number + 1)))
    elif isinstance(value, dict):
        named = cast("Entry", value)
        if _PICTURE in named:
            yield _label(place), str(named[_PICTURE]), named.get("path")
        else:
            for name in sorted(named, key=lambda name: (name not in _MAIN, name)):
                yield from _pictures_in(named[name], (*place, name))


def _label(place: tuple[str, ...]) -> str:
    """`input` for the picture that is changed, else where it stands: `controlnet 1`."""
    steps = [step for step in place if step not in ("request", "units", *_MAIN)]
    return " ".join(steps).replace("_", " ").replace(" base64", "") or "input"


def discreet(value: Any, told: Callable[[Entry], Any]) -> Any:
    """A request to be read by people: pictures as they are to be told, secrets cut out."""
    if isinstance(value, list):
        return [discreet(item, told) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        named = cast("Entry", value)
        if _PICTURE in named:
            return told(named)
        if _WITHHELD in named:
            return "(not kept in the journal)"
        return {
            name: _callback(item) if name == "webhook" else discreet(item, told)
            for name, item in named.items()
        }
    return _redacted(value) if isinstance(value, str) else value


def _picture_words(picture: Entry) -> str:
    digest = f"sha256:{str(picture[_PICTURE])[:_DIGITS]}…"
    return f"{redacted(str(picture['path']))} ({digest})" if "path" in picture else f"picture {digest}"


def _callback(webhook: Any) -> Any:
    """A webhook without the path of its URL: whoever knows that path can pretend to be the service."""
    if not isinstance(webhook, dict):
        return discreet(webhook, _picture_words)
    named = cast("Entry", webhook)
    return {
        name: _host(str(item)) if name == "url" else discreet(item, _picture_words)
        for name, item in named.items()
    }


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "…"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"
