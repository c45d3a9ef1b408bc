"""The suite again and again, beside a busy loop on each core, which lets whatever depends on luck fail."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SUITE: Final = (sys.executable, "-m", "pytest", "--numprocesses=auto", "--dist=worksteal", "-q")
BUSY: Final = "import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"
"""Ends with whoever started it, however that ends."""


@contextmanager
def busy_cores() -> Iterator[None]:
    """Keep each core busy for the length of the block."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    red = 0
    with busy_cores():
        for run in range(1, times + 1):
            start = time.monotonic()
            failed = subprocess.run(SUITE, cwd=ROOT, check=False).returncode != 0
            red += failed
            print(
                f"steady: run {run} of {times} is {'red' if failed else 'green'}"
                f" after {time.monotonic() - start:.0f} s, {run - red} of {run} are green",
                flush=True,
            )
    return int(red > 0)


if __name__ == "__main__":
    sys.exit(main())
