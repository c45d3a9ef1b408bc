"""Answers that hold pictures: 32 edits at once, a picture of 20 MB as base64 in each answer. CPU and memory.

Every measurement runs in a process of its own: `python -m benchmarks.answers CONTENDER URL FOLDER`.
"""

import asyncio
import base64
import gc
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
from yarl import URL

from benchmarks import _wire as wire
from benchmarks._machine import Pulse, forget_peak, peak, pin, resident
from benchmarks._rounds import Rounds, in_process, interleaved
from benchmarks._server import PICTURE, Server, edited, server
from benchmarks._tables import Bar, Figure, Headline, Table
from novita_async._http import HTTPRequest
from novita_async._transport.transport import AiohttpTransport
from novita_async.models.accounts import ApiKey

EDITS = 32
PATH = "/openai/v1/images/edits"
BODY = json.dumps({"model": "gpt-image-2", "prompt": "a cute dog in watercolour"}).encode()

OURS = "novita_async"
OURS_SYNCED = "novita_async, fsync"
NAIVE = "aiohttp, json() and b64decode"
NAIVE_SYNCED = "aiohttp, json() and b64decode, fsync"
LIMIT = "asyncio protocol, nothing read"

Edit = Callable[[], Awaitable[Path | None]]
Editor = Callable[[str, Path], AbstractAsyncContextManager[Edit]]


def ours(*, durable: bool) -> Editor:
    @asynccontextmanager
    async def editor(url: str, folder: Path) -> AsyncIterator[Edit]:
        transport, key = AiohttpTransport(url), ApiKey("sk_benchmark")
        request = HTTPRequest(
            method="POST",
            path=PATH,
            body=(BODY,),
            answer="pictures",
            timeout=600,
            folder=folder if durable else None,
        )

        async def edit() -> Path | None:
            return (await transport.send(request, key)).parts[0].path

        yield edit
        await transport.aclose()

    return editor


def naive(*, durable: bool) -> Editor:
    """The way of most programs."""

    @asynccontextmanager
    async def editor(url: str, folder: Path) -> AsyncIterator[Edit]:
        numbers = iter(range(10**9))
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:

            async def edit() -> Path:
                async with session.post(url + PATH, data=BODY) as response:
                    answer = await response.json()
                path = folder / f"{next(numbers)}.png"
                with path.open("wb") as file:
                    file.write(base64.b64decode(answer["data"][0]["b64_json"]))
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                return path

            yield edit

    return editor


class Swallower(asyncio.BufferedProtocol):
    """Reads an answer into the void."""

    room = bytearray(1 << 18)

    def __init__(self, length: int) -> None:
        self.left = length
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def get_buffer(self, _sizehint: int) -> memoryview:
        return memoryview(self.room)

    def buffer_updated(self, count: int) -> None:
        self.left -= count
        if self.left <= 0 and not self.done.done():
            self.done.set_result(None)


@asynccontextmanager
async def raw(url: str, _folder: Path) -> AsyncIterator[Edit]:
    target, length = URL(url), len(edited())

    async def edit() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(
            lambda: Swallower(length), str(target.host), int(target.port or 0)
        )
        transport.write(wire.request("POST", PATH, BODY))
        await protocol.done
        transport.close()

    yield edit


CONTENDERS: dict[str, Editor] = {
    LIMIT: raw,
    OURS: ours(durable=False),
    NAIVE: naive(durable=False),
    OURS_SYNCED: ours(durable=True),
    NAIVE_SYNCED: naive(durable=True),
}
QUICK = (OURS, NAIVE)


async def measured(editor: Editor, url: str, folder: Path) -> dict[str, float]:
    """Run all edits at once, and look whether each picture is what the service sent."""
    async with editor(url, folder) as edit:
        await edit()  # connections, threads and code paths are warm, as in a service
        gc.collect()
        forget_peak()
        idle, cpu = resident(), time.process_time()
        with Pulse(asyncio.get_running_loop()) as pulse:
            begun = time.perf_counter()
            paths = await asyncio.gather(*[edit() for _ in range(EDITS)])
            took = time.perf_counter() - begun
        cpu = time.process_time() - cpu
        high = peak()
        wanted = {hashlib.sha256(base64.b64decode(json.loads(edited())["data"][0]["b64_json"])).digest()}
        assert {hashlib.sha256(path.read_bytes()).digest() for path in paths if path} <= wanted
    return {
        "rate": EDITS * PICTURE / 1e6 / took,
        "memory": (high - idle) / 1e6,
        "cpu": cpu / EDITS * 1000,
        **{name: seconds * 1000 for name, seconds in pulse.longest.items()},
    }


def one(service: Server, name: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return in_process("benchmarks.answers", name, service.url, folder)


def bars(rounds: Rounds) -> list[Bar]:
    return [
        Bar(
            what="CPU, against aiohttp's json() and b64decode",
            measured=rounds.ratio(OURS, NAIVE, "cpu"),
            at_most=0.4,
        ),
        Bar(
            what="peak memory above idle, MB",
            measured=rounds.median(OURS, "memory"),
            at_most=24,
            form="{:.1f}",
        ),
        Bar(
            what="longest block of the loop, against aiohttp's json() and b64decode",
            measured=rounds.block(OURS) / rounds.block(NAIVE),
            at_most=0.02,
            form="{:.3f}",
        ),
    ]


def headlines(rounds: Rounds) -> list[Headline]:
    def said(name: str) -> str:
        cpu, memory, block = (rounds.median(name, what) for what in ("cpu", "memory", "later_cpu"))
        return f"{cpu:,.0f} ms, {memory:,.0f} MB, {block:,.1f} ms"

    return [
        Headline(
            what=f"{EDITS} answers with a picture of 20 MB at once: CPU each, memory, longest block of the loop",
            ours=said(OURS),
            peer=f"{said(NAIVE)} ({NAIVE})",
            limit=f"{rounds.median(LIMIT, 'cpu'):,.0f} ms ({LIMIT})",
        )
    ]


def tables(*, quick: bool) -> list[Table]:
    names = QUICK if quick else tuple(CONTENDERS)
    with server() as service:
        rounds = interleaved(names, lambda name: one(service, name), 2 if quick else 3)
    return [
        Table(
            title="Answers that hold pictures",
            how=f"{EDITS} requests at once, whose answers hold a picture of {PICTURE / 1e6:.0f} MB each as base64; "
            f"{len(rounds.of[OURS])} interleaved rounds, each client in a process of its own. Every picture is "
            "written to a file; with fsync, it is on the disk when the answer is told. CPU is that of all threads, "
            "for one answer. Memory is the peak above what the process had before. A block is the CPU time of the "
            "loop's thread between two looks at its sockets.",
            header=(
                "client",
                "CPU ms each",
                "of aiohttp's",
                "memory MB",
                "block, first 50 ms",
                "block, later",
                "MB/s",
            ),
            rows=[
                (
                    name,
                    Figure(rounds.values(name, "cpu"), "{:,.0f}"),
                    Figure(rounds.ratios(name, NAIVE_SYNCED if "fsync" in name else NAIVE, "cpu")),
                    Figure(rounds.values(name, "memory"), "{:,.1f}"),
                    Figure(rounds.values(name, "first_cpu"), "{:,.1f}"),
                    Figure(rounds.values(name, "later_cpu"), "{:,.1f}"),
                    Figure(rounds.values(name, "rate"), "{:,.0f}"),
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
    which, where, path = sys.argv[1:]
    print(json.dumps(asyncio.run(measured(CONTENDERS[which], where, Path(path)))))
