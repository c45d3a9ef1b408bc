"""Small forms of Markdown."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

_FENCED: Final = re.compile(r"^(`{3,}|:{3,}).*?^\1$", re.MULTILINE | re.DOTALL)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table. A `|` in a cell is escaped, a line break becomes a space."""
    lines = [_line(heads), _line(["---"] * len(heads)), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |"


def code(value: object) -> str:
    """Code in a line; nothing stays nothing."""
    return f"`{value}`" if str(value) else ""


def block(language: str, text: str) -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


def first_sentence(docstring: str | None) -> str:
    """The first sentence of a docstring."""
    paragraph = " ".join((docstring or "").strip().split("\n\n")[0].split())
    return paragraph.partition(". ")[0].rstrip(".") + "." if paragraph else ""


def title_of(text: str) -> str:
    """The title of a page."""
    return text.lstrip().partition("\n")[0].removeprefix("# ")


def summary_of(text: str) -> str:
    """The first sentence of a page below its title."""
    paragraphs = (" ".join(each.split()) for each in _FENCED.sub("", text).split("\n\n"))
    words = next((each for each in paragraphs if each and each[0] not in "#<|({!-"), "")
    return words.partition(". ")[0].rstrip(".:") + "."
