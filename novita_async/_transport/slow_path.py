"""The slow path, through aiohttp's session: large bodies, proxies, sessions of the user's, any aiohttp.

* asyncio drops what a socket has received once a write to it fails. So before each write the socket is looked
  at, and the loop may read first: a 413 or 429 that comes while the body still goes out is an answer, and
  after an answer nothing more is written.
* A session of the user's may hand out a kept-alive connection on which something came unasked: a late 408, an
  answer too many. An answer that is there before anything was written, or before the loop has turned once, is
  nobody's: its connection is dropped and another one taken.
* aiohttp writes in a task of its own. A cancellation of every task, as at the end of `asyncio.run`, cancels
  that one too; a body that was handed over is then in the socket's buffer, and goes out all the same.
"""

import asyncio
import math
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from attrs import define, field
from multidict import CIMultiDict
from yarl import URL

from novita_async._http import BOUNDARY_LENGTH, Delivery, DeliveryFailed, HTTPResponse
from novita_async._transport.body import SMALL, WriteScheduler, pieces, whole
from novita_async._transport.connections import (
    HEAD_LIMITS,
    KEEPALIVE,
    KNOWN,
    KnownConnection,
    explain,
    has_news,
    in_lower_case,
    keep_alive,
    news_of,
    turn_to_read,
)
from novita_async._transport.exchange import AiohttpExchange
from novita_async._transport.pictures import PictureAnswer, PictureIntake
from novita_async._transport.whole_answers import WholeAnswers
from novita_async.errors import InvalidRequest

_MOST_UNASKED: Final = 20
"""Connections on which an answer came unasked before the exchange is given up."""
_READ_SIZE: Final = 16 * 1024
"""Bytes: a connection of which twice as many have come pauses until they are taken."""
_LONGEST: Final = 900.0
"""Seconds that an answer with pictures may take from its first byte to its last."""


