"""The one poll loop over many tasks.

A schedule for each account says when to poll; the watcher only polls. Accounts are kept apart so that an
account whose polls must wait, for its cap or because the service asks for it, does not hold up the others. At
most `Polling.concurrency` polls are under way, and a poll that has found the end of a task is under way until
its outcome has been taken, where the taker says when that is: a slow consumer then slows polling instead of
filling memory.

A task is a record here, not an asyncio task. Two purchases for which the service gave one id wait for one
watch, and each of them gets an outcome with its own request.

Where webhook events are relied on (`_policy.hinting` says when), a task is not in the schedule but waits for
its event, with a time after which it is polled without one.
"""

import asyncio
import heapq
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from sys import intern
from typing import Final

from attrs import define, evolve, field

from novita_async._policy.believing import FailedPoll, PollVerdict, files_may_come, verdict
from novita_async._policy.hinting import GRACE
from novita_async._policy.polling.memory import PollMemory
from novita_async._policy.polling.planner import PolledState, PollResult, TaskFacts
from novita_async._policy.polling.schedule import Polling, PollSchedule, PollStatistics
from novita_async._purchase.machine import Purchase
from novita_async._submit.asker import Asker
from novita_async._submit.callbacks import Callbacks
from novita_async._util.alarm import Alarm
from novita_async._util.clock import loop_time
from novita_async._util.scopes import light_task_group
from novita_async._util.values import frozen
from novita_async.errors import APIError, NoImages, NovitaError, TaskFailed, TaskNotFound, TaskTimeout
from novita_async.events import Event, Polled
from novita_async.models.choices import TaskStatus
from novita_async.models.requests import NovitaRequest
from novita_async.models.results import Failed, Outcome, Snapshot, Succeeded, Timings, Unfinished
from novita_async.tasks import Task

Deliver = Callable[[Outcome, Purchase | None], Awaitable[None] | None]
"""Takes the outcome of a task, with the purchase that waits for it. The returned awaitable is awaited before
another task is polled in its place."""
Show = Callable[[Snapshot], None]
"""Shows a poll result of a task that goes on; returns at once."""

OVERDUE_GROWTH: Final = 0.5
"""A task that was polled because its event was overdue, and runs, waits this part of its age more."""

_SLACK: Final = 64
"""Entries of a heap that may be stale, besides as many as there are tasks."""

_STATES: Final[Mapping[str, PolledState]] = {
    TaskStatus.QUEUED: "queued",
    TaskStatus.PROCESSING: "running",
}


@define(eq=False, weakref_slot=False, repr=False)
class WatchedTask:
    """A task that is waited for. There may be a hundred thousand."""

    task: Task
    schedule: PollSchedule
    began_at: float
    timeout: float
    """Seconds to wait from then on."""
    asked: NovitaRequest | None = None
    """The request, where no purchase has it."""
    purchase: Purchase | None = None
    """The purchase that waits for this task. None: somebody else does."""
    others: tuple[Purchase, ...] = ()
    """More purchases that wait for it."""
    under_way: bool = False
    event_deadline: float | None = None
    """When the task is polled without its event, for which it waits. None: in the schedule."""
    overdue: bool = False
    """Whether the task is polled because its event is overdue."""
    woken: bool = False
    """Whether an event came while a poll was under way."""
    last_status: str | None = None
    last_error: NovitaError | None = None
    failing_since: float | None = None
    """When polls began to fail; None: the last poll did not."""
    denied_since: float | None = None
    """When the service began to say that there is no such task."""
    failure_told: bool = False
    """Whether the last poll that was answered said "failed", and not which task."""
    empty_since: float | None = None
    """When the task was first seen finished without files."""

    @property
    def deadline(self) -> float:
        """When the time of the task is up."""
        return self.began_at + self.timeout

    @property
    def request(self) -> NovitaRequest | None:
        """The request, which the purchase may have got only while it waited."""
        return self.asked if self.purchase is None else self.purchase.request

    def __lt__(self, other: "WatchedTask") -> bool:
        """Whether the time of this task is up sooner."""
        return self.deadline < other.deadline

    def unfinished(self, now: float) -> Unfinished:
        error = TaskTimeout(
            task=self.task,
            waited=now - self.began_at,
            last_status=self.last_status,
            last_error=self.last_error,
            account=self.task.account,
        )
        return Unfinished(task=self.task, request=self.request, error=error)


