"""Single requests in a shared batch: put in by one, bought by another, waited for by a third."""

import asyncio
import hashlib
import json
from functools import partial
from types import SimpleNamespace

import pytest

from novita_async import Img2Img, Polling, Succeeded, Txt2Img
from novita_async._journal.postgres.inbox import PostgresInbox, key_of
from novita_async._purchase.machine import Announced, Bought, Completed, Lost
from novita_async._util.clock import loop_time
from novita_async.errors import ConfigurationError, JournalError, SubmissionUncertain
from novita_async.journal import PostgresJournal, State
from novita_async.testing import sample_picture
from tests.helpers.journals import asked
from tests.helpers.pooler import pooled
from tests.helpers.postgres import new_batch, run_sql
from tests.helpers.purchases import ENDPOINT, result, task
from tests.helpers.service import client_of, service

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]


@pytest.fixture
async def url(database):
    return new_batch(database)


@pytest.fixture(params=["direct", "pooled"])
async def way(request, url):
    """A batch, reached directly and through a pooler in transaction mode."""
    if request.param == "direct":
        yield url
        return
    async with pooled(url.partition("#")[0]) as (through, pooler):
        yield f"{through}#{url.partition('#')[2]}"
        assert pooler.switches > 3


def text(seed):
    return Txt2Img(model_name="m.safetensors", prompt="a dog", width=512, height=512, seed=seed)


def texts(count):
    return map(text, range(count))


async def test_a_request_that_one_process_enqueues_another_buys_and_a_third_has_the_outcome(way):
    simulation = service(speed=1000.0, latency=0.001, workers=64)
    quick = {"polling": Polling.fixed(0.01)}
    async with (
        client_of(simulation, **quick) as (web, _),
        client_of(simulation, **quick) as (worker, _),
        client_of(simulation, **quick) as (other, _),
    ):
        ids = [await web.enqueue(each, journal=way) for each in texts(3)]
        assert await web.enqueue(text(7), journal=way, id="order-7") == "order-7"
        assert await web.enqueue(text(7), journal=way, id="order-7") == "order-7"
        waiting = [asyncio.create_task(other.outcome(each, journal=way)) for each in (*ids, "order-7")]
        url, _, batch = way.partition("#")
        async with worker.work(batch, journal=url) as outcomes:
            assert len([each async for each in outcomes]) == 4
        got = await asyncio.gather(*waiting)
        assert all(isinstance(each, Succeeded) for each in got)
        assert len({each.task_id for each in got}) == len(simulation.ledger.accepted) == 4
        again = await web.outcome("order-7", journal=way)
        assert again.task_id == got[3].task_id
        assert (await again.result.images[0].bytes())[:4] == b"\x89PNG"


async def test_a_picture_in_memory_is_put_where_the_workers_save(url, tmp_path):
    simulation = service(speed=1000.0, latency=0.001, workers=64)
    picture = sample_picture("dog", (256, 192))
    wish = Img2Img(model_name="m.safetensors", prompt="p", image=picture)
    async with client_of(simulation, polling=Polling.fixed(0.01)) as (client, _):
        for _ in range(2):
            await client.enqueue(wish, journal=url, id="mine", save_to=tmp_path)
        address, _, batch = url.partition("#")
        async with client.work(batch, journal=address, save_to=tmp_path) as outcomes:
            (outcome,) = [each async for each in outcomes]
    assert len(simulation.ledger.accepted) == 1
    (kept,) = [each for each in tmp_path.rglob("*") if each.is_file() and each.read_bytes() == picture]
    assert hashlib.sha256(picture).hexdigest() in kept.name
    assert [path.parent for path in outcome.paths] == [tmp_path]


async def test_what_cannot_be_had_elsewhere_or_is_another_is_refused(url):
    simulation = service()
    async with client_of(simulation) as (client, _):
        await client.enqueue(text(1), journal=url, id="mine")
        with pytest.raises(ConfigurationError, match="another request was enqueued under the id 'mine'"):
            await client.enqueue(text(2), journal=url, id="mine")
        in_memory = Img2Img(model_name="m.safetensors", prompt="p", image=sample_picture("dog", (256, 192)))
        with pytest.raises(ConfigurationError, match="is in memory only"):
            await client.enqueue(in_memory, journal=url)
        with pytest.raises(JournalError, match="no request was enqueued under the id 'other'"):
            await client.outcome("other", journal=url)
        with pytest.raises(ConfigurationError, match="only a batch in Postgres"):
            await client.enqueue(text(1), journal="run.db")
    assert simulation.ledger.entries == []


