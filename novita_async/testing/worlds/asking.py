"""Requests to any row of the table of routes, and how a request, an answer and a picture tell their number.

A number stands in the prompt, or where a route takes none in the picture; the user's own id is the number,
too. A picture that came in an answer is known by its maker: a path of the service's, with the id of the task
that it would have been.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import pybase64

from novita_async import AnimateImage, EditImage, GenerateImage, Img2Img, NovitaRequest, Outcome, TaskResult
from novita_async.models.routes import Route, route_called, route_of
from novita_async.testing.worlds.painted import path_in

A_PNG: Final = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x80\x00\x00\x00\x80\x08\x02\x00\x00\x00" + b"\x00" * 13
)
"""Bytes that look like a picture of 128 x 128. So long that its base64 ends where its bytes do."""
_WORD: Final = b"PICTURE: "
_NUMBER: Final = re.compile(
    rb"picture (\d+)|" + _WORD + rb"(\d{6})|" + pybase64.b64encode(_WORD) + rb"([0-9A-Za-z+/]{8})"
)
_PATH: Final = re.compile(rb"/prod/([0-9a-f-]{36})/")
_BASE64: Final = re.compile(rb'"(?:data:[^,"]*,)?([A-Za-z0-9+/]{1024,}={0,2})"')


def number_in(body: bytes) -> int:
    """The number of the request in the body of a submission. -1: there is none."""
    found = _NUMBER.search(body)
    if found is None:
        return -1
    return int(found[1] or found[2] or pybase64.b64decode(found[3]))


def request_to(name: str, number: int, images: int) -> NovitaRequest:
    """The request of a number to the row of a name."""
    row = _row(name)
    prompt, picture = f"picture {number}", A_PNG + _WORD + b"%06d" % number
    if row.body == "wrapped":
        return Img2Img(model_name="m", image=picture, prompt=prompt, seed=number, image_num=images)
    face = next(face for face in (EditImage, GenerateImage, AnimateImage) if row.kind in face.route_kinds)
    fields: dict[str, Any] = {"model": row.models[0] if row.models else "m", "tag": str(number)}
    if route_of(fields["model"], face.route_kinds) is not row:
        fields["route"] = row
    if row.pictures_for("image") is not None:
        fields["image"] = picture
    if row.field_named("prompt") is not None:
        fields["prompt"] = prompt
    if row.counts:
        own = hasattr(face, row.counts)
        fields |= {row.counts: images} if own else {"options": {row.counts: images}}
    return face(**fields)


@cache
def _row(name: str) -> Route:
    row = route_called(name)
    if row is None:
        raise ValueError(f"the table has no route {name}")
    return row


def number_of(outcome: Outcome) -> int | None:
    """The number of the request that an outcome is of. None: the outcome does not say."""
    request = outcome.request
    if outcome.tag is not None:
        return int(outcome.tag)
    return None if request is None else getattr(request, "seed", None)


def makers_of(result: TaskResult) -> tuple[str, ...]:
    """The tasks that the files of a result were made by, as the files say themselves. Empty: one is gone."""
    return tuple(map(_maker_of, result.artifacts))


def _maker_of(artifact: Any) -> str:
    if artifact.url:
        return maker_at(artifact.url)
    if artifact.data is not None:
        return maker_at(path_in(artifact.data))
    file: Path | None = artifact.file
    return "" if file is None or not file.is_file() else maker_at(path_in(file.read_bytes()))


def maker_at(path: str) -> str:
    """The task that a path of the service belongs to. Empty: none."""
    found = _PATH.search(path.encode())
    return found[1].decode() if found else ""


def maker_in(body: bytes) -> str:
    """The task that an answer with results would have been. Empty: it holds none."""
    found = _PATH.search(body)
    if found is None:
        found = next(
            (hit for text in _BASE64.findall(body) if (hit := _PATH.search(pybase64.b64decode(text)))), None
        )
    return found[1].decode() if found else ""
