"""The simulator in memory: no sockets, so that virtual time can run it.

Every exchange takes `latency` on its way there and again on its way back, on anyio's clock. The service
acts when the request has arrived: a send that is cancelled before has bought nothing, one that is
cancelled after may have.
"""

import math
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, assert_never
from urllib.parse import unquote, urlsplit

import anyio
import anyio.lowlevel
import pybase64
from attrs import define, field

from novita_async._http import (
    BOUNDARY_LENGTH,
    Delivery,
    DeliveryFailed,
    Download,
    HTTPRequest,
    HTTPResponse,
    form,
)
from novita_async._transport.pictures import PictureIntake
from novita_async._util.values import frozen
from novita_async.models.accounts import ApiKey
from novita_async.testing._pump import current_clock, pump
from novita_async.testing.core import Simulator, Visit
from novita_async.testing.faults import FaultKind
from novita_async.testing.mailbox import WebhookCall
from novita_async.testing.wire import Exchange, Reply, decode_query

ORIGIN: Final = "https://api.simulator.invalid"
"""Beginning of the result URLs of the simulator in memory. No such host can exist."""

_SLICE: Final = 3 * 64 * 1024
"""Bytes of a picture that are encoded at once; a multiple of 3, so that no padding falls between them."""
_CHUNK: Final = 64 * 1024

WebhookReceiver = Callable[[str, bytes], Awaitable[int]]
"""Takes the URL and the body of an event, answers with an HTTP status."""


def text_of(request: HTTPRequest, boundary: str) -> Iterator[bytes]:
    """The body of a request as it goes over a wire, in pieces."""
    if request.parts is not None:
        for part in form(request.parts, boundary):
            yield part if isinstance(part, bytes) else part.read()
        return
    for part in request.body or ():
        if isinstance(part, bytes):
            yield part
        else:
            yield from map(pybase64.b64encode, part.slices(_SLICE))


async def _pass_time(seconds: float, due: float, delivery: Delivery) -> None:
    """Let time pass, but no more than until a deadline. Raises `DeliveryFailed` there."""
    left = due - anyio.current_time()
    await anyio.sleep(max(0.0, min(seconds, left)))
    if seconds > left:
        raise DeliveryFailed(delivery, _CAUSES[FaultKind.STALL])


_CAUSES: Final[Mapping[FaultKind, str]] = {
    FaultKind.REFUSE: "connection refused",
    FaultKind.RESET_BEFORE: "connection reset before the body",
    FaultKind.RESET_DURING: "connection reset while the body was sent",
    FaultKind.RESET_AFTER: "connection reset before an answer",
    FaultKind.STALL: "no answer in time",
}


@frozen(kw_only=True)
class _SimulatedDownload:
    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)
    ends_at: int | None
    """Where the body is cut."""

    async def chunks(self) -> AsyncIterator[bytes]:
        end = len(self.content) if self.ends_at is None else min(self.ends_at, len(self.content))
        for start in range(0, end, _CHUNK):
            await anyio.lowlevel.checkpoint()
            yield self.content[start : min(start + _CHUNK, end)]
        if self.ends_at is not None:
            raise DeliveryFailed(Delivery.UNKNOWN, f"the file ended after {end} bytes", status=self.status)


@frozen(kw_only=True)
class SimulatedTransportStatistics:
    """Counts of what a simulated transport has carried.

    Args:
        exchanges: Requests and downloads that began.
        faults: Those that were made to go wrong.
    """

    exchanges: int
    """Requests and downloads that began."""
    faults: int
    """Those that were made to go wrong."""


