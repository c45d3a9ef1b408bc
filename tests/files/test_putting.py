"""Results put into storages that are no folders: fetched and checked first, and never over another file."""

import anyio
import pytest
from attrs import define, field

from novita_async import ConfigurationError, DownloadFailed, EditImage, Failed, JournalError, Succeeded
from novita_async._files import saver as _saver
from novita_async._files.part import HELD
from novita_async._journal.memory import MemoryJournal
from novita_async.events import CutFileKept, FileSaved, KindDiffers, Saved
from novita_async.storage import Content, MemoryStorage, storage_at
from tests.helpers import payloads
from tests.helpers.hosts import Host, Saving, result_of
from tests.helpers.service import client_of, of_kind, picture, request, requests, service

pytestmark = pytest.mark.anyio
WHOLE = picture()


@define
class Flaky(MemoryStorage):
    """A storage that raises these before it takes results, and may have put the file all the same."""

    troubles: list[Exception] = field(factory=list)
    puts_all_the_same: bool = False
    refused: list[str] = field(factory=list)

    async def put_new(self, name, content):
        if self.troubles and "/" not in name:
            if self.puts_all_the_same:
                await MemoryStorage.put_new(self, name, content)
            self.refused.append(name)
            raise self.troubles.pop(0)
        return await MemoryStorage.put_new(self, name, content)


def results_in(storage):
    """Names of all files but the pictures that went in."""
    return sorted(name for name in storage.files if "/" not in name)


async def batch(client, many, journal, storage, **options):
    async with client.batch(many, journal=journal, save_to=storage, **options) as outcomes:
        return [outcome async for outcome in outcomes]


# --- One result ---------------------------------------------------------------------------------------------


async def test_files_are_put_under_their_names_and_told_by_their_addresses():
    storage, saving = MemoryStorage(), Saving(Host.of(WHOLE, payloads.picture("JPEG")))
    addresses = await saving.saver.put(result_of("png", "png"), storage, "dog")
    assert addresses == ("memory://files/dog-1.png", "memory://files/dog-2.jpeg")
    assert storage.files == {"dog-1.png": WHOLE, "dog-2.jpeg": payloads.picture("JPEG")}
    assert [event.address for event in of_kind(saving.events, FileSaved)] == list(addresses)
    assert of_kind(saving.events, KindDiffers)[0].address == addresses[1]
    assert saving.saver.statistics().saved == 2


@pytest.mark.parametrize("length", [HELD - 1, HELD, 3 * HELD + 1])
async def test_a_file_of_any_length_comes_whole(length):
    data = b"\x00\x00\x00\x18ftypmp42" + bytes(length)
    storage = MemoryStorage()
    await Saving(Host.of(data, step=100_000)).saver.put(result_of("mp4"), storage)
    assert storage.files == {"t-1-1.mp4": data}


async def test_nothing_is_put_that_is_not_what_was_paid_for():
    storage = MemoryStorage()
    saving = Saving(Host.of(b"<html>mended</html>"), attempts=2)
    with pytest.raises(DownloadFailed, match="html"):
        await saving.saver.put(result_of("png"), storage)
    assert storage.files == {}


async def test_a_file_that_stays_cut_is_put_as_it_is():
    storage, saving = MemoryStorage(), Saving(Host.of(WHOLE[:-20]))
    await saving.saver.put(result_of("png"), storage)
    assert storage.files == {"t-1-1.png": WHOLE[:-20]}
    assert of_kind(saving.events, CutFileKept)


async def test_a_name_that_another_file_has_is_left_to_it():
    storage = MemoryStorage(files={"t-1-1.png": b"mine", "t-1-1.2.png": WHOLE[:-1]})
    (address,) = await Saving(Host.of(WHOLE)).saver.put(result_of("png"), storage)
    assert address == "memory://files/t-1-1.3.png"
    assert storage.files["t-1-1.png"] == b"mine"