async def test_each_end_reaches_who_waits_as_it_is_and_is_waited_for_while_files_are_saved(url):
    inbox = PostgresInbox(url)
    for name in ("lost", "saved"):
        await inbox.put(asked(1), name)
    waiting = [asyncio.create_task(inbox.ended(name)) for name in ("lost", "saved", "saved")]
    async with await PostgresJournal.join(url) as journal:
        lost, saved = await journal.take()
        for each in (lost, saved):
            await journal.admit(each, Announced(loop_time(), f"a{each.position}"), None)
        error = SubmissionUncertain(cause="a reset", endpoint=ENDPOINT)
        await journal.settle(lost, Lost(loop_time(), error))
        assert (await waiting[0]).doubt is not None
        saved.wants_files = True
        await journal.settle(saved, Bought(loop_time(), task("t")))
        await journal.record(saved, Completed(loop_time(), result("t")))
        await inbox._at.link.once(lambda _: asyncio.sleep(0))
        assert not waiting[1].done()
    await inbox.aclose()
    for each in waiting[1:]:
        with pytest.raises(JournalError, match="the client was closed"):
            await each


async def test_an_end_that_comes_while_it_is_asked_for_is_told_as_it_is(url):
    """The row was read as paid; a moment later it has ended, and its outcome is not the one of a paid row."""
    inbox = PostgresInbox(url)
    await inbox.put(asked(1), "one")
    async with await PostgresJournal.join(url) as journal:
        (purchase,) = await journal.take()
        await journal.admit(purchase, Announced(loop_time(), "a"), None)
        await journal.settle(purchase, Bought(loop_time(), task("t")))

        async def asking(sql, *values):
            found = await asked_before(sql, *values)
            while ends:
                await journal.record(purchase, ends.pop())
            return found

        await inbox._at.link.once(inbox._find_batch)
        ends = [Completed(loop_time(), result("t"))]
        asked_before = inbox._at.link._connection.fetch
        stood = await inbox._at.reading.stand(SimpleNamespace(fetch=asking), [key_of("one")])
    assert [(each.state, has_ended) for each, has_ended in stood] == [(State.SUCCEEDED, True)]
    await inbox.aclose()


async def test_a_database_that_goes_away_is_told_to_each_who_waits(url):
    inbox = PostgresInbox(url, outage_timeout=0.0)
    await inbox.put(asked(1), "one")
    await inbox.put(asked(1), "two")
    assert repr(inbox).endswith(": 0 waited for>")
    waiting = [asyncio.create_task(inbox.ended(name)) for name in ("one", "two")]
    while len(inbox._waiting) < 2:
        await asyncio.sleep(0)
    inbox._at.link.url = "postgresql://127.0.0.1:9/x"
    inbox._at.link.hang_up()
    inbox._news.set()
    for each in waiting:
        with pytest.raises(JournalError, match="cannot be reached"):
            await each
    await inbox.aclose()


async def test_a_journal_keeps_its_promises_through_a_pooler(database, url):
    async with pooled(database) as (through, pooler):
        one = await PostgresJournal.open(f"{through}#{url.partition('#')[2]}", quotas={"a": 3})
        purchases = await one.plan([asked(n, n, images=1) for n in range(5)])
        for each in purchases[:3]:
            await one.admit(each, Announced(loop_time(), "a"), None)
            await one.settle(each, Bought(loop_time(), task(str(each.id))))
        await one.beat()
        await one.aclose()
        assert pooler.switches > 10


# --- Events -------------------------------------------------------------------------------------------------


def event_of(task_id):
    return json.dumps({"event_type": "ASYNC_TASK_RESULT", "payload": {"task": {"task_id": task_id}}}).encode()


