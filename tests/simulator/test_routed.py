"""The routes of the table, as the simulated service serves them: strictly, and in the forms of each."""

import json

import pybase64
import pytest

from novita_async.models.routes import ROUTES
from novita_async.testing import Exchange, Fault, FaultPlan, FaultRule, Simulator, SimulatorConfig
from tests.helpers.payloads import picture

PNG = picture(size=(8, 8))
TEXT = pybase64.b64encode(PNG).decode()
EDITS = "/openai/v1/images/edits"
HEAD = {"authorization": "Bearer sk_simulator", "content-type": "application/json"}


def form(*parts, boundary="b", end="--b--\r\n"):
    text = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{head}\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, head, content in parts
    )
    return text + end.encode()


def file(name, content=PNG, kind="image/png"):
    return name, f'; filename="a.png"\r\nContent-Type: {kind}', content


MODEL, PROMPT = ("model", "", b"gpt-image-2"), ("prompt", "", b"p")


def ask(path, body, *, simulator=None, **headers):
    simulator = simulator or Simulator(SimulatorConfig(plain_pictures=True))
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = simulator.receive(
        Exchange(method="POST", path=path, headers=HEAD | headers, body=text), simulator.now
    )
    return reply.status, json.loads(reply.content()), simulator


def send_form(body, **headers):
    return ask(EDITS, body, **{"content-type": "multipart/form-data; boundary=b"} | headers)


def test_a_form_is_answered_with_pictures_in_openai_s_form():
    status, answer, simulator = send_form(form(MODEL, PROMPT, file("image[]"), ("n", "", b"2")))
    assert status == 200
    assert [pybase64.b64decode(each["b64_json"])[:4] for each in answer["data"]] == [b"\x89PNG"] * 2
    (entry,) = simulator.ledger.accepted
    assert (entry.images, entry.request["n"], entry.request["image[]"]) == (2, 2, [f"<{len(PNG)} bytes>"])


@pytest.mark.parametrize(
    "body",
    [
        form(MODEL, PROMPT, file("image[]"))[:-2],
        form(MODEL, PROMPT, file("image[]"), end="--b--"),
        b" " + form(MODEL, PROMPT, file("image[]")),
        form(MODEL, PROMPT, ("image[]", "", PNG)),
        form(MODEL, PROMPT, file("image[]", kind="text/plain")),
        form(MODEL, PROMPT, PROMPT, file("image[]")),
        form(MODEL, PROMPT, file("prompt"), file("image[]")),
        form(MODEL, PROMPT, ("n", "", b"two"), file("image[]")),
        form(MODEL, PROMPT, ("x", "; odd=1", b"")),
        form(MODEL, ("prompt", "\r\nX-Odd: 1", b"p"), file("image[]")),
    ],
)
def test_a_form_that_is_none_is_refused_in_openai_s_form(body):
    status, answer, simulator = send_form(body)
    assert status == 400
    assert answer["error"]["code"] == "INVALID_REQUEST_BODY"
    assert simulator.ledger.accepted == []


def test_one_picture_may_come_without_brackets_as_other_clients_send_it():
    status, answer, _ = send_form(form(PROMPT, MODEL, file("image")))
    assert (status, len(answer["data"])) == (200, 1)


def test_a_form_of_another_length_or_without_a_boundary_is_refused():
    whole = form(MODEL, PROMPT, file("image[]"))
    assert send_form(whole, **{"content-length": "7"})[0] == 400
    assert send_form(whole, **{"content-type": "multipart/form-data"})[0] == 400
    assert send_form(whole, **{"content-length": str(len(whole))})[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/v3/async/qwen-image-edit", {"prompt": "p"}, "invalid image: value is required"),
        ("/v3/async/qwen-image-edit", {"image": TEXT}, "invalid prompt: value is required"),
        ("/v3/async/qwen-image-edit", {"prompt": "p", "image": TEXT, "x": 1}, "unknown field x"),
        ("/v3/async/qwen-image-edit", {"prompt": "p", "image": [TEXT]}, "image is not one picture"),
        ("/v3/async/qwen-image-edit", {"prompt": "p", "image": "!"}, "illegal base64 data"),
        ("/v3/async/qwen-image-edit", {"prompt": "p", "image": "AAAA"}, "None is not taken"),
        ("/v3/async/grok-imagine-image-edit", {"prompt": "p", "image": TEXT}, "not a data URL of a picture"),
        ("/v3/seedream-4.5", {"prompt": "p", "image": TEXT}, "image is not a list"),
        ("/v3/seedream-4.5", {"prompt": "p", "size": "1x1"}, "1 pixels are below 3,686,400"),
        ("/v3/async/img2video-9", {}, "is not found"),
        ("/gemini/v1/models/gemini-3-pro-image:generateContent", {}, "contents is required"),
    ],
)
def test_what_a_row_does_not_take_is_refused(path, body, told):
    status, answer, _ = ask(path, body)
    assert status in (400, 404)
    assert told in answer.get("error", answer)["message"]


def test_a_body_that_is_no_json_is_refused_where_json_is_wanted():
    assert ask("/v3/async/qwen-image-edit", b"{}", **{"content-type": "text/plain"})[0] == 400


def test_a_model_that_is_not_served_is_refused():
    status, answer, _ = send_form(form(("model", "", b"other"), PROMPT, file("image[]")))
    assert (status, answer["error"]["message"]) == (400, "invalid model: 'other' is not served here")


def test_addresses_come_instead_of_pictures_where_they_are_asked_for():
    body = form(MODEL, PROMPT, file("image[]"), ("response_format", "", b"url"))
    _, answer, _ = send_form(body)
    (url,) = [each["url"] for each in answer["data"]]
    assert url.startswith("https://api.simulator.invalid/prod/")


def test_fields_stand_where_the_row_says_and_nowhere_else():
    path = "/gemini/v1/models/gemini-3-pro-image:generateContent"
    contents = [{"role": "user", "parts": [{"text": "p"}]}]
    image = {"imageConfig": {"imageSize": "2K", "aspectRatio": "1:1"}}
    assert ask(path, {"contents": contents, "generationConfig": image})[0] == 200
    status, answer, _ = ask(path, {"contents": contents, "generationConfig": {"imageConfig": {"size": "2K"}}})
    assert (status, answer["error"]["message"]) == (400, "unknown field generationConfig")


def test_a_route_that_answers_at_once_takes_its_time():
    simulator = Simulator(SimulatorConfig(plain_pictures=True))
    exchange = Exchange(
        method="POST", path="/v3/seedream-4.5", headers=HEAD, body=b'{"prompt": "p", "size": "2K"}'
    )
    assert simulator.receive(exchange, 0.0).delay > 1


def test_every_row_can_be_retired():
    simulator = Simulator(SimulatorConfig(retired=("/v3/seedream-4.5",)))
    exchange = Exchange(method="POST", path="/v3/seedream-4.5", headers=HEAD, body=b"{}")
    assert simulator.receive(exchange, 0.0).status == 404


def test_a_plan_of_faults_meets_routes_that_answer_at_once():
    plan = FaultPlan.of(FaultRule(fault=Fault.answer(503), on="submit", numbers=1))
    simulator = Simulator(SimulatorConfig(plain_pictures=True), faults=plan)
    visit = simulator.begin("POST", EDITS)
    assert visit.fault is not None
    assert {simulator.begin("POST", row.path).kind.value for row in ROUTES if "{" not in row.path} == {
        "submit"
    }
