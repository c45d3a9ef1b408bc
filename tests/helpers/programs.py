"""Programs beside a test, each in a process of its own.

Every wait for a program ends within a moment of the end of the program, or of a server that the test runs,
and tells the traceback of whichever it was.
"""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from attrs import define, field, frozen

from tests.helpers.served import check_servers

STRICT: Final = ("-W", "error")
"""Not `-X dev`: its asyncio reports whatever took long, which on a busy machine is anything."""
GLANCE: Final = 0.05
LONGEST: Final = 60.0
"""Seconds of its own after which a program that lives is taken for one that hangs."""
TICK: Final = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01


@frozen
class Finished:
    """A program that has ended, and what it said (less what was read before)."""

    returncode: int
    stdout: str
    stderr: str

    def __iter__(self) -> Iterator[Any]:
        return iter((self.returncode, self.stdout, self.stderr))


@define(eq=False)
class OwnTime:
    """The time that a program has had: what passes while it sleeps, and the work that it gets done.

    So a program that waits for a core has all the time in the world, however busy the machine, and one that
    waits for what never comes, or works for ever, has not.
    """

    pid: int
    had: float = 0.0
    """Seconds so far."""
    _worked: float = 0.0
    _looked_at: float = field(factory=time.monotonic)

    def __attrs_post_init__(self) -> None:
        self._worked = self._state()[1]

    def look(self) -> float:
        """Count what has passed since the last look. To be called every glance."""
        now, (sleeps, worked) = time.monotonic(), self._state()
        # Who looks may have waited for a core, too: the program need not have slept all that time.
        asleep = min(now - self._looked_at, 2 * GLANCE) if sleeps else 0.0
        self.had += asleep + worked - self._worked
        self._worked, self._looked_at = worked, now
        return self.had

    def _state(self) -> tuple[bool, float]:
        """Whether all its threads sleep, and the seconds of its work. Where nobody tells, it sleeps."""
        try:
            threads = [_fields(path) for path in Path(f"/proc/{self.pid}/task").glob("*/stat")]
        except OSError:  # a thread has just ended
            threads = []
        ticks = sum(int(number) for thread in threads for number in thread[11:13])
        return all(thread[0] == "S" for thread in threads), max(ticks * TICK, self._worked)


def _fields(stat: Path) -> list[str]:
    """The fields of a thread's `stat` from its state on; its name before that may hold anything."""
    return stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


@define(eq=False)
class Program:
    """A running program. Its output is taken in as it comes, so that no pipe is ever full."""

    process: "subprocess.Popen[str]"
    _lines: "queue.SimpleQueue[str | None]" = field(factory=queue.SimpleQueue)
    """Lines of its output that nobody has read; None at the end."""
    _errors: list[str] = field(factory=list)
    _readers: list[threading.Thread] = field(factory=list)

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[Any] = subprocess.PIPE,
    ) -> "Program":
        # The handler tells where the program was when `_fail` breaks it off.
        environment = {**(os.environ if env is None else env), "PYTHONFAULTHANDLER": "1"}
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        program = cls(process)
        for take_in in (program._take_in_lines, program._take_in_errors):
            program._readers.append(threading.Thread(target=take_in, daemon=True))
            program._readers[-1].start()
        return program

    def _take_in_lines(self) -> None:
        for line in self.process.stdout or ():
            self._lines.put(line)
        self._lines.put(None)

    def _take_in_errors(self) -> None:
        assert self.process.stderr
        self._errors.extend(self.process.stderr)

    def line(self, seconds: float = LONGEST) -> str:
        """Wait for the next line of its output."""
        line = self.line_or_end(seconds)
        if line is None:
            self._fail(f"ended with {self.wait(seconds)} before it said a line")
        return line

    def line_or_end(self, seconds: float = LONGEST) -> str | None:
        """Wait for the next line of its output. None: there is none."""
        time_had = OwnTime(self.process.pid)
        while True:
            check_servers()
            try:
                line = self._lines.get(timeout=GLANCE)
            except queue.Empty:
                if time_had.look() > seconds:
                    self._fail(f"has not said a line within {seconds:g} s")
            else:
                if line is None:
                    self._lines.put(None)
                return line

    def lines_until(self, name: str, count: int = 1) -> None:
        """Read on until so many lines were just this."""
        while count:
            count -= self.line().strip() == name

    def finish(self, seconds: float = LONGEST) -> Finished:
        """Wait for its end."""
        self.wait(seconds)
        return Finished(self.process.returncode, "".join(self.unread()), "".join(self._errors))

    def unread(self) -> list[str]:
        """Give the lines of an ended program that were not read."""
        return list(iter(self._lines.get, None))

    def wait(self, seconds: float = LONGEST) -> int:
        """Wait for its end, and give its exit code."""
        time_had = OwnTime(self.process.pid)
        while (code := self._ended()) is None:
            check_servers()
            if time_had.look() > seconds:
                self._fail(f"has not ended within {seconds:g} s")
        self._join()
        return code

    def _ended(self) -> int | None:
        try:
            return self.process.wait(GLANCE)
        except subprocess.TimeoutExpired:
            return None

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> int:
        """Kill it, if it still lives, and give its exit code."""
        self.process.kill()
        self.process.wait()
        self._join()
        return self.process.returncode

    def _join(self) -> None:
        for reader in self._readers:
            reader.join()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()

    def _fail(self, what: str) -> NoReturn:
        if not self.ended:
            self.process.send_signal(signal.SIGABRT)
            self._ended()
        self.kill()
        out, err = "".join(self.unread()[-50:]), "".join(self._errors[-200:])
        raise AssertionError(
            f"{' '.join(self.process.args)[:500]}\n{what}\nits output:\n{out}\nits errors:\n{err}"
        )


def run(command: Sequence[str], *, seconds: float = LONGEST, **options: Any) -> Finished:
    """Run a program to its end."""
    with running(command, **options) as program:
        return program.finish(seconds)


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[Program]:
    """A program that is killed at the end of the block, if it still lives."""
    program = Program.start(command, **options)
    try:
        yield program
    finally:
        program.kill()


def python(*arguments: object, flags: Sequence[str] = STRICT) -> list[str]:
    """Give the command line of a Python program that takes every warning for an error."""
    return [sys.executable, *flags, *map(str, arguments)]
