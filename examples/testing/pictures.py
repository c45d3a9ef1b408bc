"""Code that buys pictures, to be tested."""

from novita_async import Img2Img, NovitaClient, SubmissionUncertain
from novita_async.sync import Client
from novita_async.testing import sample_picture

DOG = Img2Img(model_name="m", image=sample_picture(), prompt="a dog")


async def portrait(client: NovitaClient) -> str:
    """Buy a picture; tell where it is, or what became of the money."""
    try:
        return (await client.run(DOG)).images[0].url
    except SubmissionUncertain:
        return "perhaps paid"


def portrait_without_await(client: Client) -> str:
    return client.run(DOG).images[0].url
