"""Ways to stay under a limit of images per minute, each a coroutine, in virtual time.

A request takes 0 to 0.3 s to reach the server; a 429 is answered by waiting and asking again.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import aiolimiter
import pyrate_limiter
from attrs import define, field, frozen
from pyrate_limiter.clocks import MonotonicClock

from benchmarks._window_world import ENDPOINT, MINUTE, Server, most_in_a_minute
from novita_async._purchase.machine import REJECTED, SPENT
from novita_async._submit.pool import SessionPool
from novita_async.models.accounts import Account
from novita_async.testing import run_virtually

FARTHEST = 0.3


@define
class Service:
    """The server behind a network."""

    server: Server
    dice: random.Random
    accepted: list[tuple[float, int]] = field(factory=list)
    refused: int = 0

    async def send(self, images: int) -> bool:
        await asyncio.sleep(self.dice.random() * FARTHEST)
        now = asyncio.get_running_loop().time()
        if not self.server.admit(images, now):
            self.refused += 1
            return False
        self.accepted.append((now, images))
        return True

    def backoff(self, failures: int) -> float:
        """Exponential with full jitter, 1 s to 30 s: what most programs do."""
        return min(30.0, 2.0**failures) * self.dice.random()


Send = Callable[[int], Awaitable[None]]
"""Sends a request of so many images until it is accepted."""
Client = Callable[[Service, int], Send]
"""Makes that for a service and the quota that is known."""


async def until_accepted(service: Service, images: int) -> None:
    failures = 0
    while not await service.send(images):
        await asyncio.sleep(service.backoff(failures))
        failures += 1


def known(service: Service, quota: int) -> Send:
    return _ours(service, quota)


def unknown(service: Service, _: int) -> Send:
    return _ours(service, None)


def _ours(service: Service, quota: int | None) -> Send:
    pool = SessionPool.of([Account(api_key="key", images_per_minute=quota)], 1e9)

    async def send(images: int) -> None:
        turn: int | None = None
        while True:
            permit = await pool.acquire(ENDPOINT, images, turn=turn)
            accepted = await service.send(images)
            now = asyncio.get_running_loop().time()
            pool.settle(permit, SPENT if accepted else REJECTED, now, jitter=service.dice.random())
            if accepted:
                return
            turn = permit.turn

    return send


def aiolimited(service: Service, quota: int) -> Send:
    limiter = aiolimiter.AsyncLimiter(quota, MINUTE)

    async def send(images: int) -> None:
        await limiter.acquire(images)
        await until_accepted(service, images)

    return send


def pyrated(service: Service, quota: int) -> Send:
    loop = asyncio.get_running_loop()
    MonotonicClock._get_monotonic_ms = staticmethod(lambda: int(loop.time() * 1000))  # noqa: SLF001 - virtual
    bucket = pyrate_limiter.InMemoryBucket([pyrate_limiter.Rate(quota, pyrate_limiter.Duration.MINUTE)])
    limiter = pyrate_limiter.Limiter(bucket)

    async def send(images: int) -> None:
        await limiter.try_acquire_async("images", images)
        await until_accepted(service, images)

    return send


def paced(service: Service, quota: int) -> Send:
    """One by one, evenly."""
    next_at = 0.0

    async def send(images: int) -> None:
        nonlocal next_at
        now = asyncio.get_running_loop().time()
        at, next_at = max(now, next_at), max(now, next_at) + images * MINUTE / quota
        await asyncio.sleep(at - now)
        await until_accepted(service, images)

    return send


def semaphore(service: Service, _: int) -> Send:
    slots = asyncio.Semaphore(64)

    async def send(images: int) -> None:
        async with slots:
            await until_accepted(service, images)

    return send


def gathered(service: Service, _: int) -> Send:
    """All at once."""
    return lambda images: until_accepted(service, images)


@frozen
class Run:
    """What became of one run."""

    makespan: float
    refused: float
    """429s per request."""
    most: int
    """Images that the server saw in any 60 s."""
    heavy: float = 0.0
    """Seconds from the arrival of a request of 8 images to its acceptance."""


def all_at_once(client: Client, server: Server, requests: list[int], quota: int, seed: int) -> Run:
    """Everything is there at the beginning."""

    async def main() -> Run:
        service = Service(server, random.Random(seed))
        send = client(service, quota)
        await asyncio.gather(*[send(images) for images in requests])
        return _run(service, len(requests))

    return run_virtually(main)


def heavy_among_light(client: Client, server: Server, quota: int, seed: int) -> Run:
    """Single images for an hour at nine tenths of the quota, and after five minutes one request of 8."""

    async def main() -> Run:
        loop = asyncio.get_running_loop()
        service = Service(server, random.Random(seed))
        send = client(service, quota)
        gap = MINUTE / (0.9 * quota)
        light = int(3600 / gap)
        done: list[float] = []

        async def arriving(at: float, images: int) -> None:
            await asyncio.sleep(at)
            began = loop.time()
            await send(images)
            if images > 1:
                done.append(loop.time() - began)

        await asyncio.gather(*[arriving(n * gap, 1) for n in range(light)], arriving(300.0, 8))
        run = _run(service, light + 1)
        return Run(run.makespan, run.refused, run.most, done[0])

    return run_virtually(main)


def _run(service: Service, requests: int) -> Run:
    return Run(service.accepted[-1][0], service.refused / requests, most_in_a_minute(service.accepted))


CLIENTS: dict[str, Any] = {
    "novita_async, quota known": known,
    "novita_async, quota unknown": unknown,
    "aiolimiter, then exponential": aiolimited,
    "pyrate-limiter, then exponential": pyrated,
    "paced one by one": paced,
    "semaphore 64, exponential": semaphore,
    "gather, exponential": gathered,
}
