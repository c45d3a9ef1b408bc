"""Checks that any store of purchases must pass, for whoever writes one (`novita_async.journal`).

The store is given as two functions: how it is opened for the next run of a batch, and how a process that
dies leaves it. A whole test, in pytest:

```python
import pytest
from novita_async.testing.conformance import CHECKS

class Mine:
    async def open(self):
        return await MyJournal.open("postgresql:///test")

    async def crash(self, journal):
        await journal.drop_connections()  # nothing is finished, nothing is closed

@pytest.mark.anyio
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_my_journal_keeps_the_promises_of_a_journal(check):
    await check(Mine())
```

Each check begins with an empty store, and raises `AssertionError` with a sentence about the promise that is
not kept. They take no time to speak of, and run on any event loop.
"""

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol, assert_never

import anyio
import anyio.lowlevel
from attrs import asdict, evolve

from novita_async._purchase.machine import (
    Announced,
    Bought,
    Completed,
    Fact,
    FailedForGood,
    IllegalTransition,
    JournalEntry,
    Lost,
    NotBought,
    NotSaved,
    Order,
    Purchase,
    Reopened,
    Rewatched,
    Saved,
    State,
    advance,
    helps_to_buy_again,
    told_before,
)
from novita_async._util.clock import loop_time, wall_offset
from novita_async.errors import FailedEarlier, JournalError, NovitaError, ServerError, SubmissionUncertain
from novita_async.journal import Journal, copy_of, left_behind, summed, tally_of
from novita_async.models.results import Artifact, GeneratedImage, NsfwDetection, TaskResult
from novita_async.tasks import Task


class StoreUnderTest(Protocol):
    """A store that begins empty, and how to come to it."""

    async def open(self) -> Journal:
        """Open it for the next run, with all that an earlier journal had recorded."""
        ...

    async def crash(self, journal: Journal) -> None:
        """Leave it as a killed process does, with nothing closed; all that was recorded is there."""
        ...


Check = Callable[[StoreUnderTest], Awaitable[None]]

_ENDPOINT: Final = "/v3/async/img2img"
_WAY: Final = (State.ANNOUNCED, State.SUBMITTED, State.SUCCEEDED, State.SAVED)


# --- Facts and orders ---------------------------------------------------------------------------------------


def _order(name: int, position: int = 0, **changes: Any) -> Order:
    fields: dict[str, Any] = {
        "key": f"{name:032x}",
        "position": position,
        "kind": "img2img",
        "endpoint": _ENDPOINT,
        "images": 1 + name % 3,
        "request": f'{{"request":{{"seed":{name}}}}}',
    }
    return Order(**(fields | changes))


def _task(name: str) -> Task:
    return Task(task_id=name, account="a", endpoint=_ENDPOINT)


def _result(name: str = "") -> TaskResult:
    checked = NsfwDetection(checked=True, confidence=12.5)
    return TaskResult(
        task=_task(name) if name else None,
        images=(GeneratedImage(url="https://host.example/a.png", type="png", url_ttl=3600, nsfw=checked),),
        videos=(Artifact(url="https://host.example/b.mp4", type="mp4"),),
        seed=1 << 70,
        task_type="IMG_TO_IMG",
    )


def _refusal(text: str = "no") -> ServerError:
    return ServerError(status=500, reason="ODD", message=text)


def _fact(kind: type, at: float, name: str = "task") -> Any:
    """A fact in which what goes without saying is said."""
    facts: dict[type, Callable[[], Fact]] = {
        Announced: lambda: Announced(at, "a", f"token-{at}"),
        Bought: lambda: Bought(at, _task(name)),
        NotBought: lambda: NotBought(at, _refusal()),
        Lost: lambda: Lost(at, SubmissionUncertain(cause="a reset", endpoint=_ENDPOINT)),
        Reopened: lambda: Reopened(at),
        Rewatched: lambda: Rewatched(at),
        FailedForGood: lambda: FailedForGood(at, _refusal("failed")),
        Completed: lambda: Completed(at, _result(name)),
        Saved: lambda: Saved(at, (Path("out/ä.png"), Path("out/b.mp4"))),
        NotSaved: lambda: NotSaved(at, _refusal("gone")),
    }
    return facts[kind]()


