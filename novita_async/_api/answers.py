"""Answers that hold pictures: found, and decoded slice by slice, while the bytes come.

A picture of 20 MB is 27 MB of base64 in the answer, and every JSON library hands over whole strings. So the
text is not parsed here: strings are found by their quotes, and a string above 1 KiB that is base64 of a
picture, or a data URL, is taken out. The rest is small, and JSON like any other. The rules:

* The scanner is pure: bytes go in, events come out, wherever the bytes are cut.
* A string is judged by its first 1 KiB. Base64 that does not begin like a picture or a film stays in the
  text: a signature, a token, a long word.
* Base64 is read leniently: escapes, line breaks, the alphabet of URLs, padding left out. Whatever else stands
  in a picture ends it there, and the event says so.
* No byte is looked at alone. Quotes, backslashes and base64 are found and decoded by functions in C, in all
  that has come; only where those refuse, the text is cleaned first.
"""

import io
import re
from binascii import Error
from collections.abc import Callable
from typing import Final

import pybase64
from attrs import define, field

from novita_async._http import PART_MARK
from novita_async._util.values import frozen
from novita_async.models._headers import PICTURES, read_header

SAMPLE: Final = 1024
"""Bytes of a string by which it is judged. A shorter string stays in the text."""
_KINDS: Final = PICTURES | {"mp4", "webm"}
_BMP_RESERVED: Final = slice(6, 10)
"""Bytes of a BMP that are zero. Its first two, which say BM, are those of every 65,536th signature, too."""

_DATA_URL: Final = re.compile(rb'\s*data:([^,;"]{0,100})[^,"]{0,300}?;base64,', re.IGNORECASE)
_BLANKS: Final = b" \t\n\r\f\v"
_FROM_URLS: Final = bytes.maketrans(b"-_", b"+/")
_DIGITS: Final = re.compile(rb"[A-Za-z0-9+/]*")

_LONGEST_ESCAPE: Final = 6
_USUAL_ESCAPES: Final = {
    b"\\/": b"/",
    b"\\n": b"\n",
    b"\\r": b"\r",
    b"\\u002b": b"+",
    b"\\u002B": b"+",
    b"\\u003d": b"=",
    b"\\u003D": b"=",
}
"""Escapes that encoders write within base64, in great numbers. Undone behind a backslash that stands for
itself, none of them leaves another behind, but for the first, which leaves itself."""
_ESCAPE: Final = re.compile(rb"\\(?:u00([0-9a-fA-F]{2})|(.))", re.DOTALL)
_BY_LETTER: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"f": b"\f", b"/": b"/"}


# --- Events -------------------------------------------------------------------------------------------------


@frozen(eq=False, repr=False)
class TextPiece:
    """JSON of the answer, with marks in the place of its pictures."""

    text: bytes


@frozen(eq=False, repr=False)
class PartBegun:
    """A picture begins: the next part, counted from 0."""

    media_type: str | None
    """The media type that a data URL states."""


@frozen(eq=False, repr=False)
class PartPiece:
    """Decoded bytes of the part that has begun."""

    data: bytes


@frozen(eq=False, repr=False)
class PartEnded:
    """The part that has begun is over."""

    is_whole: bool
    """False: something that is no base64 stands in it, and from there on it was passed over."""


AnswerEvent = TextPiece | PartBegun | PartPiece | PartEnded


# --- The scanner --------------------------------------------------------------------------------------------


