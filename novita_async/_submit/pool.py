"""Accounts, their quotas and their health: which account sends next, and when.

Submissions to one endpoint stand in one line (`interactive` ones before the others) and only its head asks
the accounts, so a request of eight images is not overtaken by eight of one. The account that can send soonest
sends next. Everything is decided in plain functions; `acquire` only waits for what they say.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from copy import copy
from typing import Final

import anyio
from attrs import define, field, frozen

from novita_async._policy.pacing import AccountPacer, PacerStatistics, Slot
from novita_async._util.clock import loop_time
from novita_async.errors import ConfigurationError, NovitaError
from novita_async.events import Paced
from novita_async.models.accounts import Account, ApiKey

AHEAD: Final = 0.002
"""Seconds before its turn at which a poll may be chosen: timers are no finer."""
REVIVAL: Final = 60.0
"""Seconds after which an account that was taken out is tried again with one request, because balances are
topped up and keys mended."""


@define(eq=False)
class _Member:
    """One account, and how it is doing."""

    account: Account
    pacer: AccountPacer
    next_poll_at: float = 0.0
    polls_pause_until: float = 0.0
    error: NovitaError | None = None
    """Why it was taken out. It stays until the account is served again."""
    out_until: float = 0.0
    on_trial: bool = False
    """Whether one request is finding out if the account is well again."""

    def is_out(self, now: float) -> bool:
        return self.error is not None and now < self.out_until


@define(eq=False)
class _Waiter:
    """One submission in line."""

    images: int
    interactive: bool
    event: anyio.Event | None = None
    """There while it sleeps."""

    async def sleep(self, delay: float) -> None:
        """Sleep until woken, or for so many seconds."""
        self.event = anyio.Event()
        with anyio.move_on_after(delay):
            await self.event.wait()
        self.event = None

    def wake(self) -> None:
        if self.event is not None:
            self.event.set()


@define(eq=False)
class _Line:
    """Who waits to submit to one endpoint."""

    _interactive: deque[_Waiter] = field(factory=deque)
    _batch: deque[_Waiter] = field(factory=deque)

    def __len__(self) -> int:
        return len(self._interactive) + len(self._batch)

    def _of(self, waiter: _Waiter) -> deque[_Waiter]:
        return self._interactive if waiter.interactive else self._batch

    def join(self, waiter: _Waiter, *, first: bool) -> None:
        """Stand at the end, or, where it had its turn before, at the beginning."""
        (self._of(waiter).appendleft if first else self._of(waiter).append)(waiter)

    def leave(self, waiter: _Waiter) -> None:
        self._of(waiter).remove(waiter)
        self.wake_head()

    def head(self) -> _Waiter | None:
        return next(iter(self._interactive or self._batch), None)

    def wake_head(self) -> None:
        head = self.head()
        if head is not None:
            head.wake()

    def wake_all(self) -> None:
        for waiter in (*self._interactive, *self._batch):
            waiter.wake()


@define(eq=False)
class Lease:
    """The right to send one submission now. Must be settled exactly once."""

    account: Account
    """Who pays."""
    endpoint: str
    """Where it goes."""
    slot: Slot
    """Its place in the account's window."""
    settled: bool = False
    """Whether its fate has been told to the pool."""


@frozen(kw_only=True)
class AccountStatistics:
    """How one account is doing."""

    label: str
    """Name of the account."""
    error: NovitaError | None
    """Why it cannot send. None: it can."""
    pacing: PacerStatistics
    """Its quota, as given or learned, and its gate."""


@frozen(kw_only=True)
class PoolStatistics:
    """How the pool is doing."""

    waiting: int
    """Submissions in line."""
    sending: int
    """Submissions under way."""
    accounts: tuple[AccountStatistics, ...]
    """Each account."""
    retired: tuple[str, ...]
    """Endpoints that the service said it does not have."""


