"""What a stream holds for each task that is paid for and has not ended: records, and no task of asyncio's."""

import asyncio
import gc
import tracemalloc

import anyio
import pytest

from novita_async import NovitaClient, Polling, Txt2Img
from novita_async._http import HTTPResponse
from novita_async._journal.sqlite import store

pytestmark = pytest.mark.anyio

MOST_BYTES, MOST_OBJECTS = 3 * 1024, 10
"""For each task, with its request and its place in the window; objects as the garbage collector counts."""
FEW, MANY = 20, 120


class Busy:
    """A service that takes everything and ends nothing."""

    bought = 0

    async def send(self, request, _, /, *, on_handover=None):
        await anyio.sleep(0.01)
        if request.method == "POST":
            on_handover()
            self.bought += 1
            return HTTPResponse(status=200, body=b'{"task_id": "1f0e-%016d"}' % self.bought)
        task_id = request.query[0][1].encode()
        running = b'{"task": {"task_id": "%b", "status": "TASK_STATUS_PROCESSING"}}' % task_id
        return HTTPResponse(status=200, body=running)

    async def aclose(self): ...


async def held(count, journal):
    """Bytes and objects that are held while so many tasks are in flight, and the tasks of asyncio."""
    busy = Busy()
    client = NovitaClient(api_key="key", transport=busy, polling=Polling.fixed(600.0, deadline=1e6))
    requests = Txt2Img(model_name="m.safetensors", prompt="a dog", width=512, height=512).sweep(
        seed=range(count)
    )
    block = client.batch(requests, journal=journal, in_flight=count) if journal else None
    async with client, block or client.stream(requests, in_flight=count) as outcomes:
        while len(outcomes.unfinished) < count:
            await anyio.sleep(1)
        assert busy.bought == count
        gc.collect()
        return tracemalloc.get_traced_memory()[0], len(gc.get_objects()), len(asyncio.all_tasks())


@pytest.mark.parametrize("file", [None, "run.db"])
async def test_a_task_in_flight_is_a_few_small_records(file, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_REMEMBERED", 16)  # rows that are kept at hand, however few tasks there are
    journals = [file and tmp_path / f"{number}-{file}" for number in range(3)]
    await held(FEW, journals[0])  # what is made once
    tracemalloc.start()
    try:
        few, many = await held(FEW, journals[1]), await held(MANY, journals[2])
    finally:
        tracemalloc.stop()
    size, objects, tasks = ((more - less) / (MANY - FEW) for less, more in zip(few, many, strict=True))
    assert size < MOST_BYTES
    assert objects < MOST_OBJECTS
    assert tasks == 0
