"""How long things take, learned.

* An observation is a span of cells: one cell where the answer carried exact times, several where a task was
  last polled running here and first polled finished there. The end of such a span is when a poll happened to
  be made, not when the task ended: taken for the end, it makes later polls later, and so on without bound.
* The estimate is the self-consistent one (Turnbull): each observation spreads over its span as the whole
  estimate does. Running tasks count too, as spans without end; else the quick ones, which are seen
  first, would stand for all.
* It is smoothed, with the width under which each observation is likeliest in the eyes of the others.
* A little of a wide prior stays in, for the tail.
* Older observations count less, and not at all once polls have found so many more ends than expected, or so
  many fewer, that times must have changed.
"""

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate, islice
from typing import Final

from attrs import define, field

from novita_async._policy.polling.polls import (
    CELLS,
    EDGES,
    PER_CELL,
    PollTable,
    best_polls,
    cell_of,
    integral,
)

PRIOR_MEDIAN: Final = 8.0
PRIOR_SIGMA: Final = 1.1
PRIOR_WEIGHT: Final = 1.5
"""Observations that the prior is worth."""
WIDER: Final = 1.7
"""Variance of the prior around the observations, in terms of their own variance."""
WIDE_FOR: Final = 4
"""Observations for which the prior stays nearly as wide as it was."""
KEPT: Final = 400
"""Observations that count."""
FADE: Final = 0.9965
"""Weight of each observation, in terms of the next newer one's."""

# The estimate is made again once the news since the last one exceed a share of the observations. An end is
# worth 1, a task that still runs less.
NEWS: Final = 0.15
NEWS_MOSTLY_OPEN: Final = 0.3
NEWS_OF_RUNNING: Final = 0.1

CHANGE: Final = 5.0
"""Standard deviations between ends found and ends expected, above which times have changed."""
CHANGE_FADE: Final = 0.95
"""Decay of the evidence per end that was expected, not per poll: polls of a task that is older than all
before it promise nothing, and must not wear out the evidence that times have become longer."""
CHANGE_ENOUGH: Final = 40
"""Observations below which no change is looked for."""
CHANGE_KEPT: Final = 12
"""Newest observations that survive a change."""
SAVED: Final = 120
"""Observations that are worth saving for another process."""
RADII: Final = (2, 4, 7, 12, 20)
"""Smoothing widths that are tried, in cells."""
RADIUS_SETTLES: Final = 60
"""Observations from which on the width is chosen only once in `RADIUS_HOLDS` estimates."""
RADIUS_HOLDS: Final = 4
ROUNDS: Final = 3
"""Rounds of spreading and smoothing; each begins where the last estimate ended. Between choices of the width
one is enough for ends: few of them are new."""

