"""A pooler in transaction mode, as PgBouncer is one: each transaction may get another server.

Knows as much of the protocol as that takes: messages have a kind and a length, `ReadyForQuery` says whether a
transaction is open, and who connects is told a number of a process that is none of the server's.
"""

import asyncio
import struct
from collections import deque
from contextlib import asynccontextmanager, suppress

from attrs import define, field

FAKE_KEY = struct.pack("!cIII", b"K", 12, 4242, 4242)


async def message(reader):
    """The next message: its kind, and all of its bytes."""
    head = await reader.readexactly(5)
    (length,) = struct.unpack("!I", head[1:])
    return head[:1], head + await reader.readexactly(length - 4)


@define(eq=False)
class Server:
    """A connection to the database, used by one client at a time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    greeting: bytes
    """What the server says about itself."""

    @classmethod
    async def connect(cls, socket):
        reader, writer = await asyncio.open_unix_connection(socket)
        words = b"user\0postgres\0database\0postgres\0client_encoding\0utf-8\0\0"
        writer.write(struct.pack("!II", len(words) + 8, 196608) + words)
        greeting = b""
        while True:
            kind, whole = await message(reader)
            if kind in b"RS":
                greeting += whole
            elif kind == b"Z":
                return cls(reader, writer, greeting + FAKE_KEY + whole)


@define(eq=False)
class Pooler:
    """Servers in turn."""

    socket: str
    servers: list[Server] = field(factory=list)
    free: deque[Server] = field(factory=deque)
    came_back: asyncio.Event = field(factory=asyncio.Event)
    serving: dict[asyncio.Task, asyncio.StreamWriter] = field(factory=dict)
    switches: int = 0
    """How often a client got another server than before."""

    async def server(self):
        while not self.free:
            self.came_back.clear()
            await self.came_back.wait()
        return self.free.popleft()

    async def serve(self, reader, writer):
        self.serving[asyncio.current_task()] = writer
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            (length,) = struct.unpack("!I", await reader.readexactly(4))
            (code,) = struct.unpack("!I", (await reader.readexactly(length - 4))[:4])
            if code != 196608:  # a request to cancel
                return
            writer.write(self.free[0].greeting)
            before, coming = None, asyncio.create_task(message(reader))
            while (said := await coming)[0] != b"X":
                server = await self.server()
                self.switches += before is not None and server is not before
                before = server
                coming = await self.transaction(server, said[1], reader, writer)
                self.free.append(server)
                self.came_back.set()

    async def transaction(self, server, first, reader, writer):
        """Pass messages on until the server says that no transaction is open. Returns the one after."""
        server.writer.write(first)
        answers = asyncio.create_task(self.answers(server, writer))
        coming = asyncio.create_task(message(reader))
        while not answers.done():
            await asyncio.wait((answers, coming), return_when=asyncio.FIRST_COMPLETED)
            if coming.done() and not answers.done():
                server.writer.write(coming.result()[1])
                coming = asyncio.create_task(message(reader))
        return coming

    async def answers(self, server, writer):
        said = b"", b""
        while said[0] != b"Z" or said[1][5:6] != b"I":
            said = await message(server.reader)
            writer.write(said[1])


@asynccontextmanager
async def pooled(url):
    """A URL of the same database through a pooler, and the pooler."""
    folder = url.partition("host=")[2]
    pooler = Pooler(f"{folder}/.s.PGSQL.5432")
    pooler.servers.extend([await Server.connect(pooler.socket) for _ in range(3)])
    pooler.free.extend(pooler.servers)
    server = await asyncio.start_server(pooler.serve, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable", pooler
    finally:
        server.close()
        for task in pooler.serving:
            task.cancel()
        await asyncio.gather(*pooler.serving, return_exceptions=True)
        for writer in (*pooler.serving.values(), *(each.writer for each in pooler.servers)):
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
