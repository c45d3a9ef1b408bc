"""Results that the command line puts into an object store."""

import json

import pytest

from novita_async.cli._app import main
from tests.helpers.objects import gateway

pytestmark = pytest.mark.real_loop


@pytest.fixture
def bucket(s3, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3.new_bucket()


def call(capsys, *tokens):
    code = main(tokens)
    out, err = capsys.readouterr()
    return code, out, err


def test_generate_and_watch_put_results_where_they_are_told(s3, bucket, folder, serve, capsys):
    serve(speed=20.0)
    out = f"s3://{bucket}/spring"
    asked = ("--model-name", "m", "--prompt", "a dog", "--seed", "7", "--json", "--out", out)
    code, told, _ = call(capsys, "generate", "dog.png", *asked)
    assert code == 0
    events = [json.loads(line) for line in told.splitlines()]
    (outcome,) = [each for each in events if each["event"] == "outcome"]
    assert outcome["files"] == [f"{out}/dog-seed7-1.png"]
    code, told, _ = call(capsys, "watch", outcome["task_id"], "--out", out)
    assert (code, told.strip()) == (0, f"{out}/{outcome['task_id']}-1.png")
    assert len(s3.names_in(bucket)) == 3


def test_a_batch_keeps_its_folder_here_and_its_results_there(s3, bucket, folder, serve, capsys):
    server = serve(speed=20.0)
    there = f"s3://{bucket}/spring"
    asked = ("--model-name", "m", "--prompt", "a dog", "--out", "run", "--save-to", there)
    code, _, _ = call(capsys, "batch", "dog.png", "cat.png", "--seed", "7", *asked)
    assert code == 0
    names = [f"spring/0000{n}-7-1.png" for n in range(2)]
    assert s3.names_in(bucket) == ["spring/.novita-async", *names]
    assert not list((folder / "run").glob("*.png"))
    s3.delete(bucket, names[1])
    assert call(capsys, "resume", "run")[0] == 0
    assert names[1] in s3.names_in(bucket)
    assert len(server.ledger.accepted) == 2
    code, told, _ = call(capsys, "export", "run")
    assert [json.loads(line)["files"] for line in told.splitlines()] == [[n.partition("/")[2]] for n in names]
    assert f"in an object store: {there}/00000-7-1.png" in (folder / "run" / "report.html").read_text()


@pytest.mark.usefixtures("folder")
def test_a_bucket_that_is_shut_is_told_before_anything_is_bought(s3, bucket, serve, capsys, monkeypatch):
    server = serve()
    with gateway(s3, lambda *_: 403) as between:
        monkeypatch.setenv("AWS_ENDPOINT", between.at.url)
        asked = (
            "--model-name",
            "m",
            "--prompt",
            "a dog",
            "--out",
            "run",
            "--save-to",
            f"s3://{bucket}/spring",
        )
        code, _, err = call(capsys, "batch", "dog.png", *asked)
    assert code != 0
    assert f"files cannot be put into s3://{bucket}/spring: access was denied" in err
    assert len(server.ledger.accepted) == 0


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (
            ("--out", "s3://bucket/spring"),
            "--out: the folder of a batch is on this machine, with its journal",
        ),
        (("--out", "ftp://host/spring"), "--out: is no folder"),
        (("--out", "run", "--save-to", "s3://"), "--save-to: 's3://' names no bucket"),
    ],
)
def test_a_place_that_is_none_is_refused(folder, serve, capsys, tokens, words):
    serve()
    code, _, err = call(capsys, "batch", "dog.png", "--model-name", "m", "--prompt", "p", *tokens)
    assert code == 2
    assert words in " ".join(err.split())
    assert not (folder / "run").exists()


@pytest.mark.parametrize("command", ["generate", "edit"])
def test_so_it_is_where_there_is_no_batch(folder, serve, capsys, command):
    serve()
    asked = {"generate": ("--model-name", "m", "--prompt", "p"), "edit": ("--model", "qwen-image-edit")}
    code, _, err = call(capsys, command, "dog.png", *asked[command], "--out", "ftp://host/spring")
    assert code == 2
    assert "--out: files cannot be put into ftp://…: no such storage is known" in " ".join(err.split())
