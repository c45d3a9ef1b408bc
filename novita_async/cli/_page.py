"""The demo's page: one HTML file that needs no network, with pictures as relative links.

The page itself is `_page.html`, beside this module. Here its holes are filled, and everything that comes from
elsewhere is escaped on the way.
"""

from collections.abc import Iterable
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from attrs import frozen

from novita_async.cli._progress import Totals


@frozen(kw_only=True)
class Input:
    """A picture that was sent."""

    name: str
    """What it shows."""
    prompt: str
    """What was to be made of it."""
    model: str
    """What was to make it."""
    href: str
    """Where it is, as the page sees it."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""


@frozen(kw_only=True)
class Result:
    """What became of one request. Times are seconds."""

    name: str
    """Of the picture that was sent."""
    href: str | None
    """Where the result is, as the page sees it. None: there is none."""
    problem: str = ""
    """Why there is none."""
    strength: float
    """As asked for."""
    seed: int
    """As asked for."""
    steps: int
    """As asked for."""
    task_id: str
    """The service's id."""
    submitted: float
    """When the service took it, since the beginning."""
    queued: float
    """How long it waited there."""
    worked: float
    """How long it was worked on."""
    saved: float
    """When it was on disk, since the beginning."""

    @property
    def settings(self) -> str:
        """In a few words."""
        return f"strength {self.strength}, seed {self.seed}"


@frozen(kw_only=True)
class Page:
    """Everything that the page tells."""

    inputs: tuple[Input, ...]
    """From top to bottom."""
    results: tuple[Result, ...]
    """In the order in which they came."""
    totals: Totals
    """What happened."""


_ROW: Final = Template("""
<section class="row" aria-labelledby="row-$name">
  <figure class="input">
    <img src="$href" alt="Input: $name" width="$width" height="$height">
    <figcaption><h2 id="row-$name">$name</h2><q>$prompt</q></figcaption>
  </figure>
  <ul class="grid" style="--columns: $columns" aria-label="Results for $name">$cards
  </ul>
</section>""")

_CARD: Final = Template("""
    <li><figure>
      <a class="open" href="$href" data-input="$input" data-about="$about">
        <img src="$href" alt="Result: $name, $settings" width="$width" height="$height"
          loading="lazy" decoding="async">
      </a>
      <figcaption><span>strength <b>$strength</b></span> <span>seed <b>$seed</b></span></figcaption>
    </figure></li>""")

_LACK: Final = Template("""
    <li><figure>
      <p class="lack">$problem</p>
      <figcaption><span>strength <b>$strength</b></span> <span>seed <b>$seed</b></span></figcaption>
    </figure></li>""")

_BAR: Final = Template("""
    <li style="--from: $begin%; --q: $queue%; --w: $work%; --r: $rest%"><span class="label">$label</span>
      <span class="track" aria-hidden="true"><i></i><i></i><i></i></span>
      <span class="told">
        sent at $submitted s, queued $queued s, worked on $worked s, saved at $saved s
      </span></li>""")


def render(page: Page) -> str:
    """The page as HTML."""
    template = Template(files("novita_async.cli").joinpath("_page.html").read_text(encoding="utf-8"))
    return template.substitute(
        totals=_totals(page.totals),
        rows="".join(_row(each, page.results) for each in page.inputs),
        timeline=_timeline(page.results),
        seconds=f"{max((result.saved for result in page.results), default=0):.1f}",
    )


def _totals(totals: Totals) -> str:
    facts = {
        "submitted": totals.submitted,
        "succeeded": totals.succeeded,
        "failed": totals.failed + totals.uncertain + totals.unfinished,
        "images per minute": f"{totals.images_per_minute:.0f}",
        "polls per task": f"{totals.polls_per_task:.1f}",
        "seconds": f"{totals.seconds:.1f}",
    }
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())


def _escaped(**values: object) -> dict[str, str]:
    return {name: escape(str(value)) for name, value in values.items()}


def _row(picture: Input, results: Iterable[Result]) -> str:
    mine = sorted((r for r in results if r.name == picture.name), key=lambda r: (r.seed, r.strength))
    return _ROW.substitute(
        _escaped(
            name=picture.name,
            prompt=picture.prompt,
            href=picture.href,
            width=picture.width,
            height=picture.height,
            columns=len({result.strength for result in mine}) or 1,
        ),
        cards="".join(_card(picture, result) for result in mine),
    )


def _card(picture: Input, result: Result) -> str:
    about = " · ".join((picture.prompt, result.settings, f"{result.steps} steps", picture.model))
    values = _escaped(
        name=picture.name,
        href=result.href,
        input=picture.href,
        about=about,
        settings=result.settings,
        strength=result.strength,
        seed=result.seed,
        width=picture.width,
        height=picture.height,
        problem=result.problem,
    )
    return (_LACK if result.href is None else _CARD).substitute(values)


def _timeline(results: Iterable[Result]) -> str:
    ordered = sorted(results, key=lambda result: (result.submitted + result.queued, result.saved))
    whole = max((result.saved for result in ordered), default=0.0) or 1.0
    return "".join(_bar(result, 100 / whole) for result in ordered)


def _bar(result: Result, scale: float) -> str:
    """One task as a bar; the parts come from two clocks and are cut to fit between sending and saving."""
    span = max(0.0, result.saved - result.submitted)
    queued = min(result.queued, span)
    worked = min(result.worked, span - queued)
    shares = {"begin": result.submitted, "queue": queued, "work": worked, "rest": span - queued - worked}
    seconds = {"submitted": result.submitted, "queued": queued, "worked": worked, "saved": result.saved}
    return _BAR.substitute(
        {name: f"{value * scale:.2f}" for name, value in shares.items()},
        **{name: f"{value:.1f}" for name, value in seconds.items()},
        label=escape(f"{result.name}, {result.settings}"),
    )
