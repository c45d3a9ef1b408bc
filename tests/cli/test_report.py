"""The report's text: what it says, what it must not say, and what it does to the disk."""

import base64
import hashlib
import html
import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from novita_async import Artifact, ConfigurationError, FailedEarlier, GeneratedImage, NsfwDetection, Timings
from novita_async._purchase.machine import Attempt, State
from novita_async.cli import _report, _report_files, _report_pieces, _report_timeline
from novita_async.cli._report import About, Commands, page, write_report, write_report_of
from novita_async.cli._report_files import Disk, Picture, link, thumbnail
from novita_async.cli._report_rows import spans
from novita_async.cli._report_summary import money
from novita_async.cli._report_timeline import Happenings, elapsed, timeline
from novita_async.cli._terminal import visible
from tests.helpers.journals import do, open_store
from tests.helpers.report_rows import (
    BEGIN,
    BROKEN,
    LOST,
    WICKED,
    batch,
    digest,
    journal_of,
    png,
    result,
    row,
    wire,
    write,
)

few = settings(max_examples=30, deadline=None)
"""A page takes its time to be made and read."""


class Nowhere:
    """Files that are found by what they are called."""

    def input(self, digest, path):
        return Picture(name=path or digest, lack="not here")

    def output(self, path):
        return Picture(name=path, href=path, shown=True)


class Read(HTMLParser):
    """A page as a browser would take it: its tags, its text, and what stands in its blocks."""

    def __init__(self, text):
        super().__init__()
        self.source, self.tags, self.words, self.blocks, self.inside = text, [], [], {}, None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self.inside = dict(attributes).get("id", tag)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.blocks[self.inside] = self.blocks.get(self.inside, "") + data
        else:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+([.,:])", r"\1", " ".join(" ".join(self.words).split()))

    @property
    def entries(self):
        return json.loads(self.blocks["entries"])

    @property
    def rows(self):
        return [entry for entry in self.entries if "state" in entry]

    @property
    def files(self):
        return [entry for entry in self.entries if "state" not in entry]

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def totals(self):
        """The numbers at the top, by their names."""
        found = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", self.source)
        return {re.sub("<.*?>", "", name): value for name, value in found}


def read(*rows, found=None, **about):
    return Read("".join(page(iter(rows), found or Nowhere(), About(**about))))


# --- The page -----------------------------------------------------------------------------------------------


def test_it_loads_nothing_but_pictures_beside_it_and_runs_nothing_but_its_own():
    report = read(row())
    [policy] = [each["content"] for each in report.all("meta") if "http-equiv" in each]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "'self' file: data:"
    assert rules["script-src"] == sha256(report.blocks["script"])
    assert rules["style-src"] == sha256(report.blocks["style"])
    assert not [each for _, each in report.tags if {"style", "onclick", "onload", "onerror"} & each.keys()]
    assert {each["href"] for each in report.all("link")} == {"data:,"}
    assert not re.search(r"https?://", report.source)


