"""The wire as values: what is sent, what comes back, and how far a failed exchange got."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, Protocol, runtime_checkable

from attrs import field

from novita_async._util.values import frozen
from novita_async.models.accounts import ApiKey
from novita_async.models.images import ImageSource

MIB: Final = 1024 * 1024

BodyPart = bytes | ImageSource
"""Ready bytes, or an image: base64-encoded in place while JSON goes out, as it is in a form."""

BOUNDARY_LENGTH: Final = 32
"""Characters of the boundary between the fields of a form: known before the boundary is, as lengths need."""
PART_MARK: Final = "novita-part:"
"""Beginning of the string that stands in an answer's body for a picture; the number of its part follows."""


@frozen(kw_only=True)
class FormPart:
    """A field of a multipart form.

    Args:
        name: Name of the field, such as `image[]`.
        content: Text of the field, or a picture, which goes out as it is: nothing is base64-encoded in a
            form.
        filename: Name of the file. None: a plain field.
        content_type: Media type of the content, such as `image/png`. None: not said.
    """

    name: str
    """Name of the field, such as `image[]`."""
    content: bytes | ImageSource = field(
        repr=lambda content: f"<{len(content)} bytes>" if isinstance(content, bytes) else repr(content)
    )
    """Text of the field, or a picture, which goes out as it is: nothing is base64-encoded in a form."""
    filename: str | None = None
    """Name of the file. None: a plain field."""
    content_type: str | None = None
    """Media type of the content, such as `image/png`. None: not said."""

    @property
    def length(self) -> int:
        """Length of the content in bytes."""
        return self.content.size if isinstance(self.content, ImageSource) else len(self.content)

    @property
    def head(self) -> bytes:
        """The lines before the content, as browsers write them, without the boundary."""
        words = f'Content-Disposition: form-data; name="{_quoted(self.name)}"'
        words += "" if self.filename is None else f'; filename="{_quoted(self.filename)}"'
        words += "" if self.content_type is None else f"\r\nContent-Type: {_quoted(self.content_type)}"
        return f"{words}\r\n\r\n".encode()


def form(parts: Iterable[FormPart], boundary: str) -> Iterator[BodyPart]:
    """Make a form's body: ready bytes, and pictures that go out as they are."""
    for part in parts:
        yield f"--{boundary}\r\n".encode() + part.head
        yield part.content
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


_QUOTED: Final = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})


def _quoted(name: str) -> str:
    """Escape a name in the head of a form's field, as the HTML standard says."""
    return name.translate(_QUOTED)


@frozen(kw_only=True)
class HTTPRequest:
    """A request of the API, before any account or host is chosen for it.

    Args:
        method: GETs may be repeated freely. A POST is a purchase.
        path: Absolute path below the base URL, such as `/v3/async/img2img`.
        query: Decoded names and values; the transport encodes them.
        body: A recipe of JSON text, not the text: images stay where they are until they are sent.
        parts: Fields of a multipart form, instead of `body`. The transport makes the boundary.
        timeout: Deadline, as a span: seconds in which the whole answer must be in, from the start of a GET
            and from the hand-over of a POST. Before its hand-over a POST must get on within as many: each
            piece of a body restarts the clock, for a large upload takes as long as it takes. An answer that
            holds pictures must begin in that time; then each piece restarts the clock, for what comes is
            paid. A span and not a moment, because later attempts send the same value again. None: as long as
            the transport sees fit.
        answer: Whether the answer may hold pictures. Their base64 is then decoded into files as it comes
            (`HTTPResponse.parts`); any other answer is held in memory, and refused above a few MiB.
        folder: Folder for the pictures of the answer, which is made where it is missing; the files are the
            caller's. None: a temporary one of the transport's, removed with all its files when the transport
            closes.
    """

    method: Literal["GET", "POST"]
    """GETs may be repeated freely. A POST is a purchase."""
    path: str
    """Absolute path below the base URL, such as `/v3/async/img2img`."""
    query: tuple[tuple[str, str], ...] = ()
    """Decoded names and values; the transport encodes them."""
    body: tuple[BodyPart, ...] | None = field(
        default=None, repr=lambda parts: "None" if parts is None else f"<{len(parts)} parts>"
    )
    """A recipe of JSON text, not the text: images stay where they are until they are sent."""
    parts: tuple[FormPart, ...] | None = field(
        default=None, repr=lambda parts: "None" if parts is None else f"<{len(parts)} parts>"
    )
    """Fields of a multipart form, instead of `body`. The transport makes the boundary."""
    timeout: float | None = None
    """Deadline, as a span: seconds in which the whole answer must be in, from the start of a GET and from the
    hand-over of a POST. Before its hand-over a POST must get on within as many: each piece of a body restarts
    the clock, for a large upload takes as long as it takes. An answer that holds pictures must begin in that
    time; then each piece restarts the clock, for what comes is paid. A span and not a moment, because later
    attempts send the same value again. None: as long as the transport sees fit."""
    answer: Literal["small", "pictures"] = "small"
    """Whether the answer may hold pictures. Their base64 is then decoded into files as it comes
    (`HTTPResponse.parts`); any other answer is held in memory, and refused above a few MiB."""
    folder: Path | None = None
    """Folder for the pictures of the answer, which is made where it is missing; the files are the caller's.
    None: a temporary one of the transport's, removed with all its files when the transport closes."""

    @property
    def content_length(self) -> int:
        """Exact length of the body in bytes, known before the first byte is made."""
        if self.parts is not None:
            marks = (len(self.parts) + 1) * (BOUNDARY_LENGTH + len(b"--\r\n\r\n"))
            return marks + sum([len(part.head) + part.length for part in self.parts])
        return sum(
            [part.base64_length if isinstance(part, ImageSource) else len(part) for part in self.body or ()]
        )


