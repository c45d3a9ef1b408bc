"""An exchange, whichever path it takes: how far it got, its deadlines, and what its failure means.

A POST is a purchase, so one thing must be known exactly: can the service have a whole request? The rules:

* Until the last piece of the body is given to the socket there is no whole request: NOT_SENT, whatever went
  wrong. From then on it is UNKNOWN, whatever went wrong, unless a whole answer comes back. Before the last
  piece the connection is aborted: what is still buffered is dropped, and nothing can complete it afterwards.
* Every wait has a deadline of its own: the connection, each piece of the body, the answer. Waiting for a slot
  in the pool of a session that the user gave has none.
* A task that is cancelled after the hand-over leaves the answer to another task where that was agreed on. The
  connection carries nothing else from then on: perhaps nobody comes to read the answer.

There are two paths. A small request takes the fast one (`fast_path`): all of it is written to the connection
at once, in the turn of the loop in which the connection was looked at. The slow one (`slow_path`) goes
through aiohttp's session, with a task of aiohttp's that writes while the answer may already come.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final

import aiohttp
from attrs import define, field

from novita_async._http import MIB, Delivery, DeliveryFailed, HTTPRequest
from novita_async._transport.connections import explain
from novita_async.errors import InvalidRequest

MAX_ANSWER: Final = 16 * MIB
"""Bytes of an answer, decompressed. The largest real one, a page of 100 models, has about 100 KB."""
_LEAST_TICK: Final = 0.002


@define(eq=False, repr=False, kw_only=True)
class AiohttpExchange:
    """A request on its way, and its answer."""

    request: HTTPRequest
    length: int
    """Of the body, in bytes."""
    answer_timeout: float
    """Seconds from the start of a GET, or the hand-over of a POST, until the whole answer must be in."""
    on_handover: Callable[[], None] | None
    task: "asyncio.Task[object]"
    """The task that waits for the answer."""
    cancelling: int
    """How often that task was being cancelled when the exchange began."""
    due: float = math.inf
    """When the next sign of life must have come, on the loop's clock. Moves with progress."""
    overdue: bool = False
    """Whether that did not come."""
    handed_over: bool = False
    """Whether the last piece was given to the socket."""
    status: int | None = None
    """Known once there is an answer."""
    is_detached: bool = False
    """Whether the task was cancelled and another one will read the answer."""
    refusal: InvalidRequest | None = None
    """Why the body cannot be made."""
    _read: bytearray | None = field(init=False, default=None)
    """As much of a larger answer's body as has come."""

    def hand_over(self) -> None:
        """Note that the last piece goes out now. Raises where the task is being cancelled already."""
        if self.task.cancelling() > self.cancelling:  # it will be told in this turn of the loop: buy nothing
            raise asyncio.CancelledError
        if self.on_handover:
            self.on_handover()
        self.handed_over = True

    def expect_within(self, seconds: float) -> None:
        self.due = asyncio.get_running_loop().time() + seconds

    def expire(self) -> None:
        """Break off what the task waits for."""
        self.due = math.inf
        self.overdue = True
        self.task.cancel()

    async def read_all(self, content: aiohttp.StreamReader) -> bytes:
        """Read the body of an answer that has not come whole at once."""
        read = self._read = bytearray() if self._read is None else self._read
        while not content.at_eof():
            read += await content.readany()
            if len(read) > MAX_ANSWER:
                raise DeliveryFailed(Delivery.UNKNOWN, f"the answer is larger than {MAX_ANSWER:,} bytes")
        return bytes(read)

    def is_cancelled_by(self, error: BaseException) -> bool:
        """Whether an error comes from outside: a cancellation, told as by `asyncio.timeout`; an interrupt."""
        outside = not self.overdue or self.task.uncancel() > self.cancelling
        return not isinstance(error, Exception) and (outside or not isinstance(error, asyncio.CancelledError))

    def failure(self, error: BaseException, *, reached: bool, perhaps_tls: bool) -> Exception:
        """Translate an error into one that holds nothing of aiohttp's.

        Args:
            error: The error that ended the exchange.
            reached: Whether the host was reached before.
            perhaps_tls: Whether the server may speak TLS alone, and was addressed without.
        """
        if self.refusal:
            return self.refusal.with_traceback(None)
        cause = explain(error, reached=reached)
        delivery, words = cause.delivery, cause.words
        if self.request.method == "POST":
            delivery = Delivery.UNKNOWN if self.handed_over else Delivery.NOT_SENT
        if self.overdue:
            words = self.lateness()
        elif perhaps_tls and isinstance(error, aiohttp.ServerDisconnectedError):
            words += ": is it https?"
        return DeliveryFailed(delivery, words, status=self.status, passes=cause.passes)

    def lateness(self) -> str:
        """Say what did not come in time."""
        if self.handed_over or self.status is not None or self.request.method == "GET":
            return f"no whole answer within {self.answer_timeout:g} s"
        return f"no connection within {self.answer_timeout:g} s"


@define(eq=False, repr=False)
class Watchdog:
    """Timer for all deadlines, up to a tenth late. A timer for each would cost a tenth of an exchange."""

    longest: float
    """Seconds between two rounds, at most."""
    watched: set[AiohttpExchange] = field(init=False, factory=set)
    """Exchanges that have begun and not ended."""
    _tick: float = field(init=False)
    """Seconds to the next round: few while a request has a short deadline."""
    _timer: asyncio.TimerHandle | None = field(init=False, default=None)

    def __repr__(self) -> str:
        return f"<Watchdog of {len(self.watched)}, {'awake' if self._timer else 'asleep'}>"

    def __attrs_post_init__(self) -> None:
        self._tick = self.longest

    def watch(self, exchange: AiohttpExchange) -> None:
        self.watched.add(exchange)
        if exchange.answer_timeout < 10 * self._tick > 10 * _LEAST_TICK:
            self.stop()
            self._tick = max(exchange.answer_timeout / 10, _LEAST_TICK)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick, self._go_round)

    def forget(self, exchange: AiohttpExchange) -> None:
        self.watched.discard(exchange)

    def _go_round(self) -> None:
        loop = asyncio.get_running_loop()
        if self._tick < self.longest:
            shortest = min((one.answer_timeout for one in self.watched), default=math.inf)
            self._tick = min(self.longest, max(shortest / 10, _LEAST_TICK))
        self._timer = loop.call_later(self._tick, self._go_round) if self.watched else None
        now = loop.time()
        for exchange in [one for one in self.watched if one.due <= now and not one.is_detached]:
            exchange.expire()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
