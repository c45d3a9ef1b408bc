"""A world: its time, its service, its processes, and what comes of them."""

import asyncio
import contextlib
import gc
import heapq
import itertools
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final, cast

import anyio
from attrs import define, evolve, field

from novita_async import Account, Budget, NovitaClient, Polling, RetryPolicy
from novita_async._util.values import frozen
from novita_async.testing.worlds import checks, seams
from novita_async.testing.worlds.asking import makers_of, number_of
from novita_async.testing.worlds.bytestream import Network
from novita_async.testing.worlds.dice import pick
from novita_async.testing.worlds.disk import WorldDisk
from novita_async.testing.worlds.loops import NEVER, TERMINATE, Life, WorldClock, WorldLoop
from novita_async.testing.worlds.plan import Mark, Moment, Plan, ProcessPlan
from novita_async.testing.worlds.record import Post, Stopped, WorldRecord, shown
from novita_async.testing.worlds.service import Service, key_of
from novita_async.testing.worlds.users import User
from novita_async.testing.worlds.wire import ORIGIN, WorldTransport, task_id_in

EPOCH: Final = 1_767_225_600.0
"""Unix time at the beginning of a world."""
HORIZON: Final = 200_000.0
"""Seconds after which a world that still goes on never ends."""
MOST_TURNS: Final = 20_000
"""Turns of loops after which a world runs in circles."""
MOST_STANDING: Final = 300
"""Turns in which time stands still; each further one takes a while."""
_DELAYS: Final = (0.0, 0.0, 1 / 256, 1 / 64)
"""Seconds that a thread takes before and after its work."""
_IN_ORDER: Final = ("gather", "group", "anyio", "main")
"""Where the client is left before the main task ends."""
_MANY: Final = 50
"""Requests of a user from which a client is weighed."""
GAP: Final = 1.0
"""Seconds between two processes."""


@frozen(kw_only=True)
class Violation:
    """Something that must always hold, and did not."""

    invariant: str
    """Its name, from `checks.INVARIANTS`."""
    about: str
    """Which request, user or process."""
    how: str
    """Evidence, in words."""

    def __str__(self) -> str:
        return f"{self.invariant}: {self.about}: {self.how}"


@frozen(kw_only=True)
class Report:
    """Result of a world."""

    plan: Plan
    """Plan that it was made from."""
    violations: tuple[Violation, ...]
    """Invariants that did not hold, each with its evidence."""
    trace: str = field(repr=False)
    """Trace: who did what when."""
    reached: dict[str, int] = field(repr=False)
    """The map: how often each thing was reached."""
    seconds: float
    """How long the world lasted, in its own time."""
    weights: dict[str, int] = field(repr=False)
    """By process with many requests: how much its client holds at the end, counted in things."""

    @property
    def invariants(self) -> frozenset[str]:
        """The names of what did not hold."""
        return frozenset(violation.invariant for violation in self.violations)


