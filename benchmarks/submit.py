"""Submitting: 20 KB bodies, 64 at a time, answers read. Requests a second, against bare aiohttp."""

import base64
import os
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path

import aiohttp
from yarl import URL

from benchmarks import _peers as peers
from benchmarks import _wire as wire
from benchmarks._load import CONCURRENCY, Entry, measured
from benchmarks._machine import pin, unpin
from benchmarks._peers import PATH, Contender, Picture, Submit
from benchmarks._rounds import Rounds, interleaved
from benchmarks._server import Server, server
from benchmarks._tables import Bar, Figure, Headline, Table
from novita_async import Budget, Img2Img, NovitaClient, SqliteJournal
from novita_async._http import HTTPRequest
from novita_async._journal.identity import DigestCache, order_of
from novita_async._transport.transport import AiohttpTransport
from novita_async.models.accounts import ApiKey
from novita_async.models.images import ImageSource

PICTURE = os.urandom(14_800)
READY = peers.body_of(PICTURE)

BARE = "aiohttp, ready bytes"
OURS = "novita_async, everything"
FULL = "novita_async, and observer, webhook, budget, journal"
OFFICIAL = "novita-client, in threads"
LIMIT = "asyncio protocol, ready bytes"


@asynccontextmanager
async def bare(url: str, _: Picture) -> AsyncIterator[Submit]:
    headers = {"Authorization": "Bearer key", "Content-Type": "application/json"}
    async with aiohttp.ClientSession() as session:

        async def submit() -> None:
            async with session.post(url + PATH, data=READY, headers=headers) as response:
                assert (await response.read()).startswith(b'{"task_id"')

        yield submit


@asynccontextmanager
async def tuned(url: str, _: Picture) -> AsyncIterator[Submit]:
    """With everything that can be made ready made ready."""
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
            async with session.post(target, data=READY, allow_redirects=False) as response:
                assert (await response.read()).startswith(b'{"task_id"')

        yield submit


@asynccontextmanager
async def raw(url: str, _: Picture) -> AsyncIterator[Submit]:
    async with wire.exchanges(url, wire.request("POST", PATH, READY)) as exchange:

        async def submit() -> None:
            assert (await exchange()).startswith(b'{"task_id"')

        yield submit


@asynccontextmanager
async def transport(url: str, picture: Picture) -> AsyncIterator[Submit]:
    """Our transport alone: the picture is encoded in it, the hand-over told."""
    carrier = AiohttpTransport(url)
    key = ApiKey("key")
    source = ImageSource.from_bytes(peers.read(picture))
    head, _, tail = READY.partition(base64.b64encode(PICTURE))

    async def submit() -> None:
        request = HTTPRequest(method="POST", path=PATH, body=(head, source, tail))
        response = await carrier.send(request, key, on_handover=lambda: None)
        assert response.body.startswith(b'{"task_id"')

    yield submit
    await carrier.aclose()


@asynccontextmanager
async def ours(url: str, picture: Picture) -> AsyncIterator[Submit]:
    """Build and check the request, window, encode, send, decode."""
    source = ImageSource.from_bytes(peers.read(picture))
    async with NovitaClient("sk_benchmark", base_url=url, images_per_minute=10**9) as client:

        async def submit() -> None:
            wish = Img2Img(model_name="m", image=source, prompt="a cute dog", width=512, height=512)
            await client.submit(wish)

        yield submit


@asynccontextmanager
async def full(url: str, picture: Picture) -> AsyncIterator[Submit]:
    """The same beside an observer, a webhook, a budget, and a journal on disk."""
    source, numbers, digests, seen = (
        ImageSource.from_bytes(peers.read(picture)),
        count(),
        DigestCache(),
        deque[object]([], 1),
    )
    client = NovitaClient(
        "sk_benchmark",
        base_url=url,
        images_per_minute=10**9,
        observers=[seen.append],
        webhook_url="https://example.org/hook",
        budget=Budget(limit=10**6, price=0.001),
    )
    with tempfile.TemporaryDirectory() as folder:
        async with client, await SqliteJournal.open(Path(folder) / "run.db") as journal:

            async def submit() -> None:
                number = next(numbers)
                wish = Img2Img(
                    model_name="m", image=source, prompt="a cute dog", width=512, height=512, seed=number
                )
                order = order_of(wish, endpoint=PATH, position=number, digest=digests)
                (purchase,) = await journal.plan([order])
                purchase.request = wish
                await client._buyer.buy(purchase)  # noqa: SLF001 - as `batch` does

            yield submit


