"""Every kind of trouble, and what it does to one exchange.

`Fate` says what becomes of an exchange. Which fate an exchange has is decided by the names of what it is
about, so the same request meets the same trouble whatever else goes on.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Literal

from novita_async._util.values import frozen
from novita_async.testing.worlds.dice import fraction, pick
from novita_async.testing.worlds.plan import Place, Plan, Trouble

End = Literal["answer", "not sent", "silence", "cut"]

HTML: Final = b"<!doctype html><html><body><h1>502 Bad Gateway</h1></body></html>"
_ERROR: Final = b'{"code": %d, "reason": "%s", "message": "simulated", "metadata": {}}'
TIMEOUT: Final = 120.0
"""Seconds after which a transport gives an answer up."""


@frozen(kw_only=True)
class Fate:
    """Fate of an exchange."""

    kind: str = ""
    """The trouble that it has. Empty: none."""
    end: End = "answer"
    """End of it, as its sender sees it."""
    acted: bool = True
    """Whether the service acts upon it."""
    after: float = 0.0
    """Seconds that the answer takes longer."""
    status: int | None = None
    """The status that is answered instead of the service's."""
    body: bytes | None = None
    """The body that is answered instead of the service's."""
    headers: Mapping[str, str] = {}
    """Headers that are added."""
    change: Callable[[bytes, "Fate"], bytes] | None = None
    """Change of the service's own answer."""
    early: bool = False
    """Whether the answer comes while the request still goes out."""
    page: bool = False
    """Whether somebody else than the service answers."""


WELL: Final = Fate()


def _page(status: int, *, acted: bool = False, kind: str = "page") -> Fate:
    return Fate(
        kind=kind, acted=acted, status=status, body=HTML, headers={"content-type": "text/html"}, page=True
    )


def _json(status: int, reason: str, *, kind: str, acted: bool = False, hint: str | None = None) -> Fate:
    headers = {} if hint is None else {"retry-after": hint}
    return Fate(
        kind=kind, acted=acted, status=status, body=_ERROR % (status, reason.encode()), headers=headers
    )


# --- Odd answers that hold an id --------------------------------------------------------------------------


_ODD_FIELDS: Final = (
    b"NaN",
    b"Infinity",
    b'"\\ud83d"',
    b'"\xff\xfe"',
    b'"caf\xe9"',
    b"1e999",
    b"null",
    b"[[[]]]",
)
_ODD_NOES: Final = (
    b"",
    b"{}",
    b"[]",
    b"null",
    b'{"task_id": null}',
    b'{"task_id": ""}',
    b'{"task_id": {}}',
    HTML,
)
_HINTS: Final = ("0", "1", "2.5", "-3", "soon", "1e3", "Thu, 01 Jan 2015 00:00:00 GMT", "3")
_STATUSES_OF_PAGES: Final = (502, 503, 504, 500, 520)


Name = tuple[object, ...]


def _with_odd_field(kind: str, name: Name) -> Fate:
    text = pick(_ODD_FIELDS, *name)
    return Fate(kind=kind, change=lambda body, _: body[:-1] + b', "extra_of_the_service": ' + text + b"}")


_DRAWN: Final[Mapping[str, Callable[[Name], Fate]]] = {
    "page": lambda name: _page(pick(_STATUSES_OF_PAGES, *name)),
    "page acted": lambda name: _page(pick(_STATUSES_OF_PAGES, *name), acted=True, kind="page acted"),
    "limited": lambda name: _json(
        429, "RATE_LIMIT_EXCEEDED", kind="limited", hint=pick((None, None, *_HINTS), *name)
    ),
    "odd yes": partial(_with_odd_field, "odd yes"),
    "odd no": lambda name: Fate(kind="odd no", acted=False, status=200, body=pick(_ODD_NOES, *name)),
    "slow": lambda name: Fate(kind="slow", after=pick((0.5, 3.0, 30.0, 200.0), *name)),
}
"""Troubles of submissions that have several forms."""


