"""`edit`: pictures edited by whatever route serves a model."""

import json as _json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio.to_thread
from cyclopts import Group, Parameter

from novita_async._api.codec import request_from_wire
from novita_async._client import NovitaClient
from novita_async._stream.stream import IN_FLIGHT
from novita_async.cli._exits import Exit
from novita_async.cli._faces import with_face_pictures
from novita_async.cli._follow import FollowReport, follow
from novita_async.cli._generate import file_name
from novita_async.cli._inputs import Faults, folder_faults, picture_of
from novita_async.cli._manifest import axes_of
from novita_async.cli._options import given, options_class, options_of
from novita_async.cli._output import Output
from novita_async.cli._progress import ProgressTally, display_of
from novita_async.cli._settings import SENDING
from novita_async.errors import Flaw, InvalidRequest
from novita_async.models.faces import EditImage
from novita_async.models.images import ImageSource
from novita_async.models.requests import NovitaRequest

_PICTURES: Final = ("image", "images", "mask", "route", "options")
FIELDS: Final = tuple(options_of(EditImage, leave_out=_PICTURES))
_OWN: Final = frozenset(option.path[0] for option in FIELDS)
_MAKING: Final = Group("What to make", sort_key=2)

if TYPE_CHECKING:
    Settings = Any
else:
    Settings = options_class("EditSettings", {_MAKING: FIELDS}, {})

Texts = Annotated[list[str] | None, Parameter(group=_MAKING, negative_iterable=())]


async def edit(
    images: Annotated[list[str] | None, Parameter(name="IMAGE", negative_iterable=())] = None,
    /,
    *,
    settings: Annotated[Settings | None, Parameter(name="*")] = None,
    beside: Texts = None,
    mask: Annotated[str | None, Parameter(group=_MAKING)] = None,
    option: Texts = None,
    sweep: Texts = None,
    out: Annotated[str, Parameter(group=SENDING)] = ".",
    in_flight: Annotated[int, Parameter(group=SENDING)] = IN_FLIGHT,
    images_per_minute: Annotated[int | None, Parameter(group=SENDING)] = None,
    json: Annotated[bool, Parameter(group=SENDING, negative=(), show_default=False)] = False,
) -> Exit:
    """Edit pictures with whatever route serves a model.

    Enlarging, erasing and removing the background are edits too. Each IMAGE becomes one request with the same
    settings. Everything is checked before anything is bought. `novita-async routes` lists the
    models, `novita-async routes MODEL` what one of them takes.

    Args:
        images: Pictures to edit.
        settings: What to make.
        beside: One more picture for each request, where the route takes several. May be repeated.
        mask: A picture that says what may change, where the route takes one.
        option: `NAME=VALUE`. Another field of the route. May be repeated.
        sweep: `FIELD=low,high` or `FIELD=1..4`. Makes of each picture a request for every value; with several
            sweeps, for every combination. Texts with commas: `FIELD=["a, b", "c"]`.
        out: Folder for the results, made where it is missing, or `s3://BUCKET/PREFIX` (`gs://…`, `az://…`).
        in_flight: How many requests may be under way at once.
        images_per_minute: The account's quota of pictures. Where it is not given, it is found out.
        json: Print one JSON object a line: each submission, each outcome, the summary.
    """
    shared = {path[0]: value for path, value in given(FIELDS, settings).items()}
    shared |= {"images": beside} if beside else {}
    shared |= {"mask": mask} if mask else {}
    requests = await anyio.to_thread.run_sync(_requests, images or [], shared, option or [], sweep or [], out)
    report = FollowReport(Output(json), display_of(), ProgressTally(len(requests)), out)
    async with NovitaClient(images_per_minute=images_per_minute, observers=[report]) as client:
        return await follow(
            client.stream(requests, in_flight=in_flight, save_to=out, save_as=file_name), report
        )


def _requests(
    images: Sequence[str],
    shared: Mapping[str, Any],
    options: Sequence[str],
    sweeps: Sequence[str],
    out: str,
) -> list[NovitaRequest]:
    """Make a request of each picture and each combination. Raises `InvalidRequest` with every fault."""
    faults = folder_faults(out)
    beside = _options(options, faults)
    axes = axes_of(sweeps, faults)
    requests: list[NovitaRequest] = []
    for image, values in product(images or (None,), product(*axes.values())):
        swept = dict(zip(axes, values, strict=True))
        others = beside | {name: value for name, value in swept.items() if name not in _OWN}
        document = {**shared, **{name: value for name, value in swept.items() if name in _OWN}}
        document |= {"options": others} if others else {}
        document |= {} if image is None else {"image": image}
        found: Faults = []
        document = with_face_pictures(document, partial(_picture, found))
        try:
            requests.append(request_from_wire(document, EditImage.kind))
        except InvalidRequest as refusal:
            found += [_told(fault, axes) for fault in refusal.faults]
        faults += found
    if faults:
        raise InvalidRequest(faults=tuple(dict.fromkeys(faults)), advice="nothing was bought")
    return requests


def _picture(faults: Faults, place: Any, _: str) -> ImageSource:
    return picture_of(str(place), "", faults)


def _told(fault: Flaw, axes: Collection[str]) -> Flaw:
    """A fault under the name of its option."""
    name = fault.path.partition("[")[0]
    if name in axes:
        return Flaw(f"--sweep {name}", fault.message)
    names = {"image": "IMAGE", "images": "--beside", "options": "--option"}
    return Flaw(names.get(name, f"--{name.replace('_', '-')}"), fault.message)


def _options(texts: Sequence[str], faults: Faults) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            faults.append(Flaw(f"--option {text}", "give it as NAME=VALUE, such as watermark=false"))
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    """JSON where it is any, else the text itself."""
    try:
        return _json.loads(text)
    except ValueError:
        return text
