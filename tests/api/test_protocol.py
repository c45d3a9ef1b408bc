"""HTTP to values: submissions, polls, listings, refusals."""

import base64
import copy
import json
from datetime import UTC, datetime
from decimal import Decimal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from novita_async._api import codec, protocol
from novita_async._http import AnswerPart, Delivery, DeliveryFailed, HTTPResponse
from novita_async._policy.retrying import Failure
from novita_async.errors import (
    APIError,
    AuthenticationFailed,
    BadRequest,
    BalanceExhausted,
    ContentRejected,
    EndpointNotFound,
    ImageRejected,
    MalformedAnswer,
    NotSent,
    NovitaError,
    PermissionDenied,
    RateLimited,
    ServerError,
    StorageRejected,
    SubmissionUncertain,
    TaskFailed,
    TaskNotFound,
)
from novita_async.models.endpoints import Endpoints
from novita_async.models.requests import AnyTask, Img2Img, Txt2Img, Webhook
from novita_async.models.results import GeneratedImage, NsfwDetection
from novita_async.tasks import Task
from tests.helpers.payloads import load, named, picture

PATH = "/v3/async/img2img"
TASK = Task(task_id="73fab7c0-e24f-4027-9df0-81ff8ce4bc1f", account="mine")


def asked_for(body):
    """The task that an answer of the documentation is about; another one's is never believed."""
    about = body.get("task") if isinstance(body, dict) else None
    named = about.get("task_id") if isinstance(about, dict) else None
    return Task(task_id=named, account="mine") if isinstance(named, str) and named else TASK


def test_an_answer_about_another_task_is_not_believed_and_passes():
    for status in ("TASK_STATUS_PROCESSING", "TASK_STATUS_SUCCEED"):
        answer = response({"task": {"task_id": "another", "status": status}})
        with pytest.raises(MalformedAnswer, match="about another task") as caught:
            protocol.read_snapshot(answer, TASK)
        assert caught.value.retryable


ENDPOINTS = Endpoints()


def response(body=b"", status=200, **headers) -> HTTPResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HTTPResponse(status=status, body=raw, headers=headers)


def submitted(body=b"", status=200, **headers) -> str:
    return protocol.read_submission(response(body, status, **headers), PATH, 4)


def seen(body=b"", status=200, **headers):
    return protocol.read_snapshot(response(body, status, **headers), asked_for(body))


def raised(call, *arguments, **options) -> NovitaError:
    with pytest.raises(NovitaError) as caught:
        call(*arguments, **options)
    return caught.value


def error(reason, status=400, message="the service's words", **more):
    return {"code": status, "reason": reason, "message": message, "metadata": {}, **more}


# --- Submissions --------------------------------------------------------------------------------------------


def test_each_request_becomes_a_post_to_its_path():
    img2img = Img2Img(model_name="m", prompt="p", image=picture())
    txt2img = Txt2Img(model_name="m", prompt="p", width=512, height=512)
    other = AnyTask(path="/v3/async/upscale", body={})
    for request, path in (
        (img2img, PATH),
        (txt2img, "/v3/async/txt2img"),
        (other, "/v3/async/upscale"),
    ):
        http = protocol.submission(request, ENDPOINTS)
        assert (http.method, http.path, http.query) == ("POST", path, ())
        assert http.body


def test_a_callback_url_is_sent_where_there_is_a_place_for_it():
    plain = Txt2Img(model_name="m", prompt="p", width=512, height=512)
    taken = plain.with_extra(webhook=Webhook(url="https://mine.example/x"))
    other = AnyTask(path="/v3/async/upscale", body={})
    assert [request.takes_callback for request in (plain, taken, other)] == [True, False, False]
    assert plain.with_extra(response_image_type="png").takes_callback
    (text,) = protocol.submission(plain, ENDPOINTS, "https://a.example/cb").body
    assert json.loads(text)["extra"] == {"webhook": {"url": "https://a.example/cb"}}
    assert protocol.submission(other, ENDPOINTS, "https://a.example/cb").body == (b"{}",)


@pytest.mark.parametrize("name", [*named("seed_*_submit_response"), *named("docs_*submit_response*")])
def test_documented_submit_answers_are_read(name):
    document = load(name)
    assert submitted(document) == (document.get("task_id") or document["data"]["task_id"])


@pytest.mark.parametrize(
    "body",
    [
        {"task_id": "t"},
        {"code": 0, "msg": "", "data": {"task_id": "t"}},
        {"code": None, "data": {"task_id": "t"}},
        {"code": 1, "task_id": "t"},
        {"task_id": "", "data": {"task_id": "t"}},
        {"task_id": "t", "data": 5, "new": []},
        b'\xef\xbb\xbf{"task_id": "t"}',
        b'{"task_id": "t", "echo": "\xff\xfe"}',
        {"task_id": "t", "reason": "UNKNOWN"},
    ],
)
def test_both_envelopes_hold_a_task_id(body):
    assert submitted(body) == "t"
    assert submitted(body, 201) == "t"


