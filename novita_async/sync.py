"""The same client without `await`: for scripts, Flask, Celery, Streamlit, and inside loops of others.

```python
with Client() as client:
    result = client.run(Img2Img(model_name="…", image="dog.png", prompt="a cute dog"))
    with client.stream(requests, save_to="out") as outcomes:
        for outcome in outcomes:
            ...
```

There is no second implementation: an event loop in a thread of its own runs a `NovitaClient`, and each call
here is one of its calls. Threads may share a client. Observers are called in the client's thread, iterables
of requests are read in it, and neither may call the client.

An interrupted call (Ctrl-C) is cancelled as `asyncio` would do it: a purchase that was handed over gets its
answer first, and its task stands in `unfinished`.
"""

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from copy import copy
from functools import partial, partialmethod, wraps
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    Self,
    TypeVar,
    cast,
    overload,
)

from attrs import define, field

from novita_async._client import NovitaClient
from novita_async._files.places import SaveTo
from novita_async._stream.handle import Outcomes, StreamStatistics, Updates, refuse_unentered
from novita_async.errors import ConfigurationError, SubmissionUncertain
from novita_async.models.results import Outcome, Succeeded, Update
from novita_async.models.routes import Route
from novita_async.statistics import ClientStatistics
from novita_async.tasks import Task
from novita_async.webhooks import Waker

P = ParamSpec("P")
T = TypeVar("T")
I = TypeVar("I", bound=Update | Outcome)  # noqa: E741 - an item


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._stopped = asyncio.Event()
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._serve, args=(started,), name="novita_async", daemon=True)
        self._thread.start()
        self._loop = started.result()

    def _serve(self, started: "Future[asyncio.AbstractEventLoop]") -> None:
        async def until_stopped() -> None:
            started.set_result(asyncio.get_running_loop())
            await self._stopped.wait()

        asyncio.run(until_stopped())

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run work in the loop and wait for it. An interrupt cancels the work, and waits for its end."""
        self.check_caller()
        answer = _Answer(work)
        self._loop.call_soon_threadsafe(answer.begin)
        try:
            answer.ended.acquire()
        except BaseException:
            self._loop.call_soon_threadsafe(answer.cancel)
            answer.ended.acquire()
            raise
        if answer.error is None:
            return cast("T", answer.value)
        try:
            raise answer.error
        finally:
            del answer  # else its error, and all frames of that, go only with the garbage

    def read(self, make: Callable[[], T]) -> T:
        """Read something in the loop: elsewhere it may change while it is read. Once closed, nothing does."""

        async def made() -> T:
            return make()

        if os.getpid() == self._process and not self._thread.is_alive():
            return make()
        return self.call(made)

    def check_caller(self) -> None:
        """Refuse a call that would wait for itself, or for nobody. Raises `ConfigurationError`."""
        if os.getpid() != self._process:
            raise ConfigurationError(
                problem="this client was made before the process was forked",
                advice="nothing was bought; make a client in each process",
            )
        if threading.current_thread() is self._thread:
            raise ConfigurationError(
                problem="an observer, or an iterable of requests, calls the client that calls it",
                advice="nothing was bought; call another client, or call from another thread",
            )
        if not self._thread.is_alive():
            raise ConfigurationError(
                problem="this client is closed",
                advice="nothing was bought; make a new client: with Client() as client: ...",
            )

    def end(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do the last work, then end the loop and its thread."""
        if os.getpid() != self._process or not self._thread.is_alive():
            return
        if threading.current_thread() is self._thread:  # the client was collected here
            self._loop.create_task(last()).add_done_callback(lambda _: self._stopped.set())
            return
        try:
            self.call(last)
        finally:
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()


