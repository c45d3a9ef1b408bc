"""Every row of the table of routes, from the request to the file, against the simulated service."""

import json
from collections import Counter

import anyio
import attrs
import pytest

from novita_async import (
    AnsweredAtOnce,
    AnyTask,
    ConfigurationError,
    DownloadFailed,
    EditImage,
    Failed,
    InvalidRequest,
    JournalError,
    NoImages,
    RetryPolicy,
    Route,
    RouteField,
    RoutePictures,
    SqliteJournal,
    SubmissionUncertain,
    Succeeded,
)
from novita_async.events import Finished
from novita_async.journal import MemoryJournal
from novita_async.models.routes import ROUTES
from novita_async.testing import Fault, FaultPlan, FaultRule
from tests.helpers.routed import FACES, request_for
from tests.helpers.service import client_of, of_kind, picture, service

pytestmark = pytest.mark.anyio

AT_ONCE = [row for row in ROUTES if row.answer == "at_once"]
BY_TASK = [row for row in ROUTES if row.answer == "task"]


def named(rows):
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


def quick(**config):
    return service(plain_pictures=True, **config)


@named(ROUTES)
async def test_each_row_is_run_and_its_files_are_fetched(row):
    simulation = quick()
    async with client_of(simulation) as (client, events):
        result = await client.run(request_for(row))
        files = [await client.fetch(artifact) for artifact in result.artifacts]
    (entry,) = simulation.ledger.accepted
    assert len(files) == entry.images == 1
    assert all(files)
    assert bool(result.videos) is (row.kind == "animate")
    assert (result.task is None) is (row.answer == "at_once")
    assert [type(event.outcome) for event in of_kind(events, Finished)] == [Succeeded]


BY_MODEL = [row for row in ROUTES if row.body != "wrapped"]


def valid(field):
    """A value that the row takes."""
    if field.choices:
        return field.choices[0]
    if field.size is not None:
        return field.default
    return {
        "integer": max(2, int(field.low or 0)),
        "number": field.low,
        "flag": True,
        "object": {},
        "list": [],
    }.get(field.type, "words")


def invalid(field):
    """A value that the row does not take."""
    if field.size is not None:
        return "1x1x1"
    if field.choices or field.type == "flag":
        return "no such"
    if field.type in ("integer", "number"):
        return field.low - 1 if field.high is None else field.high + 1
    if field.type == "text" and field.high is not None:
        return "x" * (int(field.high) + 1)
    return "" if field.type == "text" and field.low else 5


def with_field(row, name, value):
    """A request of the row with a value of one field."""
    common = attrs.fields_dict(FACES[row.kind])
    return request_for(row, **{name: value} if name in common else {"options": {name: value}})


@named(BY_MODEL)
async def test_each_field_of_each_row_reaches_the_service_and_a_wrong_value_never_does(row):
    simulation = quick()
    async with client_of(simulation) as (client, _):
        for field in row.fields:
            await client.run(with_field(row, field.name, valid(field)))
            with pytest.raises(InvalidRequest, match=rf"\b{field.name}: "):
                with_field(row, field.name, invalid(field))
        if not row.is_open:
            with pytest.raises(InvalidRequest, match="options: any: no such field"):
                request_for(row, options={"any": 1})
    assert len(simulation.ledger.accepted) == len(simulation.ledger.entries) == len(row.fields)


@named(ROUTES)
async def test_each_row_is_streamed_to_files(row, tmp_path):
    simulation = quick()
    async with (
        client_of(simulation) as (client, _),
        client.stream([request_for(row), request_for(row)], save_to=tmp_path) as outcomes,
    ):
        found = [outcome async for outcome in outcomes]
    paths = [path for outcome in found for path in outcome.paths]
    assert len({path.read_bytes() for path in paths}) >= 1
    assert len(set(paths)) == len(simulation.ledger.accepted) == 2
    assert all(path.parent == tmp_path for path in paths)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]


@named(ROUTES)
async def test_each_row_is_bought_once_by_a_batch_that_is_run_twice(row, tmp_path):
    simulation = quick()
    saved = []
    for _ in range(2):
        async with (
            client_of(simulation) as (client, _),
            client.batch(
                [request_for(row)], journal=tmp_path / "run.db", save_to=tmp_path / "out"
            ) as outcomes,
        ):
            (outcome,) = [outcome async for outcome in outcomes]
        assert isinstance(outcome, Succeeded)
        saved.append(outcome.paths)
    assert len(simulation.ledger.accepted) == 1
    assert saved[0] == saved[1]
    assert all(path.stat().st_size for path in saved[0])


