"""How long a batch will still take.

Three things can be what is waited for, and the slowest of them counts:

* **the quota**. The next image goes when the one a quota before it was answered a minute ago. So the answer
to
  the last image is known from the answers of the last minute: whole minutes later, plus the way there and
  back. Then that image is made;
* **the service**, which is no quicker than it was while it had something to do;
* **the slots**: no more is under way at once than is allowed, each for as long as a request took so far.

All of it is arithmetic on absolute seconds; nothing here reads a clock.
"""

from collections.abc import Sequence

from novita_async._policy.pacing import WINDOW
from novita_async._util.values import frozen


@frozen(kw_only=True)
class ForecastWindow:
    """Images of an endpoint."""

    left: int
    """Images that are not sent yet."""
    quota: int | None = None
    """Images a minute. None: not known."""
    answered: Sequence[tuple[float, int]] = ()
    """When submissions were answered, or will be, and how many images they asked for: the last `quota` images
    at least, where there were so many; oldest first."""
    latency: float = 0.0
    """Seconds from a submission to its answer."""
    not_before: float = 0.0
    """When the next submission goes, where that is known."""

    def last_answer(self, now: float) -> float:
        """When the last image will be answered, as far as the quota is what is waited for."""
        if not self.left:
            return self.answered[-1][0] if self.answered else now
        if not self.quota:
            return now
        width = self._width(self.quota)
        rounds, place = divmod(self.left - 1, width)
        free = self._free(place - width)
        sent = max(now, self.not_before, now if free is None else free + WINDOW)
        return sent + rounds * (WINDOW + self.latency) + self.latency

    def _width(self, quota: int) -> float:
        """Images that go in one minute: requests are not split, so some room may be left over.

        Where sizes differ, the request that no longer fits is a large one more often than not; on average
        half of what it needs beyond one image is left.
        """
        sizes = [images for _, images in self.answered]
        if not sizes:
            return quota
        if min(sizes) == max(sizes):
            return max(quota - quota % sizes[0], sizes[0])
        waste = (sum(size * size for size in sizes) / sum(sizes) - 1) / 2
        return max(quota - waste, sum(sizes) / len(sizes))

    def _free(self, skipped: float) -> float | None:
        """When the slot was answered that stands so far from the end. None: always free."""
        for at, images in reversed(self.answered):
            skipped += images
            if skipped >= 0:
                return at
        return None


@frozen(kw_only=True)
class Pace:
    """Progress of this run so far."""

    images_left: int
    """Images without an end."""
    requests_left: int
    """Requests without an end."""
    finished: int = 0
    """Images that ended while there were others to make ..."""
    busy: float = 0.0
    """... and in how many seconds."""
    last_end: float | None = None
    """When something ended last."""
    duration: float | None = None
    """Seconds from a task's submission to its end, on average."""
    in_flight: int = 1
    """Requests that may be under way at once."""


def time_left(windows: Sequence[ForecastWindow], pace: Pace, now: float) -> float | None:
    """Seconds until all is done. None: nothing is known yet."""
    if not pace.requests_left:
        return 0.0
    by_quota = [window.last_answer(now) - now for window in windows if window.quota or not window.left]
    if pace.duration is None and not any(window.quota for window in windows):
        return None
    quota, service = max(by_quota, default=0.0) + (pace.duration or 0.0), 0.0
    if pace.last_end is not None and pace.finished:
        each = pace.busy / pace.finished
        service = pace.images_left * each - min(now - pace.last_end, each)
    return max(0.0, quota, service, pace.requests_left * (pace.duration or 0.0) / pace.in_flight)
