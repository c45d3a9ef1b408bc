"""Workers whose database dies, and whose place another takes: one that is five seconds behind, and one that is not.

    python -m benchmarks.soak_failover

While the workers live, nothing is bought twice and the window holds in either case, and the budget is right again
before anyone buys.
"""

import argparse
import asyncio
import tempfile
import time
from functools import partial
from pathlib import Path

import anyio

from tests.helpers import worker_campaigns
from tests.helpers.failover import Pair, pair
from tests.helpers.postgres import run_sql
from tests.helpers.served import served
from tests.helpers.worker_campaigns import Campaign


async def fail_over(campaign: Campaign, pair: Pair, folder: Path) -> dict[str, int]:
    """Let workers work a batch off, and the database fail over on the way; compare all books."""
    url = f"{pair.url}#spring"
    with served(images_per_minute=100_000, latency=0.05) as server:
        await worker_campaigns._plan(campaign, url, folder)  # noqa: SLF001
        await pair.catch_up()
        start = partial(worker_campaigns._start, campaign, url, server.url, folder)  # noqa: SLF001
        running = [start(number) for number in range(campaign.workers)]
        try:
            await worker_campaigns._progress(server, campaign.requests // 2, running)  # noqa: SLF001
            done = len(server.ledger.accepted)
            await pair.fail_over()
            (there,) = await run_sql(pair.url, "SELECT count(*) FROM novita.course WHERE attempts > 0")
            began = time.monotonic()
            for each in running:
                finished = await anyio.to_thread.run_sync(each.finish)
                assert finished.returncode in (0, None), finished.stderr
            rest = time.monotonic() - began
        finally:
            for each in running:
                each.kill()
        everything = set(range(1, campaign.requests + 1))
        found = await worker_campaigns._compared(campaign, url, server, everything)  # noqa: SLF001
        (money,) = await run_sql(pair.url, "SELECT spent, reserved FROM novita.budget")
        images = server.ledger.images
    found |= {"bought before": done, "forgotten": done - there[0], "seconds after": round(rest)}
    assert money["reserved"] == 0, dict(money)
    assert int(money["spent"] * 100) == images, (dict(money), images)
    return found


async def campaign(delay: float, *, synchronous: bool, requests: int, lease: float) -> None:
    told = Campaign(
        requests=requests, workers=4, quota=240, stall=lease, window=5.0, in_flight=64, budget="1000"
    )
    async with pair(delay=delay, synchronous=synchronous) as servers:
        with tempfile.TemporaryDirectory() as folder:
            found = await fail_over(told, servers, Path(folder))
    kind = "synchronous" if synchronous else f"{delay:g} s behind"
    print(f"failover: {kind}: {found}, quota {told.quota}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Failovers.")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--lease", type=float, default=4.0)
    parser.add_argument("names", nargs="*", default=["synchronous", "behind"])
    told = parser.parse_args()
    more = {"requests": told.requests, "lease": told.lease}
    if "synchronous" in told.names:
        asyncio.run(campaign(0.0, synchronous=True, **more))
    if "behind" in told.names:
        asyncio.run(campaign(5.0, synchronous=False, **more))


if __name__ == "__main__":
    main()