_KINDS: Final = (
    *(Announced, Bought, NotBought, Lost, Reopened),
    *(Rewatched, FailedForGood, Completed, Saved, NotSaved),
)


def _way_to(state: State) -> tuple[type, ...]:
    """The facts that lead to a state."""
    way: tuple[type, ...]
    match state:
        case State.PLANNED:
            way = ()
        case State.ANNOUNCED:
            way = (Announced,)
        case State.SUBMITTED:
            way = Announced, Bought
        case State.SUCCEEDED:
            way = Announced, Bought, Completed
        case State.FAILED:
            way = Announced, Bought, FailedForGood
        case State.UNCERTAIN:
            way = Announced, Lost
        case State.SAVED:
            way = Announced, Bought, Completed, Saved
        case _:
            assert_never(state)
    return way


class _Clock:
    """Times of the loop that grow with each call, whatever kind of loop it is."""

    def __init__(self) -> None:
        self.last = loop_time()

    def __call__(self) -> float:
        self.last += 0.125
        return self.last


async def _record(journal: Journal, purchase: Purchase, *facts: Fact) -> None:
    """Record facts one by one, in the store and in memory."""
    for fact in facts:
        await journal.record(purchase, fact)
        advance(purchase, fact)


async def _bring(journal: Journal, purchase: Purchase, *kinds: type, clock: Callable[[], float]) -> None:
    await _record(journal, purchase, *(_fact(kind, clock(), f"task-{purchase.position}") for kind in kinds))


async def _in_every_state(journal: Journal, clock: Callable[[], float]) -> list[Purchase]:
    """Plan a purchase for each state, and bring each there."""
    purchases = await journal.plan([_order(number, number) for number in range(len(State))])
    for purchase, state in zip(purchases, State, strict=True):
        await _bring(journal, purchase, *_way_to(state), clock=clock)
    return list(purchases)


# --- Comparing ----------------------------------------------------------------------------------------------


def _require(kept: bool, promise: str, found: object = "") -> None:  # noqa: FBT001 - reads as a sentence
    if not kept:
        raise AssertionError(f"{promise}; found {found!r}" if found != "" else promise)


def _same(found: object, expected: object, promise: str) -> None:
    if found != expected:
        raise AssertionError(f"{promise}\n  found    {found!r}\n  expected {expected!r}")


def _entry(purchase: Purchase) -> JournalEntry:
    if purchase.entry is None:
        raise AssertionError(f"a purchase of a journal has an entry, but {purchase!r} has none")
    return purchase.entry


def _serials(purchases: Sequence[Purchase]) -> list[int]:
    return [_entry(each).serial for each in purchases]


def _told(purchase: Purchase, offset: float = 0.0) -> dict[str, Any]:
    """All that a store keeps of a purchase, with times in milliseconds."""

    def at(time: float | None) -> int | None:
        return None if time is None else round(1000 * (time + offset))

    return {
        "order": (purchase.endpoint, purchase.images, purchase.position, purchase.tag),
        "state": purchase.state,
        "latest attempt": (purchase.account, purchase.attempt, purchase.token),
        "task": purchase.task and purchase.task.task_id,
        "attempts": sorted(
            (
                at(each.announced_at),
                each.account,
                each.task_id,
                each.perhaps,
                each.at_once,
                at(each.answered_at),
            )
            for each in purchase.attempts
        ),
        "doubt": purchase.doubt is not None,
        "error": purchase.error and _told_of_error(purchase.error),
        "result": purchase.result and _told_of_result(purchase.result),
        "paths": purchase.paths,
        "objects": purchase.objects,
        "ends": (at(purchase.finished_at), at(purchase.saved_at)),
    }


