"""Invariants: they must always hold, and are checked against the service's books when a world has ended."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from novita_async import (
    AuthenticationFailed,
    BalanceExhausted,
    BudgetExhausted,
    ConfigurationError,
    DownloadFailed,
    EndpointNotFound,
    JournalError,
    MalformedAnswer,
    NoAnswer,
    NoImages,
    PermissionDenied,
    Succeeded,
    TaskNotFound,
)
from novita_async._files.saver import CUT_FOR
from novita_async._policy.believing import FILES_WITHIN
from novita_async._stream.ahead import AHEAD
from novita_async.testing.ledger import Entry
from novita_async.testing.worlds import seams, troubles
from novita_async.testing.worlds.asking import number_in
from novita_async.testing.worlds.painted import path_in
from novita_async.testing.worlds.plan import UserPlan
from novita_async.testing.worlds.record import Came, Post, Stopped, UserVisit, listed, shown
from novita_async.testing.worlds.roles import WorldView
from novita_async.testing.worlds.service import key_of
from novita_async.testing.worlds.users import UserError

Found = tuple[str, str]
"""About what, and how."""

_SUCCEEDED: Final = "TASK_STATUS_SUCCEED"
_FAILED: Final = "TASK_STATUS_FAILED"
_SOON: Final = 0.5
_READING: Final = 1 / 16
"""Seconds in which the turns are taken that reading an answer needs."""
_LONG_ENOUGH: Final = 60
"""Seconds for which a URL lives that can be fetched whatever wires do."""
_PROBED_EVERY: Final = 24.0
"""Seconds: an outage may be probed by purchases so often, and by questions between."""
_TURNS: Final = 8
"""Turns of a loop in which a cancellation reaches every task."""
_DISK: Final = ("disk full", "fsync fails", "folder read-only")
_ENDS_OF_WORDS: Final = 300


# --- Reading ----------------------------------------------------------------------------------------------


def read_journals(world: WorldView) -> None:
    """Take note of what the journals say."""
    for path in sorted(world.disk.home.glob("*.db")):
        if path.stat().st_size:
            world.record.rows[path.name] = seams.rows_of(path.resolve())


def check(world: WorldView) -> None:
    """Note everything that does not hold."""
    for name, find in INVARIANTS.items():
        for about, how in find(world):
            world.record.violate(name, about, how)


def _plan_of(world: WorldView, name: str) -> UserPlan:
    return next(u for process in world.plan.processes for u in process.users if u.name == name)


def _user_of(number: int) -> str:
    return f"u{number // 1000}"


def _rows(world: WorldView) -> Iterable[dict[str, Any]]:
    for rows in world.record.rows.values():
        yield from rows


def _number_in(row: dict[str, Any]) -> int:
    return int(row["tag"]) if row["tag"] is not None else number_in(row["request"].encode())


def _has(world: WorldView, *kinds: str) -> bool:
    return any(world.plan.trouble(kind) is not None for kind in kinds)


def _crashed(world: WorldView) -> bool:
    return bool(world.record.crashed)


# --- Money ------------------------------------------------------------------------------------------------


def bought_once(world: WorldView) -> Iterable[Found]:
    """No request is bought twice unless that was asked for."""
    for number, entries in world.service.accepted().items():
        if len(entries) > 1 and not _may_be_bought_again(world, number, entries):
            yield str(number), f"bought {len(entries)} times, at {listed(f'{e.at:.3f}' for e in entries)}"


def _may_be_bought_again(world: WorldView, number: int, entries: list[Entry]) -> bool:
    users = [u for process in world.plan.processes for u in process.users if u.name == _user_of(number)]
    before = entries[:-1]
    again = any(u.retries_failed for u in users)
    if again and all(_is_failed(world, e.task_id or "") for e in before):
        return True
    if not (world.plan.client.resubmits or any(u.resubmits for u in users)):
        return False
    if _crashed(world) or _has(world, *_DISK):  # what was known may be lost
        return True
    known = [post.told for post in world.record.posts if post.number == number and post.reach == "accepted"]
    # What was known is bought no second time, but where it failed and that was asked for.
    return all(again and _is_failed(world, task_id) for task_id in known[:-1])


def nothing_lost(world: WorldView) -> Iterable[Found]:
    """Whatever was bought is an outcome, unfinished, uncertain or in the journal."""
    unaccounted: Counter[str] = Counter()
    for number, entries in world.service.accepted().items():
        for entry in entries:
            posts = [p for p in world.record.posts if p.number == number and p.handed_at is not None]
            near = min(posts, key=lambda post: abs((post.handed_at or 0.0) - entry.at), default=None)
            process = near.process if near else ""
            if _is_known(world, entry.task_id or "") or _is_doubted(world, number):
                continue
            if process in world.record.crashed and _plan_of(world, _user_of(number)).kind != "batch":
                continue
            if len(entries) > 1 and _asked(world, number):
                continue  # that something may be paid for nothing was asked for
            unaccounted[process] += 1
            if unaccounted[process] > world.record.doubts[process]:
                yield str(number), f"bought by {process} at {entry.at:.3f}, and nobody knows"


def _is_known(world: WorldView, task_id: str) -> bool:
    """Whether a task's id is anywhere that the user can look."""
    if any(task_id in kept for kept in world.record.kept.values()):
        return True
    if any(task_id in (came.task_id, *came.makers) for came in world.record.came):
        return True
    number = world.service.number_of(task_id)
    if number in world.record.unreported or any(
        came.number == number
        and came.task_id is None
        and (came.kind == "Succeeded" or isinstance(came.error, DownloadFailed))
        for came in world.record.came
    ):
        return True  # somebody was told that a request without a task is paid, and that its files are lost
    return any(_has_kept(world, row, task_id) for row in _rows(world))


