"""Budgets: never over the limit, whatever is under way at once."""

from decimal import Decimal

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from novita_async import Budget, BudgetExhausted, ConfigurationError, Succeeded, Uncertain
from novita_async._policy.spending import Spending
from novita_async.testing import Fault, FaultPlan
from tests.helpers.service import client_of, request, requests, service

pytestmark = pytest.mark.anyio


async def drain(client, many):
    async with client.stream(many) as outcomes:
        return [outcome async for outcome in outcomes]


async def test_a_stream_stops_at_the_budget_and_says_what_was_not_sent():
    simulation = service(workers=50)
    got = []
    async with client_of(simulation, budget=Budget(limit="0.05", price=0.002)) as (client, _):
        with pytest.raises(BudgetExhausted, match=r"budget of 0\.05") as caught:
            async with client.stream(requests(200)) as outcomes:
                async for outcome in outcomes:
                    got.append(outcome)  # noqa: PERF401 - what came before the error counts
        spending = client.statistics().spending
    assert len(got) == len(simulation.ledger.accepted) == 25
    assert (spending.spent, spending.reserved, spending.left) == (Decimal("0.05"), 0, 0)
    assert caught.value.unsent > 0


async def test_an_image_counts_each():
    async with client_of(service(), budget=Budget(limit=5, price=1)) as (client, _):
        await client.run(request(image_num=4))
        with pytest.raises(BudgetExhausted):
            await client.run(request(image_num=2))
        await client.run(request())


async def test_a_price_may_depend_on_the_request():
    budget = Budget(limit=100, price=lambda asked: Decimal(asked.steps))
    async with client_of(service(), budget=budget) as (client, _):
        await client.run(request(steps=90))
        with pytest.raises(BudgetExhausted):
            await client.run(request(steps=20))


async def test_what_was_not_bought_is_given_back():
    simulation = service(illegal_words="forbidden", faults=FaultPlan.listed("submit", {1: Fault.refuse()}))
    async with client_of(simulation, budget=Budget(limit=1, price=1)) as (client, _):
        with pytest.raises(Exception, match="ILLEGAL_PROMPT"):
            await client.run(request(prompt="forbidden"))
        await client.run(request())
        assert client.statistics().spending.left == 0


async def test_a_purchase_with_an_unknown_end_counts_as_spent():
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.reset_after(acted=False)}))
    async with client_of(simulation, budget=Budget(limit=1, price=1)) as (client, _):
        (outcome,) = await drain(client, [request()])
        assert isinstance(outcome, Uncertain)
        with pytest.raises(BudgetExhausted):
            await client.run(request())


async def test_a_client_without_a_budget_has_none():
    async with client_of(service()) as (client, _):
        (outcome,) = await drain(client, [request()])
        assert client.statistics().spending is None
    assert isinstance(outcome, Succeeded)


@pytest.mark.parametrize("amount", ["much", -1, float("nan"), float("inf")])
def test_an_amount_that_is_no_money_is_refused(amount):
    with pytest.raises(ConfigurationError, match="is not an amount of money"):
        Budget(limit=amount, price=1)
    with pytest.raises(ConfigurationError, match="is not an amount of money"):
        Budget(limit=1, price=amount)


@given(st.lists(st.tuples(st.integers(1, 8), st.sampled_from(["bought", "not", "open"]))), st.integers(0, 40))
def test_spent_and_reserved_never_exceed_the_limit_together(steps, limit):
    spending = Spending(Budget(limit=limit, price=1))
    bought = 0
    for images, end in steps:
        try:
            cost = spending.take(request(image_num=images))
        except BudgetExhausted:
            cost = None
        if cost is None:
            assert spending.statistics().left < images
            continue
        if end != "open":
            spending.settle(cost, bought=end == "bought")
            bought += images if end == "bought" else 0
        s = spending.statistics()
        assert s.spent + s.reserved <= limit
        assert s.spent == bought
        assert s.left >= 0


async def test_a_request_waits_for_money_that_is_reserved_and_may_come_back():
    """The first is refused late; its money buys the third, and no stream ends for it."""
    simulation = service(illegal_words="forbidden", latency=1.0, latency_jitter=0, workers=10)
    many = [request(prompt="forbidden"), *requests(2)]
    async with client_of(simulation, budget=Budget(limit=2, price=1)) as (client, _):
        got = await drain(client, many)
        spending = client.statistics().spending
    assert sorted(type(outcome).__name__ for outcome in got) == ["Failed", "Succeeded", "Succeeded"]
    first, second = (entry.at for entry in simulation.ledger.accepted)
    assert second >= first + 2
    assert (spending.spent, spending.reserved) == (2, 0)


async def test_a_heavy_request_waits_for_all_of_the_reserved_money_it_needs():
    """Each refund wakes it, and it goes when there is enough."""
    simulation = service(illegal_words="forbidden", latency=1.0, workers=10)
    many = [*requests(3, prompt="forbidden"), request(image_num=4)]
    async with client_of(simulation, budget=Budget(limit=4, price=1)) as (client, _):
        got = await drain(client, many)
    assert [type(outcome).__name__ for outcome in got] == ["Failed"] * 3 + ["Succeeded"]


async def test_money_that_is_only_reserved_is_not_called_spent():
    """The error counts what is bought, and an attempt under way is not."""
    spending = Spending(Budget(limit=3, price=1))
    spending.settle(spending.take(request()), bought=True)
    cost = spending.take(request())
    assert spending.take(request(image_num=2)) is None
    with pytest.raises(BudgetExhausted) as caught:
        spending.take(request(image_num=3))
    assert caught.value.spent == "1"
    spending.settle(cost, bought=False)
    assert spending.take(request(image_num=2)) == 2


async def test_a_reservation_comes_back_when_its_request_is_cancelled_in_line():
    """Waiting for the quota, it holds money that a request of another endpoint may use then."""
    simulation = service(images_per_minute=1)
    async with client_of(simulation, images_per_minute=1, budget=Budget(limit=2, price=1)) as (client, _):
        await client.submit(request())
        with anyio.move_on_after(5):
            await client.submit(request(seed=1))
        spending = client.statistics().spending
        assert (spending.spent, spending.reserved, spending.left) == (1, 0, 1)
        await client.submit(request(seed=2))


def test_what_an_earlier_run_spent_is_remembered():
    spending = Spending(Budget(limit=2, price=1))
    spending.remember("run.db", Decimal(2))
    assert spending.remembers("run.db")
    with pytest.raises(BudgetExhausted):
        spending.take(request())
    assert repr(spending) == "<Spending 2 of 2, 0 reserved>"
