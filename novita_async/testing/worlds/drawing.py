"""Plans from seeds: which world a number means."""

import random
from typing import Any, Final

from attrs import evolve

from novita_async.models.routes import ROUTES
from novita_async.testing.worlds import troubles
from novita_async.testing.worlds.plan import (
    MARKS,
    ClientPlan,
    Moment,
    Plan,
    ProcessPlan,
    ServicePlan,
    Trouble,
    UserPlan,
)

_RATES: Final = (0.05, 0.15, 0.3, 0.6)
_WIRE: Final = (*troubles.SUBMITS, *troubles.POLLS)


def plan_of(seed: int) -> Plan:
    """Draw a world."""
    dice = random.Random(f"world {seed}")
    entrance: Any = "bytes" if dice.random() < BYTES else "transport"
    outage = entrance == "transport" and dice.random() < 0.03
    client = _client(dice, random.Random(f"polls {seed}"))
    if outage:
        return _routed(_outage(seed, dice, client))
    plan = Plan(
        seed=seed,
        entrance=entrance,
        service=_service(dice, client),
        client=client,
        processes=_processes(dice, random.Random(f"order {seed}")),
        troubles=_troubles(dice, client, entrance),
    )
    return _routed(_doubled(plan))


DOUBLED: Final = 0.02
"""Share of worlds in which much is bought twice; the others are as they were without these."""
_LOST: Final = ("reset after", "stall", "slow", "cut")


def _doubled(plan: Plan) -> Plan:
    """The same world, where answers are lost, what is lost is bought again, and events tell of the first."""
    dice = random.Random(f"doubled {plan.seed}")
    if dice.random() >= DOUBLED:
        return plan
    kind = dice.choice(_LOST)
    others = (each for each in plan.troubles if each.kind != kind)
    lost = Trouble(kind=kind, rate=dice.choice((0.3, 0.6)))
    client = evolve(plan.client, webhooks=True, resubmits=True)
    return evolve(plan, client=client, troubles=(*others, lost))


ROUTED: Final = 0.3
"""Share of worlds in which users ask for more than one route; the others are as they were without these."""
_ROWS: Final = tuple(row.name for row in ROUTES)
_AT_ONCE: Final = tuple(row.name for row in ROUTES if row.answer == "at_once")


def _routed(plan: Plan) -> Plan:
    """The same world, whose users perhaps ask for other routes; drawn last, and by dice of its own."""
    dice = random.Random(f"routes {plan.seed}")
    if dice.random() >= ROUTED:
        return plan
    names = dict.fromkeys(user.name for process in plan.processes for user in process.users)
    rows = {
        name: tuple(
            dice.choice(dice.choice((("txt2img",), _ROWS, _AT_ONCE))) for _ in range(dice.choice((1, 2, 3)))
        )
        for name in names
    }
    processes = tuple(
        evolve(process, users=tuple(_asking(user, rows[user.name]) for user in process.users))
        for process in plan.processes
    )
    return evolve(plan, processes=processes)


def _asking(user: UserPlan, rows: tuple[str, ...]) -> UserPlan:
    """A user of these rows; who wants tasks stays with routes that have some."""
    return evolve(user, routes=rows) if user.kind in ("run", "stream", "batch") else user


BYTES: Final = 0.15
"""Share of worlds with the second entrance."""


def _client(dice: random.Random, polls: random.Random) -> ClientPlan:
    return ClientPlan(
        accounts=dice.choice((1, 1, 1, 2)),
        images_per_minute=dice.choice((None, None, None, 2, 3, 5)),
        polling=dice.choice(("exponential",) * 4 + ("fixed", "fixed", "learned")),
        polls_per_second=dice.choice((20.0, 20.0, 2.0)),
        polls_at_once=polls.choice((16, 16, 16, 1, 3)),
        resubmits=dice.random() < 0.12,
        budget=dice.choice((None,) * 5 + (2, 4)),
        drain=dice.choice((5.0, 5.0, 5.0, 1.0, 0.0)),
        session=dice.random() < 0.4,
        webhooks=dice.random() < 0.15,
        learned=dice.random() < 0.04,
    )


