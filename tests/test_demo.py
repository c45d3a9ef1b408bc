"""The demo: 24 pictures and one page, over real sockets, again and again in the same folder."""

import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import attrs
import pytest

from novita_async import ConfigurationError, Polling
from novita_async.cli import _demo
from novita_async.cli._app import main
from novita_async.cli._page import Input, Page, Result, render
from novita_async.cli._progress import Totals
from novita_async.cli._workspace import Workspace
from novita_async.testing import DEFAULT_API_KEY, SimulatorConfig

PICTURE = Input(name="hill", prompt="a hill", model="m", href="inputs/hill.png", width=4, height=3)
RESULT = Result(
    name="hill", href="outputs/hill.png", strength=0.5, seed=7, steps=20, task_id="t",
    submitted=1.0, queued=2.0, worked=3.0, saved=8.0,
)  # fmt: skip
TOTALS = Totals(
    requests=2, submitted=2, succeeded=1, failed=1, uncertain=0, unfinished=0, images=1, polls=5, seconds=30.0
)


class Elements(HTMLParser):
    """All start tags of a page, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


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
    assert len(list((folder / "outputs").iterdir())) == 24
    assert "submitted 24, succeeded 24, failed 0" in out
    assert re.search(r"\d+ images per minute, \d+\.\d polls per task, \d+\.\d s", out)
    assert (folder / "index.html").as_uri() in out.splitlines()


def test_every_picture_on_the_page_is_there_is_described_and_comes_without_a_network(demo, tmp_path):
    demo()
    folder = tmp_path / "demo-output"
    page = (folder / "index.html").read_text("utf-8")
    elements = Elements(page)
    shown = [image for image in elements.all("img") if "src" in image]
    links = [image["src"] for image in shown] + [link["href"] for link in elements.all("a")]
    assert len(shown) == 27
    assert len(elements.all("a")) == 24
    assert {unquote(link) for link in links} == files_in(folder) - {"index.html", ".novita-async-demo"}
    assert all(not urlsplit(link).scheme and not link.startswith("/") for link in links)
    alts = [image["alt"] for image in shown]
    assert len(set(alts)) == 27
    assert all(alts)
    assert sum(image.get("loading") == "lazy" for image in shown) == 24
    assert all(int(image["width"]) and int(image["height"]) for image in shown)
    assert not re.search(r"https?://|@import|url\(", page)
    assert elements.all("html")[0]["lang"] == "en"
    assert [link["href"] for link in elements.all("link")] == ["data:,"]


def test_every_combination_of_strength_and_seed_stands_under_a_picture(demo, tmp_path):
    demo()
    text = Elements((tmp_path / "demo-output" / "index.html").read_text("utf-8")).text
    for strength in _demo._STRENGTHS:
        for seed in _demo._SEEDS:
            assert text.count(f"strength {strength} seed {seed}") == len(_demo._PICTURES)


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
    elements = Elements((tmp_path / "demo-output" / "index.html").read_text("utf-8"))
    failed = 24 - len(elements.all("a"))
    assert code == 1
    assert 0 < failed < 24
    assert f"failed {failed}" in out
    assert elements.text.count("failed: ") == failed


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


# --- The page ---


def test_totals_stand_at_the_top():
    text = Elements(render(Page(inputs=(PICTURE,), results=(RESULT,), totals=TOTALS))).text
    for fact in (
        "submitted 2",
        "succeeded 1",
        "failed 1",
        "images per minute 2",
        "polls per task 2.5",
        "seconds 30.0",
    ):
        assert fact in text


def test_text_from_elsewhere_is_text_on_the_page():
    evil = '"><script>alert(1)</script>'
    picture = attrs.evolve(PICTURE, name=evil, prompt=evil)
    results = (
        attrs.evolve(RESULT, name=evil, href=f"outputs/{evil}.png"),
        attrs.evolve(RESULT, name=evil, href=None, problem=evil),
    )
    page = render(Page(inputs=(picture,), results=results, totals=TOTALS))
    assert evil not in page
    assert len(Elements(page).all("script")) == 1
    assert Elements(page).text.count(evil) >= 3


def test_results_stand_by_seed_and_strength_whatever_came_first():
    results = [
        attrs.evolve(RESULT, seed=seed, strength=s) for seed, s in ((9, 0.1), (7, 0.9), (9, 0.9), (7, 0.1))
    ]
    text = Elements(render(Page(inputs=(PICTURE,), results=tuple(results), totals=TOTALS))).text
    found = re.findall(r"strength ([\d.]+) seed (\d)", text)
    assert found == [("0.1", "7"), ("0.9", "7"), ("0.1", "9"), ("0.9", "9")]


def test_a_bar_begins_at_the_submission_and_ends_when_the_file_is_there():
    page = render(Page(inputs=(PICTURE,), results=(RESULT,), totals=TOTALS))
    assert "--from: 12.50%; --q: 25.00%; --w: 37.50%; --r: 25.00%" in page
    assert "sent at 1.0 s, queued 2.0 s, worked on 3.0 s, saved at 8.0 s" in Elements(page).text


def test_a_bar_stays_inside_where_the_services_clock_disagrees():
    odd = attrs.evolve(RESULT, queued=100.0, worked=100.0)
    page = render(Page(inputs=(PICTURE,), results=(odd,), totals=TOTALS))
    assert "--from: 12.50%; --q: 87.50%; --w: 0.00%; --r: 0.00%" in page


def test_a_page_without_results_is_a_page():
    page = render(Page(inputs=(PICTURE,), results=(), totals=TOTALS))
    assert len([image for image in Elements(page).all("img") if "src" in image]) == 1


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
