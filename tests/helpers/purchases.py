"""Facts to happen to purchases, and all that can be told of a purchase, to be compared."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from novita_async import (
    Artifact,
    FailedEarlier,
    GeneratedImage,
    NsfwDetection,
    ServerError,
    SubmissionUncertain,
    Task,
    TaskResult,
    Timings,
)
from novita_async._purchase.machine import (
    Announced,
    Attempt,
    Bought,
    Completed,
    Fact,
    FailedForGood,
    Lost,
    NotBought,
    NotSaved,
    Purchase,
    Reopened,
    Rewatched,
    Saved,
    State,
    advance,
    helps_to_buy_again,
)

ENDPOINT = "/v3/async/img2img"
WINDOW = 60.01
TIME = datetime(2026, 11, 22, tzinfo=UTC)


def refusal(text: str = "no") -> ServerError:
    return ServerError(status=500, reason="ODD", message=text)


def doubt(cause: str = "reset") -> SubmissionUncertain:
    return SubmissionUncertain(cause=cause, endpoint=ENDPOINT)


def task(name: str = "t") -> Task:
    return Task(task_id=name, account="a", endpoint=ENDPOINT, image_num=2)


def result(name: str = "t", **changes: Any) -> TaskResult:
    """A result with all that a journal can keep. Without a task's name: pictures that came at once."""
    made_by = task(name) if name else None
    told = {
        "images": (
            GeneratedImage(
                url="https://host.example/a.png",
                type="png",
                url_ttl=3600,
                nsfw=NsfwDetection(checked=True, confidence=3.5),
                task=made_by,
            ),
            GeneratedImage(url="https://host.example/b.png", type="png", task=made_by),
        ),
        "videos": (Artifact(url="https://host.example/c.mp4", type="mp4", task=made_by),),
        "seed": 1 << 70,
        "task_type": "IMG_TO_IMG",
        "timings": Timings.of(submit_time=TIME, complete_time=TIME),
    }
    return TaskResult(task=made_by, **(told | changes))


def fact(kind: type, at: float = 1.0, **told: Any) -> Any:
    """A fact of a kind, in which what goes without saying is said."""
    usual: dict[type, dict[str, Any]] = {
        Announced: {"account": "a"},
        Bought: {"task": task()},
        NotBought: {"error": refusal()},
        Lost: {"error": doubt()},
        FailedForGood: {"error": refusal("failed")},
        Completed: {"result": result()},
        Saved: {"paths": (Path("out/ä.png"), Path("out/c.mp4"))},
        NotSaved: {"error": refusal("gone")},
        Reopened: {},
        Rewatched: {},
    }
    return kind(at, **(usual[kind] | told))


KINDS = (
    Announced,
    Bought,
    NotBought,
    Lost,
    Reopened,
    Rewatched,
    FailedForGood,
    Completed,
    Saved,
    NotSaved,
)
"""Every kind of fact."""
WAY = {
    State.ANNOUNCED: Announced,
    State.SUBMITTED: Bought,
    State.SUCCEEDED: Completed,
    State.SAVED: Saved,
}
"""The usual way, and the facts that lead along."""
WAYS: dict[State, tuple[type, ...]] = {
    State.PLANNED: (),
    State.ANNOUNCED: (Announced,),
    State.SUBMITTED: (Announced, Bought),
    State.SUCCEEDED: (Announced, Bought, Completed),
    State.FAILED: (Announced, Bought, FailedForGood),
    State.UNCERTAIN: (Announced, Lost),
    State.SAVED: (Announced, Bought, Completed, Saved),
}
"""A way to each state."""


def way_to(state: State) -> list[Any]:
    """Facts that bring a planned purchase there, one a second from 10 on."""
    return [fact(kind, 10.0 + second) for second, kind in enumerate(WAYS[state])]


def purchase(*facts: Fact, **fields: Any) -> Purchase:
    """A purchase of two images to which these facts have happened."""
    made = Purchase(None, **({"endpoint": ENDPOINT, "images": 2} | fields))
    for each in facts:
        advance(made, each)
    return made


def purchase_in(state: State, **fields: Any) -> Purchase:
    """A purchase of two images in a state."""
    return purchase(*way_to(state), **fields)


# --- Comparing ----------------------------------------------------------------------------------------------


def told(purchase: Purchase, now: float = 0.0) -> dict[str, Any]:
    """All that a store keeps of a purchase, less attempts that do not count any more."""
    return {
        "entry": purchase.entry,
        "endpoint": purchase.endpoint,
        "images": purchase.images,
        "position": purchase.position,
        "tag": purchase.tag,
        "token": purchase.token,
        "state": purchase.state,
        "account": purchase.account,
        "task": purchase.task and purchase.task.task_id,
        "attempt": purchase.attempt,
        "attempts": attempts_in(purchase.attempts, now),
        "in doubt": purchase.in_doubt,
        "error": purchase.error and told_of_error(purchase.error),
        "result": purchase.result and told_of_result(purchase.result),
        "paths": purchase.paths,
        "finished": purchase.finished_at,
        "saved": purchase.saved_at,
        "bought": purchase.bought,
        "perhaps": purchase.perhaps,
    }


def attempts_in(attempts: Iterable[Attempt], now: float = 0.0) -> list[tuple[Any, ...]]:
    """Attempts that count at a time, by the time of their announcement."""
    return sorted(
        (
            each.announced_at,
            each.number,
            each.account,
            each.answered_at,
            each.task_id,
            each.perhaps,
            each.at_once,
        )
        for each in attempts
        if each.bought or each.perhaps or each.answered_at is None or each.answered_at + WINDOW > now
    )


def told_of_error(error: Any) -> tuple[Any, ...]:
    """What a store keeps of an error, whether it was read or has just happened."""
    read = isinstance(error, FailedEarlier)
    kind, text = (error.kind, error.text) if read else (type(error).__name__, str(error))
    return kind, text, error.reason, helps_to_buy_again(error)


def told_of_result(found: TaskResult) -> dict[str, Any]:
    """What a store keeps of a result."""
    return {
        "task": found.task_id,
        "files": [
            (each.url, each.type, each.url_ttl, getattr(each, "nsfw", None)) for each in found.artifacts
        ],
        "seed": found.seed,
        "type": found.task_type,
        "timings": found.timings,
    }
