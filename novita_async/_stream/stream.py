"""Many requests at once: taken in lazily, each brought to its outcome, handed out as they end.

    input -> slot (in_flight) -> Purchase -> next_action: SEND, WATCH, SAVE ... -> outcome -> outlet

A request holds its slot from being taken in until the consumer has taken its outcome, so a slow consumer
slows the input. A request that cannot be served is one outcome. What dooms all the rest (no account can pay,
no endpoint is left) stops the sending, lets what is paid come out, and is then raised once.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final, cast

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from attrs import define, evolve, field

from novita_async._files.folders import see_to_folder
from novita_async._journal.ledger import Wanted
from novita_async._policy.polling import Polling, PollMemory
from novita_async._purchase.machine import (
    Action,
    Completed,
    Fact,
    FailedForGood,
    NotSaved,
    Purchase,
    Saved,
    State,
    next_action,
)
from novita_async._stream.handle import Outcomes, StreamStatistics
from novita_async._stream.outlet import Outlet
from novita_async._stream.resume import Resume
from novita_async._stream.saving import Folder
from novita_async._submit.buyer import Buyer
from novita_async._util.clock import loop_time
from novita_async._util.scopes import task_group
from novita_async._watch.watcher import Watcher
from novita_async.errors import (
    ConfigurationError,
    Fault,
    InvalidRequest,
    JournalError,
    NovitaError,
    ResultError,
    SubmissionUncertain,
    TaskFailed,
    TaskNotFound,
)
from novita_async.events import Finished, Planned
from novita_async.models import _rules as rules
from novita_async.models.requests import AnyTask, Img2Img, Request, Txt2Img
from novita_async.models.results import Failed, ImageResult, Outcome, Succeeded, Uncertain, Unfinished
from novita_async.tasks import Task

IN_FLIGHT: Final = 64
_ENDS: Final = (TaskFailed, TaskNotFound, ResultError)

Requests = Iterable[Request] | AsyncIterable[Request]
"""Any iterable or async iterable of requests, endless ones included."""

Item = tuple[Outcome, Purchase, bool]
"""An outcome, what it is of, and whether it holds a slot."""


@define(eq=False, repr=False)
class Stream:
    """One stream, from its input to its outcomes."""

    _buyer: Buyer
    _polling: Polling
    _memory: PollMemory
    _folder: Folder | None = None
    _resume: Resume | None = None
    """Where there is a journal."""
    _in_flight: int = IN_FLIGHT
    _interactive: bool = False
    _watcher: Watcher = field(init=False)
    _outlet: Outlet[Item] = field(init=False)
    _slots: anyio.Semaphore = field(init=False)
    _tasks: TaskGroup = field(init=False)
    _taking_in: anyio.CancelScope = field(factory=anyio.CancelScope, init=False)
    _input_ended: bool = field(default=False, init=False)
    _serving: dict[Purchase, None] = field(factory=dict, init=False)
    """Taken in, and the outcome was not taken, or was that it is unfinished."""
    _planning: int = field(default=0, init=False)
    """Lines of the input that are being looked up in the journal."""
    _pending: int = field(default=0, init=False)
    """Outcomes that are still to be taken."""
    _ends: "dict[str, list[asyncio.Future[Outcome]]]" = field(factory=dict, init=False)
    """Who waits for the end of which task. More than one where the service answered with one id twice."""
    _early: "dict[Purchase, asyncio.Future[Outcome | None]]" = field(factory=dict, init=False)
    """Paid in an earlier run, and taken up before its line of the input came."""
    _failure: BaseException | None = field(default=None, init=False)
    _endpoints: set[str] = field(factory=set, init=False)
    """Endpoints that this stream sends to."""
    _dead: set[str] = field(factory=set, init=False)
    """Those of them that are not served."""
    _taken_in: int = field(default=0, init=False)
    _delivered: int = field(default=0, init=False)
    _unsent: int = field(default=0, init=False)
    _submitted: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        if self._in_flight < 1:
            raise ConfigurationError(problem=f"in_flight: {self._in_flight!r} is not 1 or above")
        self._watcher = Watcher.of(self._buyer, self._polling, self._memory, self._ended)
        self._outlet = Outlet(self._taken, self._is_over)
        self._slots = anyio.Semaphore(self._in_flight)

    def statistics(self) -> StreamStatistics:
        """How it is doing now."""
        return StreamStatistics(
            taken_in=self._taken_in,
            submitted=self._submitted,
            delivered=self._delivered,
            unsent=self._unsent,
            watching=self._watcher.statistics(),
        )

    @property
    def unfinished(self) -> tuple[Task, ...]:
        """Paid tasks whose outcome has not been taken, or was that they are unfinished."""
        return tuple({p.task.task_id: p.task for p in self._serving if p.task is not None}.values())

    @property
    def uncertain(self) -> tuple[SubmissionUncertain, ...]:
        """Purchases whose end nobody knows, and whose outcome has not been taken."""
        return tuple(p.doubt for p in self._serving if p.doubt is not None and p.in_doubt and not p.told)

    # --- Opening, handing out -------------------------------------------------------------------------------

    @asynccontextmanager
    async def run(self, requests: Requests) -> AsyncGenerator[Outcomes]:
        """Bring requests to their outcomes. Leaving the block leaves nothing running.

        Raises:
            ConfigurationError: files cannot be written to the folder.
        """
        if self._folder is not None:
            await anyio.to_thread.run_sync(see_to_folder, self._folder.path)
        async with task_group() as self._tasks:
            self._tasks.start_soon(self._watcher.run)
            self._tasks.start_soon(self._take_in, requests)
            try:
                yield Outcomes(self)
            finally:
                self._tasks.cancel_scope.cancel()

    async def next_item(self) -> Outcome:
        """Wait for what comes next; raise what ended the stream early, or `StopAsyncIteration`."""
        item = await self._outlet.take()
        if item is not None:
            return item[0]
        failure, self._failure = self._failure, None
        if failure is None:
            raise StopAsyncIteration
        if isinstance(failure, NovitaError):
            failure.unsent = self._unsent
        raise failure

    def _is_over(self) -> bool:
        return self._input_ended and not self._pending

    def _taken(self, item: Item) -> None:
        """The consumer has this outcome now, in this very step."""
        outcome, purchase, has_slot = item
        self._delivered += 1
        self._pending -= 1
        if has_slot:
            self._slots.release()
        if isinstance(outcome, Uncertain):  # an event may still find it
            self._buyer.purchases.tell_doubt(purchase)
        elif not isinstance(outcome, Unfinished):
            self._serving.pop(purchase, None)
            if end_was_seen(outcome):
                self._buyer.purchases.close(purchase)

    # --- Input ----------------------------------------------------------------------------------------------

    async def _take_in(self, requests: Requests) -> None:
        """Take requests in as slots come free, until the input ends or is of no use any more."""
        try:
            if self._resume is not None:
                await self._resume.begin(self._buyer.pool, self._buyer.spending)
                async for purchase in self._resume.paid():
                    early = self._early[purchase] = asyncio.get_running_loop().create_future()
                    self._tasks.start_soon(self._serve_early, purchase, early)
            with self._taking_in:
                await self._take_each(_iterator(requests))
        except Exception as error:  # noqa: BLE001 - the user's code, or the journal: goes to the user
            self._failure = self._failure or error
        finally:
            self._input_ended = True
            self._hand_out_what_nobody_asked_for()
            self._outlet.notify()

    async def _take_each(self, requests: AsyncIterator[Request]) -> None:
        try:
            while True:
                await self._slots.acquire()
                try:
                    request = await anext(requests)
                except StopAsyncIteration:
                    return
                await self._take(request)
        finally:
            with anyio.CancelScope(shield=True):
                await cast("AsyncGenerator[Request]", requests).aclose()

    async def _take(self, request: Request) -> None:
        index, self._taken_in, self._pending = self._taken_in, self._taken_in + 1, self._pending + 1
        self._buyer.emit(Planned(index=index, image_num=getattr(request, "image_num", 1)))
        try:
            endpoint = self._checked(request)
            wanted = await self._resume.describe(request, endpoint, index) if self._resume else None
        except NovitaError as error:
            purchase = Purchase(None, position=index)
            self._offer(Failed(request=request, error=error), purchase, emit=True)
            return
        except BaseException:  # no more is taken in
            self._drop()
            raise
        if self._resume is None or wanted is None:
            self._tasks.start_soon(self._serve, Purchase(request, endpoint, request.image_num, index))
        else:
            self._planning += 1
            self._tasks.start_soon(self._serve_line, self._resume, request, wanted)

    async def _serve_line(self, resume: Resume, request: Request, wanted: Wanted) -> None:
        try:
            purchase = await resume.plan(request, wanted)
        except JournalError as error:
            self._give_up(error)
            self._drop()
            return
        finally:
            self._planning -= 1
        early = self._early.pop(purchase, None)
        self._hand_out_what_nobody_asked_for()
        await self._serve(purchase, early)

    def _checked(self, request: object) -> str:
        if not isinstance(request, Img2Img | Txt2Img | AnyTask):
            raise InvalidRequest(faults=(Fault("the input", f"{rules.shown(request)} is not a request"),))
        endpoint = self._buyer.endpoints.path_of(request)
        self._endpoints.add(endpoint)
        return endpoint

    # --- The way of one request -----------------------------------------------------------------------------

    async def _serve(self, purchase: Purchase, early: "asyncio.Future[Outcome | None] | None" = None) -> None:
        """Bring a request from where it stands to its outcome, and lay that ready."""
        self._serving[purchase] = None
        outcome = await (self._outcome_of(purchase) if early is None else self._late(purchase, early))
        if outcome is None:
            self._serving.pop(purchase, None)
            self._drop()
        else:
            self._offer(outcome, purchase)

    async def _outcome_of(self, purchase: Purchase) -> Outcome | None:
        """Do what the purchase asks for, until there is nothing more to do. None: it cannot be sent."""
        while True:
            match next_action(purchase):
                case Action.SEND:
                    if not await self._buy(purchase):
                        return None
                case Action.WATCH:
                    outcome = await self._watch(purchase)
                    if outcome is not None:
                        return outcome
                case Action.SAVE:
                    outcome = await self._save(purchase)
                    if outcome is not None:
                        return outcome
                case _:
                    return _outcome(purchase)

    async def _buy(self, purchase: Purchase) -> bool:
        """Returns whether there is something to go on with."""
        hold = self._buyer.callbacks.hold
        try:
            await self._buyer.buy(
                purchase, interactive=self._interactive, hold=hold, patient=self._resume is not None
            )
        except SubmissionUncertain:
            self._buyer.emit(Finished(outcome=_outcome(purchase)))
        except JournalError as error:
            self._give_up(error, unsent=purchase.task is None)
            return purchase.task is not None  # paid, and not recorded: at least see its end
        except NovitaError as error:
            if self._dooms_the_rest(error):
                self._give_up(error)
                return False
            await self._record(purchase, FailedForGood(loop_time(), error))
            self._buyer.emit(Finished(outcome=_outcome(purchase)))
        else:
            self._dead.discard(purchase.endpoint)
        finally:
            self._submitted += purchase.task is not None
        return True

    async def _watch(self, purchase: Purchase) -> Outcome | None:
        """Returns an outcome where the task has no end, as far as we see."""
        outcome = await self._end_of(purchase.paid_task, purchase.request)
        if isinstance(outcome, Succeeded):
            await self._record(purchase, Completed(loop_time(), outcome.result))
        elif isinstance(outcome, Failed) and _is_over(purchase, outcome.error):
            await self._record(purchase, FailedForGood(loop_time(), outcome.error))
        else:
            return outcome
        return None

    async def _save(self, purchase: Purchase) -> Outcome | None:
        """Returns an outcome where nothing is to be saved, or cannot be."""
        if purchase.result is None:  # of an earlier run: ask for URLs that work
            outcome = await self._end_of(purchase.paid_task, purchase.request)
            if isinstance(outcome, Failed):
                await self._record(purchase, NotSaved(loop_time(), outcome.error))
            if not isinstance(outcome, Succeeded):
                return outcome
            await self._record(purchase, Completed(loop_time(), outcome.result))
        done = cast("Succeeded", _outcome(purchase))
        if self._folder is None or (purchase.request is None and self._folder.needs_request):
            return done
        try:
            paths = await self._folder.save(done, purchase.position, owned=purchase.journal is not None)
        except NovitaError as error:
            if error.scope == "account":  # a full disk: what is bought now could not be saved either
                self._give_up(error, unsent=False)
            await self._record(purchase, NotSaved(loop_time(), error))
            return Failed(request=purchase.request, task=purchase.task, error=error)
        await self._record(purchase, Saved(loop_time(), paths))
        return None

    async def _record(self, purchase: Purchase, fact: Fact) -> None:
        """Record an end. Where that fails the outcome still comes out, but nothing more is bought."""
        try:
            await self._buyer.purchases.record(purchase, fact)
        except JournalError as error:
            self._give_up(error, unsent=False)

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

    def _drop(self) -> None:
        """There will be no outcome."""
        self._pending -= 1
        self._outlet.notify()

    def _offer(self, outcome: Outcome, purchase: Purchase, *, slot: bool = True, emit: bool = False) -> None:
        if emit:
            self._buyer.emit(Finished(outcome=outcome))
        self._outlet.offer((outcome, purchase, slot))

    # --- Tasks ----------------------------------------------------------------------------------------------

    async def _end_of(self, task: Task, request: Request | None) -> Outcome:
        """Wait until the end of a task is seen, or given up."""
        end: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        waiting = self._ends.setdefault(task.task_id, [])
        waiting.append(end)
        if len(waiting) == 1:
            self._watcher.add(task, request)
            return await end
        outcome = evolve(await end, request=request)
        self._buyer.emit(Finished(outcome=outcome))
        return outcome

    async def _ended(self, outcome: Outcome) -> None:
        for end in self._ends.pop(outcome.task_id or "", ()):
            if not end.done():
                end.set_result(outcome)

    def watch_task(self, task: Task | str) -> None:
        """Wait for a paid task besides, without a slot."""
        known = Task(task_id=task) if isinstance(task, str) else task
        self._pending += 1
        self._tasks.start_soon(self._serve_task, known)

    async def _serve_task(self, task: Task) -> None:
        purchase = Purchase(None, task.endpoint or "")
        purchase.task, purchase.state = task, State.SUBMITTED
        self._serving[purchase] = None
        outcome = await self._outcome_of(purchase)
        self._offer(cast("Outcome", outcome), purchase, slot=False)

    async def _serve_early(self, purchase: Purchase, early: "asyncio.Future[Outcome | None]") -> None:
        """See the end of what an earlier run has paid for, before its line of the input comes, or without."""
        self._serving[purchase] = None
        early.set_result(await self._outcome_of(purchase))

    async def _late(self, purchase: Purchase, early: "asyncio.Future[Outcome | None]") -> Outcome | None:
        """The outcome of what was begun before its line came, or has no line."""
        outcome = await early
        if isinstance(outcome, Succeeded) and not outcome.paths:  # perhaps it could not be named
            return await self._outcome_of(purchase)
        return outcome and evolve(outcome, request=purchase.request)

    def _hand_out_what_nobody_asked_for(self) -> None:
        """What is paid comes out, though its line is not in the input."""
        if not self._input_ended or self._planning:
            return
        early, self._early = self._early, {}
        for purchase, end in early.items():
            self._pending += 1
            self._tasks.start_soon(self._serve_unasked, purchase, end)

    async def _serve_unasked(self, purchase: Purchase, early: "asyncio.Future[Outcome | None]") -> None:
        outcome = await self._late(purchase, early)
        self._offer(cast("Outcome", outcome), purchase, slot=False)


def _outcome(purchase: Purchase) -> Outcome:
    """What became of a purchase to which nothing more will happen."""
    if purchase.state is State.UNCERTAIN:
        return Uncertain(request=purchase.request, error=cast("SubmissionUncertain", purchase.doubt))
    if purchase.state is State.FAILED:
        return Failed(request=purchase.request, task=purchase.task, error=cast("NovitaError", purchase.error))
    result = cast("ImageResult", purchase.result)
    return Succeeded(result=result, request=purchase.request, paths=purchase.paths)


def _is_over(purchase: Purchase, error: NovitaError) -> bool:
    """Whether nothing more can come of it. A paid task that could not be asked for (a wrong key, a key of
    another account, a route that is gone) may be well: the next run asks again.
    """
    if isinstance(error, TaskFailed):
        return True
    return isinstance(error, TaskNotFound) and error.account == purchase.account


def end_was_seen(outcome: Outcome) -> bool:
    """Whether nothing more can come of a task. One that could not be polled may be well, and is paid."""
    if isinstance(outcome, Unfinished):
        return False
    return not isinstance(outcome, Failed) or outcome.task is None or isinstance(outcome.error, _ENDS)


async def _iterator(requests: Requests) -> AsyncGenerator[Request]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
