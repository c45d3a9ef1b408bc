"""The batch commands: in this process, and as processes that are interrupted, killed and resumed."""

import itertools
import json
import shutil
import signal
import tracemalloc
from collections import Counter
from pathlib import Path

import anyio
import pytest

from novita_async import NoAnswer, NovitaClient, Task
from novita_async._policy.pacing import WINDOW
from novita_async._purchase.machine import Action, State
from novita_async.cli._batch import found_by
from novita_async.cli._course import Course
from novita_async.cli._forecast import ForecastWindow, Pace, time_left
from novita_async.cli._manifest import Recipe, axes_of
from novita_async.cli._progress import Status
from novita_async.cli._setup import Setup
from novita_async.cli._sources import lines_of
from novita_async.events import Announced, Bought, Paced, Retrying, Transition
from novita_async.testing import Fault, FaultPlan, sample_picture
from tests.helpers.batches import KEY, caller, files_below, manifest, of_event, records, rows_of, seeds, shots
from tests.helpers.outages import REFUSED, Outage
from tests.helpers.served import Withheld, served
from tests.helpers.service import requests, service

SETTINGS = ("--model", "model.safetensors", "--prompt", "a cute dog")
ENDPOINT = "/v3/async/img2img"


@pytest.fixture
def pictures_in():
    return "pics"


@pytest.fixture
def call(capsys, folder):
    return caller(capsys, folder)


# --- A quota that was found out -----------------------------------------------------------------------------


def test_a_quota_that_was_found_out_is_known_to_report_status_plan_and_the_next_run(
    call, folder, serve, monkeypatch
):
    serve()
    typed = ("batch", shots(folder, 15), "--out", "made")
    with monkeypatch.context() as finding:
        finding.setattr("novita_async.cli._batch.found_by", lambda _, __: 7)
        assert call(*typed)[0] == 0
    page = folder / "made" / "report.html"
    for command in (("report", "made"), ("resume", "made"), typed):
        page.unlink()
        assert call(*command)[0] == 0
        assert "quota 7 a minute" in page.read_text()
        assert Setup.read(folder / "made").found == {ENDPOINT: 7}
    assert "quota: 7 images a minute, as was found out\n" in call("status", "made")[1]
    assert json.loads(call("status", "made", "--json")[1])["images_per_minute"] == 7
    assert "at your quota, as was found out, of 7 images a minute" in call(*typed, "--dry-run")[1]


def test_a_quota_that_was_given_is_what_a_larger_one_that_was_found_does_not_exceed(
    call, folder, serve, monkeypatch
):
    serve()
    monkeypatch.setattr("novita_async.cli._batch.found_by", lambda _, __: 7)
    call("batch", shots(folder, 1), "--out", "made", "--images-per-minute", "5")
    assert "quota: 5 images a minute\n" in call("status", "made")[1]


# --- What is made -------------------------------------------------------------------------------------------


def test_a_batch_saves_every_result_with_a_journal_a_note_and_a_report(call, folder, serve):
    server = serve()
    code, out, err = call("batch", shots(folder, 3), "--out", "made")
    assert code == 0
    assert sorted(out.split()) == [f"made/{seed:05d}-{seed}-1.png" for seed in range(3)]
    assert all((folder / line).read_bytes().startswith(b"\x89PNG") for line in out.split())
    assert {"batch.db", "batch.json", "report.html"} <= {path.name for path in (folder / "made").iterdir()}
    assert seeds(server) == [0, 1, 2]
    assert "[3/3] shots.jsonl line" in err
    assert "3 of 3 succeeded" in err
    assert "report: made/report.html" in err


def test_running_it_again_buys_nothing_and_tells_the_same_files(call, folder, serve):
    server = serve()
    first = call("batch", shots(folder, 3), "--out", "made")
    again = call("batch", "shots.jsonl", "--out", "made")
    assert sorted(again[1].split()) == sorted(first[1].split())
    assert again[0] == 0
    assert "3 ended in earlier runs" in again[2]
    assert "[" not in again[2]
    assert len(server.ledger.entries) == 3


def test_lines_that_are_added_are_all_that_is_bought(call, folder, serve):
    server = serve()
    call("batch", shots(folder, 2), "--out", "made")
    call("batch", shots(folder, 4), "--out", "made")
    assert seeds(server) == [0, 1, 2, 3]


def test_a_folder_stands_for_its_pictures_in_order(call, folder, serve):
    server = serve()
    (folder / "pics" / "notes.txt").write_text("no picture")
    (folder / "pics" / ".hidden.png").write_text("no picture")
    code, out, _ = call("batch", "pics", *SETTINGS, "--out", "made", "--seed", 5, "--in-flight", 1)
    assert (code, out) == (0, "made/00000-5-1.png\nmade/00001-5-1.png\n")
    sent = [entry.request["request"]["image_base64"] for entry in server.ledger.accepted]
    names = [
        json.loads(row.entry.request)["request"]["image_base64"]["path"] for row in rows_of(folder / "made")
    ]
    assert [Path(name).name for name in names] == ["cat.png", "dog.png"]
    assert len(sent) == 2


def test_pictures_come_in_the_order_of_their_names(folder):
    for name in range(20):
        (folder / "pics" / f"{name * 7 % 20:02d}.webp").touch()
    places = [line.place for line in lines_of([folder / "pics"])]
    assert places == sorted(places)
    assert places[0] == "pics/00.webp"


def test_a_sweep_makes_a_request_of_every_combination(call, folder, serve):
    server = serve()
    sweeps = ("--sweep", "seed=1..3", "--sweep", "strength=0.3,0.5", "--sweep", 'prompt=["a, b", "c"]')
    code, _, err = call("batch", "pics/dog.png", "--model", "m", *sweeps, "--out", "made")
    sent = [entry.request["request"] for entry in server.ledger.accepted]
    assert code == 0
    assert sorted((each["seed"], each["strength"], each["prompt"]) for each in sent) == sorted(
        itertools.product((1, 2, 3), (0.3, 0.5), ("a, b", "c"))
    )
    assert "pics/dog.png (seed=3, strength=0.5, prompt=c): done" in err


