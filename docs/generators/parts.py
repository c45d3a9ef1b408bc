"""The parts that pages name."""

from collections.abc import Callable
from typing import Final

PARTS: Final[dict[str, Callable[[], str]]] = {}