def test_a_task_id_is_opaque():
    assert submitted({"task_id": 12345}) == "12345"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>ok</html>",
        b'{"task_id": "73fab7c0-',
        {},
        [],
        "t",
        {"task_id": ""},
        {"task_id": None},
        {"task_id": {"a": 1}},
        {"task_id": ["t"]},
        {"task_id": True},
        {"code": 0, "data": None},
        {"code": 0, "data": {}},
        {"code": -1, "msg": "internal"},
        {"code": 5, "msg": "host unavailable"},
        {"code": 9, "msg": "timeout"},
        {"code": 77},
        {"reason": "UNKNOWN"},
        {"reason": "GET_RESULT_FAILED"},
        {"reason": "A_REASON_OF_NEXT_YEAR"},
        b"[" * 100_000,
        b'{"task_id": ' + b"9" * 5000 + b"}",
    ],
)
@pytest.mark.parametrize("status", [200, 202, 500, 502, 503, 504, 599])
def test_an_answer_that_is_neither_yes_nor_no_leaves_the_purchase_uncertain(body, status):
    problem = raised(submitted, body, status)
    assert type(problem) is SubmissionUncertain
    assert (problem.status, problem.endpoint, problem.images) == (status, PATH, 4)
    assert not problem.retryable
    assert problem.task_id is None
    assert f"answered {status}" in str(problem)
    assert "perhaps paid" in str(problem)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_of_a_purchase_names_the_place_without_its_query(status):
    problem = raised(submitted, b"", status, location="https://other.example/v3?token=secret")
    assert type(problem) is SubmissionUncertain
    assert "a redirect to https://other.example/v3; set base_url" in str(problem)
    assert "secret" not in problem.cause


def test_a_task_id_under_a_bad_status_is_not_believed():
    assert type(raised(submitted, {"task_id": "t"}, 500)) is SubmissionUncertain
    assert type(raised(submitted, {"task_id": "t"}, 400)) is BadRequest


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (1, BadRequest), (2, BadRequest), (3, TaskNotFound), (4, AuthenticationFailed), (6, BadRequest),
        (7, BalanceExhausted), (8, BadRequest), (10, BadRequest), (11, ContentRejected), ("1", BadRequest),
    ],
)  # fmt: skip
def test_codes_of_the_older_envelope_that_say_no(code, cls):
    problem = raised(submitted, {"code": code, "msg": "invalid parameter", "data": None})
    assert type(problem) is cls
    assert str(problem).startswith(f"200 code {code}: invalid parameter")
    assert type(raised(submitted, {"code": code}, 500)) is SubmissionUncertain


# --- Reasons and statuses -----------------------------------------------------------------------------------

# reason, class, scope, retryable
TABLE = [
    ("INVALID_REQUEST_BODY", BadRequest, "request", False),
    ("VALIDATOR", BadRequest, "request", False),
    ("IMAGE_FILE_EXCEEDS_MAX_SIZE", ImageRejected, "request", False),
    ("INVALID_IMAGE_FORMAT", ImageRejected, "request", False),
    ("IMAGE_EXCEEDS_MAX_RESOLUTION", ImageRejected, "request", False),
    ("INVALID_IMAGE_SIZE", ImageRejected, "request", False),
    ("IMAGE_NO_FACE_DETECTED", ImageRejected, "request", False),
    ("INVALID_CUSTOM_OUTPUT_PATH", StorageRejected, "request", False),
    ("ILLEGAL_PROMPT", ContentRejected, "request", False),
    ("ILLEGAL_IMAGE_CONTENT", ContentRejected, "request", False),
    ("INVALID_AUDIO_FILE", BadRequest, "request", False),
    ("BILLING_BALANCE_NOT_ENOUGH", BalanceExhausted, "account", False),
    ("NOT_ENOUGH_BALANCE", BalanceExhausted, "account", False),
    ("NOT_ENOUGH_BUDGET", BalanceExhausted, "account", False),
    ("MEMBER_BUDGET_NOT_ENOUGH", BalanceExhausted, "account", False),
    ("MISSING_API_KEY", AuthenticationFailed, "account", False),
    ("INVALID_API_KEY", AuthenticationFailed, "account", False),
    ("FAILED_TO_AUTH", AuthenticationFailed, "account", False),
    ("BILLING_AUTH_FAILED", PermissionDenied, "account", False),
    ("FEATURE_NOT_ALLOWED", PermissionDenied, "endpoint", False),
    ("API_NOT_ALLOWED", PermissionDenied, "endpoint", False),
    ("NEED_REAL_NAME_VERIFY", PermissionDenied, "account", False),
    ("ACCESS_DENY", PermissionDenied, "account", False),
    ("API_NOT_FOUND", EndpointNotFound, "endpoint", False),
    ("FUSION_MODEL_NOT_FOUND", EndpointNotFound, "endpoint", False),
    ("TASK_NOT_FOUND", TaskNotFound, "request", False),
    ("RATE_LIMIT_EXCEEDED", RateLimited, "request", True),
    ("TOKEN_LIMIT_EXCEEDED", RateLimited, "request", True),
    ("server_overload", RateLimited, "request", True),
    ("ANONYMOUS_ACCESS_QUOTA_EXCEEDS", RateLimited, "request", False),
    ("BILLING_FAILED", ServerError, "request", True),
    ("CREATE_TASK_FAILED", ServerError, "request", True),
    ("GET_RESULT_FAILED", ServerError, "request", True),
    ("UNKNOWN", ServerError, "request", True),
    ("SERVICE_NOT_AVAILABLE", ServerError, "request", True),
]
OPEN = {"GET_RESULT_FAILED", "UNKNOWN", "TASK_NOT_FOUND"}
STATUSES = [400, 401, 402, 403, 404, 409, 413, 418, 422, 429, 500, 502, 503, 504]


@pytest.mark.parametrize(("reason", "cls", "scope", "retryable"), TABLE)
def test_the_reason_decides_whatever_the_status(reason, cls, scope, retryable):
    for status in STATUSES:
        problem = raised(seen, error(reason, status), status)
        assert (type(problem), problem.scope, problem.retryable) == (cls, scope, retryable), status
        assert (problem.status, problem.reason) == (status, reason)
        assert problem.message == "the service's words"
        assert (problem.task_id, problem.account) == (TASK.task_id, "mine")


