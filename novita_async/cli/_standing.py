"""How a batch is: what its journal says, and what to do next."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from novita_async._journal.rows import entry_of
from novita_async._journal.sqlite import file as _file
from novita_async._journal.sqlite.store import Store
from novita_async._purchase.journal import Summary, action_of
from novita_async._purchase.machine import (
    ANNOUNCED,
    FAILED,
    SUBMITTED,
    SUCCEEDED,
    UNCERTAIN,
    Action,
    Purchase,
    State,
    helps_to_buy_again,
    is_gone,
)
from novita_async._util.values import frozen
from novita_async.cli._output import Output
from novita_async.cli._report_summary import money, words_of
from novita_async.cli._setup import Setup, command
from novita_async.errors import ConfigurationError
from novita_async.models.accounts import Account

_WELL_FIRST: Final = sorted(State, key=lambda state: action_of(state) is Action.LIST)


@frozen(kw_only=True)
class Standing:
    """How a batch is, by its journal."""

    ledger: Summary
    """Sums of the journal."""
    ahead: int
    """Requests of the input that the journal does not have yet ..."""
    ahead_images: int
    """... and their images."""
    gone: int
    """Requests that were planned and never sent, and that the input no longer has ..."""
    gone_images: int
    """... and their images."""
    failed: int
    """Requests that failed, and for which buying again can help ..."""
    failed_images: int
    """... and their images."""
    lost: int
    """Requests that are paid, and whose results can no longer be had ..."""
    lost_images: int
    """... and their images."""
    payers: tuple[str, ...]
    """Accounts that have paid for what is still to be fetched."""
    saves: bool = True
    """Whether files are to be saved."""

    @property
    def unsent(self) -> int:
        """Requests that are to be sent."""
        return self.ledger.due(Action.SEND) + self.ahead - self.gone

    @property
    def to_fetch(self) -> int:
        """Requests that are paid and not here."""
        unsaved = self.ledger.due(Action.SAVE) if self.saves else 0
        return max(0, self.ledger.due(Action.WATCH) + unsaved - self.lost)

    def steps(self, setup: Setup, folder: str) -> list[tuple[str, str]]:
        """List the next steps, why and how: a command for every state that is no end."""
        rows, images = self.ledger.rows, self.ledger.images
        unsent = images[State.PLANNED] + self.ahead_images - self.gone_images
        hopeless = rows[FAILED] - self.failed + self.lost
        uncertain = "look at the account's bill; to buy again what was not charged"
        found = (
            (
                self.unsent + self.to_fetch + rows[ANNOUNCED],
                f"to go on{self._with_key()}",
                "resume",
                (),
                unsent,
            ),
            (self.failed, "to try again what failed and can succeed", "retry", (), self.failed_images),
            (hopeless, _MENDED, "retry", ("--all",), images[FAILED] + self.lost_images),
            (rows[UNCERTAIN], uncertain, "retry", ("--uncertain",), images[UNCERTAIN]),
        )
        return [
            (why, command(name, folder, *options, *self._money(setup, more)))
            for count, why, name, options, more in found
            if count
        ]

    def _with_key(self) -> str:
        """Whose key it takes, where that is not the one of the environment."""
        key = os.environ.get("NOVITA_API_KEY", "")
        with suppress(ConfigurationError):
            if self.payers and Account(api_key=key).label not in self.payers:
                return f", with the key of {' or '.join(self.payers)}, which paid"
        return ""

    def _money(self, setup: Setup, images: int) -> tuple[str, ...]:
        """The option that raises a budget which does not suffice for another image."""
        price, limit = setup.price_each(), setup.limit()
        if price is None or limit is None or not images or price * (self.ledger.spent + 1) <= limit:
            return ()
        return "--budget", str(price * (self.ledger.spent + images))


_MENDED: Final = "to buy again all that failed, once its cause was mended"


def standing_of(setup: Setup, folder: Path) -> Standing:
    """Read how a batch is. Blocks.

    Raises:
        JournalError: the journal cannot be read.
    """
    store = Store(_file.open_to_read(setup.journal_in(folder)))
    try:
        ledger = store.summary()
        failed = page_by_page(store, FAILED)
        retryable = [each.images for each in failed if each.error and helps_to_buy_again(each.error)]
        lost = [each.images for each in page_by_page(store, SUCCEEDED) if is_gone(each)]
        gone, gone_images = store.planned_before(setup.plan)
        payers = {label for state in (SUBMITTED, SUCCEEDED) for label in store.payers(state)}
    finally:
        store.close()
    return Standing(
        saves=not setup.no_save,
        ledger=ledger,
        ahead=0 if setup.plan else max(setup.requests - ledger.total, 0),
        ahead_images=0 if setup.plan else max(sum(setup.images.values()) - sum(ledger.images.values()), 0),
        gone=gone,
        gone_images=gone_images,
        failed=len(retryable),
        failed_images=sum(retryable),
        lost=len(lost),
        lost_images=sum(lost),
        payers=tuple(sorted(payers)),
    )


def page_by_page(store: Store, state: State | None) -> Iterator[Purchase]:
    after = 0
    while page := store.page(state, after):
        yield from page
        after = entry_of(page[-1]).serial


def tell(output: Output, setup: Setup, standing: Standing, steps: list[tuple[str, str]]) -> None:
    ledger = standing.ledger
    output.line(f"requests: {ledger.total + standing.ahead - standing.gone:,}")
    for state in _WELL_FIRST:
        count = standing.unsent if state is State.PLANNED else ledger.rows[state]
        if count:
            output.line(f"  {count:,} {words_of(state)}")
    if standing.lost:
        output.line(f"of these, no longer to be had from the service: {standing.lost:,}")
    if standing.gone:
        output.line(f"never sent, and no longer in the input: {standing.gone:,}")
    output.line(f"images bought: {ledger.bought:,}{_cost(setup, ledger.bought)}")
    if ledger.perhaps:
        output.line(f"images perhaps bought: {ledger.perhaps:,}{_cost(setup, ledger.perhaps)}")
    if setup.quota is not None:
        known = "" if setup.quota == setup.images_per_minute else ", as was found out"
        output.line(f"quota: {setup.quota:,} images a minute{known}")
    for why, how in steps:
        output.line(f"{why}: {how}")
    if not steps:
        output.line("nothing is left to do")
    output.record(**_record(standing), images_per_minute=setup.quota, next=[how for _, how in steps])


def _cost(setup: Setup, images: int) -> str:
    price = setup.price_each()
    return "" if price is None else f" ({money(price * images)})"


def _record(standing: Standing) -> dict[str, Any]:
    ledger = standing.ledger
    states = {str(state): ledger.rows[state] for state in State}
    states[State.PLANNED] = standing.unsent
    return {
        "event": "status",
        "requests": ledger.total + standing.ahead - standing.gone,
        **states,
        "images_bought": ledger.bought,
        "images_perhaps_bought": ledger.perhaps,
    }
