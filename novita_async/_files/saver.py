"""Result URLs to files, in folders and other storages: whole, right, and never over another file.

A file appears under its name only when it is whole and a picture (or whatever else the service states); until
then it is a `.part` file, which is removed when anything goes wrong. The file is paid, so it is fetched again
while that is free, and kept in the end where it is of another kind than stated, or stays cut. An expired or
refused URL is signed anew by asking for the task again, so a host that is down for longer than a URL lives
costs time and no picture. No key goes to a result host.

For a storage that is no folder a file is fetched and checked first, and then put, as often as trouble passes.
A name that is taken by the very same bytes is the file's own: a killed process, or another worker, put it.
"""

import asyncio
import errno
import filecmp
import hashlib
import io
import os
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

import anyio
import anyio.to_thread
from attrs import define, evolve, field

from novita_async._api.reasons import download_passes
from novita_async._files.folders import FolderStorage, FolderSync, claim, scope_of
from novita_async._files.index import IndexLine
from novita_async._files.kinds import BadFileError, CutFileError, FoundKind, kind_of
from novita_async._files.names import LONGEST_NAME, Naming, beginning_with, safe_name
from novita_async._files.part import Part
from novita_async._files.places import is_object, storage_at
from novita_async._files.spool import Spool
from novita_async._files.storage import (
    Content,
    SavedFiles,
    Storage,
    address_of,
    name_in,
    put_or_found,
    words_of,
)
from novita_async._http import Delivery, DeliveryFailed, Downloader, NotAURLError
from novita_async._policy.retrying import Failure, Retry, RetryPolicy, Stop, decide, parse_retry_after
from novita_async._util.clock import wall_time
from novita_async._util.disk import make_folder
from novita_async._util.scopes import run_in_thread
from novita_async._util.values import frozen
from novita_async.errors import ConfigurationError, DownloadFailed, Scope, without_query
from novita_async.events import CutFileKept, Event, FileSaved, KindDiffers
from novita_async.models.results import Artifact, TaskResult
from novita_async.tasks import Task

Refresh = Callable[[Task], Awaitable[TaskResult | None]]
"""Asks for a task again, so that its URLs are signed anew. None: not to be had."""
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MAX_FILE: Final = 512 * 1024 * 1024
LONGEST: Final = 900.0
"""Seconds that one attempt at one file may take."""
CUT_FOR: Final = 60.0
"""Seconds through which a file must come cut until it is kept as it is: a cache that holds half of it heals
sooner, and a file that is half on its host never does."""
_AT_ONCE: Final = 8
"""Files that are fetched at once; so many more are put into storages."""
_REFRESHES: Final = 2
_GONE: Final = frozenset({400, 401, 403, 404, 410})
"""Statuses of a URL that has expired or was refused; asking for the task again may give a good one."""
_MISSING: Final = 404
_FORBIDDEN: Final = 403
_UNUSABLE: Final = 400
"""Stands for a URL that is none: asking for the task again may give a good one, waiting cannot."""
_NAMES: Final = 10_000
_PLACE_IS_SHUT: Final = (PermissionError, FileNotFoundError)
"""Errors of a storage that every other file would meet."""
_CANNOT_COME_AGAIN: Final = "paid; the file came in the answer itself and cannot be had again"

_HAS_NO_TASK: Final = "paid; the URL came in the answer itself, and no task can be asked for another"


class _TooLongError(Exception):
    """No file that is wanted is so long, and it will not be shorter the next time."""


class _Arriving(Protocol):
    """Where the bytes of a file go as they come."""

    def restart(self) -> None: ...
    async def append(self, piece: bytes, /) -> None: ...


@define(eq=False, repr=False)
class _InMemory:
    """A file that is fetched into memory."""

    data: bytearray = field(factory=bytearray)

    def restart(self) -> None:
        self.data.clear()

    async def append(self, piece: bytes, /) -> None:
        self.data += piece


