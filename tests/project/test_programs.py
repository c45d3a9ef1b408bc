"""What tests wait for: a child or a server that dies is noticed, with its traceback."""

import queue
import signal
import time

import pytest

from tests.helpers.programs import GLANCE, OwnTime, Program, python, run, running
from tests.helpers.served import ServerDiedError, served

SILENT = "import time; time.sleep(1000)"
PATIENT = 50.0
"""Seconds that are never waited for here: the suite's own limit of a test is the proof."""


def test_a_program_that_dies_is_noticed_with_its_traceback():
    with running(python("-c", "print('one'); 1 / 0")) as program:
        assert program.line() == "one\n"
        with pytest.raises(AssertionError, match=r"(?s)ended with 1 before it.*ZeroDivisionError"):
            program.line()


def test_a_program_that_hangs_is_broken_off_and_tells_where_it_was():
    with running(python("-c", "print('one', flush=True); " + SILENT)) as program:
        program.line()
        with pytest.raises(AssertionError, match=r'(?s)has not ended within 0.1 s.*File "<string>", line 1'):
            program.finish(seconds=0.1)


def test_a_program_that_works_for_ever_is_broken_off():
    with running(python("-c", "print('one', flush=True)\nwhile True: pass")) as program:
        program.line()
        with pytest.raises(AssertionError, match=r"has not ended within 0.1 s"):
            program.finish(seconds=0.1)


def test_a_program_that_gets_no_time_is_not_taken_for_one_that_hangs():
    """It is stopped here; on a busy machine it waits for a core."""
    with running(python("-c", "print('one', flush=True); " + SILENT)) as program:
        program.line()
        program.send_signal(signal.SIGSTOP)
        with pytest.raises(queue.Empty):
            program._lines.get(timeout=0.1)
        had = OwnTime(program.process.pid)
        for _ in range(3):
            time.sleep(GLANCE)
            assert had.look() < GLANCE
        program.send_signal(signal.SIGCONT)
        while had.look() < GLANCE:
            time.sleep(GLANCE)


@pytest.mark.parametrize("wait", [Program.line, Program.finish, Program.wait])
def test_a_server_that_dies_ends_every_wait_for_its_client_with_its_traceback(monkeypatch, wait):
    async def dying(*_):
        raise ZeroDivisionError("the pump broke")

    monkeypatch.setattr("novita_async.testing.server.pump", dying)
    with pytest.raises(ServerDiedError, match=r"(?s)dying.*the pump broke"):
        with served(), running(python("-c", SILENT)) as program:
            wait(program, PATIENT)


def test_a_server_that_cannot_start_says_why(monkeypatch):
    def impossible(_):
        raise OSError("no address")

    monkeypatch.setattr("novita_async.testing.server.SimulatorServer._make_simulator", impossible)
    with pytest.raises(ServerDiedError, match="no address"), served():
        pass


def test_a_server_that_died_unseen_fails_its_test_in_the_end(monkeypatch):
    async def dying(*_):
        raise ZeroDivisionError("the pump broke")

    monkeypatch.setattr("novita_async.testing.server.pump", dying)
    with pytest.raises(ServerDiedError, match="the pump broke"), served():
        pass


def test_all_that_a_program_says_is_kept_however_much(tmp_path):
    out = run(python("-c", "import sys; print('x' * 10**6); sys.stderr.write('y' * 10**6)"), cwd=tmp_path)
    assert (out.returncode, len(out.stdout), len(out.stderr)) == (0, 10**6 + 1, 10**6)


def test_a_program_that_is_left_is_killed():
    with running(python("-c", SILENT)) as program:
        pass
    assert program.process.returncode == -9
    assert program.ended
