"""Meanings of the service's answers: a table by reason, and another by status where no reason is known.

A reason counts before a status, everywhere: the documentation and the live service disagree about statuses (a
missing key is 400 there, an empty balance 400 or 403), and gateways answer with statuses of their own. Each
row of both tables answers the same questions:

| column   | question                                                                      |
|----------|-------------------------------------------------------------------------------|
| `error`  | Which error is raised?                                                        |
| `scope`  | What else is doomed: the request, the endpoint, the account?                  |
| `bought` | Does the answer to a purchase say that no task was made, or nothing about it? |
| `passes` | Can the same attempt, made later, succeed by itself?                          |
| `advice` | What is to be done, where the error's own advice does not say it?             |

Two answers are not about the service's word at all. A gateway that could not reach the service (`unreached`)
has certainly bought nothing. A 4xx to a poll, without a reason, is the word of something on the way (a proxy,
a firewall's page): such a fault passes, and never ends a paid task.
"""

import re
from collections.abc import Mapping
from typing import Final, Literal

from attrs import evolve

from novita_async._util.values import frozen
from novita_async.errors import (
    APIError,
    AuthenticationFailed,
    BadRequest,
    BalanceExhausted,
    ContentRejected,
    EndpointNotFound,
    ImageRejected,
    PermissionDenied,
    RateLimited,
    Scope,
    ServerError,
    StorageRejected,
    TaskNotFound,
)

TASK_FAILED: Final = "TASK_FAILED"
"""The reason of a failed task, where a poll is answered with an HTTP error."""


@frozen
class Meaning:
    """A row: the meaning of an answer."""

    error: type[APIError]
    """The class that is raised."""
    scope: Scope
    """Scope of the same cause: a request, an endpoint, an account."""
    bought: Literal["no", "unknown"] = "no"
    """Whether the answer to a purchase says that no task was made, or says nothing of it."""
    passes: bool = False
    """Whether the same attempt, made later, can succeed by itself."""
    advice: str = ""
    """Advice. Empty: that of the error's class."""


REASONS: Final[Mapping[str, Meaning]] = {
    "INVALID_REQUEST_BODY": Meaning(BadRequest, "request"),
    "VALIDATOR": Meaning(BadRequest, "request"),
    "INVALID_AUDIO_FILE": Meaning(BadRequest, "request"),
    "IMAGE_FILE_EXCEEDS_MAX_SIZE": Meaning(ImageRejected, "request"),
    "INVALID_IMAGE_FORMAT": Meaning(ImageRejected, "request"),
    "IMAGE_EXCEEDS_MAX_RESOLUTION": Meaning(ImageRejected, "request"),
    "INVALID_IMAGE_SIZE": Meaning(ImageRejected, "request"),
    "IMAGE_NO_FACE_DETECTED": Meaning(ImageRejected, "request"),
    "INVALID_CUSTOM_OUTPUT_PATH": Meaning(StorageRejected, "request"),
    "ILLEGAL_PROMPT": Meaning(ContentRejected, "request"),
    "ILLEGAL_IMAGE_CONTENT": Meaning(ContentRejected, "request"),
    "BILLING_BALANCE_NOT_ENOUGH": Meaning(BalanceExhausted, "account"),
    "NOT_ENOUGH_BALANCE": Meaning(BalanceExhausted, "account"),
    "NOT_ENOUGH_BUDGET": Meaning(BalanceExhausted, "account"),
    "MEMBER_BUDGET_NOT_ENOUGH": Meaning(BalanceExhausted, "account"),
    "MISSING_API_KEY": Meaning(AuthenticationFailed, "account"),
    "INVALID_API_KEY": Meaning(AuthenticationFailed, "account"),
    "FAILED_TO_AUTH": Meaning(AuthenticationFailed, "account"),
    "BILLING_AUTH_FAILED": Meaning(PermissionDenied, "account"),
    "NEED_REAL_NAME_VERIFY": Meaning(PermissionDenied, "account", advice="verify the account"),
    "ACCESS_DENY": Meaning(PermissionDenied, "account"),
    "FEATURE_NOT_ALLOWED": Meaning(PermissionDenied, "endpoint"),
    "API_NOT_ALLOWED": Meaning(PermissionDenied, "endpoint"),
    "API_NOT_FOUND": Meaning(EndpointNotFound, "endpoint"),
    "FUSION_MODEL_NOT_FOUND": Meaning(EndpointNotFound, "endpoint"),
    "TASK_NOT_FOUND": Meaning(TaskNotFound, "request", "unknown"),
    TASK_FAILED: Meaning(ServerError, "request", "unknown"),
    "RATE_LIMIT_EXCEEDED": Meaning(RateLimited, "request", passes=True),
    "TOKEN_LIMIT_EXCEEDED": Meaning(RateLimited, "request", passes=True),
    "server_overload": Meaning(RateLimited, "request", passes=True),
    "ANONYMOUS_ACCESS_QUOTA_EXCEEDS": Meaning(RateLimited, "request", advice="use an API key"),
    "BILLING_FAILED": Meaning(ServerError, "request", passes=True),
    "CREATE_TASK_FAILED": Meaning(ServerError, "request", passes=True),
    "SERVICE_NOT_AVAILABLE": Meaning(ServerError, "request", passes=True),
    "invalid_api_key": Meaning(AuthenticationFailed, "account"),
    "insufficient_quota": Meaning(BalanceExhausted, "account"),
    "billing_hard_limit_reached": Meaning(BalanceExhausted, "account"),
    "rate_limit_exceeded": Meaning(RateLimited, "request", passes=True),
    "RESOURCE_EXHAUSTED": Meaning(RateLimited, "request", passes=True),
    "content_policy_violation": Meaning(ContentRejected, "request"),
    "moderation_blocked": Meaning(ContentRejected, "request"),
    "UNAUTHENTICATED": Meaning(AuthenticationFailed, "account"),
    "GET_RESULT_FAILED": Meaning(ServerError, "request", "unknown", passes=True),
    "UNKNOWN": Meaning(ServerError, "request", "unknown", passes=True),
}
"""Source: the API's error table, reasons seen on the live service, and the codes of OpenAI's and Google's
forms, in which some routes answer."""

