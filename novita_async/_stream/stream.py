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
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVarTuple, Unpack, cast

import anyio
from attrs import define, evolve, field

from novita_async._files.storage import see_to
from novita_async._policy.polling.memory import PollMemory
from novita_async._policy.polling.schedule import Polling
from novita_async._purchase.machine import SAVE, SUBMITTED, Order, Purchase, next_action
from novita_async._stream.ahead import Requests
from novita_async._stream.handle import Outcomes, StreamStatistics, block, refuse_left
from novita_async._stream.intake import lines_of
from novita_async._stream.outlet import Outlet
from novita_async._stream.saving import Destination
from novita_async._stream.way import Counts, Way, end_was_seen, is_watched, outcome_of, words_of
from novita_async._submit.buyer import Buyer
from novita_async._util.scopes import background, light_task_group, start_in
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

if TYPE_CHECKING:
    from novita_async._stream.resume import Resume

Ts = TypeVarTuple("Ts")

IN_FLIGHT: Final = 64

Item = tuple[Outcome, Purchase]


@define(eq=False, repr=False)
class Stream:
    """A stream, from its input to its outcomes."""

    _buyer: Buyer
    _polling: Polling
    _memory: PollMemory
    _folder: Destination | None = None
    _resume: "Resume | None" = None
    """Where there is a journal."""
    _in_flight: int = IN_FLIGHT
    _interactive: bool = False
    _keep_in: Path | None = None
    """Where files go that come in an answer."""
    _watcher: Watcher = field(init=False)
    _way: Way = field(init=False)
    _outlet: Outlet[Item] = field(init=False)
    _slots: anyio.Semaphore = field(init=False)
    _tasks: asyncio.TaskGroup = field(init=False)
    _taking_in: anyio.CancelScope = field(factory=anyio.CancelScope, init=False)
    _input_ended: bool = field(default=False, init=False)
    _is_left: bool = field(default=False, init=False)
    _open: dict[Purchase, bool] = field(factory=dict, init=False)
    """Purchases whose outcome was not taken, or was that they are unfinished; whether each holds a slot."""
    _early: dict[Purchase, Outcome | None] = field(factory=dict, init=False)
    """Purchases of earlier runs whose line of the input has not come; their outcomes, once known."""
    _planning: int = field(default=0, init=False)
    """Lines of the input that are being looked up in the journal, and may be of such purchases."""
    _failure: BaseException | None = field(default=None, init=False)
    """The error that ended the stream early."""
    _counts: Counts = field(factory=Counts, init=False)

    def __attrs_post_init__(self) -> None:
        if self._in_flight < 1:
            raise ConfigurationError(problem=f"in_flight: {self._in_flight!r} is not 1 or above")
        self._watcher = Watcher.of(self._buyer, self._polling, self._memory, self._ended)
        self._way = Way(
            self._buyer,
            self._folder,
            self._interactive,
            self._counts,
            self._stop,
            self._early.__contains__,
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
        async with light_task_group() as self._tasks:
            self._tasks.create_task(self._watcher.run())
            # A task as all others: leaving stops the sending at once, and not once the input is closed.
            self._tasks.create_task(self._take_in(requests))

    def _start(self, work: Callable[[Unpack[Ts]], Awaitable[None]], *arguments: *Ts) -> None:
        """Start work of which an expected outcome comes."""
        start_in(self._tasks, self._outlet.fill(work, *arguments))

    def _worked(self, error: BaseException | None) -> None:
        """The work has ended: an error goes to the consumer."""
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
        outcome, purchase = item
        if isinstance(outcome, Succeeded):
            handed_out(outcome.result, self._buyer.files)
        self._counts.delivered += 1
        if self._open.get(purchase, True):
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
        """Wait for a slot; with a free one for a turn of the loop, unless the line before was finished."""
        try:
            self._slots.acquire_nowait()
        except anyio.WouldBlock:
            await self._slots.acquire()
        else:
            if not was_finished:
                await asyncio.sleep(0)

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
            self._start(self._refuse, purchase, outcome)
        except BaseException:  # no more is taken in
            self._outlet.drop()
            raise
        else:
            if finished is not None:
                self._outlet.offer((outcome_of(finished), finished))
            elif self._resume is None or order is None:
                purchase = Purchase(request, endpoint, request.image_num, position, request.tag)
                self._open[purchase] = True
                self._start(self._lead, purchase)
            else:
                self._planning += 1
                self._start(self._line, self._resume, request, order)

    async def _line(self, resume: "Resume", request: NovitaRequest, order: Order) -> None:
        """Find what the journal knows of a line, and go on from there."""
        try:
            purchase = await resume.plan(request, order)
            if purchase not in self._early and resume.wants_again(purchase):  # failed before this run
                await self._way.reopen(purchase)
        except NotPlanned as error:
            outcome = Failed(request=request, error=error)
            purchase = Purchase(None, position=order.position)
            self._buyer.emit(Finished(purchase=purchase.id, outcome=outcome))
            self._outlet.offer((outcome, purchase))
            return
        except JournalError as error:
            self._counts.unsent += 1
            self._stop(error)
            self._outlet.drop()
            return
        finally:
            self._planning -= 1
        is_led = purchase in self._early
        self._open[purchase] = True
        if is_led:
            self._let_out(purchase)
        self._hand_out_the_rest()
        if not is_led:
            await self._lead(purchase)

    async def _refuse(self, purchase: Purchase, outcome: Failed) -> None:
        """Hand out that a request cannot be sent at all."""
        await self._way.add_to_index(outcome, purchase)
        self._outlet.offer((outcome, purchase))

    def _checked(self, request: object) -> str:
        if not isinstance(request, NovitaRequest):
            raise InvalidRequest(faults=(Flaw("the input", f"{rules.shown(request)} is not a request"),))
        endpoint = self._buyer.endpoints.path_of(request)
        self._buyer.hosts_of(request)
        self._way.goes_to(endpoint)
        return endpoint

    # --- The way of one request -----------------------------------------------------------------------------

    async def _lead(self, purchase: Purchase, ended: Outcome | None = None) -> None:
        """Lead a purchase to its outcome, or to the watcher, which has it led on once its task has ended."""
        outcome = await self._way.outcome_of(purchase, ended)
        if outcome is None and is_watched(purchase):
            self._watcher.add(purchase.paid_task, purchase=purchase)
        else:
            await self._end(purchase, outcome)

    def _ended(self, outcome: Outcome, watched: Purchase | None) -> None:
        purchase = cast("Purchase", watched)
        self._buyer.emit(Finished(purchase=purchase.id, outcome=outcome))
        self._start(self._lead, purchase, outcome)

    async def _end(self, purchase: Purchase, outcome: Outcome | None) -> None:
        """Hand out the outcome of a purchase, or keep it until its line comes. None: not to be sent."""
        if outcome is None:
            del self._open[purchase]
            self._outlet.drop()
        elif purchase in self._early:
            self._early[purchase] = outcome
        else:
            self._offer(purchase, outcome)

    def _offer(self, purchase: Purchase, outcome: Outcome) -> None:
        if outcome.request is not purchase.request:  # its line came afterwards
            outcome = evolve(outcome, **words_of(purchase))
        self._outlet.offer((outcome, purchase))

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
        self._open[purchase] = False
        self._outlet.expect()
        self._watcher.add(known, purchase=purchase)

    # --- What earlier runs have paid for --------------------------------------------------------------------

    def _serve_early(self, purchase: Purchase) -> None:
        """Take up a paid purchase before its line has come.

        Its outcome carries the request then. Where the input has ended, its outcome comes without.
        """
        self._open[purchase], self._early[purchase] = False, None
        if is_watched(purchase):  # a record of the watcher, and no task of its own
            self._watcher.add(purchase.paid_task, purchase=purchase)
        else:
            self._start(self._lead, purchase)
        self._hand_out_the_rest()

    def _hand_out_the_rest(self) -> None:
        """Let paid purchases come out whose line can no longer come."""
        while self._input_ended and self._early and not self._planning:
            self._outlet.expect()
            self._let_out(next(reversed(self._early)))
        self._outlet.notify()

    def _let_out(self, purchase: Purchase) -> None:
        """Let the outcome of a paid purchase come out, now or once it is known."""
        outcome = self._early.pop(purchase)
        if isinstance(outcome, Succeeded) and next_action(purchase) is SAVE:
            self._start(self._lead, purchase)  # named by a function that may look at the request
        elif outcome is not None:
            self._offer(purchase, outcome)
