"""Watching: what each of many tasks costs while they are polled 2,000 times a second, and how late polls are.

Every measurement runs in a process of its own: `python -m benchmarks.watch speed|memory WAY TASKS`. Polls are answered in
memory, "still running", after one turn of the loop. All make the request of each poll, and read its answer.
"""

import asyncio
import gc
import heapq
import json
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
from attrs import define, field

from benchmarks._machine import pin
from benchmarks._rounds import Rounds, in_process, interleaved
from benchmarks._server import RUNNING, TASK_ID
from benchmarks._tables import Bar, Figure, Headline, Table
from novita_async import Account, Endpoints, NovitaClient, Polling
from novita_async._api import protocol
from novita_async._http import HTTPResponse
from novita_async._policy.polling.schedule import PollSchedule
from novita_async.tasks import Task

RATE = 2000
SECONDS = 1.5
SIZES = (1_000, 10_000, 100_000)
WORKERS = 16
ACCOUNT = "key"
ENDPOINTS = Endpoints()
BEGIN, END = RUNNING.split(TASK_ID.encode())
"""Of an answer, before and behind the task that it names: one about another task is no answer."""

OURS, LIMIT = "novita_async", "a heap of tuples, 16 workers"
ASYNCIO, ANYIO = "an asyncio task each", "an anyio task each"


@define
class Polls:
    """What was asked, and how late."""

    lateness: list[float] = field(factory=list)

    async def ask(self, task_id: str, due: float) -> HTTPResponse:
        self.lateness.append(asyncio.get_running_loop().time() - due)
        await asyncio.sleep(0)
        return HTTPResponse(status=200, body=BEGIN + task_id.encode() + END)

    async def poll(self, task: Task, due: float) -> None:
        """Poll as we do: the request is made, and the answer read."""
        assert protocol.poll(task.task_id, ENDPOINTS).path
        assert protocol.read_snapshot(await self.ask(task.task_id, due), task).state == "running"


Way = Callable[[list[Task], Polls, float], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def ours(tasks: list[Task], polls: Polls, every: float) -> AsyncIterator[None]:
    dues: dict[str, float] = {}
    put_off = PollSchedule._put_off  # noqa: SLF001 - knows when a poll was due, right before it is taken

    def noted(schedule: PollSchedule, entry: Any, now: float) -> bool:
        dues[entry.key] = entry.due
        return put_off(schedule, entry, now)

    class Transport:
        async def send(self, request: Any, *_: Any, **__: Any) -> HTTPResponse:
            task_id = request.query[0][1]
            return await polls.ask(task_id, dues.pop(task_id))

        async def aclose(self) -> None: ...

    PollSchedule._put_off = noted  # type: ignore[method-assign]  # noqa: SLF001
    polling = Polling.fixed(every, polls_per_second=1e9, concurrency=WORKERS)
    account = Account(api_key="sk_benchmark", label=ACCOUNT)
    client = NovitaClient(accounts=[account], transport=Transport(), polling=polling)
    async with client, client.watch(tasks):
        yield


@asynccontextmanager
async def heap(tasks: list[Task], polls: Polls, every: float) -> AsyncIterator[None]:
    due_polls = [(float(task.submitted_at or 0) + every, number) for number, task in enumerate(tasks)]
    heapq.heapify(due_polls)
    loop = asyncio.get_running_loop()

    async def worker() -> None:
        while True:
            due, number = due_polls[0]
            if due > (now := loop.time()):
                await asyncio.sleep(due - now)
                continue
            heapq.heappop(due_polls)
            await polls.poll(tasks[number], due)
            heapq.heappush(due_polls, (loop.time() + every, number))

    workers = [asyncio.create_task(worker()) for _ in range(WORKERS)]
    yield
    for one in workers:
        one.cancel()
    await asyncio.wait(workers)


@asynccontextmanager
async def asyncio_tasks(tasks: list[Task], polls: Polls, every: float) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()

    async def wait(task: Task) -> None:
        due = float(task.submitted_at or 0) + every
        while True:
            await asyncio.sleep(due - loop.time())
            await polls.poll(task, due)
            due = loop.time() + every

    waiting = [asyncio.create_task(wait(task)) for task in tasks]
    yield
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)


@asynccontextmanager
async def anyio_tasks(tasks: list[Task], polls: Polls, every: float) -> AsyncIterator[None]:
    async def wait(task: Task) -> None:
        due = float(task.submitted_at or 0) + every
        while True:
            await anyio.sleep_until(due)
            await polls.poll(task, due)
            due = anyio.current_time() + every

    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(wait, task)
        yield
        group.cancel_scope.cancel()


Kept = dict[tuple[str, int], float]
"""KB a task, by way and number of tasks."""
WAYS: dict[str, Way] = {OURS: ours, ASYNCIO: asyncio_tasks, ANYIO: anyio_tasks, LIMIT: heap}


