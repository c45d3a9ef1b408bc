"""The script that proposes changes to the table of routes from published pages."""

import pytest

from tools import routes

QWEN = """
# Qwen Image Edit

`POST https://api.ppio.com/v3/async/qwen-image-edit`

<ParamField body="prompt" type="string" required>What to make.</ParamField>
<ParamField body="image" type="string" required>The picture.</ParamField>
<ParamField body="seed" type="integer" default="-1">Range: [-1, 2147483647].</ParamField>
<ParamField body="output_format" type="string" default="jpeg">
Supported values: `jpeg`, `png`, `webp`.
</ParamField>
<ParamField body="watermark" type="boolean" default="false">A mark.</ParamField>
"""


def proposed(tmp_path, text, capsys):
    page = tmp_path / "page.md"
    page.write_text(text)
    code = routes.main([str(page)])
    return code, capsys.readouterr().out.splitlines()


def test_a_page_that_says_what_the_table_says_proposes_nothing(tmp_path, capsys):
    assert proposed(tmp_path, QWEN, capsys) == (0, ["the table says what these pages say"])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[-1, 2147483647]", "[0, 9]", "seed: is -1..2147483647 here, 0..9 there"),
        ("`webp`", "`gif`", "output_format: is png jpeg webp here, jpeg png gif there"),
        ('type="boolean"', 'type="string"', "watermark: is flag here, text there"),
        ('"watermark"', '"stamp"', "lacks stamp: flag, default false"),
        ('"watermark"', '"stamp"', "has watermark, which the page does not name"),
        ('"seed" type="integer"', '"seed" type="integer" required', "seed: is optional here, not there"),
        ("api.ppio.com", "api.novita.ai", "is described at novita, and the row has ppio, jiekou, myrouter"),
    ],
)
def test_what_differs_is_told(tmp_path, capsys, old, new, told):
    code, lines = proposed(tmp_path, QWEN.replace(old, new), capsys)
    assert code == 1
    assert f"  qwen-image-edit: {told}" in lines


def test_a_path_without_a_row_gets_a_draft_that_is_one(tmp_path, capsys):
    from novita_async import Route, RouteField, RoutePictures  # noqa: PLC0415 - the draft's names

    code, lines = proposed(tmp_path, QWEN.replace("qwen-image-edit", "qwen-image-edit-2"), capsys)
    assert code == 1
    draft = "\n".join(lines[2:]).strip().rstrip(",")
    row = eval(draft, {"Route": Route, "RouteField": RouteField, "RoutePictures": RoutePictures})  # noqa: S307
    assert (row.name, row.kind, row.answer, row.hosts) == ("qwen-image-edit-2", "edit", "task", ("ppio",))
    assert row["output_format"].choices == ("jpeg", "png", "webp")


def test_a_page_of_a_retired_route_and_a_page_without_a_route(tmp_path, capsys):
    text = "curl -X POST 'https://api.novita.ai/v3/async/txt2img' -d '{}'"
    _, lines = proposed(tmp_path, text, capsys)
    assert "  txt2img: is described, and the row calls it retired" in lines
    assert proposed(tmp_path, "# Billing", capsys)[0] == 0
