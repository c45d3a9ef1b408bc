"""Batches in a database: what was noted about one, how it stands, a copy of its rows for what reads files."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

import anyio.to_thread
from attrs import asdict, evolve, field
from attrs.validators import instance_of, optional

from novita_async._journal.mirror import mirror
from novita_async._journal.postgres.address import SCHEMES, discreet
from novita_async._journal.postgres.journal import PostgresJournal
from novita_async._purchase.machine import FAILED, SUBMITTED, SUCCEEDED, helps_to_buy_again, is_gone
from novita_async._util.values import frozen
from novita_async.cli._setup import JOURNAL, Setup
from novita_async.cli._standing import Standing
from novita_async.errors import ConfigurationError

_TEXT: Final = optional(instance_of(str))
_NUMBER: Final[Any] = optional(instance_of(int))


def is_shared(place: str) -> bool:
    """Whether this is a batch in a database, and no folder."""
    return place.startswith(SCHEMES)


@frozen(kw_only=True)
class Note:
    """Settings that were typed when a batch was planned, for all who work on it."""

    out: str | None = field(default=None, validator=_TEXT)
    """Folder where results go, as each worker sees it."""
    name: str | None = field(default=None, validator=_TEXT)
    """Name of files."""
    no_save: bool = field(default=False, validator=instance_of(bool))
    """Whether files stay with the service."""
    images_per_minute: int | None = field(default=None, validator=_NUMBER)
    """The account's quota."""
    price: str | None = field(default=None, validator=_TEXT)
    """Price of an image."""
    budget: str | None = field(default=None, validator=_TEXT)
    """The most that may be spent."""

    @classmethod
    async def of(cls, journal: PostgresJournal) -> Self:
        """Read what was noted about a batch."""
        text = await journal.noted()
        return cls() if text is None else cls(**json.loads(text))

    async def add_to(self, journal: PostgresJournal, before: Self) -> Self:
        """Note it down; what was not typed this time stays as it was."""
        news = {name: value for name, value in asdict(self).items() if value not in (None, False)}
        noted = evolve(before, **news)
        if noted != before:
            await journal.note(json.dumps(asdict(noted)))
        return noted

    def setup(self, inputs: Mapping[str, int] | None = None) -> Setup:
        """The same as the folder of a batch would say it."""
        told = {name: value for name, value in asdict(self).items() if name != "out"}
        return Setup(inputs=(), images=dict(inputs or {}), **told)


@asynccontextmanager
async def looked_at(url: str) -> AsyncGenerator[PostgresJournal]:
    """A batch in a database, to be read."""
    async with await PostgresJournal.look(url) as journal:
        yield journal


@asynccontextmanager
async def copy_of_rows(url: str) -> AsyncGenerator[tuple[Setup, Path, Path]]:
    """Copy a batch: its note, a file with its rows as they are now, and where its results go."""
    async with looked_at(url) as journal:
        note = await Note.of(journal)
        folder = await anyio.to_thread.run_sync(TemporaryDirectory)
        try:
            place = Path(folder.name) / JOURNAL
            await mirror(journal, place)
            yield note.setup(), place, Path(note.out if note.out and "://" not in note.out else ".")
        finally:
            await anyio.to_thread.run_sync(folder.cleanup)


async def standing_of(journal: PostgresJournal, *, saves: bool) -> Standing:
    """Read how a batch in a database is."""
    retryable = [
        each.images async for each in journal.where(FAILED) if each.error and helps_to_buy_again(each.error)
    ]
    gone = [each.images async for each in journal.where(SUCCEEDED) if is_gone(each)]
    return Standing(
        saves=saves,
        ledger=await journal.summary(),
        ahead=0,
        ahead_images=0,
        gone=0,
        gone_images=0,
        failed=len(retryable),
        failed_images=sum(retryable),
        lost=len(gone),
        lost_images=sum(gone),
        payers=tuple(sorted(await journal.payers(SUBMITTED, SUCCEEDED))),
    )


def checked_url(url: str) -> str:
    """The URL of a batch. Raises `ConfigurationError`: it is none."""
    if not is_shared(url):
        raise ConfigurationError(
            problem=f"{discreet(url)}: not the URL of a database",
            advice="nothing was bought; give postgresql://user@host/database#batch",
        )
    return url
