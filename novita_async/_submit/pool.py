"""Accounts, their quotas and their health: which account sends next, and when.

Submissions to one endpoint stand in one line (`interactive` ones before the others) and only its head asks
the accounts, so a request of eight images is not overtaken by eight of one. The account that can send soonest
sends next: where the breaker of one is open, another whose breaker is closed. Everything is decided in plain
functions; `acquire` and `poll_turn` only wait for what they say.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from copy import copy
from typing import Final

import anyio
from attrs import define, evolve, field

from novita_async._policy.breaker import CLOSED, OPEN, Breaker, Trip
from novita_async._policy.pacing import AccountPacer, PacerStatistics, Slot
from novita_async._policy.sharing import Offers
from novita_async._purchase.journal import Deferred
from novita_async._purchase.machine import LOST, REJECTED, UNREACHED, UNSEEN, Settlement
from novita_async._util.clock import loop_time
from novita_async._util.values import frozen
from novita_async.errors import APIError, ConfigurationError, NoAnswer, NotSent, NovitaError
from novita_async.events import BreakerClosed, BreakerOpened, Paced
from novita_async.models.accounts import Account, ApiKey
from novita_async.models.hosts import Host

AHEAD: Final = 0.002
"""Seconds before its turn at which a poll may be chosen: timers are no finer."""
REVIVAL: Final = 60.0
"""Seconds after which an account that was taken out is tried again with one request, because balances are
topped up and keys mended."""


@define(eq=False, repr=False)
class _PoolMember:
    """An account, and its health."""

    account: Account
    host: Host
    pacer: AccountPacer
    offers: dict[str, Offers] = field(factory=dict[str, Offers])
    """Offers to windows that processes share, by endpoint."""
    next_poll_at: float = 0.0
    polls_pause_until: float = 0.0
    error: NovitaError | None = None
    """Why the account was taken out; kept until the account is served again."""
    out_until: float = 0.0
    silent_about: str | None = None
    """Task of the last poll that was answered by a gateway, or in part."""
    on_trial: bool = False
    """Whether one request is finding out if the account is well again."""

    @property
    def breaker(self) -> Breaker:
        return self.pacer.breaker

    def is_out(self, now: float) -> bool:
        return self.error is not None and now < self.out_until

    def offers_to(self, endpoint: str) -> Offers:
        return self.offers.setdefault(endpoint, Offers())

    def start_at(self, endpoint: str, images: int, now: float, *, shared: bool) -> float:
        """When a submission can be sent at the earliest."""
        if self.on_trial:
            return math.inf
        if shared:
            return max(self.breaker.start_at(images, now), self.offers_to(endpoint).start_at(now))
        return self.pacer.start_at(endpoint, images, now)

    def poll_at(self, now: float) -> float:
        """When the next poll may be chosen, or when to ask again."""
        return max(now, self.next_poll_at, self.breaker.poll_at(now))


Hosts = tuple[str, ...]
"""Names of the hosts that serve a route. Empty: any."""


@define(eq=False, repr=False)
class _Waiter:
    """A submission in line."""

    images: int
    interactive: bool
    joined_at: float
    max_outage: float
    """Seconds of one outage after which the submission gives up."""
    hosts: Hosts = ()
    """Hosts that serve the route."""
    turn: int = 0
    """Place among all that ever asked."""
    shared: bool = False
    """Whether a window that processes share decides, too."""
    event: anyio.Event = field(factory=anyio.Event)
    """Set to wake the submission."""

    def outage(self, breaker: Breaker, now: float) -> float:
        """Seconds of an account's outage that the submission has waited for."""
        return now - max(self.joined_at, breaker.opened_at) if breaker.in_outage() else 0.0

    async def sleep(self, delay: float) -> None:
        """Sleep until woken, or for so many seconds."""
        with anyio.move_on_after(delay):
            await self.event.wait()
        self.event = anyio.Event()

    def wake(self) -> None:
        self.event.set()


