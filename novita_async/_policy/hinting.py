"""How far webhook events are believed, and relied on.

An event is not signed, so it is never more than a hint to look. What protects is arithmetic:

* An event that carries the token of a purchase can only come from the service, or from who can read its mail.
  The first one of each purchase is answered by a look at once: there are no more of these than purchases.
* Every other look that an event asks for takes from one `Allowance`: a few a second, whatever comes.

Once events are seen to come (`Reliance`), looking without being told is but a safety net. A task is left to
its event until that should have come (`Lineup`):

* events of so many later purchases came that it was overtaken by more than any other lately;
* or no event at all has come for longer than lately: then the oldest task is looked at, and, where its event
  was lost, the next;
* or twice the time has passed that the slowest task lately took.

Each look that finds a task still running makes the wait for the next one longer. Of each task that has ended
it is noted whether its event came, and in time. When more than a tenth are lost, there is no net but the
common schedule, as if there were no webhooks, until events have been seen to come again. At first that is
doubted.
"""

import math
from collections.abc import Iterable
from typing import Final

from attrs import define, field

LOOKS_PER_SECOND: Final = 2.0
"""Looks that all events together may ask for which are not the first of their purchase."""
LOOKS_AT_ONCE: Final = 4.0
MEMORY: Final = 1 / 16
"""Weight of one purchase in the share of events that are lost."""
MOST_LOST: Final = 0.1
"""The share of lost events up to which events are relied on."""
SLOWEST_TIMES: Final = 2.0
GRACE: Final = 5.0
"""A task is left to its event for so many times the slowest lately, and so many seconds more."""
OVERTAKEN: Final = 4
"""By how many more than any other lately a task may be overtaken."""
DOUBT: Final = 0.15
"""The share of lost events that is expected before any was seen: seven must come to be relied on."""
FADING: Final = 0.98
"""What is left of the slowest after each event."""


@define(eq=False, repr=False)
class Allowance:
    """A few looks a second."""

    rate: float = LOOKS_PER_SECOND
    """Looks in a second, on the average."""
    most: float = LOOKS_AT_ONCE
    """Looks that may be saved up."""
    _left: float = field(init=False)
    _at: float = field(default=-math.inf, init=False)

    def __attrs_post_init__(self) -> None:
        self._left = self.most

    def __repr__(self) -> str:
        return f"<Allowance of {self.rate:g} a second, {self._left:.1f} left>"

    def left(self, now: float) -> bool:
        """Whether a look may be taken."""
        if now > self._at:
            self._left = min(self.most, self._left + (now - self._at) * self.rate)
            self._at = now
        return self._left >= 1

    def take(self, now: float) -> bool:
        """Take a look, if there is one."""
        if not self.left(now):
            return False
        self._left -= 1
        return True


@define(eq=False, repr=False)
class Reliance:
    """Whether events come, and when."""

    arrived: int = field(default=0, init=False)
    """Tasks whose event came in time."""
    lost: int = field(default=0, init=False)
    """Tasks that ended without."""
    _share: float = field(default=DOUBT, init=False)
    _slowest: float = field(default=0.0, init=False)

    def __repr__(self) -> str:
        relied = "relied on" if self.relied_on else "not relied on"
        return f"<Reliance: {self.arrived} arrived, {self.lost} lost, {relied}>"

    @property
    def relied_on(self) -> bool:
        """Whether looking may be left to events."""
        return self._share <= MOST_LOST

    @property
    def patience(self) -> float:
        """Seconds after its submission for which a task is left to its event."""
        return SLOWEST_TIMES * self._slowest + GRACE

    def saw_arrive(self, took: float) -> None:
        """Note an event that came in time, so many seconds after the submission."""
        self.arrived += 1
        self._share *= 1 - MEMORY
        self._slowest = max(took, self._slowest * FADING)

    def saw_lost(self) -> None:
        """Note a task that ended without its event."""
        self.lost += 1
        self._share += (1 - self._share) * MEMORY


@define(eq=False, repr=False)
class Lineup:
    """Tasks whose event is waited for, in the order in which they were bought."""

    _numbers: dict[str, int] = field(factory=dict, init=False)
    _looks: dict[str, int] = field(factory=dict, init=False)
    """How often those that were overtaken were looked at."""
    _joined: int = field(default=0, init=False)
    _gone: int = field(default=0, init=False)
    _lead: float = field(default=0.0, init=False)
    """The most by which a task was overtaken lately before its event came."""
    _gap: float = field(default=0.0, init=False)
    """The longest silence lately."""
    _since: float = field(default=0.0, init=False)
    """When the silence began."""
    _silences: int = field(default=0, init=False)
    """Looks in this silence."""

    def __repr__(self) -> str:
        return f"<Lineup of {len(self._numbers)}, may be overtaken by {self.margin:.0f}>"

    @property
    def margin(self) -> float:
        """By how many a task may be overtaken before it is looked at."""
        return self._lead + OVERTAKEN

    def join(self, key: str, now: float) -> None:
        """Wait for the event of one more task."""
        if not self._numbers:
            self._since = now
        self._numbers[key] = self._joined
        self._joined += 1

    def hear(self, key: str, now: float) -> None:
        """Note the event of a task."""
        number = self.leave(key)
        if number is None:
            return
        self._lead = max(self._gone - number, self._lead * FADING)
        self._gap = max(now - self._since, self._gap * FADING)
        self._since, self._silences = now, 0

    def leave(self, key: str) -> int | None:
        """Wait for the event of a task no longer. Returns its number."""
        self._looks.pop(key, None)
        number = self._numbers.pop(key, None)
        self._gone += number is not None
        return number

    def overtaken(self) -> list[str]:
        """Give the tasks that are to be looked at because they were overtaken."""
        found: list[str] = []
        for key, number in self._numbers.items():
            lead = self._gone - number
            if lead < self.margin:
                break
            if lead >= self.margin * 2.0 ** self._looks.get(key, 0):
                found.append(key)
        for key in found:
            self._looks[key] = self._looks.get(key, 0) + 1
        return found

    @property
    def silent_at(self) -> float:
        """When the silence will have lasted too long."""
        if not self._numbers:
            return math.inf
        return self._since + (self._gap + GRACE) * 2.0**self._silences

    def break_silence(self) -> Iterable[str]:
        """Give the tasks of which one is to be looked at now, the best first."""
        self._silences += 1
        return tuple(self._numbers)
