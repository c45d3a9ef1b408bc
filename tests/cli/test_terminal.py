"""What a terminal is shown: text without control characters, and one line that always fits."""

import io
import logging
import math
import shlex
import subprocess
import sys

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from novita_async import NoAnswer, NotSent
from novita_async.cli import _account
from novita_async.cli._progress import Bar, Display, Lines, ProgressTally, Status, display_of
from novita_async.cli._terminal import LinePart, command_line, composed, cut, visible, width_of
from novita_async.cli._waits import Waits, host_of_environment
from novita_async.events import (
    Action,
    Announced,
    Bought,
    BreakerClosed,
    BreakerOpened,
    Finished,
    Paced,
    Polled,
    Retrying,
    State,
    Transition,
)
from novita_async.models.results import Unfinished
from novita_async.tasks import Task
from tests.helpers.terminals import Screen

pytestmark = pytest.mark.anyio

HOST = "127.0.0.1:8902"
ACCOUNT = "key-1"


# --- Text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("dog.png", "dog.png"),
        ("犬 é.png", "犬 é.png"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\r\nb\t", r"a\r\nb\t"),
        ("\x9b31m", r"\x9b31m"),
        ("gnp\u202e.exe", r"gnp\u202e.exe"),
        ("\udcff.png", r"\udcff.png"),
        ("👩\u200d👧", "👩\u200d👧"),
    ],
)
def test_control_characters_are_written_out_and_the_rest_stays(text, shown):
    assert visible(text) == shown


@given(st.text())
def test_no_text_can_move_the_cursor(text):
    shown = visible(text)
    assert not any(ord(one) < 32 or 127 <= ord(one) < 160 for one in shown)
    assert visible(shown) == shown


@pytest.mark.parametrize("word", ["plain", "two words", "it's", "a\nb", "\x1b[2J'\\", "tab\tand 犬"])
def test_a_command_that_is_told_can_be_typed_as_it_stands(word):
    line = command_line(("printf", "%s", word))
    assert visible(line) == line
    assert subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout.decode() == word


def test_a_name_that_is_no_text_is_told_as_its_bytes():
    assert command_line(("cat", "\udcff.png")) == r"cat $'\xff.png'"
    assert command_line(("cat", "a b")) == shlex.join(("cat", "a b"))


def test_the_width_counts_columns():
    assert width_of("abc") == 3
    assert width_of("犬猫") == 4
    assert width_of("e\u0301") == 1


@given(st.text(), st.integers(0, 30))
def test_what_is_cut_fits(text, columns):
    assert width_of(cut(text, columns)) <= max(columns, 0)


texts = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12), min_size=1, max_size=3
)


@given(st.lists(texts, max_size=6), st.integers(1, 80), st.randoms())
def test_a_line_fits_whatever_its_parts_are(lines, columns, random):
    parts = [
        LinePart(tuple(each), sorted((random.randrange(9) for _ in each[1:]), reverse=True)) for each in lines
    ]
    assert width_of(composed(parts, columns)) <= columns


def test_the_parts_of_the_highest_rank_are_shortened_first_and_no_more_than_need_be():
    parts = (
        LinePart(("12 of 200 done", "12/200", ""), (3, 1)),
        LinePart(("a minute left", "1 min", ""), (5, 4)),
    )
    assert composed(parts, 40) == "12 of 200 done · a minute left"
    assert composed(parts, 25) == "12 of 200 done · 1 min"
    assert composed(parts, 15) == "12 of 200 done"
    assert composed(parts, 8) == "12/200"
    assert composed(parts, 5) == "1 min"


# --- What is waited for -------------------------------------------------------------------------------------


@pytest.fixture
def waits():
    return Waits(HOST)


def task(name="t-1", account=ACCOUNT):
    return Task(task_id=name, account=account, endpoint="/e", image_num=1, submitted_at=0.0)


def moved(fact, *, purchase=1, images=1):
    return Transition(
        purchase=purchase, position=0, tag=None, endpoint="/e", images=images, attempt=1, task=None,
        before=State.PLANNED, after=State.ANNOUNCED, next=Action.AWAIT, fact=fact,
    )  # fmt: skip


def bought(name="t-1"):
    return moved(Bought(0.0, task(name), 1))


