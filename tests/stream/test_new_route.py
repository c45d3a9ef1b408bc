"""A new route of a known shape is one row: made-up ones go through everything, and no code knows them."""

import sys
from collections import Counter

import pytest

from novita_async import EditImage, GenerateImage, InvalidRequest, Route, RouteField, RoutePictures, Succeeded
from novita_async.cli import _routes  # noqa: F401 - else it would keep a row of a test
from novita_async.cli._app import main
from novita_async.models import routes
from tests.helpers.routed import FACES, request_for
from tests.helpers.service import client_of, picture, service

pytestmark = pytest.mark.anyio

WARMTH = RouteField(name="warmth", type="integer", required=True, low=1, high=9)
PROMPT = RouteField(name="prompt", required=True, low=1)
ROWS = (
    Route(
        name="relight-9",
        kind="edit",
        path="/v3/async/relight-9",
        hosts=("novita",),
        models=("relight-9",),
        pictures=(RoutePictures(name="photo", form="data_url", is_list=True, most=2),),
        fields=(WARMTH,),
    ),
    Route(
        name="relight-form",
        kind="edit",
        path="/v4/relight/edits",
        hosts=("novita",),
        models=("relight-form",),
        body="multipart",
        model_field="engine",
        pictures=(RoutePictures(name="photo[]", form="multipart", is_list=True, most=2),),
        fields=(PROMPT, WARMTH, RouteField(name="count", type="integer", low=1, high=4)),
        counts="count",
        answer="at_once",
    ),
    Route(
        name="relight-nested",
        kind="edit",
        path="/gemini/v9/models/{model}:paint",
        hosts=("novita",),
        models=("relight-nested",),
        body="gemini",
        pictures=(RoutePictures(name="inlineData", is_list=True),),
        fields=(
            PROMPT,
            RouteField(name="warmth", type="integer", low=1, high=9, place="config.light.warmth"),
        ),
        answer="at_once",
    ),
    Route(
        name="sunrise",
        kind="generate",
        path="/v3/sunrise",
        hosts=("novita",),
        models=("sunrise",),
        fields=(PROMPT, WARMTH),
        answer="either",
    ),
)


@pytest.fixture(params=ROWS, ids=lambda row: row.name)
def row(request, monkeypatch):
    """A row that was added to the table."""
    table = (*routes.ROUTES, request.param)
    for module in tuple(sys.modules.values()):
        if getattr(module, "ROUTES", None) is routes.ROUTES and module is not routes:
            monkeypatch.setattr(module, "ROUTES", table)
    monkeypatch.setattr(routes, "ROUTES", table)
    routes._by_path.cache_clear()
    yield request.param
    routes._by_path.cache_clear()


def quick():
    return service(plain_pictures=True, routes=routes.ROUTES)


def asked(row, **options):
    wanted = request_for(row, options={"warmth": 3, **options})
    assert wanted.row is row
    return wanted


async def test_a_new_row_is_found_by_its_model_run_streamed_and_bought_once_by_a_batch(row, tmp_path):
    simulation = quick()
    many = {row.counts: 2} if row.counts else {}
    for _ in range(2):
        async with client_of(simulation) as (client, _):
            assert row in client.routes()
            assert await client.fetch((await client.run(asked(row))).images[0])
            async with client.batch(
                [asked(row, **many), asked(row)], journal=tmp_path / "run.db", save_to=tmp_path / "out"
            ) as outcomes:
                found = [outcome async for outcome in outcomes]
        assert {type(outcome) for outcome in found} == {Succeeded}
        assert [
            len(outcome.paths) for outcome in sorted(found, key=lambda each: -each.request.image_num)
        ] == [
            2 if many else 1,
            1,
        ]
    assert Counter(entry.endpoint for entry in simulation.ledger.accepted) == {
        row.path_for(row.models[0]): 4  # the second batch has bought nothing
    }


async def test_a_new_row_s_fields_are_checked_before_anything_is_bought(row):
    with pytest.raises(InvalidRequest, match=r"options: warmth: 10 is not in \[1, 9\]"):
        asked(row, warmth=10)
    with pytest.raises(InvalidRequest, match=r"options: warmht: no such field; did you mean warmth\?"):
        asked(row, warmht=1)
    if row.pictures:
        with pytest.raises(InvalidRequest, match=f"images: {row.name} takes at most"):
            request_for(row, images=[picture()] * 2, options={"warmth": 3})


def test_a_new_row_is_listed_and_told_by_the_command_line(row, capsys):
    assert main(["routes", row.models[0]]) == 0
    told = capsys.readouterr().out
    assert f"POST {row.path}" in told
    assert "warmth: integer" in told


def test_a_new_row_is_of_a_kind_that_a_face_has(row):
    assert FACES[row.kind] in (EditImage, GenerateImage)
