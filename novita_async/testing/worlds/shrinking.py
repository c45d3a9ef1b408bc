"""The smallest world that still fails: fewest kinds of trouble, users, requests, moods.

A plan is made smaller one step at a time, and a step is kept where the same invariant still does not hold.
"""

from collections.abc import Callable, Iterator
from typing import Any

from attrs import asdict, evolve

from novita_async.testing.worlds.plan import ClientPlan, Plan, ProcessPlan, ServicePlan, UserPlan

Fails = Callable[[Plan], bool]


def shrink(plan: Plan, fails: Fails, *, most: int = 2000) -> Plan:
    """Make a plan smaller for as long as it fails.

    Args:
        plan: What fails.
        fails: Tells whether a plan fails in the same way.
        most: How many worlds may be run.
    """
    tried = 0
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(plan):
            tried += 1
            if tried > most:
                return plan
            if fails(candidate):
                plan, smaller = candidate, True
                break
    return plan


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Everything that is one step smaller, the largest steps first."""
    yield from _without(plan, "processes", least=1)
    yield from _without(plan, "troubles")
    for place, process in enumerate(plan.processes):
        for other in _smaller_processes(process):
            yield _alike(_with(plan, "processes", place, other), other)
    yield from _plainer(plan, "client", ClientPlan())
    yield from _plainer(plan, "service", ServicePlan())


def _alike(plan: Plan, changed: ProcessPlan) -> Plan:
    """Let users of one name ask for the same: it is the same work, taken up again."""
    same: dict[str, dict[str, Any]] = {
        user.name: {"images": user.images, "save": user.save, "routes": user.routes} for user in changed.users
    }
    processes = [
        evolve(process, users=tuple(evolve(user, **same.get(user.name, {})) for user in process.users))
        for process in plan.processes
    ]
    return evolve(plan, processes=tuple(processes))


def _without(thing: Any, name: str, *, least: int = 0) -> Iterator[Any]:
    values = getattr(thing, name)
    if len(values) > least:
        for place in range(len(values)):
            yield evolve(thing, **{name: values[:place] + values[place + 1 :]})


def _with(thing: Any, name: str, place: int, value: object) -> Any:
    values = getattr(thing, name)
    return evolve(thing, **{name: (*values[:place], value, *values[place + 1 :])})


def _smaller_processes(process: ProcessPlan) -> Iterator[ProcessPlan]:
    yield from _without(process, "users", least=1)
    if process.ending:
        yield evolve(process, ending="", ends=None)
    if process.together != "gather":
        yield evolve(process, together="gather", leaves=None)
    elif process.leaves is not None:
        yield evolve(process, leaves=None)
    if process.ends is not None and process.ends.turns:
        yield evolve(process, ends=evolve(process.ends, turns=0))
    for place, user in enumerate(process.users):
        for other in _smaller_users(user):
            yield _with(process, "users", place, other)


def _smaller_users(user: UserPlan) -> Iterator[UserPlan]:
    for count in (1, user.requests // 2, user.requests - 1):
        if 0 < count < user.requests:
            yield evolve(user, requests=count)
    for count in (0, user.watches - 1):
        if 0 <= count < user.watches:
            yield evolve(user, watches=count)
    yield from _without(user, "routes")
    plain = UserPlan(kind=user.kind, name=user.name, in_flight=1)
    for name in _MOODS:
        if getattr(user, name) != getattr(plain, name):
            yield evolve(user, **{name: getattr(plain, name)})
    if user.stopped is not None and user.stopped.turns:
        yield evolve(user, stopped=evolve(user.stopped, turns=0))


_MOODS = (
    "save", "names", "pause", "impatient", "leaves_after", "raises", "stopped", "resubmits", "retries_failed",
    "images", "in_flight", "priority", "timeout", "stop", "raises_at", "backwards",
)  # fmt: skip


def _plainer(plan: Plan, name: str, plain: ClientPlan | ServicePlan) -> Iterator[Plan]:
    """With one setting as it usually is."""
    settings = getattr(plan, name)
    for each in asdict(plain):
        if getattr(settings, each) != getattr(plain, each):
            yield evolve(plan, **{name: evolve(settings, **{each: getattr(plain, each)})})
