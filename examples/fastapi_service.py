"""A service that restyles pictures, in FastAPI.

The client is made when the module is imported and opened by the lifespan, so that a server that forks its
workers (`gunicorn --preload`) forks nothing that is open. On SIGTERM the server lets its requests end, and
then the client waits for the answers to what it has sent.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from novita_async import (
    Img2Img,
    NovitaClient,
    NovitaError,
    Processing,
    Queued,
    TaskResult,
)
from novita_async.webhooks import asgi_receiver

MODEL = "sd_xl_base_1.0.safetensors"
PUBLIC_URL = os.environ.get(
    "PUBLIC_URL"
)  # where the service is reached from outside; without, tasks are polled
client = NovitaClient(webhook_url=f"{PUBLIC_URL}/novita" if PUBLIC_URL else None)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with client:
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/novita", asgi_receiver(client.webhook_waker()))


@app.exception_handler(NovitaError)
async def trouble(_: Request, error: NovitaError) -> JSONResponse:
    """Whatever goes wrong says what it cost; `task_id` stands for something paid, which can be asked for."""
    told = {"error": type(error).__name__, "message": str(error), "task_id": error.task_id}
    return JSONResponse(told, status_code=error.answer_with)


@app.post("/restyle")
async def restyle(request: Request, prompt: str) -> TaskResult:
    """Buy a picture and wait for it. A browser that goes away meanwhile finds it under `/tasks`."""
    return await client.run(Img2Img(model_name=MODEL, image=await request.body(), prompt=prompt), timeout=120)


@app.post("/tasks")
async def begin(request: Request, prompt: str) -> dict[str, str]:
    """Buy a picture and come back at once."""
    task = await client.submit(Img2Img(model_name=MODEL, image=await request.body(), prompt=prompt))
    return {"task_id": task.task_id}


@app.get("/tasks")
async def unfinished() -> list[str]:
    """Tasks that are paid and whose result nobody has seen."""
    return [task.task_id for task in client.unfinished]


@app.get("/tasks/{task_id}")
async def result(task_id: str) -> TaskResult:
    return await client.wait(task_id, timeout=120)


@app.get("/tasks/{task_id}/events")
async def events(task_id: str) -> StreamingResponse:
    """Tell the progress of a task by server-sent events. A browser that goes away ends the watch alone."""

    async def lines() -> AsyncIterator[str]:
        async with client.watch([task_id], updates=True) as updates:
            async for update in updates:
                match update:
                    case Queued():
                        yield event("queued", {})
                    case Processing():
                        yield event("progress", {"percent": update.progress_percent})
                    case outcome:
                        yield event("end", outcome.to_dict())

    return StreamingResponse(lines(), media_type="text/event-stream")


def event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
