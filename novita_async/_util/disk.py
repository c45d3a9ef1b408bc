"""Folders and names that are there after a power cut; folders that are another machine's.

A file's own fsync keeps its bytes. Its name is an entry of the folder, and outlives a power cut once the
folder has been fsynced too: before that, nothing may be called saved.
"""

import errno
import os
import re
from pathlib import Path
from typing import Final

_NOT_FOR_FOLDERS: Final = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP})
"""Answers of file systems that fsync no folders, as some network drives do."""
MOUNTS: Final = Path("/proc/self/mounts")
"""File of Linux that tells which file system is mounted where."""
_SHARES: Final = frozenset(
    {"afs", "cifs", "fuse.gcsfuse", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "nfs", "nfs4", "smb3", "smbfs"}
)
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


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


def share_of(path: Path, mounts: Path = MOUNTS) -> str | None:
    """Tell the kind of the network share that a whole path lies on. Blocks. None: none, or nobody can say."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:  # not Linux
        return None
    above, kind = Path("/"), ""
    for _, place, found, *_ in (line.split(" ") for line in lines):
        mounted = Path(_ESCAPED.sub(lambda code: chr(int(code[1], 8)), place))
        if path.is_relative_to(mounted) and mounted.is_relative_to(above):  # of two at one place the later
            above, kind = mounted, found
    return kind if kind in _SHARES else None
