"""The report's timeline: what was sent and what ended, against the quota, as inline SVG and as a table.

At each moment the chart shows how many images were sent in the minute before. That number may never be
above the quota, however unevenly the sending goes; a rate over slots of the clock would not tell. Every
column of the chart shows the highest number within it, so no excess can hide between two pixels.

A batch may rest for a night between two runs. After `PAUSE` seconds without any event the axis breaks, and
the break says how long it was.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import accumulate, pairwise
from typing import Final, assert_never

from attrs import Factory, define, field

from novita_async._purchase.machine import State
from novita_async._util.values import frozen

PAUSE: Final = 600.0
"""Seconds of silence that are cut out."""
_MINUTE: Final = 60.0
_WIDTH: Final = 1000
_HEIGHT: Final = 100
_PLOT: Final = 160
"""Pixels that the height is drawn with."""
_LEVELS: Final = 4
"""Steps of the y axis at most."""
_ROUNDING: Final = 1e-6
_BREAK: Final = 14.0
"""Columns that a pause takes."""
_STEPS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_TICKS: Final = 9
_NARROW: Final = 17.0
"""Percent of the width between labels on a small screen."""
_ROWS: Final = 30
_EDGE: Final = 4.0
"""Percent of the width at either end where a label is not centred, so as not to be cut."""

Moment = tuple[float, int]
"""When, in unix seconds, and how many images."""


@define
class Happenings:
    """Moments of all that happened, gathered row by row."""

    sent: list[Moment] = field(factory=list[Moment])
    """Attempts that the service saw, or may have."""
    finished: list[Moment] = field(factory=list[Moment])
    """Tasks that were seen to succeed."""
    failed: list[Moment] = field(factory=list[Moment])
    """Requests that were given up."""
    uncertain: list[Moment] = field(factory=list[Moment])
    """Submissions whose answer never came."""

    def note(
        self,
        state: State,
        images: int,
        attempts: Sequence[tuple[float, float | None]],
        finished_at: float | None,
    ) -> None:
        """Note down when what happened to a row. Attempts: when each was announced, and answered."""
        self.sent.extend((announced_at, images) for announced_at, _ in attempts)
        ended = finished_at
        if ended is None and attempts:
            announced_at, answered_at = attempts[-1]
            ended = answered_at or announced_at
        kind = self._kind(state)
        if ended is not None and kind is not None:
            kind.append((ended, images))

    def _kind(self, state: State) -> list[Moment] | None:
        match state:
            case State.SAVED | State.SUCCEEDED:
                return self.finished
            case State.FAILED:
                return self.failed
            case State.UNCERTAIN:
                return self.uncertain
            case State.PLANNED | State.ANNOUNCED | State.SUBMITTED:
                return None
            case _:
                assert_never(state)

    def moments(self) -> list[float]:
        """Every time at which something happened, in order."""
        kinds = (self.sent, self.finished, self.failed, self.uncertain)
        return sorted(at for kind in kinds for at, _ in kind)


def _in_order(moments: Iterable[Moment]) -> list[Moment]:
    return sorted(moments)


@frozen
class _Columns:
    """Images by time, added up, so that any span can be counted at once."""

    moments: Sequence[Moment] = field(converter=_in_order)
    times: Sequence[float] = Factory(lambda self: [at for at, _ in self.moments], takes_self=True)
    sums: Sequence[int] = Factory(
        lambda self: [0, *accumulate(images for _, images in self.moments)], takes_self=True
    )

    def until(self, at: float) -> int:
        """Images up to and including this moment."""
        return self.sums[bisect_right(self.times, at)]

    def last_minute(self, at: float) -> int:
        """Images in the minute that ends at this moment."""
        return self.until(at) - self.until(at - _MINUTE)

    def between(self, begin: float, end: float) -> int:
        """Images from this moment on and before that one."""
        return self.until(math.nextafter(end, -math.inf)) - self.until(math.nextafter(begin, -math.inf))


@frozen(kw_only=True)
class _Stretch:
    """A time without pauses, and its place on the axis."""

    begin: float
    end: float
    left: float
    right: float

    def x(self, at: float) -> float:
        """Where a moment of this stretch is, in columns."""
        span = self.end - self.begin
        return self.left + (self.right - self.left) * ((at - self.begin) / span if span else 0)

    def at(self, x: float) -> float:
        """Which moment is at a column."""
        return self.begin + (self.end - self.begin) * (x - self.left) / ((self.right - self.left) or 1)

    def holds(self, at: float) -> bool:
        """Whether a moment is in it."""
        return self.begin <= at <= self.end


def _stretches(moments: Sequence[float]) -> list[_Stretch]:
    """Cut the time of a batch at its pauses. `moments` are in order, and at least one."""
    cuts = [(a, b) for a, b in pairwise(moments) if b - a > PAUSE]
    begins = [moments[0], *(b for _, b in cuts)]
    ends = [
        max(end, begin + 1) for begin, end in zip(begins, (*(a for a, _ in cuts), moments[-1]), strict=True)
    ]
    pause = min(_BREAK, _WIDTH / 4 / max(len(cuts), 1))
    spans = [end - begin for begin, end in zip(begins, ends, strict=True)]
    scale = (_WIDTH - pause * len(cuts)) / sum(spans)
    lefts = accumulate((span * scale + pause for span in spans), initial=0.0)
    return [
        _Stretch(begin=begin, end=end, left=left, right=left + (end - begin) * scale)
        for begin, end, left in zip(begins, ends, lefts, strict=False)
    ]


def _active(stretches: Iterable[_Stretch]) -> float:
    return sum(stretch.end - stretch.begin for stretch in stretches)


def active(happened: Happenings) -> float:
    """Seconds in which something went on: all the time, pauses left out."""
    moments = happened.moments()
    return sum(after - before for before, after in pairwise(moments) if after - before <= PAUSE)


def _columns(counts: _Columns, stretch: _Stretch) -> dict[int, int]:
    """By column, the most images that any minute ending in it holds."""
    first = math.floor(stretch.left)
    last = max(first, math.ceil(stretch.right - _ROUNDING) - 1)
    heights = {
        column: counts.last_minute(stretch.at(max(column, stretch.left))) for column in range(first, last + 1)
    }
    for at in filter(stretch.holds, counts.times):
        column = min(math.floor(stretch.x(at)), last)
        heights[column] = max(heights[column], counts.last_minute(at))
    return heights


def _level(value: float, top: float) -> str:
    return f"{_HEIGHT * (1 - value / top):.1f}"


def _steps(heights: dict[int, int], top: float) -> str:
    """A line through the tops of columns; equal neighbours are one."""
    first, *_ = columns = sorted(heights)
    path, before = f"M{first} {_level(heights[first], top)}", heights[first]
    for column in columns:
        if heights[column] != before:
            path += f"H{column}V{_level(heights[column], top)}"
            before = heights[column]
    return f"{path}H{columns[-1] + 1}"


# --- Words --------------------------------------------------------------------------------------------------


def elapsed(seconds: float) -> str:
    """A span of time in a few words: `40 s`, `2 min`, `1 h 05`."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < _MINUTE:
        return f"{minutes} min" + (f" {rest:02} s" if rest else "")
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours} h" + (f" {minutes:02}" if minutes else "")


