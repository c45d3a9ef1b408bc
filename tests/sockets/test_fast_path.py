"""The fast path of small requests: what it writes, and what happens where aiohttp is not as it needs it."""

import asyncio
import warnings

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from novita_async import NovitaWarning
from novita_async._http import Delivery
from novita_async._transport import fast_path as _fast_path
from novita_async._transport.downloads import AiohttpDownloader
from novita_async._transport.transport import AiohttpTransport
from tests.helpers.exchanges import (
    GET,
    HUGE,
    KEY,
    POST,
    UNKNOWN,
    cut_at_every_byte,
    exchange,
    exchange_once,
    obey,
    picture_request,
)
from tests.helpers.wire import ANSWER, OK, answer, serve

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]


def close(peer):
    peer.close()


def reset(peer):
    peer.reset()


# --- As expected --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [close, reset])
async def test_a_small_request_is_handed_over_whole_wherever_it_is_cut(end):
    sent, _ = await cut_at_every_byte(end)
    assert [one.handovers for one in sent[1:]] == [1] * (len(sent) - 1)
    assert {one.delivery for one in sent[1:-1]} == {UNKNOWN}


async def test_a_question_is_asked_once_more_where_its_connection_breaks():
    async def script(peer):
        await peer.request()
        if len(wire.peers) == 2:
            await peer.send(OK)
        close(peer)

    async with serve(script) as wire:
        sent = await exchange_once(wire.url, GET)
    assert (sent.delivery, len(wire.peers)) == (Delivery.ANSWERED, 2)


async def test_a_question_is_not_asked_for_ever():
    async def script(peer):
        await peer.request()
        close(peer)

    async with serve(script) as wire:
        sent = await exchange_once(wire.url, GET)
    assert (sent.delivery, len(wire.peers)) == (UNKNOWN, 2)


async def test_small_requests_of_our_own_session_go_past_it(monkeypatch):
    monkeypatch.setattr(aiohttp.ClientSession, "_request", None)
    async with serve(obey) as wire:
        transport = AiohttpTransport(wire.url)
        assert [(await exchange(transport, x)).response.status for x in (POST, GET)] == [200, 200]
        await transport.aclose()


async def test_what_is_made_in_one_turn_of_the_loop_goes_out_together():
    order = []

    async def send(number):
        order.append("made")
        await transport.send(POST, KEY, on_handover=lambda: order.append(number))

    async with serve(obey) as wire:
        transport = AiohttpTransport(wire.url)
        await asyncio.gather(*[exchange(transport) for _ in range(3)])  # so that connections are at hand
        await asyncio.gather(*[send(number) for number in range(3)])
        await transport.aclose()
    assert order == ["made", "made", "made", 0, 1, 2]


async def test_headers_have_names_in_lower_case_whenever_somebody_looks():
    async def script(peer):
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nRetry-After: 7\r\n\r\n")
        await peer.rest()

    async with serve(script) as wire:
        headers = (await exchange_once(wire.url)).response.headers
    assert headers == {"content-length": "0", "retry-after": "7"}
    assert (headers.get("retry-after"), len(headers)) == ("7", 2)
    assert repr(headers) == repr(dict(headers))


# --- Not as expected ----------------------------------------------------------------------------------------


class MoreArguments(aiohttp.ClientRequest):
    """As in aiohttp's master of August 2026."""

    def __init__(self, method, url, *, skip_auto_headers, **others):
        super().__init__(method, url, skip_auto_headers=skip_auto_headers, **others)


class FewerLimits(ResponseHandler):
    def set_response_params(self, *, read_until_eof=False):
        super().set_response_params(read_until_eof=read_until_eof)


class OtherMessages(ResponseHandler):
    async def read(self):
        message, payload = await super().read()
        return message.code, message.headers, payload


class NoMemory(ResponseHandler):
    """A connection that does not tell that something came unasked."""

    should_close = False


class OtherConnection(Connection):
    release = None


def connect_by_name(self, *, req, traces, timeout):
    raise NotImplementedError


HIDDEN = {
    "a request needs more arguments": ("aiohttp.ClientRequest", MoreArguments),
    "no requests": ("aiohttp.ClientRequest", None),
    "no protocol": ("aiohttp.client_proto.ResponseHandler", None),
    "a head is limited in another way": ("aiohttp.client_proto.ResponseHandler", FewerLimits),
    "an answer is read in another way": ("aiohttp.client_proto.ResponseHandler", OtherMessages),
    "unasked answers are not seen": ("aiohttp.client_proto.ResponseHandler", NoMemory),
    "connections are given back in another way": ("aiohttp.connector.Connection", OtherConnection),
    "a connector is asked in another way": ("aiohttp.TCPConnector.connect", connect_by_name),
}
"""Each part of aiohttp that is relied on, and what stands there instead."""


@pytest.fixture
def unknown():
    """aiohttp was not looked at yet."""
    _fast_path.problem.cache_clear()
    _fast_path.check.cache_clear()
    yield
    _fast_path.problem.cache_clear()
    _fast_path.check.cache_clear()


@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize(("place", "other"), HIDDEN.values(), ids=HIDDEN)
async def test_another_aiohttp_is_told_once_and_everything_still_works(monkeypatch, place, other):
    async with serve(obey) as wire:
        with warnings.catch_warnings(record=True) as told, monkeypatch.context() as patch:
            warnings.simplefilter("always")
            if other is None:
                patch.delattr(place)
            else:
                patch.setattr(place, other)
            transports = [AiohttpTransport(wire.url), AiohttpTransport(wire.url)]
        for request in (POST, GET, picture_request(), HUGE, POST):
            for transport in transports:
                sent = await exchange(transport, request)
                assert (sent.response.status, sent.response.body) == (200, ANSWER)
                assert sent.handovers == (request.method == "POST")
                assert transport.detachable(request, KEY, on_handover=sent.hand_over) is None
        for transport in transports:
            await transport.aclose()
    (warning,) = told
    assert warning.category is NovitaWarning
    assert aiohttp.__version__ in str(warning.message)
    assert "slower and otherwise the same" in str(warning.message)
    assert len(wire.peers) == len(transports)


@pytest.fixture
def slow(monkeypatch, unknown):
    """An aiohttp without one of the parts."""
    monkeypatch.delattr("aiohttp.ClientRequest")
    with pytest.warns(NovitaWarning, match="no attribute"):
        _fast_path.check()


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("end", [close, reset])
async def test_without_the_fast_path_an_answer_cut_at_any_byte_is_unknown(end):
    cuts = iter(range(len(OK) + 1))

    async def script(peer):
        await peer.request()
        await peer.send(OK[: next(cuts)])
        end(peer)

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        sent = [await exchange(transport) for _ in range(len(OK) + 1)]
        await transport.aclose()
    assert [one.delivery for one in sent] == [UNKNOWN] * len(OK) + [Delivery.ANSWERED]
    assert all(peer.whole for peer in wire.peers)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("request_", [GET, POST])
async def test_without_the_fast_path_words_that_came_unasked_are_not_the_answer(request_):
    async with serve(obey) as wire:
        transport = AiohttpTransport(wire.url)
        await exchange(transport)
        await wire.peers[0].send(answer(408))
        await exchange(transport)
        sent = await exchange(transport, request_)
        await transport.aclose()
    assert sent.response.status == 200


@pytest.mark.usefixtures("slow")
async def test_without_the_fast_path_files_are_fetched():
    async with serve(obey) as wire:
        downloader = AiohttpDownloader()
        async with downloader.open(wire.url) as download:
            assert b"".join([chunk async for chunk in download.chunks()]) == ANSWER
        await downloader.aclose()
