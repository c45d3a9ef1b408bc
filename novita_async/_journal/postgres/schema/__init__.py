"""The form of shared journals in a database: text, and nothing that waits. A room for each concept.

**Every write is compare-and-set.** The writer names the number of moves that it has read, and must be the
owner of the row or the holder of the batch. Python lets facts happen (`machine.advance`); SQL compares, sets,
and does the sums of window and money in the same transaction.

**Locks** are taken in one order: batch, budget, account, window, rows. Each call is one function and one commit:
no lock outlives it. The database's clock is read after the locks, so that nobody judges by an old time.

**Versions.** `versions` makes version n + 1 of version n. Tables only grow; functions carry the number of their
signature, so that processes of the release before go on while the next is rolled out.
"""
