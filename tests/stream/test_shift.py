"""Many workers on one batch, in virtual time: each row is brought to its end once, by whoever has it."""

from functools import partial

import anyio
import pytest
from attrs import evolve

from novita_async import (
    AnyTask,
    Budget,
    Endpoints,
    Failed,
    Polling,
    RetryPolicy,
    Succeeded,
    Txt2Img,
    Uncertain,
    Unfinished,
)
from novita_async._files.places import storage_at
from novita_async._journal.shared_memory import SharedMemoryJournal
from novita_async._purchase.machine import Reopened, State
from novita_async._stream.planning import BatchPlanner
from novita_async._stream.rows import RowStream
from novita_async._stream.shift import Shift
from novita_async.errors import (
    AuthenticationFailed,
    BudgetExhausted,
    ConfigurationError,
    InvalidRequest,
    JournalError,
)
from novita_async.journal import LeaseLost, MemoryJournal
from novita_async.testing import Fault, FaultPlan
from tests.helpers.service import client_of, picture, request, requests, service

pytestmark = pytest.mark.anyio


async def plan(journal, requests, folder=None, *, first=0):
    """Plan requests, with their pictures in a folder."""
    planner = BatchPlanner(endpoints=Endpoints(), storage=folder and storage_at(folder))
    planner.planned = first
    await journal.plan(await planner.orders(requests))


async def planned(folder, count, **changes):
    """A batch in memory that is planned and not sent; its picture lies in the folder."""
    journal, place = SharedMemoryJournal(), folder / "dog.png"
    place.write_bytes(picture())
    await plan(journal, requests(count, image=place, **changes))
    return journal


async def worked(simulation, journal, *, client=None, **options):
    """The outcomes of a worker that joins now."""
    async with client_of(simulation, **client or {}) as (worker, _):
        async with worker.work(journal=journal.join(), **options) as outcomes:
            return [each async for each in outcomes]


async def states_in(journal):
    return [each.state async for each in journal.where()]


async def test_workers_share_a_batch_and_each_row_is_bought_and_saved_once(tmp_path):
    simulation, ended = service(workers=64), []
    journal = await planned(tmp_path, 12)

    async def worker():
        ended.append(await worked(simulation, journal, save_to=tmp_path, in_flight=2))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(worker)
    assert all(ended)
    assert sum(map(len, ended)) == len(simulation.ledger.accepted) == 12
    assert len({path for each in ended for outcome in each for path in outcome.paths}) == 12
    assert await worked(simulation, journal, save_to=tmp_path) == []


async def test_what_a_dead_worker_had_on_its_way_is_not_bought_again(tmp_path):
    """The dead one lives on: the tasks that it pays for are kept, and whoever lives sees to them."""
    simulation = service(workers=2, latency=0.5)
    journal = await planned(tmp_path, 8)
    first, dropped = journal.join(), []
    async with client_of(simulation) as (old, _):
        with pytest.raises(LeaseLost):
            async with old.work(journal=first, save_to=tmp_path, in_flight=4) as outcomes:
                await anyio.sleep(0.3)
                first.die()
                assert (await states_in(journal)).count(State.UNCERTAIN) == 4
                await worked(simulation, journal, save_to=tmp_path)
                async for each in outcomes:
                    dropped.append(each)  # noqa: PERF401 - the error comes after some
    assert dropped == [], "what is another's is no outcome here"
    await worked(simulation, journal, save_to=tmp_path)
    assert set(await states_in(journal)) == {State.SAVED}
    assert len(simulation.ledger.accepted) == 8


