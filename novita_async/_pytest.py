"""The pytest plugin. Nothing of the library is imported before a test asks for it."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from novita_async.testing import Simulation, SimulatorConfig


@pytest.fixture
def novita_simulator_config() -> "SimulatorConfig":
    """Configuration of the service `novita_simulator`. Define a fixture of this name to have another one.

    This one is quick: tasks end in milliseconds of real time.
    """
    from novita_async.testing import SimulatorConfig  # noqa: PLC0415

    return SimulatorConfig.quick()


@pytest.fixture
def novita_simulator(novita_simulator_config: "SimulatorConfig") -> "Simulation":
    """A simulated Novita service of this test's own.

    `novita_simulator.client()` is a client of it, in memory; `sync_client()` the one without `await`.
    `novita_simulator.fail("submit", reset_after=True, numbers=1)` lets something go wrong, and
    `novita_simulator.ledger` tells what was bought. `async with novita_simulator.serve() as server` reaches
    it over HTTP at `server.url`, with the key `novita_simulator.api_key`.
    """
    from novita_async.testing import Simulation  # noqa: PLC0415

    return Simulation.of(novita_simulator_config)
