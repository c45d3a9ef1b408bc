"""Which of the tasks can have started: a model of one server queue.

A *queue model* is of one endpoint polled by one account. Its tasks are in one of these states:

    WAITING ──believed, by counting──> BELIEVED ──polled running──> PROVEN
       │  ^                                │
       │  └──────────polled queued─────────┘
       └──overtaken──> OUT_OF_ORDER ──polled running──> PROVEN

Rules:

* Tasks start in the order in which they were submitted, and a task that waits is not polled: only the first
  of the queue is, now and then (the *head*), and even less often one from the middle (a *spot check*).
* The model counts how many of its tasks run and estimates how many can (`WorkerEstimate`). When a task is
  polled finished, the next of the queue must have started in the same moment, and that is the origin of its
  age.
* The number of workers is not configured. The polls bound it. A task believed to run that is polled
  queued lowers it to the number of the others. A task believed to wait that is polled running is either one
  more, or has the place of one whose end has not been seen yet: the estimate rises only when all others are
  seen to run still. Where answers tell when tasks really started, starts that were believed too early lower
  it as well.
* A queue in which no task was ever polled queued is not limited, and every task in it starts when it is
  submitted. To find out gently, belief goes ahead of proof only twice as far.
* A queued task that is overtaken by a later one is *out of order*: it is polled by itself. Where that happens
  again and again the server does not keep the order, and every waiting task is out of order.
* A server that calls everything queued until it is done says nothing by it: the word is then not believed.
"""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Final

from attrs import define, field

from novita_async._policy.polling.durations import GOLDEN, Durations
from novita_async._policy.polling.memory import TaskKind
from novita_async._policy.polling.planner import JITTER, ScheduledTask

WAITING: Final = 0
OUT_OF_ORDER: Final = 1
BELIEVED: Final = 2
PROVEN: Final = 3
OVER: Final = 4

UNPROVEN_WORKERS: Final = 16
"""Tasks that are believed to run in a queue of which nothing is known."""
ENDLESS: Final = 1 << 30
"""Workers of a queue whose words mean nothing."""
OVERTAKEN_WEIGHT: Final = 0.2
"""Weight of one more task that was overtaken; one that was not has half of it."""
UNORDERED: Final = 0.5
"""Disorder from which on the order of submission means nothing."""
MOST_UNSEEN: Final = 0.8
"""Share of tasks that ended without ever having been polled running, from which on "queued" means nothing."""
UNSEEN_WEIGHT: Final = 0.1
MOST_LEAD: Final = 1.0
"""Mean lead of believed starts, in task ends, above which the worker estimate drops by one."""
LEAD_WEIGHT: Final = 0.1
START_ERROR_WEIGHT: Final = 0.05
MOST_HOLES: Final = 64
REORDERED: Final = 64
"""How far back a start may be exchanged."""
CHECKS_AT_FIRST: Final = 24
"""Spot checks when the queue is first seen to be one."""
CHECK_SHARE: Final = 8
"""Of so many that wait, one is checked at once at most."""
CROWD: Final = 200.0
"""Tasks out of order per worker, from which on they are polled more rarely."""
LEAST_STEP: Final = 0.2


@define(eq=False, kw_only=True, weakref_slot=False, repr=False)
class TrackedTask(ScheduledTask):
    """A task whose start and end are estimated."""

    queue: "QueueModel"
    kind: TaskKind
    state: int = WAITING
    order: int = 0
    """Place in the order of submission."""
    fresh: bool = True
    """Whether the task is believed to have started when it was submitted."""
    start_lo: float = 0.0
    """The earliest time at which the task can have started."""
    start_hi: float = 0.0
    """The latest, if it has started."""
    alive_at: float = -math.inf
    """When the task was last known to run."""
    cell: int = -1
    """Histogram cell that counts this running task; -1: none."""
    version: int = 0
    """Version of the durations by which the next poll was planned."""
    forecast: tuple[str, float, float] | None = None
    """The service's latest forecast: its source, when it was made, seconds to go from then."""
    by_forecast: bool = False
    """Whether the next poll was planned by the forecast."""

    @property
    def started(self) -> bool:
        """Whether the task is believed to have started."""
        return self.state in (BELIEVED, PROVEN)

    @property
    def durations(self) -> Durations:
        """Distribution that the task's age is measured against."""
        return self.kind.age if self.fresh else self.kind.service

    @property
    def start(self) -> float:
        """About when the task started."""
        return self.submitted_at if self.fresh else (self.start_lo + self.start_hi) / 2

    def count_running(self, cell: int) -> None:
        """Count the task as running in a cell of the durations; -1: no longer."""
        if cell != self.cell:
            self.durations.count_running(self.cell, cell)
            self.cell = cell

    def unsettle(self) -> None:
        """Take back what was believed of the start."""
        self.count_running(-1)
        self.fresh = False


