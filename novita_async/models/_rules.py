"""Rules for fields. A rule explains what is wrong with a value, or says nothing.

A rule is an attrs validator. attrs stops at the first validator that raises, but a user wants to know every
fault at once: so the first rule that objects asks all rules of the instance, and raises one error with all
they say. The codec asks the same rules, field by field, and puts the path of the JSON before their words.

Requests are made by the thousand, with most fields left out. So their classes put the rules aside
(`field_transformer=rules.apart`), and `check` asks those of the fields that were given.
"""

import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit

import attrs
from attrs import Attribute

from novita_async._util.values import frozen
from novita_async.errors import Flaw, InvalidRequest

Explain = Callable[[Any, Any], str | None]
"""Takes the instance (or what is known of it) and the value; returns what is wrong."""
new_dict: Final[Callable[[], dict[str, Any]]] = dict
"""Makes an empty dictionary, in a sixth of the time of `dict[str, Any]()`."""

T = TypeVar("T")

EMPTY: Final = "v.__class__ is dict and not v"
"""For `Rule.usual`: nothing was given where names and values can be."""
_SHOWN: Final = 60
_ASIDE: Final = "rule"
"""Where the metadata of a field hold its rule."""


@frozen
class Rule:
    """An attrs validator that can also be asked."""

    explain: Explain
    """The fault of a value; None where there is none."""
    count: Explain = lambda _, __: None
    """The fault of the number of items, whatever they are."""
    usual: str = "False"
    """Python's text for what holds of a usual value `v`, and only of values without a fault."""

    def __call__(self, instance: Any, _: "Attribute[Any]", value: Any) -> None:
        if self.explain(instance, value) is not None:
            raise InvalidRequest(faults=faults_of(instance))


def faults_of(instance: Any) -> tuple[Flaw, ...]:
    """Ask every rule of an instance."""
    name = type(instance).__name__
    return tuple(
        Flaw(f"{name}.{attribute.name}", message)
        for attribute in fields_of(instance)
        if (message := explain(attribute, instance, getattr(instance, attribute.name))) is not None
    )


def fields_of(instance: Any) -> "tuple[Attribute[Any], ...]":
    """The fields of an attrs instance."""
    return tuple(attrs.fields(instance.__class__))


def apart(_: type, fields: "list[Attribute[Any]]") -> "list[Attribute[Any]]":
    """Put the rules of a class aside, for `check` (`field_transformer` of attrs)."""
    return [
        each.evolve(validator=None, metadata={**each.metadata, _ASIDE: each.validator})
        if isinstance(each.validator, Rule)
        else each
        for each in fields
    ]


def check(instance: Any) -> None:
    """Ask the rules that were put aside, of all fields that are not what they are by default.

    Raises:
        InvalidRequest: with all that is wrong.
    """
    if not _follows_rules(instance.__class__)(instance):
        raise InvalidRequest(faults=faults_of(instance))


@cache
def _follows_rules(cls: type) -> Callable[[Any], bool]:
    """A function that asks the rules of a class.

    Its text names each field and says what is usual there, as attrs' own methods do: a loop over rules would
    take three times as long.
    """
    made: dict[str, Any] = {"inf": math.inf}
    lines = ["def follows(it):"]
    for each in attrs.fields(cls):
        rule = each.metadata.get(_ASIDE)
        if rule is not None:
            default, explain = f"default_{each.name}", f"explain_{each.name}"
            made[default], made[explain] = each.default, rule.explain
            lines += [
                f"    if (v := it.{each.name}) is not {default}:",
                f"        if not ({rule.usual}) and {explain}(it, v) is not None:",
                "            return False",
            ]
    exec("\n".join([*lines, "    return True"]), made)  # noqa: S102
    follows: Callable[[Any], bool] = made["follows"]
    return follows


def _rule_of(attribute: "Attribute[Any]") -> object:
    return attribute.metadata.get(_ASIDE) or attribute.validator


def explain(attribute: "Attribute[Any]", instance: Any, value: Any) -> str | None:
    """Ask the rule of one field."""
    rule = _rule_of(attribute)
    return rule.explain(instance, value) if isinstance(rule, Rule) else None


def explain_count(attribute: "Attribute[Any]", items: tuple[Any, ...]) -> str | None:
    """Ask the rule of one field only for the number of items, some of which may be wrong."""
    rule = _rule_of(attribute)
    return rule.count(None, items) if isinstance(rule, Rule) else None


def shown(value: Any) -> str:
    """A value as it stands in a message: short, and never a whole picture."""
    try:
        text = repr(value[: _SHOWN + 1] if isinstance(value, str | bytes) else value)
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists without end
        text = f"this {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


@frozen
class _Optional(Rule):
    """A rule that most values are not held against, because most fields are left out."""

    def __call__(self, instance: Any, attribute: "Attribute[Any]", value: Any) -> None:
        if value is not None:
            Rule.__call__(self, instance, attribute, value)


def optional(rule: Rule) -> Rule:
    """None leaves the field out; anything else must follow the rule."""
    return _Optional(
        lambda instance, value: None if value is None else rule.explain(instance, value), usual=rule.usual
    )


def both(first: Rule, second: Rule) -> Rule:
    """Ask the second rule only where the first has nothing to say."""
    return Rule(lambda instance, value: first.explain(instance, value) or second.explain(instance, value))


def whole(low: int, high: int | None = None) -> Rule:
    """A whole number in a range that includes its ends."""

    def explain(_: Any, value: Any) -> str | None:
        if value.__class__ is not int and (not isinstance(value, int) or isinstance(value, bool)):
            return f"{shown(value)} is not a whole number{_within(low, high)}"
        return _outside(value, low, high)

    return Rule(explain, usual=f"v.__class__ is int and {low} <= v <= {math.inf if high is None else high}")


