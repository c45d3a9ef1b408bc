"""What a batch has bought is a pure function of its rows, and a row goes only ways that the table has."""

import itertools
import json
import pickle
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from novita_async._journal.ledger import Attempt, Duty, Row, RowError, State, advance, request_of, wanted

from novita_async import (
    AnyTask,
    Img2Img,
    InvalidRequest,
    JournalError,
    NsfwDetection,
    Task,
    TestMode,
    Txt2Img,
)
from novita_async._journal import ledger
from novita_async._policy.pacing import WINDOW, AccountPacer
from novita_async.errors import (
    BadRequest,
    BalanceExhausted,
    ContentRejected,
    NotSent,
    RateLimited,
    ServerError,
    SubmissionUncertain,
    TaskFailed,
    TaskNotFound,
)
from novita_async.models.images import ImageSource
from novita_async.models.requests import Extra, Webhook
from novita_async.models.results import Artifact, Image, ImageResult, Timings
from tests.helpers.service import picture, request

ENDPOINT = "/v3/async/img2img"
SECRET = "X-Amz-Credential=me&X-Amz-Signature=0123abcd"


def digest(source: ImageSource) -> str:
    return source.digest()


def described(asked, position: int = 0) -> ledger.Wanted:
    endpoint = asked.path if isinstance(asked, AnyTask) else ENDPOINT
    return wanted(asked, endpoint=endpoint, position=position, digest=digest)


def key(asked) -> str:
    return described(asked).key


def row(**changes) -> Row:
    fields = {"key": "00" * 16, "position": 0, "kind": "img2img", "endpoint": ENDPOINT, "image_num": 2}
    return Row(**(fields | {"request": "{}"} | changes))


def note(error=None) -> RowError:
    return RowError.of(error or ServerError(status=500))


def any_task(**body) -> AnyTask:
    return AnyTask(path="/v3/async/any", body=body)


# --- Identity ---------------------------------------------------------------------------------------------


def test_equal_requests_have_one_identity_and_every_field_makes_another():
    variants = [
        request(),
        request(prompt="another dog"),
        request(seed=1),
        request(image=picture(2)),
        request().with_lora("name", 0.7),
        request().with_controlnet("control_v11p_sd15_canny"),
        request(extra=Extra(response_image_type="webp")),
        request(extra_fields={"new": 1}),
        Txt2Img(model_name="m", prompt="p", width=512, height=512),
        any_task(prompt="p"),
    ]
    assert len({key(each) for each in variants}) == len(variants)
    assert [key(each) for each in variants] == [key(attrs.evolve(each)) for each in variants]


def test_the_identity_never_changes_from_release_to_release():
    """If this fails, every batch that is under way would be bought again."""
    assert key(any_task(prompt="p", steps=20)) == "372289df65d4ea31dda2f200a0e6c15b"
    text = Txt2Img(model_name="m", prompt="p", width=512, height=512, seed=7)
    assert key(text) == "c600644ee6cda2d39f9665b4e6634991"
    source = ImageSource(data=b"no picture", size=10)
    from_picture = Img2Img(model_name="m", image=source, prompt="p", width=512, height=512)
    assert key(from_picture) == "3a4f75813ebf07d5efadd05714142d50"


def test_a_picture_is_the_same_wherever_it_lies(tmp_path):
    file = tmp_path / "dog.png"
    file.write_bytes(picture())
    assert key(request(image=file)) == key(request(image=picture()))
    assert json.loads(described(request(image=file)).request)["request"]["image_base64"]["path"] == str(file)


def test_numbers_and_the_order_of_fields_are_compared_by_meaning():
    assert key(request(guidance_scale=7)) == key(request(guidance_scale=7.0))
    assert key(any_task(a=1, b=[{"c": 2.0, "d": None}])) == key(any_task(b=[{"d": None, "c": 2}], a=1.0))
    assert key(any_task(a=True)) != key(any_task(a=1))
    assert key(any_task(a=[1, 2])) != key(any_task(a=[2, 1]))


def test_a_new_callback_address_asks_for_no_new_picture_and_a_mock_is_no_picture():
    def calling(url: str, **more) -> Img2Img:
        return request(extra=Extra(webhook=Webhook(url=url, **more)))

    assert key(calling("https://one.example/a")) == key(calling("https://two.example/b")) == key(request())
    assert key(calling("https://one.example/a", test_mode=TestMode())) != key(request())
    assert key(any_task(extra={"webhook": "odd"})) == key(any_task())
    assert "one.example" in described(calling("https://one.example/a")).request


