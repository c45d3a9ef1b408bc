"""Commands `worker`, and `retry` about a URL: work on a batch in a database, beside others."""

from datetime import datetime
from typing import Any

import anyio
import anyio.to_thread
from attrs import define, evolve, field

from novita_async._client import NovitaClient
from novita_async._journal.postgres.address import LEASE, discreet
from novita_async._journal.postgres.journal import PostgresJournal
from novita_async._stream.stream import IN_FLIGHT
from novita_async.cli._exits import Exit
from novita_async.cli._follow import FollowReport, follow
from novita_async.cli._inputs import Faults, folder_faults
from novita_async.cli._output import Output, StandardError
from novita_async.cli._progress import ProgressTally, Status, Totals, display_of
from novita_async.cli._report_summary import money
from novita_async.cli._setup import Setup, command
from novita_async.cli._shared import Note, checked_url, looked_at, standing_of
from novita_async.errors import BudgetExhausted, Flaw, InvalidRequest, JournalError, NovitaError
from novita_async.tasks import Task


@define(eq=False)
class WorkerTally(ProgressTally):
    """Counts what one worker has had: the rest of the batch may be others'."""

    def statistics(self) -> Totals:
        """Count."""
        totals = super().statistics()
        begun = totals.succeeded + totals.failed + totals.uncertain + self.waits.running
        return evolve(totals, requests=max(totals.ended, begun))

    def status(self) -> Status:
        """How it is going: nobody knows how much of the rest others will do."""
        return evolve(super().status(), seconds_left=None, here=" here")


@define(eq=False)
class _WorkerReport(FollowReport):
    """Tells what one worker does."""

    url: str = field(kw_only=True)
    """The batch."""

    def ended_by(self, error: NovitaError | OSError) -> None:
        """Tell what ended this worker early."""
        super().ended_by(error)
        if not isinstance(error, BudgetExhausted):  # that ends all others, too
            self.display.note(f"others may go on; to go on here: {command('resume', self.url)}")

    def spent(self) -> str:
        """Say what this worker has spent, in dollars: the budget is everybody's."""
        spending = self.spending()
        return super().spent() if spending is None else f"{money(spending.spent)} here"

    def again(self, tasks: tuple[Task, ...]) -> str:  # noqa: ARG002 - the journal knows them
        """The command that fetches what is paid."""
        return command("resume", self.url)


async def work(
    url: str,
    changes: dict[str, Any],
    output: Output,
    *,
    forever: bool = False,
    again: dict[str, Any] | None = None,
) -> Exit:
    """Work on a batch until it is complete, and tell at the end how it is."""
    checked_url(url)
    if forever:  # there need be no batch yet
        async with await PostgresJournal.join(url, worker="worker"):
            pass
    async with looked_at(url) as journal:
        note = await Note.of(journal)
    told = {name: changes[name] for name in ("images_per_minute", "price", "budget") if name in changes}
    noted, note = note, evolve(note, **told, out=changes.get("out") or note.out)
    setup = note.setup()
    faults: Faults = []
    if note.out is not None and "://" not in note.out:
        faults += await anyio.to_thread.run_sync(folder_faults, note.out)
    if note.out is None and not note.no_save:
        faults.append(Flaw("--out", "is needed: neither `enqueue` nor you have said where results go"))
    budget = setup.spending(faults)
    if faults:
        raise InvalidRequest(faults=tuple(faults), advice="nothing was bought")
    if told:  # said for all who come later, once those at work do not object
        if budget is not None and told.keys() & {"price", "budget"}:
            async with await PostgresJournal.join(url, worker="worker") as joined:
                await joined.set_budget(budget.limit, budget.per_image)
        async with looked_at(url) as journal:
            await Note(**told).add_to(journal, noted)
    report = _WorkerReport(output, display_of(), WorkerTally(0), note.out, url=discreet(url))
    report.price = setup.price_each()
    options: dict[str, Any] = {"images_per_minute": note.images_per_minute, "observers": [report]}
    async with NovitaClient(**options, budget=budget) as client:
        report.spending = lambda: client.statistics().spending
        outcomes = client.work(
            journal=url,
            save_to=None if note.no_save else note.out,
            save_as=note.name,
            in_flight=changes.get("in_flight") or IN_FLIGHT,
            name=changes.get("label"),
            stall=changes.get("stall") or LEASE,
            forever=forever,
            **again or {},
        )
        try:
            code = await follow(outcomes, report)
        finally:
            with anyio.CancelScope(shield=True):
                await _tell_standing(url, setup, output)
    return code


async def _tell_standing(url: str, setup: Setup, output: Output) -> None:
    """Tell how the whole batch is, and what to do next."""
    try:
        async with looked_at(url) as journal:
            standing = await standing_of(journal, saves=not setup.no_save)
    except JournalError as error:
        StandardError().note(f"how the batch is, nobody can say now: {error}")
        return
    steps = standing.steps(setup, discreet(url))
    counts = ", ".join(f"{count:,} {state}" for state, count in standing.ledger.rows.items() if count)
    StandardError().note(f"the batch: {counts}")
    for why, how in steps:
        StandardError().note(f"{why}: {how}")
    output.record(
        event="batch",
        **{str(state): count for state, count in standing.ledger.rows.items()},
        next=[how for _, how in steps],
    )


async def tell_workers(url: str, output: Output) -> Exit:
    """Tell who works on a batch."""
    async with looked_at(checked_url(url)) as journal:
        found = await journal.at_work()
    for each in found:
        state = "alive" if each.silent_since is None else f"silent since {_at(each.silent_since)}"
        has = f"has {each.had:,} requests ({each.sending:,} being sent, {each.watching:,} watched)"
        output.line(f"{each.name}  {each.version}  since {_at(each.started)}  {state}  {has}")
        output.record(
            event="worker",
            number=each.number,
            name=each.name,
            version=each.version,
            started=each.started.isoformat(),
            alive=each.is_alive,
            requests=each.had,
            sending=each.sending,
            watching=each.watching,
        )
    if not found:
        output.line("nobody works on it")
    return Exit.SUCCEEDED


def _at(time: datetime) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
