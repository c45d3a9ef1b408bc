"""Public names for places that keep files: `save_to=` takes a folder, a URL or a `Storage`.

`FolderStorage` is a folder, `ObjectStorage` a place in S3, Google Cloud Storage or Azure Blob Storage (extra
`objects`), `MemoryStorage` is for tests, and the shortest example. A `Storage` of your own has four methods
and an address; `novita_async.testing.storages` checks it.
"""

from novita_async._files.folders import FolderStorage
from novita_async._files.objects import ObjectStorage
from novita_async._files.places import SaveTo, storage_at
from novita_async._files.storage import Content, MemoryStorage, Storage

__all__ = [
    "Content",
    "FolderStorage",
    "MemoryStorage",
    "ObjectStorage",
    "SaveTo",
    "Storage",
    "storage_at",
]
