"""Identity of requests, and their text in a journal: the content, with pictures as their digests.

**Identity.** A request is known by its content: the fields that are sent, with each picture replaced by the
SHA-256 of its bytes. The user's own tag and metadata are left out, because they are not sent; so is the
address of its callback, because a new address asks for no other picture; so is what signs a presigned URL,
because that changes by the hour. Equal requests are told apart by an occurrence number, in the order in
which one run asks for them: of two that differ in their tags alone each is bought, and the tags go to the
purchases in the order of the input. Inserting, removing and reordering lines of the input therefore never
makes a bought request look like a new one.

**Secrets.** An order never holds a key, a picture's bytes or a presigned query. Parts that were left out of a
request cannot be made again from the order alone (`request_of` says so); the caller's own input still has it.

Nothing here waits or reads a clock. Digests are read by a function that the caller gives.
"""

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NoReturn, cast

from attrs import define, field

from novita_async._api.codec import HOLE, MARK, SCALARS, in_order, kept_parts, request_from_wire, sole_fields
from novita_async._purchase.machine import JournalEntry, Order
from novita_async.errors import Flaw, InvalidRequest
from novita_async.models import _rules as rules
from novita_async.models.images import DataURL, ImageSource
from novita_async.models.requests import DATA_URL, FORM, AnyTask, NovitaRequest

_PICTURE: Final = "$picture"
_WITHHELD: Final = "$withheld"
_RESERVED: Final = tuple(f'"{name}":'.encode() for name in (_PICTURE, _WITHHELD))
_LONG: Final = 200
"""Characters from which a text without spaces may be a picture in base64."""
_BASE64: Final = re.compile(r"(?:data:[^,]{0,100},)?[A-Za-z0-9+/_\r\n-]{100,}={0,2}")
_PRESIGNED: Final = re.compile(
    r"(https?://[^?]*)\?(?:.*&)?(?:x-(?:amz|goog)-signature|signature|sig)=.*", re.IGNORECASE
)


def order_of(
    request: NovitaRequest,
    *,
    endpoint: str,
    position: int,
    digest: Callable[[ImageSource], str],
    names_paths: bool = True,
) -> Order:
    """Describe a request for the journal.

    Args:
        request: The request.
        endpoint: Path that it is submitted to.
        position: Its place in the input, from 0.
        digest: Gives the SHA-256 of a picture, in hex. Files may be read, so call this off the event loop.
        names_paths: Whether to say where pictures lie on this machine; no part of the identity.

    Raises:
        InvalidRequest: the request cannot be written as JSON, or a picture cannot be read.
    """
    key, text = _described_plainly(request, digest, names_paths=names_paths) or _described(
        request, digest, names_paths=names_paths
    )
    return Order(
        key=key,
        position=position,
        kind=request.kind,
        endpoint=endpoint,
        images=request.image_num,
        request=text,
        tag=request.tag,
        metadata=rules.json_text(request.metadata) if request.metadata else None,
    )


def is_withheld(order: Order) -> bool:
    """Whether a part of the request was left out of its order, so that nobody else can make it again."""
    return f'"{_WITHHELD}":' in order.request


def _described(
    request: NovitaRequest, digest: Callable[[ImageSource], str], *, names_paths: bool
) -> tuple[str, str]:
    """Key and text of any request."""
    parts = kept_parts(request)
    texts = [part for part in parts if isinstance(part, bytes)]
    if any(name in text for text in texts for name in _RESERVED):
        raise InvalidRequest(
            faults=(Flaw("body", f"{_PICTURE} and {_WITHHELD} are names that a journal uses"),)
        )
    references = (
        json.dumps({_PICTURE: digest(part), **({"path": str(part.path)} if part.path else {})}).encode()
        for part in parts
        if not isinstance(part, bytes)
    )
    body = texts[0]
    for reference, text in zip(references, texts[1:], strict=True):
        body = body[:-1] + reference + text[1:]
    wire = _tidy(json.loads(body))
    return _key(request, wire), _text(wire if names_paths else _bare(wire))


