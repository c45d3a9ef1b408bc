"""One client in one event loop after the other, in threads and after a fork, against a served simulation."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import pytest

from novita_async import ConfigurationError, Img2Img, NovitaClient, Polling, Succeeded
from novita_async._transport import connections, downloads, transport
from novita_async.events import Retrying
from novita_async.testing import Fault, FaultPlan, sample_picture
from tests.helpers.programs import python, run

PICTURE = sample_picture("dog", (256, 192))
QUICK = Polling.fixed(0.03)


def request(seed=1):
    return Img2Img(model_name="m", image=PICTURE, prompt="a cute dog", seed=seed)


@pytest.fixture
def server(serve):
    return serve(speed=50.0)


def bought(server):
    return len(server.simulator.ledger.accepted)


def test_ten_loops_in_a_row_buy_ten_pictures_and_see_all_of_them(server):
    client = NovitaClient(polling=QUICK)
    seeds = [asyncio.run(client.run(request(seed))).seed for seed in range(10)]
    assert seeds == list(range(10))
    assert bought(server) == 10
    assert client.unfinished == ()


def test_a_client_that_was_left_can_be_entered_again_in_the_next_loop(server):
    client = NovitaClient(polling=QUICK)

    async def main(seed):
        async with client:
            return (await client.run(request(seed))).seed

    assert [asyncio.run(main(seed)) for seed in range(3)] == [0, 1, 2]
    assert bought(server) == 3


def test_a_stream_runs_in_one_loop_and_again_in_the_next(server, tmp_path):
    client = NovitaClient(polling=QUICK)

    async def main():
        async with client.stream([request(seed) for seed in range(4)], save_to=tmp_path) as outcomes:
            return [type(outcome) async for outcome in outcomes]

    assert [*asyncio.run(main()), *asyncio.run(main())] == [Succeeded] * 8
    assert bought(server) == 8


def test_what_was_bought_in_one_loop_is_known_in_the_next(server):
    client = NovitaClient(polling=QUICK)
    task = asyncio.run(client.submit(request()))
    assert client.unfinished == (task,)
    assert asyncio.run(client.wait(task.task_id)).task == task
    assert client.unfinished == ()


def test_a_quota_holds_from_one_loop_to_the_next(server):
    client = NovitaClient(images_per_minute=2, polling=QUICK)
    for seed in range(2):
        asyncio.run(client.submit(request(seed)))

    async def third():
        async with asyncio.timeout(0.3):
            await client.submit(request(3))

    with pytest.raises(TimeoutError):
        asyncio.run(third())
    assert bought(server) == 2


def test_eight_threads_of_five_runs_get_a_result_for_each_picture_that_is_bought(server):
    client = NovitaClient(polling=QUICK)
    told = set()

    def work(number):
        results = []
        for each in range(5):
            try:
                results.append(asyncio.run(client.run(request(10 * number + each))).seed)
            except ConfigurationError as error:
                told.add(str(error))
        return results

    with ThreadPoolExecutor(8) as threads:
        seeds = [seed for found in threads.map(work, range(8)) for seed in found]
    assert len(set(seeds)) == len(seeds) == bought(server)
    assert all("another thread" in words and "sync.Client" in words for words in told)


def test_another_threads_loop_is_refused_while_the_first_runs(server):
    client = NovitaClient(polling=QUICK)
    refused = []

    def beside():
        try:
            asyncio.run(client.run(request(2)))
        except ConfigurationError as error:
            refused.append(str(error))

    async def main():
        await client.run(request())
        await asyncio.to_thread(beside)

    asyncio.run(main())
    assert "sync.Client" in refused[0]
    assert bought(server) == 1


def test_loops_that_take_turns_each_have_their_own_connections(server):
    """As fixtures and tests have loops of different lengths."""
    client = NovitaClient(polling=QUICK)
    with asyncio.Runner() as outer:
        seeds = [outer.run(client.run(request(1))).seed]
        with asyncio.Runner() as inner:
            seeds.append(inner.run(client.run(request(2))).seed)
        seeds.append(outer.run(client.run(request(3))).seed)
        outer.run(client.aclose())
    assert seeds == [1, 2, 3]
    assert bought(server) == 3


def test_a_loop_that_stands_still_with_a_purchase_under_way_is_not_left(serve):
    server = serve(speed=50.0, faults=FaultPlan.listed("submit", {1: Fault.slow(0.2)}))
    client = NovitaClient(polling=QUICK)
    with asyncio.Runner() as outer:
        loop = outer.get_loop()
        task = loop.create_task(client.submit(request(1)))
        loop.run_until_complete(asyncio.sleep(0.05))
        with pytest.raises(ConfigurationError, match="stands still"):
            asyncio.run(client.submit(request(2)))
        first = loop.run_until_complete(task)
        loop.run_until_complete(client.aclose())
    assert [entry.task_id for entry in server.simulator.ledger.accepted] == [first.task_id]


def test_a_loop_that_stands_still_in_a_pause_before_the_next_attempt_is_not_left(serve):
    told = []
    failed = b'{"code": 500, "reason": "CREATE_TASK_FAILED", "message": "", "metadata": {}}'
    server = serve(speed=50.0, faults=FaultPlan.listed("submit", {1: Fault.answer(500, failed)}))
    client = NovitaClient(
        polling=QUICK, observers=[lambda each: told.append(each) if isinstance(each, Retrying) else None]
    )
    with asyncio.Runner() as outer:
        loop = outer.get_loop()
        task = loop.create_task(client.submit(request(1)))
        while not told:
            loop.run_until_complete(asyncio.sleep(0.01))
        with pytest.raises(ConfigurationError, match="stands still"):
            asyncio.run(client.submit(request(2)))
        loop.run_until_complete(task)
        loop.run_until_complete(client.aclose())
    assert bought(server) == 1


CUT_OFF = """
import asyncio
from novita_async import Img2Img, NovitaClient, Polling
client = NovitaClient(images_per_minute=20, polling=Polling.fixed(0.03))
dog = Img2Img(model_name="m", image="dog.png", prompt="p")
loop = asyncio.new_event_loop()
left = loop.create_task(client.submit(dog))
loop.run_until_complete(asyncio.sleep(0.3))
loop.close()
print(len(asyncio.run(client.run(dog)).images))
print(client.statistics().pool.accounts[0].pacing.windows[0].taken)
"""


def test_a_loop_that_was_closed_under_a_purchase_holds_nothing_up_and_its_images_count(serve, folder):
    server = serve(speed=50.0, faults=FaultPlan.listed("submit", {1: Fault.stall()}))
    done = run(python("-c", CUT_OFF, flags=()), cwd=folder)
    assert done.stdout.split() == ["1", "2"]
    assert bought(server) == 2


CUT_OFF_WRITING = """
import asyncio, os, threading
from novita_async import Img2Img, NovitaClient, Polling
client = NovitaClient(images_per_minute=20, polling=Polling.fixed(0.03))
dog = Img2Img(model_name="m", image="dog.png", prompt="p")
disk = client._saver._folders._steps
usual, began, may_go_on = disk.do, threading.Event(), threading.Event()
disk.at_once = 1
disk.do = lambda steps: (began.set(), may_go_on.wait(60), usual(steps))
loop = asyncio.new_event_loop()
result = loop.run_until_complete(client.run(dog))
left = [loop.create_task(client.save(result, f"left-{n}")) for n in range(2)]
while not began.is_set():
    loop.run_until_complete(asyncio.sleep(0.01))
