"""The one poll loop over many tasks.

A schedule for each account says when to look; this only looks. Accounts are kept apart so that one whose
polls must wait, for its cap or because the service asks for it, does not hold up the others. At most
`Polling.concurrency` looks are under way, and one that has found the end of a task is under way until its
outcome has been taken: a slow consumer slows polling instead of filling memory.

Where webhook events are relied on (`_policy.hinting` says when), a task is not in the schedule but left to
its event, with a time after which it is looked at without one.
"""

import heapq
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import datetime
from sys import intern
from typing import Final

import anyio
from anyio.abc import TaskGroup
from attrs import define, field, frozen

from novita_async._policy.believing import FailedPoll, Verdict, files_may_come, verdict
from novita_async._policy.hinting import GRACE
from novita_async._policy.polling.schedule import (
    Polling,
    PollMemory,
    PollSchedule,
    PollStatistics,
    Sighting,
    TaskFacts,
)
from novita_async._submit.asker import Asker
from novita_async._submit.callbacks import Callbacks
from novita_async._util.scopes import task_group
from novita_async.errors import APIError, NoImages, NovitaError, TaskFailed, TaskNotFound, TaskTimeout
from novita_async.events import Event, Finished, Polled
from novita_async.models.choices import TaskStatus
from novita_async.models.requests import Request
from novita_async.models.results import Failed, Outcome, Snapshot, Succeeded, Timings, Unfinished
from novita_async.tasks import Task

Deliver = Callable[[Outcome], Awaitable[None]]
"""Hands an outcome to whoever waits for it; returns once it was taken."""
Show = Callable[[Snapshot], None]
"""Shows what was seen of a task that goes on to whoever wants to know; returns at once."""

NET_GROWTH: Final = 0.5
"""A task that the net has found running is left to its event for this part of its age more."""

_SOME: Final = 64

_STATES: Final[Mapping[str, str]] = {
    TaskStatus.QUEUED: "queued",
    TaskStatus.PROCESSING: "running",
}


