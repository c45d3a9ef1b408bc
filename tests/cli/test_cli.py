"""The commands, run in this process against a simulated service behind a real socket."""

import asyncio
import inspect
import json
import os
from functools import cache
from importlib import import_module

import attrs
import pytest
from cyclopts import App

from novita_async import Img2Img, NovitaClient, NovitaWarning, request_to_json
from novita_async.cli._app import COMMANDS, main
from novita_async.cli._exits import EXPLAINED, Exit
from novita_async.cli._options import field_docs, options_of
from novita_async.cli._unknown import unknown_names
from novita_async.models.requests import Extra
from novita_async.testing import Fault, FaultPlan, SimulatorConfig, sample_picture
from tests.helpers.programs import python, run

KEY = "sk_simulator"
SETTINGS = ("--model", "model.safetensors", "--prompt", "a cute dog")


@pytest.fixture
def call(capsys):
    """Run a command: its exit code, its output, its standard error. No key is ever in either."""

    def run(*tokens):
        code = main([str(token) for token in tokens])
        out, err = capsys.readouterr()
        assert KEY not in out + err
        return code, out, err

    return run


def records(out):
    return [json.loads(line) for line in out.splitlines()]


def of_event(out, event):
    return [record for record in records(out) if record["event"] == event]


# --- generate: what is made and where it goes ---


def test_each_picture_becomes_a_file_named_after_it_and_the_seed(call, folder, serve):
    server = serve()
    code, out, err = call("generate", "dog.png", "cat.png", *SETTINGS, "--seed", 7, "--out", "made")
    assert code == 0
    assert sorted(out.splitlines()) == ["made/cat-seed7-1.png", "made/dog-seed7-1.png"]
    assert all((folder / line).read_bytes().startswith(b"\x89PNG") for line in out.splitlines())
    assert len(server.ledger.accepted) == 2
    assert "[2/2]" in err
    assert "2 of 2 succeeded" in err


def test_no_file_is_ever_replaced(call, folder, serve):
    serve()
    (folder / "dog-seed7-1.png").write_text("mine")
    code, out, _ = call("generate", "dog.png", *SETTINGS, "--seed", 7)
    assert (code, out) == (0, "dog-seed7-1.2.png\n")
    assert (folder / "dog-seed7-1.png").read_text() == "mine"


def test_a_sweep_makes_pictures_of_every_combination(call, folder, serve):
    server = serve()
    sweeps = ("--sweep", "seed=1..2", "--sweep", "strength=0.3,0.5")
    code, out, _ = call("generate", "dog.png", "cat.png", *SETTINGS, *sweeps)
    assert (code, len(out.split())) == (0, 8)
    asked = [entry.request["request"] for entry in server.ledger.accepted]
    made = {(each["seed"], each["strength"]) for each in asked}
    assert (made, len(asked)) == ({(1, 0.3), (1, 0.5), (2, 0.3), (2, 0.5)}, 8)
    code, _, err = call("generate", "dog.png", *SETTINGS, "--sweep", "seed=1..2", "--sweep", "steps=0,5")
    assert (code, len(server.ledger.entries)) == (2, 8)
    assert "--sweep steps=0,5: 0 is not in [1, 100]" in err
    code, _, err = call(
        "generate", "dog.png", *SETTINGS, "--sweep", "clip_skip=1,2", "--sweep", "quality=low"
    )
    assert (code, len(server.ledger.entries)) == (2, 8)
    assert "--sweep quality: no such field" in err


def test_several_images_of_one_request_are_all_saved(call, folder, serve):
    server = serve()
    code, out, _ = call("generate", "dog.png", *SETTINGS, "--seed", 7, "--image-num", 3)
    assert code == 0
    assert out.split() == ["dog-seed7-1.png", "dog-seed7-2.png", "dog-seed7-3.png"]
    assert server.ledger.images == 3


