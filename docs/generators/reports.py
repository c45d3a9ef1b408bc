"""The report of a batch as a reader gets it, and its picture, taken by a browser where there is one."""

import shutil
import subprocess
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from attrs import evolve

from docs.generators import looks
from novita_async import Img2Img
from novita_async.cli._app import main
from novita_async.testing import Simulation, SimulatorConfig, run_virtually, sample_picture

MADE: Final = Path(__file__).parents[1] / "made"
BATCH: Final = "spring"
"""Name of the batch, which stands at the top of its report."""
PAGE: Final = "report.html"
LIGHT: Final = "report.png"
DARK: Final = "report-dark.png"
SIZE: Final = (1180, 1330)
_PROMPTS: Final = {"lagoon": "a lagoon at dusk, watercolour", "dunes": "dunes under a cold moon, oil"}
_REFUSED: Final = "trademark"
_TAKE: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip
_ENOUGH: Final = 60.0
"""Seconds after which a browser that takes no picture is given up."""


def write(folder: Path) -> None:
    """Make a batch, its report, and pictures of that."""
    with TemporaryDirectory() as home, chdir(home):
        Path(BATCH).mkdir()
        run_virtually(_made, _requests())
        with redirect_stdout(StringIO()):
            main(["report", BATCH, "--embed", "--out", str(folder)])
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    for name, flags in ((LIGHT, ()), (DARK, ("--force-dark-mode",))):
        (folder / name).unlink(missing_ok=True)
        if browser is not None:
            _look(browser, folder / PAGE, folder / name, flags)


def _requests() -> list[Img2Img]:
    """Requests for two pictures, and one that the service refuses."""
    found: list[Img2Img] = []
    for name, prompt in _PROMPTS.items():
        picture = Path(f"{name}.png")
        picture.write_bytes(sample_picture(name, (512, 384)))
        wish = Img2Img(model_name="sd_xl_base_1.0.safetensors", image=picture, prompt=prompt)
        swept = wish.sweep(strength=(0.4, 0.6, 0.8), seed=(7, 42))
        found += [each.tagged(f"{name}-{number}") for number, each in enumerate(swept)]
    return [*found, evolve(found[0], prompt=f"a {_REFUSED} in neon").tagged("sign-0")]


async def _made(requests: list[Img2Img]) -> None:
    """A batch as they are: most is saved, a request is refused, and one of a lost answer is uncertain."""
    simulation = Simulation.of(SimulatorConfig(images_per_minute=10, illegal_words=(_REFUSED,)))
    simulation.fail("submit", reset_after=True, numbers=5)
    async with (
        simulation.client(images_per_minute=10) as client,
        client.batch(requests, journal=f"{BATCH}/batch.db", save_to=BATCH) as outcomes,
    ):
        async for _ in outcomes:
            pass


def _look(browser: str, page: Path, picture: Path, flags: tuple[str, ...]) -> None:
    with TemporaryDirectory() as profile:
        width, height = SIZE
        taken = [f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--screenshot={picture}"]
        command = [browser, *_TAKE, *flags, *taken, page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=_ENOUGH)  # noqa: S603 - our own page


def shown() -> str:
    """The picture, where a browser has taken one, and the page itself."""
    lines = [f'The page itself: <a href="../made/{PAGE}">open it</a>.']
    if (MADE / LIGHT).exists():
        lines.insert(0, f"{looks.shown('The report of a batch', 'report', 'png')}\n")
    return "\n".join(["Here from a batch of 13 requests, made by the build:\n", *lines])
