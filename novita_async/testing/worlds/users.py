"""The users of a world: what they ask for, how they wait, break off, fail and are cancelled."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import anyio
from attrs import define, field

from novita_async import (
    Failed,
    Img2Img,
    NovitaError,
    NovitaRequest,
    Outcome,
    SubmissionUncertain,
    Succeeded,
    Task,
    TaskTimeout,
    Txt2Img,
    Unfinished,
)
from novita_async.testing.worlds.asking import A_PNG, makers_of, number_of, request_to
from novita_async.testing.worlds.dice import fraction, pick
from novita_async.testing.worlds.disk import real_open
from novita_async.testing.worlds.plan import UserPlan
from novita_async.testing.worlds.record import Came, UserVisit, shown
from novita_async.testing.worlds.roles import Agent

LONG_NAME: Final = "一只可爱的狐狸在森林里，" * 12
_WAITS: Final = (0.0, 1 / 64, 1 / 16, 0.25, 0.5)
_MOST_BROKEN_OFF: Final = 6
"""How often an outcome is broken off before its user waits for it."""
_OLD: Final = 500
"""Numbers from here on are of requests that a user buys before the stream begins."""


class UserError(Exception):
    """Error that a user's own code raises."""


@define(eq=False, repr=False)
class User:
    """A user at work."""

    process: Agent
    plan: UserPlan
    task: "asyncio.Task[Any] | None" = field(default=None, init=False)
    scope: anyio.CancelScope | None = field(default=None, init=False)
    limit: asyncio.Timeout | None = field(default=None, init=False)
    is_stopped: bool = field(default=False, init=False)
    done: bool = field(default=False, init=False)
    _ask: "asyncio.Future[Any] | None" = field(default=None, init=False)
    _visit: UserVisit | None = field(default=None, init=False)
    _asks: int = field(default=0, init=False)
    _ends_heard: int = field(default=0, init=False)

    def __repr__(self) -> str:
        return f"<User {self.plan.name}>"

    @property
    def name(self) -> str:
        """Tells it from others."""
        return self.plan.name

    def say(self, what: str) -> None:
        """Write a line of the trace."""
        self.process.world.record.say(self.process.world.now, f"{self.process.name}.{self.plan.name}", what)

    # --- Being somebody -----------------------------------------------------------------------------------

    async def live(self) -> None:
        """Work, until the work is done or the user is cancelled."""
        self.task = asyncio.current_task()
        if self.plan.stopped is not None:
            self.process.when(self.plan.stopped, self._stop)
        try:
            await self._until_stopped()
        except asyncio.CancelledError:
            self.say("was cancelled")
            if not self.is_stopped or self.plan.stop != "asyncio":
                raise
            assert self.task is not None
            self.task.uncancel()
        except UserError as error:
            self.say(f"raised {error}")
        except NovitaError as error:
            self.say(f"got {shown(error)}")
        except Exception as error:  # noqa: BLE001 - no other error may reach a user
            self.process.world.record.violate("no stray errors", self.plan.name, shown(error))
        finally:
            self.done = True

    async def _until_stopped(self) -> None:
        if self.plan.stopped is None or self.plan.stop == "asyncio":
            await self._work()
        elif self.plan.stop == "anyio":
            with anyio.CancelScope() as self.scope:
                await self._work()
        else:
            try:
                async with asyncio.timeout(None) as self.limit:
                    await self._work()
            except TimeoutError as error:
                if isinstance(error, NovitaError):
                    raise
                self.say("was timed out")

    def _stop(self) -> None:
        if self.done or self.task is None:
            return
        self.say(f"is cancelled ({self.plan.stop})")
        self.is_stopped = True
        self.process.stopped(self.plan.name)
        self.process.world.record.reached[f"cancelled: {self.plan.kind} {self.plan.stop}"] += 1
        task = self.task
        self.process.in_loop(task, lambda: self._cancel(task))

    def _cancel(self, task: "asyncio.Task[Any]") -> None:
        if self.scope is not None:
            self.scope.cancel()
        elif self.limit is not None:
            self.limit.reschedule(asyncio.get_running_loop().time())
        else:
            task.cancel()

    async def _work(self) -> None:
        kind = self.plan.kind
        if kind in ("run", "submit", "poll"):
            await self._work_alone()
        elif kind == "watch":
            await self._watch()
        else:
            await self._use(self._open())

    # --- Requests -------------------------------------------------------------------------------------------

    @property
    def first(self) -> int:
        """The number of the first request."""
        return int(self.plan.name[1:]) * 1000

    def asks_for(self, number: int) -> bool:
        """Whether a request is this user's."""
        return self.first <= number < self.first + 1000

    def request(self, index: int) -> NovitaRequest:
        """Make the n-th request, from 0."""
        number = self.first + index
        routes = self.plan.routes if index < _OLD else ()
        route = routes[index % len(routes)] if routes else "txt2img"
        if route != "txt2img":
            return request_to(route, number, self.plan.images)
        fields: dict[str, Any] = {
            "model_name": "m", "prompt": f"picture {number}", "steps": 20, "seed": number,
            "width": 128, "height": 128, "image_num": self.plan.images,
        }  # fmt: skip
        if self.plan.raises == "body" and index == self.plan.raises_at:
            path: Path = self.process.world.disk.home / f"input-{fields['seed']}.png"
            self._write(path, A_PNG)
            request = Img2Img(image=path, **fields)
            self._write(path, A_PNG + b"changed")
            return request
        return Txt2Img(**fields)

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        with real_open(path, "wb") as file:  # whatever is wrong with the disk
            file.write(data)

    def requests(self, visit: UserVisit) -> Iterator[NovitaRequest]:
        """The input of a stream or a batch."""
        numbers = range(self.plan.requests)
        for index in reversed(numbers) if self.plan.backwards else numbers:
            if self.plan.raises == "input" and index == self.plan.raises_at:
                raise UserError("in the input")
            request = self.request(index)
            visit.asked.append(self.first + index)
            ask = self._ask  # an outcome that a task of this user has taken is in the user's hand
            in_hand = ask is not None and ask.done() and not ask.cancelled()
            still_open = len(set(visit.asked) - visit.delivered) - in_hand
            visit.most_open = max(visit.most_open, still_open)
            yield request

    # --- Single calls ---------------------------------------------------------------------------------------

    async def _work_alone(self) -> None:
        calls = [self._one(index) for index in range(self.plan.requests)]
        if self.plan.in_flight == 1:
            for number, call in enumerate(calls):
                try:
                    await call
                    await asyncio.sleep(self.plan.pause)
                except BaseException:
                    for other in calls[number + 1 :]:
                        other.close()
                    raise
        else:
            async with asyncio.TaskGroup() as group:
                for call in calls:
                    group.create_task(call)

    async def _one(self, index: int) -> None:
        number = self.first + index
        try:
            if self.plan.kind == "run":
                result = await self._client.run(
                    self.request(index), timeout=self.plan.timeout, priority=self.plan.priority
                )
            else:
                task = await self._client.submit(self.request(index), priority=self.plan.priority)
                self._came("Submitted", number, task.task_id)
                result = await self._end_of(task)
        except NovitaError as error:
            self._failed(number, error)
        else:
            outcome = Succeeded(result=result)
            self._came("Succeeded", number, None, outcome=outcome)

    async def _end_of(self, task: Task) -> Any:
        if self.plan.kind == "submit":
            return await self._client.wait(task, timeout=self.plan.timeout)
        while True:
            snapshot = await self._client.poll(task)
            if snapshot.state == "succeeded" and snapshot.result is not None and snapshot.result.images:
                return snapshot.result
            if snapshot.state == "failed":
                raise TaskTimeout(task=task, waited=0.0)
            await asyncio.sleep(0.5)

    def _failed(self, number: int, error: NovitaError) -> None:
        kinds = {SubmissionUncertain: "Uncertain", TaskTimeout: "Unfinished"}
        kind = next((name for cls, name in kinds.items() if isinstance(error, cls)), "Failed")
        self._came(kind, number, error.task_id, error=error)

    def _came(self, kind: str, number: int | None, task_id: str | None, **facts: Any) -> None:
        record = self.process.world.record
        record.reached[f"outcome: {kind}"] += 1
        error = facts.get("error")
        self.say(f"{number}: {kind}{f' {shown(error)}' if error is not None else ''}")
        if error is not None:
            record.texts += (str(error), repr(error))
        outcome = facts.get("outcome")
        makers = makers_of(outcome.result) if isinstance(outcome, Succeeded) else ()
        if isinstance(outcome, Succeeded):  # where there is no task, the files tell which it would have been
            task_id = outcome.task_id or next(filter(None, makers), None)
        record.came.append(
            Came(
                user=self.plan.name,
                process=self.process.name,
                number=number,
                kind=kind,
                task_id=task_id,
                makers=makers,
                single=self.plan.kind in ("run", "submit", "poll"),
                **facts,
            )
        )

    @property
    def _client(self) -> Any:
        return self.process.client

    # --- Streams --------------------------------------------------------------------------------------------

    def _open(self) -> tuple[UserVisit, Any]:
        plan, disk = self.plan, self.process.world.disk
        visit = UserVisit(
            plan.name,
            self.process.name,
            plan.kind,
            in_flight=plan.in_flight,
            began_at=self.process.world.now,
        )
        self.process.world.record.visits.append(visit)
        options: dict[str, Any] = {"in_flight": plan.in_flight, "priority": plan.priority}
        if plan.save:
            options["save_to"] = disk.home / f"out-{plan.name}"
            options |= self._naming()
        if plan.kind == "stream":
            return visit, self._client.stream(self.requests(visit), **options)
        return visit, self._client.batch(
            self.requests(visit),
            journal=disk.home / f"{plan.name}.db",
            resubmit_uncertain=plan.resubmits,
            retry_failed=plan.retries_failed,
            **options,
        )

    def _naming(self) -> dict[str, Any]:
        how = self.plan.names
        if how == "plain":
            return {}
        if how == "template":
            return {"save_as": "same-{n}.{ext}"}
        return {"save_as": self._name_of}

    def _name_of(self, outcome: Succeeded) -> str:
        number = int(outcome.tag or self.process.world.service.number_of(outcome.task_id or ""))
        hit = number % 1000 == self.plan.raises_at
        if self.plan.names == "raises" and hit:
            raise UserError("in save_as")
        if self.plan.names == "long" and hit:
            return LONG_NAME
        if self.plan.names == "odd" and hit:
            return "../..//\x00 con?*.png" if number % 2 else ""
        return f"picture-{number}"

    async def _watch(self) -> None:
        plan = self.plan
        tasks = [task for index in range(plan.requests) if (task := await self._bought(index)) is not None]
        visit = UserVisit(plan.name, self.process.name, "watch", watched=[task.task_id for task in tasks])
        self.process.world.record.visits.append(visit)
        options: dict[str, Any] = {"timeout": plan.timeout}
        if plan.save:
            options["save_to"] = self.process.world.disk.home / f"out-{plan.name}"
        if plan.priority == "interactive":
            options["updates"] = True
        if tasks:
            await self._use(
                (visit, self._client.watch([tasks[0], *(t.task_id for t in tasks[1:])], **options))
            )

    async def _bought(self, index: int) -> Task | None:
        number = self.first + index
        try:
            task: Task = await self._client.submit(self.request(index))
        except NovitaError as error:
            self._failed(number, error)
            return None
        self._came("Submitted", number, task.task_id)
        return task

    async def _use(self, opened: tuple[UserVisit, Any]) -> None:
        visit, stream = opened
        self._visit = visit
        old = []
        if visit.kind == "stream":
            bought = [await self._bought(_OLD + index) for index in range(self.plan.watches)]
            old = [task for task in bought if task is not None]
        try:
            async with stream as outcomes:
                visit.handle = outcomes
                await self._take_all(visit, outcomes, old)
        except (NovitaError, UserError) as error:
            visit.error = error
            self.process.world.record.texts += (str(error), repr(error))
            raise
        finally:
            visit.ended_at = self.process.world.now

    async def _take_all(self, visit: UserVisit, outcomes: Any, old: list[Task]) -> None:
        for task in old[: len(old) // 2]:
            self._add(visit, outcomes, old, task)
        while True:
            try:
                outcome = await self._next(outcomes)
            except StopAsyncIteration:
                visit.over = True
                self.say("nothing more comes")
                return
            if outcome is None:
                continue
            self._took(visit, outcome)
            if visit.taken >= self.plan.requests // 2 and old:
                self._add(visit, outcomes, old, old[-1])
            if self.plan.raises == "consumer" and visit.taken == self.plan.raises_at:
                self.process.stopped(self.plan.name)
                raise UserError("in the consumer")
            if self.plan.leaves_after is not None and visit.taken >= self.plan.leaves_after:
                self.say("leaves")
                self.process.stopped(self.plan.name)
                return
            if self.plan.pause:
                await asyncio.sleep(self.plan.pause)

    def _add(self, visit: UserVisit, outcomes: Any, old: list[Task], task: Task) -> None:
        old.remove(task)
        visit.watched.append(task.task_id)
        outcomes.watch(task)

    def _took(self, visit: UserVisit, outcome: Outcome) -> None:
        if not hasattr(outcome, "unwrap"):  # an update
            return
        self.process.mark("take")
        number = number_of(outcome)
        if number is None and visit.kind == "batch":  # paid for by an earlier run, and not asked for yet
            number = self.process.world.service.number_of(outcome.task_id or "")
        if number is not None or visit.kind == "watch":
            visit.taken += 1
        if number is not None:
            visit.delivered.add(number)
        error = None if isinstance(outcome, Succeeded) else outcome.error
        if isinstance(outcome, Failed | Unfinished) and visit.kind == "watch":
            number = None
        self._came(type(outcome).__name__, number, outcome.task_id, error=error, outcome=outcome)

    # --- Impatience -----------------------------------------------------------------------------------------

    async def _next(self, outcomes: Any) -> Any:
        """Wait for the next outcome, in this user's way. None: it was broken off."""
        how = self.plan.impatient
        self._asks += 1
        if not how or self._asks % (_MOST_BROKEN_OFF + 1) == 0:
            return await anext(outcomes)
        self.process.world.record.reached[f"anext broken off by {how}"] += 1
        if how == "task":
            return await self._ask_in_a_task(outcomes)
        wait = pick(_WAITS, self.process.world.plan.seed, self.plan.name, "wait", self._asks)
        if how == "scope":
            with anyio.move_on_after(wait):
                return await anext(outcomes)
            return None
        try:
            async with asyncio.timeout(wait):
                return await anext(outcomes)
        except TimeoutError as error:
            if isinstance(error, NovitaError):
                raise
            return None

    async def _ask_in_a_task(self, outcomes: Any) -> Any:
        ask = self._ask = asyncio.ensure_future(outcomes.__anext__())
        try:
            await asyncio.wait([ask])
        except asyncio.CancelledError:
            if ask.done() and not ask.cancelled() and ask.exception() is None and self._visit is not None:
                self._took(self._visit, ask.result())
            ask.cancel()
            raise
        self._ask = None
        return None if ask.cancelled() else ask.result()

    def heard_of_an_end(self) -> None:
        """Break off the present `anext`, a few turns after a task was found to have ended."""
        if self.plan.impatient != "task":
            return
        self._ends_heard += 1
        name = self.process.world.plan.seed, self.plan.name, "heard", self._ends_heard
        if fraction(*name) < 0.7:
            self.process.after_turns(pick((0, 1, 2, 3, 4, 5), *name), self._break_off)

    def _break_off(self) -> None:
        if self._ask is not None and not self._ask.done():
            self.say("breaks off anext")
            self.process.in_loop(self._ask, self._ask.cancel)
