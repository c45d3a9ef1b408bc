"""A base URL that leads elsewhere is told as what is wrong with it, at the first purchase."""

import pytest
from yarl import URL

from novita_async import AnyTask, NotSent, NovitaClient
from novita_async._http import HTTPResponse
from novita_async._transport.address import misdirection
from tests.helpers.wire import answer, serve

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]

PATH = "/v3/async/img2img"
HTTPS = "https://gate.example/elsewhere"


def wrong(base_url, status=404, path=PATH, body=b"", **headers):
    return misdirection(URL(base_url), path, HTTPResponse(status=status, headers=headers, body=body))


@pytest.mark.parametrize(
    ("base_url", "path", "end"),
    [
        ("https://gate.example/v3", PATH, "/v3"),
        ("https://gate.example/v3/", "/openapi/v1/billing/balance/detail", "/v3"),
        ("https://gate.example/novita/v3/async", PATH, "/v3/async"),
        ("https://gate.example/openapi", "/openapi/v1/billing/balance/detail", "/openapi"),
    ],
)
def test_a_path_that_begins_twice_is_named(base_url, path, end):
    assert wrong(base_url, path=path) == (
        f"the base URL ends in {end}, with which paths begin anyway: leave {end} out of it"
    )


@pytest.mark.parametrize(
    "base_url", ["https://gate.example", "https://gate.example/", "https://gate.example/novita"]
)
def test_a_route_that_is_not_there_is_no_fault_of_the_address(base_url):
    assert wrong(base_url) is None


def test_a_refusal_that_comes_from_the_service_is_no_fault_of_the_address():
    assert wrong("https://gate.example/v3", status=400) is None


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_door_that_asks_for_https_is_told_as_that(status):
    assert wrong("http://gate.example", status, location=HTTPS) == (
        "gate.example wants https, and the base URL begins with http"
    )


@pytest.mark.parametrize(
    ("base_url", "status", "location"),
    [
        ("https://gate.example", 301, HTTPS),
        ("http://other.example", 301, HTTPS),
        ("http://gate.example", 301, "/elsewhere"),
        ("http://gate.example", 301, "http://gate.example/elsewhere"),
        ("http://gate.example", 301, "https://[half"),
        ("http://gate.example", 404, HTTPS),
    ],
)
def test_any_other_redirect_tells_nothing_of_the_address(base_url, status, location):
    assert wrong(base_url, status, location=location) is None


def test_a_server_that_says_that_it_speaks_tls_alone_is_told_as_that():
    page = b"<title>400 The plain HTTP request was sent to HTTPS port</title>"
    assert wrong("http://127.0.0.1:8443", 400, body=page) == (
        "127.0.0.1:8443 wants https, and the base URL begins with http"
    )


async def test_the_first_purchase_tells_it_and_stops_the_others():
    async def not_there(peer):
        while await peer.request():
            await peer.send(answer(404))

    requests = [AnyTask(path="/v3/async/x", body={"number": number}) for number in range(9)]
    async with serve(not_there) as wire, NovitaClient("sk_1", base_url=f"{wire.url}/v3") as client:
        with pytest.raises(NotSent, match="the base URL ends in /v3") as caught:
            async with client.stream(requests, in_flight=1) as outcomes:
                async for _ in outcomes:
                    pass
    assert caught.value.scope == "account"
    assert sum(len(peer.seen.split(b"POST")) - 1 for peer in wire.peers) == 1
