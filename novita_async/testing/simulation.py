"""A simulator and the two ways to reach it: what the pytest fixture hands out."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Self, cast

from attrs import define, evolve, field

from novita_async._client import NovitaClient
from novita_async._policy.polling.schedule import Polling
from novita_async.sync import Client
from novita_async.testing.config import SimulatorConfig
from novita_async.testing.core import Simulator
from novita_async.testing.faults import Fault, FaultPlan, FaultRule
from novita_async.testing.ledger import Ledger
from novita_async.testing.server import SimulatorServer
from novita_async.testing.transport import SimulatedTransport


@define(eq=False)
class Simulation:
    """A simulated service, reached in memory (`transport`) or over a socket (`serve`), even both.

    Args:
        simulator: The service.
    """

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
        """Everything accepted and billed, by request."""
        return self.simulator.ledger

    def transport(self, *, timeout: float = 120.0) -> SimulatedTransport:
        """Reach it in memory: give this to the client as its transport and its downloader."""
        return SimulatedTransport(self.simulator, timeout=timeout)

    def client(self, **options: Any) -> NovitaClient:
        """Make a client that reaches it in memory, with the first key; takes the client's own options.

        Polls begin at once and become ever rarer, so that a test in real time waits for nothing.
        """
        return NovitaClient(**self._options(options))

    def sync_client(self, **options: Any) -> Client:
        """Make a client without `await`, as `client` does."""
        return Client(**self._options(options))

    def _options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        wire = self.transport()
        usual: dict[str, Any] = {
            "api_key": self.api_key,
            "base_url": wire.origin,
            "transport": wire,
            "downloader": wire,
            "polling": Polling.exponential(first=0.002, cap=2.0, polls_per_second=1000.0),
        }
        if "accounts" in given:
            del usual["api_key"]
        return usual | dict(given)

    def fail(
        self,
        on: str | Iterable[str] = "submit",
        *,
        numbers: int | Collection[int] | None = None,
        chance: float = 1.0,
        acted: bool | None = None,
        **fault: Any,
    ) -> None:
        """Let exchanges go wrong from now on; the latest call counts first.

        ```python
        simulation.fail("submit", reset_after=True, numbers=1)
        simulation.fail("poll", answer=503, chance=0.2)
        simulation.fail({"submit", "poll"}, slow=3.0)
        ```

        Args:
            on: Kinds of exchange: `submit`, `poll`, `download`, `webhook`, `other`; one, or several.
            numbers: Which of its kind, counted from the first of the service; a `range` will do. None: any.
            chance: Share of these exchanges that are hit.
            acted: Whether the service acts upon the request all the same, where `Fault` leaves that open.
            fault: A class method of `Fault`, by its name: True, or its argument.

        Raises:
            TypeError: no such fault, or not one.
        """
        if len(fault) != 1 or not callable(make := getattr(Fault, next(iter(fault)), None)):
            raise TypeError(f"{', '.join(fault) or 'nothing'}: name one fault, such as reset_after=True")
        (value,) = fault.values()
        more = {} if acted is None else {"acted": acted}
        made = cast("Fault", make(**more) if value is True else make(value, **more))
        rule = FaultRule(fault=made, on=on, numbers=numbers, chance=chance)
        plan = self.simulator.faults
        self.simulator.faults = evolve(plan, rules=(rule, *plan.rules))

    def serve(self, *, host: str = "127.0.0.1", port: int = 0) -> SimulatorServer:
        """Reach it over HTTP: `async with simulation.serve() as server: ... server.url`."""
        return SimulatorServer(self.simulator, host=host, port=port)
