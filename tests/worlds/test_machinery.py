"""What worlds are made of: loops turned by hand, `asyncio.run` step by step, a disk that can lose things."""

import asyncio
import errno
import os
import shutil
import sqlite3
import tempfile
import threading
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from novita_async.testing.worlds import Plan, ProcessPlan, Trouble, UserPlan, seams
from novita_async.testing.worlds.disk import Dead
from novita_async.testing.worlds.loops import Life, WorldClock, WorldLoop
from novita_async.testing.worlds.world import Process, World


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop():
    """Let files be touched: what a thread would do is done between the turns of a world's loops."""


def lived(main, clock=None):
    """What `asyncio.run` raises, turned by hand."""
    clock = clock or WorldClock()
    loop = WorldLoop(clock)
    life = Life(loop, loop.create_task(main()))
    turn(life, clock)
    return life


def turn(life, clock, most=1000):
    for _ in range(most):
        if life.has_ended():
            return
        if life.loop.is_awake:
            asyncio._set_running_loop(life.loop)
            try:
                life.turn()
            finally:
                asyncio._set_running_loop(None)
        else:
            clock.now = life.loop.wakes_at
    raise AssertionError("it does not end")


# --- Loops ------------------------------------------------------------------------------------------------


def test_a_loop_sleeps_in_virtual_time():
    async def main():
        await asyncio.sleep(90_000)
        assert asyncio.get_running_loop().time() == 90_000

    clock = WorldClock()
    assert lived(main, clock).error is None
    assert clock.now == 90_000


@pytest.fixture
def clock():
    return WorldClock()


@pytest.fixture
def loop(clock):
    loop = WorldLoop(clock)
    yield loop
    loop.close()


def test_what_another_thread_hands_over_does_not_wake_a_loop_unless_it_is_told_so(loop):
    done = []
    loop.fall_asleep()
    loop.call_soon(done.append, 1)
    assert not loop.is_awake
    loop.call_soon_threadsafe(done.append, 2)
    assert loop.is_awake
    loop.turn()
    assert done == [1, 2]


def test_a_cancelled_timer_wakes_nobody(clock, loop):
    loop.call_later(5.0, print).cancel()
    loop.fall_asleep()
    assert loop.next_at() == float("inf")
    clock.now = 6.0
    assert not loop.is_awake


def test_a_loop_whose_machine_slept_goes_on_where_it_was(clock, loop):
    loop.call_later(0.1, print)
    loop.fall_asleep()
    loop.slept = 28_800.3
    clock.now = loop.wakes_at + loop.slept
    loop.reach()
    assert loop.is_awake
    assert loop.time() >= 0.1


def test_tasks_hash_by_their_number():
    async def main():
        tasks = [asyncio.ensure_future(asyncio.sleep(1)) for _ in range(3)]
        assert [hash(task) for task in tasks] == [2, 3, 4]
        await asyncio.wait(tasks)

    assert lived(main).error is None


# --- asyncio.run ------------------------------------------------------------------------------------------


def test_what_the_main_task_leaves_behind_is_cancelled():
    ends = []

    async def other():
        try:
            await asyncio.sleep(100)
        finally:
            ends.append("cancelled")

    async def main():
        asyncio.ensure_future(other())  # noqa: RUF006 - left behind
        await asyncio.sleep(1)

    life = lived(main)
    assert life.error is None
    assert ends == ["cancelled"]
    assert len(life.left) == 1
    assert life.loop.is_closed()


def test_what_the_main_task_raises_is_raised():
    async def main():
        raise KeyError("x")

    assert isinstance(lived(main).error, KeyError)


@pytest.mark.parametrize("how", ["main", "other"])
def test_a_system_exit_ends_it_wherever_it_is_raised(how):
    async def leave():
        raise SystemExit(143)

    async def main():
        if how == "main":
            await leave()
        await asyncio.gather(leave(), asyncio.sleep(100))

    error = lived(main).error
    assert isinstance(error, SystemExit)
    assert error.code == 143


def test_it_is_what_asyncio_itself_does():
    async def leave():
        raise SystemExit(3)

    async def main():
        async with asyncio.TaskGroup() as group:
            left.append(group.create_task(leave()))
            await asyncio.sleep(100)

    left = []
    with pytest.raises(SystemExit) as raised:
        asyncio.run(main())
    error = lived(main).error
    assert isinstance(error, SystemExit)
    assert error.code == raised.value.code == 3
    assert all(isinstance(task.exception(), SystemExit) for task in left)


# --- A world around it ------------------------------------------------------------------------------------


class InAWorld:
    """A process in a world, whose disk can be worked on."""

    def __init__(self, *troubles, ending="power"):
        user = UserPlan(kind="run", name="u1", requests=1)
        plan = Plan(seed=1, processes=(ProcessPlan(users=(user,), ending=ending),), troubles=troubles)
        self.world = World(plan, Path(tempfile.mkdtemp(prefix="world-")))
        self.process = Process(self.world, plan.processes[0], "p0")

    def __enter__(self):
        self._installed = seams.installed(self.world)
        self._installed.__enter__()
        self.world.disk.begin()
        self.world.process = self.process
        return self

    def __exit__(self, *error):
        self._installed.__exit__(*error)
        shutil.rmtree(self.world.root)

    @property
    def home(self):
        return self.world.disk.home

    def cut_power(self):
        self.world.process = None
        self.world.disk.cut_power()


