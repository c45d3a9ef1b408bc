"""A request is known by its content, from release to release, and can be made again from what is kept."""

import json
from pathlib import Path

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from novita_async import AnyTask, Img2Img, InvalidRequest, TestMode, Txt2Img
from novita_async._journal import identity
from novita_async._journal.identity import DigestCache, order_of, request_of
from novita_async._purchase.machine import Order
from novita_async.models.images import DataURL, ImageSource
from novita_async.models.requests import Extra, Webhook
from tests.helpers.service import picture, request

ENDPOINT = "/v3/async/img2img"


def digest(source: ImageSource) -> str:
    return source.digest()


def described(asked, position: int = 0) -> Order:
    endpoint = asked.path if isinstance(asked, AnyTask) else ENDPOINT
    return order_of(asked, endpoint=endpoint, position=position, digest=digest)


def key(asked) -> str:
    return described(asked).key


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


_TEXTS = st.one_of(
    st.text(max_size=300),
    st.text("ABC+/=\r\n", min_size=190, max_size=260),
    st.sampled_from(
        [
            "https://a.example/x?sig=1",
            "a dog?",
            "$picture",
            '"$picture":',
            "\x7f\u2028é",
            "data:image/png;base64,",
        ]
    ),
)
_PLACES = st.one_of(st.none(), st.text("aé\udc80 ?$/", min_size=1, max_size=40), st.sampled_from(["A" * 210]))


def _diffusion(**more):
    def maybe(values):
        return st.one_of(st.none(), values)

    fractions = st.floats(0, 1)
    fields = {
        "model_name": _TEXTS.filter(bool),
        "prompt": _TEXTS.filter(bool),
        "negative_prompt": maybe(_TEXTS),
        "width": st.integers(128, 2048),
        "height": st.integers(128, 2048),
        "guidance_scale": st.one_of(st.floats(1, 30), st.integers(1, 30)),
        "seed": maybe(st.integers(-1, 2**70)),
        "sd_vae": maybe(_TEXTS.filter(bool)),
        "tag": maybe(st.just("mine")),
        "extra_fields": st.sampled_from([{}, {}, {}, {"new": 1.5}]),
    }
    return st.fixed_dictionaries(fields | {name: make(fractions) for name, make in more.items()})


def _from_picture(place: str | None) -> ImageSource:
    path = None if place is None else Path(place)
    return ImageSource(data=b"no picture", size=10) if path is None else ImageSource(path=path, size=10)


@example(request(strength=1e-5))
@example(request(image=_from_picture("A" * 210), width=512, height=512))
@example(request(image=_from_picture("a\udc80"), width=512, height=512))
@example(request(image=_from_picture("https://a.example/x?sig=1"), width=512, height=512))
@example(request(guidance_scale=7.0, prompt="\x7f\u2028é", seed=2**70))
@given(
    st.one_of(
        _diffusion().map(lambda fields: Txt2Img(**fields)),
        st.builds(
            lambda fields, place: Img2Img(image=_from_picture(place), **fields),
            _diffusion(strength=lambda fractions: st.one_of(st.none(), fractions, st.just(1e-5))),
            _PLACES,
        ),
    )
)
def test_the_quick_way_to_an_identity_gives_the_same_to_the_byte_or_leaves_it_to_the_other(asked):
    def known(_) -> str:
        return "0123456789abcdef" * 4

    for names_paths in (True, False):
        quickly = identity._described_plainly(asked, known, names_paths=names_paths)
        assert quickly in (None, identity._described(asked, known, names_paths=names_paths))


def test_requests_of_which_most_batches_are_made_take_the_quick_way_to_their_identity(tmp_path):
    file = tmp_path / "dog.png"
    file.write_bytes(picture())
    usual = [request(), request(image=file, prompt="a cute dog? yes, " * 20, strength=0.55, seed=7)]
    assert all(identity._described_plainly(each, digest, names_paths=True) for each in usual)


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
    moved = order_of(request(), endpoint="/v4/elsewhere", position=0, digest=digest)
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
    pictures = {source.digest(): source for source in asked.pictures}
    kept = described(asked, position=5)
    again = request_of(kept, lambda sha, path: pictures[sha] if path is None else pytest.fail("no path"))
    assert again == asked
    assert (described(again, position=5), kept.images, kept.position) == (kept, number, 5)


def test_another_task_is_made_again_with_its_pictures_and_its_weight():
    source = ImageSource.from_bytes(picture())
    asked = AnyTask(path="/v3/async/any", body={"images": [source, "x"], "n": {"size": 2}}, image_num=3)
    kept = order_of(asked, endpoint=asked.path, position=0, digest=digest)
    assert request_of(kept, lambda *_: source) == asked


def test_another_task_is_made_again_in_its_form_with_its_data_urls():
    source = ImageSource.from_bytes(picture())
    flat = AnyTask(path="/v3/any", body={"deep": [{"image": DataURL(image=source)}, source], "n": 2})
    form = AnyTask(path="/v3/any", body={"image[]": [source, DataURL(image=source)], "n": 2}, is_form=True)
    for asked in (flat, form):
        kept = order_of(asked, endpoint=asked.path, position=0, digest=digest)
        again = request_of(kept, lambda *_: source)
        assert again == asked
        assert again.is_form is asked.is_form


def test_what_goes_out_in_another_form_is_another_request():
    source = ImageSource.from_bytes(picture())
    asked = [
        AnyTask(path="/v3/any", body={"image": source}),
        AnyTask(path="/v3/any", body={"image": source}, is_form=True),
        AnyTask(path="/v3/any", body={"image": DataURL(image=source)}),
    ]
    assert len({key(each) for each in asked}) == 3


@pytest.mark.parametrize("name", ["$form", "$data_url"])
def test_names_that_mark_a_form_are_not_for_bodies(name):
    with pytest.raises(InvalidRequest, match="are names that a journal uses"):
        described(any_task(deep=[{name: 1}]))


# --- Digests ----------------------------------------------------------------------------------------------


def test_a_picture_is_read_once_for_many_requests(tmp_path, monkeypatch):
    file = tmp_path / "dog.png"
    file.write_bytes(picture())
    reads: list[ImageSource] = []
    honest = ImageSource.digest
    monkeypatch.setattr(ImageSource, "digest", lambda source: reads.append(source) or honest(source))
    digests = DigestCache()
    sources = [ImageSource.from_path(file), ImageSource.from_path(file), ImageSource.from_bytes(picture())]
    assert len({digests(source) for source in sources * 3}) == 1
    assert len(reads) == 2
    file.write_bytes(picture(2))
    assert digests(ImageSource.from_path(file)) != digests(sources[2])
    assert repr(digests) == "<DigestCache of 2 files and 1 pictures>"


def test_the_memory_of_digests_is_bounded_and_keeps_the_latest():
    digests = DigestCache(pictures=2)
    sources = [ImageSource.from_bytes(picture(n)) for n in (1, 2, 3)]
    for n in (0, 1, 0, 2):
        digests(sources[n])
    assert list(digests._pictures) == [sources[0], sources[2]]
