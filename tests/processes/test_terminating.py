"""SIGTERM in a program that uses the library: a process of its own each time."""

import asyncio
import signal
from collections import Counter
from contextlib import suppress

import pytest

from novita_async._purchase.machine import State
from novita_async._util.scopes import terminated_gently
from novita_async.testing import DEFAULT_API_KEY, sample_picture
from tests.helpers.campaigns import rows_of
from tests.helpers.programs import python
from tests.helpers.served import served

PROGRAM = """
import sys
import anyio
from novita_async import Img2Img, NovitaClient, Polling
from novita_async.events import Announced, Bought, Transition

url, key, picture, journal, *how = sys.argv[1:]

def tell(event):
    if isinstance(event, Transition) and isinstance(event.fact, (Announced, Bought)):
        print(type(event.fact).__name__, flush=True)

async def main():
    asked = Img2Img(model_name="m", image=picture, prompt="a dog").sweep(seed=range(12))
    try:
        async with NovitaClient(key, base_url=url, observers=[tell], polling=Polling.fixed(0.1)) as client:
            async with client.batch(asked, journal=journal, in_flight=4) as outcomes:
                async for outcome in outcomes:
                    pass
    finally:
        print("tidied up", flush=True)

if "own" in how:  # to raise there would break off asyncio wherever it is
    import os, signal
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
anyio.run(main)
"""


@pytest.fixture
def begin(tmp_path, start_program):
    (tmp_path / "dog.png").write_bytes(sample_picture("dog", (128, 128)))

    def start(url, *how):
        told = (url, DEFAULT_API_KEY, str(tmp_path / "dog.png"), str(tmp_path / "run.db"), *how)
        return start_program(python("-c", PROGRAM, *told))

    return start


def test_a_program_that_is_terminated_waits_for_answers_and_leaves_nothing_uncertain(begin, tmp_path):
    with served(latency=0.3, speed=5.0, workers=8) as server:
        process = begin(server.url)
        process.lines_until("Bought", 3)
        process.lines_until("Announced", 2)
        process.send_signal(signal.SIGTERM)
        code, out, err = process.finish()
        assert (code, err) == (128 + signal.SIGTERM, "")
        assert out.endswith("tidied up\n")
        states = Counter(row.state for row in asyncio.run(rows_of(tmp_path / "run.db")))
        assert not states.keys() & {State.ANNOUNCED, State.UNCERTAIN}
        assert 3 <= len(server.ledger.accepted) < 12
        assert begin(server.url).wait() == 0
        assert len(server.ledger.accepted) == 12


def test_a_program_with_arrangements_of_its_own_keeps_them(begin):
    with served(latency=0.05) as server:
        process = begin(server.url, "own")
        process.lines_until("Bought", 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 7


def test_a_program_that_swallows_the_cancellation_ends_all_the_same():
    async def stubborn():
        with terminated_gently():
            signal.raise_signal(signal.SIGTERM)
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(10)

    with pytest.raises(SystemExit) as ended:
        asyncio.run(stubborn())
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_another_cancellation_stays_one():
    async def cancelled():
        with terminated_gently():
            asyncio.current_task().cancel()
            await asyncio.sleep(10)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())


def test_where_a_loop_knows_no_signals_nothing_is_arranged(monkeypatch):
    def unable(*_):
        raise NotImplementedError

    async def quick():
        monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", unable)
        with terminated_gently():
            await asyncio.sleep(0)

    asyncio.run(quick())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
