"""The simulated service refuses what the API documents as wrong, with the documented reason."""

import struct
from typing import Any

import pytest

from novita_async.testing import Simulator, SimulatorConfig
from tests.helpers.simulator_bodies import (
    GONE,
    IMG2IMG,
    TXT2IMG,
    b64,
    changed,
    content,
    everything,
    img2img,
    png,
    submit,
    txt2img,
)

R = "request."
X = "extra."
UNIT = "request.controlnet.units.0."
LORA = "request.loras.0."
ADAPTER = "request.ip_adapters.0."
S3 = "extra.custom_storage.aws_s3."

RANGES: list[tuple[str, list[Any], list[Any]]] = [
    (R + "prompt", ["a", "ü" * 1024, "🐕" * 1024], ["", "a" * 1025]),
    (R + "negative_prompt", ["", "a" * 1024], ["a" * 1025]),
    (R + "model_name", ["unknown.safetensors"], [""]),
    (R + "width", [128, 130, 2048], [127, 2049, 0]),
    (R + "height", [128, 2048], [127, 2049]),
    (R + "image_num", [1, 8], [0, 9]),
    (R + "steps", [1, 100], [0, 101]),
    (R + "guidance_scale", [1, 30, 7.25], [0.99, 30.01]),
    (R + "sampler_name", ["UniPC", "DPM++ 2S a Karras"], ["euler a", "DPM++ Karras", ""]),
    (R + "seed", [-1, 0, 2**40], [-2]),
    (R + "clip_skip", [1, 12], [0, 13]),
    (R + "strength", [0, 1, 0.5], [-0.01, 1.01]),
    (R + "loras", [[]], [[{"model_name": "x", "strength": 1}] * 6]),
    (LORA + "model_name", ["unknown"], [""]),
    (LORA + "strength", [0, 1], [-0.1, 1.1]),
    (R + "embeddings", [[]], [[{"model_name": "x"}] * 6]),
    (R + "embeddings.0.model_name", ["unknown"], [""]),
    (R + "controlnet.units", [], [[]]),
    (UNIT + "model_name", ["controlnet-softedge-sdxl-1.0"], ["canny", ""]),
    (UNIT + "strength", [0, 1], [-0.1, 1.4]),
    (UNIT + "preprocessor", ["depth_leres++"], ["none", "hed"]),
    (UNIT + "guidance_start", [0, 1], [-0.1, 1.1]),
    (UNIT + "guidance_end", [0, 1], [-0.1, 1.1]),
    (ADAPTER + "model_name", ["ip-adapter_sdxl.bin"], ["ip-adapter.bin"]),
    (ADAPTER + "strength", [0, 1], [-0.1, 1.1]),
    (X + "response_image_type", ["png", "webp", "jpeg"], ["jpg", "PNG", ""]),
    (X + "nsfw_detection_level", [0, 1, 2], [3, -1]),
    (X + "webhook.url", ["http://a.invalid"], ["", "hooks.invalid/x"]),
    (X + "webhook.test_mode.return_task_status", ["TASK_STATUS_FAILED"], ["TASK_STATUS_QUEUED"]),
    (S3 + "region", ["eu-west-1"], [""]),
    (S3 + "bucket", ["my-bucket"], [""]),
    (S3 + "path", ["/a/b"], [""]),
]
"""Path, values that pass, values that do not."""

REQUIRED = [
    *(R + name for name in ("model_name", "image_base64", "prompt", "width", "height", "image_num", "steps")),
    *(R + name for name in ("guidance_scale", "sampler_name", "controlnet.units")),
    *(UNIT + name for name in ("model_name", "image_base64", "strength")),
    *(LORA + name for name in ("model_name", "strength")),
    R + "embeddings.0.model_name",
    *(ADAPTER + name for name in ("model_name", "image_base64", "strength")),
    *(X + name for name in ("webhook.url", "webhook.test_mode.enabled")),
    X + "webhook.test_mode.return_task_status",
    *(S3 + name for name in ("region", "bucket", "path")),
]