def _told_of_error(error: NovitaError) -> tuple[object, ...]:
    kind, text = type(error).__name__, str(error)
    if isinstance(error, FailedEarlier):
        kind, text = error.kind, error.text
    return kind, text, error.reason, helps_to_buy_again(error)


def _told_of_result(result: TaskResult) -> tuple[object, ...]:
    files = [
        (each.url, each.type, each.url_ttl, each.nsfw if isinstance(each, GeneratedImage) else None)
        for each in result.artifacts
    ]
    return result.task_id, files, result.seed, result.task_type, result.timings


async def _all(journal: Journal, *states: State) -> list[Purchase]:
    return [each async for each in journal.where(*states)]


async def _expect(journal: Journal, purchases: Sequence[Purchase], promise: str) -> None:
    """The store has exactly these purchases, as they stand in memory."""
    found = {_entry(each).name: _told(each) for each in await _all(journal)}
    _same(found, {_entry(each).name: _told(each, wall_offset()) for each in purchases}, promise)
    _same(await journal.summary(), summed(map(tally_of, purchases)), f"the sums are right: {promise}")


@asynccontextmanager
async def _opened(store: StoreUnderTest) -> AsyncGenerator[Journal]:
    journal = await store.open()
    try:
        yield journal
    finally:
        await journal.aclose()


# --- Planning -----------------------------------------------------------------------------------------------


async def orders_are_planned_as_purchases(store: StoreUnderTest) -> None:
    """`plan` gives a planned purchase for each order, in their order, to which nothing has happened."""
    async with _opened(store) as journal:
        orders = [_order(1, 0, tag="süß"), _order(2, 1), _order(3, 2, kind="task", endpoint="/v3/any")]
        purchases = await journal.plan(orders)
        _same(list(await journal.plan([])), [], "no orders, no purchases")
        _same([_entry(each).key for each in purchases], [each.key for each in orders], "they keep the order")
        for serial, (purchase, order) in enumerate(zip(purchases, orders, strict=True), 1):
            expected_entry = JournalEntry(**asdict(order), occurrence=0, serial=serial, run=journal.run)
            _same(_entry(purchase), expected_entry, "an entry says all that the order said, and is numbered")
            _require(purchase.journal is journal, "a planned purchase knows its journal", purchase.journal)
            expected = Purchase(None, order.endpoint, order.images, order.position, order.tag)
            _same(_told(purchase), _told(expected), "nothing has happened to a new purchase")
        await _expect(journal, purchases, "what was planned is there")


async def equal_orders_are_told_apart_by_counting(store: StoreUnderTest) -> None:
    """Equal orders are numbered in the order of the input, however it is cut into pieces."""
    async with _opened(store) as journal:
        counted: list[int] = []
        for size in (1, 2, 5, 1):
            found = await journal.plan([_order(0)] * size + [_order(1)])
            counted += [_entry(each).occurrence for each in found[:-1]]
        _same(counted, list(range(9)), "equal orders are counted")
        _same((await journal.summary()).total, 13, "each is a purchase of its own")


async def another_run_finds_its_purchases_wherever_their_lines_stand(store: StoreUnderTest) -> None:
    """Lines may be added, removed and moved: purchases are found by content, and take place and tag anew."""
    async with _opened(store) as journal:
        first = _serials(await journal.plan([_order(name, place) for place, name in enumerate((1, 2, 2, 3))]))
        run = journal.run
    async with _opened(store) as journal:
        _same(journal.run, run + 1, "opening begins another run")
        lines = [_order(name, place, tag=f"line {place}") for place, name in enumerate((9, 2, 3, 2))]
        again = await journal.plan(lines)
        _same(_serials(again), [5, first[1], first[3], first[2]], "purchases are found by content")
        _same(
            [(each.position, each.tag) for each in again],
            [(n, f"line {n}") for n in range(4)],
            "places are new",
        )
        old = [_entry(each).serial for each in await _all(journal) if _entry(each).run < journal.run]
        _same(old, [first[0]], "what this run did not ask for shows it by its run")


