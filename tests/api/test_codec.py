"""JSON to values and back: requests strictly, answers leniently."""

import base64
import copy
import json
import pickle
from datetime import UTC, datetime
from types import MappingProxyType

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from novita_async._api import codec
from novita_async._api.converter import model_record
from novita_async._api.protocol import read_snapshot
from novita_async._http import HTTPRequest, HTTPResponse
from novita_async._util import lenient
from novita_async.errors import Flaw, InvalidRequest, NovitaError
from novita_async.models.choices import Sampler
from novita_async.models.images import ImageSource
from novita_async.models.requests import (
    AWSS3,
    AnyTask,
    CustomStorage,
    Embedding,
    EnterprisePlan,
    Extra,
    HiresFix,
    Img2Img,
    Lora,
    Refiner,
    TestMode,
    Txt2Img,
    Webhook,
    kinds,
)
from novita_async.models.results import (
    Artifact,
    GeneratedImage,
    NsfwDetection,
    Snapshot,
    TaskResult,
    Timings,
)
from novita_async.tasks import Task
from tests.helpers.payloads import filled, load, named, picture

PICTURE = picture(size=(640, 480))
B64 = base64.b64encode(PICTURE).decode()
MINIMAL = {
    "model_name": "m",
    "image_base64": B64,
    "prompt": "a dog",
    "width": 512,
    "height": 512,
    "image_num": 1,
    "steps": 20,
    "guidance_scale": 7.5,
    "sampler_name": "Euler a",
}


def document(extra=None, **request):
    body = {"request": {name: value for name, value in {**MINIMAL, **request}.items() if value is not ...}}
    return body if extra is None else {"extra": extra, **body}


def read(body, endpoint="img2img", **options):
    return codec.request_from_json(json.dumps(body), endpoint, **options)


def faults(body, endpoint="img2img", **options) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        read(body, endpoint, **options)
    return [str(fault) for fault in caught.value.faults]


def written(request):
    return json.loads(codec.request_to_json(request))


# --- There and back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*named("seed_*_request"), "docs_migration_img2img_request"])
def test_documented_img2img_requests_come_back_equal(name):
    original = filled(load(name), B64)
    request = read(original)
    assert isinstance(request, Img2Img)
    assert written(request) == original


@pytest.mark.parametrize("name", named("docs_txt2img_request_*"))
def test_documented_txt2img_requests_come_back_equal(name):
    original = load(name)
    request = read(original, "txt2img")
    assert isinstance(request, Txt2Img)
    assert written(request) == original


@pytest.mark.parametrize("name", ["docs_upscale_request", "docs_inpainting_request"])
def test_requests_to_other_endpoints_come_back_equal(name):
    original = filled(load(name), B64)
    request = read(original, "/v3/async/other")
    assert request == AnyTask(path="/v3/async/other", body=original)
    assert written(request) == original


def test_numbers_keep_their_kind():
    text = codec.request_to_json(read(document(guidance_scale=7, strength=1, seed=2**70)))
    assert '"guidance_scale":7,' in text
    assert '"strength":1}' in text
    assert f'"seed":{2**70}' in text


@given(
    prompt=st.text(min_size=1, max_size=1024).filter(str.isprintable),
    scale=st.floats(1, 30),
    seed=st.integers(-1, 2**64),
    loras=st.lists(st.builds(Lora, model_name=st.just("l"), strength=st.floats(0, 1)), max_size=5),
    level=st.none() | st.integers(0, 2),
)
def test_any_request_comes_back_equal(prompt, scale, seed, loras, level):
    request = Txt2Img(
        model_name="m",
        prompt=prompt,
        width=512,
        height=512,
        guidance_scale=scale,
        seed=seed,
        loras=loras,
        extra=Extra(nsfw_detection_level=level) if level is not None else None,
    )
    assert codec.request_from_json(codec.request_to_json(request), "txt2img") == request


