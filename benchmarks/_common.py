"""What the benchmarks share: a server in a process of its own, pinned cores, interleaved rounds, medians.

The server reads requests as fast as Python can and answers each whole one with a task id. It runs on the last
core, what is measured on the first; on a machine with one core both share it and the figures say little.
"""

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

ANSWER = b'{"task_id":"73fab7c0-4bd3-4c8e-9c55-4bd3a1c0f5f0"}'
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER
)
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Sink(asyncio.BufferedProtocol):
    """Swallows request after request of one connection."""

    room = bytearray(1 << 20)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.head = b""
        self.left = 0

    def get_buffer(self, _sizehint: int) -> memoryview:
        return memoryview(self.room)

    def buffer_updated(self, count: int) -> None:
        if not self.left:
            count = self.read_head(count)
            if count < 0:
                return
        self.left -= count
        if self.left <= 0:
            self.left = 0
            self.transport.write(RESPONSE)

    def read_head(self, count: int) -> int:
        """Take the head off; how much of the body came with it, or -1: the head is not whole yet."""
        self.head += self.room[:count]
        head, end, body = self.head.partition(b"\r\n\r\n")
        if not end:
            return -1
        found = LENGTH.search(head)
        self.left = int(found[1]) if found else 0
        self.head = b""
        return len(body)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def pin(core: int) -> None:
    """Stay on one core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


@contextmanager
def server() -> Iterator[str]:
    """Run the server in a process of its own on the last core; hand out its URL."""
    command = [sys.executable, str(Path(__file__).resolve())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


class Pulse:
    """Measures how long a loop runs without looking at its sockets: wall and CPU, at first and later."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settle: float = 0.05) -> None:
        self.select, self.selector = loop._selector.select, loop._selector  # noqa: SLF001
        self.settle = settle
        self.begun = self.wall = time.perf_counter()
        self.cpu = time.thread_time()
        self.longest = {"first_cpu": 0.0, "first_wall": 0.0, "later_cpu": 0.0, "later_wall": 0.0}

    def _select(self, timeout: float | None = None) -> Any:
        wall, cpu = time.perf_counter(), time.thread_time()
        when = "first" if wall - self.begun < self.settle else "later"
        self.longest[f"{when}_cpu"] = max(self.longest[f"{when}_cpu"], cpu - self.cpu)
        self.longest[f"{when}_wall"] = max(self.longest[f"{when}_wall"], wall - self.wall)
        events = self.select(timeout)
        self.wall, self.cpu = time.perf_counter(), time.thread_time()
        return events

    def __enter__(self) -> Self:
        self.selector.select = self._select
        self.begun = self.wall = time.perf_counter()
        self.cpu = time.thread_time()
        return self

    def __exit__(self, *exc: object) -> None:
        self.selector.select = self.select


def resident() -> int:
    """Bytes of memory that this process has now."""
    return _status("VmRSS")


def peak() -> int:
    """The most bytes of memory since `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def in_process(script: str, *arguments: str) -> dict[str, float]:
    """Run one contender in a process of its own; it prints its figures as JSON."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


Rounds = Mapping[str, Sequence[Mapping[str, float]]]


def interleaved(
    names: Sequence[str], measure: Callable[[str], Mapping[str, float]], rounds: int
) -> dict[str, list[Mapping[str, float]]]:
    """Measure each contender once a round, so that a busy moment of the machine hits all of them."""
    results: dict[str, list[Mapping[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            results[name].append(measure(name))
    return results


def median(results: Rounds, name: str, figure: str) -> float:
    return statistics.median(one[figure] for one in results[name])


def ratio(results: Rounds, name: str, base: str, figure: str) -> float:
    """Median of the ratios within each round."""
    pairs = zip(results[name], results[base], strict=True)
    return statistics.median(ours[figure] / theirs[figure] for ours, theirs in pairs)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )


if __name__ == "__main__":
    pin(-1)
    asyncio.run(serve())
