"""Requests as values: what they refuse, what they fill in, how they build on each other."""

import io
import itertools
import pickle
import warnings
from enum import IntEnum

import attrs
import PIL.Image
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from novita_async.errors import ConfigurationError, Flaw, InvalidRequest, NovitaWarning
from novita_async.models import _rules as rules
from novita_async.models import choices
from novita_async.models.endpoints import Endpoints
from novita_async.models.images import ImageSource
from novita_async.models.requests import (
    AWSS3,
    AnyTask,
    ControlNet,
    ControlNetUnit,
    CustomStorage,
    Embedding,
    EnterprisePlan,
    Extra,
    HiresFix,
    Img2Img,
    IPAdapter,
    Lora,
    Refiner,
    TestMode,
    Txt2Img,
    Webhook,
)
from tests.helpers.payloads import picture, png

DOG = ImageSource.from_bytes(picture(size=(640, 480)))


def img2img(**fields):
    return Img2Img(**{"model_name": "m.safetensors", "prompt": "a dog", "image": DOG, **fields})


def txt2img(**fields):
    base = {"model_name": "m.safetensors", "prompt": "a dog", "width": 512, "height": 512}
    return Txt2Img(**{**base, **fields})


def unit(**fields):
    return ControlNetUnit(**{"model_name": "c", "image": DOG, **fields})


def adapter(**fields):
    return IPAdapter(**{"model_name": "a", "image": DOG, **fields})


def s3(**fields):
    return AWSS3(**{"region": "us-east-2", "bucket": "b", **fields})


def faults(make, **fields) -> tuple[Flaw, ...]:
    with pytest.raises(InvalidRequest) as caught:
        make(**fields)
    return caught.value.faults


# --- One wrong value names class, field, value and range ----------------------------------------------------

NAN, INFINITY = float("nan"), float("inf")

RANGES = [
    (img2img, "image_num", 1, 8, int),
    (img2img, "steps", 1, 100, int),
    (img2img, "guidance_scale", 1, 30, float),
    (lambda **f: img2img(image=png(64, 64), **f), "width", 128, 2048, int),
    (lambda **f: img2img(image=png(64, 64), **f), "height", 128, 2048, int),
    (img2img, "clip_skip", 1, 12, int),
    (img2img, "strength", 0, 1, float),
    (txt2img, "width", 128, 2048, int),
    (txt2img, "height", 128, 2048, int),
    (txt2img, "clip_skip", 0, 12, int),
    (lambda **f: Lora(**{"model_name": "l", **f}), "strength", 0, 1, float),
    (unit, "strength", 0, 1, float),
    (unit, "guidance_start", 0, 1, float),
    (unit, "guidance_end", 0, 1, float),
    (adapter, "strength", 0, 1, float),
    (Extra, "nsfw_detection_level", 0, 2, int),
    (
        lambda **f: HiresFix(**{"target_width": 512, "target_height": 512, "strength": 1, **f}),
        "strength",
        0,
        1,
        float,
    ),
    (lambda **f: HiresFix(**{"target_height": 512, "strength": 1, **f}), "target_width", 128, 4096, int),
    (lambda **f: HiresFix(**{"target_width": 512, "strength": 1, **f}), "target_height", 128, 4096, int),
    (Refiner, "switch_at", 0, 1, float),
]


@pytest.mark.parametrize(("make", "name", "low", "high", "kind"), RANGES)
def test_a_range_includes_its_ends_and_nothing_outside(make, name, low, high, kind):
    for value in (low, high, *((low + high) / 2,) * (kind is float)):
        assert getattr(make(**{name: value}), name) == value
    step = 1 if kind is int else 1e-9
    for value in (low - step, high + step, 10**400, -(10**5000)):
        (fault,) = faults(make, **{name: value})
        assert fault.path.endswith(f".{name}")
        assert fault.message.endswith(f" is not in [{low}, {high}]")


