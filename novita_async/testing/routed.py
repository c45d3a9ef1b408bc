"""Submissions to the routes of the table: what the simulated service demands of them, and how it answers.

A body is taken apart by code of its own: multipart forms strictly, byte by byte, as a service would. What the
fields may hold and how large pictures may be is the row's to say.
"""

import binascii
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, cast

import msgspec
import pybase64
from attrs import evolve, field

from novita_async._util.values import frozen
from novita_async.models._headers import read_header
from novita_async.models.routes import Route, RoutePictures
from novita_async.testing.tasks import SimulatedTask, WorkOrder, section
from novita_async.testing.wire import Exchange, JSONObject, Refused, Reply, decode_object, json_reply

_URL: Final = re.compile(r"https?://[^\s]+")
_DATA_URL: Final = re.compile(r"data:image/([a-z0-9.+-]+);base64,")
_SIZE: Final = re.compile(r"(\d+)[x*](\d+)")
_SIDES: Final = {"1K": 1024, "2K": 2048, "3K": 3072, "4K": 4096, "2k": 2048, "4k": 4096, "8k": 4096}
_SIDE: Final = 1024
"""Pixels of a side where neither the request nor a picture says more."""
VIDEO: Final = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2\x00\x00\x00\x08mdat"
"""The shortest file that players take for an MP4."""


@frozen
class Form:
    """A body, taken apart."""

    values: JSONObject
    """Fields by their names in the table."""
    pictures: Mapping[str, Sequence[Any]] = field(repr=False)
    """Pictures by the names of the fields that hold them: text, or bytes of a form's part."""
    document: JSONObject = field(repr=False)
    """The body as it is told in the ledger."""


def matches(route: Route, path: str) -> bool:
    """Whether a route is served at a path."""
    return path in {route.path_for(model) for model in route.models or ("",)}


def read_routed(exchange: Exchange, routes: Sequence[Route]) -> tuple[JSONObject, Route, WorkOrder]:
    """Read a submission by the first of the rows at its path that takes it.

    Raises:
        Refused: no row does; the reason is the first row's.
    """
    refusals: list[Refused] = []
    for route in routes:
        try:
            form = _READERS[route.body](exchange, route)
            return form.document, route, _order(exchange.path, route, form)
        except Refused as refused:
            refusals.append(refused)
    raise refusals[0]


# --- Bodies -------------------------------------------------------------------------------------------------


def _read_json(exchange: Exchange, route: Route) -> Form:
    if exchange.headers.get("content-type", "application/json").partition(";")[0] != "application/json":
        raise Refused("INVALID_REQUEST_BODY", "the body is not application/json")
    document = decode_object(exchange.body)
    return _form(document, route)


def _form(document: JSONObject, route: Route) -> Form:
    rest = dict(document)
    pictures: dict[str, Sequence[Any]] = {}
    for limits in route.pictures:
        given = rest.pop(limits.name, None)
        if given is None:
            continue
        if isinstance(given, list) is not limits.is_list:
            form = "a list" if limits.is_list else "one picture"
            raise Refused("INVALID_REQUEST_BODY", f"invalid request body: {limits.name} is not {form}")
        pictures[limits.name] = given if isinstance(given, list) else [given]
    values: JSONObject = {}
    for known in route.fields:
        found = _taken(rest, (known.place or known.name).split("."))
        if found is not None:
            values[known.name] = found
    own = {route.model_field, route.webhook.partition(".")[0], "extra", "contents"}
    unknown = sorted(name for name, value in rest.items() if name not in own and value not in ({}, None))
    if unknown and not route.is_open:
        raise Refused("VALIDATOR", f"unknown field {unknown[0]}")
    return Form(values, pictures, document)


def _taken(document: JSONObject, steps: Sequence[str]) -> Any:
    """Take a value out of a document, and objects that are empty without it."""
    name, *rest = steps
    inner = document.get(name)
    if not rest or not isinstance(inner, dict):
        return None if rest else document.pop(name, None)
    document[name] = others = dict(cast("JSONObject", inner))
    found = _taken(others, rest)
    if not others:
        del document[name]
    return found


