"""When an account may send its next purchase.

The service limits images, not requests, per account, endpoint and minute. It does not say how it counts,
and it counts when *it* sees a request: somewhere between the announcement here and the answer.

**The window** (one an endpoint). A slot is held from the announcement until a minute after the answer.
Whatever the network does to the times between, no minute of the server's ever sees more than the quota. A
request heavier than the quota goes when nothing else is held. Nothing is reordered here: whoever asks keeps
its own queue and offers the head of it.

**What is learned.** The first burst is small (the documented quota where none is configured) and doubles with
each answered burst, up to a width whose refusal does not hurt, and that widens with time. The first 429 ends
that. What was accepted by then is taken for the quota of a sliding window, `limit`; `ceiling` is the largest
number that no 429 has refuted. While the limit is a guess, single requests look beyond it, ever less often.
When one is accepted that a sliding window of that size had no room for, the server counts otherwise:

* once a minute: its minute began anew (a fixed window). What was sent before is forgiven, and the next
  look is due when the next minute is;
* twice in a minute, or once and then a 429 long before the limit: room comes back steadily (a leaky bucket).
  From then on images are spaced evenly. Between two 429s, which are moments when the bucket is full, as much
  was accepted as leaked out: that gives the rate. It rises a little with each acceptance and falls with each
  429. 429s that no bucket with nearly this rate would give end the pacing.

A guess that lasts a minute is confirmed and stays, but for a look every ten minutes whether there is more.
A configured quota is never exceeded, whatever is learned; that there is less is learned like everything else.

**The gate** (one an account). A 429 closes it: for as long as the service asked, or for a jittered pause that
doubles. Then one probe goes. Its acceptance opens the gate step by step: the images under way grow with each
answer up to half of what was under way at the closing, and by a few a round trip from there.

All times are seconds on one monotonic clock, which the caller reads. A call costs O(1), amortised.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

from attrs import Factory, define, field, frozen

MINUTE: Final = 60.0
"""Seconds that a quota is for."""

HOLD: Final = MINUTE + 0.01
"""Seconds that a slot is held after the answer. The rest over a minute is for clocks that run at
slightly different speeds (150 ppm) and for rounding."""

DOCUMENTED: Final[Mapping[str, int]] = {
    "img2img": 10,
    "txt2img": 20,
    "upscale": 20,
    "txt2video": 2,
    "img2video": 2,
}
"""Documented default quotas, by the last part of the path."""

DOCUMENTED_ELSEWHERE: Final = 10
"""Documented default quota of the other endpoints."""

_KNOWN_FIRST_SHARE: Final = 1 / 6
"""Share of a configured quota that goes in the first burst: enough to lose no time, too little to
flood a server that takes no bursts."""
_WIDEST_SEARCH: Final = 32
"""Images under way at most when the search for a quota begins, since all of them may be refused ..."""
_WIDENS: Final = 15.0
"""... twice as many every so many seconds, or a slow service would never be used to its limit; but for the
first of them, in which a quick one is searched through ..."""
_WIDENINGS: Final = 30.0
_SEARCH_SHARE: Final = 1 / 20
"""... or this share of what was accepted, where that is more."""
_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 8.0
"""A server with a fixed minute gives no sign when the next begins; this is how late it may be seen."""
_LONGEST_OUTAGE_PAUSE: Final = 30.0
"""Seconds between two probes of a service that does not answer."""
_PROBE_PATIENCE: Final = 10.0
"""Seconds after which an unanswered probe no longer holds up the account."""
_BELIEVED: Final = 1.0
"""Seconds: a shorter Retry-After is not taken at its word, because repeated it would be a busy loop."""
_LOOK_AGAIN: Final = 600.0
"""Seconds after which a confirmed limit is doubted."""
_RATE_RISE: Final = 0.02
"""Images a second that each accepted image adds to the rate: two percent a second, at any rate."""
_IN_VAIN: Final = 4
"""429s in a row, each after twice the pause, that no bucket with nearly this rate would give."""
_RATE_FALL: Final = 0.8
"""What a 429 leaves of the rate at least."""
_RATE_MARGIN: Final = 0.95
"""A rate starts this much below what was measured, so that the bucket drains a little."""
_CATCH_UP: Final = 0.05
"""Seconds of lateness of a timer that are made good."""


class GateState(Enum):
    """Whether an account may send."""

    OPEN = "open"
    """As its windows allow."""
    CLOSED = "closed"
    """Not before a certain time, and then one probe."""
    PROBING = "probing"
    """Not before the probe is answered, or overdue."""
    RAMPING = "ramping"
    """Few at a time, then more."""


class Phase(Enum):
    """What is known of an endpoint's quota."""

    SEARCHING = "searching"
    """Never refused so far."""
    GUESSED = "guessed"
    """A number of images a minute, looked beyond now and then."""
    CONFIRMED = "confirmed"
    """A number of images a minute."""
    PACED = "paced"
    """A rate: the server takes images at an even pace."""


