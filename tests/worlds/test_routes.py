"""Every row of the table of routes in worlds: killed at many moments, and resumed."""

import pytest

from novita_async.models.routes import ROUTES
from tests.helpers.killing import crashed_at

MOMENTS = (
    {"mark": "answer", "number": 1, "turns": 3, "entrance": "bytes"},
    {"mark": "commit", "number": 9},
    {"mark": "file", "number": 38, "ending": "power"},
    {"mark": "file", "number": 58, "ending": "power"},
    {"mark": "take", "number": 1},
)
"""Before and after each step of a purchase: three for each row. `make soak` takes all there are."""


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop():
    """Let files be touched: what a thread would do is done between the turns of a world's loops."""


@pytest.mark.parametrize(("number", "row"), list(enumerate(row.name for row in ROUTES)))
def test_each_row_is_killed_and_resumed_without_losing_or_buying_twice(number, row):
    reports = [crashed_at(row, **MOMENTS[(number + each) % len(MOMENTS)]) for each in range(3)]
    assert any("stopped dead" in report.trace for report in reports)
