"""The machine: cores, memory, CPU, how long a loop is blocked, and what is installed."""

import asyncio
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parent.parent
TICK = os.sysconf("SC_CLK_TCK")


def pin(core: int) -> None:
    """Stay on one core: what is measured on the first, servers on the last."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


def unpin() -> None:
    os.sched_setaffinity(0, range(os.cpu_count() or 1))


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process and its threads have taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


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


class Pulse:
    """Measures how long a loop runs without looking at its sockets: CPU and wall time, at first and later."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settle: float = 0.05) -> None:
        self.selector: Any = vars(loop)["_selector"]
        self.select = self.selector.select
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


def machine() -> str:
    """What the figures were taken on."""
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = {line.partition(":")[2].strip() for line in about.splitlines() if line.startswith("model name")}
    model = ", ".join(sorted(models)) or platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores, {model}; {platform.system()} {platform.release()}"


def file_system(folder: Path) -> str:
    """The kind of file system that a folder is on."""
    kinds = {words[1]: words[2] for words in map(str.split, Path("/proc/mounts").read_text().splitlines())}
    return next(kinds[str(each)] for each in (folder, *folder.parents) if str(each) in kinds)


def versions(names: Iterable[str]) -> dict[str, str]:
    """What was measured, by name."""
    return {"Python": platform.python_version()} | {name: version(name) for name in sorted(names)}


def commit() -> str:
    """The state of the project that was measured; what measuring writes does not change it."""
    try:
        known = _git("rev-parse", "--short=10", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", ":!README.md", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{known}, changed" if changed else known


def _git(*words: str) -> str:
    said = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603, S607
    return said.stdout.strip()
