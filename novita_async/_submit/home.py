"""The event loop that a client is at home in: one at a time, and any number in a row.

Connections, timers and tasks belong to one loop: bytes that are written from another reach the server, and
the answer reaches nobody. So before anything is bought a client asks whether the loop is still its own:

| the loop before            | then                                                         |
|----------------------------|--------------------------------------------------------------|
| is closed                  | the client moves: windows, breakers and paid tasks come along |
| stands still, idle, ours   | the client moves                                             |
| runs, or is of another thread | refused                                                   |
| is that of another process | refused, unless it is closed                                 |
"""

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Final

from attrs import define, field

from novita_async.errors import ConfigurationError

_SHARE: Final = (
    "nothing was bought; make a client in each loop, or share a novita_async.sync.Client, which threads may "
    "use together"
)


def running_loop() -> asyncio.AbstractEventLoop:
    """Give the event loop that runs here.

    Raises:
        ConfigurationError: none of asyncio's runs here. Nothing was bought.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            problem="no event loop of asyncio runs here; trio and others cannot carry this client",
            advice="nothing was bought; use asyncio.run, anyio.run with its asyncio backend, or "
            "novita_async.sync.Client",
        ) from None


@define(eq=False, repr=False)
class Home:
    """The loop of one client."""

    is_busy: Callable[[], bool] = lambda: False
    """Whether purchases are under way, so that the loop may not be left."""
    on_move: list[Callable[[], object]] = field(factory=list[Callable[[], object]], init=False)
    """Called on a move, in the new loop: forget what belongs to the loop before."""
    loop: asyncio.AbstractEventLoop | None = field(default=None, init=False)
    """The loop; None before the first call."""
    refusal: tuple[str, str] | None = field(default=None, init=False)
    """Why nothing may be begun, with advice: the client is closed, or was not entered and must be."""
    _thread: int = field(default=0, init=False)
    _process: int = field(default=0, init=False)
    _moving: threading.Lock = field(factory=threading.Lock, init=False, repr=False)

    def enter(self) -> None:
        """Be at home in the running loop from now on.

        Raises:
            ConfigurationError: none of asyncio's runs here, or the client is at work in another, or closed.
                Nothing was bought.
        """
        loop = running_loop()
        if self.refusal is not None:
            problem, advice = self.refusal
            raise ConfigurationError(problem=problem, advice=f"nothing was bought; {advice}")
        if loop is not self.loop:
            if self.loop is not None and not self.loop.is_closed() and os.getpid() != self._process:
                raise ConfigurationError(
                    problem="this client was at work in an event loop when the process was forked",
                    advice="nothing was bought; make a client in each process; without a loop of your own: "
                    "novita_async.sync.Client",
                )
            with self._moving:
                self._move(loop)

    def _move(self, loop: asyncio.AbstractEventLoop) -> None:
        before, thread = self.loop, threading.get_ident()
        if before is not None and not before.is_closed():
            if before.is_running() or self._thread != thread:
                raise ConfigurationError(
                    problem="this client is at work in another event loop, of another thread", advice=_SHARE
                )
            if self.is_busy():
                raise ConfigurationError(
                    problem="this client has purchases under way in another event loop, which stands still",
                    advice=_SHARE,
                )
        self.loop, self._thread, self._process = loop, thread, os.getpid()
        if before is not None:
            for forget in self.on_move:
                forget()
