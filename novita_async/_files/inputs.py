"""Pictures of requests, put into a storage once each under their digests, and fetched from there.

A journal that machines share names no path of one of them: its rows know pictures by SHA-256. The planner of
a row has put its pictures before; a worker on it fetches them, checks the digest, and keeps them in a
bounded cache on disk. In a folder a picture may have a suffix, as earlier versions gave it.
"""

import asyncio
import errno
import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
from attrs import define, field

from novita_async._files.cache import IN_USE, PictureCache
from novita_async._files.folders import FolderStorage
from novita_async._files.index import INPUTS, keep
from novita_async._files.storage import Content, Storage, put_or_found, words_of
from novita_async._journal.identity import DigestCache, order_of, with_pictures
from novita_async._policy.retrying import Failure, Retry, RetryPolicy, decide
from novita_async._purchase.machine import JournalEntry, Order
from novita_async._util.scopes import task_group
from novita_async.errors import ConfigurationError, Flaw, InvalidRequest
from novita_async.models.images import MAX_BYTES, ImageSource
from novita_async.models.requests import NovitaRequest

T = TypeVar("T")
_AT_ONCE: Final = 4
"""Pictures that are put or fetched at once, each held in memory meanwhile."""
_REMEMBERED: Final = 100_000
"""Digests that are known to have been put."""
_RETRIES: Final = RetryPolicy(max_elapsed=120.0)
_ADVICE: Final = (
    "not bought; put the picture where it was on each machine that works, or plan the batch with save_to= "
    "of an object store, which keeps its pictures for all"
)


def name_of(digest: str) -> str:
    """Name of a picture in a storage."""
    return f"{INPUTS}/{digest}"


