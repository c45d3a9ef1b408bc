"""Rows of a large batch in pieces: scripts beside the page, each of which is loaded when it is asked for.

The page itself holds the first piece, and the rows of all batches that somebody has to look after. A piece
has the rows of so many serial numbers, the columns of the journal nearly as they stand; the page makes of
them what it shows. So a row costs a tenth of what it costs in the page. A piece begins with a mark of its
rows, and is written again only where that is another.

A page that is opened from a disk may load nothing but scripts, so a piece is a script that calls one function
of the page. Possible secrets of a request are cut out as in the page.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from novita_async._journal.sqlite.store import Store
from novita_async._purchase.machine import Purchase, State
from novita_async._util.values import frozen
from novita_async.cli._report_files import INPUTS, link
from novita_async.cli._report_rows import Gathering, discreet
from novita_async.cli._setup import ROWS

WHOLE: Final = 5_000
"""Rows up to which the page holds all of them."""
PIECE: Final = 2_000
"""Serial numbers of one piece."""
_LOOKED_AFTER: Final = {
    State.UNCERTAIN: 1_000,
    State.FAILED: 2_000,
    State.SUBMITTED: 500,
    State.SUCCEEDED: 500,
    State.ANNOUNCED: 500,
}
"""States whose rows are in the page, and how many at most."""
_PERHAPS_SECRET: Final = ("?", "sk_", "bearer", "signature", "webhook", "$withheld", "base64,")
_LONG: Final = 2_000
"""Characters of a row from which there may be a picture in it."""
_PICTURES: Final = re.compile(
    r'\{\s*"\$picture":\s*"([0-9a-f]{64})"(?:,\s*"path":\s*("(?:[^"\\]|\\.)*"))?\s*\}'
)


@frozen(kw_only=True)
class RowPiece:
    """A piece of the rows."""

    number: int
    """From 0."""
    rows: int
    """How many."""
    sum: int
    """Changes with any of them."""

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.number + 1:04d}.js"

    @property
    def mark(self) -> str:
        """First line of its file."""
        return f"// {self.rows} rows, {self.sum}\n"


def pieces_of(store: Store) -> list[RowPiece]:
    """Divide the rows of a journal."""
    return [RowPiece(number=number, rows=rows, sum=total) for number, rows, total in store.marks(PIECE)]


def are_there(pieces: Iterable[RowPiece], folder: Path) -> bool:
    """Whether the files of all pieces but the first are as they should be. Blocks."""
    return all(_is_there(folder / ROWS / piece.name, piece.mark) for piece in pieces if piece.number)


def _is_there(path: Path, mark: str) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline() == mark
    except (OSError, ValueError):
        return False


def survey(store: Store, seen: Gathering) -> None:
    """Take note of all rows, without telling any."""
    seen.ledger = store.summary()
    for state, images, announced, answered, finished, earlier, error in store.moments():
        attempts = [] if announced is None else [(announced, answered)]
        if earlier is not None:
            attempts += [(each["announced_time"], each["answered_time"]) for each in json.loads(earlier)]
            attempts.sort(key=lambda attempt: attempt[0])
        seen.happened.note(_STATES[state], images, attempts, finished)
        if state == State.FAILED.value and error is not None:
            told = json.loads(error)
            kind = f"{told['kind']} {told['reason']}" if told["reason"] else told["kind"]
            seen.failures[kind, told["retryable"]] += 1


_STATES: Final = {state.value: state for state in State}


def rows_of_page(store: Store) -> Iterator[Purchase]:
    """The rows that the page holds: those of the first piece, and those that somebody has to look after."""
    yield from store.page(None, 0, PIECE)
    for state, most in _LOOKED_AFTER.items():
        yield from store.page(state, PIECE, most)


def write_pieces(store: Store, pieces: Iterable[RowPiece], folder: Path) -> None:
    """Write the files of all pieces but the first, where they are not there. Blocks. Raises `OSError`."""
    (folder / ROWS).mkdir(exist_ok=True)
    kept = {path.stem: path.name for path in (folder / INPUTS).glob("*")}
    for piece in pieces:
        path = folder / ROWS / piece.name
        if piece.number and not _is_there(path, piece.mark):
            part = path.with_suffix(".part")
            part.write_text(_text(store, piece, folder, kept), encoding="utf-8")
            part.replace(path)


def _text(store: Store, piece: RowPiece, folder: Path, kept: dict[str, str]) -> str:
    first = piece.number * PIECE + 1
    rows = [_line(*found) for found in store.as_json(first, first + PIECE - 1)]
    if _perhaps_secret("".join(rows)) or max(map(len, rows)) > _LONG:
        rows = list(map(_discreet, rows))
    lines = ",\n".join(rows)
    home = json.dumps(f"{folder.absolute()}/")[1:-1]
    where = json.dumps(_places(lines, folder.absolute(), kept), separators=(",", ":"))
    return f"{piece.mark}novitaRows({piece.number},{where},[\n{lines.replace(home, '')}\n]);\n"


def _places(lines: str, folder: Path, kept: dict[str, str]) -> dict[str, dict[str, str]]:
    """Where pictures lie that were sent: copies by their digest, folders as they are seen from the page."""
    copies: dict[str, str] = {}
    folders: dict[str, str] = {}
    for digest, path in dict.fromkeys(_PICTURES.findall(lines)):
        if digest in kept:
            copies[digest] = kept[digest]
        elif path:
            parent = str(Path(json.loads(path)).parent)
            folders[parent] = folders.get(parent) or link(Path(parent), folder)
    return {"copies": copies, "folders": folders}


def _line(told: str, request: str, result: str | None) -> str:
    """Write a row as a JSON array, which ends with what the check of each file found, and the request."""
    nsfw = (
        "null" if result is None else json.dumps([each.get("nsfw") for each in json.loads(result)["files"]])
    )
    return f"{told[:-1]},{nsfw},{request}]"


def _discreet(row: str) -> str:
    """A row of which what may be secret is cut out, where anything in it may be."""
    if len(row) <= _LONG and not _perhaps_secret(row):
        return row
    return json.dumps(discreet(json.loads(row), lambda picture: picture), separators=(",", ":"))


def _perhaps_secret(text: str) -> bool:
    low = text.lower()
    return any(mark in low for mark in _PERHAPS_SECRET)
