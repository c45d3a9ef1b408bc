"""Long campaigns against the journal: many kills, every length of a cut file.

    python -m benchmarks.soak_journal --kills 500
    python -m benchmarks.soak_journal --kills 0 --cuts

Each prints what it did, and ends with an error at the first thing that does not hold.
"""

import argparse
import itertools
import random
import tempfile
from pathlib import Path

from novita_async import JournalError
from tests.helpers.journal_processes import kill_after
from tests.helpers.journals import (
    Witness,
    asked,
    copied,
    look,
    looked_at,
    open_store,
    plan,
    record,
    usual_way,
)


def kills(folder: Path, count: int, requests: int) -> None:
    """Processes in a row on one journal, each killed at random; a new journal when nothing is left to do."""
    dice = random.Random(count)
    rounds, journals = 0, 0
    while rounds < count:
        journals += 1
        path, witness = folder / f"{journals}.db", Witness()
        done = False
        while not done and rounds < count:
            rounds += 1
            said = kill_after(path, dice.randrange(1, 200), requests=requests, seed=rounds)
            witness.hear(said)
            store = open_store(path, float(rounds))
            witness.compare(look(store))
            store.close()
            done = said[-1] == ["end"]
            if rounds % 50 == 0:
                print(f"{rounds} kills, {journals} journals, all as acknowledged", flush=True)


def history(folder: Path) -> tuple[Path, Path, list[dict]]:
    """A closed journal, the same as a kill would leave it, and what it had after each commit."""
    path = folder / "run.db"
    store = open_store(path)
    snapshots = [looked_at(store)]
    plan(store, [asked(n, n) for n in range(4)])
    snapshots.append(looked_at(store))
    for n, fact in itertools.product(range(3), usual_way()):
        record(store, (asked(n).key, 0), fact)
        snapshots.append(looked_at(store))
    copied(path, folder / "killed.db")
    store.close()
    return path, folder / "killed.db", snapshots


def rows_of(path: Path) -> dict | None:
    """What is read there; None: refused."""
    try:
        store = open_store(path)
    except JournalError:
        return None
    try:
        return looked_at(store)
    except JournalError:
        return None
    finally:
        store.close()


def cuts(folder: Path, step: int) -> None:
    closed, killed, snapshots = history(folder)
    cut = folder / "cut.db"
    size = closed.stat().st_size
    for length in range(0, size, step):
        assert rows_of(copied(closed, cut, main=length)) is None, length
    print(f"a closed journal cut at {size // step} lengths: always refused", flush=True)
    size = killed.stat().st_size
    whole = sum(
        rows_of(copied(killed, cut, main=length)) in (None, snapshots[-1]) for length in range(0, size, step)
    )
    assert whole == len(range(0, size, step))
    print(f"an open journal cut at {size // step} lengths: always refused or whole", flush=True)
    last, size = 0, Path(f"{killed}-wal").stat().st_size
    for length in range(32, size, step):
        rows = rows_of(copied(killed, cut, wal=length))
        if rows is not None:
            index = snapshots.index(rows)
            assert index >= last, length
            last = index
    assert last >= len(snapshots) - 2
    print(f"a log cut at {size // step} lengths: what was there after one of the commits", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Long campaigns against the journal.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--requests", type=int, default=100, help="requests of each journal that is killed")
    parser.add_argument("--cuts", action="store_true", help="cut files at every --step bytes")
    parser.add_argument("--step", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kills(Path(folder), options.kills, options.requests)
        if options.cuts:
            cuts(Path(folder), options.step)


if __name__ == "__main__":
    main()
