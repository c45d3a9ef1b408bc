"""Webhook events that are to be sent: at once, and up to five times more while nobody takes them."""

import heapq
from collections.abc import Callable
from itertools import count
from typing import Final

from attrs import define, field

from novita_async._util.values import frozen

RETRIES: Final = 5
"""Documented. The time between them is not."""


@frozen(kw_only=True)
class WebhookCall:
    """An event on its way to a receiver.

    Args:
        task_id: Task that it is about.
        url: Where it goes.
        attempt: From 1; more than 1 after receivers that did not take it.
        body: JSON.
    """

    task_id: str
    """Task that it is about."""
    url: str
    """Where it goes."""
    attempt: int
    """From 1; more than 1 after receivers that did not take it."""
    body: bytes = field(repr=False)
    """JSON."""


@frozen(kw_only=True)
class _Letter:
    task_id: str
    attempt: int = 1


@frozen(kw_only=True)
class MailStatistics:
    """The mailbox at a moment."""

    waiting: int
    """Events that are due now or later."""
    taken: int
    """Events that a receiver took."""
    given_up: int
    """Events that nobody took, however often they were sent."""


@define(eq=False)
class Mailbox:
    """Events by when they are due."""

    retry: float
    _heap: list[tuple[float, int, _Letter]] = field(factory=list, init=False)
    _order: "count[int]" = field(factory=count, init=False)
    _taken: int = field(default=0, init=False)
    _given_up: int = field(default=0, init=False)

    def post(self, task_id: str, at: float) -> None:
        """Let an event be sent at this time."""
        self._push(_Letter(task_id=task_id), at)

    def _push(self, letter: _Letter, at: float) -> None:
        heapq.heappush(self._heap, (at, next(self._order), letter))

    def next_due_at(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: float, write: Callable[[str], tuple[str, bytes]]) -> list[WebhookCall]:
        """Take out what is due.

        `write` gives the URL and the body for a task id, and is called now: results are signed now.
        """
        calls: list[WebhookCall] = []
        while self._heap and self._heap[0][0] <= now:
            letter = heapq.heappop(self._heap)[2]
            url, body = write(letter.task_id)
            calls.append(WebhookCall(task_id=letter.task_id, url=url, attempt=letter.attempt, body=body))
        return calls

    def settle(self, call: WebhookCall, *, taken: bool, now: float) -> None:
        """Note how a call ended; one that was not taken is due again later, five times."""
        if taken:
            self._taken += 1
        elif call.attempt > RETRIES:
            self._given_up += 1
        else:
            delay = self.retry * 2 ** (call.attempt - 1)
            self._push(_Letter(task_id=call.task_id, attempt=call.attempt + 1), now + delay)

    def statistics(self) -> MailStatistics:
        return MailStatistics(waiting=len(self._heap), taken=self._taken, given_up=self._given_up)

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<Mailbox {now.waiting} waiting, {now.taken} taken, {now.given_up} given up>"
