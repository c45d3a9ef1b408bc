"""aiohttp lives here: sessions, timeouts, and how far a failed exchange got.

A POST is a purchase, so one thing must be known exactly: can the service have a whole request? The rules:

* Until the last piece of the body is given to the socket there is no whole request: NOT_SENT, whatever went
  wrong. From then on it is UNKNOWN, whatever went wrong, unless a whole answer comes back. Before the last
  piece the connection is aborted: what is still buffered is dropped, and nothing can complete it afterwards.
* asyncio drops what a socket has received once a write to it fails. So before each write we look whether
  something has arrived and let the loop read it first: a 413 or 429 that comes while the body still goes out
  is an answer, and after an answer nothing more is written.
* A kept-alive connection on which something has arrived before anything was asked is being closed by its
  server, and aiohttp would take a late 408 on it for the answer. No request goes out on it, nor a submission
  on one that idled for long: another connection is taken, at once.
* Every wait has a deadline of its own: the connection, each piece of the body, the answer. Waiting for a slot
  in the pool of a session that the user gave has none.
* Who is cancelled after the hand-over leaves the answer to another task where that was agreed on. The
  connection carries nothing else from then on: nobody may come to read the answer.
* aiohttp's exceptions, and the frames in their tracebacks, hold the Authorization header. They are turned
  into a few words and dropped, never chained.
"""

import asyncio
import math
import os
import select
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final, cast
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary, WeakSet

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpProcessingError
from attrs import define, field, frozen, setters
from multidict import CIMultiDict
from yarl import URL

from novita_async._body import SMALL, TEXT_SLICE, Turns, pieces, whole
from novita_async._http import MIB, Delivery, DeliveryFailed, HTTPRequest, HTTPResponse, Left
from novita_async._version import __version__
from novita_async.errors import ConfigurationError, InvalidRequest
from novita_async.models.accounts import ApiKey

if TYPE_CHECKING:
    from aiohttp.client import ClientRequest
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage
    from aiohttp.tracing import Trace

USER_AGENT: Final = f"novita-async/{__version__}"
MAX_ANSWER: Final = 16 * MIB
"""Bytes of an answer, decompressed. The largest real one, a page of 100 models, has about 100 KB."""
KEEPALIVE: Final = 4.0
"""Seconds that a connection may idle and still be used. Common servers close after 5 s or more."""
_START_COST: Final = 6 * 1024
"""What starting a small exchange takes of a turn of the loop: 32 start in one turn, which is 2 to 3 ms."""
_LAST_USED: Final[WeakKeyDictionary[object, float]] = WeakKeyDictionary()
"""When the protocols of connections carried their last answer. A session of the user's has a patience of its
own with idle connections, or none."""
_TURNS_TO_READ: Final = 4
"""Turns of the loop from bytes in the socket to the caller who waits for the answer."""


# --- What went wrong ----------------------------------------------------------------------------------------

_CAUSES: Final[tuple[tuple[type[Exception], Delivery, str], ...]] = (
    (aiohttp.ClientProxyConnectionError, Delivery.NOT_SENT, "the proxy cannot be reached"),
    (aiohttp.ClientHttpProxyError, Delivery.NOT_SENT, "the proxy refused to connect"),
    (aiohttp.ClientConnectorDNSError, Delivery.NOT_SENT, "the host name cannot be resolved"),
    (aiohttp.ClientConnectorCertificateError, Delivery.NOT_SENT, "the server's certificate is not valid"),
    (aiohttp.ServerFingerprintMismatch, Delivery.NOT_SENT, "the server's certificate is another one"),
    (aiohttp.ClientConnectorSSLError, Delivery.NOT_SENT, "TLS failed"),
    (aiohttp.ClientConnectorError, Delivery.NOT_SENT, "the server cannot be reached"),
    (aiohttp.ConnectionTimeoutError, Delivery.NOT_SENT, "no connection in time"),
    (aiohttp.InvalidURL, Delivery.NOT_SENT, "not a URL"),
    (aiohttp.SocketTimeoutError, Delivery.UNKNOWN, "no answer in time"),
    (aiohttp.ServerDisconnectedError, Delivery.UNKNOWN, "the server closed the connection"),
    (aiohttp.ClientPayloadError, Delivery.UNKNOWN, "the answer broke off or cannot be decompressed"),
    (aiohttp.ClientResponseError, Delivery.UNKNOWN, "the answer is not HTTP"),
    (HttpProcessingError, Delivery.UNKNOWN, "the answer is not HTTP"),
    (aiohttp.ClientConnectionResetError, Delivery.UNKNOWN, "the connection broke"),
    (aiohttp.ClientOSError, Delivery.UNKNOWN, "the connection broke"),
    (aiohttp.ClientConnectionError, Delivery.UNKNOWN, "the connection broke"),
    (TimeoutError, Delivery.UNKNOWN, "no answer in time"),
    (OSError, Delivery.UNKNOWN, "the connection broke"),
)
"""The first that fits, in words that can hold no secret. Its delivery counts where no body tells more."""


