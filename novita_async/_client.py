"""The client: everything that users call."""

import logging
import math
import os
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from copy import copy
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self, cast, overload

import anyio
import anyio.to_thread
from attrs import evolve

from novita_async import events, logs
from novita_async._api import protocol
from novita_async._files.names import NameTemplate
from novita_async._files.places import SaveTo, storage_at
from novita_async._files.saver import Saver, SaverStatistics
from novita_async._http import Downloader, LoopBound, ReopenableTransport, Transport
from novita_async._journal.postgres.address import LEASE
from novita_async._policy.believing import files_may_come
from novita_async._policy.polling.memory import PollMemory
from novita_async._policy.polling.schedule import Polling
from novita_async._policy.retrying import RetryPolicy
from novita_async._policy.spending import Budget, Spending, SpendingStatistics
from novita_async._purchase.journal import Journal, SharedJournal
from novita_async._purchase.machine import (
    Action,
    Fact,
    FailedForGood,
    Purchase,
    State,
    next_action,
)
from novita_async._stream.ahead import Requests
from novita_async._stream.batch import as_batch
from novita_async._stream.handle import Outcomes, UpdateBuffer, Updates, block
from novita_async._stream.saving import Destination, NameFiles
from novita_async._stream.stream import IN_FLIGHT, Stream
from novita_async._stream.watch import Watch
from novita_async._stream.way import NOTHING_CAME, end_was_seen, fact_of, outcome_of
from novita_async._submit.buyer import Buyer
from novita_async._submit.callbacks import RECOVERY_TIMEOUT, Callbacks, WebhookStatistics
from novita_async._submit.home import running_loop
from novita_async._submit.neighbours import Neighbours
from novita_async._submit.pool import PoolStatistics, SessionPool
from novita_async._submit.purchases import Purchases
from novita_async._submit.recovery import Recovery
from novita_async._transport.downloads import AiohttpDownloader
from novita_async._transport.transport import AiohttpTransport
from novita_async._util.clock import loop_time
from novita_async._util.scopes import terminated_gently
from novita_async._util.values import frozen
from novita_async._watch.memory_file import load_memory, save_memory
from novita_async.errors import (
    AnsweredAtOnce,
    ConfigurationError,
    NoImages,
    NotSent,
    NovitaError,
    SubmissionUncertain,
)
from novita_async.events import Event, Finished, Observer
from novita_async.models.accounts import Account, ApiKey, Balance
from novita_async.models.catalogue import ModelRecord
from novita_async.models.choices import ModelType
from novita_async.models.endpoints import DEFAULT_BASE_URL, Endpoints
from novita_async.models.hosts import Host
from novita_async.models.requests import NovitaRequest
from novita_async.models.results import (
    Artifact,
    Failed,
    GeneratedImage,
    Outcome,
    Processing,
    Queued,
    Snapshot,
    Succeeded,
    TaskResult,
    Update,
    handed_out,
)
from novita_async.models.routes import ROUTES, Route
from novita_async.tasks import Task
from novita_async.webhooks import Waker

if TYPE_CHECKING:
    import aiohttp

    from novita_async._journal.postgres.inbox import PostgresInbox

Priority = Literal["interactive", "batch"]
"""Order of requests while the account's quota makes them wait."""

DRAIN: Final = 5.0
_PAGE: Final = 100
_AGAIN_AFTER: Final = 1.0
"""Seconds between two polls of a finished task whose files are not listed at the moment."""
_MUST_BE_ENTERED: Final = (
    "this client keeps in a file how long tasks take (learned=), and was not entered, which reads that file",
    "async with NovitaClient(learned=...) as client: ...",
)
_CLOSED: Final = ("this client is closed", "enter it again: async with client: ...")
_log: Final = logging.getLogger("novita_async")


@frozen(kw_only=True)
class ClientStatistics:
    """Counts of a client.

    Args:
        pool: Its accounts: quotas, circuit breakers, health, what waits and what is being sent.
        unfinished: Paid tasks whose end was not seen yet.
        saver: Its downloads.
        webhooks: Its webhooks: events, purchases found again.
        spending: Its budget. None: no budget.
    """

    pool: PoolStatistics
    """Its accounts: quotas, circuit breakers, health, what waits and what is being sent."""
    unfinished: int
    """Paid tasks whose end was not seen yet."""
    saver: SaverStatistics
    """Its downloads."""
    webhooks: WebhookStatistics
    """Its webhooks: events, purchases found again."""
    spending: SpendingStatistics | None
    """Its budget. None: no budget."""