def test_the_endpoint_counts_by_kind_for_known_ones_and_by_path_for_others():
    moved = wanted(request(), endpoint="/v4/elsewhere", position=0, digest=digest)
    assert moved.key == key(request())
    assert key(AnyTask(path="/a", body={})) != key(AnyTask(path="/b", body={}))


@pytest.mark.parametrize(
    "name", ["X-Amz-Signature", "x-goog-signature", "Signature", "sig", "a=1&sig", "design=x&Signature"]
)
def test_presigned_queries_are_not_kept_and_do_not_count(name):
    first, second = (any_task(image=f"https://bucket.example/dog.png?{name}={n}") for n in "12")
    assert key(first) == key(second)
    assert "=1" not in described(first).request
    with pytest.raises(InvalidRequest, match="not kept in a journal"):
        request_of(described(first), lambda *_: pytest.fail("no picture"))


def test_other_queries_are_kept_and_count():
    one, two = (any_task(image=f"https://host.example/dog.png?design={n}") for n in "12")
    assert key(one) != key(two)
    assert request_of(described(one), lambda *_: pytest.fail("no picture")) == one


@pytest.mark.parametrize("start", ["", "data:image/png;base64,"])
def test_pictures_given_as_base64_text_are_not_kept(start):
    text = start + ImageSource.from_bytes(picture()).read().hex()
    kept = described(any_task(image=text))
    assert len(kept.request) < 120
    assert kept.key != key(any_task(image=text.replace("a", "b")))


def test_a_long_text_is_kept():
    prompt = "a cute dog, " * 80
    assert request_of(described(any_task(prompt=prompt)), lambda *_: pytest.fail("no picture")).body == {
        "prompt": prompt
    }


@pytest.mark.parametrize("name", ["$picture", "$withheld"])
def test_names_that_the_journal_uses_are_refused_as_names_and_fine_as_text(name):
    with pytest.raises(InvalidRequest, match="names that a journal uses"):
        described(any_task(deep=[{name: 1}]))
    assert request_of(described(any_task(prompt=name)), lambda *_: pytest.fail("none")).body == {
        "prompt": name
    }


def test_a_file_with_a_name_that_is_no_text_can_be_described(tmp_path):
    file = Path(str(tmp_path / "dog") + "\udcff.png")
    file.write_bytes(picture())
    kept = described(request(image=file, prompt="ein süßer Hund"))
    assert kept.request.isascii()
    assert request_of(kept, lambda _, path: ImageSource.from_path(path or "")) == request(
        image=file, prompt="ein süßer Hund"
    )


texts = st.text(min_size=1, max_size=30).filter(lambda text: "?" not in text and text.isprintable())


@given(
    prompt=texts,
    seed=st.none() | st.integers(0, 1 << 40),
    scale=st.floats(1, 30),
    number=st.integers(1, 8),
    parts=st.tuples(st.none() | texts, st.integers(0, 2)),
)
def test_a_request_is_made_again_as_it_was(prompt, seed, scale, number, parts):
    lora, units = parts
    asked = request(prompt=prompt, seed=seed, guidance_scale=scale, image_num=number)
    if lora:
        asked = asked.with_lora(lora, 0.5)
    for n in range(units):
        asked = asked.with_controlnet(f"net-{n}", picture(n + 2))
    pictures = {source.digest(): source for source in asked.images}
    kept = described(asked, position=5)
    again = request_of(kept, lambda sha, path: pictures[sha] if path is None else pytest.fail("no path"))
    assert again == asked
    assert (described(again, position=5), kept.image_num, kept.position) == (kept, number, 5)


def test_another_task_is_made_again_with_its_pictures_and_its_weight():
    source = ImageSource.from_bytes(picture())
    asked = AnyTask(path="/v3/async/any", body={"images": [source, "x"], "n": {"size": 2}}, image_num=3)
    kept = wanted(asked, endpoint=asked.path, position=0, digest=digest)
    assert request_of(kept, lambda *_: source) == asked


# --- Transitions ------------------------------------------------------------------------------------------