@frozen(kw_only=True)
class WindowStatistics:
    """One endpoint's quota, as it looks from here."""

    endpoint: str
    """Path of the submissions."""
    phase: Phase
    """How much is known."""
    images_per_minute: int | None
    """The configured quota, or what was learned; None while nothing is known."""
    held: int
    """Images that count against the quota now."""
    unanswered: int
    """How many of them are still under way."""
    rejections: int
    """How many submissions were answered with 429."""


@frozen(kw_only=True)
class PacerStatistics:
    """What an account may send, as it looks from here."""

    gate: GateState
    """Whether it may send at all."""
    closed_until: float | None
    """When the gate lets a probe through, while it is closed."""
    rejections: int
    """How many submissions were answered with 429."""
    windows: tuple[WindowStatistics, ...]
    """One for each endpoint that was used."""


@define(eq=False, kw_only=True)
class Slot:
    """The right to send one purchase. Given back, or settled, exactly once."""

    endpoint: str
    """Path of the submission."""
    images: int
    """How many images it asks for."""
    announced_at: float
    """When it was taken."""
    beyond: bool
    """Whether it looks for more than what the window is known to take."""
    gone_before: int
    """Images that the window had let go when this was announced."""
    window_era: int
    """How often the window had been refused."""
    gate_era: int
    """How often the gate had closed."""
    settled: bool = False
    """Whether its end was told."""


