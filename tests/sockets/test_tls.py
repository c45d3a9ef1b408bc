"""Trouble on the way to the host: said in OpenSSL's own words, and whether waiting can help."""

import socket
import ssl

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver

from novita_async import NotSent, NovitaClient, RetryPolicy, Txt2Img, events
from novita_async._transport import connections as _connections
from novita_async._transport.transport import AiohttpTransport
from tests.helpers.exchanges import GET, HUGE, KEY, NOT_SENT, POST, exchange, exchange_once, obey
from tests.helpers.wire import answer, client_context, refusing_url, serve

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]

REQUESTS = [GET, POST, HUGE]
SMALL = Txt2Img(model_name="m", prompt="a dog", width=128, height=128)


class Everywhere(AbstractResolver):
    """Every name is this machine."""

    async def resolve(self, host, port=0, family=socket.AF_INET):
        return [
            {"hostname": host, "host": "127.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0}
        ]

    async def close(self):
        pass


def told(sent):
    assert (sent.delivery, sent.handovers) == (NOT_SENT, 0)
    assert "not permitted" not in sent.error.cause
    return sent.error.cause, sent.error.passes


@pytest.mark.parametrize("request_", REQUESTS)
async def test_a_certificate_that_nobody_signed_is_told_as_that(request_):
    async with serve(obey, tls=True) as wire:
        sent = await exchange_once(wire.url, request_)
    assert told(sent) == ("the server's certificate is not valid: self-signed certificate", False)


@pytest.mark.parametrize("request_", REQUESTS)
async def test_a_certificate_of_another_host_is_told_as_that(request_):
    async with serve(obey, tls=True) as wire:
        connector = aiohttp.TCPConnector(ssl=client_context(), resolver=Everywhere())
        async with aiohttp.ClientSession(connector=connector) as session:
            sent = await exchange_once(wire.url.replace("localhost", "a.example"), request_, session=session)
    cause, passes = told(sent)
    assert "hostname mismatch, certificate is not valid for 'a.example'" in cause
    assert not passes


@pytest.mark.parametrize("request_", REQUESTS)
async def test_a_host_without_tls_is_told_as_that(request_):
    async def script(peer):
        await peer.read(1)
        await peer.send(answer(400))
        await peer.rest()

    async with serve(script) as wire:
        sent = await exchange_once(wire.url.replace("http", "https"), request_)
    assert told(sent) == ("TLS failed: wrong version number: is it http?", False)


@pytest.mark.parametrize("request_", REQUESTS)
async def test_a_handshake_that_breaks_off_is_an_outage(request_):
    async def script(peer):
        await peer.read(1)
        peer.close()

    async with serve(script) as wire:
        sent = await exchange_once(wire.url.replace("http", "https"), request_)
    assert told(sent)[1]


@pytest.mark.parametrize("request_", REQUESTS)
async def test_a_server_that_refuses_is_an_outage(request_):
    assert told(await exchange_once(refusing_url(), request_))[1]


@pytest.mark.parametrize("reached", [False, True])
async def test_a_name_that_is_not_found_is_an_outage_once_the_host_was_reached(monkeypatch, reached):
    async def fail(*_args, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    async with serve(obey) as wire:
        transport = AiohttpTransport(wire.url)
        if reached:
            await transport.send(GET, KEY)
            await transport._sessions[KEY].session.close()
        monkeypatch.setattr(aiohttp.TCPConnector, "_resolve_host", fail)
        cause, passes = told(await exchange(transport))
        await transport.aclose()
    assert "the host name cannot be resolved" in cause
    assert passes is reached


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ssl.SSLError(1, "[SSL: BAD_ROUTE] bad route (_ssl.c:1000)"), "the connection broke: bad route"),
        (
            ssl.SSLError(1, "[SSL] record layer failure (_ssl.c:1)"),
            "the connection broke: record layer failure",
        ),
        (OSError(-2, "Name or service not known"), "the connection broke"),
        (ConnectionResetError(), "the connection broke"),
    ],
)
async def test_openssl_s_words_are_found_between_its_places(error, words):
    assert _connections.explain(error).words == words


# --- What users are told ------------------------------------------------------------------------------------


async def test_what_waiting_cannot_help_is_told_at_once():
    seen = []
    async with serve(obey, tls=True) as wire:
        async with NovitaClient("a-key", base_url=wire.url, observers=[seen.append]) as client:
            with pytest.raises(NotSent, match="self-signed certificate: nothing was bought") as caught:
                await client.submit(SMALL)
            (account,) = client.statistics().pool.accounts
            assert account.pacing.windows[0].taken == 0
    assert not caught.value.retryable
    assert not any(isinstance(event, events.Retrying) for event in seen)


async def test_an_outage_is_tried_again():
    seen = []
    retry = RetryPolicy(attempts=2, base=0.001)
    async with NovitaClient("a-key", base_url=refusing_url(), retry=retry, observers=[seen.append]) as client:
        with pytest.raises(NotSent) as caught:
            await client.submit(SMALL)
    assert caught.value.retryable
    assert any(isinstance(event, events.Retrying) for event in seen)