@define(eq=False, repr=False)
class _Line:
    """Submissions that wait for an endpoint."""

    _interactive: deque[_Waiter] = field(factory=deque)
    _batch: deque[_Waiter] = field(factory=deque)

    def __len__(self) -> int:
        return len(self._interactive) + len(self._batch)

    def _of(self, waiter: _Waiter) -> deque[_Waiter]:
        return self._interactive if waiter.interactive else self._batch

    def join(self, waiter: _Waiter) -> None:
        """Stand at the end, or, where it had its turn before, before those that came later."""
        line = self._of(waiter)
        if not line or line[-1].turn < waiter.turn:
            line.append(waiter)
        else:
            line.insert(next(n for n, other in enumerate(line) if other.turn > waiter.turn), waiter)

    def leave(self, waiter: _Waiter) -> None:
        self._of(waiter).remove(waiter)
        self.wake_head()

    def head(self) -> _Waiter | None:
        return next(iter(self._interactive or self._batch), None)

    def wake_head(self) -> None:
        head = self.head()
        if head is not None:
            head.wake()

    def wake_impatient(self) -> None:
        for waiter in (*self._interactive, *self._batch):
            if waiter.max_outage < math.inf:
                waiter.wake()

    def wake_all(self) -> None:
        for waiter in (*self._interactive, *self._batch):
            waiter.wake()


@define(eq=False, repr=False)
class Grant:
    """The right to send one submission now. Must be settled exactly once."""

    account: Account
    """The account that pays."""
    endpoint: str
    """Path of the submission."""
    slot: Slot
    """Place in the account's window, since `slot.announced_at`."""
    host: str
    """Name of the account's host."""
    turn: int = 0
    """Place among all that ever asked, for asking again."""
    offers: Offers | None = None
    """Where it is on offer to a window that processes share. None: there is none, or it has answered."""
    outage: float = 0.0
    """Seconds of an outage that were waited out for it, where it is the probe."""


@frozen(kw_only=True)
class AccountStatistics:
    """Counts of an account.

    Args:
        label: Name of the account.
        error: Why it cannot send. None: able to send.
        pacing: Its quota, as given or learned, and its circuit breaker.
    """

    label: str
    """Name of the account."""
    error: NovitaError | None
    """Why it cannot send. None: able to send."""
    pacing: PacerStatistics
    """Its quota, as given or learned, and its circuit breaker."""


