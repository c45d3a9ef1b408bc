"""`edit` and `routes`: pictures edited by whatever route serves a model, and which do."""

import json

import pytest

from novita_async import AnyTask, DataURL, ImageSource
from novita_async._files.lines import made_again
from novita_async._journal.identity import DigestCache, order_of
from novita_async.cli._app import main
from novita_async.cli._exits import Exit
from novita_async.cli._manifest import Recipe
from novita_async.models.routes import ROUTES
from tests.helpers.payloads import picture

PLAIN = {"plain_pictures": True, "speed": 100}


@pytest.fixture
def call(capsys):
    def run(*tokens):
        code = main([str(token) for token in tokens])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def dog(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dog.png").write_bytes(picture(size=(64, 64)))
    return "dog.png"


@pytest.mark.parametrize("model", ["gpt-image-2", "seedream-4.5", "qwen-image-edit"])
def test_a_picture_is_edited_by_whatever_route_serves_the_model(call, dog, serve, model, tmp_path):
    simulation = serve(**PLAIN)
    code, out, _ = call("edit", dog, "--model", model, "--prompt", "in watercolour", "--out", "out")
    assert code == Exit.SUCCEEDED
    (path,) = out.split()
    assert path.startswith("out/dog")
    assert (tmp_path / path).stat().st_size
    assert len(simulation.ledger.accepted) == 1


def test_every_fault_is_told_under_its_option_and_nothing_is_bought(call, dog, serve):
    simulation = serve(**PLAIN)
    code, _, err = call(
        "edit", dog, "nope.png", "--model", "gpt-image-2", "--size", "1000x1000", "--n", "11",
        "--option", "qualty=low", "--option", "x", "--beside", "no.png", "--out", "out",
    )  # fmt: skip
    assert code == Exit.BAD_INPUT
    told = [line.removeprefix("error: ") for line in err.splitlines()]
    assert "--size: 1000x1000: both sides must be multiples of 16; or one of auto" in told
    assert "--n: 11 is not in [1, 10]" in told
    assert "--prompt: is missing" in told
    assert "nope.png: no such file or directory" in told
    assert "no.png: no such file or directory" in told
    assert any(line.startswith("--option: qualty: no such field; did you mean quality?") for line in told)
    assert "--option x: give it as NAME=VALUE, such as watermark=false" in told
    assert simulation.ledger.entries == []


def test_options_masks_and_more_pictures_reach_the_route(call, dog, serve):
    simulation = serve(**PLAIN)
    code, _, _ = call(
        "edit", dog, "--model", "gpt-image-2", "--prompt", "p", "--beside", dog, "--mask", dog,
        "--option", "background=auto", "--option", "output_compression=50", "--out", "out",
    )  # fmt: skip
    assert code == Exit.SUCCEEDED
    (entry,) = simulation.ledger.accepted
    assert entry.request["background"] == "auto"
    assert entry.request["output_compression"] == 50
    assert len(entry.request["image[]"]) == 2
    assert len(entry.request["mask"]) == 1


def test_a_batch_takes_lines_of_all_kinds_mixed(call, dog, serve, tmp_path):
    lines = [
        {"model": "gpt-image-2", "image": dog, "prompt": "a"},
        {"model": "seedream-4.5", "images": [dog, "https://pictures.example/2.png"], "prompt": "b"},
        {"model": "gpt-image-2", "prompt": "c", "quality": "low"},
        {"model": "kling-v3.0-std-i2v", "image": dog, "prompt": "d", "sound": False},
        {"endpoint": "edit", "model": "image-upscaler", "image": dog, "resolution": "2k"},
        {"model_name": "m.safetensors", "image": dog, "prompt": "e", "width": 128, "height": 128},
    ]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    simulation = serve(**PLAIN)
    code, *_ = call("batch", "lines.jsonl", "--out", "run")
    assert code == Exit.SUCCEEDED
    assert len(simulation.ledger.accepted) == len(lines)
    assert {entry.endpoint for entry in simulation.ledger.accepted} == {
        "/openai/v1/images/edits",
        "/openai/v1/images/generations",
        "/v3/seedream-4.5",
        "/v3/async/kling-v3.0-std-i2v",
        "/v3/async/image-upscaler",
        "/v3/async/img2img",
    }


def test_faults_of_a_line_that_names_a_model_stand_with_the_line(dog, tmp_path):
    lines = [
        {"model": "gpt-image-2", "image": "no.png", "prompt": "a", "promt": 1},
        {"model": "seedream-4.5", "images": 5, "prompt": "b"},
    ]
    manifest = tmp_path / "lines.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    first, second = Recipe(inputs=[manifest], shared={}, axes={}).read()
    told = [str(fault) for fault in (*first.faults, *second.faults)]
    assert any("line 1: image: " in fault and "no.png: no such file" in fault for fault in told)
    assert any("line 1: options: promt: no such field; did you mean prompt?" in fault for fault in told)
    assert any("line 2: images: 5 is not a list" in fault for fault in told)


def test_all_routes_are_listed_and_some_on_request(call):
    code, out, _ = call("routes")
    assert code == Exit.SUCCEEDED
    assert all(row.name in out or row.models[0] in out for row in ROUTES)
    _, out, _ = call("routes", "--kind", "edit", "--host", "ppio")
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "qwen-image-edit",
        "grok-imagine-image-edit",
    ]


