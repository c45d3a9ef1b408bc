"""Plans of worlds, as values: everything that happens in a world follows from its plan.

A plan is drawn from a seed (`drawing`), may be written by hand, and can be made smaller (`shrinking`). Chance
within a world comes from the seed and from the names of what it decides, so that taking a user or a trouble
away leaves the fate of the others as it was.
"""

from collections.abc import Iterator
from typing import Any, Final, Literal, cast

from attrs import field, has

from novita_async._util.values import frozen

Mark = Literal["post", "handover", "answer", "poll", "commit", "file", "event", "finished", "take", "time"]
"""Units that count the moments of a process: POSTs that begin, their last bytes, their answers, polls,
writes of the journal, steps of the file system, events told to observers, ends among them, outcomes taken,
seconds."""

MARKS: Final[tuple[Mark, ...]] = (
    "post", "handover", "answer", "poll", "commit", "file", "event", "finished", "take", "time",
)  # fmt: skip
"""All of them."""


@frozen
class Moment:
    """So many turns of the loop after the n-th thing of a kind; for `time`, after so many seconds."""

    mark: Mark
    """Unit that is counted."""
    number: float
    """Which of them, from 1; or seconds."""
    turns: int = 0
    """Turns of the loop that still pass."""


Place = Literal["wire", "service", "disk", "clock", "host", "webhook"]


@frozen(kw_only=True)
class Trouble:
    """A kind of trouble, and how much of it there is."""

    kind: str
    """Its name in `troubles.KINDS`."""
    rate: float = 0.0
    """Share of what it may hit."""
    at: float = 0.0
    """Seconds at which it begins, where it has a beginning."""
    length: float = 0.0
    """Seconds that it lasts."""


UserKind = Literal["run", "submit", "stream", "batch", "watch", "poll"]
Stop = Literal["asyncio", "anyio", "timeout"]
"""How somebody is cancelled: `Task.cancel`, a cancel scope, `asyncio.timeout`."""


@frozen(kw_only=True)
class UserPlan:
    """A user of a client: what is asked for, and how the user behaves."""

    kind: UserKind
    """Which method is called."""
    name: str
    """Tells users apart; the same name in another process is the same work, taken up again."""
    requests: int = 3
    """How many requests."""
    images: int = 1
    """Images of each."""
    in_flight: int = 2
    """For streams and batches."""
    priority: Literal["interactive", "batch"] = "batch"
    """Rank of its requests among all."""
    timeout: float | None = None
    """Seconds for `run`, `wait` and `watch`."""
    save: bool = False
    """Whether result files are saved."""
    routes: tuple[str, ...] = ()
    """Rows of the table of routes that requests go to in turn; empty, and `txt2img`: that of all others."""
    names: Literal["plain", "template", "function", "raises", "long", "odd"] = "plain"
    """Kind of its `save_as`."""
    pause: float = 0.0
    """Seconds that the consumer takes for each outcome, or that pass between single calls."""
    impatient: Literal["", "timeout", "scope", "task"] = ""
    """How `anext` is broken off, again and again: by `asyncio.timeout`, by a scope, as a task."""
    leaves_after: int | None = None
    """Outcomes after which the block is left."""
    raises: Literal["", "input", "body", "consumer"] = ""
    """Where the user's own code fails."""
    raises_at: int = 1
    """Which request or outcome it fails at."""
    watches: int = 0
    """Tasks that are bought first and then handed to the stream, or watched."""
    stopped: Moment | None = None
    """When the user is cancelled."""
    stop: Stop = "asyncio"
    """How."""
    backwards: bool = False
    """Whether the input is given in the other order."""
    resubmits: bool = False
    """Whether the batch may buy again what is uncertain."""
    retries_failed: bool = False
    """Whether the batch may buy again what failed."""


Ending = Literal["", "crash", "power", "sigterm"]


@frozen(kw_only=True)
class ProcessPlan:
    """A process: a client, its users, and how they run."""

    users: tuple[UserPlan, ...]
    """Users of its client."""
    together: Literal["gather", "group", "anyio", "main", "left", "loops", "threads"] = "gather"
    """In `asyncio.gather`, in a task group, one after the other in the main task, as tasks that the main task
    leaves behind, in one event loop after the other, in two at once."""
    ending: Ending = ""
    """Event that ends it early."""
    ends: Moment | None = None
    """When that happens."""
    leaves: Moment | None = None
    """When the main task returns, whatever its users still do. For `left`."""


