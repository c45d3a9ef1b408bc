"""Work that many tell a journal and that it does together, and how each caller waits for an answer."""

import asyncio
from typing import Any, cast

import anyio
from attrs import define


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


async def outlasting(job: Job) -> Any:
    """Wait for an answer, cancelled or not; the cancellation comes at the next await.

    So who tells the journal something always knows whether it was recorded.
    """
    try:
        return await job.answer
    except asyncio.CancelledError as cancelled:
        why = cancelled.args
    with anyio.CancelScope(shield=True):
        await _whatever_happens(job)
    task = cast("asyncio.Task[Any]", asyncio.current_task())
    task.uncancel()
    task.cancel(*why)
    return job.answer.result()


async def ended(job: Job) -> None:
    """Wait for the end of work that nothing follows: a cancellation comes here.

    Put off, it would come behind the caller's block, and hit what follows the scope or the timeout that it
    belongs to.
    """
    try:
        await outlasting(job)
    finally:
        await asyncio.sleep(0)


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