def test_every_scalar_option_reaches_the_service(call, folder, serve):
    server = serve()
    options = {
        "negative-prompt": "",
        "image-num": 2,
        "steps": 12,
        "guidance-scale": 3.5,
        "sampler-name": "DPM++ 2M Karras",
        "seed": 99,
        "clip-skip": 2,
        "sd-vae": "vae.pt",
        "width": 128,
        "height": 136,
        "strength": 0.25,
    }
    extra = {
        "response-image-type": "webp",
        "nsfw-detection-level": 1,
        "webhook.url": "http://127.0.0.1:9/hook",
        "webhook.test-mode.return-task-status": "TASK_STATUS_FAILED",
        "custom-storage.aws-s3.region": "us-east-2",
        "custom-storage.aws-s3.bucket": "mine",
        "custom-storage.aws-s3.path": "/made",
    }
    flags = ("--enable-nsfw-detection", "--enterprise-plan.enabled", "--webhook.test-mode.enabled")
    tokens = [f"--{name}={value}" for name, value in {**options, **extra}.items()]
    call("generate", "dog.png", *SETTINGS, *tokens, *flags, "--custom-storage.aws-s3.save-to-path-directly")
    sent = server.ledger.entries[0].request
    names = {
        option.path[0]
        for option in options_of(Img2Img, leave_out=("image", "extra", "extra_fields", "tag", "metadata"))
    }
    assert {name.replace("-", "_") for name in options} | {"model_name", "prompt"} == names
    assert (
        sent["request"].items() >= {name.replace("-", "_"): value for name, value in options.items()}.items()
    )
    assert sent["extra"] == {
        "response_image_type": "webp",
        "enable_nsfw_detection": True,
        "nsfw_detection_level": 1,
        "webhook": {
            "url": "http://127.0.0.1:9/hook",
            "test_mode": {"enabled": True, "return_task_status": "TASK_STATUS_FAILED"},
        },
        "custom_storage": {
            "aws_s3": {
                "region": "us-east-2",
                "bucket": "mine",
                "path": "/made",
                "save_to_path_directly": True,
            }
        },
        "enterprise_plan": {"enabled": True},
    }


def test_what_takes_part_reaches_the_service(call, folder, serve):
    server = serve()
    parts = ("--lora", "detail:0.5", "--lora", "plain", "--embedding", "neg")
    guides = (
        "--controlnet",
        "control_v11p_sd15_canny:cat.png:0.4",
        "--controlnet",
        "control_v11f1e_sd15_tile",
    )
    code, _, _ = call(
        "generate", "dog.png", *SETTINGS, *parts, *guides, "--ip-adapter", "ip-adapter_sd15.bin:cat.png"
    )
    sent = server.ledger.entries[0].request["request"]
    assert code == 0
    assert sent["loras"] == [
        {"model_name": "detail", "strength": 0.5},
        {"model_name": "plain", "strength": 1.0},
    ]
    assert sent["embeddings"] == [{"model_name": "neg"}]
    units = sent["controlnet"]["units"]
    assert [(u["model_name"], u["strength"]) for u in units] == [
        ("control_v11p_sd15_canny", 0.4),
        ("control_v11f1e_sd15_tile", 1.0),
    ]
    assert units[1]["image_base64"] == sent["image_base64"] != units[0]["image_base64"]
    assert [adapter["model_name"] for adapter in sent["ip_adapters"]] == ["ip-adapter_sd15.bin"]


def wire(folder, **changes):
    fields = {
        "model_name": "m",
        "prompt": "from the file",
        "steps": 30,
        "loras": [{"model_name": "x", "strength": 1}],
    }
    document = {"extra": {"response_image_type": "webp"}, "request": fields | changes}
    (folder / "request.json").write_text(json.dumps(document))
    return document


def test_options_go_before_what_the_file_says(call, folder, serve):
    server = serve()
    wire(folder)
    code, out, _ = call(
        "generate", "dog.png", "--request", "request.json", "--steps", 5, "--lora", "y:0.5", "--seed", 1
    )
    sent = server.ledger.entries[0].request
    assert (code, out) == (0, "dog-seed1-1.webp\n")
    assert sent["request"]["prompt"] == "from the file"
    assert sent["request"]["steps"] == 5
    assert [lora["model_name"] for lora in sent["request"]["loras"]] == ["x", "y"]


