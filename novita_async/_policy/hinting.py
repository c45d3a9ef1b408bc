"""How far webhook events are believed, and relied on.

An event is not signed, so it is never more than a hint to poll. Arithmetic protects:

* An event that carries the token of a purchase can only come from the service, or from a reader of its mail.
  The first of each purchase is answered by a poll at once: there are no more of these than purchases.
* Every other poll that an event asks for takes a token from one `TokenBucket`: a few a second, whatever
  comes.

Once events are seen to come (`DeliveryHealth`), polling without them is but a safety net. A task waits for
its event until that should have come (`ExpectedEvents`):

* events of so many later purchases came that it was overtaken by more than any other lately;
* or no event at all has come for longer than lately: then the oldest task is polled, and, where its event was
  lost, the next;
* or twice the time has passed that the slowest task lately took.

Each poll that finds a task still running makes the wait for the next one longer. Of each task that has ended
is noted whether its event came, and in time. When more than a tenth are lost, all tasks are polled by the
common schedule, as if there were no webhooks, until events have been seen to come again. At first that is
doubted.
"""

import math
from typing import Final

from attrs import define, field

POLLS_PER_SECOND: Final = 2.0
"""Polls that all events together may ask for which are not the first of their purchase."""
POLLS_AT_ONCE: Final = 4.0
MEMORY: Final = 1 / 16
"""Weight of one purchase in the share of events that are lost."""
MOST_LOST: Final = 0.1
"""Share of lost events up to which events are relied on."""

# A task waits for its event SLOWEST_TIMES x the slowest recent one + GRACE seconds.
SLOWEST_TIMES: Final = 2.0
GRACE: Final = 5.0

OVERTAKEN: Final = 4
"""By how many more than any other lately a task may be overtaken."""
DOUBT: Final = 0.15
"""Share of lost events that is expected before any was seen: seven must come to be relied on."""
DECAY: Final = 0.98
"""Decay per event of the remembered slowest arrival, longest silence and greatest lead."""


@define(eq=False, repr=False)
class TokenBucket:
    """Allows a few polls a second."""

    rate: float = POLLS_PER_SECOND
    """Tokens that come in a second."""
    capacity: float = POLLS_AT_ONCE
    """Tokens that may be saved up."""
    _tokens: float = field(init=False)
    _at: float = field(default=-math.inf, init=False)

    def __attrs_post_init__(self) -> None:
        self._tokens = self.capacity

    def __repr__(self) -> str:
        return f"<TokenBucket of {self.rate:g} a second, {self._tokens:.1f} left>"

    def has_token(self, now: float) -> bool:
        """Whether a token is there."""
        if now > self._at:
            self._tokens = min(self.capacity, self._tokens + (now - self._at) * self.rate)
            self._at = now
        return self._tokens >= 1

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        if not self.has_token(now):
            return False
        self._tokens -= 1
        return True


@define(eq=False, repr=False)
class DeliveryHealth:
    """Whether events come, and when."""

    arrived: int = field(default=0, init=False)
    """Tasks whose event came in time."""
    lost: int = field(default=0, init=False)
    """Tasks that ended without."""
    _lost_share: float = field(default=DOUBT, init=False)
    _slowest: float = field(default=0.0, init=False)

    def __repr__(self) -> str:
        relied = "relied on" if self.relied_on else "not relied on"
        return f"<DeliveryHealth: {self.arrived} arrived, {self.lost} lost, {relied}>"

    @property
    def relied_on(self) -> bool:
        """Whether polls may wait for events."""
        return self._lost_share <= MOST_LOST

    @property
    def timeout(self) -> float:
        """Seconds after its submission for which a task waits for its event."""
        return SLOWEST_TIMES * self._slowest + GRACE

    def count_arrival(self, took: float) -> None:
        """Count an event that came in time, so many seconds after the submission."""
        self.arrived += 1
        self._lost_share *= 1 - MEMORY
        self._slowest = max(took, self._slowest * DECAY)

    def count_loss(self) -> None:
        """Count a task that ended without its event."""
        self.lost += 1
        self._lost_share += (1 - self._lost_share) * MEMORY


@define(eq=False, repr=False)
class ExpectedEvents:
    """Tasks whose event is expected, in the order in which they were bought."""

    _numbers: dict[str, int] = field(factory=dict, init=False)
    """Place of each task in that order."""
    _polls: dict[str, int] = field(factory=dict, init=False)
    """Polls of those that were overtaken."""
    _joined: int = field(default=0, init=False)
    _gone: int = field(default=0, init=False)
    _lead: float = field(default=0.0, init=False)
    """The most by which a task was overtaken lately before its event came."""
    _gap: float = field(default=0.0, init=False)
    """The longest silence lately."""
    _since: float = field(default=0.0, init=False)
    """When the silence began."""
    _silences: int = field(default=0, init=False)
    """Polls in this silence."""

    def __repr__(self) -> str:
        return f"<ExpectedEvents of {len(self._numbers)}, may be overtaken by {self.margin:.0f}>"

    @property
    def margin(self) -> float:
        """By how many a task may be overtaken before it is polled."""
        return self._lead + OVERTAKEN

    def expect(self, key: str, now: float) -> None:
        """Expect the event of one more task."""
        if not self._numbers:
            self._since = now
        self._numbers[key] = self._joined
        self._joined += 1

    def arrived(self, key: str, now: float) -> None:
        """Note the event of a task."""
        number = self.forget(key)
        if number is None:
            return
        self._lead = max(self._gone - number, self._lead * DECAY)
        self._gap = max(now - self._since, self._gap * DECAY)
        self._since, self._silences = now, 0

    def forget(self, key: str) -> int | None:
        """Expect the event of a task no longer. Returns its number."""
        self._polls.pop(key, None)
        number = self._numbers.pop(key, None)
        self._gone += number is not None
        return number

    def overtaken(self) -> list[str]:
        """Return the tasks that are to be polled because they were overtaken, and count these polls."""
        found: list[str] = []
        for key, number in self._numbers.items():
            lead = self._gone - number
            if lead < self.margin:
                break
            if lead >= self.margin * 2.0 ** self._polls.get(key, 0):
                found.append(key)
        for key in found:
            self._polls[key] = self._polls.get(key, 0) + 1
        return found

    @property
    def silent_at(self) -> float:
        """When the silence will have lasted too long."""
        if not self._numbers:
            return math.inf
        return self._since + (self._gap + GRACE) * 2.0**self._silences

    def break_silence(self) -> tuple[str, ...]:
        """Return the tasks of which one is to be polled now, the best first, and count that poll."""
        self._silences += 1
        return tuple(self._numbers)
