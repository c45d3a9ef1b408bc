"""A journal in Postgres: one batch of many, which other processes may work on, and windows that all share.

What many tasks tell at the same time goes into the database together, by a task that no caller's cancellation
reaches. While the database cannot be reached nothing is promised, and what has happened waits for it.
"""

import asyncio
import math
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypedDict, TypeVar, Unpack, cast

from anyio import sleep
from attrs import define, field

from novita_async._journal.groups import Job, Wait, known, name_task, outlasting
from novita_async._journal.postgres.address import LEASE, discreet
from novita_async._journal.postgres.at_work import AtWork
from novita_async._journal.postgres.lost import LeaseLost
from novita_async._journal.postgres.verdicts import cause_of, gate_of
from novita_async._journal.postgres.works import PIECE, Ask, PlaceEnded, Told, ToPlan, Wanted
from novita_async._journal.rows import copy_of, entry_of, error_text, shift, shifted
from novita_async._policy.pacing import WINDOW
from novita_async._purchase.journal import Summary
from novita_async._purchase.machine import Announced, Fact, Order, Purchase, State, settlement
from novita_async._util.clock import loop_time, wall_offset, wall_time
from novita_async.errors import ConfigurationError, JournalError, NovitaError

if TYPE_CHECKING:
    from novita_async._journal.postgres.store import SharedStore

T = TypeVar("T")
EVENTS: Final = "novita_event"
"""Channel on which processes tell each other of webhook events."""
OUTAGE_TIMEOUT: Final = 120.0
_GATHER: Final = 0.02
"""Seconds for which more is waited for while many tell something: a commit costs more than its rows.

No longer, because until a verdict is written, the death of this process leaves its purchase in doubt.
"""
_COMPANY: Final = 0.08
"""Seconds for which announcements and ends wait for a verdict to go with: nothing is in doubt meanwhile."""
_FEW: Final = 3
"""Verdicts below which more are waited for a little longer: so few purchases are in doubt by that."""
_LONGER: Final = 0.03
"""Seconds for which they are waited for beyond the others."""
_MANY: Final = 1.5
"""How many tell something together, as a rule, where more is waited for."""
_BUSY: Final = 0.1
"""Seconds after which they are not many any more."""
BRIEFLY: Final = 10.0
"""Seconds for which a database is waited for by which nothing is bought yet."""


_QUIET: Final = 0.3
"""Seconds between two questions while after a failover all say again what they know."""


class SharedOptions(TypedDict, total=False):
    """Options of a process that works on a shared journal."""

    batch: str | None
    """Name of the batch. None: as the URL says, else `default`."""
    quotas: Mapping[str, int | None] | None
    """Images in a window by the labels of accounts; None: not known, and not limited here."""
    worker: str | None
    """Name of this process for those who look. None: host and process id."""
    lease: float
    """Seconds without a sign of life after which another process may take over. 15 by default."""
    window: float
    """Seconds for which a place in an account's window counts after the answer. A minute by default."""
    outage_timeout: float
    """Seconds for which a database that cannot be reached is waited for. 120 by default."""


