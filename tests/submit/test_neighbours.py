"""What a client does with what other processes tell, and what it sends where they share a window."""

import json
import math
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import pytest
from attrs import define, field

from novita_async._policy.breaker import BreakerState
from novita_async._purchase.machine import UNSEEN, Bought, NotBought
from novita_async._submit.neighbours import Neighbours
from novita_async._submit.pool import SessionPool
from novita_async._util.clock import loop_time
from novita_async.errors import APIError, AuthenticationFailed, JournalError, PermissionDenied
from novita_async.events import AccountDisabled, BreakerOpened, Paced
from novita_async.journal import Deferred, MemoryJournal
from novita_async.models.accounts import Account
from tests.helpers.service import client_of, facts_of, of_kind, requests, service

pytestmark = pytest.mark.anyio
PATH = "/v3/async/img2img"
KEY = json.dumps({"kind": "AuthenticationFailed", "text": "401: no such key", "reason": "INVALID_API_KEY"})


def told(label="one", *, cause=None, error=None, gate=0.0, out=0.0):
    return {"label": label, "cause": cause, "error": error, "gate": gate, "out": out}


def neighbours():
    pool, seen = SessionPool.of([Account(api_key="k1", label="one")], 20.0), []
    return Neighbours(pool, seen.append), seen


async def test_an_outage_that_others_see_opens_the_breaker_here_once():
    others, seen = neighbours()
    for _ in range(2):
        others.heed([told(cause="uncertain", gate=7.0), told("another's", cause="uncertain", gate=7.0)], 3)
    (opened,) = seen
    assert isinstance(opened, BreakerOpened)
    assert (opened.account, opened.cause, opened.after) == ("one", "uncertain", 7.0)
    (account,) = others.pool.statistics().accounts
    assert (account.pacing.breaker, account.pacing.open_until) == (BreakerState.OPEN, loop_time() + 7.0)
    assert others.pool.grant_at_once(PATH, 1) is None


async def test_an_outage_that_is_over_for_others_opens_nothing_here():
    others, seen = neighbours()
    others.heed([told(cause="unreachable", gate=-1.0), told(error=KEY, out=-1.0)], 1)
    assert seen == []


@pytest.mark.parametrize("kind", ["PermissionDenied", "BadRequest", "KindOfALaterRelease"])
async def test_an_account_that_is_out_for_any_reason_ends_the_batch_and_fails_no_request(kind):
    others, seen = neighbours()
    told_elsewhere = json.dumps({"kind": kind, "text": "403: denied", "reason": "ACCESS_DENY"})
    others.heed([told(error=told_elsewhere, out=30.0)], 1)
    with pytest.raises(APIError, match="told to another process: 403: denied") as caught:
        others.pool.grant_at_once(PATH, 1)
    assert (caught.value.scope, caught.value.account) == ("account", "one")
    assert isinstance(caught.value, PermissionDenied) is (kind == "PermissionDenied")
    assert len(seen) == 1


async def test_an_account_that_others_have_lost_is_out_here_and_told_once():
    others, seen = neighbours()
    for _ in range(2):
        others.heed([told(error=KEY, out=30.0), told("another's", error=KEY, out=30.0)], 1)
    (disabled,) = seen
    assert isinstance(disabled, AccountDisabled)
    with pytest.raises(AuthenticationFailed, match="told to another process: 401: no such key"):
        others.pool.grant_at_once(PATH, 1)


async def test_polls_are_shared_out():
    others, _ = neighbours()
    others.heed([], 4)
    assert others.pool.polls_per_second == 5.0
    (account,) = others.pool.accounts(None)
    began = loop_time()
    for _ in range(6):
        await others.pool.poll_turn(account)
    assert loop_time() - began == pytest.approx(1.0)
    others.heed([], 0)
    assert others.pool.polls_per_second == 20.0


