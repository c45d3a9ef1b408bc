"""`export`: all that a journal says, for programs and spreadsheets; and it makes the same again."""

import csv
import io
import json

import pytest

from novita_async._files.lines import NAMES
from novita_async.cli._app import main
from novita_async.cli._export import _COLUMNS
from novita_async.testing import Fault, FaultPlan


@pytest.fixture
def pictures_in():
    return "pics"


@pytest.fixture
def call(capsys):
    def run(*tokens):
        code = main([str(token) for token in tokens])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def shots(folder, *lines):
    fields = {"image": "pics/dog.png", "model_name": "m", "prompt": "p"}
    texts = [json.dumps(fields | line) for line in lines]
    (folder / "shots.jsonl").write_text("\n".join(texts))
    return "shots.jsonl"


def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def batch(folder, serve, call):
    """A batch of which one is saved, one failed and one is uncertain."""
    no = b'{"code": 400, "reason": "INVALID_REQUEST_BODY", "message": "no", "metadata": {}}'
    serve(faults=FaultPlan.listed("submit", {2: Fault.answer(400, no), 3: Fault.reset_after()}))
    many = [{"id": "a", "metadata": {"shop": [1]}, "seed": 5, "image_num": 2}, {"id": "b"}, {"seed": 9}]
    call("batch", shots(folder, *many), "--out", "made", "--in-flight", 1, "--price", "0.5")
    return folder / "made"


def test_every_request_is_a_line_with_all_names(batch, call):
    code, out, _ = call("export", "made")
    saved, failed, uncertain = lines_of(out)
    assert code == 0
    assert [list(line) for line in lines_of(out)] == [[*NAMES]] * 3
    assert [line["state"] for line in lines_of(out)] == ["saved", "failed", "uncertain"]
    assert [line["outcome"] for line in lines_of(out)] == ["succeeded", "failed", "uncertain"]
    assert [line["place"] for line in lines_of(out)] == [0, 1, 2]
    assert [line["cost"] for line in lines_of(out)] == [1.0, 0.0, 0.5]
    assert (saved["id"], saved["metadata"], saved["seed"]) == ("a", {"shop": [1]}, 5)
    assert sorted(saved["files"]) == sorted(path.name for path in batch.glob("*.png"))
    assert len(saved["urls"]) == len(saved["nsfw"]) == 2
    assert not any("?" in url for url in saved["urls"])
    assert all(saved["times"].values())
    assert saved["task_id"]
    assert (failed["error"]["type"], failed["error"]["reason"]) == ("BadRequest", "INVALID_REQUEST_BODY")
    assert (uncertain["error"]["type"], uncertain["id"]) == ("SubmissionUncertain", None)
    assert list(saved["inputs"]) == [str(batch.parent / "pics" / "dog.png")]


def test_export_and_index_tell_the_same(batch, call):
    exported = {line["place"]: line for line in lines_of(call("export", "made")[1])}
    for line in lines_of((batch / "novita-index.jsonl").read_text()):
        apart = {"cost", "error"}
        assert {name: line[name] for name in NAMES if name not in apart} == {
            name: exported[line["place"]][name] for name in NAMES if name not in apart
        }


def test_a_table_has_the_same_in_cells(batch, call):
    lines = lines_of(call("export", "made")[1])
    code, out, _ = call("export", "made", "--format", "csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out, newline="")))
    assert list(rows[0]) == [column.removesuffix(".") for column in _COLUMNS]
    for line, row in zip(lines, rows, strict=True):
        assert (row["id"], row["state"]) == (line["id"] or "", line["state"])
        assert json.loads(row["files"]) == line["files"]
        assert row["times.submit"] == (line["times"]["submit"] or "")
        assert row["error.type"] == ((line["error"] or {}).get("type") or "")
        assert json.loads(row["make"]) == line["make"]


def test_a_part_goes_into_a_file_that_is_whole_or_as_it_was(batch, call, monkeypatch):
    code, out, err = call("export", "made", "--state", "failed", "--state", "uncertain", "--out", "rest.csv")
    assert (code, out) == (0, "")
    assert "2 requests: rest.csv" in err
    before = (batch.parent / "rest.csv").read_bytes()
    assert before.count(b"\r\n") == 3

    def broken(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("novita_async.cli._export.line_of", broken)
    assert call("export", "made", "--out", "rest.csv")[0] != 0
    assert (batch.parent / "rest.csv").read_bytes() == before
    assert not list(batch.parent.glob(".rest.csv*"))


def test_what_failed_is_made_again_from_an_export_alone(batch, call, serve):
    call("export", "made", "--state", "failed", "--out", "failed.jsonl")
    again = [line["make"] for line in lines_of((batch.parent / "failed.jsonl").read_text())]
    (batch.parent / "again.jsonl").write_text("\n".join(map(json.dumps, again)))
    server = serve()
    code, out, _ = call("batch", "again.jsonl", "--out", "again", "--json")
    assert code == 0
    (ended,) = [line for line in lines_of(out) if line["event"] == "outcome"]
    assert ended["id"] == "b"
    assert len(server.ledger.accepted) == 1


def test_output_for_programs_has_the_users_own_words(folder, serve, call):
    serve()
    many = [{"id": "a", "metadata": {"shop": 1}}, {"seed": 9}]
    _, out, _ = call("batch", shots(folder, *many), "--out", "made", "--json")
    told = lines_of(out)
    assert {line.get("id") for line in told if line["event"] == "submitted"} == {"a", None}
    ended = {line.get("id"): line.get("metadata") for line in told if line["event"] == "outcome"}
    assert ended == {"a": {"shop": 1}, None: None}


def test_files_can_be_called_after_the_users_ids(folder, serve, call):
    serve()
    many = [{"id": "a/b"}, {"id": "a:b", "seed": 1}, {"seed": 2}]
    assert call("batch", shots(folder, *many), "--out", "made", "--name", "{id}.{ext}")[0] == 0
    assert {path.name for path in (folder / "made").glob("*.png")} == {"a_b.png", "a_b.2.png", "00002.png"}


def test_no_save_leaves_files_with_the_service_and_nothing_to_do(folder, serve, call):
    server = serve()
    code, out, _ = call("batch", shots(folder, {"id": "a"}), "--out", "made", "--no-save", "--json")
    assert code == 0
    (ended,) = [line for line in lines_of(out) if line["event"] == "outcome"]
    assert ended["urls"]
    assert not list((folder / "made").glob("*.png"))
    assert "nothing is left to do" in call("status", "made")[1]
    assert call("resume", "made")[0] == 0
    assert not list((folder / "made").glob("*.png"))
    assert len(server.ledger.accepted) == 1


def test_a_folder_without_a_journal_is_told(folder, call):
    (folder / "made").mkdir()
    code, _, err = call("export", "made")
    assert code == 2
    assert "there is no batch here" in err
