"""Long campaigns: a batch that is killed, submissions and polls that fail, hosts that are down, memory.

    python -m benchmarks.soak                   # all, about half an hour
    python -m benchmarks.soak killed memory     # some

Each is the long form of a test in `tests/processes/test_survival.py`. It prints its figures, and ends with an error at
the first thing that does not hold. All but `killed` and `memory` take place in virtual time.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from novita_async.models.routes import ROUTES
from novita_async.testing import run_virtually
from tests.helpers import campaigns, killing
from tests.helpers.campaigns import Figures

HOUR: Final = 3600


def killed(folder: Path) -> Figures:
    return killing.killed_batch(folder, count=1000, kills=200, images_per_minute=150)


def killed_mixed(folder: Path) -> Figures:
    """Requests to every row of the table of routes, most of which answer at once."""
    rows = tuple(row.name for row in ROUTES if row.name != "txt2img")
    return killing.killed_batch(folder, count=1000, kills=200, images_per_minute=150, routes=rows)


def crashed(_: Path) -> Figures:
    """Batches of each row, at every moment that there is."""
    return killing.crashed_everywhere(row.name for row in ROUTES)


def submissions(_: Path) -> Figures:
    return run_virtually(lambda: campaigns.faulty_submissions(10_000))


def polls(_: Path) -> Figures:
    return run_virtually(lambda: campaigns.faulty_polls(10_000))


def urls(folder: Path) -> Figures:
    return run_virtually(lambda: campaigns.slow_batch(folder, 1000, url_ttl=HOUR))


def host_down(folder: Path) -> Figures:
    """For 50 minutes."""
    return run_virtually(lambda: campaigns.slow_batch(folder, 1000, url_ttl=HOUR, down=(600, 3600)))


def host_down_for_longer(folder: Path) -> Figures:
    """Than a URL lives, while polls fail."""
    down = (600, 3600)
    return run_virtually(lambda: campaigns.slow_batch(folder, 1000, url_ttl=1200, down=down, bad_polls=0.2))


def memory(folder: Path) -> Figures:
    return campaigns.endless(200_000, folder / "run.db")


CAMPAIGNS: Final[Mapping[str, Callable[[Path], Figures]]] = {
    campaign.__name__: campaign
    for campaign in (
        submissions,
        polls,
        urls,
        host_down,
        host_down_for_longer,
        killed,
        killed_mixed,
        crashed,
        memory,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Long campaigns.")
    parser.add_argument("names", nargs="*", default=list(CAMPAIGNS), help=", ".join(CAMPAIGNS))
    parser.add_argument("--folder", help="where to write; the disk matters")
    options = parser.parse_args()
    for name in options.names:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            figures = CAMPAIGNS[name](Path(folder))
        told = ", ".join(f"{what} {number:,}" for what, number in figures.items())
        print(f"{name}: {told} ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
