"""`simulate`: a service to develop against, without a key and without cost."""

import signal
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import attrs
from cyclopts import Group, Parameter

from novita_async.cli._exits import Exit
from novita_async.cli._options import given, options_class, options_of
from novita_async.cli._output import Output, StandardError
from novita_async.errors import Flaw, InvalidRequest
from novita_async.testing.config import DEFAULT_API_KEY, SimulatorConfig
from novita_async.testing.server import SimulatorServer

_OPTIONS: Final = tuple(options_of(SimulatorConfig))
_NAMES: Final = {("api_keys",): "api-key", ("illegal_words",): "illegal-word", ("other_tasks",): "other-task"}

if TYPE_CHECKING:
    Service = Any
else:
    Service = options_class("Service", {Group("The service"): _OPTIONS}, _NAMES)


async def simulate(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    service: Annotated[Service | None, Parameter(name="*")] = None,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> Exit:
    """Serve a simulated Novita over HTTP, until Ctrl-C.

    The first line that is printed holds its URL: give it to any client as the base URL (`NOVITA_BASE_URL`),
    with an API key that the simulator knows. The simulator checks requests, queues, draws real pictures and
    counts quotas as the real service does.

    Args:
        host: Address to listen on.
        port: Port to listen on. 0 picks a free one.
        service: What kind of service it is.
        json: Print the first line as a JSON object.
    """
    config = _config(service)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with SimulatorServer(config, host=host, port=port) as server:
            Output(json).line(f"Novita simulator at {server.url}")
            Output(json).record(event="listening", url=server.url)
            if DEFAULT_API_KEY in config.api_keys:  # others are for those to know who gave them
                StandardError().note(f"API key: {DEFAULT_API_KEY}")
            async for _ in signals:
                break
            ledger = server.ledger
            StandardError().note(
                f"{len(ledger.accepted)} submissions accepted, {len(ledger.refused)} refused"
            )
    return Exit.SUCCEEDED


def _config(service: Any) -> SimulatorConfig:
    """The configuration that was typed. Raises `InvalidRequest`, which names every fault."""
    config, faults = SimulatorConfig(), list[Flaw]()
    names = {option.place: option for option in _OPTIONS}
    for place, value in given(_OPTIONS, service).items():
        try:
            config = attrs.evolve(config, **{place[0]: value})
        except (ValueError, TypeError) as error:
            faults.append(Flaw(f"--{names[place].dotted}", str(error.args[0])))
    if faults:
        raise InvalidRequest(faults=tuple(faults))
    return config