def write(path, text, *, synced):
    with path.open("wb") as file:
        file.write(text)
        if synced:
            file.flush()
            os.fsync(file.fileno())


def sync_folder(folder):
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def test_a_power_cut_leaves_what_was_synced():
    with InAWorld() as it:
        write(it.home / "synced", b"here", synced=True)
        for number in range(20):
            write(it.home / f"not synced {number}", b"gone", synced=False)
        it.cut_power()
        left = {path.name: path.read_bytes() for path in it.home.iterdir()}
        assert left.pop("synced") == b"here"
        assert set(left.values()) == {b""}
        assert 0 < len(left) < 20


def test_a_new_name_is_durable_when_its_folder_is_synced():
    with InAWorld() as it:
        for name in ("a", "b"):
            write(it.home / f"{name}.part", name.encode(), synced=True)
            os.link(it.home / f"{name}.part", it.home / name)
            if name == "a":
                (it.home / "a.part").unlink()
                sync_folder(it.home)
        it.cut_power()
        left = {path.name for path in it.home.iterdir()}
        assert left - {"b"} == {"a", "b.part"}


def commit(connection, text):
    connection.execute("BEGIN")
    connection.execute("INSERT INTO t VALUES (?)", (text,))
    connection.execute("COMMIT")


@pytest.mark.parametrize(("synchronous", "kept"), [("FULL", ["1", "2"]), ("OFF", None)])
def test_a_commit_is_durable_where_sqlite_syncs_it(synchronous, kept):
    with InAWorld() as it:
        path = it.home.resolve() / "x.db"
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("CREATE TABLE t (text TEXT)")
        commit(connection, "1")
        sync_folder(it.home)
        commit(connection, "2")
        it.cut_power()
        again = it.home / "x.db"
        if kept is None:
            assert not again.read_bytes()
        else:
            with sqlite3.connect(again) as reader:
                assert [text for (text,) in reader.execute("SELECT text FROM t")] == kept
            reader.close()
        connection.close()


def test_a_crash_leaves_everything_and_the_dead_nothing_to_do():
    with InAWorld() as it:
        write(it.home / "file", b"here", synced=False)
        it.world.process = None
        it.world.disk.crash()
        assert (it.home / "file").read_bytes() == b"here"
        it.world.process, it.process.dead = it.process, True
        with pytest.raises(Dead):
            write(it.home / "other", b"", synced=False)


def test_a_full_disk_takes_half():
    with InAWorld(Trouble(kind="disk full", length=10.0)) as it:
        with pytest.raises(OSError, match="No space") as raised:
            write(it.home / "file", b"12345678", synced=False)
        assert raised.value.errno == errno.ENOSPC
        assert (it.home / "file").read_bytes() == b"1234"
        handle = os.open(it.home / "index", os.O_CREAT | os.O_WRONLY)
        assert os.write(handle, b"1234") == 2
        os.close(handle)


def test_a_folder_that_is_read_only_takes_nothing():
    with InAWorld(Trouble(kind="folder read-only", length=10.0)) as it:
        with pytest.raises(OSError, match="Read-only"):
            (it.home / "x").mkdir()
        with pytest.raises(sqlite3.OperationalError, match="readonly") as raised:
            connection = sqlite3.connect(it.home / "x.db", isolation_level=None)
            try:
                connection.execute("BEGIN")
                connection.execute("COMMIT")
            finally:
                connection.close()
        assert raised.value.sqlite_errorcode == sqlite3.SQLITE_READONLY


def test_a_commit_that_fails_may_be_there_all_the_same():
    seen = set()
    with InAWorld(Trouble(kind="fsync fails", rate=0.5)) as it:
        connection = sqlite3.connect(it.home / "x.db", isolation_level=None)
        connection.execute("CREATE TABLE t (text TEXT)")
        for number in range(40):
            try:
                commit(connection, str(number))
            except sqlite3.OperationalError:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                there = connection.execute(
                    "SELECT count(*) FROM t WHERE text = ?", (str(number),)
                ).fetchone()[0]
                seen.add(there)
        connection.close()
    assert seen == {0, 1}


def test_threads_work_in_turns_of_the_loop():
    threads = []

    async def main():
        return await anyio.to_thread.run_sync(lambda: threads.append(threading.current_thread()))

    with InAWorld() as it:
        loop = it.world.new_loop()
        life = Life(loop, loop.create_task(main()))
        it.process.lives.append(life)
        it.world.process = None
        it.world._live(it.process)
    assert life.error is None
    assert threads == [threading.main_thread()]


def test_everything_is_as_before_when_a_world_is_over():
    before = anyio.to_thread.run_sync, sqlite3.connect, os.fsync
    with InAWorld():
        assert before != (anyio.to_thread.run_sync, sqlite3.connect, os.fsync)
    assert before == (anyio.to_thread.run_sync, sqlite3.connect, os.fsync)
