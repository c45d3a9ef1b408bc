"""A wait that ends when the time has come, or when something has."""

import asyncio
import math

from attrs import define, field

from novita_async._util.scopes import resolve


@define(eq=False, repr=False)
class Alarm:
    """Wakes one task. An event within a timeout does the same at four times the cost."""

    _is_rung: bool = field(default=False, init=False)
    """Whether there was something since the last wait."""
    _waiting: "asyncio.Future[None] | None" = field(default=None, init=False)

    def ring(self) -> None:
        """Wake the task now, or let its next wait end at once."""
        self._is_rung = True
        if self._waiting is not None:
            resolve(self._waiting, None)

    async def wait(self, until: float = math.inf) -> None:
        """Wait until the alarm rings, or until that time of the loop; for one turn of the loop at least."""
        loop = asyncio.get_running_loop()
        if self._is_rung or until <= loop.time():
            await asyncio.sleep(0)
        else:
            await self._wait(loop, until)
        self._is_rung = False

    async def _wait(self, loop: asyncio.AbstractEventLoop, until: float) -> None:
        self._waiting = waiting = loop.create_future()
        timer = loop.call_at(until, resolve, waiting, None) if until < math.inf else None
        try:
            await waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()
