"""The fast path of small requests, past aiohttp's session.

The work of `ClientSession.request` (cookies, redirects, middlewares, a task that writes) costs three times as
much as the exchange itself. None of it is used here: a request is written to a connection of the session's
connector, in the turn of the loop in which the connection was looked at, and the answer is read from the
connection's own parser. A connection that has carried an answer waits for the next request here, for a
moment, before the connector gets it back: while requests follow each other, nobody asks the connector.

This relies on parts of aiohttp that are not documented, and on no others:

* `ClientRequest(method, url, headers=, loop=)`: where to connect, and the `headers` that all requests share;
* `BaseConnector.connect(request, traces, timeout)`, a coroutine that gives a `Connection`;
* `Connection.protocol`, `.release()`, `.close()`;
* `ResponseHandler.set_response_params(read_until_eof=, max_line_size=, max_field_size=, max_headers=)`,
  `.read()`, which gives a message with `.code` and `.headers`, and a `StreamReader`; `.transport`,
  `.should_close`, `.force_close()`.

`problem` tries them all, on an answer in memory, when the first client of a process is made. Where one is
not as expected (in aiohttp's master of August 2026 a `ClientRequest` needs 18 arguments more) there is one
warning, and every request takes the slow path, which needs none of them: nothing is lost but speed. So
another aiohttp cannot break this library here, and `aiohttp<4` in its requirements means only that 4, which
also changes what is documented, is not released and not tested.
"""

import asyncio
import inspect
import warnings
from bisect import bisect
from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

import aiohttp
from attrs import define, field
from yarl import URL

from novita_async._http import HTTPRequest, HTTPResponse
from novita_async._transport.body import whole
from novita_async._transport.connections import (
    HEAD_LIMITS,
    KEEPALIVE,
    KNOWN,
    KnownConnection,
    in_lower_case,
    news_of,
    turn_to_read,
)
from novita_async._transport.exchange import AiohttpExchange
from novita_async._transport.whole_answers import WholeAnswers
from novita_async.errors import InvalidRequest, NovitaWarning

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage
    from aiohttp.tracing import Trace

_MOMENT: Final = 0.25
"""Seconds after which a connection that nobody used is given back to its connector."""
_SAMPLE: Final = b"HTTP/1.1 200 OK\r\nX-Sample: yes\r\nContent-Length: 2\r\n\r\n"


@cache
def problem() -> str | None:
    """The part of aiohttp that is not as the fast path needs it. None: all are."""
    loop = asyncio.new_event_loop()
    try:
        _try_all(loop)
    except Exception as error:  # noqa: BLE001 - whatever another aiohttp raises
        return str(error)
    finally:
        loop.close()
    return None


@cache
def check() -> None:
    """Warn where there is no fast path, once, and before anything can be bought: a warning may be raised."""
    if problem() is not None:
        text = (
            f"aiohttp {aiohttp.__version__} is not as its undocumented parts were ({problem()}): requests go "
            "through its sessions instead, which is slower and otherwise the same"
        )
        warnings.warn(text, NovitaWarning, stacklevel=2)


def _try_all(loop: asyncio.AbstractEventLoop) -> None:
    """Use every part that is relied on. Raises something where one is not as expected."""
    from aiohttp.client_proto import ResponseHandler  # noqa: PLC0415 - another aiohttp may not have it
    from aiohttp.connector import Connection  # noqa: PLC0415

    asking = aiohttp.ClientRequest("GET", URL("http://localhost/"), headers={"X-Sample": "yes"}, loop=loop)
    connect = aiohttp.TCPConnector.connect
    inspect.signature(connect).bind(None, asking, [], aiohttp.ClientTimeout())
    parts: list[object] = [Connection.protocol, Connection.release, Connection.close]
    handler = ResponseHandler(loop)
    parts += [handler.transport is None]
    handler.set_response_params(read_until_eof=True, **HEAD_LIMITS)
    handler.data_received(_SAMPLE + b"{}" + _SAMPLE)
    try:
        handler.read().send(None)
    except StopIteration as end:
        message, payload = end.value
        parts += [message.code == 200, message.headers["x-sample"], payload.is_eof()]  # noqa: PLR2004
        parts += [payload.read_nowait() == b"{}", handler.should_close, handler.force_close]
        parts += [asking.headers["X-Sample"], inspect.iscoroutinefunction(connect)]
    if len(parts) != 12 or not all(parts):  # noqa: PLR2004 - all of the above
        raise TypeError("an answer is read in another way")


def connector() -> aiohttp.TCPConnector:
    """Make a connector without a bound of its own: requests in flight are bounded elsewhere."""
    kind = LiveConnector if problem() is None else aiohttp.TCPConnector
    return kind(limit=0, keepalive_timeout=KEEPALIVE)


