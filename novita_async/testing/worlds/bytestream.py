"""The second entrance: streams of bytes in memory, with aiohttp at one end and the service at the other.

For what only a connection can do: answers of others on a kept one, junk behind an answer, odd headers,
answers in pieces. Bytes that nobody has asked for come only while a connection is idle, where a client can
see that they are nobody's.
"""

import asyncio
import errno
import gzip
import itertools
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import aiohttp
from attrs import define, field

from novita_async._http import HTTPResponse
from novita_async.testing.wire import Exchange, decode_query
from novita_async.testing.worlds import troubles
from novita_async.testing.worlds.asking import number_in
from novita_async.testing.worlds.dice import fraction, pick, whole
from novita_async.testing.worlds.loops import WorldLoop
from novita_async.testing.worlds.record import Post
from novita_async.testing.worlds.roles import Agent, WorldView
from novita_async.testing.worlds.troubles import Fate
from novita_async.testing.worlds.wire import ORIGIN, cut_at, judge

_STRAY: Final = b'{"task_id":"somebody-elses"}'
_END: Final = b"\r\n\r\n"
_JUNK: Final = (b"\r\n", b"junk", b"HTTP/1.1 ", b"\x00\x01", b"0\r\n\r\n")
_PIECES: Final = 5


@define(eq=False, repr=False)
class Network:
    """All connections of a world."""

    world: WorldView
    _numbers: "itertools.count[int]" = field(factory=itertools.count, init=False)
    _sessions: dict[str, aiohttp.ClientSession] = field(factory=dict[str, aiohttp.ClientSession], init=False)

    def options(self, process: Agent) -> dict[str, Any]:
        """Give the options that a client is made with."""
        if not self.world.plan.client.session or asyncio._get_running_loop() is None:
            return {}
        session = self._sessions[process.name] = aiohttp.ClientSession()
        return {"session": session}

    async def leave(self, process: Agent) -> None:
        """Close what the user of a process has opened."""
        session = self._sessions.pop(process.name, None)
        if session is not None:
            await session.close()

    async def start_connection(self) -> int:
        """Connect, or be refused."""
        world, number = self.world, next(self._numbers)
        await asyncio.sleep(world.service.way_there("connect", number))
        down = troubles.outage(world.plan, world.now)
        refuse = world.plan.trouble("refuse")
        refused = refuse is not None and fraction(world.plan.seed, "connect", number) < refuse.rate
        if refused or (down is not None and down.end == "not sent"):
            world.record.reached["trouble: connection refused"] += 1
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        return number

    def connect(self, loop: WorldLoop, factory: Any, number: int) -> tuple["Pipe", Any]:
        """Make a connection."""
        assert self.world.process is not None
        protocol = factory()
        pipe = Pipe(self.world, self.world.process, loop, protocol, number)
        protocol.connection_made(pipe)
        return pipe, protocol