@define(eq=False)
class _Answer(Generic[T]):
    """Work in the loop, and what came of it. A lock tells its end at a third of the cost of a `Future`."""

    work: Callable[[], Coroutine[Any, Any, T]]
    ended: threading.Lock = field(factory=threading.Lock, init=False)
    """Held until the work has ended."""
    value: T | None = field(default=None, init=False)
    error: BaseException | None = field(default=None, init=False)
    _task: "asyncio.Task[None]" = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.ended.acquire()

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        try:
            self.value = await self.work()
        except BaseException as error:
            self.error = error
            raise
        self.ended.release()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Tell of an error; also where the work was cancelled before it began."""
        if task.cancelled() or task.exception() is not None:
            self.error = self.error or asyncio.CancelledError()
            self.ended.release()


# --- Calls --------------------------------------------------------------------------------------------------

Call = Callable[Concatenate[NovitaClient, P], Coroutine[Any, Any, T]]
Block = Callable[Concatenate[NovitaClient, P], AbstractAsyncContextManager[Outcomes]]


def _options_of(
    _: Callable[Concatenate[NovitaClient, P], None],
) -> Callable[[Any], Callable[Concatenate[Any, P], None]]:
    """Give a constructor the options of another."""
    return wraps(NovitaClient.__init__)


def _called(method: Call[P, T]) -> "Callable[Concatenate[Client, P], T]":
    """Make a call without `await` of one with it."""

    @wraps(method)
    def call(self: "Client", /, *arguments: P.args, **options: P.kwargs) -> T:
        return self._loop.call(partial(method, self._client, *arguments, **options))

    return call


def _entered(
    method: Block[P],
) -> "Callable[Concatenate[Client, P], AbstractContextManager[OutcomeIterator[Outcome]]]":
    """Make a block for `with` of one for `async with`."""

    @wraps(method)
    def block(
        self: "Client", /, *arguments: P.args, **options: P.kwargs
    ) -> "AbstractContextManager[OutcomeIterator[Outcome]]":
        return SyncBlock(self._loop, partial(method, self._client, *arguments, **options))

    return block


def _listed(
    method: Callable[Concatenate[NovitaClient, P], AsyncGenerator[T]],
) -> "Callable[Concatenate[Client, P], Generator[T]]":
    """Make an iterator of an asynchronous one."""

    @wraps(method)
    def items(self: "Client", /, *arguments: P.args, **options: P.kwargs) -> Generator[T]:
        source = method(self._client, *arguments, **options)

        async def take() -> tuple[T, ...]:
            try:
                return (await anext(source),)
            except StopAsyncIteration:
                return ()

        try:
            while taken := self._loop.call(take):
                yield from taken
        finally:
            self._loop.call(source.aclose)

    return items


class OutcomeIterator(Generic[I]):
    """The outcomes of a stream or a watch, in the order in which they come. Iterate over it once."""

    def __init__(self, loop: _Loop, outcomes: Outcomes | Updates) -> None:
        self._loop, self._outcomes = loop, outcomes

    def __iter__(self) -> Iterator[I]:
        return self

    def __next__(self) -> I:
        """Give the next outcome; raises as the asynchronous one does."""
        taken = self._loop.call(self._take)
        if taken is None:
            raise StopIteration
        return cast("I", taken)

    async def _take(self) -> Update | Outcome | None:
        return await anext(self._outcomes, None)

    def watch(self, task: Task | str) -> None:
        """Wait for one more paid task."""
        self._loop.read(lambda: self._outcomes.watch(task))

    @property
    def unfinished(self) -> tuple[Task, ...]:
        """Paid tasks whose outcome has not been taken. Watch them again."""
        return self._loop.read(lambda: self._outcomes.unfinished)

    @property
    def uncertain(self) -> tuple[SubmissionUncertain, ...]:
        """Uncertain purchases whose outcome has not been taken."""
        return self._loop.read(lambda: self._outcomes.uncertain)

    def statistics(self) -> StreamStatistics:
        """Count, now."""
        return self._loop.read(self._outcomes.statistics)


@define(eq=False, repr=False)
class SyncBlock(AbstractContextManager[OutcomeIterator[Any]]):
    """A stream, a batch or a watch that was not entered yet."""

    _loop: _Loop
    _make: Callable[[], AbstractAsyncContextManager[Outcomes | Updates]]
    _block: AbstractAsyncContextManager[Outcomes | Updates] = field(init=False)

    def __enter__(self) -> OutcomeIterator[Any]:
        async def enter() -> Outcomes | Updates:
            self._block = self._make()
            return await self._block.__aenter__()

        return OutcomeIterator(self._loop, self._loop.call(enter))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        async def leave() -> bool | None:
            return await self._block.__aexit__(kind, error, trace)

        return bool(self._loop.call(leave))

    if not TYPE_CHECKING:  # type checkers tell these by themselves
        __iter__ = __next__ = __aiter__ = __anext__ = __aenter__ = __aexit__ = __await__ = partialmethod(
            refuse_unentered,
            how="with client.stream(requests) as outcomes: for outcome in outcomes: ...",
        )


# --- The client ---------------------------------------------------------------------------------------------


class Client:
    """A client of the Novita image API for code without `async`. Use it with `with`, or call `close`.

    Takes the options of `NovitaClient`. A client that is never closed is closed when the program ends.
    """

    @_options_of(NovitaClient.__init__)
    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._client = NovitaClient(*arguments, **options)
        self._loop = _Loop()
        self._owner: Client | None = None
        self._end: Callable[[], object] = weakref.finalize(self, self._loop.end, self._client.aclose)
        self._loop.call(self._client.__aenter__)

    def __enter__(self) -> Self:
        self._loop.check_caller()
        return self

    if not TYPE_CHECKING:  # type checkers tell this by themselves

        def __aenter__(self) -> NoReturn:
            raise ConfigurationError(
                problem="this client is entered with `with`",
                advice="nothing was bought; with Client() as client: ... (to await: NovitaClient)",
            )

        __aexit__ = __aenter__

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that this client opened, and end its thread."""
        self._end()

    def __repr__(self) -> str:
        return f"<Client of {self._client!r}>"

    @wraps(NovitaClient.with_options)
    def with_options(self, **options: Any) -> Self:
        other = copy(self)
        other._client = self._client.with_options(**options)  # noqa: SLF001 - of this class
        other._end, other._owner = _nothing, self  # noqa: SLF001
        return other

    run = _called(NovitaClient.run)
    submit = _called(NovitaClient.submit)
    wait = _called(NovitaClient.wait)
    poll = _called(NovitaClient.poll)
    save = _called(NovitaClient.save)
    fetch = _called(NovitaClient.fetch)
    balance = _called(NovitaClient.balance)
    stream = _entered(NovitaClient.stream)
    batch = _entered(NovitaClient.batch)
    work = _entered(NovitaClient.work)
    enqueue = _called(NovitaClient.enqueue)
    outcome = _called(NovitaClient.outcome)
    models = _listed(NovitaClient.models)

    @overload
    def watch(
        self,
        tasks: Iterable[Task | str],
        *,
        timeout: float | None = None,
        total: float | None = None,
        save_to: SaveTo | None = None,
        updates: Literal[False] = False,
    ) -> AbstractContextManager[OutcomeIterator[Outcome]]: ...

    @overload
    def watch(
        self,
        tasks: Iterable[Task | str],
        *,
        timeout: float | None = None,
        total: float | None = None,
        save_to: SaveTo | None = None,
        updates: Literal[True],
    ) -> AbstractContextManager[OutcomeIterator[Update | Outcome]]: ...

    @wraps(NovitaClient.watch)
    def watch(
        self, tasks: Iterable[Task | str], *, updates: bool = False, **options: Any
    ) -> AbstractContextManager[OutcomeIterator[Any]]:
        many = tuple(tasks)
        watch: Callable[..., AbstractAsyncContextManager[Outcomes | Updates]] = self._client.watch
        return SyncBlock(self._loop, partial(watch, many, updates=updates, **options))

    def routes(self) -> tuple[Route, ...]:
        """Give the table of routes: first those that a host of this client's accounts serves."""
        return self._client.routes()

    def webhook_waker(self) -> Waker:
        """Make what a web app hands every webhook event to, from any thread."""
        return self._client.webhook_waker()

    def statistics(self) -> ClientStatistics:
        """Count, now."""
        return self._loop.read(self._client.statistics)

    @property
    def unfinished(self) -> tuple[Task, ...]:
        """Paid tasks whose outcome was not handed over. Watch them again."""
        return self._loop.read(lambda: self._client.unfinished)

    @property
    def uncertain(self) -> tuple[SubmissionUncertain, ...]:
        """Uncertain purchases whose error never reached the caller."""
        return self._loop.read(lambda: self._client.uncertain)

    @property
    def unreported(self) -> tuple[Succeeded, ...]:
        """Results that are paid and here, and whose callers were cancelled before they had them."""
        return self._loop.read(lambda: self._client.unreported)


def _nothing() -> None:
    """Do nothing: a client that belongs to others is not closed here."""
