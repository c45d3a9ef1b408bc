"""Events as lines of a log."""

import logging
import os
import re

import pytest

from novita_async import ConfigurationError, NotSent, NovitaClient
from novita_async.events import AccountDisabled, BreakerClosed, BreakerOpened, Paced, Retrying
from novita_async.logs import LogEvents, level_of, line_of
from novita_async.testing import DEFAULT_API_KEY, Fault, FaultPlan
from tests.helpers.programs import python, run
from tests.helpers.service import client_of, requests, service

pytestmark = pytest.mark.anyio

TROUBLE = FaultPlan.listed("submit", {2: Fault.answer(429), 3: Fault.reset_after(), 5: Fault.answer(503)})


async def events_of(tmp_path):
    """Events of a stream in trouble."""
    async with client_of(service(faults=TROUBLE)) as (client, events):
        async with client.stream(requests(8), save_to=tmp_path, in_flight=2) as outcomes:
            assert len([outcome async for outcome in outcomes]) == 8
    return events


async def test_every_event_is_one_line_that_names_its_purchase_or_task_and_holds_no_secret(tmp_path):
    events = await events_of(tmp_path)
    lines = [line_of(event) for event in events]
    assert {type(event).__name__ for event in events} >= {"Transition", "Planned", "Polled", "Finished"}
    assert all(line and "\n" not in line and line.isprintable() for line in lines)
    assert DEFAULT_API_KEY not in "\n".join(lines)
    told = "\n".join(lines)
    assert re.search(r"purchase \d+, attempt 1: Announced: planned -> announced", told)
    assert re.search(r"purchase \d+, attempt 1: Bought: announced -> submitted, task \S+", told)
    assert re.search(r"task \S+: succeeded, 1 file\(s\)", told)
    assert re.search(r"uncertain: submission of 1 image\(s\)", told)


async def test_trouble_is_a_warning_and_steps_are_for_debugging(tmp_path):
    events = await events_of(tmp_path)
    levels = {type(event): level_of(event) for event in events}
    ends = [level_of(event) for event in events if type(event).__name__ == "Finished"]
    assert levels[BreakerOpened] == logging.WARNING
    assert levels[BreakerClosed] == logging.INFO
    assert {logging.INFO, logging.WARNING} == set(ends)
    assert min(levels.values()) == logging.DEBUG


def test_words_that_would_forge_a_line_are_written_out():
    error = NotSent(cause="reset\nERROR forged\x1b[31m", attempts=1, account="a")
    for event in (
        AccountDisabled(account="a", error=error),
        Retrying(account="a", endpoint="/e", attempt=1, after=2.0, error=error),
    ):
        assert line_of(event).isprintable()
        assert r"reset\nERROR forged" in line_of(event)


def test_waits_and_breakers_have_lines_of_their_own():
    paced = Paced(account="a", endpoint="/e", delay=31.4)
    opened = BreakerOpened(account="a", endpoint="/e", cause="rate limited", after=2.0, trips=3)
    assert line_of(paced) == "a question waits 31.4 s for a, /e"
    assert line_of(opened) == "a: breaker open for 2.0 s, rate limited, 3 times in a row"
    assert line_of(BreakerClosed(account="a", after=9.0)) == "a: breaker closed after 9.0 s"


def test_the_lines_go_to_the_logger_that_is_given(caplog):
    logger = logging.getLogger("of.mine")
    observer = LogEvents(logger)
    with caplog.at_level(logging.INFO, "of.mine"):
        observer(Paced(account="a", endpoint="/e", delay=1.0))
        observer(BreakerClosed(account="a", after=9.0))
    assert [(each.name, each.levelname) for each in caplog.records] == [("of.mine", "INFO")]


PROGRAM = """
import asyncio
from novita_async import Img2Img, NovitaClient, Polling
async def main():
    async with NovitaClient(polling=Polling.fixed(0.03)) as client:
        await client.run(Img2Img(model_name="m", image="dog.png", prompt="p"))
asyncio.run(main())
"""


@pytest.mark.parametrize(("level", "shown"), [("debug", True), ("warning", False), ("", False)])
def test_the_environment_turns_lines_on_for_every_client(serve, folder, level, shown):
    serve(speed=50.0)
    done = run(python("-c", PROGRAM), cwd=folder, env={**os.environ, "NOVITA_LOG": level})
    assert (done.returncode, done.stdout) == (0, "")
    found = re.search(r"DEBUG +novita_async: purchase 1, attempt 1: Bought", done.stderr)
    assert bool(found) is shown
    assert shown or done.stderr == ""


async def test_a_level_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("NOVITA_LOG", "loud")
    with pytest.raises(ConfigurationError, match="NOVITA_LOG='loud' is no level"):
        NovitaClient("key")
