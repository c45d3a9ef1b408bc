"""The callbacks of purchases: who may wake whom, and which lost purchase an event belongs to.

Each purchase is sent with a callback URL of its own, which ends in a token that nobody can guess. So the
token of an event tells the purchase, even where the answer to the submission was lost and the task's id is
not known. Nothing else that an event says is believed: an event only makes the client poll.

| event                                       | what happens                                          |
|---------------------------------------------|-------------------------------------------------------|
| token of a task, its first                  | the task is polled                                    |
| token of a task, again                      | polled, as the token bucket permits                   |
| token of a submission under way             | kept; its task is polled once it is known             |
| token of a submission of unknown end        | the id in it is polled: perhaps it is the lost one    |
| no token, a task that was bought without    | polled, as the token bucket permits                   |
| anything else                               | nothing                                               |

A purchase is forgotten soon after its task has ended. A purchase of unknown end is kept, because its event
may still come.
"""

import asyncio
import math
import re
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from attrs import define, field

from novita_async._api import protocol
from novita_async._http import MIB
from novita_async._policy.hinting import DeliveryHealth, ExpectedEvents, TokenBucket
from novita_async._purchase.machine import Attempt, Purchase
from novita_async._util.values import frozen
from novita_async.errors import ConfigurationError
from novita_async.models._rules import is_web_address

RECOVERY_TIMEOUT: Final = 600.0
"""Seconds for which a stream waits for the event of a purchase whose answer was lost."""
MOST_CLAIMS: Final = 3
"""Task ids that are tried for one lost purchase."""
STRAGGLING: Final = 2.0
"""Seconds after the end of its task, or after that was found, in which an event is of use."""
MOST_PASSED_ON: Final = 50.0
"""Events about others' purchases that are passed on in a second: each is two questions to the database."""
MOST_KEPT: Final = 100_000
"""Purchases that are known by their token. The oldest is forgotten for a new one."""


@define(eq=False, repr=False)
class Callback:
    """An attempt that has a callback URL of its own."""

    token: str = field(repr=False)
    """Secret part of the URL."""
    purchase: Purchase = field(repr=False)
    """The purchase of the attempt."""
    attempt: Attempt
    """The attempt. Its task id is known once the answer is in, or an event has told it."""
    claims: list[str] = field(factory=list)
    """Ids that events named before the task was known, to be tried."""
    tries: int = 0
    """Claims tried so far."""
    is_recovering: bool = False
    """Whether a claim is being tried."""
    recovered: Callable[[], object] = lambda: None
    """Called once a lost attempt is found again."""
    heard_at: float | None = None
    """When its event came."""
    ran_for: float | None = None
    """Seconds from its submission to its end, by the service's own clock, where that is known."""
    judged: bool = False
    """Whether the delivery of its event was counted."""

    @property
    def task_id(self) -> str | None:
        """Id of the bought task, once that is known."""
        return self.attempt.task_id

    @property
    def took(self) -> float | None:
        """Seconds until its event came. None: never, or only when that was of no use any more."""
        if self.heard_at is None:
            return None
        took = self.heard_at - self.attempt.announced_at
        return took if self.ran_for is None or took <= self.ran_for + STRAGGLING else None


class Listener(Protocol):
    """A watcher of tasks."""

    def wake(self, task_id: str, now: float) -> bool:
        """Poll a task now. Returns whether it is waited for."""
        ...

    def check(self, task_id: str, now: float) -> bool:
        """Poll a task whose event is overdue. Returns whether it waits for that."""
        ...

    def reconsider(self) -> None:
        """Take note that events are relied on from now on, or no longer."""
        ...


@frozen(kw_only=True)
class WebhookStatistics:
    """Counts of webhooks.

    Args:
        expected: Purchases whose token is known: under way, not finished, just finished, or of unknown end.
        arrived: Events that came in time, of tasks that have ended.
        lost: Tasks that have ended without their event, or long before it.
        ignored: Events that nothing came of: unknown, forged, repeated too often, not understood.
        found: Purchases of unknown end that an event has found again.
        relied_on: Whether tasks are left to their events, with a few late polls as a safety net.
    """

    expected: int
    """Purchases whose token is known: under way, not finished, just finished, or of unknown end."""
    arrived: int
    """Events that came in time, of tasks that have ended."""
    lost: int
    """Tasks that have ended without their event, or long before it."""
    ignored: int
    """Events that nothing came of: unknown, forged, repeated too often, not understood."""
    found: int
    """Purchases of unknown end that an event has found again."""
    relied_on: bool
    """Whether tasks are left to their events, with a few late polls as a safety net."""


