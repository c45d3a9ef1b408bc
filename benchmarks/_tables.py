"""Tables as values, and their two forms: Markdown for people, JSON for programs."""

import statistics
from collections.abc import Sequence

from attrs import field, frozen


@frozen
class Figure:
    """A measured number: the median of what the rounds gave, and how far they lay apart."""

    values: tuple[float, ...] = field(converter=tuple)
    form: str = "{:,.2f}"
    """How it is printed."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        middle, low, high = (self.form.format(x) for x in (self.median, min(self.values), max(self.values)))
        return middle if low == high else f"{middle} ({low} to {high})"


Cell = str | Figure


@frozen(kw_only=True)
class Headline:
    """What the README says of a table."""

    what: str
    ours: str
    peer: str
    limit: str = ""


@frozen(kw_only=True)
class Bar:
    """What the project asks of itself."""

    what: str
    measured: float
    at_least: float | None = None
    at_most: float | None = None
    form: str = "{:,.2f}"
    slack: float = 1.5
    """By what factor `make bench-check` lets it be missed: a busy machine is no fault of the code."""

    @property
    def is_met(self) -> bool:
        return self.holds(1.0)

    def holds(self, slack: float) -> bool:
        low = self.at_least is None or self.measured >= self.at_least / slack
        return low and (self.at_most is None or self.measured <= self.at_most * slack)

    def __str__(self) -> str:
        asked = ("at least", self.at_least) if self.at_most is None else ("at most", self.at_most)
        mark = "met" if self.is_met else "**missed**"
        return f"{mark}: {self.what}: {self.form.format(self.measured)} ({asked[0]} {self.form.format(asked[1])})"


@frozen(kw_only=True)
class Table:
    """One comparison."""

    title: str
    how: str
    """What was measured and how, in a few sentences."""
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...] = field(converter=tuple)
    bars: tuple[Bar, ...] = field(default=(), converter=tuple)
    notes: tuple[str, ...] = field(default=(), converter=tuple)
    headlines: tuple[Headline, ...] = field(default=(), converter=tuple)
    plots: dict[str, str] = field(factory=dict)
    """SVG by file name."""

    def to_markdown(self) -> str:
        lines = [f"### {self.title}", "", self.how, "", *markdown_rows(self.header, self.rows)]
        lines += ["", *(f"* {bar}" for bar in self.bars)] if self.bars else []
        lines += ["", *(f"* {note}" for note in self.notes)] if self.notes else []
        lines += [f"\n![{self.title}]({name})" for name in self.plots]
        return "\n".join(lines)


def markdown_rows(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """A Markdown table whose columns line up as text, too."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "| "
        + " | ".join(
            _aligned(cell, width, i) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in cells
    ]
    rule = (
        "|" + "|".join("-" * (width + 1) + ("-" if i == 0 else ":") for i, width in enumerate(widths)) + "|"
    )
    return [lines[0], rule, *lines[1:]]


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)
