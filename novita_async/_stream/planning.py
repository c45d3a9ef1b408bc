"""A batch that is planned and not bought: its requests go into a journal, for others to work on."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final, cast

import anyio.to_thread
from attrs import define, field

from novita_async._files.index import INPUTS, keep
from novita_async._journal.identity import DigestCache, order_of, with_pictures
from novita_async._journal.postgres.journal import PostgresJournal
from novita_async._purchase.journal import Journal
from novita_async._purchase.machine import Order
from novita_async.errors import Flaw, InvalidRequest
from novita_async.models.endpoints import Endpoints
from novita_async.models.images import ImageSource
from novita_async.models.requests import NovitaRequest

PIECE: Final = 500
"""Requests that are described, and planned, in one go."""


@define(eq=False, kw_only=True)
class Planner:
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

    async def enqueue(self, requests: Iterable[NovitaRequest]) -> int:
        """Plan some requests for others to work on. Returns how many are new.

        Raises:
            InvalidRequest: a worker could not make one of them again. None of this call is planned.
            JournalError: they could not be recorded.
        """
        orders = await anyio.to_thread.run_sync(self._described, list(requests))
        faults = tuple(flaw for order in orders if (flaw := self._flaw_of(order)) is not None)
        if faults:
            raise InvalidRequest(faults=faults, advice="nothing of this is planned or bought")
        self.planned += len(orders)
        return await cast("PostgresJournal", self.journal).enqueue(orders)

    def _flaw_of(self, order: Order) -> Flaw | None:
        """Why no worker could make a request again. None: it could."""
        where = f"request {order.tag or order.position}"
        if '"$withheld":' in order.request:
            return Flaw(where, "holds a presigned URL or base64, which a journal must not keep: give a file")
        if self.folder is None and _in_memory(order.request):
            return Flaw(where, "holds a picture in memory: give a file, or a folder where it is kept (--out)")
        return None

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


def _in_memory(text: str) -> bool:
    """Whether a picture of an order's text lies in no file."""
    if '"$picture":' not in text:
        return False
    found: list[bool] = []
    with_pictures(json.loads(text), lambda _, path: found.append(path is None), str, str)
    return any(found)
