"""Answers: tasks, snapshots of them, results, and the four ways a request can end."""

import json
import os
from base64 import b64encode
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NoReturn, Protocol, cast, get_args
from urllib.parse import parse_qs, urlsplit
from weakref import ref

from attrs import Factory, evolve, field

from novita_async._util.plain import Plain, known, plain, plain_fields
from novita_async._util.values import frozen
from novita_async.errors import (
    ConfigurationError,
    NoImages,
    NovitaError,
    SubmissionUncertain,
    TaskTimeout,
    without_query,
)
from novita_async.models._rules import new_dict
from novita_async.models.choices import TaskStatus
from novita_async.models.images import ImageSource
from novita_async.models.requests import NovitaRequest
from novita_async.tasks import Task

Bytes = bytes
"""The type: in a class whose method has that name."""
TaskState = Literal["running", "succeeded", "failed"]
"""Meaning of a status."""

_STATES: Final[Mapping[str, TaskState]] = {
    TaskStatus.QUEUED.value: "running",
    TaskStatus.PROCESSING.value: "running",
    TaskStatus.SUCCEED.value: "succeeded",
    TaskStatus.FAILED.value: "failed",
}
_HEIGHT: Final = 256
"""Pixels that a picture is high in a notebook, at most."""
_FAILED_ENDINGS: Final = ("CANCELED", "CANCELLED", "TIMEOUT", "EXPIRED")


class Files(Protocol):
    """A client, as its results know it."""

    def fetch(self, image: "Artifact", /) -> Awaitable[bytes]: ...
    def save_as(self, image: "Artifact", path: Path, /) -> Awaitable[Path]: ...
    def opened(self, image: "Artifact", /) -> Awaitable[Any]: ...


