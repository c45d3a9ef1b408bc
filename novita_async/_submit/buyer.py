"""The one loop that buys.

    while the next action is SEND:
        permit  = a slot in a window, money of the budget, a callback     wait for them
        Announced                                                         durable, or nothing is sent
        fact    = carry(request)                                          Bought, NotBought or Lost
        settle(permit, fact)                                              slot and money follow from the fact
        record(purchase, fact)                                            journal, memory, observers
        pause, give up, or reopen                                         as the retry policy says

A submission is a purchase. Once its last byte may have been handed over it is not given up by a cancellation
before its answer is in, or `drain` seconds have passed. Where a journal must be written afterwards, or the
transport cannot leave an exchange, it runs in a task of its own; else that task is made only when a
cancellation comes: few do, and tasks cost.
"""

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import partial
from typing import Final, cast

import anyio
from attrs import define, field

from novita_async._api import protocol
from novita_async._http import Delivery, DeliveryFailed, HTTPRequest, HTTPResponse, LeavableTransport, Left
from novita_async._policy.retrying import Failure, Retry
from novita_async._policy.spending import Spending
from novita_async._purchase.journal import Purchases
from novita_async._purchase.machine import (
    LOST,
    REJECTED,
    SEND,
    SPENT,
    SUBMITTED,
    UNREACHED,
    UNSEEN,
    Announced,
    Bought,
    Fact,
    Lost,
    NotBought,
    Purchase,
    Reopened,
    Settlement,
    State,
    next_action,
    settlement,
)
from novita_async._submit.asker import Asker, is_lasting, without_key
from novita_async._submit.callbacks import Callback
from novita_async._submit.pool import Permit as PoolPermit
from novita_async._util.clock import loop_time
from novita_async._util.scopes import see_out, see_through
from novita_async.errors import APIError, NotSent, NovitaError, RateLimited, SubmissionUncertain
from novita_async.events import AccountDisabled, Retrying
from novita_async.tasks import Task

_TOKEN_BYTES: Final = 16


@define(eq=False)
class Permit:
    """What one attempt may use. It is settled once, by what came of the attempt."""

    lease: PoolPermit
    http: HTTPRequest
    cost: Decimal | None
    callback: Callback | None = None
    handed_over: bool = False
    failure: Failure | None = None
    """What the retry policy needs to know; None where it is not asked."""
    retry_after: float | None = None
    cancellation: asyncio.CancelledError | None = None
    """What broke it off."""
    tripped: bool = False
    """Whether the account's breaker decides about the next attempt's time, for all."""

    @property
    def label(self) -> str:
        return self.lease.account.label

    def hand_over(self) -> None:
        self.handed_over = True


