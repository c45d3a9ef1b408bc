"""The one loop that buys.

    while the next action is SEND:
        permit  = money of the budget, a slot in a window, a callback     wait for them
        admit     Announced                                               durable, or nothing is sent
        fact    = the exchange                                            Bought, NotBought or Lost
        settle    slot, money, breaker and record                         follow from the fact alone
        pause, another account, reopen, or give up                        as the retry policy says

A submission is a purchase. Once its last byte may have been handed over, a cancellation waits until the
answer is in, or `drain` seconds have passed. Where a journal must be written afterwards, or the transport
cannot detach an exchange, the attempt runs in a task of its own; else that task is made only when a
cancellation comes: few do, and tasks cost. A cancellation that comes before the exchange sends nothing.

A lost answer: once the last byte was handed over, whatever ends the exchange is `Lost` (`_failed`), as is an
answer that says neither yes nor no (`_refused`). Its money is spent, its slot is held for a minute, and the
account's breaker trips (`_settle`). The purchase is uncertain. By default it is not sent again: its caller
waits `recovery_timeout` for the event of its callback, then hears of the doubt (`_give_up`), which no later
refusal undoes. Where the retry policy risks paying twice, the purchase is reopened (`_go_on`), and an event
that tells its task meanwhile ends the loop.
"""

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, cast

import anyio
from attrs import define, evolve, field

from novita_async._api import protocol
from novita_async._http import (
    Delivery,
    DeliveryFailed,
    DetachableTransport,
    Detached,
    HTTPRequest,
    HTTPResponse,
)
from novita_async._policy.retrying import Failure, Retry, RetryPolicy, decide
from novita_async._policy.spending import Spending
from novita_async._purchase.journal import Deferred
from novita_async._purchase.machine import (
    LOST,
    PLANNED,
    REJECTED,
    SEND,
    SPENT,
    UNCERTAIN,
    UNREACHED,
    UNSEEN,
    Announced,
    Bought,
    Completed,
    IllegalTransition,
    Lost,
    NotBought,
    Purchase,
    Reopened,
    Settlement,
    SharedQuota,
    Verdict,
    next_action,
    settlement,
)
from novita_async._submit.asker import Asker, without_key
from novita_async._submit.callbacks import Callback
from novita_async._submit.pool import Grant
from novita_async._submit.purchases import Purchases
from novita_async._util.clock import loop_time
from novita_async._util.scopes import finish_detached, is_terminated, run_shielded
from novita_async.errors import (
    APIError,
    ConfigurationError,
    JournalError,
    NotSent,
    NovitaError,
    RateLimited,
    SubmissionUncertain,
)
from novita_async.events import AccountDisabled, Retrying
from novita_async.models.requests import NovitaRequest
from novita_async.models.results import Files, TaskResult, of_task, with_files
from novita_async.models.routes import living_like
from novita_async.tasks import Task

_TOKEN_BYTES: Final = 16
NOTHING_TO_ASK: Final = (
    "perhaps paid; the results were to come in the answer, and no id can ask for them again; it is not sent "
    "again by itself, because that may pay twice; look at the account's bill, then decide"
)
"""Advice about a purchase of unknown end on a route that answers at once."""
_TERMINATED: Final = "the program is being terminated"
_LATE: Final = "this process has not told the others for so long that it lives that they may take it for dead"


class Leased(Protocol):
    """Lease of a process on windows that others share; valid while the process says that it lives."""

    @property
    def sends_until(self) -> float:
        """Until when this process may send."""
        ...


Put = Callable[[TaskResult, dict[int, str]], Awaitable[None]]
"""Puts the files of a result; takes in the address of each, by its place in `artifacts`."""


