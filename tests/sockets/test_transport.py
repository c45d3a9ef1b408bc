"""The wire, on real loopback sockets: what goes out, what comes back, and how far a failed exchange got."""

import asyncio
import base64
import gzip
import os
import socket
import traceback

import aiohttp
import pytest

from novita_async._http import Delivery, DeliveryFailed, HTTPRequest
from novita_async._transport import body as _body
from novita_async._transport import connections as _connections
from novita_async._transport import exchange as _exchange
from novita_async._transport import fast_path as _fast_path
from novita_async._transport import slow_path as _slow_path
from novita_async._transport import transport as _transport
from novita_async._transport.connections import Cause, Proxies
from novita_async._transport.transport import AiohttpTransport
from novita_async.errors import ConfigurationError, InvalidRequest
from novita_async.models.accounts import ApiKey
from novita_async.models.images import ImageSource
from tests.helpers.exchanges import (
    GET,
    HUGE,
    KEY,
    NOT_SENT,
    POST,
    UNKNOWN,
    Sent,
    answer_once,
    cut_at_every_byte,
    exchange,
    exchange_once,
    obey,
    picture_request,
)
from tests.helpers.wire import ANSWER, OK, answer, client_context, refusing_url, serve, settled

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]


# --- What goes out ------------------------------------------------------------------------------------------


def headers_of(peer):
    lines = peer.head.decode().split("\r\n")
    return lines[0], {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}


async def test_a_submission_has_few_headers_its_exact_length_and_its_body():
    async with serve(answer_once) as wire:
        request = picture_request()
        sent = await exchange_once(f"{wire.url}/prefix/", request)
    line, headers = headers_of(wire.peers[0])
    assert line == "POST /prefix/v3/async/img2img HTTP/1.1"
    assert headers == {
        "host": wire.url.removeprefix("http://"),
        "authorization": f"Bearer {KEY.reveal()}",
        "accept": "application/json",
        "accept-encoding": headers["accept-encoding"],
        "user-agent": _connections.USER_AGENT,
        "content-type": "application/json",
        "content-length": str(request.content_length),
    }
    assert wire.peers[0].body == _body.whole(request, request.content_length)
    assert (sent.response.status, sent.response.body, sent.handovers) == (200, ANSWER, 1)
    assert sent.response.headers["content-type"] == "application/json"


async def test_a_poll_has_its_query_and_no_body():
    async with serve(answer_once) as wire:
        sent = await exchange_once(wire.url, GET)
    line, headers = headers_of(wire.peers[0])
    assert line == "GET /v3/async/task-result?task_id=a+b%26c%3D HTTP/1.1"
    assert not {"content-type", "content-length", "cookie"} & set(headers)
    assert (sent.response.status, sent.handovers) == (200, 0)


async def test_a_submission_without_a_body_is_handed_over_too():
    async with serve(answer_once) as wire:
        sent = await exchange_once(wire.url, HTTPRequest(method="POST", path="/v3/x"))
    assert headers_of(wire.peers[0])[1]["content-length"] == "0"
    assert (sent.response.status, sent.handovers) == (200, 1)


async def test_the_hand_over_is_told_before_the_service_can_have_a_whole_request(monkeypatch):
    seen = []

    async def script(peer):
        await answer_once(peer)

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        request = picture_request()
        await transport.send(request, KEY, on_handover=lambda: seen.append(len(wire.peers[0].body)))
        await transport.aclose()
    assert len(seen) == 1
    assert seen[0] < request.content_length


async def test_connections_are_kept_and_cookies_are_not():
    async def script(peer):
        for _ in range(3):
            await peer.request()
            await peer.send(answer(200, ANSWER, b"Set-Cookie: session=1; Path=/"))

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        for request in (POST, GET, POST):
            assert (await transport.send(request, KEY)).status == 200
        await transport.aclose()
    assert len(wire.peers) == 1
    assert b"cookie" not in bytes(wire.peers[0].seen).lower()


async def test_keys_do_not_share_connections():
    async with serve(obey) as wire:
        transport = AiohttpTransport(wire.url)
        for key in ("a", "b", "a"):
            await transport.send(GET, ApiKey(key))
        assert transport.statistics().keys == len(wire.peers) == 2
        await transport.aclose()


async def test_more_than_a_hundred_exchanges_are_in_flight_at_once():
    everyone = asyncio.Barrier(130)

    async def script(peer):
        await peer.request()
        await everyone.wait()
        await peer.send(OK)

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        sent = await asyncio.gather(*[exchange(transport) for _ in range(130)])
        await transport.aclose()
    assert {one.delivery for one in sent} == {Delivery.ANSWERED}


