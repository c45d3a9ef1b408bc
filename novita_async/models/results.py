"""Answers: tasks, snapshots of them, results, and the four ways a request can end."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, cast
from urllib.parse import parse_qs, urlsplit

from attrs import Factory, evolve, field, frozen

from novita_async.errors import NoImages, NovitaError, SubmissionUncertain, TaskTimeout, without_query
from novita_async.models.choices import TaskStatus
from novita_async.models.requests import Request
from novita_async.tasks import Task

TaskState = Literal["running", "succeeded", "failed"]
"""Meaning of a status."""

_STATES: Final[Mapping[str, TaskState]] = {
    TaskStatus.QUEUED.value: "running",
    TaskStatus.PROCESSING.value: "running",
    TaskStatus.SUCCEED.value: "succeeded",
    TaskStatus.FAILED.value: "failed",
}
_FAILED_ENDINGS: Final = ("CANCELED", "CANCELLED", "TIMEOUT", "EXPIRED")


@frozen(kw_only=True, slots=False)
class Artifact:
    """A result file behind a URL."""

    url: str = field(default="", repr=without_query)
    """Where it is. The query is a bearer secret while the URL lives; it is not shown in repr."""
    url_ttl: int | None = None
    """Seconds that the URL lives, counted from when the service signed it. 0: no end known."""
    type: str | None = None
    """File type: `png`, `jpeg`, `webp`, `mp4` and the like."""
    task: Task | None = field(default=None, eq=False, repr=False)
    """The task that made it, which can be asked for a new URL. None: not known here."""
    data: bytes | None = field(
        default=None, repr=lambda data: "None" if data is None else f"<{len(data)} bytes>"
    )
    """The file itself, where it came in the answer and is small."""
    file: Path | None = None
    """Where the file lies that came in the answer; without a folder of the user's it goes with the client."""
    lost: str | None = None
    """Why the file is gone that came in the answer. None: it is not gone."""

    @property
    def came_at_once(self) -> bool:
        """Whether the file came in the answer itself, and is behind no URL."""
        return not self.url

    @property
    def expiry_time(self) -> datetime | None:
        """When the URL stops working, as its own signature says. None: it does not say."""
        try:
            query = parse_qs(urlsplit(self.url).query)
            signed = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            return signed + timedelta(seconds=int(query["X-Amz-Expires"][0]))
        except (KeyError, ValueError, OverflowError):
            return None


@frozen(kw_only=True, slots=False)
class NsfwDetection:
    """Findings of the check of an image. The image is not held back."""

    checked: bool = False
    """Whether the check ran; says nothing of the image's safety."""
    confidence: float | None = None
    """How likely the image is not safe for work. Range 0 to 100."""

    def above(self, threshold: float) -> bool:
        """Whether the check ran and found more than `threshold`, in [0, 100]."""
        return self.checked and self.confidence is not None and self.confidence > threshold


@frozen(kw_only=True, slots=False)
class Image(Artifact):
    """A generated picture."""

    nsfw: NsfwDetection | None = None
    """Findings of the NSFW check. None: not asked for."""


@frozen(kw_only=True, slots=False)
class Timings:
    """When the service did what, by its own clock."""

    submit_time: datetime | None = None
    """When the service took the task."""
    execute_time: datetime | None = None
    """When the work began."""
    complete_time: datetime | None = None
    """When the work was done."""


@frozen(kw_only=True, slots=False)
class TaskResult:
    """Everything that a finished task carries."""

    task: Task | None = None
    """The task that made it. None: the results came at once, and there is no task."""
    images: tuple[Image, ...] = ()
    """In the service's order. Their number need not be what was asked for."""
    videos: tuple[Artifact, ...] = ()
    """Files of video tasks."""
    audios: tuple[Artifact, ...] = ()
    """Files of audio tasks."""
    seed: int | None = None
    """The seed that the service reports; need not be the one asked for. The same for all images."""
    task_type: str | None = None
    """The service's name of the kind of work, such as `IMG_TO_IMG`."""
    timings: Timings = field(factory=Timings)
    """When it was done, where the service says so."""
    request_info: str | None = None
    """JSON text of what the engine was asked for, unparsed."""
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    """The answer's `extra`, as it came; where the results came at once, the rest of the answer."""
    cut: str | None = None
    """Why the answer broke off that held the results: what came whole is here. None: it is whole."""

    @property
    def task_id(self) -> str | None:
        """The task's id. None: there is no task."""
        return self.task.task_id if self.task else None

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """All files: images, videos, audios."""
        return (*self.images, *self.videos, *self.audios)

    def require_images(self) -> tuple[Image, ...]:
        """The images, or an error.

        Raises:
            NoImages: success without a single one.
        """
        if not self.images:
            account = self.task.account if self.task else None
            raise NoImages(task_id=self.task_id, account=account, extra=self.extra)
        return self.images


def of_task(result: TaskResult, task: Task | None) -> TaskResult:
    """A result, and its files, of this task."""
    if task is None:
        return result
    return evolve(
        result,
        task=task,
        images=tuple(evolve(each, task=task) for each in result.images),
        videos=tuple(evolve(each, task=task) for each in result.videos),
        audios=tuple(evolve(each, task=task) for each in result.audios),
    )


