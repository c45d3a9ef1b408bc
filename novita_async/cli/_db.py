"""`db`: the tables of shared journals in a Postgres database."""

from typing import Annotated, Final

from cyclopts import App, Parameter

from novita_async._journal.postgres.journal import upgrade as upgrade_tables
from novita_async.cli._exits import Exit
from novita_async.cli._output import Output

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