def number(low: float, high: float) -> Rule:
    """A finite number in a range that includes its ends."""

    def explain(_: Any, value: Any) -> str | None:
        if value.__class__ not in _NUMBERS and not is_number(value):
            return f"{shown(value)} is not a number{_within(low, high)}"
        return _outside(value, low, high)  # NaN and infinity are outside of everything

    return Rule(explain, usual=f"(v.__class__ is float or v.__class__ is int) and {low} <= v <= {high}")


def _within(low: float, high: float | None) -> str:
    return f", {low} or above" if high is None else f" in [{low}, {high}]"


_NUMBERS: Final = frozenset({int, float})
"""Classes of nearly all numbers; asking for a class costs a tenth of asking for its bases."""


def is_number(value: Any) -> bool:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _outside(value: float, low: float, high: float | None) -> str | None:
    if high is None:
        return None if value >= low else f"{shown(value)} is not {low} or above"
    return None if low <= value <= high else f"{shown(value)} is not in [{low}, {high}]"


def text(low: int = 1, high: int | None = None) -> Rule:
    """Text of so many Unicode code points."""

    def explain(_: Any, value: Any) -> str | None:
        if not isinstance(value, str):
            return f"{shown(value)} is not text"
        if not value and low and high is None:
            return "must not be empty"
        if high is not None and not low <= len(value) <= high:
            return f"{len(value)} characters are not in [{low}, {high}]"
        encodable = value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
        return None if encodable else f"{shown(value)} cannot be written as UTF-8"

    longest = math.inf if high is None else high
    return Rule(explain, usual=f"v.__class__ is str and v.isascii() and {low} <= len(v) <= {longest}")


def tag() -> Rule:
    """Text that names something: short, on one line, without control characters."""
    plain = text(1, _LONGEST_TAG)

    def explain(instance: Any, value: Any) -> str | None:
        if not isinstance(value, str):
            return f"{shown(value)} is neither text nor a number"
        if value.isascii() and value.isprintable():
            return plain.explain(instance, value)
        breaks = any(unicodedata.category(character) in _BREAKS for character in value)
        message = f"{shown(value)} has a line break or a control character" if breaks else None
        return message or plain.explain(instance, value)

    return Rule(explain)


_LONGEST_TAG: Final = 256
_BREAKS: Final = frozenset({"Cc", "Zl", "Zp"})
"""Unicode's categories of characters that spoil a line."""


def json_object() -> Rule:
    """A mapping that can be written as JSON, in not too many bytes."""

    def explain(_: Any, value: Any) -> str | None:
        if not isinstance(value, Mapping):
            return f"{shown(value)} is not a JSON object"
        written = json_text(value)
        if written is None:
            return "cannot be written as JSON"
        size = len(written.encode())
        return f"is {size:,} bytes of JSON, more than {_MOST_JSON:,}" if size > _MOST_JSON else None

    return Rule(explain, usual=EMPTY)


_MOST_JSON: Final = 16 * 1024


def json_text(value: Any) -> str | None:
    """A value as JSON that can be written as UTF-8. None: there is no such JSON."""
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        written.encode()
    except (TypeError, ValueError, RecursionError):
        return None
    return written


def flag() -> Rule:
    """True or False."""
    return Rule(lambda _, value: None if isinstance(value, bool) else f"{shown(value)} is not True or False")


def url() -> Rule:
    """An absolute web address."""

    def explain(_: Any, value: Any) -> str | None:
        if not is_web_address(value):
            return f"{shown(value)} is not an absolute http or https URL"
        return None

    return Rule(explain)


def is_web_address(value: object) -> bool:
    """Whether a value is an absolute http or https URL."""
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def path() -> Rule:
    """An absolute path below the base URL, without a query."""

    def explain(_: Any, value: Any) -> str | None:
        if not isinstance(value, str) or not value.startswith("/"):
            return f"{shown(value)} is not a path that starts with '/'"
        plain = value.isascii() and value.isprintable() and not {"?", "#", " "} & set(value)
        return None if plain else f"{shown(value)} has a query, a blank or a character that no URL can carry"

    return Rule(explain)


def part(kind: type) -> Rule:
    """A value of one class."""
    return Rule(
        lambda _, value: None if isinstance(value, kind) else f"{shown(value)} is not of type {kind.__name__}"
    )


def parts(kind: type, at_most: int | None = None, at_least: int = 0) -> Rule:
    """So many values of one class, of which `listed` has made a tuple."""

    def count(_: Any, items: Any) -> str | None:
        if len(items) < at_least:
            return f"needs at least {at_least}, has {len(items)}"
        if at_most is not None and len(items) > at_most:
            return f"takes at most {at_most}, has {len(items)}"
        return None

    def explain(instance: Any, value: Any) -> str | None:
        if not isinstance(value, tuple):
            return f"{shown(value)} is not a list of {kind.__name__}"
        if not value and not at_least:
            return None
        items: list[Any] = list(cast("Any", value))
        wrong = [item for item in items if not isinstance(item, kind)]
        return f"{shown(wrong[0])} is not of type {kind.__name__}" if wrong else count(instance, items)

    return Rule(explain, count)


def listed(value: Iterable[T]) -> tuple[T, ...]:
    """Make a tuple of what can be one; leave the rest for the rule to explain."""
    if value.__class__ is tuple:
        return cast("tuple[T, ...]", value)
    given = cast("object", value)
    if isinstance(given, Iterable) and not isinstance(given, str | Mapping):
        return tuple(value)
    return cast("tuple[T, ...]", value)