async def test_a_name_that_the_very_same_bytes_have_is_the_files_own():
    storage = MemoryStorage(files={"t-1-1.png": WHOLE})
    assert await Saving(Host.of(WHOLE)).saver.put(result_of("png"), storage) == ("memory://files/t-1-1.png",)
    assert len(storage.files) == 1


@pytest.mark.parametrize("puts_all_the_same", [False, True])
@pytest.mark.parametrize("trouble", [ConnectionError("reset"), TimeoutError("slow")])
async def test_trouble_that_passes_is_ridden_out_without_fetching_the_file_again(trouble, puts_all_the_same):
    storage = Flaky(troubles=[trouble] * 4, puts_all_the_same=puts_all_the_same)
    saving = Saving(Host.of(WHOLE))
    assert await saving.saver.put(result_of("png"), storage) == ("memory://files/t-1-1.png",)
    assert storage.files == {"t-1-1.png": WHOLE}
    assert (saving.host.asked, len(storage.refused)) == (1, 4)
    assert anyio.current_time() > 1.0


@pytest.mark.parametrize(
    ("trouble", "scope", "words"),
    [
        (
            PermissionError(13, "access was denied (AccessDenied)"),
            "account",
            "access was denied (AccessDenied)",
        ),
        (FileNotFoundError(2, "there is no such bucket"), "account", "there is no such bucket"),
        (OSError(95, "no such names here"), "request", "no such names here"),
        (KeyError("mine"), "request", "KeyError: 'mine'"),
    ],
)
async def test_trouble_that_stays_is_told_at_once_with_its_place_and_its_task(trouble, scope, words):
    storage = Flaky(troubles=[trouble])
    with pytest.raises(DownloadFailed) as caught:
        await Saving(Host.of(WHOLE)).saver.put(result_of("png"), storage)
    assert str(caught.value).startswith(
        f"download of https://host/0 failed: it cannot be put into memory://files: {words}: paid and finished"
    )
    assert (caught.value.scope, caught.value.task_id) == (scope, "t-1")


async def test_trouble_that_does_not_pass_ends_when_patience_does():
    storage = Flaky(troubles=[ConnectionError("reset")] * 1000)
    with pytest.raises(DownloadFailed, match="reset"):
        await Saving(Host.of(WHOLE), max_elapsed=100.0).saver.put(result_of("png"), storage)
    assert 100 <= anyio.current_time() <= 140


async def test_eight_files_are_put_at_once_and_no_more():
    @define
    class Slow(MemoryStorage):
        now: int = 0
        most: int = 0

        async def put_new(self, name, content):
            self.now += 1
            self.most = max(self.most, self.now)
            await anyio.sleep(1)
            self.now -= 1
            return await MemoryStorage.put_new(self, name, content)

    storage, saving = Slow(), Saving(Host())
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(saving.saver.put, result_of("png", task_id=f"t-{number}"), storage)
    assert (storage.most, len(storage.files)) == (8, 20)


async def test_ten_thousand_names_are_tried_and_then_the_error_says_so(monkeypatch):
    monkeypatch.setattr(_saver, "_NAMES", 3)
    storage = MemoryStorage(files=dict.fromkeys(("t-1-1.png", "t-1-1.2.png"), b"mine"))
    with pytest.raises(DownloadFailed, match="exists 3 times in memory://files"):
        await Saving(Host()).saver.put(result_of("png"), storage)


async def test_a_content_can_be_read_again_and_says_what_it_is():
    content = Content.of(WHOLE, "png")
    assert [await content.read() for _ in range(2)] == [WHOLE, WHOLE]
    assert b"".join([piece async for piece in content.chunks(1000)]) == WHOLE
    assert repr(content) == f"<Content image/png, {len(WHOLE):,} bytes>"


# --- Streams, batches, watches ------------------------------------------------------------------------------


async def test_a_client_puts_one_result_and_gives_its_addresses():
    storage = MemoryStorage()
    async with client_of(service()) as (client, _):
        result = await client.run(request(image_num=2))
        addresses = await client.save(result, storage, name="dog")
    assert addresses == ("memory://files/dog-1.png", "memory://files/dog-2.png")