def _ticks(stretches: Sequence[_Stretch]) -> Iterator[tuple[float, str]]:
    """Places of the axis in percent, and their labels: where each stretch begins, and round times."""
    origin = stretches[0].begin
    step = _step(_active(stretches) / _TICKS)
    for stretch in stretches:
        yield stretch.left * 100 / _WIDTH, elapsed(stretch.begin - origin)
        first = math.floor((stretch.begin - origin) / step) + 1
        last = math.floor((stretch.end - origin) / step)
        for number in range(first, last + 1):
            yield stretch.x(origin + number * step) * 100 / _WIDTH, elapsed(number * step)


def _apart(ticks: Iterable[tuple[float, str]], room: float) -> list[tuple[float, str]]:
    """Leave out the labels that would touch the one before."""
    kept: list[tuple[float, str]] = []
    for place, text in ticks:
        if not kept or place - kept[-1][0] >= room:
            kept.append((place, text))
    return kept


def _step(least: float) -> int:
    return next((step for step in _STEPS if step >= least), math.ceil(least / _STEPS[-1]) * _STEPS[-1])


def _labels(stretches: Sequence[_Stretch]) -> str:
    ticks = _apart(_ticks(stretches), 100 / _TICKS / 1.5)
    always = _apart(ticks, _NARROW)
    return "".join(_label(*tick, "" if tick in always else ' class="wide"') for tick in ticks)


def _label(place: float, text: str, kind: str) -> str:
    anchor = "start" if place < _EDGE else "end" if place > 100 - _EDGE else "middle"
    return f'<text{kind} x="{place:.2f}%" y="100%" dy="-4" text-anchor="{anchor}">{escape(text)}</text>'


def _pauses(stretches: Sequence[_Stretch]) -> Iterator[str]:
    for before, after in pairwise(stretches):
        words = f"nothing for {elapsed(after.begin - before.end)}"
        left, width = before.right, after.left - before.right
        yield (
            f'<rect class="pause" x="{left:.1f}" y="0" width="{width:.1f}" height="{_HEIGHT}">'
            f"<title>{words}</title></rect>"
        )