async def test_a_worker_that_was_taken_for_dead_joins_again_where_it_can(tmp_path):
    simulation = service(workers=2)
    journal = await planned(tmp_path, 12)
    joined = []

    async def join():
        joined.append(journal.join())
        return joined[-1]

    async with client_of(simulation) as (client, _):
        shift = Shift(await join(), client._purchases, client._pool, join_again=join)
        stream = RowStream(client._buyer, client._polling, client._memory, shift=shift, in_flight=3)
        async with stream.run(()) as outcomes:
            first = await anext(outcomes)
            joined[0].die()
            rest = [each async for each in outcomes]
    assert len(joined) == 2
    assert repr(shift).endswith(": 0 rows>")
    assert isinstance(first, Succeeded)
    states = await states_in(journal)
    assert {each.request.seed for each in (first, *rest)} == {
        seed for seed, state in enumerate(states) if state is State.SUCCEEDED
    }
    assert len(simulation.ledger.accepted) == 12
    assert states.count(State.UNCERTAIN) <= 3


async def test_a_row_that_was_lost_and_taken_anew_is_had_until_it_has_ended_again(tmp_path):
    journal = await planned(tmp_path, 1)
    async with client_of(service()) as (client, _):
        shift = Shift(journal.join(), client._purchases, client._pool)
        (lost,) = await shift.take(1)
        shift.lose(lost)
        await shift.journal.give_back()
        (anew,) = await shift.take(1)
        assert not await shift.leave(lost, ended=False)
        assert list(shift.had.values()) == [anew]
        assert await shift.leave(anew, ended=False)
        assert not shift.had


async def test_rows_of_a_worker_that_leaves_early_are_others_at_once(tmp_path):
    simulation = service(workers=2)
    journal = await planned(tmp_path, 12)
    async with client_of(simulation) as (client, _):
        async with client.work(journal=journal.join(), save_to=tmp_path, in_flight=6) as outcomes:
            await anext(outcomes)
    await worked(simulation, journal, save_to=tmp_path)
    states = await states_in(journal)
    assert set(states) <= {State.SAVED, State.UNCERTAIN}
    assert len(simulation.ledger.accepted) == 12


async def test_rows_are_taken_several_at_a_time_and_what_was_not_begun_is_others_at_once(
    tmp_path, monkeypatch
):
    simulation, taken, take = service(workers=1), [], SharedMemoryJournal.take
    journal = await planned(tmp_path, 32)
    async with client_of(simulation) as (client, _), client.work(journal=journal.join(), in_flight=32):
        while len(simulation.ledger.accepted) < 32:
            await anyio.sleep(0.1)

    async def noted(self, most, *, least):
        taken.append((most, least))
        return await take(self, most, least=least)

    monkeypatch.setattr(SharedMemoryJournal, "take", noted)
    async with client_of(simulation) as (client, _):
        async with client.work(journal=journal.join(), in_flight=4) as outcomes:
            await anext(outcomes)
            await anyio.sleep(0.1)
            assert taken == [(32, 4)]
            assert len(client.unfinished) == 7, "half of the share of one of two workers"
        assert len(client.unfinished) == 4, "of what was not begun this client knows nothing any more"
    await worked(simulation, journal)
    assert set(await states_in(journal)) == {State.SUCCEEDED}
    assert len(simulation.ledger.accepted) == 32


async def test_workers_whose_taking_was_not_answered_do_not_wait_for_each_other(tmp_path, monkeypatch):
    simulation, take, unanswered = service(workers=64), SharedMemoryJournal.take, list[SharedMemoryJournal]()
    journal = await planned(tmp_path, 8)

    async def answerless(self, most, *, least):
        taken = await take(self, most, least=least)
        if taken and self not in unanswered:
            unanswered.append(self)
            return []
        return taken

    monkeypatch.setattr(SharedMemoryJournal, "take", answerless)
    with anyio.fail_after(3600):
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(partial(worked, simulation, journal, in_flight=4))
    assert len(unanswered) == 2
    assert set(await states_in(journal)) == {State.SUCCEEDED}
    assert len(simulation.ledger.accepted) == 8


