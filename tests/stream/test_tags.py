"""The user's own ids: with every outcome, event, error, file and line, also where only a journal has them."""

import json

import pytest

from novita_async import (
    AnyTask,
    BadRequest,
    CustomStorage,
    Extra,
    Failed,
    InvalidRequest,
    SubmissionUncertain,
    Succeeded,
    TaskFailed,
    Uncertain,
)
from novita_async._journal.sqlite.journal import SqliteJournal
from novita_async.events import Finished, Transition
from novita_async.models.requests import AWSS3
from novita_async.testing import Fault, FaultPlan, FaultRule
from tests.helpers.service import client_of, of_kind, request, service

pytestmark = pytest.mark.anyio

WORDS = {"shop": 7}


def tagged(count, **changes):
    return [request(seed=n, **changes).tagged(f"sku-{n}", WORDS) for n in range(count)]


async def run(client, many, journal=None, **options):
    stream = client.batch(many, journal=journal, **options) if journal else client.stream(many, **options)
    async with stream as outcomes:
        return [outcome async for outcome in outcomes]


def lines_of(folder):
    return [json.loads(line) for line in (folder / "novita-index.jsonl").read_text().splitlines()]


async def rows_of(path):
    async with await SqliteJournal.open(path, read_only=True) as journal:
        return [row async for row in journal.where()]


@pytest.mark.parametrize("journal", [None, "run.db"])
async def test_a_tag_comes_back_with_outcome_events_file_and_line(tmp_path, journal):
    simulation, out = service(), tmp_path / "out"
    async with client_of(simulation) as (client, events):
        got = await run(
            client, tagged(3), journal and tmp_path / journal, save_to=out, save_as="{id}-{n}.{ext}"
        )
    assert {outcome.tag: outcome.result.seed for outcome in got} == {"sku-0": 0, "sku-1": 1, "sku-2": 2}
    assert {outcome.tag: outcome.paths[0].name for outcome in got} == {
        f"sku-{n}": f"sku-{n}-1.png" for n in range(3)
    }
    assert all(outcome.metadata == WORDS for outcome in got)
    assert {event.tag for event in of_kind(events, Transition)} == {"sku-0", "sku-1", "sku-2"}
    tags = {event.purchase: event.tag for event in of_kind(events, Transition)}
    ends = {tags[event.purchase]: event.outcome.tag for event in of_kind(events, Finished)}
    assert ends == {tag: tag for tag in tags.values()}, "an end names the purchase that came to it"
    assert {line["id"]: (line["files"], line["metadata"]) for line in lines_of(out)} == {
        f"sku-{n}": ([f"sku-{n}-1.png"], WORDS) for n in range(3)
    }
    assert {line["place"] for line in lines_of(out)} == {0, 1, 2}
    assert all("sku" not in json.dumps(entry.request) for entry in simulation.ledger.accepted)


async def test_rows_whose_line_is_gone_come_out_under_their_tag(tmp_path):
    simulation, journal = service(), tmp_path / "run.db"
    async with client_of(simulation) as (client, _):
        async with client.batch(tagged(2), journal=journal, save_to=tmp_path) as outcomes:
            while outcomes.statistics().submitted < 2:
                await anext(outcomes)
    async with client_of(simulation) as (client, _):
        got = await run(client, [], journal, save_to=tmp_path)
    assert all(outcome.request is None for outcome in got)
    assert {outcome.tag for outcome in got} <= {"sku-0", "sku-1"}
    assert all(outcome.metadata == WORDS for outcome in got)
    assert {row.tag: dict(row.metadata) for row in await rows_of(journal)} == {"sku-0": WORDS, "sku-1": WORDS}
    assert len(simulation.ledger.accepted) == 2


