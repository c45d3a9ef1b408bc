"""`demo`: everything at work, without a key and without cost, on a simulated service behind a real socket."""

import itertools
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import anyio
import anyio.to_thread
import attrs
from attrs import define, field
from cyclopts import Parameter

from novita_async._client import NovitaClient
from novita_async._files.index import NAME as INDEX
from novita_async._stream.handle import Outcomes
from novita_async.cli._exits import Exit
from novita_async.cli._follow import FollowReport, follow
from novita_async.cli._output import Output
from novita_async.cli._progress import ProgressTally, Totals, display_of
from novita_async.cli._report import write_report
from novita_async.cli._status import rows_in
from novita_async.cli._workspace import Workspace
from novita_async.errors import ConfigurationError
from novita_async.models.faces import EditImage
from novita_async.models.requests import Img2Img
from novita_async.models.results import Succeeded
from novita_async.testing.config import DEFAULT_API_KEY, SimulatorConfig
from novita_async.testing.pictures import sample_picture
from novita_async.testing.server import SimulatorServer

_PICTURES: Final = {
    "lagoon": "a lagoon at dusk, paper lanterns, watercolour",
    "dunes": "dunes under a cold moon, oil on canvas",
    "fjord": "a fjord in autumn, linocut, bold shapes",
}
"""Names of the sample pictures, and what is to be made of them."""
_SIZE: Final = (512, 384)
_STRENGTHS: Final = (0.3, 0.5, 0.7, 0.9)
_SEEDS: Final = (7, 42)
_SERVICE: Final = SimulatorConfig(workers=3, latency=0.03)
"""Makes a picture in about a second and a half, three at a time: slow to watch, quick to wait for."""
_PAGE: Final = "index.html"
_TITLE: Final = "24 pictures from a simulated service"
_JOURNAL: Final = "batch.db"
_MODEL: Final = "sd_xl_base_1.0.safetensors"
_EDITING_MODEL: Final = "gpt-image-2"


@define(eq=False)
class _Show(FollowReport):
    """A report that leaves the summary to the demo."""

    edited: int = field(default=0, init=False)
    """Pictures that came at once, at the end."""

    def left_behind(self, outcomes: Outcomes) -> None:
        """The service ends with the demo: there is nothing to fetch."""
        self.tally.left_behind(unfinished=len(outcomes.unfinished), uncertain=len(outcomes.uncertain))

    def summary(self) -> None:
        totals = self.tally.statistics()
        if totals.ended < totals.requests:
            super().summary()


