"""Where the requests of a batch come from: manifests, folders of pictures, pictures, standard input.

**A manifest** is known by its content: JSON objects, one a line; or one JSON array of objects; or a table
(CSV: commas, semicolons or tabs), whose first line has the names of the fields. All are read lazily, one
request at a time, and faults are told with the line in which the request begins.

**In a table** a name with dots is a field of an object (`extra.response_image_type`), and a cell of a field
that is no text is JSON: a number, `true`, a list. An empty cell leaves the field out. `id` and all that
begins with `metadata.` is text.

**Standard input** can be read once, and a batch is read twice, and again when it is resumed. So a copy is
kept in the batch's folder, called after its content; paths in it are seen from the working directory. The
same is done with an input that is no regular file (`<(…)`).
"""

import asyncio
import codecs
import csv
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from threading import Thread
from typing import Any, BinaryIO, Final, cast

import anyio.to_thread
import attrs
from attrs import define, field

from novita_async._api.codec import Unreadable, parse, wire_name
from novita_async._util.scopes import resolve
from novita_async._util.values import frozen
from novita_async.cli._inputs import Document, folder_faults, put
from novita_async.cli._options import options_of
from novita_async.cli._settings import EXTRA
from novita_async.errors import Flaw, InvalidRequest
from novita_async.models import _rules as rules
from novita_async.models.requests import kinds
from novita_async.models.routes import meant

PICTURES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp"})
"""Ends of the names of pictures."""
STANDARD_INPUT: Final = "-"
OWN: Final = ("id", "metadata")
"""Names in a line that are the user's own, beside those of the request."""
_CHUNK: Final = 1 << 16
_SHAPE: Final = (
    'a manifest has a JSON object a line, such as {"image": "dog.png", "prompt": "a fox"}, '
    "or a table with names in its first line, such as id,image,prompt"
)


@frozen(kw_only=True)
class ManifestLine:
    """A line of a manifest, or one picture."""

    place: str
    """Name for messages."""
    folder: Path = field(factory=Path)
    """From where its paths are seen."""
    document: Document = field(factory=dict[str, Any])
    """Content of the line."""
    trouble: str | None = None
    """Why it cannot be read."""
    is_picture: bool = False
    """Whether it is a picture, about which only the options say anything."""


@frozen(kw_only=True)
class Copy:
    """The copy of an input that can be read only once."""

    path: Path
    """Where it is."""
    name: str
    """Name of the input."""
    folder: Path
    """From where its paths are seen."""


Source = Path | Copy
"""A manifest, a folder, a picture; or a copy of a manifest."""


def path_of(source: Source) -> Path:
    """The file of a source."""
    return source.path if isinstance(source, Copy) else source


def lines_of(inputs: Sequence[Source]) -> Iterator[ManifestLine]:
    """Read all inputs, line by line and picture by picture. Blocks."""
    here = Path.cwd()
    for source in inputs:
        if isinstance(source, Copy):
            yield from _told_apart(source.path, source.name, source.folder)
            continue
        name = shown(source, here)
        if source.is_dir():
            yield from _pictures_in(source, name)
        elif source.suffix.lower() in PICTURES:
            yield _picture(source, name)
        elif source.exists() and not source.is_file():
            trouble = f"not a regular file: give it as {STANDARD_INPUT}, with < {name}"
            yield ManifestLine(place=name, trouble=trouble)
        else:
            yield from _told_apart(source, name, source.parent)


def shown(path: Path, here: Path) -> str:
    """A path as it is told: short where it is below the working directory."""
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _told_apart(path: Path, name: str, folder: Path) -> Iterator[ManifestLine]:
    try:
        yield from _manifest(path, name, folder)
    except OSError as error:
        yield ManifestLine(place=name, trouble=(error.strerror or str(error)).lower())


# --- Pictures -----------------------------------------------------------------------------------------------


def _picture(path: Path, name: str) -> ManifestLine:
    return ManifestLine(place=name, document={"image": str(path)}, is_picture=True)


