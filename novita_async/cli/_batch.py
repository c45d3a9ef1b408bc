"""Commands `batch`, `resume` and `retry`: many requests, with a journal that survives everything."""

from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import anyio
import anyio.to_thread
from attrs import define, evolve, field

from novita_async._client import NovitaClient
from novita_async._files.storage import is_address
from novita_async._journal.sqlite.journal import SqliteJournal
from novita_async._policy.pacing import DOCUMENTED_ELSEWHERE, WINDOW
from novita_async._policy.spending import Budget
from novita_async._purchase.journal import Summary
from novita_async._purchase.machine import Action, State
from novita_async._stream.handle import Outcomes
from novita_async._stream.stream import IN_FLIGHT
from novita_async._util.scopes import background
from novita_async.cli._course import Course
from novita_async.cli._exits import Exit, of_outcome
from novita_async.cli._follow import FollowReport, follow
from novita_async.cli._inputs import Faults, Typed, folder_faults, storage_faults
from novita_async.cli._manifest import Made, Recipe, axes_of, shared_of
from novita_async.cli._output import Output, described
from novita_async.cli._plan import AheadPlanner, Foreseen, News, changed_in, foresee
from novita_async.cli._progress import LINES_EVERY, display_of
from novita_async.cli._report_summary import money
from novita_async.cli._report_timeline import elapsed
from novita_async.cli._setup import Setup, command, found_before, is_noted, marks_of
from novita_async.cli._sources import Copy, copies_of, path_of, remove, shown, told
from novita_async.cli._standing import standing_of
from novita_async.cli._status import report_of, setup_of
from novita_async.errors import (
    BudgetExhausted,
    FailedEarlier,
    Flaw,
    InvalidRequest,
    NotPlanned,
    NovitaError,
)
from novita_async.events import Event, Finished
from novita_async.models.requests import NovitaRequest
from novita_async.models.results import Failed, Outcome, Succeeded
from novita_async.tasks import Task

T = TypeVar("T")

_PIECE: Final = 64
"""Lines that are read in one go, in a worker thread."""


async def begin(
    inputs: list[str],
    out: str,
    typed: Typed,
    options: dict[str, Any],
    *,
    journal: str | None,
    dry_run: bool,
    output: Output,
) -> Exit:
    """Run a batch as it was typed, or tell what it would be."""
    _refuse_addresses(out, options.get("save_to"))
    copies = await copies_of(inputs, None if dry_run else Path(out))
    keeps = not dry_run
    try:
        options["copies"] = {copy.name: told(place) for place, copy in copies.items()}
        options["shared"] = await anyio.to_thread.run_sync(shared_of, typed)
        found = [str(copies.get(place, place)) for place in inputs]
        setup = await anyio.to_thread.run_sync(lambda: _setup(found, out, journal, options))
        session = _Session(folder=out, output=output)
        return await (session.plan(setup) if dry_run else session.run(setup))
    except InvalidRequest:  # the copies may be those of a run before
        keeps = keeps and await anyio.to_thread.run_sync(is_noted, Path(out))
        raise
    finally:
        if not keeps:
            await anyio.to_thread.run_sync(remove, copies.values(), dry_run)


def _refuse_addresses(out: str, save_to: str | None) -> None:
    """Refuse a folder that is none, and a place for files that is none. Raises `InvalidRequest`."""
    faults: Faults = []
    if is_address(out):
        told = f"the folder of a batch is on this machine, with its journal: --out DIR --save-to {out}"
        faults.append(Flaw("--out", told if not storage_faults("--out", out) else "is no folder"))
    if save_to is not None:
        faults += storage_faults("--save-to", save_to)
    if faults:
        raise InvalidRequest(faults=tuple(faults), advice="nothing was bought")


