"""Answers that hold pictures, as services write them."""

import base64
import json
import random

PNG = b"\x89PNG\r\n\x1a\n"


def picture(size=3000, seed=0):
    """Bytes that begin like a PNG."""
    return PNG + random.Random(seed).randbytes(size - len(PNG))


def images_answer(*pictures, **more):
    """The answer of OpenAI's shape."""
    data = [{"b64_json": base64.b64encode(each).decode(), "revised_prompt": "a dog"} for each in pictures]
    return json.dumps({"created": 1, "data": data, **more}).encode()
