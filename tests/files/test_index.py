"""The index beside result files: a line for every outcome, with all that it takes to make it again."""

import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import anyio
import anyio.lowlevel
import pytest

from novita_async import (
    AnyTask,
    Budget,
    DownloadFailed,
    Extra,
    Failed,
    GeneratedImage,
    ImageSource,
    NsfwDetection,
    RateLimited,
    SubmissionUncertain,
    Succeeded,
    Task,
    TaskFailed,
    TaskResult,
    TaskTimeout,
    Timings,
    Uncertain,
    Unfinished,
    Webhook,
    request_to_json,
)
from novita_async._files import index
from novita_async._files.index import NAME, Index
from novita_async._files.lines import NAMES
from novita_async._purchase.machine import Attempt, Purchase
from novita_async.cli._manifest import Recipe
from tests.helpers.service import client_of, picture, request, service

pytestmark = pytest.mark.anyio

PATH = "/v3/async/img2img"
TASK = Task(task_id="t-1", account="main")
ENTRY = Attempt("main", 1.0, 2.0, "t-1", number=1)


async def run(client, many, journal=None, **options):
    stream = client.batch(many, journal=journal, **options) if journal else client.stream(many, **options)
    async with stream as outcomes:
        return [outcome async for outcome in outcomes]


def pictures_in(folder):
    return sorted(path.name for path in folder.glob("*.png"))


def result():
    return TaskResult(
        task=TASK,
        images=(
            GeneratedImage(
                url="https://host/a.png?X-Amz-Signature=secret",
                nsfw=NsfwDetection(checked=True, confidence=3.5),
            ),
            GeneratedImage(url="https://host/b.png?X-Amz-Signature=secret"),
        ),
        seed=7,
        timings=Timings.of(submit_time=datetime(2026, 11, 25, 12, tzinfo=UTC)),
    )


async def test_a_line_has_all_that_is_known_of_a_success_and_no_signature(tmp_path):
    paths = (tmp_path / "a.png", tmp_path / "b.png")
    outcome = Succeeded(result=result(), request=request().tagged("sku-1", {"shop": 7}), paths=paths)
    purchase = Purchase(outcome.request, PATH, 2, 3, "sku-1", task=TASK, account="main", attempt=2)
    purchase.attempts = (Attempt("main", 0.5, 0.6, "t-0", number=1), ENTRY)
    await Index(tmp_path, Budget(limit=1, price="0.0015")).add(outcome, purchase)
    (line,) = lines_of(tmp_path)
    assert list(line) == [*NAMES]
    inputs, make = line.pop("inputs"), line.pop("make")
    assert make["endpoint"] == "img2img"
    assert make["request"]["seed"] == 7
    assert (make["id"], make["metadata"]) == ("sku-1", {"shop": 7})
    assert len(inputs) == 1
    assert line == {
        "outcome": "succeeded",
        "state": "saved",
        "place": 3,
        "id": "sku-1",
        "metadata": {"shop": 7},
        "endpoint": PATH,
        "images": 2,
        "files": ["a.png", "b.png"],
        "task_id": "t-1",
        "other_task_ids": ["t-0"],
        "attempts": 2,
        "seed": 7,
        "urls": ["https://host/a.png", "https://host/b.png"],
        "nsfw": [{"checked": True, "confidence": 3.5}, None],
        "times": {"submit": "2026-11-25T12:00:00+00:00", "execute": None, "complete": None},
        "error": None,
        "account": "main",
        "cost": 0.006,
    }
    assert "secret" not in (tmp_path / NAME).read_text()


OTHERS = [
    (
        Failed(
            error=TaskFailed(task=TASK, reason="OOM", explanation="no memory"),
            task=TASK,
            request=request(),
        ),
        {"outcome": "failed", "state": "failed", "account": "main"},
        {"type": "TaskFailed", "reason": "OOM"},
    ),
    (
        Failed(error=RateLimited(reason="OOM", account="spare")),
        {"outcome": "failed", "state": "failed", "account": "spare"},
        {"type": "RateLimited", "reason": "OOM"},
    ),
    (
        Uncertain(error=SubmissionUncertain(cause="reset", endpoint=PATH, account="main"), request=request()),
        {"outcome": "uncertain", "state": "uncertain", "account": "main"},
        {"type": "SubmissionUncertain"},
    ),
    (
        Unfinished(error=TaskTimeout(task=TASK, waited=5.0), task=TASK),
        {"outcome": "unfinished", "state": "submitted", "task_id": "t-1"},
        {"type": "TaskTimeout", "message": "paid, not seen finished after 5 s"},
    ),
]