@pytest.mark.parametrize(("reason", "cls", "scope", "retryable"), TABLE)
def test_a_purchase_is_refused_only_if_the_answer_says_so(reason, cls, scope, retryable):
    """A reason that says that no task was made is believed under every status; another leaves it to that."""
    for status in (200, *STATUSES):
        problem = raised(submitted, error(reason, status), status)
        if reason in OPEN and not 400 <= status < 500:
            assert (type(problem), problem.reason) == (SubmissionUncertain, reason), status
        else:
            assert (type(problem), problem.scope, problem.retryable) == (cls, scope, retryable), status
            assert problem.task_id is None


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (400, BadRequest), (401, AuthenticationFailed), (402, BalanceExhausted), (403, PermissionDenied),
        (404, EndpointNotFound), (405, BadRequest), (409, BadRequest), (410, EndpointNotFound),
        (413, ImageRejected), (422, BadRequest), (425, ServerError), (429, RateLimited), (451, BadRequest),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "body", [b"", b"some text", b"<html><h1>no</h1></html>", b"{", {"reason": "NEW"}, []]
)
def test_the_status_decides_where_the_reason_is_unknown(status, cls, body):
    problem = raised(submitted, body, status)
    is_firewall = status == 403 and isinstance(body, bytes) and body.startswith(b"<")
    assert type(problem) is (NotSent if is_firewall else cls)
    assert problem.status == status


def test_a_firewall_s_page_is_no_refusal_of_the_service_and_passes():
    problem = raised(submitted, b"\n<!doctype html><title>Just a moment...</title>", 403)
    assert isinstance(problem, NotSent)
    assert problem.retryable
    assert isinstance(raised(submitted, error("ACCESS_DENY"), 403), PermissionDenied)


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 520, 599])
def test_a_broken_service_is_asked_again(status):
    problem = raised(seen, b"<html>bad gateway</html>", status)
    assert type(problem) is ServerError
    assert problem.retryable
    assert "<html>bad gateway</html>" in problem.message


@pytest.mark.parametrize(
    ("body", "cls", "retryable"),
    [
        (b"route not found", ServerError, True),
        (b"404 page not found", ServerError, True),
        (b"", ServerError, True),
        (error("API_NOT_FOUND"), EndpointNotFound, False),
        (error("TASK_NOT_FOUND"), TaskNotFound, False),
        (error("NOT_FOUND"), TaskNotFound, False),
        (error(None), TaskNotFound, True),
    ],
)
@pytest.mark.parametrize("status", [404, 410])
def test_a_404_about_a_task_is_the_task_if_the_route_answers_in_json(status, body, cls, retryable):
    """And final only where the service gives a reason."""
    problem = raised(seen, body, status)
    assert (type(problem), problem.retryable) == (cls, retryable)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 405, 408, 409, 413, 418, 425, 451, 499])
@pytest.mark.parametrize(
    "body", [b"", b"<html>Attention Required! | Cloudflare</html>", b"{}", {"message": "no"}]
)
def test_a_refused_poll_without_a_reason_is_not_the_service_s_word_and_passes(status, body):
    problem = raised(seen, body, status)
    assert (type(problem), problem.retryable, problem.scope) == (ServerError, True, "request")
    assert (problem.status, problem.task_id) == (status, TASK.task_id)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refused_poll_with_a_new_reason_is_the_service_s_word(status):
    assert not raised(seen, error("A_REASON_OF_NEXT_YEAR"), status).retryable
    assert type(raised(seen, b"", 429)) is RateLimited


def test_a_question_about_no_task_is_refused_by_its_status():
    """A page instead of the balance says at once that the address is wrong."""
    assert type(raised(protocol.read_balance, response(b"<html>", 404))) is EndpointNotFound
    assert not raised(protocol.read_balance, response(b"<html>", 403)).retryable


# --- Gateways -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (521, b"<html>521</html>"),
        (523, b""),
        (525, b"error code: 525"),
        (526, b"{}"),
        (530, b"error code: 1016"),
        (530, b'<span>Error</span> <span class="cf-error-code">1016</span>'),
        (530, b'{"error_code":1016,"title":"Error 1016: Origin DNS error"}'),
        (530, b"error code: 1001"),
    ],
)
def test_a_gateway_that_did_not_reach_the_service_has_bought_nothing(status, body):
    problem = raised(submitted, body, status)
    assert (type(problem), problem.retryable, problem.status) == (NotSent, True, status)
    assert str(problem).startswith(
        f"not sent: the gateway answered {status}: the service could not be reached"
    )
    assert protocol.failed_purchase(status, problem) == Failure(perhaps_bought=False, passes=True)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (520, b""),
        (522, b"error code: 522"),
        (524, b""),
        (527, b""),
        (530, b"error code: 1033"),
        (530, b"error code: 10160"),
        (530, b""),
        (502, b"error code: 1016"),
    ],
)
def test_a_gateway_that_may_have_reached_the_service_leaves_the_purchase_uncertain(status, body):
    problem = raised(submitted, body, status)
    assert type(problem) is SubmissionUncertain
    assert protocol.failed_purchase(status, problem) == Failure(perhaps_bought=True, passes=True)


def test_a_reason_counts_before_a_gateway_s_status():
    assert type(raised(submitted, error("INVALID_API_KEY"), 521)) is AuthenticationFailed
    assert type(raised(seen, b"error code: 1016", 530)) is ServerError


