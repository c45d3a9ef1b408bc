"""Proposals for the table of routes, from the provider's published pages given as files.

    python -m tools.routes pages/*.md

Each page of the provider's documentation is also there as Markdown (`….md`): fields stand in
`<ParamField body="name" type="…" required default="…">`, the address in a `POST https://…` or a curl command.
A page is held against the row of its path, and what differs is printed, for a person to look at: fields that
the table lacks or the page does not name, other types, ranges and choices. A path without a row gets the
draft of one. Nothing is changed here; the exit code is 1 where there is something to look at.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Final

from attrs import frozen

from novita_async.models.hosts import KNOWN_HOSTS
from novita_async.models.routes import Route, RouteField, routes_at

ADDRESS: Final = re.compile(r"(?:POST\s+|curl[^\n]*?['\"\s])(https://[\w.-]+)(/[\w./{}:-]+)", re.IGNORECASE)
PARAMETER: Final = re.compile(
    r"<ParamField\s+body=\"([^\"]+)\"([^>]*)>(.*?)(?=<ParamField|</ParamField>|\Z)", re.DOTALL
)
ATTRIBUTE: Final = re.compile(r"(\w+)(?:=(?:\"([^\"]*)\"|\{([^}]*)\}))?")
RANGE: Final = re.compile(r"[\[(]\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*[\])]")
CHOICES: Final = re.compile(
    r"(?:enum|one of|options?|supported values?)[^`\n]*((?:`[^`\n]+`[,\s/|or]*){2,})", re.IGNORECASE
)
QUOTED: Final = re.compile(r"`([^`\n]+)`")
TYPES: Final = {
    "string": "text",
    "integer": "integer",
    "int": "integer",
    "number": "number",
    "float": "number",
    "boolean": "flag",
    "bool": "flag",
    "array": "list",
    "object": "object",
}
PICTURES: Final = ("image", "picture", "mask")


@frozen
class Page:
    """What a page says of one route."""

    file: Path
    host: str
    path: str
    fields: tuple[RouteField, ...]


def read(file: Path) -> Page | None:
    """Read a page. None: it describes no route."""
    text = file.read_text("utf-8", errors="replace")
    found = ADDRESS.search(text)
    if found is None:
        return None
    host = next((host.name for host in KNOWN_HOSTS if host.base_url == found[1]), found[1])
    return Page(file, host, found[2], tuple(fields_in(text)))


def fields_in(text: str) -> Iterator[RouteField]:
    """The fields of a body; those of objects inside it are left to the reader."""
    for name, attributes, words in PARAMETER.findall(text):
        if "." in name:
            continue
        told = {key: quoted or bare for key, quoted, bare in ATTRIBUTE.findall(attributes)}
        limits, choices = RANGE.search(words), CHOICES.search(words)
        yield RouteField(
            name=name,
            type=TYPES.get(told.get("type", "").partition("[")[0].strip().lower(), "text"),
            required="required" in told,
            low=float(limits[1]) if limits else None,
            high=float(limits[2]) if limits else None,
            choices=tuple(QUOTED.findall(choices[1])) if choices else (),
            default=told.get("default") or None,
        )


def proposals(page: Page) -> list[str]:
    """What to look at in the table, because of a page."""
    rows = routes_at(page.path)
    if not rows:
        return ["no row has this path; a draft:", *draft(page)]
    return [f"{row.name}: {words}" for row in rows for words in differences(row, page)]


def differences(row: Route, page: Page) -> Iterator[str]:
    """Where a page says something else than a row."""
    known = {*(each.name for each in row.pictures), row.model_field, row.webhook.partition(".")[0]}
    told = {each.name: each for each in page.fields}
    if page.host not in row.hosts:
        yield f"is described at {page.host}, and the row has {', '.join(row.hosts)}"
    if row.status == "retired":
        yield "is described, and the row calls it retired"
    for name, each in told.items():
        own = row.field_named(name)
        if own is None and name not in known:
            yield f"lacks {name}: {in_words(each)}"
        elif own is not None:
            yield from (f"{name}: {words}" for words in other(own, each))
    for each in row.fields:
        if each.name not in told and each.name != "prompt" and not each.place:
            yield f"has {each.name}, which the page does not name"


def other(own: RouteField, told: RouteField) -> Iterator[str]:
    """Where a page says something else of a field."""
    if own.type not in (told.type, "size"):
        yield f"is {own.type} here, {told.type} there"
    if own.required is not told.required:
        yield f"is {'required' if own.required else 'optional'} here, not there"
    if told.high is not None and (own.low, own.high) != (told.low, told.high):
        yield f"is {own.range or 'without a range'} here, {told.range} there"
    if told.choices and set(own.choices) != set(told.choices):
        yield f"is {own.range or 'any'} here, {' '.join(map(str, told.choices))} there"


def in_words(told: RouteField) -> str:
    """A field in words."""
    default = f"default {told.default}" if told.default else ""
    return ", ".join(filter(None, (told.type, "required" if told.required else "", told.range, default)))


def draft(page: Page) -> Iterator[str]:
    """A row for a page: to be looked at, and completed."""
    name = page.path.rpartition("/")[2]
    pictures = [each for each in page.fields if each.name.lower().startswith(PICTURES)]
    yield "Route("
    yield f'    name="{name}",'
    yield f'    kind="{"edit" if pictures else "generate"}",'
    yield f'    path="{page.path}",'
    yield f'    hosts=("{page.host}",),'
    yield f'    models=("{name}",),'
    if pictures:
        yield f"    pictures=({' '.join(f'RoutePictures(name={each.name!r}),' for each in pictures)}),"
    yield "    fields=("
    yield from (f"        {call(each)}," for each in page.fields if each not in pictures)
    yield "    ),"
    yield f'    answer="{"task" if "/async/" in page.path else "at_once"}",'
    yield f'    checked_on="{date.today().isoformat()}",'  # noqa: DTZ011 - the day where the maintainer is
    yield f'    source="{page.file.name}",'
    yield "),"


def call(told: RouteField) -> str:
    """A field as the table writes it."""
    facts = {
        "name": told.name,
        "type": told.type,
        "required": told.required,
        "low": told.low,
        "high": told.high,
    }
    facts |= {"choices": told.choices, "default": told.default}
    usual = {"type": "text", "required": False, "low": None, "high": None, "choices": (), "default": None}
    given = (f"{key}={value!r}" for key, value in facts.items() if key not in usual or value != usual[key])
    return f"RouteField({', '.join(given)})"


def report(files: Iterable[Path]) -> Iterator[str]:
    """All proposals, page by page."""
    for file in files:
        page = read(file)
        if page is not None and (found := proposals(page)):
            yield f"{file} ({page.host}{page.path})"
            yield from (f"  {line}" for line in found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print proposals; 1 where there are some."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pages", nargs="+", type=Path, help="pages of the documentation, as Markdown")
    lines = list(report(parser.parse_args(arguments).pages))
    print("\n".join(lines) or "the table says what these pages say")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