loop.run_until_complete(asyncio.sleep(0.3))
loop.close()
may_go_on.set()
print(len(asyncio.run(client.save(result, "made"))), flush=True)
os._exit(0)
"""


def test_files_are_saved_in_another_loop_after_one_that_was_closed_while_some_were_written(serve, folder):
    serve(speed=50.0)
    done = run(python("-c", CUT_OFF_WRITING, flags=()), cwd=folder)
    assert done.stdout.split() == ["1"]
    assert len(list((folder / "made").iterdir())) == 1


def test_connections_are_closed_at_the_end_of_their_loop(server):
    client = NovitaClient(polling=QUICK)

    async def main():
        result = await client.run(request())
        await client.fetch(result.images[0])

    with pytest.MonkeyPatch.context() as patch:
        made, new = [], connections.new_session
        for module in (transport, downloads):
            patch.setattr(module, "new_session", lambda *these: made.append(new(*these)) or made[-1])
        asyncio.run(main())
    assert [session.closed for session in made] == [True, True]


def test_a_session_of_the_users_stays_in_its_loop(server):
    async def first():
        session = aiohttp.ClientSession()
        client = NovitaClient(session=session, polling=QUICK)
        await client.run(request())
        return client, session

    with asyncio.Runner() as outer:
        client, session = outer.run(first())
        with pytest.raises(ConfigurationError, match="session that was given belongs to another"):
            asyncio.run(client.run(request(2)))
        outer.run(session.close())
    assert bought(server) == 1


def test_a_loop_of_another_kind_is_told_from_none():
    client = NovitaClient("key")
    with pytest.raises(ConfigurationError, match="no event loop"):
        client.run(request()).send(None)


FORKED = """
import asyncio, os
from novita_async import ConfigurationError, Img2Img, NovitaClient, Polling
client = NovitaClient(polling=Polling.fixed(0.03))
dog = Img2Img(model_name="m", image="dog.png", prompt="p")

def in_child(work):
    child = os.fork()
    if child == 0:
        try:
            print(len(asyncio.run(work()).images), flush=True)
        except ConfigurationError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)

async def again():
    return await client.run(dog)

async def main():
    result = await client.run(dog)
    in_child(again)
    return result

asyncio.run(client.run(dog))
in_child(again)
asyncio.run(main())
"""


def test_a_fork_is_refused_while_a_loop_is_open_and_works_when_none_is(server, folder):
    done = run(python("-c", FORKED, flags=()), cwd=folder)
    quiet, busy = done.stdout.splitlines()
    assert quiet == "1"
    assert "forked" in busy
    assert "sync.Client" in busy
    assert done.returncode == 0
    assert bought(server) == 3
