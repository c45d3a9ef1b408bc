"""Folders of result files: durable before a journal may say so, and which errors stop everything."""

import errno
import os
from pathlib import Path

import anyio
import pytest

from novita_async import ConfigurationError, DownloadFailed, Failed, Succeeded
from novita_async._files import folders
from novita_async._files import saver as _saver
from novita_async._files.folders import FolderSync, scope_of, see_to_folder
from novita_async._util.disk import make_folder, share_of, sync_folder
from tests.helpers.hosts import Host, Saving, result_of
from tests.helpers.service import client_of, requests, service

pytestmark = pytest.mark.anyio


@pytest.fixture
def disk(monkeypatch):
    """What happens to the disk: every fsync, every new name and every line of an index, in order."""
    log = []
    fsync, link, unlink, write = os.fsync, os.link, Path.unlink, os.write

    def logged_write(handle, data):
        log.append(("line", data.decode()))
        return write(handle, data)

    def logged_fsync(handle):
        log.append(("fsync", Path(f"/proc/self/fd/{handle}").readlink().name))
        fsync(handle)

    def logged_link(source, target):
        log.append(("link", Path(target).name))
        link(source, target)

    def logged_unlink(path, **options):
        log.append(("unlink", path.name))
        unlink(path, **options)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "link", logged_link)
    monkeypatch.setattr(os, "write", logged_write)
    monkeypatch.setattr(Path, "unlink", logged_unlink)
    return log


def fsyncs(log):
    return [name for what, name in log if what == "fsync"]


# --- Durable ------------------------------------------------------------------------------------------------


async def test_the_bytes_are_durable_before_the_name_and_the_name_before_save_returns(tmp_path, disk):
    (path,) = await Saving(Host()).saver.save(result_of("png"), tmp_path, "dog", owned=True)
    part = next(name for name in fsyncs(disk) if name.endswith(".part"))
    bytes_kept, named = disk.index(("fsync", part)), disk.index(("link", path.name))
    names_kept = disk.index(("fsync", tmp_path.name))
    assert bytes_kept < named < names_kept == len(disk) - 1


async def test_a_result_of_many_files_takes_one_fsync_of_the_folder(tmp_path, disk):
    await Saving(Host()).saver.save(result_of("png", "png", "png"), tmp_path, owned=True)
    assert fsyncs(disk).count(tmp_path.name) == 1
    assert disk[-1] == ("fsync", tmp_path.name)


async def test_files_of_no_journal_are_left_to_the_system(tmp_path, disk):
    await Saving(Host()).saver.save(result_of("png", "png"), tmp_path)
    assert fsyncs(disk) == []


async def test_a_result_without_files_needs_no_folder(tmp_path, disk):
    assert await Saving(Host()).saver.save(result_of(), tmp_path / "new", owned=True) == ()
    assert not (tmp_path / "new").exists()


async def test_a_batch_says_saved_after_files_and_index_are_durable(tmp_path, disk):
    """And the folder that it has made is durable in its own parent."""
    out = tmp_path / "above" / "out"
    async with client_of(service()) as (client, _):
        async with client.batch(requests(3), journal=tmp_path / "run.db", save_to=out) as outcomes:
            async for outcome in outcomes:
                (path,) = outcome.paths
                named = disk.index(("link", path.name))
                assert ("fsync", "out") in disk[named:]
                assert ("fsync", "novita-index.jsonl") in disk[named:]
    assert "above" in fsyncs(disk)


async def test_the_index_names_a_file_once_a_power_cut_leaves_the_name(tmp_path, disk):
    """Also with many results in one group; and the name of the index itself is durable."""
    out = tmp_path / "out"
    async with client_of(service()) as (client, _):
        for outcome in await client.batch(requests(5), journal=tmp_path / "run.db", save_to=out):
            (path,) = outcome.paths
            named = disk.index(("link", path.name))
            told = next(n for n, (what, line) in enumerate(disk) if what == "line" and path.name in line)
            assert ("fsync", "out") in disk[named:told]
            assert ("fsync", "novita-index.jsonl") in disk[told:]
    made = disk.index(("fsync", "novita-index.jsonl"))
    assert disk[made + 1] == ("fsync", "out")


