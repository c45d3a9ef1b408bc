import heapq
import json
import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from novita_async._policy.polling.durations import KEPT, Durations
from novita_async._policy.polling.memory import MOST_KINDS, PollMemory
from novita_async._policy.polling.planner import BackoffPlanner, PollResult, TaskFacts
from novita_async._policy.polling.polls import CELLS, EDGES, FIRST, best_polls, cell_of, integral
from novita_async._policy.polling.queue import CHECKS_AT_FIRST, ENDLESS, MOST_UNSEEN, UNORDERED, QueueModel
from novita_async._policy.polling.schedule import FAILED_CAP, Polling, PollSchedule
from novita_async.errors import ConfigurationError

ENDPOINT = "/v3/async/img2img"
RUNNING, QUEUED, FINISHED = (PollResult(state=state) for state in ("running", "queued", "finished"))


def new(polling=None, memory=None):
    polling = polling or Polling()
    return PollSchedule.of(polling, memory or PollMemory())


def facts(submitted_at=0.0, **others):
    return TaskFacts(endpoint=ENDPOINT, submitted_at=submitted_at, **others)


def only_queue(schedule) -> QueueModel:
    (queue,) = schedule.planner._queues.values()
    return queue


class Job:
    def __init__(self, key, submit, seconds, work=None):
        self.key, self.submit, self.seconds, self.work = key, submit, seconds, work
        self.start = self.done = self.seen = math.inf
        self.polls = 0
        self.polled_at = []


def serve(jobs, workers=None, order=lambda _waiting: 0, change=(math.inf, 0)):
    """Work on all jobs: at once, or by so many workers; `change` is from when on how many work."""
    waiting, running, arriving, now = [], [], sorted(jobs, key=lambda j: -j.submit), 0.0
    while arriving or waiting:
        while running and running[0] <= now:
            heapq.heappop(running)
        while arriving and arriving[-1].submit <= now:
            waiting.append(arriving.pop())
        limit = math.inf if workers is None else change[1] if now >= change[0] else workers
        while waiting and len(running) < limit:
            job = waiting.pop(order(waiting))
            job.start, job.done = now, now + job.seconds
            heapq.heappush(running, job.done)
        soon = [
            *running[:1],
            *(j.submit for j in arriving[-1:]),
            *(t for t in change[:1] if now < t < math.inf),
        ]
        now = min(soon, default=now)
    return jobs


def answer(job, now, *, times=True, words="both", skew=0.0, hint=None):
    if now >= job.done:
        ms = [1000 * (x + skew) for x in (job.submit, job.start, job.done)]
        return (
            PollResult(state="finished", submit_ms=ms[0], execute_ms=ms[1], complete_ms=ms[2])
            if times
            else FINISHED
        )
    if words == "queued" or now < job.start:
        return QUEUED
    return PollResult(state="running", **(hint(job, now) if hint else {}))


def watch(jobs, schedule, *, most=16, until=math.inf, seed=0, **how):
    """Watch jobs to their ends without any latency; returns mean polls and mean delay."""
    rng, by_key = random.Random(seed), {job.key: job for job in jobs}
    arriving, now = sorted(jobs, key=lambda j: -j.submit), 0.0
    while any(j.seen == math.inf for j in jobs):
        now = min(arriving[-1].submit if arriving else math.inf, schedule.next_at(now))
        assert now < math.inf, schedule
        if now > until:
            break
        while arriving and arriving[-1].submit <= now:
            job = arriving.pop()
            schedule.add(job.key, facts(job.submit, work=job.work), now)
        for key in schedule.take(now, most):
            job = by_key[key]
            job.polls += 1
            job.polled_at.append(now)
            found = answer(job, now, **how)
            if found.state == "finished":
                job.seen = now
            schedule.polled(key, found, now, rng.random())
    ended = [j for j in jobs if j.seen < math.inf]
    return sum(j.polls for j in jobs) / len(jobs), sum(j.seen - j.done for j in ended) / len(ended)


def lognormal(n, median=4.0, sigma=0.3, gap=0.0, seed=1):
    rng = random.Random(seed)
    return [Job(f"t{i}", i * gap, median * math.exp(sigma * rng.gauss(0, 1))) for i in range(n)]


# The schedule, whatever the plan and however odd the answers


