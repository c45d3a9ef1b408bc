"""All that is done with a shared journal's database; what is told at the same time is written together.

Facts that come together are written by one call for all that takes places in a window, and one for the rest.
Where a connection breaks, the rows are read again: either this very write was done, or the facts are let
happen anew, or the row is another's by now.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from attrs import define, field

from novita_async._journal.groups import own_copy
from novita_async._journal.postgres.admitting import Admitting
from novita_async._journal.postgres.connection import Link, is_outage
from novita_async._journal.postgres.fenced_rows import FencedRows, Step
from novita_async._journal.postgres.health import Health
from novita_async._journal.postgres.leases import Leases
from novita_async._journal.postgres.living import Living
from novita_async._journal.postgres.lost import LeaseLost
from novita_async._journal.postgres.member import Member
from novita_async._journal.postgres.money import Money
from novita_async._journal.postgres.places import Places
from novita_async._journal.postgres.planning import Plans
from novita_async._journal.postgres.reading import Reading
from novita_async._journal.postgres.upgrading import outdated
from novita_async._journal.postgres.windows import Windows
from novita_async._journal.postgres.works import Ask, Connection, PlaceEnded, Told, ToPlan, Wanted
from novita_async.errors import JournalError, NovitaError


@define(eq=False)
class SharedStore:
    """Access of a process to the rows of one batch, and to what all batches share."""

    link: Link
    member: Member
    health: Health = field(init=False)
    windows: Windows = field(init=False)
    rows: FencedRows = field(init=False)
    leases: Leases = field(init=False)
    money: Money = field(init=False)
    plans: Plans = field(init=False)
    reading: Reading = field(init=False)
    living: Living = field(init=False)
    _places: Places = field(init=False)
    _admitting: Admitting = field(init=False)

    def __attrs_post_init__(self) -> None:
        member = self.member
        self.health, self.money = Health(member), Money(member)
        self.windows = Windows(member)
        self.rows = FencedRows(member, self.windows)
        self.leases, self.plans = Leases(member, self.rows), Plans(member, self.rows)
        self.reading = Reading(member, self.rows)
        self._places = Places(member, self.windows, self.health)
        self._admitting = Admitting(member, self.rows, self.windows, self.money, self.health)
        self.living = Living(member, self.rows, self._places, self.money, self.health, self.reading)
        self.link.come_back, self.link.confirm = self.living.come_back, self.living.confirm

    @classmethod
    def at(
        cls,
        url: str,
        *,
        label: str,
        name: str,
        worker: str,
        quotas: Mapping[str, int | None],
        lease: float,
        window: float,
        outage_timeout: float,
    ) -> "SharedStore":
        """Make the store of a batch, without a connection yet."""
        quotas = dict(quotas)
        member = Member(label=label, name=name, worker=worker, quotas=quotas, lease=lease, window=window)
        return cls(Link(url=url, label=label, outage_timeout=outage_timeout), member)

    async def carry_out(self, works: Sequence[Told | Ask | ToPlan | Wanted | PlaceEnded]) -> list[Any]:
        """Do all of it; give each result, or the error in its place."""
        done: dict[int, Any] = {}
        pending: list[Told] = [work for work in works if isinstance(work, Told)]
        while pending:
            first = {each.name: each for each in reversed(pending)}
            now = [each for each in pending if first[each.name] is each]
            later = [each for each in pending if first[each.name] is not each]
            again = await self.link.attempt(partial(self._round, works=now, done=done))
            if isinstance(again, Exception):
                if len(now) == 1 or is_outage(again):
                    for each in pending:
                        done.setdefault(id(each), own_copy(again))
                    break
                for each in now:  # the error is of one of them
                    if id(each) not in done:
                        (done[id(each)],) = await self.carry_out([each])
                again = []
            pending = again + later
        done |= await self._places.carry_out(self.link, works)
        done |= await self.plans.carry_out(self.link, works)
        return [
            await self.link.attempt(work.do) if isinstance(work, Ask) else done[id(work)] for work in works
        ]

    async def _round(self, connection: Connection, works: Sequence[Told], done: dict[int, Any]) -> list[Told]:
        """Write facts about different purchases. Returns those that must be told again."""
        works = [each for each in works if id(each) not in done]
        known = self.rows.known  # not so where a connection broke: what was tried may be written
        unread = [each.name for each in works if each.tried is not None or each.name not in known]
        await self.rows.read(connection, unread)
        steps: list[Step] = []
        for each in works:
            try:
                step = await self._prepared(connection, each)
            except NovitaError as refusal:
                done[id(each)] = refusal
                continue
            if step is None:
                done[id(each)] = None
            else:
                each.tried = step.row.moves, step.record[:-1]
                steps.append(step)
        promises = [each for each in steps if each.told.promise]
        plain = [each for each in steps if not each.told.promise]
        together = await self._admitting.promise_with(promises, plain, connection, done)
        if together is None:  # places that come back are there for those who want some
            written = await self.rows.move(connection, plain)
            again = await self._admitting.promise(promises, connection, done)
        else:
            written, again = together
        for step in plain:
            if step.row.serial in written:
                done[id(step.told)] = None
                self.rows.remember(step.told.name, step.written())
                if not step.is_todo:
                    self.rows.has_not(step.row.serial)
            else:
                again.append(step)
        if again:  # behind a pooler this may be another server, which no broken connection has told
            with suppress(LeaseLost):
                await self.living.come_back(connection)
        for step in again:
            self.rows.forget(step.told.name)
        return [step.told for step in again]

    async def _prepared(self, connection: Connection, told: Told) -> Step | None:
        """Prepare what is to be written. None: nothing, or a connection broke and it was written before."""
        row = self.rows.known.get(told.name)
        if row is None:
            problem = f"journal {self.member.label}: request {told.name[0]}/{told.name[1]} was never planned"
            raise JournalError(scope="request", problem=problem)
        if told.tried == (row.moves - 1, row.record[:-1]):
            return None
        if row.mine and self.member.is_shared and not row.is_todo:  # ended: nobody's, unless it was claimed
            await self.rows.read(connection, [told.name])
            row = self.rows.known[told.name]
        if not row.mine:
            await self.rows.keep_paid(connection, told, row)
            raise self.member.lost()
        if told.promise and self.member.is_outdated:
            raise outdated(self.member.label)
        step = Step.of(told, row)
        return None if told.settled is None and step.record[:-1] == row.record[:-1] else step
