"""Webhooks, in virtual time: how many polls they save, how late results are, and what it costs when events get lost."""

import asyncio
import statistics
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import anyio
from attrs import frozen

from benchmarks._tables import Bar, Headline, Table
from novita_async import Img2Img, NovitaClient, Polling, Succeeded
from novita_async.testing import (
    Fault,
    FaultPlan,
    FaultRule,
    Simulation,
    SimulatorConfig,
    run_virtually,
    sample_picture,
)

COUNT, IN_FLIGHT = 500, 64
URL = "https://example.org/novita"
POLLING, ALL, LOSSY, NONE = "no webhook", "every event comes", "one event in ten is lost", "no event comes"


@frozen
class Way:
    """How a client hears of the ends of tasks."""

    webhook: bool = True
    lost: float = 0.0
    """Share of the events that never come."""


WAYS = {POLLING: Way(webhook=False), ALL: Way(), LOSSY: Way(lost=0.1), NONE: Way(lost=1.0)}
Receive = Callable[[str, bytes], Any]


def receiver(client: NovitaClient) -> Receive:
    waker = client.webhook_waker()

    async def receive(url: str, body: bytes) -> int:
        waker(body, urlsplit(url).path.rpartition("/")[2])
        return 204

    return receive


async def run(way: Way) -> dict[str, float]:
    plan = FaultPlan.of(FaultRule(fault=Fault.lose_webhook(), on="webhook", chance=way.lost))
    simulation = Simulation.of(SimulatorConfig(), faults=plan)
    wish = Img2Img(model_name="m", image=sample_picture(1), prompt="a dog", width=128, height=128)
    wire, delays = simulation.transport(), []
    options: dict[str, Any] = {"webhook_url": URL} if way.webhook else {}
    async with (
        NovitaClient(
            simulation.api_key, base_url=wire.origin, transport=wire, polling=Polling(), **options
        ) as client,
        anyio.create_task_group() as tasks,
    ):
        if way.webhook:
            tasks.start_soon(simulation.transport().deliver_webhooks, receiver(client))
        async with client.stream(wish.sweep(seed=range(COUNT)), in_flight=IN_FLIGHT) as outcomes:
            async for outcome in outcomes:
                assert isinstance(outcome, Succeeded), outcome
                span = simulation.simulator.span(outcome.result.task_id or "")
                delays.append(asyncio.get_running_loop().time() - (span.ended_at if span else 0.0))
        tasks.cancel_scope.cancel()
    polls = sum(map(len, simulation.ledger.polls.values()))
    return {
        "polls": polls / COUNT,
        "delay": statistics.mean(delays),
        "p95": statistics.quantiles(delays, n=20)[-1],
    }


def tables(*, quick: bool) -> list[Table]:  # noqa: ARG001 - it is quick
    found = {name: run_virtually(run, way) for name, way in WAYS.items()}
    return [
        Table(
            title="Webhooks: polls and lateness",
            how=f"Virtual time; {COUNT} requests to the simulated service, {IN_FLIGHT} in flight. An event wakes a poll, "
            "and is never believed by itself; where events stop coming, polling goes on as without them. Delay is from "
            "the end of a task to its outcome.",
            header=("", "polls a task", "mean delay, s", "95 % within, s"),
            rows=[
                (name, f"{each['polls']:.2f}", f"{each['delay']:.2f}", f"{each['p95']:.2f}")
                for name, each in found.items()
            ],
            bars=[
                Bar(what="every event comes: polls a task", measured=found[ALL]["polls"], at_most=1.1),
                Bar(
                    what="no event comes: mean delay over that without a webhook",
                    measured=found[NONE]["delay"] / found[POLLING]["delay"],
                    at_most=1.25,
                ),
            ],
            headlines=[
                Headline(
                    what="polls a task and mean delay, with webhooks",
                    ours=f"{found[ALL]['polls']:.1f}, {found[ALL]['delay']:.2f} s",
                    peer=f"{found[POLLING]['polls']:.1f}, {found[POLLING]['delay']:.2f} s (polling alone)",
                )
            ],
        )
    ]