@define(eq=False, kw_only=True)
class Window:
    """What one endpoint takes from one account."""

    quota: int | None
    """Images a minute as configured: never exceeded."""
    first_burst: int
    """Images that may be under way before anything is known."""
    phase: Phase = Phase.SEARCHING
    held: int = 0
    """Images announced and not let go."""
    unanswered: int = 0
    """How many of them are under way."""
    gone: int = 0
    """Images let go so far."""
    forgiven: int = 0
    """How many of the oldest held images lie before the server's present minute."""
    burst: float = Factory(lambda window: window.first_allowance(), takes_self=True)
    """Images that may be under way while searching."""
    limit: float = math.inf
    """Images that were seen to fit in a minute, once refused."""
    ceiling: float = math.inf
    """The largest number of images in a minute that was not refuted."""
    rate: float = math.inf
    """Images a second, while paced."""
    next_at: float = -math.inf
    """When the next paced image is due."""
    look_at: float = -math.inf
    """When a single request may look beyond the limit."""
    looking: bool = False
    """Whether one does."""
    origin: float = -math.inf
    """When the first of the images that count against the limit was announced."""
    restarted_at: float = -math.inf
    """After when the server's minute was last seen to begin anew."""
    minutes: int = 0
    """How often it did so a whole minute after the last time: the server has fixed minutes."""
    steady: bool = False
    """Whether it was seen to do so twice in a minute: the server has no minutes."""
    full_at: float = -math.inf
    """When the request was sent that last found the server full."""
    accepted: int = 0
    """Images accepted since then."""
    era: int = 0
    """How often a 429 told something new."""
    refusals: int = 0
    """How many of them came without an acceptance between."""
    rejections: int = 0
    _answered: deque[tuple[float, int]] = field(factory=deque[tuple[float, int]])
    """When which number of images is let go, the earliest first."""

    def first_allowance(self) -> float:
        """How many images may be under way before anything was answered."""
        return max(self.first_burst, (self.quota or 0) * _KNOWN_FIRST_SHARE)

    def start_at(self, images: int, now: float) -> float:
        """Earliest time for so many images; infinite while that depends on an answer."""
        self._let_go(now)
        if self.phase is Phase.SEARCHING:
            if self.unanswered and self.unanswered + images > self.burst:
                return math.inf
            return self._room_at(images, now)
        if self.phase is Phase.PACED:
            return max(self._room_at(images, now), self.next_at)
        return min(self._room_at(images, now), self._look_at(images, now))

    def announce(self, images: int, now: float) -> bool:
        """Take the images; tell whether they look beyond what is known to fit."""
        if self.held == self.forgiven and self.phase is not Phase.GUESSED:
            self.origin = now
        beyond = self._over_limit(images) > 0
        self.looking = self.looking or beyond
        self.held += images
        self.unanswered += images
        if self.phase is Phase.PACED:
            self.next_at = max(self.next_at, now - _CATCH_UP) + images / self.rate
        return beyond

    def answered(self, slot: Slot, now: float) -> None:
        """Hold the images for another minute, and learn from the acceptance."""
        self._let_go(now)
        self._settle(slot)
        self._answered.append((now + HOLD, slot.images))
        self.accepted += slot.images
        if slot.window_era == self.era:
            self.refusals = 0
        if self.phase is Phase.SEARCHING:
            self._accepted_searching(slot, now)
        elif self.phase is Phase.PACED:
            self._accepted_paced(slot)
        else:
            self._accepted_limited(slot, now)

    def hold(self, slot: Slot, now: float) -> None:
        """Hold the images for another minute, and learn nothing."""
        self._let_go(now)
        self._settle(slot)
        self._answered.append((now + HOLD, slot.images))

    def give_back(self, slot: Slot) -> None:
        """Let the images go at once: nothing was bought."""
        self._settle(slot)
        self.held -= slot.images

    def rejected(self, slot: Slot, now: float) -> None:
        """Let the images go, and learn from the refusal."""
        self._let_go(now)
        seen = self.gone + self.held - self.forgiven - slot.gone_before
        self.ceiling = min(self.ceiling, max(1, seen - 1))
        self.give_back(slot)
        self.rejections += 1
        if slot.window_era != self.era:
            return
        self.era += 1
        if self.phase is Phase.SEARCHING:
            self._refused_searching()
        elif self.phase is Phase.PACED:
            self._refused_paced(slot)
        else:
            self._refused_limited(slot, seen)
        self.full_at = slot.announced_at
        self.accepted = 0
        self.refusals += 1

    def pause(self, images: int, now: float, jitter: float) -> float:
        """How long to wait after a 429 that said nothing about it."""
        first = images / self.rate if self.phase is Phase.PACED else _PAUSE
        pause = first * 2.0 ** min(self.refusals - 1, 16)
        restart_at = self.restarted_at + MINUTE
        longest = restart_at - now if now < restart_at else _LONGEST_PAUSE
        pause = min(max(first, longest), pause) * (0.5 + jitter / 2)
        room_at = self._room_at(images, now)
        return min(pause, room_at - now) if now < room_at else pause

    def restore(self, slots: Iterable[tuple[float, float | None, int]], now: float) -> None:
        """Hold what was sent before: rows of announced_at, answered_at or None, images."""
        rows = [(min(now if answered is None else answered, now), images) for _, answered, images in slots]
        held = [*self._answered, *((at + HOLD, images) for at, images in rows)]
        self._answered = deque(sorted(held))
        self.held += sum(images for _, images in rows)
        self._let_go(now)

    def statistics(self, endpoint: str) -> WindowStatistics:
        return WindowStatistics(
            endpoint=endpoint,
            phase=self.phase,
            images_per_minute=self._images_per_minute(),
            held=self.held,
            unanswered=self.unanswered,
            rejections=self.rejections,
        )

    def _images_per_minute(self) -> int | None:
        learned = self.rate * MINUTE if self.phase is Phase.PACED else self.limit
        most = min(learned, self.quota or math.inf)
        return None if math.isinf(most) else max(1, int(most))

    def _settle(self, slot: Slot) -> None:
        self.unanswered -= slot.images
        if slot.beyond:
            self.looking = False

    def _let_go(self, now: float) -> None:
        while self._answered and self._answered[0][0] <= now:
            images = self._answered.popleft()[1]
            self.held -= images
            self.gone += images
            self.forgiven = max(0, self.forgiven - images)

    def _over_limit(self, images: int) -> float:
        """By how many images this would exceed what is known to fit, the heaviest requests excepted."""
        counted = self.held - self.forgiven
        return min(counted, counted + images - self.limit)

    def _room_at(self, images: int, now: float) -> float:
        """When enough is let go for the quota and for the limit."""
        over_limit = self._over_limit(images)
        excess = self.forgiven + over_limit if over_limit > 0 else 0
        if self.quota is not None:
            excess = max(excess, min(self.held, self.held + images - self.quota))
        if excess <= 0:
            return now
        for at, count in self._answered:
            excess -= count
            if excess <= 0:
                return at
        return math.inf

    def _look_at(self, images: int, now: float) -> float:
        """When these images may look beyond the limit."""
        if self.looking or (self.quota is not None and self.held + images > self.quota):
            return math.inf
        counted = self.held - self.forgiven + images
        if self.phase is Phase.GUESSED or counted <= self.ceiling:
            return max(now, self.look_at)
        return max(now, self.look_at, self.full_at + _LOOK_AGAIN)

    def _accepted_searching(self, slot: Slot, now: float) -> None:
        self.burst += slot.images
        if self.quota is None:
            widenings = min(max(0.0, (now - self.origin) / _WIDENS - 1), _WIDENINGS)
            self.burst = min(self.burst, max(_WIDEST_SEARCH * 2.0**widenings, self.held * _SEARCH_SHARE))

    def _accepted_limited(self, slot: Slot, now: float) -> None:
        fits = self.held - self.unanswered - self.forgiven
        if slot.beyond and now >= self.full_at + _LOOK_AGAIN:
            self.ceiling = math.inf
        if fits <= self.limit:
            if slot.window_era == self.era and slot.announced_at >= self.origin + MINUTE:
                self.phase = Phase.CONFIRMED
        elif fits <= self.ceiling:
            self.limit = fits
        elif slot.beyond and now < self.origin + MINUTE:
            self._accepted_too_early(slot, now)

    def _accepted_too_early(self, slot: Slot, now: float) -> None:
        """A sliding window could not have taken this."""
        self.steady = now < self.restarted_at + MINUTE
        self.minutes = 0 if self.steady else self.minutes + 1
        self.restarted_at = self.full_at
        self.phase = Phase.GUESSED
        self.origin = slot.announced_at
        self.forgiven = self.held - self.unanswered - slot.images

    def _accepted_paced(self, slot: Slot) -> None:
        fastest = math.inf if self.quota is None else self.quota / MINUTE
        self.rate = min(fastest, self.rate + _RATE_RISE * slot.images)

    def _refused_searching(self) -> None:
        self._guess(self.held - self.unanswered)
        self.burst = self.first_burst

    def _refused_limited(self, slot: Slot, seen: int) -> None:
        restarted = slot.announced_at < self.restarted_at + MINUTE
        if restarted and (self.steady or self.held - self.forgiven < self.limit / 2):
            self._pace(slot)
            return
        if restarted:
            self.look_at = self.restarted_at + MINUTE if self.minutes > 1 else -math.inf
        if seen <= self.limit:
            self._guess(self.held - self.unanswered - self.forgiven)

    def _refused_paced(self, slot: Slot) -> None:
        if self.accepted:
            self.rate = min(self.rate, max(self.rate * _RATE_FALL, self._measured(slot)))
        elif self.refusals >= _IN_VAIN:
            self._guess(self.held - self.unanswered)

    def _guess(self, fits: int) -> None:
        """Take what was accepted for the limit, if there was anything."""
        if fits:
            self.phase = Phase.GUESSED
            self.limit = fits
            self.steady = False

    def _pace(self, slot: Slot) -> None:
        fastest = math.inf if self.quota is None else self.quota / MINUTE
        self.rate = min(_RATE_MARGIN * fastest, self._measured(slot))
        self.phase = Phase.PACED
        self.limit = self.ceiling = math.inf
        self.forgiven = 0

    def _measured(self, slot: Slot) -> float:
        """A little less than the rate at which images were accepted since the server was full."""
        return _RATE_MARGIN * max(1, self.accepted) / max(1e-3, slot.announced_at - self.full_at)