@pytest.mark.parametrize(
    ("outcome", "told", "error"), OTHERS, ids=["failed", "failed early", "uncertain", "unfinished"]
)
async def test_what_did_not_succeed_has_a_line_of_the_same_names(tmp_path, outcome, told, error):
    await Index(tmp_path / "new").add(
        outcome, Purchase(outcome.request, PATH, task=getattr(outcome, "task", None))
    )
    (line,) = lines_of(tmp_path / "new")
    assert list(line) == [*NAMES]
    assert told.items() <= line.items()
    assert error.items() <= line["error"].items()
    assert set(line["error"]) == {"type", "reason", "status", "message"}
    assert (line["files"], line["urls"], line["nsfw"], line["seed"], line["place"]) == ([], [], [], None, 0)
    assert (line["make"] is None) is (outcome.request is None)


async def test_an_account_that_the_caller_knows_counts(tmp_path):
    await Index(tmp_path).add(OTHERS[1][0], Purchase(None, account="mine"))
    assert lines_of(tmp_path)[0]["account"] == "mine"


async def test_of_a_task_that_was_bought_elsewhere_only_its_outcome_is_told(tmp_path):
    await Index(tmp_path).add(OTHERS[3][0])
    (line,) = lines_of(tmp_path)
    assert list(line) == [*NAMES]
    assert (line["task_id"], line["account"], line["state"]) == ("t-1", "main", "submitted")
    assert (line["place"], line["attempts"], line["cost"]) == (None, None, None)


async def test_a_message_shows_no_secret(tmp_path):
    error = DownloadFailed(url="", cause="GET https://host/a.png?X-Amz-Signature=secret sk_abcdefgh failed")
    await Index(tmp_path).add(Failed(error=error))
    assert lines_of(tmp_path)[0]["error"]["message"] == "not saved: GET https://host/a.png?… sk_… failed"