def _setup(inputs: list[str], out: str, journal: str | None, options: dict[str, Any]) -> Setup:
    """Gather what was typed. Whatever is seen from the working directory becomes absolute."""
    if journal is not None:
        options["journal"] = str(Path(journal).absolute())
    return Setup.of(inputs, Path(out), **options)


async def resume(
    folder: str,
    changes: dict[str, Any],
    output: Output,
    *,
    fetch_only: bool,
    buy_new: bool,
    dry_run: bool,
) -> Exit:
    """Go on with a batch, from what its folder says of it, or tell what that would be."""
    session = _Session(folder=folder, output=output, buy_new=buy_new)
    known = await (setup_of(folder) if fetch_only else anyio.to_thread.run_sync(Setup.read, Path(folder)))
    setup = evolve(known, **changes)
    if dry_run:
        return await session.foresee(setup, fetch_only=fetch_only)
    return await (session.fetch(setup) if fetch_only else session.go_on(setup))


async def retry(folder: str, changes: dict[str, Any], output: Output, **again: Any) -> Exit:
    """Go on with a batch, and buy again what failed."""
    setup = evolve(await anyio.to_thread.run_sync(Setup.read, Path(folder)), **changes)
    return await _Session(folder=folder, output=output, again=again).go_on(setup)


# --- One run of a batch -------------------------------------------------------------------------------------


