"""Pictures for the simulator: recipes, and samples to begin with.

Drawing needs Pillow (extra `simulator`), which is imported when the first picture is drawn and not before.
"""

from attrs import field, frozen


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
        from novita_async.testing import _drawing  # noqa: PLC0415 Pillow may be absent, and takes 50 ms

        return _drawing.paint(self)


def sample_picture(
    name: str | int = "hills", size: tuple[int, int] = (512, 512), *, image_type: str = "png"
) -> bytes:
    """Draw a landscape to be used as an input: the same name gives the same one.

    Args:
        name: chooses the colours and the lie of the land.
        size: width and height in pixels.
        image_type: `png`, `jpeg` or `webp`.
    """
    from novita_async.testing import _drawing  # noqa: PLC0415 as above

    return _drawing.draw_sample(str(name), *size, image_type)
