"""A purchase moves only as the table of its machine says, and its money is what its attempts have cost."""

import itertools
import pickle
import re
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from novita_async import (
    BadRequest,
    BalanceExhausted,
    ContentRejected,
    FailedEarlier,
    JournalError,
    NotSent,
    RateLimited,
    Task,
    TaskFailed,
    TaskNotFound,
    TaskResult,
)
from novita_async._purchase import machine
from novita_async._purchase.journal import Tally, action_of, summed, tally_of
from novita_async._purchase.machine import (
    TRANSITIONS,
    Action,
    Announced,
    Attempt,
    Bought,
    Completed,
    FailedForGood,
    IllegalTransition,
    Lost,
    NotBought,
    NotSaved,
    Purchase,
    Reopened,
    Rewatched,
    Saved,
    Settlement,
    State,
    advance,
    helps_to_buy_again,
    next_action,
    settlement,
    told_before,
)
from tests.helpers.purchases import (
    KINDS,
    doubt,
    fact,
    purchase,
    purchase_in,
    refusal,
    result,
    task,
    told,
    way_to,
)
from tests.helpers.service import request

LATER = (State.SUBMITTED, State.SUCCEEDED, State.FAILED, State.SAVED)
IN_DOUBT = (*way_to(State.UNCERTAIN), fact(Reopened, 12.0))
"""Leads to a planned purchase that may have been bought."""


def whole(each: Purchase) -> dict[str, Any]:
    """All that a transition may change."""
    numbers = [attempt.number for attempt in each.attempts]
    return {**told(each), "doubt": each.doubt, "numbers": numbers, "the task": each.task}


# --- The table in words is the table in code ----------------------------------------------------------------


