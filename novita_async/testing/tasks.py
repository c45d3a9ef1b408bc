"""Orders, the tasks made of them, and what task-result says of a task at a moment. All of it is computed."""

import math
import re
from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any, Final, cast

import msgspec
from attrs import field

from novita_async._util.values import frozen
from novita_async.testing._dice import digest, fraction, normal, whole
from novita_async.testing.config import SimulatorConfig
from novita_async.testing.constraints import IMG2IMG, TXT2IMG, Constraint, Pictures
from novita_async.testing.painting import Painting
from novita_async.testing.wire import JSONObject, Refused
from novita_async.testing.workers import Span

SUCCEEDED: Final = "TASK_STATUS_SUCCEED"
FAILED: Final = "TASK_STATUS_FAILED"
PROCESSING: Final = "TASK_STATUS_PROCESSING"
QUEUED: Final = "TASK_STATUS_QUEUED"

_TIMES: Final = ("submit_time_ms", "execute_time_ms", "complete_time_ms")
_FAILURE: Final = "failed to exec task"
_FIXED_SECONDS: Final = 0.25
_SECONDS_PER_UNIT: Final = 1.75
_UNIT: Final = 20 * 512 * 512
"""Steps x pixels of the usual picture."""
_SEEDS: Final = 2**32


@frozen(kw_only=True)
class BucketWish:
    """A bucket of the customer's own."""

    region: str
    """AWS region."""
    bucket: str
    """Its name."""
    path: str
    """Where in it, without slashes at its ends."""
    direct: bool
    """Whether files go straight into `path`, not into a directory below it."""


@frozen(kw_only=True)
class WorkOrder:
    """Content of a submission."""

    endpoint: str
    """Path of the submission."""
    task_type: str
    """As task-result calls it."""
    prompt: str
    """Words for the picture."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    images: int
    """How many."""
    steps: int
    """Denoising steps."""
    seed: int
    """-1: drawn by the service."""
    strength: float
    """1 where there is no input."""
    image_type: str
    """Format of the results."""
    source: bytes | None = field(repr=False)
    """The input picture as a file."""
    nsfw: bool
    """Whether the detection is wanted."""
    webhook: str | None
    """Where the event goes."""
    mock: str | None
    """The status that a webhook's test mode asks for; no work is done then."""
    storage: BucketWish | None
    """Where the results go instead of the service's own storage."""
    details: Mapping[str, Any] = field(repr=False)
    """The settings that task-result repeats in `request_info`."""


@frozen(kw_only=True)
class SimulatedTask:
    """An accepted order."""

    task_id: str
    """A UUID."""
    number: int
    """From 1, in the order of acceptance."""
    account: str
    """The key that it belongs to."""
    order: WorkOrder
    """Order of the submission."""
    submitted_at: float
    """Service time."""
    seed: int
    """The seed that was used."""
    fails: bool
    """Whether it will fail."""
    seconds: float
    """How long a worker takes."""
    origin: str
    """Scheme, host and port of the service, as its submitter called it."""

    @property
    def final_status(self) -> str:
        return FAILED if self.fails else SUCCEEDED


_COPIED: Final = ("guidance_scale", "sampler_name", "negative_prompt", "clip_skip", "model_name")


def section(document: JSONObject, *names: str) -> JSONObject:
    """Find an object inside an object; an empty one where there is none."""
    value: Any = document
    for name in names:
        value = cast("JSONObject", value).get(name) if isinstance(value, dict) else None
    return cast("JSONObject", value) if isinstance(value, dict) else {}


def _storage(extra: JSONObject) -> BucketWish | None:
    wish = section(extra, "custom_storage", "aws_s3")
    if not wish:
        return None
    if (
        not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]", wish["bucket"])
        or ".." in wish["path"]
    ):
        raise Refused("INVALID_CUSTOM_OUTPUT_PATH", f"cannot write to {wish['bucket']!r} at {wish['path']!r}")
    return BucketWish(
        region=wish["region"],
        bucket=wish["bucket"],
        path=wish["path"].strip("/"),
        direct=bool(wish.get("save_to_path_directly")),
    )


def _mock(extra: JSONObject) -> str | None:
    test = section(extra, "webhook", "test_mode")
    return test.get("return_task_status") if test.get("enabled") is True else None


