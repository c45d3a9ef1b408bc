"""Finds lost purchases again: an event names a task, and the service is asked whether it knows it.

A purchase whose answer was lost has no task id. The token in its callback URL reveals the id when the task
ends. The id is only a claim until the service, asked with the key that paid, knows such a task.
"""

import asyncio
import logging
from typing import Final

import anyio
from attrs import define, field

from novita_async._submit.callbacks import Callback
from novita_async._submit.sender import Sender
from novita_async.errors import NovitaError, TaskFailed
from novita_async.events import Submitted
from novita_async.tasks import Task

_log: Final = logging.getLogger("novita_async")


@define(eq=False, repr=False)
class Finder:
    """Tries what events claim about lost purchases, in the background."""

    _sender: Sender
    _searches: "set[asyncio.Task[None]]" = field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self._sender.callbacks.search = self.search

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
            await self._sender.patiently(lambda: self._sender.look(task), self._sender.endpoints.task_result)
        except TaskFailed:
            return True
        except NovitaError as error:
            _log.info("an event names task %s, which cannot be had: %s", task.task_id, error)
            return False
        return True

    async def _found(self, callback: Callback, task: Task) -> None:
        self._sender.unfinished[task.task_id] = task
        self._sender.untold = [error for error in self._sender.untold if error is not callback.error]
        self._sender.callbacks.found(callback, task, anyio.current_time())
        try:
            if callback.tell is not None:
                await callback.tell(task)
        except Exception:  # noqa: BLE001 - whoever waits for the task must still be told
            _log.exception("task %s was found again, but could not be recorded", task.task_id)
        self._sender.emit(Submitted(task=task))
        callback.found.set()
