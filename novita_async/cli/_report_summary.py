"""Summary of the whole batch in the report, as plain HTML: when it was, how much, and what is left to do."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from html import escape
from string import Template
from types import MappingProxyType
from typing import Final, assert_never

from novita_async._purchase.journal import Summary, action_of
from novita_async._purchase.machine import Action, State
from novita_async._util.values import frozen
from novita_async.cli._report_timeline import Happenings, active, elapsed, timeline


@frozen(kw_only=True)
class Commands:
    """Commands that the reader is told to type."""

    resume: str = "novita-async resume"
    """Goes on with the batch."""
    retry: str = "novita-async retry"
    """Buys again what failed."""
    uncertain: str = "novita-async retry --uncertain"
    """Buys again what is uncertain, too."""


UNFINISHED: Final = tuple(state for state in State if action_of(state) not in (Action.LIST, Action.NOTHING))
"""States of requests whose end is not on record, in their order."""
_PROSPECT: Final = MappingProxyType({True: "worth another try", False: "to be changed before another try"})

_TOTAL: Final = Template('<div class="$kind"><dt>$name</dt><dd>$value</dd></div>')
_TODO: Final = Template("""<section class="todo" aria-labelledby="todo">
  <h2 id="todo">What is left to do</h2>
  <ul>$items</ul>
</section>""")
_UNCERTAIN: Final = Template("""
    <li class="uncertain"><h3>$count uncertain $show</h3>
      <p>Sent whole and never answered, so perhaps paid for. Nothing buys these again by itself. Look at
        the account’s bill. Where nothing was charged, $retry buys again. Where it was, that pays
        twice.</p></li>""")
_FAILED: Final = Template("""
    <li class="failed"><h3>$count failed $show</h3>
      <ul>$causes</ul>$advice</li>""")
_CAUSE: Final = Template("<li><b>$count</b> $cause, $prospect $show</li>")
_TRY: Final = Template("<p>$retry tries $those again that can succeed.</p>")
_OPEN: Final = Template("""
    <li class="submitted"><h3>$count not finished</h3>
      <p>$parts. $resume goes on; what is paid for is fetched, never bought again.</p></li>""")
_SHOW: Final = Template("""<button type="button" class="show" data-state="$state" data-text="$text">Show<span
        class="told"> $name</span></button>""")
_WHEN: Final = Template("""<section class="when" aria-labelledby="when">
  <h2 id="when">Images in time</h2>
  <ul class="legend" aria-hidden="true">$legend</ul>
  $chart
