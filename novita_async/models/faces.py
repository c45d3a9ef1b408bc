"""Requests that find their route by model: pictures edited, pictures made of text, videos made of pictures.

A face has the fields that most routes share; all others of a route go into `options`, by their names on the
wire. Each value is checked against the route's row before anything is paid. A route that the table does not
have is written by hand: `route=Route(…)`.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self, cast

import attrs
from attrs import field

from novita_async._util.values import frozen
from novita_async.errors import InvalidRequest
from novita_async.models import _rules as rules
from novita_async.models.images import (
    DataURL,
    ImageSource,
    Picture,
    is_address,
    media_type,
    objection,
    warn_of_size,
)
from novita_async.models.requests import NovitaRequest, Sweepable, Unmeasured, Write, measured, put
from novita_async.models.routes import (
    PictureRole,
    Route,
    RoutePictures,
    meant,
    models_of,
    route_called,
    route_of,
)


def _picture(value: Picture | None) -> ImageSource | str | None:
    """A picture, or its web address, which some routes take."""
    return cast("str | None", value) if value is None or is_address(value) else measured(value)


def _pictures(value: Iterable[Picture]) -> tuple[ImageSource | str, ...]:
    given = cast("object", value)
    if isinstance(given, str | bytes | bytearray) or not isinstance(given, Iterable):
        return cast("tuple[ImageSource, ...]", value)
    return tuple(cast("ImageSource | str", _picture(each)) for each in value)


def _options(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(value) if isinstance(cast("object", value), Mapping) else value


def _named(value: Route | str | None) -> Route | str | None:
    return (route_called(value) or value) if isinstance(value, str) else value


def _kinds_of(instance: Any) -> tuple[str, ...]:
    cls: Any = (
        getattr(instance, "requested", None) or instance.__class__
    )  # what is known of one that is being read, or one
    return cast("tuple[str, ...]", cls.route_kinds)


def _row_of(instance: Any) -> Route | None:
    """The route of a face, or of what is known of one. None: there is none; `model` or `route` says so."""
    given = _named(instance.route)
    if isinstance(given, Route):
        return given
    model = instance.model
    return route_of(model, _kinds_of(instance)) if isinstance(model, str) and given is None else None


def _explain_route(_: Any, value: Any) -> str | None:
    given: Any = _named(value)
    if given is None or isinstance(given, Route):
        return None
    if not isinstance(given, str):
        return f"{rules.shown(given)} is not a Route"
    return f"the table of routes has no {rules.shown(given)}; novita-async routes lists all"


def _explain_model(instance: Any, value: Any) -> str | None:
    if message := rules.text().explain(instance, value):
        return message
    if instance.route is not None or _row_of(instance) is not None:
        return None
    known = models_of(_kinds_of(instance))
    hint = meant(value, known) or f"; known are {', '.join(known)}"
    return f"no route here knows {rules.shown(value)}{hint}; another one needs route=Route(…)"


def _common_rule(name: str) -> rules.Rule:
    """Ask the route's field of this name."""

    def explain(instance: Any, value: Any) -> str | None:
        row = _row_of(instance)
        if row is None:
            return None
        known = row.field_named(name)
        if value is None:
            missing = known is not None and known.required and name not in (instance.options or ())
            return "is missing" if missing else None
        if known is not None:
            return known.explain(value)
        return None if row.is_open else f"{row.name} has no such field{_takes(row)}"

    return rules.Rule(explain)


def _takes(row: Route) -> str:
    return f"; it takes {', '.join(each.name for each in row.fields)}" if row.fields else ""


