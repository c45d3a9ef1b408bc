"""Pictures that go into requests: measured when they are named, read when they are sent."""

import errno
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

import pybase64
from attrs import field, frozen

from novita_async.errors import Fault, InvalidRequest, NovitaWarning
from novita_async.models import _rules as rules
from novita_async.models._headers import Header, read_header

MAX_BYTES: Final = 10_485_760
"""No sensible reading of the documented "10 Mb" allows a larger file."""
SAFE_BYTES: Final = 7_500_000
"""Every sensible reading of the documented "10 Mb" allows a file of this size."""
MAX_PIXELS: Final = 16_777_216
"""The larger reading of the documented "16 megapixels"."""
_DIGEST_SLICE: Final = 1 << 20
_GLIMPSE: Final = 24
"""Characters of a payload that may be shown."""
_LONGEST_PATH: Final = 500
"""Longer texts are taken for base64 when they name no file."""


_IN_MEMORY: Final = "the picture"


def _refusal(where: str, message: str) -> InvalidRequest:
    return InvalidRequest(faults=(Fault(where or _IN_MEMORY, message),))


def why_refused(refusal: InvalidRequest) -> str:
    """The words of a refusal, for a message that names the field already."""
    return refusal.sentence().removeprefix(f"{_IN_MEMORY}: ")


@frozen(kw_only=True)
class ImageSource:
    """A picture on disk or in memory, whose bytes are read only while they are sent.

    Make one with `from_path`, `from_bytes`, `from_file` or `from_base64`, or hand any of a path, bytes or a
    binary file to the field that takes a picture.

    Raises:
        InvalidRequest: missing, empty, above 10,485,760 bytes, or above 16,777,216 pixels where the header
            tells. Above 7,500,000 bytes it warns, because the service's limit is not documented exactly.
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
    """`png`, `jpeg` or `webp`, from the header; None: not recognised, the service decides."""
    width: int | None = None
    """Pixels, from the header; None: not readable there."""
    height: int | None = None
    """Pixels, from the header; None: not readable there."""

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
        if (self.width or 0) * (self.height or 0) > MAX_PIXELS:
            raise _refusal(where, f"{self.width}x{self.height} is above the limit of {MAX_PIXELS:,} pixels")
        if self.size > SAFE_BYTES:
            text = f"{self.size:,} bytes may be above the service's limit; {SAFE_BYTES:,} are safe"
            warnings.warn(f"{where or _IN_MEMORY}: {text}", NovitaWarning, stacklevel=4)

    @classmethod
    def from_path(cls, path: "str | os.PathLike[str]") -> "ImageSource":
        """Measure a file: one stat and its header. Its bytes are read when they are sent."""
        place = Path(path)
        try:
            _check_regular(place)
            with place.open("rb") as file:
                facts = os.fstat(file.fileno())
                header = read_header(file)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise _unreadable(place, error) from None
        return cls(
            path=place,
            size=facts.st_size,
            modified_ns=facts.st_mtime_ns,
            format=header.format,
            width=header.width,
            height=header.height,
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "ImageSource":
        """Take a picture that is already in memory."""
        header = read_header(io.BytesIO(data)) if data else Header()
        return cls(
            data=bytes(data),
            size=len(data),
            format=header.format,
            width=header.width,
            height=header.height,
        )

    @classmethod
    def from_file(cls, file: BinaryIO) -> "ImageSource":
        """Read an open binary file from where it stands; at most one byte over the limit is read. Blocks."""
        data = bytearray()
        try:
            while len(data) <= MAX_BYTES and (piece := file.read(MAX_BYTES + 1 - len(data))):
                data += piece
        except TypeError as error:
            raise _refusal("", "the file is open as text; open it with mode 'rb'") from error
        except (OSError, ValueError) as error:  # ValueError: closed, or not open for reading
            raise _refusal("", f"cannot be read: {error}") from error
        return cls.from_bytes(bytes(data))

    @classmethod
    def from_base64(cls, text: str) -> "ImageSource":
        """Decode base64 or a data URL. Line breaks, the URL-safe alphabet and missing padding are fine."""
        bare = text.partition(",")[2] if text[:5].lower() == "data:" else text
        joined = "".join(bare.split()).translate(_STANDARD).rstrip("=")
        try:
            data = pybase64.b64decode(joined + "=" * (-len(joined) % 4), validate=True)
        except ValueError as error:
            raise _refusal(
                "", f"{rules.shown(text[:_GLIMPSE])} ({len(text):,} characters) is not base64"
            ) from error
        return cls.from_bytes(data)

    @classmethod
    def of(cls, value: "ImageSource | str | os.PathLike[str] | bytes | BinaryIO") -> "ImageSource":
        """Turn anything that a picture can be given as into a source. A `str` is a path, never base64."""
        if isinstance(value, ImageSource):
            return value
        if isinstance(value, bytes | bytearray | memoryview):
            return cls.from_bytes(bytes(value))
        if isinstance(value, str | os.PathLike):
            return cls.from_path(value)
        if hasattr(value, "read"):
            return cls.from_file(value)
        raise _refusal("", f"{rules.shown(value)} is neither a path, nor bytes, nor a binary file")

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
        else:
            yield from self._file_slices(cast("Path", self.path), length)

    def _file_slices(self, path: Path, length: int) -> Iterator[bytes]:
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
        facts = os.fstat(file.fileno())
        if (facts.st_size, facts.st_mtime_ns) != (self.size, self.modified_ns):
            raise self._changed()

    def _changed(self) -> InvalidRequest:
        return _refusal(str(self.path), "has changed since it was measured; make the request again")

    def read(self) -> bytes:
        """The whole picture. Blocks while the file is read."""
        return b"".join(self.slices(MAX_BYTES))

    def digest(self) -> str:
        """SHA-256 of the picture's bytes, in hex. Blocks while the file is read."""
        sha = hashlib.sha256()
        for piece in self.slices(_DIGEST_SLICE):
            sha.update(piece)
        return sha.hexdigest()


_STANDARD: Final = str.maketrans("-_", "+/")


def _check_regular(path: Path) -> None:
    """Refuse pipes, whose opening would wait for a writer, and all else that cannot be read twice."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file; read it and use ImageSource.from_bytes(…)")


def _unreadable(path: Path, error: OSError | ValueError) -> InvalidRequest:
    """What went wrong with a file. A payload in place of a path is not repeated."""
    text = str(path)
    if text.startswith("data:") or len(text) > _LONGEST_PATH:
        words = f"{text[:_GLIMPSE]}… ({len(text):,} characters)"
        return _refusal(words, "no such file; give base64 and data URLs as ImageSource.from_base64(…)")
    if text.startswith(("http:/", "https:/")):
        words = text.partition("?")[0]
        return _refusal(words, "no such file; the API takes pictures, not URLs: download it first")
    words = getattr(error, "strerror", None) or str(error)
    return _refusal(text, words[:1].lower() + words[1:])
