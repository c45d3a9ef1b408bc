"""The simulated service itself: facts in, replies out, time as a number.

Rules:

1. Nothing here waits or asks for the time. Whoever holds a `Simulator` tells it `now`, in seconds on a clock
   that never goes back; a smaller `now` is taken for the largest seen.
2. Between two calls nothing happens. A call first works the queue up to `now`, then judges.
3. An exchange begins with `begin`, which counts it and tells which fault it gets. A request that then arrives
   whole goes to `receive`. Faults are enacted by the shell (`SimulatedTransport`, `SimulatorServer`), because
   only the shell has a wire.
4. A submission is judged in this order: key, route, body, ranges, pictures, prompt, storage, plan,
   balance, quota. Nothing that is refused is counted against the quota, or billed.
5. Every chance comes from the seed and the names of what it decides, so equal requests in equal order get
   equal answers.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Final, cast

import msgspec
from attrs import Factory, define, evolve, field

from novita_async._util.values import frozen
from novita_async.models.routes import Route
from novita_async.testing import catalogue, presigned
from novita_async.testing._dice import digest, fraction, uuid
from novita_async.testing.config import SimulatorConfig
from novita_async.testing.constraints import check, items_of
from novita_async.testing.faults import ExchangeKind, Fault, FaultKind, FaultPlan
from novita_async.testing.inputs import InputStore
from novita_async.testing.ledger import Entry, Ledger
from novita_async.testing.mailbox import Mailbox, WebhookCall
from novita_async.testing.painting import Painting
from novita_async.testing.quota import FixedWindow, LeakyBucket, SlidingWindow, make_quota
from novita_async.testing.routed import (
    VIDEO,
    answers_at_once,
    read_routed,
    refusal_reply,
    reply_at_once,
)
from novita_async.testing.tasks import (
    FAILED,
    SUBMISSIONS,
    SimulatedTask,
    WorkOrder,
    cost,
    drawn_seed,
    file_path,
    painting,
    read_loose_order,
    read_order,
    section,
    service_seconds,
    snapshot,
    status_at,
    will_fail,
)
from novita_async.testing.wire import (
    Exchange,
    JSONObject,
    Refused,
    Reply,
    decode_object,
    json_reply,
    text_reply,
    xml_error,
)
from novita_async.testing.workers import Span, WorkerQueue

_EPOCH: Final = 1_767_225_600.0  # 2026-01-01T00:00:00Z
_TASK_RESULT: Final = "/v3/async/task-result"
_FILES: Final = "/prod/"
_BUCKETS: Final = "/s3/"
_LONG: Final = 4096
_COPIES: Final = {FaultKind.LOSE_WEBHOOK: 0, FaultKind.DUPLICATE_WEBHOOK: 2}


@frozen(kw_only=True)
class Visit:
    """An exchange that has begun.

    Args:
        kind: Kind of the exchange.
        number: Which of its kind, from 1.
        fault: Fault that it is to have.
    """

    kind: ExchangeKind
    """Kind of the exchange."""
    number: int
    """Which of its kind, from 1."""
    fault: Fault | None
    """Fault that it is to have."""


@frozen(kw_only=True)
class SimulatorStatistics:
    """The service at a moment.

    Args:
        submissions: Submissions that began to arrive.
        accepted: Those that made a task.
        images: Images in them.
        waiting: Tasks that no worker has taken yet.
        running: Tasks that are worked on.
        done: Tasks that have ended.
        polls: Times that task-result was asked.
        downloads: Times that a file was asked for.
        webhooks: Events that were received.
    """

    submissions: int
    """Submissions that began to arrive."""
    accepted: int
    """Those that made a task."""
    images: int
    """Images in them."""
    waiting: int
    """Tasks that no worker has taken yet."""
    running: int
    """Tasks that are worked on."""
    done: int
    """Tasks that have ended."""
    polls: int
    """Times that task-result was asked."""
    downloads: int
    """Times that a file was asked for."""
    webhooks: int
    """Events that were received."""


def _hide_pictures(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _hide_pictures(inner, key) for key, inner in cast("JSONObject", value).items()}
    if isinstance(value, list):
        return [_hide_pictures(inner, name) for inner in items_of(value)]
    hidden = isinstance(value, str) and (name.endswith("base64") or len(value) > _LONG)
    return f"<{len(value)} characters>" if hidden else value


def _faults_by_rate(simulator: "Simulator") -> FaultPlan:
    config = simulator.config
    return FaultPlan.chaos(config.fault_rate, seed=config.seed) if config.fault_rate else FaultPlan()


@define(eq=False)
class Simulator:
    """A Novita service that exists only here.

    Args:
        config: the kind of service.
        faults: the exchanges that go wrong. Default: as `config.fault_rate` says.
    """

    config: SimulatorConfig = field(factory=SimulatorConfig)
    faults: FaultPlan = field(default=Factory(_faults_by_rate, takes_self=True), kw_only=True)
    ledger: Ledger = field(factory=Ledger, init=False)
    """Books of what was accepted and billed, by request."""
    now: float = field(default=0.0, init=False)
    """The latest time that it was told."""
    epoch: float = field(init=False)
    """Unix seconds at time 0. The HTTP server sets it by the wall clock, unless the configuration has one."""
    _queue: WorkerQueue = field(init=False)
    _mail: Mailbox = field(init=False)
    _inputs: InputStore = field(init=False)
    _tasks: dict[str, SimulatedTask] = field(factory=dict, init=False)
    _sources: dict[str, bytes] = field(factory=dict, init=False)
    _mocks: dict[str, Span] = field(factory=dict, init=False)
    _quotas: dict[tuple[str, str], SlidingWindow | FixedWindow | LeakyBucket] = field(
        factory=dict, init=False
    )
    _spent: dict[str, int] = field(factory=dict, init=False)
    _paths: Mapping[str, tuple[Route, ...]] = field(init=False)
    """Rows of the table, by the paths that they are served at."""
    _clocks: dict[Hashable, float] = field(factory=dict, init=False)
    _listeners: list[Callable[[], None]] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        config = self.config
        self.epoch = _EPOCH if config.epoch is None else config.epoch
        self._queue = WorkerQueue(workers=config.workers, fifo=config.fifo, seed=config.seed)
        self._mail = Mailbox(retry=config.webhook_retry)
        self._inputs = InputStore(limit=config.keep_input_bytes)
        self._paths = _by_path(config.routes)

    # --- time

    def on_clock(self, clock: Hashable, reading: float) -> float:
        """Translate a clock's reading into service time.

        A clock that is new reads at least the latest service time from now on, so that a simulator
        outlives an event loop whose successor begins at 0 again.
        """
        offset = self._clocks.setdefault(clock, max(0.0, self.now - reading))
        return reading + offset

    def advance(self, now: float) -> None:
        """Work the queue until `now`."""
        self.now = max(self.now, now)
        for task_id, at in self._queue.advance(self.now):
            self._announce(self._tasks[task_id], at)

    def next_event_at(self) -> float | None:
        """Time at which something happens next without being asked for: a task ends, a webhook is due."""
        times = (self._queue.next_end_at(), self._mail.next_due_at())
        return min((at for at in times if at is not None), default=None)

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have a function called whenever `next_event_at` may have become earlier; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def latency(self, *names: object) -> float:
        """Seconds that something is on its way, jittered by its names."""
        config = self.config
        return config.latency * (
            1 + config.latency_jitter * (2 * fraction(config.seed, "latency", *names) - 1)
        )

    # --- the wire

    def begin(self, method: str, path: str) -> Visit:
        """Count an exchange that begins, and tell what is to go wrong with it."""
        submits = method == "POST" and (path.startswith("/v3/async/") or path in self._paths)
        return self._visit(ExchangeKind.SUBMIT if submits else _kind(path))

    def _visit(self, kind: ExchangeKind) -> Visit:
        self.ledger.exchanges[kind] += 1
        number = self.ledger.exchanges[kind]
        return Visit(kind=kind, number=number, fault=self.faults.fault_for(kind, number))

    def broken(self, visit: Visit, path: str, now: float) -> None:
        """Note a submission that began and never arrived whole."""
        self.now = max(self.now, now)
        if visit.kind is ExchangeKind.SUBMIT:
            entry = Entry(number=visit.number, at=self.now, endpoint=path, fault=visit.fault)
            self.ledger.entries.append(entry)

    def receive(self, exchange: Exchange, now: float, visit: Visit | None = None) -> Reply:
        """Answer a whole request, and do what it asks.

        `visit` is what `begin` gave. Without one the exchange begins now, and nothing goes wrong with it.
        """
        self.advance(now)
        visit = visit or evolve(self.begin(exchange.method, exchange.path), fault=None)
        fault = visit.fault
        if fault is not None and not fault.acted:
            return self._ignored(exchange, visit, fault)
        reply = self._judge(exchange, visit)
        return fault.reply if fault is not None and fault.reply is not None else reply

    def _ignored(self, exchange: Exchange, visit: Visit, fault: Fault) -> Reply:
        reply = fault.reply or text_reply(500, "no answer")
        status = fault.reply.status if fault.reply else None
        self._book(visit, exchange, status=status)
        return reply

    def _judge(self, exchange: Exchange, visit: Visit) -> Reply:
        try:
            return self._serve(exchange, visit)
        except Refused as refused:
            key = _bare(exchange.headers.get("authorization", ""))
            account = key if key in self.config.api_keys else None
            self._book(visit, exchange, status=refused.status, reason=refused.reason, account=account)
            return refusal_reply(exchange.path, refused)

    def _book(self, visit: Visit, exchange: Exchange, **facts: Any) -> None:
        if visit.kind is ExchangeKind.SUBMIT:
            entry = Entry(
                number=visit.number, at=self.now, endpoint=exchange.path, fault=visit.fault, **facts
            )
            self.ledger.entries.append(entry)

    def _serve(self, exchange: Exchange, visit: Visit) -> Reply:
        if exchange.path.startswith(_FILES):
            return self._file(exchange)
        if exchange.path.startswith(_BUCKETS):
            if not self.config.public_buckets:
                return xml_error(403, "AccessDenied", "Access Denied")
            owner = (task_id for task_id, task in self._tasks.items() if exchange.path in _paths(task))
            return self._picture(exchange.path, next(owner, ""))
        if exchange.path in self.config.retired:
            self._book(visit, exchange, status=404)
            return text_reply(404, "route not found")
        account = _bare(exchange.headers.get("authorization", ""))
        if not account:
            raise Refused("MISSING_API_KEY", "missing api key")
        if account not in self.config.api_keys:
            raise Refused("INVALID_API_KEY", "invalid api key")
        if visit.kind is ExchangeKind.SUBMIT:
            return self._submit(exchange, visit, account)
        return self._read_route(exchange)(exchange, account)

    def _read_route(self, exchange: Exchange) -> Callable[[Exchange, str], Reply]:
        routes: Mapping[str, Callable[[Exchange, str], Reply]] = {
            _TASK_RESULT: self._task_result,
            "/v3/model": lambda exchange, _: json_reply(catalogue.page(exchange.query)),
            "/v3/user": self._user,
            "/v3/user/balance": self._balance,
            "/openapi/v1/billing/balance/detail": self._balance,
        }
        if exchange.path not in routes or exchange.method not in ("GET", "HEAD"):
            raise Refused("API_NOT_FOUND", f"{exchange.method} {exchange.path} is not found")
        return routes[exchange.path]

    # --- accounts

    def balance_of(self, account: str) -> int:
        """Money that an account has left, in 1/10000 USD."""
        return self.config.balance - self._spent.get(account, 0)

    def _balance(self, _: Exchange, account: str) -> Reply:
        left = str(self.balance_of(account))
        names = {"availableBalance": left, "cashBalance": left, "creditLimit": "0", "pendingCharges": "0"}
        return json_reply({**names, "outstandingInvoices": "0"})

    def _user(self, _: Exchange, account: str) -> Reply:
        features = ["txt2img", "img2img"]
        return json_reply(
            {
                "username": f"simulated-{digest(account).hex()[:8]}",
                "credit_balance": self.balance_of(account),
                "allow_features": features,
                "free_trial": {},
            }
        )

    # --- submissions

    def _submit(self, exchange: Exchange, visit: Visit, account: str) -> Reply:
        document, order, route = self._read(exchange)
        self._admit(order, account)
        at_once = route is not None and answers_at_once(route, len(self._tasks) + 1)
        task = self._accept(exchange, order, account, at_once=at_once)
        self._book(
            visit,
            exchange,
            account=account,
            status=200,
            task_id=task.task_id,
            images=order.images if order.mock is None else 0,
            billed=cost(order, self.config),
            request=_hide_pictures(document),
        )
        if route is not None and at_once:
            return self._reply_at_once(route, task, document, exchange.origin)
        return json_reply(_submitted(task.task_id, envelope=self.config.envelope))

    def _reply_at_once(self, route: Route, task: SimulatedTask, document: JSONObject, origin: str) -> Reply:
        def paint(index: int) -> bytes:
            return Reply(painting=self._recipe(task, index)).content()

        urls = self._urls_at_once(task, origin)
        now = self.epoch + self.now
        return reply_at_once(route, task, document, paint=paint, urls=urls, unix_time=now)

    def _urls_at_once(self, task: SimulatedTask, origin: str) -> list[str]:
        """Addresses of the files of an answer, which work from when it is given."""
        files = range(task.order.images)
        return [self._sign(task, index, origin, after=task.seconds)[0] for index in files]

    def _read(self, exchange: Exchange) -> tuple[JSONObject, WorkOrder, Route | None]:
        rules = SUBMISSIONS.get(exchange.path)
        rows = () if rules is not None else self._paths.get(exchange.path, ())
        if rows:
            document, route, order = read_routed(exchange, rows)
            return document, self._allowed(document, order), route
        if rules is None and exchange.path not in self.config.other_tasks:
            raise Refused("API_NOT_FOUND", f"{exchange.path} is not found")
        document = decode_object(exchange.body)
        if rules is None:
            return document, read_loose_order(exchange.path, document), None
        pictures = check(document, rules, strict_names=self.config.strict_names)
        order = read_order(exchange.path, document, pictures, self.config)
        return document, self._allowed(document, order), None

    def _allowed(self, document: JSONObject, order: WorkOrder) -> WorkOrder:
        words = [word for word in self.config.illegal_words if word.lower() in order.prompt.lower()]
        if words:
            raise Refused("ILLEGAL_PROMPT", "the prompt is against the content policy")
        if (
            section(document, "extra", "enterprise_plan").get("enabled")
            and not self.config.dedicated_endpoints
        ):
            raise Refused("API_NOT_ALLOWED", "this account has no dedicated endpoints")
        return order

    def _admit(self, order: WorkOrder, account: str) -> None:
        price = cost(order, self.config)
        if self.balance_of(account) < price:
            raise Refused("NOT_ENOUGH_BALANCE", "not enough balance")
        if self.config.images_per_minute is not None and order.mock is None:
            name = account, order.endpoint
            quota = self._quotas.get(name) or make_quota(self.config.quota, self.config.images_per_minute)
            after = quota.admit(order.images, self.now)
            if after is None:
                wait = (
                    max(1, math.ceil(quota.wait(order.images, self.now))) if self.config.retry_after else None
                )
                raise Refused(
                    "RATE_LIMIT_EXCEEDED", "rate limit exceeded, please try again later", retry_after=wait
                )
            self._quotas[name] = after
        self._spent[account] = self._spent.get(account, 0) + price

    def _accept(self, exchange: Exchange, order: WorkOrder, account: str, *, at_once: bool) -> SimulatedTask:
        number = len(self._tasks) + 1
        task = SimulatedTask(
            task_id=uuid(self.config.seed, "task", number),
            number=number,
            account=account,
            order=evolve(order, source=None),
            submitted_at=self.now,
            seed=drawn_seed(order, self.config, number),
            fails=will_fail(order, self.config, number),
            seconds=service_seconds(order, self.config, number),
            origin=exchange.origin,
        )
        self._tasks[task.task_id] = task
        if order.source is not None:
            self._sources[task.task_id] = self._inputs.keep(order.source)
        if at_once:  # no worker of the queue's
            self._mocks[task.task_id] = Span(started_at=self.now, ended_at=self.now + task.seconds)
        else:
            self._start(task)
        for listener in tuple(self._listeners):
            listener()
        return task

    def _start(self, task: SimulatedTask) -> None:
        if task.order.mock is None:
            self._queue.add(task.task_id, task.seconds, self.now)
        else:
            self._mocks[task.task_id] = Span(started_at=self.now, ended_at=self.now)
            self._announce(task, self.now)

    # --- results

    def span(self, task_id: str) -> Span | None:
        """Begin and end of the work on a task; None while the task waits."""
        return self._mocks.get(task_id) or self._queue.span(task_id)

    def status_of(self, task_id: str) -> str:
        """A task's status at the latest time, without counting as a poll."""
        return status_at(self._tasks[task_id], self.span(task_id), self.now)

    @property
    def tasks(self) -> Mapping[str, SimulatedTask]:
        """Accepted tasks by id, in the order of acceptance."""
        return self._tasks

    def _known(self, task_id: str, account: str) -> SimulatedTask:
        task = self._tasks.get(task_id)
        if task is None or task.account != account:
            raise Refused("TASK_NOT_FOUND", "task not found")
        is_hidden = self.now < task.submitted_at + self.config.visible_after
        span, retention = self.span(task_id), self.config.retention
        is_forgotten = span is not None and retention is not None and self.now >= span.ended_at + retention
        if is_hidden or is_forgotten:
            raise Refused("TASK_NOT_FOUND", "task not found")
        return task

    def _task_result(self, exchange: Exchange, account: str) -> Reply:
        task_id = exchange.query.get("task_id", "")
        self.ledger.polls.setdefault(task_id, []).append(self.now)
        if not task_id:
            raise Refused("VALIDATOR", "invalid task_id: value is required")
        task = self._known(task_id, account)
        if self.config.failure_as_error and self.status_of(task_id) == FAILED:
            raise Refused("TASK_FAILED", "task failed")
        return json_reply(self._snapshot(task, exchange.origin))

    def _snapshot(self, task: SimulatedTask, origin: str) -> JSONObject:
        return snapshot(
            task,
            self.span(task.task_id),
            self.now,
            self.config,
            epoch=self.epoch,
            signer=lambda task, index: self._sign(task, index, origin),
        )

    def _sign(self, task: SimulatedTask, index: int, origin: str, after: float = 0.0) -> tuple[str, str]:
        path = file_path(task, index)
        if task.order.storage is not None:
            return origin + path, "0"
        config = self.config
        at = self.epoch + self.now + after
        url = presigned.sign(origin, path, seed=config.seed, unix_time=at, ttl=config.url_ttl)
        return url, str(config.url_ttl)

    # --- files

    def _file(self, exchange: Exchange) -> Reply:
        if exchange.method not in ("GET", "HEAD"):
            return xml_error(
                405, "MethodNotAllowed", "The specified method is not allowed against this resource"
            )
        refusal = presigned.refusal(
            exchange.path,
            exchange.query,
            seed=self.config.seed,
            unix_time=self.epoch + self.now,
            authorized="authorization" in exchange.headers,
        )
        return refusal or self._picture(exchange.path, exchange.path.split("/")[2])

    def _picture(self, path: str, task_id: str) -> Reply:
        task = self._tasks.get(task_id)
        paths = _paths(task) if task is not None else []
        if task is None or path not in paths:
            return xml_error(404, "NoSuchKey", "The specified key does not exist.")
        self.ledger.downloads[task_id] += 1
        if task.order.image_type == "mp4":
            return Reply(content_type="video/mp4", body=VIDEO)
        recipe = self._recipe(task, paths.index(path))
        return Reply(content_type=f"image/{task.order.image_type}", painting=recipe)

    def _recipe(self, task: SimulatedTask, index: int) -> Painting:
        source = self._inputs.get(self._sources.get(task.task_id))
        return painting(task, index, source, plain=self.config.plain_pictures)

    # --- webhooks

    def _announce(self, task: SimulatedTask, at: float) -> None:
        if task.order.webhook is None:
            return
        fault = self._visit(ExchangeKind.WEBHOOK).fault
        for _ in range(1 if fault is None else _COPIES.get(fault.kind, 1)):
            self._mail.post(task.task_id, at)

    def due_webhooks(self, now: float) -> list[WebhookCall]:
        """Take the events that are to be sent now. Each must come back in `settle_webhook`."""
        self.advance(now)
        return self._mail.take_due(self.now, self._event)

    def settle_webhook(self, call: WebhookCall, *, taken: bool, now: float) -> None:
        """Note whether a receiver answered 2xx in time; if not, the event is due again later, five times."""
        self.now = max(self.now, now)
        if taken:
            self.ledger.webhooks.setdefault(call.task_id, []).append(self.now)
        self._mail.settle(call, taken=taken, now=self.now)

    def _event(self, task_id: str) -> tuple[str, bytes]:
        task = self._tasks[task_id]
        payload = self._snapshot(task, task.origin)
        url = task.order.webhook or ""
        payload["extra"] = {"enable_nsfw_detection": task.order.nsfw, "webhook": {"url": url}}
        return url, msgspec.json.encode({"event_type": "ASYNC_TASK_RESULT", "payload": payload})

    # --- introspection

    def statistics(self) -> SimulatorStatistics:
        queue, ledger = self._queue.statistics(), self.ledger
        return SimulatorStatistics(
            submissions=ledger.exchanges[ExchangeKind.SUBMIT],
            accepted=len(self._tasks),
            images=ledger.images,
            waiting=queue.waiting,
            running=queue.running,
            done=queue.done,
            polls=ledger.exchanges[ExchangeKind.POLL],
            downloads=ledger.exchanges[ExchangeKind.DOWNLOAD],
            webhooks=sum(map(len, ledger.webhooks.values())),
        )

    def __repr__(self) -> str:
        now = self.statistics()
        return (
            f"<Simulator at {self.now:.1f} s: {now.accepted} tasks, "
            f"{now.waiting} waiting, {now.running} running, {now.done} done>"
        )


def _by_path(routes: Iterable[Route]) -> Mapping[str, tuple[Route, ...]]:
    found: dict[str, tuple[Route, ...]] = {}
    for route in routes:
        for path in {route.path_for(model) for model in route.models or ("",)}:
            found[path] = (*found.get(path, ()), route)
    return found


def _kind(path: str) -> ExchangeKind:
    if path.startswith((_FILES, _BUCKETS)):
        return ExchangeKind.DOWNLOAD
    if path == _TASK_RESULT:
        return ExchangeKind.POLL
    return ExchangeKind.OTHER


def _bare(header: str) -> str:
    scheme, _, rest = header.strip().partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else header.strip()


def _paths(task: SimulatedTask) -> list[str]:
    return [file_path(task, index) for index in range(task.order.images)]


def _submitted(task_id: str, *, envelope: bool) -> JSONObject:
    return {"code": 0, "msg": "", "data": {"task_id": task_id}} if envelope else {"task_id": task_id}
