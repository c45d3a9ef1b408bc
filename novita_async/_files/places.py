"""Places that users name: a folder, the URL of a bucket, a storage of their own."""

import os
import re
from pathlib import Path
from typing import Final

from novita_async._files.folders import FolderStorage
from novita_async._files.objects import SCHEMES, ObjectStorage
from novita_async._files.storage import Storage, is_address
from novita_async.errors import ConfigurationError

SaveTo = str | os.PathLike[str] | Storage
"""A folder, a URL such as `s3://bucket/prefix`, or a storage."""
_URL: Final = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def is_object(address: str) -> bool:
    """Whether this is the address of a file in an object store of a known kind."""
    scheme = _URL.match(address)
    return scheme is not None and scheme[1].lower() in SCHEMES


def storage_at(place: SaveTo) -> Storage:
    """Make the storage of a place. Nothing is asked of it yet.

    Args:
        place: A path, the URL of a place in an object store, or a storage, which is given back.

    Raises:
        ConfigurationError: the URL is of no known kind, or what it needs is not installed.
    """
    if isinstance(place, str) and (scheme := _URL.match(place)):
        if scheme[1].lower() not in SCHEMES:
            raise ConfigurationError(
                problem=f"files cannot be put into {scheme[1]}://…: no such storage is known",
                advice="nothing was bought; give a folder, s3://…, gs://…, az://…, or a Storage of your own",
            )
        return ObjectStorage(place)
    if isinstance(place, str | os.PathLike):
        return FolderStorage(Path(place))
    if not isinstance(place, FolderStorage) and not is_address(place.address):
        raise ConfigurationError(
            problem=f"{place!r}: its address {place.address!r} looks like a path",
            advice="nothing was bought; let it have an address such as dav://host/folder",
        )
    return place
