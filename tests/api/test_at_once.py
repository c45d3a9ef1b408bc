"""Answers that hold results: read in whatever form they come, with or without a task."""

import json

import pybase64
import pytest

from novita_async import (
    AnyTask,
    AuthenticationFailed,
    BalanceExhausted,
    ContentRejected,
    DataURL,
    EditImage,
    RateLimited,
    SubmissionUncertain,
    Task,
    TaskResult,
)
from novita_async._api import codec, protocol
from novita_async._http import AnswerPart, HTTPResponse
from novita_async.models.endpoints import Endpoints
from tests.helpers.payloads import picture

PNG = picture(size=(4, 4))
TEXT = pybase64.b64encode(PNG).decode()
URL = "https://pictures.example/a.png"


def read(body, *, status=200, at_once=False, **more):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = HTTPResponse(status=status, body=text, **more)
    return protocol.read_submission(response, "/v3/x", 1, at_once=at_once)


def told(result):
    assert isinstance(result, TaskResult)
    return [(each.url or each.data, each.type) for each in result.artifacts]


@pytest.mark.parametrize(
    ("body", "files"),
    [
        ({"images": [URL]}, [(URL, None)]),
        ({"images": [URL], "task_id": ""}, [(URL, None)]),
        ({"image_urls": [URL, URL]}, [(URL, None)] * 2),
        ({"images": [TEXT]}, [(PNG, "png")]),
        ({"images": [f"data:image/webp;base64,{TEXT}"]}, [(PNG, "png")]),
        ({"data": [{"b64_json": TEXT, "revised_prompt": URL}]}, [(PNG, "png")]),
        ({"data": [{"url": URL}], "output_format": "webp"}, [(URL, "webp")]),
        ({"image_file": TEXT, "image_type": "jpeg"}, [(PNG, "png")]),
        ({"code": 0, "msg": "", "data": {"image_file": TEXT}}, [(PNG, "png")]),
        (
            {"candidates": [{"content": {"parts": [{"text": "so"}, {"inlineData": {"data": TEXT}}]}}]},
            [(PNG, "png")],
        ),
        ({"candidates": [{"content": {"parts": [{"inline_data": {"data": TEXT}}]}}]}, [(PNG, "png")]),
        ({"images": [{"image_url": URL, "image_url_ttl": "60", "image_type": "png"}]}, [(URL, "png")]),
        ({"images": [{"url": URL}]}, [(URL, None)]),
        ({"output": {"images": [{"url": URL}]}}, [(URL, None)]),
        ({"result": URL}, [(URL, None)]),
    ],
)
def test_results_are_read_in_every_form(body, files):
    assert told(read(body)) == files


def test_videos_and_audios_are_told_from_pictures():
    result = read({"videos": [{"video_url": URL, "video_type": "mp4"}], "audio": {"url": URL}})
    assert [(each.url, each.type) for each in result.videos] == [(URL, "mp4")]
    assert (result.images, len(read({"audio_url": URL}).audios)) == ((), 1)


def test_with_results_and_a_task_the_results_count():
    for body in (
        {"images": [{"image_url": URL}], "task": {"task_id": "t"}, "task_id": "t"},
        {"task_id": "t", "data": [{"b64_json": TEXT}]},
        {"images": [URL], "task": {"task_id": "t"}},
    ):
        result = read(body)
        assert result.task == Task(task_id="t")
        assert {each.task for each in result.images} == {Task(task_id="t")}


@pytest.mark.parametrize(
    "body",
    [
        {"task_id": "t"},
        {"code": 0, "data": {"task_id": "t"}},
        {"task_id": "t", "images": []},
        {"task_id": "t", "images": None, "data": [], "extra": {"images": [URL]}},
        {"task_id": "t", "url": URL, "webhook": {"url": URL}},
        {"task_id": "t", "images": ["", "x", 5, {"url": "ftp://no"}]},
        {"task_id": "t", "images": ["words, and no picture at all!"]},
    ],
)
def test_without_results_the_task_counts(body):
    assert read(body) == "t"


def test_what_was_taken_out_of_an_answer_is_put_back_by_its_number(tmp_path):
    parts = (
        AnswerPart(path=tmp_path / "a.part", size=9, kind="webp"),
        AnswerPart(size=9, kind="png", lost="the disk is full"),
        AnswerPart(data=PNG, size=len(PNG)),
    )
    marks = [{"b64_json": f"novita-part:{number}"} for number in (0, 1, 2, 3)]
    result = read({"data": marks, "output_format": "jpeg"}, parts=parts)
    first, second, third = result.images
    assert (first.file, first.type, first.came_at_once) == (tmp_path / "a.part", "webp", True)
    assert (second.lost, second.file, second.type) == ("the disk is full", None, "png")
    assert (third.data, third.type) == (PNG, "jpeg")


