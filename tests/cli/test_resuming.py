"""`resume`, `retry`, `status`: for every state a command is named that works, and nothing is a surprise."""

import json
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.from_thread
import pytest
from attrs import define, frozen

from novita_async import Account, ApiKey, JournalError, Polling, SqliteJournal
from novita_async._journal.sqlite import file as journal_file
from novita_async._purchase.machine import State
from novita_async.cli import _plan
from novita_async.cli._plan import News
from novita_async.cli._setup import Setup
from novita_async.testing import ExchangeKind, Fault, FaultPlan, sample_picture
from tests.helpers.batches import KEY, caller, manifest, of_event, seeds, shots, states_of
from tests.helpers.report_rows import journal_of, row
from tests.helpers.served import Withheld

OTHER_KEY = "sk_of_another_account"


@pytest.fixture
def pictures_in():
    return "pics"


@pytest.fixture
def call(capsys, folder):
    return caller(capsys, folder)


@pytest.fixture
def unfinished(call, folder, serve, monkeypatch):
    """A batch of so many requests that were paid and not seen finished; then their polls are answered."""

    def leave(count, **config):
        withheld = Withheld()
        server = serve(faults=withheld, **config)
        with monkeypatch.context() as patch:
            patch.setattr("novita_async._client.Polling", lambda: Polling.fixed(0.03, deadline=0.2))
            assert call("batch", shots(folder, count), "--out", "made")[0] == 5
        withheld.released.set()
        assert states_of(folder / "made") == ["submitted"] * count
        return server

    return leave


# --- What is paid is fetched --------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["shots.jsonl", "made/batch.json"])
def test_what_is_paid_is_fetched_alone_with_the_input_or_the_note_gone(call, folder, unfinished, gone):
    server = unfinished(3)
    (folder / gone).unlink()
    code, out, err = call("resume", "made", "--fetch-only")
    assert (code, len(out.split())) == (0, 3)
    assert all((folder / line).is_file() for line in out.split())
    assert "3 of 3 succeeded" in err
    assert states_of(folder / "made") == ["saved"] * 3
    assert len(server.ledger.entries) == 3


def test_fetching_alone_buys_nothing_of_what_was_not_sent(call, folder, serve, monkeypatch):
    server = serve(key="sk_wrong")
    call("batch", shots(folder, 2), "--out", "made")
    monkeypatch.setenv("NOVITA_API_KEY", KEY)
    code, _, err = call("resume", "made", "--fetch-only")
    assert code == 0
    assert "to go on: novita-async resume made\n" in err
    assert server.ledger.accepted == []


def test_where_the_input_is_gone_resume_fetches_what_is_paid_and_says_what_is_missing(
    call, folder, unfinished
):
    server = unfinished(2)
    (folder / "shots.jsonl").unlink()
    code, out, err = call("resume", "made")
    assert code == 2
    assert len(out.split()) == 2
    assert "shots.jsonl: no such file or directory: what is paid was fetched, and nothing was bought" in err
    assert call("resume", "made")[2] == "error: shots.jsonl: no such file or directory: nothing was bought\n"
    assert len(server.ledger.entries) == 2


# --- Nothing is bought by surprise --------------------------------------------------------------------------


def test_a_picture_that_has_changed_is_told_and_bought_only_when_asked(call, folder, serve):
    server = serve()
    call("batch", shots(folder, 3), "--out", "made")
    (folder / "pics" / "dog.png").write_bytes(sample_picture("another dog", (256, 192)))
    code, _, err = call("resume", "made")
    assert code == 1
    assert "3 requests are new since the last run: pics/dog.png has changed; not bought\n" in err
    assert "to buy them, too: novita-async resume made --buy-new\n" in err
    assert "not sent" not in err
    assert call("resume", "made")[0] == call("retry", "made", "--all")[0] == 1
    assert len(server.ledger.entries) == 3
    assert call("resume", "made", "--buy-new")[0] == 0
    assert seeds(server) == [0, 0, 1, 1, 2, 2]
    code, _, err = call("resume", "made")
    assert code == 0
    assert "new since" not in err


