"""Long campaigns against the simulator, each in any size: short ones are tests, long ones `make soak`.

A campaign does its worst, then compares what the library says (outcomes, journal, files) with what the
service knows (its ledger), and returns its figures. What must hold is asserted here, so that both sizes
mean the same.
"""

import itertools
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import PIL.Image
from attrs import define, field, frozen

from novita_async import Failed, NovitaClient, Outcome, Succeeded, TaskFailed, Txt2Img, Uncertain
from novita_async._http import Delivery, DeliveryFailed
from novita_async._journal.sqlite.journal import SqliteJournal
from novita_async._purchase.machine import Purchase, State
from novita_async.testing import (
    ExchangeKind,
    Fault,
    FaultKind,
    FaultPlan,
    SimulatedTransport,
    Simulation,
    SimulatorConfig,
)
from novita_async.testing.routed import VIDEO
from tests.helpers.programs import python, run

Figures = dict[str, int]

TIMEOUT: Final = 120.0
A_DOG: Final = Txt2Img(model_name="m", prompt="a dog", width=128, height=128)
LONGEST_BODY: Final = 160
ANSWER: Final = 51
ERROR: Final = b'{"code": %d, "reason": "%s", "message": "simulated"}'
HTML: Final = b"<html>bad gateway</html>"


async def rows_of(path: Path) -> list[Purchase]:
    """The purchases of a journal."""
    async with await SqliteJournal.open(path, read_only=True) as journal:
        return [row async for row in journal.where()]


def seeds_accepted(simulation: Simulation) -> Counter[int]:
    """How often the service accepted each request; every request of a campaign has a seed of its own."""
    return Counter(entry.request["request"]["seed"] for entry in simulation.ledger.accepted)


def figures(simulation: Simulation, outcomes: Iterable[Outcome]) -> Figures:
    """Count what happened."""
    kinds = Counter(type(outcome).__name__.lower() for outcome in outcomes)
    ledger = simulation.ledger
    return {
        "submissions": len(ledger.entries),
        "accepted": len(ledger.accepted),
        "polls": ledger.exchanges[ExchangeKind.POLL],
        **kinds,
        "virtual seconds": round(anyio.current_time()),
    }


# --- Faults of submissions ----------------------------------------------------------------------------------


@frozen(kw_only=True)
class Dealt(FaultPlan):
    """Faults dealt to numbered exchanges of one kind."""

    on: ExchangeKind
    hands: Mapping[int, Fault]

    def fault_for(self, kind: ExchangeKind, number: int) -> Fault | None:
        return self.hands.get(number) if kind is self.on else None


def dealt(on: str, faults: Sequence[Fault], *, share: float, most: int, seed: int) -> Dealt:
    """Let this share of the first so many exchanges go wrong; each fault has its turn before any has two."""
    dice = random.Random(seed)
    decks = (dice.sample(faults, len(faults)) for _ in itertools.count())
    deck = itertools.chain.from_iterable(decks)
    hands = {number: next(deck) for number in range(1, most + 1) if dice.random() < share}
    return Dealt(on=ExchangeKind(on), hands=hands)


def faults_of_submissions(body: int, answer: int) -> list[Fault]:
    """Every kind of fault, and a cut after every byte of the request's body and of the answer's."""
    return [
        Fault.refuse(),
        Fault.reset_before(),
        *(Fault.reset_during(at) for at in range(body + 1)),
        Fault.reset_after(acted=False),
        Fault.reset_after(),
        Fault.stall(acted=False),
        Fault.stall(),
        *(Fault.truncate(at) for at in range(answer + 1)),
        Fault.garbage(),
        Fault.garbage(b"{}"),
        Fault.garbage(b'{"task_id": null}'),
        Fault.answer(429),
        Fault.answer(429, retry_after=2),
        Fault.answer(502, HTML, content_type="text/html"),
        Fault.answer(502, HTML, content_type="text/html", acted=True),
        Fault.answer(500, ERROR % (500, b"UNKNOWN"), acted=True),
        Fault.answer(500, ERROR % (500, b"CREATE_TASK_FAILED")),
        Fault.answer(503),
        Fault.answer(504, b"", acted=True),
        Fault.slow(3.0),
        Fault.slow(500.0),
    ]


KNOWN_BY: Final = {"bought": Succeeded, "not bought": Failed, "unknown": Uncertain}
"""The outcome of a request whose last submission ended like this."""
_NEVER_ARRIVED = {FaultKind.REFUSE, FaultKind.RESET_BEFORE, FaultKind.RESET_DURING}
_NO_TASK_MADE = (b"RATE_LIMIT_EXCEEDED", b"SERVICE_NOT_AVAILABLE", b"CREATE_TASK_FAILED")


