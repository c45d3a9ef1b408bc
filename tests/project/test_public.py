"""The public face: names, docstrings, and what importing them costs."""

import ast
import enum
import inspect
import os
import subprocess
import sys
import textwrap
import typing
from importlib import import_module
from pathlib import Path

import aiohttp
import attrs
import pytest

import novita_async
from novita_async import (
    errors,
    events,
    journal,
    logs,
    statistics,
    storage,
    sync,
    testing,
    transport,
    webhooks,
)
from tests.helpers.programs import python, run

PACKAGE = Path(novita_async.__file__).parent

NAMES = """
    APIError AWSS3 Account AnimateImage AnsweredAtOnce AnyTask ApiKey Array Artifact
    AuthenticationFailed Backoff BadRequest Balance BalanceExhausted Batch Budget BudgetExhausted
    ConfigurationError ContentRejected ControlNet ControlNetModel ControlNetUnit CustomStorage DataURL
    DownloadFailed EditImage Embedding EndpointNotFound Endpoints EnterprisePlan Extra Failed
    FailedEarlier Flaw GenerateImage GeneratedImage HiresFix Host IPAdapter IPAdapterModel ImageRejected
    ImageSource ImageType Img2Img InvalidRequest JournalError Lora MalformedAnswer ModelRecord ModelType
    NoAnswer NoImages NotPlanned NotSent NovitaClient NovitaError NovitaRequest NovitaWarning
    NsfwDetection Outcome Outcomes PermissionDenied Picture Polling Preprocessor Processing Queued
    RateLimited Refiner ResultError RetryPolicy Route RouteField RoutePictures Sampler Saveable
    ServerError SizeRange Snapshot SqliteJournal StorageRejected SubmissionUncertain Succeeded Task
    TaskFailed TaskNotFound TaskResult TaskStatus TaskTimeout TestMode Timings Txt2Img Uncertain
    Unfinished Update Updates Upscaler Webhook __version__ register_results request_from_json
    request_to_json
""".split()  # noqa: SIM905 - a list to be read
"""A new name is a promise: it is added here on purpose."""

CLASSES = {
    *(value for name in NAMES if inspect.isclass(value := getattr(novita_async, name))),
    *(
        value
        for value in vars(events).values()
        if inspect.isclass(value) and value.__module__ == events.__name__
    ),
    *(value for name in journal.__all__ if inspect.isclass(value := getattr(journal, name))),
}


def test_the_public_names_are_these():
    assert novita_async.__all__ == sorted(novita_async.__all__) == NAMES
    assert len(set(novita_async.__all__)) == len(novita_async.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_can_be_imported(name):
    namespace: dict[str, object] = {}
    exec(f"from novita_async import {name}", namespace)  # noqa: S102 - as a user would
    assert namespace[name] is getattr(novita_async, name)
    assert name in dir(novita_async)


def test_a_star_import_brings_all_names_and_no_other():
    namespace: dict[str, object] = {}
    exec("from novita_async import *", namespace)  # noqa: S102 - as a user would
    assert sorted(namespace.keys() - {"__builtins__"}) == NAMES


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'novita_async' has no attribute 'Img3Img'"):
        novita_async.Img3Img  # noqa: B018


def test_type_checkers_see_what_is_imported_lazily():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {name: f"novita_async.{room}" for name, room in novita_async._HOMES.items()}
    assert {*seen, "__version__"} == set(NAMES)


def test_every_error_is_public():
    found = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.NovitaError)
    }
    assert found <= set(NAMES)


# --- Docstrings ---------------------------------------------------------------------------------------------


def undocumented(cls: type) -> list[str]:
    """Fields in the source of a class that have no docstring under them and none in a base."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    inherited = {field.name for base in cls.__bases__ if attrs.has(base) for field in attrs.fields(base)}
    fields = {field.name for field in attrs.fields(cls)} if attrs.has(cls) else set()
    missing = []
    for node, after in zip(definition.body, [*definition.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name = node.target.id
        has_words = (
            isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        )
        if name in fields - inherited and not name.startswith("_") and not has_words:
            missing.append(name)
    return missing


def test_a_field_without_a_docstring_would_be_found():
    @attrs.frozen
    class Sample:
        told: int
        """Words."""
        untold: int

    assert undocumented(Sample) == ["untold"]


@pytest.mark.parametrize("cls", sorted(CLASSES, key=lambda cls: cls.__name__), ids=lambda cls: cls.__name__)
def test_every_public_class_field_and_method_has_a_docstring(cls):
    assert cls.__doc__
    assert not (attrs.has(cls) and undocumented(cls))
    silent = [
        name
        for name, value in vars(cls).items()
        if not name.startswith("_")
        and isinstance(value, property | classmethod | staticmethod | type(undocumented))
        and not inspect.getdoc(getattr(cls, name))
    ]
    silent = [name for name in silent if not issubclass(cls, errors.NovitaError)]
    assert not silent


@pytest.mark.parametrize("cls", sorted(CLASSES, key=lambda cls: cls.__name__), ids=lambda cls: cls.__name__)
def test_fields_are_keyword_only_and_values_are_frozen(cls):
    is_value = cls.__module__.startswith(
        ("novita_async.models.", "novita_async.events", "novita_async.errors")
    )
    if not is_value or not attrs.has(cls) or cls is novita_async.Flaw:
        return
    assert all(field.kw_only for field in attrs.fields(cls) if field.init)
    if not issubclass(cls, Exception):
        assert cls.__setattr__ is not object.__setattr__


PUBLIC_MODULES = (
    novita_async, errors, events, journal, logs, statistics, storage, sync, testing, transport, webhooks,
)  # fmt: skip
NEVER_MADE_BY_USERS = {"Source"}
"""A handle is given by a stream; its constructor takes what is behind it."""


def unknown_to_users(annotation: object) -> set[str]:
    """Names of this package's classes in an annotation that no public module has."""
    found = {name for part in typing.get_args(annotation) for name in unknown_to_users(part)}
    if isinstance(annotation, type) and annotation.__module__.startswith("novita_async"):
        is_known = any(getattr(module, annotation.__name__, None) is annotation for module in PUBLIC_MODULES)
        return found if is_known else found | {annotation.__name__}
    return found


