"""How tasks end: groups whose exceptions reach the user unwrapped, work that is not broken off, SIGTERM."""

import asyncio
import signal
import threading
from asyncio.tasks import _unregister_task
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary, WeakSet, ref

import anyio
from anyio.abc import TaskGroup
from attrs import define, field

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_TERMINATED: Final = 128 + signal.SIGTERM
_LAST_WORD: Final = 5.0
"""Seconds that tasks get to end after SIGTERM, once all blocks were left."""
_draining: Final["WeakSet[asyncio.Task[None]]"] = WeakSet()
"""Work that a cancelled task waits for, each for its grace."""
_told: Final["list[ref[asyncio.AbstractEventLoop]]"] = []
"""Loops to which SIGTERM has come."""


@asynccontextmanager
async def task_group() -> AsyncGenerator[TaskGroup]:
    """A task group that raises what went wrong, not a group that holds it.

    When several things went wrong at once, the first one is raised and the others are its notes.
    """
    with _unwrapped():
        async with anyio.create_task_group() as tasks:
            yield tasks


@asynccontextmanager
async def light_task_group() -> AsyncGenerator[asyncio.TaskGroup]:
    """The same for many short tasks, at a third of the cost: asyncio's own tasks, each cancelled once."""
    with _unwrapped():
        async with asyncio.TaskGroup() as tasks:
            yield tasks


