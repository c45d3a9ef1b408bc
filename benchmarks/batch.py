"""Batches end to end: plan, submit, watch, save, with a journal; and how their cost grows with their length.

Every measurement runs in a process of its own: `python -m benchmarks.batch MODE COUNT URL`. Without a URL the
service is a few lines of memory in the same process, so that what grows is the client's. `BARE_DISK` for a mode is
the yardstick: the same writes in bare Python, without a service.
"""

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from benchmarks._machine import cpu_of, forget_peak, peak, pin, resident
from benchmarks._rounds import Rounds, in_process, interleaved
from benchmarks._server import FINISHED, about
from benchmarks._tables import Bar, Figure, Headline, Table
from novita_async import ImageSource, Img2Img, NovitaClient, Polling, Succeeded
from novita_async._http import HTTPRequest, HTTPResponse
from novita_async.testing import sample_picture

COUNT = 2_000
ROUNDS = 5
IN_FLIGHT = 64
GROWTH = (100, 1_000, 10_000, 100_000)
KEY = "sk_simulator"
FULL, BARE = "batch: journal and saving", "stream: no journal, no saving"
BARE_DISK = "bare `sqlite3` and files, 16 a commit"
GROUP, ROW = 16, 300
"""Images of a commit, and characters of a row, in the yardstick."""
DONE = re.sub(rb"\"[0-9]{13}\"", b'""', FINISHED[1]).replace(b"jpeg", b"png")  # says nothing of when
PICTURE = sample_picture(1)


class Memory:
    """The least that a service can be: every task is done at once, every file is the same."""

    def __init__(self) -> None:
        self.tasks = 0

    async def send(
        self, request: HTTPRequest, *_: object, on_handover: Callable[[], None] | None = None
    ) -> HTTPResponse:
        await asyncio.sleep(0)
        if request.method == "GET":
            return HTTPResponse(status=200, body=about(request.query[0][1], DONE))
        if on_handover:
            on_handover()
        self.tasks += 1
        return HTTPResponse(status=200, body=b'{"task_id":"%036d"}' % self.tasks)

    @asynccontextmanager
    async def open(self, _: str) -> AsyncIterator["File"]:
        yield File(200, {"content-length": str(len(PICTURE))})

    async def aclose(self) -> None: ...


@frozen
class File:
    status: int
    headers: dict[str, str]

    async def chunks(self) -> AsyncIterator[bytes]:
        yield PICTURE


def client_for(url: str, service: Memory | None = None) -> NovitaClient:
    polling = Polling(polls_per_second=1e9)
    options: dict[str, Any] = {"images_per_minute": 10**9, "polling": polling}
    if url:
        return NovitaClient(KEY, base_url=url, **options)
    service = service or Memory()
    return NovitaClient(KEY, transport=service, downloader=service, **options)


async def run(
    mode: str, count: int, url: str, folder: Path, *, in_flight: int = IN_FLIGHT
) -> dict[str, float]:
    (folder / "in.png").write_bytes(sample_picture(1))
    picture = ImageSource.from_path(folder / "in.png")
    wish = Img2Img(model_name="m", image=picture, prompt="a dog", width=128, height=128, steps=1)
    requests = wish.sweep(seed=range(count))
    async with client_for(url) as client:
        await client.balance() if url else None
        forget_peak()
        idle = resident()
        wall, cpu = time.perf_counter(), time.process_time()
        many = (
            client.batch(requests, journal=folder / "run.db", save_to=folder / "out", in_flight=in_flight)
            if mode == FULL
            else client.stream(requests, in_flight=in_flight)
        )
        done = 0
        async with many as outcomes:
            async for outcome in outcomes:
                assert isinstance(outcome, Succeeded), outcome
                done += 1
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert done == count
    return {"rate": count / wall, "cpu": cpu / count * 1000, "memory": (peak() - idle) / 1e6}


def write_bare(count: int, folder: Path) -> dict[str, float]:
    """Insert a row for each image, write it thrice, and save a file, without a client: what the disk costs."""
    connection = sqlite3.connect(folder / "raw.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE purchases (id INTEGER PRIMARY KEY, state TEXT, record TEXT)")
    handle = os.open(folder, os.O_RDONLY)
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, count, GROUP):
        group = range(start, min(count, start + GROUP))
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO purchases VALUES (?, '', ?)", [(each, "x" * ROW) for each in group]
        )
        connection.execute("COMMIT")
        for state in ("announced", "submitted"):
            step(connection, state, group)
        for each in group:
            part = folder / f".{each}.part"
            with part.open("xb") as file:
                file.write(PICTURE)
                file.flush()
                os.fsync(file.fileno())
            os.link(part, folder / f"{each}.png")
            part.unlink()
        os.fsync(handle)
        step(connection, "saved", group)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    connection.close()
    os.close(handle)
    return {"rate": count / wall, "cpu": cpu / count * 1000, "memory": 0.0}


