"""The buyer and a store that owns place and money: deferred is not sent, and bought exactly once."""

import itertools
from decimal import Decimal

import anyio
import pytest
from attrs import define, field

from novita_async import Budget, JournalError, NotSent, Succeeded, Uncertain
from novita_async._purchase.machine import (
    Announced,
    Bought,
    IllegalTransition,
    Lost,
    Purchase,
    Reopened,
    State,
)
from novita_async._submit import buyer
from novita_async._submit.purchases import Purchases
from novita_async._util.clock import loop_time
from novita_async.journal import Deferred, MemoryJournal
from novita_async.tasks import Task
from tests.helpers.purchases import doubt, task
from tests.helpers.service import client_of, facts_of, request, requests, service

pytestmark = pytest.mark.anyio


@define(eq=False, repr=False)
class Shared(MemoryJournal):
    """A store that many processes share: the others have the window until a while from now."""

    deferrals: int = 1
    """How often it defers."""
    seconds: float = 5.0
    """For how long."""
    asked: list[tuple[float, Decimal | None]] = field(factory=list)
    """When it was asked for a place, and for how much money."""

    async def admit(self, purchase, announced, cost):
        self.asked.append((loop_time(), cost))
        if len(self.asked) <= self.deferrals:
            raise Deferred(loop_time() + self.seconds)
        await super().admit(purchase, announced, cost)


async def run(client, many, journal):
    async with client.batch(many, journal=journal) as outcomes:
        return [outcome async for outcome in outcomes]


@pytest.mark.parametrize("deferrals", [1, 3])
async def test_a_deferred_purchase_waits_and_is_bought_exactly_once(deferrals):
    """Its place and its money are given back meanwhile: neither allows for two."""
    simulation, store = service(), Shared(deferrals=deferrals)
    options = {"images_per_minute": 1, "budget": Budget(limit=1, price=1)}
    async with client_of(simulation, **options) as (client, seen):
        (outcome,) = await run(client, [request()], store)
        assert client.statistics().spending.spent == 1
    assert isinstance(outcome, Succeeded)
    assert len(simulation.ledger.entries) == 1
    at = [when for when, _ in store.asked]
    assert [round(after - before, 1) for before, after in itertools.pairwise(at)] == [5.0] * deferrals
    assert {cost for _, cost in store.asked} == {1}
    (kept,) = [each async for each in store.where()]
    assert (kept.state, kept.attempt, kept.bought, kept.perhaps) == (State.SUCCEEDED, 1, 1, 0)
    assert len(facts_of(seen, Announced)) == 1


async def test_a_deferred_purchase_lets_others_have_its_place():
    """The window has room for one; the second goes while the first is put off."""
    simulation, store = service(), Shared(seconds=30.0)
    async with client_of(simulation, images_per_minute=1) as (client, _):
        got = await run(client, requests(2), store)
    assert len(got) == len(simulation.ledger.accepted) == 2
    assert [entry.request["request"]["seed"] for entry in simulation.ledger.accepted] == [1, 0]


async def test_a_purchase_that_is_cancelled_while_it_is_deferred_is_not_sent():
    simulation, store = service(), Shared(seconds=1e6)
    async with client_of(simulation) as (client, _):
        with anyio.move_on_after(100):
            await run(client, [request()], store)
        assert client.uncertain == client.unfinished == ()
    assert (len(store.asked), simulation.ledger.entries) == (1, [])
    assert (await store.summary()).rows[State.PLANNED] == 1


@pytest.mark.parametrize(("when", "promised"), [("before", 0), ("after", 1)])
async def test_a_terminated_program_promises_nothing_more_and_sends_nothing_more(monkeypatch, when, promised):
    """SIGTERM comes before the promise, or between the promise and the last byte."""
    told = when == "before"
    monkeypatch.setattr(buyer, "is_terminated", lambda: told)

    @define(eq=False, repr=False)
    class Terminated(Shared):
        async def admit(self, purchase, announced, cost):
            nonlocal told
            await super().admit(purchase, announced, cost)
            told = True

    simulation, store = service(), Terminated(deferrals=0)
    async with client_of(simulation) as (client, seen):
        with pytest.raises(NotSent, match="the program is being terminated"):
            await run(client, [request()], store)
    assert not simulation.ledger.entries
    assert len(facts_of(seen, Announced)) == len(store.asked) == promised
    assert [(each.state, each.perhaps) async for each in store.where()] == [(State.PLANNED, 0)]