def test_lines_that_were_added_are_told_and_bought_only_when_asked(call, folder, serve):
    server = serve()
    call("batch", shots(folder, 2), "--out", "made")
    code, out, _ = call("resume", shots(folder, 3) and "made", "--json")
    (summary,) = of_event(out, "summary")
    assert (code, summary["new"], summary["failed"], summary["exit_code"]) == (1, 1, 0, 1)
    assert summary["next"] == ["novita-async resume made --buy-new"]
    assert len(server.ledger.entries) == 2
    assert call("resume", "made", "--buy-new")[0] == 0
    assert seeds(server) == [0, 1, 2]


def test_a_line_whose_turn_never_came_is_bought_and_one_that_changed_before_it_is_not(
    call, folder, serve, monkeypatch
):
    server = serve(key="sk_wrong")
    lines = [{"image": f"pics/{name}.png", "model_name": "m", "prompt": "p"} for name in ("dog", "cat")]
    assert call("batch", manifest(folder, *lines), "--out", "made", "--in-flight", 1)[0] == 3
    monkeypatch.setenv("NOVITA_API_KEY", KEY)
    (folder / "pics" / "cat.png").write_bytes(sample_picture("another cat", (256, 192)))
    code, _, err = call("resume", "made")
    assert code == 1
    assert "1 request is new since the last run: pics/cat.png has changed" in err
    assert len(server.ledger.accepted) == 1
    assert call("resume", "made", "--buy-new")[0] == 0
    assert len(server.ledger.accepted) == 2
    told = call("status", "made")[1]
    assert "never sent, and no longer in the input: 1\n" in told
    assert "nothing is left to do" in told


def test_a_plan_that_was_broken_off_is_made_by_resume(call, folder, serve):
    server = serve()
    call("batch", shots(folder, 1), "--out", "made")
    note = folder / "made" / "batch.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "plan": 0, "requests": 3, "marks": []}))
    shots(folder, 3)
    assert "2 not sent yet" in call("status", "made")[1]
    assert call("resume", "made")[0] == 0
    assert seeds(server) == [0, 1, 2]


def test_buying_begins_with_what_is_planned_while_pictures_are_still_read(call, folder, serve, monkeypatch):
    server, read, describe = serve(), [], _plan.order_of

    def slowly(request, **where):
        read.append(request)
        if len(read) == 5:  # nothing is read on before something was bought
            anyio.from_thread.run(until, lambda: len(server.ledger.accepted) == 4)
        return describe(request, **where)

    async def until(condition):
        with anyio.fail_after(30):
            while not condition():
                await anyio.sleep(0.01)

    monkeypatch.setattr(_plan, "_PIECE", 2)
    monkeypatch.setattr(_plan, "order_of", slowly)
    assert call("batch", shots(folder, 9), "--out", "made")[0] == 0
    assert seeds(server) == list(range(9))
    assert len(read) == 9
    assert Setup.read(folder / "made").plan > 0
    assert call("resume", "made")[0] == 0
    assert len(read) == 9
    assert len(seeds(server)) == 9


def test_a_batch_that_buys_no_more_is_planned_to_its_end(call, folder, serve, monkeypatch):
    serve()
    monkeypatch.setattr(_plan, "_PIECE", 2)
    typed = ("batch", shots(folder, 9), "--out", "made", "--price", "1", "--budget", "1")
    assert call(*typed, "--in-flight", "1")[0] == 3
    assert Setup.read(folder / "made").plan > 0
    assert "8 not sent yet" in call("status", "made")[1]