_SUBMIT: Final[Mapping[str, Fate]] = {
    "refuse": Fate(kind="refuse", end="not sent", acted=False),
    "reset before": Fate(kind="reset before", end="not sent", acted=False),
    "reset during": Fate(kind="reset during", end="not sent", acted=False),
    "reset after": Fate(kind="reset after", end="silence"),
    "reset unacted": Fate(kind="reset unacted", end="silence", acted=False),
    "stall": Fate(kind="stall", end="silence", after=TIMEOUT),
    "stall unacted": Fate(kind="stall unacted", end="silence", acted=False, after=TIMEOUT),
    "cut": Fate(kind="cut", end="cut"),
    "broken": _json(500, "UNKNOWN", kind="broken", acted=True),
    "no task": _json(500, "CREATE_TASK_FAILED", kind="no task"),
    "busy": _json(503, "SERVICE_NOT_AVAILABLE", kind="busy"),
    "page 404": _page(404, kind="page 404"),
    "page 403": _page(403, kind="page 403"),
    "early": Fate(kind="early", acted=False, status=413, body=HTML, early=True, page=True),
}
SUBMITS: Final = (*_SUBMIT, *_DRAWN)


# --- Polls ------------------------------------------------------------------------------------------------

_POLL: Final[Mapping[str, Fate]] = {
    "poll refused": Fate(kind="poll refused", end="not sent"),
    "poll lost": Fate(kind="poll lost", end="silence"),
    "poll stalls": Fate(kind="poll stalls", end="silence", after=TIMEOUT),
    "poll cut": Fate(kind="poll cut", end="cut"),
    "no such task": _json(404, "TASK_NOT_FOUND", kind="no such task"),
    "poll 404": _page(404, kind="poll 404"),
    "poll 403": _page(403, kind="poll 403"),
    "poll 400": _page(400, kind="poll 400"),
    "poll 401": _json(401, "", kind="poll 401"),
    "poll broken": _json(500, "GET_RESULT_FAILED", kind="poll broken"),
}


def _emptied(body: bytes, _: Fate) -> bytes:
    """Take the pictures out of a success that has some."""
    start = body.find(b'"images":[')
    end = body.find(b'],"videos"', start)
    return body if start < 0 or end < 0 else body[: start + 10] + body[end:]


_POLL_GARBAGE: Final = (*_ODD_NOES, b'{"task": {}}', b'{"task": {"status": null}}')
_POLL_DRAWN: Final[Mapping[str, Callable[[Name], Fate]]] = {
    "poll page": lambda name: _page(pick(_STATUSES_OF_PAGES, *name), kind="poll page"),
    "poll limited": lambda name: _json(
        429, "RATE_LIMIT_EXCEEDED", kind="poll limited", hint=pick((None, *_HINTS), *name)
    ),
    "poll odd": partial(_with_odd_field, "poll odd"),
    "poll garbage": lambda name: Fate(kind="poll garbage", status=200, body=pick(_POLL_GARBAGE, *name)),
    "no pictures yet": lambda _: Fate(kind="no pictures yet", change=_emptied),
    "answer of another": lambda _: Fate(kind="answer of another"),
}
POLLS: Final = (*_POLL, *_POLL_DRAWN)
_ONCE: Final = frozenset({"no such task", "poll 404", "poll 403", "poll 400", "poll 401"})
"""Answers that would be believed if they were repeated."""
_POLLS_AT_ANY_TIME: Final = tuple(kind for kind in POLLS if kind not in _ONCE)


# --- Files ------------------------------------------------------------------------------------------------

_FILE: Final[Mapping[str, Fate]] = {
    "file refused": Fate(kind="file refused", end="not sent"),
    "file stalls": Fate(kind="file stalls", end="silence", after=60.0),
    "file cut": Fate(kind="file cut", end="cut"),
    "file gone": Fate(kind="file gone", status=404, body=b"<Error><Code>NoSuchKey</Code></Error>"),
    "file expired": Fate(kind="file expired", status=403, body=b"<Error><Code>AccessDenied</Code></Error>"),
    "file broken": Fate(kind="file broken", status=503, body=HTML),
    "file page": Fate(kind="file page", status=200, body=HTML),
    "file of another kind": Fate(kind="file of another kind", status=200, body=b"\xff\xd8\xff\xe0 a jpeg"),
    "file slow": Fate(kind="file slow", after=20.0),
}
FILES: Final = tuple(_FILE)