def table(title: str) -> list[list[str]]:
    """The cells of a table of the machine's docstring."""
    lines = [line for line in (machine.__doc__ or "").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    begin = next(number for number, row in enumerate(rows) if row[0] == title)
    width = len(rows[begin])
    body = itertools.takewhile(lambda row: len(row) == width, rows[begin + 2 :])
    return [row for row in body if row[0] != "fact"]


def kinds_in(cell: str) -> list[type]:
    return [kind for kind in KINDS if re.search(rf"\b{kind.__name__}\b", cell)]


def states_in(cell: str) -> list[State]:
    found = [state for state in State if re.search(rf"\b{state}\b", cell)]
    return [*LATER] if "and later" in cell else found


FACTS = table("fact")
LEGAL = {
    (state, kind): state if to == "unchanged" else State(to)
    for cell, source, to, *_ in FACTS
    for kind in kinds_in(cell)
    for state in states_in(source)
}


def test_the_table_of_facts_in_the_docstring_is_the_one_in_the_code():
    assert {pair: to for pair, (to, _) in TRANSITIONS.items()} == LEGAL


def test_no_row_of_the_docstring_contradicts_another():
    pairs = ((kinds_in(cell), states_in(source)) for cell, source, *_ in FACTS)
    said = [(state, kind) for kinds, states in pairs for kind in kinds for state in states]
    twice = {pair for pair in said if said.count(pair) > 1}
    assert {kind for _, kind in twice} == {Bought, NotBought}  # told apart by what they say
    assert set(KINDS) == {kind for _, kind in said}
    assert all(kinds_in(cell) and states_in(source) for cell, source, *_ in FACTS)


def test_the_table_of_states_in_the_docstring_is_what_a_state_asks_for():
    words = {State(state): re.split(r"\W", action)[0] for state, _, action in table("state")}
    assert words == {state: next_action(purchase_in(state, wants_files=True)).name for state in State}


SETTLEMENTS = {
    ("held a minute", "spent", "success"): Settlement.SPENT,
    ("held a minute", "spent", "trips"): Settlement.LOST,
    ("held a minute", "refunded", ""): Settlement.SEEN,
    ("back", "refunded", ""): Settlement.UNSEEN,
}
EXAMPLES = {
    "Bought": fact(Bought),
    "Completed at once": fact(Completed, result=result("")),
    "NotBought, seen": fact(NotBought),
    "NotBought, limited": fact(NotBought, error=RateLimited(status=429)),
    "NotBought, unseen": fact(NotBought, seen=False),
    "NotBought, unreached": fact(NotBought, error=NotSent(cause="refused"), seen=False, reached=False),
    "Lost": fact(Lost),
}
BACK_AND_TRIPS = {"NotBought, limited": Settlement.REJECTED, "NotBought, unreached": Settlement.UNREACHED}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_verdict_means_for_slot_money_and_breaker_what_the_docstring_says(name):
    cells = next(tuple(cells) for cell, source, _, *cells in FACTS if cell == name and "announced" in source)
    expected = BACK_AND_TRIPS[name] if cells == ("back", "refunded", "trips") else SETTLEMENTS[cells]
    assert settlement(EXAMPLES[name]) is expected


def test_every_settlement_is_met():
    assert {settlement(each) for each in EXAMPLES.values()} == set(Settlement)


# --- Every fact in every state ------------------------------------------------------------------------------

REFUSED_HERE = {
    (State.PLANNED, Bought): "nothing of it was sent",
    (State.PLANNED, Lost): "nothing of it was sent",
    (State.SUCCEEDED, FailedForGood): "it has a task, or files",
}
"""Pairs of the table that need a doubt, or an answer without a file."""


@pytest.mark.parametrize(("state", "kind"), list(itertools.product(State, KINDS)))
def test_a_fact_moves_a_purchase_as_the_table_says_or_changes_nothing(state, kind):
    each = purchase_in(state)
    before = whole(each)
    if (state, kind) in LEGAL and (state, kind) not in REFUSED_HERE:
        advance(each, fact(kind, 30.0))
        assert each.state is LEGAL[state, kind]
        return
    why = REFUSED_HERE.get((state, kind), "there is no such transition")
    with pytest.raises(IllegalTransition, match=f"cannot take {kind.__name__}: {why}") as caught:
        advance(each, fact(kind, 30.0))
    assert whole(each) == before
    assert isinstance(caught.value, JournalError)
    assert (caught.value.scope, caught.value.task_id) == ("request", each.task and each.task.task_id)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fact_moves_a_planned_purchase_in_doubt_as_the_table_says_or_changes_nothing(kind):
    each = purchase(*IN_DOUBT)
    before = whole(each)
    if (State.PLANNED, kind) in LEGAL and kind is not FailedForGood:
        advance(each, fact(kind, 30.0))
        assert each.state is LEGAL[State.PLANNED, kind]
        return
    with pytest.raises(IllegalTransition):
        advance(each, fact(kind, 30.0))
    assert whole(each) == before


def test_a_request_with_a_doubtful_attempt_cannot_fail():
    each = purchase(*IN_DOUBT, fact(Announced, 20.0), fact(NotBought, 21.0))
    with pytest.raises(IllegalTransition, match="an earlier attempt may have been bought"):
        advance(each, fact(FailedForGood, 22.0))
    advance(each, fact(Lost, 23.0, error=each.doubt))
    assert (each.state, each.error) == (State.UNCERTAIN, each.doubt)


def test_a_doubt_besides_a_bought_task_stays_when_that_task_has_failed_and_is_bought_again():
    each = purchase(
        *IN_DOUBT, fact(Announced, 20.0), fact(Bought, 21.0, attempt=2), fact(FailedForGood, 22.0)
    )
    assert (each.state, each.in_doubt, each.bought, each.perhaps) == (State.FAILED, False, 2, 2)
    advance(each, fact(Reopened, 23.0))
    assert each.in_doubt
    with pytest.raises(IllegalTransition, match="an earlier attempt may have been bought"):
        advance(each, fact(FailedForGood, 24.0))


def test_a_failed_purchase_without_a_task_is_not_watched_again():
    each = purchase(fact(FailedForGood))
    with pytest.raises(IllegalTransition, match="it has no task"):
        advance(each, fact(Rewatched, 2.0))
    assert each.state is State.FAILED


def test_pictures_that_came_at_once_need_an_attempt_that_brought_them():
    each = Purchase(None, state=State.UNCERTAIN)
    with pytest.raises(IllegalTransition, match="nothing of it was sent"):
        advance(each, fact(Completed))
    assert each.result is None


def test_illegal_transitions_pickle():
    with pytest.raises(IllegalTransition) as caught:
        advance(purchase(), fact(Saved))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# --- What the facts leave in the record ---------------------------------------------------------------------


def test_the_whole_way_leaves_every_fact_in_the_record():
    each = purchase(
        fact(Announced, 10.0, token="secret"), fact(Bought, 11.0), fact(Completed, 20.0), fact(Saved, 21.0)
    )
    assert (each.account, each.token, each.attempt, each.paid_task) == ("a", "secret", 1, task())
    assert each.attempts[0].number == 1
    assert (each.attempts[0].announced_at, each.attempts[0].answered_at) == (10.0, 11.0)
    assert (each.finished_at, each.saved_at, each.error) == (20.0, 21.0, None)
    assert (each.result, each.paths) == (result(), fact(Saved).paths)


def test_an_announcement_clears_the_error_and_counts():
    each = purchase(fact(Announced, 1.0), fact(NotBought, 2.0), fact(Announced, 3.0, account="b"))
    assert (each.error, each.attempt, each.account) == (None, 2, "b")
    assert [attempt.number for attempt in each.attempts] == [1, 2]


@pytest.mark.parametrize(
    ("verdict", "kept"),
    [
        (fact(NotBought, 2.0), True),
        (fact(NotBought, 2.0, seen=False), False),
        (fact(NotBought, 2.0, error=RateLimited(status=429)), False),
        (fact(NotBought, 2.0, error=NotSent(cause="refused"), seen=False, reached=False), False),
    ],
)
def test_what_the_service_saw_is_kept_for_its_window_and_nothing_else_is(verdict, kept):
    each = purchase(fact(Announced, 1.0), verdict)
    assert (each.state, each.error, each.bought, each.perhaps) == (State.PLANNED, verdict.error, 0, 0)
    assert [attempt.answered_at for attempt in each.attempts] == ([2.0] if kept else [])


def test_money_is_uncertain_from_the_announcement_until_the_answer():
    each = purchase(fact(Announced))
    assert (each.bought, each.perhaps) == (0, 2)
    advance(each, fact(Bought, 2.0))
    assert (each.bought, each.perhaps) == (2, 0)


def test_a_lost_attempt_stays_spent_when_the_request_is_bought_again():
    each = purchase(*IN_DOUBT)
    assert (each.bought, each.perhaps, each.in_doubt) == (0, 2, True)
    for news in (fact(Announced, 20.0), fact(Bought, 21.0, attempt=2)):
        advance(each, news)
    assert (each.bought, each.perhaps, each.in_doubt) == (2, 2, False)
    assert [attempt.perhaps for attempt in each.attempts] == [True, False]


def test_what_has_failed_stays_spent_when_it_is_bought_again():
    each = purchase(*way_to(State.FAILED), fact(Reopened, 20.0))
    assert (each.bought, each.task, each.result, each.finished_at) == (2, None, None, None)


def test_files_that_could_not_be_had_are_noted_and_the_purchase_stays_to_be_saved():
    each = purchase(*way_to(State.SUCCEEDED), fact(NotSaved, 20.0))
    assert (each.error.message, each.result) == ("gone", result())
    advance(each, fact(Saved, 21.0))
    assert each.error is None
    advance(each, fact(NotSaved, 22.0))
    assert (each.state, each.paths, each.saved_at) == (State.SUCCEEDED, (), None)


def test_a_later_result_brings_fresh_urls_and_keeps_the_time_of_the_end():
    each = purchase(*way_to(State.SUCCEEDED), fact(NotSaved, 20.0))
    advance(each, fact(Completed, 30.0, result=result(seed=8)))
    assert (each.finished_at, each.result.seed, each.error) == (12.0, 8, None)


# --- Events: first, again, another id -----------------------------------------------------------------------


def test_an_event_that_comes_before_the_answer_buys_and_the_answer_adds_nothing():
    each = purchase(fact(Announced, 1.0), fact(Bought, 2.0, attempt=1))
    before = whole(each)
    advance(each, fact(Bought, 3.0, attempt=1))
    assert whole(each) == before
    assert (each.bought, each.perhaps, each.attempts[0].answered_at) == (2, 0, 2.0)


def test_an_event_finds_a_lost_purchase_and_ends_its_doubt():
    each = purchase(*way_to(State.UNCERTAIN), fact(Bought, 99.0))
    assert (each.state, each.bought, each.perhaps, each.doubt, each.error) == (
        State.SUBMITTED,
        2,
        0,
        None,
        None,
    )
    assert (each.attempts[0].task_id, each.attempts[0].answered_at) == ("t", 11.0)


def test_an_event_of_an_earlier_attempt_leaves_the_one_under_way_open():
    each = purchase(*IN_DOUBT, fact(Announced, 20.0, account="b"), fact(Bought, 21.0, attempt=1))
    assert (each.state, each.bought, each.perhaps, each.account) == (State.SUBMITTED, 2, 2, "a")
    assert [(a.task_id, a.answered_at) for a in each.attempts] == [("t", 11.0), (None, None)]


@pytest.mark.parametrize(
    ("verdict", "money", "ids"),
    [
        (fact(Bought, 30.0, task=task("t2"), attempt=2), (4, 0), ["t", "t2"]),
        (fact(Bought, 30.0, task=task("t"), attempt=2), (2, 0), ["t"]),
        (fact(NotBought, 30.0), (2, 0), ["t", None]),
        (fact(NotBought, 30.0, seen=False), (2, 0), ["t"]),
        (fact(Lost, 30.0), (2, 2), ["t", None]),
    ],
)
@pytest.mark.parametrize("kinds", [(), (Completed,), (Completed, Saved), (FailedForGood,)])
def test_the_answer_that_comes_after_an_event_settles_its_own_attempt_alone(verdict, money, ids, kinds):
    each = purchase(*IN_DOUBT, fact(Announced, 20.0), fact(Bought, 21.0, attempt=1))
    for second, kind in enumerate(kinds):
        advance(each, fact(kind, 22.0 + second))
    state, error = each.state, each.error
    advance(each, verdict)
    assert (each.state, each.error, each.paid_task.task_id) == (state, error, "t")
    assert (each.bought, each.perhaps) == money
    assert [attempt.task_id for attempt in each.attempts] == ids
    assert all(attempt.answered_at is not None for attempt in each.attempts)


@pytest.mark.parametrize("verdict", [fact(NotBought, 30.0), fact(Lost, 30.0)])
def test_a_verdict_on_nothing_changes_nothing(verdict):
    each = purchase(*way_to(State.SUBMITTED))
    before = whole(each)
    advance(each, verdict)
    assert whole(each) == before


@pytest.mark.parametrize("attempt", [None, 1, 7])
def test_a_second_task_of_one_attempt_is_kept_beside_the_first(attempt):
    second = Task(task_id="t2", account="b")
    each = purchase(*way_to(State.SUCCEEDED), fact(Bought, 30.0, task=second, attempt=attempt))
    assert (each.state, each.paid_task.task_id, each.bought) == (State.SUCCEEDED, "t", 4)
    kept = each.attempts[1]
    assert (kept.account, kept.announced_at, kept.answered_at, kept.task_id) == ("b", 30.0, 30.0, "t2")
    before = whole(each)
    advance(each, fact(Bought, 31.0, task=second, attempt=attempt))
    assert whole(each) == before


def test_a_task_whose_attempt_is_not_known_is_known_all_the_same():
    """A row of an older release, or a task that was only watched."""
    each = Purchase(None, state=State.UNCERTAIN, doubt=doubt())
    advance(each, fact(Bought))
    assert (each.paid_task, each.attempts, each.doubt) == (task(), (), None)
    advance(each, fact(Bought, 2.0))
    assert each.attempts == ()
    advance(each, fact(Bought, 3.0, task=Task(task_id="t2")))
    assert [(attempt.account, attempt.task_id) for attempt in each.attempts] == [("", "t2")]


# --- Pictures in the answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.ANNOUNCED, State.UNCERTAIN])
def test_pictures_that_came_at_once_are_bought_without_a_task(state):
    each = purchase(*way_to(state), fact(Completed, 30.0, result=result("")))
    assert (each.state, each.task, each.bought, each.perhaps) == (State.SUCCEEDED, None, 2, 0)
    assert each.attempts[0].at_once
    assert (each.doubt, each.error, each.finished_at) == (None, None, 30.0)
    assert each.attempts[0].answered_at == (30.0 if state is State.ANNOUNCED else 11.0)


def test_an_answer_without_a_file_is_paid_and_fails_for_good():
    empty = TaskResult()
    each = purchase(fact(Announced), fact(Completed, 2.0, result=empty), fact(FailedForGood, 3.0))
    assert (each.state, each.bought, each.task) == (State.FAILED, 2, None)
    advance(each, fact(Reopened, 4.0))
    assert each.state is State.PLANNED


def test_the_end_of_a_task_tells_which_was_bought_to_a_store_that_could_not_record_it():
    each = purchase(fact(Announced), fact(Completed, 2.0))
    assert (each.state, each.paid_task, each.bought) == (State.SUCCEEDED, task(), 2)
    assert (each.attempts[0].task_id, each.attempts[0].at_once) == ("t", False)


# --- Told before, next action, what helps -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "again", "same"),
    [
        ((), fact(Announced), False),
        ((fact(Announced),), fact(Announced), True),
        ((fact(Announced),), fact(Announced, 1.5), False),
        ((fact(Announced),), fact(Announced, account="b"), False),
        (tuple(way_to(State.SAVED)), fact(Saved, 99.0), True),
        (tuple(way_to(State.SAVED)), fact(Saved, 99.0, paths=()), False),
        (tuple(way_to(State.SAVED)), fact(Saved, 99.0, objects=("s3://b/1.png",)), False),
        (tuple(way_to(State.SUCCEEDED)), fact(Saved, 99.0), False),
        ((fact(Announced), fact(NotBought, 2.0)), fact(NotBought, 2.0), False),
    ],
)
def test_a_store_knows_what_it_was_told_before(facts, again, same):
    assert told_before(purchase(*facts), again) is same