@pytest.mark.parametrize(("code", "scope"), [(errno.ENOSPC, "account"), (errno.EIO, "request")])
async def test_a_line_that_cannot_be_written_says_whether_the_next_one_could(
    tmp_path, monkeypatch, code, scope
):
    def broken(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(index.os, "write", broken)
    with pytest.raises(DownloadFailed, match="its index cannot be written") as caught:
        await Index(tmp_path).add(Succeeded(result=result()))
    assert (caught.value.scope, caught.value.task_id, caught.value.account) == (scope, "t-1", "main")


@pytest.mark.parametrize("durable", [True, False])
async def test_a_line_is_on_the_disk_where_it_must_be(tmp_path, monkeypatch, durable):
    """With the first one the name of the index is, too."""
    seen, fsync = [], os.fsync

    def logged(handle):
        seen.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(index.os, "fsync", logged)
    for _ in range(2):
        await Index(tmp_path).add(Succeeded(result=result()), durable=durable)
    line = tmp_path / index.NAME
    assert seen == ([line, tmp_path, line] if durable else [])


def test_handles_are_closed_though_the_disk_is_full(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(index.os, "write", full)
    for _ in range(20):
        with pytest.raises(OSError, match="No space"):
            index._append(tmp_path / "index", "{}", durable=True)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_outcomes_of_many_at_once_have_a_whole_line_each(tmp_path):
    index = Index(tmp_path)
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(index.add, Succeeded(result=result()))
    assert len(lines_of(tmp_path)) == 50


async def test_lines_are_made_one_at_a_time(tmp_path, monkeypatch):
    """Two that keep one picture at once would write to one file."""
    busy, most = [], []

    def watched(*_, **__):
        busy.append(1)
        Event().wait(0.001)
        most.append(len(busy))
        busy.pop()

    monkeypatch.setattr(index, "_append", watched)
    kept = Index(tmp_path)
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(kept.add, Succeeded(result=result(), request=request()))
            await anyio.lowlevel.checkpoint()
    assert set(most) == {1}


async def test_of_lines_that_are_added_together_only_those_fail_that_cannot_be_made(tmp_path, monkeypatch):
    def keep(picture, digest, inputs):
        if picture.data == b"bad":
            raise OSError(errno.ENOSPC, "No space left on device")
        return inputs / digest

    monkeypatch.setattr(index, "keep", keep)
    kept, ends = Index(tmp_path), []

    async def add(data):
        picture = ImageSource(data=data, size=3, format="png", width=512, height=512)
        try:
            await kept.add(Succeeded(result=result(), request=request(image=picture)))
            ends.append(data)
        except DownloadFailed as error:
            ends.append(error.scope)

    async with anyio.create_task_group() as tasks:
        for data in (b"one", b"bad", b"two", b"bad"):
            tasks.start_soon(add, data)
    assert sorted(map(str, ends)) == ["account", "account", "b'one'", "b'two'"]
    assert len(lines_of(tmp_path)) == 2


async def test_a_full_disk_is_told_to_each_whose_line_it_takes(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(index, "_append", full)
    kept, errors = Index(tmp_path), []

    async def add():
        with pytest.raises(DownloadFailed) as caught:
            await kept.add(Succeeded(result=result()))
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(add)
    assert {error.scope for error in errors} == {"account"}
    assert len({id(error.__cause__) for error in errors}) == 5


async def test_the_lines_of_a_batch_tell_the_place(tmp_path):
    async with client_of(service()) as (client, _):
        await run(client, list(request().sweep(seed=range(5))), tmp_path / "run.db", save_to=tmp_path)
    assert sorted(line["place"] for line in lines_of(tmp_path)) == [0, 1, 2, 3, 4]


# --- Made again ---------------------------------------------------------------------------------------------


def lines_of(folder):
    return [json.loads(line) for line in (folder / "novita-index.jsonl").read_text().splitlines()]


def made_again(folder, line):
    """The request that a line of the index makes, as a manifest in that folder."""
    manifest = folder / "again.jsonl"
    manifest.write_text(json.dumps(line["make"]))
    (made,) = Recipe(inputs=[manifest], shared={}, axes={}).read()
    assert made.faults == ()
    return made.request


@pytest.mark.parametrize("journal", [None, "run.db"])
async def test_the_index_makes_each_result_again(tmp_path, journal):
    """From pictures on disk and in memory, with all their guides, and the seed that the service took."""
    out, path = tmp_path / "out", tmp_path / "dog.png"
    path.write_bytes(picture(2))
    asked = [
        request(seed=-1, extra=Extra(webhook=Webhook(url="https://me.example/secret"))),
        request(image=path, image_num=2).with_controlnet("control_v11p_sd15_canny", image=picture(3)),
        AnyTask(path="/v3/async/upscale", body={"image": request().image, "scale_factor": 2}),
    ]
    simulation = service()
    async with client_of(simulation) as (client, _):
        await run(client, asked, journal and tmp_path / journal, save_to=out)
        for line in lines_of(out):
            again = await anyio.to_thread.run_sync(made_again, out, line)
            if isinstance(again, AnyTask):  # whose seed nobody knows where to put
                assert request_to_json(again) == request_to_json(asked[2])
                continue
            assert again.seed == line["seed"]
            (outcome,) = await run(client, [again], save_to=tmp_path / "again")
            assert [path.read_bytes() for path in outcome.paths] == [
                (out / name).read_bytes() for name in line["files"]
            ]
    assert "secret" not in (out / "novita-index.jsonl").read_text()
    assert {path.stem for path in (out / "inputs").iterdir()} == {
        digest for line in lines_of(out) for place, digest in line["inputs"].items() if place[0] != "/"
    }


async def test_the_index_says_where_a_result_cannot_be_made_again(tmp_path):
    path = tmp_path / "dog.png"
    path.write_bytes(picture())
    asked = [request(image=path), AnyTask(path="/v3/async/upscale", body={"image": "A" * 400})]
    async with client_of(service()) as (client, _):
        async with client.stream(asked, save_to=tmp_path) as outcomes:
            while outcomes.statistics().submitted < 2:
                await anyio.sleep(0.01)
            path.write_bytes(picture(2) + b"more")
            assert [type(outcome) async for outcome in outcomes] == [Succeeded] * 2
    assert [line["make"] for line in lines_of(tmp_path)] == [None, None]


async def test_the_index_of_a_batch_tells_no_picture_that_has_changed_since(tmp_path):
    """Though the journal knows what was bought."""
    (tmp_path / "kept.png").write_bytes(picture())
    (tmp_path / "changed.png").write_bytes(picture())
    (tmp_path / "gone.png").write_bytes(picture())
    asked = [request(image=tmp_path / f"{name}.png") for name in ("kept", "changed", "gone")]
    async with client_of(service()) as (client, _):
        async with client.batch(asked, journal=tmp_path / "run.db", save_to=tmp_path) as outcomes:
            while outcomes.statistics().submitted < 3:
                await anyio.sleep(0.01)
            (tmp_path / "changed.png").write_bytes(picture(2) + b"more")
            (tmp_path / "gone.png").unlink()
            assert [type(outcome) async for outcome in outcomes] == [Succeeded] * 3
    made = {line["place"]: line["make"] for line in lines_of(tmp_path)}
    assert made[0]["request"]["image"] == str(tmp_path / "kept.png")
    assert (made[1], made[2]) == (None, None)


async def test_a_task_that_is_only_watched_is_in_the_index_without_its_request(tmp_path):
    async with client_of(service()) as (client, _):
        task = await client.submit(request())
        async with client.watch([task.task_id], save_to=tmp_path) as outcomes:
            assert [type(outcome) async for outcome in outcomes] == [Succeeded]
    (line,) = lines_of(tmp_path)
    assert (line["files"], line["task_id"]) == (pictures_in(tmp_path), task.task_id)
    assert (line["place"], line["inputs"], line["make"]) == (None, {}, None)


def test_a_line_that_a_full_disk_has_cut_spoils_no_other(tmp_path):
    path = tmp_path / "index"
    path.write_bytes(b'{"files": ["a')
    index._append(path, "{}", durable=False)
    index._append(path, "{}", durable=False)
    assert path.read_bytes() == b'{"files": ["a\n{}\n{}\n'


def test_a_line_that_is_not_written_whole_is_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(index.os, "write", lambda *_: 2)
    with pytest.raises(OSError, match="No space left"):
        index._append(tmp_path / "index", "{}", durable=False)
