"""Meaning of a verdict on an attempt for the things that processes share: the place, and the account."""

from typing import Final

from novita_async._policy.breaker import Trip
from novita_async._purchase.machine import (
    LOST,
    REJECTED,
    SEEN,
    SPENT,
    UNREACHED,
    Fact,
    NotBought,
    Settlement,
    settlement,
)
from novita_async.errors import APIError, RateLimited

_GATE: Final = 1.0
"""Seconds for which nobody announces after a 429 that says no time."""
_CAUSES: Final = {
    LOST: Trip.UNCERTAIN.value,
    REJECTED: Trip.RATE_LIMITED.value,
    UNREACHED: Trip.UNREACHABLE.value,
}


def fate_of(settled: Settlement | None) -> int:
    """Give the fate of a place as a number: 0 nothing, 1 it is held, 2 it comes back."""
    return 0 if settled is None else 1 if settled in (SPENT, LOST, SEEN) else 2


def gate_of(verdict: Fact) -> float:
    """Seconds for which nobody announces after a verdict, as far as the service has said."""
    if not isinstance(verdict, NotBought) or not isinstance(verdict.error, RateLimited):
        return 0.0
    return max(_GATE, verdict.error.retry_after or 0.0)


def cause_of(verdict: Fact) -> str | None:
    """Why a verdict closes its account to all processes. None: it does not."""
    if isinstance(verdict, NotBought) and verdict.error.scope == "account":
        return "out" if isinstance(verdict.error, APIError) else "nothing"
    return _CAUSES.get(settlement(verdict))