@frozen(kw_only=True, eq=False, repr=False)
class _Target:
    """A file of a result, or a file that belongs to no known task."""

    artifact: Artifact
    result: TaskResult | None = None
    place: int = 0
    owned: bool = False
    """Whether a file that is there and the same, or a part of it, was left by an earlier process."""
    line: IndexLine | None = None
    """Line of the index that tells the result's files."""
    is_last: bool = True
    """Whether no file of the result comes after this one, also where its URL is signed anew."""

    @property
    def task(self) -> Task | None:
        """The task that made it."""
        return self.result.task if self.result else self.artifact.task

    @property
    def is_here(self) -> bool:
        """Whether the file came in the answer itself."""
        artifact = self.artifact
        return artifact.came_at_once or artifact.file is not None or artifact.data is not None

    def of(self, result: TaskResult | None) -> "_Target | None":
        """The same file in the same task's result, asked for again."""
        files = result.artifacts if result else ()
        if self.result is None:  # its place is not known, but a new URL has the same path
            path = without_query(self.artifact.url)
            same = [file for file in files if without_query(file.url) == path]
        else:
            same = list(files[self.place : self.place + 1])
        return evolve(self, artifact=same[0], result=self.result and result) if same else None

    def part_of(self, folder: Path) -> str:
        """Where to write the file until it is whole.

        Parts that a dead process left of an owned file are found again, whatever that is to be called now.
        """
        if self.owned and self.result is not None and self.result.task is not None:
            tag = hashlib.sha256(str(self.result.task_id).encode()).hexdigest()
        else:
            tag = uuid.uuid4().hex
        return os.path.join(folder, f".{tag[:16]}-{self.place + 1}.part")  # noqa: PTH118

    def failed(self, cause: str, *, dooms: Scope = "request", is_lost: bool | None = None) -> DownloadFailed:
        """Make the error of this file. A file of an answer is lost unless `is_lost` says otherwise."""
        gone = self.artifact.came_at_once if is_lost is None else is_lost
        advice = _HAS_NO_TASK if self.result is not None and self.task is None else ""
        return DownloadFailed(
            scope=dooms,
            retryable=not gone,
            advice=_CANNOT_COME_AGAIN if gone else advice,
            url=without_query(self.artifact.url),
            cause=cause,
            task_id=self.task.task_id if self.task else None,
            account=self.task.account if self.task else None,
        )


@frozen(kw_only=True, eq=False, repr=False)
class _Settled:
    """A file under its name."""

    path: Path | None = None
    address: str | None = None
    size: int
    kind: FoundKind