async def test_a_row_whose_picture_is_not_on_this_host_is_left_to_a_later_worker(tmp_path):
    simulation = service()
    journal = SharedMemoryJournal()
    await plan(journal, requests(2), tmp_path)
    (failed, _) = await worked(simulation, journal, save_to=tmp_path / "elsewhere")
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, InvalidRequest)
    assert "picture: not to be had: it was given in memory" in str(failed.error)
    assert simulation.ledger.accepted == []
    done = await worked(simulation, journal, save_to=tmp_path)
    assert [len(each.paths) for each in done] == [1, 1]


async def test_a_picture_that_has_changed_since_it_was_planned_is_not_sent(tmp_path):
    simulation, file = service(), tmp_path / "dog.png"
    file.write_bytes(picture(1))
    journal = SharedMemoryJournal()
    await plan(journal, [request(image=file)])
    file.write_bytes(picture(2))
    (failed,) = await worked(simulation, journal)
    assert f"{file} is missing, or has changed" in str(failed.error)


async def test_a_wait_that_was_given_up_is_tried_once_by_each_worker(tmp_path):
    """Else two workers would hand the row to each other for ever."""
    simulation = service(speed=1e-6)
    journal = await planned(tmp_path, 1)
    impatient = {"polling": evolve(Polling.exponential(), deadline=5.0)}
    for _ in range(2):
        (unfinished,) = await worked(simulation, journal, client=impatient)
        assert isinstance(unfinished, Unfinished)
    assert len(simulation.ledger.accepted) == 1


async def test_what_failed_or_is_in_doubt_is_bought_again_when_asked(tmp_path):
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.answer(503), 2: Fault.reset_after()}))
    journal = await planned(tmp_path, 2)
    once = {"retry": RetryPolicy(attempts=1)}
    ends = await worked(simulation, journal, client=once, save_to=tmp_path, in_flight=1)
    assert [type(each) for each in ends] == [Failed, Uncertain]
    assert await worked(simulation, journal, save_to=tmp_path) == []
    failed = [each for each in journal._kept.values() if each.state is State.FAILED]
    failed[0].error.retryable = False
    assert await worked(simulation, journal, save_to=tmp_path, retry_failed=True) == []
    (done,) = await worked(simulation, journal, save_to=tmp_path, retry_failed="all")
    assert (type(done), done.request.seed) == (Succeeded, 0)
    (done,) = await worked(simulation, journal, save_to=tmp_path, resubmit_uncertain=True)
    assert (type(done), done.request.seed) == (Succeeded, 1)
    assert len(simulation.ledger.accepted) == 3


async def test_two_who_retry_at_once_buy_again_once(tmp_path):
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.answer(503)}))
    journal = await planned(tmp_path, 1)
    await worked(simulation, journal, client={"retry": RetryPolicy(attempts=1)})

    async def again():
        await worked(simulation, journal, retry_failed=True)

    async with anyio.create_task_group() as group:
        group.start_soon(again)
        group.start_soon(again)
    assert len(simulation.ledger.accepted) == 1


async def test_a_row_that_was_lost_before_it_was_reopened_is_bought_by_who_has_it(tmp_path, monkeypatch):
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.answer(503)}))
    journal = await planned(tmp_path, 1)
    await worked(simulation, journal, client={"retry": RetryPolicy(attempts=1)})
    joined, record = journal.join(), SharedMemoryJournal.record

    async def recorded(self, purchase, *facts):
        if self is joined and isinstance(facts[0], Reopened):
            self.die()
        await record(self, purchase, *facts)

    monkeypatch.setattr(SharedMemoryJournal, "record", recorded)
    async with client_of(simulation) as (client, _):
        with pytest.raises(LeaseLost):
            async with client.work(journal=joined, retry_failed=True) as outcomes:
                assert [each async for each in outcomes] == []
    assert len(simulation.ledger.accepted) == 0
    (done,) = await worked(simulation, journal, retry_failed=True)
    assert isinstance(done, Succeeded)
    assert len(simulation.ledger.accepted) == 1


