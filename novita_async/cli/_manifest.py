"""Inputs of a batch: manifests, folders of pictures and shared options, read as one request after the
other.

**A line** of a manifest (`_sources` reads them) is an object, a request: in the API's form `{"extra": …,
"request": …}`, or with the fields of `request` right in it (and `extra` beside them, where there is one).
`id` and `metadata` are the user's own. A picture is `"image": "PATH"`, seen from the manifest's folder, or
`"image_base64"`; so it is in ControlNet units and IP-Adapters, which take the request's own picture where
they name none. `"endpoint"` is `img2img`, `txt2img` or a path; the other names beside a path (or `"body"`,
where that stands alone there) are the body of that request as it is, where `{"file": "PATH"}` is replaced by
that picture in base64, `{"data_url": "PATH"}` by its data URL; `"form"` instead of `"body"` is a multipart
form.

**A folder** stands for its pictures, a picture for itself.

**Shared options** fill what a line leaves out. **Sweeps** make of each line a request for every combination
of values.

A batch is read twice: once to check every line and to count, once to send. Nothing of it is held in memory
between two lines. A fault that comes from an option is told once, under the option's name; all others are
told with their line.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import attrs

from novita_async._api.codec import request_from_wire, wire_name
from novita_async._util.lenient import as_list
from novita_async._util.values import frozen
from novita_async.cli._faces import face_of, with_face_pictures
from novita_async.cli._inputs import (
    STAND_IN,
    Document,
    Faults,
    Typed,
    document_of,
    part_of,
    picture_of,
    put,
    split_strength,
)
from novita_async.cli._settings import EXTRA, REQUEST
from novita_async.cli._sources import OWN, ManifestLine, Source, lines_of
from novita_async.cli._unknown import warned
from novita_async.errors import Flaw, InvalidRequest
from novita_async.models import _rules as rules
from novita_async.models.endpoints import Endpoints
from novita_async.models.images import DataURL, ImageSource
from novita_async.models.requests import AnyTask, Img2Img, NovitaRequest, Tagged, kinds
from novita_async.models.routes import ROUTES, meant

_OWN_COUNTS: Final = ("image_num", "num_images")
"""Fields in which other endpoints are told how many images to make."""
_ENTWINED: Final = frozenset({"width", "height"})
"""Swept fields that others follow from: every value of them is tried out with every picture."""
_WIRE: Final = "request."
_LONGEST_PATH: Final = 500
"""Longer texts are taken for base64."""

Axes = Mapping[str, Sequence[Any]]
"""Swept fields and their values."""


# --- What the command line says of all lines ----------------------------------------------------------------


def shared_of(typed: Typed) -> Document:
    """Make of options what they are for every line: a line that is incomplete. Paths in it are absolute."""
    faults: Faults = []
    shared = document_of(typed, faults)
    assert shared is not None  # noqa: S101 - there is no file in it that could be unreadable
    if faults:
        raise InvalidRequest(faults=tuple(faults), advice="nothing was bought")
    units = [_guide(text) for text in typed.controlnets]
    adapters = [_guide(text) for text in typed.ip_adapters]
    if units:
        put(shared, ("request", "controlnet", "units"), units)
    if adapters:
        put(shared, ("request", "ip_adapters"), adapters)
    return shared


def _guide(text: str) -> Document:
    """A part that holds a picture of its own, or none: then the request's."""
    model, _, rest = text.partition(":")
    place, strength = split_strength(rest, lambda rest: not Path(rest).exists())
    own = {"image": str(Path(place).absolute())} if place else {}
    return {"model_name": model, **own, "strength": 1.0 if strength is None else strength}


_TEXTS: Final[Mapping[str, bool]] = {
    **{each.name: each.type in ("text", "size") for row in ROUTES for each in row.fields},
    **{option.path[0]: option.kind is str for option in REQUEST},
}
"""Fields that can be swept, of whatever route, and whether they are text."""


