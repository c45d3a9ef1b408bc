"""The tools that agents see, over the official SDK."""

import io
import json
import signal
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, Literal, ParamSpec

import anyio
import anyio.to_thread
from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from novita_async._client import NovitaClient
from novita_async._util.scopes import background
from novita_async._version import __version__
from novita_async.errors import NovitaError, SubmissionUncertain, TaskFailed
from novita_async.mcp._desk import ANSWER_TIMEOUT, Call, Desk, UnknownCallError

P = ParamSpec("P")
Answer = list[Any]

_PREVIEW: Final = 256
"""Pixels of a preview's longer side."""
_LAST_ANSWERS: Final = 8
"""Seconds that calls over HTTP get to end once the server is to stop."""
_INSTRUCTIONS: Final = (
    "Pictures cost money, and a budget bounds it. The same call again gives the same picture and costs "
    "nothing, so repeat a call freely after an error or a timeout; ask for another picture with another "
    "`variation`. Results are files: their paths come back, with a small preview of the first. A call that "
    "takes long comes back with an id: ask `task_result` for it. `routes` lists the models."
)

Variation = Annotated[int, Field(ge=1, description="1, 2, 3 …: another number buys another picture.")]
Model = Annotated[str, Field(description="A model of `routes`, such as qwen-image-edit.")]
Options = Annotated[
    dict[str, Any] | None, Field(description="Further fields of the model's route, as `routes` lists them.")
]


def make_server(desk: Desk) -> MCPServer:
    """Make a server of an open desk: edit_image, generate_image, task_result, routes, balance."""
    server = MCPServer("novita-async", version=__version__, instructions=_INSTRUCTIONS)

    @server.tool(structured_output=False)
    @_told
    async def edit_image(
        *,
        model: Model,
        image: Annotated[str, Field(description="Path of the picture to edit, on the server's machine.")],
        prompt: Annotated[str | None, Field(description="What to make of it.")] = None,
        mask: Annotated[str | None, Field(description="Path of a mask, where the route takes one.")] = None,
        size: Annotated[str | None, Field(description="Such as 1024x1024.")] = None,
        options: Options = None,
        variation: Variation = 1,
    ) -> Answer:
        """Edit a picture. Costs money once; the same call again costs nothing."""
        fields = _fields(model=model, prompt=prompt, size=size, options=options)
        call = await desk.edit(image=image, mask=mask, variation=variation, fields=fields)
        return await _answer(call)

    @server.tool(structured_output=False)
    @_told
    async def generate_image(
        model: Annotated[
            str, Field(description="A model of `routes` of kind generate, such as seedream-4.5.")
        ],
        prompt: Annotated[str, Field(description="What to show.")],
        size: Annotated[str | None, Field(description="Such as 1024x1024 or 2K.")] = None,
        options: Options = None,
        variation: Variation = 1,
    ) -> Answer:
        """Make a picture from words. Costs money once; the same call again costs nothing."""
        fields = _fields(model=model, prompt=prompt, size=size, options=options)
        return await _answer(await desk.generate(variation=variation, fields=fields))

    @server.tool(structured_output=False)
    @_told
    async def task_result(
        id: Annotated[str, Field(description="The id of a call, or of a task.")],  # noqa: A002 - the agent's word
    ) -> Answer:
        """Get the result of an earlier call, waiting for it. Costs nothing."""
        return await _answer(await desk.find(id))

    @server.tool(structured_output=False)
    @_told
    async def routes(
        kind: Annotated[str | None, Field(description="Such as edit or generate.")] = None,
        model: Annotated[str | None, Field(description="Tells all fields of this model's route.")] = None,
    ) -> Answer:
        """List the models, and what they take. Costs nothing."""
        return [json.dumps(_routes(desk.client, kind, model), ensure_ascii=False)]

    @server.tool(structured_output=False)
    @_told
    async def balance() -> Answer:
        """Tell what the account has, and what the budget leaves. Costs nothing."""
        left = desk.client.statistics().spending
        told = {"account_dollars": str((await desk.client.balance()).available)}
        if left is not None:
            told |= {"budget_dollars": str(left.limit), "budget_spent": str(left.spent + left.reserved)}
        return [json.dumps(told)]

    return server


