"""A shift: one process's share of a batch that many work on.

    take rows -> make their requests again -> the way of each purchase -> ended, or set aside

The journal says whose a row is. A process that was taken for dead (it was stopped, or cut off from the
database) learns so by its next write: what it had under way is another's or uncertain by then, what becomes
of it here is dropped, and the process joins again. The ids of what it has paid for are kept all the same.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, cast

import anyio
import anyio.to_thread
from attrs import define, field

from novita_async._files.inputs import Inputs
from novita_async._files.part import remove_left
from novita_async._files.storage import Storage
from novita_async._journal.identity import request_of
from novita_async._journal.postgres.lost import LeaseLost
from novita_async._journal.rows import entry_of
from novita_async._policy.spending import Spending
from novita_async._purchase.journal import SharedJournal
from novita_async._purchase.machine import (
    FAILED,
    LIST,
    NOTHING,
    SEND,
    SUCCEEDED,
    UNCERTAIN,
    Purchase,
    next_action,
)
from novita_async._stream.resume import SOME_PICTURE, count_money, made_live, wants_again
from novita_async._submit.pool import SessionPool
from novita_async._submit.purchases import Purchases
from novita_async.errors import ConfigurationError, JournalError, NovitaError
from novita_async.models.images import ImageSource
from novita_async.models.requests import NovitaRequest

Joining = Callable[[], Awaitable[SharedJournal]]
"""Joins those who work on a batch."""
PIECE: Final = 256
"""Rows that are taken in one go."""
_FIRST_REST: Final = 0.05
_LONGEST_REST: Final = 2.0
"""Seconds between two questions whether there is something to take."""


@define(eq=False, repr=False)
class Shift:
    """The rows of a batch that this process has taken, and may take next."""

    journal: SharedJournal
    """The store, as this process has joined it last."""
    purchases: Purchases
    """The open purchases of the client."""
    pool: SessionPool
    """Its accounts."""
    storage: Storage | None = None
    """Where files are saved."""
    forever: bool = False
    """Whether to wait for more when the batch is complete."""
    resubmit_uncertain: bool = False
    """Whether to buy again what was perhaps bought."""
    retry_failed: bool | Literal["all"] = False
    """Whether to buy again what failed; as for `Resume`."""
    join_again: Joining | None = None
    """Joins anew once this process was taken for dead. None: that is an error (a store of the user's)."""
    had: dict[tuple[str, int], Purchase] = field(factory=dict[tuple[str, int], Purchase], init=False)
    """Rows that were taken and have not ended."""
    _ahead: deque[Purchase] = field(factory=deque[Purchase], init=False)
    """Of these, rows that are not handed out yet."""
    _lost: set[Purchase] = field(factory=set[Purchase], init=False)
    """Rows that are another's by now."""
    _flaws: dict[Purchase, NovitaError] = field(factory=dict[Purchase, NovitaError], init=False)
    """Why requests of rows could not be made again."""
    _inputs: Inputs = field(init=False)
    _rest: float = field(default=_FIRST_REST, init=False)

    def __attrs_post_init__(self) -> None:
        self._inputs = Inputs(self.storage)

    def __repr__(self) -> str:
        return f"<Shift on {self.journal!r}: {len(self.had)} rows>"

    async def begin(self, spending: Spending | None) -> None:
        """Remove parts of files that a dead process has left, and count the money."""
        folder = self._inputs.folder
        if folder is not None:
            await anyio.to_thread.run_sync(remove_left, folder, time.time())  # as files have it
        if spending is not None:
            await count_money(self.journal, spending)

    async def tend(self) -> None:
        """Say for ever, now and then, that the pictures which this process has fetched are in use."""
        await self._inputs.tend()

    # --- Taking ---------------------------------------------------------------------------------------------

    async def take(self, most: int, *, ahead: int = 0) -> list[Purchase]:
        """Take rows, with their requests. Empty: there are none now.

        Args:
            most: How many can be served.
            ahead: How many are taken besides, for the next calls, while there are enough for all: taking
                costs as much for one row as for many.
        """
        if not self._ahead:
            try:
                taken = await self.journal.take(min(max(most, ahead), PIECE), least=most)
            except LeaseLost:
                if self.join_again is None:
                    raise
                self.journal = await self.join_again()
                return []
            self._ahead.extend(await self._received(taken))
        return [self._ahead.popleft() for _ in range(min(most, len(self._ahead)))]

    async def again(self) -> AsyncIterator[Purchase]:
        """Take rows that have ended, and that the caller wants to buy again."""
        states = ((UNCERTAIN,) if self.resubmit_uncertain else ()) + ((FAILED,) if self.retry_failed else ())
        if not states:
            return
        async for read in self.journal.where(*states):
            if self.wants_again(read):
                for purchase in await self._received(await self.journal.claim([read])):
                    yield purchase

    async def _received(self, taken: Sequence[Purchase]) -> list[Purchase]:
        """Make what was taken ready to go on with."""
        for purchase in taken:
            made_live(purchase, self.purchases)
            self.had[entry_of(purchase).name] = purchase
        if taken:
            self._rest = _FIRST_REST
            await self._inputs.bring(entry_of(each) for each in taken if next_action(each) is SEND)
            await anyio.to_thread.run_sync(self._make_requests, taken)
        return list(taken)

    async def is_over(self) -> bool:
        """Whether nothing is left to do, here or elsewhere.

        Rows whose taking was not answered are given back before others are waited for: two workers that each
        had some would wait for each other for ever.
        """
        if self.had or await self.journal.give_back():
            return False
        return not self.forever and await self.journal.complete()

    async def rest(self) -> None:
        """Wait until there may be something to take."""
        await self.journal.rest(self._rest)
        self._rest = min(2 * self._rest, _LONGEST_REST)

    async def give_back(self) -> None:
        """Let others have what this process has not ended; nothing of it is on its way."""
        while self._ahead:
            purchase = self._ahead.pop()
            self.purchases.close(purchase)
            await self.leave(purchase, ended=False)
        with anyio.CancelScope(shield=True), suppress(JournalError):  # closed, or dead: others have it anyway
            await self.journal.give_back()

    # --- The rows -------------------------------------------------------------------------------------------

    def wants_again(self, purchase: Purchase) -> bool:
        """Whether the caller wants to buy this again, and that can help."""
        return wants_again(
            purchase, resubmit_uncertain=self.resubmit_uncertain, retry_failed=self.retry_failed
        )

    def flaw_of(self, purchase: Purchase) -> NovitaError | None:
        """Why this process cannot go on with a row. None: this process can."""
        if purchase.task is not None and not self.pool.has_host(purchase.task.host):
            return ConfigurationError(
                problem=f"the task is paid at {purchase.task.host}, and no account belongs there",
                advice="add an account of that host: Account(api_key=…, host=…); another worker may have one",
                task_id=purchase.task.task_id,
            )
        return self._flaws.pop(purchase, None) if next_action(purchase) is SEND else None

    def lose(self, purchase: Purchase) -> None:
        """Note that a row is another's by now."""
        self._lost.add(purchase)

    async def leave(self, purchase: Purchase, *, ended: bool) -> bool:
        """Have done with a row, and set it aside where nothing more can be done here.

        Args:
            purchase: The row.
            ended: Whether it has an outcome. Else nothing can be sent any more, and others may go on at once.

        Returns:
            Whether it was this process's until now.
        """
        self._flaws.pop(purchase, None)
        is_ours = purchase not in self._lost
        at_once = purchase.state is SUCCEEDED and purchase.task is None  # perhaps nothing was to be recorded
        if is_ours and ended and (at_once or next_action(purchase) not in (LIST, NOTHING)):
            with suppress(JournalError):  # then others have it once this process leaves
                await cast("SharedJournal", purchase.journal).put_back([purchase])
        self._lost.discard(purchase)
        if self.had.get(entry_of(purchase).name) is purchase:
            del self.had[entry_of(purchase).name]
        return is_ours

    def _make_requests(self, taken: Sequence[Purchase]) -> None:
        """Make the requests of rows again, with their pictures. Blocks."""
        for purchase in taken:
            try:
                purchase.request = self._request_of(purchase, self._inputs.picture)
            except NovitaError as error:
                self._flaws[purchase] = error
                with suppress(NovitaError):  # what is paid needs no picture
                    purchase.request = self._request_of(purchase, lambda _, __: SOME_PICTURE)

    def _request_of(
        self, purchase: Purchase, picture: Callable[[str, Path | None], ImageSource]
    ) -> NovitaRequest:
        made, entry = request_of(entry_of(purchase), picture), entry_of(purchase)
        if purchase.tag is None and entry.metadata is None:
            return made
        return made.tagged(purchase.tag, purchase.metadata or None)
