"""Many requests at once: taken in lazily, sent, watched, saved, and handed out as they end.

    input -> slots (in_flight) -> Sender -> Watcher -> Saver -> outcomes

A request holds its slot from being taken in until the consumer has taken its outcome, so a slow consumer
slows the input. A request that cannot be served is one outcome. What dooms all the rest (no account can pay,
no endpoint is left) stops the sending, lets what is paid come out, and is then raised once.
"""

import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
)
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from attrs import define, evolve, field, frozen

from novita_async._files.index import Index
from novita_async._files.names import NameTemplate, Naming
from novita_async._files.saver import Saver, see_to_folder
from novita_async._policy.polling import Polling, PollMemory
from novita_async._stream.book import Book, Entry, Page
from novita_async._submit.sender import Recorder, Sender
from novita_async._util.scopes import task_group
from novita_async._watch.watcher import Watcher, WatchStatistics
from novita_async.errors import (
    ConfigurationError,
    DownloadFailed,
    Fault,
    InvalidRequest,
    JournalError,
    NovitaError,
    ResultError,
    SubmissionUncertain,
    TaskFailed,
    TaskNotFound,
)
from novita_async.events import Announced, Finished, Planned
from novita_async.models import _rules as rules
from novita_async.models.requests import AnyTask, Img2Img, Request, Txt2Img
from novita_async.models.results import (
    Failed,
    Outcome,
    Snapshot,
    Succeeded,
    Uncertain,
    Unfinished,
    Update,
    update_of,
)
from novita_async.tasks import Task

IN_FLIGHT: Final = 64
_ENDS: Final = (TaskFailed, TaskNotFound, ResultError)

Requests = Iterable[Request] | AsyncIterable[Request]
"""Any iterable or async iterable of requests, endless ones included."""

NameFiles = Callable[[Succeeded], str]
"""Gives the beginning of the file names of an outcome, whose `paths` are not known yet."""


@frozen(kw_only=True)
class StreamStatistics:
    """How a stream or a watch is doing."""

    taken_in: int
    """Requests taken from the input."""
    submitted: int
    """Requests that became tasks."""
    delivered: int
    """Outcomes that the consumer has taken."""
    unsent: int
    """Requests that were taken in and can no longer be sent."""
    watching: WatchStatistics
    """Tasks that are waited for, and the polls it took."""


@define(eq=False, repr=False)
class _Handle:
    """What a stream or a watch can be asked and told while it runs."""

    _pipeline: "Pipeline"

    def __repr__(self) -> str:
        s = self.statistics()
        counts = f"{s.taken_in} taken in, {s.submitted} submitted, {s.delivered} delivered, {s.unsent} unsent"
        return f"<{type(self).__name__}: {counts}>"

    @property
    def unfinished(self) -> tuple[Task, ...]:
        """Paid tasks whose outcome has not been taken. Watch them again."""
        return self._pipeline.unfinished()

    @property
    def uncertain(self) -> tuple[SubmissionUncertain, ...]:
        """Purchases whose end nobody knows and whose outcome has not been taken."""
        return tuple(self._pipeline.uncertain)

    def watch(self, task: "Task | str") -> None:
        """Wait for one more paid task.

        A watch ends when it is asked for the next outcome and nothing is left, so whoever takes the last one
        may still add another.
        """
        self._pipeline.watch_task(task)

    def statistics(self) -> StreamStatistics:
        """How it is doing now."""
        return self._pipeline.statistics()


@define(eq=False, repr=False)
class Outcomes(_Handle):
    """The outcomes of a stream or a watch, in the order in which they come. Iterate over it once."""

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        """Give the next outcome.

        Raises:
            NovitaError: what ended the stream early, after the outcomes of all that was paid; its `unsent`
                counts the requests that were taken in and not sent.
        """
        return cast("Outcome", await self._pipeline.next_item())


@define(eq=False, repr=False)
class Updates(_Handle):
    """What is seen of watched tasks while they go on, and their outcomes. Iterate over it once.

    Only what is new is told. Whoever is slow gets the newest of each task, and after its outcome no more.
    """

    def __aiter__(self) -> AsyncIterator[Update | Outcome]:
        return self

    async def __anext__(self) -> Update | Outcome:
        """Give the next update or outcome."""
        return await self._pipeline.next_item()


H = TypeVar("H", bound=_Handle)


