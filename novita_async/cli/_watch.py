"""`watch`: tasks that are paid for, of yesterday or of another machine."""

from typing import Annotated

import anyio.to_thread
from cyclopts import Parameter

from novita_async._client import NovitaClient
from novita_async.cli._exits import Exit
from novita_async.cli._follow import FollowReport, follow
from novita_async.cli._inputs import folder_faults
from novita_async.cli._output import Output
from novita_async.cli._progress import ProgressTally, display_of
from novita_async.errors import InvalidRequest


async def watch(
    task_ids: Annotated[list[str], Parameter(name="TASK_ID", negative_iterable=())],
    /,
    *,
    out: str | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - it ends the waiting of each task, not this function
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> Exit:
    """Wait for paid tasks and fetch their results.

    Nothing is bought. The same tasks can be watched as often as the service still knows them.

    Args:
        task_ids: Ids of tasks.
        out: Folder for the results, made where it is missing, or `s3://BUCKET/PREFIX` (`gs://…`, `az://…`).
            Without it nothing is saved, and `--json` tells the URLs.
        timeout: Seconds to wait for each task.
        json: Print one JSON object a line: each outcome, the summary.
    """
    faults = [] if out is None else await anyio.to_thread.run_sync(folder_faults, out)
    if faults:
        raise InvalidRequest(faults=tuple(faults))
    ids = list(dict.fromkeys(task_ids))
    report = FollowReport(Output(json), display_of(), ProgressTally(len(ids)), out)
    async with NovitaClient(observers=[report]) as client:
        return await follow(client.watch(ids, timeout=timeout, save_to=out), report)
