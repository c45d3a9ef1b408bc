"""The way of one purchase: from where it stands to its outcome.

SEND buy · WATCH leave it to the watcher · SAVE save · else: the outcome
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, assert_never, cast

from attrs import define, evolve, field

from novita_async._purchase.machine import (
    FAILED,
    SUBMITTED,
    SUCCEEDED,
    UNCERTAIN,
    Action,
    Completed,
    Fact,
    FailedForGood,
    NotSaved,
    Purchase,
    Reopened,
    Rewatched,
    Saved,
    next_action,
)
from novita_async._stream.saving import Destination
from novita_async._submit.buyer import Buyer, Put
from novita_async._util.clock import loop_time
from novita_async.errors import (
    DownloadFailed,
    EndpointNotFound,
    JournalError,
    NoImages,
    NovitaError,
    SubmissionUncertain,
    TaskFailed,
    TaskNotFound,
)
from novita_async.events import Finished
from novita_async.models.results import (
    Failed,
    Outcome,
    Succeeded,
    TaskResult,
    Uncertain,
    Unfinished,
)
from novita_async.tasks import Task

_ENDS: Final = (TaskFailed, TaskNotFound, DownloadFailed)


@define
class Counts:
    """How far a stream has come."""

    taken_in: int = 0
    """Requests taken from the input."""
    submitted: int = 0
    """Requests that became tasks."""
    delivered: int = 0
    """Outcomes that the consumer has taken."""
    unsent: int = 0
    """Requests that were taken in and can no longer be sent."""


@define(eq=False, repr=False)
class Way:
    """Brings the purchases of one stream to their outcomes."""

    _buyer: Buyer
    _folder: Destination | None
    _interactive: bool
    _counts: Counts
    _stop: Callable[[NovitaError, Purchase], object]
    """Send nothing more, because of this error, which this purchase met."""
    _awaits_line: Callable[[Purchase], bool]
    """Whether the line of a purchase, with its request, may still come."""
    _keep_in: Path | None = None
    """Where files go that come in an answer."""
    _endpoints: dict[str, bool] = field(factory=dict, init=False)
    """Endpoints that this stream sends to, and whether they are served."""

    def goes_to(self, endpoint: str) -> None:
        """Know an endpoint of this stream: as long as one of them is served, the stream goes on."""
        self._endpoints.setdefault(endpoint, True)

    async def outcome_of(self, purchase: Purchase, ended: Outcome | None = None) -> Outcome | None:
        """Do what the purchase asks for, until nothing more is to be done.

        Args:
            purchase: The purchase.
            ended: How its task ended, where that was seen just now.

        Returns:
            The outcome. None: its task is to be watched (`is_watched`), or the purchase cannot be sent.
        """
        purchase.wants_files = self._folder is not None
        outcome = None if ended is None else await self._note_end(purchase, ended)
        while outcome is None and not is_watched(purchase):
            if purchase.state is SUCCEEDED and purchase.task is None and not _files_of(purchase):
                await self._end_empty(purchase)
            action = next_action(purchase)
            match action:
                case Action.SEND:
                    if not await self._buy(purchase):
                        return None
                case Action.SAVE:
                    outcome = (
                        outcome_of(purchase) if self._may_be_named(purchase) else await self._save(purchase)
                    )
                case Action.WATCH | Action.LIST | Action.NOTHING | Action.AWAIT:
                    outcome = outcome_of(purchase)
                    if purchase.state is UNCERTAIN:
                        await self.add_to_index(outcome, purchase)
                case _:
                    assert_never(action)
        return outcome

    async def _buy(self, purchase: Purchase) -> bool:
        """Buy. Returns whether there is something to go on with."""
        try:
            await self._buyer.buy(
                purchase,
                interactive=self._interactive,
                patient=True,
                recovery_timeout=self._buyer.callbacks.recovery_timeout,
                folder=self._keep_in,
                put=self._put_of(purchase),
            )
        except SubmissionUncertain:
            # Listed with what an earlier run left.
            self._buyer.emit(Finished(purchase=purchase.id, outcome=outcome_of(purchase)))
        except JournalError as error:
            is_paid = purchase.task is not None or purchase.state is SUCCEEDED
            self._counts.unsent += not is_paid
            self._stop(error, purchase)
            return is_paid  # and not recorded: at least see its end
        except NovitaError as error:
            if self._dooms_the_rest(error):
                self._counts.unsent += 1
                self._stop(error, purchase)
                return False
            await self.add_to_index(Failed(error=error, **words_of(purchase)), purchase)
            await self._record(purchase, FailedForGood(loop_time(), error))
            self._buyer.emit(Finished(purchase=purchase.id, outcome=outcome_of(purchase)))
        else:
            self._endpoints[purchase.endpoint] = True
            if purchase.state is SUCCEEDED and _files_of(purchase):  # no watcher will tell of its end
                self._buyer.emit(Finished(purchase=purchase.id, outcome=outcome_of(purchase)))
        finally:
            self._counts.submitted += purchase.task is not None or purchase.state is SUCCEEDED
        return True

    def _put_of(self, purchase: Purchase) -> Put | None:
        """Find what puts files that come in an answer where others find them. None: a folder keeps them."""
        folder = self._folder
        if folder is None or folder.folder is not None or purchase.journal is None:
            return None
        return partial(folder.put, purchase)

    async def _end_empty(self, purchase: Purchase) -> None:
        """End a purchase that was answered at once, without a single file: paid, and nothing to be had."""
        extra = purchase.result.extra if purchase.result else dict[str, Any]()
        error = NoImages(account=purchase.account, extra=extra, advice=NOTHING_CAME)
        await self._record(purchase, FailedForGood(loop_time(), error))
        self._buyer.emit(Finished(purchase=purchase.id, outcome=outcome_of(purchase)))

    async def _note_end(self, purchase: Purchase, outcome: Outcome) -> Outcome | None:
        """Record how a task ended. Returns the outcome where that is not an end, or where nothing follows."""
        now = loop_time()
        if isinstance(outcome, Succeeded):
            completed = Completed(now, outcome.result)
            if purchase.state is SUBMITTED and purchase.wants_files and not self._may_be_named(purchase):
                self._buyer.purchases.hold_back(purchase, completed)
            else:
                await self._record(purchase, completed)
            return None
        if outcome.tag != purchase.tag:  # the watcher knows the task and the request alone
            outcome = evolve(outcome, tag=purchase.tag, metadata=purchase.metadata)
        await self.add_to_index(outcome, purchase)
        error, payer = outcome.error, purchase.account
        if isinstance(error, TaskNotFound) and payer not in (None, error.account):
            error.advice = f"{payer} has paid for it; fetch it with the key of that account"
        elif isinstance(outcome, Failed) and purchase.state is SUCCEEDED:
            await self._record(purchase, NotSaved(now, error))
        elif isinstance(error, TaskFailed) or (isinstance(error, TaskNotFound) and payer == error.account):
            # Any other error leaves a paid task as it is: it may be well, and the next run asks again.
            await self._record(purchase, FailedForGood(now, error))
            return None
        return outcome

    def _may_be_named(self, purchase: Purchase) -> bool:
        """Whether files are named by a function that may look at a request whose line may still come."""
        return cast("Destination", self._folder).needs_request and self._awaits_line(purchase)

    async def _save(self, purchase: Purchase) -> Outcome | None:
        """Save the files. Returns an outcome where they cannot be saved."""
        folder = cast("Destination", self._folder)
        done = cast("Succeeded", outcome_of(purchase))
        came = [each.file for each in done.result.artifacts if each.file is not None]
        try:
            saved = await folder.save(done, purchase)
        except NovitaError as error:
            if came and error.retryable:
                kept = ", ".join(map(str, came))
                error.advice = f"paid; not lost: {kept}; {_SAVED_AGAIN[purchase.journal is None]}"
            if error.scope == "account":  # a full disk: what is bought now could not be saved either
                self._stop(error, purchase)
            failed = Failed(task=purchase.task, error=error, **words_of(purchase))
            await self.add_to_index(failed, purchase)
            await self._record(purchase, NotSaved(loop_time(), error))
            return failed
        is_known = await self._record(purchase, Saved(loop_time(), saved.paths, saved.objects))
        if came and is_known and (saved.paths or saved.objects):
            # A crash before this leaves a file under two names, and none lost.
            await folder.forget([file for file in came if file not in saved.paths])
        return None

    async def add_to_index(self, outcome: Outcome, purchase: Purchase) -> None:
        """Add what is no success to the folder's index, before a journal knows of it."""
        error = await self._folder.note(outcome, purchase) if self._folder else None
        if error is not None and error.scope == "account":
            self._stop(error, purchase)

    async def reopen(self, purchase: Purchase) -> None:
        """Prepare to buy again. A task that failed is watched instead where it is well after all.

        Raises:
            JournalError: that could not be recorded, so nothing may be bought.
        """
        if purchase.task is None or purchase.state is UNCERTAIN or not await self._is_well(purchase.task):
            await self._buyer.purchases.record(purchase, Reopened(loop_time()))
        elif purchase.state is FAILED:
            await self._buyer.purchases.record(purchase, Rewatched(loop_time()))
            self._buyer.purchases.add(purchase)

    async def _is_well(self, task: Task) -> bool:
        """Whether pictures may come of a task that was said to have failed, or nobody can say."""
        try:
            snapshot = await self._buyer.poll_patiently(task)
        except (TaskFailed, TaskNotFound):
            return False
        except NovitaError:
            return True
        if snapshot.state == "succeeded":
            return snapshot.result is not None and bool(snapshot.result.artifacts)
        return snapshot.state != "failed"

    async def _record(self, purchase: Purchase, fact: Fact) -> bool:
        """Record an end. Where that fails the outcome still comes out, but nothing more is bought."""
        try:
            await self._buyer.purchases.record(purchase, fact)
        except JournalError as error:
            self._stop(error, purchase)
            return False
        return True

    def _dooms_the_rest(self, error: NovitaError) -> bool:
        """Whether nothing more can be sent: no account is left, or no endpoint that this stream uses."""
        if error.scope == "endpoint":
            self._endpoints[error.endpoint if isinstance(error, EndpointNotFound) else ""] = False
            return not any(self._endpoints.values())
        return error.scope == "account"


