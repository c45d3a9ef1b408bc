"""The API without the network: requests to HTTP, HTTP to tasks, snapshots and errors.

`reasons` says what a refusal means. A question is answered for a submission alone, which is a purchase: a
broken answer leaves open whether it was bought. An id that can be read is read, however odd the rest is.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, cast

from novita_async._api import codec
from novita_async._api.reasons import (
    LEGACY_CODES,
    REASONS,
    TASK_FAILED,
    Meaning,
    meaning_for_task,
    meaning_of,
    unreached,
)
from novita_async._http import HTTPRequest, HTTPResponse
from novita_async._policy.retrying import Failure
from novita_async._util import lenient
from novita_async._util.values import frozen
from novita_async.errors import (
    APIError,
    BadRequest,
    EndpointNotFound,
    MalformedAnswer,
    NotSent,
    NovitaError,
    RateLimited,
    ServerError,
    SubmissionUncertain,
    TaskFailed,
    redacted,
)
from novita_async.models.accounts import Balance
from novita_async.models.catalogue import ModelRecord
from novita_async.models.endpoints import Endpoints
from novita_async.models.requests import NovitaRequest
from novita_async.models.results import Snapshot, TaskResult, state_of
from novita_async.models.routes import TASK_TIMEOUT, living_like
from novita_async.tasks import Task

QUESTION_TIMEOUT: Final = 30.0
"""Seconds for the answer to a question, which costs nothing to ask again."""
_SHOWN: Final = 2048

_ABOUT_PURCHASES: Final = (BadRequest, RateLimited, EndpointNotFound, ServerError, MalformedAnswer)
"""Errors whose usual advice is about sending again, which is no advice where a task is paid."""


# --- Submissions --------------------------------------------------------------------------------------------


def submission(
    request: NovitaRequest,
    endpoints: Endpoints,
    callback_url: str | None = None,
    folder: Path | None = None,
    longest: float | None = None,
) -> HTTPRequest:
    """Make the purchase of a request. Raises `InvalidRequest` where it cannot be written.

    Args:
        request: The request.
        endpoints: Where it goes.
        callback_url: Where the end of its task is to be told.
        folder: Where pictures go that come in the answer. None: where they are removed with the transport.
        longest: Seconds for which the caller waits for results that come at once. None: as long as the route
            may take.
    """
    row = request.row
    timeout = TASK_TIMEOUT if row is None else row.answer_timeout
    if longest is not None and row is not None and row.answer == "at_once":
        timeout = min(timeout, longest)
    body = None if request.is_form else codec.body_parts(request, callback_url)
    return HTTPRequest(
        method="POST",
        path=endpoints.path_of(request),
        body=body,
        parts=codec.form_parts(request) if request.is_form else None,
        timeout=timeout,
        answer="small" if row is not None and row.answer == "task" else "pictures",
        folder=folder,
    )


_RESULTS: Final = re.compile(rb'"(?:images|data|videos|image_file|candidates|audios)"')
"""Names in an answer that may hold results besides a task's id."""