def test_a_file_may_hold_the_whole_request(call, folder, serve):
    serve()
    picture = Img2Img(model_name="m", image=folder / "dog.png", prompt="p").image
    (folder / "whole.json").write_text(
        request_to_json(Img2Img(model_name="m", image=picture, prompt="p", seed=3))
    )
    assert call("generate", "--request", "whole.json")[:2] == (0, "image-seed3-1.png\n")


# --- generate: what is refused before anything is bought ---


def test_every_fault_is_named_on_a_line_of_its_own_and_nothing_is_bought(call, folder, serve):
    server = serve()
    code, out, err = call(
        "generate", "dog.png", "gone.png", "--steps", 0, "--guidance-scale", "much", "--seed", "1.5",
        "--lora", "x:1.4", "--controlnet", "m:nowhere.png", "--webhook.url", "here", "--out", "dog.png/x",
    )  # fmt: skip
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    for told in (
        "--out dog.png/x: not a directory",
        "gone.png: no such file",
        "--model-name: is missing",
        "--prompt: is missing",
        "--steps: 0 is not in [1, 100]",
        "--guidance-scale: 'much' is not a number in [1, 30]",
        "--seed: 1.5 is not a whole number, -1 or above",
        "--lora[0].strength: 1.4 is not in [0, 1]",
        "--controlnet: nowhere.png: no such file",
        "--webhook.url: 'here' is not an absolute",
    ):
        assert sum(line.lower().startswith(f"error: {told.lower()}") for line in lines) == 1, told
    assert len(lines) == 10
    assert server.ledger.entries == []


def test_a_fault_of_one_picture_is_told_with_its_name(call, folder, serve):
    server = serve()
    (folder / "tiny.png").write_bytes(sample_picture("tiny", (20, 500)))
    code, _, err = call("generate", "dog.png", "tiny.png", *SETTINGS)
    assert code == 2
    assert "error: tiny.png: --width: must be given" in err
    assert "dog.png" not in err
    assert server.ledger.entries == []


def test_a_fault_of_the_file_is_told_by_its_place_in_the_file(call, folder, serve):
    serve()
    wire(folder, steps=0, loras=[{"model_name": "x", "strength": 7}])
    code, _, err = call("generate", "dog.png", "--request", "request.json", "--guidance-scale", 99)
    assert code == 2
    assert "request.steps: 0 is not" in err
    assert "request.loras[0].strength: 7 is not" in err
    assert "--guidance-scale: 99 is not" in err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"request": 5}', "request: 5 is not a JSON object"),
    ],
)
def test_a_file_that_is_no_request_is_one_fault(call, folder, serve, content, told):
    serve()
    (folder / "request.json").write_text(content)
    code, _, err = call("generate", "dog.png", "--request", "request.json", "--steps", 5, "--lora", "x")
    assert code == 2
    assert told in err
    assert len(err.splitlines()) == 1


def test_a_file_that_is_not_there_is_one_fault(call, folder, serve):
    serve()
    code, _, err = call("generate", "dog.png", "--request", "gone.json")
    assert (code, err) == (2, "error: --request gone.json: no such file or directory: nothing was bought\n")


def test_a_picture_is_needed(call, folder, serve):
    serve()
    assert call("generate", *SETTINGS)[0::2] == (2, "error: IMAGE: is missing: nothing was bought\n")


def test_usage_errors_are_one_line_with_a_suggestion(call):
    code, _, err = call("generate", "--step", 3)
    assert code == 2
    assert err == "error: Unknown option: --step. Did you mean --steps?\n"
    assert call("demmo")[0] == 2


def test_without_a_key_nothing_runs(call, folder, serve):
    server = serve(key="")
    code, _, err = call("generate", "dog.png", *SETTINGS)
    assert code == 2
    assert "NOVITA_API_KEY" in err
    assert server.ledger.entries == []


# --- generate: how it can end ---


def test_a_bad_key_ends_everything_with_one_error(call, folder, serve):
    serve(key="sk_wrong")
    code, _, err = call("generate", "dog.png", "cat.png", *SETTINGS)
    assert code == 3
    assert "error: 403 INVALID_API_KEY" in err
    assert "(not sent: 2 of 2)" in err
    assert "sk_wrong" not in err


