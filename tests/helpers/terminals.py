"""A terminal: a program behind a real pty, and the screen that its user sees.

The screen knows as much of a terminal as this library and its libraries write: text with wide characters,
carriage returns, lines that wrap, cursor movements, erasing.
"""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from attrs import define, field

from tests.helpers.programs import GLANCE, LONGEST
from tests.helpers.served import check_servers

_SEQUENCE: Final = re.compile(r"\x1b(?:\[([?\d;]*)([A-Za-z])|\][^\x07]*\x07|[=>])")


def cells(character: str) -> int:
    """Columns of a character."""
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


@define(eq=False)
class Screen:
    """What is written on a terminal of so many columns, all of it: nothing scrolls away."""

    columns: int
    rows: list[dict[int, str]] = field(factory=lambda: [{}])
    """Characters by their column."""
    row: int = 0
    column: int = 0
    _rest: str = ""

    def feed(self, text: str) -> None:
        """Write text, of which the last sequence may still be cut."""
        text, self._rest = self._rest + text, ""
        while text:
            if text[0] == "\x1b":
                found = _SEQUENCE.match(text)
                if found is None:
                    self._rest = text
                    return
                self._obey(found[1] or "", found[2] or "")
                text = text[found.end() :]
            else:
                self._put(text[0])
                text = text[1:]

    def _obey(self, given: str, letter: str) -> None:
        number = int(given) if given.isdigit() else 0
        if letter == "A":
            self.row = max(0, self.row - max(number, 1))
        elif letter == "K":
            self._erase(self.row, 0 if number == 2 else self.column)
        elif letter == "J":
            self._erase(self.row, self.column)
            del self.rows[self.row + 1 :]

    def _erase(self, row: int, begin: int) -> None:
        self.rows[row] = {place: one for place, one in self.rows[row].items() if place < begin}

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self._down()
        elif character.isprintable():
            width = cells(character)
            if self.column + width > self.columns:
                self._down()
                self.column = 0
            if width:
                self.rows[self.row][self.column] = character
            self.column += width

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append({})

    @property
    def lines(self) -> list[str]:
        """The rows as text, without empty ones."""
        texts = ("".join(row[place] for place in sorted(row)) for row in self.rows)
        return [text.rstrip() for text in texts if text.strip()]


@define(eq=False)
class TerminalProgram:
    """A program on a terminal. Each change of its screen is kept."""

    process: "subprocess.Popen[bytes]"
    master: int
    screen: Screen
    frames: list[list[str]] = field(factory=list)
    """What the user saw, one change after the other."""
    text: str = ""
    """All that was written."""

    @classmethod
    def start(
        cls, command: Sequence[str], *, columns: int, cwd: Path, env: Mapping[str, str]
    ) -> "TerminalProgram":
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**environment, "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - so that ^C interrupts
        )
        os.close(slave)
        return cls(process, master, Screen(columns))

    def look(self) -> bool:
        """Take in what was written. False: the program has ended, and all of it is read."""
        check_servers()
        if not select.select([self.master], [], [], GLANCE)[0]:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:  # nobody holds the other end any more
            return False
        text = data.decode("utf-8", "replace")
        self.text += text
        # A frame is drawn after a carriage return; each is looked at whole.
        for piece in re.split(r"(?=\r)", text):
            self.screen.feed(piece)
            if not self.frames or self.frames[-1] != self.screen.lines:
                self.frames.append(self.screen.lines)
        return bool(data)

    def until(self, condition: Callable[["TerminalProgram"], object], seconds: float = LONGEST) -> None:
        """Wait until the user sees something."""
        end = time.monotonic() + seconds
        while not condition(self):
            assert self.look() or condition(self), f"ended before that was seen:\n{self.seen()}"
            assert time.monotonic() < end, f"not seen within {seconds:g} s:\n{self.seen()}"

    def shows(self, words: str, seconds: float = LONGEST) -> None:
        """Wait until the screen has these words."""
        self.until(lambda one: words in "\n".join(one.screen.lines), seconds)

    def finish(self, seconds: float = LONGEST) -> int:
        """Wait for the end. Returns the exit code."""
        end = time.monotonic() + seconds
        while self.look():
            assert time.monotonic() < end, f"has not ended within {seconds:g} s:\n{self.seen()}"
        return self.process.wait(seconds)

    def seen(self) -> str:
        return "\n".join(self.screen.lines)

    def kill(self) -> None:
        """Kill the program, if it still lives."""
        self.process.kill()
        self.process.wait()
        os.close(self.master)