def opened(cause="unreachable", after=4.0):
    return BreakerOpened(account=ACCOUNT, endpoint="/e", cause=cause, after=after, trips=1)


def test_an_outage_is_told_with_the_address_its_length_the_paid_tasks_and_a_countdown(waits):
    for name in ("a", "b"):
        waits.take(bought(name), 90.0)
    waits.take(opened(after=14.0), 100.0)
    assert waits.sentence(101.0) == ""
    assert waits.sentence(112.0) == (f"no answer from {HOST} for 12 s; 2 paid tasks are safe; again in 2 s")
    assert waits.sentence(116.0) == f"no answer from {HOST} for 16 s; 2 paid tasks are safe"
    assert waits.is_silent(116.0)


@pytest.mark.parametrize(
    "end",
    [
        BreakerClosed(account=ACCOUNT, after=9.0),
        bought("new"),
        Polled(task=task(), status="TASK_STATUS_QUEUED"),
    ],
)
def test_an_outage_is_gone_when_it_has_passed(waits, end):
    waits.take(opened(), 100.0)
    assert waits.sentence(110.0)
    waits.take(end, 110.0)
    assert waits.sentence(111.0) == ""
    assert not waits.is_silent(111.0)


def test_an_outage_that_comes_again_is_a_new_one(waits):
    waits.take(opened(), 100.0)
    waits.take(Polled(task=task(), status=None), 110.0)
    waits.take(Polled(task=task(), status=None, error=NoAnswer(cause="reset")), 120.0)
    assert "for 5 s; 1 paid task is safe" in waits.sentence(125.0)


def test_when_polls_are_answered_again_and_purchases_are_not_yet_sent_that_is_said(waits):
    waits.take(opened(after=30.0), 100.0)
    waits.take(Polled(task=task(), status=None), 110.0)
    waits.take(Paced(purchase=2, account=ACCOUNT, endpoint="/e", delay=20.0), 110.0)
    assert waits.sentence(112.0) == f"{HOST} answers again; again in 18 s"


def test_a_single_poll_without_an_answer_is_told_when_it_stays_the_last(waits):
    waits.take(Polled(task=task(), status=None, error=NoAnswer(cause="reset")), 100.0)
    assert waits.sentence(101.9) == ""
    assert waits.sentence(103.0) == f"no answer from {HOST} for 3 s; 1 paid task is safe"


def test_the_quota_is_told_with_a_countdown_until_the_purchase_goes(waits):
    waits.take(Paced(purchase=7, account=ACCOUNT, endpoint="/e", delay=31.4), 100.0)
    assert waits.sentence(100.0) == "the quota is used up: the next goes in 32 s"
    assert waits.sentence(121.0) == "the quota is used up: the next goes in 11 s"
    waits.take(moved(Announced(121.0, ACCOUNT, None), purchase=7), 121.0)
    assert waits.sentence(121.0) == ""


def test_a_wait_for_the_quota_that_was_not_ended_by_a_purchase_is_gone_when_its_time_is_over(waits):
    waits.take(Paced(purchase=7, account=ACCOUNT, endpoint="/e", delay=5.0), 100.0)
    assert waits.sentence(106.0) == ""


def test_a_service_that_asks_to_slow_down_is_no_outage(waits):
    waits.take(opened("rate limited", after=10.0), 100.0)
    assert waits.sentence(101.0) == "the service asks to slow down; again in 9 s"
    assert not waits.is_silent(101.0)
    assert waits.sentence(111.0) == ""


def test_a_failed_exchange_is_told_until_it_is_tried_again(waits):
    retrying = Retrying(
        purchase=1, account=ACCOUNT, endpoint="/e", attempt=1, after=5.0, error=NoAnswer(cause="a\nb")
    )
    waits.take(retrying, 100.0)
    assert waits.sentence(102.0) == r"no answer: a\nb; again in 3 s"
    waits.take(moved(Announced(105.0, ACCOUNT, None)), 105.0)
    assert waits.sentence(105.0) == ""


def test_a_purchase_that_never_reached_the_server_begins_an_outage(waits):
    error = NotSent(cause="refused")
    waits.take(Retrying(purchase=1, account=ACCOUNT, endpoint="/e", attempt=1, after=1.0, error=error), 100.0)
    assert waits.sentence(109.0) == f"no answer from {HOST} for 9 s"


