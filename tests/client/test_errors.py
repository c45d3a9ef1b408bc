"""Errors: what each one knows, says and carries."""

import copy
import inspect
import pickle
import traceback

import attrs
import pytest

from novita_async import errors
from novita_async.errors import (
    APIError,
    AuthenticationFailed,
    BadRequest,
    ConfigurationError,
    DownloadFailed,
    EndpointNotFound,
    FailedEarlier,
    Flaw,
    InvalidRequest,
    MalformedAnswer,
    NoAnswer,
    NoImages,
    NotSent,
    NovitaError,
    RateLimited,
    SubmissionUncertain,
    TaskFailed,
    TaskTimeout,
    redacted,
)
from novita_async.models.accounts import Account, ApiKey, Balance
from novita_async.models.images import ImageSource
from novita_async.models.results import (
    Artifact,
    Failed,
    GeneratedImage,
    NsfwDetection,
    Succeeded,
    TaskResult,
    Uncertain,
    Unfinished,
)
from novita_async.tasks import Task

TASK = Task(task_id="73fab7c0", account="mine")
SIGNED = "https://bucket.example/a/b.png?X-Amz-Credential=K&X-Amz-Signature=5ec4e7"

FAILED = "download of https://bucket.example/a/b.png failed:"

VALUES = {str: "some words", int: 3, float: 60.5, tuple[Flaw, ...]: (Flaw("Img2Img.steps", "0 is wrong"),)}
"""A value for each type of attribute that some error requires; all others are tasks."""

CLASSES = [cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, NovitaError)]


def made(cls: type[NovitaError], **more: object) -> NovitaError:
    required = {
        a.name: VALUES.get(a.type, TASK) for a in attrs.fields(cls) if a.init and a.default is attrs.NOTHING
    }
    return cls(**{**required, **more})


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_pickles_and_copies_with_all_attributes(cls):
    error = made(cls, status=500, reason="R", account="mine", advice="do this")
    error.unsent = 7
    error.add_note("a note")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is cls
        assert vars(again) == vars(error)
        assert str(again) == str(error)
        assert again is not error
    assert error.__notes__ == ["a note"]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_can_be_raised_caught_and_told_apart(cls):
    with pytest.raises(NovitaError) as caught:
        raise made(cls)
    assert {caught.value: 1}[caught.value] == 1
    assert made(cls) != made(cls)
    assert repr(caught.value).startswith(f"{cls.__name__}(")


SELF_EXPLAINING = {NovitaError, ConfigurationError, InvalidRequest, APIError, errors.ResultError}
"""Bases, and errors whose sentence says already what would be right."""


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls not in SELF_EXPLAINING])
def test_every_text_ends_with_what_to_do_next(cls):
    error = made(cls)
    assert error.advice
    assert str(error) == f"{error.sentence()}: {error.advice}"
    assert not str(error).endswith(".")


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_a_scope_and_is_drawn_in_the_tree(cls):
    assert made(cls).scope in ("request", "endpoint", "account")
    assert isinstance(made(cls).retryable, bool)
    assert f" {cls.__name__}" in (errors.__doc__ or "")


def test_the_drawn_tree_is_the_real_one():
    drawn: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        name = line.strip(" │├└─").partition(" ")[0]
        cls = getattr(errors, name, None) if name else None
        if cls not in CLASSES:
            continue
        depth = line.index(name)
        above = [drawn[other] for other in drawn if other < depth]
        drawn = {other: known for other, known in drawn.items() if other < depth} | {depth: name}
        assert cls.__bases__[0] is (getattr(errors, above[-1]) if above else Exception), name


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            TaskTimeout(task=TASK, waited=60.4, last_status="TASK_STATUS_QUEUED"),
            "paid, not seen finished after 60 s, last seen TASK_STATUS_QUEUED: novita-async watch 73fab7c0",
        ),
        (
            TaskTimeout(task=TASK, waited=5, last_error=NoAnswer(cause="reset", task_id="t")),
            "paid, not seen finished after 5 s (no answer about task t: reset): novita-async watch 73fab7c0",
        ),
        (
            TaskFailed(task=TASK),
            "task 73fab7c0 failed: no explanation given: send it again, or with other settings",
        ),
        (
            NotSent(cause="refused"),
            "not sent: refused: nothing was bought; check the network and the base URL, then send it again",
        ),
        (
            NotSent(cause="refused", attempts=3, advice="x"),
            "not sent after 3 attempts: refused: x",
        ),
        (NoAnswer(cause="reset"), "no answer: reset: ask again"),
        (
            SubmissionUncertain(cause="reset", endpoint="/x", images=2, advice="x"),
            "submission of 2 image(s) to /x has no known end: reset: x",
        ),
        (APIError(status=418, reason="R", message="m", task_id="t"), "418 R: m (task t)"),
        (APIError(), "the service refused: no explanation given"),
        (EndpointNotFound(endpoint="/x", advice="y"), "404: /x is not served (no explanation given): y"),
        (MalformedAnswer(problem="odd", advice="x"), "odd: x"),
        (MalformedAnswer(problem="odd", excerpt="<html>", advice="x"), "odd: '<html>': x"),
        (NoImages(task_id="t", advice="x"), "task t succeeded without images: x"),
        (
            DownloadFailed(url=SIGNED, cause="403", task_id="t"),
            f"{FAILED} 403: paid and finished; novita-async watch t --out DIR",
        ),
        (
            DownloadFailed(url=SIGNED, cause="403"),
            f"{FAILED} 403: paid and finished; poll the task for a fresh URL",
        ),
        (InvalidRequest(faults=(Flaw("a", "b"), Flaw("c", "d"))), "a: b; c: d"),
        (ConfigurationError(problem="no key", advice="set it"), "no key: set it"),
        (NovitaError(), "NovitaError"),
    ],
)
def test_what_errors_say(error, text):
    assert str(error) == text
    assert repr(error) == f"{type(error).__name__}({text!r})"


