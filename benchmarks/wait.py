"""How many polls, and how late: this library's polling beside the intervals of other clients.

Discrete events in virtual time, no sockets, fixed seeds. Every answer comes at once, so a delay is only what the
choice of moments costs. `J = delay + 0.07 s x polls`; `J/best` compares it with the offline optimum of a dynamic
programme that knows the distribution of durations and when each task starts. Peers are arithmetic: a fixed pause, or
an exponential one, from the submission on.
"""

import json
import math
import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from attrs import define

from benchmarks import _wait_simulated
from benchmarks._tables import Bar, Headline, Table
from benchmarks._wait_optimum import optimum
from benchmarks._wait_plot import plot
from benchmarks._wait_world import Answers, Job, serve, summary, watch
from novita_async._policy.polling.memory import PollMemory
from novita_async._policy.polling.schedule import Polling, PollSchedule

COST = 0.07

PEERS: dict[str, tuple[float, float, float]] = {
    "fixed 0.1 (fal)": (0.1, 1.0, 0.1),
    "fixed 0.5 (novita-client, replicate)": (0.5, 1.0, 0.5),
    "fixed 1 (openai, runpod)": (1.0, 1.0, 1.0),
    "fixed 5": (5.0, 1.0, 5.0),
    "exponential 0.5 x 1.5, cap 10": (0.5, 1.5, 10.0),
    "exponential 1 x 2, cap 10": (1.0, 2.0, 10.0),
}


def lognormal(rng: random.Random, median: float, sigma: float) -> float:
    return median * math.exp(sigma * rng.gauss(0.0, 1.0))


def arriving(
    n: int, gap: float, draw: Callable[[random.Random], float], seed: int, workers: int | None = None
):
    rng, now, jobs = random.Random(seed), 0.0, []
    for i in range(n):
        now += rng.expovariate(1.0 / gap)
        jobs.append(Job(f"t{i}", now, draw(rng)))
    return serve(jobs, workers)


def burst(n: int, workers: int | None, draw: Callable[[random.Random], float], seed: int, **how):
    rng = random.Random(seed)
    return serve([Job(f"t{i}", 0.0, draw(rng)) for i in range(n)], workers, seed=seed, **how)


def six(rng):
    return lognormal(rng, 6.0, 0.5)


def four(rng):
    return lognormal(rng, 4.0, 0.3)


def bimodal(rng):
    return lognormal(rng, 4.0, 0.2) if rng.random() < 0.7 else lognormal(rng, 20.0, 0.2)


def cold_start(rng):
    return lognormal(rng, 5.0, 0.3) + (lognormal(rng, 25.0, 0.2) if rng.random() < 0.1 else 0.0)


def outliers(rng):
    return lognormal(rng, 6.0, 0.3) + (120.0 if rng.random() < 0.02 else 0.0)


def changing(n: int, gap: float, before: float, after: float, seed: int) -> list[Job]:
    """Times of work that change once, half-way."""
    rng = random.Random(seed)
    return serve(
        [Job(f"t{i}", i * gap, lognormal(rng, before if 2 * i < n else after, 0.3)) for i in range(n)]
    )


def sizes(n: int, gap: float, workers: int | None, seed: int) -> list[Job]:
    rng, jobs = random.Random(seed), []
    for i in range(n):
        work = rng.choice([20 * 512 * 512, 40 * 1024 * 1024, 120 * 768 * 768])
        jobs.append(Job(f"t{i}", i * gap, lognormal(rng, 1.2 * (work / 2e6) ** 0.8, 0.25), work=float(work)))
    return serve(jobs, workers)


@define(kw_only=True)
class Workload:
    name: str
    make: Callable[[int], list[Job]]
    tuned: bool = True
    """Whether a constant or a rule of the policy was chosen by looking at it."""
    answers: Callable[[bool], Answers] = lambda times: Answers(times=times)
    single: bool = True
    """Whether one distribution is the truth, so that there is one optimum."""
    latency: float = 0.0


def moving(job: Job, now: float) -> tuple[float | None, float | None]:
    return 100.0 * ((now - job.start) / job.seconds) ** 1.3, None


