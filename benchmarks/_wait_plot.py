"""Polls against mean delay, one small chart a workload."""

import io
import math
import re

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

COLUMNS = 3
OURS, PEER, BEST = "#0a7d33", "#b3261e", "#333333"


def plot(results, peers):
    """Draw every workload; the lower left corner is the best place to be."""
    rows = math.ceil(len(results) / COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 3.2 * rows), layout="constrained")
    for place, (title, policies) in enumerate(results.items(), 1):
        _chart(figure.add_subplot(rows, COLUMNS, place), title, policies, peers)
    figure.suptitle(
        "Mean delay (s) against polls a task. Green: this library. Red: pauses of other clients. Cross: the optimum."
    )
    svg = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "wait"}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return re.sub(r"[ \t]+$", "", svg.getvalue(), flags=re.MULTILINE)


def _chart(axes, title, policies, peers):
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(0.9, 4000)
    axes.set_ylim(0.03, 10)
    axes.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
    axes.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(title, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(visible=True, which="major", linewidth=0.3)
    for name, row in policies.items():
        at = (row["polls"], max(row["delay"], 0.02))
        if name in peers:
            axes.plot(*at, "o", color=PEER, markersize=4)
            label = name.split(" (")[0].replace("exponential", "exp").replace(", cap 10", "")
            axes.annotate(label, at, (3, 3), textcoords="offset points", fontsize=6, color=PEER)
        else:
            mark = ("D", OURS) if name.startswith("learned") else ("+", BEST)
            axes.plot(*at, mark[0], color=mark[1], markersize=6, alpha=0.8)
    front = sorted((row["polls"], row["delay"]) for name, row in policies.items() if name in peers)
    axes.plot(*zip(*front, strict=True), color=PEER, linewidth=0.5, alpha=0.5)
