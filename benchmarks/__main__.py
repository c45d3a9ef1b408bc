"""Measure, and write the tables down.

    python -m benchmarks                  # everything but `scale`, in half an hour
    python -m benchmarks submit wait      # some
    python -m benchmarks --check          # fewer rounds; fails where a ratio has slipped far

Tables go to `benchmarks/results/`: `tables.md`, `tables.json` and the plots. A table that is not measured
this time stays as it was.
"""

import argparse
import importlib
import sys
import time

from benchmarks import LONG, NAMES
from benchmarks._results import RESULTS, Results
from benchmarks._tables import Table


def measure(name: str, *, quick: bool) -> list[Table]:
    began = time.monotonic()
    tables: list[Table] = importlib.import_module(f"benchmarks.{name}").tables(quick=quick)
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return tables


def check(names: list[str]) -> int:
    """Print every bar; the number of those that are missed by more than their slack."""
    slipped = 0
    for name in names:
        for bar in (bar for table in measure(name, quick=True) for bar in table.bars):
            holds = bar.holds(bar.slack)
            slipped += not holds
            print(f"{'' if holds else 'SLIPPED '}{name}: {bar}", flush=True)
    return slipped


def write(names: list[str], *, quick: bool) -> None:
    for name in names:
        tables = measure(name, quick=quick)
        print("\n\n".join(table.to_markdown() for table in tables), flush=True)
        if not quick:
            Results.load().updated(name, tables).save()
    print("" if quick else f"\nwritten to {RESULTS}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--check", action="store_true", help="fail where a ratio has slipped far")
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds and contenders; nothing is written"
    )
    options = parser.parse_args()
    names = options.names or [name for name in NAMES if name not in LONG]
    if unknown := set(names) - set(NAMES):
        parser.error(f"no such table: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if options.check:
        sys.exit(f"{slipped} slipped" if (slipped := check(names)) else 0)
    write(names, quick=options.quick)


if __name__ == "__main__":
    main()
