"""A simulation as tests of users have it: in real time that costs nothing, with faults said in one line."""

import anyio
import pytest

from novita_async import NotSent, Polling, RateLimited, RetryPolicy, SubmissionUncertain
from novita_async.testing import DEFAULT_API_KEY, Simulation, SimulatorConfig
from tests.helpers.service import request

ONCE = RetryPolicy(max_elapsed=0)


@pytest.fixture
def simulation():
    return Simulation.of(SimulatorConfig.quick())


@pytest.mark.anyio
async def test_ten_pictures_wait_for_next_to_no_time(simulation):
    """In virtual time, where only waiting counts. A task and its first look took 2 s each."""
    async with simulation.client() as client:
        began_at = anyio.current_time()
        for seed in range(10):
            await client.run(request(seed=seed))
        assert anyio.current_time() - began_at < 1.0
    assert simulation.ledger.images == 10


@pytest.mark.anyio
async def test_a_client_takes_the_clients_options(simulation):
    async with simulation.client(polling=Polling.fixed(5.0), images_per_minute=3) as client:
        await client.run(request())
        assert client.statistics().pool.accounts[0].pacing.windows[0].images_per_minute == 3
    assert simulation.api_key == DEFAULT_API_KEY


def test_a_client_without_await_reaches_it_too(simulation):
    with simulation.sync_client() as client:
        assert client.run(request()).images
    assert simulation.ledger.images == 1


@pytest.mark.anyio
async def test_a_fault_is_said_in_one_line_and_the_last_word_counts_first(simulation):
    simulation.fail("submit", answer=429)
    simulation.fail("submit", reset_after=True, numbers=1)
    simulation.fail("submit", reset_before=True, numbers=range(2, 3))
    simulation.fail("submit", reset_after=True, acted=False, numbers=3)
    for expected in (SubmissionUncertain, NotSent, SubmissionUncertain, RateLimited):
        async with simulation.client(retry=ONCE) as client:
            with pytest.raises(expected):
                await client.submit(request())
    assert simulation.ledger.images == 1


@pytest.mark.anyio
async def test_a_share_of_several_kinds_may_fail(simulation):
    simulation.fail({"poll", "download"}, slow=100.0, chance=0.5)
    async with simulation.client() as client:
        for seed in range(8):
            await client.run(request(seed=seed))
    slow = [rule for rule in simulation.simulator.faults.rules if rule.fault.seconds == 100.0]
    assert [(sorted(rule.on), rule.chance) for rule in slow] == [(["download", "poll"], 0.5)]


@pytest.mark.parametrize(
    "wrong", [{}, {"reset_after": True, "stall": True}, {"explode": True}, {"kind": "slow"}]
)
def test_what_is_not_one_fault_is_refused(simulation, wrong):
    with pytest.raises(TypeError, match="name one fault"):
        simulation.fail("submit", **wrong)
