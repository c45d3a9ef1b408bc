"""Format and size of a picture from its first bytes, without decoding it.

PNG: the IHDR chunk is always first. JPEG: segments are walked, by their lengths, to the first start-of-frame
(SOF) marker; EXIF or colour profiles before it may be long and are passed over by seeking. WebP: a RIFF file
whose first chunk is lossy (VP8), lossless (VP8L) or extended (VP8X), each with its own place for the size.
"""

from typing import BinaryIO, Final

from attrs import frozen

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"
_SOF: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_MOST_SEGMENTS: Final = 1000


@frozen
class Header:
    """What the first bytes of a picture tell."""

    format: str | None = None
    """`png`, `jpeg` or `webp`; None where it is not recognised."""
    width: int | None = None
    """Pixels; None where the header is cut or odd."""
    height: int | None = None
    """Pixels; None where the header is cut or odd."""


def read_header(file: BinaryIO) -> Header:
    """Read format and size from a file that stands at its beginning."""
    start = file.read(32)
    if start.startswith(_PNG):
        return _png(start)
    if start.startswith(_JPEG):
        file.seek(2)
        return _jpeg(file)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _webp(start)
    return Header()


def _sized(kind: str, width: int, height: int) -> Header:
    return Header(kind, width, height) if width and height else Header(kind)


def _png(start: bytes) -> Header:
    if len(start) < 24 or start[12:16] != b"IHDR":
        return Header("png")
    return _sized("png", int.from_bytes(start[16:20]), int.from_bytes(start[20:24]))


def _jpeg(file: BinaryIO) -> Header:
    for _ in range(_MOST_SEGMENTS):
        marker = _next_marker(file)
        if marker in _BARE:
            continue
        length = int.from_bytes(file.read(2))
        if marker is None or length < 2:
            break
        if marker in _SOF:
            frame = file.read(5)
            if len(frame) < 5:
                break
            return _sized("jpeg", int.from_bytes(frame[3:5]), int.from_bytes(frame[1:3]))
        file.seek(length - 2, 1)
    return Header("jpeg")


def _next_marker(file: BinaryIO) -> int | None:
    if file.read(1) != b"\xff":
        return None
    byte = file.read(1)
    while byte == b"\xff":  # any number of fill bytes may stand before a marker
        byte = file.read(1)
    return byte[0] if byte else None


def _webp(start: bytes) -> Header:
    chunk = start[12:16]
    if chunk == b"VP8X" and len(start) >= 30:
        return _sized("webp", _little(start[24:27]) + 1, _little(start[27:30]) + 1)
    if chunk == b"VP8 " and start[23:26] == b"\x9d\x01\x2a" and len(start) >= 30:
        return _sized("webp", _little(start[26:28]) & 0x3FFF, _little(start[28:30]) & 0x3FFF)
    if chunk == b"VP8L" and start[20:21] == b"\x2f" and len(start) >= 25:
        bits = _little(start[21:25])
        return _sized("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    return Header("webp")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
