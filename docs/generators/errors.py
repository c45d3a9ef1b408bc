"""The table of errors, made from their classes."""

from typing import Any, Final

import attrs

from docs.generators.markdown import code, first_sentence, table
from novita_async import errors
from novita_async._api.reasons import REASONS

Cost = str
NOTHING: Final = "nothing"
PERHAPS: Final = "perhaps paid"
PAID: Final = "paid"

ANSWERS: Final[dict[type[errors.NovitaError], tuple[Cost, int]]] = {
    errors.ConfigurationError: (NOTHING, 500),
    errors.InvalidRequest: (NOTHING, 422),
    errors.BudgetExhausted: (NOTHING, 503),
    errors.NotPlanned: (NOTHING, 409),
    errors.NotSent: (NOTHING, 503),
    errors.NoAnswer: ("nothing: a question", 504),
    errors.SubmissionUncertain: (PERHAPS, 504),
    errors.APIError: (NOTHING, 502),
    errors.BadRequest: (NOTHING, 422),
    errors.ImageRejected: (NOTHING, 422),
    errors.ContentRejected: (NOTHING, 422),
    errors.StorageRejected: ("see `task_id`", 500),
    errors.AuthenticationFailed: (NOTHING, 500),
    errors.PermissionDenied: (NOTHING, 500),
    errors.BalanceExhausted: (NOTHING, 503),
    errors.EndpointNotFound: (NOTHING, 501),
    errors.TaskNotFound: ("paid before, if the id is right", 404),
    errors.RateLimited: (NOTHING, 429),
    errors.ServerError: ("see `task_id`", 502),
    errors.MalformedAnswer: ("see `task_id`", 502),
    errors.TaskFailed: ("not documented by the service", 502),
    errors.FailedEarlier: ("as the earlier error", 502),
    errors.TaskTimeout: (PAID, 504),
    errors.JournalError: ("what the journal says", 500),
    errors.AnsweredAtOnce: (PAID, 500),
    errors.ResultError: (PAID, 502),
    errors.NoImages: (PAID, 502),
    errors.DownloadFailed: (PAID, 502),
}
"""Money that each class stands for, and the status that a web service of the caller's may answer with."""


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
    """A row for each class. A class without an entry above fails the build."""
    return table(
        ("error", "says", "what it cost", "same again, later", "dooms", "answer with", "what to do"),
        (
            (
                code(cls.__name__),
                first_sentence(cls.__doc__),
                ANSWERS[cls][0],
                "can succeed" if _default(cls, "retryable") else "fails again",
                f"the {_default(cls, 'scope')}",
                ANSWERS[cls][1],
                _default(cls, "advice") or "as its text says",
            )
            for cls in classes()
        ),
    )


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
