"""A server in pure arithmetic, and one watch of it in discrete events: no sockets, fixed seeds."""

import heapq
import math
import random
from collections.abc import Callable, Iterable

from attrs import define

from novita_async._policy.polling.planner import PollResult, TaskFacts
from novita_async._policy.polling.schedule import PollSchedule

Hint = Callable[["Job", float], tuple[float | None, float | None]]
"""Progress and eta of a running job at a time."""


@define(eq=False)
class Job:
    """One task of the server."""

    key: str
    submit: float
    seconds: float
    """Of work."""
    work: float | None = None
    start: float = math.inf
    done: float = math.inf
    seen: float = math.inf
    """When the watch knew its end."""
    polls: int = 0


def serve(
    jobs: Iterable[Job],
    workers: int | None = None,
    *,
    fifo: bool = True,
    jumble: int = 1,
    seed: int = 0,
    change: tuple[float, int] | None = None,
) -> list[Job]:
    """Work on all jobs and note when.

    Args:
        jobs: What was submitted.
        workers: How many work at once. None: as many as there are jobs.
        fifo: Whether jobs start in order; else at random.
        jumble: In order, but any of the first so many that wait.
        seed: For the random order.
        change: From when on how many work.
    """
    jobs = sorted(jobs, key=lambda job: job.submit)
    if workers is None:
        for job in jobs:
            job.start, job.done = job.submit, job.submit + job.seconds
        return jobs
    rng = random.Random(seed)
    waiting: list[Job] = []
    running: list[float] = []
    arrived, now = 0, 0.0
    while arrived < len(jobs) or waiting:
        while running and running[0] <= now:
            heapq.heappop(running)
        while arrived < len(jobs) and jobs[arrived].submit <= now:
            waiting.append(jobs[arrived])
            arrived += 1
        limit = change[1] if change and now >= change[0] else workers
        while waiting and len(running) < limit:
            job = waiting.pop(rng.randrange(min(len(waiting), jumble if fifo else len(waiting))))
            job.start, job.done = now, now + job.seconds
            heapq.heappush(running, job.done)
        soon = [running[0]] if running else []
        if arrived < len(jobs):
            soon.append(jobs[arrived].submit)
        if change and now < change[0]:
            soon.append(change[0])
        now = min(soon)
    return jobs


@define(kw_only=True)
class Answers:
    """What the server's answers are like."""

    times: bool = True
    """Whether a finished task says when it was submitted, started and done."""
    words: str = "both"
    """Which words it uses for what is not done: `both`, only `running`, only `queued`."""
    skew: float = 0.0
    """Seconds by which its clock is ahead."""
    hint: Hint | None = None
    """Progress and eta."""

    def about(self, job: Job, now: float) -> PollResult:
        """Answer one poll."""
        if now >= job.done:
            if not self.times:
                return PollResult(state="finished")
            submit, start, done = (1000.0 * (t + self.skew) for t in (job.submit, job.start, job.done))
            return PollResult(state="finished", submit_ms=submit, execute_ms=start, complete_ms=done)
        queued = {"both": now < job.start, "running": False, "queued": True}[self.words]
        if queued:
            return PollResult(state="queued")
        progress, eta = self.hint(job, now) if self.hint else (None, None)
        return PollResult(state="running", progress=progress, eta=eta)


def watch(
    jobs: list[Job],
    schedule: PollSchedule,
    answers: Answers | None = None,
    *,
    seed: int = 0,
    most: int = 16,
    latency: float = 0.0,
    rate: float = math.inf,
    until: float = math.inf,
    facts: Callable[[Job], TaskFacts] | None = None,
) -> list[Job]:
    """Let a schedule watch all jobs to their ends, with at most `most` polls under way."""
    answers = answers or Answers()
    rng = random.Random(seed)
    arrivals = sorted(jobs, key=lambda job: job.submit)
    by_key = {job.key: job for job in jobs}
    coming: list[tuple[float, int, str, PollResult]] = []
    arrived, sent, left, allowed, now = 0, 0, len(jobs), 0.0, 0.0
    while left:
        soon = min(
            arrivals[arrived].submit if arrived < len(arrivals) else math.inf,
            coming[0][0] if coming else math.inf,
            max(schedule.next_at(now), allowed) if len(coming) < most else math.inf,
        )
        assert soon < math.inf, f"{left} tasks are never polled again: {schedule!r}"
        if soon > until:
            break
        now = soon
        while arrived < len(arrivals) and arrivals[arrived].submit <= now:
            job = arrivals[arrived]
            arrived += 1
            known = (
                facts(job) if facts else TaskFacts(endpoint="img2img", work=job.work, submitted_at=job.submit)
            )
            schedule.add(job.key, known, now)
        while coming and coming[0][0] <= now:
            _, _, key, found = heapq.heappop(coming)
            if found.state == "finished":
                by_key[key].seen = now
                left -= 1
            schedule.polled(key, found, now, rng.random())
        free = most - len(coming)
        if rate < math.inf:
            free = min(free, int(now >= allowed))
        for key in schedule.take(now, free):
            sent += 1
            allowed = max(allowed, now) + (0.0 if rate == math.inf else 1.0 / rate)
            job = by_key[key]
            job.polls += 1
            wait = latency * (0.5 + rng.random())
            heapq.heappush(coming, (now + wait, sent, key, answers.about(job, now + wait / 2)))
    return jobs


def summary(jobs: list[Job], cost: float = 0.07) -> dict[str, float]:
    """Polls a task, delay from the end to our knowledge of it, and what both cost."""
    delays = sorted(job.seen - job.done for job in jobs if job.seen < math.inf)
    polls = sum(job.polls for job in jobs) / len(jobs)
    delay = sum(delays) / len(delays)
    return {"polls": polls, "delay": delay, "p95": delays[int(0.95 * len(delays))], "J": delay + cost * polls}