def _has_kept(world: WorldView, row: dict[str, Any], task_id: str) -> bool:
    """Whether a row knows of a purchase: by its task, or because its results came without one."""
    if task_id in f"{row['task_id']} {row.get('earlier')}":
        return True
    came_at_once = row["task_id"] is None and row["state"] in ("succeeded", "saved")
    return came_at_once and _number_in(row) == world.service.number_of(task_id)


def _is_kept(world: WorldView, post: Post) -> bool:
    """Whether a journal has what a POST was told."""
    return any(_has_kept(world, row, post.told) for row in _rows(world))


def _is_doubted(world: WorldView, number: int) -> bool:
    """Whether the user can see that a request was perhaps bought."""
    if any(came.number == number and came.kind == "Uncertain" for came in world.record.came):
        return True
    return any(
        _number_in(row) == number and (row["state"] in ("uncertain", "announced") or row["perhaps"])
        for row in _rows(world)
    )


def ids_kept(world: WorldView) -> Iterable[Found]:
    """A task id that the client was told is not forgotten."""
    for post in world.record.posts:
        if post.reach != "accepted" or post.process in world.record.crashed:
            continue
        if _broke_off(world, post):
            continue
        if not _is_known(world, post.told):
            yield str(post.number), f"{post.process} was told {post.told[:8]} and has forgotten it"
        elif (
            _plan_of(world, post.user).kind == "batch"
            and not _has(world, *_DISK)
            and not _is_kept(world, post)
        ):
            yield (
                str(post.number),
                f"{post.process} was told {post.told[:8]}, and its journal does not have it",
            )


def _broke_off(world: WorldView, post: Post) -> bool:
    """Whether a client that drains nothing was left while the answer was coming."""
    due_at = post.due_at
    return (
        world.plan.client.drain <= 0
        and due_at is not None
        and any((post.handed_at or 0.0) <= stop.at <= due_at + _READING for stop in _stops_of(world, post))
    )