LEGACY_CODES: Final[Mapping[int, Meaning]] = {
    1: Meaning(BadRequest, "request"),
    2: Meaning(BadRequest, "request"),
    3: Meaning(TaskNotFound, "request"),
    4: Meaning(AuthenticationFailed, "account"),
    6: Meaning(BadRequest, "request"),
    7: Meaning(BalanceExhausted, "account"),
    8: Meaning(BadRequest, "request"),
    10: Meaning(BadRequest, "request"),
    11: Meaning(ContentRejected, "request"),
}
"""Codes of the older envelope that are a definite no. The others (internal error, timeout) leave it open."""

_GATEWAY: Final = "nothing was bought; perhaps a proxy refused this: check the network, then the account"

_STATUSES: Final[Mapping[int, Meaning]] = {
    401: Meaning(AuthenticationFailed, "account"),
    402: Meaning(BalanceExhausted, "account"),
    403: Meaning(PermissionDenied, "request", advice=_GATEWAY),
    404: Meaning(EndpointNotFound, "endpoint"),
    408: Meaning(ServerError, "request", "unknown", passes=True),
    410: Meaning(EndpointNotFound, "endpoint"),
    413: Meaning(ImageRejected, "request"),
    425: Meaning(ServerError, "request", passes=True),
    429: Meaning(RateLimited, "request", passes=True),
}
_REFUSED: Final = Meaning(BadRequest, "request")
_UNCLEAR: Final = Meaning(ServerError, "request", "unknown", passes=True)
_TASK_UNKNOWN: Final = Meaning(TaskNotFound, "request", "unknown")

_UNREACHED: Final = frozenset({521, 523, 525, 526})
"""Cloudflare's: the origin refuses connections, has no route, fails the handshake, has a bad certificate."""
_DNS_CODES: Final = re.compile(rb"error[^0-9]{0,20}10(?:01|16)\b", re.IGNORECASE)
"""Codes of a 530's page that say that the origin's name was not resolved."""


def _is_refusal(status: int) -> bool:
    return 400 <= status < 500


def meaning_of(status: int, reason: str | None) -> Meaning:
    """Tell what an answer to a purchase, or to a question about no task, means.

    A reason that says nothing about a task leaves that to the status, where a 4xx says no. A 408 without a
    reason may come from a gateway that had passed the request on.
    """
    known = REASONS.get(reason or "")
    if known is None:
        known = _STATUSES.get(status) or (_REFUSED if _is_refusal(status) else _UNCLEAR)
        says_no = status == 408 and reason is not None
    else:
        says_no = _is_refusal(status)
    return evolve(known, bought="no") if says_no and known.bought == "unknown" else known


def meaning_for_task(status: int, reason: str | None, *, in_json: bool) -> Meaning:
    """Tell what the refusal of a poll means for its task, which is paid.

    Args:
        status: HTTP status.
        reason: The service's reason. None: the answer is not the service's own word.
        in_json: Whether the answer is a JSON object; then a 404 is about the task and not about the route.
    """
    if status in (404, 410) and in_json and reason not in REASONS:
        return evolve(_TASK_UNKNOWN, passes=reason is None)
    if reason is None and _is_refusal(status) and status != 429:
        return _UNCLEAR
    return meaning_of(status, reason)


def unreached(status: int, body: bytes) -> bool:
    """Whether a gateway says that the service was never reached. A 522 may come after a connection."""
    if status == 403:  # a page, where the service itself says JSON: a firewall before it
        return body.lstrip()[:1] == b"<"
    return status in _UNREACHED or (status == 530 and _DNS_CODES.search(body) is not None)


def download_passes(status: int | None) -> bool:
    """Whether the refusal of a result host, which knows no reasons, passes by itself."""
    return status is None or not _is_refusal(status) or status in (408, 425, 429)
