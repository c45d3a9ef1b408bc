"""A journal in one SQLite file, written by one thread.

Facts that come while the journal is writing wait, and go into the next transaction together: one commit,
however many purchases are under way. Their callers are woken after that commit. A commit is on the disk, not
only on its way (write-ahead log, synchronous=FULL).

Where many facts come, a commit waits some milliseconds for more of them, because a commit costs more than
what is in it. Only the verdict on an attempt never waits: until it is on the disk, a crash leaves a doubt.

The thread is an executor of its own, so that an event loop in virtual time sees that there is work under way.
"""

import asyncio
import os
import time
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from attrs import define, field

from novita_async._journal.groups import Job, Wait, known, name_task, outlasting
from novita_async._journal.rows import copy_of, entry_of, shifted
from novita_async._journal.sqlite import file as _file
from novita_async._journal.sqlite.store import PIECE, Store, Work
from novita_async._purchase.journal import Summary
from novita_async._purchase.machine import Announced, Fact, Order, Purchase, Saved, State
from novita_async._util.clock import wall_offset, wall_time
from novita_async._util.values import frozen
from novita_async.errors import JournalError, NovitaWarning

T = TypeVar("T")
_COMPANY: Final = 0.004
"""Seconds for which a commit waits for more to write, where the one before had several."""
_SEVERAL: Final = 4
_MAY_WAIT: Final = (Announced, Saved)
"""Facts of which a crash makes no doubt while they are not on the disk: nothing is sent, or all is there."""
_ON_SHARE: Final = (
    "journal {} lies on a network share ({}), where a lock may not hold for other machines: two could buy "
    "the same; put the journal on a local disk, or use one in Postgres"
)


@frozen(kw_only=True)
class JournalStatistics:
    """Counts of a journal.

    Args:
        told: Facts and questions so far.
        waiting: How much of that is not answered.
        commits: How many transactions it took.
        largest_group: How much was answered together at most.
    """

    told: int
    """Facts and questions so far."""
    waiting: int
    """How much of that is not answered."""
    commits: int
    """How many transactions it took."""
    largest_group: int
    """How much was answered together at most."""