@frozen(kw_only=True)
class SaverStatistics:
    """Counts of downloads.

    Args:
        saved: Files on disk or in a storage, whole.
        refreshed: URLs that had expired and were signed anew.
        failed: Attempts that did not bring a file.
    """

    saved: int
    """Files on disk or in a storage, whole."""
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
    _at_home: Callable[[], None] = field(alias="at_home", default=lambda: None)
    """Refuses a loop that is not the client's."""
    _downloads: anyio.Semaphore = field(
        factory=lambda: anyio.Semaphore(_AT_ONCE, fast_acquire=True), init=False
    )
    _puts: anyio.Semaphore = field(factory=lambda: anyio.Semaphore(_AT_ONCE), init=False)
    _folders: FolderSync = field(factory=FolderSync, init=False)
    _saved: int = field(default=0, init=False)
    _refreshed: int = field(default=0, init=False)
    _failed: int = field(default=0, init=False)

    def __repr__(self) -> str:
        return f"<Saver {self._saved} files saved, {self._refreshed} URLs refreshed>"

    def leave_loop(self) -> None:
        """Begin anew in another loop: what was under way in the one before never ends."""
        self._folders = FolderSync()

    def statistics(self) -> SaverStatistics:
        """Counts of this saver, now."""
        return SaverStatistics(saved=self._saved, refreshed=self._refreshed, failed=self._failed)

    async def save_to(
        self,
        storage: Storage,
        result: TaskResult,
        name: str | Naming | None = None,
        *,
        max_elapsed: float = 0.0,
        owned: bool = False,
        moves: bool = False,
        line: IndexLine | None = None,
    ) -> SavedFiles:
        """Save every file of a result in a folder, or in another storage: see `save` and `put`."""
        if not isinstance(storage, FolderStorage):
            return SavedFiles(objects=await self.put(result, storage, name, max_elapsed=max_elapsed))
        return SavedFiles(
            paths=await self.save(
                result, storage.path, name, max_elapsed=max_elapsed, owned=owned, moves=moves, line=line
            )
        )

    async def save(
        self,
        result: TaskResult,
        folder: Path,
        name: str | Naming | None = None,
        *,
        max_elapsed: float = 0.0,
        owned: bool = False,
        moves: bool = False,
        line: IndexLine | None = None,
    ) -> tuple[Path, ...]:
        """Save every file of a result as `NAME-1.png` and so on, in the folder, which is made.

        Args:
            result: Result of a task.
            folder: Where to.
            name: Beginning of the file names, or what makes them. None: the task's id.
            max_elapsed: Seconds to go on with one file that cannot be had, where that is longer than the
                retry policy's own.
            owned: No other process saves this task here, so parts of an earlier process are taken over;
                and a journal will say that it is saved, so files and names are durable on return.
            moves: Files that came in the answer are not copied where they are in the folder already; they
                keep the name that they came under, too, until `forget`.
            line: Line of the folder's index, which learns the names, and is added when the last file has its.

        Raises:
            DownloadFailed: one of them could not be had; those before it are on disk.
        """
        self._at_home()
        naming = _naming(name, result)
        paths: list[Path] = []
        for place, artifact in enumerate(result.artifacts):
            is_last = place == len(result.artifacts) - 1
            target = _Target(
                artifact=artifact, result=result, place=place, owned=owned, line=line, is_last=is_last
            )
            try:
                saving = (
                    self._save_at_once(target, folder, naming, moves=moves)
                    if target.is_here
                    else self._save(target, folder, naming, max_elapsed)
                )
                paths.append(await saving)
            except OSError as error:
                scope = await anyio.to_thread.run_sync(scope_of, error, folder)
                cause = f"it cannot be written to {folder}: {error.strerror or error}"
                raise target.failed(cause, dooms=scope, is_lost=False) from error
        return tuple(paths)

    def _decide(self, failure: Failure, *, attempt: int, elapsed: float, max_elapsed: float) -> Retry | Stop:
        """Ask the retry policy, with more patience where a file is worth that."""
        retry = evolve(self._retry, max_elapsed=max(max_elapsed, self._retry.max_elapsed))
        return decide(retry, failure, attempt=attempt, elapsed=elapsed, jitter=self._jitter())

    async def _save(self, target: _Target, folder: Path, naming: Naming, max_elapsed: float) -> Path:
        part = Part(target.part_of(folder))

        async def finish(target: _Target, *, takes_cut: bool) -> _Settled:
            settling = partial(_settle, part, folder, naming, target, takes_cut=takes_cut)
            return await self._settled(target, folder, settling)

        try:
            settled = await self._fetch(target, part, finish, max_elapsed)
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(OSError):
                await anyio.to_thread.run_sync(part.remove)
            raise
        self._saved += 1
        self._tell(target, settled.kind, settled)
        return cast("Path", settled.path)

    async def _save_at_once(self, target: _Target, folder: Path, naming: Naming, *, moves: bool) -> Path:
        """Give a file its name that came in the answer itself."""
        settling = partial(_settle_at_once, target, folder, naming, moves=moves)
        settled = await self._settled(target, folder, settling)
        self._saved += 1
        self._tell(target, settled.kind, settled)
        return cast("Path", settled.path)

    async def _settled(self, target: _Target, folder: Path, settling: Callable[[], _Settled]) -> _Settled:
        """Let a file get its name; the last of a result is durable, and listed, with all before it."""
        if target.is_last:
            return await self._folders.settle(settling, folder if target.owned else None, target.line)
        return await self._folders.settle(settling, None, None)

    # --- Into other storages --------------------------------------------------------------------------------

    async def put(
        self,
        result: TaskResult,
        storage: Storage,
        name: str | Naming | None = None,
        *,
        max_elapsed: float = 0.0,
    ) -> tuple[str, ...]:
        """Put every file of a result into a storage, as `save` does into a folder. Returns their addresses.

        A file that is there under its name with the very same bytes has been put already.

        Raises:
            DownloadFailed: one of them could not be had, or not be put; those before it are there.
        """
        self._at_home()
        naming = _naming(name, result)
        targets = [
            _Target(artifact=artifact, result=result, place=place)
            for place, artifact in enumerate(result.artifacts)
        ]
        return tuple([await self._put(target, storage, naming, max_elapsed) for target in targets])

    async def put_at_once(
        self, storage: Storage, result: TaskResult, name: str | Naming | None, put: dict[int, str]
    ) -> None:
        """Put the files of a result that came in the answer itself.

        Args:
            storage: Where to.
            result: The result.
            name: As for `save`.
            put: Takes in the address of each, by its place in `artifacts`. True also where this is cancelled.
        """
        naming = _naming(name, result)
        for place, artifact in enumerate(result.artifacts):
            target = _Target(artifact=artifact, result=result, place=place)
            if target.is_here or result.task is None:  # else its URL is signed anew at any time
                put[place] = await self._put(target, storage, naming, 0.0)

    async def _put(self, target: _Target, storage: Storage, naming: Naming, max_elapsed: float) -> str:
        """Fetch a file, and put it. Returns its address."""
        if await self._is_put(target, storage, max_elapsed):
            return target.artifact.url
        with Spool.opened() as spool:

            async def finish(target: _Target, *, takes_cut: bool) -> FoundKind:
                return await run_in_thread(
                    lambda: kind_of(spool.finished(), target.artifact.type, takes_cut=takes_cut)
                )

            try:
                if target.is_here:
                    await spool.append(await anyio.to_thread.run_sync(_bytes_of, target))
                    kind = await finish(target, takes_cut=True)
                else:
                    kind = await self._fetch(target, spool, finish, max_elapsed)
                content = await anyio.to_thread.run_sync(spool.content, kind.suffix)
            except BadFileError as error:
                raise target.failed(error.cause) from None
            except OSError as error:  # of the folder for temporary files
                cause = f"it cannot be written on its way: {error.strerror or error}"
                raise target.failed(cause, dooms="account", is_lost=False) from error
            async with self._puts:
                names = _names_of(target, naming, kind.suffix)
                address = await self._put_under(names, target, storage, content, max_elapsed)
        self._saved += 1
        self._tell(target, kind, _Settled(address=address, size=content.size, kind=kind))
        return address

    async def _is_put(self, target: _Target, storage: Storage, max_elapsed: float) -> bool:
        """Whether a file that came in an answer was put then, and is there."""
        name = name_in(storage, target.artifact.url)
        return name is not None and await self._patiently(
            partial(storage.has, name), target, storage, max_elapsed
        )

    async def _put_under(
        self, names: Iterator[str], target: _Target, storage: Storage, content: Content, max_elapsed: float
    ) -> str:
        """Put a whole file under the first name that no other file has. Returns its address."""
        for name in names:
            putting = partial(put_or_found, storage, name, content)
            if await self._patiently(putting, target, storage, max_elapsed):
                return address_of(storage, name)
        raise target.failed(f"its name exists {_NAMES} times in {storage.address}", is_lost=False)

    async def _patiently(
        self,
        putting: Callable[[], Awaitable[bool]],
        target: _Target,
        storage: Storage,
        max_elapsed: float,
    ) -> bool:
        """Put a file, riding out what passes: the paid file is here, and need not be fetched again."""
        number, began_at = 1, anyio.current_time()
        while True:
            try:
                return await putting()
            except Exception as error:  # the user's own code, or one of a hundred faults of a network
                self._failed += 1
                elapsed = anyio.current_time() - began_at
                failure = Failure(passes=isinstance(error, ConnectionError | TimeoutError))
                decision = self._decide(failure, attempt=number, elapsed=elapsed, max_elapsed=max_elapsed)
                if not isinstance(decision, Retry):
                    dooms: Scope = "account" if isinstance(error, _PLACE_IS_SHUT) else "request"
                    cause = f"it cannot be put into {storage.address}: {words_of(error)}"
                    raise target.failed(cause, dooms=dooms, is_lost=False) from error
            await anyio.sleep(decision.after)
            number += 1

    # --- What came in answers -------------------------------------------------------------------------------

    async def forget(self, files: Sequence[Path]) -> None:
        """Remove the names that files came under, now that it is known for good what they are called."""

        def remove() -> None:
            for file in files:
                with suppress(OSError):
                    file.unlink(missing_ok=True)

        await anyio.to_thread.run_sync(remove)

    async def keep(self, result: TaskResult, folder: Path, kept: dict[int, Path]) -> None:
        """Make files durable that came at once, in a folder; what cannot be, stays as it is.

        Files behind URLs are fetched where no task can be asked for the URLs again.

        Args:
            result: The result.
            folder: The folder.
            kept: Takes in where each file lies now, by its place in `artifacts`. True also where this is
                cancelled in between.
        """
        for place, artifact in enumerate(result.artifacts):
            with suppress(OSError, DownloadFailed):
                await self._keep(artifact, result, folder, kept, place)
        if kept:
            with suppress(OSError):
                await self._folders.sync(folder)

    async def _keep(
        self, artifact: Artifact, result: TaskResult, folder: Path, kept: dict[int, Path], place: int
    ) -> None:
        target = _Target(artifact=artifact, owned=True)
        part = Part(target.part_of(folder))

        def keep(*, takes_cut: bool = True) -> None:
            if (path := _kept(artifact, part, takes_cut=takes_cut)) is not None:
                kept[place] = path

        async def finish(target: _Target, *, takes_cut: bool) -> None:  # noqa: ARG001 - a `_Finish`
            await run_in_thread(partial(keep, takes_cut=takes_cut))

        if artifact.came_at_once:
            await run_in_thread(keep)
        elif result.task is None:
            try:
                await self._fetch(target, part, finish, 0.0)
            except BaseException:
                if place in kept:  # cancelled when the file was there already
                    raise
                with anyio.CancelScope(shield=True), suppress(OSError):
                    await anyio.to_thread.run_sync(part.remove)
                raise

    async def fetch(self, artifact: Artifact) -> bytes:
        """Fetch one file into memory."""
        self._at_home()
        if (here := _Target(artifact=artifact)).is_here:
            return await anyio.to_thread.run_sync(_bytes_of, here)
        memory = _InMemory()

        async def finish(target: _Target, *, takes_cut: bool) -> FoundKind:
            file = io.BytesIO(memory.data)
            telling = partial(kind_of, file, target.artifact.type, takes_cut=takes_cut)
            return await anyio.to_thread.run_sync(telling)

        target = _Target(artifact=artifact)
        self._tell(target, await self._fetch(target, memory, finish, 0.0))
        return bytes(memory.data)

    async def save_as(self, artifact: Artifact, path: Path) -> Path:
        """Save one file under a name of the caller's, or the next one that is free.

        Raises:
            DownloadFailed: the file could not be had, or not be written.
        """
        data = await self.fetch(artifact)
        try:
            return await anyio.to_thread.run_sync(_write_as, data, path, artifact)
        except OSError as error:
            cause = f"it cannot be written to {path}: {error.strerror or error}"
            raise _Target(artifact=artifact).failed(cause, is_lost=False) from error

    async def opened(self, image: Artifact) -> Any:
        """Fetch a picture, and open it with Pillow. Raises `ConfigurationError` where that is missing."""
        try:
            from PIL import Image as Pillow  # noqa: PLC0415 - optional, and takes 50 ms
        except ModuleNotFoundError as error:
            raise ConfigurationError(problem="this needs Pillow", advice="pip install pillow") from error
        return Pillow.open(io.BytesIO(await self.fetch(image)))

    def _tell(self, target: _Target, kind: FoundKind, settled: _Settled | None = None) -> None:
        if target.task is None:
            return
        where: dict[str, Any] = {"path": settled.path, "address": settled.address} if settled else {}
        if kind.stated is not None:
            self._emit(KindDiffers(task=target.task, stated=kind.stated, found=kind.suffix, **where))
        if kind.is_cut:
            self._emit(CutFileKept(task=target.task, **where))
        if settled is not None:
            self._emit(FileSaved(task=target.task, size=settled.size, **where))

    async def _fetch(
        self, target: _Target, arriving: _Arriving, finish: "_Finish[T]", max_elapsed: float
    ) -> T:
        """Take a file until it is whole and right, signing its URL anew and riding out what passes."""
        number, refreshes, began_at, cut_since = 1, 0, anyio.current_time(), None
        while True:
            try:
                async with self._downloads:
                    await _in_time(self._receive(target.artifact.url, arriving))
                return await finish(target, takes_cut=False)
            except _TooLongError as long:
                raise target.failed(str(long)) from None
            except (BadFileError, DeliveryFailed) as error:
                trouble, failure = error, _failure_of(error)
            self._failed += 1
            if _status_of(trouble) not in _GONE:
                refreshes = 0  # the URL worked, or was not even asked
            fresh = await self._fresh(target, _status_of(trouble)) if refreshes < _REFRESHES else None
            if fresh is not None:
                target, refreshes = fresh, refreshes + 1
                continue
            now = anyio.current_time()
            elapsed = now - began_at
            decision = self._decide(failure, attempt=number, elapsed=elapsed, max_elapsed=max_elapsed)
            if isinstance(trouble, CutFileError):
                cut_since = now if cut_since is None else cut_since
                if not isinstance(decision, Retry) or now - cut_since >= CUT_FOR:
                    return await finish(target, takes_cut=True)
            if not isinstance(decision, Retry):
                is_lost = is_object(target.artifact.url) and _status_of(trouble) == _MISSING
                raise target.failed(trouble.cause, is_lost=is_lost)
            await anyio.sleep(decision.after)
            number += 1

    async def _fresh(self, target: _Target, status: int | None) -> _Target | None:
        """The same file behind a new URL, where the old one was refused."""
        if target.task is None or status not in _GONE:
            return None
        fresh = target.of(await self._refresh(target.task))
        self._refreshed += fresh is not None
        return fresh

    async def _receive(self, url: str, arriving: _Arriving) -> None:
        arriving.restart()
        if is_object(url):
            await _receive_object(url, arriving)
            return
        async with self._downloader.open(url) as download:
            if download.status != 200:  # noqa: PLR2004 - the one status that brings the whole file
                now = datetime.fromtimestamp(wall_time(), UTC)
                raise BadFileError(
                    f"the host answered {download.status}",
                    status=download.status,
                    retry_after=parse_retry_after(download.headers.get("retry-after"), now),
                )
            length = download.headers.get("content-length", "")
            stated = int(length) if length.isdigit() and "content-encoding" not in download.headers else None
            _refuse_longer(stated or 0)
            size = 0
            async for piece in download.chunks():
                size += len(piece)
                _refuse_longer(size)
                await arriving.append(piece)
            if stated not in (None, size):
                raise DeliveryFailed(Delivery.UNKNOWN, f"{size} of {stated} bytes came")


