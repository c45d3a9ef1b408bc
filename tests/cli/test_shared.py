"""Batches in a database on the command line: planned, worked on, looked at, retried, told."""

import asyncio
import json
import re
from datetime import timedelta
from decimal import Decimal

import pytest

from novita_async._journal.postgres.address import discreet
from novita_async.cli._worker import WorkerTally
from novita_async.events import Finished
from novita_async.journal import PostgresJournal
from novita_async.testing import Fault, FaultPlan
from tests.helpers.batches import caller, manifest, records, seeds, shots
from tests.helpers.postgres import new_batch, run_sql
from tests.helpers.service import client_of, requests, service

FAIL_ALL = "UPDATE novita.course SET state = 'failed' WHERE batch = (SELECT max(id) FROM novita.batch)"


@pytest.fixture
def pictures_in():
    return "pics"


@pytest.fixture
def call(capsys, folder):
    return caller(capsys, folder)


@pytest.fixture
def url(database):
    return new_batch(database)


def test_a_batch_is_planned_worked_on_and_told_without_being_bought_twice(call, folder, serve, url):
    server = serve()
    typed = ("enqueue", shots(folder, 4), "--journal", url, "--out", "made", "--price", "0.01")
    code, out, _ = call(*typed)
    assert (code, out.splitlines()[0]) == (
        0,
        "planned: 4 requests, of which 4 are new; to be sent: 4",
    )
    assert "of which 0 are new; to be sent: 4" in call(*typed)[1]
    assert "4 not sent yet" in call("status", url)[1]
    assert server.ledger.accepted == []
    work = re.search("novita-async (.*)", out)[1].replace("'", "").split()
    code, out, err = call(*work)
    assert (code, sorted(out.split())) == (0, [f"made/{seed:05d}-{seed}-1.png" for seed in range(4)])
    assert "the batch: 4 saved" in err
    assert call(*work, "--json")[1].count('"outcome"') == 0
    assert seeds(server) == [0, 1, 2, 3]
    out = call("status", url)[1]
    assert "requests: 4\n  4 saved\nimages bought: 4 ($0.04)\nnothing is left to do" in out
    lines = records(call("export", url)[1])
    assert [(each["state"], each["place"], each["cost"]) for each in lines] == [
        ("saved", place, 0.01) for place in range(4)
    ]
    assert call("report", url)[1] == "made/report.html\n"
    assert "Batch batch-" in (folder / "made" / "report.html").read_text()
    assert call("workers", url)[1] == "nobody works on it\n"


def test_what_failed_is_bought_again_by_retry_with_the_same_words_as_for_a_folder(call, folder, serve, url):
    server = serve(faults=FaultPlan.listed("submit", {1: Fault.answer(403), 2: Fault.reset_after()}))
    call("enqueue", shots(folder, 2), "--journal", url, "--out", "made")
    code, _, err = call("worker", "--journal", url, "--in-flight", "1")
    assert code in (1, 3, 4)
    assert "novita-async" in err
    status = json.loads(call("status", url, "--json")[1])
    for command in status["next"]:
        call(*command.replace("'", "").split()[1:])
    assert json.loads(call("status", url, "--json")[1])["saved"] == 2
    assert len(server.ledger.accepted) <= 3


def test_a_budget_that_was_used_up_is_raised_with_the_command_that_is_told_and_counts_for_all(
    call, folder, serve, url
):
    server = serve()
    call(
        "enqueue", shots(folder, 3), "--journal", url, "--out", "made", "--price", "0.01", "--budget", "0.01"
    )
    code, _, err = call("worker", "--journal", url)
    assert (code, server.ledger.images) == (3, 1)
    assert "others may go on" not in err
    command = re.search(r"to go on: novita-async (.*)", err)[1].replace("'", "").split()
    assert command[-2:] == ["--budget", "0.03"]
    assert call(*command)[0] == 0
    assert call("worker", "--journal", url)[0] == 0  # others were not told again
    assert server.ledger.images == 3


def test_a_budget_to_which_those_at_work_object_is_refused_and_not_said_to_later_ones(
    call, folder, serve, url
):
    server = serve()
    call("enqueue", shots(folder, 1), "--journal", url, "--no-save", "--price", "0.01", "--budget", "1")
    note = "SELECT note FROM novita.batch WHERE name = $1", url.partition("#")[2]
    said = asyncio.run(run_sql(url, *note))

    async def while_another_is_at_work():
        async with await PostgresJournal.join(url, lease=3600.0) as journal:
            await journal.set_budget(Decimal(1), Decimal("0.01"))
            return await asyncio.to_thread(call, "worker", "--journal", url, "--budget", "5")

    code, _, err = asyncio.run(while_another_is_at_work())
    assert (code, server.ledger.images) == (2, 0)
    assert "the budget is 5 here, and 1 in a process that is at work" in err
    assert asyncio.run(run_sql(url, *note)) == said


