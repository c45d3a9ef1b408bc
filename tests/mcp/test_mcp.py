"""The tools for agents, called with the SDK's own client against a simulated service."""

import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import httpx2
import pytest
from mcp import Client, StdioServerParameters

from novita_async import Budget, ConfigurationError, NovitaClient, NovitaError
from novita_async.mcp import Desk, make_server
from novita_async.testing import DEFAULT_API_KEY, Fault, FaultPlan, Simulation, SimulatorConfig
from tests.helpers.programs import python, running
from tests.helpers.service import picture

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]

EDIT = {"model": "seedream-4.5", "prompt": "in watercolour"}
"""Answered at once."""
TASK = {"model": "flux-1-kontext-dev", "prompt": "in watercolour"}
"""Answered with a task."""


@pytest.fixture
def simulation():
    return Simulation.of(SimulatorConfig.quick())


@pytest.fixture
def dog(tmp_path):
    path = tmp_path / "dog.png"
    path.write_bytes(picture())
    return str(path)


@asynccontextmanager
async def agent_of(simulation, folder, *, limit=10, answer_timeout=30.0):
    """A client of the SDK, as agents have it, of a server in this process."""
    async with simulation.client(budget=Budget(limit=limit, price="0.5")) as client:
        async with Desk.open(client, folder / "bought", answer_timeout=answer_timeout) as desk:
            async with Client(make_server(desk)) as agent:
                yield agent


async def told(agent, tool, **arguments):
    """The text of an answer as JSON, and how many pictures came with it."""
    answer = await agent.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    return json.loads(answer.content[0].text), [each.type for each in answer.content[1:]]


async def refused(agent, tool, **arguments):
    answer = await agent.call_tool(tool, arguments)
    assert answer.is_error
    return answer.content[0].text


async def test_a_picture_is_edited_and_comes_back_as_a_path_with_a_preview(simulation, tmp_path, dog):
    async with agent_of(simulation, tmp_path) as agent:
        assert {tool.name for tool in (await agent.list_tools()).tools} == {
            "edit_image", "generate_image", "task_result", "routes", "balance",
        }  # fmt: skip
        answer, previews = await told(agent, "edit_image", image=dog, **EDIT)
    (path,) = answer["files"]
    assert answer["status"] == "succeeded"
    assert os.path.getsize(path) > 0  # noqa: PTH202, ASYNC240
    assert previews == ["image"]
    assert simulation.ledger.images == 1


async def test_a_thousand_repeated_calls_are_one_purchase(simulation, tmp_path, dog):
    async with agent_of(simulation, tmp_path) as agent:
        answers = [(await told(agent, "edit_image", image=dog, **EDIT))[0] for _ in range(1000)]
    assert len({json.dumps(answer) for answer in answers}) == 1
    assert simulation.ledger.images == 1


async def test_calls_at_the_same_time_wait_for_one_purchase(simulation, tmp_path, dog):
    found = []

    async def call(agent):
        found.append(await told(agent, "edit_image", image=dog, **EDIT))

    async with agent_of(simulation, tmp_path) as agent, anyio.create_task_group() as calls:
        for _ in range(20):
            calls.start_soon(call, agent)
    assert len(found) == 20
    assert simulation.ledger.images == 1


async def test_a_call_of_another_process_is_known_and_its_money_counts(simulation, tmp_path, dog):
    first = []
    for _ in range(3):
        async with agent_of(simulation, tmp_path, limit=1) as agent:
            first.append((await told(agent, "edit_image", image=dog, **EDIT))[0])
            again, _ = await told(agent, "task_result", id=first[0]["id"])
            assert again["files"] == first[0]["files"]
    assert first == [first[0]] * 3
    assert simulation.ledger.images == 1
    async with agent_of(simulation, tmp_path, limit=1) as agent:
        await told(agent, "edit_image", image=dog, variation=2, **EDIT)
        words = await refused(agent, "edit_image", image=dog, variation=3, **EDIT)
        assert "BudgetExhausted" in words
        assert "raise Budget.limit" in words
        balance, _ = await told(agent, "balance")
    assert (balance["budget_dollars"], balance["budget_spent"]) == ("1", "1.0")
    assert simulation.ledger.images == 2


