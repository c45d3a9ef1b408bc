"""Worlds from seeds: the same to the byte, those that hold, and what people do with them."""

import io
import os
import subprocess
import sys
from functools import cache

import pytest
from attrs import evolve

from novita_async.testing.worlds import (
    INVARIANTS,
    KINDS,
    ClientPlan,
    Moment,
    Plan,
    ProcessPlan,
    ServicePlan,
    Trouble,
    UserPlan,
    campaign,
    plan_of,
    run,
    shrink,
)
from novita_async.testing.worlds.__main__ import main
from novita_async.testing.worlds.plan import code

HOLD = (
    1, 3, 6, 7, 9, 10, 11, 15, 20, 21, 27, 29, 30, 35, 36, 39, 40, 42, 44, 47, 49, 52, 53, 59, 62, 63, 67,
    68, 76, 78, 83, 92, 93, 96, 97, 101, 103, 105, 106, 109, 111, 118, 119, 124, 130, 139, 141, 152, 160, 166,
    168, 172, 189, 200, 211, 212, 214, 236, 240, 255, 256, 275, 282, 286, 299, 302, 312, 348, 381, 393, 397,
    433, 493, 510, 654, 666, 697, 711, 728, 825, 872, 3011, 3032, 3033, 3048, 3068, 3089,
)  # fmt: skip
"""Seeds of worlds that are known to hold, and that reach much. Drawn anew when the drawing changes."""

A_BATCH = Plan(
    seed=1, processes=(ProcessPlan(users=(UserPlan(kind="batch", name="u1", requests=4, save=True),)),)
)
TRACES = """
from novita_async.testing.worlds import plan_of, run
for seed in (1, 3, 6, 20, 39, 42, 157, 256):
    print(run(plan_of(seed)).trace)
"""


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop():
    """Let files be touched: what a thread would do is done between the turns of a world's loops."""


@cache
def known(seed):
    return run(plan_of(seed))


@pytest.mark.parametrize("seed", HOLD)
def test_this_world_holds(seed):
    report = known(seed)
    assert not report.violations, report.trace


def test_these_worlds_reach_most_kinds_of_trouble():
    reached = {name for seed in HOLD for name in known(seed).reached}
    met = {name.partition(": ")[2] for name in reached}
    assert len(met & KINDS.keys()) > 0.8 * len(KINDS), KINDS.keys() - met


def test_a_seed_gives_the_same_world_to_the_byte_in_every_process():
    traces = [
        subprocess.run(
            [sys.executable, "-c", TRACES],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert traces[0] == traces[1]
    assert traces[0].count(b"begins") >= 8


def test_a_trace_says_who_did_what_when():
    lines = run(A_BATCH).trace.splitlines()
    assert lines[0].split() == ["0.0000", "p0", "begins:", "u1", "batch"]
    assert any("p0.u1" in line and "1000: Succeeded" in line for line in lines)
    assert [float(line.split()[0]) for line in lines] == sorted(float(line.split()[0]) for line in lines)


def test_a_world_leaves_nothing_behind(tmp_path):
    before = io.open, os.fsync, os.link
    run(A_BATCH, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert (io.open, os.fsync, os.link) == before


def test_taking_a_user_away_leaves_the_fate_of_the_others_as_it_was():
    trouble = Trouble(kind="refuse", rate=0.5)
    users = tuple(UserPlan(kind="run", name=f"u{n}", requests=3, in_flight=1) for n in (1, 2))
    both = run(Plan(seed=5, processes=(ProcessPlan(users=users),), troubles=(trouble,)))
    alone = run(Plan(seed=5, processes=(ProcessPlan(users=users[1:]),), troubles=(trouble,)))
    refused = [
        [line.split()[3] for line in report.trace.splitlines() if "POST 20" in line and "refuse" in line]
        for report in (both, alone)
    ]
    assert refused[0] == refused[1] != []


@pytest.mark.parametrize("kind", ["stream", "batch"])
def test_memory_is_flat_over_a_long_world(kind):
    def weight(requests):
        user = UserPlan(kind=kind, name="u1", requests=requests, in_flight=8)
        plan = Plan(
            seed=1,
            service=ServicePlan(seconds=0.25, workers=16),
            client=ClientPlan(images_per_minute=30),
            processes=(ProcessPlan(users=(user,)),),
        )
        report = run(plan)
        assert not report.violations
        return report.weights["p0"]

    assert weight(240) < weight(120) + 60


# --- Shrinking and showing --------------------------------------------------------------------------------


def test_a_plan_is_shrunk_to_what_matters():
    busy = plan_of(7)
    user = UserPlan(kind="stream", name="u1", requests=5, save=True, pause=0.5, in_flight=4)
    process = ProcessPlan(
        users=(user, evolve(user, name="u2")), together="group", ending="crash", ends=Moment("poll", 1, 2)
    )
    plan = evolve(
        busy, processes=(process, process), troubles=(Trouble(kind="refuse", rate=0.5), Trouble(kind="cut"))
    )
    smallest = shrink(plan, lambda smaller: any(u.save for p in smaller.processes for u in p.users))
    assert smallest == Plan(
        seed=7,
        entrance=busy.entrance,
        processes=(
            ProcessPlan(users=(UserPlan(kind="stream", name="u2", requests=1, in_flight=1, save=True),)),
        ),
    )
    assert smallest.size < plan.size


def test_shrinking_ends_after_so_many_worlds():
    tried = []
    shrink(plan_of(7), lambda plan: bool(tried.append(plan)), most=3)
    assert len(tried) == 3


@pytest.mark.parametrize("seed", range(40))
def test_a_plan_is_written_as_python(seed):
    plan = plan_of(seed)
    names = {
        cls.__name__: cls for cls in (ClientPlan, Moment, Plan, ProcessPlan, ServicePlan, Trouble, UserPlan)
    }
    assert eval(code(plan), names) == plan  # noqa: S307 - written here


def test_the_command_line_replays_a_world(capsys):
    assert main(["1"]) == 0
    shown = capsys.readouterr().out
    assert shown == f"{code(plan_of(1))}\n{run(plan_of(1)).trace}"


def test_the_command_line_shrinks_a_world_that_fails(capsys, monkeypatch):
    broken_when_saved(monkeypatch)
    assert main(["1", "--shrink", "--only", "tidy folders"]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("Plan(seed=1")
    assert shown.endswith("tidy folders: here: planted\n")
    assert "users=(UserPlan(" in shown


def broken_when_saved(monkeypatch):
    monkeypatch.setitem(INVARIANTS, "tidy folders", lambda _: [("here", "planted")])


def test_the_command_line_runs_many_worlds(capsys, monkeypatch):
    broken_when_saved(monkeypatch)
    assert main(["--seeds", "3", "--first", "1", "--map"]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("3 worlds, ")
    assert "tidy folders: 3 worlds\n    seed 1: tidy folders: here: planted" in shown
    assert "event: Planned" in shown


def test_a_campaign_ends_when_its_time_is_over():
    assert campaign(range(1000), minutes=0.0).worlds == 1


def test_a_campaign_names_the_seed_of_a_world_that_cannot_be_run(monkeypatch):
    monkeypatch.setitem(INVARIANTS, "tidy folders", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError) as raised:
        campaign(range(7, 9))
    assert raised.value.__notes__ == ["in the world of seed 7"]