def fate(fault: Fault | None, body: int) -> str:
    """What the sender of a submission can know of it: `bought`, `not bought` or `unknown`."""
    if fault is None or (fault.kind is FaultKind.SLOW and fault.seconds < TIMEOUT):
        return "bought"
    if fault.kind in _NEVER_ARRIVED and not (fault.kind is FaultKind.RESET_DURING and fault.at >= body):
        return "not bought"
    said = fault.reply.body if fault.kind is FaultKind.ANSWER else b""
    return "not bought" if any(reason in said for reason in _NO_TASK_MADE) else "unknown"


@define(eq=False)
class Witness(SimulatedTransport):
    """A transport that notes which submissions each request took: the number and the length of each."""

    attempts: dict[int, list[tuple[int, int]]] = field(factory=dict)

    async def send(self, request, api_key, /, *, on_handover=None):
        if request.method == "POST":
            seed = json.loads(b"".join(request.body))["request"]["seed"]
            number = self.simulator.ledger.exchanges[ExchangeKind.SUBMIT] + 1
            self.attempts.setdefault(seed, []).append((number, request.content_length))
        return await SimulatedTransport.send(self, request, api_key, on_handover=on_handover)


async def faulty_submissions(count: int, *, share: float = 0.5, seed: int = 0) -> Figures:
    """Stream requests while submissions fail in every way. Nothing is bought twice, nothing is lost, and
    exactly what nobody can know is uncertain.
    """
    faults = faults_of_submissions(LONGEST_BODY, ANSWER)
    plan = dealt("submit", faults, share=share, most=4 * count, seed=seed)
    simulation = Simulation.of(SimulatorConfig(workers=64), faults=plan)
    wire = Witness(simulation.simulator, timeout=TIMEOUT)
    outcomes = {}
    async with NovitaClient(api_key=simulation.api_key, transport=wire, downloader=wire) as client:
        async with client.stream(A_DOG.sweep(seed=range(count))) as stream:
            async for outcome in stream:
                assert outcome.request.seed not in outcomes
                outcomes[outcome.request.seed] = outcome
            told = stream.statistics()
    accepted = seeds_accepted(simulation)
    assert told.taken_in == count == len(outcomes) + told.unsent
    assert max(accepted.values()) == 1
    for number, outcome in outcomes.items():
        *before, last = [fate(plan.hands.get(n), length) for n, length in wire.attempts[number]]
        assert set(before) <= {"not bought"}, f"{number} was sent again after {before}"
        assert isinstance(outcome, KNOWN_BY[last]), f"{number}: {last}, but {outcome}"
        assert accepted[number] == 1 or not isinstance(outcome, Succeeded)
    return figures(simulation, outcomes.values())


# --- Faults of polls ----------------------------------------------------------------------------------------


def faults_of_polls(answer: int) -> list[Fault]:
    """Every way in which a poll can fail without telling anything about its task."""
    return [
        Fault.refuse(),
        Fault.reset_before(),
        Fault.reset_after(),
        Fault.stall(),
        Fault.slow(3.0),
        Fault.slow(500.0),
        *(Fault.truncate(at) for at in range(0, answer, 16)),
        *(Fault.garbage(body) for body in NOT_AN_ANSWER),
        Fault.answer(429),
        Fault.answer(429, retry_after=2),
        Fault.answer(429, retry_after="Thu, 01 Jan 2026 00:00:03 GMT"),
        Fault.answer(408, b""),
        Fault.answer(500),
        Fault.answer(500, ERROR % (500, b"GET_RESULT_FAILED")),
        Fault.answer(502, HTML, content_type="text/html"),
        Fault.answer(503),
        Fault.answer(504, b""),
    ]


NOT_AN_ANSWER: Final = (
    HTML,
    b"",
    b"null",
    b"[]",
    b"{}",
    b'{"task": null}',
    b'{"task": {}}',
    b'{"task": {"status": null}}',
    b'{"task": {"status": "TASK_STATUS_SUCC',
)


async def faulty_polls(count: int, *, share: float = 0.2, seed: int = 0) -> Figures:
    """Stream requests while polls fail in every way, and some tasks truly fail: each outcome is the truth."""
    plan = dealt("poll", faults_of_polls(600), share=share, most=100 * count, seed=seed)
    config = SimulatorConfig(workers=16, failure_rate=0.1, visible_after=1.0, seed=seed)
    simulation = Simulation.of(config, faults=plan)
    wire = simulation.transport(timeout=TIMEOUT)
    outcomes = {}
    async with NovitaClient(api_key=simulation.api_key, transport=wire, downloader=wire) as client:
        async with client.stream(A_DOG.sweep(seed=range(count))) as stream:
            async for outcome in stream:
                outcomes[outcome.request.seed] = outcome
    accepted = {entry.request["request"]["seed"]: entry.task_id for entry in simulation.ledger.entries}
    assert len(simulation.ledger.entries) == len(accepted) == len(outcomes) == count
    for number, outcome in outcomes.items():
        assert outcome.task_id == accepted[number]
        assert type(outcome) is TRUTH[simulation.simulator.status_of(outcome.task_id)]
        assert isinstance(outcome, Succeeded) or isinstance(outcome.error, TaskFailed)
    return figures(simulation, outcomes.values())


