"""Format, size and wholeness of a picture from its structure, without decoding a pixel.

The one reader of picture files: for pictures that go out, for result files that come in, for the simulator.

PNG: the IHDR chunk is always first; EXIF lies in an eXIf chunk before or after the pixels. JPEG: segments are
walked by their lengths; whatever stands between two of them is passed over, as decoders do. WebP: a RIFF
file whose first chunk is lossy (VP8), lossless (VP8L) or extended (VP8X), each with its own place for the
size; EXIF lies in a chunk behind the pixels.

Width and height are those of the picture as it is seen: the EXIF orientations 5 to 8 lay it on its side.
"""

import codecs
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final, Literal

from novita_async._util.values import frozen

TAKEN: Final = ("png", "jpeg", "webp")
"""Formats that the API takes."""
PICTURES: Final = frozenset({*TAKEN, "avif", "bmp", "gif", "heic", "ico", "jp2", "jxl", "psd", "svg", "tiff"})
"""Formats of pictures that are recognised."""
TEXTS: Final = frozenset({"base64", "git-lfs", "html", "json", "text"})
"""Contents that stand in the place of a picture: a page, a message, a pointer."""

_HEAD: Final = 512
_MAGIC: Final = (
    ("png", b"\x89PNG\r\n\x1a\n", b""),
    ("jpeg", b"\xff\xd8\xff", b""),
    ("webp", b"RIFF", b"WEBP"),
    ("gif", b"GIF8", b""),
    ("bmp", b"BM", b""),
    ("tiff", b"II*\0", b""),
    ("tiff", b"MM\0*", b""),
    ("tiff", b"II+\0", b""),
    ("tiff", b"MM\0+", b""),
    ("jxl", b"\xff\x0a", b""),
    ("jxl", b"\0\0\0\x0cJXL ", b""),
    ("jp2", b"\0\0\0\x0cjP  ", b""),
    ("psd", b"8BPS", b""),
    ("ico", b"\0\0\1\0", b""),
    ("pdf", b"%PDF-", b""),
    ("zip", b"PK\x03\x04", b""),
    ("gzip", b"\x1f\x8b\x08", b""),
    ("webm", b"\x1a\x45\xdf\xa3", b""),
)
"""Format, what the file begins with, and what follows at byte 8."""
_HEIC_BRANDS: Final = frozenset({
    b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1",
})  # fmt: skip
_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})
_TEXT_MAGIC: Final = (
    ("git-lfs", re.compile(r"version https://git-lfs", re.IGNORECASE)),
    ("base64", re.compile(r"data:image/|iVBORw0KGgo|/9j/|UklGR", re.IGNORECASE)),
    ("svg", re.compile(r"(<\?xml.*|<!--.*|<!DOCTYPE svg.*)?<svg[\s>/]", re.IGNORECASE | re.DOTALL)),
    ("html", re.compile(r"<(!DOCTYPE\s+html|html|head|body|title|script)\b", re.IGNORECASE)),
    ("json", re.compile(r"[{\[]")),
)
_BLANKS: Final = "\t\n\v\f\r\x1b"

_SOF: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_EOI: Final = 0xD9
_SOS: Final = 0xDA
_APP1: Final = 0xE1
_MARKER: Final = re.compile(rb"\xff+([^\x00\xff])")
_STEP: Final = 512
_MOST_SEGMENTS: Final = 1000
_MOST_CHUNKS: Final = 100_000

_EXIF_FLAG: Final = 0x08
_EXIF_PREFIX: Final = b"Exif\0\0"
_LONGEST_EXIF: Final = 1 << 16
_TAIL: Final = 1 << 14
"""Bytes that are looked through for EXIF behind the pixels: without a thumbnail, EXIF takes some hundreds."""
_ORIENTATION: Final = 0x0112
_LONG: Final = 4
UPRIGHT: Final = 1
"""The orientation of a picture that is not to be turned."""


