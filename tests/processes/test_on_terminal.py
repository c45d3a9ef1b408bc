"""The real command on a real terminal of any width, as its user sees it.

A process has to start, and an outage has to last for two seconds before it is told: each test takes a while.
"""

import os
import signal

import pytest

from novita_async.testing import DEFAULT_API_KEY, sample_picture
from tests.helpers.programs import python
from tests.helpers.served import served
from tests.helpers.terminals import TerminalProgram

SPINS = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SETTINGS = ("--model", "m", "--prompt", "p")


@pytest.fixture
def on_terminal(folder):
    """Start a command on a terminal of so many columns."""
    started = []

    def begin(*tokens, columns, url):
        environment = {**os.environ, "NOVITA_API_KEY": DEFAULT_API_KEY, "NOVITA_BASE_URL": url}
        command = python("-m", "novita_async", *tokens)
        started.append(TerminalProgram.start(command, columns=columns, cwd=folder, env=environment))
        return started[-1]

    yield begin
    for program in started:
        program.kill()


def spinning(lines):
    return [number for number, line in enumerate(lines) if line[0] in SPINS]


def is_one_line(frames):
    """Whether there was never more of the progress than one line, below all else."""
    return all(spinning(lines) in ([], [len(lines) - 1]) for lines in frames)


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_progress_is_one_line_and_leaves_nothing_behind(on_terminal, folder, columns):
    wide = folder / "犬の写真がとても長い名前.png"
    wide.write_bytes(sample_picture("wide", (256, 192)))
    with served(speed=2, workers=8) as server:
        program = on_terminal(
            "batch",
            ".",
            wide.name,
            "--out",
            "made",
            *SETTINGS,
            "--price",
            "0.002",
            columns=columns,
            url=server.url,
        )
        assert program.finish() == 0
    assert any(map(spinning, program.frames)), program.frames
    assert is_one_line(program.frames)
    assert spinning(program.screen.lines) == []
    whole = "".join(program.screen.lines)
    assert "4 of 4 succeeded" in whole
    assert whole.count(".png") == 4
    assert program.text.endswith("\x1b[?25h") or "\x1b[?25h" in program.text.rpartition("\x1b[?25l")[2]


@pytest.mark.parametrize(
    ("columns", "told"),
    [(120, "no answer from 127.0.0.1:9 for 2 s; again in"), (20, "no answer for 2 s")],
)
def test_a_server_that_does_not_answer_is_told_and_an_interrupt_ends_it(on_terminal, columns, told):
    program = on_terminal("generate", "dog.png", *SETTINGS, columns=columns, url="http://127.0.0.1:9")
    program.shows(told)
    os.write(program.master, b"\x03")
    assert program.finish() == 130
    assert is_one_line(program.frames)
    assert spinning(program.screen.lines) == []
    assert "interrupted" in program.seen()


def test_paid_tasks_are_shown_with_how_far_they_are_and_what_they_cost(on_terminal):
    with served(speed=0.01, workers=1) as server:
        program = on_terminal(
            "batch", ".", "--out", "made", *SETTINGS, "--price", "0.5", columns=120, url=server.url
        )
        program.shows("0 of 2 done · 2 running: 1 queued")
        program.shows("$1.00")
        program.process.send_signal(signal.SIGTERM)
        assert program.finish() == 143
    assert "novita-async resume made" in program.seen()


def test_a_control_character_in_a_file_name_never_reaches_the_terminal(on_terminal, folder):
    (folder / "evil\x1b[2Jred.png").write_bytes(b"no picture")
    with served() as server:
        refused = on_terminal("generate", "evil\x1b[2Jred.png", *SETTINGS, columns=120, url=server.url)
        made = on_terminal(
            "generate", "dog.png", "--seed", "1", "--out", "a\nb", *SETTINGS, columns=120, url=server.url
        )
        assert (refused.finish(), made.finish()) == (2, 0)
    assert r"evil\x1b[2Jred.png" in refused.seen()
    assert "\x1b[2J" not in refused.text + made.text
    assert r"a\nb/dog-seed1-1.png" in made.seen()
    assert (folder / "a\nb" / "dog-seed1-1.png").exists()
