"""Progress on standard error: one line on a terminal, lines elsewhere. An observer and a reader."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from itertools import cycle
from types import TracebackType
from typing import Any, Final, Protocol, Self, TextIO, assert_never, cast

from attrs import asdict, define, field

from novita_async._util.clock import loop_time
from novita_async._util.values import frozen
from novita_async.cli._report_timeline import elapsed
from novita_async.cli._terminal import AboveLine, LinePart, StatusLine, visible
from novita_async.cli._waits import Waits
from novita_async.events import Bought, Event, Lost, Polled, Transition
from novita_async.models.results import Failed, Outcome, Succeeded, Uncertain, Unfinished

LINES_EVERY: Final = 10.0
"""Seconds between two lines about how it goes."""
_LINE_EVERY: Final = 0.1
"""Seconds between two drawings of the line on a terminal."""
_SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BAR_WIDTH: Final = 8


@frozen(kw_only=True)
class Totals:
    """Sums of what has happened so far."""

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
        """Say what happened, leaving out what did not."""
        parts = [f"{self.succeeded} of {self.requests} succeeded"]
        for number, word in (
            (self.failed, "failed"),
            (self.uncertain, "uncertain"),
            (self.unfinished, "unfinished"),
        ):
            parts += [f"{number} {word}"] if number else []
        left = self.requests - self.ended
        parts += [f"{left} not sent"] if left else []
        rate = f": {self.images} images in {self.seconds:.1f} s ({self.images_per_minute:.0f} a minute)"
        return ", ".join(parts) + (rate if self.images else "")


@frozen(kw_only=True)
class Status:
    """How it is going."""

    requests: int
    """All that there are."""
    done: int
    """Ended well, in this run or earlier."""
    running: int
    """Tasks that are paid and not done."""
    failed: int
    """Ended badly."""
    uncertain: int
    """Perhaps bought."""
    images: int
    """Pictures made by this run."""
    seconds: float
    """Since it began."""
    polls: int
    """Questions how a task is doing."""
    seconds_left: float | None
    """Until all is done. None: not known yet."""
    here: str = ""
    """Word for whose counts these are, where others work on the same."""

    @property
    def images_per_minute(self) -> float:
        """How many this run makes."""
        return self.images / self.seconds * 60 if self.seconds > 0 else 0.0

    def sentence(self) -> str:
        """The same in words, leaving out what there is none of."""
        counts = ((self.running, "running"), (self.failed, "failed"), (self.uncertain, "uncertain"))
        some = "".join(f", {number:,} {word}" for number, word in counts if number)
        left = f" · {self._left()}" if self._left() else ""
        rate = f"{self.images_per_minute:.1f} images/min · {self.polls:,} polls"
        return f"{self.done:,} of {self.requests:,} done{self.here}{some} · {rate}{left}"

    def as_record(self) -> dict[str, float | None]:
        """The same for programs."""
        facts = asdict(self) | {"images_per_minute": self.images_per_minute}
        del facts["here"]
        return {name: round(value, 1) if isinstance(value, float) else value for name, value in facts.items()}

    def parts(self, waiting: Sequence[LinePart], tasks: str, money: str) -> Iterator[LinePart]:
        """The same as parts of one line, with what is waited for, how far tasks are, and what is spent."""
        ended = self.done + self.failed + self.uncertain
        filled = round(ended * _BAR_WIDTH / self.requests) if self.requests else 0
        yield LinePart(("━" * filled + "─" * (_BAR_WIDTH - filled), ""), (17,))
        done, requests = f"{self.done:,}", f"{self.requests:,}"
        yield LinePart((f"{done} of {requests} done{self.here}", f"{done}/{requests}", ""), (10, 3), " ")
        yield from waiting
        if self.running:
            running = f"{self.running:,} running"
            yield LinePart((f"{running}: {tasks}" if tasks else running, running, ""), (13, 12))
        for number, word in ((self.failed, "failed"), (self.uncertain, "uncertain")):
            if number:
                yield LinePart((f"{number:,} {word}", ""), (8,))
        if self.images:
            rate = self.images_per_minute
            yield LinePart((f"{rate:.1f} images/min", f"{rate:.0f}/min", ""), (16, 14))
            yield LinePart((f"{self.polls:,} polls", ""), (18,))
        if money:
            yield LinePart((money, money.partition(" ")[0], ""), (15, 12))
        if self._left():
            yield LinePart((self._left(), ""), (11,))

    def _left(self) -> str:
        """How long it will still take; empty where nobody knows, or hardly any time."""
        return f"{elapsed(self.seconds_left)} left" if self.seconds_left and self.seconds_left >= 1 else ""


@define(eq=False)
class ProgressTally:
    """Counts what happens."""

    requests: int
    """How many outcomes there will be."""
    _began_at: float = field(factory=time.monotonic, init=False)
    waits: Waits = field(factory=Waits, init=False)
    """Waits of this run."""
    _submitted: int = field(default=0, init=False)
    _bought: int = field(default=0, init=False)
    """Images that are bought, or perhaps bought."""
    _polls: int = field(default=0, init=False)
    _images: int = field(default=0, init=False)
    _succeeded: int = field(default=0, init=False)
    _failed: int = field(default=0, init=False)
    _uncertain: int = field(default=0, init=False)
    _unfinished: int = field(default=0, init=False)

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        self.waits.take(event, loop_time())
        if isinstance(event, Transition):
            self._submitted += isinstance(event.fact, Bought)
            self._bought += event.images if isinstance(event.fact, Bought | Lost) else 0
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

    def status(self) -> Status:
        """How it is going."""
        totals = self.statistics()
        left = totals.requests - totals.ended
        return Status(
            requests=totals.requests,
            done=totals.succeeded,
            running=self.waits.running,
            failed=totals.failed,
            uncertain=totals.uncertain,
            images=totals.images,
            seconds=totals.seconds,
            polls=totals.polls,
            seconds_left=left * totals.seconds / totals.ended if totals.ended else None,
        )

    def spent(self, price: Decimal) -> Decimal:
        """Count the cost of what this run has bought, or perhaps bought, at a price for each image."""
        return price * self._bought

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


class View(Protocol):
    """Content of a display."""

    def parts(self) -> Sequence[LinePart]:
        """The line on a terminal."""
        ...

    def lines(self, *, due: bool) -> str:
        """Tell a log how it is now; empty for nothing. `due`: some time has passed since the last time."""
        ...


@frozen
class _NoProgress:
    """Shows nothing."""

    def parts(self) -> Sequence[LinePart]:
        return ()

    def lines(self, *, due: bool) -> str:  # noqa: ARG002 - the protocol's
        return ""


@define(eq=False)
class Display(AbstractContextManager[Any]):
    """Shows how far it is, again and again."""

    view: View = field(factory=_NoProgress, init=False)
    """View that is shown."""
    every: float = field(default=1.0, init=False)
    """Seconds between two looks at it."""
    _timer: asyncio.TimerHandle | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        self._tick()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.every, self._tick)
        self.look()

    def look(self) -> None:
        """Show how it is now."""

    def note(self, text: str) -> None:
        """Say something on a line of its own."""
        print(visible(text), file=sys.stderr, flush=True)

    def advance(self, totals: Totals, text: str, *, good: bool) -> None:
        """Tell one more outcome."""


@define(eq=False)
class Lines(Display):
    """Progress in lines, for logs and pipes."""

    _told_at: float = field(factory=time.monotonic, init=False)

    def look(self) -> None:
        """Say how it is, now and then."""
        now = time.monotonic()
        text = self.view.lines(due=now - self._told_at >= LINES_EVERY)
        if text:
            self._told_at = now
            self.note(text)

    def advance(self, totals: Totals, text: str, *, good: bool) -> None:  # noqa: ARG002 - the line's
        """Tell one more outcome."""
        self.note(f"[{totals.ended}/{totals.requests}] {text}")


@define(eq=False)
class Bar(Display):
    """Progress as one line, the last of a terminal."""

    every: float = field(default=_LINE_EVERY, init=False)
    _line: StatusLine = field(init=False)
    _spins: Iterator[str] = field(factory=lambda: cycle(_SPINNER), init=False)
    _streams: tuple[TextIO, TextIO] | None = field(default=None, init=False)
    """Streams that `sys` called stdout and stderr before."""

    def __enter__(self) -> Self:
        self._line, self._streams = StatusLine(sys.stderr), (sys.stdout, sys.stderr)
        sys.stderr = self._above(sys.stderr)
        if sys.stdout.isatty():
            sys.stdout = self._above(sys.stdout)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._line.erase()
        if self._streams is not None:
            sys.stdout, sys.stderr = self._streams

    def _above(self, stream: TextIO) -> TextIO:
        return cast("TextIO", AboveLine(stream, self._line.write_above))

    def look(self) -> None:
        """Draw the line."""
        parts = self.view.parts()
        if parts:
            self._line.draw(next(self._spins), parts)

    def advance(self, totals: Totals, text: str, *, good: bool) -> None:  # noqa: ARG002 - the log's
        """Say only what went wrong; the rest is shown."""
        if not good:
            self.note(text)


def display_of() -> Display:
    """The display that suits standard error."""
    return Bar() if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else Lines()