def test_how_far_the_paid_tasks_are_is_told(waits):
    assert waits.tasks() == ""
    for name, status, percent in (("a", "QUEUED", 0.0), ("b", "PROCESSING", 30.0), ("c", "PROCESSING", 40.0)):
        waits.take(Polled(task=task(name), status=f"TASK_STATUS_{status}", progress_percent=percent), 100.0)
    assert (waits.running, waits.tasks()) == (3, "1 queued, 2 at 35 %")
    waits.take(Finished(outcome=Unfinished(request=None, error=None, task=task("b"))), 101.0)
    assert (waits.running, waits.tasks()) == (2, "1 queued, 1 at 40 %")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("", "api.novita.ai"),
        ("https://gate.example:8443/novita", "gate.example:8443"),
        ("https://me:secret@gate.example", "gate.example"),
        ("https://[half", "the server"),
    ],
)
def test_the_address_is_that_of_the_environment_without_credentials(monkeypatch, url, host):
    monkeypatch.setenv("NOVITA_BASE_URL", url)
    assert host_of_environment() == host


# --- The line -----------------------------------------------------------------------------------------------

FULL = Status(
    requests=200,
    done=12,
    running=57,
    failed=2,
    uncertain=1,
    images=12,
    seconds=60.0,
    polls=1234,
    seconds_left=170.0,
)


def line(columns, status=FULL, waiting=(), money="$0.12 of $1.00"):
    return composed(list(status.parts(waiting, "8 queued, 4 at 35 %", money)), columns)


def test_a_wide_line_has_everything():
    assert line(200) == (
        "━─────── 12 of 200 done · 57 running: 8 queued, 4 at 35 % · 2 failed · 1 uncertain · 12.0 images/min"
        " · 1,234 polls · $0.12 of $1.00 · 2 min 50 s left"
    )


def test_a_narrow_line_keeps_what_matters_most():
    assert line(79) == "12 of 200 done · 57 running · 2 failed · 1 uncertain · $0.12 · 2 min 50 s left"
    assert line(50) == "12 of 200 done · 2 failed · 1 uncertain · $0.12"


def test_what_is_waited_for_goes_before_all_else(waits):
    for number in range(57):
        waits.take(bought(str(number)), 90.0)
    waits.take(opened(after=16.0), 100.0)
    waiting = waits.parts(112.0)
    whole = f"no answer from {HOST} for 12 s; 57 paid tasks are safe"
    assert f"{whole}; again in 4 s" in line(110, waiting=waiting)
    assert line(77, waiting=waiting) == f"12/200 · {whole}"
    assert line(38, waiting=waiting) == "12/200 · no answer for 12 s; ↻ 4 s"
    assert line(18, waiting=waiting) == "no answer for 12 s"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def attach(monkeypatch):
    """Put a terminal of 40 columns where standard output and standard error are."""

    def begin():
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "40")
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(sys, "stdout", terminal)
        return terminal

    return begin


class Fixed:
    """A view that never changes."""

    def __init__(self, *texts):
        self.texts = texts

    def parts(self):
        return [LinePart((text,)) for text in self.texts]

    def lines(self, *, due):
        return self.texts[0] if due else ""


def seen(terminal, columns=40):
    screen = Screen(columns)
    screen.feed(terminal.getvalue())
    return screen.lines


async def test_the_line_is_one_line_below_all_that_is_written_meanwhile(attach):
    terminal = attach()
    with display_of() as bar:
        bar.view = Fixed("犬" * 30)
        bar.look()
        sys.stdout.write("a path\n")
        bar.note("a\x1bnote")
        bar.look()
        logging.lastResort.handle(logging.LogRecord("x", logging.WARNING, "", 0, "logged", None, None))
        await anyio.sleep(1)
        lines = seen(terminal)
        assert lines[:3] == ["a path", r"a\x1bnote", "logged"]
        assert len(lines) == 4
        assert lines[3].endswith("犬…")
        assert width_of(lines[3]) <= 39
    assert seen(terminal) == ["a path", r"a\x1bnote", "logged"]
    assert terminal.getvalue().endswith("\x1b[?25h")
    assert sys.stderr is terminal
    assert sys.stdout is terminal


