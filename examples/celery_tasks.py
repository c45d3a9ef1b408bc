"""Tasks of Celery that restyle pictures.

A worker forks its processes, and a client is no thing to be forked while it is open: each process makes its
own when it needs one first. A task that is delivered twice would pay twice, so a batch of one, with a journal
named by the task, remembers what it has bought.
"""

import os
from functools import cache
from pathlib import Path

from celery import Celery

from novita_async import Img2Img
from novita_async.sync import Client

app = Celery("pictures", broker=os.environ.get("BROKER", "redis://"), backend=os.environ.get("BACKEND"))
app.conf.task_acks_late = True  # a worker that dies gives its task back
if os.environ.get("BROKER_FOLDER"):  # a broker without a server
    folder = os.environ["BROKER_FOLDER"]
    names = ("data_folder_in", "data_folder_out", "control_folder")
    app.conf.broker_transport_options = dict.fromkeys(names, folder)


@cache
def client() -> Client:
    return Client()


@app.task(bind=True)
def restyle(self, picture: str, prompt: str, out: str = "out") -> list[str]:
    """Buy a picture, once, however often this task is delivered."""
    wish = Img2Img(model_name="sd_xl_base_1.0.safetensors", image=picture, prompt=prompt)
    Path(out).mkdir(parents=True, exist_ok=True)
    journal = Path(out) / f"{self.request.id}.db"
    with client().batch([wish], journal=journal, save_to=out) as outcomes:
        (outcome,) = outcomes
        outcome.unwrap()
        return [str(path) for path in outcome.paths]