def test_no_text_of_an_answer_is_taken_for_a_part_whose_mark_was_drawn_for_it():
    parts = (AnswerPart(data=PNG, size=len(PNG), mark="novita-part:6f-0"),)
    answer = {"output": "novita-part:0", "data": [{"b64_json": "novita-part:6f-0"}]}
    assert told(read(answer, parts=parts)) == [(PNG, None)]


def test_an_answer_that_broke_off_says_so_and_keeps_what_came_whole():
    part = AnswerPart(data=PNG, size=len(PNG), kind="png")
    result = read({"data": [{"b64_json": "novita-part:0"}]}, parts=(part,), cut="the answer was cut")
    assert (result.cut, len(result.images)) == ("the answer was cut", 1)
    with pytest.raises(SubmissionUncertain):
        read({"data": []}, cut="the answer was cut", at_once=True)


def test_the_rest_of_an_answer_is_kept_without_its_files():
    result = read({"created": 7, "usage": {"n": 1}, "data": [{"b64_json": "A" * 2000 + TEXT, "note": "x"}]})
    assert result.extra == {"created": 7, "usage": {"n": 1}, "data": [{"b64_json": "…", "note": "x"}]}


def test_an_answer_without_results_is_paid_only_where_the_route_gives_nothing_else():
    assert read({"promptFeedback": {"blockReason": "x"}}, at_once=True).artifacts == ()
    with pytest.raises(SubmissionUncertain):
        read({"promptFeedback": {"blockReason": "x"}})
    with pytest.raises(SubmissionUncertain):
        read({"error": {"message": "odd", "type": "odd"}}, at_once=True)
    with pytest.raises(SubmissionUncertain):
        read(b"<html>", at_once=True)


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (401, {"message": "no", "type": "odd_error", "code": "invalid_api_key"}, AuthenticationFailed),
        (429, {"message": "no", "type": "insufficient_quota", "param": None, "code": None}, BalanceExhausted),
        (429, {"message": "no", "type": "requests", "code": "rate_limit_exceeded"}, RateLimited),
        (400, {"message": "no", "type": "user_error", "code": "moderation_blocked"}, ContentRejected),
        (429, {"message": "no", "code": 429, "status": "RESOURCE_EXHAUSTED"}, RateLimited),
        (401, {"message": "no", "code": 401, "status": "UNAUTHENTICATED"}, AuthenticationFailed),
    ],
)  # fmt: skip
def test_refusals_in_the_forms_of_others_are_understood(status, error, kind):
    with pytest.raises(kind, match="no"):
        read({"error": error}, status=status)


def test_a_refusal_that_quotes_a_picture_is_a_refusal():
    with pytest.raises(ContentRejected, match="no"):
        read({"code": 400, "reason": "ILLEGAL_PROMPT", "message": "no", "images": [URL]})


# --- Bodies of other routes ---------------------------------------------------------------------------------


def test_a_picture_goes_anywhere_into_a_body_as_base64_or_as_a_data_url():
    request = AnyTask(
        path="/v3/x", body={"a": [{"b": DataURL(image=PNG)}], "c": PNG and DataURL(image=PNG).image}
    )
    assert [each.data for each in request.pictures] == [PNG, PNG]
    body = b"".join(part if isinstance(part, bytes) else b"P" for part in codec.body_parts(request))
    assert json.loads(body) == {"a": [{"b": "data:image/png;base64,P"}], "c": "P"}
    assert b"data:" not in b"".join(p for p in codec.kept_parts(request) if isinstance(p, bytes))


def test_a_form_can_be_sent_to_any_route():
    request = AnyTask(
        path="/v3/x", body={"image[]": [DataURL(image=PNG).image], "n": 2, "on": True}, is_form=True
    )
    http = protocol.submission(request, Endpoints())
    assert http.body is None
    assert [(part.name, part.content_type) for part in http.parts] == [
        ("image[]", "image/png"),
        ("n", None),
        ("on", None),
    ]
    assert [part.content for part in http.parts[1:]] == [b"2", b"true"]


def test_a_submission_knows_how_long_and_how_its_route_answers(tmp_path):
    edit = EditImage(model="gpt-image-2", image=PNG, prompt="p")
    http = protocol.submission(edit, Endpoints(), folder=tmp_path)
    assert (http.path, http.answer, http.timeout, http.folder) == (
        "/openai/v1/images/edits",
        "pictures",
        600.0,
        tmp_path,
    )
    by_task = protocol.submission(EditImage(model="qwen-image-edit", image=PNG, prompt="p"), Endpoints())
    assert (by_task.answer, by_task.timeout) == ("small", 120.0)
    unknown = protocol.submission(AnyTask(path="/v3/x", body={}), Endpoints())
    assert (unknown.answer, unknown.timeout) == ("pictures", 120.0)
