"""A shared journal as a file, for what reads files: reports, exports."""

from pathlib import Path
from typing import Final

import anyio.to_thread

from novita_async._journal.postgres.journal import PostgresJournal
from novita_async._journal.rows import COLUMNS
from novita_async._journal.sqlite.file import open_to_write

_INSERT: Final = (
    f"INSERT INTO requests (serial, {', '.join(COLUMNS)}) VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"  # noqa: S608
)


async def mirror(journal: PostgresJournal, path: Path) -> None:
    """Write all rows of a shared journal, as they are now, into a file that is new."""
    file = await anyio.to_thread.run_sync(open_to_write, path)
    try:
        after = 0
        while page := await journal.records(after):
            values = [(serial, *record) for serial, record in page]
            await anyio.to_thread.run_sync(file.connection.executemany, _INSERT, values)
            after = page[-1][0]
    finally:
        await anyio.to_thread.run_sync(file.close)
