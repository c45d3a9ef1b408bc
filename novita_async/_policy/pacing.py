"""When an account may send its next purchase.

The service limits images, not requests, per account, endpoint and minute. How they are counted is not said,
and the server counts when *it* sees a request: somewhere between the announcement here and the answer.

**The window** (one an endpoint). A slot is taken from the announcement until a minute after the answer. No
minute of the server's ever sees more than the quota. A request heavier than the quota goes when nothing else
counts. Nothing is reordered here: the caller keeps its own queue and offers the head of it.

**What is learned.** The first burst is small (the documented quota where none is configured) and doubles with
each answered burst, up to a width whose refusal does not hurt, and that widens with time. The first 429 ends
that. The images accepted by then are taken for the quota of a sliding window, `limit`; `ceiling` is the
largest number that no 429 has refuted. While the limit is a guess, single requests look beyond it, ever less
often. When one is accepted that a sliding window of that size had no room for, the server counts otherwise:

* once a minute: its minute began anew (a fixed window). Images sent before are forgiven, and the next
  look is due when the next minute is;
* twice in a minute, or once and then a 429 long before the limit: room comes back steadily (a leaky bucket).
  From then on images are spaced evenly. Between two 429s, which are moments when the bucket is full, as much
  was accepted as leaked out: that gives the rate. The rate rises a little with each acceptance and falls with
  each
  429. 429s that no bucket with nearly this rate would give end the pacing.

A guess that lasts a minute is confirmed and stays, but for a look every ten minutes whether there is more.
A configured quota is never exceeded, whatever is learned; that there is less is learned like everything else.

**The breaker** (one an account, `breaker`). A 429 trips it for as long as the service asked, or for a
jittered pause that doubles and that the window chooses, because the window knows when room comes back.
Uncertain ends and servers that cannot be reached trip it too, and teach the window nothing.

All times are seconds on one monotonic clock, which the caller reads. A call costs O(1), amortised.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final

from attrs import Factory, define, field

from novita_async._policy.breaker import CLOSED, OPEN, Breaker, BreakerState, Trip
from novita_async._util.values import frozen

MINUTE: Final = 60.0
"""Seconds that a quota is for."""

WINDOW: Final = MINUTE + 0.01
"""Seconds for which a slot counts after the answer. The rest over a minute is for clocks that run at
slightly different speeds (150 ppm) and for rounding."""
LATE: Final = 1.0
"""Seconds after which a submission that was given up on its way may still arrive."""

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
# The search for a quota: so many images may be under way at most, since all of them may be refused, or a
# share of what was accepted, where that is more. The width doubles every so many seconds, or a slow service
# would never be used to its limit; but not in the first of them, in which a quick one is searched through.
_WIDEST_SEARCH: Final = 32
_SEARCH_SHARE: Final = 1 / 20
_WIDENS: Final = 15.0
_WIDENINGS: Final = 30.0
_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 8.0
"""A server with a fixed minute gives no sign when the next begins; this is how late it may be seen."""
_BELIEVED: Final = 1.0
"""Seconds: a shorter Retry-After is not taken at its word, because repeated it would be a busy loop."""
_LOOK_AGAIN: Final = 600.0
"""Seconds after which a confirmed limit is doubted."""
_RATE_RISE: Final = 0.02
"""Images a second that each accepted image adds to the rate: two percent a second, at any rate."""
_IN_VAIN: Final = 4
"""429s in a row, each after twice the pause, that no bucket with nearly this rate would give."""
_RATE_FALL: Final = 0.8
"""Share of the rate that a 429 leaves at least."""
_RATE_MARGIN: Final = 0.95
"""A rate starts this much below what was measured, so that the bucket drains a little."""
_CATCH_UP: Final = 0.05
"""Seconds of lateness of a timer that are made good."""
_STEPS: Final = 20
"""Steps of a second in which a window is saved."""


class Phase(Enum):
    """Knowledge of an endpoint's quota."""

    SEARCHING = "searching"
    """Never refused so far."""
    GUESSED = "guessed"
    """A number of images a minute, looked beyond now and then."""
    CONFIRMED = "confirmed"
    """A number of images a minute."""
    PACED = "paced"
    """A rate: the server takes images at an even pace."""