class NovitaClient:
    """A client of the Novita image API. Use it as an async context manager, or call `aclose`.

    Args:
        api_key: The key of the only account. None: the environment's `NOVITA_API_KEY`.
        accounts: Several accounts, instead of a key.
        images_per_minute: Quota of the only account; None: not known, found out.
        base_url: Where the API is. None: the environment's `NOVITA_BASE_URL`, else the service's own.
        endpoints: Paths below it.
        polling: When to poll tasks.
        retry: How patient to be with failures.
        budget: Money that this client may spend. None: as much as the accounts have.
        observers: Called with every event.
        webhook_url: Where your web app takes in events (`novita_async.webhooks`), without the token that is
            added to it. Every purchase without a webhook of its own is then reported there. None: none is.
        recovery_timeout: Seconds for which a purchase whose answer was lost is held back, because its event
            may tell what has become of it, before it is uncertain.
        learned: A small file that keeps from one process to the next how long tasks take, so that the first
            polls come at the right time. Read on entering the client, written on leaving it: such a client
            must be entered.
        drain: Seconds for which a cancelled purchase that was handed over is still waited for.
        session: Your own aiohttp session for the API, never closed here.
        transport: Carrier of requests, instead of aiohttp; or a function that makes one for each host.
        downloader: Fetches result files, instead of aiohttp; for tests.
        quota: A Postgres database (`postgresql://host/database`, extra `postgres`) that keeps the accounts'
            windows for all processes whose clients name it, and what they find out about the accounts.
            Nothing is bought while it cannot be reached. None: the windows are this client's own.

    Raises:
        ConfigurationError: no key, no usable base URL or webhook URL.
    """

    def __init__(
        self,
        api_key: str | ApiKey | None = None,
        *,
        accounts: Sequence[Account] | None = None,
        images_per_minute: int | None = None,
        base_url: str | None = None,
        endpoints: Endpoints | None = None,
        polling: Polling | None = None,
        retry: RetryPolicy | None = None,
        budget: Budget | None = None,
        observers: Iterable[Observer] = (),
        webhook_url: str | None = None,
        recovery_timeout: float = RECOVERY_TIMEOUT,
        learned: str | os.PathLike[str] | None = None,
        drain: float = DRAIN,
        session: "aiohttp.ClientSession | None" = None,
        transport: Transport | Callable[[Host], Transport] | None = None,
        downloader: Downloader | None = None,
        quota: str | None = None,
    ) -> None:
        self._owner: NovitaClient | None = None
        self._polling = polling or Polling()
        self._memory = PollMemory()
        self._learned = None if learned is None else Path(learned)
        self._observers = (*observers, *logs.from_environment())
        self._endpoints = endpoints or Endpoints()
        base_url = base_url or _environment("NOVITA_BASE_URL") or DEFAULT_BASE_URL
        self._downloader = downloader or AiohttpDownloader()
        owners = _accounts(api_key, accounts, images_per_minute)
        self._pool = SessionPool.of(owners, self._polling.polls_per_second, Host.at(base_url))
        self._carriers = _carriers(
            self._pool.hosts,
            transport or (lambda host: AiohttpTransport(host.base_url, session=session, drain=drain)),
        )
        self._purchases = Purchases(self._tell if self._observers else None)
        self._buyer = Buyer(
            purchases=self._purchases,
            pool=self._pool,
            transport=next(iter(self._carriers.values())),
            carriers=self._carriers if len(self._carriers) > 1 else {},
            endpoints=self._endpoints,
            retry=retry or RetryPolicy(),
            drain=drain,
            emit=self._emit,
            spending=Spending(budget) if budget else None,
            callbacks=Callbacks.to(webhook_url, recovery_timeout),
        )
        self._recovery = Recovery(self._buyer)
        self._neighbours = Neighbours(self._pool, self._emit, self._buyer.callbacks.take_over)
        self._inboxes: dict[str, PostgresInbox] = {}
        """Shared batches into which single requests are put."""
        self._buyer.on_move(self._inboxes.clear)
        self._quota = None
        if quota is not None:
            from novita_async._journal.opening import quota_at  # noqa: PLC0415 - where one is named, as below

            heed, heard = self._neighbours.heed, self._neighbours.heard
            self._quota = self._buyer.quota = quota_at(quota, self._pool.quotas, heed, heard)
            self._buyer.on_move(self._quota.leave_loop)
        self._saver = Saver(
            downloader=self._downloader,
            retry=self._buyer.retry,
            refresh=self._refreshed,
            emit=self._emit,
            jitter=self._buyer.jitter,
            at_home=self._buyer.at_home,
        )
        self._buyer.keep, self._buyer.files = self._saver.keep, self._saver
        for each in (*self._carriers.values(), self._downloader):
            if isinstance(each, LoopBound):
                self._buyer.on_move(each.leave_loop)
        self._buyer.on_move(self._recovery.leave_loop, self._saver.leave_loop)
        self._is_open = self._learned is None
        """Whether anything may be begun."""
        if not self._is_open:
            self._buyer.refuse(_MUST_BE_ENTERED)

    def with_options(
        self,
        *,
        polling: Polling | None = None,
        retry: RetryPolicy | None = None,
        budget: Budget | None = None,
    ) -> Self:
        """Make a client with other options that shares connections, quotas and what is paid with this one.

        There is nothing to close: all is closed with this one.

        Args:
            polling: When to poll tasks. How many polls a second an account may have stays as it is.
            retry: How patient to be with failures.
            budget: Money that the new client may spend, counted by itself. None: the same budget, and what is
                spent counts for both.
        """
        other = copy(self)
        other._owner = self  # noqa: SLF001 - of this class
        other._polling = polling or self._polling  # noqa: SLF001
        other._buyer = self._buyer.with_options(retry, Spending(budget) if budget else None)  # noqa: SLF001
        return other

    async def __aenter__(self) -> Self:
        if self._owner is not None:
            return self
        running_loop()
        self._buyer.refuse(None)
        self._buyer.at_home()
        for carrier in self._carriers.values():
            if isinstance(carrier, ReopenableTransport):
                carrier.reopen()
        if self._learned is not None:
            self._memory = await anyio.to_thread.run_sync(load_memory, self._learned)
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    if not TYPE_CHECKING:  # type checkers tell this by themselves

        def __enter__(self) -> NoReturn:
            raise ConfigurationError(
                problem="this client is entered with `async with`",
                advice="nothing was bought; async with NovitaClient() as client: ... "
                "(without await: novita_async.sync.Client)",
            )

        __exit__ = __enter__

    async def aclose(self) -> None:
        """Close the connections that this client opened. They can be opened again: `async with client`.

        Raises:
            ConfigurationError: no event loop of asyncio runs here.
        """
        running_loop()
        if self._owner is not None:
            return
        with anyio.CancelScope(shield=True):
            if self._learned is not None and self._is_open:
                await anyio.to_thread.run_sync(save_memory, self._learned, self._memory)
            await self._recovery.aclose()
            if self._quota is not None:
                await self._quota.aclose()
            for inbox in self._inboxes.values():
                await inbox.aclose()
            self._inboxes.clear()
            for carrier in self._carriers.values():
                await carrier.aclose()
            await self._downloader.aclose()
            self._is_open = False
            self._buyer.refuse(_CLOSED)

    def __repr__(self) -> str:
        return f"<NovitaClient {self._pool!r}, {len(self._purchases.unfinished)} unfinished>"

    def statistics(self) -> ClientStatistics:
        """Count, now."""
        return ClientStatistics(
            pool=self._pool.statistics(),
            unfinished=len(self._purchases.unfinished),
            saver=self._saver.statistics(),
            webhooks=self._buyer.callbacks.statistics(),
            spending=self._buyer.spending.statistics() if self._buyer.spending else None,
        )

    @property
    def unfinished(self) -> tuple[Task, ...]:
        """Tasks paid through this client whose end was not seen yet. Watch them again."""
        return self._purchases.unfinished

    @property
    def uncertain(self) -> tuple[SubmissionUncertain, ...]:
        """Uncertain purchases whose error never reached the caller."""
        return self._purchases.uncertain

    @property
    def unreported(self) -> tuple[Succeeded, ...]:
        """Results that are paid and here, and whose callers were cancelled before they had them.

        Files that came in an answer go with the client: save such results before it is left.
        """
        return self._purchases.unreported

    # --- One request ----------------------------------------------------------------------------------------

    async def run(
        self,
        request: NovitaRequest,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the error that it raises carries the task
        priority: Priority = "interactive",
        on_update: Callable[[Update], object] | None = None,
    ) -> TaskResult:
        """Buy a request and wait for its result.

        Args:
            request: The request to buy.
            timeout: Seconds to wait for the task, or for an answer that holds the results. None: the polling
                policy's deadline, or as long as the route may take.
            priority: `interactive` goes before `batch` whenever the account's quota makes requests wait.
            on_update: Called with what is seen on the way: `Queued` as soon as the task is bought, then
                `Processing` with its percentage. An exception of its own is logged and dropped.

        Raises:
            TaskFailed: the service gave up; it does not say whether that is paid.
            TaskTimeout: not finished in time; paid, and the error holds the task.
            SubmissionUncertain: perhaps bought. A `timeout` ends so where the answer holds the results.
            NoImages: paid, and nothing came.
            NovitaError: anything else. An error with a task id is about something paid; without one, nothing
                was bought.
        """
        recovery_timeout = (
            self._buyer.callbacks.recovery_timeout
            if timeout is None
            else min(timeout, self._buyer.callbacks.recovery_timeout)
        )
        purchase = await self._buy(request, priority, recovery_timeout, timeout)
        if purchase.result is None:
            return await self._wait(purchase.paid_task, request, timeout, on_update)
        self._purchases.close(purchase)
        self._emit(Finished(purchase=purchase.id, outcome=Succeeded(result=purchase.result, request=request)))
        if not purchase.result.artifacts:
            raise NoImages(account=purchase.account, extra=purchase.result.extra, advice=NOTHING_CAME)
        return handed_out(purchase.result, self._saver)

    async def submit(self, request: NovitaRequest, *, priority: Priority = "interactive") -> Task:
        """Buy a request and come back with its task at once. Keep `task.task_id`.

        Args:
            request: The request to buy.
            priority: As for `run`.

        Raises:
            ConfigurationError: the route answers at once, without a task: use `run`. Nothing was bought.
            AnsweredAtOnce: the route answered at once, which was not known before; the error has the result.
            SubmissionUncertain: perhaps bought.
            NovitaError: nothing was bought.
        """
        row = request.row
        if row is not None and row.answer == "at_once":
            raise ConfigurationError(
                problem=f"{row.name} answers at once, without a task that could be watched",
                advice="nothing was bought; use run, stream or batch",
            )
        purchase = await self._buy(request, priority)
        if purchase.task is None:
            self._purchases.close(purchase)
            if purchase.result is not None:
                handed_out(purchase.result, self._saver)
            raise AnsweredAtOnce(account=purchase.account, result=purchase.result)
        return purchase.task

    async def _buy(
        self,
        request: NovitaRequest,
        priority: Priority,
        recovery_timeout: float = 0.0,
        longest: float | None = None,
    ) -> Purchase:
        """Buy for somebody who waits for the task, or the result."""
        purchase = Purchase(request, images=request.image_num, tag=request.tag)
        try:
            failed: NovitaError | None = None
            await self._buyer.buy(
                purchase,
                interactive=priority == "interactive",
                recovery_timeout=recovery_timeout,
                longest=longest,
            )
        except BaseException as error:
            begun = purchase.endpoint and next_action(purchase) is Action.SEND
            if isinstance(error, SubmissionUncertain):
                self._purchases.report_doubt(purchase)
            elif begun and purchase.doubt is None:
                cancelled = NotSent(cause="cancelled", attempts=purchase.attempt)
                why = error if isinstance(error, NovitaError) else cancelled
                self._purchases.happen(purchase, FailedForGood(loop_time(), why))
            if not isinstance(error, NovitaError):
                raise
            failed = error.of_request(request.tag)
        finally:
            if purchase.result is None:  # else whoever finds the result may ask what it is of
                purchase.request = None  # it may hold a picture
        if failed is not None:
            raise failed
        return purchase

    async def wait(
        self,
        task: Task | str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the error that it raises carries the task
    ) -> TaskResult:
        """Wait for the result of one paid task: of this client, of yesterday, after a `TaskTimeout`.

        Args:
            task: The task, or its id.
            timeout: Seconds to wait. None: the polling policy's deadline.

        Raises:
            TaskFailed: the service gave up.
            TaskTimeout: not finished in time; wait again for `error.task`.
            NoImages: the task succeeded, and nothing came.
            NovitaError: the task cannot be asked for.
        """
        return await self._wait(self._purchases.task_of(task), None, timeout)

    async def _wait(
        self,
        task: Task,
        request: NovitaRequest | None,
        timeout: float | None,  # noqa: ASYNC109 - as above
        on_update: Callable[[Update], object] | None = None,
    ) -> TaskResult:
        waits, last = Queued(task=task), None
        watch = self._watch(timeout=timeout, closes=False, updates=UpdateBuffer() if on_update else None)
        async with watch.run({task: request}, Updates) as updates:
            outcome: Update | Outcome = waits
            while isinstance(outcome, Queued | Processing):
                if on_update is not None and outcome != last:
                    _tell_caller(on_update, outcome)
                last, outcome = outcome, await anext(updates)
        # Here nothing can come between the caller and the outcome any more.
        if isinstance(outcome, Succeeded | Failed) and end_was_seen(outcome):
            self._purchases.ended(task.task_id, fact_of(outcome))
        return outcome.unwrap()

    async def poll(self, task: Task | str) -> Snapshot:
        """Look at a task once.

        Raises:
            NovitaError: nothing was seen; the error carries the task id.
        """
        known = self._purchases.task_of(task)
        snapshot = await self._buyer.poll_patiently(known, self._polling.not_found_grace)
        if snapshot.state == "failed" or (snapshot.result is not None and snapshot.result.artifacts):
            self._purchases.ended(known.task_id)
            self._buyer.callbacks.ended(known.task_id, anyio.current_time())
        if snapshot.result is not None:
            handed_out(snapshot.result, self._saver)
        return snapshot

    async def enqueue(
        self,
        request: NovitaRequest,
        *,
        journal: str,
        id: str | None = None,  # noqa: A002
        save_to: SaveTo | None = None,
    ) -> str:
        """Put a request into a shared batch, for those who work on that (`work(forever=True)`) to buy.

        Args:
            request: The request. Without `save_to` its pictures must be where those who work can read them.
            journal: URL of the batch: `postgresql://host/database#batch`.
            id: A name of its own for the request: enqueued again under that it counts once. None: a new one.
            save_to: The place that those who work save to. Pictures are put there once, also those that are
                in memory.

        Returns:
            The id, for `outcome`.

        Raises:
            InvalidRequest: the request cannot be kept.
            ConfigurationError: another request stands there under this id; a picture is in memory only, or
                cannot be put.
            JournalError: the database cannot be reached, or has no tables.
        """
        from novita_async._files.inputs import Inputs  # noqa: PLC0415
        from novita_async._journal.identity import is_withheld  # noqa: PLC0415

        self._buyer.at_home()
        name = secrets.token_hex(16) if id is None else id
        endpoint = self._endpoints.path_of(request)
        self._buyer.hosts_of(request)
        inputs = Inputs(None if save_to is None else storage_at(save_to))
        order = await inputs.describe(request, endpoint=endpoint, position=0)
        in_memory = save_to is None and any(picture.data is not None for picture in request.pictures)
        if in_memory or is_withheld(order):
            raise ConfigurationError(
                problem="a part of this request is in memory only, and no other process can have it",
                advice="nothing was enqueued; give pictures as paths or URLs that all workers can read, or "
                "save_to= of the place that they save to",
                scope="request",
            )
        await self._inbox(journal).put(order, name)
        return name

    async def outcome(self, id: str, *, journal: str) -> Outcome:  # noqa: A002
        """Wait for the end of an enqueued request, from any process.

        Args:
            id: The id that `enqueue` gave.
            journal: URL of the batch.

        Raises:
            JournalError: there is no such request; the database cannot be reached.
        """
        self._buyer.at_home()
        purchase = await self._inbox(journal).ended(id)
        found = outcome_of(purchase)
        if isinstance(found, Succeeded) and not purchase.paths and not purchase.objects and purchase.task:
            fresh = await self._refreshed(purchase.task)  # a journal keeps no signed URLs
            found = found if fresh is None else evolve(found, result=fresh)
        if isinstance(found, Succeeded):
            handed_out(found.result, self._saver)
        return found

    def _inbox(self, journal: str) -> "PostgresInbox":
        from novita_async._journal.opening import inbox_at  # noqa: PLC0415

        inbox = self._inboxes.get(journal)
        if inbox is None:
            inbox = self._inboxes[journal] = inbox_at(journal)
        return inbox

    def webhook_waker(self, *, journal: str | None = None) -> Waker:
        """Make what your web app hands every webhook event to: `waker(body, token)`, from any thread.

        The call returns at once and never raises. `novita_async.webhooks` has receivers that call it.

        Args:
            journal: URL of a database with shared batches (`postgresql://host/database`). Events about
                purchases of other processes are told to those, and the purchase of one that was killed before
                it had the answer is found again. Call this where the event loop runs. None: an event is of
                use in the process that has bought.
        """
        if journal is not None:
            self._recovery.pass_on(self._inbox(journal))
        return Waker(self._buyer.callbacks)

    # --- Many requests --------------------------------------------------------------------------------------

    def stream(
        self,
        requests: Requests,
        *,
        in_flight: int = IN_FLIGHT,
        save_to: SaveTo | None = None,
        save_as: NameFiles | str | None = None,
        priority: Priority = "batch",
    ) -> AbstractAsyncContextManager[Outcomes]:
        """Buy many requests and hand out their outcomes as they end.

        Args:
            requests: Any iterable or async iterable; read no further than there are slots.
            in_flight: How many requests may be between input and consumer.
            save_to: Folder for the result files, made where it is missing; the URL of a place in an object
                store (`s3://bucket/prefix`, also `gs://` and `az://`; extra `objects`); or a `Storage`
                (`novita_async.storage`). In a folder, `novita-index.jsonl` tells
                how to make each again, and `inputs/` has the pictures that were given in memory, once each.
            save_as: Names of files: a template such as `{index:05d}-{seed}-{n}.{ext}`, which may also hold
                `{task_id}`, or a function that gives the beginning of an outcome's file names. None: the
                task's id and a number.
            priority: As for `run`.

        Raises:
            ConfigurationError: `in_flight` below 1, a template that makes no names, a folder that cannot be
                written to.
        """
        return self._stream(
            folder=self._folder(save_to, save_as), in_flight=in_flight, interactive=priority == "interactive"
        ).run(requests)

    @as_batch
    async def batch(
        self,
        requests: Requests,
        *,
        journal: str | os.PathLike[str] | Journal,
        save_to: SaveTo | None = None,
        save_as: NameFiles | str | None = None,
        in_flight: int = IN_FLIGHT,
        priority: Priority = "batch",
        resubmit_uncertain: bool = False,
        retry_failed: bool | Literal["all"] = False,
        only_planned: bool = False,
    ) -> AsyncGenerator[Outcomes]:
        """Buy many requests, as `stream` does, and write each step into a journal.

        Running the same again *is* resuming: a bought request is watched and not bought again, a complete
        request comes out at once, the rest is sent. Requests are known by their content, so lines may be
        added, removed and moved. `await client.batch(...)` gives all outcomes in a list.

        Args:
            requests: As for `stream`.
            journal: A file, made where it is missing, which one process at a time may use; the URL of a batch
                in Postgres (`postgresql://host/database#batch`, extra `postgres`), likewise, whose database
                keeps the accounts' windows for all its processes; or a store of your own
                (`novita_async.journal`), which stays open.
            save_to: As for `stream`.
            save_as: As for `stream`. None: `{index:05d}-{seed}-{n}.{ext}`.
            in_flight: As for `stream`.
            priority: As for `run`.
            resubmit_uncertain: Buy uncertain requests again, which may pay for them twice.
            retry_failed: Buy again what failed in an earlier run, where that can help; `"all"`: also what
                would fail again unless its cause was mended (a refused picture, a route), and what is paid
                and no longer to be had. A task is asked for once more before its request is bought again.
            only_planned: Buy nothing that is new to the journal: a request that no earlier run has planned
                (a line that was added, a picture that has changed) comes out as failed, with `NotPlanned`.

        Ctrl-C and SIGTERM (which otherwise ends a Python program on the spot) send nothing more, wait for up
        to the client's `drain` seconds for the answers to what was sent, and end the program, with status 143
        for SIGTERM. Where the program has a SIGTERM handler of its own, that one counts.

        Raises:
            ConfigurationError: `in_flight` below 1, a folder that cannot be written to.
            JournalError: in use by another process, damaged, of a newer version, on a full disk.
        """
        from novita_async._journal.opening import beside, opened  # noqa: PLC0415
        from novita_async._journal.postgres.journal import PostgresJournal  # noqa: PLC0415
        from novita_async._stream.resume import Resume  # noqa: PLC0415

        self._buyer.at_home()
        with terminated_gently():
            folder = self._folder(save_to, save_as)
            heed, heard = self._neighbours.heed, self._neighbours.heard
            async with opened(journal, self._pool.quotas, heed, heard) as store:
                resume = Resume(
                    store,
                    self._purchases,
                    self._buyer.callbacks,
                    resubmit_uncertain=resubmit_uncertain,
                    retry_failed=retry_failed,
                    only_planned=only_planned,
                    storage=None if folder is None else folder.storage,
                    is_shared=isinstance(store, PostgresJournal),
                )
                stream = self._stream(
                    folder=folder,
                    resume=resume,
                    in_flight=in_flight,
                    interactive=priority == "interactive",
                    keep_in=beside(journal) if folder is None or folder.folder is None else folder.folder,
                )
                async with stream.run(requests) as outcomes:
                    yield outcomes

    @block
    async def work(
        self,
        batch: str | None = None,
        *,
        journal: str | SharedJournal,
        save_to: SaveTo | None = None,
        save_as: NameFiles | str | None = None,
        in_flight: int = IN_FLIGHT,
        priority: Priority = "batch",
        forever: bool = False,
        resubmit_uncertain: bool = False,
        retry_failed: bool | Literal["all"] = False,
        name: str | None = None,
        stall: float = LEASE,
    ) -> AsyncGenerator[Outcomes]:
        """Work on a batch that is planned, together with any number of other processes.

        Takes requests that nobody has, watches what is paid, buys the rest, saves the files. The outcomes are
        those that this process has brought about; `report` and `export` of the command line tell all. Ends
        once nothing is left to do here or elsewhere.

        May be called twice, late, on any machine, and be killed at any moment: the database says whose each
        request is, and nothing is bought again. A purchase that a dead process had on its way is uncertain.
        A request that cannot be ended here now (its picture is on another host, its files cannot be had, a
        wait was given up) comes out as such, and is left to workers that begin later.

        Args:
            batch: Name of the batch. None: the URL says it, after `#`.
            journal: The URL of the database (`postgresql://host/database`), or a store of your own that
                several can share (`novita_async.journal.SharedJournal`), which stays open.
            save_to: As for `stream`. Where all workers share a folder, none writes over another's file.
            save_as: As for `batch`.
            in_flight: How many requests this process has at a time.
            priority: As for `run`.
            forever: Go on waiting for requests when the batch is complete.
            resubmit_uncertain: As for `batch`.
            retry_failed: As for `batch`.
            name: The worker's name for those who look. None: host and process id.
            stall: Seconds without a sign of life after which others take this process for dead. The signs
                come from the event loop, however long an answer takes.

        Ctrl-C and SIGTERM end it as they end a `batch`; unsent requests are others' at once.

        Raises:
            ConfigurationError: `in_flight` below 1, a folder that cannot be written to, a journal that cannot
                be shared.
            JournalError: not to be reached, without tables; a `batch` of one process is at work on it.
        """
        from novita_async._journal.opening import shared_url  # noqa: PLC0415
        from novita_async._journal.postgres.journal import PostgresJournal  # noqa: PLC0415
        from novita_async._stream.rows import RowStream  # noqa: PLC0415
        from novita_async._stream.shift import Shift  # noqa: PLC0415

        self._buyer.at_home()
        with terminated_gently():
            folder = self._folder(save_to, save_as)
            async with AsyncExitStack() as joined:

                async def join(url: str) -> SharedJournal:
                    store = await PostgresJournal.join(
                        url, batch=batch, quotas=self._pool.quotas, worker=name, lease=stall
                    )
                    store.on_health(self._neighbours.heed)
                    await store.on_event(self._neighbours.heard)
                    return await joined.enter_async_context(store)

                url = shared_url(journal)
                shift = Shift(
                    cast("SharedJournal", journal) if url is None else await join(url),
                    self._purchases,
                    self._pool,
                    storage=None if folder is None else folder.storage,
                    forever=forever,
                    resubmit_uncertain=resubmit_uncertain,
                    retry_failed=retry_failed,
                    join_again=None if url is None else partial(join, url),
                )
                joined.push_async_callback(shift.give_back)
                stream = self._stream(
                    RowStream,
                    shift=shift,
                    folder=folder,
                    in_flight=in_flight,
                    interactive=priority == "interactive",
                )
                async with stream.run(()) as outcomes:
                    yield outcomes

    @overload
    def watch(
        self,
        tasks: Iterable[Task | str],
        *,
        timeout: float | None = None,
        total: float | None = None,
        save_to: SaveTo | None = None,
        updates: Literal[False] = False,
    ) -> AbstractAsyncContextManager[Outcomes]: ...

    @overload
    def watch(
        self,
        tasks: Iterable[Task | str],
        *,
        timeout: float | None = None,
        total: float | None = None,
        save_to: SaveTo | None = None,
        updates: Literal[True],
    ) -> AbstractAsyncContextManager[Updates]: ...

    def watch(
        self,
        tasks: Iterable[Task | str],
        *,
        timeout: float | None = None,
        total: float | None = None,
        save_to: SaveTo | None = None,
        updates: bool = False,
    ) -> AbstractAsyncContextManager[Outcomes | Updates]:
        """Wait for tasks that are paid for: of this client, of yesterday, of another process.

        Args:
            tasks: Tasks, or their ids. More can be added while it runs: `outcomes.watch(task)`.
            timeout: Seconds to wait for each. None: the polling policy's deadline.
            total: Seconds to wait for all together; tasks that last longer come out as `Unfinished`.
            save_to: As for `stream`.
            updates: Tell besides what is seen on the way, `Queued` and `Processing`, for a progress display.
        """
        watch = self._watch(
            folder=self._folder(save_to, None),
            timeout=timeout,
            total=math.inf if total is None else total,
            updates=UpdateBuffer() if updates else None,
        )
        known = {self._purchases.task_of(task): None for task in tasks}
        return watch.run(known, Updates) if updates else watch.run(known, Outcomes)

    def _stream(self, kind: type[Stream] = Stream, **options: Any) -> Stream:
        self._buyer.at_home()
        return kind(self._buyer, self._polling, self._memory, **options)

    def _watch(self, **options: Any) -> Watch:
        self._buyer.at_home()
        return Watch(self._buyer, self._polling, self._memory, **options)

    def _folder(self, save_to: SaveTo | None, save_as: NameFiles | str | None) -> Destination | None:
        naming = _naming(save_as)
        if save_to is None:
            return None
        budget = self._buyer.spending.budget if self._buyer.spending else None
        return Destination(storage_at(save_to), self._saver, naming, self._polling.deadline, budget)

    # --- Files ----------------------------------------------------------------------------------------------

    async def save(
        self, result: TaskResult, folder: SaveTo, *, name: str | None = None
    ) -> tuple[Path | Any, ...]:
        """Save every file of a result as `NAME-1.png` and so on; never over another file.

        Args:
            result: Result of a task.
            folder: Where to, as for `stream`.
            name: Beginning of the file names. None: the task's id.

        Returns:
            Paths of the files in a folder; of files elsewhere the addresses, as text.

        Raises:
            DownloadFailed: a file could not be had, even after its URL was signed anew, or not be put there.
        """
        saved = await self._saver.save_to(storage_at(folder), result, name)
        return saved.paths or saved.objects

    async def fetch(self, image: GeneratedImage | Artifact) -> bytes:
        """Fetch one result file into memory.

        Raises:
            DownloadFailed: the file could not be had, even after its URL was signed anew.
        """
        return await self._saver.fetch(image)

    async def _refreshed(self, task: Task) -> TaskResult | None:
        """Ask for a finished task again, until its files are listed, or may not come any more."""
        began_at = anyio.current_time()
        while True:
            try:
                snapshot = await self._buyer.poll_patiently(task)
            except NovitaError:
                return None
            result = snapshot.result
            if result is None or result.artifacts or not files_may_come(anyio.current_time(), began_at):
                return result
            await anyio.sleep(_AGAIN_AFTER)

    # --- The account ----------------------------------------------------------------------------------------

    async def models(
        self,
        *,
        types: ModelType | str | None = None,
        query: str | None = None,
        visibility: str | None = None,
        source: str | None = None,
        is_sdxl: bool | None = None,
        is_inpainting: bool | None = None,
    ) -> AsyncGenerator[ModelRecord]:
        """List the models that requests can name, page by page.

        Args:
            types: A kind, such as `lora`.
            query: Searched for in names and tags.
            visibility: `public` or `private`.
            source: `civitai`, `training` or `uploading`.
            is_sdxl: Only SDXL, or none of it.
            is_inpainting: Only those for inpainting.
        """
        given = {
            "types": types,
            "query": query,
            "visibility": visibility,
            "source": source,
            "is_sdxl": None if is_sdxl is None else str(is_sdxl).lower(),
            "is_inpainting": None if is_inpainting is None else str(is_inpainting).lower(),
        }
        filters = {name: value for name, value in given.items() if value is not None}
        cursor: str | None = None
        seen: set[str | None] = {cursor, "c_0"}
        while True:
            http = protocol.models(filters, cursor, _PAGE, self._endpoints)
            page = await self._buyer.read(http, protocol.read_models)
            for record in page.records:
                yield record
            cursor = page.next_cursor
            if cursor in seen or not page.records:  # the end, or a listing that goes round in circles
                return
            seen.add(cursor)

    def routes(self) -> tuple[Route, ...]:
        """Give the table of routes: first those that a host of this client's accounts serves."""
        hosts = self._pool.hosts
        return tuple(sorted(ROUTES, key=lambda row: not any(host.serves(row.hosts) for host in hosts)))

    async def balance(self, account: str | None = None) -> Balance:
        """Ask for the money that is left, of the account with this label or of the first."""
        return await self._buyer.read(protocol.balance(self._endpoints), protocol.read_balance, account)

    # --- Observers ------------------------------------------------------------------------------------------

    def _tell(self, purchase: Purchase, before: State, fact: Fact) -> None:
        """Tell observers of a transition."""
        self._emit(
            events.Transition(
                purchase=purchase.id,
                position=purchase.position,
                tag=purchase.tag,
                endpoint=purchase.endpoint,
                images=purchase.images,
                attempt=purchase.attempt,
                task=purchase.task,
                before=before,
                after=purchase.state,
                next=next_action(purchase),
                fact=fact,
            )
        )

    def _emit(self, event: Event) -> None:
        for observer in self._observers:
            try:
                observer(event)
            except Exception:  # noqa: BLE001 - watching must never break the work
                _log.exception("an observer failed on %s and was passed over", type(event).__name__)


