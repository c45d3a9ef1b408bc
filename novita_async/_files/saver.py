"""Result URLs to files: whole, right, and never over another file.

A file appears under its name only when its length and its first bytes are right; until then it is a `.part`
file, which is removed when anything goes wrong. An expired or refused URL is signed anew by asking for the
task again, so a host that is down for longer than a URL lives costs time and no picture. No key goes to a
result host. Names are made here and never taken from a URL.
"""

import filecmp
import hashlib
import os
import re
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

import anyio
import anyio.to_thread
from attrs import define, evolve, field, frozen

from novita_async._api.reasons import download_passes
from novita_async._files.names import Naming
from novita_async._files.part import Part
from novita_async._http import Delivery, DeliveryFailed, Download, Downloader, NotAURLError
from novita_async._policy.retrying import Failure, Retry, RetryPolicy, decide
from novita_async.errors import ConfigurationError, DownloadFailed, Scope
from novita_async.events import Event, FileSaved
from novita_async.models.results import Artifact, ImageResult, without_query
from novita_async.tasks import Task

Refresh = Callable[[Task], Awaitable[ImageResult | None]]
"""Asks for a task again, so that its URLs are signed anew. None: it could not be had."""
Sink = Callable[[bytes], Awaitable[object]]

MAX_FILE: Final = 512 * 1024 * 1024
LONGEST: Final = 900.0
"""Seconds that one attempt at one file may take."""
_LANES: Final = 8
_REFRESHES: Final = 2
_GONE: Final = frozenset({400, 401, 403, 404, 410})
"""Statuses of a URL that has expired or was refused; asking for the task again may give a good one."""
_UNUSABLE: Final = 400
"""Stands for a URL that is none: asking for the task again may give a good one, waiting cannot."""

_MAGIC: Final = (
    ("png", b"\x89PNG\r\n\x1a\n", b""),
    ("jpeg", b"\xff\xd8\xff", b""),
    ("webp", b"RIFF", b"WEBP"),
)
_PICTURES: Final = frozenset(kind for kind, _, _ in _MAGIC)
_LONGEST_MAGIC: Final = 12
_NAMES: Final = 10_000
_LONGEST_NAME: Final = 200
_UNSAFE: Final = re.compile(r"[^\w.-]+")


def sniff(start: bytes) -> str | None:
    """The type of a picture from its first twelve bytes. None: not a picture that is known here."""
    for kind, prefix, tag in _MAGIC:
        if start.startswith(prefix) and start[8:12].startswith(tag):
            return kind
    return None


def safe_name(text: str, longest: int = 120) -> str:
    """A file name made of text that may hold anything."""
    return _UNSAFE.sub("_", text).strip("._")[:longest] or "file"


class _RefusedError(Exception):
    """The host answered, but not with the file."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the host answered {status}")
        self.status = status


class _TooLongError(Exception):
    """No file that is wanted is so long, and it will not be shorter the next time."""


@frozen(kw_only=True)
class _Target:
    """One file of a result, or a file that belongs to no known task."""

    artifact: Artifact
    result: ImageResult | None = None
    place: int = 0
    owned: bool = False
    """Whether a file that is there and the same, or a part of it, was left by an earlier process."""

    @property
    def task(self) -> Task | None:
        """The task that made it."""
        return self.result.task if self.result else self.artifact.task

    def of(self, result: ImageResult | None) -> "_Target | None":
        """The same file in the same task's result, asked for again."""
        files = result.artifacts if result else ()
        if self.result is None:  # its place is not known, but a new URL has the same path
            path = without_query(self.artifact.url)
            same = [file for file in files if without_query(file.url) == path]
        else:
            same = list(files[self.place : self.place + 1])
        return evolve(self, artifact=same[0], result=self.result and result) if same else None

    def part_of(self, folder: Path) -> Path:
        """Where to write it until it is whole. What a dead process left of an owned file is found again,
        whatever the file is to be called now.
        """
        if self.owned and self.result is not None:
            tag = hashlib.sha256(self.result.task.task_id.encode()).hexdigest()
        else:
            tag = uuid.uuid4().hex
        return folder / f".{tag[:16]}-{self.place + 1}.part"

    def failed(self, cause: str, *, dooms: Scope = "request") -> DownloadFailed:
        return DownloadFailed(
            scope=dooms,
            url=without_query(self.artifact.url),
            cause=cause,
            task_id=self.task.task_id if self.task else None,
            account=self.task.account if self.task else None,
        )


