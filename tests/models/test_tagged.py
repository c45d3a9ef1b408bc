"""The user's own words for a request: checked, kept, and no part of what is bought."""

import json
import pickle

import pytest

from novita_async import AnyTask, CustomStorage, EditImage, Img2Img, InvalidRequest, Txt2Img, request_to_json
from novita_async.models.requests import AWSS3, Extra
from tests.helpers.service import picture, request

WORDS = {"shop": 7, "names": ["süß", None, {"x": 1.5}]}


def refusal(make):
    with pytest.raises(InvalidRequest) as caught:
        make()
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "tag"),
    [
        ("sku-1", "sku-1"),
        ("狐 🦊", "狐 🦊"),
        (7, "7"),
        (7.0, "7"),
        (2.5, "2.5"),
        (None, None),
        ("x" * 256, "x" * 256),
    ],
)
def test_a_tag_is_text_or_a_number(given, tag):
    assert request().tagged(given).tag == tag


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (True, "True is neither text nor a number"),
        (float("nan"), "nan is neither text nor a number"),
        pytest.param(10**5000, "this int is neither text nor a number", id="endless"),
        (["a"], "is neither text nor a number"),
        ("", "0 characters are not in [1, 256]"),
        ("x" * 257, "257 characters are not in [1, 256]"),
        ("a\nb", "has a line break or a control character"),
        ("a\u2028b", "has a line break or a control character"),
        ("\x1b[31m", "has a line break or a control character"),
        ("\ud83d", "cannot be written as UTF-8"),
    ],
)
def test_another_tag_is_refused_with_what_is_wrong(given, words):
    assert refusal(lambda: request().tagged(given)).startswith("Img2Img.tag: ")
    assert words in refusal(lambda: request().tagged(given))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1], "[1] is not a JSON object"),
        ({"a": object()}, "cannot be written as JSON"),
        ({"a": float("inf")}, "cannot be written as JSON"),
        ({"a": "\ud83d"}, "cannot be written as JSON"),
        ({"a": "x" * 20_000}, "is 20,008 bytes of JSON, more than 16,384"),
        ({"a": "ä" * 8_189}, "is 16,386 bytes of JSON, more than 16,384"),
    ],
)
def test_metadata_are_a_json_object_of_bounded_size(given, words):
    assert words in refusal(lambda: request().tagged("a", given))


def test_both_are_checked_where_a_request_is_made_and_every_fault_is_told():
    told = refusal(lambda: Txt2Img(model_name="m", prompt="p", width=512, height=512, tag="", metadata=[]))
    assert "Txt2Img.tag" in told
    assert "Txt2Img.metadata" in told


def test_a_request_keeps_metadata_of_its_own_and_never_changes():
    words = {"a": [1]}
    plain = request()
    tagged = plain.tagged("a", words)
    words["a"].append(2)
    assert tagged.metadata == {"a": [1]}
    assert (plain.tag, plain.metadata) == (None, {})
    assert tagged.tagged("b").metadata == {"a": [1]}
    assert tagged.with_lora("detail").tag == "a"
    assert [each.tag for each in tagged.sweep(seed=range(2))] == ["a", "a"]
    with pytest.raises(AttributeError):
        tagged.tag = "c"


MAKERS = {
    "img2img": request,
    "task": lambda: AnyTask(path="/v3/async/upscale", body={"a": 1}),
    "face": lambda: EditImage(model="qwen-image-edit", image=picture(), prompt="p"),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_requests_that_differ_in_words_alone_are_equal_and_sent_alike(make):
    plain = make()
    tagged = plain.tagged("sku-1", WORDS)
    assert tagged == plain
    assert request_to_json(tagged) == request_to_json(plain)
    assert pickle.loads(pickle.dumps(tagged)).metadata == WORDS


def test_fields_of_the_service_may_have_the_names_of_the_users_words():
    tagged = request(extra_fields={"tag": "theirs", "metadata": 5}).tagged("mine")
    assert json.loads(request_to_json(tagged))["request"].items() >= {"tag": "theirs", "metadata": 5}.items()
    assert tagged.tag == "mine"


def test_a_request_knows_whether_its_results_go_to_the_users_own_bucket():
    storage = CustomStorage(aws_s3=AWSS3(region="r", bucket="mine"))
    wire = {"extra": {"custom_storage": {"aws_s3": {"bucket": "mine"}}}}
    assert request(extra=Extra(custom_storage=storage)).has_own_storage
    assert AnyTask(path="/v3/async/upscale", body=wire).has_own_storage
    empty = request(extra=Extra(custom_storage=CustomStorage()))
    others = [request(), request(extra=Extra()), empty, AnyTask(path="/v3/async/x", body={"extra": 5})]
    assert not any(each.has_own_storage for each in others)


def test_a_kind_of_request_has_the_users_words_without_saying_so():
    assert {"tag", "metadata"} <= {each.name for each in Img2Img.__attrs_attrs__}
