"""Places in windows for purchases that no journal keeps."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from attrs import define, field

from novita_async._journal.groups import own_copy
from novita_async._journal.postgres.admitting import ADMIT
from novita_async._journal.postgres.connection import Link
from novita_async._journal.postgres.fenced_rows import marks
from novita_async._journal.postgres.health import Health
from novita_async._journal.postgres.member import Member
from novita_async._journal.postgres.schema.columns import MOVED
from novita_async._journal.postgres.texts import unescaped
from novita_async._journal.postgres.upgrading import outdated
from novita_async._journal.postgres.verdicts import fate_of
from novita_async._journal.postgres.windows import LINE, Offer, WindowRow, Windows, taught
from novita_async._journal.postgres.works import Connection, Place, PlaceEnded, Wanted
from novita_async._purchase.journal import Deferred
from novita_async._purchase.machine import LOST
from novita_async._util.clock import loop_time

_ON_WAY: Final = (
    'INSERT INTO novita.place (worker, "window", images, call) VALUES ($1, $2, $3, $4)'
    ' ON CONFLICT (worker, "window") DO UPDATE SET images = excluded.images, call = excluded.call'
)
_SETTLE: Final = f"SELECT novita.settle_1({marks(1, 13)})"


@define(eq=False)
class _PlacesCall:
    """A call for places, which counts once however often it is told."""

    number: int
    key: tuple[str, str]
    group: Sequence[Wanted]
    offer: Offer | None = None


@define(eq=False)
class Places:
    """Places that are counted under the number of this process."""

    member: Member
    windows: Windows
    health: Health
    _calls: int = field(default=0, init=False)
    """Number of the latest call."""
    _on_way: Counter[tuple[str, str]] = field(factory=Counter[tuple[str, str]], init=False)
    """Images on their way, by account and endpoint."""

    async def carry_out(self, link: Link, works: Sequence[Any]) -> dict[int, Any]:
        """Settle and take places, those of a window together; give each result, or the error in its place."""
        done: dict[int, Any] = {}
        groups: dict[tuple[type, str, str], list[Any]] = {}
        for work in works:
            if isinstance(work, PlaceEnded):
                groups.setdefault((PlaceEnded, work.place.account, work.place.endpoint), []).append(work)
            elif isinstance(work, Wanted):
                groups.setdefault((Wanted, work.account, work.endpoint), []).append(work)
        for (kind, *key), group in sorted(groups.items(), key=lambda each: each[0][0] is Wanted):
            self._calls += 1
            if kind is PlaceEnded:
                do = partial(self._leave, call=self._calls, key=(key[0], key[1]), group=group)
            else:
                do = partial(self._take, _PlacesCall(self._calls, (key[0], key[1]), group))
            answer: Any = await link.attempt(do)
            failed = isinstance(answer, Exception)
            results = [own_copy(answer) for _ in group] if failed else answer
            done |= {id(each): result for each, result in zip(group, results, strict=True)}
        return done

    async def _take(self, call: _PlacesCall, connection: Connection) -> list[Any]:
        """Take places; a `Place`, or an error, for each."""
        if self.member.is_outdated:
            return [outdated(self.member.label) for _ in call.group]
        window = await self.windows.of(connection, *call.key)
        while True:
            offer = call.offer = call.offer or await self.windows.offer(
                connection, window, [each.images for each in call.group]
            )
            offered = call.group[: len(offer.slots)]
            if not offered:
                return [Deferred(offer.until) for _ in call.group]
            found = await connection.fetchrow(
                ADMIT,
                self.member.me,
                None,
                window.id,
                None,
                None,
                [each.images for each in offered],
                [None for _ in offered],
                LINE,
                offer.slots,
                window.version,
                offer.state,
                offer.taken,
                call.number,
                *(None for _ in MOVED),
            )
            self.member.commits += 1
            if found["why"] not in ("moved", "fewer"):
                break
            await self.windows.refresh(connection, window)
            call.offer = None
            if found["why"] == "fewer":  # a probe: one at a time
                one = [each.images for each in call.group[:1]]
                call.offer = await self.windows.offer(connection, window, one)
        if window.quota is None:
            window.keep(found["latest"], found["known"])
        if found["why"] == "buried":
            return [self.member.lost() for _ in call.group]
        if found["why"] in ("gate", "out", "probe"):
            await self.health.ask(connection)
        granted: set[int] = set(found["granted"])
        self._on_way[call.key] += sum(offered[k - 1].images for k in granted)
        now, until = self.member.now(), loop_time() + found["delay"]
        if len(offered) < len(call.group) and not found["delay"]:
            until = offer.until
        return [
            Place(*call.key, each.images, offer.slots[n], now)
            if n + 1 in granted
            else Deferred(until, found["share"] // each.images)
            for n, each in enumerate(call.group)
        ]

    async def _leave(
        self, connection: Connection, call: int, key: tuple[str, str], group: Sequence[PlaceEnded]
    ) -> list[None]:
        """Tell how attempts have ended."""
        window = await self.windows.of(connection, *key)
        while not await self._settle(connection, self.member.me, window, group, call):
            await self.windows.refresh(connection, window)
        self._on_way[key] -= sum(each.place.images for each in group)
        return [None for _ in group]

    async def say_again(self, connection: Connection) -> None:
        """Tell what is on its way to a database that may have forgotten it in a failover."""
        for key, images in self._on_way.items():
            window = await self.windows.of(connection, *key)
            await connection.execute(_ON_WAY, self.member.me, window.id, images, self._calls)

    async def _settle(
        self,
        connection: Connection,
        worker: int,
        window: WindowRow,
        ended: Sequence[PlaceEnded],
        call: int | None,
    ) -> bool:
        """Settle places. Returns whether that counts: else another process was first to teach the window."""
        now, gates, state, taken = loop_time(), [each.gate for each in ended], None, 0
        if window.quota is None:
            pacer, there = window.pacer(), self.member.now()
            gates = [
                max(each.gate, taught(pacer, each.settled, each.place.slot, each.place.images, there))
                for each in ended
            ]
            state, taken = pacer.text(), pacer.window.taken
        done: bool = await connection.fetchval(
            _SETTLE,
            worker,
            window.id,
            [each.place.images for each in ended],
            [fate_of(each.settled) for each in ended],
            [self.member.held_for(each.settled, now - each.at) for each in ended],
            gates,
            [each.cause for each in ended],
            [each.error for each in ended],
            [each.place.announced_at for each in ended],
            window.version,
            state,
            taken,
            call,
        )
        self.member.commits += 1
        if done and window.quota is None:
            await self.windows.refresh(connection, window)
        return done

    async def bury(self, connection: Connection, dead: int) -> None:
        """Hold the places of a process that has ended for a whole window more."""
        while places := await connection.fetch("SELECT * FROM novita.places_1($1)", dead):
            for each in places:  # once more where another process was first to teach the window
                endpoint = unescaped(each["endpoint"])
                window = WindowRow(each["window"], endpoint, each["quota"], each["version"], each["state"])
                place = Place("", endpoint, each["images"], slot=None, announced_at=0.0)
                ended = PlaceEnded(place, LOST, "nothing", gate=0.0, error=None, at=loop_time())
                await self._settle(connection, dead, window, [ended], None)
