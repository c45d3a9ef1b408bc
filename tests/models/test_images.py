"""Pictures: measured from their headers, limited, read when they are sent."""

import base64
import io
import os
import pickle
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from novita_async.errors import InvalidRequest, NovitaWarning
from novita_async.models._headers import Header, read_header
from novita_async.models.images import MAX_BYTES, MAX_PIXELS, SAFE_BYTES, ImageSource
from tests.helpers.payloads import picture, png

SIZES = st.tuples(st.integers(1, 400), st.integers(1, 400))


def header(data: bytes) -> Header:
    return read_header(io.BytesIO(data))


def exif() -> bytes:
    """An EXIF block of 60 KB, so that the frame header is far from the start."""
    block = Image.Exif()
    block[0x0112] = 6  # orientation
    block[0x9286] = b"x" * 60_000  # user comment
    return block.tobytes()


KINDS = {
    "png": ("png", "PNG", {}),
    "interlaced png": ("png", "PNG", {"interlace": 1}),
    "baseline jpeg": ("jpeg", "JPEG", {}),
    "progressive jpeg": ("jpeg", "JPEG", {"progressive": True}),
    "jpeg with exif": ("jpeg", "JPEG", {"exif": exif()}),
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


@pytest.mark.parametrize("name", KINDS)
def test_a_cut_header_tells_the_format_at_most(name):
    kind, encoder, options = KINDS[name]
    whole = picture(encoder, **options)
    for length in (*range(40), len(whole) // 2, len(whole) - 1):
        seen = header(whole[:length])
        assert seen in (Header(), Header(kind), Header(kind, 640, 480))


@given(
    start=st.sampled_from(
        [
            b"",
            b"\x89PNG\r\n\x1a\n",
            b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR",
            b"\xff\xd8\xff",
            b"\xff\xd8\xff\xe0\0\x02\xff\xc0",
            b"RIFF\0\0\0\0WEBP",
            b"RIFF\0\0\0\0WEBPVP8 ",
            b"RIFF\0\0\0\0WEBPVP8L",
            b"RIFF\0\0\0\0WEBPVP8X",
        ]
    ),
    rest=st.binary(max_size=200),
)
def test_random_bytes_are_never_an_error(start, rest):
    seen = header(start + rest)
    assert seen.format in (None, "png", "jpeg", "webp")
    assert (seen.width is None) is (seen.height is None)
    assert seen.width is None or seen.width > 0


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff\xc0\x00\x11\x08" + struct.pack(">HH", 0, 640),  # height told after the picture
        b"\xff\xd8" + b"\xff" * 100_000,  # fill bytes without end
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 5_000,  # segments without end
        b"\xff\xd8\xff\xe0\x00\x01",  # a segment shorter than its own length
    ],
)
def test_a_jpeg_that_tells_no_size_has_none(data):
    assert header(data) == Header("jpeg")


def test_markers_without_a_body_and_fill_bytes_are_passed_over():
    frame = b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 48, 64)
    assert header(b"\xff\xd8\xff\xd0\xff\x01\xff\xff\xff" + frame[1:]) == Header("jpeg", 64, 48)


# --- Where a picture comes from -----------------------------------------------------------------------------


def test_every_way_in_measures_the_same(tmp_path):
    data = picture()
    path = tmp_path / "dog.png"
    path.write_bytes(data)
    with path.open("rb") as buffered, path.open("rb", buffering=0) as raw:
        sources = [
            ImageSource.of(path),
            ImageSource.of(str(path)),
            ImageSource.of(data),
            ImageSource.of(bytearray(data)),
            ImageSource.of(memoryview(data)),
            ImageSource.of(buffered),
            ImageSource.of(raw),
            ImageSource.of(io.BytesIO(data)),
            ImageSource.from_base64(base64.b64encode(data).decode()),
        ]
    for source in sources:
        assert (source.format, source.width, source.height, source.size) == ("png", 640, 480, len(data))
        assert source.read() == data
        assert source.base64_length == len(base64.b64encode(data))
    assert len({source.digest() for source in sources}) == 1
    assert ImageSource.of(sources[0]) is sources[0]


