"""Files of earlier runs: whether they are where they were put, or under their name in the place of today."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
from attrs import define, field

from novita_async._files.folders import FolderStorage
from novita_async._files.objects import SCHEMES
from novita_async._files.places import storage_at
from novita_async._files.storage import Storage, address_of, name_in, words_of
from novita_async._purchase.machine import Purchase
from novita_async._util.scopes import task_group
from novita_async.errors import ConfigurationError

_AT_ONCE: Final = 32
"""Questions to a storage that are under way at once."""


@define(eq=False)
class Finder:
    """Finds the files of saved purchases. A purchase whose files have moved learns where to."""

    storage: Storage
    """Where files are put today."""
    _asking: anyio.Semaphore = field(factory=lambda: anyio.Semaphore(_AT_ONCE), init=False)
    _elsewhere: dict[str, Storage] = field(factory=dict[str, Storage], init=False)
    """Other places that files were put into, by their addresses."""

    @property
    def folder(self) -> Path | None:
        """The folder. None: files are put into another storage."""
        return self.storage.path if isinstance(self.storage, FolderStorage) else None

    def finds_on_disk(self, purchase: Purchase) -> bool:
        """Whether the files of a purchase are on this disk. Blocks."""
        if purchase.objects:
            return False
        found = _found(purchase.paths, self.folder)
        purchase.paths = found or ()
        return found is not None

    async def finds(self, purchase: Purchase) -> bool:
        """Whether the files of a purchase are anywhere.

        Raises:
            ConfigurationError: the storage of today cannot be asked.
        """
        if not purchase.objects and all(
            await anyio.to_thread.run_sync(lambda: [path.is_file() for path in purchase.paths])
        ):
            return True
        places = [await self._place_of(place) for place in purchase.objects or purchase.paths]
        purchase.paths = tuple([each for each in places if isinstance(each, Path)])
        purchase.objects = tuple([each for each in places if isinstance(each, str)])
        return len(places) in (len(purchase.paths), len(purchase.objects))

    async def _place_of(self, place: Path | str) -> Path | str | None:
        """Where a file is that was put here. None: it is gone."""
        if isinstance(place, Path):
            if await anyio.Path(place).is_file():
                return place
            name = place.name
        else:
            storage, name = self._storage_of(place)
            if storage is self.storage:
                return place if await self._has(name) else None
            if storage is not None:
                with suppress(OSError):  # a place of earlier runs need not be there any more
                    if await storage.has(name):
                        return place
        if not await self._has(name):
            return None
        return address_of(self.storage, name) if self.folder is None else self.folder / name

    def _storage_of(self, address: str) -> tuple[Storage | None, str]:
        """The storage that a file was put into, and its name there. None: nobody here knows that storage."""
        name = name_in(self.storage, address)
        if name is not None:
            return self.storage, name
        prefix, _, name = address.rpartition("/")
        if prefix.partition(":")[0] not in SCHEMES:
            return None, name
        if prefix not in self._elsewhere:
            self._elsewhere[prefix] = storage_at(prefix)
        return self._elsewhere[prefix], name

    async def _has(self, name: str) -> bool:
        try:
            return await self.storage.has(name)
        except OSError as error:
            raise ConfigurationError(
                problem=f"nobody can say whether {name} is in {self.storage.address}: {words_of(error)}",
                advice="nothing was bought; mend that, and run the batch again",
            ) from error

    async def kept(self, purchases: Sequence[Purchase]) -> list[Purchase]:
        """Find the purchases whose files are somewhere. Raises `ConfigurationError`."""
        kept: list[Purchase] = []

        async def ask(purchase: Purchase) -> None:
            async with self._asking:
                if await self.finds(purchase):
                    kept.append(purchase)

        async with task_group() as tasks:
            for purchase in purchases:
                tasks.start_soon(ask, purchase)
        return kept


def _found(paths: tuple[Path, ...], folder: Path | None) -> tuple[Path, ...] | None:
    """Where files are: where they were, or in this folder. None: one of them is in neither."""
    if all(map(os.path.isfile, paths)):  # at half the cost of asking paths
        return paths
    if folder is None:
        return None
    found = [next((place for place in (path, folder / path.name) if place.is_file()), None) for path in paths]
    there = tuple(place for place in found if place is not None)
    return there if len(there) == len(found) else None
