"""Connections to a host: how they come about, whether they still live, and why they do not.

* A kept-alive connection on which something has arrived before anything was asked is being closed by its
  server, and aiohttp would take a late 408 on it for the answer. No request goes out on it, nor a submission
  on one that idled for long: another connection is taken, at once.
* aiohttp's exceptions, and the frames in their tracebacks, hold the Authorization header. They are turned
  into a few words and dropped, never chained.
"""

import asyncio
import os
import select
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary, WeakSet

import aiohttp
from aiohttp.http import HttpProcessingError
from attrs import define, field, frozen
from yarl import URL

from novita_async._http import Delivery, DeliveryFailed
from novita_async._version import __version__
from novita_async.errors import ConfigurationError

if TYPE_CHECKING:
    from aiohttp.client import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

USER_AGENT: Final = f"novita-async/{__version__}"
KEEPALIVE: Final = 4.0
"""Seconds that a connection may idle and still be used. Common servers close after 5 s or more."""
LAST_USED: Final[WeakKeyDictionary[object, float]] = WeakKeyDictionary()
"""When the protocols of connections carried their last answer. A session of the user's has a patience of its
own with idle connections, or none."""
_TURNS_TO_READ: Final = 4
"""WriteScheduler of the loop from bytes in the socket to the caller who waits for the answer."""


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


async def turn_to_read() -> None:
    for _ in range(_TURNS_TO_READ):
        await asyncio.sleep(0)


class LiveConnector(aiohttp.TCPConnector):
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
        await turn_to_read()
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
        connector=LiveConnector(limit=0, keepalive_timeout=KEEPALIVE),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        timeout=timeout,
        proxy=proxy,
    )


@define(eq=False, repr=False)
class FastPath:
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
    def of(cls, session: aiohttp.ClientSession, url: URL, timeout: aiohttp.ClientTimeout) -> "FastPath":
        """Make the fast path of a session to a host."""
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