@define(eq=False, repr=False)
class AnswerScanner:
    """Takes the pictures out of an answer's JSON as its bytes come."""

    mark: str = PART_MARK
    """Beginning of the strings that stand where parts were; their number follows."""
    parts: int = field(init=False, default=0)
    """Parts that have begun."""
    _step: "Callable[[AnswerScanner, bytes, int], int | None]" = field(init=False)
    """Next step with the bytes at hand, from a place on. Gives the place to go on from; None: the bytes
    that follow decide."""
    _rest: bytes = field(init=False, default=b"")
    """Bytes that could not be judged yet: at most `SAMPLE` bytes."""
    _given: int = field(init=False, default=0)
    """Up to where the bytes at hand were given out as text, or belong to a part."""
    _events: list[AnswerEvent] = field(init=False, factory=list)
    _quantum: bytes = field(init=False, default=b"")
    """Up to three digits of base64 that wait for those that make four."""
    _padded: bool = field(init=False, default=False)
    """Whether the padding at the end of the part has come."""

    def __attrs_post_init__(self) -> None:
        self._step = AnswerScanner._between_strings

    def __repr__(self) -> str:
        return f"<AnswerScanner {self._step.__name__.strip('_').replace('_', ' ')}, {self.parts} parts>"

    def feed(self, data: bytes) -> list[AnswerEvent]:
        """Take in the next bytes."""
        have = self._rest + data if self._rest else data
        at, self._given = 0, 0
        while at < len(have) and (next_at := self._step(self, have, at)) is not None:
            at = next_at
        if not self._is_in_part:
            self._give_text(have, at)
        self._rest = have[at:]
        events, self._events = self._events, []
        return events

    def finish(self) -> bytes:
        """Give the text that is left: the answer is over. A part that is open was cut, and never ends."""
        rest, self._rest = self._rest, b""
        return b"" if self._is_in_part else rest

    @property
    def _is_in_part(self) -> bool:
        return self._step in (AnswerScanner._in_part, AnswerScanner._behind_part)

    def _give_text(self, have: bytes, end: int, mark: bytes = b"") -> None:
        if self._given < end or mark:
            self._events.append(TextPiece(have[self._given : end] + mark))
        self._given = end

    # Steps.

    def _between_strings(self, have: bytes, at: int) -> int:
        quote = have.find(b'"', at)
        if quote < 0:
            return len(have)
        self._step = AnswerScanner._at_start_of_string
        return quote + 1

    def _at_start_of_string(self, have: bytes, at: int) -> int | None:
        end = _closing_quote(have, at, at + SAMPLE)
        if end >= 0:
            self._step = AnswerScanner._between_strings
            return end + 1
        if len(have) < at + SAMPLE:
            return None
        opening = _opening_of(have[at : at + SAMPLE])
        if opening is None:
            self._step = AnswerScanner._in_text
            return at
        length, media_type = opening
        self._give_text(have, at, f"{self.mark}{self.parts}".encode())
        self._events.append(PartBegun(media_type))
        self.parts += 1
        self._quantum, self._padded, self._step = b"", False, AnswerScanner._in_part
        return at + length

    def _in_text(self, have: bytes, at: int) -> int | None:
        end = _closing_quote(have, at, len(have))
        if end < 0:
            return _before_open_escape(have, at)
        self._step = AnswerScanner._between_strings
        return end + 1

    def _in_part(self, have: bytes, at: int) -> int | None:
        end = have.find(b'"', at)
        if have.find(b"\\", at, end if end >= 0 else len(have)) < 0:
            is_last, end = end >= 0, end if end >= 0 else len(have)
            digits = have[at:end]
        else:
            end = _closing_quote(have, at, len(have))
            is_last = end >= 0
            cut = end if is_last else _before_open_escape(have, at)
            if cut is None:
                return None
            end, digits = cut, _unescaped(have[at:cut])
        is_whole = self._decode(digits)
        if is_last and is_whole:
            is_whole = self._decode_end(self._quantum.translate(_FROM_URLS, _BLANKS))
        if is_last or not is_whole:
            self._events.append(PartEnded(is_whole))
            self._step = AnswerScanner._behind_part
        return end

    def _behind_part(self, have: bytes, at: int) -> int | None:
        end = _closing_quote(have, at, len(have))
        if end < 0:
            return _before_open_escape(have, at)
        self._given, self._step = end, AnswerScanner._between_strings
        return end + 1

    # Base64.

    def _decode(self, digits: bytes) -> bool:
        """Decode more of a part. False: something else stands in it."""
        text = self._quantum + digits if self._quantum else digits
        if not self._padded and self._decode_usual(text):
            return True
        text = text.translate(_FROM_URLS, _BLANKS)
        return (not self._padded and self._decode_usual(text)) or self._decode_end(text)

    def _decode_usual(self, text: bytes) -> bool:
        """Decode base64 of the standard form, in fours. False: there is something else in it."""
        length = len(text) & ~3
        try:
            self._give_data(_decoded(memoryview(text)[:length]))
        except Error:
            return False
        self._quantum, self._padded = text[length:], text[length - 1 : length] == b"="
        return True

    def _decode_end(self, text: bytes) -> bool:
        """Decode what is left, or stands before padding or something else. False: something else it is."""
        digits = b"" if self._padded else _digits_of(text)
        alone = len(digits) % 4 == 1
        usable = digits[:-1] if alone else digits
        self._give_data(_decoded(usable + b"=" * (-len(usable) % 4)))
        self._quantum, self._padded = b"", True
        return not alone and not text[len(digits) :].strip(b"=")

    def _give_data(self, data: bytes) -> None:
        if data:
            self._events.append(PartPiece(data))


