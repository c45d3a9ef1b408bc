"""The index beside result files: a line of JSON for each outcome, as `lines` describes it.

`make` is the request as a line of a manifest, with the seed that the service reports; so `jq -c .make` turns
an index into a batch that makes the same again, and `jq -c 'select(.outcome == "failed").make'` into one of
what failed. Pictures that were given in memory lie in `inputs/`, once each, called after their digest. It is
null where a picture has changed since, where a part of the request must not be kept, or where only a task
was known.

Lines are only added, each whole, and before a journal knows of the outcome. So a killed process may
leave a line twice, and none out; and what failed, and succeeded later, has two lines, of which the last
counts. An outcome that an earlier run has listed is not listed again; what is uncertain is, each time.
"""

import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from pathlib import Path
from threading import Lock
from typing import Any, Final, cast

from attrs import Factory, define, field

from novita_async._files.folders import scope_of
from novita_async._files.lines import cost_of, line_of, made_again
from novita_async._files.names import INDEX
from novita_async._journal.identity import DigestCache, order_of
from novita_async._policy.spending import Budget
from novita_async._purchase.machine import SAVED, JournalEntry, Purchase
from novita_async._util.disk import make_folder, sync_folder
from novita_async._util.groups import Groups
from novita_async._util.scopes import run_in_thread
from novita_async.errors import DownloadFailed, InvalidRequest
from novita_async.models._headers import TAKEN
from novita_async.models.images import ImageSource, is_as_measured
from novita_async.models.requests import NovitaRequest
from novita_async.models.results import Outcome, Uncertain

NAME: Final = INDEX
INPUTS: Final = "inputs"
_TO_ADD: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT

Places = dict[str, str]
"""Where pictures are, by their digest."""


def keep(picture: ImageSource, digest: str, inputs: Path) -> Path:
    """Keep a picture that was given in memory, once. Blocks. Raises `OSError`."""
    path = inputs / f"{digest}.{picture.format or 'bin'}"
    if picture.data is not None and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(picture.data)
        part.replace(path)
    return path


def kept_at(folder: Path, digest: str, path: Path | None) -> str:
    """Where a picture is that a journal knows by its digest. Blocks. Raises `LookupError`."""
    if path is not None:
        return str(path.absolute())
    inputs = folder / INPUTS
    likely = (inputs / f"{digest}.{suffix}" for suffix in (*TAKEN, "bin"))
    found = next(filter(Path.exists, likely), None) or next(inputs.glob(f"{digest}.*"), None)
    if found is None:
        raise LookupError(digest)
    return str(found.relative_to(folder))


@define(eq=False, repr=False)
class IndexLine:
    """A line that is to be added."""

    index: "Index"
    told: dict[str, Any]
    request: NovitaRequest | None
    entry: JournalEntry | None
    durable: bool
    is_written: bool = False
    error: Exception | None = None
    """Why it could not be written."""

    def writer(self) -> "Callable[[list[IndexLine]], None]":
        """Find what adds lines of this index."""
        return self.index.write

    def name_file(self, name: str) -> None:
        """Note the name of the next file that was saved: the result is, once all are."""
        self.told["files"].append(name)
        self.told["state"] = str(SAVED)


