"""The simulator over real sockets, asked by foreign clients."""

import asyncio
import http.client
import io
import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import anyio
import anyio.to_thread
import msgspec
import pytest
from aiohttp import web

import novita_async.testing
from novita_async.testing import (
    Fault,
    FaultPlan,
    Simulation,
    SimulatorConfig,
    SimulatorServer,
    sample_picture,
)
from tests.helpers.programs import python, run, running
from tests.helpers.simulator_bodies import IMG2IMG, KEY, img2img

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]
QUICK = SimulatorConfig(speed=50, latency=0.0)
BODY = msgspec.json.encode(img2img())
BIG = msgspec.json.encode(img2img(negative_prompt="", padding="x" * 8_000_000))
HEAD = (
    f"POST {IMG2IMG} HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY}\r\nContent-Length: {len(BODY)}\r\n\r\n"
).encode()
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


@asynccontextmanager
async def serving(config: SimulatorConfig = QUICK, faults: FaultPlan | None = None, **options):
    async with (
        SimulatorServer(config, faults=faults, **options) as server,
        aiohttp.ClientSession(server.url, headers=HEADERS) as session,
    ):
        yield server, session


async def finished(session: aiohttp.ClientSession, task_id: str):
    while True:
        async with session.get("/v3/async/task-result", params={"task_id": task_id}) as response:
            found = await response.json()
        if found["task"]["status"] == "TASK_STATUS_SUCCEED":
            return found
        await anyio.sleep(0.01)


async def submitted(session: aiohttp.ClientSession, body: bytes = BODY) -> str:
    async with session.post(IMG2IMG, data=body) as response:
        assert response.status == 200
        return (await response.json())["task_id"]


async def test_submit_poll_and_download_over_http():
    async with serving() as (server, session), aiohttp.ClientSession() as bare:
        found = await finished(session, await submitted(session))
        url = found["images"][0]["image_url"]
        assert url.startswith(server.url + "/prod/")
        async with bare.get(url) as download:
            assert (download.status, download.content_type) == (200, "image/png")
            assert (await download.read()).startswith(b"\x89PNG")
        async with session.get(url) as refused:
            assert refused.status == 400
        async with bare.head(url) as head:
            assert (head.status, await head.read()) == (200, b"")
            assert head.content_length == download.content_length
        assert server.ledger.images == 1
        assert server.statistics().broken == 0


async def test_signed_dates_follow_the_wall_clock():
    async with serving() as (server, session):
        url = (await finished(session, await submitted(session)))["images"][0]["image_url"]
        assert f"X-Amz-Date={time.strftime('%Y', time.gmtime())}" in url
    async with Simulation().serve() as server:
        assert abs(server.simulator.epoch + server.now() - time.time()) < 60


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": KEY},
        {"authorization": f"bearer {KEY}", "Content-Type": "text/plain"},
        {"Authorization": f"Bearer {KEY}", "Content-Type": "application/x-www-form-urlencoded"},
    ],
)
async def test_bare_synchronous_clients_are_served(headers):
    """A POST with any Content-Type or none, without a User-Agent, on a connection that is closed after."""

    def client(port: int) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.putrequest("POST", IMG2IMG, skip_accept_encoding=True)
        for name, value in {**headers, "Content-Length": str(len(BODY)), "Connection": "close"}.items():
            connection.putheader(name, value)
        connection.endheaders(BODY)
        with connection.getresponse() as response:
            answer = response.status, response.read()
        connection.close()
        return answer

    async with serving() as (server, _):
        status, body = await anyio.to_thread.run_sync(client, server.port)
    assert (status, list(json.loads(body))) == (200, ["task_id"])


async def test_chunked_bodies_and_expect_100_are_served():
    async def pieces():
        yield BODY[:100]
        yield BODY[100:]

    async with serving() as (server, session):
        async with session.post(IMG2IMG, data=pieces(), expect100=True) as response:
            assert response.status == 200
        assert server.ledger.images == 1


async def test_odd_queries_and_methods_get_documented_errors():
    async with serving() as (_, session):
        for method, path, status in (
            ("GET", "/v3/async/task-result?task_id=x&&=&task_id=y", 404),
            ("GET", "/v3/async/task-result", 400),
            ("DELETE", "/v3/user", 404),
            ("OPTIONS", "/", 404),
            ("GET", "/prod/x/y.png", 400),
        ):
            async with session.request(method, path) as response:
                assert (response.status, path) == (status, path)


async def test_a_submission_counts_even_if_its_sender_hangs_up_right_after():
    async with serving(SimulatorConfig(latency=0.1)) as (server, _):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HEAD + BODY)
        await writer.drain()
        await until(lambda: server.statistics().open)
        writer.transport.abort()
        await until(lambda: not server.statistics().open)
        assert server.ledger.images == 1


async def test_a_body_that_ends_too_early_buys_nothing():
    async with serving() as (server, _):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HEAD + BODY[:50])
        await until(lambda: server.statistics().open)
        writer.transport.abort()
        await until(lambda: not server.statistics().open)
        assert (server.ledger.images, [entry.status for entry in server.ledger.entries]) == (0, [None])


