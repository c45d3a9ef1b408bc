"""One request on its way, and its answer.

A POST is a purchase, so one thing must be known exactly: can the service have a whole request? The rules:

* Until the last piece of the body is given to the socket there is no whole request: NOT_SENT, whatever went
  wrong. From then on it is UNKNOWN, whatever went wrong, unless a whole answer comes back. Before the last
  piece the connection is aborted: what is still buffered is dropped, and nothing can complete it afterwards.
* asyncio drops what a socket has received once a write to it fails. So before each write we look whether
  something has arrived and let the loop read it first: a 413 or 429 that comes while the body still goes out
  is an answer, and after an answer nothing more is written.
* Every wait has a deadline of its own: the connection, each piece of the body, the answer. Waiting for a slot
  in the pool of a session that the user gave has none.
* Who is cancelled after the hand-over leaves the answer to another task where that was agreed on. The
  connection carries nothing else from then on: nobody may come to read the answer.

There are two ways. A small request goes the short one: it is written to the connection at once, in the turn
of the loop in which the connection was looked at. The long one goes through aiohttp's session, with a task of
aiohttp's that writes while the answer may already come.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, cast

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from attrs import define, field
from multidict import CIMultiDict

from novita_async._http import MIB, Delivery, DeliveryFailed, HTTPRequest, HTTPResponse
from novita_async._transport.body import SMALL, WriteScheduler, pieces, whole
from novita_async._transport.connections import KEEPALIVE, LAST_USED, explain, has_news, turn_to_read
from novita_async.errors import InvalidRequest

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage

MAX_ANSWER: Final = 16 * MIB
"""Bytes of an answer, decompressed. The largest real one, a page of 100 models, has about 100 KB."""


def _is_interim(status: int) -> bool:
    """Whether another status follows."""
    return 100 <= status < 200 and status != 101  # noqa: PLR2004 - the class of 1xx, and the one that ends HTTP


def _in_lower_case(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@define(eq=False, kw_only=True)
class Exchange:
    """One request on its way, as the writer of its body and the reader of its answer both see it."""

    request: HTTPRequest
    length: int
    """Of the body, in bytes."""
    turns: WriteScheduler
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
    detachable: bool = False
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
        used_at = None if protocol is None else LAST_USED.get(protocol)
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
            await turn_to_read()
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

    # The fast path.

    def text(self, head: bytes) -> bytes:
        """Make all that is to be written."""
        try:
            return whole(self.request, self.length, head)
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
        LAST_USED[protocol] = asyncio.get_running_loop().time()
        connection.release()
        return HTTPResponse(status=message.code, headers=_in_lower_case(message.headers), body=body)

    def _leave(self, connection: "Connection", error: BaseException) -> bool:
        """Leave the rest to another task, where that was agreed on and this one is being cancelled."""
        if not isinstance(error, asyncio.CancelledError) or self.overdue:
            return False
        if not (self.detachable and self.handed_over):
            return False
        cast("ResponseHandler", connection.protocol).force_close()
        self.left, self.cancellation = connection, error
        return True

    async def read_for_another(self) -> HTTPResponse:
        """Read what the task that is left had not read."""
        self.task = cast("asyncio.Task[object]", asyncio.current_task())
        self.cancelling = self.task.cancelling()
        connection = cast("Connection", self.left)
        self.detachable, self.left, self.cancellation = False, None, None
        try:
            return await self._answer_on(connection)
        except BaseException:
            connection.close()
            raise

    # The slow path.

    async def read(self, response: aiohttp.ClientResponse) -> HTTPResponse:
        self.status = response.status
        try:
            return await self._read_whole(response)
        finally:
            protocol = getattr(response, "_protocol", None)
            if protocol is not None:
                LAST_USED[protocol] = asyncio.get_running_loop().time()

    async def _read_whole(self, response: aiohttp.ClientResponse) -> HTTPResponse:
        content = response.content
        try:
            body = content.read_nowait() if content.is_eof() else await self._read_all(content)
        except BaseException:
            response.close()
            raise
        if self._is_early:
            await response.wait_for_close()
        headers = _in_lower_case(response.headers)
        return HTTPResponse(status=response.status, headers=headers, body=body, early=self._is_early)

    @property
    def _is_early(self) -> bool:
        """Whether the answer came before the request was handed over."""
        return self.request.method == "POST" and not self.handed_over

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

    def __init__(self, exchange: Exchange) -> None:
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
class Watchdog:
    """One timer for all deadlines, up to a tenth late. A timer for each would cost a tenth of an exchange."""

    tick: float
    """Seconds between two looks."""
    _watched: set[Exchange] = field(init=False, factory=set)
    _timer: asyncio.TimerHandle | None = field(init=False, default=None)

    def __repr__(self) -> str:
        return f"<Watchdog of {len(self._watched)}, {'awake' if self._timer else 'asleep'}>"

    def watch(self, exchange: Exchange) -> None:
        self._watched.add(exchange)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.tick, self._look)

    def forget(self, exchange: Exchange) -> None:
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
