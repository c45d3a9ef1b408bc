"""Another's client against the simulated service: it asks and reads as the OpenAI package does."""

import base64
import io
import json
from pathlib import Path

import PIL.Image
import pytest

from novita_async.testing import Fault, FaultPlan, FaultRule
from tests.helpers.programs import python, run
from tests.helpers.served import served
from tests.helpers.service import picture

PROGRAM = Path(__file__).parents[1] / "helpers" / "asking_with_openai.py"


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """What that package read; the books of the service, and of another that loses the first answer."""
    dog = tmp_path_factory.mktemp("openai") / "dog.png"
    dog.write_bytes(picture())
    plan = FaultPlan.of(FaultRule(fault=Fault.reset_after(), on="submit", numbers=1))
    with served(illegal_words=("blood",)) as server, served(faults=plan) as losing:
        done = run(python(PROGRAM, server.url, dog, losing.url))
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout), server.ledger, losing.ledger


def sizes(told):
    files = [base64.b64decode(text) for text in told["files"]]
    return [PIL.Image.open(io.BytesIO(file)).size for file in files]


@pytest.mark.parametrize("form", ["b64_json", "url"])
def test_pictures_are_edited(asked, form):
    told, ledger, _ = asked
    answer = told[f"edit {form}"]
    assert (sizes(answer), answer["forms"]) == ([(96, 64)] * 2, [form])
    assert answer["prompts"] == ["in watercolour"] * 2
    entry = next(entry for entry in ledger.accepted if entry.request.get("response_format") == form)
    assert (entry.images, entry.request["n"], len(entry.request["image[]"])) == (2, 2, 2)
    assert len(entry.request["mask"]) == 1


def test_a_file_is_edited(asked):
    assert sizes(asked[0]["a file"]) == [(64, 64)]


@pytest.mark.parametrize("form", ["b64_json", "url"])
def test_pictures_are_generated(asked, form):
    answer = asked[0][f"generate {form}"]
    assert (sizes(answer), answer["forms"], answer["format"]) == ([(64, 64)] * 2, [form], "png")
    assert answer["created"] > 1_700_000_000


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("prompt", "content policy"),
        ("n", "invalid n"),
        ("size", "multiples of 16"),
        ("model", "is not served here"),
    ],
)
def test_refusals_are_read_as_that_package_reads_them(asked, field, words):
    told = asked[0][f"refused {field}"]
    assert (told["error"], told["type"]) == ("BadRequestError", "invalid_request_error")
    assert words in told["words"]


def test_a_wrong_key_is_told_as_that_package_tells_it(asked):
    told = asked[0]["a wrong key"]
    assert (told["error"], told["code"]) == ("PermissionDeniedError", "INVALID_API_KEY")


def test_that_package_buys_again_where_an_answer_is_lost(asked):
    """What this library is for: the same fault is `Uncertain` here, and nothing is sent again."""
    told, _, ledger = asked
    assert sizes(told["a lost answer"]) == [(64, 64)]
    assert ledger.images == 2