def sha256(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@few
@given(st.text(), st.text())
def test_no_text_becomes_markup_and_every_text_comes_back(prompt, title):
    plain = read(row(request=wire()), title="x")
    report = read(row(request=wire(prompt=prompt)), title=title)
    assert [tag for tag, _ in report.tags] == [tag for tag, _ in plain.tags]
    assert report.rows[0]["request"]["request"]["prompt"] == report.rows[0]["prompt"]
    assert html.escape(visible(title)) in report.source


def test_a_wicked_prompt_model_error_and_file_are_text():
    error = LOST.__class__(kind=WICKED, text=WICKED, reason=WICKED)
    wicked = row(
        0, State.FAILED, request=wire(prompt=WICKED, model_name=WICKED), error=error, paths=(Path(WICKED),)
    )
    report = read(wicked, title=WICKED, commands=Commands(resume=WICKED, retry=WICKED))
    source = report.source
    for text in (WICKED, visible(WICKED)):
        source = source.replace(html.escape(text), "").replace(
            json.dumps(text)[1:-1].replace("<", "\\u003c"), ""
        )
    assert "stolen" not in source
    assert [row["prompt"] for row in report.rows] == [WICKED]
    assert report.files[0]["name"] == visible(WICKED)
    assert not report.all("img")[2:]


def test_rows_are_read_one_after_the_other_and_written_as_they_come():
    taken = []

    def rows():
        for number in range(100):
            taken.append(number)
            yield row(number)

    pieces = page(rows(), Nowhere(), About())
    for _ in range(11):
        next(pieces)
    assert len(taken) == 10
    assert len(list(pieces)) == 92
    assert len(taken) == 100


def test_an_empty_batch_has_a_page_too():
    report = read()
    assert report.entries == []
    assert "Nothing was sent yet." in report.text
    assert report.totals() == {
        "requests": "0",
        "saved": "0",
        "failed": "0",
        "uncertain": "0",
        "images bought": "0",
    }
    assert "What is left to do" not in report.text
    assert not report.all("svg")


# --- What a row tells ---------------------------------------------------------------------------------------


def test_a_saved_row_tells_settings_seed_files_and_times():
    known = {"$picture": "ab" * 32, "path": "in/dog.png"}
    [told] = read(row(3, State.SAVED, request=wire(image=known), paths=(Path("a.png"), Path("b.png")))).rows
    assert (told["no"], told["state"], told["model"]) == (4, "saved", "base.safetensors")
    assert told["seed"] == 1003
    assert told["request"]["request"]["seed"] == 7
    assert told["request"]["request"]["image_base64"] == "in/dog.png (sha256:abababababab…)"
    assert told["inputs"] == [["input", 0]]
    assert told["outputs"] == [1, 2]
    assert told["spans"] == {"queued": 5.0, "worked": 5.0, "saved": 1.25, "whole": 10.25}


def test_spans_are_told_as_far_as_they_are_known():
    assert spans(row()) == {}
    assert spans(row(0, State.FAILED)) == {"whole": 1.0}
    times = Timings.of(
        submit_time=datetime.fromtimestamp(9, UTC), execute_time=datetime.fromtimestamp(8, UTC)
    )
    clocks_differ = row(0, State.SAVED, result=result(0, timings=times))
    assert spans(clocks_differ)["queued"] == 0.0
    assert "worked" not in spans(row(0, State.SAVED, result=None))


def test_an_input_of_many_rows_is_told_once_and_every_row_names_it():
    known = {"$picture": "ab" * 32}
    report = read(
        *(row(number, request=wire(image=known)) for number in range(3)),
        row(3, request=wire(image={"$picture": "cd" * 32})),
    )
    assert [each["name"] for each in report.files] == ["ab" * 32, "cd" * 32]
    assert [each["inputs"] for each in report.rows] == [[["input", 0]]] * 3 + [[["input", 1]]]


def test_guiding_pictures_come_after_the_input_and_say_where_they_stand():
    known, mask = {"$picture": "ab" * 32}, {"$picture": "cd" * 32}
    units = {"units": [{"image_base64": mask}, {"image_base64": mask}]}
    [told] = read(row(request=wire(controlnet=units, mask_image_base64=mask, image=known))).rows
    assert told["inputs"] == [["input", 0], ["controlnet 1", 1], ["controlnet 2", 1], ["mask image", 1]]


def test_a_flat_body_of_another_endpoint_is_understood():
    body = json.dumps({"prompt": "a hill", "model": "flux", "seed": 5, "images": [{"$picture": "ab" * 32}]})
    [told] = read(row(kind="task", endpoint="/v3/async/flux", request=body)).rows
    assert (told["prompt"], told["model"], told["seed"], told["inputs"]) == (
        "a hill",
        "flux",
        5,
        [["images 1", 0]],
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task t-9 failed: no face: send it again", "no face: send it again (task t-9)"),
        ("download of https://h/a.png failed: reset: paid", "reset: paid (download of https://h/a.png)"),
        (
            "submission of 2 image(s) to /v3/x has no known end: reset: perhaps paid",
            "reset: perhaps paid (submission of 2 image(s) to /v3/x)",
        ),
        ("no answer about task t-9: reset: ask again", "no answer: reset: ask again (about task t-9)"),
        ("400 ILLEGAL_PROMPT: no", "400 ILLEGAL_PROMPT: no"),
        ("task t-9 succeeded without images: paid", "task t-9 succeeded without images: paid"),
    ],
)
def test_a_reason_comes_before_the_ids(text, told):
    error = FailedEarlier(kind="TaskFailed", text=text)
    assert read(row(0, State.FAILED, error=error)).rows[0]["error"]["text"] == told