@frozen(kw_only=True)
class AnswerPart:
    """A picture that came as base64 within an answer, decoded: in a file, or in memory where it is small.

    Args:
        path: A finished file, which ends in `.part` until it gets its name. None: in memory, or gone.
        data: The bytes, where they are in memory.
        size: Length of the decoded bytes.
        kind: Kind of the file, from its first bytes: `png`, `jpeg`, `webp` and so on. None: not recognised.
        mark: String that stands in the body where the part was, drawn for the answer, so that no text in it
            is taken for that. Empty: `novita-part:N`, N its place among all.
        is_whole: False: something that is no base64 stood in it, and the picture ends at that place.
        lost: Why it could not be kept although it came whole, such as a full disk. None: kept.
    """

    path: Path | None = None
    """A finished file, which ends in `.part` until it gets its name. None: in memory, or gone."""
    data: bytes | None = field(
        default=None, repr=lambda data: "None" if data is None else f"<{len(data)} bytes>"
    )
    """The bytes, where they are in memory."""
    size: int
    """Length of the decoded bytes."""
    kind: str | None = None
    """Kind of the file, from its first bytes: `png`, `jpeg`, `webp` and so on. None: not recognised."""
    mark: str = ""
    """String that stands in the body where the part was, drawn for the answer, so that no text in it is taken
    for that. Empty: `novita-part:N`, N its place among all."""
    is_whole: bool = True
    """False: something that is no base64 stood in it, and the picture ends at that place."""
    lost: str | None = None
    """Why it could not be kept although it came whole, such as a full disk. None: kept."""


@frozen(kw_only=True)
class HTTPResponse:
    """A whole answer, or one that broke off after a whole picture.

    Args:
        status: HTTP status code.
        headers: Names in lower case.
        body: The whole body, decompressed.
        early: Whether it came while the request was still going out, which then was not sent whole. An early
            refusal says why; an early success is the answer to something else.
        parts: Pictures of an answer that may hold some (`HTTPRequest.answer`). In the body a string, the
            part's `mark`, stands where it was, instead of its base64 or its data URL. Only strings above 1
            KiB that are base64 throughout are taken out; a part need not be a picture: its `kind` says.
        cut: Why the answer broke off, in words that hold no secret. Then at least one part came whole, and
            the body is the JSON of all that came whole, closed where it broke off. None: the answer is whole.
    """

    status: int
    """HTTP status code."""
    headers: Mapping[str, str] = field(factory=dict[str, str])
    """Names in lower case."""
    body: bytes = field(default=b"", repr=lambda body: f"<{len(body)} bytes>")
    """The whole body, decompressed."""
    early: bool = False
    """Whether it came while the request was still going out, which then was not sent whole. An early refusal
    says why; an early success is the answer to something else."""
    parts: tuple[AnswerPart, ...] = ()
    """Pictures of an answer that may hold some (`HTTPRequest.answer`). In the body a string, the part's
    `mark`, stands where it was, instead of its base64 or its data URL. Only strings above 1 KiB that are
    base64 throughout are taken out; a part need not be a picture: its `kind` says."""
    cut: str | None = None
    """Why the answer broke off, in words that hold no secret. Then at least one part came whole, and the body
    is the JSON of all that came whole, closed where it broke off. None: the answer is whole."""


