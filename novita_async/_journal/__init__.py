"""What a batch remembers across processes: the journal, whatever it is kept in.

The meaning of rows and transitions is `_ledger`'s, the same for every store. A store only keeps promises:
what was told to it is durable before it answers, one batch at a time writes it, and it never guesses what
it cannot read.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import Protocol, Unpack

from attrs import define, field

from novita_async._journal.ledger import Facts, Ledger, Row, State, Wanted
from novita_async.models.images import ImageSource


class Journal(Protocol):
    """A durable memory of one batch. Every method raises `JournalError` where it cannot keep its promise."""

    @property
    def run(self) -> int:
        """The number of this run of the batch, from 1: rows with a smaller one were not asked for (yet)."""
        ...

    async def plan(self, wanted: Sequence[Wanted]) -> tuple[Row, ...]:
        """Find the rows of these requests, in this order, and make those that are missing.

        Give the input in its order, in pieces of a thousand or so, each piece once a run: equal requests are
        told apart by counting them. What has happened to a row stays; its position becomes the new one.
        """
        ...

    async def move(self, key: str, occurrence: int, to: State, **facts: Unpack[Facts]) -> Row:
        """Let something happen to a row. Durable when this returns; when this raises, it was not recorded.

        A cancellation waits until the answer is known, and comes at the next await: so what was recorded is
        always known.

        Raises:
            IllegalTransition: it cannot happen to this row.
        """
        ...

    async def row(self, key: str, occurrence: int) -> Row | None:
        """Give one row."""
        ...

    async def find(self, task_id: str) -> Row | None:
        """Give the row whose task this is."""
        ...

    def rows(self, *states: State, after: int = 0) -> AsyncIterator[Row]:
        """Give the rows of these states, or all, that come after a serial number.

        They come state by state, in the order of planning; they are read in pages, each as it is then.
        """
        ...

    async def seen_since(self, time: float) -> tuple[Row, ...]:
        """Give the rows that the service may have seen after this unix time: what `slots` needs."""
        ...

    async def summary(self) -> Ledger:
        """Add up all rows."""
        ...

    async def new_run(self) -> int:
        """Begin to read the input anew. Opening a journal does that, too."""
        ...

    async def aclose(self) -> None:
        """Finish what is being written, and let others have the journal."""
        ...


@define(eq=False, repr=False)
class DigestCache:
    """SHA-256 of pictures, read once each. It reads files: call it off the loop, in one thread at a time."""

    files: int = 4096
    """How many files are remembered, the latest."""
    pictures: int = 8
    """How many pictures in memory are remembered, which are kept alive by that."""
    _files: OrderedDict[object, str] = field(factory=OrderedDict[object, str], init=False)
    _pictures: OrderedDict[object, str] = field(factory=OrderedDict[object, str], init=False)

    def __call__(self, picture: ImageSource) -> str:
        if picture.path is None:
            return _remembered(self._pictures, self.pictures, picture, picture)
        identity = (picture.path, picture.size, picture.modified_ns)
        return _remembered(self._files, self.files, identity, picture)

    def __repr__(self) -> str:
        return f"<DigestCache of {len(self._files)} files and {len(self._pictures)} pictures>"


def _remembered(known: OrderedDict[object, str], most: int, identity: object, picture: ImageSource) -> str:
    if identity not in known:
        known[identity] = picture.digest()
    known.move_to_end(identity)
    while len(known) > most:
        known.popitem(last=False)
    return known[identity]