def test_control_characters_of_names_are_written_out():
    paths = (Path("outputs/a\x1b[2J\nb.png"),)
    report = read(row(0, State.SAVED, paths=paths), title="Batch \u202egnp")
    assert [each["name"] for each in report.files] == [r"outputs/a\x1b[2J\nb.png"]
    assert r"Batch \u202egnp" in report.text


def test_attempts_before_are_told():
    earlier = (Attempt("k2", 1.0, 2.0, perhaps=True),)
    [told] = read(row(0, State.SAVED, earlier=earlier)).rows
    assert told["attempts"] == 2
    assert told["tries"][0] == {"account": "k2", "announced_time": 1.0, "answered_time": 2.0, "perhaps": True}
    assert told["tries"][1]["task_id"] == "task-0"


def test_what_a_check_found_is_told():
    checked = GeneratedImage(nsfw=NsfwDetection(checked=True, confidence=12.5))
    found = result(0, images=(checked, GeneratedImage()), videos=(Artifact(type="mp4"),))
    assert read(row(0, State.SAVED, result=found)).rows[0]["nsfw"] == [12.5, None, None]
    assert "nsfw" not in read(row(0, State.SAVED)).rows[0]


@pytest.mark.parametrize("text", ["", "[1]", "not json", '{"request": 5}', '{"request": {"x": NaN}}'])
def test_a_request_that_cannot_be_read_leaves_a_gap_and_no_more(text):
    [told] = read(row(request=text)).rows
    assert told["state"] == "planned"


def test_a_lone_surrogate_is_no_obstacle(tmp_path):
    write_report([row(request='{"request": {"prompt": "\\ud800"}}')], tmp_path / "r.html", title="\ud800")
    assert r"<h1>\ud800</h1>" in (tmp_path / "r.html").read_text(encoding="utf-8")


# --- The user's own words -----------------------------------------------------------------------------------


def test_ids_and_metadata_are_told_without_what_may_be_secret():
    own = {
        "tag": "sku-1\x1b",
        "metadata": json.dumps({"shop": 7, "see": "https://a.example/?Signature=s3cret"}),
    }
    told = row(0, State.SAVED)
    told.entry, told.tag = evolve(told.entry, **own), own["tag"]
    report = read(told, row(1))
    assert report.rows[0]["id"] == r"sku-1\x1b"
    assert report.rows[0]["metadata"] == {"shop": 7, "see": "https://a.example/?…"}
    assert not {"id", "metadata"} & report.rows[1].keys()
    assert "s3cret" not in report.source


# --- Large batches ------------------------------------------------------------------------------------------


class Large:
    """A batch whose page holds some rows, and what lies beside it."""

    def __init__(self, folder, purchases):
        self.folder, self.journal = folder, folder / "batch.db"
        folder.mkdir(exist_ok=True)
        journal_of(self.journal, purchases)

    def write(self, **about):
        write_report_of(self.journal, self.page, About(**about))

    @property
    def page(self):
        return self.folder / "report.html"

    def change(self, *purchases):
        store = open_store(self.journal)
        do(store, lambda store: write(store, purchases))
        store.close()

    @property
    def pieces(self):
        """Rows of each piece, as arrays."""
        return {path.name: self.read(path) for path in sorted((self.folder / "report-rows").iterdir())}

    def read(self, path):
        mark, called = path.read_text().split("\n", 1)
        assert mark.startswith("// ")
        number, places, rows = json.loads(
            f"[{called.removeprefix('novitaRows(').removesuffix(');' + chr(10))}]"
        )
        assert path.name == f"{number + 1:04d}.js"
        assert places.keys() == {"copies", "folders"}
        return rows

    def written(self):
        """When each file of the report was written."""
        return {
            path.name: path.stat().st_mtime_ns for path in (self.page, *self.folder.glob("report-rows/*"))
        }