@define(eq=False, repr=False)
class SessionPool:
    """The accounts of one client."""

    _members: dict[str, _Member]
    _polls_per_second: float
    _lines: dict[str, _Line] = field(factory=dict)
    _retired: dict[str, tuple[NovitaError, float]] = field(factory=dict)
    _sending: int = 0

    @classmethod
    def of(cls, accounts: Iterable[Account], polls_per_second: float) -> "SessionPool":
        """Make a pool of accounts, each of which must have a label and a key of its own."""
        members: dict[str, _Member] = {}
        keys: set[ApiKey] = set()
        for account in accounts:
            if account.label in members:
                raise ConfigurationError(
                    problem=f"two accounts are called {account.label!r}", advice="give each key once"
                )
            if account.api_key in keys:  # it would be taken for two quotas, and has one
                raise ConfigurationError(
                    problem=f"the key of {account.label!r} was given before", advice="give each key once"
                )
            keys.add(account.api_key)
            members[account.label] = _Member(
                account, AccountPacer(images_per_minute=account.images_per_minute)
            )
        if not members:
            raise ConfigurationError(problem="no account", advice="pass api_key= or accounts=[…]")
        return cls(members, polls_per_second)

    def __repr__(self) -> str:
        out = sum(member.error is not None for member in self._members.values())
        waiting = sum(map(len, self._lines.values()))
        accounts = f"{len(self._members)} accounts, {out} out"
        return f"<SessionPool {accounts}, {waiting} waiting, {self._sending} sending>"

    def statistics(self) -> PoolStatistics:
        """How the pool is doing now."""
        return PoolStatistics(
            waiting=sum(map(len, self._lines.values())),
            sending=self._sending,
            accounts=tuple(
                AccountStatistics(label=label, error=member.error, pacing=member.pacer.statistics())
                for label, member in self._members.items()
            ),
            retired=tuple(self._retired),
        )

    # --- Who may send ---------------------------------------------------------------------------------------

    async def acquire(
        self,
        endpoint: str,
        images: int,
        *,
        interactive: bool = False,
        again: bool = False,
        on_wait: Callable[[Paced], object] = lambda _: None,
    ) -> Lease:
        """Wait for a place in some account's window.

        Args:
            endpoint: Path of the submission.
            images: How many of the quota it takes.
            interactive: Stand before those that are not.
            again: Stand first: it had its turn and was sent back.
            on_wait: Told about a wait that has to do with the quota.

        Raises:
            NovitaError: why nothing can be sent any more.
        """
        line = self._lines.get(endpoint)
        if line is None:
            line = self._lines[endpoint] = _Line()
        granted = None if line else self._grant(endpoint, images, loop_time())
        if isinstance(granted, Lease):
            return granted
        waiter = _Waiter(images, interactive)
        line.join(waiter, first=again)
        try:
            while True:
                granted = self._grant_in_line(endpoint, line, waiter)
                if isinstance(granted, Lease):
                    return granted
                if granted is not None and granted.delay < math.inf:
                    on_wait(granted)
                await waiter.sleep(granted.delay if granted else math.inf)
        finally:
            line.leave(waiter)

    def _grant_in_line(self, endpoint: str, line: _Line, waiter: _Waiter) -> Lease | Paced | None:
        """Let a waiter send, or say for what it waits. None: for its turn in line."""
        now = loop_time()
        if line.head() is not waiter:
            self._check_doom(endpoint, now)
            return None
        return self._grant(endpoint, waiter.images, now)

    def _grant(self, endpoint: str, images: int, now: float) -> Lease | Paced:
        """Let whoever is first send, or say how long it waits for the quota."""
        self._check_doom(endpoint, now)
        member = self._soonest(endpoint, images, now)
        slot = math.inf if member.on_trial else member.pacer.take(endpoint, images, now)
        if not isinstance(slot, Slot):
            return Paced(account=member.account.label, endpoint=endpoint, delay=slot - now)
        self._sending += 1
        member.on_trial = member.error is not None
        return Lease(member.account, endpoint, slot)

    def _check_doom(self, endpoint: str, now: float) -> None:
        doom = self.doom(endpoint, now)
        if doom is not None:
            raise copy(doom)  # each request raises its own: tracebacks and notes are not shared

    def _soonest(self, endpoint: str, images: int, now: float) -> _Member:
        """The account that can send first."""
        able = [member for member in self._members.values() if not member.is_out(now)]
        if len(able) == 1:
            return able[0]
        return min(
            able, key=lambda one: math.inf if one.on_trial else one.pacer.start_at(endpoint, images, now)
        )

    def restore(self, label: str, endpoint: str, slots: Iterable[tuple[float, float | None, int]]) -> None:
        """Hold what an earlier run sent: announced at, answered at or None, images; on the loop's clock."""
        self._members[label].pacer.restore(endpoint, slots, loop_time())

    # --- What became of it ----------------------------------------------------------------------------------

    def answered(self, lease: Lease, now: float) -> None:
        """Keep its place for a window from now: it was seen, or nobody knows."""
        self._settle(lease).pacer.answered(lease.slot, now)

    def released(self, lease: Lease) -> None:
        """The server has not seen it: its place is free again."""
        self._settle(lease).pacer.released(lease.slot)

    def broken(self, lease: Lease, now: float, jitter: float, *, seen: bool) -> None:
        """No answer that can be used: the account's one gate closes, as for a 429."""
        self._settle(lease).pacer.broken(lease.slot, now, jitter, seen=seen)

    def rejected(self, lease: Lease, retry_after: float | None, jitter: float) -> None:
        """The server said 429: the account's one gate closes."""
        self._settle(lease).pacer.rejected(lease.slot, loop_time(), retry_after, jitter)

    def _settle(self, lease: Lease) -> _Member:
        lease.settled = True
        self._sending -= 1
        self._wake_heads()
        member = self._members[lease.account.label]
        member.on_trial = False
        return member

    # --- Health ---------------------------------------------------------------------------------------------

    def disable(self, label: str, error: NovitaError) -> bool:
        """Take an account out. Returns whether that is news: a trial that fails is none."""
        member = self._members[label]
        news = member.error is None
        member.error, member.out_until = error, loop_time() + REVIVAL
        self._wake_all()
        return news

    def enable(self, lease: Lease) -> None:
        """The account has just been served: it is well, unless that was asked for before it was taken out."""
        member = self._members[lease.account.label]
        if lease.slot.announced_at >= member.out_until:
            member.error = None

    def retire(self, endpoint: str, error: NovitaError) -> None:
        """Stop sending to an endpoint that the service does not have."""
        self._retired[endpoint] = error, loop_time() + REVIVAL
        self._wake_all()

    def doom(self, endpoint: str, now: float) -> NovitaError | None:
        """Why nothing can be sent to this endpoint any more. None: something can."""
        retired = self._retired.get(endpoint) if self._retired else None
        if retired is not None and now < retired[1]:
            return retired[0]
        error = None
        for member in self._members.values():
            if not member.is_out(now):
                return None
            error = error or member.error
        return error

    # --- Reading --------------------------------------------------------------------------------------------

    def accounts(self, label: str | None) -> tuple[Account, ...]:
        """Whom to ask about a task: the account that paid, or, where that is not known, each."""
        if label is not None and label in self._members:
            return (self._members[label].account,)
        return tuple(member.account for member in self._members.values())

    def may_choose_poll_at(self, label: str | None, now: float) -> float:
        """When the next poll may be chosen of a task that this account paid for."""
        member = self._members.get(label) if label is not None else None
        asked = self._members.values() if member is None else (member,)
        return max(now, *(each.next_poll_at for each in asked)) - AHEAD

    def polls_free(self, label: str | None, now: float) -> int:
        """How many polls may be chosen now: what is chosen should not stand in line, but be sent."""
        since = now - self.may_choose_poll_at(label, now)
        return 1 + int(since * self._polls_per_second) if since >= 0 else 0

    async def poll_turn(self, account: Account) -> None:
        """Wait until this account may poll once more."""
        member = self._members[account.label]
        at = -math.inf
        while at < member.polls_pause_until:  # the server may ask for a pause while polls wait for their turn
            now = loop_time()
            at = max(now, member.next_poll_at)
            member.next_poll_at = at + 1 / self._polls_per_second
            if at > now:
                await anyio.sleep_until(at)

    def pause_polls(self, account: Account, seconds: float) -> None:
        """Let this account not poll for a while, because the server asked for it."""
        member = self._members[account.label]
        member.polls_pause_until = max(member.polls_pause_until, loop_time() + seconds)
        member.next_poll_at = max(member.next_poll_at, member.polls_pause_until)

    def _wake_heads(self) -> None:
        for line in self._lines.values():
            line.wake_head()

    def _wake_all(self) -> None:
        for line in self._lines.values():
            line.wake_all()
