"""The one loop that sends: pace, send, decode, decide.

A submission is a purchase. Once its last byte may have been handed over, it is not given up by a cancellation
before its answer is in (or `drain` seconds have passed), and whatever it bought is in the register of
unfinished tasks before anyone is told. It runs in a task of its own, so that a cancellation from asyncio,
which no scope can shield from, hits only the one who waits for it. Where the transport lets an exchange be
left, and nobody keeps account, that task is made only when a cancellation comes: few do, and tasks cost.
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Final, TypeVar, cast

import anyio
from attrs import define, evolve, field

from novita_async._api import protocol
from novita_async._http import (
    Delivery,
    DeliveryFailed,
    HTTPRequest,
    HTTPResponse,
    LeavableTransport,
    Left,
    Transport,
)
from novita_async._policy.retrying import Failure, Retry, RetryPolicy, parse_retry_after
from novita_async._policy.spending import Spending
from novita_async._submit.callbacks import Callback, Callbacks
from novita_async._submit.pool import Lease, SessionPool
from novita_async._util.clock import loop_time
from novita_async._util.scopes import see_out, see_through
from novita_async.errors import (
    APIError,
    ConfigurationError,
    NoAnswer,
    NotSent,
    NovitaError,
    RateLimited,
    SubmissionUncertain,
    TaskNotFound,
)
from novita_async.events import AccountDisabled, Announced, Event, Retrying, Submitted
from novita_async.models.accounts import Account, ApiKey
from novita_async.models.endpoints import Endpoints
from novita_async.models.requests import Request
from novita_async.models.results import Snapshot
from novita_async.tasks import Task

T = TypeVar("T")

_TOKEN_BYTES: Final = 16
_POLLS_PAUSE: Final = 1.0
"""Seconds for which an account does not poll after a 429 that does not say for how long."""

_LEAST_SECRET: Final = 12
"""Characters of a key that is cut out of answers; a shorter one may be a part of any word."""

PATIENCE_WITH_ONE_ANSWER: Final = 30.0
"""Seconds for which the answer to one question is waited for; asking again costs nothing."""


def _without_key(response: HTTPResponse, key: ApiKey) -> HTTPResponse:
    """Some services quote the key that they refuse; what they say ends up in messages and journals."""
    secret = key.reveal().encode()
    if len(secret) < _LEAST_SECRET or secret not in response.body:
        return response
    return evolve(response, body=response.body.replace(secret, b"\xe2\x80\xa6"))


class Recorder:
    """Keeps account of one purchase; this one keeps none. Each call is waited for before anything else
    happens.
    """

    async def announced(self, event: Announced) -> None:
        """It is about to be sent."""

    async def bought(self, task: Task) -> None:
        """The service took it."""

    async def not_bought(self, error: NovitaError) -> None:
        """It certainly cost nothing, this time."""

    async def uncertain(self, error: SubmissionUncertain) -> None:
        """Perhaps it was bought."""


_NO_RECORD: Final = Recorder()


@define(eq=False)
class _Attempt:
    """One purchase under way, and what became of it."""

    lease: Lease
    http: HTTPRequest
    request: Request
    number: int
    """From 1."""
    recorder: Recorder
    callback: Callback | None = None
    handed_over: bool = False
    task: Task | None = None
    error: NovitaError | None = None
    cancellation: asyncio.CancelledError | None = None
    """What broke it off."""
    failure: Failure | None = None
    """What the retry policy needs to know; None where it is not asked."""

    @property
    def images(self) -> int:
        return self.request.image_num

    @property
    def perhaps_bought(self) -> bool:
        """Whether it cost money, or may have."""
        if self.error is not None:
            return isinstance(self.error, SubmissionUncertain)
        return self.task is not None or self.handed_over

    def hand_over(self) -> None:
        self.handed_over = True


@define(eq=False, repr=False)
class Sender:
    """Sends requests for one client."""

    pool: SessionPool
    transport: Transport
    endpoints: Endpoints
    retry: RetryPolicy
    drain: float
    """Seconds for which a cancelled purchase that was handed over is still waited for."""
    emit: Callable[[Event], None]
    observed: bool = True
    """Whether anyone is there to whom events are told."""
    spending: Spending | None = None
    """What may be spent. None: as much as the accounts have."""
    unfinished: dict[str, Task] = field(factory=dict)
    """Paid tasks whose end was not seen yet, by id."""
    untold: list[SubmissionUncertain] = field(factory=list)
    """Purchases of unknown end whose callers were cancelled before they could be told."""
    callbacks: Callbacks = field(factory=Callbacks)
    """What webhooks are for."""
    _random: random.Random = field(factory=random.Random)
    _leavable: LeavableTransport | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        transport = self.transport
        leavable = isinstance(transport, LeavableTransport) and self.drain > 0
        self._leavable = cast("LeavableTransport", transport) if leavable else None

    def __repr__(self) -> str:
        return f"<Sender {self.pool!r}, {len(self.unfinished)} unfinished>"

    def jitter(self) -> float:
        """A fresh random number in [0, 1)."""
        return self._random.random()

    # --- Purchases ------------------------------------------------------------------------------------------

    async def submit(
        self,
        request: Request,
        *,
        interactive: bool = False,
        recorder: Recorder = _NO_RECORD,
        hold: float = 0.0,
    ) -> Task:
        """Buy one request.

        Args:
            request: What to buy.
            interactive: Go before those that are not.
            recorder: Keeps account.
            hold: Seconds to wait for the event of a purchase whose answer was lost, where it has a callback.

        Raises:
            SubmissionUncertain: perhaps bought.
            NovitaError: certainly not bought.
        """
        http = protocol.submission(request, self.endpoints)
        number, spent, again = 1, 0.0, False
        doubted: _Attempt | None = None
        while True:
            lease = await self.pool.acquire(
                http.path, request.image_num, interactive=interactive, again=again, on_wait=self.emit
            )
            tried = _Attempt(lease, http, request, number, recorder)
            await self._buy(tried)
            if doubted is not None and tried.perhaps_bought:
                self.callbacks.replaced(doubted.callback)
            if tried.task is not None:
                return tried.task
            doubted = tried if tried.perhaps_bought else doubted
            spent += loop_time() - lease.slot.announced_at
            try:
                pause = self._next_pause(tried, spent)
            except NovitaError as error:
                if doubted is None:
                    raise
                return await self._found_again(doubted, hold, error)
            if pause is not None:
                number, spent = number + 1, spent + pause
                if not isinstance(tried.error, RateLimited):  # there the account's gate makes everyone wait
                    await anyio.sleep(pause)
            again = True

    async def _buy(self, tried: _Attempt) -> None:
        """Send once, in a way that outlives a cancellation if it must."""
        cost: Decimal | None = None
        try:
            cost = self.spending.reserve(tried.request) if self.spending else None
            self._address(tried)
            if self._told(tried):
                await self._announce(tried)
            await self._exchange(tried)
        except asyncio.CancelledError:
            self._leave_untold(tried)
            raise
        finally:
            if not tried.lease.settled:
                (self.pool.answered if tried.handed_over else self.pool.released)(tried.lease)
            if self.spending and cost is not None:
                self.spending.settle(cost, bought=tried.perhaps_bought)
            if tried.callback is not None:
                self._settle_callback(tried.callback, tried)

    def _leave_untold(self, tried: _Attempt) -> None:
        if isinstance(tried.error, SubmissionUncertain):
            self.untold.append(tried.error)

    def _told(self, tried: _Attempt) -> bool:
        """Whether anyone is told of it. Where nobody is, nothing is made to tell."""
        return self.observed or tried.recorder is not _NO_RECORD

    async def _announce(self, tried: _Attempt) -> None:
        event = Announced(
            account=tried.lease.account.label,
            endpoint=tried.http.path,
            image_num=tried.images,
            attempt=tried.number,
        )
        await tried.recorder.announced(event)
        self.emit(event)

    async def _exchange(self, tried: _Attempt) -> None:
        key, transport = tried.lease.account.api_key, self._leavable
        leavably = None
        if transport is not None and tried.recorder is _NO_RECORD:
            leavably = transport.leavably(tried.http, key, on_handover=tried.hand_over)
        if leavably is None:
            send = partial(self.transport.send, tried.http, key, on_handover=tried.hand_over)
            await see_through(self._send(tried, send), lambda: self.drain if tried.handed_over else 0.0)
            return
        try:
            await self._send(tried, leavably)
        except Left as left:
            await see_out(self._send(tried, left.rest), self.drain)
            tried.cancellation = cast("asyncio.CancelledError", left.cancellation)
        if tried.cancellation is not None:
            raise tried.cancellation

    async def _send(self, tried: _Attempt, send: Callable[[], Awaitable[HTTPResponse]]) -> None:
        """Exchange, read, record. What belongs to the exchange is kept in `tried`, not raised."""
        try:
            response = await send()
        except DeliveryFailed as failed:
            self._read_failure(tried, failed)
        except NovitaError as error:  # the body could not be made: a picture changed under our hands
            self.pool.released(tried.lease)
            tried.error = error
        except asyncio.CancelledError as cancellation:
            tried.cancellation = cancellation
            reach = Delivery.UNKNOWN if tried.handed_over else Delivery.NOT_SENT
            self._read_failure(tried, DeliveryFailed(reach, "cancelled before the answer came"))
        else:
            self._read_submission(tried, _without_key(response, tried.lease.account.api_key))
        if self._told(tried):
            await self._record(tried)

    async def _record(self, tried: _Attempt) -> None:
        if tried.task is not None:
            await tried.recorder.bought(tried.task)
            self.emit(Submitted(task=tried.task))
        elif isinstance(tried.error, SubmissionUncertain):
            await tried.recorder.uncertain(tried.error)
        else:
            await tried.recorder.not_bought(cast("NovitaError", tried.error))

    def _read_submission(self, tried: _Attempt, response: HTTPResponse) -> None:
        try:
            task_id = protocol.read_submission(response, tried.http.path, tried.images)
        except NovitaError as error:
            self._read_refusal(tried, response, error)
            return
        tried.task = Task(
            task_id=task_id,
            account=tried.lease.account.label,
            endpoint=tried.http.path,
            image_num=tried.images,
            submitted_at=self.pool.answered(tried.lease),
        )
        self.pool.enable(tried.lease)
        self.unfinished[task_id] = tried.task

    def _read_refusal(self, tried: _Attempt, response: HTTPResponse, error: NovitaError) -> None:
        hint = self._retry_after(response)
        if response.early and isinstance(error, SubmissionUncertain):  # half a request buys nothing
            error = NotSent(cause=error.cause, attempts=tried.number, status=response.status)
        error.account = tried.lease.account.label
        if isinstance(error, APIError):
            error.retry_after = hint
        if isinstance(error, RateLimited):
            self.pool.rejected(tried.lease, hint, self.jitter())
        else:
            (self.pool.released if response.early else self.pool.answered)(tried.lease)
        if error.scope == "account":
            self._take_out(tried.lease.account, error)
        tried.error = error
        tried.failure = Failure(
            delivery=Delivery.NOT_SENT if response.early else Delivery.ANSWERED,
            purchase=True,
            status=response.status,
            reason=error.reason,
            retry_after=hint,
        )

    def _read_failure(self, tried: _Attempt, failed: DeliveryFailed) -> None:
        label = tried.lease.account.label
        if failed.status is not None and 400 <= failed.status < 500:  # noqa: PLR2004 (the class of 4xx)
            # A refusal whose explanation broke off is a refusal.
            self._read_submission(tried, HTTPResponse(status=failed.status))
            return
        if failed.delivery is Delivery.NOT_SENT:
            self.pool.released(tried.lease)
            tried.error = NotSent(cause=failed.cause, attempts=tried.number, account=label)
        else:
            self.pool.answered(tried.lease)
            tried.error = SubmissionUncertain(
                cause=failed.cause,
                endpoint=tried.http.path,
                images=tried.images,
                status=failed.status,
                account=label,
            )
        tried.failure = Failure(delivery=failed.delivery, purchase=True, status=failed.status)

    def _next_pause(self, tried: _Attempt, spent: float) -> float | None:
        """Seconds until the next attempt. None: at once, by another account. Raises where there is none."""
        error = tried.error or NotSent(cause="cancelled before it was sent")
        if error.scope == "endpoint":
            self.pool.retire(tried.http.path, error)
        elif error.scope == "account":
            return None
        if tried.failure is None:
            raise error
        decision = self.retry.decide(tried.failure, attempt=tried.number, elapsed=spent, jitter=self.jitter())
        if not isinstance(decision, Retry):
            raise error
        self.emit(
            Retrying(
                account=tried.lease.account.label,
                endpoint=tried.http.path,
                attempt=tried.number,
                after=decision.after,
                error=error,
            )
        )
        return decision.after

    def _take_out(self, account: Account, error: NovitaError) -> None:
        if self.pool.disable(account.label, error):
            self.emit(AccountDisabled(account=account.label, error=error))

    def _retry_after(self, response: HTTPResponse) -> float | None:
        value = response.headers.get("retry-after")
        return self.retry.capped(parse_retry_after(value, datetime.now(UTC))) if value else None

    # --- Callbacks ------------------------------------------------------------------------------------------

    def _address(self, tried: _Attempt) -> None:
        """Give a purchase a callback URL of its own, where it can have one."""
        if self.callbacks.base is None or not protocol.takes_callback(tried.request):
            return
        label, token = tried.lease.account.label, secrets.token_hex(_TOKEN_BYTES)
        endpoint, images = tried.http.path, tried.request.image_num
        tried.callback = self.callbacks.issue(token, label, endpoint, images, loop_time())
        tried.http = protocol.submission(tried.request, self.endpoints, tried.callback.url)

    def _settle_callback(self, callback: Callback, tried: _Attempt) -> None:
        if tried.task is not None:
            self.callbacks.bought(callback, tried.task, loop_time())
        elif isinstance(tried.error, SubmissionUncertain):
            callback.tell = tried.recorder.bought
            self.callbacks.lost(callback, tried.error)
        else:
            self.callbacks.forget(callback)

    async def _found_again(self, doubted: _Attempt, hold: float, last: NovitaError) -> Task:
        """Wait for the event of a lost purchase, which tells its task.

        Raises:
            NovitaError: none comes. That a later attempt was refused does not undo the lost one.
        """
        callback = doubted.callback
        if callback is not None:
            try:
                with anyio.move_on_after(hold):
                    await callback.found.wait()
            except asyncio.CancelledError:
                self._leave_untold(doubted)
                raise
            if callback.task is not None:
                return callback.task
        if doubted.error is last:
            raise last
        raise (doubted.error or last) from last

    # --- Questions ------------------------------------------------------------------------------------------

    async def ask(
        self,
        http: HTTPRequest,
        account: Account,
        read: Callable[[HTTPResponse], T],
        task_id: str | None = None,
    ) -> T:
        """Ask once, which costs nothing. Raises `NovitaError`."""
        response: HTTPResponse | None = None
        try:
            with anyio.move_on_after(PATIENCE_WITH_ONE_ANSWER):
                response = await self.transport.send(http, account.api_key)
        except DeliveryFailed as failed:
            raise NoAnswer(
                cause=failed.cause, account=account.label, task_id=task_id, status=failed.status
            ) from failed
        if response is None:
            cause = f"nothing came within {PATIENCE_WITH_ONE_ANSWER:g} s"
            raise NoAnswer(cause=cause, account=account.label, task_id=task_id)
        try:
            return read(_without_key(response, account.api_key))
        except APIError as error:
            error.account = account.label
            error.retry_after = self._retry_after(response)
            raise

    async def read(self, http: HTTPRequest, read: Callable[[HTTPResponse], T], label: str | None = None) -> T:
        """Ask the account called `label`, or the first, as often as the retry policy likes."""
        account = self.pool.accounts(label)[0]
        return await self.patiently(lambda: self.ask(http, account, read), http.path)

    async def patiently(self, ask: Callable[[], Awaitable[T]], endpoint: str) -> T:
        """Ask a question as often as the retry policy likes. Raises `NovitaError`."""
        number, began_at = 1, loop_time()
        while True:
            try:
                return await ask()
            except ConfigurationError:
                raise
            except NovitaError as error:
                elapsed = loop_time() - began_at
                pause = self._next_question(endpoint, error, number, elapsed)
            await anyio.sleep(pause)
            number += 1

    def _next_question(self, endpoint: str, error: NovitaError, number: int, elapsed: float) -> float:
        """Seconds until the next attempt. Raises where there is none."""
        failure = Failure(
            delivery=Delivery.UNKNOWN if isinstance(error, NoAnswer) else Delivery.ANSWERED,
            purchase=False,
            status=error.status,
            reason=error.reason,
            retry_after=error.retry_after if isinstance(error, APIError) else None,
        )
        decision = self.retry.decide(failure, attempt=number, elapsed=elapsed, jitter=self.jitter())
        if not isinstance(decision, Retry):
            raise error
        event = Retrying(
            account=error.account or "", endpoint=endpoint, attempt=number, after=decision.after, error=error
        )
        self.emit(event)
        return decision.after

    async def look(self, task: Task) -> Snapshot:
        """Poll a task once, with the key that paid for it, or, where that is not known, with each in turn.

        Raises:
            TaskFailed: the service reports the failed task as an HTTP error.
            NovitaError: nothing was seen.
        """
        accounts = self.pool.accounts(task.account)
        for account in accounts[:-1]:
            try:
                return await self._look(task, account)
            except TaskNotFound:
                continue
        return await self._look(task, accounts[-1])

    async def _look(self, task: Task, account: Account) -> Snapshot:
        mine = task if task.account == account.label else evolve(task, account=account.label)
        await self.pool.poll_turn(account)
        try:
            return await self.ask(
                protocol.poll(task.task_id, self.endpoints),
                account,
                lambda response: protocol.read_snapshot(response, mine),
                task.task_id,
            )
        except APIError as error:
            pause = error.retry_after or (_POLLS_PAUSE if isinstance(error, RateLimited) else 0.0)
            self.pool.pause_polls(account, pause)
            raise