async def test_a_redirect_is_an_answer_and_is_not_followed():
    async def script(peer):
        await peer.request()
        await peer.send(answer(307, b"", b"Location: " + elsewhere.url.encode()))

    async with serve(obey) as elsewhere, serve(script) as wire:
        sent = await exchange_once(wire.url)
        assert sent.response.status == 307
        assert not elsewhere.peers


async def test_compressed_answers_are_decompressed():
    async def script(peer):
        await peer.request()
        await peer.send(answer(200, gzip.compress(ANSWER), b"Content-Encoding: gzip"))

    async with serve(script) as wire:
        assert (await exchange_once(wire.url)).response.body == ANSWER


# --- A session of the user's own ----------------------------------------------------------------------------


async def test_a_given_session_carries_the_key_with_each_request_and_stays_open():
    async with serve(obey, tls=True) as wire:
        connector = aiohttp.TCPConnector(ssl=client_context())
        async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as session:
            transport = AiohttpTransport(wire.url, session=session)
            assert (await transport.send(picture_request(), KEY)).status == 200
            await transport.aclose()
            assert not session.closed
            assert "Authorization" not in session.headers


async def test_a_given_session_answers_with_errors_instead_of_raising_them():
    async def script(peer):
        await peer.request()
        await peer.send(answer(403, b'{"reason":"INVALID_API_KEY"}'))

    async with serve(script) as wire, aiohttp.ClientSession(raise_for_status=True) as session:
        sent = await exchange_once(wire.url, session=session)
    assert sent.response.status == 403


async def test_waiting_for_a_slot_in_the_pool_has_no_deadline():
    release = asyncio.Event()

    async def script(peer):
        await peer.request()
        await release.wait()
        await peer.send(OK)
        await obey(peer)

    connector = aiohttp.TCPConnector(limit=1)
    async with serve(script) as wire, aiohttp.ClientSession(connector=connector) as session:
        transport = AiohttpTransport(
            wire.url, session=session, connect_timeout=0.4, stall_timeout=0.4, answer_timeout=30
        )
        async with asyncio.TaskGroup() as group:
            sent = [group.create_task(exchange(transport, request)) for request in (POST, POST, GET)]
            await settled(lambda: bool(wire.peers and wire.peers[0].whole))
            await asyncio.sleep(0.5)
            release.set()
    assert [one.result().delivery for one in sent] == [Delivery.ANSWERED] * 3


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
async def test_a_session_with_a_login_of_its_own_is_an_error_of_configuration():
    async with aiohttp.ClientSession(auth=aiohttp.BasicAuth("a-user")) as session:
        with pytest.raises(ConfigurationError, match="a login of its own"):
            await AiohttpTransport("http://localhost", session=session).send(POST, KEY)


async def test_a_closed_session_is_an_error_of_configuration():
    async with aiohttp.ClientSession() as session:
        pass
    with pytest.raises(ConfigurationError, match="closed"):
        await AiohttpTransport("http://localhost", session=session).send(GET, KEY)


async def test_nothing_is_sent_after_closing():
    transport = AiohttpTransport("http://localhost")
    await transport.aclose()
    await transport.aclose()
    with pytest.raises(ConfigurationError, match="closed"):
        await transport.send(GET, KEY)


# --- Base URLs and proxies ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["", "api.novita.ai", "/v3", "ftp://host", "http://", "http://h/?a=1", "http://h/#x", "http://[", 7],
)
async def test_a_base_url_is_absolute_http(url):
    with pytest.raises(ConfigurationError, match="not an absolute http"):
        AiohttpTransport(url)


@pytest.mark.parametrize("url", ["https://user:pass-word@host", "https://pass-word@host"])
async def test_a_base_url_holds_no_credentials_and_they_are_not_quoted(url):
    with pytest.raises(ConfigurationError, match="credentials") as caught:
        AiohttpTransport(url)
    assert "pass-word" not in str(caught.value)


async def test_a_proxy_of_the_environment_is_used_and_never_gets_the_key_for_itself(monkeypatch):
    async with serve(answer_once) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("://", "://me:my-word@"))
        sent = await exchange_once("http://api.example")
    line, headers = headers_of(proxy.peers[0])
    assert sent.response.status == 200
    assert line == "POST http://api.example/v3/async/img2img HTTP/1.1"
    assert headers["proxy-authorization"] == "Basic " + base64.b64encode(b"me:my-word").decode()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_without_a_login_gets_no_login(monkeypatch, scheme):
    async def script(peer):
        await peer.request()
        await peer.send(answer(502))

    async with serve(script) as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", proxy.url)
        await exchange_once(f"{scheme}://api.example")
    assert b"proxy-authorization" not in proxy.peers[0].head.lower()


