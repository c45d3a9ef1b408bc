"""Exchanges of the transport alone: requests, and what becomes of them."""

import os

from novita_async._http import Delivery, DeliveryFailed, HTTPRequest
from novita_async._transport.transport import AiohttpTransport
from novita_async.models.accounts import ApiKey
from novita_async.models.images import ImageSource
from tests.helpers.wire import OK, serve

KEY = ApiKey("sk-quite-secret-0123456789")
NOT_SENT, UNKNOWN = Delivery.NOT_SENT, Delivery.UNKNOWN
GET = HTTPRequest(method="GET", path="/v3/async/task-result", query=(("task_id", "a b&c="),))
POST = HTTPRequest(method="POST", path="/v3/async/img2img", body=(b'{"prompt":"a dog"}',))
HUGE = HTTPRequest(
    method="POST",
    path="/v3/async/img2img",
    body=(b'["', *[ImageSource.from_bytes(b"abc" * 2_400_000), b'","'] * 3, b'"]'),
)
"""More than the buffers of a loopback connection take."""


def picture_request(size=300_000):
    return HTTPRequest(
        method="POST",
        path="/v3/async/img2img",
        body=(b'{"image_base64":"', ImageSource.from_bytes(os.urandom(size)), b'"}'),
    )


class Sent:
    """What became of one exchange."""

    def __init__(self):
        self.handovers = 0
        self.response = None
        self.error = None

    def hand_over(self):
        self.handovers += 1

    @property
    def delivery(self):
        return self.error.delivery if self.error else Delivery.ANSWERED


async def exchange(transport, request=POST):
    sent = Sent()
    try:
        sent.response = await transport.send(request, KEY, on_handover=sent.hand_over)
    except DeliveryFailed as error:
        sent.error = error
    return sent


async def exchange_once(url, request=POST, **options):
    transport = AiohttpTransport(url, **options)
    sent = await exchange(transport, request)
    await transport.aclose()
    return sent


async def obey(peer):
    """Answer everything."""
    while await peer.request():
        await peer.send(OK)


async def answer_once(peer):
    await peer.request()
    await peer.send(OK)
    await peer.rest()


async def cut_at_every_byte(end, request=POST):
    """Send a request again and again to a server that cuts each connection one byte later.

    Returns what became of each, and the server, which has the whole request in the end.
    """
    async with serve(answer_once) as wire:
        await exchange_once(wire.url, request)
    length = len(wire.peers[0].seen)
    cuts = iter(range(length + 1))

    async def script(peer):
        await peer.read(next(cuts))
        if peer.whole:
            await peer.send(OK)
        end(peer)

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        sent = [await exchange(transport, request) for _ in range(length + 1)]
        await transport.aclose()
    return sent, wire
