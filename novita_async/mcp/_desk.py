"""Buys what agents ask for, each thing once, whatever they repeat.

One batch runs as long as the server does, and takes its requests from the calls. Its journal knows what
earlier processes have bought; a table of calls knows what this one has under way, so that two equal calls at
the same time wait for one purchase. An error that ends the batch (no money, no key) is told to all that wait,
and the next call begins another.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import anyio
import anyio.to_thread
from attrs import define, field

from novita_async._client import NovitaClient
from novita_async._journal.sqlite.journal import SqliteJournal
from novita_async._purchase.machine import Purchase
from novita_async._util.scopes import background
from novita_async.errors import ConfigurationError, NovitaError, TaskTimeout
from novita_async.mcp._varied import VariedJournal
from novita_async.models.faces import EditImage, GenerateImage
from novita_async.models.images import ImageSource
from novita_async.models.requests import NovitaRequest
from novita_async.models.results import Failed, Outcome, Succeeded
from novita_async.tasks import Task

ANSWER_TIMEOUT: Final = 45.0
"""Seconds after which a call comes back without its picture: many agents give up after a minute."""
_KEY_DIGITS: Final = 16


class UnknownCallError(LookupError):
    """No call, and no task, has this id."""


@define(eq=False)
class Call:
    """A purchase that was asked for, by its key."""

    key: str
    """Its id, for `task_result`."""
    outcome: Outcome | None = None
    """How it ended. None: it is under way."""
    error: NovitaError | None = None
    """Why it was never taken in."""
    ended: anyio.Event = field(factory=anyio.Event)
    answer: list[Any] | None = None
    """The answer of a success, once it was made."""

    def end(self, outcome: Outcome | None, error: NovitaError | None = None) -> None:
        self.outcome, self.error = outcome, error
        self.ended.set()

    @property
    def may_be_repeated(self) -> bool:
        """Whether nothing was bought, and the same may be asked for once more."""
        if not self.ended.is_set() or isinstance(self.outcome, Succeeded):
            return False
        error = self.error or getattr(self.outcome, "error", None)
        bought = getattr(self.outcome, "task_id", None) or getattr(error, "task_id", None)
        is_free = self.outcome is None or isinstance(self.outcome, Failed)  # no other end says so
        return is_free and bought is None and (self.error is not None or bool(error and error.retryable))

    def paths(self) -> tuple[Path, ...]:
        """The files of the result.

        Raises:
            NovitaError: there is no result.
        """
        if self.error is not None:
            raise self.error
        if isinstance(self.outcome, Succeeded):
            return self.outcome.paths
        if self.outcome is not None:
            self.outcome.unwrap()
        return ()


@define(eq=False)
class Desk:
    """Takes calls, and gives each its purchase. Open it with `Desk.open`."""

    client: NovitaClient
    """The client that buys, with a budget."""
    folder: Path
    """Where journal and pictures lie."""
    answer_timeout: float
    """Seconds after which a call comes back without its picture."""
    _journal: VariedJournal
    _calls: dict[str, Call] = field(factory=dict[str, Call], init=False)
    _orders: "asyncio.Queue[NovitaRequest]" = field(factory=asyncio.Queue[NovitaRequest], init=False)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, client: NovitaClient, folder: str | Path, *, answer_timeout: float = ANSWER_TIMEOUT
    ) -> AsyncGenerator[Self]:
        """Open a folder, which one process at a time may use.

        Raises:
            ConfigurationError: the client has no budget.
            JournalError: another process uses the folder.
        """
        if client.statistics().spending is None:
            raise ConfigurationError(
                problem="an agent may buy without end: the client has no budget",
                advice="give NovitaClient(budget=Budget(limit=…, price=…))",
            )
        place = Path(folder)
        await anyio.Path(place).mkdir(parents=True, exist_ok=True)
        async with await SqliteJournal.open(place / "journal.db") as file:
            desk = cls(client, place, answer_timeout, VariedJournal(file))
            async with background(desk._sell(), lambda _: None):
                yield desk

    # --- Buying ---------------------------------------------------------------------------------------------

    async def edit(self, *, image: str, mask: str | None, variation: int, fields: Mapping[str, Any]) -> Call:
        """Buy an edited picture, or find it. Returns with the picture, or after `answer_timeout` seconds."""
        given = {"image": image} if mask is None else {"image": image, "mask": mask}
        pictures = await anyio.to_thread.run_sync(_measured, given)
        digests = await anyio.to_thread.run_sync(_digests, pictures)
        content: dict[str, Any] = {**fields, **pictures}
        request = EditImage(**content)
        return await self._buy(request, key_of("edit_image", {**fields, **digests}, variation))

    async def generate(self, *, variation: int, fields: Mapping[str, Any]) -> Call:
        """Buy a picture, or find it."""
        return await self._buy(GenerateImage(**fields), key_of("generate_image", fields, variation))

    async def _buy(self, request: NovitaRequest, key: str) -> Call:
        call = self._calls.get(key)
        if call is None or call.may_be_repeated:
            call = self._calls[key] = Call(key)
            self._orders.put_nowait(request.tagged(key))
        await self._wait_for(call)
        return call

    async def _wait_for(self, call: Call) -> None:
        with anyio.move_on_after(self.answer_timeout):
            await call.ended.wait()

    async def _sell(self) -> None:
        """Run one batch after the other, for ever."""
        while True:
            first = await self._orders.get()
            batch = self.client.batch(
                self._requests(first),
                journal=self._journal,
                save_to=self.folder,
                save_as="{id}-{n}.{ext}",
                priority="interactive",
            )
            try:
                async with batch as outcomes:
                    async for outcome in outcomes:
                        if outcome.tag in self._calls:
                            self._calls[outcome.tag].end(outcome)
            except NovitaError as error:
                for call in self._calls.values():
                    if not call.ended.is_set():
                        call.end(None, error)
                while not self._orders.empty():
                    self._orders.get_nowait()

    async def _requests(self, first: NovitaRequest) -> AsyncGenerator[NovitaRequest]:
        yield first
        while True:
            yield await self._orders.get()

    # --- Finding again --------------------------------------------------------------------------------------

    async def find(self, wanted: str) -> Call:
        """Find a call by its id, or by the id of its task, also of another process, and wait for its end.

        Raises:
            UnknownCallError: there is none.
            NovitaError: the call failed, or its result cannot be had.
        """
        call = self._calls.get(wanted)
        if call is not None:
            await self._wait_for(call)
            return call
        row = await self._row(wanted)
        if row is None:
            raise UnknownCallError(wanted)
        call = _call_of(row)
        if row.task is not None and not call.ended.is_set():
            await self._fetch(call, row.task)
        return call

    async def _fetch(self, call: Call, task: Task) -> None:
        """Wait for a task that an earlier process has bought, and save its files. A time-out is no error."""
        with suppress(TaskTimeout):
            result = await self.client.wait(task, timeout=self.answer_timeout)
            paths = await self.client.save(result, self.folder, name=call.key)
            call.end(Succeeded(result=result, paths=paths))
            self._calls.setdefault(call.key, call)

    async def _row(self, wanted: str) -> Purchase | None:
        async for row in self._journal.where():
            if wanted == row.tag or (row.task is not None and wanted == row.task.task_id):
                return row
        return None


def key_of(tool: str, content: Mapping[str, Any], variation: int) -> str:
    """The key of a purchase: the same for the same call, whoever repeats it."""
    told = json.dumps([tool, content, variation], sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:_KEY_DIGITS]


def _measured(paths: Mapping[str, str]) -> dict[str, ImageSource]:
    return {name: ImageSource.from_path(path) for name, path in paths.items()}


def _digests(pictures: Mapping[str, ImageSource]) -> dict[str, str]:
    return {name: picture.digest() for name, picture in pictures.items()}


def _call_of(row: Purchase) -> Call:
    """A call of an earlier process, as its journal tells."""
    call = Call(row.tag or "")
    if row.paths and row.result is not None:
        call.end(Succeeded(result=row.result, paths=row.paths))
    elif row.doubt is not None:
        call.end(None, row.doubt)
    elif row.error is not None:
        call.end(None, row.error)
    return call
