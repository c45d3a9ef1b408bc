"""The demo: 24 pictures and one page, over real sockets, again and again in the same folder."""

import itertools
import json
import re
from collections import Counter
from urllib.parse import unquote

import attrs
import pytest

from novita_async import ConfigurationError, Polling
from novita_async.cli import _demo
from novita_async.cli._app import main
from novita_async.cli._workspace import Workspace
from novita_async.testing import DEFAULT_API_KEY, SimulatorConfig


def rows_of(page):
    """The rows that the page's script lists, and the files that they name."""
    (text,) = re.findall(r'<script type="application/json" id="entries">(.*?)</script>', page, re.DOTALL)
    entries = json.loads(text)
    return [entry for entry in entries if "state" in entry], [
        entry for entry in entries if "state" not in entry
    ]


@pytest.fixture
def demo(tmp_path, monkeypatch, capsys):
    """Run the demo against a quick service, in an empty folder: its exit code, output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("novita_async._client.Polling", lambda: Polling.fixed(0.05, polls_per_second=500))
    quick = attrs.evolve(_demo._SERVICE, workers=24, speed=50, latency=0.001, plain_pictures=True)

    def run(*tokens, **config):
        monkeypatch.setattr(_demo, "_SERVICE", attrs.evolve(quick, **config))
        code = main(["demo", *tokens])
        out, err = capsys.readouterr()
        assert DEFAULT_API_KEY not in out + err
        return code, out, err

    return run


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_it_makes_24_pictures_and_a_page_and_says_so(demo, tmp_path):
    code, out, _ = demo()
    folder = tmp_path / "demo-output"
    assert code == 0
    assert len(list((folder / "inputs").iterdir())) == 3
    assert len(list((folder / "outputs").glob("*.png"))) == 24
    assert "submitted 24, succeeded 24, failed 0" in out
    assert re.search(r"\d+ images per minute, \d+\.\d polls per task, \d+\.\d s", out)
    assert (folder / "index.html").as_uri() in out.splitlines()


def test_the_page_is_the_report_with_every_picture_beside_its_input_and_no_network(demo, tmp_path):
    demo()
    folder = tmp_path / "demo-output"
    page = (folder / "index.html").read_text("utf-8")
    rows, pictures = rows_of(page)
    assert [row["state"] for row in rows] == ["saved"] * 24
    assert all(len(row["inputs"]) == len(row["outputs"]) == 1 for row in rows)
    ours = {name for name in files_in(folder) if name.endswith(".png") and not name.startswith("edits/")}
    assert {unquote(picture["href"]) for picture in pictures} == ours
    assert len(ours) == 27
    assert not re.search(r"https?://|@import|url\(", page)


def test_every_combination_of_strength_and_seed_is_on_the_page_for_each_picture(demo, tmp_path):
    demo()
    rows, _ = rows_of((tmp_path / "demo-output" / "index.html").read_text("utf-8"))
    asked = Counter((row["request"]["request"]["strength"], row["seed"]) for row in rows)
    assert asked == dict.fromkeys(itertools.product(_demo._STRENGTHS, _demo._SEEDS), len(_demo._PICTURES))


def test_it_ends_with_edits_through_a_route_that_answers_at_once(demo, tmp_path):
    for _ in range(2):
        code, out, _ = demo()
    assert code == 0
    assert "edited 4 more with gpt-image-2, whose route answers at once" in out.splitlines()
    names = sorted(path.name for path in (tmp_path / "demo-output" / "edits").glob("*.png"))
    assert names == ["dunes-1.png", "fjord-1.png", "lagoon-1.png", "lagoon-and-others-1.png"]


def test_running_it_again_replaces_what_it_made_and_nothing_else(demo, tmp_path):
    demo()
    folder = tmp_path / "demo-output"
    first = files_in(folder)
    (folder / "outputs" / "mine.png").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    (folder / "outputs" / "lagoon-strength0.3-seed7-1.png").unlink()
    assert demo()[0] == 0
    assert files_in(folder) == first | {"outputs/mine.png", "notes.txt"}
    assert (folder / "outputs" / "mine.png").read_text() == "mine"


def test_somebody_elses_page_is_never_replaced(demo, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    code, out, err = demo("--out", "site")
    assert (code, out) == (2, "")
    assert "site/index.html: not made here" in err
    assert files_in(tmp_path / "site") == {"index.html"}
    assert (tmp_path / "site" / "index.html").read_text() == "mine"


def test_programs_get_one_object_a_line(demo, tmp_path):
    code, out, _ = demo("--json", "--out", "elsewhere")
    *before, last = map(json.loads, out.splitlines())
    assert code == 0
    assert {record["event"] for record in before} == {"submitted", "outcome"}
    assert last.items() >= {"event": "demo", "submitted": 24, "succeeded": 24, "exit_code": 0}.items()
    assert last["page"] == (tmp_path / "elsewhere" / "index.html").as_uri()


def test_what_fails_is_counted_and_explained_on_the_page(demo, tmp_path):
    code, out, _ = demo(failure_rate=0.5)
    rows, _ = rows_of((tmp_path / "demo-output" / "index.html").read_text("utf-8"))
    failed = [row for row in rows if row["state"] == "failed"]
    assert code == 1
    assert 0 < len(failed) < 24
    assert f"failed {len(failed)}" in out
    assert all("failed to exec task" in row["error"]["text"] for row in failed)


def test_without_pillow_it_says_how_to_get_it(demo, monkeypatch, tmp_path):
    monkeypatch.setattr(_demo, "find_spec", lambda _: None)
    code, _, err = demo()
    assert code == 2
    assert "pip install 'novita-async[cli]'" in err
    assert files_in(tmp_path) == set()


def test_the_service_of_the_demo_is_done_within_a_minute():
    service = _demo._SERVICE
    usual = 2 * _demo._SIZE[0] * _demo._SIZE[1] / 512**2  # seconds for a picture, as the configuration says
    assert 24 * usual / service.workers / service.speed < 20
    assert service.images_per_minute is SimulatorConfig().images_per_minute is None


# --- The folder ---


def test_a_list_that_was_edited_removes_nothing_outside(tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "precious").write_text("mine")
    (folder / ".novita-async-demo").write_text(f"../precious\n{tmp_path}/precious\nsub\n\n")
    Workspace(folder).prepare(["a"])
    assert (tmp_path / "precious").read_text() == "mine"
    assert (folder / "sub").is_dir()


def test_a_file_is_written_once(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.prepare(["sub/a"])
    workspace.write("sub/a", b"1")
    with pytest.raises(FileExistsError):
        workspace.write("sub/a", b"2")
    workspace.prepare(["sub/a"])
    assert not (tmp_path / "sub" / "a").exists()


def test_nothing_is_listed_as_ours_when_a_name_is_taken(tmp_path):
    (tmp_path / "a").write_text("mine")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="not made here"):
            Workspace(tmp_path).prepare(["a"])
    assert (tmp_path / "a").read_text() == "mine"
