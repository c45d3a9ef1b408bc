"""`routes`: the routes of the API, what each takes, and whether it lives."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Final

import attrs
from cyclopts import Parameter

from novita_async.cli._exits import Exit
from novita_async.cli._output import Output
from novita_async.errors import ConfigurationError
from novita_async.models.routes import ROUTES, Route, RoutePictures, meant

_HEADINGS: Final = ("MODEL", "KIND", "ANSWER", "HOSTS", "STATUS", "LOOKED AT")
_KINDS: Final = tuple(dict.fromkeys(row.kind for row in ROUTES))


def routes(
    model: Annotated[str | None, Parameter(name="MODEL")] = None,
    /,
    *,
    kind: str | None = None,
    host: str | None = None,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> Exit:
    """List the routes of the API: models, hosts, whether they live.

    With a MODEL, or the name of a route, all that its routes take is told.

    Args:
        model: A model, or the name of a route.
        kind: Only routes of this kind, such as `edit`.
        host: Only routes that this host serves, such as `ppio`.
        json: Print one JSON object a route, with everything that is known.
    """
    if kind is not None and kind not in _KINDS:
        raise ConfigurationError(
            problem=f"--kind: {kind!r} is none of {', '.join(_KINDS)}{meant(kind, _KINDS)}"
        )
    found = [
        row
        for row in ROUTES
        if model in (None, row.name, *row.models)
        and kind in (None, row.kind)
        and (host is None or host in row.hosts)
    ]
    if model is not None and not found:
        known = [name for row in ROUTES for name in (row.name, *row.models)]
        raise ConfigurationError(
            problem=f"no route here knows {model!r}{meant(model, known)}",
            advice="novita-async routes lists all",
        )
    output = Output(json)
    for row in found:
        output.record(**attrs.asdict(row))
    for line in _table(found) if model is None else _details(found):
        output.line(line)
    return Exit.SUCCEEDED


def _table(rows: Iterable[Route]) -> Iterator[str]:
    cells = [_HEADINGS, *(_cells(row, model) for row in rows for model in row.models or (row.name,))]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _cells(row: Route, model: str) -> Sequence[str]:
    answer = row.answer.replace("_", " ")
    return model, row.kind, answer, ", ".join(row.hosts), row.status, row.checked_on


def _details(rows: Iterable[Route]) -> Iterator[str]:
    for row in rows:
        answer = row.answer.replace("_", " ")
        yield f"{row.name}: {row.kind}, answers {answer}, {row.status} ({row.checked_on})"
        yield f"  POST {row.path} at {', '.join(row.hosts)}"
        yield f"  source: {row.source}"
        for pictures in row.pictures:
            yield f"  {pictures.name}: {_pictures(pictures)}"
        for each in row.fields:
            facts: list[Any] = [each.type, "required" if each.required else None, each.range or None]
            facts.append(None if each.default is None else f"default {each.default}")
            yield f"  {each.name}: {', '.join(str(fact) for fact in facts if fact is not None)}"


def _pictures(limits: RoutePictures) -> str:
    number = f"1 to {limits.most}" if limits.most > 1 else "one"
    facts = [f"{number} as {limits.form.replace('_', ' ')}", "required" if limits.required else ""]
    facts += ["or an address" if limits.takes_urls else "", " ".join(limits.formats)]
    facts.append(f"up to {limits.max_bytes:,} bytes")
    return ", ".join(filter(None, facts))