def _explain_options(instance: Any, value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"{rules.shown(value)} is not a mapping"
    row = _row_of(instance)
    if row is None:
        return None
    given = cast("Mapping[str, Any]", value)
    found = [f"{name}: {why}" for name, item in given.items() if (why := _wrong_option(row, name, item))]
    found += [
        f"{name}: has a field of its own" for name in given if getattr(instance, name, None) is not None
    ]
    missing = (each for each in row.fields if each.required and not hasattr(instance, each.name))
    found += [f"{each.name}: is missing" for each in missing if each.name not in given]
    return "; ".join(found) or None


def _wrong_option(row: Route, name: str, value: Any) -> str | None:
    known = row.field_named(name)
    if known is not None:
        return known.explain(value)
    names = [each.name for each in row.fields]
    return None if row.is_open else f"no such field{meant(name, names) or _takes(row)}"


def _explain_pictures(role: PictureRole, *, is_main: bool = False) -> rules.Rule:
    """Ask the limits of the route's pictures of a role; `is_main` for the field that may be missed."""

    def explain(instance: Any, value: Any) -> str | None:
        row = _row_of(instance)
        given = _listed(value)
        limits = row.pictures_for(role) if row else None
        if row is not None and limits is None:
            return f"{row.name} takes no {role}" if given else None
        together = _all_of(instance) if role == "image" else given
        if limits is not None and limits.required and is_main and not together:
            return "is missing"
        number = 0 if is_main else len(together)  # too many are told with the others
        wrong = next((why for each in given if (why := _wrong_picture(each, limits))), None)
        if wrong is None and limits is not None and given and number > limits.most:
            return f"{cast('Route', row).name} takes at most {limits.most}, has {number}"
        return wrong

    return rules.Rule(explain)


def _listed(value: Any) -> tuple[Any, ...]:
    if isinstance(value, tuple):
        return cast("tuple[Any, ...]", value)  # type: ignore[redundant-cast]  # for the other checker
    return () if value is None else (value,)


def _all_of(instance: Any) -> tuple[Any, ...]:
    return (*_listed(getattr(instance, "image", None)), *_listed(getattr(instance, "images", ())))


def _wrong_picture(value: Any, limits: RoutePictures | None) -> str | None:
    if isinstance(value, Unmeasured):
        return value.why
    if isinstance(value, str) and is_address(value):
        takes = limits is None or limits.takes_urls
        return None if takes else "this route takes pictures, not their addresses: download it first"
    if not isinstance(value, ImageSource):
        return f"{rules.shown(value)} is not a picture"
    return None if limits is None else objection(value, limits)


@frozen(kw_only=True, field_transformer=rules.apart)
class Face(NovitaRequest, Sweepable):
    """Fields and checks of all requests that find their route by model."""

    wrapped: ClassVar[bool] = False
    others: ClassVar[str] = "options"
    route_kinds: ClassVar[tuple[str, ...]] = ()
    """Kinds of routes that a face looks for its model in."""

    model: str = field(validator=rules.Rule(_explain_model))
    """Model, such as `gpt-image-2`, by which the route is found. `novita-async routes` lists all."""
    prompt: str | None = field(default=None, validator=_common_rule("prompt"))
    """Description of the wished result. Most routes need a prompt."""
    seed: int | None = field(default=None, validator=_common_rule("seed"))
    """The same seed gives the same picture, where the route takes one."""
    output_format: str | None = field(default=None, validator=_common_rule("output_format"))
    """Format of the results: `png`, `jpeg`, `webp`, as the route takes them."""
    options: Mapping[str, Any] = field(
        default=MappingProxyType[str, Any]({}),
        converter=_options,
        validator=rules.Rule(_explain_options),
        hash=False,
    )
    """All other fields of the route, by their names on the wire."""
    route: Route | str | None = field(
        default=None, converter=_named, validator=rules.Rule(_explain_route), hash=False
    )
    """A route that is not found by its model: a `Route`, or the name of a row. None: the model finds one."""

    def __attrs_post_init__(self) -> None:
        if faults := rules.faults_of(self):
            raise InvalidRequest(faults=faults)
        limits = {each.role: each for each in self.row.pictures}
        for role, given in self._by_role().items():
            for picture in given:
                if isinstance(picture, ImageSource) and role in limits:
                    warn_of_size(picture, limits[role], stacklevel=3)

    @property
    def row(self) -> Route:
        """The route."""
        return cast("Route", _row_of(self))

    @property
    def path(self) -> str:  # type: ignore[override]  # the route says it
        """Path of the route, for this model."""
        return self.row.path_for(self.model)

    @property
    def is_form(self) -> bool:  # type: ignore[override]  # the route says it
        """Whether the body is a multipart form."""
        return self.row.body == "multipart"

    @property
    def image_num(self) -> int:  # type: ignore[override]  # the route says it
        """How many results the route's quota counts."""
        number = self._fields().get(self.row.counts) if self.row.counts else 1
        return number if isinstance(number, int) and number > 0 else 1

    @property
    def pictures(self) -> tuple[ImageSource, ...]:
        """Pictures that are sent; those that are only named by their address are not."""
        given = (each for items in self._by_role().values() for each in items)
        return tuple(each for each in given if isinstance(each, ImageSource))

    @property
    def takes_callback(self) -> bool:
        """Whether a callback URL can be added: there is a place for one, and none of the user's own there."""
        place = self.row.webhook
        return bool(place) and place.partition(".")[0] not in self.options

    def kept(self, write: Write) -> dict[str, Any]:
        """The fields of the face, from which the request can be made again."""
        own = dict(write(self))
        known = self.route is not None and route_called(cast("Route", self.route).name) == self.route
        if known:
            own["route"] = cast("Route", self.route).name
        return {name: item for name, item in own.items() if item != {}}

    def document(self, write: Write, callback_url: str | None = None) -> dict[str, Any]:
        """The body in the form of the route."""
        row, body = self.row, dict[str, Any]()
        if row.model_field:
            body[row.model_field] = self.model
        if row.body == "gemini":
            body["contents"] = [{"role": "user", "parts": _gemini_parts(self, write)}]
        for name, value in self._fields().items():
            known = row.field_named(name)
            if row.body != "gemini" or name != "prompt":
                put(body, known.place if known and known.place else name, write(value))
        for limits in row.pictures if row.body != "gemini" else ():
            if given := self._by_role()[limits.role]:
                in_url = limits.form == "data_url"
                sent = [
                    write(DataURL(image=each) if in_url and isinstance(each, ImageSource) else each)
                    for each in given
                ]
                put(body, limits.name, sent if limits.is_list else sent[0])
        if callback_url is not None:
            put(body, row.webhook, callback_url)
        return body

    def _fields(self) -> dict[str, Any]:
        """Fields of the route that are given, by their names."""
        common = (
            each.name
            for each in attrs.fields(type(self))
            if each.name not in _APART and getattr(self, each.name) is not None
        )
        return {**{name: getattr(self, name) for name in common}, **self.options}

    def _by_role(self) -> dict[PictureRole, tuple[ImageSource | str, ...]]:
        named = {name: getattr(self, name, None) for name in ("mask", "end_image")}
        found = {name: () if given is None else (given,) for name, given in named.items()}
        return cast("dict[PictureRole, tuple[ImageSource | str, ...]]", {"image": _all_of(self), **found})

    def with_options(self, **changes: Any) -> Self:
        """Set fields of the route, keeping the other options."""
        return attrs.evolve(self, options={**self.options, **changes})


def face_for(model: str, *, has_picture: bool) -> str:
    """The kind of face that a model is asked by: that with a route for it, of those which suit."""
    faces: tuple[type[Face], ...] = (
        (EditImage, AnimateImage, GenerateImage) if has_picture else (GenerateImage, EditImage, AnimateImage)
    )
    return next((face.kind for face in faces if route_of(model, face.route_kinds)), faces[0].kind)


_APART: Final = frozenset(
    {"model", "route", "options", "image", "images", "mask", "end_image", "tag", "metadata"}
)
"""Fields of faces that are no fields of a route by the same name."""


def _gemini_parts(request: Face, write: Write) -> list[dict[str, Any]]:
    return [
        *({"text": text} for text in (request.prompt,) if text is not None),
        *(
            {"inlineData": {"mimeType": media_type(picture), "data": write(picture)}}
            for picture in request.pictures
        ),
    ]


@frozen(kw_only=True, field_transformer=rules.apart)
class EditImage(Face):
    """Pictures and a prompt that become pictures; also enlarging, erasing, and removing the background.

    Args:
        image: The picture to edit: a path, bytes, a binary file, an `ImageSource`; its web address where the
            route takes one.
        images: More pictures, where the route takes several.
        mask: Part of the picture that may change, where the route takes a mask.
        size: Size of the results, such as `1024x1024` or `2K`, as the route takes it.
        n: How many results, where the route takes a number.
        quality: Quality of the results, where the route takes one.
        tag: The user's own id, such as `sku-1`: text of 1 to 256 characters on one line, or a number (ours).
        metadata: Notes that the user wants to find beside the result: a JSON object of at most 16 KiB (ours).
        model: Model, such as `gpt-image-2`, by which the route is found. `novita-async routes` lists all.
        prompt: Description of the wished result. Most routes need a prompt.
        seed: The same seed gives the same picture, where the route takes one.
        output_format: Format of the results: `png`, `jpeg`, `webp`, as the route takes them.
        options: All other fields of the route, by their names on the wire.
        route: A route that is not found by its model: a `Route`, or the name of a row. None: the model finds
            one.
    """

    kind: ClassVar[str] = "edit"
    is_face: ClassVar[bool] = True
    route_kinds: ClassVar[tuple[str, ...]] = ("edit", "upscale", "erase", "remove_background")

    image: ImageSource | str | None = field(
        default=None,
        converter=_picture,
        validator=_explain_pictures("image", is_main=True),
        metadata={"wire": "image"},
    )
    """The picture to edit: a path, bytes, a binary file, an `ImageSource`; its web address where the route
    takes one."""
    images: tuple[ImageSource | str, ...] = field(
        default=(), converter=_pictures, validator=_explain_pictures("image")
    )
    """More pictures, where the route takes several."""
    mask: ImageSource | str | None = field(
        default=None, converter=_picture, validator=_explain_pictures("mask")
    )
    """Part of the picture that may change, where the route takes a mask."""
    size: str | None = field(default=None, validator=_common_rule("size"))
    """Size of the results, such as `1024x1024` or `2K`, as the route takes it."""
    n: int | None = field(default=None, validator=_common_rule("n"))
    """How many results, where the route takes a number."""
    quality: str | None = field(default=None, validator=_common_rule("quality"))
    """Quality of the results, where the route takes one."""


@frozen(kw_only=True, field_transformer=rules.apart)
class GenerateImage(Face):
    """A prompt that becomes pictures.

    Args:
        size: Size of the results, such as `1024x1024` or `2K`, as the route takes it.
        n: How many results, where the route takes a number.
        quality: Quality of the results, where the route takes one.
        tag: The user's own id, such as `sku-1`: text of 1 to 256 characters on one line, or a number (ours).
        metadata: Notes that the user wants to find beside the result: a JSON object of at most 16 KiB (ours).
        model: Model, such as `gpt-image-2`, by which the route is found. `novita-async routes` lists all.
        prompt: Description of the wished result. Most routes need a prompt.
        seed: The same seed gives the same picture, where the route takes one.
        output_format: Format of the results: `png`, `jpeg`, `webp`, as the route takes them.
        options: All other fields of the route, by their names on the wire.
        route: A route that is not found by its model: a `Route`, or the name of a row. None: the model finds
            one.
    """

    kind: ClassVar[str] = "generate"
    is_face: ClassVar[bool] = True
    route_kinds: ClassVar[tuple[str, ...]] = ("generate",)

    size: str | None = field(default=None, validator=_common_rule("size"))
    """Size of the results, such as `1024x1024` or `2K`, as the route takes it."""
    n: int | None = field(default=None, validator=_common_rule("n"))
    """How many results, where the route takes a number."""
    quality: str | None = field(default=None, validator=_common_rule("quality"))
    """Quality of the results, where the route takes one."""


@frozen(kw_only=True, field_transformer=rules.apart)
class AnimateImage(Face):
    """A picture that becomes a video.

    Args:
        image: The picture to begin with: a path, bytes, a binary file, an `ImageSource`, or its web address.
        end_image: The picture to end with, where the route takes one.
        duration: Seconds of the video.
        negative_prompt: Things to avoid.
        aspect_ratio: Shape of the video, such as `16:9`.
        tag: The user's own id, such as `sku-1`: text of 1 to 256 characters on one line, or a number (ours).
        metadata: Notes that the user wants to find beside the result: a JSON object of at most 16 KiB (ours).
        model: Model, such as `gpt-image-2`, by which the route is found. `novita-async routes` lists all.
        prompt: Description of the wished result. Most routes need a prompt.
        seed: The same seed gives the same picture, where the route takes one.
        output_format: Format of the results: `png`, `jpeg`, `webp`, as the route takes them.
        options: All other fields of the route, by their names on the wire.
        route: A route that is not found by its model: a `Route`, or the name of a row. None: the model finds
            one.
    """

    kind: ClassVar[str] = "animate"
    is_face: ClassVar[bool] = True
    route_kinds: ClassVar[tuple[str, ...]] = ("animate",)

    image: ImageSource | str | None = field(
        default=None,
        converter=_picture,
        validator=_explain_pictures("image", is_main=True),
        metadata={"wire": "image"},
    )
    """The picture to begin with: a path, bytes, a binary file, an `ImageSource`, or its web address."""
    end_image: ImageSource | str | None = field(
        default=None, converter=_picture, validator=_explain_pictures("end_image")
    )
    """The picture to end with, where the route takes one."""
    duration: int | None = field(default=None, validator=_common_rule("duration"))
    """Seconds of the video."""
    negative_prompt: str | None = field(default=None, validator=_common_rule("negative_prompt"))
    """Things to avoid."""
    aspect_ratio: str | None = field(default=None, validator=_common_rule("aspect_ratio"))
    """Shape of the video, such as `16:9`."""
