"""Texts that Postgres cannot keep as they are."""

import re
from typing import Final

_ODD: Final = re.compile("[\x00\ue000\ud800-\udfff]")
_ODD_AGAIN: Final = re.compile("\ue000([0-9a-f]{4})")


def escaped(text: str) -> str:
    """A text that Postgres can keep: NUL and halves of characters are told by their numbers."""
    return _ODD.sub(lambda odd: f"\ue000{ord(odd[0]):04x}", text) if _ODD.search(text) else text


def unescaped(text: str) -> str:
    """The text that was escaped."""
    return _ODD_AGAIN.sub(lambda odd: chr(int(odd[1], 16)), text) if "\ue000" in text else text
