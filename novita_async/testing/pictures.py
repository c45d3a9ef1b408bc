"""Pictures for the simulator: recipes, and samples to begin with.

Drawing needs Pillow (extra `simulator`), which is imported when the first picture is drawn and not before.
"""

from types import ModuleType

from attrs import field, frozen

from novita_async.errors import ConfigurationError


def _easel() -> ModuleType:
    """What draws. Imported here, because Pillow may be absent and takes 50 ms."""
    try:
        from novita_async.testing import _drawing  # noqa: PLC0415
    except ModuleNotFoundError as error:
        advice = "pip install 'novita-async[simulator]'"
        raise ConfigurationError(problem="drawing pictures needs Pillow", advice=advice) from error
    return _drawing


def _size(data: bytes | None) -> str:
    return "None" if data is None else f"<{len(data)} bytes>"


@frozen(kw_only=True)
class Painting:
    """The recipe of one result picture. Equal recipes give equal bytes."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    image_type: str
    """`png`, `jpeg` or `webp`; anything else is made a PNG."""
    prompt: str = ""
    """Chooses the colours."""
    seed: int = 0
    """Places the shapes."""
    index: int = 0
    """Which picture of the task, from 0; places the shapes as well."""
    strength: float = 1.0
    """0: the source as it is, resized. 1: nothing of the source."""
    plain: bool = False
    """Whether it is of one colour."""
    source: bytes | None = field(default=None, repr=_size)
    """The input picture as a file."""

    def render(self) -> bytes:
        """Paint it. Takes some 10 ms for each megapixel; the service's threads do it, not its loop."""
        painted: bytes = _easel().paint(self)
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