def _tell_caller(on_update: Callable[[Update], object], update: Update) -> None:
    try:
        on_update(update)
    except Exception:  # noqa: BLE001 - the task is paid, and is still waited for
        _log.exception("on_update failed on %s and was passed over", type(update).__name__)


def _carriers(
    hosts: Sequence[Host], transport: Transport | Callable[[Host], Transport]
) -> dict[str, Transport]:
    """A carrier for each host."""
    names = {host.name: host for host in hosts}
    if len(names) < len(hosts):
        raise ConfigurationError(
            problem="two hosts of one name have different base URLs",
            advice="give each host a name of its own",
        )
    given: Any = transport
    if not hasattr(transport, "send"):
        return {name: given(host) for name, host in names.items()}
    if len(names) > 1:
        raise ConfigurationError(
            problem=f"one transport cannot carry to several hosts: {', '.join(names)}",
            advice="give transport=, a function that makes one for each host",
        )
    return {name: given for name in names}  # noqa: C420 - `fromkeys` is typed as if it had no value


def _accounts(
    api_key: str | ApiKey | None, accounts: Sequence[Account] | None, images_per_minute: int | None
) -> Sequence[Account]:
    if accounts is None:
        key = _environment("NOVITA_API_KEY") if api_key is None else api_key
        key = key if isinstance(key, ApiKey) else ApiKey(key)
        return [Account(api_key=key, images_per_minute=images_per_minute)]
    if api_key is not None or images_per_minute is not None:
        raise ConfigurationError(
            problem="api_key or images_per_minute together with accounts", advice="put both into the accounts"
        )
    return accounts


def _environment(name: str) -> str:
    return os.environ.get(name, "").strip()


def _naming(save_as: NameFiles | str | None) -> NameFiles | NameTemplate | None:
    return NameTemplate(save_as) if isinstance(save_as, str) else save_as
