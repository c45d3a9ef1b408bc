"""Accounts that are closed or taken out, as all processes are told."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import define, field

from novita_async._journal.postgres.member import Member
from novita_async._journal.postgres.texts import escaped
from novita_async._journal.postgres.works import Connection

_TRY_AGAIN: Final = (
    "UPDATE novita.account SET out_until = novita.now()"
    " WHERE error IS NOT NULL AND out_until > novita.now() AND label = ANY($1)"
)


@define(eq=False)
class Health:
    """Knowledge of accounts that are not well."""

    member: Member
    unwell: Sequence[Mapping[str, Any]] = field(default=(), init=False)
    """Accounts that are closed or taken out, as was told last."""
    heed: Callable[[Sequence[Mapping[str, Any]], int], None] = field(default=lambda _, __: None, init=False)
    """Told which accounts are not well, and how many processes are at work."""

    def tell(self, accounts: str | None) -> None:
        """Take note of what the database says of accounts, and pass it on."""
        self.unwell = json.loads(accounts) if accounts else []
        self.heed(self.unwell, self.member.processes)

    async def ask(self, connection: Connection) -> None:
        """Ask which accounts are not well."""
        self.tell(await connection.fetchval("SELECT novita.health_1()"))

    async def try_again(self, connection: Connection) -> None:
        """Let the service be asked once more for accounts that are out: a key may be mended by now."""
        await connection.execute(_TRY_AGAIN, [escaped(label) for label in self.member.quotas])