@define(eq=False, repr=False)
class Process:
    """A client, its tasks and its open files, until it ends or is stopped dead."""

    world: "World"
    plan: ProcessPlan
    name: str
    client: NovitaClient | None = field(default=None, init=False)
    lives: list[Life] = field(factory=list[Life], init=False)
    """Calls of `asyncio.run` that have not returned."""
    users: list[User] = field(factory=list[User], init=False)
    dead: bool = field(default=False, init=False)
    turns: int = field(default=0, init=False)
    status: int | None = field(default=None, init=False)
    """Its exit status, once it has ended."""
    terminated_at: float | None = field(default=None, init=False)
    """When SIGTERM came."""
    _to_live: list[tuple[User, ...]] = field(factory=list[tuple[User, ...]], init=False)
    _users_of: dict[Life, tuple[User, ...]] = field(factory=dict[Life, tuple[User, ...]], init=False)
    _counts: dict[str, int] = field(factory=dict[str, int], init=False)
    _moments: dict[tuple[str, int], list[tuple[int, Callable[[], None]]]] = field(factory=dict, init=False)
    _alarms: list[tuple[int, int, Callable[[], None]]] = field(factory=list, init=False)
    _numbers: "itertools.count[int]" = field(factory=itertools.count, init=False)
    _threads: list[Life] = field(factory=list[Life], init=False)
    """Lives whose worker threads wait for the end of their main task."""
    works: list[Callable[[], None]] = field(factory=list, init=False)
    """Calls that threads have still to make."""
    asked_to_leave: asyncio.Event = field(factory=asyncio.Event, init=False)
    """Set when the main task is to return."""

    def __repr__(self) -> str:
        return f"<Process {self.name}>"

    def say(self, what: str) -> None:
        """Write a line of the trace."""
        self.world.record.say(self.world.now, self.name, what)

    # --- Moments --------------------------------------------------------------------------------------------

    def when(self, moment: Moment, action: Callable[[], None]) -> None:
        """Do something at a moment."""
        if moment.mark == "time":
            self.world.at(self.world.now + moment.number, lambda: self._fire(action))
        else:
            key = moment.mark, int(moment.number)
            self._moments.setdefault(key, []).append((moment.turns, action))

    def mark(self, mark: Mark) -> None:
        """Count something that has happened."""
        count = self._counts[mark] = self._counts.get(mark, 0) + 1
        for turns, action in self._moments.get((mark, count), ()):
            self.after_turns(turns, action)
        if mark == "finished":
            for user in self.users:
                user.heard_of_an_end()

    def after_turns(self, turns: int, action: Callable[[], None]) -> None:
        """Do something after so many turns."""
        heapq.heappush(self._alarms, (self.turns + turns, next(self._numbers), action))

    def ring(self, *, idle: bool = False) -> bool:
        """Do what is due after this turn; when idle, whatever still waits for turns."""
        rung = False
        while self._alarms and (idle or self._alarms[0][0] <= self.turns) and not self.dead:
            self._fire(heapq.heappop(self._alarms)[2])
            rung = True
        return rung

    def _fire(self, action: Callable[[], None]) -> None:
        if self.dead or not self.lives:
            return
        loop = self.lives[0].loop
        if loop.is_closed():
            return
        with self.world.running(self, loop):
            action()
        loop.wake()

    def in_loop(self, future: "asyncio.Future[Any]", action: Callable[[], object]) -> None:
        """Do something to a future in its own loop, and wake that, as `call_soon_threadsafe` does."""
        loop = cast("WorldLoop", future.get_loop())
        with self.world.running(self, loop):
            action()
        loop.wake()

    # --- Living ---------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the client, where that is not the main task's, and start to live."""
        self.users = [User(self, plan) for plan in self.plan.users]
        if self.plan.together == "loops":
            self._to_live = [(user,) for user in self.users]
            self.client = self.world.new_client(self)
            self._live()
        elif self.plan.together == "threads":
            self.client = self.world.new_client(self)
            for user in self.users:
                self._to_live = [(user,)]
                self._live()
        else:
            self._to_live = [tuple(self.users)]
            self._live()
        if self.plan.ending and self.plan.ends is not None:
            self.when(self.plan.ends, getattr(self, f"_{self.plan.ending}"))
        if self.plan.together == "left" and self.plan.leaves is not None:
            self.when(self.plan.leaves, self._leave)

    def _live(self) -> None:
        users = self._to_live.pop(0)
        loop = self.world.new_loop()
        with self.world.running(self, loop):
            life = Life(loop, loop.create_task(self._main(users)))
        self.lives.append(life)
        self._users_of[life] = users

    async def _main(self, users: tuple[User, ...]) -> None:
        self.asked_to_leave = asyncio.Event()
        if self.client is not None:
            await self._work(users)
            return
        self.client = client = self.world.new_client(self)
        if self.plan.together == "left":
            await self._work(users)
            return
        async with client:
            await self._work(users)
            if any(user.plan.requests >= _MANY for user in users):
                self.world.record.weights[self.name] = seams.weight(client)
        await self.world.network.leave(self)

    async def _work(self, users: tuple[User, ...]) -> None:
        how = self.plan.together
        if how == "group":
            async with asyncio.TaskGroup() as group:
                for user in users:
                    group.create_task(user.live())
        elif how == "anyio":
            async with anyio.create_task_group() as tasks:
                for user in users:
                    tasks.start_soon(user.live)
        elif how == "left":
            left = asyncio.gather(*(user.live() for user in users), return_exceptions=True)
            left.add_done_callback(lambda _: self.asked_to_leave.set())
            await self.asked_to_leave.wait()
        elif how == "gather":
            await asyncio.gather(*(user.live() for user in users))
        else:
            for user in users:
                await user.live()

    def _leave(self) -> None:
        self.say("the main task returns")
        self.stopped("")
        self.asked_to_leave.set()

    # --- Turns ----------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether it is no more."""
        return self.dead or not self.lives

    def turn(self) -> bool:
        """Give a turn to each loop that is awake. Returns whether there was one."""
        turned, world = False, self.world
        for life in tuple(self.lives):
            if self.over or life.has_ended() or not life.loop.is_awake:
                continue
            world.process = self
            asyncio._set_running_loop(life.loop)
            try:
                life.turn()
            finally:
                asyncio._set_running_loop(None)
                world.process = None
            turned = True
            self.turns += 1
            self.ring()
            if life.has_ended() and not self.dead:
                self._end(life)
        return turned

    def _end(self, life: Life) -> None:
        self.lives.remove(life)
        if isinstance(life.error, SystemExit):
            code = life.error.code
            self.status = code if isinstance(code, int) else 1
            self._to_live.clear()
        if life.error is None and self.plan.together in _IN_ORDER:
            names = sorted({str(task.get_coro()) for task in life.left})
            self.world.record.left_running += [(self.name, name.partition(" at ")[0]) for name in names]
        self.say(f"asyncio.run ends{f' with {shown(life.error)}' if life.error else ''}")
        if life in self._threads:
            self.world.record.violate(
                "ends", self.name, "the process never ends: worker threads wait for a main task that is gone"
            )
        if self._to_live:
            self._live()

    def next_at(self) -> float:
        """When one of its loops wakes, in the time of the world."""
        times = [life.loop.wakes_at + life.loop.slept for life in self.lives if not life.over]
        return min(times, default=NEVER)

    # --- Ends -----------------------------------------------------------------------------------------------

    def _crash(self) -> None:
        self._stop_dead("crash")
        self.world.disk.crash()

    def _power(self) -> None:
        self._stop_dead("power cut")
        self.world.disk.cut_power()

    def _stop_dead(self, how: str) -> None:
        self.say(f"{how}: stopped dead")
        self.dead = True
        self.world.record.crashed[self.name] = self.world.now
        self.world.process = None
        for state in {post.reach for post in self.world.record.posts if post.process == self.name}:
            self.world.record.reached[f"{how} with a POST {state}"] += 1

    def _sigterm(self) -> None:
        self.say("SIGTERM")
        self.terminated_at = self.world.now
        told = next((life for life in self.lives if TERMINATE in life.loop.signals), None)
        if told is None:
            self._stop_dead("SIGTERM without a handler")
            self.world.disk.crash()
            return
        if self.plan.together == "threads":  # the other loop goes on until its work is done
            for user in self._users_of[told]:
                self.stopped(user.name)
        else:
            self.stopped("")
        told.loop.signals[TERMINATE]()

    def stopped(self, user: str) -> None:
        """Note that a cancellation is due."""
        self.world.record.stops.append(Stopped(self.name, user, self.world.now, self.turns))

    # --- Threads --------------------------------------------------------------------------------------------

    def begin_thread(self, loop: WorldLoop) -> None:
        """A worker thread of anyio begins: it ends with the main task, where that still runs."""
        life = next(life for life in self.lives if life.loop is loop)
        if life not in self._threads and not life.main.done():
            self._threads.append(life)
            life.main.add_done_callback(lambda _: self._threads.remove(life))

    # --- The wire -------------------------------------------------------------------------------------------

    def new_post(self, number: int) -> Post:
        """Note that a POST begins."""
        user = next((user.name for user in self.users if user.asks_for(number)), "")
        post = Post(number, self.name, user, self.world.now, self.turns)
        self.world.record.posts.append(post)
        self.mark("post")
        return post

    def hand_over(self, post: Post) -> None:
        """Note that the last byte of a POST goes out."""
        post.handed_at = self.world.now
        self.mark("handover")

    def broken_off(self, post: Post, error: BaseException) -> None:
        """Note that nobody waits for a POST's answer any more."""
        if post.handed_at is None:
            post.reach = "not sent"
        elif isinstance(error, asyncio.CancelledError):
            post.reach = "unknown"
        if isinstance(error, asyncio.CancelledError):
            post.cut_at = self.world.now

    def observe(self, event: object) -> None:
        """Take in an event of the client's."""
        name = type(event).__name__
        self.world.record.reached[f"event: {name}"] += 1
        self.world.record.texts.append(repr(event))
        self.mark("event")
        if name == "Finished":
            self.mark("finished")


