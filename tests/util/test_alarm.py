"""A wait that ends when the time has come, or when something has."""

import anyio
import pytest

from novita_async._util.alarm import Alarm

pytestmark = pytest.mark.anyio


async def test_a_wait_ends_at_its_time():
    await Alarm().wait(3.0)
    assert anyio.current_time() == 3.0


async def test_a_ring_ends_the_wait_at_once_and_no_later_one():
    alarm = Alarm()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(alarm.wait, 3.0)
        await anyio.sleep(1)
        alarm.ring()
        alarm.ring()
    assert anyio.current_time() == 1.0
    await alarm.wait(2.0)
    assert anyio.current_time() == 2.0


async def test_a_ring_before_the_wait_ends_it_after_a_turn_of_the_loop():
    alarm, turns = Alarm(), []
    alarm.ring()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(note, turns)
        await alarm.wait()
        assert turns
    assert anyio.current_time() == 0.0


async def test_a_wait_that_is_cancelled_leaves_no_timer_and_the_next_one_works():
    alarm = Alarm()
    with anyio.move_on_after(1):
        await alarm.wait()
    assert anyio.current_time() == 1.0
    await alarm.wait(1.5)
    assert anyio.current_time() == 1.5


async def note(turns):
    turns.append(1)