async def test_a_tunnel_is_asked_for_without_the_key(monkeypatch):
    async def script(peer):
        await peer.request()
        await peer.send(answer(407))

    async with serve(script) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        sent = await exchange_once("https://api.example")
    assert (sent.delivery, sent.error.cause) == (NOT_SENT, "the proxy refused to connect")
    assert proxy.peers[0].head.startswith(b"CONNECT api.example:443")
    assert KEY.reveal().encode() not in proxy.peers[0].seen


async def test_a_proxy_that_is_not_there_is_known_to_have_sent_nothing(monkeypatch):
    monkeypatch.setenv("http_proxy", refusing_url())
    sent = await exchange_once("http://api.example")
    assert (sent.delivery, sent.handovers) == (NOT_SENT, 0)
    assert "proxy" in sent.error.cause


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, "http://h", None),
        ({"http": "http://p:1"}, "http://h", "http://p:1"),
        ({"http": "p:1"}, "http://h", "http://p:1"),
        ({"http": "http://p:1"}, "https://h", None),
        ({"http": "http://p:1"}, "http://spared.example", None),
    ],
)
async def test_proxies_go_by_scheme_and_spare_hosts(monkeypatch, environment, url, proxy):
    monkeypatch.setenv("no_proxy", "spared.example")
    found = Proxies(environment).for_url(_connections.check_base_url(url))
    assert (found and str(found).rstrip("/")) == proxy


async def test_a_proxy_that_is_not_http_is_an_error_of_configuration(monkeypatch):
    monkeypatch.setenv("https_proxy", "socks5://p:1")
    with pytest.raises(ConfigurationError, match="socks5"):
        await AiohttpTransport("https://h").send(GET, KEY)


# --- How far it got -----------------------------------------------------------------------------------------


async def reset_at_once(peer):
    peer.reset()


async def close_at_once(peer):
    peer.close()


def after(count, end):
    """Read so many bytes, then end."""

    async def script(peer):
        await peer.read(count)
        end(peer)

    return script


def whole_then(data, end):
    """Read the whole request, send this, then end."""

    async def script(peer):
        await peer.request()
        await peer.send(data)
        end(peer)

    return script


def reset(peer):
    peer.reset()


def close(peer):
    peer.close()


CUT = answer(200, ANSWER)[:-5]
CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nx"
NO_GZIP = answer(200, b"\x1f\x8bnope", b"Content-Encoding: gzip")
FAULTS = [
    ("reset before the request", reset_at_once, HUGE, NOT_SENT, None),
    ("close before the request", close_at_once, HUGE, NOT_SENT, None),
    ("reset after the head", after(100, reset), HUGE, NOT_SENT, None),
    ("reset in the body", after(200_000, reset), HUGE, NOT_SENT, None),
    ("close in the body", after(200_000, close), HUGE, NOT_SENT, None),
    ("reset after the request", whole_then(b"", reset), POST, UNKNOWN, None),
    ("close after the request", whole_then(b"", close), POST, UNKNOWN, None),
    ("reset after a large request", whole_then(b"", reset), picture_request(), UNKNOWN, None),
    ("close after a poll", whole_then(b"", close), GET, UNKNOWN, None),
    ("half a status line", whole_then(b"HTTP/1.1 2", close), POST, UNKNOWN, None),
    ("half a header", whole_then(b"HTTP/1.1 200 OK\r\nContent-", close), POST, UNKNOWN, None),
    ("half a body", whole_then(CUT, close), POST, UNKNOWN, 200),
    ("half a body, reset", whole_then(CUT, reset), POST, UNKNOWN, None),
    ("half a poll's body", whole_then(CUT, close), GET, UNKNOWN, 200),
    ("half a chunk", whole_then(CHUNK, close), POST, UNKNOWN, 200),
    ("garbage", whole_then(b"\x00\xff garbage\r\n\r\n", close), POST, UNKNOWN, None),
    ("garbage for a poll", whole_then(b"SSH-2.0-server\r\n\r\n", close), GET, UNKNOWN, None),
    ("garbage compressed", whole_then(NO_GZIP, close), POST, UNKNOWN, 200),
]  # fmt: skip