def test_a_file_object_is_read_from_where_it_stands_even_in_small_pieces():
    class Trickle(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 100))

    data = picture()
    file = Trickle(b"junk" + data)
    file.seek(4)
    assert ImageSource.of(file).read() == data


DATA = picture(size=(64, 48))
TEXT = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "\n".join(TEXT[i : i + 76] for i in range(0, len(TEXT), 76)),
        "\r\n ".join(TEXT[i : i + 64] for i in range(0, len(TEXT), 64)),
        base64.urlsafe_b64encode(DATA).decode(),
        TEXT.rstrip("="),
        f"data:image/png;base64,{TEXT}",
        f"DATA:image/png;charset=utf-8;base64,{TEXT}",
        f"  {TEXT}\n",
    ],
)
def test_base64_is_normalised(text):
    assert ImageSource.from_base64(text).data == DATA


@given(data=st.binary(min_size=1, max_size=200))
def test_base64_of_anything_comes_back(data):
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        assert ImageSource.from_base64(encode(data).decode().rstrip("=")).data == data


@pytest.mark.parametrize("text", ["{{Base64 encode image}}", "dog.png", "A", "Zm9v*", "Zm=9v", "ünïcode"])
def test_what_is_not_base64_is_refused(text):
    with pytest.raises(InvalidRequest, match="is not base64"):
        ImageSource.from_base64(text)


@pytest.mark.parametrize("text", ["", "data:image/png;base64,", "  ", "===="])
def test_empty_base64_is_an_empty_picture(text):
    with pytest.raises(InvalidRequest, match="is empty"):
        ImageSource.from_base64(text)


@given(text=st.text())
def test_text_is_base64_or_an_invalid_request(text):
    try:
        ImageSource.from_base64(text)
    except InvalidRequest as refusal:
        assert str(refusal)


# --- What is refused ----------------------------------------------------------------------------------------


def refused(value) -> str:
    with pytest.raises(InvalidRequest) as caught:
        ImageSource.of(value)
    return str(caught.value)


def test_a_path_that_cannot_be_read_is_named(tmp_path):
    missing = tmp_path / "no" / "dog.png"
    assert refused(missing) == f"{missing}: no such file or directory"
    assert refused(str(missing)) == refused(missing)
    told = "not a regular file; read it and use ImageSource.from_bytes(…)"
    assert refused(tmp_path) == f"{tmp_path}: {told}"
    assert "null" in refused("dog\0.png")


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe")


def test_base64_and_urls_in_place_of_a_path_get_advice_and_are_not_repeated():
    for text in (f"data:image/png;base64,{TEXT}", TEXT * 10):
        message = refused(text)
        assert "ImageSource.from_base64" in message
        assert text[:60] not in message
    message = refused("https://example.com/dog.png?X-Amz-Signature=secret")
    assert "download it first" in message
    assert "secret" not in message


def test_text_files_and_closed_files_and_odd_values_are_refused(tmp_path):
    path = tmp_path / "dog.png"
    path.write_text("text")
    with path.open() as text:
        assert "mode 'rb'" in refused(text)
    assert "closed" in refused(text)
    with path.open("wb") as writable:
        assert "cannot be read" in refused(writable)
    assert refused(5) == "the picture: 5 is neither a path, nor bytes, nor a binary file"
    assert len(refused([b"x" * 1000])) < 200


def test_an_empty_picture_is_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    assert refused(tmp_path / "empty.png") == f"{tmp_path / 'empty.png'}: is empty"
    assert refused(b"") == "the picture: is empty"
    assert refused(io.BytesIO()) == "the picture: is empty"