async def test_results_that_come_at_once_are_handed_out_where_neither_folder_nor_file_is_named():
    """With a journal in memory and nothing to be saved there is no place for them but the client's own."""
    row = next(row for row in ROUTES if row.answer == "at_once")
    async with (
        client_of(quick()) as (client, _),
        client.batch([request_for(row)], journal=MemoryJournal()) as outcomes,
    ):
        (outcome,) = [outcome async for outcome in outcomes]
        assert isinstance(outcome, Succeeded)
        assert (await client.fetch(outcome.result.images[0])).startswith(b"\x89PNG")
    assert outcome.paths == ()


@named(ROUTES)
async def test_each_row_s_request_is_known_again_and_made_again_from_a_journal(row, tmp_path):
    simulation = quick()
    async with (
        client_of(simulation) as (client, _),
        client.batch([request_for(row)], journal=tmp_path / "run.db", save_to=tmp_path / "out") as outcomes,
    ):
        (outcome,) = [outcome async for outcome in outcomes]
    (line,) = map(json.loads, (tmp_path / "out" / "novita-index.jsonl").read_text().splitlines())
    assert line["make"]["endpoint"] == outcome.request.kind


@named(AT_ONCE)
async def test_results_that_came_at_once_are_saved_by_the_run_after_the_one_that_died(row, tmp_path):
    simulation = quick()
    async with (
        client_of(simulation) as (client, _),
        client.batch([request_for(row)], journal=tmp_path / "run.db") as outcomes,
    ):
        (outcome,) = [outcome async for outcome in outcomes]
        assert isinstance(outcome, Succeeded)
    async with (
        client_of(simulation) as (client, _),
        client.batch([], journal=tmp_path / "run.db", save_to=tmp_path / "out") as outcomes,
    ):
        (outcome,) = [outcome async for outcome in outcomes]
    assert [path.parent for path in outcome.paths] == [tmp_path / "out"]
    assert len(simulation.ledger.accepted) == 1


@named(AT_ONCE)
async def test_a_lost_answer_with_results_is_uncertain_and_not_sent_again(row, tmp_path):
    plan = FaultPlan.of(FaultRule(fault=Fault.reset_after(), on="submit", numbers=1))
    simulation = quick(faults=plan)
    told = []
    for _ in range(2):
        async with (
            client_of(simulation) as (client, _),
            client.batch(
                [request_for(row)], journal=tmp_path / "run.db", save_to=tmp_path / "out"
            ) as outcomes,
        ):
            (outcome,) = [outcome async for outcome in outcomes]
        assert type(outcome).__name__ == "Uncertain"
        assert "perhaps paid" in str(outcome.error)
        told.append((outcome.error.purchase is None, "no id can ask for them again" in str(outcome.error)))
    assert told == [(False, True), (True, False)]  # the second run reads what the first has written
    assert len(simulation.ledger.accepted) == 1


@named(AT_ONCE)
async def test_results_that_the_journal_could_not_note_come_out_before_the_error(row, tmp_path, monkeypatch):
    async def settle(*_):
        raise JournalError(problem="the disk is full")

    monkeypatch.setattr(SqliteJournal, "settle", settle)
    simulation = quick()
    async with (
        client_of(simulation) as (client, _),
        client.batch([request_for(row)] * 3, journal=tmp_path / "run.db", in_flight=1) as outcomes,
    ):
        assert isinstance(await anext(outcomes), Succeeded)
        with pytest.raises(JournalError, match="the disk is full") as raised:
            await anext(outcomes)
    assert raised.value.unsent == 0
    assert len(simulation.ledger.accepted) == 1


@named(AT_ONCE)
async def test_a_route_that_answers_at_once_is_not_submitted(row):
    simulation = quick()
    async with client_of(simulation) as (client, _):
        with pytest.raises(
            ConfigurationError, match=f"^{row.name} answers at once.*nothing was bought; use run"
        ):
            await client.submit(request_for(row))
    assert simulation.ledger.entries == []


