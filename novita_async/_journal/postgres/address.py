"""How a journal in Postgres is named."""

from typing import Final

SCHEMES: Final = ("postgresql://", "postgres://")
"""Beginnings of addresses of such a journal."""
