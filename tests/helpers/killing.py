"""A batch in a process of its own, killed again and again with SIGKILL until it is complete.

The service lives in the process that does the killing, and goes on when the batch dies; what it has accepted
is compared with what the journal says, after each kill and at the end.
"""

import itertools
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import anyio
from attrs import define, field

from novita_async._journal.rows import entry_of
from novita_async._journal.sqlite.journal import SqliteJournal
from novita_async._purchase.journal import Summary
from novita_async._purchase.machine import Purchase, State
from novita_async.testing import DEFAULT_API_KEY, SimulatorServer, sample_picture
from novita_async.testing import quota as service_quota
from novita_async.testing.core import Simulator
from novita_async.testing.ledger import Entry
from novita_async.testing.worlds import Moment, Plan, ProcessPlan, UserPlan, run
from novita_async.testing.worlds.asking import number_in
from novita_async.testing.worlds.plan import MARKS, Ending, Mark
from novita_async.testing.worlds.world import Report
from tests.helpers.campaigns import Figures, check_pictures, rows_of
from tests.helpers.programs import Program
from tests.helpers.served import check_servers, served

SIDE: Final = 192
ENDINGS: Final[tuple[Ending, ...]] = ("crash", "power")
KINDS: Final = (".png", ".jpeg", ".webp", ".mp4")
BATCH: Final = """
import json, sys
import anyio
from novita_async import Img2Img, NovitaClient, Polling
from novita_async._journal import rows
from novita_async._policy import pacing
from novita_async._stream import resume
from novita_async.testing.worlds.asking import number_of, request_to

told = json.loads(sys.argv[1])
pacing.MINUTE = told["minute"]
for module in (pacing, resume, rows):
    module.WINDOW = told["minute"] + 0.01

async def main():
    request = Img2Img(
        model_name="m", image=told["picture"], prompt="a dog", width=told["side"], height=told["side"]
    )
    routes, numbers = told["routes"], range(told["count"])
    mixed = [request_to(routes[number % len(routes)], number, 1) for number in numbers] if routes else ()
    polling = Polling(polls_per_second=200.0)
    async with NovitaClient(polling=polling, **told["client"]) as client:
        print("begins", flush=True)
        async with client.batch(mixed or request.sweep(seed=numbers), **told["batch"]) as outcomes:
            async for outcome in outcomes:
                print(json.dumps([number_of(outcome), type(outcome).__name__, outcome.task_id]), flush=True)

anyio.run(main)
"""


@contextmanager
def minute_of(seconds: float) -> Iterator[None]:
    """Let the service count images in minutes of so many seconds; the batch is told to do the same."""
    usual = service_quota.WINDOW
    service_quota.WINDOW = seconds  # type: ignore[misc]
    try:
        yield
    finally:
        service_quota.WINDOW = usual  # type: ignore[misc]