async def only_what_is_there_is_found(store: StoreUnderTest) -> None:
    """`find` gives what `plan` would give where a purchase is there, else None, and makes nothing."""
    async with _opened(store) as journal:
        first = _serials(await journal.plan([_order(1), _order(2), _order(2)]))
    async with _opened(store) as journal:
        lines = [_order(name, place) for place, name in enumerate((9, 2, 1, 9, 2, 2))]
        found = [*await journal.find(lines[:3]), *await journal.find(lines[3:])]
        serials = [each and _entry(each).serial for each in found]
        _same(serials, [None, first[1], first[0], None, first[2], None], "equal orders are counted as ever")
        _same([each.position for each in found if each], [1, 2, 4], "what is found has its new place")
        _require(all(each is None or each.journal is journal for each in found), "and knows its journal")
        _same((await journal.summary()).total, 3, "nothing was made")


async def a_run_may_begin_anew_in_an_open_journal(store: StoreUnderTest) -> None:
    """`new_run` counts equal orders from the first again, and takes what is announced for lost."""
    async with _opened(store) as journal:
        first = await journal.plan([_order(1), _order(1)])
        await journal.record(first[1], _fact(Announced, loop_time()))
        run = journal.run
        _same((await journal.new_run(), journal.run), (run + 1, run + 1), "a new run has the next number")
        again = await journal.plan([_order(1), _order(1)])
        _same(_serials(again), _serials(first), "equal orders are counted from the first again")
        _same(
            [each.state for each in again], [State.PLANNED, State.UNCERTAIN], "what was under way is in doubt"
        )


async def where_a_purchase_was_sent_stays(store: StoreUnderTest) -> None:
    """Purchases that were never sent take endpoint and images anew; those that were sent keep theirs."""
    async with _opened(store) as journal:
        _, sent = await journal.plan([_order(1), _order(2)])
        await journal.record(sent, _fact(Announced, loop_time()))
        await journal.record(sent, _fact(Bought, loop_time()))
    async with _opened(store) as journal:
        orders = [_order(name, endpoint="/new", images=7, request="{}") for name in (1, 2)]
        unsent, sent = await journal.plan(orders)
        _same((unsent.endpoint, unsent.images), ("/new", 7), "what was never sent goes where the order says")
        _same((sent.endpoint, sent.images), (_ENDPOINT, 3), "what was sent stays where it was sent")
        _same([_entry(each).request for each in (unsent, sent)], ["{}", "{}"], "the request is the new one")


async def odd_values_come_back_as_they_were(store: StoreUnderTest) -> None:
    """Any text, any seed."""
    odd = "' \x00 -- \" süß 🐕 %s {} \\"
    order = _order(1, tag=odd, request='{"prompt":"' + "a cute dog, " * 2000 + '\\u0000 🐕"}')
    paths, objects = (Path("out/" + odd.replace("\x00", "")),), ("s3://bucket/ä 🐕/1.png", "gs://b/2.mp4")
    async with _opened(store) as journal:
        purchases = await journal.plan([order, _order(2)])
        for name, purchase in zip((odd, "t-2"), purchases, strict=True):
            for fact in (
                _fact(Announced, loop_time()),
                Bought(loop_time(), _task(name)),
                _fact(Completed, loop_time(), name),
            ):
                await _record(journal, purchase, fact)
        await _record(journal, purchases[0], Saved(loop_time(), paths))
        await _record(journal, purchases[1], Saved(loop_time(), (), objects))
    async with _opened(store) as journal:
        await _expect(journal, purchases, "odd values come back")
        found = (await _all(journal))[0]
        _same((found.tag, _entry(found).request), (odd, order.request), "texts come back")


# --- Recording ----------------------------------------------------------------------------------------------


