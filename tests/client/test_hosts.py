"""Hosts: requests go to an account whose host serves their route, polls stick to it, keys stay at home."""

import anyio
import pytest

from novita_async import (
    Account,
    AnyTask,
    ConfigurationError,
    EditImage,
    EndpointNotFound,
    Failed,
    Host,
    NovitaClient,
    SqliteJournal,
    Succeeded,
    Task,
)
from novita_async.testing import Simulation, SimulatorConfig
from tests.helpers.service import client_of, picture, request, service

pytestmark = pytest.mark.anyio

PROXY = Host(name="proxy", base_url="http://127.0.0.1:8080")


class World:
    """A service for each host, which knows its own key alone."""

    def __init__(self, *hosts: Host, **config) -> None:
        self.hosts = hosts
        self.services = {
            host.name: Simulation.of(
                SimulatorConfig(api_keys=(f"sk_of_{host.name}_0000",), plain_pictures=True, **config)
            )
            for host in hosts
        }
        self.carriers = {name: simulation.transport() for name, simulation in self.services.items()}

    def accounts(self, *names: str) -> list[Account]:
        chosen = [host for host in self.hosts if not names or host.name in names]
        return [Account(api_key=f"sk_of_{host.name}_0000", label=host.name, host=host) for host in chosen]

    def client(self, *names: str, **options) -> NovitaClient:
        return NovitaClient(
            accounts=self.accounts(*names), transport=lambda host: self.carriers[host.name], **options
        )

    def bought(self) -> dict[str, int]:
        return {name: len(each.ledger.accepted) for name, each in self.services.items()}

    def exchanges(self) -> dict[str, int]:
        return {name: sum(each.ledger.exchanges.values()) for name, each in self.services.items()}


def qwen(**changes) -> EditImage:
    return EditImage(**{"model": "qwen-image-edit", "image": picture(), "prompt": "p"} | changes)


def gpt(**changes) -> EditImage:
    return EditImage(**{"model": "gpt-image-2", "image": picture(), "prompt": "p"} | changes)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.novita.ai", Host.NOVITA),
        ("https://api.ppio.com/", Host.PPIO),
        ("https://api.jiekou.ai", Host.JIEKOU),
        ("https://api.myrouter.ai", Host.MYROUTER),
        (
            "http://user:word@127.0.0.1:8080/path/",
            Host(name="127.0.0.1:8080", base_url="http://user:word@127.0.0.1:8080/path"),
        ),
    ],
)
def test_a_base_url_is_known_as_its_host(url, host):
    assert Host.at(url) == host


def test_a_host_needs_a_name():
    with pytest.raises(ConfigurationError, match=r"Host\.name: must not be empty"):
        Host(name="", base_url="https://api.novita.ai")


def test_a_host_that_is_not_known_serves_all_and_may_be_another_that_is_not():
    assert PROXY.serves(("novita",))
    assert not Host.PPIO.serves(("novita",))
    assert Host.PPIO.serves(())
    assert PROXY.may_be("127.0.0.1:1")
    assert not PROXY.may_be("novita")
    assert not Host.NOVITA.may_be("proxy")
    assert Host.NOVITA.may_be(None)


async def test_each_request_goes_to_an_account_whose_host_serves_its_route_and_keys_stay_at_home():
    world = World(Host.NOVITA, Host.PPIO)
    async with world.client() as client, client.stream([qwen(), gpt(), qwen(), request()]) as outcomes:
        found = [outcome async for outcome in outcomes]
    assert all(isinstance(outcome, Succeeded) for outcome in found)
    assert world.bought() == {"novita": 2, "ppio": 2}
    refused = {reason for each in world.services.values() for reason in each.ledger.reasons()}
    assert refused == set()  # a key of another host would be INVALID_API_KEY
    tasks = {outcome.task.endpoint: outcome.task.host for outcome in found if outcome.task}
    assert tasks == {"/v3/async/qwen-image-edit": "ppio", "/v3/async/img2img": "novita"}


