"""A receiver of the simulated service's webhook events, for tests in virtual time."""

import json
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
from attrs import define, field

from tests.helpers.service import client_of

URL = "https://me.invalid/novita"


def event(task_id: object = "a-task", **changes) -> bytes:
    payload = {"task": {"task_id": task_id, "status": "TASK_STATUS_SUCCEED"}}
    return json.dumps({"event_type": "ASYNC_TASK_RESULT", "payload": payload} | changes).encode()


def token_of(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2]


@define(eq=False)
class Mail:
    """Every event that came, and what was done with it."""

    waker: object
    events: list[tuple[float, str, bytes]] = field(factory=list)
    late: float = 0.0
    """Seconds by which events are handed on late."""
    forwarded: bool = True

    async def receive(self, url: str, body: bytes) -> int:
        self.events.append((anyio.current_time(), token_of(url), body))
        if self.forwarded:
            await anyio.sleep(self.late)
            self.waker(body, token_of(url))
        return 204

    def tokens(self) -> list[str]:
        return [token for _, token, _ in self.events]


@asynccontextmanager
async def hooked(simulation, **options):
    """A client whose webhooks are received, the events that it emits, and the mail."""
    options.setdefault("webhook_url", URL)
    async with client_of(simulation, **options) as (client, seen), anyio.create_task_group() as tasks:
        mail = Mail(client.webhook_waker())
        tasks.start_soon(simulation.transport().deliver_webhooks, mail.receive)
        yield client, seen, mail
        tasks.cancel_scope.cancel()


def polls(simulation) -> int:
    return sum(map(len, simulation.ledger.polls.values()))
