"""Directives for autodoc: every public name, each on one page."""

import inspect
from enum import Enum
from functools import cache
from importlib import import_module
from typing import Any, Final

from attrs import frozen

import novita_async
from docs.generators.markdown import block


@frozen
class Room:
    """Names of a public module."""

    module: str
    """The module."""
    homes: tuple[str, ...] = ()
    """Rooms of the package whose names are meant, as `novita_async.ROOMS` has them. Empty: all names."""

    def names(self) -> list[str]:
        """The names, sorted."""
        module = import_module(self.module)
        if self.homes:
            return sorted(name for home in self.homes for name in novita_async.ROOMS[home].split())
        own = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and _is_made_in(module, value)
        ]
        return sorted(own)


def _is_made_in(module: Any, value: object) -> bool:
    is_code = inspect.isclass(value) or inspect.isfunction(value)
    return is_code and getattr(value, "__module__", None) == module.__name__


PAGES: Final[dict[str, tuple[Room, ...]]] = {
    "api-client": (Room("novita_async", ("_client", "_stream.batch", "_stream.handle", "tasks")),),
    "api-requests": (
        Room(
            "novita_async",
            ("models.requests", "models.faces", "models.images", "models.choices", "_api.codec"),
        ),
    ),
    "api-results": (Room("novita_async", ("models.results", "models.catalogue")),),
    "api-errors": (Room("novita_async", ("errors",)),),
    "api-policies": (
        Room(
            "novita_async",
            (
                "_policy.polling.planner",
                "_policy.polling.schedule",
                "_policy.retrying",
                "_policy.spending",
                "models.accounts",
                "models.hosts",
                "models.endpoints",
                "models.routes",
            ),
        ),
    ),
    "api-events": (
        Room("novita_async.events"),
        Room("novita_async.logs"),
        Room("novita_async.telemetry.otel"),
        Room("novita_async.telemetry.prometheus"),
    ),
    "api-journal": (Room("novita_async", ("_journal.sqlite.journal",)), Room("novita_async.journal")),
    "api-storage": (Room("novita_async.storage"), Room("novita_async.testing.storages")),
    "api-webhooks": (Room("novita_async.webhooks"),),
    "api-sync": (Room("novita_async.sync"),),
    "api-statistics": (Room("novita_async.statistics"),),
    "api-transport": (Room("novita_async.transport"),),
    "api-mcp": (Room("novita_async.mcp"),),
    "api-testing": (Room("novita_async.testing"), Room("novita_async.testing.conformance")),
}
"""Which names stand on which page."""
NOT_DESCRIBED: Final = frozenset({"__version__"})
"""Names that have no page: the version stands at the top of each."""


def page(name: str) -> str:
    """The directives of a page."""
    homes = _homes()
    parts: list[str] = []
    for room in PAGES[name]:
        if not room.homes:
            parts.append(f"## {room.module}\n")
        for each in room.names():
            home = homes[_key(room.module, each)]
            if home == (name, f"{room.module}.{each}"):
                parts.append(block("{eval-rst}", _directive(room.module, each)))
            else:
                page_of_it, where = home
                parts.append(f"`{each}`: see [{where}]({page_of_it}.md).\n")
    return "\n\n".join(parts)


def _homes() -> dict[object, tuple[str, str]]:
    """Where each object is described: the first page that has it."""
    found: dict[object, tuple[str, str]] = {}
    for name, rooms in PAGES.items():
        for room in rooms:
            for each in room.names():
                found.setdefault(_key(room.module, each), (name, f"{room.module}.{each}"))
    return found


def _key(module: str, name: str) -> object:
    """Identity of an object; a constant is known by its name alone."""
    value = getattr(import_module(module), name)
    return value if inspect.isclass(value) or inspect.isfunction(value) else name


def _directive(module: str, name: str) -> str:
    value = getattr(import_module(module), name)
    if inspect.isclass(value):
        if issubclass(value, BaseException):
            return f".. autoexception:: {module}.{name}\n   :show-inheritance:"
        if issubclass(value, Enum):
            return f".. autoclass:: {module}.{name}\n   :undoc-members:"
        options = "\n   :inherited-members: int, str" if any(map(_is_hidden, value.__mro__)) else ""
        return f".. autoclass:: {module}.{name}{options}"
    kind = "autofunction" if inspect.isfunction(value) else "autodata"
    return f".. {kind}:: {module}.{name}"


def _is_hidden(base: type) -> bool:
    """Whether a class of the package has no page of its own, so that its members stand with its children."""
    return base.__module__.startswith("novita_async.") and base.__name__ not in _all_names()


@cache
def _all_names() -> set[str]:
    return {name for _, name in described()}


def described() -> set[tuple[str, str]]:
    """Every name that some page has, with its module."""
    return {
        (room.module, name)
        for rooms in PAGES.values()
        for room in rooms
        for name in room.names()
        if name not in NOT_DESCRIBED
    }
