"""Durations learned, from one process to the next: one small JSON file.

The file saves polls and is nothing more: missing, damaged or not to be written, it is passed over.
"""

import json
import uuid
from contextlib import suppress
from pathlib import Path

from novita_async._api import codec
from novita_async._policy.polling.memory import PollMemory


def load_memory(path: Path) -> PollMemory:
    """Read what was saved; empty where there is nothing to be read. Blocks."""
    try:
        return PollMemory.from_dict(codec.parse(path.read_bytes()))
    except (OSError, codec.Unreadable):
        return PollMemory()


def save_memory(path: Path, memory: PollMemory) -> None:
    """Save what was learned, where that is possible. Blocks."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(json.dumps(memory.to_dict()).encode())
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
