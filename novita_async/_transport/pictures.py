"""Answers that hold pictures, on their way into files.

* Scanning, decoding and writing run in worker threads, a few pieces at a time. What waits for its turn stays
  in its connection, which pauses: so much memory each answer takes, and no more.
* A picture is written to a file of its own, which ends in `.part` and is removed unless the picture comes
  whole. In the folder of a request such files are on the disk, with their names, before the answer is told.
* A disk that fails loses the picture and nothing else: the answer is read to its end, for it is paid.
* An answer that is a picture itself is one, as if it stood in JSON: `{"image": …}`.
* An answer that breaks off behind a whole picture is an answer; its JSON is closed where it broke off.
"""

import asyncio
import io
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final, cast

from attrs import define, field

from novita_async._api.answers import (
    AnswerEvent,
    AnswerScanner,
    PartBegun,
    PartEnded,
    PartPiece,
    TextPiece,
    closed,
)
from novita_async._http import MIB, PART_MARK, AnswerPart, Delivery, DeliveryFailed, HTTPRequest, HTTPResponse
from novita_async._util.disk import make_folder, sync_folder
from novita_async._util.scopes import run_in_thread
from novita_async.models._headers import PICTURES, read_header

_TURNS: Final = 4
"""Pieces of answers that are worked on at once, each in a thread. All others wait where they came."""
_HELD: Final = 64 * 1024
"""Bytes of a picture that are held in memory where the request names no folder."""
_SAMPLE: Final = 512
_NO_PICTURE: Final = frozenset({b"{", b"[", b'"', b"<", b" ", b"\n", b"\r", b"\t"})
"""First bytes of an answer that is no picture."""
_TOLD_BY: Final = 64
"""Bytes by which a picture is known."""
MAX_TEXT: Final = 16 * MIB
"""Bytes of an answer beside its pictures."""
MAX_PICTURES: Final = 512 * MIB
"""Bytes of all pictures of an answer, decoded."""


@define(eq=False, repr=False)
class PictureIntake:
    """Answers with pictures of one transport, and the folder for those whose requests name none."""

    under_way: int = field(init=False, default=0)
    """Answers that have begun and not ended."""
    turns: asyncio.Semaphore = field(init=False, factory=lambda: asyncio.Semaphore(_TURNS))
    """To be held while a piece is taken out of a connection and worked on: memory stays small, and the loop
    reads from few connections at a time."""
    _temporary: "TemporaryDirectory[str] | None" = field(init=False, default=None)
    _making: threading.Lock = field(init=False, factory=threading.Lock)

    def __repr__(self) -> str:
        return f"<PictureIntake, {self.under_way} answers under way>"

    def leave_loop(self) -> None:
        """Begin anew in another loop. The folder stays."""
        self.turns, self.under_way = asyncio.Semaphore(_TURNS), 0

    def begin(self, request: HTTPRequest) -> "PictureAnswer":
        """Take in an answer, until its `end` or `discard`."""
        self.under_way += 1
        return PictureAnswer(self, request.folder)

    async def read(
        self, request: HTTPRequest, response: HTTPResponse, cut: str | None = None
    ) -> HTTPResponse:
        """Read an answer that has come already: what a transport without sockets does.

        Args:
            request: The request that is answered.
            response: As much of it as came.
            cut: Why it broke off. None: it is whole.

        Raises:
            DeliveryFailed: it broke off, and no picture came whole.
        """
        if request.answer == "pictures" and 200 <= response.status < 300:  # noqa: PLR2004
            answer = self.begin(request)
            try:
                async with self.turns:
                    await answer.take(response.body)
            except DeliveryFailed as too_large:
                cut = too_large.cause
            except asyncio.CancelledError:
                if not answer.has_whole:
                    await answer.discard()
                    raise
            if answer.has_whole or cut is None:
                return await answer.end(response.status, response.headers, cut)
            await answer.discard()
        if cut is not None:
            raise DeliveryFailed(Delivery.UNKNOWN, cut, status=response.status)
        return response

    def temporary(self) -> Path:
        """The folder for pictures without one. Blocks. Raises `OSError`."""
        with self._making:
            if self._temporary is None:
                self._temporary = TemporaryDirectory(prefix="novita-", ignore_cleanup_errors=True)
            return Path(self._temporary.name)

    async def aclose(self) -> None:
        """Remove the folder with all its files."""
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            await run_in_thread(temporary.cleanup)