@define(eq=False, weakref_slot=False)
class _Record:
    """One task that is waited for. There may be a hundred thousand."""

    task: Task
    request: Request | None
    schedule: PollSchedule
    began_at: float
    timeout: float
    """Seconds to wait from then on."""
    under_way: bool = False
    left_until: float | None = None
    """When it is looked at without its event, to which it is left. None: it is in the schedule."""
    by_the_net: bool = False
    """Whether it is looked at because its event should have come by now."""
    hinted: bool = False
    """Whether an event came while it was looked at."""
    last_status: str | None = None
    last_error: NovitaError | None = None
    doubted_at: float | None = None
    """When polls began to fail; None: the last one did not."""
    denied_at: float | None = None
    """When the service began to say that there is no such task."""
    empty_at: float | None = None
    """When the task was first seen finished without files."""

    @property
    def deadline(self) -> float:
        """When its time is up."""
        return self.began_at + self.timeout

    def __lt__(self, other: "_Record") -> bool:
        """Whether its time is up sooner."""
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
    """How a watch is doing."""

    waiting: int
    """Tasks without an outcome yet."""
    left_to_events: int
    """Those of them that are looked at when their webhook event comes, or late."""
    polls: PollStatistics
    """Looks so far."""


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
    """By the label of the account that is asked. None: each in turn."""
    _records: dict[str, _Record] = field(factory=dict)
    _ending: dict[str, Task] = field(factory=dict)
    """Tasks whose outcome is known and not handed over yet."""
    _deadlines: list[_Record] = field(factory=list)
    """A heap, in which those that have ended stay for a while."""
    _net: list[tuple[float, str]] = field(factory=list)
    """When to look at tasks that are left to their events."""
    _relying: bool = False
    """Whether events were relied on when that was last asked."""
    _busy: int = 0
    _closed: bool = False
    _changed: anyio.Event = field(factory=anyio.Event)

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
        return f"<Watcher {len(self._records)} tasks, {self._busy} looks under way>"

    def statistics(self) -> WatchStatistics:
        """How it is doing now."""
        left = sum(record.left_until is not None for record in self._records.values())
        polls = PollStatistics.together(schedule.statistics() for schedule in self._schedules.values())
        return WatchStatistics(waiting=len(self._records), left_to_events=left, polls=polls)

    def tasks(self) -> Iterator[Task]:
        """All tasks whose outcome has not been handed over."""
        yield from self._ending.values()
        for record in self._records.values():
            yield record.task

    def add(
        self,
        task: Task,
        request: Request | None = None,
        timeout: float | None = None,
        now: float | None = None,
    ) -> bool:
        """Wait for one more task, for `timeout` seconds from now or as long as the policy says.

        Returns whether it was not waited for already.
        """
        if task.task_id in self._records:
            return False
        now = anyio.current_time() if now is None else now
        patience = self._polling.deadline if timeout is None else timeout
        record = _Record(task, request, self._schedule_of(task), now, patience)
        self._records[task.task_id] = record
        heapq.heappush(self._deadlines, record)
        if not self._left(record, now):
            self._into_schedule(record, now, at_once=self._callbacks.heard(task.task_id))
        self._changed.set()
        return True

    def _schedule_of(self, task: Task) -> PollSchedule:
        accounts = self._asker.pool.accounts(task.account)
        label = accounts[0].label if len(accounts) == 1 else None
        schedule = self._schedules.get(label)
        if schedule is None:
            schedule = self._schedules[label] = self._polling.schedule(self._memory)
        return schedule

    def _into_schedule(self, record: _Record, now: float, *, at_once: bool) -> None:
        task, request = record.task, record.request
        record.left_until = None
        facts = TaskFacts(
            endpoint=task.endpoint,
            work=request.work if request else None,
            submitted_at=task.submitted_at,
            account=task.account,
        )
        record.schedule.add(task.task_id, facts, now)
        if at_once:
            record.schedule.wake(task.task_id, now)

    def close(self) -> None:
        """No task will be added any more: end once all have ended."""
        self._closed = True
        self._changed.set()

    async def run(self) -> None:
        """Look until all tasks have ended and `close` was called."""
        self._callbacks.listen(self)
        for key in filter(self._callbacks.heard, self._records):
            self.wake(key, anyio.current_time())
        try:
            async with task_group() as looks:
                while self._records or not self._closed:
                    now = anyio.current_time()
                    self._mind_events(now)
                    self._start(looks, now)
                    await self._until_something_changes(now)
        finally:
            self._callbacks.unlisten(self)

    def _start(self, looks: TaskGroup, now: float) -> None:
        for outcome in self._overdue(now):
            looks.start_soon(self._finish, outcome)
        for label, schedule in self._longest_due_first():
            free = self._polling.concurrency - self._busy
            for key in schedule.take(now, min(free, self._asker.pool.polls_free(label, now))):
                self._busy += 1
                self._records[key].under_way = True
                looks.start_soon(self._look, self._records[key])

    def _longest_due_first(self) -> Iterable[tuple[str | None, PollSchedule]]:
        schedules = self._schedules.items()
        return schedules if len(schedules) == 1 else sorted(schedules, key=lambda x: x[1].next_at(-math.inf))

    def _next_look_at(self, now: float) -> float:
        """When a look can be started; infinite where something else must happen first."""
        if self._busy >= self._polling.concurrency:
            return math.inf
        turn_at = self._asker.pool.may_choose_poll_at
        return min(
            (max(schedule.next_at(now), turn_at(label, now)) for label, schedule in self._schedules.items()),
            default=math.inf,
        )

    async def _until_something_changes(self, now: float) -> None:
        due = self._next_look_at(now)
        deadline = self._deadlines[0].deadline if self._deadlines else math.inf
        late = min(self._net[0][0], self._callbacks.silent_at) if self._net else math.inf
        with anyio.move_on_after(max(0.0, min(due, deadline, late) - now)):
            await self._changed.wait()
        self._changed = anyio.Event()

    # --- Events ---------------------------------------------------------------------------------------------

    def wake(self, task_id: str, now: float) -> bool:
        """Look at a task now, because of a hint. Returns whether it is waited for."""
        record = self._records.get(task_id)
        if record is None:
            return False
        if record.under_way:
            record.hinted = True
        elif record.left_until is not None:
            self._into_schedule(record, now, at_once=True)
        else:
            record.schedule.wake(task_id, now)
        self._changed.set()
        return True

    def check(self, task_id: str, now: float) -> bool:
        """Look at a task whose event should have come by now. Returns whether it is left to that."""
        record = self._records.get(task_id)
        if record is None or record.left_until is None:
            return False
        record.by_the_net = True
        self._into_schedule(record, now, at_once=True)
        self._changed.set()
        return True

    def reconsider(self) -> None:
        """Take note that events are relied on from now on, or no longer."""
        self._changed.set()

    def _mind_events(self, now: float) -> None:
        if self._callbacks.relied_on is not self._relying:
            self._relying = self._callbacks.relied_on
            for record in self._records.values():
                self._rearrange(record, now)
        self._callbacks.mind(now)
        while self._net and self._net[0][0] <= now:
            at, key = heapq.heappop(self._net)
            caught = self._records.get(key)
            if caught is not None and caught.left_until == at and not self._left(caught, now):
                caught.by_the_net = True
                self._into_schedule(caught, now, at_once=True)

    def _rearrange(self, record: _Record, now: float) -> None:
        """Leave a task to its event, or do so no longer. One that is looked at now is seen to afterwards."""
        is_left = record.left_until is not None
        if is_left is self._relying or record.under_way or record.doubted_at is not None:
            return
        if is_left:
            self._into_schedule(record, now, at_once=False)
        elif self._left(record, now):
            record.schedule.drop(record.task.task_id)

    def _left(self, record: _Record, now: float, until: float = 0.0) -> bool:
        """Leave a task to its event, at least until then, if that should still come."""
        key = record.task.task_id
        patience = self._callbacks.left_until(key)
        if patience is None or max(patience, until) <= now:
            return False
        record.left_until = max(patience, until)
        heapq.heappush(self._net, (record.left_until, key))
        return True

    def _after_look(self, record: _Record, now: float) -> None:
        """Plan the next look at a task that goes on."""
        key = record.task.task_id
        if record.hinted:
            record.hinted = False
            record.schedule.wake(key, now)
        elif record.doubted_at is None and self._left(record, now, now + _net_pause(record, now)):
            record.schedule.drop(key)
        record.by_the_net = False

    def _tell_callbacks(self, record: _Record, outcome: Outcome, now: float) -> None:
        if not _has_ended(outcome):
            return
        ran_for = _ran_for(outcome.result.timings) if isinstance(outcome, Succeeded) else None
        self._callbacks.ended(record.task.task_id, now, by_the_net=record.by_the_net, ran_for=ran_for)

    # --- Looking --------------------------------------------------------------------------------------------

    def _overdue(self, now: float) -> list[Outcome]:
        """Take out the tasks whose time is up; one that is looked at just now is given that look."""
        overdue: list[Outcome] = []
        while self._deadlines and self._deadlines[0].deadline <= now:
            record = heapq.heappop(self._deadlines)
            if self._records.get(record.task.task_id) is not record:
                continue
            if record.under_way:
                record.timeout = -math.inf
            else:
                overdue.append(record.unfinished(now))
                self._forget(record)
        return overdue

    def _forget(self, record: _Record) -> None:
        del self._records[record.task.task_id]
        self._ending[record.task.task_id] = record.task
        record.schedule.drop(record.task.task_id)
        record.request = None  # it may hold a picture, and the record may stay among the deadlines
        self._sweep()
        self._changed.set()

    def _sweep(self) -> None:
        """Forget the times of tasks that have ended, before they are more than those that matter."""
        if len(self._deadlines) > 2 * len(self._records) + _SOME:
            self._deadlines = [r for r in self._records.values() if r.deadline > -math.inf]
            heapq.heapify(self._deadlines)
        if len(self._net) > 2 * len(self._records) + _SOME:
            self._net = [late for late in self._net if late[1] in self._records]
            heapq.heapify(self._net)

    async def _look(self, record: _Record) -> None:
        try:
            outcome = await self._see(record)
            record.under_way = False
            now = anyio.current_time()
            if outcome is None and record.deadline < now:
                outcome = record.unfinished(now)
            if outcome is None:
                self._after_look(record, now)
            else:
                self._forget(record)
                self._tell_callbacks(record, outcome, now)
                await self._finish(outcome)
        finally:
            self._busy -= 1
            self._changed.set()

    async def _finish(self, outcome: Outcome) -> None:
        self._emit(Finished(outcome=outcome))
        await self._deliver(outcome)
        self._ending.pop(outcome.task_id or "", None)

    async def _see(self, record: _Record) -> Outcome | None:
        """Look once. Returns the outcome, where there is one now."""
        try:
            snapshot = await self._asker.look(record.task)
        except TaskFailed as failed:
            self._emit(Polled(task=record.task, status=TaskStatus.FAILED))
            return Failed(task=record.task, request=record.request, error=failed)
        except NovitaError as error:
            self._emit(Polled(task=record.task, status=None, error=error))
            return self._doubt(record, error, anyio.current_time())
        self._emit(
            Polled(task=snapshot.task, status=snapshot.status, progress_percent=snapshot.progress_percent)
        )
        return self._learn(record, snapshot, anyio.current_time())

    def _learn(self, record: _Record, snapshot: Snapshot, now: float) -> Outcome | None:
        record.task = snapshot.task
        record.last_status = intern(snapshot.status)  # one for all tasks
        record.last_error = record.doubted_at = record.denied_at = None
        result = snapshot.result
        if result is not None and not result.artifacts:
            record.empty_at = now if record.empty_at is None else record.empty_at
            if files_may_come(now, record.empty_at):
                record.schedule.missed(snapshot.task.task_id, now, self._asker.jitter(), None)
                return None
        record.schedule.saw(snapshot.task.task_id, _sighting(snapshot), now, self._asker.jitter())
        if snapshot.state == "failed":
            failed = TaskFailed(
                task=snapshot.task,
                explanation=snapshot.explanation,
                account=snapshot.task.account,
                reason=snapshot.status,
            )
            return Failed(task=snapshot.task, request=record.request, error=failed)
        if result is not None and not result.artifacts:
            empty = NoImages(task_id=result.task.task_id, account=result.task.account, extra=result.extra)
            return Failed(task=result.task, request=record.request, error=empty)
        if result is not None:
            return Succeeded(result=result, request=record.request)
        self._show(snapshot)
        return None

    def _doubt(self, record: _Record, error: NovitaError, now: float) -> Outcome | None:
        """Ride out a poll that failed in a passing way; end where it cannot pass."""
        record.last_error = error
        began_at = now if record.doubted_at is None else record.doubted_at
        record.doubted_at = max(began_at, self._asker.pool.doubts_count_from(record.task.account, now))
        unknown = isinstance(error, TaskNotFound)
        poll = FailedPoll(
            passes=error.retryable,
            no_such_task=unknown,
            failing_since=record.doubted_at,
            denied_since=record.denied_at,
            submitted_at=record.task.submitted_at,
            seen=record.last_status is not None,
        )
        if unknown and record.denied_at is None:
            record.denied_at = now
        match verdict(poll, now, error_timeout=self._polling.patience, grace=self._polling.not_found_grace):
            case Verdict.END:
                return Failed(task=record.task, request=record.request, error=error)
            case Verdict.GIVE_UP:
                return record.unfinished(now)
            case Verdict.RIDE_OUT:
                hint = error.retry_after if isinstance(error, APIError) else None
                record.schedule.missed(record.task.task_id, now, self._asker.jitter(), hint)
                return None


