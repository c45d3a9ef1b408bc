"""The index beside result files: a line of JSON for each outcome, with all that it takes to make it again.

    {"outcome": "succeeded", "place": 3, "id": "sku-1", "files": ["00003-7-1.png"], "task_id": "…",
     "account": "…", "seed": 7, "cost": 0.0015, "urls": ["https://…"], "nsfw": [null],
     "times": {"submit": "…", "execute": "…", "complete": "…"}, "error": null,
     "inputs": {"…/dog.png": "SHA-256"}, "make": {…}}

All lines have the same names; null stands for what is not known. `files`, `urls` and `nsfw` go together: one
of each for each file. URLs are without their signatures, so they name files and open none.

`make` is the request as a line of a manifest, with the seed that the service reports; so `jq -c .make` turns
an index into a batch that makes the same again, and `jq -c 'select(.outcome == "failed").make'` into one of
what failed. Pictures that were given in memory lie in `inputs/`, once each, called after their digest. It is
null where a picture has changed since, where a part of the request must not be kept, or where only a task
was known.

Lines are only added, each with one write, and before the journal says that the files are saved. So a killed
process may leave a line twice, and none out; and what failed, and succeeded later, has two lines, of which
the last counts.
"""

import errno
import json
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import anyio
import anyio.to_thread
from attrs import define, field

from novita_async._files.folders import scope_of
from novita_async._journal.identity import DigestCache, order_of, with_pictures
from novita_async._purchase.machine import Order
from novita_async._util.disk import make_folder
from novita_async.errors import DownloadFailed, InvalidRequest, NovitaError, redacted, without_query
from novita_async.models.images import ImageSource
from novita_async.models.requests import Request
from novita_async.models.results import (
    Artifact,
    Failed,
    Image,
    Outcome,
    Succeeded,
    Timings,
    Uncertain,
)

NAME: Final = "novita-index.jsonl"
INPUTS: Final = "inputs"

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


@define(eq=False)
class Index:
    """The index of one folder. Several processes may add to it."""

    folder: Path
    _digests: DigestCache = field(factory=DigestCache, init=False)
    _one: anyio.CapacityLimiter = field(factory=lambda: anyio.CapacityLimiter(1), init=False)

    async def add(
        self,
        outcome: Outcome,
        *,
        endpoint: str = "",
        place: int | None = None,
        tag: str | None = None,
        account: str | None = None,
        cost: float | None = None,
        durable: bool = False,
    ) -> None:
        """Add the line of an outcome of any kind.

        Args:
            outcome: Outcome of the request; a success with the paths of its files.
            endpoint: Path of the submission, where the request is known.
            place: Place in the input, from 0.
            tag: The user's own id.
            account: Label of the account that paid, where neither task nor error names it.
            cost: US dollars, where a price is known.
            durable: Whether the line must be on the disk on return.

        Raises:
            DownloadFailed: it could not be written. Its scope tells whether the next one could.
        """
        account = account or _account_of(outcome)
        line = {
            "outcome": type(outcome).__name__.lower(),
            "place": place,
            "id": tag,
            **_told(outcome),
            "account": account,
            "cost": cost,
        }
        adding = partial(self._add, line, outcome.request, endpoint, durable=durable)
        try:
            await anyio.to_thread.run_sync(adding, limiter=self._one)
        except OSError as error:
            raise DownloadFailed(
                scope=await anyio.to_thread.run_sync(scope_of, error, self.folder),
                url="",
                cause=f"its index cannot be written: {error.strerror or error}",
                task_id=outcome.task_id,
                account=account,
            ) from error

    def _add(self, line: dict[str, Any], request: Request | None, endpoint: str, *, durable: bool) -> None:
        make_folder(self.folder)
        again: dict[str, Any] = {"inputs": {}, "make": None}
        if request is not None:
            again = self._made_from(request, endpoint, line["seed"])
        _append(self.folder / NAME, json.dumps(line | again, ensure_ascii=True), durable=durable)

    def _made_from(self, request: Request, endpoint: str, seed: int | None) -> dict[str, Any]:
        places: Places = {}
        try:
            order = order_of(request, endpoint=endpoint, position=0, digest=self._noting(places))
            make = _again(order, seed, places)
        except InvalidRequest:
            make = None
        return {"inputs": {place: digest for digest, place in places.items()}, "make": make}

    def _noting(self, places: Places) -> Callable[[ImageSource], str]:
        def digest(picture: ImageSource) -> str:
            found = self._digests(picture)
            places[found] = self._place(picture, found)
            return found

        return digest

    def _place(self, picture: ImageSource, digest: str) -> str:
        if picture.path is not None:
            return str(picture.path.absolute())
        return str(keep(picture, digest, self.folder / INPUTS).relative_to(self.folder))


def _account_of(outcome: Outcome) -> str | None:
    if isinstance(outcome, Uncertain):
        return outcome.error.account
    if isinstance(outcome, Failed):
        return outcome.task.account if outcome.task else outcome.error.account
    return outcome.task.account if outcome.task else None


def _told(outcome: Outcome) -> dict[str, Any]:
    """All that an outcome tells by itself."""
    result = outcome.result if isinstance(outcome, Succeeded) else None
    artifacts = result.artifacts if result else ()
    timings = result.timings if result else Timings()
    return {
        "files": [path.name for path in outcome.paths] if isinstance(outcome, Succeeded) else [],
        "task_id": outcome.task_id,
        "seed": result.seed if result else None,
        "urls": [without_query(artifact.url) for artifact in artifacts],
        "nsfw": [_nsfw(artifact) for artifact in artifacts],
        "times": {
            "submit": _text(timings.submit_time),
            "execute": _text(timings.execute_time),
            "complete": _text(timings.complete_time),
        },
        "error": None if isinstance(outcome, Succeeded) else _error(outcome.error),
    }


def _text(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


def _nsfw(artifact: Artifact) -> dict[str, Any] | None:
    found = artifact.nsfw if isinstance(artifact, Image) else None
    return {"checked": found.checked, "confidence": found.confidence} if found else None


def _error(error: NovitaError) -> dict[str, Any]:
    return {
        "type": type(error).__name__,
        "reason": error.reason,
        "status": error.status,
        "message": redacted(error.sentence()),
    }


def _again(order: Order, seed: int | None, places: Mapping[str, str]) -> dict[str, Any]:
    """The request as a line of a manifest. Raises `InvalidRequest` where a part of it must not be kept."""
    wire = json.loads(order.request)
    if order.kind == "task":
        return {
            "endpoint": order.endpoint,
            **with_pictures(wire, lambda digest, _: {"file": places[digest]}),
        }
    line = _named(with_pictures(wire, lambda digest, _: places[digest]))
    line.get("extra", {}).pop("webhook", None)
    fields = line.get("request", line)
    if seed is not None and (fields is not line or "seed" in line):
        fields["seed"] = seed
    return {"endpoint": order.kind, **line}


def _named(value: Any) -> Any:
    """With pictures as a manifest has them: `image`, and a path."""
    if isinstance(value, list):
        return [_named(item) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    named = cast("dict[str, Any]", value)
    return {"image" if name == "image_base64" else name: _named(item) for name, item in named.items()}


def _append(path: Path, line: str, *, durable: bool) -> None:
    """Add a line, with one write. A line that a full disk has cut stays a line of its own."""
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
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
    finally:
        os.close(handle)