OUTAGES: Final[Mapping[str, Callable[[], Fate]]] = {
    "outage of pages": lambda: _page(503, kind="outage of pages"),
    "outage of refusals": lambda: Fate(kind="outage of refusals", end="not sent", acted=False),
    "outage of silence": lambda: Fate(kind="outage of silence", end="silence", acted=False),
    "outage of limits": lambda: _json(429, "RATE_LIMIT_EXCEEDED", kind="outage of limits"),
}
WEBHOOKS: Final = ("event lost", "event late", "event doubled", "event forged")
DISKS: Final = ("disk full", "fsync fails", "folder read-only")
CLOCKS: Final = ("wall clock jumps", "laptop sleeps")
WIRES: Final = (
    "one answer too many",
    "junk behind an answer",
    "odd headers",
    "another's answer late",
    "chopped",
)
"""Troubles that only a connection can have."""

KINDS: Final[Mapping[str, Place]] = {
    **dict.fromkeys((*SUBMITS, *POLLS, *OUTAGES, *WIRES), "wire"),
    **dict.fromkeys(FILES, "host"),
    **dict.fromkeys(WEBHOOKS, "webhook"),
    **dict.fromkeys(DISKS, "disk"),
    **dict.fromkeys(CLOCKS, "clock"),
}
"""Every kind, and where it strikes."""


# --- Deciding ---------------------------------------------------------------------------------------------


def _hit(plan: Plan, kinds: tuple[str, ...], name: tuple[object, ...]) -> str:
    """Which trouble hits an exchange of this name. Empty: none."""
    for trouble in plan.troubles:
        if trouble.rate and trouble.kind in kinds and fraction(plan.seed, trouble.kind, *name) < trouble.rate:
            return trouble.kind
    return ""


def _is_on(trouble: Trouble, now: float) -> bool:
    return trouble.at <= now < trouble.at + trouble.length


def outage(plan: Plan, now: float) -> Fate | None:
    """The fate of everything while nobody is at home."""
    for trouble in plan.troubles:
        if trouble.kind in OUTAGES and _is_on(trouble, now):
            return OUTAGES[trouble.kind]()
    return None


def of_submission(plan: Plan, number: int, attempt: int, now: float) -> Fate:
    """The fate of one submission."""
    down = outage(plan, now)
    if down is not None:
        return down
    name = ("submit", number, attempt)
    kind = _hit(plan, SUBMITS, name)
    if not kind:
        return WELL
    return _SUBMIT.get(kind) or _DRAWN[kind]((plan.seed, *name))


def of_poll(plan: Plan, number: int, attempt: int, now: float) -> Fate:
    """The fate of one poll. Words that would be believed when repeated come once, then not for a while."""
    down = outage(plan, now)
    if down is not None:
        return down
    kinds = POLLS if attempt % 4 == 0 else _POLLS_AT_ANY_TIME
    name = ("poll", number, attempt)
    kind = _hit(plan, kinds, name)
    if not kind:
        return WELL
    return _POLL.get(kind) or _POLL_DRAWN[kind]((plan.seed, *name))


def of_file(plan: Plan, number: int, attempt: int) -> Fate:
    """The fate of one download."""
    kind = _hit(plan, FILES, ("file", number, attempt))
    return _FILE[kind] if kind else WELL


def of_event(plan: Plan, number: int, attempt: int) -> str:
    """Choose the trouble of a webhook event."""
    return _hit(plan, WEBHOOKS, ("event", number, attempt))


def is_on(plan: Plan, kind: str, now: float) -> bool:
    """Whether a trouble with a beginning and an end is there now."""
    trouble = plan.trouble(kind)
    return trouble is not None and _is_on(trouble, now)