@frozen(kw_only=True)
class SaverStatistics:
    """How downloads are doing."""

    saved: int
    """Files on disk, whole."""
    refreshed: int
    """URLs that had expired and were signed anew."""
    failed: int
    """Attempts that did not bring a file."""


@define(eq=False, repr=False, kw_only=True)
class Saver:
    """Fetches result files for one client, a few at a time."""

    _downloader: Downloader = field(alias="downloader")
    _retry: RetryPolicy = field(alias="retry")
    _refresh: Refresh = field(alias="refresh")
    _emit: Callable[[Event], None] = field(alias="emit")
    _jitter: Callable[[], float] = field(alias="jitter")
    _lane: anyio.Semaphore = field(factory=lambda: anyio.Semaphore(_LANES), init=False)
    _saved: int = field(default=0, init=False)
    _refreshed: int = field(default=0, init=False)
    _failed: int = field(default=0, init=False)

    def __repr__(self) -> str:
        return f"<Saver {self._saved} files saved, {self._refreshed} URLs refreshed>"

    def statistics(self) -> SaverStatistics:
        """How it is doing now."""
        return SaverStatistics(saved=self._saved, refreshed=self._refreshed, failed=self._failed)

    async def save(
        self,
        result: ImageResult,
        folder: Path,
        name: str | Naming | None = None,
        *,
        patience: float = 0.0,
        owned: bool = False,
    ) -> tuple[Path, ...]:
        """Save every file of a result as `NAME-1.png` and so on, in the folder, which is made.

        Args:
            result: What a task has made.
            folder: Where to.
            name: Beginning of the file names, or what makes them. None: the task's id.
            patience: Seconds to go on with one file that cannot be had, where that is longer than the retry
                policy's `max_elapsed`.
            owned: Nobody else saves this task here, so what an earlier process has left of it is taken over.

        Raises:
            DownloadFailed: one of them could not be had; those before it are on disk.
        """
        naming = name if callable(name) else _numbered(name or result.task.task_id)
        retry = evolve(self._retry, max_elapsed=max(patience, self._retry.max_elapsed))
        paths: list[Path] = []
        for place, artifact in enumerate(result.artifacts):
            target = _Target(artifact=artifact, result=result, place=place, owned=owned)
            paths.append(await self._save(target, folder, naming, retry))
        return tuple(paths)

    async def _save(self, target: _Target, folder: Path, naming: Naming, retry: RetryPolicy) -> Path:
        part = Part(target.part_of(folder))
        try:
            await self._fetch(target, lambda url: self._to_part(url, part), retry)
            path, size = await anyio.to_thread.run_sync(_settle, part, folder, naming, target)
        except BaseException as error:
            with anyio.CancelScope(shield=True), suppress(OSError):
                await anyio.to_thread.run_sync(part.remove)
            if not isinstance(error, OSError):
                raise
            # a full disk, a folder that must not be written
            cause = f"it cannot be written to {folder}: {error.strerror or error}"
            raise target.failed(cause, dooms="account") from error
        self._saved += 1
        if target.result is not None:
            self._emit(FileSaved(task=target.result.task, path=path, size=size))
        return path

    async def fetch(self, artifact: Artifact) -> bytes:
        """Fetch one file into memory."""
        target = _Target(artifact=artifact)
        data = bytearray()

        async def to_memory(url: str) -> None:
            data.clear()
            await self._receive(url, _appending(data))

        await self._fetch(target, to_memory, self._retry)
        checked_kind(bytes(data[:_LONGEST_MAGIC]), target)
        return bytes(data)

    async def _fetch(
        self, target: _Target, take: Callable[[str], Awaitable[None]], retry: RetryPolicy
    ) -> None:
        """Take a file until it is whole, signing its URL anew and riding out what passes."""
        number, refreshes, began_at = 1, 0, anyio.current_time()
        status: int | None
        while True:
            try:
                async with self._lane:
                    return await _in_time(take(target.artifact.url))
            except _TooLongError as long:
                raise target.failed(str(long)) from None
            except _RefusedError as refused:
                cause, status = str(refused), refused.status
            except DeliveryFailed as failed:
                cause, status = failed.cause, _UNUSABLE if isinstance(failed, NotAURLError) else None
            self._failed += 1
            fresh = await self._fresh(target, status) if refreshes < _REFRESHES else None
            if fresh is not None:
                target, refreshes = fresh, refreshes + 1
                continue
            elapsed = anyio.current_time() - began_at
            failure = Failure(passes=download_passes(status))
            decision = decide(retry, failure, attempt=number, elapsed=elapsed, jitter=self._jitter())
            if not isinstance(decision, Retry):
                raise target.failed(cause)
            await anyio.sleep(decision.after)
            number += 1

    async def _fresh(self, target: _Target, status: int | None) -> _Target | None:
        """The same file behind a new URL, where the old one was refused."""
        if target.task is None or status not in _GONE:
            return None
        fresh = target.of(await self._refresh(target.task))
        self._refreshed += fresh is not None
        return fresh

    async def _to_part(self, url: str, part: Part) -> None:
        part.restart()
        await self._receive(url, part.append)

    async def _receive(self, url: str, sink: Sink) -> None:
        async with self._downloader.open(url) as download:
            if download.status != 200:  # noqa: PLR2004 - the one status that brings the whole file
                raise _RefusedError(download.status)
            _refuse_longer(_stated_length(download) or 0)
            size = 0
            async for piece in download.chunks():
                size += len(piece)
                _refuse_longer(size)
                await sink(piece)
            _check_length(download, size)