class _Finish(Protocol[T_co]):
    """Makes a result of what has come."""

    async def __call__(self, target: _Target, *, takes_cut: bool) -> T_co: ...


def _status_of(error: BadFileError | DeliveryFailed) -> int | None:
    """The host's status, or the one that stands for an address that cannot be used."""
    if isinstance(error, BadFileError):
        return error.status
    return _UNUSABLE if isinstance(error, NotAURLError) else None


def _failure_of(error: BadFileError | DeliveryFailed) -> Failure:
    """An attempt that did not bring the file, as far as it matters for the next one."""
    hint = error.retry_after if isinstance(error, BadFileError) else None
    return Failure(passes=download_passes(_status_of(error)), retry_after=hint)


async def _in_time(taking: Awaitable[None]) -> None:
    """Take a file, but not for ever: a host that sends a byte a minute must not keep others waiting."""
    limit = asyncio.timeout(LONGEST)
    try:
        async with limit:
            await taking
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeliveryFailed(Delivery.UNKNOWN, f"it was not whole after {LONGEST:.0f} s") from None


def _refuse_longer(size: int) -> None:
    if size > MAX_FILE:
        raise _TooLongError(f"the file is longer than {MAX_FILE:,} bytes")


def _settle(
    part: Part, folder: Path, naming: Naming, target: _Target, *, takes_cut: bool, stays: bool = False
) -> _Settled:
    """Give a whole file its name, or the next one that is free; no other file can be lost in between.

    The bytes of an owned file are on the disk before it has its name.
    """
    kind, size = part.finish(target.artifact.type, takes_cut=takes_cut, durable=target.owned)
    for name in _names_of(target, naming, kind.suffix):
        path = folder / name
        try:
            claim(part.place, path)
        except FileExistsError:
            if not (target.owned and filecmp.cmp(part.place, path, shallow=False)):
                continue
        if not stays:
            part.remove()
        if target.line is not None:
            target.line.name_file(name)
        return _Settled(path=path, size=size, kind=kind)
    raise target.failed(f"its name exists {_NAMES} times in {folder}", is_lost=False)


