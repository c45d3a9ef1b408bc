"""Pictures of requests that machines share: put once by digest, fetched, checked, and kept within bounds."""

import hashlib
import os
import stat
import time
from pathlib import Path

import anyio
import pytest
from attrs import define, field

from novita_async import ConfigurationError, EditImage, InvalidRequest, Polling, Succeeded
from novita_async._files.cache import IN_USE, PictureCache, cache_folder
from novita_async._files.inputs import Inputs, digests_in
from novita_async._journal.identity import order_of, request_of
from novita_async._journal.memory import MemoryJournal
from novita_async.journal import PostgresJournal
from novita_async.models.images import ImageSource
from novita_async.storage import FolderStorage, MemoryStorage
from novita_async.testing import sample_picture
from tests.helpers.postgres import new_batch
from tests.helpers.service import client_of, picture, request, service

pytestmark = pytest.mark.anyio


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


DOG, CAT = picture(1), picture(2)


@define
class Counting(MemoryStorage):
    """A storage that counts what it is asked, and fails so often first."""

    puts: list[str] = field(factory=list)
    opened: list[str] = field(factory=list)
    troubles: list[Exception] = field(factory=list)

    async def put_new(self, name, content):
        self.puts.append(name)
        if self.troubles:
            raise self.troubles.pop(0)
        return await MemoryStorage.put_new(self, name, content)

    async def open(self, name):
        self.opened.append(name)
        if self.troubles:
            raise self.troubles.pop(0)
        async for piece in MemoryStorage.open(self, name):
            yield piece


@pytest.fixture
def cache(tmp_path):
    return PictureCache(tmp_path / "cache")


async def picture_of(inputs, digest, path=None):
    return await anyio.to_thread.run_sync(inputs.picture, digest, path)


async def bytes_of(picture):
    return await anyio.to_thread.run_sync(picture.read)


async def described(inputs, made=None):
    return await inputs.describe(made or request(), endpoint="/v3/async/img2img", position=0)


# --- Planning -----------------------------------------------------------------------------------------------


async def test_each_picture_is_put_once_under_its_digest_and_the_row_names_no_path(tmp_path, cache):
    storage = Counting()
    (tmp_path / "dog.png").write_bytes(DOG)
    inputs = Inputs(storage, cache)
    made = request(image=tmp_path / "dog.png")
    orders = [await described(inputs, each) for each in (made, request(), request(seed=7))]
    assert storage.puts == [f"inputs/{sha(DOG)}"]
    assert storage.files == {f"inputs/{sha(DOG)}": DOG}
    assert all("dog.png" not in order.request for order in orders)
    assert [digests_in(order) for order in orders] == [[sha(DOG)]] * 3
    named = order_of(made, endpoint="/v3/async/img2img", position=0, digest=inputs.digests)
    assert "dog.png" in named.request
    assert named.key == orders[0].key == orders[1].key


async def test_another_planner_meets_the_picture_that_is_there(cache):
    storage = Counting(files={f"inputs/{sha(DOG)}": DOG})
    await described(Inputs(storage, cache))
    assert storage.files == {f"inputs/{sha(DOG)}": DOG}


async def test_other_bytes_under_a_digest_refuse_the_request(cache):
    with pytest.raises(ConfigurationError, match="has other bytes: remove it"):
        await described(Inputs(Counting(files={f"inputs/{sha(DOG)}": CAT}), cache))


async def test_trouble_that_passes_is_ridden_out_and_what_stays_refuses_the_request(cache):
    await described(Inputs(Counting(troubles=[ConnectionError("reset")] * 3), cache))
    with pytest.raises(ConfigurationError, match=r"closed: its request was not planned, and not bought"):
        await described(Inputs(Counting(troubles=[PermissionError(13, "closed")]), cache))


async def test_a_picture_that_changes_before_it_is_put_is_refused(tmp_path, cache):
    (tmp_path / "dog.png").write_bytes(DOG)
    inputs = Inputs(Counting(), cache)
    with pytest.raises(InvalidRequest, match="has changed meanwhile"):
        await inputs.put(sha(CAT), ImageSource.from_path(tmp_path / "dog.png"))


async def test_where_files_are_this_machines_own_only_pictures_in_memory_are_put(tmp_path, cache):
    storage = Counting()
    (tmp_path / "cat.png").write_bytes(CAT)
    inputs = Inputs(storage, cache, keeps_all=False)
    order = await described(inputs, request(image=tmp_path / "cat.png"))
    await described(inputs)
    assert list(storage.files) == [f"inputs/{sha(DOG)}"]
    assert "cat.png" in order.request
    shut = Inputs(Counting(troubles=[PermissionError(13, "closed")]), cache, keeps_all=False)
    assert (await described(shut)).key