@define(eq=False, repr=False)
class WorkerEstimate:
    """How many tasks can run at once."""

    most: int = UNPROVEN_WORKERS
    """The estimate."""
    limited: bool = False
    """Whether a task was ever polled queued."""
    doubted_at: float | None = None
    """When more seemed to run than can: either one more can, or an end had not been seen yet."""
    confirmed: int = 0
    """Tasks that were polled since then and were running then."""
    lead: float = 0.0
    """Moving average of how many ends too early starts were believed."""
    lead_since: float = -math.inf
    start_error: float = 0.0
    """Seconds: moving average of twice the error of believed starts."""

    def disproved(self, running: int) -> None:
        """Learn that a task that should have started is queued: no more can run than the others."""
        self.most, self.limited, self.doubted_at = running, True, None

    def polled_running(self, task: TrackedTask, sent_at: float, running: int, *, unexpected: bool) -> None:
        """Learn that a task runs, unexpectedly or not."""
        if not self.limited:
            return
        if unexpected and running > self.most and self.doubted_at is None:
            self.doubted_at, self.confirmed = sent_at, 0
        elif self.doubted_at is not None and task.alive_at < self.doubted_at <= sent_at:
            self.confirmed += 1
        if self.doubted_at is not None and self.confirmed >= self.most:
            self.most, self.doubted_at = max(self.most, running), None

    def finished(self, task: TrackedTask, middle: float) -> None:
        """Learn that a task that was believed to run ended at about this time."""
        if self.doubted_at is not None and task.alive_at < self.doubted_at:
            if middle > self.doubted_at:
                self.confirmed += 1
            else:
                self.doubted_at = None

    def learn_start(self, task: TrackedTask, start: float, mean: float, now: float) -> None:
        """Learn when a task really started, of which that was only believed."""
        late = start - task.start
        self.start_error += START_ERROR_WEIGHT * (2 * min(abs(late), 0.1 * mean) - self.start_error)
        if not self.limited or task.start_hi < self.lead_since:
            return
        self.lead += LEAD_WEIGHT * (max(-3.0, min(3.0, late * self.most / mean)) - self.lead)
        if self.lead > MOST_LEAD and self.most > 1:
            self.most -= 1
            self.lead, self.lead_since = 0.0, now


@define(eq=False, repr=False)
class StartOrder:
    """Whether tasks start in the order in which they were submitted."""

    last: int = 0
    """Tasks so far."""
    deepest: int = -1
    """Place of the latest task in order that was polled started."""
    deepest_seen_at: float = -math.inf
    disorder: float = 0.0
    """Moving average: 1, a task was overtaken; 0, it was in its turn."""

    @property
    def kept(self) -> bool:
        """Whether the order means something."""
        return self.disorder < UNORDERED

    def overtaken(self, task: TrackedTask, sent_at: float) -> bool:
        """Whether a later task has started before this one, which is queued."""
        return self.deepest > task.order and sent_at >= self.deepest_seen_at

    def started(self, task: TrackedTask, now: float) -> None:
        """Learn that a task has started."""
        if task.order > self.deepest:
            self.deepest, self.deepest_seen_at = task.order, now

    def broken(self) -> None:
        """Learn that a task was overtaken."""
        self.disorder += OVERTAKEN_WEIGHT * (1.0 - self.disorder)

    def confirmed(self) -> None:
        """Learn that a task was in its turn."""
        self.disorder -= OVERTAKEN_WEIGHT * 0.5 * self.disorder