def _size(request: JSONObject) -> tuple[int, int]:
    hires = section(request, "hires_fix")
    if hires:
        return hires["target_width"], hires["target_height"]
    return request["width"], request["height"]


def read_order(endpoint: str, document: JSONObject, pictures: Pictures, config: SimulatorConfig) -> WorkOrder:
    """Read a checked img2img or txt2img submission."""
    request, extra = document["request"], section(document, "extra")
    source = pictures.get("request.image_base64")
    strength = request.get("strength")
    width, height = _size(request)
    return WorkOrder(
        endpoint=endpoint,
        task_type="TXT_TO_IMG" if source is None else "IMG_TO_IMG",
        prompt=request["prompt"],
        width=width,
        height=height,
        images=request["image_num"],
        steps=request["steps"],
        seed=-1 if request.get("seed") is None else request["seed"],
        strength=1.0 if source is None else config.default_strength if strength is None else strength,
        image_type=extra.get("response_image_type") or "png",
        source=source,
        nsfw=bool(extra.get("enable_nsfw_detection")),
        webhook=section(extra, "webhook").get("url"),
        mock=_mock(extra),
        storage=_storage(extra),
        details={name: request[name] for name in _COPIED if name in request},
    )


def _number(request: JSONObject, *names: str, default: int) -> int:
    found = (request[name] for name in names if isinstance(request.get(name), int))
    return max(1, next(found, default))


def _loose_size(request: JSONObject) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{2,4})[*xX](\d{2,4})", str(request.get("size", "")))
    if match:
        return min(2048, int(match[1])), min(2048, int(match[2]))
    width, height = (_number(request, name, default=1024) for name in ("width", "height"))
    return min(2048, width), min(2048, height)


def read_loose_order(endpoint: str, document: JSONObject) -> WorkOrder:
    """Read a submission to an endpoint whose constraints are not simulated."""
    request, extra = section(document, "request") or document, section(document, "extra")
    width, height = _loose_size(request)
    webhook = section(extra, "webhook").get("url")
    seed = request.get("seed")
    return WorkOrder(
        endpoint=endpoint,
        task_type=endpoint.rsplit("/", 1)[-1].replace("-", "_").upper(),
        prompt=str(request.get("prompt", "")),
        width=width,
        height=height,
        images=min(8, _number(request, "image_num", "num_images", default=1)),
        steps=_number(request, "steps", "num_inference_steps", default=20),
        seed=seed if isinstance(seed, int) else -1,
        strength=1.0,
        image_type=str(extra.get("response_image_type") or request.get("output_format") or "png"),
        source=None,
        nsfw=extra.get("enable_nsfw_detection") is True,
        webhook=webhook if isinstance(webhook, str) else None,
        mock=_mock(extra),
        storage=None,
        details={},
    )


SUBMISSIONS: Final[Mapping[str, Mapping[str, Constraint]]] = {
    "/v3/async/img2img": IMG2IMG,
    "/v3/async/txt2img": TXT2IMG,
}
"""The constraints of each endpoint that has them."""


def service_seconds(order: WorkOrder, config: SimulatorConfig, number: int) -> float:
    """How long a worker takes: in proportion to steps x pixels x images, spread log-normally."""
    work = order.steps * order.width * order.height * order.images / _UNIT
    spread = math.exp(config.spread * normal(config.seed, "service", number))
    return (_FIXED_SECONDS + _SECONDS_PER_UNIT * work) * spread / config.speed


def cost(order: WorkOrder, config: SimulatorConfig) -> int:
    """Count the cost of the order, in 1/10000 USD. A webhook's test costs nothing."""
    if order.mock is not None:
        return 0
    return order.images * (config.price + (config.nsfw_price if order.nsfw else 0))


def drawn_seed(order: WorkOrder, config: SimulatorConfig, number: int) -> int:
    """The seed that is used: the one asked for, or one from the dice."""
    return order.seed if order.seed >= 0 else whole(_SEEDS, config.seed, "seed", number)


def will_fail(order: WorkOrder, config: SimulatorConfig, number: int) -> bool:
    """Whether the task will fail: by a webhook's test mode, or by the dice."""
    if order.mock is not None:
        return order.mock == FAILED
    return fraction(config.seed, "failure", number) < config.failure_rate


def file_name(task: SimulatedTask, index: int) -> str:
    """Name of the n-th result file: 32 hexadecimal digits and the type."""
    return f"{digest(task.task_id, 'file', index).hex()[:32]}.{task.order.image_type}"


