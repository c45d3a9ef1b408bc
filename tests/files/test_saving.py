"""Result files on hosts that misbehave: whole and right, or not there at all."""

import json
from contextlib import asynccontextmanager

import anyio
import pytest
from attrs import define, field

from novita_async import (
    AnyTask,
    ConfigurationError,
    DownloadFailed,
    Extra,
    Failed,
    NovitaClient,
    Succeeded,
    TaskNotFound,
    Webhook,
    request_to_json,
)
from novita_async._files import index
from novita_async._files import saver as _download
from novita_async._files.names import NameTemplate
from novita_async._files.saver import _Target
from novita_async.cli._manifest import Recipe
from tests.helpers.service import client_of, picture, request, requests, service

pytestmark = pytest.mark.anyio


@define
class Host:
    """Hands out one file, in any way."""

    data: bytes = field(factory=picture)
    status: int = 200
    headers: dict[str, str] = field(factory=dict)
    step: int = 1 << 16
    pause: float = 0.0
    asked: int = 0
    given: int = 0

    @asynccontextmanager
    async def open(self, url):
        assert "X-Amz-Signature" in url
        self.asked += 1
        yield self

    async def chunks(self):
        for start in range(0, len(self.data), self.step):
            await anyio.sleep(self.pause)
            piece = self.data[start : start + self.step]
            self.given += len(piece)
            yield piece

    async def aclose(self):
        pass


@asynccontextmanager
async def result_at(host):
    """A client that fetches from this host, and a result to fetch."""
    simulation = service()
    transport = simulation.transport()
    async with NovitaClient(simulation.api_key, transport=transport, downloader=host) as client:
        yield client, await client.run(request())


@pytest.mark.parametrize("stated", [True, False])
async def test_a_file_that_is_too_long_fails_once_and_is_not_fetched_whole(tmp_path, monkeypatch, stated):
    monkeypatch.setattr(_download, "MAX_FILE", 1000)
    host = Host(data=picture() * 100, step=400)
    if stated:
        host.headers["content-length"] = str(len(host.data))
    async with result_at(host) as (client, result):
        with pytest.raises(DownloadFailed, match="longer than 1,000 bytes"):
            await client.save(result, tmp_path)
    assert host.asked == 1
    assert host.given <= (0 if stated else 1200)
    assert list(tmp_path.iterdir()) == []


async def test_a_host_that_sends_a_byte_a_minute_does_not_keep_a_lane_for_ever(tmp_path):
    host = Host(step=1, pause=50.0)
    async with result_at(host) as (client, result):
        with pytest.raises(DownloadFailed, match="not whole after 900 s"):
            await client.save(result, tmp_path)
    assert anyio.current_time() < 2000
    assert list(tmp_path.iterdir()) == []


async def test_what_a_dead_process_left_is_taken_away_though_the_line_has_another_place_now(tmp_path):
    """The file's name tells the place; that of its part must not."""
    simulation, journal, out = service(workers=1), tmp_path / "run.db", tmp_path / "out"
    async with client_of(simulation) as (client, _):
        async with client.batch([request(seed=7)], journal=journal) as outcomes:
            (outcome,) = [outcome async for outcome in outcomes]
    target = _Target(artifact=outcome.result.images[0], result=outcome.result, owned=True)
    out.mkdir()
    target.part_of(out).write_bytes(b"half of it")
    async with client_of(simulation) as (client, _):
        async with client.batch([request(seed=1), request(seed=7)], journal=journal, save_to=out) as outcomes:
            assert all([isinstance(outcome, Succeeded) async for outcome in outcomes])
    assert not target.part_of(out).exists()


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
            cramped.setattr(_download if name == "_settle" else index, name, full)
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


# --- Names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", [None, "run.db"])
async def test_files_are_called_as_a_template_says(tmp_path, journal):
    template = "{index:03d}_{seed}_{n}.{ext}"
    async with client_of(service()) as (client, _):
        journal = journal and tmp_path / journal
        await run(client, requests(2, image_num=2), journal, save_to=tmp_path, save_as=template)
    assert pictures_in(tmp_path) == ["000_0_1.png", "000_0_2.png", "001_1_1.png", "001_1_2.png"]


async def test_names_that_are_alike_are_numbered_and_no_file_is_written_over(tmp_path):
    (tmp_path / "a.png").write_bytes(b"mine")
    async with client_of(service()) as (client, _):
        await run(client, requests(2), save_to=tmp_path, save_as="a.{ext}")
    assert pictures_in(tmp_path) == ["a.2.png", "a.3.png", "a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("../{n}.{ext}", "not elsewhere"),
        ("a\\{n}.{ext}", "not elsewhere"),
        ("{n}", "must end with"),
        ("{n.__class__}.{ext}", "no field"),
        ("{url}.{ext}", "no field {url}"),
        ("{}.{ext}", "no field {}"),
        ("{n.{ext}", "in field name"),
        ("{task_id:d}.{ext}", "Unknown format code"),
    ],
)
async def test_a_template_that_makes_no_names_is_refused_before_anything_is_bought(tmp_path, template, why):
    simulation = service()
    async with client_of(simulation) as (client, _):
        with pytest.raises(ConfigurationError, match=why):
            await run(client, requests(1), tmp_path / "run.db", save_to=tmp_path, save_as=template)
    assert simulation.ledger.entries == []


def test_a_result_without_a_seed_has_a_name_all_the_same():
    naming = NameTemplate("{seed:05d}-{task_id}-{n}.{ext}").of(index=0, seed=None, task_id="t")
    assert naming(2, "png") == "none-t-2.png"


# --- The index ----------------------------------------------------------------------------------------------


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