async def test_a_batch_puts_its_results_and_remembers_where(tmp_path):
    storage, simulation = MemoryStorage(), service()
    async with client_of(simulation) as (client, _):
        got = await batch(client, requests(3), tmp_path / "run.db", storage)
        again = await batch(client, requests(3), tmp_path / "run.db", storage)
    names = [f"{place:05d}-{place}-1.png" for place in range(3)]
    assert results_in(storage) == names
    for outcomes in (got, again):
        assert sorted(each.objects[0] for each in outcomes) == [f"memory://files/{name}" for name in names]
        assert all(each.paths == () for each in outcomes)
    assert len(simulation.ledger.accepted) == 3
    assert again[0].to_dict()["objects"] == list(again[0].objects)


@pytest.mark.parametrize("journal", ["file", "memory"])
async def test_what_is_gone_from_a_storage_is_fetched_again_and_nothing_else_is(tmp_path, journal):
    store = tmp_path / "run.db" if journal == "file" else MemoryJournal()
    storage, simulation = MemoryStorage(), service()
    async with client_of(simulation) as (client, events):
        await batch(client, requests(4), store, storage)
        wanted = dict(storage.files)
        storage.files = {name: data for name, data in storage.files.items() if not name.startswith("00001")}
        events.clear()
        got = await batch(client, requests(4), store, storage)
    assert storage.files == wanted
    assert len(of_kind(events, FileSaved)) == 1
    assert len(simulation.ledger.accepted) == len(got) == 4


async def test_files_are_found_where_they_were_put_and_where_they_have_moved(tmp_path):
    """From a folder into a storage, from there under another address, and back into a folder."""
    simulation, journal = service(), tmp_path / "run.db"
    first, second = MemoryStorage(), MemoryStorage("memory://other")
    async with client_of(simulation) as (client, events):
        await batch(client, requests(2), journal, tmp_path / "out")
        events.clear()
        there = await batch(client, requests(2), journal, first)
        assert all(each.paths for each in there)
        for path in (tmp_path / "out").glob("*.png"):
            first.files[path.name] = path.read_bytes()
            path.unlink()
        moved = await batch(client, requests(2), journal, first)
        assert [each.objects for each in moved] == [(f"memory://files/0000{n}-{n}-1.png",) for n in range(2)]
        assert of_kind(events, FileSaved) == []
        second.files = dict(first.files)
        fetched = await batch(client, requests(2), journal, second)
        back = await batch(client, requests(2), journal, tmp_path / "out")
    assert all(each.objects[0].startswith("memory://other/") for each in fetched)
    assert all(path.is_file() for each in back for path in each.paths)
    assert len(simulation.ledger.accepted) == 2


async def test_a_storage_that_cannot_say_what_it_has_ends_the_batch_and_buys_nothing(tmp_path):
    @define
    class Deaf(MemoryStorage):
        async def has(self, _):
            raise ConnectionError("nobody answers")

    simulation = service()
    async with client_of(simulation) as (client, _):
        await batch(client, requests(1), tmp_path / "run.db", MemoryStorage())
        with pytest.raises(ConfigurationError, match="nobody answers: nothing was bought"):
            await batch(client, requests(2), tmp_path / "run.db", Deaf())
    assert len(simulation.ledger.accepted) == 1


async def test_nothing_is_bought_where_files_cannot_be_put():
    @define
    class Shut(MemoryStorage):
        async def check(self):
            raise PermissionError(13, "closed on Sundays")

    simulation = service()
    async with client_of(simulation) as (client, _):
        with pytest.raises(ConfigurationError) as caught:
            async with client.stream(requests(2), save_to=Shut()) as outcomes:
                await anext(outcomes)
    assert str(caught.value) == (
        "files cannot be put into memory://files: closed on Sundays: nothing was bought; "
        "mend that, or choose another place"
    )
    assert len(simulation.ledger.accepted) == 0