@pytest.mark.parametrize(
    ("script", "request_", "delivery", "status"), [x[1:] for x in FAULTS], ids=[x[0] for x in FAULTS]
)
async def test_a_failed_exchange_tells_how_far_it_got(script, request_, delivery, status):
    async with serve(script) as wire:
        sent = await exchange_once(wire.url, request_)
        await asyncio.sleep(0)
    assert sent.delivery is delivery
    assert status is None or sent.error.status == status
    if request_.method == "POST":
        assert sent.handovers == (delivery is UNKNOWN)
        assert delivery is UNKNOWN or not any(peer.whole for peer in wire.peers)


async def fail_to_resolve(*args, **kwargs):
    raise socket.gaierror(socket.EAI_NONAME, "no such name")


@pytest.mark.parametrize("request_", [GET, POST])
async def test_no_connection_is_never_sent(monkeypatch, request_):
    refused = await exchange_once(refusing_url(), request_)
    async with serve(obey, tls=True) as wire:
        untrusted = await exchange_once(wire.url, request_)
    async with serve(after(1, reset)) as wire:
        no_tls = await exchange_once(wire.url.replace("http", "https"), request_)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail_to_resolve)
    unknown = await exchange_once("http://nowhere.example", request_)
    assert {x.delivery for x in (refused, untrusted, no_tls, unknown)} == {NOT_SENT}
    assert "cannot be reached" in refused.error.cause
    assert "certificate" in untrusted.error.cause
    assert "cannot be resolved" in unknown.error.cause


@pytest.mark.parametrize("request_", [GET, POST])
async def test_a_connection_that_does_not_come_about_in_time_is_never_sent(request_):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        url = f"https://127.0.0.1:{full.getsockname()[1]}"
        sent = await exchange_once(url, request_, connect_timeout=0.05)
    assert (sent.delivery, sent.handovers) == (NOT_SENT, 0)
    assert "no connection in time" in sent.error.cause


@pytest.mark.parametrize("request_", [GET, POST])
async def test_a_name_that_is_never_resolved_is_never_sent(monkeypatch, request_):
    async def never(*args, **kwargs):
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    async with asyncio.timeout(20):
        sent = await exchange_once("http://nowhere.example", request_, connect_timeout=0.05)
    assert (sent.delivery, sent.handovers) == (NOT_SENT, 0)


@pytest.fixture
def bodies(monkeypatch):
    """Sockets on which bodies go out, each of which may stall for a tenth of a second.

    To connect may take any time. The deadlines are looked at often, as the one of the answer is short.
    """
    sockets = []
    write = _slow_path.SlowExchange.write

    async def watched(exchange, writer):
        sockets.append(writer.transport.get_extra_info("socket"))
        exchange.stall_timeout = 0.1
        await write(exchange, writer)

    monkeypatch.setattr(_slow_path.SlowExchange, "write", watched)
    return sockets


async def test_a_body_that_stalls_is_never_sent_and_never_completes_later(bodies):
    resumed = asyncio.Event()

    async def script(peer):
        await peer.read(10)
        await resumed.wait()
        await peer.rest()

    async with serve(script) as wire:
        sent = await exchange_once(wire.url, HUGE, answer_timeout=0.5)
        resumed.set()
        await asyncio.gather(*wire.tasks)
    assert len(bodies) == 1
    assert (sent.delivery, sent.handovers) == (NOT_SENT, 0)
    assert "no progress" in sent.error.cause
    assert not wire.peers[0].whole


async def test_a_body_that_stalls_leaves_no_socket_behind(bodies):
    async with serve(lambda _: asyncio.sleep(60)) as wire:
        await exchange_once(wire.url, HUGE, answer_timeout=0.5)
        await settled(lambda: [sock.fileno() for sock in bodies] == [-1])


async def test_a_slow_body_that_moves_is_not_a_stall():
    async def script(peer):
        for _ in range(5):
            await peer.read(5 * 1024 * 1024)
            await asyncio.sleep(0.25)
        await answer_once(peer)

    async with serve(script) as wire:
        sent = await exchange_once(wire.url, HUGE, stall_timeout=1.0)
    assert sent.delivery is Delivery.ANSWERED


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 OK\r\n", CUT])
@pytest.mark.parametrize("request_", [GET, POST, picture_request()])
async def test_an_answer_that_does_not_come_in_time_is_unknown(beginning, request_):
    async def script(peer):
        await peer.request()
        await peer.send(beginning)
        await peer.rest()

    async with serve(script) as wire:
        sent = await exchange_once(wire.url, request_, answer_timeout=0.25)
    assert sent.delivery is UNKNOWN
    assert sent.error.status == (200 if beginning == CUT else None)


