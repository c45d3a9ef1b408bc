"""Faces: a model finds its route, and every value is checked against it before anything is paid."""

import json

import pytest

from novita_async import (
    AnimateImage,
    AnyTask,
    EditImage,
    GenerateImage,
    InvalidRequest,
    Route,
    RouteField,
    RoutePictures,
    request_from_json,
    request_to_json,
)
from novita_async._api import codec
from novita_async._journal.identity import order_of, request_of
from novita_async.models.faces import face_for
from tests.helpers.payloads import picture, png

DOG = picture()
GIF = b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"
OWN = Route(
    name="mine",
    kind="edit",
    path="/v3/mine",
    hosts=("ppio",),
    pictures=(RoutePictures(name="photo", max_bytes=100, required=False),),
    fields=(RouteField(name="glow", type="number", low=0, high=1, required=True),),
    webhook="extra.webhook.url",
)


def edit(**changes):
    return EditImage(**{"model": "qwen-image-edit", "image": DOG, "prompt": "p"} | changes)


def body(request, callback=None):
    text = b"".join(
        part if isinstance(part, bytes) else b"<picture>" for part in codec.body_parts(request, callback)
    )
    return json.loads(text)


def fields(request):
    return [
        (part.name, part.content if isinstance(part.content, bytes) else part.filename)
        for part in codec.form_parts(request)
    ]


# --- Bodies -------------------------------------------------------------------------------------------------


def test_a_flat_route_gets_its_picture_as_base64():
    request = edit(seed=3, output_format="png", options={"watermark": True})
    assert request.path == "/v3/async/qwen-image-edit"
    assert body(request) == {
        "prompt": "p",
        "seed": 3,
        "output_format": "png",
        "watermark": True,
        "image": "<picture>",
    }


def test_a_route_of_data_urls_gets_a_list_of_them_and_of_addresses():
    request = EditImage(
        model="seedream-4.5",
        image=DOG,
        images=["https://pictures.example/2.png"],
        prompt="p",
        options={"max_images": 3},
    )
    assert body(request)["image"] == ["data:image/png;base64,<picture>", "https://pictures.example/2.png"]
    assert body(request)["sequential_image_generation_options"] == {"max_images": 3}
    assert request.image_num == 3
    assert [each.size for each in request.pictures] == [len(DOG)]


def test_a_multipart_route_gets_a_field_for_each_value_and_a_file_for_each_picture(tmp_path):
    (tmp_path / "Café dog.jpg").write_bytes(DOG)
    request = EditImage(
        model="gpt-image-2", image=tmp_path / "Café dog.jpg", images=[DOG], mask=DOG, prompt="p", n=2
    )
    assert request.is_form
    assert fields(request) == [
        ("model", b"gpt-image-2"),
        ("prompt", b"p"),
        ("n", b"2"),
        ("image[]", "Café dog.png"),
        ("image[]", "image-2.png"),
        ("mask", "mask-1.png"),
    ]
    assert codec.form_parts(request)[3].content_type == "image/png"


def test_google_s_route_gets_its_nested_body():
    request = EditImage(model="gemini-3-pro-image", image=DOG, prompt="p", size="2K", seed=None)
    assert request.path == "/gemini/v1/models/gemini-3-pro-image:generateContent"
    assert body(request) == {
        "contents": [
            {
                "role": "user",
                "parts": [{"text": "p"}, {"inlineData": {"mimeType": "image/png", "data": "<picture>"}}],
            }
        ],
        "generationConfig": {"imageConfig": {"imageSize": "2K"}},
    }


def test_a_callback_goes_where_the_route_has_a_place_for_one():
    video = AnimateImage(model="any", route="video-create", image=DOG, options={"fps": 24})
    assert video.takes_callback
    assert body(video, "https://me.example/cb") == {
        "model": "any",
        "fps": 24,
        "image": "<picture>",
        "callback": "https://me.example/cb",
    }
    assert not AnimateImage(
        model="any", route="video-create", options={"callback": "https://me.example"}
    ).takes_callback
    assert not edit().takes_callback
    mine = EditImage(model="m", route=OWN, options={"glow": 0.5})
    assert body(mine, "https://me.example/cb") == {
        "glow": 0.5,
        "extra": {"webhook": {"url": "https://me.example/cb"}},
    }


