"""Folders of result files: tried before anything is bought, and made durable for many files at once."""

import errno
import os
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final, Protocol, TypeVar, cast

import anyio
import anyio.to_thread
from attrs import define, field

from novita_async._files.storage import Content
from novita_async._http import MIB
from novita_async._util.disk import make_folder, sync_folder
from novita_async._util.groups import Groups
from novita_async.errors import ConfigurationError, Scope

T = TypeVar("T")
_AT_ONCE: Final = 8
"""Groups of files that are written at once to a slow disk."""
_STOPPING: Final = frozenset({errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""A full disk, a used-up quota, a read-only disk: the next file would meet the same."""


def see_to_folder(folder: Path) -> None:
    """Make a folder for files that are yet to be bought. Blocks.

    Raises:
        ConfigurationError: none can be written there.
    """
    try:
        make_folder(folder)
        with TemporaryFile(dir=folder):
            return
    except OSError as error:
        problem = f"files cannot be written to {folder}: {error.strerror or error}"
        raise ConfigurationError(
            problem=problem, advice="nothing was bought; choose another folder"
        ) from error


def scope_of(error: OSError, folder: Path) -> Scope:
    """Whether an error stops all that would be saved in a folder, or concerns one request. Blocks."""
    if error.errno != errno.EACCES:
        return "account" if error.errno in _STOPPING else "request"
    try:
        with TemporaryFile(dir=folder):
            return "request"  # one file of somebody else's
    except OSError:
        return "account"


class LineToAdd(Protocol):
    """A line about a result, added to a file once all files of the result have names that are durable."""

    def writer(self) -> Callable[[list[Any]], object]:
        """Find what adds lines of this file, in one go. Each takes its own error."""
        ...


@define(eq=False, repr=False)
class _DiskStep:
    """A step on the disk, and what is to follow."""

    work: Callable[[], Any] | None
    folder: Path | None
    """Folder whose names are durable afterwards."""
    line: LineToAdd | None = None
    """Line that is added then."""
    result: Any = None
    error: Exception | None = None
    """Why the step, or the folder's fsync, did not work."""


def _carry_out(steps: list[_DiskStep]) -> None:
    """Do all steps; then fsync each folder once; then write all lines: each names what a power cut leaves."""
    for step in steps:
        try:
            step.result = step.work() if step.work else None
        except Exception as error:  # noqa: BLE001 - raised where the step was told
            step.error = error
    for folder in {step.folder for step in steps if step.folder and not step.error}:
        try:
            sync_folder(folder)
        except OSError as error:
            for step in steps:
                if step.folder == folder and not step.error:
                    step.error = OSError(*error.args)
    lines: dict[Callable[[list[Any]], object], list[LineToAdd]] = {}
    for step in steps:
        if step.line is not None and step.error is None:
            lines.setdefault(step.line.writer(), []).append(step.line)
    for write, added in lines.items():
        write(added)


@define(eq=False, repr=False)
class FolderSync:
    """Works on the disk, and makes names durable. Results that end while others do so go together.

    All of them take one hop to a thread, one fsync of their folder, one write to their index.
    """

    _steps: Groups[_DiskStep] = field(factory=lambda: Groups(_carry_out, _AT_ONCE), init=False)

    async def sync(self, folder: Path) -> None:
        """Return when all names that are in a folder now are durable. Raises `OSError`."""
        await self._join(_DiskStep(None, folder))

    async def settle(self, work: Callable[[], T], folder: Path | None, line: LineToAdd | None) -> T:
        """Do work that blocks; then make the names in a folder durable, and add a line.

        Raises:
            Exception: as the work does.
            OSError: of the folder.
        """
        step = _DiskStep(work, folder, line)
        await self._join(step)
        return cast("T", step.result)

    async def _join(self, step: _DiskStep) -> None:
        await self._steps.join(step)
        if step.error is not None:
            raise step.error


@define(eq=False, repr=False)
class FolderStorage:
    """A folder, as a storage. Results are put into folders by the same steps, in one go.

    Args:
        path: The folder, which is made where it is missing.
    """

    path: Path
    """The folder, which is made where it is missing."""

    @property
    def address(self) -> str:
        """The folder's path."""
        return str(self.path)

    def __repr__(self) -> str:
        return f"<FolderStorage {self.path}>"

    async def check(self) -> None:
        """Make the folder. Raises `ConfigurationError`."""
        await anyio.to_thread.run_sync(see_to_folder, self.path)

    async def put_new(self, name: str, content: Content, /) -> bool:
        """Put a file under a name that is free. Raises `OSError`."""
        path = self.path / name
        part = path.with_name(f".{uuid.uuid4().hex}-1.part")
        await anyio.to_thread.run_sync(make_folder, path.parent)
        try:
            async with await anyio.open_file(part, "xb") as file:
                async for piece in content.chunks():
                    await file.write(piece)
            return await anyio.to_thread.run_sync(_put, part, path)
        finally:
            with anyio.CancelScope(shield=True), suppress(OSError):
                await anyio.to_thread.run_sync(partial(part.unlink, missing_ok=True))

    async def has(self, name: str, /) -> bool:
        """Whether there is a file of this name."""
        return await anyio.to_thread.run_sync((self.path / name).is_file)

    async def open(self, name: str, /) -> AsyncGenerator[bytes]:
        """Read a file, piece by piece. Raises `OSError`."""
        async with await anyio.open_file(self.path / name, "rb") as file:
            while piece := await file.read(MIB):
                yield piece


def _put(part: Path, path: Path) -> bool:
    """Give a file its name, durably. Returns False where the name is taken. Blocks. Raises `OSError`."""
    with part.open("ab") as file:
        os.fsync(file.fileno())
    try:
        claim(part, path)
    except FileExistsError:
        return False
    sync_folder(path.parent)
    return True


def claim(part: "str | os.PathLike[str]", path: Path) -> None:
    """Make `path` the whole file at once, or raise `FileExistsError`. Blocks."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links there: the empty file keeps the name until the whole one replaces it
        path.open("xb").close()
        Path(part).replace(path)
