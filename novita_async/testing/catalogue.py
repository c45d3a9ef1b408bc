"""An invented catalogue of models, and the pages in which it is listed."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Final

from novita_async.testing._dice import digest, whole
from novita_async.testing.wire import JSONObject, Refused

_KNOWN: Final = (
    ("checkpoint", "sd_xl_base_1.0.safetensors", "SDXL 1.0"),
    ("checkpoint", "realcartoon25D_v3_240762.safetensors", "SD 1.5"),
    ("checkpoint", "chilloutmix_NiPrunedFp32Fix.safetensors", "SD 1.5"),
    ("textualinversion", "pureerosface_v1_5162.pt", "SD 1.5"),
    ("textualinversion", "badhandv4_16755.pt", "SD 1.5"),
    ("textualinversion", "BadDream_53202.pt", "SD 1.5"),
    ("lora", "add_detail_44319.safetensors", "SD 1.5"),
    ("lora", "more_details_59655.safetensors", "SD 1.5"),
    ("vae", "sdxl_vae.safetensors", "SDXL 1.0"),
    ("upscaler", "RealESRGAN_x4plus_anime_6B", "SD 1.5"),
)
"""Models that the API's documentation names, so that its examples work."""
_KINDS: Final = ("checkpoint", "lora", "textualinversion", "vae", "controlnet", "locon")
_FIRST: Final = (
    "Amber",
    "Birch",
    "Cobalt",
    "Dune",
    "Ember",
    "Fjord",
    "Glade",
    "Harbour",
    "Indigo",
    "Juniper",
)
_SECOND: Final = (
    "Detail",
    "Portrait",
    "Anime",
    "Landscape",
    "Toon",
    "Photo",
    "Ink",
    "Pastel",
    "Neon",
    "Clay",
)
_BASES: Final = ("SD 1.5", "SDXL 1.0")
_EXTENSIONS: Final = {"textualinversion": ".pt", "controlnet": ".pth"}
_SOURCES: Final = ("civitai", "civitai", "training", "uploading")
_DEFAULT_LIMIT: Final = 20
_MAX_LIMIT: Final = 100
_TRUE: Final = frozenset({"true", "1"})


def _record(number: int, kind: str, sd_name: str, base: str) -> JSONObject:
    stem = sd_name.rsplit(".", 1)[0] if sd_name.endswith((".safetensors", ".pt", ".pth")) else sd_name
    source = _SOURCES[number % len(_SOURCES)]
    return {
        "id": 100_000 + number * 37,
        "name": stem.replace("_", " "),
        "hash_sha256": digest("model", number).hex()[:10].upper(),
        "sd_name": sd_name,
        "type": {"name": kind, "display_name": kind.capitalize()},
        "categories": [],
        "status": int(whole(20, "status", number) > 0),
        "tags": [word.lower() for word in stem.replace("_", " ").split()[:2]],
        "cover_url": f"https://covers.simulator.invalid/{digest('cover', number).hex()[:16]}.jpeg",
        "source": source,
        "visibility": "public" if source == "civitai" else "private",
        "base_model": base,
        "base_model_type": "Inpainting" if "inpainting" in sd_name else "Standard",
        "download_url_ttl": 2592000,
        "sd_name_in_api": stem if kind in ("lora", "locon") else sd_name,
        "is_sdxl": base.startswith("SDXL"),
        "is_nsfw": False,
    }


def _invented() -> Iterator[tuple[str, str, str]]:
    for i, first in enumerate(_FIRST):
        for j, second in enumerate(_SECOND):
            kind = _KINDS[(i + j) % len(_KINDS)]
            ending = "-inpainting" if (kind, second) == ("checkpoint", "Photo") else ""
            number = 20_000 + whole(70_000, "number", first, second)
            name = f"{first}{second}_v{1 + i % 4}{ending}_{number}{_EXTENSIONS.get(kind, '.safetensors')}"
            yield kind, name, _BASES[(i * 3 + j) % 2]


@cache
def catalogue() -> tuple[JSONObject, ...]:
    """All models that the simulator lists: invented, and always the same."""
    return tuple(_record(n, *facts) for n, facts in enumerate((*_KNOWN, *_invented())))


def _is(value: str) -> bool:
    return value.lower() in _TRUE


def _mentions(model: JSONObject, text: str) -> bool:
    words = (model["sd_name"], model["name"], *model["tags"])
    return any(text.lower() in word.lower() for word in words)


_FILTERS: Final[Mapping[str, Callable[[JSONObject, str], bool]]] = {
    "filter.visibility": lambda model, value: model["visibility"] == value,
    "filter.source": lambda model, value: model["source"] == value,
    "filter.types": lambda model, value: model["type"]["name"] in value.split(","),
    "filter.is_sdxl": lambda model, value: model["is_sdxl"] == _is(value),
    "filter.query": _mentions,
    "filter.is_inpainting": lambda model, value: (model["base_model_type"] == "Inpainting") == _is(value),
    "filter.is_nsfw": lambda model, value: model["is_nsfw"] == _is(value),
}


def _offset(cursor: str) -> int:
    bare = cursor.removeprefix("c_").removeprefix("c_")  # the official SDK puts one before what it is given
    try:
        offset = _whole(bare)
    except (ValueError, TypeError, LookupError, RecursionError) as exc:
        raise Refused("VALIDATOR", "invalid pagination.cursor") from exc
    return max(0, offset) if isinstance(offset, int) else 0


def _whole(bare: str) -> Any:
    if not bare or bare.isdecimal():
        return int(bare or 0)
    return json.loads(base64.b64decode(bare, validate=True))[0]


def page(query: Mapping[str, str]) -> dict[str, Any]:
    """List the models that the query asks for, one page of them; the last page has an empty `next_cursor`."""
    wanted = [(_FILTERS[name], value) for name, value in query.items() if value and name in _FILTERS]
    found = [model for model in catalogue() if all(test(model, value) for test, value in wanted)]
    start, text = _offset(query.get("pagination.cursor", "")), query.get("pagination.limit")
    limit = int(text) if text and text.isdecimal() else 0 if text else _DEFAULT_LIMIT
    if not 0 < limit <= _MAX_LIMIT:
        raise Refused("VALIDATOR", "invalid pagination.limit: value must be inside range (0, 100]")
    shown = found[start : start + limit]
    cursor = ""
    if start + limit < len(found):
        cursor = "c_" + base64.b64encode(json.dumps([start + limit, str(shown[-1]["id"])]).encode()).decode()
    return {
        "models": [{name: value for name, value in model.items() if name != "visibility"} for model in shown],
        "pagination": {"next_cursor": cursor},
    }
