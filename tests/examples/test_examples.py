"""The examples, run for real against a simulated service: `make examples`."""

import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from novita_async.testing import DEFAULT_API_KEY, Fault, FaultPlan
from tests.helpers.programs import python, run, running
from tests.helpers.served import Withheld, check_servers, served
from tests.helpers.service import picture

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
UVICORN = ["uvicorn", "examples.fastapi_service:app", "--port"]
UVLOOP = ["uvicorn", "--loop", "uvloop", "examples.fastapi_service:app", "--port"]
GUNICORN = ["gunicorn", "--preload", "--workers", "2", "--worker-class", "uvicorn_worker.UvicornWorker"]
GUNICORN += ["examples.fastapi_service:app", "--bind"]


@contextmanager
def simulated(**config):
    with served(workers=8, **config) as server:
        yield server


def environment_of(server, **more):
    known = {"NOVITA_API_KEY": DEFAULT_API_KEY, "NOVITA_BASE_URL": server.url, "PYTHONPATH": str(ROOT)}
    return {**os.environ, **known, **more}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def service(command, server, folder, **more):
    """A running web service: its address and its program."""
    port = free_port()
    address = f"127.0.0.1:{port}" if command[0] == "gunicorn" else str(port)
    tokens = [*command, address] if command[-1].startswith("--") else command
    environment = environment_of(server, PORT=str(port), PUBLIC_URL=f"http://127.0.0.1:{port}", **more)
    start = [sys.executable, "-m", *tokens] if tokens[0] != "python" else [sys.executable, *tokens[1:]]
    with running(start, cwd=folder, env=environment) as program:
        url = f"http://127.0.0.1:{port}"
        while True:
            check_servers()
            assert not program.ended, program.finish().stderr
            try:
                urllib.request.urlopen(f"{url}/nowhere")
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.05)
        try:
            yield url, program
        finally:
            program.send_signal(signal.SIGTERM)  # a server that is killed leaves its workers behind
            program.wait()


def ask(url, data=None):
    with urllib.request.urlopen(urllib.request.Request(url, data=data)) as answer:
        return json.loads(answer.read())


def end(program):
    program.send_signal(signal.SIGTERM)
    return program.finish()


@pytest.mark.parametrize("command", [UVICORN, UVLOOP, GUNICORN], ids=["uvicorn", "uvloop", "gunicorn"])
def test_fastapi_gives_results_tells_progress_and_takes_webhooks(command, tmp_path):
    with simulated() as server, service(command, server, tmp_path) as (url, program):
        result = ask(f"{url}/restyle?prompt=a+fox", picture())
        assert result["images"][0]["url"].startswith("http://127.0.0.1")
        schema = ask(f"{url}/openapi.json")["paths"]["/restyle"]["post"]["responses"]["200"]["content"]
        assert "finished task" in schema["application/json"]["schema"]["description"]
        if command is not GUNICORN:  # one process, whose client knows the task
            task_id = ask(f"{url}/tasks?prompt=a+fox", picture())["task_id"]
            with urllib.request.urlopen(f"{url}/tasks/{task_id}/events") as lines:
                told = [line.decode().strip() for line in lines if line.startswith(b"event:")]
            assert told[-1] == "event: end"
            assert server.ledger.webhooks
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(f"{url}/restyle?prompt=a+fox", b"no picture")
        with refused.value as answer:
            assert (answer.code, json.loads(answer.read())["error"]) == (422, "InvalidRequest")
        end(program)
    assert server.ledger.images == (1 if command is GUNICORN else 2)


