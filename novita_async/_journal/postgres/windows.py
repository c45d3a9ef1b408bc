"""Windows of accounts that all processes share: their rows, and what may be offered to one now."""

import json
import logging
import math
import random
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import define, field

from novita_async._journal.postgres.address import typed
from novita_async._journal.postgres.member import Member
from novita_async._journal.postgres.texts import escaped, unescaped
from novita_async._journal.postgres.works import Connection
from novita_async._policy.sharing import SharedWindow
from novita_async._purchase.machine import LOST, REJECTED, SEEN, SPENT, Settlement
from novita_async._util.clock import loop_time
from novita_async.errors import ConfigurationError

_log: Final = logging.getLogger(__name__)
SAY_QUOTA: Final = "SELECT novita.quota_1($1, $2, $3)"
LINE: Final = 4.0
"""Seconds for which a place in line is kept for a process that does not ask again."""
_ANSWER: Final = 0.25
"""Seconds after which a window is asked again that waits for an answer of any process."""


@define(eq=False)
class WindowRow:
    """A shared window, as it was seen last."""

    id: int
    endpoint: str
    quota: int | None
    version: int
    state: str | None
    """State of the pacer, while the quota is not known."""

    def pacer(self) -> SharedWindow:
        """The pacer in that state."""
        return SharedWindow.read(self.endpoint, self.state)

    def keep(self, version: int, state: str | None) -> None:
        """Take note of another state."""
        self.version, self.state = version, state

    def follow(self, found: Mapping[str, Any]) -> bool:
        """Take over what was read. Returns whether that has changed: perhaps the quota is known now."""
        if (found["quota"], found["version"]) == (self.quota, self.version):
            return False
        self.quota = found["quota"]
        self.keep(found["version"], found["state"])
        return True


@define
class Offer:
    """Announcements that a window is offered."""

    slots: list[str | None]
    """Notes of the pacer, one for each announcement, where the quota is learned."""
    until: float
    """When to offer the others, on the loop's clock."""
    likely: float | None = None
    """When there will be places for them, as far as the pacer knows."""
    state: str | None = None
    """State of the pacer once these are announced."""
    taken: int = 0
    """Images that count then."""


@define(eq=False)
class Windows:
    """Windows that this process knows."""

    member: Member
    _known: dict[tuple[str, str], WindowRow] = field(factory=dict[tuple[str, str], WindowRow], init=False)
    _said: dict[str, tuple[int | None, int]] = field(factory=dict[str, tuple[int | None, int]], init=False)
    """Quotas that were said for all, by account, and how often."""

    def heed(self, quotas: str | None) -> None:
        """Take note of quotas that were said for all, whatever this process was told."""
        for kept, (quota, generation) in json.loads(quotas or "{}").items():
            label = unescaped(kept)
            if self._said.get(label) != (quota, generation):
                self._said[label] = quota, generation
                if quota is not None:
                    self._known = {key: each for key, each in self._known.items() if key[0] != label}
                    self._take(label, quota)

    def _take(self, label: str, quota: int) -> None:
        told = self.member.quotas.get(label)
        if told is not None and told != quota:
            self.member.quotas[label] = quota
            _log.warning(
                "journal %s: account %s has %d images a minute from now on, as was said for all, not %d",
                *(self.member.label, label, quota, told),
            )

    async def say_again(self, connection: Connection) -> None:
        """Tell such quotas to a database that may have forgotten them in a failover."""
        for label, (quota, generation) in self._said.items():
            await connection.execute(SAY_QUOTA, escaped(label), quota, generation)

    def forget(self) -> None:
        """Ask for windows anew: after a failover they may have other numbers."""
        self._known.clear()

    async def of(self, connection: Connection, account: str, endpoint: str) -> WindowRow:
        """Know a window."""
        known = self._known.get((account, endpoint))
        if known is None:
            found = await connection.fetchrow(
                "SELECT * FROM novita.window_1($1, $2, $3, $4)",
                self.member.me,
                escaped(account),
                escaped(endpoint),
                self.member.quotas.get(account),
            )
            if found["said"]:
                self._take(account, found["quota"])
            known = WindowRow(found["id"], endpoint, found["quota"], found["version"], found["state"])
            self._known[account, endpoint] = known
        return known

    async def to_buy(self, connection: Connection, account: str, endpoint: str) -> WindowRow:
        """Know a window, to buy. Raises `ConfigurationError`: others at work were told another quota."""
        window, quota = await self.of(connection, account, endpoint), self.member.quotas.get(account)
        if quota is not None and window.quota != quota:
            del self._known[account, endpoint]  # the next purchase asks again: others may have ended
            raise ConfigurationError(
                problem=f"account {account}: images_per_minute is {quota} here, and {window.quota} "
                "in a process that is at work",
                advice="nothing was bought; give all the same quota, or say it for all: "
                f"novita-async db quota {typed(self.member.label.partition('#')[0])} {quota} "
                f"--account {shlex.quote(account)}",
            )
        return window

    async def refresh(self, connection: Connection, window: WindowRow) -> bool:
        """Read a window again. Returns whether it has changed: perhaps its quota is known now."""
        found = await connection.fetchrow(
            'SELECT quota, version, state FROM novita."window" WHERE id = $1', window.id
        )
        return window.follow(found)

    async def offer(self, connection: Connection, window: WindowRow, images: Sequence[int]) -> Offer:
        """Choose what to offer to a window: all where its quota is known; else what its pacer lets go."""
        while window.quota is None:
            offer = offered(window.pacer(), images, self.member.now())
            if offer.slots or not await self.refresh(connection, window):
                return offer
        return Offer([None] * len(images), loop_time())


def offered(pacer: SharedWindow, images: Sequence[int], now: float) -> Offer:
    """Let a window's pacer choose how many announcements may be offered, from the first on."""
    slots, at = list[str | None](), now
    for count in images:
        slot = pacer.take(count, now)
        if not isinstance(slot, str):
            at = slot
            break
        slots.append(slot)
    known, here = at < math.inf, loop_time()
    delay = min(at - now, LINE / 2) if known else _ANSWER
    likely = here + at - now if known else None
    return Offer(slots, here + delay, likely, pacer.text(), pacer.window.taken)


def taught(
    pacer: SharedWindow, settled: Settlement | None, slot: str | None, images: int, now: float
) -> float:
    """Let a window learn from a verdict. Returns seconds for which nobody should announce."""
    if settled in (SPENT, SEEN):
        pacer.answered(slot, images, now)
    elif settled is LOST:
        pacer.lost(slot, images, now)
    elif settled is REJECTED:
        return pacer.rejected(slot, images, now, random.random())
    else:
        pacer.released(slot, images)
    return 0.0