# --- Working ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        request(),
        EditImage(model="gpt-image-2", image=DOG, prompt="p", n=2),
        EditImage(model="seedream-5.0-lite", image=DOG, prompt="p"),
    ],
    ids=["img2img", "form", "data URLs"],
)
async def test_a_request_is_made_again_on_another_machine(cache, made):
    storage = Counting()
    planner = Inputs(storage, PictureCache(cache.folder.with_name("theirs")))
    order = await described(planner, made)
    worker = Inputs(storage, cache)
    await worker.bring([order, order])
    again = await anyio.to_thread.run_sync(request_of, order, worker.picture)
    assert [await bytes_of(each) for each in again.pictures] == [each.read() for each in made.pictures]
    assert all(each.path.parent == cache.folder for each in again.pictures)
    assert sorted(storage.opened) == sorted(f"inputs/{each.digest()}" for each in made.pictures)
    await Inputs(storage, PictureCache(cache.folder)).bring([order])
    assert len(storage.opened) == len(made.pictures)


@pytest.mark.parametrize(
    ("files", "troubles", "words"),
    [
        ({}, [], "inputs/"),
        ({f"inputs/{sha(DOG)}": CAT}, [], "what lies there has another digest"),
        ({f"inputs/{sha(DOG)}": bytes(51 << 20)}, [], "longer than 52,428,800 bytes"),
        ({}, [PermissionError(13, "access was denied")], "access was denied"),
    ],
)
async def test_a_picture_that_cannot_be_had_is_told_with_its_place_and_another_try_may_have_it(
    cache, files, troubles, words
):
    order = await described(Inputs(Counting(), cache))
    storage = Counting(files=files, troubles=troubles)
    inputs = Inputs(storage, cache)
    await inputs.bring([order])
    with pytest.raises(InvalidRequest, match=words) as caught:
        await picture_of(inputs, sha(DOG))
    assert f"memory://files/inputs/{sha(DOG)}" in str(caught.value)
    assert "not bought" in caught.value.advice
    storage.files = {f"inputs/{sha(DOG)}": DOG}
    await inputs.bring([order])
    assert await bytes_of(await picture_of(inputs, sha(DOG))) == DOG


async def test_an_outage_of_the_storage_is_ridden_out(cache):
    order = await described(Inputs(Counting(), cache))
    inputs = Inputs(Counting(files={f"inputs/{sha(DOG)}": DOG}, troubles=[TimeoutError()] * 4), cache)
    await inputs.bring([order])
    assert await bytes_of(await picture_of(inputs, sha(DOG))) == DOG
    assert 1 < anyio.current_time() < 120


async def test_without_a_storage_and_in_a_folder_pictures_are_where_they_were_or_in_the_folder(tmp_path):
    (tmp_path / "dog.png").write_bytes(DOG)
    await Inputs(None).bring([])
    assert await bytes_of(await picture_of(Inputs(None), sha(DOG), tmp_path / "dog.png")) == DOG
    with pytest.raises(InvalidRequest, match="is missing, or has changed"):
        await picture_of(Inputs(None), sha(CAT), tmp_path / "dog.png")
    with pytest.raises(InvalidRequest, match="it was given in memory"):
        await picture_of(Inputs(None), sha(CAT))
    inputs = Inputs(FolderStorage(tmp_path / "out"))
    order = await described(inputs, request(image=CAT))
    await inputs.bring([order])
    assert (await picture_of(inputs, sha(CAT))).path == tmp_path / "out" / "inputs" / f"{sha(CAT)}.png"


async def test_rows_of_one_picture_share_it_in_memory_until_its_file_changes(tmp_path, cache):
    file, inputs = tmp_path / "dog.png", Inputs(None, cache)
    file.write_bytes(DOG)
    first = inputs.picture(sha(DOG), file)
    assert inputs.picture(sha(DOG), file) is first
    file.write_bytes(CAT)
    second = inputs.picture(sha(CAT), file)
    assert (second.size, inputs.picture(sha(CAT), file)) == (len(CAT), second)
    assert first.size == len(DOG)


async def test_a_batch_keeps_its_pictures_beside_its_results():
    simulation, storage = service(), MemoryStorage()
    async with client_of(simulation) as (client, _):
        async with client.batch([request()], journal=MemoryJournal(), save_to=storage) as outcomes:
            assert [type(outcome) async for outcome in outcomes] == [Succeeded]
    assert f"inputs/{sha(DOG)}" in storage.files
    assert len(storage.files) == 2


# --- The cache ----------------------------------------------------------------------------------------------


def pictures(number: int) -> list[bytes]:
    return [sample_picture(name, (64, 64)) + bytes(100_000) for name in range(number)]


