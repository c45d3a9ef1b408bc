"""The README's code runs as it stands there, against a simulated service."""

import os
import re
import shlex
import signal
import socket
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.programs import python, run, running
from tests.helpers.served import check_servers, served
from tests.helpers.service import picture

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
ERRORS = ("-W", "error")
TWELVE_LINES, FOUR_ENDS, SERVICE, SYNC, BATCH, PLUGIN = BLOCKS


@pytest.fixture
def simulator():
    """A simulated service on a real socket, in a thread of its own."""
    with served(workers=8, plain_pictures=False) as server:
        yield server


@pytest.fixture
def environment(simulator, tmp_path):
    (tmp_path / "dog.png").write_bytes(picture())
    return os.environ | {"NOVITA_API_KEY": "sk_simulator", "NOVITA_BASE_URL": simulator.url}


def test_the_twelve_lines_save_twenty_four_pictures(simulator, environment, tmp_path):
    done = run(python("-c", TWELVE_LINES, flags=ERRORS), cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "out").glob("*.png"))) == 24
    assert simulator.ledger.images == 24


def test_the_twelve_lines_are_twelve():
    assert len([line for line in TWELVE_LINES.splitlines() if line.strip()]) <= 12


def test_the_four_ends_are_told_apart(environment, tmp_path):
    done = run(python("-c", FOUR_ENDS, flags=ERRORS), cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[3600]" in done.stdout


def test_a_script_without_async_saves_its_picture(environment, tmp_path):
    done = run(python("-c", SYNC, flags=ERRORS), cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


@contextmanager
def serving(code, cwd, env):
    """A web app of the README, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    code = code.replace("8080", str(port))
    (cwd / "service.py").write_text(code, encoding="utf-8")
    with running(python("service.py", flags=ERRORS), cwd=cwd, env=env) as program:
        yield url, program
        program.send_signal(signal.SIGTERM)
        program.wait()


def test_a_batch_that_was_left_is_resumed_by_running_it_again(simulator, environment, tmp_path):
    short = BATCH.replace("range(1000)", "range(30)")
    for _ in range(2):
        done = run(python("-c", short, flags=ERRORS), cwd=tmp_path, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
    done = run(python("-c", short.replace("break", "pass"), flags=ERRORS), cwd=tmp_path, env=environment)
    assert len(done.stdout.split()) == 30
    assert simulator.ledger.images == 30


def test_the_service_answers_with_urls(environment, tmp_path):
    with serving(SERVICE, tmp_path, environment) as (url, program):
        assert _post(program, f"{url}/restyle?prompt=a+fox", picture()).startswith('["http://127.0.0.1')
        with pytest.raises(urllib.error.HTTPError, match="500"):
            _post(program, f"{url}/restyle?prompt=a+fox", b"no picture")
        assert _post(program, f"{url}/restyle?prompt=a+fox", picture()).startswith('["http://127.0.0.1')


def test_the_service_has_ten_lines():
    assert len([line for line in SERVICE.splitlines() if line.strip()]) <= 10


def _post(program, url, data):
    for _ in range(1000):
        check_servers()
        assert not program.ended, program.finish().stderr
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data=data)) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.01)
    raise AssertionError("the service never listened")


def test_the_plugin_test_passes_in_a_folder_of_its_own(tmp_path):
    conftest = 'import pytest\n@pytest.fixture\ndef anyio_backend():\n    return "asyncio"\n'
    (tmp_path / "conftest.py").write_text(conftest, encoding="utf-8")
    (tmp_path / "test_mine.py").write_text(PLUGIN, encoding="utf-8")
    done = run(python("-m", "pytest", "-q", "-p", "no:cacheprovider", flags=()), cwd=tmp_path)
    assert "1 passed" in done.stdout, done.stdout


def commands(*names):
    """The README's command lines for these commands, without their comments."""
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in shell.splitlines()]
    return [line[1:] for line in lines if line[:1] == ["novita-async"] and line[1] in names]


def test_the_command_lines_run(simulator, environment, tmp_path):
    (tmp_path / "cat.png").write_bytes(picture(2))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "dog.png").write_bytes(picture())
    (manifest,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    (tmp_path / "shots.jsonl").write_text(manifest, encoding="utf-8")
    lines = commands("generate", "edit", "routes", "models", "balance", "batch")
    assert len(lines) == 7
    for line in lines:
        done = run(python("-m", "novita_async", *line, flags=ERRORS), cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    assert len(list((tmp_path / "edited").glob("*.png"))) == 1
    assert simulator.ledger.images == 2 + 1 + 8


def test_the_readme_names_no_command_that_does_not_exist():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([\w-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_every_link_of_the_readme_leads_to_a_file():
    links = re.findall(r"\]\((?!https?://)([^)#]+)", README)
    assert len(links) > 10
    assert [link for link in links if not (Path(__file__).parents[2] / link).is_file()] == []