class ScheduleMachine(RuleBasedStateMachine):
    """Tasks come, are polled, answered in any way, missed, woken and dropped, in any order."""

    @initialize(
        polling=st.sampled_from([Polling(), Polling(cost=1.0), Polling.fixed(0.5), Polling.exponential()]),
    )
    def begin(self, polling):
        self.schedule = new(polling)
        self.now = 0.0
        self.added = 0
        self.waiting, self.under_way = set(), set()
        self.polls = self.failures = self.finished = 0

    @rule(
        n=st.integers(1, 40),
        age=st.sampled_from([None, 0.0, 0.3, 5.0, 400.0]),
        endpoint=st.sampled_from(["a", "a", "b", None]),
        work=st.sampled_from([None, 1e6, 3e7, 0.0]),
    )
    def add(self, n, age, endpoint, work):
        for _ in range(n):
            key = f"k{self.added}"
            self.added += 1
            at = None if age is None else self.now - age
            self.schedule.add(key, TaskFacts(endpoint=endpoint, submitted_at=at, work=work), self.now)
            self.waiting.add(key)
            due = self.schedule._tasks[key].due
            assert due >= self.now
            if age is None:
                assert due == self.now, "a task of yesterday is polled once"

    @rule(dt=st.floats(0.0, 30.0))
    def pass_time(self, dt):
        self.now += dt

    @rule()
    def pass_to_next(self):
        self.now = min(self.schedule.next_at(self.now), self.now + 100)

    @rule(most=st.integers(0, 20))
    def take(self, most):
        due = self.schedule.next_at(self.now)
        taken = self.schedule.take(self.now, most)
        assert len(taken) <= most
        assert len(set(taken)) == len(taken)
        assert set(taken) <= self.waiting, "never two polls of one task at once"
        if due > self.now:
            assert not taken
        if len(taken) < most:
            assert self.schedule.next_at(self.now) > self.now
        self.waiting -= set(taken)
        self.under_way |= set(taken)

    @precondition(lambda self: self.under_way)
    @rule(
        data=st.data(),
        state=st.sampled_from(["queued", "running", "unknown", "finished"]),
        jitter=st.floats(0, 1, exclude_max=True),
        progress=st.one_of(st.none(), st.floats(-10, 200)),
        eta=st.one_of(st.none(), st.floats(-5, 1e6)),
        times=st.one_of(st.none(), st.tuples(*[st.floats(-1e6, 1e6)] * 3)),
        many=st.booleans(),
    )
    def answer(self, data, state, jitter, progress, eta, times, many):  # noqa: PLR0917 (drawn)
        keys = sorted(self.under_way) if many else [data.draw(st.sampled_from(sorted(self.under_way)))]
        submit, execute, complete = times if times and state == "finished" else (None, None, None)
        found = PollResult(
            state=state,
            progress=progress,
            eta=eta,
            submit_ms=submit,
            execute_ms=execute,
            complete_ms=complete,
        )
        for key in keys:
            self.under_way.discard(key)
            self.polls += 1
            self.schedule.polled(key, found, self.now, jitter)
            if state == "finished":
                self.finished += 1
            else:
                self.waiting.add(key)
            self.schedule.polled(key, found, self.now, jitter)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), jitter=st.floats(0, 1, exclude_max=True), hint=st.sampled_from([None, 0.0, 20.0]))
    def fail(self, data, jitter, hint):
        key = data.draw(st.sampled_from(sorted(self.under_way)))
        self.schedule.failed(key, self.now, jitter, hint)
        self.schedule.failed(key, self.now, jitter, hint)
        self.under_way.discard(key)
        self.waiting.add(key)
        self.polls += 1
        self.failures += 1
        due = self.schedule._tasks[key].due
        assert self.now + (hint or 0.0) <= due <= self.now + max(hint or 0.0, FAILED_CAP)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def wake(self, data):
        key = data.draw(st.sampled_from(sorted(self.waiting)))
        self.schedule.wake(key, self.now)
        assert self.schedule.next_at(self.now) == self.now
        assert self.schedule._tasks[key].due <= self.now

    @precondition(lambda self: self.waiting or self.under_way)
    @rule(data=st.data())
    def drop(self, data):
        key = data.draw(st.sampled_from(sorted(self.waiting | self.under_way)))
        self.schedule.drop(key)
        self.schedule.drop(key)
        self.waiting.discard(key)
        self.under_way.discard(key)

    @invariant()
    def counts(self):
        now = self.schedule.statistics()
        assert (now.waiting, now.under_way) == (len(self.waiting), len(self.under_way))
        assert (now.polls, now.failed, now.finished) == (self.polls, self.failures, self.finished)

    @invariant()
    def something_is_always_due(self):
        due = self.schedule.next_at(self.now)
        assert due >= self.now
        if self.waiting and not self.under_way:
            assert due < math.inf, self.schedule

    @invariant()
    def queues_count_right(self):
        if not isinstance(self.schedule.planner, BackoffPlanner):
            for queue in self.schedule.planner._queues.values():
                records = [x for x in self.schedule._tasks.values() if x.queue is queue]
                states = [x.state for x in records]
                assert (queue.waiting, queue.out_of_order) == (states.count(0), states.count(1))
                assert (queue.running, queue.proven) == (states.count(2) + states.count(3), states.count(3))
                assert all(x.due < math.inf for x in records if x.state in (1, 2, 3))

    def teardown(self):
        """Whatever has happened: once everything is done, everything is soon seen to be."""
        for key in sorted(self.under_way):
            self.schedule.polled(key, FINISHED, self.now, 0.5)
        left, began = len(self.waiting), self.now
        for _ in range(2 * left + 10):
            if not left:
                break
            self.now = self.schedule.next_at(self.now)
            taken = self.schedule.take(self.now, 16)
            left -= len(taken)
            for key in taken:
                self.schedule.polled(key, FINISHED, self.now, 0.5)
        assert left == 0
        assert self.now - began < 4000 + 40 * self.added


ScheduleMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestSchedule = ScheduleMachine.TestCase


def test_a_fixed_pause_starts_at_the_submission_and_stays():
    """Poll one pause after the submission, then one pause after each poll, give or take a tenth."""
    schedule = new(Polling.fixed(2.0))
    schedule.add("a", facts(10.0), 10.5)
    assert schedule.next_at(10.5) == 12.0
    assert schedule.take(11.9, 5) == []
    assert schedule.take(12.0, 5) == ["a"]
    schedule.polled("a", RUNNING, 12.1, 0.0)
    assert schedule.next_at(12.1) == pytest.approx(12.1 + 2.0 * 0.9)
    assert schedule.take(14.0, 5) == ["a"]
    schedule.polled("a", RUNNING, 14.0, 0.5)
    assert schedule.next_at(14.0) == pytest.approx(16.0)


def test_exponential_pauses_grow_up_to_their_cap():
    backoff = Polling.exponential(first=1.0, factor=2.0, cap=5.0).backoff
    assert [backoff.pause(n) for n in (0, 1, 2, 3, 5000)] == [1.0, 2.0, 4.0, 5.0, 5.0]


