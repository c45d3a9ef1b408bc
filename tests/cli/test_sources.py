"""Inputs of a batch: the forms of a manifest, how far each is read, and what is said of a wrong one."""

import io
import json
import os
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novita_async.cli import _sources
from novita_async.cli._app import main
from novita_async.cli._manifest import Recipe
from novita_async.cli._sources import Copy, lines_of

LINE = {"id": "7", "image": "dog.png", "prompt": "a fox", "steps": 9}


def read(tmp_path, data, name="shots.txt"):
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return list(lines_of([tmp_path / name]))


def documents(lines):
    assert [line.trouble for line in lines] == [None] * len(lines)
    return [line.document for line in lines]


def troubles(lines):
    return [f"{line.place.rpartition('/')[2]}: {line.trouble}" for line in lines if line.trouble]


# --- Forms --------------------------------------------------------------------------------------------------

TEXTS = {
    "lines": json.dumps(LINE) + "\n\n" + json.dumps(LINE),
    "array": json.dumps([LINE, LINE], indent=2),
    "array on one line": f" [{json.dumps(LINE)},{json.dumps(LINE)},] \n",
    "commas": "id,image,prompt,steps\n7,dog.png,a fox,9\n\n7,dog.png,a fox,9\n",
    "semicolons": "id;image;prompt;steps\r\n7;dog.png;a fox;9\r\n7;dog.png;a fox;9.0",
    "tabs": '"id"\timage\tprompt\tsteps\n7\tdog.png\ta fox\t9\n7\tdog.png\ta fox\t9\n',
}


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n\n"])
@pytest.mark.parametrize("form", TEXTS)
def test_every_form_of_a_manifest_says_the_same(tmp_path, form, start):
    if start == b"\n\n" and form in ("commas", "semicolons", "tabs"):
        start = b""
    assert documents(read(tmp_path, start + TEXTS[form].encode())) == [LINE, LINE]


def test_a_table_is_typed_by_the_names_of_its_fields(tmp_path):
    text = (
        "id,prompt,model_name,steps,strength,loras,extra.enable_nsfw_detection,metadata.shop,metadata.n,seed\n"
        '007,2024,12,20.0,0.5,"[{""model_name"": ""a"", ""strength"": 1}]",TRUE,007,1,\n'
        '8,"a ""big""\nfox",m,many,,,,,,\n'
    )
    first, second = documents(read(tmp_path, text, "shots.csv"))
    assert first == {
        "id": "007",
        "prompt": "2024",
        "model_name": "12",
        "steps": 20,
        "strength": 0.5,
        "loras": [{"model_name": "a", "strength": 1}],
        "extra": {"enable_nsfw_detection": True},
        "metadata": {"shop": "007", "n": "1"},
    }
    assert second == {"id": "8", "prompt": 'a "big"\nfox', "model_name": "m", "steps": "many"}


def test_a_table_may_name_fields_in_the_form_of_the_api(tmp_path):
    (document,) = documents(read(tmp_path, "endpoint,request.prompt,request.steps\ntxt2img,2024,9\n"))
    assert document == {"endpoint": "txt2img", "request": {"prompt": "2024", "steps": 9}}


def test_lines_are_named_by_where_each_begins(tmp_path):
    array = read(tmp_path, '\n[\n {"a": 1},\n {\n"b": "]},\\"\\\\"},5]')
    assert [line.place.rpartition("/")[2] for line in array] == [
        "shots.txt item 1, line 3",
        "shots.txt item 2, line 4",
        "shots.txt item 3, line 5",
    ]
    assert array[1].document == {"b": ']},"\\'}
    table = read(tmp_path, 'id,prompt\n1,"two\nlines"\n\n2,b\n')
    assert [line.place.rpartition(" ")[2] for line in table] == ["2", "5"]


# --- Wrong ones ---------------------------------------------------------------------------------------------