def test_a_swept_width_is_followed_by_the_height_of_each_picture(call, folder, serve):
    server = serve()
    call("batch", "pics/dog.png", *SETTINGS, "--sweep", "width=256,512", "--out", "made")
    sent = [entry.request["request"] for entry in server.ledger.accepted]
    assert sorted((each["width"], each["height"]) for each in sent) == [(256, 192), (512, 384)]


def test_options_fill_what_a_line_leaves_out(call, folder, serve):
    server = serve()
    bare = {"image": "pics/dog.png", "seed": 1}
    full = {
        **bare,
        "seed": 2,
        "steps": 9,
        "prompt": "own",
        "loras": [],
        "extra": {"response_image_type": "webp"},
    }
    manifest(folder, bare, full, {"request": {"image": "pics/dog.png", "seed": 3}})
    options = ("--steps", 5, "--lora", "x:0.5", "--response-image-type", "jpeg", "--enable-nsfw-detection")
    assert call("batch", "shots.jsonl", *SETTINGS, *options, "--out", "made")[0] == 0
    sent = {entry.request["request"]["seed"]: entry.request for entry in server.ledger.accepted}
    for seed in (1, 3):
        assert sent[seed]["request"]["steps"] == 5
        assert sent[seed]["request"]["prompt"] == "a cute dog"
        assert sent[seed]["request"]["loras"] == [{"model_name": "x", "strength": 0.5}]
        assert sent[seed]["extra"] == {"response_image_type": "jpeg", "enable_nsfw_detection": True}
    assert sent[2]["request"]["steps"] == 9
    assert sent[2]["request"]["prompt"] == "own"
    assert "loras" not in sent[2]["request"]
    assert sent[2]["extra"] == {"response_image_type": "webp", "enable_nsfw_detection": True}


def test_pictures_are_seen_from_the_manifests_folder_wherever_they_stand(call, folder, serve):
    server = serve()
    unit = {"model_name": "control_v11p_sd15_canny", "strength": 0.5}
    line = {"image": "dog.png", "controlnet": {"units": [{**unit, "image": "cat.png"}, unit]}}
    adapter = {"model_name": "ip-adapter_sd15.bin", "image": "cat.png"}
    manifest(folder / "pics", {**line, "ip_adapters": [adapter]})
    (folder / "elsewhere").mkdir()
    assert call("batch", "pics/shots.jsonl", *SETTINGS, "--out", "made")[0] == 0
    sent = server.ledger.entries[0].request["request"]
    first, second = sent["controlnet"]["units"]
    assert second["image_base64"] == sent["image_base64"] != first["image_base64"]
    assert sent["ip_adapters"][0]["image_base64"] == first["image_base64"]


def test_guides_of_the_command_line_are_seen_from_where_it_was_typed(call, folder, serve, monkeypatch):
    server = serve()
    guide = (
        "--controlnet",
        "control_v11p_sd15_canny:pics/cat.png:0.5",
        "--ip-adapter",
        "ip-adapter_sd15.bin",
    )
    call("batch", "pics/dog.png", *SETTINGS, *guide, "--out", "made", "--sweep", "seed=1")
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    assert call("resume", "../made")[0] == 0
    assert len(server.ledger.entries) == 1
    sent = server.ledger.entries[0].request["request"]
    assert sent["ip_adapters"][0]["image_base64"] == sent["image_base64"]
    assert sent["controlnet"]["units"][0]["image_base64"] != sent["image_base64"]


def test_other_endpoints_get_their_body_as_it_stands_with_files_in_base64(call, folder, serve):
    server = serve()
    text = {"endpoint": "txt2img", "width": 256, "height": 256, "prompt": "p", "seed": 1}
    body = {"image_base64": {"file": "pics/dog.png"}, "scale_factor": 2, "items": [1, {"a": None}]}
    other = {"endpoint": "/v3/async/upscale", "request": body, "num_images": 2}
    manifest(folder, text, other)
    code, _, err = call("batch", "shots.jsonl", "--model", "m", "--strength", 0.5, "--out", "made")
    assert code == 0, err
    by_path = {entry.endpoint: entry.request for entry in server.ledger.accepted}
    assert "strength" not in by_path["/v3/async/txt2img"]["request"]
    sent = by_path["/v3/async/upscale"]
    assert sent["num_images"] == 2
    assert sent["request"]["items"] == [1, {"a": None}]
    assert sent["request"]["image_base64"] not in (None, {"file": "pics/dog.png"})
    assert "images bought: 3\n" in call("status", "made")[1]


def test_equal_lines_are_each_bought_once(call, folder, serve):
    server = serve()
    manifest(folder, *[{"image": "pics/dog.png", "seed": 1}] * 3)
    for _ in range(2):
        assert call("batch", "shots.jsonl", *SETTINGS, "--out", "made")[0] == 0
    assert seeds(server) == [1, 1, 1]


# --- What is refused ----------------------------------------------------------------------------------------


