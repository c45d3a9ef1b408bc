"""Connections to a host: sessions, proxies, whether a connection still lives, and why one does not.

* A kept-alive connection on which something has arrived before anything was asked is being closed by its
  server, or carries the answer to something else. No request goes out on such a connection, nor a submission
  on one that idled for long: another one is taken, at once.
* aiohttp's exceptions, and the frames in their tracebacks, hold the Authorization header. They are turned
  into a few words and dropped, never chained.
"""

import asyncio
import os
import re
import select
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, TypedDict, TypeVar
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.http import HttpProcessingError
from attrs import define, field
from yarl import URL

from novita_async._http import Delivery, DeliveryFailed
from novita_async._util.values import frozen
from novita_async._version import __version__
from novita_async.errors import ConfigurationError

K = TypeVar("K")

USER_AGENT: Final = f"novita-async/{__version__}"
KEEPALIVE: Final = 4.0
"""Seconds that a connection may idle and still be used. Common servers close after 5 s or more."""


class HeadLimits(TypedDict):
    """How much head an answer may have, as aiohttp's arguments."""

    max_line_size: int
    max_field_size: int
    max_headers: int


HEAD_LIMITS: Final = HeadLimits(max_line_size=128 * 1024, max_field_size=128 * 1024, max_headers=2000)
"""aiohttp's own 8,190 bytes are too few for a long Content-Security-Policy, and a head that is not read
leaves a purchase uncertain."""
_KEEPALIVE_OPTIONS: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
"""Seconds until a silent peer is asked for a sign of life, and between the questions; how many are asked."""
_TURNS_TO_READ: Final = 4
"""Turns of the loop from bytes in the socket to the task that waits for the answer."""


# --- What went wrong ----------------------------------------------------------------------------------------

_CAUSES: Final[tuple[tuple[type[Exception], Delivery, str, bool | None], ...]] = (
    (aiohttp.ClientProxyConnectionError, Delivery.NOT_SENT, "the proxy cannot be reached", True),
    (aiohttp.ClientHttpProxyError, Delivery.NOT_SENT, "the proxy refused to connect", True),
    (aiohttp.ClientConnectorDNSError, Delivery.NOT_SENT, "the host name cannot be resolved", None),
    (
        aiohttp.ClientConnectorCertificateError,
        Delivery.NOT_SENT,
        "the server's certificate is not valid",
        False,
    ),
    (aiohttp.ServerFingerprintMismatch, Delivery.NOT_SENT, "the server's certificate is another one", False),
    (aiohttp.ClientConnectorSSLError, Delivery.NOT_SENT, "TLS failed", None),
    (aiohttp.ClientConnectorError, Delivery.NOT_SENT, "the server cannot be reached", True),
    (aiohttp.ConnectionTimeoutError, Delivery.NOT_SENT, "no connection in time", True),
    (aiohttp.InvalidURL, Delivery.NOT_SENT, "not a URL", False),
    (aiohttp.SocketTimeoutError, Delivery.UNKNOWN, "no answer in time", True),
    (aiohttp.ServerDisconnectedError, Delivery.UNKNOWN, "the server closed the connection", True),
    (aiohttp.ClientPayloadError, Delivery.UNKNOWN, "the answer broke off or cannot be decompressed", True),
    (aiohttp.ClientResponseError, Delivery.UNKNOWN, "the answer is not HTTP", True),
    (HttpProcessingError, Delivery.UNKNOWN, "the answer is not HTTP", True),
    (aiohttp.ClientConnectionResetError, Delivery.UNKNOWN, "the connection broke", True),
    (aiohttp.ClientOSError, Delivery.UNKNOWN, "the connection broke", True),
    (aiohttp.ClientConnectionError, Delivery.UNKNOWN, "the connection broke", True),
    (TimeoutError, Delivery.UNKNOWN, "no answer in time", True),
    (OSError, Delivery.UNKNOWN, "the connection broke", True),
)
"""The first that fits, in words that can hold no secret; its delivery, which counts where no body tells more;
and whether it passes by itself. None: as an outage does where the host was reached before, else never."""

_BROKE_OFF: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""TLS errors that are a connection's end, as of a server that restarts."""
_OPENSSL: Final = re.compile(
    r"\[(?:SSL|X509)\b.*?\] (?:certificate verify failed: )?(.*?)\.?(?: \(_ssl\.c:\d+\))?$"
)
"""OpenSSL's own words in the text of an error, between the names of functions and files."""
_HINTS: Final = {"wrong version number": "is it http?", "http request": "is it http?"}


@frozen
class Cause:
    """Why an exchange without a body failed."""

    delivery: Delivery
    """How far it got."""
    words: str
    """In words that hold no secret."""
    passes: bool = True
    """Whether waiting can help."""


def explain(error: BaseException, *, reached: bool = False) -> Cause:
    """Say how far an exchange without a body got, and why not further.

    Args:
        error: An error of aiohttp or the system.
        reached: Whether the host was reached before, so that it exists and speaks TLS.
    """
    if isinstance(error, DeliveryFailed):
        return Cause(error.delivery, error.cause, error.passes)
    for kind, delivery, words, passes in _CAUSES:
        if isinstance(error, kind):
            broke_off = isinstance(getattr(error, "os_error", None), _BROKE_OFF)
            return Cause(
                delivery,
                words + _place(error) + _system_words(error),
                reached or broke_off if passes is None else passes,
            )
    return Cause(Delivery.UNKNOWN, type(error).__name__)


