"""Answers with pictures that break off anywhere: never two purchases, never a wrong file, each whole picture
kept.
"""

import base64

import anyio
import msgspec
import pytest
from attrs import evolve

from novita_async import EditImage, SubmissionUncertain, Succeeded, Uncertain
from novita_async._api import protocol
from novita_async.models.accounts import ApiKey
from novita_async.models.endpoints import Endpoints
from novita_async.testing import Fault, FaultPlan
from tests.helpers.service import client_of, picture, service

pytestmark = pytest.mark.anyio

EDIT = EditImage(model="gpt-image-2", image=picture(), prompt="a cute dog", n=2)


async def whole_answer():
    simulation = service()
    http = protocol.submission(EDIT, Endpoints())
    response = await simulation.transport().send(evolve(http, answer="small"), ApiKey(simulation.api_key))
    digits = [item["b64_json"] for item in msgspec.json.decode(response.body)["data"]]
    return response.body, digits


async def run(simulation, folder, **options):
    async with (
        client_of(simulation) as (client, _),
        client.batch([EDIT], journal=folder / "run.db", **options) as outcomes,
    ):
        (outcome,) = [outcome async for outcome in outcomes]
    return outcome


async def test_an_answer_that_breaks_off_anywhere_is_bought_once_and_keeps_each_whole_picture(tmp_path):
    body, digits = await whole_answer()
    pictures = [base64.b64decode(each) for each in digits]
    ends = [body.index(each.encode()) + len(each) for each in digits]
    for cut in sorted({0, 1, ends[0] // 2, *(end + more for end in ends for more in (-1, 0, 1))}):
        folder = tmp_path / str(cut)
        folder.mkdir()
        simulation = service(faults=FaultPlan.listed("submit", {1: Fault.truncate(cut)}))
        whole = pictures[: sum(cut > end for end in ends)]
        for _ in range(2):
            outcome = await run(simulation, folder, save_to=folder / "out")
            assert type(outcome) is (Succeeded if whole else Uncertain), cut
            assert len(simulation.ledger.accepted) == 1
            if whole:
                assert [path.read_bytes() for path in outcome.paths] == whole
        assert not list((folder / "out").glob(".*"))


async def test_a_caller_with_less_time_than_the_route_is_told_that_it_is_perhaps_paid():
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.slow(200.0)}))
    async with client_of(simulation) as (client, _):
        with pytest.raises(SubmissionUncertain) as raised:
            await client.run(EDIT, timeout=100.0)
        assert anyio.current_time() == pytest.approx(100.0, abs=1.0)
    assert (raised.value.endpoint, raised.value.images) == ("/openai/v1/images/edits", 2)
    assert len(simulation.ledger.accepted) == 1


async def test_a_caller_without_a_timeout_waits_as_long_as_the_route_may_take():
    simulation = service(faults=FaultPlan.listed("submit", {1: Fault.slow(200.0)}))
    async with client_of(simulation) as (client, _):
        assert len((await client.run(EDIT)).images) == 2