@define(eq=False, kw_only=True, repr=False)
class _PartFile:
    """A picture on its way into a file. Blocks."""

    place: Callable[[], Path]
    """Gives the path of the file, in a folder that is there. Raises `OSError`."""
    held_size: int
    """Bytes up to which it is held in memory."""
    is_durable: bool
    """Whether the file must be on the disk when it is finished."""
    media_type: str | None
    """Name in the answer."""
    size: int = field(init=False, default=0)
    lost: str | None = field(init=False, default=None)
    """Why it cannot be kept."""
    _path: Path | None = field(init=False, default=None)
    _file: BinaryIO | None = field(init=False, default=None)
    _held: bytearray = field(init=False, factory=bytearray)
    _start: bytes = field(init=False, default=b"")
    """Its first bytes, which tell its kind."""

    def write(self, data: bytes) -> None:
        if len(self._start) < _SAMPLE:
            self._start += data[:_SAMPLE]
        self.size += len(data)
        if self.lost is not None:
            return
        try:
            self._write(data)
        except OSError as error:
            self._lose(error)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._held += data
            if self.size <= self.held_size:
                return
            self._path = self.place()
            self._file = self._path.open("xb")
            data, self._held = bytes(self._held), bytearray()
        self._file.write(data)

    def finish(self, mark: str, *, is_whole: bool) -> AnswerPart:
        """Let the file be whole. `is_whole` tells whether the picture is."""
        if self._file is not None and self.lost is None:
            try:
                self._file.flush()
                if self.is_durable:
                    os.fsync(self._file.fileno())
                self._file.close()
            except OSError as error:
                self._lose(error)
        kind = read_header(io.BytesIO(self._start)).format
        return AnswerPart(
            path=self._path,
            data=bytes(self._held) if self._file is None and self.lost is None else None,
            size=self.size,
            kind=kind or (self.media_type or "").partition("/")[2] or None,
            mark=mark,
            is_whole=is_whole,
            lost=self.lost,
        )

    def _lose(self, error: OSError) -> None:
        self.lost = error.strerror or str(error)
        self.remove()

    def remove(self) -> None:
        """Take the file away again."""
        self._held.clear()
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
        _remove(self._path)
        self._path = None


def _remove(path: Path | None) -> None:
    with suppress(OSError):
        if path is not None:
            path.unlink(missing_ok=True)


