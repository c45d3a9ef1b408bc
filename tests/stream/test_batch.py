"""Batches with a journal: running the same again is resuming, and nothing is bought twice."""

import itertools

import anyio
import pytest

from novita_async import (
    AnyTask,
    AuthenticationFailed,
    Budget,
    BudgetExhausted,
    Failed,
    FailedEarlier,
    NotPlanned,
    Polling,
    RetryPolicy,
    Succeeded,
    TaskFailed,
    TaskNotFound,
    Uncertain,
    Unfinished,
)
from novita_async._journal.memory import MemoryJournal
from novita_async._journal.sqlite.journal import SqliteJournal
from novita_async._purchase.machine import Bought, State
from novita_async.errors import JournalError
from novita_async.testing import Fault, FaultPlan, FaultRule
from tests.helpers.service import client_of, picture, request, requests, service

pytestmark = pytest.mark.anyio


async def run(client, many, journal, **options):
    async with client.batch(many, journal=journal, **options) as outcomes:
        return [outcome async for outcome in outcomes]


async def rows_of(path):
    async with await SqliteJournal.open(path, read_only=True) as journal:
        return [row async for row in journal.where()]


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "run.db"


async def test_a_batch_records_every_step_and_names_files_by_place_and_seed(tmp_path, journal):
    async with client_of(service()) as (client, _):
        got = await run(client, requests(5), journal, save_to=tmp_path / "out")
    assert all(isinstance(outcome, Succeeded) for outcome in got)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [
        f"{place:05d}-{place}-1.png" for place in range(5)
    ]
    rows = await rows_of(journal)
    assert {row.state for row in rows} == {State.SAVED}
    assert {row.task.task_id for row in rows} == {outcome.task_id for outcome in got}


async def test_a_picture_given_in_memory_is_kept_once_by_its_digest(tmp_path, journal):
    async with client_of(service()) as (client, _):
        await run(client, requests(5), journal, save_to=tmp_path / "out")
    (kept,) = (tmp_path / "out" / "inputs").iterdir()
    assert kept.read_bytes() == picture()
    assert kept.name == f"{request().image.digest()}.png"


async def test_running_it_again_buys_nothing_and_gives_the_same_outcomes(tmp_path, journal):
    simulation = service()
    async with client_of(simulation) as (client, _):
        first = await run(client, requests(5), journal, save_to=tmp_path / "out")
    async with client_of(simulation) as (client, _):
        second = await run(client, requests(5), journal, save_to=tmp_path / "out")
    assert len(simulation.ledger.entries) == 5
    assert {o.task_id: o.paths for o in first} == {o.task_id: o.paths for o in second}
    assert {o.task_id: o.result.seed for o in first} == {o.task_id: o.result.seed for o in second}


async def test_a_result_of_an_earlier_run_can_be_fetched_though_its_urls_are_not_kept(tmp_path, journal):
    simulation = service()
    for _ in range(2):
        async with client_of(simulation) as (client, _):
            (outcome,) = await run(client, requests(1), journal, save_to=tmp_path / "out")
            assert await client.fetch(outcome.result.images[0]) == outcome.paths[0].read_bytes()


async def test_what_was_bought_when_a_batch_was_left_is_watched_and_not_bought_again(journal):
    simulation = service(workers=2)
    async with client_of(simulation) as (client, _):
        async with client.batch(requests(40), journal=journal, in_flight=8) as outcomes:
            await anext(outcomes)
    bought = len(simulation.ledger.accepted)
    assert bought < 40
    async with client_of(simulation) as (client, _):
        got = await run(client, requests(40), journal)
    assert len(simulation.ledger.accepted) == 40
    assert sorted(outcome.request.seed for outcome in got) == list(range(40))


async def test_lines_may_be_added_removed_and_moved_without_buying_any_again(journal):
    simulation = service()
    lines = list(requests(6))
    async with client_of(simulation) as (client, _):
        await run(client, lines, journal)
    moved = [request(seed=100), *reversed(lines[2:]), request(seed=101)]
    async with client_of(simulation) as (client, _):
        await run(client, moved, journal)
    assert len(simulation.ledger.accepted) == 8


