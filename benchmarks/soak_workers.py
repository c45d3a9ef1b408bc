"""Long campaigns of many workers on one batch in Postgres, and the bars that only real time tells.

    python -m benchmarks.soak_workers                 # all
    python -m benchmarks.soak_workers kills --kills 100
    python -m benchmarks.soak_workers takeover taking memory million
    python -m benchmarks.soak_workers rate            # how much of a quota is used: ten minutes

Each prints its figures, and ends with an error at the first thing that does not hold.
"""

import argparse
import asyncio
import gc
import random
import resource
import tempfile
import time
import tracemalloc
from functools import partial
from pathlib import Path
from statistics import fmean, median

from novita_async import Endpoints, Polling
from novita_async._policy.pacing import MINUTE, WINDOW
from novita_async._stream.planning import BatchPlanner
from novita_async.journal import PostgresJournal, SharedMemoryJournal
from novita_async.testing import Ledger
from tests.helpers.journals import asked
from tests.helpers.postgres import new_batch, postgres, run_sql
from tests.helpers.service import client_of, picture, requests, service
from tests.helpers.worker_campaigns import Campaign, fight, work_off


async def kills(url: str, folder: Path, count: int) -> None:
    """Workers that are killed, a database that crashes, wrong clocks, answers of three times the stall time."""
    per, total = 20, {"saved": 0, "uncertain": 0, "rows": 0}
    for number in range(max(1, count // per)):
        campaign = Campaign(
            requests=240,
            workers=4,
            kills=per,
            crashes=1,
            slow=tuple(range(3, 240, 40)),
            quota=48,
            seed=number,
        )
        home = folder / str(number)
        home.mkdir()
        found = await fight(campaign, new_batch(url), home)
        total = {name: total[name] + found[name] for name in total}
        print(
            f"kills: {per * (number + 1)} kills, {number + 1} crashes: {total}, most {found['most']} of {campaign.quota}",
            flush=True,
        )


async def rate(url: str, folder: Path, _: int) -> None:
    """Four workers that nothing disturbs: the part of a known quota that they use, and the most in any window."""
    for seconds, quota, largest, rounds in _RATES:
        held = seconds + WINDOW - MINUTE
        campaign = Campaign(
            kills=0, skews=(0.0,), workers=4, stall=15.0, window=held, quota=quota, in_flight=256
        )
        sizes = random.choices(range(1, largest + 1), k=2 * rounds * quota // (1 + largest))
        home = folder / f"{seconds:g}-{largest}"
        home.mkdir()
        ledger = await work_off(campaign, new_batch(url), home, sizes)
        used, most, ask = _used(ledger, quota, seconds), ledger.most_images_in(seconds), _ASKED[seconds]
        print(
            f"rate: windows of {seconds:g} s, 1 to {largest} images a request: {used:.1%} of the quota is used "
            f"(ask {ask:.0%}), at most {most} of {quota} images in any window",
            flush=True,
        )
        assert most <= quota, most
        assert used >= ask, used


_RATES = ((5.0, 125, 1, 8), (5.0, 480, 8, 8), (60.0, 600, 1, 4), (60.0, 1800, 8, 4))
"""Seconds of a window, images in it, the most a request, windows. A request is not split: of a window, half
of what the next one needs stays free, so that a small one is never full."""
_ASKED = {5.0: 0.97, 60.0: 0.99}


def _used(ledger: Ledger, quota: int, seconds: float) -> float:
    """Part of a quota that was used: the time in which so many images may go, by that in which they went.

    The first window is free, so that each image is compared with the one that stands a quota before it.
    """
    at = [entry.at for entry in ledger.accepted for _ in range(entry.images)]
    return seconds / fmean(after - before for before, after in zip(at, at[quota:], strict=False))


async def takeover(url: str, _: Path, __: int) -> None:
    """From the last sign of life of a worker that dies to the moment when another has its rows."""
    spans = []
    for stall in (1.0, 4.0, 12.0) * 3:
        batch = new_batch(url)
        async with await PostgresJournal.open(batch) as journal:
            await journal.plan([asked(n, n) for n in range(10)])
        dead = await PostgresJournal.join(batch, lease=stall)
        assert len(await dead.take()) == 10
        async with await PostgresJournal.join(batch, lease=stall) as alive:
            await asyncio.sleep(stall * 1.5)
            await dead.beat()
            died_at = time.monotonic()
            dead._living.cancel()  # noqa: SLF001
            while not await alive.take():
                await alive.rest(stall / 8)
            spans.append((stall, (time.monotonic() - died_at) / stall))
        dead._store.link.hang_up()  # noqa: SLF001 - as a process that is killed
        dead._closed = True  # noqa: SLF001
    for stall in sorted({stall for stall, _ in spans}):
        took = [each for other, each in spans if other == stall]
        print(
            f"takeover: {median(took):.2f} x a stall time of {stall:g} s, at most {max(took):.2f} (ask 1.4)",
            flush=True,
        )


async def taking(url: str, _: Path, __: int) -> None:
    """Taking 256 rows when nine in ten are done, against the start: CPU of the call here and there, medians."""
    batch, rows = new_batch(url), 40_000
    async with await PostgresJournal.open(batch) as journal:
        for start in range(0, rows, 1000):
            await journal.enqueue([asked(n, n) for n in range(start, start + 1000)])
    spans = []
    async with await PostgresJournal.join(batch) as worker:
        server = Path(f"/proc/{worker._store.link._connection.get_server_pid()}/schedstat")  # noqa: SLF001

        def cpu() -> float:
            return time.process_time() + int(server.read_text().split()[0]) / 1e9

        while True:
            began = cpu()
            taken = await worker.take(256)
            spans.append(cpu() - began)
            if not taken:
                break
            await run_sql(url, _DONE, [purchase.entry.serial for purchase in taken])
    few = len(spans) // 10
    ratio = median(spans[-few:-1]) / median(spans[1:few])
    print(
        f"taking: {1000 * median(spans[1:few]):.1f} ms of CPU at the start, x {ratio:.2f} at the end (ask 1.2)",
        flush=True,
    )


_DONE = (
    "UPDATE novita.course SET state = 'saved', owner = NULL, moves = moves + 1"
    " WHERE batch = (SELECT max(id) FROM novita.batch) AND serial = ANY($1)"
)


async def memory(_: str, folder: Path, __: int) -> None:
    """Memory a task in flight, of a worker that has many, without what the simulated service has of it."""
    place = folder / "dog.png"
    place.write_bytes(picture())
    used = {}
    for count in (500, 4500):
        journal = SharedMemoryJournal()
        planner = BatchPlanner(endpoints=Endpoints())
        await journal.plan(await planner.orders(requests(count, image=place)))
        simulation = service(speed=1e-6, latency=0.0001, workers=1)
        tracemalloc.start()
        async with client_of(simulation, polling=Polling.fixed(3600.0)) as (client, _):
            client._observers = ()  # noqa: SLF001 - events would be counted as memory
            async with client.work(journal=journal.join(), in_flight=count):
                while len(simulation.ledger.accepted) < count:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                await asyncio.sleep(0.5)
                gc.collect()
                held = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, "*/testing/*")])
                used[count] = sum(each.size for each in held.traces)
        tracemalloc.stop()
    each = (used[4500] - used[500]) / 4000
    print(f"memory: {each / 1024:.2f} KB a task in flight (ask 3)", flush=True)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def million(url: str, _: Path, __: int, rows: int = 1_000_000) -> None:
    """Three who plan the same million rows at once: none twice, in memory that does not grow."""
    batch = new_batch(url)
    began, peaks = time.process_time(), []

    async def plan() -> int:
        new = 0
        async with await PostgresJournal.join(batch, lease=600.0) as journal:
            for start in range(0, rows, 1000):
                new += await journal.enqueue([asked(n, n, images=1) for n in range(start, start + 1000)])
                if start % max(1000, rows // 10) == 0:
                    peaks.append(_resident())
        return new

    new = await asyncio.gather(plan(), plan(), plan())
    async with await PostgresJournal.look(batch) as journal:
        total = (await journal.summary()).total
    assert sum(new) == total == rows, (new, total)
    grown = (peaks[-1] - peaks[3]) / 1e6
    print(
        f"million: {rows:,} rows by {[f'{each:,}' for each in new]}, {time.process_time() - began:.0f} s of CPU here, "
        f"memory grew by {grown:.1f} MB after the first piece",
        flush=True,
    )


CAMPAIGNS = {each.__name__: each for each in (kills, rate, takeover, taking, memory, million)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Long campaigns of many workers.")
    parser.add_argument("names", nargs="*", default=list(CAMPAIGNS), help=", ".join(CAMPAIGNS))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1_000_000)
    told = parser.parse_args()
    with postgres() as url, tempfile.TemporaryDirectory() as folder:
        for name in told.names:
            work = CAMPAIGNS[name]
            if work is million:
                work = partial(million, rows=told.rows)
            asyncio.run(work(url, Path(folder), told.kills))


if __name__ == "__main__":
    main()
