"""Unix time beside the loop's clock."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from novita_async import SqliteJournal
from novita_async._journal.rows import entry_of
from novita_async._purchase.machine import Announced
from novita_async._util import clock
from novita_async._util.clock import loop_time, wall_offset, wall_time
from tests.helpers.journals import asked

pytestmark = pytest.mark.anyio


@pytest.fixture
def shift(monkeypatch):
    """Set the wall clock forward or back: `shift(seconds)`."""
    shifts = [0.0]
    shifted = SimpleNamespace(time=lambda: time.time() + shifts[0], monotonic=time.monotonic)
    monkeypatch.setattr(clock, "time", shifted)
    return lambda seconds: shifts.__setitem__(0, seconds)


@pytest.mark.real_loop
@pytest.mark.parametrize("seconds", [8 * 3600.0, -3600.0])
async def test_unix_time_follows_when_the_loops_clock_stood_still_or_the_other_one_was_set(shift, seconds):
    before = wall_time()
    shift(seconds)
    assert abs(wall_time() - before - seconds) < 60
    assert abs(wall_time() - time.time() - seconds) < 60


@pytest.mark.real_loop
async def test_the_offset_stays_the_same_while_both_clocks_go_on(shift):
    offset = wall_offset()
    shift(0.5)
    assert wall_offset() == offset


async def test_in_virtual_time_the_offset_is_taken_once(shift):
    before = wall_time()
    shift(8 * 3600.0)
    await asyncio.sleep(3600)
    assert wall_time() - before == pytest.approx(3600)


@pytest.mark.real_loop
async def test_a_journal_knows_after_a_laptop_has_slept_when_the_service_has_seen_an_attempt(tmp_path, shift):
    """What was announced before is long ago, what is announced now is not."""
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        before, after = await journal.plan([asked(1), asked(2)])
        await journal.record(before, Announced(loop_time(), "a"))
        shift(8 * 3600.0)
        await journal.record(after, Announced(loop_time(), "a"))
        seen = await journal.seen_since(60)
        assert [entry_of(each).serial for each in seen] == [entry_of(after).serial]
        assert abs(seen[0].attempts[0].announced_at - loop_time()) < 60