def _read_gemini(exchange: Exchange, route: Route) -> Form:
    document = decode_object(exchange.body)
    contents = document.get("contents")
    if not isinstance(contents, list) or not contents or not isinstance(contents[0], dict):
        raise Refused("INVALID_REQUEST_BODY", "invalid request body: contents is required")
    parts = cast("JSONObject", contents[0]).get("parts")
    pieces = [cast("JSONObject", part) for part in cast("list[Any]", parts or ()) if isinstance(part, dict)]
    inline = [section(part, "inlineData") for part in pieces if "inlineData" in part]
    if any(not str(each.get("mimeType", "")).startswith("image/") for each in inline):
        raise Refused("INVALID_REQUEST_BODY", "invalid request body: inlineData.mimeType is no image")
    flat = _form({name: value for name, value in document.items() if name != "contents"}, route)
    words = [str(part["text"]) for part in pieces if "text" in part]
    prompt = {"prompt": "\n".join(words)} if words else {}
    pictures = {route.pictures[0].name: [each.get("data") for each in inline]} if route.pictures else {}
    if inline and not route.pictures:
        raise Refused("VALIDATOR", "pictures are not taken here")
    return Form(
        {**flat.values, **prompt}, {name: given for name, given in pictures.items() if given}, document
    )


def _read_multipart(exchange: Exchange, route: Route) -> Form:
    kinds = {each.name: each.type for each in route.fields}
    values: JSONObject = {}
    pictures: dict[str, list[Any]] = {}
    files = {limits.name for limits in route.pictures}
    for called, filename, content_type, content in multipart(exchange):
        name = (
            f"{called}[]" if f"{called}[]" in files else called
        )  # one picture may come without the brackets
        if name in files:
            if filename is None or not (content_type or "").startswith("image/"):
                raise Refused("INVALID_REQUEST_BODY", f"{name} is not a file of a picture")
            pictures.setdefault(name, []).append(content)
        elif filename is not None or name in values:
            raise Refused("INVALID_REQUEST_BODY", f"{name} is a file, or given twice")
        else:
            values[name] = _read_text(content, kinds.get(name, "text"), name)
    document = {
        **values,
        **{name: [f"<{len(each)} bytes>" for each in given] for name, given in pictures.items()},
    }
    known = {route.model_field, *kinds}
    unknown = sorted(set(values) - known)
    if unknown and not route.is_open:
        raise Refused("VALIDATOR", f"unknown field {unknown[0]}")
    return Form({name: value for name, value in values.items() if name in kinds}, pictures, document)


def _read_text(content: bytes, kind: str, name: str) -> Any:
    text = content.decode("utf-8", "strict")
    if kind in ("text", "size"):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise Refused("INVALID_REQUEST_BODY", f"{name} is not {kind}") from error


_DISPOSITION: Final = re.compile(r'form-data; name="([^"\r\n]*)"(?:; filename="([^"\r\n]*)")?')


def multipart(exchange: Exchange) -> Iterator[tuple[str, str | None, str | None, bytes]]:
    """Take a form apart strictly: name, file name, media type and content of each part.

    Raises:
        Refused: a byte that is not as RFC 7578 has it.
    """
    kind, _, parameter = exchange.headers.get("content-type", "").partition("; boundary=")
    boundary = parameter.strip('"').encode()
    if kind != "multipart/form-data" or not boundary:
        raise Refused("INVALID_REQUEST_BODY", "the body is not multipart/form-data with a boundary")
    length = exchange.headers.get("content-length")
    if length is not None and length != str(len(exchange.body)):
        raise Refused("INVALID_REQUEST_BODY", "the body is not as long as it says")
    mark, end = b"--" + boundary, b"\r\n--" + boundary
    if not exchange.body.startswith(mark + b"\r\n") or not exchange.body.endswith(end + b"--\r\n"):
        raise Refused("INVALID_REQUEST_BODY", "the form does not begin or end with its boundary")
    for part in exchange.body[len(mark) + 2 : -len(end) - 4].split(end + b"\r\n"):
        head, gap, content = part.partition(b"\r\n\r\n")
        lines = [line.partition(": ") for line in head.decode("utf-8", "strict").split("\r\n")]
        headers = {name: value for name, _, value in lines}
        found = _DISPOSITION.fullmatch(headers.pop("Content-Disposition", ""))
        content_type = headers.pop("Content-Type", None)
        if not gap or found is None or headers:
            raise Refused("INVALID_REQUEST_BODY", "a part of the form has no proper head")
        yield found[1], found[2], content_type, content


