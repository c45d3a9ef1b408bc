"""Kind of a result file, from its bytes: its suffix, or why it is none that was paid for.

The service's word for it is often wrong: a whole JPEG that is called png is kept, as what it is. Refused is
only what is no picture: a page, a message, nothing at all.
"""

from typing import BinaryIO, Final

from novita_async._files.names import safe_name
from novita_async._util.values import frozen
from novita_async.models._headers import PICTURES, TEXTS, is_whole, read_format

_SHOWN: Final = 12
_LONGEST_SUFFIX: Final = 16
_ALIASES: Final = {"jpg": "jpeg", "tif": "tiff", "heif": "heic"}
_MEDIA: Final = frozenset({"flac", "m4a", "mov", "mp3", "mp4", "ogg", "wav", "webm"})
"""Kinds of files that are no pictures, and no text either."""


class BadFileError(Exception):
    """The host answered, but not with the file."""

    def __init__(self, cause: str, *, status: int = 200, retry_after: float | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.status = status
        self.retry_after = retry_after
        """Seconds that the host asked to wait."""


class CutFileError(BadFileError):
    """A picture came that ends too early, though its length is as the host says."""


@frozen(kw_only=True)
class FoundKind:
    """Kind of a file."""

    suffix: str
    """The end of its name, without the dot."""
    stated: str | None
    """The service's word for it, where that is another one."""
    is_cut: bool
    """Whether it ends too early."""


def kind_of(file: BinaryIO, stated: str | None, *, takes_cut: bool) -> FoundKind:
    """Tell a file that stands at its beginning. Reads it; blocks.

    Args:
        file: The file.
        stated: The service's word for its kind.
        takes_cut: Whether a picture that ends too early is taken.

    Raises:
        BadFileError: the file is no picture, and nothing else that the service states.
        CutFileError: the file ends too early.
    """
    wanted = _ALIASES.get(stated.lower(), stated.lower()) if stated else None
    found = read_format(file)
    if found in PICTURES or (found in _MEDIA and wanted in PICTURES):
        is_cut = not is_whole(file, found)
        if is_cut and not takes_cut:
            raise CutFileError(f"the file is a {found} that ends too early")
        return FoundKind(
            suffix=str(found), stated=stated if wanted not in (None, found) else None, is_cut=is_cut
        )
    file.seek(0)
    start = file.read(_SHOWN)
    if not start:
        raise BadFileError("the file is empty")
    if found in TEXTS and (wanted is None or wanted in PICTURES | _MEDIA):
        raise BadFileError(f"the file is {found}, no {'picture' if wanted not in _MEDIA else wanted}")
    if wanted in PICTURES:
        raise BadFileError(f"the file begins with {start!r}, which is no picture")
    suffix = safe_name(wanted, _LONGEST_SUFFIX) if wanted else found or "bin"
    return FoundKind(suffix=suffix, stated=None, is_cut=False)