def _described_plainly(
    request: NovitaRequest, digest: Callable[[ImageSource], str], *, names_paths: bool
) -> tuple[str, str] | None:
    """The same at a seventh of the cost. None: the request is none of those of which most batches are made.

    Those are flat, and hold no number that this encoder writes in another way, nor a text to be withheld.
    """
    fields = sole_fields(request)
    if fields is None:
        return None
    pictures: dict[str, ImageSource] = {}
    for name, value in fields.items():
        kind = value.__class__
        if kind is int or (kind is str and len(value) < _LONG and "?" not in value):
            continue  # as `_plain` says of most, and a call for each would cost a fifth of all
        if kind is ImageSource:
            pictures[name] = value
            fields[name] = HOLE
        else:
            fields[name] = plain = _plain(value) if kind in SCALARS else None
            if plain is None:
                return None
    try:
        content = text = in_order({"request": fields})
        for name in sorted(pictures):
            reference, with_path = _reference(pictures[name], digest)
            content = content.replace(MARK, reference, 1)
            text = text.replace(MARK, with_path, 1)
    except (ValueError, OverflowError):  # half of a surrogate pair in a path, a large number
        return None
    key = hashlib.sha256(b"[" + in_order(request.kind) + b"," + content + b"]").hexdigest()[:_KEY_LENGTH]
    return key, (text if names_paths else content).decode()


def _reference(picture: ImageSource, digest: Callable[[ImageSource], str]) -> tuple[bytes, bytes]:
    """A picture in JSON, without its path and with it. Raises `ValueError`: the path is to be withheld."""
    named = b'{"$picture":"' + digest(picture).encode() + b'"'
    if picture.path is None:
        return named + b"}", named + b"}"
    path = _plain(str(picture.path))
    if path is None:
        raise ValueError("to be withheld")
    return named + b"}", named + b',"path":' + in_order(path) + b"}"


def _plain(value: Any) -> Any:
    """A text, number or flag as it is kept. None: encoders differ in that, or a part of it is withheld."""
    kind = value.__class__
    if kind is str:
        return value if _discreet(value) is value else None
    if kind is not float:
        return value
    if value.is_integer():
        return int(value)
    return value if _LEAST_PLAIN <= abs(value) < _MOST_PLAIN else None


_LEAST_PLAIN: Final = 1e-4
_MOST_PLAIN: Final = 1e15
"""Numbers between these are written without an exponent, in which encoders differ."""
_KEY_LENGTH: Final = 32


def _tidy(value: Any) -> Any:
    """JSON in which equal numbers look equal, and what must not be kept is withheld."""
    if isinstance(value, dict):
        return {name: _tidy(item) for name, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_tidy(item) for item in cast("Iterable[Any]", value)]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return _discreet(value) if isinstance(value, str) else value


def _discreet(text: str) -> Any:
    if len(text) >= _LONG and _BASE64.fullmatch(text):
        return {_WITHHELD: hashlib.sha256(text.encode()).hexdigest()}
    if "?" in text and (presigned := _PRESIGNED.fullmatch(text)):
        return {_WITHHELD: presigned[1]}
    return text


def _key(request: NovitaRequest, wire: dict[str, Any]) -> str:
    """The identity: 128 bits of a hash over what is bought, and where."""
    address = request.kind if request.is_face else request.path or request.kind
    content = _text([address, _without_callback(_bare(wire))])
    return hashlib.sha256(content.encode()).hexdigest()[:_KEY_LENGTH]


def _bare(value: Any) -> Any:
    """References without paths: a picture is the same wherever it lies."""
    if isinstance(value, dict):
        named = cast("dict[str, Any]", value)
        if _PICTURE in named:
            return {_PICTURE: named[_PICTURE]}
        return {name: _bare(item) for name, item in named.items()}
    return [_bare(item) for item in cast("Iterable[Any]", value)] if isinstance(value, list) else value


def _without_callback(wire: dict[str, Any]) -> dict[str, Any]:
    """Without the address of a webhook. Its test mode stays, because with it nothing is made."""
    extra = wire.get("extra")
    if not isinstance(extra, dict) or "webhook" not in extra:
        return wire
    extra = dict(cast("dict[str, Any]", extra))
    webhook = extra.pop("webhook")
    if isinstance(webhook, dict) and "test_mode" in webhook:
        extra["webhook"] = webhook["test_mode"]
    return {name: item for name, item in {**wire, "extra": extra}.items() if item != {}}


