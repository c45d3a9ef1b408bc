"""Workers of one batch as processes that are killed, with wrong clocks and a database that crashes."""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import asyncpg
from attrs import evolve, field, frozen

from novita_async import Budget, Endpoints, Img2Img, NovitaClient, Polling
from novita_async._files.places import storage_at
from novita_async._journal.postgres import journal as postgres_journal
from novita_async._policy import pacing
from novita_async._purchase.machine import SAVED, UNCERTAIN
from novita_async._stream.planning import BatchPlanner
from novita_async.journal import PostgresJournal
from novita_async.testing import Fault, FaultPlan, Ledger
from tests.helpers.postgres import run_sql
from tests.helpers.programs import Program, python
from tests.helpers.served import served
from tests.helpers.service import requests

ROOT = Path(__file__).parents[2]


@frozen(kw_only=True)
class Campaign:
    """What is done to a batch, and to those who work on it."""

    requests: int = 40
    workers: int = 3
    kills: int = 2
    crashes: int = 0
    """How often the database crashes."""
    slow: tuple[int, ...] = (3, 20)
    """Submissions whose answer takes three times the stall time."""
    stall: float = 2.0
    window: float = 3.0
    quota: int = 16
    in_flight: int = 8
    budget: str | None = None
    """The most that may be spent, at a cent an image."""
    skews: tuple[float, ...] = (0.0, 37.0, -120.0)
    """Seconds by which the clocks of workers are wrong, in turn."""
    seed: int = field(default=1)


def run_worker(url: str, base_url: str, out: str, settings: str) -> None:
    """Work until the batch is complete, with another clock and shorter windows than the usual."""
    told = json.loads(settings)
    clock = time.time
    time.time = lambda: clock() + told["skew"]
    pacing.WINDOW = told["window"]
    postgres_journal.store_at.__kwdefaults__["window"] = told["window"]
    anyio.run(partial(_work, url, base_url, out, told))


async def _work(url: str, base_url: str, out: str, told: dict[str, float]) -> None:
    client = NovitaClient(
        "sk_simulator",
        base_url=base_url,
        images_per_minute=told["quota"],
        polling=Polling.fixed(0.2),
        budget=Budget(limit=told["budget"], price="0.01") if told.get("budget") else None,
    )
    options = {"in_flight": told["in_flight"], "stall": told["stall"]}
    async with client, client.work(journal=url, save_to=out, **options) as outcomes:
        async for outcome in outcomes:
            sys.stdout.write(f"{type(outcome).__name__}\n")
            sys.stdout.flush()


def _start(campaign: Campaign, url: str, base_url: str, out: Path, number: int) -> Program:
    told = {
        "skew": campaign.skews[number % len(campaign.skews)],
        "window": campaign.window,
        "quota": campaign.quota,
        "stall": campaign.stall,
        "in_flight": campaign.in_flight,
        "budget": campaign.budget,
    }
    arguments = ", ".join(map(repr, (url, base_url, str(out), json.dumps(told))))
    code = f"import tests.helpers.worker_campaigns as c; c.run_worker({arguments})"
    return Program.start(python("-c", code, flags=()), cwd=ROOT)