def explain(error: BaseException) -> tuple[Delivery, str]:
    """How far an exchange without a body got, and why not further."""
    if isinstance(error, DeliveryFailed):
        return error.delivery, error.cause
    for kind, delivery, words in _CAUSES:
        if isinstance(error, kind):
            return delivery, words + _errno_of(error)
    return Delivery.UNKNOWN, type(error).__name__


def _errno_of(error: BaseException) -> str:
    number = error.errno if isinstance(error, OSError) else None
    return f" ({os.strerror(number)})" if number and number > 0 else ""


# --- Sessions -----------------------------------------------------------------------------------------------


def check_base_url(text: str) -> URL:
    """Read a base URL.

    Raises:
        ConfigurationError: it is no absolute http or https URL, or holds credentials, which are not quoted.
    """
    try:
        url = URL(text)
    except (TypeError, ValueError):
        url = URL()
    if url.scheme not in ("http", "https") or not url.host or url.raw_query_string or url.raw_fragment:
        raise ConfigurationError(
            problem="the base URL is not an absolute http or https URL",
            advice="it looks like https://api.novita.ai, without query or fragment",
        )
    if url.raw_user or url.raw_password:
        raise ConfigurationError(
            problem="the base URL holds credentials", advice="leave them out; the key goes into api_key="
        )
    return url


@frozen
class Proxies:
    """The proxies of the environment, read once: `trust_env` asks two threads for every request.

    Unlike `trust_env` this leaves `~/.netrc` alone: its logins collide with the key, and reach result hosts.
    """

    urls: Mapping[str, str] = field(factory=getproxies, repr=False)
    """Scheme to proxy."""

    def for_url(self, url: URL) -> URL | None:
        """Which proxy to use, if any.

        Raises:
            ConfigurationError: it is of a kind that cannot be used.
        """
        text = self.urls.get(url.scheme)
        if text is None or (url.host and proxy_bypass(url.host)):
            return None
        proxy = URL(text if "://" in text else f"http://{text}")
        if proxy.scheme not in ("http", "https"):
            raise ConfigurationError(
                problem=f"the environment names a {proxy.scheme} proxy for {url.scheme}",
                advice="use an HTTP proxy, or set NO_PROXY",
            )
        return proxy


def has_news(transport: asyncio.BaseTransport | None) -> bool:
    """Whether a socket has data, an end or an error that the loop has not seen yet."""
    sock = transport.get_extra_info("socket") if transport else None
    if sock is None or sock.fileno() < 0:
        return False
    if sys.platform == "win32":
        return bool(select.select([sock.fileno()], [], [], 0)[0])
    poll = select.poll()  # unlike `select` it takes any file descriptor
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def _turn_to_read() -> None:
    for _ in range(_TURNS_TO_READ):
        await asyncio.sleep(0)


