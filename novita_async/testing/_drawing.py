"""The drawing itself, with Pillow: gradients, ribbons and lights from a prompt; landscapes as samples."""

import colorsys
import io
import math
from functools import partial
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFilter, ImageOps

from novita_async.testing._dice import fraction, whole
from novita_async.testing.painting import Painting

_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "png": {"compress_level": 3},
    "jpeg": {"quality": 90},
    "webp": {"quality": 85, "method": 2},
}
_GOLDEN: Final = 0.61803398875
_MESH: Final = 5
_LIGHTS: Final = 14
_RIBBONS: Final = 4

Colour = tuple[int, int, int]
Names = tuple[object, ...]


def paint(painting: Painting) -> bytes:
    """Paint a recipe, as a file."""
    return _encode(_compose(painting), painting.image_type)


def draw_sample(name: str, width: int, height: int, image_type: str) -> bytes:
    """Draw a landscape, as a file."""
    colours = _palette(f"landscape {name}")
    sky = Image.new("RGB", (1, 3))
    sky.putdata([colours[2], colours[3], colours[4]])
    canvas = sky.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    x, y = width * (0.2 + 0.6 * fraction("sun", name)), height * (0.15 + 0.25 * fraction("noon", name))
    radius = min(width, height) * 0.09
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 244, 214))
    for number in range(3):
        level = 0.42 + 0.16 * number
        ridge = [(i / 64, level + 0.6 * (_wave(i / 64, number, (name,)) - 0.5) * 0.5) for i in range(65)]
        hill = [(x * width, y * height) for x, y in (*ridge, (1.0, 1.0), (0.0, 1.0))]
        share, ends = (number + 1) / 3, zip(colours[3], colours[0], strict=True)
        red, green, blue = (round(a + (b - a) * share) for a, b in ends)
        draw.polygon(hill, fill=(red, green, blue))
    return _encode(canvas, image_type)


def _encode(image: Image.Image, image_type: str) -> bytes:
    kind = image_type if image_type in _OPTIONS else "png"
    out = io.BytesIO()
    image.save(out, kind.upper(), **_OPTIONS[kind])
    return out.getvalue()


def _compose(painting: Painting) -> Image.Image:
    if painting.plain:
        colour = _palette(f"{painting.prompt} {painting.seed} {painting.index}")[2]
        return Image.new("RGB", (painting.width, painting.height), colour)

    source = _open_source(painting)
    if source is None:
        return _paint(painting)
    if painting.strength <= 0:
        return source
    fresh = _paint(painting)
    colours = _palette(painting.prompt)
    tinted = ImageOps.colorize(source.convert("L"), black=colours[0], mid=colours[2], white=colours[4])
    mixed = Image.blend(tinted, fresh, painting.strength)
    return Image.blend(source, mixed, painting.strength)


def _open_source(painting: Painting) -> Image.Image | None:

    if painting.source is None or painting.strength >= 1:
        return None
    try:
        with Image.open(io.BytesIO(painting.source)) as image:
            rgb = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # a sound header with a broken rest; the service would have failed the task
    return rgb.resize((painting.width, painting.height), Image.Resampling.LANCZOS)


def _palette(prompt: str) -> tuple[Colour, ...]:
    """Five colours that go together, dark to light, from a prompt."""
    hue = fraction("hue", prompt)
    turn = (0.08, 0.45, 0.33, 0.14)[whole(4, "turn", prompt)]
    levels = (0.22, 0.42, 0.62, 0.80, 0.96)
    colours = (
        colorsys.hsv_to_rgb((hue + turn * step * _GOLDEN) % 1, 0.75 - 0.10 * step, light)
        for step, light in enumerate(levels)
    )
    return tuple((round(red * 255), round(green * 255), round(blue * 255)) for red, green, blue in colours)


def _paint(painting: Painting) -> Image.Image:
    names = (painting.prompt, painting.seed, painting.index)
    colours = _palette(painting.prompt)
    small = Image.new("RGB", (_MESH, _MESH))
    cells = [colours[1 + whole(3, "mesh", i, *names)] for i in range(_MESH * _MESH)]
    small.putdata(cells)
    canvas = small.resize((painting.width, painting.height), Image.Resampling.BICUBIC)
    canvas = _ribbons(canvas, colours, names)
    return _lights(canvas, colours, names)


def _layer(canvas: Image.Image) -> Image.Image:

    return Image.new("RGBA", canvas.size, (0, 0, 0, 0))


def _ribbons(canvas: Image.Image, colours: tuple[Colour, ...], names: Names) -> Image.Image:

    layer, (width, height) = _layer(canvas), canvas.size
    draw = ImageDraw.Draw(layer)
    for number in range(_RIBBONS):
        thick = 0.05 + 0.12 * fraction("thick", number, *names)
        edge = [(i / 48, _wave(i / 48, number, names)) for i in range(49)]
        upper = [(x * width, y * height) for x, y in edge]
        lower = [(x * width, (y + thick) * height) for x, y in reversed(edge)]
        draw.polygon(upper + lower, fill=(*colours[number % 5], 110))
    return Image.alpha_composite(canvas.convert("RGBA"), layer).convert("RGB")


def _wave(x: float, number: int, names: Names) -> float:
    draw = partial(fraction, "wave", number, *names)
    slow, fast = 1 + 2 * draw("slow"), 3 + 4 * draw("fast")
    bend = 0.10 * math.sin(math.tau * (slow * x + draw("a"))) + 0.03 * math.sin(
        math.tau * (fast * x + draw("b"))
    )
    return 0.15 + 0.7 * draw("level") + bend


def _lights(canvas: Image.Image, colours: tuple[Colour, ...], names: Names) -> Image.Image:

    layer = _layer(canvas)
    draw = ImageDraw.Draw(layer)
    width, height = canvas.size
    for i in range(_LIGHTS):
        x, y = width * fraction("x", i, *names), height * fraction("y", i, *names)
        radius = min(width, height) * (0.015 + 0.11 * fraction("r", i, *names) ** 2)
        fill = (*colours[3 + i % 2], 60 + whole(110, "alpha", i, *names))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    soft = layer.filter(ImageFilter.GaussianBlur(max(1, min(width, height) // 200)))
    return Image.alpha_composite(canvas.convert("RGBA"), soft).convert("RGB")
