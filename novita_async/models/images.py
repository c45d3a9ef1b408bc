"""Pictures that go into requests: measured when they are named, read when they are sent."""

import errno
import hashlib
import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, cast

import pybase64
from attrs import field

from novita_async._util.values import frozen
from novita_async.errors import ConfigurationError, Flaw, InvalidRequest, NovitaWarning
from novita_async.models import _rules as rules
from novita_async.models._headers import PICTURES, UPRIGHT, Header, read_header
from novita_async.models.routes import RoutePictures

MAX_BYTES: Final = 50 * 1024 * 1024
"""No route takes a larger file."""
_DIGEST_SLICE: Final = 1 << 20
_GLIMPSE: Final = 24
"""Characters of a payload that may be shown."""
_LONGEST_PATH: Final = 500
"""Longer texts are taken for base64 when they name no file."""
_IN_MEMORY: Final = "the picture"
_CALLED: Final = {"webp": "WebP"}
_NO_PICTURE: Final = {
    "base64": "base64 text: give it as ImageSource.from_base64(…)",
    "git-lfs": "a pointer of git-lfs: run `git lfs pull` first",
    "html": "HTML, perhaps the page of an error",
    "json": "JSON",
    "text": "text",
}
_URL: Final = re.compile(r"([a-z][a-z0-9+.-]+):/+(?:[^/?#]*@)?([^?#]*)", re.IGNORECASE)
_RECODED: Final = {"CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB", "RGBa": "RGBA", "PA": "RGBA"}
"""Modes of Pillow that PNG has not, and those that hold the same colours."""
_QUALITY: Final = 95
"""Of a JPEG or a WebP that had to be encoded anew: above this, files grow and nobody sees more."""


class Saveable(Protocol):
    """A decoded picture that can encode itself, such as one of Pillow's."""

    def save(self, file: BinaryIO, /, *, format: str) -> object:  # noqa: A002 - Pillow's name
        """Write the picture into a binary file, in a format such as `PNG`."""


def objection(picture: "ImageSource", limits: RoutePictures) -> str | None:
    """Objection of a route to a picture: no picture at all, another format, too large. None: nothing."""
    where = f"{picture.path} " if picture.path else ""
    if picture.format is not None and picture.format not in limits.formats:
        if picture.format in PICTURES:
            *most, last = (_CALLED.get(name, name.upper()) for name in limits.formats)
            taken = f"{', '.join(most)} and {last}" if most else last
            return f"{where}is {picture.format.upper()}; the API takes {taken}: convert it first"
        return f"{where}is no picture but {_NO_PICTURE.get(picture.format, picture.format.upper())}"
    if picture.size > limits.max_bytes:
        return f"{where}has {picture.size:,} bytes, above the limit of {limits.max_bytes:,}"
    pixels = (picture.width or 0) * (picture.height or 0)
    if limits.max_pixels is not None and pixels > limits.max_pixels:
        size = f"{picture.width}x{picture.height}"
        return f"{where}has {size} pixels, above the limit of {limits.max_pixels:,}"
    return None


def warn_of_size(picture: "ImageSource", limits: RoutePictures, stacklevel: int) -> None:
    """Warn of a picture that only some readings of a route's unclear limit allow."""
    if limits.safe_bytes is not None and picture.size > limits.safe_bytes:
        text = f"{picture.size:,} bytes may be above the service's limit; {limits.safe_bytes:,} are safe"
        warnings.warn(f"{picture.path or _IN_MEMORY}: {text}", NovitaWarning, stacklevel=stacklevel + 1)


def _refusal(where: str, message: str) -> InvalidRequest:
    return InvalidRequest(faults=(Flaw(where or _IN_MEMORY, message),))


def why_refused(refusal: InvalidRequest) -> str:
    """The words of a refusal, for a message that names the field already."""
    return refusal.sentence().removeprefix(f"{_IN_MEMORY}: ")


