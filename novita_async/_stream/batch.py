"""A batch that was not entered yet: enter it for each outcome as it comes, or await all of them."""

from collections.abc import AsyncGenerator, Callable, Generator, Sized
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ParamSpec

from attrs import define, field

from novita_async._stream.handle import Block, Outcomes
from novita_async._stream.showing import shown_in_notebook
from novita_async.models.results import Outcome

P = ParamSpec("P")


@define(eq=False, repr=False)
class Batch(Block[Outcomes]):
    """A batch. `async with` hands out each outcome as it comes; `await` gives all of them in a list.

    A notebook shows how far an awaited batch is, where rich is installed (extra `cli`). An error that ends a
    batch early is raised, and all that is paid by then stands in the journal: run the same again.
    """

    _total: int | None = field(default=None, kw_only=True, alias="total")
    """How many requests there are. None: not known."""

    def __repr__(self) -> str:
        return "<Batch, not entered yet: await it, or async with ... as outcomes>"

    def __await__(self) -> Generator[Any, None, list[Outcome]]:
        return self._all().__await__()

    async def _all(self) -> list[Outcome]:
        found: list[Outcome] = []
        async with self as outcomes, shown_in_notebook(found, self._total):
            async for outcome in outcomes:
                found.append(outcome)  # noqa: PERF401 - the display reads it meanwhile
        return found


def as_batch(make: Callable[P, AsyncGenerator[Outcomes]]) -> Callable[P, Batch]:
    """Make a batch of a generator that hands out its outcomes."""
    context = asynccontextmanager(make)

    @wraps(make)
    def made(*args: P.args, **options: P.kwargs) -> Batch:
        requests: object = options.get("requests", args[-1])
        return Batch(context(*args, **options), total=len(requests) if isinstance(requests, Sized) else None)

    return made
