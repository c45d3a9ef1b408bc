"""The disk of a world: what a process sees of it, what goes wrong with it, and what a power cut leaves.

The file system is the real one, in a folder that is meant to be in memory; each step that changes
something asks here first. What is durable is what was synced: the bytes of a file at its last `fsync` and the
names of a folder at its last one (an `fsync` of a file keeps its names of that moment, as journaling file
systems do). A name that was not synced may be there or not, the bytes that were not are gone. A SQLite file
is durable as of its last commit with `synchronous=FULL`.
"""

import errno
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final, Self

from attrs import define, field

from novita_async.testing.worlds import troubles
from novita_async.testing.worlds.dice import fraction
from novita_async.testing.worlds.stage import Stage

_FULL: Final = 2
"""`PRAGMA synchronous` that syncs each commit."""
_SPARE: Final = "-spare"


class Dead(OSError):
    """A process that was stopped dead tries to do something."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "this process is dead")


@define(eq=False, repr=False)
class WorldDisk:
    """A folder, seen by one process after the other."""

    world: Stage
    root: Path
    """Where everything is."""
    _generation: int = field(default=0, init=False)
    _bytes: dict[int, bytes] = field(factory=dict[int, bytes], init=False)
    """By inode, what was synced."""
    _names: dict[str, int] = field(factory=dict[str, int], init=False)
    """By path, which inode a synced name means."""
    keeps: bool = False
    """Whether what is durable is kept: where a power cut is to come."""
    _steps: int = field(default=0, init=False)

    def __repr__(self) -> str:
        return f"<WorldDisk {self.root}>"

    @property
    def home(self) -> Path:
        """Where a process has its files: a link to the folder of this generation."""
        return self.root / "home"

    @property
    def _folder(self) -> Path:
        return self.root / f"g{self._generation}"

    def begin(self) -> None:
        """Make the first folder."""
        real_mkdir(self._folder)
        os.symlink(self._folder, self.home)

    # --- After a crash ------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Leave everything to the dead as it is, and give a copy of it to whoever comes next."""
        before = self._folder
        dead = before.with_name(f"dead{self._generation}")
        os.rename(before, dead)
        self._next()
        shutil.copytree(dead, self._folder, symlinks=True)
        self._forget()

    def cut_power(self) -> None:
        """As `crash`, but only what was synced is left."""
        found: dict[str, int] = {}
        for folder, _, files in os.walk(self._folder):
            for name in sorted(files):
                path = os.path.join(folder, name)
                lucky = fraction(self.world.plan.seed, "name", name) < 0.5
                if lucky and ".db" not in name:
                    found[path] = os.stat(path).st_ino
        before, kept, names = str(self._folder), self._bytes, self._names | found
        os.rename(before, f"{self.root}/dead{self._generation}")
        self._next()
        real_mkdir(self._folder)
        for path, inode in sorted(names.items()):
            target = Path(str(self._folder) + path.removeprefix(before))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(kept.get(inode, b""))
        self._forget()

    def _next(self) -> None:
        self._generation += 1
        os.unlink(self.home)
        os.symlink(self._folder, self.home)

    def _forget(self) -> None:
        self._bytes, self._names = {}, {}
        if self.keeps:
            for folder, _, files in os.walk(self._folder):
                for name in files:
                    self._keep(os.path.join(folder, name))

    # --- What is durable ----------------------------------------------------------------------------------

    def synced(self, handle: int) -> None:
        """Keep what has just been synced."""
        if not self.keeps:
            return
        inode = os.fstat(handle)
        if stat.S_ISDIR(inode.st_mode):
            self._keep_names(inode.st_ino)
            return
        for folder, _, files in os.walk(self._folder):
            for name in files:
                path = os.path.join(folder, name)
                if os.stat(path).st_ino == inode.st_ino:
                    self._keep(path)

    def _keep(self, path: str) -> None:
        try:
            with real_open(path, "rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                self._bytes[inode] = file.read()
        except FileNotFoundError:
            return
        self._names[path] = inode

    def _keep_names(self, folder_inode: int) -> None:
        for folder, _, files in os.walk(self._folder):
            if os.stat(folder).st_ino != folder_inode:
                continue
            for path in [path for path in self._names if os.path.dirname(path) == folder]:
                del self._names[path]
            for name in files:
                path = os.path.join(folder, name)
                self._names[path] = os.stat(path).st_ino

    def committed(self, connection: sqlite3.Connection) -> None:
        """Keep what SQLite has just synced."""
        if not self.keeps:
            return
        (synchronous,) = sqlite3.Connection.execute(connection, "PRAGMA synchronous").fetchone()
        file = sqlite3.Connection.execute(connection, "PRAGMA database_list").fetchone()[2]
        if synchronous < _FULL or not file:
            return
        for path in (file, f"{file}-wal"):
            if os.path.exists(path):
                was_named = path in self._names
                self._keep(path)
                if not was_named and path == file:
                    del self._names[path]  # its name is synced with its folder

    def closed(self, path: str) -> None:
        """Keep a SQLite file that was closed in order."""
        if self.keeps and path in self._names:
            self._keep(path)
            if not os.path.exists(f"{path}-wal"):
                self._names.pop(f"{path}-wal", None)

    # --- What goes wrong ----------------------------------------------------------------------------------

    def is_here(self, path: object) -> bool:
        """Whether a path belongs to this world."""
        return str(path).startswith(str(self.root))

    def step(self, name: str, path: object) -> None:
        """Something is about to change on the disk. Raises what goes wrong with it."""
        process = self.world.process
        if process is None:
            return
        if process.dead:
            raise Dead
        process.mark("file")
        now, plan = self.world.now, self.world.plan
        if troubles.is_on(plan, "folder read-only", now):
            self._reached("folder read-only")
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        if name in ("mkdir", "link") and self.is_full:
            self._reached("disk full")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if name == "fsync" and self._fails("fsync fails"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be written."""
        return troubles.is_on(self.world.plan, "disk full", self.world.now)

    def _fails(self, kind: str) -> bool:
        trouble = self.world.plan.trouble(kind)
        self._steps += 1
        fails = trouble is not None and fraction(self.world.plan.seed, kind, self._steps) < trouble.rate
        if fails:
            self._reached(kind)
        return fails

    def _reached(self, kind: str) -> None:
        self.world.record.reached[f"trouble: {kind}"] += 1

    def opened(self, mode: str, file: IO[Any]) -> IO[Any]:
        """A file that was opened to be written, as it is while the disk is full."""
        if self.is_full and self.world.process is not None and any(letter in mode for letter in "wxa+"):
            self._reached("disk full")
            return _Full(file)  # type: ignore[return-value]  # as much of a file as is used
        return file

    def commit_fails(self, connection: sqlite3.Connection) -> "Callable[[], None] | None":
        """Find what raises a commit's error. None: no failure."""
        process = self.world.process
        if process is None:
            return None
        if process.dead:
            return _raiser("this process is dead", sqlite3.SQLITE_IOERR)
        process.mark("commit")
        now, plan = self.world.now, self.world.plan
        if troubles.is_on(plan, "folder read-only", now):
            self._reached("folder read-only")
            return _raiser("attempt to write a readonly database", sqlite3.SQLITE_READONLY)
        file = (
            sqlite3.Connection.execute(connection, "PRAGMA database_list").fetchone()[2]
            if self.is_full
            else ""
        )
        if self.is_full and os.path.exists(f"{file}{_SPARE}"):
            self._reached("disk full")
            return _raiser("database or disk is full", sqlite3.SQLITE_FULL)
        if self._fails("fsync fails"):
            return _raiser("disk I/O error", sqlite3.SQLITE_IOERR)
        return None

    def commits_all_the_same(self) -> bool:
        """Whether a commit that fails is in the file all the same: where all was written, and not synced."""
        written = not (self.is_full or troubles.is_on(self.world.plan, "folder read-only", self.world.now))
        return written and fraction(self.world.plan.seed, "all the same", self._steps) < 0.5


def _raiser(words: str, code: int) -> Callable[[], None]:
    def fail() -> None:
        error = sqlite3.OperationalError(words)
        error.sqlite_errorcode = code
        raise error

    return fail


class _Full:
    """A file on a full disk: half of what is written gets there."""

    def __init__(self, file: IO[Any]) -> None:
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


real_open = open
real_mkdir = os.mkdir