async def test_another_variation_another_prompt_and_another_picture_are_other_purchases(
    simulation, tmp_path, dog
):
    async with agent_of(simulation, tmp_path) as agent:
        calls = [{}, {"variation": 2}, {"prompt": "in oil"}]
        ids = [(await told(agent, "edit_image", **(EDIT | {"image": dog} | call)))[0]["id"] for call in calls]
        (tmp_path / "dog.png").write_bytes(picture(2))
        ids.append((await told(agent, "edit_image", image=dog, **EDIT))[0]["id"])
    assert len(set(ids)) == simulation.ledger.images == 4


async def test_variations_are_the_same_in_whatever_order_they_are_asked_for(simulation, tmp_path, dog):
    files = {}
    for order in ((1, 2), (2, 1)):
        async with agent_of(simulation, tmp_path) as agent:
            for number in order:
                answer, _ = await told(agent, "edit_image", image=dog, variation=number, **EDIT)
                assert files.setdefault(number, answer["files"]) == answer["files"]
    assert simulation.ledger.images == 2


async def test_a_lost_answer_is_never_bought_again_by_itself(simulation, tmp_path, dog):
    simulation.fail("submit", reset_after=True, numbers=1)
    for _ in range(2):
        async with agent_of(simulation, tmp_path) as agent:
            for _ in range(3):
                assert "give another variation" in await refused(agent, "edit_image", image=dog, **EDIT)
    assert simulation.ledger.images == 1


async def test_a_refusal_is_told_and_what_passes_is_bought_by_the_next_call(simulation, tmp_path, dog):
    simulation.fail("submit", answer=503, numbers=range(1, 100))
    async with agent_of(simulation, tmp_path) as agent:
        assert "InvalidRequest" in await refused(agent, "edit_image", image=dog, model="none", prompt="p")
        assert "no such file" in (await refused(agent, "edit_image", image="no.png", **EDIT)).lower()
        assert "no call and no task" in await refused(agent, "task_result", id="none")


async def test_an_end_of_the_batch_is_told_to_its_calls_and_the_next_call_begins_another(
    simulation, tmp_path, dog
):
    denied = Fault.answer(401, b'{"code": 401, "reason": "INVALID_API_KEY", "message": "no"}')
    simulation.simulator.faults = FaultPlan.listed("submit", {1: denied})
    async with agent_of(simulation, tmp_path) as agent:
        assert "AuthenticationFailed" in await refused(agent, "edit_image", image=dog, **EDIT)
        answer = await agent.call_tool("edit_image", {"image": dog, **EDIT})
    assert answer.is_error
    assert simulation.ledger.images == 0


async def test_a_call_that_takes_long_comes_back_with_an_id(simulation, tmp_path, dog):
    simulation.fail("poll", slow=0.3, numbers=1)
    async with agent_of(simulation, tmp_path, answer_timeout=0.05) as agent:
        answer, previews = await told(agent, "edit_image", image=dog, **TASK)
        assert (answer["status"], previews) == ("running", [])
        while answer["status"] == "running":
            answer, previews = await told(agent, "task_result", id=answer["id"])
    assert previews == ["image"]
    assert simulation.ledger.images == 1


async def test_a_purchase_of_a_process_that_died_is_found_by_its_call_and_by_its_task(
    simulation, tmp_path, dog
):
    async with agent_of(simulation, tmp_path, answer_timeout=0.0) as agent:
        key = (await told(agent, "edit_image", image=dog, **TASK))[0]["id"]
        while not simulation.ledger.accepted:
            await anyio.sleep(0.001)
    task_id = simulation.ledger.accepted[0].task_id
    async with agent_of(simulation, tmp_path) as agent:
        by_call, _ = await told(agent, "task_result", id=key)
        by_task, _ = await told(agent, "task_result", id=task_id)
        again, _ = await told(agent, "edit_image", image=dog, **TASK)
    assert by_call["status"] == by_task["status"] == again["status"] == "succeeded"
    assert simulation.ledger.images == 1