def test_a_doubt_told_twice_is_one():
    lost = fact(Lost, 2.0)
    each = purchase(fact(Announced), lost)
    assert told_before(each, lost)
    assert not told_before(each, fact(Lost, 2.0))
    assert not told_before(purchase(fact(Announced)), lost)


@pytest.mark.parametrize(
    ("state", "files", "action"),
    [
        (State.PLANNED, True, Action.SEND),
        (State.ANNOUNCED, True, Action.AWAIT),
        (State.SUBMITTED, True, Action.WATCH),
        (State.SUCCEEDED, True, Action.SAVE),
        (State.SUCCEEDED, False, Action.NOTHING),
        (State.FAILED, True, Action.LIST),
        (State.UNCERTAIN, True, Action.LIST),
        (State.SAVED, True, Action.NOTHING),
    ],
)
def test_each_state_asks_for_one_thing(state, files, action):
    assert next_action(purchase_in(state, wants_files=files)) is action
    assert action_of(state) is action or not files


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (TaskFailed(task=Task(task_id="t")), True),
        (BalanceExhausted(status=403), True),
        (refusal(), True),
        (ContentRejected(status=400), False),
        (BadRequest(status=400), False),
        (TaskNotFound(status=404), False),
        (FailedEarlier(kind="TaskFailed", text="", retryable=True), True),
        (FailedEarlier(kind="BadRequest", text=""), False),
    ],
)
def test_buying_again_helps_where_the_cause_passes_or_was_an_accident(error, helps):
    assert helps_to_buy_again(error) is helps