@pytest.mark.parametrize(
    ("body", "cls", "passes"),
    [
        (b"", SubmissionUncertain, True),
        (b"<html>408 Request Time-out</html>", SubmissionUncertain, True),
        ({"message": "timeout"}, SubmissionUncertain, True),
        (error("REQUEST_TIMEOUT", 408), ServerError, True),
        (error("UNKNOWN", 408), ServerError, True),
        (error("VALIDATOR", 408), BadRequest, False),
    ],
)
def test_a_408_to_a_purchase_says_no_only_with_a_reason(body, cls, passes):
    problem = raised(submitted, body, 408)
    failed = protocol.failed_purchase(408, problem)
    assert (type(problem), failed.passes) == (cls, passes)
    assert failed.perhaps_bought == (cls is SubmissionUncertain)


@pytest.mark.parametrize(
    ("status", "reason", "passes"),
    [
        (400, "RATE_LIMIT_EXCEEDED", True), (403, "RATE_LIMIT_EXCEEDED", True),
        (500, "server_overload", True),
        (400, "GET_RESULT_FAILED", True), (403, "UNKNOWN", True), (429, "NOT_ENOUGH_BALANCE", False),
        (429, "ANONYMOUS_ACCESS_QUOTA_EXCEEDS", False), (400, "TASK_FAILED", False), (429, None, True),
        (425, None, True), (400, None, False), (503, "SERVICE_NOT_AVAILABLE", True), (400, "NEW", False),
    ],
)  # fmt: skip
def test_whether_a_refused_purchase_is_tried_again_is_said_by_its_reason_first(status, reason, passes):
    problem = raised(submitted, error(reason, status), status)
    assert isinstance(problem, APIError)
    assert problem.retryable == passes
    wait = protocol.failed_purchase(status, problem, 7.0)
    assert wait == Failure(perhaps_bought=False, passes=passes, retry_after=7.0)


@pytest.mark.parametrize(("reason", "passes"), [("TASK_FAILED", False), ("UNKNOWN", True), (None, True)])
def test_what_is_uncertain_can_still_be_final(reason, passes):
    """Somebody who risks paying twice does not send what would be refused again."""
    problem = raised(submitted, error(reason, 500), 500)
    assert protocol.failed_purchase(500, problem) == Failure(perhaps_bought=True, passes=passes)
    assert not problem.retryable


@pytest.mark.parametrize(
    ("status", "body", "passes"),
    [(200, {"task_id": "t"}, True), (200, b"", True), (500, b"", True), (302, b"", False), (307, b"", False)],
)
def test_an_answer_to_half_a_request_buys_nothing(status, body, passes):
    """A redirect, which is not followed, would come again."""
    answer = attrs.evolve(response(body, status), early=True)
    problem = raised(protocol.read_submission, answer, PATH, 4)
    assert (type(problem), problem.retryable, problem.status) == (NotSent, passes, status)
    refused = attrs.evolve(response(error("ILLEGAL_PROMPT"), 400), early=True)
    assert type(raised(protocol.read_submission, refused, PATH, 4)) is ContentRejected


@pytest.mark.parametrize(
    ("status", "plain"), [(200, False), (302, True), (400, True), (499, True), (500, False), (521, True)]
)
def test_some_statuses_say_enough_where_the_rest_broke_off(status, plain):
    assert protocol.is_plain(status) == plain


# --- Odd JSON -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b'{"task_id":"t-1","eta":NaN}',
        b'{"eta":-Infinity,"task_id":"t-1"}',
        b'{"task_id":"t-1","msg":"ok \\ud83d"}',
        b'{"task_id":"t-1","\\udc00":1}',
        b'{"task_id":"t-1","eta":1e999}',
        b'{"task_id":"t-1","eta":' + b"9" * 5000 + b"}",
        b'{"task_id":"t-1","msg":"two\nlines\tand \x01"}',
        b'{"task_id":"t-1","msg":"\xff\xfe"}',
        b' \n{"task_id":"t-1"}\n<!-- proxied -->',
        '{"task_id":"t-1"}'.encode("utf-16"),
        b'{"data":{"task_id":"t-1","eta":NaN}}',
        b'{"task_id":"t-1","eta":,}',
        b'{\'code\':0,"task_id": "t-1"}',
    ],
)
def test_an_id_in_odd_json_is_read(body):
    """What other parsers write and take spoils only the value it stands in; the task is paid."""
    assert submitted(body) == "t-1"


@pytest.mark.parametrize(
    "body",
    [b'{"task_id":"t-1', b'<a>"task_id":"t-1",</a>', b'[{"task_id":"t-1"}]', b'{"x":"task_id":"t-1" x'],
)
def test_an_id_that_is_not_certainly_whole_is_not_believed(body):
    assert type(raised(submitted, body)) is SubmissionUncertain


def test_a_finished_task_in_odd_json_ends():
    text = (
        b'{"task": {"status": "TASK_STATUS_SUCCEED", "eta": NaN}, "extra": {"seed": "1", "x": Infinity, '
        b'"note": "cut \\ud83d", "whole": "\\ud83d\\ude00"}, "images": [{"image_url": "https://r/1", '
        b'"nsfw_detection_result": {"valid": true, "confidence": NaN}}]}'
    )
    result = seen(text).result
    assert result.images[0].nsfw == NsfwDetection(checked=True, confidence=None)
    assert result.extra == {"seed": "1", "x": None, "note": "cut \ufffd", "whole": "\U0001f600"}
    assert result.seed == 1


def test_a_failed_task_in_odd_json_ends():
    snapshot = seen(b'{"task": {"status": "TASK_STATUS_FAILED", "reason": "x \\ud83d"}}')
    assert (snapshot.state, snapshot.explanation) == ("failed", "x \ufffd")


def test_a_running_task_in_odd_json_is_seen():
    snapshot = seen(b'{"task": {"status": "TASK_STATUS_PROCESSING", "progress_percent": 40, "eta": NaN}}')
    assert (snapshot.state, snapshot.progress_percent, snapshot.eta) == ("running", 40.0, None)


