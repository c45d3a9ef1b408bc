"""A purchase and its record say the same, in every state, read and recorded again, of any release."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from novita_async import (
    Artifact,
    FailedEarlier,
    GeneratedImage,
    NovitaError,
    RateLimited,
    ServerError,
    SubmissionUncertain,
    Task,
    TaskFailed,
    TaskResult,
    Timings,
)
from novita_async._journal import rows
from novita_async._journal.rows import COLUMNS, FRESH, KEPT, Known, entry_of
from novita_async._purchase.machine import (
    Announced,
    Bought,
    Completed,
    FailedForGood,
    JournalEntry,
    Lost,
    NotBought,
    NotSaved,
    Purchase,
    Reopened,
    Saved,
    State,
    advance,
)
from novita_async._purchase.packing import packed, unpacked
from tests.helpers.journal_processes import ROOT
from tests.helpers.journals import asked, do, look, open_store, record
from tests.helpers.purchases import (
    WAYS,
    doubt,
    fact,
    purchase,
    refusal,
    result,
    task,
    told,
    told_of_result,
    way_to,
)

ENTRY = JournalEntry(**attrs.asdict(asked(1, 5, tag="mine")), occurrence=2, serial=9, run=3)
SECRET = "X-Amz-Credential=me&X-Amz-Signature=0123abcd"


def planned() -> Known:
    """A purchase to which nothing has happened, as the file has it."""
    fresh = dict(zip(FRESH, rows.fresh_record(ENTRY), strict=True))
    return rows.known_of(ENTRY.serial, tuple(fresh.get(name) for name in COLUMNS))


def written(known: Known, *facts: Any, now: float = 0.0) -> tuple[Purchase, rows.Record]:
    """Let facts happen to a purchase of the file: the purchase as the process has it, and its new record."""
    for each in facts:
        advance(known.purchase, each)
    return known.purchase, rows.record_of(known.purchase, known, now)


def read(record: rows.Record) -> Known:
    assert rows.checksum(record[: len(KEPT)]) == record[-1]
    return rows.known_of(ENTRY.serial, record)


OTHER_WAYS = {
    "bought again in doubt": (Announced, Lost, Reopened),
    "refused after a doubt": (Announced, Lost, Reopened, Announced, NotBought),
    "back in doubt": (Announced, Lost, Reopened, Announced, NotBought, Lost),
    "twice in doubt": (Announced, Lost, Reopened, Announced, Lost),
    "bought besides a doubt": (Announced, Lost, Reopened, Announced, Bought, Completed),
    "refused for good": (Announced, NotBought, FailedForGood),
    "failed here": (FailedForGood,),
    "bought again after a failure": (Announced, Bought, FailedForGood, Reopened, Announced),
    "files gone": (Announced, Bought, Completed, Saved, NotSaved),
    "bought at once": (Announced, Completed),
    "bought at once and saved": (Announced, Lost, Completed, Saved),
}
FACTS = {
    **{state.value: tuple(way_to(state)) for state in WAYS},
    **{
        name: tuple(
            fact(
                kind, 10.0 + n, **({"result": result("")} if "at once" in name and kind is Completed else {})
            )
            for n, kind in enumerate(way)
        )
        for name, way in OTHER_WAYS.items()
    },
    "an event while another attempt is under way": (
        fact(Announced, 1.0),
        fact(Lost, 2.0),
        fact(Reopened, 3.0),
        fact(Announced, 4.0, account="b", token="second"),
        fact(Bought, 5.0, attempt=1),
    ),
    "bought at once, fresh URLs": (
        fact(Announced, 1.0),
        fact(Completed, 2.0, result=result("")),
        fact(Completed, 3.0, result=result("", seed=8)),
    ),
    "bought at once, and a task beside": (
        fact(Announced, 1.0),
        fact(Completed, 2.0, result=result("")),
        fact(Completed, 3.0),
    ),
    "paid at once, and nothing came": (
        fact(Announced, 1.0),
        fact(Completed, 2.0, result=TaskResult(task=None)),
        fact(FailedForGood, 3.0),
    ),
    "bought twice": (fact(Announced, 1.0), fact(Bought, 2.0), fact(Bought, 3.0, task=task("t2"))),
}


@pytest.mark.parametrize("name", FACTS)
def test_a_purchase_comes_back_as_it_was(name):
    purchase, record = written(planned(), *FACTS[name])
    again = read(record)
    assert told(again.purchase) == told(purchase)
    assert (again.purchase.doubt is None) == (purchase.doubt is None)
    assert dict(zip(COLUMNS, record, strict=True))["bought"] == purchase.bought
    assert dict(zip(COLUMNS, record, strict=True))["perhaps"] == purchase.perhaps


def test_an_error_of_an_earlier_run_says_whether_anything_was_paid_also_without_a_task():
    for name in ("paid at once, and nothing came", "failed", "refused for good"):
        error = read(written(planned(), *FACTS[name])[1]).purchase.error
        assert isinstance(error, FailedEarlier)
        assert error.paid is (name != "refused for good")


@pytest.mark.parametrize("name", FACTS)
def test_a_purchase_that_was_read_is_written_again_as_it_stood(name):
    _, record = written(planned(), *FACTS[name])
    again = read(record)
    assert rows.record_of(again.purchase, again, 0.0) == record
    other = read(record)
    other.error, other.result = refusal(), result("other")  # so that nothing is simply taken over
    assert told(read(rows.record_of(other.purchase, other, 0.0)).purchase) == told(again.purchase)


@pytest.mark.parametrize("name", FACTS)
def test_facts_mean_the_same_to_a_purchase_that_was_read_between_them(name):
    at_once, _ = written(planned(), *FACTS[name])
    known = planned()
    for each in FACTS[name]:
        known = read(written(known, each)[1])
    assert told(known.purchase) == told(at_once)


def test_a_new_purchase_is_written_as_any_other():
    fresh = dict(zip(FRESH, rows.fresh_record(ENTRY), strict=True))
    assert fresh.pop("serial") == ENTRY.serial
    known = planned()
    whole = dict(zip(COLUMNS, rows.record_of(known.purchase, known, 0.0), strict=True))
    assert whole == dict.fromkeys(COLUMNS) | fresh
    assert known.purchase.entry == ENTRY


def test_a_purchase_without_an_entry_is_in_no_journal():
    with pytest.raises(ValueError, match="is in no journal"):
        rows.entry_of(Purchase(None))


@pytest.mark.parametrize("length", [0, 1, 10, 500, 20_000])
def test_requests_of_any_length_are_packed_and_unpacked(length):
    text = "".join(chr(32 + n * 7919 % 5000) for n in range(length))
    assert unpacked(packed(text)) == text


# --- Attempts -------------------------------------------------------------------------------------------


def test_an_attempt_that_cost_nothing_is_forgotten_a_minute_after_its_answer():
    refused = (fact(Announced, 1.0), fact(NotBought, 2.0), fact(Announced, 3.0, account="b"))
    for now, accounts in ((62.0, ["a", "b"]), (62.02, ["b"])):
        _, record = written(planned(), *refused, now=now)
        assert [each.account for each in read(record).purchase.attempts] == accounts
        assert read(record).purchase.attempt == 2


@pytest.mark.parametrize(
    ("facts", "time"),
    [
        ((), None),
        ((fact(Announced, 1.0),), 1.0),
        ((fact(Announced, 1.0), fact(Bought, 2.0)), 2.0),
        ((fact(Announced, 1.0), fact(NotBought, 2.0)), 2.0),
        ((fact(Announced, 1.0), fact(NotBought, 2.0, seen=False)), None),
        ((fact(Announced, 1.0), fact(NotBought, 2.0, error=RateLimited(status=429))), None),
        ((fact(Announced, 1.0), fact(Lost, 2.0), fact(Reopened, 3.0), fact(Announced, 4.0)), 4.0),
    ],
)
def test_a_record_says_when_the_service_may_have_seen_an_attempt_last(facts, time):
    _, record = written(planned(), *facts)
    assert dict(zip(COLUMNS, record, strict=True))["slot_time"] == time


def test_an_attempt_keeps_its_number_while_it_is_under_way():
    known = read(written(planned(), *FACTS["refused after a doubt"], fact(Announced, 20.0))[1])
    assert [each.number for each in known.purchase.attempts] == [1, 2, 3]
    advance(known.purchase, fact(Bought, 21.0, attempt=3))
    assert [each.task_id for each in known.purchase.attempts] == [None, None, "t"]


# --- Errors and results -----------------------------------------------------------------------------------


def test_an_error_that_was_read_says_what_happened_without_secrets():
    error = ServerError(status=500, reason="ODD", message=f"at https://bucket.example/a.png?{SECRET} \udcff")
    known = read(written(planned(), fact(Announced), fact(NotBought, error=error))[1])
    found = known.purchase.error
    assert isinstance(found, FailedEarlier)
    assert (found.kind, found.reason, found.retryable, found.account) == ("ServerError", "ODD", True, "a")
    assert not found.paid
    assert "bucket.example" in found.text
    assert "0123abcd" not in found.text
    found.text.encode()


@pytest.mark.parametrize(
    ("error", "helps"),
    [(TaskFailed(task=Task(task_id="t")), True), (refusal(), True), (RateLimited(status=429), True)],
)
def test_an_error_that_was_read_says_whether_buying_again_helps(error: NovitaError, helps: bool):
    facts = (fact(Announced), fact(Bought), fact(FailedForGood, error=error))
    found = read(written(planned(), *facts)[1]).purchase
    assert found.error
    assert (found.error.retryable, found.error.task_id) == (helps, "t")


def test_a_doubt_that_was_read_has_its_cause():
    known = read(written(planned(), fact(Announced), fact(Lost, error=doubt("a reset \udcff")))[1])
    assert isinstance(known.purchase.doubt, SubmissionUncertain)
    assert (known.purchase.doubt.cause, known.purchase.doubt.images) == ("a reset ?", ENTRY.images)


def test_a_doubt_is_not_told_by_the_error_of_a_later_attempt():
    known = read(written(planned(), *FACTS["refused after a doubt"])[1])
    assert known.purchase.doubt
    assert known.purchase.doubt.cause == "the answer to an earlier attempt was lost"


def completed(found: TaskResult) -> TaskResult:
    known = read(written(planned(), fact(Announced), fact(Bought), fact(Completed, result=found))[1])
    assert known.purchase.result
    return known.purchase.result


def test_a_picture_that_was_lost_after_it_came_is_told_with_its_cause():
    kept = result(images=(GeneratedImage(url="", type="png", lost=f"disk full: /tmp/a?{SECRET}"),))
    (image,) = completed(kept).images
    assert image.lost.startswith("disk full: /tmp/a")
    assert "0123abcd" not in image.lost


def test_a_result_is_kept_without_presigned_queries():
    kept = result(images=(GeneratedImage(url=f"https://bucket.example/a.png?{SECRET}", type="png"),))
    _, record = written(planned(), fact(Announced), fact(Bought), fact(Completed, result=kept))
    assert "0123abcd" not in str(record)
    assert read(record).purchase.result.images[0].url == "https://bucket.example/a.png"


@pytest.mark.parametrize("file_type", ["png", "gif", "mp4", None])
def test_images_videos_and_audios_come_back_as_such_whatever_their_type(file_type):
    kept = result(
        images=(GeneratedImage(url="https://h/a", type=file_type),),
        videos=(Artifact(url="https://h/b", type=file_type),),
        audios=(Artifact(url="https://h/c", type=file_type),),
    )
    again = completed(kept)
    assert told_of_result(again) == told_of_result(kept)
    for found in (again.images, again.videos, again.audios):
        assert len(found) == 1
    assert isinstance(again.images[0], GeneratedImage)


@pytest.mark.parametrize("seed", [None, 0, 7, -(1 << 63), (1 << 63) - 1, 1 << 63, 1 << 70])
def test_any_seed_comes_back(seed):
    assert completed(result(seed=seed)).seed == seed


def test_a_result_that_says_nothing_comes_back():
    assert told_of_result(completed(TaskResult(task=task()))) == told_of_result(TaskResult(task=task()))


def test_pictures_that_came_at_once_have_no_task():
    known = read(written(planned(), *FACTS["bought at once"])[1])
    assert known.purchase.task is None
    assert known.purchase.result.task is None
    assert (known.purchase.bought, known.purchase.attempts[0].at_once) == (ENTRY.images, True)


# --- Between runs -----------------------------------------------------------------------------------------


def test_another_run_moves_the_place_and_the_tag_and_keeps_where_it_was_sent():
    order = asked(1, 7, endpoint="/new", images=4, request='{"a":1}', tag="yours")
    known = planned()
    rows.asked_again(known.purchase, order, 4)
    entry = rows.entry_of(known.purchase)
    assert (entry.run, entry.position, entry.endpoint, entry.images, entry.request, entry.tag) == (
        4, 7, "/new", 4, '{"a":1}', "yours",
    )  # fmt: skip
    assert (known.purchase.endpoint, known.purchase.images) == ("/new", 4)
    sent = planned()
    advance(sent.purchase, fact(Announced))
    rows.asked_again(sent.purchase, order, 4)
    assert (sent.purchase.position, sent.purchase.tag) == (7, "yours")
    assert (sent.purchase.endpoint, sent.purchase.images) == (ENTRY.endpoint, ENTRY.images)
    assert rows.entry_of(sent.purchase).endpoint == ENTRY.endpoint


def test_a_copy_moves_on_its_own_and_its_times_are_shifted():
    kept = purchase(*way_to(State.SAVED), entry=ENTRY)
    copied = rows.copy_of(kept, 100.0)
    attempt = copied.attempts[0]
    assert (attempt.announced_at, attempt.answered_at) == (110.0, 111.0)
    assert (copied.finished_at, copied.saved_at) == (112.0, 113.0)
    advance(copied, fact(NotSaved, 120.0))
    assert kept.state is State.SAVED
    under_way = rows.copy_of(purchase(fact(Announced)), 5.0)
    assert (under_way.attempts[0].answered_at, under_way.finished_at, under_way.saved_at) == (
        None,
        None,
        None,
    )


@pytest.mark.parametrize("name", FACTS)
def test_only_an_attempt_under_way_is_lost_with_its_process(name):
    each, _ = written(planned(), *FACTS[name])
    under_way = any(attempt.answered_at is None for attempt in each.attempts)
    left = rows.left_behind(each, 99.0)
    assert (left is not None) == under_way
    if left is not None:
        perhaps = each.perhaps
        advance(each, left)
        assert each.perhaps == perhaps
        assert each.doubt


# --- Older releases ---------------------------------------------------------------------------------------


def old_journal(folder: Path, version: int) -> Path:
    path = folder / "old.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript((ROOT / f"tests/data/journal_version_{version}.sql").read_text("utf-8"))
    return path


T = 1760000000.25
VERSION_1 = [
    ("planned", 0, [], (0, 0)),
    ("announced", 1, [(T + 1, None, None, False)], (0, 2)),
    ("submitted", 1, [(T + 2, T + 3, "t3", False)], (3, 0)),
    ("succeeded", 1, [(T + 3, T + 4, "t4", False)], (1, 0)),
    ("saved", 1, [(T + 4, T + 5, "t5", False)], (2, 0)),
    ("failed", 1, [(T + 5, T + 6, None, False)], (0, 0)),
    ("failed", 1, [], (0, 0)),
    ("uncertain", 1, [(T + 7, T + 8, None, True)], (0, 2)),
    ("planned", 1, [(T + 8, T + 9, None, True)], (0, 3)),
    ("submitted", 2, [(T + 9, T + 10, None, True), (T + 12, T + 13, "t10", False)], (1, 1)),
    ("planned", 1, [(T + 10, T + 11, "t11", False)], (2, 0)),
    ("uncertain", 2, [(T + 11, T + 12, None, True), (T + 14, T + 15, None, False)], (0, 3)),
    ("failed", 1, [(T + 12, T + 13, "t13", False)], (1, 0)),
    ("succeeded", 1, [(T + 13, T + 14, "t14", False)], (2, 0)),
    ("planned", 1, [(T + 14, T + 15, None, False)], (0, 0)),
]
"""State, latest attempt, attempts (announced, answered, task, perhaps) and money of each request."""


def attempts_of(purchase: Purchase) -> list[tuple[Any, ...]]:
    found = ((each.announced_at, each.answered_at, each.task_id, each.perhaps) for each in purchase.attempts)
    return sorted(found)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_rows_of_older_versions_are_of_no_known_host_and_new_attempts_are_of_theirs(tmp_path, version):
    store = open_store(old_journal(tmp_path, version))
    found = list(look(store).values())
    assert {each.host for each in found} == {None}
    assert {each.task.host for each in found if each.task} == {None}
    first = next(each for each in found if each.state is State.PLANNED)
    bought = Bought(T + 1, Task(task_id="n", host="ppio"))
    record(store, entry_of(first).name, Announced(T, "a", host="ppio"), bought)
    read_back = look(store)[entry_of(first).name]
    assert (read_back.host, read_back.task and read_back.task.host) == ("ppio", "ppio")


def test_every_row_of_version_1_is_read_as_what_it_meant(tmp_path):
    store = open_store(old_journal(tmp_path, 1))
    found = list(look(store).values())
    assert [
        (each.state.value, each.attempt, attempts_of(each), (each.bought, each.perhaps)) for each in found
    ] == VERSION_1
    summary = store.summary()
    assert (summary.bought, summary.perhaps) == (12, 11)
    saved, refused, uncertain, again = found[4], found[5], found[7], found[8]
    assert saved.paths == (Path("out/ä.png"), Path("out/b.mp4"))
    assert (saved.result.seed, saved.result.task_type, saved.saved_at) == (1 << 70, "IMG_TO_IMG", T + 7)
    assert [type(each) for each in saved.result.artifacts] == [GeneratedImage, Artifact]
    assert saved.result.images[0].nsfw.confidence == 3.5
    assert saved.result.timings != Timings()
    assert (refused.error.kind, refused.error.reason, refused.finished_at) == ("ServerError", "ODD", T + 6)
    assert "reset" in uncertain.doubt.cause
    assert again.in_doubt
    assert (found[10].error.kind, found[13].error.kind) == ("TaskFailed", "FileNotFoundError")
    store.close()


def test_every_row_of_version_1_is_written_again_as_it_was(tmp_path):
    store = open_store(old_journal(tmp_path, 1))
    columns = f"SELECT serial, {', '.join(COLUMNS)} FROM requests"  # noqa: S608
    for found in store.file.connection.execute(columns).fetchall():
        known = store._known(found)
        again = rows.record_of(known.purchase, known, 0.0)
        assert told(rows.known_of(found[0], again).purchase) == told(known.purchase)
        assert rows.record_of(known.purchase, Known.of(known.purchase, again), 0.0) == again
    store.close()


@pytest.mark.parametrize("serial", range(1, 16))
def test_a_row_of_version_1_goes_on(tmp_path, serial):
    """What was under way is uncertain; then each is brought to saved files, and no money is forgotten."""
    store = open_store(old_journal(tmp_path, 1), T + 100)
    each = next(each for each in look(store).values() if rows.entry_of(each).serial == serial)
    before = each.bought, each.perhaps
    ways = {
        State.PLANNED: (Announced, Bought, Completed, Saved),
        State.UNCERTAIN: (Reopened, Announced, Bought, Completed, Saved),
        State.FAILED: (Reopened, Announced, Bought, Completed, Saved),
        State.SUBMITTED: (Completed, Saved),
        State.SUCCEEDED: (Saved,),
        State.SAVED: (NotSaved, Saved),
    }
    way = ways[each.state]
    made = result("new" if Bought in way else each.task.task_id)
    new = {Bought: {"task": task("new")}, Completed: {"result": made}}
    for second, kind in enumerate(way):
        record(store, rows.entry_of(each).name, fact(kind, T + 200 + second, **new.get(kind, {})))
    store.close()
    store = open_store(tmp_path / "old.db")
    after = look(store)[rows.entry_of(each).name]
    assert after.state is State.SAVED
    assert (after.bought, after.perhaps) == (before[0] + (after.images if Bought in way else 0), before[1])
    assert after.error is None
    assert do(store, lambda store: store.recover(T + 300)) == 0
    store.close()
