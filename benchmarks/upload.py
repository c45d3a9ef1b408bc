"""Uploading: 32 pictures of 10 MB at once, base64 in JSON. Throughput, memory, blocks of the loop.

    python benchmarks/upload.py [--rounds 5]

Every measurement runs in a process of its own. Memory is the peak above what the process had before the first
upload; the longest block is CPU time of the loop's thread between two looks at its sockets. Contenders:

* bare protocol: an asyncio protocol that writes ready bytes, made before the clock starts
* our transport: reads, encodes and sends from files
* naive: read, b64encode, json.dumps, aiohttp post
"""

import argparse
import asyncio
import base64
import gc
import json
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from _common import (
    Pulse,
    forget_peak,
    in_process,
    interleaved,
    median,
    peak,
    pin,
    ratio,
    resident,
    server,
    table,
)
from yarl import URL

from novita_async._http import HTTPRequest
from novita_async._transport import AiohttpTransport
from novita_async.errors import NovitaWarning
from novita_async.models.accounts import ApiKey
from novita_async.models.images import ImageSource

UPLOADS = 32
SIZE = 10_000_000
HEAD, TAIL = b'{"request":{"prompt":"a cute dog","image_base64":"', b'","width":512,"height":512}}'
BODY_LENGTH = len(HEAD) + 4 * ((SIZE + 2) // 3) + len(TAIL)
PATH = "/v3/async/img2img"

Upload = Callable[[], Awaitable[None]]
Contender = Callable[[str, Path], Awaitable[None]]


class Writer(asyncio.Protocol):
    """Writes ready bytes as fast as the socket takes them."""

    def __init__(self, body: memoryview) -> None:
        self.body = body
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.at, self.paused = transport, 0, False
        transport.write(
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (PATH.encode(), len(self.body))
        )
        self.resume_writing()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        while not self.paused and self.at < len(self.body):
            self.transport.write(self.body[self.at : self.at + (1 << 18)])
            self.at += 1 << 18

    def data_received(self, data: bytes) -> None:
        self.done.set_result(data)


async def bare(url: str, picture: Path) -> None:
    target = URL(url)
    data = picture.read_bytes()  # noqa: ASYNC240  (before the clock starts)
    body = memoryview(HEAD + base64.b64encode(data) + TAIL)
    loop = asyncio.get_running_loop()

    async def upload() -> None:
        transport, protocol = await loop.create_connection(lambda: Writer(body), target.host, target.port)
        await protocol.done
        transport.close()

    await measured(upload)


async def ours(url: str, picture: Path) -> None:
    carrier = AiohttpTransport(url)
    key = ApiKey("key")
    source = ImageSource.from_path(picture)

    async def upload() -> None:
        request = HTTPRequest(method="POST", path=PATH, body=(HEAD, source, TAIL))
        assert (await carrier.send(request, key)).status == 200

    await carrier.send(HTTPRequest(method="GET", path=PATH), key)
    await measured(upload)
    await carrier.aclose()


async def naive(url: str, picture: Path) -> None:
    async with aiohttp.ClientSession() as session:

        async def upload() -> None:
            data = picture.read_bytes()  # noqa: ASYNC240  (what makes it naive)
            image = base64.b64encode(data).decode()
            body = json.dumps({"request": {"prompt": "a cute dog", "image_base64": image}})
            async with session.post(url + PATH, data=body) as response:
                assert (await response.json())["task_id"]

        async with session.get(url + PATH) as response:
            await response.read()
        await measured(upload)


CONTENDERS: dict[str, Contender] = {"bare protocol": bare, "our transport": ours, "naive": naive}


async def measured(upload: Upload) -> None:
    """Run all uploads at once and print the figures."""
    gc.collect()
    forget_peak()
    idle = resident()
    cpu = time.process_time()
    with Pulse(asyncio.get_running_loop()) as pulse:
        begun = time.perf_counter()
        await asyncio.gather(*[upload() for _ in range(UPLOADS)])
        took = time.perf_counter() - begun
    cpu = time.process_time() - cpu
    megabytes = UPLOADS * BODY_LENGTH / 1e6
    figures = {"rate": megabytes / took, "memory": (peak() - idle) / 1e6, "cpu": cpu / megabytes * 1000}
    print(json.dumps(figures | {name: seconds * 1000 for name, seconds in pulse.longest.items()}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=3, metavar=("CONTENDER", "URL", "PICTURE"))
    options = parser.parse_args()
    pin(0)
    warnings.simplefilter("ignore", NovitaWarning)
    if options.one:
        name, url, picture = options.one
        asyncio.run(CONTENDERS[name](url, Path(picture)))
        return
    with tempfile.TemporaryDirectory() as folder, server() as url:
        picture = Path(folder) / "picture.png"
        picture.write_bytes(bytes(range(250)) * (SIZE // 250))
        results = interleaved(
            list(CONTENDERS),
            lambda name: in_process(__file__, "--one", name, url, str(picture)),
            options.rounds,
        )
    print(f"{UPLOADS} uploads of {SIZE / 1e6:.0f} MB, median of {options.rounds}; blocks in ms of CPU (wall)")
    table(
        ("", "MB/s", "of bare", "of naive", "memory MB", "block, first 50 ms", "block, later", "CPU s/GB"),
        [
            (
                name,
                f"{median(results, name, 'rate'):,.0f}",
                f"{ratio(results, name, 'bare protocol', 'rate'):.2f}",
                f"{ratio(results, name, 'naive', 'rate'):.1f}",
                f"{median(results, name, 'memory'):,.1f}",
                f"{median(results, name, 'first_cpu'):,.1f} ({median(results, name, 'first_wall'):,.1f})",
                f"{median(results, name, 'later_cpu'):,.1f} ({median(results, name, 'later_wall'):,.1f})",
                f"{median(results, name, 'cpu'):.2f}",
            )
            for name in CONTENDERS
        ],
    )


if __name__ == "__main__":
    main()
