"""Work that is not broken off: in a thread, to its end. Work that is not begun any more."""

import asyncio
import threading

import anyio
import pytest

from novita_async._util.scopes import light_task_group, run_in_thread, start_in
from tests.helpers.wire import settled

pytestmark = pytest.mark.anyio


async def test_work_in_a_thread_gives_its_result_or_raises():
    assert await run_in_thread(pow, 2, 5) == 32
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(divmod, 1, 0)


class Work:
    """Work that goes on until it is let go."""

    def __init__(self, error=None):
        self.begun, self.goes_on, self.is_done, self.error = (
            threading.Event(),
            threading.Event(),
            False,
            error,
        )

    def __call__(self):
        self.begun.set()
        self.goes_on.wait(10)
        self.is_done = True
        if self.error:
            raise self.error


@pytest.mark.real_loop
@pytest.mark.parametrize("error", [None, OSError("full")])
async def test_a_cancellation_waits_until_the_work_is_done_however_often_it_comes(error):
    work = Work(error)
    task = asyncio.ensure_future(run_in_thread(work))
    await settled(work.begun.is_set)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.001)
    assert not task.done()
    work.goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.is_done


@pytest.mark.real_loop
async def test_a_scope_that_is_cancelled_waits_until_the_work_is_done():
    work = Work()
    async with anyio.create_task_group() as group:
        group.start_soon(run_in_thread, work)
        await settled(work.begun.is_set)
        group.cancel_scope.cancel()
        work.goes_on.set()
    assert work.is_done


async def test_work_is_not_begun_in_a_group_whose_tasks_are_being_cancelled():
    begun = []

    async def work():
        begun.append(True)

    with pytest.raises(ZeroDivisionError):
        async with light_task_group() as tasks:
            start_in(tasks, work())
            await anyio.sleep(1)
            try:
                tasks.create_task(divide())
                await anyio.sleep_forever()
            finally:
                start_in(tasks, work())
    assert begun == [True]


async def divide():
    raise ZeroDivisionError
