"""A batch in Postgres, and processes that work it off and are killed; the service is a file of arrivals."""

import os
import random
import time
from collections import Counter
from pathlib import Path

import anyio

from novita_async._purchase.machine import (
    ANNOUNCED,
    PLANNED,
    SEND,
    SUCCEEDED,
    UNCERTAIN,
    WATCH,
    Announced,
    Bought,
    Completed,
    Purchase,
    advance,
    next_action,
)
from novita_async._util.clock import loop_time
from novita_async.journal import Deferred, LeaseLost, PostgresJournal
from tests.helpers.journals import asked
from tests.helpers.programs import Program, python
from tests.helpers.purchases import result, task

ROOT = Path(__file__).parents[2]
LEASE, WINDOW, QUOTA, TAKEN = 2.0, 1.0, 60, 20


async def work(url: str, service: str) -> None:
    """Work until the batch is complete; begin anew where this process was taken for dead."""
    arrivals = os.open(service, os.O_WRONLY | os.O_APPEND)
    done = False
    while not done:
        journal = await PostgresJournal.join(url, quotas={"a": QUOTA}, lease=LEASE, window=WINDOW)
        try:
            while not await journal.complete():
                async with anyio.create_task_group() as group:
                    for purchase in await journal.take(TAKEN):
                        group.start_soon(bring, journal, purchase, arrivals)
                await anyio.sleep(0.05)
            done = True
        except* LeaseLost:
            pass
        await journal.aclose()


async def bring(journal: PostgresJournal, purchase: Purchase, arrivals: int) -> None:
    """Buy a purchase and see its end, from where it stands."""
    while next_action(purchase) is SEND:
        fact = Announced(loop_time(), "a")
        try:
            await journal.admit(purchase, fact, None)
        except Deferred as deferred:
            await anyio.sleep_until(deferred.until)
            continue
        advance(purchase, fact)
        serial = purchase.entry.serial if purchase.entry else 0
        os.write(arrivals, f"{time.time()} {serial} {purchase.images}\n".encode())
        await anyio.sleep(random.random() * 0.05)
        bought = Bought(loop_time(), task(f"task-{serial}"))
        await journal.settle(purchase, bought)
        advance(purchase, bought)
    if next_action(purchase) is WATCH:
        await journal.record(purchase, Completed(loop_time(), result(purchase.paid_task.task_id)))


def start(url: str, service: Path) -> Program:
    code = f"import anyio, tests.helpers.shared_batches as s; anyio.run(s.work, {url!r}, {str(service)!r})"
    return Program.start(python("-c", code, flags=()), cwd=ROOT)


async def campaign(url: str, service: Path, *, requests: int, workers: int, kills: int) -> dict[str, int]:
    """Let processes work a batch off, kill some on the way, and compare the arrivals with the journal."""
    await anyio.Path(service).touch()
    async with await PostgresJournal.open(url) as journal:
        await journal.plan([asked(number, number, images=1 + number % 8) for number in range(requests)])
    running = [start(url, service) for _ in range(workers)]
    try:
        for kill in range(kills):
            await _await_arrivals(service, requests * (kill + 1) // (kills + 2), running)
            running.pop(0).kill()
            running.append(start(url, service))
        for each in running:
            await anyio.to_thread.run_sync(each.wait)
    finally:
        for each in running:
            each.kill()
    arrived = [line.split() for line in (await anyio.Path(service).read_text()).splitlines()]
    async with await PostgresJournal.open(url) as journal:
        rows = {each.entry.serial: each async for each in journal.where() if each.entry}
    times = Counter(int(serial) for _, serial, _ in arrived)
    assert max(times.values()) == 1, "bought twice"
    assert {each.state for each in rows.values()} <= {SUCCEEDED, UNCERTAIN}, "lost"
    assert all(serial in times for serial, each in rows.items() if each.state is SUCCEEDED)
    assert not any(rows[serial].state in (PLANNED, ANNOUNCED) for serial in times)
    uncertain = sum(each.state is UNCERTAIN for each in rows.values())
    assert uncertain <= kills * TAKEN, "only what was on its way is in doubt"
    return {"uncertain": uncertain, "most": most_in_a_window(arrived), "rows": len(rows)}


async def _await_arrivals(service: Path, count: int, running: list[Program]) -> None:
    while len((await anyio.Path(service).read_text()).splitlines()) < count:
        assert not any(each.ended for each in running)
        await anyio.sleep(0.02)


def most_in_a_window(arrived: list[list[str]]) -> int:
    """The most images that arrived in any window."""
    seen = sorted((float(at), int(images)) for at, _, images in arrived)
    return max(
        sum(images for at, images in seen[first:] if at < begin + WINDOW)
        for first, (begin, _) in enumerate(seen)
    )
