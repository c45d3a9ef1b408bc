"""The raw limit: an asyncio protocol that writes ready bytes and reads an answer, with nothing in between."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Self

from yarl import URL

PIECE = 1 << 18


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time; the answer is whole when its Content-Length has come."""

    transport: asyncio.Transport
    pieces: Iterator[bytes | memoryview]

    @classmethod
    async def to(cls, host: str, port: int) -> Self:
        _, protocol = await asyncio.get_running_loop().create_connection(cls, host, port)
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.paused, self.pieces = transport, False, iter(())

    def exchange(self, request: bytes | memoryview) -> "asyncio.Future[bytes]":
        body = memoryview(request)
        return self.stream(body[at : at + PIECE] for at in range(0, len(body), PIECE))

    def stream(self, pieces: Iterable[bytes | memoryview]) -> "asyncio.Future[bytes]":
        """Exchange a request whose pieces are made when there is room for them."""
        self.pieces = iter(pieces)
        self.answered = asyncio.get_running_loop().create_future()
        self.read = b""
        self._write()
        return self.answered

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._write()

    def _write(self) -> None:
        while not self.paused and (piece := next(self.pieces, None)) is not None:
            self.transport.write(piece)

    def data_received(self, data: bytes) -> None:
        self.read += data
        head, end, body = self.read.partition(b"\r\n\r\n")
        length = head.rpartition(b"Content-Length: ")[2].partition(b"\r\n")[0]
        if end and len(body) >= int(length):
            self.answered.set_result(body)

    def close(self) -> None:
        self.transport.close()


def request(method: str, target: str, body: bytes = b"") -> bytes:
    """A whole request."""
    return head(method, target, len(body)) + body


def head(method: str, target: str, length: int) -> bytes:
    """The head of a request."""
    lines = f"{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key\r\nContent-Length: {length}"
    return f"{lines}\r\n\r\n".encode()


@asynccontextmanager
async def exchanges(url: str, text: bytes) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """What exchanges a ready request, on as many connections as there are exchanges at once."""
    target = URL(url)
    idle: list[Connection] = []
    opened: list[Connection] = []

    async def exchange() -> bytes:
        if not idle:
            opened.append(await Connection.to(str(target.host), int(target.port or 0)))
            idle.append(opened[-1])
        connection = idle.pop()
        answer = await connection.exchange(text)
        idle.append(connection)
        return answer

    yield exchange
    for connection in opened:
        connection.close()