def _pictures_in(folder: Path, name: str) -> Iterator[ManifestLine]:
    try:
        with os.scandir(folder) as entries:
            pictures = (each for each in entries if Path(each.name).suffix.lower() in PICTURES)
            names = sorted(e.name for e in pictures if not e.name.startswith(".") and e.is_file())
    except OSError as error:
        yield ManifestLine(place=name, trouble=(error.strerror or str(error)).lower())
        return
    for each in names:
        yield _picture(folder / each, os.path.join(name, each))  # noqa: PTH118 - as it was typed
    if not names:
        yield ManifestLine(place=name, trouble="holds no png, jpeg or webp pictures")


# --- Manifests ----------------------------------------------------------------------------------------------

_FOREIGN: Final = {
    b"PK\x03\x04": "is a spreadsheet or an archive, not text: save it as CSV (UTF-8)",
    b"PAR1": "is Parquet, not text: write it as CSV or as JSON lines",
    codecs.BOM_UTF16_LE: "is UTF-16: save it as UTF-8",
    codecs.BOM_UTF16_BE: "is UTF-16: save it as UTF-8",
}
"""Beginnings of files that are often given for manifests."""


def _manifest(path: Path, name: str, folder: Path) -> Iterator[ManifestLine]:
    with path.open("rb") as file:
        start = file.read(_CHUNK)
        file.seek(0)
        trouble = next((words for magic, words in _FOREIGN.items() if start.startswith(magic)), None)
        if trouble is None and b"\0" in start:
            trouble = f"is not text; {_SHAPE}"
        if trouble is not None:
            yield ManifestLine(place=name, trouble=trouble)
            return
        empty = True
        for line in _reader_of(path, start)(file, name, folder):
            empty = False
            yield line
        if empty:
            yield ManifestLine(place=name, trouble="holds no requests")


def _reader_of(path: Path, start: bytes) -> Any:
    """How to read a manifest that starts like this."""
    first = start.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if path.suffix.lower() in (".csv", ".tsv"):
        return _table
    if first == b"[":
        return _array
    return _table if first not in (b"{", b"") and _names_fields(start) else _json_lines


def _json_lines(file: BinaryIO, name: str, folder: Path) -> Iterator[ManifestLine]:
    is_first = True
    for number, text in enumerate(file, 1):
        bare = text.removeprefix(codecs.BOM_UTF8).strip()
        if not bare:
            continue
        line = _line(f"{name} line {number}", folder, bare)
        if is_first and line.trouble is not None:
            if bare.endswith((b"{", b"[", b",")) and _goes_on(file):
                words = f"is one JSON object over several lines: jq -c . {name} writes it on one"
                yield ManifestLine(place=name, trouble=words)
                return
            if not bare.startswith(b"{"):
                yield ManifestLine(place=name, trouble=f"line {number} is no JSON object; {_SHAPE}")
                return
        is_first = False
        yield line


def _goes_on(file: BinaryIO) -> bool:
    """Whether the next line belongs to the object of the last. The file stays where it is."""
    at = file.tell()
    following = file.readline().strip()
    file.seek(at)
    return bool(following) and not following.startswith(b"{")


def _line(place: str, folder: Path, text: bytes) -> ManifestLine:
    try:
        document = parse(text)
    except Unreadable as error:
        return ManifestLine(place=place, trouble=f"is not JSON: {error}")
    if not isinstance(document, dict):
        return ManifestLine(place=place, trouble=f"{rules.shown(document)} is not a JSON object")
    return ManifestLine(place=place, folder=folder, document=cast("Document", document))


# --- Arrays -------------------------------------------------------------------------------------------------

_OUTSIDE: Final = re.compile(rb'["\[\]{},]')
_INSIDE: Final = re.compile(rb'["\\]')


def _array(file: BinaryIO, name: str, folder: Path) -> Iterator[ManifestLine]:
    """Read an array of objects, none of it before its turn."""
    number, line = 0, 1
    ended = False
    for text, last in _elements(file):
        bare = text.lstrip()
        begins = line + text[: len(text) - len(bare)].count(b"\n")
        line += text.count(b"\n")
        if ended:
            yield ManifestLine(place=f"{name} line {begins}", trouble="more comes after the end of the list")
        elif last is None:
            words = "the list does not end: a ] is missing, or a bracket or a quote before"
            yield ManifestLine(place=f"{name} line {begins}", trouble=words)
        elif bare or not last:
            number += 1
            yield _line(f"{name} item {number}, line {begins}", folder, bare)
        ended = ended or bool(last)


