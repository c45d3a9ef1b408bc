"""The table of routes: every row says what is known, and means what it says."""

import re
from datetime import date

import pytest

from novita_async import Host, Img2Img, RouteField, SizeRange, Txt2Img
from novita_async.models import routes
from novita_async.models.hosts import KNOWN_NAMES
from novita_async.models.requests import kinds
from novita_async.models.routes import IMG2IMG, ROUTES, TXT2IMG, Route, living_like, models_of, route_of

FACES = {kind: cls for kind, cls in kinds().items() if cls.is_face}


def named(rows):
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


@named(ROUTES)
def test_each_row_says_where_it_is_served_and_where_its_facts_are_from(row):
    assert row.hosts
    assert set(row.hosts) <= KNOWN_NAMES
    assert date.fromisoformat(row.checked_on) <= date(2026, 12, 31)
    assert len(row.source) > 10
    assert re.fullmatch(r"/[\w./{}:-]+", row.path)


@named(ROUTES)
def test_the_words_of_a_row_fit_together(row):
    names = [each.name for each in (*row.fields, *row.pictures)]
    assert len(set(names)) == len(names)
    assert row.counts == "" or row.field_named(row.counts).type == "integer"
    assert (row.body == "multipart") is any(each.form == "multipart" for each in row.pictures)
    assert (row.answer_timeout > 120) is (row.answer == "at_once" and row.status != "retired")
    assert ("{model}" in row.path) <= bool(row.models)
    assert len({each.role for each in row.pictures}) == len(row.pictures)


@pytest.mark.parametrize("face", FACES)
def test_a_model_finds_one_row_of_a_face(face):
    cls = FACES[face]
    for model in models_of(cls.route_kinds):
        rows = [row for row in ROUTES if model in row.models and row.kind in cls.route_kinds]
        assert rows == [route_of(model, cls.route_kinds)]


def test_every_kind_of_route_has_a_face():
    assert {row.kind for row in ROUTES} == {kind for cls in FACES.values() for kind in cls.route_kinds}


def test_names_of_rows_are_unique():
    assert len({row.name for row in ROUTES}) == len(ROUTES)
    assert routes.route_called("img2img") is IMG2IMG
    assert routes.route_called("img3img") is None


def test_the_older_classes_are_rows_of_the_table():
    assert (Img2Img.endpoint, Txt2Img.endpoint) == (IMG2IMG.path, TXT2IMG.path)
    assert routes.routes_at(Img2Img.endpoint) == (IMG2IMG,)
    assert routes.routes_at("/v3/async/unknown") == ()
    for row, cls in ((IMG2IMG, Img2Img), (TXT2IMG, Txt2Img)):
        known = {each.name for each in (*row.fields, *row.pictures)} - {"image_base64"}
        own = {each.name for each in cls.__attrs_attrs__} - {
            "image",
            "extra",
            "extra_fields",
            "tag",
            "metadata",
        }
        assert known == own


def test_routes_that_live_are_named_to_those_that_find_another_of_their_kind_gone():
    living = living_like(IMG2IMG.path)
    assert IMG2IMG not in living
    assert {row.kind for row in living} == {"edit"}
    assert "retired" not in {row.status for row in living}
    assert living_like("/v3/async/unknown") == ()


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ("1024x1024", None),
        ("auto", None),
        ("3840x2160", None),
        ("1536x512", None),
        ("1024*1024", "'1024*1024' is not a size such as 1024x1024; or one of auto"),
        ("1000x1024", "1000x1024: both sides must be multiples of 16; or one of auto"),
        ("3840x3840", "3840x3840: 14,745,600 pixels are above 8,294,400; or one of auto"),
        ("4096x1024", "4096x1024: a side is above 3840; or one of auto"),
        ("1600x512", "1600x512: the longer side is more than 3 times the shorter one; or one of auto"),
        (5, "5 is not a size such as 1024x1024; or one of auto"),
    ],
)
def test_a_size_is_held_against_its_range(size, why):
    assert route_of("gpt-image-2", ("edit",))["size"].explain(size) == why


def test_a_size_can_be_too_small():
    seedream = route_of("seedream-4.5", ("edit",))["size"]
    assert (
        seedream.explain("1024x1024") == "1024x1024: 1,048,576 pixels are below 3,686,400; or one of 2K, 4K"
    )
    assert SizeRange(low_side=256).explain("128x512") == "128x512: a side is below 256"
    assert str(SizeRange()) == "WxH"


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (RouteField(name="n", type="integer", low=1, high=4), 5, "5 is not in [1, 4]"),
        (RouteField(name="n", type="integer", low=1), 0, "0 is not 1 or above"),
        (RouteField(name="n", type="number", low=0), float("inf"), None),
        (RouteField(name="n", type="number", low=0, high=1), True, "True is not a number in [0, 1]"),
        (RouteField(name="n", type="flag"), 1, "1 is not True or False"),
        (RouteField(name="n", choices=("a", "b")), "c", "'c' is none of a, b"),
        (RouteField(name="n", choices=(0, 1)), True, "True is none of 0, 1"),
        (RouteField(name="n", type="object"), [], "[] is not an object"),
        (RouteField(name="n", type="list"), {}, "{} is not a list"),
        (RouteField(name="n", low=1, high=3), "four", "4 characters are not in [1, 3]"),
    ],
)
def test_a_field_says_what_is_wrong_with_a_value(field, value, why):
    assert field.explain(value) == why


def test_a_range_is_told_in_words():
    assert RouteField(name="n", type="integer", low=1, high=4).range == "1..4"
    assert RouteField(name="n", type="number", low=0.5).range == "0.5.."
    assert RouteField(name="n", choices=("a", "b")).range == "a b"
    assert RouteField(name="n").range == ""
    limits = SizeRange(multiple_of=16, high_side=64, high_pixels=4096, ratio=2)
    assert RouteField(name="size", choices=("auto",), size=limits).range == (
        "auto WxH (multiples of 16, sides 1 to 64, 1 to 4,096 pixels, ratio up to 2)"
    )


def test_a_route_can_be_written_by_hand():
    route = Route(name="mine", kind="edit", path="/v3/{model}", fields=[RouteField(name="a")])
    assert route.path_for("x") == "/v3/x"
    assert route.fields == (RouteField(name="a"),)
    with pytest.raises(ValueError, match="is not a path that starts with '/'"):
        Route(name="mine", kind="edit", path="v3")


def test_the_hosts_are_those_of_the_provider_and_its_sisters():
    assert {host.base_url for host in (Host.NOVITA, Host.PPIO, Host.JIEKOU, Host.MYROUTER)} == {
        "https://api.novita.ai",
        "https://api.ppio.com",
        "https://api.jiekou.ai",
        "https://api.myrouter.ai",
    }