SEARCHING: Final = Phase.SEARCHING
PACED: Final = Phase.PACED


@frozen(kw_only=True)
class WindowStatistics:
    """An endpoint's quota, as it looks from here.

    Args:
        endpoint: Path of the submissions.
        phase: How much is known.
        images_per_minute: The configured quota, or what was learned; None while nothing is known.
        taken: Images that count against the quota now: of this client, where processes share it.
        unanswered: How many of them are still under way.
        rejections: How many submissions were answered with 429.
    """

    endpoint: str
    """Path of the submissions."""
    phase: Phase
    """How much is known."""
    images_per_minute: int | None
    """The configured quota, or what was learned; None while nothing is known."""
    taken: int
    """Images that count against the quota now: of this client, where processes share it."""
    unanswered: int
    """How many of them are still under way."""
    rejections: int
    """How many submissions were answered with 429."""


@frozen(kw_only=True)
class PacerStatistics:
    """An account's quotas and its breaker, as they look from here.

    Args:
        breaker: Whether the account may send at all.
        open_until: When the breaker lets a probe through, while it is open.
        rejections: How many submissions were answered with 429.
        windows: Windows of the endpoints that were used.
    """

    breaker: BreakerState
    """Whether the account may send at all."""
    open_until: float | None
    """When the breaker lets a probe through, while it is open."""
    rejections: int
    """How many submissions were answered with 429."""
    windows: tuple[WindowStatistics, ...]
    """Windows of the endpoints that were used."""


@define(eq=False, kw_only=True, repr=False)
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
    window: "Window" = field(repr=False)
    """Where it counts."""
    window_generation: int
    """How often a 429 had told the window something new."""
    breaker_generation: int
    """How often the breaker had opened."""
    elsewhere: bool = False
    """Whether another window, that processes share, has a place for it: here it only counts."""
    settled: bool = False
    """Whether the attempt has ended."""


