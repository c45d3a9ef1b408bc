"""Drawings of the code, as SVG."""

from collections import defaultdict
from pathlib import Path
from typing import Final

from novita_async._purchase.machine import TRANSITIONS
from novita_async.journal import State

WIDTH: Final = 960
HEIGHT: Final = 520
PLACES: Final = {
    State.PLANNED: (110, 230),
    State.ANNOUNCED: (400, 230),
    State.SUBMITTED: (690, 230),
    State.UNCERTAIN: (690, 50),
    State.FAILED: (345, 375),
    State.SUCCEEDED: (690, 420),
    State.SAVED: (890, 420),
}
"""Where each state stands; the arrows and their words come from the table."""
BEND: Final = 34
BENDS: Final = {
    (State.PLANNED, State.SUBMITTED): -110,
    (State.SUCCEEDED, State.PLANNED): 310,
    (State.UNCERTAIN, State.SUCCEEDED): 190,
    (State.FAILED, State.SUBMITTED): 20,
    (State.SUBMITTED, State.FAILED): 50,
    (State.ANNOUNCED, State.SUCCEEDED): 30,
}
"""How far an arrow bends to its left, where that is not as usual: around the states that stand in its way."""
_BOX: Final = (116, 40)
_STYLE: Final = (
    "text{font-family:system-ui,sans-serif;fill:#1f2937;text-anchor:middle}"
    ".state{font-size:15px;font-weight:600}.fact{font-size:11px;fill:#374151}"
    ".fact{paint-order:stroke;stroke:#f8fafc;stroke-width:4px}"
    "rect.state{fill:#dbeafe;stroke:#2563eb}path{fill:none;stroke:#6b7280}"
)
_TIP: Final = (
    '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
    'orient="auto"><path d="M0 0L10 5L0 10" style="fill:#6b7280"/></marker></defs>'
)


def moves() -> dict[tuple[State, State], list[str]]:
    """The facts that lead from one state to another; facts that change no state are left out."""
    found: dict[tuple[State, State], list[str]] = defaultdict(list)
    for (before, fact), (after, _) in TRANSITIONS.items():
        if before is not after:
            found[before, after].append(fact.__name__)
    return dict(found)


def purchase() -> str:
    """The states of a purchase, and the facts that move it."""
    found = moves()
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>The states of a purchase</title><style>{_STYLE}</style>",
        _TIP,
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#f8fafc"/>',
        *(_arrow(before, after, facts) for (before, after), facts in found.items()),
        *(_box(state) for state in State),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _box(state: State) -> str:
    (x, y), (width, height) = PLACES[state], _BOX
    return (
        f'<rect class="state" x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width}" height="{height}" '
        f'rx="8"/><text class="state" x="{x}" y="{y + 5}">{state.value}</text>'
    )


def _arrow(before: State, after: State, facts: list[str]) -> str:
    """A bent arrow, to the left of its way, so that two that go to and fro do not cover each other."""
    (x1, y1), (x2, y2) = PLACES[before], PLACES[after]
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    across = (y2 - y1) / length, (x1 - x2) / length
    bend = BENDS.get((before, after), BEND)
    cx, cy = (x1 + x2) / 2 + across[0] * bend, (y1 + y2) / 2 + across[1] * bend
    (ax, ay), (bx, by) = _edge((x1, y1), (cx, cy)), _edge((x2, y2), (cx, cy))
    tx, ty = (ax + 2 * cx + bx) / 4, (ay + 2 * cy + by) / 4
    words = "".join(
        f'<text class="fact" x="{tx:.0f}" y="{ty + 4 + 13 * (i - (len(facts) - 1) / 2):.0f}">{fact}</text>'
        for i, fact in enumerate(facts)
    )
    return f'<path d="M{ax:.0f} {ay:.0f}Q{cx:.0f} {cy:.0f} {bx:.0f} {by:.0f}" marker-end="url(#tip)"/>{words}'


def _edge(place: tuple[float, float], toward: tuple[float, float]) -> tuple[float, float]:
    """Where a line from the middle of a box to a point leaves the box."""
    dx, dy = toward[0] - place[0], toward[1] - place[1]
    reach = min(
        (_BOX[0] / 2 + 2) / abs(dx) if dx else float("inf"),
        (_BOX[1] / 2 + 2) / abs(dy) if dy else float("inf"),
    )
    return place[0] + dx * reach, place[1] + dy * reach


DRAWINGS: Final = {"purchase.svg": purchase}


def write(folder: Path) -> None:
    """Draw everything anew."""
    folder.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        (folder / name).write_text(draw(), encoding="utf-8")
