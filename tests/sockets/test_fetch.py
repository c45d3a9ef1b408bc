"""Downloads on real loopback sockets: what is asked, what comes back, what is refused."""

import asyncio
import gzip
import os

import aiohttp
import pytest

from novita_async._http import Delivery, DeliveryFailed
from novita_async._transport import downloads as _fetch
from novita_async._transport.downloads import AiohttpDownloader
from tests.helpers.wire import answer, client_context, refusing_url, serve

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]

PICTURE = os.urandom(300_000)


@pytest.fixture
async def downloader():
    made = AiohttpDownloader()
    yield made
    await made.aclose()


@pytest.fixture
async def hasty():
    made = AiohttpDownloader(read_timeout=0.2)
    yield made
    await made.aclose()


async def fetch(downloader, url):
    """Status, headers and chunks of one file."""
    async with downloader.open(url) as download:
        return download.status, download.headers, [chunk async for chunk in download.chunks()]


def answering(*answers):
    """Give the answers, one to a connection."""
    left = iter(answers)

    async def script(peer):
        await peer.request()
        await peer.send(next(left))
        peer.close()

    return script


def redirect(status, location):
    return answer(status, b"", b"Location: " + location.encode())


async def test_a_file_comes_whole_in_large_chunks(downloader):
    async with serve(answering(answer(200, PICTURE, b"Content-Type: image/png"))) as wire:
        status, headers, chunks = await fetch(downloader, f"{wire.url}/a.png")
    assert b"".join(chunks) == PICTURE
    assert all(len(chunk) >= 64 * 1024 for chunk in chunks[:-1])
    assert (status, headers["content-type"], headers["content-length"]) == (
        200,
        "image/png",
        str(len(PICTURE)),
    )


async def test_small_pieces_are_gathered(downloader):
    async def script(peer):
        await peer.request()
        whole = answer(200, PICTURE)
        for start in range(0, len(whole), 10_000):
            await peer.send(whole[start : start + 10_000])
            await asyncio.sleep(0)

    async with serve(script) as wire:
        chunks = (await fetch(downloader, wire.url))[2]
    assert b"".join(chunks) == PICTURE
    assert all(len(chunk) >= 64 * 1024 for chunk in chunks[:-1])


async def test_a_presigned_url_is_asked_for_as_it_stands_without_key_or_cookie(
    downloader, monkeypatch, tmp_path
):
    (tmp_path / "netrc").write_text("machine localhost login someone password something\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    path = "/a%2Fb%20c.png?X-Sig=a%2Bb%3D%3d&x=+&y=%7E"
    async with serve(answering(answer(200, b"", b"Set-Cookie: a=b; Path=/"), answer(200, b""))) as wire:
        await fetch(downloader, wire.url + path)
        await fetch(downloader, wire.url + path)
    for peer in wire.peers:
        head = peer.head.lower()
        assert peer.head.startswith(f"GET {path} HTTP/1.1".encode())
        assert b"authorization" not in head
        assert b"cookie" not in head
        assert b"accept-encoding: identity" in head


async def test_an_expired_url_is_an_answer(downloader):
    async with serve(answering(answer(403, b"<Error/>"))) as wire:
        status, _, chunks = await fetch(downloader, wire.url)
    assert (status, chunks) == (403, [b"<Error/>"])


async def test_an_empty_file_has_no_chunks(downloader):
    async with serve(answering(answer(200, b""))) as wire:
        assert (await fetch(downloader, wire.url))[2] == []


async def test_the_length_of_compressed_bytes_is_not_taken_for_that_of_the_file(downloader):
    packed = answer(200, gzip.compress(PICTURE), b"Content-Encoding: gzip")
    async with serve(answering(packed)) as wire:
        _, headers, chunks = await fetch(downloader, wire.url)
    assert b"".join(chunks) == PICTURE
    assert "content-length" not in headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(downloader, status):
    async with serve(answering(answer(200, b"picture"))) as there:
        async with serve(answering(redirect(status, f"{there.url}/b?c=%2B"))) as here:
            assert (await fetch(downloader, here.url))[2] == [b"picture"]
    assert there.peers[0].head.startswith(b"GET /b?c=%2B ")


async def test_a_redirect_may_be_relative(downloader):
    async with serve(answering(redirect(302, "../b.png"), answer(200, b"picture"))) as wire:
        assert (await fetch(downloader, f"{wire.url}/x/y/a.png"))[2] == [b"picture"]
    assert wire.peers[1].head.startswith(b"GET /x/b.png ")


async def test_a_few_redirects_are_followed_and_no_more(downloader):
    hops = _fetch._REDIRECTS
    async with serve(answering(*[redirect(302, "/again")] * hops, answer(200, b"x"))) as wire:
        assert (await fetch(downloader, wire.url))[0] == 200
    async with serve(answering(*[redirect(302, "/again")] * (hops + 1))) as wire:
        with pytest.raises(DeliveryFailed, match="too often") as caught:
            await fetch(downloader, wire.url)
    assert caught.value.delivery is Delivery.ANSWERED


@pytest.mark.parametrize("location", ["ftp://localhost/a", "http://[", "javascript:1"])
async def test_a_redirect_to_nowhere_is_refused(downloader, location):
    async with serve(answering(redirect(302, location))) as wire:
        with pytest.raises(DeliveryFailed, match="not an http"):
            await fetch(downloader, wire.url)


async def test_a_redirect_from_https_to_http_is_refused(downloader):
    async with serve(answering(redirect(302, "http://localhost/a")), tls=True) as wire:
        downloader._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client_context()))
        with pytest.raises(DeliveryFailed, match="from https to http") as caught:
            await fetch(downloader, wire.url)
    assert (caught.value.delivery, caught.value.status) == (Delivery.ANSWERED, 302)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/a.png",
        "file:///etc/passwd",
        "data:image/png;base64,xx",
        "http://[",
        "http://localhost:99999/a.png",
        "http://localhost:-1/a.png",
        "http://localhost:port/a.png",
        "http://xn--/a.png",
        "\ud800",
    ],
)
async def test_what_is_no_http_url_is_never_asked_for(downloader, url):
    with pytest.raises(DeliveryFailed, match="not an http or https URL") as caught:
        await fetch(downloader, url)
    assert caught.value.delivery is Delivery.NOT_SENT