def test_every_documented_field_is_written_under_its_name():
    source = ImageSource.from_bytes(PICTURE)
    request = (
        Img2Img(
            model_name="m",
            prompt="p",
            image=source,
            negative_prompt="",
            sampler_name=Sampler.DPM_PP_2M,
            seed=-1,
            clip_skip=1,
            sd_vae="v",
            strength=0,
            extra=Extra(
                response_image_type="webp",
                enable_nsfw_detection=False,
                nsfw_detection_level=0,
                webhook=Webhook(url="https://a.b/c", test_mode=TestMode()),
                custom_storage=CustomStorage(
                    aws_s3=AWSS3(region="r", bucket="b", save_to_path_directly=False)
                ),
                enterprise_plan=EnterprisePlan(),
            ),
            extra_fields={"new": {"deep": [source, 1.5]}},
        )
        .with_lora("l")
        .with_embedding("e")
        .with_controlnet("c", preprocessor="canny", guidance_start=0, guidance_end=1)
        .with_ip_adapter("i")
    )
    assert written(request) == {
        "extra": {
            "response_image_type": "webp",
            "enable_nsfw_detection": False,
            "nsfw_detection_level": 0,
            "webhook": {
                "url": "https://a.b/c",
                "test_mode": {"enabled": True, "return_task_status": "TASK_STATUS_SUCCEED"},
            },
            "custom_storage": {
                "aws_s3": {"region": "r", "bucket": "b", "path": "/", "save_to_path_directly": False}
            },
            "enterprise_plan": {"enabled": True},
        },
        "request": {
            "model_name": "m",
            "prompt": "p",
            "negative_prompt": "",
            "image_num": 1,
            "steps": 20,
            "guidance_scale": 7.5,
            "sampler_name": "DPM++ 2M",
            "seed": -1,
            "clip_skip": 1,
            "sd_vae": "v",
            "loras": [{"model_name": "l", "strength": 1.0}],
            "embeddings": [{"model_name": "e"}],
            "image_base64": B64,
            "width": 640,
            "height": 480,
            "strength": 0,
            "controlnet": {
                "units": [
                    {
                        "model_name": "c",
                        "image_base64": B64,
                        "strength": 1,
                        "preprocessor": "canny",
                        "guidance_start": 0,
                        "guidance_end": 1,
                    }
                ]
            },
            "ip_adapters": [{"model_name": "i", "image_base64": B64, "strength": 1.0}],
            "new": {"deep": [B64, 1.5]},
        },
    }


def test_unset_fields_and_an_empty_extra_are_left_out():
    request = Img2Img(model_name="m", prompt="p", image=PICTURE, extra=Extra())
    assert set(written(request)) == {"request"}
    assert set(written(request)["request"]) == {
        "model_name", "prompt", "image_num", "steps", "guidance_scale", "sampler_name", "image_base64",
        "width", "height",
    }  # fmt: skip


def test_txt2img_parts_are_written():
    request = Txt2Img(
        model_name="m",
        prompt="p",
        width=512,
        height=512,
        hires_fix=HiresFix(target_width=1024, target_height=1024, strength=0.5, upscaler="Latent"),
        refiner=Refiner(switch_at=0.7),
        restore_faces=True,
    )
    assert written(request)["request"]["hires_fix"] == {
        "target_width": 1024,
        "target_height": 1024,
        "strength": 0.5,
        "upscaler": "Latent",
    }
    assert read(written(request), "txt2img") == request


# --- The body as a recipe -----------------------------------------------------------------------------------


def test_the_body_is_text_with_pictures_between_and_knows_its_length():
    request = Img2Img(model_name="\0", prompt='"\\\0\n\u2028', image=PICTURE).with_controlnet("c")
    parts = codec.body_parts(request)
    assert [type(part) for part in parts] == [bytes, ImageSource, bytes, ImageSource, bytes]
    assert sum(len(part) for part in parts if isinstance(part, bytes)) < 600
    http = HTTPRequest(method="POST", path="/x", body=parts)
    assert http.content_length == len(codec.request_to_json(request).encode())
    assert B64[:20] not in repr(http)
    assert "<5 parts>" in repr(http)
    assert written(request)["request"]["prompt"] == '"\\\0\n\u2028'