def test_a_journal_that_fails_while_it_plans_ends_the_batch(call, folder, serve, monkeypatch):
    server, plan_ahead = serve(), SqliteJournal.plan_ahead

    async def fails(journal, orders, run):
        if seeds(server):
            raise JournalError(problem="the disk is gone")
        await plan_ahead(journal, orders, run)

    monkeypatch.setattr(_plan, "_PIECE", 1)
    monkeypatch.setattr(SqliteJournal, "plan_ahead", fails)
    code, _, err = call("batch", shots(folder, 40), "--out", "made")
    assert (code, "the disk is gone" in err) == (3, True)
    monkeypatch.undo()
    assert Setup.read(folder / "made").plan == 0


def test_three_changed_pictures_are_named_and_the_rest_is_counted():
    news = News(requests=1234)
    assert news.sentence([]) == "1,234 requests are new since the last run"
    assert news.sentence(["a", "b", "c"]).endswith(": a, b, c have changed")
    assert news.sentence(["a", "b", "c", "d"]).endswith(": a, b, c and 1 more have changed")


# --- What it would be ---------------------------------------------------------------------------------------


def test_a_dry_run_tells_what_resume_would_fetch_buy_and_leave_alone(call, folder, serve):
    server = serve(illegal_words="dragon")
    lines = [
        {"image": "pics/dog.png", "model_name": "m", "prompt": p} for p in ("dragon", "dog", "fox", "owl")
    ]
    money = ("--price", "0.5", "--budget", "0.5", "--in-flight", 1)
    assert call("batch", manifest(folder, *lines[:3]), "--out", "made", *money)[0] == 3
    manifest(folder, *lines)
    before = {path: path.read_bytes() for path in (folder / "made").iterdir()}
    code, out, _ = call("resume", "made", "--dry-run")
    assert code == 0
    assert out == (
        "to fetch: 0 requests, which are paid\n"
        "to buy: 1 requests (1 images, $0.50)\n"
        "not to buy: 1 request is new since the last run (1 images, $0.50); "
        "to buy them, too: novita-async resume made --buy-new\n"
        "left alone: 1 failed\n"
    )
    assert {path: path.read_bytes() for path in (folder / "made").iterdir()} == before
    _, out, _ = call("resume", "made", "--dry-run", "--buy-new", "--json")
    (plan,) = of_event(out, "plan")
    assert (plan["buy"], plan["cost"], plan["new"], plan["left"]) == (2, "1.0", 0, {"failed": 1})
    assert len(server.ledger.accepted) == 1


def test_a_dry_run_of_fetching_alone_looks_at_the_journal_only(call, folder, unfinished):
    unfinished(2)
    (folder / "shots.jsonl").unlink()
    code, out, _ = call("resume", "made", "--fetch-only", "--dry-run")
    assert code == 0
    assert out.startswith("to fetch: 2 requests, which are paid\nto buy: 0 requests")


# --- No dead ends -------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class NoFiles(Withheld):
    """No file can be fetched until the test says so."""

    status: int

    def fault_for(self, kind, _):
        done = kind is not ExchangeKind.DOWNLOAD or self.released.is_set()
        return None if done else Fault.answer(self.status, b"")


