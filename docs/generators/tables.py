"""Tables of what the code knows: events, commands, exit codes, defaults, variables, routes, stores."""

import inspect
import io
import re
import sqlite3
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import attrs
from cyclopts import App
from rich.console import Console

import novita_async
from docs.generators.markdown import block, code, first_sentence, table
from novita_async import NovitaClient, Polling, RetryPolicy, events
from novita_async._api.protocol import QUESTION_TIMEOUT
from novita_async._journal.postgres.schema import versions
from novita_async._journal.sqlite.file import _VERSION_0, MIGRATIONS
from novita_async._purchase.machine import TRANSITIONS, Settlement
from novita_async.cli._app import COMMANDS, app_for
from novita_async.cli._exits import EXPLAINED
from novita_async.cli._options import field_docs
from novita_async.models.routes import PICTURES_TIMEOUT, ROUTES, TASK_TIMEOUT, Route
from novita_async.telemetry._figures import MEANINGS
from novita_async.testing import FaultKind, SimulatorConfig

PACKAGE: Final = Path(novita_async.__file__).parent
_WIDTH: Final = 100


# --- Events and facts ---------------------------------------------------------------------------------------


def events_tables() -> str:
    """Each event, with its fields."""
    kinds = [value for name, value in vars(events).items() if _is_event(name, value)]
    return "\n\n".join(
        f"## {kind.__name__}\n\n{first_sentence(kind.__doc__)}\n\n{_fields(kind)}" for kind in kinds
    )


def _is_event(name: str, value: object) -> bool:
    return (
        inspect.isclass(value) and attrs.has(value) and value.__module__ == events.__name__ and name[0] != "_"
    )


def _fields(kind: type) -> str:
    words = field_docs(kind)
    return table(
        ("field", "says"), ((code(each.name), words.get(each.name, "")) for each in attrs.fields(kind))
    )


def transitions_table() -> str:
    """Every fact, with the states that it leads from and to."""
    return table(
        ("fact", "from", "to"),
        (
            (code(fact.__name__), before.value, "unchanged" if before is after else after.value)
            for (before, fact), (after, _) in TRANSITIONS.items()
        ),
    )


ENDS: Final = {
    Settlement.SPENT: "The answer has the task's id, or the results.",
    Settlement.LOST: "The request went out whole, and no answer came that says yes or no: perhaps bought.",
    Settlement.SEEN: "The service read the request and refused it: nothing was bought.",
    Settlement.REJECTED: "The service answered 429, or with a reason that means the same.",
    Settlement.UNSEEN: "The request did not go out whole, and no outage is the reason: a cancellation, a "
    "picture that has changed, an unknown host, a refusal that came early.",
    Settlement.UNREACHED: "The service was not reached: no connection, one that broke before the request was "
    "whole, or a gateway that has none.",
}
"""Meanings of the six ends of an attempt."""


def settlements_table() -> str:
    """Meaning of an attempt's end for its slot and its money."""
    return table(
        ("end of an attempt", "when", "its slot and its money"),
        ((each.name.lower(), ENDS[each], each.value) for each in Settlement),
    )


def figures_told() -> str:
    """Figures that observers count and measure."""
    return table(
        ("figure", "labels", "says"),
        ((code(figure), ", ".join(map(code, each.labels)), each.words) for figure, each in MEANINGS.items()),
    )


# --- The command line ---------------------------------------------------------------------------------------


def help_of(*tokens: str) -> str:
    """Output of `--help`, at a fixed width and without colours."""
    out = io.StringIO()
    console = Console(file=out, width=_WIDTH, no_color=True, force_terminal=False, legacy_windows=False)
    app: App = app_for(tokens)
    app.help_print(list(tokens), console=console)
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


@cache
def commands() -> str:
    """The help of every command."""
    parts = [block("text", help_of())]
    parts += [f"## {name}\n\n{block('text', help_of(name))}" for name in COMMANDS]
    return "\n\n".join(parts)


def exit_codes() -> str:
    """Meanings of the exit codes."""
    return table(("code", "says"), ((each.value, words) for each, words in EXPLAINED))


# --- Defaults and variables ---------------------------------------------------------------------------------


def defaults() -> str:
    """Every option with a default of its own, read from the signatures and the fields."""
    rows = [*_parameters("NovitaClient", NovitaClient.__init__)]
    for name in ("run", "submit", "wait", "stream", "batch", "watch"):
        rows += _parameters(f"client.{name}", getattr(NovitaClient, name))
    for policy in (Polling, RetryPolicy):
        words = field_docs(policy)
        rows += [
            (code(f"{policy.__name__}({each.name}=)"), code(each.default), words[each.name])
            for each in attrs.fields(policy)
        ]
    rows += [
        (
            "seconds for the answer to a purchase",
            code(TASK_TIMEOUT),
            "From its last byte.",
        ),
        ("the same, where pictures come at once", code(PICTURES_TIMEOUT), "`Route(answer_timeout=)`."),
        (
            "seconds for the answer to a question",
            code(QUESTION_TIMEOUT),
            "Asking again costs nothing.",
        ),
    ]
    return table(("option", "default", "meaning"), rows)


def _parameters(call: str, function: Any) -> Iterator[tuple[str, str, str]]:
    owner = NovitaClient if function is NovitaClient.__init__ else function
    words = _arguments(owner)
    for name, each in inspect.signature(function).parameters.items():
        if each.kind is inspect.Parameter.KEYWORD_ONLY and each.default is not each.empty:
            yield code(f"{call}({name}=)"), code(each.default), words.get(name, "")


