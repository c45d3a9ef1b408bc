"""Replacements while a world runs, all of them here: clocks, chance, threads, signals, files.

Only what the standard library and anyio offer is replaced, never a part of the client, with two exceptions
that are looked for by name and may be missing: how much room a journal keeps on the disk, and how its rows
are packed.
"""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import importlib
import io
import logging
import os
import random
import secrets
import signal
import sqlite3
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator, Sized
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

import aiohappyeyeballs
import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio._backends import _asyncio as backend

from novita_async.testing.worlds.dice import whole
from novita_async.testing.worlds.loops import WorldLoop
from novita_async.testing.worlds.roles import WorldView

if TYPE_CHECKING:
    from novita_async.testing.worlds.disk import WorldDisk

T = TypeVar("T")

_WRITING: Final = frozenset("wxa+")
_ROOM: Final = 4096


Change = tuple[Any, str, Any]
"""A place, a name there, and what stands for it while a world runs."""


@contextmanager
def installed(world: WorldView) -> Generator[None]:
    """Let one world have all of the machine."""
    changes: list[Change] = [
        *_chance(world),
        *_threads(world),
        *_files(world),
        *_scopes(world),
        *_journal(world),
    ]
    changes.append((logging.getLogger("novita_async"), "propagate", False))
    before = [(place, name, getattr(place, name)) for place, name, _ in changes]
    log = logging.getLogger("novita_async")
    listener = _LogListener(world)
    log.addHandler(listener)
    _PRESENT.append(world)
    try:
        for place, name, value in changes:
            setattr(place, name, value)
        yield
    finally:
        _PRESENT.pop()
        log.removeHandler(listener)
        for place, name, value in before:
            setattr(place, name, value)


class _LogListener(logging.Handler):
    """Takes in what the client logs."""

    def __init__(self, world: WorldView) -> None:
        super().__init__()
        self._world = world
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self._world.record.texts.append(text)
        self._world.record.say(self._world.now, "log", text.partition("\n")[0])


def _chance(world: WorldView) -> Iterator[Change]:
    drawn = iter(range(1 << 62))

    def draw(size: int | None = None) -> bytes:
        return whole(world.plan.seed, "bytes", next(drawn)).to_bytes(8, "big") * (-(-(size or 32) // 8))

    def token_bytes(size: int) -> bytes:
        return draw(size)[:size]

    def token_hex(size: int | None = None) -> str:
        return draw(size)[: size or 32].hex()

    yield time, "time", world.wall_time
    yield secrets, "token_hex", token_hex
    yield secrets, "token_urlsafe", token_hex
    yield secrets, "token_bytes", token_bytes
    yield uuid, "uuid4", lambda: uuid.UUID(bytes=draw(16)[:16], version=4)
    yield signal, "getsignal", world.signal_handler


def steady(thing: object, seed: int) -> None:
    """Seed every generator of random numbers that an object of the client holds, however deep."""
    for each in _held_by(thing):
        if isinstance(each, random.Random):
            each.seed(seed)


def weight(thing: object) -> int:
    """Count what an object of the client holds, however deep."""
    return sum(1 + (len(each) if isinstance(each, Sized) else 0) for each in _held_by(thing))


def _held_by(thing: object) -> Iterator[object]:
    seen: set[int] = set()
    found = [thing]
    while found:
        each = found.pop()
        if id(each) in seen or isinstance(each, _PLAIN) or type(each).__module__.startswith(_OURS):
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, dict):
            found += each.values()
        elif isinstance(each, list | deque | set | frozenset | tuple):
            found += each
        else:
            found += _parts(each)


_OURS: Final = "novita_async.testing."
_PLAIN: Final = (str, int, float, bytes, type, type(None))


def _parts(thing: object) -> Iterator[object]:
    if type(thing).__module__.startswith("novita_async."):
        yield from getattr(thing, "__dict__", {}).values()
    for name in _slots(cast("Hashable", type(thing))):
        yield getattr(thing, name, None)


@cache
def _slots(kind: Hashable) -> tuple[str, ...]:
    """The names of what an instance of one of the client's classes holds."""
    cls = cast("type", kind)
    if not cls.__module__.startswith("novita_async."):
        return ()
    return tuple(
        name for base in cls.__mro__ for name in getattr(base, "__slots__", ()) if name != "__weakref__"
    )


# --- Threads ------------------------------------------------------------------------------------------------


class _Limiter(Protocol):
    async def __aenter__(self) -> object: ...

    async def __aexit__(self, *_: object) -> None: ...


def _threads(world: WorldView) -> Iterator[Change]:
    async def run_sync(func: Callable[..., T], *args: Any, **options: Any) -> T:
        await anyio.lowlevel.checkpoint()
        limiter = cast("_Limiter", options.get("limiter") or contextlib.nullcontext())
        async with limiter:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, WorldLoop)
            world.begin_thread(loop)
            context = contextvars.copy_context()
            done = world.execute(loop, lambda: context.run(func, *args))
            with anyio.CancelScope(shield=True):
                await done
            return cast("T", done.result())

    def submit(
        _: object, func: Callable[..., T], *args: Any, **options: Any
    ) -> "concurrent.futures.Future[T]":
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        future.set_result(func(*args, **options))
        return future

    yield anyio.to_thread, "run_sync", run_sync
    yield concurrent.futures.ThreadPoolExecutor, "submit", submit
    yield aiohappyeyeballs, "start_connection", world.start_connection


