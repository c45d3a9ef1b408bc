"""Finished lines of a batch are looked up many at a time, and change nothing of what comes out."""

import itertools

import anyio
import pytest

from novita_async import Failed, Succeeded, events
from novita_async._journal.rows import entry_of
from novita_async._journal.sqlite.journal import SqliteJournal
from novita_async._stream import intake
from novita_async._stream.ahead import ReadAhead
from tests.helpers.service import client_of, of_kind, picture, request, requests, service

pytestmark = pytest.mark.anyio

AHEAD = 20
"""Lines that are read ahead here: fewer than in use, so that little work shows a bound."""


@pytest.fixture(autouse=True)
def _few_lines_ahead(monkeypatch):
    monkeypatch.setattr(intake, "AHEAD", AHEAD)


async def run(client, many, journal, **options):
    async with client.batch(many, journal=journal, **options) as outcomes:
        return [outcome async for outcome in outcomes]


@pytest.fixture
async def made(tmp_path):
    """A batch of twelve lines that is finished: its service, its store, its folder, its outcomes."""
    simulation, folder = service(plain_pictures=True), tmp_path / "out"
    async with await SqliteJournal.open(tmp_path / "run.db") as store:
        async with client_of(simulation) as (client, _):
            got = await run(client, requests(12), store, save_to=folder)
        yield simulation, store, folder, {outcome.request.seed: outcome for outcome in got}


async def test_finished_lines_come_out_as_they_were_without_a_write(made):
    simulation, store, folder, first = made
    async with client_of(simulation) as (client, seen):
        before = store.statistics().commits
        again = await run(client, requests(12), store, save_to=folder)
        assert store.statistics().commits == before + 1  # of the new run
    assert [outcome.request.seed for outcome in again] == list(range(12))
    assert [outcome.paths for outcome in again] == [first[n].paths for n in range(12)]
    assert [outcome.task_id for outcome in again] == [first[n].task_id for n in range(12)]
    assert [event.position for event in of_kind(seen, events.Planned)] == list(range(12))
    assert len(simulation.ledger.entries) == 12


async def test_a_line_that_is_asked_for_once_more_is_bought_once_more(made):
    simulation, store, folder, _ = made
    async with client_of(simulation) as (client, _):
        many = [*requests(12), request(seed=3), request(seed=3)]
        for _ in range(2):
            got = await run(client, many, store, save_to=folder)
            assert len({outcome.task_id for outcome in got}) == len(got) == 14
            assert len(simulation.ledger.accepted) == 14


async def test_finished_lines_that_have_another_place_come_out_and_their_rows_learn_it(made):
    simulation, store, folder, first = made
    async with client_of(simulation) as (client, _):
        many = [request(seed=99), *reversed(list(requests(12)))]
        got = await run(client, many, store, save_to=folder)
    assert {o.request.seed: o.task_id for o in got if o.request.seed != 99} == {
        seed: outcome.task_id for seed, outcome in first.items()
    }
    places = {row.task.task_id: row.position async for row in store.where()}
    assert [places[first[seed].task_id] for seed in (11, 0)] == [1, 12]
    assert len(simulation.ledger.accepted) == 13


async def test_finished_lines_whose_pictures_have_moved_come_out_with_one_commit_for_many(tmp_path):
    simulation, out, old, new = (
        service(plain_pictures=True),
        *(tmp_path / name for name in ("out", "old", "new")),
    )

    def asked(folder):
        return [request(seed=seed, image=folder / "dog.png") for seed in range(12)]

    old.mkdir()
    (old / "dog.png").write_bytes(picture())
    async with await SqliteJournal.open(tmp_path / "run.db") as store, client_of(simulation) as (client, _):

        async def rows_name(folder):
            return {f'"{folder / "dog.png"}"' in entry_of(row).request async for row in store.where()} == {
                True
            }

        first = await run(client, asked(old), store, save_to=out)
        old.rename(new)
        before = store.statistics().commits
        again = await run(client, asked(new), store, save_to=out)
        assert store.statistics().commits == before + 2  # of the new run, and of what the rows learn
        assert {o.request.seed: o.task_id for o in again} == {o.request.seed: o.task_id for o in first}
        assert await rows_name(new)
        new.rename(old)
        again[0].paths[0].unlink()  # so that its row learns more
        await run(client, asked(old), store, save_to=out)
        assert await rows_name(old)
    assert len(simulation.ledger.entries) == 12


async def test_a_finished_line_whose_file_is_gone_is_fetched_again(made):
    simulation, store, folder, first = made
    first[5].paths[0].unlink()
    async with client_of(simulation) as (client, _):
        got = await run(client, requests(12), store, save_to=folder)
        assert [outcome.paths for outcome in await run(client, requests(12), store)] == [
            first[n].paths for n in range(12)
        ]
    assert len(got) == 12
    assert first[5].paths[0].is_file()
    assert len(simulation.ledger.accepted) == 12


async def test_after_the_finished_lines_no_more_are_read_than_there_are_slots(made):
    simulation, store, folder, _ = made
    taken = itertools.count()

    def endless():
        for number in taken:
            yield request(seed=number)

    async with client_of(simulation) as (client, _):
        async with client.batch(endless(), journal=store, save_to=folder, in_flight=3) as outcomes:
            for _ in range(12 + AHEAD):
                await anext(outcomes)
    assert next(taken) <= 12 + AHEAD + 3 + 1
    assert len(simulation.ledger.accepted) <= 12 + AHEAD + 3