def test_a_reason_in_odd_json_is_read():
    problem = raised(submitted, b'{"reason":"RATE_LIMIT_EXCEEDED","message":"\\ud83d","wait":NaN}', 400)
    assert (type(problem), problem.message) == (RateLimited, "\ufffd")
    problem.message.encode()


def test_an_event_in_odd_json_names_its_task():
    assert protocol.read_event(b'{"payload":{"task":{"task_id":"t","eta":NaN,"reason":"\\udfff"}}}') == "t"


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_lenient_reading_gives_json_or_says_that_there_is_none(text):
    """Whatever it gives can be written as JSON again."""
    try:
        value = codec.parse_leniently(text)
    except codec.Unreadable:
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


def test_a_route_that_is_not_served_names_its_path():
    problem = raised(submitted, b"route not found", 404)
    assert problem.endpoint == PATH
    assert str(problem).startswith(f"404: {PATH} is not served (route not found): nothing was bought")
    other = raised(protocol.read_balance, response(b"", 404))
    assert "404: this route is not served (no explanation given)" in str(other)


@pytest.mark.parametrize(
    ("body", "reason", "message"),
    [
        ({"error": {"message": "words", "code": "a_code"}}, "a_code", "words"),
        ({"error": {"message": "words", "reason": "R", "code": 5}}, "R", "words"),
        ({"error": "words"}, None, "words"),
        ({"msg": "words"}, None, "words"),
        ({"message": "words", "msg": "others", "reason": 5}, None, "words"),
        ({"message": None, "reason": ""}, None, '{"message": null, "reason": ""}'),
        (b"  some\n  words ", None, "some words"),
        (b"\xff\xfe", None, "\ufffd\ufffd"),
        (b"", None, ""),
    ],
)
def test_reason_and_words_are_found_wherever_they_are(body, reason, message):
    problem = raised(seen, body, 400)
    assert (problem.reason, problem.message) == (reason, message)


def test_metadata_is_kept_as_text():
    problem = raised(seen, error("VALIDATOR", metadata={"field": "prompt", "limit": 1024, "odd": []}), 400)
    assert problem.metadata == {"field": "prompt", "limit": "1024", "odd": ""}
    assert raised(seen, error("VALIDATOR", metadata=None), 400).metadata == {}


def test_advice_about_a_poll_depends_on_whether_asking_again_can_help():
    assert "paid; once the cause is removed, ask again: novita" in str(raised(seen, error("VALIDATOR"), 400))


def test_a_refused_purchase_without_a_reason_may_be_the_word_of_a_proxy():
    assert "perhaps a proxy refused this" in str(raised(submitted, b"no", 403))
    assert "check what this account may use" in str(raised(submitted, error("ACCESS_DENY"), 403))


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_advice_about_a_poll_does_not_say_that_nothing_was_bought(status):
    problem = raised(seen, b"", status)
    assert "nothing was bought" not in str(problem)
    assert str(problem).endswith(f"the task is paid; ask again: novita-async watch {TASK.task_id}")
    assert "nothing was bought" in str(raised(submitted, b"", min(status, 429)))


def test_some_reasons_have_advice_of_their_own():
    assert str(raised(submitted, error("NEED_REAL_NAME_VERIFY"), 403)).endswith(": verify the account")
    assert str(raised(submitted, error("ANONYMOUS_ACCESS_QUOTA_EXCEEDS"), 429)).endswith(": use an API key")


@pytest.mark.parametrize("name", named("constructed_error_*"))
def test_constructed_errors_are_read(name):
    status = int(name.split("_")[2])
    problem = raised(submitted, load(name), status)
    assert isinstance(problem, APIError)
    assert problem.message == load(name).get("message", "invalid parameter")


# --- Secrets ------------------------------------------------------------------------------------------------

SIGNED = "https://bucket.s3.amazonaws.com/a.png?X-Amz-Credential=KEYID&X-Amz-Signature=5ec4e7"
KEY = "sk_Zm9vYmFyYmF6"
BASE64 = base64.b64encode(picture()).decode()


@pytest.mark.parametrize("secret", [SIGNED, f"Bearer {KEY}", f"key {KEY} is invalid", BASE64, f"x{SIGNED}"])
@pytest.mark.parametrize("status", [200, 400, 403, 500])
def test_no_secret_of_an_answer_is_shown(secret, status):
    bodies = [
        error("VALIDATOR", message=secret, metadata={"m": secret}),
        {"error": secret},
        {"msg": secret, "code": 1},
        {"x": secret},
        secret.encode(),
        f"<html>{secret}</html>".encode(),
        {"reason": secret},
    ]
    for body in bodies:
        for call in (submitted, seen, lambda *a: protocol.read_balance(response(*a))):
            problem = raised(call, body, status)
            everything = f"{problem} {problem!r} {vars(problem)} {problem.args}"
            for hidden in ("5ec4e7", "KEYID", KEY[3:], BASE64[200:260]):
                assert hidden not in everything


def test_what_is_shown_is_cut():
    for body in ({"message": "long words " * 1000}, b"long words " * 1000):
        problem = raised(submitted, body, 400)
        assert len(problem.message) == 2048
        assert len(str(raised(submitted, body, 502))) < 2500


def test_a_failed_delivery_says_how_far_it_got_and_a_response_shows_no_body():
    failed = DeliveryFailed(Delivery.UNKNOWN, "reset", status=200)
    assert (failed.delivery, failed.cause, failed.status) == (Delivery.UNKNOWN, "reset", 200)
    assert str(failed) == "unknown: reset"
    assert "secret" not in repr(response(b"secret"))
    assert "<6 bytes>" in repr(response(b"secret"))


# --- Polls --------------------------------------------------------------------------------------------------


