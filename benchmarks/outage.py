"""An outage of a minute, in virtual time: how long a batch takes, what it sends meanwhile, and what is in doubt."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import tenacity
from aiohttp_retry import ExponentialRetry
from attrs import define

from benchmarks._server import about
from benchmarks._tables import Bar, Headline, Table
from benchmarks.batch import DONE
from novita_async import Img2Img, NovitaClient, Polling, Uncertain
from novita_async._http import HTTPRequest, HTTPResponse
from novita_async.testing import run_virtually, sample_picture

COUNT, IN_FLIGHT, LATENCY = 2_000, 64, 0.2
BEGIN, LENGTH = 2.0, 60.0
GATEWAY = b"<html><body><h1>503 Service Temporarily Unavailable</h1></body></html>"
OURS = "novita_async"


@define
class Service:
    """Takes every purchase, but for a while in which a gateway answers instead."""

    length: float
    """Seconds of the outage."""
    bought: int = 0
    posts: int = 0
    """Requests that were met by the outage."""

    async def send(
        self, request: HTTPRequest, *_: object, on_handover: Callable[[], None] | None = None
    ) -> HTTPResponse:
        if on_handover:
            on_handover()
        await asyncio.sleep(LATENCY)
        if request.method == "GET":
            return HTTPResponse(status=503, body=GATEWAY) if self.is_out() else self._about(request)
        return self.post()

    def is_out(self) -> bool:
        return BEGIN <= asyncio.get_running_loop().time() < BEGIN + self.length

    def post(self) -> HTTPResponse:
        """Take a purchase that has come."""
        if self.is_out():
            self.posts += 1
            return HTTPResponse(status=503, body=GATEWAY)
        self.bought += 1
        return HTTPResponse(status=200, body=b'{"task_id":"%036d"}' % self.bought)

    def _about(self, request: HTTPRequest) -> HTTPResponse:
        if not request.query:
            return HTTPResponse(status=200, body=b'{"availableBalance": 1000000}')
        return HTTPResponse(status=200, body=about(request.query[0][1], DONE))

    async def aclose(self) -> None: ...


async def ours(service: Service) -> dict[str, float]:
    picture = sample_picture(1)
    wish = Img2Img(model_name="m", image=picture, prompt="a dog", width=128, height=128)
    uncertain = 0
    options: dict[str, Any] = {"images_per_minute": 10**9, "polling": Polling(polls_per_second=200)}
    async with (
        NovitaClient("sk_benchmark", transport=service, **options) as client,
        client.stream(wish.sweep(seed=range(COUNT)), in_flight=IN_FLIGHT) as outcomes,
    ):
        async for outcome in outcomes:
            uncertain += isinstance(outcome, Uncertain)
    return {"told": uncertain, "again": 0.0, "failed": COUNT - service.bought - uncertain}


async def each(service: Service, until_taken: Callable[[Service], Awaitable[Any]]) -> dict[str, float]:
    """All requests, so many at once, each sent until it is taken or given up."""
    slots, failed = asyncio.Semaphore(IN_FLIGHT), 0

    async def one() -> None:
        nonlocal failed
        async with slots:
            try:
                await until_taken(service)
            except (tenacity.RetryError, ConnectionError):
                failed += 1

    await asyncio.gather(*[one() for _ in range(COUNT)])
    again = service.posts - failed
    return {"told": 0.0, "again": max(0, again), "failed": failed}


async def posted(service: Service) -> HTTPResponse:
    await asyncio.sleep(LATENCY)
    response = service.post()
    if response.status != 200:
        raise ConnectionError
    return response


def tenacious(attempts: int) -> Callable[[Service], Awaitable[Any]]:
    retrying = tenacity.AsyncRetrying(
        wait=tenacity.wait_random_exponential(multiplier=1, max=30),
        stop=tenacity.stop_after_attempt(attempts),
    )
    return lambda service: retrying(posted, service)


def aiohttp_retried(attempts: int) -> Callable[[Service], Awaitable[Any]]:
    """Its own schedule of waits; its session would need sockets, which have no virtual time."""

    async def until_taken(service: Service) -> None:
        options = ExponentialRetry(attempts=attempts)
        for attempt in range(1, attempts + 1):
            try:
                await posted(service)
            except ConnectionError:
                if attempt == attempts:
                    raise
                await asyncio.sleep(options.get_timeout(attempt))
            else:
                return

    return until_taken


CLIENTS: dict[str, Callable[[Service], Awaitable[dict[str, float]]]] = {
    OURS: ours,
    "tenacity, 5 attempts": lambda service: each(service, tenacious(5)),
    "tenacity, 20 attempts": lambda service: each(service, tenacious(20)),
    "aiohttp-retry, 3 attempts": lambda service: each(service, aiohttp_retried(3)),
    "aiohttp-retry, 20 attempts": lambda service: each(service, aiohttp_retried(20)),
}


def run(name: str, length: float) -> dict[str, float]:
    random.seed(0)

    async def main() -> dict[str, float]:
        service, began_at = Service(length), asyncio.get_running_loop().time()
        found = await CLIENTS[name](service)
        return found | {"took": asyncio.get_running_loop().time() - began_at, "posts": service.posts}

    return run_virtually(main)


def measure(name: str) -> dict[str, float]:
    """With the outage, and how long it took over what it takes without and the outage."""
    found = run(name, LENGTH)
    return found | {"makespan": found["took"] / (run(name, 0.0)["took"] + LENGTH)}


def tables(*, quick: bool) -> list[Table]:  # noqa: ARG001 - it is quick
    found = {name: measure(name) for name in CLIENTS}
    mine = found[OURS]
    return [
        Table(
            title="Outage: a minute of 503 from a gateway",
            how=f"Virtual time; {COUNT:,} requests, {IN_FLIGHT} in flight, {LATENCY} s each; after {BEGIN:g} s a gateway "
            f"answers 503 with a page for {LENGTH:g} s. Makespan is over the client's own without an outage, and the minute. Such an "
            "answer does not tell whether the service has taken the purchase. *Told as uncertain* is what the user "
            "gets to decide; *sent again* is what may pay twice.",
            header=("client", "makespan", "posts in the outage", "told as uncertain", "sent again", "failed"),
            rows=[
                (
                    name,
                    f"{each['makespan']:.2f}",
                    *(f"{each[figure]:,.0f}" for figure in ("posts", "told", "again", "failed")),
                )
                for name, each in found.items()
            ],
            bars=[
                Bar(what="makespan", measured=mine["makespan"], at_most=1.15, slack=1.0),
                Bar(
                    what="told as uncertain",
                    measured=mine["told"],
                    at_most=IN_FLIGHT + 12,
                    form="{:.0f}",
                    slack=1.0,
                ),
                Bar(what="failed", measured=mine["failed"], at_most=0, form="{:.0f}", slack=1.0),
            ],
            headlines=[
                Headline(
                    what=f"a minute of 503 in {COUNT:,} requests: uncertain, sent again, failed",
                    ours=" / ".join(f"{mine[figure]:,.0f}" for figure in ("told", "again", "failed")),
                    peer="; ".join(
                        f"{' / '.join(f'{found[name][figure]:,.0f}' for figure in ('told', 'again', 'failed'))} "
                        f"({name})"
                        for name in ("tenacity, 20 attempts", "aiohttp-retry, 3 attempts")
                    ),
                )
            ],
        )
    ]