@pytest.fixture
def large(monkeypatch, tmp_path):
    """A batch of eleven, where four make a piece."""
    monkeypatch.setattr(_report, "WHOLE", 8)
    monkeypatch.setattr(_report_pieces, "PIECE", 4)
    states = {2: State.FAILED, 6: State.UNCERTAIN, 8: State.FAILED, 9: State.SUBMITTED, 10: State.PLANNED}
    purchases = [row(place, states.get(place, State.SAVED), images=2) for place in range(11)]
    return Large(tmp_path / "batch", purchases)


def test_the_page_of_a_large_batch_has_the_first_rows_and_those_to_look_after(large):
    large.write(price=Decimal("0.01"))
    report = Read(large.page.read_text())
    assert [told["no"] for told in report.rows] == [1, 2, 3, 4, 7, 9, 10]
    assert {name: [each[1] + 1 for each in rows] for name, rows in large.pieces.items()} == {
        "0002.js": [5, 6, 7, 8],
        "0003.js": [9, 10, 11],
    }
    assert json.loads(report.blocks["beside"]) == {
        "pieces": [["report-rows/0002.js", 4], ["report-rows/0003.js", 3]],
        "states": {"planned": 1, "submitted": 1, "saved": 6, "failed": 2, "uncertain": 1},
    }


def test_the_page_of_a_large_batch_says_the_same_of_the_whole_as_one_with_all_rows(large, monkeypatch):
    earlier = (Attempt("k1", BEGIN - 65, BEGIN - 64), Attempt("k1", BEGIN - 30, BEGIN - 29))
    large.change(row(5, State.FAILED, error=BROKEN, earlier=earlier))

    def said():
        report = Read(large.page.read_text())
        return report.totals(), re.sub("[\\s,]", "", report.text), report.source.partition("<svg")[2]

    large.write(price=Decimal("0.01"), images_per_minute=10)
    some = said()
    monkeypatch.setattr(_report, "WHOLE", 100)
    large.page.unlink()
    large.write(price=Decimal("0.01"), images_per_minute=10)
    assert [told["no"] for told in Read(large.page.read_text()).rows] == list(range(1, 12))
    assert said()[:2] == some[:2]
    assert said()[2].partition("</svg>")[0] == some[2].partition("</svg>")[0]


def test_a_report_is_not_written_again_where_nothing_has_changed(large, tmp_path):
    for count in (11, 3):
        batch_of = Large(tmp_path / f"batch-{count}", [row(place, State.SAVED) for place in range(count)])
        batch_of.write()
        before = batch_of.written()
        batch_of.write()
        assert batch_of.written() == before
        (batch_of.folder / "more.png").write_bytes(b"x")
        batch_of.write()
        assert batch_of.written()["report.html"] > before["report.html"]
        after = batch_of.written()
        batch_of.write(title="another")
        assert batch_of.written()["report.html"] > after["report.html"]


def test_of_a_large_report_only_pieces_whose_rows_have_changed_are_written_again(large):
    large.write()
    before = large.written()
    large.change(row(10, State.SAVED))
    large.write()
    after = large.written()
    assert {name for name in after if after[name] != before[name]} == {"report.html", "0003.js"}
    assert [each[2] for each in large.pieces["0003.js"]] == ["failed", "submitted", "saved"]


@pytest.mark.parametrize(
    "spoil", [Path.unlink, lambda path: path.write_bytes(b"\xff")], ids=["gone", "broken"]
)
def test_a_piece_that_is_gone_or_broken_is_written_again(large, spoil):
    large.write()
    spoil(large.folder / "report-rows" / "0002.js")
    large.write()
    assert [each[1] for each in large.pieces["0002.js"]] == [4, 5, 6, 7]


def test_no_secret_is_passed_on_in_a_piece(large):
    secrets = {
        "query": "see https://host.example/a.png?X-Amz-Signature=S3CR3T",
        "key": "sk_S3CR3T",
        "header": "Bearer S3CR3T",
        "kept": {"$withheld": "S3CR3T"},
        "webhook": {"url": "https://host.example/S3CR3T"},
        "picture": "S3CR3T" + "A" * 3000,
        "plain": "a hill",
    }
    for name, secret in secrets.items():
        large.change(row(5, State.SAVED, request=wire(**{name: secret})))
        large.write()
        text = (large.folder / "report-rows" / "0002.js").read_text()
        assert "S3CR3T" not in text
        assert ("a hill" in text, len(large.pieces["0002.js"])) == (True, 4)


