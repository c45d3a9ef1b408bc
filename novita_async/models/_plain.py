"""Results as plain values: dictionaries of text, numbers, lists and dictionaries, as JSON has them.

Times are those of the wall clock, in ISO 8601. A time on an event loop's clock means nothing elsewhere, and
is left out. Reading is lenient: names that are not known are passed over, missing ones are defaults.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import PurePath
from typing import Any, Final, cast

import attrs

_LEFT_OUT: Final = frozenset({"submitted_at"})
"""Fields on the clock of an event loop."""


_WAYS: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (bytes, lambda value: b64encode(value).decode()),
    (datetime, datetime.isoformat),
    (PurePath, str),
    (Mapping, lambda value: {str(key): plain(each) for key, each in value.items()}),
    (list, lambda value: [plain(each) for each in value]),
    (tuple, lambda value: [plain(each) for each in value]),
)


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    given: Any = value
    for kind, way in _WAYS:
        if isinstance(value, kind):
            return way(given)
    return plain_fields(value) if hasattr(value, "__attrs_attrs__") else value


def plain_fields(value: Any, *without: str) -> dict[str, Any]:
    """The fields of a value of attrs as JSON has them."""
    names: list[str] = [each.name for each in value.__attrs_attrs__]
    return {name: plain(getattr(value, name)) for name in names if name not in _LEFT_OUT | {*without}}


def known(cls: type, told: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the told fields that a class has, with times and bytes read back."""
    fields = attrs.fields(cast("type[attrs.AttrsInstance]", cls))
    names = {each.name for each in fields if each.init} - _LEFT_OUT
    return {name: _read(name, each) for name, each in told.items() if name in names}


def _read(name: str, told: Any) -> Any:
    if isinstance(told, str) and name.endswith("_time"):
        return datetime.fromisoformat(told)
    return b64decode(told) if isinstance(told, str) and name == "data" else told
