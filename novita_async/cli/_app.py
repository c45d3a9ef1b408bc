"""The commands, their help, and what every one of them has in common."""

import asyncio
import io
import os
import sys
from typing import Final

from cyclopts import App, CycloptsError
from rich.console import Console

from novita_async._version import __version__
from novita_async.cli._exits import EXPLAINED, Exit, of_error
from novita_async.cli._output import Output, error_record, show_warnings
from novita_async.errors import InvalidRequest, NovitaError

_HELP: Final = """Pictures from pictures, by the Novita AI image API.

The API key comes from the environment: `NOVITA_API_KEY`. `NOVITA_BASE_URL` says where the API is, if it is
not at api.novita.ai: a simulator, a proxy.

Answers go to standard output, progress and problems to standard error."""

_EPILOGUE: Final = "Exit codes:\n\n" + "\n".join(f"- {code.value}: {words}" for code, words in EXPLAINED)

_COMMANDS: Final = {
    "generate": "_generate",
    "batch": "_batch",
    "resume": "_batch",
    "retry": "_batch",
    "status": "_status",
    "report": "_status",
    "export": "_export",
    "watch": "_watch",
    "models": "_account",
    "balance": "_account",
    "simulate": "_simulate",
    "demo": "_demo",
}
"""In which room each command lives; it is entered when the command is called."""

app: Final = App(
    name="novita-async", help=_HELP, help_epilogue=_EPILOGUE, help_format="markdown", version=__version__
)
for _name, _room in _COMMANDS.items():
    app.command(f"novita_async.cli.{_room}:{_name}", name=_name)


def run() -> None:
    """Run the command line of this process, and exit."""
    show_warnings()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names need not be valid text
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))


def main(tokens: list[str]) -> int:
    """Run one command; its exit code."""
    tokens = _with_json_last(tokens)
    if tokens[:1] not in ([name] for name in _COMMANDS):
        _enter_all_rooms()
    try:
        return _call(tokens)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except asyncio.CancelledError:
        return Exit.TERMINATED
    except BrokenPipeError:
        return _hung_up()
    except (CycloptsError, NovitaError, OSError) as error:
        return _ended_by(error, Output("--json" in tokens))


def _call(tokens: list[str]) -> int:
    result = app(
        tokens, exit_on_error=False, print_error=False, result_action="return_value", backend="asyncio"
    )
    return result if isinstance(result, int) else Exit.SUCCEEDED


def _enter_all_rooms() -> None:
    """The list of all commands needs the first line of each."""
    for name in _COMMANDS:
        app[name]


def _with_json_last(tokens: list[str]) -> list[str]:
    """Let `--json` also stand before the command."""
    return [*tokens[1:], "--json"] if tokens[:1] == ["--json"] else tokens


def _ended_by(error: CycloptsError | NovitaError | OSError, output: Output) -> Exit:
    output.record(event="error", **error_record(error))
    for line in _lines(error):
        Console(stderr=True, soft_wrap=True).print(f"error: {line}", markup=False, highlight=False)
    return of_error(error)


def _lines(error: Exception) -> list[str]:
    """One line; one for each fault where there are several."""
    faults = error.faults if isinstance(error, InvalidRequest) else ()
    return [str(fault) for fault in faults] if len(faults) > 1 else [str(error)]


def _hung_up() -> Exit:
    """Whoever read the output has gone: nothing more may be written, not even what is flushed at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.BROKEN_PIPE