@pytest.mark.parametrize(("make", "name", "low", "high", "kind"), RANGES)
def test_what_is_no_number_is_refused_as_such(make, name, low, high, kind):
    for value in ("5", True, b"5", [5], 5j, object()):
        (fault,) = faults(make, **{name: value})
        assert "is not a" in fault.message
        assert fault.message.endswith(f"number in [{low}, {high}]")
    if kind is int:
        (fault,) = faults(make, **{name: float(low)})
        assert fault.message == f"{float(low)} is not a whole number in [{low}, {high}]"
    else:
        for value in (NAN, INFINITY, -INFINITY):
            (fault,) = faults(make, **{name: value})
            assert fault.message == f"{value} is not in [{low}, {high}]"


def test_the_message_is_the_documented_one():
    with pytest.raises(InvalidRequest) as caught:
        unit(strength=1.4)
    assert str(caught.value) == "ControlNetUnit.strength: 1.4 is not in [0, 1]"


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (img2img, "model_name"),
        (img2img, "sampler_name"),
        (img2img, "sd_vae"),
        (Lora, "model_name"),
        (Embedding, "model_name"),
        (unit, "model_name"),
        (unit, "preprocessor"),
        (adapter, "model_name"),
        (Extra, "response_image_type"),
        (s3, "region"),
        (s3, "bucket"),
        (s3, "path"),
        (TestMode, "return_task_status"),
        (lambda **f: HiresFix(target_width=512, target_height=512, strength=1, **f), "upscaler"),
    ],
)
def test_names_are_open_but_are_text(make, name):
    assert getattr(make(**{name: "a name of next year ñ"}), name) == "a name of next year ñ"
    assert faults(make, **{name: ""})[0].message == "must not be empty"
    assert faults(make, **{name: 5})[0].message == "5 is not text"
    assert "UTF-8" in faults(make, **{name: "\ud800"})[0].message


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_prompts_are_measured_in_code_points(name):
    assert getattr(img2img(**{name: "🐕" * 1024}), name)
    (fault,) = faults(img2img, **{name: "🐕" * 1025})
    assert fault == Flaw(f"Img2Img.{name}", f"1025 characters are not in [{int(name == 'prompt')}, 1024]")


def test_only_the_negative_prompt_may_be_empty():
    assert img2img(negative_prompt="").negative_prompt == ""
    assert faults(img2img, prompt="") == (Flaw("Img2Img.prompt", "0 characters are not in [1, 1024]"),)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (TestMode, "enabled"),
        (EnterprisePlan, "enabled"),
        (Extra, "enable_nsfw_detection"),
        (s3, "save_to_path_directly"),
        (txt2img, "restore_faces"),
        (txt2img, "enable_transparent_background"),
    ],
)
def test_flags_are_true_or_false(make, name):
    assert getattr(make(**{name: False}), name) is False
    assert faults(make, **{name: 1})[0].message == "1 is not True or False"


@pytest.mark.parametrize(
    ("make", "name", "kind"),
    [
        (img2img, "extra", "Extra"),
        (img2img, "controlnet", "ControlNet"),
        (txt2img, "hires_fix", "HiresFix"),
        (txt2img, "refiner", "Refiner"),
        (Extra, "webhook", "Webhook"),
        (Extra, "custom_storage", "CustomStorage"),
        (Extra, "enterprise_plan", "EnterprisePlan"),
        (CustomStorage, "aws_s3", "AWSS3"),
        (lambda **f: Webhook(url="https://x.y", **f), "test_mode", "TestMode"),
        (lambda **f: AnyTask(path="/x", **f), "body", "Mapping"),
    ],
)
def test_parts_are_of_their_class(make, name, kind):
    assert faults(make, **{name: [1]})[0].message == f"[1] is not of type {kind}"


@pytest.mark.parametrize(
    ("name", "items", "most"),
    [
        ("loras", [Lora(model_name="l")], 5),
        ("embeddings", [Embedding(model_name="e")], 5),
        ("ip_adapters", [adapter()], 1),
    ],
)
def test_lists_have_a_most(name, items, most):
    assert getattr(img2img(**{name: items * most}), name) == tuple(items * most)
    assert getattr(img2img(**{name: iter(items)}), name) == tuple(items)
    (fault,) = faults(img2img, **{name: items * (most + 1)})
    assert fault == Flaw(f"Img2Img.{name}", f"takes at most {most}, has {most + 1}")


