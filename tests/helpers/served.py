"""A simulated service in a thread of its own, for what talks to it over real sockets from elsewhere."""

from contextlib import contextmanager

from anyio.from_thread import start_blocking_portal

from novita_async.testing import FaultPlan, SimulatorConfig, SimulatorServer


@contextmanager
def served(*, faults: FaultPlan | None = None, **config):
    """The running server: `server.url`, `server.ledger`."""
    settings = {"speed": 50.0, "latency": 0.002, "plain_pictures": True, **config}
    with start_blocking_portal() as portal:
        server = SimulatorServer(SimulatorConfig(**settings), faults=faults)
        with portal.wrap_async_context_manager(server):
            yield server
