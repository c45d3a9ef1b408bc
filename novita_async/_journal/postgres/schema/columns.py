"""Columns of a row that facts change, as parts of functions."""

from typing import Final

MOVED: Final = (
    ("state", "text"), ("account", "text"), ("task_id", "text"), ("attempts", "int"),
    ("announced_time", "float8"), ("answered_time", "float8"), ("finished_time", "float8"),
    ("saved_time", "float8"), ("seed", "text"), ("error", "text"), ("paths", "text"), ("result", "text"),
    ("earlier", "text"), ("token", "text"), ("number", "int"), ("host", "text"), ("bought", "int"),
    ("perhaps", "int"), ("slot_time", "float8"),
)  # fmt: skip
"""Columns that facts change, with their types."""
PARAMETERS: Final = ", ".join(f"p_{name} {kind}[]" for name, kind in MOVED)
ARRAYS: Final = ", ".join(f"p_{name}" for name, _ in MOVED)
NAMES: Final = ", ".join(name for name, _ in MOVED)
CHANGES: Final = ", ".join(f"{name} = u.{name}" for name, _ in MOVED)
DEFINITIONS: Final = ", ".join(
    f"{name} {kind}{' not null' if name in ('state', 'attempts', 'bought', 'perhaps') else ''}"
    for name, kind in MOVED
)