def step(connection: sqlite3.Connection, state: str, group: range) -> None:
    connection.execute("BEGIN")
    changes = [(state, "y" * ROW, each) for each in group]
    connection.executemany("UPDATE purchases SET state = ?, record = ? WHERE id = ?", changes)
    connection.execute("COMMIT")


@contextmanager
def simulator() -> Iterator[tuple[str, int]]:
    """The public HTTP simulator, as quick as it can be, on the last core."""
    options = ("--json", "--speed=10000", "--workers=64", "--latency=0", "--plain-pictures", "--no-progress")
    command = [sys.executable, "-m", "novita_async", "simulate", *options]
    process = subprocess.Popen(  # noqa: S603
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: pin(-1),  # noqa: PLW1509
    )
    assert process.stdout
    try:
        yield json.loads(process.stdout.readline())["url"], process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def one(mode: str, count: int) -> dict[str, float]:
    with simulator() as (url, pid):
        cpu, wall = cpu_of(pid), time.perf_counter()
        figures = in_process("benchmarks.batch", mode, str(count), url)
        busy = (cpu_of(pid) - cpu) / (time.perf_counter() - wall)
    return figures | {"server": busy}


def end_to_end(count: int, rounds: Rounds) -> Table:
    return Table(
        title="Batch: end to end",
        how=f"{count * len(rounds.of[FULL]):,} requests of one small picture each in {len(rounds.of[FULL])} interleaved rounds, 64 in "
        "flight, against the HTTP simulator, whose core is the bottleneck where it is all busy. CPU is "
        "the client's alone, threads included; memory is the peak above what the client had before.",
        header=("", "images/s", "CPU ms an image", "memory MB", "simulator's core"),
        rows=[
            (
                name,
                Figure(rounds.values(name, "rate"), "{:,.0f}"),
                Figure(rounds.values(name, "cpu"), "{:.2f}"),
                Figure(rounds.values(name, "memory"), "{:.1f}"),
                Figure([rounds.median(name, "server")], "{:.0%}"),
            )
            for name in (FULL, BARE)
        ],
        bars=[
            Bar(
                what="CPU an image with journal and saving, over that without",
                measured=rounds.ratio(FULL, BARE, "cpu"),
                at_most=2.0,
            )
        ],
        notes=[f"limit: {BARE}"],
        headlines=[
            Headline(
                what="a batch with journal and saved files: CPU an image, memory",
                ours=f"{rounds.median(FULL, 'cpu'):.2f} ms, {rounds.median(FULL, 'memory'):.0f} MB",
                peer="",
                limit=f"{rounds.median(BARE, 'cpu'):.2f} ms without journal and saving",
            )
        ],
    )


def growth(sizes: tuple[int, ...], found: dict[int, dict[str, float]], bare: dict[str, float]) -> Table:
    first, last = sizes[min(1, len(sizes) - 2)], sizes[-1]
    return Table(
        title="Batch: how cost grows",
        how="The same with journal and saving, the service in memory in the same process: what grows is the client's. "
        "Below, the same writes (a row that is inserted and changed three times, a file with its fsync) in bare Python.",
        header=("requests", "images/s", "CPU ms an image", "memory MB above idle"),
        rows=[
            (
                f"{count:,}",
                f"{found[count]['rate']:,.0f}",
                f"{found[count]['cpu']:.2f}",
                f"{found[count]['memory']:.1f}",
            )
            for count in sizes
        ]
        + [(BARE_DISK, f"{bare['rate']:,.0f}", f"{bare['cpu']:.2f}", "")],
        bars=[
            Bar(
                what=f"CPU an image, {last:,} requests over {first:,}",
                measured=found[last]["cpu"] / found[first]["cpu"],
                at_most=1.2,
            ),
        ],
    )


def tables(*, quick: bool) -> list[Table]:
    count, sizes = (1_000, (300, 3_000)) if quick else (COUNT, GROWTH)
    rounds = interleaved((FULL, BARE), lambda mode: one(mode, count), 1 if quick else ROUNDS)
    found = {size: in_process("benchmarks.batch", FULL, str(size), "") for size in sizes}
    bare = in_process("benchmarks.batch", BARE_DISK, str(count), "")
    return [end_to_end(count, rounds), growth(sizes, found, bare)]


if __name__ == "__main__":
    pin(0)
    which, many, where = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        if which == BARE_DISK:
            print(json.dumps(write_bare(int(many), Path(name))))
        else:
            print(json.dumps(asyncio.run(run(which, int(many), where, Path(name)))))