def test_workers_are_told_with_their_release_and_since_when_they_are_silent(call, folder, url):
    call("enqueue", shots(folder, 1), "--journal", url, "--out", "made")
    worker = (
        "INSERT INTO novita.worker (batch, name, version, alive_until, lease, alone)"
        " SELECT max(id), $1, '9.8', now() + $2::interval, '15 s', false FROM novita.batch"
    )
    for name, left in (("one", timedelta(seconds=9)), ("two", timedelta(seconds=-9))):
        asyncio.run(run_sql(url, worker, name, left))
    one, two = call("workers", url)[1].splitlines()
    assert re.fullmatch(r"one  9\.8  since \S+ \S+  alive  has 0 requests \(0 being sent, 0 watched\)", one)
    assert re.search(r"two  9\.8  since \S+ \S+  silent since 20\S+ \S+  has 0 requests", two)


def test_every_fault_of_an_input_is_told_and_nothing_is_planned(call, folder, url):
    lines = manifest(folder, {"image": "missing.png"}, {"prompt": 7})
    code, _, err = call("enqueue", lines, "--journal", url, "--budget", "5")
    assert code == 2
    assert "--budget: needs --price" in err
    assert "missing.png" in err
    assert call("status", url)[0] == 3


def test_status_tells_again_what_has_changed_until_nothing_is_left(call, folder, url, monkeypatch):
    call("enqueue", shots(folder, 2), "--journal", url, "--no-save")
    monkeypatch.setattr("novita_async.cli._status._LOOK_EVERY", 0.0)
    looks = []

    async def bought(rest):
        if len(looks) == 3:
            await run_sql(
                url,
                FAIL_ALL,
            )
        looks.append(rest)

    monkeypatch.setattr("novita_async.cli._status.anyio.sleep", bought)
    code, out, _ = call("status", url, "--watch")
    assert (code, len(looks)) == (0, 4)
    assert out.count("requests: 2") == 2


def test_a_dry_run_tells_and_writes_nothing(call, folder, url):
    out = call("enqueue", shots(folder, 3), "--journal", url, "--dry-run", "--price", "1")[1]
    assert "requests: 3\n" in out
    assert "cost: $3" in out
    assert "there is no batch of this name: the latest there:" in call("status", url)[2]


@pytest.mark.parametrize("command", ["workers", "worker --journal", "enqueue shots.jsonl --journal"])
def test_what_is_no_url_is_refused_with_an_example(call, folder, command):
    shots(folder, 1)
    code, _, err = call(*command.split(), "run.db")
    assert code == 2
    assert "run.db: not the URL of a database: nothing was bought; give postgresql://" in err


def test_a_worker_that_does_not_know_where_results_go_is_told_so(call, folder, url):
    call("enqueue", shots(folder, 1), "--journal", url)
    code, _, err = call("worker", "--journal", url)
    assert code == 2
    assert "--out: is needed: neither `enqueue` nor you have said where results go" in err


def test_a_url_is_told_without_its_password():
    assert discreet("postgresql://me:secret@db:5/x?password=secret&host=/tmp/a#b") == (
        "postgresql://me@db:5/x?host=/tmp/a#b"
    )
    assert discreet("postgresql:///x?password=secret#b") == "postgresql:///x#b"
    assert discreet("postgresql://me:se#cret@db/x#b") == "postgresql://me@db/x#b"
    assert discreet("postgresql://one:1,two:2/x#at@2") == "postgresql://one:1,two:2/x#at@2"
    assert discreet("made") == "made"


@pytest.mark.anyio
async def test_a_worker_tells_what_it_has_had_and_no_time_that_is_left():
    """The rest may be others': nobody knows how much of it they will do."""
    tally = WorkerTally(0)
    async with client_of(service()) as (client, seen):
        async with client.stream(requests(3)) as outcomes:
            assert len([each async for each in outcomes]) == 3
    *ended, running = [each for each in seen if isinstance(each, Finished)]
    for event in seen:
        if event is not running:
            tally(event)
    for event in ended:
        tally.took(event.outcome)
    status = tally.status()
    assert status.sentence().startswith("2 of 3 done here, 1 running")
    assert status.seconds_left is None
