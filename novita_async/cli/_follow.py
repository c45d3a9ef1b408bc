"""Follows a stream or a watch to its end, whichever end that is."""

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, suppress
from decimal import Decimal

import anyio
from attrs import define, evolve, field

from novita_async._client import DRAIN
from novita_async._policy.spending import SpendingStatistics
from novita_async._stream.handle import Outcomes
from novita_async._util.clock import loop_time
from novita_async.cli._exits import Exit, gravest, of_error, of_outcome
from novita_async.cli._output import Output, described, error_record, watch_again
from novita_async.cli._progress import Display, ProgressTally
from novita_async.cli._report_summary import money
from novita_async.cli._terminal import LinePart
from novita_async.errors import NovitaError
from novita_async.events import Bought, Event, Transition
from novita_async.models.requests import NovitaRequest
from novita_async.models.results import Outcome, Succeeded
from novita_async.tasks import Task


def name_of(request: NovitaRequest | None) -> str | None:
    """Name a request as the user knows it: by its picture's file name."""
    path = request.pictures[0].path if request and request.pictures else None
    return None if path is None else str(path)


@define(eq=False)
class FollowReport:
    """Tells what happens, and knows at the end how it went."""

    output: Output
    display: Display
    tally: ProgressTally
    folder: str | None = None
    """Where files go; part of the advice how to fetch the rest."""
    price: Decimal | None = field(default=None, kw_only=True)
    """Dollars an image. None: not known."""
    spending: Callable[[], SpendingStatistics | None] = field(default=lambda: None, kw_only=True)
    """How the budget is doing. None: there is none."""
    _is_waiting: bool = field(default=False, init=False)
    _codes: set[Exit] = field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self.display.view = self

    def __call__(self, event: Event) -> None:
        """Observe."""
        self.tally(event)
        if isinstance(event, Transition) and isinstance(event.fact, Bought):
            self.output.submitted(event.fact.task, event.tag)

    def took(self, outcome: Outcome) -> None:
        """Tell one outcome."""
        self.tally.took(outcome)
        self._codes.add(of_outcome(outcome))
        name = name_of(outcome.request)
        label = outcome.tag or name or outcome.task_id or "request"
        self.output.outcome(outcome, name)
        self.display.advance(
            self.tally.statistics(),
            f"{label}: {described(outcome)}",
            good=isinstance(outcome, Succeeded),
        )

    def parts(self) -> list[LinePart]:
        """The line on a terminal."""
        waits, status, now = self.tally.waits, self.tally.status(), loop_time()
        if waits.is_silent(now):  # nobody knows how long that will last
            status = evolve(status, seconds_left=None)
        return list(status.parts(waits.parts(now), waits.tasks(), self.spent()))

    def lines(self, *, due: bool) -> str:
        """Tell a log of a wait when it begins, and now and then while it lasts."""
        waiting = self.tally.waits.sentence(loop_time())
        news, self._is_waiting = bool(waiting) and (due or not self._is_waiting), bool(waiting)
        return waiting if news else ""

    def spent(self) -> str:
        """Say how much is spent, in dollars; empty where nobody knows."""
        spending = self.spending()
        if spending is not None:
            return f"{money(spending.spent)} of {money(spending.limit)}"
        return "" if self.price is None else money(self.tally.spent(self.price))

    def ended_by(self, error: NovitaError | OSError) -> None:
        """Tell what ended everything early."""
        self._codes.add(of_error(error))
        left = max(0, self.tally.requests - self.tally.statistics().ended)
        self.display.note(
            f"error: {error}" + (f" (not sent: {left} of {self.tally.requests})" if left else "")
        )
        self.output.record(event="stopped", not_sent=left, **error_record(error))

    def interrupted(self, code: Exit) -> None:
        """Tell, once, that nothing more is sent."""
        if not self._codes & {Exit.INTERRUPTED, Exit.TERMINATED}:
            self._codes.add(code)
            wait = f"waiting up to {DRAIN:g} s for the answers to what was sent"
            self.display.note(f"interrupted: nothing more is sent; {wait}")

    def left_behind(self, outcomes: Outcomes) -> None:
        """Tell what was paid for and not seen finished, and how to have it."""
        self.tally.left_behind(unfinished=len(outcomes.unfinished), uncertain=len(outcomes.uncertain))
        tasks = outcomes.unfinished
        if tasks:
            self.display.note(f"paid and not seen finished: {len(tasks)}. To fetch: {self.again(tasks)}")
            self.output.record(event="unfinished", task_ids=[task.task_id for task in tasks])
        for error in outcomes.uncertain:
            self._codes.add(Exit.UNCERTAIN)
            self.display.note(f"uncertain: {error}")
            self.output.record(event="outcome", outcome="uncertain", task_id=None, **error_record(error))

    def again(self, tasks: tuple[Task, ...]) -> str:
        """The command that fetches what is paid."""
        return watch_again(tasks, self.folder)

    def summary(self) -> None:
        """Tell the totals."""
        totals = self.tally.statistics()
        self.display.note(totals.sentence())
        self.output.record(event="summary", **totals.as_record(), exit_code=self.exit_code())

    def exit_code(self) -> Exit:
        """The code for all that happened."""
        return gravest(self._codes)


async def follow(stream: AbstractAsyncContextManager[Outcomes], report: FollowReport) -> Exit:
    """Tell every outcome; however it ends, say what is paid and not here."""
    async with AsyncExitStack() as stack:
        stack.enter_context(_cancelled_when_terminated(report))
        stack.callback(report.summary)
        with report.display:
            try:
                async with stream as outcomes:
                    stack.callback(report.left_behind, outcomes)
                    await _take_all(outcomes, report)
            except (NovitaError, OSError) as error:
                report.ended_by(error)
    return report.exit_code()


async def _take_all(outcomes: Outcomes, report: FollowReport) -> None:
    try:
        async for outcome in outcomes:
            report.took(outcome)
    except anyio.get_cancelled_exc_class():
        report.interrupted(Exit.INTERRUPTED)
        raise


@contextmanager
def _cancelled_when_terminated(report: FollowReport) -> Generator[None]:
    """Let SIGTERM do what Ctrl-C does: what is paid for must be told before the process ends."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def cancel() -> None:
        report.interrupted(Exit.TERMINATED)
        if task is not None:
            task.cancel()

    unable = (NotImplementedError, ValueError, RuntimeError)  # no such signal here, or not the main thread
    with suppress(*unable):
        loop.add_signal_handler(signal.SIGTERM, cancel)
    try:
        yield
    finally:
        with suppress(*unable):  # uvloop leaves it there when it closes
            loop.remove_signal_handler(signal.SIGTERM)
