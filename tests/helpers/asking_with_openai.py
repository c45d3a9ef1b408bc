"""A program that asks the service at a URL with the OpenAI package, and prints what that package read.

A program of its own, because that package loads much, and what it loads changes how others behave.
"""

import base64
import json
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

MODEL = "gpt-image-2"


def told(ask: Callable[[], Any]) -> dict[str, Any]:
    """What an answer holds, or the error that was raised."""
    try:
        answer = ask()
    except openai.APIStatusError as error:
        return {"error": type(error).__name__, "words": str(error), "type": error.type, "code": error.code}
    files = [
        base64.b64decode(image.b64_json) if image.b64_json else urllib.request.urlopen(image.url).read()
        for image in answer.data
    ]
    return {
        "files": [base64.b64encode(file).decode() for file in files],
        "forms": sorted(
            {name for image in answer.data for name in ("b64_json", "url") if getattr(image, name)}
        ),
        "prompts": [image.revised_prompt for image in answer.data],
        "created": answer.created,
        "format": answer.output_format,
    }


def main(url: str, dog: str, twice: str) -> None:
    with openai.OpenAI(base_url=f"{url}/openai/v1", api_key="sk_simulator", max_retries=0) as client:
        picture = ("dog.png", Path(dog).read_bytes(), "image/png")
        found = {
            f"edit {form}": told(
                lambda form=form: client.images.edit(
                    model=MODEL,
                    image=[picture, picture],
                    mask=picture,
                    prompt="in watercolour",
                    n=2,
                    size="96x64",
                    response_format=form,
                )
            )
            for form in ("b64_json", "url")
        }
        found |= {
            f"generate {form}": told(
                lambda form=form: client.images.generate(
                    model=MODEL, prompt="a dog", n=2, size="64x64", quality="low", response_format=form
                )
            )
            for form in ("b64_json", "url")
        }
        found["a file"] = told(
            lambda: client.images.edit(model=MODEL, image=Path(dog), prompt="p", size="64x64")
        )
        for changes in ({"prompt": "blood"}, {"n": 11}, {"size": "63x64"}, {"model": "other"}):
            asked = {"model": MODEL, "prompt": "a dog", "size": "64x64"} | changes
            found[f"refused {next(iter(changes))}"] = told(
                lambda asked=asked: client.images.generate(**asked)
            )
        other = client.with_options(api_key="sk-wrong")
        found["a wrong key"] = told(lambda: other.images.generate(model=MODEL, prompt="a dog"))
    with openai.OpenAI(base_url=f"{twice}/openai/v1", api_key="sk_simulator", max_retries=2) as client:
        found["a lost answer"] = told(
            lambda: client.images.generate(model=MODEL, prompt="a dog", size="64x64")
        )
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
