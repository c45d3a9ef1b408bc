"""A client and a simulated service in one process, for tests in virtual time."""

from contextlib import asynccontextmanager
from functools import cache

from novita_async import Img2Img, NovitaClient, Polling
from novita_async.events import Transition
from novita_async.testing import FaultPlan, Simulation, SimulatorConfig, sample_picture


@cache
def picture(name: int = 1, size: tuple[int, int] = (256, 256)) -> bytes:
    return sample_picture(name, size)


def request(**changes) -> Img2Img:
    fields = {"model_name": "model.safetensors", "image": picture(), "prompt": "a cute dog"}
    return Img2Img(**(fields | changes))


def requests(count: int, **changes):
    return request(**changes).sweep(seed=range(count))


def service(*, faults: FaultPlan | None = None, **config) -> Simulation:
    return Simulation.of(SimulatorConfig(**config), faults=faults)


@asynccontextmanager
async def client_of(simulation: Simulation, *, timeout: float = 120.0, **options):
    """A client of the service, and the list of events it emits."""
    events: list[object] = []
    transport = simulation.transport(timeout=timeout)
    if "accounts" not in options:
        options.setdefault("api_key", simulation.api_key)
    options.setdefault("polling", Polling.exponential())
    options.setdefault("base_url", transport.origin)
    async with NovitaClient(
        transport=transport, downloader=transport, observers=[events.append], **options
    ) as client:
        yield client, events


def of_kind(events, kind):
    return [event for event in events if isinstance(event, kind)]


def facts_of(events, kind):
    """The facts of this kind among transitions, in their order."""
    return [event.fact for event in of_kind(events, Transition) if isinstance(event.fact, kind)]
