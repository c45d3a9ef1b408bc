"""The best moments to poll, for a distribution of durations.

Time is cut into cells that are 2 % wide, so that a task of one second and one of an hour are alike here.

A poll costs `cost` seconds. If a task is alive at age s and the next poll is at t, the expected delay is
the integral of F(x) - F(s) from s to t. With G = 1 - F, its integral A, and U(s) = G(s) times the expected
cost from s on:

    U(s) = A(s) + G(s) cost + min over t > s of [ G(s) (t - s) + U(t) - A(t) ]

The bracket is a line in G(s) with slope t, and the minimum a lower envelope: one pass from the far end
finds the best next poll from every age.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from operator import neg
from typing import Final

from attrs import define

FIRST: Final = 0.05
"""Seconds: the end of the first cell."""
RATIO: Final = 1.02
CELLS: Final = 600
EDGES: Final = tuple(FIRST * RATIO**i for i in range(CELLS))
"""Cell i ends at EDGES[i] and begins at the end of the one before; the last ends after nearly two hours."""
PER_CELL: Final = 1.0 / math.log(RATIO)

_CELLS: Final = tuple(range(CELLS))
"""Each task keeps the number of a cell, so they share them."""
RARE: Final = 3e-4
"""Polls are computed for the ages between which all but this share ends."""
BEYOND: Final = 1.25
"""Past the last of these ages, the ages of polls grow by this factor."""


def cell_of(seconds: float) -> int:
    """Find the cell of a duration."""
    if seconds <= FIRST:
        return 0
    if seconds >= EDGES[-1]:
        return CELLS - 1
    return _CELLS[math.ceil(math.log(seconds / FIRST) * PER_CELL - 1e-9)]


@define(eq=False, repr=False)
class PollTable:
    """The best next poll from every age, for one distribution and one cost."""

    low: int
    """Cell of the first of the ages that follow."""
    nexts: list[float]
    """Age of the next poll, from the age at which each cell ends."""
    costs: list[float]
    """Expected cost of all polls and delays to come, from the age at which each cell ends."""
    first: float
    """Age of the first poll."""
    first_cost: float
    """Expected cost from the beginning."""

    def after(self, age: float) -> float:
        """Age at which to poll, when alive at `age`."""
        if age <= FIRST:
            return self.first
        place = math.log(age / FIRST) * PER_CELL - self.low
        cell = int(place)
        if place < 0:
            return self.first
        if cell >= len(self.nexts) - 1:
            return age * BEYOND
        share = place - cell
        return self.nexts[cell] * (1 - share) + self.nexts[cell + 1] * share

    def cost_from(self, age: float) -> float:
        """Expected cost from an age on."""
        cell = cell_of(age) - self.low
        return self.first_cost if cell < 0 else self.costs[min(cell, len(self.costs) - 1)]


def best_polls(survival: Sequence[float], area: Sequence[float], cost: float) -> PollTable:
    """Solve the recursion of the module's head.

    Args:
        survival: Chance to be alive at the end of each cell; falls.
        area: Integral of the survival from 0 to the end of each cell.
        cost: Seconds of delay that one poll is worth.
    """
    # The cells between which nearly everything ends.
    low = max(0, bisect_left(survival, RARE - 1.0, key=neg) - 1)
    high = min(max(bisect_left(survival, -RARE, key=neg), low + 1), CELLS - 1)
    states = [*zip(EDGES[low : high + 1], survival[low : high + 1], area[low : high + 1], strict=True)]
    envelope = _Envelope.beyond(*states[-1])
    nexts: list[float] = []
    costs: list[float] = []
    for age, alive, done in [*reversed(states), (0.0, 1.0, 0.0)]:
        target, lowest = envelope.lowest(alive)
        total = done + alive * (cost - age) + lowest
        nexts.append(target)
        costs.append(total / alive)
        envelope.add(age, total - done)
    first, first_cost = nexts.pop(), costs.pop()
    return PollTable(low, nexts[::-1], costs[::-1], first, first_cost)


@define(eq=False, repr=False)
class _Envelope:
    """The lower envelope of lines that come with falling slopes and are asked for at rising places."""

    slopes: list[float]
    heights: list[float]
    front: int = 0
    """No line before this one is lowest any more."""

    @classmethod
    def beyond(cls, age: float, alive: float, done: float) -> "_Envelope":
        """Begin with the poll that follows the last age."""
        return cls([age * BEYOND], [-done - (BEYOND - 1.0) * age * alive])

    def add(self, slope: float, height: float) -> None:
        """Add a line; take off those that are nowhere lowest any more."""
        slopes, heights = self.slopes, self.heights
        while len(slopes) > 1:
            one, two = slopes[-2], slopes[-1]
            if (height - heights[-2]) * (one - two) > (heights[-1] - heights[-2]) * (one - slope):
                break
            slopes.pop()
            heights.pop()
        slopes.append(slope)
        heights.append(height)

    def lowest(self, place: float) -> tuple[float, float]:
        """Slope and value of the lowest line."""
        slopes, heights = self.slopes, self.heights
        i = min(self.front, len(slopes) - 1)
        value = slopes[i] * place + heights[i]
        while i + 1 < len(slopes) and (after := slopes[i + 1] * place + heights[i + 1]) <= value:
            i += 1
            value = after
        self.front = i
        return slopes[i], value


def integral(survival: Sequence[float]) -> list[float]:
    """Integrate a survival that is 1 at age 0, by trapezoids."""
    area: list[float] = []
    before, alive, total = 0.0, 1.0, 0.0
    for edge, here in zip(EDGES, survival, strict=True):
        total += (edge - before) * (alive + here) * 0.5
        before, alive = edge, here
        area.append(total)
    return area
