"""Work that many tell a journal and that it does together, and how each caller waits for an answer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import Any, cast

import anyio
from attrs import define

from novita_async._purchase.machine import Fact, Purchase
from novita_async.errors import JournalError


@define(eq=False)
class Job:
    """Something that was told, and who waits for the answer."""

    work: Any
    """Work that is to be done."""
    answer: "asyncio.Future[Any]"
    """Resolved once it is done."""
    result: Any = None
    """The answer, or the error."""
    done: bool = False
    """Whether the answer is known."""

    def give(self) -> None:
        """Answer, where it is known and somebody still waits."""
        if not self.done or self.answer.done():
            return
        if isinstance(self.result, BaseException):
            self.answer.set_exception(self.result)
        else:
            self.answer.set_result(self.result)


Wait = Callable[[Job], Awaitable[Any]]
"""A way to wait for the answer: `outlasting` or `known`."""


def name_task(error: JournalError, purchase: Purchase, facts: Sequence[Fact]) -> None:
    """Name the task that facts, which could not be recorded, are about."""
    tasks = (getattr(fact, "task", purchase.task) for fact in facts)
    error.task_id = error.task_id or next((task.task_id for task in tasks if task), None)


def own_copy(error: Exception) -> Exception:
    """An error of each one's own, because where it is raised is added to it."""
    again = copy(error)
    again.__cause__ = error.__cause__ or error
    return again


async def outlasting(job: Job) -> Any:
    """Wait for an answer, cancelled or not. A cancellation is raised once the answer is known.

    So the cancellation stays within the scope or the timeout that it belongs to: put off to the next await,
    it would come behind the caller's block. A refusal that it meets is its cause.
    """
    try:
        return await job.answer
    except asyncio.CancelledError as cancelled:
        with anyio.CancelScope(shield=True):
            await _whatever_happens(job)
        raise cancelled from job.answer.exception()


async def known(job: Job) -> Any:
    """Wait for the answer about money: a cancelled caller is told all the same that something was written.

    Then the cancellation comes at the next await. Where nothing was written, it comes at once.
    """
    try:
        return await outlasting(job)
    except asyncio.CancelledError as cancelled:
        if job.answer.exception() is not None:
            raise
        why = cancelled.args
    task = cast("asyncio.Task[Any]", asyncio.current_task())
    task.uncancel()
    task.cancel(*why)
    return job.answer.result()


async def _whatever_happens(job: Job) -> None:
    """Wait for an answer that the first who waited can no longer be given."""
    if job.answer.cancelled():
        job.answer = asyncio.get_running_loop().create_future()
        job.give()
    while not job.answer.done():
        try:
            await asyncio.wait((job.answer,))
        except asyncio.CancelledError:
            continue  # from asyncio itself, which no scope can shield from; one is passed on, and enough
