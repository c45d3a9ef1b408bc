"""JSON Schemas of what users write and read: a line of a manifest, a line of an index."""

import inspect
import json
import re
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin

import attrs

from docs.generators.markdown import code, table
from novita_async import AnimateImage, EditImage, GenerateImage, ImageSource, Img2Img, Txt2Img
from novita_async._files import lines
from novita_async.cli._options import field_docs
from novita_async.models.routes import models_of

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_RANGE: Final = re.compile(r"Range (-?[\d.]*\d) to ([\d.]*\d)")
_AT_LEAST: Final = re.compile(r"At least (-?\d+) \(API\)")
_AT_MOST: Final = re.compile(r"[Aa]t most (\d+) \(API\)")
_LENGTH: Final = re.compile(r"Length (?:(\d+)|up) to (\d+)")
_SCALARS: Final[dict[Any, str]] = {int: "integer", float: "number", bool: "boolean", str: "string"}
_PICTURE: Final = {"type": "string", "description": "Path of the picture, seen from the manifest's folder."}
_OWN: Final = {
    "id": {"type": ["string", "number"], "description": "Your own id, which comes back with the outcome."},
    "metadata": {"type": "object", "description": "Your own notes, which come back with the outcome."},
}
_LEFT_OUT: Final = frozenset({"tag", "metadata", "extra_fields", "route", "images"})

Schema = dict[str, Any]


def manifest() -> Schema:
    """A line of a manifest. Options of the command line may fill what a line leaves out."""
    parts: dict[str, Schema] = {}
    kinds = [_request(kind, parts) for kind in (Img2Img, Txt2Img)]
    faces = [_face(kind, parts) for kind in (EditImage, GenerateImage, AnimateImage)]
    other = {
        "title": "Any other endpoint",
        "type": "object",
        "properties": {
            "endpoint": {"type": "string", "pattern": "^/"},
            "request": {"type": "object"},
            **_OWN,
        },
        "required": ["endpoint"],
    }
    return {
        "$schema": _DRAFT,
        "title": "A line of a manifest of novita-async",
        "anyOf": [*kinds, *faces, other],
        "$defs": parts,
    }


def _request(kind: type, parts: dict[str, Schema]) -> Schema:
    fields = {
        name: schema
        for name, schema in properties_of(kind, parts).items()
        if name not in {"extra", *_LEFT_OUT}
    }
    extra = {"extra": properties_of(kind, parts)["extra"]}
    parts[kind.__name__] = {
        "title": f"Fields of {kind.__name__}",
        "type": "object",
        "properties": {**fields, "image_base64": {"type": "string", "description": "The picture as base64."}},
    }
    endpoint = {"endpoint": {"const": getattr(kind, "kind", "")}}
    return {
        "title": kind.__name__,
        "type": "object",
        "properties": {
            **endpoint,
            **_OWN,
            **extra,
            **fields,
            "request": {"$ref": f"#/$defs/{kind.__name__}"},
        },
        "not": {"required": ["model"]},
    }


def _face(kind: Any, parts: dict[str, Schema]) -> Schema:
    found = properties_of(kind, parts)
    fields = {name: schema for name, schema in found.items() if name not in _LEFT_OUT}
    fields["model"] = {"enum": list(models_of(kind.route_kinds))}
    return {
        "title": kind.__name__,
        "description": "Other fields of the model's route are given by their names on the wire.",
        "type": "object",
        "properties": {**_OWN, **fields},
        "required": ["model"],
    }


def properties_of(kind: Any, parts: dict[str, Schema]) -> dict[str, Schema]:
    """The fields of an attrs class; classes in it go to `parts`."""
    attrs.resolve_types(kind)
    words = field_docs(kind)
    return {
        each.name: _described(_schema(each.type, parts), words.get(each.name, ""))
        for each in attrs.fields(kind)
    }