@frozen(kw_only=True)
class ImageSource:
    """A picture on disk or in memory, whose bytes are read only while they are sent.

    Make one with `from_path`, `from_bytes`, `from_file` or `from_base64`, or hand any of a path, bytes, a
    binary file or a picture of Pillow's to the field that takes a picture.

    Photos often lie on their side, with a note in their EXIF that says how to turn them. Width and height
    heed that note. Whether the service does is not known; `upright` turns the pixels themselves.

    Args:
        path: Where the file is. None: in memory.
        data: The picture's bytes, where it is in memory.
        size: Length of the file in bytes.
        modified_ns: Modification time of the file when it was measured, in nanoseconds; a later change is an
            error.
        format: `png`, `jpeg` or `webp`, from the header; another format or no picture, such as `heic` or
            `html`, which most requests refuse by that name; None: not recognised, the service decides.
        width: Pixels of the picture as it is seen, from the header; None: not readable there.
        height: Pixels of the picture as it is seen, from the header; None: not readable there.
        orientation: EXIF's note of how the pixels are to be turned: 1 (upright) to 8; above 4, width and
            height change places.

    Raises:
        InvalidRequest: missing, empty, or larger than any route takes. The limits of its route are the
            request's to check.
    """

    path: Path | None = None
    """Where the file is. None: in memory."""
    data: bytes | None = field(default=None, repr=False)
    """The picture's bytes, where it is in memory."""
    size: int
    """Length of the file in bytes."""
    modified_ns: int | None = None
    """Modification time of the file when it was measured, in nanoseconds; a later change is an error."""
    format: str | None = None
    """`png`, `jpeg` or `webp`, from the header; another format or no picture, such as `heic` or `html`, which
    most requests refuse by that name; None: not recognised, the service decides."""
    width: int | None = None
    """Pixels of the picture as it is seen, from the header; None: not readable there."""
    height: int | None = None
    """Pixels of the picture as it is seen, from the header; None: not readable there."""
    orientation: int = UPRIGHT
    """EXIF's note of how the pixels are to be turned: 1 (upright) to 8; above 4, width and height change
    places."""

    def __attrs_post_init__(self) -> None:
        where = str(self.path or "")
        if (self.path is None) is (self.data is None) or (
            self.data is not None and len(self.data) != self.size
        ):
            raise _refusal(where, "needs either a path or data of the named size; use ImageSource.from_…")
        if self.size <= 0:
            raise _refusal(where, "is empty")
        if self.size > MAX_BYTES:
            raise _refusal(where, f"{self.size:,} bytes are above the limit of {MAX_BYTES:,}")

    @classmethod
    def from_path(cls, path: "str | os.PathLike[str]") -> "ImageSource":
        """Measure a file, by a stat and its header. Its bytes are read when they are sent."""
        place = Path(path)
        try:
            _check_regular(place)
            with place.open("rb") as file:
                facts = os.fstat(file.fileno())
                header = read_header(file)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise _unreadable(place, error) from None
        return cls._measured(header, path=place, size=facts.st_size, modified_ns=facts.st_mtime_ns)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> "ImageSource":
        """Take a picture that is already in memory."""
        data = bytes(data)
        return cls._measured(read_header(io.BytesIO(data)), data=data, size=len(data))

    @classmethod
    def _measured(cls, header: Header, **known: Any) -> "ImageSource":
        return cls(
            format=header.format,
            width=header.width,
            height=header.height,
            orientation=header.orientation,
            **known,
        )

    @classmethod
    def from_file(cls, file: BinaryIO) -> "ImageSource":
        """Read an open binary file from where it stands, and from its start where it stands at its end.

        At most one byte over the limit is read. Blocks.
        """
        try:
            data = _read(file)
            if not data:  # it has just been written, say
                if not getattr(file, "seekable", bool)():
                    raise _refusal("", "nothing is left to read: the file is empty, or was read before")
                file.seek(0)
                data = _read(file)
        except InvalidRequest:
            raise
        except (OSError, ValueError) as error:  # ValueError: closed, or not open for reading
            raise _refusal("", f"cannot be read: {error}") from error
        return cls.from_bytes(data)

    @classmethod
    def from_base64(cls, text: str | bytes) -> "ImageSource":
        """Decode base64 or a data URL. Line breaks, the URL-safe alphabet and missing padding are fine."""
        if isinstance(text, bytes):
            if read_header(io.BytesIO(text)).format in PICTURES:
                raise _refusal("", "is not base64 but a picture's bytes: use ImageSource.from_bytes(…)")
            text = text.decode("latin-1")
        bare = text.partition(",")[2] if text[:5].lower() == "data:" else text
        joined = "".join(bare.split()).translate(_STANDARD).rstrip("=")
        try:
            data = pybase64.b64decode(joined + "=" * (-len(joined) % 4), validate=True)
        except ValueError as error:
            address = _URL.match(text)
            shown = (
                _address(address) if address else f"{rules.shown(text[:_GLIMPSE])} ({len(text):,} characters)"
            )
            advice = "; the API takes pictures, not URLs: download it first" if address else ""
            raise _refusal("", f"{shown} is not base64{advice}") from error
        return cls.from_bytes(data)

    @classmethod
    def of(cls, value: "Picture") -> "ImageSource":
        """Turn anything that a picture can be given as into a source. A `str` is a path, never base64.

        Objects that can save themselves, as Pillow's pictures can, and arrays of numpy's (height, width, and
        1, 3 or 4 channels; whole numbers to 255, or fractions of 1) are taken as PNG, without loss.
        """
        if isinstance(value, ImageSource):
            return value
        if isinstance(value, bytes | bytearray | memoryview):
            return cls.from_bytes(value)
        if isinstance(value, str | os.PathLike):
            return cls.from_path(value)
        given = cast("object", value)
        if hasattr(given, "read"):
            return cls.from_file(cast("BinaryIO", given))
        if hasattr(given, "save"):
            return cls.from_bytes(_as_png(cast("Saveable", given)))
        if hasattr(given, "__array_interface__"):
            return cls.from_bytes(_as_png(_picture_of(given)))
        known = "a path, bytes, a binary file, a picture of Pillow's, an array of numpy's"
        raise _refusal("", f"{rules.shown(given)} is none of these: {known}")

    def upright(self) -> "ImageSource":
        """Turn the pixels as the EXIF orientation says, so that nobody else needs to. Blocks.

        PNG and lossless WebP lose nothing; JPEG and lossy WebP are encoded anew, at quality 95. The colour
        profile stays, EXIF goes. A picture that is upright already is given back as it is.

        Raises:
            ConfigurationError: Pillow is not installed.
            InvalidRequest: the picture cannot be decoded, or the turned one is too large.
        """
        if self.orientation == UPRIGHT:
            return self
        try:
            return ImageSource.from_bytes(_turned(self.read(), str(self.format)))
        except (OSError, SyntaxError) as error:  # Pillow's words for a broken PNG
            raise _refusal(str(self.path or ""), f"cannot be decoded: {error}") from error

    @property
    def base64_length(self) -> int:
        """Length of the picture as base64 text, padding included."""
        return 4 * ((self.size + 2) // 3)

    def slices(self, length: int) -> Iterator[bytes | memoryview]:
        """Read the picture from its start; every piece but the last has `length` bytes.

        Raises:
            InvalidRequest: the file has changed since it was measured.
        """
        if self.data is not None:
            view = memoryview(self.data)
            yield from (view[start : start + length] for start in range(0, self.size, length))
            return
        path = cast("Path", self.path)
        try:
            with path.open("rb") as file:
                self._check_unchanged(file)
                left = self.size
                while left:
                    piece = file.read(min(length, left))
                    if not piece:
                        raise self._changed()
                    left -= len(piece)
                    yield piece
                self._check_unchanged(file)  # before the last bytes of the request go out
        except OSError as error:
            raise _unreadable(path, error) from None

    def _check_unchanged(self, file: BinaryIO) -> None:
        if not is_as_measured(self, os.fstat(file.fileno())):
            raise self._changed()

    def _changed(self) -> InvalidRequest:
        return _refusal(str(self.path), "has changed since it was measured; make the request again")

    def read(self) -> bytes:
        """The whole picture. Blocks while the file is read."""
        return b"".join(self.slices(_DIGEST_SLICE)) if self.data is None else self.data

    def digest(self) -> str:
        """SHA-256 of the picture's bytes, in hex. Blocks while the file is read."""
        sha = hashlib.sha256()
        for piece in self.slices(_DIGEST_SLICE):
            sha.update(piece)
        return sha.hexdigest()


def is_as_measured(picture: ImageSource, facts: os.stat_result) -> bool:
    """Whether a picture's file has the size and the time of when it was measured."""
    return (facts.st_size, facts.st_mtime_ns) == (picture.size, picture.modified_ns)


def media_type(picture: ImageSource) -> str:
    """Media type of a picture."""
    known = picture.format in PICTURES
    return f"image/{picture.format}" if known else "application/octet-stream"


class Array(Protocol):
    """Pixels in memory, such as an array of numpy's."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


Picture = ImageSource | str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Saveable | Array
"""Ways to give a picture. A `str` is a path; base64 goes through `ImageSource.from_base64`."""


def _source(value: Picture) -> ImageSource:
    return ImageSource.of(value)


@frozen(kw_only=True)
class DataURL:
    """A picture that goes into a JSON body as a data URL: `data:image/png;base64,…`.

    Args:
        image: The picture: a path, bytes, a binary file or an `ImageSource`.
    """

    image: ImageSource = field(converter=_source)
    """The picture: a path, bytes, a binary file or an `ImageSource`."""

    @property
    def prefix(self) -> str:
        """Text before the base64."""
        return f"data:{media_type(self.image)};base64,"


_STANDARD: Final = str.maketrans("-_", "+/")


def _read(file: BinaryIO) -> bytes:
    """Read a file to its end, or a byte beyond the limit. Raises `OSError`, `ValueError`."""
    data = bytearray()
    while len(data) <= MAX_BYTES and (piece := file.read(MAX_BYTES + 1 - len(data))):
        given = cast("object", piece)
        if isinstance(given, str):
            raise _refusal("", "the file is open as text; open it with mode 'rb'")
        if hasattr(given, "__await__"):
            getattr(given, "close", bool)()  # nobody will await it
            raise _refusal("", "the file is asynchronous; give the bytes: await file.read()")
        data += piece
    return bytes(data)


def _as_png(picture: Saveable) -> bytes:
    """Encode a decoded picture without loss."""
    file = io.BytesIO()
    mode = _RECODED.get(getattr(picture, "mode", ""))
    try:
        saveable = picture if mode is None else cast("Any", picture).convert(mode)
        saveable.save(file, format="PNG")
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise _refusal("", f"{rules.shown(picture)} cannot be saved as PNG: {error}") from error
    return file.getvalue()


def _picture_of(array: Any) -> Saveable:
    """Take an array of numpy's for a picture. Fractions are taken as shares of 255."""
    try:
        from PIL import Image  # noqa: PLC0415 - optional, and takes 50 ms
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            problem="pictures of arrays need Pillow", advice="pip install pillow"
        ) from error
    try:
        if array.dtype.kind == "f":
            if not 0 <= array.min() <= array.max() <= 1:
                raise _refusal("", "an array of fractions must lie between 0 and 1")
            array = (array * 255 + 0.5).astype("uint8")
        if array.ndim == 3 and array.shape[2] == 1:  # noqa: PLR2004 - one channel
            array = array[:, :, 0]
        return cast("Saveable", Image.fromarray(array))
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InvalidRequest):
            raise
        shape = f"{getattr(array, 'dtype', '?')}, {getattr(array, 'shape', '?')}"
        raise _refusal("", f"an array of {shape} is no picture: give uint8, height x width x 3") from error


