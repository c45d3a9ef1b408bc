"""Every store that is shipped keeps the promises of a journal, and one that does not is found out."""

import inspect
from copy import copy
from pathlib import Path

import pytest
from attrs import define, field

from novita_async import SqliteJournal
from novita_async._journal.rows import entry_of
from novita_async._purchase.machine import Announced, IllegalTransition, Purchase
from novita_async.journal import MemoryJournal, summed
from novita_async.testing import conformance
from novita_async.testing.conformance import CHECKS
from tests.helpers.journals import copied

pytestmark = pytest.mark.anyio


@define
class InMemory:
    """A journal whose process never really dies."""

    journal: MemoryJournal = field(factory=MemoryJournal)
    opened: bool = False

    async def open(self):
        if self.opened:
            await self.journal.new_run()
        self.opened = True
        return self.journal

    async def crash(self, journal):
        pass


@define
class InAFile:
    """A file that a crash leaves with its log; the process that goes on leaves the original alone."""

    path: Path

    async def open(self):
        return await SqliteJournal.open(self.path)

    async def crash(self, journal):
        before, self.path = self.path, self.path.with_name(self.path.name + "x")
        copied(before, self.path)
        await journal.aclose()


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    return InMemory() if request.param == "memory" else InAFile(tmp_path / "run.db")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_a_store_keeps_a_promise(check, store):
    await check(store)


def test_no_check_is_forgotten():
    found = {
        check
        for name, check in vars(conformance).items()
        if inspect.iscoroutinefunction(check) and not name.startswith("_")
    }
    assert found == set(CHECKS)
    assert all(check.__doc__ for check in CHECKS)


# --- Stores that break a promise ----------------------------------------------------------------------------


class Forgetful(MemoryJournal):
    """Says that it recorded, and did not."""

    async def record(self, *_):
        self._check()


class Half(MemoryJournal):
    """Keeps what could be recorded of facts that were refused together."""

    async def record(self, purchase, *facts):
        for fact in facts:
            await super().record(purchase, fact)


class Permissive(MemoryJournal):
    """Lets anything pass."""

    async def record(self, purchase, *facts):
        try:
            await super().record(purchase, *facts)
        except IllegalTransition:
            return


class Unaware(MemoryJournal):
    """Takes what was never planned."""

    async def record(self, purchase, *facts):
        self._kept.setdefault(entry_of(purchase).name, copy(purchase))
        await super().record(purchase, *facts)


class Shared(MemoryJournal):
    """Hands out what it keeps."""

    async def by_token(self, token):
        return next((each for each in self._kept.values() if each.token == token), None)


class Doubtless(MemoryJournal):
    """Takes what was under way when its process died for something that was never sent."""

    async def new_run(self):
        for name, kept in self._kept.items():
            if kept.attempts and kept.attempts[-1].answered_at is None:
                fresh = Purchase(None, kept.endpoint, kept.images, kept.position, kept.tag, entry=kept.entry)
                self._kept[name] = fresh
        return await super().new_run()


class Open(MemoryJournal):
    """Takes more after it was closed."""

    async def aclose(self):
        """Do nothing."""


class Lost(MemoryJournal):
    """Does not know whose it is."""

    async def plan(self, orders):
        found = await super().plan(orders)
        for each in found:
            each.entry = None
        return found


class Penniless(MemoryJournal):
    """Adds nothing up."""

    async def summary(self):
        return summed([])


class Eager(MemoryJournal):
    """Counts what was told twice, twice."""

    async def record(self, purchase, *facts):
        kept = self._kept[entry_of(purchase).name]
        for fact in facts:
            if isinstance(fact, Announced) and kept.attempts:
                kept.attempt += 1
        await super().record(purchase, *facts)


BROKEN = (Forgetful, Half, Permissive, Unaware, Shared, Doubtless, Open, Lost, Penniless, Eager)


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
async def test_a_store_that_breaks_a_promise_is_found_out(kind):
    complaints = []
    for check in CHECKS:
        try:
            await check(InMemory(kind()))
        except Exception as error:  # noqa: BLE001 - whatever it is, the check has not passed
            complaints.append(error)
    assert any(isinstance(each, AssertionError | BaseExceptionGroup) for each in complaints)


async def test_a_complaint_says_what_was_promised_found_and_expected():
    with pytest.raises(
        AssertionError, match=r"(?s)the sums are right: what was planned is there\n  found .*\n  exp"
    ):
        await conformance.orders_are_planned_as_purchases(InMemory(Penniless()))
