"""Purchases that an earlier run has paid for, in the next: from the journal alone, or with their lines."""

import asyncio

import anyio
import pytest

from novita_async import JournalError, NovitaClient, RetryPolicy, Succeeded, TaskFailed, Uncertain, events
from novita_async._journal.memory import MemoryJournal
from novita_async._purchase.machine import Announced, Purchase, State
from novita_async._stream.outlet import Outlet
from novita_async.testing import Fault, FaultPlan
from tests.helpers.hooks import hooked
from tests.helpers.service import client_of, facts_of, request, requests, service

pytestmark = pytest.mark.anyio


async def run(client, many, journal, **options):
    async with client.batch(many, journal=journal, **options) as outcomes:
        return [outcome async for outcome in outcomes]


def by_seed(done):
    return f"s{done.request.seed}"


async def paid_for(client, journal, count):
    """Buy, and leave before any task has ended."""
    with anyio.move_on_after(1.0):
        await run(client, requests(count), journal)


async def test_an_empty_input_fetches_what_is_paid(tmp_path):
    simulation, journal = service(speed=0.1), MemoryJournal()
    async with client_of(simulation) as (client, _):
        await paid_for(client, journal, 5)
        got = await run(client, [], journal, save_to=tmp_path)
    assert len(got) == len(simulation.ledger.accepted) == 5
    assert all(isinstance(outcome, Succeeded) and outcome.request is None for outcome in got)
    assert len(list(tmp_path.glob("*.png"))) == 5


async def late(count):
    """Requests whose lines come once everything has ended."""
    await anyio.sleep(600)
    for each in requests(count):
        yield each


async def test_a_line_that_comes_later_joins_its_paid_purchase_and_names_its_files(tmp_path):
    simulation, journal = service(speed=0.1), MemoryJournal()

    async with client_of(simulation) as (client, _):
        await paid_for(client, journal, 3)
        got = await run(
            client, late(3), journal, save_to=tmp_path, save_as=lambda done: f"s{done.request.seed}"
        )
    assert sorted(outcome.request.seed for outcome in got) == [0, 1, 2]
    assert len(simulation.ledger.accepted) == 3
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["s0-1.png", "s1-1.png", "s2-1.png"]


async def test_a_paid_purchase_that_fails_before_its_line_comes_has_that_outcome_and_is_not_bought_again():
    """A request that fails in a run is bought again by the next, if that is asked for then."""
    simulation, journal = service(speed=0.1, failure_rate=1.0), MemoryJournal()

    async with client_of(simulation) as (client, _):
        await paid_for(client, journal, 1)
        (got,) = await run(client, late(1), journal, retry_failed=True)
        assert isinstance(got.error, TaskFailed)
        assert [each.state async for each in journal.where(*State)] == [State.FAILED]
        assert len(simulation.ledger.accepted) == 1
        await run(client, requests(1), journal, retry_failed=True)
    assert len(simulation.ledger.accepted) == 2


@pytest.mark.parametrize(
    ("save_as", "names"),
    [
        (by_seed, ["00000-0-1.png", "00001-1-1.png"]),
        (lambda done: f"task-{done.result.seed}", ["task-0-1.png", "task-1-1.png"]),
    ],
)
async def test_a_function_that_needs_the_request_leaves_a_purchase_without_its_line_its_usual_name(
    tmp_path, save_as, names
):
    simulation, journal = service(speed=0.1), MemoryJournal()
    async with client_of(simulation) as (client, _):
        await paid_for(client, journal, 2)
        got = await run(client, [], journal, save_to=tmp_path, save_as=save_as)
    assert sorted(path.name for outcome in got for path in outcome.paths) == names
    assert (await journal.summary()).rows[State.SAVED] == 2


async def test_a_function_that_raises_spoils_the_files_of_a_line_that_comes(tmp_path):
    simulation, journal = service(speed=0.1), MemoryJournal()
    async with client_of(simulation) as (client, _):
        got = await run(client, [request()], journal, save_to=tmp_path, save_as=lambda _: 1 / 0)
    assert [type(outcome.error).__name__ for outcome in got] == ["DownloadFailed"]


async def test_saved_files_are_not_looked_for_without_a_folder(tmp_path):
    simulation, journal = service(), MemoryJournal()
    async with client_of(simulation) as (client, _):
        await run(client, requests(2), journal, save_to=tmp_path)
        (kept, _) = await run(client, requests(2), journal)
    assert len(kept.paths) == 1
    assert len(simulation.ledger.accepted) == 2


async def test_the_event_of_a_lost_purchase_is_heard_by_the_next_run():
    """The token of its callback stands in the journal."""
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.reset_after()}), speed=0.01)
    journal = MemoryJournal()
    async with hooked(simulation, recovery_timeout=0.0) as (client, *_):
        assert isinstance((await run(client, [request()], journal))[0], Uncertain)
    async with hooked(simulation, recovery_timeout=0.0) as (client, seen, _):
        async with client.batch([request()], journal=journal) as outcomes:
            assert isinstance(await anext(outcomes), Uncertain)
            await anyio.sleep(4000)
        assert len(facts_of(seen, events.Bought)) == 1
        (task,) = client.unfinished
        assert task.task_id == simulation.ledger.accepted[0].task_id
        got = await run(client, [request()], journal)
    assert [outcome.task_id for outcome in got] == [task.task_id]
    assert len(simulation.ledger.accepted) == 1


