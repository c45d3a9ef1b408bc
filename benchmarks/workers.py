"""Workers that share a batch in Postgres: their CPU beside processes that keep a journal in a file each, and what the
database does for them.

Every worker is a process of its own: `python -m benchmarks.workers HOW JOURNAL COUNT IN_FLIGHT QUOTA`.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen

from benchmarks._machine import TICK, cpu_of
from benchmarks._rounds import Figures, Rounds, interleaved
from benchmarks._server import about
from benchmarks._tables import Bar, Figure, Headline, Table
from benchmarks.batch import DONE, KEY, Memory
from novita_async import Endpoints, NovitaClient, Polling, Succeeded, Txt2Img
from novita_async._http import HTTPRequest, HTTPResponse
from novita_async._stream.planning import BatchPlanner
from novita_async.journal import PostgresJournal
from tests.helpers.postgres import new_batch, postgres, run_sql

COUNT = 2_000
"""Requests of a measurement, whoever shares them."""
ROUNDS = 3
PIECE = 1_000
LATENCY = (0.005, 0.06)
"""Seconds until the service answers, evenly spread: answers come by themselves, not in groups."""
SETTLED = 1.2
"""Seconds until the database has told its own statistics."""


BOOKS = (
    "SELECT (SELECT sum(xact_commit) FROM pg_stat_database) AS commits,"
    " pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') AS wal,"
    " split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int AS pid"
)


@frozen
class Crew:
    """Processes that work at once."""

    workers: int
    in_flight: int
    quota: int = 10**9
    """Images a minute, as the client is told; nothing for a client that has to learn."""

    def __str__(self) -> str:
        return f"{self.workers} x {self.in_flight}" + ("" if self.quota else ", quota unknown")


CREWS = (Crew(1, 256), Crew(4, 64), Crew(4, 16), Crew(4, 8), Crew(4, 8, 0))
FILE, SHARED, BATCH = "a file each", "Postgres", "Postgres by `client.batch`"
CONTENDERS = {f"{crew}, {how}": (crew, how) for crew in CREWS for how in (FILE, SHARED)} | {
    f"{CREWS[0]}, {BATCH}": (CREWS[0], BATCH)
}


class Distant(Memory):
    """A service that takes its time, and gives no task id that another process has."""

    def __init__(self) -> None:
        super().__init__()
        self.dice = random.Random(1)

    async def send(
        self, request: HTTPRequest, *_: object, on_handover: Callable[[], None] | None = None
    ) -> HTTPResponse:
        await asyncio.sleep(self.dice.uniform(*LATENCY))
        if request.method == "GET":
            return HTTPResponse(status=200, body=about(request.query[0][1], DONE))
        if on_handover:
            on_handover()
        self.tasks += 1
        return HTTPResponse(status=200, body=b'{"task_id":"%016d%020d"}' % (os.getpid(), self.tasks))


def wishes(count: int) -> Iterator[Txt2Img]:
    wish = Txt2Img(
        model_name="m.safetensors", prompt="a dog in the rain, oil on canvas", width=512, height=512
    )
    return wish.sweep(seed=range(count))


async def plan(journal: str, count: int) -> int:
    """Let a batch have its rows."""
    planner = BatchPlanner(endpoints=Endpoints())
    every = list(wishes(count))
    async with await PostgresJournal.join(journal) as batch:
        return sum(
            [
                await batch.enqueue(await planner.orders(every[at : at + PIECE]))
                for at in range(0, count, PIECE)
            ]
        )


async def work(client: NovitaClient, how: str, journal: str, count: int, in_flight: int) -> int:
    outcomes: AbstractAsyncContextManager[Any] = (
        client.work(journal=journal, in_flight=in_flight)
        if how == SHARED
        else client.batch(wishes(count), journal=journal, in_flight=in_flight)
    )
    done = 0
    async with outcomes as each:
        async for outcome in each:
            assert isinstance(outcome, Succeeded), outcome
            done += 1
    return done


async def run(how: str, journal: str, count: int, in_flight: int, quota: int) -> dict[str, float]:
    service = Distant()
    async with NovitaClient(
        f"{KEY}_{quota}",  # an account of its own: what is known of a quota is known to all
        transport=service,
        downloader=service,
        images_per_minute=quota or None,
        polling=Polling(polls_per_second=1e9),
    ) as client:
        print("ready", flush=True)
        sys.stdin.readline()
        cpu = time.process_time()
        done = await (plan(journal, count) if how == "plan" else work(client, how, journal, count, in_flight))
        return {"cpu": time.process_time() - cpu, "done": done}


def together(commands: Sequence[tuple[str, str, int, int, int]]) -> tuple[float, int]:
    """Let processes begin at the same moment; the CPU seconds of all, and how many requests were done."""
    every = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "benchmarks.workers", *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    for each in every:
        assert each.stdout
        each.stdout.readline()
    for each in every:
        assert each.stdin
        each.stdin.write("\n")
        each.stdin.flush()
    found = [json.loads(each.communicate()[0].splitlines()[-1]) for each in every]
    return sum(each["cpu"] for each in found), int(sum(each["done"] for each in found))


@frozen
class Books:
    """Work of the database since its start, as its own statistics and the machine tell."""

    commits: float
    wal: float
    """Bytes of its log."""
    cpu: float
    """Seconds, of all its processes."""

    @classmethod
    def of(cls, url: str) -> "Books":
        time.sleep(SETTLED)
        (row,) = asyncio.run(run_sql(url, BOOKS))
        return cls(float(row["commits"]), float(row["wal"]), _cpu_of_family(row["pid"]))


def _cpu_of_family(pid: int) -> float:
    """Seconds of a process, of its children, and of those that have ended."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ended = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]
    return cpu_of(pid) + sum(map(int, ended)) / TICK + sum(cpu_of(int(child)) for child in children)