class _LiveConnector(aiohttp.TCPConnector):
    """Hands out no connection that its server has begun to close."""

    _used: Final[WeakSet[object]] = WeakSet()
    """Protocols of the connections that were handed out, in all connectors."""

    async def connect(
        self,
        req: "ClientRequest",
        traces: list["Trace"],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> "Connection":
        while True:
            connection = await super().connect(req, traces, timeout)
            is_new = connection.protocol not in self._used
            if _is_usable(connection) or await _is_usable_after_reading(connection):
                if is_new:
                    self._used.add(connection.protocol)
                return connection
            connection.close()
            if is_new:
                raise aiohttp.ServerDisconnectedError


async def _is_usable_after_reading(connection: "Connection") -> bool:
    try:
        await _turn_to_read()
    except BaseException:
        connection.close()
        raise
    return _is_usable(connection)


def _is_usable(connection: "Connection") -> bool:
    transport, protocol = connection.transport, connection.protocol
    if transport is None or protocol is None or transport.is_closing():
        return False
    return not protocol.should_close and not has_news(transport)


def new_session(
    headers: Mapping[str, str], timeout: aiohttp.ClientTimeout, proxy: URL | None = None
) -> aiohttp.ClientSession:
    """Make a session without cookies and without a bound of its own: what is in flight is bounded elsewhere.

    With a proxy no header may be secret: aiohttp sends a session's headers to its proxy too.
    """
    return aiohttp.ClientSession(
        connector=_LiveConnector(limit=0, keepalive_timeout=KEEPALIVE),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        timeout=timeout,
        proxy=proxy,
    )


@frozen(kw_only=True)
class _Lane:
    """How the requests of one key travel."""

    session: aiohttp.ClientSession
    headers: Mapping[str, str] | None = field(repr=False)
    """Sent with each request, where they cannot be the session's."""
    short_way: "_ShortWay | None" = None
    """For small requests; where the session is ours and goes through no proxy."""


@define(eq=False, repr=False)
class _ShortWay:
    """Small requests, written straight to the connections of a session of ours.

    What `ClientSession.request` does for one request costs three times as much as the exchange itself:
    cookies, redirects, middlewares, a task that writes. None of it is used here. Of aiohttp there remain its
    connector (names, TLS, connections kept alive) and the parser of its connections.
    """

    _connector: aiohttp.BaseConnector
    _asking: aiohttp.ClientRequest
    """Tells the connector where to, and has the headers that all requests share."""
    _timeout: aiohttp.ClientTimeout
    _lines: bytes = field(init=False)

    def __attrs_post_init__(self) -> None:
        lines = [f"{name}: {value}\r\n" for name, value in self._asking.headers.items()]
        self._lines = "".join(lines).encode()

    @classmethod
    def of(cls, session: aiohttp.ClientSession, url: URL, timeout: aiohttp.ClientTimeout) -> "_ShortWay":
        """Make the short way of a session to a host."""
        asking = aiohttp.ClientRequest(
            "GET", url, headers=session.headers, loop=asyncio.get_running_loop(), session=session
        )
        return cls(cast("aiohttp.BaseConnector", session.connector), asking, timeout)

    async def connect(self) -> "Connection":
        """Take a connection that its server has not begun to close."""
        try:
            return await self._connector.connect(self._asking, [], self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error

    def head(self, method: str, target: str, length: int) -> bytes:
        """Everything before the body."""
        start = f"{method} {target} HTTP/1.1\r\n".encode()
        if method == "GET":
            return b"".join((start, self._lines, b"\r\n"))
        what = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length
        return b"".join((start, self._lines, what))


# --- One exchange -------------------------------------------------------------------------------------------


def _is_interim(status: int) -> bool:
    """Whether another status follows."""
    return 100 <= status < 200 and status != 101  # noqa: PLR2004 - the class of 1xx, and the one that ends HTTP


@define(eq=False, kw_only=True)
class _Exchange:
    """One request on its way, as the writer of its body and the reader of its answer both see it."""

    request: HTTPRequest
    length: int
    """Of the body, in bytes."""
    turns: Turns
    stall_timeout: float
    answer_timeout: float
    on_handover: Callable[[], None] | None
    task: asyncio.Task[object]
    """Who waits for the answer."""
    cancelling: int
    """How often that task was being cancelled when the exchange began."""
    due: float = math.inf
    """When the next sign of life must have come, on the loop's clock. Moves with progress."""
    overdue: bool = False
    reused: bool = False
    """Whether the connection had been used before, and nothing of this request was written to it."""
    handed_over: bool = False
    """Whether the last piece was given to the socket."""
    status: int | None = None
    """Known once there is an answer."""
    leavable: bool = False
    """Whether another task may read the answer."""
    cancellation: asyncio.CancelledError | None = None
    """What made the task leave."""
    left: "Connection | None" = None
    """Where the answer comes that it left."""
    _answer: "tuple[RawResponseMessage, aiohttp.StreamReader] | None" = field(init=False, default=None)
    """The head of the answer and where its body comes."""
    _read: bytearray = field(init=False, factory=bytearray)
    """What is read of its body."""
    refusal: InvalidRequest | None = None
    """Why the body cannot be made."""

    def payload(self) -> "_Payload | None":
        return _Payload(self) if self.request.method == "POST" else None

    async def write(self, writer: AbstractStreamWriter) -> None:
        transport = (
            writer.transport
        )  # aiohttp forgets it when it closes, which waits for what is still buffered
        try:
            self._refuse_stale(writer)
            if self.length <= SMALL:
                await self._write_last(writer, whole(self.request, self.length))
            else:
                await self._write_pieces(writer)
        except BaseException as error:
            if isinstance(error, InvalidRequest):
                self.refusal = error
            if not self.handed_over and transport is not None:
                transport.abort()
            raise

    def _refuse_stale(self, writer: AbstractStreamWriter) -> None:
        """Words that came before anything was asked would be taken for the answer."""
        protocol = getattr(writer, "protocol", None)
        used_at = None if protocol is None else _LAST_USED.get(protocol)
        self.reused = used_at is not None
        idle = asyncio.get_running_loop().time() - used_at if used_at is not None else 0.0
        if idle > KEEPALIVE or getattr(protocol, "should_close", False):
            raise aiohttp.ClientConnectionResetError

    @property
    def may_take_another(self) -> bool:
        """Whether the connection had gone stale before anything of the request was written to it."""
        return self.reused and not self.handed_over and self.status is None and self.refusal is None

    async def _write_pieces(self, writer: AbstractStreamWriter) -> None:
        left = self.length
        for piece in pieces(self.request, self.length):
            left -= len(piece)
            if not left:
                await self._write_last(writer, piece)
                break
            self._expect_within(self.stall_timeout)
            await self._read_first(writer)
            self.reused = False
            await writer.write(piece)
            await self.turns.later(len(piece))

    async def _write_last(self, writer: AbstractStreamWriter, piece: bytes | memoryview) -> None:
        await self._read_first(writer)
        if writer.transport is None or writer.transport.is_closing():
            raise aiohttp.ClientConnectionResetError
        self._hand_over()
        self._expect_within(self.answer_timeout)
        await writer.write(piece)

    def _hand_over(self) -> None:
        if self.task.cancelling() > self.cancelling:  # it will be told in this turn of the loop: buy nothing
            raise asyncio.CancelledError
        if self.on_handover:
            self.on_handover()
        self.handed_over = True

    async def _read_first(self, writer: AbstractStreamWriter) -> None:
        if self.status is None and has_news(writer.transport):
            await _turn_to_read()
        if self.status is not None:
            await asyncio.Event().wait()  # aiohttp cancels the writer when the answer has been read

    def _expect_within(self, seconds: float) -> None:
        self.due = asyncio.get_running_loop().time() + seconds

    def expire(self) -> None:
        """Break off what the task waits for."""
        self.due = math.inf
        self.overdue = True
        self.task.cancel()

    def is_left_by(self, error: BaseException) -> bool:
        """Whether an error is none of ours: a cancellation from outside, told as by `asyncio.timeout`."""
        outside = not self.overdue or self.task.uncancel() > self.cancelling
        return not isinstance(error, Exception) and (outside or not isinstance(error, asyncio.CancelledError))

    # The short way.

    def text(self, head: bytes) -> bytes:
        """Make all that is to be written."""
        try:
            return head + whole(self.request, self.length)
        except InvalidRequest as error:
            self.refusal = error
            raise

    async def on(self, connection: "Connection", text: bytes) -> HTTPResponse:
        """Write the request at once and read the answer."""
        try:
            self._write_at_once(connection, text)
            return await self._answer_on(connection)
        except BaseException as error:
            if not self._leave(connection, error):
                connection.close()
            raise

    def _write_at_once(self, connection: "Connection", text: bytes) -> None:
        """Nothing comes between the look at the connection and this."""
        transport, protocol = connection.transport, connection.protocol
        if transport is None or protocol is None:
            raise aiohttp.ClientConnectionResetError
        protocol.set_response_params(read_until_eof=True)
        if self.request.method == "POST":
            self._hand_over()
        self._expect_within(self.answer_timeout)
        transport.write(text)

    async def _answer_on(self, connection: "Connection") -> HTTPResponse:
        protocol = cast("ResponseHandler", connection.protocol)
        while self._answer is None:
            message, payload = await protocol.read()
            if not _is_interim(message.code):
                self._answer, self.status = (message, payload), message.code
        message, payload = self._answer
        body = payload.read_nowait() if payload.is_eof() else await self._read_all(payload)
        _LAST_USED[protocol] = asyncio.get_running_loop().time()
        connection.release()
        headers = {name.lower(): value for name, value in message.headers.items()}
        return HTTPResponse(status=message.code, headers=headers, body=body)

    def _leave(self, connection: "Connection", error: BaseException) -> bool:
        """Leave the rest to another task, where that was agreed on and this one is being cancelled."""
        if not isinstance(error, asyncio.CancelledError) or self.overdue:
            return False
        if not (self.leavable and self.handed_over):
            return False
        cast("ResponseHandler", connection.protocol).force_close()
        self.left, self.cancellation = connection, error
        return True

    async def read_for_another(self) -> HTTPResponse:
        """Read what the task that is left had not read."""
        self.task = cast("asyncio.Task[object]", asyncio.current_task())
        self.cancelling = self.task.cancelling()
        connection = cast("Connection", self.left)
        self.leavable, self.left, self.cancellation = False, None, None
        try:
            return await self._answer_on(connection)
        except BaseException:
            connection.close()
            raise

    # The long way.

    async def read(self, response: aiohttp.ClientResponse) -> HTTPResponse:
        self.status = response.status
        try:
            return await self._read_whole(response)
        finally:
            protocol = getattr(response, "_protocol", None)
            if protocol is not None:
                _LAST_USED[protocol] = asyncio.get_running_loop().time()

    async def _read_whole(self, response: aiohttp.ClientResponse) -> HTTPResponse:
        content = response.content
        try:
            body = content.read_nowait() if content.is_eof() else await self._read_all(content)
        except BaseException:
            response.close()
            raise
        if self.request.method == "POST" and not self.handed_over:
            await response.wait_for_close()
        headers = {name.lower(): value for name, value in response.headers.items()}
        early = self.request.method == "POST" and not self.handed_over
        return HTTPResponse(status=response.status, headers=headers, body=body, early=early)

    async def _read_all(self, content: aiohttp.StreamReader) -> bytes:
        self._expect_within(self.answer_timeout)
        while not content.at_eof():
            self._read += await content.readany()
            if len(self._read) > MAX_ANSWER:
                raise DeliveryFailed(Delivery.UNKNOWN, f"the answer is larger than {MAX_ANSWER:,} bytes")
        return bytes(self._read)

    def failure(self, error: BaseException) -> Exception:
        """What to raise instead, without anything of aiohttp in it."""
        if self.refusal:
            return self.refusal.with_traceback(None)
        delivery, cause = explain(error)
        if self.request.method == "POST":
            delivery = Delivery.UNKNOWN if self.handed_over else Delivery.NOT_SENT
        if self.overdue:
            cause = self._lateness()
        return DeliveryFailed(delivery, cause, status=self.status)

    def _lateness(self) -> str:
        if self.handed_over or self.status is not None:
            return f"no whole answer within {self.answer_timeout:g} s"
        return f"the upload made no progress for {self.stall_timeout:g} s"


class _Payload(aiohttp.Payload):
    """A body as aiohttp wants it."""

    def __init__(self, exchange: _Exchange) -> None:
        # The base class would make a mapping of headers for each.
        self.exchange = exchange

    @property
    def size(self) -> int:
        return self.exchange.length

    @property
    def headers(self) -> CIMultiDict[str]:
        return _PAYLOAD_HEADERS

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise NotImplementedError("the body is never whole in memory")

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.exchange.write(writer)


_PAYLOAD_HEADERS: Final = CIMultiDict({"Content-Type": "application/json"})


@define(eq=False, repr=False)
class _Watchdog:
    """One timer for all deadlines, up to a tenth late. A timer for each would cost a tenth of an exchange."""

    tick: float
    """Seconds between two looks."""
    _watched: set[_Exchange] = field(init=False, factory=set)
    _timer: asyncio.TimerHandle | None = field(init=False, default=None)

    def __repr__(self) -> str:
        return f"<_Watchdog of {len(self._watched)}, {'awake' if self._timer else 'asleep'}>"

    def watch(self, exchange: _Exchange) -> None:
        self._watched.add(exchange)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.tick, self._look)

    def forget(self, exchange: _Exchange) -> None:
        self._watched.discard(exchange)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.tick, self._look) if self._watched else None
        for exchange in [one for one in self._watched if one.due <= loop.time()]:
            exchange.expire()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _check_given(session: aiohttp.ClientSession) -> None:
    if session.auth is not None:  # aiohttp refuses to send both; the key would never arrive
        raise ConfigurationError(
            problem="the session has a login of its own, which collides with the key",
            advice="leave auth= out of it",
        )