async def test_where_nothing_is_finished_in_a_piece_lines_are_read_one_by_one_for_a_while(made):
    simulation, store, folder, _ = made
    taken = itertools.count(1000)

    def others():
        for number in taken:
            yield request(seed=number)

    async with client_of(simulation) as (client, _):
        async with client.batch(others(), journal=store, save_to=folder, in_flight=2) as outcomes:
            for _ in range(AHEAD + 10):
                await anext(outcomes)
            assert next(taken) - 1000 <= AHEAD + 10 + 3


async def test_each_line_comes_out_before_the_input_gives_the_next(made):
    simulation, store, folder, _ = made
    given = []

    async def slow():
        for each in requests(12):
            given.append(each)
            yield each
            await anyio.sleep(600)

    async with client_of(simulation) as (client, _):
        counts = []
        async with client.batch(slow(), journal=store, save_to=folder) as outcomes:
            async for _ in outcomes:
                counts.append(len(given))  # noqa: PERF401 - when each came
    assert counts == list(range(1, 13))


async def test_a_new_line_of_an_input_that_waits_is_bought_as_it_comes(made):
    simulation, store, folder, _ = made
    bought = []

    async def live():
        for number in (0, 99, 1, 98):
            yield request(seed=number)
            await anyio.sleep(600)
            bought.append(len(simulation.ledger.accepted))

    async with client_of(simulation) as (client, _):
        await run(client, live(), store, save_to=folder)
    assert bought == [12, 13, 13, 14]


async def test_lines_are_taken_from_an_input_that_blocks_before_it_has_given_all(made, monkeypatch):
    simulation, store, folder, _ = made
    monkeypatch.setattr("novita_async._stream.ahead.loop_time", itertools.count(0.0, 0.6).__next__)
    given, counts = [], []

    def blocking():
        for each in requests(12):
            given.append(each)
            yield each

    async with client_of(simulation) as (client, _):
        async with client.batch(blocking(), journal=store, save_to=folder) as outcomes:
            async for _ in outcomes:
                counts.append(len(given))  # noqa: PERF401 - when each came
    assert counts[0] < 4


async def test_an_input_that_has_ended_or_was_left_is_closed_in_the_task_that_read_it(made):
    simulation, store, folder, _ = made
    closed = []

    async def scoped(last):
        try:
            with anyio.CancelScope():  # which may be left only where it was entered
                for each in requests(12):
                    yield each
                await anyio.sleep(last)
        finally:
            closed.append(last)

    async with client_of(simulation) as (client, _):
        await run(client, scoped(0), store, save_to=folder)
        for last, most in ((1, 1), (600, 12)):
            async with client.batch(
                scoped(last), journal=store, save_to=folder, in_flight=1 + last
            ) as outcomes:
                for _ in range(most):
                    await anext(outcomes)
    assert closed == [0, 1, 600]


async def test_what_came_while_nobody_asked_is_handed_out_with_all_that_is_at_hand():
    async def live():
        yield request(seed=0)
        await anyio.sleep(60)
        for seed in (1, 2, 3):
            yield request(seed=seed)

    async with ReadAhead.of(live()) as ahead:
        assert [each.seed for each in await ahead.take(5)] == [0]
        await anyio.sleep(600)
        assert [each.seed for each in await ahead.take(5)] == [1, 2, 3]
        assert await ahead.take(5) == []


async def test_an_error_of_the_input_comes_after_the_lines_that_were_read_before_it(made):
    simulation, store, folder, _ = made

    def broken():
        yield from requests(7)
        yield "no request"
        raise KeyError("the user's")

    got = []
    async with client_of(simulation) as (client, _):
        with pytest.raises(KeyError, match="the user's"):
            async with client.batch(broken(), journal=store, save_to=folder) as outcomes:
                async for outcome in outcomes:
                    got.append(outcome)  # noqa: PERF401 - what came before the error counts
    assert [type(outcome) for outcome in got] == [*[Succeeded] * 7, Failed]


async def test_a_purchase_that_is_watched_from_the_start_is_not_told_twice(tmp_path):
    simulation, folder = service(plain_pictures=True, speed=0.1), tmp_path / "out"
    async with await SqliteJournal.open(tmp_path / "run.db") as store, client_of(simulation) as (client, _):
        await run(client, requests(2), store, save_to=folder)
        with anyio.move_on_after(1.0):
            await run(client, requests(6), store, save_to=folder)

        async def late():
            await anyio.sleep(600)
            for each in requests(6):
                yield each

        got = await run(client, late(), store, save_to=folder)
    assert sorted(outcome.request.seed for outcome in got) == list(range(6))
    assert len({outcome.task_id for outcome in got}) == len(simulation.ledger.accepted) == 6


async def test_lines_that_hold_their_pictures_in_memory_are_not_read_far_ahead(made, monkeypatch):
    simulation, store, folder, _ = made
    most = 3 * len(request().pictures[0].data)
    monkeypatch.setattr("novita_async._stream.ahead._MOST_HELD", most)
    read, ahead = 0, []

    def counted():
        nonlocal read
        for each in requests(12):
            read += 1
            yield each

    async with client_of(simulation) as (client, _):
        async with client.batch(counted(), journal=store, save_to=folder, in_flight=1) as outcomes:
            taken = 0
            async for _ in outcomes:
                taken += 1
                ahead.append(read - taken)
    assert taken == 12
    assert max(ahead) <= 4
