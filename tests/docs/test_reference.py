"""The reference is made from the code, and leaves nothing out."""

import json
import re
from importlib import import_module

import attrs
import pytest

import novita_async
from docs.generators import api, docstrings, drawings, errors, looks, plots, schemas, tables
from docs.generators.markdown import summary_of, title_of
from docs.generators.parts import PARTS
from novita_async import Img2Img, NovitaError, Txt2Img
from novita_async._files.lines import NAMES
from novita_async._purchase.machine import TRANSITIONS, State
from novita_async.cli._app import COMMANDS
from novita_async.models import _rules as rules
from novita_async.testing import Simulation, sample_picture
from tests.helpers.pages import DOCS, PAGES
from tests.helpers.postgres import run_sql

PUBLIC = (
    "novita_async",
    "novita_async.errors",
    "novita_async.events",
    "novita_async.journal",
    "novita_async.logs",
    "novita_async.statistics",
    "novita_async.storage",
    "novita_async.sync",
    "novita_async.mcp",
    "novita_async.telemetry.otel",
    "novita_async.telemetry.prometheus",
    "novita_async.testing",
    "novita_async.testing.conformance",
    "novita_async.testing.storages",
    "novita_async.transport",
    "novita_async.webhooks",
)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_stands_in_the_reference(module):
    told = {id(getattr(import_module(home), name)) for home, name in api.described()}
    names = set(getattr(import_module(module), "__all__", ())) - api.NOT_DESCRIBED
    assert not {name for name in names if id(getattr(import_module(module), name)) not in told}


def test_each_name_is_described_on_a_single_page():
    pages = "\n".join(api.page(name) for name in api.PAGES)
    targets = re.findall(r"^\.\. auto\w+:: (\S+)", pages, re.MULTILINE)
    assert len(targets) == len(set(targets))
    for module, name in api.described():
        assert f"{module}.{name}" in targets or f"`{name}`: see" in pages


def test_every_made_part_is_on_a_page_and_no_page_names_another():
    texts = "".join(page.read_text("utf-8") for page in PAGES)
    named = re.findall(r"<!-- made: ([\w-]+) -->", texts)
    assert sorted(named) == sorted(PARTS)


@pytest.mark.parametrize("name", sorted(PARTS.keys() - api.PAGES.keys()))
def test_every_part_has_words(name):
    assert len(PARTS[name]().splitlines()) > 1


def test_the_table_of_errors_has_every_class():
    public = {cls for cls in all_below(NovitaError) if cls.__module__ == NovitaError.__module__}
    assert set(errors.classes()) == public - {NovitaError}
    assert {cls.__name__ for cls in errors.classes()} <= set(novita_async.__all__)
    assert all(400 <= cls.answer_with < 600 for cls in errors.classes())


def all_below(cls):
    return {cls} | {below for each in cls.__subclasses__() for below in all_below(each)}


def test_what_a_refused_purchase_says_of_its_cost_is_what_its_advice_says():
    for cls in errors.classes():
        if attrs.fields_dict(cls)["advice"].default.startswith("nothing was bought"):
            assert cls.charged == "nothing"


def test_the_table_of_errors_calls_nothing_unpaid_that_may_be_paid():
    told = {each: errors.another_purchase(each) for each in errors.classes()}
    for each, words in told.items():
        if each in errors.OF_BATCHES:
            continue
        warns = "pay twice" in words or "pays twice" in words or "pays for another" in words
        assert warns == (each.charged != "nothing"), each
        assert not warns or "pays once" not in words.partition("without: ")[0], each


def test_the_drawing_has_every_state_and_every_move():
    text = drawings.purchase(looks.DARK)
    for state in State:
        assert f">{state.value}</text>" in text
    moves = [(before, after) for (before, _), (after, _) in TRANSITIONS.items() if before is not after]
    assert text.count("marker-end") == len(set(moves))
    assert text.count('class="fact"') == len(moves)


