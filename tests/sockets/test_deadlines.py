"""Deadlines of requests, kept on either path."""

import asyncio
import socket

import aiohttp
import pytest
from attrs import evolve

from novita_async import Img2Img, NoAnswer, NovitaClient, RetryPolicy
from novita_async._api import protocol
from novita_async._http import Delivery
from novita_async._transport.transport import AiohttpTransport
from novita_async.models.endpoints import Endpoints
from novita_async.models.routes import TASK_TIMEOUT
from tests.helpers.exchanges import GET, HUGE, KEY, NOT_SENT, POST, UNKNOWN, exchange, picture_request
from tests.helpers.service import picture
from tests.helpers.wire import OK, answer, serve, settled

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]

SOON = 0.4
BEGINNING = answer(200, b"x" * 100)[:-50]


@pytest.fixture(params=["its own session", "the user's session"])
async def session(request):
    if request.param == "its own session":
        yield None
    else:
        async with aiohttp.ClientSession() as session:
            yield session


@pytest.mark.parametrize("beginning", [b"", BEGINNING])
@pytest.mark.parametrize("request_", [GET, POST, picture_request()])
async def test_an_answer_must_be_whole_by_the_deadline(session, request_, beginning):
    async def script(peer):
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(beginning)
        await peer.rest()

    async with serve(script) as wire, asyncio.timeout(20):
        transport = AiohttpTransport(wire.url, session=session)
        await exchange(transport)  # the connection is there
        sent = await exchange(transport, evolve(request_, timeout=SOON))
        await transport.aclose()
    assert sent.delivery is UNKNOWN
    assert sent.error.cause == "no whole answer within 0.4 s"
    assert sent.error.passes
    assert sent.error.status == (200 if beginning else None)


async def test_a_deadline_may_be_later_than_the_transport_would_wait(session):
    async def script(peer):
        while await peer.request():
            await asyncio.sleep(0.3)
            await peer.send(OK)

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url, session=session, answer_timeout=0.1)
        sent = [await exchange(transport, evolve(x, timeout=10.0)) for x in (POST, picture_request())]
        await transport.aclose()
    assert [one.delivery for one in sent] == [Delivery.ANSWERED] * 2


async def test_a_body_must_get_on_by_the_deadline(session):
    async with serve(lambda _: asyncio.sleep(60)) as wire, asyncio.timeout(10):
        transport = AiohttpTransport(wire.url, session=session)
        sent = await exchange(transport, evolve(HUGE, timeout=SOON))
        await transport.aclose()
        assert not wire.peers[0].whole
    assert (sent.delivery, sent.handovers) == (NOT_SENT, 0)
    assert sent.error.cause == "the upload made no progress for 0.4 s"


@pytest.mark.parametrize(("request_", "delivery"), [(GET, UNKNOWN), (POST, NOT_SENT), (HUGE, NOT_SENT)])
async def test_a_connection_must_come_about_by_the_deadline(request_, delivery):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        transport = AiohttpTransport(f"https://127.0.0.1:{full.getsockname()[1]}")
        async with asyncio.timeout(10):
            sent = await exchange(transport, evolve(request_, timeout=SOON))
        await transport.aclose()
    assert (sent.delivery, sent.handovers) == (delivery, 0)
    assert "within 0.4 s" in sent.error.cause


async def test_purchases_and_questions_have_deadlines():
    request = Img2Img(model_name="m", image=picture(), prompt="a dog", width=128, height=128)
    endpoints = Endpoints()
    assert protocol.submission(request, endpoints).timeout == TASK_TIMEOUT
    questions = [
        protocol.poll("t", endpoints),
        protocol.balance(endpoints),
        protocol.models({}, None, 10, endpoints),
    ]
    assert {one.timeout for one in questions} == {protocol.QUESTION_TIMEOUT}


async def test_a_question_without_an_answer_says_for_how_long_it_was_waited_for(monkeypatch, session):
    monkeypatch.setattr(protocol, "QUESTION_TIMEOUT", SOON)
    async with serve(lambda peer: peer.rest()) as wire:
        retry = RetryPolicy(attempts=1)
        async with NovitaClient("a-key", base_url=wire.url, session=session, retry=retry) as client:
            with pytest.raises(NoAnswer, match=r"no answer: no whole answer within 0\.4 s"):
                await client.balance()


async def test_the_watchdog_goes_round_as_often_as_the_shortest_deadline_needs_and_no_oftener_afterwards():
    async with serve(lambda peer: peer.rest()) as wire:
        transport = AiohttpTransport(wire.url)
        long = asyncio.create_task(transport.send(POST, KEY))
        await settled(lambda: len(wire.peers) == 1)
        async with asyncio.timeout(20):
            assert (await exchange(transport, evolve(POST, timeout=SOON))).delivery is UNKNOWN
            assert (await exchange(transport, evolve(POST, timeout=1e-9))).delivery is not Delivery.ANSWERED
            assert transport._watchdog._tick == 0.002
            await settled(lambda: transport._watchdog._tick == transport._watchdog.longest)
        long.cancel()
        await asyncio.wait({long})
        await transport.aclose()
