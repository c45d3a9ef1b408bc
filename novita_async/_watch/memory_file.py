"""What was learned of durations, from one process to the next: one small JSON file.

It saves polls and is nothing more: a file that is missing, damaged or not to be written is passed over.
"""

import json
import uuid
from contextlib import suppress
from pathlib import Path

from novita_async._api import codec
from novita_async._policy.polling.schedule import PollMemory


def recall(path: Path) -> PollMemory:
    """Read what was kept; empty where there is nothing to be read. Blocks."""
    try:
        return PollMemory.from_dict(codec.parse(path.read_bytes()))
    except (OSError, codec.Unreadable):
        return PollMemory()


def keep(path: Path, memory: PollMemory) -> None:
    """Keep what was learned, where that is possible. Blocks."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(json.dumps(memory.to_dict()).encode())
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
