"""Commands about batches: options and their help.

The rooms that do it are entered when a command is called: they need the whole client, and neither help nor
the fault of an option should wait for that.
"""

from collections.abc import Callable
from inspect import signature
from typing import Annotated, Any

from cyclopts import Parameter

from novita_async._journal.postgres.address import SCHEMES
from novita_async.cli._exits import Exit
from novita_async.cli._options import given
from novita_async.cli._output import Output
from novita_async.cli._settings import EXTRA, REQUEST, SENDING, DryRun, Out, Parts, Settings
from novita_async.errors import Flaw, InvalidRequest
from novita_async.models.routes import meant

_Number = Annotated[int | None, Parameter(group=SENDING)]
_Text = Annotated[str | None, Parameter(group=SENDING)]
_Flag = Annotated[bool, Parameter(group=SENDING, negative=(), show_default=False)]


async def batch(
    inputs: Annotated[
        list[str], Parameter(name="INPUT", negative_iterable=(), allow_leading_hyphen=True)
    ],  # for standard input
    /,
    *,
    out: Out,
    settings: Annotated[Settings | None, Parameter(name="*")] = None,
    lora: Parts = None,
    embedding: Parts = None,
    controlnet: Parts = None,
    ip_adapter: Parts = None,
    sweep: Annotated[list[str] | None, Parameter(group=SENDING, negative_iterable=())] = None,
    journal: _Text = None,
    in_flight: _Number = None,
    images_per_minute: _Number = None,
    price: _Text = None,
    budget: _Text = None,
    name: _Text = None,
    save_to: _Text = None,
    no_save: _Flag = False,
    dry_run: DryRun = False,
    json: _Flag = False,
) -> Exit:
    """Make pictures from a manifest or from folders of pictures, and survive whatever happens.

    Each INPUT is a manifest, a folder of pictures, or a picture. A manifest has a JSON object a line: a
    request in the API's form, or just its fields, with `"image": "PATH"` for pictures, and `"id"` and
    `"metadata"` of your own, which come back with the result. A JSON array of them will do, and a table (CSV)
    with the names of fields in its first line. `-` reads standard input. Options fill what a line leaves out.
    Every line is checked before anything is bought.

    Each step is written into a journal first. Running the same again, or `novita-async resume DIR`, goes on
    where it ended, however it ended; nothing is bought twice. Results are saved as PLACE-SEED-1.png, with
    what made them in novita-index.jsonl; a report of all is written to DIR/report.html.

    Ctrl-C and SIGTERM send nothing more, wait up to 5 s for the answers to what was sent, and leave a batch
    that can be resumed.

    Args:
        inputs: Manifests, folders, pictures; `-` for standard input.
        out: Folder for results, journal and report; made where it is missing.
        settings: What to make.
        lora: `NAME[:STRENGTH]`. A small model that bends the checkpoint. May be repeated.
        embedding: `NAME`. A textual inversion. May be repeated.
        controlnet: `MODEL[:IMAGE[:STRENGTH]]`. A picture that guides. Default: the request's own picture.
            May be repeated.
        ip_adapter: `MODEL[:IMAGE[:STRENGTH]]`. A picture used as a prompt. Default: the request's own.
        sweep: `FIELD=1..8` or `FIELD=0.3,0.5`. Makes of each line a request for every value; with several
            sweeps, for every combination. Texts with commas: `FIELD=["a, b", "c"]`.
        journal: The journal's file. Default: batch.db in the folder.
        in_flight: How many requests may be under way at once. Default: 64.
        images_per_minute: The account's quota of pictures. Where it is not given, it is found out.
        price: Dollars an image, which the API does not tell.
        budget: The most that may be spent, in dollars, all runs of the batch together. Needs `--price`.
        name: What files are called: a template of `{index}`, `{id}`, `{seed}`, `{n}`, `{ext}` and
            `{task_id}`.
            Default: `{index:05d}-{seed}-{n}.{ext}`.
        save_to: URL of a place in an object store for the files, which then are not in the folder:
            `s3://BUCKET/PREFIX`, `gs://…` or `az://…`. Needs the extra `objects`.
        no_save: Save no files. Files that the service puts into a bucket of your own are not fetched anyway.
        dry_run: Check everything and tell what it would be; buy nothing, write nothing.
        json: Print one JSON object a line: each submission, each outcome, progress, the summary.
    """
    refuse_options(inputs, batch)
    from novita_async.cli import _batch, _inputs

    typed = _inputs.Typed(
        values=given((*REQUEST, *EXTRA), settings),
        loras=lora or (),
        embeddings=embedding or (),
        controlnets=controlnet or (),
        ip_adapters=ip_adapter or (),
    )
    options = _changes(
        in_flight=in_flight,
        images_per_minute=images_per_minute,
        price=price,
        budget=budget,
        sweep=sweep,
        name=name,
        save_to=save_to,
        no_save=no_save,
    )
    return await _batch.begin(
        inputs, out, typed, options, journal=journal, dry_run=dry_run, output=Output(json)
    )


