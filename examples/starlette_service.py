"""A service that restyles pictures, in Starlette."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from novita_async import Img2Img, NovitaClient, NovitaError

client = NovitaClient()


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with client:
        yield


async def restyle(request: Request) -> JSONResponse:
    wish = Img2Img(
        model_name="sd_xl_base_1.0.safetensors",
        image=await request.body(),
        prompt=request.query_params["prompt"],
    )
    return JSONResponse((await client.run(wish, timeout=120)).to_dict())


async def trouble(_: Request, error: NovitaError) -> JSONResponse:
    return JSONResponse({"error": type(error).__name__, "message": str(error)}, status_code=error.answer_with)


app = Starlette(
    routes=[Route("/restyle", restyle, methods=["POST"])],
    lifespan=lifespan,
    exception_handlers={NovitaError: trouble},
)