_READERS: Final[Mapping[str, Callable[[Exchange, Route], Form]]] = {
    "flat": _read_json,
    "multipart": _read_multipart,
    "gemini": _read_gemini,
}


# --- Judging ------------------------------------------------------------------------------------------------


def _order(path: str, route: Route, form: Form) -> WorkOrder:
    model = form.document.get(route.model_field) if route.model_field else None
    if route.model_field and (not isinstance(model, str) or (route.models and model not in route.models)):
        raise Refused("VALIDATOR", f"invalid {route.model_field}: {model!r} is not served here")
    for known in route.fields:
        given = form.values.get(known.name)
        wrong = known.explain(given) if given is not None else "value is required" if known.required else None
        if wrong:
            raise Refused("VALIDATOR", f"invalid {known.name}: {wrong}")
    pictures = {
        limits.role: _checked(limits, form.pictures.get(limits.name, ())) for limits in route.pictures
    }
    source = next((each for each in pictures.get("image", ()) if each), None)
    width, height = _size_of(form.values, source)
    seed, count = form.values.get("seed"), form.values.get(route.counts) if route.counts else 1
    kind = "mp4" if route.kind == "animate" else str(form.values.get("output_format") or "png")
    return WorkOrder(
        endpoint=path,
        task_type=route.name.replace("-", "_").upper(),
        prompt=str(form.values.get("prompt", "")),
        width=width,
        height=height,
        images=count if isinstance(count, int) and count > 0 else 1,
        steps=20,
        seed=seed if isinstance(seed, int) else -1,
        strength=1.0 if source is None else 0.5,
        image_type=kind,
        source=source,
        nsfw=False,
        webhook=_webhook(route, form.document),
        mock=None,
        storage=None,
        details={},
    )


def _checked(limits: RoutePictures, given: Sequence[Any]) -> list[bytes]:
    """Decode pictures of a role. An address stands for a picture that is not fetched here: it is empty."""
    if not given and limits.required:
        raise Refused("VALIDATOR", f"invalid {limits.name}: value is required")
    if len(given) > limits.most:
        raise Refused("VALIDATOR", f"invalid {limits.name}: at most {limits.most} pictures")
    return [_picture(limits, each) for each in given]


def _picture(limits: RoutePictures, given: Any) -> bytes:
    if isinstance(given, str) and _URL.fullmatch(given):
        if not limits.takes_urls:
            raise Refused("INVALID_IMAGE_FORMAT", f"{limits.name}: addresses are not taken")
        return b""
    data = given if isinstance(given, bytes) else _decoded(limits, given)
    if len(data) > limits.max_bytes:
        raise Refused("IMAGE_FILE_EXCEEDS_MAX_SIZE", f"{limits.name}: above {limits.max_bytes} bytes")
    header = read_header(io.BytesIO(data))
    if header.format not in limits.formats:
        raise Refused("INVALID_IMAGE_FORMAT", f"{limits.name}: {header.format} is not taken")
    if limits.max_pixels and (header.width or 0) * (header.height or 0) > limits.max_pixels:
        raise Refused("IMAGE_EXCEEDS_MAX_RESOLUTION", f"{limits.name}: above {limits.max_pixels} pixels")
    return data


def _decoded(limits: RoutePictures, given: Any) -> bytes:
    text = given if isinstance(given, str) else ""
    if limits.form == "data_url":
        found = _DATA_URL.match(text)
        if found is None:
            raise Refused("INVALID_IMAGE_FORMAT", f"{limits.name}: not a data URL of a picture")
        text = text[found.end() :]
    try:
        return pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused("INVALID_IMAGE_FORMAT", f"{limits.name}: illegal base64 data") from error