def made(count: int, every: float) -> list[Task]:
    """Tasks whose polls are spread evenly, the first of them in a second."""
    begin = asyncio.get_running_loop().time() + 1.0 - every
    return [Task(task_id=f"{i:036}", submitted_at=begin + i / RATE, account=ACCOUNT) for i in range(count)]


async def speed(way: Way, count: int) -> dict[str, float]:
    polls, every = Polls(), count / RATE
    async with way(made(count, every), polls, every):
        gc.collect()
        await asyncio.sleep(1.3)  # what the beginning costs is over
        polls.lateness.clear()
        cpu = time.process_time()
        await asyncio.sleep(SECONDS)
        cpu = time.process_time() - cpu
        late = sorted(polls.lateness)
    return {
        "cpu": cpu / len(late) * 1e6,
        "p50": late[len(late) // 2] * 1000,
        "p99": late[int(len(late) * 0.99)] * 1000,
        "polls": len(late) / SECONDS,
    }


async def memory(way: Way, count: int) -> dict[str, float]:
    """Bytes a task, beside the tasks themselves and their ids."""
    tasks = made(count, 1000.0)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    async with way(tasks, Polls(), 1000.0):
        await asyncio.sleep(0.1)
        gc.collect()
        return {"memory": (tracemalloc.get_traced_memory()[0] - before) / count}


def one(name: str, count: int) -> dict[str, float]:
    return in_process("benchmarks.watch", "speed", name, str(count))


def size_of(name: str, count: int) -> float:
    """KB a task. Counted allocations do not vary, so once is enough."""
    return in_process("benchmarks.watch", "memory", name, str(count))["memory"] / 1000


def names_for(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """A hundred thousand anyio tasks take a minute to begin and to end."""
    return tuple(name for name in names if name != ANYIO or count < SIZES[-1])


def row(name: str, sizes: tuple[int, ...], rounds: dict[int, Rounds], kept: Kept) -> tuple[str | Figure, ...]:
    by_size = [
        (
            f"{kept[name, count]:.2f}",
            Figure(rounds[count].values(name, "cpu"), "{:.0f}"),
            Figure(rounds[count].values(name, "p99"), "{:,.1f}"),
        )
        if name in rounds[count].of
        else ("", "", "")
        for count in sizes
    ]
    return (name, *(cell for cells in by_size for cell in cells))


def tables(*, quick: bool) -> list[Table]:
    sizes = (10_000,) if quick else SIZES
    names = (OURS, LIMIT) if quick else tuple(WAYS)
    rounds = {
        count: interleaved(names_for(names, count), lambda name, n=count: one(name, n), 2 if quick else 5)
        for count in sizes
    }
    kept = {(name, count): size_of(name, count) for count in sizes for name in names_for(names, count)}
    most, last = rounds[sizes[-1]], sizes[-1]
    return [
        Table(
            title="Watch: many tasks",
            how=f"So many tasks, polled {RATE:,} times a second in all, answered in memory, their "
            "requests made and their answers read by all; "
            f"{len(most.of[OURS])} interleaved rounds of {SECONDS:g} s, each in a process of its own. KB a task beside "
            "the task and its id; microseconds of CPU a poll, everything included; milliseconds that 99 of 100 polls "
            "are at most late.",
            header=(
                "way",
                *(
                    f"{count:,}: {what}"
                    for count in sizes
                    for what in ("KB a task", "us a poll", "p99 ms late")
                ),
            ),
            rows=[row(name, sizes, rounds, kept) for name in names],
            bars=[
                Bar(
                    what=f"KB a task beside the task itself, {sizes[-1]:,} tasks",
                    measured=kept[OURS, last],
                    at_most=0.6,
                ),
                Bar(
                    what=f"CPU a poll, against a heap of tuples, {sizes[-1]:,} tasks",
                    measured=most.ratio(OURS, LIMIT, "cpu"),
                    at_most=1.4,
                ),
                Bar(
                    what=f"p99 of a poll's lateness, against a heap of tuples, {sizes[-1]:,} tasks",
                    measured=most.ratio(OURS, LIMIT, "p99"),
                    at_most=2.0,
                ),
            ],
            notes=[f"limit: {LIMIT}"],
            headlines=[
                Headline(
                    what=f"watching {sizes[-1]:,} tasks: p99 of lateness, memory a task",
                    ours=_summary(most, kept, OURS, last),
                    peer=f"{_summary(most, kept, ASYNCIO, last)} (a coroutine each)"
                    if ASYNCIO in names
                    else "",
                    limit=f"{_summary(most, kept, LIMIT, last)} (heap of tuples)",
                )
            ],
        )
    ]


def _summary(rounds: Rounds, kept: Kept, name: str, count: int) -> str:
    return f"{rounds.median(name, 'p99'):,.1f} ms, {kept[name, count]:.2f} KB"


if __name__ == "__main__":
    pin(0)
    measure = {"speed": speed, "memory": memory}[sys.argv[1]]
    print(json.dumps(asyncio.run(measure(WAYS[sys.argv[2]], int(sys.argv[3])))))
