"""A Novita service for tests, demos and developing without a key.

In pytest the fixture `novita_simulator` is there as soon as the package is installed, and makes a
`Simulation`. A whole test, which takes milliseconds:

```python
import pytest
from novita_async import Img2Img
from novita_async.testing import sample_picture

@pytest.mark.anyio
async def test_two_pictures_are_bought(novita_simulator):
    request = Img2Img(model_name="any", image=sample_picture(), prompt="a cute dog", image_num=2)
    async with novita_simulator.client() as client:
        result = await client.run(request)
    assert len(result.images) == novita_simulator.ledger.images == 2
```

`novita_simulator.fail("submit", reset_after=True, numbers=1)` lets the first answer get lost,
`sync_client()` is for tests without `async`, and without pytest there is
`Simulation.of(SimulatorConfig.quick())`.

The kind of service, and the faults that it has, are values; clients in any language may talk to it:

```python
config = SimulatorConfig(images_per_minute=10, workers=2, failure_rate=0.1)
plan = FaultPlan.of(
    FaultRule(fault=Fault.reset_after(), on="submit", numbers=3),
    FaultRule(fault=Fault.answer(503, retry_after=2), on="poll", chance=0.2),
)
async with SimulatorServer(config, faults=plan) as server:
    ...  # server.url, server.ledger
```

In memory (`Simulation.client`) and in virtual time (`run_virtually`, `VirtualTimeLoop`) a batch of 100
minutes is a test of a second. Pictures need Pillow: `pip install "novita-async[simulator]"`.
"""

from novita_async.testing.clock import NothingCanHappenError, VirtualTimeLoop, run_virtually
from novita_async.testing.config import DEFAULT_API_KEY, SimulatorConfig
from novita_async.testing.core import Simulator, SimulatorStatistics, Visit
from novita_async.testing.faults import ExchangeKind, Fault, FaultKind, FaultPlan, FaultRule
from novita_async.testing.ledger import Entry, Ledger
from novita_async.testing.mailbox import WebhookCall
from novita_async.testing.painting import Painting
from novita_async.testing.pictures import sample_picture
from novita_async.testing.server import SimulatorServer, run_server, serve
from novita_async.testing.simulation import Simulation
from novita_async.testing.transport import SimulatedTransport, SimulatedTransportStatistics
from novita_async.testing.wire import Exchange, Reply

__all__ = [
    "DEFAULT_API_KEY",
    "Entry",
    "Exchange",
    "ExchangeKind",
    "Fault",
    "FaultKind",
    "FaultPlan",
    "FaultRule",
    "Ledger",
    "NothingCanHappenError",
    "Painting",
    "Reply",
    "SimulatedTransport",
    "SimulatedTransportStatistics",
    "Simulation",
    "Simulator",
    "SimulatorConfig",
    "SimulatorServer",
    "SimulatorStatistics",
    "VirtualTimeLoop",
    "Visit",
    "WebhookCall",
    "run_server",
    "run_virtually",
    "sample_picture",
    "serve",
]
