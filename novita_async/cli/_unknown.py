"""Names that are not among those the API is known to know: sent, because its lists grow, but told.

Each is told once, as a warning: a slip of the pen would otherwise be paid for before it is noticed.
"""

import warnings
from collections.abc import Iterator
from enum import Enum
from functools import cache
from typing import Any, TypeVar, get_args

import attrs

from novita_async.errors import NovitaWarning
from novita_async.models.requests import NovitaRequest
from novita_async.models.routes import meant

R = TypeVar("R", bound=NovitaRequest)


def warned(request: R) -> R:
    """Warn of unknown names in a request, which is given back as it is."""
    for words in unknown_names(request):
        warnings.warn(words, NovitaWarning, stacklevel=1)
    return request


def unknown_names(part: Any, place: str = "") -> Iterator[str]:
    """Say of each unknown name of a request, or of a part of one, where it is and what may be meant."""
    for name, known in _fields_of(part.__class__):
        value, here = getattr(part, name), f"{place}{name}"
        if value.__class__ is tuple:
            for number, item in enumerate(value):
                yield from unknown_names(item, f"{here}[{number}].")
        elif not known:
            yield from unknown_names(value, f"{here}.")
        elif isinstance(value, str) and value not in known:
            yield f"{here}: {value!r} is not a known name, and sent as it is{meant(value, known)}"


@cache
def _fields_of(cls: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Fields whose values have known names, with these, and fields that hold parts."""
    if not attrs.has(cls):
        return ()
    attrs.resolve_types(cls)
    told = ((attribute.name, _known(attribute.type), attribute.type) for attribute in attrs.fields(cls))
    return tuple((name, known) for name, known, kind in told if known or _holds_parts(kind))


def _known(kind: Any) -> tuple[str, ...]:
    enums = (each for each in get_args(kind) if isinstance(each, type) and issubclass(each, Enum))
    return tuple(str(member.value) for each in enums for member in each)


def _holds_parts(kind: Any) -> bool:
    return attrs.has(kind) or any(map(_holds_parts, get_args(kind)))