def window_kept(world: WorldView) -> Iterable[Found]:
    """The service never sees more than N images a minute."""
    limit = world.plan.client.images_per_minute
    if limit is None or (_crashed(world) and _without_journal(world)) or _has(world, "wall clock jumps"):
        return
    if len(world.plan.processes) > 1 and (_without_journal(world) or len(_journals(world)) > 1):
        return
    ledger = world.service.ledger
    for account in range(world.plan.client.accounts):
        for endpoint in dict.fromkeys(entry.endpoint for entry in ledger.accepted):
            most = ledger.most_images_in(59.99, account=key_of(account), endpoint=endpoint)
            if most > limit:
                yield f"a{account}", f"{most} images within a minute, of {limit}"
        over = [
            entry
            for entry in ledger.refused
            if entry.account == key_of(account) and entry.reason == "RATE_LIMIT_EXCEEDED"
        ]
        if over and world.plan.service.quota == limit:
            yield f"a{account}", f"the service refused a submission at {over[0].at:.3f} s"


def _without_journal(world: WorldView) -> bool:
    return any(user.kind != "batch" for process in world.plan.processes for user in process.users)


def budget_kept(world: WorldView) -> Iterable[Found]:
    """Purchases never cost more than the budget."""
    limit = world.plan.client.budget
    if limit is None or (len(world.plan.processes) > 1 and _without_journal(world)):
        return
    if len(_journals(world)) > 1 and len(world.plan.processes) > 1:
        return
    bought = world.service.ledger.images
    if bought > limit and not world.plan.client.resubmits:
        yield "budget", f"{bought} images of {limit}"


def _journals(world: WorldView) -> set[str]:
    return {u.name for process in world.plan.processes for u in process.users if u.kind == "batch"}


def budget_used(world: WorldView) -> Iterable[Found]:
    """Money that was only reserved is not called spent."""
    limit = world.plan.client.budget
    if limit is None:
        return
    refused = [came for came in world.record.came if isinstance(came.error, BudgetExhausted)]
    refused += [
        Came(user=v.user, process=v.process, number=None, kind="", task_id=None, error=v.error)
        for v in world.record.visits
        if isinstance(v.error, BudgetExhausted)
    ]
    doubted = sum(post.reach in ("unknown", "on its way") for post in world.record.posts)
    most = max((user.images for process in world.plan.processes for user in process.users), default=1)
    spent = world.service.ledger.images + doubted * most
    for came in refused[:1]:
        if spent + _plan_of(world, came.user).images <= limit and len(world.plan.processes) == 1:
            yield came.user, f"refused, although {spent} of {limit} are spent at the end"


# --- Truth ------------------------------------------------------------------------------------------------


def true_failures(world: WorldView) -> Iterable[Found]:
    """A paid task is called failed only where the service says so."""
    for came in world.record.came:
        if came.kind != "Failed" or came.task_id is None or isinstance(came.error, DownloadFailed):
            continue
        if isinstance(came.error, JournalError) and _has(world, *_DISK):
            continue
        if came.task_id not in world.service.simulator.tasks:
            continue
        if isinstance(came.error, ConfigurationError) and _has_two_loops(world):
            continue  # not asked: the client is at work in another loop
        if isinstance(came.error, NoImages) and _is_empty_for_long(world, came.task_id):
            continue
        if _plan_of(world, came.user).kind == "poll" and (
            isinstance(came.error, TaskNotFound | NoAnswer | MalformedAnswer)
            or world.service.strange_failures[came.task_id]
        ):
            continue  # one look, as it was
        if not _is_failed(world, came.task_id):
            status = world.service.status_of(came.task_id)
            yield str(came.number), f"its task is {status}, the client says {type(came.error).__name__}"


def _is_failed(world: WorldView, task_id: str) -> bool:
    """Whether a task has failed, or two polls were told so and none between otherwise: that is believed."""
    return world.service.status_of(task_id) == _FAILED or task_id in world.service.failed_by_others


def _is_empty_for_long(world: WorldView, task_id: str) -> bool:
    """Whether the service has listed no pictures of a finished task for as long as anybody waits for them."""
    times = world.service.emptied.get(task_id, [0.0])
    return times[-1] - times[0] > FILES_WITHIN - _SOON


def ends_seen(world: WorldView) -> Iterable[Found]:
    """A task is seen to end where its polls are answered: no timeout ends by itself."""
    kinds = {trouble.kind for trouble in world.plan.troubles}
    if kinds & {*troubles.POLLS, *troubles.OUTAGES, *troubles.CLOCKS, *troubles.WIRES, *troubles.WEBHOOKS}:
        return
    for came in world.record.came:
        user = _plan_of(world, came.user)
        if came.kind == "Unfinished" and user.timeout is None and user.kind != "poll":
            yield str(came.number), f"was given up: {str(came.error)[:_ENDS_OF_WORDS]}"