@define(eq=False, repr=False, kw_only=True)
class Buyer(Asker):
    """Buys for one client."""

    purchases: Purchases
    drain: float
    """Seconds for which a cancelled purchase that was handed over is still waited for."""
    spending: Spending | None = None
    """What may be spent. None: as much as the accounts have."""
    _refunded: anyio.Event = field(factory=anyio.Event, init=False)
    """Set when reserved money was spent or given back."""
    _leavable: LeavableTransport | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        leavable = isinstance(self.transport, LeavableTransport) and self.drain > 0
        self._leavable = cast("LeavableTransport", self.transport) if leavable else None

    def __repr__(self) -> str:
        return f"<Buyer {self.pool!r}, {self.purchases!r}>"

    # --- The loop -------------------------------------------------------------------------------------------

    async def buy(  # noqa: C901, PLR0912 (the loop, whole)
        self, purchase: Purchase, *, interactive: bool = False, hold: float = 0.0, patient: bool = False
    ) -> Task:
        """Send a purchase until it is bought.

        Args:
            purchase: What to buy. However this ends, it says so.
            interactive: Go before those that are not.
            patient: Wait out an outage of any length, rather than `RetryPolicy.max_elapsed`.
            hold: Seconds to wait for the event of an attempt whose answer was lost, where it has a callback.

        Raises:
            SubmissionUncertain: perhaps bought.
            NovitaError: certainly not bought.
        """
        http = protocol.submission(purchase.wish, self.endpoints)
        purchase.endpoint = http.path
        number, spent, again = 1, 0.0, False
        began_at: float | None = None
        lost: Callback | None = None
        while next_action(purchase) is SEND:
            cost: Decimal | None = None
            try:
                cost = await self._reserve(purchase, self.spending) if self.spending else None
                lease = await self.pool.acquire(
                    http.path,
                    purchase.images,
                    interactive=interactive,
                    again=again,
                    max_outage=math.inf if patient else max(0.0, self.retry.max_elapsed - spent),
                    on_wait=self.emit,
                )
            except BaseException as error:
                if cost is not None:
                    self._settle_cost(cost, bought=False)
                if not isinstance(error, NovitaError):
                    raise
                if isinstance(error, NotSent) and isinstance(purchase.error, NotSent):
                    error = purchase.error  # its own attempt tells more than the outage of all
                return await self._give_up(purchase, error, lost, hold)
            permit = Permit(lease, http, cost)
            await self._attempt(purchase, permit)
            if lost is not None and purchase.state is not State.PLANNED:
                self.callbacks.replaced(lost)
            if purchase.state is SUBMITTED:
                break
            lost = permit.callback if purchase.state is State.UNCERTAIN else lost
            now = loop_time()
            began_at = permit.lease.slot.announced_at if began_at is None else began_at
            spent += now - permit.lease.slot.announced_at
            if permit.tripped and not isinstance(purchase.error, RateLimited):  # all of the outage counts
                spent = max(spent, now - began_at)
            try:
                elapsed = 0.0 if patient and permit.tripped else spent
                pause = self._next_pause(purchase, permit, number, elapsed)
            except NovitaError as error:
                return await self._give_up(purchase, error, lost, hold)
            if purchase.state is State.UNCERTAIN:  # the retry policy risks paying twice
                await self.purchases.record(purchase, Reopened(loop_time()))
            if pause is not None:
                number += 1
                if isinstance(purchase.error, RateLimited) or not permit.tripped:
                    spent += pause
                if not permit.tripped:
                    await anyio.sleep(pause)
            again = True
        return purchase.paid_task

    async def _reserve(self, purchase: Purchase, spending: Spending) -> Decimal:
        """Wait for money: what others have reserved may come back. Raises `BudgetExhausted`."""
        while (cost := spending.take(purchase.wish)) is None:
            if self._refunded.is_set():
                self._refunded = anyio.Event()
            await self._refunded.wait()
        return cost

    def _settle_cost(self, cost: Decimal, *, bought: bool) -> None:
        cast("Spending", self.spending).settle(cost, bought=bought)
        self._refunded.set()

    async def _attempt(self, purchase: Purchase, permit: Permit) -> None:
        """Send once, in a way that outlives a cancellation if it must."""
        if self.callbacks.base is not None:
            self._address(purchase, permit)
        account, leavably = permit.lease.account, None
        announced, key = Announced(permit.lease.slot.announced_at, account.label), account.api_key
        if purchase.journal is None:
            self.purchases.happen(purchase, announced)
            if self._leavable is not None:
                leavably = self._leavable.leavably(permit.http, key, on_handover=permit.hand_over)
        else:
            await self._promise(purchase, permit, announced)
        if leavably is None:
            send = partial(self.transport.send, permit.http, key, on_handover=permit.hand_over)
            await see_through(
                self._carry(purchase, permit, send), lambda: self.drain if permit.handed_over else 0.0
            )
            return
        try:
            await self._carry(purchase, permit, leavably)
        except Left as left:
            await see_out(self._carry(purchase, permit, left.rest), self.drain)
            permit.cancellation = cast("asyncio.CancelledError", left.cancellation)
        if permit.cancellation is not None:
            raise permit.cancellation

    async def _carry(
        self, purchase: Purchase, permit: Permit, send: Callable[[], Awaitable[HTTPResponse]]
    ) -> None:
        """Exchange, read, settle, record. What the exchange ends with is a fact, and is not raised."""
        try:
            response = await send()
            self.reached = True
        except DeliveryFailed as failed:
            fact = self._failed(purchase, permit, failed)
        except NovitaError as error:  # the body could not be made: a picture changed under our hands
            fact = NotBought(loop_time(), error, seen=False)
        except asyncio.CancelledError as cancellation:
            permit.cancellation = cancellation
            reach = Delivery.UNKNOWN if permit.handed_over else Delivery.NOT_SENT
            fact = self._failed(purchase, permit, DeliveryFailed(reach, "cancelled before the answer came"))
        else:
            fact = self._answered(purchase, permit, without_key(response, permit.lease.account.api_key))
        self._settle(permit, settlement(fact), fact.at)
        if permit.callback is not None:
            self._settle_callback(permit.callback, purchase, fact)
        if purchase.journal is None:
            self.purchases.happen(purchase, fact)
        else:
            await self.purchases.record(purchase, fact)

    async def _promise(self, purchase: Purchase, permit: Permit, announced: Announced) -> None:
        """Announce it durably. Where somebody cancels meanwhile, nothing is sent."""
        cancelling = _cancelling()
        try:
            await asyncio.sleep(
                0
            )  # a cancellation that the journal has put off comes here, before it is announced
            await self.purchases.record(purchase, announced)
        except BaseException:
            self._settle(permit, UNSEEN, announced.at)
            raise
        if _cancelling() > cancelling:
            await see_through(self._carry(purchase, permit, _never), lambda: self.drain)

    # --- What became of it ----------------------------------------------------------------------------------

    def _answered(self, purchase: Purchase, permit: Permit, response: HTTPResponse) -> Fact:
        try:
            task_id = protocol.read_submission(response, permit.http.path, purchase.images)
        except NovitaError as error:
            return self._refused(permit, response, error)
        if response.early:  # an answer to something else: this was never sent whole
            permit.failure = Failure(delivery=Delivery.NOT_SENT, purchase=True)
            stale = NotSent(cause="an answer came before it was asked for", account=permit.label)
            return NotBought(loop_time(), stale, seen=False)
        now = loop_time()
        task = Task(
            task_id=task_id,
            account=permit.lease.account.label,
            endpoint=permit.http.path,
            image_num=purchase.images,
            submitted_at=now,
        )
        self.pool.enable(permit.lease)
        return Bought(now, task)

    def _refused(self, permit: Permit, response: HTTPResponse, error: NovitaError) -> Fact:
        permit.retry_after = self._retry_after(response)
        if response.early and isinstance(error, SubmissionUncertain):  # half a request buys nothing
            error = NotSent(cause=error.cause, status=response.status)
        error.account = permit.label
        if isinstance(error, APIError):
            error.retry_after = permit.retry_after
        if error.scope == "account" and self.pool.disable(permit.label, error):
            self.emit(AccountDisabled(account=permit.label, error=error))
        permit.failure = Failure(
            delivery=Delivery.NOT_SENT if response.early else Delivery.ANSWERED,
            purchase=True,
            status=response.status,
            reason=error.reason,
            retry_after=permit.retry_after,
        )
        if isinstance(error, SubmissionUncertain):
            return Lost(loop_time(), error)
        return NotBought(loop_time(), error, seen=not response.early)

    def _failed(self, purchase: Purchase, permit: Permit, failed: DeliveryFailed) -> Fact:
        if failed.status is not None and 400 <= failed.status < 500:  # noqa: PLR2004 (the class of 4xx)
            # A refusal whose explanation broke off is a refusal.
            return self._answered(purchase, permit, HTTPResponse(status=failed.status))
        permit.failure = Failure(delivery=failed.delivery, purchase=True, status=failed.status)
        if failed.delivery is Delivery.NOT_SENT:
            error = NotSent(cause=failed.cause, attempts=purchase.attempts, account=permit.label)
            lasting = is_lasting(failed.cause, reached=self.reached)
            if lasting:  # told at once, and not by each request of a stream
                error.scope, error.retryable = "account", False
                if self.pool.disable(permit.label, error):
                    self.emit(AccountDisabled(account=permit.label, error=error))
            reached = permit.cancellation is not None or lasting
            return NotBought(loop_time(), error, seen=False, reached=reached)
        return Lost(
            loop_time(),
            SubmissionUncertain(
                cause=failed.cause,
                endpoint=permit.http.path,
                images=purchase.images,
                status=failed.status,
                account=permit.label,
            ),
        )

    def _settle(self, permit: Permit, settled: Settlement, now: float) -> None:
        """Give back, hold or take what the attempt was given."""
        notice = self.pool.settle(
            permit.lease, settled, now, retry_after=permit.retry_after, jitter=self.jitter()
        )
        if notice is not None:
            self.emit(notice)
        permit.tripped = settled is REJECTED or settled is LOST or settled is UNREACHED
        if permit.cost is not None:
            self._settle_cost(permit.cost, bought=settled is SPENT or settled is LOST)

    def _next_pause(self, purchase: Purchase, permit: Permit, number: int, spent: float) -> float | None:
        """Seconds until the next attempt. None: at once, by another account. Raises where there is none."""
        error = cast("NovitaError", purchase.error)
        if error.scope == "endpoint":
            self.pool.retire(permit.http.path, error)
        elif error.scope == "account":
            return None
        if permit.failure is None:
            raise error
        decision = self.retry.decide(permit.failure, attempt=number, elapsed=spent, jitter=self.jitter())
        if not isinstance(decision, Retry):
            raise error
        self.emit(
            Retrying(
                account=permit.label,
                endpoint=permit.http.path,
                attempt=number,
                after=decision.after,
                error=error,
            )
        )
        return decision.after

    async def _give_up(
        self, purchase: Purchase, last: NovitaError, lost: Callback | None, hold: float
    ) -> Task:
        """End in doubt where any attempt may have been bought, unless an event tells its task in time.

        Raises:
            NovitaError: none does. That a later attempt was refused does not undo the lost one.
        """
        doubt = purchase.doubt
        if doubt is None:
            raise last
        if purchase.state is State.PLANNED:
            await self.purchases.record(purchase, Lost(loop_time(), doubt))
        if lost is not None:
            with anyio.move_on_after(hold):
                await lost.found.wait()
            if purchase.task is None and lost.task is not None:  # found while a later attempt was under way
                await self.purchases.record(purchase, Bought(loop_time(), lost.task))
            if purchase.task is not None:
                return purchase.task
        if doubt is last:
            raise last
        raise doubt from last

    # --- Callbacks ------------------------------------------------------------------------------------------

    def _address(self, purchase: Purchase, permit: Permit) -> None:
        """Give an attempt a callback URL of its own, where it can have one."""
        request = purchase.wish
        if not protocol.takes_callback(request):
            return
        token = secrets.token_hex(_TOKEN_BYTES)
        permit.callback = self.callbacks.issue(
            token, permit.label, permit.http.path, purchase.images, loop_time()
        )
        permit.http = protocol.submission(request, self.endpoints, permit.callback.url)

    def _settle_callback(self, callback: Callback, purchase: Purchase, fact: Fact) -> None:
        if isinstance(fact, Bought):
            self.callbacks.bought(callback, fact.task, loop_time())
        elif isinstance(fact, Lost):
            callback.purchase = purchase
            self.callbacks.lost(callback, fact.error)
        else:
            self.callbacks.forget(callback)


async def _never() -> HTTPResponse:
    raise DeliveryFailed(Delivery.NOT_SENT, "cancelled before it was sent")


def _cancelling() -> int:
    """How often this task is being cancelled."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0
