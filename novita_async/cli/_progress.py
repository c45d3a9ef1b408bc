"""Progress on standard error: a bar on a terminal, lines elsewhere. An observer, and a reader of outcomes."""

import sys
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, Protocol, Self, assert_never

from attrs import asdict, define, field, frozen
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from novita_async.events import Bought, Event, Paced, Polled, Retrying, Transition
from novita_async.models.results import Failed, Outcome, Succeeded, Uncertain, Unfinished

_WORTH_TELLING: Final = 1.0
"""Seconds: shorter waits are not mentioned."""


@frozen(kw_only=True)
class Totals:
    """What has happened so far."""

    requests: int
    """All that there are."""
    submitted: int
    """Became tasks."""
    succeeded: int
    """Ended well."""
    failed: int
    """Ended badly."""
    uncertain: int
    """Perhaps bought."""
    unfinished: int
    """Paid, end not seen."""
    images: int
    """Pictures made."""
    polls: int
    """Questions how a task is doing."""
    seconds: float
    """Since the beginning."""

    @property
    def ended(self) -> int:
        """Requests that have an outcome."""
        return self.succeeded + self.failed + self.uncertain + self.unfinished

    @property
    def images_per_minute(self) -> float:
        """The rate so far."""
        return self.images / self.seconds * 60 if self.seconds > 0 else 0.0

    @property
    def polls_per_task(self) -> float:
        """Questions for each task."""
        return self.polls / self.submitted if self.submitted else 0.0

    def as_record(self) -> dict[str, float]:
        """The counts, as programs read them."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}

    def sentence(self) -> str:
        """What happened, leaving out what did not."""
        parts = [f"{self.succeeded} of {self.requests} succeeded"]
        for count, word in (
            (self.failed, "failed"),
            (self.uncertain, "uncertain"),
            (self.unfinished, "unfinished"),
        ):
            parts += [f"{count} {word}"] if count else []
        left = self.requests - self.ended
        parts += [f"{left} not sent"] if left else []
        rate = f": {self.images} images in {self.seconds:.1f} s ({self.images_per_minute:.0f} a minute)"
        return ", ".join(parts) + (rate if self.images else "")


@define(eq=False)
class ProgressTally:
    """Counts what happens."""

    requests: int
    """How many outcomes there will be."""
    _began_at: float = field(factory=time.monotonic, init=False)
    _submitted: int = field(default=0, init=False)
    _polls: int = field(default=0, init=False)
    _images: int = field(default=0, init=False)
    _succeeded: int = field(default=0, init=False)
    _failed: int = field(default=0, init=False)
    _uncertain: int = field(default=0, init=False)
    _unfinished: int = field(default=0, init=False)

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        self._submitted += isinstance(event, Transition) and isinstance(event.fact, Bought)
        self._polls += isinstance(event, Polled)

    def took(self, outcome: Outcome) -> None:
        """Take in an outcome."""
        match outcome:
            case Succeeded():
                self._succeeded += 1
                self._images += len(outcome.result.artifacts)
            case Failed():
                self._failed += 1
            case Uncertain():
                self._uncertain += 1
            case Unfinished():
                self._unfinished += 1
            case _:
                assert_never(outcome)

    def left_behind(self, *, unfinished: int, uncertain: int) -> None:
        """Take in, at the end, what is not seen finished, and what is uncertain and was not told."""
        self._unfinished = unfinished
        self._uncertain += uncertain

    def statistics(self) -> Totals:
        """Count."""
        return Totals(
            requests=self.requests,
            submitted=self._submitted,
            succeeded=self._succeeded,
            failed=self._failed,
            uncertain=self._uncertain,
            unfinished=self._unfinished,
            images=self._images,
            polls=self._polls,
            seconds=time.monotonic() - self._began_at,
        )


class Display(AbstractContextManager[Any], Protocol):
    """Shows how far it is."""

    def note(self, text: str) -> None:
        """Say something on a line of its own."""
        ...

    def waiting(self, text: str) -> None:
        """Say what is being waited for."""
        ...

    def advance(self, images: int, totals: Totals, text: str, *, good: bool) -> None:
        """Show one more outcome."""
        ...


@define(eq=False)
class Lines:
    """Progress in lines, for logs and pipes."""

    _last: str = field(default="", init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def waiting(self, text: str) -> None:
        if text != self._last:  # a wait is told once, not each time that someone looks at the clock
            self._last = text
            self.note(text)

    def advance(self, images: int, totals: Totals, text: str, *, good: bool) -> None:  # noqa: ARG002 - the protocol's
        self.note(f"[{totals.ended}/{totals.requests}] {text}")


class _Progress(Progress):
    """A bar, and below it what is being waited for: beside it, long words would leave the bar no room."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            if task.fields["waiting"]:
                yield Text(task.fields["waiting"], style="dim", no_wrap=True, overflow="ellipsis")


@define(eq=False)
class Bar:
    """Progress as a bar, for terminals."""

    images: int
    """How many pictures are asked for."""
    _bar: Progress = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._bar = _Progress(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images · {task.fields[rate]:.0f} a minute ·"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            redirect_stdout=sys.stdout.isatty(),
            transient=True,
        )
        self._bar.add_task("", total=self.images, rate=0.0, waiting="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def waiting(self, text: str) -> None:
        self._bar.update(self._bar.task_ids[0], waiting=text)

    def advance(self, images: int, totals: Totals, text: str, *, good: bool) -> None:
        if not good:
            self.note(text)
        rate = totals.images_per_minute
        self._bar.update(self._bar.task_ids[0], advance=images, rate=rate, waiting="")


def display_of(images: int) -> Display:
    """The display that suits standard error."""
    return Bar(images) if sys.stderr.isatty() else Lines()


def waited_for(event: Event) -> str | None:
    """What an event says about waiting. None: nothing worth telling."""
    if isinstance(event, Paced) and event.delay >= _WORTH_TELLING:
        return f"the quota is used up: the next submission goes in {event.delay:.0f} s"
    if isinstance(event, Retrying):
        return f"trying again in {event.after:.1f} s: {event.error.sentence()}"
    return None
