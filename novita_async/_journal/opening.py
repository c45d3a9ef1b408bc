"""Journals by what names them: the path of a file, the URL of a database, or a store of the user's own.

The client imports this room when a journal is named, and with it the stores: most programs name none.
"""

import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeGuard

from novita_async._journal.postgres.address import SCHEMES
from novita_async._journal.postgres.inbox import PostgresInbox
from novita_async._journal.postgres.journal import PostgresJournal
from novita_async._journal.postgres.quota import PostgresQuota
from novita_async._journal.sqlite.journal import SqliteJournal
from novita_async._purchase.journal import Journal, SharedJournal
from novita_async.errors import ConfigurationError, JournalError

Heed = Callable[[Sequence[Mapping[str, Any]], int], None]
"""Takes which accounts are not well, and how many processes are at work."""
Heard = Callable[[str, str], None]
"""Takes a webhook event that another process was sent: token and task id."""


_running: Final[set[int]] = set()
"""Identities of stores in use: a second batch would take what the first has under way for lost."""


@asynccontextmanager
async def opened(
    journal: "str | os.PathLike[str] | Journal",
    quotas: Mapping[str, int | None],
    heed: Heed,
    heard: Heard,
) -> AsyncGenerator[Journal]:
    """A journal for one run: a file is opened and closed, a store begins another run and stays open."""
    if _is_url(journal):
        async with await PostgresJournal.open(journal, quotas=quotas) as shared:
            shared.on_health(heed)
            await shared.on_event(heard)
            yield shared
        return
    if isinstance(journal, str | os.PathLike):
        async with await SqliteJournal.open(journal) as store:
            yield store
        return
    if id(journal) in _running:
        raise JournalError(
            problem=f"journal {journal.name}: another batch of this program is using it",
            advice="nothing was sent; wait for that batch to end, or give this one a journal of its own",
        )
    _running.add(id(journal))
    try:
        await journal.new_run()
        yield journal
    finally:
        _running.discard(id(journal))


def quota_at(url: str, quotas: Mapping[str, int | None], heed: Heed, heard: Heard) -> PostgresQuota:
    """Keep the windows of a client in a database.

    Raises:
        ConfigurationError: that is no URL of one.
    """
    if not _is_url(url):
        raise ConfigurationError(
            problem=f"quota: {url!r} is no URL of a Postgres database",
            advice="nothing was bought; quota='postgresql://host/database'",
        )
    return PostgresQuota(url, quotas, heed, heard)


def inbox_at(journal: str) -> PostgresInbox:
    """Put single requests into a shared batch.

    Raises:
        ConfigurationError: one process alone can work on such a journal.
    """
    if not _is_url(journal):
        raise ConfigurationError(
            problem=f"journal {journal!r}: only a batch in Postgres takes single requests",
            advice="nothing was bought; journal='postgresql://host/database#batch'",
        )
    return PostgresInbox(journal)


def shared_url(journal: str | SharedJournal) -> str | None:
    """The URL of a journal that many can work on. None: a store of the user's own.

    Raises:
        ConfigurationError: one process alone can work on such a journal.
    """
    if _is_url(journal):
        return journal
    if isinstance(journal, str | os.PathLike) or not hasattr(journal, "take"):
        raise ConfigurationError(
            problem=f"several processes cannot work on journal {journal}: one has it to itself",
            advice="nothing was sent; give the URL of a Postgres database, or use `batch` in one process",
        )
    return None


def beside(journal: "str | os.PathLike[str] | Journal") -> Path | None:
    """Folder beside a journal for files that come in answers. None: its store is nowhere in particular."""
    if isinstance(journal, SqliteJournal):
        place = journal.path
    elif not isinstance(journal, str | os.PathLike) or _is_url(journal):
        return None
    else:
        place = Path(journal)
    return place.with_name(f"{place.name}-files")


def _is_url(journal: "str | os.PathLike[str] | Journal") -> TypeGuard[str]:
    return isinstance(journal, str) and journal.startswith(SCHEMES)
