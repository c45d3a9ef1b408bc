"""`export`: all that a batch's journal says, as lines for programs and for spreadsheets. Only reads."""

import csv
import io
import json
import os
import sys
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Annotated, Any, Final, Literal

import anyio
import anyio.to_thread
from cyclopts import Parameter

from novita_async._files.index import kept_at
from novita_async._files.lines import NAMES, cost_of, line_of, made_again
from novita_async._policy.spending import Budget
from novita_async._purchase.machine import Purchase, State
from novita_async._stream.way import outcome_of
from novita_async.cli._exits import Exit
from novita_async.cli._output import StandardError
from novita_async.cli._setup import Setup
from novita_async.cli._shared import copy_of_rows, is_shared
from novita_async.cli._status import rows_in, setup_of
from novita_async.errors import ConfigurationError, InvalidRequest
from novita_async.models.results import Outcome

_ENDED: Final = frozenset({State.SUCCEEDED, State.SAVED, State.FAILED, State.UNCERTAIN})
_NESTED: Final = {
    "times": ("submit", "execute", "complete"),
    "error": ("type", "reason", "status", "message"),
}
"""Objects that have a column for each of their names, called `times.submit` and so on."""
_COLUMNS: Final = tuple(
    column for name in NAMES for column in (f"{name}.{each}" for each in _NESTED.get(name, ("",)))
)


async def export(
    folder: Annotated[str, Parameter(name="DIR")],
    /,
    *,
    format: Literal["jsonl", "csv"] | None = None,  # noqa: A002 - the name of the option
    out: str | None = None,
    state: Annotated[list[State] | None, Parameter(negative_iterable=())] = None,
) -> Exit:
    """Tell all requests of a batch, one a line, from its journal alone: also while it is running.

    Each line has the same names: outcome, state, place, id, metadata, endpoint, images, files, task_id,
    other_task_ids, account, attempts, cost (where `--price` was given), seed, urls (without signatures),
    nsfw, times, error, inputs, and make: the request as a line of a manifest. In CSV, `times` and `error`
    have a column for each of their names, such as `error.message`, and lists and objects are JSON.

    Args:
        folder: Folder of the batch; or its URL, postgresql://user@host/database#batch.
        format: `jsonl` or `csv`. Default: what the name of `--out` ends with, else jsonl.
        out: File to write, which is replaced. Default: standard output.
        state: Only requests of this state. May be repeated.
    """
    kind = format or ("csv" if out is not None and out.lower().endswith(".csv") else "jsonl")

    def write(setup: Setup, journal: Path, home: Path) -> int:
        with closing(rows_in(journal)) as rows, _opened(out) as file:
            lines = _lines(rows, home, setup, frozenset(state or State))
            return _write_csv(file, lines) if kind == "csv" else _write_jsonl(file, lines)

    async with _rows_of(folder) as found:
        count = await anyio.to_thread.run_sync(write, *found)
    if out is not None:
        StandardError().note(f"{count:,} requests: {out}")
    return Exit.SUCCEEDED


@asynccontextmanager
async def _rows_of(folder: str) -> AsyncGenerator[tuple[Setup, Path, Path]]:
    """Find what is known of a batch, its journal's file, and where its results are."""
    if is_shared(folder):
        async with copy_of_rows(folder) as found:
            yield found
        return
    setup = await setup_of(folder)
    journal = setup.journal_in(Path(folder))
    if not await anyio.Path(journal).exists():
        raise ConfigurationError(
            problem=f"{journal}: there is no journal", advice="nothing of this batch was sent yet"
        )
    yield setup, journal, Path(folder)


def _lines(
    rows: Iterable[Purchase], folder: Path, setup: Setup, states: frozenset[State]
) -> Iterator[dict[str, Any]]:
    price = setup.price_each()
    budget = None if price is None else Budget(limit=0, price=price)
    for row in rows:
        if row.state in states:
            yield _line(row, folder, budget)


def _line(row: Purchase, folder: Path, budget: Budget | None) -> dict[str, Any]:
    outcome: Outcome | None = outcome_of(row) if row.state in _ENDED else None
    line = line_of(row, outcome, cost=cost_of(row, budget))
    line["state"] = str(row.state)
    return line | _made_again(row, line["seed"], folder)


def _made_again(row: Purchase, seed: int | None, folder: Path) -> dict[str, Any]:
    inputs: dict[str, str] = {}

    def place_of(digest: str, path: Path | None) -> str:
        place = kept_at(folder, digest, path)
        inputs[place] = digest
        return place

    make = None
    if row.entry is not None:
        with suppress(InvalidRequest, LookupError):
            make = made_again(row.entry, seed, place_of)
    return {"inputs": inputs, "make": make}


# --- Formats ------------------------------------------------------------------------------------------------


@contextmanager
def _opened(out: str | None) -> Generator[IO[str]]:
    """Standard output, or a file that takes the place of an older one once it is whole."""
    if out is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    path = Path(out)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_jsonl(file: IO[str], lines: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    for count, line in enumerate(lines, 1):  # noqa: B007 - the number of the last one is told
        file.write(f"{json.dumps(line)}\n")
    return count


def _write_csv(file: IO[str], lines: Iterable[Mapping[str, Any]]) -> int:
    """Write a table, with the line ends that RFC 4180 and spreadsheets want."""
    written = io.StringIO(newline="")
    writer = csv.writer(written)
    writer.writerow([column.removesuffix(".") for column in _COLUMNS])
    count = 0
    for count, line in enumerate(lines, 1):  # noqa: B007 - as above
        cells = (_at(line, column) for column in _COLUMNS)
        writer.writerow(
            json.dumps(cell, ensure_ascii=False) if isinstance(cell, list | dict) else cell for cell in cells
        )
        file.write(written.getvalue())
        written.seek(0)
        written.truncate()
    file.write(written.getvalue())
    return count


def _at(line: Mapping[str, Any], column: str) -> Any:
    name, _, inner = column.partition(".")
    value: Any = line[name]
    return value[inner] if inner and value else value
