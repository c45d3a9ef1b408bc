"""`db`: the tables of shared journals in a Postgres database, and the quotas there."""

import os
from collections.abc import Sequence
from typing import Annotated, Final

from attrs import asdict
from cyclopts import App, Parameter
from cyclopts.validators import Number

from novita_async._journal.postgres.journal import upgrade as upgrade_tables
from novita_async.cli._exits import Exit
from novita_async.cli._output import Output
from novita_async.errors import Flaw, InvalidRequest
from novita_async.models.accounts import Account

_Json = Annotated[bool, Parameter(negative=(), show_default=False)]

db: Final = App(name="db", help="Make the tables of shared journals in a Postgres database, or upgrade them.")


@db.command
async def init(url: str, *, json: _Json = False) -> Exit:
    """Make the tables in a database. Where they are there, nothing is lost, and they are brought up to date.

    Args:
        url: The database: postgresql://user@host/database. The password may come from PGPASSWORD.
        json: Print a JSON object.
    """
    return await upgrade(url, json=json)


@db.command
async def upgrade(url: str, *, json: _Json = False) -> Exit:
    """Bring the tables to the form of this release. Processes of the release before may go on working.

    Args:
        url: The database: postgresql://user@host/database. The password may come from PGPASSWORD.
        json: Print a JSON object.
    """
    before, now = await upgrade_tables(url)
    told = f"were of version {before}, and are of version {now} now" if before else f"are made, version {now}"
    Output(json).line(f"The tables {told}." if before != now else f"The tables are of version {now} already.")
    Output(json).record(event="upgraded", before=before, now=now)
    return Exit.SUCCEEDED


@db.command
async def quota(
    url: str,
    images_per_minute: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    /,
    *,
    account: str | None = None,
    forget: _Json = False,
    json: _Json = False,
) -> Exit:
    """Tell the quotas in a database, or say that of an account for all who work there, at once.

    What is said here counts for every process, whatever each was told, from its next purchase on; those that
    were told otherwise say so in their log. So a quota can be changed while workers are at work, and before
    they are replaced one after the other. Requests sent within the last minute count on.

    Args:
        url: The database: postgresql://user@host/database. The password may come from PGPASSWORD.
        images_per_minute: The quota from now on. Default: change nothing, and tell the quotas there.
        account: Label of the account. Default: that of NOVITA_API_KEY.
        forget: Let what processes are told count again, for those that begin once no other is at work.
        json: Print one JSON object a line.
    """
    from novita_async._journal.postgres.said import quotas_there, say_quota  # noqa: PLC0415 - knows the tables' text

    output, found = Output(json), await quotas_there(url)
    if forget or images_per_minute is not None:
        label = account or _only([each.account for each in found])
        await say_quota(url, label, None if forget else images_per_minute)
        found = [each for each in await quotas_there(url) if each.account == label]
    for each in found:
        number = each.images_per_minute
        told = "not known yet" if number is None else f"{number:,} images a minute"
        said = ", said for all" if each.is_said else ""
        counts = f"; {each.taken:,} count now" if each.endpoint else ""
        output.line(f"{each.account}  {each.endpoint or 'all endpoints'}  {told}{said}{counts}")
        output.record(event="quota", **asdict(each))
    if not found:
        output.line("no quota is known there: nothing was bought")
    return Exit.SUCCEEDED


def _only(labels: Sequence[str]) -> str:
    """The account of this environment, or the only one there. Raises `InvalidRequest`: neither is known."""
    key = os.environ.get("NOVITA_API_KEY", "").strip()
    if key:
        return Account(api_key=key).label
    there = sorted(set(labels))
    if len(there) == 1:
        return there[0]
    known = f"; there are {', '.join(there)}" if there else ""
    raise InvalidRequest(
        faults=(Flaw("--account", f"is needed: NOVITA_API_KEY is not set{known}"),),
        advice="nothing was changed",
    )