def axes_of(texts: Sequence[str], faults: Faults) -> dict[str, Sequence[Any]]:
    """Read sweeps: `FIELD=1..8`, `FIELD=0.3,0.5`, `FIELD=["a, b", "c"]`."""
    axes: dict[str, Sequence[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        field_name = name.strip().replace("-", "_")
        message: str | None
        if not equals:
            message = "give it as FIELD=VALUES, such as seed=1..8"
        elif field_name not in _TEXTS:
            message = f"no such field{meant(field_name, _TEXTS)}"
        elif field_name in axes:
            message = "is swept already"
        else:
            axes[field_name] = found = _values(values.strip(), field_name)
            message = _wrong_value(field_name, found)
        if message is not None:
            faults.append(Flaw(f"--sweep {text}", message))
    return axes


def _values(text: str, name: str) -> Sequence[Any]:
    first, dots, last = text.partition("..")
    if dots and _is_whole(first) and _is_whole(last):
        return range(int(first), int(last) + 1)
    if text.startswith("["):
        try:
            return as_list(json.loads(text))
        except ValueError:
            pass
    plain = _TEXTS[name]
    return [each.strip() if plain else _number(each.strip()) for each in text.split(",") if each.strip()]


_FLAGS: Final[Mapping[str, bool]] = {"true": True, "false": False}


def _is_whole(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal()


def _number(text: str) -> Any:
    """A number; what is none is left as text, for the field to blame."""
    if text in _FLAGS:
        return _FLAGS[text]
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _wrong_value(name: str, values: Sequence[Any]) -> str | None:
    if not values:
        return "no values"
    attribute = attrs.fields_dict(Img2Img).get(name)
    if attribute is None:  # each line's route says
        return None
    ends = (values[0], values[-1]) if isinstance(values, range) else values
    return next((message for value in ends if (message := rules.explain(attribute, None, value))), None)


# --- Requests -----------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Checked:
    """Result of the first reading of a line."""

    requests: int = 0
    """How many it becomes."""
    images: int = 0
    """How many pictures they ask for."""
    endpoint: str = ""
    """Where they are sent."""
    faults: tuple[Flaw, ...] = ()
    """Faults of the line."""


@frozen(kw_only=True)
class Made:
    """Result of the second reading of a line; one for every combination of swept values."""

    place: str
    """Name for messages."""
    request: NovitaRequest | None = None
    """None: there is something wrong with it."""
    faults: tuple[Flaw, ...] = ()
    """Faults, where there is no request."""


@frozen(kw_only=True)
class Recipe:
    """Inputs of a batch, with all that its lines share."""

    inputs: Sequence[Source]
    """Manifests, folders and pictures; absolute."""
    shared: Document
    """Values that lines may leave out, in the form of a line."""
    axes: Axes
    """Swept values, by their paths."""

    def check(self) -> Iterator[Checked]:
        """Check every line, and count. Blocks."""
        return map(self._checked, lines_of(self.inputs))

    def read(self) -> Iterator[Made]:
        """Make all requests, lazily. Blocks."""
        for line in lines_of(self.inputs):
            yield from self._made(line, self.axes)

    def _checked(self, line: ManifestLine) -> Checked:
        few = {name: values if name in _ENTWINED else values[:1] for name, values in self.axes.items()}
        made = list(self._made(line, few))
        if face_of(line.document) is not None:  # its route says what each value may be
            swept = ({**few, name: values[1:]} for name, values in self.axes.items())
            made += [each for axes in swept for each in self._made(line, axes)]
        faults = tuple(dict.fromkeys(fault for each in made for fault in each.faults))
        request = made[0].request
        if faults or request is None:
            return Checked(faults=faults)
        requests = math.prod(map(len, self.axes.values()))
        count = "image_num" if request.row is None or not request.row.counts else request.row.counts
        numbers = self.axes.get(count, (request.image_num,))
        images = requests // len(numbers) * sum(numbers)
        return Checked(requests=requests, images=images, endpoint=Endpoints().path_of(request))

    def _made(self, line: ManifestLine, axes: Axes) -> Iterator[Made]:
        if line.trouble is not None:
            yield _faulty(line, Flaw(line.place, line.trouble))
            return
        endpoint = line.document.get("endpoint") or face_of(line.document) or "img2img"
        if not isinstance(endpoint, str):
            yield _faulty(line, Flaw(f"{line.place}: endpoint", f"{rules.shown(endpoint)} is not text"))
        elif endpoint.startswith("/"):
            yield _other(line, endpoint, axes)
        else:
            yield from _TypedLine.of(line, endpoint, self).made(axes)


def _faulty(line: ManifestLine, *faults: Flaw) -> Made:
    return Made(place=line.place, faults=faults)


@frozen(kw_only=True)
class _TypedLine:
    """A line that becomes requests of a kind that is known."""

    line: ManifestLine
    endpoint: str
    is_flat: bool
    """Whether the fields of the request stand right in the line."""
    document: Document
    """The line in the form `{"extra": …, "request": …}`, filled, with its pictures."""
    names: Mapping[str, str]
    """Options that parts of the document came from."""
    own: Tagged
    """The user's own words for it."""
    faults: tuple[Flaw, ...]
    """Faults in its pictures, and in those words."""

    @classmethod
    def of(cls, line: ManifestLine, endpoint: str, recipe: Recipe) -> "_TypedLine":
        apart = ("endpoint", *OWN)
        given = {name: value for name, value in line.document.items() if name not in apart}
        is_flat = "request" not in given
        wire = given
        if is_flat:  # in the API's form, fields stand within a request
            wire = {name: given.pop(name) for name in ("extra",) if name in given} | {"request": given}
        whole, filled = _filled(wire, _fitting(recipe.shared, endpoint))
        faults: Faults = []
        own = _own(line, faults)
        request = whole.get("request")
        if isinstance(request, dict):
            fields, cls_of_line = cast("Document", request), kinds().get(endpoint, NovitaRequest)
            whole["request"] = (
                with_face_pictures(fields, lambda place, where: _located(place, where, line.folder, faults))
                if cls_of_line.is_face
                else _with_pictures(fields, line.folder, faults)
            )
        names = _names(filled, recipe.axes, missing=line.is_picture)
        return cls(
            line=line,
            endpoint=endpoint,
            is_flat=is_flat,
            document=whole,
            names=names,
            own=own,
            faults=tuple(faults),
        )

    def made(self, axes: Axes) -> Iterator[Made]:
        for combination in _combinations(tuple(axes.items())):
            words = ", ".join(f"{name}={value}" for name, value in combination.items())
            yield self._request(combination, f"{self.line.place} ({words})" if words else self.line.place)

    def _request(self, combination: Mapping[str, Any], place: str) -> Made:
        whole = self.document
        if combination and isinstance(whole.get("request"), dict):
            whole = {**whole, "request": {**whole["request"], **combination}}
        found = list(self.faults)
        try:
            cls = kinds().get(self.endpoint, NovitaRequest)
            request = warned(request_from_wire(_arranged(whole, cls), self.endpoint, own=self.own))
        except InvalidRequest as refusal:
            found += refusal.faults
        else:
            if not found:
                return Made(place=place, request=request)
        return Made(place=place, faults=tuple(map(self._told, found)))

    def _told(self, fault: Flaw) -> Flaw:
        """Name the option that a fault came from; else the line."""
        wrapped = kinds().get(self.endpoint, NovitaRequest).wrapped
        path = fault.path if wrapped else f"{_WIRE}{fault.path}"
        if fault.path in OWN:
            return Flaw(f"{self.line.place}: {fault.path}", fault.message)
        parts = (part for part in self.names if path == part or path.startswith((f"{part}[", f"{part}.")))
        option = self.names.get(next(parts, ""))
        if option is not None:
            return Flaw(option, fault.message)
        if path == f"{_WIRE}image" and self.line.is_picture:
            return Flaw(self.line.place, fault.message.partition(": ")[2])
        if path == f"{_WIRE}image_base64" and fault.message == "is missing":
            path = f"{_WIRE}image"
        return Flaw(f"{self.line.place}: {path.removeprefix(_WIRE) if self.is_flat else path}", fault.message)


def _own(line: ManifestLine, faults: Faults) -> Tagged:
    """The user's own words in a line."""
    given = {name: line.document[name] for name in OWN if line.document.get(name) is not None}
    try:
        return Tagged(tag=given.get("id"), metadata=given.get("metadata", {}))
    except InvalidRequest as refusal:
        names = {"Tagged.tag": "id", "Tagged.metadata": "metadata"}
        faults += (Flaw(names[fault.path], fault.message) for fault in refusal.faults)
        return Tagged()


def _arranged(whole: Document, cls: type[NovitaRequest]) -> Document:
    """A line in the form of its kind, whose picture may have a name of its own."""
    if cls.wrapped:
        return whole
    fields = dict(part_of(whole, "request"))
    if "image" in _fields_of(cls) and "image_base64" in fields:
        picture = fields.pop("image_base64")
        fields[wire_name(_fields_of(cls)["image"])] = picture
    return cls.arranged(fields, part_of(whole, "extra"))


def _fields_of(cls: type[NovitaRequest]) -> Mapping[str, "attrs.Attribute[Any]"]:
    return attrs.fields_dict(cast("Any", cls))


def _combinations(axes: Sequence[tuple[str, Sequence[Any]]]) -> Iterator[dict[str, Any]]:
    """Every combination, the last axis varying fastest; lazily, for an axis can be long."""
    if not axes:
        yield {}
        return
    (name, values), *rest = axes
    for value in values:
        for others in _combinations(rest):
            yield {name: value, **others}


def _fitting(shared: Document, endpoint: str) -> Document:
    """Those of the options that this kind of request has."""
    cls = kinds().get(endpoint)
    if cls is None:  # told with the line
        return shared
    known = _fields_of(cls)
    request = {name: value for name, value in part_of(shared, "request").items() if name in known}
    extra = {"extra": shared["extra"]} if cls.takes_extra and "extra" in shared else {}
    return {"request": request, **extra}


def _filled(line: Document, shared: Document, within: str = "") -> tuple[Document, set[str]]:
    """A line with what it leaves out, and the places where that went."""
    whole, filled = dict(line), set[str]()
    for name, value in shared.items():
        there = whole.get(name)
        if isinstance(value, dict) and (there is None or isinstance(there, dict)):
            own = cast("Document", there or {})
            part, places = _filled(own, cast("Document", value), f"{within}{name}.")
            whole[name] = part
            filled |= places
        elif there is None:
            whole[name] = value
            filled.add(f"{within}{name}")
    return whole, filled


_LISTS: Final = {
    "request.loras": "--lora",
    "request.embeddings": "--embedding",
    "request.controlnet.units": "--controlnet",
    "request.ip_adapters": "--ip-adapter",
}
_OPTIONS: Final = {".".join(option.place): f"--{option.dotted}" for option in (*REQUEST, *EXTRA)}


def _names(filled: set[str], axes: Axes, *, missing: bool) -> dict[str, str]:
    """The options that places in the document came from; for a picture also those that are missing."""
    swept = {f"{_WIRE}{name}": f"--sweep {name}" for name in axes}
    given = {place: name for place, name in (_OPTIONS | _LISTS).items() if place in filled}
    required = ("request.model_name", "request.prompt") if missing else ()
    return swept | given | {place: _OPTIONS[place] for place in required}


# --- Pictures -----------------------------------------------------------------------------------------------


def _with_pictures(request: Document, folder: Path, faults: Faults) -> Document:
    """The fields of a request with pictures in the place of their paths."""
    whole = _with_picture(request, _WIRE, folder, faults)
    own = whole.get("image_base64")
    net = whole.get("controlnet")
    if isinstance(net, dict):
        units = cast("Document", net).get("units")
        whole["controlnet"] = {
            **net,
            "units": _guides(units, "request.controlnet.units", own, folder, faults),
        }
    if "ip_adapters" in whole:
        adapters = whole["ip_adapters"]
        whole["ip_adapters"] = _guides(adapters, "request.ip_adapters", own, folder, faults)
    return whole


def _guides(parts: Any, path: str, own: Any, folder: Path, faults: Faults) -> Any:
    """Parts that hold a picture of their own, or the request's. The codec blames whatever is none."""
    if not isinstance(parts, list):
        return parts
    guides: list[Any] = []
    for number, part in enumerate(as_list(parts)):
        if isinstance(part, dict):
            whole = _with_picture(cast("Document", part), f"{path}[{number}].", folder, faults)
            guides.append({"image_base64": own, **whole})
        else:
            guides.append(part)
    return guides


def _with_picture(part: Document, path: str, folder: Path, faults: Faults) -> Document:
    rest = {name: value for name, value in part.items() if name != "image" and value is not None}
    place = part.get("image")
    if place is None:
        return _decoded(rest)
    if "image_base64" in rest:
        faults.append(Flaw(f"{path}image", "is given as well as image_base64"))
    return {**rest, "image_base64": _located(place, f"{path}image", folder, faults)}


def _decoded(part: Document) -> Document:
    """Read base64 once, however many requests are made of it; what is none is left for the codec to blame."""
    text = part.get("image_base64")
    try:
        return {**part, "image_base64": ImageSource.from_base64(text)} if isinstance(text, str) else part
    except InvalidRequest:
        return part


def _located(place: Any, path: str, folder: Path, faults: Faults) -> ImageSource:
    if not isinstance(place, str):
        faults.append(Flaw(path, f"{rules.shown(place)} is not a path"))
        return STAND_IN
    found: Faults = []
    foreign = place.startswith(("http:", "https:", "data:")) or len(place) > _LONGEST_PATH
    picture = picture_of(place if foreign else str(folder / place), "", found)
    faults += (Flaw(path, f"{fault.path}: {fault.message}") for fault in found)
    return picture


# --- Other endpoints ----------------------------------------------------------------------------------------


def _other(line: ManifestLine, endpoint: str, axes: Axes) -> Made:
    """A request to an endpoint of which nothing is known but its path."""
    if axes:
        message = "a request with a path of its own cannot be swept"
        return _faulty(line, Flaw(f"{line.place}: --sweep", message))
    faults: Faults = []
    own = _own(line, faults)
    body = {name: value for name, value in line.document.items() if name not in ("endpoint", *OWN)}
    name = next(iter(body), "") if len(body) == 1 else ""
    if name in ("body", "form") and isinstance(body[name], dict):
        body = part_of(body, name)
    try:
        whole = _with_files(body, "", line.folder, faults)
        request = AnyTask(
            path=endpoint,
            body=whole,
            image_num=_asked_for(body),
            is_form=name == "form",
            tag=own.tag,
            metadata=own.metadata,
        )
    except InvalidRequest as refusal:
        faults += refusal.faults
    else:
        if not faults:
            return Made(place=line.place, request=request)
    return _faulty(line, *(Flaw(f"{line.place}: {fault.path}", fault.message) for fault in faults))


def _with_files(value: Any, path: str, folder: Path, faults: Faults) -> Any:
    if isinstance(value, list):
        return [
            _with_files(item, f"{path}[{number}]", folder, faults)
            for number, item in enumerate(cast("Sequence[Any]", value))
        ]
    if not isinstance(value, dict):
        return value
    named = cast("Document", value)
    if named.keys() == {"file"}:
        return _located(named["file"], path, folder, faults)
    if named.keys() == {"data_url"}:
        return DataURL(image=_located(named["data_url"], path, folder, faults))
    dot = f"{path}." if path else ""
    return {name: _with_files(item, f"{dot}{name}", folder, faults) for name, item in named.items()}


def _asked_for(body: Document) -> int:
    """How many images a body asks for, as far as it says so in a usual way."""
    numbers = (part.get(name) for part in (body, part_of(body, "request")) for name in _OWN_COUNTS)
    return next((number for number in numbers if type(number) is int and number > 0), 1)