def _service(dice: random.Random, client: ClientPlan) -> ServicePlan:
    quota = client.images_per_minute if dice.random() < 0.5 else None
    return ServicePlan(
        quota=quota if client.images_per_minute else dice.choice((None, None, None, None, 3)),
        workers=dice.choice((1, 4, 16)),
        seconds=dice.choice((0.25, 1.0, 1.0, 8.0)),
        latency=dice.choice((1 / 64, 1 / 16, 1 / 16, 0.5)),
        visible_after=dice.choice((0.0,) * 6 + (1.0, 3.0)),
        failure_rate=dice.choice((0.0, 0.0, 0.0, 0.0, 0.3)),
        failure_as_error=dice.random() < 0.2,
        envelope=dice.random() < 0.1,
        balance=dice.choice((None,) * 9 + (2,)),
        retired_at=dice.choice((None,) * 15 + (0.0, 0.5)),
        url_ttl=dice.choice((3600, 3600, 3600, 5)),
    )


def _troubles(dice: random.Random, client: ClientPlan, entrance: str) -> tuple[Trouble, ...]:
    count = dice.choice((0, 1, 1, 1, 2, 3))
    kinds: list[str] = []
    for _ in range(count):
        group = dice.choice(
            (_WIRE, _WIRE, _WIRE, troubles.FILES, troubles.DISKS, troubles.CLOCKS, _webhook(client))
        )
        kinds.append(dice.choice(troubles.WIRES if entrance == "bytes" and dice.random() < 0.7 else group))
    return tuple(_trouble(dice, kind) for kind in dict.fromkeys(kinds))


def _webhook(client: ClientPlan) -> tuple[str, ...]:
    return troubles.WEBHOOKS if client.webhooks else _WIRE


def _trouble(dice: random.Random, kind: str) -> Trouble:
    place = troubles.KINDS[kind]
    if kind in ("disk full", "folder read-only"):
        return Trouble(
            kind=kind, at=dice.choice((0.0, 0.25, 1.0, 3.0)), length=dice.choice((1.0, 10.0, 1000.0))
        )
    if kind == "fsync fails":
        return Trouble(kind=kind, rate=dice.choice((0.02, 0.1)), length=1e9)
    if place == "clock":
        return Trouble(
            kind=kind, at=dice.choice((0.5, 2.0, 10.0)), length=dice.choice((30.0, 3600.0, 28800.0))
        )
    return Trouble(kind=kind, rate=dice.choice(_RATES))


def _outage(seed: int, dice: random.Random, client: ClientPlan) -> Plan:
    """A world in which the service is away for a while, and enough is asked of it meanwhile."""
    kind = dice.choice(tuple(troubles.OUTAGES))
    length = dice.choice((8.0, 60.0, 60.0, 600.0))
    in_flight = dice.choice((1, 2, 3))
    user = UserPlan(
        kind=dice.choice(("stream", "batch")), name="u1", requests=dice.choice((16, 24)), in_flight=in_flight
    )
    return Plan(
        seed=seed,
        service=ServicePlan(workers=16, seconds=0.25, latency=1 / 16),
        client=ClientPlan(accounts=client.accounts, polling="exponential", webhooks=client.webhooks),
        processes=(ProcessPlan(users=(user,)),),
        troubles=(Trouble(kind=kind, at=dice.choice((0.0, 0.5, 2.0)), length=length),),
    )


# --- Processes and users ------------------------------------------------------------------------------------


