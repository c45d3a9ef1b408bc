"""Pictures of the tutorials, made by the simulated service as a reader makes them."""

from pathlib import Path
from typing import Final

from novita_async import Img2Img
from novita_async.testing import Simulation, run_virtually, sample_picture

SIZE: Final = (384, 288)


def write(folder: Path) -> None:
    """Make them anew."""
    dog = sample_picture("dog", SIZE)
    (folder / "dog.png").write_bytes(dog)
    (folder / "watercolour.png").write_bytes(run_virtually(_made, dog))


async def _made(picture: bytes) -> bytes:
    wish = Img2Img(
        model_name="sd_xl_base_1.0.safetensors", image=picture, prompt="a dog in watercolour", seed=7
    )
    async with Simulation().client() as client:
        result = await client.run(wish)
        return await client.fetch(result.images[0])