@define(eq=False, repr=False)
class Callbacks:
    """All callbacks of one client."""

    base: str | None = None
    """Where the user's receiver is. None: purchases have no callback."""
    recovery_timeout: float = RECOVERY_TIMEOUT
    """Seconds for which a stream waits for the event of a purchase whose answer was lost."""
    recover: Callable[[Callback], None] = lambda _: None
    """Starts to try the claims of a lost purchase."""
    elsewhere: Callable[[str, str], None] | None = None
    """Passes an event on, token and task id, whose purchase is another process's. None: there is none."""
    _bucket: TokenBucket = field(factory=TokenBucket, init=False)
    _passed_on: TokenBucket = field(factory=partial(TokenBucket, MOST_PASSED_ON, MOST_PASSED_ON), init=False)
    _health: DeliveryHealth = field(factory=DeliveryHealth, init=False)
    _expected: ExpectedEvents = field(factory=ExpectedEvents, init=False)
    _by_token: dict[str, Callback] = field(factory=dict, init=False)
    _by_task: dict[str, Callback] = field(factory=dict, init=False)
    _taken: dict[str, None] = field(factory=dict, init=False)
    """Tasks of known purchases, those that have ended lately included: none of them is a lost one."""
    _ended: deque[tuple[float, Callback]] = field(factory=deque, init=False)
    """Callbacks to be forgotten, and when."""
    _listeners: dict[Listener, None] = field(factory=dict, init=False)
    _home: asyncio.AbstractEventLoop | None = field(default=None, init=False)
    _ignored: int = field(default=0, init=False)
    _found: int = field(default=0, init=False)

    def __repr__(self) -> str:
        return (
            f"<Callbacks: {len(self._by_token)} expected, {self._ignored} events ignored, {self._health!r}>"
        )

    def statistics(self) -> WebhookStatistics:
        """Count."""
        return WebhookStatistics(
            expected=len(self._by_token),
            arrived=self._health.arrived,
            lost=self._health.lost,
            ignored=self._ignored,
            found=self._found,
            relied_on=self._health.relied_on,
        )

    @classmethod
    def to(cls, url: str | None, recovery_timeout: float) -> "Callbacks":
        """Make callbacks below a URL. Raises `ConfigurationError`."""
        if url is not None and (not is_web_address(url) or re.search(r"[?#\s]", url)):
            raise ConfigurationError(
                problem="webhook_url is not an absolute http or https URL without a query or a fragment",
                advice="give the URL of your receiver; a slash and a token are added to it",
            )
        if not recovery_timeout >= 0:
            raise ConfigurationError(problem=f"recovery_timeout: {recovery_timeout!r} is not 0 or above")
        return cls(url.rstrip("/") if url else None, recovery_timeout)

    # --- Purchases ------------------------------------------------------------------------------------------

    def url_of(self, token: str) -> str:
        """The callback URL of an attempt."""
        return f"{self.base}/{token}"

    def expect(self, token: str, purchase: Purchase, attempt: Attempt, now: float | None = None) -> Callback:
        """Expect the event of an attempt that is about to be sent, or whose answer was lost."""
        self._home = asyncio.get_running_loop()
        self._forget_ended(self._home.time() if now is None else now)
        while len(self._by_token) >= MOST_KEPT:
            self.forget(next(iter(self._by_token.values())))
        callback = self._by_token[token] = Callback(token, purchase, attempt)
        return callback

    def settle(self, callback: Callback, now: float) -> None:
        """Note how an attempt ended: its record says so."""
        if callback.task_id is not None:
            self._bought(callback, callback.task_id, now)
        elif not callback.attempt.perhaps:
            self.forget(callback)
        elif callback.claims:
            self.recover(callback)

    def _bought(self, callback: Callback, task_id: str, now: float) -> None:
        self._by_task[task_id] = callback
        self._taken[task_id] = None
        if len(self._taken) > MOST_KEPT:
            del self._taken[next(iter(self._taken))]
        self._expected.expect(task_id, now)
        if task_id in callback.claims:
            self._hear(callback, task_id, now)

    def found(self, callback: Callback, task_id: str, now: float) -> None:
        """Note that the service knows the task that an event named: this is what was bought."""
        self._found += 1
        callback.claims.append(task_id)
        self._bought(callback, task_id, now)

    def forget(self, callback: Callback) -> None:
        """Expect nothing more for a purchase."""
        self._by_token.pop(callback.token, None)
        if callback.task_id is not None:
            self._by_task.pop(callback.task_id, None)
            self._expected.forget(callback.task_id)

    # --- Events ---------------------------------------------------------------------------------------------

    def take_in(self, body: bytes, token: str | None) -> None:
        """Take in an event, in whichever thread it has come."""
        home = self._home
        if home is None:
            self._ignored += 1
        elif home is _running_loop():
            self._take_in(body, token)
        else:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                home.call_soon_threadsafe(self._take_in, body, token)

    def _take_in(self, body: bytes, token: str | None) -> None:
        now = asyncio.get_running_loop().time()
        self._forget_ended(now)
        heard = self._without_token(body, now) if token is None else self._with_token(body, token, now)
        self._ignored += not heard

    def _without_token(self, body: bytes, now: float) -> bool:
        if not self._bucket.has_token(now):
            return False
        task_id = _named_in(body)
        if task_id is None or task_id in self._by_task:
            return False
        return self._wake(task_id, now) and self._bucket.take(now)

    def pass_on(self, elsewhere: Callable[[str, str], None]) -> None:
        """Pass on events whose purchases are other processes'."""
        self._home, self.elsewhere = asyncio.get_running_loop(), elsewhere

    def take_over(self, token: str, task_id: str) -> None:
        """Take an event that another process was sent."""
        now = asyncio.get_running_loop().time()
        self._forget_ended(now)
        callback = self._by_token.get(token)
        if callback is not None:
            self._ignored += not self._heard_of(callback, task_id, now)

    def _with_token(self, body: bytes, token: str, now: float) -> bool:
        callback = self._by_token.get(token)
        task_id = _named_in(body) if callback or self.elsewhere else None
        if task_id is None:
            return False
        if callback is not None:
            return self._heard_of(callback, task_id, now)
        if self.elsewhere is None or not self._passed_on.take(now):
            return False
        self.elsewhere(token, task_id)
        return True

    def _heard_of(self, callback: Callback, task_id: str, now: float) -> bool:
        if callback.task_id is None:
            return self._claim(callback, task_id, now)
        if callback.task_id != task_id:
            return False
        if callback.heard_at is not None:
            return self._bucket.has_token(now) and self._wake(task_id, now) and self._bucket.take(now)
        self._wake(task_id, now)
        self._hear(callback, task_id, now)
        return True

    def _claim(self, callback: Callback, task_id: str, now: float) -> bool:
        """Take an id as that of a purchase whose task is not known."""
        asked = callback.tries + len(callback.claims)
        if task_id in callback.claims or task_id in self._taken or asked >= MOST_CLAIMS:
            return False
        if asked and not self._bucket.take(now):
            return False
        callback.claims.append(task_id)
        if callback.attempt.perhaps:
            self.recover(callback)
        return True

    def _hear(self, callback: Callback, task_id: str, now: float) -> None:
        callback.heard_at = now
        self._expected.arrived(task_id, now)
        for overtaken in self._expected.overtaken():
            self._check(overtaken, now)

    def _wake(self, task_id: str, now: float) -> bool:
        woken = [listener.wake(task_id, now) for listener in self._listeners]
        return any(woken)

    # --- Waiting --------------------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        """Wake this one from now on."""
        self._home = asyncio.get_running_loop()
        self._listeners[listener] = None

    def unlisten(self, listener: Listener) -> None:
        """Wake this one no longer."""
        self._listeners.pop(listener, None)

    @property
    def relied_on(self) -> bool:
        """Whether tasks are left to their events."""
        return self._health.relied_on

    def heard(self, task_id: str) -> bool:
        """Whether the event of a task has come."""
        callback = self._by_task.get(task_id)
        return callback is not None and callback.heard_at is not None

    def event_deadline(self, task_id: str) -> float | None:
        """How long a task is left to its event. None: not at all."""
        callback = self._by_task.get(task_id)
        if callback is None or callback.heard_at is not None or not self._health.relied_on:
            return None
        return callback.attempt.announced_at + self._health.timeout

    def ended(self, task_id: str, now: float, *, overdue: bool = False, ran_for: float | None = None) -> None:
        """Note that a task was found finished, or failed.

        Args:
            task_id: Which.
            now: The time now.
            overdue: Whether it was polled because its event was overdue.
            ran_for: Seconds from its submission to its end, where the service tells.
        """
        callback = self._by_task.pop(task_id, None)
        if callback is None:
            return
        callback.ran_for = ran_for
        self._expected.forget(task_id)
        self._ended.append((now + STRAGGLING, callback))
        if overdue:
            self._judge(callback)
            self._check_first(now)
        self._forget_ended(now)

    @property
    def silent_at(self) -> float:
        """When `check_silence` must be called, because no event has come for so long."""
        return self._expected.silent_at if self._health.relied_on else math.inf

    def check_silence(self, now: float) -> None:
        """Have a task polled where no event has come for too long."""
        if now >= self.silent_at:
            self._check_first(now)

    def _check_first(self, now: float) -> None:
        """Have the oldest task polled that waits for its event."""
        any(self._check(task_id, now) for task_id in self._expected.break_silence())

    def _check(self, task_id: str, now: float) -> bool:
        checked = [listener.check(task_id, now) for listener in self._listeners]
        return any(checked)

    def _forget_ended(self, now: float) -> None:
        while self._ended and self._ended[0][0] <= now:
            callback = self._ended.popleft()[1]
            self._judge(callback)
            self.forget(callback)

    def _judge(self, callback: Callback) -> None:
        """Learn whether events come, and tell everyone who waits where that makes a difference."""
        if callback.judged:
            return
        callback.judged = True
        before = self._health.relied_on
        if callback.took is None:
            self._health.count_loss()
        else:
            self._health.count_arrival(callback.took)
        if self._health.relied_on is not before:
            for listener in self._listeners:
                listener.reconsider()


def _named_in(body: bytes) -> str | None:
    """The task that an event is about. None: there is none."""
    return protocol.read_event(body) if len(body) <= MIB else None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