@define(eq=False)
class News:
    """The newest update of each task that has not been taken yet."""

    _fresh: dict[str, Update] = field(factory=dict)
    _told: dict[str, Update] = field(factory=dict)
    _come: anyio.Event = field(factory=anyio.Event)

    def show(self, snapshot: Snapshot) -> None:
        """Keep what was seen, if it is new."""
        update = update_of(snapshot)
        if self._told.get(update.task_id) != update:
            self._fresh[update.task_id] = self._told[update.task_id] = update
            self._come.set()

    def forget(self, task_id: str) -> None:
        """Tell nothing more of a task."""
        self._fresh.pop(task_id, None)
        self._told.pop(task_id, None)

    async def next(self) -> Update:
        """Wait for the update that is due the longest."""
        while not self._fresh:
            self._come = anyio.Event()
            await self._come.wait()
        return self._fresh.pop(next(iter(self._fresh)))


@define(eq=False)
class _Purchase(Recorder):
    """Keeps account of one request of a stream, even where the stream is being left."""

    pipeline: "Pipeline"
    page: Page
    task: Task | None = None
    error: SubmissionUncertain | None = None
    """Why nobody knows whether it was bought. An event may tell later."""

    async def announced(self, event: Announced) -> None:
        await self.page.announced(event)

    async def bought(self, task: Task) -> None:
        self.task = task
        self.pipeline.bought(task)
        if self.error is not None:
            self.pipeline.certain(self.error)
        await self.page.bought(task)

    async def not_bought(self, error: NovitaError) -> None:
        await self.page.not_bought(error)

    async def uncertain(self, error: SubmissionUncertain) -> None:
        self.error = error
        self.pipeline.uncertain.append(error)
        await self.page.uncertain(error)