@define(eq=False, repr=False)
class Index:
    """The index of one folder. Several processes may add to it."""

    folder: Path
    budget: Budget | None = None
    """Prices. None: not known."""
    _digests: DigestCache = field(factory=DigestCache, init=False)
    _lines: "Groups[IndexLine]" = field(
        default=Factory(lambda index: Groups(cast("Index", index).write), takes_self=True),
        init=False,
    )
    _one: Lock = field(factory=Lock, init=False)
    """Held by the thread that adds lines."""

    async def add(self, outcome: Outcome, purchase: Purchase | None = None, *, durable: bool = False) -> None:
        """Add the line of an outcome of any kind.

        Args:
            outcome: Outcome of the request; a success with the paths of its files.
            purchase: Its record. None: bought elsewhere, by somebody who knows more.
            durable: Whether the line must be on the disk on return.

        Raises:
            DownloadFailed: the line could not be written. Its scope tells whether the next one could.
        """
        await self.added(self.line_of(outcome, purchase, durable=durable))

    def line_of(self, outcome: Outcome, purchase: Purchase | None, *, durable: bool) -> IndexLine:
        """Make the line of an outcome; see `add`."""
        cost = None if purchase is None else cost_of(purchase, self.budget)
        line = line_of(purchase or _bought_elsewhere(outcome), outcome, cost=cost)
        if purchase is None:
            line |= {"place": None, "attempts": None}
        request = outcome.request if purchase is None else purchase.request
        return IndexLine(self, line, request, None if purchase is None else purchase.entry, durable)

    async def added(self, line: IndexLine) -> None:
        """Return when a line was added: with the files that it names, or now. Raises `DownloadFailed`."""
        if not line.is_written and line.error is None:
            await self._lines.join(line)
        error = line.error
        if isinstance(error, OSError):
            raise DownloadFailed(
                scope=await run_in_thread(scope_of, error, self.folder),
                url="",
                cause=f"its index cannot be written: {error.strerror or error}",
                task_id=line.told["task_id"],
                account=line.told["account"],
            ) from error
        if error is not None:
            raise error

    def write(self, group: list[IndexLine]) -> None:
        """Add some lines, with one write and at most one fsync. Blocks."""
        with self._one:  # two that keep one picture at once would write to one file
            self._write(group)

    def _write(self, group: list[IndexLine]) -> None:
        texts: list[str] = []
        for each in group:
            try:
                whole = each.told | self._made_again(each.told, each.request, each.entry)
                texts.append(json.dumps(whole, ensure_ascii=True))
            except Exception as error:  # noqa: BLE001 - raised where the line was added
                each.error = error
        try:
            if texts:
                _append(self.folder / NAME, "\n".join(texts), durable=any(each.durable for each in group))
        except OSError as error:
            for each in group:
                each.error = each.error or copy(error)
        for each in group:
            each.is_written = each.error is None

    def _made_again(
        self, line: dict[str, Any], request: NovitaRequest | None, entry: JournalEntry | None
    ) -> dict[str, Any]:
        places: Places = {}

        def place_of(digest: str, path: Path | None) -> str:
            places.setdefault(digest, "")
            places[digest] = places[digest] or kept_at(self.folder, digest, path)
            return places[digest]

        def digest_of(picture: ImageSource) -> str:
            found = self._digests(picture)
            places[found] = self._place(picture, found)
            return found

        make = None
        if entry is not None and (request is None or all(map(_is_as_it_was, request.pictures))):
            with suppress(InvalidRequest, LookupError):
                make = made_again(entry, line["seed"], place_of)
        if make is None and request is not None:
            with suppress(InvalidRequest, LookupError):
                endpoint = line["endpoint"] or ""
                order = order_of(request, endpoint=endpoint, position=0, digest=digest_of)
                make = made_again(order, line["seed"], place_of)
        return {"inputs": {place: digest for digest, place in places.items() if place}, "make": make}

    def _place(self, picture: ImageSource, digest: str) -> str:
        if picture.path is not None:
            return str(picture.path.absolute())
        return str(keep(picture, digest, self.folder / INPUTS).relative_to(self.folder))


def _is_as_it_was(picture: ImageSource) -> bool:
    """Whether a picture is what it was when it was measured. Blocks."""
    try:
        return picture.path is None or is_as_measured(picture, picture.path.stat())
    except OSError:
        return False


def _bought_elsewhere(outcome: Outcome) -> Purchase:
    """As much of a purchase as its outcome tells."""
    task = None if isinstance(outcome, Uncertain) else outcome.task
    purchase = Purchase(outcome.request, tag=outcome.tag, task=task)
    if task is not None:
        purchase.endpoint, purchase.images = task.endpoint or "", task.image_num
        purchase.account = task.account
    return purchase


def _append(path: Path, line: str, *, durable: bool) -> None:
    """Add a line, or some, with one write. A line that a full disk has cut stays a line of its own."""
    try:
        handle = os.open(path, _TO_ADD, 0o666)
    except FileNotFoundError:
        make_folder(path.parent)
        handle = os.open(path, _TO_ADD, 0o666)
    try:
        size = os.fstat(handle).st_size
        if size:
            os.lseek(handle, -1, os.SEEK_END)
        cut = size > 0 and os.read(handle, 1) != b"\n"
        data = f"\n{line}\n".encode() if cut else f"{line}\n".encode()
        if os.write(handle, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if durable:
            os.fsync(handle)
            if not size:
                sync_folder(path.parent)
    finally:
        os.close(handle)