def true_successes(world: WorldView) -> Iterable[Found]:
    """A success has the pictures of its own task."""
    for came in world.record.came:
        if not isinstance(came.outcome, Succeeded):
            continue
        number, task_id, result = came.number, came.task_id or "", came.outcome.result
        if result.task is None and all(each.lost for each in result.artifacts):
            continue
        owner = world.service.number_of(task_id)
        if number is not None and owner != number:
            yield str(number), f"has the task of {owner if owner >= 0 else 'nobody'}"
            continue
        if any(maker not in ("", task_id) for maker in came.makers):
            yield str(number), "has the pictures of another task"
        elif not came.makers and owner >= 0:
            yield str(number), "succeeded without pictures"
        elif result.task is not None and owner >= 0 and world.service.status_of(task_id) != _SUCCEEDED:
            yield str(number), "called a success, and is none"


def own_tasks(world: WorldView) -> Iterable[Found]:
    """An answer is believed only by the request that it belongs to."""
    for came in world.record.came:
        if came.number is None or came.task_id is None:
            continue
        owner = world.service.number_of(came.task_id)
        if owner != came.number:
            yield str(came.number), f"was given the task of {owner if owner >= 0 else 'nobody'}"


def true_doubts(world: WorldView) -> Iterable[Found]:
    """A request is uncertain only where nobody can know."""
    for came in world.record.came:
        if came.kind != "Uncertain" or came.number is None or _crashed(world) or _has(world, *_DISK):
            continue
        posts = [post for post in world.record.posts if post.number == came.number]
        if any(_is_too_late(world, post, within=_READING) or _broke_off(world, post) for post in posts):
            continue
        if all(post.reach in ("not sent", "refused", "accepted") for post in posts):
            yield str(came.number), f"is called uncertain, its POSTs were {listed(p.reach for p in posts)}"


def doubts_told(world: WorldView) -> Iterable[Found]:
    """A request that was perhaps bought ends in doubt: a refusal that comes later does not undo that."""
    for came in world.record.came:
        if came.kind != "Failed" or came.task_id is not None or came.number is None:
            continue
        if isinstance(came.error, JournalError | DownloadFailed | NoImages | EndpointNotFound):
            continue  # two of them say that it is paid; the last may be told by a page
        mine = came.number, came.process
        posts = [post for post in world.record.posts if (post.number, post.process) == mine]
        # No page and no status says that the service has not sold what such a POST asked for.
        unknown = [post for post in posts if post.reach == "unknown" and post.handed_at is not None]
        if any(not post.page and (post.status is None or post.status < 300) for post in unknown):
            words = listed(post.reach for post in posts)
            yield str(came.number), f"failed by {type(came.error).__name__}, its POSTs were {words}"


def few_doubts(world: WorldView) -> Iterable[Found]:
    """An outage leaves a few purchases uncertain, not all that come after."""
    outages = [t for t in world.plan.troubles if t.kind.startswith("outage")]
    if not outages or any(t.rate for t in world.plan.troubles):
        return
    length = sum(outage.length for outage in outages)
    probes = max(1, int(length)).bit_length() + length / _PROBED_EVERY
    for visit in world.record.visits:
        doubted = [c for c in world.record.came if c.user == visit.user and c.process == visit.process]
        count = sum(c.kind == "Uncertain" for c in doubted)
        if count > (2 * visit.in_flight + probes) * world.plan.client.accounts + 2:
            yield visit.user, f"{count} of {len(visit.asked)} are uncertain after an outage"


# --- Outcomes ---------------------------------------------------------------------------------------------


