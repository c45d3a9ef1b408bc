"""Uploading: 32 pictures of 10 MB at once, base64 in JSON. Throughput, memory, blocks of the loop.

Every measurement runs in a process of its own: `python -m benchmarks.upload CONTENDER URL PICTURE`.
"""

import asyncio
import gc
import json
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pybase64
from yarl import URL

from benchmarks import _peers as peers
from benchmarks import _wire as wire
from benchmarks._machine import Pulse, forget_peak, peak, pin, resident
from benchmarks._peers import PATH, Contender, Picture, Submit
from benchmarks._rounds import Rounds, in_process, interleaved
from benchmarks._server import TASK_ID, Server, server
from benchmarks._tables import Bar, Figure, Headline, Table
from novita_async import Img2Img, NovitaClient
from novita_async._transport.body import RAW_SLICE
from novita_async.errors import NovitaWarning

UPLOADS = 32
SIZE = 10_000_000
BASE64 = 4 * ((SIZE + 2) // 3)

OURS = "novita_async, everything"
NAIVE = "aiohttp, json="
LIMIT = "asyncio protocol, ready bytes"
ENCODING = "asyncio protocol, encoding as it goes"


@asynccontextmanager
async def raw(url: str, picture: Picture) -> AsyncIterator[Submit]:
    target = URL(url)
    ready = memoryview(wire.request("POST", PATH, peers.body_of(picture)))

    async def submit() -> None:
        connection = await wire.Connection.to(str(target.host), int(target.port or 0))
        await connection.exchange(ready)
        connection.close()

    yield submit


@asynccontextmanager
async def encoding(url: str, picture: Picture) -> AsyncIterator[Submit]:
    """The same protocol, but reading the picture and encoding it as it goes: the least that has to be done."""
    target = URL(url)
    begin, end = peers.body_of(b"").split(b'"image_base64": ""')
    begin, end = begin + b'"image_base64": "', b'"' + end
    head = wire.head("POST", PATH, len(begin) + BASE64 + len(end))

    def pieces() -> Iterator[bytes]:
        yield head + begin
        with Path(str(picture)).open("rb") as file:
            while piece := file.read(RAW_SLICE):
                yield pybase64.b64encode(piece)
        yield end

    async def submit() -> None:
        connection = await wire.Connection.to(str(target.host), int(target.port or 0))
        await connection.stream(pieces())
        connection.close()

    yield submit


@asynccontextmanager
async def ours(url: str, picture: Picture) -> AsyncIterator[Submit]:
    async with NovitaClient("sk_benchmark", base_url=url, images_per_minute=10**9) as client:
        wish = Img2Img(model_name="m", image=picture, prompt="a cute dog", width=512, height=512)
        await client.poll(TASK_ID)  # connections and code paths are warm, as in a service
        yield lambda: client.submit(wish)


CONTENDERS: dict[str, Contender] = {
    LIMIT: raw,
    ENCODING: encoding,
    OURS: ours,
    NAIVE: peers.naive_aiohttp,
    "novita-client, in threads": peers.official,
    "replicate": peers.replicated,
    "fal-client": peers.fal,
    "httpx2, json=": peers.naive_httpx2,
    "httpx, json=": peers.naive_httpx,
}
QUICK = (LIMIT, ENCODING, OURS, NAIVE)


async def measured(contender: Contender, url: str, picture: Path) -> dict[str, float]:
    """Run all uploads at once."""
    async with contender(url, picture) as submit:
        gc.collect()
        forget_peak()
        idle, cpu = resident(), time.process_time()
        with Pulse(asyncio.get_running_loop()) as pulse:
            begun = time.perf_counter()
            await asyncio.gather(*[submit() for _ in range(UPLOADS)])
            took = time.perf_counter() - begun
        cpu = time.process_time() - cpu
        high = peak()
    megabytes = UPLOADS * BASE64 / 1e6
    return {
        "rate": megabytes / took,
        "memory": (high - idle) / 1e6,
        "cpu": cpu / megabytes * 1000,
        **{name: seconds * 1000 for name, seconds in pulse.longest.items()},
    }


def one(service: Server, picture: Path, name: str) -> dict[str, float]:
    busy, wall = service.busy(), time.perf_counter()
    figures = in_process("benchmarks.upload", name, service.url, str(picture))
    return figures | {"server": busy.until_now(time.perf_counter() - wall)}


def bars(rounds: Rounds) -> list[Bar]:
    return [
        Bar(
            what="peak memory above idle, MB",
            measured=rounds.median(OURS, "memory"),
            at_most=8,
            form="{:.1f}",
        ),
        Bar(
            what="throughput, against aiohttp's json=",
            measured=rounds.ratio(OURS, NAIVE, "rate"),
            at_least=8,
        ),
        Bar(
            what="CPU a MB, against a protocol that reads and encodes as it goes",
            measured=rounds.ratio(OURS, ENCODING, "cpu"),
            at_most=1.5,
        ),
        Bar(
            what="throughput, against a protocol that writes ready bytes",
            measured=rounds.ratio(OURS, LIMIT, "rate"),
            at_least=0.4,
        ),
        Bar(
            what="longest block of the loop, against aiohttp's json=",
            measured=rounds.block(OURS) / rounds.block(NAIVE),
            at_most=0.02,
            form="{:.3f}",
        ),
    ]


def headlines(rounds: Rounds) -> list[Headline]:
    def said(name: str) -> str:
        rate, memory, block = (rounds.median(name, what) for what in ("rate", "memory", "later_cpu"))
        return f"{rate:,.0f} MB/s, {memory:,.0f} MB, {block:,.1f} ms"

    return [
        Headline(
            what=f"{UPLOADS} uploads of 10 MB at once: speed, memory, longest block of the loop",
            ours=said(OURS),
            peer=f"{said('novita-client, in threads')} (novita-client); {said(NAIVE)} ({NAIVE})",
            limit=f"{rounds.median(LIMIT, 'rate'):,.0f} MB/s (asyncio protocol)",
        )
    ]


def tables(*, quick: bool) -> list[Table]:
    names = QUICK if quick else tuple(CONTENDERS)
    with tempfile.TemporaryDirectory() as folder, server() as service:
        picture = Path(folder) / "picture.png"
        picture.write_bytes(bytes(range(250)) * (SIZE // 250))
        rounds = interleaved(names, lambda name: one(service, picture, name), 3 if quick else 7)
    return [
        Table(
            title="Upload: large pictures",
            how=f"{UPLOADS} uploads of one {SIZE / 1e6:.0f} MB file at once, {BASE64 / 1e6:.1f} MB of base64 in each "
            f"body; {len(rounds.of[OURS])} interleaved rounds, each client in a process of its own. Memory is the "
            "peak above what the process had before. A block is the CPU time of the loop's thread between two looks "
            "at its sockets. The protocol's bytes are made before the clock starts.",
            header=(
                "client",
                "MB/s",
                "of the limit",
                "memory MB",
                "block, first 50 ms",
                "block, later",
                "CPU s/GB",
            ),
            rows=[
                (
                    name,
                    Figure(rounds.values(name, "rate"), "{:,.0f}"),
                    Figure(rounds.ratios(name, LIMIT, "rate")),
                    Figure(rounds.values(name, "memory"), "{:,.1f}"),
                    Figure(rounds.values(name, "first_cpu"), "{:,.1f}"),
                    Figure(rounds.values(name, "later_cpu"), "{:,.1f}"),
                    Figure([rounds.median(name, "cpu")], "{:.2f}"),
                )
                for name in names
            ],
            bars=bars(rounds),
            notes=[f"limit: {LIMIT}"],
            headlines=[] if quick else headlines(rounds),
        )
    ]


if __name__ == "__main__":
    pin(0)
    warnings.simplefilter("ignore", NovitaWarning)
    which, where, path = sys.argv[1:]
    print(json.dumps(asyncio.run(measured(CONTENDERS[which], where, Path(path)))))