async def what_is_recorded_is_there(store: StoreUnderTest) -> None:
    """States come back as they were: at once, in the next run, and after a crash."""
    clock = _Clock()
    async with _opened(store) as journal:
        purchases = await _in_every_state(journal, clock)
        await _expect(journal, purchases, "what was recorded is there when `record` returns")
    journal = await store.open()
    announced = [_entry(each).name for each in purchases if each.state is State.ANNOUNCED]
    expected = {
        _entry(each).name: _told(each, wall_offset())
        for each in purchases
        if each.state is not State.ANNOUNCED
    }
    for promise in ("the next run finds all as it was", "a crash changes nothing that was recorded"):
        found = {_entry(each).name: each for each in await _all(journal)}
        lost = [found.pop(name) for name in announced]
        _same({name: _told(each) for name, each in found.items()}, expected, promise)
        _same(
            [each.state for each in lost],
            [State.UNCERTAIN],
            "what was under way in a process that died is in doubt",
        )
        _require(all(each.in_doubt for each in lost), "a doubt is told")
        await store.crash(journal)
        journal = await store.open()
    await journal.aclose()


async def facts_told_together_are_recorded_all_or_none(store: StoreUnderTest) -> None:
    """Facts are recorded all or not at all: where one cannot happen, `IllegalTransition` is raised."""
    clock = _Clock()
    async with _opened(store) as journal:
        purchase, other = await journal.plan([_order(1), _order(2)])
        whole = [_fact(kind, clock()) for kind in (Announced, Bought, Completed)]
        await journal.record(purchase, *whole)
        for fact in whole:
            advance(purchase, fact)
        refused = ((purchase, (NotSaved, Announced)), (other, (Announced, Saved)), (other, (Bought,)))
        for each, kinds in refused:
            await _expect_refusal(journal, each, *(_fact(kind, clock()) for kind in kinds))
        await _expect(journal, [purchase, other], "what was refused changes nothing")


async def what_was_never_planned_is_refused(store: StoreUnderTest) -> None:
    """A purchase of another journal is a `JournalError` about this request alone, with its task's id."""
    async with _opened(store) as journal:
        (known,) = await journal.plan([_order(1)])
        strange = Purchase(None, entry=evolve(_entry(known), key="ab" * 16))
        for facts in ((_fact(Announced, loop_time()),), (_fact(Bought, loop_time()),)):
            try:
                await journal.record(strange, *facts)
            except JournalError as error:
                _same(error.scope, "request", "other requests go on")
            else:
                raise AssertionError("a purchase that was never planned must be refused")


async def what_was_told_twice_counts_once(store: StoreUnderTest) -> None:
    """A writer who does not know whether something was written may write it again."""
    clock = _Clock()
    async with _opened(store) as journal:
        bought, lost = await journal.plan([_order(1), _order(2)])
        for purchase, kinds in ((bought, (Announced, Bought, Completed, Saved)), (lost, (Announced, Lost))):
            for kind in kinds:
                fact = _fact(kind, clock())
                await _record(journal, purchase, fact)
                await journal.record(purchase, fact)
        await _expect(journal, [bought, lost], "what was told twice counts once")
        second = Bought(clock(), _task("another"))
        await _record(journal, bought, second)
        await journal.record(bought, second)
        await _expect(
            journal, [bought, lost], "another task of the same purchase is kept beside the first, once"
        )


async def promises_and_verdicts_are_recorded(store: StoreUnderTest) -> None:
    """`admit` records a promise, `settle` the verdict, whichever way it goes."""
    clock = _Clock()
    verdicts = (Bought, NotBought, Completed, Lost)  # after an uncertain end a shared store waits
    async with _opened(store) as journal:
        purchases = await journal.plan([_order(number, number) for number in range(len(verdicts))])
        for purchase, kind in zip(purchases, verdicts, strict=True):
            promise = _fact(Announced, clock())
            await journal.admit(purchase, promise, None)
            advance(purchase, promise)
            await _expect(journal, purchases, "a promise is there when `admit` returns")
            verdict = _fact(kind, clock(), "" if kind is Completed else "task")
            await journal.settle(purchase, verdict)
            advance(purchase, verdict)
        await _expect(journal, purchases, "a verdict is there when `settle` returns")