@define(eq=False, repr=False)
class LiveConnection:
    """A connection of a connector's, and what is known of it."""

    connection: "Connection"
    protocol: "ResponseHandler"
    known: KnownConnection
    idle_since: float = 0.0
    """When the last answer on it was read."""

    @classmethod
    def of(cls, connection: "Connection", known: KnownConnection) -> "LiveConnection":
        return cls(connection, cast("ResponseHandler", connection.protocol), known)

    def is_usable(self) -> bool:
        """Whether nothing has come that nobody asked for, and nothing ends the connection."""
        transport = self.protocol.transport
        if transport is None or transport.is_closing():
            return False
        return not self.protocol.should_close and not self.known.news(0)


class LiveConnector(aiohttp.TCPConnector):
    """Hands out no connection that its server has begun to close, or on which something has come unasked."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._idle: list[LiveConnection] = []
        """The one that has waited for the longest comes first; the last is used next."""
        self._timer: asyncio.TimerHandle | None = None

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list["Trace"],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> "Connection":
        while True:
            connection = await super().connect(req, traces, timeout)
            known = KNOWN.get(connection.protocol)
            is_new = known is None
            if known is None:
                known = KnownConnection(news_of(connection.transport))
            live = LiveConnection.of(connection, known)
            if live.is_usable():
                usable = True
            else:
                try:
                    await turn_to_read()
                except BaseException:
                    connection.close()
                    raise
                usable = live.is_usable()
            if usable:
                if is_new:
                    KNOWN[connection.protocol] = known
                else:
                    known.used_at = asyncio.get_running_loop().time()
                return connection
            connection.close()
            if is_new:
                raise aiohttp.ServerDisconnectedError

    def take(self, now: float) -> LiveConnection | None:
        """Take a connection that has just carried an answer. None: `connect`."""
        if not self._idle:
            return None
        live = self._idle.pop()
        if now - live.idle_since > KEEPALIVE:
            live.connection.close()
        elif live.is_usable():
            return live
        else:
            live.connection.release()  # the connector looks at it once more
        return None

    def keep(self, live: LiveConnection) -> None:
        """Keep a connection, whose answer was read, for the next request."""
        if live.protocol.should_close or self.closed:
            live.connection.release()
            return
        loop = asyncio.get_running_loop()
        live.idle_since = loop.time()
        self._idle.append(live)
        if self._timer is None:
            self._timer = loop.call_later(_MOMENT, self._give_back)

    def _give_back(self) -> None:
        """Give the connector what nobody has used since the last time."""
        loop = asyncio.get_running_loop()
        unused = bisect(self._idle, loop.time() - _MOMENT, key=lambda live: live.idle_since)
        for live in self._idle[:unused]:
            live.connection.release()
        del self._idle[:unused]
        self._timer = loop.call_later(_MOMENT, self._give_back) if self._idle else None

    async def close(self, **options: Any) -> None:
        """Close all connections, those too that wait here."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            await super().close(**options)
        finally:
            for live in self._idle:
                live.connection.release()
            self._idle.clear()


@lru_cache(maxsize=256)
def joined(base_url: URL, path: str) -> URL:
    """The URL of a path below the base URL."""
    return base_url.joinpath(path.lstrip("/"))


@lru_cache(maxsize=4096)
def _target(base_url: URL, path: str, query: tuple[tuple[str, str], ...]) -> str:
    """Target in the first line of a request. Kept, because making it costs half of a small exchange."""
    url = joined(base_url, path)
    return (url.with_query(query) if query else url).raw_path_qs


