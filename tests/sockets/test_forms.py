"""Multipart forms on the wire: their length, their fields, and when they may be sent again."""

import os

import pytest

from novita_async._http import FormPart, HTTPRequest
from novita_async._transport.transport import AiohttpTransport
from novita_async.models.images import ImageSource
from tests.helpers.exchanges import KEY, NOT_SENT, UNKNOWN, answer_once, cut_at_every_byte, exchange, obey
from tests.helpers.forms import fields_of
from tests.helpers.wire import serve

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]

PICTURE = os.urandom(300_000)


def form(*pictures):
    texts = [FormPart(name="prompt", content="a cute döggy".encode())]
    files = [
        FormPart(name="image[]", content=picture, filename="dög.png", content_type="image/png")
        for picture in pictures
    ]
    return HTTPRequest(method="POST", path="/openai/v1/images/edits", parts=(*texts, *files))


SMALL_FORM = form(b"x" * 40)


def read_form(peer):
    kind, _, boundary = header(peer, "content-type").partition("; boundary=")
    assert kind == "multipart/form-data"
    assert int(header(peer, "content-length")) == len(peer.body)
    assert "transfer-encoding" not in peer.head.decode().lower()
    return fields_of(peer.body, boundary)


def header(peer, name):
    lines = dict(line.split(": ", 1) for line in peer.head.decode().split("\r\n")[1:])
    return {key.lower(): value for key, value in lines.items()}[name]


@pytest.mark.parametrize("picture", [b"x" * 40, PICTURE], ids=["small", "large"])
async def test_a_form_arrives_with_its_exact_length(picture):
    async with serve(answer_once) as wire:
        transport = AiohttpTransport(wire.url)
        sent = await exchange(transport, form(ImageSource.from_bytes(picture), picture))
        await transport.aclose()
    assert (sent.response.status, sent.handovers) == (200, 1)
    assert read_form(wire.peers[0]) == [
        ("prompt", None, None, "a cute döggy".encode()),
        ("image[]", "dög.png", "image/png", picture),
        ("image[]", "dög.png", "image/png", picture),
    ]


async def test_each_attempt_makes_a_boundary_of_its_own():
    async with serve(obey) as wire:
        transport = AiohttpTransport(wire.url)
        for _ in range(2):
            await exchange(transport, SMALL_FORM)
        await transport.aclose()
    seen = b"".join(bytes(peer.seen) for peer in wire.peers)
    boundaries = {piece.partition(b"\r\n")[0] for piece in seen.split(b"boundary=")[1:]}
    assert len(boundaries) == 2


async def test_a_small_form_is_not_sent_on_the_path_that_says_json():
    transport = AiohttpTransport("http://localhost:1")
    assert transport.detachable(SMALL_FORM, KEY, on_handover=lambda: None) is None
    await transport.aclose()


async def test_a_form_that_is_cut_anywhere_is_perhaps_bought_only_once_it_was_handed_over():
    sent, _ = await cut_at_every_byte(lambda peer: peer.reset(), SMALL_FORM)
    for each in sent[:-1]:
        assert each.delivery is (UNKNOWN if each.handovers else NOT_SENT)
    assert sent[-1].response.status == 200
