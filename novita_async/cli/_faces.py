"""Lines of a manifest that name a model, and so find their route: which face they are, and their pictures."""

from collections.abc import Callable
from typing import Any, Final, cast

from novita_async.cli._inputs import Document
from novita_async.models.faces import face_for
from novita_async.models.images import ImageSource, is_address

_ONE: Final = ("image", "mask", "end_image")
"""Fields of faces that hold a picture."""

Locate = Callable[[Any, str], ImageSource]
"""Finds the picture of a path; told where in the line that stands, to blame it."""


def face_of(document: Document) -> str | None:
    """The kind of a line that names a model and no endpoint. None: the line names none."""
    model = document.get("model")
    if not isinstance(model, str) or "model_name" in document or "request" in document:
        return None
    return face_for(model, has_picture="image" in document or "images" in document)


def with_face_pictures(request: Document, locate: Locate) -> Document:
    """The fields of a face with pictures in the place of their paths; web addresses stay."""
    whole = dict(request)
    for name in _ONE:
        if name in whole and not is_address(whole[name]):
            whole[name] = locate(whole[name], name)
    if isinstance(whole.get("images"), list):
        places = enumerate(cast("list[Any]", whole["images"]))
        whole["images"] = [
            place if is_address(place) else locate(place, f"images[{number}]") for number, place in places
        ]
    return whole