async def test_results_that_end_together_share_an_fsync(tmp_path, disk):
    """The first goes alone; those that come while it runs go together."""
    sync = FolderSync()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    async with anyio.create_task_group() as tasks:
        for n in range(50):
            tasks.start_soon(sync.sync, tmp_path / "ab"[n % 2])
    assert 2 <= len(fsyncs(disk)) <= 4
    await sync.sync(tmp_path / "a")
    assert fsyncs(disk)[-1] == "a"


async def test_a_name_that_comes_while_an_fsync_runs_waits_for_the_next(tmp_path, monkeypatch):
    sync, began, ended = FolderSync(), [], []
    real = folders.sync_folder

    def slow(folder):
        began.append(len(began))
        real(folder)
        ended.append(len(ended))

    monkeypatch.setattr(folders, "sync_folder", slow)

    async def named(n):
        await anyio.sleep(n)
        seen = len(began)
        await sync.sync(tmp_path)
        assert len(ended) > seen  # one that began after this name was there has ended

    async with anyio.create_task_group() as tasks:
        for n in range(20):
            tasks.start_soon(named, n // 4)


async def test_a_cancelled_waiter_leaves_the_others_their_fsync(tmp_path, disk):
    sync = FolderSync()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sync.sync, tmp_path)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await sync.sync(tmp_path)
        await sync.sync(tmp_path)
    before = len(fsyncs(disk))
    assert before >= 1
    await sync.sync(tmp_path)
    assert len(fsyncs(disk)) == before + 1


async def test_an_fsync_that_fails_fails_for_all_who_share_it_and_for_no_other_folder(tmp_path, monkeypatch):
    def broken(folder):
        if folder == tmp_path:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(folders, "sync_folder", broken)
    sync, failed = FolderSync(), []

    async def one(folder):
        try:
            await sync.sync(folder)
        except OSError as error:
            failed.append((folder, error.errno))

    async with anyio.create_task_group() as tasks:
        for folder in [tmp_path, tmp_path / "other"] * 3:
            tasks.start_soon(one, folder)
    assert failed == [(tmp_path, errno.EIO)] * 3