@define(eq=False, repr=False)
class PostgresJournal:
    """A durable memory of one batch in a Postgres database, which one process at a time has open.

    ```python
    async with await PostgresJournal.open("postgresql://db/studio#spring") as journal:
        purchases = await journal.plan(orders)
    ```

    The windows of accounts are the database's: no batch in it sees more than an account's
    `images_per_minute`, however many processes buy. A database of which a standby may take over must
    replicate synchronously; else what was confirmed last may be forgotten, and bought twice.

    Args:
        uncertain_at_opening: How many purchases were under way when the process before this one died: each is
            uncertain now. Those that other processes have noted before are not among them.
    """

    uncertain_at_opening: int = 0
    """How many purchases were under way when the process before this one died: each is uncertain now.

    Those that other processes have noted before are not among them.
    """
    _opened: Any = field(init=False)
    """The `SharedStore`, whose module is entered when a journal is opened."""
    _queue: list[Job] = field(factory=list[Job], init=False)
    _carrying: "asyncio.Task[None] | None" = field(default=None, init=False)
    _living: "asyncio.Task[None] | None" = field(default=None, init=False)
    """Signs of life. None: this process only looks."""
    _company: float = field(default=1.0, init=False)
    """How many told something together of late, on average."""
    _wrote_at: float = field(default=-math.inf, init=False)
    _urgent: asyncio.Event = field(factory=asyncio.Event, init=False)
    """Set when something is to be done that does not wait for company."""
    _closed: bool = field(default=False, init=False)
    _stirred: asyncio.Event = field(factory=asyncio.Event, init=False)
    """Set when rows may have become free."""
    _taken_to: int = field(default=0, init=False)
    """Serial number up to which free rows were taken."""

    @classmethod
    async def open(cls, url: str, **options: Unpack[SharedOptions]) -> Self:
        """Open a batch's journal for this process alone; make it where there is none.

        Args:
            url: The database, as libpq writes it. The part after `#` names the batch.
            options: See `SharedOptions`.

        Raises:
            JournalError: in use by another process, not to be reached, without tables, of another release.
        """
        return await cls._at_work(url, alone=True, **options)

    @classmethod
    async def join(cls, url: str, **options: Unpack[SharedOptions]) -> Self:
        """Work on a batch together with other processes, on the rows that each has taken (`take`).

        The arguments are those of `open`.

        Raises:
            JournalError: a process has the batch to itself, or for the reasons of `open`.
        """
        return await cls._at_work(url, alone=False, **options)

    @classmethod
    async def look(cls, url: str, *, batch: str | None = None) -> Self:
        """Open a batch's journal to read it, whoever works on it.

        Raises:
            JournalError: there is no such batch, or no database, or it has no tables.
        """
        journal, store = cls(), store_at(url, batch=batch)
        journal._opened = store
        store.link.outage_timeout = BRIEFLY
        try:
            await store.link.once(store.reading.look)
        except BaseException:
            store.link.hang_up()
            raise
        return journal

    @classmethod
    async def _at_work(cls, url: str, *, alone: bool, **options: Unpack[SharedOptions]) -> Self:
        journal, store = cls(), store_at(url, **options)
        journal._opened = store
        begin = partial(store.living.begin, alone=alone)
        outage_timeout, store.link.outage_timeout = (
            store.link.outage_timeout,
            min(store.link.outage_timeout, BRIEFLY),
        )
        try:
            in_use = await store.link.once(begin)
            if in_use is not None:  # by a process that may be dead: then its lease runs out
                await sleep(in_use + 0.01)
                await store.link.once(partial(_insist, store, begin))
            store.link.outage_timeout = outage_timeout
            await store.link.once(store.living.beat)
            if alone:
                journal.uncertain_at_opening = await store.link.once(store.living.recover)
        except BaseException:
            store.link.hang_up()
            raise
        living = journal._live()
        journal._living = asyncio.get_running_loop().create_task(living, name="journal: signs of life")
        return journal

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Finish what is being written, and give back what is left. Does nothing the second time."""
        if self._closed:
            return
        if self._living is None:
            self._closed = True
            self._store.link.hang_up()
            return
        self._living.cancel()
        leaving = self._tell(self._asking(self._store.living.leave))
        self._closed = True
        try:
            with suppress(LeaseLost):  # then others have given away what it had
                await outlasting(leaving)
        finally:
            self._store.link.hang_up()

    def __repr__(self) -> str:
        state, commits = "closed" if self._closed else f"run {self.run}", self._store.member.commits
        return f"<{type(self).__name__} {self.name}, {state}: {commits} commits>"

    @property
    def run(self) -> int:
        """The number of this run of the batch, from 1."""
        return self._store.member.run

    @property
    def name(self) -> str:
        """The address of the batch, without a password."""
        return self._store.member.label

    @property
    def _store(self) -> "SharedStore":
        return cast("SharedStore", self._opened)

    # --- The protocol: see `Journal` ------------------------------------------------------------------------

    async def plan(self, orders: Sequence[Order]) -> list[Purchase]:
        """Find the purchases of these orders, in this order, and make those that are missing."""
        return cast("list[Purchase]", await self._planned(orders, make=True))

    async def find(self, orders: Sequence[Order]) -> list[Purchase | None]:
        """Find the purchases of these orders, in this order; None where there is none."""
        return await self._planned(orders, make=False)

    async def _planned(self, orders: Sequence[Order], *, make: bool) -> list[Purchase | None]:
        self._check()
        found: list[Purchase | None] = []
        for start in range(0, len(orders), PIECE):
            read = await outlasting(self._tell(ToPlan(orders[start : start + PIECE], make, read=True)))
            found += [None if each is None else self._handed_out(each) for each in read]
        return found

    async def enqueue(self, orders: Sequence[Order]) -> int:
        """Plan these orders, for others to work on. Returns how many are new to the batch.

        Of a batch on which others work, `plan` and this may be called by several at once; a request's place
        is then the one in the batch.
        """
        self._check()
        new = 0
        for start in range(0, len(orders), PIECE):
            told = ToPlan(orders[start : start + PIECE], make=True, read=False)
            new += sum(await outlasting(self._tell(told)))
        return new

    def _handed_out(self, read: Purchase) -> Purchase:
        shift(read, -self._offset())
        read.journal = self
        return read

    def _offset(self) -> float:
        """Seconds to add to the loop's time to get the database's."""
        return wall_offset() + self._store.member.skew

    async def admit(self, purchase: Purchase, announced: Announced, cost: Decimal | None) -> None:
        """Promise an attempt, with its place in the shared window and its money, in one commit.

        Raises:
            Deferred: there is no place, or no money, before then.
            BudgetExhausted: that much is not left in the batch's budget.
        """
        await self._record(purchase, (announced,), known, promise=True, cost=cost)

    async def settle(self, purchase: Purchase, fact: Fact) -> None:
        """Record the verdict on an attempt, and what becomes of its place and its money, in one commit."""
        await self._record(
            purchase, (fact,), known, settled=settlement(fact), gate=gate_of(fact), cause=cause_of(fact)
        )

    async def record(self, purchase: Purchase, *facts: Fact) -> None:
        """Record facts, in one commit. Durable when this returns; when this raises, nothing was recorded.

        A cancellation is raised once the facts are recorded, or refused.
        """
        await self._record(purchase, facts, outlasting)

    async def _record(self, purchase: Purchase, facts: tuple[Fact, ...], wait: Wait, **more: Any) -> None:
        self._check()
        offset = self._offset()
        told = Told(
            entry_of(purchase).name,
            tuple([shifted(fact, offset) for fact in facts]),
            purchase.wants_files,
            at=facts[-1].at if facts else 0.0,
            **more,
        )
        try:
            await wait(self._tell(told))
        except JournalError as error:
            name_task(error, purchase, facts)
            raise

    async def new_run(self) -> int:
        """Begin to read the input anew: purchases under way are lost. Opening a journal does that, too."""
        return await self._do(self._store.living.new_run)

    async def by_token(self, token: str) -> Purchase | None:
        """Read the purchase whose latest attempt has this callback token."""
        found = await self._select("AND c.token = $3", token)
        return found[0] if found else None

    async def seen_since(self, seconds: float) -> list[Purchase]:
        """Read what the service may have seen within so many seconds, with times of the loop."""
        since = wall_time() + self._store.member.skew - seconds
        offset = -wall_offset()
        return [copy_of(each, offset) for each in await self._select("AND c.slot_time > $3", since)]

    async def summary(self) -> Summary:
        """Add up all purchases."""
        return await self._ask(self._store.reading.summary)

    async def where(self, *states: State, after: int = 0) -> AsyncGenerator[Purchase]:
        """Read the purchases of these states, or all, that come after a serial number; times are unix."""
        for state in states or (None,):
            async for purchase in self._pages(state, after):
                yield purchase

    async def _pages(self, state: State | None, after: int) -> AsyncIterator[Purchase]:
        which, values = ("", ()) if state is None else ("AND c.state = $4", (state.value,))
        rest = f"AND c.serial > $3 {which} ORDER BY c.serial LIMIT 500"
        while page := await self._select(rest, after, *values):
            for purchase in page:
                yield purchase
            after = entry_of(page[-1]).serial

    async def _select(self, rest: str, *values: Any) -> list[Purchase]:
        """Read purchases, with times by this computer's clock."""
        store = self._store
        found = await self._ask(lambda connection: store.rows.select(connection, rest, *values))
        for each in found if store.member.skew else ():
            shift(each, -store.member.skew)
        return found

    # --- Windows, health and money --------------------------------------------------------------------------

    @property
    def sends_until(self) -> float:
        """Until when, on the loop's clock, this process may send: then others may take it for dead."""
        return self._store.member.alive_until

    def on_health(self, heed: Callable[[Sequence[Mapping[str, Any]], int], None]) -> None:
        """Tell, with each sign of life, which accounts are not well, and how many processes are at work."""
        self._store.health.heed = heed
        heed(self._store.health.unwell, self._store.member.processes)

    async def on_event(self, heard: Callable[[str, str], None]) -> None:
        """Hear of webhook events that other processes were sent: token and task id."""
        store = self._store

        def tell(told: str) -> None:
            token, _, task_id = told.partition(" ")
            heard(token, task_id)

        await self._do(partial(store.link.listen, channel=EVENTS, heard=tell))

    async def set_budget(self, limit: Decimal, price: Decimal | None = None) -> None:
        """Say how much the batch may cost, together with all that it has cost so far.

        Args:
            limit: The most that may be spent.
            price: Of an image, for purchases whose price nobody has told.

        Raises:
            ConfigurationError: another process is at work that was told another limit.
        """
        await self._do(partial(self._store.money.set_budget, limit=limit, price=price))

    async def unpriced(self) -> list[Purchase]:
        """Purchases that were made while nobody told what they cost; times are unix."""
        return await self._select(
            "AND c.paid IS NULL AND c.cost IS NULL AND c.bought + c.perhaps > 0 AND $3 = 0", 0
        )

    async def price(self, costs: Mapping[int, Decimal]) -> None:
        """Note what purchases have cost that were made while nobody told, by serial number."""
        await self._do(partial(self._store.money.price, costs=costs))

    # --- Together with others -------------------------------------------------------------------------------

    async def take(self, most: int = 100, *, least: int | None = None) -> list[Purchase]:
        """Lease purchases for which something is to be done and that nobody has. Empty: there are none now.

        They are this process's until they have ended, it puts them back or closes the journal, or shows no
        sign of life for the length of the lease.

        Args:
            most: How many at most.
            least: How many at least, where there are so many: beyond them, no more than half of this
                process's share of what is left. None: `most`.

        Raises:
            LeaseLost: this process was taken for dead.
        """
        store, least, tries = self._store, most if least is None else least, count()
        taken = await self._do(
            lambda connection: store.leases.take(
                connection, most, self._taken_to, least=least, again=next(tries) > 0
            )
        )
        if not taken and self._taken_to:  # rows that were given back stand before
            self._taken_to = 0
            return await self.take(most, least=least)
        self._taken_to = entry_of(taken[-1]).serial if len(taken) >= least else 0
        return [self._handed_out(each) for each in taken]

    async def claim(self, purchases: Sequence[Purchase]) -> list[Purchase]:
        """Lease purchases that have ended, to go on with them; those that nobody else has, in their order."""
        store, tries = self._store, count()
        while True:
            claimed = await self._do(
                lambda connection: store.leases.claim(connection, purchases, again=next(tries) > 0)
            )
            if claimed is not None:
                return [self._handed_out(each) for each in claimed]
            await self.rest(_QUIET)

    async def put_back(self, purchases: Sequence[Purchase]) -> None:
        """Let go of purchases that could not be brought to their end: workers that join later take them."""
        store = self._store
        await self._do(lambda connection: store.leases.put_back(connection, purchases))

    async def give_back(self) -> int:
        """Let go of all that this process has and of which nothing is on its way. Returns how many."""
        return await self._do(self._store.leases.give_back)

    async def complete(self) -> bool:
        """Whether nothing is left that this process could take, now or when another gives it back."""
        return await self._ask(self._store.leases.complete)

    async def rest(self, seconds: float) -> None:
        """Wait for so long, or until this process gives away what a dead one had."""
        self._stirred.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stirred.wait()

    async def note(self, text: str) -> None:
        """Keep a text of the user's about the batch."""
        await self._do(lambda connection: self._store.plans.note(connection, text))

    async def noted(self) -> str | None:
        """Read the text that was kept about the batch."""
        return await self._ask(self._store.reading.noted)

    async def at_work(self) -> list[AtWork]:
        """Tell who works on the batch."""
        return await self._ask(self._store.reading.at_work)

    async def records(self, after: int) -> list[tuple[int, tuple[Any, ...]]]:
        """Read serial numbers and records of some rows after one, as a file keeps them."""
        return await self._ask(lambda connection: self._store.reading.records(connection, after))

    async def payers(self, *states: State) -> list[str]:
        """Labels of accounts that have bought what is in these states: the first few."""
        return await self._ask(lambda connection: self._store.reading.payers(connection, states))

    # --- Signs of life --------------------------------------------------------------------------------------

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(self._store.member.next_beat or self._store.member.lease / 3)
            with suppress(NovitaError):  # whoever tells something is told
                await self.beat()

    async def beat(self) -> None:
        """Say that this process lives, and give away what dead ones had. Done by itself, thrice a lease.

        Raises:
            LeaseLost: this process was taken for dead.
        """
        for dead in await self._ask(self._store.living.beat):
            await self._ask(partial(self._store.living.bury, dead))
            self._stirred.set()

    # --- The group ------------------------------------------------------------------------------------------

    async def _do(self, do: Callable[[Any], Awaitable[T]]) -> T:
        answer: T = await outlasting(self._tell(self._asking(do)))
        return answer

    async def _ask(self, do: Callable[[Any], Awaitable[T]]) -> T:
        answer: T = await self._tell(self._asking(do)).answer
        return answer

    def _asking(self, do: Callable[[Any], Awaitable[Any]]) -> Ask:
        return Ask(do)

    def _check(self) -> None:
        if self._closed:
            raise JournalError(problem=f"journal {self.name}: it is closed")

    def _tell(self, work: Told | Ask | ToPlan | Wanted | PlaceEnded) -> Job:
        self._check()
        loop = asyncio.get_running_loop()
        job = Job(work, loop.create_future())
        self._queue.append(job)
        if not _can_wait(work):
            self._urgent.set()
        if self._carrying is None:
            self._carrying = loop.create_task(self._carry_out(), name="journal: writing")
        return job

    async def _carry_out(self) -> None:
        """Do what was told, all that is there at a time, until there is nothing more."""
        while self._queue:
            if self._company > _MANY and loop_time() - self._wrote_at < _BUSY:
                await self._gather()
            else:
                await asyncio.sleep(0)  # who else is ready goes along
            jobs, self._queue = self._queue, []
            self._urgent.clear()
            self._company += 0.3 * (len(jobs) - self._company)
            results = await self._store.carry_out([job.work for job in jobs])
            for job, result in zip(jobs, results, strict=True):
                job.result, job.done = result, True
                job.give()
            self._wrote_at = loop_time()
            await asyncio.sleep(0)
        self._carrying = None

    async def _gather(self) -> None:
        """Wait for more to be told."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_COMPANY):
                await self._urgent.wait()
        if not self._urgent.is_set():
            return
        await asyncio.sleep(_GATHER)
        if sum(not _can_wait(job.work) for job in self._queue) < _FEW:
            await asyncio.sleep(_LONGER)


def _can_wait(work: object) -> bool:
    """Whether a work is an announcement or an end, which leave nothing in doubt while they wait."""
    return isinstance(work, Told) and work.settled is None


def want_place(journal: PostgresJournal, account: str, endpoint: str, images: int) -> Job:
    """Ask for a place in a window for a purchase that has no row. The answer is for `leave_place`."""
    return journal._tell(Wanted(account, endpoint, images))  # noqa: SLF001 - of this module


def leave_place(journal: PostgresJournal, place: Any, fact: Fact) -> Job:
    """Say how an attempt without a row has ended."""
    cause, settled = cause_of(fact), settlement(fact)
    error = getattr(fact, "error", None) if cause == "out" else None
    ended = PlaceEnded(place, settled, cause, gate_of(fact), error and error_text(error), loop_time())
    return journal._tell(ended)  # noqa: SLF001 - of this module


def store_at(
    url: str,
    *,
    batch: str | None = None,
    quotas: Mapping[str, int | None] | None = None,
    worker: str | None = None,
    lease: float = LEASE,
    window: float = WINDOW,
    outage_timeout: float = OUTAGE_TIMEOUT,
) -> "SharedStore":
    """Make the store for the database of a URL. Raises `ConfigurationError`: the extra is missing."""
    try:
        from novita_async._journal.postgres.store import SharedStore  # noqa: PLC0415 - needs the extra
    except ImportError as error:
        raise ConfigurationError(
            problem="a journal in Postgres needs asyncpg", advice='pip install "novita-async[postgres]"'
        ) from error
    database, _, fragment = url.partition("#")
    name = batch or fragment or "default"
    return SharedStore.at(
        database,
        label=discreet(f"{database}#{name}"),
        name=name,
        worker=worker or f"{socket.gethostname()}/{os.getpid()}",
        quotas=quotas or {},
        lease=lease,
        window=window,
        outage_timeout=outage_timeout,
    )


async def _insist(
    store: "SharedStore", begin: Callable[[Any], Awaitable[float | None]], connection: Any
) -> None:
    """Begin, now that a lease should have run out. Raises `JournalError`: the process lives."""
    if await begin(connection) is not None:
        raise JournalError(
            problem=f"journal {store.member.label}: another process has it open",
            advice="nothing was sent; wait for that to end, then run the same again",
        )


async def upgrade(url: str) -> tuple[int, int]:
    """Make the tables of journals in a database, or bring them to this release's form.

    Returns:
        The version before, 0 where there was none, and now.
    """
    from novita_async._journal.postgres import upgrading  # noqa: PLC0415 - knows all the text of the tables

    return await once_at(url, upgrading.upgrade)


async def once_at(url: str, do: Callable[[Any, str], Awaitable[T]]) -> T:
    """Do something in a database, whichever its batches, with a connection and the database's label."""
    store = store_at(url, outage_timeout=BRIEFLY)
    store.link.label = label = discreet(url).partition("#")[0]
    try:
        return await store.link.once(lambda connection: do(connection, label))
    finally:
        store.link.hang_up()
