"""A server in a process of its own that reads requests as fast as Python can and answers from memory.

It knows just enough routes for each client that is measured: submissions and polls of this API, and the
submissions of the two services whose clients are compared. It runs on the last core, what is measured on the
first; on a machine with one core both share it and the figures say little.
"""

import asyncio
import base64
import json
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from random import Random
from typing import cast

from attrs import define, frozen

from benchmarks._machine import cpu_of, pin

TASK_ID = "73fab7c0-4bd3-4c8e-9c55-4bd3a1c0f5f0"
IMAGE_URL = (
    "https://faas-output-image.s3.ap-southeast-1.amazonaws.com/prod/"
    f"{TASK_ID}/{'0123456789abcdef' * 2}.jpeg?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential="
    f"{'A' * 20}%2F20261101%2Fap-southeast-1%2Fs3%2Faws4_request&X-Amz-Date=20991101T120000Z&X-Amz-Expires=3600"
    f"&X-Amz-Signature={'0f' * 32}&X-Amz-SignedHeaders=host&x-id=GetObject"
)


def task_result(status: str, images: int) -> bytes:
    """What a poll is answered, in the service's usual form."""
    done = status == "TASK_STATUS_SUCCEED"
    times = {"submit": 1793534400000, "execute": 1793534402500, "complete": 1793534408400 if done else None}
    debug = {f"{name}_time_ms": str(ms) if ms else "" for name, ms in times.items()}
    image = {"image_url": IMAGE_URL, "image_url_ttl": "3600", "image_type": "jpeg"}
    nsfw = {"nsfw_detection_result": {"valid": True, "confidence": 12.5}}
    answer = {
        "extra": {
            "seed": "3706472920",
            "enable_nsfw_detection": True,
            "debug_info": {"request_info": "", **debug},
        },
        "task": {
            "task_id": TASK_ID,
            "status": status,
            "reason": "",
            "task_type": "IMG_TO_IMG",
            "eta": 0,
            "progress_percent": 0,
        },
        "images": [image | nsfw for _ in range(images)],
        "videos": [],
        "audios": [],
    }
    return json.dumps(answer).encode()


RUNNING = task_result("TASK_STATUS_PROCESSING", 0)
FINISHED = {images: task_result("TASK_STATUS_SUCCEED", images) for images in (1, 8)}


def _replicate(url: str) -> bytes:
    prediction = {
        "id": "gm3qorzdhgbfurvjtvhg6dckhu",
        "model": "some/model",
        "version": "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa",
        "input": {},
        "logs": "",
        "error": None,
        "status": "starting",
        "created_at": "2026-11-01T12:00:00.000Z",
        "urls": {"cancel": f"{url}/v1/predictions/x/cancel", "get": f"{url}/v1/predictions/x"},
    }
    return json.dumps(prediction).encode()


def _fal(url: str) -> bytes:
    links = {name: f"{url}/some/model/requests/x/{name}" for name in ("response", "status", "cancel")}
    handle = {"request_id": TASK_ID, "status": "IN_QUEUE", "queue_position": 0}
    return json.dumps(handle | {f"{name}_url": link for name, link in links.items()}).encode()


PICTURE = 20_000_000
"""Bytes of the picture in the answer of a route that answers at once."""


@cache
def edited() -> bytes:
    """Answer to an edit: a picture in base64."""
    picture = b"\x89PNG\r\n\x1a\n" + Random(0).randbytes(PICTURE - 8)
    data = [{"b64_json": base64.b64encode(picture).decode(), "revised_prompt": "a cute dog"}]
    return json.dumps({"created": 1793534400, "data": data, "output_format": "png"}).encode()


def _response(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


def about(task_id: str, answer: bytes) -> bytes:
    """An answer to a poll of this task: one about another is refused."""
    return answer.replace(b'"task_id": "%s"' % TASK_ID.encode(), b'"task_id": "%s"' % task_id.encode())


def routes(url: str) -> list[tuple[bytes, bytes]]:
    """Beginnings of requests and what each is answered."""
    answers = [
        (b"POST /openai/", edited()),
        (b"POST /v3/", json.dumps({"task_id": TASK_ID}).encode()),
        (b"GET /v3/async/task-result?task_id=one", about("one", FINISHED[1])),
        (b"GET /v3/async/task-result?task_id=eight", about("eight", FINISHED[8])),
        (b"GET ", RUNNING),
        (b"POST /v1/predictions", _replicate(url)),
        (b"", _fal(url)),
    ]
    return [(begin, _response(body)) for begin, body in answers]


SLICE = 1 << 18
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Sink(asyncio.BufferedProtocol):
    """Swallows request after request of one connection."""

    room = bytearray(1 << 20)
    answers: list[tuple[bytes, bytes]]
    numbers = count()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.head = self.answer = b""
        self.unwritten = memoryview(b"")
        self.left = 0

    def get_buffer(self, _sizehint: int) -> memoryview:
        return memoryview(self.room)

    def buffer_updated(self, count: int) -> None:
        if not self.left:
            count = self.read_head(count)
            if count < 0:
                return
        self.left -= count
        if self.left <= 0:
            self.left = 0
            self.unwritten = memoryview(self.answer)
            self.resume_writing()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        """Write the answer, a large one no faster than it is read: what is buffered is copied."""
        self.paused = False
        while self.unwritten and not self.paused:
            self.transport.write(self.unwritten[:SLICE])
            self.unwritten = self.unwritten[SLICE:]

    def read_head(self, count: int) -> int:
        """Take the head off; how much of the body came with it, or -1: the head is not whole yet."""
        self.head += self.room[:count]
        head, end, body = self.head.partition(b"\r\n\r\n")
        if not end:
            return -1
        found = LENGTH.search(head)
        self.left = int(found[1]) if found else 0
        self.answer = next(answer for begin, answer in self.answers if head.startswith(begin))
        if head.startswith(b"POST"):  # each purchase has a task of its own
            self.answer = self.answer.replace(TASK_ID.encode(), b"%036d" % next(self.numbers))
        self.head = b""
        return len(body)


async def serve(certificate: Path | None) -> None:
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0, backlog=1024, ssl=context)
    port = server.sockets[0].getsockname()[1]
    Sink.answers = routes(f"http://127.0.0.1:{port}")
    print(port, flush=True)
    await server.serve_forever()


@define
class Busy:
    """How busy a server was."""

    pid: int
    cpu: float
    share: float = 0.0

    def until_now(self, wall: float) -> float:
        """The share of its core since it was made or last asked."""
        cpu = cpu_of(self.pid)
        self.share, self.cpu = (cpu - self.cpu) / wall, cpu
        return self.share


@frozen
class Server:
    """The server from outside."""

    url: str
    pid: int

    def busy(self) -> Busy:
        return Busy(self.pid, cpu_of(self.pid))


@contextmanager
def server(certificate: Path | None = None) -> Iterator[Server]:
    """Run the server in a process of its own on the last core. With a certificate it speaks TLS."""
    command = [sys.executable, "-m", "benchmarks._server", *([str(certificate)] if certificate else [])]
    scheme = "https" if certificate else "http"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout
    try:
        yield Server(f"{scheme}://127.0.0.1:{int(process.stdout.readline())}", process.pid)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    pin(-1)
    asyncio.run(serve(Path(sys.argv[1]) if sys.argv[1:] else None))
