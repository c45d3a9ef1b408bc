"""A gateway that answers instead of the service for a while, on real sockets."""

import asyncio
import json
from collections import Counter

import pytest

from novita_async import AnyTask, NovitaClient, Polling
from tests.helpers.wire import answer, serve

pytestmark = pytest.mark.anyio

PAGE = b"<html>upstream</html>"
PICTURE = {"image_url": "https://files.invalid/a.png", "image_url_ttl": "3600", "image_type": "png"}


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def test_a_gateway_s_pages_for_two_seconds_cost_few_of_a_thousand_purchases():
    """Those under way when it began, and a probe now and then; all others are bought once."""
    bought, refused = [], []
    loop = asyncio.get_running_loop()
    away = []
    """When the gateway begins to answer: once a hundred were bought, however quick the machine is."""

    async def script(peer):
        while True:
            begun = peer.begun
            if not await peer.request():
                return
            line = bytes(peer.seen[begun : begun + 200]).partition(b"\r\n")[0]
            if line.startswith(b"GET"):
                task_id = line.partition(b"task_id=")[2].partition(b" ")[0].decode()
                done = {"task": {"task_id": task_id, "status": "TASK_STATUS_SUCCEED"}, "images": [PICTURE]}
                await peer.send(answer(200, json.dumps(done).encode(), b"Content-Type: application/json"))
            elif away and loop.time() < away[0] + 2:
                refused.append(line)
                await peer.send(answer(503, PAGE, b"Content-Type: text/html"))
            else:
                bought.append(line)
                if len(bought) == 100:
                    away.append(loop.time())
                await peer.send(answer(200, b'{"task_id":"t-%d"}' % len(bought)))

    many = [AnyTask(path="/v3/async/img2img", body={"seed": seed}) for seed in range(1000)]
    polling = Polling.fixed(0.02, polls_per_second=5000)
    async with (
        serve(script) as wire,
        NovitaClient("sk", base_url=wire.url, polling=polling) as client,
        client.stream(many, in_flight=32) as outcomes,
    ):
        ends = Counter([type(outcome).__name__ async for outcome in outcomes])
    assert ends["Uncertain"] == len(refused)
    assert 1 <= len(refused) <= 40
    assert ends["Succeeded"] == len(bought) == 1000 - len(refused)