def _marks(kind: str, moments: Iterable[Moment], stretches: Sequence[_Stretch]) -> str:
    """A short stroke for each moment; those in one column are one."""
    columns = sorted(
        {round(next(stretch.x(at) for stretch in stretches if stretch.holds(at))) for at, _ in moments}
    )
    strokes = "".join(f"M{column} 0V10" for column in columns)
    return f'<path class="mark {kind}" d="{strokes}"/>' if strokes else ""


# --- The whole ----------------------------------------------------------------------------------------------


def timeline(happened: Happenings, quota: int | None) -> str:
    """The chart and its table as HTML. Empty where nothing happened yet.

    Args:
        happened: What was sent and what ended.
        quota: Images a minute, drawn as a line. None: not known.
    """
    moments = happened.moments()
    if not moments:
        return ""
    sent, finished = _Columns(happened.sent), _Columns(happened.finished)
    stretches = _stretches(moments)
    return _chart(happened, sent, finished, stretches, quota) + _table(happened, stretches)


def _chart(
    happened: Happenings,
    sent: _Columns,
    finished: _Columns,
    stretches: Sequence[_Stretch],
    quota: int | None,
) -> str:
    sending = [_columns(sent, stretch) for stretch in stretches]
    ending = [_columns(finished, stretch) for stretch in stretches]
    peak = max(max(heights.values()) for heights in (*sending, *ending))
    top = max(peak, quota or 0, 1) * 1.15
    levels = _levels(peak, quota)
    grid = "".join(f"M0 {_level(level, top)}H{_WIDTH}" for level in levels)
    shapes = "".join(
        (
            f'<path class="grid" d="{grid}"/>',
            *(
                f'<path class="sent" d="{_steps(heights, top)}V{_HEIGHT}H{min(heights)}Z"/>'
                for heights in sending
            ),
            *(f'<path class="finished" d="{_steps(heights, top)}"/>' for heights in ending),
            f'<path class="quota" d="M0 {_level(quota, top)}H{_WIDTH}"/>' if quota else "",
            *_pauses(stretches),
        )
    )
    marks = _marks("failed", happened.failed, stretches) + _marks("uncertain", happened.uncertain, stretches)
    labels = _labels(stretches)
    level = _axis(levels, quota, top)
    told = _told(max((max(each.values()) for each in sending), default=0), quota, stretches)
    frame = 'width="100%" preserveAspectRatio="none"'
    return (
        f'<svg class="chart" width="100%" height="200" role="img" aria-label="{escape(told)}">'
        f'<svg y="0" height="{_PLOT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" {frame}>{shapes}</svg>'
        f'<svg y="163" height="10" viewBox="0 0 {_WIDTH} 10" {frame}>{marks}</svg>{level}{labels}</svg>'
    )


def _levels(peak: int, quota: int | None) -> range:
    """Round numbers of images for the y axis, from 0 to the top."""
    highest = max(peak, quota or 0, 1)
    steps = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    step = next(step for step in steps if step * _LEVELS >= highest)
    return range(0, highest + 1, step)


def _axis(levels: Iterable[int], quota: int | None, top: float) -> str:
    """The numbers of the y axis, and the label of the quota's line."""
    told = "".join(
        f'<text class="level" x="0" y="{_PLOT * (1 - level / top):.1f}" dy="-3">{level:,}</text>'
        for level in levels
        if level
    )
    if quota is not None:
        place, words = _PLOT * (1 - quota / top), f"quota {quota} a minute"
        told += f'<text class="level" x="100%" y="{place:.1f}" dy="-5" text-anchor="end">{words}</text>'
    return told


def _told(peak: int, quota: int | None, stretches: Sequence[_Stretch]) -> str:
    against = "" if quota is None else f", with a quota of {quota}"
    span = elapsed(stretches[-1].end - stretches[0].begin)
    return f"Timeline over {span}: at most {peak} images were sent in any minute{against}. A table follows."


def _table(happened: Happenings, stretches: Sequence[_Stretch]) -> str:
    origin = stretches[0].begin
    step = _step(_active(stretches) / _ROWS)
    kinds = [
        _Columns(each) for each in (happened.sent, happened.finished, happened.failed, happened.uncertain)
    ]
    rows = ""
    for begin in (number * step for number in _slots(stretches, step)):
        counts = (kind.between(origin + begin, origin + begin + step) for kind in kinds)
        cells = "".join(f"<td>{count}</td>" for count in counts)
        rows += f'<tr><th scope="row">{elapsed(begin)}</th>{cells}</tr>'
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in ("from", "sent", "finished", "failed", "uncertain")
    )
    return (
        "<details><summary>The same as a table</summary><table><caption>Images, by the time since the "
        f"beginning</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _slots(stretches: Sequence[_Stretch], step: int) -> list[int]:
    origin = stretches[0].begin
    return sorted(
        {
            number
            for stretch in stretches
            for number in range(
                math.floor((stretch.begin - origin) / step), math.floor((stretch.end - origin) / step) + 1
            )
        }
    )
