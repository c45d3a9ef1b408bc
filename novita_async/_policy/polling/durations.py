"""How long things take, learned.

* An observation is a span of cells: one cell where the answer carried exact times, several where a task was
  last seen running here and first seen finished there. The end of such a span is when a look happened to be
  made, not when the task ended: taken for the end, it makes later looks later, and so on without bound.
* The estimate is the self-consistent one (Turnbull): each observation spreads over its span as the whole
  estimate does. What still runs counts too, as a span without end; else the quick ones, which are seen
  first, would stand for all.
* It is smoothed, with the width under which each observation is likeliest in the eyes of the others.
* A little of a wide prior stays in, for the tail. A kind that was never seen begins with one that is like
  it.
* Older observations count less, and little at all once the newer ones fall far off what is expected.
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
    LookTable,
    best_looks,
    cell_of,
    integral,
    integral_before,
)

PRIOR_MEDIAN: Final = 8.0
PRIOR_SIGMA: Final = 1.1
PRIOR_WEIGHT: Final = 1.5
"""Observations that the prior is worth."""
WIDER: Final = 1.7
"""The variance of the prior around what has been seen is so many times that of what has been seen."""
WIDE_FOR: Final = 4
"""And for about so many observations it stays nearly as wide as it was."""
REST: Final = 0.3
"""What stays of the prior's weight where something similar is known."""
PARENT_WEIGHT: Final = 3.0
"""Observations that the estimate of a similar kind is worth."""
PARENT_ENOUGH: Final = 4
KEPT: Final = 400
"""Observations that count."""
FADE: Final = 0.9965
"""How much less each observation counts than the next newer one."""
NEWS: Final = 0.15
OFTEN_NEWS: Final = 0.3
NEWS_OF_RUNNING: Final = 0.1
"""What it counts as news that something still runs."""
CHANGE: Final = 4.5
"""Times have changed when looks find so many standard deviations more ends, or fewer, than was expected."""
CHANGE_FADE: Final = 0.98
CHANGE_ENOUGH: Final = 40
CHANGE_KEPT: Final = 12
REMEMBERED: Final = 120
"""Observations that are worth keeping for another process."""
LEAST_WIDTH: Final = 0.05
"""A span of origins narrower than this part of the median is taken for a point."""
WIDTH_STEP: Final = 0.6
MOST_WIDTHS: Final = 8
"""Widths are rounded to a ladder of so many steps, each longer by the exponential of `WIDTH_STEP`."""
RADII: Final = (2, 4, 7, 12, 20)
"""Smoothing widths that are tried, in cells."""
RADIUS_SETTLES: Final = 60
RADIUS_HOLDS: Final = 4
"""From so many observations on the width is chosen only once in so many estimates."""
ROUNDS: Final = 3
"""Of spreading and smoothing; each begins where the last estimate ended."""

