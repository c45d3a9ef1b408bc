"""The first entrance: a `Transport` and `Downloader` between one process and the service.

The service acts when a request's last byte has been handed over. The sender's knowledge of each
POST is noted, to be compared with what the client says.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, NoReturn
from urllib.parse import unquote, urlsplit

import anyio
import anyio.lowlevel
from attrs import define, evolve, field

from novita_async._http import (
    BOUNDARY_LENGTH,
    Delivery,
    DeliveryFailed,
    Download,
    HTTPRequest,
    HTTPResponse,
)
from novita_async._transport.pictures import PictureIntake
from novita_async._util.values import frozen
from novita_async.models.accounts import ApiKey
from novita_async.testing.transport import text_of
from novita_async.testing.wire import Exchange, decode_query
from novita_async.testing.worlds import troubles
from novita_async.testing.worlds.asking import maker_in, number_in
from novita_async.testing.worlds.dice import fraction
from novita_async.testing.worlds.record import Post
from novita_async.testing.worlds.roles import Agent
from novita_async.testing.worlds.troubles import Fate

_LARGE: Final = 1024
"""Bytes of an answer from which on pictures may be in it."""
ORIGIN: Final = "http://127.0.0.1:8080"
"""Address that the service gives as its own."""
_BOUNDARY: Final = "b" * BOUNDARY_LENGTH
_BROKE_OFF: Final = "the answer broke off"
_CAUSES: Final = {"not sent": "connection refused", "silence": "connection reset before an answer"}


@frozen(kw_only=True)
class _File:
    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)
    cut: bool

    async def chunks(self) -> AsyncIterator[bytes]:
        await anyio.lowlevel.checkpoint()
        yield self.content[: len(self.content) // 2] if self.cut else self.content
        if self.cut:
            raise DeliveryFailed(Delivery.UNKNOWN, "the file broke off", status=self.status)


@define(eq=False, repr=False)
class WorldTransport:
    """Transport of a process's requests to the service of its world."""

    _process: Agent
    _intake: PictureIntake = field(factory=PictureIntake, init=False)

    def __repr__(self) -> str:
        return f"<WorldTransport of {self._process.name}>"

    async def send(
        self,
        request: HTTPRequest,
        api_key: ApiKey,
        /,
        *,
        on_handover: Callable[[], None] | None = None,
    ) -> HTTPResponse:
        """Exchange one request, as `Transport.send` says."""
        kind = "application/json" if request.parts is None else f"multipart/form-data; boundary={_BOUNDARY}"
        headers = {
            "authorization": f"Bearer {api_key.reveal()}",
            "accept": "application/json",
            "content-type": kind,
        }
        exchange = Exchange(
            method=request.method,
            path=request.path,
            query=dict(request.query),
            headers=headers,
            body=b"".join(text_of(request, _BOUNDARY)),
            origin=ORIGIN,
        )
        if request.method == "POST":
            return await self._submit(request, exchange, on_handover or (lambda: None))
        return await self._ask(exchange, troubles.TIMEOUT if request.timeout is None else request.timeout)

    async def _submit(
        self, request: HTTPRequest, exchange: Exchange, on_handover: Callable[[], None]
    ) -> HTTPResponse:
        process, service = self._process, self._process.world.service
        post = process.new_post(number_in(exchange.body))
        fate = service.fate_of_submission(post.number)
        process.say(f"POST {post.number} {fate.kind}")
        try:
            way = service.way_there(post.number)
            if way:  # else the connection is there, and takes all of it at once
                await anyio.sleep(way)
            if fate.end == "not sent":
                post.reach = "not sent"
                service.not_arrived(exchange)
                _refuse()
            if fate.early:
                post.reach = "not sent"
                return HTTPResponse(status=fate.status or 413, body=fate.body or b"", early=True)
            on_handover()
            process.hand_over(post)
            response, after = service.receive_submission(exchange, fate, post)
            timeout = max(request.timeout or 0.0, troubles.TIMEOUT)
            await anyio.sleep(service.way_back(post.number) + min(after, timeout))
            if fate.end == "silence" or after >= timeout:
                post.reach = "unknown"
                raise DeliveryFailed(Delivery.UNKNOWN, _CAUSES["silence"])  # noqa: TRY301 - told below, as all
            return await self._answered(request, post, response, fate)
        except BaseException as error:
            process.broken_off(post, error)
            raise
        finally:
            process.say(f"POST {post.number} ends: {post.reach} {post.told}")
            process.mark("answer")

    async def _answered(
        self, request: HTTPRequest, post: Post, response: HTTPResponse, fate: Fate
    ) -> HTTPResponse:
        post.status = response.status
        if fate.end != "cut":
            judge(post, response, fate, self._process.world.now)
            return await self._intake.read(request, response)
        end = cut_at(response, post.number)
        try:
            read = await self._intake.read(request, evolve(response, body=response.body[:end]), _BROKE_OFF)
        except DeliveryFailed:
            post.reach = "unknown"
            raise
        judge(post, response, fate, self._process.world.now)
        return read

    async def _ask(self, exchange: Exchange, timeout: float) -> HTTPResponse:  # noqa: ASYNC109
        process, service = self._process, self._process.world.service
        task_id = exchange.query.get("task_id", "")
        process.mark("poll")
        fate = service.fate_of_poll(task_id)
        await anyio.sleep(service.way_there(task_id))
        if fate.end == "not sent":
            process.say(f"poll {service.number_of(task_id)} {fate.kind}")
            raise DeliveryFailed(Delivery.NOT_SENT, _CAUSES["not sent"])
        response = service.answer(exchange, fate)
        await anyio.sleep(service.way_back(task_id) + min(fate.after, timeout))
        what = f"poll {service.number_of(task_id)}" if task_id else "question"
        process.say(f"{what} {fate.kind or response.status}")
        if fate.end == "silence" or fate.after > timeout:
            raise DeliveryFailed(Delivery.UNKNOWN, _CAUSES["silence"])
        if fate.end == "cut":
            raise DeliveryFailed(Delivery.UNKNOWN, "the answer broke off", status=response.status)
        return response

    @asynccontextmanager
    async def open(self, url: str, /) -> AsyncGenerator[Download]:
        """Ask for one file, as `Downloader.open` says."""
        process, service = self._process, self._process.world.service
        parts = urlsplit(url)
        path = unquote(parts.path)
        fate = service.fate_of_file(path)
        await anyio.sleep(service.way_there(path))
        if fate.end == "not sent":
            process.say(f"GET {service.shown(path)} {fate.kind}")
            raise DeliveryFailed(Delivery.NOT_SENT, _CAUSES["not sent"])
        exchange = Exchange(method="GET", path=path, query=decode_query(parts.query), origin=ORIGIN)
        response = service.answer(exchange, fate)
        await anyio.sleep(service.way_back(path) + fate.after)
        process.say(f"GET {service.shown(path)} {fate.kind or response.status}")
        if fate.end == "silence":
            raise DeliveryFailed(Delivery.UNKNOWN, "nothing came")
        headers = {**response.headers, "content-length": str(len(response.body))}
        yield _File(status=response.status, headers=headers, content=response.body, cut=fate.end == "cut")

    async def aclose(self) -> None:
        """Remove the pictures that came in answers and got no place. Nothing else is open."""
        await self._intake.aclose()


def _refuse() -> NoReturn:
    raise DeliveryFailed(Delivery.NOT_SENT, _CAUSES["not sent"])


def cut_at(response: HTTPResponse, number: int) -> int:
    """Where an answer breaks off: in its middle, or somewhere in the pictures that it holds."""
    size = len(response.body)
    return size // 2 if size < _LARGE else int(size * fraction("cut", number))


def judge(post: Post, response: HTTPResponse, fate: Fate, now: float) -> None:
    """Note what the sender of a POST can know from its answer."""
    post.answered_at = now
    post.page = fate.page
    body = response.body
    post.told = (task_id_in(body) or maker_in(body)) if response.status < 400 else ""
    if post.told:
        post.reach = "accepted"
    elif fate.kind in ("no task", "busy", "limited", "outage of limits") or (
        not fate.kind and response.status >= 400
    ):
        post.reach = "refused"
    else:
        post.reach = "unknown"


def task_id_in(body: bytes) -> str:
    """Return the id of the task that an answer or an event names; empty where there is none."""
    start = body.find(b'"task_id"')
    if start < 0:
        return ""
    rest = body[start + 9 :].lstrip(b" :")
    return rest[1 : rest.find(b'"', 1)].decode() if rest.startswith(b'"') else ""