def _described(schema: Schema, words: str) -> Schema:
    found: Schema = {**schema, "description": words}
    if numbers := _RANGE.search(words):
        low, high = (float(each) for each in numbers.groups())
        found |= {"minimum": _plain(low), "maximum": _plain(high)}
    if least := _AT_LEAST.search(words):
        found["minimum"] = int(least[1])
    if length := _LENGTH.search(words):
        found |= {"minLength": int(length[1] or 0), "maxLength": int(length[2])}
    if schema.get("type") == "array" and (most := _AT_MOST.search(words)):
        found["maxItems"] = int(most[1])
    return found


def _plain(number: float) -> float:
    return int(number) if number.is_integer() else number


def _schema(kind: Any, parts: dict[str, Schema]) -> Schema:
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    options = tuple(each for each in options if each is not types.NoneType)
    if ImageSource in options:
        return dict(_PICTURE)
    if (known := next((each for each in options if _is_enum(each)), None)) is not None:
        return {"type": "string", "examples": [str(member.value) for member in known]}
    first = options[0]
    if get_origin(first) is tuple:
        return {"type": "array", "items": _schema(get_args(first)[0], parts)}
    if get_origin(first) is Literal:
        return {"enum": list(get_args(first))}
    if attrs.has(first):
        if first.__name__ not in parts:
            parts[first.__name__] = {}
            parts[first.__name__] = {"type": "object", "properties": properties_of(first, parts)}
        return {"$ref": f"#/$defs/{first.__name__}"}
    return {"type": _SCALARS[first]} if first in _SCALARS else {"type": "object"}


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def manifest_fields() -> str:
    """The fields of an img2img line, with their ranges."""
    rows = (
        (code(name), _type_of(schema), schema.get("description", ""))
        for name, schema in properties_of(Img2Img, {}).items()
        if name not in _LEFT_OUT
    )
    return table(("field", "type", "says"), rows)


def _type_of(schema: Mapping[str, Any]) -> str:
    return str(schema.get("type") or schema.get("$ref", "").rpartition("/")[2])


# --- The index ----------------------------------------------------------------------------------------------

_NAMED: Final = re.compile(r"^\| `(\w+)`\s*\| (.*) \|$", re.MULTILINE)
_LISTS: Final = ("files", "other_task_ids", "urls", "nsfw")
_OBJECTS: Final = ("metadata", "times", "error", "inputs", "make")
_NUMBERS: Final = ("place", "images", "attempts", "cost", "seed")


def words_of_index() -> dict[str, str]:
    """Docstrings of each name in the module of the lines."""
    found = dict(_NAMED.findall(inspect.getdoc(lines) or ""))
    if tuple(found) != lines.NAMES:
        raise ValueError("the table of the index does not name what a line has")
    return found


def index() -> Schema:
    """A line of `novita-index.jsonl`, and of `export --format jsonl`."""
    return {
        "$schema": _DRAFT,
        "title": "A line of an index of novita-async",
        "type": "object",
        "properties": {
            name: {"type": [_type_in_index(name), "null"], "description": words}
            for name, words in words_of_index().items()
        },
        "required": list(lines.NAMES),
        "additionalProperties": False,
    }


def _type_in_index(name: str) -> str:
    if name in _LISTS:
        return "array"
    if name in _OBJECTS:
        return "object"
    return "number" if name in _NUMBERS else "string"


def index_fields() -> str:
    """The names of a line."""
    return table(
        ("name", "type", "value"),
        ((code(name), _type_in_index(name), words) for name, words in words_of_index().items()),
    )


SCHEMAS: Final = {"manifest.schema.json": manifest, "index.schema.json": index}


def write(folder: Path) -> None:
    """Write the schemas, for editors and others who check."""
    for name, make in SCHEMAS.items():
        text = json.dumps(make(), indent=2, ensure_ascii=False)
        (folder / name).write_text(f"{text}\n", encoding="utf-8")
