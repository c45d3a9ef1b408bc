"""What the import contracts cannot say: rooms of pure decisions stay pure, and exceptions have reasons."""

import ast
import re
from pathlib import Path

import pytest

import novita_async

PACKAGE = Path(novita_async.__file__).parent

PURE = sorted(
    path
    for pattern in (
        "errors.py",
        "events.py",
        "_http.py",
        "tasks.py",
        "_api/*.py",
        "_purchase/machine.py",
        "_journal/identity.py",
        "_journal/rows.py",
        "models/*.py",
        "_policy/*.py",
        "testing/core.py",
        "testing/constraints.py",
        "testing/quota.py",
        "testing/tasks.py",
        "testing/workers.py",
        "testing/ledger.py",
    )
    for path in PACKAGE.glob(pattern)
)
ALL = sorted(PACKAGE.rglob("*.py"))

CLOCKS = {"now", "utcnow", "today", "monotonic", "perf_counter", "time_ns", "get_running_loop"}
FILES = {
    "open",
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
    "unlink",
    "mkdir",
    "environ",
    "getenv",
}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def called(tree: ast.AST, names: set[str]) -> list[str]:
    """Calls of functions and methods of these names, with their lines."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    found = ((ast.unparse(call.func).rpartition(".")[2], call.lineno) for call in calls)
    return [f"{name} in line {line}" for name, line in found if name in names]


def test_the_pure_rooms_are_there():
    rooms = {
        "errors.py",
        "_api/codec.py",
        "_purchase/machine.py",
        "models/requests.py",
        "_policy/retrying.py",
    }
    assert rooms <= set(map(name_of, PURE))


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_a_pure_room_reads_no_clock(path):
    assert not called(tree_of(path), CLOCKS)


@pytest.mark.parametrize("path", [path for path in PURE if path.name != "images.py"], ids=name_of)
def test_a_pure_room_touches_no_file_and_no_environment(path):
    """The one exception is named: a picture is measured, and read when it is sent."""
    assert not called(tree_of(path), FILES)


PROTOCOLS = {"_http.py", "machine.py"}


@pytest.mark.parametrize("path", [path for path in PURE if path.name not in PROTOCOLS], ids=name_of)
def test_a_pure_room_never_waits(path):
    """In `_http` and in the machine stand the protocols of those who wait."""
    waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert not [node for node in ast.walk(tree_of(path)) if isinstance(node, waits)]


def test_a_clock_a_file_and_a_wait_would_be_found():
    tree = ast.parse("async def f():\n    datetime.now(UTC)\n    open('x')\n    p.read_bytes()")
    assert called(tree, CLOCKS) == ["now in line 2"]
    assert called(tree, FILES) == ["open in line 3", "read_bytes in line 4"]


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_every_ignored_type_error_has_a_reason(path):
    for line in path.read_text(encoding="utf-8").splitlines():
        if "# type: ignore" in line:
            assert re.search(r"# type: ignore\[[\w, -]+\]\s+\S+", line), line


def test_only_one_place_makes_a_cattrs_converter():
    makers = [name_of(path) for path in ALL if re.search(r"\bConverter\(", path.read_text(encoding="utf-8"))]
    assert makers == ["_api/converter.py"]