class Pipe(asyncio.Transport):
    """A connection: what the client writes is read here at once, and answered in time."""

    def __init__(self, world: WorldView, process: Agent, loop: WorldLoop, protocol: Any, number: int) -> None:
        super().__init__()
        self._world, self._process, self._loop, self._protocol = world, process, loop, protocol
        self._number = number
        self._buffer = bytearray()
        self._closing = False
        self._asked = 0
        self._answered = 0
        self._post: Post | None = None
        self._quiet_at = 0.0

    # --- What a client does with it -------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if self._closing:
            return
        self._buffer += data
        while (exchange := self._take()) is not None:
            self._asked += 1
            self._serve(exchange)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._close(None)

    def abort(self) -> None:
        self._close(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 8080) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def can_write_eof(self) -> bool:
        return False

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def _close(self, error: BaseException | None) -> None:
        if self._closing:
            return
        self._closing = True
        post = self._post
        if post is not None and post.reach == "on its way":
            post.reach = "unknown"
            if error is None:
                post.cut_at = self._world.now
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._protocol.connection_lost, error)

    # --- What the service does with it ----------------------------------------------------------------------

    def _take(self) -> Exchange | None:
        """Take a whole request out of what was written."""
        head, end, rest = bytes(self._buffer).partition(_END)
        if not end:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return None
        self._buffer = bytearray(rest[length:])
        parts = urlsplit(target)
        return Exchange(
            method=method,
            path=unquote(parts.path),
            query=decode_query(parts.query),
            headers=headers,
            body=rest[:length],
            origin=ORIGIN,
        )

    def _serve(self, exchange: Exchange) -> None:
        service, process = self._world.service, self._process
        self._post = None
        if exchange.method == "POST":
            self._post = post = process.new_post(number_in(exchange.body))
            fate = service.fate_of_submission(post.number)
            process.hand_over(post)
            process.say(f"POST {post.number} {fate.kind} on connection {self._number}")
        elif exchange.path.startswith("/prod/"):
            fate = service.fate_of_file(exchange.path)
            process.say(f"GET {service.shown(exchange.path)} {fate.kind}")
        else:
            fate = service.fate_of_poll(exchange.query.get("task_id", ""))
            process.mark("poll")
            process.say(f"poll {service.number_of(exchange.query.get('task_id', ''))} {fate.kind}")
        post_of = self._post
        there = service.way_there("bytes", self._number)
        self._world.at(self._world.now + there, lambda: self._arrive(exchange, fate, post_of))

    def _arrive(self, exchange: Exchange, fate: Fate, post: Post | None) -> None:
        service = self._world.service
        if fate.end == "not sent" or (fate.early and post is not None):
            self._later(fate.after, lambda: self._reset(post))
            return
        response, seconds = (
            (service.answer(exchange, fate), fate.after)
            if post is None
            else service.receive_submission(exchange, fate, post)
        )
        after = service.way_back("bytes", self._number) + seconds
        if fate.end == "silence":
            if fate.after < troubles.TIMEOUT:
                self._later(after, lambda: self._reset(post))
        elif fate.end == "cut":
            if post is not None:
                post.status = response.status
            end = cut_at(response, 0 if post is None else post.number)
            half = self.head(response) + response.body[:end]
            self._later(after, lambda: self._give(half))
            self._later(after, lambda: self._reset(post))
        else:
            self._later(after, lambda: self._answer(response, fate, post))

    def _later(self, seconds: float, action: Any) -> None:
        self._world.at(self._world.now + seconds, action)

    def _reset(self, post: Post | None) -> None:
        if post is not None and post.reach == "on its way":
            post.reach = "unknown"
        self._close(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))

    def _answer(self, response: HTTPResponse, fate: Fate, post: Post | None) -> None:
        odd = self._hit("odd headers")
        form = pick(tuple(_FORMS), self._world.plan.seed, self._number, self._asked) if odd else ""
        if form in _UNREADABLE and post is not None:
            post.due_at = None  # its beginning already tells that no answer comes
        data = self._written(response, form)
        if form != "until the end" and self._hit("junk behind an answer"):
            data += pick(_JUNK, self._world.plan.seed, self._number, self._asked)
        chopped = self._hit("chopped")
        whole_after = _PIECES / 64 if chopped else 0.0
        if chopped:
            cuts = sorted(whole(self._world.plan.seed, self._number, n) % len(data) for n in range(_PIECES))
            for place, (start, end) in enumerate(itertools.pairwise((0, *cuts, len(data)))):
                self._later(place / 64, lambda piece=data[start:end]: self._give(piece))
            self._later(whole_after, lambda: self._end_post(response, fate, post, form))
        else:
            self._end_post(response, fate, post, form)
            self._give(data)
        if form == "until the end":
            self._later(whole_after, lambda: self._close(None))
        for kind, delay in (("one answer too many", 0.0), ("another's answer late", 1 / 32)):
            if self._hit(kind):
                self._later(whole_after + delay, self._stray)

    def _end_post(self, response: HTTPResponse, fate: Fate, post: Post | None, form: str) -> None:
        """Note that the answer is whole, and what the sender of a POST can know."""
        self._answered += 1
        if post is None or post.reach != "on its way":
            return
        post.status = response.status
        if form in _UNREADABLE:
            post.reach = "unknown"
        else:
            judge(post, response, fate, self._world.now)
        self._process.say(f"POST {post.number} ends: {post.reach} {post.told} {form}")
        self._process.mark("answer")

    def _hit(self, kind: str) -> bool:
        trouble = self._world.plan.trouble(kind)
        name = self._world.plan.seed, kind, self._number, self._asked
        hit = trouble is not None and fraction(*name) < trouble.rate
        if hit:
            self._world.record.reached[f"trouble: {kind}"] += 1
        return hit

    def _stray(self) -> None:
        """An answer that nobody has asked for, on an idle connection."""
        if self._asked == self._answered and not self._closing:
            self._process.say(f"a stray answer on connection {self._number}")
            self._give(self._written(HTTPResponse(status=200, body=_STRAY), ""))

    def _give(self, data: bytes) -> None:
        if not self._closing and not self._loop.is_closed() and data:
            self._loop.call_soon_threadsafe(self._protocol.data_received, data)

    # --- How it is written ----------------------------------------------------------------------------------

    @staticmethod
    def head(response: HTTPResponse, *lines: str, length: bool = True) -> bytes:
        """Write everything before the body."""
        known = {name: value for name, value in response.headers.items() if name != "content-length"}
        text = [
            f"HTTP/1.1 {response.status} Some Words",
            *(f"{name}: {value}" for name, value in known.items()),
        ]
        if length:
            text.append(f"Content-Length: {len(response.body)}")
        return "\r\n".join((*text, *lines, "", "")).encode("latin-1")

    def _written(self, response: HTTPResponse, form: str) -> bytes:
        body = response.body
        write = _FORMS.get(form)
        return self.head(response) + body if write is None else write(response, body)


def _chunked(response: HTTPResponse, body: bytes) -> bytes:
    head = Pipe.head(response, "Transfer-Encoding: chunked", length=False)
    chunk = b"%x;why=not\r\n%s\r\n" % (len(body), body) if body else b""
    return head + chunk + b"0\r\n\r\n"


def _gzipped(response: HTTPResponse, body: bytes) -> bytes:
    packed = gzip.compress(body, mtime=0)
    lines = ("Content-Encoding: gzip", f"Content-Length: {len(packed)}")
    return Pipe.head(response, *lines, length=False) + packed


_HINTS: Final = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
_MANY: Final = tuple(f"X-Trace-{n}: {'x' * 200}" for n in range(30))
_FORMS: Final[dict[str, Callable[[HTTPResponse, bytes], bytes]]] = {
    "chunked": _chunked,
    "gzip": _gzipped,
    "interim": lambda response, body: _HINTS + Pipe.head(response) + body,
    "until the end": lambda response, body: Pipe.head(response, "Connection: close", length=False) + body,
    "many headers": lambda response, body: Pipe.head(response, *_MANY) + body,
    "two lengths": lambda response, body: (
        Pipe.head(response, "Content-Length: 1", "Content-Length: 7") + body
    ),
    "a bad header": lambda response, body: Pipe.head(response, "Bad Header\x01: \x00") + body,
}
_UNREADABLE: Final = frozenset({"two lengths", "a bad header"})