def test_a_poll_asks_for_the_task():
    http = protocol.poll("a/b c", ENDPOINTS)
    assert (http.method, http.path, http.query) == ("GET", "/v3/async/task-result", (("task_id", "a/b c"),))
    assert http.body is None


RESULTS = [*named("seed_*_task_result"), *named("docs_*task_result_[en]*")]


@pytest.mark.parametrize("name", RESULTS)
def test_documented_results_are_read(name):
    document = load(name)
    snapshot = seen(document)
    assert snapshot.state == "succeeded"
    assert snapshot.task.account == "mine"
    result = snapshot.result
    assert [image.url for image in result.images] == [image["image_url"] for image in document["images"]]
    assert {image.url_ttl for image in result.images} == {3600}
    assert {image.type for image in result.images} == {"jpeg"}
    assert result.seed == int(document["extra"]["seed"])
    assert result.task_type == document["task"]["task_type"]
    assert result.extra == document["extra"]


def test_nsfw_results_are_those_of_their_images():
    confidences = [
        image.nsfw.confidence for image in seen(load("docs_txt2img_task_result_nsfw")).result.images
    ]
    assert confidences == [93.7176, 94.4329, 94.4224, 94.6823]
    assert {image.nsfw.checked for image in seen(load("seed_img2img_4_task_result")).result.images} == {True}
    assert seen(load("seed_img2img_2_task_result")).result.images[0].nsfw is None
    assert seen(load("docs_task_result_example")).result.images[0].nsfw is None


def test_a_url_knows_when_it_ends():
    (image,) = seen(load("seed_img2img_1_task_result")).result.images
    assert image.expiry_time == datetime(2024, 1, 15, 9, 35, 55, tzinfo=UTC)


def test_a_webhook_payload_is_read_like_a_poll():
    result = codec.result(load("docs_webhook_event")["payload"], TASK)
    assert len(result.images) == 1
    assert result.seed is None


@pytest.mark.parametrize(
    ("event", "task_id"),
    [
        (load("docs_webhook_event"), "f6aec953-2e81-4e8b-938e-2ceab54d6df9"),
        ({"payload": {"task": {"task_id": "t"}}}, "t"),
        ({"event_type": "OTHER", "payload": {"task": {"task_id": "t"}}}, None),
        ({"event_type": "ASYNC_TASK_RESULT", "payload": {"task": {"task_id": "t" * 257}}}, None),
        ({"event_type": "ASYNC_TASK_RESULT", "payload": {"task": {"task_id": "t" * 256}}}, "t" * 256),
        ({"event_type": "ASYNC_TASK_RESULT", "payload": {"task": None}}, None),
        ({"event_type": "ASYNC_TASK_RESULT", "payload": []}, None),
        ({}, None),
        ([], None),
    ],
)
def test_an_event_names_a_task_or_none(event, task_id):
    assert protocol.read_event(json.dumps(event).encode()) == task_id
    assert protocol.read_event(b"<html>") is None


def test_running_tasks_are_read():
    snapshot = seen(load("constructed_task_result_processing"))
    assert (snapshot.state, snapshot.status) == ("running", "TASK_STATUS_PROCESSING")
    assert (snapshot.progress_percent, snapshot.eta, snapshot.result) == (35, 4, None)
    assert seen(load("constructed_task_result_queued")).status == "TASK_STATUS_QUEUED"


def test_a_running_task_under_a_bad_status_is_not_believed():
    assert type(raised(seen, load("constructed_task_result_processing"), 500)) is ServerError


def test_a_failed_task_is_a_snapshot_with_an_explanation():
    snapshot = seen(load("constructed_task_result_failed"))
    assert (snapshot.state, snapshot.explanation) == ("failed", "failed to exec task")
    assert snapshot.result is None


def test_success_without_images_is_success():
    snapshot = seen(load("constructed_task_result_succeed_no_images_null_extra"))
    assert (snapshot.state, snapshot.result.images, snapshot.result.seed) == ("succeeded", (), None)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("TASK_STATUS_SUCCEED", "succeeded"), ("TASK_STATUS_FAILED", "failed"),
        ("TASK_STATUS_UNKNOWN", "running"), ("TASK_STATUS_CANCELED", "failed"),
        ("TASK_STATUS_CANCELLED", "failed"), ("X_TIMEOUT", "failed"), ("X_EXPIRED", "failed"),
        ("TASK_STATUS_SUCCEEDED", "running"), ("NEW", "running"), ("5", "running"),
    ],
)  # fmt: skip
def test_only_known_statuses_are_final(status, state):
    assert seen({"task": {"status": status}}).state == state
    assert seen({"task": {"status": status, "eta": "4", "progress_percent": "50"}}).state == state


def test_a_task_without_progress_has_none():
    running = seen({"task": {"status": "TASK_STATUS_QUEUED", "progress_percent": None}})
    assert (running.progress_percent, running.eta) == (None, None)
    text = seen({"task": {"status": "TASK_STATUS_QUEUED", "progress_percent": "50", "eta": "4.5"}})
    assert (text.progress_percent, text.eta) == (50, 4.5)
    odd = seen({"task": {"status": "TASK_STATUS_QUEUED", "progress_percent": "x", "eta": []}})
    assert (odd.progress_percent, odd.eta) == (None, None)


