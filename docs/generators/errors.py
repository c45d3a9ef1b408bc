"""The table of errors, made from their classes."""

from collections.abc import Mapping
from typing import Any, Final, assert_never

import attrs

from docs.generators.markdown import code, table
from novita_async import errors
from novita_async._api.reasons import REASONS

INSTEAD: Final[Mapping[type[errors.NovitaError], str]] = {
    errors.SubmissionUncertain: "[look at the bill](../how-to/uncertain.md#what-to-do)",
    errors.StorageRejected: "`client.wait(error.task_id)`, once the bucket is mended",
    errors.TaskNotFound: "`client.wait(error.task_id)`, with the account that has paid",
    errors.ServerError: "`client.wait(error.task_id)`",
    errors.MalformedAnswer: "`client.wait(error.task_id)`",
    errors.TaskTimeout: "`client.wait(error.task)`",
    errors.AnsweredAtOnce: "`error.result` is the result",
    errors.NoImages: "look at `error.extra`; with a task id, `client.wait(error.task_id)`",
    errors.DownloadFailed: "`client.save` again, with the result or that of `client.wait(error.task_id)`",
}
"""Calls that cost nothing, in place of another purchase, for each class that may be paid."""

OF_BATCHES: Final[Mapping[type[errors.NovitaError], str]] = {
    errors.FailedEarlier: "as the error that `error.kind` names says; a batch with `retry_failed=True` asks "
    "for a task before it buys again",
    errors.JournalError: "nothing twice: mend the journal, then run the same batch",
    errors.ResultError: "nothing twice: run the same batch, which asks for the task again",
}
"""Words about errors that come from journals, whose batches know what is paid."""

QUESTIONS: Final = (errors.NoAnswer, errors.MalformedAnswer)
"""Errors that no purchase without a task ends with: there, such an answer is uncertain."""


def classes() -> list[type[errors.NovitaError]]:
    """Every class of the tree, in the order of the source."""
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type)
        and issubclass(value, errors.NovitaError)
        and value is not errors.NovitaError
    ]


def errors_table() -> str:
    """A row for each class."""
    return table(
        ("error", "what it cost", "`run` again", "dooms", "answer with", "what to do"),
        (
            (
                code(cls.__name__),
                cls.charged,
                another_purchase(cls),
                f"the {_default(cls, 'scope')}",
                cls.answer_with,
                _default(cls, "advice") or "as its text says",
            )
            for cls in classes()
        ),
    )


def another_purchase(cls: type[errors.NovitaError]) -> str:
    """Cost and prospects of buying the same again, and the call to make instead."""
    if cls in OF_BATCHES:
        return OF_BATCHES[cls]
    unpaid = "pays once, can succeed"
    if cls in QUESTIONS:
        unpaid = "a question was not answered: asking again costs nothing"
    elif not _default(cls, "retryable"):
        unpaid = "costs nothing, fails again until the cause is mended"
    match cls.charged:
        case "nothing":
            return unpaid
        case "perhaps paid":
            return f"**may pay twice**; first: {INSTEAD[cls]}"
        case "paid":
            return f"**pays twice**; instead: {INSTEAD[cls]}"
        case "paid where there is a task id" | "paid where `paid` is true":
            return f"with a task id **pays twice**, instead: {INSTEAD[cls]}; without: {unpaid}"
        case "not said by the service":
            return "**pays for another task**, can succeed"
    assert_never(cls.charged)


def _default(cls: type[errors.NovitaError], name: str) -> Any:
    return attrs.fields_dict(cls)[name].default


def reasons_table() -> str:
    """A row for each reason of the service."""
    return table(
        ("reason", "error", "dooms", "a task may have been made", "passes by itself"),
        (
            (
                code(reason),
                code(row.error.__name__),
                f"the {row.scope}",
                "not said" if row.bought == "unknown" else "no",
                "yes" if row.passes else "no",
            )
            for reason, row in REASONS.items()
        ),
    )


def tree() -> str:
    """The tree of the module's docstring."""
    lines = (errors.__doc__ or "").splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip() == "NovitaError")
    end = next(number for number, line in enumerate(lines) if number > start and not line.strip())
    return "\n".join(line.removeprefix("    ") for line in lines[start:end])
