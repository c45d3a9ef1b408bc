"""A server on a real loopback socket that does what a script says, byte by byte, and remembers what came."""

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from attrs import define, field

CERTIFICATE = Path(__file__).parents[1] / "data" / "localhost.pem"
"""Signed by itself, for localhost, with its key: known to everyone, so good for tests alone."""

ANSWER = b'{"task_id":"a-task"}'
OK = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
) + ANSWER


def answer(status: int, body: bytes = b"{}", *more: bytes) -> bytes:
    """A whole answer."""
    lines = [b"HTTP/1.1 %d Some Reason" % status, b"Content-Length: %d" % len(body), *more, b"", body]
    return b"\r\n".join(lines)


def _length(head: bytes | bytearray) -> int:
    return int(bytes(head).lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)


@define(eq=False)
class Peer:
    """One connection, from the server's side."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    seen: bytearray = field(factory=bytearray, repr=False)
    begun: int = 0
    """Where the request that is being read starts."""

    async def read(self, count: int) -> int:
        """Read so many bytes, or fewer at the end."""
        left = count
        while left and (piece := await self.reader.read(left)):
            left -= len(piece)
            self.seen += piece
        return count - left

    async def request(self) -> bool:
        """Read the rest of one whole request. False: it broke off."""
        while b"\r\n\r\n" not in self.seen[self.begun : self.begun + 4096] and await self.read(1):
            pass
        head, _, body = self.seen[self.begun :].partition(b"\r\n\r\n")
        missing = _length(head) - len(body)
        self.begun = len(self.seen) + missing
        return bool(head) and await self.read(missing) == missing

    async def rest(self) -> None:
        """Read until the client goes away."""
        with suppress(ConnectionError):
            while await self.read(1 << 16):
                pass

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with suppress(ConnectionError):
            await self.writer.drain()

    def close(self) -> None:
        self.writer.close()

    @contextmanager
    def second_handle(self) -> Iterator[socket.socket]:
        """A second handle on the connection's socket, past whatever loop serves the first."""
        with socket.socket(fileno=os.dup(self.writer.get_extra_info("socket").fileno())) as handle:
            yield handle

    def reset(self) -> None:
        """Break the connection without a word."""
        sock = self.writer.get_extra_info("socket")
        if sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    @property
    def head(self) -> bytes:
        """The head of the first request."""
        return bytes(self.seen.partition(b"\r\n\r\n")[0])

    @property
    def body(self) -> bytes:
        """What has come of the first body."""
        return bytes(self.seen.partition(b"\r\n\r\n")[2])

    @property
    def whole(self) -> bool:
        """Whether a whole request has come."""
        return b"\r\n\r\n" in self.seen and len(self.body) >= _length(self.head)


Script = Callable[[Peer], Awaitable[None]]


@define(eq=False)
class Wire:
    """A listening server."""

    url: str
    peers: list[Peer] = field(factory=list)
    tasks: set[asyncio.Task[None]] = field(factory=set)
    listener: asyncio.Server | None = None


@asynccontextmanager
async def serve(script: Script, *, tls: bool = False) -> AsyncIterator[Wire]:
    """Run the script on every connection."""
    wire = Wire(url="")

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        wire.peers.append(peer)
        task = asyncio.current_task()
        assert task
        wire.tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.CancelledError):
                await script(peer)
        finally:
            peer.close()

    loop = asyncio.get_running_loop()
    usual = loop.get_exception_handler() or (lambda loop, context: loop.default_exception_handler(context))

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        # In debug mode a loop reports handshakes that its own server's clients break off.
        if not (tls and isinstance(context.get("exception"), ConnectionError | ssl.SSLError)):
            usual(loop, context)

    loop.set_exception_handler(handle)
    context = server_context() if tls else None
    server = await asyncio.start_server(serve_one, "127.0.0.1", 0, ssl=context, backlog=512)
    wire.listener = server
    wire.url = f"http{'s' * tls}://localhost:{server.sockets[0].getsockname()[1]}"
    try:
        yield wire
    finally:
        server.close()
        for task in wire.tasks:
            task.cancel()
        await asyncio.gather(*wire.tasks, return_exceptions=True)
        for peer in wire.peers:
            peer.writer.transport.abort()
        await asyncio.sleep(0.01 if tls else 0)
        loop.set_exception_handler(usual)


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=CERTIFICATE)


def refusing_url() -> str:
    """Where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


async def settled(condition: Callable[[], bool]) -> None:
    """Wait until something is so, in turns of the loop: on a busy machine each of them lasts longer."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to be so")
