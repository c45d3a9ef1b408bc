"""Multipart forms: 32 pictures of 20 MB at once, as files of a form. Throughput, memory, blocks of the loop.

Every measurement runs in a process of its own: `python -m benchmarks.forms CONTENDER URL PICTURE`.
"""

import asyncio
import gc
import json
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp

from benchmarks._machine import Pulse, forget_peak, peak, pin, resident
from benchmarks._rounds import Rounds, in_process, interleaved
from benchmarks._server import Server, server
from benchmarks._tables import Bar, Figure, Table
from novita_async._http import FormPart, HTTPRequest
from novita_async._transport.transport import AiohttpTransport
from novita_async.errors import NovitaWarning
from novita_async.models.accounts import ApiKey
from novita_async.models.images import ImageSource

UPLOADS = 32
SIZE = 20_000_000
PATH = "/v3/edits"

OURS = "novita_async"
NAIVE = "aiohttp, FormData of files"

Send = Callable[[], Awaitable[object]]


@asynccontextmanager
async def ours(url: str, picture: Path) -> AsyncIterator[Send]:
    transport, key = AiohttpTransport(url), ApiKey("sk_benchmark")
    file = FormPart(
        name="image[]",
        content=ImageSource.from_path(picture),
        filename="picture.png",
        content_type="image/png",
    )
    parts = (FormPart(name="prompt", content=b"a cute dog"), file)
    request = HTTPRequest(method="POST", path=PATH, parts=parts)
    yield lambda: transport.send(request, key)
    await transport.aclose()


@asynccontextmanager
async def naive(url: str, picture: Path) -> AsyncIterator[Send]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:

        async def send() -> None:
            form = aiohttp.FormData()
            form.add_field("prompt", "a cute dog")
            with picture.open("rb") as file:
                form.add_field("image[]", file, filename="picture.png", content_type="image/png")
                async with session.post(url + PATH, data=form) as response:
                    await response.read()

        yield send


CONTENDERS: dict[str, Callable[[str, Path], AbstractAsyncContextManager[Send]]] = {OURS: ours, NAIVE: naive}


async def measured(name: str, url: str, picture: Path) -> dict[str, float]:
    """Run all uploads at once."""
    async with CONTENDERS[name](url, picture) as send:
        await send()  # connections and code paths are warm, as in a service
        gc.collect()
        forget_peak()
        idle, cpu = resident(), time.process_time()
        with Pulse(asyncio.get_running_loop()) as pulse:
            begun = time.perf_counter()
            await asyncio.gather(*[send() for _ in range(UPLOADS)])
            took = time.perf_counter() - begun
        cpu = time.process_time() - cpu
        high = peak()
    return {
        "rate": UPLOADS * SIZE / 1e6 / took,
        "memory": (high - idle) / 1e6,
        "cpu": cpu / UPLOADS * 1000,
        **{which: seconds * 1000 for which, seconds in pulse.longest.items()},
    }


def one(service: Server, picture: Path, name: str) -> dict[str, float]:
    return in_process("benchmarks.forms", name, service.url, str(picture))


def bars(rounds: Rounds) -> list[Bar]:
    return [
        Bar(
            what="peak memory above idle, MB",
            measured=rounds.median(OURS, "memory"),
            at_most=8,
            form="{:.1f}",
        ),
        Bar(
            what="longest block of the loop, against aiohttp's form of files",
            measured=rounds.block(OURS) / rounds.block(NAIVE),
            at_most=0.5,
        ),
    ]


def tables(*, quick: bool) -> list[Table]:
    with tempfile.TemporaryDirectory() as folder, server() as service:
        picture = Path(folder) / "picture.png"
        picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(250)) * (SIZE // 250))
        rounds = interleaved(tuple(CONTENDERS), lambda name: one(service, picture, name), 3 if quick else 7)
    return [
        Table(
            title="Upload: multipart forms",
            how=f"{UPLOADS} uploads of one {SIZE / 1e6:.0f} MB file at once, as a file in a form; "
            f"{len(rounds.of[OURS])} interleaved rounds, each client in a process of its own. CPU is for one "
            "upload. Memory is the peak above what the process had before. A block is the CPU time of the loop's "
            "thread between two looks at its sockets.",
            header=(
                "client",
                "MB/s",
                "of aiohttp's",
                "CPU ms each",
                "memory MB",
                "block, first 50 ms",
                "block, later",
            ),
            rows=[
                (
                    name,
                    Figure(rounds.values(name, "rate"), "{:,.0f}"),
                    Figure(rounds.ratios(name, NAIVE, "rate")),
                    Figure(rounds.values(name, "cpu"), "{:,.1f}"),
                    Figure(rounds.values(name, "memory"), "{:,.1f}"),
                    Figure(rounds.values(name, "first_cpu"), "{:,.1f}"),
                    Figure(rounds.values(name, "later_cpu"), "{:,.1f}"),
                )
                for name in CONTENDERS
            ],
            bars=bars(rounds),
        )
    ]


if __name__ == "__main__":
    pin(0)
    warnings.simplefilter("ignore", NovitaWarning)
    which, where, path = sys.argv[1:]
    print(json.dumps(asyncio.run(measured(which, where, Path(path)))))
