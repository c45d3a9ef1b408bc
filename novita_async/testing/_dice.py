"""Chance without a generator: every number is a function of a seed and of what it is for.

A generator would make each draw depend on all the draws before it, so that one more poll would change every
picture. Here the names of a thing decide its fate, whatever else happens.
"""

import hashlib
from statistics import NormalDist
from typing import Final
from uuid import UUID

_STANDARD: Final = NormalDist()
_LARGEST: Final = 2**64


def digest(*parts: object) -> bytes:
    """Turn names into 32 bytes that look random."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=32).digest()


def fraction(*parts: object) -> float:
    """Turn names into a number strictly between 0 and 1, evenly spread."""
    return (int.from_bytes(digest(*parts)[:8]) | 1) / _LARGEST


def whole(below: int, *parts: object) -> int:
    """Turn names into a whole number from 0 up to `below`, which is not reached."""
    return int.from_bytes(digest(*parts)[:16]) % below


def normal(*parts: object) -> float:
    """Turn names into a draw of the standard normal distribution."""
    return _STANDARD.inv_cdf(fraction(*parts))


def uuid(*parts: object) -> str:
    """Turn names into the text of a version 4 UUID."""
    return str(UUID(bytes=digest(*parts)[:16], version=4))
