"""What all tests share: virtual time unless a test wants the real one, and a loop that nothing blocks."""

import asyncio
import gc
import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from novita_async import Polling
from novita_async.testing import DEFAULT_API_KEY, VirtualTimeLoop, sample_picture
from tests.helpers.guard import Guard, standing
from tests.helpers.programs import STRICT, Program, python
from tests.helpers.served import served

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a background job; children would ignore it, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # coverage measures the workers, not what tests start: minutes less
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

LUCK = [HealthCheck.too_slow, HealthCheck.filter_too_much]  # of the machine, and of the draw
# No test asserts a time. The long form is for `make soak`.
settings.register_profile("steady", deadline=None, max_examples=30, suppress_health_check=LUCK)
settings.register_profile("long", deadline=None, max_examples=1000, suppress_health_check=LUCK)
settings.load_profile("steady")


def pytest_xdist_auto_num_workers():
    """Two a core: many tests wait for processes, sockets and real seconds."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_finish():
    """Take all that was collected out of the garbage collector's sight: it lives to the end, and is large."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser):
    parser.addoption("--uvloop", action="store_true", help="let every loop in real time be one of uvloop")


@pytest.fixture(scope="session", autouse=True)
def _real_loops(request):
    """Every loop in real time that is made without a factory, in any thread."""
    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("--uvloop"):
            import uvloop  # noqa: PLC0415 - only this row has it

            patch.setattr(asyncio.events, "new_event_loop", uvloop.new_event_loop)
            patch.setattr(asyncio, "new_event_loop", uvloop.new_event_loop)
        yield


@pytest.fixture
def anyio_backend(request):
    """Virtual time; real time where a test is marked as `real_loop`."""
    if request.node.get_closest_marker("real_loop"):
        return "asyncio"
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture(scope="session")
def _guard():
    """The guard stands for the whole session: to put it there takes longer than most tests."""
    with standing(Guard()) as guard:
        yield guard


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop(_guard):
    """A call of the library that blocks while a loop runs is an error, also where the library catches it."""
    _guard.found.clear()
    yield
    assert _guard.found == []


@pytest.fixture(scope="session", autouse=True)
def _no_proxies():
    """Nothing here leaves the machine, whatever its environment says."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.lower().endswith("_proxy"):
                patch.delenv(name)
        yield


@pytest.fixture
def pictures_in():
    """Where the pictures of `folder` lie."""
    return "."


@pytest.fixture
def folder(tmp_path, monkeypatch, pictures_in):
    """Work in a folder with two pictures."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / pictures_in).mkdir(exist_ok=True)
    for name in ("dog", "cat"):
        (tmp_path / pictures_in / f"{name}.png").write_bytes(sample_picture(name, (256, 192)))
    return tmp_path


@pytest.fixture
def serve(monkeypatch):
    """Start a service and let the environment point to it."""
    stack = []

    def start(*, key=DEFAULT_API_KEY, **config):
        context = served(**config)
        server = context.__enter__()
        stack.append(context)
        monkeypatch.setenv("NOVITA_BASE_URL", server.url)
        monkeypatch.setenv("NOVITA_API_KEY", key)
        # The first poll comes early: nothing here is about when to poll.
        monkeypatch.setattr("novita_async._client.Polling", lambda: Polling.fixed(0.03))
        return server

    yield start
    for context in stack:
        context.__exit__(None, None, None)


@pytest.fixture(scope="session")
def _postgres():
    from tests.helpers.postgres import postgres  # noqa: PLC0415 - few tests need it

    with postgres() as url:
        yield url


@pytest.fixture
def database(_postgres):
    """The URL of a Postgres that has the tables of journals, and knows nothing of accounts and workers."""
    from tests.helpers.postgres import forget_others  # noqa: PLC0415 - as above

    asyncio.run(forget_others(_postgres))
    return _postgres


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """A server that speaks as S3 does."""
    from tests.helpers.objects import object_store  # noqa: PLC0415 - few tests need it

    with object_store(tmp_path_factory.mktemp("s3") / "log") as server:
        yield server


@pytest.fixture
def start_program():
    """Start programs; whatever is left of them at the end is killed."""
    started = []

    def start(command, **options):
        started.append(Program.start(command, **options))
        return started[-1]

    yield start
    for program in started:
        program.kill()


@pytest.fixture
def start(start_program, folder):
    """Start a command of the command line."""

    def begin(*tokens, url="http://127.0.0.1:9", flags=STRICT, **options):
        environment = {**os.environ, "NOVITA_API_KEY": DEFAULT_API_KEY, "NOVITA_BASE_URL": url}
        command = python("-m", "novita_async", *tokens, flags=flags)
        return start_program(command, cwd=folder, env=environment, **options)

    return begin
