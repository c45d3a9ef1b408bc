"""Wall-clock time that goes with the event loop's clock.

Rows of a journal hold unix times, windows hold times of the loop. Reading both clocks apart would let them
drift, and in virtual time an hour of waiting would pass on one of them only: so unix time is the loop's time
plus an offset, which is taken once for each loop.
"""

import asyncio
import time
from weakref import WeakKeyDictionary

_offsets: "WeakKeyDictionary[asyncio.AbstractEventLoop, float]" = WeakKeyDictionary()


def loop_time() -> float:
    """Seconds on the loop's clock, at a quarter of the cost of `anyio.current_time`."""
    return asyncio.get_running_loop().time()


def wall_offset() -> float:
    """Seconds to add to the loop's time to get unix time."""
    loop = asyncio.get_running_loop()
    if loop not in _offsets:
        _offsets[loop] = time.time() - loop.time()
    return _offsets[loop]


def wall_time() -> float:
    """Unix time now, in seconds."""
    return loop_time() + wall_offset()
