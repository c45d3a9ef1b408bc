"""Standard output and standard error: what goes to which.

Standard output holds the answer alone: the paths of saved files, the models, the balance; with `--json` one
object a line, and nothing else. Everything about the way there goes to standard error.
"""

import json
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, assert_never

from novita_async._util.values import frozen
from novita_async.cli._terminal import command_line, visible
from novita_async.errors import InvalidRequest, NovitaError, NovitaWarning
from novita_async.models.results import Failed, Outcome, Succeeded, Uncertain, Unfinished
from novita_async.tasks import Task


@frozen
class Output:
    """Writes answers, for people or for programs."""

    as_json: bool
    """Whether programs read it."""
    tells_paths: bool = True
    """Whether people are told each saved file."""

    def line(self, text: str) -> None:
        """Write a line for people."""
        if not self.as_json:
            print(visible(text) if sys.stdout.isatty() else text, flush=True)

    def record(self, **fields: Any) -> None:
        """Write a line for programs."""
        if self.as_json:
            print(json.dumps(fields, default=str), flush=True)

    def submitted(self, task: Task, tag: str | None) -> None:
        """Write that a request is paid for."""
        self.record(event="submitted", task_id=task.task_id, **_own(tag, {}))

    def outcome(self, outcome: Outcome, name: str | None) -> None:
        """Write how a request ended."""
        for file in _files_of(outcome) if self.tells_paths else ():
            self.line(file)
        self.record(**outcome_record(outcome, name))


class Notes(Protocol):
    """Takes lines about the way there."""

    def note(self, text: str) -> None: ...


class StandardError:
    """Notes for where there is no progress to show."""

    def note(self, text: str) -> None:
        print(visible(text), file=sys.stderr, flush=True)


def outcome_record(outcome: Outcome, name: str | None) -> dict[str, Any]:
    """An outcome as programs read it."""
    record: dict[str, Any] = {"event": "outcome", "outcome": type(outcome).__name__.lower()}
    record |= {"task_id": outcome.task_id} | ({} if name is None else {"input": name})
    record |= _own(outcome.tag, outcome.metadata)
    match outcome:
        case Succeeded():
            result = outcome.result
            files = _files_of(outcome)
            where = {"files": files} if files else {"urls": [artifact.url for artifact in result.artifacts]}
            checks = [
                image.nsfw.confidence if image.nsfw and image.nsfw.checked else None
                for image in result.images
            ]
            return record | {"seed": result.seed, **where, "nsfw_confidence": checks}
        case Failed() | Uncertain() | Unfinished():
            return record | error_record(outcome.error)
        case _:
            assert_never(outcome)


def _own(tag: str | None, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The user's own words, where there are any."""
    named = {} if tag is None else {"id": tag}
    return named | ({"metadata": dict(metadata)} if metadata else {})


def _files_of(outcome: Outcome) -> list[str]:
    """Paths of the files of an outcome, or their addresses."""
    return [*map(str, outcome.paths), *outcome.objects] if isinstance(outcome, Succeeded) else []


def error_record(error: Exception) -> dict[str, Any]:
    """An error as programs read it."""
    kind: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
    if not isinstance(error, NovitaError):
        return kind
    facts = {"scope": error.scope, "status": error.status, "reason": error.reason, "account": error.account}
    if isinstance(error, InvalidRequest):
        kind["faults"] = [str(fault) for fault in error.faults]
    return kind | {name: value for name, value in facts.items() if value is not None}


def described(outcome: Outcome) -> str:
    """How a request ended, in a few words for people."""
    match outcome:
        case Succeeded():
            files = len(outcome.result.artifacts)
            return "done" if files == 1 else f"done, {files} files"
        case Failed() | Uncertain() | Unfinished():
            return f"{type(outcome).__name__.lower()}: {outcome.error}"
        case _:
            assert_never(outcome)


def watch_again(tasks: Iterable[Task], folder: str | None) -> str:
    """The command that fetches paid tasks."""
    where = () if folder is None else ("--out", folder)
    return command_line(("novita-async", "watch", *(task.task_id for task in tasks), *where))


def show_warnings() -> None:
    """Let this library's warnings read like notes."""
    before = warnings.formatwarning

    def as_note(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> str:
        if issubclass(category, NovitaWarning):
            return f"warning: {visible(str(message))}\n"
        return before(message, category, *rest, **more)

    warnings.formatwarning = as_note
