"""News from other processes about the accounts that this client shares with them.

They tell it in the database that keeps the shared windows: an account that is refused, not answered or not
reached, and one that was taken out. How many they are says how many polls are left for each.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import define

from novita_async._submit.pool import SessionPool
from novita_async.errors import APIError, AuthenticationFailed, BalanceExhausted, PermissionDenied
from novita_async.events import AccountDisabled, Event

_KINDS: Final[Mapping[str, type[APIError]]] = {
    kind.__name__: kind for kind in (AuthenticationFailed, BalanceExhausted, PermissionDenied)
}


@define(eq=False, repr=False)
class Neighbours:
    """Other processes, as the database tells of them."""

    pool: SessionPool
    """The accounts of this client."""
    emit: Callable[[Event], None]
    """Tells observers."""
    heard: Callable[[str, str], None] = lambda _, __: None
    """Takes events that other processes were sent: token and task id."""

    def heed(self, accounts: Sequence[Mapping[str, Any]], processes: int) -> None:
        """Take what all know.

        Args:
            accounts: Those that are not well, by label: why, and for how many more seconds.
            processes: How many share them, this one included.
        """
        self.pool.share_polls(processes)
        for account in accounts:
            label, cause, error = account["label"], account["cause"], account["error"]
            if error is not None and account["out"] > 0 and self.pool.has_account(label):
                heard = json.loads(error)
                kind, text = _KINDS.get(heard["kind"], APIError), f"told to another process: {heard['text']}"
                told = kind(status=None, reason=heard["reason"], message=text)
                told.account, told.scope = label, "account"  # whatever its kind: else each request would fail
                if self.pool.disable(label, told):
                    self.emit(AccountDisabled(account=label, error=told))
            if cause is not None:
                notice = self.pool.heed(label, cause, account["gate"])
                if notice is not None:
                    self.emit(notice)
