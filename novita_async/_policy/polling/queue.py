"""Which of the tasks can have started: what is known of one server queue.

A *lane* is one endpoint asked by one account. Its tasks are in one of these states:

    WAITING ──believed, by counting──> BELIEVED ──seen running──> PROVEN
       │  ^                                │
       │  └──────────seen queued───────────┘
       └──overtaken──> STRAY ──seen running──> PROVEN

Rules:

* Tasks start in the order in which they were submitted, and a task that waits is not asked for: only the
  first of the queue is, now and then (the *head*), and even less often one from the middle (an *audit*).
* The lane counts how many of its tasks run and knows how many can (`workers`). When one is seen finished,
  the next of the queue must have started in the same moment, and that is the origin of its age.
* `workers` is not configured. It is what the sightings allow. A task believed to run that is seen queued
  lowers it to what is left. One believed to wait that is seen running is either one more, or has the place
  of one whose end has not been seen yet: `workers` rises only when all others are seen to run still. Where
  answers tell when tasks really started, starts that were believed too early lower it as well.
* A lane that was never seen queueing is not limited, and every task in it starts when it is submitted. To
  find out gently, belief goes ahead of proof only twice as far.
* A queued task that is overtaken by a later one is a *stray*: it is asked for by itself. Where that happens
  again and again the server does not keep the order, and every waiting task becomes a stray.
* A server that calls everything queued until it is done says nothing by it: the word is then not listened
  to.
"""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Final

from attrs import define, field

from novita_async._policy.polling.durations import GOLDEN, Durations
from novita_async._policy.polling.memory import Kind
from novita_async._policy.polling.planner import JITTER, Entry

WAITING: Final = 0
STRAY: Final = 1
BELIEVED: Final = 2
PROVEN: Final = 3
OVER: Final = 4

UNPROVEN_WORKERS: Final = 16
"""Tasks that are believed to run in a lane of which nothing is known."""
ENDLESS: Final = 1 << 30
"""Workers of a lane whose words mean nothing."""
VERDICT: Final = 0.2
"""Weight of one more task that was overtaken; one that was not has half of it."""
UNORDERED: Final = 0.5
"""From this much disorder on the order of submission means nothing."""
BLIND: Final = 0.8
"""From this share of tasks on that ended without ever having been seen running, "queued" means nothing."""
MEMORY_OF_BLINDNESS: Final = 0.1
LEANING: Final = 1.0
"""Ends by which starts are believed too early, on average, before a worker is taken away."""
MOST_HOLES: Final = 64
REORDERED: Final = 64
"""How far back a start may be exchanged."""
AUDITS_AT_FIRST: Final = 24
AUDIT_SHARE: Final = 8
"""One in so many that wait is audited at once at most."""
CROWD: Final = 200.0
"""Strays a worker from which on they are asked more rarely."""
LEAST_STEP: Final = 0.2


@define(eq=False, kw_only=True, weakref_slot=False)
class Record(Entry):
    """One task whose start and end are estimated."""

    lane: "Lane"
    kind: Kind
    state: int = WAITING
    order: int = 0
    """Place in the lane's order of submission."""
    fresh: bool = True
    """Whether it is believed to have started when it was submitted."""
    start_lo: float = 0.0
    """It did not start before."""
    start_hi: float = 0.0
    """It started no later, if it has started."""
    alive_at: float = -math.inf
    """When it was last known to run."""
    cell: int = -1
    """Where it is counted as running in its durations. -1: nowhere."""
    version: int = 0
    """Of the durations from which its next look was computed."""
    forecast: tuple[str, float, float] | None = None
    """The service's latest forecast: its source, when it was made, seconds to go from then."""

    @property
    def started(self) -> bool:
        """Whether it is believed to have started."""
        return self.state in (BELIEVED, PROVEN)

    @property
    def durations(self) -> Durations:
        """What its age is measured against."""
        return self.kind.age if self.fresh else self.kind.service

    @property
    def origin(self) -> tuple[float, float]:
        """Earliest origin of its age, and the width of the span in which it lies."""
        return (self.submitted_at, 0.0) if self.fresh else (self.start_lo, self.start_hi - self.start_lo)

    @property
    def start(self) -> float:
        """About when it started."""
        return self.submitted_at if self.fresh else (self.start_lo + self.start_hi) / 2

    def count_alive(self, cell: int) -> None:
        """Be counted as running in a cell of the durations; -1: no longer."""
        if cell != self.cell:
            self.durations.alive(self.cell, cell)
            self.cell = cell

    def unsettle(self) -> None:
        """Take back what was believed of the start."""
        self.count_alive(-1)
        self.fresh = False


