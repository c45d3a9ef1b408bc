"""Formats and sizes of pictures from their first bytes, as the service sees them."""

import struct
from collections.abc import Callable, Mapping
from typing import Final

from attrs import frozen


@frozen(kw_only=True)
class Sniffed:
    """What the header of a picture says."""

    kind: str
    """`png`, `jpeg`, `webp`, `gif` or `bmp`."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""


_MARKER: Final = 0xFF
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE: Final = frozenset({0x01, *range(0xD0, 0xDA)})


def _png(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _gif(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)


def _jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    while data[at] == _MARKER:
        marker = data[at + 1]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += (
            1
            if marker == _MARKER
            else 2
            if marker in _JPEG_BARE
            else 2 + struct.unpack_from(">H", data, at + 2)[0]
        )
    raise ValueError("no frame header")


def _webp(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        return 1 + low_width + (high_width << 16), 1 + low_height + (high_height << 16)
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


_MAGIC: Final = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"BM": "bmp",
}
_READERS: Final[Mapping[str, Callable[[bytes], tuple[int, int]]]] = {
    "png": _png,
    "jpeg": _jpeg,
    "gif": _gif,
    "bmp": _bmp,
    "webp": _webp,
}


def _kind(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)


def sniff(data: bytes) -> Sniffed | None:
    """Read the header; None where it is no picture."""
    kind = _kind(data)
    if kind is None:
        return None
    try:
        width, height = _READERS[kind](data)
    except (struct.error, IndexError, ValueError):
        return None
    return Sniffed(kind=kind, width=width, height=height) if width and height else None