async def test_a_body_above_the_limit_is_a_plain_413():
    async with serving(SimulatorConfig(max_body_bytes=1000, latency=0)) as (server, session):
        async with session.post(IMG2IMG, data=BODY + b" " * 1000) as response:
            assert (response.status, response.content_type) == (413, "text/plain")
        assert server.ledger.images == 0


NO_ANSWER = [
    (Fault.refuse(), BODY, False),
    (Fault.reset_before(), BIG, False),
    (Fault.reset_during(len(BODY) // 2), BODY, False),
    (Fault.reset_during(100_000), BIG, False),
    (Fault.reset_after(acted=False), BODY, False),
    (Fault.reset_after(), BIG, True),
    (Fault.stall(), BODY, True),
    (Fault.truncate(5), BODY, True),
]


@pytest.mark.parametrize(("fault", "body", "accepted"), NO_ANSWER)
async def test_faults_break_the_real_connection(fault, body, accepted):
    plan = FaultPlan.listed("submit", {1: fault})
    async with serving(faults=plan, receive_buffer=65_536) as (server, session):
        timeout = aiohttp.ClientTimeout(total=0.5 if fault == Fault.stall() else 20)
        with pytest.raises((aiohttp.ClientError, TimeoutError, ConnectionError)):
            async with session.post(IMG2IMG, data=io.BytesIO(body), timeout=timeout) as response:
                await response.read()
        assert len(server.ledger.accepted) == accepted
        assert server.ledger.entries[0].fault == fault
        await submitted(session)
        await until(lambda: not server.statistics().open)
        assert server.statistics().broken == 1


async def test_a_reset_is_seen_as_a_reset_and_a_truncation_as_an_end():
    plan = FaultPlan.listed("submit", {1: Fault.reset_after(), 2: Fault.truncate(5)})

    async def raw(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + BODY)
        try:
            return await reader.read()
        finally:
            writer.close()

    async with serving(faults=plan) as (server, _):
        with pytest.raises(ConnectionResetError):
            await raw(server.port)
        answer = await raw(server.port)
        assert answer.split(b"\r\n\r\n")[1] == b'{"tas'


async def test_answers_are_replaced_as_the_plan_says():
    plan = FaultPlan.listed(
        "submit", {1: Fault.garbage(), 2: Fault.answer(503, b"", retry_after=3), 3: Fault.slow(0.01)}
    )
    async with serving(faults=plan) as (server, session):
        seen = []
        for _ in range(3):
            async with session.post(IMG2IMG, data=BODY) as response:
                seen.append((response.status, response.content_type, response.headers.get("Retry-After")))
        assert seen == [
            (200, "text/html", None),
            (503, "application/json", "3"),
            (200, "application/json", None),
        ]
        assert [entry.accepted for entry in server.ledger.entries] == [True, False, True]


async def test_while_refusing_nobody_can_connect_and_afterwards_the_same_address_works():
    async with serving() as (server, session):
        url = server.url
        async with server.refusing(), aiohttp.ClientSession(url) as fresh:
            with pytest.raises(aiohttp.ClientConnectorError):
                await fresh.get("/v3/user")
        assert server.url == url
        await submitted(session)


async def test_one_service_is_reached_in_memory_and_over_http_at_once():
    simulation = Simulation.of(QUICK, faults=FaultPlan())
    async with simulation.serve() as server, aiohttp.ClientSession(server.url, headers=HEADERS) as session:
        await submitted(session)
    assert simulation.ledger is server.ledger
    assert simulation.ledger.images == 1


async def test_pictures_are_drawn_while_the_server_answers_others():
    picture = sample_picture("x", (64, 64))
    async with serving() as (server, session), aiohttp.ClientSession() as bare:
        body = msgspec.json.encode(img2img(width=1024, height=1024, image_num=4, strength=0.5))
        images = (await finished(session, await submitted(session, body)))["images"]

        async def fetch(url: str) -> int:
            async with bare.get(url) as response:
                return len(await response.read())

        sizes = await asyncio.gather(*(fetch(image["image_url"]) for image in images))
        assert all(size > len(picture) for size in sizes)
        assert sum(server.ledger.downloads.values()) == 4


# --- webhooks


@asynccontextmanager
async def listening(handler):
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook?token=t"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def receiving(*statuses: int):
    """A receiver that answers with these statuses and then with 200."""
    events, left = [], list(statuses)

    async def take(request: web.Request) -> web.Response:
        assert request.method == "POST"
        events.append((request.path_qs, request.content_type, await request.json()))
        if left and left[0] == 0:
            left.pop(0)
            await anyio.sleep(1)
        return web.Response(status=left.pop(0) if left else 200)

    async with listening(take) as url:
        yield url, events


async def until(condition) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.01)


@pytest.mark.parametrize("statuses", [(), (500,), (404, 500), (0,)])
async def test_webhooks_are_posted_until_they_are_taken(statuses):
    config = SimulatorConfig(speed=50, latency=0, webhook_retry=0.01, webhook_timeout=0.2)
    async with receiving(*statuses) as (url, events), serving(config) as (server, session):
        task = await submitted(session, msgspec.json.encode(img2img({"webhook": {"url": url}})))
        await until(lambda: task in server.ledger.webhooks)
        assert len(events) == 1 + len(statuses)
        path, kind, event = events[-1]
        assert (path, kind, event["event_type"]) == ("/hook?token=t", "application/json", "ASYNC_TASK_RESULT")
        assert event["payload"]["task"]["task_id"] == task
        assert event["payload"]["images"][0]["image_url"].startswith(server.url)


async def test_a_redirect_of_a_webhook_is_not_followed():
    config = SimulatorConfig(speed=50, latency=0, webhook_retry=0.01)
    async with receiving() as (elsewhere, strayed), serving(config) as (server, session):

        async def redirect(_: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": elsewhere})

        async with listening(redirect) as url:
            await submitted(session, msgspec.json.encode(img2img({"webhook": {"url": url}})))
            await until(lambda: server.simulator.next_event_at() is None)
        assert (strayed, server.ledger.webhooks) == ([], {})


async def test_a_receiver_that_is_away_is_tried_six_times():
    config = SimulatorConfig(speed=50, latency=0, webhook_retry=0.001)
    async with serving(config) as (server, session):
        body = msgspec.json.encode(img2img({"webhook": {"url": "http://127.0.0.1:9/"}}))
        await submitted(session, body)
        await until(lambda: server.simulator.next_event_at() is None)
        assert server.ledger.webhooks == {}


# --- life


async def test_it_ends_while_requests_stall_and_cuts_them():
    plan = FaultPlan.listed("submit", {1: Fault.stall()})
    async with aiohttp.ClientSession(headers=HEADERS) as session:
        async with SimulatorServer(QUICK, faults=plan) as server:
            stalled = asyncio.create_task(session.post(server.url + IMG2IMG, data=BODY))
            await until(lambda: server.ledger.images == 1)
        assert server.statistics().broken == 1
        with pytest.raises(aiohttp.ClientError):
            await stalled


async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_open():
    async with serving() as (server, _):
        with pytest.raises(OSError, match=r"[Aa]ddress already in use"):
            async with SimulatorServer(QUICK, port=server.port):
                pass


def test_a_server_that_does_not_run_has_no_simulator():
    with pytest.raises(RuntimeError, match="async with"):
        _ = SimulatorServer().ledger


async def test_ipv6_addresses_are_bracketed():
    assert SimulatorServer(host="::1", port=80).url == "http://[::1]:80"


PROGRAM = """
from novita_async.testing import SimulatorConfig, run_server
run_server(SimulatorConfig(speed=50))
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_as_a_program_it_prints_its_url_first_and_ends_cleanly_on_a_signal(end):
    with running(python("-c", PROGRAM), env={**os.environ, "PYTHONUNBUFFERED": ""}) as process:
        url = process.line().split()[-1]
        assert urlsplit(url).port
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url + "/v3/user")
        with caught.value as answer:
            assert json.load(answer)["reason"] == "MISSING_API_KEY"
        process.send_signal(end)
        assert [*process.finish()] == [0, "", ""]


CONFTEST = """
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

PLUGIN_TEST = """
import pytest

def test_the_default(novita_simulator):
    assert novita_simulator.ledger.images == 0

@pytest.mark.anyio
async def test_over_http(novita_simulator):
    async with novita_simulator.serve() as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert novita_simulator.api_key == "sk_simulator"

class TestAnother:
    @pytest.fixture
    def novita_simulator_config(self):
        from novita_async.testing import SimulatorConfig
        return SimulatorConfig(api_keys="mine", images_per_minute=3)

    def test_its_own(self, novita_simulator):
        assert novita_simulator.api_key == "mine"
"""

LAZY = """
import sys, novita_async._pytest
sys.exit("novita_async.testing" in sys.modules or "aiohttp" in sys.modules)
"""


def test_the_pytest_plugin_hands_out_simulations(tmp_path):
    documented = re.search(r"```python\n(.*?)```", novita_async.testing.__doc__, re.DOTALL)
    for name, text in (("conftest", CONFTEST), ("test_it", PLUGIN_TEST), ("test_doc", documented[1])):
        (tmp_path / f"{name}.py").write_text(text)
    plugins = ("-p", "anyio", "-p", "novita_async._pytest")
    alone = ("-c", os.devnull, "--rootdir", tmp_path)
    environment = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(Path(novita_async.__file__).parents[1]),
    }
    done = run(python("-m", "pytest", "-q", *plugins, tmp_path, *alone, flags=()), env=environment)
    assert "4 passed" in done.stdout, done.stdout + done.stderr
    assert run(python("-c", LAZY), env=environment).returncode == 0
