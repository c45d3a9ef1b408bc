"""Three ways to count images per minute. Which one the live service uses is not documented.

Each is an immutable value: `admit(images, now)` gives the value after the images, or None where they are too
many, and `wait(images, now)` tells how long to wait then. A request that alone is larger than the quota is
never admitted.
"""

import math
from collections.abc import Mapping
from typing import Final, Protocol, Self

from attrs import evolve

from novita_async._util.values import frozen

WINDOW: Final = 60.0
"""Seconds that a quota is for."""


class Quota(Protocol):
    """Allowance of an account at one endpoint."""

    def admit(self, images: int, now: float) -> Self | None:
        """Count the images; None where they are too many."""
        ...

    def wait(self, images: int, now: float) -> float:
        """Seconds until the images could be admitted."""
        ...


@frozen(kw_only=True)
class SlidingWindow:
    """Never more than the limit in any 60 s, the later end excluded."""

    limit: int
    """Images in a window."""
    admitted: tuple[tuple[float, int], ...] = ()
    """When how many images were admitted, the oldest first."""

    def _recent(self, now: float) -> tuple[tuple[float, int], ...]:
        return tuple(entry for entry in self.admitted if entry[0] + WINDOW > now)

    def admit(self, images: int, now: float) -> Self | None:
        recent = self._recent(now)
        if sum(n for _, n in recent) + images > self.limit:
            return None
        return evolve(self, admitted=(*recent, (now, images)))

    def wait(self, images: int, now: float) -> float:
        excess = sum(n for _, n in self._recent(now)) + images - self.limit
        for at, count in self._recent(now):
            excess -= count
            if excess <= 0:
                return at + WINDOW - now
        return WINDOW


@frozen(kw_only=True)
class FixedWindow:
    """Never more than the limit in each minute that begins at a whole minute of the service's time."""

    limit: int
    """Images in a minute."""
    minute: int = -1
    """Number of the minute that is counted."""
    used: int = 0
    """Images in it."""

    def admit(self, images: int, now: float) -> Self | None:
        minute = math.floor(now / WINDOW)
        used = images + (self.used if minute == self.minute else 0)
        return evolve(self, minute=minute, used=used) if used <= self.limit else None

    def wait(self, images: int, now: float) -> float:  # noqa: ARG002 a new minute takes any number
        return WINDOW - now % WINDOW


@frozen(kw_only=True)
class LeakyBucket:
    """A bucket as large as the limit that drains in 60 s, evenly."""

    limit: int
    """Images that fit in."""
    level: float = 0.0
    """Images in it at `at`."""
    at: float = 0.0
    """When the level was measured."""

    def _drained(self, now: float) -> float:
        return max(0.0, self.level - (now - self.at) * self.limit / WINDOW)

    def admit(self, images: int, now: float) -> Self | None:
        level = self._drained(now) + images
        return evolve(self, level=level, at=now) if level <= self.limit + 1e-9 else None

    def wait(self, images: int, now: float) -> float:
        return min(WINDOW, max(0.0, self._drained(now) + images - self.limit) * WINDOW / self.limit)


_KINDS: Final[Mapping[str, type[SlidingWindow] | type[FixedWindow] | type[LeakyBucket]]] = {
    "sliding": SlidingWindow,
    "fixed": FixedWindow,
    "leaky": LeakyBucket,
}


def make_quota(kind: str, limit: int) -> SlidingWindow | FixedWindow | LeakyBucket:
    """Make a fresh quota: `sliding`, `fixed` or `leaky`."""
    return _KINDS[kind](limit=limit)
