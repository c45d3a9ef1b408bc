"""What the journal costs.

    python benchmarks/journal.py                 # CPU a request, with 64, 8 and 1 under way; a million rows
    python benchmarks/journal.py --rows 100000   # a smaller journal

CPU is that of the whole process, so the event loop's part and the thread's are both in it. Every request is
planned, announced, submitted, finished and saved; each of the four transitions waits for its commit.
"""

import argparse
import asyncio
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import anyio

from novita_async import Img2Img, SqliteJournal
from novita_async._journal import DigestCache
from novita_async._ledger import Row, State, Wanted, wanted
from novita_async.models.images import ImageSource

ENDPOINT = "/v3/async/img2img"
ONE_PIXEL = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000200000002000802000000")


def asked_for(count: int, digests: DigestCache, folder: Path) -> Iterator[Wanted]:
    picture = folder / "dog-in-the-snow.png"
    picture.write_bytes(ONE_PIXEL)
    request = Img2Img(
        model_name="sd_xl_base_1.0.safetensors",
        image=ImageSource.from_path(picture),
        width=1024,
        height=1024,
        prompt="a cute dog in the snow, oil painting, detailed, warm light",
        negative_prompt="blurry, low quality",
        strength=0.6,
    )
    for position, each in enumerate(request.sweep(seed=range(count))):
        yield wanted(each, endpoint=ENDPOINT, position=position, digest=digests)


async def live(journal: SqliteJournal, row: Row) -> None:
    name = (row.key, row.occurrence)
    now = time.time()
    await journal.move(*name, State.ANNOUNCED, at=now, account="key-12345678")
    await journal.move(*name, State.SUBMITTED, at=now, task_id=f"{row.serial:08}-0000-4000-8000-000000000000")
    facts = {"files": [{"url": f"https://host/prod/{row.serial}/picture.png", "type": "png", "ttl": 3600}]}
    await journal.move(*name, State.SUCCEEDED, at=now, seed=row.serial, result=facts)
    await journal.move(*name, State.SAVED, at=now, paths=(f"out/{row.position:05}-{row.serial}-0.png",))


async def steps(folder: Path, count: int, under_way: int) -> None:
    asked = list(asked_for(count, DigestCache(), folder))
    path = folder / f"steps-{under_way}.db"
    began, cpu = time.perf_counter(), time.process_time()
    async with await SqliteJournal.open(path) as journal:
        rows = iter(await journal.plan(asked))

        async def work() -> None:
            for row in rows:
                await live(journal, row)

        async with anyio.create_task_group() as group:
            for _ in range(under_way):
                group.start_soon(work)
        numbers = journal.statistics()
    cpu, took = time.process_time() - cpu, time.perf_counter() - began
    print(
        f"{under_way:4} under way: {1000 * cpu / count:.3f} ms of CPU a request,"
        f" {1000 * took / count:.3f} ms in all, {numbers.commits / count:.2f} commits a request"
    )


async def million(folder: Path, count: int) -> None:
    path = folder / "million.db"
    describing = planning = 0.0
    source = asked_for(count, DigestCache(), folder)
    async with await SqliteJournal.open(path) as journal:
        while True:
            began = time.perf_counter()
            piece = list(islice(source, 1000))
            described = time.perf_counter()
            if not piece:
                break
            await journal.plan(piece)
            describing += described - began
            planning += time.perf_counter() - described
        crashed = folder / "crashed.db"
        for suffix in ("", "-wal"):  # as a killed process leaves it
            shutil.copyfile(f"{path}{suffix}", f"{crashed}{suffix}")
    size = path.stat().st_size
    print(
        f"{count:,} rows: planned in {planning:.1f} s (described in {describing:.1f} s),"
        f" {size / 1e6:.0f} MB on disk, {size / count:.0f} bytes a row, peak memory {peak():.0f} MB"
    )
    await resume("closed", path, folder, count)
    await resume("crashed", crashed, folder, count)


async def resume(how: str, path: Path, folder: Path, count: int) -> None:
    began = time.perf_counter()
    async with await SqliteJournal.open(path) as journal:
        opened = time.perf_counter()
        ledger = await journal.summary()
        added = time.perf_counter()
        first = await journal.plan(list(islice(asked_for(count, DigestCache(), folder), 1000)))
        planned = time.perf_counter()
        number = 0
        async for _ in journal.rows(State.PLANNED):
            number += 1
        read = time.perf_counter()
        assert ledger.total == number == count
        assert first[0].serial == 1
    print(
        f"  {how}: opened in {opened - began:.2f} s, added up in {added - opened:.2f} s, first 1,000 found"
        f" in {planned - added:.2f} s, all read in {read - planned:.1f} s, peak memory {peak():.0f} MB"
    )


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="What the journal costs.")
    parser.add_argument("--requests", type=int, default=3000, help="requests for the CPU of one")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the large journal")
    parser.add_argument("--folder", help="where to write; the disk matters")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for under_way in (64, 8, 1):
            asyncio.run(steps(Path(folder), options.requests, under_way))
        asyncio.run(million(Path(folder), options.rows))


if __name__ == "__main__":
    main()