@frozen(kw_only=True, slots=False)
class Artifact(Plain):
    """A result file behind a URL.

    Args:
        url: Where it is. The query is a bearer secret while the URL lives, and not shown in repr.
        url_ttl: Seconds that the URL lives, counted from when the service signed it. 0: no end known.
        type: File type: `png`, `jpeg`, `webp`, `mp4` and the like.
        task: The task that made it, which can be asked for a new URL. None: not known here.
        data: The file itself, where it came in the answer and is small.
        file: Where the file lies that came in the answer; without a folder of the user's it goes with the
            client.
        lost: Why the file is gone that came in the answer. None: not gone.
    """

    _files: ClassVar["ref[Files] | None"] = None
    """The client that has handed it out; a client that is gone is not kept alive."""

    url: str = field(default="", repr=without_query)
    """Where it is. The query is a bearer secret while the URL lives, and not shown in repr."""
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
    """Why the file is gone that came in the answer. None: not gone."""

    @property
    def came_at_once(self) -> bool:
        """Whether the file came in the answer itself, and is behind no URL."""
        return not self.url

    @property
    def expiry_time(self) -> datetime | None:
        """Time at which the URL stops working, as its own signature says. None: not told."""
        try:
            query = parse_qs(urlsplit(self.url).query)
            signed = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            return signed + timedelta(seconds=int(query["X-Amz-Expires"][0]))
        except (KeyError, ValueError, OverflowError):
            return None

    def bytes(self) -> "Awaitable[Bytes]":
        """Fetch the file into memory, with the client that has handed it out.

        Raises:
            ConfigurationError: that client is gone, or there was none: use `client.fetch(image)`.
            DownloadFailed: the file could not be had, even after its URL was signed anew.
        """
        return self._client().fetch(self)

    def save(self, path: str | os.PathLike[str]) -> Awaitable[Path]:
        """Save the file under a name of your own, whole or not at all, and never over another file.

        Args:
            path: The name; a suffix is added where it has none. Folders are made.

        Returns:
            The path of the file; with a number at its end where that name was taken.

        Raises:
            ConfigurationError: the client that has handed it out is gone, or there was none.
            DownloadFailed: the file could not be had, or not be written.
        """
        return self._client().save_as(self, Path(path))

    def _client(self) -> Files:
        client = None if self._files is None else self._files()
        if client is None:
            raise ConfigurationError(
                problem="the client that has handed out this file is gone, or there was none",
                advice="paid; with a client: await client.fetch(image), await client.save(result, folder)",
            )
        return client

    def __getstate__(self) -> dict[str, Any]:
        return {name: each for name, each in vars(self).items() if name != "_files"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def _here(self) -> "Bytes | None":
        """The file itself, where it is in memory or lies on the disk. Blocks."""
        if self.data is not None or self.file is None:
            return self.data
        try:
            return ImageSource.from_path(self.file).read()
        except NovitaError:
            return None


@frozen(kw_only=True, slots=False)
class NsfwDetection:
    """Findings of the check of an image. The image is not held back.

    Args:
        checked: Whether the check ran; says nothing of the image's safety.
        confidence: How likely the image is not safe for work. Range 0 to 100.
    """

    checked: bool = False
    """Whether the check ran; says nothing of the image's safety."""
    confidence: float | None = None
    """How likely the image is not safe for work. Range 0 to 100."""

    def above(self, threshold: float) -> bool:
        """Whether the check ran and found more than `threshold`, in [0, 100]."""
        return self.checked and self.confidence is not None and self.confidence > threshold


@frozen(kw_only=True, slots=False)
class GeneratedImage(Artifact):
    """A generated picture.

    Args:
        nsfw: Findings of the NSFW check. None: not asked for.
        url: Where it is. The query is a bearer secret while the URL lives, and not shown in repr.
        url_ttl: Seconds that the URL lives, counted from when the service signed it. 0: no end known.
        type: File type: `png`, `jpeg`, `webp`, `mp4` and the like.
        task: The task that made it, which can be asked for a new URL. None: not known here.
        data: The file itself, where it came in the answer and is small.
        file: Where the file lies that came in the answer; without a folder of the user's it goes with the
            client.
        lost: Why the file is gone that came in the answer. None: not gone.
    """

    nsfw: NsfwDetection | None = None
    """Findings of the NSFW check. None: not asked for."""

    def pil(self) -> Awaitable[Any]:
        """Fetch it, and open it as an `Image` of Pillow's. Raises as `bytes` does; needs Pillow."""
        return self._client().opened(self)

    def _repr_png_(self) -> "Bytes | None":
        """Show it in a notebook."""
        data = self._here()
        return data if data is not None and data.startswith(b"\x89PNG") else None

    def _repr_html_(self) -> str | None:
        return None if self._repr_png_() else _in_html(self)


@frozen(kw_only=True, slots=False, repr=False)
class Timings(Plain):
    """Times of a task, by the service's clock.

    Args:
        submit_ms: When the service took the task, in milliseconds since 1970.
        execute_ms: When the work began.
        complete_ms: When the work was done.
    """

    submit_ms: float | None = None
    """When the service took the task, in milliseconds since 1970."""
    execute_ms: float | None = None
    """When the work began."""
    complete_ms: float | None = None
    """When the work was done."""

    @property
    def submit_time(self) -> datetime | None:
        """When the service took the task."""
        return _time_of(self.submit_ms)

    @property
    def execute_time(self) -> datetime | None:
        """When the work began."""
        return _time_of(self.execute_ms)

    @property
    def complete_time(self) -> datetime | None:
        """When the work was done."""
        return _time_of(self.complete_ms)

    @classmethod
    def of(
        cls,
        submit_time: datetime | None = None,
        execute_time: datetime | None = None,
        complete_time: datetime | None = None,
    ) -> "Timings":
        """Take the times as datetimes."""
        return cls(
            submit_ms=_ms_of(submit_time), execute_ms=_ms_of(execute_time), complete_ms=_ms_of(complete_time)
        )

    def to_dict(self) -> dict[str, Any]:
        """The times in ISO 8601."""
        return {name: plain(getattr(self, name)) for name in _TIMES}

    def __repr__(self) -> str:
        return f"Timings({', '.join(f'{name}={getattr(self, name)!r}' for name in _TIMES)})"


_TIMES: Final = ("submit_time", "execute_time", "complete_time")


def _time_of(milliseconds: float | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _ms_of(time: datetime | None) -> float | None:
    return None if time is None else round(time.timestamp() * 1000, 3)


@frozen(kw_only=True, slots=False)
class TaskResult(Plain):
    """Everything that a finished task carries.

    Args:
        task: The task that made it. None: the results came at once, and there is no task.
        images: In the service's order. Their number need not be what was asked for.
        videos: Files of video tasks.
        audios: Files of audio tasks.
        seed: The seed that the service reports; need not be the one asked for. The same for all images.
        task_type: The service's name of the kind of work, such as `IMG_TO_IMG`.
        timings: When it was done, where the service says so.
        request_info: JSON text of what the engine was asked for, unparsed.
        extra: The answer's `extra`, as it came; where the results came at once, the rest of the answer.
        cut: Why the answer broke off that held the results; files that came whole are here. None: the answer
            is whole.
    """

    task: Task | None = None
    """The task that made it. None: the results came at once, and there is no task."""
    images: tuple[GeneratedImage, ...] = ()
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
    extra: Mapping[str, Any] = field(factory=new_dict, repr=False)
    """The answer's `extra`, as it came; where the results came at once, the rest of the answer."""
    cut: str | None = None
    """Why the answer broke off that held the results; files that came whole are here. None: the answer is
    whole."""

    @property
    def task_id(self) -> str | None:
        """The task's id. None: there is no task."""
        return self.task.task_id if self.task else None

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Files of all kinds: images, videos, audios."""
        return (*self.images, *self.videos, *self.audios)

    def require_images(self) -> tuple[GeneratedImage, ...]:
        """The images, or an error.

        Raises:
            NoImages: success without a single one.
        """
        if not self.images:
            account = self.task.account if self.task else None
            raise NoImages(task_id=self.task_id, account=account, extra=self.extra)
        return self.images

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values, for JSON. URLs are whole: their queries are secrets while they live."""
        told = plain_fields(self)
        for name in _LISTS:
            told[name] = [plain_fields(each, "task") for each in getattr(self, name)]
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "TaskResult":
        """Read back what `to_dict` has told, also of another version."""
        fields = known(cls, told)
        if fields.get("timings") is not None:
            times = fields["timings"]
            fields["timings"] = Timings.of(
                **{name: datetime.fromisoformat(times[name]) for name in _TIMES if times.get(name)}
            )
        for name, kind in _LISTS.items():
            fields[name] = tuple(_artifact(kind, each) for each in fields.get(name) or ())
        task = fields.pop("task", None)
        return of_task(cls(**fields), None if task is None else Task(**known(Task, task)))

    @classmethod
    def from_json(cls, text: str | bytes) -> "TaskResult":
        """Read back what `to_json` has written. Raises `ValueError`: that is no JSON."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> dict[str, Any]:
        """Let pydantic, and so FastAPI, take results and give them out. Its schemas are dictionaries."""

        def read(value: Any) -> TaskResult:
            return value if isinstance(value, cls) else cls.from_dict(value)

        given_out = super().__get_pydantic_core_schema__(source, handler)["serialization"]
        function = {"type": "no-info", "function": read}
        return {"type": "function-plain", "function": function, "serialization": given_out}

    def _repr_html_(self) -> str | None:
        """Show all pictures in a notebook, in a strip."""
        pictures = "".join(_in_html(image) or "" for image in self.images)
        return f'<div style="display:flex;flex-wrap:wrap;gap:4px">{pictures}</div>' if pictures else None

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002, FBT001 - as IPython calls it
        """Tell the result in a line, in IPython's terminal."""
        printer.text(f"<{type(self).__name__} {_gist_of(self)}>")


_LISTS: Final[Mapping[str, type[Artifact]]] = {
    "images": GeneratedImage,
    "videos": Artifact,
    "audios": Artifact,
}
"""Fields of a result that hold files."""


def _artifact(kind: type[Artifact], told: Mapping[str, Any]) -> Artifact:
    fields = known(kind, told)
    fields.pop("task", None)
    if fields.get("nsfw") is not None:
        fields["nsfw"] = NsfwDetection(**known(NsfwDetection, fields["nsfw"]))
    if fields.get("file") is not None:
        fields["file"] = Path(fields["file"])
    return kind(**fields)


def _gist_of(result: TaskResult) -> str:
    """The files of a result, its seed and its task, in some words."""
    told = [f"{name}: {len(each)}" for name in _LISTS if (each := getattr(result, name))] or ["no files"]
    told += [f"seed {result.seed}"] if result.seed is not None else []
    told += [f"task {result.task_id}"] if result.task_id is not None else []
    return ", ".join(told)


def _in_html(artifact: Artifact) -> str | None:
    """A picture in HTML: the file itself where it is here, else its URL, which lives an hour."""
    from html import escape  # noqa: PLC0415 - two thousand names of characters, for notebooks alone

    data = artifact._here()  # noqa: SLF001 - of this room
    address = artifact.url
    if data is not None:
        address = f"data:image/{artifact.type or 'png'};base64,{b64encode(data).decode()}"
    style = f"max-height:{_HEIGHT}px;max-width:100%"
    return f'<img src="{escape(address)}" style="{style}">' if address else None


def handed_out(result: TaskResult, client: Files) -> TaskResult:
    """A result whose files know the client that hands it out."""
    files = ref(client)
    for each in result.artifacts:
        object.__setattr__(each, "_files", files)
    return result


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


def with_files(result: TaskResult, files: Mapping[int, Path | str]) -> TaskResult:
    """A result of which some files lie elsewhere now, by their place in `artifacts`: paths, or addresses."""
    moved = iter(
        [
            _moved(artifact, files[place]) if place in files else artifact
            for place, artifact in enumerate(result.artifacts)
        ]
    )
    return evolve(
        result,
        images=tuple(cast("GeneratedImage", next(moved)) for _ in result.images),
        videos=tuple(next(moved) for _ in result.videos),
        audios=tuple(next(moved) for _ in result.audios),
    )


def _moved(artifact: Artifact, to: Path | str) -> Artifact:
    if isinstance(to, str):  # what is in memory stays there besides
        return evolve(artifact, url=to, file=None)
    return evolve(artifact, file=to, data=None)


def state_of(status: str) -> TaskState:
    """Meaning of a status. Only two are documented as final; an unknown one is still running."""
    return _STATES.get(status) or ("failed" if status.endswith(_FAILED_ENDINGS) else "running")


@frozen(kw_only=True, slots=False)
class Snapshot(Plain):
    """Snapshot of a task, from a poll.

    Args:
        task: The task that was asked for.
        status: The service's word for it, such as `TASK_STATUS_QUEUED`; unknown words are possible.
        progress_percent: Range 0 to 100; 0 on success is normal, so it never decides.
        eta: Seconds to go, as the service guesses; 0 is normal.
        explanation: The service's free text on a failed task.
        result: The result, once the task has succeeded.
    """

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
class Queued(Plain):
    """A task waits for its turn, as far as the service says.

    Args:
        task: Which.
    """

    task: Task
    """Which."""

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.task.task_id


@frozen(kw_only=True)
class Processing(Plain):
    """A task is worked on, as far as the service says.

    Args:
        task: Which.
        status: The service's word for it; an unknown word counts as being worked on.
        progress_percent: Range 0 to 100; many tasks go from 0 to their end.
        eta: Seconds to go, as the service guesses; 0 is normal.
    """

    task: Task
    """Which."""
    status: str = TaskStatus.PROCESSING
    """The service's word for it; an unknown word counts as being worked on."""
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
    return outcome.request.tag if isinstance(outcome.request, NovitaRequest) else None


def _metadata_of(outcome: Any) -> Mapping[str, Any]:
    return outcome.request.metadata if isinstance(outcome.request, NovitaRequest) else {}


def _told_in_a_line(outcome: Any, printer: Any, cycle: bool) -> None:  # noqa: ARG001, FBT001 - as IPython calls it
    """Tell an outcome in a line. IPython asks each class itself, before its bases."""
    told = [] if outcome.tag is None else [f"id {outcome.tag}"]
    if isinstance(outcome, Succeeded):
        files = *map(str, outcome.paths), *outcome.objects
        told += [_gist_of(outcome.result), *(["saved as " + " ".join(files)] if files else [])]
    else:
        told.append(str(outcome.error))
    printer.text(f"<{type(outcome).__name__} {', '.join(told)}>")


@frozen(kw_only=True)
class _Ended(Plain):
    """The end of a request, whichever."""

    def to_dict(self) -> dict[str, Any]:
        """The outcome as plain values, for JSON, pandas and the like; the request is left out.

        All outcomes have the same names: `outcome`, `tag`, `metadata`, `task_id`, `result`, `paths`,
        `objects`, `error`.
        """
        error: NovitaError | None = getattr(self, "error", None)
        result: TaskResult | None = getattr(self, "result", None)
        return {
            "outcome": type(self).__name__.lower(),
            "tag": self.tag,
            "metadata": plain(self.metadata),
            "task_id": getattr(self, "task_id", None),
            "result": None if result is None else result.to_dict(),
            "paths": plain(getattr(self, "paths", ())),
            "objects": plain(getattr(self, "objects", ())),
            "error": None if error is None else _told(error),
        }

    request: NovitaRequest | None = None
    """The request. None where only a task id was watched."""
    tag: str | None = field(default=Factory(_tag_of, takes_self=True))
    """The user's own id (`request.tagged`); in a batch also where only its journal has the request."""
    metadata: Mapping[str, Any] = field(default=Factory(_metadata_of, takes_self=True), repr=False)
    """The user's own metadata, which came with the id."""


@frozen(kw_only=True)
class Succeeded(_Ended):
    """Paid, done, and here.

    Args:
        result: The result.
        paths: Where the result's files are, in the order of `result.artifacts`; empty where they were not to
            be saved, or are in a storage that is no folder.
        objects: Addresses of the result's files in such a storage, such as
            `s3://bucket/spring/00000-42-1.png`.
        request: The request. None where only a task id was watched.
        tag: The user's own id (`request.tagged`); in a batch also where only its journal has the request.
        metadata: The user's own metadata, which came with the id.
    """

    result: TaskResult
    """The result."""
    paths: tuple[Path, ...] = ()
    """Where the result's files are, in the order of `result.artifacts`; empty where they were not to be
    saved, or are in a storage that is no folder."""
    objects: tuple[str, ...] = ()
    """Addresses of the result's files in such a storage, such as `s3://bucket/spring/00000-42-1.png`."""

    _repr_pretty_ = _told_in_a_line

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
    """The service said no, or the task failed.

    Args:
        error: Why.
        task: The task, where one was made.
        request: The request. None where only a task id was watched.
        tag: The user's own id (`request.tagged`); in a batch also where only its journal has the request.
        metadata: The user's own metadata, which came with the id.
    """

    error: NovitaError
    """Why."""
    task: Task | None = None
    """The task, where one was made."""

    _repr_pretty_ = _told_in_a_line

    @property
    def task_id(self) -> str | None:
        """The task's id, where one was made."""
        return self.task.task_id if self.task else None


@frozen(kw_only=True)
class Uncertain(_Missed):
    """Sent whole, never answered: perhaps paid, task id unknown.

    Args:
        error: Everything that is known.
        request: The request. None where only a task id was watched.
        tag: The user's own id (`request.tagged`); in a batch also where only its journal has the request.
        metadata: The user's own metadata, which came with the id.
    """

    error: SubmissionUncertain
    """Everything that is known."""

    _repr_pretty_ = _told_in_a_line

    @property
    def task_id(self) -> None:
        """Unknown: that is the point."""
        return


@frozen(kw_only=True)
class Unfinished(_Missed):
    """Paid, id known, end not seen. Watch it again.

    Args:
        task: The task to watch again.
        error: How long it was waited for, and what was seen last.
        request: The request. None where only a task id was watched.
        tag: The user's own id (`request.tagged`); in a batch also where only its journal has the request.
        metadata: The user's own metadata, which came with the id.
    """

    task: Task
    """The task to watch again."""
    error: TaskTimeout
    """How long it was waited for, and what was seen last."""

    _repr_pretty_ = _told_in_a_line

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.task.task_id


def _told(error: NovitaError) -> dict[str, Any]:
    names = ("reason", "status", "task_id", "account", "retryable", "advice")
    told = {name: getattr(error, name) for name in names}
    return {"type": type(error).__name__, "message": error.sentence(), **told}


def register_results(converter: Any) -> None:
    """Teach a converter of cattrs to take results apart, and to make them again."""
    converter.register_unstructure_hook(TaskResult, TaskResult.to_dict)

    def read(told: Mapping[str, Any], _: object) -> TaskResult:
        return TaskResult.from_dict(told)

    converter.register_structure_hook(TaskResult, read)
    for kind in get_args(Outcome):
        converter.register_unstructure_hook(kind, kind.to_dict)


Outcome = Succeeded | Failed | Uncertain | Unfinished
"""The four ways a request can end."""
