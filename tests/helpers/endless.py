"""Very many requests to a service that remembers nothing, to see what the client remembers.

    python tests/endless.py COUNT [JOURNAL]

prints how much memory this process took, and how many blocks of it Python had handed out, when a third of the
requests were through and when all were. Caches that may grow to a set size are made small.
"""

import gc
import json
import os
import sys
from pathlib import Path

import anyio

from novita_async import NovitaClient, Polling, Txt2Img
from novita_async._http import HTTPRequest, HTTPResponse
from novita_async._journal.sqlite import file, store
from novita_async.testing import run_virtually

LATENCY = 0.05
TASK = 20.0


class Forgetful:
    """A service whose task ids say when the task was made, so that it need not remember one."""

    def __init__(self) -> None:
        self.made = 0

    async def send(self, request: HTTPRequest, _key, /, *, on_handover=None) -> HTTPResponse:
        await anyio.sleep(LATENCY)
        if on_handover is not None:
            on_handover()
        answer = self.submitted() if request.method == "POST" else looked_at(dict(request.query)["task_id"])
        await anyio.sleep(LATENCY)
        return HTTPResponse(status=200, body=json.dumps(answer).encode())

    def submitted(self) -> dict[str, object]:
        self.made += 1
        return {"task_id": f"{self.made:08x}-{anyio.current_time()}"}

    async def aclose(self) -> None:
        """Nothing is open."""


def looked_at(task_id: str) -> dict[str, object]:
    number, _, made_at = task_id.partition("-")
    done = anyio.current_time() >= float(made_at) + TASK
    status = "TASK_STATUS_SUCCEED" if done else "TASK_STATUS_PROCESSING"
    image = {"image_url": f"https://host.invalid/{number}.png?X-Amz-Signature=0", "image_type": "png"}
    return {"task": {"task_id": task_id, "status": status}, "images": [image] if done else []}


def used() -> dict[str, int]:
    gc.collect()
    pages = Path("/proc/self/statm").read_text().split()[1]
    return {"bytes": int(pages) * os.sysconf("SC_PAGE_SIZE"), "blocks": sys.getallocatedblocks()}


async def main(count: int, journal: str | None) -> None:
    wire, seen = Forgetful(), []
    client = NovitaClient(
        api_key="k", transport=wire, images_per_minute=10**9, polling=Polling(polls_per_second=1000.0)
    )
    requests = Txt2Img(model_name="m", prompt="a dog", width=512, height=512).sweep(seed=range(count))
    stream = client.batch if journal else client.stream
    async with client, stream(requests, **{"journal": journal} if journal else {}) as outcomes:
        through = 0
        async for outcome in outcomes:
            assert outcome.unwrap().images
            through += 1
            if through in (count // 3, count):
                seen.append(used())
    assert wire.made == through == count
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    file._SETTINGS = (*file._SETTINGS, "cache_size=-256")
    store._REMEMBERED = 64
    run_virtually(main, int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
