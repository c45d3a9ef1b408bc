"""Command `enqueue`: check an input, and plan it in a database for others to work on."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
from attrs import evolve

from novita_async._files.places import storage_at
from novita_async._journal.postgres.address import discreet
from novita_async._journal.postgres.journal import PostgresJournal
from novita_async._purchase.machine import PLANNED
from novita_async._stream.planning import PIECE, BatchPlanner
from novita_async.cli._batch import checked_input, tell_plan
from novita_async.cli._exits import Exit
from novita_async.cli._inputs import Faults, Typed
from novita_async.cli._manifest import Made, Recipe, axes_of, shared_of
from novita_async.cli._output import Output
from novita_async.cli._setup import command
from novita_async.cli._shared import Note, checked_url
from novita_async.cli._sources import Copy, copies_of, remove, told
from novita_async.errors import InvalidRequest
from novita_async.models.endpoints import Endpoints
from novita_async.models.requests import NovitaRequest


async def enqueue(
    inputs: Sequence[str],
    url: str,
    typed: Typed,
    sweep: Sequence[str],
    note: dict[str, Any],
    *,
    dry_run: bool,
    output: Output,
) -> Exit:
    """Plan a batch as it was typed, or tell what it would be."""
    checked_url(url)
    noted = Note(**note)
    copies = await copies_of(inputs, None)
    try:
        recipe, faults = await anyio.to_thread.run_sync(_recipe_of, inputs, copies, typed, sweep)
        setup, budget = noted.setup(), noted.setup().spending(faults)
        setup.check_name(faults)
        requests, images = await checked_input(recipe, faults)
        if dry_run:
            tell_plan(output, evolve(setup, requests=requests, images=images), budget, None)
        else:
            await _plan(recipe, url, noted, output)
    finally:
        await anyio.to_thread.run_sync(remove, copies.values(), True)
    return Exit.SUCCEEDED


def _recipe_of(
    inputs: Sequence[str], copies: dict[str, Path], typed: Typed, sweep: Sequence[str]
) -> tuple[Recipe, Faults]:
    """Find what the batch is made of, as it is seen from anywhere. Blocks."""
    faults: Faults = []
    here = Path.cwd()
    sources = [
        Copy(path=copies[place], name=told(place), folder=here) if place in copies else here / place
        for place in inputs
    ]
    return Recipe(inputs=sources, shared=shared_of(typed), axes=axes_of(sweep, faults)), faults


async def _plan(recipe: Recipe, url: str, note: Note, output: Output) -> None:
    """Plan everything, and tell what is new."""
    new = 0
    async with await PostgresJournal.join(url, worker="enqueue") as journal:
        await note.add_to(journal, await Note.of(journal))
        planner = BatchPlanner(
            endpoints=Endpoints(), storage=None if note.out is None else storage_at(note.out)
        )
        lines = _requests(recipe.read())
        while piece := await anyio.to_thread.run_sync(lambda: list(islice(lines, PIECE))):
            new += await journal.enqueue(await planner.orders(piece))
        waiting = (await journal.summary()).rows[PLANNED]
    work = command("resume", discreet(url))
    output.line(f"planned: {planner.planned:,} requests, of which {new:,} are new; to be sent: {waiting:,}")
    output.line(f"to work on them, on any number of machines: {work}")
    output.record(event="planned", requests=planner.planned, new=new, unsent=waiting, next=[work])


def _requests(lines: Iterator[Made]) -> Iterator[NovitaRequest]:
    for made in lines:
        if made.request is None:  # it was right when it was checked
            raise InvalidRequest(faults=made.faults, advice=_PART)
        yield made.request


_PART: Final = "the lines before it are planned, and nothing was bought; run the same again"
