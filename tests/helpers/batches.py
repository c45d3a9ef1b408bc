"""Batches of the command line: manifests, and what stands in a batch's folder afterwards."""

import asyncio
import json
from pathlib import Path

from novita_async import SqliteJournal
from novita_async.cli._app import main

KEY = "sk_simulator"


def caller(capsys, folder):
    """Run a command: its exit code, output and standard error. No key is ever in them, or in a file."""

    def run(*tokens):
        code = main([str(token) for token in tokens])
        out, err = capsys.readouterr()
        run.told = err
        assert KEY not in out + err
        assert not any(KEY.encode() in path.read_bytes() for path in files_below(folder))
        return code, out, err

    return run


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def manifest(folder, *lines, name="shots.jsonl"):
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / name).write_text("\n".join(texts) + "\n", encoding="utf-8")
    return name


def shots(folder, count, **changes):
    fields = {"image": "pics/dog.png", "model_name": "m", "prompt": "p"}
    return manifest(folder, *({**fields, "seed": seed, **changes} for seed in range(count)))


def seeds(server):
    return sorted(entry.request["request"]["seed"] for entry in server.ledger.accepted)


def records(out):
    return [json.loads(line) for line in out.splitlines()]


def of_event(out, event):
    return [record for record in records(out) if record["event"] == event]


def rows_of(place: Path):
    async def read():
        async with await SqliteJournal.open(place / "batch.db", read_only=True) as journal:
            return [row async for row in journal.where()]

    return asyncio.run(read())


def states_of(place: Path):
    return sorted(str(row.state) for row in rows_of(place))
