"""A guard: no call of the library blocks a running event loop.

Whatever may block is wrapped while the guard stands: files, folders, sockets, SQLite, waits for threads,
sleep. A call is judged by the nearest frame that is neither the standard library's nor of a package through
which the library reaches the disk. Where that frame is the library's, and a loop runs in the thread, the call
is a violation. All other callers are left alone by the same rule: the tests, the simulator, coverage and
profilers, imports under way.

Only public names of Python are replaced, and no type is changed: a tracer that calls the lock it was given
calls a real lock.
"""

import asyncio
import io
import linecache
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import pytest
from attrs import Factory, define, field

import novita_async
from novita_async.models.images import ImageSource

ROOM: Final = str(Path(novita_async.__file__).parent) + os.sep
SIMULATOR: Final = ROOM + "testing" + os.sep
PACKAGES: Final = sysconfig.get_paths()["purelib"] + os.sep
STANDARD: Final = tuple(sysconfig.get_paths()[name] + os.sep for name in ("stdlib", "platstdlib"))
FOR_THEMSELVES: Final = {
    # An import under way; the lines of source that tracebacks and warnings show.
    ModuleSpec.__init__.__code__.co_filename,
    SourceFileLoader.get_data.__code__.co_filename,
    linecache.getline.__code__.co_filename,
}
"""Parts of the standard library that read files for themselves, whoever called them."""
THROUGH: Final = tuple(PACKAGES + name + os.sep for name in ("aiohttp", "PIL", "msgspec", "cattrs", "rich"))
"""Packages by which the library could touch the disk: their calls are the library's own."""

MAY_BLOCK: Final = {
    # The two reads that are allowed: a picture's stat and header, and one slice of it.
    ImageSource.from_path.__func__.__code__,
    ImageSource.slices.__code__,
    # Starting a thread waits until the thread runs.
    threading.Thread.start.__code__,
}

ENDS: Final = {asyncio.Runner.close.__code__}
"""The end of `asyncio.run`, which itself waits for the loop's own threads; not what its last tasks do."""

FUNCTIONS: Final = {
    time: "sleep",
    os: "open fsync stat lstat statvfs access listdir scandir mkdir rmdir link symlink readlink rename "
    "replace remove unlink truncate ftruncate utime chmod chown sendfile system",
    socket: "getaddrinfo gethostbyname gethostbyaddr create_connection",
    Path: "glob rglob",
    subprocess: "run call check_call check_output",
    subprocess.Popen: "wait communicate",
    threading.Thread: "join",
}
SOCKET: Final = "connect accept send sendall sendto recv recv_into recvfrom recvfrom_into recvmsg"
SSL_SOCKET: Final = "send recv read write do_handshake"
DESCRIPTORS: Final = "read write"


class BlocksTheLoopError(Exception):
    """A call that waits, where nothing else can go on meanwhile."""


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@define(eq=False)
class Guard:
    """What is the library's, and what was found."""

    own: str = ROOM
    """Where the code lies whose calls are judged."""
    simulator: str = SIMULATOR
    """What lies there, too, and may block."""
    may_block: set[CodeType] = Factory(lambda: set(MAY_BLOCK))
    found: list[str] = field(factory=list)
    """Violations, also those whose exception was caught by the library."""

    def check(self, call: str) -> None:
        """Refuse a call of the library that would block a loop. To be called by the wrapper of the call."""
        if _loop_runs() and (place := self.owner(sys._getframe(2))):
            self.found.append(f"{call} blocks the loop at {place}")
            raise BlocksTheLoopError(self.found[-1])

    def owner(self, frame: FrameType | None) -> str | None:
        """Tell the line of the library that made a call. None: another caller did."""
        while frame:
            code, file = frame.f_code, frame.f_code.co_filename
            if code in self.may_block or code in ENDS or file in FOR_THEMSELVES:
                return None
            if file.startswith(self.own):
                allowed = file.startswith(self.simulator) or self._may_block_above(frame)
                return None if allowed else f"{file}:{frame.f_lineno}, in {code.co_qualname}"
            if not self._passes_on(file):
                return None
            frame = frame.f_back
        return None

    def _may_block_above(self, frame: FrameType | None) -> bool:
        """Whether a frame above may block: one that is meant to, or an import under way."""
        while frame and frame.f_code not in self.may_block:
            if frame.f_code.co_filename in FOR_THEMSELVES:
                return True
            frame = frame.f_back
        return frame is not None

    @staticmethod
    def _passes_on(file: str) -> bool:
        """Whether the code there calls in the name of its own caller."""
        if file == __file__ or file.startswith((*THROUGH, "<")):
            return True
        return file.startswith(STANDARD) and not file.startswith(PACKAGES)


# --- What is put in the place of what may block -----------------------------------------------------------