async def test_a_path_that_answers_at_once_unexpectedly_gives_its_results_with_the_error():
    unlisted = attrs.evolve(MADE_UP, path="/v3/unlisted", fields=(), pictures=())
    simulation = quick(routes=(unlisted,))
    request = AnyTask(path="/v3/unlisted", body={})
    async with client_of(simulation) as (client, _):
        with pytest.raises(AnsweredAtOnce, match="answered at once, without a task") as raised:
            await client.submit(request)
        assert await client.fetch(raised.value.result.images[0])
        assert (await client.run(request)).task is None
    assert len(simulation.ledger.accepted) == 2


@pytest.mark.parametrize(("byte", "whole"), [(1000, 0), (60_000, 1), (100_000, 2)])
async def test_an_answer_that_breaks_off_keeps_each_whole_picture(tmp_path, byte, whole):
    plan = FaultPlan.of(FaultRule(fault=Fault.truncate(byte), on="submit", numbers=1))
    simulation = service(faults=plan)
    request = EditImage(model="gpt-image-2", image=picture(), prompt="p", n=3)
    for _ in range(2):
        async with (
            client_of(simulation) as (client, _),
            client.batch([request], journal=tmp_path / "run.db", save_to=tmp_path / "out") as outcomes,
        ):
            (outcome,) = [outcome async for outcome in outcomes]
        paths = outcome.paths if isinstance(outcome, Succeeded) else ()
        assert len({path.read_bytes() for path in paths}) == len(paths) == whole
        assert (
            outcome.result.cut if paths else outcome.error.cause
        ) == f"the answer was cut after {byte} bytes"
    assert len(simulation.ledger.accepted) == 1
    assert not list((tmp_path / "out").glob("*.part"))


async def test_files_that_came_at_once_and_are_gone_are_told_for_good(tmp_path):
    simulation = quick()
    results = []
    for _ in range(3):
        async with (
            client_of(simulation) as (client, _),
            client.batch(
                [request_for(AT_ONCE[0])], journal=tmp_path / "run.db", save_to=tmp_path / "out"
            ) as outcomes,
        ):
            (outcome,) = [outcome async for outcome in outcomes]
            results.append(outcome)
        for path in (tmp_path / "out").glob("*.png"):
            path.unlink()
    assert [type(each) for each in results] == [Succeeded, Failed, Failed]
    assert "the file came in the answer itself and cannot be had again" in str(results[1].error)
    assert len(simulation.ledger.accepted) == 1


async def test_a_result_can_be_saved_and_fetched_as_often_as_one_likes(tmp_path):
    async with client_of(quick()) as (client, _):
        result = await client.run(request_for(AT_ONCE[0]))
        first = await client.save(result, tmp_path / "a")
        second = await client.save(result, tmp_path / "b", name="dog")
        fetched = await client.fetch(result.images[0])
    assert [path.name for path in (*first, *second)] == ["image-1.png", "dog-1.png"]
    assert first[0].read_bytes() == second[0].read_bytes() == fetched


async def test_a_picture_whose_twin_was_deleted_stays_where_it_is(tmp_path):
    simulation = quick()
    for _ in range(2):
        async with (
            client_of(simulation) as (client, _),
            client.batch(
                [EditImage(model="gpt-image-2", image=picture(), prompt="p", n=2)],
                journal=tmp_path / "run.db",
                save_to=tmp_path / "out",
            ) as outcomes,
        ):
            (outcome,) = [outcome async for outcome in outcomes]
        kept = min((tmp_path / "out").glob("*-1.png"))
        (tmp_path / "out" / kept.name.replace("-1.png", "-2.png")).unlink(missing_ok=True)
    assert isinstance(outcome, Failed)
    assert "cannot be had again" in str(outcome.error)
    assert kept.stat().st_size
    assert len(simulation.ledger.accepted) == 1


async def test_a_name_that_cannot_be_had_leaves_the_picture_and_says_where(tmp_path):
    async with (
        client_of(quick()) as (client, _),
        client.stream([request_for(AT_ONCE[0])], save_to=tmp_path, save_as=lambda _: 1 / 0) as outcomes,
    ):
        (outcome,) = [outcome async for outcome in outcomes]
    (part,) = tmp_path.glob(".*.part")
    assert f"ZeroDivisionError: division by zero: paid; not lost: {part}; give it a name" in str(
        outcome.error
    )


