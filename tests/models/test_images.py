"""Pictures: measured from their headers, limited, read when they are sent."""

import base64
import io
import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novita_async.errors import InvalidRequest, NovitaWarning
from novita_async.models.images import MAX_BYTES, MAX_PIXELS, SAFE_BYTES, ImageSource
from tests.helpers.payloads import picture, png

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