def test_every_fault_is_told_with_its_line_and_nothing_is_bought(call, folder, serve):
    server = serve()
    good = {"image": "pics/dog.png", "prompt": "p"}
    manifest(
        folder,
        good,
        {**good, "steps": 0, "stepz": 3},
        "{not json",
        "[1]",
        "",
        {**good, "image": "gone.png", "strength": 7},
        {"request": {**good, "loras": [{"model_name": "x", "strength": 9}]}},
        {**good, "image_base64": "?"},
        {"prompt": "p"},
        {**good, "image": 5},
        {**good, "image": "https://example.com/x.png?secret=1"},
        {**good, "endpoint": "img3img"},
        {**good, "endpoint": 5},
        {**good, "controlnet": {"units": [{"model_name": "c", "image": "lost.png"}]}},
        {"endpoint": "/v3/async/upscale", "request": {"image_base64": {"file": "lost.png"}}},
        {"endpoint": "/v3 async", "x": 1},
        {"request": 5},
        {**good, "image_base64": "!", "image": None},
    )
    code, out, err = call(
        "batch", "shots.jsonl", "gone.jsonl", "--model", "m", "--guidance-scale", 99, "--out", "made"
    )
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    for told in (
        "--guidance-scale: 99 is not in [1, 30]",
        "shots.jsonl line 2: steps: 0 is not in [1, 100]",
        "shots.jsonl line 2: stepz: no such field; did you mean steps?",
        "shots.jsonl line 3: is not JSON",
        "shots.jsonl line 4: [1] is not a JSON object",
        f"shots.jsonl line 6: image: {folder}/gone.png: no such file",
        "shots.jsonl line 6: strength: 7 is not in [0, 1]",
        "shots.jsonl line 7: request.loras[0].strength: 9 is not in [0, 1]",
        "shots.jsonl line 8: image: is given as well as image_base64",
        "shots.jsonl line 9: image: is missing",
        "shots.jsonl line 10: image: 5 is not a path",
        "shots.jsonl line 11: image: https://example.com/x.png: no such file; the API takes pictures",
        "shots.jsonl line 12: endpoint: 'img3img' is none of",
        "shots.jsonl line 13: endpoint: 5 is not text",
        f"shots.jsonl line 14: controlnet.units[0].image: {folder}/lost.png: no such file",
        f"shots.jsonl line 15: request.image_base64: {folder}/lost.png: no such file",
        "shots.jsonl line 16: AnyTask.path: '/v3 async' has a query",
        "shots.jsonl line 17: request: 5 is not a JSON object",
        "shots.jsonl line 18: image_base64: '!' (1 characters) is not base64",
        "gone.jsonl: no such file",
    ):
        assert sum(line.startswith(f"error: {told}") for line in lines) == 1, (told, err)
    assert len(lines) == 20
    assert server.ledger.entries == []
    assert not list((folder / "made").iterdir())


def test_what_is_missing_for_every_picture_of_a_folder_is_told_once(call, folder, serve):
    server = serve()
    (folder / "pics" / "bad.png").write_bytes(b"")
    code, _, err = call("batch", "pics", "--out", "made", "--steps", 0)
    assert code == 2
    assert err.splitlines() == [
        "error: pics/bad.png: is empty",
        "error: --model-name: is missing",
        "error: --prompt: is missing",
        "error: --steps: 0 is not in [1, 100]",
    ]
    assert server.ledger.entries == []


@pytest.mark.parametrize(
    ("sweep", "told"),
    [
        ("sead=1..3", "no such field; did you mean seed?"),
        ("seed", "give it as FIELD=VALUES"),
        ("seed=", "no values"),
        ("seed=3..1", "no values"),
        ("seed=1,x", "'x' is not a whole number"),
        ("seed=-2..3", "-2 is not -1 or above"),
        ("strength=0.5,1.5", "1.5 is not in [0, 1]"),
        ('prompt=["a", ""]', "0 characters are not in [1, 1024]"),
        ("prompt=[a]", None),
        ("guidance-scale=1,2.5", None),
    ],
)
def test_a_sweep_is_checked_value_by_value(sweep, told):
    faults = []
    axes_of([sweep], faults)
    assert [fault.path for fault in faults] == ([f"--sweep {sweep}"] if told else [])
    assert told is None or faults[0].message.startswith(told)


def test_a_field_is_swept_only_once():
    faults = []
    assert axes_of(["seed=1..2", "seed=5"], faults) == {"seed": range(1, 3)}
    assert [fault.message for fault in faults] == ["is swept already"]


def test_every_width_of_a_sweep_is_tried_with_every_picture(call, folder, serve):
    server = serve()
    (folder / "wide.png").write_bytes(sample_picture("wide", (1200, 150)))
    code, _, err = call("batch", "wide.png", *SETTINGS, "--sweep", "width=2048,512", "--out", "made")
    assert code == 2
    assert "wide.png: request.height: must be given" in err or "wide.png: height: must be given" in err
    assert server.ledger.entries == []


def test_other_endpoints_cannot_be_swept(call, folder, serve):
    serve()
    manifest(folder, {"endpoint": "/v3/async/upscale", "x": 1})
    code, _, err = call("batch", "shots.jsonl", "--sweep", "seed=1..2", "--out", "made")
    assert code == 2
    assert "shots.jsonl line 1: --sweep: a request with a path of its own cannot be swept" in err


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("empty.jsonl", b"\n\n", "empty.jsonl: holds no requests"),
        ("movie.mp4", b"\x00\x01\n" * 5, "movie.mp4: is not text"),
    ],
)
def test_a_file_that_is_no_manifest_is_one_fault(call, folder, name, content, told):
    (folder / name).write_bytes(content)
    code, _, err = call("batch", name, "--out", "made")
    assert code == 2
    assert err.startswith(f"error: {told}")
    assert len(err.splitlines()) == 1


def test_a_folder_without_pictures_is_a_fault(call, folder, serve):
    serve()
    (folder / "empty").mkdir()
    _, _, err = call("batch", "empty", "--out", "made")
    assert "empty: holds no png, jpeg or webp pictures" in err


def test_results_never_become_input(call, folder, serve):
    server = serve()
    code, _, err = call("batch", "pics", *SETTINGS, "--out", "./pics/../pics")
    assert code == 2
    assert "--out: " in err
    assert server.ledger.entries == []


def test_money_is_checked(call, folder, serve):
    serve()
    assert "--budget: needs --price" in call("batch", "pics", *SETTINGS, "--out", "made", "--budget", 5)[2]
    _, _, err = call("batch", "pics", *SETTINGS, "--out", "made", "--budget", "x", "--price", -1)
    assert "--budget: 'x' is not an amount of money" in err
    assert "--price: '-1' is not an amount of money" in err