def test_a_body_written_by_hand_has_a_place_for_a_callback_where_its_route_or_its_user_says():
    def sent(**fields):
        request = AnyTask(**({"body": {"model": "m"}} | fields))
        return body(request, "https://me.example/cb") if request.takes_callback else None

    url = "https://me.example/cb"
    assert sent(path="/v3/video/create") == {"model": "m", "callback": url}
    assert sent(path="/v3/new", webhook="callback") == {"model": "m", "callback": url}
    assert sent(path="/v3/new", webhook="extra.webhook.url") == {
        "model": "m",
        "extra": {"webhook": {"url": url}},
    }
    assert sent(path="/v3/new") is None
    assert sent(path="/v3/video/create", webhook="") is None
    assert sent(path="/v3/video/create", body={"callback": "https://mine.example"}) is None
    assert sent(path="/v3/new", webhook="callback", is_form=True) is None


OTHERWISE = "another one needs route=Route(…)"
MEANT = "no such field; did you mean watermark?"
TAKES = "it takes prompt, seed, output_format, watermark"
NO_ROUTE = "the table of routes has no 'mine'; novita-async routes lists all"
CONVERT = "the API takes PNG, JPEG and WebP: convert it first"
SIZE = f"{len(DOG):,} bytes"


# --- Faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "faults"),
    [
        (
            lambda: EditImage(model="gpt-image-3", image=DOG, prompt="p"),
            [f"EditImage.model: no route here knows 'gpt-image-3'; did you mean gpt-image-2?; {OTHERWISE}"],
        ),
        (lambda: edit(model=5), ["EditImage.model: 5 is not text"]),
        (
            lambda: edit(prompt=None, seed=1 << 40, n=2, image=None, options={"watermrk": 1, "n": 1}),
            [
                "EditImage.prompt: is missing",
                "EditImage.seed: 1099511627776 is not in [-1, 2147483647]",
                f"EditImage.options: watermrk: {MEANT}; n: no such field; {TAKES}; n: has a field of its own",
                "EditImage.image: is missing",
                f"EditImage.n: qwen-image-edit has no such field; {TAKES}",
            ],
        ),
        (lambda: edit(image="nope.png"), ["EditImage.image: nope.png: no such file or directory"]),
        (lambda: edit(images=[DOG]), ["EditImage.images: qwen-image-edit takes at most 1, has 2"]),
        (lambda: edit(mask=DOG), ["EditImage.mask: qwen-image-edit takes no mask"]),
        (lambda: edit(options=5), ["EditImage.options: 5 is not a mapping"]),
        (lambda: edit(route="mine"), [f"EditImage.route: {NO_ROUTE}"]),
        (lambda: edit(route=5), ["EditImage.route: 5 is not a Route"]),
        (lambda: edit(image=GIF), [f"EditImage.image: is GIF; {CONVERT}"]),
        (
            lambda: EditImage(model="gpt-image-2", image="https://pictures.example/1.png", prompt="p"),
            ["EditImage.image: this route takes pictures, not their addresses: download it first"],
        ),
        (
            lambda: EditImage(model="m", route=OWN, image=DOG, options={}),
            ["EditImage.options: glow: is missing", f"EditImage.image: has {SIZE}, above the limit of 100"],
        ),
        (
            lambda: EditImage(model="gpt-image-2", image=DOG, mask=picture(kind="jpeg"), prompt="p"),
            ["EditImage.mask: is JPEG; the API takes PNG: convert it first"],
        ),
        (
            lambda: GenerateImage(model="seedream-4.5", prompt="p", size="64x64"),
            ["GenerateImage.size: 64x64: 4,096 pixels are below 3,686,400; or one of 2K, 4K"],
        ),
        (
            lambda: AnimateImage(model="kling-v3.0-pro-i2v", image=DOG, duration=99),
            ["AnimateImage.duration: 99 is not in [3, 15]"],
        ),
        (lambda: edit(images=5), ["EditImage.images: 5 is not a picture"]),
        (lambda: edit(image=[DOG]), None),
    ],
)  # fmt: skip
def test_every_fault_is_named(make, faults):
    with pytest.raises(InvalidRequest) as raised:
        make()
    if faults is not None:
        assert [str(fault) for fault in raised.value.faults] == faults


