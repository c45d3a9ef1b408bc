"""Windows in a database for purchases that no journal keeps: the processes of a web app share one quota."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

from attrs import define, field

from novita_async._journal.groups import Job, known
from novita_async._journal.postgres.address import LEASE
from novita_async._journal.postgres.journal import PostgresJournal, leave_place, want_place
from novita_async._journal.postgres.lost import LeaseLost
from novita_async._purchase.machine import Announced, Fact, Purchase
from novita_async._util.values import frozen
from novita_async.errors import JournalError

BATCH: Final = "(quota)"
"""Name of the batch that has no rows, in which such processes say that they live."""


@frozen
class _Lent:
    """A place, and the life of this process to which it was given."""

    journal: PostgresJournal
    """The journal in which that life is kept."""
    place: object
    """The place, as the journal knows it."""

    @property
    def sends_until(self) -> float:
        """Until when this process may send in this place: others hold it from a death on."""
        return self.journal.sends_until


@define(eq=False, repr=False)
class PostgresQuota:
    """The windows of a database. Opened by the first purchase, so that making a client waits for nothing."""

    url: str
    """Where the database is."""
    quotas: Mapping[str, int | None]
    """Images a minute of each account; None: not known."""
    heed: Callable[[Sequence[Mapping[str, Any]], int], None]
    """Told which accounts are not well, and how many processes are at work."""
    heard: Callable[[str, str], None] = lambda _, __: None
    """Told of webhook events that other processes were sent."""
    lease: float = LEASE
    """Seconds after which a silent process is taken for dead."""
    _journal: PostgresJournal | None = field(default=None, init=False)
    _opening: asyncio.Lock = field(factory=asyncio.Lock, init=False)
    _telling: set[Job] = field(factory=set[Job], init=False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._journal!r}>"

    @property
    def sends_until(self) -> float:
        """Until when, on the loop's clock, this process may send: then others may take it for dead."""
        journal = self._journal
        return float("inf") if journal is None else journal.sends_until

    async def take(self, purchase: Purchase, announced: Announced) -> _Lent:
        """Take a place for a purchase.

        Raises:
            Deferred: there is none before then.
            JournalError: the database cannot be reached. Nothing may be sent.
        """
        wanted = announced.account, purchase.endpoint, purchase.images
        journal = await self._opened()
        try:
            return _Lent(journal, await known(want_place(journal, *wanted)))
        except LeaseLost:  # this process was silent for too long: it begins anew, once
            await self._leave(journal)
        journal = await self._opened()
        return _Lent(journal, await known(want_place(journal, *wanted)))

    async def _opened(self) -> PostgresJournal:
        async with self._opening:
            if self._journal is None:
                journal = await PostgresJournal.join(
                    self.url.partition("#")[0], batch=BATCH, quotas=self.quotas, lease=self.lease
                )
                journal.on_health(self.heed)
                await journal.on_event(self.heard)
                self._journal = journal
            return self._journal

    async def _leave(self, journal: PostgresJournal) -> None:
        if self._journal is journal:
            self._journal = None
        with suppress(JournalError):
            await journal.aclose()

    def settle(self, place: object, fact: Fact) -> None:
        """Say how an attempt ended. A place of which the database never hears counts until we leave."""
        lent = cast("_Lent", place)
        if lent.journal is not self._journal:  # of a life that is over: its places count for a window more
            return
        with suppress(JournalError):  # closed meanwhile: likewise
            job = leave_place(lent.journal, lent.place, fact)
            self._telling.add(job)
            job.answer.add_done_callback(lambda answer: self._told(job, answer))

    def _told(self, job: Job, answer: "asyncio.Future[Any]") -> None:
        self._telling.discard(job)
        answer.exception()

    async def aclose(self) -> None:
        """Say what is left to be said, and leave. Images on their way count for a window more."""
        if self._journal is not None:
            await self._leave(self._journal)

    def leave_loop(self) -> None:
        """Forget what belongs to a loop that was left: its places count until others take it for dead."""
        self._journal, self._opening = None, asyncio.Lock()
        self._telling.clear()
