"""Folders and names that are there after a power cut.

A file's own fsync keeps its bytes. Its name is an entry of the folder, and outlives a power cut once the
folder has been fsynced too: before that, nothing may be called saved.
"""

import errno
import os
from pathlib import Path
from typing import Final

_NOT_FOR_FOLDERS: Final = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP})
"""Answers of file systems that fsync no folders, as some network drives do."""


def make_folder(folder: Path) -> None:
    """Make a folder, durably, with those above it. Blocks. Raises `OSError`."""
    if folder.is_dir():
        return
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Blocks. Raises `OSError`."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders, and keeps their entries itself
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise
    finally:
        os.close(handle)
