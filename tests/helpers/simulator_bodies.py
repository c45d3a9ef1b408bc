"""Requests to the simulator, as bytes, for its tests."""

import base64
import copy
import struct
import zlib
from typing import Any

import msgspec

from novita_async.testing import Exchange, Reply, Simulator

IMG2IMG = "/v3/async/img2img"
TXT2IMG = "/v3/async/txt2img"
KEY = "sk_simulator"


def png(width: int = 4, height: int = 3) -> bytes:
    """A true PNG of one colour, made without Pillow."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x40\x80\xc0" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def txt2img(**request: Any) -> dict[str, Any]:
    base = {
        "model_name": "sd_xl_base_1.0.safetensors",
        "prompt": "a cute dog",
        "width": 128,
        "height": 128,
        "image_num": 1,
        "steps": 20,
        "guidance_scale": 7.5,
        "sampler_name": "Euler a",
    }
    return {"request": {**base, **request}}


def img2img(extra: dict[str, Any] | None = None, **request: Any) -> dict[str, Any]:
    body = txt2img(**{"image_base64": b64(png()), **request})
    return body if extra is None else {"extra": extra, **body}


def everything() -> dict[str, Any]:
    """An img2img submission that names every documented field."""
    picture = b64(png())
    extra = {
        "response_image_type": "jpeg",
        "webhook": {
            "url": "https://hooks.invalid/x",
            "test_mode": {"enabled": False, "return_task_status": "TASK_STATUS_SUCCEED"},
        },
        "custom_storage": {
            "aws_s3": {
                "region": "us-east-2",
                "bucket": "test_bucket",
                "path": "/",
                "save_to_path_directly": False,
            }
        },
        "enterprise_plan": {"enabled": True},
        "enable_nsfw_detection": True,
        "nsfw_detection_level": 2,
    }
    unit = {
        "model_name": "control_v11p_sd15_canny",
        "image_base64": picture,
        "strength": 1,
        "preprocessor": "canny",
        "guidance_start": 0,
        "guidance_end": 1,
    }
    return img2img(
        extra,
        negative_prompt="",
        sd_vae="sdxl_vae.safetensors",
        controlnet={"units": [unit]},
        seed=-1,
        loras=[{"model_name": "add_detail_44319", "strength": 0.7}],
        embeddings=[{"model_name": "badhandv4_16755.pt"}],
        clip_skip=1,
        strength=0.5,
        ip_adapters=[{"model_name": "ip-adapter_sd15.bin", "image_base64": picture, "strength": 0.5}],
    )


GONE = type("Missing", (), {"__repr__": lambda _: "missing"})()
"""A value for `changed` that takes the field away."""


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a dotted path, in which numbers are indices."""
    result = copy.deepcopy(document)
    *parents, last = (int(step) if step.isdecimal() else step for step in path.split("."))
    place: Any = result
    for step in parents:
        place = place[step]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return result


def submit(
    simulator: Simulator,
    body: Any = None,
    *,
    now: float = 0.0,
    path: str = IMG2IMG,
    key: str | None = KEY,
) -> Reply:
    data = body if isinstance(body, bytes) else msgspec.json.encode(img2img() if body is None else body)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return simulator.receive(Exchange(method="POST", path=path, headers=headers, body=data), now)


def task_id(reply: Reply) -> str:
    return str(content(reply)["task_id"])


def content(reply: Reply) -> Any:
    return msgspec.json.decode(reply.body)


def get(simulator: Simulator, path: str, *, now: float = 0.0, key: str | None = KEY, **query: str) -> Reply:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return simulator.receive(Exchange(method="GET", path=path, query=query, headers=headers), now)


def poll(simulator: Simulator, task: str, now: float, *, key: str = KEY) -> Any:
    return content(get(simulator, "/v3/async/task-result", now=now, key=key, task_id=task))
