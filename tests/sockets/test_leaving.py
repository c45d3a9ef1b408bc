"""Being cancelled while a purchase is on its way, on real sockets: what is bought is kept."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import anyio
import pytest

from novita_async import AnyTask, NovitaClient
from novita_async._submit.buyer import Buyer
from novita_async._transport import exchange as _exchange
from novita_async.models.images import ImageSource
from tests.helpers.wire import OK, answer, serve, settled

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]

WISH = AnyTask(path="/v3/async/img2img", body={"prompt": "a dog"})
HUGE = AnyTask(path="/v3/async/img2img", body={"pictures": [ImageSource.from_bytes(b"abc" * 2_400_000)] * 3})
HEAD, TAIL = OK[:-9], OK[-9:]


@pytest.fixture(params=["its own session", "the user's session"])
async def session(request):
    """With its own session an exchange is left to another task; with the user's it always had one."""
    if request.param == "its own session":
        yield None
    else:
        async with aiohttp.ClientSession() as session:
            yield session


@asynccontextmanager
async def client_of(wire, session, **options):
    options = {"drain": 10.0, "images_per_minute": 10} | options
    async with NovitaClient("sk", base_url=wire.url, session=session, **options) as client:
        yield client


def held(client) -> int:
    (account,) = client.statistics().pool.accounts
    return account.pacing.windows[0].taken


def at_rest(client) -> bool:
    return client.statistics().pool.sending == 0 == client._transport.statistics().in_flight


@asynccontextmanager
async def submitting(wire, client, request=WISH):
    """A submission that the server has read whole, cancelled in the end."""
    task = asyncio.create_task(client.submit(request))
    await settled(lambda: bool(wire.peers and wire.peers[0].whole))
    await asyncio.sleep(0.01)
    yield task
    with pytest.raises(asyncio.CancelledError):
        await task
    assert at_rest(client)


def answering(*pieces):
    """A server whose answer comes in pieces, each when it is let go."""
    go = [asyncio.Event() for _ in pieces]

    async def script(peer):
        while await peer.request():
            for piece, event in zip(pieces, go, strict=True):
                await event.wait()
                await peer.send(piece)

    return script, go


def kept(client) -> list[str]:
    return [task.task_id for task in client.unfinished]


async def test_an_answer_within_the_drain_is_kept(session):
    script, (go,) = answering(OK)
    async with serve(script) as wire, client_of(wire, session) as client:
        async with submitting(wire, client) as task:
            for _ in range(3):  # told more than once
                task.cancel()
                await asyncio.sleep(0.01)
            assert not task.done()
            go.set()
        assert kept(client) == ["a-task"]
        assert held(client) == 1


async def test_an_answer_that_has_begun_is_read_to_its_end(session):
    script, (first, second) = answering(HEAD, TAIL)
    async with serve(script) as wire, client_of(wire, session) as client:
        async with submitting(wire, client) as task:
            first.set()
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.sleep(0.01)
            second.set()
        assert kept(client) == ["a-task"]


async def test_a_connection_that_was_left_carries_nothing_else():
    script, (go,) = answering(OK)
    async with serve(script) as wire, client_of(wire, None) as client:
        async with submitting(wire, client) as task:
            task.cancel()
            await asyncio.sleep(0.01)
            go.set()
        await client.submit(WISH)
        assert len(wire.peers) == 2


async def leaving_then_answering(wire, leave, go):
    """Let a submission be left once the server has read it, and answer it then."""
    await settled(lambda: bool(wire.peers and wire.peers[0].whole))
    await asyncio.sleep(0.01)
    leave()
    await asyncio.sleep(0.01)
    go.set()


async def test_a_timeout_of_asyncio_is_still_a_timeout(session):
    script, (go,) = answering(OK)
    async with serve(script) as wire, client_of(wire, session) as client:
        limit = asyncio.timeout(None)
        other = asyncio.create_task(leaving_then_answering(wire, lambda: limit.reschedule(0.0), go))
        with pytest.raises(TimeoutError):
            async with limit:
                await client.submit(WISH)
        await other
        assert asyncio.current_task().cancelling() == 0
        assert kept(client) == ["a-task"]


async def test_a_scope_of_anyio_catches_its_own_cancellation(session):
    script, (go,) = answering(OK)
    async with serve(script) as wire, client_of(wire, session) as client:
        with anyio.CancelScope() as scope:
            other = asyncio.create_task(leaving_then_answering(wire, scope.cancel, go))
            await client.submit(WISH)
        await other
        assert scope.cancelled_caught
        assert asyncio.current_task().cancelling() == 0
        assert kept(client) == ["a-task"]


