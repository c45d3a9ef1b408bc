"""Many workers on one batch, as plain processes: one is killed on the way, and nothing is bought twice.

    make demo-workers
    python examples/many_workers.py DIR

Starts a simulated service and a Postgres of its own, plans a batch with `enqueue`, lets four processes work it off
with `worker`, kills one of them with SIGKILL, and writes the report. With a database and a key of your own only the
commands below are needed, on any number of machines.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from novita_async.testing import DEFAULT_API_KEY, sample_picture
from tests.helpers.postgres import postgres
from tests.helpers.served import served

WORKERS, SHOTS = 4, 100
BATCH = "spring"


def command(*words: str, **more: str) -> subprocess.Popen[str]:
    """Start a command of the command line."""
    environment = {**os.environ, **more}
    silent = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL if words[0] == "worker" else None}
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "novita_async", *words], env=environment, text=True, **silent
    )


def told(*words: str, **more: str) -> str:
    """Run a command, and give what it says."""
    running = command(*words, **more)
    said, _ = running.communicate()
    if running.returncode not in (0, 4):  # 4: something is uncertain, which the killed one had on its way
        sys.exit(running.returncode)
    return said


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dog.png").write_bytes(sample_picture("lagoon", (256, 256)))
    lines = [
        f'{{"image": "dog.png", "model_name": "m", "prompt": "a fox", "seed": {n}}}' for n in range(SHOTS)
    ]
    (folder / "shots.jsonl").write_text("\n".join(lines))
    with served(images_per_minute=600, speed=2.0, workers=8, latency=0.05) as service, postgres() as database:
        url = f"{database}#{BATCH}"
        known = {"NOVITA_API_KEY": DEFAULT_API_KEY, "NOVITA_BASE_URL": service.url}
        print(told("enqueue", str(folder / "shots.jsonl"), "--journal", url, "--out", str(folder), **known))
        label = ("--stall", "2", "--in-flight", "6", "--label")
        workers = [
            command("worker", "--journal", url, *label, f"worker-{number}", **known)
            for number in range(1, WORKERS + 1)
        ]
        while len(service.ledger.accepted) < SHOTS // 5:
            time.sleep(0.05)
        workers[0].send_signal(signal.SIGKILL)
        print(f"worker-1 was killed, with {len(service.ledger.accepted)} of {SHOTS} pictures bought:\n")
        print(told("workers", url, **known))
        for worker in workers:
            worker.communicate()
        print(told("status", url, **known))
        print("report:", told("report", url, **known))
        bought = [entry.request["request"]["seed"] for entry in service.ledger.accepted]
        print(
            f"the service was asked for {len(bought)} pictures, {len(bought) - len(set(bought))} of them twice"
        )
        assert len(set(bought)) == len(bought)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-workers"))