ENOUGH = {
    State.ANNOUNCED: {"account": "a"},
    State.SUBMITTED: {"task_id": "t"},
    State.FAILED: {"error": note()},
    State.UNCERTAIN: {"error": note()},
    State.SAVED: {"paths": ("out/1.png",)},
    State.SUCCEEDED: {"seed": 3},
}
ANNOUNCED = advance(row(), State.ANNOUNCED, at=10.0, account="a")
SUBMITTED = advance(ANNOUNCED, State.SUBMITTED, at=11.0, task_id="t")
SUCCEEDED = advance(SUBMITTED, State.SUCCEEDED, at=20.0, seed=3, result={"files": []})
ROWS = {
    State.PLANNED: row(),
    State.ANNOUNCED: ANNOUNCED,
    State.SUBMITTED: SUBMITTED,
    State.SUCCEEDED: SUCCEEDED,
    State.FAILED: advance(SUBMITTED, State.FAILED, at=20.0, error=note()),
    State.UNCERTAIN: advance(ANNOUNCED, State.UNCERTAIN, at=12.0, error=note()),
    State.SAVED: advance(SUCCEEDED, State.SAVED, at=21.0, paths=("out/1.png",)),
}


def facts_for(before: State, after: State) -> dict:
    step = ledger.TRANSITIONS[before, after]
    known = {"account": "a", "task_id": "t", "error": note(), "paths": ("p",), "asked": True}
    return {name: known[name] for name in step.needs}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_only_ways_of_the_table_can_be_gone(before, after):
    if (before, after) == (State.PLANNED, State.UNCERTAIN):
        with pytest.raises(ledger.IllegalTransition, match="nothing of it was sent"):
            advance(ROWS[before], after, at=30.0, error=note())
    elif (before, after) in ledger.TRANSITIONS:
        moved = advance(ROWS[before], after, at=30.0, **facts_for(before, after))
        assert moved.state is after
    elif before is after:
        assert advance(ROWS[before], after, at=10.0, **ENOUGH.get(after, {})) is ROWS[before]
    else:
        with pytest.raises(ledger.IllegalTransition, match="there is no such way") as caught:
            advance(ROWS[before], after, at=30.0, **ENOUGH.get(after, {}))
        assert isinstance(caught.value, JournalError)
        assert caught.value.scope == "request"


def test_the_whole_way_leaves_every_fact_in_the_row():
    saved = ROWS[State.SAVED]
    assert (saved.account, saved.task_id, saved.attempts, saved.seed) == ("a", "t", 1, 3)
    assert (saved.announced_time, saved.answered_time) == (10, 11)
    assert (saved.finished_time, saved.saved_time) == (20, 21)
    assert (saved.paths, saved.result, saved.error) == (("out/1.png",), {"files": []}, None)


@pytest.mark.parametrize(("before", "after"), list(ledger.TRANSITIONS))
def test_every_needed_fact_must_be_told_and_no_other_can_be(before, after):
    needed = facts_for(before, after)
    for missing in needed:
        left = {name: fact for name, fact in needed.items() if name != missing}
        if before is not after:
            with pytest.raises(ledger.IllegalTransition, match=f"{missing} must be told"):
                advance(ROWS[before], after, at=30.0, **left)
    with pytest.raises(ledger.IllegalTransition, match="strange cannot be told"):
        advance(ROWS[before], after, at=30.0, **needed, strange=1)


@pytest.mark.parametrize("time", [float("nan"), float("inf")])
def test_a_time_must_be_one(time):
    with pytest.raises(ledger.IllegalTransition, match="is no time"):
        advance(row(), State.ANNOUNCED, at=time, account="a")


@pytest.mark.parametrize(
    ("state", "facts"),
    [
        (State.ANNOUNCED, {"at": 10.5, "account": "a"}),
        (State.ANNOUNCED, {"at": 10.0, "account": "b"}),
        (State.SUBMITTED, {"at": 11.0, "task_id": "another"}),
        (State.SAVED, {"at": 21.0, "paths": ("elsewhere.png",)}),
    ],
)
def test_another_transition_is_not_taken_for_the_same_one_told_twice(state, facts):
    with pytest.raises(ledger.IllegalTransition, match="with another") as caught:
        advance(ROWS[state], state, **facts)
    assert caught.value.task_id == ROWS[state].task_id