def test_a_retired_route_says_so(call, folder, serve):
    serve(retired="/v3/async/img2img")
    code, out, err = call("generate", "dog.png", *SETTINGS, "--json")
    assert code == 3
    assert "may be retired" in err
    (stopped,) = of_event(out, "stopped")
    assert (stopped["scope"], stopped["not_sent"], stopped["status"]) == ("endpoint", 1, 404)


def test_some_failures_leave_the_others_alone(call, folder, serve):
    serve(illegal_words="dragon", failure_rate=1.0)
    code, out, err = call("generate", "dog.png", *SETTINGS)
    assert (code, out) == (1, "")
    assert "dog.png: failed: task" in err
    assert "0 of 1 succeeded, 1 failed" in err


def test_an_uncertain_purchase_has_an_exit_code_of_its_own(call, folder, serve):
    server = serve(faults=FaultPlan.listed("submit", {1: Fault.reset_after()}))
    code, out, err = call("generate", "dog.png", "cat.png", *SETTINGS, "--json")
    assert code == 4
    assert len(server.ledger.accepted) == 2
    assert sorted(record["outcome"] for record in of_event(out, "outcome")) == ["succeeded", "uncertain"]
    assert "perhaps paid" in err


def test_programs_get_one_object_a_line(call, folder, serve):
    server = serve(nsfw_rate=1.0)
    code, out, _ = call("--json", "generate", "dog.png", *SETTINGS, "--enable-nsfw-detection", "--seed", 7)
    assert code == 0
    (submitted,), (outcome,), (summary,) = (of_event(out, e) for e in ("submitted", "outcome", "summary"))
    assert submitted["task_id"] == outcome["task_id"] == server.ledger.accepted[0].task_id
    assert outcome["outcome"] == "succeeded"
    assert outcome["input"] == "dog.png"
    assert outcome["files"] == ["dog-seed7-1.png"]
    assert outcome["seed"] == 7
    assert 0 < outcome["nsfw_confidence"][0] <= 100
    assert (
        summary.items() >= {"requests": 1, "succeeded": 1, "failed": 0, "images": 1, "exit_code": 0}.items()
    )


def test_programs_are_told_every_fault(call, folder, serve):
    serve()
    code, out, _ = call("generate", "dog.png", "--steps", 0, "--json")
    (error,) = of_event(out, "error")
    assert code == 2
    assert error["error"] == "InvalidRequest"
    assert [fault.partition(":")[0] for fault in error["faults"]] == ["--model-name", "--prompt", "--steps"]
    assert of_event(call("generate", "--what", "--json")[1], "error")


# --- watch ---


def bought(call, server):
    call("generate", "dog.png", *SETTINGS, "--out", "first")
    return server.ledger.accepted[0].task_id


def test_a_paid_task_can_be_fetched_again(call, folder, serve):
    server = serve()
    task_id = bought(call, server)
    code, out, _ = call("watch", task_id, task_id, "--out", "again")
    assert (code, out) == (0, f"again/{task_id}-1.png\n")
    assert len(server.ledger.accepted) == 1


def test_without_a_folder_programs_get_the_urls(call, folder, serve):
    server = serve()
    code, out, _ = call("watch", bought(call, server), "--json")
    (outcome,) = of_event(out, "outcome")
    assert code == 0
    assert outcome["urls"][0].startswith(server.url)


def test_a_task_that_takes_too_long_is_paid_and_can_be_watched_again(call, folder, serve):
    server = serve(speed=0.001)

    async def buy():
        async with NovitaClient(KEY, base_url=server.url) as client:
            return await client.submit(Img2Img(model_name="m", image=folder / "dog.png", prompt="p"))

    task = asyncio.run(buy())
    code, out, err = call("watch", task.task_id, "--timeout", 0.05, "--out", "my files")
    assert (code, out) == (5, "")
    assert f"novita-async watch {task.task_id} --out 'my files'" in err


def test_an_unknown_task_fails(call, serve):
    serve()
    code, _, err = call("watch", "no-such-task")
    assert code == 1
    assert "TASK_NOT_FOUND" in err


def test_a_folder_that_cannot_be_made_is_told_before_anything_else(call, folder, serve):
    server = serve()
    code, _, err = call("watch", "id", "--out", "dog.png")
    assert code == 2
    assert "--out dog.png: file exists" in err
    assert server.ledger.polls == {}


