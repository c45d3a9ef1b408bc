"""Pictures of a world, which nobody paints: each tells for which path it was made."""

import zlib
from typing import Final

from novita_async.testing.wire import Reply

PNG: Final = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


_HEAD: Final = PNG + _chunk(b"IHDR", bytes.fromhex("00000001000000010800000000"))
_TAIL: Final = _chunk(b"IDAT", zlib.compress(b"\0\0")) + _chunk(b"IEND", b"")
_WORD: Final = b"path\0"


def picture(path: str) -> bytes:
    """The file behind the path of a result: a PNG of one pixel, and the path as a text in it."""
    return _HEAD + _chunk(b"tEXt", _WORD + path.encode()) + _TAIL


def path_in(data: bytes) -> str:
    """The path that a picture was made for. Empty: it is not whole."""
    _, _, rest = data.partition(_WORD)
    path = rest[: -len(_TAIL) - 4].decode(errors="replace")
    return path if picture(path) == data else ""


def content_of(reply: Reply, path: str) -> bytes:
    """The body of a reply; a picture is not painted."""
    return reply.body if reply.painting is None else picture(path)
