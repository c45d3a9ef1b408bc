"""The simulator's pictures are real, come from the input, and come out the same each time."""

import io
import sys

import pytest
from PIL import Image, ImageChops, ImageStat

from novita_async import ConfigurationError
from novita_async.testing import Painting, sample_picture
from novita_async.testing.pictures import render


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


def distance(one: Image.Image, other: Image.Image) -> float:
    return sum(ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).mean)


def painted(**facts) -> Image.Image:
    return opened(
        render(Painting(**{"width": 96, "height": 64, "image_type": "png", "prompt": "a dog", **facts}))
    )


SOURCE = sample_picture("dog", (150, 90))
RESIZED = opened(SOURCE).convert("RGB").resize((96, 64), Image.Resampling.LANCZOS)


@pytest.mark.parametrize(
    ("image_type", "written"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP"), ("new", "PNG")]
)
def test_size_and_type_are_as_asked(image_type, written):
    image = painted(image_type=image_type, width=200, height=128)
    assert (image.format, image.size) == (written, (200, 128))


def test_strength_0_returns_the_input_resized():
    assert distance(painted(source=SOURCE, strength=0.0), RESIZED) == 0


def test_strength_1_ignores_the_input():
    assert distance(painted(source=SOURCE, strength=1.0), painted()) == 0


def test_in_between_the_result_moves_away_from_the_input():
    distances = [distance(painted(source=SOURCE, strength=s / 10), RESIZED) for s in range(11)]
    assert distances == sorted(distances)
    assert distances[0] == 0 < distances[1] < distances[9] - 5


@pytest.mark.parametrize("change", [{"seed": 1}, {"prompt": "a cat"}, {"index": 1}])
def test_seed_prompt_and_index_change_it_and_nothing_else_does(change):
    assert distance(painted(), painted(**change)) > 3
    assert distance(painted(**change), painted(**change)) == 0
    assert distance(painted(source=SOURCE, strength=0.5), painted(source=SOURCE, strength=0.5, **change)) > 1


def test_equal_recipes_give_equal_bytes():
    recipe = Painting(
        width=128, height=128, image_type="jpeg", prompt="x", seed=5, strength=0.3, source=SOURCE
    )
    assert render(recipe) == render(recipe)


def test_a_plain_picture_is_of_one_colour_and_of_its_seed():
    assert len(painted(plain=True, source=SOURCE, strength=0.0).getcolors()) == 1
    assert distance(painted(plain=True), painted(plain=True, seed=1)) > 0


@pytest.mark.parametrize("source", [SOURCE[:300], b"\x89PNG\r\n\x1a\n", b"text"])
def test_an_input_that_cannot_be_decoded_is_drawn_over(source):
    assert distance(painted(source=source, strength=0.3), painted()) == 0


def test_a_picture_with_transparency_is_an_input_too():
    out = io.BytesIO()
    Image.new("RGBA", (10, 10), (200, 30, 40, 128)).save(out, "PNG")
    assert painted(source=out.getvalue(), strength=0.0).getpixel((5, 5)) == (200, 30, 40)


def test_samples_are_the_same_by_name_and_differ_between_names():
    assert sample_picture("cat") == sample_picture("cat")
    assert distance(opened(sample_picture("cat")), opened(sample_picture(7))) > 10
    assert opened(sample_picture(3, (300, 200), image_type="webp")).size == (300, 200)


def test_a_painting_does_not_show_its_source():
    assert "<5 bytes>" in repr(Painting(width=1, height=1, image_type="png", source=b"12345"))
    assert "source=None" in repr(Painting(width=1, height=1, image_type="png"))


def test_without_pillow_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "novita_async.testing._drawing")
    monkeypatch.delattr("novita_async.testing._drawing")
    with pytest.raises(ConfigurationError, match="needs Pillow: pip install"):
        sample_picture()
