"""The client without `await`, against a served simulation: threads, interrupts, forks, the program's end."""

import gc
import inspect
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from novita_async import ConfigurationError, Img2Img, NovitaClient, Polling, Succeeded, TaskTimeout
from novita_async.sync import Client
from novita_async.testing import Fault, FaultPlan, sample_picture
from tests.helpers.programs import python, run

PICTURE = sample_picture("dog", (256, 192))
QUICK = Polling.fixed(0.03)


def request(seed=1, **more):
    return Img2Img(model_name="m", image=PICTURE, prompt="a cute dog", seed=seed, **more)


@pytest.fixture
def client(serve):
    server = serve(speed=50.0)
    with Client(polling=QUICK) as client:
        client.server = server
        yield client


def bought(client):
    return len(client.server.simulator.ledger.accepted)


def test_a_request_is_run_and_its_files_are_saved(client, tmp_path):
    result = client.run(request())
    (path,) = client.save(result, tmp_path)
    assert path.read_bytes() == client.fetch(result.images[0])
    task = client.submit(request(2))
    assert client.unfinished == (task,)
    assert client.wait(task).task == task
    assert client.poll(task).state == "succeeded"
    assert client.unfinished == client.uncertain == ()
    assert bought(client) == 2


def test_a_stream_a_batch_and_a_watch_hand_out_their_outcomes(client, tmp_path):
    with client.stream([request(seed) for seed in range(5)], save_to=tmp_path) as outcomes:
        seeds = sorted(outcome.unwrap().seed for outcome in outcomes)
        assert outcomes.unfinished == outcomes.uncertain == ()
        assert outcomes.statistics().delivered == 5
    with client.batch([request(seed) for seed in range(3)], journal=tmp_path / "run.db") as outcomes:
        assert all(isinstance(outcome, Succeeded) for outcome in outcomes)
    with client.batch([request(seed) for seed in range(3)], journal=tmp_path / "run.db") as outcomes:
        assert len(list(outcomes)) == 3
    first, second = client.submit(request(7)), client.submit(request(8))
    with client.watch([first], updates=True) as updates:
        updates.watch(second)
        ended = {update.task_id for update in updates if isinstance(update, Succeeded)}
    with client.watch([first.task_id]) as outcomes:
        (again,) = outcomes
    assert seeds == [0, 1, 2, 3, 4]
    assert ended == {first.task_id, second.task_id}
    assert again.task_id == first.task_id
    assert bought(client) == 10


def test_the_account_is_asked_and_models_are_listed(client):
    assert client.balance().available > 0
    every = list(client.models())
    first = next(client.models(types="checkpoint"))
    assert first in every
    assert client.statistics().unfinished == 0
    assert "NovitaClient" in repr(client)
    client.webhook_waker()(b"{}", None)


def test_errors_are_those_of_the_client(client):
    with pytest.raises(TaskTimeout) as told:
        client.run(request(), timeout=0.0)
    assert client.unfinished == (told.value.task,)
    with pytest.raises(KeyError), client.stream([request(1), request(2)]) as outcomes:
        next(outcomes)
        raise KeyError


def test_threads_share_a_client(client):
    def work(number):
        return [client.run(request(10 * number + each)).seed for each in range(5)]

    with ThreadPoolExecutor(8) as threads:
        seeds = [seed for found in threads.map(work, range(8)) for seed in found]
    assert len(set(seeds)) == bought(client) == 40


INSIDE = """
import asyncio
from novita_async import Img2Img, Polling
from novita_async.sync import Client

async def notebook():
    with Client(polling=Polling.fixed(0.03)) as client:
        return client.run(Img2Img(model_name="m", image="dog.png", prompt="p"))

print(len(asyncio.run(notebook()).images))
"""