def test_a_body_without_pictures_is_one_text():
    assert codec.body_parts(AnyTask(path="/x", body={"a": "\0"})) == (b'{"a":"\\u0000"}',)
    assert HTTPRequest(method="GET", path="/x").content_length == 0
    assert "body=None" in repr(HTTPRequest(method="GET", path="/x"))


def test_common_values_of_other_libraries_are_written():
    body = {
        "when": datetime(2026, 1, 2, tzinfo=UTC),
        "name": Sampler.DDIM,
        "lora": Lora(model_name="l"),
        "t": (1,),
    }
    assert written(AnyTask(path="/x", body=body)) == {
        "when": "2026-01-02T00:00:00Z",
        "name": "DDIM",
        "lora": {"model_name": "l", "strength": 1.0},
        "t": [1],
    }


def endless() -> list[object]:
    items: list[object] = []
    items.append(items)
    return items


@pytest.mark.parametrize(
    "value",
    [
        object(),
        endless(),
        float("nan"),
        [{"deep": float("inf")}],
        "\ud800",
        10**5000,
        MappingProxyType({"a": object()}),
        {1j: 2},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_written_as_json_is_an_invalid_request(value):
    for request in (
        AnyTask(path="/x", body={"a": value}),
        Img2Img(model_name="m", prompt="p", image=PICTURE, extra_fields={"a": value}),
    ):
        with pytest.raises(InvalidRequest) as caught:
            codec.body_parts(request)
        assert caught.value.faults[0].path == type(request).__name__


def test_a_picture_that_changed_is_not_written(tmp_path):
    path = tmp_path / "dog.png"
    path.write_bytes(PICTURE)
    request = Img2Img(model_name="m", prompt="p", image=path)
    path.write_bytes(PICTURE + b"x")
    with pytest.raises(InvalidRequest, match="has changed"):
        codec.request_to_json(request)


# --- Faults of JSON -----------------------------------------------------------------------------------------


def test_all_faults_are_named_at_once_by_their_full_paths():
    unit = {"model_name": "c", "image_base64": B64}
    body = document(
        extra={"nsfw_detection_level": 3, "webhook": {"url": "x", "test_mod": {}}, "aws": 1},
        steps=500,
        prompt=...,
        width=None,
        height=100,
        image_base64="{{Base64 encode image}}",
        controlnet={"units": [unit, {**unit, "strength": 1.4, "model_name": ...}, 5]},
        loras=[{"model_name": "l", "strength": "x"}, {}],
        ip_adapters={"model_name": "i"},
        embeddings=[None, *[{"model_name": "e"}] * 5],
        samplr_name="Euler",
        clip_skip=0,
        hires_fix={},
    )
    del body["request"]["controlnet"]["units"][1]["model_name"]
    assert faults(body) == [
        "extra.aws: no such field",
        "extra.webhook.test_mod: no such field; did you mean test_mode?",
        "extra.webhook.url: 'x' is not an absolute http or https URL",
        "extra.nsfw_detection_level: 3 is not in [0, 2]",
        "request.samplr_name: no such field; did you mean sampler_name?",
        "request.hires_fix: no such field",
        "request.prompt: is missing",
        "request.loras[0].strength: 'x' is not a number in [0, 1]",
        "request.loras[1].model_name: is missing",
        "request.embeddings[0]: None is not a JSON object",
        "request.embeddings: takes at most 5, has 6",
        "request.image_base64: '{{Base64 encode image}}' (23 characters) is not base64",
        "request.controlnet.units[1].model_name: is missing",
        "request.controlnet.units[1].strength: 1.4 is not in [0, 1]",
        "request.controlnet.units[2]: 5 is not a JSON object",
        "request.ip_adapters: {'model_name': 'i'} is not a list",
        "request.steps: 500 is not in [1, 100]",
        "request.clip_skip: 0 is not in [1, 12]",
        "request.height: 100 is not in [128, 2048]",
    ]


def test_a_size_that_does_not_follow_from_the_picture_is_named_with_the_other_faults():
    small = base64.b64encode(picture(size=(64, 64))).decode()
    size = "must be given: the picture is 64x64, which gives no size in [128, 2048]"
    body = document(image_base64=small, width=..., height=..., steps=0)
    assert faults(body) == [
        "request.steps: 0 is not in [1, 100]",
        f"request.width: {size}",
        f"request.height: {size}",
    ]


def test_rules_between_fields_hold_for_json():
    unit = {"model_name": "c", "image_base64": B64, "guidance_start": 0.7, "guidance_end": 0.2}
    assert faults(document(controlnet={"units": [unit]})) == [
        "request.controlnet.units[0].guidance_end: 0.2 is before guidance_start 0.7"
    ]
    assert faults(document(controlnet={"units": []})) == ["request.controlnet.units: needs at least 1, has 0"]
    assert faults(document(loras=[{"model_name": "l", "strength": 1}] * 6)) == [
        "request.loras: takes at most 5, has 6"
    ]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ([], "the document: [] is not a JSON object"),
        (None, "the document: None is not a JSON object"),
        ({}, "request: is missing: the fields of the request go inside it"),
        ({"request": 5}, "request: 5 is not a JSON object"),
        ({"request": None}, "request: None is not a JSON object"),
        (document(extra=5), "extra: 5 is not a JSON object"),
        (document(extra={"webhook": []}), "extra.webhook: [] is not a JSON object"),
        (document(image_base64=5), "request.image_base64: 5 is not base64 text"),
        (document(image_base64=""), "request.image_base64: is empty"),
        (document(steps=20.0), "request.steps: 20.0 is not a whole number in [1, 100]"),
        (document(steps="20"), "request.steps: '20' is not a whole number in [1, 100]"),
        (document(loras="x"), "request.loras: 'x' is not a list"),
        ({**document(), "reqest": 1}, "reqest: no such field; did you mean request?"),
        ({**document(), "": 1}, "'': no such field"),
    ],
)
def test_one_fault_of_form(body, fault):
    assert faults(body) == [fault]


