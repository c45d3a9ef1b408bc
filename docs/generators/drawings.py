"""Drawings of the code, as SVG."""

from collections import defaultdict
from typing import Final

from docs.generators import looks
from docs.generators.looks import Look
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
ALONG: Final = {
    (State.FAILED, State.SUBMITTED): 0.3,
    (State.SUBMITTED, State.FAILED): 0.6,
    (State.ANNOUNCED, State.SUCCEEDED): 0.8,
}
"""How far along its arrow a fact is written, where the middle is taken."""
_BOX: Final = (116, 40)


def moves() -> dict[tuple[State, State], list[str]]:
    """The facts that lead from one state to another; facts that change no state are left out."""
    found: dict[tuple[State, State], list[str]] = defaultdict(list)
    for (before, fact), (after, _) in TRANSITIONS.items():
        if before is not after:
            found[before, after].append(fact.__name__)
    return dict(found)


def purchase(look: Look) -> str:
    """The states of a purchase, and the facts that move it."""
    found = moves()
    style = (
        f"text{{font-family:system-ui,sans-serif;fill:{look.ink};text-anchor:middle}}"
        f".state{{font-size:15px;font-weight:600}}.fact{{font-size:12px;fill:{look.pencil}}}"
        f".fact{{paint-order:stroke;stroke:{look.ground};stroke-width:4px}}"
        f"rect.state{{fill:{look.fill};stroke:{look.edge}}}path{{fill:none;stroke:{look.line}}}"
    )
    tip = (
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0L10 5L0 10" style="fill:{look.line}"/></marker></defs>'
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>The states of a purchase</title><style>{style}</style>",
        tip,
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{look.ground}"/>',
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
    t = ALONG.get((before, after), 0.5)
    first, middle, last = (1 - t) ** 2, 2 * t * (1 - t), t**2
    tx, ty = first * ax + middle * cx + last * bx, first * ay + middle * cy + last * by
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


def shown() -> str:
    """The drawing of the states, on a page."""
    return looks.shown("The states of a purchase, and the facts that lead from one to the next", "purchase")
