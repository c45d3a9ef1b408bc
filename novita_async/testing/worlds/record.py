"""Record of a world, as it happens: the trace, the map of what was reached, the facts for `checks`."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal

from attrs import define, field

from novita_async import Outcome
from novita_async._util.values import frozen

Reach = Literal["on its way", "not sent", "refused", "accepted", "unknown"]
"""Fate of a POST, as far as its sender can know it."""

_LONGEST: Final = 160


@define(eq=False)
class Post:
    """A POST, as the wire saw it."""

    number: int
    """Which request: its seed."""
    process: str
    user: str
    began_at: float
    began_in: int
    """Which turn of its process it began in."""
    handed_at: float | None = None
    """When its last byte went out."""
    reach: Reach = "on its way"
    """Fate of it, as far as its sender can know."""
    told: str = ""
    """The task id that the sender was told."""
    due_at: float | None = None
    """When its answer comes, where a clean one will."""
    answered_at: float | None = None
    """When it came, whatever it was."""
    cut_at: float | None = None
    """When its sender stopped waiting for it."""
    page: bool = False
    """Whether somebody else than the service answered."""
    status: int | None = None
    """Status of its answer, whole or broken off. None: none began."""


@frozen
class Stopped:
    """A cancellation that is due."""

    process: str
    user: str
    """Empty: all of them."""
    at: float
    turn: int
    """Of the process."""


@frozen(kw_only=True)
class Came:
    """An outcome that a user has taken, or what a single call came to."""

    user: str
    process: str
    number: int | None
    """Which request. None: a task that was only watched."""
    kind: str
    """`Succeeded` and the like."""
    task_id: str | None
    makers: tuple[str, ...] = ()
    """Tasks that made the files, as the files say themselves; empty for one that is not here."""
    error: BaseException | None = None
    outcome: Outcome | None = None
    single: bool = False
    """Whether it is that of a single call."""


@define(eq=False)
class UserVisit:
    """Use of a stream, a batch or a watch by a user."""

    user: str
    process: str
    kind: str
    in_flight: int = 0
    began_at: float = 0.0
    """When its user began."""
    asked: list[int] = field(factory=list[int])
    """Requests that were taken from the input."""
    watched: list[str] = field(factory=list[str])
    """Tasks that were handed in."""
    taken: int = 0
    """Outcomes that the consumer has."""
    delivered: set[int] = field(factory=set[int])
    """Requests whose outcome the consumer has."""
    most_open: int = 0
    """The most requests between input and consumer."""
    over: bool = False
    """Whether it said that nothing more comes."""
    error: BaseException | None = None
    """Error that ended it early."""
    ended_at: float | None = None
    """When its user was through with it."""
    handle: Any = None
    """Object that the client gave."""
    unfinished: frozenset[str] = frozenset()
    """Ids that it still knows of when its process has ended."""


@define(eq=False)
class WorldRecord:
    """Everything that is known of a world when it has ended."""

    lines: list[tuple[float, str, str]] = field(factory=list[tuple[float, str, str]])
    reached: Counter[str] = field(factory=Counter[str])
    """The map: how often each thing was reached."""
    posts: list[Post] = field(factory=list[Post])
    came: list[Came] = field(factory=list[Came])
    visits: list[UserVisit] = field(factory=list[UserVisit])
    stops: list["Stopped"] = field(factory=list["Stopped"])
    """Cancellations that were due."""
    crashed: dict[str, float] = field(factory=dict[str, float])
    """Processes that were stopped dead, and when."""
    kept: dict[str, set[str]] = field(factory=dict[str, set[str]])
    """By process: ids that its client still knows of."""
    unreported: set[int | None] = field(factory=set[int | None])
    """Requests whose results clients have and nobody else."""
    kept_files: set[Path] = field(factory=set[Path])
    """Files that came in answers and that clients still know of."""
    doubts: Counter[str] = field(factory=Counter[str])
    """By process: purchases of unknown end that its client still knows of."""
    rows: dict[str, list[dict[str, Any]]] = field(factory=dict[str, list[dict[str, Any]]])
    """By journal: what its rows say."""
    left_running: list[tuple[str, str]] = field(factory=list[tuple[str, str]])
    """Tasks of the client that still ran when their process had ended in order."""
    weights: dict[str, int] = field(factory=dict[str, int])
    """By process: how much its client holds."""
    texts: list[str] = field(factory=list[str])
    """Texts that left the client: events, errors."""
    broken: list[tuple[str, str, str]] = field(factory=list[tuple[str, str, str]])
    """Violations that were seen on the way: invariant, about what, how."""

    def say(self, now: float, who: str, what: str) -> None:
        """Add a line to the trace."""
        self.lines.append((now, who, what))

    def violate(self, invariant: str, about: str, how: str) -> None:
        """Note a violation."""
        self.broken.append((invariant, about, how))

    def trace(self) -> str:
        """Write down who did what when."""
        return "".join(f"{now:12.4f}  {who:<10} {what}\n" for now, who, what in self.lines)


def shown(value: object) -> str:
    """Show a value in a line of a trace."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def listed(values: Iterable[object]) -> str:
    """Show a few values."""
    return ", ".join(map(str, values))
