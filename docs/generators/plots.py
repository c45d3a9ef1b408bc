"""Plots of what was measured, as SVG, from the table of the measurements."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from docs.generators import looks
from docs.generators.looks import Look
from docs.generators.tables import ROOT

MEASURED: Final = ROOT / "benchmarks" / "results" / "tables.json"
SERVICES: Final = {
    "log-normal 6 s, sigma 0.5; 1,200 arriving": "a worker for each task; tasks of about 6 s",
    "burst: 400 on 8": "400 tasks at once on 8 workers",
    "burst: 400 on 8, not FIFO": "the same, in no order",
    "one in fifty takes 120 s longer *": "one task in fifty takes 120 s longer",
}
"""Services that are drawn, by their names in the table; the last two are the hardest."""
WIDTH: Final = 960
PANEL: Final = (480, 330)
_FIELD: Final = (70, 44, 385, 228)
"""Left, top, width and height of the field in a panel."""
_X: Final = (1.0, 8000.0)
_Y: Final = (0.04, 10.0)
_OURS: Final = "learned, completion times"
_BEST: Final = "starts and distribution known"

Points = dict[str, tuple[float, float]]


def points() -> dict[str, Points]:
    """Polls a task and mean delay of each way to wait, by service."""
    found: dict[str, Points] = defaultdict(dict)
    measured: Mapping[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))["wait"]
    for service, policy, polls, delay, *_ in measured["tables"][0]["rows"]:
        if service in SERVICES:
            found[service][policy] = float(polls), float(delay)
    return {service: found[service] for service in SERVICES}


def waits(look: Look) -> str:
    """Polls against delay, a panel for each service."""
    style = (
        f"text{{font-family:system-ui,sans-serif;font-size:13px;fill:{look.pencil}}}"
        f".head{{font-size:15px;font-weight:600;fill:{look.ink}}}.mid{{text-anchor:middle}}.end{{text-anchor:end}}"
        f".ours{{fill:{look.good};font-weight:600}}.other{{fill:{look.other}}}"
        f".grid{{stroke:{look.line};stroke-opacity:.35}}.best{{stroke:{look.ink};stroke-width:1.6;fill:none}}"
    )
    height = PANEL[1] * math.ceil(len(SERVICES) / 2)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>Polls a task against delay</title><style>{style}</style>",
            f'<rect width="{WIDTH}" height="{height}" rx="8" fill="{look.ground}"/>',
            *(_panel(place, *each) for place, each in enumerate(points().items())),
            "</svg>\n",
        ]
    )


def _panel(place: int, service: str, found: Points) -> str:
    left, top, width, height = _FIELD
    x, y = place % 2 * PANEL[0], place // 2 * PANEL[1]
    parts = [
        f'<g transform="translate({x} {y})"><text class="head" x="{left}" y="28">{SERVICES[service]}</text>',
        *(_rule(_across(number), across=True, words=f"{number:,}") for number in (1, 10, 100, 1000)),
        *(_rule(_down(number), across=False, words=f"{number:g}") for number in (0.1, 1, 10)),
        f'<text class="mid" x="{left + width / 2}" y="{top + height + 38}">polls a task</text>',
        f'<text class="mid" transform="translate(22 {top + height / 2}) rotate(-90)">mean delay, s</text>',
        *(_point(policy, *where) for policy, where in found.items() if _name_of(policy) is not None),
    ]
    return "".join([*parts, "</g>"])


def _rule(at: float, *, across: bool, words: str) -> str:
    left, top, width, height = _FIELD
    if across:
        line = f"M{at:.1f} {top}v{height}"
        told = f'<text class="mid" x="{at:.1f}" y="{top + height + 18}">{words}</text>'
    else:
        line = f"M{left} {at:.1f}h{width}"
        told = f'<text class="end" x="{left - 8}" y="{at + 4:.1f}">{words}</text>'
    return f'<path class="grid" d="{line}"/>{told}'


def _point(policy: str, polls: float, delay: float) -> str:
    x, y = _across(polls), _down(delay)
    if policy == _BEST:
        return f'<path class="best" d="M{x - 6:.1f} {y:.1f}h12M{x:.1f} {y - 6:.1f}v12"/>'
    is_ours = policy == _OURS
    kind, size = ("ours", 6) if is_ours else ("other", 4)
    place = f'class="{kind} end" x="{x - 10:.1f}"' if is_ours else f'class="{kind}" x="{x + 9:.1f}"'
    words = f'<text {place} y="{y + (14 if is_ours else 5):.1f}">{_name_of(policy)}</text>'
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>{words}'


def _name_of(policy: str) -> str | None:
    """The words beside a point. None: the point is left out, as another way that was learned."""
    if policy in (_OURS, _BEST):
        return "learned" if policy == _OURS else ""
    if policy.startswith("learned") or policy == "exponential 1 x 2, cap 10":
        return None
    kind, number, *_ = policy.split()
    return f"every {number} s" if kind == "fixed" else "growing"


def _across(polls: float) -> float:
    left, _, width, _ = _FIELD
    return left + width * math.log(polls / _X[0]) / math.log(_X[1] / _X[0])


def _down(delay: float) -> float:
    _, top, _, height = _FIELD
    return top + height * (1 - math.log(delay / _Y[0]) / math.log(_Y[1] / _Y[0]))


def shown() -> str:
    """The plot, on a page."""
    return looks.shown("Polls a task against mean delay, on four services", "waits")