async def test_a_failed_row_whose_line_is_gone_comes_out_under_its_tag(tmp_path):
    simulation, journal = service(failure_rate=1.0), tmp_path / "run.db"
    async with client_of(simulation) as (client, _):
        async with client.batch(tagged(1), journal=journal, save_to=tmp_path) as outcomes:
            while not outcomes.unfinished:
                await client.balance()
    async with client_of(simulation) as (client, _):
        (outcome,) = await run(client, [], journal, save_to=tmp_path)
    assert isinstance(outcome, Failed)
    assert (outcome.request, outcome.tag, outcome.metadata, outcome.error.tag) == (
        None, "sku-0", WORDS, "sku-0",
    )  # fmt: skip
    (line,) = lines_of(tmp_path)
    assert (line["id"], line["outcome"], line["make"]["id"]) == ("sku-0", "failed", "sku-0")


async def test_equal_requests_with_different_tags_are_all_bought_and_keep_their_tags(tmp_path):
    simulation, journal = service(), tmp_path / "run.db"
    many = [request(seed=1).tagged(tag) for tag in ("a", "b", None)]
    for _ in range(2):
        async with client_of(simulation) as (client, _):
            got = await run(client, many, journal, save_to=tmp_path, save_as="{id}.{ext}")
            assert sorted(str(outcome.tag) for outcome in got) == ["None", "a", "b"]
    assert len(simulation.ledger.accepted) == 3
    assert [row.tag for row in await rows_of(journal)] == ["a", "b", None]
    assert {path.name for path in tmp_path.glob("*.png")} == {"a.png", "b.png", "00002.png"}


@pytest.mark.parametrize("journal", [None, "run.db"])
async def test_tags_that_make_one_file_name_never_share_a_file(tmp_path, journal):
    tags = ["a/b", "a:b", "a_b", "x" * 200, "x" * 201]
    many = [request(seed=n).tagged(tag) for n, tag in enumerate(tags)]
    async with client_of(service()) as (client, _):
        got = await run(client, many, journal and tmp_path / journal, save_to=tmp_path, save_as="{id}.{ext}")
    assert len({outcome.paths[0] for outcome in got}) == 5
    assert len({outcome.paths[0].read_bytes() for outcome in got}) == 5
    assert {line["id"]: line["files"] for line in lines_of(tmp_path)} == {
        outcome.tag: [outcome.paths[0].name] for outcome in got
    }


async def test_an_error_says_which_request_it_is_about():
    async with client_of(service(failure_rate=1.0)) as (client, _):
        (outcome,) = await run(client, tagged(1))
        assert outcome.error.tag == "sku-0"
        assert str(outcome.error).startswith(f"request sku-0: task {outcome.task_id} failed")
        with pytest.raises(TaskFailed, match="request mine: "):
            await client.run(request().tagged("mine"))
        plain = await run(client, [request()])
    assert str(plain[0].error).startswith("task ")
    assert plain[0].error.tag is None


async def test_a_refused_and_a_lost_purchase_say_which_request_they_are_about():
    no = b'{"code": 400, "reason": "INVALID_REQUEST_BODY", "message": "no", "metadata": {}}'
    refused = FaultPlan.listed("submit", {1: Fault.answer(400, no)})
    lost = FaultPlan.of(FaultRule(fault=Fault.reset_after(), on="submit"))
    async with client_of(service(faults=refused)) as (client, _):
        with pytest.raises(BadRequest, match="request mine: ") as caught:
            await client.submit(request().tagged("mine"))
        assert caught.value.tag == "mine"
    async with client_of(service(faults=lost)) as (client, _):
        with pytest.raises(SubmissionUncertain, match="request mine: "):
            await client.submit(request().tagged("mine"))
        (outcome,) = await run(client, tagged(1))
        assert isinstance(outcome, Uncertain)
        assert outcome.error.tag == "sku-0"


async def test_an_error_that_requests_share_names_each(tmp_path):
    """One route is gone, and the error of the first who heard of that is everyone's."""
    many = [AnyTask(path="/v3/async/gone", body={"n": n}).tagged(f"g-{n}") for n in range(3)]
    async with client_of(service()) as (client, _):
        got = await run(client, [*tagged(1), *many], save_to=tmp_path)
    failed = {outcome.tag: outcome.error.tag for outcome in got if isinstance(outcome, Failed)}
    assert failed == {"g-0": "g-0", "g-1": "g-1", "g-2": "g-2"}