@define(eq=False, repr=False)
class World:
    """A world that is running, or has run."""

    plan: Plan
    root: Path
    clock: WorldClock = field(factory=WorldClock, init=False)
    record: WorldRecord = field(factory=WorldRecord, init=False)
    service: Service = field(init=False)
    disk: WorldDisk = field(init=False)
    network: Network = field(init=False)
    process: Process | None = field(default=None, init=False)
    """Whose turn it is."""
    processes: list[Process] = field(factory=list[Process], init=False)
    _events: list[tuple[float, int, Callable[[], None]]] = field(factory=list, init=False)
    _numbers: "itertools.count[int]" = field(factory=itertools.count, init=False)
    _loops: list[WorldLoop] = field(factory=list[WorldLoop], init=False)
    _jump: float = field(default=0.0, init=False)
    _works: int = field(default=0, init=False)
    _slept: float = field(default=0.0, init=False)
    epoch: float = EPOCH

    def __attrs_post_init__(self) -> None:
        self.disk = WorldDisk(self, self.root)
        self.disk.keeps = any(process.ending == "power" for process in self.plan.processes)
        self.service = Service(self)
        self.network = Network(self)

    def __repr__(self) -> str:
        return f"<World {self.plan.seed} at {self.now:.3f} s>"

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return self.clock.now

    def wall_time(self) -> float:
        """Unix time, as processes see it."""
        return EPOCH + self.now + self._jump

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Let something happen at a time."""
        heapq.heappush(self._events, (when, next(self._numbers), action))

    # --- Running --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def running(self, process: Process, loop: WorldLoop) -> Any:
        """Let it be this process's turn, in this loop."""
        before, loop_before = self.process, asyncio._get_running_loop()
        self.process = process
        asyncio._set_running_loop(loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(loop_before)
            self.process = before

    def run(self) -> None:
        """Let one process live after the other."""
        self.disk.begin()
        jump = self.plan.trouble("wall clock jumps")
        if jump is not None:
            self.at(jump.at, lambda: self._jump_by(jump.length))
        sleep = self.plan.trouble("laptop sleeps")
        if sleep is not None:
            self.at(sleep.at, lambda: self._sleep_for(sleep.length))
        for number, plan in enumerate(self.plan.processes):
            process = Process(self, plan, f"p{number}")
            self.processes.append(process)
            process.say(f"begins: {', '.join(f'{user.name} {user.kind}' for user in plan.users)}")
            process.begin()
            if not self._live(process):
                break
            self._tidy(process)
            self._settle()

    def _live(self, process: Process) -> bool:
        """Turn its loops until it is over. Returns whether it ever is."""
        turns = standing = 0
        while not process.over:
            if process.turn() or process.ring(idle=True):
                turns, standing = turns + 1, standing + 1
                if turns > MOST_TURNS:
                    return self._hangs(process, f"it runs in circles, {turns} turns")
                if standing > MOST_STANDING:  # turns take time, too
                    self.clock.now += 1 / 64
                continue
            at = min(
                process.next_at(), self._events[0][0] if self._events else NEVER, self.service.next_event_at()
            )
            if at == NEVER:
                return self._hangs(process, "nothing can happen any more")
            if at > HORIZON:
                return self._hangs(process, f"it goes on after {HORIZON:.0f} s")
            standing = 0 if at > self.now else standing
            self.clock.now = max(self.now, at)
            for life in process.lives:
                life.loop.reach()
            if self.service.next_event_at() <= self.now:
                self.service.deliver()
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
        return True

    def _settle(self) -> None:
        """Let come what is still on its way to the service, before another process begins."""
        end = self.now + GAP
        while self._events and self._events[0][0] <= end:
            when, _, action = heapq.heappop(self._events)
            self.clock.now = max(self.now, when)
            action()
        self.clock.now = end

    def _hangs(self, process: Process, how: str) -> bool:
        waiting = [task.get_coro() for life in process.lives for task in asyncio.all_tasks(life.loop)]
        names = sorted({getattr(each, "__qualname__", "?") for each in waiting})
        self.record.violate("ends", process.name, f"{how}; tasks: {', '.join(names)[:300]}")
        process.dead = True
        self.record.crashed[process.name] = self.now
        return False

    def _tidy(self, process: Process) -> None:
        """Take note of what an ended process leaves behind."""
        if process.dead:
            return
        for work in tuple(process.works):
            work()
        client = process.client
        if client is not None:
            kept = {task.task_id for task in client.unfinished}
            for each in client.unreported:
                kept |= {*makers_of(each.result)}
                self.record.unreported.add(number_of(each))
                self.record.kept_files |= {file.file for file in each.result.artifacts if file.file}
            doubts = list(client.uncertain)
            for visit in self.record.visits:
                if visit.process == process.name and visit.handle is not None:
                    visit.unfinished = frozenset(task.task_id for task in visit.handle.unfinished)
                    kept |= visit.unfinished
                    doubts += [
                        each for each in visit.handle.uncertain if all(each is not one for one in doubts)
                    ]
            self.record.kept[process.name] = kept
            self.record.doubts[process.name] = len(doubts)
            self.record.texts += map(repr, doubts)

    # --- What processes are given ---------------------------------------------------------------------------

    def new_loop(self) -> WorldLoop:
        """Make an event loop."""
        loop = WorldLoop(self.clock)
        loop.slept = self._slept
        loop.execute = self.execute
        loop.connector = self.network.connect
        loop.set_exception_handler(self._unhandled)
        self._loops.append(loop)
        return loop

    def _unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None or isinstance(error, SystemExit):
            return
        name = self.process.name if self.process else "?"
        self.record.violate("no stray errors", name, f"{context.get('message')}: {shown(error)}")

    def execute(self, loop: WorldLoop, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Do what a thread would do, in a turn of its own; what comes of it is known in a later one."""
        future: asyncio.Future[Any] = loop.create_future()
        process = self.process
        assert process is not None
        self._works += 1
        until, after = (pick(_DELAYS, self.plan.seed, "work", self._works, part) for part in (0, 1))

        def do() -> None:
            process.works.remove(do)
            if not process.dead:
                tell = self._do(process, future, work)
                if not loop.is_closed():
                    loop.call_later(after, tell)

        process.works.append(do)
        loop.call_later(until, lambda: do() if do in process.works else None)
        return future

    def _do(
        self, process: Process, future: "asyncio.Future[Any]", work: Callable[[], Any]
    ) -> Callable[[], None]:
        before, loop = self.process, asyncio._get_running_loop()
        self.process = process
        asyncio._set_running_loop(None)  # as in a thread
        try:
            result, error = work(), None
        except BaseException as raised:  # noqa: BLE001 - given to whoever waits
            result, error = None, raised
        finally:
            asyncio._set_running_loop(loop)
            self.process = before

        def tell() -> None:
            if future.done() or process.dead:
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        return tell

    def begin_thread(self, loop: WorldLoop) -> None:
        """A worker thread begins."""
        assert self.process is not None
        self.process.begin_thread(loop)

    def signal_handler(self, number: int) -> Any:
        """Find what the present process does on a signal."""
        if self.process is None or number != TERMINATE:
            return signal.SIG_DFL
        taken = any(TERMINATE in life.loop.signals for life in self.process.lives)
        return self if taken else signal.SIG_DFL

    async def start_connection(self, *_: Any, **__: Any) -> Any:
        """Give what stands for a socket."""
        return await self.network.start_connection()

    def take_event(self, token: str, body: bytes) -> None:
        """A webhook event arrives at whichever process lives."""
        process = self.processes[-1]
        if process.over or process.client is None:
            return
        loop = process.lives[0].loop
        if loop.is_closed():
            return
        process.say(f"webhook event {self.service.number_of(task_id_in(body))}")
        with self.running(process, loop):
            process.client.webhook_waker()(body, token)
        loop.wake()

    def new_client(self, process: Process) -> NovitaClient:
        """Make the client of a process."""
        plan, options = self.plan.client, dict[str, Any]()
        accounts = [
            Account(api_key=key_of(n), label=f"a{n}", images_per_minute=plan.images_per_minute)
            for n in range(plan.accounts)
        ]
        if self.plan.entrance == "transport":
            wire = WorldTransport(process)
            options |= {"transport": wire, "downloader": wire}
        else:
            options |= self.network.options(process)
        if plan.budget is not None:
            options["budget"] = Budget(limit=plan.budget, price=1)
        if plan.webhooks:
            options["webhook_url"] = "http://me.example/novita"
            options["recovery_timeout"] = 60.0
        if plan.learned and process.plan.together not in _NOT_ENTERED:  # which reads that file
            options["learned"] = self.disk.home / "learned.json"
        client = NovitaClient(
            accounts=accounts,
            base_url=ORIGIN,
            polling=evolve(_POLLINGS[plan.polling](plan.polls_per_second), concurrency=plan.polls_at_once),
            retry=RetryPolicy(resubmit_uncertain=plan.resubmits),
            observers=[process.observe],
            drain=plan.drain,
            **options,
        )
        seams.steady(client, self.plan.seed)
        return client

    def _jump_by(self, seconds: float) -> None:
        self.record.say(self.now, "world", f"the wall clock jumps by {seconds:.0f} s")
        self.record.reached["trouble: wall clock jumps"] += 1
        self._jump += seconds

    def _sleep_for(self, seconds: float) -> None:
        self.record.say(self.now, "world", f"the laptop sleeps for {seconds:.0f} s")
        self.record.reached["trouble: laptop sleeps"] += 1
        self._slept += seconds
        for loop in self._loops:
            loop.slept += seconds
        self.clock.now += seconds

    # --- The end --------------------------------------------------------------------------------------------

    def report(self) -> Report:
        """Say what has come of it."""
        broken = dict.fromkeys(self.record.broken)
        return Report(
            plan=self.plan,
            violations=tuple(Violation(invariant=name, about=about, how=how) for name, about, how in broken),
            trace=self.record.trace().replace(str(self.root), "<folder>"),
            reached=dict(self.record.reached),
            seconds=self.now,
            weights=self.record.weights,
        )

    def dispose(self) -> bool:
        """Drop what crashed processes have left. Returns whether more may be left, in cycles."""
        for process in self.processes:
            for life in process.lives:
                self._drop(life.loop)
                life.drop()
            process.lives.clear()
        for loop in self._loops:
            if not loop.is_closed():
                self._drop(loop)
        broken_off = bool(self.record.crashed) or any(
            process.status is not None for process in self.processes
        )
        return broken_off or self.plan.entrance == "bytes"

    def _drop(self, loop: WorldLoop) -> None:
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # as asyncio itself does
            coroutine: Any = task.get_coro()
            with contextlib.suppress(BaseException):
                coroutine.close()
            seams.forget(task)
        loop._ready.clear()
        loop._scheduled.clear()
        loop.close()


_NOT_ENTERED: Final = frozenset({"left", "loops", "threads"})
"""Ways to live in which no block holds the client."""
_POLLINGS: Final[dict[str, Callable[[float], Polling]]] = {
    "learned": lambda most: Polling(polls_per_second=most),
    "fixed": lambda most: Polling.fixed(0.25, polls_per_second=most),
    "exponential": lambda most: Polling.exponential(polls_per_second=most),
}


def run(plan: Plan, *, folder: Path | None = None) -> Report:
    """Run a world to its end, and check what must always hold."""
    root = Path(tempfile.mkdtemp(prefix="world-", dir=folder or _memory()))
    collecting = gc.isenabled()
    gc.disable()
    try:
        report, has_left = _run(plan, root)
        if has_left:  # now, and not in whatever comes after this world
            with _quiet():
                gc.collect()
        return report
    finally:
        shutil.rmtree(root, ignore_errors=True)
        if collecting:
            gc.enable()


def _run(plan: Plan, root: Path) -> tuple[Report, bool]:
    world = World(plan, root)
    try:
        with seams.installed(world):
            world.run()
            checks.read_journals(world)
        checks.check(world)
        report = world.report()
    finally:
        with _quiet():
            has_left = world.dispose()
    return report, has_left


def _pass_over(_: object) -> None:
    """Say nothing."""


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Pass over what processes that were broken off say at their destruction."""
    hook, sys.unraisablehook = sys.unraisablehook, _pass_over
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.unraisablehook = hook


def _memory() -> Path | None:
    """A folder in memory, where there is one."""
    shm = Path("/dev/shm")  # noqa: S108
    return shm if shm.is_dir() else None
