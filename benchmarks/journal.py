"""What the journal costs: CPU a request with so many under way, and a journal of a million rows.

Each measurement runs in a process of its own: `python -m benchmarks.journal steps COUNT UNDER_WAY`,
`python -m benchmarks.journal million COUNT` or `python -m benchmarks.journal raw COUNT 64`, which is the
yardstick: the same number of rows and of commits in bare `sqlite3`, of texts that are as long. CPU is that of the whole process, so the event loop's part and the
writer thread's are both in it. Every request is planned, announced, submitted, finished and saved; each of the
four transitions waits for its commit.
"""

import asyncio
import json
import resource
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import anyio

from benchmarks._rounds import in_process
from benchmarks._tables import Bar, Figure, Headline, Table
from novita_async import GeneratedImage, Img2Img, SqliteJournal, Task, TaskResult
from novita_async._journal.identity import DigestCache, order_of
from novita_async._purchase.machine import Announced, Bought, Completed, Order, Purchase, Saved
from novita_async._util.clock import loop_time
from novita_async.models.images import ImageSource

ENDPOINT = "/v3/async/img2img"
ROW = 300
"""Characters of a row in the yardstick, about those of a row in a journal."""
STEPS, PLANNING = 45.0, 16.0
"""Bars, as ratios to the yardstick."""
ONE_PIXEL = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000200000002000802000000")


def asked_for(count: int, digests: DigestCache, folder: Path) -> Iterator[Order]:
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
        yield order_of(each, endpoint=ENDPOINT, position=position, digest=digests)


async def live(journal: SqliteJournal, purchase: Purchase) -> None:
    number, now = purchase.position, loop_time()
    task = Task(task_id=f"{number:08}-0000-4000-8000-000000000000", account="key-12345678", endpoint=ENDPOINT)
    image = GeneratedImage(url=f"https://host/prod/{number}/picture.png", type="png", url_ttl=3600, task=task)
    await journal.record(purchase, Announced(now, "key-12345678"))
    await journal.record(purchase, Bought(now, task))
    await journal.record(purchase, Completed(now, TaskResult(task=task, images=(image,), seed=number)))
    await journal.record(purchase, Saved(now, (Path(f"out/{number:05}-{number}-0.png"),)))


async def steps(folder: Path, count: int, under_way: int) -> dict[str, float]:
    asked = list(asked_for(count, DigestCache(), folder))
    began, cpu = time.perf_counter(), time.process_time()
    async with await SqliteJournal.open(folder / "steps.db") as journal:
        purchases = iter(await journal.plan(asked))

        async def work() -> None:
            for purchase in purchases:
                await live(journal, purchase)

        async with anyio.create_task_group() as group:
            for _ in range(under_way):
                group.start_soon(work)
        commits = journal.statistics().commits
    cpu, took = time.process_time() - cpu, time.perf_counter() - began
    return {"cpu": 1000 * cpu / count, "wall": 1000 * took / count, "commits": commits / count}