async def serve(
    client: NovitaClient,
    folder: str | Path,
    *,
    transport: Literal["stdio", "http"] = "stdio",
    host: str = "127.0.0.1",
    port: int = 8765,
    answer_timeout: float = ANSWER_TIMEOUT,
) -> None:
    """Serve agents until the other side goes away (stdio), or until Ctrl-C or SIGTERM (HTTP, at `/mcp`)."""
    async with Desk.open(client, folder, answer_timeout=answer_timeout) as desk:
        server = make_server(desk)
        if transport == "stdio":
            await server.run_stdio_async()
        else:
            await _serve_http(server, host, port)


async def _serve_http(server: MCPServer, host: str, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM: calls under way get some seconds to end, and their answers are sent.

    Uvicorn's own handling of signals would end the process before a purchase under way has its answer.
    """
    import uvicorn  # noqa: PLC0415 - for this transport alone

    class Quiet(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Generator[None]:
            yield

    app = server.streamable_http_app(host=host)
    config = uvicorn.Config(app, host=host, port=port, timeout_graceful_shutdown=_LAST_ANSWERS)
    serving = Quiet(config)

    async def stop_at_signals() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                serving.should_exit = True

    async with background(stop_at_signals(), lambda _: None):
        await serving.serve()


def _told(tool: Callable[P, Awaitable[Answer]]) -> Callable[P, Awaitable[Answer]]:
    """Tell an agent what went wrong, what it cost, and what to do next."""

    @wraps(tool)
    async def call(*arguments: P.args, **named: P.kwargs) -> Answer:
        try:
            return await tool(*arguments, **named)
        except NovitaError as error:
            raise ToolError(f"{type(error).__name__}: {error}{_next(error)}") from None
        except UnknownCallError as error:
            raise ToolError(f"no call and no task has the id {error}: repeat the call itself") from None

    return call


def _next(error: NovitaError) -> str:
    if isinstance(error, SubmissionUncertain):
        return "; this call buys nothing more: to buy it again all the same, give another variation"
    if isinstance(error, TaskFailed):
        return "; to buy it again, give another variation"
    return ""


def _fields(**given: Any) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


async def _answer(call: Call) -> Answer:
    if call.answer is not None:
        return call.answer
    paths = call.paths()
    if not paths:
        told: dict[str, Any] = {"status": "running", "id": call.key, "next": f"task_result(id={call.key!r})"}
        return [json.dumps(told)]
    task, files = getattr(call.outcome, "task_id", None), [str(path) for path in paths]
    told = {"status": "succeeded", "id": call.key, "task_id": task, "files": files}
    preview = await anyio.to_thread.run_sync(_preview, paths[0])
    call.answer = [json.dumps(told, ensure_ascii=False), *preview]
    return call.answer


def _preview(path: Path) -> list[Image]:
    """A small picture of a file. Empty: the file is none, or cannot be read."""
    from PIL import Image as Pillow  # noqa: PLC0415 - takes 50 ms

    file = io.BytesIO()
    try:
        with Pillow.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((_PREVIEW, _PREVIEW))
            small.save(file, "JPEG", quality=80)
    except (OSError, ValueError):
        return []
    return [Image(data=file.getvalue(), format="jpeg")]


def _routes(client: NovitaClient, kind: str | None, model: str | None) -> list[dict[str, Any]]:
    found = [
        row for row in client.routes() if kind in (None, row.kind) and model in (None, *row.models, row.name)
    ]
    told: list[dict[str, Any]] = []
    for row in found:
        line: dict[str, Any] = {"models": row.models or (row.name,), "kind": row.kind, "hosts": row.hosts}
        line["status"] = row.status
        if model is not None:
            line["pictures"] = [{"name": each.name, "required": each.required} for each in row.pictures]
            line["fields"] = [
                _fields(name=each.name, type=each.type, required=each.required, range=each.range or None)
                for each in row.fields
            ]
        told.append(line)
    return told
