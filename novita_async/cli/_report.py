"""The report of a batch: one HTML page from the rows of its journal, to be opened, printed and passed on.

The page is made in one pass over the rows and written piece by piece, so neither they nor it are held in
memory. First come the rows, as JSON in a block that no browser shows; then, with everything known, the
totals, what is left to do and the timeline, as plain HTML. A script in the page lists the rows. Of a large
batch the page holds some rows, and the others lie beside it (`_report_pieces`).

Text from outside is never markup. In HTML it is escaped; in the JSON no `<` stands, so nothing can end
the block; and the script sets text, never HTML. The page's policy lets nothing run but its own script, which
it knows by its hash, and nothing load but pictures beside it.
"""

import base64
import hashlib
import json
import os
import re
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from html import escape
from importlib.resources import files
from itertools import chain
from pathlib import Path
from string import Template
from typing import Any, Final

import attrs
from attrs import field

from novita_async._files.names import INDEX
from novita_async._journal.rows import entry_of
from novita_async._journal.sqlite import file as _file
from novita_async._journal.sqlite.store import Store
from novita_async._purchase.machine import Purchase
from novita_async._util.values import frozen
from novita_async._version import __version__
from novita_async.cli import _report_summary as summary
from novita_async.cli._report_files import Disk, ReportFiles
from novita_async.cli._report_pieces import (
    WHOLE,
    RowPiece,
    are_there,
    pieces_of,
    rows_of_page,
    survey,
    write_pieces,
)
from novita_async.cli._report_rows import Entry, Gathering
from novita_async.cli._report_summary import Commands
from novita_async.cli._setup import JOURNAL, NOTE, REPORT, ROWS
from novita_async.cli._terminal import visible

TITLE: Final = "Batch report"


@frozen(kw_only=True)
class About:
    """Contents of a report besides the rows."""

    title: str = TITLE
    """Its heading."""
    price: Decimal | None = None
    """Dollars an image. None: no cost is shown."""
    images_per_minute: int | None = None
    """The quota, for the timeline. None: not known."""
    commands: Commands = field(factory=Commands)
    """Commands to go on with."""


def write_report(
    rows: Iterable[Purchase],
    path: Path,
    *,
    title: str = TITLE,
    price: Decimal | None = None,
    images_per_minute: int | None = None,
    embed: bool = False,
    commands: Commands | None = None,
) -> None:
    """Write the report of a batch. Blocks: call it from a worker thread. An older report is replaced at once.

    Args:
        rows: The journal's rows; read once, one after the other.
        path: Where the page goes. Files are linked relative to its folder.
        title: Heading of the page.
        price: Dollars an image. None: no cost is shown.
        images_per_minute: The quota, drawn in the timeline.
        embed: Put thumbnails into the page, so that it can travel alone. Needs Pillow.
        commands: What the reader is to type for this batch.

    Raises:
        ConfigurationError: `embed` without Pillow.
        OSError: the page cannot be written; an older one is left as it was.
    """
    about = About(
        title=title, price=price, images_per_minute=images_per_minute, commands=commands or Commands()
    )
    _replace(path, page(rows, Disk(path.parent, embed), about))


def write_report_of(journal: Path, path: Path, about: About, *, embed: bool = False) -> None:
    """Write the report of a journal, unless the one that is there says the same. Blocks; see `write_report`.

    Args:
        journal: The journal's file, which may be in use.
        path: Where the page goes.
        about: What else to tell.
        embed: As for `write_report`. All rows are then in the page.
    """
    store = Store(_file.open_to_read(journal))
    try:
        pieces, disk = pieces_of(store), Disk(path.parent, embed)
        is_whole = embed or sum(piece.rows for piece in pieces) <= WHOLE
        mark = "" if embed else _mark(about, pieces, path.parent)
        if mark and _mark_in(path) == mark and (is_whole or are_there(pieces, path.parent)):
            return
        if is_whole:
            _replace(path, page(_all_rows(store), disk, about, mark=mark))
            return
        write_pieces(store, pieces, path.parent)
        seen = Gathering(disk)
        survey(store, seen)
        _replace(
            path, _page(chain.from_iterable(map(seen.tell, rows_of_page(store))), seen, about, mark, pieces)
        )
    finally:
        store.close()


