"""Headers of picture files, odd ones too: format, size as it is seen, and whether the file is whole."""

import io
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from novita_async.models import _headers
from novita_async.models._headers import PICTURES, TEXTS, Header, is_whole, read_header
from tests.helpers.payloads import picture

DATA = Path(__file__).parents[1] / "data" / "pictures"
SIZES = st.tuples(st.integers(1, 400), st.integers(1, 400))
ENCODERS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


def header(data: bytes) -> Header:
    return read_header(io.BytesIO(data))


def whole(data: bytes) -> bool:
    return is_whole(io.BytesIO(data), header(data).format)


def exif(orientation: int, comment: int = 0) -> bytes:
    """An EXIF block with an orientation, and a comment that makes it long."""
    block = Image.Exif()
    block[0x0112] = orientation
    if comment:
        block[0x9286] = b"x" * comment
    return block.tobytes()


KINDS = {
    "png": ("png", "PNG", {}),
    "interlaced png": ("png", "PNG", {"interlace": 1}),
    "baseline jpeg": ("jpeg", "JPEG", {}),
    "progressive jpeg": ("jpeg", "JPEG", {"progressive": True}),
    "jpeg with exif": ("jpeg", "JPEG", {"exif": exif(1, 60_000)}),
    "jpeg with comment": ("jpeg", "JPEG", {"comment": "a comment"}),
    "jpeg with restart markers": ("jpeg", "JPEG", {"restart_marker_blocks": 1}),
    "lossy webp": ("webp", "WEBP", {"quality": 50}),
    "lossless webp": ("webp", "WEBP", {"lossless": True}),
    "extended webp": ("webp", "WEBP", {"exif": b"Exif\x00\x00abc"}),
}


@pytest.mark.parametrize("name", KINDS)
@given(size=SIZES)
@example(size=(1, 1))
@example(size=(383, 129))
def test_format_and_size_are_read_from_the_header(name, size):
    kind, encoder, options = KINDS[name]
    assert header(picture(encoder, size, **options)) == Header(kind, *size)


@pytest.mark.parametrize(
    ("name", "chunk"), [("lossy webp", b"VP8 "), ("lossless webp", b"VP8L"), ("extended webp", b"VP8X")]
)
def test_each_kind_of_webp_is_covered(name, chunk):
    _, encoder, options = KINDS[name]
    assert picture(encoder, **options)[12:16] == chunk


def test_a_progressive_jpeg_has_another_frame_marker():
    assert b"\xff\xc2" in picture("JPEG", progressive=True)
    assert b"\xff\xc2" not in picture("JPEG")


def test_webp_of_the_largest_size_is_read():
    sides = (16_383).to_bytes(2, "little") + (16_383).to_bytes(2, "little")
    lossy = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\x30\x01\x00\x9d\x01\x2a" + sides
    assert header(lossy) == Header("webp", 16_383, 16_383)
    lossless = b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + (16_382 | 16_381 << 14).to_bytes(4, "little")
    assert header(lossless) == Header("webp", 16_383, 16_382)


def test_the_scale_bits_of_a_lossy_webp_are_not_part_of_its_size():
    data = bytearray(picture("WEBP"))
    data[26:30] = struct.pack("<HH", 640 | 1 << 14, 480 | 1 << 14)
    assert header(bytes(data)) == Header("webp", 640, 480)


@pytest.mark.parametrize("name", KINDS)
def test_a_cut_header_tells_the_format_at_most(name):
    kind, encoder, options = KINDS[name]
    data = picture(encoder, **options)
    for length in (*range(12, 40), len(data) // 2, len(data) - 1):
        assert header(data[:length]) in (Header(kind), Header(kind, 640, 480))
    for length in range(12):
        assert header(data[:length]) in (Header(), Header(kind), Header("text"))


STARTS = [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR",
    b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\1\0\0\0\1\0\x08\x02\0\0\0\0\0\0\0\0\0\0\x0ceXIfII*\0",
    b"\xff\xd8\xff",
    b"\xff\xd8\xff\xe0\0\x02\xff\xc0",
    b"\xff\xd8\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0",
    b"RIFF\0\0\0\0WEBP",
    b"RIFF\0\0\0\0WEBPVP8 ",
    b"RIFF\0\0\0\0WEBPVP8L",
    b"RIFF\0\0\0\0WEBPVP8X",
    b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x08\0\0\0\0\1\0\0\1\0EXIF\x20\0\0\0MM\0*\0\0\0\x08",
    b"\0\0\0\x20ftyp",
    b"\xff\xfe",
    b"<",
]


@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=200))
def test_random_bytes_are_never_an_error(start, rest):
    seen = header(start + rest)
    assert seen.format in {None, "mp4", "pdf", "zip", "gzip", "webm", *PICTURES, *TEXTS}
    assert (seen.width is None) is (seen.height is None)
    assert seen.width is None or seen.width > 0
    assert 1 <= seen.orientation <= 8
    assert whole(start + rest) in (True, False)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff\xc0\x00\x11\x08" + struct.pack(">HH", 0, 640),  # height told after the picture
        b"\xff\xd8" + b"\xff" * 100_000,  # fill bytes without end
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 5_000,  # segments without end
        b"\xff\xd8" + b"\xff\xd0" * 5_000,  # markers without end
        b"\xff\xd8\xff\xe0\x00\x01",  # a segment shorter than its own length
        b"\xff\xd8\xff\xda\x00\x08" + bytes(6) + b"\xff\xc0\x00\x11\x08\x00\x30\x00\x40",  # in the pixels
        b"\xff\xd8\xff\xd9\xff\xc0\x00\x11\x08\x00\x30\x00\x40",  # behind the end
    ],
)
def test_a_jpeg_that_tells_no_size_has_none(data):
    assert header(data) == Header("jpeg")
    assert not whole(data)


