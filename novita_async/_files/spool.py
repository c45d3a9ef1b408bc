"""A file on its way to a storage: in memory, and what is too much for that in a file without a name.

Such a file goes with its process, however that ends.
"""

import io
from collections.abc import Generator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import BinaryIO, cast

import anyio.to_thread
from attrs import define, field

from novita_async._files.part import HELD
from novita_async._files.storage import Content, media_type_of


@define(eq=False, repr=False)
class Spool:
    """The part of a file that has come."""

    _memory: bytearray = field(factory=bytearray, init=False)
    _file: BinaryIO | None = field(default=None, init=False)

    @classmethod
    @contextmanager
    def opened(cls) -> "Generator[Spool]":
        """Make one for a block."""
        spool = cls()
        try:
            yield spool
        finally:
            spool.restart()

    def restart(self) -> None:
        """Forget what has come: the file is asked for again."""
        self._memory.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    async def append(self, piece: bytes, /) -> None:
        """Take in a piece. Raises `OSError`."""
        self._memory += piece
        if len(self._memory) >= HELD:
            await anyio.to_thread.run_sync(self._write)

    def _write(self) -> None:
        if self._file is None:
            self._file = cast("BinaryIO", TemporaryFile())  # noqa: SIM115 - closed by `restart`
        self._file.write(self._memory)
        self._memory.clear()

    def finished(self) -> BinaryIO:
        """The whole file, at its start. Blocks. Raises `OSError`."""
        if self._file is None:
            return io.BytesIO(self._memory)
        self._write()
        self._file.seek(0)
        return self._file

    def content(self, suffix: str) -> Content:
        """The whole file, to be put. Blocks. Raises `OSError`."""
        file = self.finished()
        size = file.seek(0, io.SEEK_END)
        return Content(
            size=size,
            media_type=media_type_of(suffix),
            file=file,
            is_in_memory=isinstance(file, io.BytesIO),
        )
