"""Everything that this library raises, by cause.

    NovitaError
    ├── ConfigurationError           a client that cannot work: no key, a bad base URL
    ├── InvalidRequest               refused here, before any money is spent; names every fault
    ├── BudgetExhausted              would cost more than the caller allows
    ├── NotPlanned                   new to a journal whose plan alone was to be bought
    ├── NotSent                      never reached the service: nothing was bought
    ├── NoAnswer                     a question (not a purchase) went unanswered
    ├── SubmissionUncertain          sent whole, never answered: perhaps bought, task id unknown
    ├── APIError                     the service answered no
    │   ├── BadRequest               it can never be accepted as it is
    │   │   ├── ImageRejected        the input picture: size, format, resolution, no face
    │   │   ├── ContentRejected      content policy: prompt or picture
    │   │   └── StorageRejected      the bucket or path of custom storage
    │   ├── AuthenticationFailed     no key, or a wrong one
    │   ├── PermissionDenied         the key is good, but not for this
    │   ├── BalanceExhausted         top up
    │   ├── EndpointNotFound         the route is not served: perhaps retired
    │   ├── TaskNotFound             no such task, or no longer
    │   ├── RateLimited              too much at once
    │   └── ServerError              the service broke: 5xx and the like
    ├── MalformedAnswer              an answer that cannot be understood
    ├── TaskFailed                   the service tried and gave up
    ├── FailedEarlier                an earlier run of the batch failed to get this
    ├── TaskTimeout                  we stopped waiting; the task is paid and can be watched again
    ├── JournalError                 the memory of a batch cannot be read, or not written
    ├── AnsweredAtOnce               paid, and the results came instead of a task: the error has them
    └── ResultError                  the task succeeded, but its files cannot be had
        ├── NoImages                 success without a single image
        └── DownloadFailed           a result file could not be fetched whole

Each error knows its `scope` (what it dooms: this request, the endpoint, the account), whether the same
attempt can succeed later (`retryable`), what it cost (`charged`: buying again may pay twice), and the task
id, HTTP status and reason where there are any. The text ends with what to do next, and shows no key, no
picture and no presigned query. All of them pickle.
"""

import re
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, ClassVar, Final, Literal, Self

from attrs import define, field

from novita_async._util.values import frozen
from novita_async.tasks import Task

Scope = Literal["request", "endpoint", "account"]
"""Reach of an error: a request, every request to this endpoint, or everything this account sends."""
Charged = Literal[
    "nothing",
    "perhaps paid",
    "paid",
    "paid where there is a task id",
    "paid where `paid` is true",
    "not said by the service",
]
"""Money that a purchase has cost that ends with an error."""


_SECRETS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"(https?://[^\s\"'<>?]*)\?[^\s\"'<>]*", re.IGNORECASE), r"\1?…"),  # presigned queries
    (re.compile(r"\b((?:x-(?:amz|goog)-)?signature)=[\w%~.+/=-]+", re.IGNORECASE), r"\1=…"),  # torn out
    (re.compile(r"\b(Bearer\s+|sk_)[\w.~+/=-]{4,}", re.IGNORECASE), r"\1…"),  # keys, quoted by the service
    (re.compile(r"[A-Za-z0-9+/_-]{200,}={0,2}"), "<base64>"),  # pictures, quoted by the service
)


def redacted(text: str) -> str:
    """Cut out of a text what must not be shown: presigned queries, keys, base64."""
    for secret, stand_in in _SECRETS:
        text = secret.sub(stand_in, text)
    return text


def without_query(url: str) -> str:
    """A URL that can be shown: the query of a presigned URL is a secret while it lives."""
    return url.partition("?")[0]


def _blank(cls: "type[NovitaError]") -> "NovitaError":
    """An error without attributes; pickle sets them next."""
    return cls.__new__(cls)


