"""Result files on hosts that misbehave: whole and right, or not there at all."""

import os
import time
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from novita_async import ConfigurationError, DownloadFailed, Failed, GeneratedImage, Succeeded, TaskNotFound
from novita_async._files import folders, index
from novita_async._files import saver as _saver
from novita_async._files.part import HELD, LEFT_AFTER, Part
from novita_async._files.saver import CUT_FOR, _Target
from novita_async._http import Delivery, DeliveryFailed, NotAURLError
from novita_async._journal.memory import MemoryJournal
from novita_async.events import CutFileKept, FileSaved, KindDiffers
from tests.helpers import payloads
from tests.helpers.hosts import Answer, Host, Saving, result_of
from tests.helpers.service import client_of, of_kind, picture, request, requests, service

pytestmark = pytest.mark.anyio

HTML = b"<html>The host is being mended.</html>"
WHOLE = picture()
HALF = WHOLE[: len(WHOLE) // 2]
LONG = WHOLE[:-12] + b"\0\x20\0\0teXt" + bytes((1 << 21) + 4) + WHOLE[-12:]
"""A picture that is too long to be held in memory."""


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- Length and time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stated", [True, False])
async def test_a_file_that_is_too_long_fails_once_and_is_not_fetched_whole(tmp_path, monkeypatch, stated):
    monkeypatch.setattr(_saver, "MAX_FILE", 1000)
    data = picture() * 100
    host = Host([Answer(data, headers={"content-length": str(len(data))} if stated else {})], step=400)
    with pytest.raises(DownloadFailed, match="longer than 1,000 bytes"):
        await Saving(host).saver.save(result_of("png"), tmp_path)
    assert host.asked == 1
    assert host.given <= (0 if stated else 1200)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("stated", [True, False])
async def test_a_file_of_the_greatest_length_is_saved(tmp_path, monkeypatch, stated):
    monkeypatch.setattr(_saver, "MAX_FILE", len(WHOLE))
    host = Host([Answer(WHOLE, headers={"content-length": str(len(WHOLE))} if stated else {})])
    (path,) = await Saving(host).saver.save(result_of("png"), tmp_path)
    assert path.read_bytes() == WHOLE


async def test_half_a_gigabyte_is_the_greatest_length_and_a_quarter_of_an_hour_the_longest_time():
    assert (_saver.MAX_FILE, _saver.LONGEST) == (536_870_912, 900.0)


async def test_a_host_that_sends_a_byte_a_minute_does_not_keep_others_waiting_for_ever(tmp_path):
    host = Host(step=1, pause=50.0)
    with pytest.raises(DownloadFailed, match="not whole after 900 s"):
        await Saving(host).saver.save(result_of("png"), tmp_path)
    assert anyio.current_time() < 2000
    assert names_in(tmp_path) == []


async def test_eight_files_are_fetched_at_once_and_no_more(tmp_path):
    saving = Saving(Host(pause=10.0, step=1 << 30))
    began_at = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for n in range(24):
            tasks.start_soon(saving.saver.save, result_of("png", task_id=f"t-{n}"), tmp_path)
    assert saving.host.most_open == 8
    assert anyio.current_time() - began_at == pytest.approx(30.0)
    assert saving.saver.statistics().saved == len(names_in(tmp_path)) == 24


async def test_a_file_that_waits_to_be_asked_for_again_keeps_no_other_waiting(tmp_path):
    """Nine that are refused for a while, and one behind them."""
    broken = Saving(Host([Answer(status=503)] * 9 + [Answer()]), max_elapsed=1e6)
    async with anyio.create_task_group() as tasks:
        for n in range(10):
            tasks.start_soon(broken.saver.save, result_of("png", task_id=f"t-{n}"), tmp_path)
    assert sorted(broken.host.asked_at)[:10] == [broken.host.asked_at[0]] * 10


@pytest.mark.parametrize("data", [WHOLE, LONG])
async def test_a_stated_length_that_does_not_come_is_fetched_again(tmp_path, data):
    stated = {"content-length": str(len(data))}
    host = Host([Answer(data[:-1], headers=stated), Answer(data + b"x", headers=stated), Answer(data)])
    saving = Saving(host)
    (path,) = await saving.saver.save(result_of("png"), tmp_path)
    assert path.read_bytes() == data
    assert (host.asked, saving.saver.statistics().failed) == (3, 2)


async def test_the_length_of_compressed_bytes_is_not_that_of_the_file(tmp_path):
    headers = {"content-length": "5", "content-encoding": "gzip"}
    (path,) = await Saving(Host([Answer(headers=headers)])).saver.save(result_of("png"), tmp_path)
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize("length", [HELD - 1, HELD, HELD + 1, 3 * HELD])
async def test_files_of_every_length_come_whole(tmp_path, length):
    data = WHOLE[:-12].ljust(length - 12, b"\0")
    data = data[: len(WHOLE) - 12] + (length - len(WHOLE) - 12).to_bytes(4) + b"teXt" + data[len(WHOLE) - 4 :]
    data += WHOLE[-12:]
    (path,) = await Saving(Host.of(data, step=100_000)).saver.save(result_of("png"), tmp_path)
    assert path.read_bytes() == data
    assert names_in(tmp_path) == ["t-1-1.png"]


# --- Trouble that passes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        Answer(HTML),
        Answer(b'{"error": "busy"}'),
        Answer(b""),
        Answer(bytes(100)),
        Answer(HALF),
        Answer(LONG[: len(LONG) // 2]),
        Answer(payloads.picture("JPEG")[:-100]),
        Answer(status=503),
        Answer(status=429),
        Answer(status=206),
        Answer(error=DeliveryFailed(Delivery.NOT_SENT, "connection refused")),
    ],
    ids=[
        "html",
        "json",
        "nothing",
        "zeros",
        "half",
        "long half",
        "half a jpeg",
        "503",
        "429",
        "206",
        "reset",
    ],
)
@pytest.mark.parametrize("into", ["a file", "memory"])
async def test_what_is_not_the_file_is_asked_for_again_while_that_is_free(tmp_path, trouble, into):
    saving = Saving(Host([trouble, trouble, trouble, Answer()]))
    if into == "memory":
        assert await saving.saver.fetch(result_of("png").images[0]) == WHOLE
    else:
        (path,) = await saving.saver.save(result_of("png"), tmp_path)
        assert path.read_bytes() == WHOLE
        assert names_in(tmp_path) == ["t-1-1.png"]
        (told,) = saving.events
        assert told == FileSaved(task=result_of().task, path=path, size=len(WHOLE))
    assert saving.saver.statistics().failed == 3
    begun = saving.host.asked_at
    pauses = [after - before for before, after in pairwise(begun)]
    assert pauses == pytest.approx([0.5, 1.0, 2.0])  # twice as long each time


async def test_what_never_becomes_the_file_fails_when_the_patience_is_over(tmp_path):
    saving = Saving(Host.of(HTML), max_elapsed=100.0)
    began_at = anyio.current_time()
    with pytest.raises(DownloadFailed, match="the file is html, no picture") as caught:
        await saving.saver.save(result_of("png"), tmp_path)
    assert anyio.current_time() - began_at == pytest.approx(100.0)
    assert (caught.value.task_id, caught.value.account, caught.value.scope) == ("t-1", "main", "request")
    assert "secret" not in str(caught.value)
    assert names_in(tmp_path) == []
    assert saving.events == []


@pytest.mark.parametrize(("max_elapsed", "seconds"), [(10.0, 100.0), (500.0, 500.0)])
async def test_a_stream_is_patient_for_as_long_as_a_task_is_worth(tmp_path, max_elapsed, seconds):
    """The longer of the caller's max_elapsed and the policy's counts."""
    saving = Saving(Host.of(HTML), max_elapsed=100.0)
    began_at = anyio.current_time()
    with pytest.raises(DownloadFailed):
        await saving.saver.save(result_of("png"), tmp_path, max_elapsed=max_elapsed)
    assert anyio.current_time() - began_at == pytest.approx(seconds)


@pytest.mark.parametrize(("asked", "waited"), [("7", 7.0), ("0", 0.5), ("3600", 60.0), ("soon", 0.5)])
async def test_the_retry_after_of_a_host_is_heeded(tmp_path, asked, waited):
    host = Host([Answer(status=503, headers={"retry-after": asked}), Answer()])
    await Saving(host).saver.save(result_of("png"), tmp_path)
    assert host.asked_at[1] - host.asked_at[0] == pytest.approx(waited)


async def test_a_date_in_retry_after_is_held_against_the_clock(tmp_path):
    now = _saver.wall_time()
    date = _saver.datetime.fromtimestamp(now + 30, _saver.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    host = Host([Answer(status=429, headers={"retry-after": date}), Answer()])
    await Saving(host).saver.save(result_of("png"), tmp_path)
    assert 28.0 <= host.asked_at[1] - host.asked_at[0] <= 30.0


async def test_as_many_attempts_are_made_as_the_policy_allows(tmp_path):
    saving = Saving(Host.of(HTML), attempts=3)
    with pytest.raises(DownloadFailed):
        await saving.saver.save(result_of("png"), tmp_path)
    assert saving.host.asked == saving.saver.statistics().failed == 3


# --- URLs that are refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_refused_url_is_signed_anew_twice_and_the_right_file_of_the_result_is_taken(tmp_path, status):
    fresh = result_of("png", "png", "png")
    host = Host([Answer(), Answer(status=status), Answer(status=status), Answer()])
    saving = Saving(host, fresh=fresh)
    assert len(await saving.saver.save(result_of("png", "png"), tmp_path)) == 2
    assert host.urls[1:] == [fresh.images[1].url] * 3
    statistics = saving.saver.statistics()
    assert (saving.refreshes, statistics.refreshed, statistics.failed, statistics.saved) == (2, 2, 2, 2)
    assert repr(saving.saver) == "<Saver 2 files saved, 2 URLs refreshed>"


@pytest.mark.parametrize(("kinds", "afterwards"), [(1, 2), (2, 3), (3, 2)])
async def test_names_are_durable_and_listed_with_the_last_file_of_the_result_that_is_saved(
    tmp_path, monkeypatch, kinds, afterwards
):
    """Whatever number of files the result has whose URLs are signed anew."""
    synced = []
    monkeypatch.setattr(folders, "sync_folder", synced.append)
    result, listed = result_of(*["png"] * kinds), index.Index(tmp_path)
    line = listed.line_of(Succeeded(result=result), None, durable=True)
    saving = Saving(Host([Answer(status=403), Answer()] * kinds), fresh=result_of(*["png"] * afterwards))
    if afterwards > kinds:
        await saving.saver.save(result, tmp_path, owned=True, line=line)
    else:
        with pytest.raises(DownloadFailed):
            await saving.saver.save(result, tmp_path, owned=True, line=line)
    assert (synced, line.is_written) == (([tmp_path], True) if afterwards > kinds else ([], False))


@pytest.mark.parametrize("error", [None, NotAURLError()])
async def test_a_url_that_stays_refused_fails_at_once_after_two_new_ones(tmp_path, error):
    saving = Saving(Host([Answer(status=403, error=error)]), fresh=result_of("png"))
    began_at = anyio.current_time()
    with pytest.raises(DownloadFailed):
        await saving.saver.save(result_of("png"), tmp_path)
    assert (saving.refreshes, saving.host.asked, anyio.current_time() - began_at) == (2, 3, 0.0)


@pytest.mark.parametrize("fresh", [None, result_of()])
async def test_a_result_that_cannot_be_asked_for_again_or_has_lost_the_file_fails(tmp_path, fresh):
    saving = Saving(Host([Answer(status=404)]), fresh=fresh)
    with pytest.raises(DownloadFailed, match="the host answered 404"):
        await saving.saver.save(result_of("png"), tmp_path)
    assert (saving.refreshes, saving.saver.statistics().refreshed) == (1, 0)


async def test_a_single_file_is_found_again_by_its_path(tmp_path):
    fresh = result_of("png", "png")
    fresh = _saver.evolve(fresh, images=tuple(_saver.evolve(i, url=i.url + "2") for i in fresh.images))
    saving = Saving(Host([Answer(status=403), Answer()]), fresh=fresh)
    assert await saving.saver.fetch(result_of("png", "png").images[1]) == WHOLE
    assert saving.host.urls[1] == fresh.images[1].url


async def test_a_file_of_no_known_task_is_not_signed_anew_and_tells_nothing():
    saving = Saving(Host([Answer(status=403)]))
    with pytest.raises(DownloadFailed, match="poll the task for a fresh URL") as caught:
        await saving.saver.fetch(GeneratedImage(url="https://host/a", type="jpeg"))
    assert (saving.refreshes, caught.value.task_id, caught.value.account) == (0, None, None)
    kept = Saving(Host.of(HALF), attempts=1)
    assert await kept.saver.fetch(GeneratedImage(url="https://host/a", type="jpeg")) == HALF
    assert kept.events == []


# --- Paid pictures are kept ---------------------------------------------------------------------------------


async def test_a_whole_picture_of_another_kind_is_saved_under_its_true_suffix_with_a_notice(tmp_path):
    data = (Path(__file__).parents[1] / "data/pictures/result-called-png-is-jpeg.png").read_bytes()
    saving = Saving(Host.of(data))
    result = result_of("png")
    (path,) = await saving.saver.save(result, tmp_path)
    assert (path.name, path.read_bytes()) == ("t-1-1.jpeg", data)
    differs = KindDiffers(task=result.task, stated="png", found="jpeg", path=path)
    assert saving.events == [differs, FileSaved(task=result.task, path=path, size=len(data))]
    assert await saving.saver.fetch(result.images[0]) == data
    assert saving.events[2:] == [KindDiffers(task=result.task, stated="png", found="jpeg")]
    assert saving.host.asked == 2


@pytest.mark.parametrize("data", [HALF, LONG[: len(LONG) // 2]])
async def test_a_picture_that_stays_cut_is_kept_after_a_minute_with_a_notice(tmp_path, data):
    saving = Saving(Host.of(data))
    began_at, result = anyio.current_time(), result_of("png")
    (path,) = await saving.saver.save(result, tmp_path)
    assert CUT_FOR <= anyio.current_time() - began_at < CUT_FOR + 30.0
    assert path.read_bytes() == data
    assert names_in(tmp_path) == ["t-1-1.png"]
    assert of_kind(saving.events, CutFileKept) == [CutFileKept(task=result.task, path=path)]
    assert await saving.saver.fetch(result.images[0]) == data
    assert saving.events[-1] == CutFileKept(task=result.task)


async def test_a_minute_of_cut_files_begins_with_the_first_of_them(tmp_path):
    """What went before, half an hour of refusals, does not shorten it."""
    saving = Saving(Host([Answer(status=503)] * 60 + [Answer(HALF)]), max_elapsed=1e6)
    await saving.saver.save(result_of("png"), tmp_path)
    first = saving.host.asked_at[60]
    assert anyio.current_time() - first == pytest.approx(CUT_FOR)
    assert len(saving.host.asked_at) == 63


async def test_a_picture_that_stays_cut_is_kept_where_the_patience_ends_before(tmp_path):
    began_at = anyio.current_time()
    saving = Saving(Host.of(HALF), max_elapsed=20.0)
    (path,) = await saving.saver.save(result_of("png"), tmp_path)
    assert path.read_bytes() == HALF
    assert anyio.current_time() - began_at == pytest.approx(20.0)


async def test_trouble_after_a_cut_file_is_still_a_failure(tmp_path):
    saving = Saving(Host.of(HALF, HTML), max_elapsed=100.0)
    with pytest.raises(DownloadFailed, match="html"):
        await saving.saver.save(result_of("png"), tmp_path)
    assert names_in(tmp_path) == []


# --- Nothing is left, nothing is written over ---------------------------------------------------------------


@pytest.mark.parametrize("data", [WHOLE, LONG])
async def test_a_cancelled_download_leaves_no_part(tmp_path, data):
    saving = Saving(Host.of(data, step=100_000, pause=10.0))
    with anyio.move_on_after(10.0 * (len(data) // 100_000) + 5.0) as scope:
        await saving.saver.save(result_of("png"), tmp_path)
    assert scope.cancelled_caught
    assert names_in(tmp_path) == []
    assert saving.saver._downloads.value == 8


async def test_one_result_can_be_saved_by_two_at_once(tmp_path):
    """Whose parts are not the same file."""
    saving = Saving(Host.of(LONG, step=700_000, pause=1.0))
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(saving.saver.save, result_of("png"), tmp_path)
            await anyio.sleep(1.5)
    assert names_in(tmp_path) == ["t-1-1.2.png", "t-1-1.png"]
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {LONG}


def test_a_part_that_another_process_makes_in_between_is_not_written_to(tmp_path, monkeypatch):
    """It may be a name of a whole file."""
    part = Part(tmp_path / "x.part")
    part.path.write_bytes(b"left")
    monkeypatch.setattr(Part, "remove", lambda _: (tmp_path / "x.part").write_bytes(b"mine"))
    with pytest.raises(FileExistsError):
        part.write()
    assert (tmp_path / "x.part").read_bytes() == b"mine"


async def test_the_part_of_a_long_file_begins_anew_with_each_attempt(tmp_path):
    lengths = {"content-length": str(len(LONG))}
    saving = Saving(Host([Answer(LONG[:-500_000], headers=lengths), Answer(LONG, headers=lengths)]))
    (path,) = await saving.saver.save(result_of("png"), tmp_path)
    assert path.read_bytes() == LONG


async def test_files_that_were_saved_before_one_fails_stay(tmp_path):
    saving = Saving(Host([Answer(), Answer(HTML)]), attempts=1)
    with pytest.raises(DownloadFailed):
        await saving.saver.save(result_of("png", "png"), tmp_path)
    assert names_in(tmp_path) == ["t-1-1.png"]


async def test_a_thousand_names_that_are_taken_are_tried_and_then_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(_saver, "_NAMES", 4)
    saving = Saving(Host())
    for _ in range(3):
        await saving.saver.save(result_of("png"), tmp_path)
    assert names_in(tmp_path) == ["t-1-1.2.png", "t-1-1.3.png", "t-1-1.png"]
    with pytest.raises(DownloadFailed, match="exists 4 times"):
        await saving.saver.save(result_of("png"), tmp_path)
    assert len(names_in(tmp_path)) == 3


async def test_a_file_system_without_hard_links_is_saved_to_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(_saver.os, "link", refuse)
    saving = Saving(Host())
    for _ in range(2):
        (path,) = await saving.saver.save(result_of("png"), tmp_path)
        assert path.read_bytes() == WHOLE
    assert names_in(tmp_path) == ["t-1-1.2.png", "t-1-1.png"]


@pytest.mark.parametrize("owned", [True, False])
async def test_the_same_file_of_an_earlier_process_is_taken_over_and_anybody_elses_is_not(tmp_path, owned):
    (tmp_path / "dog-1.png").write_bytes(WHOLE)
    (path,) = await Saving(Host()).saver.save(result_of("png"), tmp_path, "dog", owned=owned)
    assert path.name == ("dog-1.png" if owned else "dog-1.2.png")
    other = payloads.picture()
    (path,) = await Saving(Host.of(other)).saver.save(result_of("png"), tmp_path, "dog", owned=True)
    assert path.read_bytes() == other


LEFT = {
    ".0123456789abcdef-1.part": (HALF, LEFT_AFTER + 60, False),
    f".{'0123456789abcdef' * 2}-12.part": (b"", LEFT_AFTER + 60, False),
    ".123456789abcdef0-1.part": (HTML, LEFT_AFTER + 60, False),
    ".batch.json.4711.part": (b"{}", LEFT_AFTER + 60, False),
    ".report.html.4711-140.part": (HTML, LEFT_AFTER + 60, False),
    ".23456789abcdef01-1.part": (HALF, LEFT_AFTER - 60, True),  # perhaps somebody is writing it
    ".3456789abcdef012-1.part": (WHOLE, LEFT_AFTER + 60, True),  # perhaps a journal knows it
    ".mine.part": (HALF, LEFT_AFTER + 60, True),
    "4567.part": (HALF, LEFT_AFTER + 60, True),
    "dog.png": (HALF, LEFT_AFTER + 60, True),
}


@pytest.mark.parametrize("journal", [MemoryJournal, None])
async def test_a_batch_removes_cut_parts_that_dead_processes_have_left_and_nothing_else(tmp_path, journal):
    now = time.time()
    for name, (data, age, _) in LEFT.items():
        (tmp_path / name).write_bytes(data)
        os.utime(tmp_path / name, (now - age, now - age))
    (tmp_path / ".56789abcdef01234-1.part").mkdir()
    async with client_of(service()) as (client, _):
        many = requests(1) if journal is None else []
        way = client.stream(many, save_to=tmp_path) if journal is None else client.batch(
            many, journal=journal(), save_to=tmp_path
        )  # fmt: skip
        async with way as outcomes:
            assert all([isinstance(outcome, Succeeded) async for outcome in outcomes])
    stays = {name for name, (*_, stays) in LEFT.items() if stays or journal is None}
    assert stays == set(names_in(tmp_path)) & LEFT.keys()


async def test_what_a_dead_process_left_is_taken_away_though_the_line_has_another_place_now(tmp_path):
    """The file's name tells the place; that of its part must not."""
    simulation, journal, out = service(workers=1), tmp_path / "run.db", tmp_path / "out"
    async with client_of(simulation) as (client, _):
        async with client.batch([request(seed=7)], journal=journal) as outcomes:
            (outcome,) = [outcome async for outcome in outcomes]
    target = _Target(artifact=outcome.result.images[0], result=outcome.result, owned=True)
    out.mkdir()
    left = anyio.Path(target.part_of(out))
    await left.write_bytes(b"half of it")
    async with client_of(simulation) as (client, _):
        async with client.batch([request(seed=1), request(seed=7)], journal=journal, save_to=out) as outcomes:
            assert all([isinstance(outcome, Succeeded) async for outcome in outcomes])
    assert not await left.exists()


# --- Folders ------------------------------------------------------------------------------------------------


async def run(client, many, journal=None, **options):
    stream = client.batch(many, journal=journal, **options) if journal else client.stream(many, **options)
    async with stream as outcomes:
        return [outcome async for outcome in outcomes]


def pictures_in(folder):
    return sorted(path.name for path in folder.glob("*.png"))


@pytest.mark.parametrize("journal", [None, "run.db"])
async def test_nothing_is_bought_for_a_folder_that_cannot_be_written_to(tmp_path, journal):
    (tmp_path / "file").write_text("not a folder")
    simulation = service()
    async with client_of(simulation) as (client, _):
        with pytest.raises(ConfigurationError, match="cannot be written to"):
            await run(client, requests(3), journal and tmp_path / journal, save_to=tmp_path / "file")
    assert simulation.ledger.entries == []


@pytest.mark.parametrize("name", ["_settle", "_append"])
async def test_a_disk_that_is_full_stops_the_buying_and_the_next_run_saves_what_is_paid(
    tmp_path, monkeypatch, name
):
    simulation, journal, out = service(workers=1), tmp_path / "run.db", tmp_path / "out"

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    async with client_of(simulation) as (client, _):
        got = []
        with monkeypatch.context() as cramped, pytest.raises(DownloadFailed, match="No space left"):
            cramped.setattr(_saver if name == "_settle" else index, name, full)
            async with client.batch(requests(100), journal=journal, save_to=out, in_flight=4) as outcomes:
                async for outcome in outcomes:
                    got.append(outcome)  # noqa: PERF401 - what came before the error counts
        bought = len(simulation.ledger.accepted)
        assert len(got) == bought <= 8
        assert all(isinstance(outcome, Failed) for outcome in got)
        got = await run(client, requests(bought), journal, save_to=out)
    assert all(isinstance(outcome, Succeeded) for outcome in got)
    assert len(pictures_in(out)) == bought == len(simulation.ledger.accepted)


async def test_files_are_found_where_their_folder_was_moved_to(tmp_path):
    simulation, old, new = service(), tmp_path / "old", tmp_path / "new"
    async with client_of(simulation) as (client, _):
        await run(client, requests(3), tmp_path / "run.db", save_to=old)
        old.rename(new)
        got = await run(client, requests(3), tmp_path / "run.db", save_to=new)
    assert sorted(path for outcome in got for path in outcome.paths) == sorted(new.glob("*.png"))
    assert simulation.ledger.downloads.total() == 3


async def test_files_that_are_gone_are_saved_again_and_not_bought_again(tmp_path):
    simulation, journal, out = service(retention=1000.0), tmp_path / "run.db", tmp_path / "out"
    async with client_of(simulation) as (client, _):
        for outcome in await run(client, requests(2), journal, save_to=out):
            outcome.paths[0].unlink()
        got = await run(client, requests(2), journal, save_to=out)
        assert all(outcome.paths[0].exists() for outcome in got)
        await anyio.sleep(5000)
        got[0].paths[0].unlink()
        again = await run(client, requests(2), journal, save_to=out)
    assert sorted(type(outcome).__name__ for outcome in again) == ["Failed", "Succeeded"]
    assert [type(outcome.error) for outcome in again if isinstance(outcome, Failed)] == [TaskNotFound]
    assert len(simulation.ledger.entries) == 2