async def test_a_promise_that_is_not_durable_is_not_kept_and_costs_nothing():
    class Full(MemoryJournal):
        async def admit(self, *_):
            raise JournalError(problem="the disk is full")

    simulation, store = service(), Full()
    async with client_of(simulation, budget=Budget(limit=5, price=1)) as (client, _):
        with pytest.raises(JournalError, match="the disk is full") as caught:
            await run(client, requests(3), store)
        assert client.statistics().spending.spent == 0
        assert client.statistics().spending.reserved == 0
    assert caught.value.unsent >= 1
    assert simulation.ledger.entries == []


async def test_an_event_that_comes_while_the_store_is_asked_spares_the_purchase():
    """The store knows the task already, and refuses to announce another attempt."""

    class Knowing(MemoryJournal):
        async def admit(self, purchase, *_):
            client._buyer.purchases.happen(purchase, Bought(loop_time(), task("found")))
            raise IllegalTransition(scope="request", problem="it is bought")

    simulation = service()
    async with client_of(simulation) as (client, _):
        purchase = Purchase(request(), journal=Knowing())
        for fact in (Announced(0.0, "a"), Lost(1.0, doubt()), Reopened(2.0)):
            client._buyer.purchases.happen(purchase, fact)
        found = await client._buyer.buy(purchase)
    assert found.task_id == "found"
    assert simulation.ledger.entries == []


async def test_a_refusal_of_the_store_without_a_task_is_raised():
    class Refusing(MemoryJournal):
        async def admit(self, *_):
            raise IllegalTransition(scope="request", problem="it was saved long ago")

    simulation = service()
    async with client_of(simulation) as (client, _):
        with pytest.raises(IllegalTransition, match="long ago"):
            await client._buyer.buy(Purchase(request(), journal=Refusing()))
    assert simulation.ledger.entries == []


async def test_a_purchase_whose_journal_could_not_record_it_is_paid_and_known():
    """The store hears of the end all the same, and keeps the task with it."""

    class Deaf(MemoryJournal):
        async def settle(self, *_):
            raise JournalError(problem="the disk is full")

    simulation, store = service(), Deaf()
    got = []
    async with client_of(simulation) as (client, _):
        with pytest.raises(JournalError, match="the disk is full"):
            async with client.batch(requests(50), journal=store, in_flight=1) as outcomes:
                async for outcome in outcomes:
                    got.append(outcome)  # noqa: PERF401 - what came before the error counts
    (entry,) = simulation.ledger.accepted
    assert [outcome.task_id for outcome in got] == [entry.task_id]
    (kept,) = [each async for each in store.where(State.SUCCEEDED)]
    assert (kept.task.task_id, kept.bought, kept.perhaps) == (entry.task_id, 1, 0)


async def test_what_could_not_be_recorded_is_in_doubt_in_the_next_run():
    class Deaf(MemoryJournal):
        async def settle(self, *_):
            raise JournalError(problem="the disk is full")

    simulation, store = service(speed=1e-6), Deaf()
    async with client_of(simulation) as (client, _):
        with anyio.move_on_after(60), pytest.raises(JournalError):
            await run(client, [request()], store)
        (outcome,) = await run(client, [request()], store)
    assert isinstance(outcome, Uncertain)
    assert len(simulation.ledger.entries) == 1


def test_a_purchase_can_be_closed_again_and_again():
    purchases = Purchases()
    purchase = Purchase(None, state=State.SUBMITTED, task=Task(task_id="t"))
    purchases.add(purchase)
    assert [task.task_id for task in purchases.unfinished] == ["t"]
    purchases.close(purchase)
    purchases.close(purchase)
    assert purchases.unfinished == ()
