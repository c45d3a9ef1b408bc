"""`models` and `balance`: what can be used, and what is left to spend.

Questions cost nothing. On a terminal somebody waits for the answer, so that a server which does not answer is
given up soon; elsewhere a question has the timeout of everything else.
"""

import math
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Annotated, Any, Final, TypeVar

import anyio
import attrs
from attrs import define, field
from cyclopts import Parameter

from novita_async._client import NovitaClient
from novita_async._util.clock import loop_time
from novita_async.cli._exits import Exit
from novita_async.cli._output import Output
from novita_async.cli._progress import display_of
from novita_async.cli._report_timeline import elapsed
from novita_async.cli._terminal import LinePart
from novita_async.cli._waits import host_of_environment
from novita_async.errors import ConfigurationError, NoAnswer
from novita_async.events import Event, Retrying

T = TypeVar("T")

_TIMEOUT: Final = 10.0
"""Seconds for which an answer is waited for on a terminal."""
_UNREMARKABLE: Final = 1.0
"""Seconds without an answer that are not mentioned."""

_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


@define(eq=False)
class _Questions:
    """Questions of one command, and what somebody who waits for the answers is told."""

    client: NovitaClient = field(init=False)
    host: str = field(factory=host_of_environment)
    timeout: float = field(factory=lambda: _TIMEOUT if sys.stderr.isatty() else math.inf)
    _asked_at: float = field(default=math.inf, init=False)
    _trouble: str = field(default="", init=False)
    """Why the last try came to nothing."""
    _told: str = field(default="", init=False)

    @classmethod
    @asynccontextmanager
    async def open(cls) -> "AsyncGenerator[_Questions]":
        """Make a client, and tell how the waiting goes."""
        questions, display = cls(), display_of()
        display.view = questions
        async with NovitaClient(observers=[questions]) as client:
            questions.client = client
            with display:
                yield questions

    def __call__(self, event: Event) -> None:
        """Observe."""
        if isinstance(event, Retrying):
            error = event.error
            self._trouble = error.cause if isinstance(error, NoAnswer) else error.sentence()

    async def answer(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask, and give up when nobody would wait any longer.

        Raises:
            NoAnswer: there was none in time.
        """
        self._asked_at, self._trouble = loop_time(), ""
        with anyio.move_on_after(self.timeout):
            try:
                return await ask()
            finally:
                self._asked_at = math.inf
        why = f" ({self._trouble})" if self._trouble else ""
        raise NoAnswer(
            cause=f"{self.host} has not answered for {self.timeout:.0f} s{why}",
            advice="check the network and NOVITA_BASE_URL, then ask again",
        )

    def parts(self) -> list[LinePart]:
        """The line on a terminal."""
        waited = loop_time() - self._asked_at
        if waited < _UNREMARKABLE:
            return []
        left = LinePart((f"giving up in {elapsed(math.ceil(self.timeout - waited))}", ""), (2,), "; ")
        span = elapsed(math.floor(waited))
        return [LinePart((f"no answer from {self.host} for {span}", f"no answer for {span}"), (1,)), left]

    def lines(self, *, due: bool) -> str:
        """Tell a log each new trouble, and now and then that there is still some."""
        news, self._told = due or self._trouble != self._told, self._trouble
        return f"no answer from {self.host}: {self._trouble}" if news and self._trouble else ""


async def models(
    *,
    type: str | None = None,  # noqa: A002 - the option's name
    query: str | None = None,
    visibility: str | None = None,
    source: str | None = None,
    sdxl: bool | None = None,
    inpainting: bool | None = None,
    limit: int | None = None,
    json: _Flag = False,
) -> Exit:
    """List the models that requests can name: the name for requests, the kind, the base model.

    Args:
        type: One kind.
        query: Searched for in names and tags.
        visibility: `public` or `private`.
        source: `civitai`, `training` or `uploading`.
        sdxl: Only SDXL, or none of it.
        inpainting: Only those for inpainting, or none of them.
        limit: Stop after so many.
        json: Print one JSON object a line, with everything that is known of the model.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(problem=f"--limit: {limit} is not 1 or above")
    output = Output(json)
    numbers = count(1)
    async with _Questions.open() as questions:
        records = questions.client.models(
            types=type,
            query=query,
            visibility=visibility,
            source=source,
            is_sdxl=sdxl,
            is_inpainting=inpainting,
        )
        while (record := await questions.answer(lambda: anext(records, None))) is not None:
            facts = (record.type, record.base_model, "nsfw" if record.is_nsfw else "")
            output.line("  ".join((record.api_name, *filter(None, facts))))
            output.record(**attrs.asdict(record), api_name=record.api_name)
            if next(numbers) == limit:
                break
        await records.aclose()
    return Exit.SUCCEEDED


async def balance(*, json: _Flag = False) -> Exit:
    """Tell what is left to spend, in dollars.

    Args:
        json: Print one JSON object.
    """
    async with _Questions.open() as questions:
        found = await questions.answer(questions.client.balance)
    facts: dict[str, Any] = {name: value for name, value in attrs.asdict(found).items() if value is not None}
    for name, value in facts.items():
        Output(json).line(f"{name.replace('_', ' ')}: ${value}")
    Output(json).record(**facts)
    return Exit.SUCCEEDED