def test_a_byte_order_mark_does_no_harm(call, folder, serve):
    serve()
    line = json.dumps({"image": "pics/dog.png", "seed": 1})
    (folder / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n\r\n")
    assert call("batch", "bom.jsonl", *SETTINGS, "--out", "made")[0] == 0


def test_a_picture_that_vanishes_after_the_check_is_told_and_the_others_are_made(
    call, folder, serve, monkeypatch
):
    server = serve()
    manifest(folder, {"image": "pics/cat.png"}, {"image": "pics/dog.png"})
    write = Setup.write

    def vanish(self, place):
        (folder / "pics" / "cat.png").unlink(missing_ok=True)
        write(self, place)

    monkeypatch.setattr(Setup, "write", vanish)
    code, out, err = call("batch", "shots.jsonl", *SETTINGS, "--out", "made", "--seed", 1)
    assert (code, out) == (1, "made/00000-1-1.png\n")
    assert "not sent: shots.jsonl line 1: image: " in err
    assert "to go on: novita-async resume made" in err
    assert len(server.ledger.accepted) == 1


# --- What it would be ---------------------------------------------------------------------------------------


def test_a_dry_run_tells_what_it_would_be_and_leaves_no_trace(call, folder, serve):
    server = serve(key="")
    shots(folder, 100, image_num=2)
    before = files_below(folder)
    options = ("--images-per-minute", 20, "--price", "0.0015", "--budget", "0.2")
    code, out, _ = call("batch", "shots.jsonl", "--out", "made", "--dry-run", *options)
    assert code == 0
    assert "requests: 100\nimages: 200\ntime: 9 min" in out
    assert "cost: $0.30 at $0.0015 an image, which is over the budget" in out
    assert files_below(folder) == before
    assert not (folder / "made").exists()
    assert server.ledger.entries == []


def test_a_dry_run_counts_sweeps_and_images(call, folder, serve):
    serve()
    sweeps = ("--sweep", "seed=1..50", "--sweep", "image_num=1,3")
    _, out, _ = call("batch", "pics", *SETTINGS, *sweeps, "--out", "made", "--dry-run", "--json")
    (plan,) = records(out)
    assert (plan["requests"], plan["images"], plan["cost"]) == (200, 400, None)
    assert plan["seconds"] == pytest.approx(39 * WINDOW, abs=0.1)


def test_a_dry_run_knows_what_is_in_the_journal(call, folder, serve):
    serve()
    call("batch", shots(folder, 2), "--out", "made")
    assert "in the journal already: 2 saved" in call("batch", "shots.jsonl", "--out", "made", "--dry-run")[1]


def test_a_dry_run_names_faults_as_well(call, folder, serve):
    serve()
    assert call("batch", "gone.jsonl", "--out", "made", "--dry-run")[0] == 2


# --- How it goes on -----------------------------------------------------------------------------------------


def test_a_budget_is_never_exceeded_by_all_runs_together_and_can_be_raised(call, folder, serve):
    server = serve()
    money = ("--price", "0.5", "--budget", "1")
    code, _, err = call("batch", shots(folder, 4), "--out", "made", *money)
    assert code == 3
    assert "exceed the budget of 1" in err
    assert "give a higher --budget" in err
    assert call("resume", "made")[0] == 3
    assert len(server.ledger.accepted) == 2
    assert call("resume", "made", "--budget", 9)[0] == 0
    assert seeds(server) == [0, 1, 2, 3]
    assert "images bought: 4 ($2.00)" in call("status", "made")[1]


def test_what_failed_is_bought_again_only_by_retry(call, folder, serve):
    server = serve(failure_rate=1.0)
    code, _, err = call("batch", shots(folder, 2), "--out", "made")
    assert code == 1
    assert "to try again what failed and can succeed: novita-async retry made" in err
    code, _, err = call("resume", "made")
    assert code == 1
    assert "failed in an earlier run (TaskFailed)" in err
    assert "retry_failed" not in err
    assert len(server.ledger.entries) == 2
    told = call("status", "made")[1]
    assert "  2 failed\n" in told
    assert "novita-async retry made\n" in told
    call("retry", "made")
    assert len(server.ledger.entries) == 4


def test_what_is_uncertain_is_bought_again_only_when_that_is_said(call, folder, serve):
    server = serve(faults=FaultPlan.listed("submit", {1: Fault.reset_after()}))
    code, _, err = call("batch", shots(folder, 1), "--out", "made")
    assert code == 4
    assert "novita-async retry made --uncertain" in err
    assert [call("resume", "made")[0], call("retry", "made")[0]] == [4, 4]
    assert len(server.ledger.entries) == 1
    told = call("status", "made")[1]
    assert "  1 uncertain: perhaps paid for\n" in told
    assert "images bought: 0\nimages perhaps bought: 1\n" in told
    assert "novita-async retry made --uncertain\n" in told
    assert call("retry", "made", "--uncertain")[0] == 0
    assert len(server.ledger.accepted) == 2


def test_files_that_could_not_be_had_are_fetched_by_resume(call, folder, serve, monkeypatch):
    server = serve(faults=FaultPlan.listed("download", {n: Fault.answer(404, b"") for n in range(1, 9)}))
    code, _, err = call("batch", shots(folder, 1), "--out", "made")
    assert code == 1
    assert "to go on: novita-async resume made" in err
    assert "1 done, files not saved" in call("status", "made")[1]
    codes = {call("resume", "made")[0] for _ in range(3)}
    assert 0 in codes
    assert len(server.ledger.entries) == 1


def test_a_bad_key_leaves_everything_to_be_resumed(call, folder, serve, monkeypatch):
    server = serve(key="sk_wrong")
    code, _, err = call("batch", shots(folder, 3), "--out", "made", "--in-flight", 1)
    assert code == 3
    assert len(rows_of(folder / "made")) == 3
    assert "to go on: novita-async resume made" in err
    assert "3 not sent yet" in call("status", "made")[1]
    monkeypatch.setenv("NOVITA_API_KEY", KEY)
    assert call("resume", "made")[0] == 0
    assert seeds(server) == [0, 1, 2]


def test_without_a_key_nothing_is_written(call, folder, serve):
    serve(key="")
    code, _, err = call("batch", shots(folder, 1), "--out", "made")
    assert code == 2
    assert "NOVITA_API_KEY" in err
    assert not list((folder / "made").iterdir())


def test_a_batch_can_be_moved(call, folder, serve):
    server = serve()
    (folder / "old").mkdir()
    shutil.move(folder / "pics", folder / "old" / "pics")
    shots(folder / "old", 3)
    call("batch", "old/shots.jsonl", "--out", "old/made", "--price", 1, "--budget", 2)
    shutil.move(folder / "old", folder / "new")
    code, _, err = call("resume", "new/made", "--budget", 3)
    assert code == 0, err
    assert seeds(server) == [0, 1, 2]


def test_files_are_called_as_a_template_says_in_every_run(call, folder, serve):
    server = serve()
    manifest_name = shots(folder, 2)
    code, _, err = call("batch", manifest_name, "--out", "made", "--name", "../{n}.{ext}")
    assert (code, server.ledger.entries) == (2, [])
    assert "--name" in err
    call(
        "batch", manifest_name, "--out", "made", "--name", "{index}_{seed}.{ext}", "--price", 1, "--budget", 1
    )
    code, out, err = call("resume", "made", "--budget", 9)
    assert code == 0, err
    assert sorted(out.split()) == ["made/0_0.png", "made/1_1.png"]


def test_the_report_of_a_batch_that_was_moved_shows_its_pictures(call, folder, serve):
    serve()
    call("batch", shots(folder, 2), "--out", "old")
    shutil.move(folder / "old", folder / "new")
    call("report", "new")
    page = (folder / "new" / "report.html").read_text()
    assert "00000-0-1.png" in page
    assert "no longer where it was" not in page


def test_the_report_says_how_to_buy_again_what_is_uncertain(call, folder, serve):
    serve(faults=FaultPlan.listed("submit", {1: Fault.reset_after()}))
    call("batch", shots(folder, 1), "--out", "made")
    page = (folder / "made" / "report.html").read_text()
    assert "<code>novita-async retry made --uncertain</code> buys again." in page


def test_resume_checks_only_what_has_changed(call, folder, serve, monkeypatch):
    """And when a picture is gone meanwhile, the others are still made."""
    server = serve()
    money = ("--price", 1, "--budget", 1)
    manifest(folder, *({"image": f"pics/{name}.png", "prompt": "p"} for name in ("dog", "cat", "dog")))
    call("batch", "shots.jsonl", "--model", "m", "--out", "made", *money)
    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "check", None)
        (folder / "pics" / "cat.png").unlink()
        code, _, err = call("resume", "made", "--budget", 3)
    assert code == 1
    assert "not sent: shots.jsonl line 2: image: " in err
    assert len(server.ledger.accepted) == 2
    manifest(folder, "{", {"image": "pics/dog.png", "prompt": "p"})
    code, _, err = call("resume", "made")
    assert code == 2
    assert "shots.jsonl line 1: is not JSON" in err


