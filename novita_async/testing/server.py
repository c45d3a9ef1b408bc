"""The simulator as an HTTP server, for clients of any kind and language.

Faults happen on the real socket. The client learns of such an end as its operating system likes: a reset
drops what was on its way, and a body that is smaller than the socket's buffers may have been handed over
whole before the reset arrives. That is why a client may rightly take a `reset_before` of a short request
for one of unknown end. `refuse` resets the connection as soon as the request line was read;
`SimulatorServer.refusing` closes the listening socket, so that connections are refused in truth.
"""

import asyncio
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Final, Self, assert_never

import aiohttp
import anyio
import anyio.to_thread
from aiohttp import web
from attrs import define, field

from novita_async._util.values import frozen
from novita_async.testing._pump import pump
from novita_async.testing.config import SimulatorConfig
from novita_async.testing.core import Simulator, Visit
from novita_async.testing.faults import Fault, FaultKind, FaultPlan
from novita_async.testing.ledger import Ledger
from novita_async.testing.mailbox import WebhookCall
from novita_async.testing.wire import Exchange, Reply, text_reply

_LINGER_NOT: Final = struct.pack("ii", 1, 0)
_STALL_CHECK: Final = 0.05
_PAINTERS: Final = 2
_BUFFER: Final = 64 * 1024


class _BrokenOffError(Exception):
    """The connection was cut on purpose; there is no answer."""


def _reset(request: web.BaseRequest) -> None:
    """Cut the connection so that the other side sees a reset, not an end."""
    transport = request.transport
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    transport.abort()


@frozen(kw_only=True)
class ServerStatistics:
    """The server at a moment."""

    requests: int
    """Requests that have begun."""
    open: int
    """Requests that are not answered yet."""
    broken: int
    """Connections that were cut on purpose."""


