"""Processes that work one batch off together, and are killed."""

import pytest

from tests.helpers.postgres import new_batch
from tests.helpers.shared_batches import QUOTA, campaign

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]


async def test_processes_that_are_killed_buy_nothing_twice_lose_nothing_and_share_one_window(
    database, tmp_path
):
    found = await campaign(new_batch(database), tmp_path / "arrivals", requests=60, workers=2, kills=2)
    assert found["rows"] == 60
    assert found["most"] <= QUOTA