# --- The transport ------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _joined(base_url: URL, path: str) -> URL:
    return base_url.joinpath(path.lstrip("/"))


@lru_cache(maxsize=4096)
def _target(base_url: URL, path: str, query: tuple[tuple[str, str], ...]) -> str:
    """What stands in the first line of a request."""
    url = _joined(base_url, path)
    return (url.with_query(query) if query else url).raw_path_qs


@frozen(kw_only=True)
class TransportStatistics:
    """What a transport has done so far."""

    in_flight: int
    """Exchanges that have begun and not ended."""
    answered: int
    """Exchanges that ended with a whole answer, whatever it said."""
    not_sent: int
    """Exchanges that failed before there was a whole request."""
    unknown: int
    """Exchanges that failed afterwards."""
    keys: int
    """Keys that were used; each has an aiohttp session of its own, unless the user gave one."""


@define(eq=False, repr=False, on_setattr=setters.NO_OP)
class AiohttpTransport:
    """Carries requests to one base URL: one aiohttp session for each key, or one that the user gave."""

    base_url: URL = field(converter=check_base_url)
    """Where the API is; a path in it is kept in front of every request's path."""
    session: aiohttp.ClientSession | None = field(default=None, kw_only=True)
    """The user's own: used as it is, never closed."""
    connect_timeout: float = field(default=30.0, kw_only=True)
    """Seconds for name, connection, TLS and proxy together."""
    stall_timeout: float = field(default=60.0, kw_only=True)
    """Seconds in which a piece of a body must go out."""
    answer_timeout: float = field(default=120.0, kw_only=True)
    """Seconds from the last byte of the request to the last byte of the answer."""
    _turns: Turns = field(init=False, factory=Turns)
    _lanes: dict[ApiKey, _Lane] = field(init=False, factory=dict)
    _timeouts: Mapping[str, aiohttp.ClientTimeout] = field(init=False)
    _watchdog: _Watchdog = field(init=False)
    _in_flight: int = field(init=False, default=0)
    _answered: int = field(init=False, default=0)
    _not_sent: int = field(init=False, default=0)
    _unknown: int = field(init=False, default=0)
    _closed: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        # With a connector without limits `connect` covers no wait for a slot.
        connect = None if self.session else self.connect_timeout
        post = aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=self.connect_timeout)
        get = aiohttp.ClientTimeout(
            total=None, connect=connect, sock_connect=self.connect_timeout, sock_read=self.answer_timeout
        )
        self._timeouts = {"GET": get, "POST": post}
        self._watchdog = _Watchdog(tick=min(self.stall_timeout, self.answer_timeout) / 10)

    def __repr__(self) -> str:
        return (
            f"<AiohttpTransport to {self.base_url}, {self._in_flight} in flight, {self._answered} answered>"
        )

    def statistics(self) -> TransportStatistics:
        """What it has done so far."""
        return TransportStatistics(
            in_flight=self._in_flight,
            answered=self._answered,
            not_sent=self._not_sent,
            unknown=self._unknown,
            keys=len(self._lanes),
        )

    async def send(
        self, request: HTTPRequest, api_key: ApiKey, /, *, on_handover: Callable[[], None] | None = None
    ) -> HTTPResponse:
        """Exchange one request, as `Transport` says."""
        lane = self._lane_of(api_key)
        exchange = self._begin(request, on_handover)
        return await self._carry(exchange, self._run(exchange, lane))

    def can_be_left(self, request: HTTPRequest, api_key: ApiKey) -> bool:
        """Where it goes the short way."""
        try:
            lane = self._lane_of(api_key)
        except ConfigurationError:  # which `send` raises
            return False
        return lane.short_way is not None and request.content_length <= SMALL

    async def send_leavably(
        self, request: HTTPRequest, api_key: ApiKey, /, *, on_handover: Callable[[], None]
    ) -> HTTPResponse:
        """Exchange one POST, as `LeavableTransport` says."""
        lane = self._lane_of(api_key)
        exchange = self._begin(request, on_handover)
        exchange.leavable = True
        try:
            return await self._carry(exchange, self._run(exchange, lane))
        except asyncio.CancelledError:
            if exchange.cancellation is None:
                raise
        raise Left(exchange.cancellation, partial(self._carry_on, exchange))

    async def _carry_on(self, exchange: _Exchange) -> HTTPResponse:
        self._enter(exchange)
        return await self._carry(exchange, exchange.read_for_another())

    async def _carry(self, exchange: _Exchange, course: Awaitable[HTTPResponse]) -> HTTPResponse:
        """Count what becomes of an exchange, and translate it."""
        try:
            answer = await course
        except BaseException as error:  # noqa: BLE001 - it is raised again, or counted
            if exchange.is_left_by(error):
                raise error.with_traceback(None) from None  # aiohttp's frames hold the key
            failure = exchange.failure(error)
        else:
            self._answered += 1
            return answer
        finally:
            self._watchdog.forget(exchange)
            self._in_flight -= 1
        self._count(failure)
        raise failure

    def _begin(self, request: HTTPRequest, on_handover: Callable[[], None] | None) -> _Exchange:
        task = cast("asyncio.Task[object]", asyncio.current_task())
        exchange = _Exchange(
            request=request,
            length=request.content_length,
            turns=self._turns,
            stall_timeout=self.stall_timeout,
            answer_timeout=self.answer_timeout,
            on_handover=on_handover,
            task=task,
            cancelling=task.cancelling(),
        )
        self._enter(exchange)
        return exchange

    def _enter(self, exchange: _Exchange) -> None:
        self._watchdog.watch(exchange)
        self._in_flight += 1

    def _count(self, failure: Exception) -> None:
        if isinstance(failure, DeliveryFailed) and failure.delivery is Delivery.UNKNOWN:
            self._unknown += 1
        else:
            self._not_sent += 1

    async def _run(self, exchange: _Exchange, lane: _Lane) -> HTTPResponse:
        cost = _START_COST if exchange.length <= SMALL else TEXT_SLICE
        if not self._turns.enter(cost):
            await self._turns.later(cost)
        if lane.short_way is not None and exchange.length <= SMALL:
            return await self._run_the_short_way(exchange, lane.short_way)
        while True:
            try:
                return await exchange.read(await self._ask(exchange, lane))
            except aiohttp.ClientConnectionError:
                if not exchange.may_take_another:
                    raise
                exchange.reused = False

    async def _run_the_short_way(self, exchange: _Exchange, way: _ShortWay) -> HTTPResponse:
        request = exchange.request
        target = _target(self.base_url, request.path, request.query)
        text = exchange.text(way.head(request.method, target, exchange.length))
        connection = await way.connect()
        try:
            return await exchange.on(connection, text)
        except aiohttp.ClientConnectionError:
            if request.method == "POST" or exchange.status is not None:
                raise
        return await exchange.on(await way.connect(), text)  # a question may be asked again

    async def _ask(self, exchange: _Exchange, lane: _Lane) -> aiohttp.ClientResponse:
        return await lane.session.request(
            exchange.request.method,
            self._url_of(exchange.request),
            data=exchange.payload(),
            headers=lane.headers,
            timeout=self._timeouts[exchange.request.method],
            allow_redirects=False,
            raise_for_status=False,
        )

    def _url_of(self, request: HTTPRequest) -> URL:
        return _joined(self.base_url, request.path).with_query(request.query or None)

    def _lane_of(self, api_key: ApiKey) -> _Lane:
        lane = self._lanes.get(api_key)
        if lane is None or lane.session.closed:
            if self._closed or (self.session is not None and self.session.closed):
                raise ConfigurationError(problem="the session is closed", advice="make a new client")
            lane = self._lanes[api_key] = self._new_lane(api_key)
        return lane

    def _new_lane(self, api_key: ApiKey) -> _Lane:
        if self.session is not None:
            _check_given(self.session)
        proxy = None if self.session else Proxies().for_url(self.base_url)
        open_headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
        secret_headers = {"Authorization": f"Bearer {api_key.reveal()}"}  # from here on nothing may fail
        if self.session is not None:
            return _Lane(session=self.session, headers=open_headers | secret_headers)
        if proxy is not None:
            session = new_session(open_headers, self._timeouts["GET"], proxy)
            return _Lane(session=session, headers=secret_headers)
        session = new_session(open_headers | secret_headers, self._timeouts["GET"])
        way = _ShortWay.of(session, self.base_url, self._timeouts["POST"])
        return _Lane(session=session, headers=None, short_way=way)

    async def aclose(self) -> None:
        """Close the sessions that this transport opened itself."""
        self._closed = True
        self._watchdog.stop()
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            if lane.session is not self.session:
                await lane.session.close()