WRONG = [
    (b"PK\x03\x04...", ["shots.txt: is a spreadsheet or an archive, not text: save it as CSV (UTF-8)"]),
    ("id,prompt\n1,ä\n".encode("utf-16"), ["shots.txt: is UTF-16: save it as UTF-8"]),
    (b"id,prompt\n1,\xe4\n", ["shots.txt: is not UTF-8 (b'\\xe4'): save it as CSV (UTF-8)"]),
    (b'{\n  "prompt": 1\n}\n', ["shots.txt: is one JSON object over several lines: jq -c . "]),
    (b"a fox\na dog\n", ["shots.txt: line 1 is no JSON object; a manifest has a JSON object a line"]),
    (b"\n", ["shots.txt: holds no requests"]),
    (b"[]", ["shots.txt: holds no requests"]),
    (b"id,prompt\n", ["shots.txt: holds no requests"]),
    (
        b'[{"a": 1}, 5, {"b" 2}]',
        ["shots.txt item 2, line 1: 5 is not a JSON object", "shots.txt item 3, line 1: is not JSON"],
    ),
    (b'[{"a": 1},,{"b": 2}]', ["shots.txt item 2, line 1: is not JSON"]),
    (b'[{"a": 1},\n{"b": "x}', ["shots.txt line 2: the list does not end"]),
    (b'[{"a": 1}]\n{"b": 1}', ["shots.txt line 2: more comes after the end of the list"]),
    (b"id,promt\n1,a\n2,b\n", ["shots.txt line 1: promt: no such field; did you mean prompt?"]),
    (b"id,prompt,id\n1,a,2\n", ["shots.txt line 1: id: is named twice"]),
    (b"id,prompt\n1,a,b\n", ["shots.txt line 2: has 3 cells, and the first line 2 names"]),
    (b'id,prompt\n1,"a" b\n', ["shots.txt: is no table from line 2 on: "]),
]  # fmt: skip


