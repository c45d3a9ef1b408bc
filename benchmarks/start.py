"""Starting: how long importing takes, how much is installed, from a wheel that pip has put into a folder.

What pip installs has byte code, and is found where it lies: an editable installation may have neither. Other packages are
those of this environment, and so are the numbers of packages and their sizes.
"""

import re
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.markers import Marker

from benchmarks._machine import ROOT
from benchmarks._rounds import interleaved
from benchmarks._tables import Bar, Figure, Headline, Table

NAME = re.compile(r"[\w.-]+")
IMPORTS = {
    "novita_async, a client made": "import novita_async; novita_async.NovitaClient('k')",
    "novita_async, only imported": "import novita_async",
    "aiohttp": "import aiohttp",
    "httpx": "import httpx",
    "httpx2": "import httpx2",
    "novita-client": "import novita_client",
    "fal-client": "import fal_client",
    "replicate": "import replicate",
    "Python alone": "pass",
}
PACKAGES = {
    "novita_async, a client made": "novita-async",
    "novita_async, only imported": "novita-async",
    "aiohttp": "aiohttp",
    "httpx": "httpx",
    "httpx2": "httpx2",
    "novita-client": "novita-client",
    "fal-client": "fal-client",
    "replicate": "replicate",
}
OURS, LIMIT = "novita_async, a client made", "aiohttp"


def needed(name: str, known: dict[str, Distribution] | None = None) -> dict[str, Distribution]:
    """A package and all that it needs here, extras left out."""
    known = {} if known is None else known
    key = name.lower().replace("_", "-")
    if key in known:
        return known
    known[key] = distribution(name)
    for requirement in known[key].requires or ():
        what, _, marker = requirement.partition(";")
        if "extra ==" not in marker and _applies(marker):
            match = NAME.match(what)
            assert match
            needed(match[0], known)
    return known


def _applies(marker: str) -> bool:
    return not marker.strip() or Marker(marker.strip()).evaluate({"extra": ""})


def size(packages: dict[str, Distribution]) -> float:
    """Megabytes of what is installed, compiled caches left out."""
    files = (file for package in packages.values() for file in package.files or ())
    paths = {file.locate() for file in files if file.suffix != ".pyc"}
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def own_size(folder: Path) -> float:
    """Megabytes of this package's own files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix not in ("", ".pyc")) / 1e6


def install(folder: Path) -> None:
    """Put this package there as pip leaves it for users, with byte code."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def start(folder: Path, name: str) -> dict[str, float]:
    """Begin a process in that folder, where Python looks first, and import."""
    cpu, began = cpu_of_children(), time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS[name]], check=True, cwd=folder)  # noqa: S603
    return {"ms": (time.perf_counter() - began) * 1000, "cpu": (cpu_of_children() - cpu) * 1000}


def cpu_of_children() -> float:
    """Seconds of all processes that were run from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def installed(folder: Path, name: str) -> tuple[str, str]:
    if name not in PACKAGES:
        return "", ""
    packages = needed(PACKAGES[name])
    own = own_size(folder) if PACKAGES[name] == "novita-async" else 0.0
    return str(len(packages)), f"{size(packages) + own:.1f}"


def tables(*, quick: bool) -> list[Table]:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        install(folder)
        measure = partial(start, folder)
        for name in IMPORTS:  # the first start of an editable installation compiles
            measure(name)
        rounds = interleaved(list(IMPORTS), measure, 3 if quick else 9)
        shown = {name: installed(folder, name) for name in IMPORTS}
    return [
        Table(
            title="Start: import and installation",
            how=f"A Python process that imports it and ends, this package from a wheel that pip has installed, "
            f"{len(rounds.of[OURS])} interleaved rounds; the ratio is that of CPU. Packages and "
            "megabytes of an installation with all that it needs, without extras.",
            header=("", "ms", "CPU ms", "over aiohttp's", "packages", "MB installed"),
            rows=[
                (
                    name,
                    Figure(rounds.values(name, "ms"), "{:.0f}"),
                    Figure(rounds.values(name, "cpu"), "{:.0f}"),
                    Figure([rounds.ratio(name, LIMIT, "cpu")]),
                    *shown[name],
                )
                for name in IMPORTS
            ],
            bars=[
                Bar(
                    what="CPU, against import aiohttp", measured=rounds.ratio(OURS, LIMIT, "cpu"), at_most=1.6
                )
            ],
            notes=[f"limit: {LIMIT}'s"],
            headlines=[
                Headline(
                    what="importing it and making a client; packages installed",
                    ours=f"{rounds.median(OURS, 'ms'):.0f} ms; {shown[OURS][0]}",
                    peer=f"{rounds.median('novita-client', 'ms'):.0f} ms; {shown['novita-client'][0]} (novita-client)",
                    limit=f"{rounds.median(LIMIT, 'ms'):.0f} ms; {shown[LIMIT][0]} (aiohttp)",
                )
            ],
        )
    ]