def test_a_browser_that_goes_away_loses_no_task(tmp_path):
    held = Withheld()
    with simulated(faults=held) as server, service(UVICORN, server, tmp_path) as (url, _):
        task_id = ask(f"{url}/tasks?prompt=a+fox", picture())["task_id"]
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as browser:
            browser.sendall(f"GET /tasks/{task_id}/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert browser.recv(15) == b"HTTP/1.1 200 OK"
        assert ask(f"{url}/tasks") == [task_id]
        held.released.set()
        assert ask(f"{url}/tasks/{task_id}")["task"]["task_id"] == task_id
        assert ask(f"{url}/tasks") == []
    assert server.ledger.images == 1


@pytest.mark.parametrize("command", [UVICORN, GUNICORN], ids=["uvicorn", "gunicorn"])
def test_sigterm_lets_a_request_end_that_has_bought(command, tmp_path):
    slow = FaultPlan.listed("submit", {1: Fault.slow(0.5)})
    with simulated(faults=slow) as server, service(command, server, tmp_path) as (url, program):
        host, port = url.removeprefix("http://").split(":")
        body = picture()
        with socket.create_connection((host, int(port))) as browser:
            head = f"POST /restyle?prompt=fox HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
            browser.sendall(head.encode() + body)
            while not server.ledger.accepted:
                check_servers()
                time.sleep(0.01)
            program.send_signal(signal.SIGTERM)
            answer = b""
            while piece := browser.recv(65536):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"images":[{' in answer
        assert "Traceback" not in program.finish().stderr
    assert server.ledger.images == 1


@pytest.mark.parametrize(
    "command",
    [
        ["uvicorn", "examples.starlette_service:app", "--port"],
        ["uvicorn", "examples.litestar_service:app", "--port"],
        ["flask", "--app", "examples.flask_service", "run", "--port"],
        ["python", str(EXAMPLES / "aiohttp_service.py")],
    ],
    ids=["starlette", "litestar", "flask", "aiohttp"],
)
def test_other_frameworks_give_results(command, tmp_path):
    with simulated() as server, service(command, server, tmp_path) as (url, program):
        assert ask(f"{url}/restyle?prompt=a+fox", picture())["images"]
        with pytest.raises(urllib.error.HTTPError, match="422"):
            ask(f"{url}/restyle?prompt=a+fox", b"no picture")
        end(program)
    assert server.ledger.images == 1


def test_celery_buys_each_task_once_in_processes_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "dog.png").write_bytes(picture())
    (tmp_path / "results").mkdir()
    broker = {
        "BROKER": "filesystem://",
        "BACKEND": f"file://{tmp_path}/results",
        "BROKER_FOLDER": str(tmp_path),
    }
    worker = ["celery", "-A", "examples.celery_tasks", "worker", "--concurrency=2", "--loglevel=INFO"]
    with simulated() as server:
        for name, value in environment_of(server, **broker).items():
            monkeypatch.setenv(name, value)
        monkeypatch.syspath_prepend(ROOT)
        from examples.celery_tasks import restyle  # noqa: PLC0415 - reads the environment

        with running([sys.executable, "-m", *worker], cwd=tmp_path, env=os.environ) as program:
            jobs = [restyle.delay(str(tmp_path / "dog.png"), prompt) for prompt in ("a fox", "a cat")]
            again = restyle.apply_async(args=("dog.png", "a fox"), task_id=jobs[0].id, countdown=0)
            found = [job.get(timeout=30) for job in jobs]
            assert again.id == jobs[0].id
            program.send_signal(signal.SIGTERM)
            program.finish()
    assert all((tmp_path / path).exists() for paths in found for path in paths)
    assert server.ledger.images == 2


def test_the_notebook_shows_pictures(tmp_path):
    import nbformat  # noqa: PLC0415 - of this group
    from nbclient import NotebookClient  # noqa: PLC0415

    (tmp_path / "dog.png").write_bytes(picture())
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    with simulated() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in environment_of(server).items():
            patch.setenv(name, value)
        NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert shown[0][0]["data"]["text/html"].count("<img") == 3
    assert "256, 256" in shown[1][0]["data"]["text/plain"]
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    assert "3/3" in shown[3][0]["data"]["text/html"]
    assert "00000-0-1.png" in shown[3][1]["data"]["text/plain"]
    assert "<img" in shown[4][0]["data"]["text/html"]
    assert server.ledger.images == 15


def test_a_batch_becomes_a_table_and_is_resumed(tmp_path):
    (tmp_path / "dog.png").write_bytes(picture())
    with simulated() as server:
        for _ in range(2):
            command = python(EXAMPLES / "batch_to_pandas.py", "dog.png", flags=())
            done = run(command, cwd=tmp_path, env=environment_of(server))
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("succeeded") == 4
    assert server.ledger.images == 4


def test_outcomes_are_a_table_of_polars_in_one_line():
    import polars as pl  # noqa: PLC0415 - of this group

    from novita_async import Failed, Succeeded, Task, TaskFailed, TaskResult  # noqa: PLC0415

    task = Task(task_id="t-1")
    outcomes = [
        Succeeded(result=TaskResult(task=task, seed=7), tag="a"),
        Failed(error=TaskFailed(task=task, explanation="no"), task=task, tag="b"),
    ]
    table = pl.json_normalize([outcome.to_dict() for outcome in outcomes])
    assert table["outcome"].to_list() == ["succeeded", "failed"]
    assert table["result.seed"].to_list() == [7, None]
    assert table["error.type"].to_list() == [None, "TaskFailed"]


def test_structlog_has_a_line_an_event(tmp_path):
    (tmp_path / "dog.png").write_bytes(picture())
    with simulated() as server:
        command = python(EXAMPLES / "structlog_events.py", "dog.png", flags=())
        done = run(command, cwd=tmp_path, env=environment_of(server))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["kind"] for line in lines} >= {"Transition", "Polled", "Finished"}
    assert any("Bought" in line["event"] and line["purchase"] == 1 for line in lines)


def test_the_tests_of_users_pass_with_pytest_and_with_unittest(tmp_path):
    folder = EXAMPLES / "testing"
    quiet = ("-p", "no:cacheprovider", "-q", f"--rootdir={tmp_path}", "-c", os.devnull)
    done = run(python("-m", "pytest", *quiet, folder, flags=()), cwd=folder)
    assert "5 passed" in done.stdout, done.stdout + done.stderr
    done = run(python("-m", "unittest", "test_with_unittest", flags=()), cwd=folder)
    assert done.returncode == 0, done.stderr


def test_arrays_of_numpy_are_pictures():
    import io  # noqa: PLC0415

    import numpy  # noqa: PLC0415, ICN001 - of this group
    from PIL import Image  # noqa: PLC0415

    from novita_async import ImageSource, InvalidRequest  # noqa: PLC0415

    pixels = numpy.arange(4 * 3 * 3, dtype="uint8").reshape(4, 3, 3)
    for given in (pixels, Image.fromarray(pixels), pixels / 255, pixels.astype("float32") / 255):
        source = ImageSource.of(given)
        assert (numpy.asarray(Image.open(io.BytesIO(source.read()))) == pixels).all()
    assert ImageSource.of(pixels[:, :, :1]).format == "png"
    with pytest.raises(InvalidRequest, match="between 0 and 1"):
        ImageSource.of(pixels.astype("float64"))


def test_many_workers_buy_nothing_twice_although_one_is_killed(folder):
    done = run(python(str(EXAMPLES / "many_workers.py"), "made", flags=()), cwd=folder, env=with_path())
    assert done.returncode == 0, done.stderr
    assert "of them twice" in done.stdout
    assert ", 0 of them twice" in done.stdout
    assert (folder / "made" / "report.html").exists()


def with_path():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_procrastinate_starts_workers_again_and_each_request_is_bought_once(folder, database):
    """A job that was run by a worker that died is put back, and run by another."""
    (folder / "dog.png").write_bytes(picture())
    lines = [{"image": "dog.png", "model_name": "m", "prompt": "p", "seed": seed} for seed in range(20)]
    (folder / "shots.jsonl").write_text("\n".join(map(json.dumps, lines)))
    engine = [sys.executable, "-m", "procrastinate", "--app", "examples.procrastinate_tasks.app"]
    url = f"{database}#spring"
    with simulated(speed=4.0) as server:
        known = environment_of(server, DATABASE_URL=database, OUT=str(folder / "made"), STALL="4")
        planned = python("-m", "novita_async", "enqueue", "shots.jsonl", "--journal", url, flags=())
        for command in (
            [*planned, "--out", str(folder / "made")],
            [*engine, "schema", "--apply"],
            python("-c", "import examples.procrastinate_tasks as t; t.start('spring', 2)", flags=()),
        ):
            done = run(command, cwd=folder, env=known)
            assert done.returncode == 0, done.stderr
        with running([*engine, "worker"], cwd=folder, env=known) as dying:
            while len(server.ledger.accepted) < 5:
                assert not dying.ended, dying.finish().stderr
                time.sleep(0.02)
            dying.kill()
        again = "import examples.procrastinate_tasks as t; t.start('spring', 1)"
        assert run(python("-c", again, flags=()), cwd=folder, env=known).returncode == 0
        done = run([*engine, "worker", "--one-shot"], cwd=folder, env=known)
        assert done.returncode == 0, done.stderr
        bought = [entry.request["request"]["seed"] for entry in server.ledger.accepted]
        assert len(set(bought)) == len(bought)
        told = run(python("-m", "novita_async", "status", url, "--json", flags=()), cwd=folder, env=known)
        status = json.loads(told.stdout)
        assert status["saved"] + status["uncertain"] == 20