def one_outcome(world: WorldView) -> Iterable[Found]:
    """Each request has exactly one outcome."""
    for visit in world.record.visits:
        came = [c for c in world.record.came if c.user == visit.user and c.process == visit.process]
        times = Counter(c.number for c in came if c.number is not None and c.kind != "Submitted")
        for number, count in times.items():
            if count > 1:
                yield str(number), f"has {count} outcomes"
        if visit.over and visit.error is None:
            missing = [number for number in visit.asked if not times[number]]
            if missing:
                yield str(missing[0]), f"{len(missing)} of {len(visit.asked)} have no outcome"


def watched_come_out(world: WorldView) -> Iterable[Found]:
    """A task that was handed to a stream or a watch comes out, or is unfinished where that was left."""
    for visit in world.record.visits:
        if visit.process in world.record.crashed or visit.handle is None:
            continue
        came = Counter(
            c.task_id
            for c in world.record.came
            if c.user == visit.user and c.process == visit.process and c.kind != "Submitted"
        )
        missing = [task_id for task_id in visit.watched if not came[task_id]]
        if missing and visit.over:
            yield visit.user, f"{len(missing)} of {len(visit.watched)} watched tasks have no outcome"
        forgotten = [task_id for task_id in missing if task_id not in visit.unfinished]
        if forgotten and not visit.over:
            yield visit.user, f"{len(forgotten)} watched tasks were left, and are not unfinished"
        doubled = [task_id for task_id in visit.watched if came[task_id] > 1]
        if doubled:
            yield visit.user, f"{len(doubled)} watched tasks have several outcomes"


def bound_kept(world: WorldView) -> Iterable[Found]:
    """No more than `in_flight` requests are between input and consumer.

    A batch that goes on may look ahead for lines that an earlier run has finished.
    """
    begun = set[str]()
    for visit in world.record.visits:
        most = visit.in_flight + (AHEAD if visit.user in begun else 0)
        begun.add(visit.user)
        if visit.in_flight and visit.most_open > most:
            yield visit.user, f"{visit.most_open} requests under way, of {most}"


def paid_comes_out(world: WorldView) -> Iterable[Found]:
    """A stream that ends early has handed out whatever was paid before it says why."""
    for visit in world.record.visits:
        error = visit.error
        if error is None or isinstance(error, ConfigurationError) or visit.kind == "watch":
            continue
        if isinstance(error, UserError) and "consumer" in str(error):
            continue
        if isinstance(error, JournalError) and (_has(world, *_DISK) or not visit.asked):
            continue
        came = {
            c.number
            for c in world.record.came
            if c.user == visit.user and (c.process == visit.process or c.kind in ("Succeeded", "Failed"))
        }
        paid = [n for n in _paid_before_the_end(world, visit) if n not in came]
        if paid:
            yield visit.user, f"raised {type(error).__name__}, and {len(paid)} paid requests did not come out"


def _paid_before_the_end(world: WorldView, visit: UserVisit) -> list[int]:
    accepted = world.service.accepted()
    wanted = set(visit.asked)
    if visit.kind == "batch":
        first = int(visit.user[1:]) * 1000
        wanted |= set(range(first, first + _plan_of(world, visit.user).requests))
    end = visit.ended_at or 0.0
    told = [p for p in world.record.posts if p.reach == "accepted" and (p.handed_at or 0.0) < end]
    # What the journal has of an earlier process: an answer that came while that was ended may be in doubt.
    known = {
        p.number
        for p in told
        if (p.process == visit.process and p.process not in world.record.crashed) or _is_kept(world, p)
    }
    over = {
        number
        for number in wanted
        if _had_ended(world, number, visit.began_at) or _was_reopened(world, number)
    }
    return [number for number in wanted - over if number in accepted and number in known]


def _had_ended(world: WorldView, number: int, before: float) -> bool:
    """Whether a journal knew the end of a request before its user began."""
    jump = world.plan.trouble("wall clock jumps")
    until = world.epoch + before + (0.0 if jump is None else jump.length)
    times = [row["finished_time"] for row in _rows(world) if _number_in(row) == number]
    return any(time is not None and time < until for time in times)