def test_what_was_used_least_recently_goes_first_and_what_is_in_use_stays(tmp_path):
    cache, many = PictureCache(tmp_path, bound=650_000), pictures(6)
    for data in many:
        assert cache.add(sha(data), [data[:10], data[10:]])
    held = cache.get(sha(many[0]))
    old = time.time() - IN_USE
    for number, data in enumerate(many):
        path = tmp_path / sha(data)
        os.utime(path, ns=(int((old - 100 + number) * 1e9), path.stat().st_mtime_ns))
    assert cache.get(sha(many[2]))
    another = PictureCache(tmp_path, bound=350_000)
    another.trim()
    left = {sha(data) for data in many if (tmp_path / sha(data)).exists()}
    assert left == {sha(many[2]), sha(many[4]), sha(many[5])}
    assert cache.add(sha(many[0]), [many[0]]).read() == held.read() == many[0]


def test_a_process_says_what_it_holds_and_others_let_it_lie(tmp_path):
    cache, many = PictureCache(tmp_path), pictures(2)
    held, other = [cache.add(sha(data), [data]) for data in many]
    for data in many:
        path = tmp_path / sha(data)
        os.utime(path, ns=(0, path.stat().st_mtime_ns))
    del other
    cache.touch()
    another = PictureCache(tmp_path, bound=1)
    another.trim()
    assert [path.name for path in tmp_path.iterdir()] == [sha(many[0])]
    assert held.read() == many[0]


def test_a_cut_or_changed_picture_is_not_taken_and_no_part_is_left(tmp_path):
    cache = PictureCache(tmp_path)
    assert cache.add(sha(DOG), [DOG[:-1]]) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / sha(DOG)).write_bytes(DOG[:-1])
    assert cache.get(sha(DOG)) is None
    assert list(tmp_path.iterdir()) == []
    assert cache.get(sha(DOG)) is None


def test_a_part_that_a_dead_process_left_is_removed_in_time(tmp_path):
    cache = PictureCache(tmp_path)
    (tmp_path / ".abc.part").write_bytes(b"half")
    cache.trim()
    assert (tmp_path / ".abc.part").exists()
    cache.trim(time.time() + IN_USE + 1)
    assert not (tmp_path / ".abc.part").exists()


async def test_a_picture_that_was_removed_is_brought_again_and_is_the_one_that_was_measured(cache):
    storage = Counting(files={f"inputs/{sha(DOG)}": DOG})
    inputs = Inputs(storage, cache)
    order = await described(Inputs(Counting(), cache))
    await inputs.bring([order])
    first = await picture_of(inputs, sha(DOG))
    (cache.folder / sha(DOG)).unlink()
    await inputs.bring([order])
    assert len(storage.opened) == 2
    assert await bytes_of(first) == DOG


async def test_pictures_are_touched_now_and_then_while_somebody_works(cache):
    inputs = Inputs(Counting(files={f"inputs/{sha(DOG)}": DOG}), cache)
    await inputs.bring([await described(Inputs(Counting(), cache))])
    held = await picture_of(inputs, sha(DOG))
    os.utime(held.path, ns=(0, held.path.stat().st_mtime_ns))
    with anyio.move_on_after(IN_USE):
        await inputs.tend()
    assert held.path.stat().st_atime > 0


@pytest.mark.parametrize(
    ("platform", "variable", "where"),
    [
        ("linux", "XDG_CACHE_HOME", "{given}/novita-async/inputs"),
        ("linux", None, "{home}/.cache/novita-async/inputs"),
        ("darwin", None, "{home}/Library/Caches/novita-async/inputs"),
        ("win32", "LOCALAPPDATA", "{given}/novita-async/inputs"),
    ],
)
def test_the_cache_lies_where_the_platform_has_caches_and_is_its_users_own(
    tmp_path, monkeypatch, platform, variable, where
):
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path / "given"))
    folder = cache_folder()
    assert folder == Path(where.format(home=tmp_path / "home", given=tmp_path / "given"))
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0


def test_where_nothing_can_be_written_at_home_the_cache_lies_with_temporary_files(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder().parent == tmp_path


@pytest.mark.real_loop
async def test_a_batch_whose_journal_machines_share_names_no_path_and_any_machine_has_its_pictures(
    tmp_path, cache, database
):
    simulation, storage = service(speed=100.0), MemoryStorage()
    (tmp_path / "dog.png").write_bytes(DOG)
    url = new_batch(database)
    async with client_of(simulation, polling=Polling.fixed(0.02)) as (client, _):
        many = [request(image=tmp_path / "dog.png"), request(image=CAT)]
        async with client.batch(many, journal=url, save_to=storage) as outcomes:
            got = [outcome async for outcome in outcomes]
    assert all(len(outcome.objects) == 1 for outcome in got)
    inputs = Inputs(storage, cache)
    async with await PostgresJournal.join(url) as journal:
        rows = [purchase async for purchase in journal.where()]
    await inputs.bring([row.entry for row in rows])
    assert all("dog.png" not in row.entry.request for row in rows)
    found = [await picture_of(inputs, *digests_in(row.entry)) for row in rows]
    assert {await bytes_of(each) for each in found} == {DOG, CAT}
    assert sorted(each for row in rows for each in row.objects) == sorted(x.objects[0] for x in got)
