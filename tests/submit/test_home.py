"""Which event loop a client is at home in."""

import asyncio
import os
import threading

import pytest

from novita_async import Account, ConfigurationError
from novita_async._policy.pacing import WINDOW, AccountPacer
from novita_async._submit.home import Home
from novita_async._submit.pool import SessionPool


def enter(home):
    async def main():
        home.enter()
        home.enter()

    asyncio.run(main())


def test_each_loop_but_the_first_is_a_move():
    home, moves = Home(), []
    home.on_move.append(lambda: moves.append(home.loop))
    enter(home)
    assert moves == []
    enter(home)
    assert moves == [home.loop]


def test_a_busy_loop_that_is_closed_is_left():
    home = Home(lambda: True)
    enter(home)
    enter(home)
    assert home.loop.is_closed()


def test_a_busy_loop_that_is_open_is_not_left():
    home = Home(lambda: True)
    with asyncio.Runner() as runner:
        runner.run(asyncio.sleep(0))
        home.loop, home._thread, home._process = runner.get_loop(), threading.get_ident(), os.getpid()
        with pytest.raises(ConfigurationError, match="stands still"):
            enter(home)
        home.is_busy = lambda: False
        enter(home)
    assert home.loop is not runner


@pytest.mark.parametrize(("thread", "process", "words"), [(1, 0, "another thread"), (0, 1, "forked")])
def test_a_loop_of_another_thread_or_process_is_not_left(thread, process, words):
    home = Home()
    with asyncio.Runner() as runner:
        runner.run(asyncio.sleep(0))
        home.loop = runner.get_loop()
        home._thread, home._process = threading.get_ident() + thread, os.getpid() + process
        with pytest.raises(ConfigurationError, match=words) as refused:
            enter(home)
    assert "sync.Client" in str(refused.value)


def test_without_a_loop_nothing_is_entered():
    home = Home()
    with pytest.raises(ConfigurationError, match="no event loop"):
        home.enter()
    assert home.loop is None


def test_windows_count_what_was_under_way_in_a_loop_that_is_gone():
    pacer = AccountPacer(images_per_minute=10)
    sent, answered = pacer.take("/a", 3, 0.0), pacer.take("/b", 1, 0.0)
    pacer.answered(answered, 1.0)
    assert sent.images == 3
    pacer.cut_off(5.0)
    assert [(w.taken, w.unanswered) for w in pacer.statistics().windows] == [(3, 0), (1, 0)]
    assert pacer.start_at("/a", 8, 6.0) == 5.0 + WINDOW
    assert pacer.breaker.under_way == 0


async def _sent(pool):
    return await pool.acquire("/a", 1)


def test_a_pool_that_leaves_a_busy_loop_waits_for_nobody_there():
    pool = SessionPool.of([Account(api_key="k", images_per_minute=1)], 10.0)
    asyncio.run(_sent(pool))
    assert pool.is_busy()

    async def later():
        pool.leave_loop()
        return pool.is_busy(), pool.statistics().accounts[0].pacing.windows[0].taken

    assert asyncio.run(later()) == (False, 1)
    assert asyncio.run(later()) == (False, 1)
