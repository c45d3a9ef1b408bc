"""The command that makes the tables of shared journals."""

import asyncio
import json

import pytest

from novita_async._journal.postgres.schema.versions import VERSION
from novita_async.cli._app import main
from tests.helpers.postgres import run_sql


def test_db_makes_the_tables_once_and_tells_their_version(database, capsys):
    asyncio.run(run_sql(database, "CREATE DATABASE made"))
    url = database.replace("/postgres?", "/made?")
    assert main(["db", "init", url]) == 0
    assert main(["db", "upgrade", url, "--json"]) == 0
    made, again = capsys.readouterr().out.splitlines()
    assert made == f"The tables are made, version {VERSION}."
    assert json.loads(again) == {"event": "upgraded", "before": VERSION, "now": VERSION}


@pytest.mark.parametrize("command", ["init", "upgrade"])
def test_db_tells_where_no_database_is_reached(command, capsys, monkeypatch):
    monkeypatch.setattr("novita_async._journal.postgres.journal.BRIEFLY", 0.1)
    assert main(["db", command, "postgresql://me:secret@127.0.0.1:9/x"]) == 3
    told = capsys.readouterr().err
    assert "journal postgresql://me@127.0.0.1:9/x#default: it cannot be reached" in told
    assert "secret" not in told
