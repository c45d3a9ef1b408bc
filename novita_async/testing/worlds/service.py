"""The service of a world: the simulator, with the fates that its troubles give to each exchange."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Final

from attrs import define, evolve, field

from novita_async._http import HTTPResponse
from novita_async.models.routes import Route
from novita_async.testing.config import SimulatorConfig
from novita_async.testing.core import Simulator
from novita_async.testing.ledger import Entry, Ledger
from novita_async.testing.mailbox import WebhookCall
from novita_async.testing.routed import read_routed, reply_at_once
from novita_async.testing.tasks import SimulatedTask, WorkOrder, file_path, read_loose_order
from novita_async.testing.wire import Exchange, JSONObject, Reply, decode_object, text_reply
from novita_async.testing.worlds import troubles
from novita_async.testing.worlds.asking import number_in
from novita_async.testing.worlds.dice import fraction, pick
from novita_async.testing.worlds.painted import content_of, large_picture
from novita_async.testing.worlds.plan import Plan
from novita_async.testing.worlds.record import Post
from novita_async.testing.worlds.stage import Stage
from novita_async.testing.worlds.troubles import Fate

PRICE: Final = 20
_USUAL_SECONDS: Final = 0.36
"""Seconds that the simulator takes for a picture of the smallest size."""
_TICKS: Final = 64
_FORGED: Final = b'{"event_type": "ASYNC_TASK_RESULT", "payload": {"task": {"task_id": "forged"}}}'


def key_of(account: int) -> str:
    """The secret of an account."""
    return f"sk_world_{account}_0123456789abcdef"


class _Unexacting(Simulator):
    """A simulator that paints nothing, and checks nothing of what most requests ask for: worlds are about the
    wire, and there are many.
    """

    def _read(self, exchange: Exchange) -> tuple[JSONObject, WorkOrder, Route | None]:
        rows = self._paths.get(exchange.path, ())
        if not rows or rows[0].body == "wrapped":
            document = decode_object(exchange.body)
            return document, read_loose_order(exchange.path, document), None
        _, route, order = read_routed(exchange, rows)
        number = number_in(exchange.body)
        return {"request": {"seed": number}}, evolve(order, seed=number, width=128, height=128), route

    def _reply_at_once(self, route: Route, task: SimulatedTask, document: JSONObject, origin: str) -> Reply:
        urls = self._urls_at_once(task, origin)

        def paint(index: int) -> bytes:
            return large_picture(file_path(task, index))

        now = self.epoch + self.now
        return reply_at_once(route, task, document, paint=paint, urls=urls, unix_time=now)


@define(eq=False, repr=False)
class Service:
    """Service that all processes of a world send to."""

    world: Stage
    simulator: Simulator = field(init=False)
    _plan: Plan = field(init=False)
    _polls: Counter[str] = field(factory=Counter[str], init=False)
    _files: Counter[str] = field(factory=Counter[str], init=False)
    _posts: Counter[int] = field(factory=Counter[int], init=False)
    _ways: int = field(default=0, init=False)
    emptied: dict[str, list[float]] = field(factory=dict[str, list[float]], init=False)
    """By task, when a poll was answered with a success whose pictures are not listed yet."""
    failed_by_others: set[str] = field(factory=set[str], init=False)
    """Tasks that two polls called failed, or said that there is none, and no poll between told a state."""
    replaced: dict[str, list[float]] = field(factory=dict[str, list[float]], init=False)
    """By path of a file, when another was given in its stead."""
    strange_failures: Counter[str] = field(factory=Counter[str], init=False)
    """By task, how many of the latest polls in a row were answered with the failure of another."""
    denials: Counter[str] = field(factory=Counter[str], init=False)
    """By task, how many polls said that there is none, since the last that told a state."""

    def __attrs_post_init__(self) -> None:
        self._plan = plan = self.world.plan
        kind = plan.service
        self.simulator = _Unexacting(
            SimulatorConfig(
                api_keys=tuple(map(key_of, range(plan.client.accounts))),
                images_per_minute=kind.quota,
                workers=kind.workers,
                speed=_USUAL_SECONDS / kind.seconds,
                visible_after=kind.visible_after,
                failure_rate=kind.failure_rate,
                failure_as_error=kind.failure_as_error,
                envelope=kind.envelope,
                balance=1_000_000 if kind.balance is None else kind.balance * PRICE,
                price=PRICE,
                url_ttl=kind.url_ttl,
                plain_pictures=True,
                seed=plan.seed,
                epoch=self.world.epoch,
            )
        )

    def __repr__(self) -> str:
        return f"<Service {self.simulator!r}>"

    @property
    def ledger(self) -> Ledger:
        """Its books."""
        return self.simulator.ledger

    def accepted(self) -> Mapping[int, list[Entry]]:
        """List what was bought, by request."""
        found: dict[int, list[Entry]] = {}
        for entry in self.ledger.accepted:
            found.setdefault(entry.request["request"]["seed"], []).append(entry)
        return found

    def number_of(self, task_id: str) -> int:
        """The number of the request that a task was made for. -1: there is none."""
        task = self.simulator.tasks.get(task_id)
        return -1 if task is None else task.order.seed

    def status_of(self, task_id: str) -> str:
        """Tell the status of a task."""
        self.simulator.advance(self.world.now)
        return self.simulator.status_of(task_id)

    def shown(self, path: str) -> str:
        """A file's path, for the trace."""
        return f"file of {self.number_of(path.split('/')[2])}"

    # --- Time ---------------------------------------------------------------------------------------------

    def way_there(self, *name: object) -> float:
        """Seconds that a request is on its way. Few values, so that things often happen together."""
        return self._way("there", *name)

    def way_back(self, *name: object) -> float:
        """Seconds that an answer is on its way, which comes when a 64th of a second is full."""
        now = self.world.now
        return math.ceil((now + self._way("back", *name)) * _TICKS) / _TICKS - now

    def _way(self, *name: object) -> float:
        self._ways += 1
        return self._plan.service.latency * pick(
            (1.0, 1.0, 1.0, 0.0, 0.5, 2.0), self._plan.seed, *name, self._ways
        )

    # --- Fates --------------------------------------------------------------------------------------------

    def fate_of_submission(self, number: int) -> Fate:
        """Choose the fate of the next submission of a request."""
        self._posts[number] += 1
        return self._seen(troubles.of_submission(self._plan, number, self._posts[number], self.world.now))

    def fate_of_poll(self, task_id: str) -> Fate:
        """Choose the fate of the next poll of a task."""
        self._polls[task_id] += 1
        number = self.number_of(task_id)
        return self._seen(troubles.of_poll(self._plan, number, self._polls[task_id], self.world.now))

    def fate_of_file(self, path: str) -> Fate:
        """Choose the fate of the next download of a file."""
        self._files[path] += 1
        number = self.number_of(path.split("/")[2])
        return self._seen(troubles.of_file(self._plan, number, self._files[path]))

    def _seen(self, fate: Fate) -> Fate:
        if fate.kind:
            self.world.record.reached[f"trouble: {fate.kind}"] += 1
        return fate

    # --- Exchanges ----------------------------------------------------------------------------------------

    def not_arrived(self, exchange: Exchange) -> None:
        """Note a submission that broke off."""
        visit = self.simulator.begin(exchange.method, exchange.path)
        self.simulator.broken(visit, exchange.path, self.world.now)

    def receive_submission(self, exchange: Exchange, fate: Fate, post: Post) -> tuple[HTTPResponse, float]:
        """Act upon a submission, where its fate is that. Returns the answer, and how long it takes."""
        if not fate.acted:
            return _response(fate, Reply(status=500), exchange), fate.after
        retired_at = self._plan.service.retired_at
        if retired_at is not None and self.world.now >= retired_at:
            return _response(fate, text_reply(404, "route not found"), exchange), fate.after
        reply = self.simulator.receive(exchange, self.world.now)
        after = fate.after + reply.delay
        if reply.status == 200 and fate.end == "answer" and fate.status is None:
            post.due_at = self.world.now + 3 * self._plan.service.latency + after
        return _response(fate, reply, exchange), after

    def answer(self, exchange: Exchange, fate: Fate) -> HTTPResponse:
        """Answer a question."""
        answered = self._of_another(exchange) if fate.kind == "answer of another" else exchange
        response = _response(fate, self.simulator.receive(answered, self.world.now), answered)
        self._note(exchange, fate, response)
        return response

    def _note(self, exchange: Exchange, fate: Fate, response: HTTPResponse) -> None:
        """Take note of what a client may believe although it is wrong."""
        task_id = exchange.query.get("task_id", "")
        if fate.kind == "no pictures yet":
            self.emptied.setdefault(task_id, []).append(self.world.now)
        elif fate.kind == "file of another kind":
            self.replaced.setdefault(exchange.path, []).append(self.world.now)
        elif fate.kind == "answer of another" and b"TASK_FAILED" in response.body:
            self.strange_failures[task_id] += 1
            if self.strange_failures[task_id] > 1:
                self.failed_by_others.add(task_id)
        elif fate.kind == "no such task":
            self.denials[task_id] += 1
            if self.denials[task_id] > 1:
                self.failed_by_others.add(task_id)
        elif not fate.kind:
            self.strange_failures[task_id] = self.denials[task_id] = 0

    def _of_another(self, exchange: Exchange) -> Exchange:
        asked = self.simulator.tasks.get(exchange.query.get("task_id", ""))
        others = tuple(
            task_id
            for task_id, task in self.simulator.tasks.items()
            if asked is not None and task.account == asked.account and task is not asked
        )
        return evolve(exchange, query={"task_id": pick(others, self._ways)}) if others else exchange

    # --- Webhooks -----------------------------------------------------------------------------------------

    def next_event_at(self) -> float:
        """When an event is due."""
        at = self.simulator.next_event_at() if self._plan.client.webhooks else None
        return float("inf") if at is None else at

    def deliver(self) -> None:
        """Send the events that are due."""
        for call in self.simulator.due_webhooks(self.world.now):
            self._deliver(call)

    def _deliver(self, call: WebhookCall) -> None:
        number = self.number_of(call.task_id)
        what = troubles.of_event(self._plan, number, call.attempt)
        self.world.record.reached[f"webhook: {what or 'delivered'}"] += 1
        after = self._plan.service.latency
        if what == "event late":
            after += pick((1.0, 20.0, 900.0), number)
        times = {"event lost": 0, "event doubled": 2}.get(what, 1)
        for copy in range(times):
            self.world.at(self.world.now + after * (1 + copy), lambda: self._post_event(call, call.body))
        if what == "event forged":
            self.world.at(self.world.now, lambda: self._post_event(call, _FORGED))
            token = f"{fraction(number):f}"
            self.world.at(self.world.now, lambda: self.world.take_event(token, call.body))
        self.simulator.settle_webhook(call, taken=True, now=self.world.now)

    def _post_event(self, call: WebhookCall, body: bytes) -> None:
        self.world.take_event(call.url.rpartition("/")[2], body)


def _response(fate: Fate, reply: Reply, exchange: Exchange) -> HTTPResponse:
    body = content_of(reply, exchange.path)
    status, headers = reply.status, reply.all_headers()
    if fate.body is not None:
        body, status, headers = fate.body, fate.status or status, {"content-type": "application/json"}
    if fate.change is not None and status == 200 and body.endswith(b"}"):
        body = fate.change(body, fate)
    return HTTPResponse(status=status, headers={**headers, **fate.headers}, body=body)
