"""A batch through a route that answers at once, killed while pictures are made, and run again."""

import json
import os
import signal
import time

import pytest

from novita_async import SqliteJournal, Succeeded, Uncertain
from novita_async.journal import State
from tests.helpers.programs import GLANCE, LONGEST, python, run, running
from tests.helpers.served import check_servers, served
from tests.helpers.service import picture

pytestmark = pytest.mark.anyio

BATCH = """
import asyncio, sys
from novita_async import EditImage, NovitaClient

async def main(folder, count):
    requests = EditImage(model="gpt-image-2", image="dog.png", prompt="p", size="64x64").sweep(
        prompt=[f"number {n}" for n in range(int(count))]
    )
    async with NovitaClient() as client:
        places = {"journal": f"{folder}/run.db", "save_to": f"{folder}/out"}
        async with client.batch(requests, **places, in_flight=4) as outcomes:
            async for outcome in outcomes:
                names = [path.name for path in getattr(outcome, "paths", ())]
                print(type(outcome).__name__, *names, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_batch_that_is_killed_buys_none_twice_and_tells_what_is_lost(
    tmp_path,
):
    (tmp_path / "dog.png").write_bytes(picture())
    with served(speed=0.5) as server:  # an answer takes half a second: there are some under way at any time
        environment = os.environ | {"NOVITA_API_KEY": "sk_simulator", "NOVITA_BASE_URL": server.url}
        options = {"cwd": tmp_path, "env": environment}
        command = python("-c", BATCH, tmp_path, 12)
        with running(command, **options) as program:
            for _ in range(2):
                program.line()
            until(lambda: len(server.ledger.accepted) > 4)
            program.send_signal(signal.SIGKILL)
            program.wait()
        done = run(command, **options)
        accepted = len(server.ledger.accepted)
    told = done.stdout.split("\n")[:-1]
    lost = [line for line in told if line == Uncertain.__name__]
    saved = [line.split()[1] for line in told if line.startswith(Succeeded.__name__)]
    assert len(told) == 12
    assert len(saved) <= accepted <= 12  # none was bought twice; what is lost may not have come there
    assert 1 <= len(lost) <= 4
    files = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert set(saved) == files
    assert len(files) == 12 - len(lost)
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        rows = [purchase async for purchase in journal.where()]
        summary = await journal.summary()
    assert sorted(row.state for row in rows) == [State.SAVED] * len(saved) + [State.UNCERTAIN] * len(lost)
    assert (summary.bought, summary.perhaps) == (len(saved), len(lost))
    lines = (tmp_path / "out" / "novita-index.jsonl").read_text().splitlines()
    assert {json.loads(line)["task_id"] for line in lines} == {None}


def until(true):
    deadline = time.monotonic() + LONGEST
    while not true():
        check_servers()
        assert time.monotonic() < deadline
        time.sleep(GLANCE / 10)