@define(eq=False, kw_only=True)
class _Session:
    """A run of a batch."""

    folder: str
    """As it was typed."""
    output: Output
    again: dict[str, Any] = field(factory=dict[str, Any])
    """Choice of purchases that are to be bought again."""
    buy_new: bool = False
    """Whether what is new since the last run is to be bought."""

    @property
    def path(self) -> Path:
        return Path(self.folder)

    async def plan(self, setup: Setup) -> Exit:
        """Tell what a batch would be."""
        faults: Faults = []
        setup, _, budget = await self._checked(setup, faults)
        setup = evolve(setup, found=await anyio.to_thread.run_sync(found_before, self.path))
        ledger = await _ledger_of(setup.journal_in(self.path))
        tell_plan(self.output, setup, budget, ledger)
        return Exit.SUCCEEDED

    async def run(self, setup: Setup) -> Exit:
        """Check everything, plan everything, then buy what is not bought yet."""
        faults = await anyio.to_thread.run_sync(folder_faults, self.folder)
        setup, recipe, budget = await self._checked(setup, faults)
        found = await anyio.to_thread.run_sync(found_before, self.path)
        return await self._follow(evolve(setup, plan=0, found=found), recipe, budget)

    async def go_on(self, setup: Setup) -> Exit:
        """Buy what was planned and is not bought yet; where the input is wrong, fetch what is paid."""
        faults = await anyio.to_thread.run_sync(folder_faults, self.folder)
        try:
            checked, recipe, budget = await self._checked(setup, faults, anew=False)
        except InvalidRequest as refusal:
            ledger = await _ledger_of(setup.journal_in(self.path))
            if ledger is not None and ledger.due(Action.WATCH) + ledger.due(Action.SAVE):
                await self.fetch(setup)
                refusal.advice = "what is paid was fetched, and nothing was bought"
            raise
        if self.buy_new or not setup.plan:
            return await self._follow(evolve(checked, plan=0), recipe, budget)
        return await self._follow(setup, recipe, budget)

    async def fetch(self, setup: Setup) -> Exit:
        """Fetch what is paid, from the journal alone."""
        standing = await anyio.to_thread.run_sync(standing_of, setup, self.path)
        return await self._follow(evolve(setup, requests=standing.to_fetch, images={}), None, None)

    async def foresee(self, setup: Setup, *, fetch_only: bool) -> Exit:
        """Tell what `resume` would do."""
        faults: Faults = []
        recipe = None if fetch_only else (await self._checked(setup, faults, anew=False))[1]
        is_planned = bool(setup.plan) and not self.buy_new
        foreseen = await anyio.to_thread.run_sync(
            partial(foresee, setup.journal_in(self.path), recipe, is_planned=is_planned)
        )
        _tell_foreseen(self.output, setup, foreseen, command("resume", self.folder, "--buy-new"))
        return Exit.SUCCEEDED

    async def _follow(self, setup: Setup, recipe: Recipe | None, budget: Budget | None) -> Exit:
        """Do it, and say at the end how the batch is and what to do next."""
        in_flight = IN_FLIGHT if setup.in_flight is None else setup.in_flight
        course = Course(setup.requests, images=setup.images, in_flight=max(in_flight, 1))
        here = await anyio.to_thread.run_sync(Path.cwd)
        report = _BatchReport.of(self.output, course, self.folder, here)
        options: dict[str, Any] = {"images_per_minute": setup.images_per_minute, "observers": [report]}
        async with NovitaClient(**options, budget=budget) as client:
            course.quota_of = lambda endpoint: found_by(client, endpoint) or setup.quota_of(endpoint)
            report.price, report.spending = setup.price_each(), lambda: client.statistics().spending
            try:
                code = await follow(self._outcomes(client, setup, recipe, report), report)
            finally:
                with anyio.CancelScope(shield=True):
                    found = {each: quota for each in setup.images if (quota := found_by(client, each))}
                    setup = evolve(setup, found=setup.found | found)
                    await self._conclude(setup, report, only_fetched=recipe is None)
        await self._report(setup, report)
        return code

    @asynccontextmanager
    async def _outcomes(
        self, client: NovitaClient, setup: Setup, recipe: Recipe | None, report: "_BatchReport"
    ) -> AsyncGenerator[Outcomes]:
        """The batch with its journal, in which its input is planned ahead of the buying."""
        async with AsyncExitStack() as stack:
            journal = await stack.enter_async_context(await SqliteJournal.open(setup.journal_in(self.path)))
            planner: AheadPlanner | None = None
            if recipe is not None:
                await anyio.to_thread.run_sync(setup.write, self.path)
                if not setup.plan:
                    planner = AheadPlanner(journal, recipe)
                    await stack.enter_async_context(background(planner.work(), planner.ended))
            try:
                async with client.batch(
                    () if recipe is None else self._requests(recipe, report, planner),
                    journal=journal,
                    save_to=None if setup.no_save else setup.save_to or report.here / self.path,
                    save_as=setup.name,
                    in_flight=IN_FLIGHT if setup.in_flight is None else setup.in_flight,
                    only_planned=True,
                    **self.again,
                ) as outcomes:
                    yield outcomes
            except NovitaError:
                await self._note_plan(planner, setup)
                raise
            await self._note_plan(planner, setup)

    async def _note_plan(self, planner: AheadPlanner | None, setup: Setup) -> None:
        """Note that all of the input is planned, once it is."""
        if planner is not None:
            planned = evolve(setup, plan=await planner.finish())
            await anyio.to_thread.run_sync(planned.write, self.path)

    async def _conclude(self, setup: Setup, report: "_BatchReport", *, only_fetched: bool) -> None:
        """Tell the totals as the journal has them, what is new, and what to do next."""
        journal = setup.journal_in(self.path)
        try:
            noted = setup if only_fetched else await anyio.to_thread.run_sync(self._noted, setup.found)
            standing = await anyio.to_thread.run_sync(standing_of, noted, self.path)
            changed = await anyio.to_thread.run_sync(changed_in, journal, report.news)
        except NovitaError:  # the error that ended the batch was told
            report.conclude([], None, ())
        else:
            unsent = None if only_fetched else standing.unsent
            report.conclude(standing.steps(noted, self.folder or "."), unsent, changed)

    def _noted(self, found: dict[str, int]) -> Setup:
        """Read what the folder says of the batch, with the quotas that were found out. Blocks."""
        noted = Setup.read(self.path)
        if noted.found == found:
            return noted
        noted = evolve(noted, found=found)
        with suppress(OSError):  # the next run finds them out again
            noted.write(self.path)
        return noted

    async def _checked(
        self, setup: Setup, faults: Faults, *, anew: bool = True
    ) -> tuple[Setup, Recipe, Budget | None]:
        """Read the whole input once; where it was checked before and is the same, only `anew`.

        Raises:
            InvalidRequest: names every fault of every line and option.
        """
        recipe = await anyio.to_thread.run_sync(_recipe_of, setup, self.path, faults)
        budget = setup.spending(faults)
        setup.check_name(faults)
        marks = await anyio.to_thread.run_sync(marks_of, [*map(path_of, recipe.inputs)])
        requests, images = await checked_input(recipe, faults, anew=anew or marks != setup.marks)
        if requests:
            setup = evolve(setup, requests=requests, images=images, marks=marks)
        return setup, recipe, budget

    async def _requests(
        self, recipe: Recipe, report: "_BatchReport", planner: AheadPlanner | None
    ) -> AsyncGenerator[NovitaRequest]:
        """Read the input again, each request once it is planned."""
        place = 0
        async with aclosing(_in_pieces(recipe.read())) as lines:
            async for made in lines:
                if made.request is None:
                    report.missed(made)
                    continue
                if planner is not None:
                    await planner.reach(place)
                place += 1
                report.places[id(made.request)] = made.place
                yield made.request

    async def _report(self, setup: Setup, report: "_BatchReport") -> None:
        """Write the page; without a page nothing is undone."""
        try:
            path = await report_of(self.folder, setup)
        except (NovitaError, OSError) as error:
            report.display.note(f"no report: {error}")
        else:
            report.display.note(f"report: {path}")
            self.output.record(event="report", file=str(path))


