"""When the requests of one account may go at all: a circuit breaker.

| state     | purchases                                   | polls, in an outage       | left by          |
|-----------|---------------------------------------------|---------------------------|------------------|
| closed    | as the windows allow                        | as their schedule says    | a trip           |
| open      | none before a certain time                  | one, a little before      | the first to go  |
| half-open | none but the probe, unless it is overdue    | none, unless it is overdue| the probe's end  |
| ramping   | few under way, each burst twice the last    | as their schedule says    | a trip, the end  |

**Trips.** A 429 trips the breaker for as long as the service asked or the window says. An uncertain end and a
server that cannot be reached trip it for a jittered pause that doubles with each trip in a row: these two are
an *outage*. The bound of the pause is wider where each probe may be a paid picture. A request that was sent
before the last trip tells nothing new: each request carries the generation in which it was sent.

**The ramp** begins at the square root of the images that were under way when the breaker opened: of 64, 8 are
risked first. Each answered image makes room for one more, so each answered burst doubles the width.

**Polls** cost nothing. In an outage they wait with the purchases, and one of them is the first probe, a
little before a purchase would be: without an answer the breaker opens again and nothing was risked. When a
poll is answered, polls go on, but only an answered purchase says that purchases are served. After a few polls
that failed as the probe a purchase goes first: perhaps nothing is away but the polls. Where no task is polled
and purchases may have been paid, a question for the balance is asked in a poll's place. A few polls in a row
without an answer trip the breaker as well, or an outage would not be noticed while all requests are paid.

Pure: times are seconds on one monotonic clock, `jitter` is a fresh random number in [0, 1).
"""

import math
from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Final

from attrs import define

_PAUSE: Final = 0.5
"""Seconds: the longest first pause."""
_MOST_DOUBLINGS: Final = 16
_SHORT_OUTAGE_PAUSE: Final = 9.0
"""Seconds between two probes at most, until the outage is old: a minute's costs a dozen probes ..."""
_SHARE_OF_OUTAGE: Final = 1 / 6
"""... and then a share of the time that the outage has lasted, by which its end may be seen late."""
_LEAST_JITTER: Final = 0.75
"""Share of a pause that no jitter takes away."""
_UNANSWERED_POLLS: Final = 5
"""Polls in a row without an answer, after which the server counts as unreachable."""
_POLLS_LEAD: Final = 0.5
"""Seconds by which a poll may be the probe before a purchase, but no more than half the pause."""
_POLLS_FIRST: Final = 3
"""Polls in a row that may fail as the probe before a purchase goes first."""
_RECHECK: Final = 1.0
"""Seconds after which a poll asks again whether the probe was answered, or a purchase went first."""


class BreakerState(Enum):
    """Whether the requests of an account may go."""

    CLOSED = "closed"
    """As the windows allow."""
    OPEN = "open"
    """Not before a certain time, and then one probe."""
    HALF_OPEN = "half-open"
    """Not before the probe is answered, or overdue."""
    RAMPING = "ramping"
    """Few at a time, then more."""


class Trip(StrEnum):
    """Why a breaker opened."""

    RATE_LIMITED = "rate limited"
    """The service answered with 429."""
    UNCERTAIN = "uncertain"
    """A purchase ended without an answer that can be used, and may be paid."""
    UNREACHABLE = "unreachable"
    """The server could not be reached, or did not answer polls."""


CLOSED: Final = BreakerState.CLOSED
OPEN: Final = BreakerState.OPEN
HALF_OPEN: Final = BreakerState.HALF_OPEN
RAMPING: Final = BreakerState.RAMPING

_LONGEST_PAUSE: Final[Mapping[Trip, float]] = {Trip.UNREACHABLE: 60.0, Trip.UNCERTAIN: 300.0}
"""Seconds between two probes at most."""
_PROBE_TIMEOUT: Final[Mapping[Trip, float]] = {
    Trip.RATE_LIMITED: 10.0,
    Trip.UNREACHABLE: 10.0,
    Trip.UNCERTAIN: 60.0,
}
"""Seconds after which an unanswered probe no longer holds up the account; doubles with each further one."""


