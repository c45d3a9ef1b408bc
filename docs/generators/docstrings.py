"""Docstrings, which are Markdown, for autodoc, which reads reStructuredText."""

import re
from typing import Any, Final

_FENCE: Final = re.compile(r"^(\s*)```(\w*)\s*$")
_LITERAL: Final = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_NAME: Final = re.compile(r"[A-Za-z_][\w.]*(\(\))?")


def to_rst(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Rewrite a docstring in place, as the event `autodoc-process-docstring` wants."""
    lines[:] = rewritten(lines)


def rewritten(lines: list[str]) -> list[str]:
    """The lines of a docstring, with fences as code blocks and code as literals."""
    result: list[str] = []
    fence: str | None = None
    for line in lines:
        match = _FENCE.match(line)
        if match and fence is None:
            fence = match[1]
            result += ["", f"{fence}.. code-block:: {match[2] or 'text'}", ""]
        elif match:
            fence = None
            result.append("")
        elif fence is not None:
            result.append(f"    {line}")
        else:
            result.append(_LITERAL.sub(_literal, line))
    return result


def _literal(match: re.Match[str]) -> str:
    """A name may be a link; any other code is only code."""
    return match[0] if _NAME.fullmatch(match[1]) else f"``{match[1]}``"