OPTIONAL = [
    "extra",
    *(X + name for name in ("response_image_type", "webhook", "webhook.test_mode", "custom_storage")),
    *(X + name for name in ("enterprise_plan", "enable_nsfw_detection", "nsfw_detection_level")),
    *(R + name for name in ("negative_prompt", "sd_vae", "controlnet", "seed", "loras", "embeddings")),
    *(R + name for name in ("clip_skip", "strength", "ip_adapters")),
    *(UNIT + name for name in ("preprocessor", "guidance_start", "guidance_end")),
    S3 + "save_to_path_directly",
]

WRONG_TYPES = [
    (R + "prompt", 5),
    (R + "width", "512"),
    (R + "width", 512.0),
    (R + "image_num", True),
    (R + "guidance_scale", "7.5"),
    (R + "guidance_scale", False),
    (R + "seed", 1.5),
    (R + "loras", {}),
    (R + "loras.0", "add_detail"),
    (R + "controlnet", []),
    (R + "image_base64", 1),
    (X + "enable_nsfw_detection", "true"),
    (X + "webhook", "https://hooks.invalid"),
    (X + "nsfw_detection_level", "2"),
    ("extra", []),
    ("request", None),
    ("request", []),
]


def judge(body: Any, **config: Any) -> tuple[int, str | None]:
    reply = submit(Simulator(SimulatorConfig(**config)), body)
    return reply.status, content(reply).get("reason")


def case_name(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else text[:37] + "..."


def test_a_submission_with_every_documented_field_is_accepted():
    assert judge(everything()) == (200, None)


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, good, _ in RANGES for value in good], ids=case_name
)
def test_the_ends_of_every_documented_range_are_accepted(path, value):
    assert judge(changed(everything(), path, value)) == (200, None)


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, _, bad in RANGES for value in bad], ids=case_name
)
def test_what_lies_outside_a_documented_range_is_answered_with_validator(path, value):
    assert judge(changed(everything(), path, value)) == (400, "VALIDATOR")


@pytest.mark.parametrize("path", REQUIRED)
def test_a_missing_required_field_is_answered_with_validator(path):
    assert judge(changed(everything(), path, GONE)) == (400, "VALIDATOR")
    assert judge(changed(everything(), path, None)) == (400, "VALIDATOR")


@pytest.mark.parametrize("path", OPTIONAL)
def test_an_optional_field_may_be_missing_or_null(path):
    assert judge(changed(everything(), path, GONE)) == (200, None)
    assert judge(changed(everything(), path, None)) == (200, None)


@pytest.mark.parametrize(("path", "value"), WRONG_TYPES, ids=case_name)
def test_a_wrong_type_is_an_invalid_request_body(path, value):
    assert judge(changed(everything(), path, value)) == (400, "INVALID_REQUEST_BODY")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"\xff",
        b'{"request": "\xff"}',
        b'{"request": ' + b"[" * 100_000,
        b'{"model_name": "no wrapper"}',
    ],
)
def test_what_is_no_request_object_is_an_invalid_request_body(body):
    assert judge(body) == (400, "INVALID_REQUEST_BODY")


def test_unknown_fields_and_empty_extras_are_passed_over():
    body = img2img({"custom_storage": {}, "enterprise_plan": {}, "new": 1}, refiner={"switch_at": 0.5})
    assert judge(body) == (200, None)


@pytest.mark.parametrize("path", [R + "image_base64", UNIT + "image_base64", ADAPTER + "image_base64"])
@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        ("not base64!", "INVALID_IMAGE_FORMAT"),
        ("data:image/png;base64," + b64(png()), "INVALID_IMAGE_FORMAT"),
        (b64(b"plain text"), "INVALID_IMAGE_FORMAT"),
        (b64(png()[:20]), "INVALID_IMAGE_FORMAT"),
        (b64(png()).rstrip("=")[:-1], "INVALID_IMAGE_FORMAT"),
        (b64(png() + bytes(10_485_761 - len(png()))), "IMAGE_FILE_EXCEEDS_MAX_SIZE"),
        (
            b64(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + struct.pack(">II", 4097, 4096)),
            "IMAGE_EXCEEDS_MAX_RESOLUTION",
        ),
    ],
    ids=["no base64", "data URL", "text", "cut header", "bad padding", "too large", "too many pixels"],
)
def test_a_bad_picture_is_answered_with_its_own_reason(path, picture, reason):
    assert judge(changed(everything(), path, picture)) == (400, reason)


