"""Pictures for the simulator: recipes, and samples to begin with.

Drawing needs Pillow (extra `simulator`), which is imported when the first picture is drawn and not before.
"""

from types import ModuleType

from novita_async.errors import ConfigurationError
from novita_async.testing.painting import Painting


def _easel() -> ModuleType:
    """Import what draws. Imported here, because Pillow may be absent and takes 50 ms."""
    try:
        from novita_async.testing import _drawing  # noqa: PLC0415
    except ModuleNotFoundError as error:
        advice = "pip install 'novita-async[simulator]'"
        raise ConfigurationError(problem="drawing pictures needs Pillow", advice=advice) from error
    return _drawing


def render(painting: Painting) -> bytes:
    """Paint a recipe. Takes some 10 ms for each megapixel; the service's threads do it, not its loop."""
    painted: bytes = _easel().paint(painting)
    return painted


def sample_picture(
    name: str | int = "hills", size: tuple[int, int] = (512, 512), *, image_type: str = "png"
) -> bytes:
    """Draw a landscape to be used as an input: the same name gives the same one.

    Args:
        name: chooses the colours and the lie of the land.
        size: width and height in pixels.
        image_type: `png`, `jpeg` or `webp`.
    """
    drawn: bytes = _easel().draw_sample(str(name), *size, image_type)
    return drawn