@define(kw_only=True, eq=False, slots=False, repr=False)
class NovitaError(Exception):
    """Base of all errors raised by this library."""

    charged: ClassVar[Charged] = "nothing"
    """Money that a purchase has cost that ends with this. An error of any class is about a task that was
    bought where it has a task id."""
    answer_with: ClassVar[int] = 502
    """HTTP status that fits where a web service passes the error on to its own caller."""

    scope: Scope = "request"
    """Reach of the cause: a request, an endpoint, an account."""
    retryable: bool = False
    """Whether the same attempt (to buy, wait or fetch), made later, can succeed; not whether it costs."""
    advice: str = ""
    """Advice; ends the message."""
    task_id: str | None = None
    """The task that this is about, once it has an id."""
    status: int | None = None
    """HTTP status of the answer that caused this."""
    reason: str | None = None
    """The service's reason in capitals, such as `INVALID_API_KEY`."""
    account: str | None = None
    """Label of the account that sent the request."""
    tag: str | None = None
    """The user's own id of the request that this is about (`request.tagged`)."""
    unsent: int = field(default=0, init=False)
    """How many requests a stream had taken in and not sent when this ended it."""

    def sentence(self) -> str:
        """The event, without the advice."""
        return type(self).__name__

    def of_request(self, tag: str | None) -> Self:
        """The same error, of the request with this tag; a copy where another request may have it, too."""
        if tag == self.tag:
            return self
        told = copy(self)
        told.tag, told.__cause__, told.__traceback__ = tag, self.__cause__, self.__traceback__
        return told

    def __str__(self) -> str:
        about = "" if self.tag is None else f"request {self.tag}: "
        return redacted(about + (f"{self.sentence()}: {self.advice}" if self.advice else self.sentence()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        return _blank, (type(self),), vars(self).copy()


@define(kw_only=True, eq=False, slots=False, repr=False)
class ConfigurationError(NovitaError):
    """The client cannot be made like this."""

    answer_with: ClassVar[int] = 500
    problem: str
    """The problem, without secrets."""

    def sentence(self) -> str:
        return self.problem


@frozen
class Flaw:
    """A wrong value.

    Args:
        path: Where it is: `Img2Img.steps`, `request.loras[0].strength`, `line 7: request.prompt`.
        message: The value and what it should have been.
    """

    path: str
    """Where it is: `Img2Img.steps`, `request.loras[0].strength`, `line 7: request.prompt`."""
    message: str
    """The value and what it should have been."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@define(kw_only=True, eq=False, slots=False, repr=False)
class InvalidRequest(NovitaError, ValueError):
    """A request that is refused before anything is sent. Nothing was bought; its faults say what is right."""

    answer_with: ClassVar[int] = 422
    faults: tuple[Flaw, ...]
    """Every fault that was found, not only the first."""

    def sentence(self) -> str:
        return "; ".join(map(str, self.faults))


@define(kw_only=True, eq=False, slots=False, repr=False)
class BudgetExhausted(NovitaError):
    """A purchase that would exceed the caller's own budget, refused before it is sent."""

    answer_with: ClassVar[int] = 503
    scope: Scope = "account"
    limit: str
    """The most that may be spent, as the budget says it."""
    spent: str
    """Money spent or reserved."""
    cost: str
    """Cost of the request."""
    advice: str = "nothing was bought; raise Budget.limit to go on"

    def sentence(self) -> str:
        return f"{self.cost} more would exceed the budget of {self.limit}, of which {self.spent} is spent"


@define(kw_only=True, eq=False, slots=False, repr=False)
class NotPlanned(NovitaError):
    """A request that the journal does not know, in a run that buys only what earlier runs have planned."""

    answer_with: ClassVar[int] = 409
    advice: str = "nothing was bought; to buy it, run the batch without only_planned=True"

    def sentence(self) -> str:
        return "new since the last run: the journal has no such request"


@define(kw_only=True, eq=False, slots=False, repr=False)
class NotSent(NovitaError):
    """The service was not reached, or the request broke off on its way: nothing was bought."""

    answer_with: ClassVar[int] = 503
    retryable: bool = True
    cause: str
    """The cause on the wire."""
    attempts: int = 1
    """How often it was tried."""
    advice: str = "nothing was bought; check the network and the base URL, then send it again"

    def sentence(self) -> str:
        times = "" if self.attempts == 1 else f" after {self.attempts} attempts"
        return f"not sent{times}: {self.cause}"


@define(kw_only=True, eq=False, slots=False, repr=False)
class NoAnswer(NovitaError):
    """A question, which costs nothing, was not answered."""

    answer_with: ClassVar[int] = 504
    retryable: bool = True
    cause: str
    """The cause on the wire."""
    advice: str = "ask again"

    def sentence(self) -> str:
        about = f" about task {self.task_id}" if self.task_id else ""
        return f"no answer{about}: {self.cause}"


@define(kw_only=True, eq=False, slots=False, repr=False)
class SubmissionUncertain(NovitaError):
    """The request went out whole and no usable answer came back: perhaps it was bought."""

    charged: ClassVar[Charged] = "perhaps paid"
    answer_with: ClassVar[int] = 504
    cause: str
    """The cause after the hand-over."""
    endpoint: str
    """Path of the submission."""
    images: int = 1
    """How many images may have been bought."""
    purchase: int | None = None
    """Id of the purchase, as events carry it. None: of another process."""
    advice: str = (
        "perhaps paid; it is not sent again by itself, because that may pay twice; "
        "look at the account's bill, then decide"
    )

    def sentence(self) -> str:
        return f"submission of {self.images} image(s) to {self.endpoint} has no known end: {self.cause}"


@define(kw_only=True, eq=False, slots=False, repr=False)
class APIError(NovitaError):
    """The service answered, and the answer is no."""

    message: str = ""
    """The service's own words, cut to 2 KB, secrets removed."""
    metadata: Mapping[str, str] = field(factory=dict[str, str])
    """More of the service's own words."""
    retry_after: float | None = None
    """Seconds that the service asked to wait, where it said so."""

    def sentence(self) -> str:
        what = " ".join(str(x) for x in (self.status, self.reason) if x is not None)
        about = f" (task {self.task_id})" if self.task_id else ""
        return f"{what or 'the service refused'}: {self.message or 'no explanation given'}{about}"


@define(kw_only=True, eq=False, slots=False, repr=False)
class BadRequest(APIError):
    """The service will never accept this request as it is."""

    answer_with: ClassVar[int] = 422
    advice: str = "nothing was bought; change the request"


@define(kw_only=True, eq=False, slots=False, repr=False)
class ImageRejected(BadRequest):
    """The input picture is too large, of a wrong format, or has no face where one is needed."""

    advice: str = "nothing was bought; use another picture, or a smaller one"


@define(kw_only=True, eq=False, slots=False, repr=False)
class ContentRejected(BadRequest):
    """The prompt or the picture breaks the service's content policy."""

    advice: str = "nothing was bought; change the prompt or the picture"


@define(kw_only=True, eq=False, slots=False, repr=False)
class StorageRejected(BadRequest):
    """The bucket or the path of custom storage cannot be written to."""

    charged: ClassVar[Charged] = "paid where there is a task id"
    answer_with: ClassVar[int] = 500
    advice: str = "check extra.custom_storage and the bucket policy"


@define(kw_only=True, eq=False, slots=False, repr=False)
class AuthenticationFailed(APIError):
    """The service does not know this key."""

    answer_with: ClassVar[int] = 500
    scope: Scope = "account"
    advice: str = "check NOVITA_API_KEY"


@define(kw_only=True, eq=False, slots=False, repr=False)
class PermissionDenied(APIError):
    """The key is known, but must not do this. Some reasons doom the endpoint, some the whole account."""

    answer_with: ClassVar[int] = 500
    advice: str = "check what this account may use"


@define(kw_only=True, eq=False, slots=False, repr=False)
class BalanceExhausted(APIError):
    """The account has no money or budget left."""

    answer_with: ClassVar[int] = 503
    scope: Scope = "account"
    advice: str = "top up the account, then send the rest"


@define(kw_only=True, eq=False, slots=False, repr=False)
class EndpointNotFound(APIError):
    """The service has no such route. Routes of this API are retired from time to time."""

    answer_with: ClassVar[int] = 501
    scope: Scope = "endpoint"
    endpoint: str = ""
    """The path that was asked for."""
    advice: str = (
        "nothing was bought; the route may be retired: look for its successor in the API's documentation"
    )

    def sentence(self) -> str:
        words = self.message or "no explanation given"
        return f"{self.status or 404}: {self.endpoint or 'this route'} is not served ({words})"


@define(kw_only=True, eq=False, slots=False, repr=False)
class TaskNotFound(APIError):
    """The service does not know the task id, or no longer."""

    charged: ClassVar[Charged] = "paid where there is a task id"
    answer_with: ClassVar[int] = 404
    advice: str = "check the id and the account that paid for it"


@define(kw_only=True, eq=False, slots=False, repr=False)
class RateLimited(APIError):
    """The quota is used up for now."""

    answer_with: ClassVar[int] = 429
    retryable: bool = True
    advice: str = "nothing was bought; wait a minute, or lower images_per_minute"


@define(kw_only=True, eq=False, slots=False, repr=False)
class ServerError(APIError):
    """The service broke, or was too busy: 5xx, and the few 4xx that pass by themselves."""

    charged: ClassVar[Charged] = "paid where there is a task id"
    retryable: bool = True
    advice: str = "try again later"


@define(kw_only=True, eq=False, slots=False, repr=False)
class MalformedAnswer(NovitaError):
    """An answer that cannot be understood, even leniently."""

    charged: ClassVar[Charged] = "paid where there is a task id"
    retryable: bool = True
    problem: str
    """The problem with it."""
    excerpt: str = ""
    """The beginning of the answer, cut to 2 KB, secrets removed."""
    advice: str = "ask again; if it stays, the API or the base URL has changed"

    def sentence(self) -> str:
        quoted = f": {self.excerpt!r}" if self.excerpt else ""
        return f"{self.problem}{quoted}"


@define(kw_only=True, eq=False, slots=False, repr=False)
class TaskFailed(NovitaError):
    """The service tried and gave up. Whether it is billed is not documented."""

    charged: ClassVar[Charged] = "not said by the service"
    task: Task
    """The failed task."""
    explanation: str = ""
    """The service's free text. Never match on it."""
    advice: str = "send it again, or with other settings"

    def __attrs_post_init__(self) -> None:
        self.task_id = self.task_id or self.task.task_id

    def sentence(self) -> str:
        return f"task {self.task_id} failed: {self.explanation or 'no explanation given'}"


@define(kw_only=True, eq=False, slots=False, repr=False)
class FailedEarlier(NovitaError):
    """An earlier run of the batch failed to get this; its journal says why."""

    charged: ClassVar[Charged] = "paid where `paid` is true"
    paid: bool = False
    """Whether any attempt bought something: a task that failed, or an answer without files."""
    kind: str
    """Name of the error's class."""
    text: str
    """The error's message."""

    def __attrs_post_init__(self) -> None:
        self.advice = self.advice or (
            "run the batch again with retry_failed=True"
            if self.retryable
            else 'the same would fail again; change the request, or mend the cause: retry_failed="all"'
        )

    def sentence(self) -> str:
        return f"failed in an earlier run ({self.kind}): {self.text}"


@define(kw_only=True, eq=False, slots=False, repr=False)
class TaskTimeout(NovitaError, TimeoutError):
    """Waiting ended before the task did. The task is paid; watch it again. Not a failure."""

    charged: ClassVar[Charged] = "paid"
    answer_with: ClassVar[int] = 504
    retryable: bool = True
    task: Task
    """The unfinished task."""
    waited: float
    """Seconds of waiting."""
    last_status: str | None = None
    """Snapshot of the last poll."""
    last_error: NovitaError | None = None
    """Why the last poll saw nothing, where it did not."""

    def __attrs_post_init__(self) -> None:
        self.task_id = self.task_id or self.task.task_id
        self.advice = self.advice or f"novita-async watch {self.task_id}"

    def sentence(self) -> str:
        seen = f", last seen {self.last_status}" if self.last_status else ""
        why = f" ({self.last_error.sentence()})" if self.last_error else ""
        return f"paid, not seen finished after {self.waited:.0f} s{seen}{why}"


@define(kw_only=True, eq=False, slots=False, repr=False)
class JournalError(NovitaError):
    """The journal of a batch cannot be opened, read or written. Its records stay as they were.

    Paid results and doubts that could not be recorded come out as outcomes, before the error.
    """

    charged: ClassVar[Charged] = "paid where there is a task id"
    answer_with: ClassVar[int] = 500
    scope: Scope = "account"  # what cannot be recorded must not be bought
    advice: str = "nothing more is bought; make the journal readable and writable, then resume"
    problem: str
    """The problem, and the file."""

    def sentence(self) -> str:
        return self.problem


@define(kw_only=True, eq=False, slots=False, repr=False)
class AnsweredAtOnce(NovitaError):
    """A submission that was to give a task was answered with the results. Paid; nothing is lost."""

    charged: ClassVar[Charged] = "paid"
    answer_with: ClassVar[int] = 500
    result: Any = field(repr=False)
    """The result (`TaskResult`)."""
    advice: str = "the results are in `result`; for this route use run, stream or batch"

    def sentence(self) -> str:
        return "the route answered at once, without a task"


@define(kw_only=True, eq=False, slots=False, repr=False)
class ResultError(NovitaError):
    """The task succeeded, but its files cannot be had."""

    charged: ClassVar[Charged] = "paid"


@define(kw_only=True, eq=False, slots=False, repr=False)
class NoImages(ResultError):
    """The task succeeded without a single image."""

    extra: Mapping[str, Any] = field(factory=dict[str, Any])
    """The answer's `extra`, as it came."""

    def __attrs_post_init__(self) -> None:
        again = f"to ask again: novita-async watch {self.task_id}" if self.task_id else "ask again"
        self.advice = self.advice or f"paid; look at `extra` for another kind of result; {again}"

    def sentence(self) -> str:
        return f"task {self.task_id} succeeded without images" if self.task_id else "answered without images"


@define(kw_only=True, eq=False, slots=False, repr=False)
class DownloadFailed(ResultError):
    """A result file could not be fetched whole. No partial file is left."""

    retryable: bool = True
    url: str = field(converter=without_query)
    """Where it was, without the query, which is a secret for an hour."""
    cause: str
    """The cause."""

    def __attrs_post_init__(self) -> None:
        again = (
            f"novita-async watch {self.task_id} --out DIR"
            if self.task_id
            else "poll the task for a fresh URL"
        )
        self.advice = self.advice or f"paid and finished; {again}"

    def sentence(self) -> str:
        return f"download of {self.url} failed: {self.cause}" if self.url else f"not saved: {self.cause}"


class NovitaWarning(UserWarning):
    """Something that will probably not do what was meant, but may."""
