"""The pytest plugin. Nothing of the library is imported before a test asks for it."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from novita_async.testing import Simulation, SimulatorConfig


@pytest.fixture
def novita_simulator_config() -> "SimulatorConfig":
    """Configuration of the service `novita_simulator`. Define a fixture of this name to have another one."""
    from novita_async.testing import SimulatorConfig  # noqa: PLC0415

    return SimulatorConfig()


@pytest.fixture
def novita_simulator(novita_simulator_config: "SimulatorConfig") -> "Simulation":
    """A simulated Novita service of this test's own, not yet served.

    `novita_simulator.transport()` reaches it in memory, `async with novita_simulator.serve() as server`
    over HTTP at `server.url`; `novita_simulator.ledger` tells what was bought, `novita_simulator.api_key`
    is its key.
    """
    from novita_async.testing import Simulation  # noqa: PLC0415

    return Simulation.of(novita_simulator_config)
