"""pytest with pytest-asyncio."""

import pytest
import pytest_asyncio
from pictures import portrait


@pytest_asyncio.fixture
async def client(novita_simulator):
    async with novita_simulator.client() as client:
        yield client


@pytest.mark.asyncio
async def test_a_portrait_is_bought_once(client, novita_simulator):
    assert (await portrait(client)).startswith("https://")
    assert novita_simulator.ledger.images == 1