async def test_what_dooms_one_worker_leaves_the_rows_to_all_others(tmp_path):
    """Also to those that were there before."""
    simulation = service()
    journal = await planned(tmp_path, 3)
    early = journal.join()
    with pytest.raises(AuthenticationFailed) as stopped:
        await worked(simulation, journal, client={"api_key": "sk_wrong"})
    assert stopped.value.unsent > 0
    assert len(await early.take()) == 3


async def test_a_budget_counts_what_the_batch_has_cost_before(tmp_path):
    simulation = service()
    journal = await planned(tmp_path, 3)
    for _ in range(2):
        with pytest.raises(BudgetExhausted):
            await worked(simulation, journal, client={"budget": Budget(limit=2, price=1)}, save_to=tmp_path)
    assert len(simulation.ledger.accepted) == 2


async def test_a_paid_task_of_a_host_without_an_account_is_left_to_another_worker(tmp_path):
    simulation = service(speed=1e-6)
    journal = await planned(tmp_path, 1)
    async with client_of(simulation) as (client, _):
        async with client.work(journal=journal.join()):
            await anyio.sleep(5)
    (kept,) = journal._kept.values()
    kept.host, kept.task = "ppio", evolve(kept.task, host="ppio")
    (failed,) = await worked(simulation, journal)
    assert "the task is paid at ppio, and no account belongs there" in str(failed.error)
    assert await states_in(journal) == [State.SUBMITTED]


async def test_a_worker_that_never_ends_takes_what_comes_later(tmp_path):
    simulation = service()
    journal = await planned(tmp_path, 1)
    async with client_of(simulation) as (client, _):
        async with client.work(journal=journal.join(), save_to=tmp_path, forever=True) as outcomes:
            await anext(outcomes)
            await plan(journal, [request(seed=9)], tmp_path, first=1)
            assert (await anext(outcomes)).request.seed == 9


async def test_tags_and_metadata_come_back_with_the_outcome(tmp_path):
    journal = SharedMemoryJournal()
    await plan(journal, [request().tagged("mine", {"shop": 7})], tmp_path)
    (done,) = await worked(service(), journal, save_to=tmp_path)
    assert (done.tag, done.metadata) == ("mine", {"shop": 7})


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (request(), "holds a picture in memory"),
        (AnyTask(path="/v3/async/x", body={"u": "https://h/a?X-Amz-Signature=abc"}), "a presigned URL"),
    ],
)
async def test_what_no_worker_could_make_again_is_not_planned(what, why):
    journal = SharedMemoryJournal()
    with pytest.raises(InvalidRequest, match=f"request mine: holds .*{why.removeprefix('holds ')}"):
        await plan(journal, [what.tagged("mine")])
    assert await states_in(journal) == []


async def test_what_needs_no_picture_is_planned_without_a_place_for_pictures():
    simulation, journal = service(), SharedMemoryJournal()
    await plan(journal, [Txt2Img(model_name="m.safetensors", prompt="a dog", width=512, height=512)])
    (done,) = await worked(simulation, journal)
    assert isinstance(done, Succeeded)


@pytest.mark.parametrize("journal", ["run.db", MemoryJournal()])
async def test_a_journal_of_one_process_is_refused(journal):
    async with client_of(service()) as (client, _):
        with pytest.raises(ConfigurationError, match="several processes cannot work on journal"):
            async with client.work(journal=journal):
                pass


async def test_a_database_that_refuses_ends_the_work_with_its_error(tmp_path):
    journal = await planned(tmp_path, 1)
    joined = journal.join()
    async with client_of(service()) as (client, _):
        with pytest.raises(JournalError, match="another worker has it by now"):
            async with client.work(journal=joined, forever=True) as outcomes:
                await anext(outcomes)
                await joined.aclose()
                await anext(outcomes)
