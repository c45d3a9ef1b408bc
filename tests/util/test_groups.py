"""Work in a thread that is done for many at once."""

from threading import Event

import anyio
import pytest

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
