"""The form of a database's tables, against the one that this release works with."""

from typing import Final

from novita_async._journal.postgres.address import typed
from novita_async._journal.postgres.schema.versions import MIGRATIONS, VERSION
from novita_async._journal.postgres.works import Connection
from novita_async.errors import JournalError

_SILENCE: Final = "60s"
"""Silence after which the database breaks an upgrade off, which locks what all others use: that of a vanished
computer would hold them up for hours."""


async def check_version(connection: Connection, label: str) -> None:
    """See whether this release can work with the database's tables. Raises `JournalError`."""
    found = await connection.fetchrow("SELECT version, oldest_reader FROM novita.meta")
    if found["version"] < VERSION:
        raise JournalError(
            problem=f"journal {label}: the database's tables are of an older release",
            advice=f"nothing was bought; run: novita-async db upgrade {typed(label)}",
        )
    if found["oldest_reader"] > VERSION:
        raise outdated(label)


def outdated(label: str) -> JournalError:
    """The error of a process whose release may not work with these tables any more."""
    return JournalError(
        problem=f"journal {label}: the database's tables are of a newer release",
        advice="nothing more is bought; install a newer novita-async here",
    )


async def upgrade(connection: Connection, label: str) -> tuple[int, int]:
    """Bring the tables to this release's form, or make them. Returns the version before and now.

    Raises:
        JournalError: they are of a release with which this one cannot work.
    """
    async with connection.transaction():
        await connection.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{_SILENCE}'")
        await connection.execute("SELECT pg_advisory_xact_lock(5653042)")
        there = await connection.fetchval("SELECT to_regclass('novita.meta') IS NOT NULL")
        before = int(await connection.fetchval("SELECT version FROM novita.meta")) if there else 0
        for statements in MIGRATIONS[before:]:
            await connection.execute(statements)
        if before < VERSION:
            await connection.execute("UPDATE novita.meta SET version = $1", VERSION)
        await check_version(connection, label)
    return before, max(before, VERSION)