async def checked_input(recipe: Recipe, faults: Faults, *, anew: bool = True) -> tuple[int, dict[str, int]]:
    """Check every line, unless that was done before. Returns the requests, and the images by endpoint.

    Raises:
        InvalidRequest: names every fault of every line and option.
    """
    found = dict.fromkeys(faults)  # a fault that comes from an option is the same on every line
    requests, images = 0, Counter[str]()
    if anew and not any(fault.path.startswith("--sweep") for fault in faults):
        async with aclosing(_in_pieces(recipe.check())) as lines:
            async for line in lines:
                found.update(dict.fromkeys(line.faults))
                requests += line.requests
                if line.requests:
                    images[line.endpoint] += line.images
    if found:
        raise InvalidRequest(faults=tuple(found), advice="nothing was bought")
    return requests, dict(images)


def _recipe_of(setup: Setup, folder: Path, faults: Faults) -> Recipe:
    """Find what the batch is made of, which must not be what it makes."""
    home, axes = setup.home_of_copies(folder), axes_of(setup.sweep, faults)
    inputs = [
        Copy(path=path, name=setup.copies[path.name], folder=home) if path.name in setup.copies else path
        for path in setup.found_from(folder)
    ]
    recipe = Recipe(inputs=inputs, shared=setup.shared, axes=axes)
    if any(path.is_dir() and path.resolve() == folder.resolve() for path in map(path_of, recipe.inputs)):
        faults.append(Flaw("--out", f"{folder} is input as well: what is made would be input the next time"))
    return recipe


async def _in_pieces(items: Iterator[T]) -> AsyncGenerator[T]:
    """Read in a worker thread, some at a time."""
    while piece := await anyio.to_thread.run_sync(lambda: list(islice(items, _PIECE))):
        for item in piece:
            yield item


def found_by(client: NovitaClient, endpoint: str) -> int | None:
    """Images a minute that a client sends to an endpoint, as far as it knows."""
    accounts = client.statistics().pool.accounts
    windows = (window for account in accounts for window in account.pacing.windows)
    known = (window.images_per_minute for window in windows if window.endpoint == endpoint)
    return next((quota for quota in known if quota is not None), None)


