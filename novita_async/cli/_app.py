"""The commands, their help, and what every one of them has in common."""

import io
import os
import sys
from collections.abc import Sequence
from typing import Final

from cyclopts import App, CycloptsError

from novita_async._version import __version__
from novita_async.cli._exits import EXPLAINED, Exit, of_error
from novita_async.cli._output import Output, StandardError, error_record, show_warnings
from novita_async.errors import InvalidRequest, NovitaError

_HELP: Final = """Pictures from pictures, by the Novita AI image API.

The API key comes from the environment: `NOVITA_API_KEY`. `NOVITA_BASE_URL` says where the API is, if it is
not at api.novita.ai: a simulator, a proxy.

Answers go to standard output, progress and problems to standard error."""

_EPILOGUE: Final = "Exit codes:\n\n" + "\n".join(f"- {code.value}: {words}" for code, words in EXPLAINED)

COMMANDS: Final = {
    "generate": ("_generate", "Make pictures from pictures."),
    "batch": (
        "_commands",
        "Make pictures from a manifest or from folders of pictures, and survive whatever happens.",
    ),
    "resume": ("_commands", "Go on with a batch, from what its folder says of it."),
    "retry": ("_commands", "Go on with a batch, and buy again what failed, where that can help."),
    "enqueue": (
        "_shared_commands",
        "Plan a batch in a database, for any number of workers. Nothing is bought.",
    ),
    "worker": (
        "_shared_commands",
        "Work on a batch that is planned in a database, together with any number of other workers.",
    ),
    "workers": ("_shared_commands", "Tell who works on a batch: since when, and what each has."),
    "status": ("_status", "Tell how a batch is, and what to do next. Nothing is sent."),
    "report": ("_status", "Write the report of a batch, one HTML page, and print where it is."),
    "export": (
        "_export",
        "Tell all requests of a batch, one a line, from its journal alone: also while it is running.",
    ),
    "watch": ("_watch", "Wait for paid tasks and fetch their results."),
    "edit": ("_edit", "Edit pictures with whatever route serves a model."),
    "routes": ("_routes", "List the routes of the API: models, hosts, whether they live."),
    "models": (
        "_account",
        "List the models that requests can name: the name for requests, the kind, the base model.",
    ),
    "balance": ("_account", "Tell what is left to spend, in dollars."),
    "mcp": (
        "_mcp",
        "Serve agents over the Model Context Protocol: edit and make pictures, within a budget.",
    ),
    "db": ("_db", "Make the tables of shared journals in a Postgres database, or upgrade them."),
    "simulate": ("_simulate", "Serve a simulated Novita over HTTP, until Ctrl-C."),
    "completion": ("_completion", "Print the completion script of a shell."),
    "demo": ("_demo", "Watch 24 pictures being made, without a key and without cost."),
}
"""In which room each command lives, which is entered when the command is called; and how its help begins, so
that the list of all commands enters no room.
"""


def run() -> None:
    """Run the command line of this process, and exit."""
    show_warnings()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names need not be valid text
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))


def main(tokens: list[str]) -> int:
    """Run one command; its exit code."""
    if tokens[:1] == ["--json"]:  # which may also stand before the command
        tokens = [*tokens[1:], "--json"]
    try:
        result = app_for(tokens)(
            tokens, exit_on_error=False, print_error=False, result_action="return_value", backend="asyncio"
        )
        return result if isinstance(result, int) else Exit.SUCCEEDED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone: nothing more may be written, not even what is flushed at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    except (CycloptsError, NovitaError, OSError) as error:
        Output("--json" in tokens).record(event="error", **error_record(error))
        for line in _lines(error):
            StandardError().note(f"error: {line}")
        return of_error(error)
    except _cancelled():
        return Exit.TERMINATED


def _cancelled() -> type[BaseException]:
    """The exception of a command that was cancelled. Help does not wait for asyncio, nor for its TLS."""
    from asyncio import CancelledError  # noqa: PLC0415

    return CancelledError


def app_for(tokens: Sequence[str]) -> App:
    """All commands; those that are named have their whole help, the others its beginning."""
    app = App(
        name="novita-async", help=_HELP, help_epilogue=_EPILOGUE, help_format="markdown", version=__version__
    )
    for name, (room, beginning) in COMMANDS.items():
        words = {} if name in tokens else {"help": beginning}
        app.command(f"novita_async.cli.{room}:{name}", name=name, **words)
    return app


def _lines(error: Exception) -> list[str]:
    """Make one line of an error, or one for each fault where there are several."""
    if isinstance(error, CycloptsError):
        return str(error).splitlines()
    faults = error.faults if isinstance(error, InvalidRequest) else ()
    return [str(fault) for fault in faults] if len(faults) > 1 else [str(error)]
