"""Answers to something else, and long heads."""

import asyncio

import aiohttp
import pytest

from novita_async import NovitaClient, Txt2Img
from novita_async._http import Delivery, HTTPRequest
from novita_async._transport import slow_path as _slow_path
from novita_async._transport.downloads import AiohttpDownloader
from novita_async._transport.transport import AiohttpTransport
from novita_async._transport.whole_answers import WholeAnswers
from tests.helpers.exchanges import GET, NOT_SENT, POST, exchange, exchange_once, picture_request
from tests.helpers.wire import ANSWER, OK, answer, serve

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]

STRAY = answer(200, b'{"task_id":"SOMEBODY-ELSES"}')
REQUESTS = [GET, POST, picture_request()]


@pytest.fixture(params=["its own session", "the user's session"])
async def session(request):
    if request.param == "its own session":
        yield None
    else:
        async with aiohttp.ClientSession() as session:
            yield session


# --- Answers to something else ------------------------------------------------------------------------------


def once_then_right(more):
    """A server whose first answer is followed by something that nobody asked for, and when that was sent."""
    sent = asyncio.Event()

    async def script(peer):
        while await peer.request():
            if sent.is_set():
                await peer.send(OK)
            else:
                await more(peer)
                sent.set()

    return script, sent


async def at_once(peer):
    await peer.send(OK + STRAY)


async def right_behind(peer):
    await peer.send(OK)
    await asyncio.sleep(0)
    await peer.send(STRAY)


async def later(peer):
    await peer.send(OK)
    await asyncio.sleep(0.02)
    await peer.send(STRAY)


async def twice(peer):
    await peer.send(OK)
    await asyncio.sleep(0.02)
    await peer.send(STRAY + STRAY)


async def no_answer_at_all(peer):
    await peer.send(OK)
    await asyncio.sleep(0.02)
    await peer.send(b"nonsense")


@pytest.mark.parametrize("more", [at_once, right_behind, later, twice, no_answer_at_all])
@pytest.mark.parametrize("second", REQUESTS)
@pytest.mark.parametrize("first", REQUESTS)
async def test_an_answer_too_many_is_nobody_s_and_its_connection_is_dropped(session, first, second, more):
    script, unasked = once_then_right(more)
    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url, session=session)
        before = await exchange(transport, first)
        await unasked.wait()
        await asyncio.sleep(0.02)
        sent = await exchange(transport, second)
        assert transport.statistics().not_sent == 0
        await transport.aclose()
        assert len(wire.peers) > 1, "that connection is not used again; busy machines try two families"
    assert before.response.body == sent.response.body == ANSWER
    assert sent.handovers == (second.method == "POST")


# --- Junk behind an answer ----------------------------------------------------------------------------------

JUNK = [b"junk", b"\x00\x01", b"HTTP/1.1 what", b"0\r\n\r\n"]
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (
    len(ANSWER),
    ANSWER,
)


async def answered_with(*pieces, session=None):
    """Send two purchases to a server that answers the first one with these pieces of bytes."""

    async def script(peer):
        while await peer.request():
            for piece in pieces if peer is wire.peers[0] else (OK,):
                await peer.send(piece)
                await asyncio.sleep(0.01)

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url, session=session)
        first, second = await exchange(transport), await exchange(transport)
        await transport.aclose()
        return first, second, len(wire.peers)


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("whole", [OK, CHUNKED, HINTS + OK])
async def test_a_whole_answer_counts_whatever_comes_behind_it_and_its_connection_is_dropped(
    session, whole, junk
):
    first, second, connections = await answered_with(whole + junk, session=session)
    assert first.response.body == second.response.body == ANSWER
    assert connections == 2


@pytest.mark.parametrize("cut", [5, 30, len(OK) - 3])
@pytest.mark.parametrize("together", [True, False])
async def test_an_answer_in_pieces_counts_too(session, cut, together):
    """Also where its beginning comes together with an interim answer."""
    begin = [HINTS + OK[:cut]] if together else [HINTS, OK[:cut]]
    first, second, _ = await answered_with(*begin, OK[cut:] + b"junk", session=session)
    assert first.response.body == second.response.body == ANSWER


@pytest.mark.parametrize(
    "broken",
    [b"junk" + OK, OK[:-3] + b"\x00", b"HTTP/1.1 200 OK\r\nBad Header\x01: \x00\r\n\r\n", HINTS + b"junk"],
)
async def test_what_is_no_whole_answer_leaves_a_purchase_uncertain(session, broken):
    async def script(peer):
        if await peer.request():
            await peer.send(broken)
            peer.close()

    async with serve(script) as wire:
        sent = await exchange_once(wire.url, session=session)
    assert sent.response is None or sent.response.body != ANSWER
    assert sent.handovers == 1