GOLDEN: Final = (math.sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, fill the unit interval evenly without rolling dice."""


def _lognormal(median: float, sigma: float) -> list[float]:
    spread = [math.exp(-0.5 * (math.log(edge / median) / sigma) ** 2) for edge in EDGES]
    total = sum(spread)
    return [x / total for x in spread]


PRIOR: Final = _lognormal(PRIOR_MEDIAN, PRIOR_SIGMA)


def _box(values: Sequence[float], radius: int) -> list[float]:
    """Average over a moving window; what would leave at the ends stays there."""
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


@define(eq=False)
class Durations:
    """One distribution of durations, learned from spans."""

    parent: "Durations | None" = None
    """Something similar that may have been seen more often."""
    shift: int = 0
    """Cells by which this is expected to be longer than its parent."""
    often_open: bool = False
    """Whether most observations are open towards the long side, as those of forecasts are that the next look
    replaces by another one. They are many and each is news, and what ends says little of what does not."""
    _spans: deque[tuple[int, int]] = field(factory=lambda: deque(maxlen=KEPT), init=False)
    _running: dict[int, int] = field(factory=dict, init=False)
    """How many are known to be alive in each cell."""
    seen: int = field(default=0, init=False)
    """Observations so far, forgotten ones included."""
    ends: int = field(default=0, init=False)
    """Those of them that are not open towards the long side."""
    density: list[float] = field(factory=lambda: PRIOR, init=False)
    mean: float = field(default=0.0, init=False)
    median: float = field(default=PRIOR_MEDIAN, init=False)
    early: float = field(default=1.0, init=False)
    """What a fifth stays below."""
    version: int = field(default=0, init=False)
    """Changes whenever the estimate does."""
    _survival: list[float] = field(factory=list, init=False)
    _integral: list[float] = field(factory=list, init=False)
    _tables: dict[tuple[float, int], LookTable] = field(factory=dict, init=False)
    _news: float = field(default=0.0, init=False)
    _radius: int = field(default=RADII[-1], init=False)
    _recalled: int = field(default=0, init=False)
    """Observations of another process: what they have not seen may happen all the same."""
    _excess: float = field(default=0.0, init=False)
    """Looks that found an end, more than the estimate has promised; older ones count less."""
    _spread: float = field(default=0.0, init=False)
    """Variance that this should have."""

    def __attrs_post_init__(self) -> None:
        self._estimate()

    def observe(self, shortest: float, longest: float) -> None:
        """Learn from one duration that is only known to lie between two; the longer may be infinite."""
        low, high = cell_of(max(0.0, shortest)), cell_of(max(0.0, shortest, longest))
        self._take(low, high)

    def tested(self, since: float, age: float, *, ended: bool) -> None:
        """Compare with the estimate what a look has found of something that was alive at an age before.

        Each look is a bet whose odds the estimate has set, whenever it was made. Where the bets go wrong in
        one direction again and again, times have changed, and what is older than the last few observations
        is forgotten.
        """
        before = self._survival[cell_of(since)] if since > 0 else 1.0
        now = self._survival[cell_of(age)]
        odds = 1.0 - min(1.0, now / before)
        self._excess = CHANGE_FADE * self._excess + ended - odds
        self._spread = CHANGE_FADE * self._spread + odds * (1.0 - odds)
        if len(self._spans) > CHANGE_ENOUGH and abs(self._excess) > CHANGE * math.sqrt(self._spread + 1.0):
            self._spans = deque(list(self._spans)[-CHANGE_KEPT:], maxlen=KEPT)
            self._excess = self._spread = 0.0
            self._news += KEPT

    def alive(self, before: int, cell: int) -> None:
        """Note that something of the cell `before` (-1: nothing) is alive in another (-1: no longer)."""
        if before >= 0:
            self._running[before] -= 1
        if cell >= 0:
            self._running[cell] = self._running.get(cell, 0) + 1
            self._news += NEWS_OF_RUNNING / 2

    def table(self, cost: float, width: float) -> LookTable:
        """The best looks for an age that is counted from the earliest of a span of origins of this width."""
        self.refresh()
        step = self._step_of(width)
        table = self._tables.get((cost, step))
        if table is None:
            table = self._tables[cost, step] = self._make(cost, self._width_of(step))
        return table

    def rounded(self, width: float) -> float:
        """Round a width to one of the few for which there are tables."""
        return self._width_of(self._step_of(width))

    def _step_of(self, width: float) -> int:
        least = LEAST_WIDTH * self.median
        if width < least:
            return 0
        return min(MOST_WIDTHS, 1 + round(math.log(width / least) / WIDTH_STEP))

    def _width_of(self, step: int) -> float:
        return 0.0 if step == 0 else LEAST_WIDTH * self.median * math.exp((step - 1) * WIDTH_STEP)

    def kept(self) -> list[list[int]]:
        """Some of the observations, for `recall`: of a burst, the newest alone would be the longest."""
        stride = max(1, math.ceil(len(self._spans) / REMEMBERED))
        return [list(span) for span in islice(self._spans, 0, None, stride)]

    def recall(self, spans: Iterable[object]) -> None:
        """Learn what `kept` gave. What cannot be understood is left out."""
        for span in spans:
            match span:
                case [int(low), int(high)] if 0 <= low <= high < CELLS:
                    self._take(low, high)
                case _:
                    pass
        self._recalled = self.seen
        self._estimate()

    def refresh(self) -> None:
        """Estimate again if enough has been learned since the last time."""
        if self._news >= max(1.0, (OFTEN_NEWS if self.often_open else NEWS) * len(self._spans)):
            self._estimate()

    def quantile(self, share: float) -> float:
        """The duration that this share stays below."""
        return EDGES[min(CELLS - 1, bisect_left(list(accumulate(self.density)), share))]

    def _make(self, cost: float, width: float) -> LookTable:
        if width <= 0:
            return best_looks(self._survival, self._integral, cost)
        survival = [
            max(1e-9, (done - before) / width)
            for done, before in zip(self._integral, integral_before(self._integral, width), strict=True)
        ]
        return best_looks(survival, integral(survival), cost)

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
        """What is believed before any observation, weighing as many observations as it is worth."""
        parent = self.parent
        if parent is None or parent.seen < PARENT_ENOUGH:
            return self._centred()
        shifted = smooth(_shifted(parent.density, self.shift), 2 + abs(self.shift) // 5)
        return [a * PARENT_WEIGHT + b * PRIOR_WEIGHT * REST for a, b in zip(shifted, PRIOR, strict=True)]

    def _centred(self) -> list[float]:
        """The wide prior, moved to and narrowed around what has been seen."""
        spans = self._spans
        if not spans:
            return [x * PRIOR_WEIGHT for x in PRIOR]
        cells = [(low + high) * 0.5 if high < CELLS - 1 else low for low, high in spans]
        n = len(cells)
        middle = (sum(cells) + cell_of(PRIOR_MEDIAN)) / (n + 1)
        variance = sum((x - middle) ** 2 for x in cells) / n
        wide = (PRIOR_SIGMA * PER_CELL) ** 2
        own = self.seen - self._recalled
        sigma = math.sqrt((own * WIDER * variance + WIDE_FOR * wide) / (own + WIDE_FOR))
        bell = [math.exp(-0.5 * ((i - middle) / sigma) ** 2) for i in range(CELLS)]
        scale = PRIOR_WEIGHT / sum(bell)
        return [x * scale for x in bell]

    def _weighed(self) -> list[tuple[int, int, float]]:
        newest = len(self._spans) - 1
        return [(low, high, FADE ** (newest - i)) for i, (low, high) in enumerate(self._spans)]

    def _self_consistent(self, prior: Sequence[float]) -> list[float]:
        spans = self._weighed()
        counted = sum(weight for _, _, weight in spans)
        thinning = counted / max(counted, self.seen)
        running = [(cell, n * thinning) for cell, n in self._running.items() if n > 0]
        estimate = self._start(prior)
        if len(spans) < RADIUS_SETTLES or self.version % RADIUS_HOLDS == 0:
            self._radius = _best_radius(_imputed(estimate, spans))
        for _ in range(ROUNDS):
            spread = smooth(_spread(estimate, spans, running), self._radius)
            raised = [a + b for a, b in zip(spread, prior, strict=True)]
            total = sum(raised)
            estimate = [x / total for x in raised]
        return estimate

    def _start(self, prior: Sequence[float]) -> list[float]:
        total = sum(prior)
        return [0.7 * a + 0.3 * b / total for a, b in zip(self.density, prior, strict=True)]

    def _take(self, low: int, high: int) -> None:
        self._spans.append((low, high))
        self.seen += 1
        ended = high < CELLS - 1
        self.ends += ended
        self._news += 1.0 if ended or self.often_open else NEWS_OF_RUNNING


def _shifted(values: Sequence[float], by: int) -> list[float]:
    cells = max(-CELLS, min(CELLS, by))
    if cells >= 0:
        return [0.0] * cells + list(values[: CELLS - cells])
    return list(values[-cells:]) + [0.0] * -cells


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
