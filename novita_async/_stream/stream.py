"""Many requests at once: taken in lazily, each brought to its outcome, handed out as they end.

    input -> slot (in_flight) -> purchase -> next action: SEND, WATCH, SAVE … -> outcome -> outlet

A request holds its slot from being taken in until the consumer has taken its outcome, so a slow consumer
slows the input. A request that cannot be served is one outcome. A cause that dooms all the rest (no account
can pay, no endpoint is left) stops the sending, lets what is paid come out, and is then raised once. Tasks of
earlier runs are watched first, from the journal alone, without a slot.

Where many processes work on one batch, its rows take the place of the input: `RowStream`.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

import anyio
from anyio.abc import TaskGroup
from attrs import define, evolve, field

from novita_async._files.storage import see_to
from novita_async._policy.polling.memory import PollMemory
from novita_async._policy.polling.schedule import Polling
from novita_async._purchase.machine import (
    SUBMITTED,
    Action,
    Order,
    Purchase,
    next_action,
)
from novita_async._stream.ahead import Requests
from novita_async._stream.handle import Outcomes, StreamStatistics, block, refuse_left
from novita_async._stream.intake import lines_of
from novita_async._stream.outlet import Outlet
from novita_async._stream.paid import Early, Paid
from novita_async._stream.resume import Resume
from novita_async._stream.saving import Destination
from novita_async._stream.way import Counts, Way, end_was_seen, outcome_of, words_of
from novita_async._submit.buyer import Buyer
from novita_async._util.scopes import background, resolve, task_group
from novita_async._watch.watcher import Watcher
from novita_async.errors import (
    ConfigurationError,
    Flaw,
    InvalidRequest,
    JournalError,
    NotPlanned,
    NovitaError,
    SubmissionUncertain,
)
from novita_async.events import Finished, Planned
from novita_async.models import _rules as rules
from novita_async.models.requests import NovitaRequest
from novita_async.models.results import Failed, Outcome, Succeeded, Uncertain, Unfinished, handed_out
from novita_async.tasks import Task

IN_FLIGHT: Final = 64

Item = tuple[Outcome, Purchase, bool]
"""An outcome, the purchase, and whether it holds a slot."""


@define(eq=False, repr=False)
class Stream:
    """A stream, from its input to its outcomes."""

    _buyer: Buyer
    _polling: Polling
    _memory: PollMemory
    _folder: Destination | None = None
    _resume: Resume | None = None
    """Where there is a journal."""
    _in_flight: int = IN_FLIGHT
    _interactive: bool = False
    _keep_in: Path | None = None
    """Where files go that come in an answer."""
    _watcher: Watcher = field(init=False)
    _way: Way = field(init=False)
    _outlet: Outlet[Item] = field(init=False)
    _slots: anyio.Semaphore = field(init=False)
    _tasks: TaskGroup = field(init=False)
    _taking_in: anyio.CancelScope = field(factory=anyio.CancelScope, init=False)
    _input_ended: bool = field(default=False, init=False)
    _is_left: bool = field(default=False, init=False)
    _open: dict[Purchase, None] = field(factory=dict, init=False)
    """Purchases whose outcome was not taken, or was that they are unfinished."""
    _paid: Paid = field(factory=Paid, init=False)
    _failure: BaseException | None = field(default=None, init=False)
    """The error that ended the stream early."""
    _counts: Counts = field(factory=Counts, init=False)

    def __attrs_post_init__(self) -> None:
        if self._in_flight < 1:
            raise ConfigurationError(problem=f"in_flight: {self._in_flight!r} is not 1 or above")
        self._watcher = Watcher.of(self._buyer, self._polling, self._memory)
        self._way = Way(
            self._buyer,
            self._watcher,
            self._folder,
            self._interactive,
            self._counts,
            self._stop,
            self._folder.folder if self._keep_in is None and self._folder is not None else self._keep_in,
        )
        self._outlet = Outlet(self._taken, lambda: self._input_ended)
        self._slots = anyio.Semaphore(self._in_flight)

    def statistics(self) -> StreamStatistics:
        """Count."""
        return StreamStatistics(
            taken_in=self._counts.taken_in,
            submitted=self._counts.submitted,
            delivered=self._counts.delivered,
            unsent=self._counts.unsent,
            watching=self._watcher.statistics(),
        )

    @property
    def unfinished(self) -> tuple[Task, ...]:
        """Paid tasks whose outcome has not been taken, or was that they are unfinished."""
        return tuple({p.task.task_id: p.task for p in self._open if p.task is not None}.values())

    @property
    def uncertain(self) -> tuple[SubmissionUncertain, ...]:
        """Doubts whose outcome has not been taken."""
        return tuple(
            p.doubt.of_request(p.tag)
            for p in self._open
            if p.doubt is not None and p.in_doubt and not p.reported
        )

    # --- Opening, handing out -------------------------------------------------------------------------------

    @block
    async def run(self, requests: Requests) -> AsyncGenerator[Outcomes]:
        """Bring requests to their outcomes. Leaving the block leaves nothing running.

        Raises:
            ConfigurationError: files cannot be put where they are to go.
        """
        self._buyer.at_home()
        if self._folder is not None:
            await see_to(self._folder.storage)
        async with background(self._work(requests), self._worked):
            try:
                yield Outcomes._on(self)  # noqa: SLF001 - not for users
            finally:
                self._is_left = True

    async def _work(self, requests: Requests) -> None:
        async with task_group() as self._tasks:
            self._tasks.start_soon(self._watcher.run)
            await self._take_in(requests)

    def _worked(self, error: BaseException | None) -> None:
        """The work has ended: what went wrong goes to the consumer."""
        self._failure = self._failure or error
        self._input_ended, self._outlet.pending = True, len(self._outlet.items)
        if self._resume is not None:
            self._resume.on_recovered = lambda _: None  # left to the next run
        self._outlet.notify()

    async def next_item(self) -> Outcome:
        """Wait for what comes next; raise what ended the stream early, or `StopAsyncIteration`."""
        if self._is_left:
            refuse_left()
        item = await self._outlet.take()
        if item is not None:
            return item[0]
        failure, self._failure = self._failure, None
        if failure is None:
            raise StopAsyncIteration
        if isinstance(failure, NovitaError):
            failure.unsent = self._counts.unsent
        raise failure

    def _taken(self, item: Item) -> None:
        """Note that the consumer has this outcome now, in this very step."""
        outcome, purchase, has_slot = item
        if isinstance(outcome, Succeeded):
            handed_out(outcome.result, self._buyer.files)
        self._counts.delivered += 1
        if has_slot:
            self._slots.release()
        if isinstance(outcome, Uncertain):  # an event may still find it
            self._buyer.purchases.report_doubt(purchase)
        elif not isinstance(outcome, Unfinished):
            self._open.pop(purchase, None)
            if end_was_seen(outcome):
                self._buyer.purchases.close(purchase)

    # --- Input ----------------------------------------------------------------------------------------------

    async def _take_in(self, requests: Requests) -> None:
        """Take requests in as slots come free, until the input ends or is of no use any more."""
        try:
            if self._resume is not None:
                await self._resume.check_hosts(self._buyer.pool, files=self._folder is not None)
                await self._resume.begin(self._buyer.pool, self._buyer.spending)
                self._resume.on_recovered = self._serve_early
                async for purchase in self._resume.paid(files=self._folder is not None):
                    self._serve_early(purchase)
            with self._taking_in:
                async with lines_of(requests, self._resume, self._counts, self._checked) as lines:
                    await self._slots.acquire()
                    async for line in lines:
                        await self._take(*line)
                        await self._next_slot(was_finished=line[2] is not None)
        except Exception as error:  # noqa: BLE001 - the user's code, or the journal: goes to the user
            self._failure = self._failure or error
        finally:
            self._input_ended = True
            self._hand_out_the_rest()

    async def _next_slot(self, *, was_finished: bool) -> None:
        """Wait for a slot. After a finished purchase a free one is taken without a turn of the loop."""
        if was_finished:
            with suppress(anyio.WouldBlock):
                return self._slots.acquire_nowait()
        return await self._slots.acquire()

    async def _take(self, request: NovitaRequest, order: Order | None, finished: Purchase | None) -> None:
        position, self._counts.taken_in = self._counts.taken_in, self._counts.taken_in + 1
        self._buyer.emit(Planned(position=position, images=getattr(request, "image_num", 1)))
        self._outlet.expect()
        try:
            endpoint = self._checked(request) if order is None else order.endpoint
            if self._resume is not None and order is None:
                order = await self._resume.describe(request, endpoint, position)
        except NovitaError as error:
            outcome = Failed(request=request, error=error)
            purchase = Purchase(None, position=position, tag=outcome.tag)
            self._buyer.emit(Finished(purchase=purchase.id, outcome=outcome))
            self._tasks.start_soon(self._outlet.fill, self._refused, outcome, purchase)
        except BaseException:  # no more is taken in
            self._outlet.drop()
            raise
        else:
            if finished is not None:
                self._outlet.offer((outcome_of(finished), finished, True))
            elif self._resume is None or order is None:
                purchase = Purchase(request, endpoint, request.image_num, position, request.tag)
                self._tasks.start_soon(self._outlet.fill, self._item, purchase, self._way.outcome_of)
            else:
                self._paid.planning += 1
                self._tasks.start_soon(self._outlet.fill, self._line, self._resume, request, order)

    async def _line(self, resume: Resume, request: NovitaRequest, order: Order) -> Item | None:
        """Find what the journal knows of a line, and go on from there."""
        try:
            purchase = await resume.plan(request, order)
            if resume.wants_again(purchase):
                await self._way.reopen(purchase)
        except NotPlanned as error:
            outcome = Failed(request=request, error=error)
            purchase = Purchase(None, position=order.position)
            self._buyer.emit(Finished(purchase=purchase.id, outcome=outcome))
            return outcome, purchase, True
        except JournalError as error:
            self._counts.unsent += 1
            self._stop(error)
            return None
        finally:
            self._paid.planning -= 1
        early = self._paid.join(purchase.entry)
        self._hand_out_the_rest()
        if early is None:
            return await self._item(purchase, self._way.outcome_of)
        return await self._item(purchase, self._late, early)

    async def _refused(self, outcome: Failed, purchase: Purchase) -> Item:
        """Item of a request that cannot be sent at all."""
        await self._way.add_to_index(outcome, purchase)
        return outcome, purchase, True

    def _checked(self, request: object) -> str:
        if not isinstance(request, NovitaRequest):
            raise InvalidRequest(faults=(Flaw("the input", f"{rules.shown(request)} is not a request"),))
        endpoint = self._buyer.endpoints.path_of(request)
        self._buyer.hosts_of(request)
        self._way.goes_to(endpoint)
        return endpoint

    # --- The way of one request -----------------------------------------------------------------------------

    async def _item(
        self, purchase: Purchase, way: Callable[..., Awaitable[Outcome | None]], *more: object
    ) -> Item | None:
        self._open[purchase] = None
        outcome = await way(purchase, *more)
        if outcome is None:
            self._open.pop(purchase, None)
            return None
        return outcome, purchase, True

    def _stop(self, error: NovitaError, purchase: Purchase | None = None) -> None:  # noqa: ARG002
        """Send nothing more; raise this error when what is paid has come out."""
        self._failure = self._failure or error
        self._taking_in.cancel()

    def watch_task(self, task: Task | str) -> None:
        """Wait for a paid task besides, without a slot."""
        if self._is_left:
            refuse_left()
        known = self._buyer.purchases.task_of(task)
        purchase = Purchase(None, known.endpoint or "", state=SUBMITTED, task=known)
        early = self._serve_early(purchase)
        self._outlet.expect()
        early.ask(self._deliver)

    # --- What earlier runs have paid for --------------------------------------------------------------------

    def _serve_early(self, purchase: Purchase) -> Early:
        """Watch a paid purchase, as a record of the watcher: a task of its own is made once it has ended.

        Its line may come yet, or never: where the input has ended, its outcome is handed out without.
        """
        early = self._paid.add(purchase)
        self._open[purchase] = None
        purchase.wants_files = self._folder is not None
        if purchase.task is None:  # its files came at once, and are to be saved
            self._tasks.start_soon(self._finish_early, early)
        else:
            self._watcher.add(
                purchase.paid_task,
                deliver=lambda outcome: self._tasks.start_soon(self._end_early, early, outcome),
                purchase=purchase.id,
            )
        self._hand_out_the_rest()
        return early

    async def _end_early(self, early: Early, outcome: Outcome) -> None:
        """Record the end of a paid purchase, and save its files."""
        known = await self._way.note_end(early.purchase, outcome)
        if known is None:
            await self._finish_early(early)
        else:
            early.end(known)

    async def _finish_early(self, early: Early) -> None:
        early.end(cast("Outcome", await self._way.outcome_of(early.purchase)))

    async def _late(self, purchase: Purchase, early: Early) -> Outcome | None:
        """The outcome of a purchase that was taken up before its line came."""
        known: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        early.ask(lambda ended: resolve(known, cast("Outcome", ended.outcome)))
        outcome = await known
        if isinstance(outcome, Succeeded) and next_action(purchase) is Action.SAVE:
            return await self._way.outcome_of(purchase)  # named by a function that looks at the request
        return evolve(outcome, **words_of(purchase))

    def _hand_out_the_rest(self) -> None:
        """Let paid purchases come out whose line is not in the input."""
        if self._input_ended:
            for early in self._paid.without_line():
                self._outlet.expect()
                early.ask(self._deliver)
        self._outlet.notify()

    def _deliver(self, early: Early) -> None:
        """Hand out the outcome of a purchase whose line can no longer come; its files may be missing."""
        outcome, purchase = cast("Outcome", early.outcome), early.purchase
        if isinstance(outcome, Succeeded) and next_action(purchase) is Action.SAVE:
            self._tasks.start_soon(self._outlet.fill, self._saved, purchase)
        else:
            self._outlet.offer((outcome, purchase, False))

    async def _saved(self, purchase: Purchase) -> Item:
        return await self._way.save(purchase) or outcome_of(purchase), purchase, False