@define(eq=False, repr=False, kw_only=True)
class SlowExchange(AiohttpExchange):
    """A request through aiohttp's session, as the writer of its body and the reader of its answer see it."""

    session: aiohttp.ClientSession
    url: URL
    headers: Mapping[str, str] | None
    """Sent besides the session's own."""
    timeout: aiohttp.ClientTimeout
    scheduler: WriteScheduler
    stall_timeout: float
    """Seconds in which a piece of a body must go out."""
    boundary: str = field(factory=lambda: secrets.token_hex(BOUNDARY_LENGTH // 2))
    """Stands between the fields of a form. Nobody can guess it, so no content can hold it."""
    intake: PictureIntake
    """Takes in answers that hold pictures."""
    is_given: bool
    """Whether the session is the user's, who may bound it: waiting for a connection has no deadline then."""
    begun: bool = False
    """Whether something of the request was written."""
    reused: bool = False
    """Whether the connection had been used before, and nothing of this request was written to it."""
    _unasked: int = 0
    """Answers that were there before anything was asked."""
    _coming_since: float | None = None
    """When the body of an answer with pictures began to come."""
    _unread: list[bytes] = field(init=False, factory=list)
    """Bytes that have come and were not taken in."""

    async def run(self) -> HTTPResponse:
        """Send the request and read the answer, on another connection where the first has gone stale."""
        if self.request.method == "GET":
            self.expect_within(self.answer_timeout)
        elif not self.is_given:
            self.expect_within(self.stall_timeout)
        if self.request.method == "POST" and not self.length:
            self.hand_over()  # an empty body may never be asked for
        while True:
            try:
                response = await self._ask()
            except aiohttp.ClientConnectionError:
                if not self._may_take_another:
                    raise
                self.reused = False
                continue
            if self.begun:
                return await self._read_answer(response)
            self._drop(response)

    async def _ask(self) -> aiohttp.ClientResponse:
        self.begun = False
        turn = None if self.length else asyncio.get_running_loop().call_soon(self._note_turn)
        try:
            return await self.session.request(
                self.request.method,
                self.url,
                data=_Payload(self) if self.length else None,
                headers=self.headers,
                timeout=self.timeout,
                allow_redirects=False,
                raise_for_status=False,
                read_bufsize=_READ_SIZE,
                **HEAD_LIMITS,
            )
        finally:
            if turn is not None:
                turn.cancel()

    def _drop(self, response: aiohttp.ClientResponse) -> None:
        """Drop an unasked answer with its connection, which a whole one has given back already."""
        response.close()
        transport = getattr(getattr(response, "_protocol", None), "transport", None)
        if transport is not None:
            transport.abort()
        self._unasked += 1
        if self._unasked == _MOST_UNASKED:
            words = f"answered {response.status} before anything was asked"
            raise DeliveryFailed(Delivery.NOT_SENT, words, status=response.status)

    def _note_turn(self) -> None:
        self.begun = True

    @property
    def _may_take_another(self) -> bool:
        """Whether the connection had gone stale before anything of the request was written to it."""
        return self.reused and not self.handed_over and self.status is None and self.refusal is None

    # The writer.

    async def write(self, writer: AbstractStreamWriter) -> None:
        transport = (
            writer.transport
        )  # aiohttp forgets it when it closes, which waits for what is still buffered
        try:
            self._refuse_stale(writer)
            if self.length <= SMALL:
                await self._write_last(writer, whole(self.request, self.length, boundary=self.boundary))
            else:
                await self._write_pieces(writer)
        except BaseException as error:
            if isinstance(error, InvalidRequest):
                self.refusal = error
            if not self.handed_over and transport is not None:
                transport.abort()
            raise

    def _refuse_stale(self, writer: AbstractStreamWriter) -> None:
        """Drop a connection that idled for long, or whose unasked words would be taken for the answer."""
        protocol = getattr(writer, "protocol", None)
        known = None if protocol is None else KNOWN.get(protocol)
        used_at = None if known is None else known.used_at
        unasked = getattr(protocol, "should_close", False)
        self.reused = used_at is not None or unasked
        idle = asyncio.get_running_loop().time() - used_at if used_at is not None else 0.0
        if idle > KEEPALIVE or unasked:
            raise aiohttp.ClientConnectionResetError

    async def _write_pieces(self, writer: AbstractStreamWriter) -> None:
        left = self.length
        for piece in pieces(self.request, self.length, self.boundary):
            left -= len(piece)
            if not left:
                await self._write_last(writer, piece)
                break
            self.expect_within(self.stall_timeout)
            await self._read_first(writer)
            self.begun, self.reused = True, False
            await writer.write(piece)
            await self.scheduler.later(len(piece))

    async def _write_last(self, writer: AbstractStreamWriter, piece: bytes | memoryview) -> None:
        await self._read_first(writer)
        if writer.transport is None or writer.transport.is_closing():
            raise aiohttp.ClientConnectionResetError
        if self.request.answer == "pictures":
            keep_alive(writer.transport)
        if self.request.method == "POST":
            WholeAnswers.expect_on(getattr(writer, "protocol", None))
        self.hand_over()
        self.begun = True
        self.expect_within(self.answer_timeout)
        try:
            await writer.write(piece)
        except asyncio.CancelledError:
            if self.status is not None:
                raise

    async def _read_first(self, writer: AbstractStreamWriter) -> None:
        if self.status is None and has_news(writer.transport):
            await turn_to_read()
        if self.status is not None:
            await asyncio.Event().wait()  # aiohttp cancels the writer when the answer has been read

    # The reader.

    async def _read_answer(self, response: aiohttp.ClientResponse) -> HTTPResponse:
        self.status = response.status
        early = self.request.method == "POST" and not self.handed_over
        if early:
            self.expect_within(self.answer_timeout)
        content = response.content
        headers = in_lower_case(response.headers)
        if self.request.answer == "pictures" and not early and 200 <= response.status < 300:  # noqa: PLR2004
            return await self._read_pictures(response, headers)
        try:
            body = content.read_nowait() if content.is_eof() else await self.read_all(content)
        except BaseException:
            response.close()
            raise
        finally:
            self._note_use(response)
        if early:
            await response.wait_for_close()
        return HTTPResponse(status=response.status, headers=headers, body=body, early=early)

    async def _read_pictures(
        self, response: aiohttp.ClientResponse, headers: Mapping[str, str]
    ) -> HTTPResponse:
        """Read an answer into files. All that came whole before it broke off is an answer, too."""
        answer = self.intake.begin(self.request)
        content, cut = response.content, None
        try:
            while await self._has_more(content):
                self.due = math.inf
                async with self.intake.turns:
                    self._unread.append(content.read_nowait())
                    piece, self._unread = b"".join(self._unread), []
                    await answer.take(piece)
        except (Exception, asyncio.CancelledError) as error:
            self.due = math.inf
            await self._take_unread(answer, content)
            response.close()
            if not answer.has_whole:
                await answer.discard()
                raise
            is_cancelled = self.is_cancelled_by(error)
            late = self.lateness() if self.overdue else explain(error).words
            cut = "cancelled before the rest came" if is_cancelled else late
        finally:
            self._note_use(response)
        self.due = math.inf
        return await answer.end(response.status, headers, cut)

    async def _has_more(self, content: aiohttp.StreamReader) -> bool:
        """Wait for more of an answer with pictures, and take none of it but a byte."""
        now = asyncio.get_running_loop().time()
        if self._coming_since is None:
            self.due = max(self.due, now + self.stall_timeout)
        else:
            self.due = min(now + self.stall_timeout, self._coming_since + _LONGEST)
        self._unread.append(await content.read(1))
        if self._coming_since is None:
            self._coming_since = asyncio.get_running_loop().time()
        return bool(self._unread[-1])

    async def _take_unread(self, answer: PictureAnswer, content: aiohttp.StreamReader) -> None:
        """Take in what came before the connection broke: aiohttp hands that to nobody any more."""
        take = getattr(content, "_read_nowait", None)
        if take is not None:
            with suppress(Exception):
                self._unread.append(take(-1))
        with suppress(DeliveryFailed, asyncio.CancelledError):  # told again; it is known
            await answer.take(b"".join(self._unread))

    def _note_use(self, response: aiohttp.ClientResponse) -> None:
        protocol = getattr(response, "_protocol", None)
        if protocol is not None:
            known = KNOWN.get(protocol)
            if known is None:
                known = KNOWN[protocol] = KnownConnection(news_of(protocol.transport))
            known.used_at = asyncio.get_running_loop().time()

    def lateness(self) -> str:
        if self._coming_since is not None:
            return f"the answer made no progress for {self.stall_timeout:g} s, or took {_LONGEST:g} s"
        if self.begun and self.length and not self.handed_over and self.status is None:
            return f"the upload made no progress for {self.stall_timeout:g} s"
        return super().lateness()


class _Payload(aiohttp.Payload):
    """A body as aiohttp wants it."""

    def __init__(self, exchange: SlowExchange) -> None:
        # The base class would make a mapping of headers for each.
        self.exchange = exchange

    @property
    def size(self) -> int:
        return self.exchange.length

    @property
    def headers(self) -> CIMultiDict[str]:
        if self.exchange.request.parts is None:
            return _HEADERS
        return CIMultiDict({"Content-Type": f"multipart/form-data; boundary={self.exchange.boundary}"})

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise NotImplementedError("the body is never whole in memory")

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.exchange.write(writer)


_HEADERS: Final = CIMultiDict({"Content-Type": "application/json"})