def test_a_piece_names_its_pictures_as_seen_from_the_page(large, tmp_path):
    kept = digest(png())
    (large.folder / "inputs").mkdir()
    (large.folder / "inputs" / f"{kept}.png").write_bytes(png())
    changed = [
        row(4, request=wire(image={"$picture": kept})),
        row(5, request=wire(image={"$picture": "ab" * 32, "path": str(tmp_path / "in" / "ä b.png")})),
        row(6, State.SAVED, paths=(large.folder / "0.png", tmp_path / "else.png"), result=result(6)),
    ]
    large.change(*changed)
    large.write()
    text = (large.folder / "report-rows" / "0002.js").read_text()
    assert json.dumps({"copies": {kept: f"{kept}.png"}, "folders": {str(tmp_path / "in"): "../in"}},
                      separators=(",", ":")) in text  # fmt: skip
    assert large.pieces["0002.js"][2][17] == ["0.png", str(tmp_path / "else.png")]


def test_a_piece_tells_what_the_check_of_each_file_found(large):
    images = tuple(
        GeneratedImage(url="https://h.example/a.png", type="png", nsfw=nsfw)
        for nsfw in (None, NsfwDetection(checked=True, confidence=3.5))
    )
    large.change(row(5, State.SAVED, result=result(5, images=images)))
    large.write()
    assert [each[19] for each in large.pieces["0002.js"]] == [None, [None, 3.5], None, None]


# --- Secrets ------------------------------------------------------------------------------------------------


def test_no_secret_is_passed_on_even_where_a_journal_holds_one():
    secret = "S3CR3T"
    body = {
        "extra": {"webhook": {"url": f"https://me:{secret}@host.example/{secret}?t={secret}", "at": 1}},
        "request": {
            "prompt": f"see https://host.example/a.png?X-Amz-Signature={secret}",
            "model_name": f"sk_{secret}",
            "note": "A" * 400,
            "kept": {"$withheld": secret},
            "list": [f"Bearer {secret}"],
        },
    }  # fmt: skip
    report = read(row(0, State.SAVED, request=json.dumps(body)))
    assert secret not in report.source
    assert "AAAA" not in report.source
    [told] = report.rows
    assert told["request"]["extra"]["webhook"] == {
        "url": "https://host.example/…",
        "at": 1,
    }
    assert told["request"]["request"]["kept"] == "(not kept in the journal)"


@pytest.mark.parametrize(
    "webhook", ["https://host.example/?t=S3CR3T", {"url": "https://[S3CR3T"}, {"url": 5}]
)
def test_an_odd_webhook_gives_nothing_away(webhook):
    assert "S3CR3T" not in read(row(request=json.dumps({"extra": {"webhook": webhook}}))).source


# --- Totals and what is left to do --------------------------------------------------------------------------


def test_the_totals_add_up():
    rows = (
        row(0, State.SAVED, images=4), row(1, State.FAILED), row(2, State.UNCERTAIN, images=2),
        row(3), row(4, State.SUBMITTED),
    )  # fmt: skip
    totals = read(*rows, price=Decimal("0.0015")).totals()
    assert totals == {
        "requests": "5", "saved": "1", "failed": "1", "uncertain": "1", "still to do": "2",
        "images bought, perhaps 2 more": "5", "cost, at $0.0015 an image, perhaps $0.003 more": "$0.0075",
        "images a minute": "10.0",
    }  # fmt: skip


def test_without_a_price_there_is_no_cost():
    assert not [name for name in read(row(0, State.SAVED)).totals() if "cost" in name]


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0.00"),
        ("5", "$5.00"),
        ("1234.5", "$1,234.50"),
        ("0.0015", "$0.0015"),
        ("1E+3", "$1,000.00"),
        ("0.100", "$0.10"),
    ],
)
def test_money_has_cents_and_what_is_smaller(amount, text):
    assert money(Decimal(amount)) == text


def test_uncertain_rows_come_with_a_warning_and_a_command():
    text = read(
        row(0, State.UNCERTAIN), commands=Commands(uncertain="novita-async retry run --uncertain")
    ).text
    assert "1 request uncertain" in text
    assert "novita-async retry run --uncertain buys again. Where it was, that pays twice." in text


