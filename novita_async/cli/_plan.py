"""The plan of a batch: all requests of its input, each in the journal before it is bought.

So the journal alone says what belongs to the batch, and `resume` tells a request that is new (a line that was
added, a picture that has changed) from one whose turn has not come. Planning reads every picture, which takes
its time; buying begins with what is planned, and follows.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
from attrs import define, field

from novita_async._journal.identity import DigestCache, order_of, with_pictures
from novita_async._journal.rows import entry_of
from novita_async._journal.sqlite import file as _file
from novita_async._journal.sqlite.journal import SqliteJournal
from novita_async._journal.sqlite.store import Store
from novita_async._purchase.journal import Summary
from novita_async._purchase.machine import PLANNED, Order
from novita_async._util.values import frozen
from novita_async.cli._manifest import Made, Recipe
from novita_async.errors import InvalidRequest
from novita_async.models.endpoints import Endpoints
from novita_async.models.images import ImageSource
from novita_async.models.requests import NovitaRequest

_PIECE: Final = 64
"""Requests that are planned in one go: their pictures are read, and nobody can break off meanwhile."""
_PICTURES: Final = 10_000
"""Pictures of new requests that are remembered, so that those that changed can be named."""


@define(eq=False)
class AheadPlanner:
    """Plans every request of the input, ahead of the run that buys."""

    _journal: SqliteJournal
    _recipe: Recipe
    _run: int = field(init=False)
    """The run for which is planned. The run that buys comes after it."""
    _planned: int = field(default=0, init=False)
    """Requests that are planned, or cannot be."""
    _whole: bool = field(default=True, init=False)
    _failure: BaseException | None = field(default=None, init=False)
    _ended: bool = field(default=False, init=False)
    _changed: anyio.Event = field(factory=anyio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._run = self._journal.run

    async def work(self) -> None:
        """Plan all of it."""
        lines = _described(self._recipe.read())
        while piece := await anyio.to_thread.run_sync(lambda: list(islice(lines, _PIECE))):
            orders = [line[1] for line in piece if line is not None]
            self._whole = self._whole and len(orders) == len(piece)
            await self._journal.plan_ahead(orders, self._run)
            self._planned += len(piece)
            self._tell()

    def ended(self, error: BaseException | None) -> None:
        """Take note that nothing more will be planned."""
        self._failure, self._ended = error, True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def reach(self, place: int) -> None:
        """Wait until a request of the input is planned. Raises what ended the planning."""
        while place >= self._planned and not self._ended:
            await self._changed.wait()
        if self._failure is not None:
            raise self._failure

    async def finish(self) -> int:
        """Wait for the end. Returns the number of the run that has planned all. 0: not all can be planned."""
        while not self._ended:
            await self._changed.wait()
        return self._run if self._whole and self._failure is None else 0


def _described(lines: Iterator[Made]) -> Iterator[tuple[NovitaRequest, Order] | None]:
    """Describe the requests of the input. None: one that cannot be made or described any more."""
    digest, endpoints = DigestCache(), Endpoints()
    position = -1
    for made in lines:
        position += made.request is not None
        try:
            yield (
                None
                if made.request is None
                else (
                    made.request,
                    order_of(
                        made.request,
                        endpoint=endpoints.path_of(made.request),
                        position=position,
                        digest=digest,
                    ),
                )
            )
        except InvalidRequest:
            yield None


@define(eq=False)
class News:
    """Requests of the input that the journal does not know."""

    requests: int = 0
    """How many."""
    images: int = 0
    """The images that they ask for."""
    pictures: set[str] = field(factory=set[str])
    """Paths of their pictures."""

    def add(self, request: NovitaRequest) -> None:
        """Count one more."""
        self.requests += 1
        self.images += request.image_num
        if len(self.pictures) < _PICTURES:
            self.pictures.update(str(each.path) for each in request.pictures if each.path is not None)

    def sentence(self, changed: Sequence[str]) -> str:
        """How many there are, and the files that have changed."""
        some = "1 request is" if self.requests == 1 else f"{self.requests:,} requests are"
        return f"{some} new since the last run{_changes(changed)}"


def _changes(names: Sequence[str]) -> str:
    if not names:
        return ""
    told, more = ", ".join(names[:3]), len(names) - 3
    return (
        f": {told}{f' and {more:,} more' if more > 0 else ''} {'has' if len(names) == 1 else 'have'} changed"
    )


def changed_in(journal: Path, news: News) -> list[str]:
    """Find which pictures of new requests the journal knows by another content alone. Blocks."""
    known: dict[str, set[str]] = {}
    if news.pictures:
        store = Store(_file.open_to_read(journal))
        try:
            for path, digest in _pictures_in(store):
                if path in news.pictures:
                    known.setdefault(path, set()).add(digest)
        finally:
            store.close()
    return [path for path, digests in known.items() if _digest(path) not in digests]


def _pictures_in(store: Store) -> Iterator[tuple[str, str]]:
    """Paths of pictures in a journal, with the digest of each."""
    found: list[tuple[str, str]] = []

    def note(digest: str, path: Path | None) -> None:
        if path is not None:
            found.append((str(path), digest))

    after = 0
    while page := store.page(None, after):
        for purchase in page:
            with_pictures(json.loads(entry_of(purchase).request), note, str, str)
        after = entry_of(page[-1]).serial
        yield from found
        found.clear()


def _digest(path: str) -> str | None:
    try:
        return ImageSource.from_path(path).digest()
    except InvalidRequest:
        return None


@frozen(kw_only=True)
class Foreseen:
    """Forecast of another run."""

    ledger: Summary
    """Sums of the journal."""
    buy: int
    """Requests that would be bought."""
    buy_images: int
    """The images that they ask for."""
    news: News
    """Requests that would be bought only when asked."""
    changed: Sequence[str]
    """Pictures that have changed."""


def foresee(journal: Path, recipe: Recipe | None, *, is_planned: bool) -> Foreseen:
    """Tell what another run would do. Blocks, and writes nothing.

    Args:
        journal: The journal's file.
        recipe: The input. None: nothing would be bought.
        is_planned: Whether what is new to the journal is not to be bought.
    """
    store = Store(_file.open_to_read(journal))
    seen = Counter[str]()
    news, buy, images = News(), 0, 0
    try:
        for request, order in filter(None, () if recipe is None else _described(recipe.read())):
            state = store.state_of(order.key, seen[order.key])
            seen[order.key] += 1
            if state is None and is_planned:
                news.add(request)
            elif state is None or state is PLANNED:
                buy += 1
                images += request.image_num
        ledger = store.summary()
    finally:
        store.close()
    return Foreseen(ledger=ledger, buy=buy, buy_images=images, news=news, changed=changed_in(journal, news))
