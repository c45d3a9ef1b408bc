"""From what was typed to requests: all is checked before anything is sent, and every fault is named at once.

A file, options and pictures are put together as the wire form of a request, and the codec reads that. So the
command line knows no rule of its own, and a fault has the same words as everywhere, under the name of the
option that it came from.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final, cast

from novita_async._api.codec import request_from_wire
from novita_async._files.places import storage_at
from novita_async._files.storage import is_address
from novita_async._util.lenient import as_list
from novita_async._util.values import frozen
from novita_async.cli._options import Option
from novita_async.cli._options import Path as OptionPath
from novita_async.cli._unknown import warned
from novita_async.errors import ConfigurationError, Flaw, InvalidRequest
from novita_async.models.images import ImageSource
from novita_async.models.requests import NovitaRequest

STAND_IN: Final = ImageSource(data=b"?", size=1, width=512, height=512)
"""Takes the place of a picture that cannot be read, so that the rest is still checked."""

_LISTS: Final = {
    "request.loras": "--lora",
    "request.embeddings": "--embedding",
    "request.controlnet.units": "--controlnet",
    "request.ip_adapters": "--ip-adapter",
}
Document = dict[str, Any]
Faults = list[Flaw]


@frozen(kw_only=True)
class Typed:
    """Values as they were typed."""

    pictures: Sequence[str] = ()
    """Paths of input pictures."""
    out: str | None = "."
    """Folder for the results. None: nothing will be written."""
    file: str | None = None
    """Path of a JSON file in the wire form."""
    values: Mapping[OptionPath, Any]
    """Options of the request, by their place in the document."""
    loras: Sequence[str] = ()
    """`NAME[:STRENGTH]`."""
    embeddings: Sequence[str] = ()
    """`NAME`."""
    controlnets: Sequence[str] = ()
    """`MODEL[:IMAGE[:STRENGTH]]`."""
    ip_adapters: Sequence[str] = ()
    """`MODEL[:IMAGE[:STRENGTH]]`."""


def requests_of(typed: Typed, options: Sequence[Option]) -> list[NovitaRequest]:
    """Make a request of each picture.

    Raises:
        InvalidRequest: names every fault of every picture, file and option.
    """
    faults = [] if typed.out is None else folder_faults(typed.out)
    document = document_of(typed, faults)
    requests: list[NovitaRequest] = []
    by_picture: dict[str, Faults] = {}
    for place in typed.pictures or (None,):
        found = by_picture[place or ""] = []
        request = _request(document, typed, place, found)
        if request is not None:
            requests.append(request)
    faults += _told_once(by_picture, _names(typed, options))
    if faults:
        raise InvalidRequest(faults=tuple(dict.fromkeys(faults)), advice="nothing was bought")
    return requests


def _told_once(by_picture: Mapping[str, Faults], names: Mapping[str, str]) -> Faults:
    """Name no picture for a fault that every request has; name the picture of each other fault."""
    common = set[Flaw].intersection(*map(set[Flaw], by_picture.values()))
    told: Faults = []
    for place, faults in by_picture.items():
        for fault in faults:
            general = fault in common or fault.path.startswith(place)
            part = next(
                (part for part in names if fault.path == part or fault.path.startswith(f"{part}[")), None
            )
            path = fault.path if part is None else names[part] + fault.path.removeprefix(part)
            told.append(Flaw(path if general else f"{place}: {path}", fault.message))
    return told


def _names(typed: Typed, options: Sequence[Option]) -> dict[str, str]:
    """Map parts of the document to their names on the command line, where they came from there."""
    names = {
        ".".join(option.place): f"--{option.dotted}"
        for option in options
        if typed.file is None or option.place in typed.values
    }
    return names | {"request.image_base64": "IMAGE"} | ({} if typed.file else _LISTS)


# --- The document -------------------------------------------------------------------------------------------


def document_of(typed: Typed, faults: Faults) -> Document | None:
    """The file with the options over it, without pictures. None: there is no telling what it says."""
    document = {} if typed.file is None else _file(typed.file, faults)
    if document is None:
        return None
    document.setdefault("request", {})
    for path, value in typed.values.items():
        put(document, path, value)
    _extend(document, "loras", [_lora(text, faults) for text in typed.loras])
    _extend(document, "embeddings", [_embedding(text, faults) for text in typed.embeddings])
    return document


def _file(place: str, faults: Faults) -> Document | None:
    try:
        document = json.loads(Path(place).read_bytes())
    except (OSError, ValueError) as error:
        reason = (error.strerror or "").lower() if isinstance(error, OSError) else f"is not JSON: {error}"
        faults.append(Flaw(f"--request {place}", reason or str(error)))
        return None
    if isinstance(document, dict):
        return cast("Document", document)
    faults.append(Flaw(f"--request {place}", "is not a JSON object"))
    return None


def put(document: Document, path: OptionPath, value: Any) -> None:
    """Set a value; what stands in its way and is no object is left for the codec to blame."""
    *outer, last = path
    target = document
    for name in outer:
        if target.get(name) is None:
            target[name] = {}
        if not isinstance(target[name], dict):
            return
        target = part_of(target, name)
    target[last] = value


def _extend(document: Document, name: str, items: Sequence[Document]) -> None:
    """Add to a list of the request, where there is room for one."""
    request = part_of(document, "request")
    there: Any = request.get(name) or []
    if items and isinstance(there, list):
        request[name] = [*there, *items]


def _request(
    document: Document | None, typed: Typed, place: str | None, faults: Faults
) -> NovitaRequest | None:
    """Put the picture and what guides it into the document, and read it."""
    picture = None if place is None else picture_of(place, "", faults)
    if document is None:
        return None
    whole = deepcopy(document)
    if picture is not None:
        put(whole, ("request", "image_base64"), picture)
    own = part_of(whole, "request").get("image_base64")
    units = _guides("--controlnet", typed.controlnets, own, faults)
    if units:
        put(whole, ("request", "controlnet", "units"), [*_units(whole), *units])
    _extend(whole, "ip_adapters", _guides("--ip-adapter", typed.ip_adapters, own, faults))
    try:
        return warned(request_from_wire(whole))
    except InvalidRequest as refusal:
        faults.extend(refusal.faults)
        return None


def part_of(document: Document, name: str) -> Document:
    """An object in the document; empty where something else stands there."""
    part = document.get(name)
    return cast("Document", part) if isinstance(part, dict) else {}


def _units(document: Document) -> list[Any]:
    return as_list(part_of(part_of(document, "request"), "controlnet").get("units"))


def folder_faults(place: str) -> Faults:
    """Make a folder for results; what is wrong with it is better known before anything is bought.

    A bucket is looked at later, and before anything is bought, too.
    """
    if is_address(place):
        return storage_faults("--out", place)
    try:
        Path(place).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=place):
            return []
    except OSError as error:
        return [Flaw(f"--out {place}", (error.strerror or str(error)).lower())]


def storage_faults(option: str, place: str) -> Faults:
    """Find faults in the URL of a place in an object store."""
    try:
        storage_at(place)
    except ConfigurationError as error:
        return [Flaw(option, f"{error.problem}: {error.advice.removeprefix('nothing was bought; ')}")]
    return []


# --- Pictures and parts -------------------------------------------------------------------------------------


def picture_of(place: str, where: str, faults: Faults) -> ImageSource:
    try:
        return ImageSource.from_path(place)
    except InvalidRequest as refusal:
        faults.extend(Flaw(f"{where}{fault.path}", fault.message) for fault in refusal.faults)
        return STAND_IN


def _guides(option: str, texts: Sequence[str], own: Any, faults: Faults) -> list[Document]:
    """The parts of a request that hold a picture of their own, or the request's."""
    parts: list[Document] = []
    for text in texts:
        model, _, rest = text.partition(":")
        place, strength = split_strength(rest, lambda rest: not Path(rest).exists())
        picture = picture_of(place, f"{option}: ", faults) if place else own
        parts.append(
            {"model_name": model, "image_base64": picture, "strength": 1.0 if strength is None else strength}
        )
    return parts


def _lora(text: str, faults: Faults) -> Document:
    name, strength = split_strength(text)
    whole, colon, tail = text.rpartition(":")
    if colon and strength is None:
        message = f"{tail!r} is not a strength; give NAME or NAME:STRENGTH, such as {whole or 'NAME'}:0.7"
        faults.append(Flaw(f"--lora {text}", message))
    return {"model_name": name, "strength": 1.0 if strength is None else strength}


def _embedding(text: str, faults: Faults) -> Document:
    name, strength = split_strength(text)
    if strength is not None:
        faults.append(Flaw(f"--embedding {text}", f"an embedding has no strength; give {name or 'NAME'}"))
    return {"model_name": text}


def split_strength(text: str, may_split: Callable[[str], bool] = bool) -> tuple[str, float | None]:
    """Take a number off the end, behind a colon. A colon before anything else belongs to the name."""
    name, colon, tail = text.rpartition(":")
    try:
        strength = float(tail)
    except ValueError:
        return text, None
    return (name, strength) if colon and math.isfinite(strength) and may_split(text) else (text, None)
