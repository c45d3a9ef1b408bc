"""Finds lost purchases again: an event names a task, and the service is asked whether it knows it.

A purchase whose answer was lost has no task id. The token in its callback URL reveals the id when the task
ends. The id is only a claim until the service, asked with the key that paid, knows such a task.
"""

import asyncio
import logging
from typing import Final

import anyio
from attrs import define, field

from novita_async._purchase.machine import Bought, Purchase, State
from novita_async._submit.buyer import Buyer
from novita_async._submit.callbacks import Callback
from novita_async.errors import NovitaError, TaskFailed
from novita_async.tasks import Task

_log: Final = logging.getLogger("novita_async")


@define(eq=False, repr=False)
class Finder:
    """Tries what events claim about lost purchases, in the background."""

    _buyer: Buyer
    _searches: "set[asyncio.Task[None]]" = field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self._buyer.callbacks.search = self.search

    def __repr__(self) -> str:
        return f"<Finder: {len(self._searches)} searches under way>"

    async def aclose(self) -> None:
        """Search no longer."""
        searches = tuple(self._searches)
        for search in searches:
            search.cancel()
        await asyncio.gather(*searches, return_exceptions=True)

    def search(self, callback: Callback) -> None:
        """Start to try what was claimed about a lost purchase, unless that is under way."""
        if callback.searching:
            return
        callback.searching = True
        search = asyncio.get_running_loop().create_task(self._try_claims(callback))
        self._searches.add(search)
        search.add_done_callback(self._searches.discard)

    async def _try_claims(self, callback: Callback) -> None:
        while callback.claims and callback.task is None:
            callback.tries += 1
            task = Task(
                task_id=callback.claims.pop(0),
                account=callback.account,
                endpoint=callback.endpoint,
                image_num=callback.images,
                submitted_at=callback.sent_at,
            )
            if await self._knows(task):
                await self._found(callback, task)
        callback.searching = False

    async def _knows(self, task: Task) -> bool:
        """Whether the service knows a task that was claimed to be this account's."""
        try:
            await self._buyer.look_patiently(task)
        except TaskFailed:
            return True
        except NovitaError as error:
            _log.info("an event names task %s, which cannot be had: %s", task.task_id, error)
            return False
        return True

    async def _found(self, callback: Callback, task: Task) -> None:
        purchases, purchase = self._buyer.purchases, callback.purchase
        self._buyer.callbacks.found(callback, task, anyio.current_time())
        if (
            purchase is None or purchase.state is not State.UNCERTAIN
        ):  # bought again meanwhile: this is one more
            purchase = Purchase(None, callback.endpoint, callback.images, state=State.UNCERTAIN)
        try:
            await purchases.record(purchase, Bought(anyio.current_time(), task))
        except Exception:  # noqa: BLE001 - whoever waits for the task must still be told
            _log.exception("task %s was found again, but could not be recorded", task.task_id)
        callback.found.set()