def test_a_gif_is_taken_where_the_route_takes_it():
    assert EditImage(model="seedream-4.5", image=GIF, prompt="p").pictures[0].format == "gif"


def test_a_large_picture_is_taken_where_the_route_takes_it():
    large = png(64, 64) + bytes(11 * 1024 * 1024)
    assert EditImage(model="image-upscaler", image=large).pictures[0].size > 11_000_000
    with pytest.raises(InvalidRequest, match="above the limit of 10,485,760"):
        edit(image=large)


# --- As values ----------------------------------------------------------------------------------------------


def test_a_sweep_varies_whatever_field():
    made = list(edit().sweep(seed=[1, 2], image=[DOG, picture(size=(8, 8))]))
    assert [request.seed for request in made] == [1, 1, 2, 2]
    assert len({request.image.data for request in made}) == 2
    with pytest.raises(InvalidRequest, match=r"EditImage\.sede: no such field"):
        edit().sweep(sede=[1])


def test_options_build_on_each_other():
    request = edit().with_options(watermark=True)
    assert request.options == {"watermark": True}
    assert edit() == edit()
    assert hash(edit())


@pytest.mark.parametrize(
    "request_",
    [
        edit(seed=4, options={"watermark": True}),
        EditImage(model="seedream-4.5", image=DOG, images=["https://a.example/b.png", DOG], prompt="p"),
        EditImage(model="gpt-image-2", image=DOG, mask=DOG, prompt="p", quality="low"),
        EditImage(model="m", route=OWN, options={"glow": 1}),
        GenerateImage(model="gemini-3-pro-image", prompt="p"),
        AnimateImage(model="kling-v3.0-4k-i2v", image=DOG, end_image=DOG, aspect_ratio="16:9"),
        AnimateImage(model="any", route="video-create", image=DOG, options={"fps": 24}),
    ],
    ids=lambda request: request.model,
)
def test_a_journal_s_row_makes_a_face_again(request_):
    order = order_of(request_, endpoint=request_.path, position=0, digest=lambda source: source.digest())
    sources = {source.digest(): source for source in request_.pictures}
    assert request_of(order, lambda digest, _: sources[digest]) == request_
    assert order.kind == request_.kind


def test_models_and_routes_tell_requests_apart_and_a_new_path_does_not():
    def key(request):
        return order_of(request, endpoint=request.path, position=0, digest=lambda _: "d" * 64).key

    assert key(edit()) == key(edit())
    upscaler = EditImage(model="image-upscaler", image=DOG)
    background = EditImage(model="image-remove-background", image=DOG)
    assert len({key(edit()), key(edit(seed=1)), key(upscaler), key(background)}) == 4


def test_json_is_read_with_the_route_s_own_fields_beside_those_of_the_face():
    text = request_to_json(edit())
    picture_text = json.loads(text)["image"]
    read = request_from_json(
        json.dumps({"model": "qwen-image-edit", "prompt": "p", "image": picture_text, "watermark": True}),
        "edit",
    )
    assert read == edit(options={"watermark": True})
    with pytest.raises(InvalidRequest) as raised:
        request_from_json('{"model": "qwen-image-edit", "promt": "x", "images": 5, "route": "none"}', "edit")
    assert [str(fault) for fault in raised.value.faults] == [
        "images: 5 is not a list",
        "route: the table of routes has no 'none'; novita-async routes lists all",
    ]


def test_a_model_that_does_several_things_is_asked_by_what_is_given():
    assert face_for("gpt-image-2", has_picture=True) == "edit"
    assert face_for("gpt-image-2", has_picture=False) == "generate"
    assert face_for("kling-v3.0-pro-i2v", has_picture=False) == "animate"
    assert face_for("unknown", has_picture=True) == "edit"
