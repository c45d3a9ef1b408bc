"""Single requests in a shared batch: put in by any process, and their ends waited for by any other.

A database tells of ends where a connection may listen. Behind a pooler in transaction mode none may; so the
rows are asked for besides, all that are waited for at once, in pauses that grow.
"""

import asyncio
import hashlib
from contextlib import suppress
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import define, evolve, field

from novita_async._journal.postgres.address import OVER
from novita_async._journal.postgres.journal import EVENTS, OUTAGE_TIMEOUT, store_at
from novita_async._journal.rows import copy_of, entry_of
from novita_async._purchase.machine import Bought, Order, Purchase
from novita_async._util.clock import wall_offset
from novita_async.errors import ConfigurationError, JournalError

if TYPE_CHECKING:
    from novita_async._journal.postgres.store import SharedStore

ENDED: Final = "novita_ended"
"""Channel on which the database tells of ends."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_HEARING: Final = 10.0
"""Seconds between two questions while the database tells of ends."""


def key_of(name: str) -> str:
    """The key of the row of a request that has a name of its own."""
    return hashlib.sha256(b"one request\0" + name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@define(eq=False, repr=False)
class PostgresInbox:
    """A batch in a database, for those who put single requests in or wait for them, and work on none."""

    url: str
    """The database and the batch."""
    outage_timeout: float = OUTAGE_TIMEOUT
    """Seconds for which a database that cannot be reached is waited for."""
    _store: "SharedStore | None" = field(default=None, init=False)
    _one_by_one: asyncio.Lock = field(factory=asyncio.Lock, init=False)
    _waiting: "dict[str, asyncio.Future[Purchase]]" = field(factory=dict, init=False)
    _looking: "asyncio.Task[None] | None" = field(default=None, init=False)
    _news: asyncio.Event = field(factory=asyncio.Event, init=False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._at.member.label}: {len(self._waiting)} waited for>"

    @property
    def _at(self) -> "SharedStore":
        if self._store is None:
            self._store = store_at(self.url, outage_timeout=self.outage_timeout)
        return self._store

    async def put(self, order: Order, name: str) -> None:
        """Put a request in under a name of its own. Told again it counts once.

        Raises:
            ConfigurationError: another request stands there under this name.
            JournalError: the database cannot be reached, or has no tables.
        """
        store = self._at
        described = evolve(order, key=key_of(name))
        async with self._one_by_one:
            is_same = await store.link.once(partial(store.plans.put, order=described))
        if not is_same:
            raise ConfigurationError(
                problem=f"{store.member.label}: another request was enqueued under the id {name!r}",
                advice="nothing was bought; give each request an id of its own",
                scope="request",
            )

    async def ended(self, name: str) -> Purchase:
        """Wait until a request has ended; its purchase has times in unix seconds.

        Raises:
            JournalError: no request of this name is there; or the database cannot be reached.
        """
        key = key_of(name)
        async with self._one_by_one:
            await self._at.link.once(self._find_batch)
            found = await self._at.link.once(partial(self._at.reading.stand, keys=[key]))
        if not found:
            raise JournalError(
                problem=f"{self._at.member.label}: no request was enqueued under the id {name!r}",
                advice="nothing was bought; look at the id and at the name of the batch",
                scope="request",
            )
        ((purchase, has_ended),) = found
        if has_ended:
            return purchase
        ended = self._waiting.setdefault(key, asyncio.get_running_loop().create_future())
        self._news.set()
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="inbox: what has ended")
        return copy_of(await asyncio.shield(ended), 0.0)

    async def _find_batch(self, connection: Any) -> None:
        await self._at.reading.find_batch(connection)
        if ENDED not in self._at.link.listeners:
            await self._at.link.listen(connection, ENDED, lambda _: self._news.set())

    async def _look(self) -> None:
        """Ask for all rows that are waited for, when the database tells of an end, and in growing pauses."""
        pause = _FIRST_PAUSE
        try:
            while self._waiting:
                self._news.clear()
                async with self._one_by_one:
                    await self._at.link.once(self._find_batch)
                    rows = await self._at.link.once(partial(self._at.reading.stand, keys=list(self._waiting)))
                for purchase, has_ended in rows:
                    if has_ended:
                        self._waiting.pop(entry_of(purchase).key).set_result(purchase)
                        pause = _FIRST_PAUSE
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause if self._at.link.pooled else _HEARING):
                        await self._news.wait()
                pause = min(2 * pause, _LONGEST_PAUSE)
        except Exception as error:  # noqa: BLE001 - told to each who waits
            self._fail(error)
        finally:
            self._looking = None

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            each.set_exception(copy(error))
            each.exception()  # where nobody waits any more

    async def tell(self, token: str, task_id: str) -> None:
        """Tell all other processes of a webhook event."""
        async with self._one_by_one:
            await self._at.link.once(
                lambda connection: connection.execute(
                    "SELECT pg_notify($1, $2)", EVENTS, f"{token[:100]} {task_id[:200]}"
                )
            )

    async def lost(self, token: str) -> tuple[int, Purchase] | None:
        """Find a purchase of unknown end by the token of its callback; and the number of its batch.

        While a process that may live waits for the answer, so does this: the event of a picture that is made
        quickly comes before others have taken its dead process for dead.
        """
        while True:
            async with self._one_by_one:
                found = await self._at.link.once(partial(self._at.reading.doubtful, token=token))
            if found is None or isinstance(found, tuple):
                return found
            await asyncio.sleep(found + OVER)

    async def found(self, batch: int, purchase: Purchase, bought: Bought) -> None:
        """Keep the id of a task that was bought for such a purchase; its worker, or the next, watches it."""
        told = evolve(bought, at=bought.at + wall_offset())
        name = entry_of(purchase).name
        async with self._one_by_one:
            await self._at.link.once(partial(self._at.rows.found, batch=batch, name=name, bought=told))

    async def aclose(self) -> None:
        """Wait for nothing any more."""
        looking = self._looking
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        store, self._store = self._at, None
        self._fail(JournalError(problem=f"{store.member.label}: the client was closed"))
        store.link.hang_up()