@define(eq=False, repr=False)
class Window(MemoryJournal):
    """A store with a window that others use, too: it takes so many each ten seconds."""

    room: int = 3
    sends_until: float = math.inf
    taken: dict[int, int] = field(factory=dict)
    asked: int = 0
    line: dict[int, None] = field(factory=dict)
    """Positions, in the order in which they asked first."""
    granted: list[int] = field(factory=list)

    async def admit(self, purchase, announced, cost):
        self.asked += 1
        self.line[purchase.position] = None
        await anyio.lowlevel.checkpoint()
        span = int(loop_time() // 10)
        if self.taken.get(span, 0) >= self.room:
            raise Deferred(10.0 * (span + 1))
        self.taken[span] = self.taken.get(span, 0) + 1
        self.granted.append(purchase.position)
        await super().admit(purchase, announced, cost)


async def test_a_shared_window_decides_alone_in_the_order_of_the_line_and_is_seldom_asked_in_vain():
    simulation, store = service(), Window()
    async with client_of(simulation, images_per_minute=1) as (client, _):
        async with client.batch(requests(60), journal=store, in_flight=60) as outcomes:
            assert len([each async for each in outcomes]) == 60
    assert store.granted == list(store.line)
    assert set(store.taken.values()) == {3}
    assert store.asked < 60 + 64 + 4 * 20


@define(eq=False)
class Distant(MemoryJournal):
    """A store that may be asked again soon, and has a place much later."""

    sends_until: float = math.inf

    async def admit(self, purchase, announced, cost):
        if loop_time() < 9.0:
            raise Deferred(loop_time() + 2.0, likely=9.0)
        await super().admit(purchase, announced, cost)


async def test_a_wait_for_a_shared_window_is_told_with_its_whole_length():
    async with client_of(service()) as (client, seen):
        async with client.batch(requests(1), journal=Distant()) as outcomes:
            assert len([each async for each in outcomes]) == 1
    assert [each.delay for each in of_kind(seen, Paced)] == [9.0, 7.0, 5.0, 3.0, 2.0]


async def test_nothing_is_sent_once_others_may_take_this_process_for_dead():
    """It is tried again, and sent when the process has said again that it lives."""
    simulation, store = service(), Window(room=9)
    async with client_of(simulation) as (client, seen):
        store.sends_until = loop_time() - 1.0
        async with anyio.create_task_group() as group:

            async def live():
                await anyio.sleep(20)
                assert simulation.ledger.entries == []
                store.sends_until = math.inf

            group.start_soon(live)
            async with client.batch(requests(1), journal=store) as outcomes:
                (outcome,) = [each async for each in outcomes]
    outcome.unwrap()
    assert len(simulation.ledger.accepted) == 1
    assert "may take it for dead" in str(facts_of(seen, NotBought)[0].error)
    assert client.statistics().pool.accounts[0].error is None


async def test_of_accounts_in_shared_windows_the_one_that_may_be_asked_soonest_is_asked():
    pool = SessionPool.of([Account(api_key=label, label=label) for label in ("one", "two")], 20.0)
    for until in (9.0, 5.0):
        grant = pool.grant_at_once(PATH, 1, shared=True)
        pool.deferred(grant, Deferred(until))
        pool.settle(grant, UNSEEN, loop_time())
    assert pool.grant_at_once(PATH, 1, shared=True) is None
    grant = await pool.acquire(PATH, 1, shared=True)
    assert (grant.account.label, loop_time()) == ("two", 5.0)


@define(eq=False)
class Places:
    """A quota that others use, too: it always has a place."""

    sends_until: float = math.inf
    leases: list[float] = field(factory=lambda: [math.inf])
    """Until when places may be used, the last one first."""
    settled: list[tuple[object, object]] = field(factory=list)
    """Places that were given back, and why."""

    async def take(self, *_):
        return SimpleNamespace(sends_until=self.leases.pop())

    def settle(self, place, fact):
        self.settled.append((place, fact))


class Full(MemoryJournal):
    """A store that keeps no announcement."""

    async def admit(self, *_):
        raise JournalError(problem="disk full")


async def test_a_place_in_a_shared_quota_is_given_back_where_the_journal_keeps_no_announcement():
    simulation, quota = service(), Places()
    async with client_of(simulation) as (client, _):
        client._buyer.quota = quota
        with pytest.raises(JournalError, match="disk full"):
            async with client.batch(requests(1), journal=Full()) as outcomes:
                await anext(outcomes)
    ((place, fact),) = quota.settled
    assert place.sends_until == math.inf
    assert (type(fact), fact.seen) == (NotBought, False)
    assert simulation.ledger.entries == []


async def test_a_place_that_was_taken_before_this_process_was_taken_for_dead_is_not_sent_in():
    """Others hold that place from the death on, and what is sent later would count beside it."""
    simulation, quota = service(), Places(leases=[math.inf, -1.0])
    async with client_of(simulation) as (client, seen):
        client._buyer.quota = quota
        await client.submit(next(iter(requests(1))))
    assert [type(fact) for _, fact in quota.settled] == [NotBought, Bought]
    assert len(simulation.ledger.accepted) == 1
    assert "may take it for dead" in str(facts_of(seen, NotBought)[0].error)
