"""Other people's clients, as their documentation says to use them, pointed at a local server.

Each is an async context manager that, given the server's URL and a picture, hands out what submits it once.
"""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import fal_client
import fal_client.client
import httpx
import httpx2
import replicate
from novita_client import NovitaClient as OfficialClient
from novita_client.proto import CommonV3Extra, Img2ImgV3Request

PATH = "/v3/async/img2img"
THREADS = 64
VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"

Picture = bytes | Path
Submit = Callable[[], Awaitable[object]]
Contender = Callable[[str, Picture], AbstractAsyncContextManager[Submit]]


def read(picture: Picture) -> bytes:
    return picture if isinstance(picture, bytes) else picture.read_bytes()


def request_of(picture: Picture) -> dict[str, dict[str, object]]:
    """What most programs write: the whole request as one dictionary."""
    image = base64.b64encode(read(picture)).decode()
    return {
        "request": {
            "model_name": "m",
            "image_base64": image,
            "prompt": "a cute dog",
            "width": 512,
            "height": 512,
            "image_num": 1,
            "steps": 20,
            "guidance_scale": 7.5,
            "sampler_name": "Euler a",
        }
    }


@asynccontextmanager
async def naive_aiohttp(url: str, picture: Picture) -> AsyncIterator[Submit]:
    """aiohttp, `json=`."""
    headers = {"Authorization": "Bearer key"}
    async with aiohttp.ClientSession() as session:

        async def submit() -> None:
            async with session.post(url + PATH, json=request_of(picture), headers=headers) as response:
                assert (await response.json())["task_id"]

        yield submit


@asynccontextmanager
async def naive_httpx(url: str, picture: Picture) -> AsyncIterator[Submit]:
    """httpx, `json=`."""
    async with httpx.AsyncClient(headers={"Authorization": "Bearer key"}, timeout=120) as client:
        yield _posting(client, url, picture)


@asynccontextmanager
async def naive_httpx2(url: str, picture: Picture) -> AsyncIterator[Submit]:
    """httpx2, `json=`: what OpenAI's client is made of today."""
    async with httpx2.AsyncClient(headers={"Authorization": "Bearer key"}, timeout=120) as client:
        yield _posting(client, url, picture)


def _posting(client: "httpx.AsyncClient | httpx2.AsyncClient", url: str, picture: Picture) -> Submit:
    async def submit() -> None:
        response = await client.post(url + PATH, json=request_of(picture))
        assert response.json()["task_id"]

    return submit


@asynccontextmanager
async def official(url: str, picture: Picture) -> AsyncIterator[Submit]:
    """The provider's own client, which is synchronous, in threads."""
    client = OfficialClient("key", base_url=url)

    def post() -> None:
        request = Img2ImgV3Request(
            model_name="m",
            image_base64=base64.b64encode(read(picture)).decode(),
            prompt="a cute dog",
            width=512,
            height=512,
            image_num=1,
            steps=20,
            guidance_scale=7.5,
            sampler_name="Euler a",
        )
        assert client.raw_img2img_v3(request, CommonV3Extra()).task_id

    with ThreadPoolExecutor(THREADS) as threads:
        loop = asyncio.get_running_loop()
        yield lambda: loop.run_in_executor(threads, post)


@asynccontextmanager
async def fal(url: str, picture: Picture) -> AsyncIterator[Submit]:
    """fal-client: the picture as a data URL."""
    fal_client.client.QUEUE_URL_FORMAT = f"{url}/"
    client = fal_client.AsyncClient(key="key")

    async def submit() -> None:
        arguments = {"prompt": "a cute dog", "image_url": fal_client.encode(read(picture), "image/png")}
        assert (await client.submit("some/model", arguments)).request_id

    yield submit
    await (await client._client).aclose()  # noqa: SLF001 - it has no public way


@asynccontextmanager
async def replicated(url: str, picture: Picture) -> AsyncIterator[Submit]:
    """replicate: the picture as a file that it makes a data URL of."""
    client = replicate.Client(api_token="key", base_url=url)

    async def submit() -> None:
        given = {"prompt": "a cute dog", "image": io.BytesIO(read(picture))}
        made = await client.predictions.async_create(VERSION, given, file_encoding_strategy="base64")
        assert made.id

    yield submit
    await client._async_client.aclose()  # noqa: SLF001 - it has no public way


def body_of(picture: Picture) -> bytes:
    """The whole body, ready."""
    return json.dumps(request_of(picture)).encode()
