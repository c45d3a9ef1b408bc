"""This process, as one of those that share a database."""

import math
from copy import copy
from typing import Final

from attrs import define, field

from novita_async._journal.postgres.lost import LeaseLost, lease_lost
from novita_async._policy.pacing import LATE
from novita_async._purchase.machine import LOST, Settlement
from novita_async._util.clock import asleep, wall_time

_NAP: Final = 0.1
"""Seconds: a shorter sleep is none, but the time between the readings of two clocks."""
_BELIEVED: Final = 0.002
"""Seconds: a difference of clocks that the round trip and this explain is none."""


@define(eq=False, kw_only=True)
class Member:
    """Name and number of this process in a database, its batch there, and the time there."""

    label: str
    """Where the batch is, without a password."""
    name: str
    """Name of the batch."""
    worker: str
    """Name of this process, for those who look."""
    quotas: dict[str, int | None] = field(factory=dict[str, int | None])
    """Images in a window, by account: as was told here, or said for all."""
    window: float
    """Seconds for which a place counts after the answer."""
    lease: float
    """Seconds after which a silent process is taken for dead."""
    batch: int = 0
    me: int = 0
    """Number of this process among all that ever worked. 0: it only reads."""
    run: int = 0
    is_shared: bool = False
    """Whether others may work on the batch, too."""
    commits: int = 0
    skew: float = 0.0
    """Seconds by which the database's clock is before this computer's."""
    is_outdated: bool = field(default=False, init=False)
    """Whether newer tables shut this release out, so that nothing more may be bought here."""
    processes: int = field(default=1, init=False)
    """Processes at work with this database."""
    next_beat: float = field(default=0.0, init=False)
    """Seconds after the last sign of life until the next one: earlier where another process is late."""
    _alive_until: float = field(default=-math.inf, init=False)
    _slept: float = field(default=0.0, init=False)
    """Seconds for which this computer had slept at the last sign of life."""

    @property
    def alive_until(self) -> float:
        """Until when, on the loop's clock, no other process takes this one for dead."""
        slept = asleep() - self._slept
        return self._alive_until - (slept if slept > _NAP else 0.0)

    def lives(self, since: float, slept: float) -> None:
        """Take note of a sign of life that was begun at this time of the loop, after so much sleep."""
        self._alive_until, self._slept = since + self.lease, slept

    def elsewhere(self, batch: int) -> "Member":
        """Give a copy of this member for work in another batch."""
        other = copy(self)
        other.batch = batch
        return other

    def lost(self) -> LeaseLost:
        """The error of a process whose rows are another's."""
        return lease_lost(self.label)

    def now(self) -> float:
        """The database's time, about."""
        return wall_time() + self.skew

    def compare_clocks(self, before: float, there: float, after: float) -> None:
        """Learn how far the database's clock is from ours, which was read before and after it."""
        explained = before - _BELIEVED <= there <= after + _BELIEVED
        self.skew = 0.0 if explained else there - (before + after) / 2

    def held_for(self, settled: Settlement | None, age: float) -> float:
        """Seconds for which a place still counts after a verdict of this age."""
        return self.window + (LATE if settled is LOST else 0.0) - max(0.0, age)
