# ruff: noqa: E501 - SVG is written as it is read
"""Polls against mean delay, one small chart a workload, as SVG without any library."""

import math
from html import escape

WIDE, HIGH, PAD, COLUMNS = 300, 220, 40, 3
X, Y = (1.0, 3000.0), (0.03, 20.0)
COLOURS = ("#0a7d33", "#0a7d33", "#0a7d33")
PEER, BEST = "#b3261e", "#555555"


def _x(polls):
    return PAD + (WIDE - PAD - 10) * math.log(min(max(polls, X[0]), X[1]) / X[0]) / math.log(X[1] / X[0])


def _y(delay):
    return (
        HIGH - PAD - (HIGH - PAD - 24) * math.log(min(max(delay, Y[0]), Y[1]) / Y[0]) / math.log(Y[1] / Y[0])
    )


def _text(x, y, words, size=9, *, colour="#222222", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{escape(words)}</text>'


def _axes():
    parts = [
        f'<rect x="{PAD}" y="24" width="{WIDE - PAD - 10}" height="{HIGH - PAD - 24}" fill="none" stroke="#999"/>'
    ]
    parts += [_text(_x(t), HIGH - PAD + 11, f"{t:g}", anchor="middle") for t in (1, 10, 100, 1000)]
    parts += [_text(PAD - 3, _y(t) + 3, f"{t:g}", anchor="end") for t in (0.1, 1, 10)]
    parts.append(_text(WIDE / 2, HIGH - 14, "polls a task", anchor="middle"))
    return parts


def _chart(title, rows, peers):
    parts = [*_axes(), _text(PAD, 16, title, 10)]
    for name, row in rows.items():
        x, y = _x(row["polls"]), _y(row["delay"])
        if name in peers:
            label = name.split(" (")[0].replace("exponential", "exp").replace(", cap 10", "")
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{PEER}"/>')
            parts.append(_text(x + 5, y + 3, label, 7, colour=PEER))
        elif name.startswith("learned"):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[0]}" fill-opacity="0.7"/>')
        else:
            parts.append(f'<path d="M{x - 4:.1f} {y:.1f}h8m-4 -4v8" stroke="{BEST}" stroke-width="1.5"/>')
    return parts


def plot(results, peers):
    """Green: learned, in its three variants. Red: peers. Cross: the offline optimum."""
    high = HIGH * math.ceil(len(results) / COLUMNS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDE * COLUMNS}" height="{high + 20}" font-family="sans-serif">'
    ]
    parts.append(
        f'<rect width="100%" height="100%" fill="white"/>{_text(10, 14, str(plot.__doc__) + " Left: mean delay in s.", 10)}'
    )
    for i, (title, rows) in enumerate(results.items()):
        parts.append(f'<g transform="translate({i % COLUMNS * WIDE},{20 + i // COLUMNS * HIGH})">')
        parts += [*_chart(title, rows, peers), "</g>"]
    return "\n".join([*parts, "</svg>"])
