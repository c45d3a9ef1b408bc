"""`status` and `report`: what a batch's journal says. Both only read, also while the batch is running."""

from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

import anyio.to_thread
from cyclopts import Parameter

from novita_async._journal import file as _file
from novita_async._journal.rows import entry_of
from novita_async._journal.sqlite import SqliteJournal
from novita_async._journal.store import Store
from novita_async._purchase.journal import Summary
from novita_async._purchase.machine import Action, Purchase, State, helps_to_buy_again
from novita_async.cli._exits import Exit
from novita_async.cli._output import Output
from novita_async.cli._report import write_report
from novita_async.cli._report_summary import Commands, money
from novita_async.cli._setup import JOURNAL, REPORT, Setup, command, next_steps
from novita_async.errors import ConfigurationError

_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
_Folder = Annotated[str, Parameter(name="DIR")]

_WORDS: Final[Mapping[State, str]] = {
    State.PLANNED: "not sent yet",
    State.ANNOUNCED: "on the way to the service",
    State.SUBMITTED: "paid for, end not seen",
    State.SUCCEEDED: "done, files not saved",
    State.SAVED: "saved",
    State.FAILED: "failed",
    State.UNCERTAIN: "uncertain: perhaps paid for",
}


async def status(folder: _Folder, /, *, json: _Flag = False) -> Exit:
    """Tell how a batch is, and what to do next. Nothing is sent.

    Args:
        folder: Folder of the batch.
        json: Print one JSON object.
    """
    setup = await setup_of(folder)
    async with await SqliteJournal.open(setup.journal_in(Path(folder)), read_only=True) as journal:
        ledger = await journal.summary()
        failed = [purchase async for purchase in journal.where(State.FAILED)]
        retryable = [each for each in failed if each.error and helps_to_buy_again(each.error)]
    left = max(setup.requests - ledger.total, 0)
    steps = next_steps(_counts(ledger, left, len(retryable), saves=not setup.no_save), folder)
    _tell(Output(json), setup, ledger, left, steps)
    return Exit.SUCCEEDED


async def report(folder: _Folder, /, *, embed: _Flag = False, json: _Flag = False) -> Exit:
    """Write the report of a batch, one HTML page, and print where it is.

    Args:
        folder: Folder of the batch.
        embed: Put thumbnails into the page, so that it can travel alone.
        json: Print one JSON object.
    """
    path = await report_of(folder, await setup_of(folder), embed=embed)
    Output(json).line(str(path))
    Output(json).record(event="report", file=str(path))
    return Exit.SUCCEEDED


async def report_of(folder: str, setup: Setup, *, embed: bool = False) -> Path:
    """Write the report of a batch. Returns where it is."""
    path = Path(folder) / REPORT
    commands = Commands(
        resume=command("resume", folder),
        retry=command("retry", folder),
        uncertain=command("retry", folder, "--uncertain"),
    )

    def write() -> None:
        write_report(
            rows_in(setup.journal_in(Path(folder))),
            path,
            title=f"Batch {Path(folder).absolute().name}",
            price=setup.price_each(),
            images_per_minute=setup.images_per_minute,
            embed=embed,
            commands=commands,
        )

    await anyio.to_thread.run_sync(write)
    return path


def rows_in(journal: Path) -> Generator[Purchase]:
    """Read all rows, in this thread, as many at a time as a page holds."""
    store = Store(_file.open_to_read(journal))
    try:
        after = 0
        while page := store.page(None, after):
            yield from page
            after = entry_of(page[-1]).serial
    finally:
        store.close()


async def setup_of(folder: str) -> Setup:
    """What is known of a batch. A journal alone is enough to look at it."""
    path = Path(folder)
    with suppress(ConfigurationError):
        return await anyio.to_thread.run_sync(Setup.read, path)
    if await anyio.Path(path / JOURNAL).exists():
        return Setup(inputs=())
    return await anyio.to_thread.run_sync(Setup.read, path)


def _counts(ledger: Summary, left: int, retryable: int, *, saves: bool) -> dict[str, int]:
    actions = (Action.SEND, Action.WATCH, Action.SAVE) if saves else (Action.SEND, Action.WATCH)
    to_do = sum(map(ledger.due, actions))
    return {"left": left + to_do, "failed": retryable, "uncertain": ledger.rows[State.UNCERTAIN]}


def _tell(output: Output, setup: Setup, ledger: Summary, left: int, steps: list[tuple[str, str]]) -> None:
    output.line(f"requests: {ledger.total + left:,}")
    for state, words in _WORDS.items():
        count = ledger.rows[state] + (left if state is State.PLANNED else 0)
        if count:
            output.line(f"  {count:,} {words}")
    output.line(f"images bought: {ledger.bought:,}{_cost(setup, ledger.bought)}")
    if ledger.perhaps:
        output.line(f"images perhaps bought: {ledger.perhaps:,}{_cost(setup, ledger.perhaps)}")
    for why, how in steps:
        output.line(f"{why}: {how}")
    if not steps:
        output.line("nothing is left to do")
    output.record(**_record(ledger, left), next=[how for _, how in steps])


def _cost(setup: Setup, images: int) -> str:
    price = setup.price_each()
    return "" if price is None else f" ({money(price * images)})"


def _record(ledger: Summary, left: int) -> dict[str, Any]:
    states = {str(state): ledger.rows[state] for state in State}
    states[State.PLANNED] += left
    return {
        "event": "status",
        "requests": ledger.total + left,
        **states,
        "images_bought": ledger.bought,
        "images_perhaps_bought": ledger.perhaps,
    }
