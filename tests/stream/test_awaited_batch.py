"""A batch that is awaited gives all outcomes, and a notebook shows how far it is."""

import io
import sys
from types import SimpleNamespace

import anyio
import pytest
from rich.console import Console

from novita_async import BalanceExhausted, Batch, Failed, Succeeded
from novita_async._journal.memory import MemoryJournal
from tests.helpers.service import client_of, requests, service

pytestmark = pytest.mark.anyio


class Cell:
    """The output of a cell: what it has shown, one after the other."""

    def __init__(self):
        self.drawings = []

    def display(self, table, *, display_id):
        assert display_id
        self.update(table)
        return self

    def update(self, table):
        out = io.StringIO()
        Console(file=out, width=100).print(table)
        self.drawings.append(out.getvalue())


@pytest.fixture
def cell(monkeypatch):
    cell = Cell()
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, display=cell))
    return cell


async def test_an_awaited_batch_gives_all_outcomes_and_shows_them_as_they_come(cell):
    async with client_of(service()) as (client, _):
        batch = client.batch(list(requests(5)), journal=MemoryJournal())
        assert isinstance(batch, Batch)
        outcomes = await batch
    assert [type(outcome) for outcome in outcomes] == [Succeeded] * 5
    assert "0/5" in cell.drawings[0]
    assert len({drawing.split()[0] for drawing in cell.drawings}) > 2
    assert "5/5" in cell.drawings[-1]
    assert "without" not in cell.drawings[-1]


async def test_where_the_number_of_requests_is_unknown_outcomes_are_counted(cell):
    async with client_of(service()) as (client, _):
        await client.batch(requests(3), journal=MemoryJournal())
    assert "3/?" in cell.drawings[-1]


async def test_outcomes_without_a_result_are_told(cell):
    async with client_of(service()) as (client, _):
        outcomes = await client.batch(["no request", *requests(1)], journal=MemoryJournal())
    assert {type(outcome) for outcome in outcomes} == {Failed, Succeeded}
    assert "1 without a result" in cell.drawings[-1]


async def test_an_early_end_is_raised_and_what_was_paid_is_in_the_journal(cell):
    simulation, journal = service(balance=45, price=20), MemoryJournal()
    async with client_of(simulation) as (client, _):
        with pytest.raises(BalanceExhausted):
            await client.batch(requests(4), journal=journal, in_flight=1)
        assert "2/?" in cell.drawings[-1]
        (outcome,) = await client.batch(requests(1), journal=journal)
    assert isinstance(outcome, Succeeded)
    assert simulation.ledger.images == 2


async def test_a_cancelled_batch_draws_no_more(cell):
    async with client_of(service(speed=0.01)) as (client, _):
        with anyio.move_on_after(3):
            await client.batch(requests(3), journal=MemoryJournal())
        count = len(cell.drawings)
        await anyio.sleep(10)
    assert len(cell.drawings) == count > 3


@pytest.mark.parametrize("lacks", ["a notebook", "a kernel", "rich"])
async def test_elsewhere_nothing_is_shown(lacks, cell, monkeypatch):
    if lacks == "a notebook":
        monkeypatch.delitem(sys.modules, "IPython")
    elif lacks == "a kernel":
        monkeypatch.setattr(sys.modules["IPython"], "get_ipython", object)
    else:
        monkeypatch.setitem(sys.modules, "rich.progress", None)
    async with client_of(service()) as (client, _):
        assert len(await client.batch(requests(2), journal=MemoryJournal())) == 2
    assert cell.drawings == []