@pytest.mark.parametrize("polling", [Polling(), Polling.fixed(5.0)])
def test_a_task_of_yesterday_and_one_long_submitted_are_polled_at_once(polling):
    schedule = new(polling)
    schedule.add("unknown", TaskFacts(), 100.0)
    schedule.add("old", facts(-1000.0), 100.0)
    assert sorted(schedule.take(100.0, 5)) == ["old", "unknown"]


def test_a_task_of_yesterday_is_polled_at_once_even_in_a_full_queue():
    """And it keeps its turn when it turns out to be queued."""
    schedule = new()
    for i in range(30):
        schedule.add(f"t{i}", facts(0.0), 0.0)
    schedule.add("unknown", facts(None), 1.0)
    assert schedule.take(1.0, 5) == ["unknown"]
    schedule.polled("unknown", QUEUED, 1.0, 0.5)
    assert schedule._tasks["unknown"].due == math.inf
    assert schedule.next_at(1.0) < 10.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"cost": 0.0},
        {"cost": math.nan},
        {"polls_per_second": -1.0},
        {"deadline": math.inf},
        {"error_timeout": -1.0},
        {"not_found_grace": math.nan},
        {"concurrency": 0},
    ],
)
def test_a_wrong_choice_is_refused_when_it_is_made(wrong):
    with pytest.raises(ConfigurationError, match=f"Polling.{next(iter(wrong))}: "):
        Polling(**wrong)


@pytest.mark.parametrize("wrong", [{"first": 0.0}, {"factor": 0.5}, {"factor": math.inf}, {"cap": -1.0}])
def test_a_wrong_backoff_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=f"Backoff.{next(iter(wrong))}: "):
        Polling.exponential(**wrong)


def test_choices_other_than_the_pauses_pass_through():
    assert Polling.fixed(1.0, deadline=5.0).deadline == 5.0
    assert Polling.exponential(concurrency=2).concurrency == 2


def test_failed_polls_are_repeated_ever_more_rarely_and_answers_reset_that():
    schedule = new(Polling.fixed(1.0))
    schedule.add("a", facts(), 0.0)
    now, pauses = 1.0, []
    for _ in range(8):
        assert schedule.take(now, 1) == ["a"]
        schedule.failed("a", now, 0.999999)
        pauses.append(schedule.next_at(now) - now)
        now = schedule.next_at(now)
    assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 15, 15, 15], rel=1e-3)
    schedule.take(now, 1)
    schedule.polled("a", RUNNING, now, 0.5)
    now = schedule.next_at(now)
    schedule.take(now, 1)
    schedule.failed("a", now, 0.999999)
    assert schedule.next_at(now) - now == pytest.approx(0.5, rel=1e-3)


def test_a_pause_that_the_service_asks_for_is_not_cut_short_by_what_others_do():
    """Ends of other tasks move the queue on, but not a task that is backing off."""
    schedule = new()
    for key in "abc":
        schedule.add(key, facts(), 0.0)
    now = schedule.next_at(0.0)
    assert len(schedule.take(now, 3)) == 3
    schedule.polled("a", QUEUED, now, 0.5)
    schedule.failed("b", now, 0.5, 60.0)
    schedule.polled("c", FINISHED, now, 0.5)
    assert schedule._tasks["b"].due == now + 60.0
    schedule.wake("b", now + 1)
    assert "b" in schedule.take(now + 1, 1)


def test_what_is_not_waited_for_is_ignored():
    schedule = new()
    schedule.add("a", facts(), 0.0)
    schedule.add("a", facts(500.0), 0.0)
    schedule.polled("b", RUNNING, 1.0, 0.5)
    schedule.failed("a", 1.0, 0.5)
    schedule.wake("b", 1.0)
    schedule.drop("b")
    assert schedule.statistics().polls == 0
    assert schedule.next_at(0.0) < 10.0
    assert repr(schedule) == "<PollSchedule 1 waiting, 0 under way, 0 finished, 0 polls>"


def test_a_dropped_task_leaves_nothing_behind_with_a_backoff():
    schedule = new(Polling.fixed(1.0))
    for key in "ab":
        schedule.add(key, facts(), 0.0)
    schedule.drop("a")
    assert schedule.take(1.0, 5) == ["b"]
    assert schedule.statistics().waiting == 0


def test_a_hint_does_not_repeat_a_poll_that_is_under_way():
    schedule = new(Polling.fixed(1.0))
    schedule.add("a", facts(), 0.0)
    assert schedule.take(1.0, 1) == ["a"]
    schedule.wake("a", 1.0)
    assert schedule.take(1.0, 1) == []


# The best polls of a known distribution


@given(
    masses=st.lists(st.tuples(st.integers(150, 300), st.floats(0.01, 1.0)), min_size=1, max_size=6),
    cost=st.floats(0.01, 2.0),
)
@settings(max_examples=20, deadline=None)
def test_the_envelope_finds_what_trying_everything_finds(masses, cost):
    """The one-pass solution costs what the quadratic dynamic programme costs."""
    density = [1e-7] * CELLS
    for cell, mass in masses:
        for i in range(cell, cell + 8):
            density[i] += mass
    total, alive, survival = sum(density), 1.0, []
    for mass in density:
        alive -= mass / total
        survival.append(max(1e-9, alive))
    area = integral(survival)
    table = best_polls(survival, area, cost)
    high = table.low + len(table.nexts) - 1
    targets = [*range(table.low, high + 1)]
    end = 1.25 * EDGES[high]
    lines = [(end, -area[high] - survival[high] * (end - EDGES[high]))]
    best = {}
    for i in [*reversed(targets), -1]:
        t, g, a = (EDGES[i], survival[i], area[i]) if i >= 0 else (0.0, 1.0, 0.0)
        best[i] = g * cost - g * t + a + min(g * age + height for age, height in lines)
        lines.append((t, best[i] - a))
    assert table.first_cost == pytest.approx(best[-1], rel=1e-6)
    for i in targets:
        assert table.cost_from(EDGES[i]) == pytest.approx(best[i] / survival[i], rel=1e-5)
    assert table.cost_from(0.0) == table.first_cost