@pytest.mark.parametrize("comes", [True, False], ids=["its line comes", "its line never comes"])
async def test_a_lost_purchase_that_is_found_comes_out_of_the_run_that_hears_its_event(comes):
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.reset_after()}), speed=0.01)
    journal = MemoryJournal()

    async def late():
        await anyio.sleep(8000)
        if comes:
            yield request()

    async with hooked(simulation, recovery_timeout=0.0) as (client, *_):
        await run(client, [request()], journal)
    async with hooked(simulation, recovery_timeout=0.0) as (client, *_):
        (got,) = await run(client, late(), journal)
        assert client.unfinished == ()
    assert isinstance(got, Succeeded)
    assert got.request == (request() if comes else None)
    assert len(simulation.ledger.accepted) == 1


async def test_an_event_behind_the_end_of_a_run_is_left_to_the_next():
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.reset_after()}), speed=0.01)
    journal = MemoryJournal()
    async with hooked(simulation, recovery_timeout=0.0) as (client, *_):
        await run(client, [request()], journal)
    async with hooked(simulation, recovery_timeout=0.0) as (client, *_):
        assert await run(client, [], journal) == []
        await anyio.sleep(4000)
        assert [type(outcome) for outcome in await run(client, [], journal)] == [Succeeded]


async def test_events_are_expected_for_doubtful_attempts_alone():
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.reset_after()}))
    journal = MemoryJournal()
    async with client_of(simulation) as (client, _):
        await run(client, [request()], journal)
    async with hooked(simulation, recovery_timeout=0.0) as (client, *_):
        await run(client, [request()], journal)
        assert client.statistics().webhooks.expected == 0


async def test_a_journal_that_fails_to_plan_ends_the_stream_with_its_error():
    class Broken(MemoryJournal):
        async def plan(self, _):
            raise JournalError(problem="the disk cannot be read")

    async with client_of(service()) as (client, _):
        with pytest.raises(JournalError, match="cannot be read") as caught:
            await run(client, requests(100), Broken())
    assert caught.value.unsent > 0


@pytest.mark.parametrize("resubmits", [False, True])
async def test_a_doubt_that_the_journal_cannot_keep_is_told_and_not_counted_as_unsent(resubmits):
    """With a policy that risks paying twice, the wish for another attempt cannot be kept."""
    full = events.Reopened if resubmits else events.Lost

    class Broken(MemoryJournal):
        async def record(self, purchase, *facts):
            if any(isinstance(fact, full) for fact in facts):
                raise JournalError(problem="the disk is full")
            await super().record(purchase, *facts)

    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.reset_after()}))
    got, retry = [], RetryPolicy(resubmit_uncertain=resubmits)
    async with client_of(simulation, retry=retry) as (client, _):
        with pytest.raises(JournalError, match="disk is full") as caught:
            async with client.batch([request()], journal=Broken()) as outcomes:
                async for outcome in outcomes:
                    got += [outcome]
    assert [type(outcome) for outcome in got] == [Uncertain]
    assert caught.value.unsent == 0
    assert len(simulation.ledger.entries) == 1


async def test_an_async_iterator_that_is_no_generator_is_an_input():
    class Numbered:
        def __init__(self):
            self.left = iter(list(requests(3)))

        def __aiter__(self):
            return self

        async def __anext__(self):
            try:
                return next(self.left)
            except StopIteration:
                raise StopAsyncIteration from None

    async with client_of(service()) as (client, _), client.stream(Numbered()) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 3


async def test_a_cancellation_while_the_promise_is_written_sends_nothing():
    class Slow(MemoryJournal):
        async def admit(self, purchase, announced, cost):
            await super().admit(purchase, announced, cost)
            asyncio.current_task().cancel()

    simulation, journal = service(), Slow()
    async with client_of(simulation) as (client, seen):
        with anyio.CancelScope() as scope:
            try:
                await run(client, [request()], journal)
            finally:
                scope.cancel()
    assert simulation.ledger.accepted == []
    assert (await journal.summary()).rows[State.PLANNED] == 1
    assert len(facts_of(seen, Announced)) == 1


async def test_an_item_that_is_ready_is_a_change():
    outlet = Outlet(lambda _: None, lambda: True)
    outlet.expect()
    outlet.offer("item")
    assert await outlet.changed()
    assert await outlet.take() == "item"
    assert not await outlet.changed()


def test_a_purchase_says_what_it_lacks():
    purchase = Purchase(None)
    with pytest.raises(ValueError, match="has no request"):
        _ = purchase.wish
    with pytest.raises(ValueError, match="has no task"):
        _ = purchase.paid_task


async def test_a_client_of_another_loop_is_refused_before_anything_is_bought():
    simulation = service()
    async with client_of(simulation) as (client, _):
        await client.submit(request())

        def elsewhere():
            async def buy():
                await NovitaClient.submit(client, request())

            with pytest.raises(Exception, match="another event loop"):
                asyncio.run(buy())

        await anyio.to_thread.run_sync(elsewhere)
    assert len(simulation.ledger.accepted) == 1


class Commits(MemoryJournal):
    """A journal that notes what is recorded together."""

    def __init__(self, **options):
        super().__init__(**options)
        self.commits: list[list[str]] = []

    async def record(self, purchase, *facts):
        self.commits.append([type(fact).__name__ for fact in facts])
        await super().record(purchase, *facts)


async def test_the_end_of_a_task_and_its_files_are_one_commit(tmp_path):
    simulation, journal = service(speed=0.1), Commits()
    async with client_of(simulation) as (client, _):
        outcomes = await run(client, [request()], journal, save_to=tmp_path)
        assert [type(each) for each in outcomes] == [Succeeded]
    assert [each for each in journal.commits if "Completed" in each] == [["Completed", "Saved"]]


async def test_the_end_of_a_task_without_files_to_save_is_a_commit_of_its_own():
    simulation, journal = service(speed=0.1), Commits()
    async with client_of(simulation) as (client, _):
        await run(client, [request()], journal)
    assert [each for each in journal.commits if "Completed" in each] == [["Completed"]]