def _processes(dice: random.Random, order: random.Random) -> tuple[ProcessPlan, ...]:
    users = tuple(_user(dice, f"u{number + 1}") for number in range(dice.choice((1, 1, 1, 2, 3))))
    together: Any = dice.choice(
        ("gather", "gather", "group", "anyio", "main", "main", "left", "loops", "threads")
    )
    ending: Any = dice.choice(("",) * 6 + ("crash", "crash", "power", "sigterm", "sigterm"))
    first = ProcessPlan(
        users=users,
        together=together,
        ending=ending,
        ends=_moment(dice) if ending else None,
        leaves=_moment(dice),
    )
    processes = [first]
    batches = tuple(user for user in users if user.kind == "batch")
    if batches and (ending or dice.random() < 0.4):
        if dice.random() < 0.25:
            again: Any = dice.choice(("", "crash", "power"))
            processes.append(ProcessPlan(users=batches, ending=again, ends=_moment(dice) if again else None))
        processes.append(ProcessPlan(users=tuple(_calm(user, order) for user in batches)))
    return tuple(processes)


def _calm(user: UserPlan, order: random.Random) -> UserPlan:
    """The same work, by somebody who sees it through."""
    return UserPlan(
        kind=user.kind,
        name=user.name,
        requests=user.requests,
        images=user.images,
        in_flight=user.in_flight,
        save=user.save,
        names="plain" if user.names == "raises" else user.names,
        raises="body" if user.raises == "body" else "",
        raises_at=user.raises_at,
        backwards=order.random() < 0.3,
        resubmits=user.resubmits,
        retries_failed=user.retries_failed,
    )


def _moment(dice: random.Random) -> Moment:
    mark = dice.choice(MARKS)
    number: Any = (
        dice.choice((0.0, 0.25, 1.0, 2.5, 20.0)) if mark == "time" else dice.choice((1, 1, 2, 3, 5, 8, 12))
    )
    return Moment(mark, number, dice.choice((0, 0, 1, 2, 3, 5, 8)))


def _user(dice: random.Random, name: str) -> UserPlan:
    kind: Any = dice.choice(
        ("run", "submit", "stream", "stream", "stream", "batch", "batch", "batch", "watch", "poll")
    )
    requests = dice.choice((1, 2, 3, 3, 5)) if kind in ("stream", "batch") else dice.choice((1, 2, 3))
    many = kind in ("stream", "batch")
    save = kind in ("stream", "batch", "watch") and dice.random() < 0.4
    stopped = _moment(dice) if dice.random() < 0.25 else None
    options: dict[str, Any] = {}
    if save and many:
        options["names"] = dice.choice(("plain", "plain", "template", "function", "raises", "long", "odd"))
    if many or kind == "watch":
        options["impatient"] = dice.choice(("", "", "", "timeout", "scope", "task"))
        options["pause"] = dice.choice((0.0, 0.0, 0.0, 0.5, 10.0))
        options["leaves_after"] = dice.choice((None,) * 7 + (1, 2))
    if many:
        options["raises"] = dice.choice(("",) * 8 + ("input", "body", "consumer"))
    if kind == "stream":
        options["watches"] = dice.choice((0, 0, 0, 2, 4))
    if kind in ("run", "submit", "poll"):
        options["pause"] = dice.choice((0.0, 0.25, 1.0))
    if kind in ("run", "submit", "watch"):
        options["timeout"] = dice.choice((None, None, 0.0, 0.5, 5.0))
    if kind == "batch":
        options["resubmits"] = dice.random() < 0.15
        options["retries_failed"] = dice.random() < 0.15
    return UserPlan(
        kind=kind,
        name=name,
        requests=requests,
        images=dice.choice((1, 1, 1, 2)),
        in_flight=dice.choice((1, 2, 2, 4)),
        priority=dice.choice(("batch", "batch", "interactive")),
        save=save,
        raises_at=dice.choice((0, 1, 1, 2)),
        stopped=stopped,
        stop=dice.choice(("asyncio", "asyncio", "anyio", "timeout")),
        **options,
    )
