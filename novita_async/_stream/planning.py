"""A batch that is planned and not bought: its requests go into a journal, for others to work on."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import anyio.to_thread
from attrs import define, field

from novita_async._files.index import INPUTS, keep
from novita_async._journal.identity import DigestCache, order_of
from novita_async._purchase.journal import Journal
from novita_async._purchase.machine import Order
from novita_async.models.endpoints import Endpoints
from novita_async.models.images import ImageSource
from novita_async.models.requests import NovitaRequest

PIECE: Final = 500
"""Requests that are described, and planned, in one go."""


@define(eq=False, kw_only=True)
class BatchPlanner:
    """Plans requests in the order in which they are given."""

    journal: Journal
    """The store."""
    endpoints: Endpoints
    """Paths that requests are submitted to."""
    folder: Path | None = None
    """Where pictures that were given in memory are kept, in `inputs`."""
    planned: int = field(default=0, init=False)
    """Requests that were given."""
    _digests: DigestCache = field(factory=DigestCache, init=False)

    async def plan(self, requests: Iterable[NovitaRequest]) -> None:
        """Plan some requests, which come after those before.

        Raises:
            InvalidRequest: one of them cannot be described. None of this call is planned.
            JournalError: they could not be recorded.
        """
        orders = await anyio.to_thread.run_sync(self._described, list(requests))
        await self.journal.plan(orders)
        self.planned += len(orders)

    def _described(self, requests: list[NovitaRequest]) -> list[Order]:
        return [
            order_of(each, endpoint=self.endpoints.path_of(each), position=place, digest=self._digest)
            for place, each in enumerate(requests, self.planned)
        ]

    def _digest(self, picture: ImageSource) -> str:
        digest = self._digests(picture)
        if self.folder is not None and picture.data is not None:
            keep(picture, digest, self.folder / INPUTS)
        return digest