def test_failures_are_counted_by_reason_with_their_prospects():
    failed = [row(number, State.FAILED) for number in range(3)]
    report = read(*failed, row(3, State.FAILED, error=BROKEN), row(4, State.FAILED, error=None))
    assert "5 requests failed" in report.text
    assert "3 ContentRejected ILLEGAL_PROMPT, to be changed before another try" in report.text
    assert "1 TaskFailed, worth another try" in report.text
    assert "novita-async retry tries the one again that can succeed." in report.text
    buttons = [each.get("data-text") for each in report.all("button") if each.get("data-state") == "failed"]
    assert buttons == ["", "ContentRejected ILLEGAL_PROMPT", "TaskFailed"]


def test_without_hope_no_retry_is_advised():
    assert "tries" not in read(row(0, State.FAILED)).text


def test_what_is_not_finished_is_resumed():
    text = read(row(), row(1, State.ANNOUNCED), row(2, State.SUBMITTED), row(3, State.SUCCEEDED)).text
    assert "4 requests not finished" in text
    assert (
        "1 not sent yet, 1 on the way to the service, 1 paid for, end not seen, 1 done, files not saved."
        in text
    )
    assert "novita-async resume goes on" in text


def test_it_says_when_it_was():
    day = f"{datetime.fromtimestamp(BEGIN, UTC).day} November 2026"
    assert read(row(0, State.SAVED)).text.count(f"{day}, 12:20 to 12:20 UTC: 9 s.") == 1
    night = read(row(0, State.SAVED), row(15_000, State.SAVED)).text
    assert re.search(r"to \d+ November 2026, \d\d:\d\d UTC: 25 h, at work for 18 s\.", night)


# --- The timeline -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 01 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (3900, "1 h 05"),
        (90_000, "25 h"),
    ],
)
def test_spans_of_time_are_told_in_a_few_words(seconds, text):
    assert elapsed(seconds) == text


MOMENTS = st.lists(st.tuples(st.floats(BEGIN, BEGIN + 5000), st.integers(1, 8)), min_size=1, max_size=40)


@few
@given(MOMENTS)
def test_the_chart_tells_the_most_that_any_minute_held(sent):
    """However many moments share a column, their peak is drawn and said."""
    chart = timeline(Happenings(sent=sent), None)
    busiest = max(sum(images for at, images in sent if end - 60 < at <= end) for end, _ in sent)
    assert f"at most {busiest} images were sent in any minute" in chart
    assert min(heights(chart)) == pytest.approx(100 * (1 - 1 / 1.15), abs=0.06)


@pytest.mark.parametrize(("later", "together"), [(59.5, 2), (60.0, 1), (60.5, 1)])
def test_a_minute_is_a_minute(later, together):
    chart = timeline(Happenings(sent=[(BEGIN, 1), (BEGIN + later, 1)]), 10)
    assert f"at most {together} images were sent in any minute" in chart


def heights(chart):
    """Levels of the area, 0 at the top."""
    paths = re.findall(r'class="sent" d="(.*?)"', chart)
    return [float(level) for path in paths for level in re.findall(r"(?:V|M\d+ )([\d.]+)", path)]


@few
@given(MOMENTS, st.none() | st.integers(1, 50))
def test_every_shape_is_within_the_chart(sent, quota):
    ended = [(at + 5000, images) for at, images in sent]
    chart = timeline(Happenings(sent=sent, finished=sent, failed=ended, uncertain=sent), quota)
    paths = " ".join(re.findall(r' d="(.*?)"', chart))
    across = [float(x) for x in re.findall(r"[MH]([\d.-]+)", paths)]
    assert 0 <= min(across) <= max(across) <= 1000
    assert all(0 <= level <= 100 for level in heights(chart))
    assert "nan" not in chart
    assert ("quota" in chart) is (quota is not None)


@few
@given(MOMENTS)
def test_the_table_counts_everything_once(sent):
    chart = timeline(Happenings(sent=sent, finished=sent), None)
    rows = [tuple(map(int, re.findall(r"<td>(\d+)</td>", line))) for line in chart.split("<tr>")[2:]]
    assert sum(line[0] for line in rows) == sum(line[1] for line in rows) == sum(images for _, images in sent)


