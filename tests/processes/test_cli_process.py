"""The real command in a process of its own: signals, pipes, the first line of the simulator."""

import json
import os
import signal
from urllib.request import Request, urlopen

import pytest

from novita_async import __version__
from tests.helpers.served import Withheld, served

KEY = "sk_simulator"
GENERATE = ("generate", "dog.png", "cat.png", "--model", "m", "--prompt", "p", "--out", "made", "--json")
SLOW = {"speed": 0.01}


def submitted(process, count):
    """Read the ids of so many submissions."""
    lines = [json.loads(process.line()) for _ in range(count)]
    assert {line["event"] for line in lines} == {"submitted"}
    return [line["task_id"] for line in lines]


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interruption_tells_what_is_paid_and_how_to_fetch_it(start, name, code):
    with served(**SLOW) as server:
        process = start(*GENERATE, url=server.url)
        ids = submitted(process, 2)
        process.send_signal(getattr(signal, name))
        returned, out, err = process.finish()
    *_, unfinished, summary = map(json.loads, out.splitlines())
    assert returned == summary["exit_code"] == code
    assert sorted(unfinished["task_ids"]) == sorted(ids)
    (command,) = [line for line in err.splitlines() if "novita-async watch" in line]
    assert all(task_id in command for task_id in ids)
    assert command.endswith("--out made")
    assert "Traceback" not in err
    assert KEY not in out + err


def test_what_was_interrupted_can_be_fetched_with_the_command_that_was_told(start, folder):
    polls = Withheld()
    with served(faults=polls) as server:
        first = start(*GENERATE, url=server.url)
        submitted(first, 2)
        first.send_signal(signal.SIGINT)
        _, _, err = first.finish()
        (told,) = [line for line in err.splitlines() if "novita-async watch" in line]
        polls.released.set()
        second = start(*told.partition("novita-async ")[2].split(), url=server.url)
        code, out, _ = second.finish()
        assert code == 0
        assert len(server.ledger.accepted) == 2
    assert sorted(out.split()) == sorted(f"made/{path.name}" for path in (folder / "made").glob("*.png"))
    assert len(out.split()) == 2


def test_the_simulators_first_line_holds_its_url_and_ctrl_c_ends_it_well(start):
    process = start(
        "simulate", "--port", "0", "--api-key", "sk_mine", "--speed", "20", "--images-per-minute", "7"
    )
    url = process.line().split()[-1]
    request = Request(f"{url}/v3/user", headers={"Authorization": "Bearer sk_mine"})
    with urlopen(request) as answer:
        assert "credit_balance" in json.load(answer)
    process.send_signal(signal.SIGINT)
    code, out, err = process.finish()
    assert (code, out) == (0, "")
    assert "submissions accepted" in err
    assert "sk_" not in err


def test_the_simulator_tells_the_key_that_it_takes(start):
    process = start("simulate")
    assert process.line().startswith("Novita simulator at http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    assert "API key: sk_simulator" in process.finish().stderr
    assert "sk_simulator" in start("simulate", "--help").finish().stdout


def test_the_simulators_first_line_for_programs_is_an_object(start):
    process = start("simulate", "--json")
    line = json.loads(process.line())
    assert line["event"] == "listening"
    assert line["url"].startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGTERM)
    code, out, _ = process.finish()
    assert (code, out) == (0, "")


def test_a_port_that_is_taken_is_one_line(start):
    with served() as server:
        process = start("simulate", "--port", str(server.port))
        code, _, err = process.finish()
    assert code == 1
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


def test_a_reader_that_has_gone_ends_it_quietly(start):
    read, write = os.pipe()
    os.close(read)
    with served() as server:
        process = start("models", url=server.url, stdout=write)
        os.close(write)
        code, _, err = process.finish()
    assert (code, err) == (141, "")


def test_a_warning_reads_like_a_note(start):
    with served() as server:
        mixed = ("--controlnet", "control_v11p_sd15_canny", "--ip-adapter", "ip-adapter_sdxl.bin")
        process = start(*GENERATE, *mixed, url=server.url, flags=())
        _, _, err = process.finish()
    assert "warning: Img2Img:" in err
    assert ".py:" not in err


def test_the_version_is_told(start):
    assert start("--version").finish().stdout == f"{__version__}\n"
