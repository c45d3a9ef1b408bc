"""Purchases that an earlier run has paid for, brought to their end before the input is read.

A purchase joins its line of the input when that comes: the outcome then carries the request. A purchase
without a line comes out when the input has ended. Nothing here waits.
"""

from collections.abc import Callable, Iterator

from attrs import define, field

from novita_async._purchase.machine import JournalEntry, Purchase
from novita_async.models.results import Outcome


@define(eq=False)
class Early:
    """A purchase that is watched before its line of the input has come."""

    purchase: Purchase
    """The purchase."""
    outcome: Outcome | None = None
    """The outcome. None: not known yet."""
    deliver: Callable[["Early"], None] | None = None
    """Called once the outcome is known. None: the line has not come, and the input goes on."""

    def end(self, outcome: Outcome) -> None:
        """Note the outcome, and deliver it where somebody has asked."""
        self.outcome = outcome
        if self.deliver is not None:
            self.deliver(self)

    def ask(self, deliver: Callable[["Early"], None]) -> None:
        """Have the outcome delivered, now or once it is known."""
        self.deliver = deliver
        if self.outcome is not None:
            deliver(self)


@define(eq=False)
class Paid:
    """The purchases of earlier runs in one stream."""

    _early: dict[tuple[str, int], Early] = field(factory=dict[tuple[str, int], Early], init=False)
    planning: int = field(default=0, init=False)
    """Lines of the input that are being looked up in the journal, and may join."""

    def add(self, purchase: Purchase) -> Early:
        """Take up a purchase before its line has come."""
        early = Early(purchase)
        if purchase.entry is not None:
            self._early[purchase.entry.name] = early
        return early

    def join(self, entry: JournalEntry | None) -> Early | None:
        """The purchase of a line that has come, where it was taken up early."""
        return None if entry is None else self._early.pop(entry.name, None)

    def without_line(self) -> Iterator[Early]:
        """Purchases whose line can no longer come, each once."""
        while self._early and not self.planning:
            yield self._early.popitem()[1]