@frozen(kw_only=True)
class WatchStatistics:
    """Counts of a watch.

    Args:
        waiting: Tasks without an outcome yet.
        left_to_events: Tasks that wait for their webhook event, and are polled when it comes or is overdue.
        polls: Polls so far.
    """

    waiting: int
    """Tasks without an outcome yet."""
    left_to_events: int
    """Tasks that wait for their webhook event, and are polled when it comes or is overdue."""
    polls: PollStatistics
    """Polls so far."""


@define(eq=False, repr=False)
class Watcher:
    """Waits for tasks and delivers their outcomes in the order in which they end."""

    _asker: Asker
    _polling: Polling
    _memory: PollMemory
    _deliver: Deliver
    _emit: Callable[[Event], None]
    _callbacks: Callbacks
    _show: Show = lambda _: None
    _schedules: dict[str | None, PollSchedule] = field(factory=dict)
    """By account label; None: account unknown, every key is tried."""
    _tasks: dict[str, WatchedTask] = field(factory=dict)
    _ending: dict[str, Task] = field(factory=dict)
    """Tasks whose outcome is known and not delivered yet."""
    _deadlines: list[WatchedTask] = field(factory=list)
    """A heap, in which those that have ended stay for a while."""
    _event_deadlines: list[tuple[float, str]] = field(factory=list)
    """A heap of when to poll tasks that wait for their events."""
    _relying: bool = False
    """Whether events were relied on when that was last asked."""
    _busy: int = 0
    _closed: bool = False
    _changed: Alarm = field(factory=Alarm)

    @classmethod
    def of(
        cls,
        asker: Asker,
        polling: Polling,
        memory: PollMemory,
        deliver: Deliver,
        show: Show = lambda _: None,
    ) -> "Watcher":
        """Make a watcher with schedules of its own and a memory that may be shared."""
        return cls(asker, polling, memory, deliver, asker.emit, asker.callbacks, show)

    def __repr__(self) -> str:
        return f"<Watcher {len(self._tasks)} tasks, {self._busy} polls under way>"

    def statistics(self) -> WatchStatistics:
        """Count."""
        left = sum(watched.event_deadline is not None for watched in self._tasks.values())
        polls = PollStatistics.together(schedule.statistics() for schedule in self._schedules.values())
        return WatchStatistics(waiting=len(self._tasks), left_to_events=left, polls=polls)

    def tasks(self) -> Iterator[Task]:
        """All tasks whose outcome has not been delivered."""
        yield from self._ending.values()
        for watched in self._tasks.values():
            yield watched.task

    def add(
        self,
        task: Task,
        request: NovitaRequest | None = None,
        timeout: float | None = None,
        now: float | None = None,
        *,
        purchase: Purchase | None = None,
    ) -> bool:
        """Wait for one more task.

        Args:
            task: The task. Where it is waited for already, its first time-out counts.
            request: The request for the outcome to carry, where no purchase has it.
            timeout: Seconds to wait from now. None: as long as the policy says.
            now: The time now, where that is known.
            purchase: The purchase that waits: its outcome comes also where others wait for the same task.
                None: no outcome comes a second time.

        Returns:
            Whether the task was not waited for already.
        """
        watched = self._tasks.get(task.task_id)
        if watched is not None:
            if purchase is not None:
                watched.others += (purchase,)
            return False
        now = loop_time() if now is None else now
        timeout = self._polling.deadline if timeout is None else timeout
        schedule = self._schedule_of(task)
        watched = WatchedTask(task, schedule, now, timeout, request, purchase)
        self._tasks[task.task_id] = watched
        heapq.heappush(self._deadlines, watched)
        if not self._wait_for_event(watched, now):
            self._into_schedule(watched, now, at_once=self._callbacks.heard(task.task_id))
        self._changed.ring()
        return True

    def _schedule_of(self, task: Task) -> PollSchedule:
        accounts = self._asker.pool.accounts(task.account, task.host)
        label = accounts[0].label if len(accounts) == 1 else None
        schedule = self._schedules.get(label)
        if schedule is None:
            schedule = self._schedules[label] = PollSchedule.of(self._polling, self._memory)
        return schedule

    def _into_schedule(self, watched: WatchedTask, now: float, *, at_once: bool) -> None:
        task, request = watched.task, watched.request
        watched.event_deadline = None
        facts = TaskFacts(
            endpoint=task.endpoint,
            work=request.work if request else None,
            submitted_at=task.submitted_at,
            account=task.account,
        )
        watched.schedule.add(task.task_id, facts, now)
        if at_once:
            watched.schedule.wake(task.task_id, now)

    def close(self) -> None:
        """Announce that no task will be added any more: end once all have ended."""
        self._closed = True
        self._changed.ring()

    async def run(self) -> None:
        """Poll until all tasks have ended and `close` was called."""
        self._callbacks.listen(self)
        for key in filter(self._callbacks.heard, self._tasks):
            self.wake(key, loop_time())
        try:
            async with light_task_group() as polls:
                while self._tasks or not self._closed:
                    now = loop_time()
                    self._check_events(now)
                    self._start(polls, now)
                    await self._until_something_changes(now)
        finally:
            self._callbacks.unlisten(self)

    def _start(self, polls: asyncio.TaskGroup, now: float) -> None:
        for watched in self._timed_out(now):
            polls.create_task(self._finish(watched, watched.unfinished(now)))
        # The longest due first; a single account needs no order.
        schedules: Iterable[tuple[str | None, PollSchedule]] = self._schedules.items()
        if len(self._schedules) > 1:
            schedules = sorted(schedules, key=lambda each: each[1].next_at(-math.inf))
        for label, schedule in schedules:
            free = self._polling.concurrency - self._busy
            for key in schedule.take(now, min(free, self._asker.pool.polls_free(label, now))):
                self._busy += 1
                self._tasks[key].under_way = True
                polls.create_task(self._poll(self._tasks[key]))

    async def _until_something_changes(self, now: float) -> None:
        due = self._deadlines[0].deadline if self._deadlines else math.inf
        if self._busy < self._polling.concurrency:
            turn_at = self._asker.pool.may_choose_poll_at
            for label, schedule in self._schedules.items():
                due = min(due, max(schedule.next_at(now), turn_at(label, now)))
        if self._event_deadlines:
            due = min(due, self._event_deadlines[0][0], self._callbacks.silent_at)
        await self._changed.wait(due)

    # --- Events ---------------------------------------------------------------------------------------------

    def wake(self, task_id: str, now: float) -> bool:
        """Poll a task now, because of a hint. Returns whether the task is waited for."""
        watched = self._tasks.get(task_id)
        if watched is None:
            return False
        if watched.under_way:
            watched.woken = True
        elif watched.event_deadline is not None:
            self._into_schedule(watched, now, at_once=True)
        else:
            watched.schedule.wake(task_id, now)
        self._changed.ring()
        return True

    def check(self, task_id: str, now: float) -> bool:
        """Poll a task whose event is overdue. Returns whether the task waits for its event."""
        watched = self._tasks.get(task_id)
        if watched is None or watched.event_deadline is None:
            return False
        watched.overdue = True
        self._into_schedule(watched, now, at_once=True)
        self._changed.ring()
        return True

    def reconsider(self) -> None:
        """Take note that events are relied on from now on, or no longer."""
        self._changed.ring()

    def _check_events(self, now: float) -> None:
        """Follow whether events are relied on, and poll the tasks whose event is overdue."""
        if self._callbacks.relied_on is not self._relying:
            self._relying = self._callbacks.relied_on
            for watched in self._tasks.values():
                self._rearrange(watched, now)
        self._callbacks.check_silence(now)
        while self._event_deadlines and self._event_deadlines[0][0] <= now:
            at, key = heapq.heappop(self._event_deadlines)
            late = self._tasks.get(key)
            if late is not None and late.event_deadline == at and not self._wait_for_event(late, now):
                late.overdue = True
                self._into_schedule(late, now, at_once=True)

    def _rearrange(self, watched: WatchedTask, now: float) -> None:
        """Let a task wait for its event, or no longer. After a poll under way that is decided anyway."""
        waits = watched.event_deadline is not None
        if waits is self._relying or watched.under_way or watched.failing_since is not None:
            return
        if waits:
            self._into_schedule(watched, now, at_once=False)
        elif self._wait_for_event(watched, now):
            watched.schedule.drop(watched.task.task_id)

    def _wait_for_event(self, watched: WatchedTask, now: float, until: float = 0.0) -> bool:
        """Let a task wait for its event, at least until then, if that should still come."""
        key = watched.task.task_id
        deadline = self._callbacks.event_deadline(key)
        if deadline is None or max(deadline, until) <= now:
            return False
        watched.event_deadline = max(deadline, until)
        heapq.heappush(self._event_deadlines, (watched.event_deadline, key))
        return True

    # --- Polling --------------------------------------------------------------------------------------------

    def _timed_out(self, now: float) -> list[WatchedTask]:
        """Take out the tasks whose time is up; a poll under way may still find the end."""
        found: list[WatchedTask] = []
        while self._deadlines and self._deadlines[0].deadline <= now:
            watched = heapq.heappop(self._deadlines)
            if self._tasks.get(watched.task.task_id) is not watched:
                continue
            if watched.under_way:
                watched.timeout = -math.inf
            else:
                found.append(watched)
                self._forget(watched)
        return found

    def _forget(self, watched: WatchedTask) -> None:
        key = watched.task.task_id
        del self._tasks[key]
        self._ending[key] = watched.task
        watched.schedule.drop(key)
        # Forget the times of tasks that have ended, before they are more than those that matter.
        if len(self._deadlines) > 2 * len(self._tasks) + _SLACK:
            self._deadlines = [each for each in self._tasks.values() if each.deadline > -math.inf]
            heapq.heapify(self._deadlines)
        if len(self._event_deadlines) > 2 * len(self._tasks) + _SLACK:
            self._event_deadlines = [late for late in self._event_deadlines if late[1] in self._tasks]
            heapq.heapify(self._event_deadlines)
        self._changed.ring()

    async def _poll(self, watched: WatchedTask) -> None:
        try:
            outcome = await self._result(watched)
            watched.under_way = False
            now = loop_time()
            if outcome is None and watched.deadline < now:
                outcome = watched.unfinished(now)
            if outcome is None:
                self._go_on(watched, now)
            else:
                self._forget(watched)
                self._count_event(watched, outcome, now)
                await self._finish(watched, outcome)
        finally:
            self._busy -= 1
            self._changed.ring()

    async def _finish(self, watched: WatchedTask, outcome: Outcome) -> None:
        """Deliver the outcome of a task to all that wait for it."""
        waiting = (watched.purchase, *watched.others)
        watched.asked = watched.purchase = None  # may hold a picture; the record stays a while
        watched.others = ()
        for purchase in waiting:
            own = outcome
            if purchase is not None and purchase.request is not outcome.request:
                own = evolve(outcome, request=purchase.request)
            taken = self._deliver(own, purchase)
            if taken is not None:
                await taken
        self._ending.pop(watched.task.task_id, None)

    def _go_on(self, watched: WatchedTask, now: float) -> None:
        """Plan the next poll of a task that goes on."""
        key = watched.task.task_id
        if watched.woken:
            watched.woken = False
            watched.schedule.wake(key, now)
        elif watched.failing_since is None:
            submitted_at = watched.task.submitted_at
            age = now - (watched.began_at if submitted_at is None else submitted_at)
            if self._wait_for_event(watched, now, now + max(GRACE, age * OVERDUE_GROWTH)):
                watched.schedule.drop(key)
        watched.overdue = False

    def _count_event(self, watched: WatchedTask, outcome: Outcome, now: float) -> None:
        """Let it be counted whether the event of a task that has ended came."""
        ran_for: float | None = None
        if isinstance(outcome, Succeeded):
            timings = outcome.result.timings
            if timings.submit_ms is not None and timings.complete_ms is not None:
                ran_for = (timings.complete_ms - timings.submit_ms) / 1000
        elif not (isinstance(outcome, Failed) and isinstance(outcome.error, TaskFailed | NoImages)):
            return
        self._callbacks.ended(watched.task.task_id, now, overdue=watched.overdue, ran_for=ran_for)

    async def _result(self, watched: WatchedTask) -> Outcome | None:
        """Poll once. Returns the outcome, where there is one now."""
        try:
            snapshot = await self._asker.poll(watched.task)
        except NovitaError as error:
            status = TaskStatus.FAILED if isinstance(error, TaskFailed) else None
            self._emit(Polled(task=watched.task, status=status, error=None if status else error))
            return self._failed(watched, error, loop_time())
        self._emit(
            Polled(task=snapshot.task, status=snapshot.status, progress_percent=snapshot.progress_percent)
        )
        return self._seen(watched, snapshot, loop_time())

    def _seen(self, watched: WatchedTask, snapshot: Snapshot, now: float) -> Outcome | None:
        """Learn from an answer. Returns the outcome, where the task has ended."""
        watched.task = snapshot.task
        watched.last_status = intern(snapshot.status)  # one for all tasks
        watched.last_error = watched.failing_since = watched.denied_since = None
        watched.failure_told = False
        result = snapshot.result
        if result is not None and not result.artifacts:
            watched.empty_since = now if watched.empty_since is None else watched.empty_since
            if files_may_come(now, watched.empty_since):
                watched.schedule.failed(snapshot.task.task_id, now, self._asker.jitter())
                return None
        watched.schedule.polled(snapshot.task.task_id, _poll_result(snapshot), now, self._asker.jitter())
        if snapshot.state == "failed":
            failed = TaskFailed(
                task=snapshot.task,
                explanation=snapshot.explanation,
                account=snapshot.task.account,
                reason=snapshot.status,
            )
            return Failed(task=snapshot.task, request=watched.request, error=failed)
        if result is not None and not result.artifacts:
            task = snapshot.task
            empty = NoImages(task_id=task.task_id, account=task.account, extra=result.extra)
            return Failed(task=task, request=watched.request, error=empty)
        if result is not None:
            return Succeeded(result=result, request=watched.request)
        self._show(snapshot)
        return None

    def _failed(self, watched: WatchedTask, error: NovitaError, now: float) -> Outcome | None:
        """Ride out a poll that failed in a passing way; end where it cannot pass."""
        watched.last_error = error
        began_at = now if watched.failing_since is None else watched.failing_since
        watched.failing_since = max(began_at, self._asker.pool.doubts_count_from(watched.task.account, now))
        unknown = isinstance(error, TaskNotFound)
        poll = FailedPoll(
            passes=error.retryable,
            no_such_task=unknown,
            names_no_task=isinstance(error, TaskFailed),
            repeated=watched.failure_told,
            failing_since=watched.failing_since,
            denied_since=watched.denied_since,
            submitted_at=watched.task.submitted_at,
            seen=watched.last_status is not None,
        )
        if unknown and watched.denied_since is None:
            watched.denied_since = now
        if not poll.passes:
            watched.failure_told = poll.names_no_task
        polling = self._polling
        match verdict(poll, now, error_timeout=polling.error_timeout, grace=polling.not_found_grace):
            case PollVerdict.END:
                return Failed(task=watched.task, request=watched.request, error=error)
            case PollVerdict.GIVE_UP:
                return watched.unfinished(now)
            case _:  # it passes
                hint = error.retry_after if isinstance(error, APIError) else None
                watched.schedule.failed(watched.task.task_id, now, self._asker.jitter(), hint)
                return None


def _poll_result(snapshot: Snapshot) -> PollResult:
    timings = snapshot.result.timings if snapshot.result else _UNTIMED
    return PollResult(
        state=_STATES.get(snapshot.status, "unknown") if snapshot.state == "running" else "finished",
        progress=snapshot.progress_percent,
        eta=snapshot.eta,
        submit_ms=timings.submit_ms,
        execute_ms=timings.execute_ms,
        complete_ms=timings.complete_ms,
    )


_UNTIMED: Final = Timings()