@frozen
class Header:
    """Facts in the first bytes of a file."""

    format: str | None = None
    """`png`, `jpeg`, `webp` or another format's name, such as `heic` or `html`; None: not known."""
    width: int | None = None
    """Pixels of the picture as it is seen; None where the header is cut, odd, or of a format not taken."""
    height: int | None = None
    """Pixels of the picture as it is seen; None as for `width`."""
    orientation: int = UPRIGHT
    """EXIF's note of how the pixels are to be turned, 1 to 8; 1 is upright."""


def read_format(file: BinaryIO) -> str | None:
    """Read the format alone from a file that stands at its beginning, as `read_header` tells it."""
    return _format_of(file.read(_HEAD))


def read_header(file: BinaryIO) -> Header:
    """Read format and size from a file that stands at its beginning."""
    start = file.read(_HEAD)
    kind = _format_of(start)
    if kind == "png":
        return _png(file, start)
    if kind == "jpeg":
        return _jpeg(file)
    if kind == "webp":
        return _webp(file, start)
    return Header(kind)


def _format_of(start: bytes) -> str | None:
    for kind, prefix, tag in _MAGIC:
        if start.startswith(prefix) and start[8:].startswith(tag):
            return kind
    if start[4:8] == b"ftyp":
        brands = {start[at : at + 4] for at in range(8, min(len(start), int.from_bytes(start[:4])), 4)}
        return "avif" if brands & _AVIF_BRANDS else "heic" if brands & _HEIC_BRANDS else "mp4"
    return _text_of(start)


def _text_of(start: bytes) -> str | None:
    """The kind of text that a file begins with. None: bytes."""
    wide = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")().decode(start)
    except ValueError:
        return None
    if not text or not all(character.isprintable() or character in _BLANKS for character in text):
        return None
    begin = text.lstrip()
    return next((kind for kind, magic in _TEXT_MAGIC if magic.match(begin)), "text")


def _sized(kind: str, width: int, height: int, orientation: int = UPRIGHT) -> Header:
    if not width or not height:
        return Header(kind)
    if orientation > 4:
        width, height = height, width
    return Header(kind, width, height, orientation)


# --- PNG ----------------------------------------------------------------------------------------------------


def _png(file: BinaryIO, start: bytes) -> Header:
    if len(start) < 24 or start[12:16] != b"IHDR":
        return Header("png")
    width, height = int.from_bytes(start[16:20]), int.from_bytes(start[20:24])
    return _sized("png", width, height, _png_orientation(file))


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Name and length of each chunk, while the file stands at its data."""
    at = 8
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        length = int.from_bytes(head[:4])
        yield head[4:], length
        at += 12 + length


def _png_orientation(file: BinaryIO) -> int:
    for name, length in _png_chunks(file):
        if name == b"eXIf":
            return _orientation(file.read(min(length, _LONGEST_EXIF)))
        if name in (b"IDAT", b"IEND"):
            break
    # The chunk may be near the end, which a walk through the pixels would reach too slowly.
    file.seek(max(0, file.seek(0, 2) - _TAIL))
    tail = file.read(_TAIL)
    at = tail.rfind(b"eXIf")
    if at < 4:
        return UPRIGHT
    end = at + 4 + int.from_bytes(tail[at - 4 : at])
    is_chunk = zlib.crc32(tail[at:end]) == int.from_bytes(tail[end : end + 4])
    return _orientation(tail[at + 4 : end]) if is_chunk else UPRIGHT


# --- JPEG ---------------------------------------------------------------------------------------------------


def _jpeg(file: BinaryIO) -> Header:
    width = height = orientation = 0
    for marker, length in _jpeg_segments(file):
        if marker == _APP1 and not orientation:
            block = file.read(length)
            orientation = _orientation(block) if block.startswith(_EXIF_PREFIX) else 0
        elif marker in _SOF and not width:
            frame = file.read(5)
            if len(frame) < 5:
                break
            height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    return _sized("jpeg", width, height, orientation or UPRIGHT)


def _jpeg_segments(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Marker and length of each segment up to the pixels, while the file stands at its data."""
    file.seek(2)
    for _ in range(_MOST_SEGMENTS):
        marker = _next_marker(file)
        if marker in _BARE:
            continue
        length = int.from_bytes(file.read(2)) - 2
        if marker in (None, _EOI) or length < 0:
            return
        end = file.tell() + length
        yield marker, length
        if marker == _SOS:
            return
        file.seek(end)


