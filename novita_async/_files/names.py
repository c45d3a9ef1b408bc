"""What result files are called where the caller gives a template, such as `{index:05d}-{seed}-{n}.{ext}`.

Nothing of a name comes from a URL, and no name leads out of its folder: a template holds no separators, and
what is filled in is made safe where files are written.
"""

from collections.abc import Callable
from string import Formatter
from typing import Final

from attrs import field, frozen

from novita_async.errors import ConfigurationError

Naming = Callable[[int, str], str]
"""Gives the name of a result's file from its number in the result, from 1, and its extension."""

FIELDS: Final = ("index", "seed", "n", "ext", "task_id")


class _NoSeed:
    """The seed of a result that has none, under any format."""

    def __format__(self, _: str) -> str:
        return "none"


def _wrong(text: str, why: str) -> ConfigurationError:
    fields = ", ".join(f"{{{name}}}" for name in FIELDS)
    return ConfigurationError(
        problem=f"file names {text!r}: {why}",
        advice=f"use {fields}, such as {{index:05d}}-{{seed}}-{{n}}.{{ext}}",
    )


def _checked(_: object, __: object, text: str) -> None:
    try:
        fields = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise _wrong(text, str(error)) from None
    if strange := [name for name in fields if name not in FIELDS]:
        raise _wrong(text, f"there is no field {{{strange[0]}}}")
    if "/" in text or "\\" in text:
        raise _wrong(text, "files go into the folder itself, not elsewhere")
    if not text.endswith(".{ext}"):
        raise _wrong(text, "it must end with .{ext}")
    try:
        _fill(text, index=0, seed=0, task_id="", n=1, ext="png")
    except (ValueError, TypeError) as error:
        raise _wrong(text, str(error)) from None


def _fill(text: str, **values: object) -> str:
    return text.format(**values)


@frozen
class NameTemplate:
    """A name for every file of every result."""

    text: str = field(validator=_checked)
    """With `{index}` (place in the input, from 0), `{seed}`, `{n}` (number in the result, from 1), `{ext}`
    and `{task_id}`; formats such as `{index:05d}` are those of `str.format`."""

    def of(self, *, index: int, seed: int | None, task_id: str) -> Naming:
        """The names of one result's files."""
        known = _NoSeed() if seed is None else seed
        return lambda n, ext: _fill(self.text, index=index, seed=known, task_id=task_id, n=n, ext=ext)
