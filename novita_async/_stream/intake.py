"""The input of a stream: any iterable, read line by line, or some lines ahead where a journal knows them."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final

import anyio
from attrs import define

from novita_async._http import MIB
from novita_async._purchase.machine import Order, Purchase
from novita_async._stream.resume import AHEAD, Resume
from novita_async._stream.way import Counts
from novita_async._util.clock import loop_time
from novita_async.errors import NovitaError
from novita_async.models.requests import NovitaRequest

_MOST_HELD: Final = 16 * MIB
"""Bytes of pictures in memory beyond which no further line is read ahead."""
_SLOW: Final = 1.0
"""Seconds for some lines from which on an input lets wait."""

Requests = Iterable[NovitaRequest] | AsyncIterable[NovitaRequest]
"""Any iterable or async iterable of requests, endless ones included."""

Line = tuple[NovitaRequest, Order | None, Purchase | None]
"""A request of the input; its description and its purchase where they are known already."""


async def lines(
    iterator: AsyncIterator[NovitaRequest],
    resume: Resume | None,
    counts: Counts,
    checked: Callable[[NovitaRequest], str],
) -> AsyncGenerator[Line]:
    """Read the input one by one; some lines ahead while that finds purchases that are finished.

    An input that waits for something is not read ahead, so that no line waits for the next.

    Args:
        iterator: The input.
        resume: The journal, where there is one.
        counts: How far the stream has come.
        checked: Gives the endpoint of a request. Raises `NovitaError`.
    """
    one_by_one, pause = 0, AHEAD
    async for request in iterator:
        if resume is None or not resume.finished or one_by_one:
            one_by_one = max(0, one_by_one - 1)
            yield request, None, None
            continue
        piece = await _Piece.of(request, iterator)
        read = [(each, _endpoint_of(each, checked)) for each in piece.requests]
        found = await resume.look_up(read, counts.taken_in)
        if piece.is_slow or not any(purchase for _, purchase in found):
            one_by_one, pause = pause, 2 * pause
        else:
            pause = AHEAD
        for each, (order, purchase) in zip(piece.requests, found, strict=True):
            yield each, order, purchase
        if piece.error is not None:
            raise piece.error


def _endpoint_of(request: NovitaRequest, checked: Callable[[NovitaRequest], str]) -> str | None:
    try:
        return checked(request)
    except NovitaError:
        return None


@define
class _Piece:
    """Some lines that were read ahead."""

    requests: list[NovitaRequest]
    is_slow: bool = False
    """Whether the input lets wait."""
    error: Exception | None = None
    """Error of the input after these lines."""

    @classmethod
    async def of(cls, first: NovitaRequest, iterator: AsyncIterator[NovitaRequest]) -> "_Piece":
        piece, began_at = cls([first]), loop_time()
        held = _bytes_in(first)
        while len(piece.requests) < AHEAD and held < _MOST_HELD and not piece.is_slow:
            try:
                request = await anext(iterator)
            except StopAsyncIteration:
                break
            except Exception as error:  # noqa: BLE001 - the user's: told once these lines were taken in
                piece.error = error
                break
            piece.requests.append(request)
            held += _bytes_in(request)
            piece.is_slow = loop_time() - began_at > _SLOW
        return piece


def _bytes_in(request: object) -> int:
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