def guarded(
    guard: Guard, call: str, function: Callable[..., Any], may: Callable[..., bool] | None = None
) -> Callable[..., Any]:
    """Check each call, but for those that cannot block."""

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if may is None or not may(*args, **kwargs):
            guard.check(call)
        return function(*args, **kwargs)

    return checked


def never_waits(sock: socket.socket, *_: Any, **__: Any) -> bool:
    return sock.gettimeout() == 0


def only_looks(_condition: threading.Condition, timeout: float | None = None) -> bool:
    return timeout is not None and timeout <= 0


def is_nonblocking(descriptor: int, *_: Any) -> bool:
    return not os.get_blocking(descriptor)


def guarded_file(guard: Guard) -> type[io.FileIO]:
    """Make a file whose bytes are read and written under guard, whoever holds the file later."""

    class GuardedFile(io.FileIO):
        pass

    for name in ("read", "readall", "readinto", "write", "truncate"):
        setattr(GuardedFile, name, guarded(guard, f"file.{name}", getattr(io.FileIO, name)))
    return GuardedFile


def guarded_open(guard: Guard, usual: Callable[..., Any]) -> Callable[..., Any]:
    """Open files as usual; those that the library opens stay under guard."""
    kind = guarded_file(guard)

    def checked_open(  # noqa: PLR0917 - as the usual one
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        guard.check("open")
        if not guard.owner(sys._getframe(1)):
            return usual(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = kind(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        wrapper = io.BufferedReader if raw.readable() else io.BufferedWriter
        buffered = (io.BufferedRandom if raw.readable() and raw.writable() else wrapper)(
            raw, buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        )
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)

    return checked_open


def guarded_connect(guard: Guard, usual: Callable[..., sqlite3.Connection]) -> Callable[..., Any]:
    """Connect as usual; what the library connects to stays under guard."""

    class GuardedCursor(sqlite3.Cursor):
        pass

    class GuardedConnection(sqlite3.Connection):
        def cursor(self, factory: Any = GuardedCursor) -> Any:
            return super().cursor(factory)

        def execute(self, *arguments: Any) -> Any:
            return self.cursor().execute(*arguments)

        def executemany(self, *arguments: Any) -> Any:
            return self.cursor().executemany(*arguments)

        def executescript(self, *arguments: Any) -> Any:
            return self.cursor().executescript(*arguments)

    for name in ("execute", "executemany", "executescript", "fetchone", "fetchmany", "fetchall", "__next__"):
        setattr(GuardedCursor, name, guarded(guard, f"sqlite3 {name}", getattr(sqlite3.Cursor, name)))
    for name in ("commit", "rollback", "backup", "close"):
        setattr(GuardedConnection, name, guarded(guard, f"sqlite3 {name}", getattr(sqlite3.Connection, name)))

    @wraps(usual)
    def checked(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        guard.check("sqlite3.connect")
        if guard.owner(sys._getframe(1)):
            kwargs.setdefault("factory", GuardedConnection)
        return usual(*args, **kwargs)

    return checked


@define(eq=False)
class GuardedLock:
    """A lock of the library's own. To take a free lock never blocks."""

    guard: Guard
    lock: Any

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self.lock.acquire(blocking=False):
            return True
        if not blocking or timeout == 0:
            return False
        self.guard.check("Lock.acquire")
        return self.lock.acquire(blocking, timeout)

    def release(self) -> None:
        self.lock.release()

    def locked(self) -> bool:
        return self.lock.locked()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def guarded_lock(guard: Guard, usual: Callable[[], Any]) -> Callable[[], Any]:
    """Make locks as usual, and those of the library under guard."""

    def make() -> Any:
        return GuardedLock(guard, usual()) if guard.owner(sys._getframe(1)) else usual()

    return make


@contextmanager
def standing(guard: Guard) -> Iterator[Guard]:
    """Let the guard stand for the length of the block."""
    with pytest.MonkeyPatch.context() as patch:

        def put(holder: Any, names: str, may: Callable[..., bool] | None = None) -> None:
            for name in names.split():
                call = f"{getattr(holder, '__qualname__', holder.__name__)}.{name}"
                patch.setattr(holder, name, guarded(guard, call, getattr(holder, name), may))

        for holder, names in FUNCTIONS.items():
            put(holder, names)
        put(socket.socket, SOCKET, never_waits)
        put(ssl.SSLSocket, SSL_SOCKET, never_waits)
        put(os, DESCRIPTORS, is_nonblocking)
        put(threading.Condition, "wait", only_looks)
        opened = guarded_open(guard, open)
        patch.setattr(io, "open", opened)
        patch.setattr("builtins.open", opened)
        patch.setattr("builtins.input", guarded(guard, "input", input))
        patch.setattr(sqlite3, "connect", guarded_connect(guard, sqlite3.connect))
        patch.setattr(threading, "Lock", guarded_lock(guard, threading.Lock))
        yield guard
