"""Hosts of result files that misbehave, and a saver that fetches from them."""

from contextlib import asynccontextmanager

import anyio
from attrs import define, field

from novita_async import GeneratedImage, RetryPolicy, Task, TaskResult
from novita_async._files.saver import Saver
from tests.helpers.service import picture


@define
class Answer:
    """One answer of a host."""

    data: bytes = field(factory=picture)
    status: int = 200
    headers: dict[str, str] = field(factory=dict)
    error: Exception | None = None
    """Raised in the place of an answer."""


@define
class Host:
    """Gives its answers one after the other, and the last one for ever."""

    answers: list[Answer] = field(factory=lambda: [Answer()])
    step: int = 1 << 16
    pause: float = 0.0
    asked_at: list[float] = field(factory=list)
    urls: list[str] = field(factory=list)
    given: int = 0
    open_now: int = 0
    most_open: int = 0

    @classmethod
    def of(cls, *datas: bytes, **options):
        return cls([Answer(data) for data in datas], **options)

    @property
    def asked(self) -> int:
        return len(self.asked_at)

    @asynccontextmanager
    async def open(self, url):
        self.asked_at.append(anyio.current_time())
        self.urls.append(url)
        answer = self.answers[min(len(self.asked_at), len(self.answers)) - 1]
        if answer.error is not None:
            raise answer.error
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            yield Download(self, answer)
        finally:
            self.open_now -= 1

    async def aclose(self):
        pass


@define
class Download:
    """One answer on its way."""

    host: Host
    answer: Answer

    @property
    def status(self):
        return self.answer.status

    @property
    def headers(self):
        return self.answer.headers

    async def chunks(self):
        for start in range(0, len(self.answer.data), self.host.step):
            await anyio.sleep(self.host.pause)
            piece = self.answer.data[start : start + self.host.step]
            self.host.given += len(piece)
            yield piece


def result_of(*kinds: str | None, task_id: str = "t-1") -> TaskResult:
    """A result with a picture of each kind."""
    task = Task(task_id=task_id, account="main")
    url = "https://host/{}?X-Amz-Signature=secret"
    images = tuple(GeneratedImage(url=url.format(n), type=kind, task=task) for n, kind in enumerate(kinds))
    return TaskResult(task=task, images=images)


@define
class Saving:
    """A saver, and all that it tells."""

    host: Host
    max_elapsed: float = 300.0
    attempts: int | None = None
    fresh: TaskResult | None = None
    """The answer to a question for fresh URLs."""
    events: list[object] = field(factory=list)
    refreshes: int = 0
    saver: Saver = field(init=False)

    def __attrs_post_init__(self):
        self.saver = Saver(
            downloader=self.host,
            retry=RetryPolicy(max_elapsed=self.max_elapsed, attempts=self.attempts),
            refresh=self._refresh,
            emit=self.events.append,
            jitter=lambda: 1.0,
        )

    async def _refresh(self, _):
        self.refreshes += 1
        return self.fresh
