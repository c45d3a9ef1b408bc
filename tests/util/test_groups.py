"""Work in a thread that is done for many at once."""

import asyncio
from threading import Event, Semaphore

import anyio
import pytest

from novita_async._util import groups as groups_module
from novita_async._util.groups import Groups

pytestmark = pytest.mark.anyio


async def test_what_comes_while_a_group_is_done_goes_together_in_the_next():
    done, began, may_end = [], Event(), Event()

    def do(group):
        began.set()
        may_end.wait(10)
        done.append(group)

    groups = Groups(do)
    async with anyio.create_task_group() as tasks:
        for piece in range(3):
            tasks.start_soon(groups.join, piece)
        await anyio.to_thread.run_sync(began.wait)
        for piece in range(3, 10):
            tasks.start_soon(groups.join, piece)
        await anyio.wait_all_tasks_blocked()
        may_end.set()
    assert done == [[0, 1, 2], list(range(3, 10))]


async def test_nobody_comes_back_before_their_piece_was_done():
    done, back = [], []
    groups = Groups(done.extend)

    async def join(piece):
        await anyio.sleep(piece // 5)
        await groups.join(piece)
        assert piece in done
        back.append(piece)

    async with anyio.create_task_group() as tasks:
        for piece in range(20):
            tasks.start_soon(join, piece)
    assert sorted(back) == list(range(20))


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_a_caller_that_is_cancelled_leaves_the_others_their_pieces(cancelled):
    """Whether that caller has begun the group, or waits for the next."""
    done, back = [], []
    groups = Groups(done.extend)

    async def join(piece):
        with anyio.CancelScope() as scope:
            if piece == cancelled:
                scope.cancel()
            await groups.join(piece)
            back.append(piece)

    async with anyio.create_task_group() as tasks:
        for piece in range(4):
            tasks.start_soon(join, piece)
    assert sorted({0, 1, 2, 3} - {cancelled}) == sorted(back)
    assert set(back) <= set(done)


async def test_groups_of_a_slow_disk_run_beside_each_other_as_many_as_may(monkeypatch):
    monkeypatch.setattr(groups_module, "_SLOW", 0.0)
    began, may_end, done = Semaphore(0), Event(), []

    def do(group):
        began.release()
        may_end.wait(10)
        done.append(group)

    groups = Groups(do, 3)
    async with anyio.create_task_group() as tasks:
        for piece in range(3):
            tasks.start_soon(groups.join, piece)
            assert await anyio.to_thread.run_sync(began.acquire, True, 10)
        for piece in range(3, 6):
            tasks.start_soon(groups.join, piece)
            await anyio.wait_all_tasks_blocked()
        may_end.set()
    assert sorted(done) == [[0], [1], [2], [3, 4, 5]]


async def test_an_error_of_the_work_itself_reaches_all_whose_pieces_it_took():
    failed = []

    def do(group):
        raise RuntimeError(f"{group}")

    groups = Groups(do)

    async def join(piece):
        with pytest.raises(RuntimeError, match=r"\[0, 1\]"):
            await groups.join(piece)
        failed.append(piece)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(join, 0)
        tasks.start_soon(join, 1)
    assert failed == [0, 1]


def held_groups():
    """Groups of which each ends once it may; with what tells that one began, and all that is done."""
    began, may_end, done = Event(), Event(), []

    def do(group):
        began.set()
        may_end.wait(10)
        done.extend(group)

    return Groups(do), began, may_end, done


async def test_a_caller_that_is_cancelled_comes_back_once_its_piece_was_done():
    groups, began, may_end, done = held_groups()

    async def join():
        try:
            await groups.join("piece")
        finally:
            assert done == ["piece"]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(join)
        await anyio.to_thread.run_sync(began.wait)
        tasks.cancel_scope.cancel()
        may_end.set()


async def test_a_caller_that_is_cancelled_before_its_group_has_begun_waits_for_nobody():
    groups, began, may_end, done = held_groups()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(groups.join, "first")
        await anyio.to_thread.run_sync(began.wait)
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(groups.join, "second")
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(groups.join, "third")
            waiting.cancel_scope.cancel()
        assert not done
        may_end.set()
    assert done == ["first", "third"]


async def test_a_group_is_no_larger_than_a_cancelled_caller_can_wait_for(monkeypatch):
    monkeypatch.setattr(groups_module, "MOST", 3)
    done = []
    groups = Groups(done.append)
    async with anyio.create_task_group() as tasks:
        for piece in range(8):
            tasks.start_soon(groups.join, piece)
    assert done == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_a_program_that_ends_is_told_that_no_thread_does_the_work():
    """Also one that waited, and nobody hangs. A loop of its own: its executor is shut down."""
    groups = Groups([].extend)

    async def join_twice():
        await asyncio.get_running_loop().shutdown_default_executor()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="shutdown"):
                await groups.join("piece")

    asyncio.run(join_twice())
    assert groups._running == 0


async def test_a_group_that_an_executor_gave_up_is_told_so(monkeypatch):
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "run_in_executor", lambda *_: given_up(loop))
    with pytest.raises(RuntimeError, match="the executor was shut down"):
        await Groups([].extend).join("piece")


def given_up(loop):
    future = loop.create_future()
    future.cancel()
    return future
