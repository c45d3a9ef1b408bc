"""Bodies that are made while they go out: JSON with the pictures base64-encoded in place, and forms.

A body is a recipe (`HTTPRequest.body`, `HTTPRequest.parts`). Its length is known before the first byte; its
text is never whole in memory unless it is small. Encoding is quick (about 1 ms a megabyte) but a loop that
writes to a fast link never suspends by itself, so 32 pictures would hold the event loop for seconds.
Therefore everything that goes out shares one `WriteScheduler`: so many bytes in one turn of the loop, first
come first served, whatever the number of uploads.
"""

import asyncio
from collections import deque
from collections.abc import Generator, Iterator
from types import coroutine
from typing import Final

import pybase64
from attrs import define, field

from novita_async._http import HTTPRequest, form
from novita_async._util.values import frozen
from novita_async.errors import Flaw, InvalidRequest
from novita_async.models.images import ImageSource

RAW_SLICE: Final = 72 * 1024
"""Bytes of a picture that are encoded at once: a multiple of 3, so that padding appears only at its end."""
TEXT_SLICE: Final = RAW_SLICE // 3 * 4
"""Bytes of text that are written at once."""
SMALL: Final = 64 * 1024
"""A body up to this size goes out in one write."""


@coroutine
def next_turn() -> Generator[None, None, None]:
    """Go on in the next turn of the loop, as `asyncio.sleep(0)` does with one object more."""
    yield


def whole(request: HTTPRequest, length: int, head: bytes = b"", boundary: str = "") -> bytes:
    """Make the body of a request at once, behind a head; `length` is its content length.

    Raises:
        InvalidRequest: a picture has changed since it was measured.
    """
    if request.parts is not None:
        text = b"".join([head, *pieces(request, length, boundary)])
    else:
        parts = [
            part if isinstance(part, bytes) else pybase64.b64encode(part.read())
            for part in request.body or ()
        ]
        text = b"".join([head, *parts])
    if len(text) != len(head) + length:
        raise _changed()
    return text


def pieces(request: HTTPRequest, length: int, boundary: str = "") -> Iterator[bytes | memoryview]:
    """Make the body of a request, from the start of every source, in pieces of at most `TEXT_SLICE` bytes.

    Raises:
        InvalidRequest: a picture has changed since it was measured; the pieces so far are no whole body.
    """
    left = length
    for piece in _text_of(request, boundary):
        left -= len(piece)
        if left < 0:
            break
        yield piece
    if left:
        raise _changed()


def _changed() -> InvalidRequest:
    return InvalidRequest(
        faults=(Flaw("a picture", "has changed while it was sent; make the request again"),)
    )


def _text_of(request: HTTPRequest, boundary: str) -> Iterator[bytes | memoryview]:
    is_form = request.parts is not None
    for part in form(request.parts, boundary) if request.parts is not None else request.body or ():
        if not isinstance(part, ImageSource):
            yield from _slices_of(part)
        elif is_form:
            yield from part.slices(TEXT_SLICE)
        else:
            yield from map(pybase64.b64encode, part.slices(RAW_SLICE))


def _slices_of(text: bytes) -> Iterator[bytes | memoryview]:
    if len(text) <= TEXT_SLICE:
        yield text
    else:
        view = memoryview(text)
        yield from (view[start : start + TEXT_SLICE] for start in range(0, len(view), TEXT_SLICE))


@frozen(kw_only=True)
class WriteSchedulerStatistics:
    """How busy the turns of the loop are."""

    waiting: int
    """Pieces that wait for a later turn."""
    budget: int
    """Bytes in one turn."""


@define(eq=False, repr=False)
class WriteScheduler:
    """Shares the turns of one event loop among everything that goes out."""

    budget: int = 2 * TEXT_SLICE
    """Bytes that may be made in one turn, by all together; the last one to enter a turn may go over it."""
    _left: int = field(init=False)
    _waiting: deque[tuple[int, asyncio.Future[None]]] = field(init=False, factory=deque)
    _turning: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self._left = self.budget

    def __repr__(self) -> str:
        return f"<WriteScheduler of {self.budget} bytes, {self._left} left, {len(self._waiting)} waiting>"

    def statistics(self) -> WriteSchedulerStatistics:
        """How much waits now."""
        return WriteSchedulerStatistics(waiting=len(self._waiting), budget=self.budget)

    def enter(self, size: int) -> bool:
        """Take room in this turn. False: full, or others wait already: await `later`."""
        if self._waiting or self._left <= 0:
            return False
        self._left -= size
        self._turn_soon()
        return True

    async def later(self, size: int) -> None:
        """Wait for a later turn with room."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append((size, waiter))
        self._turn_soon()
        await waiter

    def _turn_soon(self) -> None:
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        self._left = self.budget
        while self._waiting and self._left > 0:
            size, waiter = self._waiting.popleft()
            if not waiter.done():
                self._left -= size
                waiter.set_result(None)
        if self._left < self.budget:
            self._turn_soon()