# --- models and balance ---


def test_models_are_listed_by_the_name_for_requests(call, serve):
    serve()
    code, out, _ = call("models", "--type", "lora", "--limit", 2)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert all("  lora  " in line for line in out.splitlines())


def test_a_limit_below_one_is_refused(call, serve):
    serve()
    assert call("models", "--limit", 0) == (2, "", "error: --limit: 0 is not 1 or above\n")


def test_models_for_programs_hold_every_field(call, serve):
    serve()
    _, out, _ = call("models", "--sdxl", "--json")
    assert records(out)
    assert all(record["is_sdxl"] for record in records(out))
    assert {"api_name", "hash_sha256", "download_url_ttl"} <= records(out)[0].keys()


def test_the_balance_is_told_in_dollars(call, serve):
    serve(balance=123_456)
    assert "available: $12.3456\n" in call("balance")[1]
    assert records(call("balance", "--json")[1])[0]["available"] == "12.3456"


def test_a_bad_key_is_one_line_for_questions_as_well(call, serve):
    serve(key="sk_wrong")
    code, out, err = call("balance")
    assert (code, out) == (3, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


# --- simulate ---


def test_every_fault_of_the_service_is_named(call):
    code, _, err = call("simulate", "--workers", 0, "--speed", "fast", "--quota", "daily")
    assert code == 2
    assert "--workers" in err
    assert "--speed" in err


# --- help ---


def plain(text):
    """Help without its frames, line breaks and marks, to look for sentences in."""
    return "".join(character for character in text if character.isalnum())


@cache
def told(*tokens):
    """Help as a process of its own prints it: in this one a console may know its width from earlier tests."""
    command = python("-m", "novita_async", *tokens, "--help", flags=())
    code, out, err = run(command, env=os.environ | {"COLUMNS": "300"})
    assert code == 0, err
    return plain(out)


@pytest.mark.parametrize("model", [Img2Img, Extra])
def test_help_of_generate_is_the_docstrings_of_the_fields(model):
    text = told("generate")
    options = [
        o
        for o in options_of(model, leave_out=("image", "extra", "extra_fields", "tag", "metadata"))
        if len(o.path) == 1
    ]
    assert len(options) >= 3
    for option in options:
        assert plain(f"--{option.dotted}") in text
        assert plain(field_docs(model)[option.path[0]]) in text


def test_help_of_simulate_is_the_docstrings_of_the_fields():
    text = told("simulate")
    for name in {*attrs.fields_dict(SimulatorConfig)} - {"routes"}:  # rows of a table are no option
        assert plain(field_docs(SimulatorConfig)[name]) in text


def test_help_lists_the_commands_and_the_exit_codes():
    text = told()
    for sentence in ("Make pictures from pictures", "Wait for paid tasks", "NOVITA_API_KEY"):
        assert plain(sentence) in text
    for code, words in EXPLAINED:
        assert plain(f"{code.value}: {words}") in text


def test_the_list_says_of_each_command_what_its_own_help_begins_with():
    for name, (room, sentence) in COMMANDS.items():
        command = getattr(import_module(f"novita_async.cli.{room}"), name)
        own = command.help if isinstance(command, App) else inspect.getdoc(command)  # a group has no function
        assert " ".join(own.partition("\n\n")[0].split()) == sentence
        assert plain(sentence) in told()


def test_a_command_that_is_named_has_its_whole_help_wherever_its_name_stands():
    code, out, _ = run(python("-m", "novita_async", "--help", "retry", flags=()))
    assert code == 0
    assert plain(out) == told("retry")


# --- Exit codes ---


def test_exit_codes_are_what_the_help_says():
    assert [code for code, _ in EXPLAINED] == [0, 1, 2, 3, 4, 5, 130]
    assert Exit.TERMINATED == 143


# --- generate: without buying, with a budget, with names of one's own ---


def test_a_dry_run_tells_what_it_would_be_and_buys_and_writes_nothing(call, folder, serve):
    server = serve()
    options = ("--image-num", 3, "--price", "0.01", "--budget", "0.05", "--images-per-minute", 2)
    code, out, err = call("generate", "dog.png", "cat.png", *SETTINGS, *options, "--out", "made", "-n")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "requests: 2",
        "images: 6",
        "time: 2 min until the last is sent, at your quota of 2 images a minute",
        "cost: $0.06 at $0.01 an image, which is over the budget",
    ]
    assert server.ledger.entries == []
    assert not (folder / "made").exists()


