"""How far an awaited batch is, in a notebook: rich's progress in the output of the cell.

A display of IPython's that is drawn anew needs no widgets, so Jupyter, VS Code and Colab all show it.
"""

import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio

from novita_async._util.scopes import background
from novita_async.models.results import Outcome, Succeeded

_EVERY: Final = 0.25
"""Seconds from one drawing to the next."""
Draw = Callable[[], None]


@asynccontextmanager
async def shown_in_notebook(outcomes: Sequence[Outcome], total: int | None) -> AsyncGenerator[None]:
    """Show how many outcomes there are, as long as the block goes on. Elsewhere than in a notebook, nothing.

    Args:
        outcomes: The outcomes so far.
        total: How many there will be. None: not known.
    """
    draw = _drawing(outcomes, total)
    if draw is None:
        yield
        return
    try:
        async with background(_again_and_again(draw), lambda _: None):
            yield
    finally:
        draw()


async def _again_and_again(draw: Draw) -> None:
    while True:
        draw()
        await anyio.sleep(_EVERY)


def _drawing(outcomes: Sequence[Outcome], total: int | None) -> Draw | None:
    """Find what draws the progress in the output of this cell. None: there is no cell, or no rich."""
    ipython: Any = sys.modules.get("IPython")
    if getattr(ipython and ipython.get_ipython(), "kernel", None) is None:
        return None
    try:
        from rich.progress import (  # noqa: PLC0415 - an extra
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
    except ImportError:
        return None
    progress = Progress(
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[missed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        auto_refresh=False,
    )
    task = progress.add_task("", total=total, missed="")
    cell: list[Any] = []

    def draw() -> None:
        missed = sum(not isinstance(each, Succeeded) for each in outcomes)
        words = f"{missed} without a result" if missed else ""
        progress.update(task, completed=len(outcomes), missed=words)
        table = progress.make_tasks_table(progress.tasks)
        if cell:
            cell[0].update(table)
        else:
            cell.append(ipython.display.display(table, display_id=True))

    return draw
