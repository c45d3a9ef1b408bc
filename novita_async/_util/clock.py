"""Wall-clock time that goes with the event loop's clock.

Rows of a journal hold unix times, windows hold times of the loop. Reading both clocks apart would let them
drift, and in virtual time an hour of waiting would pass on one of them only: so unix time is the loop's time
plus an offset, which is taken once for each loop. Where the loop goes by the machine's clock, the offset is
taken again once it is wrong: that clock stands still while a laptop sleeps, and the other one may be set.
"""

import asyncio
import time
from typing import Final
from weakref import WeakKeyDictionary, WeakSet

_offsets: "WeakKeyDictionary[asyncio.AbstractEventLoop, float]" = WeakKeyDictionary()
_by_machine: "WeakSet[asyncio.AbstractEventLoop]" = WeakSet()
"""Loops that go by the machine's clock."""
_TOLERANCE: Final = 1.0
"""Seconds by which the two clocks may drift apart."""


def loop_time() -> float:
    """Seconds on the loop's clock, at a quarter of the cost of `anyio.current_time`."""
    return asyncio.get_running_loop().time()


def wall_offset() -> float:
    """Seconds to add to the loop's time to get unix time."""
    loop = asyncio.get_running_loop()
    known = _offsets.get(loop)
    if known is None:
        if abs(loop.time() - time.monotonic()) < _TOLERANCE:
            _by_machine.add(loop)
    elif loop not in _by_machine:
        return known
    now = time.time() - loop.time()
    if known is None or abs(now - known) > _TOLERANCE:
        _offsets[loop] = known = now
    return known


def wall_time() -> float:
    """Unix time now, in seconds."""
    return loop_time() + wall_offset()
