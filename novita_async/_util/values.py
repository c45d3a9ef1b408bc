"""Values: frozen attrs classes, whose comparison and repr are functions that all of them share.

attrs writes these anew for each class and compiles them at each start, which is a tenth of the time that a
client takes to be imported.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, Final

import attrs


@recursive_repr()
def _repr(self: Any) -> str:
    told = [
        f"{each.name}={(repr if each.repr is True else each.repr)(getattr(self, each.name))}"
        for each in attrs.fields(self.__class__)
        if each.repr
    ]
    return f"{self.__class__.__qualname__.rpartition('>.')[2]}({', '.join(told)})"


def _eq(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    told = _compared(self.__class__)
    return told(self) == told(other)


def _hash(self: Any) -> int:
    return hash((self.__class__, _hashed(self.__class__)(self)))


@cache
def _compared(cls: Any) -> Callable[[Any], Any]:
    return _getter([each for each in attrs.fields(cls) if each.eq])


@cache
def _hashed(cls: Any) -> Callable[[Any], Any]:
    return _getter([each for each in attrs.fields(cls) if (each.eq if each.hash is None else each.hash)])


def _getter(fields: list[Any]) -> Callable[[Any], Any]:
    keys = {each.name: each.eq_key for each in fields if each.eq_key is not None}
    names = [each.name for each in fields if each.name not in keys]
    plain: Callable[[Any], Any] = attrgetter(*names) if names else lambda _: ()
    if not keys:
        return plain
    return lambda value: (plain(value), *(key(getattr(value, name)) for name, key in keys.items()))


_COMPARISON: Final[Mapping[str, Any]] = {"__eq__": _eq, "__hash__": _hash}
_SHOWN: Final[Mapping[str, Any]] = {"__repr__": _repr}

if TYPE_CHECKING:
    from attrs import frozen as frozen  # noqa: PLC0414 - for all rooms
else:

    def frozen(cls=None, *, eq=True, repr=True, **options):  # noqa: A002, ANN001, ANN003, ANN202 - as attrs has it
        """Make a class of frozen values, as `attrs.frozen` does."""
        if cls is None:
            return partial(frozen, eq=eq, repr=repr, **options)
        shared = {**(_COMPARISON if eq else {}), **(_SHOWN if repr else {})}
        for name in shared.keys() - vars(cls).keys():
            setattr(cls, name, shared[name])
        return attrs.frozen(cls, eq=False, repr=False, **options)
