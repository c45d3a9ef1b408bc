"""What a result file is: kept as what it is, refused only where it is no picture."""

import io

import pytest

from novita_async._files.kinds import BadFileError, CutFileError, FoundKind, kind_of
from tests.helpers.payloads import picture

MP4 = b"\0\0\0\x20ftypisom\0\0\0\0isomiso2avc1mp41"


def found(data, stated, *, takes_cut=False):
    return kind_of(io.BytesIO(data), stated, takes_cut=takes_cut)


@pytest.mark.parametrize(
    ("kind", "suffix"), [("PNG", "png"), ("JPEG", "jpeg"), ("WEBP", "webp"), ("GIF", "gif"), ("AVIF", "avif")]
)
@pytest.mark.parametrize("stated", ["png", "jpeg", "jpg", "JPG", "webp", "mp4", "bin", None])
def test_a_picture_has_the_suffix_of_what_it_is(kind, suffix, stated):
    same = stated is None or stated.lower().replace("jpg", "jpeg") == suffix
    assert found(picture(kind), stated) == FoundKind(
        suffix=suffix, stated=None if same else stated, is_cut=False
    )


@pytest.mark.parametrize(
    ("data", "stated", "suffix"),
    [
        (MP4, "mp4", "mp4"),
        (MP4, None, "mp4"),
        (MP4, "mov", "mov"),
        (b"\0\1\2\3", "mp3", "mp3"),
        (b"\0\1\2\3", None, "bin"),
        (b"PK\x03\x04", "zip", "zip"),
        (b"PK\x03\x04", None, "zip"),
        (b"{}", "json", "json"),
        (b"v 1 2 3", "obj", "obj"),
        (b"\0\1\2\3", "../../etc/" + "x" * 100, "etc_xxxxxxxxxxxx"),
    ],
)
def test_another_file_has_the_suffix_that_the_service_states(data, stated, suffix):
    assert found(data, stated) == FoundKind(suffix=suffix, stated=None, is_cut=False)


def test_a_film_in_the_place_of_a_picture_is_kept():
    assert found(MP4, "png") == FoundKind(suffix="mp4", stated="png", is_cut=False)


@pytest.mark.parametrize(
    ("data", "stated", "cause"),
    [
        (b"<html>502</html>", "png", "the file is html, no picture"),
        (b"<html>502</html>", None, "the file is html, no picture"),
        (b"<html>502</html>", "mp4", "the file is html, no mp4"),
        (b'{"code": 403}', "jpg", "the file is json, no picture"),
        (b"version https://git-lfs.github.com/spec/v1", "webp", "the file is git-lfs, no picture"),
        (b"", "png", "the file is empty"),
        (b"", None, "the file is empty"),
        (b"", "mp4", "the file is empty"),
        (b"\0" * 100, "png", f"the file begins with {bytes(12)!r}, which is no picture"),
        (b"PK\x03\x04" + bytes(100), "PNG", r"the file begins with b'PK\x03\x04"),
        (b"RIFF\0\0", "webp", r"the file begins with b'RIFF\x00\x00', which is no picture"),
    ],
)
def test_what_is_no_picture_is_refused(data, stated, cause):
    with pytest.raises(BadFileError) as caught:
        found(data, stated)
    assert caught.value.cause.startswith(cause)
    assert not isinstance(caught.value, CutFileError)
    assert (caught.value.status, caught.value.retry_after) == (200, None)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_is_cut_in_half_is_noticed_and_can_be_taken_all_the_same(kind):
    whole = picture(kind)
    half = whole[: len(whole) // 2]
    with pytest.raises(CutFileError, match=f"the file is a {kind.lower()} that ends too early"):
        found(half, kind.lower())
    assert found(half, "png", takes_cut=True).is_cut
    assert not found(whole, "png", takes_cut=True).is_cut