def test_a_journal_may_lie_elsewhere(call, folder, serve):
    server = serve()
    call("batch", shots(folder, 2), "--out", "made", "--journal", "my.db")
    assert (folder / "my.db").exists()
    assert not (folder / "made" / "batch.db").exists()
    assert call("resume", "made")[0] == 0
    assert "2 saved" in call("status", "made")[1]
    assert len(server.ledger.entries) == 2


@pytest.mark.parametrize("command", ["resume", "retry", "status", "report"])
@pytest.mark.parametrize(
    ("note", "told"),
    [
        (None, "there is no batch here (batch.json is missing)"),
        ("{", "batch.json: cannot be read"),
        ("[]", "it is of another version"),
        ('{"version": 2}', "it is of another version"),
        ('{"version": 1, "inputs": 5}', "batch.json: cannot be read"),
        ('{"version": 1, "inputs": [5]}', "batch.json: cannot be read"),
        ('{"version": 1, "inputs": [], "marks": [5]}', "batch.json: cannot be read"),
    ],
)
def test_a_folder_without_a_batch_says_so(call, folder, command, note, told):
    (folder / "made").mkdir()
    if note is not None:
        (folder / "made" / "batch.json").write_text(note)
    code, _, err = call(command, "made")
    assert code == 2
    assert told in err
    assert len(err.splitlines()) == 1


def test_a_journal_alone_is_enough_to_look_at(call, folder, serve):
    serve()
    call("batch", shots(folder, 2), "--out", "made")
    (folder / "made" / "batch.json").unlink()
    assert "2 saved" in call("status", "made")[1]
    assert call("report", "made")[:2] == (0, "made/report.html\n")
    assert call("resume", "made")[0] == 2


def test_the_report_is_written_again_on_demand(call, folder, serve):
    serve()
    call("batch", shots(folder, 2), "--out", "made")
    page = folder / "made" / "report.html"
    page.unlink()
    assert (
        call("report", "made", "--embed", "--json")[1] == '{"event": "report", "file": "made/report.html"}\n'
    )
    assert "00001-1-1.png" in page.read_text()
    assert "data:image/webp" in page.read_text()
    assert "novita-async resume made" in page.read_text()


def test_a_report_that_cannot_be_written_makes_nothing_undone(call, folder, serve):
    serve()
    (folder / "made" / "report.html").mkdir(parents=True)
    code, out, err = call("batch", shots(folder, 1), "--out", "made")
    assert (code, len(out.split())) == (0, 1)
    assert "no report: " in err


