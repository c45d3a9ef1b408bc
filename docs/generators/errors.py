"""The table of errors, made from their classes."""

from typing import Any

import attrs

from docs.generators.markdown import code, table
from novita_async import errors
from novita_async._api.reasons import REASONS


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
        ("error", "what it cost", "same again, later", "dooms", "answer with", "what to do"),
        (
            (
                code(cls.__name__),
                cls.charged,
                "can succeed" if _default(cls, "retryable") else "fails again",
                f"the {_default(cls, 'scope')}",
                cls.answer_with,
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
