"""Workers that procrastinate starts, and starts again where they died: each job is one call of `client.work`.

    procrastinate --app examples.procrastinate_tasks.app schema --apply
    python -c "from examples.procrastinate_tasks import start; start('spring', 4)"
    procrastinate --app examples.procrastinate_tasks.app worker

The engine may run a job twice, or again because it seemed dead: whose a request is, the journal says. So a job needs no
lock, and a job that stalled is simply put back (`put_back_stalled`, once a minute).
"""

import os

import procrastinate

from novita_async import NovitaClient

DATABASE = os.environ["DATABASE_URL"]
OUT = os.environ.get("OUT", "made")
STALL = float(
    os.environ.get("STALL", "15")
)  # seconds without a sign of life after which others take the rows
STALLED = 60  # the same, of the engine's worker and its job

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=DATABASE), import_paths=[__name__])


@app.task(queue="pictures", retry=procrastinate.RetryStrategy(exponential_wait=2, max_attempts=20))
async def work_on(batch: str) -> int:
    """Work on a batch until it is complete. Returns how many requests this job has ended."""
    async with NovitaClient() as client:
        async with client.work(batch, journal=DATABASE, save_to=OUT, stall=STALL) as outcomes:
            return sum([1 async for _ in outcomes])


@app.periodic(cron="* * * * *")
@app.task(queue="pictures", queueing_lock="put_back_stalled", pass_context=True)
async def put_back_stalled(context: procrastinate.JobContext, timestamp: int) -> None:  # noqa: ARG001
    """Put jobs back whose worker has died."""
    manager = context.app.job_manager
    for job in await manager.get_stalled_jobs(seconds_since_heartbeat=STALLED):
        await manager.retry_job(job)


def start(batch: str, workers: int) -> None:
    """Let so many workers work on a batch that is planned (`novita-async enqueue`)."""
    with app.open():
        for _ in range(workers):
            work_on.defer(batch=batch)