@pytest.mark.parametrize("url", ["http://.../a.png", f"http://{'a' * 300}/a.png", "http://256.256.256.256/"])
async def test_a_host_that_cannot_be_is_no_url(downloader, url):
    with pytest.raises(DeliveryFailed, match="not a URL"):
        await fetch(downloader, url)


async def test_a_host_that_is_not_there_is_never_sent(downloader):
    with pytest.raises(DeliveryFailed, match="cannot be reached") as caught:
        await fetch(downloader, refusing_url())
    assert caught.value.delivery is Delivery.NOT_SENT


async def test_no_answer_in_time_fails(hasty):
    async with serve(lambda peer: peer.rest()) as wire:
        with pytest.raises(DeliveryFailed, match="no answer in time"):
            await fetch(hasty, wire.url)


async def test_a_file_that_breaks_off_fails_after_what_came(downloader):
    async with serve(answering(answer(200, PICTURE)[:-1])) as wire:
        came = 0
        with pytest.raises(DeliveryFailed, match="broke off") as caught:
            async with downloader.open(wire.url) as download:
                async for chunk in download.chunks():
                    came += len(chunk)
    assert (caught.value.delivery, caught.value.status) == (Delivery.UNKNOWN, 200)
    assert came < len(PICTURE)


async def test_a_file_that_stalls_fails(hasty):
    async def script(peer):
        await peer.request()
        await peer.send(answer(200, PICTURE)[:-1])
        await peer.rest()

    async with serve(script) as wire:
        with pytest.raises(DeliveryFailed, match="no answer in time") as caught:
            await fetch(hasty, wire.url)
    assert caught.value.status == 200


async def test_a_file_that_is_left_early_closes_its_connection(downloader):
    async def script(peer):
        await peer.request()
        await peer.send(answer(200, PICTURE)[:-1])
        await peer.rest()

    async with serve(script) as wire:
        async with downloader.open(wire.url) as download:
            async for _ in download.chunks():
                break
        for task in wire.tasks:
            await task


async def test_proxies_of_the_environment_are_used(monkeypatch):
    async with serve(answering(answer(200, b"picture"))) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        downloader = AiohttpDownloader()
        assert (await fetch(downloader, "http://files.example/a?b=%2F"))[2] == [b"picture"]
        await downloader.aclose()
        await downloader.aclose()
    assert proxy.peers[0].head.startswith(b"GET http://files.example/a?b=%2F ")
