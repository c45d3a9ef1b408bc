"""`compose.yaml` as text: its commands are those of the command line, and its services exist."""

from pathlib import Path

import yaml

from novita_async.cli._app import app_for

FILE = Path(__file__).parents[2] / "compose.yaml"
SERVICES = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]


def test_every_command_can_be_typed_with_these_options():
    typed = [each["command"] for each in SERVICES.values() if "command" in each]
    assert len(typed) == 4
    for program, *tokens in typed:
        assert program == "novita-async"
        app_for(tokens).parse_args(tokens, exit_on_error=False, print_error=False)


def test_services_wait_for_services_that_exist_and_workers_are_many_and_may_finish():
    waited = {name for each in SERVICES.values() for name in each.get("depends_on", ())}
    assert waited == {"db", "tables", "enqueue", "simulator"} == SERVICES.keys() - {"worker"}
    assert SERVICES["worker"]["deploy"]["replicas"] > 1
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > 10
    batches = {token for each in SERVICES.values() for token in each.get("command", ()) if "#" in token}
    assert batches == {"postgresql://novita@db/studio#spring"}
