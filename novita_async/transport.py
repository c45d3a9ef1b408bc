"""Public names for a transport or a downloader of one's own: `NovitaClient(transport=..., downloader=...)`.

A transport carries requests to one base URL and says how far a failed one got, which decides whether it may
have bought something. The rules stand in `Transport.send`; `novita_async.testing.SimulatedTransport` is one
that needs no network.
"""

from novita_async._http import (
    AnswerPart,
    BodyPart,
    Delivery,
    DeliveryFailed,
    DetachableTransport,
    Detached,
    Download,
    Downloader,
    FormPart,
    HTTPRequest,
    HTTPResponse,
    LoopBound,
    NotAURLError,
    ReopenableTransport,
    Transport,
)

__all__ = [
    "AnswerPart",
    "BodyPart",
    "Delivery",
    "DeliveryFailed",
    "DetachableTransport",
    "Detached",
    "Download",
    "Downloader",
    "FormPart",
    "HTTPRequest",
    "HTTPResponse",
    "LoopBound",
    "NotAURLError",
    "ReopenableTransport",
    "Transport",
]
