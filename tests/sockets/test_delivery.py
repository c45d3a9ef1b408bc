"""What a user is told of a purchase over real sockets, where only the wire knows how far it went."""

import json

import pytest

from novita_async import (
    BadRequest,
    Img2Img,
    NotSent,
    NovitaClient,
    NovitaError,
    RetryPolicy,
    SubmissionUncertain,
    Txt2Img,
    events,
)
from novita_async.models.images import ImageSource
from tests.helpers.service import picture
from tests.helpers.wire import answer, serve

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]

SMALL = Txt2Img(model_name="m", prompt="a dog", width=128, height=128)
LARGE = Img2Img(
    model_name="m",
    image=ImageSource.from_bytes(picture() + bytes(7_000_000)),
    prompt="a dog",
    width=128,
    height=128,
)
"""More than the buffers of a loopback connection take."""
NO = json.dumps({"reason": "RATE_LIMIT_EXCEEDED", "message": "too much"}).encode()


async def submit(script, request, **retry):
    """Submit to a server that obeys after its first connection; the events and the wire."""

    async def scripted(peer):
        if len(wire.peers) == 1:
            await script(peer)
        else:
            await peer.request()
            await peer.send(answer(200, b'{"task_id": "a-task"}'))
            await peer.rest()

    seen = []
    retry = RetryPolicy(base=0.001, **retry)
    async with serve(scripted) as wire:
        async with NovitaClient("a-key", base_url=wire.url, retry=retry, observers=[seen.append]) as client:
            try:
                got = await client.submit(request)
            except NovitaError as error:
                got = error
        return got, seen, wire


def in_the_middle(data):
    async def script(peer):
        await peer.read(500)
        await peer.send(data)
        await peer.rest()

    return script


def at_the_end(data):
    async def script(peer):
        await peer.request()
        await peer.send(data)

    return script


@pytest.mark.parametrize("status", [500, 502, 503, 200])
async def test_a_broken_service_that_did_not_take_the_whole_request_is_asked_again(status):
    got, seen, wire = await submit(in_the_middle(answer(status, b"<html>no</html>")), LARGE)
    assert got.task_id == "a-task"
    assert [peer.whole for peer in wire.peers] == [False, True]
    (again,) = [event for event in seen if isinstance(event, events.Retrying)]
    assert isinstance(again.error, NotSent)
    assert f"answered {status}" in str(again.error)


async def test_a_redirect_in_the_middle_of_the_request_is_an_end_and_bought_nothing():
    got, _, wire = await submit(in_the_middle(answer(301, b"", b"Location: https://else.example/?a")), LARGE)
    assert isinstance(got, NotSent)
    assert "a redirect to https://else.example/; set base_url" in str(got)
    assert got.status == 301
    assert [peer.whole for peer in wire.peers] == [False]


@pytest.mark.parametrize("status", [500, 502, 200, 301])
async def test_the_same_answers_to_a_whole_request_leave_it_open(status):
    got, _, wire = await submit(at_the_end(answer(status, b"<html>no</html>")), LARGE)
    assert isinstance(got, SubmissionUncertain)
    assert len(wire.peers) == 1


@pytest.mark.parametrize("cut", [1, len(NO) // 2, len(NO)])
async def test_a_refusal_whose_explanation_breaks_off_is_a_refusal(cut):
    got, _, wire = await submit(at_the_end(answer(400, NO)[:-cut]), SMALL)
    assert isinstance(got, BadRequest)
    assert got.status == 400
    assert len(wire.peers) == 1


async def test_a_429_whose_explanation_breaks_off_leaves_no_doubt_behind():
    got, seen, _ = await submit(at_the_end(answer(429, NO)[:-5]), SMALL, max_elapsed=0)
    assert "nothing was bought" in str(got)
    assert not any(isinstance(event, events.Retrying) for event in seen)


async def test_a_5xx_whose_explanation_breaks_off_leaves_it_open():
    says = b'{"reason": "CREATE_TASK_FAILED"}'
    got, _, _ = await submit(at_the_end(answer(500, says)[:-1]), SMALL)
    assert isinstance(got, SubmissionUncertain)