# --- Files --------------------------------------------------------------------------------------------------


def _files(world: WorldView) -> Iterator[Change]:
    disk = world.disk
    real_open, real_fsync, real_write = io.open, os.fsync, os.write

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if not disk.is_here(file) or _WRITING.isdisjoint(mode):
            return real_open(file, mode, *args, **options)
        disk.step("open", file)
        return disk.opened(mode, real_open(file, mode, *args, **options))

    def fsync(handle: Any) -> None:
        disk.step("fsync", handle)
        real_fsync(handle)
        disk.synced(handle if isinstance(handle, int) else handle.fileno())

    def write(handle: int, data: bytes) -> int:
        if disk.is_full and world.process is not None:
            return real_write(handle, data[: len(data) // 2])
        return real_write(handle, data)

    yield io, "open", opened
    yield os, "fsync", fsync
    yield os, "write", write
    for name in ("link", "replace", "rename", "unlink", "mkdir"):
        yield os, name, _stepping(world, name)
    yield sqlite3, "connect", _connecting(world, sqlite3.connect)


def _stepping(world: WorldView, name: str) -> Callable[..., Any]:
    real: Callable[..., Any] = getattr(os, name)

    def step(path: Any, *args: Any, **options: Any) -> Any:
        if world.disk.is_here(path):
            world.disk.step(name, path)
        return real(path, *args, **options)

    return step


_PRESENT: Final[list[WorldView]] = []
"""The world that is running. A connection must not hold one: the library keeps it until its process ends."""


class _Connection(sqlite3.Connection):
    """A connection that asks the disk of its world."""

    file = ""

    @property
    def _disk(self) -> "WorldDisk | None":
        disk = _PRESENT[-1].disk if _PRESENT else None
        return disk if disk is not None and disk.is_here(self.file) else None

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        disk = self._disk if sql == "COMMIT" else None
        return super().execute(sql, *args) if disk is None else self._commit(disk)

    def _commit(self, disk: "WorldDisk") -> sqlite3.Cursor:
        fail = disk.commit_fails(self)
        if fail is not None and not disk.commits_all_the_same():
            fail()
        done = super().execute("COMMIT")
        disk.committed(self)
        if fail is not None:
            fail()
        return done

    def close(self) -> None:
        super().close()
        disk = self._disk
        if disk is not None:
            disk.closed(self.file)


def _connecting(
    world: WorldView, real: Callable[..., sqlite3.Connection]
) -> Callable[..., sqlite3.Connection]:
    def connect(database: Any, *args: Any, **options: Any) -> sqlite3.Connection:
        if str(world.disk.root) not in str(database):
            return real(database, *args, **options)
        options |= {"timeout": 0.0, "factory": _Connection}
        connection = cast("_Connection", real(database, *args, **options))
        connection.file = str(database).partition("?")[0].removeprefix("file://")
        return connection

    return connect


# --- Order --------------------------------------------------------------------------------------------------


def _scopes(_: WorldView) -> Iterator[Change]:
    numbers = iter(range(1 << 62))
    known: dict[int, int] = {}
    real = backend.CancelScope.__init__

    def init(self: Any, *args: Any, **options: Any) -> None:
        known[id(self)] = next(numbers)
        real(self, *args, **options)

    def hashed(self: Any) -> int:
        return known.get(id(self), id(self))

    yield backend.CancelScope, "__init__", init
    yield backend.CancelScope, "__hash__", hashed


def forget(task: "asyncio.Task[Any]") -> None:
    """Drop what anyio keeps of a task that will never end."""
    backend._task_states.pop(task, None)


# --- The journal --------------------------------------------------------------------------------------------


def _found(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


_FILE: Final = _found("novita_async._journal.sqlite.file")
_STORE: Final = _found("novita_async._journal.rows")
_PACKING: Final = _found("novita_async._purchase.packing")


def _journal(_: WorldView) -> Iterator[Change]:
    if _FILE is not None and hasattr(_FILE, "ROOM"):
        yield _FILE, "ROOM", _ROOM


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Read a journal's file as a stranger would: a row for each request."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        rows = [dict(row) for row in connection.execute("SELECT * FROM requests ORDER BY serial")]
    finally:
        connection.close()
    for row in rows:
        kept = tuple(row[name] for name in getattr(_STORE, "KEPT", ()))
        row["whole"] = not kept or cast("Any", _STORE).checksum(kept) == row["checksum"]
        row["request"] = _PACKING.unpacked(row["request"]) if _PACKING is not None else ""
    return rows
