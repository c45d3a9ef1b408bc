"""Lines about requests, as the index of a folder and `export` tell them: one JSON object each.

| name        | value |
|-------------|-------|
| `outcome`   | `succeeded`, `failed`, `uncertain` or `unfinished`; null: no end is known |
| `state`     | `planned`, `announced`, `submitted`, `succeeded`, `saved`, `failed` or `uncertain` |
| `place`     | place in the input, from 0 |
| `id`        | the user's own (`request.tagged`, `"id"` in a manifest) |
| `metadata`  | the user's own, an object |
| `endpoint`  | path of the submission |
| `images`    | how many were asked for |
| `files`     | names of the saved files, in the order of the result |
| `task_id`   | the task that was bought |
| `other_task_ids` | tasks that were bought besides, by other attempts |
| `account`   | label of the account that paid |
| `attempts`  | how often the request was sent |
| `cost`      | US dollars for all that was bought, certainly or perhaps, where a price is known |
| `seed`      | the seed that the service reports |
| `urls`      | of each file, without its signature: names that open nothing, unless they are public |
| `nsfw`      | of each file: null, or `{"checked": true, "confidence": 3.5}` |
| `times`     | `submit`, `execute` and `complete` by the service's clock; in ISO 8601, UTC, or null |
| `error`     | null, or `{"type": …, "reason": …, "status": …, "message": …}` |
| `inputs`    | SHA-256 of each picture that was sent, by its path |
| `make`      | the request as a line of a manifest, with the reported seed; null where that cannot be |

All lines have all names, in this order; null stands for what is not known or is not.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

from novita_async._journal.identity import PLAIN, with_pictures
from novita_async._policy.spending import Budget
from novita_async._purchase.machine import (
    FAILED,
    SAVED,
    SUBMITTED,
    SUCCEEDED,
    UNCERTAIN,
    JournalEntry,
    Order,
    Purchase,
    State,
)
from novita_async.errors import (
    DownloadFailed,
    FailedEarlier,
    NovitaError,
    TaskFailed,
    TaskNotFound,
    redacted,
    without_query,
)
from novita_async.models.requests import FORM, own_storage_in
from novita_async.models.results import (
    Artifact,
    Failed,
    GeneratedImage,
    Outcome,
    Succeeded,
    Timings,
    Uncertain,
    Unfinished,
)

NAMES: Final = (
    "outcome", "state", "place", "id", "metadata", "endpoint", "images", "files", "task_id", "other_task_ids",
    "account", "attempts", "cost", "seed", "urls", "nsfw", "times", "error", "inputs", "make",
)  # fmt: skip
"""Names of a line, in their order."""

PlaceOf = Callable[[str, Path | None], str]
"""Gives the path of a picture from its digest and the path that a journal knows. Raises `LookupError`."""


def line_of(purchase: Purchase, outcome: Outcome | None, *, cost: float | None) -> dict[str, Any]:
    """All that a purchase tells, but `inputs` and `make`.

    Args:
        purchase: The purchase.
        outcome: The end that it comes to, where there is one; the purchase need not know of it yet.
        cost: US dollars, where a price is known.
    """
    result = outcome.result if isinstance(outcome, Succeeded) else purchase.result
    saved = outcome if isinstance(outcome, Succeeded) else purchase
    error = purchase.error if outcome is None else getattr(outcome, "error", None)
    artifacts = result.artifacts if result else ()
    timings = result.timings if result else Timings()
    task_id = (purchase.task.task_id or None) if purchase.task else None
    bought = dict.fromkeys(each.task_id for each in purchase.attempts if each.task_id is not None)
    account = purchase.account or (purchase.task and purchase.task.account) or (error and error.account)
    return {
        "outcome": None if outcome is None else type(outcome).__name__.lower(),
        "state": str(purchase.state if outcome is None else _state_of(purchase, outcome)),
        "place": purchase.position,
        "id": purchase.tag,
        "metadata": dict(purchase.metadata) or None,
        "endpoint": purchase.endpoint or None,
        "images": purchase.images,
        "files": [path.name for path in saved.paths] or [each.rpartition("/")[2] for each in saved.objects],
        "task_id": task_id,
        "other_task_ids": [each for each in bought if each != task_id],
        "account": account,
        "attempts": purchase.attempt,
        "cost": cost,
        "seed": result.seed if result else None,
        "urls": [without_query(artifact.url) for artifact in artifacts],
        "nsfw": [_nsfw(artifact) for artifact in artifacts],
        "times": {
            "submit": _text(timings.submit_time),
            "execute": _text(timings.execute_time),
            "complete": _text(timings.complete_time),
        },
        "error": None if error is None else _error(error),
    }


def cost_of(purchase: Purchase, budget: Budget | None) -> float | None:
    """US dollars for all that was bought, or perhaps was. None: no price is known."""
    if budget is None:
        return None
    images = purchase.bought + purchase.perhaps
    if budget.per_image is not None:
        return float(budget.per_image * images)
    if purchase.request is None:
        return None if images else 0.0
    return float(budget.price_of(purchase.request) * images / max(purchase.images, 1))


def has_own_storage(purchase: Purchase) -> bool:
    """Whether the service has put the results into a bucket of the user's own, where nobody else reads."""
    if purchase.request is not None:
        return purchase.request.has_own_storage
    if purchase.entry is None or '"custom_storage"' not in purchase.entry.request:
        return False
    return own_storage_in(json.loads(purchase.entry.request))