@pytest.mark.parametrize(("data", "told"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_manifest_is_told_with_its_line_and_what_to_do(tmp_path, data, told):
    found = troubles(read(tmp_path, data))
    assert len(found) == len(told)
    assert all(each.startswith(start) for each, start in zip(found, told, strict=True)), found


def test_an_empty_name_in_a_table_is_told_by_its_column(tmp_path):
    (told,) = troubles(read(tmp_path, "id,,prompt\n1,2,3\n", "shots.csv"))
    assert told == "shots.csv line 1: column 2: '' is not the name of a field"


# --- How far ------------------------------------------------------------------------------------------------


class Watched(io.BytesIO):
    """A file that knows how much of it was read."""

    most = 0

    def read(self, size=-1):
        found = super().read(size)
        self.most = max(self.most, self.tell())
        return found


def test_an_array_is_read_as_its_elements_are_taken():
    text = b"[" + b",".join(b'{"n": %d, "text": "%s"}' % (n, b"x" * 1000) for n in range(1000)) + b"]"
    file = Watched(text)
    lines = _sources._array(file, "a", Path())
    assert next(lines).document["n"] == 0
    assert file.most <= 2 * _sources._CHUNK
    assert [line.document["n"] for line in lines] == list(range(1, 1000))


KEYS = st.text('a"\\]', max_size=2)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('ab"\\[]{},\n\u2028ä', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25)
@given(
    items=st.lists(st.dictionaries(KEYS, JSON, max_size=3), max_size=5),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_any_array_falls_into_its_elements_wherever_its_pieces_end(items, indent, ascii_only, chunk):
    text = json.dumps(items, indent=indent, ensure_ascii=ascii_only).encode()
    before, _sources._CHUNK = _sources._CHUNK, chunk
    try:
        found = list(_sources._array(io.BytesIO(text), "a", Path()))
    finally:
        _sources._CHUNK = before
    assert [line.document for line in found] == items


# --- The user's own words -----------------------------------------------------------------------------------


def made(tmp_path, line, **recipe):
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    return list(Recipe(inputs=[tmp_path / "m.jsonl"], shared={}, axes={}, **recipe).read())


def test_the_words_of_a_line_go_to_its_request_and_not_into_its_body(tmp_path):
    fields = {"model_name": "m", "prompt": "p", "width": 512, "height": 512}
    own = {"id": 7, "metadata": {"shop": 1}}
    lines = [
        {"endpoint": "txt2img", **own, **fields},
        {"endpoint": "txt2img", **own, "request": fields},
        {"endpoint": "/v3/async/x", **own, "a": 1},
        {"endpoint": "/v3/async/x", **own, "body": {"id": "theirs", "metadata": 5}},
    ]
    for line in lines:
        ((_, request, faults),) = [(each.place, each.request, each.faults) for each in made(tmp_path, line)]
        assert faults == ()
        assert (request.tag, request.metadata) == ("7", {"shop": 1})
    assert request.body == {"id": "theirs", "metadata": 5}


@pytest.mark.parametrize("endpoint", ["img2img", "/v3/async/x"])
def test_wrong_words_are_told_under_their_names_with_all_other_faults(tmp_path, endpoint):
    (each,) = made(tmp_path, {"endpoint": endpoint, "id": "a\nb", "metadata": [1]})
    told = [str(fault).partition("m.jsonl line 1: ")[2] for fault in each.faults]
    assert told[:2] == [
        "id: 'a\\nb' has a line break or a control character",
        "metadata: [1] is not a JSON object",
    ]
    assert (len(told) > 2) is (endpoint == "img2img")


def test_paths_in_a_copy_are_seen_from_where_the_batch_was_typed(tmp_path):
    (tmp_path / "copy.txt").write_text('{"image": "dog.png"}')
    copy = Copy(path=tmp_path / "copy.txt", name="standard input", folder=Path("/elsewhere"))
    (line,) = lines_of([copy])
    assert (line.folder, line.place) == (Path("/elsewhere"), "standard input line 1")


# --- Standard input -----------------------------------------------------------------------------------------


@pytest.fixture
def pictures_in():
    return "pics"


@pytest.fixture
def typed(monkeypatch, tmp_path):
    """Put something on standard input."""

    def put(text):
        path = tmp_path / "typed"
        path.write_text(text)
        files.append(path.open())
        monkeypatch.setattr("sys.stdin", files[-1])

    files = []
    yield put
    for file in files:
        file.close()


def wish(**changes):
    return json.dumps({"image": "pics/dog.png", "model_name": "m", "prompt": "p"} | changes) + "\n"


def test_a_batch_from_standard_input_goes_on_from_its_folder_alone_wherever_that_is(
    folder, serve, typed, capsys, monkeypatch
):
    server = serve(failure_rate=1.0)
    typed(wish(id="a") + wish(id="b", seed=1))
    (folder / "work").mkdir()
    (folder / "pics").rename(folder / "work" / "pics")
    monkeypatch.chdir(folder / "work")
    assert main(["batch", "-", "--out", "made"]) == 1
    (folder / "work").rename(folder / "moved")
    monkeypatch.chdir(folder)
    capsys.readouterr()
    assert main(["retry", "moved/made", "--json"]) == 1
    ended = [
        json.loads(line) for line in capsys.readouterr().out.splitlines() if '"event": "outcome"' in line
    ]
    assert {each.get("id") for each in ended} == {"a", "b"}
    assert len(server.ledger.accepted) == 4


def test_faults_on_standard_input_are_told_and_nothing_is_left(folder, serve, typed, capsys):
    serve()
    typed(wish() + wish(steps=0))
    assert main(["batch", "-", "--out", "made"]) == 2
    assert "standard input line 2: steps: 0 is not in [1, 100]" in capsys.readouterr().err
    assert list((folder / "made").iterdir()) == []


def test_a_dry_run_from_standard_input_writes_nothing(folder, serve, typed, capsys):
    serve()
    typed(wish() * 3)
    assert main(["batch", "-", "--out", "made", "--dry-run"]) == 0
    assert "requests: 3" in capsys.readouterr().out
    assert not (folder / "made").exists()


def test_standard_input_can_be_given_once(folder, serve, typed, capsys):
    serve()
    typed(wish())
    assert main(["batch", "-", "-", "--out", "made"]) == 2
    assert "-: can be read only once, and is given twice" in capsys.readouterr().err


def test_a_pipe_is_copied_like_standard_input(folder, serve, capsys, start_writer):
    serve()
    start_writer(wish() * 2)
    assert main(["batch", "pipe", "--out", "made", "--dry-run"]) == 0
    assert "requests: 2" in capsys.readouterr().out


@pytest.fixture
def start_writer(folder):
    """Write into a pipe once somebody reads it."""
    os.mkfifo(folder / "pipe")
    threads = []

    def start(text):
        threads.append(Thread(target=(folder / "pipe").write_text, args=(text,), daemon=True))
        threads[0].start()

    yield start
    threads[0].join(10)


def test_an_input_that_looks_like_an_option_is_one_with_a_slip(folder, capsys):
    assert main(["batch", "pics", "--promt", "x", "--out", "made"]) == 2
    assert "--promt: no such option; did you mean --prompt?" in capsys.readouterr().err


# --- Options that say less than they seem to ----------------------------------------------------------------


@pytest.mark.parametrize("command", ["generate", "batch"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--lora detail:abc", "'abc' is not a strength; give NAME or NAME:STRENGTH, such as detail:0.7"),
        ("--lora detail:", "'' is not a strength; give NAME or NAME:STRENGTH, such as detail:0.7"),
        ("--lora detail:nan", "'nan' is not a strength; give NAME or NAME:STRENGTH, such as detail:0.7"),
        ("--embedding bad:0.5", "an embedding has no strength; give bad"),
    ],
)
def test_a_name_with_a_wrong_strength_is_one_clear_fault(folder, capsys, command, text, words):
    tokens = [command, "pics/dog.png", "--model", "m", "--prompt", "p", "--out", "made", *text.split()]
    assert main(tokens) == 2
    assert capsys.readouterr().err.strip() == f"error: {text}: {words}: nothing was bought"