@define(eq=False, kw_only=True, repr=False)
class Window:
    """Images that an endpoint takes from an account."""

    quota: int | None
    """Images a minute as configured: never exceeded."""
    first_burst: int
    """Images that may be under way before anything is known."""
    phase: Phase = SEARCHING
    taken: int = 0
    """Images announced and not let go."""
    unanswered: int = 0
    """Images under way, which count among them."""
    gone: int = 0
    """Images let go so far."""
    forgiven: int = 0
    """Number of the oldest of these images, from before the server's present minute."""
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
    """Whether a request beyond the limit is under way."""
    origin: float = -math.inf
    """When the first of the images that count against the limit was announced."""
    restarted_at: float = -math.inf
    """After when the server's minute was last seen to begin anew."""
    minutes: int = 0
    """How often the minute began anew a whole minute after the last time: the server has fixed minutes."""
    steady: bool = False
    """Whether the minute began anew twice in a minute: the server has no minutes."""
    full_at: float = -math.inf
    """When the request was sent that last found the server full."""
    accepted: int = 0
    """Images accepted since then."""
    generation: int = 0
    """Number of 429s that changed the estimate; older slots teach nothing."""
    refusals: int = 0
    """429s in a row, without an acceptance between."""
    rejections: int = 0
    _answered: deque[tuple[float, int]] = field(factory=deque[tuple[float, int]])
    """When which number of images is let go, the earliest first."""

    def first_allowance(self) -> float:
        """How many images may be under way before anything was answered."""
        return max(self.first_burst, (self.quota or 0) * _KNOWN_FIRST_SHARE)

    def start_at(self, images: int, now: float) -> float:
        """Earliest time for so many images; infinite while that depends on an answer."""
        if self._answered and self._answered[0][0] <= now:
            self._let_go(now)
        if self.phase is SEARCHING:
            if self.unanswered and self.unanswered + images > self.burst:
                return math.inf
            return self._room_at(images, now)
        if self.phase is PACED:
            return max(self._room_at(images, now), self.next_at)
        return min(self._room_at(images, now), self._look_at(images, now))

    def announce(self, images: int, now: float) -> bool:
        """Take the images; tell whether they look beyond what is known to fit."""
        if self.taken == self.forgiven and self.phase is not Phase.GUESSED:
            self.origin = now
        beyond = self.limit < math.inf and self._over_limit(images) > 0
        self.looking = self.looking or beyond
        self.taken += images
        self.unanswered += images
        if self.phase is PACED:
            self.next_at = max(self.next_at, now - _CATCH_UP) + images / self.rate
        return beyond

    def count(self, images: int) -> bool:
        """Take images for which another window had room. Returns False: nothing is learned from them."""
        self.taken += images
        self.unanswered += images
        return False

    def answered(self, slot: Slot, now: float) -> None:
        """Count the images for another minute, and learn from the acceptance."""
        if self._answered and self._answered[0][0] <= now:
            self._let_go(now)
        self._settle(slot)
        self._answered.append((now + WINDOW, slot.images))
        self.accepted += slot.images
        if slot.window_generation == self.generation:
            self.refusals = 0
        if self.phase is SEARCHING:
            self.burst += slot.images
            if self.quota is None:
                widenings = min(max(0.0, (now - self.origin) / _WIDENS - 1), _WIDENINGS)
                self.burst = min(self.burst, max(_WIDEST_SEARCH * 2.0**widenings, self.taken * _SEARCH_SHARE))
        elif self.phase is PACED:
            fastest = math.inf if self.quota is None else self.quota / MINUTE
            self.rate = min(fastest, self.rate + _RATE_RISE * slot.images)
        else:
            self._accepted_limited(slot, now)

    def count_on(self, slot: Slot, now: float) -> None:
        """Count the images for another minute, from when they may arrive, and learn nothing."""
        self._let_go(now)
        self._settle(slot)
        self._answered.append((now + LATE + WINDOW, slot.images))

    def give_back(self, slot: Slot) -> None:
        """Let the images go at once: nothing was bought."""
        self._settle(slot)
        self.taken -= slot.images

    def rejected(self, slot: Slot, now: float) -> None:
        """Let the images go, and learn from the refusal."""
        self._let_go(now)
        seen = self.gone + self.taken - self.forgiven - slot.gone_before
        self.ceiling = min(self.ceiling, max(1, seen - 1))
        self.give_back(slot)
        self.rejections += 1
        if slot.window_generation != self.generation:
            return
        self.generation += 1
        if self.phase is SEARCHING:
            self._guess(self.taken - self.unanswered)
            self.burst = self.first_burst
        elif self.phase is PACED:
            if self.accepted:
                self.rate = min(self.rate, max(self.rate * _RATE_FALL, self._measured(slot)))
            elif self.refusals >= _IN_VAIN:
                self._guess(self.taken - self.unanswered)
        else:
            self._refused_limited(slot, seen)
        self.full_at = slot.announced_at
        self.accepted = 0
        self.refusals += 1

    def pause(self, images: int, now: float, jitter: float) -> float:
        """How long to wait after a 429 that said nothing about it."""
        first = images / self.rate if self.phase is PACED else _PAUSE
        pause = first * 2.0 ** min(self.refusals - 1, 16)
        restart_at = self.restarted_at + MINUTE
        longest = restart_at - now if now < restart_at else _LONGEST_PAUSE
        pause = min(max(first, longest), pause) * (0.5 + jitter / 2)
        room_at = self._room_at(images, now)
        return min(pause, room_at - now) if now < room_at else pause

    def restore(self, slots: Iterable[tuple[float, float | None, int]], now: float) -> None:
        """Count what was sent before: rows of announced_at, answered_at or None, images."""
        latest = now + LATE
        rows = [(now if answered is None else min(answered, latest), images) for _, answered, images in slots]
        taken = [*self._answered, *((at + WINDOW, images) for at, images in rows)]
        self._answered = deque(sorted(taken))
        self.taken += sum(images for _, images in rows)
        self._let_go(now)

    def cut_off(self, now: float) -> None:
        """Count what is under way as answered now: nobody will tell how it ends."""
        self._let_go(now)
        if self.unanswered:
            self._answered.append((now + WINDOW, self.unanswered))
        self.unanswered, self.looking = 0, False

    def saved(self) -> dict[str, Any]:
        """Give knowledge and counts, for `load`. When images are let go is rounded up to a twentieth."""
        row: dict[str, Any] = {name: getattr(self, name) for name in _SAVED}
        row = {name: value for name, value in row.items() if value and not math.isinf(value)}
        counted: dict[int, int] = {}
        for at, images in self._answered:
            step = math.ceil(at * _STEPS)
            counted[step] = counted.get(step, 0) + images
        first = next(iter(counted), 0)
        answered = [x for step, images in counted.items() for x in (step - first, images)]
        return {"phase": self.phase.value, **row, "first": first, "answered": answered}

    def load(self, row: Mapping[str, Any]) -> None:
        """Go on from what `saved` told."""
        self.phase = Phase(row["phase"])
        for name in _SAVED:
            if name in row:
                setattr(self, name, row[name])
        steps, images = row["answered"][::2], row["answered"][1::2]
        self._answered = deque(
            ((row["first"] + step) / _STEPS, count) for step, count in zip(steps, images, strict=True)
        )

    def statistics(self, endpoint: str) -> WindowStatistics:
        learned = self.rate * MINUTE if self.phase is PACED else self.limit
        most = min(learned, self.quota or math.inf)
        return WindowStatistics(
            endpoint=endpoint,
            phase=self.phase,
            images_per_minute=None if math.isinf(most) else max(1, int(most)),
            taken=self.taken,
            unanswered=self.unanswered,
            rejections=self.rejections,
        )

    def _settle(self, slot: Slot) -> None:
        self.unanswered -= slot.images
        if slot.beyond:
            self.looking = False

    def _let_go(self, now: float) -> None:
        while self._answered and self._answered[0][0] <= now:
            images = self._answered.popleft()[1]
            self.taken -= images
            self.gone += images
            self.forgiven = max(0, self.forgiven - images)

    def _over_limit(self, images: int) -> float:
        """By how many images this would exceed what is known to fit, the heaviest requests excepted."""
        counted = self.taken - self.forgiven
        return min(counted, counted + images - self.limit)

    def _room_at(self, images: int, now: float) -> float:
        """When enough is let go for the quota and for the limit."""
        over_limit = self._over_limit(images) if self.limit < math.inf else 0
        excess = self.forgiven + over_limit if over_limit > 0 else 0
        if self.quota is not None and self.taken + images > self.quota:
            excess = max(excess, min(self.taken, self.taken + images - self.quota))
        if excess <= 0:
            return now
        for at, count in self._answered:
            excess -= count
            if excess <= 0:
                return at
        return math.inf

    def _look_at(self, images: int, now: float) -> float:
        """When these images may look beyond the limit."""
        if self.looking or (self.quota is not None and self.taken + images > self.quota):
            return math.inf
        counted = self.taken - self.forgiven + images
        if self.phase is Phase.GUESSED or counted <= self.ceiling:
            return max(now, self.look_at)
        return max(now, self.look_at, self.full_at + _LOOK_AGAIN)

    def _accepted_limited(self, slot: Slot, now: float) -> None:
        fits = self.taken - self.unanswered - self.forgiven
        if slot.beyond and now >= self.full_at + _LOOK_AGAIN:
            self.ceiling = math.inf
        if fits <= self.limit:
            if slot.window_generation == self.generation and slot.announced_at >= self.origin + MINUTE:
                self.phase = Phase.CONFIRMED
        elif fits <= self.ceiling:
            self.limit = fits
        elif slot.beyond and now < self.origin + MINUTE:  # a sliding window could not have taken this
            self.steady = now < self.restarted_at + MINUTE
            self.minutes = 0 if self.steady else self.minutes + 1
            self.restarted_at = self.full_at
            self.phase = Phase.GUESSED
            self.origin = slot.announced_at
            self.forgiven = self.taken - self.unanswered - slot.images

    def _refused_limited(self, slot: Slot, seen: int) -> None:
        restarted = slot.announced_at < self.restarted_at + MINUTE
        if restarted and (self.steady or self.taken - self.forgiven < self.limit / 2):
            fastest = math.inf if self.quota is None else self.quota / MINUTE
            self.rate = min(_RATE_MARGIN * fastest, self._measured(slot))
            self.phase = PACED
            self.limit = self.ceiling = math.inf
            self.forgiven = 0
            return
        if restarted:
            self.look_at = self.restarted_at + MINUTE if self.minutes > 1 else -math.inf
        if seen <= self.limit:
            self._guess(self.taken - self.unanswered - self.forgiven)

    def _guess(self, fits: int) -> None:
        """Take what was accepted for the limit, if there was anything."""
        if fits:
            self.phase = Phase.GUESSED
            self.limit = fits
            self.steady = False

    def _measured(self, slot: Slot) -> float:
        """A little less than the rate at which images were accepted since the server was full."""
        return _RATE_MARGIN * max(1, self.accepted) / max(1e-3, slot.announced_at - self.full_at)


