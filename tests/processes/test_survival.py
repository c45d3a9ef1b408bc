"""Batches that survive: short versions of the campaigns that `make soak` runs for long."""

import os

import anyio
import pytest

from novita_async import Failed, FailedEarlier, JournalError, Succeeded, TaskNotFound
from novita_async._files.saver import _Target
from novita_async._journal.sqlite.journal import SqliteJournal
from novita_async._purchase.machine import Saved
from novita_async.models.routes import ROUTES
from tests.helpers import campaigns, killing
from tests.helpers.service import client_of, request, requests, service

pytestmark = pytest.mark.anyio


def files_in(folder):
    """Results, whole and in part; inputs have a folder of their own."""
    return [path for path in folder.iterdir() if path.is_file() and path.name != "novita-index.jsonl"]


async def test_submissions_that_fail_in_every_way_buy_nothing_twice_and_hide_nothing():
    figures = await campaigns.faulty_submissions(600)
    assert figures["uncertain"] > 0


async def test_polls_that_fail_in_every_way_never_change_how_a_task_ends():
    figures = await campaigns.faulty_polls(500)
    assert figures["failed"] > 0


async def test_a_batch_longer_than_its_urls_live_saves_each_picture_in_time(tmp_path):
    figures = await campaigns.slow_batch(tmp_path, 100, url_ttl=400)
    assert figures["virtual seconds"] > 500


async def test_a_host_that_is_down_for_most_of_a_urls_life_costs_time_and_no_picture(tmp_path):
    figures = await campaigns.slow_batch(tmp_path, 80, url_ttl=600, down=(60, 540))
    assert figures["downloads refused"] > 0


async def test_urls_that_expired_while_the_host_was_down_are_signed_anew_though_asking_fails(tmp_path):
    figures = await campaigns.slow_batch(tmp_path, 60, url_ttl=200, down=(60, 500), bad_polls=0.3)
    assert figures["expired"] > 0


def test_a_batch_killed_at_random_moments_loses_nothing_and_buys_nothing_twice(tmp_path):
    """Its minutes last two seconds, so that the quota binds."""
    figures = killing.killed_batch(tmp_path, count=40, kills=4, images_per_minute=20, minute=2.0)
    assert figures["killed"] > 0


def test_a_batch_of_all_routes_killed_at_random_moments_loses_nothing_and_buys_nothing_twice(tmp_path):
    rows = tuple(row.name for row in ROUTES if row.name != "txt2img")
    figures = killing.killed_batch(
        tmp_path, count=len(rows), kills=3, images_per_minute=100, minute=2.0, routes=rows
    )
    assert figures["killed"] > 0


def test_a_stream_of_any_length_takes_no_more_memory():
    campaigns.endless(900)


def test_a_journal_of_any_length_takes_no_more_memory(tmp_path):
    campaigns.endless(300, tmp_path / "run.db")


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_file_that_was_whole_when_the_process_died_is_found_again(tmp_path, monkeypatch, cut):
    """Died before or after the `.part` name of the whole file was taken away, and before it was recorded."""
    simulation, journal, out = service(), tmp_path / "run.db", tmp_path / "out"

    async def run(client):
        async with client.batch([request(seed=7)], journal=journal, save_to=out) as outcomes:
            return [outcome async for outcome in outcomes]

    record = SqliteJournal.record

    async def dying(self, purchase, *facts):
        if isinstance(facts[-1], Saved):
            raise JournalError(problem="died")
        await record(self, purchase, *facts)

    async with client_of(simulation) as (client, _):
        with monkeypatch.context() as dies, pytest.raises(JournalError):
            dies.setattr(SqliteJournal, "record", dying)
            await run(client)
        (path,) = files_in(out)
        written = path.stat().st_mtime_ns
        if cut == "before":
            (row,) = await campaigns.rows_of(journal)
            result = (await client.poll(row.task.task_id)).result
            target = _Target(artifact=result.images[0], result=result, owned=True)
            os.link(path, target.part_of(out))
        (outcome,) = await run(client)
    assert isinstance(outcome, Succeeded)
    assert outcome.paths == (path,)
    assert files_in(out) == [path]
    assert path.stat().st_mtime_ns == written


async def test_a_file_of_another_that_has_the_name_is_never_taken_for_it(tmp_path):
    mine = tmp_path / "00000-7-1.png"
    mine.write_bytes(b"mine")
    async with client_of(service()) as (client, _):
        journal = tmp_path / "run.db"
        async with client.batch([request(seed=7)], journal=journal, save_to=tmp_path) as outcomes:
            (outcome,) = [outcome async for outcome in outcomes]
    assert outcome.paths == (tmp_path / "00000-7-1.2.png",)
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("saving", [False, True])
async def test_what_was_paid_survives_a_run_with_the_wrong_key(tmp_path, saving):
    """Its tasks cannot be asked for then; they are when the right key is back."""
    simulation, journal = service(api_keys=("right", "other")), tmp_path / "run.db"
    out = tmp_path / "out" if saving else None

    async def run(key, **options):
        async with client_of(simulation, api_key=key) as (client, _):
            async with client.batch(requests(4), journal=journal, save_to=out, **options) as outcomes:
                return [outcome async for outcome in outcomes]

    async with client_of(simulation, api_key="right") as (client, _):
        async with client.batch(requests(4), journal=journal) as outcomes:
            while outcomes.statistics().submitted < 4:
                await anyio.sleep(0.01)
            assert outcomes.statistics().delivered == 0
    for key in ("wrong", "other"):
        assert all(isinstance(outcome, Failed) for outcome in await run(key, retry_failed=True))
    assert all(isinstance(outcome, Succeeded) for outcome in await run("right"))
    assert len(simulation.ledger.accepted) == 4


async def test_a_picture_that_the_service_has_forgotten_is_one_failure_in_each_run(tmp_path):
    """Its task is done and paid, so it is not bought again, and it stops no other."""
    simulation, journal = service(retention=100.0), tmp_path / "run.db"

    async def run(**options):
        async with client_of(simulation) as (client, _):
            async with client.batch(requests(3), journal=journal, **options) as outcomes:
                return [outcome async for outcome in outcomes]

    await run()
    await anyio.sleep(1000)
    for _ in range(2):
        got = await run(save_to=tmp_path / "out", retry_failed=True)
        assert [type(outcome.error) for outcome in got] == [TaskNotFound] * 3
    assert len(simulation.ledger.entries) == 3


async def test_a_task_that_its_own_account_does_not_know_any_more_has_failed(tmp_path):
    simulation, journal = service(retention=100.0), tmp_path / "run.db"
    async with client_of(simulation) as (client, _):
        async with client.batch(requests(1), journal=journal) as outcomes:
            while not outcomes.statistics().submitted:
                await anyio.sleep(0.01)
        await anyio.sleep(1000)
        for expected in (TaskNotFound, FailedEarlier):
            async with client.batch(requests(1), journal=journal) as outcomes:
                assert [type(outcome.error) async for outcome in outcomes] == [expected]
