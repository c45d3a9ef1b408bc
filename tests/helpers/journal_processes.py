"""Processes that write a journal, to be killed."""

from itertools import islice
from pathlib import Path

from tests.helpers.programs import Program, python

ROOT = Path(__file__).parents[2]


def process(path: Path, requests: int, seed: int, under_way: int = 16) -> Program:
    """Start a process that lives."""
    arguments = f"{str(path)!r}, {requests}, {seed}, {under_way}"
    code = f"import anyio, tests.helpers.journals as j; anyio.run(j.live, {arguments})"
    return Program.start(python("-c", code, flags=()), cwd=ROOT)


def kill_after(path: Path, lines: int, *, requests: int, seed: int) -> list[list[str]]:
    """Let a process live until it has said so many lines, kill it, and give all that it said."""
    running = process(path, requests, seed)
    try:
        said = list(islice(iter(running.line_or_end, None), lines))
    finally:
        running.kill()
    return [line.split() for line in (*said, *running.unread()) if line.endswith("\n")]
