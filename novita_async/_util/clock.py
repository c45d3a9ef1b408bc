"""Wall-clock time that goes with the event loop's clock.

Rows of a journal hold unix times, windows hold times of the loop. Reading both clocks apart would let them
drift, and in virtual time an hour of waiting would pass on one of them only: so unix time is the loop's time
plus an offset, which is taken once for each loop, and anew where the loop's clock has stood still, as it does
while a computer sleeps. A loop in virtual time stands still by its rules, while anything is computed, and so
keeps its offset.
"""

import asyncio
import time
from typing import Final
from weakref import WeakKeyDictionary, WeakSet

_STOOD_STILL: Final = 10.0
"""Seconds by which the loop's clock must be late."""
_offsets: "WeakKeyDictionary[asyncio.AbstractEventLoop, float]" = WeakKeyDictionary()
_virtual: "WeakSet[asyncio.AbstractEventLoop]" = WeakSet()


def keep_offset(loop: asyncio.AbstractEventLoop) -> None:
    """Take the offset of a loop once: its clock is its own, and tells nothing about the computer's."""
    _virtual.add(loop)


def loop_time() -> float:
    """Seconds on the loop's clock, at a quarter of the cost of `anyio.current_time`."""
    return asyncio.get_running_loop().time()


def wall_offset() -> float:
    """Seconds to add to the loop's time to get unix time."""
    loop = asyncio.get_running_loop()
    known, offset = _offsets.get(loop), time.time() - loop.time()
    if known is not None and (offset < known + _STOOD_STILL or loop in _virtual):
        return known
    _offsets[loop] = offset
    return offset


def wall_time() -> float:
    """Unix time now, in seconds."""
    return loop_time() + wall_offset()


def asleep() -> float:
    """Seconds for which this computer has slept, from some beginning: the loop's clock stood still."""
    counting = getattr(time, "CLOCK_BOOTTIME", None)  # of Linux
    return (time.time() if counting is None else time.clock_gettime(counting)) - time.monotonic()