async def money_is_never_forgotten(store: StoreUnderTest) -> None:
    """Purchases, certain or possible, count through doubts, failures and buying again, in every later run."""
    clock = _Clock()
    ways: tuple[tuple[type, ...], ...] = (
        (Announced, Lost, Reopened, Announced, NotBought),
        (Announced, Lost, Reopened, Announced, Lost, Reopened),
        (Announced, Bought, FailedForGood, Reopened, Announced, Bought, FailedForGood, Rewatched),
        (Announced, NotBought, Announced, NotBought, FailedForGood),
        (Announced, Bought, Completed, Saved, NotSaved, Completed, Saved),
    )
    async with _opened(store) as journal:
        purchases = list(await journal.plan([_order(number, number) for number in range(len(ways))]))
        for purchase, way in zip(purchases, ways, strict=True):
            for number, kind in enumerate(way):
                await _record(
                    journal, purchase, _fact(kind, clock(), f"task-{purchase.position}-{min(number, 3)}")
                )
        expected = await journal.summary()
        await _expect(journal, purchases, "no money is forgotten")
    async with _opened(store) as journal:
        _same(await journal.summary(), expected, "no money is forgotten from run to run")
        await _expect(journal, purchases, "attempts come back")


async def an_event_settles_its_own_attempt(store: StoreUnderTest) -> None:
    """An event tells the task of an earlier attempt; the one under way stays open, and is lost by a crash."""
    clock = _Clock()
    journal = await store.open()
    (purchase,) = await journal.plan([_order(1)])
    for kind in (Announced, Lost, Reopened, Announced):
        await _record(journal, purchase, _fact(kind, clock()))
    await _record(journal, purchase, Bought(clock(), _task("first"), 1))
    await _expect(journal, [purchase], "an event tells the task of its own attempt")
    await store.crash(journal)
    async with _opened(store) as journal:
        (found,) = await _all(journal)
        _same(
            (found.state, found.task and found.task.task_id), (State.SUBMITTED, "first"), "the task is known"
        )
        _same(
            (found.bought, found.perhaps), (purchase.images, purchase.images), "the other is perhaps bought"
        )
        _require(
            all(each.answered_at is not None for each in found.attempts), "nothing is under way at opening"
        )


async def any_way_that_facts_may_go_is_kept(store: StoreUnderTest) -> None:
    """A few hundred facts at random, with runs and crashes between: store and memory always say the same."""
    clock, dice = _Clock(), random.Random(11)
    orders = [_order(number, number) for number in range(4)]
    journal = await store.open()
    purchases = await journal.plan(orders)
    for number in range(1, 401):
        await _happen_by_chance(journal, dice, dice.choice(purchases), clock)
        if number % 20 == 0:
            await _expect(journal, purchases, f"after {number} facts")
            await dice.choice((journal.aclose, lambda: store.crash(journal)))()  # noqa: B023 - called at once
            journal, before = await store.open(), purchases
            purchases = await journal.plan(orders)
            for each in before:
                left = left_behind(each, clock())
                if left is not None:
                    advance(each, left)
            _same(_undated(purchases), _undated(before), f"in another run after {number} facts")
    await journal.aclose()


async def _happen_by_chance(
    journal: Journal, dice: random.Random, purchase: Purchase, clock: Callable[[], float]
) -> None:
    fact = _fact(dice.choice(_KINDS), clock(), f"task-{dice.randrange(3)}")
    if isinstance(fact, Bought):
        fact = evolve(fact, attempt=dice.choice((None, *(each.number for each in purchase.attempts))))
    tried = copy_of(purchase)
    try:
        if not told_before(tried, fact):
            advance(tried, fact)
    except IllegalTransition:
        await _expect_refusal(journal, purchase, fact)
    else:
        await journal.record(purchase, fact)
        if not told_before(purchase, fact):
            advance(purchase, fact)


async def _expect_refusal(journal: Journal, purchase: Purchase, *facts: Fact) -> None:
    try:
        await journal.record(purchase, *facts)
    except IllegalTransition:
        return
    names = ", ".join(type(fact).__name__ for fact in facts)
    raise AssertionError(f"{names} of {purchase!r} must be refused with IllegalTransition")


