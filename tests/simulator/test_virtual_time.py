"""Virtual time jumps when nothing can happen, and only then."""

import asyncio
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.to_thread
import pytest

from novita_async._util.clock import wall_offset
from novita_async.testing import NothingCanHappenError, VirtualTimeLoop, run_virtually


def loop() -> VirtualTimeLoop:
    running = asyncio.get_running_loop()
    assert isinstance(running, VirtualTimeLoop)
    return running


def test_a_hundred_minutes_pass_in_no_time():
    async def main() -> tuple[float, float]:
        begin = anyio.current_time()
        await anyio.sleep(6000)
        return begin, anyio.current_time()

    assert run_virtually(main) == (0.0, 6000.0)


@pytest.mark.parametrize(("run", "moved"), [(run_virtually, 0.0), (lambda main: asyncio.run(main()), 100.0)])
def test_unix_time_goes_with_virtual_time_and_on_a_real_loop_with_the_computer_s(monkeypatch, run, moved):
    """A hundred seconds in which the loop's clock stood still: a computer slept, or a test computed."""

    async def main() -> float:
        before, usual = wall_offset(), time.time
        monkeypatch.setattr(time, "time", lambda: usual() + 100.0)
        return wall_offset() - before

    assert run(main) == pytest.approx(moved, abs=5.0)


@pytest.mark.anyio
async def test_sleepers_wake_in_order_at_their_times():
    woken: list[tuple[int, float]] = []

    async def sleeper(seconds: int) -> None:
        await anyio.sleep(seconds)
        woken.append((seconds, anyio.current_time()))

    async with anyio.create_task_group() as group:
        for seconds in (5, 100_000, 1, 200, 3):
            group.start_soon(sleeper, seconds)
    assert woken == [(n, pytest.approx(n)) for n in (1, 3, 5, 200, 100_000)]


@pytest.mark.anyio
async def test_timeouts_happen_in_virtual_time():
    with anyio.move_on_after(30) as scope:
        await anyio.sleep(31)
    assert scope.cancelled_caught
    assert anyio.current_time() == pytest.approx(30)


@pytest.mark.anyio
async def test_a_wait_longer_than_a_selector_may_sleep_works():
    await anyio.sleep(10 * 24 * 3600)
    assert anyio.current_time() == pytest.approx(864_000)


def work(gate: threading.Event) -> str:
    gate.wait(5)
    return "done"


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["anyio", "executor", "own pool", "hold"])
async def test_time_stands_still_while_a_thread_works(how):
    gate = threading.Event()
    opener = threading.Timer(0.05, gate.set)
    opener.start()

    async def in_thread() -> str:
        if how == "anyio":
            return await anyio.to_thread.run_sync(work, gate)
        if how == "executor":
            return await loop().run_in_executor(None, work, gate)
        if how == "own pool":
            with ThreadPoolExecutor(1) as pool:
                return await loop().run_in_executor(pool, work, gate)
        return await held_thread()

    async def held_thread() -> str:
        future: asyncio.Future[str] = loop().create_future()
        running = loop()
        hold = running.hold()
        hold.__enter__()

        def run() -> None:
            result = work(gate)
            running.call_soon_threadsafe(future.set_result, result)
            hold.__exit__(None, None, None)

        thread = threading.Thread(target=run)
        thread.start()
        result = await future
        thread.join()
        return result

    with anyio.fail_after(0.001):
        assert await in_thread() == "done"
    assert anyio.current_time() == 0
    opener.join()


@pytest.mark.anyio
async def test_many_short_threads_never_let_time_slip():
    for n in range(200):
        with anyio.fail_after(1e-6):
            assert await anyio.to_thread.run_sync(os.getpid) == os.getpid()
        await anyio.sleep(11)  # longer than anyio keeps an idle worker
        assert anyio.current_time() == pytest.approx(11 * (n + 1))


@pytest.mark.anyio
async def test_a_worker_that_was_told_to_stop_does_not_hold_the_time():
    gate = threading.Event()
    worker = threading.Thread(target=gate.wait, args=(5,))
    vars(worker).update(loop=loop(), idle_workers=(), stopping=True)  # as anyio marks one that it lets go
    worker.start()
    with anyio.fail_after(11):
        await anyio.sleep(10)
    assert worker.is_alive()
    gate.set()
    worker.join()


@pytest.mark.anyio
async def test_a_thread_that_calls_the_loop_is_heard_before_time_jumps():
    heard: list[float] = []

    def shout() -> None:
        anyio.from_thread.run_sync(lambda: heard.append(anyio.current_time()))

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 50)
        group.start_soon(anyio.to_thread.run_sync, shout)
    assert heard == [0]


@pytest.mark.anyio
async def test_sockets_work_and_are_waited_for():
    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(await stream.receive())

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, echo)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 not Django's
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            with anyio.fail_after(5):
                await stream.send(b"hello")
                assert await stream.receive() == b"hello"
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_an_answer_from_another_thread_over_a_socket_comes_before_a_long_timeout(monkeypatch):
    monkeypatch.setattr(VirtualTimeLoop, "socket_timeout", 2.0)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    sender = threading.Timer(0.02, theirs.send, (b"x",))
    sender.start()
    with ours, theirs:
        with anyio.fail_after(1000):
            assert await loop().sock_recv(ours, 1) == b"x"
        sender.join()
    assert anyio.current_time() == 0


@pytest.mark.anyio
async def test_an_idle_listening_socket_does_not_slow_time(monkeypatch):
    def lose_the_socket(_: VirtualTimeLoop) -> float:
        pytest.fail("waited for a socket that only listens")

    monkeypatch.setattr(VirtualTimeLoop, "socket_timeout", property(lose_the_socket))
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server:
        await anyio.sleep(1000)
    assert anyio.current_time() == 1000


def test_a_deadlock_is_an_error_and_not_a_hang(monkeypatch):
    monkeypatch.setattr(VirtualTimeLoop, "deadlock_timeout", 0.01)

    async def main() -> None:
        await anyio.sleep(3)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(NothingCanHappenError, match=r"at 3\.000 s"):
        run_virtually(main)


def test_results_and_errors_come_out():
    async def add(one: int, other: int) -> int:
        return one + other

    async def fail() -> None:
        raise LookupError("here")

    assert run_virtually(add, 1, 2) == 3
    with pytest.raises(LookupError, match="here"):
        run_virtually(fail)


@pytest.mark.anyio
async def test_it_tells_where_it_is():
    await anyio.sleep(2)
    assert repr(loop()).startswith("<VirtualTimeLoop at 2.000 s after ")
    assert loop().jumps >= 1