async def test_equal_lines_are_bought_each_once(journal):
    simulation = service()
    async with client_of(simulation) as (client, _):
        await run(client, [request(seed=1)] * 3, journal)
        await run(client, [request(seed=1)] * 4, journal)
    assert len(simulation.ledger.accepted) == 4


async def test_a_picture_is_known_by_its_content_wherever_it_lies(tmp_path, journal):
    simulation = service()
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    one.write_bytes(picture())
    two.write_bytes(picture())
    async with client_of(simulation) as (client, _):
        await run(client, [request(image=one)], journal)
        await run(client, [request(image=two)], journal)
        await run(client, [request(image=picture())], journal)
        await run(client, [request(image=picture(2))], journal)
    assert len(simulation.ledger.accepted) == 2


async def test_an_uncertain_purchase_is_listed_and_bought_again_only_when_asked(journal):
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.reset_after()}))
    async with client_of(simulation) as (client, _):
        assert isinstance((await run(client, [request()], journal))[0], Uncertain)
        assert isinstance((await run(client, [request()], journal))[0], Uncertain)
        assert len(simulation.ledger.entries) == 1
        again = await run(client, [request()], journal, resubmit_uncertain=True)
    assert isinstance(again[0], Succeeded)
    assert len(simulation.ledger.accepted) == 2


async def test_what_failed_is_told_again_and_bought_again_only_when_asked_and_when_it_can_help(journal):
    simulation = service(failure_rate=1.0)
    async with client_of(simulation) as (client, _):
        await run(client, [request()], journal)
        (told,) = await run(client, [request()], journal)
        assert isinstance(told.error, FailedEarlier)
        assert told.error.kind == "TaskFailed"
        assert len(simulation.ledger.entries) == 1
        await run(client, [request()], journal, retry_failed=True)
    assert len(simulation.ledger.entries) == 2


async def test_what_the_service_will_never_accept_is_not_bought_again_even_when_asked(journal):
    simulation = service(illegal_words="forbidden")
    async with client_of(simulation) as (client, _):
        await run(client, [request(prompt="forbidden")], journal)
        (told,) = await run(client, [request(prompt="forbidden")], journal, retry_failed=True)
    assert isinstance(told, Failed)
    assert len(simulation.ledger.entries) == 1


async def test_a_connection_that_fails_leaves_a_request_planned(journal):
    plan = FaultPlan.of(FaultRule(fault=Fault.refuse(), on="submit", numbers=range(1, 4)))
    async with client_of(service(faults=plan)) as (client, _):
        (outcome,) = await run(client, [request()], journal)
    assert isinstance(outcome, Succeeded)
    (row,) = await rows_of(journal)
    assert (row.attempt, row.state) == (4, State.SUCCEEDED)


async def test_a_bad_key_leaves_all_that_was_not_sent_planned(journal):
    simulation = service()
    async with client_of(simulation, api_key="wrong") as (client, _):
        with pytest.raises(AuthenticationFailed) as caught:
            await run(client, requests(100), journal)
    rows = await rows_of(journal)
    assert {row.state for row in rows} == {State.PLANNED}
    assert caught.value.unsent == len(rows)
    async with client_of(simulation) as (client, _):
        assert len(await run(client, requests(100), journal)) == 100


async def test_a_task_without_an_end_in_time_is_taken_up_by_the_next_run(journal):
    simulation = service(speed=0.001)
    async with client_of(simulation, polling=Polling.fixed(5, deadline=30)) as (client, _):
        assert isinstance((await run(client, [request()], journal))[0], Unfinished)
    await anyio.sleep(10_000)
    async with client_of(simulation) as (client, _):
        assert isinstance((await run(client, [request()], journal))[0], Succeeded)
    assert len(simulation.ledger.entries) == 1


async def test_a_restart_cannot_overspend_the_quota(journal):
    simulation = service(images_per_minute=10, workers=50)
    for _ in range(6):
        async with client_of(simulation, images_per_minute=10) as (client, _):
            async with client.batch(requests(60), journal=journal) as outcomes:
                for _ in range(10):
                    await anext(outcomes)
    assert simulation.ledger.refused == []
    assert simulation.ledger.most_images_in(60) <= 10