def _text(value: Any) -> str:
    text = _encode(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # lone surrogates, which the name of a file can have
            return json.dumps(value, sort_keys=True)
    return text


_encode: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _refuse_withheld(what: str) -> NoReturn:
    message = f"a part of it is not kept in a journal ({what}); give the original input"
    raise InvalidRequest(faults=(Flaw("request", message),))


def request_of(
    order: Order | JournalEntry,
    picture: Callable[[str, Path | None], ImageSource],
    withheld: Callable[[str], Any] = _refuse_withheld,
) -> NovitaRequest:
    """Make the request of an order again.

    Args:
        order: The order, as a journal has it.
        picture: Gives the picture with this SHA-256, which was at this path (None: in memory).
        withheld: Gives a stand-in for what the journal was not allowed to keep, where that will do.

    Raises:
        InvalidRequest: it will not do.
    """
    wire = with_pictures(json.loads(order.request), picture, withheld)
    if order.kind == "task":
        is_form = FORM in wire
        body = wire[FORM] if is_form else wire
        return AnyTask(path=order.endpoint, body=body, image_num=order.images, is_form=is_form)
    return request_from_wire(wire, order.kind, allow_unknown=True)


PLAIN: Final = frozenset({str, int, float, bool, type(None)})
"""Types of parsed JSON that hold nothing else: most of what a request has."""


def with_pictures(
    value: Any,
    picture: Callable[[str, Path | None], Any],
    withheld: Callable[[str], Any] = _refuse_withheld,
    data_url: Callable[[Any], Any] = lambda picture: DataURL(image=picture),
) -> Any:
    """Put pictures, or what is to stand for them, into the text of an order's request; see `request_of`.

    Args:
        value: The text, parsed.
        picture: As for `request_of`, or what is to stand for it.
        withheld: As for `request_of`.
        data_url: Gives the data URL of such a picture, or what is to stand for that.
    """
    if isinstance(value, list):
        return [with_pictures(item, picture, withheld, data_url) for item in cast("Iterable[Any]", value)]
    if not isinstance(value, dict):
        return value
    named = cast("dict[str, Any]", value)
    if _PICTURE in named:
        return picture(named[_PICTURE], Path(named["path"]) if "path" in named else None)
    if _WITHHELD in named:
        return withheld(named[_WITHHELD])
    if DATA_URL in named:
        return data_url(with_pictures(named[DATA_URL], picture, withheld, data_url))
    return {
        name: item if item.__class__ in PLAIN else with_pictures(item, picture, withheld, data_url)
        for name, item in named.items()
    }


@define(eq=False, repr=False)
class DigestCache:
    """SHA-256 of pictures, read once each. Call this off the loop, in one thread at a time."""

    files: int = 4096
    """How many files are remembered, the latest."""
    pictures: int = 8
    """How many pictures in memory are remembered, which are kept alive by that."""
    _files: OrderedDict[object, str] = field(factory=OrderedDict[object, str], init=False)
    _pictures: OrderedDict[object, str] = field(factory=OrderedDict[object, str], init=False)

    def __call__(self, picture: ImageSource) -> str:
        if picture.path is None:
            return _remembered(self._pictures, self.pictures, picture, picture)
        identity = (picture.path, picture.size, picture.modified_ns)
        return _remembered(self._files, self.files, identity, picture)

    def known(self, picture: ImageSource) -> str:
        """The digest of a file that was read before; in any thread. Raises `LookupError`."""
        return self._files[picture.path, picture.size, picture.modified_ns]

    def __repr__(self) -> str:
        return f"<DigestCache of {len(self._files)} files and {len(self._pictures)} pictures>"


def _remembered(known: OrderedDict[object, str], most: int, identity: object, picture: ImageSource) -> str:
    digest = known.get(identity)
    if digest is not None:  # the hash of a path costs as much as all else here
        known.move_to_end(identity)
        return digest
    known[identity] = digest = picture.digest()
    while len(known) > most:
        known.popitem(last=False)
    return digest
