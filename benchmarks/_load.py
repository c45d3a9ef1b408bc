"""One contender under load: so many calls, 64 at a time, and what they cost."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from attrs import frozen

from benchmarks._server import Server

CONCURRENCY = 64

Call = Callable[[], Awaitable[object]]


@frozen
class Entry:
    """Who takes part."""

    open: Callable[[str], AbstractAsyncContextManager[Call]]
    """Given the server's URL, hands out what is called."""
    share: float = 1.0
    """Of the calls: the slow ones are measured as long with fewer."""


def measured(entry: Entry, service: Server, calls: int) -> dict[str, float]:
    """Calls a second, CPU a call, and how busy the server's core was.

    The garbage collector walks through what a contender keeps, and not through the modules of all others, which
    would cost most whoever keeps anything.
    """
    gc.collect()
    gc.freeze()
    return asyncio.run(_run(entry, service, max(CONCURRENCY, int(calls * entry.share))))


async def _run(entry: Entry, service: Server, calls: int) -> dict[str, float]:
    async with entry.open(service.url) as call:
        left = iter(range(calls))

        async def worker() -> None:
            for _ in left:
                await call()

        await asyncio.gather(*[call() for _ in range(CONCURRENCY)])
        busy, wall, cpu = service.busy(), time.perf_counter(), time.process_time()
        await asyncio.gather(*[worker() for _ in range(CONCURRENCY)])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"rate": calls / wall, "cpu_ms": cpu / calls * 1000, "server": busy.until_now(wall)}