async def test_an_answer_that_drips_is_bounded_as_a_whole():
    left = [1, 1, 1, 1]

    async def script(peer):
        await peer.request()
        await peer.send(CUT)
        while True:
            await asyncio.sleep(0.01)
            await peer.send(b"x" * (left.pop() if left else 0))

    async with serve(script) as wire:
        assert (await exchange_once(wire.url, GET, answer_timeout=0.05)).delivery is UNKNOWN


@pytest.mark.parametrize("late", [False, True])
async def test_a_cancellation_from_outside_wins_over_a_deadline(monkeypatch, late):
    expire = _exchange.AiohttpExchange.expire

    def expire_while_cancelled(exchange):
        expire(exchange)
        exchange.task.cancel()

    monkeypatch.setattr(_exchange.AiohttpExchange, "expire", expire_while_cancelled)
    async with serve(lambda peer: peer.rest()) as wire:
        transport = AiohttpTransport(wire.url, answer_timeout=0.5 if late else 30)
        task = asyncio.create_task(transport.send(POST, KEY))
        await settled(lambda: bool(wire.peers and wire.peers[0].whole))
        if not late:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await transport.aclose()


async def test_a_deadline_leaves_no_trace_in_the_task():
    async with serve(lambda peer: peer.rest()) as wire, asyncio.timeout(10) as outer:
        sent = [await exchange_once(wire.url, POST, answer_timeout=0.03) for _ in range(2)]
        assert asyncio.current_task().cancelling() == 0
    assert not outer.expired()
    assert [one.delivery for one in sent] == [UNKNOWN, UNKNOWN]


async def test_the_watchdog_sleeps_when_nothing_is_on_its_way():
    async with serve(obey) as wire:
        transport = AiohttpTransport(wire.url, answer_timeout=0.05)
        await exchange(transport)
        assert repr(transport._watchdog) == "<Watchdog of 0, awake>"
        await settled(lambda: transport._watchdog._timer is None)
        assert repr(transport._watchdog) == "<Watchdog of 0, asleep>"
        await exchange(transport)
        await transport.aclose()
        assert repr(transport._watchdog) == "<Watchdog of 0, asleep>"


@pytest.mark.parametrize("more", [(), (b"Content-Encoding: gzip",)])
async def test_an_answer_is_bounded_in_size(monkeypatch, more):
    monkeypatch.setattr(_exchange, "MAX_ANSWER", 100_000)
    body = b" " * 3_000_000

    async def script(peer):
        await peer.request()
        await peer.send(answer(200, gzip.compress(body) if more else body, *more))

    async with serve(script) as wire:
        sent = await exchange_once(wire.url)
    assert (sent.delivery, sent.error.status) == (UNKNOWN, 200)
    assert "larger than 100,000 bytes" in sent.error.cause


# --- Every byte ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [close, reset])
async def test_an_answer_cut_at_any_byte_is_unknown_and_a_whole_one_is_an_answer(end):
    cuts = iter(range(len(OK) + 1))

    async def script(peer):
        await peer.request()
        await peer.send(OK[: next(cuts)])
        await asyncio.sleep(0)
        end(peer)

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        sent = [await exchange(transport) for _ in range(len(OK) + 1)]
        await transport.aclose()
    assert [one.delivery for one in sent] == [UNKNOWN] * len(OK) + [Delivery.ANSWERED]
    if end is close:
        head = OK.index(b"\r\n\r\n") + 4
        assert [one.error.status for one in sent[:-1]] == [None] * head + [200] * (len(OK) - head)
    assert all(peer.whole for peer in wire.peers)


@pytest.mark.parametrize("end", [close, reset])
async def test_a_request_cut_at_any_byte_was_sent_only_if_it_was_handed_over(monkeypatch, end):
    for room in (_transport, _slow_path):
        monkeypatch.setattr(room, "SMALL", 0)
    monkeypatch.setattr(_body, "RAW_SLICE", 3)
    monkeypatch.setattr(_body, "TEXT_SLICE", 4)
    request = HTTPRequest(
        method="POST", path="/v3/x", body=(b'{"a":"', ImageSource.from_bytes(b"0123456789"), b'"}')
    )
    sent, wire = await cut_at_every_byte(end, request)
    assert wire.peers[-1].whole
    for one in sent:
        assert (one.delivery is NOT_SENT) == (one.handovers == 0)
    assert {one.delivery for one in sent} == set(Delivery)


