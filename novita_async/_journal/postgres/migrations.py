"""The form of the tables, version by version."""

from typing import Final

from novita_async._journal.postgres.schema import FIRST
from novita_async._journal.postgres.schema_shared import SHARED
from novita_async._journal.postgres.schema_work import WORK

MIGRATIONS: Final[tuple[str, ...]] = (FIRST, WORK, SHARED)
"""Text that makes version n + 1 of version n."""
VERSION: Final = len(MIGRATIONS)