# --- The index ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", [None, "run.db"])
async def test_the_index_lists_what_failed_what_is_uncertain_and_what_is_no_request(tmp_path, journal):
    no = b'{"code": 400, "reason": "INVALID_REQUEST_BODY", "message": "no", "metadata": {}}'
    faults = FaultPlan.listed("submit", {1: Fault.reset_after(), 2: Fault.answer(400, no)})
    many = [*tagged(3), "no request"]
    async with client_of(service(faults=faults)) as (client, _):
        got = await run(client, many, journal and tmp_path / journal, save_to=tmp_path, in_flight=1)
    lines = {line["place"]: line for line in lines_of(tmp_path)}
    assert [lines[n]["outcome"] for n in range(4)] == ["uncertain", "failed", "succeeded", "failed"]
    assert [lines[n]["state"] for n in range(4)] == ["uncertain", "failed", "saved", "failed"]
    assert [lines[n]["id"] for n in range(4)] == ["sku-0", "sku-1", "sku-2", None]
    assert lines[1]["error"]["reason"] == "INVALID_REQUEST_BODY"
    assert lines[3]["error"]["type"] == InvalidRequest.__name__
    assert all(lines[n]["make"]["id"] == f"sku-{n}" for n in range(3))
    assert len(got) == len(lines_of(tmp_path)) == 4


async def test_a_failure_is_listed_by_the_run_that_saw_it_and_by_no_later_one(tmp_path):
    simulation, journal = service(failure_rate=1.0), tmp_path / "run.db"
    for _ in range(2):
        async with client_of(simulation) as (client, _):
            (outcome,) = await run(client, tagged(1), journal, save_to=tmp_path)
            assert isinstance(outcome, Failed)
    assert [line["outcome"] for line in lines_of(tmp_path)] == ["failed"]


# --- A bucket of the user's own -----------------------------------------------------------------------------


@pytest.mark.parametrize("journal", [None, "run.db"])
async def test_results_in_the_users_own_bucket_are_done_and_never_fetched(tmp_path, journal):
    storage = CustomStorage(aws_s3=AWSS3(region="r", bucket="my-bucket"))
    many = tagged(2, extra=Extra(custom_storage=storage))
    simulation, out = service(), tmp_path / "out"
    for _ in range(2 if journal else 1):
        async with client_of(simulation) as (client, events):
            got = await run(client, many, journal and tmp_path / journal, save_to=out)
        assert all(isinstance(outcome, Succeeded) for outcome in got)
        assert all(outcome.paths == () for outcome in got)
        assert all("my-bucket" in outcome.result.images[0].url for outcome in got)
    assert [path.name for path in out.iterdir() if path.suffix == ".png"] == []
    assert [(line["state"], line["files"]) for line in lines_of(out)] == [("saved", [])] * 2
    assert all("my-bucket" in line["urls"][0] for line in lines_of(out))
    assert not any("download" in type(event).__name__.lower() for event in events)
    if journal:
        assert {str(row.state) for row in await rows_of(tmp_path / journal)} == {"saved"}


async def test_a_row_without_its_line_knows_that_its_results_are_in_the_users_own_bucket(tmp_path):
    storage = CustomStorage(aws_s3=AWSS3(region="r", bucket="my-bucket"))
    simulation, journal = service(), tmp_path / "run.db"
    async with client_of(simulation) as (client, _):
        async with client.batch(tagged(1, extra=Extra(custom_storage=storage)), journal=journal) as outcomes:
            while not outcomes.unfinished:
                await client.balance()
    async with client_of(simulation) as (client, _):
        (outcome,) = await run(client, [], journal, save_to=tmp_path / "out")
    assert isinstance(outcome, Succeeded)
    assert (outcome.tag, outcome.paths) == ("sku-0", ())