@define(eq=False)
class Census:
    """How many can run at once."""

    workers: int = UNPROVEN_WORKERS
    limited: bool = False
    """Whether tasks were seen queueing."""
    doubted_at: float | None = None
    """When more seemed to run than can: either one more can, or an end had not been seen yet."""
    confirmed: int = 0
    """How many were seen since then to have been running then."""
    lean: float = 0.0
    """Moving average of how many ends too early starts were believed."""
    leaning_since: float = -math.inf
    blur: float = 0.0
    """Seconds: moving average of twice the error of believed starts."""

    def disproved(self, running: int) -> None:
        """A task that should have started is queued: no more can run than the others."""
        self.workers, self.limited, self.doubted_at = running, True, None

    def seen_running(self, record: Record, taken_at: float, running: int, *, unexpected: bool) -> None:
        """Take in that a task runs, unexpectedly or not."""
        if not self.limited:
            return
        if unexpected and running > self.workers and self.doubted_at is None:
            self.doubted_at, self.confirmed = taken_at, 0
        elif self.doubted_at is not None and record.alive_at < self.doubted_at <= taken_at:
            self.confirmed += 1
        if self.doubted_at is not None and self.confirmed >= self.workers:
            self.workers, self.doubted_at = max(self.workers, running), None

    def seen_finished(self, record: Record, middle: float) -> None:
        """Take in that a task that was believed to run ended at about this time."""
        if self.doubted_at is not None and record.alive_at < self.doubted_at:
            if middle > self.doubted_at:
                self.confirmed += 1
            else:
                self.doubted_at = None

    def learn_start(self, record: Record, start: float, mean: float, now: float) -> None:
        """Take in when a task really started that is believed to have."""
        late = start - record.start
        self.blur += 0.05 * (2 * min(abs(late), 0.1 * mean) - self.blur)
        if not self.limited or record.start_hi < self.leaning_since:
            return
        self.lean += 0.1 * (max(-3.0, min(3.0, late * self.workers / mean)) - self.lean)
        if self.lean > LEANING and self.workers > 1:
            self.workers -= 1
            self.lean, self.leaning_since = 0.0, now


@define(eq=False)
class Order:
    """Whether tasks start in the order in which they were submitted."""

    last: int = 0
    """Tasks so far."""
    deepest: int = -1
    """The latest in order that was seen started."""
    deepest_seen_at: float = -math.inf
    disorder: float = 0.0
    """Moving average of verdicts: 1, overtaken; 0, in its turn."""

    @property
    def kept(self) -> bool:
        """Whether the order means something."""
        return self.disorder < UNORDERED

    def overtaken(self, record: Record, taken_at: float) -> bool:
        """Whether a later one has started before this one, which is queued."""
        return self.deepest > record.order and taken_at >= self.deepest_seen_at

    def started(self, record: Record, now: float) -> None:
        """Take in that a task has started."""
        if record.order > self.deepest:
            self.deepest, self.deepest_seen_at = record.order, now

    def broken(self) -> None:
        """Take in that one was overtaken."""
        self.disorder += VERDICT * (1.0 - self.disorder)

    def confirmed(self) -> None:
        """Take in that one was in its turn."""
        self.disorder -= VERDICT * 0.5 * self.disorder