def _undated(purchases: Sequence[Purchase]) -> list[dict[str, Any]]:
    """All that is told of purchases but the times: when a process died, nobody knows exactly."""
    told = [_told(each) for each in purchases]
    return [{**each, "attempts": [attempt[:-1] for attempt in each["attempts"]], "ends": ()} for each in told]


# --- Reading ------------------------------------------------------------------------------------------------


async def purchases_are_read_by_state_and_from_a_serial_on(store: StoreUnderTest) -> None:
    """Purchases come out of `where` state by state, in the order of planning, with unix times."""
    clock, after = _Clock(), 10
    async with _opened(store) as journal:
        purchases = await journal.plan([_order(number, number) for number in range(30)])
        for purchase in purchases[::3]:
            await _bring(journal, purchase, Announced, clock=clock)
        announced = _serials(purchases[::3])
        planned = [serial for serial in _serials(purchases) if serial not in announced]
        _same(_serials(await _all(journal)), _serials(purchases), "all are read, in the order of planning")
        _same(_serials(await _all(journal, State.ANNOUNCED)), announced, "those of a state are read")
        both = [each async for each in journal.where(State.PLANNED, State.ANNOUNCED, after=after)]
        late = [serial for serial in (*planned, *announced) if serial > after]
        _same(_serials(both), late, "they come state by state, from a serial number on")
        (latest,) = [each async for each in journal.where(State.ANNOUNCED, after=announced[-2])]
        _same(_told(latest), _told(purchases[27], wall_offset()), "their times are unix seconds")


async def what_was_read_is_the_readers_own(store: StoreUnderTest) -> None:
    """Nothing that happens to a purchase that was read reaches the store."""
    clock = _Clock()
    async with _opened(store) as journal:
        (purchase,) = await journal.plan([_order(1)])
        await _bring(journal, purchase, Announced, clock=clock)
        found = await journal.by_token(purchase.token or "")
        for read in (*await _all(journal), *await journal.seen_since(_AGES), *([found] if found else [])):
            advance(read, _fact(Bought, clock(), "stray"))
            await _expect(journal, [purchase], "a purchase that was read is a copy")


async def a_token_tells_its_purchase(store: StoreUnderTest) -> None:
    """`by_token` finds the purchase whose latest attempt has a token, in later runs too."""
    clock = _Clock()
    async with _opened(store) as journal:
        first, second = await journal.plan([_order(1), _order(2)])
        await _record(
            journal, first, Announced(clock(), "a", "old"), _fact(Lost, clock()), _fact(Reopened, clock())
        )
        await _record(journal, first, Announced(clock(), "a", "new"))
        await _record(journal, second, Announced(clock(), "a", "other"))
        for token, expected in (("new", [first]), ("other", [second]), ("old", []), ("", [])):
            found = await journal.by_token(token)
            _same(_serials([found] if found else []), _serials(expected), f"the token {token!r} is known")
    async with _opened(store) as journal:
        found = await journal.by_token("new")
        _require(found is not None and found.state is State.UNCERTAIN, "a doubt is found by its token", found)


async def what_the_service_may_have_seen_is_known(store: StoreUnderTest) -> None:
    """`seen_since` gives what has a slot in a window, with times of the loop."""
    now = loop_time()
    async with _opened(store) as journal:
        old, recent, unseen, under_way = await journal.plan([_order(number) for number in range(4)])
        await _record(journal, old, _fact(Announced, now - 100), _fact(Bought, now - 90))
        await _record(journal, recent, _fact(Announced, now - 100), _fact(NotBought, now - 30))
        await _record(journal, unseen, _fact(Announced, now - 10), NotBought(now - 9, _refusal(), seen=False))
        await _record(journal, under_way, _fact(Announced, now - 20))
        found = sorted(await journal.seen_since(60.0), key=lambda each: _entry(each).serial)
        _same(list(map(_told, found)), list(map(_told, (recent, under_way))), "what was seen lately is known")
        everything = await journal.seen_since(_AGES)
        _same(sorted(_serials(everything)), _serials([old, recent, under_way]), "all that was seen is known")