def _turned(data: bytes, kind: str) -> bytes:
    """Turn the pixels of a picture as its EXIF says. Raises `OSError`, `SyntaxError`."""
    try:
        from PIL import Image, ImageOps  # noqa: PLC0415 - optional, and takes 50 ms
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            problem="turning pictures needs Pillow", advice="pip install pillow"
        ) from error
    file = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        ImageOps.exif_transpose(picture).save(
            file,
            kind,
            quality=_QUALITY,
            lossless=b"VP8L" in data,
            icc_profile=picture.info.get("icc_profile"),
            exif=b"",
        )
    return file.getvalue()


def _check_regular(path: Path) -> None:
    """Refuse pipes, whose opening would wait for a writer, and all else that cannot be read twice."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file; read it and use ImageSource.from_bytes(…)")


def _unreadable(path: Path, error: OSError | ValueError) -> InvalidRequest:
    """The trouble with a file. A payload in place of a path is not repeated."""
    text = str(path)
    if text.startswith("data:") or len(text) > _LONGEST_PATH:
        words = f"{text[:_GLIMPSE]}… ({len(text):,} characters)"
        return _refusal(words, "no such file; give base64 and data URLs as ImageSource.from_base64(…)")
    address = _URL.match(text)
    if address and address[1].lower() == "file":
        return _refusal(_address(address), "no such file; give the path itself, not a URL")
    if address:
        return _refusal(
            _address(address), "no such file; the API takes pictures, not URLs: download it first"
        )
    words = getattr(error, "strerror", None) or str(error)
    return _refusal(text, words[:1].lower() + words[1:])


def is_address(value: object) -> bool:
    """Whether a value is the web address of a picture, and no picture."""
    return isinstance(value, str) and value[:8].lower().startswith(("http://", "https://"))


def _address(url: "re.Match[str]") -> str:
    """A URL as it may be shown: without name, password and query."""
    return f"{url[1]}://{url[2]}"
