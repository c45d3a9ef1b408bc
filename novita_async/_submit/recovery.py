"""Finds lost purchases again: an event names a task, and the service is asked whether that task is real.

An attempt whose answer was lost has no task id. The token in its callback URL tells the id when the task
ends. That id is only a claim until the service, asked with the key that paid, knows such a task.
"""

import asyncio
import logging
from typing import Final, Protocol

from attrs import define, field

from novita_async._journal.postgres.lost import LeaseLost
from novita_async._purchase.machine import Bought, Purchase
from novita_async._submit.buyer import Buyer
from novita_async._submit.callbacks import Callback
from novita_async._util.clock import loop_time
from novita_async.errors import NovitaError, TaskFailed
from novita_async.tasks import Task

_log: Final = logging.getLogger("novita_async")


class Others(Protocol):
    """Purchases of other processes, in a database that all share."""

    async def tell(self, token: str, task_id: str) -> None:
        """Tell all other processes of an event."""
        ...

    async def lost(self, token: str) -> tuple[int, Purchase] | None:
        """Find a purchase of unknown end by its token, and where it is."""
        ...

    async def found(self, batch: int, purchase: Purchase, bought: Bought) -> None:
        """Keep the id of a task that was bought for it."""
        ...


@define(eq=False, repr=False)
class Recovery:
    """Tries the claims of events about lost purchases, in the background."""

    _buyer: Buyer
    _recoveries: "set[asyncio.Task[None]]" = field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self._buyer.callbacks.recover = self.recover

    def __repr__(self) -> str:
        return f"<Recovery: {len(self._recoveries)} claims under way>"

    async def aclose(self) -> None:
        """Try no more claims."""
        recoveries = tuple(self._recoveries)
        for recovery in recoveries:
            recovery.cancel()
        await asyncio.gather(*recoveries, return_exceptions=True)

    def leave_loop(self) -> None:
        """Forget claims of a loop that was left."""
        self._recoveries.clear()

    def recover(self, callback: Callback) -> None:
        """Start to try the claims about a lost attempt, unless that is under way."""
        if callback.is_recovering:
            return
        callback.is_recovering = True
        recovery = asyncio.get_running_loop().create_task(self._try_claims(callback))
        self._recoveries.add(recovery)
        recovery.add_done_callback(self._recoveries.discard)

    def pass_on(self, others: Others) -> None:
        """Let events be looked for among the purchases of other processes that we know nothing of."""

        def tell_others(token: str, task_id: str) -> None:
            task = asyncio.get_running_loop().create_task(self._find_elsewhere(others, token, task_id))
            self._recoveries.add(task)
            task.add_done_callback(self._recoveries.discard)

        self._buyer.callbacks.pass_on(tell_others)

    async def _find_elsewhere(self, others: Others, token: str, task_id: str) -> None:
        """Tell who lives; keep the id of a task that was bought by one that does not."""
        try:
            await others.tell(token, task_id)
            found = await others.lost(token)
            if found is None:
                return
            batch, purchase = found
            attempt = purchase.attempts[-1]
            task = Task(
                task_id=task_id,
                account=attempt.account,
                endpoint=purchase.endpoint,
                image_num=purchase.images,
                host=purchase.host,
            )
            if await self._knows(task):
                await others.found(batch, purchase, Bought(loop_time(), task, attempt.number or None))
        except NovitaError:
            _log.exception("an event about task %s could not be passed on", task_id)

    async def _try_claims(self, callback: Callback) -> None:
        try:
            while callback.claims and callback.task_id is None:
                callback.tries += 1
                attempt, purchase = callback.attempt, callback.purchase
                task = Task(
                    task_id=callback.claims.pop(0),
                    account=attempt.account,
                    endpoint=purchase.endpoint,
                    image_num=purchase.images,
                    host=purchase.host,
                    submitted_at=attempt.announced_at,
                )
                if await self._knows(task):
                    await self._found(callback, task)
        finally:
            callback.is_recovering = False

    async def _knows(self, task: Task) -> bool:
        """Whether the service knows a task that was claimed to be this account's."""
        try:
            await self._buyer.poll_patiently(task)
        except TaskFailed:
            return True
        except NovitaError as error:
            _log.info("an event names task %s, which cannot be had: %s", task.task_id, error)
            return False
        return True

    async def _found(self, callback: Callback, task: Task) -> None:
        self._buyer.callbacks.found(callback, task.task_id, loop_time())
        bought = Bought(loop_time(), task, callback.attempt.number or None)
        try:
            await self._buyer.purchases.record(callback.purchase, bought)
        except LeaseLost:  # which keeps the id all the same
            _log.info("task %s was found again; whoever takes its row next watches it", task.task_id)
        except Exception:  # noqa: BLE001 - the caller that waits for the task must still be told
            _log.exception("task %s was found again, but could not be recorded", task.task_id)
        callback.recovered()
