"""Servers that limit images per minute, and a client and a network in discrete events.

A client sends images to a server. Each request takes 0 to 0.3 s to reach it and little to be answered.
"""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from attrs import Factory, define, field, frozen

from novita_async._policy.pacing import MINUTE, AccountPacer, Slot

ENDPOINT = "/v3/async/img2img"
FIXED_PHASE = 39.0
"""Seconds after the first request at which the next minute of a fixed window begins."""


class Server(Protocol):
    def admit(self, images: int, now: float) -> bool: ...
    def least(self, total: int) -> float: ...
    def retry_after(self, images: int, now: float) -> float: ...


@define
class Sliding:
    quota: int
    seen: deque[tuple[float, int]] = Factory(deque)
    used: int = 0

    def admit(self, images: int, now: float) -> bool:
        while self.seen and self.seen[0][0] + MINUTE <= now:
            self.used -= self.seen.popleft()[1]
        if self.used + images > self.quota:
            return False
        self.used += images
        self.seen.append((now, images))
        return True

    def least(self, total: int) -> float:
        return MINUTE * (math.ceil(total / self.quota) - 1)

    def retry_after(self, images: int, now: float) -> float:  # noqa: ARG002 (as the protocol has it)
        return self.seen[0][0] + MINUTE - now if self.seen else 1.0


@define
class Fixed:
    quota: int
    phase: float = FIXED_PHASE
    minute: float = -1
    used: int = 0

    def admit(self, images: int, now: float) -> bool:
        minute = math.floor((now - self.phase) / MINUTE)
        if minute != self.minute:
            self.minute, self.used = minute, 0
        if self.used + images > self.quota:
            return False
        self.used += images
        return True

    def least(self, total: int) -> float:
        return max(0.0, self.phase + MINUTE * (math.ceil(total / self.quota) - 2))

    def retry_after(self, images: int, now: float) -> float:  # noqa: ARG002 (as the protocol has it)
        return MINUTE - (now - self.phase) % MINUTE


@define
class Leaky:
    quota: int
    depth: float = field(kw_only=True)
    level: float = 0.0
    at: float = 0.0

    def _drain(self, now: float) -> None:
        self.level = max(0.0, self.level - (now - self.at) * self.quota / MINUTE)
        self.at = now

    def admit(self, images: int, now: float) -> bool:
        self._drain(now)
        if self.level + images > self.depth + 1e-9:
            return False
        self.level += images
        return True

    def least(self, total: int) -> float:
        return max(0.0, (total - self.depth) * MINUTE / self.quota)

    def retry_after(self, images: int, now: float) -> float:
        self._drain(now)
        return max(0.0, self.level + images - self.depth) * MINUTE / self.quota


@frozen
class Outcome:
    makespan: float
    ratio: float
    rejections: float
    most_in_a_minute: int
    policy: object


@define
class Network:
    """A client, a server, and what lies between them: a heap of things to come."""

    server: Server
    rng: random.Random
    jitter: float = 0.3
    back: float = 0.0
    now: float = 0.0
    rejections: int = 0
    accepted: list[tuple[float, int]] = Factory(list)
    _heap: list[tuple[float, int, Callable[[], None]]] = Factory(list)
    _order: Iterator[int] = Factory(itertools.count)

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), action))

    def send(self, images: int, then: Callable[[float | None], None]) -> None:
        """Send a request; `then` gets None, or what a 429 said about when to come back."""

        def arrive() -> None:
            if self.server.admit(images, self.now):
                self.accepted.append((self.now, images))
                self.at(self.now + self.rng.random() * self.back, lambda: then(None))
            else:
                self.rejections += 1
                hint = self.server.retry_after(images, self.now)
                self.at(self.now + self.rng.random() * self.back, lambda: then(hint))

        self.at(self.now + self.rng.random() * self.jitter, arrive)

    def run(self, until: float = 1e7) -> None:
        while self._heap and self.now < until:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        assert not self._heap, "lost in virtual time"


@define
class Paced:
    """Our pacing, driven as a sender drives it: one queue, first come first served."""

    network: Network
    pacer: AccountPacer
    hints: bool
    queue: list[tuple[int, int]]
    woken: float = math.inf

    def pump(self) -> None:
        now = self.network.now
        while self.queue:
            index, images = self.queue[0]
            at = self.pacer.start_at(ENDPOINT, images, now)
            if at > now:
                self._wake(at)
                return
            heapq.heappop(self.queue)
            slot = self.pacer.announce(ENDPOINT, images, now)
            self.network.send(images, lambda hint, i=index, s=slot: self._told(i, s, hint))

    def _wake(self, at: float) -> None:
        if at < self.woken:
            self.woken = at
            self.network.at(at, self._awake)

    def _awake(self) -> None:
        self.woken = math.inf
        self.pump()

    def _told(self, index: int, slot: Slot, hint: float | None) -> None:
        if hint is None:
            self.pacer.answered(slot, self.network.now)
        else:
            jitter = self.network.rng.random()
            self.pacer.rejected(slot, self.network.now, hint if self.hints else None, jitter)
            heapq.heappush(self.queue, (index, slot.images))
        self.pump()


def most_in_a_minute(accepted: list[tuple[float, int]]) -> int:
    """The most that a server admitted in any 60 s, the later end excluded."""
    window: deque[tuple[float, int]] = deque()
    used = most = 0
    for at, images in accepted:
        while window and window[0][0] + MINUTE <= at:
            used -= window.popleft()[1]
        window.append((at, images))
        used += images
        most = max(most, used)
    return most


def run(
    server: Server,
    requests: list[int],
    *,
    seed: int,
    quota: int | None = None,
    hints: bool = False,
    jitter: float = 0.3,
    back: float = 0.0,
) -> Outcome:
    network = Network(server, random.Random(seed), jitter=jitter, back=back)
    pacer = AccountPacer(images_per_minute=quota)
    client = Paced(network, pacer, hints, list(enumerate(requests)))
    client.pump()
    network.run()
    assert sum(images for _, images in network.accepted) == sum(requests), "an image was lost"
    makespan = network.accepted[-1][0]
    return Outcome(
        makespan,
        makespan / max(1.0, server.least(sum(requests))),
        network.rejections / len(requests),
        most_in_a_minute(network.accepted),
        client,
    )


def servers(quota: int) -> dict[str, Callable[[], Server]]:
    return {
        "sliding": lambda: Sliding(quota),
        "fixed": lambda: Fixed(quota),
        "leaky, a tenth deep": lambda: Leaky(quota, depth=max(8, quota / 10)),
        "leaky, a minute deep": lambda: Leaky(quota, depth=quota),
    }


def mixed(total: int) -> list[int]:
    """Requests of 1, 2, 4 and 8 images, `total` in all."""
    rng = random.Random(total)
    requests: list[int] = []
    while (left := total - sum(requests)) > 0:
        requests.append(min(left, rng.choice((1, 1, 2, 4, 8))))
    return requests