_SAVED: Final = (
    "taken", "unanswered", "gone", "forgiven", "burst", "limit", "ceiling", "rate", "next_at", "look_at",
    "looking", "origin", "restarted_at", "minutes", "steady", "full_at", "accepted", "generation", "refusals",
    "rejections",
)  # fmt: skip
"""Fields that `Window.saved` tells, where they are not zero or infinite as at first."""


def window_of(endpoint: str, quota: int | None) -> Window:
    """A window of which nothing is known but its endpoint and its quota."""
    return Window(quota=quota, first_burst=DOCUMENTED.get(_last_part(endpoint), DOCUMENTED_ELSEWHERE))


def _last_part(endpoint: str) -> str:
    return endpoint.rsplit("/", 1)[-1]


@define(eq=False, repr=False, kw_only=True)
class AccountPacer:
    """When one account may send which purchase: a window for each endpoint and one breaker."""

    images_per_minute: int | None = None
    """The quota of each endpoint; None: found out from the server's answers."""
    breaker: Breaker = Factory(Breaker)
    """Whether the account may send at all."""
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
        return self._start_at(self._window(endpoint), images, now)

    def announce(self, endpoint: str, images: int, now: float) -> Slot:
        """Take the slot of a purchase that is sent now.

        Raises:
            ValueError: the purchase may not be sent now.
        """
        slot = self.take(endpoint, images, now)
        if not isinstance(slot, Slot):
            raise ValueError(f"{images} image(s) to {endpoint} may not be announced at {now}")  # noqa: TRY004
        return slot

    def take(self, endpoint: str, images: int, now: float, *, elsewhere: bool = False) -> Slot | float:
        """Take the slot of a purchase that is sent now, or tell when to ask again, as `start_at` does.

        Args:
            endpoint: Path of the submission.
            images: How many images it asks for.
            now: The time.
            elsewhere: Whether another window decides, that processes share: then only the breaker is asked.
        """
        window, breaker = self._windows.get(endpoint) or self._window(endpoint), self.breaker
        start_at = breaker.start_at(images, now) if elsewhere else self._start_at(window, images, now)
        if start_at > now:
            return start_at
        slot = Slot(
            endpoint=endpoint,
            images=images,
            announced_at=now,
            gone_before=window.gone,
            window=window,
            window_generation=window.generation,
            breaker_generation=breaker.generation,
            elsewhere=elsewhere,
            beyond=window.count(images) if elsewhere else window.announce(images, now),
        )
        breaker.send(images, now)
        return slot

    def answered(self, slot: Slot, now: float) -> None:
        """Count the images as bought after any answer but a 429."""
        window = _settle(slot)
        if slot.elsewhere:
            window.count_on(slot, now - LATE)
        else:
            window.answered(slot, now)
        self.breaker.answered(slot.breaker_generation, slot.images, now)

    def released(self, slot: Slot, now: float) -> None:
        """Free the slot of a purchase that was never sent."""
        _settle(slot).give_back(slot)
        self.breaker.withdrawn(slot.breaker_generation, slot.images, now)

    def lost(self, slot: Slot, now: float, retry_after: float | None, jitter: float) -> None:
        """Count the images as bought, because nobody knows, and trip the breaker.

        Args:
            slot: The slot of the purchase.
            now: The time.
            retry_after: Seconds that the server asked to wait, already capped; None where it did not say.
            jitter: A fresh random number in [0, 1).
        """
        _settle(slot).count_on(slot, now)
        self._trip(slot, Trip.UNCERTAIN, now, retry_after, jitter)

    def unreached(self, slot: Slot, now: float, retry_after: float | None, jitter: float) -> None:
        """Free the slot of a server that was not reached, and trip the breaker. Arguments: as for `lost`."""
        _settle(slot).give_back(slot)
        self._trip(slot, Trip.UNREACHABLE, now, retry_after, jitter)

    def rejected(self, slot: Slot, now: float, retry_after: float | None, jitter: float) -> None:
        """Free the slot after a 429, learn from it, and trip the breaker. Arguments: as for `lost`."""
        window = _settle(slot)
        if slot.elsewhere:
            window.give_back(slot)
        else:
            window.rejected(slot, now)
        after = retry_after or 0.0
        if after < _BELIEVED:
            after = max(after, window.pause(slot.images, now, jitter))
        window.look_at = max(window.look_at, now + after)
        self.breaker.trip(slot.breaker_generation, Trip.RATE_LIMITED, now, after)

    def restore(self, endpoint: str, slots: Iterable[tuple[float, float | None, int]], now: float) -> None:
        """Count what earlier runs sent.

        Args:
            endpoint: Path of the submissions.
            slots: Rows of (announced_at, answered_at, images) on this clock. A request without an answer
                may have been seen as late as now.
            now: The time.
        """
        self._window(endpoint).restore(slots, now)

    def cut_off(self, now: float) -> None:
        """Take note that nothing that is under way will ever be settled."""
        self.breaker = Breaker()
        for window in self._windows.values():
            window.cut_off(now)

    def statistics(self) -> PacerStatistics:
        """Tell what is known and what counts now."""
        windows = tuple(window.statistics(endpoint) for endpoint, window in self._windows.items())
        return PacerStatistics(
            breaker=self.breaker.state,
            open_until=self.breaker.until if self.breaker.state is OPEN else None,
            rejections=sum(window.rejections for window in windows),
            windows=windows,
        )

    def __repr__(self) -> str:
        windows = ", ".join(
            f"{_last_part(w.endpoint)} {w.phase.value} {w.taken}/{w.images_per_minute or '?'}"
            for w in self.statistics().windows
        )
        return f"<AccountPacer breaker {self.breaker.state.value}; {windows or 'unused'}>"

    def _start_at(self, window: Window, images: int, now: float) -> float:
        start_at = window.start_at(images, now)
        breaker = self.breaker
        return start_at if breaker.state is CLOSED else max(start_at, breaker.start_at(images, now))

    def _trip(self, slot: Slot, cause: Trip, now: float, retry_after: float | None, jitter: float) -> None:
        """Trip the breaker. A purchase from before its last trip only tells what the server asked for."""
        is_news = slot.breaker_generation == self.breaker.generation
        pause = self.breaker.backoff(cause, now, jitter) if is_news else 0.0
        self.breaker.trip(slot.breaker_generation, cause, now, max(pause, retry_after or 0.0))

    def _window(self, endpoint: str) -> Window:
        window = self._windows.get(endpoint)
        if window is None:
            window = self._windows[endpoint] = window_of(endpoint, self.images_per_minute)
        return window


def _settle(slot: Slot) -> Window:
    if slot.settled:
        raise ValueError(f"{slot!r} was settled before")
    slot.settled = True
    return slot.window
