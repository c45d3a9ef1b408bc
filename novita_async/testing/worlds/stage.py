"""A world as its service and its disk see it."""

from collections.abc import Callable
from typing import Protocol

from novita_async.testing.worlds.plan import Mark, Plan
from novita_async.testing.worlds.record import WorldRecord


class Actor(Protocol):
    """The process whose turn it is."""

    @property
    def dead(self) -> bool: ...
    def mark(self, mark: Mark) -> None: ...


class Stage(Protocol):
    """View of a world: its plan, its record, its time."""

    @property
    def plan(self) -> Plan: ...
    @property
    def record(self) -> WorldRecord: ...
    @property
    def epoch(self) -> float: ...
    @property
    def now(self) -> float: ...
    @property
    def process(self) -> Actor | None: ...
    def at(self, when: float, action: Callable[[], None]) -> None: ...
    def take_event(self, token: str, body: bytes) -> None: ...