def test_the_largest_picture_passes_and_line_breaks_are_passed_over():
    largest = b64(png() + bytes(10_485_760 - len(png())))
    assert judge(img2img(image_base64=largest)) == (200, None)
    wrapped = "\r\n".join(b64(png())[i : i + 20] for i in range(0, 200, 20))
    assert judge(img2img(image_base64=wrapped)) == (200, None)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xc2\x00\x11\x08\x00\x10\x00\x20" + bytes(10),
        b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + b"\x1f\0\0\x0f\0\0",
        b"RIFF\0\0\0\0WEBPVP8L" + bytes(4) + b"\x2f" + struct.pack("<I", 31 | 15 << 14),
        b"RIFF\0\0\0\0WEBPVP8 " + bytes(7) + b"\x9d\x01\x2a" + struct.pack("<HH", 32, 16),
    ],
    ids=["jpeg", "webp extended", "webp lossless", "webp"],
)
def test_every_format_that_is_taken_is_recognised_by_its_header(data):
    assert judge(img2img(image_base64=b64(data))) == (200, None)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff\xd9\x00\x00",
        b"\xff\xd8\xff",
        b"RIFF\0\0\0\0WEBPVP8X",
        png(0, 5),
        b"GIF89a" + struct.pack("<HH", 32, 16),
        b"BM" + bytes(16) + struct.pack("<ii", 32, -16),
    ],
)
def test_a_header_without_a_size_and_another_format_are_no_picture(data):
    assert judge(img2img(image_base64=b64(data))) == (400, "INVALID_IMAGE_FORMAT")


def test_txt2img_takes_clip_skip_0_and_a_hires_fix_and_needs_no_picture():
    hires = {"target_width": 256, "target_height": 256, "strength": 0.8, "upscaler": "Latent"}
    body = txt2img(clip_skip=0, hires_fix=hires, refiner={"switch_at": 0.5}, restore_faces=True)
    assert submit(Simulator(), body, path=TXT2IMG).status == 200


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (R + "hires_fix.target_width", 4097),
        (R + "hires_fix.target_height", GONE),
        (R + "hires_fix.strength", 2),
        (R + "hires_fix.upscaler", "Nearest"),
        (R + "clip_skip", 13),
    ],
    ids=case_name,
)
def test_txt2img_checks_its_own_fields(path, value):
    hires = {"target_width": 256, "target_height": 256, "strength": 0.8}
    body = changed(txt2img(hires_fix=hires), path, value)
    assert content(submit(Simulator(), body, path=TXT2IMG))["reason"] == "VALIDATOR"


def test_unknown_names_pass_a_service_that_is_not_strict():
    body = changed(changed(everything(), R + "sampler_name", "New"), UNIT + "preprocessor", "new")
    assert judge(body, strict_names=False) == (200, None)
    wrong_type = changed(body, X + "response_image_type", "jpg")
    assert judge(wrong_type, strict_names=False) == (400, "VALIDATOR")


@pytest.mark.parametrize(("path", "value"), [(S3 + "bucket", "a/b"), (S3 + "path", "/../x")])
def test_a_bucket_that_cannot_be_is_an_invalid_output_path(path, value):
    assert judge(changed(everything(), path, value)) == (400, "INVALID_CUSTOM_OUTPUT_PATH")


def test_dedicated_endpoints_are_for_subscribers():
    body = img2img({"enterprise_plan": {"enabled": True}})
    assert judge(body, dedicated_endpoints=False) == (403, "API_NOT_ALLOWED")
    assert judge(img2img(), dedicated_endpoints=False) == (200, None)


def test_illegal_words_are_refused_in_any_case():
    assert judge(img2img(prompt="a Forbidden thing"), illegal_words="forbidden") == (400, "ILLEGAL_PROMPT")


def test_an_error_body_has_the_documented_fields():
    reply = submit(Simulator(), img2img(prompt=""), path=IMG2IMG)
    assert content(reply) == {
        "code": 400,
        "reason": "VALIDATOR",
        "message": "invalid request.prompt: value length must be between 1 and 1024 runes, inclusive",
        "metadata": {},
    }