@define(eq=False)
class SimulatorServer:
    """A simulator behind a real socket: `async with SimulatorServer(config) as server: server.url`.

    Args:
        config: the kind of service; or a `Simulator` that exists already.
        host: address to listen on.
        port: 0 picks a free one.
        faults: the exchanges that go wrong. Not with a `Simulator`, which has its own.
        receive_buffer: size of the sockets' receive buffers in bytes. A small one makes a client feel
            early that its body is not read, as over a slow line.
    """

    _config: SimulatorConfig | Simulator = field(factory=SimulatorConfig, alias="config")
    host: str = field(default="127.0.0.1", kw_only=True)
    port: int = field(default=0, kw_only=True)
    faults: FaultPlan | None = field(default=None, kw_only=True)
    receive_buffer: int | None = field(default=None, kw_only=True)
    _simulator: Simulator | None = field(default=None, init=False)
    _stack: AsyncExitStack = field(factory=AsyncExitStack, init=False)
    _runner: web.AppRunner | None = field(default=None, init=False)
    _site: web.SockSite | None = field(default=None, init=False)
    _http: aiohttp.ClientSession | None = field(default=None, init=False)
    _painters: anyio.CapacityLimiter | None = field(default=None, init=False)
    _closing: bool = field(default=False, init=False)
    _requests: int = field(default=0, init=False)
    _open: int = field(default=0, init=False)
    _broken: int = field(default=0, init=False)

    # --- life

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._simulator = self._make_simulator()
            if self._simulator.config.epoch is None:
                self._simulator.epoch = time.time() - self.now()
            self._painters = anyio.CapacityLimiter(_PAINTERS)
            self._http = await stack.enter_async_context(aiohttp.ClientSession())
            await self._start(stack)
            group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(group.cancel_scope.cancel)
            group.start_soon(pump, self.simulator, self.now, self._deliver)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        await self._stack.aclose()

    def _make_simulator(self) -> Simulator:
        if isinstance(self._config, Simulator):
            return self._config
        return Simulator(self._config) if self.faults is None else Simulator(self._config, faults=self.faults)

    async def _start(self, stack: AsyncExitStack) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        # Requests may stall on purpose: they end when they see `_closing`, the grace is for what is left.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handle_signals=False)
        await self._runner.setup()
        stack.push_async_callback(self._runner.cleanup)
        await self._listen()

    async def _listen(self) -> None:
        assert self._runner is not None  # noqa: S101 set by _start
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        try:
            sock.bind((self.host, self.port))
        except BaseException:
            sock.close()
            raise
        self.port = sock.getsockname()[1]
        self._site = web.SockSite(self._runner, sock)
        await self._site.start()

    @asynccontextmanager
    async def refusing(self) -> AsyncGenerator[None]:
        """Refuse new connections for the length of the block. Those that are open stay."""
        assert self._site is not None  # noqa: S101 the server runs
        await self._site.stop()
        try:
            yield
        finally:
            await self._listen()

    # --- what users read

    @property
    def url(self) -> str:
        """The base URL for clients."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def simulator(self) -> Simulator:
        """The service behind the socket."""
        if self._simulator is None:
            raise RuntimeError("the server is not running: use it with 'async with'")
        return self._simulator

    @property
    def ledger(self) -> Ledger:
        """Everything accepted and billed, by request."""
        return self.simulator.ledger

    def now(self) -> float:
        """The service's time."""
        loop = asyncio.get_running_loop()
        return self.simulator.on_clock(loop, loop.time())

    def statistics(self) -> ServerStatistics:
        return ServerStatistics(requests=self._requests, open=self._open, broken=self._broken)

    def __repr__(self) -> str:
        return (
            f"<SimulatorServer {self.url}: {self._requests} requests, {self._open} open, {self._broken} cut>"
        )

    # --- one exchange

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._requests += 1
        self._open += 1
        visit = self.simulator.begin(request.method, request.path)
        try:
            return await self._exchange(request, visit)
        except _BrokenOffError:
            self._broken += 1
            return web.Response()
        except ConnectionError:  # the client hung up
            return web.Response()
        finally:
            self._open -= 1

    async def _exchange(self, request: web.Request, visit: Visit) -> web.StreamResponse:
        body = await self._receive_body(request, visit)
        if body is None:
            return await self._answer(request, text_reply(413, "request entity too large"), None)
        await anyio.sleep(self.simulator.latency("there", visit.kind.value, visit.number))
        reply = self.simulator.receive(_exchange(request, body), self.now(), visit)
        await anyio.sleep(reply.delay)
        await anyio.sleep(self.simulator.latency("back", visit.kind.value, visit.number))
        if visit.fault is not None:
            await self._enact(visit.fault, request)
        return await self._answer(request, reply, visit.fault)

    async def _enact(self, fault: Fault, request: web.Request) -> None:
        """Let a fault happen between a whole request and its answer."""
        match fault.kind:
            case FaultKind.RESET_AFTER:
                self._cut(request)
            case FaultKind.STALL:
                while not (  # noqa: ASYNC110 aiohttp tells nobody
                    self._closing or request.transport is None or request.transport.is_closing()
                ):
                    await anyio.sleep(_STALL_CHECK)
                self._cut(request)
            case FaultKind.SLOW:
                await anyio.sleep(fault.seconds)
            case FaultKind.REFUSE | FaultKind.RESET_BEFORE | FaultKind.RESET_DURING:  # while it came
                pass
            case FaultKind.GARBAGE | FaultKind.ANSWER | FaultKind.TRUNCATE:  # in the answer
                pass
            case FaultKind.LOSE_WEBHOOK | FaultKind.DUPLICATE_WEBHOOK:
                pass
            case _:
                assert_never(fault.kind)

    async def _receive_body(self, request: web.Request, visit: Visit) -> bytes | None:
        """Read the body, or as much as the fault lets through; None where it is too large."""
        fault = visit.fault if visit.fault is not None and not visit.fault.whole_request else None
        allowed = self.simulator.config.max_body_bytes
        try:
            body = await _read(request, allowed + 1 if fault is None else fault.at)
        except ConnectionError:
            self.simulator.broken(visit, request.path, self.now())
            raise
        if fault is not None:
            self.simulator.broken(visit, request.path, self.now())
            self._cut(request)
        return body if len(body) <= allowed else None

    def _cut(self, request: web.Request) -> None:
        _reset(request)
        raise _BrokenOffError

    async def _answer(self, request: web.Request, reply: Reply, fault: Fault | None) -> web.StreamResponse:
        content = reply.body
        if reply.painting is not None or reply.compose is not None:
            content = await anyio.to_thread.run_sync(reply.content, limiter=self._painters)
        response = web.StreamResponse(status=reply.status, headers=reply.all_headers())
        response.content_length = len(content)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        if fault is not None and fault.kind is FaultKind.TRUNCATE:
            await response.write(content[: fault.at])
            self._close(request)
        await response.write(content)
        await response.write_eof()
        return response

    def _close(self, request: web.Request) -> None:
        if request.transport is not None:
            request.transport.close()
        raise _BrokenOffError

    async def _deliver(self, call: WebhookCall) -> bool:
        assert self._http is not None  # noqa: S101 the server runs
        headers = {"Content-Type": "application/json"}
        async with self._http.post(
            call.url, data=call.body, headers=headers, allow_redirects=False
        ) as answer:
            return 200 <= answer.status < 300  # noqa: PLR2004


async def _read(request: web.Request, limit: int) -> bytes:
    """Read the body up to so many bytes."""
    body = bytearray()
    while len(body) < limit:
        chunk = await request.content.read(min(_BUFFER, limit - len(body)))
        if not chunk:
            break
        body += chunk
    return bytes(body)


def _exchange(request: web.Request, body: bytes) -> Exchange:
    return Exchange(
        method=request.method,
        path=request.path,
        query=dict(request.query),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=body,
        origin=f"{request.scheme}://{request.host}",
    )


@contextmanager
def _ending_signals() -> Generator[Callable[[], Awaitable[None]]]:
    """Wait for SIGINT or SIGTERM, where the platform lets a loop have signals."""
    if sys.platform == "win32":
        yield anyio.sleep_forever
        return
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

        async def first() -> None:
            await anext(aiter(signals))

        yield first


async def serve(
    config: SimulatorConfig, *, host: str = "127.0.0.1", port: int = 0, faults: FaultPlan | None = None
) -> None:
    """Serve until SIGINT or SIGTERM. The first line that is printed holds the URL."""
    with _ending_signals() as ended:
        async with SimulatorServer(config, host=host, port=port, faults=faults) as server:
            print(f"Novita simulator at {server.url}", flush=True)  # noqa: T201 the address is the output
            await ended()


def run_server(
    config: SimulatorConfig | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    faults: FaultPlan | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, as a whole program. The first line that is printed holds the URL."""
    with suppress(KeyboardInterrupt):
        anyio.run(partial(serve, config or SimulatorConfig(), host=host, port=port, faults=faults))