@given(age=st.floats(0.0, 20000.0))
@settings(max_examples=100, deadline=None)
def test_the_next_poll_is_always_later(age):
    durations = Durations()
    for _ in range(5):
        durations.observe(5.0, 7.0)
    assert durations.table(0.07).after(age) > age


def test_of_a_task_that_has_hardly_begun_the_next_poll_is_the_first():
    table = observed(SAMPLE).table(0.07)
    early = EDGES[table.low] * 0.9
    assert table.after(0.0) == table.after(FIRST) == table.after(early) == table.first
    assert table.after(20_000.0) == 25_000.0


@given(seconds=st.floats(0.0, 1e5))
def test_a_duration_lies_in_its_cell(seconds):
    cell = cell_of(seconds)
    assert 0 <= cell < CELLS
    assert cell == 0 or EDGES[cell - 1] * (1 - 1e-6) < seconds
    assert cell == CELLS - 1 or seconds <= EDGES[cell] * (1 + 1e-6)
    assert cell_of(FIRST) == 0


# What is learned of durations


def observed(sample, between=None):
    durations = Durations()
    for x in sample:
        low, high = between(x) if between else (x, x)
        durations.observe(low, high)
        durations.refresh()
    return durations


SAMPLE = [job.seconds for job in lognormal(400, 6.0, 0.4)]


def test_exact_durations_are_learned():
    durations = observed(SAMPLE)
    assert durations.median == pytest.approx(6.0, rel=0.06)
    assert durations.early == pytest.approx(6.0 * math.exp(-0.84 * 0.4), rel=0.1)
    assert durations.mean == pytest.approx(6.0 * math.exp(0.08), rel=0.08)


