"""The versions of the form. The first one is the sum of the rooms beside; what comes later adds to it."""

from typing import Final

from novita_async._journal.postgres.schema.admitting import ADMITTING
from novita_async._journal.postgres.schema.health import HEALTH
from novita_async._journal.postgres.schema.money import MONEY
from novita_async._journal.postgres.schema.places import PLACES
from novita_async._journal.postgres.schema.planning import PLANNING
from novita_async._journal.postgres.schema.rows import ROWS
from novita_async._journal.postgres.schema.tables import TABLES
from novita_async._journal.postgres.schema.windows import WINDOWS
from novita_async._journal.postgres.schema.workers import WORKERS

FIRST: Final = f"{TABLES}{WORKERS}{HEALTH}{WINDOWS}{MONEY}{ADMITTING}{ROWS}{PLACES}{PLANNING}"

MIGRATIONS: Final[tuple[str, ...]] = (FIRST,)
"""Text that makes version n + 1 of version n."""
VERSION: Final = len(MIGRATIONS)
"""The form that this release works with."""
