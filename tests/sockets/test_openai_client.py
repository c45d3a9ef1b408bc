"""Another's client against the simulated service: it asks and reads as the OpenAI package does."""

import base64
import io
import urllib.request

import openai
import PIL.Image
import pytest

from novita_async.testing import Fault, FaultPlan, FaultRule
from tests.helpers.served import served
from tests.helpers.service import picture

MODEL = "gpt-image-2"


@pytest.fixture(scope="module")
def server():
    with served(plain_pictures=True, speed=50.0, illegal_words=("blood",)) as server:
        yield server


def client_of(server, **options):
    options = {"api_key": "sk_simulator", "max_retries": 0} | options
    return openai.OpenAI(base_url=f"{server.url}/openai/v1", **options)


def bytes_of(image):
    """The file, as whoever uses that package has it."""
    if image.b64_json is not None:
        return base64.b64decode(image.b64_json)
    with urllib.request.urlopen(image.url) as answer:
        return answer.read()


def sizes(answer):
    return [PIL.Image.open(io.BytesIO(bytes_of(image))).size for image in answer.data]


@pytest.mark.parametrize("form", ["b64_json", "url"])
def test_pictures_are_edited(server, form):
    with client_of(server) as client:
        answer = client.images.edit(
            model=MODEL,
            image=[("a.png", picture(), "image/png"), ("b.png", picture(), "image/png")],
            mask=("mask.png", picture(), "image/png"),
            prompt="in watercolour",
            n=2,
            size="96x64",
            response_format=form,
        )
    assert sizes(answer) == [(96, 64)] * 2
    assert {getattr(image, form) is not None for image in answer.data} == {True}
    assert answer.data[0].revised_prompt == "in watercolour"
    entry = server.ledger.accepted[-1]
    assert (entry.images, entry.request["n"], len(entry.request["image[]"])) == (2, 2, 2)


def test_a_file_is_edited(server, tmp_path):
    path = tmp_path / "dog.png"
    path.write_bytes(picture())
    with client_of(server) as client:
        answer = client.images.edit(model=MODEL, image=path, prompt="p", size="64x64")
    assert sizes(answer) == [(64, 64)]


@pytest.mark.parametrize("form", ["b64_json", "url"])
def test_pictures_are_generated(server, form):
    with client_of(server) as client:
        answer = client.images.generate(
            model=MODEL, prompt="a dog", n=2, size="64x64", quality="low", response_format=form
        )
    assert sizes(answer) == [(64, 64)] * 2
    assert answer.output_format == "png"
    assert answer.created > 1_700_000_000


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"prompt": "blood"}, openai.BadRequestError, "content policy"),
        ({"n": 11}, openai.BadRequestError, "invalid n"),
        ({"size": "63x64"}, openai.BadRequestError, "multiples of 16"),
        ({"model": "other"}, openai.BadRequestError, "is not served here"),
    ],
)
def test_refusals_are_read_as_that_package_reads_them(server, changes, error, words):
    with client_of(server) as client, pytest.raises(error, match=words) as raised:
        client.images.generate(**{"model": MODEL, "prompt": "a dog", "size": "64x64"} | changes)
    assert raised.value.type == "invalid_request_error"


def test_a_wrong_key_is_told_as_that_package_tells_it(server):
    with client_of(server, api_key="sk-wrong") as client, pytest.raises(openai.PermissionDeniedError) as told:
        client.images.generate(model=MODEL, prompt="a dog")
    assert told.value.code == "INVALID_API_KEY"


def test_that_package_buys_twice_where_an_answer_is_lost():
    """What this library is for: the same fault there is `Uncertain` here, and nothing is sent again."""
    plan = FaultPlan.of(FaultRule(fault=Fault.reset_after(), on="submit", numbers=1))
    with served(faults=plan, plain_pictures=True, speed=50.0) as server:
        with client_of(server, max_retries=2) as client:
            client.images.generate(model=MODEL, prompt="a dog", size="64x64")
        assert server.ledger.images == 2
