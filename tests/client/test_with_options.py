"""Clients beside a client: with options of their own, and with its connections, quotas and purchases."""

import asyncio

import pytest

from novita_async import Budget, BudgetExhausted, Polling
from tests.helpers.service import client_of, request, service

pytestmark = pytest.mark.anyio


async def test_a_client_beside_another_shares_quota_and_purchases():
    async with client_of(service(), images_per_minute=2) as (client, _):
        other = client.with_options(polling=Polling.fixed(0.5))
        first, second = await client.submit(request(seed=1)), await other.submit(request(seed=2))
        assert set(client.unfinished) == set(other.unfinished) == {first, second}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await other.submit(request(seed=3))
        assert (await other.wait(first)).seed == 1
        assert client.unfinished == (second,)


async def test_each_has_the_budget_that_it_was_given():
    simulation = service()
    async with client_of(simulation, budget=Budget(limit=1, price="0.5")) as (client, _):
        other = client.with_options(budget=Budget(limit="0.5", price="0.5"))
        same = client.with_options()
        await other.submit(request(seed=1))
        with pytest.raises(BudgetExhausted):
            await other.submit(request(seed=2))
        await client.submit(request(seed=3))
        await same.submit(request(seed=4))
        with pytest.raises(BudgetExhausted):
            await client.submit(request(seed=5))
    assert simulation.ledger.images == 3


async def test_leaving_it_closes_nothing():
    async with client_of(service()) as (client, _):
        async with client.with_options() as other:
            await other.submit(request(seed=1))
        await client.run(request(seed=2))
        await other.run(request(seed=3))
