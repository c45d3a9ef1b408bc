"""Faults on the wire, as values, and plans of when they happen.

| fault              | the request                   | the answer             | acted upon |
|--------------------|-------------------------------|------------------------|------------|
| `refuse`           | never arrives                 | none: connection cut   | no         |
| `reset_before`     | cut before its body           | none: connection reset | no         |
| `reset_during`     | cut after `at` bytes of body  | none: connection reset | no         |
| `reset_after`      | arrives whole                 | none: connection reset | if `acted` |
| `stall`            | arrives whole                 | none, and no reset     | if `acted` |
| `truncate`         | arrives whole                 | cut after `at` bytes   | yes        |
| `garbage`          | arrives whole                 | 200, but `body`        | yes        |
| `answer`           | arrives whole                 | `status` with `body`   | if `acted` |
| `slow`             | arrives whole                 | `seconds` later        | yes        |
| `lose_webhook`     |                               | the event is not sent  |            |
| `duplicate_webhook`|                               | the event is sent twice|            |

"Acted upon" means that a submission was accepted, and billed, whatever its sender learns of it.
"""

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Final, Self

from attrs import field, validators

from novita_async._util.values import frozen
from novita_async.testing._dice import fraction, whole
from novita_async.testing.wire import JSON_TYPE, Reply, error_reply


class ExchangeKind(StrEnum):
    """Subjects of exchanges."""

    SUBMIT = "submit"
    POLL = "poll"
    DOWNLOAD = "download"
    WEBHOOK = "webhook"
    OTHER = "other"


class FaultKind(StrEnum):
    """Kinds of trouble."""

    REFUSE = "refuse"
    RESET_BEFORE = "reset_before"
    RESET_DURING = "reset_during"
    RESET_AFTER = "reset_after"
    STALL = "stall"
    TRUNCATE = "truncate"
    GARBAGE = "garbage"
    ANSWER = "answer"
    SLOW = "slow"
    LOSE_WEBHOOK = "lose_webhook"
    DUPLICATE_WEBHOOK = "duplicate_webhook"


BEFORE_THE_WHOLE: Final = frozenset({FaultKind.REFUSE, FaultKind.RESET_BEFORE, FaultKind.RESET_DURING})
"""Faults after which there was no whole request."""

_HTML: Final = b"<!doctype html><html><body><h1>It works!</h1></body></html>"
_REASONS: Final = {429: "RATE_LIMIT_EXCEEDED", 503: "SERVICE_NOT_AVAILABLE"}


@frozen(kw_only=True)
class Fault:
    """Trouble with an exchange. Made by its class methods.

    Args:
        kind: Kinds of trouble.
        acted: Whether the service acts upon the request all the same.
        at: Bytes after which it breaks off: of the request's body, or of the answer's.
        seconds: How much later the answer comes.
        reply: Answer that is given instead.
    """

    kind: FaultKind
    """Kinds of trouble."""
    acted: bool = False
    """Whether the service acts upon the request all the same."""
    at: int = 0
    """Bytes after which it breaks off: of the request's body, or of the answer's."""
    seconds: float = 0.0
    """How much later the answer comes."""
    reply: Reply | None = None
    """Answer that is given instead."""

    @property
    def whole_request(self) -> bool:
        """Whether the request arrives whole."""
        return self.kind not in BEFORE_THE_WHOLE

    @classmethod
    def refuse(cls) -> Self:
        """Refuse the connection."""
        return cls(kind=FaultKind.REFUSE)

    @classmethod
    def reset_before(cls) -> Self:
        """The connection is reset before the body."""
        return cls(kind=FaultKind.RESET_BEFORE)

    @classmethod
    def reset_during(cls, at: int = 1) -> Self:
        """The connection is reset after `at` bytes of the request's body."""
        return cls(kind=FaultKind.RESET_DURING, at=at)

    @classmethod
    def reset_after(cls, *, acted: bool = True) -> Self:
        """The connection is reset after the whole request, instead of an answer."""
        return cls(kind=FaultKind.RESET_AFTER, acted=acted)

    @classmethod
    def stall(cls, *, acted: bool = True) -> Self:
        """Hold the answer back for ever."""
        return cls(kind=FaultKind.STALL, acted=acted)

    @classmethod
    def truncate(cls, at: int = 1) -> Self:
        """The answer ends after `at` bytes of its body."""
        return cls(kind=FaultKind.TRUNCATE, acted=True, at=at)

    @classmethod
    def garbage(cls, body: bytes = _HTML) -> Self:
        """The answer is 200 and cannot be understood."""
        return cls(kind=FaultKind.GARBAGE, acted=True, reply=Reply(body=body, content_type="text/html"))

    @classmethod
    def answer(
        cls,
        status: int,
        body: bytes | None = None,
        *,
        retry_after: str | int | None = None,
        content_type: str = JSON_TYPE,
        acted: bool = False,
    ) -> Self:
        """Another status is answered.

        Without a `body` it is the API's error body for this status. `retry_after` is the header's value, in
        seconds or as an HTTP date. With `acted` the request is acted upon all the same, as behind a proxy
        that lost patience.
        """
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        standard = error_reply(status, _REASONS.get(status, "UNKNOWN"), "simulated fault", headers=headers)
        given = Reply(status=status, body=body or b"", content_type=content_type, headers=headers)
        return cls(kind=FaultKind.ANSWER, acted=acted, reply=standard if body is None else given)

    @classmethod
    def slow(cls, seconds: float) -> Self:
        """The answer takes so many seconds longer."""
        return cls(kind=FaultKind.SLOW, acted=True, seconds=seconds)

    @classmethod
    def lose_webhook(cls) -> Self:
        """The event is never sent."""
        return cls(kind=FaultKind.LOSE_WEBHOOK)

    @classmethod
    def duplicate_webhook(cls) -> Self:
        """The event is sent twice."""
        return cls(kind=FaultKind.DUPLICATE_WEBHOOK)


