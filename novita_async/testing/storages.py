"""Checks that any storage must pass, for whoever writes one (`novita_async.storage`).

The storage is given as a function that makes it anew, over the same place. A whole test, in pytest:

```python
import pytest
from novita_async.testing.storages import CHECKS

@pytest.mark.anyio
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_my_storage_keeps_the_promises_of_a_storage(check, tmp_path):
    await check(lambda: MyStorage(tmp_path))
```

Each check begins with an empty place, and raises `AssertionError` with a sentence about the promise that is
not kept.
"""

import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import anyio

from novita_async._files.storage import Content, Storage, has_same, media_type_of, see_to

Made = Callable[[], Storage]
"""Makes a storage anew, over the same place."""
Check = Callable[[Made], Awaitable[None]]

_ODD_NAMES: Final = ("00000-42-1.png", "inputs/5f1a", "ä ö-犬-1.webp", "a.2.png", "x" * 200 + ".png")
_LONG: Final = 17 * 1024 * 1024
_RACERS: Final = 4


def _require(kept: bool, broken: str) -> None:  # noqa: FBT001 - as assert
    if not kept:
        raise AssertionError(broken)


async def _all_of(storage: Storage, name: str) -> bytes | None:
    """Read a file whole. None: there is none."""
    with suppress(FileNotFoundError):
        return b"".join([piece async for piece in storage.open(name)])
    return None


async def what_is_put_can_be_read(made: Made) -> None:
    """Files of each length and name come back byte for byte, also through a storage that is made anew."""
    storage = made()
    await see_to(storage)
    for name in _ODD_NAMES:
        data = name.encode() * 1000
        _require(not await storage.has(name), f"{name!r} is said to be there before it is put")
        _require(await storage.put_new(name, Content.of(data, "png")), f"{name!r} could not be put")
        _require(await made().has(name), f"{name!r} was put, and is said not to be there")
        _require(await _all_of(made(), name) == data, f"{name!r} has come back changed")
    _require(await storage.put_new("empty", Content.of(b"")), "an empty file could not be put")
    _require(await _all_of(storage, "empty") == b"", "an empty file has come back with something in it")


async def nothing_is_put_over_another(made: Made) -> None:
    """A name that is taken keeps its file, whoever comes, and the second is told so."""
    _require(await made().put_new("a.png", Content.of(b"first")), "a free name could not be put")
    for data in (b"second", b"first", b""):
        _require(not await made().put_new("a.png", Content.of(data)), "a name was put twice")
    _require(await _all_of(made(), "a.png") == b"first", "a file was put over another")


async def of_many_at_once_one_is_put(made: Made) -> None:
    """Of processes that put different files under one name at once, a single process is told of success."""
    told: list[int] = []

    async def put(number: int) -> None:
        if await made().put_new("a.png", Content.of(b"%d" % number * 100_000)):
            told.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(_RACERS):
            tasks.start_soon(put, number)
    _require(len(told) == 1, f"{len(told)} of {_RACERS} have put one name")
    _require(await _all_of(made(), "a.png") == b"%d" % told[0] * 100_000, "another file is there")


async def a_long_file_is_put_whole(made: Made) -> None:
    """A file too long to be held in memory is put whole, once, and never over another."""
    data = bytes(range(256)) * (_LONG // 256)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        content = Content(size=len(data), media_type=media_type_of("mp4"), file=file)
        _require(await made().put_new("a.mp4", content), "a long file could not be put")
        _require(not await made().put_new("a.mp4", content), "a long file was put twice")
        _require(await has_same(made(), "a.mp4", content), "a long file has come back changed")


async def what_is_missing_is_said_to_be(made: Made) -> None:
    """A name without a file is not there, and reading it raises `FileNotFoundError`."""
    storage = made()
    _require(not await storage.has("missing.png"), "a file is said to be there that nobody has put")
    _require(await _all_of(storage, "missing.png") is None, "a file that nobody has put could be read")


async def its_address_names_its_place(made: Made) -> None:
    """The address is one line without a slash at its end, and the same each time."""
    address = made().address
    _require(address == made().address, "the same place has two addresses")
    _require(address == address.strip().rstrip("/"), f"{address!r} ends in a slash or a blank")


async def looking_changes_nothing(made: Made) -> None:
    """`check` may be called again and again, beside files that are there."""
    storage = made()
    await storage.put_new("a.png", Content.of(b"mine"))
    for _ in range(2):
        await see_to(made())
    _require(await _all_of(storage, "a.png") == b"mine", "a file has changed because somebody looked")


CHECKS: Final[tuple[Check, ...]] = (
    what_is_put_can_be_read,
    nothing_is_put_over_another,
    of_many_at_once_one_is_put,
    a_long_file_is_put_whole,
    what_is_missing_is_said_to_be,
    its_address_names_its_place,
    looking_changes_nothing,
)
"""All checks, in the order in which they are best read."""