FRAME = b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 48, 64) + bytes(10)


@pytest.mark.parametrize(
    "between",
    [
        b"\xff\xd0\xff\x01\xff\xff",  # markers without a body, and fill bytes
        b"junk",
        b"\0" * 100_000,
        b"\xff\0\xff\0",  # stuffed bytes, as in pixels
        bytes(509) + b"\xff" * 1000,  # over the end of a piece that is looked through
        *(bytes(length) for length in range(508, 514)),
    ],
)
def test_bytes_between_segments_of_a_jpeg_are_passed_over(between):
    assert header(b"\xff\xd8\xff\xfe\x00\x04ab" + between + FRAME) == Header("jpeg", 64, 48)


def test_the_size_is_that_of_the_frame_and_not_of_one_in_a_thumbnail():
    thumbnail = b"\xff\xd8\xff\xc0\x00\x11\x08" + struct.pack(">HH", 1, 2)
    segment = b"\xff\xe2" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    assert header(b"\xff\xd8" + segment + FRAME) == Header("jpeg", 64, 48)


@pytest.mark.parametrize("name", ["exif-orientation-6.jpg", "jpeg-junk-between-segments.jpg"])
def test_odd_files_have_the_size_that_a_decoder_sees(name):
    data = (DATA / name).read_bytes()
    seen = header(data)
    assert (seen.width, seen.height) == ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size
    assert whole(data)


# --- Orientation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_picture_as_it_is_seen(kind, orientation):
    data = picture(ENCODERS[kind], exif=exif(orientation))
    seen = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size
    assert seen == ((480, 640) if orientation >= 5 else (640, 480))
    assert header(data) == Header(kind, *seen, orientation)


def test_exif_is_read_wherever_it_lies():
    """In a PNG behind the pixels, in a JPEG behind the frame, and behind a long comment of its own."""
    png, block = picture(), exif(6).removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    assert header(png[:-12] + chunk + png[-12:]) == Header("png", 480, 640, 6)
    broken = chunk[:-1] + bytes([chunk[-1] ^ 1])  # four letters in the pixels, say
    assert header(png[:-12] + broken + png[-12:]) == Header("png", 640, 480)
    jpeg = picture("JPEG", exif=exif(6))
    start, length = jpeg.index(b"\xff\xe1"), 2 + int.from_bytes(jpeg[jpeg.index(b"\xff\xe1") + 2 :][:2])
    bare, scan = jpeg[:start] + jpeg[start + length :], jpeg.index(b"\xff\xda") - length
    assert header(bare[:scan] + jpeg[start : start + length] + bare[scan:]) == Header("jpeg", 480, 640, 6)
    assert header(picture("JPEG", exif=exif(8, 60_000))) == Header("jpeg", 480, 640, 8)


def test_png_pixels_are_passed_over_and_not_walked_through():
    """A thousand small chunks of pixels cost no thousand steps."""
    png = picture(size=(8, 8))
    idat = struct.pack(">I", 1) + b"IDAT" + b"x" + bytes(4)
    steps = []

    class Counting(io.BytesIO):
        def seek(self, *place):
            steps.append(place)
            return super().seek(*place)

    assert read_header(Counting(png[:33] + idat * 10_000)).width == 8
    assert len(steps) < 10