def stuck(_job: Job, _now: float) -> tuple[float | None, float | None]:
    return 50.0, 0.0


def hinted(hint) -> Callable[[bool], Answers]:
    return lambda times: Answers(times=times, hint=hint)


def worded(words: str) -> Callable[[bool], Answers]:
    return lambda times: Answers(times=times, words=words)


WORKLOADS = [
    Workload(name="log-normal 6 s, sigma 0.5; 1,200 arriving", make=lambda s: arriving(1200, 1.0, six, s)),
    Workload(name="bimodal 4 s / 20 s; 1,200 arriving", make=lambda s: arriving(1200, 1.0, bimodal, s)),
    Workload(name="cold starts, one in ten; 1,200 arriving", make=lambda s: arriving(1200, 1.0, cold_start, s)),
    Workload(name="log-normal 6 s, sigma 0.5; 400 at once", make=lambda s: burst(400, None, six, s)),
    Workload(name="burst: 400 on 8", make=lambda s: burst(400, 8, four, s)),
    Workload(name="burst: 400 on 8, slowing down to 3", make=lambda s: burst(400, 8, four, s, change=(105.0, 3))),
    Workload(name="burst: 2,000 on 20", make=lambda s: burst(2000, 20, four, s)),
    Workload(name="burst: 400 on 8, not FIFO", make=lambda s: burst(400, 8, four, s, fifo=False)),
    Workload(name="steady arrivals at 95 % load on 8", make=lambda s: arriving(1200, 0.55, four, s, 8)),
    Workload(name="log-normal 1 s", tuned=False, make=lambda s: arriving(1200, 0.3, lambda r: lognormal(r, 1.0, 0.5), s)),
    Workload(name="log-normal 60 s", tuned=False, make=lambda s: arriving(1200, 5.0, lambda r: lognormal(r, 60.0, 0.5), s)),
    Workload(name="log-normal 6 s, sigma 0.2", tuned=False, make=lambda s: arriving(1200, 1.0, lambda r: lognormal(r, 6.0, 0.2), s)),
    Workload(name="log-normal 6 s, sigma 1.0", tuned=False, make=lambda s: arriving(1200, 1.0, lambda r: lognormal(r, 6.0, 1.0), s)),
    Workload(name="burst: 400 on 3", tuned=False, make=lambda s: burst(400, 3, four, s)),
    Workload(name="burst: 400 on 3, later 12", make=lambda s: burst(400, 3, four, s, change=(100.0, 12))),
    Workload(name="burst: 400 on 8, order jumbled by 4", tuned=False, make=lambda s: burst(400, 8, four, s, jumble=4)),
    Workload(name="burst: 400 on 50, 10 s, sigma 0.5", tuned=False, make=lambda s: burst(400, 50, lambda r: lognormal(r, 10.0, 0.5), s)),
    Workload(name="three sizes of work; 1,200 arriving", tuned=False, single=False, make=lambda s: sizes(1200, 0.5, None, s)),
    Workload(name="three sizes of work; 600 on 8", tuned=False, single=False, make=lambda s: sizes(600, 0.0, 8, s)),
    Workload(name="one in fifty takes 120 s longer", tuned=False, make=lambda s: arriving(1200, 1.0, outliers, s)),
    Workload(name="600 arriving, 12 s each, then 4 s", single=False, make=lambda s: changing(600, 1.0, 12.0, 4.0, s)),
    Workload(name="600 arriving, 4 s each, then 12 s", single=False, make=lambda s: changing(600, 1.0, 4.0, 12.0, s)),
    Workload(name="log-normal 6 s, progress that moves", make=lambda s: arriving(600, 1.0, six, s), answers=hinted(moving)),
    Workload(name="log-normal 6 s, progress stuck at 50", make=lambda s: arriving(600, 1.0, six, s), answers=hinted(stuck)),
    Workload(name="burst: 400 on 8, clock 5 min off", tuned=False, make=lambda s: burst(400, 8, four, s), answers=lambda times: Answers(times=times, skew=300.0)),
    Workload(name="burst: 400 on 8, never says queued", tuned=False, make=lambda s: burst(400, 8, four, s), answers=worded("running")),
    Workload(name="log-normal 6 s, never says running", make=lambda s: arriving(600, 1.0, six, s), answers=worded("queued")),
    Workload(name="burst: 400 on 8, 0.1 s latency", tuned=False, make=lambda s: burst(400, 8, four, s), latency=0.1),
]  # fmt: skip