def test_null_is_the_same_as_absent():
    assert read(document(extra=None, strength=None, loras=None, steps=None)) == read(document())
    assert faults(document(prompt=None)) == ["request.prompt: is missing"]


@pytest.mark.parametrize(
    "text", ["", "{", "<html>", "{'a': 1}", b"\xff\xfe", b'{"request": "\xff"}', "[" * 100_000]
)
def test_what_is_no_json_is_an_invalid_request(text):
    with pytest.raises(InvalidRequest, match="the document: is not JSON"):
        codec.request_from_json(text)


def test_a_byte_order_mark_is_no_fault():
    text = json.dumps(document()).encode("utf-8-sig")
    assert codec.request_from_json(text) == read(document())


def test_an_unknown_endpoint_is_refused():
    assert faults(document(), "img2image") == [
        f"endpoint: 'img2image' is none of {', '.join(kinds())}, nor a path"
    ]
    assert faults([], "/v3/async/x") == ["AnyTask.body: [] is not of type Mapping"]


def test_unknown_fields_are_kept_on_request_where_they_have_a_place():
    request = read(document(new=[1, None]), allow_unknown=True)
    assert request.extra_fields == {"new": [1, None]}
    assert written(request)["request"]["new"] == [1, None]
    assert faults(document(extra={"new": 1}, loras=[{"model_name": "l", "new": 1}]), allow_unknown=True) == [
        "extra.new: no such field",
        "request.loras[0].new: no such field",
    ]


def test_parsed_json_may_hold_pictures():
    source = ImageSource.from_bytes(PICTURE)
    request = codec.request_from_wire(document(image_base64=source))
    assert request.image is source
    assert read(document()) == request