@frozen(kw_only=True)
class PoolStatistics:
    """Counts of the pool.

    Args:
        waiting: Submissions in line.
        sending: Submissions under way.
        accounts: Each account.
        retired: Endpoints that the service said it does not have.
    """

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

    _members: dict[str, _PoolMember]
    _polls_per_second: float
    _lines: dict[str, _Line] = field(factory=dict)
    _retired: dict[tuple[str, str], tuple[NovitaError, float]] = field(factory=dict)
    """Endpoints, by host, that the service said it does not have."""
    _by_hosts: dict[Hosts, list[_PoolMember]] = field(factory=dict)
    """Accounts whose host serves a route; empty where none does."""
    _sending: int = 0
    _turns: int = 0
    """How many have asked."""
    _processes: int = 1
    """Processes that poll with these accounts."""
    pausing: set[object] = field(factory=set)
    """Efforts to buy that wait for their next attempt."""

    @classmethod
    def of(
        cls, accounts: Iterable[Account], polls_per_second: float, home: Host = Host.NOVITA
    ) -> "SessionPool":
        """Make a pool of accounts, each of which must have a label and a key of its own.

        Accounts that name no host belong to `home`.
        """
        members: dict[str, _PoolMember] = {}
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
            pacer = AccountPacer(images_per_minute=account.images_per_minute)
            members[account.label] = _PoolMember(account, account.host or home, pacer)
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
            retired=tuple(dict.fromkeys(endpoint for endpoint, _ in self._retired)),
        )

    @property
    def quotas(self) -> dict[str, int | None]:
        """Images a minute that each account was given, by its label."""
        return {label: member.account.images_per_minute for label, member in self._members.items()}

    def is_busy(self) -> bool:
        """Whether submissions are under way, or wait."""
        return self._sending > 0 or bool(self.pausing) or any(map(len, self._lines.values()))

    def leave_loop(self) -> None:
        """Forget who waited in a loop that was left: windows and breakers are the account's, and stay.

        Where a loop was closed under submissions that were under way, all that a window holds counts as sent
        now.
        """
        if self.is_busy():
            self._lines.clear()
            self.pausing.clear()
            self._sending = 0
            for member in self._members.values():
                member.on_trial = False
                member.offers.clear()
                member.pacer.cut_off(loop_time())

    # --- Who may send ---------------------------------------------------------------------------------------

    def grant_at_once(
        self, endpoint: str, images: int, hosts: Hosts = (), *, shared: bool = False
    ) -> Grant | None:
        """Let a submission send at once. None: others stand in line, or there is no place; `acquire` one.

        Raises:
            NovitaError: why nothing can be sent any more.
        """
        if self._lines.get(endpoint):
            return None
        granted = self._grant(endpoint, images, hosts, loop_time(), shared=shared)
        if not isinstance(granted, Grant):
            return None
        granted.turn = self._turns = self._turns + 1
        return granted

    async def acquire(
        self,
        endpoint: str,
        images: int,
        hosts: Hosts = (),
        *,
        interactive: bool = False,
        turn: int | None = None,
        shared: bool = False,
        max_outage: float = math.inf,
        on_wait: Callable[[Paced], object] = lambda _: None,
        ask: Callable[[Account], Awaitable[None]] | None = None,
    ) -> Grant:
        """Wait for a place in some account's window.

        Args:
            endpoint: Path of the submission.
            images: How many of the quota it takes.
            hosts: Hosts that serve the route. Empty: any.
            interactive: Stand before those that are not.
            turn: The turn of a submission that was sent back: those that came later stand behind it.
            shared: Whether a window that processes share decides, too: here only the breaker is asked.
            max_outage: Seconds of waiting after which an outage of all accounts is not waited for any longer.
            on_wait: Called with each wait for the quota or for the breaker.
            ask: Asks an account something that costs nothing, to see whether its outage is over.

        Raises:
            NotSent: the outage has lasted for `max_outage`.
            NovitaError: why nothing can be sent any more.
        """
        at_once = self.grant_at_once(endpoint, images, hosts, shared=shared)
        if at_once is not None:
            return at_once
        line = self._lines.setdefault(endpoint, _Line())
        if turn is None:
            turn = self._turns = self._turns + 1
        waiter = _Waiter(images, interactive, loop_time(), max_outage, hosts, turn, shared)
        line.join(waiter)
        try:
            while True:
                now = loop_time()
                granted = self._grant_in_line(endpoint, line, waiter, now)
                if isinstance(granted, Grant):
                    breaker = self._members[granted.account.label].breaker
                    return evolve(granted, outage=waiter.outage(breaker, now), turn=turn)
                timeout = self._outage_left(waiter, now)
                if ask is not None and granted is not None:
                    member = self._members[granted.account]
                    question_at = member.breaker.question_at(now)
                    if question_at <= now:
                        await ask(member.account)
                        continue
                    timeout = min(timeout, question_at - now)
                if granted is not None and granted.delay < math.inf:
                    on_wait(self._as_likely(granted, now) if shared else granted)
                await waiter.sleep(min(granted.delay, timeout) if granted else timeout)
        finally:
            line.leave(waiter)

    def _as_likely(self, paced: Paced, now: float) -> Paced:
        """Tell when a shared window will have a place, where that is later than when it is asked again."""
        likely = self._members[paced.account].offers_to(paced.endpoint).likely
        return evolve(paced, delay=max(paced.delay, likely - now))

    def _outage_left(self, waiter: _Waiter, now: float) -> float:
        """Seconds for which a waiter goes on waiting for an outage of all accounts. Raises `NotSent`."""
        if waiter.max_outage == math.inf:
            return math.inf
        able = [member for member in self._serving(waiter.hosts) if not member.is_out(now)]
        if not all(member.breaker.in_outage() for member in able):
            return math.inf
        member = max(able, key=lambda each: each.breaker.opened_at)
        waited = waiter.outage(member.breaker, now)
        if waited < waiter.max_outage:
            return waiter.max_outage - waited
        cause = f"the service has been {member.breaker.cause} for {now - member.breaker.opened_at:.0f} s"
        raise NotSent(cause=cause, attempts=0, account=member.account.label)

    def _grant_in_line(self, endpoint: str, line: _Line, waiter: _Waiter, now: float) -> Grant | Paced | None:
        """Let a waiter send, or say for what it waits. None: for its turn in line."""
        if line.head() is not waiter:
            self._check_doom(endpoint, waiter.hosts, now)
            return None
        return self._grant(endpoint, waiter.images, waiter.hosts, now, shared=waiter.shared)

    def _grant(
        self, endpoint: str, images: int, hosts: Hosts, now: float, *, shared: bool = False
    ) -> Grant | Paced:
        """Let whoever is first send, or say how long it waits for the quota."""
        serving = self._by_hosts.get(hosts) or self._serving(hosts)
        able = [each for each in serving if each.error is None or not each.is_out(now)]
        if self._retired or not able:
            self._check_doom(endpoint, hosts, now)
            able = [member for member in able if self._gone(member, endpoint, now) is None]
        member = able[0]
        if len(able) > 1:
            member = min(able, key=lambda each: each.start_at(endpoint, images, now, shared=shared))
        offers = member.offers_to(endpoint) if shared else None
        at = now if offers is None else offers.start_at(now)
        slot: Slot | float = math.inf if member.on_trial else at
        if slot == now:
            slot = member.pacer.take(endpoint, images, now, elsewhere=shared)
        if not isinstance(slot, Slot):
            return Paced(account=member.account.label, endpoint=endpoint, delay=slot - now)
        if offers is not None:
            offers.offer()
        self._sending += 1
        member.on_trial = member.error is not None
        return Grant(member.account, endpoint, slot, member.host.name, offers=offers)

    def admitted(self, grant: Grant) -> None:
        """Take note that a window that processes share has a place."""
        offers, grant.offers = grant.offers, None
        if offers is not None:
            offers.admitted()
            self._wake_heads()

    def deferred(self, grant: Grant, told: Deferred) -> None:
        """Take note that a window that processes share has no place before a certain time.

        Settle the slot, too.
        """
        offers, grant.offers = grant.offers, None
        if offers is not None:
            offers.deferred(told.until, told.places, told.likely)

    def _serving(self, hosts: Hosts) -> list[_PoolMember]:
        """Accounts whose host serves a route; all where none does, for the table may be old."""
        return self._matching(hosts) or list(self._members.values())

    def _matching(self, hosts: Hosts) -> list[_PoolMember]:
        found = self._by_hosts.get(hosts)
        if found is None:
            found = [member for member in self._members.values() if member.host.serves(hosts)]
            self._by_hosts[hosts] = found
        return found

    def _gone(self, member: _PoolMember, endpoint: str, now: float) -> NovitaError | None:
        """Why an account's host does not serve an endpoint. None: it may."""
        retired = self._retired.get((endpoint, member.host.name)) if self._retired else None
        return retired[0] if retired is not None and now < retired[1] else None

    def _check_doom(self, endpoint: str, hosts: Hosts, now: float) -> None:
        doom = self.doom(endpoint, now, hosts)
        if doom is not None:
            raise copy(doom)  # each request raises its own: tracebacks and notes are not shared

    def restore(self, label: str, endpoint: str, slots: Iterable[tuple[float, float | None, int]]) -> None:
        """Count what an earlier run sent: announced at, answered at or None, images; on the loop's clock.

        An account that this client does not use has no window here.
        """
        if label in self._members:
            self._members[label].pacer.restore(endpoint, slots, loop_time())

    # --- What became of it ----------------------------------------------------------------------------------

    def settle(
        self,
        grant: Grant,
        settlement: Settlement,
        now: float,
        *,
        retry_after: float | None = None,
        jitter: float = 0.0,
    ) -> BreakerOpened | BreakerClosed | None:
        """Take what an attempt ended in: its slot and the account's breaker follow from that alone.

        Args:
            grant: The slot of the attempt.
            settlement: The meaning of its fact.
            now: The time.
            retry_after: Seconds that the server asked to wait, already capped; None where it did not say.
            jitter: A fresh random number in [0, 1).

        Returns:
            The breaker's transition, to be emitted.
        """
        member = self._members[grant.account.label]
        pacer, slot = member.pacer, grant.slot
        breaker = pacer.breaker
        generation, was_closed = breaker.generation, breaker.state is CLOSED
        if settlement is LOST:
            pacer.lost(slot, now, retry_after, jitter)
        elif settlement is REJECTED:
            pacer.rejected(slot, now, retry_after, jitter)
        elif settlement is UNREACHED:
            pacer.unreached(slot, now, retry_after, jitter)
        elif settlement is UNSEEN:
            pacer.released(slot, now)
        else:
            pacer.answered(slot, now)
        self._sending -= 1
        if grant.offers is not None:
            grant.offers.withdrawn()
            grant.offers = None
        member.on_trial = False
        if self._lines:
            self._wake_heads()
        if breaker.generation != generation:
            return self._opened(member, grant.endpoint)
        if breaker.state is CLOSED and not was_closed:
            return BreakerClosed(account=member.account.label, after=now - breaker.opened_at)
        return None

    def _opened(self, member: _PoolMember, endpoint: str | None) -> BreakerOpened:
        """Let those in line who do not wait for ever count from now."""
        for line in self._lines.values():
            line.wake_impatient()
        breaker = member.breaker
        return BreakerOpened(
            account=member.account.label,
            endpoint=endpoint,
            cause=breaker.cause.value,
            after=breaker.pause,
            trips=breaker.trips,
        )

    # --- Health ---------------------------------------------------------------------------------------------

    def disable(self, label: str, error: NovitaError) -> bool:
        """Take an account out. Returns whether that is news: a trial that fails is none."""
        member = self._members[label]
        news = member.error is None
        member.error, member.out_until = error, loop_time() + REVIVAL
        self._wake_all()
        return news

    def heed(self, label: str, cause: str, delay: float) -> BreakerOpened | None:
        """Close an account because other processes were refused, or not answered, for so many more seconds.

        Returns:
            The breaker's transition, to be emitted; None where it is open already, or is no account of ours.
        """
        member, now = self._members.get(label), loop_time()
        if member is None or member.breaker.state is OPEN or delay <= 0:
            return None
        member.breaker.trip(member.breaker.generation, Trip(cause), now, delay)
        return self._opened(member, None)

    def has_account(self, label: str) -> bool:
        """Whether an account of this label is used here."""
        return label in self._members

    def share_polls(self, processes: int) -> None:
        """Leave other processes their part of the polls that an account may have."""
        self._processes = max(1, processes)

    @property
    def polls_per_second(self) -> float:
        """Polls a second that an account may have from this process."""
        return self._polls_per_second / self._processes

    def enable(self, grant: Grant) -> None:
        """Bring back an account that was served, unless with what was sent before it was taken out."""
        member = self._members[grant.account.label]
        if grant.slot.announced_at >= member.out_until:
            member.error = None

    def retire(self, grant: Grant, error: NovitaError) -> None:
        """Stop sending to an endpoint that the service of an account's host does not have."""
        self._retired[grant.endpoint, grant.host] = error, loop_time() + REVIVAL
        self._wake_all()

    def doom(self, endpoint: str, now: float, hosts: Hosts = ()) -> NovitaError | None:
        """Why nothing can be sent to this endpoint any more. None: something can."""
        gone = out = None
        for member in self._serving(hosts):
            retired = self._gone(member, endpoint, now)
            if retired is None and not member.is_out(now):
                return None
            gone, out = gone or retired, out or member.error
        return gone or out

    # --- Reading --------------------------------------------------------------------------------------------

    def serves(self, hosts: Hosts) -> bool:
        """Whether an account belongs to a host that serves a route."""
        return bool(self._matching(hosts))

    def has_host(self, name: str | None) -> bool:
        """Whether an account belongs to this host."""
        return any(member.host.may_be(name) for member in self._members.values())

    def host_of(self, account: Account) -> str:
        """Name of the host of an account."""
        return self._members[account.label].host.name

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The hosts of all accounts, in their order, each once."""
        return tuple(dict.fromkeys(member.host for member in self._members.values()))

    def accounts(self, label: str | None, host: str | None = None) -> tuple[Account, ...]:
        """Accounts that can be asked about a task: the one that paid, or, where that is not known, each.

        Only accounts of the task's own host can, where that is known. Empty: there is none.
        """
        member = None if label is None else self._members.get(label)
        if member is not None and member.host.may_be(host):
            return (member.account,)
        return tuple(each.account for each in self._members.values() if each.host.may_be(host))

    def may_choose_poll_at(self, label: str | None, now: float) -> float:
        """When the next poll may be chosen of a task that this account paid for, or when to ask again."""
        return max(member.poll_at(now) for member in self._asked(label)) - AHEAD

    def polls_free(self, label: str | None, now: float) -> int:
        """How many polls may be chosen now: what is chosen should not stand in line, but be sent."""
        since = now - self.may_choose_poll_at(label, now)
        return 1 + int(since * self.polls_per_second) if since >= 0 else 0

    async def poll_turn(self, account: Account) -> int:
        """Wait until this account may poll once more. Returns the generation of its breaker."""
        member = self._members[account.label]
        while True:
            now = loop_time()
            open_at = member.breaker.poll_at(now)
            if open_at > now:
                await anyio.sleep_until(open_at)
                continue
            at = max(now, member.next_poll_at)
            member.next_poll_at = at + 1 / self.polls_per_second
            if at > now:
                await anyio.sleep_until(at)
                now = loop_time()
            # the server may ask for a pause, or be lost, while polls wait for their turn
            if at >= member.polls_pause_until and member.breaker.poll_at(now) <= now:
                return member.breaker.poll(now)

    def question_begins(self, account: Account) -> int:
        """Let a question be the probe, now. Returns the generation of the account's breaker."""
        return self._members[account.label].breaker.poll(loop_time())

    def poll_ended(
        self, account: Account, task_id: str, generation: int, error: BaseException | None, jitter: float
    ) -> BreakerOpened | None:
        """Take how a poll ended: a poll may be an outage's probe, and a few without an answer are an outage.

        Args:
            account: The account that was asked.
            task_id: About what.
            generation: The value of `poll_turn`.
            error: The error of the poll; None where a task was seen.
            jitter: A fresh random number in [0, 1).

        Returns:
            The breaker's transition, to be emitted.
        """
        member, now = self._members[account.label], loop_time()
        breaker = member.breaker
        before = breaker.generation
        if error is None:
            breaker.poll_answered(generation, now)
        elif not isinstance(error, NovitaError) or (isinstance(error, NoAnswer) and not error.retryable):
            breaker.poll_withdrawn(generation, now)
        elif not _is_silence(error):
            breaker.poll_answered(generation, now)
        elif error.status is not None and member.silent_about == task_id and not breaker.in_outage():
            breaker.poll_withdrawn(generation, now)  # perhaps there is trouble with this task alone
        else:
            member.silent_about = None if error.status is None else task_id
            breaker.poll_unanswered(generation, now, jitter)
        if breaker.state is not CLOSED:
            self._wake_heads()
        return self._opened(member, None) if breaker.generation != before else None

    def doubts_count_from(self, label: str | None, now: float) -> float:
        """When failed polls begin to say something about their task: not before an outage is over."""
        return max(member.breaker.doubts_count_from(now) for member in self._asked(label))

    def _asked(self, label: str | None) -> Iterable[_PoolMember]:
        member = self._members.get(label) if label is not None else None
        return self._members.values() if member is None else (member,)

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


def _is_silence(error: NovitaError) -> bool:
    """Whether a poll was not answered by the service: by nobody, or by a gateway."""
    if isinstance(error, NoAnswer):
        return True
    return isinstance(error, APIError) and error.reason is None and (error.status or 0) >= 500  # noqa: PLR2004
