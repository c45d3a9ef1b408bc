"""Pictures: measured from their headers, limited, read when they are sent."""

import base64
import io
import os
import pickle
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageCms, ImageOps

from novita_async.errors import ConfigurationError, InvalidRequest, NovitaWarning
from novita_async.models.images import MAX_BYTES, DataURL, ImageSource
from novita_async.models.images import objection as objection_by
from novita_async.models.requests import Img2Img
from novita_async.models.routes import IMG2IMG
from tests.helpers.payloads import picture, png

# --- Where a picture comes from -----------------------------------------------------------------------------


def objection(source):
    return objection_by(source, IMG2IMG.pictures[0])


def made(picture):
    return Img2Img(model_name="m", prompt="p", image=picture, width=512, height=512)


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
            ImageSource.from_base64(base64.b64encode(data)),
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


def test_a_file_that_stands_at_its_end_is_read_from_its_start(tmp_path):
    """Everyone's recipe: save into a buffer or a temporary file, and hand that over."""
    data, buffer = picture(), io.BytesIO()
    buffer.write(data)
    with (tmp_path / "dog.png").open("w+b") as file:
        file.write(data)
        assert ImageSource.of(file).read() == ImageSource.of(buffer).read() == data
        assert ImageSource.of(file).read() == data  # and again, as it stands at its end again


def test_a_stream_that_was_read_before_says_so():
    class Stream(io.BytesIO):
        def seekable(self):
            return False

    class Bare:
        def read(self, _):
            return b""

    assert "the file is empty, or was read before" in refused(Stream())
    assert "the file is empty, or was read before" in refused(Bare())


def test_an_asynchronous_file_is_told_what_to_do():
    """As web frameworks give uploads. Its coroutine is closed, or Python would warn of it."""

    class Upload:
        async def read(self, _):
            return b"x"

    assert "await file.read()" in refused(Upload())


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "YCbCr", "HSV", "PA"])
def test_a_picture_of_pillows_is_taken_without_loss(mode):
    image = Image.effect_noise((64, 48), 80).convert("RGB").convert(mode)
    source = ImageSource.of(image)
    assert (source.format, source.width, source.height) == ("png", 64, 48)
    kept = Image.open(io.BytesIO(source.read()))
    same = {"CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB", "PA": "RGBA"}.get(mode, kept.mode)
    assert ImageChops.difference(kept.convert(same), image.convert(same)).getbbox() is None


def test_anything_that_saves_itself_is_taken():
    class Figure:
        def save(self, file, *, format):  # noqa: A002 - Pillow's name
            file.write({"PNG": DATA}[format])

    assert ImageSource.of(Figure()).data == DATA


def test_what_cannot_be_saved_as_png_is_refused():
    class Model:
        def save(self):
            pass

    assert "cannot be saved as PNG" in refused(Model())
    assert "cannot be saved as PNG: cannot write mode F" in refused(Image.new("F", (8, 8)))


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


def test_bytes_that_are_no_base64_are_told_what_they_are():
    with pytest.raises(InvalidRequest, match=r"a picture's bytes: use ImageSource\.from_bytes"):
        ImageSource.from_base64(DATA)
    with pytest.raises(InvalidRequest, match=r"'ÿþ' \(2 characters\) is not base64"):
        ImageSource.from_base64(b"\xff\xfe")


def test_a_url_in_place_of_base64_is_told_what_to_do_and_its_signature_is_not_shown():
    with pytest.raises(InvalidRequest, match="download it first") as caught:
        ImageSource.from_base64("https://me:pw@example.com/dog.png?X-Amz-Signature=secret")
    assert str(caught.value) == (
        "the picture: https://example.com/dog.png is not base64; the API takes pictures, not URLs: "
        "download it first"
    )


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
    for address in ("https", "HTTP", "s3"):
        message = refused(f"{address}://me:pw@example.com/dog.png?X-Amz-Signature=secret")
        advice = "no such file; the API takes pictures, not URLs: download it first"
        assert message == f"{address}://example.com/dog.png: {advice}"
    assert refused("file:///home/dog.png") == (
        "file://home/dog.png: no such file; give the path itself, not a URL"
    )


def test_text_files_and_closed_files_and_odd_values_are_refused(tmp_path):
    path = tmp_path / "dog.png"
    path.write_text("text")
    with path.open() as text:
        assert "mode 'rb'" in refused(text)
    assert "closed" in refused(text)
    with path.open("wb") as writable:
        assert "cannot be read" in refused(writable)
    known = "a path, bytes, a binary file, a picture of Pillow's, an array of numpy's"
    assert refused(5) == f"the picture: 5 is none of these: {known}"
    assert len(refused([b"x" * 1000])) < 200


def test_an_empty_picture_is_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    assert refused(tmp_path / "empty.png") == f"{tmp_path / 'empty.png'}: is empty"
    assert refused(b"") == "the picture: is empty"
    assert refused(io.BytesIO()) == "the picture: is empty"


