"""A bounded folder of pictures that were fetched from a storage, each called by its SHA-256.

Several processes share it. A picture appears whole, by a rename; each use touches its file; whoever adds much
removes what was used least recently. Pictures that a living process holds are touched by it now and then, and
what was used within `IN_USE` is never removed: so the bound is kept as far as work allows. The time of access
tells the last use. The time of change is the same for all, so a picture that was removed and fetched again is
still the picture that somebody has measured.
"""

import hashlib
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from attrs import define, field

from novita_async.models.images import ImageSource

BOUND: Final = 2 * 1024**3
"""Bytes of all pictures together."""
IN_USE: Final = 900.0
"""Seconds since its last use for which a picture stays in any case."""
_KEPT_FREE: Final = 0.1
"""Share of the bound that is made free at once, so that not every picture has the whole folder looked at."""
_PART: Final = ".part"


def cache_folder() -> Path:
    """The folder of this user's caches, as the platform has it; else one for temporary files."""
    home = Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    folder = base / "novita-async" / "inputs"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # a container without a home, say
        user = os.getuid() if hasattr(os, "getuid") else "me"
        folder = Path(tempfile.gettempdir()) / f"novita-async-{user}"
    return folder


@define(eq=False, repr=False)
class PictureCache:
    """Pictures on this machine, by their digests. Every method blocks."""

    _folder: Path | None = None
    """Where they lie. None: with this user's caches."""
    bound: int = BOUND
    """Bytes of all together, above which those that were used least recently go."""
    _held: "WeakValueDictionary[str, ImageSource]" = field(
        factory=WeakValueDictionary[str, ImageSource], init=False
    )
    """Pictures that somebody in this process may yet read."""
    _added: int | None = field(default=None, init=False)
    """Bytes added since the folder was last looked at. None: never looked at."""

    def __repr__(self) -> str:
        return f"<PictureCache {self._folder or 'of this user'}>"

    @property
    def folder(self) -> Path:
        """Where they lie."""
        if self._folder is None:
            self._folder = cache_folder()
        return self._folder

    def get(self, digest: str) -> ImageSource | None:
        """Take a picture. Its bytes are checked once a process. None: not here."""
        held = self._held.get(digest)
        path = self.folder / digest
        if held is not None and _touched(path):
            return held
        try:
            found = ImageSource.from_path(path)
            is_whole = found.digest() == digest
        except ValueError:  # `InvalidRequest`: missing, empty, changed meanwhile
            return None
        if not is_whole:
            path.unlink(missing_ok=True)
            return None
        _touched(path)
        return self._taken(digest, found)

    def _taken(self, digest: str, found: ImageSource) -> ImageSource:
        self._held[digest] = found
        return found

    def add(self, digest: str, pieces: Iterable[bytes]) -> ImageSource | None:
        """Keep a picture. None: these bytes are another's. Raises `OSError`."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self.folder / f".{uuid.uuid4().hex}{_PART}"
        sha, size = hashlib.sha256(), 0
        try:
            with part.open("xb") as file:
                for piece in pieces:
                    sha.update(piece)
                    size += file.write(piece)
            if sha.hexdigest() != digest:
                return None
            os.utime(part, ns=(time.time_ns(), 0))
            part.replace(self.folder / digest)
        finally:
            part.unlink(missing_ok=True)
        self._added = None if self._added is None else self._added + size
        if self._added is None or self._added > self.bound * _KEPT_FREE:
            self.trim()
        return self._taken(digest, ImageSource.from_path(self.folder / digest))

    def trim(self, now: float | None = None) -> None:
        """Remove what was used least recently, until the rest is well within the bound."""
        now, files = time.time() if now is None else now, list[tuple[float, int, Path]]()
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(OSError):  # another process removes, too
                    facts = entry.stat()
                    files.append((facts.st_atime, facts.st_size, Path(entry.path)))
        left = sum(size for _, size, _ in files)
        self._added = 0
        for used, size, path in sorted(files):
            is_left = path.name.endswith(_PART)
            if now - used < IN_USE or not (is_left or left > self.bound * (1 - _KEPT_FREE)):
                continue
            if path.name not in self._held:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                    left -= size

    def touch(self) -> None:
        """Say that the pictures this process holds are in use."""
        for digest in list(self._held):
            _touched(self.folder / digest)


def _touched(path: Path) -> bool:
    """Note that a file was used now. False: gone."""
    try:
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    except OSError:
        return False
    return True
