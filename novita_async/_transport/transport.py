"""Carries requests with aiohttp: a session for each key, or the one that the user gave.

Which path a request takes is decided here; the paths are in `fast_path` and `slow_path`, what they share in
`exchange`; connections are in `connections`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

import aiohttp
from attrs import define, field, setters
from yarl import URL

from novita_async._http import Delivery, DeliveryFailed, Detached, HTTPRequest, HTTPResponse
from novita_async._transport.address import misdirection
from novita_async._transport.body import SMALL, TEXT_SLICE, WriteScheduler, next_turn
from novita_async._transport.connections import (
    USER_AGENT,
    LoopSessions,
    Proxies,
    check_base_url,
    new_session,
)
from novita_async._transport.exchange import AiohttpExchange, Watchdog
from novita_async._transport.fast_path import FastExchange, FastPath, connector, joined
from novita_async._transport.fast_path import check as check_fast_path
from novita_async._transport.pictures import PictureIntake
from novita_async._transport.slow_path import SlowExchange
from novita_async._util.clock import loop_time
from novita_async._util.values import frozen
from novita_async.errors import ConfigurationError
from novita_async.models.accounts import ApiKey

_REDIRECTED: Final = 300
"""The lowest status that may be the sign of a wrong address."""
_START_COST: Final = 3 * 1024
"""Share that the start of a small exchange takes of a turn of the loop: 64 start in one turn, which is 1 to 2
ms."""
_SLOW_START_COST: Final = 6 * _START_COST
"""The same on the slow path, where aiohttp takes six times as long."""


@frozen(kw_only=True, eq=False, repr=False)
class _KeyedSession:
    """A session as the requests of one key use it."""

    session: aiohttp.ClientSession
    headers: Mapping[str, str] | None = field(repr=False)
    """Sent with each request, where they cannot be the session's."""
    fast_path: FastPath | None = None
    """For small requests; where the session is ours and goes through no proxy."""