def test_illegal_transitions_pickle():
    with pytest.raises(ledger.IllegalTransition) as caught:
        advance(row(), State.SAVED, at=1.0, paths=())
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("error", "held"),
    [
        (NotSent(cause="refused"), False),
        (RateLimited(status=429), False),
        (InvalidRequest(faults=()), False),
        (ServerError(status=500), True),
        (ContentRejected(status=400), True),
    ],
)
def test_what_the_service_saw_holds_its_slot_and_nothing_else_does(error, held):
    back = advance(ANNOUNCED, State.PLANNED, at=12.0, error=note(error))
    refused = advance(ANNOUNCED, State.FAILED, at=12.0, error=note(error))
    slot = [(10.0, 12.0, 2)] if held else []
    for each in (back, refused, advance(back, State.FAILED, at=12.5, error=note(error))):
        assert list(ledger.slots([each], endpoint=ENDPOINT, account="a")) == slot
        assert each.slot_time == (12.0 if held else None)
        assert (each.bought, each.perhaps) == (0, 0)
        assert each.error == note(error)


def test_an_attempt_that_cost_nothing_is_forgotten_a_minute_after_its_answer():
    back = advance(ANNOUNCED, State.PLANNED, at=12.0, error=note())
    soon = advance(back, State.ANNOUNCED, at=12 + WINDOW - 0.01, account="b")
    late = advance(back, State.ANNOUNCED, at=12 + WINDOW, account="b")
    assert [attempt.account for attempt in soon.tries] == ["a", "b"]
    assert [attempt.account for attempt in late.tries] == ["b"]
    assert soon.attempts == late.attempts == 2


def test_an_uncertain_purchase_stays_spent_when_it_is_bought_again():
    uncertain = ROWS[State.UNCERTAIN]
    assert (uncertain.bought, uncertain.perhaps) == (0, 2)
    with pytest.raises(ledger.IllegalTransition, match="nobody asked"):
        advance(uncertain, State.PLANNED, at=13.0, asked=False)
    again = advance(uncertain, State.PLANNED, at=1e6, asked=True)
    assert (again.bought, again.perhaps, again.state) == (0, 2, State.PLANNED)
    bought = advance(
        advance(again, State.ANNOUNCED, at=1e6, account="a"), State.SUBMITTED, at=1e6, task_id="t2"
    )
    assert (bought.bought, bought.perhaps) == (2, 2)
    assert bought.earlier == (Attempt(account="a", announced_time=10, answered_time=12, perhaps=True),)


def test_an_uncertain_purchase_that_is_found_becomes_a_certain_one():
    found = advance(ROWS[State.UNCERTAIN], State.SUBMITTED, at=99.0, task_id="t9")
    assert (found.bought, found.perhaps, found.task_id, found.answered_time) == (2, 0, "t9", 12.0)
    assert found.error is None


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (TaskFailed(task=Task(task_id="t")), True),
        (BalanceExhausted(status=403), True),
        (ServerError(status=500), True),
        (ContentRejected(status=400), False),
        (BadRequest(status=400), False),
        (TaskNotFound(status=404), False),
    ],
)
def test_failed_ones_are_bought_again_only_when_asked_and_when_it_can_help(error, helps):
    failed = advance(SUBMITTED, State.FAILED, at=20.0, error=RowError.of(error))
    with pytest.raises(ledger.IllegalTransition, match="nobody asked"):
        advance(failed, State.PLANNED, at=21.0, asked=False)
    if helps:
        again = advance(failed, State.PLANNED, at=21.0, asked=True)
        assert (again.bought, again.perhaps, again.task_id, again.finished_time) == (2, 0, None, None)
        assert again.earlier[0].task_id == "t"
    else:
        with pytest.raises(ledger.IllegalTransition, match="would fail again"):
            advance(failed, State.PLANNED, at=21.0, asked=True)


def test_a_failed_row_without_a_known_error_is_not_bought_again():
    with pytest.raises(ledger.IllegalTransition, match="would fail again"):
        advance(row(state=State.FAILED), State.PLANNED, at=1.0, asked=True)


