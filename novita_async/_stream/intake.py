"""The lines of a stream's input: read one by one, or some ahead where a journal knows them."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from novita_async._purchase.machine import Order, Purchase
from novita_async._stream.ahead import AHEAD, ReadAhead, Requests, closing
from novita_async._stream.way import Counts
from novita_async.errors import NovitaError
from novita_async.models.requests import NovitaRequest

if TYPE_CHECKING:
    from novita_async._stream.resume import Resume

Line = tuple[NovitaRequest, Order | None, Purchase | None]
"""A request of the input; its description and its purchase where they are known already."""

Check = Callable[[NovitaRequest], str]
"""Gives the endpoint of a request. Raises `NovitaError`."""


@asynccontextmanager
async def lines_of(
    requests: Requests, resume: "Resume | None", counts: Counts, check: Check
) -> AsyncGenerator[AsyncIterator[Line]]:
    """Read the input one by one, or some lines ahead while that finds purchases that are finished."""
    if resume is None or not resume.finished:
        async with closing(requests) as iterator, aclosing(_one_by_one(iterator)) as lines:
            yield lines
    else:
        async with ReadAhead.of(requests) as ahead, aclosing(_found(resume, ahead, counts, check)) as lines:
            yield lines


async def _one_by_one(iterator: AsyncIterator[NovitaRequest]) -> AsyncGenerator[Line]:
    async for request in iterator:
        yield request, None, None


async def _found(resume: "Resume", ahead: ReadAhead, counts: Counts, check: Check) -> AsyncGenerator[Line]:
    one_by_one, pause = 0, AHEAD
    while requests := await ahead.take(1 if one_by_one or not resume.finished else AHEAD):
        if one_by_one or not resume.finished:
            one_by_one = max(0, one_by_one - 1)
            yield requests[0], None, None
            continue
        found = await resume.look_up(
            [(each, _endpoint_of(each, check)) for each in requests], counts.taken_in
        )
        if any(purchase for _, purchase in found):
            pause = AHEAD
        else:
            one_by_one, pause = pause, 2 * pause
        for each, (order, purchase) in zip(requests, found, strict=True):
            yield each, order, purchase


def _endpoint_of(request: NovitaRequest, check: Check) -> str | None:
    try:
        return check(request)
    except NovitaError:
        return None