def _arguments(owner: Any) -> dict[str, str]:
    """The section `Args` of a docstring."""
    _, _, section = (inspect.getdoc(owner) or "").partition("Args:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


VARIABLES: Final = {
    "NOVITA_API_KEY": "The key, where `api_key=` and `accounts=` give none. The command line takes no other.",
    "NOVITA_BASE_URL": "Where the API is, where `base_url=` does not say: a proxy, a simulator.",
    "NOVITA_LOG": "`debug`, `info`, `warning` or `error`: each event of every client as a line of the log.",
}
"""Words for each variable of the environment that is the library's own."""


def variables() -> str:
    """The variables that the package names. A variable without words, or words for none, fails the build."""
    texts = (path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    found = {name for text in texts for name in re.findall(r'"(NOVITA_[A-Z_]+)"', text)}
    if found != set(VARIABLES):
        raise ValueError(f"variables that differ from the table: {found ^ set(VARIABLES)}")
    return table(("variable", "says"), ((code(name), words) for name, words in VARIABLES.items()))


# --- Routes -------------------------------------------------------------------------------------------------


def routes() -> str:
    """The rows of the table of routes, and the fields of each."""
    overview = table(
        ("route", "kind", "models", "answers", "hosts", "is", "looked up on"),
        (
            (
                f"[{row.name}](#{_anchor(row)})",
                row.kind,
                ", ".join(map(code, row.models)),
                row.answer.replace("_", " "),
                ", ".join(row.hosts) or "any",
                row.status,
                row.checked_on,
            )
            for row in ROUTES
        ),
    )
    return "\n\n".join([overview, *map(_route, ROUTES)])


def _anchor(row: Route) -> str:
    return f"route-{re.sub(r'[^a-z0-9]+', '-', row.name.lower()).strip('-')}"


def _route(row: Route) -> str:
    fields = table(
        ("field", "type", "required", "range", "service's default"),
        (
            (
                code(each.name),
                each.type,
                "yes" if each.required else "",
                each.range,
                "" if each.default is None else code(each.default),
            )
            for each in row.fields
        ),
    )
    pictures = "; ".join(
        f"`{each.name}` ({each.role}, {each.form.replace('_', ' ')}, at most {each.max_bytes:,} bytes)"
        for each in row.pictures
    )
    facts = [
        f"({_anchor(row)})=\n## {row.name}",
        f"`POST {row.path}`. {f'Source: {row.source}.' if row.source else ''}",
        f"Pictures: {pictures}." if pictures else "",
        fields if row.fields else "",
        "Other fields are sent as they are." if row.is_open else "",
    ]
    return "\n\n".join(filter(None, facts))


# --- Journals, the simulator --------------------------------------------------------------------------------


def journal_schema() -> str:
    """The tables of a new journal, as SQLite tells them."""
    with sqlite3.connect(":memory:") as connection:
        for statements in (_VERSION_0, *MIGRATIONS):
            for statement in statements:
                connection.execute(statement)
        found = connection.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"
        ).fetchall()
    connection.close()
    return block("sql", ";\n".join(inspect.cleandoc(sql) for (sql,) in found) + ";")


_FORM: Final = re.compile(r"(?:create (?:unlogged )?(?:table|(?:unique )?index|view)|alter table)\b")


def shared_schema() -> str:
    """The tables and views of journals in Postgres; those who read them need none of the functions."""
    statements = (each for text in versions.MIGRATIONS for each in _statements(text))
    return block("sql", "\n\n".join(statements))


def _statements(text: str) -> Iterator[str]:
    """Statements about tables and views; a comment may stand at the end of each line."""
    lines: list[str] = []
    for line in text.splitlines():
        if lines or _FORM.match(line):
            lines.append(line)
        if lines and line.partition("--")[0].rstrip().endswith(";"):
            yield "\n".join(lines)
            lines.clear()


def simulator_options() -> str:
    """Every field of the simulator's configuration."""
    words = field_docs(SimulatorConfig)
    return table(
        ("field", "default", "says"),
        (
            (
                code(each.name),
                "" if each.name in ("routes", "other_tasks") else code(each.default),
                words[each.name],
            )
            for each in attrs.fields(SimulatorConfig)
        ),
    )


def faults() -> str:
    """The table of faults, as their module has it."""
    module = inspect.getmodule(FaultKind)
    lines = [line for line in (inspect.getdoc(module) or "").splitlines() if line.startswith("|")]
    return "\n".join(lines)


# --- Measurements -------------------------------------------------------------------------------------------

ROOT: Final = Path(__file__).parents[2]
_FIGURES: Final = re.compile(r"<!-- figures: .*?-->\n(.*?)<!-- end of figures -->", re.DOTALL)
WAIT: Final = ROOT / "benchmarks" / "results" / "wait.svg"
"""The plot of `make bench-wait`."""


def figures() -> str:
    """The figures that `make bench` has written into README."""
    match = _FIGURES.search((ROOT / "README.md").read_text(encoding="utf-8"))
    if match is None:
        raise ValueError("README has no figures")
    return match[1].strip()


def bench_tables() -> str:
    """Every table of the measurements, a level below where it stands."""
    text = (ROOT / "benchmarks" / "results" / "tables.md").read_text(encoding="utf-8")
    _, _, below = text.partition("\n## ")
    text = f"## {below}".replace("](wait.svg)", "](../made/wait.svg)")
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)
