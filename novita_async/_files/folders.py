"""Folders of result files: tried before anything is bought, and made durable for many files at once."""

import errno
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from attrs import define, field

from novita_async._util.disk import make_folder, sync_folder
from novita_async._util.groups import Groups
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
class _Name:
    """A name that must be durable."""

    folder: Path
    error: OSError | None = None
    """Why it could not be made so."""


def _sync(names: list[_Name]) -> None:
    """Fsync each folder once."""
    errors: dict[Path, OSError] = {}
    for folder in {name.folder for name in names}:
        try:
            sync_folder(folder)
        except OSError as error:
            errors[folder] = error
    for name in names:
        name.error = errors.get(name.folder)


@define(eq=False)
class FolderSync:
    """Makes names durable. Results that end while one fsync runs share the next."""

    _names: Groups[_Name] = field(factory=lambda: Groups(_sync), init=False)

    async def sync(self, folder: Path) -> None:
        """Return when all names that are in a folder now are durable. Raises `OSError`."""
        name = _Name(folder)
        await self._names.join(name)
        if name.error is not None:
            raise OSError(*name.error.args)