def test_errors_about_a_task_know_its_id():
    assert TaskFailed(task=TASK).task_id == TaskTimeout(task=TASK, waited=1).task_id == "73fab7c0"
    assert TaskTimeout(task=TASK, waited=1, advice="x").advice == "x"


def test_errors_are_also_what_the_language_calls_them():
    assert isinstance(InvalidRequest(faults=()), ValueError)
    assert isinstance(TaskTimeout(task=TASK, waited=1), TimeoutError)


# --- Secrets ------------------------------------------------------------------------------------------------

KEY = "sk_5ec4e75ec4e75ec4e7"
BASE64 = "iVBORw0KGgo" * 30


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"see {SIGNED} and", "see https://bucket.example/a/b.png?… and"),
        (f'"{SIGNED}","x"', '"https://bucket.example/a/b.png?…","x"'),
        ("HTTPS://A.B/C?D=E", "HTTPS://A.B/C?…"),
        ("https://a.b/c without", "https://a.b/c without"),
        (f"Authorization: Bearer {KEY}!", "Authorization: Bearer …!"),
        (f"key {KEY} is bad", "key sk_… is bad"),
        ("sk_ and a risk_factor", "sk_ and a risk_factor"),
        (f'{{"a": "{BASE64}=="}}', '{"a": "<base64>"}'),
        ("/a/long/path/of/a/picture/" * 7 + "dog.png", "/a/long/path/of/a/picture/" * 7 + "dog.png"),
    ],
)
def test_secrets_are_cut_out_of_texts(text, shown):
    assert redacted(text) == shown


@pytest.mark.parametrize("cls", CLASSES)
def test_no_error_shows_a_secret(cls):
    secret = f"{SIGNED} Bearer {KEY} {BASE64}"
    texts = {a.name: secret for a in attrs.fields(cls) if a.init and a.type in (str, str | None)}
    error = made(cls, **texts)
    if isinstance(error, InvalidRequest):
        error.faults = (Flaw("Webhook.url", secret),)
    everything = f"{error}{error!r}{''.join(traceback.format_exception(error))}"
    for hidden in ("5ec4e7", "X-Amz", BASE64[:200]):
        assert hidden not in everything


def test_a_failed_download_forgets_the_query():
    assert DownloadFailed(url=SIGNED, cause="x").url == "https://bucket.example/a/b.png"


