"""The open purchases of a client, and the one place where something happens to a purchase.

A fact goes to the store, in one commit; then to memory; then to observers. `happen` is the same without a
store and never suspends, so that no cancellation can come between.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import cast

from attrs import define, field

from novita_async._purchase.machine import (
    ANNOUNCED,
    SUBMITTED,
    UNCERTAIN,
    Announced,
    Bought,
    Completed,
    Fact,
    FailedForGood,
    Keeper,
    Lost,
    Purchase,
    Reopened,
    State,
    Verdict,
    advance,
)
from novita_async.errors import JournalError, SubmissionUncertain
from novita_async.models.results import Succeeded
from novita_async.tasks import Task

Tell = Callable[[Purchase, State, Fact], None]
"""Told of each transition: the purchase as it is now, its state before, the fact."""


@define(eq=False, repr=False)
class Purchases:
    """Purchases that have cost money, or may have, and whose end was not handed over yet."""

    tell: Tell | None = None
    """Turns facts into events. None: no observer listens."""
    _open: dict[int, Purchase] = field(factory=dict[int, Purchase], init=False)
    """By the id of the purchase."""
    _by_task: dict[str, Purchase] = field(factory=dict[str, Purchase], init=False)
    """Open purchases by the id of their task; the first, where the service gave an id twice."""
    _duplicates: dict[str, tuple[Purchase, ...]] = field(factory=dict[str, tuple[Purchase, ...]], init=False)
    """The others, where it did: apart, because the garbage collector walks all that is kept of each task."""
    _held_back: dict[int, tuple[Fact, ...]] = field(factory=dict[int, tuple[Fact, ...]], init=False)
    """Facts that have happened, and go to the journal with the next of their purchase; by its id."""
    _journals: set[str] = field(factory=set[str], init=False)
    """Names of the journals whose windows this client knows already."""

    def __repr__(self) -> str:
        return f"<Purchases: {len(self._open)} open>"

    # --- What happens ---------------------------------------------------------------------------------------

    async def admit(
        self, journal: Keeper, purchase: Purchase, announced: Announced, cost: Decimal | None
    ) -> None:
        """Promise an attempt in the journal that keeps the purchase.

        Raises:
            Deferred: a shared store has no place or no money yet.
            JournalError: the promise is not durable, so nothing may be sent.
        """
        await journal.admit(purchase, announced, cost)
        self.happen(purchase, announced)

    async def settle(self, journal: Keeper, purchase: Purchase, verdict: Verdict) -> None:
        """Record how an attempt ended, in the journal that keeps the purchase.

        Raises:
            JournalError: the verdict is not durable. Memory knows it all the same.
        """
        try:
            await journal.settle(purchase, verdict)
        finally:
            self.happen(purchase, verdict)

    async def record(self, purchase: Purchase, *facts: Fact) -> None:
        """Record what has happened, in one commit.

        Raises:
            JournalError: the facts are not durable. Memory knows them all the same, and the journal is told
                them again with those that follow.
        """
        owed = (*self._held_back.pop(purchase.id, ()), *facts)
        try:
            if purchase.journal is not None:
                await purchase.journal.record(purchase, *owed)
        except JournalError:
            self._held_back[purchase.id] = owed
            raise
        finally:
            for fact in facts:
                self.happen(purchase, fact)

    def hold_back(self, purchase: Purchase, completed: Completed) -> None:
        """Let the end of a task happen in memory, and be recorded with the fact that follows: its files.

        Until then the journal says that the task is paid and to be watched, which is as true.
        """
        self.happen(purchase, completed)
        self._held_back[purchase.id] = (*self._held_back.get(purchase.id, ()), completed)

    def happen(self, purchase: Purchase, fact: Fact) -> None:
        """Let a fact happen in memory, and tell of it. Never suspends."""
        before, task = purchase.state, purchase.task
        advance(purchase, fact)
        kind = type(fact)
        if kind is Bought or kind is Lost:
            self._file(purchase, task)
            if type(fact) is Bought and (purchase.task is None or purchase.task.task_id != fact.task.task_id):
                second = Purchase(None, purchase.endpoint, purchase.images, purchase.position, purchase.tag)
                second.state, second.account, second.task = SUBMITTED, fact.task.account, fact.task
                self._file(second, None)  # paid twice: both tasks are unfinished
        elif kind is Completed and (before is ANNOUNCED or before is UNCERTAIN):  # in the answer itself
            self._file(purchase, task)
        elif kind is Reopened and task is not None:
            self._forget_task(purchase, task)
        if self.tell is not None:
            self.tell(purchase, before, fact)

    def meets(self, journal: str) -> bool:
        """Whether a journal is new to this client: its window must be counted once."""
        news = journal not in self._journals
        self._journals.add(journal)
        return news

    # --- What is open ---------------------------------------------------------------------------------------

    def add(self, purchase: Purchase) -> None:
        """Know a purchase of an earlier run, or of another process, that is paid or in doubt."""
        self._file(purchase, None)

    def _file(self, purchase: Purchase, task_before: Task | None) -> None:
        self._open[purchase.id] = purchase
        task = purchase.task
        if task is not None and task is not task_before:
            first = self._by_task.setdefault(task.task_id, purchase)
            if first is not purchase:
                others = self._duplicates.get(task.task_id, ())
                self._duplicates[task.task_id] = others if purchase in others else (*others, purchase)

    def _filed(self, task_id: str) -> tuple[Purchase, ...]:
        """Open purchases of a task."""
        first = self._by_task.get(task_id)
        return () if first is None else (first, *self._duplicates.get(task_id, ()))

    def close(self, purchase: Purchase) -> None:
        """Forget a purchase: the caller has its outcome."""
        self._open.pop(purchase.id, None)
        self._held_back.pop(purchase.id, None)
        if purchase.task is not None:
            self._forget_task(purchase, purchase.task)

    def _forget_task(self, purchase: Purchase, task: Task) -> None:
        left = [each for each in self._filed(task.task_id) if each is not purchase]
        self._duplicates.pop(task.task_id, None)
        if not left:
            self._by_task.pop(task.task_id, None)
            return
        self._by_task[task.task_id], *others = left
        self._duplicates[task.task_id] = tuple(others)

    def report_doubt(self, purchase: Purchase) -> None:
        """Note that the caller knows of the doubt. An event may still tell the task."""
        purchase.reported, purchase.request = True, None
        self._open.pop(purchase.id, None)

    def ended(self, task_id: str, fact: Completed | FailedForGood | None = None) -> None:
        """Forget the purchases of a task whose end was seen by the caller.

        Args:
            task_id: The task.
            fact: How the task ended, for purchases that nobody else leads to their end.
        """
        filed = self._filed(task_id)
        self._by_task.pop(task_id, None)
        self._duplicates.pop(task_id, None)
        for purchase in filed:
            self._open.pop(purchase.id, None)
            is_single = purchase.request is None and purchase.entry is None  # else a stream leads it
            if fact is not None and is_single and purchase.state is SUBMITTED:
                self.happen(purchase, fact)

    def task_of(self, task: Task | str) -> Task:
        """The task of an id; a task that was bought here comes with its account and its age."""
        if not isinstance(task, str):
            return task
        filed = self._by_task.get(task)
        found = filed.task if filed else None
        return Task(task_id=task) if found is None else found

    def id_of(self, task_id: str) -> int | None:
        """The id of the purchase that bought a task. None: not bought here, or long ended."""
        filed = self._by_task.get(task_id)
        return filed.id if filed else None

    @property
    def unfinished(self) -> tuple[Task, ...]:
        """Paid tasks whose end was not handed over, each once."""
        return tuple(cast("Task", purchase.task) for purchase in self._by_task.values())

    @property
    def unreported(self) -> tuple[Succeeded, ...]:
        """Results that came, and that no caller has."""
        return tuple(
            Succeeded(
                result=purchase.result,
                paths=purchase.paths,
                objects=purchase.objects,
                request=purchase.request,
                tag=purchase.tag,
                metadata=purchase.metadata,
            )
            for purchase in self._open.values()
            if purchase.result is not None and purchase.result.artifacts
        )

    @property
    def uncertain(self) -> tuple[SubmissionUncertain, ...]:
        """Doubts that no caller knows of."""
        return tuple(
            purchase.doubt.of_request(purchase.tag)
            for purchase in self._open.values()
            if purchase.doubt is not None and purchase.in_doubt and not purchase.reported
        )