@frozen(kw_only=True)
class ServicePlan:
    """Properties of the service."""

    quota: int | None = None
    """Images a minute of each account."""
    workers: int = 4
    """Tasks that are worked on at once."""
    seconds: float = 1.0
    """How long a task takes, roughly."""
    latency: float = 0.0625
    """Seconds each way."""
    visible_after: float = 0.0
    """How far replicas lag."""
    failure_rate: float = 0.0
    """Share of tasks that fail."""
    failure_as_error: bool = False
    """How that is told."""
    envelope: bool = False
    """Whether ids come in an envelope."""
    balance: int | None = None
    """Images that each account can pay. None: enough."""
    retired_at: float | None = None
    """When the route is gone. None: never."""
    url_ttl: int = 3600
    """Seconds that a result's URL lives."""


@frozen(kw_only=True)
class ClientPlan:
    """How the client of each process is made."""

    accounts: int = 1
    """How many keys."""
    images_per_minute: int | None = None
    """The quota that the client is told."""
    polling: Literal["learned", "fixed", "exponential"] = "exponential"
    """How it polls."""
    polls_per_second: float = 20.0
    """At most."""
    polls_at_once: int = 16
    """Polls that are under way at most."""
    resubmits: bool = False
    """Whether the retry policy buys uncertain purchases again."""
    budget: int | None = None
    """Images that may be paid."""
    drain: float = 5.0
    """Seconds for which a cancelled purchase is waited for."""
    session: bool = False
    """Whether it has an aiohttp session of the user's."""
    webhooks: bool = False
    """Whether it has a webhook URL."""
    learned: bool = False
    """Whether it keeps what it learned in a file."""


@frozen(kw_only=True)
class Plan:
    """A whole world."""

    seed: int
    """Source of all chance within it."""
    entrance: Literal["transport", "bytes"] = "transport"
    """Whether the wire is a `Transport`, or a stream of bytes under aiohttp."""
    service: ServicePlan = field(factory=ServicePlan)
    """The service."""
    client: ClientPlan = field(factory=ClientPlan)
    """Every process's client."""
    processes: tuple[ProcessPlan, ...] = ()
    """Processes, one after the other."""
    troubles: tuple[Trouble, ...] = ()
    """Troubles that it has."""

    def trouble(self, kind: str) -> Trouble | None:
        """Find a kind of trouble. None: there is none of it."""
        return next((each for each in self.troubles if each.kind == kind), None)

    @property
    def size(self) -> int:
        """How much there is in it: what shrinking makes smaller."""
        users = sum(
            4 + user.requests + user.watches + sum(map(bool, _moods(user)))
            for process in self.processes
            for user in process.users
        )
        endings = sum(3 + 2 * bool(process.ending) for process in self.processes)
        return users + endings + 5 * len(self.troubles)


def _moods(user: UserPlan) -> tuple[object, ...]:
    return (
        user.save, user.names != "plain", user.pause, user.impatient, user.leaves_after, user.raises,
        user.stopped, user.resubmits, user.backwards, user.retries_failed, user.in_flight > 1,
        user.images > 1, user.routes,
    )  # fmt: skip


def code(value: object) -> str:
    """Write a plan, or a part of one, as Python: what is as usual is left out."""
    if isinstance(value, tuple):
        parts = [code(each) for each in cast("tuple[object, ...]", value)]
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
    if not has(type(value)):
        return repr(value)
    told = [f"{name}={code(each)}" for name, each in _unusual(value)]
    return f"{type(value).__name__}({', '.join(told)})"


def _unusual(value: Any) -> Iterator[tuple[str, object]]:
    for attribute in value.__attrs_attrs__:
        each, usual = getattr(value, attribute.name), attribute.default
        fresh = getattr(usual, "factory", None)
        if each != (usual if fresh is None else fresh()):
            yield attribute.name, each
