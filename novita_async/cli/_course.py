"""How a batch is going: counted from events and outcomes, with a forecast of its end."""

import math
from collections import deque
from collections.abc import Callable, Mapping

from attrs import define, field

from novita_async._util.clock import loop_time
from novita_async.cli._forecast import ForecastWindow, Pace, time_left
from novita_async.cli._progress import ProgressTally, Status
from novita_async.cli._waits import LIMITED
from novita_async.events import (
    Announced,
    Bought,
    BreakerClosed,
    BreakerOpened,
    Event,
    Finished,
    Paced,
    Polled,
    Retrying,
    Transition,
)
from novita_async.models.endpoints import Endpoints
from novita_async.models.requests import NovitaRequest
from novita_async.models.results import Outcome, Succeeded
from novita_async.tasks import Task


@define(eq=False)
class _EndpointCourse:
    """Images that this run has sent to an endpoint."""

    left: int
    """Images without an answer."""
    announced: deque[tuple[float, int]] = field(factory=deque[tuple[float, int]])
    """When those were sent that have no answer, and their images."""
    answered: deque[tuple[float, int]] = field(factory=deque[tuple[float, int]])
    answers: int = 0
    waited: float = 0.0
    """Seconds that all answers took."""
    not_before: float = 0.0

    def answer(self, images: int, now: float) -> None:
        if self.announced:
            # Which answer belongs to which submission does not matter to the mean.
            self.waited += now - self.announced.popleft()[0]
            self.answers += 1
        self.answered.append((now, images))

    def facts(self, quota: int | None, now: float) -> ForecastWindow:
        while len(self.answered) > max(quota or 0, 1):
            self.answered.popleft()
        latency = self.waited / self.answers if self.answers else 0.0
        soon = [(max(now, at + latency), images) for at, images in self.announced]
        return ForecastWindow(
            left=max(self.left - sum(images for _, images in soon), 0),
            quota=quota,
            answered=(*self.answered, *soon),
            latency=latency,
            not_before=self.not_before,
        )