@define(eq=False, repr=False)
class SqliteJournal:
    """A durable memory of one batch, in a SQLite file that this process alone writes.

    ```python
    async with await SqliteJournal.open("run.db") as journal:
        purchases = await journal.plan(orders)
    ```

    Args:
        path: The file.
        uncertain_at_opening: How many purchases were under way when the process before this one died: each is
            uncertain now.
    """

    path: Path
    """The file."""
    uncertain_at_opening: int
    """How many purchases were under way when the process before this one died: each is uncertain now."""
    _store: Store = field(init=False)
    _thread: ThreadPoolExecutor = field(init=False)
    _queue: list[Job] = field(factory=list[Job], init=False)
    _busy: bool = field(default=False, init=False)
    """Whether the thread is at work."""
    _next: asyncio.Handle | None = field(default=None, init=False)
    """Beginning of the next group. None: nothing waits, or the thread is at work."""
    _last_group: int = field(default=0, init=False)
    """How much was answered together the last time."""
    _closed: bool = field(default=False, init=False)
    _told: int = field(default=0, init=False)
    _answered: int = field(default=0, init=False)
    _largest_group: int = field(default=0, init=False)

    @classmethod
    async def open(
        cls, path: "str | os.PathLike[str]", *, read_only: bool = False, without_wal: bool = False
    ) -> Self:
        """Open a journal; make it where there is none.

        Args:
            path: The file. Beside it lie `-wal`, `-shm`, `-spare` and `-lock` while it is open, or after a
                crash.
            read_only: Only look, also while another process writes it. Makes nothing, changes nothing.
            without_wal: Accept a journal that was not closed although its `-wal` file is missing. That file
                has what was bought last: without it the same may be bought twice.

        Raises:
            JournalError: in use by another process, damaged, of a newer version, or not to be reached.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        open_it = partial(_open, Path(path), read_only=read_only, without_wal=without_wal)
        opening = asyncio.get_running_loop().run_in_executor(thread, open_it)
        try:
            store, uncertain = await asyncio.shield(opening)
        except BaseException:
            opening.add_done_callback(partial(_close_late, thread))
            raise
        journal = cls(store.file.path, uncertain)
        journal._store, journal._thread = store, thread
        if store.file.share is not None and not read_only:
            try:
                warnings.warn(_ON_SHARE.format(path, store.file.share), NovitaWarning, stacklevel=2)
            except NovitaWarning:  # the program takes warnings for errors
                await journal.aclose()
                raise
        return journal

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Finish what is being written, and let others have the journal. Does nothing the second time."""
        if not self._closed:
            closing = self._tell(Work(Store.close, writes=False))
            self._closed = True
            try:
                await outlasting(closing)
            finally:
                self._thread.shutdown(wait=False)

    def __repr__(self) -> str:
        s = self.statistics()
        state = "closed" if self._closed else f"run {self.run}"
        numbers = f"{s.told} told, {s.waiting} waiting, {s.commits} commits"
        return f"<SqliteJournal {self.path.name}, {state}: {numbers}>"

    def statistics(self) -> JournalStatistics:
        """Counts of this journal, now."""
        return JournalStatistics(
            told=self._told,
            waiting=self._told - self._answered,
            commits=self._store.commits,
            largest_group=self._largest_group,
        )

    @property
    def run(self) -> int:
        """The number of this run of the batch, from 1."""
        return self._store.run

    @property
    def name(self) -> str:
        """The absolute path of the file."""
        return str(self.path.absolute())

    # --- The protocol: see `Journal` ----------------------------------------------------------------------

    async def plan(self, orders: Sequence[Order]) -> list[Purchase]:
        """Find the purchases of these orders, in this order, and make those that are missing."""
        found: list[Purchase] = []
        offset = -wall_offset()
        for start in range(0, len(orders), PIECE):
            piece = orders[start : start + PIECE]
            found += await self._do(partial(_plan, piece, offset, None), begins=True, waits=True)
        for purchase in found:
            purchase.journal = self
        return found

    async def plan_ahead(self, orders: Sequence[Order], run: int) -> None:
        """Plan a piece of the input for an earlier run, while this one asks for what was planned before.

        Give each piece before this run asks for any of its orders, and no more than a thousand at once.
        """
        await self._do(partial(_plan, orders, 0.0, run), begins=True)

    async def find(self, orders: Sequence[Order]) -> list[Purchase | None]:
        """Find the purchases of these orders, in this order; None where there is none."""
        found: list[Purchase | None] = []
        offset = -wall_offset()
        for start in range(0, len(orders), PIECE):
            found += await self._do(partial(_find, orders[start : start + PIECE], offset))
        for purchase in found:
            if purchase is not None:
                purchase.journal = self
        return found

    async def finished(
        self, orders: Sequence[Order], is_here: Callable[[Purchase], bool]
    ) -> list[Purchase | None]:
        """Find what is saved; write only where a line tells it otherwise. None: ask `plan`.

        Args:
            orders: No more than a thousand.
            is_here: Whether the files of a purchase are where they were; called in the journal's thread.
        """
        offset = -wall_offset()
        found, changed = await self._ask(lambda store: store.finished(orders, offset, is_here))
        if changed:
            await self._do(lambda store: store.tell_again(changed))
        for purchase in found:
            if purchase is not None:
                purchase.journal = self
        return found

    async def admit(self, purchase: Purchase, announced: Announced, cost: Decimal | None) -> None:  # noqa: ARG002
        """Promise an attempt. The window and the budget are this process's own."""
        await self._record(purchase, (announced,), known)

    async def settle(self, purchase: Purchase, fact: Fact) -> None:
        """Record the verdict on an attempt."""
        await self._record(purchase, (fact,), known)

    async def record(self, purchase: Purchase, *facts: Fact) -> None:
        """Record facts, in one commit. Durable when this returns; when this raises, nothing was recorded.

        A cancellation is raised once the facts are recorded, or refused.
        """
        await self._record(purchase, facts, outlasting)

    async def _record(self, purchase: Purchase, facts: tuple[Fact, ...], wait: Wait) -> None:
        entry, offset = entry_of(purchase), wall_offset()
        told = tuple([shifted(fact, offset) for fact in facts])
        work = Work(
            lambda store: store.record(entry.key, entry.occurrence, told),
            begins=any(type(fact) is Announced for fact in facts),
            waits=bool(facts) and type(facts[-1]) in _MAY_WAIT,
        )
        try:
            await wait(self._tell(work))
        except JournalError as error:
            name_task(error, purchase, facts)
            raise

    async def new_run(self) -> int:
        """Begin to read the input anew: purchases under way are lost. Opening a journal does that, too."""
        now = wall_time()
        return await self._do(lambda store: store.new_run(now))

    async def by_token(self, token: str) -> Purchase | None:
        """Read the purchase whose latest attempt has this callback token."""
        return await self._ask(lambda store: store.by_token(token))

    async def seen_since(self, seconds: float) -> list[Purchase]:
        """Read what the service may have seen within so many seconds, with times of the loop."""
        since, offset = wall_time() - seconds, -wall_offset()
        return [copy_of(each, offset) for each in await self._ask(lambda store: store.seen_since(since))]

    async def summary(self) -> Summary:
        """Add up all purchases."""
        return await self._ask(Store.summary)

    async def where(self, *states: State, after: int = 0) -> AsyncGenerator[Purchase]:
        """Read the purchases of these states, or all, that come after a serial number; times are unix."""
        for state in states or (None,):
            async for purchase in self._pages(state, after):
                yield purchase

    async def _pages(self, state: State | None, after: int) -> AsyncIterator[Purchase]:
        while page := await self._ask(partial(_page, state, after)):
            for purchase in page:
                yield purchase
            after = entry_of(page[-1]).serial

    # --- The thread ---------------------------------------------------------------------------------------

    async def _do(self, do: Callable[[Store], T], *, begins: bool = False, waits: bool = False) -> T:
        answer: T = await outlasting(self._tell(Work(do, begins=begins, waits=waits)))
        return answer

    async def _ask(self, do: Callable[[Store], T]) -> T:
        answer: T = await self._tell(Work(do, writes=False)).answer
        return answer

    def _tell(self, work: Work) -> Job:
        if self._closed:
            raise JournalError(problem=f"journal {self.path}: it is closed")
        loop = asyncio.get_running_loop()
        job = Job(work, loop.create_future())
        self._told += 1
        self._queue.append(job)
        if not self._busy:
            self._plan_group(loop, at_once=not work.waits)
        return job

    def _plan_group(self, loop: asyncio.AbstractEventLoop, *, at_once: bool) -> None:
        """Plan when the next group is carried out: in the next turn of the loop, or once more has come."""
        planned = self._next
        if planned is not None and not (at_once and isinstance(planned, asyncio.TimerHandle)):
            return
        if planned is not None:
            planned.cancel()
        if at_once or self._last_group < _SEVERAL:
            self._next = loop.call_soon(self._carry_out, loop)
        else:
            self._next = loop.call_later(_COMPANY, self._carry_out, loop)

    def _carry_out(self, loop: asyncio.AbstractEventLoop) -> None:
        jobs, self._queue = self._queue, []
        self._busy, self._next, self._last_group = True, None, len(jobs)
        self._largest_group = max(self._largest_group, len(jobs))
        works = [job.work for job in jobs]
        done = loop.run_in_executor(self._thread, self._store.carry_out, works)
        done.add_done_callback(partial(self._carried_out, loop, jobs))

    def _carried_out(
        self, loop: asyncio.AbstractEventLoop, jobs: list[Job], done: "asyncio.Future[list[Any]]"
    ) -> None:
        self._answered += len(jobs)
        for job, result in zip(jobs, done.result(), strict=True):
            job.result, job.done = result, True
            job.give()
        self._busy = False
        if self._queue:
            self._plan_group(loop, at_once=not all(job.work.waits for job in self._queue))


def _open(path: Path, *, read_only: bool, without_wal: bool) -> tuple[Store, int]:
    if read_only:
        return Store(_file.open_to_read(path)), 0
    store = Store(_file.open_to_write(path, without_wal=without_wal))
    (found,) = store.carry_out([Work(lambda store: store.recover(time.time()))])
    if isinstance(found, BaseException):
        store.close()
        raise found
    return store, int(found)


def _plan(orders: Sequence[Order], offset: float, run: int | None, store: Store) -> list[Purchase]:
    return store.plan(orders, offset, run)


def _find(orders: Sequence[Order], offset: float, store: Store) -> list[Purchase | None]:
    return store.find(orders, offset)


def _page(state: State | None, after: int, store: Store) -> list[Purchase]:
    return store.page(state, after)


def _close_late(thread: ThreadPoolExecutor, opening: "asyncio.Future[tuple[Store, int]]") -> None:
    """Close a journal that nobody waits for any more."""
    if opening.exception() is None:
        thread.submit(opening.result()[0].close)
    thread.shutdown(wait=False)