# --- Answers that come early --------------------------------------------------------------------------------


async def stay(peer):
    await peer.rest()


async def close_later(peer):
    await asyncio.sleep(0.02)
    peer.close()


async def close_now(peer):
    peer.close()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("end", [stay, close_now, close_later])
@pytest.mark.parametrize("read", [20, 500, 100_000, 3_000_000])
@pytest.mark.parametrize("status", [413, 429])
async def test_an_answer_that_comes_while_the_body_goes_out_is_an_answer(tls, end, read, status):
    async def script(peer):
        await peer.read(read)
        await peer.send(answer(status, b'{"reason":"NO"}', b"Retry-After: 7"))
        await end(peer)

    async with serve(script, tls=tls) as wire:
        connector = aiohttp.TCPConnector(ssl=client_context())
        async with aiohttp.ClientSession(connector=connector) as session:
            sent = await exchange_once(wire.url, HUGE, session=session if tls else None)
    assert (sent.delivery, sent.handovers) == (Delivery.ANSWERED, 0)
    assert (sent.response.status, sent.response.headers["retry-after"]) == (status, "7")
    assert not wire.peers[0].whole


@pytest.mark.parametrize(("whole", "early"), [(True, False), (False, True)])
async def test_an_answer_tells_whether_it_came_before_the_request_was_whole(whole, early):
    async def script(peer):
        await (peer.request() if whole else peer.read(500))
        await peer.send(answer(502))
        await peer.rest()

    async with serve(script) as wire:
        sent = await exchange_once(wire.url, HUGE)
    assert (sent.response.status, sent.response.early, sent.handovers) == (502, early, int(whole))


async def test_after_an_early_answer_the_connection_is_not_used_again():
    async def script(peer):
        if len(wire.peers) == 1:
            await peer.read(500)
            await peer.send(answer(429))
            await peer.rest()
        else:
            await answer_once(peer)

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        assert [(await exchange(transport, r)).response.status for r in (HUGE, POST)] == [429, 200]
        await transport.aclose()
    assert len(wire.peers) == 2


async def test_information_on_the_way_is_not_an_answer():
    async def script(peer):
        await peer.read(500)
        await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n")
        await answer_once(peer)

    async with serve(script) as wire:
        sent = await exchange_once(wire.url, HUGE)
    assert (sent.response.status, sent.handovers) == (200, 1)


async def test_an_early_answer_that_is_cut_tells_its_status_and_that_nothing_was_bought():
    async def script(peer):
        await peer.read(500)
        await peer.send(answer(413, b"x" * 100)[:-50])
        await peer.rest()

    async with serve(script) as wire:
        sent = await exchange_once(wire.url, HUGE, answer_timeout=0.1)
    assert (sent.delivery, sent.error.status, sent.handovers) == (NOT_SENT, 413, 0)


# --- Idle connections ---------------------------------------------------------------------------------------


def shut(peer):
    """Close for writing, at once and unseen by the client's loop, as servers do with idle connections."""
    with peer.second_handle() as handle:
        handle.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("idle", [1, 5])
@pytest.mark.parametrize(("words", "end"), [(b"", shut), (answer(408), shut), (answer(408), lambda _: None)])
async def test_a_connection_that_its_server_has_just_closed_is_not_used(idle, words, end):
    async with serve(obey) as wire:
        transport = AiohttpTransport(wire.url)
        await asyncio.gather(*[transport.send(POST, KEY) for _ in range(idle)])
        assert len(wire.peers) == idle
        for peer in wire.peers:
            with peer.second_handle() as handle:
                handle.send(words)
            end(peer)
        sent = await exchange(transport)
        await transport.aclose()
    assert (sent.delivery, sent.response.status) == (Delivery.ANSWERED, 200)
    assert len(wire.peers) == idle + 1


async def test_a_connection_with_other_news_than_its_end_is_used():
    """TLS 1.3 sends tickets after the handshake; they are read and mean nothing."""
    async with serve(obey, tls=True) as wire:
        connector = _fast_path.LiveConnector(ssl=client_context())
        async with aiohttp.ClientSession(connector=connector) as session:
            transport = AiohttpTransport(wire.url, session=session)
            assert [(await exchange(transport)).delivery for _ in range(5)] == [Delivery.ANSWERED] * 5
    assert len(wire.peers) == 1


