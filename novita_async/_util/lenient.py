"""Values of answers, taken for what they mean: numbers in strings, unset objects as null, odd values as None.

The usual form of a value is looked for first, by its exact class: a finished task has a hundred values. A
converter calls these functions with the kind that it asks for, which saves a call.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

_USUAL: Final = 1 << 63
_DIGITS: Final = 19


def as_int(value: Any, _kind: object = None) -> int | None:
    """Take 3600, "3600" and 3600.0 as the same; anything else as None."""
    if value.__class__ is int and -_USUAL < value < _USUAL:
        return value
    if value.__class__ is str and len(value) < _DIGITS and value.isdecimal():
        return int(value)
    number = as_float(value)
    if number is None:
        return None
    exact = isinstance(value, int) or (isinstance(value, str) and value.strip().lstrip("+-").isdecimal())
    return int(value if exact else number)  # a float rounds what is above 2**53


def as_float(value: Any, _kind: object = None) -> float | None:
    """Take numbers and numbers in strings; anything else as None."""
    if value.__class__ is float and -math.inf < value < math.inf:
        return value
    if value.__class__ is int and -_USUAL < value < _USUAL:
        return float(value)
    if value is None or value == "":
        return None
    if value.__class__ is not str and (isinstance(value, bool) or not isinstance(value, int | float | str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_bool(value: Any) -> bool | None:
    """Take booleans, 0 and 1, and "true" and "false"; anything else as None."""
    if value is True or value is False:
        return value
    if isinstance(value, str):
        return _BOOLEANS.get(value.lower())
    return _BOOLEANS.get(value) if isinstance(value, int) else None


_BOOLEANS: Final[Mapping[Any, bool]] = {
    True: True,
    False: False,
    "true": True,
    "false": False,
    "1": True,
    "0": False,
}


def as_text(value: Any, _kind: object = None) -> str:
    """Take text, and numbers as they print; anything else as ""."""
    if value.__class__ is str:
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def as_object(value: Any) -> Mapping[str, Any]:
    """Take objects; anything else as empty."""
    if value.__class__ is dict:
        return cast("dict[str, Any]", value)
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def as_list(value: Any) -> list[Any]:
    """Take lists; anything else as empty."""
    return list(cast("Sequence[Any]", value)) if isinstance(value, list) else []


END_OF_TIME: Final = 253_402_300_800_000
"""The first millisecond since 1970 that no `datetime` reaches."""


def as_ms(value: Any) -> float | None:
    """Take milliseconds since 1970; "" and 0 mean: not yet."""
    number = as_float(value)
    return number if number is not None and 0 < number < END_OF_TIME else None