def test_the_end_of_a_span_is_not_taken_for_the_end_of_the_task():
    """From polls every 3 s the same is learned as from exact times, without any drift."""
    durations = observed(SAMPLE, lambda x: (x // 3 * 3.0, x // 3 * 3.0 + 3.0))
    assert durations.median == pytest.approx(6.0, rel=0.1)


def test_what_still_runs_counts():
    """A tenth has ended, all of it early; the rest is known to run."""
    durations = Durations()
    for i in range(20):
        durations.observe(2.0 + i / 20, 2.0 + i / 20)
    for _ in range(180):
        durations.count_running(-1, cell_of(3.0))
    assert durations.quantile(0.05) < 3.0
    durations._estimate()
    assert durations.median > 3.5
    for _ in range(180):
        durations.count_running(cell_of(3.0), -1)
    durations._estimate()
    assert durations.median < 3.0


def test_new_durations_wear_off_old_ones():
    durations = observed([*SAMPLE, *[20.0] * KEPT])
    assert durations.median == pytest.approx(20.0, rel=0.05)
    assert len(durations._spans) == KEPT


@pytest.mark.parametrize(("since", "age", "ended"), [(0.0, 2.5, True), (11.0, 14.0, False)])
def test_bets_that_are_lost_again_and_again_make_it_forget(since, age, ended):
    """Ends long before their time, or none long after it."""
    durations = observed(SAMPLE)
    for _ in range(60):
        durations.compare(since, age, ended=ended)
    assert len(durations._spans) < 60
    durations.refresh()
    assert durations.version > 1


@pytest.mark.parametrize("factor", [1 / 3, 3.0])
def test_a_change_of_durations_is_noticed_in_both_directions(factor):
    """Polled every 3 s, each task once it is over is seen; from 30 changed tasks on only new ones count."""
    durations = observed(SAMPLE)
    for x in SAMPLE[:30]:
        for since in range(0, 300, 3):
            ended = x * factor <= since + 3.0
            durations.compare(float(since), since + 3.0, ended=ended)
            if ended:
                durations.observe(float(since), since + 3.0)
                break
    assert len(durations._spans) < 60


def test_bets_at_fair_odds_change_nothing():
    durations = observed(SAMPLE)
    for x in SAMPLE * 3:
        durations.compare(0.0, 5.0, ended=x <= 5.0)
        if x > 5.0:
            durations.compare(5.0, 7.0, ended=x <= 7.0)
    assert len(durations._spans) == len(SAMPLE)


def test_a_few_lost_bets_with_little_known_change_nothing():
    durations = observed(SAMPLE[:10])
    for _ in range(30):
        durations.compare(0.0, 0.5, ended=True)
    assert len(durations._spans) == 10


def test_sizes_of_work_are_told_apart_in_steps():
    """Half as much work again is another kind of task; a little more is the same."""
    memory = PollMemory()
    kind = memory.kind("x", 4e7)
    assert memory.kind("x", 4.1e7) is kind
    assert memory.kind("x", 6e7) is not kind
    assert memory.kind("y", 4e7) is not kind


def test_absurd_sizes_of_work_are_borne():
    memory = PollMemory()
    memory.kind("x", 1.0).service.observe(1.0, 1.0)
    for work in (1e308, 5e-324, math.inf, -1.0, math.nan):
        memory.kind("x", work).service._estimate()
    assert memory.kind("x", math.nan) is memory.kind("x", None) is memory.kind("x", math.inf)


def test_the_oldest_kinds_are_forgotten():
    memory = PollMemory()
    first = memory.kind("0", None)
    for i in range(1, MOST_KINDS + 1):
        memory.kind(str(i), None)
    assert len(memory.statistics().kinds) == MOST_KINDS
    assert memory.kind("0", None) is not first


def test_what_was_learned_outlives_the_process():
    """A memory that went through JSON places the first poll of the next run where the old one does."""
    polling, memory = Polling(), PollMemory()
    watch(
        serve(lognormal(100, 6.0, 0.2, gap=1.0)),
        new(polling, memory),
        hint=lambda j, now: {"eta": j.done - now},
    )
    again = PollMemory.from_dict(json.loads(json.dumps(memory.to_dict())))
    firsts = []
    for known in (memory, again, PollMemory()):
        schedule = new(polling, known)
        schedule.add("x", facts(0.0), 0.0)
        firsts.append(schedule.next_at(0.0))
    assert firsts[1] == pytest.approx(firsts[0], rel=0.1)
    assert firsts[2] != pytest.approx(firsts[0], rel=0.3)
    assert again.kind(ENDPOINT, None).forecast("eta").ends > 8
    (kind,) = again.statistics().kinds
    assert (kind.endpoint, kind.work, kind.observed) == (ENDPOINT, None, 100)
    assert kind.median == pytest.approx(6.0, rel=0.1)
    assert repr(again) == "<PollMemory of 100 tasks of 1 kinds>"
    assert PollMemory().to_dict() == {"version": 1, "kinds": []}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["kinds", "endpoint", "size", "age", "service", "forecasts", "eta"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(kept=JSON, rows=st.lists(JSON, max_size=3))
@settings(deadline=None)
def test_a_memory_of_garbage_is_an_empty_memory(kept, rows):
    for thing in (kept, {"version": 1, "kinds": kept}, {"version": 1, "kinds": rows}):
        new(memory=PollMemory.from_dict(thing)).add("x", facts(), 0.0)


def test_only_what_makes_sense_is_remembered():
    spans = [[3, 5], [5, 3], [-1, 2], [1, CELLS], [1, 2, 3], "ab", [4, 4.0], [7, 7]]
    row = {
        "endpoint": "x",
        "size": 4,
        "age": spans,
        "service": None,
        "forecasts": {"eta": spans, "vibes": spans},
    }
    kept = {
        "version": 1,
        "kinds": [row, {"endpoint": 4}, {"endpoint": "y", "size": 1.5}, row | {"size": True}],
    }
    memory = PollMemory.from_dict(kept)
    (kind,) = memory._kinds.values()
    assert (kind.age.observed, kind.service.observed, kind.forecast("eta").observed) == (2, 0, 2)
    assert list(kind.forecasts) == ["eta"]
    assert PollMemory.from_dict(kept | {"version": 2}).statistics().kinds == ()


# The queue


@pytest.mark.parametrize(
    ("times", "polls", "delay"), [(True, 4.9, 0.32), (False, 5.2, 0.33)], ids=["times", "polls alone"]
)
def test_a_burst_is_asked_for_as_if_one_knew_when_each_task_starts(times, polls, delay):
    """400 on 8 workers: who knew all starts would need 4.1 polls for 0.26 s; a fixed 0.5 s needs 213."""
    schedule = new()
    seen = watch(serve(lognormal(400), 8), schedule, times=times)
    assert (seen[0] < polls, seen[1] < delay) == (True, True), seen
    assert only_queue(schedule).workers.most == 8
    assert repr(only_queue(schedule)) == "<QueueModel 0 waiting, 0 running of 8>"


@pytest.mark.parametrize("times", [True, False])
def test_a_server_that_slows_down_is_followed(times):
    schedule = new()
    jobs = serve(lognormal(300), 8, change=(60.0, 3))
    polls, delay = watch(jobs, schedule, times=times)
    assert (polls < 5.6, delay < 0.36) == (True, True), (polls, delay)
    assert only_queue(schedule).workers.most == 3


@pytest.mark.parametrize("times", [True, False])
def test_a_server_that_gets_more_workers_is_followed(times):
    schedule = new()
    polls, delay = watch(serve(lognormal(400), 3, change=(60.0, 12)), schedule, times=times)
    assert (polls < 6.5, delay < 0.6) == (True, True), (polls, delay)
    assert 10 <= only_queue(schedule).workers.most <= 16


def test_what_cannot_have_started_is_hardly_asked_for():
    jobs = serve(lognormal(400), 8)
    watch(jobs, new(), until=80.0)
    waiting = [j for j in jobs if j.start > 80.0]
    assert len(waiting) > 200
    assert sum(j.polls for j in waiting) < 60


@pytest.mark.parametrize("times", [True, False])
def test_a_server_that_keeps_no_order_is_found_out(times):
    """Then every waiting task is asked for by itself, at a third of the polls of a fixed 0.5 s."""
    rng = random.Random(3)
    jobs = serve(lognormal(400), 8, order=lambda waiting: rng.randrange(len(waiting)))
    schedule, disorder = new(), []
    polls, delay = watch(jobs, schedule, times=times)
    assert (polls < 60, delay < 0.75) == (True, True), (polls, delay)
    disorder = only_queue(schedule).order.disorder
    assert disorder > UNORDERED / 2
    late = [j for j in jobs if j.start > 60.0]
    assert sum(j.seen - j.done for j in late) / len(late) < 0.5


def test_one_overtaken_task_is_out_of_order_and_the_others_keep_their_turn():
    """The task that the server forgot is asked for rarely, and by itself."""
    jobs = lognormal(120)
    lost = jobs[30]
    serve([j for j in jobs if j is not lost], 4)
    schedule = new()
    watch(jobs, schedule, until=150.0)
    others = [j for j in jobs if j is not lost]
    assert only_queue(schedule).order.kept
    assert only_queue(schedule).out_of_order == 1
    assert sum(j.polls for j in others) / len(others) < 6
    assert lost.polls < 60
    assert repr(only_queue(schedule)) == "<QueueModel 1 waiting, 0 running of 4>"


def test_a_lane_without_order_says_so_and_gets_another_chance_when_it_is_empty():
    rng = random.Random(3)
    jobs = serve(lognormal(120), 4, order=lambda waiting: rng.randrange(len(waiting)))
    schedule = new()
    watch(jobs, schedule, until=60.0)
    queue = only_queue(schedule)
    assert not queue.order.kept
    assert repr(queue).endswith(", in no order>")
    schedule.add("one more", facts(60.0), 60.0)
    assert schedule._tasks["one more"].state == 1
    schedule.drop("one more")
    schedule.add("of yesterday", facts(None), 60.0)
    assert schedule._tasks["of yesterday"].due == 60.0
    schedule.drop("of yesterday")
    for job in jobs:
        schedule.drop(job.key)
    queue.order.disorder = 0.9
    schedule.add("alone", facts(100.0), 100.0)
    schedule.add("beside", facts(100.0), 100.0)
    assert {schedule._tasks[k].state for k in ("alone", "beside")} == {2}


@pytest.mark.parametrize("times", [True, False])
def test_a_server_that_says_queued_until_it_is_done_is_not_listened_to(times):
    jobs = serve(lognormal(300, 6.0, 0.5, gap=1.0))
    schedule = new()
    polls, delay = watch(jobs, schedule, times=times, words="queued")
    queue = only_queue(schedule)
    assert not queue.believes_queued
    assert queue.workers.most == ENDLESS
    assert (polls < 12, delay < 2.5) == (True, True), (polls, delay)
    for i in range(20):
        schedule.add(f"x{i}", facts(400.0), 400.0)
    while queue.unseen_share >= MOST_UNSEEN:
        now = schedule.next_at(400.0)
        for key in schedule.take(now, 16):
            schedule.polled(key, RUNNING, now, 0.5)
    assert queue.believes_queued


def test_without_a_queue_every_task_starts_when_it_is_submitted():
    """Belief goes ahead of proof twice as far, until every task is believed to run."""
    schedule = new()
    for i in range(100):
        schedule.add(f"t{i}", facts(), 0.0)
    queue = only_queue(schedule)
    assert (queue.running, queue.waiting) == (16, 84)
    rounds, now = 0, 0.0
    while queue.waiting:
        now = schedule.next_at(now)
        for key in schedule.take(now, 16):
            schedule.polled(key, RUNNING, now, 0.5)
        rounds += 1
    assert rounds < 40
    assert now < 6.0
    assert not queue.workers.limited
    assert repr(queue) == "<QueueModel 0 waiting, 100 running of any number of>"


def test_the_first_poll_that_finds_a_queue_is_checked_behind_the_front():
    schedule = new()
    for i in range(400):
        schedule.add(f"t{i}", facts(), 0.0)
    now = schedule.next_at(0.0)
    first = schedule.take(now, 1)[0]
    schedule.polled(first, QUEUED, now, 0.5)
    chosen = [x.order for x in schedule._tasks.values() if x.due == now]
    assert len(chosen) >= CHECKS_AT_FIRST / 2
    assert max(chosen) > 300
    assert only_queue(schedule).workers.limited


def test_a_poll_that_was_sent_before_a_start_does_not_disprove_it():
    """An answer may be older than what was learned while it was on its way."""
    schedule = new()
    for i in range(4):
        schedule.add(f"t{i}", facts(), 0.0)
    now = schedule.next_at(0.0)
    taken = schedule.take(now, 4)
    assert len(taken) == 4
    for key in ("t1", "t2", "t3"):
        schedule.polled(key, QUEUED, now, 0.5)
    schedule.polled("t0", RUNNING, now, 0.5)
    queue = only_queue(schedule)
    assert (queue.running, queue.workers.most) == (1, 1)
    schedule.wake("t1", now + 1)
    schedule.wake("t0", now + 1)
    assert sorted(schedule.take(now + 1, 2)) == ["t0", "t1"]
    schedule.polled("t0", FINISHED, now + 3, 0.5)
    assert queue.running == 1
    schedule.polled("t1", QUEUED, now + 3.1, 0.5)
    assert queue.running == 1, "it started after it was polled"


def limited_to(running, waiting, now=5.0):
    """A schedule that knows that so many of its tasks run, and that the others wait."""
    schedule = new()
    for i in range(running + waiting):
        schedule.add(f"t{i}", facts(), 0.0)
    for i in range(running + 1):
        schedule.wake(f"t{i}", now)
    for key in sorted(schedule.take(now, running + 1)):
        schedule.polled(key, RUNNING if key < f"t{running}" else QUEUED, now, 0.5)
    queue = only_queue(schedule)
    assert (queue.running, queue.waiting, queue.workers.most) == (running, waiting, running)
    for key in schedule.take(now, 50):
        schedule.polled(key, QUEUED, now, 0.5)
    return schedule


def ended(at):
    return PollResult(state="finished", submit_ms=0.0, execute_ms=0.0, complete_ms=1000 * at)


def poll(schedule, key, found, now):
    schedule.wake(key, now)
    assert schedule.take(now, 1) == [key]
    schedule.polled(key, found, now, 0.5)


def test_ends_seen_in_another_order_give_starts_in_the_right_order():
    """The end at 6 is seen after the one at 7: the first in the queue started at 6 all the same."""
    schedule = limited_to(3, 4)
    poll(schedule, "t0", ended(7.0), 7.5)
    assert schedule._tasks["t3"].start == pytest.approx(7.0, abs=0.01)
    poll(schedule, "t1", ended(6.0), 7.6)
    starts = [schedule._tasks[key].start for key in ("t3", "t4")]
    assert starts == pytest.approx([6.0, 7.0], abs=0.01)


def test_when_the_first_is_overtaken_the_next_is_polled_at_once():
    schedule = limited_to(2, 5)
    poll(schedule, "t5", RUNNING, 6.0)
    assert schedule.take(6.0, 1) == ["t2"]
    schedule.polled("t2", QUEUED, 6.0, 0.5)
    assert schedule._tasks["t2"].state == 1
    assert schedule.take(6.0, 1) == ["t3"]


def test_a_task_that_waits_in_its_turn_can_be_dropped():
    """The next one behind it is then the first, and is asked for in its place."""
    schedule = limited_to(2, 5)
    queue, planned = only_queue(schedule), schedule._tasks["t2"].due
    schedule.drop("t4")
    assert (queue.waiting, schedule._tasks["t3"].due) == (4, math.inf)
    schedule.drop("t2")
    assert (queue.waiting, queue.out_of_order, queue.running) == (3, 0, 2)
    assert schedule._tasks["t3"].due == planned < math.inf


def test_one_that_was_woken_and_runs_says_nothing_of_a_queue_that_nobody_has_seen():
    """Only where tasks are known to queue is the next one then polled in the same moment."""
    schedule = new()
    for i in range(20):
        schedule.add(f"t{i}", facts(), 0.0)
    queue = only_queue(schedule)
    assert (queue.running, queue.waiting) == (16, 4)
    poll(schedule, "t18", RUNNING, 0.1)
    assert (queue.running, queue.waiting, queue.workers.limited) == (17, 3, False)
    assert queue.checks.head_due == queue.step > 0.1


def test_tasks_out_of_order_that_start_count_for_the_order_only_once_none_is_left():
    """One task out of order that starts says nothing: another one, or a queue, is still there to tell."""
    schedule = limited_to(2, 4)
    poll(schedule, "t4", RUNNING, 6.0)
    poll(schedule, "t2", QUEUED, 6.1)
    poll(schedule, "t3", QUEUED, 6.2)
    queue = only_queue(schedule)
    assert (queue.out_of_order, queue.waiting) == (2, 1)
    before = queue.order.disorder
    poll(schedule, "t2", RUNNING, 6.3)
    assert (queue.out_of_order, queue.order.disorder) == (1, before)
    poll(schedule, "t3", RUNNING, 6.4)
    assert (queue.out_of_order, queue.waiting, queue.order.disorder) == (0, 1, before), (
        "one is still in its turn"
    )
    poll(schedule, "t5", RUNNING, 6.5)
    assert queue.order.disorder < before


def test_the_last_task_out_of_order_that_starts_halves_the_disorder():
    schedule = limited_to(2, 2)
    poll(schedule, "t3", RUNNING, 6.0)
    poll(schedule, "t2", QUEUED, 6.1)
    queue = only_queue(schedule)
    before = queue.order.disorder
    assert (queue.out_of_order, queue.waiting, before > 0) == (1, 0, True)
    poll(schedule, "t2", FINISHED, 6.2)
    assert (queue.out_of_order, queue.order.disorder) == (0, before / 2)


def test_nothing_is_learned_of_durations_from_a_task_of_unknown_age():
    """Unless its answer tells when it began to work."""
    schedule = new()
    for key in "ab":
        schedule.add(key, TaskFacts(endpoint=ENDPOINT), 100.0)
    assert sorted(schedule.take(100.0, 2)) == ["a", "b"]
    schedule.polled("a", FINISHED, 100.0, 0.5)
    kind = schedule.planner.memory.kind(ENDPOINT, None)
    assert (kind.age.observed, kind.service.observed) == (0, 0)
    schedule.polled("b", PollResult(state="finished", execute_ms=0.0, complete_ms=5000.0), 100.0, 0.5)
    assert (kind.age.observed, kind.service.observed) == (0, 1)


def test_tasks_are_kept_apart_by_account_and_endpoint():
    schedule = new()
    for i, account in enumerate(["a", "b", "a"]):
        schedule.add(f"t{i}", facts(account=account), 0.0)
    assert sorted(queue.running for queue in schedule.planner._queues.values()) == [1, 2]


def test_the_clock_of_the_server_does_not_matter():
    """Minutes of skew change nothing at all."""
    polls = []
    for skew in (0.0, 300.0, -7200.0):
        jobs = serve(lognormal(120), 4)
        watch(jobs, new(), skew=skew)
        polls.append([j.polls for j in jobs])
    assert polls[0] == polls[1] == polls[2]


def test_times_that_cannot_be_are_put_right():
    """An end before the task was last seen running, or after it was seen finished, is moved into between."""
    for complete_ms in (-1e9, 1e9):
        schedule = new()
        schedule.add("a", facts(), 0.0)
        schedule.take(4.0, 1)
        schedule.polled("a", RUNNING, 4.0, 0.5)
        now = schedule.next_at(4.0)
        schedule.take(now, 1)
        end = PollResult(state="finished", submit_ms=0.0, complete_ms=complete_ms)
        schedule.polled("a", end, now, 0.5)
        (span,) = schedule.planner.memory.kind(ENDPOINT, None).age._spans
        assert cell_of(4.0) <= span[0] == span[1] <= cell_of(now)


# Long ones, changes, forecasts


def test_gaps_are_bounded_by_the_mean_and_by_the_age():
    """What takes far longer than all before it is still polled."""
    jobs = lognormal(60, 6.0, 0.2, gap=1.0)
    jobs[-1].seconds = 3000.0
    schedule = new()
    watch(serve(jobs), schedule)
    polls = jobs[-1].polled_at
    mean = schedule.planner.memory.kind(ENDPOINT, None).age.mean
    for before, after in pairwise(polls):
        age = before - jobs[-1].submit
        assert after - before <= max(1.5 * max(mean, 12.0), age / 3) * 1.04
    assert 15 < len(polls) < 150


def test_even_what_the_estimate_would_leave_alone_is_polled():
    """All end after a second or after five minutes; between nothing should end, and yet there are polls."""

    def known():
        memory = PollMemory()
        for i in range(200):
            seconds = 300.0 if i % 40 == 0 else 1.0
            memory.kind(ENDPOINT, None).age.observe(seconds, seconds)
        return memory

    age = known().kind(ENDPOINT, None).age
    table = age.table(0.07)
    bounds = [(t, max(1.5 * age.mean, t / 3)) for t in range(5, 250, 5)]
    bound = [(t, gap) for t, gap in bounds if table.after(t) - t > 1.2 * gap]
    assert bound
    for t, gap in bound:
        schedule = new(memory=known())
        schedule.add("a", facts(), 0.0)
        schedule.take(t, 1)
        schedule.polled("a", RUNNING, t, 0.5)
        assert schedule.next_at(t) <= t + gap * 1.01


@pytest.mark.parametrize("times", [True, False])
@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_a_change_of_speed_is_followed(factor, times):
    """Twice as many tasks later, polls cost about what they would with the new speed from the beginning."""
    jobs = lognormal(400, 6.0, 0.3, gap=1.0)
    for job in jobs[200:]:
        job.seconds *= factor
    watch(serve(jobs), new(), times=times)
    late = jobs[300:]
    polls = sum(j.polls for j in late) / len(late)
    delay = sum(j.seen - j.done for j in late) / len(late)
    assert delay + 0.07 * polls < 0.67 * math.sqrt(factor) * 1.35


def test_a_dropped_task_has_run_at_least_as_long_as_it_was_seen_to():
    schedule = new()
    schedule.add("a", facts(), 0.0)
    schedule.take(30.0, 1)
    schedule.polled("a", RUNNING, 30.0, 0.5)
    schedule.drop("a")
    age = schedule.planner.memory.kind(ENDPOINT, None).age
    assert list(age._spans) == [(cell_of(30.0), CELLS - 1)]
    assert (age.observed, age.ends) == (1, 0)
    assert sum(age._running.values()) == 0


def test_a_poll_is_put_off_when_more_has_been_learned_since_it_was_planned():
    """Planned by the prior, put off because everything turns out to take half a minute."""
    memory = PollMemory()
    schedule = new(memory=memory)
    schedule.add("a", facts(), 0.0)
    now = schedule.next_at(0.0)
    schedule.take(now, 1)
    schedule.polled("a", RUNNING, now, 0.5)
    planned = schedule.next_at(now)
    for i in range(60):
        memory.kind(ENDPOINT, None).age.observe(30.0 + i / 60, 30.0 + i / 60)
    memory.kind(ENDPOINT, None).age.refresh()
    assert schedule.take(planned, 1) == []
    assert schedule.next_at(planned) > planned + 5


def progress(job, now):
    return {"progress": 100 * (now - job.start) / job.seconds}


@pytest.mark.parametrize(
    ("hint", "polls", "cost"),
    [
        (progress, 3.5, 0.45),
        (lambda job, now: {"eta": job.done - now}, 3.5, 0.45),
        (lambda *_: {"progress": 50.0}, 7.2, 0.95),
        (lambda *_: {"progress": 0.0, "eta": 0.0}, 7.2, 0.95),
        (lambda *_: {"eta": 0.1}, 7.2, 0.95),
        (lambda *_: {"eta": math.nan, "progress": 100.0}, 7.2, 0.95),
    ],
    ids=["progress that moves", "honest eta", "stuck", "always 0", "always nearly done", "nonsense"],
)
def test_forecasts_are_used_where_they_hold_and_cost_nothing_where_they_do_not(hint, polls, cost):
    """Without forecasts it is about 6.2 polls at a cost of 0.86."""
    seen = watch(serve(lognormal(300, 6.0, 0.5, gap=1.0)), new(), hint=hint)
    assert (seen[0] < polls, seen[1] + 0.07 * seen[0] < cost) == (True, True), seen


def test_polls_that_an_honest_forecast_has_timed_are_no_sign_of_a_change():
    """They find ends more often than durations alone promise, and nothing is forgotten for that."""
    schedule = new()
    watch(serve(lognormal(200, 6.0, 0.2, gap=1.0)), schedule, hint=lambda j, now: {"eta": j.done - now})
    assert len(schedule.planner.memory.kind(ENDPOINT, None).age._spans) == 200


def test_an_unknown_word_counts_as_running():
    schedule = new()
    schedule.add("a", facts(), 0.0)
    now = schedule.next_at(0.0)
    schedule.take(now, 1)
    schedule.polled("a", PollResult(state="unknown"), now, 0.5)
    assert only_queue(schedule).proven == 1
    assert schedule.next_at(now) > now


def test_thousands_of_tasks_take_little_memory_each():
    """At most 0.6 KB a task, everything that the schedule holds included."""
    import tracemalloc  # noqa: PLC0415 - only here

    schedule, keys = new(), [f"t{i}" for i in range(2_000)]
    known = [facts(i * 0.01) for i in range(2_000)]
    tracemalloc.start()
    for key, fact in zip(keys, known, strict=True):
        schedule.add(key, fact, fact.submitted_at)
    only_queue(schedule).workers.most = ENDLESS
    now = 25.0
    for key in schedule.take(now, 16):
        schedule.polled(key, RUNNING, now, 0.5)
    now = 60.0
    while taken := schedule.take(now, 1000):
        for key in taken:
            schedule.polled(key, RUNNING, now, 0.5)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert only_queue(schedule).proven == 2_000
    assert held / 2_000 < 0.6 * 1024
