"""The wire as values: what is sent, what comes back, and how far a failed exchange got."""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Any, Final, Literal, Protocol, runtime_checkable

from attrs import field, frozen

from novita_async.models.accounts import ApiKey
from novita_async.models.images import ImageSource

MIB: Final = 1024 * 1024

BodyPart = bytes | ImageSource
"""Ready JSON bytes, or an image that is base64-encoded in place while the body goes out."""


@frozen(kw_only=True)
class HTTPRequest:
    """A request of the API, before any account or host is chosen for it."""

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
    timeout: float | None = None
    """Deadline, as a span: seconds in which the whole answer must be in, from the start of a GET and from the
    hand-over of a POST. Before its hand-over a POST must get on within as many: each piece of a body restarts
    the clock, for a large upload takes as long as it takes. A span and not a moment, because later attempts
    send the same value again. None: as long as the transport sees fit."""

    @property
    def content_length(self) -> int:
        """Exact length of the body in bytes, known before the first byte is made."""
        return sum(
            [part.base64_length if isinstance(part, ImageSource) else len(part) for part in self.body or ()]
        )


@frozen(kw_only=True)
class HTTPResponse:
    """A whole answer."""

    status: int
    """HTTP status code."""
    headers: Mapping[str, str] = field(factory=dict[str, str])
    """Names in lower case."""
    body: bytes = field(default=b"", repr=lambda body: f"<{len(body)} bytes>")
    """The whole body, decompressed."""
    early: bool = False
    """Whether it came while the request was still going out, which then was not sent whole. An early refusal
    says why; an early success is the answer to something else."""


class Delivery(Enum):
    """How far an exchange got, which decides whether it can have bought anything."""

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
