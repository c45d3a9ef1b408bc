"""Files as the report sees them: links from its folder, and thumbnails where they are to travel with it."""

import hashlib
import io
import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

from attrs import define, field

from novita_async._util.values import frozen
from novita_async.errors import ConfigurationError

_SHOWN: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".bmp"})
"""Files that a browser shows as pictures."""
_THUMBNAIL: Final = (384, 384)
_QUALITY: Final = 72
INPUTS: Final = "inputs"
"""Folder beside the report in which inputs lie by their digest."""


@frozen(kw_only=True)
class Picture:
    """A file of a request, input or output."""

    name: str
    """Name for readers."""
    href: str | None = None
    """Where it is, as the page sees it. None: not there."""
    shown: bool = False
    """Whether a browser can show it as a picture."""
    thumbnail: str | None = None
    """A small copy as a data URL."""
    lack: str = ""
    """Why it cannot be shown."""


class ReportFiles(Protocol):
    """Where a page finds files."""

    def input(self, digest: str, path: str | None) -> Picture:
        """The picture with this SHA-256, which was at this path when it was sent (None: in memory)."""
        ...

    def output(self, path: str) -> Picture:
        """A saved file."""
        ...


def _absolute(path: Path) -> Path:
    return path.absolute()


@define
class Disk:
    """Files on disk, seen from the report's folder."""

    folder: Path = field(converter=_absolute)
    """Where the report will be."""
    embed: bool = False
    """Whether to make thumbnails."""
    _by_digest: dict[str, Path] | None = None

    def __attrs_post_init__(self) -> None:
        if self.embed and find_spec("PIL") is None:
            raise ConfigurationError(
                problem="thumbnails are made with Pillow", advice="pip install 'novita-async[cli]'"
            )

    def input(self, digest: str, path: str | None) -> Picture:
        """The copy beside the report where there is one, else the file that was sent."""
        name = os.path.basename(path) if path else f"{digest[:12]}…"  # noqa: PTH119 - it may be of another system
        kept = self._kept().get(digest)
        if kept is not None:
            return self._picture(kept, name)
        if path is None:
            lack = (
                f"not kept: it was given as bytes, and there is no {INPUTS}/{digest[:12]}… beside this report"
            )
            return Picture(name=name, lack=lack)
        return self._found(path, name, digest)

    def output(self, path: str) -> Picture:
        """A saved file."""
        return self._found(path, os.path.basename(path))  # noqa: PTH119 - as above

    def _kept(self) -> dict[str, Path]:
        if self._by_digest is None:
            self._by_digest = {}
            with suppress(OSError):
                self._by_digest = {path.stem: path for path in sorted((self.folder / INPUTS).iterdir())}
        return self._by_digest

    def _found(self, path: str, name: str, digest: str | None = None) -> Picture:
        """A file that was somewhere: where it was, seen from here or there, or, moved, beside the report."""
        for place in (self.folder / path, Path(path).absolute(), *self._beside(name, digest)):
            if _is_file(place):
                return self._picture(place, name, digest)
        return Picture(name=name, lack=f"{name} is no longer where it was")

    def _beside(self, name: str, digest: str | None) -> Iterator[Path]:
        """Where an output lies after its folder was moved. An input's name says too little."""
        if digest is None:
            yield self.folder / name

    def _picture(self, place: Path, name: str, digest: str | None = None) -> Picture:
        shown = place.suffix.lower() in _SHOWN
        href = link(place, self.folder)
        if not self.embed:
            return Picture(name=name, href=href, shown=shown)
        try:
            data = place.read_bytes()
        except OSError as error:
            return Picture(
                name=name, lack=f"{name} cannot be read ({(error.strerror or str(error)).lower()})"
            )
        if digest is not None and hashlib.sha256(data).hexdigest() != digest:
            return Picture(name=name, lack=f"{name} has changed since it was sent")
        small = thumbnail(data)
        return Picture(name=name, href=href, shown=shown or small is not None, thumbnail=small)


def elsewhere(address: str) -> Picture:
    """Tell a file in an object store, which a page cannot show."""
    return Picture(name=address.rpartition("/")[2], lack=f"in an object store: {address}")


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except (OSError, ValueError):  # a name too long, a NUL in it
        return False


def link(place: Path, folder: Path) -> str:
    """A URL that leads from a folder to a file."""
    try:
        steps = Path(os.path.relpath(place, folder)).parts
    except ValueError:  # on another drive
        return place.as_uri()
    return "/".join(quote(os.fsencode(step), safe="") for step in steps)


def thumbnail(data: bytes) -> str | None:
    """A small copy of a picture, as a data URL. None: this is no picture that can be read."""
    from PIL import Image, ImageOps  # noqa: PLC0415 - an extra, and slow to import

    out = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", _THUMBNAIL)
            upright = ImageOps.exif_transpose(image)
            upright.thumbnail(_THUMBNAIL)
            mode = "RGBA" if upright.has_transparency_data else "RGB"
            upright.convert(mode).save(out, "WEBP", quality=_QUALITY, method=4)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    return f"data:image/webp;base64,{b64encode(out.getvalue()).decode()}"
