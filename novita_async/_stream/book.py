"""What a stream writes down about its requests, and what it finds written there.

A stream without a journal keeps a `Book` whose pages are blank: nothing is known and nothing is kept. With a
journal, each page is a row of it. A page says what to do with its request (buy it, watch the task that is
paid already, hand out what ended earlier), and records what becomes of it before anyone is told.
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Final, cast

import anyio.to_thread
from attrs import define, field, frozen

from novita_async._files.index import INPUTS, keep
from novita_async._journal import DigestCache, Journal, ledger
from novita_async._journal.ledger import Row, RowError, State, Wanted
from novita_async._policy.pacing import HOLD
from novita_async._policy.spending import Budget, Spending
from novita_async._submit.pool import SessionPool
from novita_async._submit.sender import Recorder
from novita_async._util.clock import wall_offset, wall_time
from novita_async.errors import FailedEarlier, NovitaError, SubmissionUncertain, TaskFailed, TaskNotFound
from novita_async.events import Announced
from novita_async.models.images import ImageSource
from novita_async.models.requests import Request
from novita_async.models.results import (
    Artifact,
    Failed,
    Image,
    ImageResult,
    Outcome,
    Succeeded,
    Timings,
    Uncertain,
)
from novita_async.tasks import Task

_SOME_PICTURE: Final = ImageSource(data=b"?", size=1, format="png", width=512, height=512)
"""Stands for pictures where only a request's other fields matter."""
_PICTURES: Final = frozenset({"png", "jpeg", "jpg", "webp"})


class Page(Recorder):
    """What is known and kept of one request: nothing."""

    position: int = 0
    """Its place in the input, from 0."""
    task: Task | None = None
    """A task that is paid already, to be watched instead of bought."""
    outcome: Outcome | None = None
    """How it ended earlier: nothing is left to do."""
    owns_files: ClassVar[bool] = False
    """Whether nobody else saves the files of its task."""

    async def ended(self, outcome: Outcome) -> None:
        """It came to an end."""

    async def saved(self, paths: tuple[Path, ...]) -> None:
        """Its files are whole, on disk."""

    async def missed(self, error: NovitaError) -> None:
        """Its files could not be had this time."""

    def name_of(self, outcome: Succeeded) -> str | None:  # noqa: ARG002
        """How its files' names begin. None: with the task's id."""
        return None


@frozen(kw_only=True)
class Entry:
    """A request of the input."""

    request: Request
    """What is asked for."""
    position: int
    """Its place, from 0."""
    wanted: Wanted | None = None
    """The same for the journal."""


class Book:
    """A book of blank pages."""

    async def begin(self, pool: SessionPool, spending: Spending | None) -> None:
        """Tell what was sent and spent before."""

    async def entry(self, request: Request, endpoint: str, position: int) -> Entry:  # noqa: ARG002
        """Describe the next request of the input. Raises `InvalidRequest`."""
        return Entry(request=request, position=position)

    async def page(self, entry: Entry) -> Page:
        """Turn to the page of a request. Ask in the order of the input, without waiting in between."""
        page = Page()
        page.position = entry.position
        return page


@define(eq=False)
class _RowPage(Page):
    """One row of a journal, which one process at a time can have."""

    owns_files: ClassVar[bool] = True
    journal: Journal
    row: Row
    request: Request
    task: Task | None = None
    outcome: Outcome | None = None
    paths: tuple[Path, ...] = ()
    """Where its files were found."""

    async def move(self, to: State, **facts: Any) -> None:
        self.row = await self.journal.move(
            self.row.key, self.row.occurrence, to, at=facts.pop("at", None) or wall_time(), **facts
        )

    async def announced(self, event: Announced) -> None:
        await self.move(State.ANNOUNCED, account=event.account)

    async def bought(self, task: Task) -> None:
        await self.move(State.SUBMITTED, task_id=task.task_id)

    async def not_bought(self, error: NovitaError) -> None:
        await self.move(State.PLANNED, error=RowError.of(error))

    async def uncertain(self, error: SubmissionUncertain) -> None:
        await self.move(State.UNCERTAIN, error=RowError.of(error))

    async def ended(self, outcome: Outcome) -> None:
        if isinstance(outcome, Succeeded):
            facts = ledger.result_facts(outcome.result)
            await self.move(State.SUCCEEDED, seed=outcome.result.seed, result=facts)
        elif isinstance(outcome, Failed) and self.row.state is State.SUCCEEDED:
            await self.missed(outcome.error)
        elif isinstance(outcome, Failed) and self._is_over(outcome.error):
            await self.move(State.FAILED, error=RowError.of(outcome.error))

    async def saved(self, paths: tuple[Path, ...]) -> None:
        await self.move(State.SAVED, paths=tuple(map(str, paths)))

    async def missed(self, error: NovitaError) -> None:
        await self.move(State.SUCCEEDED, error=RowError.of(error))

    def _is_over(self, error: NovitaError) -> bool:
        """Whether nothing more can come of it. A paid task that could not be asked for (a wrong key, a key of
        another account, a route that is gone) may be well: the next run asks again.
        """
        if self.row.task_id is None or isinstance(error, TaskFailed):
            return True
        return isinstance(error, TaskNotFound) and error.account == self.row.account

    def name_of(self, outcome: Succeeded) -> str | None:
        seed = outcome.result.seed
        return f"{self.row.position:05d}" if seed is None else f"{self.row.position:05d}-{seed}"