def _was_reopened(world: WorldView, number: int) -> bool:
    """Whether a request whose task failed waits to be bought again, as was asked for."""
    is_planned = any(row["state"] == "planned" for row in _rows(world) if _number_in(row) == number)
    entries = world.service.accepted().get(number, [])
    failed = (_is_failed(world, each.task_id or "") for each in entries)
    return is_planned and _asked(world, number) and all(failed)


def ends_for_a_reason(world: WorldView) -> Iterable[Found]:
    """A stream ends early only when nothing can be sent any more."""
    for visit in world.record.visits:
        error = visit.error
        if error is not None and not _is_reason(world, error):
            yield visit.user, f"{visit.kind} ended by {type(error).__name__}: {str(error)[:_ENDS_OF_WORDS]}"


def _is_reason(world: WorldView, error: BaseException) -> bool:
    service, client = world.plan.service, world.plan.client
    has_pages = any("page" in trouble.kind for trouble in world.plan.troubles)
    reasons: tuple[tuple[type[BaseException], bool], ...] = (
        (UserError, True),
        (JournalError, _has(world, *_DISK) and type(error) is JournalError),
        (BudgetExhausted, client.budget is not None),
        (BalanceExhausted, service.balance is not None),
        (EndpointNotFound, service.retired_at is not None or has_pages),
        (DownloadFailed, _has(world, *_DISK)),
        (ConfigurationError, _has(world, *_DISK) or _has_two_loops(world)),
        (AuthenticationFailed, False),
        (PermissionDenied, False),
    )
    return next((holds for kind, holds in reasons if isinstance(error, kind)), True)


def _has_two_loops(world: WorldView) -> bool:
    return any(process.together in ("loops", "threads") for process in world.plan.processes)


def pages_not_believed(world: WorldView) -> Iterable[Found]:
    """Only the service's own word counts: a gateway's page refuses nothing."""
    for came in world.record.came:
        if came.kind != "Failed" or came.task_id is not None or came.number is None:
            continue
        if not isinstance(came.error, PermissionDenied | AuthenticationFailed):
            continue  # a route that is retired may be told by a page
        posts = [post for post in world.record.posts if post.number == came.number]
        if world.plan.service.retired_at is None and (not posts or posts[-1].page):
            yield str(came.number), f"a page was taken for {type(came.error).__name__}"


def pictures_saved(world: WorldView) -> Iterable[Found]:
    """A picture that can be had is saved in the end."""
    if any(t.kind.startswith(("file", "outage")) for t in world.plan.troubles) or _has(world, *_DISK):
        return
    for came in world.record.came:
        named_well = _plan_of(world, came.user).names != "raises"
        if not isinstance(came.error, DownloadFailed) or not named_well:
            continue
        if came.task_id is not None or not _is_url_gone(world, came):
            yield str(came.number), f"not saved: {str(came.error)[:_ENDS_OF_WORDS]}"


def _is_url_gone(world: WorldView, came: Came) -> bool:
    """Whether a URL that came without a task has died while nobody could fetch its file: a laptop slept,
    the purchase was cancelled for longer than it is waited for, or the URL lived for seconds only.
    """
    url = came.error.url if isinstance(came.error, DownloadFailed) else ""
    cancelled = any(stop.process != came.process for stop in world.record.stops)
    short_lived = world.plan.service.url_ttl < _LONG_ENOUGH
    return bool(url) and (cancelled or short_lived or _has(world, "laptop sleeps"))


# --- Cancellation -----------------------------------------------------------------------------------------


def nothing_sent_late(world: WorldView) -> Iterable[Found]:
    """Nothing is sent after a cancellation was due."""
    loops = max((len(each.users) for each in world.plan.processes if each.together == "threads"), default=1)
    for post in world.record.posts:
        for stop in _stops_of(world, post):
            if post.handed_at is not None and post.began_in > stop.turn + _TURNS * loops:
                yield str(post.number), f"sent at {post.handed_at:.3f}, cancelled at {stop.at:.3f}"
                break


def _stops_of(world: WorldView, post: Post) -> list[Stopped]:
    return [
        stop for stop in world.record.stops if stop.process == post.process and stop.user in ("", post.user)
    ]