@define(eq=False)
class Leaving:
    """Leaves a batch in a state. Each way gives the command to be named, and how to mend the cause."""

    call: object
    folder: Path
    serve: object
    unfinished: object
    monkeypatch: pytest.MonkeyPatch

    def batch(self, *options, count=1, **changes):
        self.call("batch", shots(self.folder, count, **changes), "--out", "made", *options)

    def planned(self):
        self.serve(key="sk_wrong")
        self.batch(count=2)
        return "resume made", lambda: self.monkeypatch.setenv("NOVITA_API_KEY", KEY)

    def uncertain(self):
        self.serve(faults=FaultPlan.listed("submit", {1: Fault.reset_after()}))
        self.batch()
        return "retry made --uncertain", None

    def failed_task(self):
        self.serve(failure_rate=1.0)
        self.batch()
        return "retry made", self.serve

    def refused(self):
        self.serve(illegal_words="dragon")
        self.batch(prompt="dragon")
        return "retry made --all", self.serve

    def paid(self):
        self.unfinished(2)
        return "resume made", None

    def not_saved(self, status=404):
        withheld = NoFiles(status=status)
        self.serve(faults=withheld)
        self.batch()
        assert states_of(self.folder / "made") == ["succeeded"]
        return "resume made", withheld.released.set

    def expired(self):
        return self.not_saved(403)

    def forgotten(self):
        self.not_saved()
        self.monkeypatch.setattr("novita_async._policy.believing.CONFIRMED_AFTER", 0.0)
        self.monkeypatch.setattr(
            "novita_async._client.Polling", lambda: Polling.fixed(0.03, not_found_grace=0, error_timeout=0.1)
        )
        self.serve()  # another service: the task is not known there
        code, _, told = self.call("resume", "made")
        assert code == 1
        assert "of these, no longer to be had from the service: 1\n" in self.call("status", "made")[1]
        self.call.told = told
        return "retry made --all", None

    def no_budget(self):
        self.serve()
        self.batch("--price", "0.5", "--budget", "1", count=4)
        return "resume made --budget 2.0", None

    def no_balance(self):
        self.serve(balance=20, price=20)
        self.batch("--in-flight", 1, count=3)
        return "resume made", self.serve

    def other_account(self):
        self.unfinished(1, api_keys=(KEY, OTHER_KEY))
        self.monkeypatch.setenv("NOVITA_API_KEY", OTHER_KEY)
        self.monkeypatch.setattr(
            "novita_async._client.Polling", lambda: Polling.fixed(0.03, not_found_grace=0, error_timeout=0.1)
        )
        code, _, err = self.call("resume", "made")
        label = Account(api_key=ApiKey(KEY)).label
        assert code in (1, 5)
        assert f"with the key of {label}, which paid: novita-async resume made\n" in err
        return "resume made", lambda: self.monkeypatch.setenv("NOVITA_API_KEY", KEY)


@pytest.fixture
def leave(call, folder, serve, unfinished, monkeypatch):
    return Leaving(call, folder, serve, unfinished, monkeypatch)


STATES = (
    "planned", "uncertain", "failed_task", "refused", "paid", "not_saved", "expired", "forgotten",
    "no_budget", "no_balance", "other_account",
)  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_for_every_state_status_and_summary_name_a_command_that_leaves_it(call, folder, leave, state):
    command, mend = getattr(leave, state)()
    assert f": novita-async {command}\n" in call.told
    name, *options = command.split()
    (told,) = [line for line in call("status", "made")[1].splitlines() if f"novita-async {command}" in line]
    assert told.endswith(f": novita-async {command}")
    (record,) = of_event(call("status", "made", "--json")[1], "status")
    assert record["next"] == [f"novita-async {command}"]
    if mend is not None:
        mend()
    code, _, err = call(name, *options)
    assert code == 0, err
    assert set(states_of(folder / "made")) == {"saved"}
    assert "nothing is left to do" in call("status", "made")[1]


def test_a_process_that_died_while_a_request_was_out_is_gone_on_with(call, folder):
    (folder / "made").mkdir()
    journal_of(folder / "made" / "batch.db", [row(state=State.ANNOUNCED)])
    told = call("status", "made")[1]
    assert "  1 on the way to the service\n" in told
    assert "to go on: novita-async resume made\n" in told


@contextmanager
def in_use(journal: Path):
    file = journal_file.open_to_write(journal)
    try:
        yield
    finally:
        file.close()


def test_a_journal_in_use_is_told_and_the_named_command_works_afterwards(call, folder, serve):
    server = serve()
    call("batch", shots(folder, 2), "--out", "made", "--price", "1", "--budget", "1")
    with in_use(folder / "made" / "batch.db"):
        code, _, err = call("resume", "made", "--budget", 2)
        assert code == 3
        assert ": wait for that to end, then run the same again" in err
        assert "to go on: novita-async resume made --budget 2\n" in err
    assert call("resume", "made", "--budget", 2)[0] == 0
    assert len(server.ledger.accepted) == 2
