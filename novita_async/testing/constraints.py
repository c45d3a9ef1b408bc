"""Demands of the service on a submission: tables, and the few functions that apply them.

Written from the API's documentation and on purpose not from this library's request models, so that
neither can hide a mistake of the other. The order of judgement is that of a typical service: the body's
types first (INVALID_REQUEST_BODY), then presence and ranges (VALIDATOR), then the pictures. The first
fault is the answer.

A path such as `request.loras[].strength` stands for that field of every element. A field below something that
is absent is not looked for; `null` is the same as absent.
"""

import binascii
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, Final

import pybase64

from novita_async._util.values import frozen
from novita_async.models._headers import TAKEN, read_header
from novita_async.testing.wire import JSONObject, Refused

MAX_FILE_BYTES: Final = 10 * 1024 * 1024
"""Decoded size of a picture. The documentation says "10 Mb"; this is the most generous sensible reading."""
MAX_PIXELS: Final = 4096 * 4096
"""The documentation says "16 megapixels"."""

SAMPLERS: Final = frozenset(
    (  # noqa: SIM905 a list to be read
        "Euler a|Euler|LMS|Heun|DPM2|DPM2 a|DPM++ 2S a|DPM++ 2M|DPM++ SDE|DPM fast|"
        "DPM adaptive|LMS Karras|DPM2 Karras|DPM2 a Karras|DPM++ 2S a Karras|DPM++ 2M Karras|"
        "DPM++ SDE Karras|DDIM|PLMS|UniPC"
    ).split("|")
)
PREPROCESSORS: Final = frozenset(
    """
        scribble_hed softedge_hed scribble_hedsafe softedge_hedsafe depth_midas mlsd openpose
        openpose_face openpose_faceonly openpose_full openpose_hand dwpose scribble_pidinet
        softedge_pidinet scribble_pidsafe softedge_pidsafe normal_bae lineart_coarse
        lineart_realistic lineart_anime lineart depth_zoe shuffle mediapipe_face canny depth
        depth_leres depth_leres++
    """.split()  # noqa: SIM905 a list to be read
)
CONTROLNETS: Final = frozenset(
    """
        control_v11e_sd15_ip2p control_v11e_sd15_shuffle control_v11f1e_sd15_tile
        control_v11f1p_sd15_depth control_v11p_sd15_canny control_v11p_sd15_inpaint
        control_v11p_sd15_lineart control_v11p_sd15_mlsd control_v11p_sd15_normalbae
        control_v11p_sd15_openpose control_v11p_sd15_scribble control_v11p_sd15_seg
        control_v11p_sd15_softedge control_v11p_sd15s2_lineart_anime
        control_v1p_sd15_brightness control_v1p_sd15_qrcode_monster
        control_v1p_sd15_qrcode_monster_v2 controlnet-canny-sdxl-1.0
        controlnet-depth-sdxl-1.0 controlnet-openpose-sdxl-1.0
        controlnet-softedge-sdxl-1.0
    """.split()  # noqa: SIM905 a list to be read
)
IP_ADAPTERS: Final = frozenset({"ip-adapter_sd15.bin", "ip-adapter_sdxl.bin"})
UPSCALERS: Final = frozenset({"RealESRGAN_x4plus_anime_6B", "RealESRNet_x4plus", "Latent"})
IMAGE_TYPES: Final = frozenset({"png", "webp", "jpeg"})
ENDINGS: Final = frozenset({"TASK_STATUS_SUCCEED", "TASK_STATUS_FAILED"})


class JSONKind(Enum):
    """Types that a field may have in JSON."""

    TEXT = "a string"
    INTEGER = "an integer"
    NUMBER = "a number"
    FLAG = "a boolean"
    OBJECT = "an object"
    ARRAY = "an array"


_HOLDS: Final[Mapping[JSONKind, Callable[[Any], bool]]] = {
    JSONKind.TEXT: lambda value: isinstance(value, str),
    JSONKind.INTEGER: lambda value: isinstance(value, int) and not isinstance(value, bool),
    JSONKind.NUMBER: lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    JSONKind.FLAG: lambda value: isinstance(value, bool),
    JSONKind.OBJECT: lambda value: isinstance(value, dict),
    JSONKind.ARRAY: lambda value: isinstance(value, list),
}
_MEASURED: Final[Mapping[JSONKind, str]] = {
    JSONKind.TEXT: "value length must be between {} and {} runes, inclusive",
    JSONKind.INTEGER: "value must be inside range [{}, {}]",
    JSONKind.NUMBER: "value must be inside range [{}, {}]",
    JSONKind.ARRAY: "value must contain between {} and {} items, inclusive",
}