def drained(world: WorldView) -> Iterable[Found]:
    """A purchase that was handed over is waited for, as long as was promised."""
    drain = world.plan.client.drain
    if drain <= 0:
        return
    for post in world.record.posts:
        if post.cut_at is None or post.due_at is None or post.process in world.record.crashed:
            continue
        if post.cut_at + _SOON < post.due_at or _is_too_late(world, post):
            continue
        bought = world.service.accepted().get(post.number, [])
        if any(_is_known(world, entry.task_id or "") for entry in bought):
            continue  # the answer was read, and only what came behind was cut off
        if not any(stop.at + drain <= post.cut_at + 1e-6 for stop in _stops_of(world, post)):
            yield str(post.number), f"given up at {post.cut_at:.3f}, its answer came before {post.due_at:.3f}"


def _is_too_late(world: WorldView, post: Post, within: float = _SOON) -> bool:
    """Whether the answer comes after the time for which its user waits."""
    user = _plan_of(world, post.user) if post.user else None
    timeout = None if user is None or user.kind != "run" else user.timeout
    waited = (post.due_at or post.answered_at or 0.0) - (post.handed_at or 0.0)
    return timeout is not None and waited >= timeout - within


def terminates(world: WorldView) -> Iterable[Found]:
    """SIGTERM ends a process, with status 143."""
    for process in world.processes:
        if process.terminated_at is not None and not process.dead and process.status != 128 + 15:
            yield process.name, f"ended with status {process.status or 0}"


# --- Files ------------------------------------------------------------------------------------------------


def files_whole(world: WorldView) -> Iterable[Found]:
    """A saved file is there, whole, and the right one."""
    for came in world.record.came:
        if not isinstance(came.outcome, Succeeded) or came.process in world.record.crashed:
            continue
        user = _plan_of(world, came.user)
        if not user.save or (user.kind != "batch" and _has_power_cut(world)):  # only a journal promises that
            continue
        yield from _wrong_files(world, came, came.outcome)


def _wrong_files(world: WorldView, came: Came, outcome: Succeeded) -> Iterable[Found]:
    if not outcome.paths and not outcome.result.artifacts:
        return
    if len(outcome.paths) != len(outcome.result.artifacts):
        yield str(came.number), f"{len(outcome.paths)} files of {len(outcome.result.artifacts)}"
        return
    later = world.record.crashed and any(process.ending == "power" for process in world.plan.processes)
    for path, artifact in zip(outcome.paths, outcome.result.artifacts, strict=True):
        if not path.exists():
            if not later:
                yield str(came.number), f"{path.name} is missing"
        elif (
            came.task_id is not None
            and f"/{came.task_id}/" not in path_in(path.read_bytes())
            and not _was_replaced_for_long(world, came, artifact.url)
        ):
            yield str(came.number), f"{path.name} is not what was made for it"


def _was_replaced_for_long(world: WorldView, came: Came, url: str) -> bool:
    """Whether another file was given so long that it is kept: it may be all that there is."""
    is_kept = _plan_of(world, came.user).kind == "batch"  # and perhaps saved by an earlier process
    visits = [
        v for v in world.record.visits if v.user == came.user and (is_kept or v.process == came.process)
    ]
    began_at = min(visit.began_at for visit in visits)
    times = [at for at in world.service.replaced.get(unquote(urlsplit(url).path), ()) if at >= began_at]
    return bool(times) and times[-1] - times[0] > CUT_FOR - _SOON


def rows_true(world: WorldView) -> Iterable[Found]:
    """Files that a journal calls saved are on the disk, and purchases that it calls bought were bought."""
    tasks = world.service.simulator.tasks
    for row in _rows(world):
        number = _number_in(row)
        if not row["whole"]:
            yield str(number), "its row in the journal is not as it was written"
        if row["task_id"] is not None and row["task_id"] not in tasks:
            yield str(number), f"the journal has the task {row['task_id']}, which nobody made"
        elif row["task_id"] is not None and tasks[row["task_id"]].order.seed != number:
            yield str(number), "the journal has the task of another request"
        elif (
            row["state"] == "failed"
            and row["task_id"] is not None
            and not _is_failed(world, row["task_id"])
            and "Download" not in (row["error"] or "")
        ):
            status = world.service.status_of(row["task_id"])
            yield str(number), f"the journal calls it failed, its task is {status}"
        if (
            row["state"] == "planned"
            and len(world.service.accepted().get(number, ()))
            and not _asked(world, number)
        ):
            yield str(number), "the journal calls it planned, and it was bought"
        if row["state"] == "announced" and _was_seen_through(world, number):
            yield str(number), "the journal calls it announced, and nobody is at work on it"
        for name in json.loads(row["paths"] or "[]"):
            if not Path(name).exists() and not _has_power_cut(world):
                yield str(number), f"the journal calls {Path(name).name} saved, and it is missing"