def start_in(tasks: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> None:
    """Run work in a light group; not at all where its tasks are being cancelled."""
    try:
        tasks.create_task(work)
    except RuntimeError:
        work.close()


@contextmanager
def _unwrapped() -> Generator[None]:
    failure: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        failure, *others = group.exceptions
        for other in others:
            failure.add_note(f"at the same time: {other!r}")
    if failure is not None:
        raise failure


@asynccontextmanager
async def background(
    work: Coroutine[Any, Any, None], ended: Callable[[BaseException | None], object]
) -> AsyncGenerator[None]:
    """Run work beside the block, in a task of its own; leaving the block cancels it and waits for its end.

    No scope is entered in the caller's task, so the block may be entered in one task and left in another, as
    generators and fixtures do. `ended` is called once the work is done, with what it raised.
    """
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(lambda done: ended(None if done.cancelled() else done.exception()))
    try:
        yield
    finally:
        task.cancel()
        await _outlive(task)


def resolve(future: "asyncio.Future[T]", value: T) -> None:
    """Give a result to a future that may have been cancelled meanwhile."""
    if not future.done():
        future.set_result(value)


async def _outlive(task: "asyncio.Task[None]") -> None:
    """Wait until a task has ended; a cancellation that comes meanwhile is passed on afterwards."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as again:
                cancelled = again
    if cancelled is not None:
        raise cancelled


def _unlisted(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Run work in a task that `asyncio.all_tasks` does not list.

    Whatever cancels every task, as `asyncio.run` does in its end, cancels the task that waits for this one,
    and that one waits on. Listed, this one would be broken off at once.
    """
    task = asyncio.get_running_loop().create_task(work)
    _unregister_task(task)
    return task


async def run_shielded(work: Coroutine[Any, Any, None], grace: Callable[[], float]) -> None:
    """Run *work* in a task of its own. If the caller is cancelled, the work gets `grace()` more seconds.

    Then the work is cancelled, and once it has ended the cancellation of the caller goes on. No scope can
    shield from a cancellation that comes from asyncio itself, such as a timeout of the user's; only a task
    apart can. A task group would do the same at twice the cost.
    """
    task = _unlisted(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await _ended(task, grace())
        raise


async def finish_detached(work: Coroutine[Any, Any, None], grace: float) -> None:
    """Finish work that a cancelled task handed over, within *grace* seconds; then cancel it.

    However short the grace is, the work is begun, so that it can tidy up.
    """
    await _ended(_unlisted(work), grace)


async def _ended(task: "asyncio.Task[None]", grace: float) -> None:
    _draining.add(task)
    left, until = grace, anyio.current_time() + grace
    with anyio.CancelScope(shield=True):
        while not task.done():
            if left <= 0:
                task.cancel()
            with suppress(asyncio.CancelledError):  # told again; it is known
                await asyncio.wait({task}, timeout=left if left > 0 else None)
            left = until - anyio.current_time()
    if not task.cancelled():
        task.exception()  # taken note of: being cancelled goes first


async def run_in_thread(work: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run work that blocks in a thread. A cancellation that comes meanwhile goes on when the work is done."""
    done = asyncio.get_running_loop().run_in_executor(None, work, *args)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            while not done.done():
                with suppress(asyncio.CancelledError):  # told again; it is known
                    await asyncio.wait({done})
        done.exception()  # taken note of: being cancelled goes first
        raise


# --- SIGTERM ------------------------------------------------------------------------------------------------


@define(eq=False, repr=False)
class _Termination:
    """SIGTERM in one loop: all blocks are cancelled, and once their tasks have ended, the process ends.

    SystemExit is raised by the loop itself, never in a task: in a task of a group it would break off the
    loop's own tidying up, and leave worker threads that wait for ever.
    """

    loop: asyncio.AbstractEventLoop
    told: bool = False
    """Whether the signal has come."""
    ended: bool = False
    """Whether the loop was ended."""
    blocks: "Counter[asyncio.Task[Any]]" = field(factory=Counter)
    """Open blocks by their tasks."""
    ending: "set[asyncio.Task[Any]]" = field(factory=set)
    """Tasks that have left their blocks since the signal came."""

    def cancel(self) -> None:
        """Take in the signal."""
        self.told = True
        _told.append(ref(self.loop))
        for task in tuple(self.blocks):
            task.cancel()

    def leave(self, task: "asyncio.Task[Any]") -> None:
        """Note that a block was left."""
        self.blocks -= Counter((task,))
        if self.told and task not in self.ending:
            self.ending.add(task)
            task.add_done_callback(self._ended)
        if self.blocks:
            return
        if self.told:
            self.loop.call_later(_LAST_WORD, self._end, ())
        else:
            self._forget()

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self.ending.discard(task)
        if not self.ending and not self.blocks:
            self._end()

    def _end(self, others: "Iterable[asyncio.Task[Any]] | None" = None) -> None:
        """End the loop, once; but first wait for what is drained: nobody would do so afterwards.

        Others that were cancelled are waited for as well, as all are when `asyncio.run` ends at this moment:
        they may have something to drain.
        """
        if self.ended:
            return
        if others is None:
            others = (task for task in asyncio.all_tasks(self.loop) if task.cancelling())
        drained = (task for task in _draining if task.get_loop() is self.loop)
        first = next((task for task in (*others, *drained) if not task.done()), None)
        if first is not None:
            first.add_done_callback(lambda _: self._end())
            return
        self.ended = True
        self._forget()
        raise SystemExit(_TERMINATED)

    def _forget(self) -> None:
        self.loop.remove_signal_handler(signal.SIGTERM)
        _terminations.pop(self.loop, None)


_terminations: "WeakKeyDictionary[asyncio.AbstractEventLoop, _Termination]" = WeakKeyDictionary()


def is_terminated() -> bool:
    """Whether SIGTERM has come to the running loop: nothing new may be begun."""
    if not _told:
        return False
    loop = asyncio.get_running_loop()
    return any(told() is loop for told in _told)


@contextmanager
def terminated_gently() -> Generator[None]:
    """Let SIGTERM do what Ctrl-C does: cancel the tasks in such blocks, which then may tidy up.

    Afterwards the process ends as one that was terminated does, with status 143, whatever else still runs. A
    program that has a handler of its own keeps it.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    termination = _terminations.get(loop) or _installed(loop)
    if termination is None or task is None:
        yield
        return
    termination.blocks[task] += 1
    try:
        yield
    finally:
        termination.leave(task)
    if termination.told:
        raise asyncio.CancelledError


def _installed(loop: asyncio.AbstractEventLoop) -> _Termination | None:
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return None
    termination = _Termination(loop)
    with suppress(NotImplementedError):  # on Windows
        loop.add_signal_handler(signal.SIGTERM, termination.cancel)
        _terminations[loop] = termination
        return termination
    return None