async def test_a_given_session_sends_nothing_on_a_connection_that_was_just_closed():
    async with serve(obey) as wire, aiohttp.ClientSession() as session:
        transport = AiohttpTransport(wire.url, session=session)
        await transport.send(POST, KEY)
        shut(wire.peers[0])
        seen = len(wire.peers[0].seen)
        sent = await exchange(transport)
    assert (sent.delivery, sent.handovers) == (Delivery.ANSWERED, 1)
    assert (len(wire.peers), len(wire.peers[0].seen)) == (2, seen)


@pytest.mark.parametrize("read", [GET, POST])
@pytest.mark.parametrize("idle", [1, 5])
async def test_a_given_session_sends_no_purchase_on_a_connection_that_idled_for_long(monkeypatch, idle, read):
    monkeypatch.setattr(_slow_path, "KEEPALIVE", 0.01)
    async with serve(obey) as wire, aiohttp.ClientSession() as session:
        transport = AiohttpTransport(wire.url, session=session)
        await asyncio.gather(*[transport.send(read, KEY) for _ in range(idle)])
        await asyncio.sleep(0.05)
        seen = [len(peer.seen) for peer in wire.peers]
        sent = await exchange(transport)
        assert transport.statistics().not_sent == 0
    assert (sent.delivery, sent.handovers) == (Delivery.ANSWERED, 1)
    assert [len(peer.seen) for peer in wire.peers[:-1]] == seen


async def test_a_server_that_went_away_while_its_connection_idled_is_not_asked_for_ever():
    async with serve(obey) as wire, aiohttp.ClientSession() as session:
        transport = AiohttpTransport(wire.url, session=session)
        await transport.send(POST, KEY)
        wire.listener.close()
        shut(wire.peers[0])
        sent = await exchange(transport)
    assert (sent.delivery, sent.handovers) == (NOT_SENT, 0)
    assert "cannot be reached" in sent.error.cause


async def test_a_picture_that_changed_is_no_reason_to_take_another_connection(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"x" * 1000)
    request = HTTPRequest(method="POST", path="/v3/x", body=(b'"', ImageSource.from_path(path), b'"'))
    async with serve(obey) as wire:
        transport = AiohttpTransport(wire.url)
        await transport.send(request, KEY)
        path.unlink()
        with pytest.raises(InvalidRequest, match="no such file"):
            await transport.send(request, KEY)
        await transport.aclose()
    assert len(wire.peers) == 1


async def test_a_purchase_looks_at_its_connection_right_before_it_is_handed_over(monkeypatch):
    begin = _slow_path.SlowExchange._refuse_stale

    def begin_and_close(exchange, writer):
        begin(exchange, writer)
        if exchange.reused:
            shut(wire.peers[0])

    async with serve(obey) as wire:
        transport = AiohttpTransport(wire.url)
        await transport.send(POST, KEY)
        monkeypatch.setattr(_slow_path.SlowExchange, "_refuse_stale", begin_and_close)
        seen = len(wire.peers[0].seen)
        sent = await exchange(transport, picture_request(100_000))
        await transport.aclose()
    assert (sent.delivery, sent.handovers) == (Delivery.ANSWERED, 1)
    assert (len(wire.peers), len(wire.peers[0].seen)) == (2, seen)


@pytest.mark.parametrize("given", [False, True])
async def test_words_that_came_while_a_connection_idled_are_not_the_answer_to_a_purchase(given):
    async with serve(obey) as wire, aiohttp.ClientSession() as session:
        transport = AiohttpTransport(wire.url, session=session if given else None)
        await transport.send(POST, KEY)
        await wire.peers[0].send(answer(408))
        await asyncio.sleep(0.05)
        sent = await exchange(transport)
        await transport.aclose()
    assert (sent.response.status, sent.handovers, len(wire.peers)) == (200, 1, 2)


async def test_leaving_while_a_connection_is_looked_at_closes_it():
    async with serve(obey) as wire:
        transport = AiohttpTransport(wire.url)
        await transport.send(POST, KEY)
        shut(wire.peers[0])
        task = asyncio.create_task(transport.send(POST, KEY))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(wire.peers) == 1
        await transport.aclose()


async def test_a_connection_that_idled_for_long_is_not_used(monkeypatch):
    monkeypatch.setattr(_fast_path, "KEEPALIVE", 0.01)
    async with serve(obey) as wire:
        transport = AiohttpTransport(wire.url)
        await transport.send(POST, KEY)
        await asyncio.sleep(0.05)
        await transport.send(POST, KEY)
        await transport.aclose()
    assert len(wire.peers) == 2