async def test_a_line_that_somebody_has_begun_is_not_drawn_over(attach):
    terminal = attach()
    with display_of() as bar:
        bar.view = Fixed("the line")
        bar.look()
        sys.stdout.write("half")
        bar.look()
        assert seen(terminal) == ["half"]
        sys.stdout.write(" and half\n")
        bar.look()
        assert seen(terminal) == ["half and half", "⠹ the line"]


async def test_the_line_goes_on_while_nothing_happens(attach):
    terminal = attach()
    with display_of() as bar:
        bar.view = Fixed("the line")
        await anyio.sleep(2)
        drawn = terminal.getvalue().count("the line")
        assert 15 < drawn < 25


async def test_a_terminal_without_unicode_gets_plain_signs(attach):
    terminal = attach()
    terminal.encoding = "ascii"
    with Bar() as bar:
        bar.view = Fixed("━─ 1 · 2")
        bar.look()
    assert "#- 1 | 2" in terminal.getvalue()
    assert terminal.getvalue().isascii()


async def test_only_what_goes_wrong_is_told_above_the_line(attach):
    terminal = attach()
    totals = ProgressTally(3).statistics()
    with display_of() as bar:
        bar.advance(totals, "dog.png: done", good=True)
        bar.advance(totals, "cat.png: failed: no", good=False)
    assert seen(terminal) == ["cat.png: failed: no"]


@pytest.mark.parametrize(("name", "kind"), [("xterm", Bar), ("dumb", Lines)])
def test_a_terminal_that_can_do_nothing_gets_lines(attach, monkeypatch, name, kind):
    attach()
    monkeypatch.setenv("TERM", name)
    assert type(display_of()) is kind


async def test_a_log_gets_a_line_now_and_then(capsys):
    with display_of() as lines:
        assert isinstance(lines, Lines)
        lines.view = Fixed("still waiting")
        lines.advance(ProgressTally(3).statistics(), "dog.png: done", good=True)
        lines._told_at = -math.inf
        lines.look()
        lines.look()
    assert capsys.readouterr().err == "[0/3] dog.png: done\nstill waiting\n"


async def test_a_display_without_a_view_shows_nothing(attach):
    terminal = attach()
    for display in (Bar(), Lines(), Display()):
        with display:
            display.look()
    assert seen(terminal) == []


# --- Questions ----------------------------------------------------------------------------------------------


@pytest.fixture
def questions(monkeypatch):
    monkeypatch.setenv("NOVITA_BASE_URL", f"http://{HOST}")
    return _account._Questions(timeout=10.0)


async def test_a_question_on_a_terminal_is_given_up_after_ten_seconds_with_the_address(questions):
    asked_at = anyio.current_time()
    with pytest.raises(NoAnswer, match=f"{HOST} has not answered for 10 s: check the network"):
        await questions.answer(anyio.sleep_forever)
    assert anyio.current_time() - asked_at == 10.0


async def test_a_question_that_was_given_up_tells_the_last_trouble(questions):
    async def ask():
        questions(
            Retrying(account="a", endpoint="/e", attempt=1, after=99.0, error=NoAnswer(cause="refused"))
        )
        assert questions.lines(due=False) == f"no answer from {HOST}: refused"
        assert questions.lines(due=False) == ""
        assert questions.lines(due=True) == f"no answer from {HOST}: refused"
        await anyio.sleep(5)
        assert composed(questions.parts(), 60) == f"no answer from {HOST} for 5 s; giving up in 5 s"
        await anyio.sleep_forever()

    assert questions.parts() == []
    with pytest.raises(NoAnswer, match=r"for 10 s \(refused\)"):
        await questions.answer(ask)
    assert questions.parts() == []


async def test_an_answer_in_time_is_given(questions):
    async def ask():
        await anyio.sleep(9.9)
        return 42

    assert await questions.answer(ask) == 42


@pytest.mark.parametrize(("is_terminal", "timeout"), [(True, 10.0), (False, math.inf)])
def test_programs_have_no_timeout(monkeypatch, is_terminal, timeout):
    monkeypatch.setattr(sys, "stderr", Terminal() if is_terminal else io.StringIO())
    assert _account._Questions().timeout == timeout