def entry(contender: Contender, share: float = 1.0) -> Entry:
    """With the small picture."""
    return Entry(lambda url: contender(url, PICTURE), share)


CONTENDERS: dict[str, Entry] = {
    BARE: entry(bare),
    "aiohttp, tuned, ready bytes": entry(tuned),
    OURS: entry(ours),
    FULL: entry(full, 0.5),
    "novita_async, its transport alone": entry(transport),
    "aiohttp, json=": entry(peers.naive_aiohttp, 0.6),
    OFFICIAL: entry(peers.official, 0.2),
    "replicate": entry(peers.replicated, 0.06),
    "fal-client": entry(peers.fal, 0.06),
    "httpx2, json=": entry(peers.naive_httpx2, 0.1),
    "httpx, json=": entry(peers.naive_httpx, 0.05),
    LIMIT: entry(raw, 3.0),
}
QUICK = (BARE, OURS, OFFICIAL)


def one(service: Server, requests: int, name: str) -> dict[str, float]:
    return measured(CONTENDERS[name], service, requests)


def bars(rounds: Rounds) -> list[Bar]:
    return [
        Bar(
            what="everything, against aiohttp's post of ready bytes",
            measured=rounds.ratio(OURS, BARE, "rate"),
            at_least=0.85,
        ),
        Bar(
            what="everything, against the official client",
            measured=rounds.ratio(OURS, OFFICIAL, "rate"),
            at_least=4.0,
        ),
    ]


def headlines(rounds: Rounds) -> list[Headline]:
    rates = {name: f"{rounds.median(name, 'rate'):,.0f}" for name in CONTENDERS}
    return [
        Headline(
            what="small requests a second",
            ours=rates[OURS],
            peer=f"{rates[BARE]} ({BARE}), {rates[OFFICIAL]} (novita-client), {rates['replicate']} (replicate), "
            f"{rates['fal-client']} (fal-client)",
            limit=f"{rates[LIMIT]} (asyncio protocol)",
        )
    ]


def tables(*, quick: bool) -> list[Table]:
    names = QUICK if quick else tuple(CONTENDERS)
    pin(0)
    with server() as service:
        rounds = interleaved(names, partial(one, service, 1000), 6 if quick else 15)
    unpin()
    return [
        Table(
            title="Submit: small requests",
            how=f"{len(READY):,} bytes of JSON with a picture in it, {CONCURRENCY} at a time over loopback, "
            f"{len(rounds.of[OURS])} interleaved rounds, short ones, for a neighbour on the machine hits some of "
            "them; *by CPU* is the same ratio without the time that others took. Client and server on a core each; "
            "the last column is how busy the server's was. *Everything* is building and checking the request, the "
            "account's window, encoding, sending, and reading the answer, without observer, webhook, budget and "
            "journal; the row below has all four as well. Clients called *ready bytes* only send and read.",
            header=("client", "requests/s", f"against {BARE}", "by CPU", "CPU ms a request", "server's core"),
            rows=[
                (
                    name,
                    Figure(rounds.values(name, "rate"), "{:,.0f}"),
                    Figure(rounds.ratios(name, BARE, "rate")),
                    Figure(rounds.ratios(BARE, name, "cpu_ms")),
                    Figure(rounds.values(name, "cpu_ms"), "{:.3f}"),
                    Figure([rounds.median(name, "server")], "{:.0%}"),
                )
                for name in names
            ],
            bars=bars(rounds),
            notes=[f"limit: {LIMIT}"],
            headlines=[] if quick else headlines(rounds),
        )
    ]