# --- What it would be ---------------------------------------------------------------------------------------


async def _ledger_of(journal: Path) -> Summary | None:
    if not await anyio.Path(journal).exists():
        return None
    async with await SqliteJournal.open(journal, read_only=True) as opened:
        return await opened.summary()


def _tell_foreseen(output: Output, setup: Setup, foreseen: Foreseen, buy_new: str) -> None:
    price, ledger, news = setup.price_each(), foreseen.ledger, foreseen.news

    def cost(images: int) -> str:
        return f"{images:,} images" + ("" if price is None else f", {money(price * images)}")

    fetched = ledger.due(Action.WATCH) + ledger.due(Action.SAVE)
    output.line(f"to fetch: {fetched:,} requests, which are paid")
    output.line(f"to buy: {foreseen.buy:,} requests ({cost(foreseen.buy_images)})")
    if news.requests:
        told = news.sentence(foreseen.changed)
        output.line(f"not to buy: {told} ({cost(news.images)}); to buy them, too: {buy_new}")
    left = {state: ledger.rows[state] for state in (State.FAILED, State.UNCERTAIN) if ledger.rows[state]}
    if left:
        output.line("left alone: " + ", ".join(f"{rows:,} {state}" for state, rows in left.items()))
    output.record(
        event="plan",
        fetch=fetched,
        buy=foreseen.buy,
        images=foreseen.buy_images,
        cost=None if price is None else str(price * foreseen.buy_images),
        new=news.requests,
        new_images=news.images,
        changed=list(foreseen.changed),
        left={str(state): rows for state, rows in left.items()},
    )