async def test_an_event_finds_the_purchase_of_a_process_that_was_killed_in_any_process(database, url):
    """The answer was lost; the service knows the task; the next worker watches it and buys nothing."""
    simulation = service(speed=1000.0, latency=0.001, workers=64)
    quick, token = {"polling": Polling.fixed(0.01)}, url.partition("#")[2]
    async with client_of(simulation, **quick) as (web, _), client_of(simulation, **quick) as (pod, _):
        await web.enqueue(text(1), journal=url, id="order")
        paid = await pod.submit(text(1))
        async with await PostgresJournal.join(url) as dead:
            (purchase,) = await dead.take()
            label = simulation_label(web)
            await dead.admit(purchase, Announced(loop_time(), label, token), None)
        (row,) = await run_sql(database, "SELECT state FROM novita.course WHERE token = $1", token)
        assert row["state"] == "uncertain"
        waker = pod.webhook_waker(journal=url)
        waker(event_of("a-forged-one"), token)
        waker(event_of(paid.task_id), "another-token")
        waker(event_of(paid.task_id), token)
        address, _, batch = url.partition("#")
        while pod._recovery._recoveries:
            await asyncio.sleep(0.01)
        async with web.work(batch, journal=address) as outcomes:
            assert len([each async for each in outcomes]) == 1
        assert (await web.outcome("order", journal=url)).task_id == paid.task_id
        assert len(simulation.ledger.accepted) == 1


@pytest.mark.parametrize("begin", [PostgresJournal.join, PostgresJournal.open], ids=["shared", "alone"])
async def test_an_event_that_comes_before_its_process_is_taken_for_dead_finds_the_purchase(
    database, url, begin
):
    """The sender was killed a moment ago: nobody calls its purchase uncertain yet; the event comes once."""
    simulation = service(speed=1000.0, latency=0.001, workers=64)
    quick, token = {"polling": Polling.fixed(0.01)}, url.partition("#")[2]
    async with client_of(simulation, **quick) as (pod, _):
        paid = await pod.submit(text(1))
        dead = await begin(url, lease=0.3)
        (purchase,) = await dead.plan([asked(1)])
        if begin == PostgresJournal.join:
            (purchase,) = await dead.take()
        await dead.admit(purchase, Announced(loop_time(), simulation_label(pod), token), None)
        dead._living.cancel()
        while dead._carrying is not None:
            await asyncio.sleep(0)
        dead._store.link.hang_up()
        pod.webhook_waker(journal=url)(event_of(paid.task_id), token)
        while pod._recovery._recoveries:
            await asyncio.sleep(0.01)
    (row,) = await run_sql(database, "SELECT state, task_id FROM novita.course WHERE token = $1", token)
    assert tuple(row) == ("submitted", paid.task_id)
    async with await PostgresJournal.open(url) as after:
        assert [each.task.task_id async for each in after.where(State.SUBMITTED)] == [paid.task_id]


async def test_an_attempt_whose_process_lives_is_not_taken_for_lost_and_an_answered_one_never(url):
    inbox = PostgresInbox(url)
    async with await PostgresJournal.join(url) as journal:
        await journal.plan([asked(1)])
        (purchase,) = await journal.take()
        await journal.admit(purchase, Announced(loop_time(), "a", "token"), None)
        may_live = await inbox._at.link.once(partial(inbox._at.reading.doubtful, token="token"))
        assert isinstance(may_live, float)
        assert may_live > 0
        await journal.settle(purchase, Bought(loop_time(), task("t")))
        assert await inbox.lost("token") is None
    await inbox.aclose()


async def test_an_event_is_told_to_the_process_whose_purchase_it_is(url):
    told = []
    async with await PostgresJournal.open(url) as journal:
        heard = asyncio.Event()

        def hear(*event):
            told.append(event)
            heard.set()

        await journal.on_event(hear)
        inbox = PostgresInbox(url)
        await inbox.tell("token", "task 7")
        await heard.wait()
        journal._store.link.hang_up()
        heard.clear()
        await journal.beat()
        await inbox.tell("token", "again")
        await heard.wait()
        await inbox.aclose()
    assert told == [("token", "task 7"), ("token", "again")]


def simulation_label(client):
    return client.statistics().pool.accounts[0].label
