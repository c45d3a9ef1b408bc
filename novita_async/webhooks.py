"""Receivers of webhook events, for your own web app.

The service can call back when a task has ended. Its events are not signed, so an event is only a hint: it
makes the client poll now, and the API's answer is what counts. Lost events cost nothing but a later poll;
forged ones cost a few polls a second at most. Needed: a URL that the service can reach, and a route
behind it.

```python
from aiohttp import web
from novita_async import NovitaClient
from novita_async.webhooks import aiohttp_receiver

client = NovitaClient(api_key="…", webhook_url="https://me.example/novita")
app = web.Application()
app.router.add_post("/novita/{token}", aiohttp_receiver(client.webhook_waker()))
```

In Starlette, FastAPI and other ASGI apps: `app.mount("/novita", asgi_receiver(client.webhook_waker()))`. In
any other web app: hand each event to the waker, `waker(body, token)`, in whatever thread, and answer 2xx.

* Each purchase has a callback URL of its own: the `webhook_url`, a slash and a token that nobody can guess.
  Requests that bring their own `extra.webhook`, and `AnyTask`s, are sent as they are.
* Where the answer to a purchase was lost, its event tells the task's id. A stream and `client.run` wait for
  that up to `recovery_timeout` seconds (`run` no longer than its `timeout`) before the purchase is uncertain.
  `client.submit` raises at once, as it promises to come back at once. An event that comes later still finds
  the task: it is then in `client.unfinished`, and observers get a `Transition` whose fact is `Bought`.
* Once events are seen to come, tasks are left to them, with a few late polls as a safety net. When events get
  lost, tasks are polled as ever.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from attrs import field

from novita_async._http import MIB
from novita_async._submit.callbacks import Callbacks, WebhookStatistics
from novita_async._util.values import frozen

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["MOST_BYTES", "Waker", "WebhookStatistics", "aiohttp_receiver", "asgi_receiver"]

MOST_BYTES: Final = MIB
"""Bytes of an event above which it is refused with 413."""

_TAKEN: Final = 204
_BROKEN: Final = 400
_NOT_ALLOWED: Final = 405
_TOO_LARGE: Final = 413

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Wake(Protocol):
    """Taker of events: receivers call it."""

    def __call__(self, body: bytes, token: str | None = None, /) -> None: ...


@frozen
class Waker:
    """Takes in webhook events for one client. Made by `client.webhook_waker()`."""

    _callbacks: Callbacks = field(repr=False)

    def __call__(self, body: bytes, token: str | None = None, /) -> None:
        """Take in one event: poll its task now, if there is reason to.

        Returns at once, never raises, and may be called in any thread.

        Args:
            body: The event as it came, whoever sent it.
            token: The last part of the URL's path. None: the URL has no token.
        """
        known = isinstance(cast("object", token), str | None)
        if known and isinstance(cast("object", body), bytes | bytearray | memoryview):
            self._callbacks.take_in(bytes(body), token)


def aiohttp_receiver(waker: Wake) -> "Callable[[web.Request], Awaitable[web.Response]]":
    """Make a handler for aiohttp.web, to be added as `app.router.add_post("/novita/{token}", handler)`."""
    from aiohttp import web  # noqa: PLC0415 - only who uses aiohttp needs it here

    async def receive(request: web.Request) -> web.Response:
        if request.method != "POST":
            return web.Response(status=_NOT_ALLOWED, headers={"Allow": "POST"})
        body = bytearray()
        try:
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > MOST_BYTES:
                    return web.Response(status=_TOO_LARGE)
        except Exception:  # noqa: BLE001 - a stranger's broken body must not become a traceback
            return web.Response(status=_BROKEN)
        waker(bytes(body), request.match_info.get("token"))
        return web.Response(status=_TAKEN)

    return receive


def asgi_receiver(waker: Wake) -> ASGIApp:
    """Make an ASGI app to be mounted; the last part of the path is the token."""

    async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "http":
            status = await _status(waker, scope, receive)
            if status is not None:
                await _answer(send, status)

    return app


async def _status(waker: Wake, scope: MutableMapping[str, Any], receive: Receive) -> int | None:
    """Take in an event. None: its sender has hung up."""
    if scope["method"] != "POST":
        return _NOT_ALLOWED
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            return _TOO_LARGE
        more = message.get("more_body", False)
    waker(bytes(body), _token(scope))
    return _TAKEN


def _token(scope: MutableMapping[str, Any]) -> str | None:
    """The last part of the path below where the app is mounted."""
    path, root = str(scope.get("path", "")), str(scope.get("root_path", ""))
    return path.removeprefix(root).rpartition("/")[2] or None


async def _answer(send: Send, status: int) -> None:
    headers = [(b"allow", b"POST")] if status == _NOT_ALLOWED else []
    if status != _TAKEN:
        headers.append((b"content-length", b"0"))
    try:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
    except OSError:  # the sender has hung up
        return


async def _live(receive: Receive, send: Send) -> None:
    """Start and stop with a server that runs this as its only app."""
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})