@pytest.mark.parametrize(
    ("order", "kind", "value", "orientation"),
    [
        ("<", 3, 6, 6),
        (">", 3, 6, 6),
        ("<", 4, 6, 6),
        (">", 4, 6, 6),
        ("<", 3, 0, 1),
        ("<", 3, 9, 1),
    ],
)
def test_the_orientation_is_a_number_of_either_byte_order_and_length(order, kind, value, orientation):
    field = struct.pack(order + "H", value).ljust(4, b"\0") if kind == 3 else struct.pack(order + "I", value)
    entries = struct.pack(order + "HHHI4s", 2, 0x0100, 3, 1, bytes(4))
    entries += struct.pack(order + "HHI", 0x0112, kind, 1) + field
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + entries
    assert _headers._orientation(b"Exif\0\0" + block) == orientation
    assert _headers._orientation(block) == orientation


@pytest.mark.parametrize("block", [b"", b"XX*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\x01\0"])
def test_exif_that_tells_nothing_is_upright(block):
    assert _headers._orientation(block) == 1


# --- Other formats ------------------------------------------------------------------------------------------


def ftyp(*brands: bytes) -> bytes:
    return struct.pack(">I", 12 + 4 * len(brands)) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])


OTHERS = {
    "gif": [b"GIF87a", b"GIF89a"],
    "bmp": [b"BM\x46\0\0\0"],
    "tiff": [b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0", b"MM\0+\0\x08"],
    "heic": [ftyp(b"heic", b"mif1", b"heic"), ftyp(b"mif1", b"miaf", b"heic"), ftyp(b"heix")],
    "avif": [ftyp(b"avif", b"mif1"), ftyp(b"mif1", b"miaf", b"avif"), ftyp(b"avis")],
    "mp4": [ftyp(b"isom", b"iso2", b"avc1"), ftyp(b"qt  ")],
    "jxl": [b"\xff\x0a\xff\x07", b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a"],
    "jp2": [b"\0\0\0\x0cjP  \x0d\x0a\x87\x0a"],
    "psd": [b"8BPS\0\1"],
    "ico": [b"\0\0\1\0\1\0"],
    "svg": [b"<svg xmlns='x'>", b"<?xml version='1.0'?>\n<!-- a -->\n<svg>", b"\xef\xbb\xbf<svg/>"],
    "html": [b"<!DOCTYPE html><html>", b"\n  <html>", b"<HTML><BODY>", b"<!doctype\nhtml>"],
    "json": [b'{"code": 403}', b"[1]", b'\xef\xbb\xbf{"a":'],
    "git-lfs": [b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"],
    "base64": [b"iVBORw0KGgoAAAANSUhEUg==", b"/9j/4AAQSkZJRg", b"data:image/png;base64,iVB"],
    "text": [b"not a picture\n", "ein Bild – später".encode(), "狐".encode() * 400, "text".encode("utf-16")],
    "pdf": [b"%PDF-1.7\n"],
    "zip": [b"PK\x03\x04\x14\0"],
    "gzip": [b"\x1f\x8b\x08\0"],
    "webm": [b"\x1a\x45\xdf\xa3\x01"],
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_formats_are_named(kind):
    assert [header(data) for data in OTHERS[kind]] == [Header(kind)] * len(OTHERS[kind])


@pytest.mark.parametrize(
    "data", [b"", b"\0\1\2\3", b"text with a \0 in it", b"caf\xe9 au lait", b"\xff\xfe\x00\xd8", b"\xff\xfea"]
)
def test_bytes_that_are_nothing_known_are_not_named(data):
    assert header(data) == Header()


# --- Wholeness ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_a_picture_that_is_cut_anywhere_is_not_whole(name):
    _, encoder, options = KINDS[name]
    data = picture(encoder, **options)
    assert whole(data)
    assert whole(data + b"a trailer of somebody's")
    for length in range(16, len(data) - 4, 97):
        assert not whole(data[:length])


def test_the_end_of_a_thumbnail_is_not_the_end_of_its_picture():
    data = picture("JPEG")
    segment = b"\xff\xe2\x00\x06\xff\xd8\xff\xd9"
    assert whole(data[:2] + segment + data[2:])
    assert not whole(data[:2] + segment + data[2:-2])


@pytest.mark.parametrize("place", range(-2, 3))
def test_an_end_marker_is_found_on_the_border_of_two_pieces(place):
    start = b"\xff\xd8" + FRAME + b"\xff\xda\x00\x02"
    assert whole(start + bytes(_headers._LONGEST_EXIF + place) + b"\xff\xd9")
    assert not whole(start + bytes(_headers._LONGEST_EXIF + place) + b"\xff\0\xd9")


def test_formats_whose_end_is_not_known_are_taken_for_whole():
    assert whole(b"GIF89a")
    assert is_whole(io.BytesIO(b"anything"), None)