def _state_of(purchase: Purchase, outcome: Outcome) -> State:
    """The state of a purchase once an outcome is recorded."""
    match outcome:
        case Succeeded():
            is_saved = outcome.paths or outcome.objects or has_own_storage(purchase)
            return SAVED if is_saved else SUCCEEDED
        case Uncertain():
            return UNCERTAIN
        case Failed(error=DownloadFailed()):
            return SUCCEEDED
        case Failed(error=error) if outcome.task is None or isinstance(error, TaskFailed | TaskNotFound):
            return FAILED
        case Failed() | Unfinished():
            return FAILED if purchase.state is FAILED else SUBMITTED


def _text(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


def _nsfw(artifact: Artifact) -> dict[str, Any] | None:
    found = artifact.nsfw if isinstance(artifact, GeneratedImage) else None
    return {"checked": found.checked, "confidence": found.confidence} if found else None


def _error(error: NovitaError) -> dict[str, Any]:
    told = error if isinstance(error, FailedEarlier) else None
    return {
        "type": told.kind if told else type(error).__name__,
        "reason": error.reason,
        "status": error.status,
        "message": redacted(told.text if told else error.sentence()),
    }


# --- Made again ---------------------------------------------------------------------------------------------


def made_again(order: Order | JournalEntry, seed: int | None, place_of: PlaceOf) -> dict[str, Any]:
    """The request as a line of a manifest.

    Raises:
        InvalidRequest: a part of the request must not be kept.
        LookupError: nobody knows where a picture is.
    """
    wire = json.loads(order.request)
    own = {"id": order.tag, "metadata": json.loads(order.metadata) if order.metadata else None}
    own = {name: value for name, value in own.items() if value is not None}
    if order.kind == "task":
        body = with_pictures(
            wire,
            lambda digest, path: {"file": place_of(digest, path)},
            data_url=lambda picture: {"data_url": picture["file"]},
        )
        if FORM in body:
            return {"endpoint": order.endpoint, **own, "form": body[FORM]}
        apart = own.keys() | body.keys() & {"id", "metadata", "endpoint", "body", "form"}
        return {"endpoint": order.endpoint, **own, **({"body": body} if apart else body)}
    line = _named(with_pictures(wire, place_of))
    line.get("extra", {}).pop("webhook", None)
    fields = line.get("request", line)
    if seed is not None and (fields is not line or "seed" in line):
        fields["seed"] = seed
    return {"endpoint": order.kind, **own, **line}


def _named(value: Any) -> Any:
    """With pictures as a manifest has them: `image`, and a path."""
    if isinstance(value, list):
        return [_named(item) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    named = cast("Mapping[str, Any]", value)
    return {
        "image" if name == "image_base64" else name: item if item.__class__ in PLAIN else _named(item)
        for name, item in named.items()
    }