def peer(jobs: list[Job], first: float, factor: float, cap: float) -> dict[str, float]:
    """What a pause that learns nothing costs."""
    for job in jobs:
        polled, pause, job.polls = job.submit, first, 0
        while polled < job.done:
            polled += pause
            pause = min(cap, pause * factor)
            job.polls += 1
        job.seen = polled
    return summary(jobs, COST)


def ours(workload: Workload, seed: int, *, times: bool, memory: PollMemory | None = None) -> dict[str, float]:
    polling = Polling(cost=COST)
    schedule = PollSchedule.of(polling, memory or PollMemory())
    jobs = workload.make(seed)
    began = time.process_time()
    watch(jobs, schedule, workload.answers(times), seed=seed, latency=workload.latency)
    spent = time.process_time() - began
    found = summary(jobs, COST)
    return found | {"us": 1e6 * spent / (found["polls"] * len(jobs))}


def best(workload: Workload) -> dict[str, float] | None:
    """The offline optimum of the true distribution of durations, from a sample of its own."""
    if not workload.single:
        return None
    sample = [job.done - job.start for seed in range(900, 912) for job in workload.make(seed)]
    found = optimum(sample[:12000], COST)
    return {key: found[key] for key in ("polls", "delay", "J")}


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def remembered(workload: Workload, seeds: int) -> dict[str, float]:
    """The second run of a process that kept what the first had learned, in a file."""
    rows = []
    for seed in range(seeds):
        memory = PollMemory()
        ours(workload, 500 + seed, times=True, memory=memory)
        rows.append(
            ours(
                workload,
                seed,
                times=True,
                memory=PollMemory.from_dict(json.loads(json.dumps(memory.to_dict()))),
            )
        )
    return mean(rows)


TIMES, ALONE, REMEMBERED = (
    "learned, completion times",
    "learned, polls alone",
    "learned and remembered",
)
BEST = "starts and distribution known"
OFFICIAL = "fixed 0.5 (novita-client, replicate)"

Rows = dict[str, dict[str, float]]


def measure(number: int, seeds: int) -> Rows:
    workload = WORKLOADS[number]
    rows = {
        TIMES: mean([ours(workload, s, times=True) for s in range(seeds)]),
        ALONE: mean([ours(workload, s, times=False) for s in range(seeds)]),
        REMEMBERED: remembered(workload, seeds),
    }
    for name, pauses in PEERS.items():
        rows[name] = mean([peer(workload.make(s), *pauses) for s in range(seeds)])
    if optimal := best(workload):
        rows[BEST] = optimal
    return rows


def cells(workload: str, rows: Rows) -> list[tuple[str, ...]]:
    top = rows.get(BEST, {}).get("J")
    return [
        (
            workload,
            name,
            f"{row['polls']:.2f}",
            f"{row['delay']:.3f}",
            f"{row['p95']:.2f}" if "p95" in row else "",
            f"{row['J']:.3f}",
            f"{row['J'] / top:.3f}" if top else "",
        )
        for name, row in rows.items()
    ]


def beaten(results: dict[str, Rows]) -> list[str]:
    """Where a peer has fewer polls and less delay at once, or a lower J."""
    said = []
    for workload, rows in results.items():
        mine = rows[ALONE]
        for name in PEERS:
            row = rows[name]
            if row["polls"] <= mine["polls"] and row["delay"] <= mine["delay"]:
                said.append(f"{workload}: {name} is better in both")
            elif row["J"] < mine["J"]:
                said.append(f"{workload}: {name} has a lower J, {row['J']:.2f} to {mine['J']:.2f}")
    return said or ["no peer has fewer polls and less delay, or a lower J, in any of these"]