async def test_a_route_that_no_account_s_host_serves_is_told_before_anything_is_sent(tmp_path):
    world = World(Host.NOVITA)
    async with world.client() as client:
        with pytest.raises(ConfigurationError) as raised:
            await client.run(qwen())
        async with client.batch([qwen(), gpt()], journal=tmp_path / "run.db") as outcomes:
            found = [outcome async for outcome in outcomes]
    assert str(raised.value).startswith(
        "qwen-image-edit is served by ppio, jiekou, myrouter, and no account belongs there: nothing was "
        "bought; add Account(api_key=…, host=Host.PPIO); served there: gpt-image-2"
    )
    assert {type(outcome) for outcome in found} == {Failed, Succeeded}
    assert world.bought() == {"novita": 1}


async def test_a_path_that_was_written_by_hand_goes_to_any_host():
    world = World(Host.NOVITA)
    body = {"prompt": "p", "image": "https://pictures.example/1.png"}
    async with world.client() as client:
        assert (await client.run(AnyTask(path="/v3/async/qwen-image-edit", body=body))).images
    assert world.bought() == {"novita": 1}


async def test_a_host_that_does_not_serve_a_route_any_more_leaves_it_to_the_next():
    world = World(Host.PPIO, Host.JIEKOU)
    world.services["ppio"] = gone = Simulation.of(
        SimulatorConfig(api_keys=("sk_of_ppio_0000",), retired=("/v3/async/qwen-image-edit",))
    )
    world.carriers["ppio"] = gone.transport()
    async with world.client() as client:
        for _ in range(2):
            assert (await client.run(qwen())).images
    assert world.bought() == {"ppio": 0, "jiekou": 2}
    assert [entry.status for entry in gone.ledger.entries] == [404]


async def test_a_retired_route_names_those_of_its_kind_that_live():
    simulation = service(retired=("/v3/async/img2img",))
    async with client_of(simulation) as (client, _):
        with pytest.raises(EndpointNotFound) as raised:
            await client.run(request())
    assert "of its kind live gpt-image-2, gpt-image-2-oai" in str(raised.value)
    assert "qwen-image-edit" in str(raised.value)
    assert "flux-1-kontext-dev" not in str(raised.value)
    assert "img2img," not in str(raised.value).partition("live")[2]


async def test_a_task_is_asked_for_at_its_own_host_alone():
    world = World(Host.NOVITA, Host.PPIO)
    async with world.client() as client:
        task = await client.submit(qwen())
    before = world.exchanges()
    async with world.client() as client:
        assert (await client.wait(Task(task_id=task.task_id, host="ppio"))).images
    async with world.client("novita") as client:
        with pytest.raises(ConfigurationError, match="no account belongs to ppio, where task"):
            await client.wait(task)
    assert world.exchanges()["novita"] == before["novita"]


async def test_a_journal_is_resumed_only_with_accounts_of_the_hosts_of_its_tasks(tmp_path):
    world = World(Host.NOVITA, Host.PPIO)
    async with world.client() as client:
        async with client.batch([qwen()], journal=tmp_path / "run.db") as outcomes:
            while not outcomes.statistics().submitted:
                await anyio.sleep(0.01)
    before = world.exchanges()
    async with world.client("novita") as client:
        with pytest.raises(ConfigurationError, match="has paid tasks of hosts without an account: 1 of ppio"):
            async with client.batch([qwen(), gpt()], journal=tmp_path / "run.db") as outcomes:
                await anext(outcomes)
    assert world.exchanges() == before
    async with (
        world.client("ppio") as client,
        client.batch([qwen()], journal=tmp_path / "run.db") as outcomes,
    ):
        (outcome,) = [outcome async for outcome in outcomes]
    assert isinstance(outcome, Succeeded)
    assert world.bought() == {"novita": 0, "ppio": 1}
    async with await SqliteJournal.open(tmp_path / "run.db") as journal:
        (purchase,) = [purchase async for purchase in journal.where()]
    assert (purchase.host, purchase.task.host) == ("ppio", "ppio")


def test_one_transport_cannot_carry_to_several_hosts():
    world = World(Host.NOVITA, Host.PPIO)
    with pytest.raises(ConfigurationError, match="one transport cannot carry to several hosts: novita, ppio"):
        NovitaClient(accounts=world.accounts(), transport=world.carriers["novita"])


def test_two_hosts_of_one_name_are_refused():
    other = Host(name="novita", base_url="https://proxy.example")
    accounts = [Account(api_key="sk_1", host=Host.NOVITA), Account(api_key="sk_2", host=other)]
    with pytest.raises(ConfigurationError, match="two hosts of one name have different base URLs"):
        NovitaClient(accounts=accounts)