async def _in_time(taking: Awaitable[None]) -> None:
    """Take a file, but not for ever: a host that sends a byte a minute must not keep a lane from others."""
    with anyio.move_on_after(LONGEST):
        return await taking
    raise DeliveryFailed(Delivery.UNKNOWN, f"it was not whole after {LONGEST:.0f} s")


def _appending(data: bytearray) -> Sink:
    async def append(piece: bytes) -> None:
        data.extend(piece)

    return append


def _stated_length(download: Download) -> int | None:
    stated = download.headers.get("content-length", "")
    return int(stated) if stated.isdigit() and "content-encoding" not in download.headers else None


def _refuse_longer(size: int) -> None:
    if size > MAX_FILE:
        raise _TooLongError(f"the file is longer than {MAX_FILE:,} bytes")


def _check_length(download: Download, size: int) -> None:
    stated = _stated_length(download)
    if stated not in (None, size):
        raise DeliveryFailed(Delivery.UNKNOWN, f"{size} of {stated} bytes came")


def checked_kind(start: bytes, target: _Target) -> str:
    """The file's extension, from its first bytes where it is a picture.

    Raises:
        DownloadFailed: it is not what the service says.
    """
    stated = target.artifact.type
    wanted = "jpeg" if stated == "jpg" else stated
    kind = sniff(start)
    if not start or (kind is None and wanted in _PICTURES):
        raise target.failed(f"it begins with {start!r}, which is no {wanted or 'file'}")
    if kind is not None and wanted in _PICTURES and kind != wanted:
        raise target.failed(f"it is a {kind}, not a {wanted} as the service says")
    return kind or (safe_name(stated) if stated else "bin")


def _settle(part: Part, folder: Path, naming: Naming, target: _Target) -> tuple[Path, int]:
    """Give a whole file its name, or the next one that is free; no other file can be lost in between.

    What a journal calls saved is on the disk, not only on its way.
    """
    part.write()
    with part.path.open("rb+") as file:
        kind = checked_kind(file.read(_LONGEST_MAGIC), target)
        if target.owned:
            os.fsync(file.fileno())
    stem = safe_name(naming(target.place + 1, kind).removesuffix(f".{kind}"), _LONGEST_NAME)
    for number in range(1, _NAMES):
        path = folder / (f"{stem}.{kind}" if number == 1 else f"{stem}.{number}.{kind}")
        try:
            _claim(part.path, path)
        except FileExistsError:
            if not (target.owned and filecmp.cmp(part.path, path, shallow=False)):
                continue
        part.remove()
        return path, path.stat().st_size
    raise target.failed(f"{folder / stem} exists {_NAMES} times")


def _numbered(stem: str) -> Naming:
    """Names that all begin alike, cut short where they are too long for a file system."""
    return lambda n, ext: f"{safe_name(stem)}-{n}.{ext}"


def see_to_folder(folder: Path) -> None:
    """Make a folder for files that are yet to be bought. Blocks.

    Raises:
        ConfigurationError: none can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return
    except OSError as error:
        problem = f"files cannot be written to {folder}: {error.strerror or error}"
        raise ConfigurationError(
            problem=problem, advice="nothing was bought; choose another folder"
        ) from error


def _claim(part: Path, path: Path) -> None:
    """Make `path` the whole file at once, or raise `FileExistsError`."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except (
        OSError
    ):  # a file system without hard links: the empty file keeps the name until the whole one replaces it
        path.open("xb").close()
        part.replace(path)