@define(eq=False, repr=False)
class Permit:
    """Slot, money and callback of an attempt. Settled once, by the fact that the attempt ends in."""

    grant: Grant
    """The slot in a window."""
    http: HTTPRequest
    """The request on the wire."""
    cost: Decimal | None
    """Reserved money. None: there is no budget."""
    at_once: bool = False
    """Whether the route answers with the results themselves, and with nothing else."""
    put: Put | None = None
    """Puts files that come in the answer where others find them. None: a folder keeps them."""
    token: str | None = None
    """Secret of the callback. None: there is no callback."""
    callback: Callback | None = None
    """Where the event of this attempt will be told, once the attempt is announced."""
    handed_over: bool = False
    """Whether the last byte may be on the wire."""
    failure: Failure | None = None
    """The facts for the retry policy; None where the policy is not asked."""
    retry_after: float | None = None
    """Seconds that the service asked to wait."""
    cancellation: asyncio.CancelledError | None = None
    """The cancellation that broke the exchange off."""
    tripped: bool = False
    """Whether the account's breaker decides when the next attempt goes, for all."""
    lease: Leased | None = None
    """Whose windows processes share. None: they are this client's alone."""
    place: object = None
    """Place in the windows of the client's shared quota."""
    late: bool = False
    """Whether nothing was sent because the lease had run out."""

    @property
    def label(self) -> str:
        return self.grant.account.label

    def hand_over(self) -> None:
        """Note that the last byte goes out now. Raises `DeliveryFailed` where nothing may be sent now."""
        if is_terminated():
            raise DeliveryFailed(Delivery.NOT_SENT, _TERMINATED, passes=False)
        if self.lease is not None and loop_time() >= self.lease.sends_until:
            self.late = True
            raise DeliveryFailed(Delivery.NOT_SENT, _LATE)
        self.handed_over = True


@define(eq=False, repr=False)
class _Effort:
    """A call of `buy`: the state that all its attempts share."""

    interactive: bool
    patient: bool
    recovery_timeout: float
    hosts: tuple[str, ...]
    longest: float = math.inf
    """Seconds for which the caller waits for results that come at once."""
    put: Put | None = None
    """Puts files that come in the answer where others find them. None: a folder keeps them."""
    number: int = 1
    """The attempt that the retry policy is asked about, from 1."""
    began_at: float | None = None
    """When the first attempt was announced, or when the wait for an outage before it began."""
    spent: float = 0.0
    """Seconds that count against the retry policy: attempts, pauses, outages; not the wait for the quota."""
    turn: int | None = None
    """The place in line of the first attempt, which the next ones keep."""
    recovered: anyio.Event | None = None
    """Set once an event has told the task of a lost attempt. None: no lost attempt has a callback."""