def test_no_picture_may_be_larger_than_any_route_takes():
    assert ImageSource.of(bytes(MAX_BYTES)).size == 52_428_800
    assert refused(bytes(MAX_BYTES + 1)) == (
        "the picture: 52,428,801 bytes are above the limit of 52,428,800"
    )
    file = io.BytesIO(bytes(MAX_BYTES + 100))
    assert "52,428,801 bytes" in refused(file)
    assert file.tell() == MAX_BYTES + 1


def test_a_file_above_the_limit_is_refused_without_being_read(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert "above the limit" in refused(path)


def test_ten_mebibytes_are_the_limit_of_img2img():
    (limits,) = IMG2IMG.pictures
    assert limits.max_bytes == 10_485_760
    assert objection(ImageSource.of(bytes(10_485_760))) is None
    assert objection(ImageSource.of(bytes(10_485_761))) == (
        "has 10,485,761 bytes, above the limit of 10,485,760"
    )


def test_seven_and_a_half_megabytes_are_safe_for_img2img_and_more_is_warned_about():
    assert made(bytes(7_500_000)).image.size == 7_500_000
    with pytest.warns(NovitaWarning, match="7,500,001 bytes may be above"):
        made(bytes(7_500_001))


def test_sixteen_megapixels_are_the_limit_of_img2img():
    assert objection(ImageSource.of(png(4096, 4096))) is None
    assert objection(ImageSource.of(png(4097, 4096))) == (
        "has 4097x4096 pixels, above the limit of 16,777,216"
    )


def test_a_data_url_names_the_kind_of_its_picture():
    assert DataURL(image=png(8, 8)).prefix == "data:image/png;base64,"
    assert DataURL(image=b"\0\1\2\3").prefix == "data:application/octet-stream;base64,"


def test_an_unknown_format_is_left_to_the_service():
    source = ImageSource.of(b"\0\1\2\3")
    assert (source.format, source.width, source.height) == (None, None, None)
    assert objection(source) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"<!DOCTYPE html><html>", "HTML, perhaps the page of an error"),
        (b'{"code": 403}', "JSON"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "a pointer of git-lfs: run `git lfs pull` first",
        ),
        (b"iVBORw0KGgoAAAAN", "base64 text: give it as ImageSource.from_base64(…)"),
        (b"hello", "text"),
    ],
)
def test_text_is_no_picture(tmp_path, data, why):
    path = tmp_path / "dog.png"
    path.write_bytes(data)
    assert objection(ImageSource.of(path)) == f"{path} is no picture but {why}"
    for source in (ImageSource.of(data), ImageSource.from_base64(base64.b64encode(data))):
        assert objection(source) == f"is no picture but {why}"


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF"])
def test_a_picture_of_a_format_that_the_api_does_not_take_is_named(tmp_path, kind):
    path = tmp_path / "dog.png"
    path.write_bytes(picture(kind))
    told = f"is {kind}; the API takes PNG, JPEG and WebP: convert it first"
    assert objection(ImageSource.of(path)) == f"{path} {told}"
    assert objection(ImageSource.of(path.read_bytes())) == told


def test_a_document_is_no_picture():
    assert objection(ImageSource.of(b"%PDF-1.7")) == "is no picture but PDF"


# --- Orientation --------------------------------------------------------------------------------------------


def photo(kind, orientation, **options):
    """A picture on its side, as a camera writes it."""
    block = Image.Exif()
    block[0x0112] = orientation
    return picture(kind, (96, 64), exif=block, **options)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [("PNG", {}, 0), ("WEBP", {"lossless": True}, 0), ("WEBP", {}, 12), ("JPEG", {"quality": 95}, 12)],
)
def test_upright_turns_the_pixels(kind, options, tolerance, orientation):
    data = photo(kind, orientation, **options)
    source = ImageSource.of(data)
    turned = source.upright()
    assert (turned.width, turned.height) == (source.width, source.height)
    assert (turned.orientation, turned.format) == (1, source.format)
    seen, meant = (Image.open(io.BytesIO(value)) for value in (turned.read(), data))
    difference = ImageChops.difference(seen, ImageOps.exif_transpose(meant))
    assert max(high for _, high in difference.getextrema()) <= tolerance
    assert not seen.getexif()


def test_an_upright_picture_is_given_back_as_it_is():
    source = ImageSource.of(photo("JPEG", 1))
    assert source.upright() is source


def test_the_colour_profile_stays_when_a_picture_is_turned():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = ImageSource.of(photo("JPEG", 6, icc_profile=profile)).upright()
    assert Image.open(io.BytesIO(turned.read())).info["icc_profile"] == profile


def test_a_picture_that_cannot_be_decoded_cannot_be_turned(tmp_path):
    for kind in ("JPEG", "PNG"):
        data = photo(kind, 6)
        (tmp_path / "dog").write_bytes(data[: len(data) // 2])
        with pytest.raises(InvalidRequest, match="dog: cannot be decoded"):
            ImageSource.of(tmp_path / "dog").upright()


def test_turning_needs_pillow_and_says_so(monkeypatch):
    source = ImageSource.of(photo("JPEG", 6))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigurationError, match="pip install pillow"):
        source.upright()


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