@define(eq=False, kw_only=True, repr=False)
class Breaker:
    """Circuit breaker of an account."""

    state: BreakerState = CLOSED
    until: float = -math.inf
    """When a probe may go, while open; when another may, while half-open."""
    generation: int = 0
    """How often the breaker opened."""
    cause: Trip = Trip.RATE_LIMITED
    """Why the breaker opened last, once it has."""
    pause: float = 0.0
    """Seconds for which the breaker opened last."""
    trips: int = 0
    """How often the breaker opened without an answered probe between."""
    opened_at: float = -math.inf
    """When the breaker opened last after being closed or ramping."""
    answered_at: float = -math.inf
    """When a probe, or a poll in an outage, was answered last."""
    under_way: int = 0
    """Images of purchases that were sent in this generation and are not answered."""
    width: float = math.inf
    """Images that may be under way, while ramping."""
    target: int = 2
    """Width at which the breaker closes."""
    _open_until: float = -math.inf
    """When the last pause ends."""
    _probes: int = 0
    """Probes that were sent in this generation."""
    _polls_flow: bool = False
    """Whether polls are answered in this outage, though purchases are not."""
    _failed_probes: int = 0
    """Polls that failed as the probe since a purchase was."""
    _unanswered_polls: int = 0
    """Polls in a row that were not answered."""

    # --- Purchases ------------------------------------------------------------------------------------------

    def start_at(self, images: int, now: float) -> float:
        """Tell when so many images may be sent at the earliest; infinite while that depends on an answer."""
        if self.state is CLOSED:
            return now
        if self.state is RAMPING:
            full = self.under_way and self.under_way + images > self.width
            return math.inf if full else now
        return max(now, self.until)

    def send(self, images: int, now: float) -> None:
        """Count images that are sent now; the first after a pause are the probe."""
        self.under_way += images
        if self.state is OPEN or self.state is HALF_OPEN:
            self._failed_probes = 0
            self._probe(now)

    def answered(self, generation: int, images: int, now: float) -> None:
        """Take any answer but a 429: the service takes requests."""
        if generation != self.generation:
            return
        self.under_way -= images
        if self.state is CLOSED:
            return
        if self.state is RAMPING:
            self.width += images
        else:
            self.state = RAMPING
            self.width = math.ceil(math.sqrt(self.target))
            self.trips = self._unanswered_polls = 0
            self.answered_at = now
        if self.width >= self.target:
            self.state = CLOSED

    def withdrawn(self, generation: int, images: int, now: float) -> None:
        """Take back images that were never sent. A probe among them lets the next go at once."""
        if generation != self.generation:
            return
        self.under_way -= images
        self._release_probe(now)

    # --- Trips ----------------------------------------------------------------------------------------------

    def backoff(self, cause: Trip, now: float, jitter: float) -> float:
        """Tell the seconds to pause after one more trip that says nothing about it."""
        age = now - self.opened_at if self.trips else 0.0
        bound = min(max(_SHORT_OUTAGE_PAUSE, age * _SHARE_OF_OUTAGE), _LONGEST_PAUSE[cause])
        pause = min(_PAUSE * 2.0 ** min(self.trips, _MOST_DOUBLINGS), bound)
        return pause * (_LEAST_JITTER + (1 - _LEAST_JITTER) * jitter)

    def trip(self, generation: int, cause: Trip, now: float, pause: float) -> None:
        """Open for a pause. Purchases sent before the last trip can only make that pause longer."""
        if generation != self.generation:
            if self.state is OPEN:
                self.until = self._open_until = max(self.until, now + pause)
            return
        # The ramp must become as wide as what was under way when the breaker opened.
        if self.state is CLOSED:
            self.target = max(2, self.under_way)
        elif self.state is RAMPING and cause is Trip.RATE_LIMITED:  # less was too much already
            self.target = max(2, self.target // 2)
        if self.state is CLOSED or self.state is RAMPING:
            self.opened_at, self._polls_flow = now, False
        self.state, self.cause, self.pause = OPEN, cause, pause
        self.until = self._open_until = now + pause
        self.generation += 1
        self.trips += 1
        self.under_way = self._probes = self._unanswered_polls = 0

    def in_outage(self) -> bool:
        """Tell whether nothing goes, for a reason that has nothing to do with the quota."""
        return self.state in (OPEN, HALF_OPEN) and self.cause is not Trip.RATE_LIMITED

    # --- Polls ----------------------------------------------------------------------------------------------

    def poll_at(self, now: float) -> float:
        """Tell when a poll may go at the earliest, or when to ask again."""
        if self.state is CLOSED or not self._holds_polls():
            return now
        if self.state is HALF_OPEN:
            return min(max(now, self.until), now + _RECHECK)
        if self._failed_probes >= _POLLS_FIRST:
            return max(now, self.until + _RECHECK)
        return max(now, self.until - min(_POLLS_LEAD, self.pause / 2))

    def question_at(self, now: float) -> float:
        """Tell when a question that costs nothing is due as the probe; infinite where none would help.

        For purchases that wait while no task is polled, and only where a purchase as the probe may be paid.
        """
        if self.state is not OPEN or self.cause is not Trip.UNCERTAIN or not self._holds_polls():
            return math.inf
        return self.poll_at(now) if self._failed_probes < _POLLS_FIRST else math.inf

    def poll(self, now: float) -> int:
        """Let a poll go, the probe where one is due. Returns the generation."""
        if self.state is not CLOSED and self._holds_polls():
            self._probe(now)
        return self.generation

    def poll_answered(self, generation: int, now: float) -> None:
        """Take an answer to a poll: polls go on, and where one was the probe, a purchase may be the next."""
        if generation != self.generation:
            return
        self._unanswered_polls = 0
        if self.state is not CLOSED and self._holds_polls():
            self._polls_flow = True
            self.answered_at = now
            self._release_probe(now)

    def poll_unanswered(self, generation: int, now: float, jitter: float) -> None:
        """Take a poll that nobody answered: the probe has failed, or a few in a row trip the breaker."""
        if generation != self.generation:
            return
        self._unanswered_polls += 1
        held = self._holds_polls()
        self._failed_probes += held
        if held or self._unanswered_polls >= _UNANSWERED_POLLS:
            cause, self._polls_flow = self.cause if held else Trip.UNREACHABLE, False
            self.trip(generation, cause, now, self.backoff(cause, now, jitter))

    def poll_withdrawn(self, generation: int, now: float) -> None:
        """Take a poll that was broken off. Where it was the probe, the next may go at once."""
        if generation == self.generation and self._holds_polls():
            self._release_probe(now)

    def doubts_count_from(self, now: float) -> float:
        """Tell from when on failed polls say something about their task: not before an outage is over."""
        return now if self._holds_polls() else self.answered_at

    def _holds_polls(self) -> bool:
        return self.in_outage() and not self._polls_flow

    # --- Steps ----------------------------------------------------------------------------------------------

    def _probe(self, now: float) -> None:
        self.state = HALF_OPEN
        timeout = _PROBE_TIMEOUT[self.cause]
        self.until = now + timeout * 2.0 ** min(self._probes, _MOST_DOUBLINGS)
        self._probes += 1

    def _release_probe(self, now: float) -> None:
        if self.state is HALF_OPEN and not self.under_way:
            self.state, self.until, self._probes = OPEN, max(now, self._open_until), 0