@pytest.mark.parametrize("name", ["loras", "embeddings", "ip_adapters"])
def test_what_is_no_list_is_refused_and_not_a_type_error(name):
    kind = {"loras": "Lora", "embeddings": "Embedding", "ip_adapters": "IPAdapter"}[name]
    for value in (5, None, "text", {"model_name": "x"}, Lora(model_name="l")):
        (fault,) = faults(img2img, **{name: value})
        assert fault.message == f"{rules.shown(value)} is not a list of {kind}"
    assert faults(img2img, **{name: ["x"]})[0].message == f"'x' is not of type {kind}"


def test_controlnet_needs_a_unit_and_has_no_most():
    assert faults(ControlNet, units=[])[0].message == "needs at least 1, has 0"
    assert len(ControlNet(units=[unit()] * 20).units) == 20


def test_guidance_does_not_end_before_it_begins():
    assert unit(guidance_start=0.5, guidance_end=0.5)
    assert unit(guidance_end=0.2)
    assert faults(unit, guidance_start=0.6, guidance_end=0.5) == (
        Flaw("ControlNetUnit.guidance_end", "0.5 is before guidance_start 0.6"),
    )


def test_a_seed_has_no_upper_bound_and_minus_one_is_random():
    assert [img2img(seed=seed).seed for seed in (-1, 0, 3_706_472_920, 2**80)]
    assert faults(img2img, seed=-2)[0].message == "-2 is not -1 or above"


@pytest.mark.parametrize(
    "url", ["", "/x", "ftp://a.b/c", "http://", "https://[", "hooks.example.com/x", 5, None]
)
def test_webhooks_are_absolute_urls(url):
    assert faults(Webhook, url=url)[0].message.endswith("is not an absolute http or https URL")


@pytest.mark.parametrize("path", ["", "v3/x", None, 5, "/x?y=1", "/x#y", "/x y", "/ü", "/x\n"])
def test_paths_are_absolute_and_have_no_query(path):
    assert faults(AnyTask, path=path, body={})[0].path == "AnyTask.path"
    with pytest.raises(ConfigurationError, match=r"Endpoints\.img2img: .* give a path such as"):
        Endpoints(img2img=path)


def test_each_request_has_its_path():
    endpoints = Endpoints(txt2img="/other")
    assert endpoints.path_of(img2img()) == "/v3/async/img2img"
    assert endpoints.path_of(txt2img()) == "/other"
    assert endpoints.path_of(AnyTask(path="/v3/async/upscale", body={})) == "/v3/async/upscale"


# --- All faults at once -------------------------------------------------------------------------------------


def test_all_faults_of_a_class_are_named_at_once():
    found = faults(img2img, steps=0, prompt="", strength=2, image="missing.png", loras=5, width=1)
    assert [fault.path.removeprefix("Img2Img.") for fault in found] == [
        "prompt", "steps", "loras", "image", "width", "strength",
    ]  # fmt: skip
    assert str(InvalidRequest(faults=found)).count(";") == 5


@pytest.mark.parametrize(
    "image", ["missing.png", b"", b"x" * 10_485_761, 5, None, io.StringIO("text"), io.BytesIO()]
)
def test_a_wrong_picture_is_a_fault_of_its_field(image):
    (fault,) = faults(img2img, image=image)
    assert fault.path == "Img2Img.image"
    assert not fault.message.startswith("the picture:")
    assert faults(unit, image=image)[0].path == "ControlNetUnit.image"
    assert faults(adapter, image=image)[0].path == "IPAdapter.image"


def test_a_fault_shows_no_picture():
    for fields in ({"prompt": b"\x89PNG" * 100_000}, {"loras": [b"x" * 10_000]}, {"steps": "QUJD" * 10_000}):
        assert len(str(InvalidRequest(faults=faults(img2img, **fields)))) < 200


def test_values_are_shown_up_to_sixty_characters():
    assert rules.shown("x" * 58) == f"'{'x' * 58}'"
    assert rules.shown("x" * 59) == f"'{'x' * 59}…"
    assert rules.shown([1] * 100) == f"{'[1' + ', 1' * 20}"[:60] + "…"