@frozen(kw_only=True)
class Constraint:
    """Demands on a field."""

    kind: JSONKind
    """Its JSON type."""
    required: bool = False
    """Whether it must be there when its parent is."""
    low: float | None = None
    """Smallest value, length or count."""
    high: float | None = None
    """Largest value, length or count."""
    choices: frozenset[Any] | None = None
    """The only values allowed."""
    name: bool = False
    """Whether `choices` are names of things, whose list a lenient service lets grow."""
    picture: bool = False
    """Whether it is a picture in base64."""
    url: bool = False
    """Whether it is an absolute HTTP address."""


def _text(low: int | None = None, high: int | None = None, **more: Any) -> Constraint:
    return Constraint(kind=JSONKind.TEXT, low=low, high=high, **more)


def _integer(low: int | None = None, high: int | None = None, **more: Any) -> Constraint:
    return Constraint(kind=JSONKind.INTEGER, low=low, high=high, **more)


def _number(low: float, high: float, **more: Any) -> Constraint:
    return Constraint(kind=JSONKind.NUMBER, low=low, high=high, **more)


def _object(**more: Any) -> Constraint:
    return Constraint(kind=JSONKind.OBJECT, **more)


def _array(low: int | None = None, high: int | None = None, **more: Any) -> Constraint:
    return Constraint(kind=JSONKind.ARRAY, low=low, high=high, **more)


def _flag(**more: Any) -> Constraint:
    return Constraint(kind=JSONKind.FLAG, **more)


_PICTURE: Final = _text(1, required=True, picture=True)

_EXTRA: Final[Mapping[str, Constraint]] = {
    "extra": _object(),
    "extra.response_image_type": _text(choices=IMAGE_TYPES),
    "extra.webhook": _object(),
    "extra.webhook.url": _text(1, required=True, url=True),
    "extra.webhook.test_mode": _object(),
    "extra.webhook.test_mode.enabled": _flag(required=True),
    "extra.webhook.test_mode.return_task_status": _text(required=True, choices=ENDINGS),
    "extra.custom_storage": _object(),
    "extra.custom_storage.aws_s3": _object(),
    "extra.custom_storage.aws_s3.region": _text(1, required=True),
    "extra.custom_storage.aws_s3.bucket": _text(1, required=True),
    "extra.custom_storage.aws_s3.path": _text(1, required=True),
    "extra.custom_storage.aws_s3.save_to_path_directly": _flag(),
    "extra.enterprise_plan": _object(),
    "extra.enterprise_plan.enabled": _flag(),
    "extra.enable_nsfw_detection": _flag(),
    "extra.nsfw_detection_level": _integer(choices=frozenset({0, 1, 2})),
}

_COMMON: Final[Mapping[str, Constraint]] = {
    "request": _object(required=True),
    "request.model_name": _text(1, required=True),
    "request.prompt": _text(1, 1024, required=True),
    "request.width": _integer(128, 2048, required=True),
    "request.height": _integer(128, 2048, required=True),
    "request.image_num": _integer(1, 8, required=True),
    "request.steps": _integer(1, 100, required=True),
    "request.guidance_scale": _number(1, 30, required=True),
    "request.sampler_name": _text(required=True, choices=SAMPLERS, name=True),
    "request.negative_prompt": _text(0, 1024),
    "request.sd_vae": _text(),
    "request.seed": _integer(-1),
    "request.loras": _array(0, 5),
    "request.loras[]": _object(required=True),
    "request.loras[].model_name": _text(1, required=True),
    "request.loras[].strength": _number(0, 1, required=True),
    "request.embeddings": _array(0, 5),
    "request.embeddings[]": _object(required=True),
    "request.embeddings[].model_name": _text(1, required=True),
}

IMG2IMG: Final[Mapping[str, Constraint]] = {
    **_EXTRA,
    **_COMMON,
    "request.image_base64": _PICTURE,
    "request.clip_skip": _integer(1, 12),
    "request.strength": _number(0, 1),
    "request.controlnet": _object(),
    "request.controlnet.units": _array(1, required=True),
    "request.controlnet.units[]": _object(required=True),
    "request.controlnet.units[].model_name": _text(1, required=True, choices=CONTROLNETS, name=True),
    "request.controlnet.units[].image_base64": _PICTURE,
    "request.controlnet.units[].strength": _number(0, 1, required=True),
    "request.controlnet.units[].preprocessor": _text(choices=PREPROCESSORS, name=True),
    "request.controlnet.units[].guidance_start": _number(0, 1),
    "request.controlnet.units[].guidance_end": _number(0, 1),
    "request.ip_adapters": _array(0, 1),
    "request.ip_adapters[]": _object(required=True),
    "request.ip_adapters[].model_name": _text(1, required=True, choices=IP_ADAPTERS, name=True),
    "request.ip_adapters[].image_base64": _PICTURE,
    "request.ip_adapters[].strength": _number(0, 1, required=True),
}
"""Every documented field of img2img."""

