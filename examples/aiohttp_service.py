"""A service that restyles pictures, in aiohttp.web."""

import os
from collections.abc import AsyncIterator

from aiohttp import web

from novita_async import Img2Img, NovitaClient, NovitaError

client = NovitaClient()


async def restyle(request: web.Request) -> web.Response:
    try:
        wish = Img2Img(
            model_name="sd_xl_base_1.0.safetensors",
            image=await request.read(),
            prompt=request.query["prompt"],
        )
        return web.json_response((await client.run(wish, timeout=120)).to_dict())
    except NovitaError as error:
        return web.json_response(
            {"error": type(error).__name__, "message": str(error)}, status=error.answer_with
        )


async def with_client(_: web.Application) -> AsyncIterator[None]:
    async with client:
        yield


app = web.Application(client_max_size=12 * 1024**2)
app.cleanup_ctx.append(with_client)
app.router.add_post("/restyle", restyle)
if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
