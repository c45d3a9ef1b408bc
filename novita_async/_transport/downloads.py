"""aiohttp's side of downloads: result URLs, never with a key, never with a cookie."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

import aiohttp
from attrs import define, field
from yarl import URL

from novita_async._http import Delivery, DeliveryFailed, NotAURLError
from novita_async._transport.connections import (
    USER_AGENT,
    LoopSessions,
    Proxies,
    explain,
    in_lower_case,
    new_session,
)
from novita_async._transport.fast_path import connector

_LEAST: Final = 64 * 1024
"""Bytes in a chunk, but the last: small ones cost a file write each."""
_REDIRECTS: Final = 4
_REDIRECT_STATUSES: Final = frozenset({301, 302, 303, 307, 308})


def _read_url(text: str, base: URL | None = None) -> URL:
    """Read a URL without touching its escapes, which a presigned one has signed."""
    with suppress(ValueError):  # yarl reads host and port when they are first looked at
        url = URL(text, encoded=True)
        url = base.join(url) if base else url
        if url.scheme in ("http", "https") and url.host and url.port:
            return url
    raise NotAURLError


def _next_hop(here: URL, response: aiohttp.ClientResponse) -> URL | None:
    location = response.headers.get("Location")
    if response.status not in _REDIRECT_STATUSES or not location:
        return None
    there = _read_url(location, here)
    if here.scheme == "https" and there.scheme == "http":
        raise DeliveryFailed(Delivery.ANSWERED, "redirected from https to http", status=response.status)
    return there


@define(eq=False, repr=False)
class AiohttpDownload:
    """A file on its way, as `Download` says."""

    _response: aiohttp.ClientResponse

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case. The length is left out where it is that of compressed bytes."""
        headers = in_lower_case(self._response.headers)
        if headers.get("content-encoding", "identity") != "identity":
            headers.pop("content-length", None)
        return headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Hand out the body. Raises `DeliveryFailed` when it is cut."""
        gathered: list[bytes] = []
        while piece := await self._read():
            gathered.append(piece)
            if sum(map(len, gathered)) >= _LEAST:
                yield b"".join(gathered)
                gathered.clear()
        if gathered:
            yield b"".join(gathered)

    async def _read(self) -> bytes:
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            cause = explain(error)
        raise DeliveryFailed(Delivery.UNKNOWN, cause.words, status=self.status)


@define(eq=False, repr=False)
class AiohttpDownloader:
    """Fetches result files, with a session that knows neither key nor cookie."""

    connect_timeout: float = field(default=30.0, kw_only=True)
    """Seconds for name, connection, TLS and proxy together."""
    read_timeout: float = field(default=60.0, kw_only=True)
    """Seconds in which something must arrive."""
    _session: aiohttp.ClientSession | None = field(init=False, default=None)
    _own: LoopSessions[None] = field(init=False, factory=LoopSessions[None])
    _proxies: Proxies = field(init=False, factory=Proxies)

    @asynccontextmanager
    async def open(self, url: str, /) -> AsyncGenerator[AiohttpDownload]:
        """Ask for one file; a few redirects are followed, but never from https to http."""
        response = await self._follow(_read_url(url))
        try:
            yield AiohttpDownload(response)
        finally:
            response.close()

    async def _follow(self, url: URL) -> aiohttp.ClientResponse:
        for _ in range(_REDIRECTS + 1):
            response = await self._get(url)
            try:
                hop = _next_hop(url, response)
            except DeliveryFailed:
                response.close()
                raise
            if hop is None:
                return response
            response.close()
            url = hop
        raise DeliveryFailed(Delivery.ANSWERED, "redirected too often")

    async def _get(self, url: URL) -> aiohttp.ClientResponse:
        if self._session is None or self._session.closed:
            self._session = new_session(
                connector(),
                {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": USER_AGENT},
                aiohttp.ClientTimeout(total=None, connect=self.connect_timeout, sock_read=self.read_timeout),
            )
            self._own.add(None, self._session)
        try:
            return await self._session.get(url, proxy=self._proxies.for_url(url), allow_redirects=False)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            cause = explain(error)
            failed = DeliveryFailed(cause.delivery, cause.words, passes=cause.passes)
        except ValueError:  # a host or a port that no name server and no socket could take
            failed = NotAURLError("not a URL")
        raise failed

    async def aclose(self) -> None:
        """Close the session."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        await self._own.aclose()

    def leave_loop(self) -> None:
        """Begin anew in another loop."""
        self._session = None
        self._own.leave_loop()