@define(eq=False)
class Victim:
    """A batch that is killed, and what was found each time."""

    folder: Path
    server: SimulatorServer
    count: int
    images_per_minute: int
    minute: float
    in_flight: int
    dice: random.Random
    routes: tuple[str, ...] = ()
    """Rows of the table of routes that requests go to in turn. Empty: img2img, with pictures of a side."""
    under_way: set[int] = field(factory=set)
    """Rows whose purchase was under way at a kill."""
    most_under_way: int = 0
    """At one kill."""

    @property
    def journal(self) -> Path:
        return self.folder / "run.db"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def start(self, **batch: Any) -> Program:
        told = {
            "minute": self.minute,
            "picture": str(self.folder / "dog.png"),
            "side": SIDE,
            "count": self.count,
            "routes": self.routes,
            "client": {
                "api_key": DEFAULT_API_KEY,
                "base_url": self.server.url,
                "images_per_minute": self.images_per_minute,
            },
            "batch": {
                "journal": str(self.journal),
                "save_to": str(self.out),
                "in_flight": self.in_flight,
                **batch,
            },
        }
        with self.said.open("wb") as said:
            command = [sys.executable, "-W", "error", "-c", BATCH, json.dumps(told)]
            return Program.start(command, stdout=said)

    @property
    def said(self) -> Path:
        return self.folder / "said.txt"

    def kill_once(self) -> bool:
        """Start it, let it run to a random moment, and kill it. False: it was complete before that."""
        process = self.start()
        try:
            self._await_the_moment(process)
        finally:
            code = process.kill()
        assert code in (0, -9), process.finish().stderr
        found = {entry_of(row).serial for row in self.rows() if row.state is State.ANNOUNCED}
        self.most_under_way = max(self.most_under_way, len(found))
        self.under_way |= found
        return code != 0

    def _await_the_moment(self, process: Program) -> None:
        """As soon as it is at work: at any time, or shortly after the service has seen some more of it."""
        _until(process, lambda: self.said.stat().st_size > 0, 60)
        if self.dice.random() < 0.5:
            goal = len(self.server.ledger.entries) + self.dice.randint(1, self.in_flight)
            _until(process, lambda: len(self.server.ledger.entries) >= goal, 2 * self.minute / 60 + 0.5)
            span = 0.1
        else:
            span = 0.7
        _until(process, lambda: False, self.dice.random() * span)

    def finish(self, **batch: Any) -> dict[int, tuple[str, str | None]]:
        """Let it run to its end; give what it says of each request."""
        process = self.start(**batch)
        try:
            self._await_the_end(process)
        finally:
            process.kill()
        said = [json.loads(line) for line in self.said.read_text().splitlines()[1:]]
        assert len(said) == self.count
        return {seed: (kind, task_id) for seed, kind, task_id in said}

    def _await_the_end(self, process: Program) -> None:
        """As long as it gets on: the service hears of it, or it says something, once in its minutes."""
        most, heard, since = self.minute + 30, -1, time.monotonic()
        while not process.ended:
            check_servers()
            now_heard = self.server.statistics().requests + self.said.stat().st_size
            if now_heard != heard:
                heard, since = now_heard, time.monotonic()
            if time.monotonic() > since + most:
                break
            time.sleep(0.05)
        done = process.finish(seconds=0)
        assert done.returncode == 0, done.stderr

    def rows(self) -> list[Purchase]:
        """What the journal says, without changing it."""
        if not self.journal.exists() or not self.journal.stat().st_size:
            return []
        return anyio.run(rows_of, self.journal)


def _until(process: Program, condition: Any, seconds: float) -> None:
    """Wait for something, for the end of the process, or for so many seconds."""
    end = time.monotonic() + seconds
    while not condition() and not process.ended and time.monotonic() < end:
        check_servers()
        time.sleep(0.002)


async def summary_of(journal: Path) -> Summary:
    async with await SqliteJournal.open(journal, read_only=True) as store:
        return await store.summary()


def killed_batch(
    folder: Path,
    *,
    count: int,
    kills: int,
    images_per_minute: int,
    minute: float = 60.0,
    in_flight: int = 16,
    seed: int = 0,
    routes: tuple[str, ...] = (),
) -> Figures:
    """Kill a batch so often, let it end, and compare the books."""
    (folder / "dog.png").write_bytes(sample_picture("dog", (64, 64)))
    config = {"images_per_minute": images_per_minute, "latency": 0.02, "plain_pictures": bool(routes)}
    config |= {"speed": 10.0, "workers": in_flight} if routes else {}
    with minute_of(minute), served(**config) as server:
        dice = random.Random(seed)
        victim = Victim(folder, server, count, images_per_minute, minute, in_flight, dice, routes)
        killed = sum(victim.kill_once() for _ in range(kills))
        told = victim.finish()
        figures = check_books(victim, told)
        check_second_purchases(victim, victim.finish(resubmit_uncertain=True))
        return {"killed": killed, **figures, "most under way": victim.most_under_way}


def _number_of(row: Purchase) -> int:
    entry = entry_of(row)
    return int(entry.tag) if entry.tag is not None else json.loads(entry.request)["request"]["seed"]


def accepted_by(server: SimulatorServer) -> dict[int, list[Entry]]:
    """What the service has accepted, by the number of the request: its seed, or as `asking` writes it."""
    found: dict[int, list[Entry]] = {}
    for entry in server.ledger.accepted:
        found.setdefault(_number_in(server.simulator, entry), []).append(entry)
    return found


def _number_in(simulator: Simulator, entry: Entry) -> int:
    number = entry.request.get("request", {}).get("seed", number_in(json.dumps(entry.request).encode()))
    if number >= 0:
        return number
    source = simulator._sources.get(entry.task_id or "")  # the route takes no prompt
    return number_in(simulator._inputs.get(source) or b"")


