"""Being cancelled while a purchase is on its way, on real sockets: what is bought is kept."""

import asyncio
import gc
import threading
from contextlib import asynccontextmanager

import aiohttp
import anyio
import pytest
from aiohttp.http_writer import StreamWriter

from novita_async import AnyTask, NovitaClient, SubmissionUncertain
from novita_async._api import protocol
from novita_async._http import HTTPRequest
from novita_async._submit.buyer import Buyer
from novita_async._transport import exchange as _exchange
from novita_async._transport.body import TEXT_SLICE
from novita_async._transport.transport import AiohttpTransport
from novita_async.models.images import ImageSource
from tests.helpers.exchanges import KEY, Sent
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
    return client.statistics().pool.sending == 0 == client._buyer.transport.statistics().in_flight


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
        assert client._buyer.transport.statistics().unknown == 1


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
            while not client._buyer.transport.statistics().answered and not task.done():
                task.cancel()
                await asyncio.sleep(0)
        assert kept(client) == ["a-task"]


async def test_a_deadline_that_passes_while_the_answer_is_left_to_another_task_counts(monkeypatch):
    monkeypatch.setattr(protocol, "TASK_TIMEOUT", 0.1)
    monkeypatch.setattr(type(WISH), "row", None)  # whose timeout would count
    async with serve(lambda peer: peer.rest()) as wire, client_of(wire, None) as client:
        monkeypatch.setattr(client._buyer.transport, "_watchdog", _exchange.Watchdog(longest=0.01))
        async with submitting(wire, client) as task:
            task.cancel()
        assert client._buyer.transport.statistics().unknown == 1


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


# --- Leaving the loop ---------------------------------------------------------------------------------------

SMALL = {"prompt": "a dog"}
LARGE = {"prompt": "a dog", "pad": "x" * 200_000}


@pytest.fixture
def elsewhere():
    """A server in a loop of its own that answers when it is let go, and how many requests it has read."""
    read, go = [], threading.Event()
    box, started, over = {}, threading.Event(), threading.Event()

    async def script(peer):
        while await peer.request():
            read.append(peer)
            await asyncio.to_thread(go.wait, 20)
            await peer.send(answer(200, b'{"task_id":"task-%d"}' % len(read)))

    async def main():
        async with serve(script) as wire:
            box["url"] = wire.url
            started.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    started.wait()
    yield box["url"], read, go
    go.set()
    over.set()
    thread.join()


async def run(client, body, _):
    await client.run(AnyTask(path="/v3/async/img2img", body=body))


async def submit(client, body, _):
    await client.submit(AnyTask(path="/v3/async/img2img", body=body))


async def stream(client, body, _):
    async with client.stream([AnyTask(path="/v3/async/img2img", body=body)]) as outcomes:
        await anext(outcomes)


async def batch(client, body, folder):
    requests = [AnyTask(path="/v3/async/img2img", body=body)]
    async with client.batch(requests, journal=folder / "run.db") as outcomes:
        await anext(outcomes)


async def end_the_loop(client, task):
    """Return from `asyncio.run` while the task runs: all tasks are cancelled."""


async def end_the_loop_while_cancelled(client, task):
    task.cancel()
    await asyncio.sleep(0.02)


async def cancel_everything(client, task):
    for one in asyncio.all_tasks() - {asyncio.current_task()}:
        one.cancel()
    await asyncio.wait({task})


async def close_the_client(client, task):
    await client.aclose()


async def cancel_and_close_the_client(client, task):
    task.cancel()
    await client.aclose()


LEAVING = [
    end_the_loop,
    end_the_loop_while_cancelled,
    cancel_everything,
    close_the_client,
    cancel_and_close_the_client,
]


@pytest.mark.parametrize("given", [False, True], ids=["its own session", "the user's session"])
@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("leave", LEAVING)
@pytest.mark.parametrize("work", [run, submit, stream, batch])
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # sessions that the loop's end has left open
@pytest.mark.filterwarnings("ignore:.*Watcher.run:pytest.PytestUnraisableExceptionWarning")
# anyio wraps the coroutine of a task, which is never begun where all tasks are cancelled first
def test_a_purchase_is_drained_however_its_loop_is_left(  # noqa: PLR0917 - ways times ways
    elsewhere, tmp_path, work, leave, body, given
):
    url, read, go = elsewhere
    left = []

    async def main():
        session = aiohttp.ClientSession() if given else None
        client = NovitaClient("sk", base_url=url, session=session, images_per_minute=10)
        left.append(client)
        task = asyncio.create_task(work(client, body, tmp_path))
        await settled(lambda: bool(read))
        asyncio.get_running_loop().call_later(0.05, go.set)
        await leave(client, task)

    asyncio.run(main())
    bought, uncertain = kept(left[0]), left[0].uncertain
    left.clear()
    gc.collect()  # here, where what the loop's end has left open is no failure
    assert (bought, uncertain) == (["task-1"], ())


def test_leaving_the_loop_takes_no_longer_than_the_drain(elsewhere):
    url, read, _ = elsewhere

    async def main():
        client = NovitaClient("sk", base_url=url, drain=0.05)
        left.append(client)
        left.append(asyncio.create_task(submit(client, SMALL, None)))
        await settled(lambda: bool(read))
        await client.aclose()

    left = []
    asyncio.run(main())
    client, task = left
    assert kept(client) == []
    assert isinstance(task.exception(), SubmissionUncertain)


async def test_a_body_that_was_handed_over_goes_out_though_its_writer_is_cancelled(monkeypatch):
    """The last piece waits for a slow line when something cancels every task, aiohttp's own included."""
    request = HTTPRequest(method="POST", path="/v3/x", body=(b"x" * (TEXT_SLICE + 90_000),))
    sent = Sent()
    drain = StreamWriter.drain

    async def wait_for_the_line(writer):
        await (asyncio.Event().wait() if sent.handovers else drain(writer))

    async def script(peer):
        await peer.request()
        (writer,) = (one for one in asyncio.all_tasks() if one.get_coro().__name__ == "write_bytes")
        writer.cancel()
        await asyncio.wait({writer})
        await peer.send(OK)
        await peer.rest()

    monkeypatch.setattr(StreamWriter, "drain", wait_for_the_line)
    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        response = await transport.send(request, KEY, on_handover=sent.hand_over)
        await transport.aclose()
    assert (response.status, response.early, sent.handovers) == (200, False, 1)
