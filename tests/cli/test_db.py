"""The command that makes the tables of shared journals."""

import asyncio
import json

import pytest

from novita_async._journal.postgres.schema.versions import VERSION
from novita_async.cli._app import main
from tests.helpers.postgres import forget_others, run_sql


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
    assert "journal postgresql://me@127.0.0.1:9/x: it cannot be reached" in told
    assert "secret" not in told


def test_db_says_a_quota_for_all_and_tells_the_quotas_there(database, capsys, monkeypatch):
    """Of one account among several that must be named, or be that of the key of this environment."""
    monkeypatch.delenv("NOVITA_API_KEY", raising=False)
    asyncio.run(forget_others(database))
    assert main(["db", "quota", database]) == 0
    assert main(["db", "quota", database, "0", "--account", "a"]) == 2
    assert main(["db", "quota", database, "600"]) == 2
    out, err = capsys.readouterr()
    assert out == "no quota is known there: nothing was bought\n"
    assert "--account: is needed" in err
    assert main(["db", "quota", database, "1200", "--account", "a"]) == 0
    assert capsys.readouterr().out == "a  all endpoints  1,200 images a minute, said for all\n"
    asyncio.run(run_sql(database, WINDOW))
    assert main(["db", "quota", database, "900"]) == 0
    assert capsys.readouterr().out == "a  /x  900 images a minute, said for all; 7 count now\n"
    monkeypatch.setenv("NOVITA_API_KEY", "sk_other")
    assert main(["db", "quota", database, "60", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["account"][:4], told["endpoint"], told["images_per_minute"]) == ("key-", None, 60)
    assert main(["db", "quota", database, "--forget", "--account", "a"]) == 0
    assert capsys.readouterr().out == "a  /x  900 images a minute; 7 count now\n"


WINDOW = """INSERT INTO novita."window" (account, endpoint, quota, held) VALUES ('a', '/x', 1200, 7)"""