async def test_pictures_from_words_routes_and_fields(simulation, tmp_path):
    async with agent_of(simulation, tmp_path) as agent:
        answer, _ = await told(agent, "generate_image", model="seedream-4.5", prompt="a fox")
        assert answer["status"] == "succeeded"
        rows, _ = await told(agent, "routes", kind="generate")
        assert {row["kind"] for row in rows} == {"generate"}
        (row, *_), _ = await told(agent, "routes", model="seedream-4.5")
        assert "prompt" in {each["name"] for each in row["fields"]}


async def test_without_a_budget_nothing_is_opened(simulation, tmp_path):
    async with simulation.client() as client:
        with pytest.raises(ConfigurationError, match="has no budget"):
            async with Desk.open(client, tmp_path):
                pass


async def test_a_folder_belongs_to_one_server(simulation, tmp_path):
    async with agent_of(simulation, tmp_path):
        with pytest.raises(NovitaError, match="journal"):
            async with agent_of(simulation, tmp_path):
                pass


async def test_the_command_serves_over_stdio(serve, folder):
    server = serve(speed=50.0)
    environment = {**os.environ, "NOVITA_BASE_URL": server.url, "NOVITA_API_KEY": DEFAULT_API_KEY}
    command = ["-m", "novita_async", "mcp", "--budget", "5", "--price", "0.5"]
    started = StdioServerParameters(command=sys.executable, args=command, env=environment, cwd=folder)
    async with Client(started) as agent:
        for _ in range(2):
            answer, _ = await told(agent, "edit_image", image="dog.png", **EDIT)
    assert answer["status"] == "succeeded"
    assert server.ledger.images == 1


async def test_the_command_serves_over_http_and_answers_what_is_under_way_before_it_ends(serve, folder):
    slow = FaultPlan.listed("submit", {2: Fault.slow(0.5)})
    server, port, answers = serve(speed=50.0, faults=slow), free_port(), []
    environment = {**os.environ, "NOVITA_BASE_URL": server.url, "NOVITA_API_KEY": DEFAULT_API_KEY}
    options = ("--budget", "5", "--price", "0.5", "--transport", "http", "--port", port)
    command = python("-m", "novita_async", "mcp", *options, flags=())

    async def call(agent, number):
        answers.append(await told(agent, "edit_image", image="dog.png", variation=number, **EDIT))

    with running(command, env=environment, cwd=folder) as program:
        while not is_open(port):
            assert not program.ended, program.finish().stderr
            await anyio.sleep(0.02)
        try:
            async with Client(f"http://127.0.0.1:{port}/mcp") as agent:
                for _ in range(2):
                    await call(agent, 1)
                async with anyio.create_task_group() as calls:
                    calls.start_soon(call, agent, 2)
                    while server.ledger.images < 2:
                        await anyio.sleep(0.01)
                    program.send_signal(signal.SIGTERM)
        except* httpx2.ConnectError:  # the server has ended before the client has left it
            pass
        done = await anyio.to_thread.run_sync(program.finish)
    assert (done.returncode, len(answers)) == (0, 3), done.stderr
    assert {answer["status"] for answer, _ in answers} == {"succeeded"}
    assert "Traceback" not in done.stderr
    assert server.ledger.images == 2


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def is_open(port):
    with socket.socket() as door:
        return door.connect_ex(("127.0.0.1", port)) == 0


def test_a_client_that_lacks_the_extra_is_told_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "novita_async.mcp", None)
    from novita_async.cli._mcp import mcp  # noqa: PLC0415

    with pytest.raises(ConfigurationError, match=r"novita-async\[mcp\]"):
        anyio.run(lambda: mcp(budget="1", price="1"))
    assert NovitaClient
