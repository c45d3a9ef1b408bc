"""The one loop that sends webhooks, for both shells."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from functools import partial

import anyio

from novita_async.testing.core import Simulator
from novita_async.testing.mailbox import WebhookCall

Deliver = Callable[[WebhookCall], Awaitable[bool]]
"""Sends one event; whether its receiver took it."""


def current_clock() -> Hashable:
    """Give the clock that `anyio.current_time` reads."""
    return asyncio.get_running_loop()


async def pump(simulator: Simulator, now: Callable[[], float], deliver: Deliver) -> None:
    """Send events as they become due, until cancelled."""
    changed = anyio.Event()

    def wake() -> None:
        changed.set()

    unsubscribe = simulator.subscribe(wake)
    try:
        async with anyio.create_task_group() as group:
            while True:
                for call in simulator.due_webhooks(now()):
                    group.start_soon(partial(_send, simulator, now, deliver, wake), call)
                await _until(simulator.next_event_at(), now, changed)
                if changed.is_set():
                    changed = anyio.Event()
    finally:
        unsubscribe()


async def _until(at: float | None, now: Callable[[], float], changed: anyio.Event) -> None:
    delay = None if at is None else max(0.0, at - now())
    with anyio.move_on_after(delay):
        await changed.wait()


async def _send(
    simulator: Simulator,
    now: Callable[[], float],
    deliver: Deliver,
    wake: Callable[[], None],
    call: WebhookCall,
) -> None:
    taken = False
    with anyio.move_on_after(simulator.config.webhook_timeout), suppress(Exception):
        taken = await deliver(call)  # a broken receiver is like one that is away
    simulator.settle_webhook(call, taken=taken, now=now())
    wake()