@define(eq=False)
class JournalBook(Book):
    """A book whose pages are the rows of a journal."""

    journal: Journal
    name: str
    """Tells journals apart."""
    resubmit_uncertain: bool = False
    """Whether what was perhaps bought is bought again."""
    retry_failed: bool = False
    """Whether what failed, and may not fail again, is bought again."""
    folder: Path | None = None
    """Where files are saved. Pictures that were given in memory are kept there once, by digest: nothing else
    has them."""
    _digests: DigestCache = field(factory=DigestCache, init=False)

    async def begin(self, pool: SessionPool, spending: Spending | None) -> None:
        """Let the windows hold what the service may have seen within the last minute, and count the money."""
        if spending is not None and not spending.remembers(self.name):
            spending.remember(self.name, await self._spent(spending.budget))
        rows = await self.journal.seen_since(wall_time() - HOLD)
        for account in pool.accounts(None):
            for endpoint in {row.endpoint for row in rows}:
                slots = ledger.slots(rows, endpoint=endpoint, account=account.label, offset=-wall_offset())
                pool.restore(account.label, endpoint, tuple(slots))

    async def _spent(self, budget: Budget) -> Decimal:
        """What the journal's purchases have cost, certainly or perhaps."""
        if budget.per_image is not None:
            return budget.per_image * (await self.journal.summary()).spent
        cost = Decimal(0)
        async for row in self.journal.rows():
            times = (row.bought + row.perhaps) // row.image_num
            if times:
                cost += times * budget.price_of(ledger.request_of(row, _some_picture, str))
        return cost

    async def entry(self, request: Request, endpoint: str, position: int) -> Entry:
        """Describe the next request of the input. Digests are made off the loop."""
        wanted = await anyio.to_thread.run_sync(
            lambda: ledger.wanted(request, endpoint=endpoint, position=position, digest=self._digest)
        )
        return Entry(request=request, position=position, wanted=wanted)

    async def page(self, entry: Entry) -> Page:
        """Find the row of a request, or make it. Those that are asked for meanwhile share one commit."""
        (row,) = await self.journal.plan([cast("Wanted", entry.wanted)])
        page = _RowPage(self.journal, row, entry.request)
        page.position = entry.position
        if self._again(row):
            await page.move(State.PLANNED, asked=True)
        if row.state is State.SAVED:
            await self._find_files(page)
        _take_up(page)
        return page

    async def _find_files(self, page: "_RowPage") -> None:
        """Find what was saved, also where the folder has moved; what is gone is to be saved again."""
        page.paths = tuple(map(Path, page.row.paths))
        if self.folder is None:
            return
        found = await anyio.to_thread.run_sync(_found, page.paths, self.folder)
        if found is None:
            await page.move(State.SUCCEEDED, error=ledger.GONE)
        else:
            page.paths = found

    def _digest(self, picture: ImageSource) -> str:
        digest = self._digests(picture)
        if self.folder is not None and picture.data is not None:
            with suppress(OSError):  # a report without this picture is no reason to stop
                keep(picture, digest, self.folder / INPUTS)
        return digest

    def _again(self, row: Row) -> bool:
        """Whether the caller wants to buy this again, and that can help."""
        if row.state is State.UNCERTAIN:
            return self.resubmit_uncertain
        return self.retry_failed and row.state is State.FAILED and bool(row.error and row.error.retryable)


def _some_picture(_: str, __: Path | None) -> ImageSource:
    return _SOME_PICTURE


def _found(paths: tuple[Path, ...], folder: Path) -> tuple[Path, ...] | None:
    """Where files are: where they were, or in this folder. None: one of them is in neither."""
    found = [next((place for place in (path, folder / path.name) if place.is_file()), None) for path in paths]
    there = tuple(place for place in found if place is not None)
    return there if len(there) == len(found) else None


def _take_up(page: _RowPage) -> None:
    """Say what is left to do where an earlier run left off."""
    row, request = page.row, page.request
    if row.state in (State.SUBMITTED, State.SUCCEEDED):
        page.task = _task(row)
    elif row.state is State.SAVED:
        page.outcome = Succeeded(result=_result(row), request=request, paths=page.paths)
    elif row.state is State.FAILED:
        page.outcome = Failed(request=request, task=_task(row), error=_failure(row))
    elif row.state is State.UNCERTAIN:
        page.outcome = Uncertain(request=request, error=_doubt(row))


def _task(row: Row) -> Task | None:
    if row.task_id is None:
        return None
    return Task(task_id=row.task_id, account=row.account, endpoint=row.endpoint, image_num=row.image_num)


def _failure(row: Row) -> FailedEarlier:
    error = row.error
    return FailedEarlier(
        kind=error.kind if error else "",
        text=error.text if error else "",
        reason=error.reason if error else None,
        retryable=bool(error and error.retryable),
        task_id=row.task_id,
        account=row.account,
    )


def _doubt(row: Row) -> SubmissionUncertain:
    return SubmissionUncertain(
        cause=row.error.text if row.error else "",
        endpoint=row.endpoint,
        images=row.image_num,
        account=row.account,
    )


def _result(row: Row) -> ImageResult:
    """What the journal still knows of a result, whose files are on disk: its URLs have no signatures."""
    known, task = row.result or {}, _task(row)
    files = [_artifact(facts, task) for facts in known.get("files", ())]
    return ImageResult(
        task=task or Task(task_id=""),
        images=tuple(file for file in files if isinstance(file, Image)),
        videos=tuple(file for file in files if not isinstance(file, Image)),
        seed=row.seed,
        task_type=known.get("task_type"),
        timings=Timings(**_times(known.get("times", {}).items())),
    )


def _artifact(facts: dict[str, Any], task: Task | None) -> Artifact:
    cls = Image if facts.get("type") in _PICTURES else Artifact
    return cls(url=facts.get("url") or "", url_ttl=facts.get("ttl"), type=facts.get("type"), task=task)


def _times(known: Iterable[tuple[str, float]]) -> dict[str, datetime]:
    return {name: datetime.fromtimestamp(seconds, UTC) for name, seconds in known}