def test_an_api_key_is_shown_by_reveal_alone():
    key = ApiKey(KEY)
    account = Account(api_key=key)
    holders = [key, account, [key], {"k": account}]
    shown = "".join(f"{holder}{holder!r}{holder:}" for holder in holders)
    assert KEY[3:] not in shown
    assert KEY[3:] not in str(attrs.asdict(account))
    assert key.reveal() == KEY
    assert repr(key) == f"<ApiKey {key.fingerprint}>"
    assert account.label == f"key-{key.fingerprint}"
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize("pack", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_api_key_does_not_leave_the_process(pack):
    for holder in (ApiKey(KEY), Account(api_key=KEY)):
        if pack is copy.copy and isinstance(holder, Account):
            continue  # a copy of the account shares the key
        with pytest.raises(TypeError, match="an ApiKey is not pickled"):
            pack(holder)


def test_a_bad_key_is_not_in_the_error():
    for bad in (f"{KEY} {KEY}", f"{KEY}\n{KEY}", f"{KEY}é", f"Bearer {KEY}\x00"):
        with pytest.raises(ConfigurationError, match="copy it again") as caught:
            ApiKey(bad)
        assert KEY[3:] not in f"{caught.value!r}" + "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("text", [KEY, f"Bearer {KEY}", f"  bearer   {KEY}\n", f"BEARER {KEY}"])
def test_a_key_may_come_with_its_scheme(text):
    assert ApiKey(text) == ApiKey(KEY)
    assert hash(ApiKey(text)) == hash(ApiKey(KEY))
    assert ApiKey(text) != ApiKey("other")
    assert ApiKey(text) != KEY


@pytest.mark.parametrize("text", ["", "  ", "Bearer", "Bearer  "])
def test_an_empty_key_is_refused(text):
    with pytest.raises(ConfigurationError, match="NOVITA_API_KEY"):
        Account(api_key=text)


@pytest.mark.parametrize("quota", [0, -1, 1.5, "10", True])
def test_a_quota_is_a_whole_number_above_zero(quota):
    with pytest.raises(ConfigurationError, match=r"Account\.images_per_minute: .* use None where"):
        Account(api_key=KEY, images_per_minute=quota)
    assert Account(api_key=KEY, images_per_minute=1, label="mine").label == "mine"


# --- Results and outcomes -----------------------------------------------------------------------------------


def test_no_result_shows_a_presigned_query():
    image = GeneratedImage(url=SIGNED, nsfw=NsfwDetection())
    result = TaskResult(task=TASK, images=(image,), videos=(Artifact(url=SIGNED),), extra={"a": SIGNED})
    assert "X-Amz" not in f"{image}{result!r}{Succeeded(result=result)}"
    assert "https://bucket.example/a/b.png" in repr(image)


@pytest.mark.parametrize(
    "url",
    ["", "https://a/b", "http://[", "https://a?X-Amz-Date=x&X-Amz-Expires=5",
     "https://a?X-Amz-Date=20240115T083555Z", "https://a?X-Amz-Date=20240115T083555Z&X-Amz-Expires=99999999999999"],
)  # fmt: skip
def test_a_url_that_does_not_say_when_it_ends_has_no_end(url):
    assert Artifact(url=url).expiry_time is None


def test_the_four_outcomes_know_their_task_and_unwrap():
    result = TaskResult(task=TASK)
    refused, failed = AuthenticationFailed(), TaskFailed(task=TASK)
    lost, late = SubmissionUncertain(cause="x", endpoint="/x"), TaskTimeout(task=TASK, waited=1)
    assert Succeeded(result=result).unwrap() is result
    assert Succeeded(result=result).task is TASK
    outcomes = [
        Succeeded(result=result),
        Failed(error=failed, task=TASK),
        Failed(error=refused),
        Uncertain(error=lost),
        Unfinished(error=late, task=TASK),
    ]
    assert [outcome.task_id for outcome in outcomes] == ["73fab7c0", "73fab7c0", None, None, "73fab7c0"]
    for outcome in outcomes[1:]:
        with pytest.raises(NovitaError) as caught:
            outcome.unwrap()
        assert caught.value is outcome.error
    for outcome in outcomes[:1]:
        assert pickle.loads(pickle.dumps(outcome)) == outcome


def test_images_that_are_required_and_missing_are_an_error_with_the_task_id():
    with pytest.raises(NoImages) as caught:
        TaskResult(task=TASK).require_images()
    assert (caught.value.task_id, caught.value.account) == ("73fab7c0", "mine")
    image = GeneratedImage(url="u")
    assert TaskResult(task=TASK, images=(image,)).require_images() == (image,)


@pytest.mark.parametrize(
    ("retryable", "advice"),
    [
        (True, "run the batch again with retry_failed=True"),
        (
            False,
            'the same would fail again; change the request, or mend the cause: retry_failed="all"',
        ),
    ],
)
def test_what_failed_earlier_is_advised_to_be_bought_again_only_where_that_can_help(retryable, advice):
    error = FailedEarlier(kind="BadRequest", text="400", retryable=retryable)
    assert str(error) == f"failed in an earlier run (BadRequest): 400: {advice}"


@pytest.mark.parametrize(
    ("detection", "above"),
    [
        (NsfwDetection(checked=True, confidence=50), False),
        (NsfwDetection(checked=True, confidence=50.1), True),
        (NsfwDetection(checked=False, confidence=99), False),
        (NsfwDetection(checked=True), False),
        (NsfwDetection(confidence=99), False),
    ],
)
def test_nsfw_is_above_a_threshold_only_if_it_was_checked(detection, above):
    assert detection.above(50) is above


def test_tasks_are_the_same_whenever_they_were_submitted():
    assert Task(task_id="t", submitted_at=1) == Task(task_id="t", submitted_at=2)


def test_money_is_decimal():
    assert str(Balance.dollars(12_345)) == "1.2345"


def test_retryable_and_scope_have_sane_defaults():
    assert [cls for cls in CLASSES if made(cls).retryable and made(cls).scope != "request"] == []
    assert not BadRequest().retryable
    assert RateLimited().retryable


def test_a_source_in_an_error_shows_no_bytes():
    with pytest.raises(InvalidRequest) as caught:
        ImageSource.of([ImageSource.from_bytes(b"\x89PNG" * 1000)])
    assert "x89" not in str(caught.value)
