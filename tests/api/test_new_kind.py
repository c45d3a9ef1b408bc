"""A new kind of request is one class: a made-up one goes through everything, and nothing else knows of it."""

import json
from typing import ClassVar

import attrs
import pytest
from attrs import field, frozen

from novita_async import Endpoints, Extra, ImageSource, InvalidRequest, NovitaRequest, Succeeded, Webhook
from novita_async._api import codec, protocol
from novita_async._journal import identity
from novita_async.cli._manifest import Recipe
from novita_async.models import requests as models
from novita_async.models.requests import AnyTask, Img2Img, Txt2Img, measured
from tests.helpers.payloads import picture
from tests.helpers.service import client_of, service

pytestmark = pytest.mark.anyio

PATH = "/v3/async/relight"
OWN = list(models.kinds())


@pytest.fixture
def relight(monkeypatch):
    """A flat request with a picture under a name of its own, and its own word for the number of images."""
    monkeypatch.setattr(models, "_KINDS", dict(models._KINDS))

    @frozen(kw_only=True)
    class Relight(NovitaRequest):
        kind: ClassVar[str] = "relight"
        endpoint: ClassVar[str] = PATH
        wrapped: ClassVar[bool] = False
        takes_extra: ClassVar[bool] = True

        image: ImageSource = field(converter=measured, metadata={"wire": "image_file"})
        prompt: str = "warm light"
        image_num: int = field(default=1, metadata={"wire": "num_images"})
        extra: Extra | None = None

    return Relight


def made(relight, **changes):
    return relight(image=picture(), **({"image_num": 2} | changes))


def test_a_new_class_is_known_by_its_kind(relight):
    assert models.kinds()["relight"] is relight
    assert list(models.kinds()) == [*OWN, "relight"]


def test_its_body_has_the_form_that_the_class_says(relight):
    body = json.loads(codec.request_to_json(made(relight)))
    assert body.keys() == {"image_file", "prompt", "num_images"}
    with_extra = json.loads(codec.request_to_json(made(relight, extra=Extra(response_image_type="webp"))))
    assert with_extra["extra"] == {"response_image_type": "webp"}


def test_it_is_submitted_to_its_endpoint_with_a_callback_where_there_is_a_place(relight):
    request = made(relight)
    http = protocol.submission(request, Endpoints(), "https://me.example/cb")
    assert http.path == PATH
    assert request.takes_callback
    assert b'"extra":{"webhook":{"url":"https://me.example/cb"}}' in http.body[-1] + http.body[0]
    assert not made(relight, extra=Extra(webhook=Webhook(url="https://mine.example"))).takes_callback
    moved = Endpoints(others={"relight": "/v3/async/relight-2"})
    assert protocol.submission(request, moved).path == "/v3/async/relight-2"


def test_it_is_read_strictly_and_every_fault_is_named_as_the_json_is(relight):
    request = made(relight, extra=Extra(response_image_type="webp"))
    assert codec.request_from_json(codec.request_to_json(request), "relight") == request
    with pytest.raises(
        InvalidRequest, match=r"^promt: no such field; did you mean prompt\?; image_file: is missing$"
    ):
        codec.request_from_json('{"promt": "x"}', "relight")
    with pytest.raises(
        InvalidRequest,
        match=f"'relit' is none of {', '.join(OWN)}, relight, nor a path",
    ):
        codec.request_from_json("{}", "relit")


async def test_it_is_bought_watched_and_made(relight):
    simulation = service(other_tasks=(PATH,))
    async with client_of(simulation) as (client, _), client.stream([made(relight)]) as outcomes:
        (outcome,) = [outcome async for outcome in outcomes]
    assert isinstance(outcome, Succeeded)
    assert len(outcome.result.images) == 2
    (entry,) = simulation.ledger.accepted
    assert entry.endpoint == PATH


async def test_a_batch_keeps_it_in_its_journal_and_buys_it_once(relight, tmp_path):
    simulation = service(other_tasks=(PATH,))
    for _ in range(2):
        async with client_of(simulation) as (client, _):
            async with client.batch([made(relight)], journal=tmp_path / "run.db") as outcomes:
                (outcome,) = [outcome async for outcome in outcomes]
        assert isinstance(outcome, Succeeded)
    assert len(simulation.ledger.accepted) == 1


def test_its_row_makes_it_again(relight):
    request = made(relight)
    row = identity.order_of(request, endpoint=PATH, position=0, digest=lambda _: "d" * 64)
    assert (row.kind, row.images) == ("relight", 2)
    assert identity.request_of(row, lambda _, __: request.image) == request


def test_a_manifest_can_name_it(relight, tmp_path):
    (tmp_path / "dog.png").write_bytes(picture())
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(
        '{"endpoint": "relight", "image": "dog.png", "num_images": 3}\n{"endpoint": "relight"}\n'
    )
    shared = {"request": {"prompt": "cold light", "steps": 30}}
    good, bad = Recipe(inputs=[manifest], shared=shared, axes={}).read()
    assert good.request == relight(image=tmp_path / "dog.png", prompt="cold light", image_num=3)
    assert [str(fault) for fault in bad.faults] == [f"{manifest} line 2: image_file: is missing"]


# --- Facts of the kinds there are ---------------------------------------------------------------------------


def test_the_kinds_say_what_others_need_to_know():
    assert (models.kinds()["img2img"], models.kinds()["txt2img"]) == (Img2Img, Txt2Img)
    dog = ImageSource.of(picture())
    other = AnyTask(path="/v3/async/upscale", body={"a": [{"b": dog}, 1], "c": dog}, image_num=3)
    assert (other.path, other.pictures, other.image_num, other.work) == (
        "/v3/async/upscale",
        (dog, dog),
        3,
        None,
    )
    assert not other.takes_callback
    plain = Txt2Img(model_name="m", prompt="p", width=512, height=512)
    assert (plain.kind, plain.pictures, plain.path) == ("txt2img", (), "")


def test_a_request_without_anything_of_its_own_asks_for_one_image():
    @attrs.frozen
    class Bare(NovitaRequest):
        pass

    bare = Bare()
    assert (bare.image_num, bare.pictures, bare.work, bare.extra) == (1, (), None, None)
    assert bare.document(lambda _: {}) == {"request": {}}


def test_a_kind_of_the_name_of_another_path_goes_to_its_own(monkeypatch):
    monkeypatch.setattr(models, "_KINDS", dict(models._KINDS))

    @attrs.frozen
    class Balance(NovitaRequest):
        kind: ClassVar[str] = "balance"
        endpoint: ClassVar[str] = "/v3/async/balance"

    assert Endpoints().path_of(Balance()) == "/v3/async/balance"
