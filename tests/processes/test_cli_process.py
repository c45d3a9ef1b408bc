"""The real command in a process of its own: signals, pipes, the first line of the simulator."""

import json
import os
import signal
import subprocess
import sys
from urllib.request import Request, urlopen

import pytest

from novita_async import __version__
from novita_async.testing import sample_picture
from tests.helpers.served import served

KEY = "sk_simulator"
STRICT = ("-X", "dev", "-W", "error")
GENERATE = ("generate", "dog.png", "cat.png", "--model", "m", "--prompt", "p", "--out", "made", "--json")
SLOW = {"speed": 0.01}


@pytest.fixture
def folder(tmp_path):
    for name in ("dog", "cat"):
        (tmp_path / f"{name}.png").write_bytes(sample_picture(name, (256, 192)))
    return tmp_path


@pytest.fixture
def start(folder):
    """Start a command; whatever is left of it at the end is killed."""
    started = []

    def begin(*tokens, url="http://127.0.0.1:9", python=STRICT, **options):
        environment = {**os.environ, "NOVITA_API_KEY": KEY, "NOVITA_BASE_URL": url}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        command = (sys.executable, *python, "-m", "novita_async", *tokens)
        process = subprocess.Popen(command, cwd=folder, env=environment, **pipes)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def submitted(process, count):
    """Read the ids of so many submissions."""
    lines = [json.loads(process.stdout.readline()) for _ in range(count)]
    assert {line["event"] for line in lines} == {"submitted"}
    return [line["task_id"] for line in lines]


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interruption_tells_what_is_paid_and_how_to_fetch_it(start, name, code):
    with served(**SLOW) as server:
        process = start(*GENERATE, url=server.url)
        ids = submitted(process, 2)
        process.send_signal(getattr(signal, name))
        out, err = process.communicate(timeout=30)
    *_, unfinished, summary = map(json.loads, out.splitlines())
    assert process.returncode == summary["exit_code"] == code
    assert sorted(unfinished["task_ids"]) == sorted(ids)
    (command,) = [line for line in err.splitlines() if "novita-async watch" in line]
    assert all(task_id in command for task_id in ids)
    assert command.endswith("--out made")
    assert "Traceback" not in err
    assert KEY not in out + err


def test_what_was_interrupted_can_be_fetched_with_the_command_that_was_told(start, folder):
    with served(speed=2) as server:
        first = start(*GENERATE, url=server.url)
        submitted(first, 2)
        first.send_signal(signal.SIGINT)
        _, err = first.communicate(timeout=30)
        (told,) = [line for line in err.splitlines() if "novita-async watch" in line]
        second = start(*told.partition("novita-async ")[2].split(), url=server.url)
        out, _ = second.communicate(timeout=30)
        assert second.returncode == 0
        assert len(server.ledger.accepted) == 2
    assert sorted(out.split()) == sorted(f"made/{path.name}" for path in (folder / "made").glob("*.png"))
    assert len(out.split()) == 2


def test_the_simulators_first_line_holds_its_url_and_ctrl_c_ends_it_well(start):
    process = start(
        "simulate", "--port", "0", "--api-key", "sk_mine", "--speed", "20", "--images-per-minute", "7"
    )
    url = process.stdout.readline().split()[-1]
    request = Request(f"{url}/v3/user", headers={"Authorization": "Bearer sk_mine"})
    with urlopen(request, timeout=10) as answer:
        assert "credit_balance" in json.load(answer)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert "submissions accepted" in err
    assert "sk_" not in err


def test_the_simulator_tells_the_key_that_it_takes(start):
    process = start("simulate")
    assert process.stdout.readline().startswith("Novita simulator at http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    assert "API key: sk_simulator" in process.communicate(timeout=30)[1]
    assert "sk_simulator" in start("simulate", "--help").communicate(timeout=30)[0]


def test_the_simulators_first_line_for_programs_is_an_object(start):
    process = start("simulate", "--json")
    line = json.loads(process.stdout.readline())
    assert line["event"] == "listening"
    assert line["url"].startswith("http://127.0.0.1:")
    process.terminate()
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 0


def test_a_port_that_is_taken_is_one_line(start):
    with served() as server:
        process = start("simulate", "--port", str(server.port))
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


def test_a_reader_that_has_gone_ends_it_quietly(start):
    read, write = os.pipe()
    os.close(read)
    with served() as server:
        process = start("models", url=server.url, stdout=write)
        os.close(write)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (141, "")


def test_a_warning_reads_like_a_note(start):
    with served() as server:
        mixed = ("--controlnet", "control_v11p_sd15_canny", "--ip-adapter", "ip-adapter_sdxl.bin")
        process = start(*GENERATE, *mixed, url=server.url, python=())
        _, err = process.communicate(timeout=30)
    assert "warning: Img2Img:" in err
    assert ".py:" not in err


def test_the_version_is_told(start):
    assert start("--version").communicate(timeout=30)[0] == f"{__version__}\n"