def test_programs_get_one_object_a_line(call, folder, serve):
    serve()
    _, out, _ = call("batch", shots(folder, 2), "--out", "made", "--json")
    assert Counter(record["event"] for record in records(out)) == {
        "submitted": 2, "outcome": 2, "summary": 1, "report": 1,
    }  # fmt: skip
    assert {record["input"] for record in of_event(out, "outcome")} == {
        "shots.jsonl line 1",
        "shots.jsonl line 2",
    }
    assert sorted(file for record in of_event(out, "outcome") for file in record["files"]) == [
        "made/00000-0-1.png",
        "made/00001-1-1.png",
    ]
    (summary,) = of_event(call("resume", "made", "--json")[1], "summary")
    expected = {"requests": 2, "succeeded": 2, "earlier": 2, "images": 0, "next": [], "exit_code": 0}
    assert summary.items() >= expected.items()
    (status,) = records(call("status", "made", "--json")[1])
    assert status.items() >= {"requests": 2, "saved": 2, "failed": 0, "images_bought": 2, "next": []}.items()


def test_a_request_that_is_answered_at_once_is_news_of_this_run(call, folder, serve):
    serve(speed=50.0)
    lines = [
        {"model": "seedream-4.5", "image": "pics/dog.png", "prompt": "in watercolour"},
        {"model_name": "m", "image": "pics/dog.png", "prompt": "a cute dog"},
    ]
    (folder / "mixed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, _ = call("batch", "mixed.jsonl", "--out", "made", "--json")
    (summary,) = of_event(out, "summary")
    assert code == 0
    assert summary.items() >= {"requests": 2, "succeeded": 2, "earlier": 0, "images": 2}.items()


# --- A million lines ----------------------------------------------------------------------------------------


def test_a_long_manifest_is_read_lazily_in_little_memory(folder):
    texts = {"prompt": "p" * 1000, "negative_prompt": "n" * 1000}
    line = json.dumps({"image": "pics/dog.png", "model_name": "m", **texts}) + "\n"
    (folder / "long.jsonl").write_text(line * 1400)  # 3 MB
    recipe = Recipe(inputs=[folder / "long.jsonl"], shared={}, axes={"seed": range(10**9)})
    tracemalloc.start()
    assert sum(checked.requests for checked in recipe.check()) == 1400 * 10**9
    first = [made.request.seed for made in itertools.islice(recipe.read(), 3)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert first == [0, 1, 2]
    assert peak < (folder / "long.jsonl").stat().st_size  # Python's table of names may double meanwhile


# --- How long it will take ----------------------------------------------------------------------------------


def pace(**changes):
    return Pace(**{"images_left": 1, "requests_left": 1, "finished": 0, **changes})


def test_nothing_is_foretold_before_anything_is_known():
    assert time_left([ForecastWindow(left=5)], pace(), 100.0) is None


def test_nothing_left_takes_no_time():
    assert time_left([ForecastWindow(left=0)], pace(requests_left=0, images_left=0), 100.0) == 0


@pytest.mark.parametrize(
    ("left", "answered", "seconds"),
    [
        (10, [], 0),  # the first burst goes at once
        (11, [], WINDOW),
        (25, [], 2 * WINDOW),
        (5, [(0.0, 5)], 0),  # five slots are free
        (6, [(0.0, 5)], WINDOW - 20),  # the sixth takes the first slot
        (5, [(0.0, 4), (10.0, 6)], WINDOW - 10),
        (4, [(0.0, 4), (10.0, 6)], WINDOW - 20),
        (15, [(0.0, 10)], 2 * WINDOW - 20),
    ],
)
def test_the_quota_says_when_the_last_image_goes(left, answered, seconds):
    single = [(at, 1) for at, count in answered for _ in range(count)]
    window = ForecastWindow(left=left, quota=10, answered=single)
    assert time_left([window], pace(in_flight=100), 20.0) == pytest.approx(seconds)


def test_each_round_takes_the_way_there_and_back_as_well():
    window = ForecastWindow(left=30, quota=10, latency=2.0)
    assert time_left([window], pace(duration=5.0, in_flight=100), 0.0) == pytest.approx(
        2 * (WINDOW + 2) + 2 + 5
    )


@pytest.mark.parametrize(("sizes", "rounds"), [([3], 3), ([2], 2), ([3, 4], 3), ([30], 60)])
def test_requests_are_not_split_to_fill_the_quota(sizes, rounds):
    answered = [(0.0, size) for size in sizes]
    window = ForecastWindow(left=52 if sizes != [30] else 1800, quota=20, answered=answered)
    assert time_left([window], pace(in_flight=1000), 0.0) == pytest.approx(rounds * WINDOW)


def test_where_sizes_differ_half_a_large_request_is_left_over_in_each_minute():
    answered = [
        (0.0, size) for size in (1, 2, 3, 4)
    ]  # a large one is three images: one of its places is lost
    window = ForecastWindow(left=12 * 19 + 1, quota=20, answered=answered)
    assert time_left([window], pace(in_flight=1000), 0.0) == pytest.approx(12 * WINDOW)


def test_the_slowest_endpoint_counts():
    windows = [ForecastWindow(left=10, quota=10), ForecastWindow(left=40, quota=10), ForecastWindow(left=3)]
    assert time_left(windows, pace(in_flight=100), 0.0) == pytest.approx(3 * WINDOW)


def test_a_window_that_was_full_before_this_run_delays_everything():
    window = ForecastWindow(left=11, quota=10, not_before=40.0)
    assert time_left([window], pace(), 10.0) == pytest.approx(30 + WINDOW)


def test_a_slow_service_counts_more_than_a_wide_quota():
    slow = pace(images_left=90, finished=9, busy=90.0, last_end=100.0, duration=1.0, in_flight=1000)
    assert time_left([ForecastWindow(left=0, quota=1000)], slow, 100.0) == pytest.approx(900)
    assert time_left([ForecastWindow(left=0, quota=1000)], slow, 105.0) == pytest.approx(895)
    assert time_left([ForecastWindow(left=0, quota=1000)], slow, 500.0) == pytest.approx(890)


def test_few_slots_count_more_than_a_quick_service():
    few = pace(images_left=100, requests_left=100, duration=8.0, in_flight=4)
    assert time_left([ForecastWindow(left=100)], few, 0.0) == pytest.approx(200)


async def followed(*, count=200, images=1, quota=None, in_flight=64, away=(0, 0), methods=(), **options):
    """When each outcome of a batch came, and how long it was thought then that the rest would take."""
    simulation = service(plain_pictures=True, **options)
    course = Course(count, images={ENDPOINT: images * count}, in_flight=in_flight)
    inner = simulation.transport()
    begins, ends = (anyio.current_time() + at for at in away)
    transport = Outage(inner, begins, ends, REFUSED, methods)
    key, how = simulation.api_key, {"transport": transport, "downloader": inner, "observers": [course]}
    async with NovitaClient(key, images_per_minute=quota, **how) as client:
        course.quota_of = lambda endpoint: found_by(client, endpoint) or quota
        client._buyer._random.seed(count)  # the same jitter each time
        foretold = []
        many = requests(count, image_num=images, width=128, height=128)
        async with client.stream(many, in_flight=in_flight) as outcomes:
            async for outcome in outcomes:
                course.took(outcome)
                foretold.append((anyio.current_time(), course.seconds_left()))
    assert foretold[-1][1] == 0
    assert course.status().done == count
    assert course.status().running == 0
    return foretold


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("images", "quota", "given", "options"),
    [
        (1, 10, True, {"latency": 2.0}),
        (1, 10, False, {}),
        (3, 20, True, {"workers": 20, "latency": 3.0}),
        (3, 20, False, {"workers": 20, "latency": 3.0}),
    ],
)
async def test_the_time_left_is_right_within_five_percent_after_a_tenth(images, quota, given, options):
    """Whether the quota was given or is found out."""
    options = {**options, "images": images, "images_per_minute": quota}
    foretold = await followed(count=120, quota=quota if given else None, **options)
    end = foretold[-1][0]
    for now, left in foretold[12:109]:
        # While a quota is looked for, a minute more or less is chance.
        assert left == pytest.approx(end - now, abs=0.05 * (end - now if given else end))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("methods", "in_flight", "workers", "quota"),
    [(("POST", "GET"), 64, 5, 10_000), (("GET",), 8, 1000, 10_000), (("POST", "GET"), 64, 1000, 100)],
    ids=["service", "slots", "quota"],
)
async def test_the_time_left_is_right_again_soon_after_an_outage(methods, in_flight, workers, quota):
    """Whether the service, the slots or the quota are waited for."""
    options = {"workers": workers, "images_per_minute": quota, "quota": quota, "in_flight": in_flight}
    began_at = anyio.current_time()
    foretold = await followed(count=500, away=(20, 320), methods=methods, **options)
    end = foretold[-1][0]
    back_at = next(now for now, _ in foretold if now > began_at + 320)
    late = [(now, left) for now, left in foretold if now > back_at + 5]
    assert len(late) > 20
    for now, left in late:
        assert left == pytest.approx(end - now, abs=max(5, 0.1 * (end - now)))