async def demo(
    *,
    out: str = "demo-output",
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> Exit:
    """Watch 24 pictures being made, without a key and without cost.

    Starts a simulated service on a free port of this machine, draws three pictures, sends each with four
    strengths and two seeds as a batch with a journal, saves all results, edits the three pictures through a
    route that answers at once, and ends with the report that every batch has. Takes about twenty seconds.

    Args:
        out: Folder for the pictures and the page. What an earlier demo left there is replaced, nothing else.
        json: Print one JSON object a line: each submission, each outcome, the summary, the page.
    """
    if find_spec("PIL") is None:
        raise ConfigurationError(
            problem="the demo draws its pictures with Pillow", advice="pip install 'novita-async[cli]'"
        )
    workspace = Workspace(Path(out))
    requests = await anyio.to_thread.run_sync(_prepared, workspace)
    show = _Show(Output(json, tells_paths=False), display_of(), ProgressTally(len(requests)), out)
    code = await _serve_and_send(requests, show, workspace)
    totals = show.tally.statistics()
    url = await anyio.to_thread.run_sync(_write_page, workspace)
    _tell(show, totals, url, code)
    return code


def _prepared(workspace: Workspace) -> list[Img2Img]:
    """Draw the inputs, and make the requests."""
    swept = itertools.product(_PICTURES, _STRENGTHS, _SEEDS)
    workspace.prepare(
        (
            _PAGE,
            *(f"{_JOURNAL}{suffix}" for suffix in ("", "-lock", "-shm", "-wal", "-new")),
            f"outputs/{INDEX}",
            *(f"inputs/{name}.png" for name in _PICTURES),
            *(f"outputs/{_result_name(*settings)}-1.png" for settings in swept),
            f"edits/{INDEX}",
            *(f"edits/{name}-1.png" for name in _PICTURES),
            f"edits/{next(iter(_PICTURES))}-and-others-1.png",
        )
    )
    for name in _PICTURES:
        workspace.write(f"inputs/{name}.png", sample_picture(name, _SIZE))
    return list(_requests(workspace))


def _result_name(name: str, strength: float | None, seed: int | None) -> str:
    return f"{name}-strength{strength}-seed{seed}"


def _requests(workspace: Workspace) -> Iterator[Img2Img]:
    for name, prompt in _PICTURES.items():
        request = Img2Img(model_name=_MODEL, image=workspace.folder / "inputs" / f"{name}.png", prompt=prompt)
        yield from request.sweep(seed=_SEEDS, strength=_STRENGTHS)


async def _serve_and_send(requests: list[Img2Img], show: _Show, workspace: Workspace) -> Exit:
    folder = workspace.folder
    async with (
        SimulatorServer(_SERVICE) as server,
        NovitaClient(DEFAULT_API_KEY, base_url=server.url, observers=[show]) as client,
    ):
        show.display.note(f"{len(requests)} requests go to a simulated service at {server.url}")
        batch = client.batch(
            requests, journal=folder / _JOURNAL, save_to=folder / "outputs", save_as=_file_name
        )
        code = await follow(batch, show)
        if code is Exit.SUCCEEDED:
            show.edited = await _edit(server.url, folder)
        return code


async def _edit(url: str, folder: Path) -> int:
    """Send a handful of edits through a route that answers at once, with the pictures in the answer."""
    places = [folder / "inputs" / f"{name}.png" for name in _PICTURES]
    first = EditImage(model=_EDITING_MODEL, image=places[0], prompt="as a woodcut", size="512x384")
    edits = [*first.sweep(image=places), attrs.evolve(first, images=places[1:], prompt="all in one")]
    async with (
        NovitaClient(DEFAULT_API_KEY, base_url=url) as client,
        client.stream(edits, save_to=folder / "edits", save_as=_edit_name) as outcomes,
    ):
        return sum([len(outcome.paths) async for outcome in outcomes if isinstance(outcome, Succeeded)])


def _edit_name(outcome: Succeeded) -> str:
    request = outcome.request
    assert isinstance(request, EditImage)  # noqa: S101 - it sends no others
    source = request.pictures[0].path
    return f"{source.stem if source else 'image'}{'-and-others' if request.images else ''}"


def _file_name(outcome: Succeeded) -> str:
    request = outcome.request
    assert isinstance(request, Img2Img)  # noqa: S101 - it sends no others
    source = request.image.path
    return _result_name(source.stem if source else "image", request.strength, request.seed)


def _write_page(workspace: Workspace) -> str:
    """The page's URL."""
    path = workspace.folder / _PAGE
    write_report(rows_in(workspace.folder / _JOURNAL), path, title=_TITLE)
    return path.resolve().as_uri()


def _tell(show: _Show, totals: Totals, url: str, code: Exit) -> None:
    output = show.output
    output.line(f"submitted {totals.submitted}, succeeded {totals.succeeded}, failed {totals.failed}")
    output.line(
        f"{totals.images_per_minute:.0f} images per minute, {totals.polls_per_task:.1f} polls per task, "
        f"{totals.seconds:.1f} s"
    )
    output.line(f"edited {show.edited} more with {_EDITING_MODEL}, whose route answers at once")
    output.line(url)
    output.record(
        event="demo",
        **totals.as_record(),
        edited=show.edited,
        images_per_minute=round(totals.images_per_minute, 1),
        polls_per_task=round(totals.polls_per_task, 2),
        page=url,
        exit_code=code,
    )
