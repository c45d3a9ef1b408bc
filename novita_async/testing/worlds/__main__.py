"""Run worlds: `python -m novita_async.testing.worlds 7` replays one, `--seeds 10000` runs many."""

import argparse
import sys
from collections.abc import Sequence

from novita_async.testing.worlds.campaign import campaign
from novita_async.testing.worlds.drawing import plan_of
from novita_async.testing.worlds.plan import Plan, code
from novita_async.testing.worlds.shrinking import shrink
from novita_async.testing.worlds.world import Report, run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m novita_async.testing.worlds", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="replay the world of this seed, with its trace")
    parser.add_argument("--shrink", action="store_true", help="make the world smaller while it still fails")
    parser.add_argument("--only", help="while this invariant does not hold")
    parser.add_argument("--seeds", type=int, help="run so many worlds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--minutes", type=float, help="for so many minutes at most")
    parser.add_argument("--map", action="store_true", help="show what was reached, the rarest first")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for. Returns 1 where something did not hold."""
    asked = _parser().parse_args(arguments)
    if asked.seed is not None:
        return _replay(plan_of(asked.seed), shrinks=asked.shrink, only=asked.only)
    count = asked.seeds or (10_000 if asked.minutes is None else 1 << 62)
    done = campaign(range(asked.first, asked.first + count), minutes=asked.minutes, watch=_tell)
    print(done)
    if asked.map:
        print(done.map())
    return bool(done.broken)


def _tell(seed: int, report: Report) -> None:
    if report.violations and sys.stderr.isatty():
        print(f"seed {seed}: {', '.join(sorted(report.invariants))}", file=sys.stderr)


def _replay(plan: Plan, *, shrinks: bool, only: str | None) -> int:
    report = run(plan)
    wanted = {only} if only else set(report.invariants)
    if shrinks and wanted & report.invariants:
        plan = shrink(plan, lambda smaller: bool(wanted & run(smaller).invariants))
        report = run(plan)
    print(code(plan))
    print(report.trace, end="")
    for violation in report.violations:
        print(violation)
    return bool(report.violations)


if __name__ == "__main__":
    sys.exit(main())
