"""The service's side of HTTP, as values: an exchange comes in, a reply goes out."""

from collections.abc import Callable, Mapping
from typing import Any, Final, cast
from urllib.parse import parse_qsl

import msgspec
from attrs import field

from novita_async._util.values import frozen
from novita_async.testing.painting import Painting
from novita_async.testing.pictures import render

JSONObject = dict[str, Any]
"""A decoded JSON object, whatever is in it."""

JSON_TYPE: Final = "application/json"


def _size(data: bytes) -> str:
    return f"<{len(data)} bytes>"


@frozen(kw_only=True)
class Exchange:
    """A whole request, as it reached the service.

    Args:
        method: In capitals. HEAD is answered like GET.
        path: Decoded, beginning with a slash.
        query: Decoded; of a repeated name the last value.
        headers: Names in lower case.
        body: The whole body, not compressed.
        origin: Scheme, host and port that the client used; result URLs begin with it.
    """

    method: str
    """In capitals. HEAD is answered like GET."""
    path: str
    """Decoded, beginning with a slash."""
    query: Mapping[str, str] = field(factory=dict[str, str])
    """Decoded; of a repeated name the last value."""
    headers: Mapping[str, str] = field(factory=dict[str, str], repr=False)
    """Names in lower case."""
    body: bytes = field(default=b"", repr=_size)
    """The whole body, not compressed."""
    origin: str = "https://api.simulator.invalid"
    """Scheme, host and port that the client used; result URLs begin with it."""


@frozen(kw_only=True)
class Reply:
    """A whole answer of the service.

    Args:
        status: HTTP status.
        body: The body, unless it is a picture.
        content_type: Media type of the body.
        headers: Further headers, names in lower case.
        painting: The body where it is a picture: a recipe, because painting takes a while and is not always
            needed.
        compose: Makes the body where that holds pictures.
        delay: Seconds of work before the answer begins.
    """

    status: int = 200
    """HTTP status."""
    body: bytes = field(default=b"", repr=_size)
    """The body, unless it is a picture."""
    content_type: str = JSON_TYPE
    """Media type of the body."""
    headers: Mapping[str, str] = field(factory=dict[str, str])
    """Further headers, names in lower case."""
    painting: Painting | None = None
    """The body where it is a picture: a recipe, because painting takes a while and is not always needed."""
    compose: Callable[[], bytes] | None = field(default=None, repr=False)
    """Makes the body where that holds pictures."""
    delay: float = 0.0
    """Seconds of work before the answer begins."""

    def content(self) -> bytes:
        """The body, painted now where it has to be."""
        if self.compose is not None:
            return self.compose()
        return self.body if self.painting is None else render(self.painting)

    def all_headers(self) -> dict[str, str]:
        return {"content-type": self.content_type, **self.headers}


REASONS: Final[Mapping[str, int]] = {
    "INVALID_REQUEST_BODY": 400,
    "VALIDATOR": 400,
    "IMAGE_FILE_EXCEEDS_MAX_SIZE": 400,
    "INVALID_IMAGE_FORMAT": 400,
    "IMAGE_EXCEEDS_MAX_RESOLUTION": 400,
    "INVALID_CUSTOM_OUTPUT_PATH": 400,
    "ILLEGAL_PROMPT": 400,
    "MISSING_API_KEY": 400,
    "INVALID_API_KEY": 403,
    "NOT_ENOUGH_BALANCE": 403,
    "API_NOT_ALLOWED": 403,
    "API_NOT_FOUND": 404,
    "TASK_NOT_FOUND": 404,
    "RATE_LIMIT_EXCEEDED": 429,
    "UNKNOWN": 500,
    "TASK_FAILED": 500,
    "SERVICE_NOT_AVAILABLE": 503,
}
"""The HTTP status of each reason that the simulator gives."""


class Refused(Exception):
    """The service says no."""

    def __init__(self, reason: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        return REASONS[self.reason]

    def reply(self) -> Reply:
        wait = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return error_reply(self.status, self.reason, self.message, headers=wait)


def json_reply(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Answer with JSON."""
    return Reply(status=status, body=msgspec.json.encode(value), headers=headers or {})


def error_reply(status: int, reason: str, message: str, *, headers: Mapping[str, str] | None = None) -> Reply:
    """Answer with the documented error body."""
    body: JSONObject = {"code": status, "reason": reason, "message": message, "metadata": {}}
    return json_reply(body, status=status, headers=headers)


def text_reply(status: int, text: str) -> Reply:
    """Answer with plain text, as proxies and routers do."""
    return Reply(status=status, body=text.encode(), content_type="text/plain; charset=utf-8")


def xml_error(status: int, code: str, message: str) -> Reply:
    """Answer as S3 does when it refuses."""
    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{error}'
    return Reply(status=status, body=text.encode(), content_type="application/xml")


def decode_object(body: bytes) -> JSONObject:
    """Read a request body.

    Raises:
        Refused: it is not a JSON object.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise Refused("INVALID_REQUEST_BODY", f"invalid request body: {exc}") from exc
    if not isinstance(value, dict):
        raise Refused("INVALID_REQUEST_BODY", "invalid request body: not an object")
    return cast("JSONObject", value)


def decode_query(text: str) -> dict[str, str]:
    """Read a query string; odd pieces are passed over."""
    return dict(parse_qsl(text, keep_blank_values=True))