def test_files_that_could_not_be_had_are_noted_and_the_row_stays_to_be_saved():
    missed = advance(SUCCEEDED, State.SUCCEEDED, at=22.0, error=note())
    assert (missed.state, missed.error, missed.seed) == (State.SUCCEEDED, note(), 3)
    assert advance(missed, State.SAVED, at=23.0, paths=("p",)).error is None


def test_what_was_on_its_way_when_the_process_died_is_uncertain_and_the_rest_is_as_it_was():
    for state, each in ROWS.items():
        found = ledger.found_at_opening(each, 50.0)
        if state is State.ANNOUNCED:
            assert (found.state, found.answered_time, found.error) == (State.UNCERTAIN, 50.0, ledger.LOST)
        else:
            assert found is each


def test_a_row_that_is_asked_for_again_moves_its_place_and_keeps_where_it_was_sent():
    asked = ledger.Wanted(
        key="00" * 16, position=7, kind="img2img", endpoint="/new", image_num=3, request='{"a":1}'
    )
    fresh = ledger.asked_again(row(), asked, 4)
    assert (fresh.position, fresh.run, fresh.endpoint, fresh.image_num, fresh.request) == (
        7,
        4,
        "/new",
        3,
        '{"a":1}',
    )
    sent = ledger.asked_again(SUBMITTED, asked, 4)
    assert (sent.position, sent.endpoint, sent.image_num, sent.state) == (7, ENDPOINT, 2, State.SUBMITTED)


@settings(max_examples=150, stateful_step_count=30)
class OneRow(RuleBasedStateMachine):
    """A row against a diary of what was done with it."""

    def __init__(self) -> None:
        super().__init__()
        self.row = row()
        self.now = 0.0
        self.tries: list[dict] = []
        """Every attempt: account, when, answered, task, seen, perhaps."""

    def move(self, to: State, **facts) -> None:
        self.now += 1.5
        before = self.row
        self.row = advance(self.row, to, at=self.now, **facts)
        if before.state is not to:
            assert advance(self.row, to, at=self.now, **facts) is self.row

    @precondition(lambda self: self.row.state is State.PLANNED)
    @rule(account=st.sampled_from("ab"))
    def announce(self, account):
        self.move(State.ANNOUNCED, account=account)
        self.tries.append(
            {"account": account, "at": self.now, "answered": None, "task": None, "seen": True, "lost": True}
        )

    def answer(self, **facts) -> None:
        self.tries[-1].update(answered=self.now, lost=False, **facts)

    @precondition(lambda self: self.row.state is State.ANNOUNCED)
    @rule(unseen=st.booleans(), final=st.booleans())
    def reject(self, unseen, final):
        error = note(RateLimited(status=429) if unseen else ServerError(status=500))
        self.move(State.FAILED if final else State.PLANNED, error=error)
        self.answer(seen=not unseen)

    @precondition(lambda self: self.row.state is State.ANNOUNCED)
    @rule(crash=st.booleans())
    def lose(self, crash):
        if crash:
            self.now += 1.5
            self.row = ledger.found_at_opening(self.row, self.now)
        else:
            self.move(State.UNCERTAIN, error=note(SubmissionUncertain(cause="reset", endpoint=ENDPOINT)))
        self.answer()
        self.tries[-1]["lost"] = True

    @precondition(lambda self: self.row.state in (State.ANNOUNCED, State.UNCERTAIN))
    @rule()
    def buy(self):
        answered = self.tries[-1]["answered"]
        self.move(State.SUBMITTED, task_id=f"t{len(self.tries)}")
        self.answer(task=self.row.task_id)
        self.tries[-1]["answered"] = answered or self.now

    @precondition(lambda self: self.row.state is State.SUBMITTED)
    @rule(good=st.booleans())
    def finish(self, good):
        self.move(State.SUCCEEDED if good else State.FAILED, **({"seed": 1} if good else {"error": note()}))

    @precondition(lambda self: self.row.state is State.SUCCEEDED)
    @rule(good=st.booleans())
    def save(self, good):
        self.move(
            State.SAVED if good else State.SUCCEEDED, **({"paths": ("p",)} if good else {"error": note()})
        )

    @precondition(lambda self: self.row.state in (State.FAILED, State.UNCERTAIN))
    @rule()
    def ask_again(self):
        self.move(State.PLANNED, asked=True)

    @rule(minutes=st.floats(0.1, 2))
    def wait(self, minutes):
        self.now += 60 * minutes

    @invariant()
    def money_is_what_the_diary_says(self):
        assert self.row.bought == 2 * sum(each["task"] is not None for each in self.tries)
        assert self.row.perhaps == 2 * sum(each["lost"] for each in self.tries)
        assert self.row.attempts == len(self.tries)

    @invariant()
    def no_slot_of_the_last_minute_is_forgotten(self):
        for account in "ab":
            expected = {
                (each["at"], each["answered"])
                for each in self.tries
                if each["account"] == account
                and each["seen"]
                and (each["answered"] is None or each["answered"] + WINDOW > self.now)
            }
            held = {
                (announced, answered)
                for announced, answered, _ in ledger.slots([self.row], endpoint=ENDPOINT, account=account)
                if answered is None or answered + WINDOW > self.now
            }
            assert held == expected