def test_videos_audios_and_times_are_read():
    result = seen({
        "task": {"status": "TASK_STATUS_SUCCEED"},
        "extra": {"debug_info": {
            "request_info": '{"seeds": [1]}', "submit_time_ms": "1705307755123",
            "execute_time_ms": 1705307756000, "complete_time_ms": "",
        }},
        "images": None,
        "videos": [{"video_url": "https://v", "video_url_ttl": "3600", "video_type": "mp4"}],
        "audios": [{"audio_url": "https://a", "audio_type": "wav", "audio_metadata": {}}],
    }).result  # fmt: skip
    assert [artifact.url for artifact in result.artifacts] == ["https://v", "https://a"]
    assert result.request_info == '{"seeds": [1]}'
    assert result.timings.submit_time == datetime(2024, 1, 15, 8, 35, 55, 123000, tzinfo=UTC)
    assert result.timings.execute_time == datetime(2024, 1, 15, 8, 35, 56, tzinfo=UTC)
    assert result.timings.complete_time is None


@pytest.mark.parametrize("value", ["x", "9" * 30, -(10**18), None, [], 0, "0"])
def test_an_odd_time_is_none(value):
    body = {"task": {"status": "TASK_STATUS_SUCCEED"}, "extra": {"debug_info": {"submit_time_ms": value}}}
    assert seen(body).result.timings.submit_time is None


@pytest.mark.parametrize("status", [200, 201, 204])
@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{", [], "x", {}, {"task": None}, {"task": {"status": None}}]
)
def test_an_answer_without_a_status_is_malformed(body, status):
    problem = raised(seen, body, status)
    assert type(problem) is MalformedAnswer
    assert problem.retryable
    assert (problem.task_id, problem.account, problem.status) == (TASK.task_id, "mine", status)
    assert str(problem).endswith(f"novita-async watch {TASK.task_id}")


@pytest.mark.parametrize("status", [301, 302, 304])
def test_a_redirected_poll_is_malformed_and_says_where_to(status):
    problem = raised(seen, b"", status, location="https://other.example/x?secret")
    assert type(problem) is MalformedAnswer
    assert "a redirect to https://other.example/x; set base_url" in str(problem)


def test_an_error_under_a_good_status_is_that_error():
    assert type(raised(seen, error("TASK_NOT_FOUND"), 200)) is TaskNotFound
    assert type(raised(seen, error("TASK_FAILED"), 200)) is TaskFailed
    assert type(raised(seen, error("NEW"), 200)) is MalformedAnswer


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_a_failed_task_may_come_as_an_http_error(status):
    problem = raised(seen, error("TASK_FAILED", status, "out of memory"), status)
    assert type(problem) is TaskFailed
    assert not problem.retryable
    assert (problem.task, problem.explanation, problem.task_id) == (TASK, "out of memory", TASK.task_id)
    assert (problem.status, problem.reason, problem.account) == (status, "TASK_FAILED", "mine")
    assert type(raised(submitted, error("TASK_FAILED"), 500)) is SubmissionUncertain


# --- Listings -----------------------------------------------------------------------------------------------


def test_a_page_of_models_is_asked_for():
    http = protocol.models({"types": "lora", "query": "a b"}, "c_Wzg=", 100, ENDPOINTS)
    assert (http.method, http.path) == ("GET", "/v3/model")
    assert http.query == (
        ("filter.types", "lora"),
        ("filter.query", "a b"),
        ("pagination.limit", "100"),
        ("pagination.cursor", "c_Wzg="),
    )
    assert protocol.models({}, None, 5, ENDPOINTS).query == (("pagination.limit", "5"),)


def test_a_page_of_models_is_read():
    page = protocol.read_models(response(load("docs_models_listing")))
    assert [record.api_name for record in page.records] == [
        "realisticVisionV40_v40VAE-inpainting_81543.safetensors",
        "GoodHands-beta2_39807",
    ]
    assert page.next_cursor == "c_WzgwNDY2NiwiNTUxOTkiXQ=="
    assert len(protocol.read_models(response(load("docs_models_listing_schema_template"))).records) == 1


@pytest.mark.parametrize(
    "body", [{}, {"models": None}, {"models": [], "pagination": None}, {"models": [5, None]}]
)
def test_an_empty_page_is_the_last(body):
    page = protocol.read_models(response(body))
    assert (page.records, page.next_cursor) == ((), None)


@pytest.mark.parametrize("body", [b"", b"<html>", [], b"{"])
def test_a_page_that_is_no_object_is_malformed(body):
    problem = raised(protocol.read_models, response(body))
    assert type(problem) is MalformedAnswer
    assert problem.task_id is None
    assert "is not a JSON object" in str(problem)


def test_a_page_that_is_an_error_is_that_error():
    assert type(raised(protocol.read_models, response(error("INVALID_API_KEY")))) is AuthenticationFailed
    assert type(raised(protocol.read_models, response(error("NEW")))) is MalformedAnswer


def test_the_balance_is_asked_for_and_read_in_dollars():
    http = protocol.balance(ENDPOINTS)
    assert (http.method, http.path) == ("GET", "/openapi/v1/billing/balance/detail")
    body = {
        "availableBalance": "-12345",
        "cashBalance": 20000,
        "creditLimit": "0",
        "pendingCharges": "1",
        "outstandingInvoices": "x",
    }
    balance = protocol.read_balance(response(body))
    assert balance.available == Decimal("-1.2345")
    assert balance.cash == 2
    assert balance.credit_limit == 0
    assert balance.pending_charges == Decimal("0.0001")
    assert balance.outstanding_invoices is None


@pytest.mark.parametrize(
    "body", [{}, {"availableBalance": None}, load("docs_balance_schema_template"), [], b"x"]
)
def test_an_answer_without_a_balance_is_malformed(body):
    assert type(raised(protocol.read_balance, response(body))) is MalformedAnswer
    assert (
        type(raised(protocol.read_balance, response(error("FUSION_MODEL_NOT_FOUND"), 404)))
        is EndpointNotFound
    )


# --- Anything at all ----------------------------------------------------------------------------------------

