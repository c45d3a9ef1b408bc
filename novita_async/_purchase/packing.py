"""Texts of requests, packed: in the tables of journals, and in memory, where thousands may be in flight."""

import zlib
from typing import Final

_USUAL: Final = (
    b'{"extra":{"enable_nsfw_detection":true,"nsfw_detection_level":0,"response_image_type":"webp","jpeg"},'
    b'"request":{"clip_skip":2,"controlnet":{"units":[{"guidance_end":1,"guidance_start":0,"image_base64":'
    b'{"$picture":"","path":"/home/"},"model_name":"control_v11p_sd15_canny","preprocessor":"canny",'
    b'"strength":1}]},"embeddings":[{"model_name":""}],"guidance_scale":7.5,"height":512,"image_base64":'
    b'{"$picture":"0123456789abcdef","path":"images/input/.jpg.png"},"image_num":1,"ip_adapters":['
    b'{"image_base64":{"$picture":""},"model_name":"ip-adapter_sdxl.bin","strength":1}],"loras":['
    b'{"model_name":"","strength":0.7}],"model_name":"sd_xl_base_1.0.safetensors","negative_prompt":'
    b'"blurry, low quality","prompt":"a photo of the, detailed","sampler_name":"DPM++ 2M Karras","sd_vae":"",'
    b'"seed":-1,"steps":20,"strength":0.5,"width":1024}}"sampler_name":"Euler a","seed":1'
)
"""Common parts of requests, most usual last. Journals are packed with this text, so it must never change."""
_WINDOW_BITS: Final = -12
_SQUEEZE: Final = zlib.compressobj(1, zlib.DEFLATED, _WINDOW_BITS, 3, zlib.Z_DEFAULT_STRATEGY, _USUAL)
"""With small tables, because setting them up is most of the work."""


def packed(text: str) -> bytes:
    """Pack a request's text into well under half the room."""
    squeeze = _SQUEEZE.copy()
    return squeeze.compress(text.encode()) + squeeze.flush()


def unpacked(data: bytes) -> str:
    """Unpack a request's text."""
    return zlib.decompressobj(_WINDOW_BITS, _USUAL).decompress(data).decode()


def packed_once(text: str | bytes) -> bytes:
    """Pack a text that is not packed yet."""
    return packed(text) if isinstance(text, str) else text
