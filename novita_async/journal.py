"""Public names for stores of purchases: `NovitaClient.batch(journal=...)` takes a path, a URL or a store.

A store keeps `Purchase`s beyond the process. `Journal` is the protocol; `SqliteJournal` keeps them in a file,
`PostgresJournal` in a database (extra `postgres`), `MemoryJournal` in memory, and is the shortest example of
a store. Many processes may work on the batch of a `SharedJournal` (`NovitaClient.work`): `PostgresJournal`,
and `SharedMemoryJournal` for tests. A purchase moves by facts (`novita_async.events`): a store lets each
happen with `advance`, unless it was `told_before`, and keeps what has become of the purchase.
`novita_async.testing.conformance` checks a store of your own.

A store that does not keep purchases as objects makes them: `fresh` of an order that is new, `asked_again` for
one that another run asks for, `copy_of` to hand out what moves on its own, `left_behind` for what was under
way when its process died, `summed` and `Tally` for the sums.
"""

from novita_async._journal.memory import MemoryJournal
from novita_async._journal.postgres.at_work import AtWork
from novita_async._journal.postgres.journal import PostgresJournal, SharedOptions
from novita_async._journal.postgres.lost import LeaseLost
from novita_async._journal.rows import asked_again, copy_of, fresh, left_behind
from novita_async._journal.shared_memory import SharedMemoryJournal
from novita_async._journal.sqlite.journal import JournalStatistics, SqliteJournal
from novita_async._purchase.journal import Deferred, Journal, SharedJournal, Summary, Tally, summed, tally_of
from novita_async._purchase.machine import (
    Action,
    Attempt,
    Fact,
    IllegalTransition,
    JournalEntry,
    Keeper,
    Order,
    Purchase,
    State,
    advance,
    next_action,
    told_before,
)

__all__ = [
    "Action",
    "AtWork",
    "Attempt",
    "Deferred",
    "Fact",
    "IllegalTransition",
    "Journal",
    "JournalEntry",
    "JournalStatistics",
    "Keeper",
    "LeaseLost",
    "MemoryJournal",
    "Order",
    "PostgresJournal",
    "Purchase",
    "SharedJournal",
    "SharedMemoryJournal",
    "SharedOptions",
    "SqliteJournal",
    "State",
    "Summary",
    "Tally",
    "advance",
    "asked_again",
    "copy_of",
    "fresh",
    "left_behind",
    "next_action",
    "summed",
    "tally_of",
    "told_before",
]