@frozen(kw_only=True)
class TransportStatistics:
    """Exchanges of a transport so far."""

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
    """Seconds for the answer to a request that has no deadline of its own."""
    drain: float = field(default=5.0, kw_only=True)
    """Seconds for which `aclose` waits for answers to purchases that were handed over."""
    _scheduler: WriteScheduler = field(init=False, factory=WriteScheduler)
    _intake: PictureIntake = field(init=False, factory=PictureIntake)
    _sessions: dict[ApiKey, _KeyedSession] = field(init=False, factory=dict)
    _own: LoopSessions[ApiKey] = field(init=False, factory=LoopSessions[ApiKey])
    """Those of them that were opened here."""
    _has_moved: bool = field(init=False, default=False)
    """Whether this is not the first loop."""
    _timeouts: Mapping[str, aiohttp.ClientTimeout] = field(init=False)
    _watchdog: Watchdog = field(init=False)
    _reached: bool = field(init=False, default=False)
    """Whether there was ever a connection to the host."""
    _answered: int = field(init=False, default=0)
    _not_sent: int = field(init=False, default=0)
    _unknown: int = field(init=False, default=0)
    _closed: bool = field(init=False, default=False)
    _ended: asyncio.Event = field(init=False, factory=asyncio.Event)
    """Set when an exchange ends after `aclose` was called."""

    def __attrs_post_init__(self) -> None:
        # With a connector without limits `connect` covers no wait for a slot.
        connect = None if self.session else self.connect_timeout
        post = aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=self.connect_timeout)
        get = aiohttp.ClientTimeout(
            total=None, connect=connect, sock_connect=self.connect_timeout, sock_read=self.answer_timeout
        )
        self._timeouts = {"GET": get, "POST": post}
        self._watchdog = Watchdog(longest=min(self.stall_timeout, self.answer_timeout) / 10)
        check_fast_path()

    def __repr__(self) -> str:
        return (
            f"<AiohttpTransport to {self.base_url}, {len(self._watchdog.watched)} in flight, "
            f"{self._answered} answered>"
        )

    def statistics(self) -> TransportStatistics:
        """Count the exchanges so far."""
        return TransportStatistics(
            in_flight=len(self._watchdog.watched),
            answered=self._answered,
            not_sent=self._not_sent,
            unknown=self._unknown,
            keys=len(self._sessions),
        )

    # --- Exchanges ------------------------------------------------------------------------------------------

    async def send(
        self, request: HTTPRequest, api_key: ApiKey, /, *, on_handover: Callable[[], None] | None = None
    ) -> HTTPResponse:
        """Exchange one request, as `Transport` says."""
        keyed = self._session_of(api_key)
        length = request.content_length
        if keyed.fast_path is not None and _is_small(request, length):
            fast = self._fast(request, length, on_handover, keyed.fast_path)
            return await self._carry(fast, fast.run, _START_COST)
        if keyed.fast_path is not None and (live := keyed.fast_path.connector.take(loop_time())):
            live.connection.release()  # for the session to find
        timeout = request.timeout
        exchange = SlowExchange(
            request=request,
            length=length,
            answer_timeout=self.answer_timeout if timeout is None else timeout,
            on_handover=on_handover,
            task=_this_task(),
            cancelling=_this_task().cancelling(),
            session=keyed.session,
            url=joined(self.base_url, request.path).with_query(request.query or None),
            headers=keyed.headers,
            timeout=self._timeouts[request.method],
            scheduler=self._scheduler,
            stall_timeout=self.stall_timeout if timeout is None else min(timeout, self.stall_timeout),
            intake=self._intake,
            is_given=self.session is not None,
        )
        return await self._carry(exchange, exchange.run, _SLOW_START_COST if length <= SMALL else TEXT_SLICE)

    def detachable(
        self, request: HTTPRequest, api_key: ApiKey, /, *, on_handover: Callable[[], None]
    ) -> Callable[[], Coroutine[Any, Any, HTTPResponse]] | None:
        """Give what exchanges one POST, as `DetachableTransport` says: where it takes the fast path."""
        try:
            path = self._session_of(api_key).fast_path
        except ConfigurationError:  # which `send` raises
            return None
        length = request.content_length
        if path is None or not _is_small(request, length):
            return None
        exchange = self._fast(request, length, on_handover, path, detachable=True)
        return partial(self._carry, exchange, exchange.run, _START_COST)

    def _fast(
        self,
        request: HTTPRequest,
        length: int,
        on_handover: Callable[[], None] | None,
        path: FastPath,
        *,
        detachable: bool = False,
    ) -> FastExchange:
        task = _this_task()
        return FastExchange(
            detachable=detachable,
            request=request,
            length=length,
            answer_timeout=self.answer_timeout if request.timeout is None else request.timeout,
            on_handover=on_handover,
            task=task,
            cancelling=task.cancelling(),
            path=path,
        )

    async def _carry(
        self, exchange: AiohttpExchange, course: Callable[[], Awaitable[HTTPResponse]], cost: int = 0
    ) -> HTTPResponse:
        """Watch over an exchange from its turn on, count what becomes of it, and translate it.

        What is made in one turn of the loop goes out together in the next. Written one by one, between the
        making of others, each request would wake up its receiver: the server, a proxy, or the network's
        driver. Over loopback that costs this process a sixth of its time, and a server half of its own.
        """
        if cost:
            await next_turn()
            if not self._scheduler.enter(cost):
                await self._scheduler.later(cost)
        self._watchdog.watch(exchange)
        try:
            answer = await course()
        except BaseException as error:  # noqa: BLE001 - it is raised again, or counted
            if exchange.is_detached:
                fast = cast("FastExchange", exchange)
                raise Detached(error.with_traceback(None), partial(self._carry, fast, fast.finish)) from None
            if exchange.is_cancelled_by(error):
                raise error.with_traceback(None) from None  # aiohttp's frames hold the key
            self._reached |= exchange.handed_over or exchange.status is not None
            failure = exchange.failure(
                error,
                reached=self._reached,
                perhaps_tls=self.base_url.scheme == "http" and not self._answered,
            )
        else:
            self._answered += 1
            self._reached = True
            if answer.status >= _REDIRECTED and (
                wrong := misdirection(self.base_url, exchange.request.path, answer)
            ):
                raise DeliveryFailed(Delivery.NOT_SENT, wrong, passes=False)
            return answer
        finally:
            if not exchange.is_detached:
                self._watchdog.forget(exchange)
                if self._closed:
                    self._ended.set()
        raise self._counted(failure)

    def _counted(self, failure: Exception) -> Exception:
        if isinstance(failure, DeliveryFailed) and failure.delivery is Delivery.UNKNOWN:
            self._unknown += 1
        else:
            self._not_sent += 1
        return failure

    # --- Sessions -------------------------------------------------------------------------------------------

    def _session_of(self, api_key: ApiKey) -> _KeyedSession:
        keyed = self._sessions.get(api_key)
        if self._closed or keyed is None or keyed.session.closed:
            if self._closed or (self.session is not None and self.session.closed):
                raise ConfigurationError(problem="the session is closed", advice="make a new client")
            keyed = self._sessions[api_key] = self._new_session(api_key)
        return keyed

    def _new_session(self, api_key: ApiKey) -> _KeyedSession:
        given = self.session
        if given is not None and self._has_moved:
            raise ConfigurationError(
                problem="the session that was given belongs to another event loop",
                advice="nothing was bought; leave session= out, or make session and client in each loop",
            )
        if getattr(given, "auth", None) is not None:  # aiohttp refuses to send both; no key would arrive
            raise ConfigurationError(
                problem="the session has a login of its own, which collides with the key",
                advice="leave auth= out of it",
            )
        proxy = None if given else Proxies().for_url(self.base_url)
        open_headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
        secret_headers = {"Authorization": f"Bearer {api_key.reveal()}"}  # from here on nothing may fail
        if given is not None:
            return _KeyedSession(session=given, headers=open_headers | secret_headers)
        if proxy is not None:
            session = new_session(connector(), open_headers, self._timeouts["GET"], proxy)
            self._own.add(api_key, session)
            return _KeyedSession(session=session, headers=secret_headers)
        session = new_session(connector(), open_headers | secret_headers, self._timeouts["GET"])
        self._own.add(api_key, session)
        path = FastPath.of(session, self.base_url, self._timeouts["POST"])
        return _KeyedSession(session=session, headers=None, fast_path=path)

    async def aclose(self) -> None:
        """Wait for answers to purchases that were handed over, then close the sessions opened here."""
        self._closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self.drain):
                while any(exchange.handed_over for exchange in self._watchdog.watched):
                    self._ended.clear()
                    await self._ended.wait()
        if not self._watchdog.watched:
            self._watchdog.stop()
        self._sessions = {}
        await self._own.aclose()
        await self._intake.aclose()

    def reopen(self) -> None:
        """Take requests again, after `aclose`."""
        self._closed = False

    def leave_loop(self) -> None:
        """Begin anew in another loop: connections of the loop before are closed at its end."""
        self._own.leave_loop()
        self._watchdog.stop()
        self._watchdog = Watchdog(longest=self._watchdog.longest)
        self._scheduler = WriteScheduler()
        self._intake.leave_loop()
        self._sessions, self._ended, self._has_moved = {}, asyncio.Event(), True


def _is_small(request: HTTPRequest, length: int) -> bool:
    """Whether a request can take the fast path: no form, and no answer that may be large."""
    return length <= SMALL and request.parts is None and request.answer == "small"


def _this_task() -> "asyncio.Task[object]":
    return cast("asyncio.Task[object]", asyncio.current_task())