TXT2IMG: Final[Mapping[str, Constraint]] = {
    **_EXTRA,
    **_COMMON,
    # 0 is outside the documented 1..12, but the documentation's own txt2img example sends it.
    "request.clip_skip": _integer(0, 12),
    "request.hires_fix": _object(),
    "request.hires_fix.target_width": _integer(128, 4096, required=True),
    "request.hires_fix.target_height": _integer(128, 4096, required=True),
    "request.hires_fix.strength": _number(0, 1, required=True),
    "request.hires_fix.upscaler": _text(choices=UPSCALERS, name=True),
    "request.refiner": _object(),
    "request.refiner.switch_at": _number(0, 1),
    "request.restore_faces": _flag(),
    "request.enable_transparent_background": _flag(),
}
"""Every documented field of txt2img."""

Pictures = Mapping[str, bytes]
"""Decoded pictures by their concrete path."""


def items_of(value: Any) -> Iterable[Any]:
    """Iterate over what may be a list."""
    return value if _HOLDS[JSONKind.ARRAY](value) else ()


def _walk(value: Any, steps: tuple[str, ...], where: str) -> Iterator[tuple[str, Any]]:
    if not steps:
        yield where, value
    elif steps[0] == "[]":
        for i, item in enumerate(items_of(value)):
            yield from _walk(item, steps[1:], f"{where}[{i}]")
    elif isinstance(value, dict):
        yield from _walk(value.get(steps[0]), steps[1:], f"{where}.{steps[0]}".removeprefix("."))


def values_at(document: JSONObject, path: str) -> Iterator[tuple[str, Any]]:
    """Find every value at a path, with its concrete path; None where it is absent and its parent is not."""
    return _walk(document, tuple(path.replace("[]", ".[]").split(".")), "")


def check(document: JSONObject, rules: Mapping[str, Constraint], *, strict_names: bool = True) -> Pictures:
    """Judge a submission.

    Returns:
        The pictures in it, decoded.

    Raises:
        Refused: with the documented reason of the first fault.
    """
    _check_types(document, rules)
    for path, rule in rules.items():
        for where, value in values_at(document, path):
            if value is None:
                problem = "value is required" if rule.required else None
            else:
                problem = _problem(value, rule, strict_names=strict_names)
            if problem:
                raise Refused("VALIDATOR", f"invalid {where}: {problem}")
    found = (item for path, rule in rules.items() if rule.picture for item in values_at(document, path))
    return {where: _picture(where, text) for where, text in found if text is not None}


def _check_types(document: JSONObject, rules: Mapping[str, Constraint]) -> None:
    if not isinstance(document.get("request"), dict):
        raise Refused("INVALID_REQUEST_BODY", "invalid request body: request is not an object")
    for path, rule in rules.items():
        for where, value in values_at(document, path):
            if value is not None and not _HOLDS[rule.kind](value):
                raise Refused(
                    "INVALID_REQUEST_BODY", f"invalid request body: {where} is not {rule.kind.value}"
                )


def _problem(value: Any, rule: Constraint, *, strict_names: bool) -> str | None:
    if _outside(value, rule):
        low, high = ("" if bound is None else bound for bound in (rule.low, rule.high))
        return _MEASURED[rule.kind].format(low, high)
    if rule.choices is not None and value not in rule.choices and (strict_names or not rule.name):
        return f"value must be one of {sorted(rule.choices)}"
    if rule.url and not value.startswith(("http://", "https://")):
        return "value must be an absolute URI"
    return None


def _outside(value: Any, rule: Constraint) -> bool:
    if rule.kind not in _MEASURED:
        return False
    size = len(value) if rule.kind in (JSONKind.TEXT, JSONKind.ARRAY) else value
    return (rule.low is not None and size < rule.low) or (rule.high is not None and size > rule.high)


def _picture(where: str, text: str) -> bytes:
    data = _decode(where, text)
    if len(data) > MAX_FILE_BYTES:
        raise Refused("IMAGE_FILE_EXCEEDS_MAX_SIZE", f"{where}: image file exceeds max size {MAX_FILE_BYTES}")
    header = read_header(io.BytesIO(data))
    if header.format not in TAKEN or header.width is None or header.height is None:
        raise Refused("INVALID_IMAGE_FORMAT", f"{where}: the image format is not supported")
    if header.width * header.height > MAX_PIXELS:
        raise Refused("IMAGE_EXCEEDS_MAX_RESOLUTION", f"{where}: image exceeds max resolution {MAX_PIXELS}")
    return data


def _decode(where: str, text: str) -> bytes:
    joined = text.replace("\r", "").replace("\n", "") if "\n" in text else text
    try:
        return pybase64.b64decode(joined, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Refused("INVALID_IMAGE_FORMAT", f"{where}: illegal base64 data") from exc