def test_a_model_s_routes_are_told_with_all_that_they_take(call):
    _, out, _ = call("routes", "qwen-image-edit")
    assert "POST /v3/async/qwen-image-edit at ppio, jiekou, myrouter" in out
    assert "image: one as base64, required, or an address, png jpeg webp, up to 10,485,760 bytes" in out
    assert "seed: integer, -1..2147483647, default -1" in out
    code, _, err = call("routes", "qwen-image-edt")
    assert (code, "did you mean qwen-image-edit?" in err) == (Exit.BAD_INPUT, True)
    code, _, err = call("routes", "--kind", "edits")
    assert (code, "did you mean edit?" in err) == (Exit.BAD_INPUT, True)


def test_routes_are_told_to_programs_as_they_stand_in_the_table(call):
    _, out, _ = call("routes", "--json")
    assert [json.loads(line)["name"] for line in out.splitlines()] == [row.name for row in ROUTES]


def test_a_sweep_makes_a_request_of_every_combination(call, dog, serve):
    simulation = serve(**PLAIN)
    code, out, _ = call(
        "edit", dog, "--model", "gpt-image-2", "--prompt", "p", "--sweep", "quality=low,high",
        "--sweep", "n=1..2", "--sweep", "output_compression=10,90", "--out", "out",
    )  # fmt: skip
    assert code == Exit.SUCCEEDED
    asked = [entry.request for entry in simulation.ledger.accepted]
    made = {(each["quality"], each["n"], each["output_compression"]) for each in asked}
    assert made == {(q, n, c) for q in ("low", "high") for n in (1, 2) for c in (10, 90)}
    assert len(asked) == 8
    assert len(out.split()) == 12


def test_every_value_of_a_sweep_is_checked_before_anything_is_bought(call, dog, serve, tmp_path):
    simulation = serve(**PLAIN)
    sweep = ("--sweep", "quality=low,best", "--sweep", "n=1..12")
    code, _, err = call("edit", dog, "--model", "gpt-image-2", "--prompt", "p", *sweep, "--out", "out")
    assert code == Exit.BAD_INPUT
    assert "--sweep quality: 'best' is none of low, medium, high" in err
    assert "--sweep n: 12 is not in [1, 10]" in err
    (tmp_path / "lines.jsonl").write_text('{"model": "gpt-image-2", "image": "dog.png", "prompt": "a"}')
    code, _, err = call("batch", "lines.jsonl", *sweep, "--out", "run")
    assert code == Exit.BAD_INPUT
    assert "--sweep quality: 'best' is none of low, medium, high" in err
    assert "--sweep n: 12 is not in [1, 10]" in err
    assert simulation.ledger.entries == []


def test_a_batch_sweeps_the_fields_of_a_route_and_counts_them(call, dog, serve, tmp_path):
    simulation = serve(**PLAIN)
    (tmp_path / "lines.jsonl").write_text('{"model": "gpt-image-2", "image": "dog.png", "prompt": "a"}')
    sweep = ("--sweep", "quality=low,high", "--sweep", "n=1..2", "--sweep", "size=64x64,96x64")
    _, out, _ = call("batch", "lines.jsonl", *sweep, "--out", "run", "--dry-run", "--json")
    told = json.loads(out.splitlines()[0])
    assert (told["requests"], told["images"]) == (8, 12)
    code, *_ = call("batch", "lines.jsonl", *sweep, "--out", "run")
    assert code == Exit.SUCCEEDED
    assert (len(simulation.ledger.accepted), simulation.ledger.images) == (8, 12)


def test_a_form_and_a_data_url_are_made_again_from_the_line_of_a_folder_s_index(dog, tmp_path):
    requests = [
        AnyTask(path="/v3/form", body={"image[]": [ImageSource.from_path(dog)], "n": 2}, is_form=True),
        AnyTask(path="/v3/flat", body={"images": [{"url": DataURL(image=dog)}]}),
    ]
    digests = DigestCache()
    orders = [order_of(each, endpoint=each.path, position=0, digest=digests) for each in requests]
    lines = [made_again(order, None, lambda _, path: str(path)) for order in orders]
    assert lines[0] == {"endpoint": "/v3/form", "form": {"image[]": [{"file": dog}], "n": 2}}
    assert lines[1] == {"endpoint": "/v3/flat", "images": [{"url": {"data_url": dog}}]}
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    made = [each.request for each in Recipe(inputs=[tmp_path / "lines.jsonl"], shared={}, axes={}).read()]
    again = [order_of(each, endpoint=each.path, position=0, digest=digests) for each in made]
    assert [order.key for order in again] == [order.key for order in orders]