async def test_a_server_that_closes_every_connection_at_once_is_never_sent_anything():
    async with serve(close_at_once) as wire:
        sent = [await exchange_once(wire.url, request) for request in (POST, HUGE)]
    assert {one.delivery for one in sent} <= {NOT_SENT, UNKNOWN}
    assert not any(peer.whole for peer in wire.peers)


# --- Leaving early ------------------------------------------------------------------------------------------


async def test_a_body_that_is_cancelled_on_its_way_never_arrives_whole():
    cancelled = asyncio.Event()

    async def script(peer):
        await peer.read(1000)
        await cancelled.wait()
        await peer.rest()

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        sent = Sent()
        task = asyncio.create_task(transport.send(HUGE, KEY, on_handover=sent.hand_over))
        await settled(lambda: bool(wire.peers and wire.peers[0].seen))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cancelled.set()
        await asyncio.gather(*wire.tasks)
        assert transport.statistics().in_flight == 0
        await transport.aclose()
    assert not sent.handovers
    assert not wire.peers[0].whole


async def test_a_picture_that_changes_on_its_way_reaches_the_caller_and_nobody_else(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"x" * 6_000_000)
    request = HTTPRequest(method="POST", path="/v3/x", body=(b'"', *[ImageSource.from_path(path)] * 4, b'"'))
    changed = asyncio.Event()

    async def script(peer):
        await peer.read(1000)
        os.truncate(path, 10)
        changed.set()
        await peer.rest()

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        sent = Sent()
        with pytest.raises(InvalidRequest, match="has changed"):
            await transport.send(request, KEY, on_handover=sent.hand_over)
        await asyncio.gather(*wire.tasks)
        assert transport.statistics().not_sent == 1
        await transport.aclose()
    assert changed.is_set()
    assert not sent.handovers
    assert not wire.peers[0].whole


# --- Secrets and figures ------------------------------------------------------------------------------------


def told(error):
    """All that a crash report could show of an error."""
    shown = [repr(error), str(error)]
    for one in (error, error.__cause__, error.__context__):
        if one is not None:
            shown += traceback.TracebackException.from_exception(one, capture_locals=True).format()
    return "".join(shown)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(("script", "request_"), [(x[1], x[2]) for x in FAULTS], ids=[x[0] for x in FAULTS])
async def test_no_failure_shows_the_key(caplog, script, request_, given):
    async with serve(script) as wire, aiohttp.ClientSession() as session:
        transport = AiohttpTransport(wire.url, session=session if given else None)
        with pytest.raises(DeliveryFailed) as caught:
            await transport.send(request_, KEY)
        shown = told(caught.value) + repr(transport) + caplog.text
        await transport.aclose()
    assert KEY.reveal() not in shown
    assert "sk-quite" not in shown


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("request_", [GET, POST, HUGE])
async def test_no_cancellation_shows_the_key(request_, given):
    async with serve(lambda _: asyncio.sleep(60)) as wire, aiohttp.ClientSession() as session:
        transport = AiohttpTransport(wire.url, session=session if given else None)
        task = asyncio.create_task(transport.send(request_, KEY))
        await settled(lambda: bool(wire.peers))
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        shown = told(caught.value)
        await transport.aclose()
    assert KEY.reveal() not in shown


async def test_a_proxy_that_cannot_be_used_shows_no_key(monkeypatch):
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(ConfigurationError) as caught:
        await AiohttpTransport("http://api.example").send(POST, KEY)
    shown = told(caught.value)
    assert KEY.reveal() not in shown


async def test_a_transport_counts_what_became_of_its_exchanges():
    scripts = iter([answer_once, whole_then(b"", close), reset_at_once])

    async def script(peer):
        await next(scripts)(peer)

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        await exchange(transport)
        wire.peers[0].reset()
        await asyncio.sleep(0.01)
        await exchange(transport)
        await exchange(transport, HUGE)
        statistics = transport.statistics()
        assert repr(transport) == f"<AiohttpTransport to {wire.url}, 0 in flight, 1 answered>"
        await transport.aclose()
    assert (statistics.answered, statistics.unknown, statistics.not_sent) == (1, 1, 1)
    assert (statistics.in_flight, statistics.keys) == (0, 1)


async def test_an_unforeseen_failure_is_named():
    assert _connections.explain(ZeroDivisionError()) == Cause(UNKNOWN, "ZeroDivisionError")
    assert _connections.explain(ConnectionResetError(104, "x")) == Cause(
        UNKNOWN, "the connection broke (Connection reset by peer)"
    )
    assert _connections.has_news(None) is False
