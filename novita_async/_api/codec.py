"""Values from and to JSON.

Requests are read strictly: every fault is found, each with the path of the JSON that holds it, by asking the
same rules that guard construction. Answers are read leniently: what looks like the service's own
serialisation of 64-bit numbers as strings, of unset objects as null and of unset text as "" is taken as what
it means, unknown fields are passed over, and an odd value becomes None rather than an error.
"""

import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal, cast, get_args, get_origin

import attrs
import msgspec
import pybase64
from attrs import Attribute

from novita_async._http import PART_MARK, AnswerPart, BodyPart, FormPart
from novita_async._util.lenient import END_OF_TIME, as_int, as_list, as_ms, as_object, as_text
from novita_async._util.values import frozen
from novita_async.errors import Flaw, InvalidRequest
from novita_async.models import _rules as rules
from novita_async.models._headers import read_header
from novita_async.models.choices import Sampler, TaskStatus
from novita_async.models.images import DataURL, ImageSource, is_address, media_type, why_refused
from novita_async.models.requests import AnyTask, Extra, NovitaRequest, Tagged, kinds
from novita_async.models.results import (
    Artifact,
    GeneratedImage,
    NsfwDetection,
    Snapshot,
    TaskResult,
    Timings,
    state_of,
)
from novita_async.models.routes import meant
from novita_async.tasks import Task

_WIRE_NAMES: Final[Mapping[str, str]] = {"image": "image_base64"}
_APART: Final = ("extra", "extra_fields", "tag", "metadata")
"""Fields of a request that stand elsewhere in its JSON, or nowhere."""


class Unreadable(ValueError):
    """Text that is not JSON. Internal: the protocol translates it."""


def parse(text: bytes | str) -> Any:
    """Read JSON. Raises `Unreadable`."""
    try:
        return _decode(text)
    except _UNREADABLE as error:
        raise Unreadable(str(error)) from error


def parse_leniently(text: bytes) -> Any:
    """Read the JSON of an answer, if not strictly, then leniently. Raises `Unreadable`.

    Other parsers write and take NaN and infinite numbers, halves of surrogate pairs, control characters in
    texts, bytes that are no UTF-8, and more after the end. A number that is none becomes None, and what is no
    character becomes U+FFFD: such a value spoils nothing else.
    """
    try:
        return _decode(text)
    except _UNREADABLE:
        pass
    try:
        value, _ = _lenient_json.raw_decode(text.decode(json.detect_encoding(text), "replace").lstrip())
        return _whole_characters(value) if _HALVES.search(text) else value
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from error


