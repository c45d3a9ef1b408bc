"""A batch of pictures as a table of pandas: run it again, and it goes on where it was.

python examples/batch_to_pandas.py dog.png
"""

import asyncio
import sys

import pandas as pd

from novita_async import Img2Img, NovitaClient


async def main(picture: str) -> None:
    dog = Img2Img(model_name="sd_xl_base_1.0.safetensors", image=picture, prompt="a cute dog")
    requests = dog.sweep(seed=range(2), strength=[0.3, 0.7])
    async with NovitaClient() as client:
        async with client.batch(requests, journal="run.db", save_to="out") as outcomes:
            table = pd.json_normalize([outcome.to_dict() async for outcome in outcomes])
    print(table[["outcome", "task_id", "result.seed", "paths"]].to_string())
    table.to_csv("out/table.csv")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