def test_the_plot_has_every_way_to_wait_beside_the_best_on_each_service():
    text = plots.waits(looks.LIGHT)
    for way in ("learned", "every 0.1 s", "every 0.5 s", "every 1 s", "every 5 s", "growing"):
        assert text.count(f">{way}</text>") == len(plots.SERVICES)
    assert text.count('class="best"') == len(plots.SERVICES)


@pytest.mark.anyio
@pytest.mark.real_loop
async def test_the_schema_of_shared_journals_names_every_table_and_view_of_a_database(database):
    rows = await run_sql(
        database, "select table_name from information_schema.tables where table_schema = 'novita'"
    )
    told = re.findall(r"create (?:unlogged )?(?:table|view) novita\.\"?(\w+)", tables.shared_schema())
    assert sorted(told) == sorted(row["table_name"] for row in rows)


def test_a_copy_in_markdown_shows_each_drawing_once():
    text = looks.plain(f"before\n\n{drawings.shown()}\n\nafter\n")
    assert text.count("![") == 1
    assert "{." not in text
    assert text.endswith(".svg)\n\nafter\n")


def test_every_command_is_told_with_its_help():
    text = tables.commands()
    for name in COMMANDS:
        assert f"\n## {name}\n" in text
        assert f"novita-async {name}" in text


def test_a_variable_without_words_is_found(monkeypatch):
    monkeypatch.delitem(tables.VARIABLES, "NOVITA_LOG")
    with pytest.raises(ValueError, match="NOVITA_LOG"):
        tables.variables()


@pytest.mark.parametrize("kind", [Img2Img, Txt2Img])
def test_ranges_in_the_schema_are_those_of_the_rules(kind):
    checked = 0
    for name, schema in schemas.properties_of(kind, {}).items():
        attribute = attrs.fields_dict(kind)[name]
        for end, beyond in (("minimum", -1), ("maximum", 1)):
            if end in schema:
                assert rules.explain(attribute, None, schema[end]) is None, name
                assert rules.explain(attribute, None, schema[end] + beyond) is not None, name
                checked += 1
    assert checked >= 8


def test_the_schema_of_a_manifest_names_every_part_that_it_points_to():
    document = schemas.manifest()
    pointed = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(document)))
    assert pointed <= set(document["$defs"])
    assert {"Lora", "ControlNet", "Extra", "Img2Img"} <= pointed


TYPES = {"string": str, "number": (int, float), "array": list, "object": dict, "null": type(None)}


@pytest.mark.anyio
async def test_a_line_of_an_index_is_as_its_schema_says(tmp_path):
    request = Img2Img(
        model_name="any", image=sample_picture(1, (64, 64)), prompt="a dog", width=128, height=128
    )
    async with Simulation().client() as client, client.stream([request], save_to=tmp_path) as outcomes:
        async for _ in outcomes:
            pass
    schema = schemas.index()
    (line,) = (tmp_path / "novita-index.jsonl").read_text("utf-8").splitlines()
    found = json.loads(line)
    assert list(found) == schema["required"] == list(NAMES)
    for name, value in found.items():
        kinds = schema["properties"][name]["type"]
        assert any(isinstance(value, TYPES[kind]) for kind in kinds), name


def test_docstrings_become_what_autodoc_reads():
    lines = [
        "Do it with `a b` and `Img2Img`.",
        "",
        "```python",
        "run()",
        "```",
        "",
        "Args:",
        "    name: Of it.",
        "",
    ]
    assert docstrings.rewritten(lines) == [
        "Do it with ``a b`` and :py:obj:`Img2Img <novita_async.Img2Img>`.",
        "",
        "",
        ".. code-block:: python",
        "",
        "    run()",
        "",
        "",
        "",
        ":param name: Of it.",
        "",
    ]


def test_every_page_has_a_title_and_a_first_sentence():
    for page in PAGES:
        text = page.read_text("utf-8")
        title, empty, *_ = text.splitlines()
        assert title == f"# {title_of(text)}"
        assert not empty
        summary = summary_of(text)
        assert len(summary) > len("Ten minutes."), page.relative_to(DOCS)
        assert summary[0].isalpha() or summary[0] == "`", page.relative_to(DOCS)