@define(eq=False, repr=False)
class SpotChecks:
    """When tasks that wait are polled all the same: the head of the queue, and some behind it."""

    head_due: float = math.inf
    head_gap: float = 0.0
    due: float = -math.inf
    """When the next task behind the head may be checked."""
    gap: float = 0.0
    count: int = 0
    """Choices so far."""
    rounds: int = 0
    """How often tasks were chosen while none seemed to run."""
    chosen: set[str] = field(factory=set)

    def schedule_head(self, now: float, step: float, most: float, *, restart: bool) -> None:
        """Plan the next poll of the head; the quieter it has been, the later."""
        self.head_gap = step if restart else min(max(step, 2 * self.head_gap), most)
        self.head_due = now + self.head_gap

    def how_many(self, now: float, step: float, most: float, *, idle: bool) -> int:
        """How many to check: one at a time and ever more rarely, or more while no task seems to run."""
        if idle:
            self.rounds += 1
            self.gap = 0.0
            return max(2, CHECKS_AT_FIRST >> self.rounds // 6)
        if now < self.due:
            return 0
        self.gap = min(max(step, 2 * self.gap), most)
        self.due = now + self.gap
        return 1

    def choose(self, waiting: list[TrackedTask], front: int, most: int) -> Iterator[TrackedTask]:
        """Choose some tasks, anywhere behind the head."""
        for _ in range(most):
            self.count += 1
            behind = len(waiting) - front - 1
            task = waiting[front + 1 + int(behind * (self.count * GOLDEN % 1.0))]
            if task.state == WAITING and not task.under_way:
                self.chosen.add(task.key)
                yield task


@define(eq=False, repr=False)
class QueueModel:
    """The queue of one endpoint, as far as one account's tasks show it.

    Methods that learn something return the tasks whose polls must be planned anew.
    """

    service: Durations
    """How long its tasks run."""
    workers: WorkerEstimate = field(factory=WorkerEstimate)
    order: StartOrder = field(factory=StartOrder)
    checks: SpotChecks = field(factory=SpotChecks)
    running: int = 0
    """Tasks believed to have started and not polled finished."""
    proven: int = 0
    """Running tasks that were polled running."""
    waiting: int = 0
    """Tasks that wait in their turn."""
    out_of_order: int = 0
    """Tasks that wait and are polled by themselves."""
    unseen_share: float = 0.0
    """Moving average of tasks that ended without ever having been polled running."""
    queued_at: float = -math.inf
    """When the head was last polled queued: nothing behind it had started then."""
    _in_turn: list[TrackedTask] = field(factory=list)
    """Waiting tasks in order of submission, with holes: tasks that no longer wait."""
    _front: int = 0
    """Number of holes before the first task that may wait."""
    _believed: list[TrackedTask] = field(factory=list)
    """Started and unproven tasks in order, with holes."""

    def __repr__(self) -> str:
        limit = self.workers.most if self.workers.limited else "any number of"
        order = "" if self.order.kept else ", in no order"
        waiting = self.waiting + self.out_of_order
        return f"<QueueModel {waiting} waiting, {self.running} running of {limit}{order}>"

    @property
    def believes_queued(self) -> bool:
        """Whether "queued" means something here."""
        return self.unseen_share < MOST_UNSEEN

    @property
    def step(self) -> float:
        """Seconds in which few tasks can both start and end."""
        return max(LEAST_STEP, self.service.early)

    @property
    def head(self) -> TrackedTask | None:
        """The first task that waits in its turn."""
        waiting = self._in_turn
        while self._front < len(waiting) and waiting[self._front].state != WAITING:
            self._front += 1
        if self._front > MOST_HOLES and self._front * 2 > len(waiting):
            del waiting[: self._front]
            self._front = 0
        return waiting[self._front] if self._front < len(waiting) else None

    # What is learned

    def admit(self, task: TrackedTask, now: float) -> list[TrackedTask]:
        """Add a new task."""
        self.order.last += 1
        task.order = self.order.last
        full = self.running >= self.workers.most
        if not self.order.kept and (self.out_of_order or full):
            return self._put_out_of_order(task)
        if not full and not self.waiting:
            self._believe(task)
            return [task]
        task.fresh = False
        task.start_lo = task.submitted_at
        task.state = WAITING
        self._in_turn.append(task)
        self.waiting += 1
        if task.never_polled or now - task.submitted_at > self.service.mean:
            self.checks.chosen.add(task.key)
            return [task]
        return self._plan_head(now) if self.waiting == 1 else []

    def polled_queued(self, task: TrackedTask, sent_at: float, now: float) -> list[TrackedTask]:
        """Learn that a task has not started yet."""
        overtaken = self.order.overtaken(task, sent_at)
        if task.state in (WAITING, OUT_OF_ORDER):
            task.start_lo = max(task.start_lo, sent_at)
            return self._still_waiting(task, now, overtaken=overtaken)
        if not task.fresh and sent_at <= task.start_hi:
            task.start_lo = max(task.start_lo, sent_at)
            return [task]
        self._leave(task)
        task.start_lo = max(task.submitted_at, sent_at)
        if overtaken or task.state == PROVEN:
            return self._overtaken(task, now)
        return self._disproved(task, now)

    def polled_running(self, task: TrackedTask, sent_at: float, now: float) -> list[TrackedTask]:
        """Learn that a task runs."""
        changed = [task]
        unexpected = not task.started
        if unexpected:
            changed += self._found_started(task, now)
            self.running += 1
        if task.state != PROVEN:
            task.state = PROVEN
            self.proven += 1
            task.start_hi = max(task.start_lo, min(task.start_hi, now))
        self.order.started(task, now)
        self.workers.polled_running(task, sent_at, self.running, unexpected=unexpected)
        task.alive_at = max(task.alive_at, sent_at)
        if not self.workers.limited:
            self.workers.most = max(self.workers.most, 2 * self.proven)
        return changed + self._fill(now, self.queued_at, now)

    def finished(self, task: TrackedTask, lo: float, hi: float, now: float) -> list[TrackedTask]:
        """Learn that a task ended between two times; the next of the queue started then."""
        changed: list[TrackedTask] = []
        if task.started:
            self.workers.finished(task, (lo + hi) / 2)
            self._leave(task)
        else:
            changed = self._found_started(task, now)
            self.workers.most = max(self.workers.most, 1)
        if not task.fresh and self.believes_queued:
            unseen = task.state in (WAITING, OUT_OF_ORDER)
            self.unseen_share += UNSEEN_WEIGHT * (unseen - self.unseen_share)
        self.order.started(task, now)
        task.state = OVER
        if not self.believes_queued:
            self.workers = WorkerEstimate(most=ENDLESS)
        return changed + self._fill(now, lo, hi)

    def dropped(self, task: TrackedTask, now: float) -> list[TrackedTask]:
        """Learn that no more will be known of a task."""
        was_head = task is self.head
        if task.started:
            self._leave(task)
        elif task.state == WAITING:
            self.waiting -= 1
            self.checks.chosen.discard(task.key)
        else:
            self.out_of_order -= 1
        task.state = OVER
        return [*(self._heads() if was_head else []), *self._fill(now, now, now)]

    # When to poll tasks that wait

    def due(self, task: TrackedTask, now: float, jitter: float) -> float:
        """When to poll a task that waits; infinite until its turn comes."""
        if task.state == OUT_OF_ORDER:
            return self._due_out_of_order(task, now, jitter)
        if task.key in self.checks.chosen:
            return now
        return self.checks.head_due if task is self.head else math.inf

    def _due_out_of_order(self, task: TrackedTask, now: float, jitter: float) -> float:
        if task.never_polled:
            return now
        per_worker = (self.out_of_order + self.waiting) / max(self.running, min(self.workers.most, CROWD), 1)
        gap = self.step * max(1.0, math.sqrt(per_worker / CROWD))
        if task.polls == 0 or task.start_lo + gap < now:
            return now + gap * jitter
        return task.start_lo + gap * (1.0 + JITTER * (jitter - 0.5))

    # How states change

    def _believe(self, task: TrackedTask) -> None:
        task.state = BELIEVED
        self.running += 1
        self._believed.append(task)
        if len(self._believed) > 4 * (self.running + MOST_HOLES):
            self._believed = [x for x in self._believed if x.state == BELIEVED]

    def _leave(self, task: TrackedTask) -> None:
        self.running -= 1
        self.proven -= task.state == PROVEN
        task.count_running(-1)

    def _put_out_of_order(self, task: TrackedTask) -> list[TrackedTask]:
        task.unsettle()
        task.start_lo = max(task.start_lo, task.submitted_at)
        task.state = OUT_OF_ORDER
        self.out_of_order += 1
        return [task]

    def _fill(self, now: float, lo: float, hi: float) -> list[TrackedTask]:
        """Believe that as many tasks have started as can run, between two times."""
        begun: list[TrackedTask] = []
        while self.order.kept and self.running < self.workers.most and (head := self.head):
            self.waiting -= 1
            self.checks.chosen.discard(head.key)
            head.fresh = not self.workers.limited and head.polls == 0
            head.start_lo = max(head.start_lo, min(lo, now) - self.workers.start_error, self.queued_at)
            head.start_hi = max(head.start_lo, min(hi, now) + self.workers.start_error)
            begun += self._reorder(head)
            self._believe(head)
            begun.append(head)
        if begun and not self.workers.limited:
            return begun + self._plan_head(now)
        return begun + self._heads() if begun else begun

    def _reorder(self, task: TrackedTask) -> list[TrackedTask]:
        """Give earlier starts to earlier tasks: ends are not always seen in the order of their times."""
        changed: list[TrackedTask] = []
        for other in islice(reversed(self._believed), REORDERED):
            if other.state != BELIEVED or other.fresh:
                continue
            if other.start_lo <= task.start_lo or other.submitted_at > task.start_lo:
                break
            other.start_lo, task.start_lo = task.start_lo, other.start_lo
            other.start_hi, task.start_hi = task.start_hi, other.start_hi
            changed.append(other)
            task = other
        return changed

    def _still_waiting(self, task: TrackedTask, now: float, *, overtaken: bool) -> list[TrackedTask]:
        self.checks.chosen.discard(task.key)
        if not self.workers.limited and task.state == WAITING:
            self.workers.disproved(self.running)
        if task.state == OUT_OF_ORDER or task is not self.head:
            return [task]
        self.queued_at = max(self.queued_at, task.start_lo)
        if overtaken:
            self.waiting -= 1
            return self._overtaken(task, now)
        self.order.confirmed()
        return self._plan_head(now) + self._spot_check(now)

    def _disproved(self, task: TrackedTask, now: float) -> list[TrackedTask]:
        """Put back a task that was believed to run, and all that were believed to have started after it."""
        back = [x for x in self._believed if x.state == BELIEVED and x.order > task.order]
        for other in back:
            self._leave(other)
            other.start_lo = max(other.submitted_at, task.start_lo)
        back.insert(0, task)
        for other in back:
            other.unsettle()
            other.state = WAITING
        self._believed = [x for x in self._believed if x.state == BELIEVED]
        self._in_turn[: self._front] = sorted(back, key=lambda x: x.order)
        self._front = 0
        self.waiting += len(back)
        at_first = not self.workers.limited
        self.workers.disproved(self.running)
        self.queued_at = max(self.queued_at, task.start_lo)
        changed = back + self._plan_head(now, restart=True)
        return changed + self._spot_check(now, CHECKS_AT_FIRST if at_first else 0)

    def _overtaken(self, task: TrackedTask, now: float) -> list[TrackedTask]:
        self.order.broken()
        changed = self._put_out_of_order(task)
        while not self.order.kept and (head := self.head):
            self.waiting -= 1
            self.checks.chosen.discard(head.key)
            changed += self._put_out_of_order(head)
        self.checks.head_due = now
        return changed + self._heads() + self._fill(now, self.queued_at, now)

    def _found_started(self, task: TrackedTask, now: float) -> list[TrackedTask]:
        """Take a task out of those that wait, of which it was one until now."""
        task.start_hi = now
        if task.state == OUT_OF_ORDER:
            self.out_of_order -= 1
            if not self.out_of_order and not self.waiting:
                self.order.disorder *= 0.5
            return []
        if task is self.head:
            self.order.confirmed()
        self.checks.chosen.discard(task.key)
        self.waiting -= 1
        task.start_lo = max(task.start_lo, self.queued_at)
        state, task.state = task.state, OVER
        head = self._plan_head(now, restart=True)
        task.state = state
        if self.workers.limited:
            self.checks.head_due = now
        return head

    def _heads(self) -> list[TrackedTask]:
        head = self.head
        return [head] if head else []

    def _plan_head(self, now: float, *, restart: bool = False) -> list[TrackedTask]:
        """Plan when to poll the head."""
        head = self.head
        if head is None:
            return []
        if not self.workers.limited:
            self.checks.head_due = max(now, head.submitted_at + self.step)
        elif self.running:
            self.checks.schedule_head(now, self.step, 2 * self.service.mean, restart=restart)
        else:
            # No task of ours seems to run: others are before us, or the order is not what it seems.
            step = self.step if self.order.deepest >= 0 else self.step / 2
            self.checks.schedule_head(now, max(step, (now - head.submitted_at) / 16), 0.0, restart=True)
        return [head]

    def _spot_check(self, now: float, most: int = 0) -> list[TrackedTask]:
        """Choose a few from the middle of the queue to be polled, to see whether the order is kept."""
        if self.waiting < 3:  # noqa: PLR2004 (there is no middle)
            return []
        step = self.step
        most = most or self.checks.how_many(now, step, 16 * self.service.mean, idle=not self.running)
        return list(
            self.checks.choose(self._in_turn, self._front, min(most, 1 + self.waiting // CHECK_SHARE))
        )