def test_what_must_be_there_is_there_or_an_error_names_the_purchase():
    each = purchase_in(State.SUBMITTED)
    assert repr(each) == f"<Purchase {each.id} submitted, task t>"
    with pytest.raises(ValueError, match=rf"<Purchase {each.id} submitted, task t> has no request"):
        _ = each.wish
    planned = Purchase(request())
    assert planned.wish == request()
    with pytest.raises(ValueError, match=rf"<Purchase {planned.id} planned> has no task"):
        _ = planned.paid_task


# --- A purchase against a diary -----------------------------------------------------------------------------


@settings(max_examples=75, stateful_step_count=30)
class OnePurchase(RuleBasedStateMachine):
    """Whatever happens in any order that can be: money and slots are what a diary of the attempts says."""

    def __init__(self) -> None:
        super().__init__()
        self.purchase = purchase()
        self.now = 0.0
        self.ids = (f"t{number}" for number in itertools.count())
        self.diary: list[dict[str, Any]] = []
        """Every attempt: account, when, answered, tasks, lost, seen."""

    def happen(self, kind: type, **more: Any) -> None:
        self.now += 1.5
        advance(self.purchase, fact(kind, self.now, **more))

    @property
    def state(self) -> State:
        return self.purchase.state

    @property
    def under_way(self) -> dict[str, Any] | None:
        return next((each for each in self.diary if each["open"]), None)

    def of(self, test: Any) -> list[int]:
        """Numbers of attempts that are so."""
        return [number for number, each in enumerate(self.diary, 1) if test(each)]

    @precondition(lambda self: self.state is State.PLANNED)
    @rule(account=st.sampled_from("ab"))
    def announce(self, account):
        self.happen(Announced, account=account)
        self.diary.append(
            {
                "account": account,
                "at": self.now,
                "answered": None,
                "tasks": set(),
                "lost": False,
                "seen": True,
            }
            | {"open": True, "extra": 0}
        )

    @precondition(lambda self: self.under_way)
    @rule(how=st.sampled_from(("bought", "seen", "unseen", "limited", "lost", "at once")))
    def answer(self, how):
        mine = self.under_way
        number = self.diary.index(mine) + 1
        if how == "bought":
            name = next(self.ids)
            self.happen(Bought, task=task(name), attempt=number)
            mine["tasks"].add(name)
        elif how == "at once":
            if self.state is not State.ANNOUNCED:
                return
            self.happen(Completed, result=result(""))
            mine["tasks"].add(None)
        elif how == "lost":
            self.happen(Lost)
            mine["lost"] = True
        else:
            error = {"error": RateLimited(status=429)} if how == "limited" else {}
            self.happen(NotBought, seen=how != "unseen", **error)
            mine["seen"] = how == "seen"
        mine["open"], mine["answered"] = False, self.now

    @precondition(lambda self: self.of(lambda each: each["lost"]))
    @rule(data=st.data())
    def event(self, data):
        number = data.draw(st.sampled_from(self.of(lambda each: each["lost"])))
        name = next(self.ids)
        self.happen(Bought, task=task(name), attempt=number)
        self.diary[number - 1]["tasks"].add(name)
        self.diary[number - 1]["lost"] = False

    @precondition(lambda self: self.under_way and self.state is State.ANNOUNCED)
    @rule()
    def event_first(self):
        """The answer will say the same once more."""
        mine = self.under_way
        number, name = self.diary.index(mine) + 1, next(self.ids)
        for _ in range(2):
            self.happen(Bought, task=task(name), attempt=number)
        mine["tasks"].add(name)
        mine["open"], mine["answered"] = False, self.now - 1.5

    @precondition(lambda self: self.state in LATER and self.purchase.task is not None)
    @rule(another=st.booleans())
    def told_again(self, another):
        mine = next(each for each in self.diary if self.purchase.task.task_id in each["tasks"])
        name = next(self.ids) if another else self.purchase.task.task_id
        self.happen(Bought, task=task(name), attempt=self.diary.index(mine) + 1)
        mine["tasks"].add(name)

    @precondition(lambda self: self.state in (State.SUBMITTED, State.SUCCEEDED))
    @rule(good=st.booleans())
    def finish(self, good):
        done = (
            {"result": result(self.purchase.task.task_id)} if self.purchase.task else {"result": result("")}
        )
        if good and self.purchase.task:
            self.happen(Completed, **done)
        elif self.state is State.SUBMITTED:
            self.happen(FailedForGood)

    @precondition(lambda self: self.state in (State.SUCCEEDED, State.SAVED))
    @rule(good=st.booleans())
    def save(self, good):
        if self.state is State.SAVED or not good:
            self.happen(NotSaved)
        else:
            self.happen(Saved)

    @precondition(lambda self: self.state in (State.FAILED, State.UNCERTAIN))
    @rule(watch=st.booleans())
    def again(self, watch):
        if watch and self.state is State.FAILED and self.purchase.task:
            self.happen(Rewatched)
        elif not (self.state is State.FAILED and self.under_way):
            self.happen(Reopened)

    @precondition(lambda self: self.state is State.PLANNED)
    @rule()
    def give_up(self):
        in_doubt = any(each["lost"] for each in self.diary)
        self.happen(Lost if in_doubt else FailedForGood)
        assert self.state is (State.UNCERTAIN if in_doubt else State.FAILED)

    @invariant()
    def money_is_what_the_diary_says(self):
        assert self.purchase.bought == 2 * sum(len(each["tasks"]) for each in self.diary)
        assert self.purchase.perhaps == 2 * sum(each["lost"] or each["open"] for each in self.diary)
        assert self.purchase.attempt == len(self.diary)

    @invariant()
    def a_doubt_is_there_as_long_as_an_attempt_is_lost(self):
        lost = any(each["lost"] for each in self.diary)
        assert (self.purchase.doubt is not None) == lost
        assert self.purchase.in_doubt == (lost and self.purchase.task is None)

    @invariant()
    def no_slot_is_forgotten(self):
        slots = {
            (each["account"], each["at"], each["answered"])
            for each in self.diary
            if each["seen"] or each["lost"] or each["tasks"]
        }
        held = {(each.account, each.announced_at, each.answered_at) for each in self.purchase.attempts}
        assert slots <= held


