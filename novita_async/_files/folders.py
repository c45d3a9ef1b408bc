"""Folders of result files: tried before anything is bought, and made durable for many files at once."""

import errno
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

import anyio
import anyio.to_thread
from attrs import define, field

from novita_async._util.disk import make_folder, sync_folder
from novita_async.errors import ConfigurationError, Scope

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


@define(eq=False)
class _Group:
    """Folders that are fsynced together."""

    folders: set[Path] = field(factory=set)
    errors: dict[Path, OSError] = field(factory=dict)
    is_done: bool = False

    def sync(self) -> None:
        for folder in self.folders:
            try:
                sync_folder(folder)
            except OSError as error:
                self.errors[folder] = error
        self.is_done = True


@define(eq=False)
class FolderSync:
    """Makes names durable. Results that end while one fsync runs share the next."""

    _next: _Group = field(factory=_Group, init=False)
    _one: anyio.Lock = field(factory=anyio.Lock, init=False)

    async def sync(self, folder: Path) -> None:
        """Return when all names that are in a folder now are durable. Raises `OSError`."""
        group = self._next
        group.folders.add(folder)
        async with self._one:
            if not group.is_done:
                self._next = _Group()
                await anyio.to_thread.run_sync(group.sync)
        if folder in group.errors:
            raise OSError(*group.errors[folder].args)