def _all_rows(store: Store) -> Iterator[Purchase]:
    after = 0
    while rows := store.page(None, after):
        yield from rows
        after = entry_of(rows[-1]).serial


_MARK: Final = re.compile(r'<meta name="mark" content="([0-9a-f]+)">')


def _mark(about: About, pieces: Iterable[RowPiece], folder: Path) -> str:
    """Digest of all that a page is made of: rows, words, the files that are there."""
    results = (name for name in os.listdir(folder) if not name.startswith(_OWN))  # noqa: PTH208 - quicker by far
    files = sum(zlib.crc32(os.fsencode(name)) for name in results)
    resources = map(_resource, ("_report.html", "_report.css", "_report.js"))
    told = repr((__version__, *resources, about, tuple(pieces), files))
    return hashlib.sha256(told.encode(errors="backslashreplace")).hexdigest()


_OWN: Final = (".", REPORT, ROWS, JOURNAL, NOTE, INDEX)
"""Beginnings of the names of files that are of the batch itself, and no results."""


def _mark_in(path: Path) -> str:
    """The mark of a page that is there; empty where there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            found = _MARK.search(file.read(4096))
    except OSError:
        return ""
    return found[1] if found else ""


def _replace(path: Path, pieces: Iterable[str]) -> None:
    """Write a file beside its place, then move it there."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("w", encoding="utf-8", errors="xmlcharrefreplace", newline="\n") as file:
            file.writelines(pieces)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def page(rows: Iterable[Purchase], found: ReportFiles, about: About, *, mark: str = "") -> Iterator[str]:
    """The report's text, piece by piece.

    Args:
        rows: The journal's rows; read once.
        found: Where the files are.
        about: What else to tell.
        mark: Digest of all that the page is made of.
    """
    seen = Gathering(found)
    return _page(chain.from_iterable(map(seen.take, rows)), seen, about, mark, ())


def _page(
    entries: Iterable[Entry], seen: Gathering, about: About, mark: str, pieces: Sequence[RowPiece]
) -> Iterator[str]:
    """The report's text. The disk need not be known before the entries are read."""
    head, _, rest = _resource("_report.html").partition("$rows")
    style, script = _resource("_report.css"), _resource("_report.js")
    title = escape(visible(about.title))
    policy = _policy(style, script, loads=bool(pieces))
    yield Template(head).substitute(title=title, policy=policy, style=style, mark=mark)
    yield from _lines(entries)
    beside = [[f"{ROWS}/{piece.name}", piece.rows] for piece in pieces if piece.number]
    yield Template(rest).substitute(
        title=title,
        script=script,
        commands=_json(attrs.asdict(about.commands)),
        beside=_json({"pieces": beside, "states": {str(s): n for s, n in seen.ledger.rows.items() if n}}),
        when=summary.when(seen.happened),
        totals=summary.totals(seen.ledger, seen.happened, about.price),
        todo=summary.todo(seen.ledger, seen.failures, about.commands),
        timeline=summary.times(seen.happened, about.images_per_minute),
    )


def _resource(name: str) -> str:
    return files("novita_async.cli").joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str, *, loads: bool) -> str:
    """The page's Content Security Policy: its own style and script, what that loads, pictures beside it."""
    scripts = f"{_hash(script)} 'strict-dynamic'" if loads else _hash(script)
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {scripts}; "
        "img-src 'self' file: data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _lines(entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A JSON array, one entry a line."""
    comma = "["
    for entry in entries:
        yield f"{comma}\n{_json(entry)}"
        comma = ","
    yield "[]" if comma == "[" else "\n]"


def _json(value: Any) -> str:
    """JSON that can stand inside a script element: without `<`, nothing in it ends or opens anything."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