@define(eq=False, repr=False, kw_only=True)
class Buyer(Asker):
    """Buys for one client."""

    purchases: Purchases
    drain: float
    """Seconds for which a cancelled purchase that was handed over is still waited for."""
    spending: Spending | None = None
    """The budget. None: as much as the accounts have."""
    quota: SharedQuota | None = None
    """Windows that processes share, for purchases that no shared journal keeps."""
    keep: Callable[[TaskResult, Path, dict[int, Path]], Awaitable[None]] = field(init=False)
    """Makes results that came at once durable in a folder, before a journal says that they came."""
    files: Files = field(init=False)
    """Fetches and saves the files of the results that are handed out."""
    _refunded: anyio.Event = field(factory=anyio.Event, init=False)
    """Set when reserved money was spent or given back."""
    _waiting_in: asyncio.AbstractEventLoop | None = field(default=None, init=False)
    """The loop of that event."""
    _detaching: Mapping[int, DetachableTransport] = field(init=False)
    """Carriers, by their `id`, whose exchanges can outlive the task that began them."""

    def __attrs_post_init__(self) -> None:
        carriers = (self.transport, *self.carriers.values()) if self.drain > 0 else ()
        self._detaching = {id(each): each for each in carriers if isinstance(each, DetachableTransport)}
        self.on_move(self.pool.leave_loop)

    def with_options(self, retry: RetryPolicy | None, spending: Spending | None) -> "Buyer":
        """A buyer beside this one: of the same pool and purchases, with a policy or a budget of its own."""
        other = copy(self)
        other.retry = retry or self.retry
        if spending is not None:
            other.spending, other._waiting_in = spending, None  # noqa: SLF001 - of this class
        return other

    def __repr__(self) -> str:
        return f"<Buyer {self.pool!r}, {self.purchases!r}>"

    # --- The loop -------------------------------------------------------------------------------------------

    async def buy(
        self,
        purchase: Purchase,
        *,
        interactive: bool = False,
        patient: bool = False,
        recovery_timeout: float = 0.0,
        folder: Path | None = None,
        put: Put | None = None,
        longest: float | None = None,
    ) -> Task | None:
        """Send a purchase until it is bought. Returns its task; None where the results came at once.

        Args:
            purchase: The purchase. Its record says how this ended.
            interactive: Go before purchases that are not.
            patient: Wait out an outage of any length, rather than `RetryPolicy.max_elapsed`.
            recovery_timeout: Seconds to wait for the event of an attempt whose answer was lost, where it has
                a callback.
            folder: Where files go that come in the answer. None: where they are removed with the transport.
            put: Puts such files into a storage besides, before a journal says that they came.
            longest: Seconds for which the caller waits for results that come at once.

        Raises:
            SubmissionUncertain: perhaps bought.
            NovitaError: certainly not bought.
        """
        self.at_home()
        wish = purchase.wish
        http = protocol.submission(wish, self.endpoints, folder=folder, longest=longest)
        purchase.endpoint = http.path
        effort = _Effort(interactive, patient, recovery_timeout, self.hosts_of(wish))
        effort.longest, effort.put = math.inf if longest is None else longest, put
        while next_action(purchase) is SEND:
            try:
                at_once = self._permit_at_once(purchase, http, effort)
                permit = at_once or await self._permit(purchase, http, effort)
                await self._attempt(purchase, permit)
                if next_action(purchase) is SEND or purchase.state is UNCERTAIN:
                    await self._go_on(purchase, permit, effort)
            except Deferred as deferred:
                if self._lease_of(purchase) is None:  # else the pool holds the whole line back
                    await self._pause(effort, deferred.until)
            except IllegalTransition:  # an event has told the task while the store was asked
                if purchase.task is None:
                    raise
            except NovitaError as error:
                # A task that is known by now was told by an event, while a permit was waited for.
                if purchase.task is None or isinstance(error, JournalError):
                    return await self._give_up(purchase, error, effort)
        return purchase.task

    def _permit_at_once(self, purchase: Purchase, http: HTTPRequest, effort: _Effort) -> Permit | None:
        """Give the usual permit: no budget, and a slot that nobody waits for. None: wait for one."""
        if self.spending is not None:
            return None
        lease = self._lease_of(purchase)
        try:
            shared = lease is not None
            grant = self.pool.grant_at_once(http.path, purchase.images, effort.hosts, shared=shared)
        except NovitaError:  # which waiting raises, too
            return None
        return None if grant is None else self._permit_of(purchase, http, effort, grant, None)

    async def _permit(self, purchase: Purchase, http: HTTPRequest, effort: _Effort) -> Permit:
        """Wait for money, and for a slot in some account's window. Raises `NovitaError`: none will come."""
        cost = await self._reserve(purchase, self.spending) if self.spending else None
        try:
            left = max(0.0, self.retry.max_elapsed - effort.spent)
            grant = await self.pool.acquire(
                http.path,
                purchase.images,
                effort.hosts,
                interactive=effort.interactive,
                turn=effort.turn,
                shared=self._lease_of(purchase) is not None,
                max_outage=math.inf if effort.patient else left,
                on_wait=lambda paced: self.emit(evolve(paced, purchase=purchase.id)),
                ask=self.probe,
            )
        except BaseException as error:
            if cost is not None:
                self._settle_cost(cost, bought=False)
            if isinstance(error, NotSent) and isinstance(purchase.error, NotSent):
                raise purchase.error from None  # the attempt's own tells more than the outage of all
            raise
        return self._permit_of(purchase, http, effort, grant, cost)

    def _permit_of(
        self, purchase: Purchase, http: HTTPRequest, effort: _Effort, grant: Grant, cost: Decimal | None
    ) -> Permit:
        """Put slot and money together, and a callback where there are any."""
        wish, effort.turn = purchase.wish, grant.turn
        row = wish.row
        at_once = row is not None and row.answer == "at_once"
        permit = Permit(grant, http, cost, at_once=at_once, lease=self._lease_of(purchase), put=effort.put)
        if self.callbacks.base is not None and wish.takes_callback:
            permit.token = secrets.token_hex(_TOKEN_BYTES)
            url = self.callbacks.url_of(permit.token)
            told = protocol.submission(wish, self.endpoints, url)
            permit.http = evolve(http, body=told.body, parts=told.parts)
        return permit

    def hosts_of(self, request: NovitaRequest) -> tuple[str, ...]:
        """Names of the hosts that serve a request's route. Empty: any.

        Raises:
            ConfigurationError: no account belongs to one of them. Nothing was bought.
        """
        row = request.row
        if row is None or not row.hosts or self.pool.serves(row.hosts):
            return () if row is None else row.hosts
        if not request.is_face:  # the path was written by hand, and the table may be old
            return ()
        own = self.pool.hosts
        living = living_like(self.endpoints.path_of(request))
        names = [
            each.models[0] for each in living if each.models and any(host.serves(each.hosts) for host in own)
        ]
        beside = f"; served there: {', '.join(names)}" if names else ""
        raise ConfigurationError(
            problem=f"{row.name} is served by {', '.join(row.hosts)}, and no account belongs there",
            advice=f"nothing was bought; add Account(api_key=…, host=Host.{row.hosts[0].upper()}){beside}",
            scope="endpoint",
        )

    def _lease_of(self, purchase: Purchase) -> Leased | None:
        """Whose windows processes share: those of the journal, or the quota's. None: they are ours alone."""
        journal: Any = purchase.journal
        if journal is not None and hasattr(journal, "sends_until"):
            return cast("Leased", journal)
        return self.quota

    async def _go_on(self, purchase: Purchase, permit: Permit, effort: _Effort) -> None:
        """Pause before the next attempt. Raises `NovitaError`: there is none."""
        if purchase.state is UNCERTAIN and permit.callback is not None:
            effort.recovered = effort.recovered or anyio.Event()
            permit.callback.recovered = effort.recovered.set
        now, announced_at = loop_time(), permit.grant.slot.announced_at
        effort.began_at = announced_at - permit.grant.outage if effort.began_at is None else effort.began_at
        effort.spent += now - announced_at
        limited = isinstance(purchase.error, RateLimited)
        if permit.tripped and not limited:  # all of the outage counts
            effort.spent = max(effort.spent, now - effort.began_at)
        spent = 0.0 if effort.patient and permit.tripped else effort.spent
        if permit.at_once and purchase.state is UNCERTAIN and now - announced_at >= effort.longest:
            raise cast("NovitaError", purchase.error)  # the caller did not wait for it, nor for another
        pause = self._next_pause(purchase, permit, effort.number, spent)
        if purchase.state is UNCERTAIN:  # the retry policy risks paying twice
            await self.purchases.record(purchase, Reopened(loop_time()))
        if pause is not None:
            effort.number += 1
            if limited or not permit.tripped:
                effort.spent += pause
            if not permit.tripped:
                await self._pause(effort, loop_time() + pause)

    async def _pause(self, effort: _Effort, until: float) -> None:
        """Wait for the next attempt, in a loop that nobody may leave meanwhile."""
        self.pool.pausing.add(effort)
        try:
            await anyio.sleep_until(until)
        finally:
            self.pool.pausing.discard(effort)

    async def _reserve(self, purchase: Purchase, spending: Spending) -> Decimal:
        """Wait for money: reservations of others may come back. Raises `BudgetExhausted`."""
        while (cost := spending.take(purchase.wish)) is None:
            if self._refunded.is_set() or self._waiting_in is not self._home.loop:
                self._refunded, self._waiting_in = anyio.Event(), self._home.loop
            await self._refunded.wait()
        return cost

    def _settle_cost(self, cost: Decimal, *, bought: bool) -> None:
        cast("Spending", self.spending).settle(cost, bought=bought)
        self._refunded.set()

    async def _attempt(self, purchase: Purchase, permit: Permit) -> None:
        """Send once, in a way that outlives a cancellation if it must. Raises `Deferred`: not sent."""
        if next_action(purchase) is not SEND:  # an event has told the task while the permit was waited for
            self._settle(permit, UNSEEN, loop_time())
            return
        if is_terminated():  # a stream beside a batch is not cancelled, and buys nothing more all the same
            self._settle(permit, UNSEEN, loop_time())
            raise NotSent(
                cause=_TERMINATED,
                attempts=purchase.attempt,
                scope="account",
                retryable=False,
                advice="nothing was bought; send it again when the program runs again",
            )
        account, detachable = permit.grant.account, None
        announced = Announced(permit.grant.slot.announced_at, account.label, permit.token, permit.grant.host)
        carrier = self.carrier_of(account)
        key = account.api_key
        if purchase.journal is None and permit.lease is None:
            self.purchases.happen(purchase, announced)
            if permit.token is not None:
                self._expect_event(purchase, permit, permit.token)
            detaching = self._detaching.get(id(carrier))
            if detaching is not None:
                detachable = detaching.detachable(permit.http, key, on_handover=permit.hand_over)
        else:
            await self._admit(purchase, permit, announced)
        if detachable is None:
            send = partial(carrier.send, permit.http, key, on_handover=permit.hand_over)
            await run_shielded(
                self._carry(purchase, permit, send), lambda: self.drain if permit.handed_over else 0.0
            )
            return
        try:
            await self._carry(purchase, permit, detachable)
        except Detached as detached:
            await finish_detached(self._carry(purchase, permit, detached.rest), self.drain)
            permit.cancellation = cast("asyncio.CancelledError", detached.cancellation)
        if permit.cancellation is not None:
            raise permit.cancellation

    async def _admit(self, purchase: Purchase, permit: Permit, announced: Announced) -> None:
        """Promise an attempt durably. Where a cancellation comes meanwhile, nothing is sent."""
        cancelling = _cancelling()
        try:
            await asyncio.sleep(0)  # a cancellation that the journal has put off comes here
            await self._promise(purchase, permit, announced)
        except BaseException as error:
            if isinstance(error, Deferred):
                self.pool.deferred(permit.grant, error.until, error.places)
            self._settle(permit, UNSEEN, announced.at)
            raise
        self.pool.admitted(permit.grant)
        if permit.token is not None:
            self._expect_event(purchase, permit, permit.token)
        if _cancelling() > cancelling:
            await run_shielded(self._carry(purchase, permit, _never), lambda: self.drain)

    async def _promise(self, purchase: Purchase, permit: Permit, announced: Announced) -> None:
        """Take a place where processes share a quota, and let the journal keep the announcement."""
        quota, journal = self.quota, purchase.journal
        if quota is not None and permit.lease is quota:
            permit.place = await quota.take(purchase, announced)
        if journal is None:
            self.purchases.happen(purchase, announced)
            return
        try:
            await self.purchases.admit(journal, purchase, announced, permit.cost)
        except BaseException:
            if quota is not None and permit.place is not None:
                quota.settle(permit.place, NotBought(announced.at, NotSent(cause="", attempts=0), seen=False))
            raise

    def _expect_event(self, purchase: Purchase, permit: Permit, token: str) -> None:
        permit.callback = self.callbacks.expect(token, purchase, purchase.attempts[-1])

    async def _carry(
        self, purchase: Purchase, permit: Permit, send: Callable[[], Awaitable[HTTPResponse]]
    ) -> None:
        """Exchange, read, settle, record. An exchange ends in a fact, never in an exception."""
        try:
            response = await send()
        except DeliveryFailed as failed:
            fact = self._failed(purchase, permit, failed)
        except NovitaError as error:  # the body could not be made: a picture changed under our hands
            fact = NotBought(loop_time(), error, seen=False)
        except asyncio.CancelledError as cancellation:
            permit.cancellation = cancellation
            reach = Delivery.UNKNOWN if permit.handed_over else Delivery.NOT_SENT
            fact = self._failed(purchase, permit, DeliveryFailed(reach, "cancelled before the answer came"))
        else:
            fact = self._answered(purchase, permit, without_key(response, permit.grant.account.api_key))
        if type(fact) is Lost:
            fact.error.purchase = purchase.id
            fact.error.advice = NOTHING_TO_ASK if permit.at_once else fact.error.advice
        if type(fact) is Completed and purchase.journal is not None:
            fact = await self._kept(fact, permit)
        self._end(permit, fact)
        if purchase.journal is None:
            self.purchases.happen(purchase, fact)
            if permit.callback is not None:
                self.callbacks.settle(permit.callback, fact.at)
            return
        try:
            await self.purchases.settle(purchase.journal, purchase, fact)
        finally:
            if permit.callback is not None:
                self.callbacks.settle(permit.callback, fact.at)

    async def _kept(self, fact: Completed, permit: Permit) -> Completed:
        """Make results durable that came at once. If cancelled meanwhile, the rest stays as it is."""
        if permit.http.folder is None and permit.put is None:
            return fact
        kept: dict[int, Path] = {}
        put: dict[int, str] = {}
        try:
            if permit.put is not None:
                await permit.put(fact.result, put)
            if permit.http.folder is not None and len(put) < len(fact.result.artifacts):
                await self.keep(fact.result, permit.http.folder, kept)
        except asyncio.CancelledError as cancellation:
            permit.cancellation = cancellation
        return Completed(fact.at, with_files(fact.result, {**kept, **put}))

    # --- What became of it ----------------------------------------------------------------------------------

    def _answered(self, purchase: Purchase, permit: Permit, response: HTTPResponse) -> Verdict:
        try:
            path, images = permit.http.path, purchase.images
            answer = protocol.read_submission(response, path, images, at_once=permit.at_once)
        except NovitaError as error:
            return self._refused(permit, response, error)
        now = loop_time()
        self.pool.enable(permit.grant)
        if not isinstance(answer, str):
            named = answer.task and _task_of(answer.task.task_id, purchase, permit, now)
            return Completed(now, of_task(answer, named))
        return Bought(now, _task_of(answer, purchase, permit, now), purchase.attempt)

    def _refused(self, permit: Permit, response: HTTPResponse, error: NovitaError) -> Verdict:
        permit.retry_after = self._retry_after(response)
        error.account = permit.label
        if isinstance(error, APIError):
            error.retry_after = permit.retry_after
        if error.scope == "account":
            self._disable(permit, error)
        permit.failure = protocol.failed_purchase(response.status, error, permit.retry_after)
        if isinstance(error, SubmissionUncertain):
            return Lost(loop_time(), error)
        reached = response.early or not isinstance(error, NotSent)
        return NotBought(loop_time(), error, seen=reached and not response.early, reached=reached)

    def _disable(self, permit: Permit, error: NovitaError) -> None:
        if self.pool.disable(permit.label, error):
            self.emit(AccountDisabled(account=permit.label, error=error))

    def _failed(self, purchase: Purchase, permit: Permit, failed: DeliveryFailed) -> Verdict:
        if failed.status is not None and protocol.is_plain(failed.status):
            # A refusal whose explanation broke off is a refusal.
            early = failed.delivery is Delivery.NOT_SENT
            return self._answered(purchase, permit, HTTPResponse(status=failed.status, early=early))
        permit.failure = Failure(
            perhaps_bought=failed.delivery is not Delivery.NOT_SENT, passes=failed.passes
        )
        if failed.delivery is Delivery.NOT_SENT:
            error = NotSent(
                cause=failed.cause,
                attempts=purchase.attempt,
                account=permit.label,
                retryable=failed.passes,
            )
            if not failed.passes:  # told at once, and not by each request of a stream
                error.scope = "account"
                self._disable(permit, error)
            reached = permit.cancellation is not None or permit.late or not failed.passes  # nothing trips
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

    def _end(self, permit: Permit, fact: Verdict) -> None:
        """Let slot, money and breaker, and the quota that processes share, follow from the verdict."""
        self._settle(permit, settlement(fact), fact.at)
        if self.quota is not None and permit.place is not None:
            self.quota.settle(permit.place, fact)

    def _settle(self, permit: Permit, settled: Settlement, now: float) -> None:
        """Give back, hold or take what the attempt was given."""
        permit.tripped = settled is REJECTED or settled is LOST or settled is UNREACHED
        jitter = self.jitter() if permit.tripped else 0.0
        notice = self.pool.settle(permit.grant, settled, now, retry_after=permit.retry_after, jitter=jitter)
        if notice is not None:
            self.emit(notice)
        if permit.cost is not None:
            self._settle_cost(permit.cost, bought=settled is SPENT or settled is LOST)

    def _next_pause(self, purchase: Purchase, permit: Permit, number: int, spent: float) -> float | None:
        """Seconds until the next attempt. None: at once, by another account. Raises where there is none."""
        error = cast("NovitaError", purchase.error)
        if error.scope == "endpoint":
            self.pool.retire(permit.grant, error)
            hosts = self.hosts_of(purchase.wish)
            if len(self.pool.hosts) > 1 and self.pool.doom(permit.http.path, loop_time(), hosts) is None:
                return None
        elif error.scope == "account":
            return None
        if permit.failure is None:
            raise error
        decision = decide(self.retry, permit.failure, attempt=number, elapsed=spent, jitter=self.jitter())
        if not isinstance(decision, Retry):
            raise error
        self.emit(
            Retrying(
                purchase=purchase.id,
                account=permit.label,
                endpoint=permit.http.path,
                attempt=purchase.attempt,
                after=decision.after,
                error=error,
            )
        )
        return decision.after

    async def _give_up(self, purchase: Purchase, last: NovitaError, effort: _Effort) -> Task | None:
        """End in doubt where any attempt may have been bought, unless an event tells its task in time.

        Raises:
            NovitaError: no event does. A later refusal does not undo a lost attempt.
        """
        doubt = purchase.doubt
        if isinstance(last, JournalError):  # memory knows what was bought, and a doubt stays one
            if doubt is not None and purchase.state is PLANNED:
                self.purchases.happen(purchase, Lost(loop_time(), doubt))
            raise last
        if doubt is None:
            raise last
        if purchase.state is PLANNED:
            await self.purchases.record(purchase, Lost(loop_time(), doubt))
        if effort.recovered is not None:
            with anyio.move_on_after(effort.recovery_timeout):
                await effort.recovered.wait()
        if purchase.task is not None:
            return purchase.task
        if doubt is last:
            raise last
        raise doubt from last


def _task_of(task_id: str, purchase: Purchase, permit: Permit, now: float) -> Task:
    return Task(
        task_id=task_id,
        account=permit.grant.account.label,
        endpoint=permit.http.path,
        image_num=purchase.images,
        host=permit.grant.host,
        submitted_at=now,
    )


async def _never() -> HTTPResponse:
    raise DeliveryFailed(Delivery.NOT_SENT, "cancelled before it was sent")


def _cancelling() -> int:
    """How often this task is being cancelled."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0
