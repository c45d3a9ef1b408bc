"""Documented bodies of the API, and real pictures."""

import io
import json
import struct
from pathlib import Path
from typing import Any

from PIL import Image

API = Path(__file__).parents[1] / "data" / "api"


def load(name: str) -> Any:
    return json.loads((API / f"{name}.json").read_text(encoding="utf-8"))


def named(pattern: str) -> list[str]:
    """Names of the documents that match a pattern; at least one."""
    names = sorted(path.stem for path in API.glob(f"{pattern}.json"))
    assert names, pattern
    return names


def picture(kind: str = "PNG", size: tuple[int, int] = (640, 480), **options: Any) -> bytes:
    """A real picture, made by Pillow."""
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize(size).save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    """The beginning of a PNG of any size: enough to be measured."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + struct.pack(">II", width, height) + bytes(8)


def filled(document: Any, base64: str) -> Any:
    """The document with a real picture for each placeholder."""
    if isinstance(document, dict):
        return {name: filled(value, base64) for name, value in document.items()}
    if isinstance(document, list):
        return [filled(value, base64) for value in document]
    return base64 if isinstance(document, str) and document.startswith("{{") else document