READERS = {
    "submission": lambda answer: protocol.read_submission(answer, PATH, 1),
    "snapshot": lambda answer: protocol.read_snapshot(answer, TASK),
    "models": protocol.read_models,
    "balance": protocol.read_balance,
    "object": protocol.read_object,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("status", [200, 302, 404, 429, 500])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!doctype html><title>502</title>",
        b"{",
        b'{"task": {"status": "TASK_STATUS_SUCC',
        b"[1, 2]",
        b"null",
        b"\xff\xfe\x00",
        b'{"task": {"status": "\xff"}}',
        b"[" * 200_000,
        b'{"task":' * 50_000,
        b'{"task": {"status": "TASK_STATUS_QUEUED"}, "x": ' + b"[" * 200_000,
        b'{"availableBalance": ' + b"9" * 5000 + b"}",
        b'{"task": {"status": ' + b"9" * 400 + b', "eta": 1e308}}',
        b'{"models": [{"id": ' + b"9" * 400 + b', "status": 1e300, "tags": {}}]}',
        b'{"reason": {"a": 1}, "message": [1], "metadata": [1], "error": [], "data": []}',
    ],
)
def test_malformed_answers_raise_the_librarys_own_errors(read, status, body):
    try:
        read(response(body, status))
    except NovitaError as problem:
        assert str(problem)


@given(
    body=st.binary() | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(
            st.sampled_from(["task", "status", "reason", "message", "error", "data", "task_id", "code",
                             "models", "images", "extra", "image_url", "availableBalance", "metadata",
                             "pagination"]),
            inner,
        ),
        max_leaves=20,
    ),
    status=st.sampled_from([200, 204, 301, 400, 404, 429, 500, 503]),
    read=st.sampled_from(sorted(READERS)),
)  # fmt: skip
def test_any_answer_is_read_or_an_error_of_the_library(body, status, read):
    try:
        READERS[read](response(body, status))
    except NovitaError as problem:
        assert str(problem)


def places(value, place=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from places(item, (*place, key))


GONE = object()
ODD = st.sampled_from([
    GONE, None, True, False, 0, -1, 1.5, 10**25, 1e300, "", "x", "3600", "TASK_STATUS_NEW", [], {}, [None],
    {"a": []},
])  # fmt: skip
ANSWERS = {
    name: load(name)
    for name in [
        *RESULTS,
        *named("constructed_task_result_*"),
        "docs_models_listing",
        *named("seed_*_submit_response"),
    ]
}


def changed(document, place, value):
    result = copy.deepcopy(document)
    target = result
    for key in place[:-1]:
        target = target[key]
    if value is GONE:
        del target[place[-1]]
    else:
        target[place[-1]] = value
    return result


@st.composite
def mutated(draw, names):
    """A documented answer with a few values dropped or replaced by odd ones, and unknown fields added."""
    document = ANSWERS[draw(st.sampled_from(names))]
    for _ in range(draw(st.integers(1, 4))):
        every = list(places(document))
        if every:
            document = changed(document, draw(st.sampled_from(every)), draw(ODD))
    return {**document, **draw(st.dictionaries(st.text(max_size=3), ODD.filter(lambda odd: odd is not GONE)))}


@given(document=mutated(sorted(ANSWERS)), read=st.sampled_from(sorted(READERS)))
def test_a_documented_answer_with_odd_values_raises_nothing_foreign(document, read):
    try:
        READERS[read](response(document))
    except NovitaError as problem:
        assert str(problem)


@given(document=mutated(RESULTS))
def test_a_success_with_a_url_is_never_refused(document):
    document["task"] = {**(document["task"] if isinstance(document.get("task"), dict) else {})}
    document["task"]["status"] = "TASK_STATUS_SUCCEED"
    good = {"image_url": "https://a.example/b.png?c=d"}
    listed = document.get("images")
    document["images"] = [*(listed if isinstance(listed, list) else []), good]
    snapshot = seen(document)
    assert snapshot.state == "succeeded"
    assert snapshot.result.images[-1] == GeneratedImage(url="https://a.example/b.png?c=d")
    assert all(isinstance(image.url, str) and image.url for image in snapshot.result.images)


@given(document=mutated(named("seed_*_submit_response")), task_id=st.text(min_size=1).filter(str.isprintable))
def test_a_submission_with_an_id_is_never_refused(document, task_id):
    assert submitted({**document, "task_id": task_id}) == task_id


PARTS = (AnswerPart(data=b"a", size=1, kind="png"), AnswerPart(data=b"b", size=1, kind="mp4"))
PICTURE_IN = {"drawing": {"bits": "novita-part:0"}, "film": "novita-part:1"}


def with_parts(document):
    return attrs.evolve(response(document), parts=PARTS)


def test_pictures_under_names_that_nobody_knows_are_results():
    result = protocol.read_submission(with_parts(PICTURE_IN), "/v3/new", 1)
    assert [image.data for image in result.images] == [b"a"]
    assert [video.data for video in result.videos] == [b"b"]


def test_pictures_in_what_is_no_json_are_results():
    odd = HTTPResponse(status=200, body=b"<html>novita-part:0", parts=PARTS[:1])
    assert [image.data for image in protocol.read_submission(odd, "/v3/new", 1).images] == [b"a"]


def test_pictures_beside_a_task_under_names_that_nobody_knows_are_an_echo_of_the_input():
    assert protocol.read_submission(with_parts(PICTURE_IN | {"task_id": "t1"}), "/v3/new", 1) == "t1"


def test_pictures_beside_a_reason_are_no_results():
    with pytest.raises(SubmissionUncertain):
        protocol.read_submission(with_parts(PICTURE_IN | {"reason": "NEVER_HEARD_OF"}), "/v3/new", 1)
