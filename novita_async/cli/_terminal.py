"""Output on a terminal: text without control characters, and one line that is drawn again and again.

The line is one line at any width: its parts get shorter, and then fewer, by their rank. The terminal is told
not to wrap, in case a character is wider than its tables say. The cursor rests at the beginning of the line,
so that whatever somebody else writes (the `^C` of the keyboard) takes no second one, and so that the line is
found again after the window was made narrower and has broken it in two.
"""

import os
import re
import shlex
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TextIO

from attrs import define, field

from novita_async._util.values import frozen

_UNSEEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, and those that turn the direction of what follows."""
_NO_TEXT: Final = re.compile("[\udc80-\udcff]")
"""Bytes of a file name that are no text, as Python holds them."""
_ELLIPSIS: Final = "…"
_ERASE: Final = "\r\x1b[J"
_HIDE_CURSOR: Final = "\x1b[?25l"
_SHOW_CURSOR: Final = "\x1b[?25h"
_NO_WRAP: Final = "\x1b[?7l"
_WRAP: Final = "\x1b[?7h"
_PLAIN: Final = str.maketrans("…·━─↻⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "~|#-~" + "|/-\\" * 2 + "|/")
"""For terminals that know ASCII alone."""


def visible(text: str) -> str:
    """Text with its control characters written out: a file name may hold any."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def command_line(words: Iterable[str]) -> str:
    """A command as it can be read on a terminal, and typed in bash or zsh."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if not _UNSEEN.search(word):
        return shlex.quote(word)
    escaped = _NO_TEXT.sub(
        lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", word.replace("\\", r"\\").replace("'", r"\'")
    )
    return f"$'{visible(escaped)}'"


def width_of(text: str) -> int:
    """Columns that a text takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, columns: int) -> str:
    """The beginning of a text, with an ellipsis where something is left out."""
    if width_of(text) <= columns:
        return text
    room, kept = columns - 1, ""
    for character in text:
        room -= _cells(character)
        if room < 0:
            break
        kept += character
    return kept + _ELLIPSIS if columns > 0 else ""


@frozen
class LinePart:
    """A part of the line."""

    texts: tuple[str, ...]
    """The same, ever shorter. An empty text leaves the part out."""
    ranks: tuple[int, ...] = ()
    """Of each step to a shorter text, falling: steps of the highest rank are taken first."""
    joint: str = " · "
    """Stands before the part, unless it is the first."""


def composed(parts: Sequence[LinePart], columns: int) -> str:
    """Put the line together from parts, as much as there is room for."""
    chosen = [0] * len(parts)
    steps = sorted(
        (rank, place, number) for place, part in enumerate(parts) for number, rank in enumerate(part.ranks)
    )
    for _, place, _ in reversed(steps):
        if width_of(_joined(parts, chosen)) <= columns:
            break
        chosen[place] += 1
    for _, place, number in steps:  # what took much room may have left some for others
        longer = [*chosen[:place], number, *chosen[place + 1 :]]
        if chosen[place] == number + 1 and width_of(_joined(parts, longer)) <= columns:
            chosen = longer
    return cut(_joined(parts, chosen), columns)


def _joined(parts: Sequence[LinePart], chosen: Sequence[int]) -> str:
    line = ""
    for part, place in zip(parts, chosen, strict=True):
        text = part.texts[place]
        line += (part.joint if line and text else "") + text
    return line


@define(eq=False)
class StatusLine:
    """The last line of a terminal."""

    stream: TextIO
    """Where it is drawn."""
    _is_drawn: bool = field(default=False, init=False)
    _is_mid_line: bool = field(default=False, init=False)
    """Whether somebody has written the beginning of a line that must not be drawn over."""

    def columns(self) -> int:
        """Columns that can be used. The last one is left free: some terminals wrap as soon as it is full."""
        try:
            columns = os.get_terminal_size(self.stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        return (columns or shutil.get_terminal_size().columns) - 1

    def draw(self, spin: str, parts: Sequence[LinePart]) -> None:
        """Draw the line anew."""
        if self._is_mid_line:
            return
        line = f"{spin} {composed(parts, self.columns() - 2)}"
        if "utf" not in (self.stream.encoding or "utf").lower():
            line = line.translate(_PLAIN)
        begin = "" if self._is_drawn else _HIDE_CURSOR
        self._is_drawn = True
        self.stream.write(f"{begin}{_ERASE}{_NO_WRAP}{line}{_WRAP}\r")
        self.stream.flush()

    def erase(self) -> None:
        """Leave nothing of the line."""
        if self._is_drawn:
            self._is_drawn = False
            self.stream.write(_ERASE + _SHOW_CURSOR)
            self.stream.flush()

    def write_above(self, stream: TextIO, text: str) -> int:
        """Write text where the line stands; the line is drawn again below it, once the text is whole."""
        if not text:
            return 0
        self.erase()
        self._is_mid_line = not text.endswith("\n")
        return stream.write(text)


@define(eq=False)
class AboveLine:
    """A stream of the terminal on which the line stands."""

    stream: TextIO
    write_above: Callable[[TextIO, str], int]

    def write(self, text: str) -> int:
        """Write above the line."""
        return self.write_above(self.stream, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
