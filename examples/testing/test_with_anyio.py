"""pytest with anyio's plugin, which comes with the library."""

import pytest
from pictures import portrait

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def test_a_portrait_is_bought_once(novita_simulator):
    async with novita_simulator.client() as client:
        assert (await portrait(client)).startswith("https://")
    assert novita_simulator.ledger.images == 1


async def test_a_lost_answer_is_told(novita_simulator):
    novita_simulator.fail("submit", reset_after=True, numbers=1)
    async with novita_simulator.client() as client:
        assert await portrait(client) == "perhaps paid"
    assert novita_simulator.ledger.images == 1