def _naming(name: str | Naming | None, result: TaskResult) -> Naming:
    return name if callable(name) else beginning_with(name or result.task_id or "image")


def _names_of(target: _Target, naming: Naming, suffix: str) -> Iterator[str]:
    """The name of a file, and those that follow where it is taken."""
    stem = safe_name(naming(target.place + 1, suffix).removesuffix(f".{suffix}"), LONGEST_NAME)
    yield f"{stem}.{suffix}"
    yield from (f"{stem}.{number}.{suffix}" for number in range(2, _NAMES))


async def _receive_object(url: str, arriving: _Arriving) -> None:
    """Read a file that came in an answer and was put into an object store."""
    place, _, name = url.rpartition("/")
    try:
        async for piece in storage_at(place).open(name):
            await arriving.append(piece)
    except FileNotFoundError:
        raise BadFileError("it was put there, and is there no more", status=_MISSING) from None
    except ConnectionError as error:
        raise DeliveryFailed(Delivery.UNKNOWN, words_of(error)) from error
    except PermissionError as error:
        raise BadFileError(words_of(error), status=_FORBIDDEN) from error


def _settle_at_once(target: _Target, folder: Path, naming: Naming, *, moves: bool) -> _Settled:
    """Give a file a name that came in the answer itself. Blocks."""
    source = target.artifact.file
    is_there = moves and source is not None and source.parent == folder
    if source is None or not is_there:
        part = Part(target.part_of(folder))
        make_folder(folder)
        part.path.write_bytes(_bytes_of(target))
        part = Part.finished(part.place)
    else:
        _check_there(target)
        part = Part.finished(source)
    try:
        return _settle(part, folder, naming, target, takes_cut=True, stays=is_there)
    except BadFileError as error:
        raise target.failed(error.cause) from None


