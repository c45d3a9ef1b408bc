"""`status` and `report`: what a batch's journal says. Both only read, also while the batch is running."""

from collections.abc import Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import anyio.to_thread
from cyclopts import Parameter

from novita_async._journal.postgres.address import discreet
from novita_async._journal.sqlite import file as _file
from novita_async._journal.sqlite.store import Store
from novita_async._purchase.machine import Purchase
from novita_async.cli._exits import Exit
from novita_async.cli._output import Output
from novita_async.cli._report import About, write_report_of
from novita_async.cli._report_summary import Commands
from novita_async.cli._setup import JOURNAL, REPORT, Setup, command
from novita_async.cli._shared import Note, copy_of_rows, is_shared, looked_at
from novita_async.cli._shared import standing_of as shared_standing_of
from novita_async.cli._standing import Standing, page_by_page, standing_of, tell
from novita_async.errors import ConfigurationError

_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
_Folder = Annotated[str, Parameter(name="DIR")]
_LOOK_EVERY = 2.0
"""Seconds between two looks at a batch that is watched."""


async def status(folder: _Folder, /, *, watch: _Flag = False, json: _Flag = False) -> Exit:
    """Tell how a batch is, and what to do next. Nothing is sent.

    Args:
        folder: Folder of the batch; or its URL, postgresql://user@host/database#batch.
        watch: Tell again whenever something has changed, until nothing is left to be sent or fetched, or
            Ctrl-C.
        json: Print one JSON object.
    """
    told: Standing | None = None
    while True:
        setup, standing = await _standing_at(folder)
        if standing != told:
            tell(Output(json), setup, standing, standing.steps(setup, discreet(folder)))
        told = standing
        if not watch or not standing.unsent + standing.to_fetch:
            return Exit.SUCCEEDED
        await anyio.sleep(_LOOK_EVERY)


async def _standing_at(folder: str) -> tuple[Setup, Standing]:
    if is_shared(folder):
        async with looked_at(folder) as journal:
            setup = (await Note.of(journal)).setup()
            return setup, await shared_standing_of(journal, saves=not setup.no_save)
    setup = await setup_of(folder)
    return setup, await anyio.to_thread.run_sync(standing_of, setup, Path(folder))


async def report(
    folder: _Folder, /, *, out: str | None = None, embed: _Flag = False, json: _Flag = False
) -> Exit:
    """Write the report of a batch, one HTML page, and print where it is.

    Args:
        folder: Folder of the batch; or its URL, postgresql://user@host/database#batch.
        out: Folder for the page. Default: the batch's own; of a URL, where its results go.
        embed: Put thumbnails into the page, so that it can travel alone.
        json: Print one JSON object.
    """
    if is_shared(folder):
        async with copy_of_rows(folder) as (setup, journal, home):
            path = (Path(out) if out is not None else home) / REPORT
            await _write(path, journal, setup, discreet(folder), title=folder.partition("#")[2], embed=embed)
    else:
        path = await report_of(folder, await setup_of(folder), embed=embed, out=out)
    Output(json).line(str(path))
    Output(json).record(event="report", file=str(path))
    return Exit.SUCCEEDED


async def report_of(folder: str, setup: Setup, *, embed: bool = False, out: str | None = None) -> Path:
    """Write the report of a batch. Returns where it is."""
    path = Path(folder if out is None else out) / REPORT
    title = Path(folder).absolute().name  # noqa: ASYNC240 - asks the system for no file
    await _write(path, setup.journal_in(Path(folder)), setup, folder, title=title, embed=embed)
    return path


async def _write(path: Path, journal: Path, setup: Setup, place: str, *, title: str, embed: bool) -> None:
    commands = Commands(
        resume=command("resume", place),
        retry=command("retry", place),
        uncertain=command("retry", place, "--uncertain"),
    )
    about = About(
        title=f"Batch {title}",
        price=setup.price_each(),
        images_per_minute=setup.quota,
        commands=commands,
    )
    await anyio.to_thread.run_sync(partial(write_report_of, journal, path, about, embed=embed))


def rows_in(journal: Path) -> Generator[Purchase]:
    """Read all rows, in this thread, as many at a time as a page holds."""
    store = Store(_file.open_to_read(journal))
    try:
        yield from page_by_page(store, None)
    finally:
        store.close()


async def setup_of(folder: str) -> Setup:
    """Read what is known of a batch. A journal alone is enough to look at it."""
    path = Path(folder)
    with suppress(ConfigurationError):
        return await anyio.to_thread.run_sync(Setup.read, path)
    if await anyio.Path(path / JOURNAL).exists():
        return Setup(inputs=())
    return await anyio.to_thread.run_sync(Setup.read, path)