def test_values_that_cannot_be_shown_are_refused_all_the_same():
    endless: list[object] = []
    endless.append(endless)
    assert faults(img2img, steps=endless)
    assert faults(img2img, steps=10**5000)[0].message == "this int is not in [1, 100]"


# --- Sizes --------------------------------------------------------------------------------------------------


@given(width=st.integers(1, 4096), height=st.integers(1, 4096))
def test_the_size_comes_from_the_picture(width, height):
    scale = min(1, 1024 / max(width, height))
    try:
        request = img2img(image=ImageSource(data=b"x", size=1, width=width, height=height))
    except InvalidRequest as refusal:
        assert min(width, height) * scale < 124
        assert {fault.path for fault in refusal.faults} == {"Img2Img.width", "Img2Img.height"}
        assert f"must be given: the picture is {width}x{height}" in str(refusal)
        return
    for side, given_side in ((request.width, width), (request.height, height)):
        assert 128 <= side <= 1024
        assert side % 8 == 0
        assert abs(side - given_side * scale) <= 4
    assert max(request.width, request.height) <= 1024


@given(
    width=st.integers(64, 4096),
    height=st.integers(64, 4096),
    side=st.integers(128, 2048),
    by_width=st.booleans(),
)
def test_one_side_that_is_given_is_kept_and_the_other_follows(width, height, side, by_width):
    source = ImageSource(data=b"x", size=1, width=width, height=height)
    other = side * (height / width if by_width else width / height)
    assume(132 < other < 2044)
    request = img2img(image=source, **{"width" if by_width else "height": side})
    kept, followed = (request.width, request.height) if by_width else (request.height, request.width)
    assert kept == side
    assert followed % 8 == 0
    assert abs(followed - other) <= 4 + 1e-9


def test_both_sides_that_are_given_are_kept():
    request = img2img(width=131, height=2047)
    assert (request.width, request.height) == (131, 2047)


@pytest.mark.parametrize(
    ("size", "result"),
    [
        ((640, 480), (640, 480)),
        ((1024, 1024), (1024, 1024)),
        ((4000, 3000), (1024, 768)),
        ((3000, 4000), (768, 1024)),
        ((1020, 130), (1024, 128)),
        ((124, 124), (128, 128)),
        ((516, 515), (520, 512)),
    ],
)
def test_sizes_by_example(size, result):
    request = img2img(image=png(*size))
    assert (request.width, request.height) == result


def test_a_picture_without_a_known_size_needs_one():
    (width, height) = faults(img2img, image=b"\0\1\2\3")
    assert width.message == height.message
    assert (
        width.message == "must be given: the picture is of unknown size, which gives no size in [128, 2048]"
    )
    (height,) = faults(img2img, image=b"\0\1\2\3", width=512)
    assert height.path == "Img2Img.height"
    assert img2img(image=b"\0\1\2\3", width=512, height=512)


@pytest.mark.parametrize("size", [{}, {"width": 512, "height": 512}])
def test_a_format_that_the_api_does_not_take_is_named_and_is_one_fault(size):
    (fault,) = faults(img2img, image=picture("GIF"), **size)
    assert (fault.path, fault.message) == (
        "Img2Img.image",
        "is GIF; the API takes PNG, JPEG and WebP: convert it first",
    )


@pytest.mark.parametrize("size", [{}, {"width": 512, "height": 512}])
def test_text_in_the_place_of_a_picture_is_refused_also_with_a_size(tmp_path, size):
    (tmp_path / "dog.png").write_text("<html>not found</html>")
    (fault,) = faults(img2img, image=tmp_path / "dog.png", **size)
    assert fault.path == "Img2Img.image"
    assert fault.message == f"{tmp_path / 'dog.png'} is no picture but HTML, perhaps the page of an error"


def test_a_photo_on_its_side_asks_for_the_shape_it_is_seen_in():
    block = PIL.Image.Exif()
    block[0x0112] = 6
    request = img2img(image=bytearray(picture("JPEG", (640, 480), exif=block)))
    assert (request.width, request.height) == (480, 640)


