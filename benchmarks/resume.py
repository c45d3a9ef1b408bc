"""Resuming a batch: the cost of finished rows before the first new purchase, in time and in memory.

Every size runs in a process of its own, also a million: `python -m benchmarks.resume COUNT`.
"""

import asyncio
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from benchmarks._machine import pin, resident
from benchmarks._rounds import in_process
from benchmarks._tables import Bar, Headline, Table
from benchmarks.batch import PICTURE, Memory, client_for
from novita_async import Img2Img, SqliteJournal
from novita_async._journal.identity import DigestCache, order_of
from novita_async._purchase.machine import Announced, Bought, Completed, Purchase, Saved
from novita_async.models.images import ImageSource
from novita_async.models.results import GeneratedImage, TaskResult
from novita_async.tasks import Task

SIZES = (1_000, 10_000, 100_000)
NEW = 100
PIECE = 500
AT = -86_400.0
"""When the earlier run was, on the loop's clock: long ago. Rows of the last minute are read once more, for the
window."""


def wishes(folder: Path, count: int) -> Iterator[Img2Img]:
    """Requests that are made as they are asked for."""
    picture = ImageSource.from_path(folder / "in.png")
    wish = Img2Img(model_name="m", image=picture, prompt="a dog", width=128, height=128, steps=1)
    return wish.sweep(seed=range(count))


async def finish(journal: SqliteJournal, purchase: Purchase, folder: Path) -> None:
    """Record the whole life of a purchase, in one commit."""
    task = Task(task_id=f"{purchase.position:036}", account="benchmark", endpoint=Img2Img.endpoint)
    image = GeneratedImage(url="https://example.org/a.png", type="png", task=task)
    await journal.record(
        purchase,
        Announced(AT, "benchmark"),
        Bought(AT + 1, task, 1),
        Completed(AT + 2, TaskResult(task=task, images=(image,), seed=purchase.position)),
        Saved(AT + 3, (folder / "in.png",)),
    )


async def build(folder: Path, count: int) -> None:
    """Make the journal of an earlier run that has saved so many files, which are one and the same here."""
    (folder / "in.png").write_bytes(PICTURE)
    digests, requests, at = DigestCache(), wishes(folder, count), 0
    async with await SqliteJournal.open(folder / "run.db") as journal:
        while piece := list(islice(requests, PIECE)):
            orders = [
                order_of(wish, endpoint=Img2Img.endpoint, position=at + n, digest=digests)
                for n, wish in enumerate(piece)
            ]
            at += len(piece)
            found = await journal.plan(orders)
            await asyncio.gather(*[finish(journal, purchase, folder) for purchase in found])


def bare_read(path: Path) -> float:
    """Microseconds of CPU a row, for SQLite and its module to give all of it, and nothing more."""
    connection = sqlite3.connect(path)
    began = time.process_time()
    rows = sum(1 for _ in connection.execute("SELECT * FROM requests"))
    took = time.process_time() - began
    connection.close()
    return took / rows * 1e6


async def resume(folder: Path, count: int) -> dict[str, float]:
    """Go on with all that is finished, and some more."""
    service = Memory()
    rows = early = 0
    async with client_for("", service) as client:
        began, cpu = time.perf_counter(), time.process_time()
        async with client.batch(
            wishes(folder, count + NEW), journal=folder / "run.db", save_to=folder / "out"
        ) as outcomes:
            async for _ in outcomes:
                rows += 1
                if rows == count // 10:
                    early = resident()
                if rows == count:
                    taken = time.process_time() - cpu
                    until = time.perf_counter() - began
                    grown = resident() - early
    assert rows == count + NEW
    assert service.tasks == NEW
    return {"us": taken / count * 1e6, "seconds": until, "cpu": taken, "grown": grown / 1e6}


def run(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asyncio.run(build(folder, count))
        figures = asyncio.run(resume(folder, count))
        return figures | {"bare": bare_read(folder / "run.db")}


def tables(*, quick: bool) -> list[Table]:
    sizes = SIZES[:2] if quick else SIZES
    found = {count: in_process("benchmarks.resume", str(count)) for count in sizes}
    small, large = found[sizes[-2]], found[sizes[-1]]
    return [
        Table(
            title="Resume: rows that are finished",
            how="A journal of so many saved rows and their input, until the last of them is told; then "
            f"{NEW} new purchases are made. CPU is that of the whole process; memory is what is added after the first "
            "tenth of the rows; a bare read is `SELECT *` with Python's sqlite3, which reads all and makes nothing of "
            "it.",
            header=("rows", "CPU us a row", "over a bare read", "s until the first new purchase", "MB more"),
            rows=[
                (
                    f"{count:,}",
                    f"{each['us']:.0f}",
                    f"{each['us'] / each['bare']:.0f}",
                    f"{each['seconds']:.1f}",
                    f"{each['grown']:.1f}",
                )
                for count, each in found.items()
            ],
            bars=[
                Bar(
                    what=f"CPU a row, {sizes[-1]:,} rows over {sizes[-2]:,}",
                    measured=large["us"] / small["us"],
                    at_most=1.1,
                ),
                Bar(what=f"MB more, {sizes[-1]:,} rows", measured=large["grown"], at_most=40.0),
            ],
            headlines=[
                Headline(
                    what="resuming: CPU a finished row",
                    ours=f"{large['us'] / 1000:.2f} ms",
                    peer="",
                )
            ],
        )
    ]


if __name__ == "__main__":
    pin(0)
    print(json.dumps(run(int(sys.argv[1]))))