async def test_without_the_parser_of_aiohttp_junk_costs_the_answer_and_nothing_else(monkeypatch):
    monkeypatch.setattr(WholeAnswers, "expect_on", lambda *_: None)
    first, second, _ = await answered_with(OK + b"junk")
    assert (first.delivery, second.delivery) == (Delivery.UNKNOWN, Delivery.ANSWERED)


def test_a_connection_of_an_unknown_kind_is_left_as_it_is():
    WholeAnswers.expect_on(None)


async def test_a_task_of_somebody_else_s_is_never_taken_over(session):
    async def script(peer):
        for count in range(100):
            if not await peer.request():
                break
            await peer.send(answer(200, b'{"task_id":"t-%d"}' % (len(wire.peers) * 100 + count)) + STRAY)

    small = Txt2Img(model_name="m", prompt="a dog", width=128, height=128)
    async with serve(script) as wire:
        async with NovitaClient("a-key", base_url=wire.url, session=session) as client:
            tasks = [await client.submit(small) for _ in range(6)]
    assert [task.task_id for task in tasks] == [f"t-{100 * n}" for n in range(1, 7)]


async def test_an_early_success_buys_nothing(session):
    async def script(peer):
        if len(wire.peers) == 1:
            await peer.read(500)
            await peer.send(STRAY)
            await peer.rest()
        elif await peer.request():
            await peer.send(answer(200, b'{"task_id":"mine"}'))
            await peer.rest()

    large = Txt2Img(
        model_name="m", prompt="a dog", width=128, height=128, extra_fields={"pad": "x" * 8_000_000}
    )
    async with serve(script) as wire:
        async with NovitaClient("a-key", base_url=wire.url, session=session) as client:
            assert (await client.submit(large)).task_id == "mine"
        assert [peer.whole for peer in wire.peers] == [False, True]


@pytest.mark.parametrize("request_", REQUESTS)
async def test_a_host_that_answers_unasked_on_and_on_is_given_up(monkeypatch, request_):
    monkeypatch.setattr(_slow_path, "_MOST_UNASKED", 1)
    script, unasked = once_then_right(later)
    async with serve(script) as wire, aiohttp.ClientSession() as session:
        transport = AiohttpTransport(wire.url, session=session)
        await exchange(transport)
        await unasked.wait()
        await asyncio.sleep(0.02)
        monkeypatch.setattr(_slow_path.SlowExchange, "_refuse_stale", lambda *_: None)
        monkeypatch.setattr(_slow_path, "has_news", lambda _: True)  # as if the words were just coming
        sent = await exchange(transport, request_)
    assert (sent.delivery, sent.handovers) == (NOT_SENT, 0)
    assert sent.error.cause == "answered 200 before anything was asked"


async def test_a_purchase_without_a_body_is_handed_over_once_in_a_session_of_the_user_s():
    async with serve(once_then_right(at_once)[0]) as wire, aiohttp.ClientSession() as session:
        sent = await exchange_once(wire.url, HTTPRequest(method="POST", path="/v3/x"), session=session)
    assert (sent.response.status, sent.handovers) == (200, 1)


# --- Long heads ---------------------------------------------------------------------------------------------

LONG = b"Content-Security-Policy: " + b"a" * 65_536
MANY = [b"X-%d: %d" % (n, n) for n in range(1000)]


@pytest.mark.parametrize("more", [[LONG], MANY], ids=["long", "many"])
@pytest.mark.parametrize("request_", REQUESTS)
async def test_64_kib_in_a_header_and_1000_headers_are_fine(session, request_, more):
    async def script(peer):
        await peer.request()
        await peer.send(answer(200, ANSWER, *more))
        await peer.rest()

    async with serve(script) as wire:
        sent = await exchange_once(wire.url, request_, session=session)
    assert sent.delivery is Delivery.ANSWERED
    assert sent.response.body == ANSWER
    assert len(sent.response.headers) == len(more) + 1


@pytest.mark.parametrize("more", [[LONG], MANY], ids=["long", "many"])
async def test_64_kib_in_a_header_and_1000_headers_are_fine_for_a_file(more):
    async def script(peer):
        await peer.request()
        await peer.send(answer(200, ANSWER, *more))
        await peer.rest()

    async with serve(script) as wire:
        downloader = AiohttpDownloader()
        async with downloader.open(wire.url) as download:
            assert b"".join([chunk async for chunk in download.chunks()]) == ANSWER
        await downloader.aclose()