def test_a_night_between_two_runs_is_a_break():
    chart = timeline(Happenings(sent=[(0.0, 1), (100.0, 1), (30_000.0, 1), (30_100.0, 1)]), 10)
    assert chart.count('class="pause"') == 1
    assert "nothing for 8 h 18" in chart
    assert re.search(r">8 h 20</text>", chart)


@few
@given(MOMENTS, st.none() | st.integers(1, 5000))
def test_the_chart_has_a_scale_of_a_few_round_numbers(sent, quota):
    chart = timeline(Happenings(sent=sent), quota)
    levels = [int(text.replace(",", "")) for text in re.findall(r'class="level" x="0".*?>([\d,]+)<', chart)]
    peak = int(re.search(r"at most (\d+) images", chart)[1])
    step = levels[0]
    assert levels == [step * number for number in range(1, len(levels) + 1)]
    assert str(step).strip("0") in {"1", "2", "5"}
    assert 1 <= len(levels) <= 4
    assert levels[-1] <= max(peak, quota or 0) < levels[-1] + step


def test_labels_keep_their_distance():
    chart = timeline(Happenings(sent=[(second * 10.0, 1) for second in range(600)]), 10)
    places = [float(place) for place in re.findall(r'<text(?: class="wide")? x="([\d.]+)%" y', chart)]
    kept = [float(place) for place in re.findall(r'<text x="([\d.]+)%" y="100%"', chart)]
    assert min(b - a for a, b in pairwise(places)) > 7
    assert min(b - a for a, b in pairwise(kept)) >= 17
    assert 'text-anchor="start">0 s<' in chart
    assert ">20 min<" in chart


def test_a_batch_of_years_has_few_labels():
    assert _report_timeline._step(200_000) == 259_200


def test_failed_and_uncertain_ends_are_marked():
    report = read(row(0, State.SAVED), row(1, State.FAILED), row(2, State.UNCERTAIN), images_per_minute=10)
    assert 'class="mark failed"' in report.source
    assert 'class="mark uncertain"' in report.source
    assert "with a quota of 10" in report.all("svg")[0]["aria-label"]
    assert (
        "uncertain"
        not in read(row(0, State.SAVED)).source.partition('class="legend"')[2].partition("</ul>")[0]
    )


# --- Files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "href"),
    [
        ("a b.png", "a%20b.png"),
        ("50%#?.png", "50%25%23%3F.png"),
        ("javascript:1", "javascript%3A1"),
        ("ä\udcff.png", "%C3%A4%FF.png"),
    ],
)
def test_links_lead_to_files_of_any_name(tmp_path, name, href):
    assert link(tmp_path / "x" / name, tmp_path) == f"x/{href}"
    assert link(tmp_path / name, tmp_path / "deep") == f"../{href}"


def test_a_file_on_another_drive_has_a_link_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(_report_files.os.path, "relpath", refuse)
    assert link(tmp_path / "a.png", tmp_path) == (tmp_path / "a.png").as_uri()


def test_an_input_given_as_bytes_is_found_by_its_digest(tmp_path):
    data = png()
    disk = Disk(tmp_path)
    assert disk.input(digest(data), None).lack.startswith("not kept: it was given as bytes")
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / f"{digest(data)}.png").write_bytes(data)
    found = Disk(tmp_path).input(digest(data), None)
    assert (found.href, found.shown, found.lack) == (f"inputs/{digest(data)}.png", True, "")


def test_the_copy_beside_the_report_goes_before_the_file_that_may_have_changed(tmp_path):
    data = png()
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / f"{digest(data)}.png").write_bytes(data)
    (tmp_path / "dog.png").write_bytes(b"something else")
    found = Disk(tmp_path).input(digest(data), str(tmp_path / "dog.png"))
    assert (found.name, found.href) == ("dog.png", f"inputs/{digest(data)}.png")


def test_files_are_looked_for_beside_the_report_and_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "reports").mkdir()
    (tmp_path / "out.png").write_bytes(png())
    monkeypatch.chdir(tmp_path)
    assert Disk(tmp_path / "reports").output("out.png").href == "../out.png"
    (tmp_path / "reports" / "out.png").write_bytes(png())
    assert Disk(tmp_path / "reports").output("out.png").href == "out.png"
    assert Disk(tmp_path / "reports").output(str(tmp_path / "out.png")).href == "../out.png"


