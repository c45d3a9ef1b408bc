"""Docstrings, which are Markdown with Google's sections, for autodoc, which reads reStructuredText."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import attrs

from docs.generators.api import described

_FENCE: Final = re.compile(r"^(\s*)```(\w*)\s*$")
_CODE: Final = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_SECTION: Final = re.compile(r"(Args|Raises|Returns|Yields):")
_ITEM: Final = re.compile(r"    (\*{0,2}\w[\w., ]*): (.*)")
_FIELDS: Final = {"Args": "param", "Raises": "raises"}
_INDENT: Final = 4


def to_rst(_app: Any, _what: str, _name: str, described: Any, _options: Any, lines: list[str]) -> None:
    """Rewrite a docstring in place, as the event `autodoc-process-docstring` wants."""
    if isinstance(described, type) and attrs.has(described):
        lines[:] = without_args(lines)
    lines[:] = rewritten(lines)


def without_args(lines: list[str]) -> list[str]:
    """A docstring without what `tools.args` has written: on pages, each field stands for itself."""
    paragraphs = "\n".join(lines).split("\n\n")
    return "\n\n".join(each for each in paragraphs if not each.startswith("Args:\n")).splitlines()


def rewritten(lines: list[str]) -> list[str]:
    """The lines of a docstring, with fences as code blocks, names as links and sections as fields."""
    return list(_with_fields(_with_code(lines)))


def _with_code(lines: list[str]) -> Iterator[str]:
    fence: str | None = None
    for line in _with_tables(lines):
        match = _FENCE.match(line)
        if match and fence is None:
            fence = match[1]
            yield from ("", f"{fence}.. code-block:: {match[2] or 'text'}", "")
        elif match:
            fence = None
            yield ""
        elif fence is not None:
            yield f"    {line}"
        else:
            yield _CODE.sub(_linked, line)


def _with_tables(lines: list[str]) -> Iterator[str]:
    """Show a Markdown table as it is."""
    in_table = False
    for line in lines:
        if line.startswith("|") is not in_table:
            in_table = not in_table
            yield "```"
        yield line
    if in_table:
        yield "```"


@cache
def _targets() -> Mapping[str, str]:
    """Where each name that stands alone leads."""
    return {name: f"{module}.{name}" for module, name in sorted(described(), reverse=True)}


def _linked(match: re.Match[str]) -> str:
    """Make code of a Markdown code span, and a link of a public name."""
    target = _targets().get(match[1])
    return f":py:obj:`{match[1]} <{target}>`" if target else f"``{match[1].strip()}``"


def _with_fields(lines: Iterator[str]) -> Iterator[str]:
    section: str | None = None
    for line in lines:
        heading = _SECTION.fullmatch(line)
        if heading:
            section = heading[1]
            yield ""
            if section not in _FIELDS:
                yield f":{section.lower()}:"
        elif section is None:
            yield line
        elif line.strip() and not line.startswith(" " * _INDENT):
            section = None
            yield from ("", line)
        elif (item := _ITEM.match(line)) and section in _FIELDS:
            yield f":{_FIELDS[section]} {item[1]}: {item[2]}"
        else:
            yield line