@define
class _Nesting:
    """How deep in brackets and quotes a place of a JSON text is."""

    depth: int = 0
    quoted: bool = False

    def search(self, data: bytearray, at: int) -> "re.Match[bytes] | None":
        """Find the next mark that matters."""
        return (_INSIDE if self.quoted else _OUTSIDE).search(data, at)

    def passed(self, mark: bytes) -> int:
        """Pass a mark. Returns how many bytes behind it are to be skipped."""
        if mark == b'"':
            self.quoted = not self.quoted
        elif mark in b"[{":
            self.depth += 1
        elif mark in b"]}":
            self.depth -= 1
        return mark == b"\\"


def _elements(file: BinaryIO) -> Iterator[tuple[bytes, bool | None]]:
    """Texts of an array's elements, and whether each is the last. None: the array does not end.

    The text behind the array, where there is any, is one more.
    """
    data, nesting, at = bytearray(), _Nesting(), 0
    while True:
        found = nesting.search(data, at)
        if found is None:
            at = max(at, len(data))
            chunk = file.read(_CHUNK)
            if not chunk:
                yield bytes(data), None
                return
            data += chunk
            continue
        at = found.end() + nesting.passed(found[0])
        if found[0] == b"[" and nesting.depth == 1:  # its beginning; the lines before it count
            data[:at], at = b"\n" * data.count(b"\n", 0, at), 0
        elif nesting.depth == (found[0] == b",") and not nesting.quoted and found[0] in b",]}":
            yield bytes(data[: found.start()]), nesting.depth == 0
            del data[:at]
            at = 0
            if nesting.depth == 0:
                break
    rest = bytes(data) + file.read(_CHUNK)
    if rest.strip():
        yield rest, True


# --- Tables -------------------------------------------------------------------------------------------------

_NAME: Final = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*")


def _delimiter_of(line: str) -> str:
    return next((mark for mark in "\t;," if mark in line), ",")


def _names_fields(start: bytes) -> bool:
    """Whether a text begins with a line of names, one of which at least is known."""
    line = start.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")[0].decode(errors="replace").strip()
    names = [each.strip().strip('"') for each in line.split(_delimiter_of(line))]
    return all(map(_NAME.fullmatch, names)) and any(each.partition(".")[0] in _known() for each in names)


@cache
def _known() -> frozenset[str]:
    """Names that a line of a kind that is known may have."""
    fields = {
        wire_name(each) for cls in kinds().values() for each in attrs.fields(cast("Any", cls)) if each.init
    }
    apart = {"extra_fields", "tag"}
    return frozenset(fields - apart | {"image", "endpoint", "extra", "request", "body", *OWN})


@cache
def _texts() -> frozenset[str]:
    """Dotted names of fields that are text, whatever stands in them."""
    apart = ("extra", "extra_fields", "tag", "metadata")
    options = [option for cls in kinds().values() for option in options_of(cls, leave_out=apart)]
    found = {
        ".".join(option.place) for option in (*options, *EXTRA) if option.kind is str and not option.many
    }
    return frozenset(found | {"id", "endpoint", "image", "image_base64"})


def _table(file: BinaryIO, name: str, folder: Path) -> Iterator[ManifestLine]:
    begins = 1
    try:
        head = file.readline().decode("utf-8-sig")
        file.seek(0)
        reader = csv.reader(_decoded(file), delimiter=_delimiter_of(head), strict=True)
        names = [each.strip() for each in next(reader, list[str]())]
        faults = list(_name_faults(names))
        yield from (ManifestLine(place=f"{name} line 1", trouble=fault) for fault in faults)
        begins = reader.line_num + 1
        for cells in reader:
            if any(cells) and not faults:
                yield _row(f"{name} line {begins}", folder, names, cells)
            begins = reader.line_num + 1
    except UnicodeDecodeError as error:
        words = f"is not UTF-8 ({error.object[error.start : error.start + 1]!r}): save it as CSV (UTF-8)"
        yield ManifestLine(place=name, trouble=words)
    except csv.Error as error:
        words = f"is no table from line {begins} on: {error}"
        yield ManifestLine(place=name, trouble=words)


