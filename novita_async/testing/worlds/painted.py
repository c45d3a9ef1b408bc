"""Pictures of a world, which nobody paints: each tells for which path it was made."""

import zlib
from typing import Final

from novita_async.testing.routed import VIDEO
from novita_async.testing.wire import Reply

PNG: Final = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


_HEAD: Final = PNG + _chunk(b"IHDR", bytes.fromhex("00000001000000010800000000"))
_ROOM: Final = _chunk(b"tEXt", b"room\0" + b"x" * 1024)
_TAIL: Final = _chunk(b"IDAT", zlib.compress(b"\0\0")) + _chunk(b"IEND", b"")
_WORD: Final = b"path\0"


def picture(path: str) -> bytes:
    """The file behind the path of a result: a PNG of one pixel, and the path as a text in it."""
    return _HEAD + _chunk(b"tEXt", _WORD + path.encode()) + _TAIL


def large_picture(path: str) -> bytes:
    """A picture whose base64 is so long that it is taken out of an answer."""
    return _HEAD + _ROOM + _chunk(b"tEXt", _WORD + path.encode()) + _TAIL


def film(path: str) -> bytes:
    """The video behind the path of a result: what players take for an MP4, and the path."""
    return VIDEO + _WORD + path.encode() + bytes(4) + _TAIL


def path_in(data: bytes) -> str:
    """The path that a picture was made for. Empty: it is not whole."""
    _, _, rest = data.partition(_WORD)
    path = rest[: -len(_TAIL) - 4].decode(errors="replace")
    return path if data in (picture(path), large_picture(path), film(path)) else ""


def content_of(reply: Reply, path: str) -> bytes:
    """The body of a reply; neither a picture nor a video is made."""
    if reply.content_type == "video/mp4":
        return film(path)
    return reply.content() if reply.painting is None else picture(path)