def measure(url: str, folder: Path, count: int, name: str) -> Figures:
    """Let a crew do so many requests; planning counts."""
    crew, how = CONTENDERS[name]
    each = count // crew.workers
    if how == FILE:
        homes = [str(Path(tempfile.mkdtemp(dir=folder)) / "run.db") for _ in range(crew.workers)]
        cpu, done = together([(how, home, each, crew.in_flight, crew.quota) for home in homes])
        return {"cpu": cpu / done * 1000}
    batch, planned = new_batch(url), 0.0
    if how == SHARED:
        planned, _ = together([("plan", batch, count, 0, crew.quota)])
    before = Books.of(url)
    cpu, done = together([(how, batch, each, crew.in_flight, crew.quota)] * crew.workers)
    after = Books.of(url)
    assert done == count, (done, count)
    return {
        "cpu": (cpu + planned) / done * 1000,
        "database": (after.cpu - before.cpu) / cpu,
        "commits": (after.commits - before.commits) / done,
        "wal": (after.wal - before.wal) / done / 1024,
    }


def tables(*, quick: bool) -> list[Table]:
    with postgres() as url, tempfile.TemporaryDirectory() as folder:
        rounds = interleaved(
            list(CONTENDERS), partial(measure, url, Path(folder), COUNT), 2 if quick else ROUNDS
        )
    return [_table(rounds)]


def _table(rounds: Rounds) -> Table:
    over_file = {name: rounds.ratio(name, f"{crew}, {FILE}", "cpu") for name, (crew, _) in CONTENDERS.items()}
    single, crowd = f"{CREWS[0]}, {SHARED}", f"{CREWS[1]}, {SHARED}"
    return Table(
        title="Many workers: one batch in Postgres",
        how=f"{COUNT:,} requests a measurement, {len(rounds.of[crowd])} interleaved rounds; workers x requests that "
        "each has in flight. The service is memory in each worker's process and answers after "
        f"{LATENCY[0] * 1000:.0f} to {LATENCY[1] * 1000:.0f} ms. CPU is that of all workers and of planning, beside as "
        "many processes that share nothing and keep a journal in a file each; commits, log and CPU of Postgres are "
        "from taking the first row to the last outcome.",
        header=(
            "workers, journal",
            "CPU ms a request",
            "over files",
            "Postgres' CPU over the workers'",
            "commits a request",
            "KB of log a request",
        ),
        rows=[
            (
                name,
                Figure(rounds.values(name, "cpu"), "{:.2f}"),
                f"{over_file[name]:.2f}",
                *(
                    Figure(found, "{:.2f}") if (found := rounds.values(name, figure)) else ""
                    for figure in ("database", "commits", "wal")
                ),
            )
            for name in CONTENDERS
        ],
        bars=[
            Bar(what="CPU, one worker with Postgres over a file", measured=over_file[single], at_most=1.0),
            Bar(
                what="CPU, four workers with Postgres over a file each",
                measured=over_file[crowd],
                at_most=1.0,
            ),
            Bar(
                what="Postgres' CPU over that of four workers",
                measured=rounds.median(crowd, "database"),
                at_most=0.5,
            ),
            Bar(
                what="commits a request, four workers", measured=rounds.median(crowd, "commits"), at_most=0.6
            ),
            Bar(what="KB of log a request, four workers", measured=rounds.median(crowd, "wal"), at_most=1.6),
        ],
        headlines=[
            Headline(
                what="many workers: CPU a request with a shared journal",
                ours=f"{rounds.median(crowd, 'cpu'):.2f} ms",
                peer=f"{rounds.median(f'{CREWS[1]}, {FILE}', 'cpu'):.2f} ms with a file each",
            )
        ],
    )


if __name__ == "__main__":
    how, journal, *numbers = sys.argv[1:]
    print(json.dumps(asyncio.run(run(how, journal, *map(int, numbers)))))
