"""Places for files, and what is put there.

A `Storage` keeps whole files under names: a folder, objects in a bucket, a place of the user's own. Nothing
is ever put over another file, and whoever puts the same bytes under the same name again has put them: so a
worker that was killed before it could say so, and the worker that goes on for it, end at one file.
"""

import errno
import io
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import anyio.to_thread
from attrs import define, field

from novita_async._http import MIB
from novita_async._util.values import frozen
from novita_async.errors import ConfigurationError, NovitaError, redacted

_MARK: Final = "://"
"""Part of every address that is no path: paths lose one of its slashes."""
_BINARY: Final = "application/octet-stream"
_MEDIA_TYPES: Final = {
    **{kind: f"image/{kind}" for kind in ("avif", "bmp", "gif", "heic", "jpeg", "png", "tiff", "webp")},
    **{kind: f"video/{kind}" for kind in ("mp4", "webm")},
    **{kind: f"audio/{kind}" for kind in ("flac", "ogg", "wav")},
    "m4a": "audio/mp4",
    "mov": "video/quicktime",
    "mp3": "audio/mpeg",
}


@frozen(eq=False, kw_only=True, repr=False)
class Content:
    """A whole file that is to be put. Its bytes can be read any number of times.

    Args:
        size: Its length in bytes.
        media_type: Its kind, such as `image/png`.
    """

    size: int
    """Its length in bytes."""
    media_type: str = _BINARY
    """Its kind, such as `image/png`."""
    _file: BinaryIO = field(alias="file")
    _is_in_memory: bool = field(alias="is_in_memory", default=False)

    @classmethod
    def of(cls, data: bytes, suffix: str = "") -> "Content":
        """Make one of bytes, whose kind is that of files with this suffix."""
        return cls(size=len(data), media_type=media_type_of(suffix), file=io.BytesIO(data), is_in_memory=True)

    def __repr__(self) -> str:
        return f"<Content {self.media_type}, {self.size:,} bytes>"

    async def read(self) -> bytes:
        """Read all of it."""
        return await self.piece(0, self.size)

    async def chunks(self, length: int = MIB) -> AsyncGenerator[bytes]:
        """Read it piece by piece, from its start."""
        for start in range(0, self.size, length):
            yield await self.piece(start, length)

    async def piece(self, start: int, length: int) -> bytes:
        """Read a part of it."""
        if self._is_in_memory:
            return self._piece(start, length)
        return await anyio.to_thread.run_sync(self._piece, start, length)

    def _piece(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        return self._file.read(length)


def media_type_of(suffix: str) -> str:
    """Media type of files with this suffix."""
    return _MEDIA_TYPES.get(suffix, _BINARY)


class Storage(Protocol):
    """A place where whole files are kept under names. Write one for a place of your own.

    Names are short and safe, such as `00000-42-1.png`; some hold one `/`, as `inputs/…` does. The methods
    raise `OSError`: `ConnectionError` and `TimeoutError` for trouble that passes, so that the same is tried
    again; `PermissionError`, and `FileNotFoundError` where the place itself is gone, for trouble that every
    other file would meet, so that nothing more is bought; any other for trouble with this file.
    """

    @property
    def address(self) -> str:
        """The place, as people write it: `s3://bucket/spring`. The address of a file goes on with `/` and its
        name.
        """
        ...

    async def check(self) -> None:
        """See whether files can be put there. Called before anything is bought."""
        ...

    async def put_new(self, name: str, content: Content, /) -> bool:
        """Put a file under a name, whole or not at all, durably.

        Returns:
            Whether it was put. False: the name is taken, and what has it stays as it is.
        """
        ...

    async def has(self, name: str, /) -> bool:
        """Whether there is a file of this name."""
        ...

    def open(self, name: str, /) -> AsyncGenerator[bytes]:
        """Read a file, piece by piece. Raises `FileNotFoundError` where there is none."""
        ...


@define(eq=False, repr=False)
class MemoryStorage:
    """Files in memory, for tests; and the shortest example of a storage.

    Args:
        address: Name of the storage.
        files: The files, by their names.
    """

    address: str = "memory://files"
    """Name of the storage."""
    files: dict[str, bytes] = field(factory=dict[str, bytes])
    """The files, by their names."""

    def __repr__(self) -> str:
        return f"<MemoryStorage {self.address}, {len(self.files)} files>"

    async def check(self) -> None:
        """Find nothing wrong."""

    async def put_new(self, name: str, content: Content, /) -> bool:
        """Put a file under a name that is free."""
        data = await content.read()
        if name in self.files:
            return False
        self.files[name] = data
        return True

    async def has(self, name: str, /) -> bool:
        """Whether there is a file of this name."""
        return name in self.files

    async def open(self, name: str, /) -> AsyncGenerator[bytes]:
        """Read a file."""
        if name not in self.files:
            raise FileNotFoundError(name)
        yield self.files[name]


@frozen(kw_only=True)
class SavedFiles:
    """Where the files of a result are, in its order."""

    paths: tuple[Path, ...] = ()
    """In a folder."""
    objects: tuple[str, ...] = ()
    """Addresses elsewhere."""


def address_of(storage: Storage, name: str) -> str:
    """Address of a file."""
    return f"{storage.address.rstrip('/')}/{name}"


def name_in(storage: Storage, address: str) -> str | None:
    """Name of the file with this address. None: not in this storage."""
    place = f"{storage.address.rstrip('/')}/"
    return address.removeprefix(place) if address.startswith(place) else None


def is_address(text: str) -> bool:
    """Whether this is the address of a file, and no path."""
    return _MARK in text


async def put_or_found(storage: Storage, name: str, content: Content) -> bool:
    """Put a file. Returns whether the name has it now: a put whose answer was lost has succeeded, too.

    Raises:
        ConnectionError: the name is said to be taken, and is not, as while another process is putting it.
    """
    if await storage.put_new(name, content):
        return True
    try:
        return await has_same(storage, name, content)
    except FileNotFoundError as error:
        raise ConnectionError(errno.ECONNABORTED, f"{name} is taken, and not there") from error


async def has_same(storage: Storage, name: str, content: Content) -> bool:
    """Whether the file of this name has these very bytes. Raises `FileNotFoundError`: there is none."""
    start = 0
    pieces = storage.open(name)
    try:
        async for piece in pieces:
            if await content.piece(start, len(piece)) != piece:
                return False
            start += len(piece)
    finally:
        await pieces.aclose()
    return start == content.size


async def see_to(storage: Storage) -> None:
    """See whether files can be put into a storage.

    Raises:
        ConfigurationError: none can. Nothing was bought.
    """
    try:
        await storage.check()
    except NovitaError:
        raise
    except Exception as error:  # the user's own code, or one of a hundred faults of a network
        problem = f"files cannot be put into {storage.address}: {words_of(error)}"
        raise ConfigurationError(
            problem=problem, advice="nothing was bought; mend that, or choose another place"
        ) from error


def words_of(error: Exception) -> str:
    """Say in one line what was wrong in a storage, by its error."""
    kind = type(error).__name__
    text = (error.strerror or str(error)) if isinstance(error, OSError) else f"{kind}: {error}"
    return redacted(text.strip().partition("\n")[0]) or kind