@define(eq=False, repr=False)
class PictureAnswer:
    """An answer on its way."""

    _intake: PictureIntake
    _folder: Path | None
    """The folder that the request names."""
    _parts: list[AnswerPart] = field(init=False, factory=list)
    _text: bytearray = field(init=False, factory=bytearray)
    _open: _PartFile | None = field(init=False, default=None)
    """The picture that comes now."""
    _size: int = field(init=False, default=0)
    """Bytes of all pictures so far."""
    _token: str = field(init=False, factory=lambda: secrets.token_hex(8))
    """Beginning of its files' names, and part of the marks in its text."""
    _scanner: AnswerScanner = field(init=False)
    _beginning: bytes | None = field(init=False, default=b"")
    """Bytes that have come, until they tell whether the answer is a picture itself. None: they have told."""
    _is_bare: bool = field(init=False, default=False)
    """Whether the answer is a picture itself, without any JSON around it."""

    def __attrs_post_init__(self) -> None:
        self._scanner = AnswerScanner(f"{PART_MARK}{self._token}-")

    def __repr__(self) -> str:
        return f"<PictureAnswer, {len(self._parts)} parts, {self._scanner!r}>"

    @property
    def has_whole(self) -> bool:
        """Whether a picture has come whole, so that the answer is one, whatever happens now."""
        return bool(self._parts)

    async def take(self, piece: bytes) -> None:
        """Take in more of the answer. Raises `DeliveryFailed` where it gets too large."""
        await run_in_thread(self._carry_out, piece)

    async def end(self, status: int, headers: Mapping[str, str], cut: str | None = None) -> HTTPResponse:
        """Tell the answer, which is over.

        Args:
            status: Of the answer.
            headers: Of the answer.
            cut: Why it broke off.
        """
        self._intake.under_way -= 1
        try:
            await run_in_thread(partial(self._finish, is_whole=cut is None))
        except asyncio.CancelledError:
            if not self._parts:
                raise
        text = bytes(self._text)
        body = closed(text) if self._parts else text
        if body != text:
            cut = cut or "the answer ends too early"
        return HTTPResponse(status=status, headers=headers, body=body, parts=tuple(self._parts), cut=cut)

    async def discard(self) -> None:
        """Remove all that has come."""
        self._intake.under_way -= 1
        await run_in_thread(self._remove_all)

    # In a thread.

    def _carry_out(self, piece: bytes) -> None:
        if self._beginning is not None:
            piece, self._beginning = self._beginning + piece, None
            if piece[:1] not in _NO_PICTURE:
                if len(piece) < _TOLD_BY:
                    self._beginning = piece
                    return
                self._is_bare = read_header(io.BytesIO(piece[:_SAMPLE])).format in PICTURES
            if self._is_bare:
                self._text += f'{{"image": "{self._scanner.mark}0"}}'.encode()
                self._take(PartBegun(None))
        if self._is_bare:
            self._take(PartPiece(piece))
            return
        for event in self._scanner.feed(piece):
            self._take(event)

    def _take(self, event: AnswerEvent) -> None:
        if isinstance(event, TextPiece):
            self._text += event.text
            if len(self._text) > MAX_TEXT:
                raise _too_large(MAX_TEXT)
        elif isinstance(event, PartBegun):
            self._open = _PartFile(
                place=self._place,
                held_size=_HELD if self._folder is None else 0,
                is_durable=self._folder is not None,
                media_type=event.media_type,
            )
        elif isinstance(event, PartPiece):
            cast("_PartFile", self._open).write(event.data)
            self._size += len(event.data)
            if self._size > MAX_PICTURES:
                raise _too_large(MAX_PICTURES)
        else:
            mark = f"{self._scanner.mark}{len(self._parts)}"
            self._parts.append(cast("_PartFile", self._open).finish(mark, is_whole=event.is_whole))
            self._open = None

    def _place(self) -> Path:
        folder = self._folder
        if folder is None:
            folder = self._intake.temporary()
        else:
            make_folder(folder)
        return folder / f".{self._token}-{len(self._parts) + 1}.part"

    def _finish(self, *, is_whole: bool) -> None:
        if self._is_bare and is_whole:
            self._take(PartEnded(is_whole=True))
        if self._beginning:
            self._text += self._beginning
        self._text += self._scanner.finish()
        self._remove_open()
        if self._folder is not None and any(part.path for part in self._parts):
            with suppress(OSError):  # the files are there; who names them syncs the folder again
                sync_folder(self._folder)

    def _remove_open(self) -> None:
        if self._open is not None:
            self._open.remove()
            self._open = None

    def _remove_all(self) -> None:
        self._remove_open()
        for part in self._parts:
            _remove(part.path)


def _too_large(limit: int) -> DeliveryFailed:
    return DeliveryFailed(Delivery.UNKNOWN, f"the answer is larger than {limit:,} bytes")
