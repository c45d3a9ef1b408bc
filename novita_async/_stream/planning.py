"""A batch that is planned and not bought: its requests go into a journal, for others to work on."""

import json
from collections.abc import Iterable
from typing import Final

import anyio.to_thread
from attrs import define, field

from novita_async._files.inputs import Inputs
from novita_async._files.storage import Storage
from novita_async._journal.identity import order_of, with_pictures
from novita_async._purchase.machine import Order
from novita_async.errors import Flaw, InvalidRequest
from novita_async.models.endpoints import Endpoints
from novita_async.models.images import ImageSource
from novita_async.models.requests import NovitaRequest

PIECE: Final = 500
"""Requests that are described, and planned, in one go."""


@define(eq=False, kw_only=True)
class BatchPlanner:
    """Plans requests in the order in which they are given, for others to work on."""

    endpoints: Endpoints
    """Paths that requests are submitted to."""
    storage: Storage | None = None
    """Where pictures are put once, for all who work. None: they are looked for where they are now."""
    planned: int = field(default=0, init=False)
    """Requests that were given."""
    _inputs: Inputs = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._inputs = Inputs(self.storage)

    async def orders(self, requests: Iterable[NovitaRequest]) -> list[Order]:
        """Describe some requests, which come after those before, and put their pictures.

        Raises:
            InvalidRequest: a worker could not make one of them again.
            ConfigurationError: a picture cannot be put.
        """
        pictures: dict[str, ImageSource] = {}
        orders = await anyio.to_thread.run_sync(self._described, list(requests), pictures)
        faults = tuple(flaw for order in orders if (flaw := self._flaw_of(order)) is not None)
        if faults:
            raise InvalidRequest(faults=faults, advice="nothing of this is planned or bought")
        for digest, picture in pictures.items():
            await self._inputs.put(digest, picture)
        self.planned += len(orders)
        return orders

    def _described(self, requests: list[NovitaRequest], pictures: dict[str, ImageSource]) -> list[Order]:
        """Describe requests, and tell their pictures. Blocks."""

        def digest(picture: ImageSource) -> str:
            found = self._inputs.digests(picture)
            pictures[found] = picture
            return found

        return [
            order_of(
                each,
                endpoint=self.endpoints.path_of(each),
                position=place,
                digest=digest,
                names_paths=self.storage is None,
            )
            for place, each in enumerate(requests, self.planned)
        ]

    def _flaw_of(self, order: Order) -> Flaw | None:
        """Why no worker could make a request again. None: a worker could."""
        where = f"request {order.tag or order.position}"
        if '"$withheld":' in order.request:
            return Flaw(where, "holds a presigned URL or base64, which a journal must not keep: give a file")
        if self.storage is None and _in_memory(order.request):
            return Flaw(where, "holds a picture in memory: give a file, or say where it is kept (--out)")
        return None


def _in_memory(text: str) -> bool:
    """Whether a picture of an order's text lies in no file."""
    if '"$picture":' not in text:
        return False
    found: list[bool] = []
    with_pictures(json.loads(text), lambda _, path: found.append(path is None), str, str)
    return any(found)
