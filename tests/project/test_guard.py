"""The guard against blocking calls: finds the library's, and is blind to everybody else's."""

import asyncio
import os
import socket
import sqlite3
import sys
import threading
from pathlib import Path

import pytest

from tests.helpers.guard import BlocksTheLoopError, Guard, standing

MODULE = """
import io, linecache, os, queue, socket, sqlite3, subprocess, sys, threading, time, traceback
from concurrent.futures import Future
from pathlib import Path

HERE = __file__
held = None

def block():
    {body}

def make():
    return {made}

def use(it):
    {used}
"""

BLOCKING = [
    "time.sleep(0)",
    "open(HERE)",
    "io.open(HERE, 'rb')",
    "Path(HERE).read_bytes()",
    "Path(HERE).exists()",
    "list(Path(HERE).parent.glob('*'))",
    "os.path.isdir(HERE)",
    "os.makedirs(HERE + '.d')",
    "os.replace(HERE, HERE + '.old')",
    "os.listdir('/')",
    "os.write(1, b'')",
    "sqlite3.connect(':memory:')",
    "socket.getaddrinfo('localhost', 80)",
    "with socket.socket() as it: it.connect(('127.0.0.1', 9))",
    "subprocess.run([sys.executable, '-V'])",
    "threading.Event().wait(0.001)",
    "queue.Queue().get(timeout=0.001)",
    "Future().result(0.001)",
    "threading.Thread().join()",
    "held.acquire(timeout=0.001)",
]

HARMLESS = [
    "threading.Event().wait(0)",
    "threading.Lock().acquire()",
    "threading.Thread(target=bool).start()",
    "[end.close() for end in socket.socketpair()]",
    "io.BytesIO(b'x').read()",
    "held.acquire(blocking=False)",
    "__import__('this_is_imported')",
    "linecache.clearcache(), traceback.format_stack()",
]


@pytest.fixture
def guard(tmp_path):
    """Stand guard over what lies in a folder of the test, as over the library's own."""
    with standing(
        Guard(own=str(tmp_path / "own") + os.sep, simulator=str(tmp_path / "own/sim") + os.sep)
    ) as it:
        yield it


@pytest.fixture
def library(tmp_path, guard, monkeypatch):
    """Make a module of the guarded library."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "this_is_imported.py").write_text("import time; time.sleep(0)")
    monkeypatch.delitem(sys.modules, "this_is_imported", raising=False)

    def module(body="pass", made="None", used="pass", place="own/module.py"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MODULE.format(body=body, made=made, used=used))
        names = {"__file__": str(path), "__name__": "module"}
        exec(compile(path.read_text(), str(path), "exec"), names)  # noqa: S102
        exec(compile("held = threading.Lock(); held.acquire()", str(path), "exec"), names)  # noqa: S102
        return names

    return module


def on_a_loop(function, *arguments):
    async def main():
        return function(*arguments)

    return asyncio.run(main())


@pytest.mark.parametrize("body", BLOCKING)
def test_a_call_of_the_library_that_blocks_a_loop_is_refused(library, guard, body):
    names = library(body)
    with pytest.raises(BlocksTheLoopError, match=r"blocks the loop at .*module\.py:\d+, in block"):
        on_a_loop(names["block"])
    assert len(guard.found) == 1


@pytest.mark.parametrize("body", HARMLESS)
def test_a_call_that_cannot_block_is_let_through(library, guard, body):
    on_a_loop(library(body)["block"])
    assert guard.found == []


def test_the_same_calls_are_fine_without_a_loop(library, guard):
    library("time.sleep(0); Path(HERE).read_text(); sqlite3.connect(':memory:').close()")["block"]()
    assert guard.found == []


def test_the_same_calls_are_fine_in_a_worker_thread_of_a_loop(library, guard):
    block = library("time.sleep(0); Path(HERE).read_text()")["block"]

    async def main():
        await asyncio.to_thread(block)

    asyncio.run(main())
    assert guard.found == []


@pytest.mark.parametrize(
    ("made", "used"),
    [
        ("open(HERE)", "it.read()"),
        ("open(HERE, 'rb')", "it.read(10)"),
        ("open(HERE, 'rb', buffering=0)", "it.read()"),
        ("open(HERE + '.new', 'wb')", "it.write(b'x'); it.flush()"),
        ("open(HERE + '.new', 'w+b')", "it.write(b'x'); it.flush()"),
        ("sqlite3.connect(':memory:', check_same_thread=False)", "it.execute('SELECT 1')"),
        ("sqlite3.connect(':memory:', check_same_thread=False).execute('SELECT 1')", "it.fetchone()"),
    ],
)
def test_an_object_made_in_a_thread_is_still_guarded_on_the_loop(library, guard, made, used):
    names = library(made=made, used=used)
    it = names["make"]()
    with pytest.raises(BlocksTheLoopError):
        on_a_loop(names["use"], it)
    getattr(it, "connection", it).close()
    assert len(guard.found) == 1


def test_a_violation_is_found_though_the_library_catches_its_error(library, guard):
    on_a_loop(library("\n    try: time.sleep(0)\n    except Exception: pass")["block"])
    assert len(guard.found) == 1


@pytest.mark.parametrize("place", ["own/sim/module.py", "elsewhere/module.py"])
def test_the_simulator_and_other_packages_may_block(library, guard, place):
    on_a_loop(library("time.sleep(0); open(HERE).close()", place=place)["block"])
    assert guard.found == []


def test_an_observer_of_the_library_may_block(library, guard):
    use = library(used="it()")["use"]
    on_a_loop(use, lambda: Path(__file__).stat())
    assert guard.found == []


def test_functions_that_are_allowed_by_name_may_block(library, guard):
    names = library("time.sleep(0)")
    guard.may_block.add(names["block"].__code__)
    on_a_loop(names["block"])
    assert guard.found == []


def test_a_tracer_may_wait_for_its_own_lock_inside_the_library(library, guard):
    """Coverage gives its tracer the C method of its lock; another thread may hold that."""
    lock, waited = threading.Lock(), []
    names = library("return 1")

    def trace(*_):
        waited.append(lock.acquire(timeout=0.001))

    lock.acquire()
    usual = sys.gettrace()
    sys.settrace(trace)
    try:
        on_a_loop(names["block"])
    finally:
        sys.settrace(usual)
    assert False in waited
    assert guard.found == []


def test_nothing_is_left_behind_where_the_guard_stood():
    before = (open, os.stat, threading.Lock, sqlite3.connect, vars(socket.socket).copy())
    with standing(Guard()):
        assert open is not before[0]
    assert (open, os.stat, threading.Lock, sqlite3.connect, vars(socket.socket).copy()) == before