def _size_of(values: JSONObject, source: bytes | None) -> tuple[int, int]:
    wish = str(values.get("size") or values.get("resolution") or "")
    found = _SIZE.fullmatch(wish)
    if found:
        return int(found[1]), int(found[2])
    if wish in _SIDES:
        return _SIDES[wish], _SIDES[wish]
    header = read_header(io.BytesIO(source or b""))
    return min(_SIDE, header.width or _SIDE), min(_SIDE, header.height or _SIDE)


def _webhook(route: Route, document: JSONObject) -> str | None:
    if not route.webhook:
        return None
    *outer, last = route.webhook.split(".")
    found = section(document, *outer).get(last)
    return found if isinstance(found, str) else None


# --- Answers ------------------------------------------------------------------------------------------------


def answers_at_once(route: Route, number: int) -> bool:
    """Whether the n-th order of a route is answered with the results."""
    return route.answer == "at_once" or (route.answer == "either" and number % 2 == 0)


Paint = Callable[[int], bytes]
"""Gives the n-th result file of a task."""


def reply_at_once(
    route: Route,
    task: SimulatedTask,
    form: JSONObject,
    *,
    paint: Paint,
    urls: Sequence[str],
    unix_time: float,
) -> Reply:
    """Answer with the results, in the form of the route. Pictures are painted when the answer goes out."""
    wants_urls = form.get("response_format") == "url"

    def compose() -> bytes:
        texts = (
            [] if wants_urls else [pybase64.b64encode(paint(n)).decode() for n in range(task.order.images)]
        )
        return msgspec.json.encode(_ANSWERS[_shape(route)](task, texts, urls, int(unix_time)))

    if _shape(route) == "urls":
        return evolve(json_reply({"images": list(urls)}), delay=task.seconds)
    return Reply(compose=compose, delay=task.seconds)


def _shape(route: Route) -> str:
    if route.body == "gemini":
        return "gemini"
    if route.model_field:
        return "openai"
    return "file" if any(each.name == "image_file" for each in route.pictures) else "urls"


def _openai(task: SimulatedTask, texts: Sequence[str], urls: Sequence[str], unix_time: int) -> JSONObject:
    files = [{"b64_json": text} for text in texts] or [{"url": url} for url in urls]
    return {
        "created": unix_time,
        "data": [{**each, "revised_prompt": task.order.prompt} for each in files],
        "output_format": task.order.image_type,
        "size": None,
        "usage": {"total_tokens": 100 * task.order.images},
    }


def _gemini(task: SimulatedTask, texts: Sequence[str], _: Sequence[str], __: int) -> JSONObject:
    kind = f"image/{task.order.image_type}"
    parts = [{"inlineData": {"mimeType": kind, "data": text}} for text in texts]
    content = {"role": "model", "parts": [{"text": "Here it is."}, *parts]}
    return {"candidates": [{"content": content, "finishReason": "STOP"}], "usageMetadata": {}}


def _file(task: SimulatedTask, texts: Sequence[str], _: Sequence[str], __: int) -> JSONObject:
    return {"image_file": texts[0], "image_type": task.order.image_type}


_ANSWERS: Final[Mapping[str, Callable[[SimulatedTask, Sequence[str], Sequence[str], int], JSONObject]]] = {
    "openai": _openai,
    "gemini": _gemini,
    "file": _file,
}


def refusal_reply(path: str, refused: Refused) -> Reply:
    """Refuse in the form of the path: OpenAI's, Google's, or the service's own."""
    own = refused.reply()
    if path.startswith("/openai/"):
        kind = (
            "server_error" if refused.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        )
        error: JSONObject = {"message": refused.message, "type": kind, "param": None, "code": refused.reason}
    elif path.startswith("/gemini/"):
        error = {"code": refused.status, "message": refused.message, "status": refused.reason}
    else:
        return own
    return json_reply({"error": error}, status=refused.status, headers=own.headers)