async def test_a_name_that_is_not_durable_is_not_saved(tmp_path, monkeypatch):
    def broken(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(folders, "sync_folder", broken)
    with pytest.raises(DownloadFailed, match="Input/output error") as caught:
        await Saving(Host()).saver.save(result_of("png"), tmp_path, owned=True)
    assert (caught.value.scope, caught.value.task_id) == ("request", "t-1")


def test_folders_that_cannot_be_fsynced_are_left_to_their_file_system(tmp_path, monkeypatch):
    """Network drives answer so; Windows opens no folder at all."""

    def answer(code):
        def fsync(_):
            raise OSError(code, os.strerror(code))

        return fsync

    for code in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
        monkeypatch.setattr(os, "fsync", answer(code))
        sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", answer(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)

    def closed(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", closed)
    sync_folder(tmp_path)


def test_handles_of_folders_are_closed(tmp_path, monkeypatch):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        sync_folder(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_every_folder_that_is_made_is_durable_in_the_one_above(tmp_path, disk):
    make_folder(tmp_path / "a" / "b" / "c")
    assert fsyncs(disk) == ["b", "a", tmp_path.name]
    disk.clear()
    make_folder(tmp_path / "a" / "b" / "c")
    assert disk == []


# --- Which errors stop everything ---------------------------------------------------------------------------


def trying_there(monkeypatch, code):
    """What a try to write to any folder gives from now on. None: it works."""

    def trial(**_):
        if code is not None:
            raise OSError(code, os.strerror(code))
        return open(os.devnull, "rb")  # noqa: PTH123 - closed by whoever tries

    monkeypatch.setattr(folders, "TemporaryFile", trial)


@pytest.mark.parametrize(
    ("code", "there", "scope"),
    [
        (errno.ENOSPC, None, "account"),
        (errno.EDQUOT, None, "account"),
        (errno.EROFS, None, "account"),
        (errno.EACCES, errno.EACCES, "account"),
        (errno.EACCES, None, "request"),
        (errno.ENAMETOOLONG, errno.EACCES, "request"),
        (errno.EIO, errno.EACCES, "request"),
        (errno.EMFILE, errno.EACCES, "request"),
        (errno.ENOENT, errno.EACCES, "request"),
    ],
)
def test_only_a_full_or_a_closed_disk_stops_everything(tmp_path, monkeypatch, code, there, scope):
    trying_there(monkeypatch, there)
    assert scope_of(OSError(code, os.strerror(code)), tmp_path) == scope


@pytest.mark.parametrize(
    ("code", "there", "scope"),
    [(errno.ENOSPC, None, "account"), (errno.EIO, None, "request"), (errno.EACCES, errno.EACCES, "account")],
)
async def test_a_file_that_cannot_be_written_names_its_task_and_leaves_nothing(
    tmp_path, monkeypatch, code, there, scope
):
    def broken(*_):
        raise OSError(code, os.strerror(code))

    trying_there(monkeypatch, there)
    monkeypatch.setattr(_saver, "claim", broken)
    with pytest.raises(
        DownloadFailed, match=f"it cannot be written to {tmp_path}: {os.strerror(code)}"
    ) as caught:
        await Saving(Host()).saver.save(result_of("png"), tmp_path)
    assert (caught.value.scope, caught.value.task_id) == (scope, "t-1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("journal", [None, "run.db"])
async def test_an_error_of_one_file_is_one_requests_and_the_next_run_saves_it(tmp_path, monkeypatch, journal):
    real, calls = _saver.claim, []

    def sometimes(part, path):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.EIO, "Input/output error")
        real(part, path)

    simulation, out = service(), tmp_path / "out"
    async with client_of(simulation) as (client, _):
        open_stream = (
            (lambda: client.batch(requests(8), journal=tmp_path / journal, save_to=out))
            if journal
            else (lambda: client.stream(requests(8), save_to=out))
        )
        with monkeypatch.context() as worn:
            worn.setattr(_saver, "claim", sometimes)
            async with open_stream() as outcomes:
                got = [outcome async for outcome in outcomes]
        assert [type(outcome) for outcome in got].count(Succeeded) == 7
        (failed,) = (outcome for outcome in got if isinstance(outcome, Failed))
        assert (type(failed.error), failed.error.scope) == (DownloadFailed, "request")
        if journal:
            async with open_stream() as outcomes:
                assert [type(outcome) async for outcome in outcomes] == [Succeeded] * 8
    assert len(simulation.ledger.accepted) == 8


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_bought(tmp_path, monkeypatch):
    see_to_folder(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="Not a directory"):
        see_to_folder(tmp_path / "file" / "folder")
    trying_there(monkeypatch, errno.EROFS)
    with pytest.raises(ConfigurationError, match="Read-only file system: nothing was bought"):
        see_to_folder(tmp_path)


MOUNTS = """\
/dev/sda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb /home/me ext4 rw 0 0
//server/my\\040files /mnt/my\\040files cifs rw 0 0
server:/old /twice nfs rw 0 0
tmpfs /twice tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "share"),
    [
        ("/run.db", None),
        ("/home/run.db", "nfs4"),
        ("/homes/run.db", None),
        ("/home/me/run.db", None),
        ("/mnt/my files/a/run.db", "cifs"),
        ("/twice/run.db", None),
    ],
)
def test_a_path_lies_on_what_is_mounted_nearest_above_and_latest(tmp_path, path, share):
    (tmp_path / "mounts").write_text(MOUNTS)
    assert share_of(Path(path), tmp_path / "mounts") == share


def test_where_mounts_are_not_told_nothing_is_a_share(tmp_path):
    assert share_of(Path("/home/run.db"), tmp_path / "mounts") is None
