"""Events as lines of structlog, with the purchase's id.

python examples/structlog_events.py dog.png
"""

import asyncio
import logging
import sys

import structlog

from novita_async import Img2Img, NovitaClient
from novita_async.events import Event
from novita_async.logs import level_of, line_of

structlog.configure(
    processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
    wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
)
log = structlog.get_logger("novita_async")


def observe(event: Event) -> None:
    log.log(
        level_of(event), line_of(event), kind=type(event).__name__, purchase=getattr(event, "purchase", None)
    )


async def main(picture: str) -> None:
    async with NovitaClient(observers=[observe]) as client:
        await client.run(Img2Img(model_name="sd_xl_base_1.0.safetensors", image=picture, prompt="a cute dog"))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
