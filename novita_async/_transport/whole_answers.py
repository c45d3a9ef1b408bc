"""Whole answers that are followed by junk.

aiohttp's parser gives nothing of a piece of bytes in which something is wrong. Where a server, or a gateway,
sends junk behind a whole answer, and both come together, the answer is dropped with the junk: a question is
asked again, but a purchase would be paid, and its task unknown. `WholeAnswers` stands before the parser of a
connection for one purchase, and cuts off what cannot be read. Such a connection is not used again.

This relies on `ResponseHandler._parser`, with `feed_data` that gives messages, whether the protocol changes,
and the rest. Where aiohttp has no such thing, there is no help against junk, and all else is the same.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from aiohttp.client_proto import ResponseHandler

from novita_async._transport.connections import HEAD_LIMITS

if TYPE_CHECKING:
    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader

    Messages = list[tuple[RawResponseMessage, StreamReader]]


class WholeAnswers:
    """A parser that does not lose a whole answer because of what comes behind it."""

    __slots__ = ("_heard", "_parser", "_protocol")

    def __init__(self, protocol: Any, parser: Any) -> None:
        self._protocol, self._parser = protocol, parser
        self._heard: bytes | None = b""
        """Bytes since the last answer that was none yet. None: the head of the answer was given."""

    @classmethod
    def expect_on(cls, protocol: Any) -> None:
        """Expect the answer to a purchase on a connection, whose parser was made for it just now."""
        parser = getattr(protocol, "_parser", None)
        if hasattr(parser, "feed_data"):
            protocol._parser = cls(protocol, parser)  # noqa: SLF001 - see above

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> "tuple[Messages | tuple[()], bool, bytes]":
        """Parse what has come."""
        heard = self._heard
        try:
            parsed: tuple[Messages | tuple[()], bool, bytes] = self._parser.feed_data(data)
        except Exception:
            found = None if heard is None else self._before_the_junk(heard + data)
            if not found:
                raise
            self._heard = None
            self._protocol.force_close()
            return found, False, b""
        if heard is not None:
            messages = parsed[0]
            # The beginning of the answer may have come together with an interim one.
            if not messages or _is_interim(messages[-1][0]):
                self._heard = heard + data
            else:
                self._heard = None
                if self._protocol._parser is self:  # noqa: SLF001 - nothing can be lost any more
                    self._protocol._parser = self._parser  # noqa: SLF001
        return parsed

    def _before_the_junk(self, data: bytes) -> "Messages":
        """The answer that is whole before the first byte that cannot be read. Empty: there is none."""
        low, high = 0, len(data)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (low, middle - 1) if _parsed(data[:middle]) is None else (middle, high)
        messages = _parsed(data[:low]) or []
        final = next((each for each in messages if not _is_interim(each[0])), None)
        return [final] if final is not None and final[1].is_eof() else []


def _is_interim(message: "RawResponseMessage") -> bool:
    return 100 <= message.code < 200 and message.code != 101  # noqa: PLR2004 - another one follows


def _parsed(data: bytes) -> "Messages | None":
    """Read what a server has sent. None: something in it cannot be read."""
    handler = ResponseHandler(asyncio.get_running_loop())
    handler.set_response_params(read_until_eof=True, **HEAD_LIMITS)
    handler.data_received(data)
    if handler.exception() is not None:
        return None
    return [_first_in(handler) for _ in range(len(handler))]


def _first_in(handler: ResponseHandler) -> "tuple[RawResponseMessage, StreamReader]":
    """Take out a message that is there, so that there is nothing to wait for."""
    try:
        handler.read().send(None)
    except StopIteration as taken:
        found: tuple[RawResponseMessage, StreamReader] = taken.value
        return found
    raise AssertionError