def with_files(result: TaskResult, files: Sequence[Path | None]) -> TaskResult:
    """A result whose files lie elsewhere now, in the order of `artifacts`. None: that one has not moved."""
    moved = iter(
        [
            artifact if path is None else evolve(artifact, file=path, data=None)
            for artifact, path in zip(result.artifacts, files, strict=True)
        ]
    )
    return evolve(
        result,
        images=tuple(cast("Image", next(moved)) for _ in result.images),
        videos=tuple(next(moved) for _ in result.videos),
        audios=tuple(next(moved) for _ in result.audios),
    )


def state_of(status: str) -> TaskState:
    """Meaning of a status. Only two are documented as final; an unknown one is still running."""
    return _STATES.get(status) or ("failed" if status.endswith(_FAILED_ENDINGS) else "running")


@frozen(kw_only=True, slots=False)
class Snapshot:
    """Snapshot of a task, from a poll."""

    task: Task
    """The task that was asked for."""
    status: str
    """The service's word for it, such as `TASK_STATUS_QUEUED`; unknown words are possible."""
    progress_percent: float | None = None
    """Range 0 to 100; 0 on success is normal, so it never decides."""
    eta: float | None = None
    """Seconds to go, as the service guesses; 0 is normal."""
    explanation: str = ""
    """The service's free text on a failed task."""
    result: TaskResult | None = None
    """The result, once the task has succeeded."""

    @property
    def state(self) -> TaskState:
        """Meaning of the status."""
        return state_of(self.status)


@frozen(kw_only=True)
class Queued:
    """A task waits for its turn, as far as the service says."""

    task: Task
    """Which."""

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.task.task_id


@frozen(kw_only=True)
class Processing:
    """A task is worked on, as far as the service says."""

    task: Task
    """Which."""
    status: str = TaskStatus.PROCESSING
    """The service's word for it; one that is not known counts as being worked on."""
    progress_percent: float | None = None
    """Range 0 to 100; many tasks go from 0 to their end."""
    eta: float | None = None
    """Seconds to go, as the service guesses; 0 is normal."""

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.task.task_id


Update = Queued | Processing
"""Snapshots of a task before its end."""


def update_of(snapshot: Snapshot) -> Update:
    """Snapshot of a task that goes on, for followers."""
    if snapshot.status == TaskStatus.QUEUED:
        return Queued(task=snapshot.task)
    return Processing(
        task=snapshot.task,
        status=snapshot.status,
        progress_percent=snapshot.progress_percent,
        eta=snapshot.eta,
    )


def _tag_of(outcome: Any) -> str | None:
    return outcome.request.tag if isinstance(outcome.request, Request) else None


def _metadata_of(outcome: Any) -> Mapping[str, Any]:
    return outcome.request.metadata if isinstance(outcome.request, Request) else {}


@frozen(kw_only=True)
class _Ended:
    """The end of a request, whichever."""

    request: Request | None = None
    """The request. None where only a task id was watched."""
    tag: str | None = field(default=Factory(_tag_of, takes_self=True))
    """The user's own id (`request.tagged`); in a batch also where only its journal has the request."""
    metadata: Mapping[str, Any] = field(default=Factory(_metadata_of, takes_self=True), repr=False)
    """The user's own metadata, which came with the id."""


@frozen(kw_only=True)
class Succeeded(_Ended):
    """Paid, done, and here."""

    result: TaskResult
    """The result."""
    paths: tuple[Path, ...] = ()
    """Where the result's files are, in the order of `result.artifacts`; empty where they were not to be
    saved."""

    @property
    def task(self) -> Task | None:
        """The task. None: the results came at once, and there is no task."""
        return self.result.task

    @property
    def task_id(self) -> str | None:
        """The task's id. None: the results came at once, and there is no task."""
        return self.result.task_id

    def unwrap(self) -> TaskResult:
        """The result."""
        return self.result


@frozen(kw_only=True)
class _Missed(_Ended):
    """An end without a result."""

    error: NovitaError
    """Why there is no result."""

    def __attrs_post_init__(self) -> None:
        if self.tag is not None:
            object.__setattr__(self, "error", self.error.of_request(self.tag))

    def unwrap(self) -> NoReturn:
        """Raise what stands in the way of a result."""
        raise self.error


@frozen(kw_only=True)
class Failed(_Missed):
    """The service said no, or the task failed."""

    error: NovitaError
    """Why."""
    task: Task | None = None
    """The task, where one was made."""

    @property
    def task_id(self) -> str | None:
        """The task's id, where one was made."""
        return self.task.task_id if self.task else None


@frozen(kw_only=True)
class Uncertain(_Missed):
    """Sent whole, never answered: perhaps paid, task id unknown."""

    error: SubmissionUncertain
    """Everything that is known."""

    @property
    def task_id(self) -> None:
        """Not known; that is the point."""
        return


@frozen(kw_only=True)
class Unfinished(_Missed):
    """Paid, id known, end not seen. Watch it again."""

    task: Task
    """The task to watch again."""
    error: TaskTimeout
    """How long it was waited for, and what was seen last."""

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.task.task_id


Outcome = Succeeded | Failed | Uncertain | Unfinished
"""The four ways a request can end."""