async def test_a_refusal_within_the_drain_costs_nothing(session):
    script, (go,) = answering(answer(400, b'{"reason":"INVALID_REQUEST_BODY"}'))
    async with serve(script) as wire, client_of(wire, session) as client:
        async with submitting(wire, client) as task:
            task.cancel()
            await asyncio.sleep(0.01)
            go.set()
        assert kept(client) == []


@pytest.mark.parametrize("broken", ["closed", "reset"])
@pytest.mark.parametrize("begun", [False, True])
async def test_a_connection_that_breaks_within_the_drain_leaves_it_uncertain(session, broken, begun):
    go = asyncio.Event()

    async def script(peer):
        await peer.request()
        await peer.send(HEAD if begun else b"")
        await go.wait()
        (peer.close if broken == "closed" else peer.reset)()

    async with serve(script) as wire, client_of(wire, session) as client:
        async with submitting(wire, client) as task:
            task.cancel()
            await asyncio.sleep(0.01)
            go.set()
        assert kept(client) == []
        assert held(client) == 1
        assert client._transport.statistics().unknown == 1


@pytest.mark.parametrize("drain", [0.0, 1e-9, 0.05])
async def test_nothing_goes_on_after_the_drain(session, drain):
    async with serve(lambda peer: peer.rest()) as wire, client_of(wire, session, drain=drain) as client:
        async with submitting(wire, client) as task:
            task.cancel()
        assert kept(client) == []
        assert held(client) == 1
        await settled(lambda: bool(wire.peers[0].reader.at_eof()))


async def test_what_is_not_handed_over_is_aborted_at_once(session):
    hold = asyncio.Event()

    async def script(peer):
        await peer.read(1000)
        await hold.wait()
        await peer.rest()

    async with serve(script) as wire, client_of(wire, session) as client:
        task = asyncio.create_task(client.submit(HUGE))
        await settled(lambda: bool(wire.peers and wire.peers[0].seen))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert at_rest(client)
        assert held(client) == 0
        hold.set()
        await asyncio.gather(*wire.tasks)
        assert not wire.peers[0].whole


async def test_an_answer_that_came_together_with_the_cancellation_is_kept(session):
    script, (go,) = answering(OK)
    async with serve(script) as wire, client_of(wire, session) as client:
        async with submitting(wire, client) as task:
            go.set()
            while not client._transport.statistics().answered and not task.done():
                task.cancel()
                await asyncio.sleep(0)
        assert kept(client) == ["a-task"]


async def test_a_deadline_that_passes_while_the_answer_is_left_to_another_task_counts(monkeypatch):
    async with serve(lambda peer: peer.rest()) as wire, client_of(wire, None) as client:
        monkeypatch.setattr(client._transport, "_watchdog", _exchange.Watchdog(tick=0.01))
        monkeypatch.setattr(client._transport, "answer_timeout", 0.1)
        async with submitting(wire, client) as task:
            task.cancel()
        assert client._transport.statistics().unknown == 1


async def test_a_purchase_has_no_task_of_its_own_unless_someone_is_cancelled(monkeypatch):
    script, (go,) = answering(OK)
    seen = []

    async def send(self, purchase, permit, send):
        seen.append(asyncio.current_task())
        await usual(self, purchase, permit, send)

    usual = Buyer._carry
    monkeypatch.setattr(Buyer, "_carry", send)
    async with serve(script) as wire, client_of(wire, None) as client:
        async with submitting(wire, client) as task:
            assert seen == [task]
            task.cancel()
            await asyncio.sleep(0.01)
            go.set()
    assert len(seen) == 2
    assert seen[1] is not task


async def test_a_cancellation_at_any_turn_loses_nothing_and_mixes_up_nothing(session):
    made = []

    async def script(peer):
        while await peer.request():
            made.append(f"task-{len(made)}")
            body = b'{"task_id":"%s"}' % made[-1].encode()
            for _ in range(5):
                await asyncio.sleep(0)
            await peer.send(answer(200, body))

    async with serve(script) as wire, client_of(wire, session, images_per_minute=1000) as client:
        for turns in range(60):
            task = asyncio.create_task(client.submit(WISH))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            assert kept(client) == made
            assert at_rest(client)
            assert (await client.submit(WISH)).task_id == made[-1]
        assert held(client) == len(made) > 60
