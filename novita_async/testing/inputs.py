"""Input pictures, kept until their results are drawn."""

import hashlib
from collections import OrderedDict

from attrs import define, field

from novita_async._util.values import frozen


@frozen(kw_only=True)
class InputStatistics:
    """The store at a moment."""

    pictures: int
    """Different pictures."""
    size: int
    """Their bytes."""


@define(eq=False)
class InputStore:
    """Pictures by digest: equal ones are kept once, the oldest go when they become too many."""

    limit: int
    """Bytes that are kept."""
    _kept: OrderedDict[bytes, bytes] = field(factory=OrderedDict, init=False)
    _size: int = field(default=0, init=False)

    def keep(self, data: bytes) -> bytes:
        """Keep a picture; returns the key to get it back by."""
        key = hashlib.blake2b(data, digest_size=16).digest()
        if key not in self._kept:
            self._kept[key] = data
            self._size += len(data)
        self._kept.move_to_end(key)
        while self._size > self.limit:
            self._size -= len(self._kept.popitem(last=False)[1])
        return key

    def get(self, key: bytes | None) -> bytes | None:
        """The picture, unless it was forgotten, or never was."""
        return None if key is None else self._kept.get(key)

    def statistics(self) -> InputStatistics:
        return InputStatistics(pictures=len(self._kept), size=self._size)

    def __repr__(self) -> str:
        return f"<InputStore {len(self._kept)} pictures, {self._size}/{self.limit} bytes>"