class Delivery(Enum):
    """Progress of an exchange, which decides whether anything can have been bought."""

    NOT_SENT = "not sent"
    """The last byte of the body never went to the socket: there was no request."""
    ANSWERED = "answered"
    """A status line came back."""
    UNKNOWN = "unknown"
    """Sent whole, no answer: perhaps it was bought."""


class DeliveryFailed(Exception):
    """An exchange that ended without a whole answer. The buyer and the asker translate it for users."""

    def __init__(
        self, delivery: Delivery, cause: str, *, status: int | None = None, passes: bool = True
    ) -> None:
        super().__init__(f"{delivery.value}: {cause}")
        self.delivery = delivery
        self.cause = cause
        """In words that hold no secret."""
        self.status = status
        """The status where the status line was read but the body was cut."""
        self.passes = passes
        """Whether waiting can help, as in an outage: refused, reset, timed out, a name no longer found.
        False: a certificate, a scheme, a host that was never found."""


class NotAURLError(DeliveryFailed):
    """The address of a file is no http or https URL: no waiting makes it one."""

    def __init__(self, cause: str = "not an http or https URL") -> None:
        super().__init__(Delivery.NOT_SENT, cause, passes=False)


class Detached(Exception):
    """An exchange that goes on without the task that began it, which is being cancelled."""

    def __init__(
        self, cancellation: BaseException, rest: Callable[[], Coroutine[Any, Any, HTTPResponse]]
    ) -> None:
        super().__init__("cancelled after the hand-over")
        self.cancellation = cancellation
        """The cancellation that goes on in the task that was cancelled."""
        self.rest = rest
        """Gives the answer, or raises as `Transport.send` does. To be run in another task, at once."""


class Transport(Protocol):
    """Carrier of requests to one base URL."""

    async def send(
        self,
        request: HTTPRequest,
        api_key: ApiKey,
        /,
        *,
        on_handover: Callable[[], None] | None = None,
    ) -> HTTPResponse:
        """Exchange one request. No redirect is followed and no POST is repeated.

        A transport keeps the deadline of the request (`HTTPRequest.timeout`): nobody else watches the clock.
        Too late is `NOT_SENT` before the hand-over of a POST, and `UNKNOWN` otherwise. An answer to something
        else, on a connection that was used before, is never handed on.

        `on_handover` is called once, synchronously, right before the last write of a POST's body: from then
        on it may have been bought.

        Raises:
            DeliveryFailed: no whole answer; its `delivery` says what that means.
        """
        ...

    async def aclose(self) -> None:
        """Send nothing more, and close what this transport opened itself.

        A purchase that was handed over may still get its answer for some seconds.
        """
        ...


@runtime_checkable
class DetachableTransport(Protocol):
    """A transport whose exchanges can outlive the task that began them.

    Where nobody is cancelled this saves the task of its own that a purchase must have otherwise.
    """

    def detachable(
        self, request: HTTPRequest, api_key: ApiKey, /, *, on_handover: Callable[[], None]
    ) -> Callable[[], Coroutine[Any, Any, HTTPResponse]] | None:
        """Give a function that exchanges one POST, as `Transport.send` does. None: `send` is to be used.

        The function raises `Detached` where it is cancelled after the hand-over: the connection stays open
        and the answer may still come.
        """
        ...


@runtime_checkable
class LoopBound(Protocol):
    """A transport or a downloader that can move from one event loop to the next."""

    def leave_loop(self) -> None:
        """Forget what belongs to the loop before, which has ended or stands still."""
        ...


@runtime_checkable
class ReopenableTransport(Protocol):
    """A transport that takes requests again, once it was closed."""

    def reopen(self) -> None:
        """Take requests again."""
        ...


class Download(Protocol):
    """A result file on its way."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces. Raises `DeliveryFailed` when it is cut."""
        ...


class Downloader(Protocol):
    """Fetches result URLs: never with a key, never with a cookie."""

    def open(self, url: str, /) -> AbstractAsyncContextManager[Download]:
        """Ask for one file. Raises `DeliveryFailed` when no status line came, `NotAURLError` if none can."""
        ...

    async def aclose(self) -> None: ...
