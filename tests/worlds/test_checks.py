"""Every invariant of a world tells when it does not hold: here the world itself is tampered with."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from attrs import evolve

from novita_async import (
    BudgetExhausted,
    DownloadFailed,
    PermissionDenied,
    SubmissionUncertain,
    TaskNotFound,
)
from novita_async.testing.worlds import (
    INVARIANTS,
    ClientPlan,
    Moment,
    Plan,
    ProcessPlan,
    ServicePlan,
    Trouble,
    UserPlan,
    checks,
    run,
    seams,
)
from novita_async.testing.worlds.record import Came, Stopped
from novita_async.testing.worlds.service import key_of
from novita_async.testing.worlds.users import User, UserError
from novita_async.testing.worlds.world import World


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop():
    """Let files be touched: what a thread would do is done between the turns of a world's loops."""


def plan(kind="batch", **parts):
    user = UserPlan(kind=kind, name="u1", save=kind != "run", watches=parts.pop("watches", 0))
    return Plan(seed=1, processes=(ProcessPlan(users=(user,)),), **parts)


def found_after(tamper, of=None):
    """What does not hold of a world that was tampered with before it was checked."""
    world = World(of or plan(), Path(tempfile.mkdtemp(prefix="world-")))
    try:
        with seams.installed(world):
            world.run()
            checks.read_journals(world)
            assert not world.record.broken
            tamper(world)
            checks.check(world)
        return world.report().invariants
    finally:
        world.dispose()
        shutil.rmtree(world.root)


def failure(world, error, **facts):
    came = world.record.came[0]
    world.record.came[0] = evolve(came, **{"kind": "Failed", "error": error, "outcome": None} | facts)


def buy_again(world):
    world.service.ledger.entries.append(world.service.ledger.entries[0])


def another(world):
    return next(came.number for came in world.record.came if came.number != world.record.came[0].number)


def swap(world):
    world.record.came.append(evolve(world.record.came[0], number=another(world)))


def forget(world):
    world.record.came.clear()
    world.record.kept.clear()
    world.record.rows.clear()


def at_once(world):
    entries = world.service.ledger.entries
    entries[:] = [evolve(entry, at=1.0) for entry in entries]


def run_out(world):
    error = BudgetExhausted(limit="9", spent="9", cost="1")
    world.record.visits[0].error = error


def wrong_pictures(world):
    world.record.came[0] = evolve(world.record.came[0], makers=("other",))


def no_pictures(world):
    world.record.came[0] = evolve(world.record.came[0], makers=())


def all_doubted(world):
    error = SubmissionUncertain(cause="planted", endpoint="/v3/async/txt2img")
    world.record.came += [
        Came(user="u1", process="p0", number=None, kind="Uncertain", task_id=None, error=error)
        for _ in range(30)
    ]


def doubted(world):
    error = SubmissionUncertain(cause="planted", endpoint="/v3/async/txt2img")
    world.record.came.append(
        Came(user="u1", process="p0", number=1000, kind="Uncertain", task_id=None, error=error)
    )


def cut(world):
    post = world.record.posts[0]
    post.number, post.cut_at, post.due_at = -1, 1.0, 1.1  # nobody knows a task of it


def terminated(world):
    world.processes[0].terminated_at = 1.0


def scribbled(world):
    world.record.came[0].outcome.paths[0].write_bytes(b"scribbled")


def replaced_for(seconds):
    """Let the host have given another file for so long."""

    def tamper(world):
        (artifact,) = world.record.came[0].outcome.result.artifacts
        world.service.replaced[urlsplit(artifact.url).path] = [1.0, 1.0 + seconds]
        scribbled(world)

    return tamper


def told_of_another(world):
    world.service.strange_failures[world.record.came[0].task_id] = 1
    failure(world, TaskNotFound())


def told_so_twice(world):
    world.service.failed_by_others.add(world.record.came[0].task_id)
    failure(world, TaskNotFound())


def missing(world):
    world.record.came[0].outcome.paths[0].unlink()


def unnamed(world):
    came = world.record.came[0]
    world.record.came[0] = evolve(came, outcome=evolve(came.outcome, paths=()))


def row(**changes):
    return lambda world: world.record.rows["u1.db"][0].update(changes)


def visit(**changes):
    def tamper(world):
        for name, value in changes.items():
            setattr(world.record.visits[0], name, value)

    return tamper


def part(world):
    (world.disk.home / "out-u1" / ".x.part").write_bytes(b"x")


def page(world):
    failure(world, PermissionDenied(), task_id=None)
    for post in world.record.posts:
        post.page = True


def refused_in_doubt(world):
    failure(world, PermissionDenied(), task_id=None)
    post = next(each for each in world.record.posts if each.number == world.record.came[0].number)
    post.reach = "unknown"


def says(text):
    return lambda world: world.record.texts.append(text)


def key_in_a_file(world):
    (world.disk.home / "out-u1" / "notes.txt").write_text(key_of(0))


