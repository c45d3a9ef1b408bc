"""From a thousand to a million requests, run for real: CPU a request that stays, and memory that does not grow.

Every size runs in a process of its own: `python -m benchmarks.scale KIND COUNT CORE`. All of it is about half an
hour, so that `make bench` leaves it out: `make bench-scale`.
"""

import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import batch, resume
from benchmarks._machine import file_system, pin
from benchmarks._rounds import in_process
from benchmarks._tables import Bar, Headline, Table

SIZES = (1_000, 10_000, 100_000, 1_000_000)
TIMES = {1_000: 5, 10_000: 3}
"""Small ones are over soon: how often each is measured. Larger ones once."""
IN_FLIGHT = 512
"""Requests under way at once: as many as keep a core busy, so that nothing waits for what the service takes."""
STREAM, BATCH, RESUME = "stream", "batch: journal and files", "resume: finished rows"
BESIDE = ((STREAM, RESUME), (BATCH,))
"""Kinds that run at the same time, a core each: all sizes of a kind have the same neighbour."""


def run_stream(count: int, folder: Path) -> dict[str, float]:
    return asyncio.run(batch.run(batch.BARE, count, "", folder, in_flight=IN_FLIGHT))


def run_batch(count: int, folder: Path) -> dict[str, float]:
    return asyncio.run(batch.run(batch.FULL, count, "", folder, in_flight=IN_FLIGHT))


def run_resume(count: int, folder: Path) -> dict[str, float]:
    asyncio.run(resume.build(folder, count))
    found = asyncio.run(resume.resume(folder, count))
    return {"rate": count / found["seconds"], "cpu": found["us"] / 1000, "memory": found["grown"]}


KINDS: dict[str, Callable[[int, Path], dict[str, float]]] = {
    STREAM: run_stream,
    BATCH: run_batch,
    RESUME: run_resume,
}


def measured(kind: str, count: int, core: int) -> dict[str, float]:
    """The medians of as many runs as the size asks for."""
    runs = [in_process("benchmarks.scale", kind, str(count), str(core)) for _ in range(TIMES.get(count, 1))]
    found = {what: statistics.median(each[what] for each in runs) for what in runs[0]}
    print(f"{kind}, {count:,}: {found}", file=sys.stderr, flush=True)
    return found


def tables(*, quick: bool) -> list[Table]:
    sizes = SIZES[:2] if quick else SIZES

    def on(core: int) -> dict[tuple[str, int], dict[str, float]]:
        return {(kind, size): measured(kind, size, core) for kind in BESIDE[core] for size in sizes}

    with ThreadPoolExecutor() as pool:
        found = {key: each for some in pool.map(on, range(len(BESIDE))) for key, each in some.items()}
    return [_table(sizes, found)]


def _table(sizes: Sequence[int], found: dict[tuple[str, int], dict[str, float]]) -> Table:
    small, large = sizes[1], sizes[-1]
    return Table(
        title=f"Scale: to {large:,}",
        how=f"The service is memory in the same process, {IN_FLIGHT} requests are under way at once; every size in a "
        "process of its own, two kinds at once on a core each; sizes up to 10,000 are medians of a few runs. CPU is that of the whole process. Memory is the "
        "peak above what a client without work has; of a resume, what is added after the first tenth of its rows. "
        f"Journals and files are on {file_system(Path(tempfile.gettempdir()))}.",
        header=("", *(f"{size:,}: {what}" for size in sizes for what in ("CPU ms", "a second", "MB"))),
        rows=[
            (
                kind,
                *(
                    form.format(found[kind, size][what])
                    for size in sizes
                    for what, form in (("cpu", "{:.3f}"), ("rate", "{:,.0f}"), ("memory", "{:.1f}"))
                ),
            )
            for kind in KINDS
        ],
        bars=[
            bar
            for kind in KINDS
            for bar in (
                Bar(
                    what=f"{kind}: CPU a request, {large:,} over {small:,}",
                    measured=found[kind, large]["cpu"] / found[kind, small]["cpu"],
                    at_most=1.1,
                ),
                Bar(
                    what=f"{kind}: MB more for {large:,} than for {sizes[-2]:,}",
                    measured=found[kind, large]["memory"] - found[kind, sizes[-2]]["memory"],
                    at_most=40.0,
                    form="{:.1f}",
                ),
            )
        ],
        headlines=[
            Headline(
                what=f"a batch of {large:,} with journal and saved files: CPU an image, memory",
                ours=f"{found[BATCH, large]['cpu']:.2f} ms, {found[BATCH, large]['memory']:.0f} MB",
                peer="",
            ),
            Headline(
                what=f"going on with {large:,} rows that are finished: until the first new purchase",
                ours=f"{large / found[RESUME, large]['rate']:.0f} s",
                peer="",
            ),
        ],
    )


if __name__ == "__main__":
    which, many, core = sys.argv[1:]
    pin(int(core))
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(KINDS[which](int(many), Path(name))))
