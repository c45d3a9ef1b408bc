"""The index beside result files: a line of JSON for each result, with all that it takes to make it again.

    {"files": ["00003-7-1.png"], "task_id": "…", "seed": 7, "inputs": {"…/dog.png": "SHA-256"}, "make": {…}}

`make` is the request as a line of a manifest, with the seed that the service reports; so `jq -c .make` turns
an index into a batch that makes the same again. Pictures that were given in memory lie in `inputs/`, once
each, called after their digest. It is null where a picture has changed since, or where a part of the request
must not be kept.

Lines are only added, each with one write, and before the journal says that the files are saved. So a killed
process may leave a line twice, and none out.
"""

import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import anyio
import anyio.to_thread
from attrs import define, field

from novita_async._journal import DigestCache, ledger
from novita_async.errors import InvalidRequest
from novita_async.models.images import ImageSource
from novita_async.models.requests import Request
from novita_async.models.results import Succeeded

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


def _again(wanted: ledger.Wanted, seed: int | None, places: Mapping[str, str]) -> dict[str, Any]:
    """The request as a line of a manifest. Raises `InvalidRequest` where a part of it must not be kept."""
    wire = json.loads(wanted.request)
    if wanted.kind == "task":
        return {
            "endpoint": wanted.endpoint,
            **ledger.with_pictures(wire, lambda digest, _: {"file": places[digest]}),
        }
    line = _named(ledger.with_pictures(wire, lambda digest, _: places[digest]))
    line.get("extra", {}).pop("webhook", None)
    if seed is not None:
        line["request"]["seed"] = seed
    return {"endpoint": wanted.kind, **line}


def _named(value: Any) -> Any:
    """With pictures as a manifest has them: `image`, and a path."""
    if isinstance(value, list):
        return [_named(item) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    named = cast("dict[str, Any]", value)
    return {"image" if name == "image_base64" else name: _named(item) for name, item in named.items()}


@define(eq=False)
class Index:
    """The index of one folder. Several processes may add to it."""

    folder: Path
    _digests: DigestCache = field(factory=DigestCache, init=False)
    _one: anyio.CapacityLimiter = field(factory=lambda: anyio.CapacityLimiter(1), init=False)

    async def add(self, outcome: Succeeded, paths: tuple[Path, ...], endpoint: str) -> None:
        """Add a line. Raises `OSError`."""
        await anyio.to_thread.run_sync(self._add, outcome, paths, endpoint, limiter=self._one)

    def _add(self, outcome: Succeeded, paths: tuple[Path, ...], endpoint: str) -> None:
        line = {
            "files": [path.name for path in paths],
            "task_id": outcome.task_id,
            "seed": outcome.result.seed,
        }
        if outcome.request is not None:
            line |= self._made_from(outcome.request, endpoint, outcome.result.seed)
        _append(self.folder / NAME, json.dumps(line, ensure_ascii=True))

    def _made_from(self, request: Request, endpoint: str, seed: int | None) -> dict[str, Any]:
        places: Places = {}
        try:
            wanted = ledger.wanted(request, endpoint=endpoint, position=0, digest=self._noting(places))
            make = _again(wanted, seed, places)
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


def _append(path: Path, line: str) -> None:
    """Add a line, with one write. What a full disk has cut stays a line of its own."""
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(handle).st_size
        if size:
            os.lseek(handle, -1, os.SEEK_END)
        cut = size > 0 and os.read(handle, 1) != b"\n"
        data = f"\n{line}\n".encode() if cut else f"{line}\n".encode()
        if os.write(handle, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(handle)
