"""How a journal in Postgres is named."""

import re
import shlex
from typing import Final

SCHEMES: Final = ("postgresql://", "postgres://")
"""Beginnings of addresses of such a journal."""
LEASE: Final = 15.0
"""Seconds without a sign of life after which others take a process for dead."""
OVER: Final = 0.01
"""Seconds after the end of a lease when it is over for certain."""
_SECRETS: Final = ("password", "sslpassword")
_NO_PORT: Final = re.compile(r":[^@,\]/?#]*[^0-9@,\]/?#]")
"""A port that is no number: there, a password ends early."""


def discreet(url: str) -> str:
    """The URL without a password: libpq finds that in PGPASSWORD, or in a file."""
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        return url
    before, mark, name = rest.partition("#")
    if "@" in name and _NO_PORT.search(before):
        before, mark, name = rest.replace("#", "%23", 1).partition("#")
    before, question, query = before.partition("?")
    user, at, place = before.rpartition("@")
    kept = "&".join(each for each in query.split("&") if each.partition("=")[0] not in _SECRETS)
    return f"{scheme}://{user.partition(':')[0]}{at}{place}{question if kept else ''}{kept}{mark}{name}"


def typed(url: str) -> str:
    """The same, as it is typed in a shell."""
    return shlex.quote(discreet(url))