_AGES: Final = 1e6


# --- Many at once, cancellations, the end -------------------------------------------------------------------


async def many_may_write_at_once(store: StoreUnderTest) -> None:
    """Facts that many tasks record at the same time are all there, and a refusal to one stops no other."""
    clock = _Clock()
    async with _opened(store) as journal:
        purchases = await journal.plan([_order(number, number) for number in range(50)])

        async def bring(purchase: Purchase) -> None:
            await _bring(journal, purchase, Announced, Bought, Completed, clock=clock)
            await _expect_refusal(journal, purchase, _fact(Announced, clock()))
            await _bring(journal, purchase, Saved, clock=clock)

        async with anyio.create_task_group() as group:
            for purchase in purchases:
                group.start_soon(bring, purchase)
        await _expect(journal, purchases, "what many have recorded is there")


async def a_cancellation_waits_until_it_is_known(store: StoreUnderTest) -> None:
    """A cancelled `admit` that has written returns; the cancellation of a `record` stays within its scope."""
    clock = _Clock()
    async with _opened(store) as journal:
        (purchase,) = await journal.plan([_order(1)])
        announced: Announced = _fact(Announced, clock())
        bought, answered = _fact(Bought, clock()), False
        with anyio.CancelScope() as scope:
            scope.cancel()
            await journal.admit(purchase, announced, None)
            answered = True
            await anyio.lowlevel.checkpoint()
        _same((answered, scope.cancelled_caught), (True, True), "a cancellation comes after the answer")
        advance(purchase, announced)
        await _expect(journal, [purchase], "what a cancelled caller has announced is there")
        for fact in (bought, _fact(Announced, clock())):  # one is recorded, one refused
            with anyio.CancelScope() as scope, suppress(IllegalTransition):
                scope.cancel()
                await journal.record(purchase, fact)
            await anyio.lowlevel.checkpoint()  # the cancellation does not come behind its scope
        advance(purchase, bought)
        await _expect(journal, [purchase], "what a cancelled caller has recorded is there")


async def a_closed_journal_refuses_and_may_be_closed_again(store: StoreUnderTest) -> None:
    """Two journals of one store have one name; a closed one raises `JournalError`."""
    journal = await store.open()
    (purchase,) = await journal.plan([_order(1)])
    name = journal.name
    await journal.aclose()
    await journal.aclose()
    for ask in (journal.summary, lambda: journal.plan([_order(1)]), lambda: journal.record(purchase)):
        try:
            await ask()
        except JournalError:
            continue
        raise AssertionError("a closed journal must refuse with JournalError")
    async with _opened(store) as journal:
        _same(journal.name, name, "the name tells journals apart, not objects")


CHECKS: Final[tuple[Check, ...]] = (
    orders_are_planned_as_purchases,
    equal_orders_are_told_apart_by_counting,
    another_run_finds_its_purchases_wherever_their_lines_stand,
    only_what_is_there_is_found,
    a_run_may_begin_anew_in_an_open_journal,
    where_a_purchase_was_sent_stays,
    odd_values_come_back_as_they_were,
    what_is_recorded_is_there,
    facts_told_together_are_recorded_all_or_none,
    what_was_never_planned_is_refused,
    what_was_told_twice_counts_once,
    promises_and_verdicts_are_recorded,
    money_is_never_forgotten,
    an_event_settles_its_own_attempt,
    any_way_that_facts_may_go_is_kept,
    purchases_are_read_by_state_and_from_a_serial_on,
    what_was_read_is_the_readers_own,
    a_token_tells_its_purchase,
    what_the_service_may_have_seen_is_known,
    many_may_write_at_once,
    a_cancellation_waits_until_it_is_known,
    a_closed_journal_refuses_and_may_be_closed_again,
)
"""All checks. Each wants a store that is empty."""