def _decoded(file: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(file):
        yield line.decode("utf-8" if number else "utf-8-sig")


def _name_faults(names: Sequence[str]) -> Iterator[str]:
    """Faults of the first line of a table, each told once and not for every row."""
    for number, each in enumerate(names, 1):
        if not _NAME.fullmatch(each):
            yield f"column {number}: {rules.shown(each)} is not the name of a field"
        elif each in names[: number - 1]:
            yield f"{each}: is named twice"
        elif each.partition(".")[0] not in _known() and "endpoint" not in names:
            yield f"{each}: no such field{meant(each, _known())}"


def _row(place: str, folder: Path, names: Sequence[str], cells: Sequence[str]) -> ManifestLine:
    if len(cells) > len(names):
        trouble = (
            f"has {len(cells)} cells, and the first line {len(names)} names; a cell with commas needs quotes"
        )
        return ManifestLine(place=place, trouble=trouble)
    document: Document = {}
    for each, cell in zip(names, cells, strict=False):
        if cell.strip():
            put(document, tuple(each.split(".")), _value(each, cell))
    return ManifestLine(place=place, folder=folder, document=document)


def _value(name: str, cell: str) -> Any:
    if name.removeprefix("request.") in _texts() or name.startswith("metadata."):
        return cell
    bare = cell.strip()
    try:
        value = parse(bare.lower() if bare in ("TRUE", "FALSE", "True", "False") else bare)
    except Unreadable:
        return cell
    return int(value) if isinstance(value, float) and value.is_integer() else value


# --- Standard input -----------------------------------------------------------------------------------------


def told(place: str) -> str:
    """Name an input that can be read only once."""
    return "standard input" if place == STANDARD_INPUT else place


async def copies_of(inputs: Sequence[str], home: Path | None) -> dict[str, Path]:
    """Copy the inputs that can be read only once into a folder. Returns where the copy of each is.

    Args:
        inputs: All inputs.
        home: The folder. None: one that lasts until the copies are removed.

    The copies are made by a thread of their own, which ends with the process: a read of standard input lasts
    for as long as somebody types, and Ctrl-C must end it.

    Raises:
        InvalidRequest: an input is given twice, or cannot be copied.
    """
    once = [place for place in inputs if await anyio.to_thread.run_sync(_can_be_read_once, place)]
    if not once:
        return {}
    faults = [
        Flaw(place, "can be read only once, and is given twice")
        for place in set(once)
        if once.count(place) > 1
    ]
    folder = home or Path(await anyio.to_thread.run_sync(mkdtemp))
    faults += await anyio.to_thread.run_sync(folder_faults, str(folder))
    if faults:
        raise InvalidRequest(faults=tuple(faults), advice="nothing was bought")
    loop = asyncio.get_running_loop()
    copied: asyncio.Future[dict[str, Path]] = loop.create_future()

    def copy() -> None:
        try:
            settle = partial(resolve, copied, {place: _copy_into(folder, place) for place in once})
        except OSError as error:
            words = (error.strerror or str(error)).lower()
            settle = partial(_refuse, copied, InvalidRequest(faults=(Flaw(", ".join(once), words),)))
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle)

    Thread(target=copy, name="copying the input", daemon=True).start()
    return await copied


def remove(copies: Iterable[Path], with_folder: bool) -> None:  # noqa: FBT001
    """Remove copies, and the folder that was made for them. Blocks."""
    for copy in copies:
        copy.unlink(missing_ok=True)
        if with_folder:
            with suppress(OSError):
                copy.parent.rmdir()


def _refuse(copied: "asyncio.Future[Any]", error: InvalidRequest) -> None:
    if not copied.done():
        copied.set_exception(error)


def _can_be_read_once(place: str) -> bool:
    path = Path(place)
    return place == STANDARD_INPUT or (path.exists() and not path.is_file() and not path.is_dir())


def _copy_into(folder: Path, place: str) -> Path:
    """Copy an input under a name that its content gives, durably: a resumed batch needs it."""
    is_standard = place == STANDARD_INPUT
    descriptor = sys.stdin.fileno() if is_standard else os.open(place, os.O_RDONLY)
    part, digest = folder / f".input.{os.getpid()}.part", hashlib.sha256()
    try:
        with (
            open(descriptor, "rb", buffering=0, closefd=not is_standard) as source,
            part.open("wb") as file,
        ):
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"input-{digest.hexdigest()[:16]}.txt"
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
