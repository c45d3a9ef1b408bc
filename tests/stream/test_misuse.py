"""Blocks that are used in another way than meant: work, or one clear error with advice."""

import asyncio

import anyio
import pytest

from novita_async import ConfigurationError, GeneratedImage, NovitaClient, Succeeded, TaskResult
from novita_async._journal.memory import MemoryJournal
from tests.helpers.service import client_of, request, requests, service

pytestmark = pytest.mark.anyio

WAYS = {
    "stream": lambda client: client.stream(requests(2)),
    "batch": lambda client: client.batch(requests(2), journal=MemoryJournal()),
    "watch": lambda client: client.watch(["a"]),
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


# --- Used in another way than meant -----------------------------------------------------------------------


@each_way
async def test_iterating_over_a_block_that_was_not_entered_says_how_it_is_entered(way):
    simulation = service()
    async with client_of(simulation) as (client, _):
        with pytest.raises(ConfigurationError, match=r"must be entered .*async with client.stream"):
            async for _ in way(client):
                raise AssertionError
    assert simulation.ledger.entries == []


@pytest.mark.parametrize("name", ["stream", "watch"])
async def test_a_block_that_is_no_batch_cannot_be_awaited(name):
    simulation = service()
    async with client_of(simulation) as (client, _):
        with pytest.raises(ConfigurationError, match="must be entered"):
            await WAYS[name](client)
    assert simulation.ledger.entries == []


@pytest.mark.parametrize(
    "use",
    [anext, next, iter, lambda block: block.__enter__(), lambda block: block.__exit__(None, None, None)],
    ids=["anext", "next", "for", "with", "leaving with"],
)
@each_way
async def test_every_other_use_of_a_block_that_was_not_entered_says_how_it_is_entered(way, use):
    simulation = service()
    async with client_of(simulation) as (client, _):
        with pytest.raises(ConfigurationError, match=r"nothing was bought; async with client\.stream"):
            use(way(client))
    assert simulation.ledger.entries == []


@each_way
async def test_after_its_block_a_stream_says_that_nothing_more_comes(way):
    async with client_of(service()) as (client, _):
        async with way(client) as outcomes:
            pass
        for use in (lambda: anext(outcomes), lambda: outcomes.watch("b")):
            with pytest.raises(ConfigurationError, match=r"this block was left.*unfinished"):
                await use()


RESULT = TaskResult(images=(GeneratedImage(url="https://host.example/a.png"),))
USES = {
    "run": lambda client: client.run(request()),
    "submit": lambda client: client.submit(request()),
    "wait": lambda client: client.wait("a"),
    "poll": lambda client: client.poll("a"),
    "balance": lambda client: client.balance(),
    "models": lambda client: anext(client.models()),
    "save": lambda client: client.save(RESULT, "nowhere"),
    "fetch": lambda client: client.fetch(RESULT.images[0]),
    "entering": lambda client: client.__aenter__(),
    **{name: lambda client, way=way: way(client).__aenter__() for name, way in WAYS.items()},
}
each_use = pytest.mark.parametrize("use", USES.values(), ids=USES)


@pytest.mark.parametrize("use", [*USES.values(), lambda client: client.aclose()], ids=[*USES, "closing"])
def test_where_no_loop_of_asyncio_runs_each_use_says_what_to_run(use):
    client = NovitaClient(api_key="key", transport=service().transport())
    with pytest.raises(ConfigurationError, match=r"no event loop of asyncio runs here.*anyio\.run"):
        use(client).__await__().send(None)


@each_use
async def test_a_client_that_is_closed_says_that_it_can_be_entered_again(use):
    simulation = service()
    async with client_of(simulation) as (client, _):
        await client.aclose()
        if use is not USES["entering"]:
            with pytest.raises(ConfigurationError, match="is closed: nothing was bought; enter it again"):
                await use(client)
        assert simulation.ledger.entries == []
        async with client:
            assert (await client.run(request())).images


@pytest.mark.parametrize("name", [name for name in USES if name != "entering"])
async def test_a_client_that_learns_from_its_file_says_that_it_must_be_entered(name, tmp_path):
    (path := tmp_path / "learned.json").write_text("kept")
    client = NovitaClient(api_key="key", transport=service().transport(), learned=path)
    with pytest.raises(ConfigurationError, match=r"not entered.*async with NovitaClient\(learned="):
        await USES[name](client)
    await client.aclose()
    assert path.read_text() == "kept"


async def test_a_client_that_was_not_entered_works_and_is_closed_by_hand():
    simulation = service()
    transport = simulation.transport()
    client = NovitaClient(api_key=simulation.api_key, transport=transport, downloader=transport)
    assert (await client.run(request())).images
    await client.aclose()
    await client.aclose()


def test_with_without_async_says_how_a_client_is_entered():
    with (
        pytest.raises(ConfigurationError, match=r"async with NovitaClient\(\)"),
        NovitaClient(api_key="key"),
    ):
        raise AssertionError


# --- Entered here, left there -----------------------------------------------------------------------------


async def elsewhere(work):
    """Do some work in a task of its own."""
    return await asyncio.get_running_loop().create_task(work)


@each_way
async def test_a_block_may_be_entered_in_one_task_and_left_in_another(way):
    simulation = service()
    async with client_of(simulation) as (client, _):
        block, before = way(client), asyncio.all_tasks()
        outcomes = await elsewhere(block.__aenter__())
        await elsewhere(anext(outcomes))
        await elsewhere(block.__aexit__(None, None, None))
        assert asyncio.all_tasks() == before


async def test_a_client_may_be_entered_in_one_task_and_left_in_another():
    simulation = service()
    transport = simulation.transport()
    client = NovitaClient(api_key=simulation.api_key, transport=transport, downloader=transport)
    await elsewhere(client.__aenter__())
    assert (await client.run(request())).images
    await elsewhere(client.__aexit__(None, None, None))


# --- Tasks that are watched besides -----------------------------------------------------------------------


async def test_tasks_that_are_watched_in_a_stream_take_no_slot_and_free_none():
    simulation = service(workers=1000)
    async with client_of(simulation) as (client, _):
        paid = [await client.submit(request(seed=1000 + n)) for n in range(20)]
        async with client.stream(requests(50), in_flight=2) as outcomes:
            for task in paid:
                outcomes.watch(task)
            await anyio.sleep(300)
            assert outcomes.statistics().taken_in == 2
            taken = [await anext(outcomes) for _ in range(20)]
            mine = sum(outcome.request is not None for outcome in taken)
            await anyio.sleep(300)
            assert outcomes.statistics().taken_in == 2 + mine
            taken += [outcome async for outcome in outcomes]
    assert len(taken) == len({outcome.task_id for outcome in taken}) == 70
    assert all(isinstance(outcome, Succeeded) for outcome in taken)


async def test_a_task_that_is_added_with_the_last_outcome_of_a_stream_is_still_waited_for():
    async with client_of(service()) as (client, _):
        paid = [await client.submit(request(seed=1000 + n)) for n in range(3)]
        ids = []
        async with client.stream(requests(1)) as outcomes:
            async for outcome in outcomes:
                ids.append(outcome.task_id)
                if paid:
                    outcomes.watch(paid.pop(0).task_id)
    assert len(ids) == len(set(ids)) == 4


async def test_what_was_not_entered_says_how_to_enter_it():
    async with client_of(service()) as (client, _):
        told = {name: repr(way(client)) for name, way in WAYS.items()}
    assert told["stream"] == told["watch"] == "<not entered yet: async with ... as outcomes>"
    assert told["batch"] == "<Batch, not entered yet: await it, or async with ... as outcomes>"