def tell_plan(output: Output, setup: Setup, budget: Budget | None, ledger: Summary | None) -> None:
    """Tell what would be bought, how long that would take, and what it would cost."""
    images, price = sum(setup.images.values()), setup.price_each()
    spans = (
        ((each - 1) // (setup.quota_of(endpoint) or DOCUMENTED_ELSEWHERE)) * WINDOW
        for endpoint, each in setup.images.items()
    )
    seconds, quota = max(spans, default=0.0), setup.quota or DOCUMENTED_ELSEWHERE
    told = "the documented quota" if setup.quota is None else "your quota"
    told += ", as was found out," if setup.quota not in (None, setup.images_per_minute) else ""
    output.line(f"requests: {setup.requests:,}")
    output.line(f"images: {images:,}")
    output.line(f"time: {elapsed(seconds)} until the last is sent, at {told} of {quota} images a minute")
    cost = None if price is None else price * images
    if price is not None and cost is not None:
        over = ", which is over the budget" if budget and cost > budget.limit else ""
        output.line(f"cost: {money(cost)} at {money(price)} an image{over}")
    known = {} if ledger is None else {str(state): rows for state, rows in ledger.rows.items() if rows}
    if known:
        counts = ", ".join(f"{rows:,} {state}" for state, rows in known.items())
        output.line(f"in the journal already: {counts}; what was bought is not bought again")
    output.record(
        event="plan",
        requests=setup.requests,
        images=images,
        seconds=round(seconds, 1),
        cost=None if cost is None else str(cost),
        journal=known,
    )


# --- Telling ------------------------------------------------------------------------------------------------


@define(eq=False)
class _BatchReport(FollowReport):
    """Tells what happens to a batch."""

    course: Course = field(kw_only=True)
    """How it goes: the tally, by its other name."""
    here: Path = field(kw_only=True)
    """From where paths are shown."""
    places: dict[int, str] = field(factory=dict[int, str], init=False)
    """Names of requests, by their identity, while they are under way."""
    _recorded_at: float = field(factory=anyio.current_time, init=False)
    news: News = field(factory=News, init=False)
    """Requests that were not bought, because they are not in the plan."""

    @classmethod
    def of(cls, output: Output, course: Course, folder: str, here: Path) -> Self:
        """Make a report of a batch in a folder."""
        return cls(output, display_of(), course, folder, course=course, here=here)

    def __call__(self, event: Event) -> None:
        """Observe."""
        if isinstance(event, Finished) and _is_new(event.outcome):
            return
        super().__call__(event)
        self._record_progress()

    def took(self, outcome: Outcome) -> None:
        """Tell one outcome. What an earlier run has made is part of the answer, but no news."""
        place = self.places.pop(id(outcome.request), None) or outcome.task_id or "request"
        if _is_new(outcome) and outcome.request is not None:
            self._codes.add(Exit.SOME_FAILED)
            self.news.add(outcome.request)
            return
        good, news = isinstance(outcome, Succeeded), not self.course.is_earlier(outcome)
        self.course.took(outcome)
        self._codes.add(of_outcome(outcome))
        told = outcome
        if isinstance(outcome, Succeeded):
            told = evolve(outcome, paths=tuple(Path(shown(path, self.here)) for path in outcome.paths))
        self.output.outcome(told, place)
        if news or not good:
            totals = self.course.statistics()
            self.display.advance(totals, f"{place}: {_words(outcome)}", good=good)
        self._record_progress()

    def lines(self, *, due: bool) -> str:
        """Tell a log how it goes, now and then, and each wait."""
        waiting = super().lines(due=due)
        told = [self.course.status().sentence(), self.spent()] if due else []
        return " · ".join(filter(None, (*told, waiting)))

    def _record_progress(self) -> None:
        now = anyio.current_time()
        if now - self._recorded_at >= LINES_EVERY:
            self._recorded_at = now
            self.output.record(event="progress", **self.course.status().as_record())

    def missed(self, made: Made) -> None:
        """Tell a line that was right when it was checked and is wrong now."""
        self._codes.add(Exit.SOME_FAILED)
        for fault in made.faults:
            self.display.note(f"not sent: {fault}")

    def ended_by(self, error: NovitaError | OSError) -> None:
        """Tell what ended everything early."""
        if isinstance(error, BudgetExhausted):
            error.advice = "nothing more was bought; to go on, give a higher --budget"
        super().ended_by(error)

    def again(self, tasks: tuple[Task, ...]) -> str:  # noqa: ARG002 - the journal knows them
        """The command that fetches what is paid."""
        return command("resume", self.folder or ".")

    def summary(self) -> None:
        """Tell nothing yet: see `conclude`."""

    def conclude(self, steps: list[tuple[str, str]], unsent: int | None, changed: Sequence[str]) -> None:
        """Tell the totals, what is new, and what to do next.

        Args:
            steps: What to do next, why and how.
            unsent: Requests that are still to be sent, by the journal. None: that is not known.
            changed: Pictures that have changed since they were planned.
        """
        if unsent is not None:
            self.course.requests = self.course.statistics().ended + unsent
        totals = self.course.statistics()
        earlier = f"; {self.course.earlier:,} ended in earlier runs" if self.course.earlier else ""
        self.display.note(totals.sentence() + earlier)
        if self.news.requests:
            steps = [*steps, ("to buy them, too", command("resume", self.folder or ".", "--buy-new"))]
            names = [shown(Path(path), self.here) for path in changed]
            self.display.note(f"{self.news.sentence(names)}; not bought")
        for why, how in steps:
            self.display.note(f"{why}: {how}")
        self.output.record(
            event="summary",
            **totals.as_record(),
            earlier=self.course.earlier,
            new=self.news.requests,
            next=[how for _, how in steps],
            exit_code=self.exit_code(),
        )


def _is_new(outcome: Outcome) -> bool:
    return isinstance(outcome, Failed) and isinstance(outcome.error, NotPlanned)


def _words(outcome: Outcome) -> str:
    if isinstance(outcome, Failed) and isinstance(outcome.error, FailedEarlier):
        return outcome.error.sentence()
    return described(outcome)