</section>""")


def when(happened: Happenings) -> str:
    """When it all was, in a sentence."""
    moments = happened.moments()
    if not moments:
        return "Nothing was sent yet."
    begin, end = (datetime.fromtimestamp(at, UTC) for at in (moments[0], moments[-1]))
    last = f"{end:%H:%M}" if begin.date() == end.date() else f"{end.day} {end:%B %Y, %H:%M}"
    worked, whole = elapsed(active(happened)), elapsed(moments[-1] - moments[0])
    span = whole if worked == whole else f"{whole}, at work for {worked}"
    return f"{begin.day} {begin:%B %Y, %H:%M} to {last} UTC: {span}."


# --- Numbers ------------------------------------------------------------------------------------------------


def totals(ledger: Summary, happened: Happenings, price: Decimal | None) -> str:
    """The numbers at the top."""
    rows = ledger.rows
    count, images = unfinished(ledger), sum(images for _, images in happened.finished)
    span = active(happened)  # pauses left out
    facts = {
        "requests": f"{ledger.total:,}",
        "saved": f"{rows[State.SAVED]:,}",
        "failed": f"{rows[State.FAILED]:,}",
        "uncertain": f"{rows[State.UNCERTAIN]:,}",
        **({"still to do": f"{count:,}"} if count else {}),
        f"images bought{_perhaps(f'{ledger.perhaps:,}', ledger)}": f"{ledger.bought:,}",
        **_cost(ledger, price),
        **({"images a minute": f"{images * 60 / span:,.1f}"} if images and span else {}),
    }
    return "".join(_total(name, value) for name, value in facts.items())


def _total(name: str, value: str) -> str:
    """Trouble is coloured, where there is any."""
    kind = name if name in ("failed", "uncertain") and value != "0" else ""
    return _TOTAL.substitute(kind=kind, name=name, value=value)


def words_of(state: State) -> str:
    """A state as people call it."""
    match state:
        case State.PLANNED:
            return "not sent yet"
        case State.ANNOUNCED:
            return "on the way to the service"
        case State.SUBMITTED:
            return "paid for, end not seen"
        case State.SUCCEEDED:
            return "done, files not saved"
        case State.FAILED | State.SAVED:
            return state.value
        case State.UNCERTAIN:
            return "uncertain: perhaps paid for"
        case _:
            assert_never(state)


def unfinished(ledger: Summary) -> int:
    """Requests whose end is not on record."""
    return sum(ledger.rows[state] for state in UNFINISHED)


def _perhaps(much: str, ledger: Summary) -> str:
    return f", <small>perhaps {much} more</small>" if ledger.perhaps else ""


def _cost(ledger: Summary, price: Decimal | None) -> dict[str, str]:
    if price is None:
        return {}
    more = _perhaps(money(price * ledger.perhaps), ledger)
    return {f"cost, at {money(price)} an image{more}": money(price * ledger.bought)}


def money(amount: Decimal) -> str:
    """Dollars, with cents, and with as many more digits as there are."""
    exact = amount.normalize()
    digits = max(2, -int(exact.as_tuple().exponent))
    return f"${exact:,.{digits}f}"


# --- What is left to do -------------------------------------------------------------------------------------


def todo(ledger: Summary, failures: Counter[tuple[str, bool]], commands: Commands) -> str:
    """Say what is left to do, and how; empty where nothing is."""
    parts = (_uncertain(ledger, commands), _failed(ledger, failures, commands), _open(ledger, commands))
    items = "".join(part for each in parts for part in each)
    return _TODO.substitute(items=items) if items else ""


def _uncertain(ledger: Summary, commands: Commands) -> Iterator[str]:
    if count := ledger.rows[State.UNCERTAIN]:
        show = _show(State.UNCERTAIN)
        yield _UNCERTAIN.substitute(count=_many(count), show=show, retry=_command(commands.uncertain))


def _failed(ledger: Summary, failures: Counter[tuple[str, bool]], commands: Commands) -> Iterator[str]:
    if count := ledger.rows[State.FAILED]:
        causes = "".join(
            _CAUSE.substitute(
                count=f"{number:,}",
                cause=escape(cause),
                prospect=_PROSPECT[retryable],
                show=_show(State.FAILED, cause),
            )
            for (cause, retryable), number in failures.most_common()
        )
        hopeful = sum(number for (_, retryable), number in failures.items() if retryable)
        those = _many(hopeful, "the one", "the {}")
        advice = _TRY.substitute(retry=_command(commands.retry), those=those) if hopeful else ""
        yield _FAILED.substitute(count=_many(count), show=_show(State.FAILED), causes=causes, advice=advice)


def _open(ledger: Summary, commands: Commands) -> Iterator[str]:
    counts = {state: ledger.rows[state] for state in UNFINISHED}
    parts = ", ".join(f"{count:,} {words_of(state)}" for state, count in counts.items() if count)
    if parts:
        resume = _command(commands.resume)
        yield _OPEN.substitute(count=_many(unfinished(ledger)), parts=parts, resume=resume)


def _many(count: int, one: str = "1 request", more: str = "{} requests") -> str:
    return one if count == 1 else more.format(f"{count:,}")


def _command(command: str) -> str:
    return f"<code>{escape(command)}</code>"


def _show(state: State, text: str = "") -> str:
    """A button that lists these requests."""
    return _SHOW.substitute(state=state, text=escape(text), name=escape(text or state))


# --- Time ---------------------------------------------------------------------------------------------------


def times(happened: Happenings, quota: int | None) -> str:
    """The timeline with its legend; empty where nothing happened yet."""
    chart = timeline(happened, quota)
    keys = {
        "sent": "sent in the last minute",
        "finished": "finished in the last minute",
        "quota": "quota" if quota else "",
        "failed": "failed" if happened.failed else "",
        "uncertain": "uncertain" if happened.uncertain else "",
    }
    legend = "".join(f'<li><i class="{kind}"></i>{words}</li>' for kind, words in keys.items() if words)
    return _WHEN.substitute(legend=legend, chart=chart) if chart else ""