@pytest.mark.anyio
async def test_what_an_earlier_run_has_used_of_the_quota_is_waited_for():
    course = Course(5, images={ENDPOINT: 5}, in_flight=5, quota_of=lambda _: 10)
    assert course.seconds_left() == 0
    course(Paced(account="a", endpoint=ENDPOINT, delay=40.0))
    await anyio.sleep(10)
    assert course.seconds_left() == pytest.approx(30)


def moved(fact):
    where = {"purchase": 1, "position": 0, "tag": None, "endpoint": ENDPOINT, "images": 1, "attempt": 1}
    return Transition(
        **where, task=None, before=State.PLANNED, after=State.PLANNED, next=Action.SEND, fact=fact
    )


@pytest.mark.anyio
async def test_a_submission_that_came_to_nothing_does_not_make_answers_look_slow():
    course = Course(5, images={ENDPOINT: 5}, in_flight=5, quota_of=lambda _: 1)
    course(moved(Announced(0.0, "a")))
    await anyio.sleep(50)
    course(Retrying(account="a", endpoint=ENDPOINT, attempt=1, after=0.0, error=NoAnswer(cause="reset")))
    course(moved(Announced(50.0, "a")))
    await anyio.sleep(1)
    course(moved(Bought(51.0, Task(task_id="t", endpoint=ENDPOINT))))
    assert course.seconds_left() == pytest.approx(4 * (WINDOW + 1))


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{"workers": 2}, {"workers": 100, "speed": 0.2, "in_flight": 8}])
async def test_without_a_quota_the_time_left_comes_from_what_was_seen(options):
    """How quick the service is, how many may be under way."""
    foretold = await followed(**options)
    end = foretold[-1][0]
    for now, left in foretold[40::20]:
        assert now + left == pytest.approx(end, rel=0.15)


# --- Progress -----------------------------------------------------------------------------------------------


def status(**changes):
    known = {"requests": 2000, "done": 1, "running": 0, "failed": 0, "uncertain": 0, "images": 1}
    known |= {"seconds": 6.02, "polls": 1234, "seconds_left": None}
    return Status(**(known | changes))


def test_progress_leaves_out_what_there_is_none_of():
    assert status().sentence() == "1 of 2,000 done · 10.0 images/min · 1,234 polls"
    full = status(running=3, failed=4, uncertain=5, seconds_left=3700.0)
    assert full.sentence() == (
        "1 of 2,000 done, 3 running, 4 failed, 5 uncertain · 10.0 images/min · 1,234 polls · 1 h 02 left"
    )