def test_a_call_works_inside_a_running_loop(serve, folder):
    """In a program of its own: a loop of this one must not be blocked."""
    serve(speed=50.0)
    done = run(python("-c", INSIDE), cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_an_interrupt_waits_for_the_answer_of_a_purchase_and_keeps_its_task(serve):
    server = serve(faults=FaultPlan.listed("submit", {1: Fault.slow(0.5)}))
    caller = threading.get_ident()

    def interrupt_once_bought():
        while not server.simulator.ledger.accepted:
            time.sleep(0.01)
        signal.pthread_kill(caller, signal.SIGINT)

    with Client(polling=QUICK) as client:
        interrupter = threading.Thread(target=interrupt_once_bought)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            client.submit(request())
        interrupter.join()
        assert len(client.unfinished) == len(server.simulator.ledger.accepted) == 1


def test_an_observer_that_calls_its_client_is_refused(client):
    refused = []

    def meddle(_):
        try:
            other.balance()
        except ConfigurationError as error:
            refused.append(error)

    with Client(polling=QUICK, observers=[meddle]) as other:
        other.run(request())
    assert "an observer" in str(refused[0])


WAYS = {
    "stream": lambda client: client.stream([request()]),
    "batch": lambda client: client.batch([request()], journal="nowhere.db"),
    "watch": lambda client: client.watch(["a"]),
}


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.run(request()),
        lambda client: client.submit(request()),
        lambda client: client.balance(),
        lambda client: next(client.models()),
        lambda client: client.__enter__(),
        *(lambda client, way=way: way(client).__enter__() for way in WAYS.values()),
    ],
    ids=["run", "submit", "balance", "models", "with", *WAYS],
)
def test_a_client_that_is_closed_says_how_a_new_one_is_made(client, use):
    client.close()
    client.close()
    with pytest.raises(ConfigurationError, match=r"is closed: nothing was bought.* with Client\(\)"):
        use(client)


def test_what_is_unfinished_is_told_by_a_client_that_is_closed(client):
    task = client.submit(request())
    client.close()
    assert client.unfinished == (task,)
    assert client.uncertain == ()
    assert client.statistics().unfinished == 1


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("use", [iter, next, aiter, anext, lambda block: block.__aenter__()])
def test_a_block_that_was_not_entered_says_how_it_is_entered(client, way, use):
    with pytest.raises(ConfigurationError, match=r"nothing was bought; with client\.stream"):
        use(way(client))


def test_async_with_says_how_a_client_is_entered(client):
    with pytest.raises(ConfigurationError, match=r"with Client\(\) as client"):
        client.__aenter__()


def test_a_client_that_is_collected_ends_its_thread(serve):
    serve()
    before = threading.active_count()
    client = Client()
    assert threading.active_count() == before + 1
    del client
    gc.collect()
    assert threading.active_count() == before


FORKED = """
import os
from novita_async import ConfigurationError, Img2Img
from novita_async.sync import Client
client = Client()
child = os.fork()
if child == 0:
    try:
        client.balance()
    except ConfigurationError as error:
        print(error, flush=True)
    client.close()
    os._exit(0)
os.waitpid(child, 0)
print(client.balance().available)
"""


def test_a_forked_process_is_told_to_make_its_own(serve):
    serve()
    done = run(python("-c", FORKED))
    told, balance = done.stdout.splitlines()
    assert "before the process was forked" in told
    assert float(balance) > 0
    assert done.returncode == 0


LEFT_OPEN = """
from novita_async import Img2Img, Polling
from novita_async.sync import Client
client = Client(polling=Polling.fixed(0.03))
print(len(client.run(Img2Img(model_name="m", image="dog.png", prompt="p")).images))
"""


def test_a_program_that_closes_nothing_ends(serve, folder):
    serve(speed=50.0)
    done = run(python("-c", LEFT_OPEN), cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


@pytest.mark.parametrize(
    "name",
    [
        "run",
        "submit",
        "wait",
        "poll",
        "save",
        "fetch",
        "balance",
        "stream",
        "batch",
        "work",
        "enqueue",
        "outcome",
        "models",
        "watch",
    ],
)
def test_every_call_has_the_words_and_the_options_of_the_asynchronous_one(name):
    ours, theirs = getattr(Client, name), getattr(NovitaClient, name)
    assert inspect.getdoc(ours) == inspect.getdoc(theirs)
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)


def test_no_call_of_the_asynchronous_client_is_missing():
    public = {name for name in vars(NovitaClient) if not name.startswith("_")} - {"aclose"}
    assert public <= {*vars(Client)}


def test_a_client_beside_another_shares_its_thread_and_closes_nothing(client):
    with client.with_options(polling=Polling.fixed(0.05)) as other:
        task = other.submit(request())
    assert client.wait(task).task == task
    assert other.balance().available > 0