async def fight(campaign: Campaign, url: str, folder: Path) -> dict[str, int]:
    """Let workers work a batch off, kill some and crash the database on the way; compare all books."""
    slow = {number: Fault.slow(3 * campaign.stall) for number in campaign.slow}
    with served(faults=FaultPlan.listed("submit", slow), images_per_minute=100_000) as server:
        await _plan(campaign, url, folder)
        start = partial(_start, campaign, url, server.url, folder)
        running = [start(number) for number in range(campaign.workers)]
        on_its_way: set[int] = set()
        events = ["kill"] * campaign.kills + ["crash"] * campaign.crashes
        random.Random(campaign.seed).shuffle(events)
        try:
            for number, event in enumerate(events):
                await _progress(server, campaign.requests * (number + 1) // (len(events) + 1), running)
                if event == "kill":
                    running.pop(0).kill()
                    running.append(start(campaign.workers + number))
                else:
                    await _crash(url)
                on_its_way |= await _doubtful(url)
            for each in running:
                await anyio.to_thread.run_sync(each.wait)
        finally:
            for each in running:
                each.kill()
        return await _compared(campaign, url, server, on_its_way)


async def work_off(campaign: Campaign, url: str, folder: Path, sizes: list[int]) -> Ledger:
    """Let workers that nothing disturbs work off requests of so many images; give the service's books."""
    mixed = [evolve(each, image_num=images) for each, images in zip(requests(len(sizes)), sizes, strict=True)]
    with served(images_per_minute=100_000, latency=0.01) as server:
        await _put(mixed, url, folder)
        running = [_start(campaign, url, server.url, folder, number) for number in range(campaign.workers)]
        try:
            await _progress(server, len(sizes), running)
            for each in running:
                await anyio.to_thread.run_sync(each.wait)
        finally:
            for each in running:
                each.kill()
        assert len(server.ledger.accepted) == len(server.ledger.entries) == len(sizes)
        return server.ledger


async def _plan(campaign: Campaign, url: str, folder: Path) -> None:
    mixed = [each for number in range(1, 5) for each in requests(campaign.requests // 4, image_num=number)]
    await _put(mixed, url, folder)


async def _put(mixed: list[Img2Img], url: str, folder: Path) -> None:
    planner = BatchPlanner(endpoints=Endpoints(), storage=storage_at(folder))
    async with await PostgresJournal.join(url) as journal:
        assert await journal.enqueue(await planner.orders(mixed)) == len(mixed)


async def _progress(server, count: int, running: list[Program]) -> None:
    while len(server.ledger.accepted) < count and not all(each.ended for each in running):
        await anyio.sleep(0.02)
    failed = [each.finish().stderr for each in running if each.ended and each.wait() != 0]
    assert not failed, failed[0]


async def _doubtful(url: str) -> set[int]:
    """Serial numbers of rows that are on their way to the service, or were when a worker died."""
    found = await run_sql(
        url,
        "SELECT serial FROM novita.course c JOIN novita.batch b ON b.id = c.batch"
        " WHERE b.name = $1 AND state IN ('announced', 'uncertain')",
        url.partition("#")[2],
    )
    return {each["serial"] for each in found}


async def _crash(url: str) -> None:
    """Kill a process of the database, which then ends all others and recovers from its log."""
    ours = await asyncpg.connect(url.partition("#")[0])
    os.kill(ours.get_server_pid(), signal.SIGKILL)
    ours.terminate()
    while True:
        await asyncio.sleep(0.05)
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await run_sql(url, "SELECT 1")
            return


async def _compared(campaign: Campaign, url: str, server, on_its_way: set[int]) -> dict[str, int]:
    """Compare the books of the service with those of the database."""
    async with await PostgresJournal.look(url) as journal:
        rows = {(each.images, _seed(each)): each async for each in journal.where()}
    bought = Counter(
        (each.request["request"]["image_num"], each.request["request"]["seed"])
        for each in server.ledger.accepted
    )
    states = Counter(each.state for each in rows.values())
    uncertain = {each.entry.serial for each in rows.values() if each.state is UNCERTAIN}
    assert max(bought.values()) == 1, "bought twice"
    assert set(states) <= {SAVED, UNCERTAIN}, f"lost: {states}"
    assert all(rows[name].state is SAVED or rows[name].state is UNCERTAIN for name in bought)
    assert all(name in bought for name, each in rows.items() if each.state is SAVED)
    assert uncertain <= on_its_way, "only what was on its way is in doubt"
    most = server.ledger.most_images_in(campaign.window - 0.01)
    assert most <= campaign.quota, f"{most} images in a window of {campaign.quota}"
    return {"saved": states[SAVED], "uncertain": len(uncertain), "most": most, "rows": len(rows)}


def _seed(purchase) -> int:
    return json.loads(purchase.entry.request)["request"]["seed"]