async def test_an_address_that_came_without_a_task_and_works_no_more_is_not_to_be_asked_for_again(tmp_path):
    request = request_for(next(row for row in AT_ONCE if row.name == "seedream-4.5"))
    async with client_of(quick(url_ttl=10)) as (client, _):
        result = await client.run(request)
        await anyio.sleep(60)
        with pytest.raises(DownloadFailed, match="paid; the URL came in the answer itself, and no task"):
            await client.save(result, tmp_path)


async def test_a_caller_who_does_not_wait_long_enough_does_not_buy_again():
    simulation = quick(speed=0.01)
    async with client_of(simulation, retry=RetryPolicy(resubmit_uncertain=True)) as (client, _):
        with pytest.raises(SubmissionUncertain, match="perhaps paid; the results were to come"):
            await client.run(request_for(AT_ONCE[0]), timeout=5)
    assert len(simulation.ledger.entries) == 1


async def test_a_request_without_a_picture_in_its_answer_raises_when_run():
    plan = FaultPlan.of(FaultRule(fault=Fault.answer(200, b'{"data": []}', acted=True), on="submit"))
    async with client_of(quick(faults=plan)) as (client, _):
        with pytest.raises(NoImages, match="answered without images: paid; look at `extra`"):
            await client.run(request_for(AT_ONCE[0]))


@named(BY_TASK)
async def test_a_route_that_answers_with_a_task_is_submitted_and_awaited(row):
    async with client_of(quick()) as (client, _):
        task = await client.submit(request_for(row))
        assert (await client.wait(task)).artifacts


async def test_a_route_that_refuses_is_told_in_its_own_words():
    simulation = quick(illegal_words=("blood",))
    async with client_of(simulation) as (client, _):
        for model in ("gpt-image-2", "gemini-3-pro-image", "seedream-4.5"):
            with pytest.raises(Exception, match="the prompt is against the content policy") as raised:
                await client.run(EditImage(model=model, image=picture(), prompt="blood"))
            assert type(raised.value).__name__ == "ContentRejected"
    assert Counter(entry.status for entry in simulation.ledger.entries) == {400: 3}


MADE_UP = Route(
    name="relight-9",
    kind="edit",
    path="/v3/relight-9",
    models=("relight-9",),
    pictures=(RoutePictures(name="photo", form="data_url"),),
    fields=(RouteField(name="warmth", type="integer", required=True, low=1, high=9),),
    answer="at_once",
)


async def test_a_made_up_route_is_a_row_and_nothing_else(tmp_path):
    simulation = quick(routes=(*ROUTES, MADE_UP))
    request = EditImage(model="relight-9", route=MADE_UP, image=picture(), options={"warmth": 3})
    async with (
        client_of(simulation) as (client, _),
        client.batch([request], journal=tmp_path / "run.db", save_to=tmp_path / "out") as outcomes,
    ):
        (outcome,) = [outcome async for outcome in outcomes]
    assert [path.suffix for path in outcome.paths] == [".png"]
    with pytest.raises(InvalidRequest, match=r"options: warmth: 10 is not in \[1, 9\]"):
        EditImage(model="relight-9", route=MADE_UP, image=picture(), options={"warmth": 10})
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        (purchase,) = [purchase async for purchase in journal.where()]
    assert (purchase.task, purchase.bought) == (None, 1)


async def test_an_answer_without_a_picture_is_paid_and_has_failed_for_good(tmp_path):
    plan = FaultPlan.of(
        FaultRule(fault=Fault.answer(200, b'{"data": [], "note": "no"}', acted=True), on="submit", numbers=1)
    )
    row = next(row for row in AT_ONCE if row.name == "openai-images-edits")
    simulation = quick(faults=plan)
    for _ in range(2):
        async with (
            client_of(simulation) as (client, _),
            client.batch(
                [request_for(row)], journal=tmp_path / "run.db", save_to=tmp_path / "out"
            ) as outcomes,
        ):
            (outcome,) = [outcome async for outcome in outcomes]
        assert isinstance(outcome, Failed)
        assert "answered without images" in str(outcome.error)
    assert len(simulation.ledger.entries) == 1