def test_a_pipe_gets_a_line_now_and_then(call, folder, serve, monkeypatch):
    serve()
    monkeypatch.setattr("novita_async.cli._progress.LINES_EVERY", 0.0)
    monkeypatch.setattr("novita_async.cli._batch.LINES_EVERY", 0.0)
    _, out, err = call("batch", shots(folder, 3), "--out", "made", "--images-per-minute", 10, "--json")
    assert "0 of 3 done · 0.0 images/min · 0 polls\n" in err
    last = of_event(out, "progress")[-1]
    assert last.items() >= {"requests": 3, "done": 3, "running": 0, "seconds_left": 0.0}.items()


# --- Processes ----------------------------------------------------------------------------------------------


def until_submitted(process, count):
    """Read on until so many purchases are in the journal."""
    while count:
        count -= json.loads(process.line())["event"] == "submitted"


def finish(process):
    code, out, err = process.finish()
    assert KEY not in out + err
    assert "Traceback" not in err, err
    return code, out, err


def test_a_killed_batch_is_completed_by_resume_and_nothing_is_bought_twice(start, folder):
    """What was on its way when it died is uncertain, and bought by nobody who does not ask for it."""
    with served(speed=2, workers=8) as server:
        first = start(
            "batch", shots(folder, 12), "--out", "made", "--in-flight", "4", "--json", url=server.url
        )
        until_submitted(first, 5)
        first.kill()
        assert len(server.ledger.accepted) < 12
        code, out, err = finish(start("resume", "made", url=server.url))
        bought = seeds(server)
        assert len(bought) == len(set(bought)), "a request was bought twice"
        done, lost = len(out.split()), 12 - len(out.split())
        assert (code, lost) in {(0, 0), (4, lost)}, err
        assert all((folder / path).read_bytes().startswith(b"\x89PNG") for path in out.split())
        assert len(list((folder / "made").glob("*.png"))) == done
        code, out, err = finish(start("retry", "made", "--uncertain", url=server.url))
        assert (code, len(out.split())) == (0, 12)
        assert set(seeds(server)) == set(range(12))
        assert len(server.ledger.accepted) <= 12 + lost
    assert not any(KEY.encode() in path.read_bytes() for path in files_below(folder))


def test_a_batch_with_ids_that_is_killed_twice_names_the_same_files_and_ids(start, folder):
    """Also where two lines differ in nothing but their ids."""
    fields = {"image": "pics/dog.png", "model_name": "m", "prompt": "p"}
    ids = [f"sku-{number}" for number in range(12)]
    lines = [
        {**fields, "seed": max(number, 1), "id": name, "metadata": {"no": number}}
        for number, name in enumerate(ids)
    ]
    typed = ("--out", "made", "--in-flight", "4", "--name", "{id}-{n}.{ext}", "--json")
    named = {}
    with served(speed=2, workers=8) as server:
        program = start("batch", manifest(folder, *lines), *typed, url=server.url)
        for count in (3, 2):
            until_submitted(program, count)
            program.kill()
            named |= {path.name: path.read_bytes() for path in (folder / "made").glob("sku-*.png")}
            program = start("resume", "made", "--json", url=server.url)
        code, out, _ = finish(program)
        if code == 4:  # what was on its way when it died
            code, out, _ = finish(start("retry", "made", "--uncertain", "--json", url=server.url))
        assert code == 0
        told = {record["id"]: record for record in of_event(out, "outcome")}
        exported = {line["id"]: line for line in records(finish(start("export", "made", url=server.url))[1])}
    assert told.keys() == exported.keys() == set(ids)
    index = (folder / "made" / "novita-index.jsonl").read_text().splitlines()
    listed = {line["id"]: line for line in map(json.loads, index) if line["outcome"] == "succeeded"}
    for number, name in enumerate(ids):
        assert exported[name]["place"] == number
        assert exported[name]["metadata"] == listed[name]["metadata"] == {"no": number}
        assert exported[name]["files"] == listed[name]["files"] == [f"{name}-1.png"]
        assert told[name]["task_id"] == exported[name]["task_id"] == listed[name]["task_id"]
    pictures = {path.name: path.read_bytes() for path in (folder / "made").glob("*.png")}
    assert pictures.keys() == {f"{name}-1.png" for name in ids}
    assert pictures.items() >= named.items()
    assert len({exported[name]["task_id"] for name in ids}) == len(ids)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupted_batch_says_how_to_go_on_and_goes_on(start, folder, name, code):
    polls = Withheld()
    with served(faults=polls, workers=8) as server:
        first = start(
            "batch", shots(folder, 8), "--out", "my files", "--in-flight", "3", "--json", url=server.url
        )
        until_submitted(first, 3)
        first.send_signal(getattr(signal, name))
        returned, out, err = finish(first)
        assert returned == code
        assert of_event(out, "summary")[0]["exit_code"] == code
        assert of_event(out, "summary")[0]["next"] == ["novita-async resume 'my files'"]
        assert "to go on: novita-async resume 'my files'" in err
        assert "interrupted: nothing more is sent; waiting up to 5 s for the answers" in err
        assert len(server.ledger.accepted) == 3
        polls.released.set()
        code, out, _ = finish(start("resume", "my files", url=server.url))
        assert (code, len(out.splitlines())) == (0, 8)
        assert seeds(server) == list(range(8))


def test_a_second_process_is_refused_and_leaves_the_first_one_alone(start, folder):
    polls = Withheld()
    with served(faults=polls) as server:
        first = start("batch", shots(folder, 2), "--out", "made", "--json", url=server.url)
        until_submitted(first, 1)
        note = (folder / "made" / "batch.json").read_text()
        manifest(folder, {"image": "pics/cat.png", "model_name": "m", "prompt": "p"}, name="other.jsonl")
        code, out, err = finish(start("batch", "other.jsonl", "--out", "made", url=server.url))
        assert (code, out) == (3, "")
        assert "another process" in err
        assert (folder / "made" / "batch.json").read_text() == note
        status, out, _ = finish(start("status", "made", url=server.url))
        assert (status, "requests: 2\n" in out) == (0, True)
        polls.released.set()
        assert finish(first)[0] == 0
        assert seeds(server) == [0, 1]
