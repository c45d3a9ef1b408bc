"""Staying under a quota: how close to the least possible time, how many 429s, how long a heavy request waits.

Virtual time and no sockets. The client's own pool and windows are beside limiters and habits of others.
"""

import itertools
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from benchmarks._limited import CLIENTS, Run, all_at_once, heavy_among_light
from benchmarks._tables import Bar, Figure, Headline, Table
from benchmarks._window_world import ENDPOINT, Sliding, mixed, servers
from novita_async._policy.pacing import AccountPacer

QUOTA = 600
IMAGES = 2000
KNOWN, UNKNOWN = "novita_async, quota known", "novita_async, quota unknown"
AIOLIMITER = "aiolimiter, then exponential"
SLIDING, FIXED, DEEP, SHALLOW = "sliding", "fixed", "leaky, a minute deep", "leaky, a tenth deep"
SERVERS = (SLIDING, FIXED, SHALLOW, DEEP)

Runs = dict[tuple[str, str], list[Run]]


def one(job: tuple[str, str, int], requests: tuple[int, ...]) -> Run:
    server, client, seed = job
    return all_at_once(CLIENTS[client], servers(QUOTA)[server](), list(requests), QUOTA, seed)


def measured(requests: list[int], clients: tuple[str, ...], seeds: int) -> Runs:
    """Every client against every server; virtual time does not mind sharing the machine."""
    jobs = list(itertools.product(SERVERS, clients, range(seeds)))
    with ProcessPoolExecutor() as processes:
        found = list(processes.map(partial(one, requests=tuple(requests)), jobs, chunksize=4))
    runs: Runs = {}
    for (server, client, _), run in zip(jobs, found, strict=True):
        runs.setdefault((server, client), []).append(run)
    return runs


def ratios(runs: Runs, server: str, client: str) -> list[float]:
    least = max(1.0, servers(QUOTA)[server]().least(IMAGES))
    return [run.makespan / least for run in runs[server, client]]


def refused(runs: Runs, server: str, client: str) -> list[float]:
    return [run.refused for run in runs[server, client]]


def limits(server: str, client: str) -> tuple[float, float]:
    """What is asked: makespan over the least, and 429s per request."""
    if client == KNOWN:
        return {SLIDING: (1.01, 0.0), FIXED: (1.15, 0.0)}.get(server, (1.05, 0.10))
    return {SLIDING: (1.03, 0.03), FIXED: (1.08, 0.03)}.get(server, (1.03, 0.16))


def bars(runs: Runs) -> list[Bar]:
    asked: list[Bar] = []
    for client, server in itertools.product((KNOWN, UNKNOWN), SERVERS):
        if (client, server) == (KNOWN, DEEP):
            continue  # keeping to the quota in any 60 s, it leaves alone what this bucket holds besides
        longest, most = limits(server, client)
        what = f"{client.partition(', ')[2]}, {server}"
        asked.append(
            Bar(
                what=f"{what}: makespan over the least possible",
                measured=statistics.median(ratios(runs, server, client)),
                at_most=longest,
                form="{:.3f}",
                slack=1.05,
            )
        )
        rejections = statistics.median(refused(runs, server, client))
        asked.append(
            Bar(what=f"{what}: 429s per request", measured=rejections, at_most=most, form="{:.1%}", slack=1.2)
        )
    return asked


def better(runs: Runs, clients: tuple[str, ...]) -> list[str]:
    """Where a client that knows the quota as well is quicker than ours, with no more refusals."""
    said = []
    for server, client in itertools.product(SERVERS, clients):
        mine, theirs = (statistics.median(ratios(runs, server, one)) for one in (KNOWN, client))
        less = statistics.median(refused(runs, server, client)) <= statistics.median(
            refused(runs, server, KNOWN)
        )
        if client not in (KNOWN, UNKNOWN) and theirs < mine and less:
            said.append(f"{server}: {client} needs {theirs:.3f}, ours {mine:.3f}, with no more 429s")
    return said


