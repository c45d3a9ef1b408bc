"""Submitting under TLS and under uvloop: the same small requests, each contender in a process of its own.

python -m benchmarks.conditions CLIENT URL LOOP CALLS
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks._load import measured
from benchmarks._machine import pin, unpin
from benchmarks._rounds import Rounds, in_process, interleaved
from benchmarks._server import Server, server
from benchmarks._tables import Bar, Figure, Table
from benchmarks.submit import BARE, CONTENDERS, OURS

CERTIFICATE = Path(__file__).parent.parent / "tests" / "data" / "localhost.pem"
CONDITIONS = {
    "asyncio": ("plain", "asyncio"),
    "asyncio, TLS": ("tls", "asyncio"),
    "uvloop": ("plain", "uvloop"),
    "uvloop, TLS": ("tls", "uvloop"),
}


def run(name: str, url: str, loop: str, calls: int) -> dict[str, float]:
    if loop == "uvloop":
        import uvloop  # noqa: PLC0415 - not for the other loop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    return measured(CONTENDERS[name], Server(url, os.getpid()), calls)


def one(servers: dict[str, Server], calls: int, name: str) -> dict[str, float]:
    client, _, condition = name.partition(" | ")
    wire, loop = CONDITIONS[condition]
    return in_process("benchmarks.conditions", client, servers[wire].url, loop, str(calls))


def row(rounds: Rounds, condition: str) -> tuple[str | Figure, ...]:
    ours, bare = f"{OURS} | {condition}", f"{BARE} | {condition}"
    return (
        condition,
        Figure(rounds.values(bare, "cpu_ms"), "{:.3f}"),
        Figure(rounds.values(ours, "cpu_ms"), "{:.3f}"),
        Figure(rounds.ratios(bare, ours, "cpu_ms")),
    )


def tables(*, quick: bool) -> list[Table]:
    names = [f"{client} | {condition}" for condition in CONDITIONS for client in (BARE, OURS)]
    os.environ["SSL_CERT_FILE"] = str(CERTIFICATE)
    pin(0)
    with server() as plain, server(CERTIFICATE) as tls:
        measure: Callable[[str], dict[str, float]] = partial(
            one, {"plain": plain, "tls": tls}, 1000 if quick else 3000
        )
        rounds = interleaved(names, measure, 1 if quick else 3)
    unpin()
    worst = min(rounds.ratio(f"{BARE} | {each}", f"{OURS} | {each}", "cpu_ms") for each in CONDITIONS)
    return [
        Table(
            title="Submit: under TLS, and under uvloop",
            how="The requests of the first table. CPU of the client; *aiohttp* only posts ready bytes, *novita_async* does "
            "everything. With TLS both use Python's own, on connections that are open.",
            header=("", "aiohttp: CPU ms a request", "novita_async", "aiohttp's over ours"),
            rows=[row(rounds, condition) for condition in CONDITIONS],
            bars=[Bar(what="the worst of these, aiohttp's CPU over ours", measured=worst, at_least=0.7)],
        )
    ]


if __name__ == "__main__":
    pin(0)
    which, where, running_on, many = sys.argv[1:]
    print(json.dumps(run(which, where, running_on, int(many))))
