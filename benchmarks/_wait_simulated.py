"""The same question asked of the whole client: a stream of requests to the public simulator, in virtual time."""

import random

import anyio
from attrs import evolve, frozen

from benchmarks._tables import Figure, Table
from novita_async import Polling, Txt2Img
from novita_async.events import Event, Finished
from novita_async.testing import ExchangeKind, Simulation, SimulatorConfig, run_virtually

REQUEST = Txt2Img(model_name="m", prompt="a dog", width=512, height=512)
UNBOUND = {"polls_per_second": 1e9, "concurrency": 64}
POLICIES = {
    "learned": Polling(**UNBOUND),
    "fixed 0.5 (novita-client, replicate)": Polling.fixed(0.5, **UNBOUND),
    "exponential 0.5 x 1.5, cap 10": Polling.exponential(0.5, 1.5, 10.0, **UNBOUND),
}
FOUR_SECONDS = SimulatorConfig(
    speed=0.5, spread=0.3, workers=8, latency=0.0, plain_pictures=True, progress=False
)


@frozen(kw_only=True)
class Scene:
    """So many tasks for a service."""

    tasks: int
    config: SimulatorConfig
    gap: float = 0.0
    """Mean seconds between two submissions. 0: all at once."""


SCENES = {
    "400 at once on 8 workers, completion times": Scene(tasks=400, config=FOUR_SECONDS),
    "400 at once on 8 workers, polls alone": Scene(
        tasks=400, config=evolve(FOUR_SECONDS, completion_times=False)
    ),
    "400 at once on 8 workers, not FIFO": Scene(tasks=400, config=evolve(FOUR_SECONDS, fifo=False)),
    "1,200 arriving, a worker each, completion times": Scene(
        tasks=1200, gap=1.0, config=evolve(FOUR_SECONDS, workers=1200, spread=0.5)
    ),
}


def run(scene: Scene, polling: Polling, seed: int) -> tuple[float, float]:
    """Polls a task and mean delay."""

    async def main() -> tuple[float, float]:
        simulation = Simulation.of(evolve(scene.config, seed=seed))
        wire, dice, seen = simulation.transport(), random.Random(seed), {}

        def note(event: Event) -> None:
            if isinstance(event, Finished):
                seen[event.outcome.task_id] = wire.now()

        async def requests():
            for number in range(scene.tasks):
                await anyio.sleep(dice.expovariate(1 / scene.gap) if scene.gap else 0.0)
                yield evolve(REQUEST, seed=number)

        client = simulation.client(polling=polling, observers=[note], images_per_minute=10**6)
        async with client, client.stream(requests(), in_flight=scene.tasks) as outcomes:
            async for outcome in outcomes:
                outcome.unwrap()
        spans = {task_id: simulation.simulator.span(task_id) for task_id in seen}
        delays = [seen[task_id] - span.ended_at for task_id, span in spans.items()]
        return simulation.ledger.exchanges[ExchangeKind.POLL] / scene.tasks, sum(delays) / len(delays)

    return run_virtually(main)


def row(job: tuple[str, str, int]) -> tuple[str | Figure, ...]:
    scene, policy, seeds = job
    runs = [run(SCENES[scene], POLICIES[policy], seed) for seed in range(seeds)]
    polls, delays = zip(*runs, strict=True)
    return scene, policy, Figure(polls, "{:.2f}"), Figure(delays, "{:.3f}")


def jobs(seeds: int) -> list[tuple[str, str, int]]:
    return [(scene, policy, seeds) for scene in SCENES for policy in POLICIES]


def table(rows: list[tuple[str | Figure, ...]]) -> Table:
    return Table(
        title="Wait: the whole client with the public simulator",
        how="`client.stream` in virtual time against `novita_async.testing`, tasks of about 4 s, log-normal; no latency, "
        "the cap on polls a second lifted, 64 polls at a time. The client is the same with each policy.",
        header=("scene", "policy", "polls a task", "mean delay s"),
        rows=rows,
    )