def check_books(victim: Victim, told: dict[int, tuple[str, str | None]]) -> Figures:
    """Compare outcomes, journal and the service's ledger: nothing is lost, nothing was bought twice."""
    ledger, rows = victim.server.ledger, victim.rows()
    by_seed = {_number_of(row): row for row in rows}
    assert len(rows) == len(by_seed) == victim.count == len(told)
    assert {row.state for row in rows} <= {State.SAVED, State.UNCERTAIN}
    saved = {seed: row for seed, row in by_seed.items() if row.state is State.SAVED}
    uncertain = by_seed.keys() - saved.keys()
    assert told == {
        seed: ("Succeeded", row.task.task_id if row.task else None) if seed in saved else ("Uncertain", None)
        for seed, row in by_seed.items()
    }
    assert {entry_of(by_seed[seed]).serial for seed in uncertain} == victim.under_way
    assert victim.most_under_way <= victim.in_flight
    accepted = accepted_by(victim.server)
    assert {len(entries) for entries in accepted.values()} == {1}
    assert all(
        row.task is None or row.task.task_id == accepted[seed][0].task_id for seed, row in saved.items()
    )
    assert saved.keys() <= accepted.keys()
    unseen = accepted.keys() - saved.keys()
    assert unseen <= uncertain
    books = anyio.run(summary_of, victim.journal)
    assert (books.bought, books.perhaps) == (len(saved), len(uncertain))
    assert books.bought + len(unseen) == ledger.images
    assert ledger.refused == []
    for endpoint in {entry.endpoint for entry in ledger.accepted}:
        most = ledger.most_images_in(victim.minute, endpoint=endpoint)
        assert most <= victim.images_per_minute
    for row in saved.values():
        assert row.paths
        assert all(path.suffix in KINDS and path.exists() for path in row.paths)
    assert check_pictures(victim.out, None if victim.routes else SIDE) == len(saved)
    if not victim.routes:  # what came in the answer of a purchase that is uncertain may be all that is left
        assert not [path for path in victim.out.iterdir() if path.name.endswith(".part")]
    return {"saved": len(saved), "uncertain": len(uncertain), "bought unseen": len(unseen)}


def check_second_purchases(victim: Victim, told: dict[int, tuple[str, str | None]]) -> None:
    """Once asked, what was uncertain is bought again, and nothing else is."""
    assert {kind for kind, _ in told.values()} == {"Succeeded"}
    twice = {seed for seed, entries in accepted_by(victim.server).items() if len(entries) > 1}
    books = anyio.run(summary_of, victim.journal)
    assert len(twice) <= len(victim.under_way) == books.perhaps
    assert books.bought == victim.count
    assert books.bought + len(twice) == victim.server.ledger.images


# --- In worlds ----------------------------------------------------------------------------------------------


def crashed_at(
    row: str,
    mark: Mark,
    number: int,
    turns: int = 0,
    *,
    ending: Ending = "crash",
    entrance: Literal["transport", "bytes"] = "transport",
) -> Report:
    """Let a batch of one row of the table of routes crash at a moment, and run again in virtual time.

    All that must hold in any world holds, and the second run tells the outcome of each request.
    """
    user = UserPlan(kind="batch", name="u1", requests=3, images=2, in_flight=2, save=True, routes=(row,))
    first = ProcessPlan(users=(user,), ending=ending, ends=Moment(mark, number, turns))
    processes = (first, ProcessPlan(users=(user,)))
    report = run(Plan(seed=number, entrance=entrance, processes=processes))
    assert not report.violations, report.trace
    told = re.findall(r"p1\.u1 +(\d+): (Succeeded|Uncertain)", report.trace)
    assert sorted(number for number, _ in told) == ["1000", "1001", "1002"], report.trace
    return report


def crashed_everywhere(rows: Iterable[str]) -> Figures:
    """Crash batches of each row at every event, every commit, every step of the file system and so on."""
    figures = Counter[str]()
    for row, mark, ending in itertools.product(rows, MARKS, ENDINGS):
        for number in itertools.count(1) if mark != "time" else ():
            report = crashed_at(row, mark, number, ending=ending)
            if "stopped dead" not in report.trace:  # there is no such moment any more
                break
            figures["crashed"] += 1
            figures["uncertain"] += report.reached.get("outcome: Uncertain", 0)
    return figures