@define(eq=False, repr=False)
class Pipeline:
    """One stream or watch, from its input to its outcomes."""

    _sender: Sender
    _saver: Saver
    _book: Book = field(factory=Book)
    _save_to: Path | None = None
    _save_as: NameFiles | NameTemplate | None = None
    _in_flight: int = IN_FLIGHT
    _interactive: bool = False
    _timeout: float | None = None
    """Seconds to wait for each task of a watch. None: as the policy says."""
    _total: float | None = None
    """Seconds to wait for all tasks of a watch together."""
    _news: News | None = None
    """Updates to be told besides outcomes."""
    _ends_at: float = field(default=math.inf, init=False)
    """When a watch as a whole ends."""
    _left: int = field(default=0, init=False)
    """Tasks of a watch whose outcome is still to be taken."""
    _asking: int = field(default=0, init=False)
    """How many wait for an outcome just now."""
    _asked: anyio.Event = field(factory=anyio.Event, init=False)
    _patience: float = field(default=0.0, init=False)
    """Seconds to go on with a file that cannot be had. It is paid, so it is worth as much as its task."""
    paid: dict[str, Task] = field(factory=dict, init=False)
    """Bought here, or known to have ended, and its outcome was not taken, or was that it is unfinished."""
    uncertain: list[SubmissionUncertain] = field(factory=list, init=False)
    _index: Index | None = field(default=None, init=False)
    """Of what is saved."""
    _watcher: Watcher = field(init=False)
    _pages: dict[str, Page] = field(factory=dict[str, Page], init=False)
    """By task id."""
    _twins: dict[str, list[tuple[Request, Page]]] = field(
        factory=dict[str, list[tuple[Request, Page]]], init=False
    )
    """Further requests that the service answered with a task id that is watched already."""
    _slots: anyio.Semaphore = field(init=False)
    _taking_in: anyio.CancelScope = field(factory=anyio.CancelScope, init=False)
    _tasks: TaskGroup = field(init=False)
    _to_consumer: MemoryObjectSendStream[Update | Outcome] = field(init=False)
    _from_pipeline: MemoryObjectReceiveStream[Update | Outcome] = field(init=False)
    _failure: BaseException | None = field(default=None, init=False)
    _endpoints: set[str] = field(factory=set, init=False)
    """Endpoints that this stream sends to."""
    _dead: set[str] = field(factory=set, init=False)
    """Those of them that are not served."""
    _taken_in: int = field(default=0, init=False)
    _submitted: int = field(default=0, init=False)
    _delivered: int = field(default=0, init=False)
    _unsent: int = field(default=0, init=False)

    @classmethod
    def of(
        cls, sender: Sender, saver: Saver, polling: Polling, memory: PollMemory, **options: Any
    ) -> "Pipeline":
        """Make a pipeline. Raises `ConfigurationError`."""
        pipeline = cls(sender, saver, **options)
        if pipeline._in_flight < 1:
            raise ConfigurationError(problem=f"in_flight: {pipeline._in_flight!r} is not 1 or above")
        pipeline._patience = polling.deadline
        pipeline._index = Index(pipeline._save_to) if pipeline._save_to else None
        show = {"show": pipeline._news.show} if pipeline._news else {}
        pipeline._watcher = Watcher.of(sender, polling, memory, pipeline._deliver, **show)
        pipeline._slots = anyio.Semaphore(pipeline._in_flight)
        pipeline._to_consumer, pipeline._from_pipeline = anyio.create_memory_object_stream[Update | Outcome](
            0
        )
        return pipeline

    def statistics(self) -> StreamStatistics:
        """How it is doing now."""
        return StreamStatistics(
            taken_in=self._taken_in,
            submitted=self._submitted,
            delivered=self._delivered,
            unsent=self._unsent,
            watching=self._watcher.statistics(),
        )

    def unfinished(self) -> tuple[Task, ...]:
        """Paid tasks whose outcome has not been taken, or was that they are unfinished."""
        watched = {task.task_id: task for task in self._watcher.tasks()}
        return tuple((self.paid | watched).values())

    # --- Opening and closing --------------------------------------------------------------------------------

    @asynccontextmanager
    async def stream(self, requests: Requests) -> AsyncGenerator[Outcomes]:
        """Send requests and hand out their outcomes. Leaving the block leaves nothing running.

        Raises:
            ConfigurationError: files cannot be written to the folder.
        """
        with self._to_consumer, self._from_pipeline:
            if self._save_to is not None:
                await anyio.to_thread.run_sync(see_to_folder, self._save_to)
            async with self._running(lambda: self._send_all(requests), Outcomes) as outcomes:
                yield outcomes

    @asynccontextmanager
    async def watch(self, tasks: Mapping[Task, Request | None], handle: type[H]) -> AsyncGenerator[H]:
        """Hand out the outcomes of paid tasks."""
        now = anyio.current_time()
        if self._total is not None:
            self._ends_at = now + self._total
        for task, request in tasks.items():
            self.watch_task(task, request, now)
        del tasks  # they may be a hundred thousand
        async with self._running(self._watch_all, handle) as outcomes:
            yield outcomes

    @asynccontextmanager
    async def _running(
        self, run: Callable[[], Coroutine[Any, Any, None]], handle: type[H]
    ) -> AsyncGenerator[H]:
        with self._to_consumer, self._from_pipeline:
            async with task_group() as tasks:
                tasks.start_soon(run)
                if self._news is not None:
                    tasks.start_soon(self._tell, self._news)
                try:
                    yield handle(self)
                finally:
                    tasks.cancel_scope.cancel()

    async def next_item(self) -> Update | Outcome:
        """Wait for what comes next; raise what ended the stream early, or `StopAsyncIteration`."""
        self._asking += 1
        self._asked.set()
        try:
            return await self._from_pipeline.receive()
        except anyio.EndOfStream:
            failure, self._failure = self._failure, None
        except BaseException:
            self._asking -= 1
            raise
        if failure is None:
            raise StopAsyncIteration
        if isinstance(failure, NovitaError):
            failure.unsent = self._unsent
        raise failure

    async def _give(self, item: Update | Outcome) -> None:
        """Wait until the consumer has taken something."""
        await self._to_consumer.send(item)
        self._asking -= 1

    async def _tell(self, news: News) -> None:
        while True:
            await self._give(await news.next())

    # --- Input ----------------------------------------------------------------------------------------------

    async def _send_all(self, requests: Requests) -> None:
        with self._to_consumer:
            await self._book.begin(self._sender.pool, self._sender.spending)
            async with task_group() as self._tasks:
                self._tasks.start_soon(self._watcher.run)
                async with task_group() as sending:
                    await self._take_in(requests, sending)
                self._watcher.close()

    async def _watch_all(self) -> None:
        with self._to_consumer:
            async with task_group() as self._tasks:
                self._tasks.start_soon(self._watcher.run)
                while self._left or not self._asking:  # whoever has taken the last one may still add another
                    self._asked = anyio.Event()
                    await self._asked.wait()
                self._watcher.close()

    def watch_task(self, task: Task | str, request: Request | None = None, now: float | None = None) -> None:
        """Wait for a paid task."""
        known = Task(task_id=task) if isinstance(task, str) else task
        now = anyio.current_time() if now is None else now
        patience = self._patience if self._timeout is None else self._timeout
        self._left += self._watcher.add(known, request, min(patience, max(0.0, self._ends_at - now)), now)

    async def _take_in(self, requests: Requests, sending: TaskGroup) -> None:
        """Start sending requests as slots come free, until the input ends or is of no use any more."""
        with self._taking_in:
            try:
                await self._take_each(_iterator(requests), sending)
            except Exception as error:  # noqa: BLE001 - the user's code: its error goes to the user
                self._failure = self._failure or error

    async def _take_each(self, requests: AsyncIterator[Request], sending: TaskGroup) -> None:
        try:
            while True:
                await self._slots.acquire()
                try:
                    request = await anext(requests)
                except StopAsyncIteration:
                    return
                await self._take(request, sending)
        finally:
            await _close(requests)

    async def _take(self, request: Request, sending: TaskGroup) -> None:
        index, self._taken_in = self._taken_in, self._taken_in + 1
        self._sender.emit(Planned(index=index, image_num=getattr(request, "image_num", 1)))
        try:
            endpoint = self._checked(request)
            entry = await self._book.entry(request, endpoint, index)
        except NovitaError as error:
            sending.start_soon(self._end, Failed(request=request, error=error), Page())
        else:
            sending.start_soon(self._serve, request, endpoint, entry)

    # --- The way of one request -----------------------------------------------------------------------------

    async def _serve(self, request: Request, endpoint: str, entry: Entry) -> None:
        """See what is known of one request, and do the rest."""
        try:
            page = await self._book.page(entry)
        except JournalError as error:
            self._give_up(error)
        else:
            await self._go_on(request, endpoint, page)

    async def _go_on(self, request: Request, endpoint: str, page: Page) -> None:
        if page.outcome is not None:
            await self._hand_out(page.outcome)
        elif page.task is not None:
            self.paid[page.task.task_id] = page.task
            self._watch(page.task, request, page)
        else:
            await self._buy(request, endpoint, page)

    async def _buy(self, request: Request, endpoint: str, page: Page) -> None:
        purchase = _Purchase(self, page)
        try:
            task = await self._sender.submit(
                request,
                interactive=self._interactive,
                recorder=purchase,
                hold=self._sender.callbacks.hold,
            )
        except SubmissionUncertain as error:
            await self._end(Uncertain(request=request, error=error), page)
        except JournalError as error:
            self._give_up(error, unsent=purchase.task is None)
            if purchase.task is not None:  # paid, and not recorded: at least see its end
                self._watch(purchase.task, request, page)
        except NovitaError as error:
            if self._dooms_the_rest(error):
                self._give_up(error)
            else:
                await self._end(Failed(request=request, error=error), page)
        else:
            self._dead.discard(endpoint)
            self._watch(task, request, page)

    def _watch(self, task: Task, request: Request, page: Page) -> None:
        if task.task_id in self._pages:
            self._twins.setdefault(task.task_id, []).append((request, page))
            return
        self._pages[task.task_id] = page
        self._watcher.add(task, request)

    def bought(self, task: Task) -> None:
        """Note a task that was paid for, even where the stream is being left."""
        self.paid[task.task_id] = task
        self._submitted += 1

    def certain(self, error: SubmissionUncertain) -> None:
        """Note that a purchase of unknown end was found again, or that its outcome was taken."""
        self.uncertain = [other for other in self.uncertain if other is not error]

    def _checked(self, request: object) -> str:
        if not isinstance(request, Img2Img | Txt2Img | AnyTask):
            raise InvalidRequest(faults=(Fault("the input", f"{rules.shown(request)} is not a request"),))
        endpoint = self._sender.endpoints.path_of(request)
        self._endpoints.add(endpoint)
        return endpoint

    def _dooms_the_rest(self, error: NovitaError) -> bool:
        """Whether nothing more can be sent: no account is left, or no endpoint that this stream uses."""
        if error.scope == "endpoint":
            self._dead.add(getattr(error, "endpoint", ""))
            return self._endpoints <= self._dead
        return error.scope == "account"

    def _give_up(self, error: NovitaError, *, unsent: bool = True) -> None:
        """Send nothing more; raise this error when what is paid has come out."""
        self._failure = self._failure or error
        self._unsent += unsent
        self._taking_in.cancel()

    async def _end(self, outcome: Outcome, page: Page) -> None:
        """Hand out an end that came without a task."""
        self._sender.emit(Finished(outcome=outcome))
        await self._record(page.ended(outcome))
        await self._hand_out(outcome)

    async def _record(self, recording: Awaitable[None]) -> None:
        """Record an end. Where that fails the outcome still comes out, but nothing more is bought."""
        try:
            await recording
        except JournalError as error:
            self._give_up(error, unsent=False)

    async def _deliver(self, outcome: Outcome) -> None:
        """Take an outcome from the watcher, and give it to every request that this task stands for."""
        key = outcome.task_id or ""
        page, twins = self._pages.pop(key, None) or Page(), self._twins.pop(key, ())
        await self._pass_on(outcome, page)
        for request, its_page in twins:
            its_outcome = evolve(outcome, request=request)
            self._sender.emit(Finished(outcome=its_outcome))
            await self._pass_on(its_outcome, its_page)

    async def _pass_on(self, outcome: Outcome, page: Page) -> None:
        """Record an outcome and hand it out; files are fetched apart, so that polls need not wait."""
        await self._record(page.ended(outcome))
        if isinstance(outcome, Succeeded) and self._save_to is not None:
            self.paid[outcome.task_id] = outcome.task
            self._tasks.start_soon(self._save, outcome, self._save_to, page)
        else:
            await self._hand_out(outcome)

    async def _save(self, outcome: Succeeded, folder: Path, page: Page) -> None:
        try:
            paths = await self._saver.save(
                outcome.result,
                folder,
                self._naming(outcome, page),
                patience=self._patience,
                owned=page.owns_files,
            )
            await self._note(outcome, paths)
        except NovitaError as error:
            if error.scope == "account":  # a full disk: what is bought now could not be saved either
                self._give_up(error, unsent=False)
            await self._record(page.missed(error))
            await self._hand_out(Failed(request=outcome.request, task=outcome.task, error=error))
        else:
            await self._record(page.saved(paths))
            await self._hand_out(evolve(outcome, paths=paths))

    def _naming(self, outcome: Succeeded, page: Page) -> str | Naming | None:
        if isinstance(self._save_as, NameTemplate):
            return self._save_as.of(index=page.position, seed=outcome.result.seed, task_id=outcome.task_id)
        return self._save_as(outcome) if self._save_as else page.name_of(outcome)

    async def _note(self, outcome: Succeeded, paths: tuple[Path, ...]) -> None:
        """Add a result to the index of its folder."""
        request = outcome.request
        endpoint = "" if request is None else self._sender.endpoints.path_of(request)
        try:
            await cast("Index", self._index).add(outcome, paths, endpoint)
        except OSError as error:
            raise DownloadFailed(
                scope="account",
                url="",
                cause=f"its index cannot be written: {error.strerror or error}",
                task_id=outcome.task_id,
                account=outcome.task.account,
            ) from error

    async def _hand_out(self, outcome: Outcome) -> None:
        if self._news is not None:
            self._news.forget(outcome.task_id or "")
        await self._give(outcome)
        self._delivered += 1
        self._left -= 1
        self._asked.set()
        self._slots.release()
        if isinstance(outcome, Uncertain):
            self.certain(outcome.error)
        elif isinstance(outcome, Unfinished):
            self.paid[outcome.task_id] = outcome.task
        elif outcome.task_id is not None:
            self.paid.pop(outcome.task_id, None)
            if _end_was_seen(outcome):
                self._sender.unfinished.pop(outcome.task_id, None)


def _end_was_seen(outcome: Outcome) -> bool:
    """Whether nothing more can come of a task. One that could not be asked for, say with a wrong key, may be
    well, and is paid.
    """
    return not isinstance(outcome, Failed) or isinstance(outcome.error, _ENDS)


async def _iterator(requests: Requests) -> AsyncGenerator[Request]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request


async def _close(requests: AsyncIterator[Request]) -> None:
    with anyio.CancelScope(shield=True):
        await cast("AsyncGenerator[Request]", requests).aclose()
