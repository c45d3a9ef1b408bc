"""Event loops in one virtual time, turned by hand: every order of events is an order of turns.

A `WorldLoop` never waits. `World` turns each loop that is awake, one turn at a time, and when all are asleep
lets time jump to the next timer. A loop behaves as one in a thread of its own: whoever hands it a callback
without `call_soon_threadsafe` from elsewhere does not wake it.

Tasks, and anyio's cancel scopes, hash by a serial number while a world runs, so that sets of them have the
same order in every run. `Life` is `asyncio.run`, step by step.
"""

import asyncio
import heapq
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Final, TypeVar, TypeVarTuple, cast

from attrs import define, field

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NEVER: Final = float("inf")


class _Nothing:
    """A selector of no files."""

    def select(self, timeout: float | None = None) -> tuple[()]:  # noqa: ARG002 - what a loop calls
        return ()

    def get_map(self) -> dict[object, object]:
        return {}


class WorldTask(asyncio.Task[T]):
    """A task that hashes by its number."""

    number: int

    def __hash__(self) -> int:
        return self.number


@define(eq=False)
class WorldClock:
    """The time of a world."""

    now: float = 0.0
    """Seconds since it began."""
    tasks: int = 0
    """How many tasks were made."""


class WorldLoop(asyncio.BaseEventLoop):
    """An event loop whose turns are given to it."""

    # All are BaseEventLoop's own, for as long as asyncio has existed, and declared nowhere.
    _ready: "deque[asyncio.Handle]"
    _scheduled: "list[asyncio.TimerHandle]"
    _stopping: bool
    _selector: _Nothing
    is_lived_in = False
    """Whether `asyncio.run` is not through with it: to others it runs, also between its turns."""

    def __init__(self, clock: WorldClock) -> None:
        super().__init__()
        self._clock = clock
        self._selector = _Nothing()
        self.slept = 0.0
        """Seconds for which this loop's clock stood still."""
        self._least = 0.0
        self.is_asleep = False
        self.wakes_at = NEVER
        """When a timer ends its sleep, on its own clock."""
        self.signals: dict[int, Callable[[], object]] = {}
        """Handlers of signals."""
        self.execute: Callable[[WorldLoop, Callable[[], Any]], asyncio.Future[Any]] | None = None
        """Does what is given to a thread."""
        self.connector: Callable[..., Any] | None = None
        """Makes connections."""
        self.set_task_factory(self._new_task)

    def _new_task(self, _: object, coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
        # One checker does not know its type, the other does.
        task = cast("WorldTask[Any]", WorldTask.__new__(WorldTask))  # type: ignore[redundant-cast]  # for the other checker
        self._clock.tasks += 1
        task.number = self._clock.tasks
        task.__init__(coroutine, loop=self, **options)  # type: ignore[misc]  # a hash is needed before that
        return task

    def is_running(self) -> bool:
        return self.is_lived_in

    def close(self) -> None:
        self.is_lived_in = False
        super().close()

    def time(self) -> float:
        return max(self._clock.now - self.slept, self._least)

    def reach(self) -> None:
        """Take note that the time is come at which it wakes, however times were rounded."""
        if self.is_asleep and self.wakes_at + self.slept <= self._clock.now:
            self._least = self.wakes_at

    # --- Turns ----------------------------------------------------------------------------------------------

    @property
    def is_awake(self) -> bool:
        """Whether there is something to do now."""
        if self.is_asleep and self.wakes_at <= self.time():
            self.is_asleep = False
        if self.is_asleep:
            return False
        if self._ready or self.next_at() <= self.time():
            return True
        self.fall_asleep()
        return False

    def next_at(self) -> float:
        """When the next timer is due, on this loop's clock."""
        scheduled = self._scheduled
        while scheduled and scheduled[0].cancelled():
            heapq.heappop(scheduled)._scheduled = False  # type: ignore[attr-defined]  # a turn of asyncio by hand
            self._timer_cancelled_count -= 1
        return scheduled[0].when() if scheduled else NEVER

    # BaseEventLoop's own, and declared nowhere.
    _timer_cancelled_count: int
    _asyncgen_firstiter_hook: Any
    _asyncgen_finalizer_hook: Any

    def turn(self) -> bool:
        """Run what is ready. Returns whether the loop was told to stop."""
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(self._asyncgen_firstiter_hook, self._asyncgen_finalizer_hook)
        try:
            self._run_once()  # type: ignore[attr-defined]  # a turn of asyncio by hand
        finally:
            sys.set_asyncgen_hooks(*hooks)
            stopping, self._stopping = self._stopping, False
        if not self._ready:
            self.fall_asleep()
        return stopping

    def fall_asleep(self) -> None:
        """Sleep until the next timer, or until woken."""
        self.is_asleep, self.wakes_at = True, self.next_at()

    def wake(self) -> None:
        """End its sleep."""
        self.is_asleep = False

    # What a loop with files would do.

    def _process_events(self, event_list: tuple[()]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        self.wake()

    def run_in_executor(
        self,
        executor: object,  # noqa: ARG002 - threads are all the same here
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> "asyncio.Future[T]":
        assert self.execute is not None
        return self.execute(self, lambda: func(*args))

    def add_signal_handler(self, sig: int, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        self.signals[sig] = lambda: callback(*args)

    def remove_signal_handler(self, sig: int) -> bool:
        return self.signals.pop(sig, None) is not None

    async def create_connection(self, protocol_factory: Any, *_: Any, **options: Any) -> Any:
        assert self.connector is not None
        return self.connector(self, protocol_factory, options.get("sock"))


@define(eq=False)
class Life:
    """A call of `asyncio.run`, step by step, as `asyncio.Runner` has it."""

    loop: WorldLoop
    main: "asyncio.Task[Any]"
    _course: "Generator[asyncio.Future[Any], None, None]" = field(init=False)
    _until: "asyncio.Future[Any] | None" = field(default=None, init=False)
    left: "frozenset[asyncio.Task[Any]]" = field(default=frozenset(), init=False)
    """Tasks that still ran when the main task had ended."""
    over: bool = field(default=False, init=False)
    error: BaseException | None = field(default=None, init=False)
    """Error that `asyncio.run` raises."""

    def __attrs_post_init__(self) -> None:
        self.loop.is_lived_in = True
        self._course = self._live()
        self._go_on(None)

    def _live(self) -> "Generator[asyncio.Future[Any], None, None]":
        try:
            yield self.main
            self.main.result()
        finally:
            yield from self._close()

    def _close(self) -> "Generator[asyncio.Future[Any], None, None]":
        try:
            self.left = frozenset(asyncio.all_tasks(self.loop))
            if self.left and not self.over:
                for task in self.left:
                    task.cancel()
                yield asyncio.gather(*self.left, return_exceptions=True)
            if not self.over:
                yield self.loop.create_task(self.loop.shutdown_asyncgens())
        finally:
            self.loop.close()

    def _go_on(self, error: BaseException | None) -> None:
        try:
            self._until = self._course.throw(error) if error else next(self._course)
        except StopIteration:
            self.over = True
        except BaseException as raised:  # noqa: BLE001 - kept for whoever asks
            self.over, self.error = True, raised
        else:
            self._until.add_done_callback(self._stop)

    def _stop(self, until: "asyncio.Future[Any]") -> None:
        if not until.cancelled() and isinstance(until.exception(), SystemExit | KeyboardInterrupt):
            return  # as `run_until_complete` has it: that goes through the loop
        self.loop.stop()

    def turn(self) -> None:
        """Run what is ready, and go on with the next step where this one is done."""
        try:
            stopping = self.loop.turn()
        except (SystemExit, KeyboardInterrupt) as error:
            if self._until is not None:
                self._until.remove_done_callback(self._stop)
            self.loop.wake()
            self._go_on(error)
        else:
            if stopping and self._until is not None and self._until.done():
                self.loop.wake()
                self._go_on(None)

    def has_ended(self) -> bool:
        """Whether `asyncio.run` has returned."""
        return self.over

    def drop(self) -> None:
        """Forget the rest of it."""
        self.over = True
        self.loop.close()
        with suppress(BaseException):
            self._course.close()


TERMINATE: Final = int(signal.SIGTERM)
