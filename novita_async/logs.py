"""Events as lines of a log: a line an event, with the purchase's id, and never a secret.

`NovitaClient(observers=[LogEvents()])` writes to the logger `novita_async`, each event at the level that it
deserves. `NOVITA_LOG=debug` (or `info`, `warning`, `error`) in the environment does so for every client of a
program, and shows the lines on standard error without any configuration of `logging`.

For structlog an observer is two lines:

```python
log = structlog.get_logger("novita_async")
client = NovitaClient(observers=[lambda event: log.log(level_of(event), line_of(event))])
```
"""

import logging
import os
import sys
from typing import Final, assert_never

from attrs import field

from novita_async._util.values import frozen
from novita_async.errors import ConfigurationError, NovitaError
from novita_async.events import (
    AccountDisabled,
    BreakerClosed,
    BreakerOpened,
    CutFileKept,
    Event,
    Fact,
    FileSaved,
    Finished,
    KindDiffers,
    Paced,
    Planned,
    Polled,
    Retrying,
    Transition,
)
from novita_async.models.results import Failed, Outcome, Succeeded, Uncertain, Unfinished

VARIABLE: Final = "NOVITA_LOG"
_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


@frozen
class LogEvents:
    """An observer that writes each event to a logger."""

    logger: logging.Logger = field(factory=lambda: logging.getLogger("novita_async"))
    """The logger that the lines go to."""

    def __call__(self, event: Event) -> None:
        level = level_of(event)
        if self.logger.isEnabledFor(level):
            self.logger.log(level, "%s", line_of(event))


def from_environment() -> tuple[LogEvents, ...]:
    """The observer that `NOVITA_LOG` asks for, with a handler where nobody has configured one.

    Raises:
        ConfigurationError: the variable names no level.
    """
    wanted = os.environ.get(VARIABLE, "").strip().lower()
    if not wanted:
        return ()
    if wanted not in _LEVELS:
        raise ConfigurationError(
            problem=f"{VARIABLE}={wanted!r} is no level", advice=f"use one of {', '.join(_LEVELS)}"
        )
    observer = LogEvents()
    observer.logger.setLevel(_LEVELS[wanted])
    if not observer.logger.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(_FORMAT))
        observer.logger.addHandler(handler)
    return (observer,)


def level_of(event: Event) -> int:
    """The level of an event: trouble is a warning, ends are information, all else is for debugging."""
    match event:
        case AccountDisabled() | BreakerOpened() | KindDiffers() | CutFileKept() | Retrying():
            return logging.WARNING
        case Finished(outcome=Succeeded()) | BreakerClosed() | FileSaved():
            return logging.INFO
        case Finished():
            return logging.WARNING
        case Transition() | Planned() | Paced() | Polled():
            return logging.DEBUG
        case _:
            assert_never(event)


def line_of(event: Event) -> str:  # noqa: C901, PLR0911, PLR0912 - a line for each event
    """An event in words."""
    match event:
        case Transition():
            tag = "" if event.tag is None else f" ({event.tag})"
            task = "" if event.task is None else f", task {event.task.task_id}"
            steps = f"{event.before.value} -> {event.after.value}{task}"
            return f"purchase {event.purchase}{tag}, attempt {event.attempt}: {_fact(event.fact)}: {steps}"
        case Planned():
            return f"request {event.position} taken in, {event.images} image(s)"
        case Paced():
            return f"{_of(event.purchase)} waits {event.delay:.1f} s for {event.account}, {event.endpoint}"
        case Retrying():
            after = f"{event.account} tries again in {event.after:.1f} s"
            return f"{_of(event.purchase)}: attempt {event.attempt}: {after}: {_words(event.error)}"
        case Polled(error=None):
            progress = "" if event.progress_percent is None else f", {event.progress_percent:g} %"
            return f"task {event.task.task_id}: {event.status}{progress}"
        case Polled(error=error):
            return f"task {event.task.task_id}: poll failed: {_words(error)}"
        case AccountDisabled():
            return f"{event.account} cannot send any more: {_words(event.error)}"
        case BreakerOpened():
            trips = f", {event.trips} times in a row" if event.trips > 1 else ""
            return f"{event.account}: breaker open for {event.after:.1f} s, {event.cause}{trips}"
        case BreakerClosed():
            return f"{event.account}: breaker closed after {event.after:.1f} s"
        case Finished():
            return _end(event.outcome)
        case FileSaved():
            return f"task {event.task.task_id}: saved {event.path or event.address!r}, {event.size:,} bytes"
        case KindDiffers():
            return f"task {event.task.task_id}: a file is {event.found}, not {event.stated} as stated"
        case CutFileKept():
            return f"task {event.task.task_id}: a file is cut, and kept"
        case _:
            assert_never(event)


def _of(purchase: int | None) -> str:
    return "a question" if purchase is None else f"purchase {purchase}"


def _fact(fact: Fact) -> str:
    error: NovitaError | None = getattr(fact, "error", None)
    name = type(fact).__name__
    return name if error is None else f"{name}: {_words(error)}"


def _end(outcome: Outcome) -> str:
    match outcome:
        case Succeeded():
            return f"task {outcome.task_id}: succeeded, {len(outcome.result.artifacts)} file(s)"
        case Failed() | Unfinished():
            task = "" if outcome.task is None else f"task {outcome.task.task_id}: "
            return f"{task}{type(outcome).__name__.lower()}: {_words(outcome.error)}"
        case Uncertain():
            return f"uncertain: {_words(outcome.error)}"
        case _:
            assert_never(outcome)


def _words(error: NovitaError | None) -> str:
    """The words of an error in a line: control characters would forge another one."""
    return "" if error is None else repr(str(error))[1:-1]