RATIOS = {
    "log-normal 6 s, sigma 0.5; 1,200 arriving": (1.05, 1.08),
    "bimodal 4 s / 20 s; 1,200 arriving": (1.15, 1.18),
    "cold starts, one in ten; 1,200 arriving": (1.15, 1.18),
}
"""J over the optimum that is asked, with completion times and from polls alone."""

POLLS = {
    "burst: 400 on 8": (6.5, 13.0, 0.36),
    "burst: 400 on 8, slowing down to 3": (8.0, 18.0, 0.36),
    "burst: 2,000 on 20": (8.0, 20.0, 0.36),
    "burst: 400 on 8, not FIFO": (75.0, 75.0, 0.4),
}
"""Polls that are asked, with completion times and from polls alone, and mean delay with completion times."""


def bars(results: dict[str, Rows]) -> list[Bar]:
    asked: list[Bar] = []
    for name, limits in RATIOS.items():
        rows = results[name]
        for way, limit in zip((TIMES, ALONE), limits, strict=True):
            ratio = rows[way]["J"] / rows[BEST]["J"]
            asked.append(
                Bar(
                    what=f"{name}, {way}: J over the optimum",
                    measured=ratio,
                    at_most=limit,
                    form="{:.3f}",
                    slack=1.02,
                )
            )
    for name, (times, alone, delay) in POLLS.items():
        rows = results[name]
        polls = ((TIMES, times), (ALONE, alone))
        asked += [
            Bar(what=f"{name}, {way}: polls a task", measured=rows[way]["polls"], at_most=most, slack=1.1)
            for way, most in polls
        ]
        asked.append(
            Bar(
                what=f"{name}, {TIMES}: mean delay, s",
                measured=rows[TIMES]["delay"],
                at_most=delay,
                slack=1.1,
            )
        )
    return asked


def headline(name: str, rows: Rows) -> Headline:
    def said(way: str) -> str:
        return f"{rows[way]['polls']:.1f} polls, {rows[way]['delay']:.2f} s"

    return Headline(
        what=f"waiting, {name}: polls a task and mean delay",
        ours=said(TIMES),
        peer=f"{said(OFFICIAL)} (every 0.5 s, as novita-client and replicate)",
        limit=f"{said(BEST)} (all known beforehand)",
    )


def tables(*, quick: bool) -> list[Table]:
    """Virtual time does not mind sharing the machine."""
    chosen = [
        number
        for number, workload in enumerate(WORKLOADS)
        if not quick or workload.name in RATIOS or workload.name in POLLS
    ]
    with ProcessPoolExecutor() as processes:
        found = list(processes.map(partial(measure, seeds=3), chosen))
        simulated = [] if quick else list(processes.map(_wait_simulated.row, _wait_simulated.jobs(seeds=2)))
    names = [WORKLOADS[number].name for number in chosen]
    results = dict(zip(names, found, strict=True))
    starred = {w.name: w.name + ("" if w.tuned else " *") for w in WORKLOADS}
    return [
        Table(
            title="Wait: polls a task against delay",
            how="Virtual time, three seeds, the cap on polls a second lifted. Delay is from the end of a task to our "
            "knowledge of it; J = delay + 0.07 s x polls. *Learned* is this library's default: where a finished task "
            "tells when it was done, where nothing but the polls tells, and the second run of a process that kept what "
            "the first had learned. The optimum knows the distribution of durations and when each task starts. For "
            "workloads with * no constant and no rule was chosen by looking at them.",
            header=("workload", "policy", "polls", "delay s", "p95 s", "J", "J/best"),
            rows=[row for name, rows in results.items() for row in cells(starred[name], rows)],
            bars=bars(results),
            notes=beaten(results),
            headlines=[
                headline(name, results[name])
                for name in ("log-normal 6 s, sigma 0.5; 1,200 arriving", "burst: 400 on 8")
            ],
            plots={} if quick else {"wait.svg": plot(results, PEERS)},
        ),
        *([_wait_simulated.table(simulated)] if simulated else []),
    ]