def test_a_fault_shows_no_picture():
    body = document(image_base64="*" + B64, prompt=B64, x=1)
    body["request"][B64] = 5
    message = "; ".join(faults(body))
    assert len(message) < 400
    assert B64[:100] not in message


def paths(value, place=()):
    """Every place in a JSON document."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*place, key))


JUNK = st.sampled_from(
    [None, True, 0, -1, 1.5, 10**30, "", "x", "12", "{{", [], {}, [None], [[]], {"": None}, {"task": {}}]
)


def put(body, place, value):
    """A copy with another value at a place; `...` takes it out."""
    if not place:
        return value
    result = copy.deepcopy(body)
    target = result
    for key in place[:-1]:
        target = target[key]
    if value is ...:
        del target[place[-1]]
    else:
        target[place[-1]] = value
    return result


FULL = filled(load("seed_img2img_4_request"), B64)


@given(place=st.sampled_from(sorted(paths(FULL), key=str)), junk=JUNK | st.just(...))
def test_a_request_with_one_odd_value_is_read_or_refused(place, junk):
    changed = put(FULL, place, junk) if place or junk is not ... else {}
    try:
        request = codec.request_from_wire(changed)
    except InvalidRequest as refusal:
        assert all(isinstance(fault, Flaw) and fault.path and fault.message for fault in refusal.faults)
    else:
        assert written(codec.request_from_wire(written(request))) == written(request)


# --- Answers ------------------------------------------------------------------------------------------------


TASK = Task(task_id="t")


def result(**body):
    return codec.result(body, TASK)


def test_images_are_read_leniently():
    (image,) = result(
        images=[None, "x", {"image_url": "u", "image_url_ttl": "3600", "image_type": "", "new": 1}]
    ).images
    assert image == GeneratedImage(url="u", url_ttl=3600, type=None, nsfw=None)
    assert image.task is TASK


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None), ({}, None), ([], None), ("x", None), (True, None),
        ({"valid": True, "confidence": 93.7}, NsfwDetection(checked=True, confidence=93.7)),
        ({"valid": "true", "confidence": "5"}, NsfwDetection(checked=True, confidence=5)),
        ({"valid": None, "confidence": None}, None), ({"valid": False}, NsfwDetection()),
        ({"valid": True}, NsfwDetection(checked=True)),
    ],
)  # fmt: skip
def test_nsfw_results_are_read_leniently(value, expected):
    (image,) = result(images=[{"image_url": "u", "nsfw_detection_result": value}]).images
    assert image.nsfw == expected


def test_videos_and_audios_are_read_leniently():
    read = result(
        videos=[{"video_url": "u", "video_url_ttl": "0", "video_type": "mp4"}, {}, None, 5],
        audios=[{"audio_url": {"a": 1}}],
    )
    assert read.videos == (Artifact(url="u", url_ttl=0, type="mp4"),)
    assert read.videos[0].task is TASK
    assert read.audios == ()


def test_what_is_no_list_and_no_object_is_nothing():
    assert result(images="x", videos=5, extra=[]) == TaskResult(task=TASK)


def test_model_records_are_read():
    first, second = map(model_record, load("docs_models_listing")["models"])
    assert (first.id, first.type, first.available, first.is_sdxl) == (114600, "checkpoint", True, False)
    assert first.tags[:2] == ("photorealistic", "anatomical")
    assert second.api_name == "GoodHands-beta2_39807"
    assert second.download_url_ttl == 2_592_000
    assert second.source == ""


def test_odd_model_records_are_read():
    record = model_record({"sd_name": "s", "type": "lora", "status": "1", "tags": [1, "a"], "id": "5"})
    assert (record.api_name, record.type, record.available, record.tags, record.id) == (
        "s",
        "lora",
        True,
        ("a",),
        5,
    )
    empty = model_record(dict.fromkeys((f.name for f in attrs.fields(type(record))), None))
    assert empty == type(record)()


@given(text=st.binary() | st.text())
def test_anything_is_json_or_unreadable(text):
    try:
        codec.parse(text)
    except codec.Unreadable:
        pass
    else:
        json.loads(text)


def test_an_unreadable_text_is_not_an_error_of_the_public_tree():
    assert not issubclass(codec.Unreadable, NovitaError)
    for text in (b"9" * 5000, b"1e999", b"[" * 100_000, "\ud800"):
        with pytest.raises(codec.Unreadable):
            codec.parse(text)


def test_embeddings_have_no_strength():
    assert [field.name for field in attrs.fields(Embedding)] == ["model_name"]


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["3600", "0", "", " 7 ", "+7", "1e3", "1_0", "3.0", "true", "nan", "inf"]),
    st.just([]),
    st.just({}),
)
PICTURES = st.lists(
    st.fixed_dictionaries(
        {"image_url": st.just("https://host/a.png") | ODD},
        optional={
            "image_url_ttl": ODD,
            "image_type": st.just("png") | ODD,
            "nsfw_detection_result": ODD
            | st.fixed_dictionaries({}, optional={"valid": st.none() | ODD, "confidence": st.none() | ODD}),
        },
    ),
    max_size=3,
)
TIMES = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["submit_time_ms", "execute_time_ms", "complete_time_ms", "request_info"], ODD)
)
ANSWERS = st.fixed_dictionaries(
    {
        "task": st.fixed_dictionaries(
            {"status": st.sampled_from(["TASK_STATUS_SUCCEED", "TASK_STATUS_PROCESSING", "NEW", "FAILED"])},
            optional=dict.fromkeys(["task_type", "reason", "progress_percent", "eta"], ODD),
        ),
    },
    optional={
        "images": st.none() | PICTURES,
        "extra": ODD | st.fixed_dictionaries({}, optional={"seed": ODD, "debug_info": ODD | TIMES}),
        "videos": ODD,
        "audios": ODD,
    },
)


def leniently(body, task=TASK):
    about = body["task"]
    return Snapshot(
        task=task,
        status=about["status"],
        progress_percent=lenient.as_float(about.get("progress_percent")),
        eta=lenient.as_float(about.get("eta")),
        explanation=lenient.as_text(about.get("reason")),
        result=codec.result(body, task) if about["status"] == "TASK_STATUS_SUCCEED" else None,
    )


def with_image(**image):
    return {"task": {"status": "TASK_STATUS_SUCCEED"}, "images": [{"image_url": "u", **image}]}


@settings(max_examples=300)
@example(with_image(nsfw_detection_result={"confidence": 5}))
@example(with_image(nsfw_detection_result={"valid": False}))
@example(with_image(nsfw_detection_result={"valid": None, "confidence": None}))
@example(with_image(image_url="", image_type="", image_url_ttl="0"))
@example({**with_image(), "extra": {"seed": "7", "debug_info": {"submit_time_ms": "1705307755123"}}})
@example({"task": {"status": "TASK_STATUS_SUCCEED", "task_type": "", "reason": None}, "images": []})
@example(
    {
        **with_image(),
        "extra": {"debug_info": {"submit_time_ms": "", "execute_time_ms": 0, "complete_time_ms": -1}},
    }
)
@example({**with_image(), "extra": {"debug_info": {"submit_time_ms": "253402300800000"}}})
@example({**with_image(), "extra": {"seed": 0, "debug_info": None}})
@example({"task": {"status": "TASK_STATUS_PROCESSING", "progress_percent": "50", "eta": 4.5, "reason": "x"}})
@given(ANSWERS)
def test_an_answer_of_the_usual_form_is_read_quickly_to_the_same_values(body):
    text = json.dumps(body).encode()
    quickly = codec.usual_snapshot(text, TASK)
    if quickly is not None:
        assert quickly == leniently(codec.parse_leniently(text))


def test_values_that_are_read_quickly_are_those_that_their_classes_make():
    body = load("docs_txt2img_task_result_nsfw")
    seen = codec.usual_snapshot(json.dumps(body).encode(), Task(task_id=body["task"]["task_id"]))
    image = seen.result.images[0]
    for value in (seen, seen.result, seen.result.timings, image, image.nsfw):
        told = {each.name: getattr(value, each.name) for each in attrs.fields(type(value))}
        assert vars(value) == vars(type(value)(**told))


def test_times_of_a_result_are_the_same_however_it_is_passed_on():
    body = {"task": {"status": "TASK_STATUS_SUCCEED"}, "images": [{"image_url": "u"}],
            "extra": {"debug_info": {"submit_time_ms": "1705307755123", "request_info": "{}"}}}  # fmt: skip
    found = codec.usual_snapshot(json.dumps(body).encode(), TASK).result
    sent, copied = pickle.loads(pickle.dumps(found)), copy.deepcopy(found)
    told = TaskResult.from_json(found.to_json())
    time = datetime(2024, 1, 15, 8, 35, 55, 123000, tzinfo=UTC)
    for each in (sent, copied, told, attrs.evolve(found, seed=7), found):
        assert each.timings == Timings.of(submit_time=time)
        assert each.timings.submit_time == time
        assert each.request_info == "{}"
    assert found == sent == copied == told
    assert "timings=Timings(submit_time=datetime" in repr(found)


@pytest.mark.parametrize(
    "text",
    [
        b'{"task": {"status": "TASK_STATUS_SUCCEED", "eta": "NAN"}, "images": []}',
        b'{"task": {"status": "TASK_STATUS_SUCCEED", "progress_percent": "-inf"}, "images": []}',
        (
            b'{"task": {"status": "TASK_STATUS_SUCCEED"}, "images": [{"image_url": "u", '
            b'"nsfw_detection_result": {"valid": true, "confidence": "nan"}}]}'
        ),
    ],
)
def test_a_number_that_is_none_is_left_to_the_converter(text):
    assert codec.usual_snapshot(text, TASK) is None
    seen = read_snapshot(HTTPResponse(status=200, body=text), TASK)
    assert (seen.eta, seen.progress_percent) == (None, None)
    assert all(image.nsfw == NsfwDetection(checked=True) for image in seen.result.images)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": 1e999, "b": 1.5, "c": NaN}', {"a": None, "b": 1.5, "c": None}),
        (b"[-1e999, Infinity]", [None, None]),
    ],
)
def test_numbers_beyond_all_bounds_are_none_in_lenient_reading(text, value):
    assert codec.parse_leniently(text) == value


@pytest.mark.parametrize("name", [*named("seed_*_task_result"), *named("docs_*task_result_[en]*")])
def test_documented_answers_are_of_the_usual_form(name):
    task = Task(task_id=load(name)["task"]["task_id"])
    quickly = codec.usual_snapshot(json.dumps(load(name)).encode(), task)
    assert quickly == leniently(load(name), task)
    assert len(quickly.result.images) > 0


@pytest.mark.parametrize(
    "change",
    [
        {"task": {"status": ""}},
        {"task": {"status": "TASK_STATUS_FAILED"}},
        {"task": {"status": "TASK_STATUS_QUEUED", "task_id": "another"}},
        {"task": {"status": "TASK_STATUS_SUCCEED", "task_id": "another"}},
        {"videos": [{"video_url": "u"}]},
        {"images": [{"image_url": 5}]},
        {"extra": ["x"]},
        {"extra": {"debug_info": {"complete_time_ms": "soon"}}},
    ],
)
def test_an_answer_of_another_form_is_left_to_the_converter(change):
    body = {"task": {"status": "TASK_STATUS_SUCCEED"}, "images": [{"image_url": "u"}], **change}
    assert codec.usual_snapshot(json.dumps(body).encode(), TASK) is None


def test_a_number_beyond_all_numbers_spoils_no_other():
    assert codec.parse_leniently(b'{"a": NaN, "b": 1.5, "c": 1e999}') == {"a": None, "b": 1.5, "c": None}
