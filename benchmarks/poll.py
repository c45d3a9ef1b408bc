"""Polling: asking for a task over HTTP, 64 at a time, and decoding what comes."""

import asyncio
import json
import time
import timeit
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
import httpx
import httpx2
import msgspec
import orjson
from novita_client import NovitaClient as OfficialClient
from novita_client.proto import V3TaskResponse
from yarl import URL

from benchmarks import _wire as wire
from benchmarks._load import CONCURRENCY, Call, Entry, measured
from benchmarks._machine import pin, unpin
from benchmarks._rounds import Rounds, interleaved
from benchmarks._server import FINISHED, RUNNING, Server, server
from benchmarks._tables import Bar, Figure, Headline, Table
from novita_async import NovitaClient, Polling
from novita_async._api.protocol import read_snapshot
from novita_async._http import HTTPResponse
from novita_async.tasks import Task

THREADS = 64
TARGET = "/v3/async/task-result?task_id=one"

OURS = "novita_async"
READY = "aiohttp, tuned, ready request, orjson"
OFFICIAL = "novita-client, in threads"
LIMIT = "asyncio protocol, ready request"


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Call]:
    polling = Polling(polls_per_second=1e9)
    async with NovitaClient("sk_benchmark", base_url=url, polling=polling) as client:
        yield lambda: client.poll("one")


@asynccontextmanager
async def ready(url: str) -> AsyncIterator[Call]:
    target = URL(url + TARGET)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Authorization": "Bearer key", "Accept": "application/json"},
        timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=("User-Agent",),
    ) as session:

        async def ask() -> None:
            async with session.get(target, allow_redirects=False) as response:
                assert orjson.loads(await response.read())["task"]["status"]

        yield ask


@asynccontextmanager
async def plain_httpx(url: str) -> AsyncIterator[Call]:
    async with httpx.AsyncClient(headers={"Authorization": "Bearer key"}) as client:
        yield _asking(client, url)


@asynccontextmanager
async def plain_httpx2(url: str) -> AsyncIterator[Call]:
    async with httpx2.AsyncClient(headers={"Authorization": "Bearer key"}) as client:
        yield _asking(client, url)


def _asking(client: "httpx.AsyncClient | httpx2.AsyncClient", url: str) -> Call:
    async def ask() -> None:
        assert (await client.get(url + TARGET)).json()["task"]["status"]

    return ask


@asynccontextmanager
async def official(url: str) -> AsyncIterator[Call]:
    client = OfficialClient("key", base_url=url)
    with ThreadPoolExecutor(THREADS) as threads:
        loop = asyncio.get_running_loop()
        yield lambda: loop.run_in_executor(threads, client.async_task_result, "one")


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[Call]:
    async with wire.exchanges(url, wire.request("GET", TARGET)) as exchange:

        async def ask() -> None:
            assert orjson.loads(await exchange())["task"]["status"]

        yield ask


CONTENDERS: dict[str, Entry] = {
    READY: Entry(ready),
    OURS: Entry(ours),
    OFFICIAL: Entry(official, 0.2),
    "httpx2": Entry(plain_httpx2, 0.2),
    "httpx": Entry(plain_httpx, 0.1),
    LIMIT: Entry(raw, 3.0),
}
QUICK = (READY, OURS)


def one(service: Server, polls: int, name: str) -> dict[str, float]:
    return measured(CONTENDERS[name], service, polls)


# --- Decoding -----------------------------------------------------------------------------------------------

TASK = Task(task_id="73fab7c0-4bd3-4c8e-9c55-4bd3a1c0f5f0")
ANSWERS = {"still running": RUNNING, "1 image": FINISHED[1], "8 images": FINISHED[8]}
RESPONSES = {body: HTTPResponse(status=200, body=body) for body in ANSWERS.values()}
ORJSON, OUR_READING = "orjson.loads", "novita_async, everything"
DECODERS: dict[str, Callable[[bytes], object]] = {
    ORJSON: orjson.loads,
    "msgspec.json.decode": msgspec.json.decode,
    "json.loads": json.loads,
    OUR_READING: lambda body: read_snapshot(RESPONSES[body], TASK),
    "novita-client": lambda body: V3TaskResponse.from_dict(json.loads(body)),
}


def decode(name: str) -> dict[str, float]:
    """Microseconds of CPU for each answer; the best of a few, because it is short."""
    decoder, figures = DECODERS[name], {}
    for what, body in ANSWERS.items():
        took = min(timeit.repeat(partial(decoder, body), timer=time.thread_time, number=200, repeat=7)) / 200
        figures[what] = took * 1e6
    return figures


def decoding(rounds: Rounds) -> Table:
    return Table(
        title="Poll: decoding an answer",
        how=f"Microseconds of CPU, from bytes to values; {len(rounds.of[ORJSON])} interleaved rounds. "
        "The official client gives its classes, this one a `Snapshot`, with its `TaskResult` where the task is done: all that a stream needs.",
        header=("decoder", *ANSWERS),
        rows=[
            (name, *(Figure(rounds.values(name, what), "{:.1f}") for what in ANSWERS)) for name in DECODERS
        ],
        bars=[
            Bar(
                what=f"{what}, against orjson.loads",
                measured=rounds.ratio(OUR_READING, ORJSON, what),
                at_most=most,
            )
            for what, most in (("still running", 2.0), ("1 image", 2.3), ("8 images", 3.8))
        ],
        notes=[f"limit: {ORJSON}"],
        headlines=[
            Headline(
                what=f"decoding a poll's answer, {what}",
                ours=f"{rounds.median(OUR_READING, what):.1f} us",
                peer=f"{rounds.median('novita-client', what):.1f} us (novita-client)",
                limit=f"{rounds.median(ORJSON, what):.1f} us (orjson.loads)",
            )
            for what in ("still running", "8 images")
        ],
    )


def exchanging(names: tuple[str, ...], rounds: Rounds) -> Table:
    return Table(
        title="Poll: asking over HTTP",
        how=f"`GET /v3/async/task-result`, answered with a finished task of one image, {CONCURRENCY} at a time over "
        f"loopback, decoded; {len(rounds.of[OURS])} interleaved rounds. Client and server on a core each; the last "
        "column is how busy the server's was.",
        header=("client", "polls/s", "against the first", "CPU ms a poll", "server's core"),
        rows=[
            (
                name,
                Figure(rounds.values(name, "rate"), "{:,.0f}"),
                Figure(rounds.ratios(name, READY, "rate")),
                Figure(rounds.values(name, "cpu_ms"), "{:.3f}"),
                Figure([rounds.median(name, "server")], "{:.0%}"),
            )
            for name in names
        ],
        notes=[f"limit: {LIMIT}"],
        headlines=[
            Headline(
                what="polls a second",
                ours=f"{rounds.median(OURS, 'rate'):,.0f}",
                peer=f"{rounds.median(OFFICIAL, 'rate'):,.0f} (novita-client)",
                limit=f"{rounds.median(LIMIT, 'rate'):,.0f} (asyncio protocol)",
            )
        ]
        if LIMIT in names
        else [],
    )


def tables(*, quick: bool) -> list[Table]:
    names = QUICK if quick else tuple(CONTENDERS)
    pin(0)
    with server() as service:
        rounds = interleaved(names, partial(one, service, 2000 if quick else 3000), 3 if quick else 5)
    decoded = interleaved(list(DECODERS), decode, 3 if quick else 7)
    unpin()
    return [exchanging(names, rounds), decoding(decoded)]
