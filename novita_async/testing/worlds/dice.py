"""Chance by name, fast: a world rolls thousands of dice.

As in the simulator every number is a function of a seed and of what it is for, so that nothing that is added
or taken away changes the fate of anything else.
"""

from hashlib import blake2b
from typing import Final, TypeVar

T = TypeVar("T")

_LARGEST: Final = 2**64


def fraction(*names: object) -> float:
    """Turn names into a number in [0, 1)."""
    return whole(*names) / _LARGEST


def whole(*names: object) -> int:
    """Turn names into a whole number below 2**64."""
    return int.from_bytes(blake2b(repr(names).encode(), digest_size=8).digest(), "big")


def pick(values: tuple[T, ...], *names: object) -> T:
    """Choose one of several values."""
    return values[whole(*names) % len(values)]