def _decoded(text: "bytes | memoryview") -> bytes:
    return pybase64.b64decode(text, validate=True)


def _digits_of(text: bytes) -> bytes:
    """The digits of base64 with which a text begins."""
    found = _DIGITS.match(text)
    return found[0] if found else b""


def _opening_of(sample: bytes) -> tuple[int, str | None] | None:
    """Judge a string by its beginning. None: it stays in the text.

    Returns:
        How much of it comes before the base64, and the media type that it states.
    """
    url = _DATA_URL.match(sample)
    length = url.end() if url else 0
    text = _unescaped(sample[length : _before_open_escape(sample, length)]).translate(_FROM_URLS, _BLANKS)
    if len(_digits_of(text)) < len(text):
        return None
    if url:
        return length, _unescaped(url[1]).decode(errors="replace") or None
    start = _decoded(text[: len(text) & ~3])
    kind = read_header(io.BytesIO(start)).format
    if kind not in _KINDS or (kind == "bmp" and any(start[_BMP_RESERVED])):
        return None
    return 0, None


def _unescaped(text: bytes) -> bytes:
    """Undo escapes, none of which may be cut. A backslash stands for all that is no ASCII."""
    clean = text
    seen: set[bytes] = set()
    while (at := clean.find(b"\\")) >= 0:
        escape = clean[at : at + (_LONGEST_ESCAPE if clean[at + 1 : at + 2] == b"u" else 2)]
        if escape not in _USUAL_ESCAPES or escape in seen:
            return _ESCAPE.sub(_meaning, text)
        clean = clean.replace(escape, _USUAL_ESCAPES[escape])
        seen.add(escape)
    return clean


def _meaning(escape: "re.Match[bytes]") -> bytes:
    code, letter = escape.groups()
    return bytes.fromhex(code.decode()) if code else _BY_LETTER.get(letter, b"\\")


def _closing_quote(text: bytes, start: int, end: int) -> int:
    """Where a string ends that goes on at `start`, where no escape is open; -1: not before `end`."""
    quote = text.find(b'"', start, end)
    while quote >= 0 and _is_open(text, start, quote - 1):
        quote = text.find(b'"', quote + 1, end)
    return quote


def _before_open_escape(text: bytes, start: int) -> int | None:
    """Where to stop so that the end cuts no escape. None: nothing comes before."""
    end = len(text)
    last = text.rfind(b"\\", max(start, end - _LONGEST_ESCAPE + 1))
    if last >= 0 and (last == end - 1 or text[last + 1 : last + 2] == b"u") and _is_open(text, start, last):
        end = last
    return end if end > start else None


def _is_open(text: bytes, start: int, last: int) -> bool:
    """Whether an escape begins at a place. In a row of backslashes, each second one is meant itself."""
    first = last
    while first >= start and text[first : first + 1] == b"\\":
        first -= 1
    return (last - first) % 2 == 1


# --- Answers that broke off ---------------------------------------------------------------------------------

_TOKEN: Final = re.compile(
    rb'\s*("[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]|[^\s"\[\]{},:]+(?=[\s"\[\]{},:]))', re.DOTALL
)
_CLOSING: Final = {b"[": b"]", b"{": b"}"}


def closed(text: bytes) -> bytes:
    """Close an object or an array that broke off, behind its last whole value. A whole one stays as it is.

    `{"data": [{"b64_json": "novita-part:0"}, {"b64_json": "iVB` becomes
    `{"data": [{"b64_json": "novita-part:0"}, {}]}`.
    """
    closing: list[bytes] = []
    at = good = 0
    before = b""
    while found := _TOKEN.match(text, at):
        token, at = found[1], found.end()
        is_key = closing[-1:] == [b"}"] and before != b":" and token.startswith(b'"')
        if token in _CLOSING:
            closing.append(_CLOSING[token])
        elif closing[-1:] == [token]:
            closing.pop()
        before = token
        if token not in (b",", b":") and not is_key:
            good = at
            if not closing:
                return text
    return text[:good] + b"".join(reversed(closing))