TestOneRow = OneRow.TestCase


# --- The whole -------------------------------------------------------------------------------------------


def test_a_ledger_adds_up_rows_by_state_and_money():
    rows = list(ROWS.values())
    total = ledger.fold(rows)
    assert total.total == len(rows) == len(State)
    assert set(total.rows.values()) == {1}
    assert set(total.images.values()) == {2}
    assert (total.bought, total.perhaps, total.spent) == (8, 4, 12)
    assert ledger.fold([]).total == ledger.fold([]).spent == 0


@pytest.mark.parametrize(
    ("duty", "states"),
    [
        (Duty.SEND, {State.PLANNED}),
        (Duty.WATCH, {State.SUBMITTED}),
        (Duty.SAVE, {State.SUCCEEDED}),
        (Duty.LIST, {State.ANNOUNCED, State.FAILED, State.UNCERTAIN}),
        (Duty.NOTHING, {State.SAVED}),
    ],
)
def test_each_state_asks_for_one_thing_when_a_batch_is_resumed(duty, states):
    assert set(ledger.states_for(duty)) == states
    assert ledger.fold(ROWS.values()).due(duty) == len(states)


def test_slots_come_back_into_the_window_of_their_account_and_endpoint():
    other = attrs.evolve(SUBMITTED, endpoint="/elsewhere")
    rows = [ANNOUNCED, SUBMITTED, other, row()]
    assert list(ledger.slots(rows, endpoint=ENDPOINT, account="a", offset=-5)) == [(5, None, 2), (5, 6, 2)]
    assert list(ledger.slots(rows, endpoint=ENDPOINT, account="b")) == []
    pacer = AccountPacer(images_per_minute=4)
    pacer.restore(ENDPOINT, ledger.slots(rows, endpoint=ENDPOINT, account="a"), 12.0)
    assert pacer.start_at(ENDPOINT, 2, 12.0) == pytest.approx(11 + WINDOW)


def test_a_result_is_told_without_presigned_queries_or_what_it_does_not_say():
    time = datetime(2026, 11, 22, tzinfo=UTC)
    url = f"https://bucket.example/dog.png?{SECRET}"
    result = ImageResult(
        task=Task(task_id="t"),
        images=(
            Image(url=url, type="png", url_ttl=3600, nsfw=NsfwDetection(checked=True, confidence=3.5)),
            Image(url=url, nsfw=NsfwDetection()),
        ),
        videos=(Artifact(url=url, type="mp4"),),
        task_type="IMG_TO_IMG",
        timings=Timings(complete_time=time),
    )
    facts = ledger.result_facts(result)
    bare = "https://bucket.example/dog.png"
    assert facts == {
        "files": [
            {"url": bare, "type": "png", "ttl": 3600, "nsfw": 3.5},
            {"url": bare, "type": None, "ttl": None},
            {"url": bare, "type": "mp4", "ttl": None},
        ],
        "times": {"complete_time": time.timestamp()},
        "task_type": "IMG_TO_IMG",
    }
    assert ledger.result_facts(ImageResult(task=Task(task_id="t"))) == {"files": [], "times": {}}


def test_an_error_is_noted_without_secrets():
    error = ServerError(
        status=500, reason="ODD", message=f"at https://bucket.example/dog.png?{SECRET} \udcff"
    )
    noted = RowError.of(error)
    assert (noted.kind, noted.reason, noted.retryable) == ("ServerError", "ODD", True)
    assert "0123abcd" not in noted.text
    noted.text.encode()