@define(eq=False, kw_only=True)
class Gate:
    """What a 429 closes, for the whole account."""

    state: GateState = GateState.OPEN
    until: float = -math.inf
    """When a probe may go, while closed; when another may, while probing."""
    era: int = 0
    """How often it closed."""
    under_way: int = 0
    """Images announced since then and not answered."""
    allowed: float = math.inf
    """Images that may be under way, while ramping."""
    target: float = 2.0
    """Images under way at which the gate is open again."""
    failures: int = 0
    """How often it closed in a row because no answer came that could be used."""

    def opens_at(self, images: int, now: float) -> float:
        """Earliest time for so many images; infinite while that depends on an answer."""
        if self.state is GateState.OPEN:
            return now
        if self.state in {GateState.CLOSED, GateState.PROBING}:
            return max(now, self.until)
        full = self.under_way and self.under_way + images > self.allowed
        return math.inf if full else now

    def announce(self, images: int, now: float) -> None:
        self.under_way += images
        if self.state is GateState.CLOSED or self.state is GateState.PROBING:
            self.state = GateState.PROBING
            self.until = now + _PROBE_PATIENCE

    def answered(self, slot: Slot) -> None:
        if slot.gate_era != self.era:
            return
        self.failures = 0
        self.under_way -= slot.images
        if self.state is GateState.PROBING:
            self.state = GateState.RAMPING
            self.allowed = 1.0
        if self.state is GateState.RAMPING:
            quickly = self.allowed < self.target / 2
            self.allowed += slot.images if quickly else 4 * slot.images / self.allowed
            if self.allowed >= self.target:
                self.state = GateState.OPEN
                self.allowed = math.inf

    def give_back(self, slot: Slot) -> None:
        if slot.gate_era != self.era:
            return
        self.under_way -= slot.images
        if self.state is GateState.PROBING and not self.under_way:
            self.state = GateState.CLOSED
            self.until = -math.inf

    def close(self, slot: Slot, until: float) -> None:
        """Close until a time. What was sent before it closed last tells nothing new."""
        if slot.gate_era == self.era:
            self._shrink()
            self.state = GateState.CLOSED
            self.until = until
            self.era += 1
            self.under_way = 0
        elif self.state is GateState.CLOSED:
            self.until = max(self.until, until)

    def _shrink(self) -> None:
        if self.state is GateState.OPEN:
            self.target = max(2.0, self.under_way)
        elif self.state is GateState.RAMPING:
            self.target = max(2.0, self.target / 2)


