"""What benchmarks write down; the measuring itself is `make bench`."""

import json

import pytest

from benchmarks import LONG, NAMES, _results
from benchmarks._results import BEGIN, END, Results, Section, with_figures
from benchmarks._rounds import Rounds, interleaved
from benchmarks._tables import Bar, Figure, Headline, Table

SPEED = Table(
    title="Speed",
    how="Measured.",
    header=("client", "requests/s"),
    rows=[("ours", Figure([3.0, 1.0, 2.0], "{:.0f}")), ("theirs", "slow")],
    bars=[Bar(what="requests a second", measured=2.0, at_least=3.0)],
    headlines=[Headline(what="speed", ours="2", peer="1 (theirs)")],
    plots={"speed.svg": "<svg/>"},
)
RESULTS = Results(
    {"submit": Section(commit="abc", machine="2 cores", versions={"Python": "3.11"}, tables=(SPEED,))}
)


def test_a_table_shows_medians_with_their_spread_and_says_which_bar_is_missed():
    text = SPEED.to_markdown()
    assert "| ours   | 2 (1 to 3) |" in text
    assert "**missed**: requests a second: 2.00 (at least 3.00)" in text


@pytest.mark.parametrize(
    ("bar", "met", "within"),
    [
        (Bar(what="", measured=0.8, at_least=0.8), True, True),
        (Bar(what="", measured=0.6, at_least=0.8), False, True),
        (Bar(what="", measured=0.5, at_least=0.8), False, False),
        (Bar(what="", measured=8.0, at_most=8.0), True, True),
        (Bar(what="", measured=13.0, at_most=8.0), False, False),
    ],
)
def test_a_bar_is_met_exactly_and_may_be_missed_by_its_slack_on_a_busy_machine(bar, met, within):
    assert (bar.is_met, bar.holds(bar.slack)) == (met, within)


def test_rounds_begin_with_another_contender_each_time_and_ratios_are_taken_within_each():
    order = []

    def measure(name):
        order.append(name)
        return {"rate": len(order)}

    rounds = interleaved(["a", "b"], measure, 2)
    assert order == ["a", "b", "b", "a"]
    assert rounds.ratios("a", "b", "rate") == [1 / 2, 4 / 3]
    assert Rounds({"a": [{"rate": 1.0}, {"rate": 3.0}]}).median("a", "rate") == 2.0


def test_results_come_back_from_their_file_as_they_were(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}old\n{END}\nafter")
    monkeypatch.setattr(_results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(_results, "README", readme)
    RESULTS.save()
    assert Results.load() == RESULTS.without_plots()
    Results.load().save()  # what is measured later leaves the other plots alone
    assert (tmp_path / "results" / "speed.svg").read_text() == "<svg/>"
    assert "| speed | 2 | 1 (theirs) |  |" in readme.read_text()
    assert readme.read_text().startswith("before\n")
    assert readme.read_text().endswith("\nafter")


def test_the_readme_shows_the_figures_that_are_kept():
    readme = _results.README.read_text()
    assert with_figures(readme, Results.load().headlines()) == readme
    assert BEGIN in readme


def test_the_kept_tables_are_those_that_are_made_and_their_text_is_theirs():
    results = Results.load()
    assert list(results.sections) == [name for name in NAMES if name in results.sections]
    assert results.sections.keys() >= set(NAMES) - set(LONG)
    assert (_results.RESULTS / "tables.md").read_text() == results.to_markdown()
    json.loads((_results.RESULTS / "tables.json").read_text())
