"""`models` and `balance`: what can be used, and what is left to spend."""

from itertools import count
from typing import Annotated, Any

import attrs
from cyclopts import Parameter

from novita_async._client import NovitaClient
from novita_async.cli._exits import Exit
from novita_async.cli._output import Output, StandardError
from novita_async.cli._progress import waited_for
from novita_async.errors import ConfigurationError
from novita_async.events import Event
from novita_async.models.catalogue import ModelRecord

_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


def _tell_waits(event: Event) -> None:
    waiting = waited_for(event)
    if waiting is not None:
        StandardError().note(waiting)


async def models(
    *,
    type: str | None = None,  # noqa: A002 - the option's name
    query: str | None = None,
    visibility: str | None = None,
    source: str | None = None,
    sdxl: bool | None = None,
    inpainting: bool | None = None,
    limit: int | None = None,
    json: _Flag = False,
) -> Exit:
    """List the models that requests can name: the name for requests, the kind, the base model.

    Args:
        type: One kind.
        query: Searched for in names and tags.
        visibility: `public` or `private`.
        source: `civitai`, `training` or `uploading`.
        sdxl: Only SDXL, or none of it.
        inpainting: Only those for inpainting, or none of them.
        limit: Stop after so many.
        json: Print one JSON object a line, with everything that is known of the model.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(problem=f"--limit: {limit} is not 1 or above")
    output = Output(json)
    numbers = count(1)
    async with NovitaClient(observers=[_tell_waits]) as client:
        records = client.models(
            types=type,
            query=query,
            visibility=visibility,
            source=source,
            is_sdxl=sdxl,
            is_inpainting=inpainting,
        )
        async for record in records:
            _tell_model(output, record)
            if next(numbers) == limit:
                break
        await records.aclose()
    return Exit.SUCCEEDED


def _tell_model(output: Output, record: ModelRecord) -> None:
    facts = (record.type, record.base_model, "nsfw" if record.is_nsfw else "")
    output.line("  ".join((record.api_name, *filter(None, facts))))
    output.record(**attrs.asdict(record), api_name=record.api_name)


async def balance(*, json: _Flag = False) -> Exit:
    """Tell what is left to spend, in dollars.

    Args:
        json: Print one JSON object.
    """
    async with NovitaClient(observers=[_tell_waits]) as client:
        found = await client.balance()
    facts: dict[str, Any] = {name: value for name, value in attrs.asdict(found).items() if value is not None}
    for name, value in facts.items():
        Output(json).line(f"{name.replace('_', ' ')}: ${value}")
    Output(json).record(**facts)
    return Exit.SUCCEEDED
