"""The form of the tables, version by version."""

from typing import Final

from novita_async._journal.postgres.schema import FIRST
from novita_async._journal.postgres.schema_shared import SHARED

MIGRATIONS: Final[tuple[str, ...]] = (FIRST, SHARED)
"""Text that makes version n + 1 of version n."""
VERSION: Final = len(MIGRATIONS)
