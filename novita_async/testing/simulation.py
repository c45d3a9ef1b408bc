"""A simulator and the two ways to reach it: what the pytest fixture hands out."""

from typing import Any, Self

from attrs import define, field

from novita_async._client import NovitaClient
from novita_async.testing.config import SimulatorConfig
from novita_async.testing.core import Simulator
from novita_async.testing.faults import FaultPlan
from novita_async.testing.ledger import Ledger
from novita_async.testing.server import SimulatorServer
from novita_async.testing.transport import SimulatedTransport


@define(eq=False)
class Simulation:
    """One simulated service, reached in memory (`transport`) or over a socket (`serve`), even both."""

    simulator: Simulator = field(factory=Simulator)
    """The service."""

    @classmethod
    def of(cls, config: SimulatorConfig, *, faults: FaultPlan | None = None) -> Self:
        """Make one of a configuration."""
        return cls(Simulator(config) if faults is None else Simulator(config, faults=faults))

    @property
    def api_key(self) -> str:
        """The first key that the service knows."""
        return self.simulator.config.api_keys[0]

    @property
    def ledger(self) -> Ledger:
        """What was accepted and billed, by request."""
        return self.simulator.ledger

    def transport(self, *, timeout: float = 120.0) -> SimulatedTransport:
        """Reach it in memory: give this to the client as its transport and its downloader."""
        return SimulatedTransport(self.simulator, timeout=timeout)

    def client(self, **options: Any) -> NovitaClient:
        """Make a client that reaches it in memory, with the first key; takes the client's own options."""
        wire = self.transport()
        settings: dict[str, Any] = {
            "api_key": self.api_key,
            "base_url": wire.origin,
            "transport": wire,
            "downloader": wire,
        }
        return NovitaClient(**(settings | options))

    def serve(self, *, host: str = "127.0.0.1", port: int = 0) -> SimulatorServer:
        """Reach it over HTTP: `async with simulation.serve() as server: ... server.url`."""
        return SimulatorServer(self.simulator, host=host, port=port)
