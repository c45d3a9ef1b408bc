"""How close the pacing comes to the least possible time, in virtual time and without sockets.

    python benchmarks/window.py            # every server, quota known and unknown, beside a peer policy
    python benchmarks/window.py --seeds 20

A client sends images to a server that limits them per minute. Each request takes 0 to 0.3 s to reach the
server and little to be answered. Reported: the time until the last image is accepted as a ratio to the
least possible, the submissions answered with 429 per image, and the most that the server saw in any
60 s. The peer is what most programs do: a semaphore and exponential backoff with full jitter.
"""

import argparse
import heapq
import itertools
import math
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from attrs import Factory, define, field, frozen

from novita_async._policy.pacing import MINUTE, AccountPacer, Slot

ENDPOINT = "/v3/async/img2img"
FIXED_PHASE = 39.0
"""When the first whole minute of a fixed window begins: the reference figures were taken so."""


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
    _order: Iterable[int] = Factory(itertools.count)

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


@define
class Peer:
    """A semaphore and exponential backoff with full jitter, 1 s to 30 s."""

    network: Network
    queue: deque[int]
    hints: bool
    free: int = 64

    def pump(self) -> None:
        while self.queue and self.free:
            self.free -= 1
            self._try(self.queue.popleft(), 0)

    def _try(self, images: int, failures: int) -> None:
        def told(hint: float | None) -> None:
            if hint is None:
                self.free += 1
                self.pump()
                return
            backoff = min(30.0, 2.0**failures) * self.network.rng.random()
            after = hint if self.hints else backoff
            self.network.at(self.network.now + after, lambda: self._try(images, failures + 1))

        self.network.send(images, told)


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
    peer: bool = False,
    hints: bool = False,
    jitter: float = 0.3,
    back: float = 0.0,
) -> Outcome:
    network = Network(server, random.Random(seed), jitter=jitter, back=back)
    if peer:
        client: Paced | Peer = Peer(network, deque(requests), hints)
    else:
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


CLIENTS: dict[str, Callable[[int], dict[str, object]]] = {
    "known": lambda quota: {"quota": quota},
    "unknown": lambda _: {},
    "semaphore + exponential": lambda _: {"peer": True},
}


def table(quota: int, requests: list[int], seeds: int, **options: object) -> None:
    for name, make in servers(quota).items():
        for client, choose in CLIENTS.items():
            outcomes = [run(make(), requests, seed=seed, **choose(quota), **options) for seed in range(seeds)]
            ratios = [outcome.ratio for outcome in outcomes]
            rejected = [outcome.rejections for outcome in outcomes]
            most = max(outcome.most_in_a_minute for outcome in outcomes)
            print(
                f"{name:22}{client:26}{statistics.median(ratios):7.3f} (max {max(ratios):.3f})"
                f"{statistics.median(rejected):10.1%} (max {max(rejected):.1%}){most:10}",
            )


def cost(calls: int = 100_000) -> float:
    """Seconds of CPU for a purchase through the window: look, announce, answer."""
    pacer = AccountPacer(images_per_minute=10 * calls)
    began = time.process_time()
    for n in range(calls):
        now = n / 1000
        pacer.start_at(ENDPOINT, 1, now)
        pacer.answered(pacer.announce(ENDPOINT, 1, now), now)
    return (time.process_time() - began) / calls


def mixed(total: int) -> list[int]:
    """Requests of 1, 2, 4 and 8 images, `total` in all."""
    rng = random.Random(total)
    requests: list[int] = []
    while (left := total - sum(requests)) > 0:
        requests.append(min(left, rng.choice((1, 1, 2, 4, 8))))
    return requests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=7)
    seeds = parser.parse_args().seeds
    for title, quota, requests, options in (
        ("2,000 x 1 image at 600 a minute", 600, [1] * 2000, {}),
        ("the same, Retry-After told", 600, [1] * 2000, {"hints": True}),
        ("2,000 images in requests of 1 to 8 at 600 a minute", 600, mixed(2000), {}),
        ("200 x 1 image at 60 a minute", 60, [1] * 200, {}),
        ("200 images in requests of 1 to 8 at 60 a minute", 60, mixed(200), {}),
        ("100 x 1 image at 10 a minute", 10, [1] * 100, {}),
        ("100 images in requests of 1 to 8 at 10 a minute", 10, mixed(100), {}),
    ):
        columns = f"{'makespan / least':>19}{'429s / request':>19}{'most in 60 s':>15}"
        print(f"\n{title}\n{'server':22}{'client':26}{columns}")
        table(quota, requests, seeds, **options)
    print(f"\nlook, announce, answer: {cost() * 1e6:.1f} us of CPU")


if __name__ == "__main__":
    main()
