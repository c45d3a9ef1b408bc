"""The suite on every Python that is installed, under uvloop, and with the newest of what it stands on.

    python -m tools.rows                    # all rows
    python -m tools.rows 3.12 uvloop        # some

A row has an environment of its own, `.venv-NAME`, made by the Makefile; its output goes to `.venv-NAME.log`.
At the end a table tells how each row ended, and which Pythons are missing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

ROOT: Final = Path(__file__).parents[1]
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
ASK: Final = "import ensurepip, sqlite3, ssl, sys; print(*sys.version_info[:2], sep='.')"


@frozen
class Row:
    """How a row ended."""

    name: str
    told: str
    failed: bool = False


# --- Pythons ------------------------------------------------------------------------------------------------


def pyenv_folder() -> Path:
    """Where pyenv keeps its Pythons, whether or not there is a pyenv."""
    if told := os.environ.get("PYENV_ROOT"):
        return Path(told)
    if shutil.which("pyenv"):
        return Path(
            subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True).stdout.strip()
        )
    return Path.home() / ".pyenv"


def candidates(version: str) -> Iterator[str]:
    """Programs that may be this Python: those on the path first, then pyenv's, the newest first."""
    for name in (f"python{version}", "python3", "python"):
        if found := shutil.which(name):
            yield found
    yield from map(str, sorted(pyenv_folder().glob(f"versions/{version}*/bin/python{version}"), reverse=True))


def is_python(program: str, version: str) -> bool:
    """Whether it runs, is this version and whole. A shim of pyenv may be none of these."""
    try:
        told = subprocess.run([program, "-c", ASK], capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return False
    return told.stdout.strip() == version


def find_python(version: str) -> str | None:
    return next((program for program in candidates(version) if is_python(program, version)), None)


# --- Rows ---------------------------------------------------------------------------------------------------


def folder_of(name: str) -> str:
    return f".venv-{name.removesuffix('-pre')}"


def program_of(name: str) -> Path:
    return ROOT / folder_of(name) / "bin" / "python"


def make(row: str, target: str, **variables: str) -> bool:
    """Run a target of the Makefile in a row's environment. Its output goes to a file beside that."""
    command = [
        "make",
        target,
        f"VENV={folder_of(row)}",
        *(f"{name}={value}" for name, value in variables.items()),
    ]
    with log_of(row).open("a", encoding="utf-8") as log:
        return subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False).returncode == 0


def log_of(row: str) -> Path:
    return ROOT / f".venv-{row}.log"


def ended(row: str, done: bool, more: str = "") -> Row:  # noqa: FBT001 - the one thing that is asked
    lines = log_of(row).read_text(encoding="utf-8").splitlines()
    counted = [line.strip("= ") for line in lines if " passed" in line or " failed" in line]
    told = counted[-1] if counted else "did not get as far as a test"
    return Row(row, f"{told}{more}", failed=not done)


def on_python(version: str) -> Row:
    program = find_python(version)
    if program is None:
        return Row(version, f"missing: no python{version} on the path or in {pyenv_folder()}")
    return ended(version, make(version, "suite", PYTHON=program))


def under_uvloop() -> Row:
    return ended("uvloop", make("uvloop", "suite-uvloop", PYTHON=sys.executable))


def with_the_newest() -> Row:
    (ROOT / folder_of("newest") / ".dev").unlink(missing_ok=True)  # so that make looks for newer ones
    return ended("newest", make("newest", "suite", PYTHON=sys.executable, CONSTRAINTS=""))


def version_of_aiohttp(row: str) -> str:
    command = [program_of(row), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return next(one["version"] for one in json.loads(done.stdout) if one["name"] == "aiohttp")


def with_aiohttp(*, pre: bool) -> Row:
    """Run with the newest aiohttp and the tested versions of all else; or with a newer pre-release."""
    row = "aiohttp-pre" if pre else "aiohttp"
    if not make(row, f"{folder_of(row)}/.dev", PYTHON=sys.executable):
        return ended(row, done=False)
    pip = [program_of(row), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--upgrade"]
    subprocess.run([*pip, "aiohttp"], check=True)
    released = version_of_aiohttp(row)
    if pre:
        # `--pre` alone would bring pre-releases of what aiohttp needs, too.
        subprocess.run([*pip, "--pre", "--no-deps", "aiohttp"], check=True)
    version = version_of_aiohttp(row)
    if pre and version == released:
        return Row(row, f"there is no pre-release newer than {released}")
    done = ended(row, make(row, "suite"), f" (aiohttp {version})")
    return Row(row, f"{done.told}, which may fail", failed=False) if pre else done


ROWS: Final[Mapping[str, Callable[[], Row]]] = {
    **{version: lambda version=version: on_python(version) for version in PYTHONS},
    "uvloop": under_uvloop,
    "newest": with_the_newest,
    "aiohttp": lambda: with_aiohttp(pre=False),
    "aiohttp-pre": lambda: with_aiohttp(pre=True),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="row", help=f"one of {', '.join(ROWS)}")
    names = parser.parse_args().rows or [*ROWS]
    if unknown := set(names) - ROWS.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    rows = []
    for name in names:
        print(f"{name}: runs; its output goes to {log_of(name).name}", flush=True)
        log_of(name).write_text("", encoding="utf-8")
        start = time.monotonic()
        rows.append(ROWS[name]())
        print(f"{name}: {rows[-1].told}, after {time.monotonic() - start:.0f} s", flush=True)
    print()
    for row in rows:
        print(f"{row.name:12} {'FAILED: ' * row.failed}{row.told}")
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