TAMPERING = [
    ("bought once", buy_again, None),
    ("nothing lost", forget, None),
    ("ids kept", forget, None),
    ("window kept", at_once, plan(client=ClientPlan(images_per_minute=2), service=ServicePlan(seconds=0.25))),
    ("budget kept", buy_again, plan(client=ClientPlan(budget=3))),
    ("budget used", run_out, plan(client=ClientPlan(budget=9))),
    ("true failures", lambda w: failure(w, TaskNotFound()), None),
    ("true failures", told_of_another, None),
    ("ends seen", lambda w: failure(w, TaskNotFound(), kind="Unfinished"), None),
    ("true successes", wrong_pictures, None),
    ("true successes", no_pictures, None),
    ("own tasks", lambda w: failure(w, TaskNotFound(), number=another(w)), None),
    ("true successes", swap, None),
    ("true doubts", doubted, None),
    ("doubts told", refused_in_doubt, None),
    (
        "few doubts",
        all_doubted,
        plan(troubles=(Trouble(kind="outage of refusals", at=90_000.0, length=1.0),)),
    ),
    ("one outcome", lambda w: w.record.came.append(w.record.came[0]), None),
    ("one outcome", lambda w: w.record.came.pop(), None),
    ("watched come out", lambda w: w.record.visits[0].watched.append("x"), None),
    (
        "watched come out",
        lambda w: w.record.came.append(next(c for c in w.record.came if c.number is None)),
        plan("stream", watches=1),
    ),
    ("bound kept", visit(most_open=99), None),
    ("paid comes out", lambda w: (visit(error=UserError("in the input"))(w), w.record.came.pop()), None),
    ("ends for a reason", visit(error=PermissionDenied()), None),
    ("pages not believed", page, None),
    ("pictures saved", lambda w: failure(w, DownloadFailed(url="http://x", cause="planted")), None),
    ("nothing sent late", lambda w: w.record.stops.append(Stopped("p0", "u1", 0.0, -99)), None),
    ("drained", cut, None),
    ("terminates", terminated, None),
    ("files whole", scribbled, None),
    ("files whole", replaced_for(30.0), None),
    ("files whole", missing, None),
    ("files whole", unnamed, None),
    ("rows true", row(task_id="nobody's"), None),
    ("rows true", row(whole=False), None),
    ("rows true", row(request='"picture 1001"'), None),
    ("rows true", row(state="failed"), None),
    ("rows true", row(state="planned"), None),
    ("rows true", row(state="announced"), None),
    ("rows true", missing, None),
    ("tidy folders", part, None),
    ("secrets kept", says(key_of(0)), None),
    ("secrets kept", says("http://x/y.png?X-Amz-Signature=1"), None),
    ("secrets kept", key_in_a_file, None),
    ("nothing runs on", lambda w: w.record.left_running.append(("p0", "x")), None),
]


@pytest.mark.parametrize(
    ("invariant", "tamper", "of"), TAMPERING, ids=[f"{n}-{t[0]}" for n, t in enumerate(TAMPERING)]
)
def test_this_is_noticed(invariant, tamper, of):
    assert invariant in found_after(tamper, of)


def test_every_invariant_is_tampered_with():
    assert {invariant for invariant, _, _ in TAMPERING} == INVARIANTS.keys()


def test_a_world_that_nobody_tampers_with_holds():
    assert found_after(lambda _: None) == frozenset()


@pytest.mark.parametrize("tamper", [replaced_for(61.0), told_so_twice], ids=["a file", "a failure"])
def test_what_is_told_again_and_again_may_be_believed(tamper):
    assert found_after(tamper) == frozenset()


# --- What is seen on the way ------------------------------------------------------------------------------


LEFT = []


async def _wait_for_nothing(_):
    await asyncio.Event().wait()


async def _sleep_for_ever(_):
    await asyncio.sleep(1e9)


async def _turn_in_circles(_):
    while True:
        await asyncio.sleep(0)


async def _fail(_):
    raise ValueError("a fault of the client's")


async def _leave_something_running(_):
    LEFT.append(asyncio.ensure_future(asyncio.sleep(5)))


async def _raise_in_a_callback(_):
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(1)


@pytest.mark.parametrize(
    ("work", "invariant", "words"),
    [
        (_wait_for_nothing, "ends", "nothing can happen any more"),
        (_sleep_for_ever, "ends", "goes on after"),
        (_turn_in_circles, "ends", "runs in circles"),
        (_fail, "no stray errors", "a fault of the client's"),
        (_raise_in_a_callback, "no stray errors", "ZeroDivisionError"),
        (_leave_something_running, "nothing runs on", "sleep"),
    ],
)
def test_what_goes_wrong_on_the_way_is_noticed(monkeypatch, work, invariant, words):
    monkeypatch.setattr(User, "_work", work)
    (violation,) = run(plan("run")).violations
    LEFT.clear()
    assert violation.invariant == invariant
    assert words in violation.how


def test_a_failed_task_may_be_called_failed():
    failing = plan("run", service=ServicePlan(failure_rate=1.0))
    report = run(failing)
    assert not report.violations
    assert report.reached["outcome: Failed"] == 3


def test_a_crash_excuses_what_only_the_dead_knew():
    crashing = evolve(
        plan("run"),
        processes=(
            ProcessPlan(users=(UserPlan(kind="run", name="u1"),), ending="crash", ends=Moment("answer", 2)),
        ),
    )
    report = run(crashing)
    assert "crash: stopped dead" in report.trace
    assert not report.violations
