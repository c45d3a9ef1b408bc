"""How a journal in Postgres is named."""

from typing import Final

SCHEMES: Final = ("postgresql://", "postgres://")
"""Beginnings of addresses of such a journal."""
LEASE: Final = 15.0
"""Seconds without a sign of life after which others take a process for dead."""