async def test_files_that_could_not_be_had_are_fetched_by_the_next_run(tmp_path, journal):
    plan = FaultPlan.of(FaultRule(fault=Fault.answer(404, b""), on="download", numbers=range(1, 9)))
    simulation = service(faults=plan)
    async with client_of(simulation) as (client, _):
        (outcome,) = await run(client, [request()], journal, save_to=tmp_path / "out")
        assert isinstance(outcome, Failed)
    async with client_of(simulation) as (client, _):
        await run(client, [request()], journal, save_to=tmp_path / "out")
        (outcome,) = await run(client, [request()], journal, save_to=tmp_path / "out")
    assert isinstance(outcome, Succeeded)
    assert outcome.paths[0].exists()
    assert len(simulation.ledger.entries) == 1


async def test_a_batch_that_takes_longer_than_its_urls_live_saves_every_picture(tmp_path, journal):
    simulation = service(images_per_minute=10, workers=20, url_ttl=600, plain_pictures=True)
    async with client_of(simulation, images_per_minute=10) as (client, _):
        got = await run(client, requests(120, width=128, height=128), journal, save_to=tmp_path / "out")
        assert client.statistics().saver.refreshed == 0
    assert anyio.current_time() > 11 * 60
    assert all(outcome.paths[0].exists() for outcome in got)
    assert len(simulation.ledger.accepted) == len(got) == 120
    assert simulation.ledger.refused == []


async def test_a_second_process_is_refused(journal):
    async with client_of(service()) as (client, _), client.batch(requests(5), journal=journal):
        with pytest.raises(JournalError):
            await run(client, requests(5), journal)


async def test_a_journal_that_cannot_be_written_stops_the_buying_and_loses_no_outcome(journal, monkeypatch):
    """The purchase whose task could not be recorded is still watched to its end."""
    simulation = service()
    record = SqliteJournal._record
    told = itertools.count()

    async def full(self, purchase, facts, wait):
        if isinstance(facts[0], Bought) and next(told) == 2:
            raise JournalError(problem="the disk is full")
        await record(self, purchase, facts, wait)

    monkeypatch.setattr(SqliteJournal, "_record", full)
    got = []
    async with client_of(simulation) as (client, _):
        with pytest.raises(JournalError, match="the disk is full"):
            async with client.batch(requests(500), journal=journal, in_flight=4) as outcomes:
                async for outcome in outcomes:
                    got.append(outcome)  # noqa: PERF401 - what came before the error counts
    assert len(got) == len(simulation.ledger.accepted) < 12
    assert all(isinstance(outcome, Succeeded) for outcome in got)


async def test_a_budget_remembers_what_earlier_runs_spent(journal):
    simulation = service()
    for _ in range(2):
        async with client_of(simulation, budget=Budget(limit=5, price=1)) as (client, _):
            with pytest.raises(BudgetExhausted):
                await run(client, requests(20), journal)
    assert len(simulation.ledger.accepted) == 5


async def test_a_budget_with_prices_of_its_own_remembers_as_well(journal):
    simulation = service()
    for _ in range(2):
        budget = Budget(limit=100, price=lambda asked: asked.steps)
        async with client_of(simulation, budget=budget) as (client, _):
            for _ in range(2):
                with pytest.raises(BudgetExhausted):
                    await run(client, requests(20, steps=30), journal)
    assert len(simulation.ledger.accepted) == 3