@define(eq=False)
class Probes:
    """When those that wait are asked for all the same: the first in the queue, and some behind it."""

    head_due: float = math.inf
    head_gap: float = 0.0
    audit_at: float = -math.inf
    audit_gap: float = 0.0
    audits: int = 0
    """How many records have been chosen so far."""
    rounds: int = 0
    """How often some were chosen while none seemed to run."""
    chosen: set[str] = field(factory=set)

    def schedule_head(self, now: float, step: float, most: float, *, restart: bool) -> None:
        """Plan the next look at the first in the queue; the quieter it has been, the later."""
        self.head_gap = step if restart else min(max(step, 2 * self.head_gap), most)
        self.head_due = now + self.head_gap

    def how_many(self, now: float, step: float, most: float, *, idle: bool) -> int:
        """How many to audit, one at a time and ever more rarely; more while none of the lane seems to run."""
        if idle:
            self.rounds += 1
            self.audit_gap = 0.0
            return max(2, AUDITS_AT_FIRST >> self.rounds // 6)
        if now < self.audit_at:
            return 0
        self.audit_gap = min(max(step, 2 * self.audit_gap), most)
        self.audit_at = now + self.audit_gap
        return 1

    def choose(self, waiting: list[Record], front: int, most: int) -> Iterator[Record]:
        """Choose some, anywhere behind the first."""
        for _ in range(most):
            self.audits += 1
            behind = len(waiting) - front - 1
            record = waiting[front + 1 + int(behind * (self.audits * GOLDEN % 1.0))]
            if record.state == WAITING and not record.under_way:
                self.chosen.add(record.key)
                yield record


@define(eq=False, repr=False)
class Lane:
    """The queue of one endpoint, as far as one account's tasks show it.

    Methods that take something in return the records whose looks must be planned anew.
    """

    service: Durations
    """How long its tasks run."""
    census: Census = field(factory=Census)
    order: Order = field(factory=Order)
    probes: Probes = field(factory=Probes)
    running: int = 0
    """Tasks believed to have started and not seen finished."""
    proven: int = 0
    """Those of them that were seen running."""
    count: int = 0
    """Tasks that wait in their turn."""
    strays: int = 0
    """Tasks that wait and are asked for by themselves."""
    blindness: float = 0.0
    """Moving average of tasks that ended without ever having been seen running."""
    queued_at: float = -math.inf
    """When the first of the queue was last seen queued: nothing behind it had started then."""
    _waiting: list[Record] = field(factory=list)
    """In order of submission, with holes: records that no longer wait."""
    _front: int = 0
    """All before it are holes."""
    _believed: list[Record] = field(factory=list)
    """Started and unproven ones in order, with holes."""

    def __repr__(self) -> str:
        limit = self.census.workers if self.census.limited else "any number of"
        order = "" if self.order.kept else ", in no order"
        return f"<Lane {self.count + self.strays} waiting, {self.running} running of {limit}{order}>"

    @property
    def sighted(self) -> bool:
        """Whether "queued" means something here."""
        return self.blindness < BLIND

    @property
    def step(self) -> float:
        """Seconds in which few tasks can both start and end."""
        return max(LEAST_STEP, self.service.early)

    @property
    def head(self) -> Record | None:
        """The first that waits."""
        waiting = self._waiting
        while self._front < len(waiting) and waiting[self._front].state != WAITING:
            self._front += 1
        if self._front > MOST_HOLES and self._front * 2 > len(waiting):
            del waiting[: self._front]
            self._front = 0
        return waiting[self._front] if self._front < len(waiting) else None

    # What is taken in

    def admit(self, record: Record, now: float) -> list[Record]:
        """Take a new task in."""
        self.order.last += 1
        record.order = self.order.last
        full = self.running >= self.census.workers
        if not self.order.kept and (self.strays or full):
            return self._stray(record)
        if not full and not self.count:
            self._believe(record)
            return [record]
        self._wait(record)
        if record.overdue or now - record.submitted_at > self.service.mean:
            self.probes.chosen.add(record.key)
            return [record]
        return self._new_head(now) if self.count == 1 else []

    def saw_queued(self, record: Record, taken_at: float, now: float) -> list[Record]:
        """Take in that a task has not started yet."""
        overtaken = self.order.overtaken(record, taken_at)
        if record.state in (WAITING, STRAY):
            record.start_lo = max(record.start_lo, taken_at)
            return self._still_waiting(record, now, overtaken=overtaken)
        if not record.fresh and taken_at <= record.start_hi:
            record.start_lo = max(record.start_lo, taken_at)
            return [record]
        self._leave(record)
        record.start_lo = max(record.submitted_at, taken_at)
        if overtaken or record.state == PROVEN:
            return self._overtaken(record, now)
        return self._disproved(record, now)

    def saw_running(self, record: Record, taken_at: float, now: float) -> list[Record]:
        """Take in that a task runs."""
        changed = [record]
        unexpected = not record.started
        if unexpected:
            changed += self._found_started(record, now)
            self.running += 1
        if record.state != PROVEN:
            record.state = PROVEN
            self.proven += 1
            record.start_hi = max(record.start_lo, min(record.start_hi, now))
        self.order.started(record, now)
        self.census.seen_running(record, taken_at, self.running, unexpected=unexpected)
        record.alive_at = max(record.alive_at, taken_at)
        if not self.census.limited:
            self.census.workers = max(self.census.workers, 2 * self.proven)
        return changed + self._fill(now, self.queued_at, now)

    def finished(self, record: Record, lo: float, hi: float, now: float) -> list[Record]:
        """Take in that a task ended between two times; the next of the queue started then."""
        changed: list[Record] = []
        if record.started:
            self.census.seen_finished(record, (lo + hi) / 2)
            self._leave(record)
        else:
            changed = self._found_started(record, now)
            self.census.workers = max(self.census.workers, 1)
        if not record.fresh and self.sighted:
            unseen = record.state in (WAITING, STRAY)
            self.blindness += MEMORY_OF_BLINDNESS * (unseen - self.blindness)
        self.order.started(record, now)
        record.state = OVER
        if not self.sighted:
            self.census = Census(workers=ENDLESS)
        return changed + self._fill(now, lo, hi)

    def dropped(self, record: Record, now: float) -> list[Record]:
        """Take in that nothing more will be heard of a task."""
        was_head = record is self.head
        if record.started:
            self._leave(record)
        elif record.state == WAITING:
            self.count -= 1
            self.probes.chosen.discard(record.key)
        else:
            self.strays -= 1
        record.state = OVER
        return [*(self._heads() if was_head else []), *self._fill(now, now, now)]

    # When to look at what waits

    def due(self, record: Record, now: float, jitter: float) -> float:
        """When to look at one that waits; infinite until its turn comes."""
        if record.state == STRAY:
            return self._due_stray(record, now, jitter)
        if record.key in self.probes.chosen:
            return now
        return self.probes.head_due if record is self.head else math.inf

    def _due_stray(self, record: Record, now: float, jitter: float) -> float:
        if record.overdue:
            return now
        crowd = (self.strays + self.count) / max(self.running, min(self.census.workers, CROWD), 1) / CROWD
        gap = self.step * max(1.0, math.sqrt(crowd))
        if record.looks == 0 or record.start_lo + gap < now:
            return now + gap * jitter
        return record.start_lo + gap * (1.0 + JITTER * (jitter - 0.5))

    # How states change

    def _wait(self, record: Record) -> None:
        record.fresh = False
        record.start_lo = record.submitted_at
        record.state = WAITING
        self._waiting.append(record)
        self.count += 1

    def _believe(self, record: Record) -> None:
        record.state = BELIEVED
        self.running += 1
        self._believed.append(record)
        if len(self._believed) > 4 * (self.running + MOST_HOLES):
            self._believed = [x for x in self._believed if x.state == BELIEVED]

    def _leave(self, record: Record) -> None:
        self.running -= 1
        self.proven -= record.state == PROVEN
        record.count_alive(-1)

    def _stray(self, record: Record) -> list[Record]:
        record.unsettle()
        record.start_lo = max(record.start_lo, record.submitted_at)
        record.state = STRAY
        self.strays += 1
        return [record]

    def _fill(self, now: float, lo: float, hi: float) -> list[Record]:
        """Believe that as many have started as can run, between two times."""
        begun: list[Record] = []
        while self.order.kept and self.running < self.census.workers and (head := self.head):
            self.count -= 1
            self.probes.chosen.discard(head.key)
            head.fresh = not self.census.limited and head.looks == 0
            head.start_lo = max(head.start_lo, min(lo, now) - self.census.blur, self.queued_at)
            head.start_hi = max(head.start_lo, min(hi, now) + self.census.blur)
            begun += self._in_order(head)
            self._believe(head)
            begun.append(head)
        if begun and not self.census.limited:
            return begun + self._new_head(now)
        return begun + self._heads() if begun else begun

    def _in_order(self, record: Record) -> list[Record]:
        """Ends are not always seen in the order of their times: give earlier starts to earlier tasks."""
        changed: list[Record] = []
        for other in islice(reversed(self._believed), REORDERED):
            if other.state != BELIEVED or other.fresh:
                continue
            if other.start_lo <= record.start_lo or other.submitted_at > record.start_lo:
                break
            other.start_lo, record.start_lo = record.start_lo, other.start_lo
            other.start_hi, record.start_hi = record.start_hi, other.start_hi
            changed.append(other)
            record = other
        return changed

    def _still_waiting(self, record: Record, now: float, *, overtaken: bool) -> list[Record]:
        self.probes.chosen.discard(record.key)
        if not self.census.limited and record.state == WAITING:
            self.census.disproved(self.running)
        if record.state == STRAY or record is not self.head:
            return [record]
        self.queued_at = max(self.queued_at, record.start_lo)
        if overtaken:
            self.count -= 1
            return self._overtaken(record, now)
        self.order.confirmed()
        return self._new_head(now) + self._audit(now)

    def _disproved(self, record: Record, now: float) -> list[Record]:
        """Nothing that was believed to have started after this one has."""
        back = [x for x in self._believed if x.state == BELIEVED and x.order > record.order]
        for other in back:
            self._leave(other)
            other.start_lo = max(other.submitted_at, record.start_lo)
        back.insert(0, record)
        for other in back:
            other.unsettle()
            other.state = WAITING
        self._believed = [x for x in self._believed if x.state == BELIEVED]
        self._waiting[: self._front] = sorted(back, key=lambda x: x.order)
        self._front = 0
        self.count += len(back)
        at_first = not self.census.limited
        self.census.disproved(self.running)
        self.queued_at = max(self.queued_at, record.start_lo)
        return back + self._new_head(now, restart=True) + self._audit(now, AUDITS_AT_FIRST if at_first else 0)

    def _overtaken(self, record: Record, now: float) -> list[Record]:
        self.order.broken()
        changed = self._stray(record)
        while not self.order.kept and (head := self.head):
            self.count -= 1
            self.probes.chosen.discard(head.key)
            changed += self._stray(head)
        self.probes.head_due = now
        return changed + self._heads() + self._fill(now, self.queued_at, now)

    def _found_started(self, record: Record, now: float) -> list[Record]:
        """A task that was believed to wait has started."""
        record.start_hi = now
        if record.state == STRAY:
            self.strays -= 1
            if not self.strays and not self.count:
                self.order.disorder *= 0.5
            return []
        if record is self.head:
            self.order.confirmed()
        self.probes.chosen.discard(record.key)
        self.count -= 1
        record.start_lo = max(record.start_lo, self.queued_at)
        state, record.state = record.state, OVER
        head = self._new_head(now, restart=True)
        record.state = state
        if self.census.limited:
            self.probes.head_due = now
        return head

    def _heads(self) -> list[Record]:
        head = self.head
        return [head] if head else []

    def _new_head(self, now: float, *, restart: bool = False) -> list[Record]:
        """Plan when to look at the first in the queue."""
        head = self.head
        if head is None:
            return []
        if not self.census.limited:
            self.probes.head_due = max(now, head.submitted_at + self.step)
        elif self.running:
            self.probes.schedule_head(now, self.step, 2 * self.service.mean, restart=restart)
        else:
            # Nothing of ours seems to run: others are before us, or the order is not what it seems.
            step = self.step if self.order.deepest >= 0 else self.step / 2
            self.probes.schedule_head(now, max(step, (now - head.submitted_at) / 16), 0.0, restart=True)
        return [head]

    def _audit(self, now: float, most: int = 0) -> list[Record]:
        """Look at a few in the middle of the queue, to see whether the order is kept."""
        if self.count < 3:  # noqa: PLR2004 (there is no middle)
            return []
        step = self.step
        most = most or self.probes.how_many(now, step, 16 * self.service.mean, idle=not self.running)
        return list(self.probes.choose(self._waiting, self._front, min(most, 1 + self.count // AUDIT_SHARE)))
