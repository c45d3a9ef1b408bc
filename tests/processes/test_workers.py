"""Workers on one batch, each a process of its own: killed, with wrong clocks, on a database that crashes."""

import pytest

from tests.helpers.postgres import new_batch
from tests.helpers.worker_campaigns import Campaign, fight

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]


async def test_workers_that_are_killed_buy_nothing_twice_lose_nothing_and_share_one_window(
    database, tmp_path
):
    """While clocks are wrong, the database crashes, and answers take three times the stall time."""
    campaign = Campaign(requests=24, quota=24, kills=1, crashes=1)
    found = await fight(campaign, new_batch(database), tmp_path)
    assert found["rows"] == 24
    assert found["most"] <= campaign.quota