async def test_a_storage_that_shuts_during_a_batch_ends_it_and_the_next_run_fetches_what_is_paid(tmp_path):
    simulation, storage = service(), Flaky(troubles=[PermissionError(13, "expired")])
    async with client_of(simulation) as (client, _):
        with pytest.raises(DownloadFailed, match="expired"):
            await batch(client, requests(30), tmp_path / "run.db", storage, in_flight=4)
        bought = len(simulation.ledger.accepted)
        assert bought < 30
        got = await batch(client, requests(30), tmp_path / "run.db", storage)
    assert len(got) == len(results_in(storage)) == len(simulation.ledger.accepted) == 30


async def test_a_watch_puts_files_too():
    simulation, storage = service(), MemoryStorage()
    async with client_of(simulation) as (client, _):
        task = await client.submit(request())
        async with client.watch([task], save_to=storage) as outcomes:
            (done,) = [outcome async for outcome in outcomes]
    assert isinstance(done, Succeeded)
    assert done.objects == (f"memory://files/{task.task_id}-1.png",)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("ftp://host/out", "files cannot be put into ftp://…: no such storage is known"),
        ("s3://", "'s3://' names no bucket"),
        ("s3://key:secret@bucket/out", "s3://…: a bucket's URL holds no credentials"),
        ("s3://bucket/out?versionId=1", "s3://…: a bucket's URL holds no credentials, no query"),
    ],
)
def test_a_place_that_is_none_is_refused_without_repeating_a_secret(place, words):
    with pytest.raises(ConfigurationError) as caught:
        storage_at(place)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "nothing was bought" in str(caught.value)


def test_a_storage_whose_address_looks_like_a_path_is_refused():
    with pytest.raises(ConfigurationError, match="looks like a path"):
        storage_at(MemoryStorage("files"))


async def test_pictures_that_came_in_an_answer_are_put(tmp_path):
    simulation, storage = service(), MemoryStorage()
    many = [EditImage(model="gpt-image-2", image=picture(), prompt=f"no {n}") for n in range(2)]
    async with client_of(simulation) as (client, _):
        got = await batch(client, many, tmp_path / "run.db", storage)
    assert results_in(storage) == sorted(each.objects[0].rpartition("/")[2] for each in got)


# --- What came in answers -----------------------------------------------------------------------------------

EDIT = EditImage(model="gpt-image-2", image=picture(), prompt="a cute dog", n=2)


async def test_files_of_an_answer_are_there_before_the_journal_says_that_they_came(tmp_path, monkeypatch):
    """Died right after that: another machine, which has none of the files, says where they are."""
    simulation, storage, journal = service(), MemoryStorage(), MemoryJournal()
    record = MemoryJournal.record

    async def dies(self, purchase, *facts):
        if any(isinstance(fact, Saved) for fact in facts):
            raise JournalError(problem="this process has died")
        await record(self, purchase, *facts)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryJournal, "record", dies)
        async with client_of(simulation) as (client, _):
            with pytest.raises(JournalError):
                await batch(client, [EDIT], journal, storage)
    before = dict(storage.files)
    (row,) = [row async for row in journal.where()]
    assert [each.url for each in row.result.artifacts] == [f"memory://files/00000-{n}.png" for n in (1, 2)]
    async with client_of(simulation) as (client, _):
        (done,) = await batch(client, [EDIT], journal, storage)
    assert done.objects == ("memory://files/00000-1.png", "memory://files/00000-2.png")
    assert storage.files == before
    assert len(simulation.ledger.accepted) == 1


async def test_a_storage_that_is_shut_when_an_answer_comes_gets_its_files_later(tmp_path):
    simulation, storage = service(), Flaky(troubles=[ValueError("odd")] * 2)
    async with client_of(simulation) as (client, _):
        (done,) = await batch(client, [EDIT], tmp_path / "run.db", storage)
        assert isinstance(done, Failed)
        assert done.error.retryable
        (done,) = await batch(client, [EDIT], tmp_path / "run.db", storage)
    assert results_in(storage) == ["00000-1.png", "00000-2.png"]
    assert len(done.objects) == 2
    assert len(simulation.ledger.accepted) == 1
