"""What the project's own runs install, and on which Pythons they take place."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools import rows

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PINS = [Requirement(line) for line in CONSTRAINTS.splitlines() if line and not line.lstrip().startswith("#")]

REQUIRED = [
    Requirement(text)
    for group in (
        PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"].values(),
        *PROJECT["dependency-groups"].values(),
    )
    for text in group
    if isinstance(text, str)
]


@pytest.mark.parametrize("required", REQUIRED, ids=str)
def test_what_the_project_asks_for_is_pinned_within_its_range(required):
    pins = [pin for pin in PINS if pin.name.lower() == required.name.lower()]
    assert pins
    for pin in pins:
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert required.specifier.contains(exact.version)


def test_every_group_is_pinned():
    (groups,) = re.findall(r"^GROUPS := (.*)$", MAKEFILE, re.MULTILINE)
    included = {
        one["include-group"]
        for group in PROJECT["dependency-groups"].values()
        for one in group
        if isinstance(one, dict)
    }
    assert {*groups.split(), *included} == PROJECT["dependency-groups"].keys()


def test_the_constraints_name_no_index_and_no_host():
    assert not re.search(r"^\s*-|://", CONSTRAINTS, re.MULTILINE)


def test_every_install_of_the_makefile_heeds_the_constraints():
    installs = [line for line in MAKEFILE.splitlines() if "pip install" in line]
    assert len(installs) >= 3
    unpinned = [line for line in installs if "$(PINNED)" not in line]
    assert [line.split()[-1] for line in unpinned] == ["uv"], "only the tool that makes the pins"


def test_the_workflows_run_targets_that_exist():
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / ".github/workflows").glob("*.yml"))
    targets = {*re.findall(r"make ([\w-]+)", text), *re.findall(r"target: \[?([\w-]+)", text)}
    assert targets == {
        *(
            "test",
            "coverage",
            "test-newest",
            "test-uvloop",
            "test-browser",
            "test-aiohttp",
            "examples",
            "docs",
            "dist",
        ),
    }
    assert all(re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) for target in targets)
    for version in rows.PYTHONS:
        assert f'"{version}"' in text


def test_the_workflows_name_every_action_by_a_commit():
    """A tag can be moved to other code by whoever gets hold of the action."""
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / ".github/workflows").glob("*.yml"))
    actions = re.findall(r"uses: (.+)", text)
    assert len(actions) >= 10
    commit = re.compile(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+")
    assert [action for action in actions if not commit.fullmatch(action)] == []


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A machine without any Python: its path, and the folder of its pyenv."""
    for name in ("bin", "pyenv"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return tmp_path


def program(path, code):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return str(path)


def test_a_python_that_is_missing_is_told_with_where_it_was_looked_for(elsewhere):
    row = rows.on_python("3.14")
    assert row.told == f"missing: no python3.14 on the path or in {elsewhere / 'pyenv'}"
    assert not row.failed


def test_a_shim_that_runs_no_python_is_passed_over_for_one_of_pyenv(elsewhere):
    program(elsewhere / "bin/python3.12", "exit 127")
    program(elsewhere / "bin/python3", "echo 3.11")
    found = program(elsewhere / "pyenv/versions/3.12.1/bin/python3.12", "echo 3.12")
    assert rows.find_python("3.12") == found


def test_a_file_that_cannot_run_is_no_python(elsewhere):
    path = elsewhere / "pyenv/versions/3.13.0/bin/python3.13"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x7fnothing")
    path.chmod(0o755)
    assert rows.find_python("3.13") is None


def test_this_python_is_itself():
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert rows.is_python(sys.executable, version)
    assert not rows.is_python(sys.executable, "3.10")


def test_a_row_tells_what_pytest_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "ROOT", tmp_path)
    log = rows.log_of("uvloop")
    log.write_text("...\n==== 1 failed, 2 passed in 3.00s ====\nmake: *** [suite] Error 1\n")
    assert rows.ended("uvloop", done=False) == rows.Row("uvloop", "1 failed, 2 passed in 3.00s", failed=True)
    log.write_text("make: no such program\n")
    assert rows.ended("uvloop", done=False).told == "did not get as far as a test"