def _number_or_none(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _whole_characters(value: Any) -> Any:
    """Put U+FFFD in the place of halves of surrogate pairs, which cannot be written anywhere."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole_characters(item) for item in cast("Sequence[Any]", value)]
    if isinstance(value, dict):
        named = cast("dict[str, Any]", value)
        return {_whole_characters(name): _whole_characters(item) for name, item in named.items()}
    return value


_decode: Final = msgspec.json.Decoder().decode
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
_LONGEST_INT: Final = 4000
"""Digits of an integer; Python reads no more than 4,300."""
_HALVES: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_lenient_json: Final = json.JSONDecoder(
    parse_constant=lambda _: None,
    parse_float=_number_or_none,
    parse_int=lambda digits: int(digits) if len(digits) <= _LONGEST_INT else None,
    strict=False,
)


# --- Requests to JSON ---------------------------------------------------------------------------------------

MARK: Final = b"\x00"
"""Stands for a picture in encoded JSON, where a real NUL is always escaped."""
HOLE: Final = msgspec.Raw(MARK)
"""Encoded as the mark alone."""
_MARKED: Final = msgspec.Raw(b'"' + MARK + b'"')


def _to_wire(value: Any) -> Any:
    """A value as JSON has it, with a hole for each picture."""
    kind = value.__class__
    if kind in SCALARS:
        return _finite(value) if kind is float else value
    if kind is ImageSource or kind is DataURL:
        return _Hole(value.image, value.prefix) if kind is DataURL else _Hole(value)
    if attrs.has(kind):
        return {name: _to_wire(item) for name, item in _given(kind)(value).items()}
    if isinstance(value, Mapping):
        return {name: _to_wire(item) for name, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_to_wire(item) for item in cast("Sequence[Any]", value)]
    return value


SCALARS: Final = frozenset({str, int, float, bool, Sampler})
"""Types that JSON takes as they are; fields have been checked."""


@cache
def _given(cls: type) -> Callable[[Any], dict[str, Any]]:
    """A function that gives the fields that are sent and not left out, by their names on the wire.

    Its text names each field, as attrs' own methods do: a loop over them would take twice as long.
    """
    lines = [
        f"    if (v := value.{each.name}) is not None and v is not NOTHING: wire[{wire_name(each)!r}] = v"
        for each in attrs.fields(cls)
        if each.name not in _APART
    ]
    made: dict[str, Any] = {"NOTHING": ()}  # of which there is one
    exec("\n".join(["def given(value):", "    wire = {}", *lines, "    return wire"]), made)  # noqa: S102
    given: Callable[[Any], dict[str, Any]] = made["given"]
    return given


def wire_name(attribute: "Attribute[Any]") -> str:
    """Name of a field on the wire: the one that its metadata give under `wire`, else its own."""
    named = attribute.metadata.get("wire") or _WIRE_NAMES.get(attribute.name)
    return str(named or attribute.name)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return value


def sole_fields(request: NovitaRequest) -> dict[str, Any] | None:
    """The fields of a request's JSON where the whole is `{"request": fields}`; else None."""
    kind: Any = type(request)
    has_more = request.extra is not None or request.extra_fields
    if has_more or kind.kept is not NovitaRequest.kept or not kind.wrapped:
        return None
    return _given(kind)(request)


in_order: Final = msgspec.json.Encoder(order="deterministic").encode
"""Writes JSON with the names of each object in their order."""
_SCALAR_OR_PICTURE: Final = SCALARS | {ImageSource}


class _Hole:
    """A picture in a JSON object. Not an attrs class, because msgspec would write that as an object."""

    __slots__ = ("prefix", "source")

    def __init__(self, source: ImageSource, prefix: str = "") -> None:
        self.source = source
        self.prefix = prefix


def body_parts(request: NovitaRequest, callback_url: str | None = None) -> tuple[BodyPart, ...]:
    """The body of a submission as JSON text with pictures between its pieces.

    A callback URL takes the place of the request's webhook, where its body has a place for one.
    """
    fields = sole_fields(request) if callback_url is None else None
    if fields is None or not _SCALAR_OR_PICTURE.issuperset(map(type, fields.values())):
        return _written(request, lambda: request.document(_to_wire, callback_url))
    names = [name for name, value in fields.items() if value.__class__ is ImageSource]
    pictures = [fields[name] for name in names]
    for name in names:
        fields[name] = _MARKED
    return _joined(msgspec.json.encode({"request": fields}), pictures)


def kept_parts(request: NovitaRequest) -> tuple[BodyPart, ...]:
    """JSON text from which a request can be made again, with pictures between its pieces."""
    return _written(request, lambda: request.kept(_to_wire), prefixes=False)


def _written(
    request: NovitaRequest, make: Callable[[], dict[str, Any]], *, prefixes: bool = True
) -> tuple[BodyPart, ...]:
    """Write the JSON object that `make` gives. Raises `InvalidRequest`."""
    pictures: list[ImageSource] = []

    def leave_hole(value: Any) -> msgspec.Raw:
        if not isinstance(value, _Hole):
            raise NotImplementedError(f"{rules.shown(value)} cannot be written as JSON")
        pictures.append(value.source)
        if not (prefixes and value.prefix):
            return _MARKED
        return msgspec.Raw(b'"' + value.prefix.encode() + MARK + b'"')

    try:
        marked = msgspec.json.encode(make(), enc_hook=leave_hole)
    except (TypeError, NotImplementedError, ValueError, RecursionError) as error:
        raise InvalidRequest(faults=(Flaw(type(request).__name__, str(error)),)) from error
    return _joined(marked, pictures)


def _joined(marked: bytes, pictures: Sequence[ImageSource]) -> tuple[BodyPart, ...]:
    """JSON text with pictures in the place of its marks."""
    head, *tails = marked.split(MARK)
    if len(tails) == len(pictures) == 1:  # as most requests have
        return head, pictures[0], tails[0]
    parts: list[BodyPart] = [head]
    for picture, tail in zip(pictures, tails, strict=True):
        parts += picture, tail
    return tuple(parts)


def form_parts(request: NovitaRequest) -> tuple[FormPart, ...]:
    """The body of a submission as the fields of a form: a list becomes several fields of one name."""
    document = request.document(_to_wire, None)
    return tuple(
        _form_part(name, item, number)
        for name, value in document.items()
        for number, item in enumerate(
            cast("Sequence[Any]", value) if isinstance(value, list | tuple) else [value], 1
        )
    )


def _form_part(name: str, value: Any, number: int) -> FormPart:
    if not isinstance(value, _Hole):
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        return FormPart(name=name, content=text.encode())
    source = value.source
    stem = source.path.stem if source.path else f"{re.sub(r'[^a-z_]', '', name) or 'image'}-{number}"
    suffix = source.format or (source.path.suffix.removeprefix(".") if source.path else "") or "bin"
    return FormPart(name=name, content=source, filename=f"{stem}.{suffix}", content_type=media_type(source))


def request_to_json(request: NovitaRequest) -> str:
    """Write a request as the JSON text that is sent, pictures included.

    Blocks while pictures are read; sending does not come this way.
    """
    return b"".join(
        pybase64.b64encode(part.read()) if isinstance(part, ImageSource) else part
        for part in body_parts(request)
    ).decode()


# --- Requests from JSON -------------------------------------------------------------------------------------


@frozen(eq=False, repr=False)
class _Field:
    """How one field of a request is read."""

    attribute: "Attribute[Any]"
    wire_name: str
    part: type | None
    """The attrs class of a nested object, or of a list's items."""
    many: bool
    takes_text: bool
    """Whether a text is a value too: the address of a picture, the name of a route."""


@cache
def _fields(cls: type) -> tuple[_Field, ...]:
    attrs.resolve_types(cls)
    found: list[_Field] = []
    for attribute in (each for each in attrs.fields(cls) if each.name not in _APART):
        kinds = tuple(_types_in(attribute.type))  # `tuple[Lora, ...]`, `HiresFix | None`, `ImageSource`
        part = next((kind for kind in kinds if isinstance(kind, type) and attrs.has(kind)), None)
        is_list = get_origin(attribute.type) is tuple
        found.append(_Field(attribute, wire_name(attribute), part, is_list, takes_text=str in kinds))
    return tuple(found)


def _types_in(annotation: Any) -> Iterator[Any]:
    """A type, and all types that it is made of."""
    yield annotation
    for inner in get_args(annotation):
        yield from _types_in(inner)


_FAULTY: Final = object()


@frozen(eq=False, repr=False)
class _Reader:
    """Reads one JSON document and gathers its faults."""

    faults: list[Flaw]
    allow_unknown: bool
    own: Tagged | None = None

    def blame(self, path: str, message: str) -> Any:
        self.faults.append(Flaw(path, message))
        return _FAULTY

    def document(self, raw: Any, cls: type[NovitaRequest]) -> Any:
        if not isinstance(raw, Mapping):
            return self.blame("the document", f"{rules.shown(raw)} is not a JSON object")
        document = dict(cast("Mapping[str, Any]", raw))
        extra = document.pop("extra", None) if cls.takes_extra else None
        given: dict[str, Any] = {} if extra is None else {"extra": self.object(extra, Extra, "extra")}
        if self.own is not None:
            given |= {"tag": self.own.tag, "metadata": self.own.metadata}
        if not cls.wrapped:
            return self.object(document, cls, "", given)
        self.unknown(document, ("extra", "request"), "", allowed=False)
        if "request" not in document:
            return self.blame("request", "is missing: the fields of the request go inside it")
        return self.object(document["request"], cls, "request", given)

    def object(self, raw: Any, cls: type, path: str, given: Mapping[str, Any] = {}) -> Any:
        """Read an attrs class; `given` are values of fields that stand elsewhere."""
        if not isinstance(raw, Mapping):
            return self.blame(path, f"{rules.shown(raw)} is not a JSON object")
        source = cast("Mapping[str, Any]", raw)
        before = len(self.faults)
        names = [field.wire_name for field in _fields(cls)]
        others = getattr(cls, "others", "")
        if not others and self.allow_unknown and "extra_fields" in attrs.fields_dict(cls):
            others = "extra_fields"
        within = f"{path}." if path else ""
        unknown = self.unknown(source, names, within, allowed=bool(others))
        values = {**given, **self.values(source, cls, within)}
        if unknown and others:
            values[others] = {**unknown, **as_object(values.get(others))}
        self.ask_rules(cls, values, within)
        return cls(**values) if len(self.faults) == before and _FAULTY not in values.values() else _FAULTY

    def values(self, source: Mapping[str, Any], cls: type, within: str) -> dict[str, Any]:
        read: dict[str, Any] = {}
        for field in _fields(cls):
            place = f"{within}{field.wire_name}"
            if source.get(field.wire_name) is not None:
                read[field.attribute.name] = self.value(source[field.wire_name], field, place)
            elif field.attribute.default is attrs.NOTHING:
                self.blame(place, "is missing")
        return read

    def value(self, raw: Any, field: _Field, path: str) -> Any:
        if field.part is None:
            return raw
        read: Callable[[Any, type, str], Any]
        if field.takes_text:
            read = self.picture_or_address if field.part is ImageSource else self.text_or_object
        else:
            read = self.picture if field.part is ImageSource else self.object
        if not field.many:
            return read(raw, field.part, path)
        if not isinstance(raw, list | tuple):
            return self.blame(path, f"{rules.shown(raw)} is not a list")
        listed = cast("Sequence[Any]", raw)
        items = tuple(read(item, field.part, f"{path}[{i}]") for i, item in enumerate(listed))
        if _FAULTY not in items:
            return items
        if message := rules.explain_count(field.attribute, items):
            self.blame(path, message)
        return _FAULTY

    def picture(self, raw: Any, _: type, path: str) -> Any:
        if isinstance(raw, ImageSource):
            return raw
        if not isinstance(raw, str):
            return self.blame(path, f"{rules.shown(raw)} is not base64 text")
        try:
            return ImageSource.from_base64(raw)
        except InvalidRequest as refusal:
            return self.blame(path, why_refused(refusal))

    def picture_or_address(self, raw: Any, kind: type, path: str) -> Any:
        return raw if is_address(raw) else self.picture(raw, kind, path)

    def text_or_object(self, raw: Any, kind: type, path: str) -> Any:
        return raw if isinstance(raw, str) else self.object(raw, kind, path)

    def ask_rules(self, cls: type, values: Mapping[str, Any], within: str) -> None:
        """Ask the rules of all fields, of those too that are not given: some follow from others."""
        known = {
            field.attribute.name: values.get(field.attribute.name, _default(field)) for field in _fields(cls)
        }
        instance = SimpleNamespace(requested=cls, **known)
        for field in _fields(cls):
            value = known[field.attribute.name]
            if value is not _FAULTY and (message := rules.explain(field.attribute, instance, value)):
                self.blame(f"{within}{field.wire_name}", message)

    def unknown(
        self, source: Mapping[str, Any], names: Sequence[str], path: str, *, allowed: bool
    ) -> dict[str, Any]:
        left = {str(name): value for name, value in source.items() if name not in names}
        for name in () if allowed else left:
            label = name if name.isidentifier() else rules.shown(name)
            self.blame(f"{path}{label}", f"no such field{meant(name, names)}")
        return left


def _default(field: _Field) -> Any:
    """Value of a field that is not given; where a field must be given, the flaw was reported."""
    attribute = field.attribute
    if attribute.default is attrs.NOTHING:
        return _FAULTY
    convert = cast("Callable[[Any], Any] | None", attribute.converter)
    return convert(attribute.default) if convert else attribute.default


def request_from_wire(
    document: Any, endpoint: str = "img2img", *, allow_unknown: bool = False, own: Tagged | None = None
) -> NovitaRequest:
    """Read a request from parsed JSON, in which pictures are base64 text or `ImageSource`s.

    Args:
        document: The JSON.
        endpoint: As for `request_from_json`.
        allow_unknown: As for `request_from_json`.
        own: The user's own words for it.

    Raises:
        InvalidRequest: names every fault by its path.
    """
    if endpoint.startswith("/"):
        return AnyTask(path=endpoint, body=document)
    known = kinds()
    if endpoint not in known:
        raise InvalidRequest(
            faults=(Flaw("endpoint", f"{endpoint!r} is none of {', '.join(known)}, nor a path"),)
        )
    reader = _Reader([], allow_unknown, own)
    request = reader.document(document, known[endpoint])
    if reader.faults:
        raise InvalidRequest(faults=tuple(reader.faults))
    return cast("NovitaRequest", request)


def request_from_json(
    text: bytes | str, endpoint: str = "img2img", *, allow_unknown: bool = False
) -> NovitaRequest:
    """Read a request from the JSON text that would be sent.

    Args:
        text: `{"extra": …, "request": …}`, pictures as base64.
        endpoint: The kind, such as `img2img`, or a path, which makes an `AnyTask`.
        allow_unknown: Put fields of `request` that this library does not know into `extra_fields`, instead of
            refusing them. Unknown fields elsewhere have no place to be kept and are refused.

    Raises:
        InvalidRequest: names every fault by its path, such as `request.loras[0].strength`.
    """
    try:
        document = parse(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except (Unreadable, UnicodeError) as error:
        raise InvalidRequest(faults=(Flaw("the document", f"is not JSON: {error}"),)) from error
    return request_from_wire(document, endpoint, allow_unknown=allow_unknown)


# --- Results ------------------------------------------------------------------------------------------------
#
# A finished task of the usual form is read by msgspec, straight from the text; any other by the converter.


def result(body: Mapping[str, Any], task: Task | None) -> TaskResult:
    """Read what a finished task carries, leniently, from a poll's answer or a webhook's payload."""
    extra = as_object(body.get("extra"))
    debug = as_object(extra.get("debug_info"))
    return TaskResult(
        task=task,
        images=_of_task(body.get("images"), GeneratedImage, task),
        videos=_of_task(body.get("videos"), Artifact, task, "video_"),
        audios=_of_task(body.get("audios"), Artifact, task, "audio_"),
        seed=as_int(extra.get("seed")),
        task_type=as_text(as_object(body.get("task")).get("task_type")) or None,
        timings=Timings(
            submit_ms=as_ms(debug.get("submit_time_ms")),
            execute_ms=as_ms(debug.get("execute_time_ms")),
            complete_ms=as_ms(debug.get("complete_time_ms")),
        ),
        request_info=as_text(debug.get("request_info")) or None,
        extra=extra,
    )


def _of_task(files: Any, kind: type[Artifact], task: Task | None, prefix: str = "") -> tuple[Any, ...]:
    """Listed files, each with its task; those without a URL are passed over.

    The prefix of the names of a file's fields tells kinds apart, and is left out.
    """
    items = [cast("Mapping[str, Any]", item) for item in as_list(files) if isinstance(item, Mapping)]
    if not items:
        return ()
    from novita_async._api.converter import read_as  # noqa: PLC0415 - usual answers do without

    told = [{**{name.removeprefix(prefix): item[name] for name in item}, "task": task} for item in items]
    return tuple([file for each in told if (file := read_as(kind, each)).url])


def _maker(cls: type, *names: str) -> Callable[..., Any]:
    """A function that makes values of a class of plain fields from some of them, by position.

    The values are those that calling the class makes, in less than half the time: a call by names makes a
    dictionary of them first. Fields that are not named have their defaults.
    """
    made: dict[str, Any] = {"new": cls.__new__, "cls": cls}
    lines: list[str] = []
    for each in attrs.fields(cls):
        made[f"default_{each.name}"] = each.default
        default = "None" if each.default is None else f"default_{each.name}"
        lines.append(f"    fields[{each.name!r}] = {each.name if each.name in names else default}")
    head = [f"def make({', '.join(names)}):", "    value = new(cls)", "    fields = value.__dict__"]
    exec("\n".join([*head, *lines, "    return value"]), made)  # noqa: S102
    make: Callable[..., Any] = made["make"]
    return make


_result: Final[Callable[..., TaskResult]] = _maker(
    TaskResult, "task", "images", "seed", "task_type", "timings", "request_info", "extra"
)
_timings: Final[Callable[..., Timings]] = _maker(Timings, "submit_ms", "execute_ms", "complete_ms")
_snapshot: Final[Callable[..., Snapshot]] = _maker(
    Snapshot, "task", "status", "progress_percent", "eta", "explanation", "result"
)
_image: Final[Callable[..., GeneratedImage]] = _maker(
    GeneratedImage, "url", "url_ttl", "type", "task", "nsfw"
)
_findings: Final[Callable[..., NsfwDetection]] = _maker(NsfwDetection, "checked", "confidence")


_Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
_Time = Annotated[float, msgspec.Meta(ge=0, lt=END_OF_TIME)] | Literal[""] | None
"""Milliseconds since 1970; "" and 0 mean: not yet."""
_Empty = Annotated[list[Any], msgspec.Meta(max_length=0)]


class _UsualNsfw(msgspec.Struct, gc=False):
    valid: bool | None = None
    confidence: _Finite | None = None


class _UsualImage(msgspec.Struct, gc=False):
    image_url: str
    image_url_ttl: int | None = None
    image_type: str | None = None
    nsfw_detection_result: _UsualNsfw | None = None


class _UsualTask(msgspec.Struct, gc=False):
    status: str
    task_id: str | None = None
    task_type: str | None = None
    reason: str | None = None
    progress_percent: _Finite | None = None
    eta: _Finite | None = None


class _UsualAnswer(msgspec.Struct, gc=False):
    task: _UsualTask
    images: list[_UsualImage] | None = None
    extra: msgspec.Raw = msgspec.Raw(b"null")
    videos: _Empty | None = None
    audios: _Empty | None = None


class _UsualDebug(msgspec.Struct, gc=False):
    submit_time_ms: _Time = None
    execute_time_ms: _Time = None
    complete_time_ms: _Time = None
    request_info: str | None = None


class _UsualExtra(msgspec.Struct, gc=False):
    seed: int | None = None
    debug_info: _UsualDebug | None = None


_usual_answer: Final = msgspec.json.Decoder(_UsualAnswer, strict=False).decode
_usual_extra: Final = msgspec.json.Decoder(_UsualExtra | None, strict=False).decode
_whole_extra: Final = msgspec.json.Decoder(dict[str, Any] | None).decode
_NOTHING_TOLD: Final = _UsualExtra()
_NOT_TIMED: Final = _UsualDebug()
_SUCCEEDED: Final = TaskStatus.SUCCEED.value


def usual_snapshot(text: bytes, task: Task) -> Snapshot | None:
    """Read a poll's answer. None: of an unusual form, or the task has failed; read the answer leniently."""
    try:
        answer = _usual_answer(text)
        about, result = answer.task, None
        if about.task_id and about.task_id != task.task_id:
            return None
        if about.status == _SUCCEEDED:
            result = _usual_result(answer, task)
        elif not about.status or state_of(about.status) != "running":
            return None
    except _UNREADABLE:
        return None
    return _snapshot(task, about.status, about.progress_percent, about.eta, about.reason or "", result)


def _usual_result(answer: _UsualAnswer, task: Task) -> TaskResult:
    """Read the result of a finished task. To read `extra` twice is quicker than to convert its numbers."""
    images: list[GeneratedImage] = []
    for image in answer.images or ():
        if image.image_url:
            found, nsfw = image.nsfw_detection_result, None
            if found is not None and (found.valid is not None or found.confidence is not None):
                nsfw = _findings(found.valid is True, found.confidence)
            images.append(_image(image.image_url, image.image_url_ttl, image.image_type or None, task, nsfw))
    about = _usual_extra(answer.extra) or _NOTHING_TOLD
    debug = about.debug_info or _NOT_TIMED
    timings = _timings(
        debug.submit_time_ms or None, debug.execute_time_ms or None, debug.complete_time_ms or None
    )
    info = debug.request_info or None
    extra: dict[str, Any] = _whole_extra(answer.extra) or {}
    return _result(task, tuple(images), about.seed, answer.task.task_type or None, timings, info, extra)


# --- Results that come at once ------------------------------------------------------------------------------
#
# Every service has a form of its own: `{"images": ["https://…"]}`, `{"data": [{"b64_json": …}]}`,
# `{"candidates": [{"content": {"parts": [{"inlineData": …}]}}]}`, `{"image_file": …}`. All share the
# places of files: below the name of a container, under the name of a file.

_MEDIA: Final[Mapping[str, str]] = {
    **dict.fromkeys(("video", "videos", "video_url", "video_urls"), "videos"),
    **dict.fromkeys(("audio", "audios", "audio_url", "audio_urls"), "audios"),
    **dict.fromkeys(
        (
            "image", "images", "image_url", "image_urls", "image_file", "image_base64", "b64_json", "data",
            "candidates", "content", "parts", "inlineData", "inline_data", "output", "outputs", "result",
            "results",
        ),
        "images",
    ),
}  # fmt: skip
"""Names below which files stand, and of which medium."""
_FILES: Final = frozenset({*_MEDIA, "url", "uri"}) - {"candidates", "content", "parts"}
"""Names under which a file stands, or a list of them."""
_KINDS_OF_FILE: Final = (
    "image_type",
    "video_type",
    "audio_type",
    "mimeType",
    "mime_type",
    "output_format",
    "type",
)
_FILMS: Final = frozenset({"mp4", "webm"})
_LEAST_BASE64: Final = 16
"""Characters of the shortest text that is taken for a file."""


@frozen(eq=False, repr=False)
class _FileFinder:
    """Walks through an answer and gathers the files in it."""

    marks: Mapping[str, AnswerPart]
    """Files that were taken out of the text, by the strings that stand there."""
    task: Task | None
    found: dict[str, list[Artifact]]

    def walk(self, value: Any, name: str = "", medium: str | None = None, stated: str | None = None) -> None:
        if isinstance(value, str):
            if medium is not None and name in _FILES and (file := self.file(value, stated)):
                cls = GeneratedImage if medium == "images" else Artifact
                self.found[medium].append(cls(**file, task=self.task))
        elif isinstance(value, list):
            for item in cast("Sequence[Any]", value):
                self.walk(item, name, medium, stated)
        elif isinstance(value, Mapping):
            named = cast("Mapping[str, Any]", value)
            own = next(
                (str(named[each]) for each in _KINDS_OF_FILE if isinstance(named.get(each), str)), None
            )
            for inner, item in named.items():
                if inner not in _ABOUT:
                    self.walk(item, inner, _MEDIA.get(inner, medium), own or stated)

    def file(self, text: str, stated: str | None) -> dict[str, Any] | None:
        """A file, from what stands in its place. None: that is no file."""
        kind = stated.rpartition("/")[2] if stated else None
        if is_address(text):
            return {"url": text, "type": kind}
        head, comma, rest = text.partition(",") if text[:5].lower() == "data:" else ("", "", text)
        if comma:
            kind = head[5:].partition(";")[0].rpartition("/")[2] or kind
        part = self.marks.get(rest)
        if part is not None:
            return _about(part) | {"type": part.kind or kind}
        data = _decoded(rest) if len(rest) >= _LEAST_BASE64 else None
        return None if data is None else {"data": data, "type": read_header(io.BytesIO(data)).format or kind}


_ABOUT: Final = frozenset({"task", "usage", "error", "metadata", "extra", "webhook"})
"""Names below which no file stands."""


def _decoded(text: str) -> bytes | None:
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        return None


def results_at_once(
    body: Mapping[str, Any],
    parts: Sequence[AnswerPart] = (),
    task: Task | None = None,
    cut: str | None = None,
) -> TaskResult | None:
    """Read the results in an answer to a submission, in whatever form. None: there are none in it.

    Args:
        body: The answer.
        parts: Files that were taken out of its text.
        task: The task that the answer names besides.
        cut: Why the answer broke off.
    """
    usual = result(body, task)
    if usual.artifacts:
        return attrs.evolve(usual, cut=cut)
    marks = {part.mark or f"{PART_MARK}{number}": part for number, part in enumerate(parts)}
    finder = _FileFinder(marks, task, {"images": [], "videos": [], "audios": []})
    finder.walk(body)
    found = {medium: tuple(files) for medium, files in finder.found.items()}
    if not any(found.values()):
        return None
    return TaskResult(task=task, extra=_rest_of(body), cut=cut, **cast("Any", found))


def parts_at_once(
    body: Mapping[str, Any], parts: Sequence[AnswerPart], cut: str | None = None
) -> TaskResult | None:
    """Take all pictures and films of an answer for results, whatever their names. None: there are none."""
    images = tuple(GeneratedImage(**_about(part)) for part in parts if part.kind not in _FILMS)
    videos = tuple(Artifact(**_about(part)) for part in parts if part.kind in _FILMS)
    return TaskResult(images=images, videos=videos, extra=_rest_of(body), cut=cut) if parts else None


def _about(part: AnswerPart) -> dict[str, Any]:
    return {"data": part.data, "file": part.path, "lost": part.lost, "type": part.kind}


def nothing_at_once(body: Mapping[str, Any]) -> TaskResult:
    """The result of an answer that holds no file, from a route that answers at once."""
    return TaskResult(extra=_rest_of(body))


def _rest_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer without the files in it."""
    return {name: _without_files(item) for name, item in body.items()}


def _without_files(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_files(item) for item in cast("Sequence[Any]", value)]
    if isinstance(value, Mapping):
        return _rest_of(cast("Mapping[str, Any]", value))
    return "…" if isinstance(value, str) and len(value) > _LONGEST_WORDS else value


_LONGEST_WORDS: Final = 1024


class _PeekId(msgspec.Struct, gc=False):
    task_id: str = ""


_peek_id: Final = msgspec.json.Decoder(_PeekId)


def peek_task_id(text: bytes) -> str:
    """Read only the id of a new task. Empty where the answer is not of the usual form: read it whole."""
    try:
        return _peek_id.decode(text).task_id
    except _UNREADABLE:
        return ""