@define(eq=False)
class SimulatedTransport:
    """A `Transport` and `Downloader` that carries requests to a simulator in the same process.

    Args:
        simulator: the service. Several transports may share it.
        timeout: seconds after which an answer that never comes is given up, where the request has no earlier
            deadline of its own, nor waits for pictures.
    """

    simulator: Simulator
    timeout: float = 120.0
    origin: str = ORIGIN
    _exchanges: int = field(default=0, init=False)
    _faults: int = field(default=0, init=False)
    _intake: PictureIntake = field(factory=PictureIntake, init=False)

    def now(self) -> float:
        """The service's time."""
        return self.simulator.on_clock(current_clock(), anyio.current_time())

    async def send(
        self,
        request: HTTPRequest,
        api_key: ApiKey,
        /,
        *,
        on_handover: Callable[[], None] | None = None,
    ) -> HTTPResponse:
        """Exchange one request, as `Transport.send` says."""
        boundary = secrets.token_hex(BOUNDARY_LENGTH // 2)
        kind = "application/json" if request.parts is None else f"multipart/form-data; boundary={boundary}"
        headers = {
            "authorization": f"Bearer {api_key.reveal()}",
            "accept": "application/json",
            "content-type": kind,
        }
        exchange = Exchange(
            method=request.method,
            path=request.path,
            query=dict(request.query),
            headers=headers,
            body=b"".join(text_of(request, boundary)),
            origin=self.origin,
        )
        timeout = self.timeout if request.timeout is None else request.timeout
        if request.answer == "small":
            timeout = min(timeout, self.timeout)
        reply, cut = await self._carry(exchange, on_handover, timeout)
        content = reply.content()
        words = None if cut is None else f"the answer was cut after {min(cut, len(content))} bytes"
        response = HTTPResponse(status=reply.status, headers=reply.all_headers(), body=content[:cut])
        return await self._intake.read(request, response, words)

    @asynccontextmanager
    async def open(self, url: str, /) -> AsyncGenerator[Download]:
        """Ask for one file, as `Downloader.open` says."""
        parts = urlsplit(url)
        if f"{parts.scheme}://{parts.netloc}" != self.origin:
            raise DeliveryFailed(Delivery.NOT_SENT, f"no such host in memory: {parts.netloc}")
        exchange = Exchange(
            method="GET", path=unquote(parts.path), query=decode_query(parts.query), origin=self.origin
        )
        reply, cut = await self._carry(exchange, None, self.timeout)
        content = reply.content()
        headers = {**reply.all_headers(), "content-length": str(len(content))}
        yield _SimulatedDownload(status=reply.status, headers=headers, content=content, ends_at=cut)

    async def _carry(
        self, exchange: Exchange, on_handover: Callable[[], None] | None, seconds: float
    ) -> tuple[Reply, int | None]:
        """Bring a request there and the answer back; with the byte at which the answer is cut."""
        due, buys = anyio.current_time() + seconds, exchange.method == "POST"
        visit = self.simulator.begin(exchange.method, exchange.path)
        self._exchanges += 1
        self._faults += visit.fault is not None
        latency = self.simulator.latency("there", visit.kind.value, visit.number)
        await _pass_time(latency, due, Delivery.NOT_SENT if buys else Delivery.UNKNOWN)
        fault = visit.fault
        if fault is not None and not fault.whole_request:
            comes_too_late = fault.kind is FaultKind.RESET_DURING and fault.at >= len(exchange.body)
            if not comes_too_late:
                self.simulator.broken(visit, exchange.path, self.now())
                raise DeliveryFailed(Delivery.NOT_SENT, _CAUSES[fault.kind])
        if buys:
            due = anyio.current_time() + seconds
            if on_handover is not None:
                on_handover()
        reply = self.simulator.receive(exchange, self.now(), visit)
        await _pass_time(reply.delay, due, Delivery.UNKNOWN)
        return reply, await self._come_back(visit, due)

    async def _come_back(self, visit: Visit, due: float) -> int | None:
        fault = visit.fault
        latency = self.simulator.latency("back", visit.kind.value, visit.number)
        await _pass_time(latency, due, Delivery.UNKNOWN)
        if fault is None:
            return None
        match fault.kind:
            case FaultKind.STALL:
                await _pass_time(math.inf, due, Delivery.UNKNOWN)
            case FaultKind.RESET_AFTER | FaultKind.RESET_DURING:
                raise DeliveryFailed(Delivery.UNKNOWN, _CAUSES[fault.kind])
            case FaultKind.SLOW:
                await _pass_time(fault.seconds, due, Delivery.UNKNOWN)
            case FaultKind.TRUNCATE:
                return fault.at
            case FaultKind.REFUSE | FaultKind.RESET_BEFORE:  # it did not come here
                pass
            case FaultKind.GARBAGE | FaultKind.ANSWER:  # another reply
                pass
            case FaultKind.LOSE_WEBHOOK | FaultKind.DUPLICATE_WEBHOOK:
                pass
            case _:
                assert_never(fault.kind)
        return None

    async def deliver_webhooks(self, receiver: WebhookReceiver) -> None:
        """Hand every event to a receiver as it becomes due, for ever: start this in a task group of yours.

        A receiver that raises, takes longer than `webhook_timeout`, or answers other than 2xx is asked again
        later, up to five times.
        """

        async def deliver(call: WebhookCall) -> bool:
            status = await receiver(call.url, call.body)
            return 200 <= status < 300  # noqa: PLR2004

        await pump(self.simulator, self.now, deliver)

    async def aclose(self) -> None:
        """Remove the pictures that came in answers and got no place. Nothing else is open."""
        await self._intake.aclose()

    def leave_loop(self) -> None:
        """Begin anew in another loop."""
        self._intake.leave_loop()

    def statistics(self) -> SimulatedTransportStatistics:
        return SimulatedTransportStatistics(exchanges=self._exchanges, faults=self._faults)

    def __repr__(self) -> str:
        return f"<SimulatedTransport {self._exchanges} exchanges, {self._faults} faults>"
