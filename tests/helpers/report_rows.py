"""Purchases and pictures to report on."""

import hashlib
import json
import zlib
from datetime import UTC, datetime
from pathlib import Path
from struct import pack

from novita_async import FailedEarlier, Task, TaskResult, Timings
from novita_async._journal.rows import COLUMNS, Known, record_of
from novita_async._purchase.machine import Attempt, JournalEntry, Purchase, State
from novita_async.models.results import GeneratedImage
from tests.helpers.journals import do, open_store

BEGIN = 1_795_350_000.0
WICKED = "</script><img src=x onerror=\"document.title='stolen'\"><!-- <b>bold</b> & 'quoted' \u2028 \u00e4"
REFUSED = FailedEarlier(
    kind="ContentRejected",
    text="400 ILLEGAL_PROMPT: the prompt breaks the policy: nothing was bought; change the prompt",
    reason="ILLEGAL_PROMPT",
)
BROKEN = FailedEarlier(kind="TaskFailed", text="task t-9 failed: failed to exec task", retryable=True)
LOST = FailedEarlier(
    kind="SubmissionUncertain", text="no known end: the connection was reset", retryable=True
)


def png(red=200, green=120, blue=40, size=8):
    """A picture of one colour."""
    lines = (b"\0" + bytes((red, green, blue)) * size) * size
    chunks = {
        b"IHDR": pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(lines),
        b"IEND": b"",
    }
    body = b"".join(
        pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + body


def digest(data):
    return hashlib.sha256(data).hexdigest()


def wire(*, image=None, **fields):
    """A request as a journal keeps it."""
    request = {"model_name": "base.safetensors", "prompt": "a hill", "steps": 20, "strength": 0.5, "seed": 7}
    picture = {} if image is None else {"image_base64": image}
    return json.dumps({"request": {**request, **picture, **fields}})


def row(position=0, state=State.PLANNED, *, request=None, kind="img2img", earlier=(), **changes):
    """A purchase of a journal, in which what goes without saying is said."""
    sent = BEGIN + 6.0 * position
    images, endpoint = changes.get("images", 1), changes.get("endpoint", "/v3/async/img2img")
    task = Task(task_id=f"task-{position}", account="k1", endpoint=endpoint, image_num=images)
    bought = {"task": task, **_sent(Attempt("k1", sent, sent + 0.5, task_id=task.task_id))}
    done = {**bought, "finished_at": sent + 9.0, "result": result(position, task)}
    told = {
        State.PLANNED: {},
        State.ANNOUNCED: _sent(Attempt("k1", sent)),
        State.SUBMITTED: bought,
        State.SUCCEEDED: done,
        State.SAVED: {**done, "saved_at": sent + 10.25},
        State.FAILED: {
            **_sent(Attempt("k1", sent, sent + 0.5)),
            "finished_at": sent + 1.0,
            "error": REFUSED,
        },
        State.UNCERTAIN: {**_sent(Attempt("k1", sent, sent + 0.5, perhaps=True)), "error": LOST},
    }
    facts = {"endpoint": endpoint, "images": images, "position": position, "state": state} | told[state]
    purchase = Purchase(None, **(facts | changes))
    purchase.attempts = (*earlier, *purchase.attempts)
    purchase.attempt += len(earlier)
    purchase.entry = JournalEntry(
        key=f"{position:032x}",
        position=position,
        kind=kind,
        endpoint=endpoint,
        images=images,
        request=wire() if request is None else request,
        occurrence=0,
        serial=position + 1,
        run=1,
    )
    return purchase


def _sent(attempt):
    return {"account": attempt.account, "attempt": 1, "attempts": (attempt,)}


def result(position, task=None, **fields):
    """Queued for two seconds or more, worked on for five."""
    sent = BEGIN + 6.0 * position
    queued = 2.0 + position % 7
    times = {"submit_time": sent, "execute_time": sent + queued, "complete_time": sent + queued + 5.0}
    told = {
        "task": task or Task(task_id=f"task-{position}"),
        "images": (GeneratedImage(url="https://host.example/a.png", type="png", url_ttl=3600),),
        "seed": 1000 + position,
        "timings": Timings.of(**{name: datetime.fromtimestamp(time, UTC) for name, time in times.items()}),
    }
    return TaskResult(**(told | fields))


def journal_of(path, purchases):
    """Write a journal that has these rows, and is closed."""
    store = open_store(path)
    do(store, lambda store: write(store, purchases))
    store.close()


def write(store, purchases):
    """Put rows into a journal, in the place of those with the same serial number."""
    marks = ", ".join("?" * (len(COLUMNS) + 1))
    order = f"INSERT OR REPLACE INTO requests (serial, {', '.join(COLUMNS)}) VALUES ({marks})"  # noqa: S608
    nothing = (None,) * (len(COLUMNS) - 1)
    for purchase in purchases:
        planned = (bytes.fromhex(purchase.entry.key), *nothing)
        record = record_of(purchase, Known(purchase, planned), BEGIN)
        store._connection.execute(order, (purchase.entry.serial, *record))


def batch(folder, count=5000):
    """A batch in all states, with its pictures in a folder. The first rows are special; see below."""
    (folder / "inputs").mkdir(parents=True)
    (folder / "outputs").mkdir()
    data = png()
    (folder / "inputs" / f"{digest(data)}.png").write_bytes(data)
    for number in range(40):
        (folder / "outputs" / f"{number}.png").write_bytes(png(number * 6, 90, 200 - number * 4, 16))
    return [*_special(data), *(_ordinary(number, data) for number in range(8, count))]


def _special(data):
    known, gone = {"$picture": digest(data)}, {"$picture": "ab" * 32}
    four = tuple(Path(f"outputs/{number}.png") for number in range(4))
    earlier = (Attempt("k1", BEGIN - 65, BEGIN - 64),)
    unit = {"model_name": "canny", "image_base64": known, "strength": 1}
    yield row(0, State.SAVED, request=wire(image=known), paths=four, images=4, earlier=earlier)
    yield row(1, State.SAVED, request=wire(image=gone, prompt=WICKED), paths=(Path("outputs/1.png"),))
    yield row(2, State.FAILED, request=wire(image=known))
    yield row(3, State.FAILED, error=BROKEN, request=wire(image=known))
    yield row(4, State.UNCERTAIN, request=wire(image=known))
    yield row(5, State.SUBMITTED, request=wire(image=known, controlnet={"units": [unit]}))
    yield row(
        6,
        State.SAVED,
        kind="txt2img",
        endpoint="/v3/async/txt2img",
        request=wire(),
        paths=(Path("outputs/6.png"),),
    )
    yield row(7, State.SAVED, request=wire(image=known), paths=(Path("outputs/missing.png"),))


def _ordinary(number, data):
    prompt = ("a lagoon at dusk", "dunes under a cold moon", "a fjord in autumn")[number % 3]
    model = "other.safetensors" if number % 2 else "base.safetensors"
    request = wire(
        image={"$picture": digest(data)}, prompt=prompt, model_name=model, strength=number % 10 / 10
    )
    return row(number, State.SAVED, request=request, paths=(Path(f"outputs/{number % 40}.png"),))