def test_results_are_found_where_their_folder_was_moved_to_and_inputs_are_not_taken_for_others(tmp_path):
    for name in ("00000-7-1.png", "dog.png"):
        (tmp_path / name).write_bytes(png())
    assert Disk(tmp_path).output("/old/place/00000-7-1.png").href == "00000-7-1.png"
    assert Disk(tmp_path).input("ab" * 32, "/old/place/dog.png").href is None


@pytest.mark.parametrize("path", ["gone.png", "x" * 5000 + ".png", "nul\0.png"])
def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path, path):
    found = Disk(tmp_path).output(path)
    assert found.href is None
    assert found.lack.endswith("is no longer where it was")


def test_only_what_a_browser_shows_is_a_picture(tmp_path):
    for name in ("a.png", "b.mp4"):
        (tmp_path / name).write_bytes(png())
    assert [Disk(tmp_path).output(name).shown for name in ("a.png", "b.mp4")] == [True, False]


def test_thumbnails_are_small_pictures_in_the_page(tmp_path):
    (tmp_path / "big.png").write_bytes(png(size=2000))
    found = Disk(tmp_path, embed=True).output("big.png")
    assert found.href == "big.png"
    assert found.thumbnail.startswith("data:image/webp;base64,")
    data = base64.b64decode(found.thumbnail.partition(",")[2])
    assert data[8:12] == b"WEBP"
    assert len(data) < 2000


def test_what_is_no_picture_has_no_thumbnail():
    assert thumbnail(b"no picture") is None
    assert thumbnail(png()[:48]) is None


def test_an_input_that_has_changed_is_not_shown_as_what_was_sent(tmp_path):
    (tmp_path / "dog.png").write_bytes(png(size=9))
    disk = Disk(tmp_path, embed=True)
    assert disk.input(digest(png(size=9)), "dog.png").thumbnail
    assert disk.input(digest(png()), "dog.png").lack == "dog.png has changed since it was sent"


def test_a_file_that_cannot_be_read_is_said_so(tmp_path, monkeypatch):
    (tmp_path / "dog.png").write_bytes(png())

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_report_files.Path, "read_bytes", refuse)
    assert Disk(tmp_path, embed=True).output("dog.png").lack == "dog.png cannot be read (permission denied)"


def test_without_pillow_thumbnails_are_refused_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(_report_files, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"Pillow.*pip install"):
        write_report([row()], tmp_path / "r.html", embed=True)
    assert list(tmp_path.iterdir()) == []


# --- Writing ------------------------------------------------------------------------------------------------


def test_a_report_is_written_with_links_to_its_files(tmp_path):
    rows = batch(tmp_path / "batch", 20)
    write_report(rows, tmp_path / "batch" / "report.html", title="Hills")
    report = Read((tmp_path / "batch" / "report.html").read_text(encoding="utf-8"))
    assert len(report.rows) == 20
    assert {"outputs/1.png", f"inputs/{digest(png())}.png"} <= {each.get("href") for each in report.files}
    assert "Hills" in report.text


def test_a_folder_that_is_not_there_is_made(tmp_path):
    write_report([], tmp_path / "a" / "b" / "report.html")
    assert (tmp_path / "a" / "b" / "report.html").exists()


def test_an_older_report_stays_whole_when_a_new_one_fails(tmp_path):
    place = tmp_path / "report.html"
    write_report([row()], place)
    before = place.read_bytes()

    def rows():
        yield row()
        raise OSError("the journal broke")

    with pytest.raises(OSError, match="the journal broke"):
        write_report(rows(), place)
    assert place.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_equal_rows_make_equal_pages(tmp_path):
    rows = batch(tmp_path / "batch", 30)
    for name in ("a.html", "b.html"):
        write_report(iter(rows), tmp_path / "batch" / name, price=Decimal("0.002"), images_per_minute=10)
    assert (tmp_path / "batch" / "a.html").read_bytes() == (tmp_path / "batch" / "b.html").read_bytes()