def read_submission(
    response: HTTPResponse, endpoint: str, images: int, *, at_once: bool = False
) -> str | TaskResult:
    """Read the new task's id, or the results where the answer holds them: then those count.

    The task of such a result is known by its id alone, where the answer names one.

    Args:
        response: The answer.
        endpoint: Path of the submission.
        images: Number of images that were asked for.
        at_once: Whether the route answers with results only: an answer without any is paid all the same.

    Raises:
        APIError: a definite no (a reason or a code that says so, or a 4xx): nothing was bought.
        NotSent: the service was not reached, or answered before the request was whole: nothing was bought.
        SubmissionUncertain: anything else.
    """
    good = _is_good(response)
    if good and not response.early and _RESULTS.search(response.body) is None:
        usual = codec.peek_task_id(response.body)
        if usual:
            return usual
    body = _object(response)
    task_id = _id_in(body, response.body) if good else ""
    if good and not response.early:
        bought = _bought_in(response, body, task_id, at_once=at_once)
        if bought is not None:
            return bought
    reason, code = _reason(body), lenient.as_int(body.get("code"))
    meaning = meaning_of(response.status, reason)
    legacy = LEGACY_CODES.get(code or 0) if good else None
    if unreached(response.status, response.body) and reason not in REASONS:
        cause = f"the gateway answered {response.status}: the service could not be reached"
        raise NotSent(cause=cause, status=response.status, reason=reason)
    if not task_id and meaning.bought == "no":
        raise refusal(response, endpoint=endpoint)
    if not task_id and legacy:
        raise _refused(legacy, response, body, reason=f"code {code}")
    if response.early:  # half a request buys nothing; a redirect, which is not followed, would come again
        seen = "an answer came before it was asked for" if task_id else _seen(response)
        raise NotSent(cause=seen, status=response.status, retryable=not 300 <= response.status < 400)
    raise SubmissionUncertain(
        cause=_seen(response), endpoint=endpoint, images=images, status=response.status, reason=reason
    )


def _bought_in(
    response: HTTPResponse, body: Mapping[str, Any], task_id: str, *, at_once: bool
) -> str | TaskResult | None:
    """Purchase in a good answer: results, or a task. None: neither is in it."""
    reason = _reason(body)
    if reason not in REASONS:
        named = task_id or lenient.as_text(lenient.as_object(body.get("task")).get("task_id"))
        task = Task(task_id=named) if named else None
        found = codec.results_at_once(body, response.parts, task, response.cut)
        if found is not None:
            return found
    if task_id:
        return task_id
    if reason is None and (pictures := codec.parts_at_once(body, response.parts, response.cut)):
        return pictures
    says_nothing = not body or reason is not None or response.cut is not None
    return codec.nothing_at_once(body) if at_once and not says_nothing else None


def failed_purchase(status: int, error: NovitaError, retry_after: float | None = None) -> Failure:
    """Tell the retry policy what it needs to know of a refused, or uncertain, purchase."""
    uncertain = isinstance(error, SubmissionUncertain)
    passes = meaning_of(status, error.reason).passes if uncertain else error.retryable
    return Failure(perhaps_bought=uncertain, passes=passes, retry_after=retry_after)


def is_plain(status: int) -> bool:
    """Whether a status says enough of what became of a purchase where the rest of its answer broke off."""
    return 300 <= status < 500 or unreached(status, b"")


def _id_in(body: Mapping[str, Any], text: bytes) -> str:
    """The id in an answer, enveloped or not; also in what is no JSON even leniently: it is paid."""
    enveloped = lenient.as_object(body.get("data"))
    told = lenient.as_text(body.get("task_id")) or lenient.as_text(enveloped.get("task_id"))
    if told or not text.lstrip().startswith(b"{") or _object_of(text) is not None:
        return told
    found = _ID.search(text)
    return found[1].decode() if found else ""


_ID: Final = re.compile(rb'"task_id"\s*:\s*"([\w.:-]{1,256})"\s*[,}\]]')


def _seen(response: HTTPResponse) -> str:
    """An answer that is neither yes nor no, in words."""
    location = response.headers.get("location")
    if location:
        place = location.partition("?")[0]
        return f"answered {response.status}, a redirect to {place}; set base_url to where the API is"
    return f"answered {response.status} with {_excerpt(response)!r}"


# --- Polls --------------------------------------------------------------------------------------------------


def poll(task_id: str, endpoints: Endpoints) -> HTTPRequest:
    """Ask how a task is doing."""
    query = (("task_id", task_id),)
    return HTTPRequest(method="GET", path=endpoints.task_result, query=query, timeout=QUESTION_TIMEOUT)


