"""A service that restyles pictures, in Litestar."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar, Request, Response, post

from novita_async import Img2Img, NovitaClient, NovitaError, TaskResult

client = NovitaClient()


@asynccontextmanager
async def lifespan(_: Litestar) -> AsyncIterator[None]:
    async with client:
        yield


@post("/restyle", status_code=200)
async def restyle(request: Request, prompt: str) -> TaskResult:
    wish = Img2Img(model_name="sd_xl_base_1.0.safetensors", image=await request.body(), prompt=prompt)
    return await client.run(wish, timeout=120)


def trouble(_: Request, error: NovitaError) -> Response:
    told = {"error": type(error).__name__, "message": str(error), "task_id": error.task_id}
    return Response(told, status_code=error.answer_with)


app = Litestar([restyle], lifespan=[lifespan], exception_handlers={NovitaError: trouble})
