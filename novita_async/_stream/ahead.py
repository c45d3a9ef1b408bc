"""Reads an input ahead, without letting a line wait for the next.

A task of its own iterates over the input, so that a piece is what has come so far: all lines that an input
has at hand, and a single line of one that waits for each.
"""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.lowlevel
from attrs import define, field

from novita_async._http import MIB
from novita_async._util.clock import loop_time
from novita_async._util.scopes import background
from novita_async.models.requests import NovitaRequest

Requests = Iterable[NovitaRequest] | AsyncIterable[NovitaRequest]
"""Any iterable or async iterable of requests, endless ones included."""

AHEAD: Final = 256
"""Lines that are looked up together while the journal has finished purchases."""
_MOST_HELD: Final = 16 * MIB
"""Bytes of pictures in memory beyond which no further line is read ahead."""
_SLOW: Final = 1.0
"""Seconds for which an input may block the loop before what it has given is taken."""


@define(eq=False, repr=False)
class ReadAhead:
    """An input, read no further than is asked for, and one line more."""

    _requests: Requests
    _read: list[NovitaRequest] = field(factory=list[NovitaRequest], init=False)
    """Lines that were not taken yet."""
    _held: int = field(default=0, init=False)
    """Bytes of pictures in them."""
    _wanted: int = field(default=0, init=False)
    """How many lines may be read before they are taken."""
    _error: Exception | None = field(default=None, init=False)
    """Error of the input after these lines."""
    _ended: bool = field(default=False, init=False)
    _asked_at: float = field(default=0.0, init=False)
    _asked: anyio.Event = field(factory=anyio.Event, init=False)
    _came: anyio.Event = field(factory=anyio.Event, init=False)

    @classmethod
    @asynccontextmanager
    async def of(cls, requests: Requests) -> "AsyncGenerator[ReadAhead]":
        """Read an input; leaving the block closes it."""
        ahead = cls(requests)
        async with background(ahead._read_on(), lambda _: None):
            yield ahead

    async def take(self, most: int) -> list[NovitaRequest]:
        """Wait for a line, and take those that have come besides. Empty: the input is over.

        Raises:
            Exception: of the input, once the lines before it were taken.
        """
        self._wanted, self._asked_at, self._came = most, loop_time(), anyio.Event()
        self._asked.set()
        if self._read:
            await anyio.lowlevel.checkpoint()  # the reader's turn
        elif not self._ended:
            await self._came.wait()
        self._wanted = 0
        taken, self._read = self._read[:most], self._read[most:]
        self._held = sum(map(bytes_in, self._read))
        if not taken and self._error is not None:
            raise self._error
        return taken

    async def _read_on(self) -> None:
        try:
            async with closing(self._requests) as iterator:
                await self._may_read()
                async for request in iterator:
                    self._read.append(request)
                    self._held += bytes_in(request)
                    self._came.set()
                    await self._may_read()
        except Exception as error:  # noqa: BLE001 - the user's: told once these lines were taken
            self._error = error
        finally:
            self._ended = True
            self._came.set()

    async def _may_read(self) -> None:
        if loop_time() - self._asked_at > _SLOW:
            await anyio.lowlevel.checkpoint()  # the turn of whoever takes
        while len(self._read) >= self._wanted or self._held >= _MOST_HELD:
            self._asked = anyio.Event()
            await self._asked.wait()


def bytes_in(request: object) -> int:
    """Bytes of the pictures that a request holds in memory."""
    pictures = request.pictures if isinstance(request, NovitaRequest) else ()
    return sum(len(each.data) for each in pictures if each.data is not None)


@asynccontextmanager
async def closing(requests: Requests) -> AsyncGenerator[AsyncIterator[NovitaRequest]]:
    """Iterate over the input, and close the user's generator afterwards, async or not."""
    iterator = _each(requests)
    try:
        yield iterator
    finally:
        with anyio.CancelScope(shield=True):
            await iterator.aclose()


async def _each(requests: Requests) -> AsyncGenerator[NovitaRequest]:
    if not isinstance(requests, AsyncIterable):
        for request in requests:
            yield request
        return
    iterator = aiter(requests)
    try:
        async for request in iterator:
            yield request
    finally:
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()