@pytest.mark.parametrize("width", [100, 0, "512", True, 512.0])
def test_a_wrong_side_is_one_fault_not_two(width):
    (fault,) = faults(img2img, width=width)
    assert fault.path == "Img2Img.width"


def test_the_other_side_must_fit_as_well():
    (fault,) = faults(img2img, image=png(1000, 300), width=256)
    assert fault.path == "Img2Img.height"


# --- Requests build on each other ---------------------------------------------------------------------------


def test_defaults_are_the_documented_ones():
    request = img2img()
    assert (request.image_num, request.steps, request.guidance_scale) == (1, 20, 7.5)
    assert request.sampler_name == "Euler a"
    assert request.strength is None
    assert request.seed is None


def test_builders_return_new_requests():
    cat = ImageSource.from_bytes(png(64, 64))
    first = img2img()
    second = (
        first.with_lora("l", 0.7)
        .with_lora("k")
        .with_embedding("e")
        .with_controlnet("control_v11p_sd15_canny", preprocessor="canny", guidance_start=0, guidance_end=0.5)
        .with_controlnet("c", cat, 0.3)
        .with_ip_adapter("ip-adapter_sd15.bin", cat, 0.4)
        .with_extra(response_image_type="webp")
        .with_extra(nsfw_detection_level=1)
    )
    assert first == img2img()
    assert second.loras == (Lora(model_name="l", strength=0.7), Lora(model_name="k", strength=1))
    assert second.embeddings == (Embedding(model_name="e"),)
    assert second.controlnet == ControlNet(
        units=[
            unit(
                model_name="control_v11p_sd15_canny",
                preprocessor="canny",
                guidance_start=0,
                guidance_end=0.5,
                strength=1,
            ),
            unit(model_name="c", image=cat, strength=0.3),
        ]
    )
    assert second.ip_adapters == (IPAdapter(model_name="ip-adapter_sd15.bin", image=cat, strength=0.4),)
    assert second.extra == Extra(response_image_type="webp", nsfw_detection_level=1)
    assert second.pictures == (DOG, DOG, cat, cat)
    assert first.with_ip_adapter("a").ip_adapters[0].image is DOG
    assert first.pictures == (DOG,)


def test_a_builder_refuses_like_a_constructor():
    with pytest.raises(InvalidRequest, match=r"Lora\.strength: 2 is not in \[0, 1\]"):
        img2img().with_lora("l", 2)
    with pytest.raises(InvalidRequest, match=r"Img2Img\.ip_adapters: takes at most 1, has 2"):
        img2img().with_ip_adapter("a").with_ip_adapter("b")


def test_txt2img_shares_the_builders_and_sends_no_picture():
    request = txt2img().with_lora("l").with_embedding("e")
    assert (len(request.loras), len(request.embeddings), request.pictures) == (1, 1, ())


def test_a_sweep_is_every_combination_and_the_last_axis_varies_fastest():
    swept = img2img().sweep(seed=range(2), strength=[0.3, 0.5], steps=iter([10, 20]))
    assert [(r.seed, r.strength, r.steps) for r in swept] == list(
        itertools.product(range(2), [0.3, 0.5], [10, 20])
    )


def test_prompts_are_swept_as_well():
    swept = txt2img().sweep(prompt=["a dog", "a cat"], width=[256, 512])
    assert [(r.prompt, r.width) for r in swept] == [
        ("a dog", 256), ("a dog", 512), ("a cat", 256), ("a cat", 512),
    ]  # fmt: skip


def test_a_sweep_without_axes_is_the_request_itself():
    assert list(img2img().sweep()) == [img2img()]


def test_a_sweep_is_lazy():
    taken = []

    def seeds():
        for seed in itertools.count():
            taken.append(seed)
            yield seed

    swept = img2img().sweep(seed=seeds(), strength=[0.3, 0.5])
    assert not taken
    assert [next(swept).seed for _ in range(3)] == [0, 0, 1]
    assert taken == [0, 1]


def test_a_sweep_over_nothing_is_nothing_even_if_the_first_axis_is_endless():
    assert list(img2img().sweep(seed=itertools.count(), strength=[])) == []


