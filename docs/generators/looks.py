"""Two looks of each drawing, light and dark, and how a page shows both."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from attrs import frozen


@frozen(kw_only=True)
class Look:
    """Colours of a drawing."""

    ground: str
    """Behind everything."""
    ink: str
    """Words that matter."""
    pencil: str
    """Words beside them."""
    line: str
    """Lines and arrows."""
    fill: str
    """Inside of boxes."""
    edge: str
    """Around boxes."""
    good: str
    """This library."""
    other: str
    """Others."""


LIGHT: Final = Look(
    ground="#f8fafc", ink="#1f2937", pencil="#374151", line="#6b7280",
    fill="#dbeafe", edge="#2563eb", good="#0a7d33", other="#b3261e",
)  # fmt: skip
DARK: Final = Look(
    ground="#1a1d23", ink="#e5e7eb", pencil="#c3c9d4", line="#8b93a1",
    fill="#1e3a5f", edge="#60a5fa", good="#4ade80", other="#f28b82",
)  # fmt: skip

_DARK_ONES: Final = re.compile(r"^.*\.only-dark.*\n?", re.MULTILINE)
_CLASSES: Final = re.compile(r"(?<=\))\{[.\w -]+\}$", re.MULTILINE)

Draw = Callable[[Look], str]


def write(folder: Path, drawings: Mapping[str, Draw]) -> None:
    """Draw everything anew, in both looks."""
    for name, draw in drawings.items():
        (folder / f"{name}.svg").write_text(draw(LIGHT), encoding="utf-8")
        (folder / f"{name}-dark.svg").write_text(draw(DARK), encoding="utf-8")


def shown(words: str, name: str, kind: str = "svg") -> str:
    """Both pictures, of which a page shows that which fits."""
    light, dark = f"![{words}](../made/{name}.{kind})", f"![{words}](../made/{name}-dark.{kind})"
    return f"{light}{{.only-light .wide}}\n{dark}{{.only-dark .wide}}"


def plain(text: str) -> str:
    """A page with each drawing once, as a Markdown copy shows it."""
    return _CLASSES.sub("", _DARK_ONES.sub("", text))
