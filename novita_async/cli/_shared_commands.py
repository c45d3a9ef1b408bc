"""Commands about batches in a database that many machines work on: options and their help.

As in `_commands`, the rooms that do it are entered when a command is called.
"""

from typing import Annotated

from cyclopts import Parameter

from novita_async.cli._commands import refuse_options
from novita_async.cli._exits import Exit
from novita_async.cli._options import given
from novita_async.cli._output import Output
from novita_async.cli._settings import EXTRA, REQUEST, SENDING, DryRun, Parts, Settings

_Number = Annotated[int | None, Parameter(group=SENDING)]
_Seconds = Annotated[float | None, Parameter(group=SENDING)]
_Text = Annotated[str | None, Parameter(group=SENDING)]
_Out = Annotated[str | None, Parameter(name=("--out", "-o"), group=SENDING)]
_Flag = Annotated[bool, Parameter(group=SENDING, negative=(), show_default=False)]
_Journal = Annotated[str, Parameter(group=SENDING)]
_Url = Annotated[str, Parameter(name="URL")]


async def enqueue(
    inputs: Annotated[
        list[str], Parameter(name="INPUT", negative_iterable=(), allow_leading_hyphen=True)
    ],  # for standard input
    /,
    *,
    journal: _Journal,
    out: _Out = None,
    settings: Annotated[Settings | None, Parameter(name="*")] = None,
    lora: Parts = None,
    embedding: Parts = None,
    controlnet: Parts = None,
    ip_adapter: Parts = None,
    sweep: Annotated[list[str] | None, Parameter(group=SENDING, negative_iterable=())] = None,
    images_per_minute: _Number = None,
    price: _Text = None,
    budget: _Text = None,
    name: _Text = None,
    no_save: _Flag = False,
    dry_run: DryRun = False,
    json: _Flag = False,
) -> Exit:
    """Plan a batch in a database, for any number of workers. Nothing is bought.

    The inputs and the options are those of `batch`. Every line is checked before anything is planned. The
    same may be planned again, and by several at once: what is there already is not planned twice. Workers
    need no input: pictures are put beside the results, once each; without `--out` they are looked for where
    they are now.

    Args:
        inputs: Manifests, folders, pictures; `-` for standard input.
        journal: The batch: postgresql://user@host/database#batch. The password may come from PGPASSWORD.
        out: Where workers are to save results: a folder, as each of them sees it, or an object store
            (s3://bucket/prefix).
        settings: What to make.
        lora: As for `batch`.
        embedding: As for `batch`.
        controlnet: As for `batch`.
        ip_adapter: As for `batch`.
        sweep: As for `batch`.
        images_per_minute: The account's quota of pictures, for all workers together.
        price: As for `batch`.
        budget: The most that may be spent, in dollars, by all workers together. Needs `--price`.
        name: As for `batch`.
        no_save: Save no files.
        dry_run: Check everything and tell what it would be; write nothing.
        json: Print a JSON object.
    """
    refuse_options(inputs, enqueue)
    from novita_async.cli import _enqueue, _inputs

    typed = _inputs.Typed(
        values=given((*REQUEST, *EXTRA), settings),
        loras=lora or (),
        embeddings=embedding or (),
        controlnets=controlnet or (),
        ip_adapters=ip_adapter or (),
    )
    note = {
        "out": out,
        "name": name,
        "no_save": no_save,
        "images_per_minute": images_per_minute,
        "price": price,
        "budget": budget,
    }
    return await _enqueue.enqueue(
        inputs, journal, typed, sweep or [], note, dry_run=dry_run, output=Output(json)
    )


async def worker(
    *,
    journal: _Journal,
    out: _Out = None,
    in_flight: _Number = None,
    label: _Text = None,
    stall: _Seconds = None,
    price: _Text = None,
    budget: _Text = None,
    forever: _Flag = False,
    json: _Flag = False,
) -> Exit:
    """Work on a batch that is planned in a database, together with any number of other workers.

    Takes requests that no other worker has, buys what is not bought, fetches and saves what is paid. Ends
    when the batch is complete. May be killed, stopped, or started twice at any moment: nothing is bought
    again.

    Ctrl-C and SIGTERM send nothing more, wait up to 5 s for the answers to what was sent, and leave the rest
    to other workers at once.

    Args:
        journal: The batch: postgresql://user@host/database#batch. The password may come from PGPASSWORD.
        out: Where to save results: a folder, or an object store. Default: as `enqueue` was told.
        in_flight: How many requests this worker has at a time. Default: 64.
        label: What `workers` calls this one. Default: host and process id.
        stall: Seconds without a sign of life after which others take this worker for dead. Default: 15.
        price: As for `batch`. Default: as `enqueue` was told; said here, it counts for all, as does the next.
        budget: The most that may be spent, in dollars, by all workers together.
        forever: Go on waiting for requests when the batch is complete.
        json: Print one JSON object a line: each submission, each outcome, the summary.
    """
    from novita_async.cli import _worker

    changes = {"out": out, "in_flight": in_flight, "label": label, "stall": stall}
    changes |= {name: told for name, told in (("price", price), ("budget", budget)) if told is not None}
    return await _worker.work(journal, changes, Output(json), forever=forever)


async def workers(journal: _Url, /, *, json: _Flag = False) -> Exit:
    """Tell who works on a batch: since when, and what each has.

    Args:
        journal: The batch: postgresql://user@host/database#batch.
        json: Print one JSON object a line.
    """
    from novita_async.cli import _worker

    return await _worker.tell_workers(journal, Output(json))
