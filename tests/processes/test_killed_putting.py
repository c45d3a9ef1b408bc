"""A batch whose process is killed while it puts files into an object store: the next run takes them up."""

import asyncio
import os
import threading

import pytest

from novita_async._purchase.machine import State
from novita_async.testing import DEFAULT_API_KEY, sample_picture
from tests.helpers.campaigns import rows_of
from tests.helpers.objects import gateway
from tests.helpers.programs import python, run
from tests.helpers.served import served

COUNT = 6
PROGRAM = """
import sys
import anyio
from novita_async import Img2Img, NovitaClient, Polling, Succeeded

url, key, picture, journal, bucket, count = sys.argv[1:]

async def main():
    asked = Img2Img(model_name="m", image=picture, prompt="a dog").sweep(seed=range(int(count)))
    async with NovitaClient(key, base_url=url, polling=Polling.fixed(0.05)) as client:
        async with client.batch(asked, journal=journal, save_to=f"s3://{bucket}/spring") as outcomes:
            async for outcome in outcomes:
                print(*outcome.objects if isinstance(outcome, Succeeded) else [outcome], flush=True)

anyio.run(main)
"""


@pytest.mark.parametrize("trouble", ["hold", "withhold"])
def test_what_a_killed_process_has_put_is_its_own_and_nothing_is_written_over(
    trouble, s3, tmp_path, start_program
):
    """Killed when half of the files were put and their answers held back, or were not put yet."""
    (tmp_path / "dog.png").write_bytes(sample_picture("dog", (128, 128)))
    bucket, journal = s3.new_bucket(), tmp_path / "run.db"
    s3.put(bucket, "spring/00004-4-1.png", b"somebody else's")
    held = threading.Semaphore(0)

    def hold(method, name):
        number = name.rpartition("/")[2]
        if method != "PUT" or number not in ("00001-1-1.png", "00003-3-1.png", "00005-5-1.png"):
            return None
        held.release()
        return trouble

    with served(speed=20.0, workers=8) as server:

        def command():
            told = (server.url, DEFAULT_API_KEY, tmp_path / "dog.png", journal, bucket, COUNT)
            return python("-c", PROGRAM, *told)

        with gateway(s3, hold) as between:
            program = start_program(command(), env={**os.environ, **between.at.environment})
            for _ in range(3):
                assert held.acquire(timeout=60)
            program.kill()
            before = {name: s3.read(bucket, name) for name in s3.names_in(bucket)}
        second = run(command(), env={**os.environ, **s3.environment})
        assert second.returncode == 0, second.stderr
        assert len(server.ledger.accepted) == COUNT
    names = [f"spring/{n:05d}-{n}-1{'.2' if n == 4 else ''}.png" for n in range(COUNT)]
    assert sorted(second.stdout.split()) == [f"s3://{bucket}/{name}" for name in names]
    assert s3.names_in(bucket) == sorted(["spring/.novita-async", "spring/00004-4-1.png", *names])
    assert all(s3.read(bucket, name) == data for name, data in before.items())
    assert {row.state for row in asyncio.run(rows_of(journal))} == {State.SAVED}