_SAVED_AGAIN: Final = ("the next run of the batch saves it", "give it a name")
"""Advice for files that came in an answer and could not be saved: with a journal, and without."""
NOTHING_CAME: Final = "paid; look at `extra` for what the service says instead"
"""Advice where a route answered at once without a file."""


def _files_of(purchase: Purchase) -> bool:
    return purchase.result is not None and bool(purchase.result.artifacts)


def is_watched(purchase: Purchase) -> bool:
    """Whether nothing can be done before the task has ended, or was asked for URLs that work."""
    if purchase.state is SUCCEEDED:
        return purchase.result is None and purchase.task is not None
    return purchase.state is SUBMITTED


def outcome_of(purchase: Purchase) -> Outcome:
    """The outcome of a purchase to which nothing more will happen."""
    words = words_of(purchase)
    if purchase.state is UNCERTAIN:
        return Uncertain(error=cast("SubmissionUncertain", purchase.doubt), **words)
    if purchase.state is FAILED:
        return Failed(task=purchase.task, error=cast("NovitaError", purchase.error), **words)
    return Succeeded(
        result=cast("TaskResult", purchase.result), paths=purchase.paths, objects=purchase.objects, **words
    )


def words_of(purchase: Purchase) -> dict[str, Any]:
    """The user's side of an outcome: the request, and what the user calls it."""
    return {"request": purchase.request, "tag": purchase.tag, "metadata": purchase.metadata}


def fact_of(outcome: Succeeded | Failed) -> Completed | FailedForGood:
    """The fact of a task's end, which was seen."""
    if isinstance(outcome, Succeeded):
        return Completed(loop_time(), outcome.result)
    return FailedForGood(loop_time(), outcome.error)


def end_was_seen(outcome: Outcome) -> bool:
    """Whether nothing more can come of a task. A task that could not be polled may be well, and is paid."""
    match outcome:
        case Unfinished():
            return False
        case Failed():
            return outcome.task is None or isinstance(outcome.error, _ENDS)
        case Succeeded() | Uncertain():
            return True
        case _:
            assert_never(outcome)