def _check_there(target: _Target) -> None:
    """Raise `DownloadFailed` where a file that came in the answer is not there any more."""
    artifact = target.artifact
    if artifact.lost is not None:
        raise target.failed(f"it came, and could not be kept: {artifact.lost}")
    if artifact.data is None and (artifact.file is None or not artifact.file.is_file()):
        raise target.failed(f"{artifact.file or 'the file'} is no longer there")


def _bytes_of(target: _Target) -> bytes:
    _check_there(target)
    data, file = target.artifact.data, target.artifact.file
    return file.read_bytes() if data is None and file is not None else data or b""


def _kept(artifact: Artifact, part: Part, *, takes_cut: bool = True) -> Path | None:
    """Make a file durable that came at once, or has just been fetched. Blocks. Raises `OSError`."""
    if artifact.file is not None:
        part = Part.finished(artifact.file)
    elif artifact.data is not None:
        make_folder(part.path.parent)
        part.path.write_bytes(artifact.data)
        part = Part.finished(part.place)
    elif artifact.came_at_once:
        return None
    else:
        part.write()
    with part.path.open("rb+") as file:
        if not artifact.came_at_once:
            kind_of(file, artifact.type, takes_cut=takes_cut)
        os.fsync(file.fileno())
    return part.path


def _write_as(data: bytes, path: Path, artifact: Artifact) -> Path:
    """Write a file under the first name that is free, whole or not at all. Blocks. Raises `OSError`."""
    make_folder(path.parent)
    suffix = path.suffix or f".{kind_of(io.BytesIO(data), artifact.type, takes_cut=True).suffix}"
    part = path.with_name(f".{uuid.uuid4().hex[:16]}.part")
    try:
        part.write_bytes(data)
        for number in range(1, _NAMES):
            name = path.with_name(f"{path.stem}{suffix}" if number == 1 else f"{path.stem}.{number}{suffix}")
            with suppress(FileExistsError):
                claim(part, name)
                return name
    finally:
        part.unlink(missing_ok=True)
    raise FileExistsError(errno.EEXIST, f"that name is taken {_NAMES} times")