async def million(folder: Path, count: int) -> dict[str, float]:
    path = folder / "million.db"
    planning = planning_cpu = 0.0
    source = asked_for(count, DigestCache(), folder)
    async with await SqliteJournal.open(path) as journal:
        while piece := list(islice(source, 1000)):
            began, cpu = time.perf_counter(), time.process_time()
            await journal.plan(piece)
            planning += time.perf_counter() - began
            planning_cpu += time.process_time() - cpu
        crashed = folder / "crashed.db"
        for suffix in ("", "-wal"):  # as a killed process leaves it
            shutil.copyfile(f"{path}{suffix}", f"{crashed}{suffix}")
    return {
        "planned": planning,
        "plan": 1000 * planning_cpu / count,
        "size": path.stat().st_size / 1e6,
        "resume": await resume(path, folder, count),
        "resume_killed": await resume(crashed, folder, count),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


async def raw(folder: Path, count: int, group: int) -> dict[str, float]:
    """Bare `sqlite3`: CPU ms a row to insert, and to write a row four times in commits of so many rows."""
    rows = [(number, "planned", "x" * ROW) for number in range(count)]
    connection = sqlite3.connect(folder / "raw.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE purchases (id INTEGER PRIMARY KEY, state TEXT, record TEXT)")
    cpu = time.process_time()
    for start in range(0, count, 1000):
        in_one_commit(connection, "INSERT INTO purchases VALUES (?, ?, ?)", rows[start : start + 1000])
    inserted, cpu = time.process_time() - cpu, time.process_time()
    for start in range(0, count, group):
        changes = [("done", "y" * ROW, number) for number, *_ in rows[start : start + group]]
        for _ in range(4):
            in_one_commit(connection, "UPDATE purchases SET state = ?, record = ? WHERE id = ?", changes)
    stepped = time.process_time() - cpu
    connection.close()
    return {"insert": 1000 * inserted / count, "cpu": 1000 * stepped / count}


def in_one_commit(connection: sqlite3.Connection, statement: str, rows: list[tuple[object, ...]]) -> None:
    connection.execute("BEGIN")
    connection.executemany(statement, rows)
    connection.execute("COMMIT")


async def resume(path: Path, folder: Path, count: int) -> float:
    """Seconds until the first requests of the same input can be sent."""
    began = time.perf_counter()
    async with await SqliteJournal.open(path) as journal:
        first = await journal.plan(list(islice(asked_for(count, DigestCache(), folder), 1000)))
        ready = time.perf_counter() - began
        assert first[0].entry is not None
        assert first[0].entry.serial == 1
        assert (await journal.summary()).total == count
    return ready


def stepping(name: str, rounds: list[dict[str, float]]) -> tuple[str | Figure, ...]:
    forms = {"cpu": "{:.3f}", "wall": "{:.2f}", "commits": "{:.2f}"}
    return (name, *(Figure([one[what] for one in rounds], form) for what, form in forms.items()))


def tables(*, quick: bool) -> list[Table]:
    times, rows = (1, 50_000) if quick else (5, 1_000_000)
    under_way = (64,) if quick else (64, 8, 1)
    found = {
        n: [
            in_process("benchmarks.journal", "steps", "3000" if n > 1 else "500", str(n))
            for _ in range(times)
        ]
        for n in under_way
    }
    large = in_process("benchmarks.journal", "million", str(rows))
    bare = [in_process("benchmarks.journal", "raw", "20000", "64") for _ in range(times)]
    in_bare = {what: statistics.median(one[what] for one in bare) for what in ("insert", "cpu")}
    of_64 = Figure([one["cpu"] for one in found[64]], "{:.3f}")
    share = rows / 1_000_000
    return [
        Table(
            title="Journal: a request's five steps",
            how="Planned, announced, submitted, finished, saved; each transition waits for its commit (WAL, "
            f"`synchronous=FULL`). CPU is that of the whole process; {times} rounds.",
            header=("requests under way", "CPU ms a request", "ms in all", "commits a request"),
            rows=[
                *[stepping(str(n), rounds) for n, rounds in found.items()],
                (
                    "bare `sqlite3`, 64 rows a commit",
                    Figure([one["cpu"] for one in bare], "{:.3f}"),
                    "",
                    f"{4 / 64:.2f}",
                ),
            ],
            bars=[
                Bar(
                    what="CPU of four transitions, 64 under way, against four bare updates of a row",
                    measured=of_64.median / in_bare["cpu"],
                    at_most=STEPS,
                    form="{:.1f}",
                )
            ],
            headlines=[
                Headline(
                    what="journal: CPU of a request's five steps", ours=f"{of_64.median:.2f} ms", peer=""
                )
            ],
        ),
        Table(
            title=f"Journal: {rows:,} planned rows",
            how="Planned in pieces of a thousand; then opened again as it was closed, and as a killed process leaves it, "
            "until the first thousand requests of the same input are found in it and can be sent.",
            header=("planned in s", "MB on disk", "resume s", "resume s, killed", "peak memory MB"),
            rows=[
                tuple(
                    f"{large[what]:,.1f}" for what in ("planned", "size", "resume", "resume_killed", "memory")
                )
            ],
            bars=[
                Bar(
                    what="CPU of planning, against bare inserts of rows",
                    measured=large["plan"] / in_bare["insert"],
                    at_most=PLANNING,
                    form="{:.1f}",
                ),
                Bar(what="MB on disk", measured=large["size"], at_most=400 * share, form="{:.0f}"),
                Bar(
                    what="until a resumed one sends, over the time that planning took",
                    measured=max(large["resume"], large["resume_killed"]) / large["planned"],
                    at_most=0.15,
                ),
            ],
        ),
    ]


if __name__ == "__main__":
    what, *numbers = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        task = {"steps": steps, "million": million, "raw": raw}[what]
        print(json.dumps(asyncio.run(task(Path(name), *map(int, numbers)))))