def file_path(task: SimulatedTask, index: int) -> str:
    """Path of the n-th result file on the service's host."""
    storage = task.order.storage
    if storage is None:
        return f"/prod/{task.task_id}/{file_name(task, index)}"
    folders = ("s3", storage.bucket, storage.path, "" if storage.direct else task.task_id)
    return "/" + "/".join((*filter(None, folders), file_name(task, index)))


def painting(task: SimulatedTask, index: int, source: bytes | None, *, plain: bool) -> Painting:
    """The recipe of the n-th result file."""
    order = task.order
    return Painting(
        width=order.width,
        height=order.height,
        image_type=order.image_type,
        prompt=order.prompt,
        seed=task.seed,
        index=index,
        strength=1.0 if source is None else order.strength,
        source=source,
        plain=plain,
    )


def status_at(task: SimulatedTask, span: Span | None, now: float) -> str:
    """The task's status."""
    if span is None:
        return QUEUED
    return task.final_status if now >= span.ended_at else PROCESSING


Signer = Callable[[SimulatedTask, int], tuple[str, str]]
"""Gives the URL of a task's n-th file and how long it works, as the service writes it."""


def snapshot(
    task: SimulatedTask,
    span: Span | None,
    now: float,
    config: SimulatorConfig,
    *,
    epoch: float,
    signer: Signer,
) -> JSONObject:
    """Show a task as task-result does, in the service's own odd types."""
    status, is_video = status_at(task, span, now), task.order.image_type == "mp4"
    eta, progress = _progress(span, now, config)
    videos = range(task.order.images) if status == SUCCEEDED and is_video else ()
    return {
        "extra": {
            "seed": str(task.seed) if status == SUCCEEDED else "",
            "enable_nsfw_detection": task.order.nsfw,
            "debug_info": _debug_info(task, span, now, config, epoch),
        },
        "task": {
            "task_id": task.task_id,
            "task_type": task.order.task_type,
            "status": status,
            "reason": _FAILURE if status == FAILED else "",
            "eta": eta,
            "progress_percent": progress,
        },
        "images": _images(task, config, signer) if status == SUCCEEDED and not is_video else [],
        "videos": [
            {"video_url": url, "video_url_ttl": ttl, "video_type": "mp4"}
            for url, ttl in (signer(task, index) for index in videos)
        ],
        "audios": [],
    }


def _progress(span: Span | None, now: float, config: SimulatorConfig) -> tuple[int, int]:
    if span is None or not config.progress:
        return 0, 0
    if now >= span.ended_at:
        return 0, 100
    share = (now - span.started_at) / (span.ended_at - span.started_at)
    return math.ceil(span.ended_at - now), int(100 * share)


def _debug_info(
    task: SimulatedTask, span: Span | None, now: float, config: SimulatorConfig, epoch: float
) -> dict[str, str]:
    if not config.completion_times:
        return dict.fromkeys(("request_info", *_TIMES), "")
    times = (task.submitted_at, *((span.started_at, span.ended_at) if span else ()))
    told = [str(int((epoch + at) * 1000)) if at <= now else "" for at in times]
    order = task.order
    info = {
        **order.details,
        "prompts": [order.prompt],
        "seeds": [task.seed],
        "width": order.width,
        "height": order.height,
        "num_images_per_prompt": order.images,
        "num_inference_steps": order.steps,
    }
    return {
        "request_info": msgspec.json.encode(info).decode(),
        **dict(zip_longest(_TIMES, told, fillvalue="")),
    }


def _images(task: SimulatedTask, config: SimulatorConfig, signer: Signer) -> list[JSONObject]:
    signed = [signer(task, index) for index in range(task.order.images)]
    return [
        {
            "image_url": url,
            "image_url_ttl": ttl,
            "image_type": task.order.image_type,
            "nsfw_detection_result": _nsfw(task, index, config) if task.order.nsfw else None,
        }
        for index, (url, ttl) in enumerate(signed)
    ]


def _nsfw(task: SimulatedTask, index: int, config: SimulatorConfig) -> dict[str, bool | float]:
    suspect = fraction(config.seed, "nsfw", task.number, index) < config.nsfw_rate
    height = fraction(config.seed, "confidence", task.number, index)
    return {"valid": True, "confidence": round(80 + 20 * height, 4) if suspect else round(5 * height, 4)}
