"""Writes the section `Args` of public classes of values, from the docstring under each field.

An editor shows the docstring of a class as its source has it, without the fields, and `help()` shows no
field's docstring at all. So each class repeats the words of its fields, those that it inherits included:
written by this tool, never by hand.

    python -m tools.args            write what is not as it should be
    python -m tools.args --check    name it, and fail
"""

import argparse
import ast
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import attrs

from novita_async.cli._options import field_docs

MODULES: Final = (
    "novita_async",
    "novita_async.events",
    "novita_async.journal",
    "novita_async.statistics",
    "novita_async.storage",
    "novita_async.testing",
    "novita_async.transport",
)
"""Modules whose public values have the section."""
WIDTH: Final = 110
_SECTION: Final = "Args:"


def classes() -> list[type]:
    """Public classes of attrs, each once, but for exceptions, which users do not make."""
    found: dict[type, None] = {}
    for name in MODULES:
        module = import_module(name)
        for each in getattr(module, "__all__", None) or vars(module):
            value = getattr(module, each)
            is_value = inspect.isclass(value) and attrs.has(value) and not issubclass(value, BaseException)
            if is_value and value.__module__.startswith("novita_async.") and _fields_of(value):
                found[value] = None
    return list(found)


def _fields_of(cls: Any) -> dict[str, str]:
    """Words of the fields that a caller gives: its own, then those that it inherits."""
    words = field_docs(cls)
    fields = (each for each in attrs.fields(cls) if each.init and not each.name.startswith("_"))
    ordered = sorted(fields, key=lambda each: each.inherited)
    return {each.alias or each.name: words[each.name] for each in ordered if each.name in words}


def section_of(cls: type) -> str:
    """The section of a class."""
    lines = [_SECTION]
    for name, words in _fields_of(cls).items():
        lines += textwrap.wrap(
            f"{name}: {words}",
            WIDTH - 4,
            initial_indent=" " * 4,
            subsequent_indent=" " * 8,
            break_on_hyphens=False,
            break_long_words=False,
        )
    return "\n".join(lines)


def docstring_of(cls: type) -> str:
    """The docstring that a class should have: its own words, and the section before any other."""
    return "\n\n".join(_with(section_of(cls), (inspect.cleandoc(cls.__doc__ or "")).split("\n\n")))


def _with(section: str, paragraphs: list[str]) -> Iterator[str]:
    own = [each for each in paragraphs if not each.startswith(f"{_SECTION}\n")]
    place = next((n for n, each in enumerate(own) if each.startswith("Raises:")), len(own))
    yield from own[:place]
    yield section
    yield from own[place:]


def stale() -> list[type]:
    """Classes whose section is not as it should be."""
    return [cls for cls in classes() if inspect.cleandoc(cls.__doc__ or "") != docstring_of(cls)]


def write(found: Iterable[type]) -> None:
    """Write the docstrings of classes into their sources."""
    by_file: dict[Path, list[type]] = {}
    for cls in found:
        by_file.setdefault(Path(inspect.getfile(cls)), []).append(cls)
    for path, these in by_file.items():
        path.write_text(_written(path.read_text(encoding="utf-8"), these), encoding="utf-8")


def _written(source: str, these: Iterable[type]) -> str:
    """A source in which these of its classes have the docstrings that they should have."""
    lines, names = source.splitlines(), {cls.__name__: cls for cls in these}
    nodes = [each for each in ast.parse(source).body if isinstance(each, ast.ClassDef)]
    for node in reversed([each for each in nodes if each.name in names]):
        below = node.body[0]
        quoted = f'"""{docstring_of(names[node.name])}\n"""'
        lines[below.lineno - 1 : below.end_lineno] = textwrap.indent(quoted, " " * 4).splitlines()
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail where anything would be")
    found = stale()
    if not parser.parse_args(arguments).check:
        write(found)
        found = []
    for cls in found:
        print(f"{cls.__module__}.{cls.__name__}: not as its fields say: python -m tools.args")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
