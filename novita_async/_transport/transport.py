"""What carries requests with aiohttp: a session for each key, or the one that the user gave.

How a request goes out, and how far a failed one got, is in `_exchange`; connections are in `_connections`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import lru_cache, partial
from typing import Any, Final, cast

import aiohttp
from attrs import define, field, frozen, setters
from yarl import URL

from novita_async._http import Delivery, DeliveryFailed, Detached, HTTPRequest, HTTPResponse
from novita_async._transport.body import SMALL, TEXT_SLICE, WriteScheduler
from novita_async._transport.connections import USER_AGENT, FastPath, Proxies, check_base_url, new_session
from novita_async._transport.exchange import Exchange, Watchdog
from novita_async.errors import ConfigurationError
from novita_async.models.accounts import ApiKey

_START_COST: Final = 6 * 1024
"""What starting a small exchange takes of a turn of the loop: 32 start in one turn, which is 2 to 3 ms."""


@frozen(kw_only=True)
class _Lane:
    """How the requests of one key travel."""

    session: aiohttp.ClientSession
    headers: Mapping[str, str] | None = field(repr=False)
    """Sent with each request, where they cannot be the session's."""
    fast_path: "FastPath | None" = None
    """For small requests; where the session is ours and goes through no proxy."""


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
    _turns: WriteScheduler = field(init=False, factory=WriteScheduler)
    _lanes: dict[ApiKey, _Lane] = field(init=False, factory=dict)
    _timeouts: Mapping[str, aiohttp.ClientTimeout] = field(init=False)
    _watchdog: Watchdog = field(init=False)
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
        self._watchdog = Watchdog(tick=min(self.stall_timeout, self.answer_timeout) / 10)

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
        exchange = self._begin(request, request.content_length, on_handover)
        return await self._carry(exchange, self._run(exchange, lane))

    def detachable(
        self, request: HTTPRequest, api_key: ApiKey, /, *, on_handover: Callable[[], None]
    ) -> Callable[[], Coroutine[Any, Any, HTTPResponse]] | None:
        """Give what exchanges one POST, as `DetachableTransport` says: where it takes the fast path."""
        try:
            lane = self._lane_of(api_key)
        except ConfigurationError:  # which `send` raises
            return None
        length = request.content_length
        if lane.fast_path is None or length > SMALL:
            return None
        return partial(self._send_detachably, request, length, lane, on_handover)

    async def _send_detachably(
        self, request: HTTPRequest, length: int, lane: _Lane, on_handover: Callable[[], None]
    ) -> HTTPResponse:
        exchange = self._begin(request, length, on_handover)
        exchange.detachable = True
        try:
            return await self._carry(exchange, self._run(exchange, lane))
        except asyncio.CancelledError:
            if exchange.cancellation is None:
                raise
        raise Detached(exchange.cancellation, partial(self._carry_on, exchange))

    async def _carry_on(self, exchange: Exchange) -> HTTPResponse:
        self._enter(exchange)
        return await self._carry(exchange, exchange.read_for_another())

    async def _carry(self, exchange: Exchange, course: Awaitable[HTTPResponse]) -> HTTPResponse:
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

    def _begin(self, request: HTTPRequest, length: int, on_handover: Callable[[], None] | None) -> Exchange:
        task = cast("asyncio.Task[object]", asyncio.current_task())
        exchange = Exchange(
            request=request,
            length=length,
            turns=self._turns,
            stall_timeout=self.stall_timeout,
            answer_timeout=self.answer_timeout,
            on_handover=on_handover,
            task=task,
            cancelling=task.cancelling(),
        )
        self._enter(exchange)
        return exchange

    def _enter(self, exchange: Exchange) -> None:
        self._watchdog.watch(exchange)
        self._in_flight += 1

    def _count(self, failure: Exception) -> None:
        if isinstance(failure, DeliveryFailed) and failure.delivery is Delivery.UNKNOWN:
            self._unknown += 1
        else:
            self._not_sent += 1

    async def _run(self, exchange: Exchange, lane: _Lane) -> HTTPResponse:
        cost = _START_COST if exchange.length <= SMALL else TEXT_SLICE
        if not self._turns.enter(cost):
            await self._turns.later(cost)
        if lane.fast_path is not None and exchange.length <= SMALL:
            return await self._run_fast(exchange, lane.fast_path)
        while True:
            try:
                return await exchange.read(await self._ask(exchange, lane))
            except aiohttp.ClientConnectionError:
                if not exchange.may_take_another:
                    raise
                exchange.reused = False

    async def _run_fast(self, exchange: Exchange, way: FastPath) -> HTTPResponse:
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

    async def _ask(self, exchange: Exchange, lane: _Lane) -> aiohttp.ClientResponse:
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
        way = FastPath.of(session, self.base_url, self._timeouts["POST"])
        return _Lane(session=session, headers=None, fast_path=way)

    async def aclose(self) -> None:
        """Close the sessions that this transport opened itself."""
        self._closed = True
        self._watchdog.stop()
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            if lane.session is not self.session:
                await lane.session.close()