def test_ten_mebibytes_are_the_limit():
    with pytest.warns(NovitaWarning, match="10,485,760 bytes may be above"):
        assert ImageSource.of(bytes(MAX_BYTES)).size == 10_485_760
    assert refused(bytes(MAX_BYTES + 1)) == (
        "the picture: 10,485,761 bytes are above the limit of 10,485,760"
    )
    file = io.BytesIO(bytes(MAX_BYTES + 100))
    assert "10,485,761 bytes" in refused(file)
    assert file.tell() == MAX_BYTES + 1


def test_a_file_above_the_limit_is_refused_without_being_read(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert "above the limit" in refused(path)


def test_seven_and_a_half_megabytes_are_safe_and_more_is_warned_about():
    assert ImageSource.of(bytes(SAFE_BYTES)).size == 7_500_000
    with pytest.warns(NovitaWarning, match="7,500,001 bytes may be above"):
        ImageSource.of(bytes(SAFE_BYTES + 1))


def test_sixteen_megapixels_are_the_limit():
    assert MAX_PIXELS == 4096 * 4096
    assert ImageSource.of(png(4096, 4096)).width == 4096
    assert "4097x4096 is above the limit of 16,777,216 pixels" in refused(png(4097, 4096))


def test_an_unknown_format_is_left_to_the_service():
    source = ImageSource.of(picture("GIF"))
    assert (source.format, source.width, source.height) == (None, None, None)


@pytest.mark.parametrize(
    "fields", [{}, {"data": b"abc"}, {"data": b"abc", "path": "x"}, {"path": None, "data": None}]
)
def test_a_source_is_either_a_file_or_bytes_of_the_size_it_names(fields):
    with pytest.raises(InvalidRequest, match="either a path or data"):
        ImageSource(size=5, **fields)


# --- Reading ------------------------------------------------------------------------------------------------


@given(data=st.binary(min_size=1, max_size=100), length=st.integers(1, 120))
def test_slices_have_the_length_asked_for_but_the_last(data, length):
    slices = [bytes(piece) for piece in ImageSource.of(data).slices(length)]
    assert b"".join(slices) == data
    assert {len(piece) for piece in slices[:-1]} <= {length}


def test_a_file_gives_the_same_slices_as_its_bytes(tmp_path):
    path = tmp_path / "dog.png"
    path.write_bytes(DATA)
    for length in (1, 7, len(DATA), len(DATA) + 1):
        assert list(ImageSource.of(path).slices(length)) == list(ImageSource.of(DATA).slices(length))


@pytest.mark.parametrize("change", ["grown", "cut", "touched"])
def test_a_file_that_changed_after_it_was_measured_is_not_sent(tmp_path, change):
    path = tmp_path / "dog.png"
    path.write_bytes(DATA)
    source = ImageSource.of(path)
    old = path.stat().st_mtime_ns
    if change == "touched":
        os.utime(path, ns=(old, old + 1))
    else:
        path.write_bytes(DATA + b"x" if change == "grown" else DATA[:-1])
        os.utime(path, ns=(old, old))
    with pytest.raises(InvalidRequest, match="has changed since it was measured"):
        source.read()


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "dog.png"
    path.write_bytes(bytes(1_000_000))
    slices = ImageSource.of(path).slices(1000)
    next(slices)
    os.truncate(path, 5)
    with pytest.raises(InvalidRequest, match="has changed"):
        list(slices)


def test_a_file_that_is_gone_is_named(tmp_path):
    path = tmp_path / "dog.png"
    path.write_bytes(DATA)
    source = ImageSource.of(path)
    path.unlink()
    with pytest.raises(InvalidRequest, match=r"dog\.png: no such file"):
        source.digest()


def test_a_source_shows_no_bytes_and_pickles():
    source = ImageSource.of(DATA)
    assert "PNG" not in repr(source)
    assert len(repr(source)) < 200
    assert pickle.loads(pickle.dumps(source)) == source