def _to_kinds(value: str | Iterable[str]) -> frozenset[ExchangeKind]:
    return frozenset(map(ExchangeKind, (value,) if isinstance(value, str) else value))


def _to_numbers(value: int | Collection[int] | None) -> Collection[int] | None:
    return (value,) if isinstance(value, int) else value


@frozen(kw_only=True)
class FaultRule:
    """Exchanges that a fault hits.

    Args:
        fault: Kinds of trouble.
        on: Kinds of exchange: `submit`, `poll`, `download`, `webhook`, `other`; one, or several.
        numbers: Which of its kind, counted from 1; a `range` will do. None: any.
        chance: Share of these exchanges that are hit.
    """

    fault: Fault
    """Kinds of trouble."""
    on: frozenset[ExchangeKind] = field(default=frozenset({ExchangeKind.SUBMIT}), converter=_to_kinds)
    """Kinds of exchange: `submit`, `poll`, `download`, `webhook`, `other`; one, or several."""
    numbers: Collection[int] | None = field(default=None, converter=_to_numbers)
    """Which of its kind, counted from 1; a `range` will do. None: any."""
    chance: float = field(default=1.0, validator=[validators.ge(0), validators.le(1)])
    """Share of these exchanges that are hit."""

    def hits(self, kind: ExchangeKind, number: int, dice: float) -> bool:
        """Whether this exchange is hit; `dice` is a number between 0 and 1 that belongs to it."""
        return kind in self.on and (self.numbers is None or number in self.numbers) and dice < self.chance


@frozen(kw_only=True)
class FaultPlan:
    """Rules, of which the first that hits counts. The same seed hits the same exchanges.

    Args:
        rules: In order of precedence.
        seed: Source of the chances.
    """

    rules: tuple[FaultRule, ...] = ()
    """In order of precedence."""
    seed: int = 0
    """Source of the chances."""

    @classmethod
    def of(cls, *rules: FaultRule, seed: int = 0) -> Self:
        """Make a plan of rules."""
        return cls(rules=rules, seed=seed)

    @classmethod
    def listed(cls, on: str | Iterable[str], faults: Mapping[int, Fault]) -> Self:
        """Make a plan that hits exchanges by number: `FaultPlan.listed("poll", {1: Fault.stall()})`."""
        return cls(rules=tuple(FaultRule(fault=f, on=on, numbers=n) for n, f in faults.items()))

    @classmethod
    def chaos(cls, rate: float, *, seed: int = 0) -> Self:
        """Make a plan that hits this share of all exchanges, of whatever kind, in all sorts of ways."""
        web, wire = (Fault.lose_webhook(), Fault.duplicate_webhook()), _chaotic_exchanges()
        rules = [FaultRule(fault=f, on=_ANY, chance=c) for f, c in _shared(wire, rate)]
        rules += [FaultRule(fault=f, on={"webhook"}, chance=c) for f, c in _shared(web, rate)]
        return cls(rules=tuple(rules), seed=seed)

    def fault_for(self, kind: ExchangeKind, number: int) -> Fault | None:
        """The fault of the n-th exchange of its kind, counted from 1."""
        for i, rule in enumerate(self.rules):
            if rule.hits(kind, number, fraction(self.seed, "fault", i, kind.value, number)):
                return rule.fault
        return None


_ANY: Final = frozenset(ExchangeKind) - {ExchangeKind.WEBHOOK}


def _chaotic_exchanges() -> tuple[Fault, ...]:
    return (
        Fault.refuse(),
        Fault.reset_before(),
        Fault.reset_during(1 + whole(20_000, "chaos")),
        Fault.reset_after(acted=False),
        Fault.reset_after(),
        Fault.stall(),
        Fault.truncate(10),
        Fault.garbage(),
        Fault.answer(429, retry_after=2),
        Fault.answer(429),
        Fault.answer(502, b"<html>bad gateway</html>", content_type="text/html"),
        Fault.answer(503),
        Fault.slow(3.0),
    )


def _shared(faults: tuple[Fault, ...], rate: float) -> list[tuple[Fault, float]]:
    """Spread a rate evenly over faults of which the first that hits counts."""
    each = rate / len(faults)
    return [(fault, each / (1 - i * each)) for i, fault in enumerate(faults)]