def _place(error: BaseException) -> str:
    """Name the host that was not found or not reached."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f": {error.host}"
    return f" at {error.host}:{error.port}" if type(error) is aiohttp.ClientConnectorError else ""


def _system_words(error: BaseException) -> str:
    """The system's words about an error. OpenSSL's errors carry a number too, which is no errno."""
    if not isinstance(error, OSError) or not error.errno:
        return ""
    openssl = _OPENSSL.search(error.strerror or "")
    if openssl:
        words = openssl[1][:1].lower() + openssl[1][1:] if openssl[1][1:2].islower() else openssl[1]
        return f": {words}" + "".join(f": {hint}" for sign, hint in _HINTS.items() if sign in words)
    return f" ({os.strerror(error.errno)})" if error.errno > 0 else ""


# --- Sessions -----------------------------------------------------------------------------------------------


def check_base_url(text: str) -> URL:
    """Read a base URL.

    Raises:
        ConfigurationError: the URL is no absolute http or https URL, or holds credentials (not quoted).
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


def news_of(transport: asyncio.BaseTransport | None) -> Callable[[int], Sequence[object]]:
    """Make a function that tells, given 0, what a socket has that the loop has not seen yet: data, an end, an
    error. The function may be kept for as long as the transport is open.
    """
    sock = transport.get_extra_info("socket") if transport else None
    if sock is None or sock.fileno() < 0:
        return lambda _: ()
    if sys.platform == "win32":
        return lambda seconds: select.select([sock], [], [], seconds)[0]
    poll = select.poll()  # unlike `select` it takes any file descriptor
    poll.register(sock.fileno(), select.POLLIN)
    return poll.poll


def has_news(transport: asyncio.BaseTransport | None) -> bool:
    """Whether a socket has data, an end or an error that the loop has not seen yet."""
    return bool(news_of(transport)(0))


@define(eq=False, repr=False)
class KnownConnection:
    """A connection that a request has used."""

    news: Callable[[int], Sequence[object]]
    """Tells, given 0, what has come that the loop has not seen yet."""
    used_at: float | None = None
    """When the connection was last given to a request, or carried an answer. None: the first request is under
    way."""


KNOWN: Final[WeakKeyDictionary[object, KnownConnection]] = WeakKeyDictionary()
"""Connections by their protocols. A session of the user's keeps idle ones for its own time, or for ever."""


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Let the system notice within a minute that the peer of a connection is gone, though nothing is sent.

    Systems without these options notice later.
    """
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE_OPTIONS:
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def in_lower_case(headers: Mapping[str, str]) -> dict[str, str]:
    """Header names of an answer as `HTTPResponse` has them."""
    return {name.lower(): value for name, value in headers.items()}


class LowerCaseHeaders(Mapping[str, str]):
    """The same, made when somebody looks: at the headers of a success nobody does."""

    __slots__ = ("_given", "_made")

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given
        self._made: dict[str, str] | None = None

    def _all(self) -> dict[str, str]:
        if self._made is None:
            self._made = in_lower_case(self._given)
        return self._made

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


async def turn_to_read() -> None:
    """Let the loop read what has come, and hand it on."""
    for _ in range(_TURNS_TO_READ):
        await asyncio.sleep(0)


async def _guard(sessions: MutableMapping[Any, aiohttp.ClientSession]) -> AsyncGenerator[None]:
    loop = asyncio.get_running_loop()
    try:
        yield
    finally:
        if not loop.is_closed():  # otherwise it was closed without its generators, and nothing can be awaited
            for session in sessions.values():
                await session.close()
            sessions.clear()


@define(eq=False, repr=False)
class LoopSessions(Generic[K]):
    """Sessions of the running loop, closed at its end at the latest.

    asyncio closes the asynchronous generators that were begun in a loop before it closes the loop, and that
    is the only sign of its end: so one is begun with the first session.
    """

    _open: dict[K, aiohttp.ClientSession] = field(factory=dict[Any, aiohttp.ClientSession], init=False)
    _guard: AsyncGenerator[None] | None = field(default=None, init=False)
    _left: list[tuple[asyncio.AbstractEventLoop, AsyncGenerator[None]]] = field(
        factory=list[tuple[asyncio.AbstractEventLoop, AsyncGenerator[None]]], init=False
    )
    """Loops that were left and stand still, and what closes their sessions."""
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False)

    def add(self, key: K, session: aiohttp.ClientSession) -> None:
        """Keep a session that was made in the running loop."""
        self._open[key] = session
        if self._guard is None:
            self._loop, self._guard = asyncio.get_running_loop(), _guard(self._open)
            with suppress(StopIteration):
                self._guard.__anext__().send(None)  # it yields at once

    def leave_loop(self) -> None:
        """Begin anew in another loop. If the loop before is not closed, its end still closes its sessions."""
        if self._loop is not None and self._guard is not None:
            self._left.append((self._loop, self._guard))
        self._left = [each for each in self._left if not each[0].is_closed()]
        self._open, self._guard = {}, None

    async def aclose(self) -> None:
        """Close those of the running loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.leave_loop()
        mine = [guard for left, guard in self._left if left is loop]
        mine += [self._guard] if self._guard is not None else []
        self._left = [each for each in self._left if each[0] is not loop]
        self._open, self._guard = {}, None
        for guard in mine:
            await guard.aclose()


def new_session(
    connector: aiohttp.BaseConnector,
    headers: Mapping[str, str],
    timeout: aiohttp.ClientTimeout,
    proxy: URL | None = None,
) -> aiohttp.ClientSession:
    """Make a session without cookies.

    With a proxy no header may be secret: aiohttp sends a session's headers to its proxy too.
    """
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        timeout=timeout,
        proxy=proxy,
        **HEAD_LIMITS,
    )