def _net_pause(record: _Record, now: float) -> float:
    began_at = record.began_at if record.task.submitted_at is None else record.task.submitted_at
    return max(GRACE, (now - began_at) * NET_GROWTH)


def _has_ended(outcome: Outcome) -> bool:
    return isinstance(outcome, Succeeded) or (
        isinstance(outcome, Failed) and isinstance(outcome.error, TaskFailed | NoImages)
    )


def _ran_for(timings: Timings) -> float | None:
    if timings.submit_time is None or timings.complete_time is None:
        return None
    return (timings.complete_time - timings.submit_time).total_seconds()


def _sighting(snapshot: Snapshot) -> Sighting:
    timings = snapshot.result.timings if snapshot.result else None
    state = _STATES.get(snapshot.status, "unknown") if snapshot.state == "running" else "finished"
    return Sighting(
        state=state,  # type: ignore[arg-type]  # one of the table's words
        progress=snapshot.progress_percent,
        eta=snapshot.eta,
        submit_ms=_milliseconds(timings.submit_time if timings else None),
        execute_ms=_milliseconds(timings.execute_time if timings else None),
        complete_ms=_milliseconds(timings.complete_time if timings else None),
    )


def _milliseconds(moment: datetime | None) -> float | None:
    return moment.timestamp() * 1000 if moment else None