TRUTH: Final = {"TASK_STATUS_SUCCEED": Succeeded, "TASK_STATUS_FAILED": Failed}


# --- URLs that expire, hosts that are down ------------------------------------------------------------------


@define(eq=False)
class Host:
    """A download host that is down for a while, in every way; it counts what was asked of it too late."""

    wire: SimulatedTransport
    down: tuple[float, float]
    refused: int = 0
    expired: int = 0

    @asynccontextmanager
    async def open(self, url: str, /):
        if self.down[0] <= anyio.current_time() < self.down[1]:
            self.refused += 1
            await DOWN[self.refused % len(DOWN)]()
        async with self.wire.open(url) as download:
            self.expired += download.status == 403
            yield download

    async def aclose(self) -> None:
        pass


async def _connection_refused() -> None:
    raise DeliveryFailed(Delivery.NOT_SENT, "connection refused")


async def _silence() -> None:
    await anyio.sleep(60)
    raise DeliveryFailed(Delivery.UNKNOWN, "nothing came within 60 s")


DOWN: Final = (_connection_refused, _silence)


async def slow_batch(
    folder: Path,
    count: int,
    *,
    url_ttl: int,
    down: tuple[float, float] = (0, 0),
    bad_polls: float = 0.0,
    per_minute: int = 10,
) -> Figures:
    """Make pictures at the pace of a quota, with a journal, and save each while its URL lives.

    None is lost while the host is down, and none expires unless it is down for longer than URLs live.
    """
    config = SimulatorConfig(images_per_minute=per_minute, url_ttl=url_ttl, plain_pictures=True)
    plan = dealt("poll", faults_of_polls(600), share=bad_polls, most=100 * count, seed=0)
    simulation = Simulation.of(config, faults=plan)
    wire = simulation.transport(timeout=TIMEOUT)
    host = Host(wire, down)
    client = NovitaClient(
        api_key=simulation.api_key, images_per_minute=per_minute, transport=wire, downloader=host
    )
    journal, out = folder / "run.db", folder / "out"
    async with client, client.batch(A_DOG.sweep(seed=range(count)), journal=journal, save_to=out) as stream:
        outcomes = [outcome async for outcome in stream]
    assert len(outcomes) == count == len(simulation.ledger.entries)
    assert all(isinstance(outcome, Succeeded) for outcome in outcomes)
    assert all(outcome.paths[0].exists() for outcome in outcomes)
    assert {row.state for row in await rows_of(journal)} == {State.SAVED}
    assert check_pictures(out, A_DOG.width) == count
    assert simulation.ledger.most_images_in(60) <= per_minute
    assert (host.expired > 0) == (down[1] - down[0] > url_ttl)
    return {**figures(simulation, outcomes), "downloads refused": host.refused, "expired": host.expired}


def check_pictures(folder: Path, side: int | None) -> int:
    """Count the pictures of a folder, each of which must be whole, and of the size that is wanted; a video
    is what the simulator takes for one.
    """
    others = {".part", ".jsonl"}
    paths = [path for path in folder.iterdir() if path.is_file() and path.suffix not in others]
    for path in paths:
        if path.suffix == ".mp4":
            assert path.read_bytes() == VIDEO
            continue
        with PIL.Image.open(path) as image:
            image.load()
            assert side is None or image.size == (side, side), path
    return len(paths)


# --- Memory -------------------------------------------------------------------------------------------------

MOST_GROWTH: Final = 4 * 1024 * 1024
"""Bytes by which a process may grow from the first third of a batch to its end, however long."""
MOST_BLOCKS: Final = 0
"""The same in blocks that Python has handed out. At the end nothing is under way: there are thousands fewer,
unless something is kept of each request."""


def endless(count: int, journal: Path | None = None) -> Figures:
    """Send very many requests from a process of their own, which remembers none of them."""
    script = Path(__file__).with_name("endless.py")
    command = python(script, count, *([journal] if journal else []), flags=("-W", "error"))
    done = run(command, seconds=50 + count / 40)
    assert done.returncode == 0, done.stderr
    first, last = json.loads(done.stdout)
    grown = {name: last[name] - first[name] for name in first}
    assert grown["bytes"] < MOST_GROWTH, grown
    assert grown["blocks"] < MOST_BLOCKS, grown
    return {"requests": count, **{f"{name} grown": number for name, number in grown.items()}}
