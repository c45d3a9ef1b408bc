"""A service that is away for a while, in virtual time."""

from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager

import anyio
from attrs import define, field

from novita_async import Account, NovitaClient, Polling
from novita_async._http import Delivery, DeliveryFailed, HTTPRequest, HTTPResponse
from novita_async.models.accounts import ApiKey
from novita_async.testing import SimulatedTransport, Simulation

PAGE = HTTPResponse(
    status=503, headers={"content-type": "text/html"}, body=b"<html>503 Service Unavailable</html>"
)


@define(eq=False)
class Outage:
    """Carries requests to a simulated service, but for those that are sent while the service is away."""

    inner: SimulatedTransport
    begins: float
    ends: float
    answer: HTTPResponse | DeliveryFailed = PAGE
    """What comes instead of the service's answer."""
    methods: tuple[str, ...] = ("POST", "GET")
    keys: frozenset[str] = frozenset()
    """Keys for which the service is away. Empty: all."""
    met: Counter[str] = field(factory=Counter)
    """Requests in the outage, by method."""
    at_once: int = 0
    """Submissions that were under way in the outage before its first was answered."""
    _answered: bool = False

    def hits(self, request: HTTPRequest, api_key: ApiKey) -> bool:
        if self.keys and api_key.reveal() not in self.keys:
            return False
        return request.method in self.methods and self.begins <= anyio.current_time() < self.ends

    async def send(
        self,
        request: HTTPRequest,
        api_key: ApiKey,
        /,
        *,
        on_handover: Callable[[], None] | None = None,
    ) -> HTTPResponse:
        if not self.hits(request, api_key):
            return await self.inner.send(request, api_key, on_handover=on_handover)
        self.met[request.method] += 1
        if not self._answered:
            self.at_once += request.method == "POST"
        await anyio.sleep(0.05)
        if isinstance(self.answer, DeliveryFailed):
            if self.answer.delivery is not Delivery.NOT_SENT and on_handover is not None:
                on_handover()
            raise DeliveryFailed(self.answer.delivery, self.answer.cause, passes=self.answer.passes)
        if on_handover is not None and request.method == "POST":
            on_handover()
        await anyio.sleep(0.05)
        self._answered = self._answered or request.method == "POST"
        return self.answer

    async def aclose(self) -> None:
        await self.inner.aclose()


REFUSED = DeliveryFailed(Delivery.NOT_SENT, "the server cannot be reached (Connection refused)")
RESET = DeliveryFailed(Delivery.UNKNOWN, "the connection broke")


@asynccontextmanager
async def client_in(
    simulation: Simulation, begins: float, ends: float, *, outage: dict[str, object] | None = None, **options
):
    """A client of a service that is away for a while, its transport, and the list of events it emits."""
    events: list[object] = []
    carrier = simulation.transport(timeout=120.0)
    transport = Outage(carrier, begins, ends, **(outage or {}))
    if "accounts" not in options:
        options["accounts"] = [Account(api_key=simulation.api_key, label="mine")]
    options.setdefault("polling", Polling.exponential())
    async with NovitaClient(
        transport=transport, downloader=carrier, observers=[events.append], **options
    ) as client:
        yield client, transport, events