def read_snapshot(response: HTTPResponse, task: Task) -> Snapshot:
    """Read what a poll saw: the usual form quickly, any other leniently.

    Raises:
        TaskFailed: the service reports a failed task as an HTTP error.
        APIError: the poll was refused.
        MalformedAnswer: no status in it.
    """
    if 200 <= response.status < 300:
        seen = codec.usual_snapshot(response.body, task)
        if seen is not None:
            return seen
    body = read_object(response, task=task)
    about = lenient.as_object(body.get("task"))
    status = lenient.as_text(about.get("status"))
    named = about.get("task_id")
    if isinstance(named, str) and named and named != task.task_id:  # answers were mixed up
        raise _incomplete(f"the answer is about another task ({named})", response, task)
    if not status:
        raise _incomplete("the answer has no status", response, task)
    return Snapshot(
        task=task,
        status=status,
        progress_percent=lenient.as_float(about.get("progress_percent")),
        eta=lenient.as_float(about.get("eta")),
        explanation=lenient.as_text(about.get("reason")),
        result=codec.result(body, task) if state_of(status) == "succeeded" else None,
    )


# --- Events -------------------------------------------------------------------------------------------------

_EVENT: Final = "ASYNC_TASK_RESULT"
_LONGEST_ID: Final = 256


def read_event(body: bytes) -> str | None:
    """Read which task an event is about, whatever else it says. None: about no task."""
    event = _object_of(body) or {}
    if event.get("event_type", _EVENT) != _EVENT:
        return None
    about = lenient.as_object(lenient.as_object(event.get("payload")).get("task"))
    task_id = lenient.as_text(about.get("task_id"))
    return task_id if 0 < len(task_id) <= _LONGEST_ID else None


# --- Listings -----------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class ModelPage:
    """A page of the model listing."""

    records: tuple[ModelRecord, ...]
    next_cursor: str | None


def models(filters: Mapping[str, str], cursor: str | None, limit: int, endpoints: Endpoints) -> HTTPRequest:
    """Ask for a page of the model listing; `cursor` is that of the page before."""
    page = {"pagination.limit": str(limit)} | ({"pagination.cursor": cursor} if cursor else {})
    query = {f"filter.{name}": value for name, value in filters.items()} | page
    return HTTPRequest(
        method="GET", path=endpoints.models, query=tuple(query.items()), timeout=QUESTION_TIMEOUT
    )


def read_models(response: HTTPResponse) -> ModelPage:
    """Read a page of the model listing."""
    from novita_async._api.converter import model_record  # noqa: PLC0415 - few ask for a listing

    body = read_object(response)
    if "models" not in body and _reason(body):
        raise _incomplete("the answer lists no models", response)
    listed = [record for item in lenient.as_list(body.get("models")) if (record := lenient.as_object(item))]
    cursor = lenient.as_text(lenient.as_object(body.get("pagination")).get("next_cursor"))
    return ModelPage(records=tuple(map(model_record, listed)), next_cursor=cursor or None)


def balance(endpoints: Endpoints) -> HTTPRequest:
    """Ask what is left to spend."""
    return HTTPRequest(method="GET", path=endpoints.balance, timeout=QUESTION_TIMEOUT)


def read_balance(response: HTTPResponse) -> Balance:
    """Read what is left to spend."""
    body = read_object(response)
    available = _dollars(body.get("availableBalance"))
    if available is None:
        raise _incomplete("the answer has no balance", response)
    return Balance(
        available=available,
        cash=_dollars(body.get("cashBalance")),
        credit_limit=_dollars(body.get("creditLimit")),
        pending_charges=_dollars(body.get("pendingCharges")),
        outstanding_invoices=_dollars(body.get("outstandingInvoices")),
    )


def _dollars(value: Any) -> Decimal | None:
    units = lenient.as_int(value)
    return None if units is None else Balance.dollars(units)


# --- Refusals -----------------------------------------------------------------------------------------------


def read_object(response: HTTPResponse, task: Task | None = None) -> Mapping[str, Any]:
    """Read the JSON object of a good answer; raise what a bad one means."""
    if not _is_good(response):
        raise refusal(response, task=task)
    body = _object_of(response.body)
    if body is None:
        raise _incomplete("the answer is not a JSON object", response, task)
    return body