def _last_part(endpoint: str) -> str:
    return endpoint.rsplit("/", 1)[-1]


@define(eq=False, repr=False, kw_only=True)
class AccountPacer:
    """When one account may send which purchase: a window for each endpoint and one gate."""

    images_per_minute: int | None = None
    """The quota of each endpoint; None: found out from the server's answers."""
    _gate: Gate = Factory(Gate)
    _windows: dict[str, Window] = field(factory=dict[str, Window])

    def start_at(self, endpoint: str, images: int, now: float) -> float:
        """Tell when a purchase may be announced at the earliest.

        Args:
            endpoint: Path of the submission.
            images: How many images it asks for.
            now: The time.

        Returns:
            `now`, or a later time at which to ask again, or infinity: ask again when another purchase of
            this account is answered.
        """
        opens_at = self._gate.opens_at(images, now)
        return max(opens_at, self._window(endpoint).start_at(images, now))

    def announce(self, endpoint: str, images: int, now: float) -> Slot:
        """Take the slot of a purchase that is sent now.

        Raises:
            ValueError: It may not be sent now.
        """
        slot = self.take(endpoint, images, now)
        if not isinstance(slot, Slot):
            raise ValueError(f"{images} image(s) to {endpoint} may not be announced at {now}")  # noqa: TRY004
        return slot

    def take(self, endpoint: str, images: int, now: float) -> Slot | float:
        """Take the slot of a purchase that is sent now, or tell when to ask again, as `start_at` does."""
        start_at = self.start_at(endpoint, images, now)
        if start_at > now:
            return start_at
        window = self._window(endpoint)
        slot = Slot(
            endpoint=endpoint,
            images=images,
            announced_at=now,
            gone_before=window.gone,
            window_era=window.era,
            gate_era=self._gate.era,
            beyond=window.announce(images, now),
        )
        self._gate.announce(images, now)
        return slot

    def answered(self, slot: Slot, now: float) -> None:
        """Tell of any answer but a 429, or that none will come: the images count as bought."""
        self._settle(slot).answered(slot, now)
        self._gate.answered(slot)

    def released(self, slot: Slot) -> None:
        """Tell that the purchase never reached the service: the slot is free at once."""
        self._settle(slot).give_back(slot)
        self._gate.give_back(slot)

    def broken(self, slot: Slot, now: float, jitter: float, *, seen: bool) -> None:
        """Tell that no answer came that can be used: the gate closes for a pause that doubles.

        Args:
            slot: What it was.
            now: The time.
            jitter: A fresh random number in [0, 1).
            seen: Whether the service may have seen it.
        """
        window = self._settle(slot)
        if seen:
            window.hold(slot, now)
        else:
            window.give_back(slot)
        if slot.gate_era == self._gate.era:
            pause = min(_LONGEST_OUTAGE_PAUSE, _PAUSE * 2.0 ** min(self._gate.failures, 16))
            self._gate.failures += 1
            self._gate.close(slot, now + pause * (0.5 + jitter / 2))

    def rejected(self, slot: Slot, now: float, retry_after: float | None, jitter: float) -> None:
        """Tell of a 429: the slot is given back and the gate closes.

        Args:
            slot: What was refused.
            now: The time.
            retry_after: Seconds that the service asked to wait, already capped; None where it did not say.
            jitter: A fresh random number in [0, 1).
        """
        window = self._settle(slot)
        window.rejected(slot, now)
        after = retry_after or 0.0
        if after < _BELIEVED:
            after = max(after, window.pause(slot.images, now, jitter))
        window.look_at = max(window.look_at, now + after)
        self._gate.close(slot, now + after)

    def restore(self, endpoint: str, slots: Iterable[tuple[float, float | None, int]], now: float) -> None:
        """Hold what earlier runs sent.

        Args:
            endpoint: Path of the submissions.
            slots: Rows of (announced_at, answered_at, images) on this clock. A request without an answer
                may have been seen as late as now.
            now: The time.
        """
        self._window(endpoint).restore(slots, now)

    def statistics(self) -> PacerStatistics:
        """What is known and held now."""
        windows = tuple(window.statistics(endpoint) for endpoint, window in self._windows.items())
        closed = self._gate.state is GateState.CLOSED
        return PacerStatistics(
            gate=self._gate.state,
            closed_until=self._gate.until if closed else None,
            rejections=sum(window.rejections for window in windows),
            windows=windows,
        )

    def __repr__(self) -> str:
        windows = ", ".join(
            f"{_last_part(w.endpoint)} {w.phase.value} {w.held}/{w.images_per_minute or '?'}"
            for w in self.statistics().windows
        )
        return f"<AccountPacer gate {self._gate.state.value}; {windows or 'unused'}>"

    def _window(self, endpoint: str) -> Window:
        window = self._windows.get(endpoint)
        if window is None:
            documented = DOCUMENTED.get(_last_part(endpoint), DOCUMENTED_ELSEWHERE)
            window = Window(quota=self.images_per_minute, first_burst=documented)
            self._windows[endpoint] = window
        return window

    def _settle(self, slot: Slot) -> Window:
        if slot.settled:
            raise ValueError(f"{slot!r} was settled before")
        slot.settled = True
        return self._window(slot.endpoint)
