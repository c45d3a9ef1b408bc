"""Names of result files: safe, bounded as file systems bound names, and never taken from a URL.

A caller's template, such as `{index:05d}-{seed}-{n}.{ext}`, holds no separators, and whatever is filled in is
made safe, so no name leads out of its folder. File systems count bytes: a name in another script is three
times as long as it looks.
"""

import re
import unicodedata
from collections.abc import Callable
from string import Formatter
from typing import Final, cast

from attrs import field

from novita_async._util.values import frozen
from novita_async.errors import ConfigurationError, DownloadFailed
from novita_async.models.results import Succeeded

Naming = Callable[[int, str], str]
"""Gives the name of a result's file from its number in the result, from 1, and its extension."""

FIELDS: Final = ("index", "seed", "n", "ext", "task_id", "id")

INDEX: Final = "novita-index.jsonl"
"""Name of the index of a folder."""
LONGEST_NAME: Final = 200
"""Bytes of a name without the number and the extension that may follow: 255 are usual for a whole name."""
_LONGEST_PART: Final = 120
"""Bytes of one part that is filled into a name, or of a name's beginning."""
_LOOKED_AT: Final = 1000
_SAFE_PUNCTUATION: Final = frozenset("._-")
_GAPS: Final = re.compile("\0+")
_PLAIN: Final = re.compile(r"[A-Za-z0-9-](?:[A-Za-z0-9._-]*[A-Za-z0-9-])?")
"""Texts that are safe names as they are: most."""


def safe_name(text: str, longest: int = _LONGEST_PART) -> str:
    """A file name of at most so many bytes, made of text that may hold anything."""
    if len(text) <= longest and _PLAIN.fullmatch(text):
        return text
    kept = [
        character if character in _SAFE_PUNCTUATION or unicodedata.category(character)[0] in "LMN" else "\0"
        for character in unicodedata.normalize("NFC", text[:_LOOKED_AT])
    ]
    whole = _GAPS.sub("_", "".join(kept)).strip("._")
    return whole.encode()[:longest].decode(errors="ignore").rstrip("._") or "file"


def beginning_with(stem: str) -> Naming:
    """Names that all begin alike."""
    return lambda n, ext: f"{safe_name(stem)}-{n}.{ext}"


def chosen(save_as: Callable[[Succeeded], str], outcome: Succeeded) -> str:
    """The name that the caller's own function gives.

    Raises:
        DownloadFailed: the function raises, or gives no text. The result is paid and stays known.
    """
    try:
        name = cast("object", save_as(outcome))
    except Exception as error:  # the caller's code: it spoils one request, not the others
        raise _unnamed(outcome, f"save_as raised {type(error).__name__}: {error}") from error
    if not isinstance(name, str):
        raise _unnamed(outcome, f"save_as gave {type(name).__name__}, not text")
    return name


def _unnamed(outcome: Succeeded, cause: str) -> DownloadFailed:
    account = outcome.task.account if outcome.task else None
    return DownloadFailed(url="", cause=cause, task_id=outcome.task_id, account=account)


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
        sample = _fill(text, index=0, seed=0, task_id="", id="", n=1, ext="")
    except (ValueError, TypeError) as error:
        raise _wrong(text, str(error)) from None
    if len(sample.encode(errors="replace")) > LONGEST_NAME:
        raise _wrong(text, f"names would be longer than {LONGEST_NAME} bytes")


def _fill(text: str, **values: object) -> str:
    return text.format(**values)


@frozen
class NameTemplate:
    """A name for every file of every result."""

    text: str = field(validator=_checked)
    """With `{index}` (place in the input, from 0), `{seed}`, `{n}` (number in the result, from 1), `{ext}`,
    `{task_id}` and `{id}` (the user's own, and where there is none the place in the input); formats such as
    `{index:05d}` are those of `str.format`."""

    def of(self, *, index: int, seed: int | None, task_id: str | None, tag: str | None = None) -> Naming:
        """The names of one result's files."""
        known: dict[str, object] = {
            "index": index,
            "seed": _NoSeed() if seed is None else seed,
            "task_id": "none" if task_id is None else safe_name(task_id),
            "id": f"{index:05d}" if tag is None else safe_name(tag),
        }
        return lambda n, ext: _fill(self.text, n=n, ext=ext, **known)