@define(eq=False, repr=False)
class Inputs:
    """The pictures of one batch."""

    storage: Storage | None
    """Where they are put. None: nowhere; they lie where the rows say."""
    cache: PictureCache = field(factory=PictureCache)
    """Pictures on this machine that came from there."""
    keeps_all: bool = True
    """Whether pictures that are files are put, too; else only those that were given in memory."""
    digests: DigestCache = field(factory=DigestCache)
    """Digests of pictures that were read."""
    _put: OrderedDict[str, None] = field(factory=OrderedDict[str, None], init=False)
    _turns: asyncio.Semaphore = field(factory=lambda: asyncio.Semaphore(_AT_ONCE), init=False)
    _troubles: dict[str, str] = field(factory=dict[str, str], init=False)
    """Why pictures could not be fetched."""
    _alike: WeakValueDictionary[Path, ImageSource] = field(factory=WeakValueDictionary, init=False)
    """Pictures that requests in memory have, by where they are: many rows may have the same one."""

    def __repr__(self) -> str:
        return f"<Inputs in {self.storage!r}>"

    @property
    def folder(self) -> Path | None:
        """The folder, where they are put into one."""
        return self.storage.path if isinstance(self.storage, FolderStorage) else None

    # --- Planning -------------------------------------------------------------------------------------------

    async def describe(self, request: NovitaRequest, *, endpoint: str, position: int) -> Order:
        """Describe a request for a journal, once its pictures are where all who work on it find them.

        Raises:
            InvalidRequest: the request cannot be written as JSON, or a picture cannot be read.
            ConfigurationError: a picture cannot be put.
        """
        pictures: dict[str, ImageSource] = {}

        def digest(picture: ImageSource) -> str:
            found = self.digests(picture)
            pictures[found] = picture
            return found

        describing = partial(
            order_of,
            request,
            endpoint=endpoint,
            position=position,
            digest=digest,
            names_paths=not self.keeps_all or self.storage is None,
        )
        order = await anyio.to_thread.run_sync(describing)
        for found, picture in pictures.items():
            try:
                await self.put(found, picture)
            except ConfigurationError:
                if self.keeps_all:
                    raise  # else only a report would show this picture
        return order

    async def put(self, digest: str, picture: ImageSource) -> None:
        """Put a picture, once. Raises `InvalidRequest`, `ConfigurationError`."""
        if self.storage is None or digest in self._put or not (self.keeps_all or picture.path is None):
            return
        async with self._turns:
            data = await anyio.to_thread.run_sync(_read, digest, picture)
            try:
                await self._keep(self.storage, digest, data, picture.format)
            except Exception as error:
                raise ConfigurationError(
                    problem=f"a picture cannot be put into {self.storage.address}: {words_of(error)}",
                    advice="its request was not planned, and not bought; mend that, and run the batch again",
                ) from error
        self._put[digest] = None
        if len(self._put) > _REMEMBERED:
            self._put.popitem(last=False)

    async def _keep(self, storage: Storage, digest: str, data: bytes, kind: str | None) -> None:
        if self.folder is not None:
            kept = ImageSource(data=data, size=len(data), format=kind)
            await anyio.to_thread.run_sync(keep, kept, digest, self.folder / INPUTS)
            return
        name = name_of(digest)
        if not await _patiently(partial(put_or_found, storage, name, Content.of(data, kind or ""))):
            raise OSError(errno.EEXIST, f"{name} has other bytes: remove it")

    # --- Working --------------------------------------------------------------------------------------------

    async def bring(self, orders: Iterable[Order | JournalEntry]) -> None:
        """Bring the pictures of rows onto this machine; `picture` tells of those that cannot be had."""
        if self.storage is None or self.folder is not None:
            return
        wanted = {digest for order in orders for digest in digests_in(order)}
        async with task_group() as tasks:
            for digest in wanted:
                tasks.start_soon(self._bring, digest, self.storage)

    async def _bring(self, digest: str, storage: Storage) -> None:
        async with self._turns:
            if await anyio.to_thread.run_sync(self.cache.get, digest) is not None:
                return
            try:
                pieces = await _patiently(partial(_pieces_of, storage, name_of(digest)))
                found = await anyio.to_thread.run_sync(self.cache.add, digest, pieces)
                trouble = None if found else "what lies there has another digest"
            except Exception as error:  # noqa: BLE001 - the user's own code, or one of a hundred faults
                trouble = words_of(error)
            if trouble is not None:
                self._troubles[digest] = f"{storage.address}/{name_of(digest)}: {trouble}"

    def picture(self, digest: str, path: Path | None) -> ImageSource:
        """The picture of a row: from where it was, from the folder, or brought from the storage. Blocks.

        Raises:
            InvalidRequest: none of them has it.
        """
        trouble = self._troubles.pop(digest, None)
        for place in self._places(digest, path):
            with suppress(InvalidRequest):
                found = ImageSource.from_path(place)
                if self.digests(found) == digest:
                    known = self._alike.get(place)
                    if known is None or known != found:
                        self._alike[place] = known = found
                    return known
        if self.storage is not None and self.folder is None and (here := self.cache.get(digest)):
            return here
        where = trouble or (
            "it was given in memory" if path is None else f"{path} is missing, or has changed"
        )
        message = f"not to be had: {where} (SHA-256 {digest[:12]}…)"
        raise InvalidRequest(faults=(Flaw("picture", message),), advice=_ADVICE)

    def _places(self, digest: str, path: Path | None) -> list[Path]:
        places = [] if path is None else [path]
        if self.folder is not None:
            places += sorted((self.folder / INPUTS).glob(f"{digest}*"))
        return places

    async def tend(self) -> None:
        """Say for ever, now and then, that the pictures which this process holds are in use."""
        while True:
            await anyio.sleep(IN_USE / 3)
            await anyio.to_thread.run_sync(self.cache.touch)


def digests_in(order: Order | JournalEntry) -> list[str]:
    """Digests of the pictures of an order."""
    found: list[str] = []
    with_pictures(
        json.loads(order.request),
        lambda digest, _: found.append(digest),
        withheld=lambda known: known,
        data_url=lambda picture: picture,
    )
    return found


def _read(digest: str, picture: ImageSource) -> bytes:
    """Read a picture that has this digest still. Raises `InvalidRequest`."""
    data = picture.read()
    if hashlib.sha256(data).hexdigest() != digest:
        raise InvalidRequest(faults=(Flaw(str(picture.path or "the picture"), "has changed meanwhile"),))
    return data


async def _pieces_of(storage: Storage, name: str) -> list[bytes]:
    """Read a picture from a storage; nothing that is longer than any picture may be."""
    pieces, left = list[bytes](), MAX_BYTES
    reading = storage.open(name)
    try:
        async for piece in reading:
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                raise ValueError(f"longer than {MAX_BYTES:,} bytes")
    finally:
        await reading.aclose()
    return pieces


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Ask a storage, riding out what passes."""
    number, began_at = 1, anyio.current_time()
    while True:
        try:
            return await call()
        except (ConnectionError, TimeoutError):
            elapsed = anyio.current_time() - began_at
            decision = decide(_RETRIES, Failure(), attempt=number, elapsed=elapsed, jitter=1.0)
            if not isinstance(decision, Retry):
                raise
        await anyio.sleep(decision.after)
        number += 1