async def resume(
    folder: Annotated[str, Parameter(name="DIR")],
    /,
    *,
    fetch_only: _Flag = False,
    buy_new: _Flag = False,
    dry_run: _Flag = False,
    in_flight: _Number = None,
    images_per_minute: _Number = None,
    price: _Text = None,
    budget: _Text = None,
    json: _Flag = False,
) -> Exit:
    """Go on with a batch, from what its folder says of it.

    Paid requests are fetched and never bought again, also where the input is gone; planned ones that were
    not sent are sent. News since the last run (a line that was added, a picture that has changed) are told
    and not bought. Failed and uncertain requests are told and left alone: see `retry`.

    Args:
        folder: Folder of the batch.
        fetch_only: Only fetch what is paid; buy nothing, and do not look at the input.
        buy_new: Buy what is new since the last run, too.
        dry_run: Tell what would be fetched, bought and left alone; send nothing, write nothing.
        in_flight: As for `batch`. Default: as before, here and below.
        images_per_minute: As for `batch`.
        price: As for `batch`.
        budget: As for `batch`.
        json: As for `batch`.
    """
    from novita_async.cli import _batch

    changes = _changes(in_flight=in_flight, images_per_minute=images_per_minute, price=price, budget=budget)
    return await _batch.resume(
        folder, changes, Output(json), fetch_only=fetch_only, buy_new=buy_new, dry_run=dry_run
    )


async def retry(
    folder: Annotated[str, Parameter(name="DIR")],
    /,
    *,
    uncertain: _Flag = False,
    everything: Annotated[
        bool, Parameter(name="--all", group=SENDING, negative=(), show_default=False)
    ] = False,
    in_flight: _Number = None,
    images_per_minute: _Number = None,
    price: _Text = None,
    budget: _Text = None,
    json: _Flag = False,
) -> Exit:
    """Go on with a batch, and buy again what failed, where that can help.

    A task that failed is asked for once more before it is bought again.

    Args:
        folder: Folder of the batch; or its URL, postgresql://user@host/database#batch, beside its workers.
        uncertain: Buy again what was perhaps bought, too. Such requests may then be paid twice: look at the
            account's bill first.
        everything: Buy again all that failed, also what would fail again if nothing was mended: a picture
            that was refused, a route that was retired; and what is paid but no longer to be had.
        in_flight: As for `batch`. Default: as before, here and below.
        images_per_minute: As for `batch`.
        price: As for `batch`.
        budget: As for `batch`.
        json: As for `batch`.
    """
    changes = _changes(in_flight=in_flight, images_per_minute=images_per_minute, price=price, budget=budget)
    again: dict[str, Any] = {"retry_failed": "all" if everything else True, "resubmit_uncertain": uncertain}
    if folder.startswith(SCHEMES):
        from novita_async.cli import _worker

        return await _worker.work(folder, changes, Output(json), again=again)
    from novita_async.cli import _batch

    return await _batch.retry(folder, changes, Output(json), **again)


def refuse_options(inputs: list[str], command: Callable[..., Any]) -> None:
    """Refuse what looks like an option among the inputs of a command: `-` alone is one."""
    known = [f"--{name.replace('_', '-')}" for name in signature(command).parameters]
    known += [f"--{option.dotted}" for option in (*REQUEST, *EXTRA)]
    faults = [
        Flaw(place, f"no such option{meant(place.partition('=')[0], known)}")
        for place in inputs
        if place.startswith("-") and place != "-"
    ]
    if faults:
        raise InvalidRequest(faults=tuple(faults), advice="nothing was bought")


def _changes(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
