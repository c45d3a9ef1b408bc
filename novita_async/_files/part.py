"""A result file until it is whole: in memory, and what is too much for that in a `.part` file.

Each step on the disk is a hop to a thread, which costs more than the step. So a usual picture takes one hop:
it is written, checked and named when all of it has come.
"""

import os
import re
from contextlib import suppress
from io import BytesIO, FileIO
from pathlib import Path
from typing import Final

import anyio.to_thread
from attrs import define, field

from novita_async._files.kinds import BadFileError, FoundKind, kind_of
from novita_async._util.disk import make_folder

HELD: Final = 1024 * 1024
"""Bytes of one file that are held in memory before they are written."""
LEFT_AFTER: Final = 3600.0
"""Seconds without a change after which nobody alive is writing a part: no attempt lasts so long."""
_OF_A_FILE: Final = re.compile(r"\.[0-9a-f]{16,32}-\d+\.part")
_OF_A_NOTE: Final = re.compile(r"\.(?:batch\.json|report\.html|input)\.\d+(?:-\d+)?\.part")


@define(eq=False, repr=False)
class Part:
    """The part of a file that has come."""

    place: "str | os.PathLike[str]"
    """Where it is written before it has its name. Text is enough: making a `Path` costs as much as a link."""
    _held: bytearray = field(factory=bytearray, init=False)
    _is_begun: bool = field(default=False, init=False)

    @classmethod
    def finished(cls, place: "str | os.PathLike[str]") -> "Part":
        """A file that is whole already."""
        part = cls(place)
        part._is_begun = True
        return part

    @property
    def path(self) -> Path:
        """The same as a path."""
        return Path(self.place)

    def restart(self) -> None:
        """Forget what has come: the file is asked for again."""
        self._held.clear()
        self._is_begun = False

    async def append(self, piece: bytes, /) -> None:
        """Take in a piece. Raises `OSError`."""
        self._held += piece
        if len(self._held) >= HELD:
            await anyio.to_thread.run_sync(self.write)

    def write(self, *, durable: bool = False) -> None:
        """Write what is held. Blocks. Raises `OSError`."""
        with self._opened() as file:
            written = 0
            with memoryview(self._held) as held:
                while written < len(held):
                    written += file.write(held[written:])
            if durable:
                os.fsync(file.fileno())
        self._is_begun = True
        self._held.clear()

    def finish(self, stated: str | None, *, takes_cut: bool, durable: bool) -> tuple[FoundKind, int]:
        """Write the rest, and tell the kind and the size of the whole. Blocks.

        What is in memory is looked at before a byte of it is written.

        Raises:
            BadFileError: as `kind_of` does.
            OSError: of the disk.
        """
        if self._is_begun:
            self.write()
            with self.path.open("rb+") as file:
                kind = kind_of(file, stated, takes_cut=takes_cut)
                if durable:
                    os.fsync(file.fileno())
                return kind, file.seek(0, os.SEEK_END)
        kind, size = kind_of(BytesIO(self._held), stated, takes_cut=takes_cut), len(self._held)
        self.write(durable=durable)
        return kind, size

    def _opened(self) -> FileIO:
        """Open the file to be written on; the first piece makes it anew."""
        if self._is_begun:
            return FileIO(self.place, "ab")
        try:
            return FileIO(self.place, "xb")
        except FileNotFoundError:
            make_folder(self.path.parent)
        except FileExistsError:
            self.remove()  # a dead process left it, perhaps a name of the whole file: never write to that
        return FileIO(self.place, "xb")

    def remove(self) -> None:
        """Take the file away, if it is there. Blocks. Raises `OSError`."""
        with suppress(FileNotFoundError):
            os.unlink(self.place)  # noqa: PTH108


def remove_left(folder: Path, now: float) -> None:
    """Remove the parts that dead processes have left in a folder. Blocks.

    A whole picture stays: it may be paid, and known by a journal, or by nobody yet.

    Args:
        folder: Where to look; not in folders below.
        now: The time, in unix seconds.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") or not entry.name.endswith(".part"):
                continue
            with suppress(OSError):
                is_left = now - entry.stat().st_mtime > LEFT_AFTER
                if is_left and (_OF_A_NOTE.fullmatch(entry.name) or _is_cut(entry)):
                    Path(entry.path).unlink()


def _is_cut(entry: "os.DirEntry[str]") -> bool:
    """Whether this is the part of a file that is cut, or no picture."""
    if _OF_A_FILE.fullmatch(entry.name) is None:
        return False
    try:
        with Path(entry.path).open("rb") as file:
            kind_of(file, None, takes_cut=False)
    except BadFileError:
        return True
    return False
