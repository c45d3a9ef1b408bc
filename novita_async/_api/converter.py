"""Odd answers, and records of models, read leniently by the hooks of their fields.

An odd value becomes None or empty rather than an error, and unknown fields are passed over. Usual answers are
read without this room, which is imported when the first other one comes.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeVar, cast

import attrs
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn, override

from novita_async._util.lenient import as_bool, as_float, as_int, as_list, as_object, as_text
from novita_async.models.catalogue import ModelRecord
from novita_async.models.results import Artifact, GeneratedImage, NsfwDetection
from novita_async.tasks import Task

T = TypeVar("T")

_converter: Final = Converter(detailed_validation=False)
"""The only converter."""


def read_as(kind: type[T], value: Mapping[str, Any]) -> T:
    """Read a value of this kind."""
    return _converter.structure(value, kind)


def _truth(value: Any, _kind: object = None) -> bool:
    return value is True or (value is not False and bool(as_bool(value)))


def _same(value: Any, _kind: object = None) -> Any:
    return value


def _tells_findings(value: Any) -> bool:
    told = as_object(value)
    return told.get("valid") is not None or told.get("confidence") is not None


_NOT_ON_THE_WIRE: Final = ("data", "file", "lost")
"""Fields of results that no answer's object has."""


def _lenient_class(cls: type, **names: str) -> None:
    """Let a class be read by its fields' hooks, from an object whose fields have these names on the wire."""
    overrides = cast("Any", {name: override(rename=wire) for name, wire in names.items()})
    overrides |= {name: override(omit=True) for name in _NOT_ON_THE_WIRE if name in attrs.fields_dict(cls)}
    build = cast("Any", make_dict_structure_fn(cls, _converter, **overrides))
    _converter.register_structure_hook(cls, lambda value, _: build(as_object(value), cls))


_converter.register_structure_hook(str, as_text)
_converter.register_structure_hook(str | None, lambda value, _: as_text(value) or None)
_converter.register_structure_hook(int | None, as_int)
_converter.register_structure_hook(float | None, as_float)
_converter.register_structure_hook(bool, _truth)
_converter.register_structure_hook(bool | None, lambda value, _: as_bool(value))
_converter.register_structure_hook(Task | None, _same)
_converter.register_structure_hook_func(
    lambda cls: cls == tuple[str, ...],
    lambda value, _: tuple([item for item in as_list(value) if isinstance(item, str)]),
)
_lenient_class(ModelRecord, available="status")
_lenient_class(NsfwDetection, checked="valid")
_converter.register_structure_hook(
    NsfwDetection | None,
    lambda value, _: read_as(NsfwDetection, value) if _tells_findings(value) else None,
)
_lenient_class(
    GeneratedImage, url="image_url", url_ttl="image_url_ttl", type="image_type", nsfw="nsfw_detection_result"
)
_lenient_class(Artifact)


def model_record(value: Mapping[str, Any]) -> ModelRecord:
    """Read one record of the model listing, whose type is an object there."""
    kind = value.get("type")
    return read_as(ModelRecord, {**value, "type": as_object(kind).get("name") or kind})