@define(eq=False, repr=False)
class FastPath:
    """Small requests to one host, written straight to the connections of one session."""

    connector: LiveConnector
    _asking: aiohttp.ClientRequest
    """Tells the connector where to, and has the headers that all requests share."""
    _url: URL
    _timeout: aiohttp.ClientTimeout
    _lines: bytes = field(init=False)
    _start_of_post: Callable[[str, tuple[tuple[str, str], ...]], bytes] = field(init=False)
    """Gives what is the same for all purchases of a path, and is made once."""

    def __attrs_post_init__(self) -> None:
        lines = [f"{name}: {value}\r\n" for name, value in self._asking.headers.items()]
        self._lines = "".join(lines).encode()
        self._start_of_post = lru_cache(maxsize=256)(self._make_start_of_post)

    @classmethod
    def of(
        cls, session: aiohttp.ClientSession, url: URL, timeout: aiohttp.ClientTimeout
    ) -> "FastPath | None":
        """Make the fast path of a session to a host. None: this aiohttp has none."""
        if problem() is not None:
            return None
        loop = asyncio.get_running_loop()
        asking = aiohttp.ClientRequest("GET", url, headers=session.headers, loop=loop)
        return cls(cast("LiveConnector", session.connector), asking, url, timeout)

    async def connect(self) -> LiveConnection:
        """Ask the connector for a connection that its server has not begun to close."""
        try:
            connection = await self.connector.connect(self._asking, [], self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error
        return LiveConnection.of(connection, KNOWN[connection.protocol])

    def head(self, request: HTTPRequest, length: int) -> bytes:
        """Everything before the body."""
        if request.method == "POST":
            return self._start_of_post(request.path, request.query) + b"%d\r\n\r\n" % length
        target = _target(self._url, request.path, request.query)
        return b"".join((f"GET {target} HTTP/1.1\r\n".encode(), self._lines, b"\r\n"))

    def _make_start_of_post(self, path: str, query: tuple[tuple[str, str], ...]) -> bytes:
        """Make everything before the length of a body."""
        target = _target(self._url, path, query)
        start = f"POST {target} HTTP/1.1\r\n".encode()
        return b"".join((start, self._lines, b"Content-Type: application/json\r\nContent-Length: "))


@define(eq=False, repr=False, kw_only=True)
class FastExchange(AiohttpExchange):
    """A small request on the fast path."""

    path: FastPath
    detachable: bool = False
    """Whether another task may read the answer."""
    _left: LiveConnection | None = field(init=False, default=None)
    """Where that answer comes."""
    _answer: "tuple[RawResponseMessage, aiohttp.StreamReader] | None" = field(init=False, default=None)
    """The head of the answer and where its body comes."""

    async def run(self) -> HTTPResponse:
        """Write the request at once and read the answer."""
        request, path = self.request, self.path
        now = asyncio.get_running_loop().time()
        if request.method == "GET" or request.timeout is not None:
            self.due = now + self.answer_timeout
        try:
            text = whole(request, self.length, path.head(request, self.length))
        except InvalidRequest as error:
            self.refusal = error
            raise
        try:
            live = path.connector.take(now)
            if live is None:
                live = await path.connect()
                now = asyncio.get_running_loop().time()
            self._write_to(live, text, now)
            return await self._answer_on(live)
        except aiohttp.ClientConnectionError:
            if request.method == "POST" or self.status is not None:
                raise
        live = await path.connect()  # a question may be asked again
        self._write_to(live, text, now)
        return await self._answer_on(live)

    def _write_to(self, live: LiveConnection, text: bytes, now: float) -> None:
        """Write the request. Nothing comes between the connector's look at the connection and this."""
        protocol = live.protocol
        transport = cast("asyncio.Transport", protocol.transport)
        try:
            protocol.set_response_params(read_until_eof=True, **HEAD_LIMITS)
            if self.request.method == "POST":
                WholeAnswers.expect_on(protocol)
                self.hand_over()
                self.due = now + self.answer_timeout
            transport.write(text)
        except BaseException:
            live.connection.close()
            raise

    async def _answer_on(self, live: LiveConnection) -> HTTPResponse:
        """Read the answer. A connection on which that fails is closed, or left to another task."""
        try:
            while self._answer is None:
                message, payload = await live.protocol.read()
                if not 100 <= message.code < 200 or message.code == 101:  # noqa: PLR2004 - after 1xx another comes
                    self._answer, self.status = (message, payload), message.code
            message, payload = self._answer
            is_here = payload.is_eof() and self._read is None  # else a cancelled task has read the beginning
            body = payload.read_nowait() if is_here else await self.read_all(payload)
        except BaseException as error:
            if not self._detach(live, error):
                live.connection.close()
            raise
        self.path.connector.keep(live)
        return HTTPResponse(status=message.code, headers=in_lower_case(message.headers), body=body)

    def _detach(self, live: LiveConnection, error: BaseException) -> bool:
        """Leave the rest to another task, where that was agreed on and this one is being cancelled."""
        if not isinstance(error, asyncio.CancelledError) or self.overdue:
            return False
        if not (self.detachable and self.handed_over):
            return False
        live.protocol.force_close()
        self._left, self.is_detached = live, True
        return True

    async def finish(self) -> HTTPResponse:
        """Read what the task that was cancelled had not read, in another task."""
        self.task = cast("asyncio.Task[object]", asyncio.current_task())
        self.cancelling = self.task.cancelling()
        live = cast("LiveConnection", self._left)
        self.detachable, self.is_detached, self._left = False, False, None
        return await self._answer_on(live)
