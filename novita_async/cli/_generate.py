"""`generate`: pictures in, pictures out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, cast

import anyio.to_thread
from attrs import evolve
from cyclopts import Parameter

from novita_async._client import NovitaClient
from novita_async._policy.spending import Budget
from novita_async._stream.stream import IN_FLIGHT
from novita_async.cli._batch import tell_plan
from novita_async.cli._exits import Exit
from novita_async.cli._follow import FollowReport, follow
from novita_async.cli._inputs import Faults, Typed, requests_of
from novita_async.cli._manifest import axes_of
from novita_async.cli._options import given
from novita_async.cli._output import Output
from novita_async.cli._progress import ProgressTally, display_of
from novita_async.cli._settings import EXTRA, REQUEST, SENDING, DryRun, Out, Parts, Settings
from novita_async.cli._setup import Setup
from novita_async.errors import Flaw, InvalidRequest
from novita_async.models.endpoints import Endpoints
from novita_async.models.requests import Img2Img, NovitaRequest
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
    sweep: Annotated[list[str] | None, Parameter(group=SENDING, negative_iterable=())] = None,
    out: Out = ".",
    in_flight: Annotated[int, Parameter(group=SENDING)] = IN_FLIGHT,
    images_per_minute: Annotated[int | None, Parameter(group=SENDING)] = None,
    price: Annotated[str | None, Parameter(group=SENDING)] = None,
    budget: Annotated[str | None, Parameter(group=SENDING)] = None,
    name: Annotated[str | None, Parameter(group=SENDING)] = None,
    dry_run: DryRun = False,
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
        sweep: `FIELD=1..8` or `FIELD=0.3,0.5`. Makes of each picture a request for every value; with several
            sweeps, for every combination. Texts with commas: `FIELD=["a, b", "c"]`.
        out: Folder for the results, made where it is missing, or `s3://BUCKET/PREFIX` (`gs://…`, `az://…`).
        in_flight: How many requests may be under way at once.
        images_per_minute: The account's quota of pictures. Where it is not given, it is found out.
        price: Dollars an image, which the API does not tell.
        budget: The most that may be spent, in dollars. Needs `--price`.
        name: What files are called: a template of `{index}`, `{seed}`, `{n}`, `{ext}` and `{task_id}`.
            Default: the picture's name and the seed.
        dry_run: Check everything and tell what it would be; buy nothing, write nothing.
        json: Print one JSON object a line: each submission, each outcome, the summary.
    """
    typed = Typed(
        pictures=images or (),
        file=request,
        out=None if dry_run else out,
        values=given((*REQUEST, *EXTRA), settings),
        loras=lora or (),
        embeddings=embedding or (),
        controlnets=controlnet or (),
        ip_adapters=ip_adapter or (),
    )
    setup = Setup(
        inputs=(),
        images_per_minute=images_per_minute,
        price=price,
        budget=budget,
        name=name,
        sweep=sweep or (),
    )
    requests, spending = await anyio.to_thread.run_sync(_checked, typed, setup)
    if dry_run:
        _tell_plan(Output(json), setup, spending, requests)
        return Exit.SUCCEEDED
    report = FollowReport(
        Output(json), display_of(), ProgressTally(len(requests)), out, price=setup.price_each()
    )
    options: dict[str, Any] = {"images_per_minute": images_per_minute, "observers": [report]}
    async with NovitaClient(**options, budget=spending) as client:
        report.spending = lambda: client.statistics().spending
        return await follow(
            client.stream(requests, in_flight=in_flight, save_to=out, save_as=name or file_name), report
        )


def _checked(typed: Typed, setup: Setup) -> tuple[list[NovitaRequest], Budget | None]:
    """Make the requests and the budget. Raises `InvalidRequest`, which names every fault."""
    faults: Faults = []
    spending = setup.spending(faults)
    setup.check_name(faults)
    axes = axes_of(setup.sweep, faults)
    try:
        requests = [each for one in requests_of(typed, (*REQUEST, *EXTRA)) for each in _swept(one, axes)]
    except InvalidRequest as refusal:
        refusal.faults += tuple(faults)
        raise
    if faults:
        raise InvalidRequest(faults=tuple(faults), advice="nothing was bought")
    return requests, spending


def _swept(request: NovitaRequest, axes: Mapping[str, Sequence[Any]]) -> Iterator[NovitaRequest]:
    """Every combination. Raises `InvalidRequest`: a value does not go with the picture."""
    try:
        yield from cast("Img2Img", request).sweep(**axes)
    except InvalidRequest as refusal:
        refusal.faults = tuple(
            Flaw(
                f"--sweep {name}" if (name := each.path.rpartition(".")[2]) in axes else each.path,
                each.message,
            )
            for each in refusal.faults
        )
        raise


def _tell_plan(
    output: Output, setup: Setup, spending: Budget | None, requests: Sequence[NovitaRequest]
) -> None:
    images, endpoints = Counter[str](), Endpoints()
    for request in requests:
        images[endpoints.path_of(request)] += request.image_num
    tell_plan(output, evolve(setup, requests=len(requests), images=dict(images)), spending, None)


def file_name(outcome: Succeeded) -> str:
    """Call a result after its picture and the seed that makes it again."""
    request, seed = outcome.request, outcome.result.seed
    source = request.pictures[0].path if request and request.pictures else None
    stem = "image" if source is None else source.stem
    return stem if seed is None else f"{stem}-seed{seed}"