def _was_seen_through(world: WorldView, number: int) -> bool:
    """Whether the last process that used a request's journal has ended in order."""
    last = next((v for v in reversed(world.record.visits) if v.user == _user_of(number)), None)
    return last is not None and last.process not in world.record.crashed and not _has(world, *_DISK)


def _asked(world: WorldView, number: int) -> bool:
    """Whether any run was to buy a request again."""
    users = [u for process in world.plan.processes for u in process.users if u.name == _user_of(number)]
    return world.plan.client.resubmits or any(u.resubmits or u.retries_failed for u in users)


def _has_power_cut(world: WorldView) -> bool:
    return any(process.ending == "power" for process in world.plan.processes)


def tidy_folders(world: WorldView) -> Iterable[Found]:
    """Nothing unfinished is left in a folder of files."""
    if _crashed(world) or _has(world, *_DISK):
        return
    kept = {name for row in _rows(world) for name in _files_of(row)} | world.record.kept_files
    for path in sorted(world.disk.home.glob("out-*/.*.part")):
        if path not in kept and not any(path.name in text for text in world.record.texts):
            yield path.parent.name, f"{path.name} was left"


def _files_of(row: dict[str, Any]) -> Iterable[Path]:
    """Files that came in an answer and wait for their names."""
    if row["task_id"] is None and row["result"]:
        yield from (Path(each["file"]) for each in json.loads(row["result"])["files"] if "file" in each)


# --- Secrets ----------------------------------------------------------------------------------------------


def secrets_kept(world: WorldView) -> Iterable[Found]:
    """No key is in anything that left the client."""
    keys = [key_of(account) for account in range(world.plan.client.accounts)]
    for text in world.record.texts:
        if any(key in text for key in keys):
            yield "text", shown(text.replace(keys[0], "<KEY>"))
        if "X-Amz-Signature" in text:
            yield "text", f"a presigned query: {shown(text)}"
    for path in sorted(world.disk.home.glob("**/*")):
        if path.is_file() and any(key.encode() in path.read_bytes() for key in keys):
            yield path.name, "a key is in a file"


def nothing_runs_on(world: WorldView) -> Iterable[Found]:
    """A client that was left leaves nothing running."""
    yield from world.record.left_running


INVARIANTS: Final[dict[str, Callable[[WorldView], Iterable[Found]]]] = {
    "bought once": bought_once,
    "nothing lost": nothing_lost,
    "ids kept": ids_kept,
    "window kept": window_kept,
    "budget kept": budget_kept,
    "budget used": budget_used,
    "true failures": true_failures,
    "ends seen": ends_seen,
    "true successes": true_successes,
    "own tasks": own_tasks,
    "true doubts": true_doubts,
    "doubts told": doubts_told,
    "few doubts": few_doubts,
    "one outcome": one_outcome,
    "watched come out": watched_come_out,
    "bound kept": bound_kept,
    "paid comes out": paid_comes_out,
    "ends for a reason": ends_for_a_reason,
    "pages not believed": pages_not_believed,
    "pictures saved": pictures_saved,
    "nothing sent late": nothing_sent_late,
    "drained": drained,
    "terminates": terminates,
    "files whole": files_whole,
    "rows true": rows_true,
    "tidy folders": tidy_folders,
    "secrets kept": secrets_kept,
    "nothing runs on": nothing_runs_on,
}
"""By name. Besides there are, seen on the way: `ends` (nothing hangs) and `no stray errors`."""
