"""A window that several processes learn together, and how much of its work a process offers to it at once.

The knowledge of the window stands where all can read it, as text. A process reads it, lets it decide about
its purchases, and hands the new text over, which counts unless another was first: then it reads again. Slots
are kept as text, too, because another process may have to say how an attempt has ended.
"""

import json
import math
from typing import Final, Self

from attrs import define

from novita_async._policy.pacing import Slot, Window, window_of

MOST_OFFERED: Final = 256
"""Purchases that are offered to a shared window at once, at most."""


@define(eq=False, repr=False)
class SharedWindow:
    """Knowledge of a window whose quota is not known."""

    endpoint: str
    """Path of the submissions."""
    window: Window
    """The pacer's view of it."""

    @classmethod
    def read(cls, endpoint: str, text: str | None) -> Self:
        """Read what is known. None: nothing is."""
        window = window_of(endpoint, None)
        if text is not None:
            window.load(json.loads(text))
        return cls(endpoint, window)

    def text(self) -> str:
        """Write down what is known."""
        return json.dumps(self.window.saved(), separators=(",", ":"))

    def take(self, images: int, now: float) -> str | float:
        """Take a slot, as text; or tell when to ask again: infinity, once an attempt was answered."""
        start_at = self.window.start_at(images, now)
        if start_at > now:
            return start_at
        gone, generation = self.window.gone, self.window.generation
        return json.dumps([now, self.window.announce(images, now), gone, generation], separators=(",", ":"))

    def answered(self, slot: str | None, images: int, now: float) -> None:
        """Count the images for another minute, and learn from the acceptance."""
        self.window.answered(self._slot(slot, images), now)

    def lost(self, slot: str | None, images: int, now: float) -> None:
        """Count the images for another minute, and learn nothing."""
        self.window.count_on(self._slot(slot, images), now)

    def released(self, slot: str | None, images: int) -> None:
        """Let the images go: nothing was sent."""
        self.window.give_back(self._slot(slot, images))

    def rejected(self, slot: str | None, images: int, now: float, jitter: float) -> float:
        """Let the images go, and learn from the refusal. Returns the seconds for which to pause."""
        self.window.rejected(self._slot(slot, images), now)
        pause = self.window.pause(images, now, jitter)
        self.window.look_at = max(self.window.look_at, now + pause)
        return pause

    def _slot(self, text: str | None, images: int) -> Slot:
        """A slot that was taken. None: by a process that kept no row; nothing is learned from it."""
        announced_at, beyond, gone, generation = json.loads(text) if text else (-math.inf, False, 0, -1)
        return Slot(
            endpoint=self.endpoint,
            images=images,
            announced_at=announced_at,
            beyond=beyond,
            gone_before=gone,
            window=self.window,
            window_generation=generation,
            breaker_generation=0,
        )


@define(eq=False, repr=False)
class Offers:
    """Offers of a process to a shared window, which may have no room.

    After a refusal as many are offered as there may be places for, once there may be some; each admission
    doubles that. So a process with thousands of purchases in line does not ask for all of them each time.
    """

    width: int = MOST_OFFERED
    """Purchases that may be on offer at once."""
    under_way: int = 0
    """Purchases that are on offer."""
    until: float = -math.inf
    """When there may be room."""

    def start_at(self, now: float) -> float:
        """When a purchase may be offered; infinite: once another was answered."""
        return math.inf if self.under_way >= self.width else max(now, self.until)

    def offer(self) -> None:
        """Offer a purchase."""
        self.under_way += 1

    def admitted(self) -> None:
        """Take note of a place."""
        self.under_way -= 1
        self.width = min(MOST_OFFERED, 2 * self.width)

    def deferred(self, until: float, places: int = 1) -> None:
        """Take note that there was none, and when there may be some."""
        self.under_way -= 1
        self.width, self.until = min(MOST_OFFERED, max(1, places)), until

    def withdrawn(self) -> None:
        """Take note that an offer came to nothing for another reason."""
        self.under_way -= 1