def _next_marker(file: BinaryIO) -> int | None:
    """Go behind the next marker, over fill bytes and whatever else stands before it."""
    pair = file.read(2)
    if len(pair) == 2 and pair[0] == 0xFF and 0 < pair[1] < 0xFF:
        return pair[1]
    file.seek(-len(pair), 1)
    while piece := file.read(_STEP):
        found = _MARKER.search(piece)
        if found:
            file.seek(found.end() - len(piece), 1)
            return piece[found.end() - 1]
        if piece.endswith(b"\xff") and len(piece) > 1:
            file.seek(-1, 1)  # the marker's other byte is in the next piece
    return None


# --- WebP ---------------------------------------------------------------------------------------------------


def _webp(file: BinaryIO, start: bytes) -> Header:
    chunk = start[12:16]
    if chunk == b"VP8X" and len(start) >= 30:
        orientation = _webp_orientation(file) if start[20] & _EXIF_FLAG else UPRIGHT
        return _sized("webp", _little(start[24:27]) + 1, _little(start[27:30]) + 1, orientation)
    if chunk == b"VP8 " and start[23:26] == b"\x9d\x01\x2a" and len(start) >= 30:
        return _sized("webp", _little(start[26:28]) & 0x3FFF, _little(start[28:30]) & 0x3FFF)
    if chunk == b"VP8L" and start[20:21] == b"\x2f" and len(start) >= 25:
        bits = _little(start[21:25])
        return _sized("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    return Header("webp")


def _webp_orientation(file: BinaryIO) -> int:
    at = 12
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        length = _little(head[4:])
        if head[:4] == b"EXIF":
            return _orientation(file.read(min(length, _LONGEST_EXIF)))
        if len(head) < 8:
            break
        at += 8 + length + length % 2
    return UPRIGHT


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


# --- EXIF ---------------------------------------------------------------------------------------------------


def _orientation(block: bytes) -> int:
    """The orientation in an EXIF block, which is the first directory of a TIFF file."""
    tiff = block.removeprefix(_EXIF_PREFIX)
    if tiff[:2] not in (b"II", b"MM"):
        return UPRIGHT
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"

    def number(at: int, length: int) -> int:
        return int.from_bytes(tiff[at : at + length], order)

    first = number(4, 4) + 2
    for entry in range(first, first + 12 * number(first - 2, 2), 12):
        if number(entry, 2) == _ORIENTATION:
            found = number(entry + 8, 4 if number(entry + 2, 2) == _LONG else 2)
            return found if 1 <= found <= 8 else UPRIGHT
    return UPRIGHT


# --- Wholeness ----------------------------------------------------------------------------------------------


def is_whole(file: BinaryIO, kind: str | None) -> bool:
    """Whether a picture is there to its end, as far as its structure tells. Bytes that follow are no fault.

    PNG ends with an IEND chunk, JPEG with an end-of-image marker (FF D9); RIFF, and so WebP, states a length.
    Other formats are taken for whole.
    """
    if kind == "png":
        return any(name == b"IEND" for name, _ in _png_chunks(file))
    if kind == "jpeg":
        last = b""
        if any(marker == _SOS for marker, _ in _jpeg_segments(file)):
            while piece := file.read(_LONGEST_EXIF):
                if b"\xff\xd9" in last + piece:
                    return True
                last = piece[-1:]
        return False
    if kind == "webp":
        file.seek(4)
        stated = _little(file.read(4))
        return file.seek(0, 2) >= stated + 8 - stated % 2
    return True
