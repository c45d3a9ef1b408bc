"""Submitting: 20 KB bodies, 64 at a time, answers read. Requests a second, against bare aiohttp.

    python benchmarks/submit.py [--rounds 5] [--requests 3000]

A contender is a name and an async context manager that, given the server's URL, hands out `submit()`. The
others are compared with the first.
"""

import argparse
import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import aiohttp
from _common import interleaved, median, pin, ratio, server, table
from yarl import URL

from novita_async import Img2Img, NovitaClient
from novita_async._http import HTTPRequest
from novita_async._transport import AiohttpTransport
from novita_async.models.accounts import ApiKey
from novita_async.models.images import ImageSource

CONCURRENCY = 64
PICTURE = os.urandom(14_800)
HEAD, TAIL = (
    b'{"request":{"prompt":"a cute dog","image_base64":"',
    b'","width":512,"height":512,"image_num":1}}',
)
BODY = HEAD + base64.b64encode(PICTURE) + TAIL
PATH = "/v3/async/img2img"

Submit = Callable[[], Awaitable[object]]
Contender = Callable[[str], AbstractAsyncContextManager[Submit]]


@asynccontextmanager
async def bare(url: str) -> AsyncIterator[Submit]:
    """aiohttp as most people use it, with ready bytes."""
    headers = {"Authorization": "Bearer key", "Content-Type": "application/json"}
    async with aiohttp.ClientSession() as session:

        async def submit() -> None:
            async with session.post(url + PATH, data=BODY, headers=headers) as response:
                assert (await response.read()).startswith(b'{"task_id"')

        yield submit


@asynccontextmanager
async def tuned(url: str) -> AsyncIterator[Submit]:
    """aiohttp with everything that can be made ready made ready."""
    headers = {"Authorization": "Bearer key", "Content-Type": "application/json"}
    target = URL(url + PATH)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=("User-Agent",),
    ) as session:

        async def submit() -> None:
            async with session.post(target, data=BODY, allow_redirects=False) as response:
                assert (await response.read()).startswith(b'{"task_id"')

        yield submit


@asynccontextmanager
async def transport(url: str) -> AsyncIterator[Submit]:
    """Our transport: the picture is encoded in it, the hand-over told."""
    carrier = AiohttpTransport(url)
    key = ApiKey("key")
    picture = ImageSource.from_bytes(PICTURE)

    async def submit() -> None:
        request = HTTPRequest(method="POST", path=PATH, body=(HEAD, picture, TAIL))
        response = await carrier.send(request, key, on_handover=lambda: None)
        assert response.body.startswith(b'{"task_id"')

    yield submit
    await carrier.aclose()


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Submit]:
    """Everything: build and check the request, window, encode, send, decode."""
    picture = ImageSource.from_bytes(PICTURE)
    async with NovitaClient("sk_benchmark", base_url=url, images_per_minute=10**9) as ours:

        async def submit() -> None:
            await ours.submit(Img2Img(model_name="m", image=picture, prompt="a", width=512, height=512))

        yield submit


CONTENDERS: dict[str, Contender] = {
    "aiohttp, ready bytes": bare,
    "aiohttp, tuned": tuned,
    "our transport": transport,
    "our client, everything": client,
}


async def run(contender: Contender, url: str, requests: int) -> dict[str, float]:
    async with contender(url) as submit:
        left = iter(range(requests))

        async def worker() -> None:
            for _ in left:
                await submit()

        await asyncio.gather(*[submit() for _ in range(CONCURRENCY)])
        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*[worker() for _ in range(CONCURRENCY)])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"rate": requests / wall, "cpu_ms": cpu / requests * 1000, "cpu_rate": requests / cpu}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=3000)
    options = parser.parse_args()
    pin(0)
    names = list(CONTENDERS)
    with server() as url:
        results = interleaved(
            names, lambda name: asyncio.run(run(CONTENDERS[name], url, options.requests)), options.rounds
        )
    print(f"{len(BODY):,} bytes, {CONCURRENCY} at a time, median of {options.rounds} rounds")
    table(
        ("", "requests/s", "against the first", "CPU ms each", "CPU against the first"),
        [
            (
                name,
                f"{median(results, name, 'rate'):,.0f}",
                f"{ratio(results, name, names[0], 'rate'):.2f}",
                f"{median(results, name, 'cpu_ms'):.3f}",
                f"{ratio(results, name, names[0], 'cpu_rate'):.2f}",
            )
            for name in names
        ],
    )


if __name__ == "__main__":
    main()