async def test_requests_are_taken_in_while_the_rows_of_others_are_being_looked_up(journal, monkeypatch):
    """So they share commits, and a long batch comes quickly to what is left of it."""
    simulation, plan = service(), SqliteJournal.plan
    asked, enough = itertools.count(1), anyio.Event()

    async def slow(self, wanted):
        if next(asked) == 8:
            enough.set()
        await enough.wait()
        return await plan(self, wanted)

    monkeypatch.setattr(SqliteJournal, "plan", slow)
    async with client_of(simulation) as (client, _):
        with anyio.fail_after(600):
            await run(client, [request(seed=seed // 2) for seed in range(20)], journal, in_flight=8)
    rows = sorted(await rows_of(journal), key=lambda row: row.entry.serial)
    assert [(row.position, row.entry.occurrence) for row in rows] == [
        (place, place % 2) for place in range(20)
    ]


async def test_a_budget_prices_what_a_journal_must_not_keep_without_it(journal):
    asked = AnyTask(path="/v3/async/upscale", body={"image": "A" * 400, "scale_factor": 4})
    simulation = service()
    for _ in range(2):
        budget = Budget(limit=5, price=lambda task: task.body["scale_factor"])
        async with client_of(simulation, budget=budget) as (client, _):
            await run(client, [asked], journal)
            assert client.statistics().spending.spent == 4
    assert len(simulation.ledger.accepted) == 1


async def test_a_million_requests_are_taken_in_only_as_they_are_sent(journal):
    taken = itertools.count()

    def endless():
        for _ in taken:
            yield request(seed=1)

    async with client_of(service()) as (client, _):
        async with client.batch(endless(), journal=journal, in_flight=5) as outcomes:
            for _ in range(20):
                await anext(outcomes)
    assert next(taken) <= 30


# --- Buying again, and nothing new --------------------------------------------------------------------------


async def test_a_batch_of_what_is_planned_alone_buys_nothing_that_is_new_to_its_journal(journal):
    simulation = service()
    async with client_of(simulation) as (client, _):
        await run(client, requests(3), journal)
        many = [request(seed=0), request(seed=0), request(seed=2, prompt="changed"), request(seed=1)]
        got = await run(client, many, journal, only_planned=True)
    new = [outcome for outcome in got if isinstance(outcome, Failed)]
    assert [type(outcome.error) for outcome in new] == [NotPlanned, NotPlanned]
    assert {outcome.request.prompt for outcome in new} == {request().prompt, "changed"}
    assert len(simulation.ledger.accepted) == 3
    assert len(await rows_of(journal)) == 3


async def test_what_is_planned_and_was_never_sent_is_bought_where_nothing_new_is(journal):
    simulation = service()
    async with client_of(simulation, api_key="wrong") as (client, _):
        with pytest.raises(AuthenticationFailed):
            await run(client, requests(2), journal)
    planned = len(await rows_of(journal))
    async with client_of(simulation) as (client, _):
        await run(client, requests(5), journal, only_planned=True)
    assert len(simulation.ledger.accepted) == planned == 2


async def test_what_was_refused_is_bought_again_once_its_cause_was_mended(journal):
    strict, mended = service(illegal_words="forbidden"), service()
    async with client_of(strict) as (client, _):
        await run(client, [request(prompt="forbidden")], journal)
    async with client_of(mended) as (client, _):
        (told,) = await run(client, [request(prompt="forbidden")], journal, retry_failed=True)
        assert 'retry_failed="all"' in str(told.error)
        (done,) = await run(client, [request(prompt="forbidden")], journal, retry_failed="all")
    assert isinstance(done, Succeeded)
    assert len(mended.ledger.accepted) == 1


async def test_a_task_that_was_said_to_have_failed_is_fetched_where_it_is_well_after_all(tmp_path):
    simulation, journal = service(), MemoryJournal()
    async with client_of(simulation) as (client, _):
        await run(client, [request()], journal)
        (kept,) = journal._kept.values()
        kept.state, kept.result, kept.error = State.FAILED, None, TaskFailed(task=kept.task)
        (outcome,) = await run(client, [request()], journal, retry_failed=True, save_to=tmp_path)
    assert isinstance(outcome, Succeeded)
    assert outcome.task_id == simulation.ledger.accepted[0].task_id
    assert len(simulation.ledger.accepted) == len(list(tmp_path.glob("*.png"))) == 1


async def test_a_failed_task_is_neither_bought_again_nor_given_up_while_nobody_answers_for_it(journal):
    faults = FaultPlan.of(FaultRule(fault=Fault.answer(503, b""), on="poll", numbers=range(2, 1_000_000)))
    simulation = service(failure_rate=1.0, faults=faults)
    late = Polling.fixed(100)  # the first poll sees the end
    async with client_of(simulation, polling=late) as (client, _):
        await run(client, [request()], journal)
    assert [row.state for row in await rows_of(journal)] == [State.FAILED]
    again = Polling.fixed(5, deadline=60)
    async with client_of(simulation, polling=again, retry=RetryPolicy(max_elapsed=10)) as (client, _):
        (outcome,) = await run(client, [request()], journal, retry_failed=True)
    assert isinstance(outcome, Unfinished)
    assert len(simulation.ledger.accepted) == 1
    assert [row.state for row in await rows_of(journal)] == [State.SUBMITTED]


async def test_what_is_paid_and_forgotten_by_the_service_is_bought_again_only_when_all_is_asked_for(
    tmp_path, journal
):
    first = service(faults=FaultPlan.of(FaultRule(fault=Fault.answer(404, b""), on="download")))
    async with client_of(first) as (client, _):
        assert isinstance((await run(client, [request()], journal, save_to=tmp_path))[0], Failed)
    second = service()
    async with client_of(second) as (client, _):
        for retry in (False, True):
            (told,) = await run(client, [request()], journal, save_to=tmp_path, retry_failed=retry)
            assert isinstance(told.error, TaskNotFound)
        assert [row.state for row in await rows_of(journal)] == [State.SUCCEEDED]
        assert second.ledger.entries == []
        (done,) = await run(client, [request()], journal, save_to=tmp_path, retry_failed="all")
    assert isinstance(done, Succeeded)
    assert len(second.ledger.accepted) == 1


async def test_a_result_that_is_there_again_is_fetched_even_where_all_is_asked_for(tmp_path):
    simulation, store = service(), MemoryJournal()
    async with client_of(simulation) as (client, _):
        await run(client, [request()], store)
        (kept,) = store._kept.values()
        kept.error = TaskNotFound(account=kept.account)
        (done,) = await run(client, [request()], store, save_to=tmp_path, retry_failed="all")
    assert isinstance(done, Succeeded)
    assert len(simulation.ledger.accepted) == len(done.paths) == 1


@pytest.mark.parametrize("files", [False, True])
async def test_another_accounts_key_fetches_nothing_ends_nothing_and_says_whose_it_takes(tmp_path, files):
    simulation, store = service(api_keys=("sk_of_the_first", "sk_of_the_second"), speed=0.1), MemoryJournal()
    save = {"save_to": tmp_path} if files else {}
    async with client_of(simulation, api_key="sk_of_the_first") as (client, _):
        if files:
            await run(client, [request()], store)
        else:
            with anyio.move_on_after(1.0):
                await run(client, [request()], store)
    (before,) = [row async for row in store.where()]
    async with client_of(simulation, api_key="sk_of_the_second") as (client, _):
        (told,) = await run(client, [request()], store, **save)
    assert f"{before.account} has paid for it; fetch it with the key of that account" in str(told.error)
    (after,) = [row async for row in store.where()]
    assert (after.state, after.error) == (before.state, before.error)
    async with client_of(simulation, api_key="sk_of_the_first") as (client, _):
        assert isinstance((await run(client, [request()], store, **save))[0], Succeeded)


# --- Journals that are used twice ---------------------------------------------------------------------------


async def test_the_same_journal_twice_in_one_client_counts_its_window_once(journal):
    simulation = service(images_per_minute=10, speed=20)
    async with client_of(simulation, images_per_minute=10) as (client, _):
        await run(client, requests(5), journal)
        began = anyio.current_time()
        await run(client, requests(10), journal)
        assert anyio.current_time() - began < 30
    assert simulation.ledger.refused == []


async def test_two_batches_at_once_with_one_store_are_refused_before_anything_is_sent():
    simulation, store = service(), MemoryJournal()
    async with client_of(simulation) as (client, _), client.batch(requests(3), journal=store) as outcomes:
        bought = len(simulation.ledger.entries)
        with pytest.raises(JournalError, match="another batch of this program is using it: nothing was sent"):
            await run(client, requests(5), store)
        assert len(simulation.ledger.entries) == bought
        assert [type(outcome) async for outcome in outcomes] == [Succeeded] * 3
        assert store.run == 2
    async with client_of(simulation) as (client, _):
        assert len(await run(client, requests(5), store)) == 5