TestOnePurchase = OnePurchase.TestCase


# --- Sums -------------------------------------------------------------------------------------------------


def test_a_summary_adds_up_purchases_by_state_and_money():
    purchases = [purchase_in(state) for state in State]
    total = summed(map(tally_of, purchases))
    assert total.total == len(State)
    assert set(total.rows.values()) == {1}
    assert set(total.images.values()) == {2}
    assert (total.bought, total.perhaps, total.spent) == (8, 4, 12)
    assert summed([]).total == summed([]).spent == 0
    assert (
        summed([Tally(state=State.SAVED, rows=3, images=6), *map(tally_of, purchases)]).rows[State.SAVED] == 4
    )


@pytest.mark.parametrize(
    ("action", "count"),
    [
        (Action.SEND, 1),
        (Action.AWAIT, 1),
        (Action.WATCH, 1),
        (Action.SAVE, 1),
        (Action.LIST, 2),
        (Action.NOTHING, 1),
    ],
)
def test_a_summary_says_how_many_requests_ask_for_what(action, count):
    assert summed(tally_of(purchase_in(state)) for state in State).due(action) == count


def test_an_attempt_is_bought_by_a_task_or_at_once():
    assert not Attempt("a", 1.0).bought
    assert Attempt("a", 1.0, task_id="t").bought
    assert Attempt("a", 1.0, at_once=True).bought