GOLDEN: Final = (math.sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, fill the unit interval evenly without rolling dice."""


_BELL: Final = [math.exp(-0.5 * (math.log(edge / PRIOR_MEDIAN) / PRIOR_SIGMA) ** 2) for edge in EDGES]
_TOTAL: Final = sum(_BELL)
PRIOR: Final = [x / _TOTAL for x in _BELL]
"""Log-normal."""


def _box(values: Sequence[float], radius: int) -> list[float]:
    """Average over a moving window; weight that would leave at the ends stays there."""
    width = 2 * radius + 1
    padded = [values[0]] * (radius + 1) + list(values) + [values[-1]] * radius
    sums = list(accumulate(padded))
    scale = 1.0 / width
    return [(b - a) * scale for a, b in zip(sums, sums[width:], strict=False)]


def smooth(values: Sequence[float], radius: int) -> list[float]:
    """Smooth with a bell: three boxes on each other."""
    return _box(_box(_box(values, radius), radius), radius)


def _peak(radius: int) -> float:
    """Height of the bell of `smooth`."""
    spike = [0.0] * (6 * radius + 3)
    spike[3 * radius + 1] = 1.0
    return max(smooth(spike, radius))


_PEAKS: Final = {radius: _peak(radius) for radius in RADII}


@define(eq=False, repr=False)
class Durations:
    """A distribution of durations, learned from spans."""

    mostly_open: bool = False
    """Whether most observations are open towards the long side, as those of forecasts are that the next poll
    replaces by another one. They are many and each is news, and what ends says little of what does not."""
    _spans: deque[tuple[int, int]] = field(factory=lambda: deque(maxlen=KEPT), init=False)
    _running: dict[int, int] = field(factory=dict, init=False)
    """Number of things known to be alive in each cell."""
    observed: int = field(default=0, init=False)
    """Observations so far, forgotten ones included."""
    ends: int = field(default=0, init=False)
    """Observations so far that are not open towards the long side."""
    density: list[float] = field(factory=lambda: PRIOR, init=False)
    """Share of each cell."""
    mean: float = field(default=0.0, init=False)
    median: float = field(default=PRIOR_MEDIAN, init=False)
    early: float = field(default=1.0, init=False)
    """Duration that a fifth stays below."""
    version: int = field(default=0, init=False)
    """Number of estimates so far."""
    _survival: list[float] = field(factory=list, init=False)
    _integral: list[float] = field(factory=list, init=False)
    _tables: dict[float, PollTable] = field(factory=dict, init=False)
    """Tables of the present estimate, by the cost of a poll."""
    _news: float = field(default=0.0, init=False)
    """Weight of what was learned since the last estimate."""
    _radius: int = field(default=0, init=False)
    """Smoothing width; 0: not chosen yet."""
    _loaded: int = field(default=0, init=False)
    """Observations of another process: durations that they have not seen may happen all the same."""
    _since_change: int = field(default=0, init=False)
    """Observations since times changed, with those kept then."""
    _excess: float = field(default=0.0, init=False)
    """Ends found by polls, minus those that the estimate promised; older ones count less."""
    _spread: float = field(default=0.0, init=False)
    """Variance that the excess should have."""

    def __attrs_post_init__(self) -> None:
        self._estimate()

    def observe(self, shortest: float, longest: float) -> None:
        """Learn from one duration that is only known to lie between two; the longer may be infinite."""
        self._add(cell_of(max(0.0, shortest)), cell_of(max(0.0, shortest, longest)))

    def compare(self, since: float, age: float, *, ended: bool) -> None:
        """Compare with the estimate what a poll at an age has found of a task alive at the age `since`.

        Each poll is a bet whose odds the estimate has set, whenever it was made. Where the bets go wrong in
        one direction again and again, times have changed, and what is older than the last few observations
        is forgotten.
        """
        before = self._survival[cell_of(since)] if since > 0 else 1.0
        odds = 1.0 - min(1.0, self._survival[cell_of(age)] / before)
        fade = CHANGE_FADE**odds
        self._excess = fade * self._excess + ended - odds
        self._spread = fade * fade * self._spread + odds * (1.0 - odds)
        if len(self._spans) > CHANGE_ENOUGH and abs(self._excess) > CHANGE * math.sqrt(self._spread + 1.0):
            self._spans = deque(list(self._spans)[-CHANGE_KEPT:], maxlen=KEPT)
            self._since_change = CHANGE_KEPT
            self._excess = self._spread = 0.0
            self._news += KEPT

    def count_running(self, before: int, cell: int) -> None:
        """Count a task as alive in another cell than `before`; -1: in none, before or from now on."""
        if before >= 0:
            self._running[before] -= 1
        if cell >= 0:
            self._running[cell] = self._running.get(cell, 0) + 1
            self._news += NEWS_OF_RUNNING / 2

    def table(self, cost: float) -> PollTable:
        """The best polls, for what a poll costs."""
        self.refresh()
        table = self._tables.get(cost)
        if table is None:
            table = self._tables[cost] = best_polls(self._survival, self._integral, cost)
        return table

    def saved(self) -> list[list[int]]:
        """Some of the observations, for `load`: of a burst, the newest alone would be the longest."""
        stride = max(1, math.ceil(len(self._spans) / SAVED))
        return [list(span) for span in islice(self._spans, 0, None, stride)]

    def load(self, spans: Iterable[object]) -> None:
        """Learn from what `saved` gave. Parts that cannot be understood are left out."""
        for span in spans:
            match span:
                case [int(low), int(high)] if 0 <= low <= high < CELLS:
                    self._add(low, high)
                case _:
                    pass
        self._loaded = self.observed
        self._estimate()

    def refresh(self) -> None:
        """Estimate again if enough has been learned since the last time."""
        if self._news >= max(1.0, (NEWS_MOSTLY_OPEN if self.mostly_open else NEWS) * len(self._spans)):
            self._estimate()

    def quantile(self, share: float) -> float:
        """The duration that this share stays below."""
        return EDGES[min(CELLS - 1, bisect_left(list(accumulate(self.density)), share))]

    def _add(self, low: int, high: int) -> None:
        self._spans.append((low, high))
        self.observed += 1
        self._since_change += 1
        ended = high < CELLS - 1
        self.ends += ended
        self._news += 1.0 if ended or self.mostly_open else NEWS_OF_RUNNING

    def _estimate(self) -> None:
        prior = self._prior()
        if self._spans:
            self.density = self._self_consistent(prior)
        else:
            total = sum(prior)
            self.density = [x / total for x in prior]
        self._survival = [max(1e-9, 1.0 - x) for x in accumulate(self.density)]
        self._integral = integral(self._survival)
        self.mean = self._integral[-1]
        self.median = self.quantile(0.5)
        self.early = self.quantile(0.2)
        self._tables.clear()
        self._news = 0.0
        self.version += 1

    def _prior(self) -> list[float]:
        """The wide prior, moved to and narrowed around the observations; sums to its weight."""
        spans = self._spans
        if not spans:
            return [x * PRIOR_WEIGHT for x in PRIOR]
        cells = [(low + high) * 0.5 if high < CELLS - 1 else low for low, high in spans]
        n = len(cells)
        middle = (sum(cells) + cell_of(PRIOR_MEDIAN)) / (n + 1)
        variance = sum((x - middle) ** 2 for x in cells) / n
        wide = (PRIOR_SIGMA * PER_CELL) ** 2
        own = max(0, self._since_change - self._loaded)
        sigma = math.sqrt((own * WIDER * variance + WIDE_FOR * wide) / (own + WIDE_FOR))
        bell = [math.exp(-0.5 * ((i - middle) / sigma) ** 2) for i in range(CELLS)]
        scale = PRIOR_WEIGHT / sum(bell)
        return [x * scale for x in bell]

    def _self_consistent(self, prior: Sequence[float]) -> list[float]:
        newest = len(self._spans) - 1
        spans = [(low, high, FADE ** (newest - i)) for i, (low, high) in enumerate(self._spans)]
        counted = sum(weight for _, _, weight in spans)
        thinning = counted / max(counted, self._since_change)
        running = [(cell, n * thinning) for cell, n in self._running.items() if n > 0]
        total = sum(prior)
        estimate = [0.7 * a + 0.3 * b / total for a, b in zip(self.density, prior, strict=True)]
        chooses = not self._radius or len(spans) < RADIUS_SETTLES or self.version % RADIUS_HOLDS == 0
        if chooses:
            self._radius = _best_radius(_imputed(estimate, spans))
        for _ in range(ROUNDS if chooses or self.mostly_open else 1):
            spread = smooth(_spread(estimate, spans, running), self._radius)
            raised = [a + b for a, b in zip(spread, prior, strict=True)]
            total = sum(raised)
            estimate = [x / total for x in raised]
        return estimate


def _spread(
    estimate: Sequence[float],
    spans: Iterable[tuple[int, int, float]],
    running: Iterable[tuple[int, float]],
) -> list[float]:
    """Let each observation spread over its span as the estimate does."""
    below = [0.0, *accumulate(estimate)]
    change = [0.0] * (CELLS + 1)
    for low, high, weight in spans:
        share = weight / max(below[high + 1] - below[low], 1e-12)
        change[low] += share
        change[high + 1] -= share
    for cell, count in running:
        change[cell] += count / max(below[-1] - below[cell], 1e-12)
    return [a * b for a, b in zip(estimate, accumulate(change), strict=False)]


def _imputed(estimate: Sequence[float], spans: Sequence[tuple[int, int, float]]) -> list[tuple[int, float]]:
    """Put each observation into one cell of its span, spread evenly over what is likely."""
    below = [0.0, *accumulate(estimate)]
    placed: list[tuple[int, float]] = []
    for i, (low, high, weight) in enumerate(spans):
        level = below[low] + (below[high + 1] - below[low]) * (((i + 1) * GOLDEN) % 1.0)
        placed.append((min(high, max(low, bisect_right(below, level) - 1)), weight))
    return placed


def _best_radius(points: Sequence[tuple[int, float]]) -> int:
    """Choose the smoothing under which each point is likeliest in the eyes of the others."""
    counts = [0.0] * CELLS
    for cell, weight in points:
        counts[cell] += weight
    total = sum(counts)

    def likelihood(radius: int) -> float:
        smoothed, peak = smooth(counts, radius), _PEAKS[radius]
        return sum(
            weight * math.log(max(smoothed[cell] - weight * peak, 0.0) / total + 1e-4)
            for cell, weight in points
        )

    return max(RADII, key=likelihood)
