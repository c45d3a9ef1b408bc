"""Requests to every row of the table of routes, as a user would write them."""

from typing import Any

from novita_async import AnimateImage, EditImage, GenerateImage, Img2Img, NovitaRequest, Route, Txt2Img
from novita_async.models.routes import ROUTES
from tests.helpers.service import picture

FACES: dict[str, type] = {
    "edit": EditImage,
    "upscale": EditImage,
    "erase": EditImage,
    "remove_background": EditImage,
    "generate": GenerateImage,
    "animate": AnimateImage,
}


def request_for(row: Route, **changes: Any) -> NovitaRequest:
    """The least that the row takes, with a model that it knows."""
    if row.name == "img2img":
        return Img2Img(**{"model_name": "m", "image": picture(), "prompt": "a cute dog"} | changes)
    if row.name == "txt2img":
        return Txt2Img(**{"model_name": "m", "prompt": "a dog", "width": 256, "height": 256} | changes)
    fields: dict[str, Any] = {"model": row.models[0]} if row.models else {"model": "any", "route": row}
    if row.field_named("prompt"):
        fields["prompt"] = "a cute dog"
    if row.pictures_for("image"):
        fields["image"] = picture()
    if row not in ROUTES:
        fields["route"] = row
    return FACES[row.kind](**fields | changes)