def test_every_class_in_a_public_signature_can_be_imported_from_a_public_module():
    counts = [value for name in statistics.__all__ if (value := getattr(statistics, name))]
    for cls in {*CLASSES, *counts}:
        for name, method in vars(cls).items():
            function = getattr(method, "fget", None) or getattr(method, "__func__", method)
            if inspect.isfunction(function) and (name == "__init__" or not name.startswith("_")):
                hints = typing.get_type_hints(function, localns={"aiohttp": aiohttp})
                unknown = {each for hint in hints.values() for each in unknown_to_users(hint)}
                assert unknown <= NEVER_MADE_BY_USERS, f"{cls.__name__}.{name}"


def test_annotations_of_public_classes_can_be_resolved():
    for cls in CLASSES:
        if attrs.has(cls) and not issubclass(cls, Exception):
            assert typing.get_type_hints(cls) is not None
    assert issubclass(novita_async.Sampler, enum.StrEnum)


# --- Importing ----------------------------------------------------------------------------------------------

HEAVY = [
    "aiohttp",
    "asyncio",
    "anyio",
    "cattrs",
    "msgspec",
    "attrs",
    "ssl",
    "sqlite3",
    "PIL",
    "rich",
    "cyclopts",
]
BEFORE = "import sys; before = set(sys.modules)"
AFTER = f"print(*[name for name in {HEAVY} if name in sys.modules and name not in before])"


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import novita_async", []),
        ("from novita_async import NovitaError", ["attrs"]),
        ("from novita_async import Img2Img, ImageSource, Account, Succeeded, Endpoints", ["attrs"]),
        ("import novita_async.events", ["attrs"]),
        (
            "import novita_async; novita_async.NovitaClient('key')",
            ["aiohttp", "asyncio", "anyio", "msgspec", "attrs", "ssl"],
        ),
        ("import novita_async._pytest", None),
        ("import novita_async.cli._app", ["attrs", "cyclopts"]),
        ("import novita_async.cli._commands", ["attrs", "cyclopts"]),
        (
            "import novita_async.cli._status",
            ["asyncio", "anyio", "attrs", "ssl", "sqlite3", "cyclopts"],
        ),
    ],
)
def test_importing_a_name_imports_little(statement, loaded):
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", f"{BEFORE}; {statement}; {AFTER}"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain)
    found = done.stdout.split()
    assert done.stderr == ""
    assert found == loaded if loaded is not None else not {"aiohttp", "anyio", "attrs"} & set(found)


def test_importing_everything_needs_no_extra():
    statement = "from novita_async import *; import novita_async.testing"
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", f"{BEFORE}; {statement}; {AFTER}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"PIL", "rich", "cyclopts"} & set(done.stdout.split())


DOCUMENT = """
import importlib, os, pkgutil, pydoc, sys
import novita_async

rooms = pkgutil.walk_packages(novita_async.__path__, "novita_async.")
for name in ["novita_async", *(room.name for room in rooms)]:
    if not name.endswith("__main__"):
        print(pydoc.render_doc(importlib.import_module(name), renderer=pydoc.plaintext))
print("all is told of", novita_async.__name__)
"""


def test_no_documentation_tells_the_environment(tmp_path):
    """A default value stands in `help()`, in IPython's `?` and on every generated page."""
    secret = "sk-seen-by-nobody"
    environment = {**os.environ, "NOVITA_API_KEY": secret, secret: "1", "HOME": str(tmp_path / secret)}
    done = run(python("-c", DOCUMENT), env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("all is told of novita_async\n")
    assert secret not in done.stdout


def test_the_package_says_that_it_is_typed_and_what_version_it_is():
    assert (PACKAGE / "py.typed").exists()
    assert novita_async.__version__ == import_module("novita_async._version").__version__
    assert novita_async.__version__.count(".") == 2