def test_a_dry_run_names_every_fault(call, folder, serve):
    serve()
    code, _, err = call("generate", "gone.png", *SETTINGS, "--budget", 1, "--name", "{nope}", "--dry-run")
    assert code == 2
    for told in ("gone.png", "--budget: needs --price", "--name: file names '{nope}'"):
        assert told in err


def test_a_budget_is_not_exceeded(call, folder, serve):
    server = serve()
    code, _, err = call(
        "generate", "dog.png", "cat.png", *SETTINGS, "--price", 1, "--budget", 1, "--in-flight", 1
    )
    assert (code, server.ledger.images) == (3, 1)
    assert "would exceed the budget of 1" in err


def test_files_have_the_names_that_are_asked_for(call, folder, serve):
    serve()
    code, out, _ = call("generate", "dog.png", *SETTINGS, "--seed", 7, "--name", "{index:03d}-{seed}.{ext}")
    assert (code, out) == (0, "000-7.png\n")


def test_common_options_have_short_names(call, folder, serve):
    serve()
    code, out, _ = call("generate", "dog.png", "-m", "m", "-p", "p", "-s", 7, "-o", "made")
    assert (code, out) == (0, "made/dog-seed7-1.png\n")


@pytest.mark.parametrize("text", ["detail:abc", "detail:", "detail:nan"])
@pytest.mark.parametrize("command", ["generate", "batch"])
def test_a_strength_that_is_none_is_no_part_of_a_name(call, folder, serve, command, text):
    server = serve()
    code, _, err = call(command, "dog.png", *SETTINGS, "--lora", text, "--out", "made")
    assert code == 2
    assert f"--lora {text}: {text.partition(':')[2]!r} is not a strength" in err
    assert server.ledger.entries == []


@pytest.mark.parametrize("command", ["generate", "batch"])
@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_a_name_that_is_not_known_is_told_with_what_may_be_meant(call, folder, serve, command, dry_run):
    serve()
    with pytest.warns(NovitaWarning) as told:
        call(command, "dog.png", "cat.png", *SETTINGS, "--sampler-name=euler A", "--out", "made", *dry_run)
    assert {str(each.message) for each in told} == {
        "sampler_name: 'euler A' is not a known name, and sent as it is; did you mean Euler a?"
    }


def test_unknown_names_are_found_wherever_they_stand():
    picture = sample_picture("dog", (256, 192))
    known = Img2Img(model_name="m", image=picture, prompt="p", extra=Extra(response_image_type="webp"))
    assert list(unknown_names(known)) == []
    guided = known.with_controlnet("control_v11p_sd15_cany", preprocessor="zzz")
    told = list(unknown_names(attrs.evolve(guided, extra=Extra(response_image_type="jpg"))))
    assert told == [
        "extra.response_image_type: 'jpg' is not a known name, and sent as it is; did you mean jpeg?",
        (
            "controlnet.units[0].model_name: 'control_v11p_sd15_cany' is not a known name, "
            "and sent as it is; did you mean control_v11p_sd15_canny?"
        ),
        "controlnet.units[0].preprocessor: 'zzz' is not a known name, and sent as it is",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(capsys, shell):
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    for word in ("generate", "resume", "dry-run"):
        assert word in out


def test_bash_knows_what_to_do_with_its_completion(capsys, tmp_path):
    script = tmp_path / "completion"
    main(["completion", "bash"])
    script.write_text(capsys.readouterr().out)
    lines = (
        f"source {script}",
        "complete_with=$(complete -p novita-async | sed 's/.*-F \\([^ ]*\\).*/\\1/')",
        "COMP_WORDS=(novita-async batch --dry); COMP_CWORD=2; $complete_with; echo ${COMPREPLY[@]}",
    )
    assert run(["bash", "-c", "\n".join(lines)]).stdout.strip() == "--dry-run"
