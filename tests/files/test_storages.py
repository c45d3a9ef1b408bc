"""Every storage that is shipped keeps the promises of a storage, and one that does not is found out."""

import pytest
from attrs import define

from novita_async.storage import Content, FolderStorage, MemoryStorage
from novita_async.testing.storages import CHECKS

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]


@pytest.fixture(params=["memory", "folder", "object store"])
def made(request, tmp_path):
    if request.param == "memory":
        storage = MemoryStorage()
        return lambda: storage
    if request.param == "folder":
        return lambda: FolderStorage(tmp_path / "deep" / "out")
    s3 = request.getfixturevalue("s3")
    bucket = s3.new_bucket()
    return lambda: s3.storage(bucket)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_a_storage_keeps_a_promise(check, made):
    await check(made)


@define
class Overwriting(MemoryStorage):
    async def put_new(self, name, content):
        self.files[name] = await content.read()
        return True


@define
class Cutting(MemoryStorage):
    async def put_new(self, name, content):
        return await MemoryStorage.put_new(self, name, Content.of((await content.read())[:1000]))


@define
class Forgetful(MemoryStorage):
    async def has(self, _):
        return False


@define
class Inventing(MemoryStorage):
    async def open(self, name):
        yield self.files.get(name, b"")


@define
class Slashed(MemoryStorage):
    address: str = "memory://files/"


@define
class Looking(MemoryStorage):
    async def check(self):
        self.files.clear()


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (Overwriting, "nothing_is_put_over_another of_many_at_once_one_is_put a_long_file_is_put_whole"),
        (Cutting, "what_is_put_can_be_read of_many_at_once_one_is_put a_long_file_is_put_whole"),
        (Forgetful, "what_is_put_can_be_read"),
        (Inventing, "what_is_missing_is_said_to_be"),
        (Slashed, "its_address_names_its_place"),
        (Looking, "looking_changes_nothing"),
    ],
)
async def test_a_storage_that_breaks_a_promise_is_found_out(broken, found):
    failed = []
    for check in CHECKS:
        storage = broken()
        try:
            await check(lambda storage=storage: storage)
        except AssertionError:
            failed.append(check.__name__)
    assert failed == found.split()
