"""Rows of a batch that many processes share: taken as slots come free, each brought to its outcome."""

from typing import Final

from attrs import define, field

from novita_async._journal.postgres.lost import LeaseLost
from novita_async._purchase.machine import Purchase
from novita_async._stream.ahead import Requests
from novita_async._stream.shift import PIECE, Shift
from novita_async._stream.stream import Stream
from novita_async._stream.way import words_of
from novita_async.errors import JournalError, NovitaError
from novita_async.events import Finished, Planned
from novita_async.models.results import Failed, Outcome

_AHEAD: Final = 64
"""Rows that are taken in one go by who has few in flight, as long as there are many."""


@define(eq=False, repr=False)
class RowStream(Stream):
    """A stream whose input are the rows that this process takes."""

    _shift: Shift = field(kw_only=True)

    async def _take_in(self, requests: Requests) -> None:  # noqa: ARG002 - the rows take its place
        """Take rows as slots come free, until the batch is complete."""
        shift = self._shift
        self._tasks.create_task(shift.tend())
        try:
            await shift.begin(self._buyer.spending)
            with self._taking_in:
                async for purchase in shift.again():
                    await self._slots.acquire()
                    self._serve(purchase)
                while not await self._take_some():
                    await shift.rest()
        except Exception as error:  # noqa: BLE001 - the journal's: goes to the user
            self._failure = self._failure or error
        finally:
            self._input_ended = True
            self._outlet.notify()

    async def _take_some(self) -> bool:
        """Take rows as long as there are some. Returns whether the batch is complete."""
        while True:
            await self._slots.acquire()
            free = 1
            while free < PIECE and self._slots.value:
                self._slots.acquire_nowait()
                free += 1
            ahead = max(self._in_flight // 2, min(_AHEAD, 8 * self._in_flight))
            taken = await self._shift.take(free, ahead=ahead)
            for _ in range(free - len(taken)):
                self._slots.release()
            for purchase in taken:
                self._serve(purchase)
            if not taken:
                return await self._shift.is_over()

    def _serve(self, purchase: Purchase) -> None:
        """Bring a row, which has a slot, to its outcome."""
        self._counts.taken_in += 1
        self._buyer.emit(Planned(position=purchase.position, images=purchase.images))
        self._way.goes_to(purchase.endpoint)
        self._outlet.expect()
        self._open[purchase] = True
        self._start(self._row, purchase)

    async def _row(self, purchase: Purchase) -> None:
        """Lead a row to its outcome, where this process can go on with it."""
        flaw = self._shift.flaw_of(purchase)
        if flaw is not None:
            outcome = Failed(task=purchase.task, error=flaw, **words_of(purchase))
            self._buyer.emit(Finished(purchase=purchase.id, outcome=outcome))
            await self._end(purchase, outcome)
            return
        try:
            if self._shift.wants_again(purchase):
                await self._way.reopen(purchase)
        except JournalError as error:  # that it is to be bought again could not be recorded
            self._stop(error, purchase)
            await self._end(purchase, None)
        else:
            await self._lead(purchase)

    async def _end(self, purchase: Purchase, outcome: Outcome | None) -> None:
        is_ours = await self._shift.leave(purchase, ended=outcome is not None)
        if outcome is None or not is_ours:
            outcome = None
            self._buyer.purchases.close(purchase)
            self._slots.release()
        await super()._end(purchase, outcome)

    def _stop(self, error: NovitaError, purchase: Purchase | None = None) -> None:
        """Send nothing more. Where others have this row now, the rest is still to be brought to its end."""
        if purchase is not None and isinstance(error, LeaseLost):
            self._shift.lose(purchase)
        else:
            super()._stop(error, purchase)