def makespans(title: str, runs: Runs, clients: tuple[str, ...], *, asked: bool) -> Table:
    cells = [
        (
            client,
            *(
                cell
                for server in SERVERS
                for cell in (
                    Figure(ratios(runs, server, client), "{:.3f}"),
                    f"{statistics.median(refused(runs, server, client)):.1%}",
                    f"{max(run.most for run in runs[server, client]):,}",
                )
            ),
        )
        for client in clients
    ]
    header = tuple(f"{server}: {what}" for server in SERVERS for what in ("makespan", "429s", "most in 60 s"))
    shown = [f"{statistics.median(ratios(runs, SLIDING, client)):.2f} x" for client in clients]
    told = [f"{statistics.median(refused(runs, SLIDING, client)):.0%} 429s" for client in clients]
    by_name = {client: f"{x}, {y}" for client, x, y in zip(clients, shown, told, strict=True)}
    return Table(
        title=title,
        how=f"{IMAGES:,} images at {QUOTA} a minute, {len(runs[SLIDING, KNOWN])} seeds. Makespan is the time until the "
        "last image is accepted, over the least that this server makes possible; *429s* are refusals per request; *most "
        "in 60 s* is what the server let in in its worst minute (a leaky bucket lets in what it holds besides its "
        "rate). Requests take 0 to 0.3 s to arrive. Servers: any 60 s; minutes of a clock; a bucket that drains "
        "evenly, of a tenth of the quota and of all of it.",
        header=("client", *header),
        rows=cells,
        bars=bars(runs) if asked else (),
        notes=[
            *better(runs, clients),
            (
                "least possible for a bucket a minute deep counts the minute's worth that it takes at once. A client that "
                "was told the quota keeps to it in any 60 s and so leaves that alone: 1.29 is its least there"
            ),
        ],
        headlines=[
            Headline(
                what=f"{IMAGES:,} images at {QUOTA} a minute, sliding window: time over the least possible",
                ours=f"{by_name[KNOWN]}; quota unknown: {by_name[UNKNOWN]}",
                peer=f"{by_name[AIOLIMITER]} (aiolimiter)",
                limit="1",
            )
        ]
        if asked and AIOLIMITER in by_name
        else (),
    )


def waits(clients: tuple[str, ...], seeds: int) -> Table:
    quota = 10
    rows, heavy = [], {}
    for client in clients:
        runs = [heavy_among_light(CLIENTS[client], Sliding(quota), quota, seed) for seed in range(seeds)]
        heavy[client] = statistics.median(run.heavy for run in runs)
        rows.append(
            (
                client,
                Figure([run.heavy for run in runs], "{:,.0f}"),
                f"{statistics.median(run.refused for run in runs):.1%}",
                f"{max(run.most for run in runs)}",
            )
        )
    return Table(
        title="Window: a heavy request among light ones",
        how=f"Single images come for an hour at nine tenths of a quota of {quota} a minute (sliding); after five minutes "
        f"one request of 8 images comes. {seeds} seeds.",
        header=("client", "seconds that it waits", "429s", "most in 60 s"),
        rows=rows,
        headlines=[
            Headline(
                what="a request of 8 images among single ones, 10 a minute: its wait",
                ours=f"{heavy[KNOWN]:,.0f} s",
                peer=f"{heavy[AIOLIMITER]:,.0f} s (aiolimiter)",
            )
        ]
        if AIOLIMITER in heavy
        else (),
    )


def cost(calls: int = 100_000) -> float:
    """Seconds of CPU for a purchase through the window: look, announce, answer."""
    pacer = AccountPacer(images_per_minute=10 * calls)
    began = time.process_time()
    for n in range(calls):
        now = n / 1000
        pacer.start_at(ENDPOINT, 1, now)
        pacer.answered(pacer.announce(ENDPOINT, 1, now), now)
    return (time.process_time() - began) / calls


def tables(*, quick: bool) -> list[Table]:
    clients = (KNOWN, UNKNOWN) if quick else tuple(CLIENTS)
    seeds = 3 if quick else 7
    single = makespans("Window: single images", measured([1] * IMAGES, clients, seeds), clients, asked=True)
    if quick:
        return [single]
    several = measured(mixed(IMAGES), clients, seeds)
    return [
        single,
        makespans("Window: requests of 1 to 8 images", several, clients, asked=False),
        waits(clients, seeds),
        Table(
            title="Window: its own cost",
            how="Look, announce, answer; 100,000 of them.",
            header=("", "us of CPU"),
            rows=[("one purchase", f"{cost() * 1e6:.1f}")],
        ),
    ]
