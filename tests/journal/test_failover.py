"""A database dies, and one takes its place that does not know of the last moments."""

from decimal import Decimal

import pytest

from novita_async._journal.postgres.journal import want_place
from novita_async._journal.postgres.quota import BATCH
from novita_async._purchase.machine import Announced, Bought, State, advance
from novita_async._util.clock import loop_time
from novita_async.journal import Deferred, LeaseLost, PostgresJournal
from tests.helpers.failover import pair
from tests.helpers.journals import asked
from tests.helpers.postgres import new_batch, run_sql
from tests.helpers.purchases import ENDPOINT, task

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]


ORDINARY = (
    "CREATE ROLE ordinary LOGIN",
    "GRANT USAGE ON SCHEMA novita TO ordinary",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA novita TO ordinary",
)
"""Grants that are enough for a worker, as the docs say."""


async def announce(journal, purchase):
    fact = Announced(loop_time(), "a")
    await journal.admit(purchase, fact, Decimal(2))
    advance(purchase, fact)


async def test_what_a_failover_has_forgotten_is_said_again_by_all_who_live_before_anyone_buys(caplog):
    """Also by those of whom the database never heard, and although others came first and took numbers."""
    options = {"quotas": {"a": 20}, "lease": 3600.0}
    async with pair() as servers:
        ordinary = servers.url.replace("postgres@", "ordinary@")
        batch = f"{ordinary}#spring"

        for sql in ORDINARY:
            await run_sql(servers.url, sql)

        async def joined(name, url=batch, **more):
            return await PostgresJournal.join(url, worker=name, **options, **more)

        async with await joined("early") as early:
            await early.enqueue([asked(number, number, images=2) for number in range(5)])
            one, two = await early.take(2)
            await servers.catch_up()
            servers.wire.held = True
            # From here on all is forgotten.
            async with await joined("late") as late, await joined("web", ordinary, batch=BATCH) as web:
                await late.set_budget(Decimal(100))
                (three,) = await late.take(1)
                for journal, purchase in ((early, one), (early, two), (late, three)):
                    await announce(journal, purchase)
                await early.settle(one, Bought(loop_time(), task("one")))
                await late.enqueue([asked(9, 9, images=2)])
                four, _, nine = await late.take(3)
                await announce(late, nine)
                place = await want_place(web, "a", ENDPOINT, 3).answer
                early._store.link.hang_up()
                early._store.link._in_doubt = True
                await early.beat()  # the server is the old one still
                await servers.fail_over()

                async with await joined("new") as new:
                    assert new._store.member.me > web._store.member.me
                    assert await new.take(9) == []  # nobody takes, and nobody buys
                    await new.enqueue([asked(7, 7, images=2)])  # where nine was
                    with pytest.raises(Deferred):
                        await announce(late, four)
                    for journal in (early, late, web, new):
                        await journal.beat()
                    await run_sql(servers.url, "UPDATE novita.meta SET quiet_until = clock_timestamp()")
                    taken = await new.take(9)
                    assert [each.entry.key for each in taken] == [asked(7).key]
                    states = {each.entry.key: each.state async for each in new.where()}
                    assert [states[asked(n).key] for n in (0, 1, 2, 9)] == [
                        State.SUBMITTED,
                        State.ANNOUNCED,
                        State.ANNOUNCED,
                        State.ANNOUNCED,
                    ]
                    sql = 'SELECT "limit", spent, reserved FROM novita.budget'
                    assert tuple((await run_sql(servers.url, sql))[0]) == (100, 2, 6)
                    (window,) = await run_sql(servers.url, 'SELECT held FROM novita."window"')
                    assert window["held"] == 8 + 3 + 20  # nobody knows what was settled for the web
                    for journal, purchase in ((early, two), (late, three), (late, nine)):
                        await journal.settle(purchase, Bought(loop_time(), task(purchase.entry.key)))
                    states = [each.state async for each in new.where(State.SUBMITTED)]
                    assert len(states) == 4
                    assert place.images == 3
    assert "its standby is not synchronous; after a failover the same may be bought twice" in caplog.text


async def test_a_worker_that_was_forgotten_and_whose_batch_another_has_to_itself_is_none_any_more(database):
    batch = new_batch(database)
    async with await PostgresJournal.join(batch) as journal:
        await run_sql(batch, "DELETE FROM novita.worker WHERE id = $1", journal._store.member.me)
        async with await PostgresJournal.open(batch, lease=3600.0):
            await run_sql(batch, "UPDATE novita.meta SET timeline = 'another'")
            with pytest.raises(LeaseLost):
                await journal.beat()
    await run_sql(batch, "UPDATE novita.meta SET quiet_until = '-infinity'")