@define(eq=False)
class Course(ProgressTally):
    """Counts what happens in a batch, and foresees its end. An observer, and a reader of outcomes."""

    images: Mapping[str, int] = field(kw_only=True)
    """How many images there are, by endpoint."""
    in_flight: int = field(kw_only=True)
    """How many requests may be under way at once."""
    quota_of: Callable[[str], int | None] = field(default=lambda _: None, kw_only=True)
    """Images a minute that an endpoint takes, as far as that is known."""
    earlier: int = field(default=0, init=False)
    """Outcomes of earlier runs."""
    _windows: dict[str, _EndpointCourse] = field(init=False)
    _running: set[str] = field(factory=set[str], init=False)
    _ends: set[object] = field(factory=set[object], init=False)
    """Outcomes of this run that were not taken yet."""
    _images_left: int = field(init=False)
    _requests_left: int = field(init=False)
    _last_end: float | None = field(default=None, init=False)
    _busy_since: float = field(default=0.0, init=False)
    """When something was begun after nothing had been under way."""
    _counts_from: float | None = field(default=None, init=False)
    """When, since then, ends tell how quick the service is. None: nothing has ended yet."""
    _finished: int = field(default=0, init=False)
    _busy: float = field(default=0.0, init=False)
    _durations: tuple[int, float] = field(default=(0, 0.0), init=False)
    _away: set[str | None] = field(factory=set[str | None], init=False)
    """Accounts whose service does not answer."""
    _back_at: float = field(default=-math.inf, init=False)
    """When the last outage ended: what lasted through it says nothing of how quick the service is."""
    _least_behind: float = field(default=math.inf, init=False)

    def __attrs_post_init__(self) -> None:
        self._windows = {endpoint: _EndpointCourse(images) for endpoint, images in self.images.items()}
        self._images_left, self._requests_left = sum(self.images.values()), self.requests

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        super().__call__(event)
        now = loop_time()
        if isinstance(event, Transition):
            self._moved(event, now)
        elif isinstance(event, Paced):
            self._window(event.endpoint).not_before = now + event.delay
        elif isinstance(event, Retrying) and event.endpoint in self._windows:
            self._forget_one(event.endpoint)
        elif isinstance(event, Polled):
            self._runs(event.task)
        elif isinstance(event, Finished):
            self._ended(event.outcome, now)
        elif isinstance(event, BreakerOpened) and event.cause != LIMITED:
            self._away.add(event.account)
        elif isinstance(event, BreakerClosed) and event.account in self._away:
            self._away.remove(event.account)
            self._back_at = self._counts_from = self._last_end = now

    def _moved(self, event: Transition, now: float) -> None:
        match event.fact:
            case Announced():
                self._window(event.endpoint).announced.append((now, event.images))
            case Bought(task=task):
                self._window(task.endpoint).answer(task.image_num, now)
                self._runs(task)
            case _:
                pass

    def took(self, outcome: Outcome) -> None:
        """Take in an outcome."""
        made = self._images
        super().took(outcome)
        key = _key(outcome)
        if key in self._ends:
            self._ends.discard(key)
            return
        self._images = made
        self.earlier += 1
        self._window(_endpoint(outcome)).left -= _images(outcome)
        self._count_down(outcome)

    def is_earlier(self, outcome: Outcome) -> bool:
        """Whether an outcome that was not taken yet is of an earlier run."""
        return _key(outcome) not in self._ends

    def status(self) -> Status:
        """How it is going."""
        totals = self.statistics()
        return Status(
            requests=totals.requests,
            done=totals.succeeded,
            running=len(self._running),
            failed=totals.failed,
            uncertain=totals.uncertain,
            images=totals.images,
            seconds=totals.seconds,
            polls=totals.polls,
            seconds_left=self.seconds_left(),
        )

    def seconds_left(self) -> float | None:
        """How long it will still take."""
        now = loop_time()
        windows = [window.facts(self.quota_of(endpoint), now) for endpoint, window in self._windows.items()]
        count, seconds = self._durations
        pace = Pace(
            images_left=self._images_left,
            requests_left=self._requests_left,
            finished=self._finished,
            busy=self._busy,
            last_end=self._last_end,
            duration=seconds / count if count else None,
            in_flight=self.in_flight,
        )
        return time_left(windows, pace, now)

    def _window(self, endpoint: str | None) -> _EndpointCourse:
        return self._windows.setdefault(endpoint or "", _EndpointCourse(0))

    def _forget_one(self, endpoint: str) -> None:
        """A submission came to nothing."""
        if self._window(endpoint).announced:
            self._window(endpoint).announced.popleft()

    def _runs(self, task: Task) -> None:
        """A task is paid: by this run, or, where it is new here, by an earlier one."""
        if task.task_id not in self._running:
            self._busy_since = self._busy_since if self._running else loop_time()
            self._running.add(task.task_id)
            self._window(task.endpoint).left -= task.image_num

    def _ended(self, outcome: Outcome, now: float) -> None:
        self._ends.add(_key(outcome))
        task = getattr(outcome, "task", None)
        if task is None:
            endpoint = _endpoint(outcome)
            self._forget_one(endpoint)
            self._window(endpoint).left -= _images(outcome)
        else:
            self._runs(task)
            self._running.discard(task.task_id)
            if task.submitted_at is not None and not self._away and task.submitted_at >= self._back_at:
                count, seconds = self._durations
                self._durations = count + 1, seconds + now - task.submitted_at
        self._clock(_images(outcome), now - self._lateness(outcome, now))
        self._count_down(outcome)

    def _lateness(self, outcome: Outcome, now: float) -> float:
        """Seconds for which an end was not seen, beyond those of the one that was seen soonest."""
        done = outcome.result.timings.complete_ms if isinstance(outcome, Succeeded) else None
        if done is None:
            return 0.0
        behind = now - done / 1000  # of two clocks; the difference between them falls out
        self._least_behind = min(self._least_behind, behind)
        return behind - self._least_behind

    def _clock(self, images: int, now: float) -> None:
        """Note how quick the service is. Images that end right behind the first were made with it."""
        if self._counts_from is None:
            self._counts_from = now + (now - self._busy_since) / 2
        elif not self._away and now > self._counts_from:
            self._busy += max(0.0, now - max(self._last_end or now, self._counts_from))
            self._finished += images
        self._last_end = max(now, self._last_end or now)
        if not self._running:
            self._counts_from = None

    def _count_down(self, outcome: Outcome) -> None:
        self._images_left -= _images(outcome)
        self._requests_left -= 1


def _key(outcome: Outcome) -> object:
    return outcome.task_id or id(outcome.request or outcome)  # the outcome of saved files is another object


def _endpoint(outcome: Outcome) -> str:
    request: NovitaRequest | None = outcome.request
    return "" if request is None else Endpoints().path_of(request)


def _images(outcome: Outcome) -> int:
    return outcome.request.image_num if outcome.request else 1