def _incomplete(problem: str, response: HTTPResponse, task: Task | None = None) -> NovitaError:
    """Meaning of a 2xx answer without the wanted part: often an error under a good status."""
    if _reason(_object(response)) in REASONS:
        return refusal(response, task=task)
    error = MalformedAnswer(problem=problem, excerpt=_excerpt(response), status=response.status)
    return _about(error, task)


def refusal(response: HTTPResponse, *, endpoint: str = "", task: Task | None = None) -> NovitaError:
    """Meaning of an answer that is not good, by reason first and status second."""
    body = _object_of(response.body)
    found = body or {}
    reason = _reason(found)
    if task and reason == TASK_FAILED:
        words = _words(found, response)
        return TaskFailed(
            task=task, account=task.account, explanation=words, status=response.status, reason=reason
        )
    if reason not in REASONS and response.status < 400:
        return _about(MalformedAnswer(problem=_seen(response), status=response.status, reason=reason), task)
    meaning = (
        meaning_for_task(response.status, reason, in_json=body is not None)
        if task
        else meaning_of(response.status, reason)
    )
    error = _refused(meaning, response, found, reason)
    if isinstance(error, EndpointNotFound):
        error.endpoint = endpoint
        error.advice = _advice_for(endpoint) or error.advice
    return _about(error, task)


def _advice_for(endpoint: str) -> str:
    """Routes of the same kind that live; empty where the table knows none."""
    living = living_like(endpoint)
    names = [model for route in living for model in (route.models or (route.name,))]
    if not names:
        return ""
    named = ", ".join(dict.fromkeys(names))
    return f"nothing was bought; the route may be retired, and of its kind live {named} (novita-async routes)"


def _refused(
    meaning: Meaning, response: HTTPResponse, body: Mapping[str, Any], reason: str | None
) -> APIError:
    metadata = lenient.as_object(body.get("metadata")).items()
    error = meaning.error(
        scope=meaning.scope,
        retryable=meaning.passes,
        status=response.status,
        reason=reason,
        message=_words(body, response),
        metadata={_shown(name): _shown(lenient.as_text(value)) for name, value in metadata},
    )
    error.advice = meaning.advice or error.advice
    return error


def _about(error: NovitaError, task: Task | None) -> NovitaError:
    """Tell an error which task it is about."""
    if task:
        error.task_id, error.account = task.task_id, task.account
        if isinstance(error, _ABOUT_PURCHASES):
            when = "ask again" if error.retryable else "once the cause is removed, ask again"
            error.advice = f"the task is paid; {when}: novita-async watch {task.task_id}"
    return error


def _is_good(response: HTTPResponse) -> bool:
    return 200 <= response.status < 300


def _object(response: HTTPResponse) -> Mapping[str, Any]:
    return _object_of(response.body) or {}


def _object_of(text: bytes) -> Mapping[str, Any] | None:
    """The JSON object that a text is, read as leniently as it takes."""
    try:
        body = codec.parse_leniently(text)
    except codec.Unreadable:
        return None
    return cast("Mapping[str, Any]", body) if isinstance(body, Mapping) else None


def _reason(body: Mapping[str, Any]) -> str | None:
    nested = lenient.as_object(body.get("error"))
    names = ("reason", "code", "status", "type")  # the last two: Google's, and OpenAI's where it has no code
    found = (body.get("reason"), *(nested.get(name) for name in names))
    return next((_shown(reason) for reason in found if isinstance(reason, str) and reason), None)


def _words(body: Mapping[str, Any], response: HTTPResponse) -> str:
    """The service's explanation, wherever it put it; else the beginning of the answer."""
    nested = lenient.as_object(body.get("error"))
    found = (body.get("message"), nested.get("message"), body.get("msg"), body.get("error"))
    return next((_shown(words) for words in found if isinstance(words, str) and words), _excerpt(response))


def _excerpt(response: HTTPResponse) -> str:
    text = response.body[: 4 * _SHOWN].decode(errors="replace")
    return _shown(" ".join(text.split()))


def _shown(text: str) -> str:
    return redacted(text)[:_SHOWN]
