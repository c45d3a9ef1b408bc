"""`generate`: pictures in, pictures out."""

from typing import Annotated

import anyio.to_thread
from cyclopts import Parameter

from novita_async._client import NovitaClient
from novita_async._stream.stream import IN_FLIGHT
from novita_async.cli._exits import Exit
from novita_async.cli._follow import FollowReport, follow
from novita_async.cli._inputs import Typed, requests_of
from novita_async.cli._options import given
from novita_async.cli._output import Output
from novita_async.cli._progress import ProgressTally, display_of
from novita_async.cli._settings import EXTRA, REQUEST, SENDING, Parts, Settings
from novita_async.models.results import Succeeded


async def generate(
    images: Annotated[list[str] | None, Parameter(name="IMAGE", negative_iterable=())] = None,
    /,
    *,
    settings: Annotated[Settings | None, Parameter(name="*")] = None,
    lora: Parts = None,
    embedding: Parts = None,
    controlnet: Parts = None,
    ip_adapter: Parts = None,
    request: Annotated[str | None, Parameter(group=SENDING)] = None,
    out: Annotated[str, Parameter(group=SENDING)] = ".",
    in_flight: Annotated[int, Parameter(group=SENDING)] = IN_FLIGHT,
    images_per_minute: Annotated[int | None, Parameter(group=SENDING)] = None,
    json: Annotated[bool, Parameter(group=SENDING, negative=(), show_default=False)] = False,
) -> Exit:
    """Make pictures from pictures.

    Each IMAGE becomes one request with the same settings. Everything is checked before anything is bought.
    Results are saved as NAME-seedN-1.png as they finish, never over another file, and their paths are
    printed.

    Ctrl-C sends nothing more, waits a few seconds for the answers to what was sent, and tells how to fetch
    what is paid.

    In the descriptions, (API) marks what the service documents, (live) what was seen on it, (ours) what is
    chosen here.

    Args:
        images: Pictures to start from.
        settings: What to make.
        lora: `NAME[:STRENGTH]`. A small model that bends the checkpoint. May be repeated.
        embedding: `NAME`. A textual inversion. May be repeated.
        controlnet: `MODEL[:IMAGE[:STRENGTH]]`. A picture that guides. Default: IMAGE itself.
            May be repeated.
        ip_adapter: `MODEL[:IMAGE[:STRENGTH]]`. A picture used as a prompt. Default: IMAGE itself.
        request: A JSON file in the API's form, `{"extra": …, "request": …}`. IMAGE and options go
            before what it says.
        out: Folder for the results; made where it is missing.
        in_flight: How many requests may be under way at once.
        images_per_minute: The account's quota of pictures. Where it is not given, it is found out.
        json: Print one JSON object a line: each submission, each outcome, the summary.
    """
    typed = Typed(
        pictures=images or (),
        file=request,
        out=out,
        values=given((*REQUEST, *EXTRA), settings),
        loras=lora or (),
        embeddings=embedding or (),
        controlnets=controlnet or (),
        ip_adapters=ip_adapter or (),
    )
    requests = await anyio.to_thread.run_sync(requests_of, typed, (*REQUEST, *EXTRA))
    report = FollowReport(Output(json), display_of(), ProgressTally(len(requests)), out)
    async with NovitaClient(images_per_minute=images_per_minute, observers=[report]) as client:
        return await follow(
            client.stream(requests, in_flight=in_flight, save_to=out, save_as=file_name), report
        )


def file_name(outcome: Succeeded) -> str:
    """Call a result after its picture and the seed that makes it again."""
    request, seed = outcome.request, outcome.result.seed
    source = request.pictures[0].path if request and request.pictures else None
    stem = "image" if source is None else source.stem
    return stem if seed is None else f"{stem}-seed{seed}"