def test_a_sweep_refuses_unknown_fields_and_single_values_before_it_starts():
    with pytest.raises(InvalidRequest) as caught:
        img2img().sweep(sed=[1], prompt="dog", steps=5)
    assert caught.value.faults == (
        Flaw("Img2Img.sed", "no such field"),
        Flaw("Img2Img.prompt", "'dog' is one value; give a list of values"),
        Flaw("Img2Img.steps", "5 is one value; give a list of values"),
    )


def test_a_sweep_refuses_a_wrong_value_when_its_turn_comes():
    swept = img2img().sweep(strength=[0.5, 5])
    assert next(swept).strength == 0.5
    with pytest.raises(InvalidRequest, match=r"Img2Img\.strength: 5 is not in \[0, 1\]"):
        next(swept)


def test_a_sweep_over_pictures_gives_each_its_own_size_unless_one_was_given():
    pictures = [png(640, 480), png(480, 640)]
    swept = img2img().with_lora("l").sweep(image=pictures)
    assert [(r.width, r.height) for r in swept] == [(640, 480), (480, 640)]
    swept = img2img(width=512, height=512).sweep(image=pictures)
    assert [(r.width, r.height) for r in swept] == [(512, 512)] * 2
    swept = img2img().sweep(image=pictures, width=[320])
    assert [(r.width, r.height) for r in swept] == [(320, 240), (320, 424)]


def test_work_grows_with_steps_pixels_and_images():
    assert img2img(width=512, height=256, steps=10, image_num=2).work == 10 * 512 * 256 * 2
    assert txt2img(steps=10).work == 10 * 512 * 512
    assert AnyTask(path="/x", body={}).work is None


# --- Values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [img2img(extra_fields={"a": [1]}).with_controlnet("c"), txt2img(), AnyTask(path="/x", body={"a": 1})],
)
def test_requests_are_values(request_):
    assert pickle.loads(pickle.dumps(request_)) == request_
    assert attrs.evolve(request_) == request_
    assert hash(attrs.evolve(request_)) == hash(request_)
    assert len({request_, attrs.evolve(request_)}) == 1
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        request_.image_num = 2


def test_a_request_keeps_its_own_copy_of_a_mapping():
    fields = {"a": 1}
    request, task = img2img(extra_fields=fields), AnyTask(path="/x", body=fields)
    fields["a"] = 2
    assert request.extra_fields == task.body == {"a": 1}


def test_extra_fields_do_not_shadow_fields():
    assert faults(img2img, extra_fields={"steps": 1, "image_base64": "", "x": 1}) == (
        Flaw("Img2Img.extra_fields", "image_base64, steps has a field of its own"),
    )
    assert faults(img2img, extra_fields=5)[0].message == "5 is not a mapping"


def test_an_unknown_keyword_is_a_type_error():
    with pytest.raises(TypeError, match="strenght"):
        img2img(strenght=0.5)
    with pytest.raises(TypeError):
        Img2Img("m", "p", DOG)  # positional


def test_parts_for_different_base_models_are_warned_about():
    with pytest.warns(NovitaWarning, match="are for different base models"):
        img2img().with_controlnet("control_v11p_sd15_canny").with_ip_adapter("ip-adapter_sdxl.bin")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        img2img().with_controlnet("control_v11p_sd15_canny").with_ip_adapter("ip-adapter_sd15.bin")
        img2img().with_controlnet("controlnet-canny-sdxl-1.0").with_controlnet("my own")


@pytest.mark.parametrize(
    ("kind", "count"),
    [("Sampler", 20), ("Preprocessor", 28), ("ControlNetModel", 21), ("IPAdapterModel", 2), ("ImageType", 3)],
)
def test_documented_names_are_there(kind, count):
    names = getattr(choices, kind)
    assert len(names) == count
    assert all(isinstance(name, str) and str(name) == name.value for name in names)
    assert "Euler a" in list(choices.Sampler)


class _Percent(float):
    """As other libraries have them."""


class _Steps(IntEnum):
    MANY = 50


def test_numbers_may_be_of_classes_of_their_own():
    made = img2img(strength=_Percent(0.5), steps=_Steps.MANY)
    assert (made.strength, made.steps) == (0.5, 50)
